"""InstructPix2Pix's claims (arXiv:2211.09800v2): beside SDEdit, on less data, without its filter, and
over its two scales.

What the paper draws (Figs. 8 and 10): CLIP's directional similarity, how much the picture went as the
captions did, against CLIP's similarity of the two pictures, how much stayed. Beside them stands the
truth, which only a world that renders its edits can know: whether all attributes are right, the PSNR
outside the true change, the PSNR to the true result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.claims.common import (
    Edits,
    autoencoded,
    by_instruction,
    draw_edits,
    in_batches,
    is_there,
    place,
    rank_correlation,
)
from palimpsest.claims.page import FAILS, HOLDS, PARTLY, UNJUDGED, Finding, Measurement, Record, share
from palimpsest.claims.parts import Part, at_once
from palimpsest.methods.sdedit import sdedit
from palimpsest.metrics.image import psnr
from palimpsest.metrics.similarity import cosine, directional
from palimpsest.training.shapes_instruct import KINDS
from palimpsest.weights.files import read_weights, sha256
from palimpsest.weights.judges import Judge, Oracle, load_judge, load_reader
from palimpsest.weights.load import find, load
from palimpsest.weights.model import Autoencoder, Model

STEPS, W = 16, 3.0  # of both walks; W: of SDEdit
S_TEXT = 3.0  # ours: as W. The paper: 7.5
S_IMAGES = (1.0, 1.2, 1.5, 2.0, 3.0)  # the paper: 1 to 2.2
T0S = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # the paper's
S_TEXTS, GRID_IMAGES = (1.0, 2.0, 3.0, 5.0, 7.5), (1.0, 1.2, 1.5, 2.0)
TRUE, TENTH, HUNDREDTH = "shapes-instruct", "shapes-instruct-10", "shapes-instruct-1"
SORTED, UNSORTED = "shapes-instruct-generated", "shapes-instruct-unfiltered"
DATA, FILTER = (TRUE, TENTH, HUNDREDTH), (SORTED, UNSORTED, TRUE)
NEEDS = (TRUE, "shapes-clip")
SHARES = (0.5, 0.7, 0.9)  # of the strongest edit that both curves reach: where they are compared
LEAST = 0.05  # a directional similarity below it is no direction


# --------------------------------------------------------------------------- measuring


class InstructModels(NamedTuple):
    """Models that edit by instruction, the one that SDEdit walks with, and their judges."""

    nets: dict[str, Model]  # by name; one that is not trained is not there
    model: Model
    oracle: Oracle
    clip: Judge
    vae: Autoencoder
    name: str
    files: dict[str, str]  # the sha256 of each file, for the record
    seen: dict[str, int]  # how many pairs each of `nets` was shown in training


def open_instruct(
    names: Sequence[str], folder: str | Path | None = None, device: str = "cpu"
) -> InstructModels:
    """The shipped models, or candidates of the same names in `folder`; of `names` those that are trained,
    but `TRUE` in any case.
    """
    at = {name: place(name, folder) for name in names if name == TRUE or is_there(name, folder)}
    others = {name: place(name, folder) for name in ("shapes", "shapes-reader", "shapes-clip")}
    nets = {name: load(path, device, torch.float32) for name, path in at.items()}
    files, model = (
        (*at.values(), *others.values(), place("shapes-vae", folder)),
        load(others["shapes"], device, torch.float32),
    )
    return InstructModels(
        nets,
        model,
        load_reader(others["shapes-reader"], device),
        load_judge(others["shapes-clip"], device),
        Autoencoder(model.vae, model.latent_scale),
        TRUE if folder is None else Path(folder).name,
        {find(f).name: sha256(find(f)) for f in files},
        {name: pairs_seen(read_weights(find(path))[0].get("trained", [])) for name, path in at.items()},
    )


def pairs_seen(runs: Iterable[dict]) -> int:
    """Steps × batch of those runs that were trained on pairs."""
    return sum(run["steps"] * run["batch"] for run in runs if "pairs" in run)


def scorer(models: InstructModels, drawn: Edits) -> Callable[[Tensor], Record]:
    """A function of pictures (n 3 64 64) made for these edits: what CLIP thinks of them, and the truth."""
    n, device, clip = len(drawn.edits), models.model.device, models.clip

    def embedded(pictures: Tensor) -> Tensor:
        return in_batches(lambda rows: clip.images(pictures[rows].to(device)), n).cpu()

    shown, said, wished = (
        embedded(drawn.before),
        clip.texts(drawn.source).cpu(),
        clip.texts(drawn.target).cpu(),
    )
    rest = 1 - drawn.changed
    some = rest.flatten(1).any(1)  # an edit may change every pixel

    def score(pictures: Tensor) -> Record:
        pictures = pictures.cpu()
        made, right = embedded(pictures), models.oracle.right(pictures, drawn.wanted)
        return dict(
            direction=directional(shown, made, said, wished).mean().item(),
            image=cosine(shown, made).mean().item(),
            right=right.double().mean().item(),
            reached=models.oracle.right(pictures, drawn.changes).double().mean().item(),
            outside_db=psnr(pictures[some], drawn.before[some], rest[some]).clamp(max=60).mean().item(),
            truth_db=psnr(pictures, drawn.after).clamp(max=60).mean().item(),
            kinds={k: right[drawn.rows(k)].double().mean().item() for k in KINDS if drawn.rows(k)},
        )

    return score


def noised(model: Model, drawn: Edits, t0: float, seed: int) -> Tensor:
    """What SDEdit makes of the captions of what is wished for."""
    return in_batches(
        lambda rows: (
            sdedit(
                model, drawn.before[rows], drawn.target[rows], t0=t0, steps=STEPS, w=W, seed=seed + rows.start
            ).picture
        ),
        len(drawn.edits),
    )


def ends(models: InstructModels, drawn: Edits, score: Callable[[Tensor], Record], part: Part) -> Record:
    """Between what all curves lie: the picture as it was, and the true result, both through the
    autoencoder.
    """
    return {
        name: part(name, lambda pictures=pictures: score(autoencoded(models, pictures)))
        for name, pictures in (("unedited", drawn.before), ("truth", drawn.after))
    }


def curve(
    models: InstructModels,
    name: str,
    drawn: Edits,
    score: Callable[[Tensor], Record],
    seed: int,
    part: Part,
    s_images: Sequence[float],
) -> list[Record]:
    """One model over s_image."""
    return [
        dict(s_image=s)
        | part(
            f"{name}, s_image {s:g}",
            lambda s=s: score(by_instruction(models.nets[name], drawn, S_TEXT, s, STEPS, seed)),
        )
        for s in s_images
    ]


def measure_sdedit(
    models: InstructModels,
    *,
    n: int,
    seed: int,
    part: Part = at_once,
    s_images: Sequence[float] = S_IMAGES,
    t0s: Sequence[float] = T0S,
) -> Record:
    """n edits of every kind: by instruction over s_image, and by SDEdit over t0, which is given the
    caption of the result.
    """
    drawn = draw_edits(n, KINDS, seed + 70)
    score = scorer(models, drawn)
    ours = curve(models, TRUE, drawn, score, seed, part, s_images)
    theirs = [
        dict(t0=t) | part(f"SDEdit, t0 {t:g}", lambda t=t: score(noised(models.model, drawn, t, seed)))
        for t in t0s
    ]
    return dict(
        steps=STEPS,
        s_text=S_TEXT,
        w=W,
        curves={"InstructPix2Pix": ours, "SDEdit": theirs},
        **ends(models, drawn, score, part),
    )


def measure_models(
    models: InstructModels, names: Sequence[str], n: int, seed: int, part: Part, s_images: Sequence[float]
) -> Record:
    """Several models on the same edits, over s_image; which of them are not trained."""
    drawn = draw_edits(n, KINDS, seed + 70)
    score = scorer(models, drawn)
    curves = {
        name: curve(models, name, drawn, score, seed, part, s_images) for name in names if name in models.nets
    }
    return dict(
        steps=STEPS,
        s_text=S_TEXT,
        seen=models.seen,
        missing=[name for name in names if name not in models.nets],
        curves=curves,
        **ends(models, drawn, score, part),
    )


def measure_data(
    models: InstructModels, *, n: int, seed: int, part: Part = at_once, s_images: Sequence[float] = S_IMAGES
) -> Record:
    """Models trained on all pairs, on a tenth of them, and on a hundredth."""
    return measure_models(models, DATA, n, seed, part, s_images)


def measure_filter(
    models: InstructModels, *, n: int, seed: int, part: Part = at_once, s_images: Sequence[float] = S_IMAGES
) -> Record:
    """Models trained on painted pairs, those that CLIP let pass or all alike; beside them one that saw
    true pairs.
    """
    return measure_models(models, FILTER, n, seed, part, s_images)


def measure_scales(
    models: InstructModels,
    *,
    n: int,
    seed: int,
    part: Part = at_once,
    s_texts: Sequence[float] = S_TEXTS,
    s_images: Sequence[float] = GRID_IMAGES,
) -> Record:
    """The same edits at every pair of scales."""
    drawn = draw_edits(n, KINDS, seed + 70)
    score, model = scorer(models, drawn), models.nets[TRUE]
    grid = [
        dict(s_text=t, s_image=s)
        | part(
            f"s_text {t:g}, s_image {s:g}",
            lambda t=t, s=s: score(by_instruction(model, drawn, t, s, STEPS, seed)),
        )
        for t in s_texts
        for s in s_images
    ]
    return dict(steps=STEPS, grid=grid, **ends(models, drawn, score, part))


BESIDE_SDEDIT = Measurement(
    "instruct_sdedit",
    measure_sdedit,
    256,
    0,
    ("instruct_sdedit.png",),
    partial(open_instruct, (TRUE,)),
    NEEDS,
)
LESS_DATA = Measurement(
    "instruct_data",
    measure_data,
    256,
    0,
    ("instruct_data.png",),
    partial(open_instruct, DATA),
    (*DATA, "shapes-clip"),
)
UNFILTERED = Measurement(
    "instruct_filter",
    measure_filter,
    256,
    0,
    ("instruct_filter.png",),
    partial(open_instruct, FILTER),
    (*FILTER, "shapes-clip"),
)
SCALES = Measurement(
    "instruct_scales",
    measure_scales,
    256,
    0,
    ("instruct_scales.png",),
    partial(open_instruct, (TRUE,)),
    NEEDS,
)


# --------------------------------------------------------------------------- judging


def kept_at(rows: Sequence[Record], x: str, level: float, y: str) -> float | None:
    """The most of y that a curve keeps where its x is at least this, linear between its points; None
    where it never is.
    """
    found = [row[y] for row in rows if row[x] >= level]
    for a, c in zip(rows, rows[1:]):
        if (a[x] - level) * (c[x] - level) < 0:
            found.append(a[y] + (level - a[x]) / (c[x] - a[x]) * (c[y] - a[y]))
    return max(found, default=None)


def top(rows: Sequence[Record], key: str) -> float:
    """The most of it on a curve."""
    return max(row[key] for row in rows)


def beside(
    ours: Sequence[Record], theirs: Sequence[Record], x: str, y: str
) -> list[tuple[float, float, float]]:
    """(level, our y, their y) at SHARES of the most of x that both curves reach."""
    most = min(top(ours, x), top(theirs, x))
    return [
        (share * most, kept_at(ours, x, share * most, y), kept_at(theirs, x, share * most, y))
        for share in SHARES
    ]


def wins(levels: Sequence[tuple[float, float, float]]) -> bool:
    """Whether ours is the higher one at every level, and the levels are any."""
    return all(level > 0 and mine > other for level, mine, other in levels)


def in_words(levels: Sequence[tuple[float, float, float]], digits: int, how: str) -> str:
    """Both values at each level: "0.80 / 0.75 at 0.10"."""
    return ", ".join(
        f"{mine:.{digits}f} / {other:.{digits}f} at {level:{how}}" for level, mine, other in levels
    )


def slashed(values: Iterable[float], how: str) -> str:
    """Several figures in a row: "34.4% / 28.1%"."""
    return " / ".join(format(v, how) for v in values)


def shares(found: Iterable[float], n: int) -> str:
    """Several shares of n in a row, each with its interval."""
    return " / ".join(share(v, n) for v in found)


def more_faithful(ours: Sequence[Record], theirs: Sequence[Record]) -> tuple[str, str]:
    """(verdict, words) on two curves: more of the picture kept at an equally strong edit, as CLIP sees
    both and in truth.
    """
    most = [top(rows, "direction") for rows in (ours, theirs)]
    if min(most) < LEAST:
        return (
            UNJUDGED,
            f"edits go nowhere that CLIP can tell (directional similarity {slashed(most, '.3f')} at most)",
        )
    clip, truth = beside(ours, theirs, "direction", "image"), beside(ours, theirs, "right", "outside_db")
    words = (
        f"CLIP image similarity at equal directional similarity: {in_words(clip, 3, '.2f')}; PSNR outside "
        f"the change at equal "
        f"success: {in_words(truth, 1, '.0%')}"
    )
    return HOLDS if wins(clip) and wins(truth) else PARTLY if wins(clip) or wins(truth) else FAILS, words


def not_trained(record: Record, names: Sequence[str]) -> Finding | None:
    """What is said where one of these models is not there."""
    missing = [name for name in names if name in record["missing"]]
    return Finding(UNJUDGED, f"not trained yet: {', '.join(missing)}") if missing else None


def evenly(record: Record, names: Sequence[str]) -> bool:
    """Whether these models were shown equally many pairs, within a tenth."""
    seen = [record["seen"][name] for name in names]
    return max(seen) <= 1.1 * min(seen)


def judge_faithful(record: Record) -> Finding:
    """Compared at .5, .7 and .9 of the directional similarity that both reach, and of the success that
    both reach, each curve read between its points. Holds where InstructPix2Pix has the higher CLIP image
    similarity at all three, and in truth the higher PSNR outside the change at all three. Partly where
    one of the two is so. Else does not hold. Cannot be judged where the directional similarity of one
    stays under .05."""
    ours, theirs = record["curves"]["InstructPix2Pix"], record["curves"]["SDEdit"]
    verdict, words = more_faithful(ours, theirs)
    if verdict == UNJUDGED:
        return Finding(verdict, words)
    return Finding(
        verdict,
        f"InstructPix2Pix / SDEdit: {words}; best success {share(top(ours, 'right'), record['n'])} / "
        f"{share(top(theirs, 'right'), record['n'])}",
    )


def judge_data(record: Record) -> Finding:
    """Each model at its best scale. Holds where from all data to a tenth to a hundredth success and
    directional similarity fall at each step and the mean CLIP image similarity over the scales rises from
    the first to the last: less is changed. Partly where success falls from the first to the last; partly
    at most where the models were not shown equally many pairs (within a tenth). Else does not hold.
    Cannot be judged where a model is not trained."""
    if unfit := not_trained(record, DATA):
        return unfit
    rows = [record["curves"][name] for name in DATA]
    right, direction = ([top(r, key) for r in rows] for key in ("right", "direction"))
    image = [sum(p["image"] for p in r) / len(r) for r in rows]
    fall = all(v[0] > v[1] > v[2] for v in (right, direction))
    strict = fall and image[2] > image[0] and evenly(record, DATA)
    subtle = sorted(KINDS, key=lambda k: -max(p["kinds"].get(k, 0.0) for p in rows[2]))[:2]
    ours = (
        f"100 / 10 / 1 %: all right {shares(right, record['n'])}, directional similarity "
        f"{slashed(direction, '.3f')}, image similarity "
        f"{slashed(image, '.3f')}, pairs seen {slashed((record['seen'][name] for name in DATA), ',')}; with "
        f"1 % best at: "
        f"{' and '.join(subtle)}"
    )
    return Finding(HOLDS if strict else PARTLY if right[0] > right[2] else FAILS, ours)


def judge_filter(record: Record) -> Finding:
    """The model of filtered pairs beside that of unfiltered ones, at .5, .7 and .9 of what both reach, as
    for C22. Holds where it has the higher CLIP image similarity at equal directional similarity at all
    three, and in truth the higher PSNR outside the change at equal success. Partly where one of the two
    is so; partly at most where the two were not shown equally many pairs (within a tenth). Else does not
    hold. Cannot be judged where one of them is not trained, or its directional similarity stays under
    .05."""
    names = FILTER[:2]
    if unfit := not_trained(record, names):
        return unfit
    curves = record["curves"]
    verdict, words = more_faithful(*(curves[name] for name in names))
    if verdict == UNJUDGED:
        return Finding(verdict, words)
    verdict = PARTLY if verdict == HOLDS and not evenly(record, names) else verdict
    there = [name for name in FILTER if name in curves]
    right = shares((top(curves[name], "right") for name in there), record["n"])
    near = slashed((top(curves[name], "truth_db") for name in there), ".1f")
    ours = (
        f"filtered / not: {words}; filtered / not{' / true pairs' if TRUE in there else ''}: best success "
        f"{right}, PSNR to the true "
        f"result {near} dB, pairs seen {slashed((record['seen'][name] for name in there), ',')}"
    )
    return Finding(verdict, ours)


def along(grid: Sequence[Record], scale: str, other: str, key: str) -> float:
    """How surely `key` rises with one scale: Spearman's rank correlation at each value of the other
    scale, the mean of these.
    """
    lines = [
        [row for row in grid if row[other] == value] for value in dict.fromkeys(row[other] for row in grid)
    ]
    return sum(
        rank_correlation([row[scale] for row in line], [row[key] for row in line]) for line in lines
    ) / len(lines)


def judge_scales(record: Record) -> Finding:
    """Spearman's rank correlation along each line of the grid, the mean over the lines. Holds where with
    s_T rise CLIP's directional similarity and the share of edits whose own attributes are right, and with
    s_I CLIP's image similarity and the PSNR outside the change, each with ρ ≥ .6. Partly where for each
    scale one of its two does. Else does not hold. Cannot be judged on fewer than three values of a
    scale."""
    grid = record["grid"]
    if min(len({row[scale] for row in grid}) for scale in ("s_text", "s_image")) < 3:
        return Finding(UNJUDGED, "fewer than three values of a scale")
    edit = [along(grid, "s_text", "s_image", key) for key in ("direction", "reached")]
    keep = [along(grid, "s_image", "s_text", key) for key in ("image", "outside_db")]
    near, best = (max(grid, key=lambda row: row[key]) for key in ("truth_db", "right"))
    ours = (
        f"ρ with s_T: directional similarity {edit[0]:+.2f}, edited attributes right {edit[1]:+.2f}; with "
        f"s_I: image similarity "
        f"{keep[0]:+.2f}, PSNR outside {keep[1]:+.2f}; most right "
        f"{share(best['right'], record['n'])} at s_T = "
        f"{best['s_text']:g}, s_I = "
        f"{best['s_image']:g} ({best['outside_db']:.1f} dB outside); nearest to the truth "
        f"{near['truth_db']:.1f} dB at s_T = "
        f"{near['s_text']:g}, s_I = {near['s_image']:g}"
    )
    sure = [[rho >= 0.6 for rho in rhos] for rhos in (edit, keep)]
    return Finding(HOLDS if all(map(all, sure)) else PARTLY if all(map(any, sure)) else FAILS, ours)
