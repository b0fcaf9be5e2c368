"""The figures of InstructPix2Pix, each drawn from one record of `make claims`: upwards more is kept, to
the right more is edited.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from palimpsest.claims.common import Models
from palimpsest.claims.draw.editing import record
from palimpsest.claims.draw.style import BLUE, GREEN, GREY, ORANGE, figure

Opener = Callable[[], Models]
Look = dict[str, tuple[str, str, str]]  # curve -> words, colour, marker

METHODS: Look = {
    "InstructPix2Pix": ("InstructPix2Pix, over $s_I$", BLUE, "o"),
    "SDEdit": ("SDEdit, over t₀", ORANGE, "^"),
}
DATA: Look = {
    "shapes-instruct": ("all pairs", BLUE, "o"),
    "shapes-instruct-10": ("a tenth", GREEN, "s"),
    "shapes-instruct-1": ("a hundredth", ORANGE, "^"),
}
FILTER: Look = {
    "shapes-instruct-generated": ("painted pairs that CLIP let pass", BLUE, "o"),
    "shapes-instruct-unfiltered": ("painted pairs, all", ORANGE, "^"),
    "shapes-instruct": ("true pairs", GREEN, "s"),
}
PANELS = {
    "image": (
        "direction",
        "image",
        "as CLIP sees it",
        "directional similarity (edited as asked)",
        "image similarity (kept)",
    ),
    "outside": (
        "right",
        "outside_db",
        "in truth: what should stay",
        "all attributes right",
        "PSNR outside the true change (dB)",
    ),
    "truth": (
        "right",
        "truth_db",
        "in truth: the whole",
        "all attributes right",
        "PSNR to the true result (dB)",
    ),
}


def setting(row: dict) -> str:
    """What a point was made with."""
    return f"t₀ = {row['t0']:g}" if "t0" in row else f"$s_I$ = {row['s_image']:g}"


def curves(ax: Axes, r: dict, look: Look, panel: str) -> None:
    """One panel: every curve with the settings of its ends, the given picture and the true result."""
    x, y, title, across, up = PANELS[panel]
    there = {name: rows for name, rows in r["curves"].items() if name in look}
    for name, rows in there.items():
        words, colour, marker = look[name]
        ax.plot([p[x] for p in rows], [p[y] for p in rows], marker=marker, color=colour, label=words)
    for key, words, marker in (("unedited", "the picture as it was", "P"), ("truth", "the true result", "*")):
        ax.plot(
            r[key][x],
            r[key][y],
            marker,
            color=GREY,
            markersize=8 if marker == "P" else 13,
            label=words,
            linestyle="",
        )
    ax.set(title=title, xlabel=across, ylabel=up)
    ax.margins(0.12, 0.14)
    if x == "right":
        ax.xaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
    if panel == "image" and look is METHODS:
        ax.margins(0.22, 0.14)
        for name, rows in there.items():
            for p, inner in ((rows[0], rows[min(1, len(rows) - 1)]), (rows[-1], rows[max(-2, -len(rows))])):
                side = -1 if inner[x] > p[x] else 1  # away from the curve
                ax.annotate(
                    setting(p),
                    (p[x], p[y]),
                    color=look[name][1],
                    fontsize=9,
                    textcoords="offset points",
                    xytext=(8 * side, 0),
                    ha="left" if side > 0 else "right",
                    va="center",
                )
    elif panel == "image":
        scales = [p["s_image"] for rows in there.values() for p in rows]
        ax.set_title(f"{title}, each over $s_I$ = {min(scales):g} … {max(scales):g}")


def panels(width: float, height: float, ratios: Sequence[float] = (1, 1, 1)) -> tuple[Figure, list[Axes]]:
    """A figure of three parts with air between them."""
    fig = figure(width, height)
    fig.get_layout_engine().set(w_pad=0.12)
    return fig, list(fig.subplots(1, 3, width_ratios=ratios))


def legend(fig: Figure, ax: Axes) -> None:
    """Under all panels."""
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def three_panels(r: dict, look: Look) -> Figure:
    """Curves as CLIP sees them, and in truth."""
    fig, axes = panels(14, 4.6)
    for ax, panel in zip(axes, PANELS):
        curves(ax, r, look, panel)
    legend(fig, axes[0])
    return fig


def instruct_sdedit(folder: Path, models: Opener) -> Figure:
    """InstructPix2Pix beside SDEdit: what is kept at an equally strong edit, as the paper draws it and in
    truth.
    """
    return three_panels(record(folder, "instruct_sdedit"), METHODS)


def instruct_filter(folder: Path, models: Opener) -> Figure:
    """Painted pairs with and without CLIP's filter, beside true ones."""
    return three_panels(record(folder, "instruct_filter"), FILTER)


def instruct_data(folder: Path, models: Opener) -> Figure:
    """Less data: the curves, and which kinds of edit are left."""
    r = record(folder, "instruct_data")
    fig, axes = panels(14, 4.6, (1, 1, 1.2))
    for ax, panel in zip(axes, ("image", "outside")):
        curves(ax, r, DATA, panel)
    there = [name for name in DATA if name in r["curves"]]
    best = {name: max(r["curves"][name], key=lambda p: p["right"])["kinds"] for name in there}
    kinds: Sequence[str] = sorted(best[there[0]], key=lambda kind: -best[there[0]][kind])
    wide = 0.8 / len(there)
    for k, name in enumerate(there):
        axes[2].barh(
            [i + (k - (len(there) - 1) / 2) * wide for i in range(len(kinds))],
            [best[name][kind] for kind in kinds],
            wide,
            color=DATA[name][1],
        )
    axes[2].set_yticks(range(len(kinds)), kinds)
    axes[2].invert_yaxis()
    axes[2].set(
        title="which edits are left", xlabel="all attributes right, at each model's best $s_I$", xlim=(0, 1)
    )
    axes[2].xaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
    axes[2].grid(axis="y", visible=False)
    legend(fig, axes[0])
    return fig


def instruct_scales(folder: Path, models: Opener) -> Figure:
    """Three grids over s_T (up) and s_I (to the right), the best cell of each framed."""
    grid = record(folder, "instruct_scales")["grid"]
    ups, across = (sorted({row[scale] for row in grid}) for scale in ("s_text", "s_image"))
    fig, axes = panels(14, 1.6 + 0.62 * len(ups))
    shown = (
        ("right", "all attributes right (%)"),
        ("outside_db", "PSNR outside the true change (dB)"),
        ("truth_db", "PSNR to the true result (dB)"),
    )
    for ax, (key, title) in zip(axes, shown):
        cells = {(row["s_text"], row["s_image"]): row[key] * (100 if key == "right" else 1) for row in grid}
        low, high = min(cells.values()), max(cells.values())
        ax.imshow(
            [[cells[t, s] for s in across] for t in ups],
            cmap="Blues",
            vmin=low - 0.25 * (high - low),
            vmax=high + 0.1 * (high - low),
            aspect="auto",
            origin="lower",
        )
        for i, t in enumerate(ups):
            for k, s in enumerate(across):
                dark = cells[t, s] - low > 0.55 * (high - low)
                ax.text(
                    k,
                    i,
                    f"{cells[t, s]:.{0 if key == 'right' else 1}f}",
                    ha="center",
                    va="center",
                    color="white" if dark else "#222222",
                )
        t, s = max(cells, key=cells.get)
        ax.add_patch(
            Rectangle(
                (across.index(s) - 0.5, ups.index(t) - 0.5),
                1,
                1,
                fill=False,
                edgecolor=ORANGE,
                linewidth=3,
                clip_on=False,
            )
        )
        ax.set_xticks(range(len(across)), [f"{s:g}" for s in across])
        ax.set_yticks(range(len(ups)), [f"{t:g}" for t in ups])
        ax.set(title=title, xlabel="$s_I$, how much the picture is kept", ylabel="$s_T$, how much is edited")
        ax.grid(False)
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
    return fig


DRAWN = (instruct_sdedit, instruct_data, instruct_filter, instruct_scales)
