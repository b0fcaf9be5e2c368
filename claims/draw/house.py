"""The house of CONTRIBUTING.md: a room may import the rooms below it, and those below that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon

from palimpsest.claims.common import Models
from palimpsest.claims.draw.style import BAND, BLUE, GREEN, GREY, ORANGE, figure

Opener = Callable[[], Models]
ROOMS = (  # name, what it is for, left, floor, width, storeys, colour
    ("nets", "networks", 0, 0, 2, 1, BLUE),
    ("samplers", "noise, steps", 2, 0, 2, 1, BLUE),
    ("worlds", "true edits", 4, 0, 2, 1, BLUE),
    ("metrics", "did it work?", 6, 0, 2, 1, BLUE),
    ("fit", "training loop", 8, 0, 2, 1, BLUE),
    ("weights", "the model object, load, the trained weights", 0, 1, 10, 1, GREEN),
    ("methods", "one main file for each paper", 0, 2, 10, 1, ORANGE),
    ("cli", "the command line", 0, 3, 10, 1, GREY),
    ("palimpsest", "the front door", 0, 4, 1.7, 3, GREY),
    ("studio", "every method\nby hand", 1.7, 4, 1.5, 3, GREY),
    ("training", "the recipes that train the weights", 3.2, 4, 6.8, 1, GREEN),
    ("claims", "what the papers claim, measured and drawn", 3.2, 5, 6.8, 1, ORANGE),
    ("notebooks", "the lessons", 3.2, 6, 6.8, 1, BLUE),
)


def house(folder: Path, models: Opener) -> Figure:
    """The folders as rooms of a house, the pages and the site as its roof."""
    fig = figure(9, 6.4)
    ax = fig.subplots()
    for name, about, left, floor, width, storeys, colour in ROOMS:
        place, size = (left + 0.06, floor + 0.06), (width - 0.12, storeys - 0.12)
        ax.add_patch(FancyBboxPatch(place, *size, "round,pad=0,rounding_size=.08", fc=BAND, ec=colour, lw=2))
        middle, high = left + width / 2, floor + storeys / 2
        lines = about.count("\n")
        ax.text(middle, high + 0.17 + 0.12 * lines, name, ha="center", va="center", weight="bold", size=12)
        ax.text(middle, high - 0.16, about, ha="center", va="center", size=9.5, color="#444444")
    ax.add_patch(Polygon([(-0.4, 7.06), (10.4, 7.06), (5, 8.5)], closed=True, fc="#FBF3E6", ec=ORANGE, lw=2))
    ax.text(5, 7.62, "docs", ha="center", va="center", weight="bold", size=12)
    ax.text(
        5, 7.3, "the pages, and the site that is made of everything below", ha="center", va="center", size=9.5
    )
    ax.set(xlim=(-0.5, 10.5), ylim=(-0.05, 8.6))
    ax.axis("off")
    return fig


DRAWN = (house,)
