"""Measured memory: how much more a process holds at its widest moment than at rest, for one job after
another.

    python -m tests.peaks MODEL sdedit:384x512 null_text:256x256          # a line of bytes for each, rows × columns

A program of its own, because what other tests have left in a process would hide what this one takes.
Linux only: the kernel keeps the high-water mark (VmHWM of /proc/self/status) and can be told to forget
it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from palimpsest.methods.dreambooth import dreambooth
from palimpsest.methods.inversion import invert
from palimpsest.methods.learner import Course
from palimpsest.methods.null_text import null_text
from palimpsest.methods.prior import Prior
from palimpsest.methods.prompt_to_prompt import Injection, prompt_to_prompt
from palimpsest.methods.sdedit import sdedit
from palimpsest.weights.load import load
from palimpsest.weights.model import Model

SOURCE, TARGET = "a red star", "a blue star"


def edited(model: Model, x: Tensor) -> None:
    """One guided step down."""
    sdedit(model, x, TARGET, steps=1, t0=0.5)


def tapped(model: Model, x: Tensor) -> None:
    """One step of a pair, all its attention written out."""
    everywhere = Injection(self_=1.0, self_res=10**4)
    start = invert(model, x, SOURCE, steps=1)
    prompt_to_prompt(model, SOURCE, TARGET, start=start, pictures=x, injection=everywhere, w=2.0)


def tuned(model: Model, x: Tensor) -> None:
    """One step tuned, with the way back through the net."""
    null_text(model, x, SOURCE, steps=1, inner=1)


def learnt(model: Model, x: Tensor) -> None:
    """Two steps of a training of the whole U-Net: the second finds Adam's moments there."""
    dreambooth(model, x.repeat(3, 1, 1, 1), "star", course=Course(steps=2, batch=4), prior=Prior(weight=0.0))


WORK: dict[str, Callable[[Model, Tensor], None]] = {
    "sdedit": edited,
    "prompt_to_prompt": tapped,
    "null_text": tuned,
    "dreambooth": learnt,
}


def kilobytes(key: str) -> int:
    """A line of /proc/self/status."""
    return next(
        int(line.split()[1])
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        if line.startswith(f"{key}:")
    )


def main(model: str, *wanted: str) -> None:
    """Measure each."""
    torch.set_num_threads(1)
    b = load(model, "cpu")
    for work in WORK.values():  # what is set up once is no part of a picture's cost
        work(b, torch.zeros(1, 3, b.grid, 2 * b.grid))
    for text in wanted:
        name, _, size = text.partition(":")
        x = torch.zeros(1, 3, *map(int, size.split("x")))
        resting = kilobytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        WORK[name](b, x)
        print(1024 * (kilobytes("VmHWM") - resting), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
