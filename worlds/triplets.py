"""Triplets of the shapes world, (caption, instruction, caption after the edit): written as people do, and
checked.

    written(700, seed=0)                          # as people write them; some hold two wishes
    renamed(triplet, rng)                         # other colours and shapes, the same in all three parts
    text_of(triplet)                              # "a red star # make the star blue % a blue star"
    read("a red star # make the star blue % a blue star")      # and back; ValueError for what is no triplet
    follows(triplet)                              # does the instruction lead to the second caption?

InstructPix2Pix (arXiv:2211.09800v2, Sec. 3.1) had 700 written by hand, taught GPT-3 to write more, and could
not know how many of those were right. Here a caption's meaning is known, and an instruction can be carried
out on it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from palimpsest.arguments import ArgumentError
from palimpsest.outputs import write_text
from palimpsest.worlds.instructions import asked, meaning, pointed_at
from palimpsest.worlds.scene import (
    COLOURS,
    CONVERSE,
    HELD_OUT,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    with_article,
)
from palimpsest.worlds.shapes import apply, caption, edits, instruction, is_held_out, sample_scene
from palimpsest.worlds.words import wanted

THEN, AFTER = "#", "%"  # ours: the paper's code has "\\n##\\n" and "\\n%%\\n"
KINDS = (
    "recolour",
    "recolour",
    "reshape",
    "reshape",
    "background",
    "retexture",
    "resize",
    "add",
    "remove",
    "swap",
)


class Triplet(NamedTuple):
    """A caption, what is asked for, and the caption of what is wanted."""

    caption: str
    instruction: str
    edited: str


def written(n: int, seed: int = 0, two: float = 0.15) -> list[Triplet]:
    """n different triplets, the share `two` asking for two things at once. # Sec. 3.1: 700 by hand; ours:
    phrasings by hand
    """
    rng, found = random.Random(f"triplets {seed}"), {}
    while len(found) < n:
        scene, kinds = sample_scene(rng), rng.sample(KINDS, 2 if rng.random() < two else 1)
        size = rng.random() < 0.5 or "resize" in kinds
        ground = rng.random() < 0.6 or "background" in kinds
        after, wishes = scene, []
        for kind in kinds:
            options = [e for e in edits(after) if e.kind == kind and not is_held_out(apply(after, e))]
            if options:
                edit = rng.choice(options)
                wishes.append(instruction(after, edit) if rng.random() < 0.3 else asked(after, edit, rng))
                after = apply(after, edit)
        triplet = Triplet(caption(scene, size, ground), " and ".join(wishes), caption(after, size, ground))
        if wishes and triplet.caption != triplet.edited and follows(triplet):
            found[triplet] = None  # a dictionary keeps the order
    return list(found)


def renamed(triplet: Triplet, rng: random.Random) -> Triplet:
    """The same with other colours, shapes, sizes and patterns, exchanged alike in all three parts, and of
    two things now and then the other one first: a red star made blue becomes a green ring made white.

    Whoever wrote the one would have written the other. What training may not show is not made.
    """
    while True:
        other = {
            word: new
            for kind in (COLOURS, SHAPES, SIZES, ("striped", "dotted"))
            for word, new in zip(kind, rng.sample([*kind], len(kind)))
        }
        parts = [" ".join(other.get(word, word) for word in part.split()) for part in triplet]
        if rng.random() < 0.5:
            parts = [turned(parts[0]), parts[1], turned(parts[2])]
        new = Triplet(*(re.sub(r"\ban? (\w)", lambda found: with_article(found[1]), part) for part in parts))
        if valid(new) and follows(new):
            return new


def turned(caption: str) -> str:
    """A plain caption with its two things exchanged: "a star left of a ring on red" -> "a ring left of a star
    on red". Any other text stays.
    """
    for relation in RELATIONS:
        first, between, rest = caption.partition(f" {relation} ")
        if between:
            second, on, ground = rest.partition(" on ")
            return f"{second}{between}{first}{on}{ground}"
    return caption


def text_of(triplet: Triplet) -> str:
    """One line, as the language model reads and writes it."""
    return f"{triplet.caption} {THEN} {triplet.instruction} {AFTER} {triplet.edited}"


def read(text: str) -> Triplet:
    """Back from one line. Raises ValueError for a line without its two marks, or an empty part."""
    parts = [part.strip() for part in re.split(f"[{THEN}{AFTER}]", text)]
    if len(parts) != 3 or not all(parts) or text.index(THEN) > text.index(AFTER) or text.count(THEN) != 1:
        raise ValueError(f'triplet: "{text}" is not "caption {THEN} instruction {AFTER} caption"')
    return Triplet(*parts)


def valid(triplet: Triplet) -> bool:
    """Whether both captions are captions, the edit changes something, and no combination is shown that no
    training may show.
    """
    try:
        before, after = wanted(triplet.caption), wanted(triplet.edited)
    except ValueError:
        return False
    kept = not any(
        (found.get(f"colour_{k}"), found.get(f"shape_{k}")) in HELD_OUT
        for found in (before, after)
        for k in (1, 2)
    )
    full = all(name in found for found in (before, after) for name in ("shape_1", "colour_1"))
    # a thing in its background's colour cannot be seen, two of one shape cannot be told apart
    seen = all(
        found.get("background") not in (found.get("colour_1"), found.get("colour_2"))
        or "background" not in found
        for found in (before, after)
    )
    apart = all(found["shape_1"] != found["shape_2"] for found in (before, after)) if full else False
    return full and kept and seen and apart and before != after


def follows(triplet: Triplet) -> bool:
    """Whether the second caption says what the instruction makes of the first: the truth, which the paper's
    filter had to guess.
    """
    try:
        before, after = wanted(triplet.caption), wanted(triplet.edited)
        made = [_plainly(before)]
        for kind, values in meaning(triplet.instruction):
            made = [result for state in made for result in _carried_out(state, kind, values)]
    except ValueError:
        return False
    return _plainly(after) in made


# --------------------------------------------------------------------------- carrying out


class _State(NamedTuple):
    """What a caption says. Things are (shape, {attribute: value}); of two, the left or upper one first."""

    things: tuple[tuple[str, frozenset], ...]
    relation: str
    background: str


def _plainly(found: dict[str, str]) -> _State:
    things = tuple(
        (
            found[f"shape_{k}"],
            frozenset(
                (name, found[f"{name}_{k}"])
                for name in ("colour", "size", "texture")
                if f"{name}_{k}" in found
            ),
        )
        for k in (1, 2)
        if found.get(f"shape_{k}", "none") != "none"
    )
    return _State(things, found["relation"], found.get("background", ""))


def _carried_out(state: _State, kind: str, values: tuple[str, ...]) -> list[_State]:
    """Every state that does what is asked; none where it cannot be done. Raises ValueError for a thing that
    is not there.
    """
    names = [shape for shape, _ in state.things]
    looks = [{"shape": shape, **dict(told)} for shape, told in state.things]

    def put(k: int, told: dict[str, str]) -> _State:
        shape, rest = told["shape"], frozenset(pair for pair in told.items() if pair[0] != "shape")
        return state._replace(things=(*state.things[:k], (shape, rest), *state.things[k + 1 :]))

    def at(point: str) -> int:
        return pointed_at(point, looks, state.relation)

    if kind == "look":
        point, value = values
        name = "texture" if value in TEXTURES else "size" if value in SIZES else "colour"
        return [put(at(point), looks[at(point)] | {name: value})]
    if kind == "reshape":
        point, becomes = values
        named = {name[:-2]: value for name, value in wanted(becomes).items() if name.endswith("_1")}
        if "plain" not in becomes.split():
            named = {name: value for name, value in named.items() if value != "plain"}
        return [put(at(point), looks[at(point)] | named)]
    if kind == "background":
        return [state._replace(background=values[0])]
    if kind == "remove":
        return (
            [_State((state.things[1 - at(values[0])],), "none", state.background)] if len(names) == 2 else []
        )
    if kind == "swap":
        return [state._replace(things=state.things[::-1])] if {at(values[0]), at(values[1])} == {0, 1} else []
    thing = wanted(values[0])  # add: where it is said, or anywhere beside the one that is there
    if thing["count"] != "one" or len(names) != 1 or thing["shape_1"] in names:
        return []
    told = {name: thing[f"{name}_1"] for name in ("colour", "size", "texture") if f"{name}_1" in thing}
    sized = any(name == "size" for name, _ in state.things[0][1])
    added = (thing["shape_1"], frozenset(p for p in told.items() if p[0] != "size" or sized))
    if len(values) == 3:
        at(values[2])
        relation, first = CONVERSE.get(values[1], values[1]), values[1] in RELATIONS
        return [
            _State(
                (added, state.things[0]) if first else (state.things[0], added), relation, state.background
            )
        ]
    return [
        _State(pair, relation, state.background)
        for relation in RELATIONS
        for pair in ((added, state.things[0]), (state.things[0], added))
    ]


# --------------------------------------------------------------------------- files


def read_triplets(path: str | Path) -> list[Triplet]:
    """A file of one JSON object a line. Raises ValueError that names the first line which is none."""
    found = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(
            "triplets", f"{path} cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'})"
        ) from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            found.append(Triplet(*(row[name] for name in Triplet._fields)))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'triplets: {path}, line {number} is no object with "caption", "instruction" and "edited"'
            ) from error
    return found


def write_triplets(triplets: Iterable[Triplet], path: str | Path) -> None:
    """One JSON object a line."""
    write_text(path, "".join(json.dumps(t._asdict()) + "\n" for t in triplets))
