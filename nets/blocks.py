"""The two pieces that the U-Nets and the autoencoder share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.nets.fast_cpu import Conv2d, Linear


class ResBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x))) + W·emb))): (b c_in y x) -> (b c_out y x).

    The time embedding comes with its SiLU already applied, and enters as one shift per channel between the
    convolutions.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        groups: int,  # of both norms; must divide c_in and c_out
        eps: float,  # of both norms
        emb_width: int | None = None,  # of the time embedding; None: the block knows no time
    ):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, eps)
        self.conv1 = Conv2d(c_in, c_out, 3, padding=1)
        self.shift = Linear(emb_width, c_out) if emb_width else None
        self.norm2 = nn.GroupNorm(groups, c_out, eps)
        self.conv2 = Conv2d(c_out, c_out, 3, padding=1)
        self.skip = Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        if self.shift is not None:
            h = h + self.shift(emb)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return self.skip(x) + h


class Upsample(nn.Module):
    """Every pixel becomes 2×2 equal ones, then a 3×3 convolution: (b c y x) -> (b c 2y 2x).

    `emb` is taken and not used: all that halves or doubles is called alike (nets/levels.py).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
