"""methods/glide_session.py and the glide command: history, scripts, and lines that make no sense."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import palimpsest.methods.glide_session as module
from palimpsest.cli.main import main
from palimpsest.methods.glide import Painted
from palimpsest.methods.glide_session import Session, box, masks_in, parse
from palimpsest.weights.load import load
from palimpsest.worlds.files import read_picture, write_picture
from tests.tiny import tiny_glide

A, B = "a red star on a blue background", "a red star left of a green ring on a blue background"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("session")
    tiny_glide(out, "base", 8, inpainting=True)
    tiny_glide(out, "up", 16, upsampling=True, inpainting=True)
    g = torch.Generator().manual_seed(0)
    write_picture(torch.rand((1, 3, 16, 16), generator=g) * 2 - 1, out / "in.png")
    mask = -torch.ones(1, 3, 16, 16)
    mask[..., 2:9, 2:9] = 1
    write_picture(mask, out / "mask.png")
    write_picture(mask.repeat_interleave(3, 2).repeat_interleave(3, 3), out / "large.png")
    return out


@pytest.fixture
def session(folder):
    return Session(
        load(folder / "base.safetensors", "cpu"), load(folder / "up.safetensors", "cpu"), seed=5, steps="3"
    )


def test_undo_and_redo_walk_through_the_states(session):
    first = session.paint(A)
    second = session.paint(B, box(0.5, 0.2, 0.95, 0.8, 16))
    assert torch.equal(session.picture, second) and not torch.equal(first, second)
    session.undo()
    assert torch.equal(session.picture, first)
    session.redo()
    assert torch.equal(session.picture, second) and len(session.states) == 2
    session.undo()
    session.paint(A, box(0, 0, 0.5, 0.5, 16))
    with pytest.raises(ValueError, match="redo"):
        session.redo()


def test_a_step_keeps_what_is_not_marked(session):
    first, mask = session.paint(A), box(0.5, 0.2, 0.95, 0.8, 16)
    second = session.paint(B, mask)
    assert torch.equal(second[(mask == 0).expand(1, 3, -1, -1)], first[(mask == 0).expand(1, 3, -1, -1)])


def test_a_step_after_an_undo_is_the_step_it_would_have_been(session):
    session.paint(A)
    wanted = session.paint(B, box(0.5, 0.2, 0.95, 0.8, 16))
    session.undo()
    assert torch.equal(session.paint(B, box(0.5, 0.2, 0.95, 0.8, 16)), wanted)
    assert session.states[-1].seed == 6


@pytest.fixture
def seeds(monkeypatch):
    """What `glide` is told by a session that has it replaced by an empty picture."""
    told = []

    def only_told(model, prompt, *, seed, **how):
        told.append(seed)
        return Painted(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 8, 8), [], [])

    monkeypatch.setattr(module, "glide", only_told)
    return told


def test_a_step_draws_from_its_place_in_the_session_or_from_the_seed_that_it_is_given(session, seeds):
    session.paint(A)
    session.paint(B)
    session.undo()
    session.paint(B)
    session.paint(A, seed=0)
    session.paint(A)
    assert seeds == [5, 6, 6, 0, 8] and [state.seed for state in session.states] == [5, 6, 0, 8]


def test_what_was_undone_is_gone_after_the_next_step(session, seeds):
    session.paint(A)
    session.paint(B)
    session.undo()
    session.paint(A)
    with pytest.raises(ValueError, match="^redo: nothing was undone"):
        session.redo()
    assert [state.prompt for state in session.states] == [A, A]


def test_the_strip_shows_every_state(session):
    session.paint(A)
    one = session.strip()
    session.paint(B, box(0.5, 0.2, 0.95, 0.8, 16))
    assert session.strip().shape[-1] > one.shape[-1]


def test_an_empty_session_says_so(session):
    for call in (lambda: session.picture, session.undo, session.redo, session.strip):
        with pytest.raises(ValueError):
            call()


def test_a_script_does_what_its_lines_say(session, folder):
    script = f"# a remark\n{A}\n\n{B} | box .5 .2 .95 .8 | seed 40  # the ring\nundo\n{B} | mask large.png\n"
    session.run(parse(script, folder))
    by_hand = Session(session.model, session.upsampler, seed=5, steps="3")
    by_hand.paint(A)
    by_hand.paint(B, (read_picture(folder / "mask.png").mean(1, keepdim=True) > 0).float())
    assert [s.prompt for s in session.states] == [A, B] and torch.equal(session.picture, by_hand.picture)


@pytest.mark.parametrize(
    "line, said",
    [
        (f"{A} | box 1 2 3", "box: give left top right bottom"),
        (f"{A} | box .5 .5 .5 .9", "holds no pixel"),
        (f"{A} | blur 3", "is no option"),
        (f"{A} | mask nowhere.png", "nowhere.png"),
        ("| box 0 0 1 1", "no prompt"),
        (f"{A} | seed x", "is no option"),
        (f"{A} | box 0 0 .5 .5 | mask mask.png", "give one of them"),
        ("a zzz star", "zzz"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_done(session, folder, line, said):
    with pytest.raises(ValueError, match="script: line 3: ") as caught:
        parse(f"{A}\n\n{line}\n", folder, session.model.embed)
    assert said in str(caught.value) and not session.states


def test_boxes_that_share_an_edge_share_no_pixel_and_leave_none_out():
    for edge in (0.375, 0.5, 0.6):  # .375 is the centre of a pixel
        assert torch.equal(box(0, 0, edge, 1, 4) + box(edge, 0, 1, 1, 4), torch.ones(1, 1, 4, 4))
        assert torch.equal(box(0, 0, 1, edge, 4) + box(0, edge, 1, 1, 4), torch.ones(1, 1, 4, 4))
    assert box(0, 0, 0.375, 1, 4).sum() == 4 and box(0, 0, 0.5, 0.25, 4)[0, 0, 0].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("text", ["", "\n\n", "# a remark alone\n"])
def test_a_script_without_a_step_is_refused(text):
    with pytest.raises(ValueError, match="^script: holds no step"):
        parse(text)


def test_a_step_that_cannot_be_done_is_named_and_the_rest_stands(session):
    with pytest.raises(ValueError, match="script: line 2: undo|script: line 2"):
        session.run(parse(f"{A}\nredo\n"))
    assert len(session.states) == 1


def test_the_command_paints_inpaints_and_keeps_a_session(folder, tmp_path, capsys):
    stages = [
        "--model",
        str(folder / "base.safetensors"),
        "--upsampler",
        str(folder / "up.safetensors"),
        "--steps",
        "3",
        "--up-steps",
        "3",
        "--device",
        "cpu",
    ]
    assert (
        main(
            [
                "glide",
                "generate",
                "--prompt",
                A,
                "-n",
                "2",
                "-o",
                str(tmp_path / "a.png"),
                *stages,
                "--save-steps",
                str(tmp_path / "walk"),
            ]
        )
        == 0
    )
    assert (
        main(
            [
                "glide",
                "generate",
                "--prompt",
                A,
                "-n",
                "2",
                "-o",
                str(tmp_path / "soft.png"),
                *stages,
                "--blur",
            ]
        )
        == 0
    )
    assert (tmp_path / "soft.png").read_bytes() != (tmp_path / "a.png").read_bytes()
    assert sorted(p.name for p in (tmp_path / "walk").iterdir()) == [f"step_{k:03d}.png" for k in range(4)]
    assert (
        main(
            [
                "glide",
                "inpaint",
                str(folder / "in.png"),
                "--mask",
                str(folder / "mask.png"),
                "--prompt",
                A,
                "-o",
                str(tmp_path / "b.png"),
                *stages,
                "--save-steps",
                str(tmp_path / "steps.png"),
            ]
        )
        == 0
    )
    assert (tmp_path / "steps.png").exists()
    before, after, mask = (
        read_picture(p) for p in (folder / "in.png", tmp_path / "b.png", folder / "mask.png")
    )
    kept = (mask < 0).expand_as(before)
    assert torch.equal(before[kept], after[kept]) and not torch.equal(before, after)
    (tmp_path / "s.txt").write_text(f"{A}\n{B} | box .5 .2 .95 .8\n", encoding="utf-8")
    assert (
        main(
            [
                "glide",
                "session",
                str(tmp_path / "s.txt"),
                "--strip",
                str(tmp_path / "strip.png"),
                "-o",
                str(tmp_path / "c.png"),
                *stages,
            ]
        )
        == 0
    )
    assert (tmp_path / "strip.png").exists() and read_picture(tmp_path / "c.png").shape == (1, 3, 16, 16)
    assert "2 states" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv, said",
    [
        (["session", "bad.txt"], "script: line 2"),
        (["session", "nowhere.txt"], "script: "),
        (["generate", "--prompt", "a zzz"], "zzz"),
        (["generate", "--prompt", A, "-n", "0"], "n: "),
        (["generate", "--prompt", A, "--scale", "2"], "scale: "),
        (["generate", "--prompt", A, "--w", "nan"], "w: "),
        (["inpaint", "in.png", "--mask", "mask.png", "--prompt", A, "--how", "magic"], "how: "),
        (
            ["inpaint", "in.png", "--mask", "mask.png", "--prompt", A, "--model", "up.safetensors"],
            "upsampler",
        ),
        (["generate", "--prompt", A, "--steps", "foo"], "steps: "),
        (["generate", "--prompt", A, "--up-steps", "foo"], "up-steps: "),
        (["session", "good.txt", "--up-steps", "foo"], "up-steps: "),
        (["generate", "--prompt", A, "--upsampler", "base.safetensors"], "upsampler: "),
        (["generate", "--prompt", " ".join([A] * 5)], "prompt"),
        (["generate", "--prompt", A, "--steps", "foo", "--estimate"], "steps: "),
    ],
)
def test_a_mistake_ends_in_one_line_and_no_file(folder, tmp_path, monkeypatch, capsys, argv, said):
    monkeypatch.chdir(folder)
    (folder / "bad.txt").write_text(f"{A}\n{B} | box 1 2\n", encoding="utf-8")
    (folder / "good.txt").write_text(f"{A}\n", encoding="utf-8")
    models = [] if "--model" in argv else ["--model", "base.safetensors"]
    out = tmp_path / "x.png"
    rest = {"--upsampler": "up.safetensors", "--steps": "2", "--up-steps": "2", "-o": str(out)}
    more = [word for pair in rest.items() if pair[0] not in argv for word in pair]
    assert main(["glide", *argv, *models, *more]) == 2
    line = capsys.readouterr().err.strip()
    assert said in line and len(line.splitlines()) == 1 and not out.exists()


def test_a_person_is_asked_until_done(folder, tmp_path, monkeypatch, capsys):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(f"{A}\nundo\na zzz\n{A}\ndone\n"))
    assert (
        main(
            [
                "glide",
                "session",
                "--model",
                str(folder / "base.safetensors"),
                "--upsampler",
                "none",
                "--steps",
                "2",
                "--device",
                "cpu",
                "-o",
                str(tmp_path / "x.png"),
            ]
        )
        == 0
    )
    seen = capsys.readouterr()
    assert "zzz" in seen.err and "1 state," in seen.out


def test_a_session_on_a_file_of_another_size_gives_back_that_size(folder, tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8))
    picture.save(tmp_path / "wide.png")
    (tmp_path / "s.txt").write_text(f"{A} | box .3 .3 .7 .7\n", encoding="utf-8")
    assert (
        main(
            [
                "glide",
                "session",
                str(tmp_path / "s.txt"),
                "--picture",
                str(tmp_path / "wide.png"),
                "--model",
                str(folder / "base.safetensors"),
                "--upsampler",
                "none",
                "--steps",
                "2",
                "--device",
                "cpu",
                "-o",
                str(tmp_path / "x.png"),
            ]
        )
        == 0
    )
    with Image.open(tmp_path / "x.png") as made:
        assert made.size == (40, 24)
        pixels = np.asarray(made.convert("RGB"))
    given = np.asarray(picture)
    assert (pixels[:4] == given[:4]).all() and (pixels[:, :14] == given[:, :14]).all(), (
        "what no box marks keeps its pixels"
    )
    assert (pixels[10:14, 18:22] != given[10:14, 18:22]).any()


def test_what_guides_must_be_told_what_to_look_for_and_how_strongly_in_its_own_words(
    folder, tmp_path, capsys
):
    stages = [
        "--model",
        str(folder / "base.safetensors"),
        "--upsampler",
        "none",
        "--steps",
        "2",
        "-o",
        str(tmp_path / "x.png"),
    ]
    for more, said in (
        (["--prompt", "", "--guide", "classifier"], "prompt: "),
        (["--prompt", A, "--guide", "clip", "--w", "5"], "w: "),
    ):
        assert main(["glide", "generate", *more, *stages]) == 2
        line = capsys.readouterr().err.strip()
        assert (
            line.startswith(f"palimpsest: error: {said}")
            and len(line.splitlines()) == 1
            and not (tmp_path / "x.png").exists()
        )


def test_the_masks_of_a_script_are_its_files_and_nothing_else(tmp_path):
    text = "a star | mask a.png | seed 3\nundo\n# a ring | mask no.png\na ring | mask b.png\n"
    assert masks_in(text, tmp_path) == [tmp_path / "a.png", tmp_path / "b.png"]
