"""Solvers: how a walk goes from one noise level to the next. Each is a `Step`, as is any function like this:

    def step(sched, x_t, eps, t, s, noise):            # the state at time t -> the state at time s < t
        return ddim_step(sched, x_t, eps(x_t, t), t, s)

    generate(model, "a red star", step=step)           # sdedit, diffedit and instruct_pix2pix take it too

    sched    the schedule
    x_t      the state (b c y x)
    eps      the denoiser (x_t, t) → ε̂, guidance inside; it may be asked several times, and at other times
    t, s     from and to, 0 ≤ s < t ≤ T
    noise    a function without arguments: N(0, I) shaped as x_t, drawn anew at each call

| solver | order | calls a step | paper |
|---|---|---|---|
| `DDIM(eta)` | 1 | 1 | arXiv:2010.02502v4; eta = 0 deterministic, eta = 1 ancestral |
| `Ancestral()` | random | 1 | DDPM, arXiv:2006.11239v2, Alg. 2 |
| `Heun()` | 2 | 2, but 1 to s = 0 and where σ falls to a third | arXiv:2206.00364v2, Alg. 1 |
| `DPMSolver2M()` | 2 | 1 | DPM-Solver++(2M), arXiv:2211.01095v2, Alg. 2 |

Order p: with twice as many steps the error of the whole walk falls by 2^p. The truth is the probability-flow
ODE dx̂/dσ = ε(x̂, σ), where x̂ = x_t/√ᾱ_t and σ = √((1−ᾱ_t)/ᾱ_t). A DDIM step is Euler's step on this ODE.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor

from palimpsest.arguments import Fraction, check
from palimpsest.samplers.convert import x0_from_eps
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.ddpm import ddpm_step
from palimpsest.samplers.guidance import Denoiser
from palimpsest.samplers.schedule import Schedule

Noise = Callable[[], Tensor]  # N(0, I) of the state's shape, dtype and device


class StepContract:
    """A function (sched, x_t, eps, t, s, noise) -> x_s."""

    def wrong(self, value: Any) -> str | None:
        """A class is callable too, but its instances are the steps."""
        if isinstance(value, type):
            return f"must be a step, got the class {value.__name__}; make one: {value.__name__}()"
        if not callable(value):
            return f"must be a function (sched, x_t, eps, t, s, noise) -> x_s such as Heun(), got {value!r}"
        return None


Step = Annotated[Callable[[Schedule, Tensor, Denoiser, float, float, Noise], Tensor], StepContract()]


@dataclass(frozen=True)
class DDIM:
    """DDIM's step: deterministic at eta = 0, and with the more noise the nearer eta is to 1."""

    eta: Fraction = 0.0

    def __post_init__(self) -> None:
        check(DDIM, vars(self))

    def __call__(
        self, sched: Schedule, x_t: Tensor, eps: Denoiser, t: float, s: float, noise: Noise
    ) -> Tensor:
        z = noise() if self.eta > 0 else None
        return ddim_step(sched, x_t, eps(x_t, t), t, s, self.eta, z)  # Eq. (10)


@dataclass(frozen=True)
class Ancestral:
    """DDPM's step with the variance β̃: what DDIM(eta=1) computes, written as in its own paper."""

    def __call__(
        self, sched: Schedule, x_t: Tensor, eps: Denoiser, t: float, s: float, noise: Noise
    ) -> Tensor:
        z = noise() if s > 0 else None  # DDPM Alg. 2 l. 3
        return ddpm_step(sched, x_t, eps(x_t, t), t, s, z)  # DDPM Alg. 2 l. 4


@dataclass(frozen=True)
class Heun:
    """Heun's step on the probability-flow ODE: Euler's step, redone with the mean of the slopes at both ends.

    Karras et al., arXiv:2206.00364v2, Alg. 1, with their σ(t) = t and s(t) = 1: the state is x̂ = x_t/√ᾱ_t,
    its slope d = (x̂ − D(x̂; σ))/σ is ε̂, and their update x̂ + (σ_s − σ_t) d is what `ddim_step` computes
    from ε̂.
    # ours: a step over which σ falls to a third or less stays Euler's. The mean slope multiplies the change
    of the predicted x_0 by ½(σ_t/σ_s − 1), and above 1 it overshoots: 8 steps from .98 T down a cosine
    schedule, whose first has σ_t/σ_s = 7, would otherwise paint another background.
    """

    def __call__(
        self, sched: Schedule, x_t: Tensor, eps: Denoiser, t: float, s: float, noise: Noise
    ) -> Tensor:
        d = eps(x_t, t)  # Alg. 1 l. 4
        x_s = ddim_step(sched, x_t, d, t, s)  # Alg. 1 l. 5: Euler's step
        if sched.sigma(t) < 3 * sched.sigma(s):  # Alg. 1 l. 6 asks for σ_s ≠ 0 alone
            d_s = eps(x_s, s)  # Alg. 1 l. 7
            x_s = ddim_step(sched, x_t, (d + d_s) / 2, t, s)  # Alg. 1 l. 8, Eq. (28)
        return x_s


class DPMSolver2M:
    """DPM-Solver++(2M): extrapolates the predicted x_0 linearly from this step and the one before.

    Lu et al., arXiv:2211.01095v2, Alg. 2. Over a step h = λ_s − λ_t in λ = log(√ᾱ/√(1−ᾱ)) the noise in the
    state is known exactly, and only x̂_0 has to be approximated, by D; with D = x̂_0 the step is DDIM's.

    An object remembers its last step: make one for each walk. If it is used again, it starts anew where
    a step does not begin at the time that the last one led to.
    # unstated: the step to s = 0, where h is infinite, takes D = x̂_0
    """

    def __init__(self) -> None:
        self.reached: float | None = None  # the time that the last step led to
        self.h = 0.0  # its length in λ
        self.x_0: Tensor | None = None  # its guess at x_0, (b c y x)

    def __call__(
        self, sched: Schedule, x_t: Tensor, eps: Denoiser, t: float, s: float, noise: Noise
    ) -> Tensor:
        x_0 = x0_from_eps(sched, x_t, t, eps(x_t, t))
        (_, noise_t), (signal_s, noise_s) = sched.signal_noise(t, x_t), sched.signal_noise(s, x_t)
        h = math.log(sched.sigma(t) / sched.sigma(s)) if s > 0 else math.inf  # λ_s − λ_t
        D = x_0  # Alg. 2: the first step
        if self.reached == t and self.x_0.shape == x_0.shape and s > 0:
            r = self.h / h  # Alg. 2: r_i
            D = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * self.x_0  # Alg. 2: D_i
        self.reached, self.h, self.x_0 = s, h, x_0
        return noise_s / noise_t * x_t - signal_s * math.expm1(-h) * D  # Alg. 2, Eq. (29)
