"""The shapes world: procedural captioned pictures in which the true edited picture is known.

rng = random.Random(0) scene = sample_scene(rng)            # Scene: data render(scene)
# (1, 3, 64, 64) in [−1, 1] caption(scene)                       # "a large striped red heart left of a small
blue ring on a white background" edit = edits(scene)[0]               # e.g. Edit("recolour", 0, "green")
instruction(scene, edit)             # "make the heart green" render(apply(scene, edit))           # the truth
that every method is scored against
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.arguments import ArgumentError
from palimpsest.worlds.drawing import Size, render, silhouettes, simulate_strokes, strokes
from palimpsest.worlds.scene import (
    COLOURS,
    FLAT,
    HELD_OUT,
    PALETTES,
    RELATIONS,
    RENDERED,
    SHAPES,
    SIZES,
    SQUARE,
    TEXTURES,
    WORDS,
    Ground,
    Scene,
    Style,
    Thing,
    Wave,
    on_background,
    with_article,
)

__all__ = [
    "ATTRIBUTES",
    "COLOURS",
    "Edit",
    "HELD_OUT",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "TEXTURES",
    "WORDS",
    "Ground",
    "Scene",
    "Style",
    "Thing",
    "Wave",
    "apply",
    "attributes",
    "caption",
    "changed_mask",
    "edits",
    "instruction",
    "is_held_out",
    "render",
    "sample_ground",
    "sample_scene",
    "sample_style",
    "silhouettes",
    "simulate_strokes",
    "strokes",
]

_MARGIN = 0.03  # free space around things, in shorter sides

# --------------------------------------------------------------------------- sampling


def sample_ground(rng: random.Random) -> Ground:
    """Draw the unnamed texture of a background."""
    kind = rng.choice(("gradient", "noise", "pattern"))
    angle, light = rng.uniform(0, 2 * math.pi), rng.uniform(0.12, 0.34)
    slope = (light * math.cos(angle), light * math.sin(angle)) if kind == "gradient" else (0.0, 0.0)

    def wave(frequency: float, turn: float, amplitude: float) -> Wave:
        return Wave(
            frequency * math.cos(turn), frequency * math.sin(turn), rng.uniform(0, 2 * math.pi), amplitude
        )

    none = Wave(0.0, 0.0, 0.0, 0.0)
    if kind == "noise":
        waves = tuple(
            wave(rng.uniform(0.6, 2.6), rng.uniform(0, math.pi), rng.uniform(0.03, 0.07)) for _ in range(4)
        )
    elif kind == "pattern":  # faint lines (one wave) or faint checks (two at right angles)
        f, turn, amplitude = rng.uniform(3.2, 5.2), rng.uniform(0, math.pi), rng.uniform(0.04, 0.08)
        waves = (
            wave(f, turn, amplitude),
            wave(f, turn + math.pi / 2, amplitude) if rng.random() < 0.5 else none,
            none,
            none,
        )
    else:
        waves = (none,) * 4
    return Ground(kind, slope, waves)


def _sample_thing(rng: random.Random, shape: str, colour: str) -> Thing:
    size, texture = rng.choice(tuple(SIZES)), rng.choice(TEXTURES)
    reach = (
        0.3 if texture == "dotted" else 0.5
    )  # a dot stays near the anchor, so that even a small thing shows one
    return Thing(
        shape,
        colour,
        size,
        texture,
        0.5,
        0.5,
        SIZES[size] * rng.uniform(0.94, 1.06),
        tilt=rng.uniform(-0.22, 0.22),
        shade=rng.uniform(-0.05, 0.05),
        period=rng.uniform(12.5, 15) / 64,
        slant=rng.uniform(0, math.pi),
        phase=(rng.uniform(-reach, reach), rng.uniform(-reach, reach)),
    )


def sample_style(rng: random.Random) -> Style:
    """Draw a plain style: what people's drawings are like, by hand or in a paint program. Flat paints, often
    an outline, in ink, in the thing's own colour or in another; some are not filled, some filled carelessly.
    """
    contour = rng.choice(("", "", "ink", "ink", "pencil", "own", rng.choice(tuple(COLOURS))))
    filled = contour in ("", *COLOURS) or rng.random() < 0.7
    careless = contour != "" and filled and rng.random() < 0.4
    return Style(
        palette=rng.choice(tuple(PALETTES)),
        light=0.07 if rng.random() < 0.1 else 0.0,
        contour=contour,
        width=rng.uniform(0.02, 0.065) if contour else 0.0,
        filled=filled,
        miss=(rng.gauss(0, 0.04), rng.gauss(0, 0.04), rng.uniform(-0.012, 0.02)) if careless else (0.0,) * 3,
        wobble=_sample_wobble(rng) if rng.random() < 0.75 else (),
    )


def _sample_wobble(rng: random.Random) -> tuple[Wave, ...]:
    """A slow wave that bends an outline and a quick one that trembles, along x and along y."""
    sway, tremble = rng.uniform(0.02, 0.08), rng.uniform(0.005, 0.025)

    def wave(frequency: float, amplitude: float) -> Wave:
        turn = rng.uniform(0, math.pi)
        return Wave(
            frequency * math.cos(turn), frequency * math.sin(turn), rng.uniform(0, 2 * math.pi), amplitude
        )

    return tuple(
        wave(frequency, amplitude)
        for _ in range(2)
        for frequency, amplitude in ((rng.uniform(0.25, 0.6), sway), (rng.uniform(0.8, 1.6), tremble))
    )


def _as_drawn(thing: Thing, most: float, rng: random.Random) -> Thing:
    """A thing as people draw it: hardly shaded, mostly without a texture, a large one up to the radius
    `most`, its pattern grown with it.
    """
    larger = rng.uniform(1, most / thing.radius) if thing.size == "large" else 1.0
    return replace(
        thing,
        texture="plain" if rng.random() < 0.4 else thing.texture,
        shade=thing.shade / 2,
        radius=thing.radius * larger,
        period=thing.period * min(1.5, larger),
    )


def _place(rng: random.Random, radius: float, extent: tuple[float, float] = SQUARE) -> tuple[float, float]:
    low, (height, width) = radius + _MARGIN, extent
    return rng.uniform(low, width - radius - _MARGIN), rng.uniform(low, height - radius - _MARGIN)


def _clear(a: Thing, b: Thing, room: float = 1.0) -> bool:
    """Two things do not touch, were they `room` times as large, and it is plain which of left/above holds."""
    dx, dy = abs(a.x - b.x), abs(a.y - b.y)
    apart = math.hypot(dx, dy) >= room * (a.radius + b.radius)
    return apart and max(dx, dy) >= 1.35 * min(dx, dy)


def _ordered(things: tuple[Thing, ...]) -> tuple[Thing, ...]:
    """The left (or upper) thing first."""
    if len(things) < 2:
        return things
    a, b = things
    axis = (lambda t: t.x) if abs(b.x - a.x) >= abs(b.y - a.y) else (lambda t: t.y)
    return tuple(sorted(things, key=axis))


def is_held_out(scene: Scene) -> bool:
    """Whether a scene shows a colour × shape pair that is kept out of training."""
    return any((t.colour, t.shape) in HELD_OUT for t in scene.things)


def sample_scene(
    rng: random.Random,
    things: int | None = None,
    held_out: bool | None = False,
    *,
    plain: bool = False,
    extent: tuple[float, float] = SQUARE,
) -> Scene:
    """Draw a scene. `things`: 1, 2 or None for either; `held_out`: False (training), True (at least one
    held-out pair), None (any); plain: as people draw, in a style of `sample_style`, mostly on a flat ground,
    large things up to nearly as large as the picture; extent: height and width in shorter sides.
    """
    n = things if things is not None else rng.choice((1, 2))
    if n not in (1, 2):
        raise ArgumentError("things", f"a scene holds 1 or 2 things, got {things}")
    while True:
        background = "white" if plain and rng.random() < 0.3 else rng.choice(tuple(COLOURS))
        colours = [c for c in COLOURS if c != background]
        shapes = rng.sample(SHAPES, n)
        drawn = tuple(_sample_thing(rng, s, rng.choice(colours)) for s in shapes)
        if held_out:  # force a held-out pair into the first thing
            colour, shape = rng.choice(
                [p for p in sorted(HELD_OUT) if p[0] != background and p[1] not in shapes[1:]]
            )
            drawn = (replace(drawn[0], colour=colour, shape=shape), *drawn[1:])
        style = sample_style(rng) if plain else RENDERED
        if plain:
            drawn = tuple(_as_drawn(t, 0.42 if n == 1 else 0.32, rng) for t in drawn)
        room = 1.08 if plain else 1.0  # for outlines and hands that stray
        for _ in range(60):
            placed = tuple(
                replace(t, x=x, y=y) for t in drawn for x, y in [_place(rng, room * t.radius, extent)]
            )
            if n == 1 or _clear(*placed, room):
                ground = FLAT if plain and rng.random() < 0.8 else sample_ground(rng)
                scene = Scene(background, ground, _ordered(placed), style, extent)
                if held_out is None or is_held_out(scene) == held_out:
                    return scene
                break


# --------------------------------------------------------------------------- words


def _phrase(thing: Thing, size: bool = True) -> str:
    return with_article(
        thing.size if size else "",
        thing.texture if thing.texture != "plain" else "",
        thing.colour,
        thing.shape,
    )


def caption(scene: Scene, size: bool = True, background: bool = True) -> str:
    """The caption: every named attribute, or without the sizes or the background where those are False."""
    text = f" {scene.relation} ".join(_phrase(t, size) for t in scene.things)
    return f"{text} {on_background(scene.background)}" if background else text


ATTRIBUTES: dict[
    str, tuple[str, ...]
] = {  # what the oracle reader reads; "none" where there is no second thing
    "count": ("one", "two"),
    "background": tuple(COLOURS),
    "relation": ("none", *RELATIONS),
    **{
        f"{name}_{k}": (("none",) if k == 2 else ()) + tuple(values)
        for k in (1, 2)
        for name, values in (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES), ("texture", TEXTURES))
    },
}


def attributes(scene: Scene) -> dict[str, str]:
    """Every named attribute of a scene, keyed as in ATTRIBUTES."""
    found = {
        "count": "one" if len(scene.things) == 1 else "two",
        "background": scene.background,
        "relation": scene.relation or "none",
    }
    for k in (1, 2):
        thing = scene.things[k - 1] if k <= len(scene.things) else None
        found |= {
            f"{name}_{k}": getattr(thing, name, "none") for name in ("shape", "colour", "size", "texture")
        }
    return found


# --------------------------------------------------------------------------- edits


class Edit(NamedTuple):
    """One edit: kind (recolour, reshape, retexture, resize, background, add, remove, swap), the thing's
    index or None, the new value.
    """

    kind: str
    index: int | None
    value: str | Thing | None


def _free_place(scene: Scene, radius: float) -> tuple[float, float] | None:
    """Where a new thing of this radius fits best beside the one thing of a scene: the farthest clear
    point of a coarse grid.
    """
    old = scene.things[0]
    low, (height, width) = radius + _MARGIN, scene.extent
    right, bottom = width - radius - _MARGIN, height - radius - _MARGIN
    spots = [(low + (right - low) * i / 8, low + (bottom - low) * j / 8) for i in range(9) for j in range(9)]
    clear = [s for s in spots if _clear(old, replace(old, x=s[0], y=s[1], radius=radius))]
    return max(clear, key=lambda s: math.hypot(s[0] - old.x, s[1] - old.y)) if clear else None


def _candidates(scene: Scene) -> Iterator[Edit]:
    for i, thing in enumerate(scene.things):
        others = {t.shape for t in scene.things}
        yield from (Edit("recolour", i, c) for c in COLOURS if c not in (thing.colour, scene.background))
        yield from (Edit("reshape", i, s) for s in SHAPES if s not in others)
        yield from (Edit("retexture", i, t) for t in TEXTURES if t != thing.texture)
        yield from (Edit("resize", i, s) for s in SIZES if s != thing.size)
    yield from (
        Edit("background", None, c)
        for c in COLOURS
        if c not in {scene.background, *(t.colour for t in scene.things)}
    )
    if len(scene.things) == 2:
        yield from (Edit("remove", i, None) for i in (0, 1))
        yield Edit("swap", None, None)
    elif (place := _free_place(scene, SIZES["small"])) is not None:
        for shape in (s for s in SHAPES if s != scene.things[0].shape):
            for colour in (c for c in COLOURS if c != scene.background):
                yield Edit("add", None, Thing(shape, colour, "small", "plain", *place, SIZES["small"]))


def _fits(scene: Scene) -> bool:
    height, width = scene.extent
    inside = all(t.radius + _MARGIN <= min(t.x, t.y, width - t.x, height - t.y) + 1e-9 for t in scene.things)
    return inside and (len(scene.things) < 2 or _clear(*scene.things))


def edits(scene: Scene) -> list[Edit]:
    """Every edit that applies: the edited scene has a place for everything, no thing in its background's
    colour, no two of one shape.
    """
    return [e for e in _candidates(scene) if _fits(apply(scene, e))]


def apply(scene: Scene, edit: Edit) -> Scene:
    """The true edited scene. What the edit does not name stays as it was, unnamed properties included;
    only a thing that grows or changes places is pushed back into the picture where it would stick out."""
    kind, index, value = edit
    things = list(scene.things)
    if kind == "recolour":
        things[index] = replace(things[index], colour=value)
    elif kind == "reshape":
        things[index] = replace(things[index], shape=value)
    elif kind == "retexture":
        things[index] = replace(things[index], texture=value)
    elif kind == "resize":
        radius = things[index].radius * (SIZES[value] / SIZES[things[index].size])
        if value == "small":
            radius = min(radius, 1.07 * SIZES["small"])  # however large it was drawn
        things[index] = _inside(replace(things[index], size=value, radius=radius), scene.extent)
    elif kind == "background":
        return replace(scene, background=value)
    elif kind == "add":
        things.append(value)
    elif kind == "remove":
        del things[index]
    elif kind == "swap":
        a, b = things
        things = [
            _inside(replace(a, x=b.x, y=b.y), scene.extent),
            _inside(replace(b, x=a.x, y=a.y), scene.extent),
        ]
    else:
        raise ArgumentError(
            "edit",
            f"unknown kind {kind!r}; known: recolour, reshape, retexture, resize, background, add, "
            f"remove, swap",
        )
    return replace(scene, things=_ordered(tuple(things)))


def _inside(thing: Thing, extent: tuple[float, float]) -> Thing:
    """Pushed back into the picture where it would stick out."""
    low, (height, width) = thing.radius + _MARGIN, extent
    right, bottom = width - thing.radius - _MARGIN, height - thing.radius - _MARGIN
    return replace(thing, x=min(max(thing.x, low), right), y=min(max(thing.y, low), bottom))


def instruction(scene: Scene, edit: Edit) -> str:
    """What a person would say to ask for the edit: "make the star blue"."""
    kind, index, value = edit
    name = scene.things[index].shape if index is not None else None
    return {
        "recolour": f"make the {name} {value}",
        "reshape": f"turn the {name} into a {value}",
        "retexture": f"make the {name} {value}",
        "resize": f"make the {name} {value}",
        "background": f"change the background to {value}",
        "remove": f"remove the {name}",
        "add": f"add {_phrase(value)}" if isinstance(value, Thing) else "",
        "swap": "swap the " + " and the ".join(t.shape for t in scene.things),
    }[kind]


def changed_mask(scene: Scene, edit: Edit, size: Size = 64, tolerance: float = 1 / 255) -> Tensor:
    """The pixels that the true edit changes by more than `tolerance` of the range: (1, 1, rows, columns),
    1 = changed.
    """
    before, after = render([scene, apply(scene, edit)], size)
    return ((before - after).abs().amax(0) / 2 > tolerance).to(torch.float32)[None, None]
