"""Recipe of emoji-clip: pictures and captions of the emoji world in one space, the judge on its scoreboard.

    make emoji-data                               # once: the pictures, into runs/emoji_data
    python -m palimpsest.training.emoji_clip

Net, loss and figures are those of training/shapes_clip.py; every step draws its emoji and their grounds
anew, held-out ones never. `found` is measured on held-out emoji: how often a picture's own caption is the
nearest among 64. Half of the captions leave style or ground out, so a batch may hold two pictures that a
caption fits; chance rarely draws them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from palimpsest.nets.judges.clip import CLIP
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.training.emoji import LENGTH, read, vocabulary
from palimpsest.training.recipe import command_line, start_from
from palimpsest.training.shapes_clip import CLEAN, ClipArguments, train
from palimpsest.worlds.emoji import Emoji, World, caption, is_held_out, open_world, render, sample_scenes


def drawn(
    world: World, emoji: Sequence[Emoji], tokenizer: WordTokenizer, n: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """n pictures (n 3 64 64) of these emoji on grounds of chance, and the rows of their captions."""
    rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
    scenes = sample_scenes(emoji, n, rng)
    texts = [caption(scene, style=rng.random() > 0.3, background=rng.random() > 0.3) for scene in scenes]
    return render(world, scenes), read(tokenizer, texts, rng)


@dataclass(frozen=True)
class Arguments(ClipArguments):
    """What a run of this recipe can be asked for."""

    recipe = "emoji_clip"
    name: str = "emoji-clip"
    data: str = "runs/emoji_data"  # the pictures


def main(given: Arguments) -> None:
    world = open_world(given.data)
    tokenizer = WordTokenizer(vocabulary(world), LENGTH)
    config = CLEAN | dict(length=LENGTH, vocab=tokenizer.vocab_size, end=tokenizer.end)
    torch.manual_seed(given.seed)
    net = CLIP(**config)
    earlier = start_from(given.init, {"clip": net})
    known, unseen = ([e for e in world.emoji if is_held_out(e) == held] for held in (False, True))
    train(
        given,
        net,
        dict(kind="clip", clip=config, words=tokenizer.words),
        lambda n, g: drawn(world, known, tokenizer, n, g),
        lambda n, g: drawn(world, unseen, tokenizer, n, g),
        earlier,
    )


if __name__ == "__main__":
    command_line(main, Arguments)
