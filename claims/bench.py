"""What the shipped models do, measured on scenes that no training saw.

    python -m palimpsest.claims.bench [--only NAME …] [--quick] [--models FOLDER]

Writes figures/bench.json, each file's figures in weights/MANIFEST.json, and the table of docs/models.md, in
which `claims.goals` sets them beside what is to be reached, with what other records hold. What is measured of
candidates in a FOLDER is written there and changes nothing here. Each part is kept as soon as it is measured.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from palimpsest.claims import reach
from palimpsest.claims.common import (
    Models,
    autoencoded,
    by_instruction,
    draw_edits,
    in_batches,
    is_there,
    new_scenes,
    open_models,
    place,
    rounded,
)
from palimpsest.claims.glide import DTYPE, enlarged
from palimpsest.claims.goals import into_manifest, rows, table
from palimpsest.claims.page import RECORDS, read_record, write_table
from palimpsest.cli.manners import exit_code_of
from palimpsest.methods.glide import glide, upsample
from palimpsest.methods.sampling import TOP, generate, times_below
from palimpsest.methods.sdedit import sdedit
from palimpsest.metrics.features import precision_recall
from palimpsest.metrics.image import psnr
from palimpsest.samplers.ddim import sample
from palimpsest.samplers.guidance import autoguided
from palimpsest.samplers.noise import Rng
from palimpsest.training.shapes_instruct import KINDS
from palimpsest.weights.files import sha256, update_manifest, write_json
from palimpsest.weights.load import find, load
from palimpsest.weights.model import Model
from palimpsest.worlds.shapes import Scene, attributes, caption, render, strokes

Part = dict[str, Any]
WS = (1.0, 2.0, 3.0, 5.0, 7.5)
TWO_WS = (2.0, 3.0, 5.0)
T0 = (0.5, 0.6, 0.7, 0.8)
SCALES = ((2.0, 1.5), (3.0, 1.2), (1.5, 1.2))  # s_text and s_image; claims.recommend chose the last
AWAY = ((1.0, 1.0), (1.0, 1.5), (1.0, 2.0), (1.0, 3.0), (3.0, 1.0), (3.0, 1.5))  # w, scale of autoguidance
STEPS = 16
VE_STEPS, VE_W, VE_T0 = 50, 2.0, (0.6,)  # in few steps Algorithm 1 adds too much noise
SEED = 7


# --------------------------------------------------------------------------- measuring


def autoencoder(models: Models, parts: dict[str, Part], n: int) -> Part:
    """PSNR of pictures through the autoencoder and back; every colour × shape pair."""
    pictures = render(new_scenes(2 * n, SEED, held_out=None))
    db = psnr(autoencoded(models, pictures).cpu(), pictures)
    return dict(n=2 * n, seed=SEED, psnr_p05=db.quantile(0.05).item(), **mean("psnr_mean", db))


def mean(name: str, each: Tensor) -> Part:
    """The mean over pictures under its name, and the ends of its 95 % interval under name_95 (± 1.96 standard
    errors)."""
    middle, half = each.mean().item(), 1.96 * each.std().item() / len(each) ** 0.5
    return {name: middle, f"{name}_95": [middle - half, middle + half]}


def reader(models: Models, parts: dict[str, Part], n: int) -> Part:
    """The oracle on renders of random phase, raw and through the autoencoder: all attributes, and each."""
    scenes = new_scenes(4 * n, SEED + 1, held_out=None)
    pictures, truth = render(scenes), [attributes(s) for s in scenes]
    part = dict(n=len(scenes), seed=SEED + 1)
    for name, shown in (
        ("raw", pictures.to(models.model.device)),
        ("autoencoded", autoencoded(models, pictures)),
    ):
        read = models.oracle.read(shown)
        each = {k: sum(r[k] == t[k] for r, t in zip(read, truth)) / len(truth) for k in truth[0]}
        part |= {name: sum(r == t for r, t in zip(read, truth)) / len(truth), f"{name}_attributes": each}
    return part


def drawn(models: Models, scenes: list[Scene], w: float, seed: int) -> float:
    """The share of scenes whose every attribute is read off a picture generated from the caption."""
    model, captions = models.model, [caption(s) for s in scenes]
    pictures = in_batches(
        lambda rows: generate(model, captions[rows], steps=STEPS, w=w, seed=seed + rows.start).picture,
        len(scenes),
    )
    return models.oracle.right(pictures, [attributes(s) for s in scenes]).double().mean().item()


def best_w(parts: dict[str, Part], name: str = "single") -> float:
    """The guidance scale with the most right, the smaller one of equals; 3 where nothing was measured."""
    return max(parts[name]["curve"], key=lambda r: (r["right"], -r["w"]))["w"] if name in parts else 3.0


def single(models: Models, parts: dict[str, Part], n: int) -> Part:
    """Captions of one thing, over the guidance scale."""
    scenes = new_scenes(n, SEED + 2, things=1)
    return dict(
        n=n, seed=SEED + 2, steps=STEPS, curve=[dict(w=w, right=drawn(models, scenes, w, SEED)) for w in WS]
    )


def held_out(models: Models, parts: dict[str, Part], n: int) -> Part:
    """Captions of one thing whose colour × shape pair no training picture showed, at the best w of
    `single`.
    """
    scenes, w = new_scenes(n, SEED + 3, things=1, held_out=True), best_w(parts)
    return dict(n=n, seed=SEED + 3, steps=STEPS, w=w, right=drawn(models, scenes, w, SEED))


def two(models: Models, parts: dict[str, Part], n: int) -> Part:
    """Captions of two things with their relation, over the guidance scale."""
    scenes = new_scenes(n, SEED + 4, things=2)
    return dict(
        n=n,
        seed=SEED + 4,
        steps=STEPS,
        curve=[dict(w=w, right=drawn(models, scenes, w, SEED)) for w in TWO_WS],
    )


def away(models: Models, parts: dict[str, Part], n: int) -> Part:
    """Captions of one thing, guided away from a worse model (autoguidance), without classifier-free guidance
    and with it; precision and recall beside true renders, in the reader's features."""
    (worse, files), model = opened(NEEDS["away"], models), models.model
    scenes = new_scenes(n, SEED + 2, things=1)
    captions, wanted = [caption(s) for s in scenes], [attributes(s) for s in scenes]
    real = models.oracle.features(autoencoded(models, render(new_scenes(n, SEED + 12, things=1))))

    def one(w: float, scale: float) -> Part:
        def some(rows: slice) -> Tensor:
            texts = captions[rows]
            eps = autoguided(model.denoiser(texts, w), worse.denoiser(texts, 1.0), scale)
            noise = Rng.of(SEED + rows.start, len(texts)).randn((len(texts), *model.latent_shape))
            times = times_below(model.schedule, STEPS, TOP, "steps")
            return model.decode(sample(eps, model.schedule, noise.to(model.device), times)[-1])

        pictures = in_batches(some, n)
        right = models.oracle.right(pictures, wanted).double().mean().item()
        covered = precision_recall(real, models.oracle.features(pictures), k=min(3, n - 1))
        return dict(w=w, away=scale, right=right, precision=covered.precision, recall=covered.recall)

    return dict(n=n, seed=SEED + 2, steps=STEPS, files=files, curve=[one(*scales) for scales in AWAY])


def from_strokes(models: Models, parts: dict[str, Part], n: int) -> Part:
    """Stroke paintings to pictures by SDEdit (VP, ancestral) under the scene's caption, over t0; w as in
    `single`.
    """
    scenes, w, model = new_scenes(n, SEED + 5), best_w(parts), models.model
    guides, captions = strokes(scenes, Generator().manual_seed(SEED)), [caption(s) for s in scenes]

    def right(t0: float) -> float:
        pictures = in_batches(
            lambda rows: (
                sdedit(
                    model, guides[rows], captions[rows], t0=t0, steps=STEPS, w=w, seed=SEED + rows.start
                ).picture
            ),
            n,
        )
        return models.oracle.right(pictures, [attributes(s) for s in scenes]).double().mean().item()

    return dict(n=n, seed=SEED + 5, steps=STEPS, w=w, curve=[dict(t0=t0, right=right(t0)) for t0 in T0])


def ve(models: Models, parts: dict[str, Part], n: int) -> Part:
    """Stroke paintings to 32×32 pictures by SDEdit's VE walk, enlarged for the reader, over t0. The score is
    that of GLIDE's base, by the exact change of variables."""
    model, files = opened(NEEDS["ve"], models)
    scenes = new_scenes(n, SEED + 9)
    guides = F.avg_pool2d(strokes(scenes, Generator().manual_seed(SEED)), 2)
    captions = [caption(s) for s in scenes]

    def right(t0: float) -> float:
        pictures = in_batches(
            lambda rows: (
                sdedit(
                    model,
                    guides[rows],
                    captions[rows],
                    t0=t0,
                    walk="ve",
                    steps=VE_STEPS,
                    w=VE_W,
                    seed=SEED + rows.start,
                ).picture
            ),
            n,
        )
        return models.oracle.right(enlarged(pictures), [attributes(s) for s in scenes]).double().mean().item()

    wanted = [attributes(s) for s in scenes]
    untouched, true = (
        models.oracle.right(enlarged(p), wanted).double().mean().item()
        for p in (guides, F.avg_pool2d(render(scenes), 2))
    )
    return dict(
        n=n,
        seed=SEED + 9,
        steps=VE_STEPS,
        w=VE_W,
        files=files,
        untouched=untouched,
        true=true,
        curve=[dict(t0=t0, right=right(t0)) for t0 in VE_T0],
    )


def glide_base(models: Models, parts: dict[str, Part], n: int) -> Part:
    """Captions of one thing by GLIDE's base at 32×32, enlarged by bicubic interpolation for the reader,
    over the guidance scale.
    """
    model, files = opened(NEEDS["glide"], models, DTYPE)
    scenes = new_scenes(n, SEED + 2, things=1)
    captions = [caption(s) for s in scenes]

    def right(w: float) -> float:
        pictures = in_batches(
            lambda rows: glide(model, captions[rows], steps="20", w=w, seed=SEED + rows.start).picture, n
        )
        return models.oracle.right(enlarged(pictures), [attributes(s) for s in scenes]).double().mean().item()

    return dict(
        n=n,
        seed=SEED + 2,
        steps=20,
        dtype=str(DTYPE),
        files=files,
        curve=[dict(w=w, right=right(w)) for w in (1.0, 2.0, 3.0)],
    )


def upsampler(models: Models, parts: dict[str, Part], n: int) -> Part:
    """True 32×32 pictures enlarged under their captions: PSNR to the true 64×64, beside bicubic's."""
    model, files = opened(NEEDS["upsampler"], models, DTYPE)
    scenes = new_scenes(n, SEED + 7)
    truth, captions = render(scenes), [caption(s) for s in scenes]
    small = F.avg_pool2d(truth, 2)
    made = in_batches(
        lambda rows: upsample(model, small[rows], captions[rows], seed=SEED + rows.start), n, 32
    ).cpu()
    return dict(
        n=n,
        seed=SEED + 7,
        dtype=str(DTYPE),
        files=files,
        bicubic=psnr(enlarged(small), truth).mean().item(),
        **mean("above", psnr(made, truth) - psnr(enlarged(small), truth)),
    )


def instruct(models: Models, parts: dict[str, Part], n: int, name: str = "instruct") -> Part:
    """Edits by instruction against the true ones, every kind in turn, over pairs of scales (s_text,
    s_image).
    """
    model, files = opened(NEEDS[name], models)
    drawn = draw_edits(n, KINDS, SEED + 8)

    def one(s_text: float, s_image: float) -> Part:
        made = by_instruction(model, drawn, s_text, s_image, STEPS, SEED).cpu()
        right, some = models.oracle.right(made, drawn.wanted), (drawn.changed == 0).flatten(1).any(1)
        return dict(
            s_text=s_text,
            s_image=s_image,
            right=right.double().mean().item(),
            kinds={k: right[drawn.rows(k)].double().mean().item() for k in KINDS if drawn.rows(k)},
            **mean("outside_db", psnr(made[some], drawn.before[some], 1 - drawn.changed[some]).clamp(max=60)),
            truth_db=psnr(made, drawn.after).mean().item(),
        )

    return dict(n=n, seed=SEED + 8, steps=STEPS, files=files, curve=[one(*scales) for scales in SCALES])


NEEDS = dict(
    ve="shapes-glide",
    glide="shapes-glide",
    upsampler="shapes-glide-upsampler",
    away="shapes-companion",  # beside `shapes`, as the next two
    instruct="shapes-instruct",
    generated="shapes-instruct-generated",
)


def opened(name: str, models: Models, dtype: torch.dtype = torch.float32) -> tuple[Model, dict[str, str]]:
    """A model beside those of `models`, and its hash."""
    path = place(name, models.folder)
    return load(path, models.model.device, dtype), {find(path).name: sha256(find(path))}


PARTS: dict[str, Callable[[Models, dict[str, Part], int], Part]] = dict(
    autoencoder=autoencoder,
    strange=reach.strange,
    reader=reader,
    single=single,
    held_out=held_out,
    two=two,
    away=away,
    wordings=reach.wordings,
    layouts=reach.layouts,
    strokes=from_strokes,
    drawings=reach.drawings,
    noise=reach.noise,
    ve=ve,
    glide=glide_base,
    upsampler=upsampler,
    instruct=instruct,
    generated=partial(instruct, name="generated"),
)
N = 256  # scenes of a part


# --------------------------------------------------------------------------- the command


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m palimpsest.claims.bench", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, metavar="NAME", help=f"some parts: {', '.join(PARTS)}"
    )
    parser.add_argument(
        "--quick", action="store_true", help="16 scenes, into runs/quick, to see that all runs"
    )
    parser.add_argument(
        "--models", metavar="FOLDER", help="measure candidates in FOLDER; figures go to FOLDER/claims"
    )
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args(argv)
    folder = Path("runs/quick") if a.quick else Path(a.models) / "claims" if a.models else RECORDS
    models, before = open_models(a.models, a.device), read_record("bench", folder) if a.only else None
    folder.mkdir(parents=True, exist_ok=True)
    parts = {} if before is None or before["files"] != models.files else before["parts"]  # of these weights
    record = dict(command="python -m palimpsest.claims.bench", model=models.name, files=models.files)
    for name in a.only or PARTS:
        start = time.monotonic()
        if name in NEEDS and not is_there(NEEDS[name], models.folder):
            print(f"{name}: skipped, as {NEEDS[name]} is not trained yet", flush=True)
            continue
        parts[name] = rounded(PARTS[name](models, parts, 16 if a.quick else N))
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
        write_json(folder / "bench.json", record | dict(parts=parts))
    if folder == RECORDS:
        update_manifest(lambda old: into_manifest(old, parts))
        write_table("models", "bench", table(rows()))
    print(table(rows(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
