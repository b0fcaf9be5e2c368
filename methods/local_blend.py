"""Local blend: only where the words look does an edit change the picture; the rest is brought back from
the source.

"Prompt-to-Prompt Image Editing with Cross Attention Control" (Hertz et al., arXiv:2208.01626v1) shows it
on real pictures (Sec. 4: unedited regions are restored "using a mask" from the attention maps) and does
not spell it out. Here the rule is that of the authors' code, freed from its fixed sizes:

    1  m ← mean over layers, heads and steps so far of Σ M_j over the tokens j of the word
    2  m ← 3×3 maximum, resized to the latent, divided by its own maximum
    3  mask ← m > threshold for the source *or* for the target, and not for a word to subtract
    4  z*_s ← z_s + mask (z*_s − z_s)                                      after each step, from `begin` on

The maps of the target are its own, as they were before any injection. # official code: after it, so that
under a replacement by equally many tokens the target's mask is the source's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


class Blend(NamedTuple):
    """The words of one pair whose maps say where the edit may happen, and how the maps become a mask.

    source, target: a word of each prompt (or several, as a list); subtract: words of the target where it
    may not happen. threshold, subtract_threshold in [0, 1) of the maximum; begin: the first steps, as a
    fraction, are not blended; soft: width of the ramp around the threshold, 0 for a mask of 0 and 1."""

    source: str | Sequence[str]
    target: str | Sequence[str]
    subtract: str | Sequence[str] = ()
    threshold: float = 0.3
    subtract_threshold: float = 0.3
    begin: float = 0.2
    soft: float = 0.0

    def checked(self) -> Blend:
        """Itself. Raises ValueError where a number makes no sense."""
        for name in ("threshold", "subtract_threshold", "begin"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: must lie in [0, 1), got {getattr(self, name)}")
        if not 0 <= self.soft <= 1:
            raise ValueError(f"soft: must lie in [0, 1], 0 for a mask of 0 and 1, got {self.soft}")
        return self


def word_mask(
    maps: Tensor,
    tokens: Sequence[int],
    size: tuple[int, int],
    *,
    threshold: float = 0.3,
    pool: bool = True,
    soft: float = 0.0,
) -> Tensor:
    """Where the tokens look: maps (b y x l) -> mask (b 1 *size) of 0 and 1, or in [0, 1] with a ramp of
    width `soft`.

    # Sec. 4, fig. 12. A map that is zero everywhere looks nowhere.
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
    """Where the pair may differ: maps (b y x l) of both -> (b 1 *size). Contains the source's own mask,
    subtractions aside.
    """
    inside = [
        word_mask(m, tokens, size, threshold=blend.threshold, soft=blend.soft)
        for m, tokens in ((maps_source, tokens_source), (maps_target, tokens_target))
    ]
    mask = torch.maximum(*inside)  # Sec. 4: or
    if tokens_subtract:
        # official code: no pooling here, so that what is subtracted is not made wider
        mask = mask * (
            1
            - word_mask(
                maps_target,
                tokens_subtract,
                size,
                threshold=blend.subtract_threshold,
                pool=False,
                soft=blend.soft,
            )
        )
    return mask


def blended(z: Tensor, mask: Tensor) -> Tensor:
    """Rows (2 b) c y x, sources first: the targets become the source where the mask (b 1 y x) is 0, to
    the bit.
    """
    z_source, z_target = z.chunk(2)
    mixed = torch.where(
        mask == 1, z_target, z_source + mask.to(z) * (z_target - z_source)
    )  # Sec. 4: z + M (z* − z)
    return torch.cat([z_source, torch.where(mask == 0, z_source, mixed)])
