"""Subjects: individual things that no caption can name, for methods that learn one from a few pictures.

A subject has the outline of a shape of the world, and what no word tells: two tones of its own, a pattern
of its own that turns with it, a face, a rim. A context says where and how it stands. What a model makes
of "a zwx star on a red background" can be compared with the very subject there, since any context can be
drawn:

    subject = sample_subject(random.Random(3))             # its class noun is subject.noun, "star"
    contexts = [sample_context(rng) for _ in range(4)]
    render_subject(subject, contexts)                      # (4, 3, 64, 64) in [−1, 1]: pictures to learn from
    asked = sample_context(rng, background="red")
    caption(asked, "zwx", subject.noun)                                    # "a zwx star on a red background"
    render_subject(subject, asked)                                         # the truth

The task is DreamBooth's (arXiv:2208.12242v2, Sec. 4.1): the subject in new scenes, in another colour,
beside other things."""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.arguments import ArgumentError
from palimpsest.worlds.drawing import OUTLINES, _column, _disc, _grid, _local, _paint_ground, _paint_things
from palimpsest.worlds.scene import COLOURS, SHAPES, SIZES, Ground, Scene, Thing, with_article
from palimpsest.worlds.shapes import _clear, _ordered, _phrase, _place, _sample_thing, sample_ground

RGB = tuple[float, float, float]
PATTERNS = ("stripes", "dots", "checks", "halves", "rings")
MOUTHS = ("smile", "grin", "flat", "frown", "round")
FACE = {  # shape -> (x, y, scale) of the face, in radii: where the shape is wide enough
    "circle": (0.0, 0.0, 0.56),
    "square": (0.0, 0.0, 0.56),
    "triangle": (0.0, 0.24, 0.42),
    "star": (0.0, 0.04, 0.46),
    "heart": (0.0, -0.1, 0.54),
    "ring": (0.0, -0.70, 0.25),
    "cross": (0.0, 0.0, 0.40),
    "crescent": (-0.70, 0.0, 0.32),
    "diamond": (0.0, 0.0, 0.42),
    "flower": (0.0, 0.0, 0.5),
}
RISE = {
    "smile": 0.26,
    "grin": 0.42,
    "flat": 0.0,
    "frown": -0.26,
    "round": 0.0,
}  # mouth -> how far its corners rise, in units of the face
_INK = (0.10, 0.09, 0.12)
AT_ONCE = 64 * 64 * 64  # pixels drawn at once


class Face(NamedTuple):
    """Two eyes and a mouth, in units of the face: eye radius, distance from the middle, where the pupils
    look, mouth.
    """

    eye: float
    apart: float
    gaze: tuple[float, float]
    mouth: str


@dataclass(frozen=True)
class Subject:
    """One individual. Colours are RGB in [0, 1]; `period` of the pattern and `rim`, the width of the
    outline, are in radii.
    """

    noun: str  # its class: a shape of the world
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
    """How a subject stands in a picture. Lengths are fractions of the width, angles radians; y grows
    downwards.

    colour: a named colour that its first tone takes, None for its own; other: a second thing in the picture.
    """

    background: str
    ground: Ground
    x: float
    y: float
    radius: float
    size: str = "large"
    tilt: float = 0.0
    shade: float = 0.0
    colour: str | None = None
    other: Thing | None = None


# --------------------------------------------------------------------------- sampling


def sample_subject(rng: random.Random, noun: str | None = None) -> Subject:
    """Draw an individual; noun: of this class. Raises ValueError for a noun that is no shape of the world."""
    if noun is not None and noun not in SHAPES:
        raise ArgumentError("noun", f"a subject is one of {', '.join(SHAPES)}, got {noun!r}")
    hue, turn = rng.random(), rng.uniform(0.28, 0.72)  # two hues well apart
    first = colorsys.hsv_to_rgb(hue, rng.uniform(0.55, 0.9), rng.uniform(0.70, 0.95))
    second = colorsys.hsv_to_rgb((hue + turn) % 1, rng.uniform(0.25, 0.6), rng.uniform(0.88, 1.0))
    rim = (
        colorsys.hsv_to_rgb((hue + rng.uniform(-0.1, 0.1)) % 1, 0.75, 0.34)
        if rng.random() < 0.6
        else (0.97, 0.96, 0.92)
    )
    angle = rng.uniform(0, 2 * math.pi)
    face = Face(
        rng.uniform(0.30, 0.40),
        rng.uniform(0.44, 0.56),
        (math.cos(angle), math.sin(angle)),
        rng.choice(MOUTHS),
    )
    return Subject(
        noun or rng.choice(SHAPES),
        (first, second),
        rng.choice(PATTERNS),
        rng.uniform(0.52, 0.72),
        rng.uniform(0, math.pi),
        (rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5)),
        face,
        rng.uniform(0.08, 0.12),
        rim,
    )


def sample_context(
    rng: random.Random,
    background: str | None = None,
    size: str = "large",
    colour: str | None = None,
    other: bool = False,
    noun: str | None = None,
) -> Context:
    """Draw a context: a place, a tilt, a ground. What is given is kept; other=True sets a small thing
    beside the subject.

    noun: the subject's, so that the other thing is of another shape.

    Raises ValueError for a background, size or colour that the world does not have.
    """
    for name, value, known in (
        ("background", background, COLOURS),
        ("size", size, SIZES),
        ("colour", colour, COLOURS),
    ):
        if value is not None and value not in known:
            raise ValueError(f"{name}: must be one of {', '.join(known)}, got {value!r}")
    background = background or rng.choice([name for name in COLOURS if name != colour])
    radius = SIZES[size] * rng.uniform(1.05, 1.25)  # a little larger than things are: there is a face to see
    while True:
        x, y = _place(rng, radius)
        thing = None
        if other:
            thing = _sample_thing(
                rng,
                rng.choice([s for s in SHAPES if s != noun]),
                rng.choice([c for c in COLOURS if c != background]),
            )
            small = SIZES["small"] * rng.uniform(0.94, 1.06)
            tx, ty = _place(rng, small)
            thing = Thing(
                thing.shape,
                thing.colour,
                "small",
                thing.texture,
                tx,
                ty,
                small,
                thing.tilt,
                thing.shade,
                thing.period,
                thing.slant,
                thing.phase,
            )
        found = Context(
            background,
            sample_ground(rng),
            x,
            y,
            radius,
            size,
            rng.uniform(-0.45, 0.45),
            rng.uniform(-0.04, 0.04),
            colour,
            thing,
        )
        if thing is None or _clear(_stand_in(found), thing):
            return found


def _stand_in(context: Context, noun: str = "circle") -> Thing:
    """The subject as a thing of the world, for questions of place."""
    return Thing(noun, "white", context.size, "plain", context.x, context.y, context.radius)


# --------------------------------------------------------------------------- words


def caption(context: Context, identifier: str | None, noun: str | None, background: bool = True) -> str:
    """What a caption can say: "a red zwx star left of a small blue ring on a white background".

    identifier, noun: None leaves that word out ("a zwx", "a star"). The rest is the context's. Raises
    ValueError without both."""
    if not (identifier or noun):
        raise ValueError("identifier, noun: give at least one; a caption must name something")
    parts = [with_article(context.colour or "", identifier or "", noun or "")]
    if context.other is not None:
        me = _stand_in(context)
        things = _ordered((me, context.other))
        parts = [parts[0] if thing is me else _phrase(thing) for thing in things]
        parts = [f" {Scene(context.background, context.ground, things).relation} ".join(parts)]
    where = (
        f" on a{'n' if context.background == 'orange' else ''} {context.background} background"
        if background
        else ""
    )
    return parts[0] + where


# --------------------------------------------------------------------------- pictures


def _rows(values: Sequence[str]) -> dict[str, list[int]]:
    """Which rows have a value: for what is drawn by another formula for each."""
    return {value: [i for i, v in enumerate(values) if v == value] for value in dict.fromkeys(values)}


def _outlines(subjects: Sequence[Subject], u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to each outline, in radii: (n y x)."""
    distance = torch.empty_like(u)
    for noun, rows in _rows([s.noun for s in subjects]).items():
        distance[rows] = OUTLINES[noun](u[rows], v[rows])
    return distance


def _patterns(subjects: Sequence[Subject], u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to the second tone, in radii: (n y x), in each subject's own frame, so that the
    pattern turns with it.
    """
    distance = torch.empty_like(u)
    for pattern, rows in _rows([s.pattern for s in subjects]).items():
        some = [subjects[i] for i in rows]
        c, s, period = (
            _column(x) for x in zip(*((math.cos(z.slant), math.sin(z.slant), z.period) for z in some))
        )
        phase_a, phase_b = (_column([z.phase[k] for z in some]) for k in range(2))
        if pattern == "rings":
            r = torch.hypot(u[rows], v[rows]) / (0.8 * period)
            distance[rows] = ((r - r.round()).abs() - 0.25) * 0.8 * period
            continue
        along, across = c * u[rows] + s * v[rows], c * v[rows] - s * u[rows]
        if pattern == "halves":
            distance[rows] = along + 0.15 * phase_a
            continue
        a, b = along / period + phase_a, across / period + phase_b
        near_a, near_b = a - a.round(), b - b.round()  # in periods, from the nearest stripe or dot
        if pattern == "stripes":
            distance[rows] = (near_a.abs() - 0.25) * period
        elif pattern == "dots":
            distance[rows] = (torch.hypot(near_a, near_b) - 0.30) * period
        else:  # checks
            to_a, to_b = near_a.abs() - 0.25, near_b.abs() - 0.25
            distance[rows] = torch.minimum(to_a.abs(), to_b.abs()) * -(to_a * to_b).sign() * period
    return distance


def _mouths(kinds: Sequence[str], x: Tensor, y: Tensor) -> Tensor:
    """Signed distance to each mouth, in units of the face: an arch through (0, .55), or a round one. (n y
    x)
    """
    rise = _column([RISE[kind] for kind in kinds])
    half = 0.42
    t = x / half
    arch = (y - (0.50 + rise * (0.6 - t * t))).abs() / torch.sqrt(1 + (2 * rise * t / half) ** 2)
    distance = torch.maximum(arch - 0.085, x.abs() - half)
    if rows := [i for i, kind in enumerate(kinds) if kind == "round"]:
        distance[rows] = _disc(x[rows], y[rows], 0, 0.58, 0.17)
    return distance


def render_subject(subject: Subject, contexts: Context | Sequence[Context], size: int = 64) -> Tensor:
    """Draw a subject in one context or in many: (b, 3, size, size) float32 in [−1, 1]. Any size draws the
    same picture.
    """
    contexts = [contexts] if isinstance(contexts, Context) else list(contexts)
    return render_subjects([subject] * len(contexts), contexts, size)


def render_subjects(subjects: Sequence[Subject], contexts: Sequence[Context], size: int = 64) -> Tensor:
    """Draw each subject in its own context: (b, 3, size, size) float32 in [−1, 1].

    So many are drawn at once that the cost of a call is small, and no more, for the cache's sake.
    """
    n, pixels = len(subjects), size * size
    if n != len(contexts):
        raise ArgumentError("contexts", f"one for each subject, {n}; got {len(contexts)}")
    at_once = max(1, AT_ONCE // pixels)
    made = torch.empty((n, 3, size, size))
    for i in range(0, n, at_once):
        made[i : i + at_once] = _paint(subjects[i : i + at_once], contexts[i : i + at_once], size)
    return made


def _paint(subjects: Sequence[Subject], contexts: Sequence[Context], size: int) -> Tensor:
    """`render_subjects` of few."""
    x, y = _grid(size)
    scenes = [Scene(c.background, c.ground, () if c.other is None else (c.other,)) for c in contexts]
    canvas = _paint_things(_paint_ground(scenes, x, y), scenes, x, y, 1 / size)
    u, v = _local(contexts, x, y)
    pixels = _column([c.radius * size for c in contexts])  # of a radius

    def column(rgbs: Sequence[RGB]) -> Tensor:
        return torch.tensor(rgbs, dtype=torch.float32)[:, :, None, None]

    def lay(cover: Tensor, colour: Tensor) -> None:
        canvas.lerp_(colour, cover[:, None])

    def cover(distance: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """How much of each pixel lies where a distance, in radii / scale, is negative."""
        return (distance * (-scale * pixels)).add_(0.5).clamp_(0, 1)

    body = _outlines(subjects, u, v)
    inside = cover(body)
    light = (_column([c.shade for c in contexts]) - 0.07 * v.clamp(-1, 1))[:, None]  # lit softly from above
    first = column([COLOURS[c.colour] if c.colour else s.tones[0] for s, c in zip(subjects, contexts)])
    lay(inside, (first + light).clamp_(0, 1))
    lay(
        cover(_patterns(subjects, u, v)).mul_(inside),
        (column([s.tones[1] for s in subjects]) + light).clamp_(0, 1),
    )
    lay(
        cover(-body - _column([s.rim for s in subjects])).mul_(inside),
        column([s.rim_colour for s in subjects]),
    )  # within the outline

    cx, cy, scale = (_column(z) for z in zip(*(FACE[s.noun] for s in subjects)))
    eye, apart = _column([s.face.eye for s in subjects]), [s.face.apart for s in subjects]
    gaze_x, gaze_y = (_column([0.13 * s.face.gaze[k] for s in subjects]) for k in range(2))
    fx, fy = (u - cx) / scale, (v - cy) / scale
    under, white = torch.ones_like(u), torch.zeros_like(u)  # shares; the rest of a pixel is ink

    def lay_face(share: Tensor, whiten: bool = False) -> None:
        share = share.mul_(inside)
        under.sub_(under * share)
        white.sub_(white * share)
        if whiten:
            white.add_(share)

    ey = fy + 0.22
    for side in (-1, 1):
        ex = fx - side * _column(apart)
        r = (ex * ex + ey * ey).sqrt_()
        lay_face(cover(r - eye - 0.10, scale))
        lay_face(cover(r - eye, scale), whiten=True)
        lay_face(cover(((ex - gaze_x) ** 2 + (ey - gaze_y) ** 2).sqrt_() - 0.55 * eye, scale))
    lay_face(cover(_mouths([s.face.mouth for s in subjects], fx, fy), scale))
    ink = torch.tensor(_INK)[:, None, None]
    return (
        canvas.mul_(under[:, None])
        .add_(white[:, None])
        .addcmul_((1 - under - white)[:, None], ink)
        .mul_(2)
        .sub_(1)
    )


def subject_mask(subject: Subject, contexts: Context | Sequence[Context], size: int = 64) -> Tensor:
    """Where the subject is: (b, 1, size, size) in [0, 1], the coverage of each pixel."""
    contexts = [contexts] if isinstance(contexts, Context) else list(contexts)
    u, v = _local(contexts, *_grid(size))
    return (0.5 - OUTLINES[subject.noun](u, v) * _column([c.radius for c in contexts]) * size).clamp(0, 1)[
        :, None
    ]
