"""DDIM: one function for sampling and for inversion. Denoising Diffusion Implicit Models, arXiv:2010.02502v4.

The noise that a network sees in x_t is taken to be the noise at every other level too. Written with both
times, t → s, the same line denoises (s < t) and inverts (s > t); with the *same* ε the two undo each
other exactly."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

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

        x_s = √ᾱ_s x̂_0 + √(1−ᾱ_s−σ²) ε + σ noise,     x̂_0 = (x_t − √(1−ᾱ_t) ε)/√ᾱ_t
        σ = eta √((1−ᾱ_s)/(1−ᾱ_t)) √(1 − ᾱ_t/ᾱ_s)                            (arXiv:2010.02502v4, Eqs. 12, 16)

    eta = 0 is deterministic; eta = 1 is ancestral DDPM on the same times. Both terms in ε are gathered
    into one coefficient, a Python float: at eta = 0 that is Eq. (17), whose bracket needs the √ᾱ_s in
    front that print lost. Gathered, s = t returns x_t itself, and no huge x̂_0 appears and cancels where
    ᾱ_t ≈ 0. What remains there is the network's own error, multiplied by √(ᾱ_s/ᾱ_t) (20 000-fold for a
    cosine schedule walked T → 0 in one go): start an ε-network a little below T, or train on v.

    x_t, eps, noise: (b c y x), any dtype; t, s in [0, T]. eps is ε_θ(x_t, t) when sampling; for
    inversion, papers and codes differ about the time fed to the network, so that choice is the caller's.
    Raises ValueError for eta outside [0, 1], eta > 0 upward (noise cannot be un-added), or eta > 0
    without noise."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1] (0 deterministic DDIM, 1 ancestral DDPM), got {eta!r}")
    a_t, a_s = sched.at(t), sched.at(s)
    var = 0.0
    if eta > 0:
        if not s < t:
            raise ValueError(f"eta must be 0 when walking upward (t={t}, s={s}): noise cannot be un-added")
        if noise is None:
            raise ValueError("noise is missing: eta > 0 is random; give N(0, I) shaped as x_t")
        var = eta**2 * (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)
    keep = (a_s / a_t) ** 0.5
    x_s = (
        keep * x_t + ((1 - a_s - var) ** 0.5 - keep * (1 - a_t) ** 0.5) * eps
    )  # Eq. (10), Eq. (17), Eq. (19)
    return x_s if var == 0 else x_s + var**0.5 * noise


def sample(eps: Denoiser, sched: Schedule, x_t: Tensor, times: Sequence[float]) -> list[Tensor]:
    """The deterministic walk down from x_t, which stands at times[0]: path[n] is the state at times[n],
    path[0] is x_t.

    times fall strictly, as `sched.times` gives them. x_t: (b c y x).
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
    iterations: int = 0,
    label: str = "destination",
) -> list[Tensor]:
    """DDIM inversion: the walk *up* from x_0, along the very times that `sample` would walk down.

    path[n] is the state at times[n], whichever way it was walked: path[0] the noisiest, path[-1] is x_0
    itself. A step s → t wants ε at the unknown x_t and has to ask it at x_s. What time to tell the
    network is then a choice:

        label="destination"   ε_θ(x_s, t): the step down will use (ᾱ_s, ᾱ_t, t), so only the point is wrong. About twice
                              as exact as the other, both of first order in the step      official code: this one
        label="source"        ε_θ(x_s, s): Eq. (19) as printed

    iterations: k > 0 then solves x_t = step(x_s, ε_θ(x_t, t)) by k rounds of fixed-point iteration (k
    calls more a step); where the network is smooth, `sample` then returns to x_0 as closely as k allows
    (cf. arXiv:2309.04907v4). Raises ValueError for another label, negative iterations, or times that do
    not fall strictly."""
    _check_falling(times)
    if label not in ("destination", "source"):
        raise ValueError(f"label: must be destination or source, got {label!r}")
    if iterations < 0:
        raise ValueError(f"iterations: must be 0 (plain DDIM inversion) or more, got {iterations}")
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
        raise ValueError(
            f"times: must be at least two and fall strictly, as sched.times gives them, got {list(times)[:8]}"
        )
