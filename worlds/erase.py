"""What is rubbed out of a picture for a model that learns to fill it in: boxes, brush strokes, or all of it.

GLIDE, arXiv:2112.10741v3, Sec. 4.3, says "random regions"; unstated: which. Ours are boxes and strokes of
every size, because people mark what they want changed in both ways, and now and then everything, so that
the model stays one that paints from nothing."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Generator, Tensor

WHOLE, BOXES = (
    0.1,
    0.55,
)  # shares of the pictures that lose everything, and boxes; the rest loses brush strokes
CORNERS = 5  # of the line that a brush follows


def erased(n: int, size: int, generator: Generator) -> Tensor:
    """Masks (n, 1, size, size), 1 = rubbed out, each drawn for itself."""
    kind = torch.rand(n, generator=generator)
    drawn = torch.where(
        rearrange(kind, "n -> n 1 1 1") < WHOLE + BOXES,
        boxes(n, size, generator),
        strokes_of_a_brush(n, size, generator),
    )
    return torch.where(rearrange(kind, "n -> n 1 1 1") < WHOLE, torch.ones_like(drawn), drawn)


def boxes(n: int, size: int, generator: Generator) -> Tensor:
    """One box each, (n, 1, size, size); sides of .15 to .85 of the picture, anywhere, wholly inside it."""
    side = 0.15 + 0.7 * torch.rand((n, 2), generator=generator)
    low = torch.rand((n, 2), generator=generator) * (1 - side)
    place = (torch.arange(size) + 0.5) / size
    inside = (place >= low[..., None]) & (place < (low + side)[..., None])  # (n 2 size)
    return rearrange(inside[:, 0, :, None] & inside[:, 1, None, :], "n y x -> n 1 y x").float()


def strokes_of_a_brush(n: int, size: int, generator: Generator) -> Tensor:
    """One stroke each, (n, 1, size, size): a round brush of .05 to .18 of the picture in radius along a
    line of four pieces.
    """
    corners = torch.rand((n, CORNERS, 2), generator=generator)
    radius = 0.05 + 0.13 * torch.rand((n, 1, 1), generator=generator)
    place = (torch.arange(size) + 0.5) / size
    at = torch.stack(torch.meshgrid(place, place, indexing="ij"), dim=-1)  # (size size 2): y, x
    nearest = torch.full((n, size, size), torch.inf)
    for k in range(CORNERS - 1):
        a, along = corners[:, k, None, None], (corners[:, k + 1] - corners[:, k])[:, None, None]
        share = (
            ((at - a) * along).sum(-1, keepdim=True) / (along**2).sum(-1, keepdim=True).clamp(min=1e-9)
        ).clamp(0, 1)
        nearest = torch.minimum(nearest, (at - a - share * along).norm(dim=-1))
    return rearrange(nearest < radius, "n y x -> n 1 y x").float()
