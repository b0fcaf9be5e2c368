"""The variance-exploding SDE: noise is added, and the picture keeps its full strength, x(t) = x(0) + σ(t) z.

Score-Based Generative Modeling through SDEs, arXiv:2011.13456v2; as used for editing by SDEdit,
arXiv:2108.01073v2.

    forward    dx = √(dσ²/dt) dw
    reverse    dx = −(dσ²/dt) ∇ log p_t(x) dt + √(dσ²/dt) dw̄                                        # Eq. (1)

    paper                code
    σ(t), t in [0, 1]    ve_sigma(t)           in the picture's units: [−1, 1] needs twice the σ of [0, 1]
    dσ²/dt = g(t)²       g2(t)
    s_θ(x, t)            score(x, sigma)       a score network is told σ, which fixes t
    z ~ N(0, I)          z                     None asks a step for its mean

t here is not the t of a Schedule and t0 of one SDE is not t0 of the other: compare σ. Every step below
turns a state of level `sigma` into one of level `sigma_next` < `sigma`. `ve_score` lets any ε-network
serve as the score, exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from einops import rearrange, reduce
from torch import Tensor

from palimpsest.arguments import ArgumentError, Count, Scale, Share, check
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule

Score = Callable[[Tensor, float], Tensor]  # (x, sigma) -> ∇ log p(x) at that level
Predictor = Callable[[Tensor, Tensor, float, float, Tensor | None], Tensor]


# ---- levels ----


def ve_sigma(t, sigma_min: float, sigma_max: float):
    """σ(t) = σ_min (σ_max/σ_min)^t for t in [0, 1], a float or a tensor (arXiv:2011.13456v2, App. C)."""
    return sigma_min * (sigma_max / sigma_min) ** t


def g2(t, sigma_min: float, sigma_max: float):
    """g(t)² = dσ²/dt = 2 ln(σ_max/σ_min) σ(t)²: the variance that the forward SDE adds per unit of time."""
    return 2 * math.log(sigma_max / sigma_min) * ve_sigma(t, sigma_min, sigma_max) ** 2


def ve_sigmas(steps: Count, t0: Share = 1.0, *, sigma_min: Scale = 0.01, sigma_max: Scale) -> list[float]:
    """The levels of a walk: σ(t0 n/N) for n = N … 1, then 0 (SDEdit Alg. 1: σ(0) = 0); steps + 1 floats.

    Raises ArgumentError for steps < 1, t0 outside (0, 1], or not 0 < sigma_min < sigma_max.
    """
    check(ve_sigmas, locals())
    if not 0 < sigma_min < sigma_max:
        raise ArgumentError(
            "sigma_min", f"must be above 0 and below sigma_max, got {sigma_min!r} and {sigma_max!r}"
        )
    return [ve_sigma(t0 * n / steps, sigma_min, sigma_max) for n in range(steps, 0, -1)] + [0.0]


# ---- training ----


def ve_loss(
    score: Callable[[Tensor, Tensor], Tensor],
    x_0: Tensor,
    sigma: Tensor,
    z: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    """E‖σ s_θ(x_0 + σ z, σ) + z‖², the mean over pictures and pixels. # Eq. (2)

    The paper prints σ s − z. The optimum s* = −z/σ (in expectation) makes σ s* + z vanish, while the
    printed residual would be −2z there and is zero at +z/σ, a score that walks away from the data.

    x_0, z ~ N(0, I): (b c y x); sigma: (b,), positive. weight (b,) multiplies each picture's term: None
    is the paper's λ(t) = σ²; g²/σ² makes it λ = g², the likelihood weighting. official code: half the
    *sum* over pixels."""
    level = rearrange(sigma, "b -> b 1 1 1")
    residual = level * score(x_0 + level * z, sigma) + z  # Eq. (2), sign mended
    each = reduce(residual**2, "b c y x -> b", "mean")
    return each.mean() if weight is None else (weight * each).mean()


# ---- steps ----


def em_step(
    x: Tensor, score: Tensor, t: float, dt: float, z: Tensor | None, *, sigma_min: float, sigma_max: float
) -> Tensor:
    """Euler–Maruyama on Eq. (1), t → t − dt: x + g²dt s + √(g²dt) z, with g² taken at t."""
    var = g2(t, sigma_min, sigma_max) * dt
    return _add_noise(x + var * score, var, z)


def reverse_diffusion_step(
    x: Tensor, score: Tensor, sigma: float, sigma_next: float, z: Tensor | None
) -> Tensor:
    """x + (σ² − σ'²) s + √(σ² − σ'²) z, σ' = `sigma_next`: g²dt integrated exactly. # Eq. (3), SDEdit Alg. 1

    As printed, Eq. (3) takes the root of a negative number and s at the unknown point; Algorithm 1 has
    what runs."""
    var = sigma**2 - sigma_next**2
    return _add_noise(x + var * score, var, z)  # Eq. (3)


def ancestral_step(x: Tensor, score: Tensor, sigma: float, sigma_next: float, z: Tensor | None) -> Tensor:
    """Mean as Eq. (3), but the posterior's variance σ'²(σ² − σ'²)/σ². # arXiv:2011.13456v2, App. F

    This is the DDPM step with β̃, seen after the change of variables; it adds nothing at σ' = 0.
    """
    var = sigma**2 - sigma_next**2
    return _add_noise(x + var * score, var * (sigma_next / sigma) ** 2, z)


def probability_flow_step(x: Tensor, score: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """x + (σ − σ') σ s: Euler's step in σ on the ODE dx = −σ s dσ, whose marginals are the SDE's. Up or down.

    With ε = −σ s this is DDIM, exactly. official code: ½(σ² − σ'²) s instead, an Euler step in σ².
    """
    return x + (sigma - sigma_next) * sigma * score


def langevin_step(x: Tensor, score: Tensor, z: Tensor, snr: float = 0.16) -> Tensor:
    """The corrector: x + ε s + √(2ε) z, ε = 2 (snr ‖z‖/‖s‖)², at the same level. # arXiv:2011.13456v2, Alg. 4

    Norms are per picture: `# official code: batch mean`, by which a picture depends on its batch mates.
    """
    norm_z, norm_s = (torch.linalg.vector_norm(v, dim=(1, 2, 3), keepdim=True) for v in (z, score))
    step = 2 * (snr * norm_z / norm_s) ** 2  # (b 1 1 1)
    return x + step * score + (2 * step).sqrt() * z


# ---- walks ----


def pc_walk(
    score: Score,
    x: Tensor,
    sigmas: Sequence[float],
    rng: Rng,
    *,
    predictor: Predictor = reverse_diffusion_step,
    corrections: int = 0,
    snr: float = 0.16,
) -> Tensor:
    """Predictor–corrector: from x of level sigmas[0] down the list. # arXiv:2011.13456v2, Algs. 2, 4

    At each level `corrections` Langevin steps, then the predictor (`reverse_diffusion_step` or
    `ancestral_step`): the order of the official code; the printed algorithm predicts first. score(x,
    sigma) → (b c y x). rng: one generator per picture. A step to level 0 returns its mean. official code:
    the last step's noise is dropped or kept by a flag per configuration; SDEdit Alg. 1 keeps it."""
    for sigma, sigma_next in pairwise(sigmas):
        for _ in range(corrections):
            x = langevin_step(x, score(x, sigma), rng.randn(x.shape, x), snr)
        z = rng.randn(x.shape, x) if sigma_next > 0 else None
        x = predictor(x, score(x, sigma), sigma, sigma_next, z)
    return x


def probability_flow_walk(score: Score, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """The probability-flow ODE from sigmas[0] along the list: deterministic; levels above 0 may also rise."""
    for sigma, sigma_next in pairwise(sigmas):
        x = probability_flow_step(x, score(x, sigma), sigma, sigma_next)
    return x


# ---- the exact change of variables VP ↔ VE ----
#     σ = √((1−ᾱ)/ᾱ)      x_vp = √ᾱ x_ve = x_ve/√(1+σ²)      same x_0, same ε      s_ve = √ᾱ s_vp = −ε/σ


def ve_score(eps_fn: Callable[[Tensor, float], Tensor], sched: Schedule) -> Score:
    """Any ε-network (x_t, t) → ε as a VE score: s(x, σ) = −ε_θ(x/√(1+σ²), t(σ))/σ, for 0 < σ ≤ σ_T.

    t(σ) = sched.t_of_sigma(σ), a real number between the levels that were trained on. σ counts in the
    network's own units: σ of [0, 1] pixels must be doubled for a network of [−1, 1] pixels. ValueError
    for σ ≤ 0 and above σ_T."""

    def score(x: Tensor, sigma: float) -> Tensor:
        if sigma <= 0:
            raise ArgumentError("sigma", f"must be above 0, where there is a score, got {sigma}")
        return -eps_fn(x / (1 + sigma**2) ** 0.5, sched.t_of_sigma(sigma)) / sigma

    return score


def ve_eps(score: Score, sched: Schedule) -> Callable[[Tensor, float], Tensor]:
    """The inverse: a VE score as a denoiser, ε = −σ s(x_t √(1+σ²), σ) with σ = sched.sigma(t), t > 0."""

    def eps_fn(x_t: Tensor, t: float) -> Tensor:
        sigma = sched.sigma(t)
        return -sigma * score(x_t * (1 + sigma**2) ** 0.5, sigma)

    return eps_fn


def _add_noise(mean: Tensor, var: float, z: Tensor | None) -> Tensor:
    if var < 0:
        raise ArgumentError("sigma_next", "must not be above sigma; only probability_flow_step goes upward")
    return mean if z is None else mean + var**0.5 * z
