"""Attention whose probabilities can be read and rewritten.

    Attention(Q, K, V) = softmax(Q Kᵀ / √k) V         "Attention Is All You Need", arXiv:1706.03762v7, Eq. (1)

One class serves self-attention (keys and values from x), cross-attention (from a context) and causal text.
The editing methods of this library read and rewrite the probabilities softmax(Q Kᵀ / √k) through a *tap*: a
function (probabilities, site) -> probabilities that is handed down as an argument. Nothing is patched, and
nothing remains after the call.

Letters: b batch, i queries, j keys, d width, h heads, k head width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from palimpsest.arguments import ArgumentError, check
from palimpsest.nets.fast_cpu import Linear, fused_attention


class Site(NamedTuple):
    """Where an attention layer stands: its place in the net, what it attends to, and the size of its feature
    map."""

    name: str  # "down0.1", "mid", "up1.0"
    kind: str  # "self", "cross", or "joint": the text's tokens, then the map's own pixels (nets/adm.py)
    res: tuple[int, int]  # (y, x): the layer has y·x queries


Tap = Callable[[Tensor, Site], Tensor]  # probabilities (b h i j) -> probabilities (b h i j)


def wants(tap: Tap | None, site: Site) -> bool:
    """Whether `tap` is to be called at `site`: everywhere, unless its own method `wants(site)` says
    otherwise."""
    return tap is not None and getattr(tap, "wants", lambda site: True)(site)


def attend(
    q: Tensor, k: Tensor, v: Tensor, tap: Tap | None = None, site: Site | None = None, *, causal: bool = False
) -> Tensor:
    """Eq. (1): queries (b h i k), keys and values (b h j k) -> (b h i k).

    causal: a query sees its own place and those before it. A tap that wants this site is called between
    softmax and V. Raises ValueError for a tap that returns another shape.
    """
    if not wants(tap, site):
        return fused_attention(
            q, k, v, causal=causal
        )  # Eq. (1) in one call, its probabilities never written out

    wide = torch.promote_types(q.dtype, torch.float32)  # in float16 Stable Diffusion 2.1's products overflow
    logits = q.to(wide) @ k.to(wide).mT * q.shape[-1] ** -0.5  # (b h i j)
    if causal:
        future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        logits = logits.masked_fill(future, float("-inf"))
    probs = logits.softmax(-1).to(v.dtype)  # in float32 at least, as the fused kernels do
    edited = tap(probs, site)
    if edited.shape != probs.shape:
        raise ArgumentError(
            "tap", f"must return {tuple(probs.shape)} (b h i j) at {site}, not {tuple(edited.shape)}"
        )
    return edited.to(v.dtype) @ v  # Eq. (1)


class Attention(nn.Module):
    """Multi-head attention of x (b i d) to itself, or to a context (b j ctx_width)."""

    def __init__(
        self,
        width: int,  # d, of x; heads must divide it
        ctx_width: int | None = None,  # of the context; None: self-attention
        heads: int = 8,
        *,
        bias: bool = False,  # whether the query, key and value maps have one; the output map always does
        causal: bool = False,  # position i sees positions j ≤ i only
    ):
        super().__init__()
        if width % heads:
            raise ArgumentError("heads", f"must divide the attention width {width}, got {heads}")
        self.heads = heads
        self.causal = causal
        self.to_q = Linear(width, width, bias=bias)
        self.to_k = Linear(ctx_width or width, width, bias=bias)
        self.to_v = Linear(ctx_width or width, width, bias=bias)
        self.to_out = Linear(width, width)

    def forward(
        self, x: Tensor, ctx: Tensor | None = None, tap: Tap | None = None, site: Site | None = None
    ) -> Tensor:
        """(b i d) -> (b i d). The tap is called with the probabilities (b h i j) and `site`, if it wants this
        site."""
        ctx = x if ctx is None else ctx
        q, k, v = (
            rearrange(t, "b n (h k) -> b h n k", h=self.heads)
            for t in (self.to_q(x), self.to_k(ctx), self.to_v(ctx))
        )
        return self.to_out(rearrange(attend(q, k, v, tap, site, causal=self.causal), "b h i k -> b i (h k)"))


# ---- a tap for some sites only ----


def at(
    tap: Tap,
    *,
    kind: Literal["self", "cross", "joint"] | None = None,
    res: tuple[int, int] | None = None,  # the exact (y, x) of the feature map
    name: str | None = None,  # of a site, or its beginning: "up" is every up-block, "up1.0" one stage
    sites: Collection[Site] | None = None,  # these alone
) -> Tap:
    """`tap`, restricted to the sites that fit; None fits everything. All other layers keep the fused path.

    Restrictions nest. Raises ArgumentError for another kind.
    """
    check(at, locals())
    return _At(
        tap, kind, None if res is None else tuple(res), name, None if sites is None else frozenset(sites)
    )


@dataclass(frozen=True)
class _At:
    tap: Tap
    kind: str | None
    res: tuple[int, int] | None
    name: str | None
    sites: frozenset[Site] | None

    def wants(self, site: Site) -> bool:
        return (
            self.kind in (None, site.kind)
            and self.res in (None, site.res)
            and (self.name is None or site.name.startswith(self.name))
            and (self.sites is None or site in self.sites)
            and wants(self.tap, site)
        )

    def __call__(self, probs: Tensor, site: Site) -> Tensor:
        return self.tap(probs, site) if self.wants(site) else probs
