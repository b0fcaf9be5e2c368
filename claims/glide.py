"""GLIDE's claims (arXiv:2112.10741v3) about guidance: by the text, by a CLIP, by a classifier; texts
dropped in a fine-tuning; re-ranking.

All pictures are the base model's, 32×32, enlarged by bicubic interpolation for the judges, of which the
reader still reads 98 % right on true renders. So no upsampler stands between a guide and its figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.claims.common import new_scenes
from palimpsest.claims.page import FAILS, HOLDS, PARTLY, Finding, Measurement, Record, gap, share
from palimpsest.claims.parts import Part, at_once
from palimpsest.methods.glide import glide, rerank
from palimpsest.metrics.features import fid, inception_score, kid, precision_recall
from palimpsest.metrics.similarity import clip_score
from palimpsest.processor import cpu_has_bfloat16
from palimpsest.samplers.guidance import Gradient, classifier_guidance, clip_guidance
from palimpsest.weights.files import sha256
from palimpsest.weights.judges import Classifier, Judge, Oracle, load_classifier, load_judge, load_reader
from palimpsest.weights.load import find, load
from palimpsest.weights.model import Model
from palimpsest.worlds.scene import Scene
from palimpsest.worlds.shapes import attributes, caption, render

STEPS = "15"  # fewer steps before fewer samples
# of the painting nets, which were trained in bfloat16; judges and states of a walk are float32
DTYPE = torch.bfloat16 if torch.cuda.is_available() or cpu_has_bfloat16() else torch.float32
SCALES = {"text": (1.0, 2.0, 3.0, 5.0, 8.0), "clip": (1.0, 3.0, 10.0), "classifier": (1.0, 3.0, 10.0)}
BEST_OF = (1, 2, 4, 8)
PARTS = (
    "shapes-glide-conditional",
    "shapes-glide",
    "shapes-glide-inpaint",
    "shapes-glide-upsampler",
    "shapes-glide-upsampler-inpaint",
    "shapes-clip",
    "shapes-clip-noised",
    "shapes-classifier",
    "shapes-reader",
)
READER = PARTS[-1]


class GlideModels(NamedTuple):
    """GLIDE's models of the shapes world and their judges."""

    conditional: Model  # before the texts were dropped
    base: Model  # and after
    inpaint: Model
    upsampler: Model
    upsampler_inpaint: Model
    clip: Judge  # of clean pictures
    noised: Judge  # of x_t
    classifier: Classifier  # of x_t
    oracle: Oracle
    name: str
    files: dict[str, str]  # the sha256 of each file, for the record


def open_glide(
    folder: str | Path | None = None,
    device: str = "cpu",
    dtype: torch.dtype = DTYPE,
    used: Sequence[str] = PARTS,
) -> GlideModels:
    """The shipped models, or candidates of the same names in `folder`; dtype: of the nets that paint; used:
    those that a measurement asks, whose hashes its record keeps."""
    at = {name: name if folder is None else Path(folder) / f"{name}.safetensors" for name in PARTS}
    nets = [load(at[name], device, dtype) for name in PARTS[:5]]
    judges = [load_judge(at[name], device) for name in PARTS[5:7]]
    return GlideModels(
        *nets,
        *judges,
        load_classifier(at[PARTS[7]], device),
        load_reader(at[PARTS[8]], device),
        "shapes-glide" if folder is None else Path(folder).name,
        {find(at[name]).name: sha256(find(at[name])) for name in used},
    )


def measurement(
    name: str, run: Callable[..., Record], n: int, pictures: tuple[str, ...], used: Sequence[str]
) -> Measurement:
    """One that asks the models of these names, and the reader."""
    return Measurement(name, run, n, 0, pictures, partial(open_glide, used=(*used, READER)), tuple(used))


def enlarged(pictures: Tensor) -> Tensor:
    """(b 3 32 32) -> (b 3 64 64), as the judges see them."""
    return F.interpolate(pictures.cpu(), scale_factor=2, mode="bicubic").clamp(-1, 1)


def guide(
    models: GlideModels, kind: str, scale: float, texts: Sequence[str], scenes: Sequence[Scene]
) -> dict[str, float | Gradient]:
    """The arguments of `glide` for a kind of guidance at a scale."""
    if kind == "text":
        return dict(w=scale)
    if kind == "clip":
        return dict(
            w=1.0,
            gradient=clip_guidance(
                models.noised.images, models.noised.texts(texts), scale, models.noised.scale
            ),
        )
    asked = [attributes(scene) for scene in scenes]
    return dict(w=1.0, gradient=classifier_guidance(lambda x, t: models.classifier.log_p(x, t, asked), scale))


def painted(
    model: Model, texts: Sequence[str], seed: int, how: Callable[[slice], dict], steps: str = ""
) -> Tensor:
    """One picture of each text, 64 at a time, enlarged: (n 3 64 64). how: the guidance of each batch, as
    arguments of `glide`; steps: other than STEPS."""
    rows = [slice(i, min(i + 64, len(texts))) for i in range(0, len(texts), 64)]
    return enlarged(
        torch.cat(
            [
                glide(model, texts[r], steps=steps or STEPS, seed=seed + r.start, **how(r)).picture.cpu()
                for r in rows
            ]
        )
    )


def classes(oracle: Oracle, pictures: Tensor) -> Tensor:
    """p(shape, colour | picture) of the first thing, (n 80): what the Inception Score asks for."""
    with torch.no_grad():
        found = [oracle.net(p.to(next(oracle.net.parameters()).device)) for p in pictures.split(256)]
    shape, colour = (
        torch.cat([f[name] for f in found]).softmax(1).cpu().double() for name in ("shape_1", "colour_1")
    )
    return (shape[:, :, None] * colour[:, None]).flatten(1)


def looks(models: GlideModels, pictures: Tensor, real: Tensor) -> dict[str, float]:
    """How like true renders a set of pictures looks, and how varied."""
    seen = models.oracle.features(pictures)
    covered = precision_recall(real, seen, k=3)
    return dict(
        fid=fid(seen, real),
        kid=kid(seen, real),
        inception=inception_score(classes(models.oracle, pictures)),
        precision=covered.precision,
        recall=covered.recall,
    )


def judged(
    models: GlideModels, pictures: Tensor, texts: Sequence[str], scenes: Sequence[Scene], real: Tensor
) -> dict[str, float]:
    """Truth beside what judges think: all attributes read right, the clean CLIP's score, the noised
    CLIP's own at t = 1.
    """
    right = models.oracle.right(pictures, [attributes(s) for s in scenes]).double().mean().item()
    score = clip_score(models.clip.images(pictures).detach(), models.clip.texts(texts))
    small = F.avg_pool2d(pictures, 2)
    own = clip_score(models.noised.images(small, 1).detach(), models.noised.texts(texts))
    return dict(
        right=right, clip=score.mean().item(), noised_clip=own.mean().item(), **looks(models, pictures, real)
    )


# --------------------------------------------------------------------------- C4, C5, C6


def measure_guidance(
    models: GlideModels,
    *,
    n: int,
    seed: int,
    part: Part = at_once,
    scales: dict[str, tuple[float, ...]] = SCALES,
) -> Record:
    """n captions of one thing, a picture each, by every guide at every scale; beside them the true
    renders.
    """
    scenes = new_scenes(n, seed + 40, things=1)
    texts = [caption(scene) for scene in scenes]
    real = models.oracle.features(enlarged(render(new_scenes(n, seed + 41, things=1), 32)))

    def one(kind: str, scale: float) -> Record:
        made = painted(models.base, texts, seed, lambda r: guide(models, kind, scale, texts[r], scenes[r]))
        return dict(scale=scale, dtype=str(DTYPE), **judged(models, made, texts, scenes, real))

    curves = {
        kind: [part(f"{kind}, scale {scale:g}", partial(one, kind, scale)) for scale in of]
        for kind, of in scales.items()
    }
    truth = part("true renders", lambda: judged(models, enlarged(render(scenes, 32)), texts, scenes, real))
    return dict(steps=STEPS, curves=curves, truth=truth)


GUIDES = ("shapes-glide", "shapes-clip", "shapes-clip-noised", "shapes-classifier")
GUIDANCE = measurement("glide_guidance", measure_guidance, 512, ("glide_guidance.png",), GUIDES)


def best(rows: list[dict], key: str) -> dict:
    """The row with the most of it, the smaller scale of equals."""
    return max(rows, key=lambda r: (r[key], -r["scale"]))


def judge_people(record: Record) -> Finding:
    """Truth (all attributes right) stands for people. Holds where the 95 % interval of the text's best share
    less CLIP's best lies above 5 points, and that of guided by the text less unguided above 0. Partly
    where the text's best is right more often at all. Else does not hold."""
    text, clip = (best(record["curves"][kind], "right") for kind in ("text", "clip"))
    plain = record["curves"]["text"][0]
    n = record["n"]
    clear = gap(text["right"], clip["right"], n)[0] >= 0.05 and gap(text["right"], plain["right"], n)[0] > 0
    rows = plain, text, clip, best(record["curves"]["classifier"], "right")
    right = [share(row["right"], record["n"], 1) for row in rows]
    ours = (
        f"all right: text {right[1]} (w = {text['scale']:g}), CLIP {right[2]} "
        f"(s = {clip['scale']:g}), unguided "
        f"{right[0]}, classifier {right[3]}"
    )
    return Finding(HOLDS if clear else PARTLY if text["right"] > clip["right"] else FAILS, ours)


def judge_scorer(record: Record) -> Finding:
    """Holds where CLIP guidance, at the scale that the guiding CLIP likes best, gets a higher score from
    it than the text's best, and yet is right less often than the text's best (the 95 % interval of the
    difference lies below 0); partly where only the score is higher. Else does not hold."""
    text, clip = record["curves"]["text"], record["curves"]["clip"]
    liked, best_text = best(clip, "noised_clip"), best(text, "noised_clip")
    higher = liked["noised_clip"] > best_text["noised_clip"]
    worse = gap(liked["right"], best(text, "right")["right"], record["n"])[1] < 0
    ours = (
        f"score by the CLIP that guides: CLIP {liked['noised_clip']:.1f} (s = {liked['scale']:g}, right "
        f"{share(liked['right'], record['n'])}), text "
        f"{best_text['noised_clip']:.1f}, true renders {record['truth']['noised_clip']:.1f}; by another "
        f"CLIP: "
        f"{best(clip, 'clip')['clip']:.1f} against {best(text, 'clip')['clip']:.1f}, true "
        f"{record['truth']['clip']:.1f}"
    )
    return Finding(HOLDS if higher and worse else PARTLY if higher else FAILS, ours)


def judge_diversity(record: Record) -> Finding:
    """Over the text's scales. Holds where from w = 1 to the largest precision rises by ≥ .02 or the
    Inception Score by ≥ 2 %, and recall falls by ≥ .05; partly where one of the two is so. Else does not
    hold."""
    rows = record["curves"]["text"]
    low, high = rows[0], rows[-1]
    finer = high["precision"] - low["precision"] >= 0.02 or high["inception"] >= 1.02 * low["inception"]
    narrower = low["recall"] - high["recall"] >= 0.05
    ours = (
        f"w {low['scale']:g} → {high['scale']:g}: precision {low['precision']:.2f} → "
        f"{high['precision']:.2f} (best "
        f"{max(r['precision'] for r in rows):.2f}), recall {low['recall']:.2f} → {high['recall']:.2f}, IS "
        f"{low['inception']:.1f} → "
        f"{high['inception']:.1f}, FID least at w = {min(rows, key=lambda r: r['fid'])['scale']:g}"
    )
    return Finding(HOLDS if finer and narrower else PARTLY if finer or narrower else FAILS, ours)


# --------------------------------------------------------------------------- C7


def measure_empty(models: GlideModels, *, n: int, seed: int, part: Part = at_once) -> Record:
    """The model before and after its fine-tuning with 20 % of the texts dropped: with captions, and with
    none.
    """
    scenes = new_scenes(n, seed + 44)
    texts = [caption(scene) for scene in scenes]
    real = models.oracle.features(enlarged(render(new_scenes(n, seed + 45), 32)))

    def plain(rows: slice) -> dict[str, float]:
        return dict(w=1.0)

    def conditional(model: Model) -> Record:
        return judged(models, painted(model, texts, seed, plain), texts, scenes, real)

    def unconditional(model: Model) -> Record:
        return looks(models, painted(model, [""] * n, seed, plain), real)

    found = {
        name: {
            "caption": part(f"{name}, captions", partial(conditional, b)),
            "empty": part(f"{name}, none", partial(unconditional, b)),
        }
        for name, b in (("before", models.conditional), ("after", models.base))
    }
    return dict(steps=STEPS, **found, truth=looks(models, enlarged(render(scenes, 32)), real))


BOTH = ("shapes-glide-conditional", "shapes-glide", "shapes-clip", "shapes-clip-noised")
EMPTY = measurement("glide_empty", measure_empty, 512, (), BOTH)


def judge_empty(record: Record) -> Finding:
    """Holds where after the fine-tuning captions are obeyed as often as before (the 95 % interval of the
    difference lies above −2 points) and the FID of pictures without a text falls by half or more; partly
    where it falls at all. Else does not hold."""
    before, after = record["before"], record["after"]
    kept = gap(after["caption"]["right"], before["caption"]["right"], record["n"])[0] >= -0.02
    right = [share(row["caption"]["right"], record["n"], 1) for row in (before, after)]
    ours = (
        f"before / after: captions right {right[0]} / {right[1]} at w = 1, FID without a "
        f"text {before['empty']['fid']:.1f} / {after['empty']['fid']:.1f} (true renders "
        f"{record['truth']['fid']:.1f}), precision "
        f"{before['empty']['precision']:.2f} / {after['empty']['precision']:.2f}"
    )
    ratio = after["empty"]["fid"] / before["empty"]["fid"]
    return Finding(HOLDS if kept and ratio <= 0.5 else PARTLY if ratio < 1 else FAILS, ours)


# --------------------------------------------------------------------------- C11


def measure_rerank(
    models: GlideModels, *, n: int, seed: int, part: Part = at_once, most: int = BEST_OF[-1]
) -> Record:
    """`most` pictures for each of n / most captions: how often the one a CLIP likes best of the first k
    is right, and how often any is.
    """
    scenes = new_scenes(max(1, n // most), seed + 46, things=1)
    texts = [caption(scene) for scene in scenes for _ in range(most)]

    def one(w: float) -> list[Record]:
        made = painted(models.base, texts, seed, lambda rows: dict(w=w))
        right = models.oracle.right(made, [attributes(scene) for scene in scenes for _ in range(most)]).view(
            -1, most
        )
        cosines = models.clip.cosines(made, texts).cpu().view(-1, most)
        rows = []
        for k in (k for k in BEST_OF if k <= most):
            groups = cosines.view(-1, k)
            chosen = right.flatten()[rerank(groups.flatten(), k)[:, 0]]
            rows.append(
                dict(
                    k=k,
                    chosen=chosen.double().mean().item(),
                    any=right.view(-1, k).any(1).double().mean().item(),
                )
            )
        return rows

    return dict(
        steps=STEPS,
        captions=len(scenes),
        curves={f"{w:g}": part(f"w {w:g}", partial(one, w)) for w in (1.0, 3.0)},
    )


RANKED = ("shapes-glide", "shapes-clip")
RERANK = measurement("glide_rerank", measure_rerank, 1024, ("glide_rerank.png",), RANKED)


def judge_rerank(record: Record) -> Finding:
    """Holds where the best of 8 by CLIP is right ≥ 5 points more often than one picture and the 95 % interval
    of the difference lies above 0, at w = 1 and at w = 3; partly at one of them. Else does not hold."""

    def gains(rows: list[Record]) -> bool:
        one, many = rows[0]["chosen"], rows[-1]["chosen"]
        return many - one >= 0.05 and gap(many, one, record["captions"])[0] > 0

    ours = (
        "; ".join(
            f"w = {w}: best of "
            + ", ".join(f"{r['k']} {share(r['chosen'], record['captions'], 1)}" for r in rows)
            + f" (any of {rows[-1]['k']}: {rows[-1]['any']:.1%})"
            for w, rows in record["curves"].items()
        )
        + f"; intervals of {record['captions']} captions"
    )
    good = [gains(rows) for rows in record["curves"].values()]
    return Finding(HOLDS if all(good) else PARTLY if any(good) else FAILS, ours)
