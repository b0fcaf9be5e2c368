"""The figures of the methods that invert and control attention, each drawn from one record of `make
claims`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from palimpsest.claims.common import Models
from palimpsest.claims.draw.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, figure
from palimpsest.claims.null_text import CLOSER

Opener = Callable[[], Models]
VARIANTS = {  # of DiffEdit: colour, line style, marker
    "DiffEdit": (BLUE, "-", "o"),
    "no mask": (SKY, "--", "s"),
    "no encoding": (GREEN, "--", "D"),
    "SDEdit": (ORANGE, "-", "^"),
    "x̂₀ blend": (PURPLE, ":", "v"),
}


def record(folder: Path, name: str) -> dict:
    """figures/<name>.json. Raises ValueError with the command that makes it where it is missing."""
    path = folder / f"{name}.json"
    if not path.exists():
        raise ValueError(f"{path.name}: not measured yet; run `make bench` or `make claims` first")
    return json.loads(path.read_text(encoding="utf-8"))


def percent(ax: Axes, low: float = 0.0) -> None:
    """The upright axis in per cent."""
    ax.set_ylim(low, 1.02)
    ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")


def plain_ticks(ax: Axes) -> None:
    """Numbers, and not powers, on a flat logarithmic axis of about one decade."""
    for axis in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
        axis(lambda v, _: f"{v:g}")


def diffedit_tradeoff(folder: Path, models: Opener) -> Figure:
    """What each part of DiffEdit is worth: success against what is kept, and the paper's CSFID against
    LPIPS, over the ratio.
    """
    r = record(folder, "diffedit")
    fig = figure(12, 4.4)
    axes = fig.subplots(1, 3)
    panels = (
        (axes[0], "one", "outside_db", "right", "one thing: all right against what is kept"),
        (axes[1], "two", "outside_db", "right", "two things: the same"),
        (axes[2], "one", "lpips", "csfid", "one thing, as the paper draws it"),
    )
    for ax, part, x, y, title in panels:
        for name, rows in r[part]["curves"].items():
            colour, line, marker = VARIANTS[name]
            ax.plot([p[x] for p in rows], [p[y] for p in rows], line, color=colour, marker=marker, label=name)
        ends = r[part]["curves"]["DiffEdit"]
        for p, side in ((ends[0], -1), (ends[-1], 1)):
            at, where = (
                ((12, 3), "left") if y == "right" else ((8 * side, -14), "left" if side > 0 else "right")
            )
            ax.annotate(
                f"r = {p['ratio']:g}",
                (p[x], p[y]),
                textcoords="offset points",
                xytext=at,
                ha=where,
                color=BLUE,
                fontsize=9,
            )
        ax.set_title(title)
        if y == "right":
            percent(ax)
            ax.axvline(
                r[part]["autoencoder_db"],
                color=GREY,
                linewidth=1,
                linestyle="--",
                label="the autoencoder alone",
            )
            ax.set_xlabel("PSNR outside the true change (dB)")
        else:
            ax.set(
                xlabel="distance to the input (LPIPS, our features)",
                ylabel="distance to true edits (CSFID)",
                xlim=(0, None),
            )
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=6)
    return fig


def diffedit_masks(folder: Path, models: Opener) -> Figure:
    """How well the found mask meets the true change: by kind of edit, and over the threshold."""
    r = record(folder, "diffedit")
    rows = min(r["one"]["curves"]["DiffEdit"], key=lambda p: abs(p["ratio"] - r["ratio"]))["kinds"]
    fig = figure(12, 4)
    left, middle, right = fig.subplots(1, 3)
    kinds = list(rows)
    for k, kind in enumerate(kinds):
        left.bar(k - 0.2, rows[kind]["iou"], 0.4, color=BLUE, label="found" if k == 0 else None)
        left.bar(
            k + 0.2,
            rows[kind]["iou_ceiling"],
            0.4,
            color="#C9C9C9",
            label="best mask of latent cells" if k == 0 else None,
        )
        middle.bar(
            k - 0.2, rows[kind]["marked"], 0.4, color=BLUE, label="marked by the mask" if k == 0 else None
        )
        middle.bar(
            k + 0.2, rows[kind]["changed"], 0.4, color=ORANGE, label="truly changed" if k == 0 else None
        )
    for ax, title in ((left, "IoU with the true change"), (middle, "share of the picture")):
        ax.set_xticks(range(len(kinds)), kinds)
        ax.set_title(title)
        ax.set(ylim=(0, 1.22), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
        ax.legend(loc="upper left")
    thresholds = r["one"]["thresholds"]
    x = [p["threshold"] for p in thresholds]
    right.plot(x, [p["iou"] for p in thresholds], "o-", color=BLUE, label="IoU")
    right.plot(x, [p["right"] for p in thresholds], "^-", color=ORANGE, label="all right")
    kept = right.twinx()
    kept.plot(x, [p["outside_db"] for p in thresholds], "s-", color=GREEN, label="kept, PSNR outside (right)")
    kept.set(ylim=(20, 40), ylabel="dB")
    kept.spines["right"].set_visible(True)
    kept.grid(False)
    right.set(
        title="over the threshold",
        xticks=x,
        ylim=(0, 1.22),
        yticks=[0, 0.2, 0.4, 0.6, 0.8, 1],
        xlabel="threshold θ",
    )
    lines = [*right.get_lines(), *kept.get_lines()]
    right.legend(lines, [line.get_label() for line in lines], loc="upper left")
    return fig


def diffedit_bound(folder: Path, models: Opener) -> Figure:
    """Eq. (11): how far from the input an edit lands, encoded and noised, with the bounds."""
    rows = record(folder, "diffedit")["bound"]["rows"]
    tau = [p["tau"] for p in rows]
    fig = figure(7.4, 4.6)
    ax = fig.subplots()
    lines = (
        ("noised", "noised, measured", ORANGE, "-", "^"),
        ("bound_noised", "noised, bound (C + 1) τ", ORANGE, ":", ""),
        ("encoded", "encoded, measured", BLUE, "-", "o"),
        ("bound_encoded", "encoded, bound in its integral form", BLUE, ":", ""),
        ("bound_printed", "encoded, bound as printed", GREY, ":", ""),
    )
    for key, words, colour, line, marker in lines:
        ax.plot(tau, [p[key] for p in rows], line, color=colour, marker=marker, label=words)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="τ = √(1/ᾱ − 1) at the ratio r",
        title="distance of the edit to the input (RMS, latents)",
    )
    plain_ticks(ax)
    ax.legend(fontsize=9)
    return fig


def layout(folder: Path, models: Opener) -> Figure:
    """Prompt-to-Prompt on generated pairs: layout, what is kept and success over how long the source's
    maps are used.
    """
    r = record(folder, "layout")
    fig = figure(12, 4)
    axes = fig.subplots(1, 3)
    for ax, (key, title) in zip(
        axes,
        (
            ("iou", "IoU of the two silhouettes"),
            ("kept_db", "PSNR where neither has the thing (dB)"),
            ("right", "all attributes of the target right"),
        ),
    ):
        for self_, colour, marker in ((r["self_"], BLUE, "o"), (0.0, ORANGE, "^")):
            rows = [p for p in r["curve"] if p["self_"] == self_]
            ax.plot(
                [p["cross"] for p in rows],
                [p[key] for p in rows],
                marker=marker,
                color=colour,
                label=f"self-attention for {self_:.0%} of the steps" if self_ else "cross-attention alone",
            )
        ax.plot(
            r["cross"],
            r["kinds"]["recolour"]["blended"][key],
            marker="*",
            markersize=13,
            color=GREEN,
            linestyle="",
            label="both, and local blend",
        )
        ax.set(title=title, xlabel="share of steps with the source's maps")
        if key != "kept_db":
            percent(ax)
    axes[0].legend(loc="lower right")
    return fig


def ladder(folder: Path, models: Opener) -> Figure:
    """There and back by every way: PSNR, with what it cost in network passes."""
    r = record(folder, "null_text")
    fig = figure(11, 0.6 + 0.5 * len(r["rungs"]))
    ax = fig.subplots()
    top = max(p["db"] for p in r["rungs"])
    for i, p in enumerate(r["rungs"]):
        ax.barh(i, p["db"], color=GREY if i == 0 else BLUE if p["db"] >= top - 3 else ORANGE, height=0.6)
        cost = f"{p['forwards']} passes" + (f" + {p['backwards']} backward" if p["backwards"] else "")
        ax.text(
            p["db"] + 0.3,
            i,
            f"{p['db']:.1f} dB" + (f", {cost}" if p["forwards"] else ""),
            va="center",
            fontsize=10,
            bbox=dict(facecolor="white", edgecolor="none", pad=1),
        )
    ax.set_yticks(range(len(r["rungs"])), [p["name"] for p in r["rungs"]])
    ax.set(
        xlim=(0, top * 1.35),
        xlabel="PSNR to the given picture (dB); blue: at most 3 dB below the best, dashed: the autoencoder "
        "alone",
    )
    ax.axvline(r["rungs"][0]["db"], color=GREY, linewidth=1, linestyle="--")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    return fig


SOLVED = {
    "adam, empty": (ORANGE, "^", "as published (Adam)"),
    "adam-skip, empty": (GREEN, "D", "Adam that looks first"),
    "gauss-newton, empty": (SKY, "s", "Gauss–Newton"),
    "gauss-newton, prompt": (BLUE, "o", "Gauss–Newton from the prompt"),
    CLOSER: (PURPLE, "v", "the same on a closer pivot (0, 1, 2 a step)"),
}


def null_text_updates(folder: Path, models: Opener) -> Figure:
    """Null-text inversion: PSNR over the passes spent, by solver; and what is lost without a pivot or
    with one embedding.
    """
    r = record(folder, "null_text")
    raw = next(p for p in r["updates"] if p["solver"] == "none")
    fig = figure(12, 4.2)
    left, right = fig.subplots(1, 2, width_ratios=[1.5, 1])
    for name, (colour, marker, words) in SOLVED.items():
        rows = sorted(
            (p for p in r["updates"] if p["solver"] == name), key=lambda p: p["forwards"] + p["backwards"]
        )
        left.plot(
            [p["forwards"] + p["backwards"] for p in rows],
            [p["db"] for p in rows],
            marker=marker,
            color=colour,
            label=words,
            **(dict(markersize=11, markerfacecolor="none", linestyle="") if len(rows) == 1 else {}),
        )
    left.plot(raw["forwards"], raw["db"], "x", color=RED, markersize=9, label="not tuned")
    for name, words in (("autoencoder", "autoencoder"), ("w = 1", "round trip at w = 1")):
        db = next(p for p in r["rungs"] if p["name"] == name)["db"]
        left.axhline(db, color=GREY, linewidth=1, linestyle="--")
        left.text(0.02, db, words, color=GREY, fontsize=9, va="bottom", transform=left.get_yaxis_transform())
    left.set(
        xscale="log",
        xlabel="network passes per picture (a backward pass counts as one)",
        title="PSNR to the picture (dB)",
    )
    plain_ticks(left)
    left.set_ylim(raw["db"] - 9, None)  # room for the legend below the curves
    left.legend(loc="lower right", fontsize=9)
    names = list(r["ablation"])
    right.barh(
        range(len(names)),
        list(r["ablation"].values()),
        color=[BLUE, *[ORANGE] * (len(names) - 1)],
        height=0.6,
    )
    right.set_yticks(range(len(names)), names)
    right.invert_yaxis()
    right.set(title="without its parts (dB)")
    right.grid(axis="y", visible=False)
    return fig


def inverted_edits(folder: Path, models: Opener) -> Figure:
    """Given pictures edited by Prompt-to-Prompt on each way of inverting: success against what is kept."""
    r = record(folder, "null_text")["edits"]
    kinds = list(next(iter(r["ways"].values()))["injected"])
    fig = figure(12, 4.6)
    colours = dict(zip(r["ways"], (ORANGE, GREEN, BLUE, "black", SKY, PURPLE, RED, GREY), strict=True))
    axes = fig.subplots(1, len(kinds))
    for ax, kind in zip(axes, kinds):
        for name, way in r["ways"].items():
            ends = [way[how][kind] for how in ("uninjected", "injected")]
            ax.plot(
                [p["outside_db"] for p in ends],
                [p["right"] for p in ends],
                "-",
                color=colours[name],
                linewidth=1,
            )
            ax.plot(
                ends[0]["outside_db"], ends[0]["right"], "o", color=colours[name], markerfacecolor="white"
            )
            ax.plot(ends[1]["outside_db"], ends[1]["right"], "o", color=colours[name], label=name)
        ax.axvline(
            r["autoencoder_db"], color=GREY, linewidth=1, linestyle="--", label="the autoencoder alone"
        )
        ax.set(
            title=kind + (" (hollow: nothing injected)" if kind == kinds[0] else ""),
            xlabel="PSNR outside the true change (dB)",
        )
        percent(ax)
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=5)
    return fig


DRAWN = (diffedit_tradeoff, diffedit_masks, diffedit_bound, layout, ladder, null_text_updates, inverted_edits)
