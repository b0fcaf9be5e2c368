"""Four more ways back to a given picture, none of which optimises anything. Each is an Inversion that
`redo` walks down.

    negative-prompt inversion   (Miyake et al., arXiv:2305.16807v1)     the prompt's own embedding stands for the empty one
    direct (PnP) inversion      (Ju et al., arXiv:2310.01506v1)         the source row is put back on the pivot after each step
    EDICT                       (Wallace et al., arXiv:2211.12446v2)    two coupled states, each step exactly invertible
    edit-friendly DDPM          (Huberman-Spiegelglas et al., arXiv:2304.06140v2)   noises that make the random walk hit

    b, x, prompt →                path costs          the walk down gets back                        beside it, an edit gets
    negative_prompt               S calls             as the w = 1 round trip, for every w           ε_prompt as its negative
    direct                        S                   to the bit, for every w                        nothing, but a true source
    edict                         4 S (w = 1: 2 S)    to rounding, at the w of the way up            the walk itself
    edit_friendly                 2 S (w = 1: S)      to rounding, at the w of the way up            the picture's noises

S: steps. All take pictures (b, 3, y, x) in [−1, 1] and one prompt or one each, and raise ValueError as
`invert` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from palimpsest.methods.inversion import Inversion, invert, spread
from palimpsest.methods.sampling import TOP, times_below
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.ddpm import beta_tilde
from palimpsest.samplers.guidance import Denoiser
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.model import Model

# ---- negative-prompt inversion, arXiv:2305.16807v1 ----


@dataclass(frozen=True)
class NegativePrompt(Inversion):
    """∅_t = C in every step."""

    cond: Tensor  # (b l d)

    def null(self, i: int) -> Tensor:
        return self.cond  # arXiv:2305.16807v1, Sec. 3: what null-text optimisation would end at


def negative_prompt(
    model: Model,
    x: Tensor,
    prompt: str | Sequence[str],
    *,
    steps: int = 50,
    w: float = 7.5,
    iterations: int = 0,
) -> NegativePrompt:
    """DDIM inversion whose way down has the prompt's embedding in the place of the empty one.

    Under the picture's own prompt ε_C + w (ε_C − ε_C) = ε_C, whatever w: the round trip of w = 1, at no cost.
    """
    pivot = invert(model, x, prompt, steps=steps, iterations=iterations)
    with torch.no_grad():
        cond = model.embed(list(pivot.prompts))
    return NegativePrompt(pivot.prompts, w, pivot.times, pivot.path, pivot.calls, cond=cond)


# ---- direct inversion, also "PnP Inversion", arXiv:2310.01506v1 ----


@dataclass(frozen=True)
class Direct(Inversion):
    """The rows of the source are offset, after each step, by what they have missed the pivot by; other
    rows are not.
    """

    needs_source = True  # alone, an edit would have nothing to be mended by

    def step(self, sched: Schedule, i: int, z: Tensor, eps: Denoiser, t: int, s: int) -> Tensor:
        z_s = ddim_step(sched, z, eps(z, t), t, s)  # Eq. (17)
        source = self.path[i + 1]  # z_s + o with o = z*_s − z_s, which is z*_s
        return torch.cat([source, z_s[len(source) :]])  # Alg. 1: o_target = 0


def direct(
    model: Model,
    x: Tensor,
    prompt: str | Sequence[str],
    *,
    steps: int = 50,
    w: float = 7.5,
    iterations: int = 0,
) -> Direct:
    """DDIM inversion whose source row cannot leave the pivot: what attention control takes from it is
    true at every step.

    # ours: the paper finds the offsets in a walk of their own; taken during the walk they need no call,
    # and fit every w.
    """
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
        x = self.p * x + (1 - self.p) * y  # and they are kept from drifting apart
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
        """The pair, the one that goes first in step i first: they take turns, so that neither leads. #
        official code
        """
        x, y = z.chunk(2, 1)
        return (x, y) if i % 2 == 0 else (y, x)

    def finish(self, z: Tensor) -> Tensor:
        return z.chunk(2, 1)[0]


def edict(
    model: Model,
    x: Tensor,
    prompt: str | Sequence[str],
    *,
    steps: int = 50,
    w: float = 7.5,
    top: float = TOP,
    p: float = 0.93,
) -> Edict:
    """Exact inversion by two coupled walks to the time top · T; `w` is that of both ways. The paper edits
    at w = 3 with top = .8.

    Rounding grows by about 1/p a step on the way up, so p near 1 keeps more digits, and less keeps the
    pair together."""
    if not 0 < p < 1:
        raise ValueError(f"p: must lie in (0, 1), got {p}; the paper takes .93")
    prompts, times, z = (
        spread(prompt, len(x)),
        times_below(model.schedule, steps, top, "top"),
        model.encode(x),
    )
    inversion = Edict(
        prompts, w, tuple(times), [torch.cat([z, z], 1)], 2 * steps * (1 if w in (0, 1) else 2), p=p
    )
    eps = model.denoiser(list(prompts), w)
    for i, (t, s) in reversed(list(enumerate(pairwise(times)))):
        inversion.path.insert(0, inversion.unstep(model.schedule, i, inversion.path[0], eps, t, s))
    return inversion


# ---- edit-friendly DDPM, arXiv:2304.06140v2 ----


@dataclass(frozen=True)
class EditFriendly(Inversion):
    """A random walk whose noises were chosen afterwards. `path` holds independently noised pictures: it
    is no trajectory.
    """

    eta: float
    jumps: Tensor  # (steps b c y x): σ z_t, what each step adds to its mean

    def step(self, sched: Schedule, i: int, z: Tensor, eps: Denoiser, t: int, s: int) -> Tensor:
        jump = self.jumps[i].repeat(len(z) // len(self.prompts), 1, 1, 1)  # every row gets the picture's
        return (
            ddim_step(sched, z, eps(z, t), t, s, self.eta, torch.zeros_like(z)) + jump
        )  # Eq. (10) with noise

    def noises(self, sched: Schedule) -> Tensor:
        """z_t = jump/σ of every step but the last, whose σ is 0: (steps−1 b c y x). Far from N(0, I),
        which is the point.
        """
        sigmas = [self.eta * beta_tilde(sched, t, s) ** 0.5 for t, s in pairwise(self.times)]
        return torch.stack([jump / sigma for jump, sigma in zip(self.jumps[:-1], sigmas)])


def edit_friendly(
    model: Model,
    x: Tensor,
    prompt: str | Sequence[str],
    *,
    steps: int = 50,
    w: float = 3.5,
    eta: float = 1.0,
    top: float = TOP,
    seed: int = 0,
) -> EditFriendly:
    """Noise the picture to each level *independently*, then read off the noise that leads the walk from
    each to the next.

    The paper: 100 steps, w = 3.5 here and 15 in the edit, from top = .64. seed: picture i draws from seed + i.
    # ours: the last step adds no noise, so its jump is kept as an offset; the official code leaves it out.
    # official code: η where the root needs η², which is right for η = 1 only.
    """
    if not 0 < eta <= 1:
        raise ValueError(f"eta: must lie in (0, 1], got {eta}; without noise there is nothing to choose")
    prompts, times = spread(prompt, len(x)), times_below(model.schedule, steps, top, "top")
    z_0, rng = model.encode(x), Rng.of(seed, len(x))
    path = [q_sample(model.schedule, z_0, t, rng.randn(z_0.shape, z_0)) for t in times[:-1]] + [
        z_0
    ]  # one ε for each level
    eps, still = model.denoiser(list(prompts), w), torch.zeros_like(z_0)
    jumps = [
        z_s - ddim_step(model.schedule, z_t, eps(z_t, t), t, s, eta, still)
        for (t, s), (z_t, z_s) in zip(pairwise(times), pairwise(path))
    ]
    return EditFriendly(
        prompts, w, tuple(times), path, steps * (1 if w in (0, 1) else 2), eta=eta, jumps=torch.stack(jumps)
    )
