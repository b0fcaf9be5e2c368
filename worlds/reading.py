"""The pixels of a picture file: upright, in sRGB, in 8 bits, with their transparency.

    path, pixels = read_pixels("photo.jpg")    # pixels.rgb uint8 (y, x, 3); .alpha uint8 (y, x) or None

Only pixels can make a file damaged. What lies beside them (EXIF, texts, a colour profile) is read where it
can be and left aside where it cannot: a camera's orientation turns the picture, a profile takes its colours
to sRGB, and everything else is not looked at.

Pillow, which torchvision brings along, decodes. What it leaves to the caller is done here: chunks of a PNG
that it refuses, the transparent colour of a PNG of 2, 4 or 16 bits, deep grey, profiles."""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import re
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms, features

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")  # Pillow's other decoders stay closed
MAX_PIXELS = 100_000_000
MAX_BYTES = 2**30  # of a file
MAX_PROFILE = 2**24  # bytes of a colour profile
MAX_TEXT = 2**20  # of one text beside the pixels

logging.getLogger("PIL").addHandler(logging.NullHandler())  # of odd tags it would speak on stderr


class PictureError(ValueError):
    """A file that cannot be read as a picture: one line that names the file and the mend."""


class Pixels(NamedTuple):
    """A decoded picture, upright."""

    rgb: np.ndarray  # uint8 (y, x, 3), in sRGB, not composited
    alpha: np.ndarray | None  # uint8 (y, x); None where all is opaque
    grey: np.ndarray  # float32 (y, x) in [0, 1]: the mean of the channels, deep ones before rounding
    profile: str  # name of the colour profile from which rgb was converted, "" for none


def read_pixels(given: str | Path | Image.Image) -> tuple[Path, Pixels]:
    """(path, pixels) of a file, or of a PIL image, whose path is its file's or "the picture". Raises
    PictureError."""
    if isinstance(given, Image.Image):
        path = Path(getattr(given, "filename", "") or "the picture")
        return path, _decoded(path, given, None)
    path = Path(given)
    content, profile = _plain(_content(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large or odd, but readable
        return path, _decoded(path, _opened(path, content), profile)


def _decoded(path: Path, picture: Image.Image, profile: bytes | None) -> Pixels:
    """Every way a decoder can fail ends in a PictureError."""
    try:
        bits = _bits(picture)
        if picture.width * picture.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        picture.load()
        profile = profile or picture.info.get("icc_profile")
        key, tags = _key(picture, bits), dict(getattr(picture, "tag_v2", {}))
        picture = _upright(picture)
        plain, alpha = _without_alpha(picture, key)
        grey = _grey(plain, tags)
        flat = plain if grey is None else Image.fromarray((255 * grey).round().astype(np.uint8))
        rgb, name = in_srgb(flat, profile)
        rgb = np.array(rgb)
        grey = rgb.mean(2, dtype=np.float32) / 255 if grey is None else grey
        return Pixels(rgb, None if alpha is None or (alpha == 255).all() else alpha, grey, name)
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except MemoryError:
        raise PictureError(f"{path} needs more memory than there is: scale it down first") from None
    except Exception as error:  # decoders raise anything on damaged files
        raise _damaged(path, error) from None


# ---- the file ----


def _content(path: Path) -> bytes:
    """The bytes of a file; every way in which there can be none ends in a PictureError."""
    if len(os.fsencode(path.name)) > 255:
        raise PictureError(f"{path.name[:40]}… does not exist: no file can have so long a name")
    if path.is_dir():
        raise PictureError(f"{path} is a folder: name a picture file")
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise PictureError(f"{path} does not exist: check the name") from None
    except PermissionError:
        raise PictureError(f"{path} may not be read: check its permissions") from None
    except OSError as error:
        raise PictureError(f"{path} cannot be read ({error.strerror or error}): copy it first") from None
    if len(content) > MAX_BYTES:
        raise PictureError(f"{path} has more than {MAX_BYTES // 2**20} MB: save it smaller, as a PNG or JPEG")
    return content


def _opened(path: Path, content: bytes) -> Image.Image:
    """The picture, its header read."""
    if path.suffix.lower() in RAW and content[:2] in (b"II", b"MM"):
        raise _named(path, "a camera's raw file")
    try:
        return Image.open(io.BytesIO(content), formats=_formats(content))
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except Image.UnidentifiedImageError:
        if content[4:8] == b"ftyp" and content[8:12] in (b"avif", b"avis") and not features.check("avif"):
            raise _named(path, "an AVIF picture") from None
        for begin, what in OTHERS:
            if begin.match(content):
                raise _named(path, what) from None
        if KNOWN.match(content):
            raise _damaged(path, "its header cannot be read") from None
        what = "not a picture that can be read here" if content else "empty"
        raise PictureError(f"{path} is {what}: give a {', '.join(FORMATS[:6])} file") from None
    except Exception as error:
        raise _damaged(path, error) from None


def _formats(content: bytes) -> list[str]:
    """Those of FORMATS that the installed Pillow can read. HEIC is read by the package pillow-heif, where
    it is installed.
    """
    if content[4:8] == b"ftyp" and "HEIF" not in Image.OPEN and importlib.util.find_spec("pillow_heif"):
        importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


# Camera files begin like a TIFF, whose first picture is a thumbnail.
RAW = (".nef", ".nrw", ".cr2", ".arw", ".srf", ".sr2", ".dng", ".orf", ".rw2", ".pef", ".srw", ".3fr", ".iiq")
KNOWN = re.compile(
    rb"\x89PNG|\xff\xd8\xff|RIFF.{4}WEBP|GIF8|.{4}ftypavi[fs]", re.DOTALL
)  # how files of FORMATS begin
OTHERS = tuple(  # how a file begins, and what it is
    (re.compile(begin, re.DOTALL | re.IGNORECASE), what)
    for begin, what in (
        (rb".{4}ftyp(heic|heix|hevc|hevx|heim|heis|mif1|msf1)", "a HEIC picture"),
        (rb".{4}ftypcrx", "a camera's raw file"),
        (rb".{4}(ftyp|moov)|\x1a\x45\xdf\xa3|RIFF.{4}AVI", "a film"),
        (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
        (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 picture"),
        (rb"8BPS", "a Photoshop file"),
        (rb"gimp xcf", "a GIMP file"),
        (rb"%PDF", "a PDF document"),
        (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript file"),
        (rb"(\xef\xbb\xbf)?\s*<(\?xml|svg|!doctype svg)", "an SVG drawing"),
        (rb"II(\*\0|\+\0)|MM(\0\*|\0\+)", "a damaged TIFF, or one of a rare kind"),
        (rb"\x00[\0\1][\x02\x03\x0a\x0b]\0{5}", "a Targa picture"),
        (rb"\x00\x00[\x01\x02]\x00", "an icon"),
        (rb"P[1-7fF]\s", "a netpbm picture"),
        (rb"\x76\x2f\x31\x01|#\?RADIANCE", "a picture of high dynamic range"),
        (rb"\x93NUMPY", "a numpy array"),
        (rb"PK\x03\x04", "a zip archive"),
    )
)
MENDS = {
    "a HEIC picture": "`pip install pillow-heif` lets it be read; or save it as a JPEG or PNG",
    "an AVIF picture": "`pip install -U pillow` (11.3 or later) lets it be read; or save it as a PNG",
    "a film": "save one frame of it as a PNG or JPEG",
    "a camera's raw file": "develop it, or take the camera's JPEG",
    "a damaged TIFF, or one of a rare kind": "save it with 8 or 16 bits a sample, or as a PNG",
    "a zip archive": "unpack it, and name a picture in it",
}


def _named(path: Path, what: str) -> PictureError:
    return PictureError(
        f"{path} is {what}, which is not read here: {MENDS.get(what, 'save it as a PNG, JPEG or TIFF')}"
    )


def _damaged(path: Path, why: object) -> PictureError:
    why = " ".join(str(why).split()) or type(why).__name__
    return PictureError(f"{path} is damaged ({why[:200]}): save it again from its source")


def _too_large(path: Path) -> PictureError:
    return PictureError(f"{path} has too many pixels: scale it below {MAX_PIXELS // 10**6} megapixels")


# ---- what lies beside the pixels ----

PNG = b"\x89PNG\r\n\x1a\n"
TURN = {  # EXIF's orientation -> what sets the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _plain(content: bytes) -> tuple[bytes, bytes | None]:
    """The same picture without what could keep Pillow from its pixels; and a PNG's colour profile.

    The orientation of an AVIF stands in its own boxes, and its EXIF, which need not agree, is hidden."""
    if content[:8] == PNG:
        return _pixels_of_png(content)
    if content[4:8] == b"ftyp":
        return re.sub(
            rb"(infe(?:\x02.{3}.{2}|\x03.{3}.{4}).{2})Exif", rb"\1free", content, flags=re.DOTALL
        ), None
    return content, None


def _pixels_of_png(content: bytes) -> tuple[bytes, bytes | None]:
    """A PNG with the chunks that hold pixels, and of the others those that are whole and tell its
    orientation; and its profile."""
    kept, profile, at = [content[:8]], None, 8
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        if end > len(content):
            break
        kind, data = content[at + 4 : at + 8], content[at + 8 : end - 4]
        if kind == b"tRNS" or not kind[0] & 32:  # a capital: without this chunk there is no picture
            kept.append(content[at:end])
        elif zlib.crc32(kind + data) == int.from_bytes(content[end - 4 : end], "big"):
            if kind == b"iCCP":
                profile = _inflated(data.partition(b"\0")[2][1:], MAX_PROFILE)
            elif kind == b"eXIf" or _tells_orientation(kind, data):
                kept.append(content[at:end])
        at = end
        if kind == b"IEND":
            return b"".join(kept), profile
    return b"".join([*kept, content[at:]]), profile


def _tells_orientation(kind: bytes, data: bytes) -> bool:
    """Whether a text beside the pixels holds EXIF or XMP, and is not one that Pillow refuses as too long."""
    word, _, value = data.partition(b"\0")
    if kind == b"iTXt":  # a byte says whether it is compressed; XMP hardly ever is
        return word == b"XML:com.adobe.xmp" and value[:1] == b"\0" and len(value) < MAX_TEXT
    return kind == b"zTXt" and word == b"Raw profile type exif" and bool(_inflated(value[1:], MAX_TEXT))


def _inflated(data: bytes, limit: int) -> bytes | None:
    """Compressed bytes, unpacked; None where they are none, b"" where there are more than the limit."""
    unpacker = zlib.decompressobj()
    try:
        found = unpacker.decompress(data, limit)
    except zlib.error:
        return None
    return b"" if unpacker.unconsumed_tail else found


def _upright(picture: Image.Image) -> Image.Image:
    """As the camera was held, where the file tells."""
    try:
        turn = TURN.get(picture.getexif().get(0x0112, 1))
    except Exception:  # anything may be wrong with EXIF, and nothing with the pixels
        turn = None
    return picture if turn is None else picture.transpose(turn)


# ---- depth and transparency ----


def _bits(picture: Image.Image) -> int:
    """Bits of a sample, as far as Pillow's decoder tells before it has read: 2, 4 or 16; else 8."""
    try:
        layout = str(picture.tile[0][3])
    except (AttributeError, IndexError, TypeError):
        return 8
    return next((bits for sign, bits in ((";2", 2), (";4", 4), (";16", 16)) if sign in layout), 8)


def _key(picture: Image.Image, bits: int) -> object:
    """The transparent colour of a picture without an alpha channel, on the scale of its pixels; or None.

    Pillow leaves a PNG's key as it is in the file, and brings samples of 1, 2, 4 and (colours) 16 bits to 8;
    from 12.1 on a key of 1 bit, too."""
    key = picture.info.get("transparency")
    if picture.mode == "1" and isinstance(key, int):
        return 255 if key else 0
    if picture.mode == "L" and isinstance(key, int) and bits in (2, 4):
        return key * 255 // (2**bits - 1)
    if picture.mode == "RGB" and isinstance(key, tuple) and bits == 16:
        return tuple(value >> 8 for value in key)
    return key


def _without_alpha(picture: Image.Image, key: object) -> tuple[Image.Image, np.ndarray | None]:
    """The colours without their transparency, and that: uint8 (y, x), or None where the file has none."""
    if picture.mode in ("La", "RGBa"):
        picture = picture.convert({"La": "LA", "RGBa": "RGBA"}[picture.mode])
    if picture.mode in ("LA", "RGBA"):
        return picture.convert(picture.mode[:-1]), np.array(picture.getchannel("A"))
    if picture.mode == "PA" or picture.mode == "P" and key is not None:
        whole = picture.convert("RGBA")
        return whole.convert("RGB"), np.array(whole.getchannel("A"))
    if key is None or picture.mode not in ("1", "L", "I;16", "I", "RGB"):
        return picture, None
    seen = np.asarray(picture.convert("L") if picture.mode == "1" else picture)
    if np.ndim(key) != seen.ndim - 2 or seen.ndim == 3 and np.size(key) != seen.shape[2]:
        return picture, None  # no colour of this picture's
    same = seen == np.asarray(key)
    return picture, np.where(same.all(2) if same.ndim == 3 else same, 0, 255).astype(np.uint8)


def _grey(picture: Image.Image, tags: Mapping[int, Any]) -> np.ndarray | None:
    """Deep grey as float32 (y, x) in [0, 1]; None for 8 bits. tags: of a TIFF, else empty.

    Whole numbers count from 0 to the largest of their 16 bits, of 15 with a sign, or of 32 where there are
    such numbers. Floats do from 0 to 1 where none is larger, else to 255 or to 65535; what is not finite
    among them is left aside."""
    if picture.mode[0] not in "IF":
        return None
    values = np.asarray(picture)
    if picture.mode[0] == "I":
        deep, signed = 32 in tags.get(BITS, ()), 2 in tags.get(SAMPLE_FORMAT, ())
        values = values.view(np.uint32) if deep and not signed else values
        bits = 32 if deep and values.max() > 65535 else 16 + (deep and signed)
        grey = (values / np.float32(2 ** (bits - signed) - 1)).astype(np.float32).clip(0, 1)
        return 1 - grey if tags.get(PHOTOMETRIC) == 0 else grey  # 0: white is 0, which Pillow leaves
    values = values.astype(np.float32)
    high = float(values.max(where=np.isfinite(values), initial=0))
    full = 65535.0 if high > 255 else 255.0 if high > 1 else 1.0
    return np.nan_to_num(values / np.float32(full)).clip(0, 1)


BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of a TIFF


# ---- colour profiles ----

_OF_SPACE = {"RGB ": ("RGB",), "GRAY": ("L", "1"), "CMYK": ("CMYK",), "Lab ": ("LAB",)}
_NEAR = 2  # levels: a profile that moves no colour further is sRGB by another name


def in_srgb(picture: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    """(an RGB picture in sRGB, the name of the profile that it was converted from): perceptual intent.

    The name is "", and the pixels are untouched, where the profile is sRGB itself (it moves no colour of a
    grid by more than two of 256 levels), cannot be read, or is of another kind of picture."""
    colours = picture.convert("RGB") if picture.mode not in ("L", "1", "CMYK", "LAB") else picture
    if colours.mode == "1":
        colours = colours.convert("L")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else None
        if source is None and colours.mode == "LAB":
            source = ImageCms.createProfile("LAB")
        if source is not None:
            core = getattr(source, "profile", source)
            if core.xcolor_space == "RGB " and colours.mode == "L":
                colours = colours.convert("RGB")
            if colours.mode in _OF_SPACE.get(core.xcolor_space, ()):
                change = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), colours.mode, "RGB")
                if _moves(change, colours.mode):
                    name = " ".join((core.profile_description or "another colour space").split())[:60]
                    return ImageCms.applyTransform(colours, change), name if profile else ""
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        pass
    return colours.convert("RGB"), ""


def _moves(change: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform from this mode changes what is seen."""
    if mode not in ("RGB", "L"):
        return True
    steps = np.linspace(0, 255, 17).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(17, -1, 3)
    sample = Image.fromarray(grid if mode == "RGB" else np.arange(256, dtype=np.uint8)[None])
    moved = np.asarray(ImageCms.applyTransform(sample, change)).astype(int)
    return bool(np.abs(moved - np.asarray(sample.convert("RGB")).astype(int)).max() > _NEAR)


def srgb_profile() -> bytes:
    """The colour profile of sRGB, always the same bytes, for files that shall say so."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes.fromhex("07d0 0001 0001 0000 0000 0000")  # its date: lcms puts today's
    return bytes(profile)
