"""Drawings of networks for the lessons: boxes and arrows."""
from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from palimpsest.claims.draw.style import BLUE, GREEN, GREY, ORANGE
from palimpsest.notebooks.plots import PAGE, SMALL


def _box(ax: Axes, x: float, y: float, words: str, colour: str, width: float = 1.04, height: float = .48) -> None:
    """A rounded box around a point, with words in it; all in inches."""
    ax.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=.06",
                                facecolor=colour + "22", edgecolor=colour, linewidth=1.2))
    ax.text(x, y, words, ha="center", va="center", fontsize=SMALL)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = "#444444", line: str = "-",
           bend: float = 0.) -> None:
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=colour, linewidth=1.1, linestyle=line,
                                 shrinkA=0, shrinkB=0, connectionstyle=f"arc3,rad={bend}"))


def unet() -> None:
    """The U-Net of lesson 02: two resolutions, the skip connections, and where time and text enter."""
    tall, high, low = 2.95, 2., 1.05
    ax = plt.figure(figsize=(PAGE, tall)).add_axes((0, 0, 1, 1))
    boxes = {"in": (.95, high, "2×2 patches\n12 → c", GREY), "d1": (2.25, high, "block\nc, 16×16", BLUE),
             "d2": (2.45, low, "block + text\n2c, 8×8", BLUE), "mid": (3.75, low, "block + text\n2c, 8×8", BLUE),
             "u2": (5.05, low, "block\n4c → 2c, 8×8", BLUE), "u1": (5.25, high, "block\n2c → c, 16×16", BLUE),
             "out": (6.5, high, "c → 12\n2×2 patches", GREY)}
    for x, y, words, colour in boxes.values():
        _box(ax, x, y, words, colour)
    for a, b in (("in", "d1"), ("d2", "mid"), ("mid", "u2"), ("u1", "out")):
        _arrow(ax, (boxes[a][0] + .52, boxes[a][1]), (boxes[b][0] - .52, boxes[b][1]))
    for x, y, words in ((2.35, high - .24, "halve "), (5.15, low + .24, "double ")):
        _arrow(ax, (x, y), (x, (low + .24) if y > 1.5 else high - .24))
        ax.text(x - .06, (high + low) / 2, words, ha="right", va="center", fontsize=SMALL)
    _arrow(ax, (2.77, high), (4.73, high), GREEN, "--")
    ax.text(3.75, high + .06, "skip: further channels", ha="center", fontsize=SMALL, color=GREEN)
    _arrow(ax, (2.85, low + .24), (4.65, low + .24), GREEN, "--", bend=-.2)
    ax.text(3.75, low + .45, "skip", ha="center", fontsize=SMALL, color=GREEN)
    _box(ax, 2.25, tall - .25, "t → sines → MLP", ORANGE, 1.3, .3)
    ax.text(3., tall - .25, "a shift for each channel, in every block", va="center", fontsize=SMALL, color=ORANGE)
    _arrow(ax, (2.25, tall - .4), (2.25, high + .24), ORANGE)
    _box(ax, 3.1, .25, "text → a vector for each word", ORANGE, 2.1, .3)
    ax.text(4.25, .25, "cross-attention: every cell reads the words", va="center", fontsize=SMALL, color=ORANGE)
    for x in (2.45, 3.75):
        _arrow(ax, (x, .4), (x, low - .24), ORANGE)
    _arrow(ax, (.2, high), (.43, high))
    _arrow(ax, (7.02, high), (7.18, high))
    ax.text(.1, high, "x_t", fontsize=SMALL, ha="center", va="center")
    ax.text(7.1, high + .12, "v̂", fontsize=SMALL, ha="center")
    ax.set(xlim=(0, PAGE), ylim=(0, tall))
    ax.axis("off")
