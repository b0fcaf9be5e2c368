"""What the model already knows of a class: the pictures of DreamBooth's prior term (Ruiz et al.,
arXiv:2208.12242v2, Sec. 3.3).

    1  c_pr ← the embedding of "a [class noun]"
    2  x_pr ← the frozen model's own pictures under c_pr, by the ancestral sampler

They are kept as latents, just as the walk left them, without decoding and encoding them again.  # ours
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from palimpsest.arguments import ArgumentError, Count, Hint, Interval, Scale, Texts, check
from palimpsest.fit.processes import rank_and_world
from palimpsest.methods.sampling import generate
from palimpsest.samplers.solvers import DDIM
from palimpsest.weights.cache import digest_model, read_tensors, refuse_other, write_tensors
from palimpsest.weights.model import Model

BATCH = 16  # pictures at once

Weighing = Annotated[float, Interval(0)]  # at least 0, and finite
Pictures = Annotated[Count, Hint("to learn without a prior, set its weight to 0")]


@dataclass(frozen=True)
class Prior:
    """The prior-preservation term of Eq. (9): how much it counts, and the pictures of the class."""

    weight: Weighing = 1.0  # λ of Eq. (9); 0 learns without a prior
    n: Pictures = 100  # how many pictures of the class
    steps: Count = 25  # of the walk that makes them  # unstated: the paper names the sampler and no more
    w: Scale = 3.0  # guidance scale of that walk
    prompts: Texts | None = None  # of these pictures, one or several in turn; None: "a [class noun]"

    def __post_init__(self) -> None:
        check(Prior, vars(self))
        if self.prompts is not None and not self.prompts:
            raise ArgumentError("prompts", "are none; give one or more, or None for that of the class noun")


def prior_latents(
    model: Model, prompts: Sequence[str], prior: Prior, *, seed: int = 0, state: str | Path | None = None
) -> Tensor:
    """prior.n latents (n c y x) of what the model makes of the class's prompts, in turn.

    state: a .safetensors file that keeps them; it is used again for the same model, prompts, number and
    settings, and refused (CacheError, a ValueError) for others. Raises ArgumentError for more steps than the
    model's schedule has.
    """
    if prior.steps > model.schedule.T:
        raise ArgumentError("prior.steps", f"must lie between 1 and {model.schedule.T}, got {prior.steps}")
    key = dict(
        model=digest_model(model),
        prompts="\n".join(prompts),
        n=str(prior.n),
        steps=str(prior.steps),
        w=str(float(prior.w)),
        seed=str(seed),
    )
    if state is not None and Path(state).exists():
        tensors, about = read_tensors(state)
        refuse_other(state, about["key"], key)
        return tensors["latents"].to(model.device)
    prompts = [prompts[i % len(prompts)] for i in range(prior.n)]  # c_pr, Sec. 3.3
    walks = [
        generate(model, prompts[i : i + BATCH], steps=prior.steps, w=prior.w, step=DDIM(1.0), seed=seed + i)
        for i in range(0, prior.n, BATCH)
    ]  # Sec. 3.3: ancestral, eta = 1
    latents = torch.cat([walk.path[-1] for walk in walks])  # x_pr, Sec. 3.3
    if state is not None and rank_and_world()[0] == 0:
        write_tensors(state, {"latents": latents}, dict(key=key))
    return latents
