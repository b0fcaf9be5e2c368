"""Solvers for the small problem inside Null-text Inversion (arXiv:2211.09794v1): min over ∅ of ‖r(∅)‖²,
one step at a time.

r(∅) = z*_s − z_s(z̄, ∅, C) has as many numbers as a latent; ∅ is an embedding (l d). Each picture has its
own ∅, its own step length and its own stop: one that is done leaves the batch and changes no more.

    adam           the published one: asks, updates, and only then looks whether the loss before the update was small
    adam_skip      looks, and updates only where it was not
    gauss_newton   conjugate gradients on ‖r‖² with r linearised along the direction: the net is asked once more, a little
                   farther along, and where the straight line through both answers comes nearest to 0 is
                   the step

The last update is not looked at: the walk's own step, which has to be asked in any case, is the look
(methods.null_text.walk). Forward passes, and those among them that are followed by a backward pass, are
counted for each picture as if it were alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from einops import reduce
from torch import Tensor

from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.guidance import combine
from palimpsest.weights.model import Model

Residual = Callable[
    [Tensor, Sequence[int]], Tensor
]  # (∅ of the live pictures (b' l d), which they are) -> r (b' c y x)
Loss = Callable[[Tensor], Tensor]  # r -> mean of r² of each picture, (b',)


@dataclass
class Spent:
    """What a step cost, for each picture: (b,) whole numbers."""

    forwards: Tensor
    backwards: Tensor
    updates: Tensor

    @classmethod
    def of(cls, b: int, forwards: int = 0, backwards: int = 0) -> Spent:
        """The same for each of b pictures, and no updates."""
        return cls(*(torch.full((b,), n) for n in (forwards, backwards, 0)))

    def add(self, live: Sequence[int], forwards: int = 0, backwards: int = 0, updates: int = 0) -> None:
        """More for the pictures that are live."""
        live = list(live)
        for mine, n in ((self.forwards, forwards), (self.backwards, backwards), (self.updates, updates)):
            mine[live] += n


class Found(NamedTuple):
    """What a solver found for each picture. ∅ to walk with, which may be new; the best that was looked
    at; its loss, ∞: none was.
    """

    null: Tensor  # (b l d)
    best: Tensor  # (b l d)
    least: Tensor  # (b,)

    @classmethod
    def of(cls, null: Tensor) -> Found:
        """This, and no other."""
        return cls(null, null, torch.full((len(null),), math.inf).to(null))


@dataclass
class Step:
    """One step of the guided walk, t → s, that is to end at `target`, z*_s, having begun at z, z̄_t."""

    model: Model
    z: Tensor
    target: Tensor
    t: float
    s: float
    w: float
    cond: Tensor

    @property
    def every(self) -> list[int]:
        """The pictures, by number."""
        return list(range(len(self.z)))

    @cached_property
    def eps_c(self) -> Tensor:
        """ε_C, which no ∅ changes: asked once."""
        with torch.no_grad():
            return self.model.eps(self.z, self.t, self.cond)

    def miss(self, eps_null: Tensor, live: Sequence[int]) -> Tensor:
        """z*_s − z_s(z̄_t, ∅, C) of the live pictures, linear in ε_∅."""
        eps_hat = combine(eps_null, self.eps_c[live], self.w)  # Eq. (18)
        return self.target[live] - ddim_step(
            self.model.schedule, self.z[live], eps_hat, self.t, self.s
        )  # Eq. (17)


def adam(
    residual: Residual,
    loss: Loss,
    null: Tensor,
    live: list[int],
    inner: int,
    rate: float,
    enough: float,
    spent: Spent,
    *,
    skip: bool = False,
) -> Found:
    """At most `inner` updates of ∅ (b l d) by Adam (arXiv:1412.6980v9, Alg. 1) from a fresh state.

    live: the pictures that need it. enough: the loss at which a picture is done. skip: look before the
    update."""
    null, m, v = null.clone(), torch.zeros_like(null), torch.zeros_like(null)  # a fresh Adam in each step
    for n in range(1, inner + 1):
        if not live:
            break
        here = null[live].requires_grad_()
        with torch.enable_grad():
            losses = loss(residual(here, live))
        spent.add(live, forwards=1)
        small = [value < enough for value in losses.tolist()]
        moving = [row for row in range(len(live)) if not (skip and small[row])]
        moved = [live[row] for row in moving]
        if moved:
            (g,) = torch.autograd.grad(losses.sum(), here)  # of a sum: each picture's, as if alone
            null[moved], m[moved], v[moved] = adam_update(null[moved], g[moving], m[moved], v[moved], n, rate)
            spent.add(moved, backwards=1, updates=1)
        live = [j for j, done in zip(live, small) if not done]  # official code: looks after the update
    return Found.of(null)


def adam_update(
    x: Tensor, g: Tensor, m: Tensor, v: Tensor, n: int, rate: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Update n = 1, 2, … of x along its gradient g, with the published β and ε; the new x, m, v."""
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2  # Alg. 1 of arXiv:1412.6980v9
    return x - rate * (m / (1 - 0.9**n)) / ((v / (1 - 0.999**n)).sqrt() + 1e-8), m, v


def adam_skip(
    residual: Residual,
    loss: Loss,
    null: Tensor,
    live: list[int],
    inner: int,
    rate: float,
    enough: float,
    spent: Spent,
) -> Found:
    """`adam`, but a picture whose loss is small enough is not moved."""
    return adam(residual, loss, null, live, inner, rate, enough, spent, skip=True)


def gauss_newton(
    residual: Residual,
    loss: Loss,
    null: Tensor,
    live: list[int],
    inner: int,
    rate: float,
    enough: float,
    spent: Spent,
) -> Found:
    """At most `inner` conjugate-gradient updates of ∅ (b l d), each with the step length of the linearised r.

        g = Jᵀ r;   d = −g + β d_before,   β = max(0, ⟨g, g − g_before⟩/⟨g_before, g_before⟩)     (Polak and Ribière, 1969)
        J d ≈ (r(∅ + h d) − r(∅))/h;   ∅ ← ∅ − d ⟨r, J d⟩/⟨J d, J d⟩

    ⟨r, J d⟩ = ⟨g, d⟩: the step is never uphill, but the straight line may hold less far than the step is
    long. An update that made a picture worse is halved, from the best ∅ so far. An update costs two
    forward passes and one backward pass, halving it one forward pass."""
    tiny, null, best = torch.finfo(null.dtype).tiny ** 0.5, null.clone(), null.clone()
    before, d = torch.zeros_like(null), torch.zeros_like(null)
    least, stuck = [math.inf] * len(null), [False] * len(null)
    for _ in range(inner):
        if not live:
            break
        here = null[live].requires_grad_()
        with torch.enable_grad():
            r = residual(here, live)
            losses = loss(r)
        spent.add(live, forwards=1)
        order, going = live, []  # to be updated from where they are
        for row, (j, value) in enumerate(zip(live, losses.tolist())):
            if value < least[j]:
                stuck[j] = value > 0.95 * least[j]  # ours: a twentieth gained is too little to go on
                best[j], least[j] = null[j], value
                going += [row] if value >= enough and not stuck[j] else []
            else:  # too far, or NaN: half as far, and a fresh direction
                null[j], before[j], d[j] = (best[j] + null[j]) / 2, 0, 0
        live = [j for j in live if least[j] >= enough and not stuck[j]]
        if going:
            (g,) = torch.autograd.grad((r[going] ** 2).sum() / 2, here)  # Jᵀ r
            g, r, here, moved = (
                g[going],
                r[going].detach(),
                here[going].detach(),
                [order[row] for row in going],
            )
            beta = dot(g, g - before[moved]) / dot(before[moved], before[moved]).clamp(min=tiny)
            d[moved] = beta.clamp(min=0) * d[moved] - g
            before[moved] = g
            h = 0.01 * (dot(here, here) / dot(d[moved], d[moved]).clamp(min=tiny)).sqrt()
            with torch.no_grad():
                jd = (residual(here + h * d[moved], moved) - r) / h[..., None]  # J d, by a difference
            null[moved] = here - d[moved] * dot(r, jd) / dot(jd, jd).clamp(min=tiny)
            spent.add(moved, forwards=1, backwards=1, updates=1)
    done = [j for j in range(len(null)) if j not in live]
    null[done] = best[done]
    return Found(null, best, torch.tensor(least, dtype=null.dtype, device=null.device))


def between(step: Step, empty: Tensor, enough: float, spent: Spent) -> Tensor:
    """∅ = C + μ (∅_empty − C) with the largest μ in [0, 1] at which the mean of r², taken to be quadratic
    in μ, is `enough`.
    """
    with torch.no_grad():
        eps_null = step.model.eps(step.z, step.t, empty)
    spent.add(step.every, forwards=1)
    r, far = step.miss(step.eps_c, step.every), step.miss(eps_null, step.every)  # μ = 0: the step at w = 1
    a, half, c = (reduce(v, "b c y x -> b", "mean") for v in ((far - r) ** 2, r * (far - r), r**2))
    root = (half**2 - a * (c - enough)).clamp(min=0).sqrt() - half  # a μ² + 2 half μ + c = enough
    mu = torch.where(c < enough, root / a.clamp(min=torch.finfo(a.dtype).tiny), 0).clamp(0, 1)
    return step.cond + mu[:, None, None] * (empty - step.cond)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """⟨x, y⟩ of each picture: (b …) -> (b 1 1), as wide as an embedding is deep."""
    return reduce(x.flatten(1) * y.flatten(1), "b n -> b 1 1", "sum")


SOLVERS: dict[str, Callable[..., Found]] = {
    "adam": adam,
    "adam-skip": adam_skip,
    "gauss-newton": gauss_newton,
}


def check_guidance(model: Model, w: float) -> None:
    """Raises ValueError for a model or a guidance scale under which no embedding can be tuned, with the
    mend.
    """
    if model.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"model: null-text optimisation needs float32, and this bundle is {model.dtype}; load it in float32"
        )
    if not (math.isfinite(w) and w >= 1):
        raise ValueError(
            f"w: must be at least 1, got {w}; below 1 the walk leans on ∅ itself and no prompt could edit it"
        )
