"""Self-distillation: what DINO adds to a vision transformer while it learns, and what it must do so as not to collapse.

"Emerging Properties in Self-Supervised Vision Transformers", arXiv:2104.14294v2, Sec. 3.1. No labels: a student is to say of one view of
a picture what a teacher says of another, and the teacher is the student's own moving average.

    P(x) = softmax(g(x) / τ)                                                    of k prototypes              Eq. (1)
    loss = Σ over global views x, over all views x′ ≠ x, of H(P_t(x), P_s(x′))  H(a, b) = −a log b           Eq. (3)
    θ_t ← λ θ_t + (1 − λ) θ_s                                                   λ from .996 to 1, a cosine
    c ← m c + (1 − m) mean of g_t over the batch                                the centre                   Eq. (4)

Two ways to agree on everything and say nothing: one prototype for every picture, or all prototypes equally for every picture. Taking the
centre off the teacher's scores forbids the first and invites the second; a low temperature τ_t, sharpening, does the opposite. Both
together keep the balance (Sec. 5.3); `entropies` shows whether they do.

Letters: v views, b batch, k prototypes, d width.
"""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor, nn

from nets.layers import Linear

TAU_S = .1                                       # the student's temperature


class DINOHead(nn.Module):
    """cls (b d) -> the cosine with each prototype (b k), through three linear maps and a narrow, normalised vector. # Appendix C

    The prototypes have length 1, too: official code: so by default for large nets ("norm_last_layer"), for then training is stable.
    """

    def __init__(self, *, width: int = 384, hidden: int = 2048, narrow: int = 256, prototypes: int = 65536):
        super().__init__()
        self.maps = nn.Sequential(Linear(width, hidden), nn.GELU(), Linear(hidden, hidden), nn.GELU(), Linear(hidden, narrow))
        self.prototypes = nn.Parameter(torch.empty(prototypes, narrow))
        for module in self.maps:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=.02)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.prototypes)

    def forward(self, cls: Tensor) -> Tensor:
        z = F.normalize(self.maps(cls), dim=-1)
        return z @ F.normalize(self.prototypes, dim=-1).mT


def sharpened(scores: Tensor, centre: Tensor, tau: float) -> Tensor:
    """The teacher's P_t, (… k): its scores without the centre, at a low temperature. No gradient: the teacher is not taught. # Eq. (1)"""
    return ((scores.detach() - centre) / tau).softmax(dim=-1)


def dino_loss(student: Tensor, teacher: Tensor, centre: Tensor, tau_t: float, tau_s: float = TAU_S) -> Tensor:
    """Eq. (3) for scores of the student (v b k) and of the teacher (2 b k), whose views are the first of the student's: a scalar.

    A mean over the pairs and the batch, as in the official code; the paper writes a sum. A view is never compared with itself.
    """
    wanted, said = sharpened(teacher, centre, tau_t), (student / tau_s).log_softmax(dim=-1)     # Eq. (1)
    entropy = -torch.einsum("vbk,wbk->vw", wanted, said) / student.shape[1]                             # Eq. (2)
    others = ~torch.eye(*entropy.shape, dtype=torch.bool, device=entropy.device)
    return entropy[others].mean()                                                                       # Eq. (3)


def moved_centre(centre: Tensor, mean: Tensor, momentum: float = .9) -> Tensor:
    """The centre (k,) after a batch of which the teacher's scores had this mean, (k,). # Eq. (4)"""
    return momentum * centre + (1 - momentum) * mean


def teacher_momentum(step: int, steps: int, start: float = .996) -> float:
    """λ of the update after `step`: from `start` in the first to 1 in the last, along a cosine. # Sec. 3.1"""
    return 1 - (1 - start) * (1 + math.cos(math.pi * min(1., (step + 1) / steps))) / 2


def teacher_temperature(step: int, warm: int, low: float = .04, high: float = .07) -> float:
    """τ_t: from `low` to `high` in `warm` steps, along a line; then `high`. # Sec. 3.2"""
    return low + (high - low) * min(1., step / warm) if warm else high


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """θ_t ← λ θ_t + (1 − λ) θ_s, in place. # Sec. 3.1"""
    theirs, mine = list(teacher.parameters()), [p.to(q) for p, q in zip(student.parameters(), teacher.parameters(), strict=True)]
    torch._foreach_lerp_(theirs, mine, 1 - momentum)


def entropies(p: Tensor) -> tuple[float, float]:
    """How unsure each picture's P (b k) is, and how varied the pictures are: mean entropy and entropy of the mean, as shares of log k.

    Healthy is a small first and a large second. (1, 1) is the collapse to all prototypes alike, a second near 0 that to a single one;
    what tells pictures apart is the second less the first. # Sec. 5.3
    """
    def entropy(q: Tensor) -> Tensor:
        return -torch.special.xlogy(q, q).sum(dim=-1) / math.log(q.shape[-1])
    p = p.double()
    return float(entropy(p).mean()), float(entropy(reduce(p, "b k -> k", "mean")))
