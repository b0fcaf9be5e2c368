"""The files of a command: no output is an input, no other run writes them, and after Ctrl-C none is there
that was not there before.

An option that names a file stands in READS or WRITES. A command that reads or writes files which no option
names says so with `parser.set_defaults`: `reads`, `writes` (functions of the arguments that give paths by
option) and `kept` (options whose files a stopped run leaves behind, to go on from).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from palimpsest.arguments import ArgumentError
from palimpsest.fit.processes import rank_and_world
from palimpsest.outputs import OutputError, check_outputs, locked
from palimpsest.weights.load import files_of
from palimpsest.weights.public.embeddings import split_word
from palimpsest.weights.public.lora import file_in, split_scale
from palimpsest.worlds.files import SAVE

READS = ("input", "inputs", "mask", "original", "load", "picture", "script", "prompts", "captions")
MODELS = ("model", "upsampler", "clip")
CHANGES = ("lora", "embedding")
WRITES = (
    *("save_mask", "save_heat", "save_layer", "save_steps", "save_source", "save", "strip", "compare", "gif"),
    "out",  # the last: what is written beside it gives way
)
STEPS = 1000  # at most, of a walk

Paths = dict[str, list[Path]]


@contextmanager
def own_files(given: argparse.Namespace) -> Iterator[None]:
    """The block has the command's outputs for itself. Raises ArgumentError where one of them is an input, or
    another output, or another run writes it now."""
    written = written_by(given)
    check_outputs(read_by(given), written)
    if getattr(given, "estimate", False) or rank_and_world()[0] > 0:
        yield
        return
    new = [
        path
        for name, paths in written.items()
        if name not in kept_by(given)
        for path in [*paths, *{p.parent for p in paths}]
        if not os.path.exists(path)
    ]
    with ExitStack() as stack:
        for name, path in named(given, WRITES).items():
            if path.absolute().parent.is_dir():
                try:
                    stack.enter_context(locked(path))
                except OutputError as error:
                    raise ArgumentError(name, str(error)) from None
        try:
            yield
        except KeyboardInterrupt:
            for path in new:
                with suppress(OSError):  # it was never made, or is a folder with something in it
                    real = os.path.realpath(path)
                    os.rmdir(real) if os.path.isdir(real) else os.unlink(real)
            raise


def named(given: argparse.Namespace, options: tuple[str, ...]) -> dict[str, Path]:
    """The paths that these options name: "save-mask" -> path."""
    found = {name.replace("_", "-"): getattr(given, name, None) for name in options}
    return {name: Path(value) for name, value in found.items() if isinstance(value, str) and value.strip()}


def read_by(given: argparse.Namespace) -> Paths:
    """What the command reads, by option; of a model also its autoencoder and the model that it changes."""
    files = named(given, tuple(n for n in READS if n != "inputs"))
    found = {"IN" if name == "input" else name: [path] for name, path in files.items()}
    found |= {name: files_of(path) for name, path in named(given, MODELS).items()}
    found["lora"] = [file_in(split_scale(one)[0]) for one in getattr(given, "lora", None) or ()]
    found["embedding"] = [split_word(one)[0] for one in getattr(given, "embedding", None) or ()]
    found["IN"] = found.get("IN", []) + [Path(path) for path in getattr(given, "inputs", ())]
    return found | getattr(given, "reads", lambda given: {})(given)


def written_by(given: argparse.Namespace) -> Paths:
    """Whatever the command writes, by option."""
    found: Paths = {}
    for name, path in named(given, WRITES).items():
        if name == "out" and "{i}" in path.name:
            found[name] = numbered(str(path), getattr(given, "n", 1))
        elif name == "save-steps" and (path.suffix.lower() not in SAVE or path.is_dir()):
            found[name] = [path, *(path / f"step_{n:03d}.png" for n in range(STEPS + 1))]
        else:
            found[name] = [path]
    if getattr(given, "sidecar", False):
        found["sidecar"] = [sidecar_of(path) for path in found.get("out", ())]
    return found | getattr(given, "writes", lambda given: {})(given)


def sidecar_of(out: str | Path) -> Path:
    """red.png -> red.png.json, which no other picture's record has."""
    return Path(f"{out}.json")


def kept_by(given: argparse.Namespace) -> tuple[str, ...]:
    """Options whose files a stopped run leaves behind: to go on from, or because a person was shown them."""
    return ("out", "save-mask") if getattr(given, "ask", False) else getattr(given, "kept", ())


def numbered(out: str, n: int) -> list[Path]:
    """The files of n pictures: "{i}" in the name counts from 0, in as many digits as the last has."""
    digits = len(str(n - 1))
    return [Path(out.replace("{i}", f"{i:0{digits}d}")) for i in range(max(0, min(n, STEPS)))]
