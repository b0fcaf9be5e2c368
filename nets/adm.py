"""The pieces of the ADM U-Net, as GLIDE uses them: a residual block that can halve or double its map, and
attention to text and pixels.

"Diffusion Models Beat GANs on Image Synthesis", arXiv:2105.05233v4, Sec. 3 and 3.1 (adaptive group
normalisation, residual blocks for resampling, heads of 64 channels), with the text of "GLIDE",
arXiv:2112.10741v3, Sec. 4.1 (joined to every attention layer). Where nets/blocks.py adds the time to a
map and halves it by a convolution, here the time scales and shifts the norm, and halving and doubling
have no weights of their own.

Letters: b batch, c channels, y x rows and columns, i = y·x pixels, l text tokens, d width, h heads, k
head width."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from palimpsest.arguments import ArgumentError
from palimpsest.nets.attention import Site, Tap, attend
from palimpsest.nets.fast_cpu import Conv2d, Linear


def halve(x: Tensor) -> Tensor:
    """The mean of every 2×2 pixels: (b c y x) -> (b c y/2 x/2)."""
    return F.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    """Every pixel becomes 2×2 equal ones: (b c y x) -> (b c 2y 2x)."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def same(x: Tensor) -> Tensor:
    """The map as it is."""
    return x


class ScaleShiftBlock(nn.Module):
    """x + conv(SiLU((1 + scale) · norm(conv(SiLU(norm(x)))) + shift)): (b c_in y x) -> (b c_out y' x').

    [scale, shift] = W·emb: adaptive group normalisation, AdaGN of arXiv:2105.05233v4, Sec. 3.1, but with 1 +
    scale, as its code has it. emb (b emb_width) comes with its SiLU already applied. The last convolution
    starts as zero, and so does the branch."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        emb_width: int,  # of the time embedding
        *,
        groups: int,  # of both norms; must divide c_in and c_out
        resample: Callable[[Tensor], Tensor] = same,  # or `halve`, `double`: of x, and within the branch
        dropout: float = 0.0,  # before the last convolution, while training
    ):
        super().__init__()
        self.resample = resample
        self.norm1 = nn.GroupNorm(groups, c_in)
        self.conv1 = Conv2d(c_in, c_out, 3, padding=1)
        self.scale_shift = Linear(emb_width, 2 * c_out)
        self.norm2 = nn.GroupNorm(groups, c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = Conv2d(c_out, c_out, 3, padding=1)
        self.skip = Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(self.resample(F.silu(self.norm1(x))))
        scale, shift = rearrange(self.scale_shift(emb), "b (two c) -> two b c 1 1", two=2)
        h = self.conv2(self.dropout(F.silu((1 + scale) * self.norm2(h) + shift)))
        return self.skip(self.resample(x)) + h


class FusedAttention(nn.Module):
    """Multi-head attention of x (b i d) to [ctx; x], or to x alone, whose query, key and value maps are
    one matrix.

    Its rows go head by head: q, k, v of the first head, then of the second. ("Head-major"; torch's
    MultiheadAttention has the queries of all heads first, and the weights of one mean nothing to the
    other.) ctx (b l ctx_width) gives keys and values, which stand before those of x, and asks nothing.
    """

    def __init__(
        self,
        width: int,  # d, channels of x
        heads: int,  # h, of width / heads channels each
        ctx_width: int | None = None,  # channels of ctx; None where there is no ctx
    ):
        super().__init__()
        if width % heads:
            raise ArgumentError("heads", f"must divide the attention width {width}, got {heads}")
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.ctx_kv = Linear(ctx_width, 2 * width) if ctx_width is not None else None
        self.to_out = Linear(width, width)

    def forward(
        self, x: Tensor, ctx: Tensor | None = None, tap: Tap | None = None, site: Site | None = None
    ) -> Tensor:
        """(b i d) -> (b i d). The tap is called with the probabilities (b h i l+i), the text's first, if
        it wants this site.
        """
        q, k, v = rearrange(self.qkv(x), "b i (h three k) -> three b h i k", three=3, h=self.heads)
        if self.ctx_kv is not None:
            k_ctx, v_ctx = rearrange(self.ctx_kv(ctx), "b l (h two k) -> two b h l k", two=2, h=self.heads)
            k, v = torch.cat([k_ctx, k], dim=2), torch.cat([v_ctx, v], dim=2)
        return self.to_out(rearrange(attend(q, k, v, tap, site), "b h i k -> b i (h k)"))


class JointAttention(nn.Module):
    """The pixels of a map attend to the text and to each other: h + attention(norm(h)), (b c y x).

    It starts as the identity. Raises ValueError where head_width does not divide width."""

    def __init__(
        self,
        name: str,  # of its site
        level: int,  # the map is 2**level times smaller than the picture
        width: int,  # c
        head_width: int,
        ctx_width: int,  # of the text
        groups: int,  # of the norm
    ):
        super().__init__()
        if width % head_width:
            raise ArgumentError("head_width", f"must divide the {width} channels of {name}, got {head_width}")
        self.name, self.level = name, level
        self.norm = nn.GroupNorm(groups, width)
        self.attention = FusedAttention(width, width // head_width, ctx_width)
        nn.init.zeros_(self.attention.to_out.weight)
        nn.init.zeros_(self.attention.to_out.bias)

    def site(self, res: tuple[int, int]) -> Site:
        """Where it stands, for a picture of res = (y, x)."""
        return Site(self.name, "joint", (res[0] >> self.level, res[1] >> self.level))

    def forward(self, h: Tensor, ctx: Tensor, tap: Tap | None) -> Tensor:
        res = tuple(h.shape[-2:])
        z = self.attention(
            rearrange(self.norm(h), "b c y x -> b (y x) c"), ctx, tap, Site(self.name, "joint", res)
        )
        return h + rearrange(z, "b (y x) c -> b c y x", y=res[0])
