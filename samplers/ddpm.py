"""Denoising Diffusion Probabilistic Models, arXiv:2006.11239v2: posterior, ancestral step, training loss.

A step goes from time t to any earlier time s; with s = t−1 it is the paper's. ᾱ_t/ᾱ_s plays α_t, 1 −
ᾱ_t/ᾱ_s plays β_t: dropping levels from a Markov chain leaves a Markov chain (arXiv:2102.09672v1, Eq. 19).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from palimpsest.arguments import ArgumentError
from palimpsest.samplers.convert import q_sample, target_of
from palimpsest.samplers.schedule import Schedule


def beta_tilde(sched: Schedule, t: float, s: float) -> float:
    """β̃ = (1−ᾱ_s)/(1−ᾱ_t) (1 − ᾱ_t/ᾱ_s): the posterior variance where x_0 is known. # DDPM Eq. (7)

    0 at s = 0. Right for data that is one point; otherwise a lower bound on the reverse variance (DDPM,
    Sec. 3.2). The official code calls it "fixedsmall", and `beta_stride` "fixedlarge".
    """
    a_t, a_s = sched.at(t), sched.at(s)
    return (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)


def beta_stride(sched: Schedule, t: float, s: float) -> float:
    """1 − ᾱ_t/ᾱ_s, which is β_t at s = t−1: right for data N(0, I), an upper bound otherwise."""
    return 1 - sched.at(t) / sched.at(s)


def posterior(sched: Schedule, x_0: Tensor, x_t: Tensor, t: float, s: float) -> tuple[Tensor, float]:
    """Mean (b c y x) and variance of q(x_s | x_t, x_0), s < t. # DDPM Eqs. (6)–(7), any stride"""
    _check_down(t, s)
    a_t, a_s = sched.at(t), sched.at(s)
    mean = (a_s**0.5 * (1 - a_t / a_s) / (1 - a_t)) * x_0 + ((a_t / a_s) ** 0.5 * (1 - a_s) / (1 - a_t)) * x_t
    return mean, beta_tilde(sched, t, s)


def ddpm_step(
    sched: Schedule,
    x_t: Tensor,
    eps: Tensor,
    t: float,
    s: float,
    noise: Tensor | None = None,
    variance: Tensor | Callable[[Schedule, float, float], float] = beta_tilde,
    gradient: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """One ancestral step x_t → x_s, s < t. # DDPM Alg. 2 l. 4

        x_s = μ + √Σ · noise,     μ = (x_t − β/√(1−ᾱ_t) ε)/√(1−β),     β = 1 − ᾱ_t/ᾱ_s

    eps: the network's ε_θ(x_t, t). noise ~ N(0, I), shaped as x_t; needed unless s = 0, where the mean is
    returned (Alg. 2 l. 3). variance: Σ, a function of the step (`beta_tilde` or `beta_stride`) or
    learned, one for each pixel (samplers/learned.py). gradient: g, from samplers/guidance.py, moves the
    mean to μ + Σ g(μ), Eq. (6) and Eq. (8); for a gradient taken at x_t give a function that does not
    look at μ. Raises ArgumentError for s ≥ t or missing noise."""
    _check_down(t, s)
    a_t, beta = sched.at(t), beta_stride(sched, t, s)
    mean = (1 - beta) ** -0.5 * x_t - beta / ((1 - a_t) * (1 - beta)) ** 0.5 * eps  # DDPM Eq. (11)
    var = variance if isinstance(variance, Tensor) else variance(sched, t, s)
    if gradient is not None:
        mean = mean + var * gradient(mean)  # Eq. (6), Eq. (8)
    if s == 0:
        return mean
    if noise is None:
        raise ArgumentError(
            "noise", "is missing: an ancestral step to s > 0 is random; give N(0, I) shaped as x_t"
        )
    return mean + var**0.5 * noise


def l_simple(
    model: Callable[[Tensor, Tensor], Tensor],
    sched: Schedule,
    x_0: Tensor,
    t: Tensor,
    eps: Tensor,
    prediction: str = "eps",
) -> Tensor:
    """L_simple = E‖ε − ε_θ(x_t, t)‖², the mean over pictures and pixels: a scalar to minimise. # Eq. (5)

    model(x_t, t): a network (its context already bound) that predicts what `prediction` says. x_0 and
    eps ~ N(0, I): (b c y x); t: (b,), whole, drawn from 1 … T.

    A v-network is judged on v: since ε − ε̂ = √ᾱ (v − v̂), that is Eq. (5) weighted by 1/ᾱ_t at time t,
    or the error of x̂_0 weighted by 1/(1−ᾱ_t) = 1 + SNR (ε: by SNR). Where ᾱ_t → 0 Eq. (5) asks nothing
    of x̂_0; v still asks for it. A velocity-network is judged on u = ε − x_0, whose error is that of x̂_0
    weighted by (1 + √SNR)²."""
    target = target_of(sched, x_0, t, eps, prediction)
    return F.mse_loss(model(q_sample(sched, x_0, t, eps), t), target)


def _check_down(t: float, s: float) -> None:
    if not s < t:
        raise ArgumentError(
            "s",
            f"must be below t, as a DDPM step goes down in time, got t={t}, s={s}; to invert, take ddim_step",
        )
