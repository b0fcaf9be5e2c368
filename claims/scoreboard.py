"""The scoreboard of the shapes world: every method on every kind of edit, beside the true edited picture.

    python -m palimpsest.claims.scoreboard [--only "SDEdit;DiffEdit"] [--models FOLDER] [--quick]

Each method is given the picture and what its paper asks for: captions, an instruction, or the place. Its
settings are chosen for each kind of edit on other pairs, by the rule of `claims.recommend`: of those whose
success is within one standard error of the highest, the one nearest to the true edit. Success is that the
reader finds every attribute of the wish. Nothing is pasted back, except by GLIDE, which is given the place.
The ends of the board are the picture as it was and the true edit through the autoencoder. Means have 95 %
intervals, by bootstrap over the pictures. Seconds are those of one processor core.

Writes figures/scoreboard.json, figures/scoreboard_edits.png (the first PER_KIND edits of each kind by every
method) and the table of docs/shapes.md. A run that was stopped goes on after the last method that was done.
With --only, the rows of other methods stay where their weights and their pairs are the same.
"""

from __future__ import annotations

import argparse
import base64
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.io import decode_png, encode_png

from palimpsest.claims.common import Edits, Models, autoencoded, draw_edits, open_models, place, rounded
from palimpsest.claims.glide import DTYPE
from palimpsest.claims.glide_inpaint import bounding
from palimpsest.claims.page import RECORDS, ROOT, Record, read_record, write_table
from palimpsest.claims.parts import Part, Parts, at_once, code_of
from palimpsest.claims.recommend import Score, best_of
from palimpsest.claims.text2live import painted
from palimpsest.claims.ways import (
    COPY,
    INJECTED,
    STEPS,
    TRUTH,
    WAYS,
    Asked,
    Made,
    Setting,
    by_kind,
    made,
    made_at_best,
    scores,
    table,
    truth_db,
)
from palimpsest.cli.manners import exit_code_of
from palimpsest.methods.glide import inpaint
from palimpsest.methods.ladder import FAST
from palimpsest.methods.null_text import null_text
from palimpsest.methods.prompt_to_prompt import Injection, prompt_to_prompt
from palimpsest.outputs import locked
from palimpsest.training.shapes_instruct import KINDS
from palimpsest.weights.files import sha256, write_json
from palimpsest.weights.judges import Judge, load_judge
from palimpsest.weights.load import find, load
from palimpsest.weights.model import Model
from palimpsest.worlds.files import read_picture, write_picture
from palimpsest.worlds.shapes import changed_mask

N, SEED = 256, 0
TUNE = 96  # other pairs, on which settings are chosen
FEW, FEW_TUNE = 64, 32  # the same of a method that takes several seconds a picture
PER_KIND = 2  # edits of each kind on the sheet
MARGIN = 2  # pixels around what GLIDE is told to fill


# --------------------------------------------------------------------------- ways that only this board has


def by_null_text(model: Model, a: Asked, s: Setting) -> Tensor:
    with torch.inference_mode(False):  # it needs gradients
        up = null_text(model, a.x.clone(), a.source, steps=STEPS, w=s["w"], **FAST)
        injection = Injection(cross=s["cross"], self_=s["self_"])
        return prompt_to_prompt(
            model, a.source, a.target, start=up, injection=injection, w=s["w"], paste=False
        ).raw


def to_fill(a: Asked) -> Tensor:
    """What GLIDE paints: a box around what the true edit changes; of a ground, just what changes."""
    changed = torch.cat([changed_mask(scene, edit) for scene, edit in zip(a.scenes, a.edits)])
    ground = torch.tensor([edit.kind == "background" for edit in a.edits])[:, None, None, None]
    return torch.where(ground, changed, bounding(changed, MARGIN))


def by_glide(model: Model, a: Asked, s: Setting, upsampler: Model) -> Tensor:
    mask = to_fill(a).to(a.x.device)
    return inpaint(model, a.x, mask, a.target, upsampler=upsampler, steps="25", seed=a.seed, **s).picture


# --------------------------------------------------------------------------- the methods


class Entry(NamedTuple):
    """A method on the board."""

    paper: str
    given: str  # beside the picture
    way: Callable[..., Tensor]
    settings: list[Setting]
    model: str = "shapes"  # the weight file that edits
    upsampler: str | None = None
    few: bool = False  # scored on the first FEW pairs alone


AFTER, BOTH, ORDER = "the caption after", "both captions", "an instruction"
ENTRIES = {
    "SDEdit": Entry("2108.01073", AFTER, *WAYS["SDEdit"]),
    "GLIDE inpainting": Entry(
        "2112.10741",
        "the place, the caption after",
        by_glide,
        [dict(w=w) for w in (1.5, 3.0)],
        "shapes-glide-inpaint",
        "shapes-glide-upsampler-inpaint",
    ),
    "DDIM inversion": Entry("2010.02502", BOTH, *WAYS["DDIM inversion"]),
    "DiffEdit": Entry("2210.11427", BOTH, *WAYS["DiffEdit"]),
    "Prompt-to-Prompt on null-text": Entry("2211.09794", BOTH, by_null_text, INJECTED, few=True),
    "Prompt-to-Prompt on direct inversion": Entry(
        "2310.01506", BOTH, *WAYS["Prompt-to-Prompt on direct inversion"]
    ),
    "Prompt-to-Prompt on edit-friendly": Entry(
        "2304.06140", BOTH, *WAYS["Prompt-to-Prompt on edit-friendly"]
    ),
    "RF-Inversion": Entry("2410.10792", AFTER, *WAYS["RF-Inversion"]),
    "FlowEdit": Entry("2412.08629", BOTH, *WAYS["FlowEdit"]),
    "InstructPix2Pix, true pairs": Entry("2211.09800", ORDER, *WAYS["InstructPix2Pix"], "shapes-instruct"),
    "InstructPix2Pix, painted pairs": Entry(
        "2211.09800", ORDER, *WAYS["InstructPix2Pix"], "shapes-instruct-generated"
    ),
}
LAYER = "Text2LIVE"  # has no diffusion model: a CLIP trains a net for each picture
LAYERED = dict(paper="2204.02491", given="both captions, one of the layer", model="shapes-clip")


class Board(NamedTuple):
    """What the board is measured with."""

    models: Models
    edits: Edits
    others: Edits
    seed: int
    part: Part
    shown: list[int]  # edits on the sheet


def first(edits: Edits, n: int) -> Edits:
    """The first n of them."""
    return Edits(*(field[:n] for field in edits))


def opened(board: Board, entry: Entry) -> tuple[Model, Callable[[Model, Asked, Setting], Tensor]]:
    """The model that edits, and the way with whatever else it takes."""
    models, device = board.models, board.models.model.device

    def one(name: str) -> Model:
        dtype = DTYPE if entry.upsampler else torch.float32
        return load(place(name, models.folder), device, dtype)

    if entry.upsampler is not None:
        return one(entry.model), partial(entry.way, upsampler=one(entry.upsampler))
    return models.model if entry.model == "shapes" else one(entry.model), entry.way


def settled(board: Board, name: str, model: Model, way: Callable[..., Tensor]) -> dict[str, Setting]:
    """For each kind of edit the best setting on the other pairs."""
    others = first(board.others, FEW_TUNE) if ENTRIES[name].few else board.others
    every = range(len(others.edits))

    def tried(setting: Setting) -> list[list[float]]:
        pictures = made(model, way, setting, others, every, board.seed + 10**6).pictures
        right = board.models.oracle.right(pictures, others.wanted)
        return [right.double().tolist(), truth_db(pictures, others).tolist()]

    settings = ENTRIES[name].settings
    found = [torch.tensor(board.part(f"{name}, {s}", partial(tried, s))) for s in settings]
    return {
        kind: best_of([(s, Score(*v[:, rows].double())) for s, v in zip(settings, found)])
        for kind, rows in by_kind(others).items()
    }


def at_its_best(board: Board, name: str) -> Record:
    """One method's row of the board."""
    entry = ENTRIES[name]
    model, way = opened(board, entry)
    best = settled(board, name, model, way)

    edits = first(board.edits, FEW) if entry.few else board.edits

    def row() -> Record:
        return judged(board, made_at_best(model, way, best, edits, board.seed), edits)

    about = dict(paper=entry.paper, given=entry.given, model=entry.model, settings=best)
    return about | board.part(f"{name} at its best", row)


def by_layers(board: Board) -> Record:
    """Text2LIVE's row: of the first FEW edits, since each trains a net."""
    judge: Judge = load_judge(place("shapes-clip", board.models.folder), board.models.model.device)
    few = first(board.edits, FEW)

    def one(i: int) -> Record:
        began = time.process_time()
        picture = painted(judge, few, i, board.seed)
        return dict(png=as_text(picture), seconds=time.process_time() - began)

    each = [board.part(f"{LAYER}, picture {i}", partial(one, i)) for i in range(len(few.edits))]
    pictures = torch.cat([from_text(e["png"]) for e in each])
    seconds = sum(e["seconds"] for e in each) / len(each)
    return LAYERED | judged(board, Made(pictures, float("nan"), seconds), few)


def judged(board: Board, done: Made, edits: Edits) -> Record:
    """Scores by kind, cost, and the pictures for the sheet."""
    found = table(scores(board.models, done.pictures, edits), edits)
    evaluations = None if done.evaluations != done.evaluations else done.evaluations
    png = as_text(torch.cat(list(done.pictures[board.shown].split(1)), -2))
    return dict(evaluations=evaluations, seconds=done.seconds, table=found, png=png)


def as_text(picture: Tensor) -> str:
    """A picture (1 3 y x) as PNG in base64: parts are kept as JSON."""
    pixels = ((picture[0].cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    return base64.b64encode(encode_png(pixels).numpy().tobytes()).decode()


def from_text(text: str) -> Tensor:
    """The picture (1 3 y x) in [−1, 1] that `as_text` wrote."""
    found = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
    return decode_png(found)[None].float() / 127.5 - 1


def stacked(pictures: Tensor) -> Tensor:
    """Pictures (n 3 y x) below one another: (1 3 n·y x)."""
    return torch.cat(list(pictures.cpu().split(1)), -2)


def measure(
    models: Models, *, n: int, tune: int, seed: int = SEED, only: Sequence[str] = (), part: Part = at_once
) -> tuple[Record, Tensor]:
    """The record, and the sheet: a row for each shown edit; before, what each method made, the truth.

    only: some methods; all where none is named.
    """
    drawn, others = draw_edits(n, KINDS, seed + 60), draw_edits(tune, KINDS, seed + 2160)
    shown = [i for rows in by_kind(drawn).values() for i in rows[:PER_KIND]]
    board = Board(models, drawn, others, seed, part, shown)
    rows = {name: at_its_best(board, name) for name in ENTRIES if not only or name in only}
    if not only or LAYER in only:
        rows[LAYER] = by_layers(board)
    ends = {
        COPY: part(COPY, lambda: judged(board, Made(drawn.before, 0.0, 0.0), drawn)),
        TRUTH: part(
            TRUTH, lambda: judged(board, Made(autoencoded(models, drawn.after).cpu(), 0.0, 0.0), drawn)
        ),
    }
    record = dict(
        steps=STEPS,
        tuned_on=tune,
        kinds={kind: len(found) for kind, found in by_kind(drawn).items()},
        methods={name: {k: v for k, v in row.items() if k != "png"} for name, row in rows.items()},
        ends={name: row["table"] for name, row in ends.items()},
        sheet=dict(
            columns=["before", *rows, "truth"],
            rows=[dict(kind=drawn.kinds[i], source=drawn.source[i], target=drawn.target[i]) for i in shown],
        ),
    )
    columns = [stacked(drawn.before[shown]), *(from_text(row["png"]) for row in rows.values())]
    return record, torch.cat([*columns, stacked(drawn.after[shown])], -1)


# --------------------------------------------------------------------------- the page


def told(numbers: list[float] | None, digits: int = 1) -> str:
    """mean [low, high]; a dash where there is none."""
    if numbers is None:
        return "–"
    mean, low, high = numbers
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def percent(numbers: list[float] | None) -> str:
    """A share with its interval, in percent."""
    return told(None if numbers is None else [100 * v for v in numbers], 0)


def page(record: Record) -> str:
    """Two tables in Markdown: success by kind of edit, and what else counts over all edits."""
    kinds, ends = record["kinds"], record["ends"]
    rows = {name: row["table"] for name, row in record["methods"].items()}

    def lines(head: list[str], body: list[list[str]]) -> list[str]:
        return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body)]

    success = [
        [name, *(percent(found[kind]["right"]) if kind in found else "–" for kind in ("all", *kinds))]
        for name, found in (rows | ends).items()
    ]
    cost = [
        [
            name,
            row["given"],
            told(row["table"]["all"]["truth_db"]),
            told(row["table"]["all"]["outside_db"]),
            "–" if row["evaluations"] is None else f"{row['evaluations']:.0f}",
            f"{row['seconds']:.1f}",
            str(row["table"]["all"]["n"]),
        ]
        for name, row in record["methods"].items()
    ]
    cost += [
        [
            name,
            "",
            told(found["all"]["truth_db"]),
            told(found["all"]["outside_db"]),
            "",
            "",
            str(found["all"]["n"]),
        ]
        for name, found in ends.items()
    ]
    return "\n".join(
        [
            *lines(["success, %", "all", *kinds], success),
            "",
            *lines(
                ["all edits", "it is given", "dB to the truth", "dB outside", "evaluations", "seconds", "n"],
                cost,
            ),
        ]
    )


def files_of(name: str) -> set[str]:
    """The weight files of a method, beside the reader and the autoencoder."""
    if name == LAYER:
        return {f"{LAYERED['model']}.safetensors"}
    entry = ENTRIES[name]
    return {f"{model}.safetensors" for model in (entry.model, entry.upsampler) if model}


def check_kept(
    old: Record, kept: Sequence[str], base: dict[str, str], files: dict[str, str], n: int, tune: int
) -> None:
    """Some methods are measured anew; the rows of the others may stay where they were measured on the same
    pairs by the same files. Raises ValueError."""
    same = (old["n"], old["seed"], old["tuned_on"]) == (n, SEED, tune)
    if not same or any(old["files"].get(file) != of for file, of in base.items()):
        raise ValueError("only: the board was measured on other pairs or by another reader; measure it whole")
    for name in kept:
        if any(old["files"].get(file) != files[file] for file in files_of(name)):
            raise ValueError(f"only: the weights of {name} are new, too; name it beside the others")


def with_columns(sheet: Tensor, old: Record, new: Tensor, record: Record) -> Tensor:
    """The old sheet with the columns of the methods that were measured anew."""
    columns, renewed = list(sheet.split(64, -1)), list(new.split(64, -1))
    for name in record["methods"]:
        columns[old["sheet"]["columns"].index(name)] = renewed[record["sheet"]["columns"].index(name)]
    return torch.cat(columns, -1)


def command_line() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m palimpsest.claims.scoreboard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", default="", metavar="METHODS", help="some, with semicolons between: renew their rows"
    )
    parser.add_argument("--models", metavar="FOLDER", help="candidates; the record goes to FOLDER/claims")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="a few pictures, into runs/quick")
    return parser


def main(argv: list[str] | None = None) -> int:
    a = command_line().parse_args(argv)
    known, only = [*ENTRIES, LAYER], [name for name in a.only.split(";") if name]
    if strange := [name for name in only if name not in known]:
        raise ValueError(f"only: no method {strange[0]}; there are: {'; '.join(known)}")
    n, tune = (8, 16) if a.quick else (N, TUNE)
    folder = Path("runs/quick") if a.quick else Path(a.models) / "claims" if a.models else RECORDS
    models = open_models(a.models, a.device)
    names = {entry.model for entry in ENTRIES.values()} | {
        e.upsampler for e in ENTRIES.values() if e.upsampler
    }
    paths = [find(place(name, a.models)) for name in sorted({*names, LAYERED["model"]})]
    files = models.files | {path.name: sha256(path) for path in paths}
    old = read_record("scoreboard", folder) if only else None
    if old is not None:
        check_kept(old, [name for name in known if name not in only], models.files, files, n, tune)
    key = dict(files=files, n=n, tune=tune, seed=SEED, code=code_of(measure))
    part = Parts(ROOT / "runs" / "claims" / ("scoreboard_quick.json" if a.quick else "scoreboard.json"), key)
    with locked(part.file, "scoreboard"):
        record, sheet = measure(models, n=n, tune=tune, only=only, part=part)
    seconds = part.seconds
    if only and old is None:
        print("the parts of these are kept; the board is written by a run without --only")
        return 0
    if old is not None:
        sheet = with_columns(read_picture(folder / "scoreboard_edits.png"), old, sheet, record)
        record, seconds = old | dict(methods=old["methods"] | record["methods"]), old["seconds"] + seconds
    head = dict(
        command="python -m palimpsest.claims.scoreboard",
        model=models.name,
        files=files,
        n=n,
        seed=SEED,
        seconds=round(seconds),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "scoreboard.json", rounded(head | record | head))
    write_picture(sheet, folder / "scoreboard_edits.png")
    part.forget()
    if folder == RECORDS:
        write_table("shapes", "scoreboard", page(read_record("scoreboard")))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
