"""InstructPix2Pix: tell the model what to change.

"InstructPix2Pix: Learning to Follow Image Editing Instructions", arXiv:2211.09800v2. The net was trained
on pairs of pictures before and after an edit, and on the instruction between them: no mask, no caption,
no inversion, nothing to tune.

    1  c_I ← E(x), the mean and not scaled; c_T ← τ(instruction)         Sec. 3.2
    2  z ~ N(0, I)
    3  for t → s down to 0:
    4    ẽ ← e(∅, ∅) + s_I (e(c_I, ∅) − e(∅, ∅)) + s_T (e(c_I, c_T) − e(c_I, ∅))               Eq. (16) here, Eq. (3) there
    5    z ← a step with ẽ, t → s                                         eta = 1: Euler ancestral, as published; 0: DDIM
    6  picture ← decode(z)

The latent that is painted is scaled to unit variance, the one that is shown is not: official code, "not a
deliberate choice", and what was trained so must be asked so. Euler's ancestral step in σ is, seen after
the change of variables of samplers/ve_sde.py, DDPM's step with β̃, which is DDIM's with eta = 1 (a test
says so); no sampler of its own is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.guidance import cfg_two
from palimpsest.samplers.noise import Rng
from palimpsest.weights.model import Model

# ours, as in methods/sampling.py: a little below T. The published checkpoint starts at T itself: ᾱ_T is
# not 0 there
TOP = 0.98


class Predictions(NamedTuple):
    """The three answers of Eq. (16) at one time, (b c y x) each."""

    t: int
    none: Tensor  # e(∅, ∅)
    image: Tensor  # e(c_I, ∅)
    full: Tensor  # e(c_I, c_T)


class Instructed(NamedTuple):
    """What `instruct_pix2pix` gives back. Pictures (b, 3, y, x) in [−1, 1]; latents (b c y' x')."""

    picture: Tensor
    path: list[Tensor]  # the walk in latents, from pure noise
    levels: list[int]  # the schedule's time t of each latent of the path
    predictions: list[Predictions]  # at every step, if they were asked for


def condition(model: Model, x: Tensor) -> Tensor:
    """c_I = E(x): the mean of q(z|x), not scaled (b c y' x'). # Sec. 3.2; official code, see above"""
    return model.encode(x) / model.latent_scale


@torch.no_grad()
def instruct_pix2pix(
    model: Model,
    x: Tensor,
    instruction: str | Sequence[str],
    *,
    s_text: float = 7.5,
    s_image: float = 1.5,
    steps: int = 50,
    eta: float = 1.0,
    start: float = TOP,
    seed: int = 0,
    negative: str = "",
    predictions: bool = False,
) -> Instructed:
    """The pictures (b 3 y x) in [−1, 1], rows and columns multiples of b.grid, edited as the instruction
    says, one or one each.

    s_text: how strongly it is followed (the paper: 5 to 10); s_image: how strongly the picture is kept (1
    to 1.5); steps, start: of the walk, from start · T; eta: 1 Euler ancestral, 0 DDIM; seed: picture i
    draws from seed + i; negative: what stands for no instruction; predictions: keep the three answers of
    every step. An empty instruction returns the picture, as it came. Raises ValueError for a model that
    was not trained for this, and for arguments that make no sense, with the mend."""
    check_model(model)
    if not (math.isfinite(s_text) and math.isfinite(s_image)):
        raise ValueError(f"s_text: must be a finite number, as must s_image; got {s_text} and {s_image}")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: must lie in [0, 1] (1 Euler ancestral, 0 DDIM), got {eta}")
    texts = [instruction] * len(x) if isinstance(instruction, str) else list(instruction)
    if len(texts) != len(x):
        raise ValueError(f"instruction: {len(texts)} for {len(x)} pictures; give one, or one each")
    if not any(text.strip() for text in texts):
        return Instructed(x, [], [], [])

    c_I, c_T, null = condition(model, x), model.embed(texts), model.embed(negative)  # l. 1
    levels, rng, kept = model.schedule.times(steps, start), Rng.of(seed, len(x)), []
    eps = cfg_two(model.eps, c_T, null, c_I, s_text, s_image)  # l. 4: Eq. (16)
    z = rng.randn(c_I.shape).to(c_I)  # l. 2
    path = [z]
    for t, s in pairwise(levels):  # l. 3
        if predictions:
            kept.append(three(model, z, t, c_I, c_T, null))
        noise = rng.randn(z.shape, z) if eta > 0 and s > 0 else None
        z = ddim_step(model.schedule, z, eps(z, t), t, s, eta if s > 0 else 0.0, noise)  # l. 5
        path.append(z)
    silent = torch.tensor([not text.strip() for text in texts], device=z.device).view(-1, 1, 1, 1)
    picture = model.decode(z)  # l. 6
    return Instructed(torch.where(silent, x.to(picture), picture), path, levels, kept)


def three(model: Model, z: Tensor, t: int, c_I: Tensor, c_T: Tensor, null: Tensor) -> Predictions:
    """The net's answers without picture and text, with the picture, and with both. # Eq. (16)"""

    def ask(picture: Tensor, ctx: Tensor) -> Tensor:
        return model.eps(torch.cat([z, picture], dim=1), t, ctx.expand(len(z), -1, -1))

    return Predictions(t, ask(torch.zeros_like(c_I), null), ask(c_I, null), ask(c_I, c_T))


def check_model(model: Model) -> None:
    """Raises ValueError unless the net sees a picture beside the latent."""
    latent = model.channels
    if model.beside != latent:
        takes = latent + model.beside
        raise ValueError(
            f"model: {model.name} takes {takes} channels, and instruct_pix2pix needs a net that sees a picture beside the latent, "
            f"{2 * latent} channels; load shapes-instruct or emoji-instruct, or the published instruct-pix2pix"
        )
