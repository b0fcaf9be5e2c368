"""The commands prompt-to-prompt and attention, called in this process on a tiny random model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from palimpsest.cli.commands.attention import declare_attention
from palimpsest.cli.commands.prompt_to_prompt import by_word, declare_prompt_to_prompt
from palimpsest.cli.manners import Parser, exit_code_of
from palimpsest.cli.run import run as run_all
from palimpsest.methods.null_files import load_null_text, null_text_key, save_null_text
from palimpsest.methods.null_text import null_text
from palimpsest.methods.prompt_to_prompt import Injection, prompt_to_prompt
from palimpsest.weights.load import load
from palimpsest.worlds.files import open_picture
from tests.tiny import tiny_weights

PAIR = ["prompt-to-prompt", "a red circle", "a green star"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def run(tmp_path, monkeypatch, tiny):
    """Runs a command in a folder with a picture, 40 wide and 30 high; the exit code."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save("in.png")

    def call(argv):
        parser = Parser("palimpsest", allow_abbrev=False)
        commands = parser.add_subparsers(required=True)
        declare_prompt_to_prompt(commands)
        declare_attention(commands)

        words = [*argv, "--steps", "2", "--model", str(tiny), "-o", "out.png"]
        return exit_code_of(lambda: run_all(parser.parse_args(words)))

    return call


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_the_command_does_what_the_verb_does_and_explains_itself(run, tiny, capsys):
    more = [
        "--cross",
        ".9",
        "--cross",
        "star=.2-.6",
        "--self",
        "1",
        "--self-res",
        "8",
        "--weight",
        "green=2",
        "--w",
        "2",
        "--seed",
        "3",
    ]
    assert run([*PAIR, *more, "--explain", "--save-source", "source.png"]) == 0
    said = capsys.readouterr().out
    assert (
        said.startswith('replace: "a red circle" -> "a green star"\n')
        and "circle is swapped for star" in said
    )
    assert said.splitlines()[-1].startswith("out.png: replace, distance 0.")
    r = prompt_to_prompt(
        load(tiny),
        *PAIR[1:],
        injection=Injection(
            cross={"default_": 0.9, "star": (0.2, 0.6)}, self_=1.0, self_res=8, weights={"green": 2.0}
        ),
        w=2.0,
        seed=3,
        steps=2,
    )
    for path, picture in (("out.png", r.picture), ("source.png", r.source_picture)):
        want = ((picture + 1) * 127.5).round()[0].permute(1, 2, 0).to(torch.uint8).numpy()
        assert np.array_equal(pixels(path), want)


@pytest.mark.parametrize(
    "inversion", ["ddim", "negative-prompt", "direct", "edict", "edit-friendly", "null-text"]
)
def test_a_picture_is_edited_at_its_own_size_through_any_inversion(run, inversion):
    assert run([*PAIR, "--input", "in.png", "--inversion", inversion]) == 0
    assert pixels("out.png").shape == (30, 40, 3) and (pixels("out.png") != pixels("in.png")).any()


def test_what_the_blend_keeps_is_the_files_own_and_the_sheet_shows_the_walk(run):
    assert (
        run(
            [
                *PAIR,
                "--input",
                "in.png",
                "--crop",
                "--inversion",
                "ddim",
                "--blend",
                "circle:star",
                "--threshold",
                ".99",
                "--save-mask",
                "mask.png",
                "--save-steps",
                "walk.png",
            ]
        )
        == 0
    )
    before, after, mask = pixels("in.png"), pixels("out.png"), pixels("mask.png")
    assert np.array_equal(after[:, :5], before[:, :5]) and np.array_equal(
        after[:, 35:], before[:, 35:]
    )  # outside the crop
    assert mask.shape == before.shape and not mask[:, :5].any()  # of the file's size, as --mask wants it
    kept = mask[:, 5:35, 0] == 0
    shrunk = np.minimum.reduce([np.roll(kept, (y, x), (0, 1)) for y in (-2, 0, 2) for x in (-2, 0, 2)])
    assert 0 < shrunk.mean() < 1 and np.array_equal(after[:, 5:35][shrunk], before[:, 5:35][shrunk])
    assert pixels("walk.png").shape[1] > 3 * 3 * 32
    assert (
        run(
            [
                *PAIR,
                "--input",
                "in.png",
                "--crop",
                "--inversion",
                "ddim",
                "--mask",
                "mask.png",
                "--save-steps",
                "walk",
            ]
        )
        == 0
    )
    assert [p.name for p in sorted(Path("walk").iterdir())] == [f"step_{n:03d}.png" for n in range(3)]
    assert pixels("walk/step_002.png").shape == (32, 64, 3)  # both, side by side


def test_a_mask_of_ones_own_keeps_the_files_pixels_with_a_blend_and_without(run):
    white = np.zeros((30, 40), dtype=np.uint8)
    white[4:21, 7:26] = 255
    Image.fromarray(white).save("mask.png")
    for more in ([], ["--blend", "circle:star", "--threshold", "0"]):
        assert (
            run(
                [
                    *PAIR,
                    "--input",
                    "in.png",
                    "--inversion",
                    "ddim",
                    "--mask",
                    "mask.png",
                    *more,
                    "--save-mask",
                    "seen.png",
                ]
            )
            == 0
        )
        same = (pixels("out.png") == pixels("in.png")).all(2)
        assert (
            same[white == 0].all()
            and not same[white == 255].all()
            and set(np.unique(pixels("seen.png"))) == {0, 255}
        )
    assert run([*PAIR, "--input", "in.png", "--inversion", "ddim", "--mask", "mask.png", "--no-paste"]) == 0
    assert (pixels("out.png") != pixels("in.png")).any(2)[white == 0].any()


def test_what_null_text_kept_serves_a_later_edit(run, tiny, capsys):
    model, source = load(tiny), PAIR[1]
    x = open_picture("in.png").framed(model.size, model.grid)
    tuned = null_text(model, x.view(), source, steps=3, w=2.0, inner=1)
    save_null_text("kept.safetensors", tuned, null_text_key(model, x.view()))
    assert (
        run(
            [
                *PAIR,
                "--input",
                "in.png",
                "--load",
                "kept.safetensors",
                "--explain",
                "--save-steps",
                "walk.png",
            ]
        )
        == 0
    )
    start = load_null_text("kept.safetensors", model, x.view(), source)
    want = x.restore(
        prompt_to_prompt(model, *PAIR[1:], start=start, pictures=x.view()).picture
    )  # 3 steps, w = 2: the file's
    assert np.array_equal(pixels("out.png"), want[0].permute(1, 2, 0).numpy())
    capsys.readouterr()
    for more, said in (
        (["--w", "3"], "load: kept.safetensors: was made for another w ('2.0', not '3.0')"),
        (["--inversion", "ddim"], "inversion: not allowed with argument --load"),
    ):
        assert run([*PAIR, "--input", "in.png", "--load", "kept.safetensors", *more]) == 2
        assert capsys.readouterr().err.startswith(f"palimpsest: error: {said}")
    assert (
        run(["prompt-to-prompt", "a star", "a red star", "--input", "in.png", "--load", "kept.safetensors"])
        == 2
    )
    assert "load: kept.safetensors: was made for another prompt" in capsys.readouterr().err


def test_equal_prompts_are_said_to_change_nothing(run, capsys):
    assert run(["prompt-to-prompt", "a red circle", "a Red  circle"]) == 0
    assert capsys.readouterr().err.startswith(
        "palimpsest: note: SOURCE and TARGET say the same, so nothing will change"
    )
    assert (
        run(["prompt-to-prompt", "a red circle", "a red circle", "--weight", "red=2"]) == 0
        and capsys.readouterr().err == ""
    )


def test_a_mistake_about_words_is_found_before_a_picture_is_inverted(run, capsys, monkeypatch):
    def never(*anything, **named):
        raise AssertionError("inverted")

    monkeypatch.setattr("palimpsest.cli.commands.prompt_to_prompt.inverted", never)
    for more, said in (
        (["--weight", "heart=2"], "weight: "),
        (["--cross", "heart=.4"], "cross: "),
        (["--self", "2"], "self: must lie in [0, 1], got 2.0"),
        (["--blend", "star:star"], "blend: "),
        (["--blend", "circle:star", "--threshold", "1"], "threshold: "),
    ):
        assert run([*PAIR, "--input", "in.png", *more]) == 2
        assert capsys.readouterr().err.startswith(f"palimpsest: error: {said}")


def test_an_empty_blend_is_said(run, capsys):
    assert run([*PAIR, "--blend", "circle:star", "--subtract", "a", "--threshold", "0"]) == 0
    assert "note: the blend's mask is empty, so nothing was edited" in capsys.readouterr().err


def test_cross_is_read_as_a_number_and_by_word():
    assert by_word([".8"]) == {"default_": 0.8} and by_word(["star=.4"]) == {"default_": 0.8, "star": 0.4}
    assert by_word(["1", "red star=.2-.6"]) == {"default_": 1.0, "red star": (0.2, 0.6)}


@pytest.mark.parametrize(
    "more, said",
    [
        (["--cross", "1.5"], "cross: must be a fraction of the steps in [0, 1], got 1.5"),
        (["--cross", "x"], "cross: must be a fraction such as"),
        (["--cross", ".2-.4-.6"], "cross: must be a fraction such as"),
        (["--self", "2"], "self: must lie in [0, 1], got 2.0"),
        (["--self-res", "-5"], "self-res: must be at least 1, got -5"),
        (["--self-res", "2"], "self-res: no self-attention map has 4 cells or fewer"),
        (["--threshold", ".5"], "blend: --subtract and --threshold"),
        (["--w", "0"], "w: is 0, so that no prompt is asked"),
        (["--mask", "in.png"], "input: --inversion, --load, --mask"),
        (["--input", "in.png", "--mask", "no.png"], "mask: no.png"),
        (["--cross", ".2", "--cross", ".4"], "cross: is given twice, .2 and .4"),
        (["--weight", "star"], "weight: write WORD=C"),
        (["--weight", "=2"], "weight: write WORD=C"),
        (["--weight", "heart=2"], 'weight: the word "heart" is not in the prompt'),
        (["--blend", "circle:"], "blend: write SOURCEWORD:TARGETWORD"),
        (["--subtract", "a"], "blend: --subtract and --threshold"),
        (["--no-paste"], "blend: --save-mask and --no-paste make sense only with a --blend or a --mask"),
        (["--inversion", "ddim"], "input: --inversion, --load, --mask, --crop and --size make sense only"),
        (["--input", "no.png"], "input: "),
        (["--inversion", "magic"], "inversion: invalid choice"),
        (["--edit", "swap"], "edit: invalid choice: 'swap'"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_argument(run, more, said, capsys, tmp_path):
    assert run([*PAIR, *more]) == 2
    err = capsys.readouterr().err
    assert (
        err.startswith(f"palimpsest: error: {said}")
        and err.count("\n") == 1
        and not (tmp_path / "out.png").exists()
    )


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["in.png", "--crop"],
        ["--by", "layer"],
        ["--by", "head"],
        ["--by", "step"],
        ["--word", "red", "--word", "red circle", "--components", "--res", "4"],
    ],
)
def test_attention_draws_a_sheet_and_says_a_line_a_word(run, more, capsys):
    assert run(["attention", *more, "--prompt", "a red circle"]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = ["red", "red circle"] if "--word" in more else ["a", "red", "circle"]
    assert [line.split("  ")[0].strip() for line in lines[:-1]] == words and "spread 1.00" in lines[0]
    assert lines[-1].startswith(f"out.png: {len(words)} words, {'4×4' if '--res' in more else '8×8'} cells")
    assert pixels("out.png").shape[1] > 3 * 32 * 3


def test_attention_names_what_is_wrong(run, capsys):
    assert run(["attention", "in.png", "--prompt", " "]) == 2
    assert capsys.readouterr().err.startswith("palimpsest: error: prompt: must say something")
    for more, said in (
        (["--word", "heart"], 'word: the word "heart" is not in'),
        (["--res", "5"], "res: the model has no"),
        (["--crop"], "crop: "),
    ):
        assert run(["attention", "--prompt", "a red circle", *more]) == 2
        assert capsys.readouterr().err.startswith(f"palimpsest: error: {said}")
