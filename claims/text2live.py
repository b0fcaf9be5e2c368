"""Text2LIVE's claims (arXiv:2204.02491v2; and what arXiv:2211.09800v2 says of it): which edits a painted
layer can make, and what it keeps. The CLIP that trains the layer judges nothing here.
"""

from __future__ import annotations

import time
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.claims.common import Edits, Models, draw_edits, open_models, place
from palimpsest.claims.page import FAILS, HOLDS, PARTLY, Finding, Measurement, Record, percent, span
from palimpsest.claims.parts import Part, at_once
from palimpsest.claims.ways import (
    WAYS,
    by_sdedit,
    chosen,
    interval,
    made,
    made_at_best,
    resamples,
    scores,
    shown,
    table,
)
from palimpsest.methods.text2live import Terms, Training, Views, text2live
from palimpsest.weights.files import sha256
from palimpsest.weights.judges import Judge, load_judge
from palimpsest.weights.load import find, load
from palimpsest.weights.model import Model
from palimpsest.worlds.shapes import caption

PAINTED = ("recolour", "retexture")  # what a layer of colours can do
SHAPED = ("reshape", "add")  # what needs other outlines
KINDS = (*PAINTED, *SHAPED, "background")
T0S = (0.4, 0.55, 0.7, 0.85)
OTHERS = 20  # pairs on which the settings of the others are chosen
# the best of three that were tried on pairs that are not scored: 6 of 9 right; 2 of 8 at a quarter the rate
TRAINING, VIEWS, TERMS = Training(steps=100, lr=1e-2, bootstrap=50, flip=0), Views(n=4, flip=0), Terms()
LAYER = " on a green background"  # as the green screen is called in this world


class LayerModels(NamedTuple):
    """Those of `Models`, the CLIP that trains layers, and what follows instructions."""

    models: Models
    judge: Judge
    instruct: Model
    name: str
    files: dict[str, str]


def open_layer(folder: str | None = None, device: str = "cpu") -> LayerModels:
    """The shipped models, or candidates of the same names in `folder`."""
    models, names = open_models(folder, device), ("shapes-clip", "shapes-instruct")
    files = {find(place(n, folder)).name: sha256(find(place(n, folder))) for n in names}
    return LayerModels(
        models,
        load_judge(place("shapes-clip", folder), device),
        load(place("shapes-instruct", folder), device, torch.float32),
        models.name,
        models.files | files,
    )


# --------------------------------------------------------------------------- measuring


def painted(judge: Judge, drawn: Edits, i: int, seed: int) -> Tensor:
    """What Text2LIVE makes of one edit: (1 3 y x)."""
    whole = drawn.kinds[i] == "background"
    layer = drawn.target[i] if whole else caption(drawn.after_scenes[i], background=False) + LAYER
    made = text2live(
        judge,
        drawn.before[i : i + 1].to(next(judge.net.parameters()).device),
        drawn.source[i],
        drawn.target[i],
        layer,
        terms=TERMS,
        views=VIEWS,
        training=TRAINING,
        seed=seed + i,
    )
    return made.picture.cpu()


def measure(models: LayerModels, *, n: int, seed: int, part: Part = at_once) -> Record:
    """n edits, the kinds in turn, by Text2LIVE, by SDEdit over t0 and by InstructPix2Pix at its best."""
    drawn, others = (
        draw_edits(n, KINDS, seed + 50, things=1),
        draw_edits(min(n, OTHERS), KINDS, 2100, things=1),
    )
    every = range(n)

    def one(i: int) -> Record:
        began = time.process_time()
        picture = painted(models.judge, drawn, i, seed)
        found = scores(models.models, picture, rows_of(drawn, i))
        return {k: shown(v.tolist()) for k, v in found.items()} | dict(seconds=time.process_time() - began)

    each = [part(f"Text2LIVE, picture {i}", partial(one, i)) for i in every]
    layers = {
        key: torch.tensor([float("nan") if e[key] is None else e[key][0] for e in each], dtype=torch.float64)
        for key in ("right", "reached", "outside_db", "truth_db")
    }

    def noised(t0: float) -> Record:
        done = made(models.models.model, by_sdedit, dict(t0=t0, w=3.0), drawn, every, seed)
        found = scores(models.models, done.pictures, drawn)
        return dict(t0=t0, evaluations=done.evaluations, seconds=done.seconds, each=plain(found))

    def instructed() -> Record:
        way, settings = WAYS["InstructPix2Pix"]
        best = chosen(models.instruct, way, settings, others, seed + 10**6)
        done = made_at_best(models.instruct, way, best, drawn, seed)
        found = scores(models.models, done.pictures, drawn)
        return dict(settings=best, evaluations=done.evaluations, seconds=done.seconds, each=plain(found))

    curve = [part(f"SDEdit, t0 = {t0:g}", partial(noised, t0)) for t0 in T0S]
    asked = part("InstructPix2Pix", instructed)
    best = max(curve, key=lambda row: sum(row["each"]["right"]))
    by_name = {
        "Text2LIVE": layers,
        "SDEdit": tensors(best["each"]),
        "InstructPix2Pix": tensors(asked["each"]),
    }
    return dict(
        training=repr(TRAINING),
        views=repr(VIEWS),
        seconds_each=sum(e["seconds"] for e in each) / n,
        t0=best["t0"],
        tables={name: table(found, drawn) for name, found in by_name.items()},
        kinds=kinds_apart(by_name, drawn),
        retexture=at_its_success(layers, [tensors(row["each"]) for row in curve], drawn),
        curve=[
            {k: v for k, v in row.items() if k != "each"} | table(tensors(row["each"]), drawn)["all"]
            for row in curve
        ],
    )


def rows_of(drawn: Edits, i: int) -> Edits:
    """One of the edits."""
    return Edits(*(field[i : i + 1] for field in drawn))


def plain(found: dict[str, Tensor]) -> Record:
    """Scores as JSON holds them: None for what is no number."""
    return {k: [None if x != x else x for x in v.tolist()] for k, v in found.items()}


def tensors(each: Record) -> dict[str, Tensor]:
    """And back."""
    return {
        k: torch.tensor([float("nan") if x is None else x for x in v], dtype=torch.float64)
        for k, v in each.items()
    }


def kinds_apart(by_name: dict[str, dict[str, Tensor]], drawn: Edits) -> Record:
    """Success on what a layer can paint less that on what needs other outlines, of Text2LIVE; and on the
    latter Text2LIVE's less each other method's: with intervals over resampled pictures.
    """
    paint, shape = ([i for k in kinds for i in drawn.rows(k)] for kinds in (PAINTED, SHAPED))
    ours = by_name["Text2LIVE"]["reached"]
    first, second = (ours[rows][resamples(len(rows), k)].mean(1) for k, rows in enumerate((paint, shape)))
    mean = (ours[paint].mean() - ours[shape].mean()).item()
    ends = (first - second).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    behind = {
        name: interval((ours - found["reached"])[shape])
        for name, found in by_name.items()
        if name != "Text2LIVE"
    }
    return dict(painted=interval(ours[paint]), shaped=interval(ours[shape]), gap=[mean, *ends], behind=behind)


def at_its_success(layers: dict[str, Tensor], curve: list[dict[str, Tensor]], drawn: Edits) -> Record:
    """On retexture edits: PSNR outside the true change of Text2LIVE, of SDEdit where it has Text2LIVE's
    success, and the difference. SDEdit's first t0 that reaches it counts, or else its most successful one.
    """
    rows = torch.tensor(drawn.rows("retexture"))
    anew = torch.cat([torch.arange(len(rows))[None], resamples(len(rows))])
    found = []
    for some in rows[anew]:
        success = layers["right"][some].mean()
        reached = [row["right"][some].mean() for row in curve]
        at = next((k for k, r in enumerate(reached) if r >= success), int(torch.stack(reached).argmax()))
        ours, theirs = layers["outside_db"][some].nanmean(), curve[at]["outside_db"][some].nanmean()
        found.append(torch.stack([success, reached[at], ours, theirs, ours - theirs]))
    values, quantiles = torch.stack(found), torch.tensor([0.025, 0.975], dtype=torch.float64)
    names = ("success", "success_of_sdedit", "outside_db", "outside_db_of_sdedit", "difference")
    spans = zip(values[0].tolist(), values[1:].quantile(quantiles, dim=0).T.tolist())
    return {name: [mean, *ends] for name, (mean, ends) in zip(names, spans)} | dict(n=len(rows))


TEXT2LIVE = Measurement(
    "text2live", measure, 40, 0, ("text2live_kinds.png",), open_layer, ("shapes-clip", "shapes-instruct")
)


# --------------------------------------------------------------------------- judging


def judge_kinds(record: Record) -> Finding:
    """Success: what was to change is read as wished. Holds where the 95 % interval of Text2LIVE's success on
    recolour and retexture less that on reshape and add lies above 0, and on the latter its success less
    SDEdit's and less InstructPix2Pix's lie below 0. Partly where the first holds. Else does not hold."""
    found = record["kinds"]
    painted, behind = found["gap"][1] > 0, all(v[2] < 0 for v in found["behind"].values())
    ours = (
        f"changed as wished: recolour and retexture {percent(found['painted'])}, reshape and add "
        f"{percent(found['shaped'])}; on these less than "
        + ", ".join(f"{name} by {-round(100 * v[0])} points" for name, v in found["behind"].items())
        + f"; {record['seconds_each']:.0f} s of one core a picture"
    )
    return Finding(HOLDS if painted and behind else PARTLY if painted else FAILS, ours)


def judge_keeps(record: Record) -> Finding:
    """Retexture edits; SDEdit at the smallest t₀ that reaches Text2LIVE's success, by PSNR outside the true
    change. Holds where the 95 % interval of the difference lies above 0. Partly where the difference does.
    Else does not hold."""
    found = record["retexture"]
    mean, low, _ = found["difference"]
    ours = (
        f"{found['n']} retexture edits: Text2LIVE {percent(found['success'])} all right at "
        f"{found['outside_db'][0]:.1f} dB outside, SDEdit {percent(found['success_of_sdedit'])} at "
        f"{found['outside_db_of_sdedit'][0]:.1f} dB; difference "
        f"{span(found['difference'])} dB"
    )
    return Finding(HOLDS if low > 0 else PARTLY if mean > 0 else FAILS, ours)
