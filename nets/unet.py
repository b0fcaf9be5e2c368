"""The U-Net of Stable Diffusion v1: a noisy latent, a time and a text to a prediction (noise or v, as it
was trained).

"High-Resolution Image Synthesis with Latent Diffusion Models", arXiv:2112.10752v2, Sec. 3.3 and Appendix
E.2.1. With its default arguments the class is the published network (859,520,964 parameters in 686
tensors); the models that this library ships are the same class made small.

    conv ─ down: [residual, transformer] × blocks, halve ─ … ─ middle ─ … ─ up: [residual, transformer] ×
    (blocks + 1), double ─ conv

Every map made on the way down is concatenated to the input of a residual block on the way up.

Letters: b batch, c channels, y x rows and columns, n = y·x, l text tokens, d width.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from palimpsest.nets.attention import Attention, Site, Tap, wants
from palimpsest.nets.blocks import ResBlock, Upsample
from palimpsest.nets.fast_cpu import Conv2d, Linear


class UNet(nn.Module):
    """eps or v = net(x_t, t, ctx, tap=None).

    in_channels, out_channels: of the latent, before and after; width: channels of the first level; mult:
    channels of each level in units of width; blocks: residual blocks a level on the way down (one more on
    the way up); attention: for each level, whether its blocks have a transformer (the middle always has
    one); heads: in every attention layer; ctx_width: width of the text embedding, None for a net that
    reads no text; norm_groups: must divide every level's channels. All levels but the first halve the
    map.

    recompute, an attribute: where gradients are wanted, a stage's activations are made again on the way
    back instead of being kept ("Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174v2).
    Slower, same gradients."""

    def __init__(
        self,
        *,
        in_channels: int = 4,
        out_channels: int = 4,
        width: int = 320,
        mult: tuple[int, ...] = (1, 2, 4, 4),
        blocks: int = 2,
        attention: tuple[bool, ...] = (True, True, True, False),
        heads: int = 8,
        ctx_width: int | None = 768,
        norm_groups: int = 32,
    ):
        super().__init__()
        if len(attention) != len(mult):
            raise ValueError(f"attention={attention} must have one entry for each level of mult={mult}")
        self.ctx_width = ctx_width
        self.recompute = False
        self.factor = 2 ** (len(mult) - 1)  # between the finest and the coarsest map, each way
        emb_width = 4 * width
        widths = [width * m for m in mult]
        levels = list(zip(range(len(mult)), widths, attention))  # finest first

        def stage(name: str, level: int, c_in: int, c_out: int, attend: bool) -> Stage:
            transformer = Transformer(name, level, c_out, ctx_width, heads, norm_groups) if attend else None
            return Stage(
                ResBlock(c_in, c_out, groups=norm_groups, eps=1e-5, emb_width=emb_width), transformer
            )

        self.time = TimeEmbedding(width, emb_width)
        self.conv_in = Conv2d(in_channels, width, 3, padding=1)

        c = width  # channels of h
        skips = [c]  # channels of the maps kept for the way up
        self.down = nn.ModuleList()
        for level, c_out, attend in levels:
            stages = []
            for j in range(blocks):
                stages.append(stage(f"down{level}.{j}", level, c, c_out, attend))
                c = c_out
                skips.append(c)
            last = level == len(mult) - 1
            self.down.append(Level(stages, None if last else Downsample(c)))
            if not last:
                skips.append(c)

        self.mid = Level(
            [stage("mid", len(mult) - 1, c, c, True), stage("mid", len(mult) - 1, c, c, False)], None
        )

        self.up = nn.ModuleList()
        for k, (level, c_out, attend) in enumerate(reversed(levels)):
            stages = []
            for j in range(blocks + 1):
                stages.append(stage(f"up{k}.{j}", level, c + skips.pop(), c_out, attend))
                c = c_out
            self.up.append(Level(stages, Upsample(c) if level > 0 else None))

        self.norm_out = nn.GroupNorm(norm_groups, width, eps=1e-5)
        self.conv_out = Conv2d(width, out_channels, 3, padding=1)

        # every residual branch starts as zero, and so does the prediction
        branches = [m.conv2 for m in self.modules() if isinstance(m, ResBlock)]
        for last in [*branches, *(t.proj_out for t in self.transformers()), self.conv_out]:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def transformers(self) -> list[Transformer]:
        """All transformers, in the order in which `forward` calls them."""
        return [m for m in self.modules() if isinstance(m, Transformer)]

    def sites(self, res: tuple[int, int]) -> list[Site]:
        """The attention layers that a latent of res = (y, x) passes, in call order."""
        return [site for t in self.transformers() for site in t.sites((res[0] >> t.level, res[1] >> t.level))]

    def forward(
        self, x_t: Tensor, t: int | float | Tensor, ctx: Tensor | None = None, tap: Tap | None = None
    ) -> Tensor:
        """Prediction (b out_channels y x) for latents x_t (b in_channels y x) at time t under the text
        ctx (b l ctx_width).

        t: a number, or a tensor of one or b numbers; any real time is allowed, the published net was
        trained on 0..999. tap: called with the probabilities of each attention layer that it wants (see
        nets/attention.py). Raises ValueError for shapes that do not fit, a missing or superfluous ctx,
        and a tap that wants no layer."""
        t = torch.as_tensor(t, device=x_t.device)
        self.check(x_t, t, ctx, tap)
        emb = self.time(t.expand(len(x_t)))

        h = self.conv_in(x_t)
        skips = [h]
        for level in self.down:
            for stage in level.stages:
                h = self.through(stage, h, emb, ctx, tap)
                skips.append(h)
            if level.resample is not None:
                h = level.resample(h)
                skips.append(h)
        for stage in self.mid.stages:
            h = self.through(stage, h, emb, ctx, tap)
        for level in self.up:
            for stage in level.stages:
                h = self.through(stage, torch.cat([h, skips.pop()], dim=1), emb, ctx, tap)
            if level.resample is not None:
                h = level.resample(h)
        return self.conv_out(F.silu(self.norm_out(h)))

    def through(self, stage: Stage, h: Tensor, emb: Tensor, ctx: Tensor | None, tap: Tap | None) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(stage, h, emb, ctx, tap, use_reentrant=False, preserve_rng_state=False)
        return stage(h, emb, ctx, tap)

    def check(self, x_t: Tensor, t: Tensor, ctx: Tensor | None, tap: Tap | None) -> None:
        c, res = self.conv_in.in_channels, tuple(x_t.shape[-2:])
        if x_t.ndim != 4 or x_t.shape[1] != c or res[0] % self.factor or res[1] % self.factor:
            raise ValueError(
                f"x_t must be (b {c} y x) with y and x divisible by {self.factor}, not {tuple(x_t.shape)}"
            )
        if tuple(t.shape) not in ((), (1,), (len(x_t),)):
            raise ValueError(
                f"t must be a number or a tensor of {len(x_t)} numbers, not of shape {tuple(t.shape)}"
            )
        if self.ctx_width is None and ctx is not None:
            raise ValueError("ctx must be None: this net was built with ctx_width=None and reads no text")
        if self.ctx_width is not None and (ctx is None or ctx.shape[::2] != (len(x_t), self.ctx_width)):
            given = "None" if ctx is None else tuple(ctx.shape)
            raise ValueError(f"ctx must be ({len(x_t)} l {self.ctx_width}), not {given}")
        if tap is not None and not any(wants(tap, site) for site in self.sites(res)):
            there = ", ".join(f"{s.name} {s.kind} {s.res[0]}x{s.res[1]}" for s in self.sites(res)) or "none"
            raise ValueError(
                f"tap wants no attention layer of this net for a latent of {res[0]}x{res[1]}; it has: {there}"
            )


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
    net.conv_in = new
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


class Level(nn.Module):
    """The stages of one resolution, and what leads to the next: a Downsample, an Upsample or None."""

    def __init__(self, stages: list[Stage], resample: nn.Module | None):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.resample = resample


class Stage(nn.Module):
    """A residual block, then a transformer or none: (b c_in y x) -> (b c_out y x)."""

    def __init__(self, res: ResBlock, transformer: Transformer | None):
        super().__init__()
        self.res = res
        self.transformer = transformer

    def forward(self, h: Tensor, emb: Tensor, ctx: Tensor | None, tap: Tap | None) -> Tensor:
        h = self.res(h, emb)
        return h if self.transformer is None else self.transformer(h, ctx, tap)


class Transformer(nn.Module):
    """The pixels of a map attend to each other and to the text: h + proj_out(block(proj_in(norm(h)))), (b
    c y x).

    The block is pre-norm: z += self(z); z += cross(z, ctx); z += ff(z). name: of its two sites.
    """

    def __init__(
        self, name: str, level: int, width: int, ctx_width: int | None, heads: int, norm_groups: int
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
    """3×3 convolution of stride 2, padded alike on all sides (unlike the autoencoder's): (b c y x) -> (b
    c y/2 x/2).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)
