"""The shape that every U-Net here has: levels down, a middle, and levels up.

    conv_in ─ down: [residual block, attention] × blocks, halve ─ … ─ middle ─ … ─ up: [residual block,
    attention] × (blocks + 1), double ─ norm, SiLU, conv_out

Every map that is made on the way down is kept, and joined to the input of a block on the way up. "U-Net:
Convolutional Networks for Biomedical Image Segmentation", arXiv:1505.04597v1, Fig. 1, with the residual
blocks and the attention of DDPM, arXiv:2006.11239v2, Appendix B.

nets/unet.py (Stable Diffusion), nets/glide.py and nets/ddpm.py differ in the blocks that they put into it.

Letters: b batch, c channels, y x rows and columns, l text tokens, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from palimpsest.arguments import ArgumentError
from palimpsest.nets.attention import Tap, wants


class Stage(nn.Module):
    """A residual block, then attention or none: (b c_in y x) -> (b c_out y x)."""

    def __init__(
        self,
        res: nn.Module,  # (h, emb) -> h
        attention: nn.Module | None,  # (h, ctx, tap) -> h
        name: Literal["transformer", "joint", "attention"],  # of the attention in the state dict
    ):
        super().__init__()
        self.res = res
        self.name = name
        self.add_module(name, attention)

    def forward(self, h: Tensor, emb: Tensor, ctx: Tensor | None, tap: Tap | None) -> Tensor:
        h = self.res(h, emb)
        attention = getattr(self, self.name)
        return h if attention is None else attention(h, ctx, tap)


class Level(nn.Module):
    """The stages of one resolution, and what leads to the next: (h, emb) -> h, halved or doubled; or None."""

    def __init__(self, stages: list[Stage], resample: nn.Module | None = None):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.resample = resample


class Levels(NamedTuple):
    """What `build_levels` makes, in the order in which a map passes it."""

    down: nn.ModuleList  # of Level, finest first
    mid: list[Stage]
    up: nn.ModuleList  # of Level, coarsest first
    c_out: int  # channels of the last map


def build_levels(
    *,
    width: int,  # channels of the map that comes in
    mult: tuple[int, ...],  # channels of each level in units of width, finest first
    blocks: int,  # stages of a level on the way down; the way up has one more
    attention: tuple[bool, ...],  # for each level, whether its stages have attention
    stage: Callable[[str, int, int, int, bool], Stage],  # (name, level, c_in, c_out, attention) -> Stage
    halve: Callable[[int], nn.Module],  # channels -> what halves a map
    double: Callable[[int], nn.Module],  # channels -> what doubles a map
) -> Levels:
    """All levels of a U-Net. The middle has two stages, of which the first attends.

    A stage is named "down0.1", "mid" or "up1.0": the way, the level's number on that way, the stage's number
    in the level. Raises ValueError where attention and mult are of two lengths.
    """
    if len(attention) != len(mult):
        raise ArgumentError(
            "attention", f"must have one entry for each level of mult {mult}, got {attention}"
        )
    levels = list(zip(range(len(mult)), [width * m for m in mult], attention))  # finest first
    coarsest = len(mult) - 1

    c = width  # channels of h
    kept = [c]  # channels of the maps that the way up will be given
    down = nn.ModuleList()
    for level, c_out, attend in levels:
        stages = []
        for j in range(blocks):
            stages.append(stage(f"down{level}.{j}", level, c, c_out, attend))
            c = c_out
            kept.append(c)
        if level < coarsest:
            down.append(Level(stages, halve(c)))
            kept.append(c)
        else:
            down.append(Level(stages))

    mid = [stage("mid", coarsest, c, c, True), stage("mid", coarsest, c, c, False)]

    up = nn.ModuleList()
    for k, (level, c_out, attend) in enumerate(reversed(levels)):
        stages = []
        for j in range(blocks + 1):
            stages.append(stage(f"up{k}.{j}", level, c + kept.pop(), c_out, attend))
            c = c_out
        up.append(Level(stages, double(c) if level > 0 else None))
    return Levels(down, mid, up, c)


def through_levels(
    h: Tensor,
    emb: Tensor,
    down: Iterable[Level],
    mid: Iterable[Stage],
    up: Iterable[Level],
    ctx: Tensor | None = None,
    tap: Tap | None = None,
    *,
    recompute: bool = False,
) -> Tensor:
    """h (b c y x) down, through the middle, and up again: (b c_out y x).

    emb: the time embedding (b emb_width), with its SiLU applied; ctx: the text (b l d), None for a net that
    reads none; tap: see nets/attention.py. recompute: where gradients are wanted, a stage's activations are
    computed again on the way back instead of being kept ("Training Deep Nets with Sublinear Memory Cost",
    arXiv:1604.06174v2): slower, same gradients.
    """

    def run(stage: Stage, h: Tensor) -> Tensor:
        if recompute and torch.is_grad_enabled():
            return checkpoint(stage, h, emb, ctx, tap, use_reentrant=False, preserve_rng_state=False)
        return stage(h, emb, ctx, tap)

    kept = [h]
    for level in down:
        for stage in level.stages:
            h = run(stage, h)
            kept.append(h)
        if level.resample is not None:
            h = level.resample(h, emb)
            kept.append(h)
    for stage in mid:
        h = run(stage, h)
    for level in up:
        for stage in level.stages:
            h = run(stage, torch.cat([h, kept.pop()], dim=1))
        if level.resample is not None:
            h = level.resample(h, emb)
    return h


# ---- what all of them refuse ----


def check_map(x_t: Tensor, t: Tensor, channels: int, factor: int, hint: str = "") -> None:
    """Raises ValueError unless x_t is (b channels y x), rows and columns multiples of `factor`, and t one or
    b times."""
    if x_t.ndim != 4 or x_t.shape[1] != channels or x_t.shape[2] % factor or x_t.shape[3] % factor:
        raise ArgumentError(
            "x_t",
            f"must be (b {channels} y x){hint} with y and x divisible by {factor}, not {tuple(x_t.shape)}",
        )
    if tuple(t.shape) not in ((), (1,), (len(x_t),)):
        raise ArgumentError(
            "t", f"must be a number or a tensor of {len(x_t)} numbers, not of shape {tuple(t.shape)}"
        )


def check_text(ctx: Tensor | None, b: int, width: int) -> None:
    """Raises ValueError unless ctx is (b l width)."""
    if ctx is None or ctx.ndim != 3 or ctx.shape[::2] != (b, width):
        raise ArgumentError(
            "ctx", f"must be ({b} l {width}), not {None if ctx is None else tuple(ctx.shape)}"
        )


def check_tap(tap: Tap | None, sites: list, res: tuple[int, int]) -> None:
    """Raises ValueError for a tap that wants none of these sites: it would do nothing."""
    if tap is not None and not any(wants(tap, site) for site in sites):
        there = ", ".join(f"{s.name} {s.kind} {s.res[0]}x{s.res[1]}" for s in sites) or "none"
        raise ArgumentError(
            "tap", f"wants no attention layer of this net for a map of {res[0]}x{res[1]}; it has: {there}"
        )
