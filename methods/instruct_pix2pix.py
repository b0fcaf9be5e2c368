"""InstructPix2Pix: tell the model what to change.

"InstructPix2Pix: Learning to Follow Image Editing Instructions", arXiv:2211.09800v2. The net was trained on
pairs of pictures before and after an edit, and on the instruction between them: no mask, no caption, no
inversion, nothing to tune.

    1  c_I ← E(x), the mean and not scaled; c_T ← τ(instruction)         Sec. 3.2
    2  z ~ N(0, I)
    3  for t → s down to 0:
    4    ẽ ← e(∅, ∅) + s_I (e(c_I, ∅) − e(∅, ∅)) + s_T (e(c_I, c_T) − e(c_I, ∅))       Eq. (16); theirs: (3)
    5    z ← a step with ẽ, t → s                                        Euler ancestral, or another
    6  picture ← decode(z)

The latent that is painted is scaled to unit variance, the one that is shown is not: official code, "not a
deliberate choice", and a model that was trained so must be asked so. After the change of variables of
samplers/ve_sde.py, Euler's ancestral step in σ is DDPM's step with β̃, and that is DDIM's with eta = 1 (a
test compares them); it needs no solver of its own.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from palimpsest.arguments import (
    ArgumentError,
    Count,
    Else,
    Picture,
    Scale,
    Seed,
    Share,
    Texts,
    check,
    one_each,
)
from palimpsest.methods.inputs import given_picture
from palimpsest.methods.sampling import TOP
from palimpsest.samplers.guidance import cfg_two
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.solvers import DDIM, Step
from palimpsest.weights.model import Model


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
    x: Picture,
    instruction: Texts,
    *,
    # how strongly the instruction is followed; the paper takes 5 to 10
    s_text: Annotated[Scale | None, Else(7.5)] = None,
    # how strongly the picture is kept; the paper takes 1 to 1.5
    s_image: Annotated[Scale | None, Else(1.5)] = None,
    steps: Annotated[Count | None, Else(50)] = None,  # of the walk
    step: Step = DDIM(eta=1.0),  # Euler ancestral
    start: Share = TOP,  # where the walk starts, as a share of T; the published checkpoint starts at T itself
    seed: Seed = 0,  # picture i draws from seed + i
    negative: str = "",  # what stands for no instruction
    predictions: bool = False,  # keep the three answers of every step
) -> Instructed:
    """The pictures x, rows and columns multiples of model.grid, edited as the instruction says.

    An empty instruction returns the picture, as it came. s_text, s_image, steps: None takes what the
    model recommends, else 7.5, 1.5 and 50. step: see samplers/solvers.py. Raises ArgumentError for an
    argument that makes no sense, and for a model that was not trained for this.
    """
    check(instruct_pix2pix, locals())
    check_model(model)
    given = dict(s_text=s_text, s_image=s_image, steps=steps)
    s_text, s_image, steps = model.settle(instruct_pix2pix, given)
    x = given_picture(model, x, "x")
    texts = one_each("instruction", instruction, len(x))
    if not any(text.strip() for text in texts):
        return Instructed(x, [], [], [])

    c_I, c_T, null = condition(model, x), model.embed(texts), model.embed(negative)  # l. 1
    levels, rng = model.schedule.times(steps, start), Rng.of(seed, len(x))
    eps = cfg_two(model.eps, c_T, null, c_I, s_text, s_image)  # l. 4: Eq. (16)
    z = rng.randn(c_I.shape).to(c_I)  # l. 2
    path, kept, noise = [z], [], partial(rng.randn, z.shape, z)
    for t, s in pairwise(levels):  # l. 3
        if predictions:
            kept.append(three(model, z, t, c_I, c_T, null))
        z = step(model.schedule, z, eps, t, s, noise)  # l. 5
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
    """Raises ArgumentError unless the net sees a picture beside the latent."""
    latent = model.channels
    if model.beside != latent:
        takes = latent + model.beside
        raise ArgumentError(
            "model",
            f"{model.name} takes {takes} channels, and instruct_pix2pix needs a net that sees a picture "
            f"beside the latent, {2 * latent} channels; load shapes-instruct or emoji-instruct, or the "
            "published instruct-pix2pix",
        )
