"""Pairs of pictures for InstructPix2Pix: painted by Prompt-to-Prompt, sorted out by CLIP.

    python -m training.pairs --triplets weights/triplets.jsonl --out runs/pairs
    torchrun --nproc-per-node 2 -m training.pairs --out runs/pairs                     # triplets are shared out among the processes
    python -m training.shapes_instruct --pairs runs/pairs                              # and trained on

"InstructPix2Pix", arXiv:2211.09800v2, Sec. 3.1: for each (caption, instruction, edited caption) a text-to-picture model paints several
pairs with shared attention in a fraction p ~ U(.1, .9) of the steps; those are kept whose pictures are alike, fit their captions and differ
as the captions do, by CLIP's cosines, and of these the four that differ best. `how` says what is shared: "cross" is Prompt-to-Prompt as
published (cross-attention for p of the steps, self-attention for half as many), "self" what the official code does (self-attention alone).

The paper's thresholds (.75, .2, .2) are ViT-L/14's. # ours: for another CLIP those that nine of ten *true* edits pass, each by itself.
Painted and judged triplets stand in OUT/scores-RANK.jsonl, so a run that was stopped goes on after the last; each kept pair is a folder
with before.png, after.png and instruction.txt; kept.png and dropped.png show some of either; summary.json counts.
"""
from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from methods.prompt_to_prompt import prompt_to_prompt
from metrics.similarity import cosine, directional
from training.fit import rank_and_world
from training.recipe import command_line, own_device
from weights import Bundle, Oracle, find, load, load_reader
from weights.files import sha256, write_json
from weights.judges import Judge, load_judge
from worlds.files import contact_sheet, write_picture
from worlds.scene import Scene
from worlds.shapes import apply, caption, edits, render, sample_scene
from worlds.triplets import Triplet, read_triplets
from worlds.words import wanted

MOST = 4                                         # pairs of one triplet that are kept   # Sec. 3.1.2
SHARE = .9                                       # of true edits that pass each threshold
P = (.1, .9)                                     # Sec. 3.1.2
HOW = ("cross", "self")
KEPT = {"kept": True, "dropped": False}

Row = tuple[int, int, Triplet]                   # a triplet's number, which sample of it, and the triplet


class Scores(NamedTuple):
    """What CLIP says of one pair: cosines."""
    image: float                                 # of the two pictures
    direction: float                             # of the way the pictures went with the way the captions went
    before: float                                # of the first picture with its caption
    after: float                                 # of the second

    def passes(self, least: Scores) -> bool:
        """Whether every one reaches its threshold."""
        return all(mine >= theirs for mine, theirs in zip(self, least))


PAPER = Scores(.75, .2, .2, .2)                  # of ViT-L/14; the official program's own default for the first is .7


def scored(judge: Judge, before: Tensor, after: Tensor, texts: Sequence[str], new_texts: Sequence[str]) -> list[Scores]:
    """Of b pairs (b 3 y x) with their captions."""
    x, y, c, d = judge.images(before).detach(), judge.images(after).detach(), judge.texts(texts), judge.texts(new_texts)
    return [Scores(*row) for row in torch.stack([cosine(x, y), directional(x, y, c, d), cosine(x, c), cosine(y, d)], dim=1).tolist()]


def best(scores: Sequence[Scores], least: Scores, most: int = MOST) -> list[int]:
    """Which of one triplet's pairs are kept: those that pass, the best direction first, so many at most. # official code"""
    passing = [k for k, s in enumerate(scores) if s.passes(least)]
    return sorted(passing, key=lambda k: -scores[k].direction)[:most]


def thresholds(judge: Judge, n: int = 512, share: float = SHARE, seed: int = 0) -> Scores:
    """Those that the share of true edits of this world pass, each by itself."""
    rng, drawn = random.Random(f"thresholds {seed}"), []
    while len(drawn) < n:
        scene: Scene = sample_scene(rng)
        options = edits(scene)
        if options:
            after = apply(scene, rng.choice(options))
            if caption(after) != caption(scene):
                drawn.append((scene, after))
    rows = []
    for i in range(0, n, 64):
        before, after = zip(*drawn[i:i + 64])
        rows += scored(judge, render(list(before)), render(list(after)), [*map(caption, before)], [*map(caption, after)])
    return Scores(*torch.tensor(rows).quantile(1 - share, dim=0).tolist())


def shared(i: int, k: int, seed: int) -> float:
    """p of sample k of triplet i, whatever the batch or the process."""
    return random.Random(f"p {seed} {i} {k}").uniform(*P)


def painted(b: Bundle, rows: Sequence[Row], how: str, steps: int, w: float, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures before and after, one pair for each row."""
    p = [shared(i, k, seed) for i, k, _ in rows]
    cross, self_ = (p, [v / 2 for v in p]) if how == "cross" else ([0.] * len(p), p)
    made = prompt_to_prompt(b, [t.caption for _, _, t in rows], [t.edited for _, _, t in rows], cross=cross, self_=self_, steps=steps, w=w,
                            seed=[seed + 1_000 * i + k for i, k, _ in rows])
    return made.source_picture.clamp(-1, 1), made.raw.clamp(-1, 1)


# --------------------------------------------------------------------------- the folder

def done(out: Path, identity: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """What earlier runs left, by triplet. Raises ValueError for a folder of other settings. A line cut short is as if not there."""
    found: dict[int, list[dict[str, Any]]] = {}
    for file in sorted(out.glob("scores-*.jsonl")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines()):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if number == 0:
                if row != identity:
                    names = ", ".join(k for k in identity if row.get(k) != identity[k])
                    raise ValueError(f"out: {out} was begun with other settings ({names}); give another folder, or remove it")
            else:
                found[row["triplet"]] = row["samples"]
    return found


def append(file: Path, row: dict[str, Any]) -> None:
    """One more line; what a stopped run left half-written is closed first."""
    torn = file.exists() and file.stat().st_size and not file.read_bytes().endswith(b"\n")
    with open(file, "a", encoding="utf-8") as f:
        f.write(("\n" if torn else "") + json.dumps(row) + "\n")


def main(*, triplets: str = "weights/triplets.jsonl", out: str = "runs/pairs", samples: int = 4, most: int = MOST, how: str = "cross",
         steps: int = 20, w: float = 3., batch: int = 16, limit: int = 0, unfiltered: int = 0, seed: int = 0, model: str = "shapes",
         clip: str = "shapes-clip", reader: str = "shapes-reader", device: str = "auto") -> None:
    (rank, world), on, folder = rank_and_world(), own_device(device), Path(out)
    if how not in HOW or samples < 1 or most < 1 or batch < 1:
        raise ValueError(f"how: must be one of {', '.join(HOW)}, and samples, most and batch at least 1; got {how!r}, {samples}, {most}, "
                         f"{batch}")
    wishes = read_triplets(triplets)[:limit or None]
    b, judge, oracle = load(model, on, torch.float32), load_judge(clip, on), load_reader(reader, on) if reader else None
    least = Scores(-1., -1., -1., -1.) if unfiltered else thresholds(judge)
    identity = dict(triplets=sha256(triplets), samples=samples, most=most, how=how, steps=steps, w=w, unfiltered=unfiltered, seed=seed,
                    model=sha256(find(model)), clip=sha256(find(clip)))
    folder.mkdir(parents=True, exist_ok=True)
    earlier = done(folder, identity)
    file = folder / f"scores-{rank}.jsonl"
    if not file.exists():
        append(file, identity)
    waiting = [i for i in range(rank, len(wishes), world) if i not in earlier]
    for start in tqdm(range(0, len(waiting), batch), unit="batch", disable=rank > 0):
        some = waiting[start:start + batch]
        rows = [(i, k, wishes[i]) for i in some for k in range(samples)]
        parts = [painted(b, rows[j:j + batch], how, steps, w, seed) for j in range(0, len(rows), batch)]
        before, after = (torch.cat(column).cpu() for column in zip(*parts))
        scores = scored(judge, before.to(on), after.to(on), [t.caption for *_, t in rows], [t.edited for *_, t in rows])
        right = told_right(oracle, before, after, rows)
        for n, i in enumerate(some):
            mine = slice(n * samples, (n + 1) * samples)
            kept = best(scores[mine], least, most)
            for rung, k in enumerate(kept):
                keep(folder / f"{i:06d}-{rung}", before[mine][k:k + 1], after[mine][k:k + 1], wishes[i].instruction)
            append(file, dict(triplet=i, samples=[dict(s._asdict(), p=shared(i, k, seed), kept=k in kept, right=right[mine][k])
                                                  for k, s in enumerate(scores[mine])]))
        if start == 0 and rank == 0 and not earlier:
            sheets(folder, before, after, rows, [best(scores[n * samples:(n + 1) * samples], least, most) for n in range(len(some))])
    print(summary(folder, identity, least, len(wishes)))                   # of two processes the later one has it all


def told_right(oracle: Oracle | None, before: Tensor, after: Tensor, rows: Sequence[Row]) -> list[bool | None]:
    """Whether both pictures show what their captions say: the truth, which CLIP has to guess. None without a reader."""
    if oracle is None:
        return [None] * len(rows)
    first, then = [wanted(t.caption) for *_, t in rows], [wanted(t.edited) for *_, t in rows]
    return (oracle.right(before, first) & oracle.right(after, then)).tolist()


def keep(place: Path, before: Tensor, after: Tensor, instruction: str) -> None:
    """One pair, as training/shapes_instruct.py reads it."""
    place.mkdir(exist_ok=True)
    write_picture(before, place / "before.png")
    write_picture(after, place / "after.png")
    (place / "instruction.txt").write_text(instruction + "\n", encoding="utf-8")


def sheets(folder: Path, before: Tensor, after: Tensor, rows: Sequence[Row], kept: Sequence[Sequence[int]], most: int = 8) -> None:
    """kept.png and dropped.png: some pairs of the first batch of either kind, each under its instruction."""
    samples = len(rows) // len(kept)
    for name, wish in KEPT.items():
        chosen = [j for j in range(len(rows)) if (j % samples in kept[j // samples]) == wish][:most]
        if chosen:
            write_picture(contact_sheet([[before[j:j + 1] for j in chosen], [after[j:j + 1] for j in chosen]], ["before", "after"],
                                        [rows[j][2].instruction for j in chosen], scale=2), folder / f"{name}.png")


def summary(folder: Path, identity: dict[str, Any], least: Scores, n: int) -> str:
    """Write summary.json: what was painted, kept, and in truth right, of the triplets so far."""
    rows = [s for samples in done(folder, identity).values() for s in samples]
    told = {name: [s["right"] for s in rows if s["right"] is not None and s["kept"] == kept] for name, kept in KEPT.items()}
    right = {name: sum(v) / len(v) if v else None for name, v in told.items()}
    about = dict(triplets=len(done(folder, identity)), of=n, pairs=len(rows), kept=sum(s["kept"] for s in rows),
                 thresholds=least._asdict(), right=right, settings=identity)
    write_json(folder / "summary.json", about)
    said = ", ".join(f"{name} {v:.0%}" for name, v in right.items() if v is not None)
    return (f"{folder}: {about['triplets']} of {n} triplets, {about['kept']} of {len(rows)} pairs kept (thresholds "
            f"{', '.join(f'{k} {v:.2f}' for k, v in least._asdict().items())}); both pictures right: {said}")


if __name__ == "__main__":
    command_line(main)
