"""palimpsest invert and null-text, called in this process on a tiny random model."""

import argparse
import inspect
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import palimpsest.cli.commands.null_text as command
from palimpsest.cli.commands.invert import declare_invert
from palimpsest.cli.commands.null_text import declare_null_text
from palimpsest.cli.manners import Parser, exit_code_of
from palimpsest.cli.run import run
from palimpsest.methods.inversion import invert
from palimpsest.methods.ladder import ladder
from palimpsest.methods.null_text import null_text
from tests.tiny import tiny_weights


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def room(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("in.png")
    return tmp_path


def parse(*argv) -> argparse.Namespace:
    parser = Parser("palimpsest", allow_abbrev=False)
    commands = parser.add_subparsers(required=True)
    declare_invert(commands)
    declare_null_text(commands)
    return parser.parse_args([*argv])


def main(*argv):
    return exit_code_of(lambda: run(parse(*map(str, argv))))


def pixels(path):
    with Image.open(path) as picture:
        return picture.convert("RGB").tobytes()


def size(path):
    with Image.open(path) as picture:
        return picture.size


def test_invert_prints_a_line_for_each_rung_and_writes_a_sheet_if_asked(room, tiny, capsys):
    argv = ["invert", "in.png", "--prompt", "a red star", "--steps", 1, "--iterations", 1, "--model", tiny]
    assert main(*argv) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert (
        said.err == ""
        and len(lines) == 9
        and lines[0].split() == "PSNR / dB forward backward seconds".split()
    )
    assert len({len(line) for line in lines}) == 1  # aligned
    assert (
        lines[1].split()[0] == "autoencoder"
        and lines[3].startswith("w = 7.5 ")
        and lines[3].split()[-2:-1] == ["0"]
    )
    assert all(float(line.split()[-1]) >= 0 for line in lines[1:]) and [p.name for p in room.iterdir()] == [
        "in.png"
    ]
    assert main(*argv, "-o", "sheet.png") == 0
    assert size("sheet.png")[0] > 9 * 3 * 32


def test_null_text_brings_a_picture_back_edits_it_and_keeps_what_it_found(room, tiny, capsys):
    argv = [
        "null-text",
        "in.png",
        "--prompt",
        "a red star",
        "--steps",
        2,
        "--inner",
        2,
        "--model",
        tiny,
        "-o",
        "out.png",
    ]
    assert main(*argv, "--save", "kept.safetensors") == 0
    first = capsys.readouterr().out
    assert (
        first.startswith("out.png: comes back at ") and first.count("\n") == 1 and size("out.png") == (40, 40)
    )
    back = np.asarray(Image.open("out.png"))
    assert main(*argv, "--load", "kept.safetensors") == 0
    assert np.array_equal(np.asarray(Image.open("out.png")), back)
    assert capsys.readouterr().out.split(" s\n")[0].split(",")[:2] == first.split(",")[:2]
    assert main(*argv, "--load", "kept.safetensors", "--target", "a blue heart") == 0
    assert (np.asarray(Image.open("out.png")) != back).any()
    ends = []
    for target in ([], ["--target", "a blue heart"]):
        assert main(*argv, "--load", "kept.safetensors", *target, "--save-steps", "walk") == 0
        assert sorted(p.name for p in Path("walk").iterdir()) == [
            "step_000.png",
            "step_001.png",
            "step_002.png",
        ]
        ends.append([np.asarray(Image.open(f"walk/step_{n:03d}.png")) for n in (0, 2)])
    assert np.array_equal(ends[0][0], ends[1][0]) and (ends[0][1] != ends[1][1]).any()


@pytest.mark.parametrize(
    "more, message",
    [
        (["--w", 0], "w: must be at least 1"),
        (["--steps", 0], "steps: must be at least 1"),
        (["--solver", "sgd"], "solver: invalid choice: 'sgd'"),
        (["--save", "kept.png"], "save: kept.png must end in .safetensors"),
        (["--inner", 0], "inner: must be"),
        (["--lr", 0], "lr: must be"),
        (["--save", "no/kept.safetensors"], "save: no/kept.safetensors must"),
        (["--load", "no.safetensors"], "load: no.safetensors"),
        (["--load", "in.png"], "load: in.png: is damaged"),
        (["-o", "out.txt"], "out: "),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(room, tiny, capsys, more, message):
    argv = [
        "null-text",
        "in.png",
        "--prompt",
        "a red star",
        "--steps",
        1,
        "--model",
        tiny,
        "-o",
        "out.png",
        *more,
    ]
    assert main(*argv) == 2
    said = capsys.readouterr()
    assert (
        said.out == "" and said.err.startswith(f"palimpsest: error: {message}") and said.err.count("\n") == 1
    )
    assert [p.name for p in room.iterdir()] == ["in.png"]


def test_a_file_of_another_prompt_is_refused(room, tiny, capsys):
    argv = ["null-text", "in.png", "--steps", 1, "--inner", 1, "--model", tiny, "-o", "out.png"]
    assert main(*argv, "--prompt", "a red star", "--save", "kept.safetensors") == 0
    assert main(*argv, "--prompt", "a blue star", "--load", "kept.safetensors") == 2
    assert "was made for another prompt ('a red star', not 'a blue star')" in capsys.readouterr().err


def test_the_files_own_w_serves_where_none_is_given(room, tiny, capsys):
    argv = [
        "null-text",
        "in.png",
        "--prompt",
        "a red star",
        "--steps",
        1,
        "--inner",
        1,
        "--model",
        tiny,
        "-o",
        "out.png",
    ]
    assert main(*argv, "--w", 3, "--save", "kept.safetensors") == 0
    first = pixels(room / "out.png")
    assert main(*argv, "--load", "kept.safetensors") == 0 and pixels(room / "out.png") == first
    assert main(*argv, "--load", "kept.safetensors", "--w", 5) == 2
    assert "was made for another w ('3.0', not '5.0')" in capsys.readouterr().err
    assert main(*argv) == 0 and pixels(room / "out.png") != first  # 7.5, as the verb has it


@pytest.mark.parametrize(
    "more, message",
    [
        (["--w", 0], "w: must be at least 1"),
        (["--steps", 0], "steps: must be at least 1"),
        (["--iterations", -1], "iterations: must be at least 0"),
        (["--prompt", "a red sart"], 'unknown word "sart"'),
        (["-o", "out.txt"], "out: "),
    ],
)
def test_a_mistake_is_found_before_the_first_rung(room, tiny, capsys, more, message):
    assert main("invert", "in.png", "--prompt", "a red star", "--steps", 1, "--model", tiny, *more) == 2
    said = capsys.readouterr()
    assert (
        said.out == "" and said.err.startswith(f"palimpsest: error: {message}") and said.err.count("\n") == 1
    )


def test_a_file_to_go_on_from_that_is_of_other_settings_is_named(room, tiny, capsys):
    argv = [
        "null-text",
        "in.png",
        "--prompt",
        "a red star",
        "--inner",
        1,
        "--model",
        tiny,
        "-o",
        "out.png",
        "--save",
        "kept.safetensors",
    ]
    assert main(*argv, "--steps", 1) == 0
    assert main(*argv, "--steps", 2) == 2
    assert capsys.readouterr().err.startswith(
        "palimpsest: error: save: kept.safetensors: was made for another steps ('1', not '2')"
    )


@pytest.mark.parametrize(
    "argv, verb, not_options",
    [
        (["invert", "in.png", "--prompt", ""], ladder, {"model", "x", "prompt", "done"}),
        (
            ["null-text", "in.png", "--prompt", "", "-o", "out.png"],
            null_text,
            {"model", "x", "prompt", "w", "pivot", "each_step"},
        ),
    ],
)
def test_the_defaults_are_those_of_the_verb(argv, verb, not_options):
    parsed, parameters = vars(parse(*argv)), inspect.signature(verb).parameters
    assert {name: parsed[name] for name in parameters if name not in not_options} == {
        name: p.default for name, p in parameters.items() if name not in not_options
    }
    iterations = inspect.signature(ladder if verb is ladder else invert).parameters["iterations"].default
    assert parsed["iterations"] == iterations


def test_fixed_point_rounds_make_another_pivot_and_an_interrupted_run_goes_on(
    room, tiny, capsys, monkeypatch
):
    argv = ["null-text", "in.png", "--prompt", "a red star", "--steps", 3, "--inner", 1, "--model", tiny]
    argv += ["--iterations", 2, "-o", "out.png"]
    assert main(*argv) == 0
    whole, said = (room / "out.png").read_bytes(), capsys.readouterr().out
    assert f"{3 * 3 + 3 * 4} forward and 3 backward passes" in said  # 3 of the pivot and 4 more, each step
    save = command.save_null_text

    def save_and_break_off(path, run, key):
        save(path, run, key)
        if len(run.nulls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "save_null_text", save_and_break_off)
    assert main(*argv, "--save", "kept.safetensors") == 130
    monkeypatch.undo()
    monkeypatch.chdir(room)
    (room / "out.png").unlink()
    assert main(*argv, "--save", "kept.safetensors") == 0
    assert (room / "out.png").read_bytes() == whole
    assert main(*argv, "--save", "kept.safetensors", "--iterations", 1) == 2
    assert "save: kept.safetensors: was made for another iterations ('2', not '1')" in capsys.readouterr().err
