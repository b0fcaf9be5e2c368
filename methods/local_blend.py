"""Local blend: an edit changes the picture only where its words look; everywhere else the source comes back.

"Prompt-to-Prompt Image Editing with Cross Attention Control" (Hertz et al., arXiv:2208.01626v1) uses it on
real pictures (Sec. 4: unedited regions are restored "using a mask" from the attention maps) and does not
spell it out. The rule here is that of the authors' code, for maps and latents of any size:

    1  m ← Σ_j M_j over the tokens j of the word, averaged over layers, heads and the steps so far
    2  m ← 3×3 maximum of m, resized to the latent, divided by its own maximum
    3  mask ← m > threshold for the source *or* for the target, and not for a word to subtract
    4  z*_s ← z_s + mask (z*_s − z_s)                                      after each step, from `begin` on

The maps of the target are its own, as they were before the source's maps were injected. # official code:
after it, so that under a replacement by equally many tokens the target's mask is the source's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from palimpsest.arguments import Fraction, Interval, check

Below1 = Annotated[float, Interval(0, 1, open_high=True)]  # [0, 1)


@dataclass(frozen=True)
class Blend:
    """The words of one pair whose maps say where the edit may happen, and how the maps become a mask.

    Raises ArgumentError for a number outside its range.
    """

    source: str | Sequence[str]  # a word of the source prompt, or several
    target: str | Sequence[str]  # a word of the target prompt, or several
    subtract: str | Sequence[str] = ()  # words of the target prompt: where they look, nothing may happen
    threshold: Below1 = 0.3  # of the map's maximum
    subtract_threshold: Below1 = 0.3  # the same for the words to subtract
    begin: Below1 = 0.2  # this share of the steps, the noisiest, is not blended
    soft: Fraction = 0.0  # width of the ramp around the threshold; 0: a mask of 0 and 1
    res: tuple[int, int] | None = (
        None  # (y, x) of the maps; None: the finest whose shorter side is at most 16
    )

    def __post_init__(self):
        check(Blend, vars(self))


def word_mask(
    maps: Tensor,
    tokens: Sequence[int],
    size: tuple[int, int],
    *,
    threshold: float = 0.3,
    pool: bool = True,
    soft: float = 0.0,
) -> Tensor:
    """Where the tokens look: maps (b y x l) -> mask (b 1 *size) of 0 and 1, or in [0, 1] with a ramp.

    pool: whether to take the 3×3 maximum first; soft: the width of the ramp. A map that is zero everywhere
    gives a mask of zeros. # Sec. 4, fig. 12
    """
    m = rearrange(maps[..., list(tokens)].sum(-1), "b y x -> b 1 y x")
    if pool:
        m = F.max_pool2d(m, 3, stride=1, padding=1)
    m = F.interpolate(m, size)  # official code: nearest
    m = m / m.amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(m.dtype).tiny)
    return (m > threshold).to(m) if soft == 0 else ((m - threshold) / soft + 0.5).clamp(0, 1)


def blend_mask(
    maps_source: Tensor,
    maps_target: Tensor,
    tokens_source: Sequence[int],
    tokens_target: Sequence[int],
    tokens_subtract: Sequence[int],
    size: tuple[int, int],
    blend: Blend,
) -> Tensor:
    """Where source and target may differ: the maps (b y x l) of both -> mask (b 1 *size)."""
    mask = torch.maximum(  # Sec. 4: where a word of the source or one of the target looks
        word_mask(maps_source, tokens_source, size, threshold=blend.threshold, soft=blend.soft),
        word_mask(maps_target, tokens_target, size, threshold=blend.threshold, soft=blend.soft),
    )
    if not tokens_subtract:
        return mask
    subtracted = word_mask(  # official code: not pooled, so that what is subtracted does not grow wider
        maps_target, tokens_subtract, size, threshold=blend.subtract_threshold, pool=False, soft=blend.soft
    )
    return mask * (1 - subtracted)


def blended(z: Tensor, mask: Tensor) -> Tensor:
    """Rows (2 b) c y x, sources first: where the mask (b 1 y x) is 0, a target becomes its source to the bit.

    mask: in [0, 1]; where it is 1, the target stays, bit for bit.
    """
    z_source, z_target = z.chunk(2)
    mixed = z_source + mask.to(z) * (z_target - z_source)  # Sec. 4: z + M (z* − z)
    mixed = torch.where(mask == 1, z_target, mixed)  # without the rounding of the line above
    return torch.cat([z_source, torch.where(mask == 0, z_source, mixed)])
