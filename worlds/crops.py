"""Views of a picture for a net that learns without labels: rectangles cut out and scaled, a little lighter or darker, a little soft.

Two large views and some small ones: DINO's multi-crop (arXiv:2104.14294v2, Sec. 3.1, after SwAV, arXiv:2006.09882v5). What the views of a
picture differ by, the net learns not to see. So a judge of *which individual* this is must not be taught by DINO's own list (ours):

    cut out, scaled, moved    yes    a subject may stand anywhere, nearer or farther
    lighter, darker           a bit  light is the context's
    soft                      a bit  pictures that a model paints are
    hues turned, grey         no     two subjects of a class differ by their two tones
    mirrored                  no     stripes would slant the other way, and the eyes look there: another individual
    solarised                 no     no context does that
"""
from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Generator, Tensor

LARGE, SMALL = (.5, 1.), (.15, .5)               # shares of the area. The paper: more than half, and less
RATIO = (3 / 4, 4 / 3)                           # width to height   official code (torchvision): likewise


class Window(NamedTuple):
    """Rectangles, (n,) each, as fractions of the picture; y grows downwards."""
    left: Tensor
    top: Tensor
    width: Tensor
    height: Tensor


def windows(n: int, share: tuple[float, float], generator: Generator) -> Window:
    """n rectangles of a share of the area drawn evenly between the two, wholly inside the picture."""
    draw = torch.rand((4, n), generator=generator)
    area, (low, high) = share[0] + (share[1] - share[0]) * draw[0], map(math.log, RATIO)
    ratio = (low + (high - low) * draw[1]).exp()
    ratio = torch.minimum(torch.maximum(ratio, area), 1 / area)            # neither side longer than the picture's
    width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
    return Window(draw[2] * (1 - width), draw[3] * (1 - height), width, height)


def cut(pictures: Tensor, window: Window, size: int) -> Tensor:
    """What the windows show of their pictures (n c y x), bilinear: (n c size size)."""
    half_x, half_y = window.width, window.height                           # the picture is [−1, 1] wide and high
    zero = torch.zeros_like(half_x)
    affine = torch.stack([torch.stack([half_x, zero, 2 * window.left + window.width - 1], dim=-1),
                          torch.stack([zero, half_y, 2 * window.top + window.height - 1], dim=-1)], dim=1)
    grid = F.affine_grid(affine.to(pictures), [len(pictures), pictures.shape[1], size, size], align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)


def lit(pictures: Tensor, amount: float, generator: Generator) -> Tensor:
    """Brightness moved and contrast stretched by up to `amount` of the range [−1, 1], each picture for itself; hues stay."""
    draw = rearrange((2 * torch.rand((2, len(pictures)), generator=generator) - 1) * amount, "k n -> k n 1 1 1").to(pictures)
    return (pictures * (1 + draw[0]) + draw[1]).clamp(-1, 1)


def softened(pictures: Tensor, sigma: float, generator: Generator) -> Tensor:
    """Half of the pictures blurred by a Gaussian of up to `sigma` pixels, each by its own."""
    n, c = pictures.shape[:2]
    width = torch.rand(n, generator=generator) * sigma * (torch.rand(n, generator=generator) < .5)
    reach = math.ceil(3 * sigma)
    at = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-.5 * (at / rearrange(width.clamp(min=1e-3), "n -> n 1"))**2)
    kernel = repeat(kernel / kernel.sum(1, keepdim=True), "n k -> (n c) k", c=c).to(pictures)
    flat = F.pad(rearrange(pictures, "n c y x -> 1 (n c) y x"), 4 * (reach,), mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=n * c)
    return rearrange(F.conv2d(flat, kernel[:, None, :, None], groups=n * c), "1 (n c) y x -> n c y x", n=n)
