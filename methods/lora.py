"""LoRA: a fine-tuning that fits in a small file, because each weight moves by a matrix of low rank.

"LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685v2, put on the attention of a diffusion model as everyone does it.

    W' = W + (α/r) B A,    A (r in) drawn, B (out r) zero at first           Sec. 4.1: r (in + out) numbers for in · out

    lora(net, rank=4)                 # in place: every to_q, to_k, to_v, to_out of attention gets its A and B; all else is frozen
    save_lora(net, "mine.safetensors")
    put_lora(other_net, "mine.safetensors"); merge(other_net)      # and it is an ordinary net again
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from weights.files import WeightsError, read_weights, write_weights

PLACES = ("to_q", "to_k", "to_v", "to_out")


class LoRALinear(nn.Module):
    """x W'ᵀ + b with W' = W + (α/r) B A, (… in) -> (… out). # Sec. 4.1 Eq. (3)

    linear: the map that is adapted, frozen; rank: r; alpha: α, None for r, which makes the factor 1; generator: draws A.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float | None = None, generator: Generator | None = None):
        super().__init__()
        if not 1 <= rank <= min(linear.in_features, linear.out_features):
            raise ValueError(f"rank: must lie in 1 … {min(linear.in_features, linear.out_features)} for a map of {linear.in_features} to "
                             f"{linear.out_features}, got {rank}")
        self.linear, self.factor = linear.requires_grad_(False), (alpha or rank) / rank
        drawn = torch.randn((rank, linear.in_features), generator=generator or Generator().manual_seed(0))
        self.a = nn.Parameter((drawn / math.sqrt(linear.in_features)).to(linear.weight))   # unstated: the paper says Gaussian, no width
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank).to(linear.weight))    # Sec. 4.1: so that ΔW begins as zero

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.factor * F.linear(F.linear(x, self.a), self.b)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The map with W' for W: as fast as before. # Sec. 4.1, "no additional inference latency" """
        self.linear.weight += self.factor * self.b @ self.a
        return self.linear


def places(net: nn.Module, kind: type[nn.Module] = nn.Linear) -> Iterator[tuple[str, nn.Module, str]]:
    """(full name, parent, name) of every map of the net's attention that is of this kind."""
    for prefix, module in net.named_modules():
        for name in PLACES:
            if isinstance(getattr(module, name, None), kind):
                yield f"{prefix}.{name}" if prefix else name, module, name


def lora(net: nn.Module, rank: int = 4, alpha: float | None = None, seed: int = 0) -> nn.Module:
    """Freeze the net and give each map of its attention an A and a B to learn; the net itself comes back, and says what it said.

    Raises ValueError for a rank that does not fit, and a net without attention or with LoRA already.
    """
    if any(True for _ in places(net, LoRALinear)):
        raise ValueError("net: has LoRA already; merge it first")
    found = list(places(net))
    if not found:
        raise ValueError(f"net: no map of it is called {', '.join(PLACES)}; LoRA has no place")
    net.requires_grad_(False)
    generator = Generator().manual_seed(seed)
    for _, parent, name in found:
        setattr(parent, name, LoRALinear(getattr(parent, name), rank, alpha, generator))   # Sec. 4.2: on attention
    return net


def merge(net: nn.Module) -> nn.Module:
    """Put every W' in the place of its W; the net itself comes back, an ordinary one."""
    for _, parent, name in list(places(net, LoRALinear)):
        setattr(parent, name, getattr(parent, name).merged())
    return net


def save_lora(net: nn.Module, path: str | Path) -> Path:
    """Write every A and B, and nothing else. Raises ValueError for a net without any."""
    found = {full: getattr(parent, name) for full, parent, name in places(net, LoRALinear)}
    if not found:
        raise ValueError("net: has no LoRA to save")
    module = nn.ModuleDict({full.replace(".", "/"): nn.ParameterDict({"a": m.a, "b": m.b}) for full, m in found.items()})
    one = next(iter(found.values()))
    config = dict(kind="lora", rank=len(one.a), alpha=one.factor * len(one.a))
    return write_weights(path, {"lora": module}, config, torch.float32)


def put_lora(net: nn.Module, path: str | Path) -> nn.Module:
    """Give a net the A and B of a file; it comes back. Raises WeightsError for a file that is none, or of another net."""
    config, tensors = read_weights(path)
    if config.get("kind") != "lora":
        raise WeightsError(f"lora: {path} holds a {config.get('kind')} model, and a lora is needed here")
    lora(net, config["rank"], config["alpha"])
    mine = {full: getattr(parent, name) for full, parent, name in places(net, LoRALinear)}
    want = {f"lora.{full.replace('.', '/')}.{half}": getattr(m, half) for full, m in mine.items() for half in ("a", "b")}
    if want.keys() != tensors.keys() or any(want[k].shape != tensors[k].shape for k in want):
        raise WeightsError(f"lora: {path} was made for another net ({len(tensors)} matrices, and this one has {len(want)})")
    with torch.no_grad():
        for key, parameter in want.items():
            parameter.copy_(tensors[key])
    return net
