"""What a command made is written here, for every command alike: the result with its record, what else was
asked for (--save-mask, --compare, --save-steps, --gif, --sidecar), and the line about it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.cli.console import tell
from palimpsest.cli.files import numbered, sidecar_of
from palimpsest.cli.manners import option_name
from palimpsest.cli.places import asked, is_sheet
from palimpsest.cli.record import as_text, record_of
from palimpsest.outputs import write_text
from palimpsest.weights.model import Model
from palimpsest.worlds.files import contact_sheet, write_gif, write_picture

FRAMES = 8  # of a walk, on one sheet
SHOWN = 384  # pixels that the longer side of a picture has at most, on a sheet and in a GIF
SMALL = 256  # and its shorter side at least, if it can


@dataclass(frozen=True)
class Walk:
    """The walk of the first picture, a frame for each step."""

    frame: Callable[[int], Tensor]  # number of a step -> (1 3 y x) in [−1, 1]
    levels: Sequence[float]  # the schedule's time t of each
    sheet: Callable[[], Tensor] | None = None  # None: some of the frames, side by side
    counts: str = "t"  # what the levels are

    @classmethod
    def of(cls, model: Model, path: Sequence[Tensor], levels: Sequence[float]) -> Walk:
        """A walk in latents."""
        return cls(lambda n: model.decode(path[n][:1]).cpu(), levels[: len(path)])

    def label(self, n: int) -> str:
        """Of the frame n: "t = 400"."""
        return f"{self.counts} = {self.levels[n]:.0f}"


@dataclass(frozen=True)
class Made:
    """What a command made. Pictures are (1 3 y x) in [−1, 1], or uint8 (1 3 or 4 y x)."""

    pictures: list[Tensor]  # the result, or several where {i} in OUT numbers them
    said: str  # about it
    before: Tensor | None = None  # for --compare: what the result was made of …
    between: Callable[[], Mapping[str, Tensor]] = dict  # … and label -> mask or map
    after: str = "after"  # label of the result there
    more: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)  # "save_mask" -> picture
    walk: Walk | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)  # options that repeat it, if others than given
    answers: list[str] = field(default_factory=list)  # what a person typed meanwhile


def deliver(a: argparse.Namespace, made: Made, seconds: float) -> None:
    """Write it all, and say so in one line."""
    write_pictures(a, made)
    sheet = a.out if a.only == "compare" else asked(a, "compare")
    if sheet:
        write_picture(compared(made), sheet, as_text(recorded(a, made) | {"picture": "compare"}))
    if made.walk is not None:
        write_walk(made.walk, a)
    tell(f"{a.out}: {made.said}, {seconds:.1f} s{chosen(a)}")


def chosen(a: argparse.Namespace) -> str:
    """The options that were left to the model, and what it chose."""
    values = [f"{option_name(dest)} {shown(value)}" for dest, value in getattr(a, "chosen", {}).items()]
    return f" (by default {', '.join(values)})" if values else ""


def shown(value: Any) -> str:
    """A setting as a line says it: 3, not 3.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def write_pictures(a: argparse.Namespace, made: Made) -> None:
    """The result with its record, and what else was asked for."""
    record = recorded(a, made)
    for k, (picture, out) in enumerate(zip(made.pictures, files_of(a, len(made.pictures)), strict=True)):
        text = as_text(record | ({"picture": k} if len(made.pictures) > 1 else {}))
        if a.only in (None, k):
            write_picture(picture, out, text)
            if getattr(a, "sidecar", False):
                write_text(sidecar_of(out), text + "\n")
    for dest, picture in made.more.items():
        if asked(a, dest):
            write_picture(picture(), getattr(a, dest))


def recorded(a: argparse.Namespace, made: Made) -> dict[str, Any]:
    """The record of these options, or of those that the command found instead."""
    record = record_of(argparse.Namespace(**vars(a) | made.settings))
    return record | ({"answers": made.answers} if made.answers else {})


def a_file_each(a: argparse.Namespace) -> bool:
    """Whether several results go to a file each, {i} in OUT; else they share a sheet."""
    return isinstance(a.only, int) or "{i}" in (a.out or "")


def files_of(a: argparse.Namespace, n: int) -> list[Path]:
    """The files of n results: 00 … 15 in place of {i}."""
    return numbered(a.out, n)


# ---- --compare ----


def compared(made: Made) -> Tensor:
    """before | masks or maps | after, labelled: uint8 (1 3 y x)."""
    cells = {"before": made.before, **made.between(), made.after: made.pictures[0]}
    return contact_sheet([[at_hand(x) for x in cells.values()]], (), list(cells), scale=1)


def at_hand(picture: Tensor) -> Tensor:
    """A picture as a sheet shows it: opaque, neither tiny nor huge. Every pixel becomes a square block, or
    a large picture is made smaller: (1 3 y x) in [−1, 1].
    """
    picture = opaque(picture)
    y, x = picture.shape[-2:]
    if max(y, x) > SHOWN:
        size = [max(1, round(n * SHOWN / max(y, x))) for n in (y, x)]
        return F.interpolate(picture, size, mode="bilinear", antialias=True)
    times = max(1, min(SHOWN // max(y, x), -(-SMALL // min(y, x))))
    return picture.repeat_interleave(times, 2).repeat_interleave(times, 3)


def opaque(picture: Tensor) -> Tensor:
    """On white: uint8 (1 3 or 4 y x), or in [−1, 1] -> (1 3 y x) in [−1, 1]."""
    picture = picture.detach().cpu()
    if picture.dtype == torch.uint8:
        picture = picture / 127.5 - 1
    if picture.shape[1] == 4:
        alpha = (picture[:, 3:] + 1) / 2
        picture = picture[:, :3] * alpha + 1 - alpha
    return picture.float().expand(-1, 3, -1, -1)


def change(before: Tensor, after: Tensor) -> Tensor:
    """How much each pixel changed, black where not at all: (1 3 y x) in [−1, 1]."""
    difference = (opaque(after) - opaque(before)).abs().amax(1, keepdim=True)
    return (difference - 1).clamp(-1, 1).expand(-1, 3, -1, -1)


# ---- --save-steps and --gif ----


def frames_of(steps: int) -> list[int]:
    """Which of the steps 0 … steps stand on a sheet: `FRAMES` of them, evenly, the ends included."""
    return sorted({round(steps * k / (FRAMES - 1)) for k in range(FRAMES)})


def write_walk(walk: Walk, a: argparse.Namespace) -> None:
    """As --save-steps and --gif ask: on one sheet, in a folder of all, as a moving picture."""
    if asked(a, "save_steps"):
        target = Path(a.save_steps)
        if is_sheet(target):
            write_picture(walk.sheet() if walk.sheet else sheet_of(walk), target)
        else:
            target.mkdir(exist_ok=True)
            for n in range(len(walk.levels)):
                write_picture(walk.frame(n), target / f"step_{n:03d}.png")
    if asked(a, "gif"):
        frames = [
            contact_sheet([[at_hand(walk.frame(n))]], (), [walk.label(n)], scale=1)
            for n in range(len(walk.levels))
        ]
        write_gif(frames, a.gif)


def sheet_of(walk: Walk) -> Tensor:
    """`FRAMES` of a walk, side by side."""
    chosen = frames_of(len(walk.levels) - 1)
    return contact_sheet([[walk.frame(n) for n in chosen]], (), [walk.label(n) for n in chosen])
