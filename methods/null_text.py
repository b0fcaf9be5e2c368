"""Null-text Inversion for Editing Real Images using Guided Diffusion Models (Mokady et al.,
arXiv:2211.09794v1).

DDIM inversion at w = 1 comes back to its picture at w = 1; under strong guidance it does not, and without
guidance an edit is weak. So neither the net nor the prompt is touched, but the embedding of the *empty*
prompt is: one for each step of the walk down, tuned until the guided walk stays on the walk up.

    1  z*_T … z*_0 ← DDIM inversion of z_0 under the prompt, w = 1              the pivot
    2  z̄ ← z*_T,  ∅ ← the embedding of ""
    3  for t → s down to 0:
    4    at most N times: ∅ ← Adam(∅, ∇_∅ ‖z*_s − z_s(z̄, ∅, C)‖²)               Eq. (21); until small enough
    5    ∅_t ← ∅;  z̄ ← z_s(z̄, ∅_t, C)                                          Eq. (22); ∅ goes on to the next step
    6  an edit is methods.inversion.redo: from z*_T, with these ∅_t, under any prompt, with any attention control

    paper        code                              paper        code
    z*_t         path[i], the pivot                ∅_t          nulls[i]
    z̄_t          z_bar                             N = 10       inner
    C            cond                              w = 7.5      w

What the paper leaves out stands in its official code: the learning rate falls with the step, the
tolerance grows. Faster ways to the same place are arguments of the one function: see `null_text`, and
methods/null_solvers.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise
from numbers import Integral
from pathlib import Path

import torch
from einops import reduce
from torch import Tensor

from palimpsest.methods.inversion import Inversion, invert, spread
from palimpsest.methods.null_solvers import SOLVERS, Found, Spent, Step, adam_update, between, check_guidance
from palimpsest.methods.sampling import TOP
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.guidance import combine
from palimpsest.weights.cache import (
    CacheError,
    digest,
    digest_model,
    read_tensors,
    refuse_other,
    write_tensors,
)
from palimpsest.weights.model import Model


@dataclass(frozen=True)
class NullText(Inversion):
    """An inversion whose aids are null embeddings. Unfinished while len(nulls) < len(times) − 1.

    Network evaluations are counted for each picture as if it were alone; `calls` is the largest of
    `forwards`."""

    nulls: Tensor  # (steps b l d): ∅_t of each step, the noisiest first
    losses: Tensor  # (steps b): mean of (z*_s − z̄_s)² after each step
    updates: Tensor  # (steps b): how often ∅_t was changed
    forwards: Tensor  # (b,): network evaluations of any kind, the pivot's included
    backwards: Tensor  # (b,): how many of them were followed by a backward pass
    z_bar: Tensor  # (b c y x): where the guided walk arrived; finished: the picture's latent
    key: dict[str, str]  # what it belongs to: picture, prompt, model, settings

    def null(self, i: int) -> Tensor:
        return self.nulls[i]

    def save(self, path: str | Path) -> Path:
        """Write it as safetensors, in one step of the file system; `load_null_text` reads it."""
        tensors = {"path": torch.stack(self.path), **{name: getattr(self, name) for name in TENSORS}}
        return write_tensors(
            path, tensors, dict(prompts=self.prompts, w=self.w, times=self.times, key=self.key)
        )


TENSORS = ("nulls", "losses", "updates", "forwards", "backwards", "z_bar")


def null_text(
    model: Model,
    x: Tensor,
    prompt: str | Sequence[str],
    *,
    steps: int = 50,
    w: float = 7.5,
    inner: int = 10,
    lr: float = 1e-2,
    stop: float = 1e-5,
    solver: str = "adam",
    start: str = "empty",
    shared: bool = False,
    iterations: int = 0,
    noise: Tensor | None = None,
    state: str | Path | Callable[[NullText], None] | None = None,
) -> NullText:
    """Null-text inversion of pictures x (b, 3, y, x) in [−1, 1], each under its prompt. The defaults are
    the paper's.

    inner: at most so many updates a step; lr: of Adam, halving linearly over the walk; stop: a step is
    done when the mean of (z*_s − z̄_s)² is below stop · (1 + 100 i/steps). Each picture stops for itself,
    and then costs nothing. solver: "adam" as published (at least one update a step, needed or not);
    "adam-skip" looks before it updates; "gauss-newton" also takes conjugate directions and the step
    length that the linearised net calls for. start: the first guess: "empty" the embedding of "", kept
    from step to step; "prompt" that of the prompt, which needs no update as long as the w = 1 walk stays
    on the pivot (the idea of arXiv:2305.16807); "between", for each step, the point nearest to "" on the
    line from the prompt that the tolerance allows. iterations: fixed-point rounds of the pivot, see
    samplers.ddim.invert.

    Ablations: shared=True, one ∅ for all steps (Adam, inner rounds over all of them); noise (b c y x), a
    random pivot √ᾱ z_0 + √(1−ᾱ) noise; noise (steps b c y x), for times[0], times[1] …: no pivot, each
    level has a noise of its own.

    state: a path where progress is kept after each step, from which an interrupted run goes on, to the
    same bits; or a function that is called with the unfinished NullText. Raises ValueError for a bundle
    in half precision, settings that make no sense, and a state of another picture, prompt, model or
    setting."""
    check(model, w, inner, lr, stop, solver, start, shared)
    prompts = spread(prompt, len(x))
    settings = dict(
        steps=steps,
        w=float(w),
        inner=inner,
        lr=lr,
        stop=stop,
        solver=solver,
        start=start,
        shared=shared,
        iterations=iterations,
        noise="none" if noise is None else digest(noise),
    )
    key = {"picture": digest(x), "model": digest_model(model), "prompt": " | ".join(prompts)}
    key |= {name: str(value) for name, value in settings.items()}
    with torch.no_grad():
        cond, empty = model.embed(list(prompts)), model.embed("").repeat(len(x), 1, 1)
    file = None if state is None or callable(state) else Path(state)

    resumed = file is not None and file.exists()
    run = (
        _read(file, model, key)
        if resumed
        else begin(model, x, prompts, steps, w, iterations, noise, cond, key)
    )  # Alg. 1 l. 1–2
    first = empty if start == "empty" else cond
    if shared and w > 1 and len(run.nulls) == 0:
        first = one_for_all(model, run, cond, first, inner, lr)
        run = add(run, Spent.of(len(x), forwards=steps * (1 + inner), backwards=steps * inner))
    for i, (t, s) in enumerate(pairwise(run.times)):  # Alg. 1 l. 3
        if i < len(run.nulls):  # done before an interruption
            continue
        z, spent = run.z_bar, Spent.of(len(x))
        step = Step(model, z, run.path[i + 1], t, s, w, cond)
        null = run.nulls[-1] if len(run.nulls) else first  # Alg. 1 l. 8: a warm start
        if w > 1 and not shared:
            rate, enough = (
                lr * (1 - i / steps / 2),
                stop * (1 + 100 * i / steps),
            )  # official code, for its 50 steps
            spent.add(step.every, forwards=1)  # step.eps_c
            if start == "between":
                null = between(step, empty, enough / 2, spent)  # ours: half, for the curvature
            found = tune(step, null, inner, rate, enough, solver, spent)  # Alg. 1 l. 4–7
        else:
            found = Found.of(null)
        null, z_bar = walk(step, found, spent)
        more = dict(nulls=null, losses=pivot_loss(step.target - z_bar), updates=spent.updates)
        run = replace(
            add(run, spent),
            z_bar=z_bar,
            **{k: torch.cat([getattr(run, k), v[None]]) for k, v in more.items()},
        )
        if callable(state):
            state(run)
        elif file is not None:
            run.save(file)
    return run


def tune(
    step: Step, null: Tensor, inner: int, rate: float, enough: float, solver: str, spent: Spent
) -> Found:
    """The ∅ (b l d) whose step ends nearest to its target, sought from a first guess. # Eq. (21)"""

    def residual(null: Tensor, live: Sequence[int]) -> Tensor:
        return step.miss(step.model.eps(step.z[live], step.t, null), live)

    return SOLVERS[solver](residual, pivot_loss, null, step.every, inner, rate, enough, spent)


def walk(step: Step, found: Found, spent: Spent) -> tuple[Tensor, Tensor]:
    """∅ (b l d), and z̄_s (b c y x) that the guided step comes to with it. # Eq. (22)

    It is asked as the replay asks, the whole batch at once, so that the replay ends on the same bits; and
    so it is also the look at an update that was the last: where that made things worse, ∅ is the best
    that was looked at before, and the step is done again."""

    def end(null: Tensor) -> Tensor:
        return ddim_step(
            step.model.schedule,
            step.z,
            step.model.denoiser(step.cond, step.w, null)(step.z, step.t),
            step.t,
            step.s,
        )

    cost, null = 1 if step.w == 1 else 2, found.null
    z_bar = end(null)
    spent.add(step.every, forwards=cost)
    unseen = (null != found.best).flatten(1).any(1)
    worse = unseen & ~(pivot_loss(step.target - z_bar) <= found.least)
    if worse.any():
        null = torch.where(worse[:, None, None], found.best, null)
        z_bar = end(null)
        spent.add(worse.nonzero()[:, 0].tolist(), forwards=cost)
    return null, z_bar


def pivot_loss(residual: Tensor) -> Tensor:
    """‖z*_s − z_s‖² of each picture, as a mean over its numbers: (b c y x) -> (b,). # Eq. (20)"""
    return reduce(residual**2, "b c y x -> b", "mean")  # official code: the mean; the paper writes the sum


def one_for_all(model: Model, run: NullText, cond: Tensor, null: Tensor, inner: int, lr: float) -> Tensor:
    """One ∅ (b l d) for all steps, by `inner` rounds of Adam over them, each step starting on the pivot."""
    walk = list(zip(pairwise(run.times), run.path, run.path[1:]))
    with torch.no_grad():
        answers = [model.eps(z, t, cond) for (t, _), z, _ in walk]
    m, v, updates = torch.zeros_like(null), torch.zeros_like(null), count(1)
    for _ in range(inner):
        for ((t, s), z, target), eps_c in zip(walk, answers):
            here = null.clone().requires_grad_()
            with torch.enable_grad():
                loss = pivot_loss(
                    target - ddim_step(model.schedule, z, combine(model.eps(z, t, here), eps_c, run.w), t, s)
                )
            (g,) = torch.autograd.grad(loss.sum(), here)
            null, m, v = adam_update(null, g, m, v, next(updates), lr)
    return null


# ---- beginning, going on, keeping ----


def begin(
    model: Model,
    x: Tensor,
    prompts: tuple[str, ...],
    steps: int,
    w: float,
    iterations: int,
    noise: Tensor | None,
    cond: Tensor,
    key: dict[str, str],
) -> NullText:
    """The pivot, and no step done."""
    if noise is None:
        pivot = invert(model, x, prompts, steps=steps, iterations=iterations)  # w = 1
        path, times, calls = pivot.path, pivot.times, pivot.calls
    else:  # ablation: a random pivot
        times, calls, z_0 = tuple(model.schedule.times(steps, TOP)), 0, model.encode(x)
        if noise.shape not in (z_0.shape, (steps, *z_0.shape)):
            raise ValueError(
                f"noise: must be {tuple(z_0.shape)}, or that for each of {steps} steps, got {tuple(noise.shape)}"
            )
        noise = noise.to(z_0).expand(steps, *z_0.shape)
        path = [*(q_sample(model.schedule, z_0, t, e) for t, e in zip(times, noise)), z_0]
    none, spent = cond.new_zeros(0, len(x)), Spent.of(len(x), forwards=calls)
    return NullText(
        prompts,
        w,
        times,
        path,
        calls,
        nulls=cond.new_zeros(0, *cond.shape),
        losses=none,
        updates=none.long(),
        forwards=spent.forwards,
        backwards=spent.backwards,
        z_bar=path[0],
        key=key,
    )


def add(run: NullText, spent: Spent) -> NullText:
    """The run, and what has been spent."""
    forwards = run.forwards + spent.forwards
    return replace(
        run, forwards=forwards, backwards=run.backwards + spent.backwards, calls=int(forwards.max())
    )


def load_null_text(
    path: str | Path,
    model: Model,
    x: Tensor,
    prompt: str | Sequence[str] | None = None,
    w: float | None = None,
) -> NullText:
    """What `NullText.save` wrote, for the same model and the same pictures x (b, 3, y, x).

    prompt, w: refused if they are others; None asks for nothing. Raises CacheError (a ValueError) for a
    file that is missing, damaged, unfinished, or made for another picture, prompt, model or setting."""
    key = {"picture": digest(x), "model": digest_model(model)}
    key |= {} if prompt is None else {"prompt": " | ".join(spread(prompt, len(x)))}
    run = _read(path, model, key | ({} if w is None else {"w": str(float(w))}))
    if len(run.nulls) < len(run.times) - 1:
        raise CacheError(
            f"{path}: is unfinished, {len(run.nulls)} of {len(run.times) - 1} steps; go on with null_text(state=…), on the "
            "command line with --save and the same settings"
        )
    return run


def _read(path: str | Path, model: Model, key: dict[str, str]) -> NullText:
    tensors, about = read_tensors(path)
    if not {"path", *TENSORS} <= set(tensors) or "key" not in about:
        raise CacheError(f"{path}: holds no null-text inversion; name another file")
    refuse_other(path, about["key"], key)
    moved = {
        name: tensors[name].to(model.device) if name in ("nulls", "losses", "z_bar") else tensors[name]
        for name in TENSORS
    }
    return NullText(
        tuple(about["prompts"]),
        about["w"],
        tuple(about["times"]),
        list(tensors["path"].to(model.device)),
        int(tensors["forwards"].max()),
        key=about["key"],
        **moved,
    )


def check(
    model: Model, w: float, inner: int, lr: float, stop: float, solver: str, start: str, shared: bool
) -> None:
    """Raises ValueError for what cannot be optimised, with the mend."""
    check_guidance(model, w)
    if isinstance(inner, bool) or not isinstance(inner, Integral) or inner < 1:
        raise ValueError(f"inner: must be a whole number of at least 1, the updates of a step, got {inner}")
    if not 0 < lr < math.inf:
        raise ValueError(f"lr: must be above 0, got {lr}; the paper takes 0.01")
    if not stop >= 0:
        raise ValueError(f"stop: must be 0 or more, the loss at which a step is done, got {stop}")
    if solver not in SOLVERS:
        raise ValueError(f"solver: must be one of {', '.join(SOLVERS)}, got {solver!r}")
    if start not in ("empty", "prompt", "between") or (shared and (start == "between" or solver != "adam")):
        raise ValueError(
            f"start: must be empty, prompt or between (shared: empty or prompt, and solver adam), got {start!r}"
        )
