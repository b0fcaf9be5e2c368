"""Self-distillation: what DINO adds to a vision transformer while it learns, and what it must do so as
not to collapse.

"Emerging Properties in Self-Supervised Vision Transformers", arXiv:2104.14294v2, Sec. 3.1. No labels: a
student is to say of one view of a picture what a teacher says of another, and the teacher is the
student's own moving average.

    P(x) = softmax(g(x) / τ)                                 of k prototypes                    Eq. (1)
    loss = Σ over global views x, over all views x′ ≠ x, of H(P_t(x), P_s(x′))                  Eq. (3)
    θ_t ← λ θ_t + (1 − λ) θ_s                                λ from .996 to 1, along a cosine
    c ← m c + (1 − m) mean of g_t over the batch             the centre                         Eq. (4)

with the cross-entropy H(a, b) = −a log b.

Two ways to agree on everything and say nothing: one prototype for every picture, or all prototypes
equally for every picture. Taking the centre off the teacher's scores forbids the first and invites the
second; a low temperature τ_t, sharpening, does the opposite. Both together keep the balance (Sec. 5.3);
`entropies` shows whether they do.

DINOv2, arXiv:2304.07193v2, Sec. 4, forbids both more firmly, which a short training needs: `balanced`
shares the prototypes of a batch out evenly, where the centre only leans that way, and `koleo` drives the
batch's vectors apart.

Letters: v views, b batch, k prototypes, d width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor, nn

from palimpsest.nets.fast_cpu import Linear

TAU_S = 0.1  # the student's temperature


class DINOHead(nn.Module):
    """cls (b d) -> the cosine with each prototype (b k), through three linear maps and a narrow, normalised
    vector.

    Appendix C. The prototypes have length 1, too. official code: so by default for large nets
    ("norm_last_layer"), since training is stable then."""

    def __init__(
        self,
        *,
        width: int = 384,  # d, of the class token
        hidden: int = 2048,  # of the linear maps; 0: no maps, the class token itself is compared (ours)
        narrow: int = 256,  # of the vector that is compared
        prototypes: int = 65536,  # k
    ):
        super().__init__()
        self.maps = (
            nn.Sequential(
                Linear(width, hidden), nn.GELU(), Linear(hidden, hidden), nn.GELU(), Linear(hidden, narrow)
            )
            if hidden
            else nn.Identity()
        )
        self.prototypes = nn.Parameter(torch.empty(prototypes, narrow if hidden else width))
        for module in self.maps.children():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.prototypes)

    def narrow(self, cls: Tensor) -> Tensor:
        """The vector of length 1 that prototypes are compared with: (b d) -> (b narrow)."""
        return F.normalize(self.maps(cls), dim=-1)

    def scores(self, z: Tensor) -> Tensor:
        """Its cosine with each prototype: (… narrow) -> (… k)."""
        return z @ F.normalize(self.prototypes, dim=-1).mT

    def forward(self, cls: Tensor) -> Tensor:
        return self.scores(self.narrow(cls))


def sharpened(scores: Tensor, centre: Tensor, tau: float) -> Tensor:
    """The teacher's P_t, (… k): its scores without the centre, at a low temperature. No gradient: the
    teacher is not taught. # Eq. (1)
    """
    return ((scores.detach() - centre) / tau).softmax(dim=-1)


@torch.no_grad()
def balanced(scores: Tensor, tau: float, rounds: int = 3) -> Tensor:
    """The teacher's P_t by Sinkhorn-Knopp, (b k): of exp(scores/τ), columns and rows are scaled in turn
    until every prototype has an equal share of the batch and every picture sums to 1. # SwAV,
    arXiv:2006.09882v5, Sec. 3.1; DINOv2, Sec. 4, in place of the centre

    Three rounds, as both papers have it; the last thing scaled are the pictures. Under torchrun each
    process balances its own batch."""
    log_p = scores.double() / tau  # as logarithms: nothing overflows, whatever τ is
    for _ in range(rounds):
        log_p = log_p - log_p.logsumexp(dim=0, keepdim=True)
        log_p = log_p - log_p.logsumexp(dim=1, keepdim=True)
    return log_p.exp().to(scores.dtype)


def koleo(z: Tensor) -> Tensor:
    """−mean log of the distance from each row of z (b d), of length 1, to the nearest other: least where
    rows lie evenly. # DINOv2, Sec. 4

    Kozachenko and Leonenko's estimate of entropy; the nearest picture of another subject is most often
    one that shares the ground."""
    with torch.no_grad():
        nearest = torch.cdist(z, z).fill_diagonal_(torch.inf).argmin(dim=1)
    return -((z - z[nearest]).norm(dim=1) + 1e-6).log().mean()


def dino_loss(student: Tensor, wanted: Tensor, tau_s: float = TAU_S) -> Tensor:
    """Eq. (3) for scores of the student (v b k) and P_t of the teacher (2 b k), whose views are the first
    of the student's: a scalar.

    A mean over the pairs and the batch, as in the official code; the paper writes a sum. A view is never
    compared with itself."""
    said = (student / tau_s).log_softmax(dim=-1)  # Eq. (1)
    entropy = -torch.einsum("vbk,wbk->vw", wanted, said) / student.shape[1]  # Eq. (2)
    others = ~torch.eye(*entropy.shape, dtype=torch.bool, device=entropy.device)
    return entropy[others].mean()  # Eq. (3)


def moved_centre(centre: Tensor, mean: Tensor, momentum: float = 0.9) -> Tensor:
    """The centre (k,) after a batch of which the teacher's scores had this mean, (k,). # Eq. (4)"""
    return momentum * centre + (1 - momentum) * mean


def teacher_momentum(step: int, steps: int, start: float = 0.996) -> float:
    """λ of the update after `step`: from `start` in the first to 1 in the last, along a cosine. # Sec. 3.1"""
    return 1 - (1 - start) * (1 + math.cos(math.pi * min(1.0, (step + 1) / steps))) / 2


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """θ_t ← λ θ_t + (1 − λ) θ_s, in place. # Sec. 3.1"""
    theirs, mine = (
        list(teacher.parameters()),
        [p.to(q) for p, q in zip(student.parameters(), teacher.parameters(), strict=True)],
    )
    torch._foreach_lerp_(theirs, mine, 1 - momentum)


def entropies(p: Tensor) -> tuple[float, float]:
    """How unsure each picture's P (b k) is, and how varied the pictures are: mean entropy and entropy of
    the mean, as shares of log k.

    Healthy is a small first and a large second. (1, 1) is the collapse to all prototypes alike, a second
    near 0 that to a single one; what tells pictures apart is the second less the first. # Sec. 5.3"""

    def entropy(q: Tensor) -> Tensor:
        return -torch.special.xlogy(q, q).sum(dim=-1) / math.log(q.shape[-1])

    p = p.double()
    return float(entropy(p).mean()), float(entropy(reduce(p, "b k -> k", "mean")))
