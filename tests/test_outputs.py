"""Nothing is lost: no output is an input, a file is written whole or not at all, one run at a time, and what a
killed or interrupted run leaves behind is either a state to go on from, or gone.
"""

import argparse
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from palimpsest.arguments import ArgumentError
from palimpsest.cli import files
from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.main import command_line, main
from palimpsest.cli.manners import Parser
from palimpsest.fit.processes import rank_and_world
from palimpsest.outputs import (
    OutputError,
    check_outputs,
    check_writable,
    locked,
    place,
    uninterrupted,
    whole,
    whole_folder,
    write_text,
)
from tests.tiny import tiny_weights

ROOT = Path(__file__).parent.parent


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A folder with pictures and a model."""
    monkeypatch.chdir(tmp_path)
    for name in ("in.png", "mask.png"):
        Image.linear_gradient("L").resize((32, 32)).convert("RGB").save(name)
    tiny_weights(tmp_path)
    (tmp_path / "sub").mkdir()
    return tmp_path


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


# ---- which output is refused ----


def spellings(room):
    (room / "link.png").symlink_to("in.png")
    (room / "way").symlink_to("sub", target_is_directory=True)
    os.link("in.png", "hard.png")
    return [
        "in.png",
        "./in.png",
        "sub/../in.png",
        str(room / "in.png"),
        "link.png",
        "way/../in.png",
        "hard.png",
    ]


def test_an_input_is_known_by_every_spelling(room):
    for path in spellings(room):
        with pytest.raises(ArgumentError, match=f"^out: {path} is the file of IN too; name another"):
            check_outputs({"IN": ["in.png"]}, {"out": [path]})
    check_outputs({"IN": ["in.png"]}, {"out": ["other.png"], "save": ["sub/in.png"]})


def test_two_outputs_that_would_be_one_file_are_told_before_either_is_there(room):
    (room / "dangling.png").symlink_to("sub/new.png")
    for path in ("sub/new.png", "sub/../sub/new.png", "sub/NEW.png", "dangling.png"):
        with pytest.raises(ArgumentError, match="^out: .* is the file of save too"):
            check_outputs({}, {"save": ["sub/new.png"], "out": [path]})
    assert place("Ü.png") == place("u\u0308.png") != place("U.png"), "some disks keep letters in parts"


@pytest.mark.parametrize(
    "command",
    [
        "sdedit in.png -o in.png",
        "sdedit in.png -o sub/../in.png",
        "sdedit in.png --mask mask.png -o link-to-mask.png",
        "sdedit in.png -o steps/step_003.png --save-steps steps",
        "sdedit in.png -o out.png --save-steps walk.gif --gif sub/../walk.gif",
        "sdedit steps/step_000.png -o out.png --save-steps steps",
        "diffedit in.png --source a_red_star --target a_blue_star --save-mask sub/../w.png -o w.png",
        "generate --prompt a_star -n 3 -o {i}.png --save-steps 1.png",
        "null-text in.png --prompt a_star --save tiny.safetensors -o out.png",
        "null-text in.png --prompt a_star --save tiny-vae.safetensors -o out.png",
        "null-text in.png --prompt a_star --save sub/../tiny.safetensors -o out.png",
        "null-text in.png --prompt a_star --save x.safetensors -o out.png --lora sub/../x.safetensors:.5",
        "null-text in.png --prompt a_star --save mine/adapter_model.safetensors -o out.png --lora mine:.5",
        "dreambooth mine/000_0.png --class-noun star -n 1 -o mine",
        "dreambooth in.png --class-noun star --captions mine/learned.json -o mine",
        "dreambooth in.png --class-noun star --model mine/model.safetensors -o mine",
        "dreambooth in.png --class-noun star --model mine/model.safetensors -o sub/../mine --rank 1",
        "sdedit in.png --compare sub/../in.png -o out.png",
        "sdedit in.png -o out.png --compare ./out.png",
        "glide session script.txt -o in.png",
        "glide session script.txt -o out.png --strip out.png",
        "glide session script.txt -o mask.png",
        "glide session script.txt -o script.png --strip mask.png",
    ],
)
def test_a_command_whose_output_is_an_input_is_refused_before_the_work(room, command, capsys):
    (room / "link-to-mask.png").symlink_to("mask.png")
    (room / "script.txt").write_text("a red star\na blue star | mask mask.png  # there\n", encoding="utf-8")
    for folder in ("steps", "mine"):
        (room / folder).mkdir()
        tiny_weights(room / folder, "model")
        for name in ("step_000.png", "000_0.png"):
            (room / folder / name).write_bytes((room / "in.png").read_bytes())
    (room / "mine" / "adapter_model.safetensors").write_bytes(b"")
    (room / "mine" / "learned.json").write_text("a [V] star\n", encoding="utf-8")
    before = {name: (room / name).read_bytes() for name in names(room) if (room / name).is_file()}
    words = [
        word.replace("_", " ") if " " not in word and word.startswith("a_") else word
        for word in command.split()
    ]
    if "--model" not in words and "glide" not in words:
        words += ["--model", "tiny.safetensors"]
    session = ["--picture", "in.png"] if "session" in words else []
    assert main([*words, *session]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "too; name another" in said
    assert {name: (room / name).read_bytes() for name in names(room) if (room / name).is_file()} == before


def test_every_option_that_names_a_file_is_known_as_read_or_written():
    def actions(parser):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for below in action.choices.values():
                    yield from actions(below)
            else:
                yield action

    others = ("weights", "models", "again")  # `again` asks check_outputs itself, of FILE and OUT
    parser = command_line(Parser, [name for name in COMMANDS if name not in others])
    named = {a.dest for a in actions(parser) if a.metavar in ("IN", "M", "O", "FILE", "PNG", "OUT", "SCRIPT")}
    more = ("PNG_OR_FOLDER", "FOLDER", "PATH", "GIF", "FILE[:SCALE]", "FILE[=WORD]")
    named |= {a.dest for a in actions(parser) if a.metavar in more}
    assert named <= {*files.READS, *files.WRITES, *files.MODELS, *files.CHANGES}
    assert {"input", "out", "strip", "load", "lora"} <= named


# ---- whole or not at all ----


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_a_new_file_has_the_mode_of_the_umask_and_a_replaced_one_keeps_its_own(tmp_path):
    before = os.umask(0o027)
    try:
        assert mode(write_text(tmp_path / "new", "a")) == 0o640
    finally:
        os.umask(before)
    (tmp_path / "new").chmod(0o604)
    assert mode(write_text(tmp_path / "new", "b")) == 0o604


def test_a_link_goes_on_being_one_and_leads_to_the_new_file(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "real").write_text("old", encoding="utf-8")
    for name, target in (("link", "there/real"), ("dangling", "there/new")):
        (tmp_path / name).symlink_to(target)
        write_text(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / target).read_text(encoding="utf-8") == "new"
    assert names(tmp_path / "there") == ["new", "real"]


def test_what_is_marked_read_only_is_refused_whoever_asks(tmp_path):
    path = write_text(tmp_path / "kept", "old")
    path.chmod(0o444)
    for ask in (check_writable, lambda path: write_text(path, "new")):
        with pytest.raises(OutputError, match="kept: it is read-only; name another, or allow writing to it"):
            ask(path)
    (tmp_path / "link").symlink_to("kept")
    with pytest.raises(OutputError, match="link: it is read-only"):
        check_writable(tmp_path / "link")
    path.chmod(0o644)
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OutputError, match="may not be written to"):
            check_writable(path)
    finally:
        tmp_path.chmod(0o755)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="pipe: it is no plain file"):
        check_writable(tmp_path / "pipe")
    assert path.read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), RuntimeError])
def test_a_write_that_is_broken_off_leaves_the_old_file_and_no_other(tmp_path, error):
    path = write_text(tmp_path / "a", "old")
    with pytest.raises((KeyboardInterrupt, OutputError, RuntimeError)):
        with whole(path) as part:
            part.write_text("half", encoding="utf-8")
            raise error
    assert path.read_text(encoding="utf-8") == "old" and names(tmp_path) == ["a"]


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_appears_whole_or_keeps_what_it_held(tmp_path, there):
    path = tmp_path / "model"
    if there:
        (path / "unet").mkdir(parents=True)
        for name in ("unet/a", "b"):
            write_text(path / name, "old").chmod(0o640)
    before = names(tmp_path)
    with pytest.raises(KeyboardInterrupt), whole_folder(path) as part:
        write_text(part / "b", "new")
        raise KeyboardInterrupt
    assert names(tmp_path) == before and (not there or (path / "b").read_text(encoding="utf-8") == "old")
    with whole_folder(path) as part:
        (part / "vae").mkdir()
        for name in ("vae/c", "b"):
            write_text(part / name, "new")
    assert {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()} == (
        {"vae/c", "b", "unet/a"} if there else {"vae/c", "b"}
    )
    assert (path / "b").read_text(encoding="utf-8") == "new" and mode(path / "b") == (
        0o640 if there else 0o644
    )
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


# ---- one run at a time ----

HOLD = "import sys, time; from palimpsest.outputs import locked, whole\nwith locked(sys.argv[1]), whole(sys.argv[1]):\n    print('held', flush=True); time.sleep(600)"  # noqa: E501


@pytest.fixture
def other(tmp_path):
    """Another run that writes tmp_path/out, and is about to be killed."""
    words = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, encoding="utf-8") as run:
        assert run.stdout.readline() == "held\n"
        yield run
        run.kill()


def test_a_second_run_is_refused_and_a_killed_one_leaves_no_lock_behind(tmp_path, other):
    with pytest.raises(OutputError, match="^save: another run is writing .*out; wait for its end"):
        with locked(tmp_path / "out", "save"):
            pass
    with locked(tmp_path / "elsewhere"):
        pass
    other.kill()
    other.wait()
    assert any(name.endswith(".part") for name in names(tmp_path))
    with locked(tmp_path / "elsewhere"):
        assert any(name.endswith(".part") for name in names(tmp_path))
    with locked(tmp_path / "sub" / ".." / "out"):
        assert names(tmp_path) == [".out.lock"], "what was half-written is gone"
    assert names(tmp_path) == []


def test_who_writes_without_a_lock_cleans_up_after_a_killed_run_too(tmp_path, other):
    write_text(tmp_path / "out", "beside a run that is alive")
    assert any(name.endswith(".part") for name in names(tmp_path))
    other.kill()
    other.wait()
    write_text(tmp_path / "out", "after it")
    assert not [name for name in names(tmp_path) if name.endswith(".part")]


def test_a_command_is_refused_while_another_run_writes_its_output(room, capsys):
    with locked("out.png"):
        assert main("sdedit in.png --steps 1 --model tiny.safetensors -o sub/../out.png".split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("palimpsest: error: out: another run is writing sub/../out.png; wait for its end")
    assert not (room / "out.png").exists()
    assert main("sdedit in.png --steps 1 --model tiny.safetensors -o out.png".split()) == 0


def test_who_waits_gets_the_lock_when_the_other_is_done(tmp_path):
    with locked(tmp_path / "out"):
        start = time.monotonic()
        with pytest.raises(OutputError), locked(tmp_path / "out", patience=0.2):
            pass
        assert time.monotonic() - start >= 0.2
    with locked(tmp_path / "out", patience=0.2):
        pass


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_lock_does_not_outlast_its_run_in_the_processes_that_draw_its_data(tmp_path):
    ready, told = os.pipe()
    with locked(tmp_path / "out"):
        child = os.fork()
        if not child:
            os.read(ready, 1)
            os._exit(0)
    with locked(tmp_path / "out"):  # the child is still there
        assert rank_and_world() == (0, 1)
    os.write(told, b"x")
    assert os.waitpid(child, 0)[1] == 0


def test_folders_on_the_way_to_a_lock_go_again_where_they_stay_empty(tmp_path):
    with locked(tmp_path / "a" / "b" / "checkpoint"):
        assert names(tmp_path) == ["a", "a/b", "a/b/.checkpoint.lock"]
    assert names(tmp_path) == []
    with locked(tmp_path / "a" / "b" / "checkpoint"):
        write_text(tmp_path / "a" / "kept", "")
    assert names(tmp_path) == ["a", "a/kept"]


# ---- Ctrl-C and kill -9 ----


def test_ctrl_c_waits_for_the_end_of_a_block_and_comes_too_late_for_the_last():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = []
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("the block")
        with uninterrupted(last=True):
            os.kill(os.getpid(), signal.SIGINT)
        assert done == ["the block"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_after_ctrl_c_no_file_is_there_that_was_not_there_before(room, monkeypatch, capsys):
    monkeypatch.setattr(
        "palimpsest.cli.deliver.tell", lambda *_: os.kill(os.getpid(), signal.SIGINT) or time.sleep(9)
    )
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        before = names(room)
        words = "sdedit in.png --steps 2 --model tiny.safetensors --save-steps steps -o out.png".split()
        assert main(words) == 130 and capsys.readouterr().err == "palimpsest: interrupted\n"
        assert names(room) == before
    finally:
        signal.signal(signal.SIGINT, usual)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["KILL", "INT"])
def test_nothing_is_lost_at_any_moment(how):
    words = [sys.executable, "-m", "tests.kill", "8", "--seed", "1", "--signal", how]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=1800)
    assert done.returncode == 0 and "nothing was lost" in done.stdout, done.stdout + done.stderr
