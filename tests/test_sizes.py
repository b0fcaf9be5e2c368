"""Sizes follow the picture: every verb takes latents that are not square, every command writes a file of
the size it read.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from palimpsest.cli.main import main
from palimpsest.methods.attention_maps import explore
from palimpsest.methods.diffedit import MaskRule, diffedit
from palimpsest.methods.inversion import invert
from palimpsest.methods.ladder import ladder
from palimpsest.methods.local_blend import Blend
from palimpsest.methods.null_text import null_text
from palimpsest.methods.prompt_to_prompt import prompt_to_prompt
from palimpsest.methods.sdedit import sdedit
from palimpsest.methods.variants import direct, edict, edit_friendly, negative_prompt
from palimpsest.weights.load import load
from palimpsest.worlds.files import open_picture
from tests.tiny import tiny_weights

STAR, HEART = "a red star", "a red heart"
SIZE = (24, 40)  # rows, columns; latents of 6 × 10


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(tiny):
    return load(tiny, "cpu")


@pytest.fixture(scope="module")
def x():
    return torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1


# ---- the verbs ----


def test_sdedit_keeps_what_a_wide_mask_keeps_on_both_walks(model, x):
    mask = torch.zeros(1, 1, *SIZE)
    mask[..., 24:] = 1
    for walk in ("vp", "ve"):
        edit = sdedit(model, x, STAR, mask=mask, walk=walk, steps=2)
        assert edit.picture.shape == x.shape and edit.path[-1].shape == (1, 4, 6, 10)
        assert torch.equal(edit.picture[..., :24], x[..., :24]) and not torch.equal(
            edit.picture[..., 24:], x[..., 24:]
        )


def test_diffedit_finds_a_wide_mask(model, x):
    edit = diffedit(model, x, HEART, STAR, steps=2, rule=MaskRule(maps=1, r=2.1))
    assert (
        edit.heat.shape == (1, 1, 6, 10)
        and edit.mask.shape == (1, 1, *SIZE)
        and edit.picture.shape == x.shape
    )
    kept = (edit.mask == 0).expand_as(x)
    assert kept.any() and torch.equal(edit.picture[kept], x[kept])


def test_prompt_to_prompt_and_its_maps_are_wide(model, x):
    start = invert(model, x, HEART, steps=2)
    r = prompt_to_prompt(
        model, HEART, STAR, start=start, pictures=x, blend=Blend("heart", "star", begin=0.0), w=2.0
    )
    assert (
        r.picture.shape == r.raw.shape == x.shape
        and r.maps.shape[2:4] == (6, 10)
        and r.mask.shape == (1, 1, *SIZE)
    )
    assert explore(model, start=start).heat_map("heart").shape == SIZE and explore(
        model, start=start, res=(3, 5)
    ).res == (3, 5)


@pytest.mark.parametrize("inversion", [null_text, negative_prompt, direct, edict, edit_friendly])
def test_every_inversion_walks_wide_latents(model, x, inversion):
    start = inversion(model, x, STAR, steps=1, w=2.0)
    assert start.finish(start.start).shape == start.finish(start.path[-1]).shape == (1, 4, 6, 10)


def test_the_ladder_is_climbed_with_a_wide_picture(model, x):
    assert {tuple(rung.picture.shape) for rung in ladder(model, x, STAR, steps=1, iterations=1)} == {
        tuple(x.shape)
    }


# ---- the commands ----

COMMANDS = [
    "sdedit in.png --prompt STAR",
    "diffedit in.png --source HEART --target STAR --maps 1",
    "null-text in.png --prompt STAR --inner 1",
    "prompt-to-prompt HEART STAR --input in.png --inversion ddim",
]


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A picture 51 wide and 37 high, whose rows and columns no grid divides, and a mask: white where the
    picture may change.
    """
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 51, 3), dtype=np.uint8)).save("in.png")
    Image.fromarray(np.uint8(255 * (np.arange(51) >= 30))[None].repeat(37, 0)).save("mask.png")
    return tmp_path


def run(command, tiny, *more):
    argv = [{"STAR": STAR, "HEART": HEART}.get(word, word) for word in command.split()]
    return main([*argv, "--steps", "1", "--model", str(tiny), "-o", "out.png", *more])


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_of_any_size_comes_back_in_its_size_at_any_size_of_the_model(room, tiny, command):
    for more in ((), ("--size", "37"), ("--size", "17"), ("--crop",)):
        assert run(command, tiny, *more) == 0
        assert pixels("out.png").shape == (37, 51, 3)


def test_the_model_sees_the_proportions_on_its_grid(room, tiny, model):
    for size, seen in ((None, (32, 48)), (37, (40, 56)), (17, (24, 24)), (64, (64, 88))):
        photo = open_picture("in.png").framed(model.size if size is None else size, model.grid)
        assert photo.seen == seen and model.encode(photo.view()).shape == (1, 4, seen[0] // 4, seen[1] // 4)
    assert run(COMMANDS[0], tiny, "--size", "37", "--save-steps", "steps") == 0
    assert pixels("steps/step_001.png").shape == (40, 56, 3)


@pytest.mark.parametrize("more", [(), ("--size", "37"), ("--size", "70"), ("--crop",)])
def test_kept_pixels_are_the_files_own_whatever_the_model_saw(room, tiny, more):
    for command in COMMANDS[:2]:
        assert run(command, tiny, "--mask", "mask.png", *more) == 0
        same = (pixels("out.png") == pixels("in.png")).all(2)
        assert same[:, :30].all() and not same[:, 30:].all()


def test_an_empty_mask_gives_the_file_back_bit_for_bit_and_no_paste_what_was_decoded(room, tiny, capsys):
    for more, same in (((), True), (("--size", "37"), True), (("--size", "37", "--no-paste"), False)):
        assert run("diffedit in.png --source STAR --target STAR --maps 1", tiny, *more) == 0
        assert "the mask is empty" in capsys.readouterr().err
        assert np.array_equal(pixels("out.png"), pixels("in.png")) == same


def test_the_mask_that_is_found_fits_the_file_and_can_be_given_back(room, tiny):
    assert run(COMMANDS[1] + " --r 2.1", tiny, "--save-mask", "found.png", "--size", "37") == 0
    found, same = pixels("found.png"), (pixels("out.png") == pixels("in.png")).all(2)
    assert found.shape == (37, 51, 3) and set(np.unique(found)) == {0, 255} and same[found[..., 0] == 0].all()
    assert run(COMMANDS[1], tiny, "--mask", "found.png", "--size", "37") == 0


def test_attention_maps_are_named_by_their_shorter_side(room, tiny, capsys):
    for res, said in (("4", "4×6 cells"), ("8", "8×12 cells")):
        assert run("attention in.png --prompt STAR", tiny, "--res", res) == 0
        assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    "command, said",
    [
        ("sdedit in.png --size 0", "size: must be 1 or more, got 0"),
        ("sdedit in.png --size 2.5", "size: must be a whole number"),
        ("sdedit strip.png", "strip.png is 640×8 pixels, 16 times as long as wide or more: cut it"),
        ("prompt-to-prompt STAR HEART --size 32", "input: --inversion, --load, --mask, --crop and --size"),
        ("attention --prompt STAR --size 32", "size: makes sense"),
    ],
)
def test_a_size_that_makes_no_sense_is_one_line(room, tiny, capsys, command, said):
    Image.new("RGB", (640, 8)).save("strip.png")
    assert run(command, tiny) == 2
    err = capsys.readouterr().err
    assert (
        err.startswith(f"palimpsest: error: {said}")
        and err.count("\n") == 1
        and not (room / "out.png").exists()
    )
    if "strip" in command:
        assert run(command, tiny, "--crop") == 0
