"""Pairs of pictures for InstructPix2Pix: painted by Prompt-to-Prompt, sorted out by CLIP.

    python -m palimpsest.training.pairs --triplets weights/triplets.jsonl --out runs/pairs
    torchrun --nproc-per-node 2 -m palimpsest.training.pairs --out runs/pairs  # they share the triplets
    python -m palimpsest.training.shapes_instruct --pairs runs/pairs # and trained on

"InstructPix2Pix", arXiv:2211.09800v2, Sec. 3.1: for each (caption, instruction, edited caption) a
text-to-picture model paints several pairs with shared attention in a fraction p ~ U(.1, .9) of the steps;
those are kept whose pictures are alike, fit their captions and differ as the captions do, by CLIP's
cosines, and of these the four that differ best. `how` says what is shared: "cross" is Prompt-to-Prompt as
published (cross-attention for p of the steps, self-attention for half as many), "self" what the official
code does (self-attention alone).

The paper's thresholds (.75, .2, .2) are ViT-L/14's. # ours: for another CLIP those that nine of ten
*true* edits pass, each by itself. Painted and judged triplets stand in OUT/scores-RANK.jsonl, so a run
that was stopped goes on with the batch that was not done. The batches are the same whoever paints them
and however often it was stopped, and so are the bits. Each kept pair is a folder with before.png,
after.png and instruction.txt; kept.png and dropped.png show some of either; summary.json counts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from palimpsest.arguments import Count, Rounds, Scale, Seed, check
from palimpsest.fit.processes import rank_and_world
from palimpsest.methods.prompt_to_prompt import Injection, prompt_to_prompt
from palimpsest.metrics.similarity import cosine, directional
from palimpsest.nets.tokenizer import Tokenizer
from palimpsest.outputs import write_text
from palimpsest.training.recipe import Switch, command_line
from palimpsest.weights.files import sha256, write_json
from palimpsest.weights.judges import Judge, Oracle, load_judge, load_reader
from palimpsest.weights.load import find, load, own_device
from palimpsest.weights.model import Model
from palimpsest.worlds.files import contact_sheet, write_picture
from palimpsest.worlds.scene import Scene
from palimpsest.worlds.shapes import apply, caption, edits, render, sample_scene
from palimpsest.worlds.triplets import Triplet, read_triplets
from palimpsest.worlds.words import wanted

N_TRUE = 512  # true edits that say where the thresholds are
MOST = 4  # pairs of one triplet that are kept   # Sec. 3.1.2
SHARE = 0.9  # of true edits that pass each threshold
P = (0.1, 0.9)  # Sec. 3.1.2
HOW = ("cross", "self")
KEPT = {"kept": True, "dropped": False}

Row = tuple[int, int, Triplet]  # a triplet's number, which sample of it, and the triplet


class Scores(NamedTuple):
    """What CLIP says of one pair: cosines."""

    image: float  # of the two pictures
    direction: float  # of the way the pictures went with the way the captions went
    before: float  # of the first picture with its caption
    after: float  # of the second

    def passes(self, least: Scores) -> bool:
        """Whether every one reaches its threshold."""
        return all(mine >= theirs for mine, theirs in zip(self, least))


PAPER = Scores(0.75, 0.2, 0.2, 0.2)  # of ViT-L/14; the official program's own default for the first is .7


@torch.no_grad()
def scored(
    judge: Judge, before: Tensor, after: Tensor, texts: Sequence[str], new_texts: Sequence[str]
) -> list[Scores]:
    """Of b pairs (b 3 y x) with their captions."""
    x, y, c, d = judge.images(before), judge.images(after), judge.texts(texts), judge.texts(new_texts)
    return [
        Scores(*row)
        for row in torch.stack(
            [cosine(x, y), directional(x, y, c, d), cosine(x, c), cosine(y, d)], dim=1
        ).tolist()
    ]


def best(scores: Sequence[Scores], least: Scores | None, most: int = MOST) -> list[int]:
    """Which of one triplet's pairs are kept: those that pass, the best direction first, so many at most.
    # official code

    least: None keeps the first, whatever CLIP says of them.
    """
    if least is None:
        return list(range(len(scores)))[:most]
    passing = [k for k, s in enumerate(scores) if s.passes(least)]
    return sorted(passing, key=lambda k: -scores[k].direction)[:most]


Told = tuple[Tensor, Tensor, list[str], list[str]]  # pictures before and after (b 3 y x), and their captions


def true_edits(n: int, seed: int) -> Iterator[Told]:
    """n edits of the shapes world, 64 at a time."""
    rng, drawn = random.Random(f"thresholds {seed}"), []
    while len(drawn) < n:
        scene: Scene = sample_scene(rng)
        options = edits(scene)
        if options:
            after = apply(scene, rng.choice(options))
            if caption(after) != caption(scene):
                drawn.append((scene, after))
    for i in range(0, n, 64):
        before, after = zip(*drawn[i : i + 64])
        yield render(list(before)), render(list(after)), [*map(caption, before)], [*map(caption, after)]


def thresholds(judge: Judge, true: Iterable[Told], share: float = SHARE) -> Scores:
    """Those that the share of true edits pass, each by itself."""
    rows = [row for told in true for row in scored(judge, *told)]
    return Scores(*torch.tensor(rows).quantile(1 - share, dim=0).tolist())


def shared(i: int, k: int, seed: int) -> float:
    """p of sample k of triplet i, whatever the batch or the process."""
    return random.Random(f"p {seed} {i} {k}").uniform(*P)


def painted(
    model: Model, rows: Sequence[Row], how: str, steps: int, w: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Pictures before and after, one pair for each row."""
    p = [shared(i, k, seed) for i, k, _ in rows]
    injections = [
        Injection(cross=v, self_=v / 2) if how == "cross" else Injection(cross=0.0, self_=v) for v in p
    ]
    made = prompt_to_prompt(
        model,
        [t.caption for _, _, t in rows],
        [t.edited for _, _, t in rows],
        injection=injections,
        steps=steps,
        w=w,
        seed=[seed + 1_000 * i + k for i, k, _ in rows],
    )
    return made.source_picture.clamp(-1, 1), made.raw.clamp(-1, 1)


# --------------------------------------------------------------------------- the folder


def done(out: Path, identity: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """What earlier runs left, by triplet. Raises ValueError for a folder of other settings. A line cut
    short is as if not there.
    """
    found: dict[int, list[dict[str, Any]]] = {}
    for file in sorted(out.glob("scores-*.jsonl")):
        first, *rows = lines(file) or [None]
        if first is None:  # cut short in its first line: nothing is in it
            continue
        if first != identity:
            names = ", ".join(k for k in identity if first.get(k) != identity[k])
            raise ValueError(
                f"out: {out} was begun with other settings ({names}); give another folder, or remove it"
            )
        found |= {row["triplet"]: row["samples"] for row in rows if row is not None}
    return found


def lines(file: Path) -> list[dict[str, Any] | None]:
    """The lines of a file, None for one that was cut short."""
    found: list[dict[str, Any] | None] = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        found.append(row if isinstance(row, dict) else None)
    return found


def begin(file: Path, identity: dict[str, Any]) -> None:
    """A file with the settings in its first line, if it has not got them."""
    if not file.exists() or (lines(file) or [None])[0] is None:
        write_text(file, json.dumps(identity) + "\n")


def append(file: Path, row: dict[str, Any]) -> None:
    """One more line; what a stopped run left half-written is closed first."""
    torn = not file.read_bytes().endswith(b"\n")
    with open(file, "a", encoding="utf-8") as f:
        f.write(("\n" if torn else "") + json.dumps(row) + "\n")


def check_triplets(path: str, wishes: Sequence[Triplet], tokenizers: Sequence[Tokenizer], read: bool) -> None:
    """Raises ValueError that names the first line which cannot be painted or judged: before hours of
    work, not after them.
    """
    if not wishes:
        raise ValueError(
            f"triplets: {path} holds none; write some with python -m palimpsest.training.shapes_language "
            f"--sample 4000"
        )
    for number, t in enumerate(wishes, 1):
        try:
            for tokenizer in tokenizers:
                tokenizer([*t])
            if read:
                wanted(t.caption), wanted(t.edited)
        except ValueError as error:
            raise ValueError(f"triplets: {path}, line {number}: {error}") from None
        if t.caption == t.edited:
            raise ValueError(
                f"triplets: {path}, line {number}: both captions are {t.caption!r}, which asks for no edit; "
                f"leave it out"
            )


@dataclass(frozen=True)
class PaintArguments:
    """What pairs, of any world, are painted with."""

    out: str = "runs/pairs"  # a folder
    samples: Count = 4  # pictures that are painted of each wish
    most: Count = MOST  # pairs that are kept of each wish
    how: Literal[HOW] = "cross"
    steps: Count = 20
    w: Scale = 3.0
    batch: Count = 16
    unfiltered: Switch = 0  # 1: CLIP does not choose
    seed: Seed = 0
    model: str = "shapes"  # what paints
    clip: str = "shapes-clip"  # what chooses
    device: str = "auto"

    def __post_init__(self) -> None:
        check(type(self), vars(self))

    def identity(self, triplets: str) -> dict[str, Any]:
        """What makes these pairs the pairs they are; triplets: the hash of the wishes."""
        asked = ("samples", "most", "how", "steps", "w", "unfiltered", "seed")
        nets = dict(model=sha256(find(self.model)), clip=sha256(find(self.clip)))
        return dict(triplets=triplets) | {name: getattr(self, name) for name in asked} | nets


@dataclass(frozen=True)
class Arguments(PaintArguments):
    """What the pairs of the shapes world are painted with."""

    triplets: str = "weights/triplets.jsonl"  # a file of wishes
    limit: Rounds = 0  # paint only so many of them; 0: all
    reader: str = "shapes-reader"  # what reads the truth off the pairs, for the record alone; "": nothing


def main(given: Arguments) -> None:
    on, wishes = own_device(given.device), read_triplets(given.triplets)[: given.limit or None]
    painter, judge = load(given.model, on, torch.float32), load_judge(given.clip, on)
    oracle = load_reader(given.reader, on) if given.reader else None
    check_triplets(given.triplets, wishes, (painter.tokenizer, judge.tokenizer), read=oracle is not None)
    paint(
        (painter, judge, oracle),
        wishes,
        given.identity(sha256(given.triplets)),
        lambda: true_edits(N_TRUE, 0),
        Path(given.out),
        given.batch,
        on,
    )


def paint(
    models: tuple[Model, Judge, Oracle | None],
    wishes: Sequence[Triplet],
    identity: dict[str, Any],
    true: Callable[[], Iterable[Told]],
    folder: Path,
    batch: int,
    on: torch.device,
) -> None:
    """Paint pairs of each wish, keep the best in `folder`, and count them.

    identity: what else these pairs are the pairs of, the settings among it; true: edits whose share SHARE
    each threshold lets pass."""
    (model, judge, oracle), (rank, world) = models, rank_and_world()
    samples, most, how, steps, w, unfiltered, seed = (
        identity[k] for k in ("samples", "most", "how", "steps", "w", "unfiltered", "seed")
    )
    earlier = done(folder, identity)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"scores-{rank}.jsonl"
    begin(file, identity)
    least = None if unfiltered else thresholds(judge, true())
    batches = [range(i, min(i + batch, len(wishes))) for i in range(0, len(wishes), batch)][rank::world]
    for some in tqdm(
        [some for some in batches if not earlier.keys() >= set(some)], unit="batch", disable=rank > 0
    ):
        rows = [(i, k, wishes[i]) for i in some for k in range(samples)]
        parts = [painted(model, rows[j : j + batch], how, steps, w, seed) for j in range(0, len(rows), batch)]
        before, after = (torch.cat(column).cpu() for column in zip(*parts))
        scores = scored(
            judge, before.to(on), after.to(on), [t.caption for *_, t in rows], [t.edited for *_, t in rows]
        )
        right = told_right(oracle, before, after, rows)
        kept = [best(scores[n * samples : (n + 1) * samples], least, most) for n in range(len(some))]
        if some[0] == 0:
            sheets(folder, before, after, rows, kept)
        for n, i in enumerate(some):
            if i in earlier:  # of a batch in which a run was stopped
                continue
            mine = slice(n * samples, (n + 1) * samples)
            for rung, k in enumerate(kept[n]):
                keep(
                    folder / f"{i:06d}-{rung}",
                    before[mine][k : k + 1],
                    after[mine][k : k + 1],
                    wishes[i].instruction,
                )
            append(
                file,
                dict(
                    triplet=i,
                    samples=[
                        dict(s._asdict(), p=shared(i, k, seed), kept=k in kept[n], right=right[mine][k])
                        for k, s in enumerate(scores[mine])
                    ],
                ),
            )
    print(summary(folder, identity, least, len(wishes)))  # of two processes the later one has it all


def told_right(
    oracle: Oracle | None, before: Tensor, after: Tensor, rows: Sequence[Row]
) -> list[bool | None]:
    """Whether both pictures show what their captions say: the truth, which CLIP has to guess. None
    without a reader.
    """
    if oracle is None:
        return [None] * len(rows)
    first = oracle.right(before, [wanted(t.caption) for *_, t in rows])
    return (first & oracle.right(after, [wanted(t.edited) for *_, t in rows])).tolist()


def keep(place: Path, before: Tensor, after: Tensor, instruction: str) -> None:
    """One pair, as training/shapes_instruct.py reads it."""
    place.mkdir(exist_ok=True)
    write_picture(before, place / "before.png")
    write_picture(after, place / "after.png")
    write_text(place / "instruction.txt", instruction + "\n")


def sheets(
    folder: Path,
    before: Tensor,
    after: Tensor,
    rows: Sequence[Row],
    kept: Sequence[Sequence[int]],
    most: int = 8,
) -> None:
    """kept.png and dropped.png: some pairs of the first batch of either kind, each under its instruction."""
    samples = len(rows) // len(kept)
    for name, wish in KEPT.items():
        chosen = [j for j in range(len(rows)) if (j % samples in kept[j // samples]) == wish][:most]
        if chosen:
            write_picture(
                contact_sheet(
                    [[before[j : j + 1] for j in chosen], [after[j : j + 1] for j in chosen]],
                    ["before", "after"],
                    [rows[j][2].instruction for j in chosen],
                    scale=2,
                ),
                folder / f"{name}.png",
            )


def summary(folder: Path, identity: dict[str, Any], least: Scores | None, n: int) -> str:
    """Write summary.json: what was painted, kept, and in truth right, of the triplets so far."""
    found = done(folder, identity)
    rows = [s for samples in found.values() for s in samples]
    told = {
        name: [s["right"] for s in rows if s["right"] is not None and s["kept"] == kept]
        for name, kept in KEPT.items()
    }
    right = {name: sum(v) / len(v) if v else None for name, v in told.items()}
    about = dict(
        triplets=len(found),
        of=n,
        pairs=len(rows),
        kept=sum(s["kept"] for s in rows),
        thresholds=None if least is None else least._asdict(),
        right=right,
        settings=identity,
    )
    write_json(folder / "summary.json", about)
    bars = (
        "no thresholds"
        if least is None
        else f"thresholds {', '.join(f'{k} {v:.2f}' for k, v in least._asdict().items())}"
    )
    truth = ", ".join(f"{name} {v:.0%}" for name, v in right.items() if v is not None)
    return f"{folder}: {len(found)} of {n} triplets, {about['kept']} of {len(rows)} pairs kept ({bars})" + (
        f"; both pictures right: {truth}" if truth else ""
    )


if __name__ == "__main__":
    command_line(main, Arguments)
