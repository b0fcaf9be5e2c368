"""One look for every figure: white ground, readable letters, colours that everyone can tell apart,
nothing for show.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

# Okabe and Ito's palette, without its yellow, which is too pale for a line on white
# (jfly.uni-koeln.de/color).
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY = "#CC79A7", "#56B4E9", "#767676"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
BAND = "#E8F1F7"  # a range worth pointing at, behind the lines

RC = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 100,
    "savefig.dpi": 130,
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "lines.linewidth": 2,
    "lines.markersize": 5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "text.color": "#222222",
    "axes.labelcolor": "#222222",
    "axes.prop_cycle": matplotlib.cycler(color=PALETTE),
}


@contextmanager
def style() -> Iterator[None]:
    """Figures made and saved inside have the look."""
    with matplotlib.rc_context(RC):
        yield


def figure(width: float, height: float) -> Figure:
    """A figure in inches whose parts keep out of each other's way."""
    return Figure(figsize=(width, height), layout="constrained")


def show(
    ax: Axes, picture: Tensor, below: str = "", *, above: str = "", width: int = 28, smooth: bool = True
) -> None:
    """A picture ((1,) 3 or 1, y, x) in [−1, 1], words wrapped at `width` letters below it, a heading
    above.
    """
    picture = picture[0] if picture.ndim == 4 else picture
    pixels = ((picture.detach().cpu().float() + 1) / 2).clamp(0, 1).permute(1, 2, 0).expand(-1, -1, 3).numpy()
    ax.imshow(pixels, interpolation="bicubic" if smooth else "nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set(color="#BBBBBB", linewidth=0.6)
    if below:
        ax.set_xlabel(textwrap.fill(below, width), fontsize=10, labelpad=4)
    if above:
        ax.set_title(textwrap.fill(above, width), fontsize=11, loc="center", pad=5)


def save(fig: Figure, path: Path) -> None:
    """A PNG without a date or a version in it: the same figure gives the same file."""
    fig.savefig(path, metadata={"Software": None}, bbox_inches="tight", pad_inches=0.08)
