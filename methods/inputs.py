"""What an edit is given: a picture as tensor, file or PIL image, and a mask, 1 = edit here, 0 = keep."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from palimpsest.arguments import ArgumentError, Mask, Picture
from palimpsest.metrics.mask import as_mask
from palimpsest.weights.model import Model
from palimpsest.worlds.files import open_picture, read_mask


def given_picture(model: Model, x: Picture, argument: str | None = None) -> Tensor:
    """The picture as a tensor (b, 3, y, x) in [−1, 1], on the model's device.

    x: a tensor, taken as it is; or a path or PIL image, which is read at the model's own size, its shorter
    side `model.size` long and both sides multiples of `model.grid` (see worlds/files.py). argument: the
    name by which a tensor is refused whose sides are no such multiples (None: the network refuses it).
    Raises PictureError for a file that cannot be read, ArgumentError for those sides. The caller has checked
    x against `Picture`.
    """
    if isinstance(x, Tensor):
        y, columns = x.shape[-2:]
        if argument is not None and (y % model.grid or columns % model.grid):
            raise ArgumentError(
                argument,
                f"is {columns}×{y} pixels, and the sides must be multiples of {model.grid}, model.grid; "
                "read_picture(path, grid=model.grid) continues a file to such a size",
            )
        return x.to(model.device)
    return open_picture(x).framed(model.size, model.grid).view().to(model.device)


def given_mask(model: Model, mask: Mask) -> Tensor:
    """The mask as a tensor (b or 1, 1, y, x), on the model's device.

    mask: a tensor, taken as it is; or a path or PIL image, white = edit, of the size of the file that it
    belongs to: it is read at the size at which `given_picture` reads that file, and edited where any pixel
    is white. Raises PictureError for a file that cannot be read, or that marks nothing or everything.
    """
    if isinstance(mask, Tensor):
        return mask.to(model.device)
    framed = open_picture(mask).framed(model.size, model.grid)
    return framed.region(read_mask(mask)).to(model.device)


def check_mask(mask: Tensor, picture: Tensor, everywhere: str = "leave it out") -> Tensor:
    """A mask that fits the picture (b c y x): (b, 1, y, x) of 0 and 1, in the picture's dtype.

    everywhere: what the user should do instead of giving a mask that keeps nothing. Raises ArgumentError
    for a mask that edits nothing or keeps nothing of some picture, ValueError for one of another size or
    with values between 0 and 1.
    """
    b, _, y, x = picture.shape
    mask = as_mask(mask, b, (y, x), may_be_empty=True).to(picture)
    if not (mask == 1).flatten(1).any(1).all():
        raise ArgumentError(
            "mask", "is all 0, so nothing may be edited; 1 (white) means edit here, so perhaps turn it over"
        )
    if (mask == 1).flatten(1).all(1).any():
        raise ArgumentError("mask", f"is all 1, so nothing would be kept; {everywhere} to edit everywhere")
    return mask


def latent_mask(mask: Tensor, latents: Tensor) -> Tensor:
    """The mask on the latent grid: a cell is edited if any of its pixels is. (b 1 y x) -> (b 1 y' x')."""
    return F.adaptive_max_pool2d(mask, latents.shape[-2:])
