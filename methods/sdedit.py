"""SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations (Meng et al.,
arXiv:2108.01073v2).

A crude guide, a stroke painting or a collage, is covered with noise up to a level t0, then denoised by a
model of good pictures. The noise hides the crude details; what is larger than the noise shows through.
Nothing is trained or optimised.

    VE walk (Alg. 1, with a mask Alg. 3)                   VP walk (Alg. 4, with a mask Alg. 5)
    1  x ← guide + σ(t0) z                                 x ← √ᾱ guide + √(1−ᾱ) z              at t0
    2  for n = N … 1:                                      for n = N … 1:
    3    x ← x + (σ² − σ'²) s_θ(x, σ) + √(σ² − σ'²) z        x ← ancestral step (or another solver's), t → t'
    4    x ← Ω x + (1 − Ω) (x_0 + σ' z)                      x ← Ω x + (1 − Ω) (√ᾱ' x_0 + √(1−ᾱ') z)
    5  once more from 1 with x as the guide (K times, Alg. 2)

    paper        code                              paper        code
    x^(g)        guide                             N            steps
    Ω            mask, 1 = edit here               K            repeats
    t0           t0, in (0, 1]                     σ(t), α(t)   Walk.levels; Edit.sigma, Edit.snr

t0 of one SDE is not t0 of the other (VP t0 = .5 is σ = 1.0 on a cosine schedule, 3.4 on DDPM's linear one,
and 0.57 on a VE ladder .01 … 32), so the result also says the noise level at t0 as σ and as signal-to-noise
ratio, which are comparable.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from palimpsest.arguments import (
    ArgumentError,
    Count,
    Else,
    Hint,
    Interval,
    Mask,
    Picture,
    Positive,
    Scale,
    Seed,
    Share,
    Texts,
    check,
    one_each,
)
from palimpsest.methods.inputs import check_mask, given_mask, given_picture, latent_mask
from palimpsest.methods.sampling import TOP, times_below
from palimpsest.metrics.image import rmse
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.guidance import Denoiser
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.samplers.solvers import Ancestral, Noise, Step
from palimpsest.samplers.ve_sde import reverse_diffusion_step, ve_score, ve_sigmas
from palimpsest.weights.counting import counted
from palimpsest.weights.model import Model

USUAL_STEPS = 50
Depth = Annotated[Share, Hint("the paper's useful band is 0.3 to 0.6")]  # t0


class Edit(NamedTuple):
    """What `sdedit` gives back. Pictures (b, 3, y, x) in [−1, 1]; latents (b c y' x') as VP states x_t."""

    picture: Tensor  # the edit, with what the mask keeps pasted back
    raw: Tensor  # the edit as decoded, before pasting
    noised: Tensor  # the guide at t0, as a latent (of the first repeat)
    path: list[Tensor]  # the walk of the last repeat, from t0 to 0, in latents
    levels: list[float]  # the schedule's time t of each latent of the path
    sigma: float  # the noise level at t0 beside a signal of strength 1
    snr: float  # signal-to-noise ratio at t0, 1/σ²
    calls: int  # evaluations of the network for each picture; a guided one counts two


class Walk(NamedTuple):
    """A way down from t0: its levels, how to noise a clean latent to one, and how to step to the next."""

    levels: list[float]  # strictly falling, the last is clean
    noise: Callable[[Tensor, float, Tensor], Tensor]  # (x_0, level, z) -> x
    step: Callable[[Tensor, float, float, Noise], Tensor]  # (x, level, next level, noise) -> x
    as_vp: Callable[[Tensor, float], Tensor]  # (x, level) -> the same state as a VP state
    time: Callable[[float], float]  # level -> t of the schedule


def first(z: Tensor, draw: Noise) -> Noise:
    """A noise that is z at the first call, and drawn anew at each further one."""
    waiting = [z]
    return lambda: waiting.pop() if waiting else draw()


def vp_walk(eps: Denoiser, sched: Schedule, t0: float, steps: int, step: Step) -> Walk:
    """Algorithms 4 and 5, on the schedule that the net was trained with.

    # ours: any number of steps. The paper re-discretises the SDE, β(t)Δt, which meets the ᾱ of the
    training only at N = 1000 t0; a step with both times has the right ᾱ at every stride.

    # official code: the ancestral step has the posterior variance β̃; Alg. 4 l. 6 prints √β z
    """
    return Walk(
        levels=times_below(sched, steps, t0, "t0"),
        noise=lambda x_0, t, z: q_sample(sched, x_0, t, z),  # Alg. 4 l. 2
        step=lambda x, t, s, noise: step(sched, x, eps, t, s, noise),  # Alg. 4 l. 5–6
        as_vp=lambda x, t: x,
        time=lambda t: t,
    )


def ve_walk(eps: Denoiser, sched: Schedule, t0: float, steps: int) -> Walk:
    """Algorithms 1 and 3, on σ(t) from .01 to the largest that the net knows (a change of variables)."""
    score = ve_score(eps, sched)

    def step(x: Tensor, sigma: float, after: float, noise: Noise) -> Tensor:
        # ours: the step to σ = 0 returns its mean; the paper leaves its noise in the picture
        z = noise() if after > 0 else None
        return reverse_diffusion_step(x, score(x, sigma), sigma, after, z)  # Eq. (3)

    low, high = max(0.01, sched.sigma(1)), sched.sigma(round(TOP * sched.T))
    return Walk(
        levels=ve_sigmas(steps, t0, sigma_min=low, sigma_max=high),
        noise=lambda x_0, sigma, z: x_0 + sigma * z,  # Alg. 1 l. 2
        step=step,  # Alg. 1 l. 5–6
        as_vp=lambda x, sigma: x / (1 + sigma**2) ** 0.5,
        time=sched.t_of_sigma,
    )


def sdedit(
    model: Model,
    guide: Picture,
    prompt: Texts = "",
    *,
    # how deep the guide is noised: deeper is more realistic, less faithful
    t0: Annotated[Depth | None, Else(0.5)] = None,
    mask: Mask | None = None,  # (b or 1, 1, y, x), 1 = edit here
    original: Picture | None = None,  # what the mask keeps (None: the guide)
    repeats: Count = 1,  # K rounds, each on the result of the last
    walk: Literal["vp", "ve"] = "vp",  # the SDE
    steps: Annotated[Count | None, Else(USUAL_STEPS)] = None,  # of the walk
    w: Annotated[Scale | None, Else(3.0)] = None,  # classifier-free guidance, 1 = none
    step: Step | None = None,  # of the VP walk (None: ancestral)
    seed: Seed = 0,  # picture i draws from seed + i
) -> Edit:
    """Edit `guide` towards what the model finds natural under `prompt`.

    Outside the mask the picture stays that of `original`, bit for bit; `Edit.raw` is the edit before that
    pasting. t0, steps, w: None takes what the model recommends, else 0.5, 50 and 3; a recommended number of
    steps is one of the VP walk, and the VE walk takes 50.
    step: DDIM(eta), Heun(), DPMSolver2M() or a function of one's own, see samplers/solvers.py; the
    VE walk has the step of Alg. 1 and takes no other. Raises ArgumentError for an argument that makes no
    sense.
    """
    check(sdedit, locals())
    if walk == "ve" and steps is None:
        steps = USUAL_STEPS  # Alg. 1 wants more of them: in few it adds more noise than it removes
    t0, steps, w = model.settle(sdedit, dict(t0=t0, steps=steps, w=w))
    if original is not None and mask is None:
        raise ArgumentError("original", "is what a mask keeps; give a mask too, or leave it out")
    if walk == "ve" and step is not None:
        raise ArgumentError("step", "is of the VP walk; leave it out, or take walk='vp'")
    guide = given_picture(model, guide, "guide")
    kept = guide if original is None else given_picture(model, original).to(guide)
    if kept.shape != guide.shape:
        raise ArgumentError(
            "original", f"must have the guide's shape {tuple(guide.shape)}, got {tuple(kept.shape)}"
        )
    omega = None if mask is None else check_mask(given_mask(model, mask), guide)

    prompts = prompt if isinstance(prompt, str) else one_each("prompt", prompt, len(guide))
    sched, eps, rng = model.schedule, model.denoiser(prompts, w), Rng.of(seed, len(guide))
    ve, step = walk == "ve", step or Ancestral()
    way = ve_walk(eps, sched, t0, steps) if ve else vp_walk(eps, sched, t0, steps, step)
    x, x_0 = model.encode(guide), model.encode(kept)
    if omega is not None:
        cells = latent_mask(omega, x)
        x = cells * x + (1 - cells) * x_0

    paths, draw = [], partial(rng.randn, x.shape, x)
    with counted(model, len(guide)) as evaluations:
        for _ in range(repeats):  # Alg. 2: K times on its own output
            x = way.noise(x, way.levels[0], draw())  # Alg. 1 l. 2, Eq. (4)
            path = [way.as_vp(x, way.levels[0])]
            for level, after in pairwise(way.levels):  # Alg. 1 l. 3
                z = draw()  # Alg. 1 l. 4
                x = way.step(x, level, after, first(z, draw))  # Alg. 1 l. 5–6
                if omega is not None:
                    # ours: the kept part at the *same* level as the edited; in the paper it is a level behind
                    x = cells * x + (1 - cells) * way.noise(x_0, after, z)  # Alg. 3 l. 7
                path.append(way.as_vp(x, after))
            paths.append(path)

    raw = model.decode(x)
    picture = raw if omega is None else torch.where(omega > 0, raw.to(kept), kept)  # to the bit
    sigma, times = sched.sigma(way.time(way.levels[0])), [way.time(level) for level in way.levels]
    return Edit(picture, raw, paths[0][0], paths[-1], times, sigma, sigma**-2, int(evaluations.each.max()))


# ---- choosing t0: ask, bisect


class Search(NamedTuple):
    """The t0 that pleased the judge most, its edit, and every t0 that was tried."""

    t0: float
    edit: Edit
    tried: list[float]


def bisect_t0(
    edit: Callable[[float], Edit],
    judge: Callable[[Edit], float],
    *,
    low: Share = 0.05,
    high: Share = 0.98,
    rounds: Count = 7,
) -> Search:
    """Bisection for t0: `judge` > 0 asks for "more realistic" (a larger t0), < 0 for "more faithful".

        bisect_t0(lambda t0: sdedit(model, guide, prompt, t0=t0), at_distance(guide, .1))

    At 0 the search ends. A judge can also be a person: show the edit, ask. Raises ArgumentError for limits
    that make no sense.
    """
    check(bisect_t0, locals())
    if not low < high:
        raise ArgumentError("low", f"must be below high, got {low} and {high}")
    tried: list[float] = []
    best: tuple[float, float, Edit] | None = None
    for _ in range(rounds):
        tried.append((low + high) / 2)
        result = edit(tried[-1])
        wish = judge(result)
        if best is None or abs(wish) <= best[0]:  # of equally pressing wishes the latest
            best = abs(wish), tried[-1], result
        if wish == 0:
            break
        low, high = (tried[-1], high) if wish > 0 else (low, tried[-1])
    return Search(best[1], best[2], tried)


def at_distance(
    guide: Tensor,
    target: Annotated[float, Interval(0, 1, open_low=True, open_high=True), Hint("1 is from black to white")],
    tolerance: Positive = 0.01,
) -> Callable[[Edit], float]:
    """A judge that wants `target` for the mean RMSE of edit and guide, within tolerance · target.

    In units of [0, 1]: 1 is from black to white.
    """
    check(at_distance, locals())

    def judge(edit: Edit) -> float:
        gap = target - rmse(edit.picture, guide.to(edit.picture)).mean().item()
        return 0.0 if abs(gap) <= tolerance * target else gap

    return judge
