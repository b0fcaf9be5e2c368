"""Pictures to begin with, each with an edit whose truth is known: of the shapes world, and of the emoji world
for the models that know its words.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any, NamedTuple

from torch import Tensor

from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.worlds import emoji
from palimpsest.worlds.drawing import render
from palimpsest.worlds.scene import SIZES, Ground, Scene, Thing, Wave
from palimpsest.worlds.shapes import Edit, apply, caption, changed_mask, edits, instruction, sample_scene

NONE = Wave(0.0, 0.0, 0.0, 0.0)
PLAIN = Ground("gradient", (0.05, 0.12), (NONE, NONE, NONE, NONE))
MARGIN = 2  # pixels around what an edit changes


class Example(NamedTuple):
    """A picture, and what is to become of it."""

    picture: Tensor  # (1, 3, 64, 64) in [−1, 1]
    truth: Tensor  # the picture after the edit, as the world draws it
    source: str
    target: str
    instruction: str
    place: Tensor | None = None  # (1, 1, 64, 64), 1 where a method that is told the place paints anew


def of_shapes(scene: Scene, edit: Edit) -> Example:
    """An edit of a scene. The place is a box around what changes; of a ground, just what changes."""
    changed = changed_mask(scene, edit)
    if edit.kind != "background":
        ends = [(int(k.min()), int(k.max())) for k in changed[0, 0].nonzero().T]
        y, x = (slice(max(0, low - MARGIN), high + MARGIN + 1) for low, high in ends)
        changed[..., y, x] = 1
    after = apply(scene, edit)
    return Example(
        render(scene), render(after), caption(scene), caption(after), instruction(scene, edit), changed
    )


def of_emoji(world: emoji.World, pair: emoji.Pair) -> Example:
    """A pair that artists drew."""
    before, after = emoji.render(world, [pair.before, pair.after]).split(1)
    return Example(before, after, emoji.caption(pair.before), emoji.caption(pair.after), pair.instruction)


def alone(shape: str, colour: str, ground: str, texture: str = "plain") -> Scene:
    """One large thing in the middle."""
    thing = Thing(shape, colour, "large", texture, 0.5, 0.5, SIZES["large"])
    return Scene(ground, PLAIN, (thing,))


@cache
def shapes_examples() -> dict[str, Example]:
    """Edits of single things, at which the shipped models succeed."""
    return {
        "yellow star → red": of_shapes(alone("star", "yellow", "blue"), Edit("recolour", 0, "red")),
        "red heart → star": of_shapes(alone("heart", "red", "white"), Edit("reshape", 0, "star")),
        "green ring → striped": of_shapes(alone("ring", "green", "yellow"), Edit("retexture", 0, "striped")),
        "blue crescent → white ground": of_shapes(
            alone("crescent", "blue", "yellow"), Edit("background", 0, "white")
        ),
    }


EMOJI = {  # what a button says -> both names, and the style, of a shipped pair
    "blue heart → orange": ("blue heart", "orange heart", "twemoji"),
    "keycap 1 → 7": ("keycap 1", "keycap 7", "noto"),
    "cook: light skin → dark": ("woman cook: medium-light skin tone", "woman cook: dark skin tone", "noto"),
    "pink heart → another ground": ("pink heart", "pink heart", "twemoji"),
}


@cache
def emoji_pairs() -> tuple[emoji.World, list[emoji.Pair]]:
    """The held-out pairs that ship."""
    world = emoji.open_world()
    return world, emoji.pairs(world, random.Random(0), held_out=True)


@cache
def emoji_examples() -> dict[str, Example]:
    """Pairs of the emoji world of which no picture after the edit was trained on."""
    world, pairs = emoji_pairs()
    found = {(p.before.emoji.name, p.after.emoji.name, p.after.emoji.style): p for p in reversed(pairs)}
    return {said: of_emoji(world, found[key]) for said, key in EMOJI.items()}


def speaks_emoji(model: Any) -> bool:
    """Whether the words of a model are those of the emoji world, not of the shapes world."""
    tokenizer = getattr(model, "tokenizer", None)
    words = tokenizer.words if isinstance(tokenizer, WordTokenizer) else ()
    return "twemoji" in words


def examples_of(model: Any) -> dict[str, Example]:
    """The examples whose words a model knows: those of the shapes world, unless it knows the others alone."""
    return emoji_examples() if speaks_emoji(model) else shapes_examples()


def first_of(model: Any) -> Example:
    """The first of them."""
    return next(iter(examples_of(model).values()))


def drawn(seed: int, model: Any = None) -> Example:
    """A scene at random in the model's world, with one of its edits."""
    rng = random.Random(seed)
    if model is not None and speaks_emoji(model):
        world, pairs = emoji_pairs()
        return of_emoji(world, rng.choice(pairs))
    scene = sample_scene(rng)
    return of_shapes(scene, rng.choice(edits(scene)))
