"""Recipe of emoji: the text encoder and the U-Net of the emoji world, trained together in the latents of
emoji-vae.

    make emoji-data                               # once: the pictures, into runs/emoji_data
    python -m palimpsest.training.emoji --precision bfloat16 --compiled 1

Loss, times and the empty caption are those of training/shapes.py. Held-out pictures (worlds/emoji.py) are
never drawn. `scenes` emoji on backgrounds are drawn and encoded once, and kept in float16: the default is
eight of each picture, and 250 MB.

Tokenizer: the names have 1,431 different words, 1,446 with all that captions and instructions say
besides; a caption takes 28 tokens at the most. So each word has a token of its own, as in the shapes
world, a map of attention is that of a word, and embeddings are 0.3 of 10 million weights. CLIP's byte
pairs would cut "noto" and "twemoji" into pieces, and their list of merges is a file that a reader may not
have. What a reader types that no emoji is called is spelled, letter by letter (nets/tokenizer.LETTERS);
that the net learns what letters spell, one caption in ten has one of its words spelled. Two thirds of the
words name a single emoji, so spelling is all that a misspelt one has."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from palimpsest.arguments import Count
from palimpsest.fit.ahead import step_generator
from palimpsest.fit.processes import rank_and_world
from palimpsest.nets.tokenizer import LETTERS, WordTokenizer, split_words
from palimpsest.training.recipe import command_line, start_from
from palimpsest.training.shapes import PainterArguments, encode_all, models, train
from palimpsest.weights.load import load_autoencoder
from palimpsest.worlds.emoji import (
    Scene,
    World,
    caption,
    is_held_out,
    open_world,
    render,
    sample_scenes,
    texts,
)
from palimpsest.worlds.scene import RARE_WORDS

NET = dict(
    in_channels=8,
    out_channels=8,
    width=64,
    mult=(1, 2, 3),
    blocks=1,
    attention=(True, True, False),
    heads=4,
    ctx_width=192,
    norm_groups=8,
)
LENGTH = 32


def vocabulary(world: World) -> list[str]:
    """Every word of the world's captions and instructions, words that mean nothing yet, and the letters
    for all others.
    """
    return [*sorted({word for text in texts(world) for word in split_words(text)}), *RARE_WORDS, *LETTERS]


def told(scene: Scene, rng: random.Random) -> str:
    """A caption as a person would give it: empty one time in ten, else without style or background now
    and then.
    """
    return (
        ""
        if rng.random() < 0.1
        else caption(scene, style=rng.random() > 0.15, background=rng.random() > 0.15)
    )


def read(tokenizer: WordTokenizer, texts: list[str], rng: random.Random) -> Tensor:
    """The rows of texts (b l); in one of ten a word is spelled, as long as there is room."""
    rows = []
    for text in texts:
        words = [word for word in split_words(text) if word.isalnum()]
        spelled = tokenizer.forgetting([rng.choice(words)]) if words and rng.random() < 0.1 else tokenizer
        fits = len(spelled.encode(text)) <= tokenizer.length
        rows.append((spelled if fits else tokenizer)([text]))
    return torch.cat(rows)


@dataclass(frozen=True)
class Arguments(PainterArguments):
    """What a run of this recipe can be asked for."""

    recipe = "emoji"
    name: str = "emoji"
    steps: Count = 20000
    batch: Count = 64
    scenes: Count = 60000  # made and encoded once
    data: str = "runs/emoji_data"  # the pictures
    vae: str = "emoji-vae"


def main(given: Arguments) -> None:
    (rank, many), world = rank_and_world(), open_world(given.data)
    generator = step_generator(given.seed, given.steps, rank)
    rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
    known = sample_scenes([e for e in world.emoji if not is_held_out(e)], given.scenes // many, rng)
    vae = load_autoencoder(given.vae, given.on)
    latents = encode_all(vae, known, lambda part: render(world, part), given.workers).half()
    torch.manual_seed(given.seed)  # the initial weights, alike on every rank
    modules, tokenizer, config = models(NET, LENGTH, vocabulary(world))
    earlier = start_from(given.init, dict(modules))

    def draw(step: int, generator: Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(known), (given.share,), generator=generator)
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        tokens = read(tokenizer, [told(known[i], rng) for i in rows.tolist()], rng)
        return latents[rows].float().to(memory_format=torch.channels_last), tokens

    train(given, modules, draw, config, earlier)


if __name__ == "__main__":
    command_line(main, Arguments)
