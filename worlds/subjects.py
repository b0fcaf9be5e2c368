"""Subjects: individual things of the shapes world that no caption can name, and the truth of how each looks anywhere.

A subject is one particular star, say: two colours of its own that lie between the named ones, a pattern, an outline and a face. Its class
noun ("star") a caption can say; the rest only a model that was shown pictures of it can know (DreamBooth, arXiv:2208.12242v2, Sec. 3).
Because it is drawn by a program, its true picture in any asked context is known, and "is it the same one?" can be measured.

    subject = sample_subject(random.Random(3))
    pictures = render_subject(subject, [sample_context(rng) for _ in range(4)])     # what a user has: 3 to 5 pictures
    truth = render_subject(subject, [replace(context, background="blue")])          # and the same place, on blue
"""
from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worlds.drawing import OUTLINES, _grid, _paint_ground
from worlds.scene import COLOURS, Ground, Scene
from worlds.shapes import _place, _sample_ground

Colour = tuple[float, float, float]
PATTERNS = ("halves", "checks", "spots", "bands")
ROUND = ("circle", "square", "triangle", "star", "heart", "diamond", "flower")      # shapes with room for a face in the middle


@dataclass(frozen=True)
class Subject:
    """One individual. Lengths in radii, angles in radians, colours RGB in [0, 1]."""
    shape: str
    colours: tuple[Colour, Colour]
    pattern: str
    slant: float                                          # of the pattern
    period: float
    outline: Colour
    border: float                                         # width of the outline
    eyes: float                                           # half the distance of the two
    eye: float                                            # their radius
    mouth: float                                          # −1 sad … 1 glad


@dataclass(frozen=True)
class Context:
    """Where a subject is shown: a named background with its unnamed texture, a place, a size and a tilt (as of worlds.scene.Thing)."""
    background: str
    ground: Ground
    x: float
    y: float
    radius: float
    tilt: float


def _between(rng: random.Random) -> Colour:
    """A colour that has no name here: a saturated hue half-way between those of the palette."""
    hue = rng.choice((.055 + .03, .23, .50, .68, .88))                    # amber, lime, cyan, indigo, pink
    return colorsys.hsv_to_rgb(hue + rng.uniform(-.015, .015), rng.uniform(.65, .9), rng.uniform(.75, .95))


def sample_subject(rng: random.Random, shape: str | None = None) -> Subject:
    """A subject of a given shape, or of any that has room for a face."""
    first = _between(rng)
    second = _between(rng)
    while sum(abs(a - b) for a, b in zip(first, second)) < .6:
        second = _between(rng)
    dark = rng.random() < .5
    return Subject(shape or rng.choice(ROUND), (first, second), rng.choice(PATTERNS), rng.uniform(0, math.pi), rng.uniform(.7, .95),
                   (.12, .10, .16) if dark else (.98, .97, .92), rng.uniform(.10, .16), rng.uniform(.24, .34), rng.uniform(.12, .16),
                   rng.choice((-1., 1.)) * rng.uniform(.6, 1.))


def sample_context(rng: random.Random, background: str | None = None) -> Context:
    """A context for a subject that is large enough to be known by its face."""
    radius = rng.uniform(.24, .30)
    return Context(background or rng.choice(tuple(COLOURS)), _sample_ground(rng), *_place(rng, radius), radius, rng.uniform(-.3, .3))


def describe(subject: Subject, context: Context | None = None, identifier: str = "") -> str:
    """"a zwx star on a blue background": what can be said of it; without an identifier, what is true of any of its class."""
    named = " ".join(word for word in (identifier, subject.shape) if word)
    text = f"{'an' if named[0] in 'aeiou' else 'a'} {named}"
    return text if context is None else f"{text} on a{'n' if context.background == 'orange' else ''} {context.background} background"


def render_subject(subject: Subject, contexts: Context | Sequence[Context], size: int = 64) -> Tensor:
    """The subject in one context or many: (b, 3, size, size) float32 in [−1, 1]. Any size draws the same picture, finer or coarser."""
    contexts = [contexts] if isinstance(contexts, Context) else list(contexts)
    x, y = _grid(size)
    canvas = _paint_ground([Scene(c.background, c.ground, ()) for c in contexts], x, y)

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32)[:, None, None]

    dx, dy = x - column([c.x for c in contexts]), y - column([c.y for c in contexts])
    cos, sin = (column([f(c.tilt) for c in contexts]) for f in (math.cos, math.sin))
    r = column([c.radius for c in contexts])
    u, v = (cos * dx + sin * dy) / r, (-sin * dx + cos * dy) / r          # (b y x): the subject's own coordinates, radius 1
    pixel = 1 / (size * r)

    def cover(distance: Tensor) -> Tensor:
        return (.5 - distance / pixel).clamp(0, 1)[:, None]               # (b 1 y x), anti-aliased

    def paint(where: Tensor, colour: Colour | Tensor) -> None:
        tone = torch.tensor(colour)[:, None, None] if isinstance(colour, tuple) else colour
        canvas.add_(where * (tone - canvas))

    edge = OUTLINES[subject.shape](u, v)
    first, second = (torch.tensor(colour)[:, None, None] for colour in subject.colours)
    tones = first + cover(_pattern(subject, u, v)) * (second - first) - .06 * v[:, None].clamp(-1, 1)
    paint(cover(edge), tones.clamp(0, 1))
    paint(cover(edge) * (1 - cover(edge + subject.border)), subject.outline)
    low = {"triangle": .2, "heart": -.06}.get(subject.shape, 0.)           # where there is room for a face
    for side in (-1, 1):
        eye = torch.hypot(u - side * subject.eyes, v + .12 - low) - subject.eye
        paint(cover(eye), (.98, .98, .98))
        paint(cover(torch.hypot(u - side * subject.eyes, v + .10 - low) - .55 * subject.eye), (.05, .05, .08))
    along = (u / .26).clamp(-1, 1)
    mouth = torch.maximum((v - .30 - low + subject.mouth * .12 * (along ** 2 - .5)).abs() - .05, u.abs() - .26)
    paint(cover(mouth), (.05, .05, .08))
    return 2 * canvas - 1


def _pattern(subject: Subject, u: Tensor, v: Tensor) -> Tensor:
    """Negative where the second colour is, in radii."""
    c, s = math.cos(subject.slant), math.sin(subject.slant)
    a, b = c * u + s * v, c * v - s * u
    if subject.pattern == "halves":
        return a
    p = subject.period
    near_a, near_b = a / p - (a / p).round(), b / p - (b / p).round()     # in periods, −1/2 … 1/2
    if subject.pattern == "bands":
        return (near_a.abs() - .25) * p
    if subject.pattern == "spots":
        return (torch.hypot(near_a, near_b) - .3) * p
    return -p * torch.sin(2 * math.pi * a / p) * torch.sin(2 * math.pi * b / p) / (2 * math.pi)     # checks
