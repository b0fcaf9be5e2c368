"""Four more ways back to a given picture, none of which optimises anything. Each is an Inversion for `redo`.

    negative-prompt inversion   the prompt's own embedding stands for the empty one (arXiv:2305.16807v1)
    direct (PnP) inversion      the source row is put back on the pivot after each step (arXiv:2310.01506v1)
    EDICT                       two coupled states, each step exactly invertible (arXiv:2211.12446v2)
    edit-friendly DDPM          noises with which the random walk arrives (arXiv:2304.06140v2)

                      evaluations         the walk down comes back               beside it, an edit gets
    negative_prompt   S                   as at w = 1, for every w               ε_prompt as its negative
    direct            S                   to the bit, for every w                nothing, but a true source
    edict             4 S (w = 1: 2 S)    to rounding, at the w of the way up    the walk itself
    edit_friendly     2 S (w = 1: S)      to rounding, at the w of the way up    the picture's noises

S: steps. All take pictures x (b, 3, y, x) in [−1, 1] and one prompt, or one for each, and raise
ArgumentError as `invert` does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor

from palimpsest.arguments import (
    Count,
    Hint,
    Interval,
    Picture,
    Rounds,
    Scale,
    Seed,
    Share,
    Texts,
    check,
    one_each,
)
from palimpsest.methods.inputs import given_picture
from palimpsest.methods.inversion import Inversion, invert
from palimpsest.methods.sampling import TOP, times_below
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.ddpm import beta_tilde
from palimpsest.samplers.guidance import Denoiser
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.counting import counted
from palimpsest.weights.model import Model

# ---- negative-prompt inversion, arXiv:2305.16807v1 ----


@dataclass(frozen=True)
class NegativePrompt(Inversion):
    """∅_t = C in every step."""

    cond: Tensor  # (b l d)

    def null(self, i: int) -> Tensor:
        return self.cond  # arXiv:2305.16807v1, Sec. 3: what null-text optimisation would end at


def negative_prompt(
    model: Model, x: Picture, prompt: Texts, *, steps: Count = 50, w: Scale = 7.5, iterations: Rounds = 0
) -> NegativePrompt:
    """DDIM inversion whose way down has the prompt's embedding in the place of the empty prompt's.

    Under the picture's own prompt ε_C + w (ε_C − ε_C) = ε_C, whatever w is: the round trip of w = 1, at no
    cost.
    """
    check(negative_prompt, locals())
    pivot = invert(model, x, prompt, steps=steps, iterations=iterations)
    with torch.no_grad():
        cond = model.embed(list(pivot.prompts))
    return NegativePrompt(pivot.prompts, w, pivot.times, pivot.path, pivot.calls, cond=cond)


# ---- direct inversion, also "PnP Inversion", arXiv:2310.01506v1 ----


@dataclass(frozen=True)
class Direct(Inversion):
    """After each step the source rows are offset by what they missed the pivot by; other rows are not."""

    needs_source = True  # without the source rows beside it, an edit would gain nothing

    def step(self, sched: Schedule, i: int, z: Tensor, eps: Denoiser, t: int, s: int) -> Tensor:
        z_s = ddim_step(sched, z, eps(z, t), t, s)  # Eq. (17)
        source = self.path[i + 1]  # z_s + o with o = z*_s − z_s, which is z*_s
        return torch.cat([source, z_s[len(source) :]])  # Alg. 1: o_target = 0


def direct(
    model: Model, x: Picture, prompt: Texts, *, steps: Count = 50, w: Scale = 7.5, iterations: Rounds = 0
) -> Direct:
    """DDIM inversion whose source row cannot leave the pivot: attention control takes true maps from it.

    # ours: the paper finds the offsets in a walk of their own; taken during the walk they cost no evaluation
    # and fit every w.
    """
    check(direct, locals())
    pivot = invert(model, x, prompt, steps=steps, iterations=iterations)
    return Direct(pivot.prompts, w, pivot.times, pivot.path, pivot.calls)


# ---- EDICT, arXiv:2211.12446v2 ----


@dataclass(frozen=True)
class Edict(Inversion):
    """A state is a pair of latents, x and y, one after the other along the channels: (b 2c y x)."""

    p: float  # how much of itself each keeps in a mixing, in (0, 1)

    def step(self, sched: Schedule, i: int, z: Tensor, eps: Denoiser, t: int, s: int) -> Tensor:
        x, y = self.ordered(z, i)  # arXiv:2211.12446v2, Sec. 4
        x = ddim_step(sched, x, eps(y, t), t, s)  # each takes its ε from the other, Eq. (17)
        y = ddim_step(sched, y, eps(x, t), t, s)
        x = self.p * x + (1 - self.p) * y  # mixing keeps them from drifting apart
        y = self.p * y + (1 - self.p) * x
        return torch.cat(self.ordered(torch.cat([x, y], 1), i), 1)

    def unstep(self, sched: Schedule, i: int, z: Tensor, eps: Denoiser, t: int, s: int) -> Tensor:
        """The state at t from the state at s: `step`, line by line from the last to the first."""
        x, y = self.ordered(z, i)
        y = (y - (1 - self.p) * x) / self.p
        x = (x - (1 - self.p) * y) / self.p
        y = ddim_step(sched, y, eps(x, t), s, t)  # Eq. (19), with the very ε of the way down
        x = ddim_step(sched, x, eps(y, t), s, t)
        return torch.cat(self.ordered(torch.cat([x, y], 1), i), 1)

    def ordered(self, z: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """The pair, first the one that goes first in step i: they take turns, so that neither leads.

        # official code: the paper does not say it.
        """
        x, y = z.chunk(2, 1)
        return (x, y) if i % 2 == 0 else (y, x)

    def finish(self, z: Tensor) -> Tensor:
        return z.chunk(2, 1)[0]


def edict(
    model: Model,
    x: Picture,
    prompt: Texts,
    *,
    steps: Count = 50,
    w: Scale = 7.5,
    top: Share = TOP,
    p: Annotated[float, Interval(0, 1, open_low=True, open_high=True), Hint("the paper takes .93")] = 0.93,
) -> Edict:
    """Exact inversion by two coupled walks to the time top · T. The paper edits at w = 3 with top = .8.

    w: guidance scale of both ways. p: how much of itself each walk keeps in a mixing; rounding grows by
    about 1/p a step on the way up, so a p near 1 keeps more digits, and a smaller one keeps the pair
    together.
    """
    check(edict, locals())
    x = given_picture(model, x)
    prompts, times = one_each("prompt", prompt, len(x)), times_below(model.schedule, steps, top, "top")
    z = model.encode(x)
    inversion = Edict(tuple(prompts), w, tuple(times), [torch.cat([z, z], 1)], 0, p=p)
    eps = model.denoiser(prompts, w)
    with counted(model, len(x)) as evaluations:
        for i, (t, s) in reversed(list(enumerate(pairwise(times)))):
            inversion.path.insert(0, inversion.unstep(model.schedule, i, inversion.path[0], eps, t, s))
    return replace(inversion, calls=int(evaluations.each.max()))


# ---- edit-friendly DDPM, arXiv:2304.06140v2 ----


@dataclass(frozen=True)
class EditFriendly(Inversion):
    """A random walk whose noises were chosen afterwards.

    `path` holds independently noised pictures; it is no trajectory.
    """

    eta: float
    jumps: Tensor  # (steps b c y x): σ z_t, what each step adds to its mean

    def step(self, sched: Schedule, i: int, z: Tensor, eps: Denoiser, t: int, s: int) -> Tensor:
        jump = self.jumps[i].repeat(len(z) // len(self.prompts), 1, 1, 1)  # every row gets its picture's
        mean = ddim_step(sched, z, eps(z, t), t, s, self.eta, torch.zeros_like(z))
        return mean + jump  # Eq. (10) with noise

    def noises(self, sched: Schedule) -> Tensor:
        """z_t = jump/σ of every step but the last, whose σ is 0: (steps−1 b c y x).

        They are far from N(0, I), and it is meant so: they carry the picture.
        """
        sigmas = [self.eta * beta_tilde(sched, t, s) ** 0.5 for t, s in pairwise(self.times)]
        return torch.stack([jump / sigma for jump, sigma in zip(self.jumps[:-1], sigmas)])


def edit_friendly(
    model: Model,
    x: Picture,
    prompt: Texts,
    *,
    steps: Count = 50,
    w: Scale = 3.5,
    eta: Annotated[Share, Hint("without noise there is nothing to choose")] = 1.0,
    top: Share = TOP,
    seed: Seed = 0,
) -> EditFriendly:
    """Noise the picture to each level *independently*, then find the noise that leads from each to the next.

    The paper takes 100 steps from top = .64, w = 3.5 here and w = 15 in the edit. eta: of the walk down, in
    (0, 1]. seed: picture i draws from seed + i.

    # ours: the last step adds no noise, so its jump is kept as an offset; the official code leaves it out.
    # official code: η where the root needs η², which is right for η = 1 only.
    """
    check(edit_friendly, locals())
    x = given_picture(model, x)
    prompts, times = one_each("prompt", prompt, len(x)), times_below(model.schedule, steps, top, "top")
    z_0, rng = model.encode(x), Rng.of(seed, len(x))
    path = [
        q_sample(model.schedule, z_0, t, rng.randn(z_0.shape, z_0)) for t in times[:-1]
    ]  # one ε for each level
    path.append(z_0)
    eps, no_noise = model.denoiser(prompts, w), torch.zeros_like(z_0)
    with counted(model, len(x)) as evaluations:
        jumps = [
            z_s - ddim_step(model.schedule, z_t, eps(z_t, t), t, s, eta, no_noise)
            for (t, s), (z_t, z_s) in zip(pairwise(times), pairwise(path))
        ]
    return EditFriendly(
        tuple(prompts), w, tuple(times), path, int(evaluations.each.max()), eta=eta, jumps=torch.stack(jumps)
    )
