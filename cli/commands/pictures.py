"""What the commands share about pictures: opening one for a model, masks at the file's size, and walks
shown step by step.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from palimpsest.arguments import Caution
from palimpsest.cli.manners import Mistake, blame, whole, writable
from palimpsest.weights.model import Model
from palimpsest.worlds.files import SAVE, Original, contact_sheet, open_picture, write_picture

FRAMES = 8  # of a walk, on one sheet


class Walked(Protocol):
    """A result that kept its walk: latents, and the time of each."""

    path: list[Tensor]
    levels: Sequence[float]


class Walk(NamedTuple):
    """A walk without a result of its own."""

    path: list[Tensor]
    levels: Sequence[float]


def shown_options(parser: argparse.ArgumentParser, name: str = "IN") -> None:
    """--crop and --size: how the model sees the picture `name`."""
    parser.add_argument(
        "--crop",
        action="store_true",
        help=f"of {name} the central square alone; what is outside of it stays as it is. Without this a "
        "picture that is not square is shown whole, its proportions kept",
    )
    parser.add_argument(
        "--size",
        type=whole,
        metavar="N",
        help=f"show {name} to the model with a shorter side of N pixels (default: the "
        "side that the model was trained on); what is written has the size of the file",
    )


def paste_option(parser: argparse._ActionsContainer) -> None:
    """--paste and --no-paste."""
    parser.add_argument(
        "--paste",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="paste the kept pixels back, bit for bit (default: True)",
    )


def open_input(path: str, crop: bool, argument: str = "IN") -> Original:
    """The file's picture, or its central square."""
    with blame(argument):
        picture = open_picture(path)
    if picture.profile:
        warnings.warn(
            f"{argument}: {path}: its colours are converted from {picture.profile} to sRGB, and so is what "
            "is kept of it",
            Caution,
            stacklevel=2,
        )
    return picture.square() if crop else picture


def seen_by(picture: Original, model: Model, size: int | None) -> Original:
    """The picture as a model sees it, its shorter side as asked or as the model was trained."""
    return picture.framed(model.size if size is None else size, model.grid)


def latent_size(model: Model, picture: Original | None, size: int | None) -> tuple[int, int]:
    """(y, x) of the latents of a picture as `seen_by` shows it; None: of the model's own size."""
    y, x = (model.size, model.size) if picture is None else seen_by(picture, model, size).seen
    factor = model.factor
    return y // factor, x // factor


def optional(a: argparse.Namespace, *arguments: str) -> dict[str, Path]:
    """Those of these further outputs that were asked for, each known to be writable: "save-mask" -> path."""
    given = {name: getattr(a, name.replace("-", "_")) for name in arguments}
    return {name: writable(name, path) for name, path in given.items() if path is not None}


def region_of(mask: Tensor | None, picture: Original) -> Tensor | None:
    """A mask of the file as the model sees it: edited where any of its pixels is. What is kept must be
    wider than the model's pixels.
    """
    if mask is None:
        return None
    region, (y, x) = picture.region(mask), picture.seen
    if region.all() and not mask.all():
        raise Mistake(
            f"mask: what it keeps is narrower than a pixel of the model, which sees {x}×{y}; keep more, "
            "raise --size, or edit everywhere"
        )
    return region


def at_the_files_size(picture: Original, shown: Tensor) -> Tensor:
    """What `picture.back` gave, (1 1 y x) in [0, 1], as a grey picture of the whole file, black where the
    model did not see it.
    """
    top, left, y, x = picture.box
    grey = torch.zeros(1, 1, *picture.size)
    grey[..., top : top + y, left : left + x] = shown
    return grey.expand(-1, 3, -1, -1) * 2 - 1


def frames_of(steps: int) -> list[int]:
    """Which of the steps 0 … steps stand on a sheet: `FRAMES` of them, evenly, the ends included."""
    return sorted({round(steps * k / (FRAMES - 1)) for k in range(FRAMES)})


def steps_option(parser: argparse.ArgumentParser, walk: str = "the walk") -> None:
    """--save-steps, of this walk."""
    parser.add_argument(
        "--save-steps", metavar="PNG_OR_FOLDER", help=f"also write {walk}: one sheet, or a folder of all"
    )


def steps_target(a: argparse.Namespace) -> Path | None:
    """Where --save-steps wants the walk: a picture file for a sheet, or a folder, there or to be made.
    None where it was not asked for.
    """
    if a.save_steps is None:
        return None
    if not a.save_steps.strip():
        raise Mistake("save-steps: is empty; name a folder, or a picture for a sheet")
    target = Path(a.save_steps)
    if target.suffix.lower() in SAVE and not target.is_dir():
        return writable("save-steps", target)
    writable("save-steps", target / "step.png" if target.is_dir() else target.parent / "step.png")
    for old in target.glob("step_*.png"):
        writable("save-steps", old)
    if target.exists() and not target.is_dir():
        raise Mistake(f"save-steps: {target} is a file; name a folder, or a picture in {', '.join(SAVE)}")
    return target


def write_steps(model: Model, e: Walked, target: Path | None) -> None:
    """The walk of the first picture, decoded: `FRAMES` of it on one sheet, or all in a folder. Nothing
    where there is no target.
    """
    if target is None:
        return
    if target.suffix.lower() in SAVE and not target.is_dir():
        chosen = frames_of(len(e.path) - 1)
        frames, labels = (
            [model.decode(e.path[n][:1]) for n in chosen],
            [f"t = {e.levels[n]:.0f}" for n in chosen],
        )
        write_picture(contact_sheet([frames], (), labels), target)
    else:
        target.mkdir(exist_ok=True)
        for n, z in enumerate(e.path):
            write_picture(model.decode(z[:1]), target / f"step_{n:03d}.png")
