"""Every figure of README, CLAIMS.md and the notebooks: python -m palimpsest.claims.draw.make [NAME.png …].

Each is one function of FIGURES, named after its file. Curves are drawn from the records that `make bench` and
`make claims` left in figures/*.json; pictures are sampled anew from a seed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Generator

from palimpsest.claims.common import Models, in_batches, new_scenes, open_models
from palimpsest.claims.draw.dreambooth import DRAWN as DREAMBOOTH
from palimpsest.claims.draw.editing import DRAWN, percent, record
from palimpsest.claims.draw.emoji import DRAWN as EMOJI
from palimpsest.claims.draw.flow import DRAWN as FLOW
from palimpsest.claims.draw.glide import DRAWN as GLIDE
from palimpsest.claims.draw.house import DRAWN as HOUSE
from palimpsest.claims.draw.instruct import DRAWN as INSTRUCT
from palimpsest.claims.draw.scoreboard import DRAWN as SCOREBOARD
from palimpsest.claims.draw.style import BAND, BLUE, GREEN, GREY, ORANGE, SKY, figure, save, show, style
from palimpsest.claims.goals import LINES
from palimpsest.claims.page import RECORDS
from palimpsest.methods.sampling import generate
from palimpsest.methods.sdedit import sdedit
from palimpsest.worlds.files import read_picture
from palimpsest.worlds.shapes import (
    Edit,
    Scene,
    apply,
    caption,
    changed_mask,
    edits,
    instruction,
    render,
    sample_scene,
    strokes,
)

Opener = Callable[[], Models]


# --------------------------------------------------------------------------- the world


def an_edit(scene: Scene, kind: str, seed: int) -> Edit:
    """One of the scene's edits of this kind."""
    return random.Random(f"an edit {seed}").choice([e for e in edits(scene) if e.kind == kind])


def varied(n: int, rng: random.Random, tries: int = 60) -> list[Scene]:
    """n scenes, of one and two things in turn, each the one of `tries` that repeats least of what stands
    before it.
    """
    chosen: list[Scene] = []
    seen: Counter[str] = Counter()

    def parts(scene: Scene) -> list[str]:
        named = [w for t in scene.things for w in (t.shape, t.colour, t.texture, t.size)]
        return [f"on {scene.background}", scene.ground.kind, *named]

    def staleness(scene: Scene) -> float:
        return sum(seen[w] for w in parts(scene)) / len(parts(scene)) - 0.5 * ("large" in parts(scene))

    for k in range(n):
        drawn = [sample_scene(rng, things=1 + k % 2) for _ in range(tries)]
        chosen.append(min(drawn, key=staleness))
        seen.update(parts(chosen[-1]))
    return chosen


def a_clear_scene(rng: random.Random, things: int) -> Scene:
    """One in which everything is large and nothing is black or white."""
    while True:
        scene = sample_scene(rng, things)
        colours = {scene.background, *(t.colour for t in scene.things)}
        if all(t.size == "large" for t in scene.things) and not colours & {"black", "white"}:
            return scene


def world(folder: Path, models: Opener) -> Figure:
    """Scenes with captions, chosen for variety; below, two scenes, painted, truly edited, and what an
    edit changes.
    """
    rng = random.Random("the gallery")
    gallery = varied(12, rng)
    subjects = [
        (a_clear_scene(rng, 2), ("recolour", "swap")),
        (a_clear_scene(rng, 1), ("reshape", "background")),
    ]
    fig = figure(12, 10.4)
    upper, lower = fig.subfigures(2, 1, height_ratios=[2.15, 1.95], hspace=0.03)
    for ax, scene in zip(upper.subplots(2, 6).flat, gallery):
        show(ax, render(scene), caption(scene), width=25)
    axes = lower.subplots(2, 6)
    for i, (scene, kinds) in enumerate(subjects):
        show(axes[i, 0], render(scene), "a scene")
        show(axes[i, 1], strokes(scene, Generator().manual_seed(i)), "painted by a hurried hand", width=25)
        for k, kind in enumerate(kinds):
            edit = an_edit(scene, kind, 5)
            words = f"“{instruction(scene, edit)}”: the true result"
            show(axes[i, 2 + 2 * k], render(apply(scene, edit)), words, width=25)
            show(axes[i, 3 + 2 * k], 2 * changed_mask(scene, edit) - 1, "what it changes", smooth=False)
    return fig


# --------------------------------------------------------------------------- what the model makes


def samples(folder: Path, models: Opener) -> Figure:
    """Pictures from scenes that no training saw: one thing, two things, colour × shape pairs kept out of
    training.
    """
    rows = [
        ("one thing", new_scenes(6, 11, things=1)),
        ("two things", new_scenes(6, 12, things=2)),
        ("never seen: this colour on this shape", new_scenes(6, 13, things=1, held_out=True)),
    ]
    prompts = [caption(s) for _, scenes in rows for s in scenes]
    model = models().model
    pictures = in_batches(
        lambda part: generate(model, prompts[part], w=3.0, seed=part.start).picture, len(prompts)
    )
    fig = figure(12, 8.9)
    fig.get_layout_engine().set(h_pad=0.09)
    axes = fig.subplots(len(rows), 6)
    for i, (name, _) in enumerate(rows):
        for k in range(6):
            show(axes[i, k], pictures[6 * i + k], prompts[6 * i + k], width=25)
        axes[i, 0].set_title(name, loc="left", fontsize=12, fontweight="bold")
    return fig


HERO = {  # painting -> other words for it, when the edit is to change it
    "star.png": "a large purple heart on a blue background",
    "flower.jpg": "a large dotted orange flower on a purple background",
    "crescent.png": "a large red star on a yellow background",
}


def hero(folder: Path, models: Opener) -> Figure:
    """Paintings in, pictures out: t0 from faithful to realistic, then other words."""
    captions, model = (
        json.loads((RECORDS / "hand" / "captions.json").read_text(encoding="utf-8")),
        models().model,
    )
    fig = figure(10.6, 7.8)
    axes = fig.subplots(len(HERO), 6, width_ratios=[1, 0.14, 1, 1, 1, 1])
    for i, (name, other) in enumerate(HERO.items()):
        path = RECORDS / "hand" / name
        guide = read_picture(path, size=model.size)
        show(axes[i, 0], read_picture(path, size=256), f"“{captions[name]}”", above="" if i else "a painting")
        axes[i, 1].axis("off")
        axes[i, 1].text(0.5, 0.5, "→", ha="center", va="center", fontsize=22, color=GREY)
        for k, t0 in enumerate((0.3, 0.5, 0.7)):
            edit = sdedit(model, guide, captions[name], t0=t0, steps=50, w=3.0, seed=1)
            show(axes[i, 2 + k], edit.picture, above="" if i else f"SDEdit, t₀ = {t0:g}")
        edit = sdedit(model, guide, other, t0=0.8, steps=50, w=3.0, seed=1)
        show(axes[i, 5], edit.picture, f"“{other}”", above="" if i else "other words, t₀ = 0.8")
    return fig


# --------------------------------------------------------------------------- curves

WALKS = {  # name -> colour, line style, marker
    "VP, ancestral": (BLUE, "-", "o"),
    "VP, DDIM": (SKY, "-", "s"),
    "VE": (ORANGE, "-", "^"),
    "VP, ancestral, no text": (BLUE, ":", "o"),
    "VE, no text": (ORANGE, ":", "^"),
}


def sdedit_curve(folder: Path, models: Opener) -> Figure:
    """Faithfulness, realism and truth of SDEdit over t0, and over the σ that t0 stands for, by which
    walks compare.
    """
    r = record(folder, "sdedit_curve")
    fig = figure(12, 7.2)
    axes = fig.subplots(2, 3, sharey="col")
    columns = (
        ("rmse", "distance to the painting (RMSE)"),
        ("kid", "distance to real pictures (KID, may be < 0)"),
        ("right", "all attributes right"),
    )
    for i, x in enumerate(("t0", "sigma")):
        for k, (y, words) in enumerate(columns):
            ax = axes[i, k]
            if x == "t0":
                ax.axvspan(0.3, 0.6, color=BAND, zorder=0)
            else:
                ax.set_xscale("log")
            for name, walked in r["walks"].items():
                colour, line, marker = WALKS[name]
                if y == "right" and name.endswith("no text"):
                    continue  # nobody asked for the attributes
                ax.plot(
                    [p[x] for p in walked],
                    [p[y] for p in walked],
                    line,
                    color=colour,
                    marker=marker,
                    label=name,
                )
            ax.axhline(r["guide"][y], color=GREY, linewidth=1, linestyle="--")
            ax.set_xlabel("t₀" if x == "t0" else "σ at t₀")
            if i == 0:
                ax.set_title(words)
            if y == "right":
                percent(ax)
            if y == "kid":
                ax.set_yscale(
                    "symlog", linthresh=0.02
                )  # one walk ends far off, and the rest would be one line
    small = dict(color=GREY, fontsize=10)
    axes[0, 0].text(
        0.45, 0.97, "[.3, .6]", small, transform=axes[0, 0].get_xaxis_transform(), ha="center", va="top"
    )
    axes[1, 2].text(
        0.98,
        r["guide"]["right"],
        "the painting itself",
        small,
        transform=axes[1, 2].get_yaxis_transform(),
        ha="right",
        va="bottom",
    )
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=5)
    return fig


def sdedit_masks(folder: Path, models: Opener) -> Figure:
    """Painted local edits, with their mask and without: success inside, change outside, over t0."""
    r = record(folder, "sdedit_masks")
    t0 = [p["t0"] for p in r["rows"]]
    fig = figure(10, 4)
    left, right = fig.subplots(1, 2)
    left.plot(t0, [p["with_mask"]["all"] for p in r["rows"]], "o-", color=BLUE, label="with the mask")
    left.plot(t0, [p["without_mask"]["all"] for p in r["rows"]], "^-", color=ORANGE, label="without")
    left.axhline(r["painting"]["all"], color=GREY, linewidth=1, linestyle="--", label="the painting itself")
    left.set(title="all attributes of the edit right", xlabel="t₀")
    percent(left)
    right.plot(
        t0, [p["outside_db_unpasted"] for p in r["rows"]], "o-", color=BLUE, label="with the mask, not pasted"
    )
    right.plot(t0, [p["outside_db_without_mask"] for p in r["rows"]], "^-", color=ORANGE, label="without")
    right.axhline(
        r["outside_db_autoencoder"], color=GREY, linewidth=1, linestyle="--", label="the autoencoder alone"
    )
    right.set(title="PSNR to the picture outside the mask (dB)", xlabel="t₀")
    for ax in (left, right):
        ax.legend()
    return fig


def w_curve(folder: Path, models: Opener) -> Figure:
    """All attributes right over the guidance scale."""
    parts = record(folder, "bench")["parts"]
    fig = figure(7, 4.2)
    ax = fig.subplots()
    lines = (("single", "one thing", BLUE, "o"), ("two", "two things and their relation", ORANGE, "^"))
    scales = {p["w"] for name, *_ in lines if name in parts for p in parts[name]["curve"]}
    lowest = min(
        (p["right"] for name, *_ in lines if name in parts for p in parts[name]["curve"]), default=1.0
    )
    for name, words, colour, marker in lines:
        if name in parts:
            curve = parts[name]["curve"]
            ax.plot(
                [p["w"] for p in curve], [p["right"] for p in curve], marker=marker, color=colour, label=words
            )
            ax.axhline(LINES[name][0].goal, color=colour, linewidth=1, linestyle="--")
    if "held_out" in parts:
        p = parts["held_out"]
        ax.plot(
            [p["w"]],
            [p["right"]],
            "D",
            color=GREEN,
            markersize=8,
            label="one thing, colour × shape never seen",
        )
        ax.axhline(LINES["held_out"][0].goal, color=GREEN, linewidth=1, linestyle="--")
    ax.set(
        title="all attributes right (dashed: to be reached)", xlabel="guidance scale w", xticks=sorted(scales)
    )
    percent(ax, max(0.0, min(0.4, lowest - 0.05)))
    fig.legend(loc="outside lower center", ncols=3)
    return fig


FIGURES: dict[str, Callable[[Path, Opener], Figure]] = {
    f"{draw.__name__}.png": draw
    for draw in (
        world,
        samples,
        hero,
        sdedit_curve,
        sdedit_masks,
        w_curve,
        *DRAWN,
        *GLIDE,
        *DREAMBOOTH,
        *INSTRUCT,
        *EMOJI,
        *FLOW,
        *HOUSE,
        *SCOREBOARD,
    )
}


def make(
    names: Iterable[str], records: Path = RECORDS, out: Path = RECORDS, models: Opener | None = None
) -> None:
    """Draw these figures from the records in one folder into another. ValueError for an unknown one or no
    record.
    """
    opener = cache(open_models) if models is None else models
    for name in names:
        if name not in FIGURES:
            raise ValueError(f"figure: no figure named {name!r}; known: {', '.join(FIGURES)}")
        with style(), torch.inference_mode():
            save(FIGURES[name](records, opener), out / name)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m palimpsest.claims.draw.make", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME.png", help=f"which: {', '.join(FIGURES)}; all without"
    )
    parser.add_argument("--models", metavar="FOLDER", help="draw candidates in FOLDER into FOLDER/claims")
    a = parser.parse_args(argv)
    folder, skipped = Path(a.models) / "claims" if a.models else RECORDS, 0
    folder.mkdir(parents=True, exist_ok=True)
    opener = cache(lambda: open_models(a.models))
    for name in a.names or FIGURES:
        try:
            make([name], folder, folder, opener)
            print(f"{folder.name}/{name}")
        except ValueError as error:
            skipped += 1
            print(f"skipped {name}: {error}", file=sys.stderr)
    return 2 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
