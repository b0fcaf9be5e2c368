"""Views for a net that learns without labels that they show the same individual: a little lighter or
darker, a little soft.

DINO cuts its views out of one picture, two large and some small (multi-crop, arXiv:2104.14294v2, Sec.
3.1), and changes their colours. What the views differ by, the net learns not to see. So a judge of *which
individual* this is must not be taught by DINO's list (ours):

    another context           yes    ground, place, tilt, distance (worlds/subjects.py); so nothing is cut
    lighter, darker           a bit  light is the context's
    soft                      a bit  pictures that a model paints are
    hues turned, grey         no     two subjects of a class differ by their two tones
    mirrored                  no     stripes would slant the other way: another individual
    solarised                 no     no context does that
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Generator, Tensor


def lit(pictures: Tensor, amount: float, generator: Generator) -> Tensor:
    """Brightness moved and contrast stretched by up to `amount` of the range [−1, 1], each picture for
    itself; hues stay.
    """
    draw = rearrange(
        (2 * torch.rand((2, len(pictures)), generator=generator) - 1) * amount, "k n -> k n 1 1 1"
    ).to(pictures)
    return (pictures * (1 + draw[0]) + draw[1]).clamp(-1, 1)


def softened(pictures: Tensor, sigma: float, generator: Generator) -> Tensor:
    """Half of the pictures (n c y x), drawn one by one, blurred by a Gaussian of up to `sigma` pixels,
    each by its own.
    """
    width = torch.rand(len(pictures), generator=generator) * sigma
    rows = (torch.rand(len(pictures), generator=generator) < 0.5).nonzero()[:, 0]
    if not len(rows):
        return pictures
    (n, c), reach = (len(rows), pictures.shape[1]), math.ceil(3 * sigma)
    at = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (at / rearrange(width[rows].clamp(min=1e-3), "n -> n 1")) ** 2)
    kernel = repeat(kernel / kernel.sum(1, keepdim=True), "n k -> (n c) k", c=c).to(pictures)
    flat = F.pad(rearrange(pictures[rows], "n c y x -> 1 (n c) y x"), 4 * (reach,), mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=n * c)
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=n * c)
    return pictures.index_copy(0, rows, rearrange(flat, "1 (n c) y x -> n c y x", n=n))
