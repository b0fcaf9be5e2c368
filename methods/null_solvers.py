"""Faster solvers for the inner problem of Null-text Inversion (arXiv:2211.09794v1): min over ∅ of ‖r(∅)‖².

The residual r(∅) = z*_s − z_s(z̄_t, ∅, C) of one guided step has as many numbers as a latent; ∅ is an
embedding (l d). The published solver, Adam, stands in methods/null_text.py. Ours:

    adam_skip      Adam that evaluates the loss first and updates only where it is not small enough
    gauss_newton   conjugate gradients on ‖r‖² with r linearised along the search direction d: one more
                   evaluation, a little further along, gives J d, and so the α that minimises ‖r + α J d‖²

Each picture has its own ∅, step length and stop. One that is done leaves the batch, so that what it costs
is what it would cost alone. A solver does not evaluate its last update: the guided step of the walk follows
in any case, and `safeguarded_step` takes the update back where that step ends further off than before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from einops import reduce
from torch import Tensor

from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.guidance import combine
from palimpsest.weights.counting import Evaluations, counted
from palimpsest.weights.model import Model

if TYPE_CHECKING:
    from palimpsest.methods.null_text import NullText

EachStep = Callable[["NullText"], None]


# ---- what the published algorithm is made of ----


def mean_square(r: Tensor) -> Tensor:
    """‖r‖² of each picture as a mean over its numbers: (b c y x) -> (b,)."""
    return reduce(r**2, "b c y x -> b", "mean")  # official code: the mean; the paper writes the sum


class Adam:
    """Adam (arXiv:1412.6980v9, Alg. 1) on a batch whose entries stop one after the other.

    β_1 = 0.9, β_2 = 0.999 and ε = 10⁻⁸, as published. Every entry has its own moments; one that has stopped
    is not updated again.
    """

    def __init__(self, x: Tensor, rate: float):
        self.rate, self.n = rate, 0
        self.m, self.v = torch.zeros_like(x), torch.zeros_like(x)  # (b …): moments of the gradient
        self.updates = torch.zeros(len(x), dtype=torch.long)  # (b,): of each entry

    def update(self, x: Tensor, g: Tensor, active: Sequence[int]) -> Tensor:
        """The active entries x (b' …) after an update along their gradient g (b' …)."""
        self.n += 1
        m = 0.9 * self.m[active] + 0.1 * g  # Alg. 1 of arXiv:1412.6980v9
        v = 0.999 * self.v[active] + 0.001 * g**2
        self.m[active], self.v[active] = m, v
        self.updates[active] += 1
        return x - self.rate * (m / (1 - 0.9**self.n)) / ((v / (1 - 0.999**self.n)).sqrt() + 1e-8)


def rate_and_tolerance(lr: float, stop: float, progress: float) -> tuple[float, float]:
    """Adam's learning rate in a step, and the loss at which the step is done.

    progress in [0, 1): how much of the walk is done before it. official code: lr (1 − i/100) and
    stop (1 + 2 i) in step i of its 50. The rate falls to a half, the tolerance grows a hundredfold.
    """
    return lr * (1 - progress / 2), stop * (1 + 100 * progress)


# ---- one step of the walk ----


@dataclass(frozen=True)
class GuidedStep:
    """One guided step z̄_t → z̄_s of the walk down, as a function of ∅, and where it should end."""

    model: Model
    z_bar: Tensor  # z̄_t (b c y x)
    target: Tensor  # z*_s (b c y x)
    t: int
    s: int
    w: float
    cond: Tensor  # C (b l d)
    eps_c: Tensor  # ε_θ(z̄_t, t, C) (b c y x)
    evaluations: Evaluations

    def __len__(self) -> int:
        return len(self.z_bar)

    def residual(self, null: Tensor, active: Sequence[int]) -> Tensor:
        """r(∅) of the active pictures. null (b' l d): theirs -> (b' c y x)."""
        with self.evaluations.of(active):
            eps_null = self.model.eps(self.z_bar[active], self.t, null)
        return self.residual_of(eps_null, active)

    def residual_of(self, eps_null: Tensor, active: Sequence[int]) -> Tensor:
        """The same as a function of ε_∅ (b' c y x), in which it is linear."""
        eps_hat = combine(eps_null, self.eps_c[active], self.w)  # Eq. (18)
        z_s = ddim_step(self.model.schedule, self.z_bar[active], eps_hat, self.t, self.s)  # Eq. (17)
        return self.target[active] - z_s

    def end(self, null: Tensor) -> Tensor:
        """z̄_s (b c y x) with these ∅ (b l d), evaluated as `redo` will evaluate it, to the same bits."""
        eps = self.model.denoiser(self.cond, self.w, null)
        return ddim_step(self.model.schedule, self.z_bar, eps(self.z_bar, self.t), self.t, self.s)


class Solution(NamedTuple):
    """What a solver found for each picture."""

    null: Tensor  # (b l d): ∅ after its last update, which may not have been evaluated
    best: Tensor  # (b l d): the best ∅ that was evaluated
    best_loss: Tensor  # (b,): its loss
    updates: Tensor  # (b,): how often ∅ was updated


def solve_steps(
    solver: str,
    model: Model,
    run: NullText,
    cond: Tensor,
    empty: Tensor,
    null: Tensor,
    inner: int,
    lr: float,
    stop: float,
    start: str,
    each_step: EachStep | None,
) -> NullText:
    """The remaining steps of a null-text inversion, each solved by "adam-skip" or "gauss-newton".

    cond, empty (b l d): the embeddings of the prompts and of ""; null (b l d): the first guess of the first
    step. The rest as in `null_text`.
    """
    solve = SOLVERS[solver]
    with counted(model, run.forwards) as evaluations:
        for i, t, s in run.remaining():
            rate, tolerance = rate_and_tolerance(lr, stop, i / (len(run.times) - 1))
            eps_c = model.eps(run.z_bar, t, cond)
            step = GuidedStep(model, run.z_bar, run.path[i + 1], t, s, run.w, cond, eps_c, evaluations)
            if start == "between":
                null = interpolated_start(step, empty, tolerance / 2)
            solution = solve(step, null, inner, rate, tolerance)
            null, z_bar = safeguarded_step(step, solution)
            run = run.after_step(null, z_bar, solution.updates, evaluations.each)
            if each_step is not None:
                each_step(run)
    return run


def untuned(
    model: Model,
    run: NullText,
    cond: Tensor,
    null: Tensor,
    each_step: EachStep | None = None,
    updates: int = 0,
) -> NullText:
    """The remaining steps of the walk, all with the same ∅ (b l d).

    updates: how often it had been updated for each step; the result records it.
    """
    before = torch.full((len(null),), updates)
    eps = model.denoiser(cond, run.w, null)
    with counted(model, run.forwards) as evaluations:
        for _, t, s in run.remaining():
            z_bar = ddim_step(model.schedule, run.z_bar, eps(run.z_bar, t), t, s)
            run = run.after_step(null, z_bar, before, evaluations.each)
            if each_step is not None:
                each_step(run)
    return run


def interpolated_start(step: GuidedStep, empty: Tensor, tolerance: float) -> Tensor:
    """A first guess on the line from the prompt to "": ∅ = C + μ (∅_empty − C), as near to "" as may be.

    μ is the largest in [0, 1] at which the mean of r², taken to be quadratic in μ, is the tolerance. The
    caller gives half the tolerance of the step, for the curvature that this leaves out.
    """
    eps_null = step.model.eps(step.z_bar, step.t, empty)
    everyone = list(range(len(step)))
    r_0, r_1 = (step.residual_of(eps, everyone) for eps in (step.eps_c, eps_null))  # μ = 0: the step at w = 1
    a, half_b, c = (reduce(v, "b c y x -> b", "mean") for v in ((r_1 - r_0) ** 2, r_0 * (r_1 - r_0), r_0**2))
    # a μ² + 2 half_b μ + c = tolerance, solved for μ
    root = (half_b**2 - a * (c - tolerance)).clamp(min=0).sqrt() - half_b
    mu = torch.where(c < tolerance, root / a.clamp(min=torch.finfo(a.dtype).tiny), 0).clamp(0, 1)
    return step.cond + mu[:, None, None] * (empty - step.cond)


def safeguarded_step(step: GuidedStep, solution: Solution) -> tuple[Tensor, Tensor]:
    """∅ (b l d) to keep, and z̄_s (b c y x), where the guided step comes to with it.

    Where the last update, which was not evaluated, made the loss larger (or NaN), the best ∅ that was
    evaluated takes its place, and the step is done again.
    """
    null = solution.null
    z_bar = step.end(null)
    unseen = (null != solution.best).flatten(1).any(1)
    worse = unseen & ~(mean_square(step.target - z_bar) <= solution.best_loss)
    if worse.any():
        null = torch.where(worse[:, None, None], solution.best, null)
        with step.evaluations.of(worse.nonzero()[:, 0].tolist(), batch=len(step)):
            z_bar = step.end(null)
    return null, z_bar


# ---- solvers: (step, first guess of ∅, most updates, learning rate, tolerance) -> Solution ----


def adam_skip(step: GuidedStep, null: Tensor, inner: int, rate: float, tolerance: float) -> Solution:
    """Adam that does not update a picture whose loss is small enough."""
    null, adam, active = null.clone(), Adam(null, rate), list(range(len(step)))
    for _ in range(inner):
        trial = null[active].requires_grad_()
        with torch.enable_grad():
            loss = mean_square(step.residual(trial, active))
            total = loss.sum()  # its gradient is each picture's own
        rows = [row for row, value in enumerate(loss.tolist()) if value >= tolerance]
        active = [active[row] for row in rows]
        if not active:
            break
        (g,) = torch.autograd.grad(total, trial)
        null[active] = adam.update(null[active], g[rows], active)
    return Solution(null, null, torch.full((len(step),), math.inf).to(null), adam.updates)


def gauss_newton(step: GuidedStep, null: Tensor, inner: int, rate: float, tolerance: float) -> Solution:
    """Conjugate gradients on ‖r‖², each update with the step length of the linearised r. `rate` is not used.

        g = Jᵀ r
        d = −g + β d_before,   β = max(0, ⟨g, g − g_before⟩/⟨g_before, g_before⟩)    (Polak and Ribière, 1969)
        J d ≈ (r(∅ + h d) − r(∅))/h;   ∅ ← ∅ − d ⟨r, J d⟩/⟨J d, J d⟩

    As ⟨r, J d⟩ = ⟨g, d⟩, the step is never uphill; but r may bend before the step ends. An update that made
    a picture worse is halved, from the best ∅ so far. An update costs two forward passes and one backward
    pass, halving it one forward pass.
    """
    tiny, null, best = torch.finfo(null.dtype).tiny ** 0.5, null.clone(), null.clone()
    g_before, d = torch.zeros_like(null), torch.zeros_like(null)
    best_loss, stalled = [math.inf] * len(step), [False] * len(step)
    active, updates = list(range(len(step))), torch.zeros(len(step), dtype=torch.long)
    for _ in range(inner):
        if not active:
            break
        here = null[active].requires_grad_()
        with torch.enable_grad():
            r = step.residual(here, active)
        evaluated, rows = active, []  # rows of the batch that are updated from where they are
        for row, (k, loss) in enumerate(zip(active, mean_square(r).tolist())):
            if loss < best_loss[k]:
                stalled[k] = (
                    loss > 0.95 * best_loss[k]
                )  # ours: to gain less than a twentieth is not worth going on
                best[k], best_loss[k] = null[k], loss
                rows += [row] if loss >= tolerance and not stalled[k] else []
            else:  # too far, or NaN: half as far, then a fresh direction
                null[k], g_before[k], d[k] = (best[k] + null[k]) / 2, 0, 0
        active = [k for k in active if best_loss[k] >= tolerance and not stalled[k]]
        if rows:
            moved = [evaluated[row] for row in rows]
            with torch.enable_grad():
                (g,) = torch.autograd.grad((r[rows] ** 2).sum() / 2, here)  # Jᵀ r
            g, r, here = g[rows], r[rows].detach(), here[rows].detach()
            beta = dot(g, g - g_before[moved]) / dot(g_before[moved], g_before[moved]).clamp(min=tiny)
            d[moved] = beta.clamp(min=0) * d[moved] - g
            g_before[moved] = g
            h = 0.01 * (dot(here, here) / dot(d[moved], d[moved]).clamp(min=tiny)).sqrt()
            jd = (step.residual(here + h * d[moved], moved) - r) / h[..., None]  # J d, by a difference
            null[moved] = here - d[moved] * dot(r, jd) / dot(jd, jd).clamp(min=tiny)
            updates[moved] += 1
    done = [k for k in range(len(step)) if k not in active]
    null[done] = best[done]
    return Solution(null, best, torch.tensor(best_loss, dtype=null.dtype, device=null.device), updates)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """⟨x, y⟩ of each picture: (b …) -> (b 1 1)."""
    return reduce(x.flatten(1) * y.flatten(1), "b n -> b 1 1", "sum")


SOLVERS: dict[str, Callable[..., Solution]] = {"adam-skip": adam_skip, "gauss-newton": gauss_newton}
