"""Wishes for edits of the shapes world, as different people would say them, and what a wish means.

    asked(scene, edit, rng)                  # "turn the red star blue", "the left thing to blue", …
    meaning("Colour the red one blue.")      # [("look", ("red thing", "blue"))]
    held_out_instructions()                  # 200 wishes in forms kept out of training, as they are typed

A wish is a way to put it (WAYS) and a way to point at a thing: by its shape, by a look and its shape, by a
look or a place alone, or as "it" where there is one thing. One in six of both taken together is held out of
training. All words are the world's (worlds/scene.WORDS); worlds/words.py leads others to them ("delete", "get
rid of").
"""

from __future__ import annotations

import functools
import random
import re
import zlib
from collections.abc import Callable
from typing import NamedTuple

from palimpsest.arguments import ArgumentError
from palimpsest.worlds.scene import COLOURS, CONVERSE, RELATIONS, SHAPES, SIZES, TEXTURES, Scene, with_article
from palimpsest.worlds.shapes import Edit, _phrase, apply, edits, is_held_out, sample_scene
from palimpsest.worlds.wordings import OPPOSITE, typed
from palimpsest.worlds.words import MOST_WORDS, understood

# What is asked for -> how. {it} and {other} point at things, {v} is a look or a colour, {a} what a thing
# becomes, {phrase} a new thing, {r} where that stands to the old one. The first way is that of
# worlds.shapes.instruction.
WAYS: dict[str, tuple[str, ...]] = {
    "look": (
        "make {it} {v}", "turn {it} {v}", "change {it} to {v}", "make {v} {it}", "{it} to {v}",
        "{it} is {v}"),
    "reshape": (
        "turn {it} into {a}", "make {it} {a}", "replace {it} with {a}", "change {it} into {a}",
        "change {it} to {a}", "{it} to {a}", "{it} is {a}"),
    "background": (
        "change the background to {v}", "make the background {v}", "turn the background {v}",
        "replace the background with {v}", "change the background into {v}", "the background to {v}",
        "the background is {v}", "change to {v} background", "add {v} background", "make it {v} background"),
    "remove": (
        "remove {it}", "remove {it} in the picture", "replace {it} with the background",
        "change {it} to the background", "turn {it} into the background"),
    "add": (
        "add {phrase}", "add {phrase} to the picture", "add {phrase} in the picture",
        "add {phrase} on the background", "add {phrase} {r} {it}", "{r} {it} add {phrase}",
        "add {phrase} that is {r} {it}"),
    "swap": (
        "swap {it} and {other}", "swap {other} and {it}", "swap {it} with {other}", "swap {other} with {it}",
        "change {it} with {other}"),
}  # fmt: skip
KINDS = {
    "recolour": "look",
    "retexture": "look",
    "resize": "look",
    **{kind: kind for kind in WAYS if kind != "look"},
}
POINTS = ("shape", "look and shape", "look", "place", "it")
Wish = tuple[str, tuple[str, ...]]  # a kind of WAYS and what its words name


_SPLIT = 1072  # of those tried, the first with held-out forms of every kind, none of them the commonest


def is_held_out_form(way: str, point: str) -> bool:
    """Whether no training text puts a wish this way while pointing so: one in six, by a checksum."""
    return zlib.crc32(f"{_SPLIT} {way}, {point}".encode()) % 6 == 0


def points(scene: Scene, k: int, rng: random.Random) -> dict[str, str]:
    """How thing k can be pointed at, so that no other is meant: {one of POINTS: "the red star"}."""
    me, others = scene.things[k], [thing for i, thing in enumerate(scene.things) if i != k]
    looks = {"colour": me.colour, "size": me.size, "texture": me.texture}
    own = [value for name, value in looks.items() if all(getattr(other, name) != value for other in others)]
    said = [value for value in looks.values() if value != "plain"]
    found = {
        "shape": f"the {me.shape}",
        "look and shape": f"the {rng.choice((me.colour, rng.choice(said)))} {me.shape}",
    }
    if own and (seen := [value for value in own if value != "plain"]):
        found["look"] = f"the {rng.choice(seen)} thing"
    if others:
        found["place"] = f"the {PLACES[scene.relation][k]} thing"
    else:
        found["it"] = rng.choice(("it", "it", "the thing"))
    return found


PLACES = {"left of": ("left", "right"), "above": ("upper", "lower")}


def asked(scene: Scene, edit: Edit, rng: random.Random, held_out: bool = False) -> str:
    """An edit of a scene in free words; held_out: in a form that is kept out of training, instead of one that
    is not.
    """
    while True:
        text, way, point = _drawn(scene, edit, rng)
        if is_held_out_form(way, point) == held_out:
            return text


def _drawn(scene: Scene, edit: Edit, rng: random.Random) -> tuple[str, str, str]:
    """A wish, the way it is put, and how it points at things."""
    kind, value, words = KINDS[edit.kind], edit.value, {}
    if kind == "look" and rng.random() < 0.3:
        kind, words["a"] = "reshape", with_article(value, scene.things[edit.index].shape)
    way, point = rng.choice(WAYS[kind]), ""
    if "{it}" in way:
        one, other = (0, 1) if kind == "swap" else (edit.index or 0, None)
        found = points(scene, one, rng)
        point = rng.choice(list(found)) if rng.random() < 0.6 else "shape"
        words["it"] = found[point]
        if other is not None:
            there = points(scene, other, rng)
            words["other"] = there[point if point in there else "shape"]
    if kind == "reshape":
        words.setdefault("a", with_article(value) if isinstance(value, str) else "")
    elif kind == "background":
        words["v"] = with_article(value) if way.endswith("background") else value
    elif kind == "add":
        after = apply(scene, edit)
        words["r"] = after.relation if after.things[0] == value else OPPOSITE[after.relation]
        words["phrase"] = _phrase(value)
    elif isinstance(value, str):
        words["v"] = value
    return way.format(**words), way, point


# --------------------------------------------------------------------------- what a wish means

_ANY = {
    "COLOUR": "|".join(COLOURS), "SHAPE": "|".join(SHAPES), "LOOK": "|".join((*COLOURS, *SIZES, *TEXTURES)),
    "PLACE": "|".join((*RELATIONS, *CONVERSE))}  # fmt: skip


@functools.cache
def _readers() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Every way to put a wish, as a pattern with a group for each thing that it names."""
    point = rf"it|the (?:(?:{_ANY['LOOK']}|left|right|upper|lower) )*(?:{_ANY['SHAPE']}|thing)"
    becomes = rf"(?:(?:{_ANY['LOOK']}) )*(?:{_ANY['SHAPE']})"
    found = []
    for kind, ways in WAYS.items():
        value = rf"(?:an? )?(?P<v>{_ANY['COLOUR' if kind == 'background' else 'LOOK']})"
        parts = dict(it=f"(?P<it>{point})", other=f"(?P<other>{point})", v=value, a=rf"an? (?P<a>{becomes})",
                     phrase=f"(?P<phrase>an? {becomes})", r=f"(?P<r>{_ANY['PLACE']})")  # fmt: skip
        found += [(kind, re.compile(way.format(**parts))) for way in ways]
    return tuple(found)


NAMED: dict[str, Callable[[dict[str, str]], tuple[str, ...]]] = {
    "look": lambda g: (g["it"], g["v"]), "reshape": lambda g: (g["it"], g["a"]),
    "remove": lambda g: (g["it"],),
    "background": lambda g: (g["v"],), "swap": lambda g: (g["it"], g["other"]),
    "add": lambda g: (g["phrase"], g["r"], g["it"]) if "r" in g else (g["phrase"],),
}  # fmt: skip


def meaning(text: str) -> list[Wish]:
    """What is asked for, wish by wish: a kind of WAYS and what is named, without "the". Raises ValueError for
    what nobody here would say.
    """
    said = understood(text)
    if said.count(" ") >= MOST_WORDS:
        raise ArgumentError("instruction", f"has more than {MOST_WORDS} words; shorten it")
    if (wishes := _wishes(said)) is None:
        raise ArgumentError("instruction", f"{text[:200]!r} means nothing here")
    return list(wishes)


@functools.lru_cache(4096)
def _wishes(said: str) -> tuple[Wish, ...] | None:
    """The wishes of a text in the world's own words; None where it is none. A part of it that "and" sets off
    is read once, however it is parted."""
    for kind, reader in _readers():
        if found := reader.fullmatch(said):
            named = {name: word.removeprefix("the ") for name, word in found.groupdict().items()}
            return ((kind, NAMED[kind](named)),)
    for cut in re.finditer(" and ", said):  # two wishes; "swap the a and the b" is one
        first = _wishes(understood(said[: cut.start()]))
        if first is not None and (rest := _wishes(understood(said[cut.end() :]))) is not None:
            return first + rest
    return None


def pointed_at(point: str, looks: list[dict[str, str]], relation: str) -> int:
    """Which of the things, told by their looks {"shape": "star", "colour": "red", …}, is meant by "red star",
    "left thing" or "it".

    A look that is not told of a thing does not speak against it. Raises ValueError where none or more than
    one is meant.
    """
    places = PLACES.get(relation, ())

    def fits(k: int) -> bool:
        for word in point.split():
            kind = next((name for name, values in _KIND_OF if word in values), None)
            if kind is not None and looks[k].get(kind, word) != word:
                return False
            if word in ("left", "right", "upper", "lower") and (
                word not in places or places.index(word) != k
            ):
                return False
        return True

    found = [k for k in range(len(looks)) if fits(k)]
    if len(found) != 1:
        raise ValueError(
            f'instruction: there is {"no" if not found else "more than one"} thing that "{point}" could mean'
        )
    return found[0]


_KIND_OF = (("shape", SHAPES), ("colour", tuple(COLOURS)), ("size", tuple(SIZES)), ("texture", TEXTURES))


# --------------------------------------------------------------------------- what no training sees


class Asked(NamedTuple):
    """An edit of a scene, and a wish for it as it is typed."""

    scene: Scene
    edit: Edit
    text: str


def held_out_instructions(n: int = 200, seed: int = 0) -> list[Asked]:
    """n wishes of every kind in turn, in forms that no training text has, and as they are typed. None leads
    to what is held out.
    """
    rng, found, kinds = random.Random(f"held-out instructions {seed}"), [], list(KINDS)
    while len(found) < n:
        scene, kind = sample_scene(rng), kinds[len(found) % len(kinds)]
        options = [e for e in edits(scene) if e.kind == kind and not is_held_out(apply(scene, e))]
        if options:
            edit = rng.choice(options)
            found.append(Asked(scene, edit, typed(asked(scene, edit, rng, held_out=True), rng)))
    return found
