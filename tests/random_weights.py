"""What the tests of the nets share: random weights that leave no layer silent, and how far two answers
are apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


def randomised(net: Net, seed: int = 0) -> Net:
    """`net` with every parameter drawn anew, so that zero-initialised layers take part and activations
    stay near 1.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in net.named_parameters():
            noise = torch.randn(p.shape, generator=rng)
            if p.ndim < 2:
                p.copy_(0.1 * noise + ("norm" in name and name.endswith("weight")))
            else:
                p.copy_(noise / p[0].numel() ** 0.5)
    return net


def transplant(source: nn.Module, target: Net, rename: Callable[[str], str]) -> Net:
    """`target` with the weights of `source`; every key must find its place."""
    target.load_state_dict({rename(key): value for key, value in source.state_dict().items()}, strict=True)
    return target


def normal(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def census(net: nn.Module) -> tuple[int, int]:
    """(how many parameters, in how many tensors)"""
    return sum(p.numel() for p in net.parameters()), len(list(net.parameters()))


def silent_parameters(net: nn.Module, loss: Tensor) -> list[str]:
    """The parameters that the loss does not depend on, once differentiated."""
    loss.backward()
    return [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
