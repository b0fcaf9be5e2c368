"""Attention with a place to listen and to speak.

    Attention(Q, K, V) = softmax(Q Kᵀ / √k) V                    "Attention Is All You Need", arXiv:1706.03762v7, Eq. (1)

One class serves self-attention (keys and values from x), cross-attention (from a context) and causal
text. The editing methods of this library read and rewrite the probabilities softmax(Q Kᵀ / √k) through a
*tap*: a function that is handed down as an argument, so that nothing is patched and nothing remains after
the call.

Letters: b batch, i queries, j keys, d width, h heads, k head width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from palimpsest.nets.fast_cpu import Linear


class Site(NamedTuple):
    """Where an attention layer stands: its place in the net, what it attends to, and the size of its
    feature map.
    """

    name: str  # "down0.1", "mid", "up1.0"
    # "self", "cross", or "joint": the keys are the text's tokens, then the map's own pixels
    # (nets/adm.py)
    kind: str
    res: tuple[int, int]  # (y, x): the layer has y·x queries


Tap = Callable[[Tensor, Site], Tensor]  # probabilities (b h i j) -> probabilities (b h i j)


@dataclass(frozen=True)
class _At:
    tap: Tap
    kind: str | None
    res: tuple[int, int] | None
    name: str | None
    sites: frozenset[Site] | None

    def wants(self, site: Site) -> bool:
        return (
            (self.sites is None or site in self.sites)
            and self.kind in (None, site.kind)
            and self.res in (None, site.res)
            and (self.name is None or site.name.startswith(self.name))
            and wants(self.tap, site)
        )

    def __call__(self, probs: Tensor, site: Site) -> Tensor:
        return self.tap(probs, site) if self.wants(site) else probs


def at(
    tap: Tap,
    *,
    kind: str | None = None,
    res: tuple[int, int] | None = None,
    name: str | None = None,
    sites: Collection[Site] | None = None,
) -> Tap:
    """`tap`, restricted to the sites that fit; all other layers keep the fused path.

    kind: "self", "cross" or "joint"; res: the exact (y, x) of the feature map; name: a site's name or the
    beginning of one ("up" is every up-block, "up1.0" a single layer pair); sites: these alone.
    None fits everything. Restrictions nest."""
    if kind not in (None, "self", "cross", "joint"):
        raise ValueError(f'kind must be "self", "cross", "joint" or None, not {kind!r}')
    return _At(
        tap, kind, None if res is None else tuple(res), name, None if sites is None else frozenset(sites)
    )


def wants(tap: Tap | None, site: Site) -> bool:
    """Whether `tap` is to be called at `site`: a tap wants every site unless its own `wants(site)` says
    otherwise.
    """
    return tap is not None and getattr(tap, "wants", lambda site: True)(site)


def slow_way_back(q: Tensor) -> bool:
    """Whether torch's fused kernel would spend most of a training step on its gradient: in bfloat16 on a
    CPU it does not use the processor's bfloat16 units, which plain products do."""
    return (
        q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled() and q.requires_grad
    )


def attend(
    q: Tensor, k: Tensor, v: Tensor, tap: Tap | None = None, site: Site | None = None, *, causal: bool = False
) -> Tensor:
    """Eq. (1) of the paper: queries (b h i k), keys and values (b h j k) -> (b h i k).

    causal: a query sees its own place and those before it. A tap that wants this site stands between
    softmax and V."""
    if not wants(tap, site):
        if slow_way_back(q) and not causal:
            return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1) @ v
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    logits = q @ k.mT * q.shape[-1] ** -0.5  # (b h i j)
    if causal:
        future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        logits = logits.masked_fill(future, float("-inf"))
    # as the fused kernels do: exponentials in float32 at least, probabilities in the dtype of the net
    probs = logits.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(v.dtype)
    edited = tap(probs, site)
    if edited.shape != probs.shape:
        raise ValueError(
            f"the tap at {site} must return {tuple(probs.shape)} (b h i j), not {tuple(edited.shape)}"
        )
    return edited.to(v.dtype) @ v


class Attention(nn.Module):
    """Multi-head attention of x (b i d) to itself, or to a context (b j ctx_width).

    width: of x; must divide by heads. ctx_width: of the context, None for self-attention.
    bias: whether the query, key and value maps have one (the output map always does).
    causal: position i sees positions j ≤ i only.
    """

    def __init__(
        self,
        width: int,
        ctx_width: int | None = None,
        heads: int = 8,
        *,
        bias: bool = False,
        causal: bool = False,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"heads={heads} must divide the attention width {width}")
        self.heads = heads
        self.causal = causal
        self.to_q = Linear(width, width, bias=bias)
        self.to_k = Linear(ctx_width or width, width, bias=bias)
        self.to_v = Linear(ctx_width or width, width, bias=bias)
        self.to_out = Linear(width, width)

    def forward(
        self, x: Tensor, ctx: Tensor | None = None, tap: Tap | None = None, site: Site | None = None
    ) -> Tensor:
        """(b i d) -> (b i d). The tap is called with the probabilities (b h i j) and `site`, if it wants
        this site.
        """
        ctx = x if ctx is None else ctx
        q, k, v = (
            rearrange(t, "b n (h k) -> b h n k", h=self.heads)
            for t in (self.to_q(x), self.to_k(ctx), self.to_v(ctx))
        )
        return self.to_out(rearrange(attend(q, k, v, tap, site, causal=self.causal), "b h i k -> b i (h k)"))
