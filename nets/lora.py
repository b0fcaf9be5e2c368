"""Low-rank adaptation of linear maps: "LoRA: Low-Rank Adaptation of Large Language Models",
arXiv:2106.09685v2, Sec. 4.1.

    h = W_0 x + (α/r) B A x                                                        Eq. (3) of the paper
    A (r × in) is random and B (out × r) zero: at the start nothing is changed.

A map of in × out weights is moved by r (in + out) numbers. Merged, W = W_0 + (α/r) B A, it costs nothing
more to run.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from palimpsest.arguments import ArgumentError
from palimpsest.nets.attention import Attention
from palimpsest.nets.fast_cpu import Linear

MAPS = ("to_q", "to_k", "to_v", "to_out")


class LoraLinear(nn.Module):
    """A frozen linear map and its low-rank change: (… in) -> (… out).

    Raises ArgumentError for a rank that does not fit the map.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        super().__init__()
        if not 1 <= rank <= min(base.in_features, base.out_features):
            raise ArgumentError(
                "rank",
                f"must lie in 1 … {min(base.in_features, base.out_features)} for a map of "
                f"{base.in_features} × {base.out_features}, got {rank}",
            )
        self.base = base.requires_grad_(False)
        self.rank, self.alpha = rank, alpha
        self.down = nn.Parameter(base.weight.new_zeros(rank, base.in_features))  # A
        self.up = nn.Parameter(base.weight.new_zeros(base.out_features, rank))  # B

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * (x @ self.down.mT) @ self.up.mT

    @torch.no_grad()
    def merged(self) -> Linear:
        """One linear map that gives the same."""
        out = Linear(self.base.in_features, self.base.out_features, bias=self.base.bias is not None).to(
            self.base.weight
        )
        out.weight.copy_(self.base.weight + self.scale * self.up @ self.down)
        if self.base.bias is not None:
            out.bias.copy_(self.base.bias)
        return out.requires_grad_(False)


def adapt(net: nn.Module, rank: int, alpha: float, generator: Generator | None = None) -> list[str]:
    """Give every attention's four linear maps a low-rank change, in place; the names of the maps, in order.

    generator: A is drawn from it, N(0, 1/in); None leaves A at zero, to be filled from a file.
    # unstated: the paper says Gaussian, and its program takes Kaiming's uniform

    Raises ArgumentError for a rank that does not fit, and for a net without such maps.
    """
    names = []
    for name, module in list(net.named_modules()):
        if isinstance(module, Attention):
            for part in MAPS:
                changed = LoraLinear(getattr(module, part), rank, alpha)
                if generator is not None:
                    noise = torch.randn(changed.down.shape, generator=generator)
                    changed.down.data.copy_(noise * changed.base.in_features**-0.5)
                setattr(module, part, changed)
                names.append(f"{name}.{part}")
    if not names:
        raise ArgumentError(
            "rank",
            f"this {type(net).__name__} has no attention whose maps LoRA could change; take rank=0, all "
            "weights",
        )
    return names


def adapted(net: nn.Module) -> dict[str, LoraLinear]:
    """The changed maps of a net, by name."""
    return {name: module for name, module in net.named_modules() if isinstance(module, LoraLinear)}


def merge(net: nn.Module) -> nn.Module:
    """Put every low-rank change into its map, in place; returns the net, whose maps are plain ones again."""
    for name, module in adapted(net).items():
        owner, _, part = name.rpartition(".")
        setattr(net.get_submodule(owner), part, module.merged())
    return net
