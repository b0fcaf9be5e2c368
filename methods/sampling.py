"""Text to picture, from noise alone: what edits are compared with, and what an edit can start from.

Algorithm 2 of DDPM (arXiv:2006.11239v2), with the step of DDIM (arXiv:2010.02502v4) or another solver, and
classifier-free guidance (arXiv:2207.12598v1).

    1  z ~ N(0, I)                                            at t = TOP · T
    2  for t → s down to 0:
    3    ε̂ ← ε_θ(z, t | ∅) + w (ε_θ(z, t | text) − ε_θ(z, t | ∅))
    4    z ← a step with ε̂, t → s                             DDIM, or another of samplers/solvers.py
    5  picture ← decode(z)
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from palimpsest.arguments import ArgumentError, Count, Else, Scale, Seed, Share, Texts, check
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.samplers.solvers import DDIM, Step
from palimpsest.weights.model import Model

# ours: walks start a little below T, as a schedule with ᾱ_T ≈ 0 leaves nothing of the picture there
TOP = 0.98


def times_below(sched: Schedule, steps: Count, share: Share, name: str) -> list[int]:
    """steps + 1 falling times, from `share` of T (at most TOP) to 0.

    name: what the caller's argument for `share` is called; "steps" where there is none. Raises
    ArgumentError in that name where the share is less than one time, and for more steps than there are
    times.
    """
    check(times_below, {"steps": steps})  # the share is the caller's own argument, and checked there
    there, all_ = (round(min(s, TOP) * sched.T) for s in (share, 1.0))
    if steps > all_:
        raise ArgumentError(
            "steps", f"{steps} are more than the {all_} times that a walk of this schedule has; take fewer"
        )
    if there < 1:
        raise ArgumentError(
            name,
            f"{share:g} is less than one of the schedule's {sched.T} times; take {1 / sched.T:g} or more",
        )
    if steps > there:
        raise ArgumentError(
            "steps",
            f"{steps} are more than the {there} times below {share:g} T: take fewer"
            if name == "steps"
            else f"{steps} are more than the {there} times below {name}={share:g}: "
            f"take fewer steps or a larger {name}",
        )
    return sched.times(steps, min(share, TOP))


def pure_noise(model: Model, rng: Rng) -> Tensor:
    """The start of a walk from nothing, N(0, I): (b c y' x'), float32 at least, one for each generator."""
    dtype = torch.promote_types(model.dtype, torch.float32)
    return rng.randn((len(rng), *model.latent_shape)).to(model.device, dtype)


class Generated(NamedTuple):
    """What `generate` gives back. Pictures (b, 3, y, x) in [−1, 1]; latents (b c y' x')."""

    picture: Tensor
    path: list[Tensor]  # the walk in latents, from pure noise to the latent that was decoded
    levels: list[int]  # the schedule's time t of each latent of the path


def generate(
    model: Model,
    prompts: Texts,
    *,
    n: Count = 1,  # pictures of each prompt
    steps: Annotated[Count | None, Else(25)] = None,  # of the walk
    w: Annotated[Scale | None, Else(3.0)] = None,  # classifier-free guidance, 1 = none
    step: Step = DDIM(),  # how to go from one level to the next
    seed: Seed = 0,  # picture i draws from seed + i, whatever the batch
) -> Generated:
    """n pictures of each prompt, those of the first prompt first. The empty prompt asks for anything.

    steps, w: None takes what the model recommends, else 25 and 3.
    step: DDIM(eta) with eta from 0 (deterministic) to 1 (ancestral), Heun(), DPMSolver2M(), or a function of
    one's own, see samplers/solvers.py. Raises ArgumentError for an argument that makes no sense.
    """
    check(generate, locals())
    steps, w = model.settle(generate, dict(steps=steps, w=w))
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts:
        raise ArgumentError("prompts", "must hold one text at least; the empty text asks for anything")
    texts = [prompt for prompt in prompts for _ in range(n)]
    eps = model.denoiser(texts if any(texts) else "", w)
    levels, rng = times_below(model.schedule, steps, TOP, "steps"), Rng.of(seed, len(texts))

    z = pure_noise(model, rng)  # Alg. 2 l. 1
    noise, path = partial(rng.randn, z.shape, z), [z]
    for t, s in pairwise(levels):  # Alg. 2 l. 2
        z = step(model.schedule, z, eps, t, s, noise)  # Eq. (7), Eq. (10)
        path.append(z)
    return Generated(model.decode(z), path, levels)
