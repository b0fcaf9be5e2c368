"""Thousands of broken files and odd texts: each is read, or refused in one line, at once; never a traceback.

`-m fuzz` tries FAR of each kind (minutes), any other run FEW; PALIMPSEST_FUZZ=N sets the number. Case i of a
kind is drawn from the seed i, so a failure names the case that shows it again.
"""

from __future__ import annotations

import io
import json
import math
import os
import random
import re
import signal
import struct
import warnings
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image, ImageCms
from safetensors.torch import save_file

from palimpsest.methods.glide_session import parse
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.weights.files import WeightsError, read_weights
from palimpsest.weights.load import load
from palimpsest.weights.words import word_tokenizer
from palimpsest.worlds.files import PictureError, open_picture, read_mask
from palimpsest.worlds.instructions import meaning
from palimpsest.worlds.patterns import absent, remark
from palimpsest.worlds.scene import RARE_WORDS, WORDS
from palimpsest.worlds.shapes import caption, sample_scene
from palimpsest.worlds.wordings import typed, worded
from palimpsest.worlds.words import advice, nearest, understood, wanted
from tests.tiny import tiny_weights

pytestmark = pytest.mark.fuzz
FEW, FAR = 60, 4000
PATIENCE = 20  # seconds for one case, on a busy machine


@pytest.fixture
def cases(request):
    """The seeds to try."""
    asked = "fuzz" in (request.config.getoption("markexpr") or "").split()
    return range(int(os.environ.get("PALIMPSEST_FUZZ", FAR if asked else FEW)))


@contextmanager
def one_line(case, *kinds):
    """No error but of these kinds, in one line, and within PATIENCE seconds."""

    def late(*_):
        raise TimeoutError(f"case {case} hangs")

    if hasattr(signal, "SIGALRM"):
        before = signal.signal(signal.SIGALRM, late)
        signal.alarm(PATIENCE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except TimeoutError:
        raise
    except kinds as error:
        assert str(error).strip() and "\n" not in str(error) and len(str(error)) < 2000, (case, str(error))
    except Exception as error:
        raise AssertionError(f"case {case}: {type(error).__name__}: {error}") from error
    finally:
        if hasattr(signal, "SIGALRM"):
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)


def scratched(content, rng, spans=None):
    """Some bytes of it changed, within these spans."""
    made = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
        low, high = rng.choice(spans) if spans else (0, len(made))
        made[rng.randrange(low, high)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    return bytes(made)


# ---- pictures ----

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
AVIF = pytest.mark.skipif(
    "AVIF" not in Image.registered_extensions().values(), reason="Pillow writes AVIF from 11.3 on"
)
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", pytest.param("AVIF", marks=AVIF), "GIF", "BMP")


def encoded(format):
    """PIXELS as such a file, with EXIF, texts and a profile where it can hold them."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 1, "maker" * 9, 72.0
    how = dict(exif=exif, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    if format in ("GIF", "BMP", "TIFF"):
        how = {}
    if format == "JPEG":
        how |= dict(comment=b"a comment", dpi=(72, 72))
    if format in ("WEBP", "AVIF"):
        how |= dict(quality=90)
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, format, **how)
    return stream.getvalue()


def beside(content, format):
    """Where in a file what is no pixel stands: spans of the contents of EXIF, texts and profiles."""
    spans, at = [], {"JPEG": 2, "WEBP": 12, "PNG": 8}[format]
    while at + 8 < len(content):
        if format == "JPEG":
            kind, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
            if kind == 0xDA:
                break
            start, end = at + 4, at + 2 + length
            wanted_here = 0xE0 < kind <= 0xEF and kind != 0xEE or kind == 0xFE
        elif format == "WEBP":
            length = int.from_bytes(content[at + 4 : at + 8], "little")
            start, end = at + 8, at + 8 + length + length % 2
            wanted_here = content[at : at + 4] in (b"EXIF", b"ICCP", b"XMP ")
        else:
            start, end = at + 8, at + 12 + int.from_bytes(content[at : at + 4], "big")
            wanted_here = content[at + 4 : at + 8] in (b"eXIf", b"iCCP", b"tEXt", b"zTXt", b"iTXt")
        if wanted_here and end > start:
            spans.append((start, end))
        at = end
    return spans


def is_a_turn(pixels, of):
    """Whether it is that picture, as it is or set upright."""
    turns = [np.rot90(side, k) for side in (of, of[:, ::-1]) for k in range(4)]
    return any(pixels.shape == turn.shape and np.array_equal(pixels, turn) for turn in turns)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_scratches_beside_the_pixels_change_no_pixel(tmp_path, format, cases):
    whole, file = encoded(format), tmp_path / "a"
    file.write_bytes(whole)
    spans, pixels = beside(whole, format), open_picture(file).rgb
    assert spans
    for case in cases:
        file.write_bytes(scratched(whole, random.Random(case), spans))
        with one_line(case):
            picture = open_picture(file)
            assert picture.profile or is_a_turn(picture.rgb, pixels), case


@pytest.mark.parametrize("format", FORMATS)
def test_a_scratched_or_cut_picture_is_read_or_refused(tmp_path, format, cases, capfd):
    whole, file = encoded(format), tmp_path / "a"
    for case in cases:
        rng = random.Random(case)
        content = scratched(whole, rng)
        file.write_bytes(content if rng.random() < 0.8 else content[: rng.randrange(len(content))])
        with one_line(case, PictureError):
            picture = open_picture(file)
            assert picture.rgb.dtype == np.uint8 and picture.rgb.ndim == 3 and picture.rgb.shape[2] == 3
        with one_line(case, PictureError):
            read_mask(file)
    assert capfd.readouterr().err == "", "libraries speak on stderr"


def test_a_png_of_shuffled_and_invented_chunks_is_read_or_refused(tmp_path, cases):
    whole, file = encoded("PNG"), tmp_path / "a.png"
    chunks, at = [], 8
    while at < len(whole):
        end = at + 12 + int.from_bytes(whole[at : at + 4], "big")
        chunks.append((whole[at + 4 : at + 8], whole[at + 8 : end - 4]))
        at = end
    read = 0
    names = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"eXIf", b"zTXt", b"iTXt", b"tEXt", b"acTL",
             b"fcTL", b"fdAT", b"gAMA", b"cHRM", b"sBIT", b"bKGD", b"pHYs", b"tIME", b"CgBI", b"abcd")  # fmt: skip
    for case in cases:
        rng, made = random.Random(case), list(chunks)
        for _ in range(rng.randrange(1, 5)):
            k, what = rng.randrange(len(made)), rng.randrange(6)
            name, data = made[k]
            if what == 0:
                made.insert(k, made[k])
            elif what == 1 and len(made) > 1:
                del made[k]
            elif what == 2:
                rng.shuffle(made)
            elif what == 3:
                made[k] = (rng.choice(names), data)
            elif what == 4:
                junk = rng.choice((b"", bytes(9), rng.randbytes(rng.randrange(60))))
                made.insert(k, (rng.choice(names), rng.choice((junk, b"a\0\0" + zlib.compress(junk * 99)))))
            elif data:
                made[k] = (name, scratched(data, rng))
        content = b"\x89PNG\r\n\x1a\n"
        for name, data in made:
            crc = zlib.crc32(name + data) if rng.random() < 0.95 else rng.randrange(2**32)
            length = len(data) if rng.random() < 0.97 else rng.choice((0, 1, 2**31 - 1, 2**32 - 1))
            content += struct.pack(">I", length) + name + data + struct.pack(">I", crc)
        file.write_bytes(content)
        with one_line(case, PictureError):
            open_picture(file)
            read += 1
    assert 0 < read < len(cases)


# ---- weight files ----

ODD = (
    None,
    True,
    0,
    -1,
    3,
    2**31,
    2**70,
    0.5,
    1e308,
    -0.0,
    math.nan,
    math.inf,
    "",
    "a",
    "é" * 9,
    [],
    [1],
    {},
    {"a": 1},
)


def mutated(value, rng, deep=0):
    """The same JSON with something else in one place."""
    if deep < 6 and rng.random() < 0.85 and isinstance(value, (dict, list)) and value:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = rng.choice(list(keys))
        copy = dict(value) if isinstance(value, dict) else list(value)
        what = rng.random()
        if what < 0.1 and isinstance(copy, dict):
            del copy[key]
        elif what < 0.2 and isinstance(copy, dict):
            copy[rng.choice(("", "zz", "é", key + "x"))] = copy.pop(key)
        else:
            copy[key] = mutated(copy[key], rng, deep + 1)
        return copy
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.5:
        return value + rng.choice((-value, 1, -1, 7, 2**20))
    return rng.choice(ODD)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shelf")
    tiny_weights(folder)
    return folder


def test_a_safetensors_file_with_another_header_is_loaded_or_refused(shelf, cases):
    content = (shelf / "tiny.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, rest = json.loads(content[8 : 8 + length]), content[8 + length :]
    file, loaded = shelf / "odd.safetensors", 0
    for case in cases:
        rng = random.Random(case)
        how = rng.random()
        made = dict(header)
        if how < 0.4:  # our configuration in it
            config = mutated(json.loads(made["__metadata__"]["palimpsest"]), rng)
            made["__metadata__"] = dict(made["__metadata__"], palimpsest=json.dumps(config))
        elif how < 0.6:
            made = mutated(made, rng)
        text = json.dumps(made).encode()
        if how > 0.8:
            text = scratched(text, rng)
        size = len(text) if how < 0.95 else rng.choice((0, 1, 2**40, 2**63, len(text) - 3))
        tail = rest if rng.random() < 0.9 else rest[: rng.randrange(len(rest))]
        file.write_bytes(struct.pack("<Q", size) + text + tail)
        with one_line(case, ValueError, OSError, MemoryError):
            load(file, "cpu")
            loaded += 1
    assert loaded < len(cases)


# ---- texts ----

SIGNS = "aeé ß.,;:!?()[]{}<>\"'“”‘’«»…–-_/\\|@#%&*+=~^`\n\t\r\0\ufeff\u200b\u202e\xad\ud800 1２½٣🐱👩‍🚒中文ا"
SEEN = {f"{kind}_{k}": value for k in (1, 2) for kind, value in (("shape", "ring"), ("colour", "red"))}


def text_of(rng):
    """A caption or instruction as it is typed, with letters, words and signs changed, repeated and left out."""
    scene = sample_scene(rng)
    text = rng.choice(
        (caption(scene), typed(worded(scene, rng), rng), "make the star's colour (blue:1.3)", "")
    )
    text = list(text) if rng.random() < 0.7 else re.split(r"(\s)", text)
    for _ in range(rng.choice((0, 1, 3, 9, 40))):
        k = rng.randrange(len(text) + 1)
        what = rng.randrange(4)
        if what == 0:
            text.insert(k, rng.choice(SIGNS))
        elif what == 1:
            text.insert(
                k, rng.choice((*WORDS, "two", "stars", "blorpx", "of", "colour", "the one on the left")) + " "
            )
        elif what == 2 and text:
            del text[min(k, len(text) - 1)]
        else:
            text[k:k] = text[: rng.randrange(9)]
    return "".join(text) * rng.choice((1, 1, 1, 2, 30))


def test_any_text_is_read_or_refused(cases):
    emoji = (*WORDS, "twemoji", "noto", "heart", ":", "'")
    tokenizers = [word_tokenizer(WORDS, 24), WordTokenizer(["a", "red"], 8)]
    for case in cases:
        rng = random.Random(case)
        text = text_of(rng)
        with one_line(case):
            said = understood(text)
            assert understood(said) == said or len(said) > 200, (case, said)
            remark(text, instructs=rng.random() < 0.5)
            remark(text, emoji) if case % 20 == 0 else None
            absent(text, SEEN)
            word = (text.split() or [""])[0]
            assert not set(nearest(word)) & set(RARE_WORDS) and advice(word)
        for read in (wanted, meaning, *(lambda t, one=one: one([t]) for one in tokenizers)):
            with one_line(case, ValueError):
                read(text)
        with one_line(case, ValueError):
            parse(f"{text} | box .1 .2 .8 .9\n{text}", shelf_less())


def shelf_less():
    from pathlib import Path

    return Path(".")


def test_a_long_text_does_not_hang(cases):
    for case, word in enumerate(
        ("the ", "a ", "remove the ", "make it ", "and ", "(", "(a:", "star and ", "its colour of the ")
    ):
        with one_line(case):
            understood(word * 3000)
            remark(word * 300)
            remark(word * 300, instructs=True)
            assert absent(word * 300, SEEN) == ""


@pytest.mark.parametrize(
    "part, name, value",
    [
        ("net", "blocks", 2**20),
        ("net", "width", 2**20),
        ("net", "mult", [1, 2**20]),
        ("text", "layers", 10**6),
        ("schedule", "T", 2**31),
    ],
)
def test_a_description_of_a_net_larger_than_its_file_is_refused_before_it_is_built(shelf, part, name, value):
    config, tensors = read_weights(shelf / "tiny.safetensors")
    config[part] = config[part] | {name: value}
    save_file(tensors, shelf / "large.safetensors", metadata={"palimpsest": json.dumps(config)})
    with pytest.raises(WeightsError, match=f"describes a {part} with {name} .*more than can be meant"):
        load(shelf / "large.safetensors", "cpu")
