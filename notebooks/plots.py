"""Figures of the lessons, at the width of a page: rows of pictures, panels, curves, sliders.

    plots.begin()                                              # once, at the head of a lesson
    plots.pictures([before, after], left=("before", "after"), above=("t₀ = .3", "t₀ = .6"))
    fig, axes = plots.panels(3, height=2.4)                    # axes of one row, PAGE inches in all
    plots.curves(axes[0], steps, {"DDIM": errors}, bands={"DDIM": (low, high)})
    plots.explore(draw, {"t0": (.1, .3, .5)})                  # a slider when live, a row of panels on the page

Every figure is PAGE inches wide or less and no letter is below 8 points, so a page shows it at its own size.
"""
from __future__ import annotations

import itertools
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from palimpsest.claims.draw.style import PALETTE, RC, show

PAGE = 7.2                                                     # inches: the width of a page
SMALL, MEDIUM = 8.5, 9.5                                       # points: labels below pictures; all else
LETTER = .0078                                                 # inches of an average letter per point of its size
RENDERING = "PALIMPSEST_RENDERING"                             # set by render.py: sliders become a row of panels
LESSON_RC = RC | {"font.size": MEDIUM, "axes.titlesize": MEDIUM + .5, "axes.labelsize": MEDIUM, "xtick.labelsize": SMALL,
                  "ytick.labelsize": SMALL, "legend.fontsize": SMALL, "axes.titlepad": 5, "lines.linewidth": 1.6,
                  "lines.markersize": 4, "figure.figsize": (PAGE, 2.6)}
LINE, GAP = .165, .05                                          # inches of a line of text; between two pictures
MARKS = "osD^vPX<>*hp"

Values = Sequence[float] | Tensor


def begin() -> None:
    """Set matplotlib to the look of the lessons: white ground, letters of 8.5 to 10 points."""
    plt.rcParams.update(LESSON_RC)


def panels(columns: int, rows: int = 1, *, height: float = 2.4, width: float = PAGE,
           share: bool = False) -> tuple[Figure, np.ndarray]:
    """A figure `width` inches wide with rows of `height` inches, and its axes: (columns,), or (rows, columns) for more
    than one row. share: one scale for all."""
    fig, axes = plt.subplots(rows, columns, figsize=(width, rows * height), layout="constrained", sharex=share,
                             sharey=share, squeeze=False)
    return fig, axes if rows > 1 else axes[0]


def _inches(words: str, size: float) -> float:
    """About how wide a line is, printed in letters of `size` points."""
    return len(words) * LETTER * size


def _wrapped(words: str, inches: float, size: float) -> str:
    """Words in lines that fit so many inches; line breaks that are there stay."""
    letters = max(6, int(inches / (LETTER * size)))
    return "\n".join(textwrap.fill(line, letters) for line in words.split("\n"))


def pictures(rows: Sequence[Sequence[Tensor] | Tensor], *, left: Sequence[str] = (), above: Sequence[str] = (),
             below: Sequence[Sequence[str]] = (), side: float = 1.5, smooth: bool = False) -> Figure:
    """Rows of pictures in [−1, 1], each a batch (n 3 y x) or pictures ((1) 3 y x); one channel is shown as grey.

    left: a label for each row. above: a heading for each column. below: a row of labels for each row ("" for none).
    side: of a picture, in inches, less where a row would be wider than a page. None in a row leaves the place empty.
    End the line with a semicolon where it is the last of a cell: else Jupyter shows the figure twice."""
    rows = [[*row] for row in rows]
    columns = max(map(len, rows))
    left = [_wrapped(words, 1.1, MEDIUM) for words in left]
    margin = .1 + max((_inches(line, MEDIUM) for words in left for line in words.split("\n")), default=0.)
    side = min(side, (PAGE - margin) / columns - GAP)
    words = [[_wrapped(w, side, SMALL) for w in row] for row in below] + [[]] * (len(rows) - len(below))
    heads = [_wrapped(w, side, MEDIUM) for w in above]
    foots = [LINE * max((w.count("\n") + 1 for w in row if w), default=0) + GAP for row in words]
    head = LINE * max((w.count("\n") + 1 for w in heads if w), default=0) + GAP
    width, height = margin + columns * (side + GAP), head + len(rows) * side + sum(foots)
    fig = plt.figure(figsize=(width, height))
    y = height - head
    for r, row in enumerate(rows):
        y -= side
        for c, picture in enumerate(row):
            if picture is None:
                continue
            ax = fig.add_axes(((margin + c * (side + GAP)) / width, y / height, side / width, side / height))
            show(ax, picture, smooth=smooth)
            if c < len(words[r]):
                ax.set_xlabel(words[r][c], fontsize=SMALL, labelpad=3)
            if r == 0 and c < len(heads):
                ax.set_title(heads[c], fontsize=MEDIUM, loc="center", pad=3)
        if r < len(left):
            fig.text((margin - .08) / width, (y + side / 2) / height, left[r], fontsize=MEDIUM, ha="right", va="center")
        y -= foots[r]
    return fig


def curves(ax: Axes, x: Values, lines: Mapping[str, Values], *, bands: Mapping[str, tuple[Values, Values]] | None = None,
           colours: Sequence[str] = PALETTE, dots: bool = True, legend: bool = True) -> None:
    """Named lines over x on one axes, each with its colour and, if `dots`, its mark. bands: name → (low, high), drawn behind the line."""
    for k, (name, y) in enumerate(lines.items()):
        colour, mark = colours[k % len(colours)], MARKS[k % len(MARKS)] if dots else ""
        ax.plot(x, y, marker=mark, color=colour, label=name)
        if bands and name in bands:
            ax.fill_between(x, *bands[name], color=colour, alpha=.18, linewidth=0)
    if legend:
        ax.legend()


def dots(ax: Axes, values: Mapping[str, float], intervals: Mapping[str, tuple[float, float]] | None = None,
         colours: Sequence[str] = PALETTE[:1]) -> None:
    """A dot for each name, one below the other, with its interval as a line: numbers to compare."""
    for k, (name, value) in enumerate(values.items()):
        colour = colours[k % len(colours)]
        if intervals and name in intervals:
            ax.plot(intervals[name], (k, k), color=colour, linewidth=1.6)
        ax.plot([value], [k], "o", color=colour, markersize=6)
    ax.set_yticks(range(len(values)), list(values))
    ax.set_ylim(len(values) - .5, -.5)
    ax.grid(axis="y", visible=False)


def bars(ax: Axes, names: Sequence[str], groups: Mapping[str, Values],
         intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None, colours: Sequence[str] = PALETTE) -> None:
    """Horizontal bars, a cluster of one per group for each name, the first on top. intervals: group → one for each name."""
    wide = .8 / len(groups)
    for k, (group, values) in enumerate(groups.items()):
        rows = [i + wide * (k - (len(groups) - 1) / 2) for i in range(len(names))]
        ax.barh(rows, values, .94 * wide, color=colours[k % len(colours)], label=group)
        for y, (low, high) in zip(rows, (intervals or {}).get(group, ())):
            ax.plot((low, high), (y, y), color="#333333", linewidth=1)
    ax.set(yticks=range(len(names)), yticklabels=list(names), ylim=(len(names) - .5, -.5))
    ax.grid(axis="y", visible=False)
    if len(groups) > 1:
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1))


def points(ax: Axes, x: Sequence[Sequence[float]], y: Sequence[Sequence[float]], name: str, colour: str, mark: str = "o-",
           size: float = 4) -> None:
    """Points joined by a line, each with its interval along both axes: x and y hold [mean, low, high] for each."""
    (across, left, right), (up, low, high) = (np.array(v, dtype=float).T for v in (x, y))
    ax.errorbar(across, up, xerr=(across - left, right - across), yerr=(up - low, high - up), fmt="none", ecolor=colour,
                elinewidth=1, capsize=2)
    ax.plot(across, up, mark, color=colour, label=name, linewidth=1, markersize=size)  # the legend shows the mark alone


def looks(names: Sequence[str]) -> dict[str, dict[str, str | float]]:
    """Name → name, colour, mark and size as `points` takes them. No two names share a mark, so that none is told by its colour alone.
    Raises ValueError for more names than there are marks."""
    if len(names) > len(MARKS):
        raise ValueError(f"looks: {len(names)} names, and {len(MARKS)} marks")
    return {name: dict(name=name, colour=PALETTE[k % len(PALETTE)], mark=MARKS[k], size=8.) for k, name in enumerate(names)}


def board(ax: Axes, columns: Sequence[str], rows: Mapping[str, Sequence[Sequence[float] | None]], *, form: str = "",
          span: tuple[float, float] | None = None) -> None:
    """A scoreboard: a cell for each row and column, with its number, coloured from low to high within `span`.

    rows: name → for each column [mean, low, high], or [number] alone, or None for an empty cell. form: of the numbers; ""
    writes shares in percent. Where intervals are given, a frame marks those that meet the interval of the column's best."""
    means = np.array([[np.nan if v is None else v[0] for v in row] for row in rows.values()])
    low, high = span or (0., 1.)
    ax.imshow(means, cmap="Blues" if span is None else "RdBu", vmin=low, vmax=high * (1.25 if span is None else 1), aspect="auto")
    for c in range(len(columns)):
        cells = {r: row[c] for r, row in enumerate(rows.values()) if row[c] is not None}
        best = max(cells.values(), key=lambda v: v[0])
        for r, v in cells.items():
            share = (v[0] - low) / (high - low)
            dark = share > .75 if span is None else not .15 < share < .85
            text = f"{100 * v[0]:.0f}" if not form else form.format(v[0])
            ax.text(c, r, text, ha="center", va="center", fontsize=SMALL, color="white" if dark else "#222222")
            if len(v) == 3 and v[2] >= best[1]:
                ax.add_patch(plt.Rectangle((c - .46, r - .44), .92, .88, fill=False, edgecolor=PALETTE[1], linewidth=1.4))
    ax.set_xticks(range(len(columns)), columns, rotation=30, ha="left", rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), list(rows))
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.grid(False)


def key(fig: Figure, ax: Axes, columns: int = 4) -> None:
    """One legend for the whole figure, below it: the names of what is drawn on `ax`."""
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


def ticks(ax: Axes, x: Sequence[float], axis: str = "x") -> None:
    """Ticks at these values alone, written as they are: for logarithmic axes."""
    (ax.set_xticks if axis == "x" else ax.set_yticks)(x, [f"{v:g}" for v in x])
    ax.minorticks_off()


def explore(draw: Callable[..., object], values: Mapping[str, Sequence], *, height: float = 2.2, page: bool = True) -> None:
    """Show draw(ax, **chosen) for values of at most two names, each a sequence to choose from.

    In a running notebook with ipywidgets: a slider for each name. Elsewhere, and on the rendered page: a panel for each
    value, the second name going down; with page=False nothing, as a figure before it shows some values. `draw` should be
    quick: compute before, or keep what was computed."""
    names = list(values)
    if _live():
        _sliders(draw, values)
        return
    if not page:
        return
    across, down = (list(values[name]) for name in names) if len(names) == 2 else (list(values[names[0]]), [None])
    _, axes = panels(len(across), len(down), height=height)
    for (d, a), ax in zip(itertools.product(down, across), np.ravel(axes)):
        chosen = dict(zip(names, (a, d)))
        draw(ax, **chosen)
        if not ax.get_title():
            ax.set_title(", ".join(f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}"
                                   for name, value in chosen.items()))


def _sliders(draw: Callable[..., object], values: Mapping[str, Sequence]) -> None:
    """The live half of `explore`: sliders, and below them one panel that is drawn again when one of them moves."""
    import ipywidgets
    from IPython.display import clear_output, display

    sliders = {name: ipywidgets.SelectionSlider(options=list(v), value=list(v)[len(v) // 2], description=name,
                                                continuous_update=False) for name, v in values.items()}
    place = ipywidgets.Output()

    def redraw(_=None):
        with place:
            clear_output(wait=True)
            _, ax = plt.subplots(figsize=(PAGE / 2, PAGE / 2.4), layout="constrained")
            draw(ax, **{name: slider.value for name, slider in sliders.items()})
            plt.show()

    for slider in sliders.values():
        slider.observe(redraw, "value")
    display(ipywidgets.VBox([*sliders.values(), place]))
    redraw()


def _live() -> bool:
    """Whether a slider can be moved: in a notebook that somebody runs, where ipywidgets is installed."""
    if os.environ.get(RENDERING):
        return False
    try:
        import ipywidgets  # noqa: F401
        from IPython import get_ipython
    except ImportError:
        return False
    return type(get_ipython()).__name__ == "ZMQInteractiveShell"
