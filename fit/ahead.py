"""The data of a step: drawn from a generator of its own, ahead of time if other processes help, and moved."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

PATIENCE = (
    300  # seconds to wait for another process: one that died, or whose data cannot be sent, never answers
)


def step_generator(seed: int, step: int, rank: int = 0) -> Generator:
    """A CPU generator that depends on its arguments alone. SeedSequence mixes them: no two are related.

    It takes no negative numbers: of those, and of seeds beyond 63 bits, the SHA-256 is taken."""
    if not 0 <= seed < 2**63:
        seed = int.from_bytes(hashlib.sha256(str(seed).encode()).digest(), "big")
    return Generator().manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0]))


def generator_at(state: Tensor) -> Generator:
    """A CPU generator that goes on from the state of another (`Generator.get_state`)."""
    generator = Generator()
    generator.set_state(state)
    return generator


def moved(data: Any, device: torch.device) -> Any:
    """The tensors in tuples, lists and dicts on the device; whatever else is in them stays."""
    if isinstance(data, Tensor):
        return data.to(device, non_blocking=True)
    if isinstance(data, dict):
        return {name: moved(value, device) for name, value in data.items()}
    if isinstance(data, (tuple, list)):
        found = [moved(value, device) for value in data]
        return data._make(found) if hasattr(data, "_make") else type(data)(found)
    return data


def ahead(
    draw: Callable[[int], Any], numbers: Sequence[int], workers: int, pin: bool = False
) -> Iterator[Any]:
    """draw(n) of each number, in their order: drawn when it is asked for, or ahead by forked processes.

    draw must depend on nothing but n and must not touch a GPU. workers: how many processes, 0 for none.
    pin: put tensors into page-locked memory, from which a GPU fetches them while it computes.
    """
    if not workers:
        return map(draw, numbers)
    loader = DataLoader(
        _Drawn(draw),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=4,
        pin_memory=pin,
        collate_fn=_as_it_is,
        multiprocessing_context="fork",
        generator=Generator(),
        timeout=PATIENCE,
    )
    return map(_or_raise, loader)


class _Drawn(Dataset):
    """`draw` as DataLoader wants it. A ValueError comes back as a value, as DataLoader would rewrite it."""

    def __init__(self, draw: Callable[[int], Any]):
        self.draw = draw

    def __getitem__(self, n: int) -> Any:
        try:
            return self.draw(n)
        except ValueError as error:
            return error


def _as_it_is(drawn: Any) -> Any:
    return drawn


def _or_raise(drawn: Any) -> Any:
    if isinstance(drawn, ValueError):
        raise drawn
    return drawn
