"""The figures of DreamBooth, each drawn from one record of `make claims`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from palimpsest.claims.common import Models
from palimpsest.claims.draw.editing import record
from palimpsest.claims.draw.style import BLUE, GREEN, GREY, ORANGE, PURPLE, figure, show
from palimpsest.claims.dreambooth_upsampler import unpacked

Opener = Callable[[], Models]
PALE = "#C9C9C9"
TITLES = {
    "dino": "DINO: like the subject",
    "clip_i": "CLIP-I: like the subject",
    "clip_t": "CLIP-T: as the text says",
    "pres": "PRES: the class became\nthe subject (less is better)",
    "div": "DIV: pictures of one prompt\ndiffer",
    "error": "error to the true subject\n(less is better)",
    "ground": "ground as asked",
}


def bars(axes: Sequence[Axes], keys: Sequence[str], rows: dict[str, tuple[dict, str]]) -> None:
    """A panel for each figure, a bar for each way with its subjects as dots: rows are name -> (figures,
    colour).
    """
    for ax, key in zip(axes, keys):
        tops = []
        for i, (row, colour) in enumerate(rows.values()):
            ax.bar(i, row[key], 0.68, color=colour)
            dots = [p[key] for p in row["each"]]
            ax.plot([i] * len(dots), dots, ".", color="#222222", markersize=4, alpha=0.5)
            tops.append(max(row[key], *dots))
            ax.annotate(
                f"{row[key]:.3f}",
                (i, tops[-1]),
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
        ax.set_title(TITLES[key], fontsize=11)
        ax.set_xticks(range(len(rows)), [name.replace(" ", "\n", 1) for name in rows], fontsize=9)
        ax.set_ylim(min(0.0, ax.get_ylim()[0]), 1.15 * max(tops))
        ax.grid(axis="x", visible=False)


def dreambooth_prior(folder: Path, models: Opener) -> Figure:
    """What the prior term is worth: the class kept apart from the subject, variety, and what both cost."""
    r = record(folder, "dreambooth")
    fig = figure(12.6, 3.9)
    rows = {
        "frozen model": (r["frozen"], PALE),
        "with prior": (r["ways"]["with prior"], BLUE),
        "without prior": (r["ways"]["without prior"], ORANGE),
        "true pictures": (r["real"], PALE),
    }
    bars(fig.subplots(1, 4), ("pres", "div", "dino", "error"), rows)
    return fig


def dreambooth_noun(folder: Path, models: Opener) -> Figure:
    """The right class noun, none, and a wrong one."""
    r = record(folder, "dreambooth")
    fig = figure(11.4, 3.7)
    rows = {
        name: (r["ways"][way], colour)
        for name, way, colour in (
            ("right noun", "without prior", BLUE),
            ("no noun", "no noun", ORANGE),
            ("wrong noun", "wrong noun", PURPLE),
        )
    }
    bars(fig.subplots(1, 4), ("dino", "clip_i", "clip_t", "error"), rows)
    return fig


def dreambooth_count(folder: Path, models: Opener) -> Figure:
    """How like the subject, over the number of pictures it was learned from; each subject thin."""
    r = record(folder, "dreambooth")
    x = [row["pictures"] for row in r["counts"]]
    fig = figure(9.4, 3.9)
    for ax, key, colour in zip(fig.subplots(1, 2), ("dino", "error"), (BLUE, GREEN)):
        for k in range(len(r["counts"][0]["each"])):
            ax.plot(x, [row["each"][k][key] for row in r["counts"]], color=colour, linewidth=0.8, alpha=0.4)
        ax.plot(x, [row[key] for row in r["counts"]], "o-", color=colour, label="mean of the subjects")
        for name, level in (("frozen model", r["frozen"][key]), ("true pictures", r["real"][key])):
            ax.axhline(level, color=GREY, linewidth=1, linestyle="--")
            ax.text(
                0.99,
                level,
                name,
                color=GREY,
                fontsize=9,
                ha="right",
                va="bottom",
                transform=ax.get_yaxis_transform(),
            )
        ax.set(title=TITLES[key].replace("\n", " "), xlabel="pictures of the subject", xticks=x)
        ax.legend(loc="center right", bbox_to_anchor=(1, 0.2), fontsize=9)
    return fig


def dreambooth_word(folder: Path, models: Opener) -> Figure:
    """DreamBooth and Textual Inversion: the subject, and what the text asks for besides."""
    r = record(folder, "dreambooth")
    fig = figure(14.4, 3.7)
    rows = {
        "frozen model": (r["frozen"], PALE),
        "Dream- Booth": (r["ways"]["with prior"], BLUE),
        "Textual Inversion": (r["ways"]["Textual Inversion"], ORANGE),
        "true pictures": (r["real"], PALE),
    }
    bars(fig.subplots(1, 5), ("dino", "clip_i", "clip_t", "error", "ground"), rows)
    return fig


def dreambooth_observatory(folder: Path, models: Opener) -> Figure:
    """Both terms of Eq. (9) over the steps for several learning rates, and the second where it is seen
    and not followed: drift.
    """
    r = record(folder, "dreambooth")
    fig = figure(12.2, 3.9)
    axes = fig.subplots(1, 3)
    panels = (
        ("instance", "the subject's term"),
        ("prior", "the class's term, followed"),
        ("drift", "the class's term, not followed: drift"),
    )
    for ax, (key, title) in zip(axes, panels):
        for row, colour, marker in zip(r["rates"], (GREEN, BLUE, ORANGE), "s^o"):
            n = len(row[key])
            ax.plot(
                [r["steps"] * (k + 0.5) / n for k in range(n)],
                row[key],
                color=colour,
                marker=marker,
                markersize=3,
                label=f"lr {row['lr']:g}",
            )
        ax.set(title=title, xlabel="step")
    top = max(max(row[key]) for row in r["rates"] for key in ("prior", "drift"))
    for ax in axes[1:]:
        ax.set_ylim(0, 1.08 * top)
    axes[0].set_ylim(bottom=0)
    axes[0].legend()
    return fig


def dreambooth_upsampler(folder: Path, models: Opener) -> Figure:
    """The second stage, for a subject in two contexts: what it is given, what it makes of it, tuned and
    not, and the truth.
    """
    r = record(folder, "dreambooth_upsampler")
    rows = r["strip"]["said"]
    columns = (
        [("made small", r["strip"]["small"], "")]
        + [
            (name, way["strip"], f"{way['psnr']:.1f} dB, detail {way['detail']:.2f}")
            for name, way in r["ways"].items()
        ]
        + [("the truth", r["strip"]["true"], "")]
    )
    fig = figure(2.05 * len(columns), 2.5 * len(rows) + 0.2)
    axes = fig.subplots(len(rows), len(columns), squeeze=False)
    for i, said in enumerate(rows):
        for ax, (name, letters, below) in zip(axes[i], columns):
            show(
                ax,
                unpacked(letters[i]),
                below if i == len(rows) - 1 else "",
                above=name if i == 0 else "",
                width=26,
                smooth=False,
            )
        axes[i, 0].set_ylabel(f"“{said}”".replace(" on a", "\non a"), fontsize=9)
    return fig


DRAWN = (
    dreambooth_prior,
    dreambooth_noun,
    dreambooth_count,
    dreambooth_word,
    dreambooth_observatory,
    dreambooth_upsampler,
)
