"""The floors that the shipped models must reach, measured on scenes that no training saw.

    python -m palimpsest.claims.bench [--only NAME] [--quick] [--models FOLDER]

Parts: autoencoder, reader, single, held_out, two, strokes, ve, glide, upsampler, instruct, generated.
Writes figures/bench.json, the table of docs/models.md, and each file's figures in weights/MANIFEST.json. Its
pictures are drawn by `python -m palimpsest.claims.draw.make w_curve.png bench.png`, as `make bench` does.
What is measured of candidates in a FOLDER is written there and changes nothing here.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator

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
from palimpsest.claims.page import RECORDS, read_record, write_table
from palimpsest.cli.manners import exit_code_of
from palimpsest.methods.glide import glide, upsample
from palimpsest.methods.sampling import generate
from palimpsest.methods.sdedit import sdedit
from palimpsest.metrics.image import psnr
from palimpsest.training.shapes_instruct import KINDS
from palimpsest.weights.files import sha256, update_manifest, write_json
from palimpsest.weights.load import find, load
from palimpsest.weights.model import Model
from palimpsest.worlds.shapes import Scene, attributes, caption, render, strokes

Part = dict[str, Any]
WS = (1.0, 2.0, 3.0, 5.0, 7.5)
TWO_WS = (2.0, 3.0, 5.0)
T0 = (0.5, 0.6, 0.7, 0.8)
SCALES = ((2.0, 1.5), (3.0, 1.2))  # s_text and s_image
STEPS = 16
SEED = 7


# --------------------------------------------------------------------------- measuring


def autoencoder(models: Models, parts: dict[str, Part], n: int) -> Part:
    """PSNR of pictures through the autoencoder and back; every colour × shape pair."""
    pictures = render(new_scenes(2 * n, SEED, held_out=None))
    db = psnr(autoencoded(models, pictures).cpu(), pictures)
    return dict(n=2 * n, seed=SEED, psnr_mean=db.mean().item(), psnr_p05=db.quantile(0.05).item())


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
    """Stroke paintings to 32×32 pictures by SDEdit on the VE walk of shapes-ve, enlarged for the reader,
    over t0.
    """
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
                    steps=STEPS,
                    w=2.0,
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
        steps=STEPS,
        w=2.0,
        files=files,
        untouched=untouched,
        true=true,
        curve=[dict(t0=t0, right=right(t0)) for t0 in (0.3, 0.4, 0.5)],
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
        psnr=psnr(made, truth).mean().item(),
        bicubic=psnr(enlarged(small), truth).mean().item(),
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
            outside_db=psnr(made[some], drawn.before[some], 1 - drawn.changed[some])
            .clamp(max=60)
            .mean()
            .item(),
            truth_db=psnr(made, drawn.after).mean().item(),
        )

    return dict(n=n, seed=SEED + 8, steps=STEPS, files=files, curve=[one(*scales) for scales in SCALES])


NEEDS = dict(
    ve="shapes-ve",
    glide="shapes-glide",
    upsampler="shapes-glide-upsampler",
    instruct="shapes-instruct",  # beside `shapes`
    generated="shapes-instruct-generated",
)


def opened(name: str, models: Models, dtype: torch.dtype = torch.float32) -> tuple[Model, dict[str, str]]:
    """A model beside those of `models`, and its hash."""
    path = place(name, models.folder)
    return load(path, models.model.device, dtype), {find(path).name: sha256(find(path))}


PARTS: dict[str, Callable[[Models, dict[str, Part], int], Part]] = dict(
    autoencoder=autoencoder,
    reader=reader,
    single=single,
    held_out=held_out,
    two=two,
    strokes=from_strokes,
    ve=ve,
    glide=glide_base,
    upsampler=upsampler,
    instruct=instruct,
    generated=partial(instruct, name="generated"),
)


# --------------------------------------------------------------------------- the table


class Row(NamedTuple):
    """One line: what, the floor it must reach (None: none was set), what was measured, and whose figure
    it is.
    """

    figure: str
    floor: float | None
    measured: float
    unit: str  # "dB" or "%"
    n: int
    seed: int
    file: str
    key: str  # in the manifest's figures

    @property
    def reached(self) -> str:
        return "" if self.floor is None else "yes" if self.measured >= self.floor else "**missed**"

    def shown(self, value: float | None) -> str:
        return (
            ""
            if value is None
            else f"{value:.1f} dB"
            if self.unit == "dB"
            else f"{value:.1%}".replace("%", " %")
        )


class Line(NamedTuple):
    """What a row says of one entry of a part: its words may name values of that entry, as {w:g}."""

    words: str
    floor: float | None
    value: str  # the entry's key
    file: str
    key: str  # in the manifest's figures
    unit: str = "%"


def instructed(
    file: str, pairs: str, recolour: float | None, every: float | None, outside: float | None
) -> list[Line]:
    """The rows of a model that follows instructions, with its three floors."""
    words = (
        f"instruction followed, all attributes, recolouring (s_T = {{s_text:g}}, s_I = {{s_image:g}}; "
        f"trained on {pairs})"
    )
    return [
        Line(words, recolour, "recolour", file, "recolour_all_right"),
        Line("… every kind of edit", every, "right", file, "instructed_all_right"),
        Line("… what should stay, PSNR", outside, "outside_db", file, "outside_db", "dB"),
    ]


READ = "oracle reader on {on}, all attributes"
WORST = "oracle reader on {on}, its worst attribute ({worst})"
LINES: dict[str, list[Line]] = {  # part -> its rows, in the order of the table
    "autoencoder": [
        Line("autoencoder, mean PSNR", 34.0, "psnr_mean", "shapes-vae", "psnr_mean", "dB"),
        Line(
            "autoencoder, all but the worst twentieth above", None, "psnr_p05", "shapes-vae", "psnr_p05", "dB"
        ),
    ],
    "reader": [
        Line(READ, 0.99, "all", "shapes-reader", "{name}_all_right"),
        Line(WORST, None, "least", "shapes-reader", "{name}_attribute_worst"),
    ],
    "single": [
        Line(
            "one thing from its caption, all attributes (w = {w:g})",
            0.96,
            "right",
            "shapes",
            "single_all_right",
        )
    ],
    "held_out": [
        Line(
            "… whose colour × shape was never trained on (w = {w:g})",
            0.85,
            "right",
            "shapes",
            "held_out_all_right",
        )
    ],
    "two": [
        Line(
            "two things and their relation, all attributes (w = {w:g})",
            0.78,
            "right",
            "shapes",
            "two_all_right",
        )
    ],
    "ve": [
        Line(
            "stroke painting to 32×32 picture on the VE walk, all attributes (t₀ = {t0:g}; of the paintings "
            "themselves {untouched:.1%})",
            None,
            "right",
            "shapes-ve",
            "strokes_all_right",
        )
    ],
    "glide": [
        Line(
            "GLIDE's base at 32×32, one thing from its caption, all attributes (w = {w:g})",
            0.85,
            "right",
            "shapes-glide",
            "single_all_right",
        )
    ],
    "upsampler": [
        Line(
            "GLIDE's upsampler, 32×32 to 64×64: PSNR above bicubic's {bicubic:.1f} dB",
            3.0,
            "above",
            "shapes-glide-upsampler",
            "above_bicubic_db",
            "dB",
        )
    ],
    "instruct": instructed("shapes-instruct", "true pairs", None, None, None),
    "generated": instructed("shapes-instruct-generated", "painted pairs", 0.7, 0.6, 22.0),
    "strokes": [
        Line(
            "stroke painting to picture by SDEdit, all attributes (t₀ = {t0:g}, w = {w:g})",
            0.85,
            "right",
            "shapes",
            "strokes_all_right",
        )
    ],
}


def entries(name: str, part: Part) -> list[Part]:
    """What the rows of a part speak of: the best point of its curve, beside the part's own values."""
    if name == "reader":
        found = []
        for shown, on in (("raw", "renders"), ("autoencoded", "renders through the autoencoder")):
            each = part[f"{shown}_attributes"]
            worst = min(each, key=each.get)
            found.append(
                dict(name=shown, on=on, all=part[shown], least=each[worst], worst=worst.replace("_", " "))
            )
        return found
    entry = part | (max(part["curve"], key=lambda r: r["right"]) if "curve" in part else {})
    if name == "upsampler":
        entry["above"] = part["psnr"] - part["bicubic"]
    return [entry | {"recolour": entry["kinds"]["recolour"]} if "kinds" in entry else entry]


def rows(parts: dict[str, Part]) -> list[Row]:
    """The table, from whatever parts were measured."""
    return [
        Row(
            line.words.format(**entry),
            line.floor,
            entry[line.value],
            line.unit,
            parts[name]["n"],
            parts[name]["seed"],
            f"{line.file}.safetensors",
            line.key.format(**entry),
        )
        for name, lines in LINES.items()
        if name in parts
        for entry in entries(name, parts[name])
        for line in lines
    ]


def table(parts: dict[str, Part]) -> str:
    """The rows in Markdown."""
    lines = [
        f"| {r.figure} | {r.shown(r.floor)} | {r.shown(r.measured)} | {r.n} | {r.seed} | {r.reached} |"
        for r in rows(parts)
    ]
    return "\n".join(
        ["| figure | floor | measured | n | seed | reached |", "|---|---|---|---|---|---|", *lines]
    )


def into_manifest(records: dict[str, Any], parts: dict[str, Part]) -> dict[str, Any]:
    """The manifest with the measured figures under each file's "bench"; what its recipe measured, under
    "figures", is kept.
    """
    found = {name: {**record, "bench": {}} for name, record in records.items()}
    for r in rows(parts):
        if r.file in found:
            found[r.file]["bench"] |= {r.key: r.measured, f"{r.key}_n": r.n, f"{r.key}_seed": r.seed}
    curves = {
        name: {f"{key} {r[key]:g}": r["right"] for r in parts[name]["curve"]}
        for name, key in (("single", "w"), ("two", "w"), ("strokes", "t0"))
        if name in parts
    }
    if "shapes.safetensors" in found:
        found["shapes.safetensors"]["bench"] |= {f"{name}_curve": curve for name, curve in curves.items()}
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m palimpsest.claims.bench", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--only", choices=PARTS, metavar="NAME", help=f"one part: {', '.join(PARTS)}")
    parser.add_argument(
        "--quick", action="store_true", help="16 scenes, into runs/quick, to see that all runs"
    )
    parser.add_argument(
        "--models", metavar="FOLDER", help="measure candidates in FOLDER; figures go to FOLDER/claims"
    )
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args(argv)
    folder = Path("runs/quick") if a.quick else Path(a.models) / "claims" if a.models else RECORDS
    models, record = open_models(a.models, a.device), read_record("bench", folder) if a.only else None
    folder.mkdir(parents=True, exist_ok=True)
    parts = (
        {} if record is None or record["files"] != models.files else record["parts"]
    )  # never of other weights
    for name in [a.only] if a.only else PARTS:
        start = time.monotonic()
        if name in NEEDS and not is_there(NEEDS[name], models.folder):
            print(f"{name}: skipped, as {NEEDS[name]} is not trained yet", flush=True)
            continue
        parts[name] = rounded(PARTS[name](models, parts, 16 if a.quick else 256))
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    write_json(
        folder / "bench.json",
        dict(command="python -m palimpsest.claims.bench", model=models.name, files=models.files, parts=parts),
    )
    if folder == RECORDS:
        update_manifest(lambda old: into_manifest(old, parts))
        write_table("models", "bench", table(parts))
    print(table(parts))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
