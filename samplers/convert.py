"""One prediction, many names: x̂_0, ε̂, v̂ and the score say the same thing about x_t. Exact conversions.

    x_t = √ᾱ x_0 + √(1−ᾱ) ε     v = √ᾱ ε − √(1−ᾱ) x_0     u = ε − x_0     score = ∇ log p_t(x_t) = −ε̂/√(1−ᾱ)

(x_t, v) is (x_0, ε) turned by the angle φ with cos φ = √ᾱ (arXiv:2202.00512v2, App. D), so v-conversions
never divide and stay exact at both ends; ε → x_0 divides by √ᾱ (poor near t = T), x_0 → ε by √(1−ᾱ)
(undefined at t = 0). u is the velocity of the straight line (samplers/flow.py), and its conversions divide by
√ᾱ + √(1−ᾱ), which is never below 1.

Everywhere: pictures (b c y x); t a number in [0, T], or in training an integer tensor (b,), one time per
picture."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from palimpsest.arguments import ArgumentError
from palimpsest.samplers.schedule import Schedule

Prediction = Literal["eps", "v", "velocity"]
PREDICTIONS = get_args(Prediction)


def q_sample(sched: Schedule, x_0: Tensor, t: float | Tensor, eps: Tensor) -> Tensor:
    """x_t ~ q(x_t | x_0): √ᾱ x_0 + √(1−ᾱ) ε for given ε ~ N(0, I) (DDPM, arXiv:2006.11239v2, Eq. 4)."""
    signal, noise = sched.signal_noise(t, x_0)
    return signal * x_0 + noise * eps


def x0_from_eps(sched: Schedule, x_t: Tensor, t: float | Tensor, eps: Tensor) -> Tensor:
    """x̂_0 = (x_t − √(1−ᾱ) ε)/√ᾱ, the predicted x_0 of DDIM (arXiv:2010.02502v4, Eq. 9)."""
    signal, noise = sched.signal_noise(t, x_t)
    return (x_t - noise * eps) / signal


def eps_from_x0(sched: Schedule, x_t: Tensor, t: float | Tensor, x_0: Tensor) -> Tensor:
    """ε = (x_t − √ᾱ x_0)/√(1−ᾱ). ArgumentError where a t is 0: there is no noise to read."""
    _check_noisy(t)
    signal, noise = sched.signal_noise(t, x_t)
    return (x_t - signal * x_0) / noise


def eps_from_v(sched: Schedule, x_t: Tensor, t: float | Tensor, v: Tensor) -> Tensor:
    """ε = √ᾱ v + √(1−ᾱ) x_t."""
    signal, noise = sched.signal_noise(t, x_t)
    return signal * v + noise * x_t


def x0_from_v(sched: Schedule, x_t: Tensor, t: float | Tensor, v: Tensor) -> Tensor:
    """x_0 = √ᾱ x_t − √(1−ᾱ) v."""
    signal, noise = sched.signal_noise(t, x_t)
    return signal * x_t - noise * v


def v_from_eps_x0(sched: Schedule, x_0: Tensor, t: float | Tensor, eps: Tensor) -> Tensor:
    """v = √ᾱ ε − √(1−ᾱ) x_0, the training target of a v-network."""
    signal, noise = sched.signal_noise(t, x_0)
    return signal * eps - noise * x_0


def eps_from_velocity(sched: Schedule, x_t: Tensor, t: float | Tensor, u: Tensor) -> Tensor:
    """ε = (x_t + √ᾱ u)/(√ᾱ + √(1−ᾱ)), from u = ε − x_0. # Eq. (24)"""
    signal, noise = sched.signal_noise(t, x_t)
    return (x_t + signal * u) / (signal + noise)


def x0_from_velocity(sched: Schedule, x_t: Tensor, t: float | Tensor, u: Tensor) -> Tensor:
    """x_0 = (x_t − √(1−ᾱ) u)/(√ᾱ + √(1−ᾱ)). # Eq. (24)"""
    signal, noise = sched.signal_noise(t, x_t)
    return (x_t - noise * u) / (signal + noise)


def score_from_eps(sched: Schedule, t: float | Tensor, eps: Tensor) -> Tensor:
    """∇ log p_t(x_t) = −ε/√(1−ᾱ), for the VP state x_t. (ve_sde.ve_score has the VE state's.)
    ArgumentError where a t is 0: a clean picture has no score."""
    _check_noisy(t)
    _, noise = sched.signal_noise(t, eps)
    return -eps / noise


def eps_from_score(sched: Schedule, t: float | Tensor, score: Tensor) -> Tensor:
    """ε = −√(1−ᾱ) ∇ log p_t(x_t)."""
    _, noise = sched.signal_noise(t, score)
    return -noise * score


def clip_eps(
    sched: Schedule, x_t: Tensor, t: float | Tensor, eps: Tensor, low: float = -1, high: float = 1
) -> Tensor:
    """The ε that belongs to x̂_0 clamped to [low, high]; t > 0. For models of pixels: latents have no bounds.

    ε is read again from the clamped x̂_0, so the pair stays consistent. official code: diffusers'
    clip_sample keeps the old ε, and then a DDIM step is no longer undone by its inverse."""
    return eps_from_x0(sched, x_t, t, x0_from_eps(sched, x_t, t, eps).clamp(low, high))


def eps_from_output(sched: Schedule, x_t: Tensor, t: float | Tensor, out: Tensor, prediction: str) -> Tensor:
    """A network's output as ε. prediction: what it was trained on, one of PREDICTIONS, else ArgumentError."""
    check_prediction(prediction)
    if prediction == "eps":
        return out
    return (eps_from_v if prediction == "v" else eps_from_velocity)(sched, x_t, t, out)


def x0_from_output(sched: Schedule, x_t: Tensor, t: float | Tensor, out: Tensor, prediction: str) -> Tensor:
    """A network's output as x̂_0. prediction: as in `eps_from_output`."""
    check_prediction(prediction)
    read = {"eps": x0_from_eps, "v": x0_from_v, "velocity": x0_from_velocity}
    return read[prediction](sched, x_t, t, out)


def target_of(sched: Schedule, x_0: Tensor, t: float | Tensor, eps: Tensor, prediction: str) -> Tensor:
    """What a network that is trained on this prediction should say of x_t. prediction: one of PREDICTIONS."""
    check_prediction(prediction)
    if prediction == "eps":
        return eps
    return v_from_eps_x0(sched, x_0, t, eps) if prediction == "v" else eps - x_0


def check_prediction(prediction: str) -> None:
    """Raises ArgumentError for what no network is trained on here."""
    if prediction not in PREDICTIONS:
        raise ArgumentError("prediction", f'must be "eps", "v" or "velocity", got {prediction!r}')


def _check_noisy(t: float | Tensor) -> None:
    if (t == 0).any() if isinstance(t, Tensor) else t == 0:
        raise ArgumentError("t", "is 0, and a clean picture holds no noise; it must be above 0")
