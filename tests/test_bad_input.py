"""Everything a user can get wrong, in one table: one line that names the argument and the mend, exit code
2, no file.

And what only looks wrong (alpha, palettes, 16 bits, cameras held sideways, one pixel, 64 million) works.
"""

import io
import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import palimpsest.weights.files
from palimpsest.cli.main import main
from palimpsest.cli.manners import exit_code_of
from palimpsest.fit.loop import fit
from palimpsest.fit.settings import Files, Settings
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.weights.files import WeightsError, read_weights, write_json, write_weights
from palimpsest.weights.load import load
from tests.tiny import VAE, tiny_weights


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Weight files, good and bad, by name."""
    shelf = tmp_path_factory.mktemp("shelf")
    good = tiny_weights(shelf).read_bytes()
    config, tensors = read_weights(shelf / "tiny.safetensors")
    (shelf / "empty.safetensors").write_bytes(b"")
    (shelf / "truncated.safetensors").write_bytes(good[: len(good) // 2])
    (shelf / "garbage.safetensors").write_bytes(os.urandom(1000))
    save_file({"x": torch.zeros(1)}, shelf / "foreign.safetensors")
    save_file({"x": torch.zeros(1)}, shelf / "scribbled.safetensors", metadata={"palimpsest": "{"})
    bad = {
        "unfit": config | {"net": config["net"] | {"width": 16}},
        "unread": config | {"net": {"colour": 3}},
        "headless": {"kind": "text2image"},
        "orphan": config | {"vae": "no-such-vae"},
        "odd": config | {"schedule": {"name": "upside-down"}},
    }
    for name, its_config in bad.items():
        save_file(tensors, shelf / f"{name}.safetensors", metadata={"palimpsest": json.dumps(its_config)})
    return shelf


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A folder with pictures and masks, good and bad."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save("in.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes((tmp_path / "in.png").read_bytes()[:2000])
    (tmp_path / "text.png").write_text("this is no picture", encoding="utf-8")
    (tmp_path / "folder.png").mkdir()
    half = np.uint8(255 * (np.arange(40) < 20))[None].repeat(40, 0)
    Image.fromarray(half).save("mask.png")
    Image.fromarray(half[:, :30]).save("narrow.png")
    Image.fromarray(half * 0).save("black.png")
    Image.fromarray(half * 0 + 255).save("white.png")
    thin = half * 0 + 255
    thin[:, 0] = 0
    Image.fromarray(thin).save("thin.png")
    return tmp_path


def files(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def one_line(capsys, begin="palimpsest: error: "):
    """What was said on stderr, which must be one line."""
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.startswith(begin), said.err
    assert "Traceback" not in said.err + said.out
    return said.err.removeprefix(begin)


def tiny(shelf):
    return ["--model", str(shelf / "tiny.safetensors")]


EDIT = "sdedit in.png --steps 1 -o out.png --model TINY"
MAKE = "generate --prompt star --steps 1 -o out.png --model TINY"
LONG = "a_star_" * 13  # 26 words; 22 fit

MISTAKES = [  # the command; what the line must hold: the argument first, then the mend
    # the picture
    ("sdedit none.png -o out.png", "IN: none.png", "check the name"),
    ("sdedit empty.png -o out.png", "IN: empty.png", "empty", "give a PNG"),
    ("sdedit cut.png -o out.png", "IN: cut.png", "damaged", "save it again"),
    ("sdedit text.png -o out.png", "IN: text.png", "not a picture", "give a PNG"),
    ("sdedit folder.png -o out", "IN: the folder folder.png holds no picture", ".png"),
    ("sdedit in.png in.png -o out.png", "out: several inputs need a folder", "out.png names a file"),
    ("sdedit in.png mask.png -o no/where", "out: there is no folder", "make it first"),
    ("sdedit in.png mask.png -o .", "out: in.png is the file of IN too", "name another"),
    (f"sdedit {'a' * 300}.png -o out.png", "IN: aaaa", "so long a name"),
    (f"sdedit in.png -o {'a' * 220}.png", "out: cannot write aaaa", "at most 200 bytes"),
    # the mask and the original
    (f"{EDIT} --mask none.png", "mask: none.png", "check the name"),
    (f"{EDIT} --mask narrow.png", "mask", "30×40", "40×40", "draw the mask on the picture"),
    (f"{EDIT} --mask black.png", "mask", "marks nothing", "paint white"),
    (f"{EDIT} --mask white.png", "mask", "marks everything", "paint black"),
    (f"{EDIT} --mask thin.png", "mask", "narrower than a pixel of the model", "32×32"),
    (f"{EDIT} --mask mask.png --original narrow.png", "original", "40×40"),
    (f"{EDIT} --mask mask.png --original none.png", "original: none.png", "check the name"),
    (f"{EDIT} --original in.png", "mask:", "--original"),
    (f"{EDIT} --no-paste", "mask:", "--no-paste"),
    (f"{EDIT} --save-mask seen.png", "mask:", "--save-mask"),
    # numbers
    *[(f"{EDIT} --t0 {t0}", "t0: must lie in (0, 1]", "0.3 to 0.6") for t0 in ("0", "1.01", "-0.5", "1e9")],
    *[(f"{EDIT} --t0 {t0}", "t0: must be a finite number", t0) for t0 in ("nan", "inf", "half")],
    (f"{EDIT} --t0", "t0: expected one argument"),
    (f"{EDIT} --steps 0", "steps: must be at least 1"),
    (f"{EDIT} --steps 0 --walk ve", "steps: must be at least 1"),
    (f"{EDIT} --steps -3", "steps: must be at least 1"),
    (f"{EDIT} --steps 2.5", "steps: must be a whole number", "2.5"),
    (f"{EDIT} --steps 5000", "steps: 5000", "take fewer"),
    (f"{EDIT} --steps 5000 --target-distance .1", "steps: 5000", "take fewer"),
    (f"{EDIT} --steps 500 --t0 .3", "steps: 500", "below t0=0.3", "take fewer steps or a larger t0"),
    (f"{EDIT} --save-steps", "save-steps: expected one argument"),
    (f"{EDIT} --save-steps=", "save-steps: is empty"),
    (f"{EDIT} --repeats 0", "repeats: must be at least 1"),
    (f"{EDIT} --walk sideways", "walk: invalid choice", "vp"),
    (f"{EDIT} --eta 2", "eta: must lie in [0, 1]"),
    (f"{EDIT} --eta 0 --walk ve", "eta: is of the vp walk", "leave it out"),
    (f"{EDIT} --solver heun --walk ve", "solver: is of the vp walk", "leave it out"),
    (f"{EDIT} --solver heun --eta .5", "not allowed with argument"),
    (f"{EDIT} --solver euler", "solver: invalid choice"),
    (f"{EDIT} --w nan", "w: must be a finite number"),
    (f"{EDIT} --seed now", "seed: must be a whole number"),
    (f"{EDIT} --steps {2**64}", "steps: must be a number of at most 63 bits"),
    (f"{EDIT} --target-distance 2", "target-distance:", "must lie in (0, 1)"),
    (f"{EDIT} --target-distance .1 --t0 .5", "t0: not allowed with argument --target-distance"),
    (f"{MAKE} -n 0", "n: must lie between 1 and 1000"),
    (f"{MAKE} --steps 2000", "steps: 2000", "take fewer"),
    (f"{MAKE} --steps 0", "steps: must be at least 1"),
    (f"{MAKE} --eta -1", "eta: must lie in [0, 1]"),
    # words
    (f"{EDIT} --prompt a_rde_star", 'unknown word "rde" in the prompt', "nearest known words are: red"),
    (f"{EDIT} --prompt a_red_star_qqqqqqq", 'unknown word "qqqqqqq" in the prompt'),
    (f"{EDIT} --prompt {LONG}", "the prompt has 26 tokens", "at most 22", "shorten it"),
    ("generate --prompt a_haert -o out.png --model TINY", 'unknown word "haert" in the prompt', "heart"),
    (f"{EDIT} --promt star", "unrecognized arguments: --promt", "mean --prompt?", "palimpsest sdedit --help"),
    # the place to write
    ("sdedit in.png -o out.bmp", "out: cannot write out.bmp", ".png"),
    ("sdedit in.png -o out", "out: cannot write out", "must end in"),
    ("sdedit in.png -o ''", "out: is empty", "name a file"),
    (f"{EDIT} --compare ''", "compare: is empty", "name a file"),
    ("sdedit in.png -o nowhere/out.png", "out: cannot write", "no folder nowhere", "make it first"),
    ("generate --prompt star -o folder.png", "out: cannot write folder.png", "is a folder"),
    (
        "sdedit in.png --mask mask.png -o out.png --save-mask nowhere/m.png",
        "save-mask: cannot write",
        "make it first",
    ),
    ("sdedit in.png -o out.png --save-steps nowhere/s.png", "save-steps: cannot write", "make it first"),
    ("sdedit in.png -o out.png --save-steps nowhere/steps", "save-steps: cannot write", "make it first"),
    ("generate --prompt star -n 3 -o nowhere/{i}.png", "out: cannot write nowhere/0.png", "make it first"),
    (f"{EDIT} --save-steps in.png", "save-steps: in.png is the file of IN too", "name another"),
    (f"{EDIT} --save-steps ./out.png", "out: out.png is the file of save-steps too", "name another"),
    (f"{EDIT} --mask mask.png --save-mask mask.png", "save-mask: mask.png is the file of mask too"),
    # the model
    (f"{EDIT} --model shape", "model: no model named 'shape'"),
    (f"{EDIT} --model folder.png", "model: folder.png holds no unet/", "or one file"),
    (f"{EDIT} --model none.safetensors", "model: no weight file none.safetensors"),
    (f"{EDIT} --model in.png", "model: in.png is not a whole safetensors file", "fetch it again"),
    *[
        (f"{EDIT} --model SHELF/{name}.safetensors", "model:", f"{name}.safetensors", "again")
        for name in ("empty", "truncated", "garbage", "unfit", "unread", "headless", "odd")
    ],
    *[
        (f"{EDIT} --model SHELF/{name}.safetensors", "model:", "no palimpsest configuration", "write_weights")
        for name in ("foreign", "scribbled")
    ],
    (
        f"{EDIT} --model SHELF/tiny-vae.safetensors",
        "model:",
        "holds a vae model",
        "a text2image or glide or",
        "model is needed here",
    ),
    (f"{EDIT} --model SHELF/orphan.safetensors", "model: no model named 'no-such-vae'"),
    (f"{EDIT} --device gpu7", "device: 'gpu7' is not to be had here", "use cpu"),
    (f"{EDIT} --device meta", "device: meta computes nothing", "--estimate"),
    # the command itself
    ("--colour", "METHOD", "see palimpsest --help"),
    ("help paint", "METHOD: invalid choice: 'paint'", "sdedit"),
    ("paint in.png -o out.png", "METHOD: invalid choice: 'paint'", "sdedit"),
    ("sdedti in.png -o out.png", "METHOD: no 'sdedti'; did you mean sdedit?", "--help"),
    ("sdedit -o out.png", "IN", "see palimpsest sdedit --help"),
    ("sdedit in.png", "-o/--out", "see palimpsest sdedit --help"),
    ("sdedit in.png -o out.png --promt star", "--promt", "--help"),
    ("generate -o out.png", "--prompt", "see palimpsest generate --help"),
]


@pytest.mark.parametrize(
    "command, parts",
    [(command, parts) for command, *parts in MISTAKES],
    ids=[f"{n}: {command[:60]}" for n, (command, *_) in enumerate(MISTAKES)],
)
def test_a_mistake_ends_in_one_line_that_names_the_argument_and_leaves_no_file(
    command, parts, room, shelf, capsys
):
    words = command.replace("TINY", "SHELF/tiny.safetensors").replace("SHELF", str(shelf)).split()
    argv = [word.replace("_", " ") if words[i - 1] == "--prompt" else word for i, word in enumerate(words)]
    argv = ["" if word == "''" else word for word in argv]
    before = files(room)
    assert main(argv) == 2
    line = one_line(capsys)
    assert [part for part in parts if part not in line] == [], line
    assert files(room) == before


# ---- what only looks wrong ----


def alpha():
    return Image.new("RGBA", (24, 24), (200, 30, 30, 128))


def palette():
    return Image.new("RGB", (24, 24), (200, 30, 30)).quantize(4)


def grey():
    return Image.new("L", (24, 24), 100)


def grey_16_bit():
    return Image.fromarray(np.full((24, 24), 40000, dtype=np.uint16))


def bilevel():
    return Image.new("1", (24, 24), 1)


def cmyk():
    return Image.new("CMYK", (24, 24), (10, 200, 100, 20))


def one_pixel():
    return Image.new("RGB", (1, 1), (3, 4, 5))


@pytest.mark.parametrize(
    "make, suffix",
    [
        (alpha, ".png"),
        (alpha, ".webp"),
        (palette, ".png"),
        (palette, ".gif"),
        (grey, ".png"),
        (grey, ".jpg"),
        (grey_16_bit, ".png"),
        (bilevel, ".png"),
        (cmyk, ".jpg"),
        (one_pixel, ".png"),
    ],
)
def test_every_kind_of_picture_is_edited_at_its_own_size(make, suffix, room, shelf, capsys):
    picture = make()
    picture.save(f"odd{suffix}")
    assert main(["sdedit", f"odd{suffix}", "--steps", "1", "-o", "out.png", *tiny(shelf)]) == 0
    assert capsys.readouterr().err == ""
    with Image.open("out.png") as out:
        assert out.size == picture.size and out.mode == ("RGBA" if make is alpha else "RGB")


def test_a_picture_taken_sideways_comes_out_upright(room, shelf, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    Image.new("RGB", (30, 20), (9, 9, 9)).save("side.jpg", exif=exif)
    assert main(["sdedit", "side.jpg", "--steps", "1", "-o", "out.jpg", *tiny(shelf)]) == 0
    assert capsys.readouterr().err == ""
    with Image.open("out.jpg") as out:
        assert out.size == (20, 30) and not out.getexif().get(0x0112)


@pytest.mark.slow
def test_a_picture_of_64_megapixels_is_edited_at_its_own_size(room, shelf, monkeypatch, capsys):
    Image.new("L", (8000, 8000), 90).save("large.png", compress_level=1)
    assert main(["sdedit", "large.png", "--steps", "1", "-o", "out.jpg", *tiny(shelf)]) == 0
    with Image.open("out.jpg") as out:
        assert out.size == (8000, 8000)
    assert capsys.readouterr().err == ""


def test_a_turned_over_mask_is_the_readers_choice_and_keeps_the_other_half(room, shelf):
    Image.fromarray(255 - np.asarray(Image.open("mask.png"))).save("turned.png")
    for mask, kept in (("mask.png", slice(20, 40)), ("turned.png", slice(0, 20))):
        assert main(["sdedit", "in.png", "--mask", mask, "--steps", "1", "-o", "out.png", *tiny(shelf)]) == 0
        same = (np.asarray(Image.open("out.png")) == np.asarray(Image.open("in.png"))).all(2)
        assert same[:, kept].all() and not same.all()


# ---- Ctrl-C, and a disk that is full ----


def test_ctrl_c_during_the_walk_is_one_line_and_no_file(room, shelf, monkeypatch, capsys):
    def pressed(module, given, answer):
        raise KeyboardInterrupt

    model = load(shelf / "tiny.safetensors")
    model.net.register_forward_hook(pressed)
    monkeypatch.setattr("palimpsest.cli.commands.loading.load", lambda *given, **more: model)
    before = files(room)
    assert main(["sdedit", "in.png", "--steps", "3", "-o", "out.png"]) == 130
    assert one_line(capsys, "palimpsest: ") == "interrupted\n"
    assert files(room) == before


@pytest.mark.parametrize(
    "error, code, said",
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device"), 2, "choose another place"),
    ],
)
def test_a_write_that_is_broken_off_leaves_the_old_file_alone(
    room, shelf, monkeypatch, capsys, error, code, said
):
    def broken(self, file, **how):
        with open(file, "wb") as f:
            f.write(b"half a pict")
        raise error

    (room / "out.png").write_bytes(b"the old file")
    before = files(room)
    monkeypatch.setattr(Image.Image, "save", broken)
    assert main(["sdedit", "in.png", "--steps", "1", "-o", "out.png", *tiny(shelf)]) == code
    assert said in one_line(capsys, "palimpsest: ")
    assert files(room) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_weights_and_manifest_are_written_whole_or_not_at_all(tmp_path, monkeypatch, error):
    def broken(tensors, path, metadata):
        path.write_bytes(b"half a f")
        raise error

    path = write_weights(tmp_path / "w.safetensors", {"net": nn.Linear(2, 2)}, {"kind": "none"})
    write_json(tmp_path / "m.json", {"a": 1})
    before = files(tmp_path)
    monkeypatch.setattr(palimpsest.weights.files, "save_file", broken)
    with pytest.raises(error):
        write_weights(path, {"net": nn.Linear(2, 2)}, {"kind": "none"})
    with pytest.raises(TypeError):
        write_json(tmp_path / "m.json", {"a": {1, 2}})
    assert files(tmp_path) == before


def test_ctrl_c_in_training_is_one_line_and_the_checkpoint_is_whole(tmp_path, capsys):
    def batch(step, generator):
        if step == 3 and not (tmp_path / "second").exists():
            raise KeyboardInterrupt
        return torch.ones(2, 1)

    def train():
        return fit(
            lambda net, x, generator: net(x).square().mean(),
            nn.Linear(1, 1),
            batch,
            Settings(steps=5, lr=0.01),
            Files(checkpoint=tmp_path / "checkpoint.pt"),
            progress=False,
        )

    assert exit_code_of(train) == 130
    assert one_line(capsys, "palimpsest: ") == "interrupted\n"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["done"] == 3
    (tmp_path / "second").touch()
    assert len(train().losses) == 5


def test_the_question_survives_a_closed_stdin(room, shelf, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["sdedit", "in.png", "--ask", "--steps", "1", "-o", "out.png", *tiny(shelf)]) == 0


def test_a_shipped_file_with_another_hash_is_refused(shelf, monkeypatch):
    monkeypatch.setattr(palimpsest.weights.files, "FOLDER", shelf)
    monkeypatch.setattr(
        palimpsest.weights.files, "manifest", lambda: {"tiny.safetensors": {"sha256": "0" * 64}}
    )
    with pytest.raises(WeightsError, match="model: .*tiny.safetensors is damaged .* restore it"):
        load(shelf / "tiny.safetensors")


def test_a_folder_of_the_models_name_does_not_hide_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    monkeypatch.setattr("palimpsest.weights.load.FOLDER", tiny_weights(tmp_path / "shelf", "shapes").parent)
    assert load("shapes").name == "shapes"


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    def bug():
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        exit_code_of(bug)


def test_the_tiny_model_is_the_same_at_every_call(tmp_path):
    first, second = (tiny_weights(tmp_path / name).read_bytes() for name in "ab")
    assert first == second and AutoencoderKL(**VAE).factor == 4
