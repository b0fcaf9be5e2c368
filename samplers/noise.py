"""Noise: one generator for each picture, so that its batch and the device do not matter."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from numbers import Integral

import numpy as np
import torch
from torch import Generator, Tensor

from palimpsest.arguments import ArgumentError


class Rng:
    """One CPU torch.Generator per picture: its noise is the same in every batch and on every device.

        rng = Rng([7, 8, 9])                    # or Rng.of(7, 3)
        z = rng.randn((3, 4, 16, 16))           # z[1] == Rng([8]).randn((1, 4, 16, 16))[0]

    Any whole numbers are seeds, and different ones give different noise (`generator_of`). Raises
    ArgumentError for no seeds, or seeds that are not whole numbers.
    """

    def __init__(self, seeds: Iterable[int]):
        self.seeds = list(seeds)
        if not self.seeds or not all(isinstance(s, Integral) and not isinstance(s, bool) for s in self.seeds):
            raise ArgumentError("seeds", f"must be whole numbers, one per picture, got {self.seeds!r}")
        self.generators = [generator_of(int(s)) for s in self.seeds]

    @classmethod
    def of(cls, seed: int, n: int = 1) -> Rng:
        """n pictures with seeds seed, seed + 1, …, seed + n − 1."""
        return cls(range(seed, seed + n))

    def __len__(self) -> int:
        return len(self.seeds)

    def randn(self, shape: Iterable[int], like: Tensor | None = None) -> Tensor:
        """N(0, 1) of `shape`, shape[0] pictures, with the dtype and device of `like` (None: float32, CPU).

        Drawn in float64 on the CPU and then rounded and moved: every dtype and device sees the same noise.
        """
        return self._draw(lambda size, g: torch.randn(size, generator=g, dtype=torch.float64), shape, like)

    def uniform(self, shape: Iterable[int], like: Tensor | None = None) -> Tensor:
        """U[0, 1] of `shape`, as `randn`; 1 itself only where the dtype rounds up to it."""
        return self._draw(lambda size, g: torch.rand(size, generator=g, dtype=torch.float64), shape, like)

    def randint(self, low: int, high: int) -> Tensor:
        """One whole number per picture, low ≤ n < high: (b,) int64, CPU. For training: randint(1, T + 1)."""
        return torch.cat([torch.randint(low, high, (1,), generator=g) for g in self.generators])

    @property
    def state(self) -> list[Tensor]:
        """Where the streams stand, one generator state per picture, to be given to `restore`."""
        return [g.get_state() for g in self.generators]

    def restore(self, state: list[Tensor]) -> None:
        """Go back to a `state` taken from an Rng with as many pictures."""
        if len(state) != len(self):
            raise ArgumentError("state", f"holds {len(state)} pictures, this Rng {len(self)}")
        for g, its_state in zip(self.generators, state):
            g.set_state(its_state)

    def _draw(
        self, draw: Callable[[tuple[int, ...], Generator], Tensor], shape: Iterable[int], like: Tensor | None
    ) -> Tensor:
        b, *size = shape
        if b != len(self):
            raise ArgumentError(
                "shape", f"asks for {b} pictures, this Rng has {len(self)} seeds: make Rng.of(seed, {b})"
            )
        z = torch.stack([draw(tuple(size), g) for g in self.generators])
        return z.float() if like is None else z.to(like)


def generator_of(seed: int) -> Generator:
    """A CPU generator of its own for every whole number, large and negative ones included.

    `manual_seed` reads 32 bits of a seed, so that 2³² is 0 to it and −1 is 2³² − 1. Seeds that fit are left
    to it; of any other the SHA-256 makes the generator's whole state: 624 words of 32 bits, which stand in
    torch's record of it after three numbers of 64 bits.
    """
    generator = Generator("cpu")
    if 0 <= seed < 2**32:
        return generator.manual_seed(seed)
    digest = np.frombuffer(hashlib.sha256(str(seed).encode()).digest(), np.uint32)
    words = np.random.SeedSequence(digest.tolist()).generate_state(624)
    state = generator.manual_seed(0).get_state()
    state[24 : 24 + 8 * len(words)] = torch.from_numpy(words.astype(np.uint64)).view(torch.uint8)
    generator.set_state(state)
    return generator


def gaussian(like: Tensor, generator: Generator) -> Tensor:
    """N(0, 1) like `like`, drawn on its device; the CPU's generator seeds that of another device.

    For training, where the CPU would not keep up with a GPU: the same on every run, but not the same on
    every device."""
    if like.is_cuda:
        generator = Generator(like.device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
    return torch.randn(like.shape, generator=generator, device=generator.device).to(like)
