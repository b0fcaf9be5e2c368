"""What the model already knows of a class: the pictures of DreamBooth's prior term (Ruiz et al.,
arXiv:2208.12242v2, Sec. 3.3).

    1  c_pr ← the embedding of "a [class noun]"
    2  x_pr ← the frozen model's own pictures under c_pr, by the ancestral sampler

They are kept as latents, just as the walk left them: no decoding and encoding again comes between. # ours
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from palimpsest.fit.processes import rank_and_world
from palimpsest.methods.sampling import generate
from palimpsest.weights.cache import digest_model, read_tensors, refuse_other, write_tensors
from palimpsest.weights.model import Model

BATCH = 16  # pictures at once


def prior_latents(
    model: Model,
    prompts: Sequence[str],
    n: int,
    *,
    steps: int = 25,
    w: float = 3.0,
    seed: int = 0,
    state: str | Path | None = None,
) -> Tensor:
    """n latents (n c y x) of what the model makes of "a [class noun]", or of several prompts of the class
    in turn.

    steps, w: of the walk  (# unstated: the paper names the sampler and no more). state: a .safetensors file that keeps them; it is used
    again for the same model, class, number and settings, and refused (CacheError, a ValueError) for others. Raises ValueError for an n
    below 1, steps that are no walk, and a w that is not finite.
    """
    if n < 1:
        raise ValueError(
            f"n_prior: must be at least 1, got {n}; to learn without a prior set prior_weight to 0"
        )
    if not 1 <= steps <= model.schedule.T:
        raise ValueError(f"prior_steps: must lie between 1 and {model.schedule.T}, got {steps}")
    if not math.isfinite(w):
        raise ValueError(f"prior_w: must be a finite number, got {w}")
    said = [prompts[i % len(prompts)] for i in range(n)]  # c_pr, Sec. 3.3
    key = dict(
        model=digest_model(model),
        prompts="\n".join(prompts),
        n=str(n),
        steps=str(steps),
        w=str(float(w)),
        seed=str(seed),
    )
    if state is not None and Path(state).exists():
        tensors, about = read_tensors(state)
        refuse_other(state, about["key"], key)
        return tensors["latents"].to(model.device)
    parts = [
        generate(model, said[i : i + BATCH], steps=steps, w=w, eta=1.0, seed=seed + i).path[
            -1
        ]  # Sec. 3.3: ancestral
        for i in range(0, n, BATCH)
    ]
    latents = torch.cat(parts)  # x_pr, Sec. 3.3: kept as the walk left them
    if state is not None and rank_and_world()[0] == 0:
        write_tensors(state, {"latents": latents}, dict(key=key))
    return latents
