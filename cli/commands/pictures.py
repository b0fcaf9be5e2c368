"""What the commands share about pictures: opening one for a model, masks at the file's size, the options that
show more of an edit than its result.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import torch
from torch import Tensor

from palimpsest.arguments import Caution
from palimpsest.cli.manners import Mistake, blame, whole
from palimpsest.weights.model import Model
from palimpsest.worlds.files import Original, open_picture


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


def input_argument(parser: argparse.ArgumentParser, text: str = "the picture") -> None:
    """IN: one picture, or several, or a folder of them, for each of which the command is run."""
    several = "; several, or a folder, are edited one after another, with -o FOLDER"
    parser.add_argument("input", metavar="IN", nargs="+", help=text + several)


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
    """The picture as a model sees it, its shorter side as asked or as the model was trained. Warns (Caution)
    of a side that is far from that.
    """
    framed = framed_for(picture, model, size)  # refuses a size that makes no sense
    if size is not None and not model.size / 2 <= size <= 4 * model.size:
        far = "fewer" if size < model.size else "more"
        warnings.warn(
            f"size: {size} pixels are far {far} than the {model.size} that {model.name} was trained on",
            Caution,
            stacklevel=2,
        )
    return framed


def framed_for(picture: Original, model: Model, size: int | None) -> Original:
    """As `seen_by`, without a word."""
    return picture.framed(model.size if size is None else size, model.grid)


def latent_size(model: Model, picture: Original | None, size: int | None) -> tuple[int, int]:
    """(y, x) of the latents of a picture as `seen_by` shows it; None: of the model's own size."""
    y, x = (model.size, model.size) if picture is None else framed_for(picture, model, size).seen
    factor = model.factor
    return y // factor, x // factor


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


def as_it_was(picture: Original) -> Tensor:
    """The whole file: uint8 (1 3 y x), or (1 4 y x) with alpha."""
    parts = [picture.rgb, *([] if picture.alpha is None else [picture.alpha[..., None]])]
    return torch.from_numpy(np.concatenate(parts, axis=2)).permute(2, 0, 1)[None]


def steps_option(parser: argparse.ArgumentParser, walk: str = "the walk") -> None:
    """--save-steps and --gif, of this walk."""
    parser.add_argument(
        "--save-steps", metavar="PNG_OR_FOLDER", help=f"also write {walk}: one sheet, or a folder of all"
    )
    parser.add_argument("--gif", metavar="GIF", help=f"also write {walk} as a moving picture")


def compare_option(parser: argparse.ArgumentParser, between: str = "what changed") -> None:
    """--compare, with what stands between before and after."""
    parser.add_argument(
        "--compare", metavar="PNG", help=f"also write before, {between} and after side by side, labelled"
    )
