"""The scoreboard of the emoji world: edits of pictures that no training saw, beside what an artist drew.

    make emoji-data
    python -m palimpsest.claims.emoji [--n 200] [--device cuda] [--models FOLDER] [--quick]
    python -m palimpsest.claims.emoji --only SDEdit,DiffEdit   # make and keep these pictures
    python -m palimpsest.claims.emoji --add FlowEdit # measure it, and put its row into the record
    python -m palimpsest.claims.draw.make emoji_gallery.png    # the gallery, drawn from what was measured

Each method is given a picture and its captions, or the instruction, and its result is compared with the
true one: PSNR; PSNR to the picture before, where the true edit changes nothing; cosine in our CLIP and
LPIPS, where those are at hand. The picture before, untouched, is one of the entries: most of a true edit
is what it keeps, so that copying is hard to beat in PSNR. A method's settings are chosen for each kind of
edit on other held-out pairs, TUNE of them, by their PSNR. GLIDE's own model is not trained on emoji; its
way of inpainting is here on the model that is, from pure noise and with x̂_0 kept outside DiffEdit's
mask. Text2LIVE trains a net for each picture and is scored on the first of the pairs, FEW of them; our CLIP
trains it and so does not judge it.

Writes the table of docs/emoji.md, figures/emoji.json and figures/emoji_edits.png (the 24 edits that gain most
and the 12 that gain least). What is measured of candidates in a FOLDER is written there. What methods make
is kept in --state, so that a stopped run goes on, and several processes can share the work.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.claims.common import rounded
from palimpsest.claims.emoji_methods import (
    BATCH,
    COPY,
    FEW,
    METHODS,
    STEPS,
    Drawn,
    EmojiModels,
    Made,
    Setting,
    Way,
    drawn,
    held_out_pairs,
    needed,
    open_emoji,
    pictures_of,
)
from palimpsest.claims.page import RECORDS, Record, read_record, write_table
from palimpsest.claims.parts import Part, Parts, at_once, code_of
from palimpsest.cli.manners import exit_code_of
from palimpsest.methods.inversion import invert, redo
from palimpsest.methods.ladder import FAST
from palimpsest.methods.null_text import null_text
from palimpsest.metrics.image import psnr
from palimpsest.metrics.similarity import cosine
from palimpsest.weights.cache import digest
from palimpsest.weights.files import write_json
from palimpsest.weights.load import load_autoencoder
from palimpsest.worlds.emoji import KINDS, World, open_world
from palimpsest.worlds.files import write_picture

TUNE = 40  # pairs on which settings are chosen
W_BACK, MOST_BACK = 7.5, 32  # of the reconstruction by null-text: guidance, and how many pictures
SUCCESSES, FAILURES, COLUMNS = 24, 12, 4
FLOORED = (
    "colour",
    "tone",
    "background",
)  # on these two methods must beat copying on more than half of the pairs

# --------------------------------------------------------------------------- scores

Scores = dict[str, Tensor]


def scored(models: EmojiModels, pictures: Tensor, edits: Drawn) -> Scores:
    """Of each picture (n,): db, gain over copying, outside_db (NaN where all is changed), clip and lpips
    where they are at hand.
    """
    copied, rest = psnr(edits.before, edits.after).clamp(max=60), 1 - edits.changed
    some = rest.flatten(1).mean(1) >= 0.01
    outside = torch.full((len(pictures),), float("nan"))
    if some.any():
        outside[some] = psnr(pictures[some], edits.before[some], rest[some]).clamp(max=60).float()
    db = psnr(pictures, edits.after).clamp(max=60)
    found = dict(db=db, gain=db - copied, outside_db=outside)
    device = models.model.device
    with torch.inference_mode():
        both = list(zip(pictures.split(BATCH), edits.after.split(BATCH)))
        if models.clip is not None:
            found["clip"] = torch.cat(
                [cosine(*(models.clip.images(p.to(device)) for p in pair)).cpu() for pair in both]
            )
        if models.lpips is not None:
            found["lpips"] = torch.cat(
                [models.lpips(*(p.to(device) for p in pair)).flatten().cpu() for pair in both]
            )
    return found


def row(scores: Scores, rows: Sequence[int]) -> Record:
    """The means over some pairs, and the share on which copying is beaten."""
    rows = list(rows)
    means = {key: mean for key, v in scores.items() if (mean := v[rows].double().nanmean().item()) == mean}
    return dict(n=len(rows), beats=(scores["gain"][rows] > 0).double().mean().item(), **means)


def rows_of(scores: Scores, edits: Drawn) -> Record:
    """The means over all pairs, and over each kind of edit."""
    return dict(
        all=row(scores, range(len(edits.kinds))),
        kinds={k: row(scores, found) for k in KINDS if (found := edits.rows(k))},
    )


def back(models: EmojiModels, edits: Drawn, most: int = MOST_BACK) -> Record:
    """PSNR of the pictures before through the autoencoder, beside that of the shapes world, and through
    null-text inversion at W_BACK, and back."""
    model, x, theirs = (
        models.model,
        edits.before[:most],
        load_autoencoder("shapes-vae", models.model.device),
    )
    up = null_text(model, x.to(model.device), edits.source[:most], steps=STEPS, w=W_BACK, **FAST)
    found = {
        "autoencoder_db": model.decode(model.encode(x)),
        "shapes_autoencoder_db": theirs.decode(theirs.encode(x.to(model.device))),
        "null_text_db": model.decode(redo(model, up, w=W_BACK)[-1]),
        "w1_db": model.decode(
            redo(model, invert(model, x.to(model.device), edits.source[:most], steps=STEPS))[-1]
        ),
    }
    return dict(n=len(x), w=W_BACK, **{name: psnr(p.cpu(), x).mean().item() for name, p in found.items()})


# --------------------------------------------------------------------------- the gallery


class Shown(NamedTuple):
    """A pair in the gallery, and the method whose result is shown."""

    pair: int
    method: str
    gain: float


def gallery(gains: dict[str, Tensor], kinds: Sequence[str]) -> tuple[list[Shown], list[Shown]]:
    """Successes: the pairs on which some method gains most over copying; failures: those on which the
    best method gains least.

    No kind of edit has more than its share of either, as long as others are left; each pair is shown with
    its best method."""
    names = list(gains)
    table = torch.stack([gains[name] for name in names])  # (methods n)
    best, which = table.max(0)
    order = best.argsort(descending=True).tolist()

    def first(order: Sequence[int], many: int, out: set[int]) -> list[int]:
        most, seen, found = -(-many // len(set(kinds))), Counter(), []
        for limit in (most, len(order)):  # evenly at first, then whatever is next
            for i in order:
                if len(found) < many and i not in out and i not in found and seen[kinds[i]] < limit:
                    seen[kinds[i]] += 1
                    found.append(i)
        return found

    top = first(order, min(SUCCESSES, len(order) * 2 // 3), set())
    low = first(order[::-1], min(FAILURES, len(order) - len(top)), set(top))
    return tuple(
        [Shown(i, names[which[i]], best[i].item()) for i in sorted(rows, key=order.index)]
        for rows in (top, low)
    )


def strips(edits: Drawn, results: dict[str, Tensor], shown: Sequence[Shown]) -> Tensor:
    """A sheet (1 3 y x), COLUMNS to a row: before, made, true, side by side."""
    cells = [
        torch.cat([edits.before[s.pair], results[s.method][s.pair], edits.after[s.pair]], -1) for s in shown
    ]
    cells += [torch.ones_like(cells[0])] * (-len(cells) % COLUMNS)
    return torch.cat([torch.cat(cells[i : i + COLUMNS], -1) for i in range(0, len(cells), COLUMNS)], -2)[None]


# --------------------------------------------------------------------------- the whole


def measure(
    models: EmojiModels,
    world: World,
    *,
    n: int,
    seed: int,
    methods: dict[str, tuple[Way, list[Setting]]] | None = None,
    tune: int | None = None,
    folder: Path | None = None,
    part: Part = at_once,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Record, Tensor]:
    """The record, and the sheet of the gallery's pictures. folder: where the pictures of each method are
    kept, if they are.
    """
    edits, others = shares(world, n, seed, TUNE if tune is None else tune)
    chosen = METHODS if methods is None else methods
    record, results = painted(models, chosen, edits, others, seed, folder, say)
    record[COPY], results[COPY] = rows_of(scored(models, edits.before, edits), edits), edits.before
    gains = {name: gain_of(results[name], edits) for name in results if name != COPY}
    model = models.model
    true = torch.cat([model.decode(model.encode(part)).cpu() for part in edits.after.split(BATCH)])
    limit = scored(models, true, edits)
    shown = gallery(gains, edits.kinds)
    listed = [
        dict(
            asked=edits.asked[s.pair],
            source=edits.source[s.pair],
            kind=edits.kinds[s.pair],
            method=s.method,
            gain=s.gain,
        )
        for s in (*shown[0], *shown[1])
    ]
    optional = {"emoji-instruct": models.instruct, "emoji-clip": models.clip, "lpips-alex": models.lpips}
    lacking = [name for name, found in optional.items() if found is None]
    whole = dict(
        steps=STEPS,
        tuned_on=len(others.kinds),
        missing=lacking,
        methods=record,
        limit=rows_of(limit, edits),
        back=part("back", lambda: back(models, edits)),
        successes=len(shown[0]),
        columns=COLUMNS,
        gallery=listed,
        gallery_of=list(gains),
    )
    seconds = sum(row.get("seconds", 0) for row in record.values())
    whole |= dict(n=len(edits.kinds), seed=seed, targets=targets(edits), painting_seconds=seconds)
    return whole, strips(edits, results, [*shown[0], *shown[1]])


def painted(
    models: EmojiModels,
    methods: dict[str, tuple[Way, list[Setting]]],
    edits: Drawn,
    others: Drawn,
    seed: int,
    folder: Path | None,
    say: Callable[[str], None],
) -> tuple[Record, dict[str, Tensor]]:
    """Of each method whose models are there its row of the board, and what it made: (n 3 64 64) or fewer."""
    record, results = {}, {}
    for name, (way, settings) in there(models, methods).items():
        some, made = made_by(models, name, way, settings, edits, others, seed, folder)
        results[name] = made.pictures
        judges = models._replace(clip=None) if needed(way) == "clip" else models  # what trains does not judge
        record[name] = dict(
            settings={kind: made.settings[kind] for kind in KINDS if some.rows(kind)},
            seconds=round(made.seconds),
            **rows_of(scored(judges, made.pictures, some), some),
        )
        say(f"{name}: {made.seconds:.0f} s")
    return record, results


def made_by(
    models: EmojiModels,
    name: str,
    way: Way,
    settings: list[Setting],
    edits: Drawn,
    others: Drawn,
    seed: int,
    folder: Path | None,
) -> tuple[Drawn, Made]:
    """The pairs that a method is scored on, and what it made of them."""
    some = edits.first(FEW.get(name, len(edits.kinds)))
    return some, pictures_of(models, name, way, settings, some, others, seed, folder)


def gain_of(pictures: Tensor, edits: Drawn) -> Tensor:
    """The gain over copying on each pair (n,): −∞ where the method made no picture of it."""
    gain = torch.full((len(edits.kinds),), -torch.inf)
    some = edits.first(len(pictures))
    done, before = (psnr(x, some.after).clamp(max=60).float() for x in (pictures, some.before))
    gain[: len(pictures)] = done - before
    return gain


def joined(
    record: Record,
    models: EmojiModels,
    world: World,
    only: Sequence[str],
    *,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Record:
    """The record with the rows of these methods too, on the same pairs. The gallery stays as it is.

    Raises ValueError where the models or the pairs are not those of the record.
    """
    edits, others = shares(world, record["n"], record["seed"], record["tuned_on"])
    copied, known = rows_of(scored(models, edits.before, edits), edits), record["methods"][COPY]
    same = copied["kinds"].keys() == known["kinds"].keys() and all(
        abs(r["db"] - known["kinds"][k]["db"]) < 1e-3 and r["n"] == known["kinds"][k]["n"]
        for k, r in copied["kinds"].items()
    )
    if models.files != record["files"] or not same or record["steps"] != STEPS:
        raise ValueError("add: the record is of other models, pairs or steps; measure all methods anew")
    rows, _ = painted(
        models, {name: METHODS[name] for name in only}, edits, others, record["seed"], folder, say
    )
    every = record["methods"] | rows
    return record | dict(
        methods={name: every[name] for name in (*METHODS, COPY) if name in every},
        gallery_of=record.get("gallery_of", [name for name in record["methods"] if name != COPY]),
        painting_seconds=sum(row.get("seconds", 0) for row in every.values()),
    )


def targets(edits: Drawn) -> dict[str, int]:
    """How many different emoji the edits of each kind lead to, and all of them: those of a kind are often
    few, shown on many grounds.
    """
    emoji = [text.rsplit(" on a", 1)[0] for text in edits.target]
    return {"all": len(set(emoji))} | {
        kind: len({emoji[i] for i in edits.rows(kind)}) for kind in KINDS if edits.rows(kind)
    }


def shares(world: World, n: int, seed: int, tune: int) -> tuple[Drawn, Drawn]:
    """n held-out pairs to be scored on, three quarters of all at most, and others to choose settings on.

    Other pairs, not always other pictures: where few emoji are held out, several pairs lead to one.
    """
    every = held_out_pairs(world, seed)
    n = min(n, len(every) * 3 // 4)
    return drawn(world, every[:n]), drawn(world, every[n : n + tune])


def there(
    models: EmojiModels, methods: dict[str, tuple[Way, list[Setting]]]
) -> dict[str, tuple[Way, list[Setting]]]:
    """The methods whose models are trained."""
    kept = {"": models.model, "instruct": models.instruct, "clip": models.clip}
    return {name: way for name, way in methods.items() if kept[needed(way[0])] is not None}


def beaters(record: Record, kind: str) -> list[str]:
    """The methods that come nearer to the truth than copying on more than half of the pairs of a kind."""
    return [
        name
        for name, r in record["methods"].items()
        if name != COPY and kind in r["kinds"] and r["kinds"][kind]["beats"] > 0.5
    ]


def table(record: Record) -> str:
    """The scoreboard in Markdown: dB gained over copying, the share of pairs on which it is beaten; then
    what beats it, and the floors.
    """
    copied, kinds = record["methods"][COPY], list(record["methods"][COPY]["kinds"])

    def cells(r: Record) -> list[str]:
        found = (r["all"], *(r["kinds"].get(k) for k in kinds))  # of few pairs a kind may be missing
        return [
            "–" if v is None else f"{v['gain']:+.1f} ({v['beats']:.0%})".replace("%", " %") for v in found
        ]

    def line(*words: str) -> str:
        return f"| {' | '.join(words)} |"

    def counted(name: str) -> str:
        n = record["methods"][name]["all"]["n"]
        return name if n == copied["all"]["n"] else f"{name}, the first {n} pairs"

    names = [name for name in record["methods"] if name != COPY]
    plain = [f"{v['db']:.1f} dB" for v in (copied["all"], *(copied["kinds"][k] for k in kinds))]
    lines = [
        line("method", "all", *(f"{k} ({copied['kinds'][k]['n']})" for k in kinds)),
        line(*["---"] * (len(kinds) + 2)),
        line("different emoji to be reached", *(str(record["targets"][k]) for k in ("all", *kinds))),
        line(f"{COPY}: PSNR to the true one", *plain),
    ]
    lines += [line(counted(name), *cells(record["methods"][name])) for name in names]
    lines += [line("the true one through the autoencoder: the limit", *cells(record["limit"])), ""]
    extra = [
        more
        for more in (
            ("outside_db", "PSNR to the picture before, where nothing should change (dB)", 1),
            ("clip", "CLIP's similarity to the true one", 3),
            ("lpips", "LPIPS to the true one", 3),
        )
        if more[0] in copied["all"]
    ]
    if extra:
        lines += [line("mean over all", *(words for _, words, _ in extra)), line(*["---"] * (len(extra) + 1))]
        lines += [
            line(
                name, *(f"{r['all'][key]:.{digits}f}" if key in r["all"] else "–" for key, _, digits in extra)
            )
            for name, r in record["methods"].items()
        ] + [""]
    lines += [
        f"- Nearer to the truth than copying on most pairs of *{kind}*: {told(beaters(record, kind), names)}."
        for kind in kinds
    ]
    went = record["back"]
    lines += [
        f"- There and back, without an edit, n = {went['n']}: the autoencoder {went['autoencoder_db']:.1f} "
        f"dB (that of the shapes "
        f"world: {went['shapes_autoencoder_db']:.1f}), DDIM inversion at w = 1 {went['w1_db']:.1f} dB, "
        f"null-text at w = "
        f"{went['w']:g} {went['null_text_db']:.1f} dB."
    ]
    lines += [
        f"- Floor: {words}: {'reached' if reached else '**missed**'}." for words, reached in floors(record)
    ]
    return "\n".join(lines)


def told(some: Sequence[str], every: Sequence[str]) -> str:
    """Some of these names, in the shorter way: those, or all but the others."""
    others = [name for name in every if name not in some]
    if not some or len(others) >= len(some):
        return ", ".join(some) or "none"
    return f"all but {', '.join(others)}" if others else "all"


def floors(record: Record) -> list[tuple[str, bool]]:
    """What must be reached, with what was measured, and whether it was."""
    limit, went = record["limit"]["all"]["db"], record["back"]
    found = [
        (f"autoencoder at least 29.5 dB on held-out emoji: {limit:.1f}", limit >= 29.5),
        (
            f"null-text within 1 dB of the autoencoder: {went['null_text_db']:.1f} of "
            f"{went['autoencoder_db']:.1f} dB, n = {went['n']}",
            went["null_text_db"] >= went["autoencoder_db"] - 1,
        ),
    ]
    tones = {
        name: r["kinds"]["tone"]["gain"]
        for name, r in record["methods"].items()
        if name != COPY and "tone" in r["kinds"]
    }
    if tones:
        best = max(tones, key=tones.get)
        found.append(
            (f"skin tones at least 5 dB above copying: {tones[best]:+.1f} ({best})", tones[best] >= 5)
        )
    return found + [
        (
            f"two methods beat copying on most pairs of {kind}: {len(beaters(record, kind))}",
            len(beaters(record, kind)) >= 2,
        )
        for kind in FLOORED
        if kind in record["methods"][COPY]["kinds"]
    ]


def command_line() -> argparse.ArgumentParser:
    """The options of `python -m palimpsest.claims.emoji`."""
    parser = argparse.ArgumentParser(
        prog="python -m palimpsest.claims.emoji", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--n", type=int, default=200, help="pairs, at least 1 (default: %(default)s)")
    parser.add_argument(
        "--only",
        metavar="METHOD,METHOD",
        help="make and keep the pictures of these methods, and score nothing",
    )
    parser.add_argument(
        "--add",
        metavar="METHOD,METHOD",
        help="measure these methods on the pairs of figures/emoji.json, and put their rows into it",
    )
    parser.add_argument(
        "--quick", action="store_true", help="10 pairs, into runs/quick, to see that all runs"
    )
    parser.add_argument(
        "--models", metavar="FOLDER", help="measure candidates in FOLDER; figures go to FOLDER/claims"
    )
    parser.add_argument("--data", default="runs/emoji_data", help="the pictures (default: %(default)s)")
    parser.add_argument(
        "--state", default="runs/emoji_board", help="where methods' pictures are kept (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu")
    return parser


def make_only(models: EmojiModels, world: World, only: Sequence[str], n: int, tune: int, state: Path) -> None:
    """Make and keep the pictures of these methods, and score nothing."""
    edits, others = shares(world, n, 0, tune)
    chosen = there(models, {name: METHODS[name] for name in only})
    if missing := [name for name in only if name not in chosen]:
        raise ValueError(
            f"only: {missing[0]} needs a model that is not trained; make emoji-weights trains it"
        )
    for name, (way, settings) in chosen.items():
        _, made = made_by(models, name, way, settings, edits, others, 0, state)
        print(f"{name}: {made.seconds:.0f} s", flush=True)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    a, start = command_line().parse_args(argv), time.monotonic()
    if a.n < 1:
        raise ValueError(f"n: must be at least 1, got {a.n}")
    n, tune, state = (10, 10, Path("runs/quick/emoji_board")) if a.quick else (a.n, TUNE, Path(a.state))
    only, more = (text.split(",") if text else [] for text in (a.only, a.add))
    if wrong := [name for name in (*only, *more) if name not in METHODS]:
        raise ValueError(f"only: {wrong[0]!r} is no method; they are {', '.join(METHODS)}")
    folder = Path("runs/quick") if a.quick else Path(a.models) / "claims" if a.models else RECORDS
    models, world = open_emoji(a.models, a.device), open_world(a.data)
    if only:
        make_only(models, world, only, n, tune, state)
        return 0
    if more:
        known = read_record("emoji")
        write_board(folder, joined(known, models, world, more, folder=state, say=partial(print, flush=True)))
        return 0
    needed = {"emoji.safetensors", "emoji-vae.safetensors"}
    files = {name: of for name, of in models.files.items() if name in needed}
    asked = dict(n=n, most=MOST_BACK, steps=STEPS, w=W_BACK, code=code_of(back), models=files)
    part = Parts(state / "back.json", asked | dict(data=digest(world.pictures)))
    record, sheet = measure(
        models, world, n=n, seed=0, tune=tune, folder=state, part=part, say=partial(print, flush=True)
    )
    head = dict(
        command="python -m palimpsest.claims.emoji",
        model=models.name,
        files=models.files,
        seconds=round(time.monotonic() - start),
    )
    write_board(folder, head | record)
    write_picture(sheet, folder / "emoji_edits.png")
    return 0


def write_board(folder: Path, record: Record) -> None:
    """Write the record into the folder, and the table into the page where the record is the shipped one."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "emoji.json", rounded(record))
    if folder == RECORDS:
        write_table("emoji", "emoji", table(rounded(record)))
    print(table(record))


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
