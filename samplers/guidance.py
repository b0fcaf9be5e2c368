"""Guidance maps denoisers to denoisers. A denoiser is a function (x_t, t) → ε̂; guided, it is still one."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, float], Tensor]                    # (x_t, t) -> eps
TextDenoiser = Callable[[Tensor, float, Tensor], Tensor]        # (x_t, t, ctx) -> eps


def combine(eps_null: Tensor, eps_cond: Tensor, w: float) -> Tensor:
    """ε̂ = ε_∅ + w (ε_c − ε_∅). # Eq. (7), which is Eq. (18): w ε_c + (1 − w) ε_∅

    w = 0 ignores the text, w = 1 is the plain conditional model, w > 1 exaggerates it. (Ho and Salimans,
    arXiv:2207.12598v1, count from zero: their w is ours minus 1.)
    """
    return eps_null + w * (eps_cond - eps_null)


def cfg(eps_fn: TextDenoiser, cond: Tensor, null: Tensor, w: float, stack: bool = True) -> Denoiser:
    """Classifier-free guidance: the denoiser (x_t, t) → ε̂ of Eq. (7).

    eps_fn(x_t, t, ctx): the network's ε. cond, null: (b l d) contexts of the prompt and of the empty prompt; b = 1
    serves every picture. stack=True asks both in one batch, null first; False in two calls, which halves the memory.
    The result is the same. w = 1 asks only cond and w = 0 only null: the other branch would be multiplied by zero.
    Raises ValueError where cond and null differ in (l d), or their b is neither 1 nor the number of pictures.
    """
    if cond.shape[1:] != null.shape[1:]:
        raise ValueError(f"cond {tuple(cond.shape)} and null {tuple(null.shape)} must agree in (l d): pad both alike")

    def denoise(x_t: Tensor, t: float) -> Tensor:
        b = len(x_t)
        if w == 1:
            return eps_fn(x_t, t, _for_each("cond", cond, b))
        if w == 0:
            return eps_fn(x_t, t, _for_each("null", null, b))
        ctx_null, ctx_cond = _for_each("null", null, b), _for_each("cond", cond, b)
        if stack:
            eps_null, eps_cond = eps_fn(torch.cat([x_t, x_t]), t, torch.cat([ctx_null, ctx_cond])).chunk(2)
        else:
            eps_null, eps_cond = eps_fn(x_t, t, ctx_null), eps_fn(x_t, t, ctx_cond)
        return combine(eps_null, eps_cond, w)                                                   # Eq. (7)

    return denoise


def _for_each(name: str, ctx: Tensor, b: int) -> Tensor:
    """(1 l d) or (b l d) → (b l d)."""
    if len(ctx) not in (1, b):
        raise ValueError(f"{name} holds {len(ctx)} contexts for {b} pictures; give one, or one each")
    return ctx.expand(b, -1, -1)
