"""The U-Net of DDPM at 256×256: a noisy picture and a time to its noise. No text.

"Denoising Diffusion Probabilistic Models", arXiv:2006.11239v2, Appendix B. With its default arguments the
class is the network of the CelebA-HQ and LSUN checkpoints that SDEdit (arXiv:2108.01073v2) edits with:
113,673,219 parameters in 450 tensors.

Close to the U-Net of Stable Diffusion, and different in every detail: sines before cosines and another
spacing of the frequencies, one head of attention and nothing else after a residual block, an uneven
padding before each halving, the eps of the norms.

Letters: b batch, c channels, y x rows and columns.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.nets.attention import Tap
from palimpsest.nets.blocks import ResBlock, Upsample
from palimpsest.nets.fast_cpu import Conv2d, Linear
from palimpsest.nets.vae import EPS, Downsample, SpatialAttention


class DDPM(nn.Module):
    """eps = net(x_t, t).

    channels: of the picture; width: of the first level; mult: channels of each level in units of width;
    blocks: residual blocks a level on the way down (one more on the way up); attention: for each level,
    whether its blocks are followed by attention (the middle always has one). All levels but the first
    halve the map."""

    def __init__(
        self,
        *,
        channels: int = 3,
        width: int = 128,
        mult: tuple[int, ...] = (1, 1, 2, 2, 4, 4),
        blocks: int = 2,
        attention: tuple[bool, ...] = (False, False, False, False, True, False),
        norm_groups: int = 32,
    ):
        super().__init__()
        self.width = width
        self.factor = 2 ** (len(mult) - 1)
        emb_width = 4 * width

        def stage(c_in: int, c_out: int, attend: bool) -> nn.ModuleDict:
            res = ResBlock(c_in, c_out, groups=norm_groups, eps=EPS, emb_width=emb_width)
            return nn.ModuleDict(
                {"res": res, "attention": SpatialAttention(c_out, norm_groups) if attend else nn.Identity()}
            )

        self.time1, self.time2 = Linear(width, emb_width), Linear(emb_width, emb_width)
        self.conv_in = Conv2d(channels, width, 3, padding=1)
        c, skips = width, [width]  # channels of h, and of the maps kept for the way up
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for k, m in enumerate(mult):
            stages = nn.ModuleList()
            for _ in range(blocks):
                stages.append(stage(c, width * m, attention[k]))
                c = width * m
                skips.append(c)
            last = k == len(mult) - 1
            self.down.append(
                nn.ModuleDict({"stages": stages, "resample": nn.Identity() if last else Downsample(c)})
            )
            if not last:
                skips.append(c)
        self.mid = nn.ModuleList([stage(c, c, True), stage(c, c, False)])
        for k, m in reversed(list(enumerate(mult))):  # coarsest first
            stages = nn.ModuleList()
            for _ in range(blocks + 1):
                stages.append(stage(c + skips.pop(), width * m, attention[k]))
                c = width * m
            self.up.append(
                nn.ModuleDict({"stages": stages, "resample": Upsample(c) if k > 0 else nn.Identity()})
            )
        self.norm_out = nn.GroupNorm(norm_groups, c, EPS)
        self.conv_out = Conv2d(c, channels, 3, padding=1)

    def forward(
        self, x_t: Tensor, t: float | Tensor, ctx: Tensor | None = None, tap: Tap | None = None
    ) -> Tensor:
        """The noise in pictures x_t (b c y x) in [−1, 1] at time t, a number or one or b numbers, trained
        on 0..999 -> (b c y x).

        Raises ValueError for rows or columns that `factor` does not divide, for a text, and for a tap:
        there is nothing to hear."""
        if x_t.shape[-2] % self.factor or x_t.shape[-1] % self.factor:
            raise ValueError(
                f"x_t must have rows and columns divisible by {self.factor}, not {tuple(x_t.shape[-2:])}"
            )
        if ctx is not None or tap is not None:
            raise ValueError(
                "ctx and tap must be None: this net reads no text, and its attention has no sites"
            )
        wave = sinusoid(torch.as_tensor(t, device=x_t.device).expand(len(x_t)), self.width).to(
            self.time1.weight.dtype
        )
        emb = F.silu(self.time2(F.silu(self.time1(wave))))

        h = self.conv_in(x_t)
        skips = [h]
        for k, level in enumerate(self.down):
            for stage in level["stages"]:
                h = stage["attention"](stage["res"](h, emb))
                skips.append(h)
            if k < len(self.down) - 1:
                h = level["resample"](h)
                skips.append(h)
        for stage in self.mid:
            h = stage["attention"](stage["res"](h, emb))
        for level in self.up:
            for stage in level["stages"]:
                h = stage["attention"](stage["res"](torch.cat([h, skips.pop()], dim=1), emb))
            h = level["resample"](h)
        return self.conv_out(F.silu(self.norm_out(h)))

    def sites(self, res: tuple[int, int]) -> list:
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
