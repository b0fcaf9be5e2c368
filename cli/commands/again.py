"""palimpsest again: make a result once more from the record that it carries, to the bit."""

from __future__ import annotations

import argparse
import io
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from palimpsest import __version__
from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.console import say, tell
from palimpsest.cli.files import CHANGES, READS
from palimpsest.cli.main import command_line
from palimpsest.cli.manners import Mistake, Parser, blame, command
from palimpsest.cli.record import digest_of
from palimpsest.cli.run import run
from palimpsest.outputs import check_outputs
from palimpsest.weights.files import sha256
from palimpsest.weights.load import pick_device
from palimpsest.worlds.files import SAVE, open_picture
from palimpsest.worlds.notes import read_note


def declare_again(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest again`."""
    p = command(commands, "again", COMMANDS["again"], run_again)
    p.add_argument("file", metavar="FILE", help="a result, or its record that --sidecar wrote (.json)")
    p.add_argument(
        "-o", "--out", dest="twin", metavar="OUT", help="where to write it (default: FILE's name with _again)"
    )


def run_again(a: argparse.Namespace) -> None:
    """Check that all that went in is there, unchanged; then run the recorded command."""
    file = Path(a.file)
    record = recorded(file)
    if record["palimpsest"] != __version__:
        say(f"note: made by palimpsest {record['palimpsest']}; this is {__version__}, and may differ")
    out = a.twin or beside(file)
    check_outputs({"FILE": [file]}, {"out": [out]})
    words = [*shlex.split(record["command"])[1:], "-o", out]
    if pick_device("auto").type != record["device"]:
        words += ["--device", record["device"]]
    with blame(f"FILE: the command in {file} is not understood here"):
        again = command_line(Parser, words[:1]).parse_args(words)
    if again.writes_folder:
        raise Mistake(
            f"FILE: {words[0]} trains, and a whole folder is its result; to train again: {record['command']}"
        )
    check_models(record["models"])
    here(again, record["inputs"], file.parent)
    again.only = record.get("picture")
    if "answers" in record:
        sys.stdin = io.StringIO("".join(record["answers"]))
    if "threads" in record:
        torch.set_num_threads(record["threads"])
    run(again)
    if file.suffix.lower() in SAVE:
        compare(file, Path(out), record)


def recorded(file: Path) -> dict[str, Any]:
    """The record of a result or a sidecar. Raises Mistake for a file without."""
    with blame("FILE"):
        try:
            text = file.read_text(encoding="utf-8") if file.suffix == ".json" else read_note(file)
            record = json.loads(text or "{}")
            if {"palimpsest", "command", "inputs", "models", "device"} <= record.keys():
                return record
        except FileNotFoundError:
            raise Mistake(f"{file} is not there; check the name") from None
        except (AttributeError, json.JSONDecodeError, UnicodeDecodeError):
            pass
        raise Mistake(
            f"{file} carries no record of palimpsest: programs that save a picture anew drop it; give the "
            "file as it was written, or its sidecar"
        )


def beside(file: Path) -> str:
    """red.png, red.png.json -> red_again.png. Raises Mistake where that is there already."""
    picture = file.with_suffix("") if file.suffix == ".json" else file
    path = picture.with_stem(f"{picture.stem}_again")
    if path.exists():
        raise Mistake(f"out: {path} is there already; name another with -o")
    return str(path)


def check_models(models: dict[str, str]) -> None:
    """Raises Mistake for a model that is not the one of then."""
    for model, digest in models.items():
        with blame("model"):
            if digest_of(model) != digest:
                raise Mistake(f"{model} has changed since: its SHA-256 began with {digest[:8]}")


def here(again: argparse.Namespace, inputs: dict[str, str], folder: Path) -> None:
    """Each input as it was: at its path, or beside FILE under its name. Raises Mistake for one that is
    missing or has changed.
    """
    found = {}
    for name, digest in inputs.items():
        places = [p for p in (Path(name), folder / name, folder / Path(name).name) if p.is_file()]
        same = [p for p in places if sha256(p) == digest]
        if not same:
            what = "has changed since" if places else "is missing"
            raise Mistake(f"{name} {what}; it is needed as it was (its SHA-256 began with {digest[:8]})")
        found[name] = str(same[0])
    for dest in (*READS, *CHANGES, "words"):
        if not (value := getattr(again, dest, None)):
            continue
        values = [moved(dest, one, found) for one in value] if isinstance(value, list) else value
        setattr(again, dest, moved(dest, values, found) if isinstance(values, str) else values)


def moved(dest: str, value: str, found: dict[str, str]) -> str:
    """An option's value with the path at which its file was found: FILE, FILE:SCALE of a LoRA, FILE=WORD."""
    mark = {"lora": ":", "embedding": "="}.get(dest)
    named = value if mark is None or value in found else value.rpartition(mark)[0]
    return value.replace(named, found[named], 1) if named in found else value


def compare(file: Path, out: Path, record: dict[str, Any]) -> None:
    """Say whether the result is the same, and what may be why not."""
    old, new = (open_picture(path) for path in (file, out))
    if np.array_equal(old.rgb, new.rgb) and (old.alpha is None or np.array_equal(old.alpha, new.alpha)):
        return tell(f"{out}: the same as {file}, to the bit")
    then = f"{record['device']}, PyTorch {record['torch']}"
    return say(
        f"note: {out} differs from {file}, which was made on {then} (here PyTorch "
        f"{torch.__version__.split('+')[0]}), or was changed since"
    )
