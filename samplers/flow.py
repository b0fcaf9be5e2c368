"""Rectified flow: the straight line between a picture and noise, as a third way to write the same diffusion.

Flow matching (arXiv:2210.02747v2) and rectified flow (arXiv:2209.03003v1) noise a picture along a straight
line and learn its velocity. Up to a factor this is the VP and the VE state, so every network of this library
is a flow network:

    VP   x_t = √ᾱ x_0 + √(1−ᾱ) ε
    VE   x   = x_0 + σ ε                   x = x_t/√ᾱ,             σ = √((1−ᾱ)/ᾱ)
    flow X_s = (1 − s) x_0 + s ε           X_s = (1 − s) x_t/√ᾱ,   s = σ/(1 + σ)        # Eq. (23)

    u(X_s, s) = E[ε − x_0 | X_s] = ε̂ − x̂_0,     dX/ds = u                             # Eq. (24)

s = 0 is the picture and s = 1 pure noise. A schedule ends at a finite σ_T, so a walk starts a little below
s = 1.
Everywhere: states (b c y x); s a Python float.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from palimpsest.arguments import ArgumentError
from palimpsest.samplers.convert import x0_from_eps
from palimpsest.samplers.guidance import Denoiser
from palimpsest.samplers.schedule import Schedule

Velocity = Callable[[Tensor, float], Tensor]  # (X_s, s) -> u, both (b c y x)


# ---- the change of variables ----


def flow_time(sched: Schedule, t: float) -> float:
    """s = σ/(1 + σ) of the time t, in [0, 1): how far along the line from picture to noise. # Eq. (23)"""
    sigma = sched.sigma(t)
    return sigma / (1 + sigma)


def time_of_flow(sched: Schedule, s: float) -> float:
    """The real time t with flow_time(t) = s: the inverse of `flow_time`.

    Raises ArgumentError for s outside [0, s_T], s_T = flow_time(T) < 1.
    """
    top = flow_time(sched, sched.T)
    if not 0 <= s <= top * (1 + 1e-12):
        raise ArgumentError("s", f"must lie in [0, {top:.6g}], the flow times of this schedule, got {s}")
    return sched.t_of_sigma(min(s / (1 - s), sched.sigma(sched.T)))


def to_flow(sched: Schedule, x_t: Tensor, t: float) -> Tensor:
    """X_s = (1 − s) x_t/√ᾱ_t: a VP state of time t on the straight line. # Eq. (23)"""
    return (1 - flow_time(sched, t)) / sched.at(t) ** 0.5 * x_t


def from_flow(sched: Schedule, X: Tensor, t: float) -> Tensor:
    """x_t = √ᾱ_t X_s/(1 − s): a state on the straight line at s = flow_time(t) as a VP state."""
    return sched.at(t) ** 0.5 / (1 - flow_time(sched, t)) * X


def line(x_0: Tensor, s: float, eps: Tensor) -> Tensor:
    """X_s = (1 − s) x_0 + s ε, the counterpart of `q_sample`. # Eq. (23)"""
    return (1 - s) * x_0 + s * eps


def velocity(denoiser: Denoiser, sched: Schedule) -> Velocity:
    """(X_s, s) -> u = ε̂ − x̂_0 from any denoiser (x_t, t) -> ε̂. # Eq. (24)

    The network is asked at the VP state and the time of X_s; it is the same network as ever.
    """

    def u(X: Tensor, s: float) -> Tensor:
        t = time_of_flow(sched, s)
        x_t = from_flow(sched, X, t)
        eps = denoiser(x_t, t)
        return eps - x0_from_eps(sched, x_t, t, eps)

    return u


# ---- steps ----


def euler_step(u: Velocity, X: Tensor, s: float, r: float) -> Tensor:
    """X_r = X_s + (r − s) u(X_s, s): one evaluation, of first order; r < s denoises. # Eq. (25)"""
    return X + (r - s) * u(X, s)


def heun_step(u: Velocity, X: Tensor, s: float, r: float) -> Tensor:
    """An Euler step, corrected by the velocity where it arrives: two evaluations, of second order.

    X' = X_s + (r − s) u(X_s, s);  X_r = X_s + (r − s) (u(X_s, s) + u(X', r))/2. The step to r = 0 is
    Euler's: a clean picture holds no noise to predict (as in arXiv:2206.00364v2, Alg. 1).
    """
    here = u(X, s)
    if r == 0:
        return X + (r - s) * here
    return X + (r - s) / 2 * (here + u(X + (r - s) * here, r))


FlowStep = Callable[[Velocity, Tensor, float, float], Tensor]


def flow_walk(u: Velocity, X: Tensor, times: Sequence[float], step: FlowStep = euler_step) -> list[Tensor]:
    """The walk from X, which stands at times[0], along the flow times: path[n] is the state at times[n]."""
    path = [X]
    for s, r in pairwise(times):
        path.append(step(u, path[-1], s, r))
    return path


def flow_times(steps: int, start: float, end: float = 0.0) -> list[float]:
    """steps + 1 evenly spaced flow times from `start` down (or up) to `end`; both in [0, 1]."""
    for name, value in (("start", start), ("end", end)):
        if not 0 <= value <= 1:
            raise ArgumentError(name, f"must lie in [0, 1], got {value}")
    if steps < 1:
        raise ArgumentError("steps", f"must be at least 1, got {steps}")
    before = [start + (end - start) * n / steps for n in range(steps)]
    return [*before, float(end)]  # `end` itself, without rounding
