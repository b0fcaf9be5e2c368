"""The U-Net of DDPM at 256×256: a noisy picture and a time to its noise. No text.

"Denoising Diffusion Probabilistic Models", arXiv:2006.11239v2, Appendix B. With its default arguments the
class is the network of the CelebA-HQ and LSUN checkpoints that SDEdit (arXiv:2108.01073v2) edits with:
113,673,219 parameters in 450 tensors.

It has the shape of Stable Diffusion's U-Net (nets/levels.py) and differs in the details: sines before
cosines with another spacing of the frequencies, one head of attention and nothing else after a residual
block, an uneven padding before each halving, another eps of the norms.

Letters: b batch, c channels, y x rows and columns.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.arguments import ArgumentError
from palimpsest.nets.attention import Site, Tap
from palimpsest.nets.blocks import ResBlock, Upsample
from palimpsest.nets.fast_cpu import Conv2d, Linear
from palimpsest.nets.levels import Stage, build_levels, check_map, through_levels
from palimpsest.nets.vae import EPS, Downsample, SpatialAttention


class DDPM(nn.Module):
    """eps = net(x_t, t). All levels but the first halve the map.

    It has what nets/net.py asks of a net. Checkpoints know its two time layers and its middle by other names
    than those of the other U-Nets, so it keeps them.
    """

    def __init__(
        self,
        *,
        channels: int = 3,  # of the picture
        width: int = 128,  # channels of the first level
        mult: tuple[int, ...] = (1, 1, 2, 2, 4, 4),  # channels of each level in units of width
        blocks: int = 2,  # stages of a level on the way down; the way up has one more
        attention: tuple[bool, ...] = (
            False,
            False,
            False,
            False,
            True,
            False,
        ),  # which levels attend; the middle does
        norm_groups: int = 32,  # must divide every level's channels
    ):
        super().__init__()
        self.in_channels = self.channels = channels
        self.width = width
        self.factor = 2 ** (len(mult) - 1)  # between the finest and the coarsest map, each way
        emb_width = 4 * width

        def stage(name: str, level: int, c_in: int, c_out: int, attend: bool) -> Stage:
            res = ResBlock(c_in, c_out, groups=norm_groups, eps=EPS, emb_width=emb_width)
            return Stage(res, SpatialAttention(c_out, norm_groups) if attend else None, "attention")

        self.time1, self.time2 = Linear(width, emb_width), Linear(emb_width, emb_width)
        self.conv_in = Conv2d(channels, width, 3, padding=1)
        levels = build_levels(
            width=width,
            mult=mult,
            blocks=blocks,
            attention=attention,
            stage=stage,
            halve=Downsample,
            double=Upsample,
        )
        self.down, self.mid, self.up = levels.down, nn.ModuleList(levels.mid), levels.up
        self.norm_out = nn.GroupNorm(norm_groups, levels.c_out, EPS)
        self.conv_out = Conv2d(levels.c_out, channels, 3, padding=1)

    def forward(
        self, x_t: Tensor, t: float | Tensor, ctx: Tensor | None = None, tap: Tap | None = None
    ) -> Tensor:
        """The noise in pictures x_t (b c y x) in [−1, 1] at time t -> (b c y x).

        t: a number, or a tensor of one or b numbers, trained on 0 … 999. Raises ValueError for shapes that do
        not fit, for a text, and for a tap: there is nothing to hear.
        """
        t = torch.as_tensor(t, device=x_t.device)
        check_map(x_t, t, self.channels, self.factor)
        if ctx is not None or tap is not None:
            raise ArgumentError(
                "ctx" if tap is None else "tap",
                "must be None: this net reads no text, and its attention has no sites",
            )
        wave = sinusoid(t.expand(len(x_t)), self.width).to(self.time1.weight.dtype)
        emb = F.silu(self.time2(F.silu(self.time1(wave))))
        h = through_levels(self.conv_in(x_t), emb, self.down, self.mid, self.up)
        return self.conv_out(F.silu(self.norm_out(h)))

    def sites(self, res: tuple[int, int]) -> list[Site]:
        """None: nothing here can be tapped."""
        return []


def sinusoid(t: Tensor, width: int) -> Tensor:
    """Times (b) -> (b width) in float32: sines first, ω_k = 10000^(−k/(half−1)), k < half = width/2."""
    half = width // 2
    omega = torch.exp(
        -math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / (half - 1)
    )
    phase = t.float()[:, None] * omega
    return torch.cat([phase.sin(), phase.cos()], dim=-1)
