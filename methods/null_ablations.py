"""The ablations of Null-text Inversion (arXiv:2211.09794v1): what each of its parts is worth.

shared_null_text            one ∅ for all steps ("global null-text embedding")
random_pivot, one noise     the picture noised along one noise takes the place of DDIM inversion
random_pivot, a noise each  no pivot: each level has its own noise, and no walk leads from one to the next
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Literal

import torch
from torch import Tensor

from palimpsest.arguments import ArgumentError, Count, Hint, Picture, Positive, Texts, check, one_each
from palimpsest.methods.inputs import given_picture
from palimpsest.methods.inversion import Inversion, check_pivot, invert
from palimpsest.methods.null_solvers import Adam, mean_square, untuned
from palimpsest.methods.null_text import GuidanceScale, NullText, begin, check_model
from palimpsest.methods.sampling import TOP, times_below
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.guidance import combine
from palimpsest.weights.counting import counted
from palimpsest.weights.model import Model


def random_pivot(model: Model, x: Picture, prompt: Texts, noise: Tensor, *, steps: Count = 50) -> Inversion:
    """√ᾱ_t z_0 + √(1−ᾱ_t) noise at each time t of the walk: a pivot for `null_text` that no network made.

    x: pictures (b, 3, y, x) in [−1, 1]. noise: latents (b c y x) for every level, or (steps b c y x), one
    for each level, the noisiest first. Raises ArgumentError for noise of another shape.
    """
    check(random_pivot, locals())
    x = given_picture(model, x)
    times, z_0 = tuple(times_below(model.schedule, steps, TOP, "steps")), model.encode(x)
    if noise.shape not in (z_0.shape, (steps, *z_0.shape)):
        raise ArgumentError(
            "noise",
            f"must be {tuple(z_0.shape)}, or that for each of {steps} steps, got {tuple(noise.shape)}",
        )
    noise = noise.to(z_0).expand(steps, *z_0.shape)
    path = [*(q_sample(model.schedule, z_0, t, e) for t, e in zip(times, noise)), z_0]
    return Inversion(tuple(one_each("prompt", prompt, len(x))), 1.0, times, path, 0)


@torch.no_grad()
def shared_null_text(
    model: Model,
    x: Picture,
    prompt: Texts,
    *,
    steps: Count = 50,
    w: GuidanceScale = 7.5,
    inner: Count = 10,
    lr: Annotated[Positive, Hint("the paper takes 0.01")] = 1e-2,
    start: Literal["empty", "prompt"] = "empty",
    pivot: Inversion | None = None,
) -> NullText:
    """Null-text inversion with one ∅ for all steps; arguments as those of `null_text`.

    ∅ is tuned in `inner` rounds over the steps, an update of Adam for each, every step starting on the
    pivot; then the walk goes down with it.
    """
    check(shared_null_text, locals())
    check_model(model, prompt)
    if pivot is None:
        pivot = invert(model, x, prompt, steps=steps)
    else:
        check_pivot(model, x, pivot)
    cond = model.embed(list(pivot.prompts))
    run = begin(pivot, prompt, steps, w, cond)
    null = model.embed("").repeat(len(cond), 1, 1) if start == "empty" else cond
    if w == 1:
        return untuned(model, run, cond, null)
    walk = list(zip(pairwise(run.times), run.path, run.path[1:]))
    adam, everyone = Adam(null, lr), list(range(len(null)))
    with counted(model, run.forwards) as evaluations:
        eps_c = [model.eps(z, t, cond) for (t, _), z, _ in walk]
        for _ in range(inner):
            for i, ((t, s), z, target) in enumerate(walk):
                trial = null.clone().requires_grad_()
                with torch.enable_grad():
                    eps_hat = combine(model.eps(z, t, trial), eps_c[i], w)  # Eq. (18)
                    z_s = ddim_step(model.schedule, z, eps_hat, t, s)  # Eq. (17)
                    loss = mean_square(target - z_s)  # Eq. (20), Eq. (21)
                    (g,) = torch.autograd.grad(loss.sum(), trial)
                null = adam.update(null, g, everyone)
    return untuned(model, replace(run, forwards=evaluations.each), cond, null, updates=inner)
