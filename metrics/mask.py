"""Masks compared with masks: is the edit in the right place?

Masks are (b, 1, y, x), bool or number, with values 0 and 1 only. Each figure is per picture, (b,), float64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor

from palimpsest.arguments import ArgumentError


def as_mask(
    mask: Tensor, batch: int, size: tuple[int, int], name: str = "mask", may_be_empty: bool = False
) -> Tensor:
    """The mask in float64, its batch of 1 expanded to `batch`: (b, 1, y, x).

    Raises ValueError where the shape is wrong, a value is neither 0 nor 1, or (unless `may_be_empty`) a
    mask is all 0."""
    expected = (batch, 1, *size)
    if mask.ndim != 4 or mask.shape[1] != 1 or mask.shape[-2:] != size or mask.shape[0] not in (1, batch):
        raise ArgumentError(name, f"shape {tuple(mask.shape)} does not fit; give {expected} or a batch of 1")
    mask = mask.double()
    if not ((mask == 0) | (mask == 1)).all():
        raise ArgumentError(name, f"values other than 0 and 1; threshold it first, as in `{name} > 0.5`")
    mask = mask.expand(batch, -1, -1, -1)
    if not may_be_empty:
        refuse_empty(reduce(mask, "b 1 y x -> b", "sum"), name)
    return mask


def refuse_empty(count: Tensor, name: str) -> None:
    """Raise ValueError naming the pictures for which `count`, (b,), is 0: there is nothing to measure."""
    empty = (count == 0).nonzero().flatten().tolist()
    if empty:
        raise ArgumentError(
            name, f"no pixel counts in picture {', '.join(map(str, empty))}; leave those pictures out"
        )


def _pair(mask: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Both masks checked against each other's shape. Either may be all 0 here; the callers decide what
    that means.
    """
    batch, size = max(len(mask), len(truth)), tuple(truth.shape[-2:])
    return as_mask(mask, batch, size, "mask", True), as_mask(truth, batch, size, "truth", True)


def _count(mask: Tensor) -> Tensor:
    return reduce(mask, "b 1 y x -> b", "sum")


def iou(mask: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union |A ∩ B| / |A ∪ B|, (b,). Symmetric. Two empty masks raise; one empty mask
    gives 0.

    >>> iou(torch.tensor([[[[1, 1, 0]]]]), torch.tensor([[[[0, 1, 1]]]])).item() == 1 / 3
    True
    """
    a, b = _pair(mask, truth)
    union = _count(torch.maximum(a, b))
    refuse_empty(union, "mask and truth")
    return _count(a * b) / union


def precision(mask: Tensor, truth: Tensor) -> Tensor:
    """Of the pixels that `mask` marks, the share that `truth` marks too, (b,).

    A mask that marks nothing scores 0, as it found nothing (ours: 0/0 has no agreed value). An empty
    truth raises."""
    a, b = _pair(mask, truth)
    refuse_empty(_count(b), "truth")
    return _count(a * b) / _count(a).clamp(min=1)


def recall(mask: Tensor, truth: Tensor) -> Tensor:
    """Of the pixels that `truth` marks, the share that `mask` marks too, (b,). An empty truth raises."""
    a, b = _pair(mask, truth)
    refuse_empty(_count(b), "truth")
    return _count(a * b) / _count(b)


def dilate(mask: Tensor, pixels: int) -> Tensor:
    """The mask grown by `pixels` in every direction, diagonals included: (b, 1, y, x), in the mask's own
    dtype.

    `1 - dilate(1 - mask, pixels)` shrinks it. Raises ValueError for a negative `pixels`.
    """
    if pixels < 0:
        raise ArgumentError(
            "pixels", f"{pixels} is negative; to shrink a mask dilate its complement, 1 - mask"
        )
    grown = F.max_pool2d(mask.float(), 2 * pixels + 1, stride=1, padding=pixels)
    return grown.to(mask.dtype)
