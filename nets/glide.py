"""GLIDE: the U-Net that paints from a text, the one that enlarges what it painted, and the transformer
that reads the text for both.

"GLIDE: Towards Photorealistic Image Generation and Editing with Text-Guided Diffusion Models",
arXiv:2112.10741v3, Sec. 4.1 to 4.3; the U-Net is ADM's (nets/adm.py). With its default arguments
`GlideUNet` and `GlideText` are the published 64×64 model (together 385,030,726 parameters in 783
tensors), with `**UPSAMPLER` the one from 64 to 256 (398,361,286 in 797); the models that this library
ships are the same classes made small.

    net, text = GlideUNet(), GlideText()
    ctx = text(tokens)                            # (b l d): every attention layer of the net reads all of it
    eps, v = net(x_t, t, ctx).chunk(2, dim=1)     # v: where each variance lies between its bounds

v is that of Improved DDPM, arXiv:2102.09672v1, Eq. (15).

What a net sees beside x_t stands in the channels after it, and `inputs` puts it there: for inpainting the
picture where it is to be kept and where that is, for upsampling the small picture.

Letters: b batch, c channels, y x rows and columns, l text tokens, d width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.arguments import ArgumentError
from palimpsest.nets.adm import FusedAttention, JointAttention, ScaleShiftBlock, double, halve, same
from palimpsest.nets.attention import Site, Tap
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
from palimpsest.nets.text import TextLayer
from palimpsest.nets.unet import TimeEmbedding

UPSAMPLER = dict(
    upsampling=True, mult=(1, 1, 2, 2, 4, 4), blocks=2, attention=(False, False, False, True, True, True)
)
SMALL = dict(
    width=48,
    mult=(1, 2, 3),
    blocks=1,
    attention=(False, True, True),
    head_width=24,
    ctx_width=128,
    norm_groups=16,
    dropout=0.0,
)
SMALL_UPSAMPLER = SMALL | dict(
    upsampling=True, width=32, mult=(1, 1, 2, 3), attention=(False, False, True, True), head_width=32
)
# ours: the small model's empty text is a start, an end and padding, as WordTokenizer writes it; the
# published one's is all padding
SMALL_TEXT = dict(
    length=24, width=128, layers=4, heads=4, pad=0
)  # and vocab, as many as the tokenizer has; 0 is the pad of WordTokenizer


class GlideUNet(nn.Module):
    """[eps, v] = net(x_t, t, ctx, tap=None). All levels but the first halve the map, by a residual block of
    their own.

    It has what nets/net.py asks of a net. What it is shown beside x_t, `inputs` puts into the channels after
    it.
    """

    def __init__(
        self,
        *,
        channels: int = 3,  # of the picture
        inpainting: bool = False,  # whether it sees what is to be kept
        upsampling: bool = False,  # whether it sees a small picture
        width: int = 192,  # channels of the first level
        mult: tuple[int, ...] = (1, 2, 3, 4),  # channels of each level in units of width
        blocks: int = 3,  # stages of a level on the way down; the way up has one more
        attention: tuple[bool, ...] = (False, True, True, True),  # which levels attend; the middle does
        head_width: int = 64,  # must divide the channels of the levels that attend
        ctx_width: int = 512,  # of the text
        norm_groups: int = 32,  # must divide every level's channels
        dropout: float = 0.1,  # in every residual block, while training
    ):
        super().__init__()
        self.channels, self.inpainting, self.upsampling = channels, inpainting, upsampling
        self.in_channels = channels * (1 + inpainting + upsampling) + inpainting
        self.ctx_width = ctx_width
        self.factor = 2 ** (len(mult) - 1)  # between the finest and the coarsest map, each way
        emb_width = 4 * width

        def block(c_in: int, c_out: int, resample: Callable[[Tensor], Tensor] = same) -> ScaleShiftBlock:
            return ScaleShiftBlock(
                c_in, c_out, emb_width, groups=norm_groups, resample=resample, dropout=dropout
            )

        def stage(name: str, level: int, c_in: int, c_out: int, attend: bool) -> Stage:
            joint = JointAttention(name, level, c_out, head_width, ctx_width, norm_groups) if attend else None
            return Stage(block(c_in, c_out), joint, "joint")

        self.time = TimeEmbedding(width, emb_width)
        self.text_projection = Linear(ctx_width, emb_width)
        self.conv_in = Conv2d(self.in_channels, width, 3, padding=1)
        levels = build_levels(
            width=width,
            mult=mult,
            blocks=blocks,
            attention=attention,
            stage=stage,
            halve=lambda c: block(c, c, halve),
            double=lambda c: block(c, c, double),
        )
        self.down, self.mid, self.up = levels.down, Level(levels.mid), levels.up
        self.norm_out = nn.GroupNorm(norm_groups, levels.c_out)
        self.conv_out = Conv2d(levels.c_out, 2 * channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)  # it predicts nothing before it has learnt something
        nn.init.zeros_(self.conv_out.bias)

    def sites(self, res: tuple[int, int]) -> list[Site]:
        """The attention layers that a picture of res = (y, x) passes, in call order; each of kind "joint"."""
        return [m.site(res) for m in self.modules() if isinstance(m, JointAttention)]

    def inputs(
        self,
        x_t: Tensor,  # (b c y x)
        *,
        picture: Tensor | None = None,  # (b c y x) in [−1, 1]
        mask: Tensor | None = None,  # (b 1 y x): 1 = paint here, 0 = keep
        low_res: Tensor | None = None,  # (b c y' x') in [−1, 1], of any size: stretched to that of x_t
    ) -> Tensor:
        """What the net reads, (b in_channels y x) = [x_t | picture · kept | kept | low_res]; as much of it as
        it was built for.

        kept = 1 − mask says where the picture is to be kept: 1 there, 0 where the net paints. (GLIDE's own
        masks are that.) Without picture and mask nothing is kept, and a net for inpainting paints all. Raises
        ValueError for what the net cannot see, lacks, or has another shape.
        """
        self.check_beside(x_t, picture=picture, mask=mask, low_res=low_res)
        seen = [x_t]
        if self.inpainting:
            kept = torch.zeros_like(x_t[:, :1]) if mask is None else 1 - mask
            seen += [torch.zeros_like(x_t) if picture is None else picture * kept, kept]
        if self.upsampling:
            # official code: bilinear; the paper says bicubic. low_res comes rounded to 8 bits, as from a file
            seen.append(F.interpolate(low_res, x_t.shape[-2:], mode="bilinear", align_corners=False))
        return torch.cat(seen, dim=1)

    def check_beside(
        self, x_t: Tensor, *, picture: Tensor | None, mask: Tensor | None, low_res: Tensor | None
    ) -> None:
        """Raises ValueError for what `inputs` cannot put beside x_t."""
        b, c, *res = x_t.shape
        given = {
            "picture": (self.inpainting, picture, (b, c, *res)),
            "mask": (self.inpainting, mask, (b, 1, *res)),
            "low_res": (self.upsampling, low_res, (b, c)),  # of any size
        }
        for name, (sees, tensor, wanted) in given.items():
            if tensor is None:
                continue
            if not sees:
                use = "upsampling" if name == "low_res" else "inpainting"
                raise ArgumentError(
                    name, f"must be None: this net was not built for {use}; choose a model that was"
                )
            if tensor.ndim != 4 or tuple(tensor.shape[: len(wanted)]) != wanted:
                sizes = " ".join(map(str, wanted)) + (" y x" if name == "low_res" else "")
                raise ArgumentError(
                    name, f"must be ({sizes}) beside x_t {tuple(x_t.shape)}, not {tuple(tensor.shape)}"
                )
        if self.upsampling and low_res is None:
            raise ArgumentError(
                "low_res", "must be given: this net enlarges a small picture, (b c y x) in [-1, 1]"
            )
        if (picture is None) != (mask is None):
            raise ArgumentError(
                "picture" if picture is None else "mask",
                "must come with the other: give picture and mask, or neither for a picture that is all new",
            )

    def forward(self, x_t: Tensor, t: int | float | Tensor, ctx: Tensor, tap: Tap | None = None) -> Tensor:
        """[eps, v] (b 2·channels y x) for x_t (b in_channels y x), as `inputs` gives it, at time t under
        the text ctx (b l ctx_width).

        t: a number, or a tensor of one or b numbers; the published nets were trained on 0..999. ctx: of
        `GlideText`; its last vector is also added to the time. tap: called with the probabilities (b h i
        l+i) of each attention layer that it wants (nets/attention.py). Raises ValueError for shapes that
        do not fit, and a tap that wants no layer."""
        t = torch.as_tensor(t, device=x_t.device)
        self.check(x_t, t, ctx, tap)
        emb = self.time(t.expand(len(x_t)), self.text_projection(ctx[:, -1]))
        h = through_levels(self.conv_in(x_t), emb, self.down, self.mid.stages, self.up, ctx, tap)
        return self.conv_out(F.silu(self.norm_out(h)))

    def check(self, x_t: Tensor, t: Tensor, ctx: Tensor | None, tap: Tap | None) -> None:
        """Raises ValueError for what `forward` cannot take."""
        beside = self.in_channels > self.channels
        hint = ", as `inputs` makes it of a picture and what the net sees beside it," if beside else ""
        check_map(x_t, t, self.in_channels, self.factor, hint)
        check_text(ctx, len(x_t), self.ctx_width)
        check_tap(tap, self.sites(tuple(x_t.shape[-2:])), tuple(x_t.shape[-2:]))


def for_inpainting(net: GlideUNet) -> GlideUNet:
    """A copy of `net` that also sees what is to be kept (`inputs`), and ignores it until trained:
    arXiv:2112.10741v3, Sec. 4.3.

    The new weights of the first convolution, between those of x_t and those of low_res, are zero; the
    others keep their bits. Raises ValueError for a net that already does."""
    if net.inpainting:
        raise ArgumentError(
            "net", "must be one that was not built for inpainting: this one already sees what is to be kept"
        )
    net, c = copy.deepcopy(net), net.channels
    old, net.inpainting = net.conv_in, True
    net.in_channels = old.in_channels + c + 1
    net.conv_in = Conv2d(net.in_channels, old.out_channels, 3, padding=1).to(old.weight)
    with torch.no_grad():
        net.conv_in.weight.zero_()
        net.conv_in.weight[:, :c] = old.weight[:, :c]
        net.conv_in.weight[:, 2 * c + 1 :] = old.weight[:, c:]
        net.conv_in.bias.copy_(old.bias)
    return net


class GlideText(nn.Module):
    """tokens (b l) -> (b l d), normalised. Every token sees every other, before and after it, and the padding
    too.

    A place with no token has a vector of its own, `padding`, instead of a token's and the place's."""

    def __init__(
        self,
        *,
        vocab: int = 50257,  # how many tokens there are
        length: int = 128,  # of a row
        width: int = 512,  # d
        layers: int = 16,
        heads: int = 8,
        pad: int | None = None,  # the token that rows are filled with; None: the last, as with GPT-2
        init_std: float = 0.02,  # of all vectors that are looked up, see nets/text.py
    ):
        super().__init__()
        self.pad = vocab - 1 if pad is None else pad
        self.tokens = nn.Embedding(vocab, width)
        self.positions = nn.Parameter(torch.empty(length, width))
        self.padding = nn.Parameter(torch.empty(length, width))
        self.layers = nn.ModuleList(GlideTextLayer(width, heads) for _ in range(layers))
        self.norm_out = nn.LayerNorm(width)
        for looked_up in (self.tokens.weight, self.positions, self.padding):
            nn.init.normal_(looked_up, std=init_std)

    def forward(self, tokens: Tensor) -> Tensor:
        """Rows of tokens (b length), padded by the tokenizer -> (b length d). The empty text, all
        padding, is the unconditional input.

        Raises ValueError for rows of another length: the U-Net reads the last place, whatever stands there.
        """
        if tokens.ndim != 2 or tokens.shape[1] != len(self.positions):
            wanted = f"(b {len(self.positions)}), padded by the tokenizer"
            raise ArgumentError("tokens", f"must be {wanted}, not {tuple(tokens.shape)}")
        z = torch.where((tokens == self.pad)[..., None], self.padding, self.tokens(tokens) + self.positions)
        for layer in self.layers:
            z = layer(z)
        return self.norm_out(z)


class GlideTextLayer(TextLayer):
    """The layer of nets/text.py with GELU, neither causal nor masked, and one fused map in its attention:
    (b l d) -> (b l d).
    """

    def __init__(self, width: int, heads: int):
        super().__init__(width, heads, F.gelu, causal=False)
        self.attention = FusedAttention(width, heads)
