"""The settings that do best with each shipped model: what a method takes where a setting is left out.

    python -m palimpsest.claims.recommend [--only sdedit,diffedit,…] [--walks] [--quick]

Papers state settings for their own models; another model wants others. Each method runs on edits that no
training and no other measurement here sees. One parameter after another takes the best of its values, twice
over. The best: of the settings whose success is within one standard error of the highest (picture by picture)
the one that comes nearest to the true edit. Success is that the reader finds every attribute of the wish;
for a method that only brings a picture back it is PSNR, and the fewest passes of the net decide. Then the
steps of the walk, with the settings that were chosen, on twice as many edits: the fewest that lose neither
in success nor in nearness more than one standard error of the difference from the most. For emoji it is, of
each parameter, the median over the kinds of edits of what the scoreboard (claims/emoji.py) chose on pairs
that it does not score.

Writes figures/recommended.json and, for each model file, "recommended" in weights/MANIFEST.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from statistics import median_low
from typing import Any, NamedTuple

import torch
from torch import Tensor

from palimpsest.arguments import else_of, hints
from palimpsest.claims.common import (
    Edits,
    Models,
    by_instruction,
    draw_edits,
    in_batches,
    open_models,
    rounded,
)
from palimpsest.claims.page import RECORDS, ROOT, read_record, write_table
from palimpsest.claims.parts import Parts, code_of
from palimpsest.cli.manners import exit_code_of
from palimpsest.methods.diffedit import MaskRule, diffedit
from palimpsest.methods.flow_edit import flow_edit
from palimpsest.methods.instruct_pix2pix import instruct_pix2pix
from palimpsest.methods.null_text import null_text
from palimpsest.methods.sampling import generate
from palimpsest.methods.sdedit import sdedit
from palimpsest.metrics.image import psnr
from palimpsest.outputs import locked
from palimpsest.training.shapes_instruct import KINDS as INSTRUCTED
from palimpsest.weights.files import update_manifest, write_json
from palimpsest.weights.load import load
from palimpsest.weights.model import Model
from palimpsest.worlds.shapes import attributes, caption

N, SEED, STEPS = 64, 2100, 20  # STEPS: while the other settings are chosen
MORE = 2  # the steps are chosen on MORE · N edits
KINDS = ("recolour", "reshape", "retexture", "background")
Setting = dict[str, Any]  # parameter -> value


class Score(NamedTuple):
    """Of each picture: what is to be high, and what decides among settings that are equal in it."""

    success: Tensor  # (n,)
    nearness: Tensor  # (n,)


class Task(NamedTuple):
    """What is tried of a method: the functions (or records) that its parameters belong to, and values."""

    contracts: tuple[Callable[..., Any] | type, ...]
    values: dict[str, Sequence[Any]]
    run: Callable[[Models, Model, int, Setting], Score]
    model: str = "shapes"
    steps: tuple[int, ...] = ()  # numbers of steps to try, in rising order; empty: steps are not tried


# ---- trials ----


def edited(models: Models, drawn: Edits, pictures: Tensor) -> Score:
    """Whether all that was wished for is there, and the PSNR to the true edit."""
    right = models.oracle.right(pictures, drawn.wanted).double().cpu()
    return Score(right, psnr(pictures.cpu(), drawn.after).clamp(max=60).double())


def given_as(method: Callable[..., Any], setting: Setting, rows: slice) -> dict[str, Any]:
    """The arguments that a setting stands for; what belongs to DiffEdit's mask goes into its record."""
    how = dict(steps=STEPS, seed=SEED + rows.start) | setting
    if method is diffedit:
        own = {f.name for f in fields(MaskRule)} & how.keys()
        how["rule"] = MaskRule(**{name: how.pop(name) for name in own})
    return how


def by_text(method: Callable[..., Any], models: Models, model: Model, n: int, setting: Setting) -> Score:
    """An edit by a caption, or two."""
    drawn = draw_edits(n, KINDS, SEED)

    def some(rows: slice) -> Tensor:
        texts = [drawn.target[rows]] if method is sdedit else [drawn.source[rows], drawn.target[rows]]
        return method(model, drawn.before[rows], *texts, **given_as(method, setting, rows)).picture

    return edited(models, drawn, in_batches(some, n))


def told(models: Models, model: Model, n: int, setting: Setting) -> Score:
    """An edit by an instruction."""
    drawn = draw_edits(n, INSTRUCTED, SEED)
    return edited(models, drawn, by_instruction(model, drawn, **dict(steps=STEPS) | setting, seed=SEED))


def painted(models: Models, model: Model, n: int, setting: Setting) -> Score:
    """Pictures from captions; of equal scales the lower one, which leaves more variety."""
    scenes = draw_edits(n, KINDS, SEED).after_scenes
    captions = [caption(scene) for scene in scenes]

    def some(rows: slice) -> Tensor:
        return generate(model, captions[rows], steps=STEPS, seed=SEED + rows.start, **setting).picture

    right = models.oracle.right(in_batches(some, n), [attributes(scene) for scene in scenes])
    return Score(right.double().cpu(), torch.full((n,), -float(setting["w"])).double())


def returned(models: Models, model: Model, n: int, setting: Setting) -> Score:
    """A picture back through null-text inversion: PSNR, and the fewest passes of the net."""
    drawn = draw_edits(max(2, n // 6), KINDS, SEED)
    run = null_text(model, drawn.before, drawn.source, steps=STEPS, w=7.5, **setting)
    passes = run.forwards.double() + 2 * run.backwards.double()
    return Score(psnr(model.decode(run.z_bar).cpu(), drawn.before).double(), -passes)


TASKS: dict[str, Task] = {
    "generate": Task((generate,), dict(w=(1.0, 2.0, 3.0, 5.0, 7.5)), painted),
    "sdedit": Task(
        (sdedit,),
        dict(t0=(0.4, 0.5, 0.6, 0.7, 0.8), w=(2.0, 3.0, 5.0, 7.5)),
        partial(by_text, sdedit),
        steps=(10, 15, 20, 30, 50),
    ),
    "diffedit": Task(
        (diffedit, MaskRule),
        dict(
            ratio=(0.6, 0.7, 0.8, 0.9), w=(2.0, 3.0, 5.0, 7.5), threshold=(0.2, 0.3, 0.4, 0.5), grow=(0, 1, 2)
        ),
        partial(by_text, diffedit),
        steps=(10, 15, 50),
    ),
    "flow_edit": Task(
        (flow_edit,),
        dict(start=(0.7, 0.8, 0.85, 0.9), w_source=(1.0, 1.5, 2.0), w_target=(2.0, 3.0, 5.0, 7.5)),
        partial(by_text, flow_edit),
    ),
    "instruct_pix2pix": Task(
        (instruct_pix2pix,),
        dict(s_text=(1.5, 2.0, 3.0, 5.0, 7.5), s_image=(1.0, 1.2, 1.5, 2.0)),
        told,
        "shapes-instruct",
        (10, 20, 50),
    ),
    "null_text": Task(
        (null_text,),
        dict(
            solver=("adam", "gauss-newton"),
            start=("empty", "between", "prompt"),
            stop=(1e-5, 1e-6, 1e-7),
            lr=(1e-2, 3e-2),
        ),
        returned,
    ),
}


EMOJI = {  # method of the scoreboard -> the function, the model
    "SDEdit": ("sdedit", "emoji"),
    "DiffEdit": ("diffedit", "emoji"),
    "InstructPix2Pix": ("instruct_pix2pix", "emoji-instruct"),
}


def of_emoji() -> dict[str, Any]:
    """The records of the emoji world's methods, from the scoreboard's own record."""
    board, found = read_record("emoji")["methods"], {}
    for name, (function, model) in EMOJI.items():
        kinds = list(board[name]["settings"].values())
        middle = {p: median_low(setting[p] for setting in kinds) for p in kinds[0]}
        found[f"emoji/{function}"] = dict(model=model, recommended={function: middle}, tried=kinds)
    return found


# ---- the choice ----


def usual(task: Task) -> Setting:
    """What the parameters are where a model recommends nothing."""
    known = {name: a for contract in task.contracts for name, a in hints(contract).items()}
    return {name: else_of(known[name]).value for name in task.values}


def best_of(tried: Sequence[tuple[Setting, Score]]) -> Setting:
    """Of the settings whose success is within one standard error of the highest, the nearest.

    The error is that of the mean difference from the highest, picture by picture."""
    top = max(tried, key=lambda one: one[1].success.mean().item())[1].success
    level = [one for one in tried if not lost(top, one[1].success)]
    return max(level, key=lambda one: one[1].nearness.mean().item())[0]


def lost(top: Tensor, found: Tensor) -> bool:
    """Whether the mean of found (n,) lies below that of top (n,), picture by picture, by more than one
    standard error."""
    less = top - found
    return bool(less.mean() > less.std() / len(less) ** 0.5)


def chosen(task: Task, score: Callable[[Setting], Score], rounds: int = 2) -> Setting:
    """From the usual setting, one parameter after another at the best of all that was tried so far."""
    best = usual(task)
    tried = [(best, score(best))]
    for _ in range(rounds):
        before = best
        for name, values in task.values.items():
            known = [setting for setting, _ in tried]
            more = [best | {name: value} for value in values if best | {name: value} not in known]
            tried += [(setting, score(setting)) for setting in more]
            best = best_of(tried)
        if best == before:
            break
    return best


def fewest(tried: Sequence[tuple[int, Score]]) -> int:
    """The smallest number of steps that loses neither success nor nearness; tried: in rising order."""
    most = tried[-1][1]
    return next(
        steps
        for steps, score in tried
        if not (lost(most.success, score.success) or lost(most.nearness, score.nearness))
    )


def by_contract(task: Task, setting: Setting) -> dict[str, Setting]:
    """Function -> parameter -> value, as a model's file holds it."""
    return {
        contract.__name__: {name: v for name, v in setting.items() if name in hints(contract)}
        for contract in task.contracts
    }


def advice(record: dict[str, Any]) -> Setting:
    """What a record recommends, whichever function (or record) a parameter belongs to."""
    return {p: v for values in record["recommended"].values() for p, v in values.items()}


def recommend(
    name: str, models: Models, n: int, folder: Any, known: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The record of one method: every setting that was tried, and the one that is recommended.

    known: an earlier record, whose settings stay; only the steps are tried anew."""
    task = TASKS[name]
    model = (
        models.model if task.model == models.name else load(task.model, models.model.device, torch.float32)
    )
    key = dict(files=models.files, n=n, seed=SEED, steps=STEPS, code=code_of(recommend))
    part = Parts(folder / f"recommend_{name}.json", key)
    tried = [] if known is None else [row for row in known["tried"] if "steps" not in row]

    def score(setting: Setting, edits: int) -> Score:
        found = part(str(setting), lambda: [v.tolist() for v in task.run(models, model, edits, setting)])
        row = setting | dict(zip(("success", "nearness"), (sum(v) / len(v) for v in found)))
        row |= dict(n=edits) if "steps" in setting else {}
        if row not in tried:
            tried.append(row)
        return Score(*(torch.tensor(v, dtype=torch.float64) for v in found))

    with locked(part.file, "recommend"):
        best = (
            chosen(task, lambda setting: score(setting, n))
            if known is None
            else {p: advice(known)[p] for p in task.values}
        )
        walks = [(steps, score(best | dict(steps=steps), MORE * n)) for steps in task.steps]
    if walks:
        best |= dict(steps=fewest(walks))
    more = dict(autoencoder_db=autoencoder_db(model, n)) if task.run is returned else {}
    return more | dict(
        model=task.model,
        seconds=round(part.seconds) + (0 if known is None else known["seconds"]),
        recommended=by_contract(task, best),
        usual=usual(task),
        tried=tried,
    )


def table(methods: dict[str, Any]) -> str:
    """Of each method: the usual setting and the one that its model recommends, with their scores."""
    rows = [
        "| method | model | usual | success, nearness | recommended | success, nearness |",
        "|---|---|---|---|---|---|",
    ]
    for name, record in sorted(methods.items(), key=lambda item: item[0].split("/")[::-1]):
        best = advice(record)
        cells = []
        for setting in (record.get("usual"), best):
            if setting is None:
                cells += ["", ""]
                continue
            found = [t for t in record["tried"] if t.items() >= setting.items() and "success" in t]
            cells.append(
                ", ".join(f"{p} {v:g}" if isinstance(v, float) else f"{p} {v}" for p, v in setting.items())
            )
            cells.append("" if not found else scored(record, found[0]["success"], found[0]["nearness"]))
        rows.append(f"| {name.split('/')[-1]} | {record['model']} | {' | '.join(cells)} |")
    return "\n".join(rows)


def scored(record: dict[str, Any], success: float, nearness: float) -> str:
    """A success and what decides beside it, in the units of the method."""
    if "autoencoder_db" in record:
        return f"{success:.1f} of {record['autoencoder_db']:.1f} dB, {-nearness:.0f} passes"
    return f"{success:.0%}" + (f", {nearness:.1f} dB" if nearness > 0 else "")


def autoencoder_db(model: Model, n: int) -> float:
    """PSNR of the pictures of `returned` through the autoencoder alone: the most that an inversion gives."""
    x = draw_edits(max(2, n // 6), KINDS, SEED).before
    return psnr(model.decode(model.encode(x)).cpu(), x).mean().item()


def main(given: Sequence[str] | None = None) -> None:
    """Measure, and write what is recommended."""
    parser = argparse.ArgumentParser(prog="python -m palimpsest.claims.recommend", description=__doc__)
    parser.add_argument(
        "--only", default=",".join(TASKS), metavar="METHODS", help="some, with commas between"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--walks", action="store_true", help="keep the settings of the record; try only numbers of steps"
    )
    parser.add_argument("--quick", action="store_true", help="a few pictures, into runs/quick")
    a = parser.parse_args(given)
    if strange := [name for name in a.only.split(",") if name not in TASKS]:
        parser.error(f"--only: no method {strange[0]}; there are {', '.join(TASKS)}")
    n, models = 8 if a.quick else N, open_models(None, a.device)
    folder = ROOT / "runs" / ("quick" if a.quick else "claims")
    known = read_record("recommended")["methods"] if a.walks else {}
    found = {name: recommend(name, models, n, folder, known.get(name)) for name in a.only.split(",")}
    found |= of_emoji()
    write(found, n, folder if a.quick else RECORDS, ship=not a.quick)


def write(found: dict[str, Any], n: int, folder: Any, *, ship: bool) -> None:
    """The record, what other methods' it held kept; and, of the real run, the manifest."""
    file = folder / "recommended.json"
    methods = (read_record("recommended")["methods"] if ship and file.exists() else {}) | found
    head = dict(command="python -m palimpsest.claims.recommend", n=n, seed=SEED, steps=STEPS)
    write_json(file, rounded(head | dict(methods=methods)))

    def with_advice(manifest: dict[str, Any]) -> dict[str, Any]:
        for record in methods.values():
            entry = manifest[f"{record['model']}.safetensors"]
            entry["recommended"] = entry.get("recommended", {}) | record["recommended"]
        return manifest

    if ship:
        update_manifest(with_advice)
        write_table("models", "recommended", table(methods))
    for name, record in found.items():
        print(f"{name}: {record['recommended']}")


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
