"""The command line, called in this process on a tiny random model: what it writes and says, where its
defaults are.
"""

import configparser
import functools
import inspect
import io
import os
import re
import shlex
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import palimpsest.cli.manners as cli
from palimpsest.cli import demo
from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.commands.solvers import step_of
from palimpsest.cli.main import command_line, main
from palimpsest.methods.diffedit import Ablation, MaskRule, diffedit
from palimpsest.methods.rf_inversion import rf_inversion
from palimpsest.methods.sampling import generate
from palimpsest.methods.sdedit import Edit, sdedit
from palimpsest.nets.tokenizer import TextCut
from palimpsest.samplers.solvers import DDIM, Ancestral, DPMSolver2M, Heun
from palimpsest.weights.load import load
from palimpsest.worlds.files import read_picture
from tests.tiny import tiny_weights

NAMES = (
    "sdedit",
    "diffedit",
    "flow-edit",
    "rf-inversion",
    "text2live",
    "prompt-to-prompt",
    "null-text",
    "invert",
    "attention",
    "generate",
    "models",
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A folder to work in, with a picture 40 wide and 40 high, and a mask whose left half is white."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("in.png")
    Image.fromarray(np.uint8(255 * (np.arange(40) < 20))[None].repeat(40, 0)).save("mask.png")
    return tmp_path


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def sdedit_argv(tiny, *more):
    return [
        "sdedit",
        "in.png",
        "--prompt",
        "a red star",
        "--steps",
        "1",
        "--model",
        str(tiny),
        "-o",
        "out.png",
        *more,
    ]


# ---- what the README shows ----


def test_the_commands_of_the_pages_are_understood_and_name_files_that_are_there_or_that_a_line_before_wrote():
    root = Path(__file__).parent.parent
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line.startswith("palimpsest ")]
    assert len(lines) > 25
    written = set()
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        a = vars(command_line(cli.Parser).parse_args(words))
        given = [a[name] for name in ("inputs", "input", "mask", "prompts") if a.get(name)]
        given = [file for files in given for file in (files if isinstance(files, list) else [files])]
        missing = [file for file in given if not (root / file).exists() and file not in written]
        written |= {a.get("save_mask"), a.get("out")}
        assert missing == (["photo.jpg"] if "photo.jpg" in words else []), (
            line
        )  # the reader's own, with real weights


def test_an_edit_imports_neither_torchvision_nor_the_compiler(tmp_path):
    root = Path(__file__).parent.parent
    line = [str(root / "figures/hand/circle_and_square.png"), "--instruction", "make the circle green"]
    line = ["palimpsest", "instruct-pix2pix", *line, "--steps", "1", "-o", str(tmp_path / "o.png")]
    code = (  # einops before 0.8.2, or with torch before 2.8, imports the compiler itself at its first call
        "import sys, torch, einops; einops.rearrange(torch.zeros(2), '(a b) -> a b', a=1); "
        "unwanted = {'torchvision', 'torch._dynamo', 'matplotlib'} - sys.modules.keys(); "
        f"from palimpsest.cli.main import main; sys.argv = {line!r}; code = main(); "
        "sys.exit(code or str(sorted(unwanted & sys.modules.keys())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.stderr.splitlines()[-1] == "[]" and (tmp_path / "o.png").exists()


@pytest.mark.parametrize("own, found", [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_leave_the_cores_to_others_while_they_wait_unless_you_say_otherwise(own, found):
    env = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    env |= {"OMP_WAIT_POLICY": own} if own else {}
    code = (
        "import palimpsest, os, sys; assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"
    )
    root = Path(__file__).parent.parent
    line = [sys.executable, "-c", code]
    assert subprocess.run(line, cwd=root, env=env, capture_output=True).stdout.decode().strip() == found


# ---- sdedit ----


def test_sdedit_writes_a_picture_of_the_files_size_and_says_where_it_stood(room, tiny, capsys):
    assert main(sdedit_argv(tiny)) == 0
    assert pixels("out.png").shape == (40, 40, 3) and (pixels("out.png") != pixels("in.png")).any()
    said = capsys.readouterr()
    assert (
        said.err == ""
        and said.out.startswith("out.png: t0 0.500 (σ 1.01, SNR 0.9")
        and said.out.count("\n") == 1
    )
    assert sorted(p.name for p in room.iterdir()) == ["in.png", "mask.png", "out.png"]


def test_the_command_line_does_what_the_verb_does(room, tiny):
    settings = ["--t0", ".7", "--repeats", "2", "--w", "2", "--eta", "0", "--seed", "3"]
    assert main(sdedit_argv(tiny, *settings, "--save-steps", "steps")) == 0
    model = load(tiny)
    edit = sdedit(
        model,
        read_picture("in.png", model.size),
        "a red star",
        t0=0.7,
        repeats=2,
        w=2.0,
        step=DDIM(),
        seed=3,
        steps=1,
    )
    want = ((model.decode(edit.path[-1]) + 1) * 127.5).round()[0].permute(1, 2, 0).numpy().astype(np.uint8)
    assert np.array_equal(pixels("steps/step_001.png"), want)
    assert sorted(p.name for p in Path("steps").iterdir()) == ["step_000.png", "step_001.png"]


def test_kept_pixels_are_the_files_own_at_the_files_own_size(room, tiny):
    assert (
        main(sdedit_argv(tiny, "--mask", "mask.png", "--save-mask", "seen.png", "--save-steps", "walk.png"))
        == 0
    )
    before, after = pixels("in.png"), pixels("out.png")
    assert np.array_equal(after[:, 20:], before[:, 20:]) and (after[:, :20] != before[:, :20]).mean() > 0.5
    seen = pixels("seen.png")
    assert seen.shape == (32, 32, 3) and (seen[:, :16] == 255).all() and (seen[:, 16:] == 0).all()
    assert pixels("walk.png").shape[1] > 2 * 3 * 32  # two frames, three times as large
    assert main(sdedit_argv(tiny, "--mask", "mask.png", "--no-paste")) == 0
    assert (pixels("out.png")[:, 20:] != before[:, 20:]).any()


def test_the_kept_part_can_come_from_another_file(room, tiny):
    Image.new("RGB", (40, 40), (10, 200, 30)).save("other.png")
    assert main(sdedit_argv(tiny, "--mask", "mask.png", "--original", "other.png")) == 0
    assert (pixels("out.png")[:, 20:] == (10, 200, 30)).all()


def test_a_wide_picture_is_edited_whole_or_in_its_central_square(room, tiny, capsys):
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 60, 3), dtype=np.uint8)).save("in.png")
    assert main(sdedit_argv(tiny)) == 0
    assert pixels("out.png").shape == (20, 60, 3)
    assert main(sdedit_argv(tiny, "--crop")) == 0
    assert capsys.readouterr().err == ""
    same = (pixels("out.png") == pixels("in.png")).all(2)
    assert same[:, :20].all() and same[:, 40:].all() and not same[:, 20:40].all()


def test_the_person_is_asked_until_content_and_sees_each_edit(room, tiny, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("r\nperhaps\nmore faithful\nd\n"))
    assert main(sdedit_argv(tiny, "--ask")) == 0
    out = capsys.readouterr().out
    assert out.count("[d]one?") == 4 and "t0 0.631" in out  # .515, then .7475, then .63125
    assert pixels("out.png").shape == (40, 40, 3)


def test_the_end_of_the_answers_means_content(room, tiny, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(sdedit_argv(tiny, "--ask")) == 0
    assert "t0 0.515" in capsys.readouterr().out


def test_a_target_distance_chooses_t0_by_bisection(room, monkeypatch, tiny, capsys):
    tried = []

    @functools.wraps(sdedit)  # the options take their defaults and ranges from the signature
    def fake(model, guide, prompt, *, t0, **others):
        tried.append(t0)
        return Edit((guide + t0 / 2).clamp(-1, 1), guide, guide, [guide], [0.0], 1.0, 1.0, 1)

    Image.new("RGB", (40, 40), "black").save("in.png")
    monkeypatch.setattr("palimpsest.cli.commands.sdedit.sdedit", fake)
    assert main(sdedit_argv(tiny, "--target-distance", ".1")) == 0  # black raised by t0/2 is t0/4 away
    assert len(tried) > 2 and tried[-1] == pytest.approx(0.4, abs=0.01)
    assert capsys.readouterr().err == ""
    assert main(sdedit_argv(tiny, "--target-distance", ".9")) == 0  # out of reach: t0 ≤ 1 gives .25 at most
    assert "came no nearer to 0.9" in capsys.readouterr().err


# ---- flow-edit ----


def test_flow_edit_writes_what_the_verb_makes_and_keeps_the_files_own_pixels(room, tiny, capsys):
    argv = ["flow-edit", "in.png", "--source", "a red star", "--target", "a blue star", "--model", str(tiny)]
    more = ["--steps", "2", "--start", ".5", "--mask", "mask.png", "--save-steps", "steps", "-o", "out.png"]
    assert main([*argv, *more]) == 0
    assert capsys.readouterr().out.startswith("out.png: from s = 0.5 (σ 1), 3 evaluations, distance ")
    assert np.array_equal(pixels("out.png")[:, 20:], pixels("in.png")[:, 20:])
    assert (pixels("out.png")[:, :16] != pixels("in.png")[:, :16]).any()
    assert sorted(p.name for p in Path("steps").iterdir()) == ["step_000.png", "step_001.png"]
    assert main([*argv, "--start", "0", "-o", "other.png"]) == 2 and not Path("other.png").exists()
    assert capsys.readouterr().err.startswith("palimpsest: error: start: must lie in (0, 1], got 0.0")


# ---- rf-inversion ----


def test_rf_inversion_writes_what_the_verb_makes(room, tiny, capsys):
    argv = ["rf-inversion", "in.png", "--target", "a blue star", "--model", str(tiny), "--steps", "3"]
    assert main([*argv, "--hold", ".5", "--save-steps", "steps", "-o", "out.png"]) == 0
    assert capsys.readouterr().out.startswith("out.png: to s = 0.97 and back, 9 evaluations, distance ")
    assert len(list(Path("steps").iterdir())) == 4
    model = load(tiny)
    made = rf_inversion(model, read_picture("in.png", model.size), "a blue star", steps=3, hold=0.5)
    want = ((made.picture + 1) * 127.5).round()[0].permute(1, 2, 0).numpy().astype(np.uint8)
    assert np.array_equal(pixels("steps/step_003.png"), want) and pixels("out.png").shape == (40, 40, 3)
    assert main([*argv, "--eta", "2", "-o", "other.png"]) == 2 and not Path("other.png").exists()
    assert capsys.readouterr().err.startswith("palimpsest: error: eta: must lie in [0, 1], got 2.0")


# ---- text2live ----

PAINT = ["text2live", "in.png", "--source", "a red star", "--target", "a blue star", "--layer", "a blue star"]


def test_text2live_writes_the_layer_that_was_laid_over_the_picture(room, capsys):
    more = [
        "--steps",
        "3",
        "--views",
        "1",
        "--save-layer",
        "layer.png",
        "--save-steps",
        "steps",
        "--size",
        "40",
    ]
    assert main([*PAINT, *more, "--compare", "sheet.png", "--gif", "walk.gif", "-o", "out.png"]) == 0
    assert capsys.readouterr().out.startswith("out.png: 3 steps, loss ")
    layer = np.asarray(Image.open("layer.png")).astype(float) / 255
    assert layer.shape == (40, 40, 4)
    laid = layer[..., :3] * layer[..., 3:] + (1 - layer[..., 3:]) * pixels("in.png") / 255
    assert np.abs(255 * laid - pixels("out.png")).max() < 2  # 8 bits, twice
    assert sorted(p.name for p in Path("steps").iterdir()) == [f"step_{n:03d}.png" for n in range(4)]
    assert np.array_equal(pixels("steps/step_003.png"), pixels("out.png"))
    assert not Path("out.png.state").exists()


def test_a_stopped_text2live_goes_on_from_its_state_to_the_same_bits(room, monkeypatch, capsys):
    words = [*PAINT, "--steps", "4", "--views", "1"]
    assert main([*words, "-o", "whole.png"]) == 0
    from palimpsest.methods import text2live as method

    crops, crop_of = [], method.crop_of

    def stop(*given, **named):
        crops.append(1)
        if len(crops) == 3:
            raise KeyboardInterrupt
        return crop_of(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(method, "crop_of", stop)
        assert main([*words, "-o", "out.png"]) == 130
    assert Path("out.png.state").exists() and not Path("out.png").exists()
    assert main([*words, "-o", "out.png"]) == 0 and not Path("out.png.state").exists()
    assert np.array_equal(pixels("out.png"), pixels("whole.png"))
    assert main(["again", "out.png"]) == 0 and "to the bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, said",
    [
        (["--target", "a red star"], "target: says what source says"),
        (["--clip", "shapes-clip-noised"], "clip: must be a CLIP of clean pictures"),
        (["--clip", "none.safetensors"], "clip: "),
        (["--clip", "clip-vit-b-32"], "clip: clip-vit-b-32 is not on this disk"),
        (["--sparsity", "-1"], "sparsity: must be at least 0"),
        (["--views", "0"], "views: must be at least 1"),
        (["--steps", "0"], "steps: must be at least 1"),
    ],
)
def test_mistakes_of_text2live_are_one_line(words, said, room, capsys):
    assert main([*PAINT, "--steps", "1", "--views", "1", *words, "-o", "out.png"]) == 2
    found = capsys.readouterr().err
    assert found.startswith(f"palimpsest: error: {said}") and found.count("\n") == 1, found
    assert not Path("out.png").exists() and not Path("out.png.state").exists()


def test_text2live_estimates_without_painting(room, capsys):
    assert main([*PAINT, "--steps", "7", "--estimate"]) == 0
    assert "network evaluations 7" in capsys.readouterr().out and len(list(room.iterdir())) == 2


# ---- generate, models ----


def test_generate_writes_one_picture_a_sheet_or_numbered_files(room, tiny, monkeypatch):
    argv = ["generate", "--prompt", "a blue heart", "--steps", "1", "--model", str(tiny), "--seed", "4"]
    assert main([*argv, "-o", "one.png"]) == 0
    assert pixels("one.png").shape == (32, 32, 3)
    monkeypatch.setattr(
        "palimpsest.cli.commands.generate.BATCH", 2
    )  # picture i is the same whatever the batches
    assert main([*argv, "-n", "3", "-o", "heart{i}.png"]) == 0
    made = generate(load(tiny), "a blue heart", n=3, steps=1, seed=4).picture
    want = ((made + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    for i in range(3):
        assert np.abs(pixels(f"heart{i}.png") - want[i]).max() < 0.6
    assert np.array_equal(pixels("heart0.png"), pixels("one.png"))
    assert main([*argv, "-n", "3", "-o", "sheet.png"]) == 0
    assert min(pixels("sheet.png").shape[:2]) > 2 * 3 * 32
    assert len(list(room.iterdir())) == 2 + 1 + 3 + 1
    assert (
        main([*argv, "-n", "3", "-o", "heart{i}.png", "--save-steps", "steps"]) == 0
    )  # the walk of the first
    assert sorted(p.name for p in Path("steps").iterdir()) == ["step_000.png", "step_001.png"]
    assert np.array_equal(pixels("steps/step_001.png"), pixels("heart0.png"))


def test_models_prints_size_recipe_and_figures_of_each(monkeypatch, capsys):
    record = dict(
        bytes=2**21,
        parameters=1_500_000,
        recipe="python -m palimpsest.training.shapes",
        figures=dict(psnr=34.5, curve=[1]),
    )
    monkeypatch.setattr("palimpsest.cli.commands.models.manifest", lambda: {"shapes.safetensors": record})
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert (
        out.split()
        == "shapes 2.0 MB 1.50 M parameters python -m palimpsest.training.shapes psnr 34.5".split()
    )


# ---- what all commands share ----


@pytest.mark.parametrize(
    "argv, verbs, own",
    [
        (["sdedit", "in.png", "-o", "out.png"], [sdedit], {"model", "guide", "mask", "original", "step"}),
        (
            ["diffedit", "in.png", "--target", "", "-o", "out.png"],
            [diffedit, MaskRule, Ablation],
            {"model", "x", "mask", "rule", "ablation", "step"},
        ),
        (["generate", "--prompt", "", "-o", "out.png"], [generate], {"model", "prompts", "step"}),
    ],
)
def test_the_defaults_are_those_of_the_verb_and_of_its_records(argv, verbs, own):
    parsed = command_line(cli.Parser).parse_args(argv)
    parameters = {name: p for verb in verbs for name, p in inspect.signature(verb).parameters.items()}
    assert {name: vars(parsed)[name] for name in parameters if name not in own} == {
        name: p.default for name, p in parameters.items() if name not in own
    }
    default = inspect.signature(verbs[0]).parameters["step"].default
    assert step_of(parsed) == (DDIM(eta=1.0) if verbs == [sdedit] else default)


@pytest.mark.parametrize(
    "options, step",
    [
        ("", DDIM(0.0)),
        ("--eta 0.3", DDIM(0.3)),
        ("--solver ddim", DDIM()),
        ("--solver ddpm", Ancestral()),
        ("--solver heun", Heun()),
    ],
)
def test_solver_and_eta_name_a_step(options, step):
    argv = ["generate", "--prompt", "", "-o", "out.png", *options.split()]
    assert step_of(command_line(cli.Parser).parse_args(argv)) == step


def test_a_solver_with_a_memory_is_made_anew_for_each_walk():
    parsed = command_line(cli.Parser).parse_args("generate --prompt x -o o.png --solver dpm++2m".split())
    one, two = step_of(parsed), step_of(parsed)
    assert isinstance(one, DPMSolver2M) and one is not two


def test_the_bar_counts_the_calls_of_the_net_and_leaves_no_trace(tiny, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, total, **others):
            self.total, self.n = total, 0
            bars.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def update(self):
            self.n += 1
            return True  # as tqdm does; a hook must not hand it on

    monkeypatch.setattr(cli, "tqdm", Bar)
    model = load(tiny)
    plain = generate(model, "a star", steps=2).picture
    with cli.progress(model, 2):
        watched = generate(model, "a star", steps=2).picture
    generate(model, "a star", steps=1)
    assert torch.equal(plain, watched) and [(bar.n, bar.total) for bar in bars] == [(2, 2)]


@pytest.mark.parametrize("argv", [["--help"], *([name, "--help"] for name in NAMES)])
def test_every_command_explains_itself(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 0 and "palimpsest" in capsys.readouterr().out


def test_the_list_of_commands_needs_no_torch_and_is_what_each_command_says():
    code = (
        "import sys; from palimpsest.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parent.parent
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, encoding="utf-8"
    )
    assert shown.returncode == 0
    everything = command_line(cli.Parser).format_help()
    assert shown.stdout.split() == everything.split() and all(name in everything for name in COMMANDS)


def test_the_console_script_is_this_main_by_the_way_on_which_ctrl_c_is_heard_while_it_is_imported():
    setup = configparser.RawConfigParser()
    setup.read(Path(__file__).parent.parent / "setup.cfg", encoding="utf-8")
    assert "palimpsest = palimpsest.__main__:main" in setup["options.entry_points"]["console_scripts"]
    assert import_module("palimpsest.__main__").main is main


def test_a_prompt_that_was_cut_is_a_note_and_other_warnings_stay_as_they_are(capsys):
    def work():
        warnings.warn("the prompt has 80 tokens and the model reads 75", TextCut, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)

    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        assert cli.exit_code_of(work) == 0
    assert capsys.readouterr().err == "palimpsest: note: the prompt has 80 tokens and the model reads 75\n"
    assert [str(w.message) for w in others] == ["something else"]


def test_a_size_far_from_the_training_and_guidance_away_from_the_text_are_noted(room, tiny, capsys):
    usual = ["sdedit", "in.png", "--steps", "1", "--model", str(tiny), "-o", "out.png"]
    assert main([*usual, "--size", "7", "--w", "-3"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "palimpsest: note: w: -3 is negative, which leads away from the text"
    assert re.match(r"palimpsest: note: size: 7 pixels are far fewer than the \d+ that tiny was", said[1])
    assert len(said) == 2 and main(usual) == 0 and capsys.readouterr().err == ""


def test_memory_that_cannot_be_had_is_one_line(capsys):
    assert cli.exit_code_of(lambda: torch.empty(2**60, dtype=torch.uint8)) == 2
    said = capsys.readouterr().err
    assert said.startswith("palimpsest: error: out of memory") and said.count("\n") == 1

    def nothing():
        raise MemoryError  # Python's own says nothing

    assert cli.exit_code_of(nothing) == 2
    assert capsys.readouterr().err == "palimpsest: error: out of memory: ask for less at once\n"


def test_ctrl_c_while_the_program_starts_is_one_line(monkeypatch, capsys):
    def stopped(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("palimpsest.cli.main.command_line", stopped)
    assert main(["models"]) == 130
    assert capsys.readouterr().err == "palimpsest: interrupted\n"


# ---- the demonstration ----


def test_the_demo_shows_every_file_and_its_edits(room, tiny, capsys):
    assert demo.main(["--model", str(tiny), "--steps", "1"]) == 0
    out, told = capsys.readouterr().out, sum(map(len, demo.TOLD.values()))
    assert (
        "demo.png" in out
        and f"{len(demo.WISHES)} edits" in out
        and f"{told} edits" in out
        and f"{len(demo.WISHES) + told} edits" in out
    )
    y, x, _ = pixels("demo.png").shape
    assert x > 8 * 3 * 64 and y > 6 * 3 * 32 + 3 * 3 * 64
    assert {wish.file for wish in demo.WISHES} == {
        p.name for p in demo.FOLDER.iterdir() if p.suffix not in (".json", "")
    }
    assert set(demo.TOLD) == {p.name for p in demo.EMOJI.iterdir()}


def test_the_demos_emoji_are_held_out_pictures_and_it_says_what_their_world_says(tmp_path):
    from palimpsest.claims.draw import emoji
    from palimpsest.worlds.emoji import is_held_out, open_world, texts

    world = open_world()
    known = {word for text in texts(world) for word in text.split()}
    emoji.main(tmp_path)
    for name, asked in demo.TOLD.items():
        with Image.open(demo.EMOJI / name) as file, Image.open(tmp_path / name) as made:
            assert np.array_equal(np.asarray(file), np.asarray(made)) and file.mode == "RGBA"
        of = [e for e in world.emoji if (e.name, e.style) == (emoji.PICTURES[name], "twemoji")]
        assert len(of) == 1 and is_held_out(of[0])
        assert all(set(text.split()) <= known for text in asked)


def test_the_demos_prompts_are_words_and_pairs_that_the_model_was_taught():
    from palimpsest.nets.tokenizer import WordTokenizer
    from palimpsest.worlds.scene import HELD_OUT, WORDS

    assert WordTokenizer(list(WORDS))([wish.prompt for wish in demo.WISHES]).shape == (len(demo.WISHES), 24)
    assert not [w for w in demo.WISHES for colour, shape in HELD_OUT if f"{colour} {shape}" in w.prompt]


# ---- the other world ----


@pytest.mark.slow
def test_every_verb_edits_an_emoji_file_of_any_size_and_alpha_only_rises(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Image.open(demo.EMOJI / "heart.png") as file:
        file.resize((100, 80)).save("in.png")
        alpha = np.asarray(file.resize((100, 80)).getchannel("A"))
    before, after = (f"{colour} heart in twemoji style on a white background" for colour in ("pink", "green"))
    words = dict(
        sdedit=["--prompt", after],
        diffedit=["--source", before, "--target", after],
        invert=["--prompt", before],
        **{
            "null-text": ["--prompt", before, "--w", "2"],
            "instruct-pix2pix": ["--instruction", "make the heart green"],
        },
    )
    for verb, said in words.items():
        model = "emoji-instruct" if verb == "instruct-pix2pix" else "emoji"
        assert main([verb, "in.png", *said, "--model", model, "--steps", "2", "-o", f"{verb}.png"]) == 0
    assert (
        main(
            [
                "prompt-to-prompt",
                before,
                after,
                "--input",
                "in.png",
                "--model",
                "emoji",
                "--steps",
                "2",
                "-o",
                "p2p.png",
            ]
        )
        == 0
    )
    for verb in ("sdedit", "diffedit", "null-text", "instruct-pix2pix", "p2p"):
        with Image.open(f"{verb}.png") as made:
            assert (
                made.size == (100, 80)
                and made.mode == "RGBA"
                and (np.asarray(made.getchannel("A")) >= alpha).all()
            )
    for verb, said in (
        ("generate", ["--prompt", after]),
        ("attention", ["--prompt", "a heart that nobody drew in twemoji style"]),
    ):
        assert main([verb, *said, "--model", "emoji", "--steps", "2", "-o", f"{verb}.png"]) == 0
