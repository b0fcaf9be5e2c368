"""What the commands share about pictures: opening one for a model, masks at the file's size, and walks shown step by step."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.cli import Mistake, blame, say, writable
from weights import Bundle
from worlds.files import SAVE, Original, contact_sheet, open_picture, write_picture

FRAMES = 8                                       # of a walk, on one sheet


class Walked(Protocol):
    """A result that kept its walk: latents, and the time of each."""
    path: list[Tensor]
    levels: Sequence[float]


def opened(path: str, crop: bool, argument: str = "IN") -> Original:
    """The file's picture, or its central square; squeezing a wide one is said aloud."""
    with blame(argument):
        picture = open_picture(path)
    if picture.size[0] != picture.size[1] and not crop:
        say(f"note: {path} is not square and is squeezed for the model; --crop edits its central square instead")
    return picture.square() if crop else picture


def optional(a: argparse.Namespace, *arguments: str) -> dict[str, Path]:
    """Those of these further outputs that were asked for, each known to be writable: "save-mask" -> path."""
    given = {name: getattr(a, name.replace("-", "_")) for name in arguments}
    return {name: writable(name, path) for name, path in given.items() if path is not None}


def region_of(mask: Tensor | None, size: int) -> Tensor | None:
    """A mask of the file at the model's size: edited where any of its pixels is. What is kept must be wider than the model's pixels."""
    if mask is None:
        return None
    region = F.adaptive_max_pool2d(mask, size)
    if region.all() and not mask.all():
        raise Mistake(f"mask: what it keeps is narrower than a pixel of the model, which sees {size}×{size}; keep more, or edit everywhere")
    return region


def at_the_files_size(picture: Original, cells: Tensor) -> Tensor:
    """(1 1 y' x') in [0, 1] as a grey picture over the part of the file that the model saw, black elsewhere."""
    top, left, y, x = picture.box
    whole = torch.zeros(1, 1, *picture.size)
    whole[..., top:top + y, left:left + x] = F.interpolate(cells.float().cpu(), (y, x))
    return whole.expand(-1, 3, -1, -1) * 2 - 1


def frames_of(steps: int) -> list[int]:
    """Which of the steps 0 … steps stand on a sheet: `FRAMES` of them, evenly, the ends included."""
    return sorted({round(steps * k / (FRAMES - 1)) for k in range(FRAMES)})


def steps_target(path: str) -> Path:
    """A picture file for a sheet, or a folder, there or to be made."""
    target = Path(path)
    if target.suffix.lower() in SAVE and not target.is_dir():
        return writable("save-steps", target)
    writable("save-steps", target / "step.png" if target.is_dir() else target.parent / "step.png")
    if target.exists() and not target.is_dir():
        raise Mistake(f"save-steps: {target} is a file; name a folder, or a picture in {', '.join(SAVE)}")
    return target


def write_steps(b: Bundle, e: Walked, target: Path) -> None:
    """The walk, decoded: `FRAMES` of it on one sheet, or all in a folder."""
    if target.suffix.lower() in SAVE and not target.is_dir():
        chosen = frames_of(len(e.path) - 1)
        frames, labels = [b.decode(e.path[n]) for n in chosen], [f"t = {e.levels[n]:.0f}" for n in chosen]
        write_picture(contact_sheet([frames], (), labels), target)
    else:
        target.mkdir(exist_ok=True)
        for n, z in enumerate(e.path):
            write_picture(b.decode(z), target / f"step_{n:03d}.png")
