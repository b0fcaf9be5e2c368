"""Scenes of the shapes world for a recipe, and what is said of them: drawn anew for every step, or once
and used again and again.

    supply = Supply(32, two=.3)                                  # each picture is seen once
    supply = Supply(32, two=.3, kept=100_000, workers=8)         # drawn now, in half a minute; a step then costs next to nothing
    scenes, pictures, rng = supply(64, generator)

A GPU takes more pictures a second than a few processes draw. A model that sees 3 million pictures sees
each of 100,000 thirty times."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from palimpsest.fit.ahead import ahead
from palimpsest.training.shapes import how_often
from palimpsest.worlds.files import eight_bits
from palimpsest.worlds.scene import Scene
from palimpsest.worlds.shapes import render, sample_scene

Draw = Callable[[int, Generator], tuple[list[Scene], Tensor, random.Random]]

SOME = 256  # scenes that are drawn and kept together


def draw(n: int, rng: random.Random, two: float, hard: float = 1.0, without: str = "") -> list[Scene]:
    """n scenes, the share `two` of them with two things; those with what is learnt last `hard` times as
    often as chance has them, and none with a thing of the shape `without`."""
    counts, drawn = [1 + (rng.random() < two) for _ in range(n)], []
    for things in counts:
        scene = sample_scene(rng, things)
        while (
            without in {thing.shape for thing in scene.things}
            or hard > 1
            and rng.random() > float(how_often([scene], hard)[0]) / hard
        ):
            scene = sample_scene(rng, things)
        drawn.append(scene)
    return drawn


class Supply:
    """Scenes as `draw` draws them, with their pictures at `size` pixels, in the 256 levels of a file.

    kept: so many are drawn now, from `seed` (any value that prints) by `workers` processes, and each step
    takes some of them; 0: each step draws its own."""

    def __init__(
        self,
        size: int,
        *,
        two: float,
        hard: float = 1.0,
        without: str = "",
        kept: int = 0,
        seed: object = 0,
        workers: int = 0,
    ):
        self.size, self.choice = size, dict(two=two, hard=hard, without=without)
        self.scenes: list[Scene] = []
        pictures = []
        for scenes, drawn in ahead(
            lambda first: self._kept(min(SOME, kept - first), f"{seed} {first}"),
            range(0, kept, SOME),
            workers,
        ):
            self.scenes += scenes
            pictures.append(drawn)
        self.pictures = torch.cat(pictures) if pictures else None

    def _kept(self, n: int, seed: str) -> tuple[list[Scene], Tensor]:
        scenes = draw(n, random.Random(seed), **self.choice)
        return scenes, ((render(scenes, self.size) + 1) * 127.5).round().to(torch.uint8)

    def __call__(self, n: int, generator: Generator) -> tuple[list[Scene], Tensor, random.Random]:
        """n scenes, their pictures (n 3 size size) in [−1, 1], and a random.Random for whatever else is
        drawn of them.
        """
        if self.pictures is None:
            return self.fresh(n, generator)
        rows = torch.randint(len(self.scenes), (n,), generator=generator)
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        return [self.scenes[i] for i in rows.tolist()], self.pictures[rows].float() / 127.5 - 1, rng

    def fresh(self, n: int, generator: Generator) -> tuple[list[Scene], Tensor, random.Random]:
        """The same, of scenes that are drawn for it: whatever a step sees where nothing is kept, and what
        a net is judged by.
        """
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        scenes = draw(n, rng, **self.choice)
        return scenes, eight_bits(render(scenes, self.size)), rng
