"""Learned variances: where each variance of a step lies between its two bounds, and the loss that trains it.

"Improved Denoising Diffusion Probabilistic Models", arXiv:2102.09672v1, Sec. 3.1; used by ADM
(arXiv:2105.05233v4) and GLIDE (arXiv:2112.10741v3). After its prediction such a network says as many
channels again, v, about −1 … 1:

    log Σ_θ = f log β_t + (1 − f) log β̃_t,      f = (v + 1)/2                               (Eq. 15)
    L_hybrid = L_simple + λ L_vlb,               L_vlb = Σ_t L_t,  λ = .001                  (Eq. 16)

L_vlb trains Σ_θ alone: the mean is held fixed in it (Sec. 3.1), and only L_simple trains the mean. (This v is
no velocity; a network may predict a velocity first and then this v.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from palimpsest.samplers.convert import eps_from_output, q_sample, target_of, x0_from_eps
from palimpsest.samplers.ddpm import beta_stride, beta_tilde
from palimpsest.samplers.schedule import Schedule

BIN = 1 / 255  # half the distance of two grey levels of an 8-bit picture in [−1, 1]


def log_bounds(sched: Schedule, t: float, s: float, before: float | None = None) -> tuple[float, float]:
    """(log β̃, log β) of the step t → s: the variance of the true reverse step lies between them.

    β̃ = 0 at s = 0. As the official code does, the β̃ of the step before, `before` → t, stands in for it
    there (t + 1 unless given)."""
    if s == 0:
        after = min(t + 1, sched.T) if before is None else before
        low = beta_tilde(sched, after, t) if after > t else beta_stride(sched, t, s)
    else:
        low = beta_tilde(sched, t, s)
    return math.log(low), math.log(beta_stride(sched, t, s))


def learned_variance(sched: Schedule, v: Tensor, t: float, s: float, before: float | None = None) -> Tensor:
    """Σ_θ of the step t → s for each pixel, from the network's v (b c y x). # Improved DDPM Eq. (15)

    The bounds are those of the step that is taken, however long it is. f is not clamped: the network may
    leave them.
    """
    low, high = log_bounds(sched, t, s, before)
    f = (v + 1) / 2
    return (f * high + (1 - f) * low).exp()


def l_hybrid(
    model: Callable[[Tensor, Tensor], Tensor],
    sched: Schedule,
    x_0: Tensor,
    t: Tensor,
    eps: Tensor,
    prediction: str = "eps",
    weight: float = 1e-3,
) -> tuple[Tensor, Tensor]:
    """(L_simple + λ L_vlb, L_vlb): two scalars, the first to minimise. # Improved DDPM Eq. (16)

    model(x_t, t) -> [prediction, v] (b 2c y x); x_0 in [−1, 1], best rounded to 8 bits, and eps ~ N(0,
    I): (b c y x); t: (b,), whole, 1 … T, drawn evenly if L_vlb is to be the bound itself. weight: λ.
    L_vlb = T E[L_t], in bits per dimension.

    unstated: the unit of L_t in Eq. (16). The official code takes bits. It leaves the factor T out, too,
    unless one asks for it by "rescale_learned_sigmas"; with T = 1000 and λ = .001 the factor makes the
    weight of one L_t equal to 1, as without."""
    x_t = q_sample(sched, x_0, t, eps)
    out, v = model(x_t, t).chunk(2, dim=1)
    target = target_of(sched, x_0, t, eps, prediction)
    simple = F.mse_loss(out, target)  # Eq. (5)
    mean_held = eps_from_output(sched, x_t, t, out, prediction).detach()
    vlb = sched.T * l_vlb(sched, x_0, x_t, t, mean_held, v).mean()
    return simple + weight * vlb, vlb


def l_vlb(sched: Schedule, x_0: Tensor, x_t: Tensor, t: Tensor, eps: Tensor, v: Tensor) -> Tensor:
    """L_{t−1} of each picture (b,), in bits per dimension. # DDPM Eq. (5), Improved DDPM Eqs. (4)–(6)

    KL(q(x_{t−1} | x_t, x_0) ‖ N(μ_θ, Σ_θ)), μ_θ from eps and Σ_θ from v; for t = 1 the code length −log
    p(x_0 | x_1) of an 8-bit picture (DDPM, Eq. 13). x_0, x_t, eps, v: (b c y x); t: (b,), whole, 1 … T.
    """
    low, high, share = (rearrange(column, "b -> b 1 1 1").to(x_t) for column in _terms(sched)[:, t.cpu()])
    f = (v + 1) / 2
    log_var = f * high + (1 - f) * low
    # μ̃ − μ_θ: both means are the same mixture with x_t
    off = share * (x_0 - x0_from_eps(sched, x_t, t, eps))
    kl = 0.5 * (log_var - low - 1 + (low - log_var).exp() + off**2 * (-log_var).exp())
    first = rearrange(t == 1, "b -> b 1 1 1").to(x_t.device)
    nats = torch.where(first, code_length(x_0, x_0 - off, log_var), kl)
    return nats.mean(dim=(1, 2, 3)) / math.log(2)


@lru_cache(maxsize=8)
def _terms(sched: Schedule) -> Tensor:
    """log β̃_t, log β_t and the weight of x_0 in the mean of q(x_{t−1} | x_t, x_0): (3 T+1), NaN at t = 0."""
    rows = [(math.nan,) * 3]
    for t in range(1, sched.T + 1):
        a_t, a_s = sched.at(t), sched.at(t - 1)
        rows.append((*log_bounds(sched, t, t - 1), a_s**0.5 * (1 - a_t / a_s) / (1 - a_t)))
    return torch.tensor(rows, dtype=torch.float64).T


def code_length(x_0: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """−log P(x_0) in nats under N(mean, exp(log_var)), cut into 256 levels of [−1, 1]. # DDPM Eq. (13)

    The outermost two levels take the tails. All (b c y x).
    """
    off, inverse = (x_0 - mean).double(), (-0.5 * log_var).double().exp()
    above, below = torch.special.ndtr((off + BIN) * inverse), torch.special.ndtr((off - BIN) * inverse)
    p = torch.where(x_0 < -1 + BIN, above, torch.where(x_0 > 1 - BIN, 1 - below, above - below))
    return -p.clamp(min=1e-12).log().to(x_0)
