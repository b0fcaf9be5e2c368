"""Recipe of emoji-instruct: edits of emoji by instruction, from pictures that artists drew before and after.

    make emoji-data                                              # once: the pictures, into runs/emoji_data
    python -m palimpsest.training.emoji_instruct                 # true pairs
    python -m palimpsest.training.emoji_instruct --pairs FOLDER  # and those that training.emoji_pairs painted

Loss, dropout and the widened net are those of training/shapes_instruct.py, begun from `emoji`; one
instruction in ten has one of its words spelled, as its captions had. True pairs are those of
worlds/emoji.py of which both pictures are trained on, `n` of them, each on a background drawn for it and
encoded once, in float16: the default is 320 MB. There are 15,630 changes of skin tone and 144 of a
number; a kind is drawn as often as the square root of how many pairs it has."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from palimpsest.arguments import Count
from palimpsest.fit.ahead import step_generator
from palimpsest.fit.processes import rank_and_world
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.training.emoji import LENGTH, NET, models, read, vocabulary
from palimpsest.training.recipe import command_line
from palimpsest.training.shapes import encode_all
from palimpsest.training.shapes_instruct import (
    InstructArguments,
    Pairs,
    condition_scale,
    pairs_of,
    train,
    widened,
)
from palimpsest.weights.load import load_autoencoder
from palimpsest.weights.model import Autoencoder
from palimpsest.worlds.emoji import Pair, World, elsewhere, open_world, pairs, render


def draw_pairs(world: World, n: int, rng: random.Random) -> list[Pair]:
    """n of the true pairs for training, each on a background of its own, the rarer kinds more often than
    there are pairs of them.
    """
    once = pairs(world, rng, held_out=False)
    many = Counter(pair.kind for pair in once)
    return [
        elsewhere(pair, rng) for pair in rng.choices(once, [many[pair.kind] ** -0.5 for pair in once], k=n)
    ]


def encoded(vae: Autoencoder, world: World, drawn: list[Pair], workers: int = 0) -> Pairs:
    """The latents of pairs in float16, drawn by `workers` processes, and what was asked for."""
    before, after = (
        encode_all(vae, scenes, lambda part: render(world, part), workers).half()
        for scenes in ([p.before for p in drawn], [p.after for p in drawn])
    )
    return before, after, [p.instruction for p in drawn]


def read_some(tokenizer: WordTokenizer, texts: list[str], generator: Generator) -> Tensor:
    """The rows of instructions, one in ten with a word spelled."""
    return read(tokenizer, texts, random.Random(int(torch.randint(2**62, (), generator=generator))))


@dataclass(frozen=True)
class Arguments(InstructArguments):
    """What a run of this recipe can be asked for."""

    recipe = "emoji_instruct"
    name: str = "emoji-instruct"
    steps: Count = 8000
    batch: Count = 64
    n: Count = 40000
    data: str = "runs/emoji_data"  # the pictures
    vae: str = "emoji-vae"
    init: str = "weights/emoji.safetensors"


def main(given: Arguments) -> None:
    rank, many = rank_and_world()
    world, autoencoder = open_world(given.data), load_autoencoder(given.vae, given.on)
    generator = step_generator(given.seed, given.steps, rank)
    rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
    torch.manual_seed(given.seed)  # the initial weights, alike on every rank
    model = widened(models(NET, LENGTH, vocabulary(world)), given.init)
    known = encoded(autoencoder, world, draw_pairs(world, given.n // many, rng), given.workers)
    count = given.n // many * many
    if given.pairs:
        theirs = pairs_of(given.pairs, autoencoder, 64, model[1], given.workers)
        known = *(torch.cat([a, b.half()]) for a, b in zip(known[:2], theirs[:2])), known[2] + theirs[2]
        count += len(theirs[2])
    train(given, model, known, scale=condition_scale(autoencoder), count=count, read=read_some)


if __name__ == "__main__":
    command_line(main, Arguments)
