"""Pictures of the shapes world to begin with, each with an edit whose truth is known."""

from __future__ import annotations

import random
from typing import NamedTuple

from torch import Tensor

from palimpsest.worlds.drawing import render
from palimpsest.worlds.scene import SIZES, Ground, Scene, Thing, Wave
from palimpsest.worlds.shapes import Edit, apply, caption, edits, instruction, sample_scene

NONE = Wave(0.0, 0.0, 0.0, 0.0)
PLAIN = Ground("gradient", (0.05, 0.12), (NONE, NONE, NONE, NONE))


class Example(NamedTuple):
    """A scene, and what is to become of it."""

    scene: Scene
    edit: Edit

    @property
    def picture(self) -> Tensor:
        """(1, 3, 64, 64) in [−1, 1]."""
        return render(self.scene)

    @property
    def truth(self) -> Tensor:
        """The picture after the edit, as the world draws it."""
        return render(apply(self.scene, self.edit))

    @property
    def source(self) -> str:
        return caption(self.scene)

    @property
    def target(self) -> str:
        return caption(apply(self.scene, self.edit))

    @property
    def instruction(self) -> str:
        return instruction(self.scene, self.edit)


def alone(shape: str, colour: str, ground: str, texture: str = "plain") -> Scene:
    """One large thing in the middle."""
    thing = Thing(shape, colour, "large", texture, 0.5, 0.5, SIZES["large"])
    return Scene(ground, PLAIN, (thing,))


EXAMPLES = {
    "yellow star → red": Example(alone("star", "yellow", "blue"), Edit("recolour", 0, "red")),
    "red heart → star": Example(alone("heart", "red", "white"), Edit("reshape", 0, "star")),
    "green ring → striped": Example(alone("ring", "green", "yellow"), Edit("retexture", 0, "striped")),
    "blue crescent → white ground": Example(
        alone("crescent", "blue", "yellow"), Edit("background", 0, "white")
    ),
}


def drawn(seed: int) -> Example:
    """A scene at random, with one of its edits."""
    rng = random.Random(seed)
    scene = sample_scene(rng)
    return Example(scene, rng.choice(edits(scene)))
