"""The autoencoder of latent diffusion: pictures to a small latent map and back.

"High-Resolution Image Synthesis with Latent Diffusion Models", arXiv:2112.10752v2, Sec. 3.1 and Appendix
G: the KL-regularised variant, q(z|x) = N(mean, exp(logvar)). With its default arguments the class is the
autoencoder of Stable Diffusion v1 (83,653,863 parameters): (b 3 y x) in [−1, 1] to (b 4 y/8 x/8) and
back.

Letters: b batch, c channels, y x rows and columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from palimpsest.arguments import ArgumentError
from palimpsest.nets.attention import Attention, Tap
from palimpsest.nets.blocks import ResBlock, Upsample
from palimpsest.nets.fast_cpu import Conv2d

EPS = 1e-6  # of every GroupNorm in this file


class AutoencoderKL(nn.Module):
    """`encode` gives the moments of q(z|x), `decode` the picture of a latent; each level but the first halves
    the map."""

    def __init__(
        self,
        *,
        width: int = 128,  # channels of the first level
        mult: tuple[int, ...] = (1, 2, 4, 4),  # channels of each level in units of width
        blocks: int = 2,  # residual blocks of a level; the decoder has one more
        latent_channels: int = 4,  # of z
        channels: int = 3,  # of the picture
        norm_groups: int = 32,  # must divide every level's channels
        mid_attention: bool = True,  # whether the coarsest map attends to itself, as Stable Diffusion's does
    ):
        super().__init__()
        self.latent_channels = latent_channels
        self.factor = 2 ** (len(mult) - 1)  # pixels per cell of the latent, each way
        widths = [width * m for m in mult]
        shared = dict(blocks=blocks, norm_groups=norm_groups, mid_attention=mid_attention)
        self.encoder = Encoder(channels, widths, 2 * latent_channels, **shared)
        self.quant_conv = Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        self.post_quant_conv = Conv2d(latent_channels, latent_channels, 1)
        self.decoder = Decoder(latent_channels, widths[::-1], channels, **shared)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (b channels y x) in [−1, 1] -> mean and logvar of q(z|x), each (b latent_channels y/f
        x/f).

        z is not scaled: the Model's latent_scale does that. Raises ValueError if y or x is no multiple of
        f = `factor`."""
        if x.shape[-2] % self.factor or x.shape[-1] % self.factor:
            raise ArgumentError(
                "x", f"must have rows and columns divisible by {self.factor}, not {tuple(x.shape[-2:])}"
            )
        x = x.to(memory_format=torch.channels_last)  # then no convolution brings the maps into another order
        mean, logvar = self.quant_conv(self.encoder(x)).contiguous().chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, z: Tensor) -> Tensor:
        """Unscaled latents (b latent_channels y x) -> pictures (b channels f·y f·x), near [−1, 1] but not
        clamped.
        """
        return self.decoder(self.post_quant_conv(z).to(memory_format=torch.channels_last)).contiguous()


class Encoder(nn.Module):
    """(b c_in y x) -> (b c_out y/f x/f), through levels of the given widths."""

    def __init__(
        self,
        c_in: int,  # channels that come in
        widths: list[int],  # of each level, in the order of the walk
        c_out: int,  # channels that go out
        *,
        blocks: int,  # residual blocks of a level
        norm_groups: int,
        mid_attention: bool,  # whether the coarsest map has attention
    ):
        super().__init__()
        self.conv_in = Conv2d(c_in, widths[0], 3, padding=1)
        self.levels = nn.ModuleList()
        for i, (before, here) in enumerate(zip([widths[0], *widths], widths)):
            level = [
                ResBlock(before if j == 0 else here, here, groups=norm_groups, eps=EPS) for j in range(blocks)
            ]
            if i < len(widths) - 1:
                level.append(Downsample(here))
            self.levels.append(nn.Sequential(*level))
        self.mid = middle(widths[-1], norm_groups, mid_attention)
        self.norm_out = nn.GroupNorm(norm_groups, widths[-1], EPS)
        self.conv_out = Conv2d(widths[-1], c_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.levels:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """(b c_in y x) -> (b c_out f·y f·x), through levels of the given widths, coarsest first."""

    def __init__(
        self,
        c_in: int,  # channels that come in
        widths: list[int],  # of each level, in the order of the walk
        c_out: int,  # channels that go out
        *,
        blocks: int,  # residual blocks of a level
        norm_groups: int,
        mid_attention: bool,  # whether the coarsest map has attention
    ):
        super().__init__()
        self.conv_in = Conv2d(c_in, widths[0], 3, padding=1)
        self.mid = middle(widths[0], norm_groups, mid_attention)
        self.levels = nn.ModuleList()
        for i, (before, here) in enumerate(zip([widths[0], *widths], widths)):
            level = [
                ResBlock(before if j == 0 else here, here, groups=norm_groups, eps=EPS)
                for j in range(blocks + 1)
            ]
            if i < len(widths) - 1:
                level.append(Upsample(here))
            self.levels.append(nn.Sequential(*level))
        self.norm_out = nn.GroupNorm(norm_groups, widths[-1], EPS)
        self.conv_out = Conv2d(widths[-1], c_out, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in self.levels:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


def middle(channels: int, norm_groups: int, attention: bool) -> nn.Sequential:
    """Residual block, attention (or not), residual block, at the coarsest map: (b c y x) -> (b c y x)."""
    first, last = (ResBlock(channels, channels, groups=norm_groups, eps=EPS) for _ in range(2))
    return (
        nn.Sequential(first, SpatialAttention(channels, norm_groups), last)
        if attention
        else nn.Sequential(first, last)
    )


class SpatialAttention(nn.Module):
    """x + attention(norm(x)) over the pixels, one head: (b c y x) -> (b c y x).

    ctx and tap are taken and not used: it reads no text and cannot be tapped, and nets/levels.py calls all
    attention alike.
    """

    def __init__(self, channels: int, norm_groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, EPS)
        self.attention = Attention(channels, heads=1, bias=True)

    def forward(self, x: Tensor, ctx: Tensor | None = None, tap: Tap | None = None) -> Tensor:
        h = self.attention(rearrange(self.norm(x), "b c y x -> b (y x) c"))
        return x + rearrange(h, "b (y x) c -> b c y x", y=x.shape[-2])


class Downsample(nn.Module):
    """3×3 convolution of stride 2 after one row of zeros below and one column at the right: (b c y x) -> (b c
    y/2 x/2).

    `emb` is taken and not used: all that halves or doubles is called alike (nets/levels.py).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))
