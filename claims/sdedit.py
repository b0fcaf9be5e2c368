"""SDEdit's claims (arXiv:2108.01073v2): faithfulness against realism, the useful t0, local edits with a
mask.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Generator, Tensor

from palimpsest.claims.common import Models, autoencoded, draw_edits, in_batches, new_scenes, rank_correlation
from palimpsest.claims.page import FAILS, HOLDS, PARTLY, Finding, Measurement, Record, gap, share
from palimpsest.claims.parts import Part, at_once
from palimpsest.methods.sdedit import at_distance, bisect_t0, sdedit
from palimpsest.metrics.features import kid, kid_subsets
from palimpsest.metrics.image import l2, psnr, rmse
from palimpsest.metrics.mask import dilate
from palimpsest.samplers.solvers import DDIM, Step
from palimpsest.worlds.shapes import Edit as SceneEdit
from palimpsest.worlds.shapes import Scene, apply, attributes, caption, changed_mask, render, strokes

T0 = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 0.98)
W, STEPS = 3.0, 20
WALKS = {  # name -> walk, its step (None: its paper's own), whether the scene's caption is told
    "VP, ancestral": ("vp", None, True),
    "VP, DDIM": ("vp", DDIM(), True),
    "VE": ("ve", None, True),
    "VP, ancestral, no text": ("vp", None, False),
    "VE, no text": ("ve", None, False),
}


# --------------------------------------------------------------------------- C1, C2


def bisected(models: Models, guides: Tensor, captions: list[str], target: float, seed: int) -> Record:
    """How many rounds bisection needs to find the t0 at which a picture is `target` from its guide."""
    model, tolerance, rounds, gaps = models.model, 0.05, [], []
    for i, guide in enumerate(guides.to(model.device).split(1)):
        with torch.inference_mode():
            found = bisect_t0(
                lambda t0, guide=guide, i=i: sdedit(
                    model, guide, captions[i], t0=t0, steps=STEPS, w=W, seed=seed + i
                ),
                at_distance(guide, target, tolerance),
                rounds=10,
            )
        rounds.append(len(found.tried))
        gaps.append(abs(rmse(found.edit.picture, guide).item() / target - 1))
    return dict(
        target=target,
        tolerance=tolerance,
        n=len(rounds),
        rounds=sum(rounds) / len(rounds),
        found=sum(g <= tolerance for g in gaps) / len(gaps),
    )


def measure_curve(
    models: Models,
    *,
    n: int,
    seed: int,
    part: Part = at_once,
    t0s: tuple[float, ...] = T0,
    reference: int = 1024,
    searches: int = 16,
) -> Record:
    """n stroke paintings to pictures at each t0 of each walk; then t0 bisected for some of them."""
    model, oracle, scenes = models.model, models.oracle, new_scenes(n, seed)
    guides, captions = strokes(scenes, Generator().manual_seed(seed)), [caption(s) for s in scenes]
    wanted = [attributes(s) for s in scenes]
    real = oracle.features(autoencoded(models, render(new_scenes(reference, seed + 1))))

    def seen(pictures: Tensor) -> dict[str, float]:
        found, size = oracle.features(pictures), max(2, round(0.75 * min(n, reference)))
        right, pictures = oracle.right(pictures, wanted), pictures.cpu()
        return dict(
            rmse=rmse(pictures, guides).mean().item(),
            l2=l2(pictures, guides).mean().item(),
            kid=kid(found, real),
            kid_std=kid_subsets(found, real, Generator().manual_seed(seed), 50, size).std,
            right=right.double().mean().item(),
        )

    def walked(t0: float, walk: str, step: Step | None, told: bool) -> Record:
        levels = []

        def one(rows: slice) -> Tensor:
            edit = sdedit(
                model,
                guides[rows],
                captions[rows] if told else "",
                t0=t0,
                walk=walk,
                step=step,
                steps=STEPS,
                w=W if told else 1.0,
                seed=seed + rows.start,
            )
            levels.append(edit.sigma)
            return edit.picture

        return dict(t0=t0, **seen(in_batches(one, n)), sigma=levels[0])

    walks = {
        name: [part(f"{name}, t0 = {t0:g}", partial(walked, t0, *how)) for t0 in t0s]
        for name, how in WALKS.items()
    }
    target = min(walks["VP, ancestral"], key=lambda r: abs(r["t0"] - 0.5))["rmse"]
    return dict(
        w=W,
        steps=STEPS,
        reference=reference,
        walks=walks,
        guide=seen(autoencoded(models, guides)),
        true=seen(autoencoded(models, render(scenes))),
        bisection=bisected(models, guides[:searches], captions, target, seed),
    )


CURVE = Measurement("sdedit_curve", measure_curve, 64, 0, ("sdedit_curve.png",))


def judge_trade(record: Record) -> Finding:
    """Holds where, over t₀ in every walk, with text and without, RMSE to the guide rises (rank
    correlation ≥ .9) and KID falls (≤ −.7: once realism is reached only noise is left). Partly where the
    signs are right in every walk. Else does not hold."""

    def trend(rows: list[dict], key: str) -> float:
        return rank_correlation([r["t0"] for r in rows], [r[key] for r in rows])

    far = {name: trend(rows, "rmse") for name, rows in record["walks"].items()}
    kids = {name: trend(rows, "kid") for name, rows in record["walks"].items()}
    strict = min(far.values()) >= 0.9 and max(kids.values()) <= -0.7
    signs = min(far.values()) > 0 and max(kids.values()) < 0
    rows = record["walks"]["VP, ancestral"]
    low, high = rows[0], rows[-1]
    ours = (
        f"rank correlation with t₀ in {len(far)} walks: RMSE {min(far.values()):+.2f} … "
        f"{max(far.values()):+.2f}, "
        f"KID {min(kids.values()):+.2f} … {max(kids.values()):+.2f}; VP from t₀ {low['t0']:g} to "
        f"{high['t0']:g}: "
        f"RMSE {low['rmse']:.3f} → {high['rmse']:.3f}, KID {low['kid']:.4f} → {high['kid']:.4f} (± "
        f"{high['kid_std']:.3f}; of the "
        f"paintings themselves {record['guide']['kid']:.4f})"
    )
    return Finding(HOLDS if strict else PARTLY if signs else FAILS, ours)


def useful(record: Record, walk: str) -> list[float]:
    """The t0 of a walk at which ≥ 80 % of the KID to be gained is gained and ≤ 50 % of the RMSE to be
    lost is lost.
    """
    rows, guide = record["walks"][walk], record["guide"]
    best, worst = min(r["kid"] for r in rows), max(r["rmse"] for r in rows)
    return [
        r["t0"]
        for r in rows
        if guide["kid"] - r["kid"] >= 0.8 * (guide["kid"] - best)
        and r["rmse"] - guide["rmse"] <= 0.5 * (worst - guide["rmse"])
    ]


def judge_band(record: Record) -> Finding:
    """A t₀ is useful where ≥ 80 % of the KID that the walk gains over the guide is gained and ≤ 50 % of
    the RMSE that it loses is lost. Holds where every text-guided walk has useful t₀ and all lie in [.3,
    .6], at one of these all attributes are right at most 5 points less often than at the best t₀ of the walk,
    and bisection comes within 5 % of a wanted RMSE for ≥ 90 % of the guides in at most 10 rounds. Partly
    where some useful t₀ of some walk lies there. Else does not hold."""
    bands = {
        name: useful(record, name) for name, (_, _, told) in WALKS.items() if told and name in record["walks"]
    }
    inside = [0.3 <= t <= 0.6 for band in bands.values() for t in band]
    search = record["bisection"]

    def right(name: str) -> tuple[float, list[float]]:
        """The best share of all right, and the t0 that come within 5 points of it."""
        rows = record["walks"][name]
        top = max(r["right"] for r in rows)
        return top, [r["t0"] for r in rows if r["right"] >= top - 0.05]

    obeyed = all(any(0.3 <= t <= 0.6 for t in right(name)[1]) for name in bands)
    strict = all(bands.values()) and all(inside) and obeyed and search["found"] >= 0.9

    def band(name: str) -> str:
        return f"{min(bands[name]):g} to {max(bands[name]):g}" if bands[name] else "none"

    def most(name: str) -> str:
        top, near = right(name)
        reach = f"t₀ = {min(near):g}" + (f" to {max(near):g}" if max(near) > min(near) else "")
        return f"{share(top, record['n'])} ({name}; within 5 points of it at {reach})"

    ours = (
        f"useful t₀: {', '.join(f'{band(name)} ({name})' for name in bands)}; "
        f"all attributes right at most in "
        f"{', '.join(map(most, bands))}; "
        f"bisection found {search['found']:.0%} of {search['n']} wanted distances, "
        f"in {search['rounds']:.1f} rounds"
    )
    return Finding(HOLDS if strict else PARTLY if any(inside) else FAILS, ours)


# --------------------------------------------------------------------------- C3

KINDS, MARGIN = ("recolour", "reshape", "add"), 3


def painted_edit(scene: Scene, edit: SceneEdit, generator: Generator) -> tuple[Tensor, Tensor]:
    """What a user would paint: (guide, mask), the picture with flat strokes of the true edit where it
    lies.
    """
    mask = dilate(changed_mask(scene, edit), MARGIN)
    return torch.where(mask > 0, strokes(apply(scene, edit), generator), render(scene)), mask


def measure_masks(
    models: Models,
    *,
    n: int,
    seed: int,
    part: Part = at_once,
    t0s: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7),
) -> Record:
    """n painted local edits, with their mask and without, at each t0."""
    model, oracle = models.model, models.oracle
    drawn, generator = draw_edits(n, KINDS, seed + 2), Generator().manual_seed(seed)
    before, kinds = drawn.before, drawn.kinds  # "add" needs one thing and room for another
    painted = [painted_edit(s, e, generator) for s, e in zip(drawn.scenes, drawn.edits)]
    guides, masks = torch.cat([g for g, _ in painted]), torch.cat([m for _, m in painted])
    rest = 1 - masks

    def success(pictures: Tensor) -> dict[str, float]:
        right = oracle.right(pictures.to(model.device), drawn.wanted).tolist()
        each = {kind: [r for r, k in zip(right, kinds) if k == kind] for kind in KINDS}
        return dict(all=sum(right) / n, **{kind: sum(r) / len(r) for kind, r in each.items() if r})

    def edited(t0: float) -> Record:
        def edit(rows: slice, masked: bool) -> Tensor:
            mask, original = (masks[rows], before[rows]) if masked else (None, None)
            found = sdedit(
                model,
                guides[rows],
                drawn.target[rows],
                t0=t0,
                mask=mask,
                original=original,
                steps=STEPS,
                w=W,
                seed=seed + rows.start,
            )
            return torch.stack([found.picture, found.raw], 1)

        pasted, raw = in_batches(partial(edit, masked=True), n).cpu().unbind(1)
        loose, _ = in_batches(partial(edit, masked=False), n).cpu().unbind(1)
        return dict(
            t0=t0,
            with_mask=success(pasted),
            unpasted=success(raw),
            without_mask=success(loose),
            outside_change_pasted=((pasted - before).abs() * rest).max().item() / 2,
            outside_db_unpasted=psnr(raw, before, rest).mean().item(),
            outside_db_without_mask=psnr(loose, before, rest).mean().item(),
        )

    rows = [part(f"t0 = {t0:g}", partial(edited, t0)) for t0 in t0s]
    floor = psnr(autoencoded(models, before).cpu(), before, rest).mean().item()
    return dict(
        w=W,
        steps=STEPS,
        margin=MARGIN,
        kinds={k: kinds.count(k) for k in KINDS},
        rows=rows,
        painting=success(guides),
        true=success(drawn.after),
        outside_db_autoencoder=floor,
    )


MASKS = Measurement("sdedit_masks", measure_masks, 256, 0, ("sdedit_masks.png",))


def judge_masks(record: Record) -> Finding:
    """At the t₀ with the most successes under a mask. Holds where the kept pixels are unchanged to the
    bit after pasting, the unpasted result is ≥ 3 dB closer to the picture there than without a mask, and
    the 95 % interval of success less that without a mask lies above −5 points. Partly where the first two
    hold. Else does not hold."""
    best = max(record["rows"], key=lambda r: r["with_mask"]["all"])
    gain = best["outside_db_unpasted"] - best["outside_db_without_mask"]
    kept = best["outside_change_pasted"] == 0 and gain >= 3
    fair = gap(best["with_mask"]["all"], best["without_mask"]["all"], record["n"])[0] >= -0.05
    with_, without, painting = (
        share(row["all"], record["n"])
        for row in (best["with_mask"], best["without_mask"], record["painting"])
    )
    ours = (
        f"t₀ = {best['t0']:g}: all attributes right {with_} with the mask, "
        f"{without} without, {painting} in the "
        f"painting itself; "
        f"outside: largest change {best['outside_change_pasted']:g} pasted, "
        f"{best['outside_db_unpasted']:.1f} dB unpasted, {best['outside_db_without_mask']:.1f} dB without "
        f"mask, "
        f"{record['outside_db_autoencoder']:.1f} dB for the autoencoder alone"
    )
    return Finding(HOLDS if kept and fair else PARTLY if kept else FAILS, ours)
