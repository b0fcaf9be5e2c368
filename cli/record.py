"""What a result carries, so that it can be made again: its command, and the hashes of what went in.

    {"palimpsest": "0.2.0", "command": "palimpsest sdedit star.png --prompt 'a red star'", "seed": 0,
     "inputs": {"star.png": "…SHA-256…"}, "models": {"shapes": "…"},
     "torch": "2.14.1", "device": "cpu", "threads": 2}

It stands in the picture's own file (worlds/notes.py) and, with --sidecar, in OUT.json beside it. Outputs are
not in it: a result that is made again elsewhere has the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from palimpsest import __version__
from palimpsest.cli.files import MODELS, read_by
from palimpsest.cli.places import OUTPUTS
from palimpsest.weights.files import FOLDER, manifest, sha256
from palimpsest.weights.load import find, pick_device


def record_of(a: argparse.Namespace, inputs: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The record of what these options make. Files are read to be hashed.

    inputs: name -> SHA-256, of inputs that the options name and that lie in no file here."""
    device = pick_device(a.device).type
    about = {
        "palimpsest": __version__,
        "command": shlex.join(words_of(a)),
        "seed": getattr(a, "seed", None),
        "inputs": {str(path): sha256(path) for path in files_read(a)} if inputs is None else dict(inputs),
        "models": {str(model): digest_of(model) for model in models_of(a)},
        "torch": torch.__version__.split("+")[0],
        "device": device,
    }
    return about | ({"threads": torch.get_num_threads()} if device == "cpu" else {})


def as_text(record: dict[str, Any]) -> str:
    """The record as it stands in a file: JSON."""
    return json.dumps(record, indent=1, ensure_ascii=False)


def files_read(a: argparse.Namespace) -> list[Path]:
    """The files that go in, models aside."""
    read = [path for name, paths in read_by(a).items() if name not in MODELS for path in paths]
    return [path for path in dict.fromkeys(read) if path.is_file()]


def models_of(a: argparse.Namespace) -> list[str]:
    """The models that the options name."""
    given = [getattr(a, dest, None) for dest in MODELS]
    named = [name for one in given for name in (one if isinstance(one, list) else [one])]
    return [str(name) for name in dict.fromkeys(named) if name not in (None, "none")]


def digest_of(model: str) -> str:
    """SHA-256 of a model's file; of a folder, that of the hashes of all its files."""
    path = find(model)
    if path.parent == FOLDER and path.name in manifest():  # it was looked at when it was loaded
        return manifest()[path.name]["sha256"]
    if path.is_file():
        return sha256(path)
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    hashes = "".join(f"{p.relative_to(path).as_posix()} {sha256(p)}\n" for p in files)
    return hashlib.sha256(hashes.encode()).hexdigest()


def words_of(a: argparse.Namespace) -> list[str]:
    """The command line that gives these options, outputs aside, as short as it can be."""
    words, options = a.parser.prog.split(), []
    for action in a.parser._actions:
        value = getattr(a, action.dest, None)
        unsaid = action.dest in (*OUTPUTS, "sidecar", "to", "twin") or value in (
            None,
            a.parser.get_default(action.dest),
        )
        if unsaid:
            continue
        values = value if isinstance(value, list) else [value]
        if not action.option_strings:
            words += map(str, values)
        elif isinstance(action, argparse.BooleanOptionalAction):
            options.append(action.option_strings[0 if value else -1])
        elif action.nargs == 0:
            options.append(action.option_strings[-1])
        elif action.nargs in ("+", "*"):
            options += [action.option_strings[-1], *map(str, values)]
        else:
            options += [word for one in values for word in said(action.option_strings[-1], str(one))]
    return words + options


def said(option: str, value: str) -> list[str]:
    """--t0 .5; a value that looks like an option is tied to its own: --w=-3."""
    return [f"{option}={value}"] if value.startswith("-") else [option, value]
