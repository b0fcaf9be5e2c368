"""The shapes world as data: what a scene is, and every word that can describe one.

A scene is a named background colour with an *unnamed* texture on it, and one or two things. A thing's
shape, colour, size and texture are what a caption tells; its place, tilt, shade and the phase of its
pattern are what no caption tells and an edit must keep; so is the style in which all of it is drawn.
Lengths are fractions of the picture's shorter side, angles are radians, x grows to the right and y grows
downwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "crescent", "diamond", "flower")
COLOURS = {  # name -> RGB in [0, 1]
    "red": (0.86, 0.14, 0.16),
    "orange": (0.97, 0.55, 0.10),
    "yellow": (0.98, 0.87, 0.22),
    "green": (0.15, 0.63, 0.27),
    "blue": (0.14, 0.38, 0.86),
    "purple": (0.54, 0.22, 0.72),
    "white": (0.95, 0.95, 0.95),
    "black": (0.10, 0.10, 0.12),
}
PALETTES = {  # name -> what a named colour looks like to someone with these paints; "world" is COLOURS
    "world": COLOURS,
    "program": {  # the paints that a paint program offers
        "red": (0.93, 0.11, 0.14),
        "orange": (1.00, 0.50, 0.15),
        "yellow": (1.00, 0.95, 0.00),
        "green": (0.13, 0.69, 0.30),
        "blue": (0.25, 0.28, 0.80),
        "purple": (0.64, 0.29, 0.64),
        "white": (1.00, 1.00, 1.00),
        "black": (0.00, 0.00, 0.00),
    },
    "pure": {  # the names that a browser knows
        "red": (1.00, 0.00, 0.00),
        "orange": (1.00, 0.65, 0.00),
        "yellow": (1.00, 1.00, 0.00),
        "green": (0.00, 0.60, 0.00),
        "blue": (0.00, 0.00, 1.00),
        "purple": (0.50, 0.00, 0.50),
        "white": (1.00, 1.00, 1.00),
        "black": (0.00, 0.00, 0.00),
    },
    "bright": {
        "red": (1.00, 0.25, 0.22),
        "orange": (1.00, 0.58, 0.00),
        "yellow": (1.00, 0.85, 0.10),
        "green": (0.25, 0.85, 0.30),
        "blue": (0.00, 0.48, 1.00),
        "purple": (0.66, 0.30, 0.95),
        "white": (0.98, 0.98, 0.98),
        "black": (0.08, 0.08, 0.08),
    },
    "crayon": {
        "red": (0.84, 0.26, 0.26),
        "orange": (0.94, 0.58, 0.25),
        "yellow": (0.96, 0.86, 0.38),
        "green": (0.34, 0.65, 0.36),
        "blue": (0.30, 0.49, 0.80),
        "purple": (0.53, 0.34, 0.65),
        "white": (0.98, 0.97, 0.94),
        "black": (0.19, 0.18, 0.19),
    },
}
INK = {
    "ink": (0.10, 0.10, 0.12),
    "pencil": (0.36, 0.36, 0.39),
}  # what an outline is drawn with, of no colour's name
SIZES = {"small": 0.155, "large": 0.24}  # name -> mean radius
TEXTURES = ("plain", "striped", "dotted")  # a caption says nothing of "plain"
RELATIONS = ("left of", "above")
CONVERSE = {"right of": "left of", "below": "above"}  # "B right of A" says "A left of B"

# Colour × shape pairs that no training picture shows: the test of composition.
HELD_OUT = frozenset(
    {
        ("red", "crescent"),
        ("orange", "ring"),
        ("yellow", "cross"),
        ("green", "heart"),
        ("blue", "flower"),
        ("purple", "star"),
        ("white", "triangle"),
        ("black", "diamond"),
    }
)

# Words that no caption uses: the rare identifiers that a fine-tuning can give a meaning (DreamBooth,
# arXiv:2208.12242v2, Sec. 3.2).
RARE_WORDS = ("zwx", "qev", "blorp", "vint", "snarf", "plim", "jurd", "kex")

SAID = (  # what captions and instructions say beside the names above
    "a an the on background left of above and make turn into change to add remove swap with replace in "
    "picture "
    "photo painting"
).split()
LATER = "right below it is that thing upper lower".split()  # newer words come last: no token is renumbered

WORDS = tuple(sorted({*SHAPES, *COLOURS, *SIZES, *TEXTURES, *SAID})) + RARE_WORDS + tuple(LATER)


class Wave(NamedTuple):
    """One cosine: fx, fy in cycles per unit of length, phase in radians, amplitude. Of a background, per
    shorter side and in brightness; of a hand that wobbles, per radius and in radii.
    """

    fx: float
    fy: float
    phase: float
    amplitude: float


class Ground(NamedTuple):
    """The unnamed texture of a background: a linear gradient (brightness per shorter side) plus four
    waves.
    """

    kind: str  # "gradient", "noise", "pattern" or "flat": how it was drawn up, for statistics only
    slope: tuple[float, float]
    waves: tuple[Wave, Wave, Wave, Wave]


NO_WAVE = Wave(0.0, 0.0, 0.0, 0.0)
FLAT = Ground("flat", (0.0, 0.0), (NO_WAVE,) * 4)  # one colour all over


class Standing(Protocol):
    """Whatever stands on a background: the name of its colour, and the unnamed texture on it."""

    background: str
    ground: Ground


def with_article(*words: str) -> str:
    """The words that are not empty, after their article: "a star", "an orange star"; "" for none."""
    said = " ".join(word for word in words if word.strip())
    return f"{'an' if said[0].lower() in 'aeiou' else 'a'} {said}" if said else ""


def on_background(colour: str) -> str:
    """How a caption says it: "on a blue background"."""
    return f"on {with_article(colour)} background"


@dataclass(frozen=True)
class Thing:
    """One object. `period` is the pitch of stripes and dots (≥ 12/64), `phase` in periods, [−1/2, 1/2]²."""

    shape: str
    colour: str
    size: str
    texture: str
    x: float
    y: float
    radius: float
    tilt: float = 0.0
    shade: float = 0.0  # brightness added to the named colour
    period: float = 0.2
    slant: float = 0.7
    phase: tuple[float, float] = (0.0, 0.0)


class Style(NamedTuple):
    """How a scene is drawn; by default as a renderer draws it, lit softly from above and without an outline.

    palette: of PALETTES; light: how much brighter a thing is at its top than in its middle; contour: what
    its outline is drawn with, one of INK, "own" (its own colour, darker), a named colour, or "" for none;
    width: of the outline; filled: False leaves a plain thing empty and draws its outline in its colour;
    miss: by how much the paint misses the outline, (right, down) in radii, and stops short of it;
    wobble: how the hand strays, waves along x and then as many along y, in a thing's own frame.
    """

    palette: str = "world"
    light: float = 0.07
    contour: str = ""
    width: float = 0.0
    filled: bool = True
    miss: tuple[float, float, float] = (0.0, 0.0, 0.0)
    wobble: tuple[Wave, ...] = ()


RENDERED = Style()
SQUARE = (1.0, 1.0)


@dataclass(frozen=True)
class Scene:
    """A background and one or two things, the left (or upper) one first; the style they are drawn in, and
    the picture's height and width in shorter sides.
    """

    background: str
    ground: Ground
    things: tuple[Thing, ...]
    style: Style = RENDERED
    extent: tuple[float, float] = SQUARE

    @property
    def relation(self) -> str | None:
        """How the first thing stands to the second: "left of", "above", or None where there is one thing."""
        if len(self.things) < 2:
            return None
        a, b = self.things
        return "left of" if abs(b.x - a.x) >= abs(b.y - a.y) else "above"
