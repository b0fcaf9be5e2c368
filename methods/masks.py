"""The masks that edits take: 1 = edit here, 0 = keep, on the picture and on the latent grid."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from palimpsest.metrics.mask import as_mask


def check_mask(mask: Tensor, picture: Tensor, everywhere: str = "leave it out") -> Tensor:
    """A mask that fits the picture (b c y x): (b, 1, y, x) of 0 and 1, in the picture's dtype.

    everywhere: what the user should do instead of giving a mask that keeps nothing. Raises ValueError for
    a mask of the wrong size or with other values, and for one that edits nothing or keeps nothing of some
    picture."""
    b, _, y, x = picture.shape
    mask = as_mask(mask, b, (y, x), may_be_empty=True).to(picture)
    if not (mask == 1).flatten(1).any(1).all():
        raise ValueError(
            "mask: is all 0, so nothing may be edited; 1 (white) means edit here, so perhaps turn it over"
        )
    if (mask == 1).flatten(1).all(1).any():
        raise ValueError(f"mask: is all 1, so nothing would be kept; {everywhere} to edit everywhere")
    return mask


def latent_mask(mask: Tensor, latents: Tensor) -> Tensor:
    """A picture's mask on the latent grid: a cell is edited if any of its pixels is. (b 1 y x) -> (b 1 y'
    x').
    """
    return F.adaptive_max_pool2d(mask, latents.shape[-2:])
