"""Text to picture, with no picture to begin with: what edits are compared with, and what an edit can
start from.

Algorithm 2 of DDPM (arXiv:2006.11239v2) with the step of DDIM (arXiv:2010.02502v4) and classifier-free
guidance (arXiv:2207.12598v1).

    1  z ~ N(0, I)                                             at t = TOP · T
    2  for t → s down to 0:
    3    ε̂ ← ε_θ(z, t | ∅) + w (ε_θ(z, t | text) − ε_θ(z, t | ∅))
    4    z ← DDIM step with ε̂, t → s                           eta = 0 deterministic, eta = 1 ancestral (DDPM)
    5  picture ← decode(z)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.model import Model

TOP = (
    0.98  # ours: walks start a little below T, where a schedule with ᾱ_T ≈ 0 has no picture left to speak of
)


def times_below(sched: Schedule, steps: int, share: float, name: str) -> list[int]:
    """steps + 1 falling times from the share of T that the argument `name` asks for, at most TOP, to 0.

    Raises ValueError in the words of that argument: where the share is less than one time, or has fewer
    times than steps."""
    there, all_ = (round(min(s, TOP) * sched.T) for s in (share, 1.0))
    if isinstance(steps, Integral) and steps > all_:
        raise ValueError(
            f"steps: {steps} are more than the {all_} times that a walk of this schedule has; take fewer"
        )
    if there < 1:
        raise ValueError(
            f"{name}: {share:g} is less than one of the schedule's {sched.T} times; take {1 / sched.T:g} or more"
        )
    if isinstance(steps, Integral) and steps > there:
        raise ValueError(
            f"steps={steps} are more than the {there} times below {name}={share:g}: take fewer steps or a larger {name}"
        )
    return sched.times(steps, min(share, TOP))


class Generated(NamedTuple):
    """What `generate` gives back. Pictures (b, 3, y, x) in [−1, 1]; latents (b c y' x')."""

    picture: Tensor
    path: list[Tensor]  # the walk in latents, from pure noise to the latent that was decoded
    levels: list[int]  # the schedule's time t of each latent of the path


def generate(
    model: Model,
    prompts: str | Sequence[str],
    *,
    n: int = 1,
    steps: int = 25,
    w: float = 3.0,
    eta: float = 0.0,
    seed: int = 0,
) -> Generated:
    """n pictures of each prompt, those of the first prompt first.

    steps: of the walk; w: classifier-free guidance, 1 = none; eta in [0, 1]: how much noise a step adds;
    seed: picture i draws from seed + i, whatever the batch. The empty prompt asks for anything. Raises
    ValueError for n, steps, eta or a prompt that makes no sense, with the mend."""
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if isinstance(n, bool) or not isinstance(n, Integral) or n < 1 or not prompts:
        raise ValueError(
            f"n: must be a whole number of at least 1, and prompts not empty; got {n} of {len(prompts)}"
        )
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: must lie in [0, 1] (0 deterministic, 1 ancestral), got {eta}")
    texts = [prompt for prompt in prompts for _ in range(n)]
    eps = model.denoiser(texts if any(texts) else "", w)
    levels, rng = times_below(model.schedule, steps, TOP, "steps"), Rng.of(seed, len(texts))

    z = rng.randn((len(texts), *model.latent_shape)).to(
        model.device, torch.promote_types(model.dtype, torch.float32)
    )  # Alg. 2 l. 1
    path = [z]
    for t, s in pairwise(levels):  # Alg. 2 l. 2
        noise = rng.randn(z.shape, z) if eta > 0 else None
        z = ddim_step(model.schedule, z, eps(z, t), t, s, eta, noise)  # Eq. (7), Eq. (10)
        path.append(z)
    return Generated(model.decode(z), path, levels)
