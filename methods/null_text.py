"""Null-text Inversion for Editing Real Images using Guided Diffusion Models (Mokady et al.,
arXiv:2211.09794v1).

DDIM inversion at w = 1 leads back to its picture at w = 1. Under strong guidance it does not, and without
guidance an edit is weak. Null-text inversion leaves the network and the prompt as they are and tunes the
embedding of the *empty* prompt, one for each step, until the guided walk down stays on the walk up.
Algorithm 1, in lines that the tags below count:

    1  z*_T … z*_0 ← DDIM inversion of z_0 under the prompt, w = 1               the pivot; Eq. (19)
    2  z̄_T ← z*_T;  ∅_T ← the embedding of ""
    3  for t → s down to 0:
    4    at most N times, until the loss is small:
    5      ε̂ ← ε_∅ + w (ε_C − ε_∅);  z_s ← DDIM step of z̄_t along ε̂              Eqs. (18), (17)
    6      ∅_t ← Adam update along the gradient of ‖z*_s − z_s‖² by ∅_t             Eqs. (20), (21)
    7    z̄_s ← the guided step of z̄_t with the tuned ∅_t;  ∅_s ← ∅_t              Eq. (22)

An edit walks down from z*_T with these ∅_t under another prompt: `methods.inversion.redo`, or
`methods.prompt_to_prompt`, which adds attention control.

    paper        code                          paper        code
    z*_t, z*_s   run.path[i], target           ∅_t          null, kept in run.nulls[i]
    z̄_t          z_bar                         N = 10       inner
    C            cond                          w = 7.5      w

Solvers that need fewer network passes are in methods/null_solvers.py, the paper's ablations in
methods/null_ablations.py; methods/null_files.py keeps results in files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Literal

import torch
from torch import Tensor

from palimpsest.arguments import (
    ArgumentError,
    Count,
    Else,
    Hint,
    Interval,
    Picture,
    Positive,
    Texts,
    check,
    one_each,
)
from palimpsest.methods.inversion import Inversion, check_pivot, invert
from palimpsest.methods.null_solvers import (
    Adam,
    GuidedStep,
    interpolated_start,
    mean_square,
    rate_and_tolerance,
    solve_steps,
    untuned,
)
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.guidance import combine
from palimpsest.weights.counting import counted
from palimpsest.weights.model import Model

LearningRate = Annotated[Positive, Hint("the paper takes 0.01")]
Tolerance = Annotated[float, Interval(0)]
Solver = Literal["adam", "adam-skip", "gauss-newton"]
FirstGuess = Literal["empty", "prompt", "between"]
GuidanceScale = Annotated[
    float, Interval(1), Hint("below 1 the walk leans on ∅ itself, and no prompt could edit it")
]


@dataclass(frozen=True)
class NullText(Inversion):
    """An inversion whose steps have tuned null embeddings. Unfinished while len(nulls) < len(times) − 1.

    Evaluations are counted for each picture as if it were alone; `calls` is the largest of `forwards`.
    """

    nulls: Tensor  # (steps b l d): ∅_t of each step, the noisiest first
    losses: Tensor  # (steps b): mean of (z*_s − z̄_s)² after each step
    updates: Tensor  # (steps b): how often ∅_t was updated
    forwards: Tensor  # (b,): forward passes of the network, the pivot's included
    z_bar: Tensor  # (b c y x): where the guided walk has arrived; when finished, the latents that came back

    @property
    def backwards(self) -> Tensor:
        """(b,): backward passes. Every update takes one, and nothing else does."""
        return self.updates.sum(0)

    def null(self, i: int) -> Tensor:
        return self.nulls[i]

    def remaining(self) -> Iterator[tuple[int, int, int]]:
        """(i, t, s) of the steps that are not done: number, time before, time after."""
        for i, (t, s) in enumerate(pairwise(self.times)):
            if i >= len(self.nulls):
                yield i, t, s

    def after_step(self, null: Tensor, z_bar: Tensor, updates: Tensor, forwards: Tensor) -> NullText:
        """This inversion with one more step done. null (b l d), z_bar (b c y x), updates, forwards (b,)."""
        loss = mean_square(self.path[len(self.nulls) + 1] - z_bar)
        return replace(
            self,
            nulls=torch.cat([self.nulls, null[None]]),
            losses=torch.cat([self.losses, loss[None]]),
            updates=torch.cat([self.updates, updates[None]]),
            forwards=forwards.clone(),
            calls=int(forwards.max()),
            z_bar=z_bar,
        )


@torch.no_grad()
def null_text(
    model: Model,
    x: Picture,
    prompt: Texts,
    *,
    steps: Count = 50,
    w: GuidanceScale = 7.5,
    inner: Count = 10,
    lr: Annotated[LearningRate | None, Else(1e-2)] = None,
    stop: Annotated[Tolerance | None, Else(1e-5)] = None,
    solver: Annotated[Solver | None, Else("adam")] = None,
    start: Annotated[FirstGuess | None, Else("empty")] = None,
    pivot: Inversion | None = None,
    each_step: Callable[[NullText], None] | None = None,
) -> NullText:
    """Null-text inversion of pictures x (b, 3, y, x) in [−1, 1] under one prompt, or one for each.

    lr, stop, solver, start: None takes what the model recommends (`shapes`: 0.03, 1e-6, "adam", "prompt"),
    else the paper's 0.01, 1e-5, "adam" and "empty". The other defaults are the paper's.

    steps: of the walk. w: guidance scale of the walk down. inner: updates in a step, at most. lr: of Adam,
    falling linearly to half over the walk. stop: a step is done when the mean of (z*_s − z_s)² is below
    stop · (1 + 100 i/steps). Each picture stops for itself, as if it were alone.

    solver: "adam" is the published one, which updates at least once a step, needed or not; "adam-skip" and
    "gauss-newton" see methods/null_solvers.py. start: the first guess of ∅. "empty": the embedding of "",
    and in later steps the ∅ of the step before. "prompt": that of the prompt instead of "", which needs no
    update as long as the walk at w = 1 stays on the pivot (the idea of arXiv:2305.16807v1). "between": in
    each step, the point nearest to "" on the line from the prompt that the tolerance allows.

    pivot: an inversion of x under the same prompt in as many steps, where that of `invert` is not wanted:
    one with fixed-point iterations, an ablation; an unfinished NullText is gone on with, to the same bits.
    each_step: called after each step with the unfinished NullText. Raises ArgumentError for a model in half
    precision and for arguments that make no sense.
    """
    check(null_text, locals())
    lr, stop, solver, start = model.settle(null_text, dict(lr=lr, stop=stop, solver=solver, start=start))
    check_model(model, prompt)
    if pivot is None:
        pivot = invert(model, x, prompt, steps=steps)  # Alg. 1 l. 1, at w = 1; Eq. (19)
    else:
        check_pivot(model, x, pivot)
    cond, empty = model.embed(list(pivot.prompts)), model.embed("").repeat(len(pivot.prompts), 1, 1)
    run = begin(pivot, prompt, steps, w, cond)
    null = run.nulls[-1] if len(run.nulls) else empty if start == "empty" else cond  # Alg. 1 l. 2
    if w == 1:  # ε̂ is ε_C, whatever ∅ is: there is nothing to tune
        return untuned(model, run, cond, null, each_step)
    if solver != "adam":
        return solve_steps(solver, model, run, cond, empty, null, inner, lr, stop, start, each_step)

    with counted(model, run.forwards) as evaluations:  # of the network, for each picture
        for i, t, s in run.remaining():  # Alg. 1 l. 3
            rate, tolerance = rate_and_tolerance(lr, stop, i / steps)
            z_bar, target = run.z_bar, run.path[i + 1]  # z̄_t, z*_s
            eps_c = model.eps(z_bar, t, cond)  # the same for every ∅
            if start == "between":
                step = GuidedStep(model, z_bar, target, t, s, w, cond, eps_c, evaluations)
                null = interpolated_start(step, empty, tolerance / 2)
            null, adam = null.clone(), Adam(null, rate)
            active = list(range(len(null)))  # the pictures that are not done
            for _ in range(inner):  # Alg. 1 l. 4
                trial = null[active].requires_grad_()
                with torch.enable_grad(), evaluations.of(active):
                    eps_null = model.eps(z_bar[active], t, trial)  # Alg. 1 l. 5
                    eps_hat = combine(eps_null, eps_c[active], w)  # Eq. (18)
                    z_s = ddim_step(model.schedule, z_bar[active], eps_hat, t, s)  # Eq. (17)
                    loss = mean_square(target[active] - z_s)  # Eq. (20), Eq. (21)
                    (g,) = torch.autograd.grad(loss.sum(), trial)  # of a sum: each picture's own gradient
                null[active] = adam.update(null[active], g, active)  # Alg. 1 l. 6
                active = [k for k, value in zip(active, loss.tolist()) if value >= tolerance]
                if not active:  # official code: the loss before the update decides
                    break
            eps_hat = model.denoiser(cond, w, null)(z_bar, t)  # Alg. 1 l. 7; Eq. (18)
            z_bar = ddim_step(model.schedule, z_bar, eps_hat, t, s)  # Eq. (17), Eq. (22)
            run = run.after_step(null, z_bar, adam.updates, evaluations.each)
            if each_step is not None:
                each_step(run)
    return run


def begin(pivot: Inversion, prompt: Texts, steps: int, w: float, cond: Tensor) -> NullText:
    """A pivot with no step done; an unfinished NullText as it is. cond (b l d): the embedding of the prompts.

    Raises ArgumentError for a pivot of other prompts, steps or, where it is a NullText, another w.
    """
    b = len(pivot.prompts)
    if pivot.prompts != tuple(one_each("prompt", prompt, b)) or len(pivot.times) != steps + 1:
        raise ArgumentError("pivot", f"must be an inversion under the same prompt in the same {steps} steps")
    if isinstance(pivot, NullText):
        if pivot.w != w:
            raise ArgumentError("pivot", f"was tuned for w = {pivot.w:g}; go on with the same w, not {w:g}")
        return pivot
    z = pivot.start
    return NullText(
        pivot.prompts,
        w,
        pivot.times,
        pivot.path,
        pivot.calls,
        nulls=cond.new_zeros(0, *cond.shape),
        losses=z.new_zeros(0, b),
        updates=torch.zeros(0, b, dtype=torch.long),
        forwards=torch.full((b,), pivot.calls),
        z_bar=z,
    )


def check_model(model: Model, prompt: Texts) -> None:
    """Raises ValueError for a model that is in half precision or reads no text, and for an unknown word.

    Gradients through half precision lose their last digits.
    """
    if model.dtype not in (torch.float32, torch.float64):
        raise ArgumentError(
            "model",
            f"null-text optimisation needs float32, and this model is {model.dtype}; load it in float32",
        )
    model.embed(prompt)
