"""Pairs of emoji for InstructPix2Pix, painted by `emoji`: what the paper does where nobody drew the
picture after the edit.

    make emoji-data                                       # once: the pictures, into runs/emoji_data
    python -m palimpsest.training.emoji_pairs --n 1000               # into runs/emoji_pairs
    python -m palimpsest.training.emoji_instruct --pairs runs/emoji_pairs

The wishes are the captions and the instruction of true edits for training; no picture of theirs is looked
at. Painting, sorting by emoji-clip and what is written are those of training/pairs.py. A threshold is
what nine of ten true edits for training pass."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from palimpsest.arguments import Count
from palimpsest.training.emoji_instruct import draw_pairs
from palimpsest.training.pairs import N_TRUE, PaintArguments, Told, paint
from palimpsest.training.recipe import command_line
from palimpsest.weights.judges import load_judge
from palimpsest.weights.load import load, own_device
from palimpsest.worlds.emoji import Pair, World, caption, open_world, render
from palimpsest.worlds.triplets import Triplet, text_of


def wishes_of(world: World, n: int, rng: random.Random) -> list[Triplet]:
    """n different wishes, the kinds as often as training/emoji_instruct.py draws them; fewer where the
    world has not so many.
    """
    found: dict[Triplet, None] = {}  # a dictionary keeps the order
    for _ in range(10):
        for p in draw_pairs(world, n, rng):
            if caption(p.before) != caption(p.after):
                found[Triplet(caption(p.before), p.instruction, caption(p.after))] = None
        if len(found) >= n:
            break
    return list(found)[:n]


def true_edits(world: World, drawn: Sequence[Pair]) -> Iterator[Told]:
    """Pictures and captions of true edits, 64 at a time."""
    for i in range(0, len(drawn), 64):
        some = drawn[i : i + 64]
        scenes = [p.before for p in some], [p.after for p in some]
        yield *(render(world, s) for s in scenes), *([*map(caption, s)] for s in scenes)


@dataclass(frozen=True)
class Arguments(PaintArguments):
    """What the pairs of the emoji world are painted with."""

    n: Count = 1000  # wishes
    out: str = "runs/emoji_pairs"
    data: str = "runs/emoji_data"  # the pictures
    model: str = "emoji"
    clip: str = "emoji-clip"


def main(given: Arguments) -> None:
    on, world = own_device(given.device), open_world(given.data)
    wishes = wishes_of(world, given.n, random.Random(f"wishes {given.seed}"))
    said = hashlib.sha256("\n".join(map(text_of, wishes)).encode()).hexdigest()
    paint(
        (load(given.model, on, torch.float32), load_judge(given.clip, on), None),
        wishes,
        given.identity(said),
        lambda: true_edits(world, draw_pairs(world, N_TRUE, random.Random("thresholds"))),
        Path(given.out),
        given.batch,
        on,
    )


if __name__ == "__main__":
    command_line(main, Arguments)
