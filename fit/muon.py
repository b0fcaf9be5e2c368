"""Muon: the momentum of a matrix, brought near the nearest orthogonal matrix before it is followed.

Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024,
kellerjordan.github.io/posts/muon); "Muon is Scalable for LLM Training", arXiv:2502.16982v1, Sec. 2.1.
Written by hand since torch has it from 2.9 on, for matrices alone.

    m ← m + (1 − μ) (g − m)                          # momentum
    o ← Newton-Schulz(g + μ (m − g))                  # Nesterov's look ahead; singular values come near 1
    W ← (1 − η λ) W − η max(1, rows / columns)^½ o

It is for the linear maps and convolutions of a net, whose kernels are matrices of (out, in · k · k).
Norms, biases, tables of tokens and places stay with AdamW.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

from palimpsest.processor import cpu_has_bfloat16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the odd polynomial of degree 5, chosen to rise steeply at 0
ROUNDS = 5


def matrices(net: nn.Module) -> list[nn.Parameter]:
    """The weights that Muon is for: those of trained linear maps and convolutions with more than one row
    and column.
    """
    found = {
        id(m.weight): m.weight
        for m in net.modules()
        if isinstance(m, (nn.Linear, nn.Conv2d)) and m.weight.requires_grad
    }
    return [w for w in found.values() if min(w.flatten(1).shape) > 1]


def orthogonalised(g: Tensor) -> Tensor:
    """Near U Vᵀ of each g = U S Vᵀ, singular values between .7 and 1.2: (n a b) -> (n a b), in bfloat16,
    or in float32 on a processor without units for that."""
    a, b, c = COEFFICIENTS
    tall = g.shape[1] > g.shape[2]
    dtype = torch.bfloat16 if g.device.type != "cpu" or cpu_has_bfloat16() else torch.float32
    x = (g.mT if tall else g).to(dtype)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # then no singular value exceeds 1
    for _ in range(ROUNDS):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """As above, for parameters of two axes or more; weights of one shape are treated in one batch."""

    def __init__(
        self, params: list[nn.Parameter], lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, momentum=momentum))

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[tuple(p.shape)].append(p)
            for some in alike.values():
                self._follow(some, group)

    def _follow(self, some: list[Tensor], group: dict) -> None:
        lr, mu = group["lr"], group["momentum"]
        grads = [p.grad for p in some]
        before = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in some]
        torch._foreach_lerp_(before, grads, 1 - mu)
        ahead = torch._foreach_lerp(grads, before, mu)
        turned = orthogonalised(torch.stack([g.flatten(1) for g in ahead]))
        torch._foreach_mul_(some, 1 - lr * group["weight_decay"])
        scale = lr * max(1.0, turned.shape[1] / turned.shape[2]) ** 0.5
        torch._foreach_add_(some, [o.reshape(p.shape).to(p) for o, p in zip(turned, some)], alpha=-scale)
