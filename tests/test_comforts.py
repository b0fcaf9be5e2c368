"""What the command line does for everyone's convenience: several inputs, records and `again`, sweeps, sheets of
before and after, moving walks, helps with examples.
"""

import argparse
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from palimpsest.cli.commands.examples import ENDINGS
from palimpsest.cli.main import command_line, main
from palimpsest.cli.manners import Parser
from palimpsest.weights.public.catalogue import PUBLISHED
from palimpsest.worlds.notes import read_note
from tests.tiny import tiny_weights

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(tiny_weights(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A folder with three pictures of different sizes, a mask of the first, and a file that is none."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for name, size in (("a.png", (40, 40)), ("b.jpg", (50, 40)), ("c.gif", (40, 60))):
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(
            tmp_path / "pictures" / name
        )
    Image.fromarray(np.uint8(255 * (np.arange(40) < 20))[None].repeat(40, 0)).save("mask.png")
    (tmp_path / "pictures" / "d.png").write_text("no picture", encoding="utf-8")
    (tmp_path / "pictures" / "notes.txt").write_text("of no interest", encoding="utf-8")
    return tmp_path


def edit(tiny, *words):
    return main(["sdedit", *words, "--prompt", "a red star", "--steps", "2", "--model", tiny])


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


# ---- several inputs ----


def test_a_folder_is_edited_picture_by_picture_and_one_that_fails_costs_a_line(
    room, tiny, capsys, monkeypatch
):
    loaded = []
    monkeypatch.setattr("palimpsest.weights.load._assembled", counted(loaded))
    assert edit(tiny, "pictures", "-o", "out", "--compare", "sheets", "--gif", "walks", "--sidecar") == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.startswith("palimpsest: error: IN: pictures/d.png is not a")
    assert [line.split(":")[0] for line in said.out.splitlines()] == ["out/a.png", "out/b.jpg", "out/c.png"]
    records = ["a.png.json", "b.jpg.json", "c.png.json"]
    assert names("out") == sorted(["a.png", "b.jpg", "c.png", *records])
    assert names("sheets") == ["a.png", "b.png", "c.png"] and names("walks") == ["a.gif", "b.gif", "c.gif"]
    assert pixels("out/b.jpg").shape == (40, 50, 3) and len(loaded) == 1
    assert edit(tiny, "pictures/a.png", "-o", "alone.png") == 0
    assert np.array_equal(pixels("alone.png"), pixels("out/a.png"))


def counted(calls):
    from palimpsest.weights import load

    whole = load._assembled
    return lambda *given: calls.append(given[0]) or whole(*given)


def test_one_input_may_go_to_a_folder_that_is_there_or_is_written_like_one(room, tiny):
    (room / "there").mkdir()
    assert edit(tiny, "pictures/a.png", "-o", "there") == 0 and names("there") == ["a.png"]
    assert edit(tiny, "pictures/a.png", "-o", "new/") == 0 and names("new") == ["a.png"]
    assert edit(tiny, "pictures/a.png", "pictures/b.jpg", "-o", "both") == 0
    assert names("both") == ["a.png", "b.jpg"]


@pytest.mark.parametrize(
    "words, part",
    [
        ("pictures -o pictures", "out: pictures/a.png is the file of IN too"),
        ("pictures/a.png mask.png/../pictures/a.png -o out", "would both be out/a.png"),
        ("pictures/a.png pictures/b.jpg -o out/deeper", "out: there is no folder"),
        ("pictures/a.png pictures/b.jpg -o out --compare one.png", "compare: several inputs need a folder"),
    ],
)
def test_places_are_checked_before_the_first_input(words, part, room, tiny, capsys):
    (room / "mask.png").unlink()
    (room / "mask.png").mkdir()
    before = sorted(room.rglob("*"))
    assert edit(tiny, *words.split()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and part in said, said
    assert sorted(room.rglob("*")) == before


def test_what_is_wrong_for_all_inputs_is_not_said_for_each(room, tiny, capsys):
    assert edit("no-such-model", "pictures/a.png", "pictures/b.jpg", "pictures/c.gif", "-o", "out") == 2
    assert capsys.readouterr().err.count("no model named 'no-such-model'") == 1 and not Path("out").exists()


# ---- records, and again ----


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
def test_a_result_carries_its_record_and_again_repeats_it_to_the_bit(suffix, room, tiny, capsys):
    out = f"red.{suffix}"
    words = ["pictures/a.png", "--mask", "mask.png", "--t0", ".7", "--seed", "5", "--sidecar", "-o", out]
    assert edit(tiny, *words) == 0
    record = json.loads(read_note(out))
    assert record == json.loads(Path(f"{out}.json").read_text(encoding="utf-8"))
    assert record["seed"] == 5 and set(record["inputs"]) == {"pictures/a.png", "mask.png"}
    assert shlex.split(record["command"])[:3] == ["palimpsest", "sdedit", "pictures/a.png"]
    assert list(record["models"]) == [tiny] and len(record["models"][tiny]) == 64
    for words in (["again", out], ["again", f"{out}.json", "-o", f"twin.{suffix}"]):
        assert main(words) == 0
    assert f"the same as {out}, to the bit" in capsys.readouterr().out
    twins = [Path(f"{name}.{suffix}").read_bytes() for name in ("red", "red_again", "twin")]
    assert twins[0] == twins[1] == twins[2]
    assert main(["again", out]) == 2 and "red_again" in capsys.readouterr().err  # it is there already


COMMANDS = {
    "diffedit": ["pictures/a.png", "--source", "a star", "--target", "a red star", "--threshold", ".1"],
    "flow-edit": ["pictures/a.png", "--source", "a star", "--target", "a red star"],
    "rf-inversion": ["pictures/a.png", "--target", "a red star"],
    "prompt-to-prompt": ["a star", "a red star", "--input", "pictures/a.png", "--inversion", "direct"],
    "null-text": ["pictures/a.png", "--prompt", "a star", "--target", "a red star", "--inner", "1"],
    "generate": ["--prompt", "a red star"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_edit_can_be_compared_shown_moving_and_made_again(name, room, tiny, capsys):
    own = [] if name == "generate" else ["--compare", "sheet.png"]
    words = [name, *COMMANDS[name], "--steps", "3", "--model", tiny, "-o", "out.png", "--gif", "walk.gif"]
    assert main([*words, *own]) == 0
    with Image.open("walk.gif") as walk:
        assert walk.n_frames >= 3
    if own:
        y, x, _ = pixels("sheet.png").shape
        assert x > 2.5 * 192 and y > 192
    assert main(["again", "out.png"]) == 0 and "to the bit" in capsys.readouterr().out
    assert Path("out.png").read_bytes() == Path("out_again.png").read_bytes()
    if name == "flow-edit":  # the sheet carries a record of its own
        assert main(["again", "sheet.png"]) == 0 and "to the bit" in capsys.readouterr().out
        assert Path("sheet.png").read_bytes() == Path("sheet_again.png").read_bytes()


def test_one_of_several_numbered_pictures_is_made_again_alone(room, tiny):
    words = ["generate", "--prompt", "a star", "-n", "3", "--steps", "2", "--model", tiny, "-o", "p{i}.png"]
    assert main(words) == 0 and main(["again", "p1.png", "-o", "one.png"]) == 0
    assert Path("one.png").read_bytes() == Path("p1.png").read_bytes()
    assert not np.array_equal(pixels("one.png"), pixels("p2.png"))


def test_again_says_which_input_is_missing_or_has_changed(room, tiny, capsys):
    assert edit(tiny, "pictures/a.png", "--mask", "mask.png", "-o", "red.png") == 0
    Image.open("mask.png").rotate(90).save("mask.png")
    assert main(["again", "red.png", "-o", "x.png"]) == 2
    assert "mask.png has changed since" in capsys.readouterr().err
    Path("mask.png").unlink()
    assert main(["again", "red.png", "-o", "x.png"]) == 2
    said = capsys.readouterr().err
    assert "mask.png is missing" in said and said.count("\n") == 1
    assert edit(tiny, "pictures/a.png", "-o", "plain.png") == 0
    Path("pictures/a.png").rename("a.png")  # beside the result
    capsys.readouterr()
    assert main(["again", "plain.png", "-o", "x.png"]) == 0
    assert "to the bit" in capsys.readouterr().out


def test_again_refuses_what_carries_no_record(room, tiny, capsys):
    for file in ("pictures/a.png", "pictures/c.gif", "pictures/d.png", "pictures/notes.txt", "none.png"):
        assert main(["again", file, "-o", "x.png"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and file in said and not Path("x.png").exists(), said


def test_a_search_for_t0_is_repeated_without_the_search(room, tiny, monkeypatch):
    assert edit(tiny, "pictures/a.png", "--target-distance", ".2", "-o", "red.png") == 0
    command = json.loads(read_note("red.png"))["command"]
    assert "--t0" in command and "--target-distance" not in command
    assert main(["again", "red.png"]) == 0
    assert Path("red.png").read_bytes() == Path("red_again.png").read_bytes()


# ---- sweep ----


def sweep(tiny, *words):
    given = ["sdedit", "pictures/a.png", "--prompt", "a star", "--steps", "2", "--model", tiny]
    return main(["sweep", *given, *words, "-o", "sheet.png"])


def test_a_sweep_shows_every_setting_and_is_made_again(room, tiny, capsys):
    assert sweep(tiny, "--over", "t0=.2:.8:3", "--over", "solver=ddim,heun") == 0
    assert capsys.readouterr().out.startswith("sheet.png: 6 pictures, t0 × solver, ")
    y, x, _ = pixels("sheet.png").shape
    assert y > 3 * 192 and x > 3 * 192  # three rows; before, ddim, heun
    assert main(["again", "sheet.png", "-o", "twin.png"]) == 0
    assert Path("sheet.png").read_bytes() == Path("twin.png").read_bytes()


@pytest.mark.parametrize(
    "over, part",
    [
        ("", "over: is given 0 times"),
        ("t1=.2", "sdedit cannot vary 't1'; did you mean t0"),
        ("t0", "write NAME=VALUES"),
        ("t0=.2,2", "t0: must lie in (0, 1], got 2.0"),
        ("steps=1:2:3", "steps: must be a whole number, got '1.5'"),
        ("t0=.2:.8:0", "the last number says how many"),
        ("t0=.2:.8", "is a range without a count; for four values write .2:.8:4"),
        ("t0=.2,.2", "has a value twice"),
        ("solver=ddim,euler", "solver: invalid choice: 'euler'"),
        ("out=a,b", "sdedit cannot vary 'out'"),
        ("crop=perhaps", "crop is yes or no"),
        ("t0=.1:.9:30 w=1:9:30", "asks for 900 pictures"),
        ("t0=.1 w=1 steps=2", "over: is given 3 times"),
    ],
)
def test_a_sweep_is_checked_before_the_work(over, part, room, tiny, capsys):
    words = [word for one in over.split() for word in ("--over", one)]
    assert sweep(tiny, *words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and part in said and not Path("sheet.png").exists(), said


# ---- helps ----


def leaves(parser):
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return [leaf for a in inner for p in a.choices.values() for leaf in leaves(p)] if inner else [parser]


def test_every_help_ends_with_two_examples_that_are_understood_on_files_that_are_there():
    parser = command_line(Parser)
    for leaf in leaves(parser):
        name = leaf.prog.removeprefix("palimpsest ")
        shown = leaf.format_help().splitlines()[-2:]
        assert name in ENDINGS and [line.strip() for line in shown] == [
            f"palimpsest {example}" for example in ENDINGS[name].examples
        ]
        for line in shown:
            a = vars(parser.parse_args(shlex.split(line)[1:]))
            files = [a.get(key) or [] for key in ("input", "inputs", "picture")]
            files = [file for one in files for file in (one if isinstance(one, list) else [one])]
            assert all((ROOT / file).exists() for file in files), line


def test_the_helps_say_the_size_of_pictures_and_the_seconds_to_expect():
    silent = [name for name, end in ENDINGS.items() if not (end.size and end.seconds)]
    assert all(name in ("models", "words", "studio") or name.startswith("weights ") for name in silent)


def test_the_examples_name_checkpoints_that_are_known():
    words = [shlex.split(example) for end in ENDINGS.values() for example in end.examples]
    named = {line[2] for line in words if line[:2] in (["weights", "get"], ["weights", "verify"])}
    known = {published.name for published in PUBLISHED}
    assert named and all(name in known or (ROOT / name).is_file() for name in named)


def test_the_mistake_of_the_page_is_said_in_its_words(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    picture = ROOT / "figures" / "hand" / "heart.png"
    assert main(["sdedit", str(picture), "--prompt", "a red haert", "-o", "red.png"]) == 2
    said = capsys.readouterr().err.strip()
    assert said in (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") and not list(
        tmp_path.iterdir()
    )
