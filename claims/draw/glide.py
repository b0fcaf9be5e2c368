"""The figures of GLIDE: curves from the records of `make claims`, and pictures painted anew from a seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from matplotlib.figure import Figure

from palimpsest.claims.common import Models, draw_edits
from palimpsest.claims.draw.editing import percent, record
from palimpsest.claims.draw.style import BLUE, GREEN, GREY, ORANGE, figure, show
from palimpsest.claims.glide import STEPS, open_glide
from palimpsest.claims.glide_filtered import asked, open_filtered
from palimpsest.claims.glide_inpaint import KINDS, WAYS, W, hidden
from palimpsest.methods.glide import glide, inpaint, upsample
from palimpsest.methods.glide_session import Session, box
from palimpsest.worlds.shapes import caption, render

Opener = Callable[[], Models]
GUIDES = {
    "text": ("the text, without a classifier (7)", BLUE, "o"),
    "clip": ("a noised CLIP (8)", ORANGE, "^"),
    "classifier": ("a noise-aware classifier (6)", GREEN, "s"),
}
SESSIONS = (  # what is asked for first, then a box and what is asked for in it
    (
        "a large red star on a blue background",
        ((0.55, 0.0, 1.0, 1.0), "a large red star left of a small yellow ring on a blue background"),
    ),
    (
        "a small white heart on a green background",
        ((0.0, 0.55, 1.0, 1.0), "a small white heart above a large purple cross on a green background"),
    ),
    (
        "a large striped orange square on a black background",
        ((0.15, 0.15, 0.85, 0.85), "a large dotted white diamond on a black background"),
    ),
)

SEEDS = (11, 37, 20)  # whose first picture has room where it is marked, as a person would mark it

opened = cache(open_glide)  # once for all figures


def glide_guidance(folder: Path, models: Opener) -> Figure:
    """Three guides over their scales: truth; truth against what the guiding CLIP thinks; fidelity against
    diversity.
    """
    r = record(folder, "glide_guidance")
    fig = figure(14, 4.4)
    truth, scorer, variety = fig.subplots(1, 3)
    for kind, (words, colour, marker) in GUIDES.items():
        rows = r["curves"][kind]
        truth.plot(
            [p["scale"] for p in rows], [p["right"] for p in rows], marker=marker, color=colour, label=words
        )
        scorer.plot([p["noised_clip"] for p in rows], [p["right"] for p in rows], marker=marker, color=colour)
        variety.plot([p["recall"] for p in rows], [p["precision"] for p in rows], marker=marker, color=colour)
        for ax, key in ((scorer, "noised_clip"), (variety, "recall")):
            last = rows[-1]
            ax.annotate(
                f"{last['scale']:g}",
                (last[key], last["right" if ax is scorer else "precision"]),
                color=colour,
                xytext=(4, 4),
                textcoords="offset points",
            )
    t = r["truth"]
    scorer.plot(t["noised_clip"], t["right"], "*", color=GREY, markersize=14, label="true renders")
    variety.plot(t["recall"], t["precision"], "*", color=GREY, markersize=14)
    truth.set(xscale="log", xlabel="guidance scale (w, or s)", title="all attributes right")
    scorer.set(
        xlabel="score by the CLIP that guides (100 · cos)", title="… against what the guide's CLIP thinks"
    )
    variety.set(
        xlabel="recall (diversity)", ylabel="precision (fidelity)", title="fidelity against diversity"
    )
    for ax in (truth, scorer, variety):
        percent(ax)
    variety.set(xlim=(0.6, 1.02), ylim=(0.6, 1.02))
    truth.set_xticks([1, 2, 3, 5, 8, 10], ["1", "2", "3", "5", "8", "10"])
    truth.minorticks_off()
    truth.legend(loc="lower center", fontsize=9)
    scorer.legend(loc="lower right", fontsize=9)
    return fig


def glide_rerank(folder: Path, models: Opener) -> Figure:
    """Best of k by CLIP: how often it is right, and how often any of the k is."""
    r = record(folder, "glide_rerank")
    fig = figure(6.6, 4.2)
    ax = fig.subplots()
    for (w, rows), colour in zip(r["curves"].items(), (ORANGE, BLUE)):
        k = [p["k"] for p in rows]
        ax.plot(k, [p["chosen"] for p in rows], "o-", color=colour, label=f"w = {w}, the one CLIP likes best")
        ax.plot(k, [p["any"] for p in rows], ":", color=colour, label=f"w = {w}, any of them")
    ax.set(xscale="log", xlabel="pictures to choose from", title="all attributes right")
    ax.set_xticks(k, [str(n) for n in k])
    ax.minorticks_off()
    percent(ax)
    ax.legend(fontsize=9)
    return fig


@torch.no_grad()
def glide_inpaint(folder: Path, models: Opener) -> Figure:
    """A thing hidden by a box and asked for anew, by each way of keeping the rest."""
    r, m = record(folder, "glide_inpaint"), opened()
    drawn = draw_edits(6, KINDS, 61, things=1)
    before, after, mask = render(drawn.scenes, 32), render(drawn.after_scenes, 32), hidden(drawn)
    columns = [("given", before), ("hidden", torch.where(mask > 0, torch.full_like(before, 0.6), before))]
    for name, (how, net) in WAYS.items():
        made = inpaint(getattr(m, net), before, mask, drawn.target, how=how, steps=STEPS, w=W, seed=3).picture
        columns.append(
            (f"{name}: right {r['ways'][name]['right']:.0%}, seam {r['ways'][name]['seam']:.3f}", made)
        )
    columns.append(("the true edit", after))
    return grid(columns, drawn.target)


@torch.no_grad()
def glide_session(folder: Path, models: Opener) -> Figure:
    """Three sessions: a picture from a text, the part that is marked, and what was asked for in it."""
    m = opened()
    columns: list[list[torch.Tensor]] = [[], [], []]
    words = []
    for k, (first, (corners, then)) in enumerate(SESSIONS):
        session = Session(m.inpaint, m.upsampler_inpaint, seed=SEEDS[k], steps=STEPS, w=W)
        one, mask = session.paint(first), box(*corners, size=session.size)
        columns[0].append(one)
        columns[1].append(torch.where(mask > 0, 0.35 * one + 0.65, one))
        columns[2].append(session.paint(then, mask))
        words.append((first, then))
    fig = figure(9, 3.5 * len(words))
    for i, axes in enumerate(fig.subplots(len(words), 3)):
        for ax, column, below in zip(axes, columns, (words[i][0], "the marked part", words[i][1])):
            show(ax, column[i], below, width=34)
    return fig


@torch.no_grad()
def glide_cascade(folder: Path, models: Opener) -> Figure:
    """Text, 32×32, 64×64: the two stages side by side, and bicubic interpolation beside the second."""
    m = opened()
    texts = [
        "a large red star on a white background",
        "a small striped blue heart on a yellow background",
        "a large dotted green ring on a purple background",
        "a large white crescent above a small red circle on a black background",
    ]
    small = glide(m.base, texts, steps=STEPS, w=W, seed=5).small
    bicubic = torch.nn.functional.interpolate(small, scale_factor=2, mode="bicubic").clamp(-1, 1)
    return grid(
        [
            ("base, 32×32", small),
            ("bicubic", bicubic),
            ("upsampler, 64×64", upsample(m.upsampler, small, texts, seed=5)),
        ],
        texts,
    )


@torch.no_grad()
def glide_filtered(folder: Path, models: Opener) -> Figure:
    """The shape that one model never saw, asked of it and of the one that saw all, from the same noise."""
    r, m = record(folder, "glide_filtered"), open_filtered()
    scenes = asked(6, 71, m.removed)[0]
    texts = [caption(scene) for scene in scenes]
    columns = [
        (
            f"{name}: {r[key]['removed']['shape']:.0%} show one",
            glide(b, texts, steps=str(r["steps"]), w=r["w"], seed=7).small,
        )
        for name, key, b in (
            (f"saw {m.removed}s", "whole", m.whole),
            (f"never saw a {m.removed}", "filtered", m.filtered),
        )
    ]
    return grid([*columns, ("as asked", render(scenes, 32))], texts)


def grid(columns: list[tuple[str, torch.Tensor]], words: list[str]) -> Figure:
    """Pictures in rows with their text at the left, under column headings."""
    fig = figure(2.0 * len(columns) + 2.4, 2.0 * len(words) + 0.5)
    for i, axes in enumerate(fig.subplots(len(words), len(columns))):
        for ax, (title, pictures) in zip(axes, columns):
            show(ax, pictures[i], above=title if i == 0 else "", width=20, smooth=False)
        axes[0].set_ylabel(
            "\n".join(words[i].replace(" on a", "\non a").split("\n")),
            rotation=0,
            ha="right",
            va="center",
            fontsize=9,
        )
    return fig


DRAWN = (glide_guidance, glide_rerank, glide_inpaint, glide_session, glide_cascade, glide_filtered)
