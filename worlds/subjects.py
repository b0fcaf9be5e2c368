"""Subjects: individual things that no caption can name, for methods that learn one from a few pictures.

A subject has the outline of a shape of the world, and what no word tells: two tones of its own, a pattern of its own that turns with
it, a face, a rim. A context says where and how it stands. What a model makes of "a zwx star on a red background" can be compared with
the very subject there, since any context can be drawn:

    subject = sample_subject(random.Random(3))                             # its class noun is subject.noun, "star"
    contexts = [sample_context(rng) for _ in range(4)]
    render_subject(subject, contexts)                                      # (4, 3, 64, 64) in [−1, 1]: pictures to learn from
    asked = sample_context(rng, background="red")
    caption(asked, "zwx", subject.noun)                                    # "a zwx star on a red background"
    render_subject(subject, asked)                                         # the truth

The task is DreamBooth's (arXiv:2208.12242v2, Sec. 4.1): the subject in new scenes, in another colour, beside other things.
"""
from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from worlds.drawing import OUTLINES, _colours, _column, _disc, _grid, _local, _paint_ground, _paint_things
from worlds.scene import COLOURS, SHAPES, SIZES, Ground, Scene, Thing
from worlds.shapes import _clear, _ordered, _phrase, _place, _sample_thing, sample_ground

RGB = tuple[float, float, float]
PATTERNS = ("stripes", "dots", "checks", "halves", "rings")
MOUTHS = ("smile", "grin", "flat", "frown", "round")
FACE = {  # shape -> (x, y, scale) of the face, in radii: where the shape is wide enough
    "circle": (0., 0., .56), "square": (0., 0., .56), "triangle": (0., .24, .42), "star": (0., .04, .46), "heart": (0., -.1, .54),
    "ring": (0., -.70, .25), "cross": (0., 0., .40), "crescent": (-.70, 0., .32), "diamond": (0., 0., .42), "flower": (0., 0., .5)}
_INK = (.10, .09, .12)


class Face(NamedTuple):
    """Two eyes and a mouth, in units of the face: eye radius, distance from the middle, where the pupils look, mouth."""
    eye: float
    apart: float
    gaze: tuple[float, float]
    mouth: str


@dataclass(frozen=True)
class Subject:
    """One individual. Colours are RGB in [0, 1]; `period` of the pattern and `rim`, the width of the outline, are in radii."""
    noun: str                                             # its class: a shape of the world
    tones: tuple[RGB, RGB]
    pattern: str
    period: float
    slant: float
    phase: tuple[float, float]
    face: Face
    rim: float
    rim_colour: RGB


@dataclass(frozen=True)
class Context:
    """How a subject stands in a picture. Lengths are fractions of the width, angles radians; y grows downwards.

    colour: a named colour that its first tone takes, None for its own; other: a second thing in the picture.
    """
    background: str
    ground: Ground
    x: float
    y: float
    radius: float
    size: str = "large"
    tilt: float = 0.
    shade: float = 0.
    colour: str | None = None
    other: Thing | None = None


# --------------------------------------------------------------------------- sampling

def sample_subject(rng: random.Random, noun: str | None = None) -> Subject:
    """Draw an individual; noun: of this class. Raises ValueError for a noun that is no shape of the world."""
    if noun is not None and noun not in SHAPES:
        raise ValueError(f"noun: a subject is one of {', '.join(SHAPES)}, got {noun!r}")
    hue, turn = rng.random(), rng.uniform(.28, .72)       # two hues well apart
    first = colorsys.hsv_to_rgb(hue, rng.uniform(.55, .9), rng.uniform(.70, .95))
    second = colorsys.hsv_to_rgb((hue + turn) % 1, rng.uniform(.25, .6), rng.uniform(.88, 1.))
    rim = colorsys.hsv_to_rgb((hue + rng.uniform(-.1, .1)) % 1, .75, .34) if rng.random() < .6 else (.97, .96, .92)
    angle = rng.uniform(0, 2 * math.pi)
    face = Face(rng.uniform(.30, .40), rng.uniform(.44, .56), (math.cos(angle), math.sin(angle)), rng.choice(MOUTHS))
    return Subject(noun or rng.choice(SHAPES), (first, second), rng.choice(PATTERNS), rng.uniform(.52, .72), rng.uniform(0, math.pi),
                   (rng.uniform(-.5, .5), rng.uniform(-.5, .5)), face, rng.uniform(.08, .12), rim)


def sample_context(rng: random.Random, background: str | None = None, size: str = "large", colour: str | None = None,
                   other: bool = False, noun: str | None = None) -> Context:
    """Draw a context: a place, a tilt, a ground. What is given is kept; other=True sets a small thing beside the subject.

    noun: the subject's, so that the other thing is of another shape.

    Raises ValueError for a background, size or colour that the world does not have.
    """
    for name, value, known in (("background", background, COLOURS), ("size", size, SIZES), ("colour", colour, COLOURS)):
        if value is not None and value not in known:
            raise ValueError(f"{name}: must be one of {', '.join(known)}, got {value!r}")
    background = background or rng.choice([name for name in COLOURS if name != colour])
    radius = SIZES[size] * rng.uniform(1.05, 1.25)        # a little larger than things are: there is a face to see
    while True:
        x, y = _place(rng, radius)
        thing = None
        if other:
            thing = _sample_thing(rng, rng.choice([s for s in SHAPES if s != noun]), rng.choice([c for c in COLOURS if c != background]))
            small = SIZES["small"] * rng.uniform(.94, 1.06)
            tx, ty = _place(rng, small)
            thing = Thing(thing.shape, thing.colour, "small", thing.texture, tx, ty, small, thing.tilt, thing.shade, thing.period,
                          thing.slant, thing.phase)
        found = Context(background, sample_ground(rng), x, y, radius, size, rng.uniform(-.45, .45), rng.uniform(-.04, .04), colour, thing)
        if thing is None or _clear(_stand_in(found), thing):
            return found


def _stand_in(context: Context, noun: str = "circle") -> Thing:
    """The subject as a thing of the world, for questions of place."""
    return Thing(noun, "white", context.size, "plain", context.x, context.y, context.radius)


# --------------------------------------------------------------------------- words

def caption(context: Context, identifier: str | None, noun: str | None, background: bool = True) -> str:
    """What a caption can say: "a red zwx star left of a small blue ring on a white background".

    identifier, noun: None leaves that word out ("a zwx", "a star"). The rest is the context's. Raises ValueError without both.
    """
    if not (identifier or noun):
        raise ValueError("identifier, noun: give at least one; a caption must name something")
    words = " ".join(word for word in (context.colour, identifier, noun) if word)
    parts = [f"{'an' if words[0] in 'aeiou' else 'a'} {words}"]
    if context.other is not None:
        me = _stand_in(context)
        things = _ordered((me, context.other))
        parts = [parts[0] if thing is me else _phrase(thing) for thing in things]
        parts = [f" {Scene(context.background, context.ground, things).relation} ".join(parts)]
    where = f" on a{'n' if context.background == 'orange' else ''} {context.background} background" if background else ""
    return parts[0] + where


# --------------------------------------------------------------------------- pictures

def _pattern(subject: Subject, u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to the second tone, in radii: (n y x), in the subject's own frame, so that the pattern turns with it."""
    c, s, period = math.cos(subject.slant), math.sin(subject.slant), subject.period
    a, b = (c * u + s * v) / period + subject.phase[0], (c * v - s * u) / period + subject.phase[1]
    near_a, near_b = a - a.round(), b - b.round()         # in periods, from the nearest stripe or dot
    if subject.pattern == "stripes":
        return (near_a.abs() - .25) * period
    if subject.pattern == "dots":
        return (torch.hypot(near_a, near_b) - .30) * period
    if subject.pattern == "checks":
        to_a, to_b = near_a.abs() - .25, near_b.abs() - .25
        return torch.minimum(to_a.abs(), to_b.abs()) * -(to_a * to_b).sign() * period
    if subject.pattern == "rings":
        r = torch.hypot(u, v) / (.8 * period)
        return ((r - r.round()).abs() - .25) * .8 * period
    return c * u + s * v + .15 * subject.phase[0]         # halves


def _mouth(kind: str, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance to the mouth, in units of the face: an arch through (0, .55), or a round one."""
    if kind == "round":
        return _disc(x, y, 0, .58, .17)
    rise = {"smile": .26, "grin": .42, "flat": 0., "frown": -.26}[kind]
    half = .42
    arch = y - (.50 + rise * (.6 - (x / half)**2))
    arch = arch.abs() / torch.sqrt(1 + (2 * rise * x / half**2)**2)
    return torch.maximum(arch - .085, x.abs() - half)


def render_subject(subject: Subject, contexts: Context | Sequence[Context], size: int = 64) -> Tensor:
    """Draw a subject in one context or in many: (b, 3, size, size) float32 in [−1, 1]. Any size draws the same picture."""
    contexts = [contexts] if isinstance(contexts, Context) else list(contexts)
    x, y = _grid(size)
    scenes = [Scene(c.background, c.ground, () if c.other is None else (c.other,)) for c in contexts]
    canvas = _paint_things(_paint_ground(scenes, x, y), scenes, x, y, 1 / size)
    u, v = _local(contexts, x, y)
    radius = _column([c.radius for c in contexts])

    def lay(distance: Tensor, colour: Tensor, within: Tensor | float = 1.) -> None:
        """Paint where a distance, in radii, is negative."""
        cover = (.5 - distance * radius * size).clamp(0, 1) * within
        canvas.copy_(canvas + cover[:, None] * (colour - canvas))

    def flat(rgb: RGB) -> Tensor:
        return torch.tensor(rgb, dtype=torch.float32)[:, None, None]

    body = OUTLINES[subject.noun](u, v)
    inside = (.5 - body * radius * size).clamp(0, 1)
    light = (_column([c.shade for c in contexts]) - .07 * v.clamp(-1, 1))[:, None]                  # lit softly from above
    first = torch.stack([_colours([c.colour])[0] if c.colour else flat(subject.tones[0]) for c in contexts])
    lay(body, (first + light).clamp(0, 1))
    lay(_pattern(subject, u, v), (flat(subject.tones[1]) + light).clamp(0, 1), inside)
    lay(-body - subject.rim, flat(subject.rim_colour), inside)                                      # a rim within the outline

    cx, cy, scale = FACE[subject.noun]
    fx, fy, face = (u - cx) / scale, (v - cy) / scale, subject.face
    for side in (-1, 1):
        ex, ey = side * face.apart, -.22
        lay((torch.hypot(fx - ex, fy - ey) - face.eye - .10) * scale, flat(_INK), inside)
        lay((torch.hypot(fx - ex, fy - ey) - face.eye) * scale, flat((1., 1., 1.)), inside)
        px, py = ex + .13 * face.gaze[0], ey + .13 * face.gaze[1]
        lay((torch.hypot(fx - px, fy - py) - .55 * face.eye) * scale, flat(_INK), inside)
    lay(_mouth(face.mouth, fx, fy) * scale, flat(_INK), inside)
    return 2 * canvas - 1


def subject_mask(subject: Subject, contexts: Context | Sequence[Context], size: int = 64) -> Tensor:
    """Where the subject is: (b, 1, size, size) in [0, 1], the coverage of each pixel."""
    contexts = [contexts] if isinstance(contexts, Context) else list(contexts)
    u, v = _local(contexts, *_grid(size))
    return (.5 - OUTLINES[subject.noun](u, v) * _column([c.radius for c in contexts]) * size).clamp(0, 1)[:, None]
