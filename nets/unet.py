"""The U-Net of Stable Diffusion v1: a noisy latent, a time and a text to a prediction (the noise, or v).

"High-Resolution Image Synthesis with Latent Diffusion Models", arXiv:2112.10752v2, Sec. 3.3 and Appendix
E.2.1. With its default arguments the class is the published network (859,520,964 parameters in 686
tensors); with ctx_width=1024 and heads=(5, 10, 20, 20), 64 channels a head, it is Stable Diffusion 2's
(865,910,724 parameters). The models that this library ships are the same class made small.

The walk down and up through the levels is in nets/levels.py, which all U-Nets here share. What this one puts
into a stage is a residual block that is told the time (nets/blocks.py) and a `Transformer`, which is told the
text.

Letters: b batch, c channels, y x rows and columns, l text tokens, d width.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from palimpsest.arguments import ArgumentError
from palimpsest.nets.attention import Attention, Site, Tap
from palimpsest.nets.blocks import ResBlock, Upsample
from palimpsest.nets.fast_cpu import Conv2d, Linear
from palimpsest.nets.levels import (
    Level,
    Stage,
    build_levels,
    check_map,
    check_tap,
    check_text,
    through_levels,
)


class UNet(nn.Module):
    """eps or v = net(x_t, t, ctx, tap=None). All levels but the first halve the map.

    It has what nets/net.py asks of a net: `in_channels`, `channels`, `factor` and `sites`. The attribute
    `recompute` saves memory in training, see `through_levels`.
    """

    def __init__(
        self,
        *,
        in_channels: int = 4,  # of the latent, and of what the net is shown beside it
        out_channels: int = 4,  # of the latent
        width: int = 320,  # channels of the first level
        mult: tuple[int, ...] = (1, 2, 4, 4),  # channels of each level in units of width
        blocks: int = 2,  # stages of a level on the way down; the way up has one more
        attention: tuple[bool, ...] = (
            True,
            True,
            True,
            False,
        ),  # which levels have transformers; the middle has one
        heads: int | Sequence[int] = 8,  # in every attention layer, or in those of each level
        ctx_width: int | None = 768,  # of the text embedding; None: the net reads no text
        norm_groups: int = 32,  # must divide every level's channels
    ):
        super().__init__()
        self.in_channels, self.channels, self.ctx_width = in_channels, out_channels, ctx_width
        self.factor = 2 ** (len(mult) - 1)  # between the finest and the coarsest map, each way
        self.heads = heads if isinstance(heads, int) else tuple(heads)
        heads_of = (heads,) * len(mult) if isinstance(heads, int) else self.heads  # by level
        if len(heads_of) != len(mult):
            raise ArgumentError(
                "heads", f"must be one number, or one for each level of mult {mult}, got {heads}"
            )
        self.recompute = False
        emb_width = 4 * width

        def stage(name: str, level: int, c_in: int, c_out: int, attend: bool) -> Stage:
            transformer = None
            if attend:
                transformer = Transformer(name, level, c_out, ctx_width, heads_of[level], norm_groups)
            res = ResBlock(c_in, c_out, groups=norm_groups, eps=1e-5, emb_width=emb_width)
            return Stage(res, transformer, "transformer")

        self.time = TimeEmbedding(width, emb_width)
        self.conv_in = Conv2d(in_channels, width, 3, padding=1)
        levels = build_levels(
            width=width,
            mult=mult,
            blocks=blocks,
            attention=attention,
            stage=stage,
            halve=Downsample,
            double=Upsample,
        )
        self.down, self.mid, self.up = levels.down, Level(levels.mid), levels.up
        self.norm_out = nn.GroupNorm(norm_groups, levels.c_out, eps=1e-5)
        self.conv_out = Conv2d(levels.c_out, out_channels, 3, padding=1)

        # every residual branch starts as zero, and so does the prediction
        branches = [m.conv2 for m in self.modules() if isinstance(m, ResBlock)]
        for last in [*branches, *(t.proj_out for t in self.transformers()), self.conv_out]:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(
        self, x_t: Tensor, t: float | Tensor, ctx: Tensor | None = None, tap: Tap | None = None
    ) -> Tensor:
        """The prediction (b out_channels y x) for latents x_t (b in_channels y x) at time t under the text
        ctx (b l ctx_width).

        t: a number, or a tensor of one or b numbers; the published net was trained on 0 … 999, and any real
        time is allowed. tap: called with the probabilities of each attention layer that it wants
        (nets/attention.py). Raises ValueError for shapes that do not fit, a missing or superfluous ctx, and a
        tap that wants no layer.
        """
        t = torch.as_tensor(t, device=x_t.device)
        self.check(x_t, t, ctx, tap)
        emb = self.time(t.expand(len(x_t)))
        h = through_levels(
            self.conv_in(x_t), emb, self.down, self.mid.stages, self.up, ctx, tap, recompute=self.recompute
        )
        return self.conv_out(F.silu(self.norm_out(h)))

    def transformers(self) -> list[Transformer]:
        """All transformers, in the order in which `forward` calls them."""
        return [m for m in self.modules() if isinstance(m, Transformer)]

    def sites(self, res: tuple[int, int]) -> list[Site]:
        """The attention layers that a latent of res = (y, x) passes, in call order."""
        return [site for t in self.transformers() for site in t.sites((res[0] >> t.level, res[1] >> t.level))]

    def check(self, x_t: Tensor, t: Tensor, ctx: Tensor | None, tap: Tap | None) -> None:
        """Raises ValueError for what `forward` cannot take."""
        check_map(x_t, t, self.in_channels, self.factor)
        if self.ctx_width is not None:
            check_text(ctx, len(x_t), self.ctx_width)
        elif ctx is not None:
            raise ArgumentError(
                "ctx", "must be None: this net was built with ctx_width=None and reads no text"
            )
        check_tap(tap, self.sites(tuple(x_t.shape[-2:])), tuple(x_t.shape[-2:]))


def widen_input(net: UNet, extra: int) -> UNet:
    """A copy of `net` that takes `extra` more input channels, after the old ones, and ignores them until
    trained.

    How inpainting and instruction models start from a text-to-image model: "InstructPix2Pix",
    arXiv:2211.09800v2, Sec. 3.2 (the new weights of the first convolution are zero)."""
    net = copy.deepcopy(net)
    old = net.conv_in
    new = Conv2d(old.in_channels + extra, old.out_channels, 3, padding=1).to(old.weight)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.in_channels] = old.weight
        new.bias.copy_(old.bias)
    net.conv_in, net.in_channels = new, new.in_channels
    return net


class TimeEmbedding(nn.Module):
    """Times (b) -> SiLU(MLP([cos(t ω), sin(t ω)]) + extra) (b out_width), ω_k = 10000^(−k/half), k < half
    = width/2.

    Every residual block reads the SiLU of the embedding, so it is taken once, here; extra: what else it
    shall know (b out_width)."""

    def __init__(self, width: int, out_width: int):
        super().__init__()
        self.width = width
        self.linear1 = Linear(width, out_width)
        self.linear2 = Linear(out_width, out_width)

    def forward(self, t: Tensor, extra: Tensor | float = 0.0) -> Tensor:
        wave = sinusoid(t, self.width).to(self.linear1.weight.dtype)
        return F.silu(self.linear2(F.silu(self.linear1(wave))) + extra)


def sinusoid(t: Tensor, width: int) -> Tensor:
    """Times (b) -> (b width) in float32, cosines first: a half-precision net could not tell 1000 from
    1000.5.
    """
    half = width // 2
    omega = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    phase = t.float()[:, None] * omega
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


class Transformer(nn.Module):
    """The pixels of a map attend to each other and to the text: h + proj_out(block(proj_in(norm(h)))), (b
    c y x).

    The block is pre-norm: z += self(z); z += cross(z, ctx); z += ff(z). name: of its two sites.
    """

    def __init__(
        self,
        name: str,  # of its sites
        level: int,  # 0 is the finest
        width: int,  # channels of the map
        ctx_width: int | None,  # channels of the text; None: it reads none
        heads: int,  # of width / heads channels each
        norm_groups: int,
    ):
        super().__init__()
        self.name = name
        self.level = level  # the map is 2**level times smaller than the latent
        self.norm = nn.GroupNorm(norm_groups, width, eps=1e-6)
        self.proj_in = Conv2d(width, width, 1)
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads=heads)
        if ctx_width is None:  # ours: a net without text has no cross-attention at all
            self.norm2 = self.attn2 = None
        else:
            self.norm2 = nn.LayerNorm(width)
            self.attn2 = Attention(width, ctx_width, heads)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)
        self.proj_out = Conv2d(width, width, 1)

    def sites(self, res: tuple[int, int]) -> list[Site]:
        kinds = ("self",) if self.attn2 is None else ("self", "cross")
        return [Site(self.name, kind, res) for kind in kinds]

    def forward(self, h: Tensor, ctx: Tensor | None, tap: Tap | None) -> Tensor:
        res = tuple(h.shape[-2:])
        z = rearrange(self.proj_in(self.norm(h)), "b c y x -> b (y x) c")
        z = z + self.attn1(self.norm1(z), None, tap, Site(self.name, "self", res))
        if self.attn2 is not None:
            z = z + self.attn2(self.norm2(z), ctx, tap, Site(self.name, "cross", res))
        z = z + self.ff(self.norm3(z))
        return self.proj_out(rearrange(z, "b (y x) c -> b c y x", y=res[0])) + h


class FeedForward(nn.Module):
    """W₂ (value · GELU(gate)), [value, gate] = W₁ z: "GLU Variants Improve Transformer",
    arXiv:2002.05202v1, Eq. (6).
    """

    def __init__(self, width: int):
        super().__init__()
        self.linear1 = Linear(width, 8 * width)
        self.linear2 = Linear(4 * width, width)

    def forward(self, z: Tensor) -> Tensor:
        value, gate = self.linear1(z).chunk(2, dim=-1)
        return self.linear2(value * F.gelu(gate))


class Downsample(nn.Module):
    """3×3 convolution of stride 2, padded alike on all sides (unlike the autoencoder's): (b c y x) -> (b c
    y/2 x/2).

    `emb` is taken and not used: all that halves or doubles is called alike (nets/levels.py).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        return self.conv(x)
