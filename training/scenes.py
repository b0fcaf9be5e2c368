"""Scenes of the shapes world for a recipe, and what is said of them: drawn anew for every step, or once
and used again and again.

    supply = Supply(32, two=.3)                                  # each picture is seen once
    supply = Supply(32, two=.3, kept=100_000, workers=8)     # drawn now; a step then costs next to nothing
    scenes, pictures, rng = supply(64, generator)

A GPU takes more pictures a second than a few processes draw. A model that sees 3 million pictures sees
each of 100,000 thirty times."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from palimpsest.fit.ahead import ahead
from palimpsest.training.shapes import how_often, one_of
from palimpsest.worlds.files import eight_bits
from palimpsest.worlds.mix import pixels_of, some_extent
from palimpsest.worlds.scene import SQUARE, Scene
from palimpsest.worlds.shapes import render, sample_scene

Draw = Callable[[int, Generator], tuple[list[Scene], Tensor, random.Random]]

SOME = 64  # scenes that are drawn together, in one shape


def draw(
    n: int,
    rng: random.Random,
    two: float,
    hard: float = 1.0,
    without: str = "",
    plain: float = 0.0,
    extent: tuple[float, float] = SQUARE,
) -> list[Scene]:
    """n scenes of one extent, the share `two` of them with two things, the share `plain` as people draw;
    those with what is learnt last `hard` times as often as chance has them, and none with a thing of the
    shape `without`."""
    drawn: list[Scene] = []
    for things in [1 + (rng.random() < two) for _ in range(n)]:
        by_hand = plain > 0 and rng.random() < plain
        scene = sample_scene(rng, things, plain=by_hand, extent=extent)
        while (
            without in {thing.shape for thing in scene.things}
            or hard > 1
            and rng.random() > float(how_often([scene], hard)[0]) / hard
        ):
            scene = sample_scene(rng, things, plain=by_hand, extent=extent)
        drawn.append(scene)
    return drawn


class Kept(NamedTuple):
    """Scenes of one extent and their pictures, uint8 (n 3 y x)."""

    scenes: list[Scene]
    pictures: Tensor


class Supply:
    """Scenes as `draw` draws them, with their pictures in the 256 levels of a file. A batch has one shape:
    square with `size` pixels a side, or for the share `other` of the batches one of worlds/mix.py's others.

    kept: so many are drawn now, from `seed` (any value that prints) by `workers` processes, and each step
    takes some of them; 0: each step draws its own."""

    def __init__(
        self,
        size: int,
        *,
        two: float,
        hard: float = 1.0,
        without: str = "",
        plain: float = 0.0,
        other: float = 0.0,
        kept: int = 0,
        seed: object = 0,
        workers: int = 0,
    ):
        self.size, self.other = size, other
        self.choice = dict(two=two, hard=hard, without=without, plain=plain)
        found: dict[tuple[int, ...], list[Kept]] = {}
        for some in ahead(
            lambda first: self._kept(min(SOME, kept - first), f"{seed} {first}"),
            range(0, kept, SOME),
            workers,
        ):
            found.setdefault(tuple(some.pictures.shape[2:]), []).append(some)
        self.kept = [
            Kept([s for part in parts for s in part.scenes], torch.cat([part.pictures for part in parts]))
            for parts in found.values()
        ]

    def _kept(self, n: int, seed: str) -> Kept:
        scenes, pictures = self._drawn(n, random.Random(seed))
        return Kept(scenes, ((pictures + 1) * 127.5).round().to(torch.uint8))

    def _drawn(self, n: int, rng: random.Random) -> tuple[list[Scene], Tensor]:
        extent = some_extent(rng, self.other)
        scenes = draw(n, rng, **self.choice, extent=extent)
        return scenes, render(scenes, pixels_of(extent, self.size))

    def __call__(self, n: int, generator: Generator) -> tuple[list[Scene], Tensor, random.Random]:
        """n scenes, their pictures (n 3 y x) in [−1, 1], and a random.Random for whatever else is drawn of
        them.
        """
        if not self.kept:
            return self.fresh(n, generator)
        scenes, pictures = one_of(self.kept, [len(part.scenes) for part in self.kept], generator)
        rows = torch.randint(len(scenes), (n,), generator=generator)
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        return [scenes[i] for i in rows.tolist()], pictures[rows].float() / 127.5 - 1, rng

    def fresh(self, n: int, generator: Generator) -> tuple[list[Scene], Tensor, random.Random]:
        """The same, of scenes that are drawn for it: whatever a step sees where nothing is kept, and what
        a net is judged by.
        """
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        scenes, pictures = self._drawn(n, rng)
        return scenes, eight_bits(pictures), rng
