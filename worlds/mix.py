"""What a training should see: rendered and plainly drawn scenes, square ones and others.

    extent = some_extent(rng, other=.25)             # one for a batch, which has one shape
    scenes = sample_scenes(64, rng, plain=.25, extent=extent)
    pictures = render(scenes, pixels_of(extent))     # (64, 3, 64, 64), or one time in four (64, 3, 64, 96) …

All is drawn from `rng`, so one seed gives one batch.
"""

from __future__ import annotations

import random

from palimpsest.worlds.scene import SQUARE, Scene
from palimpsest.worlds.shapes import sample_scene

ASPECTS = {  # extent -> rows and columns where a square picture has 64×64
    SQUARE: (64, 64),
    (1.0, 4 / 3): (48, 64),
    (4 / 3, 1.0): (64, 48),
    (1.5, 1.0): (96, 64),
    (1.0, 1.5): (64, 96),
}


def pixels_of(extent: tuple[float, float], size: int = 64) -> tuple[int, int]:
    """Rows and columns of a picture of this extent, one of ASPECTS, where a square one has `size` a side."""
    rows, columns = ASPECTS[extent]
    return rows * size // 64, columns * size // 64


def some_extent(rng: random.Random, other: float) -> tuple[float, float]:
    """An extent of ASPECTS, the square for all but the share `other`. With 0 nothing is drawn from `rng`."""
    if other == 0 or rng.random() >= other:
        return SQUARE
    return rng.choice([extent for extent in ASPECTS if extent != SQUARE])


def sample_scenes(
    n: int,
    rng: random.Random,
    *,
    two: float = 0.5,
    plain: float = 0.0,
    extent: tuple[float, float] = SQUARE,
    held_out: bool | None = False,
) -> list[Scene]:
    """n scenes of one extent, the share `two` of two things, the share `plain` as people draw."""
    return [
        sample_scene(
            rng, 1 + (rng.random() < two), held_out, plain=plain > 0 and rng.random() < plain, extent=extent
        )
        for _ in range(n)
    ]
