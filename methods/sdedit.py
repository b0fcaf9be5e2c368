"""SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations (Meng et al.,
arXiv:2108.01073v2).

A crude guide, a stroke painting or a collage, is drowned in noise up to a level t0, then denoised by a
model of good pictures. The noise hides the crudeness; what is larger than the noise shows through.
Nothing is trained or optimised.

    VE walk (Alg. 1, with a mask Alg. 3)                   VP walk (Alg. 4, with a mask Alg. 5)
    1  x ← guide + σ(t0) z                                 x ← √ᾱ guide + √(1−ᾱ) z              at t0
    2  for n = N … 1:                                      for n = N … 1:
    3    x ← x + (σ² − σ'²) s_θ(x, σ) + √(σ² − σ'²) z        x ← ancestral or DDIM step, t → t'
    4    x ← Ω x + (1 − Ω) (x_0 + σ' z)                      x ← Ω x + (1 − Ω) (√ᾱ' x_0 + √(1−ᾱ') z)
    5  once more from 1 with x as the guide (K times, Alg. 2)

    paper        code                              paper        code
    x^(g)        guide                             N            steps
    Ω            mask, 1 = edit here               K            repeats
    t0           t0, in (0, 1]                     σ(t), α(t)   walk levels; Edit.sigma, Edit.snr

t0 of one SDE is not t0 of the other (VP t0 = .5 is σ = 1.0 on a cosine schedule, 3.4 on DDPM's linear
one, and 0.57 on a VE ladder .01 … 32), so the result says where it stood as σ and as signal-to-noise
ratio, which are comparable."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.methods.inputs import check_mask, latent_mask
from palimpsest.methods.sampling import TOP, times_below
from palimpsest.metrics.image import rmse
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.ddpm import ddpm_step
from palimpsest.samplers.guidance import Denoiser
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.samplers.ve_sde import reverse_diffusion_step, ve_score, ve_sigmas
from palimpsest.weights.model import Model


class Edit(NamedTuple):
    """What `sdedit` gives: pictures (b, 3, y, x) in [−1, 1]; latents (b c y' x') as VP states √ᾱ x_0 +
    √(1−ᾱ) ε.
    """

    picture: Tensor  # the edit, kept pixels pasted back
    raw: Tensor  # the edit as decoded, before pasting
    noised: Tensor  # the guide at t0, as a latent (of the first repeat)
    path: list[Tensor]  # the walk of the last repeat, from t0 to 0, in latents
    levels: list[float]  # the schedule's time t of each latent of the path
    sigma: float  # the noise level at t0 beside a signal of strength 1
    snr: float  # signal-to-noise ratio at t0, 1/σ²
    calls: int  # how often the denoiser was asked


class Walk(NamedTuple):
    """A way down from t0: noise levels, how to noise a clean latent to one, and how to step from one to
    the next.
    """

    levels: list[float]  # strictly falling, the last is clean
    noise: Callable[[Tensor, float, Tensor], Tensor]  # (x_0, level, z) -> x
    step: Callable[[Tensor, float, float, Tensor], Tensor]  # (x, level, next level, z) -> x
    view: Callable[[Tensor, float], Tensor]  # state -> VP state, to show
    time: Callable[[float], float]  # level -> t of the schedule


def vp_walk(eps: Denoiser, sched: Schedule, t0: float, steps: int, eta: float = 1.0) -> Walk:
    """Algorithms 4 and 5 on the schedule the net was trained with: ancestral for eta = 1, DDIM for eta = 0.

    # ours: any number of steps. The paper re-discretises the SDE, β(t)Δt, which meets the ᾱ of the
    # training only at N = 1000 t0; Eq. (10) with both times has the right ᾱ at every stride.
    """

    def step(x: Tensor, t: float, s: float, z: Tensor) -> Tensor:
        if eta == 1:
            # official code: the posterior variance β̃, as here; Alg. 4 l. 6 prints √β z
            return ddpm_step(sched, x, eps(x, t), t, s, z)
        return ddim_step(sched, x, eps(x, t), t, s, eta, z)  # Eq. (10)

    return Walk(
        levels=times_below(sched, steps, t0, "t0"),
        noise=lambda x_0, t, z: q_sample(sched, x_0, t, z),
        step=step,
        view=lambda x, t: x,
        time=lambda t: t,
    )


def ve_walk(eps: Denoiser, sched: Schedule, t0: float, steps: int) -> Walk:
    """Algorithms 1 and 3 on the ladder σ(t) from .01 to the largest the net knows, by the exact change of
    variables.
    """
    score = ve_score(eps, sched)
    sigmas = ve_sigmas(
        steps, t0, sigma_min=max(0.01, sched.sigma(1)), sigma_max=sched.sigma(round(TOP * sched.T))
    )

    def step(x: Tensor, sigma: float, after: float, z: Tensor) -> Tensor:
        # Alg. 1 l. 6 = Eq. (3). # ours: the step to σ = 0 returns its mean; the paper leaves its ε z in
        # the picture
        return reverse_diffusion_step(x, score(x, sigma), sigma, after, z if after > 0 else None)

    return Walk(
        levels=sigmas,
        noise=lambda x_0, sigma, z: x_0 + sigma * z,
        step=step,  # x(t0) ~ N(guide, σ²(t0) I)
        view=lambda x, sigma: x / (1 + sigma**2) ** 0.5,
        time=sched.t_of_sigma,
    )


def sdedit(
    model: Model,
    guide: Tensor,
    prompt: str | list[str] = "",
    *,
    t0: float = 0.5,
    mask: Tensor | None = None,
    original: Tensor | None = None,
    repeats: int = 1,
    walk: str = "vp",
    steps: int = 50,
    w: float = 3.0,
    eta: float = 1.0,
    seed: int = 0,
    paste: bool = True,
) -> Edit:
    """Edit `guide` (b, 3, y, x) in [−1, 1] towards what the model finds natural under `prompt`.

    t0 in (0, 1]: how deep to drown the guide; the paper finds [.3, .6] useful. mask (b or 1, 1, y, x), 1
    = edit here: outside it the picture stays that of `original` (by default the guide), bit for bit
    unless paste=False. repeats: K rounds, each on the last one's result. walk: "vp" (eta = 1 ancestral,
    eta = 0 DDIM) or "ve". w: classifier-free guidance. seed: picture i draws from seed + i.

    Raises ValueError for a t0, steps, repeats, walk, mask or prompt that makes no sense, with the mend.
    """
    if not 0 < t0 <= 1:  # also refuses NaN
        raise ValueError(f"t0: must lie in (0, 1], got {t0}; the paper's useful band is 0.3 to 0.6")
    if walk not in ("vp", "ve"):
        raise ValueError(f"walk: must be vp or ve, got {walk!r}")
    if not 0 <= eta <= 1 or (walk == "ve" and eta != 1):
        raise ValueError(
            f"eta: must lie in [0, 1] for vp (0 DDIM, 1 ancestral) and is always 1 for ve, got {eta}"
        )
    if isinstance(repeats, bool) or not isinstance(repeats, Integral) or repeats < 1:
        raise ValueError(f"repeats: must be a whole number of at least 1, got {repeats}")
    if original is not None and mask is None:
        raise ValueError("original: is what a mask keeps; give a mask too, or leave it out")
    guide = guide.to(model.device)
    kept = guide if original is None else original.to(guide)
    if kept.shape != guide.shape:
        raise ValueError(
            f"original: must have the guide's shape {tuple(guide.shape)}, got {tuple(kept.shape)}"
        )
    omega = None if mask is None else check_mask(mask, guide)

    eps = model.denoiser(prompt, w)
    way = (
        vp_walk(eps, model.schedule, t0, steps, eta)
        if walk == "vp"
        else ve_walk(eps, model.schedule, t0, steps)
    )
    rng = Rng.of(seed, len(guide))
    g, keep = model.encode(guide), model.encode(kept)
    region = None if omega is None else latent_mask(omega, g)
    if region is not None:
        g = region * g + (1 - region) * keep

    x, noised = g, None
    for _ in range(repeats):  # Alg. 2: K times on its own output
        x = way.noise(x, way.levels[0], rng.randn(x.shape, x))  # Alg. 1 l. 2, Eq. (4)
        path = [way.view(x, way.levels[0])]
        noised = path[0] if noised is None else noised
        for level, after in pairwise(way.levels):  # Alg. 1 l. 3
            z = rng.randn(x.shape, x)  # Alg. 1 l. 4
            x = way.step(x, level, after, z)  # Alg. 1 l. 5–6
            if region is not None:  # Alg. 3 l. 7
                # ours: kept pixels at the *same* level as the edited ones; the paper's carry the previous
                # level's noise
                x = region * x + (1 - region) * way.noise(keep, after, z)
            path.append(way.view(x, after))

    raw = model.decode(x)
    picture = raw if omega is None or not paste else torch.where(omega > 0, raw.to(kept), kept)  # to the bit
    sigma = model.schedule.sigma(way.time(way.levels[0]))
    return Edit(
        picture, raw, noised, path, [way.time(v) for v in way.levels], sigma, sigma**-2, repeats * steps
    )


# --------------------------------------------------------------------------- choosing t0: ask, bisect (paper, Sec. 5)


class Search(NamedTuple):
    """The t0 that pleased the judge most, its edit, and every t0 that was tried."""

    t0: float
    edit: Edit
    tried: list[float]


def bisect_t0(
    edit: Callable[[float], Edit],
    judge: Callable[[Edit], float],
    *,
    low: float = 0.05,
    high: float = 0.98,
    rounds: int = 7,
) -> Search:
    """Bisection for t0: `judge` > 0 asks for "more realistic" (raise t0), < 0 "more faithful" (lower it),
    0 is content.

        bisect_t0(lambda t0: sdedit(b, guide, prompt, t0=t0), at_distance(guide, .1))

    A judge can also be a person: show the edit, ask. Raises ValueError for limits that make no sense.
    """
    if not 0 < low < high <= 1 or rounds < 1:
        raise ValueError(f"low, high, rounds: need 0 < low < high ≤ 1 ≤ rounds, got {low}, {high}, {rounds}")
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


def at_distance(guide: Tensor, target: float, tolerance: float = 0.01) -> Callable[[Edit], float]:
    """A judge that wants the mean RMSE of edit and guide ([0, 1] units) within `tolerance` × target of
    `target`.
    """
    if not 0 < target < 1:
        raise ValueError(f"target: must lie in (0, 1), where 1 is from black to white, got {target}")

    def judge(edit: Edit) -> float:
        gap = target - rmse(edit.picture, guide.to(edit.picture)).mean().item()
        return 0.0 if abs(gap) <= tolerance * target else gap

    return judge
