"""FlowEdit's claims (arXiv:2412.08629v1): beside editing by ODE inversion, at equal cost, and beside
DiffEdit, which has a mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palimpsest.claims.common import Edits, Models, autoencoded, draw_edits
from palimpsest.claims.page import FAILS, HOLDS, PARTLY, Finding, Measurement, Record, percent, span
from palimpsest.claims.parts import Part, at_once
from palimpsest.claims.ways import (
    STEPS,
    WAYS,
    by_flow_edit,
    by_inversion,
    by_kind,
    chosen,
    interval,
    made,
    made_at_best,
    resamples,
    scores,
    shown,
    table,
    truth_db,
)

KINDS = ("recolour", "reshape", "retexture", "background")
STARTS = (0.65, 0.8, 0.92)
SCALES = (2.0, 3.0, 5.0)  # guidance under the target, of which each way is given its best
OTHERS = 32  # pairs on which settings are chosen
SUCCESS = 0.9  # of the highest share that both ways reach: where they are compared
BOTH = {"FlowEdit": by_flow_edit, "DDIM inversion": by_inversion}


# --------------------------------------------------------------------------- measuring


def measure(
    models: Models, *, n: int, seed: int, part: Part = at_once, starts: tuple[float, ...] = STARTS
) -> Record:
    """n edits by FlowEdit and by inversion over the starts; then FlowEdit and DiffEdit at their best."""
    drawn, others = (draw_edits(k, KINDS, seed + s, things=1) for k, s in ((n, 40), (min(n, OTHERS), 2100)))
    best = {
        name: part(f"{name}: guidance", lambda way=way: guidance(models, way, others, seed))
        for name, way in BOTH.items()
    }

    def curve(name: str, start: float) -> Record:
        made_so = made(
            models.model,
            BOTH[name],
            dict(start=start, w=best[name]["w"]),
            drawn,
            range(len(drawn.edits)),
            seed,
        )
        found = scores(models, made_so.pictures, drawn)
        return dict(
            start=start,
            evaluations=made_so.evaluations,
            seconds=made_so.seconds,
            each={name: found[name].tolist() for name in ("right", "outside_db")},
        )

    curves = {
        name: [part(f"{name}, s = {s:g}", lambda name=name, s=s: curve(name, s)) for s in starts]
        for name in BOTH
    }
    compared = part("compared", lambda: at_equal_success(curves))
    record: Record = dict(
        steps=STEPS,
        guidance={name: found["w"] for name, found in best.items()},
        curves={name: [summary(row) for row in rows] for name, rows in curves.items()},
        compared=compared,
    )
    made_best = {
        name: part(f"{name} at its best", lambda name=name: at_best(models, name, drawn, others, seed))
        for name in ("FlowEdit", "DiffEdit")
    }
    return record | dict(
        best={name: {k: v for k, v in found.items() if k != "each"} for name, found in made_best.items()},
        gain=part("gain", lambda: gain(made_best, drawn)),
        ends={
            "copy": interval(truth_db(drawn.before, drawn)),
            "truth": part("truth", lambda: interval(truth_db(autoencoded(models, drawn.after).cpu(), drawn))),
        },
    )


def guidance(models: Models, way: object, others: Edits, seed: int) -> Record:
    """The guidance scale with which a way comes nearest to the truth at s = .8, on other pairs."""
    setting = chosen(
        models.model, way, [dict(start=0.8, w=w) for w in SCALES], one_kind(others), seed + 10**6
    )
    return dict(w=next(iter(setting.values()))["w"])


def one_kind(drawn: Edits) -> Edits:
    """The same edits, taken as one kind: they share a setting."""
    return drawn._replace(kinds=["all"] * len(drawn.kinds))


def summary(row: Record) -> Record:
    """A point of a curve, with its intervals."""
    each = {name: interval(torch.tensor(values, dtype=torch.float64)) for name, values in row["each"].items()}
    return {k: v for k, v in row.items() if k != "each"} | each


def at_equal_success(curves: dict[str, list[Record]]) -> Record:
    """PSNR outside the true change of both ways where `SUCCESS` of the highest share that both reach is
    right, and the difference, with intervals over resampled pictures (the same for both ways).
    """
    right, db = (
        torch.stack(
            [
                torch.tensor([row["each"][key] for row in rows], dtype=torch.float64)
                for rows in curves.values()
            ]
        )
        for key in ("right", "outside_db")
    )  # (way start n)
    n = right.shape[-1]
    rows = torch.cat([torch.arange(n)[None], resamples(n)])
    found = torch.tensor([kept(right[..., r], db[..., r]) for r in rows], dtype=torch.float64)  # (resample 3)
    whole, ends = found[0], found[1:].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    ways = list(curves)
    return dict(
        success=whole[0].item(),
        outside_db={ways[k]: [whole[1 + k].item(), *ends[:, 1 + k].tolist()] for k in range(2)},
        difference=(lambda d: [d[0].item(), *d[1:].quantile(torch.tensor([0.025, 0.975]).double()).tolist()])(
            found[:, 1] - found[:, 2]
        ),
    )


def kept(right: Tensor, db: Tensor) -> list[float]:
    """[success, dB of the first way, dB of the second] at the success at which they are compared.

    right, db: (way start n). Each way's curve is a line through its starts, taken in order; of those that
    reach the success the first counts.
    """
    share, mean = right.mean(-1), db.nanmean(-1)
    success = SUCCESS * float(share.amax(1).min())
    found = [success]
    for x, y in zip(share.tolist(), mean.tolist()):
        at = next(i for i, value in enumerate(x) if value >= success)
        if at == 0 or x[at] == x[at - 1]:
            found.append(y[at])
        else:
            found.append(y[at - 1] + (success - x[at - 1]) / (x[at] - x[at - 1]) * (y[at] - y[at - 1]))
    return found


def at_best(models: Models, name: str, drawn: Edits, others: Edits, seed: int) -> Record:
    """One way at the settings that are best on the other pairs, by kind."""
    way, settings = WAYS[name]
    best = chosen(models.model, way, settings, others, seed + 10**6)
    done = made_at_best(models.model, way, best, drawn, seed)
    found = scores(models, done.pictures, drawn)
    return dict(
        settings=best,
        evaluations=done.evaluations,
        seconds=done.seconds,
        table=table(found, drawn),
        each=found["truth_db"].tolist(),
    )


def gain(best: dict[str, Record], drawn: Edits) -> Record:
    """How much nearer FlowEdit comes to the true edit than DiffEdit does, in dB: of all edits and by kind."""
    ours, theirs = (
        torch.tensor(best[name]["each"], dtype=torch.float64) for name in ("FlowEdit", "DiffEdit")
    )
    groups = {"all": list(range(len(ours)))} | by_kind(drawn)
    return {group: shown(interval((ours - theirs)[rows])) for group, rows in groups.items()}


FLOW_EDIT = Measurement("flow_edit", measure, 256, 0, ("flow_edit_inversion.png", "flow_edit_diffedit.png"))


# --------------------------------------------------------------------------- judging


def judge_inversion(record: Record) -> Finding:
    """FlowEdit and editing by DDIM inversion from the same levels in as many evaluations, each with the
    guidance that is best on other pairs, over the start; compared where 90 % of the highest success that both
    reach is reached, by PSNR outside the true change. Holds where the 95 % interval of the difference lies
    above 0. Partly where the difference does. Else does not hold."""
    found = record["compared"]
    mean, low, _ = found["difference"]
    flow, ode = (found["outside_db"][name] for name in ("FlowEdit", "DDIM inversion"))
    ours = (
        f"at {found['success']:.0%} all right, outside the change: FlowEdit {span(flow)} dB, DDIM inversion "
        f"{span(ode)} dB, difference {span(found['difference'])}; guidance "
        f"{record['guidance']['FlowEdit']:g} and {record['guidance']['DDIM inversion']:g}"
    )
    return Finding(HOLDS if low > 0 else PARTLY if mean > 0 else FAILS, ours)


def judge_mask(record: Record) -> Finding:
    """PSNR to the true edit, FlowEdit less DiffEdit, each at the settings that are best on other pairs, by
    kind. Holds where the 95 % interval lies above 0 for every kind of edit. Partly where it does for all
    edits together, or for some kind and lies below 0 for none. Else does not hold."""
    kinds = {k: v for k, v in record["gain"].items() if k != "all"}
    above = [k for k, v in kinds.items() if v[1] > 0]
    below = [k for k, v in kinds.items() if v[2] < 0]
    some = record["gain"]["all"][1] > 0 or (above and not below)
    tables = {name: record["best"][name]["table"]["all"] for name in ("FlowEdit", "DiffEdit")}
    ours = (
        "to the true edit, FlowEdit less DiffEdit, dB: "
        + ", ".join(f"{k} {span(v)}" for k, v in record["gain"].items())
        + "; all right "
        + ", ".join(f"{name} {percent(t['right'])}" for name, t in tables.items())
        + f"; copying lies {record['ends']['copy'][0]:.1f} dB from the truth"
    )
    return Finding(HOLDS if len(above) == len(kinds) else PARTLY if some else FAILS, ours)
