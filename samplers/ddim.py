"""DDIM: one function for sampling and for inversion. Denoising Diffusion Implicit Models, arXiv:2010.02502v4.

A step takes the noise that the network sees in x_t to be the noise at the next level too. Written with both
times, t → s, the same line denoises (s < t) and inverts (s > t); with the *same* ε the two undo each other
exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor

from palimpsest.arguments import ArgumentError, Rounds, check
from palimpsest.samplers.guidance import Denoiser
from palimpsest.samplers.schedule import Schedule


def ddim_step(
    sched: Schedule,
    x_t: Tensor,
    eps: Tensor,
    t: float,
    s: float,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """One step x_t → x_s. # Eq. (10) = Eq. (17); walked upward, s > t, it is Eq. (19)

    As printed (arXiv:2010.02502v4, Eq. 12), the predicted x_0, the direction pointing to x_t, and noise:

        x_s = √ᾱ_s x̂_0 + √(1−ᾱ_s−σ²) ε + σ noise
        x̂_0 = (x_t − √(1−ᾱ_t) ε)/√ᾱ_t
        σ   = eta √((1−ᾱ_s)/(1−ᾱ_t)) √(1 − ᾱ_t/ᾱ_s)                                              (Eq. 16)

    As computed, with both terms in ε gathered and scale = √(ᾱ_s/ᾱ_t):

        x_s = scale x_t + (√(1−ᾱ_s−σ²) − scale √(1−ᾱ_t)) ε + σ noise

    At eta = 0 that is Eq. (17), whose bracket needs the factor √ᾱ_s that is missing in print. Written so, s
    = t returns x_t itself, and where ᾱ_t ≈ 0 no huge x̂_0 appears only to cancel. What remains there is the
    network's own error, multiplied by √(ᾱ_s/ᾱ_t) (20 000-fold for a cosine schedule walked T → 0 in one go):
    start an ε-network a little below T, or train on v.

    x_t, eps, noise: (b c y x), any dtype. t, s: in [0, T]. eta: 0 is deterministic, 1 is ancestral DDPM on
    the same times. eps is ε_θ(x_t, t) when sampling; for inversion, papers and programs differ about the
    time that the network is told, so the caller chooses. Raises ArgumentError for eta outside [0, 1], for
    eta > 0 upward (noise cannot be taken away again), and for eta > 0 without noise.
    """
    if not 0 <= eta <= 1:
        raise ArgumentError(
            "eta", f"must lie in [0, 1] (0 deterministic DDIM, 1 ancestral DDPM), got {eta!r}"
        )
    a_t, a_s = sched.at(t), sched.at(s)
    var = 0.0
    if eta > 0:
        if not s < t:
            raise ArgumentError(
                "eta", f"must be 0 when walking upward (t={t}, s={s}): noise cannot be taken away again"
            )
        if noise is None:
            raise ArgumentError("noise", "is missing: eta > 0 is random; give N(0, I) shaped as x_t")
        var = eta**2 * (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)
    scale = (a_s / a_t) ** 0.5
    direction = (1 - a_s - var) ** 0.5 - scale * (1 - a_t) ** 0.5
    x_s = scale * x_t + direction * eps  # Eq. (10), Eq. (17), Eq. (19)
    return x_s if var == 0 else x_s + var**0.5 * noise


def sample(eps: Denoiser, sched: Schedule, x_t: Tensor, times: Sequence[float]) -> list[Tensor]:
    """The deterministic walk down from x_t at times[0]: path[n] is the state at times[n], path[0] is x_t.

    x_t: (b c y x). times: strictly falling, as `sched.times` gives them, else ArgumentError.
    """
    _check_falling(times)
    path = [x_t]
    for t, s in pairwise(times):
        path.append(ddim_step(sched, path[-1], eps(path[-1], t), t, s))  # Eq. (17)
    return path


def invert(
    eps: Denoiser,
    sched: Schedule,
    x_0: Tensor,
    times: Sequence[float],
    *,
    iterations: Rounds = 0,
    label: Literal["destination", "source"] = "destination",
) -> list[Tensor]:
    """DDIM inversion: the walk *up* from x_0, along the same times that `sample` walks down.

    path[n] is the state at times[n], as in `sample`: path[0] is the noisiest, path[-1] is x_0 itself. A step
    s → t needs ε at x_t, which is not known yet, and takes it at x_s instead. The network can then be told
    either time:

        label="destination"   ε_θ(x_s, t), as the official code: the step down will use (ᾱ_s, ᾱ_t, t), so
                              only the point is wrong. About twice as exact as the other; both of first order
        label="source"        ε_θ(x_s, s): Eq. (19) as printed

    iterations: k > 0 solves x_t = step(x_s, ε_θ(x_t, t)) by k rounds of fixed-point iteration, k more calls a
    step; where the network is smooth, `sample` then returns to x_0 the more closely the larger k is (cf.
    arXiv:2309.04907v4). Raises ArgumentError for another label, negative iterations, or times that do not
    fall strictly.
    """
    check(invert, locals())
    _check_falling(times)
    path = [x_0]
    for s, t in pairwise(reversed(times)):
        x_s = path[-1]
        x_t = ddim_step(sched, x_s, eps(x_s, t if label == "destination" else s), s, t)  # Eq. (19)
        for _ in range(iterations):
            x_t = ddim_step(sched, x_s, eps(x_t, t), s, t)
        path.append(x_t)
    return path[::-1]


def _check_falling(times: Sequence[float]) -> None:
    if len(times) < 2 or any(s >= t for t, s in pairwise(times)):
        raise ArgumentError(
            "times",
            f"must be at least two and fall strictly, as sched.times gives them, got {list(times)[:8]}",
        )
