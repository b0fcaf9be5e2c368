"""DiffEdit's claims (arXiv:2210.11427v1): what the mask and the encoding are each worth, and how good the
mask is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from palimpsest.claims.common import Edits, Models, autoencoded, draw_edits, in_batches
from palimpsest.claims.page import FAILS, HOLDS, PARTLY, Finding, Measurement, Record, share
from palimpsest.claims.parts import Part, at_once
from palimpsest.methods.diffedit import (
    Ablation,
    DiffEdit,
    MaskRule,
    diffedit,
    encoding_bound,
    find_mask,
    noising_bound,
    printed_encoding_bound,
)
from palimpsest.methods.inputs import latent_mask
from palimpsest.methods.sampling import TOP
from palimpsest.metrics.features import csfid, perceptual
from palimpsest.metrics.image import psnr, rmse
from palimpsest.metrics.mask import iou
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.ddim import invert, sample
from palimpsest.samplers.noise import Rng

KINDS = ("recolour", "reshape", "retexture", "background")
W, STEPS, RATIO = 3.0, 20, 0.7
RATIOS = (0.5, 0.6, 0.7, 0.8, 0.9)
THRESHOLDS = (0.25, 0.5, 0.75)
VARIANTS = {  # the paper's 2 × 2, and GLIDE's blend
    "DiffEdit": Ablation(),
    "no mask": Ablation(use_mask=False),
    "no encoding": Ablation(encode=False),
    "SDEdit": Ablation(use_mask=False, encode=False),
    "x̂₀ blend": Ablation(blend="x0"),
}


# --------------------------------------------------------------------------- measuring


def scored(
    models: Models, drawn: Edits, edit: Callable[[slice], DiffEdit], real: Tensor, *, masks: bool = False
) -> Record:
    """Success, what was kept and the two distances of one setting, unpasted; with `masks`, each kind too.
    real: features of the truth.
    """
    cells: list[Tensor] = []

    def one(rows: slice) -> Tensor:
        found = edit(rows)
        cells.append(found.mask.cpu())
        return found.raw

    pictures = in_batches(one, len(drawn.edits))
    oracle, rest = models.oracle, 1 - drawn.changed
    right = oracle.right(pictures, drawn.wanted)
    reached = oracle.right(pictures, drawn.changes)
    kept = rest.flatten(1).any(1)
    outside = psnr(pictures.cpu()[kept], drawn.before[kept], rest[kept])
    found = dict(
        right=right.double().mean().item(),
        reached=reached.double().mean().item(),
        outside_db=outside.mean().item(),
        true_rmse=rmse(pictures.cpu(), drawn.after).mean().item(),
        lpips=perceptual(oracle.maps(pictures), oracle.maps(drawn.before)).mean().item(),
        csfid=csfid(oracle.features(pictures), drawn.kinds, real, drawn.kinds),
    )
    if masks:
        found["iou"] = iou(torch.cat(cells), drawn.changed).mean().item()
        found["kinds"] = {}
        overlap = iou(torch.cat(cells), drawn.changed)
        ceiling = iou(grid_mask(models, drawn.changed), drawn.changed)
        for kind in dict.fromkeys(drawn.kinds):
            rows = drawn.rows(kind)
            here = (
                psnr(pictures.cpu()[rows], drawn.before[rows], rest[rows])
                if rest[rows].flatten(1).any(1).all()
                else None
            )
            found["kinds"][kind] = dict(
                n=len(rows),
                right=right[rows].double().mean().item(),
                reached=reached[rows].double().mean().item(),
                outside_db=None if here is None else here.mean().item(),
                iou=overlap[rows].mean().item(),
                iou_ceiling=ceiling[rows].mean().item(),
                marked=torch.cat(cells)[rows].mean().item(),
                changed=drawn.changed[rows].mean().item(),
            )
    return found


def grid_mask(models: Models, changed: Tensor) -> Tensor:
    """The best that a mask of latent cells can do: each cell marked where at least half of it changes."""
    side = models.model.latent_shape[1:]
    cells = torch.nn.functional.adaptive_avg_pool2d(changed, side)
    best = (cells >= 0.5).to(changed)
    none = ~best.flatten(1).any(1)
    best[none] = latent_mask(changed[none], torch.empty(1, 1, *side)) if none.any() else best[none]
    return torch.nn.functional.interpolate(best, changed.shape[-2:])


def measure(
    models: Models, *, n: int, seed: int, part: Part = at_once, ratios: tuple[float, ...] = RATIOS
) -> Record:
    """n edits of one thing and n/2 of one of two things, by DiffEdit and by what is left of it without
    its parts.
    """
    drawn, pairs = (
        draw_edits(n, KINDS, seed + 20, things=1),
        draw_edits(max(2, n // 2), KINDS[:3], seed + 21, things=2),
    )
    record: Record = dict(w=W, steps=STEPS, ratio=RATIO, kinds={k: len(drawn.rows(k)) for k in KINDS})
    for name, edits, grid in (("one", drawn, ratios), ("two", pairs, ratios[::2])):
        record[name] = measure_ways(
            models,
            edits,
            seed,
            grid,
            lambda what, measured, name=name: part(f"{name}: {what}", measured),
            settings=name == "one",
        )
    return record | dict(bound=part("bound", lambda: measure_bound(models, drawn, seed, ratios)))


def measure_ways(
    models: Models, drawn: Edits, seed: int, ratios: tuple[float, ...], part: Part, settings: bool
) -> Record:
    """Every variant over the ratios; with `settings`, thresholds and ways to make the mask, too."""
    model, real = models.model, models.oracle.features(autoencoded(models, drawn.after))
    whole = autoencoded(models, drawn.before)

    def texts(rows: slice) -> tuple[Any, ...]:
        return model, drawn.before[rows], drawn.source[rows], drawn.target[rows]

    once = in_batches(
        lambda rows: find_mask(*texts(rows), seed=seed + rows.start).pixels.cpu(), len(drawn.edits)
    )

    def given(rows: slice, how: dict[str, Any], captions: list[str]) -> dict[str, Tensor]:
        """The mask, found once, wherever it is the same: it depends neither on the ratio nor on the walk."""
        mask = once[rows]
        own = "rule" in how or not how.get("ablation", Ablation()).use_mask
        low, high = mask.amin((1, 2, 3)), mask.amax((1, 2, 3))
        plain = (low == high).any()  # a given mask of all or nothing is refused
        return {} if own or captions is not drawn.source or plain else dict(mask=mask)

    def score(
        name: str, how: dict[str, Any], masks: bool = True, captions: list[str] = drawn.source
    ) -> Record:
        def way(rows: slice) -> DiffEdit:
            return diffedit(
                model,
                drawn.before[rows],
                captions[rows],
                drawn.target[rows],
                w=W,
                steps=STEPS,
                seed=seed + rows.start,
                **how,
                **given(rows, how, captions),
            )

        return part(name, lambda: scored(models, drawn, way, real, masks=masks))

    def curve(variant: str, ablation: Ablation, r: float) -> Record:
        how, masks = dict(ablation=ablation, ratio=r), variant == "DiffEdit"
        return dict(ratio=r) | score(f"{variant}, r = {r:g}", how, masks=masks)

    found: Record = dict(
        autoencoder_db=psnr(whole.cpu(), drawn.before, 1 - drawn.changed).mean().item(),
        unedited=dict(lpips=0.0, csfid=csfid(models.oracle.features(whole), drawn.kinds, real, drawn.kinds)),
        curves={variant: [curve(variant, how, r) for r in ratios] for variant, how in VARIANTS.items()},
    )
    if settings:
        at = dict(ratio=RATIO)
        found["thresholds"] = [
            dict(threshold=t) | score(f"threshold {t:g}", at | dict(rule=MaskRule(threshold=t)))
            for t in THRESHOLDS
        ]
        found["no reference"] = score("no reference", at, captions=[""] * len(drawn.edits))
        found["mean clamp"] = score("mean clamp", at | dict(rule=MaskRule(clamp="mean")))
        found["|mean Δ|"] = score("|mean Δ|", at | dict(rule=MaskRule(reduce="abs_mean")))
    return found


def measure_bound(models: Models, drawn: Edits, seed: int, ratios: tuple[float, ...]) -> Record:
    """Eq. (11) on the model, in latents: both errors over the ratio, and the bounds with constants read
    off the same walks.

    C: the largest RMS of ε along the walks; K2: the mean over pictures of the largest RMS of ε(·, Q) −
    ε(·, ∅); K1: the median over pairs of neighbouring points of ‖Δε‖/‖Δx‖. Estimates, where the theorem
    has suprema; guidance is off (w = 1)."""
    model, n = models.model, min(32, len(drawn.edits))
    x_0, null = model.encode(drawn.before[:n]), model.denoiser("")
    text, sched, z = model.denoiser(drawn.target[:n]), model.schedule, Rng.of(seed, n).randn(x_0.shape, x_0)

    def length(a: Tensor) -> Tensor:
        return a.square().mean((1, 2, 3)).sqrt()

    rows = []
    with torch.inference_mode():
        for ratio in ratios:
            times = sched.times(max(1, round(ratio * STEPS)), min(ratio, TOP))
            encoded = invert(null, sched, x_0, times)
            down = sample(text, sched, encoded[0], times)
            noised = sample(text, sched, q_sample(sched, x_0, times[0], z), times)
            asked = list(zip(times[:-1], encoded, down))
            gap = torch.stack([length(text(y, t) - null(y, t)) for t, _, y in asked]).amax(0)
            size = torch.stack([length(text(y, t)) for t, _, y in asked]).amax(0)
            near = [(y + 0.05 * Rng.of(seed + 99, n).randn(y.shape, y), t, y) for t, _, y in asked]
            slope = torch.stack([length(null(p, t) - null(y, t)) / length(p - y) for p, t, y in near]).amax(0)
            tau, K1, K2, C = sched.sigma(times[0]), slope.mean().item(), gap.mean().item(), size.max().item()
            rows.append(
                dict(
                    ratio=ratio,
                    tau=tau,
                    encoded=length(down[-1] - x_0).mean().item(),
                    noised=length(noised[-1] - x_0).mean().item(),
                    C=C,
                    K1=K1,
                    K2=K2,
                    bound_noised=noising_bound(tau, C),
                    bound_encoded=encoding_bound(tau, K1, K2),
                    bound_printed=printed_encoding_bound(tau, K1, K2),
                )
            )
    return dict(n=n, rows=rows)


DIFFEDIT = Measurement(
    "diffedit", measure, 128, 0, ("diffedit_tradeoff.png", "diffedit_masks.png", "diffedit_bound.png")
)


# --------------------------------------------------------------------------- judging


def at_ratio(record: Record, variant: str, ratio: float, part: str = "one") -> Record:
    """The row of a variant at the ratio nearest to this one."""
    return min(record[part]["curves"][variant], key=lambda row: abs(row["ratio"] - ratio))


def kept_at_success(rows: list[Record], success: float) -> float | None:
    """The PSNR outside at which a curve passes this success, linear between its points; None where it
    never does.
    """
    rows = sorted(rows, key=lambda row: row["ratio"])
    if max(row["right"] for row in rows) < success:
        return None
    for a, c in zip(rows, rows[1:]):
        if a["right"] < success <= c["right"]:
            share = (success - a["right"]) / (c["right"] - a["right"])
            return a["outside_db"] + share * (c["outside_db"] - a["outside_db"])
    return next(row["outside_db"] for row in rows if row["right"] >= success)


def judge_parts(record: Record) -> Finding:
    """Compared at one success, 90 % of the best that SDEdit reaches, by PSNR outside the true change, on
    scenes of two things. Holds where DiffEdit keeps ≥ 1 dB more than each ablation and each of these ≥ 1
    dB more than SDEdit. Partly where DiffEdit keeps more than SDEdit and no ablation keeps more than
    DiffEdit. Else does not hold."""
    curves = record["two"]["curves"]
    success = 0.9 * max(row["right"] for row in curves["SDEdit"])
    kept = {
        name: kept_at_success(curves[name], success)
        for name in ("DiffEdit", "no mask", "no encoding", "SDEdit")
    }
    low = {name: -100.0 if db is None else db for name, db in kept.items()}
    middle = low["no mask"], low["no encoding"]
    strict = low["DiffEdit"] - 1 >= max(middle) and min(middle) - 1 >= low["SDEdit"]
    some = low["DiffEdit"] > low["SDEdit"] and low["DiffEdit"] >= max(middle)
    recolour = max(
        (row["kinds"]["recolour"] for row in record["one"]["curves"]["DiffEdit"]),
        key=lambda kind: kind["right"],
    )
    ours = f"two things, at {success:.0%} all right, outside the change: " + ", ".join(
        f"{name} {'never' if db is None else f'{db:.1f} dB'}" for name, db in kept.items()
    )
    ours += (
        f"; one thing recoloured by DiffEdit, at its best r: "
        f"{share(recolour['right'], recolour['n'])} all right at "
        f"{recolour['outside_db']:.1f} dB, "
        f"its mask's IoU {recolour['iou'] / recolour['iou_ceiling']:.0%} of what cells can reach"
    )
    return Finding(HOLDS if strict else PARTLY if some else FAILS, ours)


def judge_threshold(record: Record) -> Finding:
    """Holds where .5 has the highest IoU with the true change of the three thresholds, a lower PSNR
    outside than .75 and a higher one than .25, and a success within 5 points of the best. Partly where
    its IoU is the highest. Else does not hold."""
    low, half, high = record["one"]["thresholds"]
    best = half["iou"] >= max(low["iou"], high["iou"])
    order = (
        low["outside_db"] < half["outside_db"] < high["outside_db"]
        and half["right"] >= max(low["right"], high["right"]) - 0.05
    )
    ours = "; ".join(
        f"θ = {row['threshold']:g}: IoU {row['iou']:.2f}, all right "
        f"{share(row['right'], record['n'])}, outside "
        f"{row['outside_db']:.1f} dB"
        for row in (low, half, high)
    )
    return Finding(HOLDS if best and order else PARTLY if best else FAILS, ours)


def judge_bound(record: Record) -> Finding:
    """Holds where at every ratio encoding ends closer to the input than noising (w = 1, no mask), and
    both stay under their bounds with the constants read off the walks. Partly where the first holds. Else
    does not hold."""
    rows = record["bound"]["rows"]
    closer = all(row["encoded"] < row["noised"] for row in rows)
    under = all(
        row["encoded"] <= row["bound_encoded"] and row["noised"] <= row["bound_noised"] for row in rows
    )
    low, high = rows[0], rows[-1]
    ours = (
        f"RMS in latents, encoded / noised: {low['encoded']:.2f} / {low['noised']:.2f} at r = "
        f"{low['ratio']:g}, "
        f"{high['encoded']:.2f} / {high['noised']:.2f} at {high['ratio']:g}; bounds there "
        f"{high['bound_encoded']:.3g} / "
        f"{high['bound_noised']:.3g} (as printed {high['bound_printed']:.3g})"
    )
    if over := sum(row["bound_encoded"] > row["bound_noised"] for row in rows):
        ours += (
            f"; at {over} of {len(rows)} ratios encoding's bound lies above noising's, so it does not "
            f"explain this"
        )
    return Finding(HOLDS if closer and under else PARTLY if closer else FAILS, ours)


def judge_reference(record: Record) -> Finding:
    """IoU of the found mask with the true change, recolour, reshape and retexture. Holds where a text for
    the input adds ≥ .02 in the mean. Partly where it adds anything. Else does not hold."""

    def mean(part: Record) -> float:
        return sum(part["kinds"][k]["iou"] for k in KINDS[:3]) / 3

    told, untold = (at_ratio(record, "DiffEdit", RATIO), record["one"]["no reference"])
    gain = mean(told) - mean(untold)
    ours = (
        f"IoU {mean(told):.2f} with a text for the input, {mean(untold):.2f} without; all right "
        f"{share(told['right'], record['n'])} and {share(untold['right'], record['n'])}"
    )
    return Finding(HOLDS if gain >= 0.02 else PARTLY if gain > 0 else FAILS, ours)


def judge_blend(record: Record) -> Finding:
    """At each ratio the two blends of the same masks. Holds where the level-wise one has the lower
    distance to the true result (RMSE) at every ratio and a success at most 5 points lower. Partly where
    it has at most of them. Else does not hold."""
    pairs = list(zip(record["one"]["curves"]["DiffEdit"], record["one"]["curves"]["x̂₀ blend"]))
    wins = sum(
        ours["true_rmse"] < glide["true_rmse"] and ours["right"] >= glide["right"] - 0.05
        for ours, glide in pairs
    )
    ours, glide = (at_ratio(record, name, RATIO) for name in ("DiffEdit", "x̂₀ blend"))
    words = (
        f"r = {ours['ratio']:g}, level-wise / x̂₀: CSFID {ours['csfid']:.3g} / {glide['csfid']:.3g} at "
        f"LPIPS {ours['lpips']:.3f} / "
        f"{glide['lpips']:.3f}, all right {share(ours['right'], record['n'])} / "
        f"{share(glide['right'], record['n'])}, RMSE to the true "
        f"result "
        f"{ours['true_rmse']:.4f} / {glide['true_rmse']:.4f}; better at {wins} of {len(pairs)} ratios"
    )
    return Finding(HOLDS if wins == len(pairs) else PARTLY if wins > len(pairs) / 2 else FAILS, words)
