"""The shapes world as data: what a scene is, and every word that can describe one.

A scene is a named background colour with an *unnamed* texture on it, and one or two things. A thing's
shape, colour, size and texture are what a caption tells; its place, tilt, shade and the phase of its
pattern are what no caption tells and an edit must keep. Lengths are fractions of the picture's width,
angles are radians, x grows to the right and y grows downwards."""

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
    """One cosine of a background: fx, fy in cycles per picture, phase in radians, amplitude in brightness."""

    fx: float
    fy: float
    phase: float
    amplitude: float


class Ground(NamedTuple):
    """The unnamed texture of a background: a linear gradient (brightness per picture width) plus four
    waves.
    """

    kind: str  # "gradient", "noise" or "pattern": how it was drawn up, for statistics only
    slope: tuple[float, float]
    waves: tuple[Wave, Wave, Wave, Wave]


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
    """One object. `period` is the pitch of stripes and dots as a fraction of the width (≥ 12/64), `phase`
    in periods, [−1/2, 1/2]².
    """

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


@dataclass(frozen=True)
class Scene:
    """A background and one or two things, the left (or upper) one first."""

    background: str
    ground: Ground
    things: tuple[Thing, ...]

    @property
    def relation(self) -> str | None:
        """How the first thing stands to the second: "left of", "above", or None where there is one thing."""
        if len(self.things) < 2:
            return None
        a, b = self.things
        return "left of" if abs(b.x - a.x) >= abs(b.y - a.y) else "above"
