"""Output never fails: consoles of every encoding, readers that go away, and the words that ask for help."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import palimpsest
from palimpsest.cli.console import console, tell
from palimpsest.cli.main import main
from tests.tiny import tiny_weights

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(tiny_weights(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def room(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40), "red").save("in.png")
    return tmp_path


@pytest.fixture
def narrow(monkeypatch):
    """Gives stdout and stderr an encoding; says what came out as it would be read there."""

    def as_encoding(name):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=name, errors="strict") for _ in range(2)]
        for stream, attribute in zip(streams, ("stdout", "stderr")):
            monkeypatch.setattr(sys, attribute, stream)
        return [lambda stream=stream: stream.buffer.getvalue().decode(name) for stream in streams]

    return as_encoding


ENCODINGS = ["ascii", "latin-1", "cp1252", "cp437", "cp932", "koi8-r", "utf-8", "utf-16"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_edit_that_was_written_is_no_failure_on_any_console(encoding, room, tiny, narrow):
    out, err = narrow(encoding)
    assert main(["sdedit", "in.png", "--steps", "1", "--model", tiny, "-o", "out.png"]) == 0
    assert re.match(r"out\.png: t0 0\.500 \((σ|sigma) 1\.01, SNR", out()) and err() == ""
    assert main(["sdedit", "in.png", "--t0", "∞", "--model", tiny, "-o", "out.png"]) == 2
    assert err().startswith("palimpsest: error: t0: must be a finite number, got '")
    assert main(["weights", "list"]) == 0
    with pytest.raises(SystemExit) as stop:
        main(["dreambooth", "--help"])
    assert stop.value.code == 0 and re.search(r"(λ|lambda) of the prior term", out())


@pytest.mark.parametrize(
    "text, shown",
    [
        ("σ ≤ 3×4 · “ᾱ” …", 'sigma <= 3x4 * "alpha" ...'),
        ("café ②", "cafe 2"),
        ("фото \udce9", "\\u0444\\u043e\\u0442\\u043e \\udce9"),
        ("caf\udcc3\udca9.png", "cafe.png"),  # how a locale of ASCII hands over a name in UTF-8
    ],
)
def test_what_an_encoding_lacks_is_spelled_in_ascii(text, shown, narrow):
    out, _ = narrow("ascii")
    with console():
        tell(text)
    assert out().splitlines() == [shown]


@pytest.fixture
def nobody_reads(monkeypatch):
    """stdout is a pipe whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        yield


def test_a_reader_that_goes_away_stops_nothing_and_is_not_talked_about(nobody_reads, room, tiny, capsys):
    for argv in (["weights", "list"], ["models"]):
        assert main(argv) == 0
    edits = [["--prompt", "a star", "-o", f"{n}.png"] for n in range(2)]
    assert [main(["sdedit", "in.png", "--steps", "1", "--model", tiny, *e]) for e in edits] == [0, 0]
    assert Path("0.png").exists() and Path("1.png").exists()
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0 and capsys.readouterr().err == ""


def test_a_pipe_to_head_is_silent_to_the_end_of_the_process():
    first = subprocess.Popen(
        [sys.executable, "-m", "palimpsest", "weights", "list"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    first.stdout.close()  # before anything is written
    assert first.stderr.read() == b"" and first.wait() == 0
    first.stderr.close()


def test_a_full_disk_under_stdout_is_one_line(monkeypatch, capsys):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["models"]) == 2
        said = capsys.readouterr().err
        monkeypatch.setattr(sys, "stderr", stream)
        assert main(["no-such-command"]) == 2, "what cannot be said changes nothing"
    assert said.startswith("palimpsest: error: ") and said.count("\n") == 1


# ---- help ----


def printed(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_no_words_and_help_print_the_list_of_commands_and_help_with_a_name_prints_its_options(capsys):
    everything = printed(["--help"], capsys)
    assert printed([], capsys) == everything == printed(["help"], capsys) and "null-text" in everything
    assert printed(["help", "sdedit"], capsys) == printed(["sdedit", "--help"], capsys)
    assert printed(["help", "glide", "inpaint"], capsys) == printed(["glide", "inpaint", "-h"], capsys)


def test_the_version_is_that_of_the_package(capsys):
    assert printed(["--version"], capsys) == f"palimpsest {palimpsest.__version__}\n"
