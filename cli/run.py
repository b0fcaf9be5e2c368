"""From options to files: what a command made is delivered, for one input or for each of several.

    palimpsest sdedit star.png --prompt "a red star" -o red.png
    palimpsest sdedit star.png heart.jpg --prompt "a red star" -o FOLDER   # FOLDER/star.png, FOLDER/heart.jpg
    palimpsest sdedit PICTURES --prompt "a red star" -o FOLDER             # all pictures of a folder

Of several inputs each that fails costs a line, and the others go on; the exit code is 2 in the end.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from palimpsest.cli.console import say
from palimpsest.cli.deliver import Made, deliver
from palimpsest.cli.files import own_files
from palimpsest.cli.manners import Mistake, Told, complaint, option_name
from palimpsest.cli.places import OUTPUTS, asked, check_places
from palimpsest.outputs import check_outputs, place
from palimpsest.worlds.files import SAVE

READ = (*SAVE, ".gif", ".bmp", ".avif", ".heic", ".heif")  # names of pictures in a folder of inputs


def run(a: argparse.Namespace) -> None:
    """Do what the options say."""
    a.held = {}  # models once they are loaded
    a.only = getattr(a, "only", None)  # which of several pictures is wanted; "compare": the sheet about it
    inputs = getattr(a, "input", None)
    if not isinstance(inputs, list):
        return run_one(a)
    several = len(inputs) > 1 or any(map(os.path.isdir, inputs))
    if not several and not names_folder(getattr(a, "out", None)):
        a.input = inputs[0] if inputs else None
        return run_one(a)
    return run_each(jobs_of(a, [file for given in inputs for file in pictures_in(given)]))


def run_one(a: argparse.Namespace) -> None:
    """Check the places, do the work, write what was made."""
    began = time.monotonic()
    if (w := getattr(a, "w", None)) is not None and w < 0:
        say(f"note: w: {w:g} is negative, which leads away from the text")
    with own_files(a):
        check_places(a)
        made = a.run(a)
        if isinstance(made, Made) and a.out:
            deliver(a, made, time.monotonic() - began)


# ---- several inputs ----


def run_each(jobs: Sequence[argparse.Namespace]) -> None:
    """One after another. Raises Told in the end if an input failed; the line about it was said."""
    failed, last = False, ""
    with folders_made(Path(path).parent for job in jobs for path in outputs_of(job).values()):
        for job in jobs:
            try:
                run_one(job)
            except Exception as error:
                line = complaint(error)
                if line is None:
                    raise
                if failed and line == last:
                    break  # it is not about this input: the others would say the same
                say(f"error: {line}" if job.input in line else f"error: {job.input}: {line}")
                failed, last = True, line
    if failed:
        raise Told


def jobs_of(a: argparse.Namespace, files: Sequence[str]) -> list[argparse.Namespace]:
    """The options for each input: every output lies in the folder that was named, under the input's name.

    Raises Mistake or ArgumentError where an output would be one of the inputs, or that of another.
    """
    jobs, taken = [], {}
    for dest in outputs_of(a):
        check_folder(dest, getattr(a, dest))
    for file in files:
        named = {dest: str(Path(getattr(a, dest)) / name_for(dest, file)) for dest in outputs_of(a)}
        jobs.append(argparse.Namespace(**vars(a) | named | {"input": file}))
        for path in named.values():
            if (other := taken.setdefault(place(path), file)) != file:
                raise Mistake(
                    f"IN: the results of {other} and {file} would both be {path}; rename one of them"
                )
    writes = {option_name(d): [getattr(job, d) for job in jobs] for d in outputs_of(a)}
    check_outputs({"IN": files}, writes)
    return jobs


def pictures_in(given: str) -> list[str]:
    """The file itself; of a folder, the pictures in it, by name. Raises Mistake for a folder without."""
    folder = Path(given)
    if not os.path.isdir(folder):
        return [given]
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in READ and not p.name.startswith("."))
    if not found:
        raise Mistake(f"IN: the folder {given} holds no picture ({', '.join(READ)})")
    return [str(path) for path in found]


def outputs_of(a: argparse.Namespace) -> dict[str, str]:
    """The outputs that were asked for: option -> path."""
    return {dest: path for dest in OUTPUTS if (path := asked(a, dest))}


def names_folder(path: str | None) -> bool:
    """Whether it is a folder, or written like one: out/"""
    return bool(path) and (os.path.isdir(path) or path.endswith(("/", os.sep)))


def check_folder(dest: str, path: str) -> None:
    """Raises Mistake unless the folder is there, or can be made."""
    folder = Path(path)
    if os.path.isdir(folder):
        return
    name = option_name(dest)
    if folder.exists() or (folder.suffix and not names_folder(path)):
        raise Mistake(f"{name}: several inputs need a folder, and {path} names a file")
    if not folder.absolute().parent.is_dir():
        raise Mistake(f"{name}: there is no folder {folder.absolute().parent}; make it first")


def name_for(dest: str, file: str) -> str:
    """What an output of this input is called; the result keeps the name, if pictures are written so."""
    path = Path(file)
    if dest == "out" and path.suffix.lower() in SAVE:
        return path.name
    return OUTPUTS[dest].format(path.stem)


@contextmanager
def folders_made(folders: Iterable[Path]) -> Iterator[None]:
    """They are there for the block; those that are new and stay empty go again."""
    new = [folder for folder in dict.fromkeys(folders) if not folder.exists()]
    for folder in new:
        folder.mkdir()
    try:
        yield
    finally:
        for folder in new:
            with suppress(OSError):  # it is not empty
                folder.rmdir()
