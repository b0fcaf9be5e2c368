"""DDIM: one function for sampling and for inversion. Denoising Diffusion Implicit Models, arXiv:2010.02502v4.

The noise that a network sees in x_t is taken to be the noise at every other level too. Written with both times, t → s,
the same line denoises (s < t) and inverts (s > t); with the *same* ε the two undo each other exactly.
"""
from __future__ import annotations

from torch import Tensor

from samplers.schedule import Schedule


def ddim_step(sched: Schedule, x_t: Tensor, eps: Tensor, t: float, s: float, eta: float = 0.0,
              noise: Tensor | None = None) -> Tensor:
    """One step x_t → x_s. # Eq. (10) = Eq. (17); walked upward, s > t, it is Eq. (19)

        x_s = √ᾱ_s x̂_0 + √(1−ᾱ_s−σ²) ε + σ noise,     x̂_0 = (x_t − √(1−ᾱ_t) ε)/√ᾱ_t
        σ = eta √((1−ᾱ_s)/(1−ᾱ_t)) √(1 − ᾱ_t/ᾱ_s)                            (arXiv:2010.02502v4, Eqs. 12, 16)

    eta = 0 is deterministic; eta = 1 is ancestral DDPM on the same times. Both terms in ε are gathered into one
    coefficient, a Python float: at eta = 0 that is Eq. (17), whose bracket needs the √ᾱ_s in front that print lost.
    Gathered, s = t returns x_t itself, and no huge x̂_0 appears and cancels where ᾱ_t ≈ 0. What remains there is the
    network's own error, multiplied by √(ᾱ_s/ᾱ_t) (20 000-fold for a cosine schedule walked T → 0 in one go): start an
    ε-network a little below T, or train on v.

    x_t, eps, noise: (b c y x), any dtype; t, s in [0, T]. eps is ε_θ(x_t, t) when sampling; for inversion, papers and
    codes differ about the time fed to the network, so that choice is the caller's.
    Raises ValueError for eta outside [0, 1], eta > 0 upward (noise cannot be un-added), or eta > 0 without noise.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1] (0 deterministic DDIM, 1 ancestral DDPM), got {eta!r}")
    a_t, a_s = sched.at(t), sched.at(s)
    var = 0.0
    if eta > 0:
        if not s < t:
            raise ValueError(f"eta must be 0 when walking upward (t={t}, s={s}): noise cannot be un-added")
        if noise is None:
            raise ValueError("noise is missing: eta > 0 is random; give N(0, I) shaped as x_t")
        var = eta ** 2 * (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)
    keep = (a_s / a_t) ** 0.5
    x_s = keep * x_t + ((1 - a_s - var) ** 0.5 - keep * (1 - a_t) ** 0.5) * eps     # Eq. (10), Eq. (17), Eq. (19)
    return x_s if var == 0 else x_s + var ** 0.5 * noise
