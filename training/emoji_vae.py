"""Recipe of emoji-vae: the autoencoder of the emoji world, 64×64×3 -> 16×16×8, as that of shapes-vae and
with its loss.

    make emoji-data                                   # once: the pictures, into runs/emoji_data
    python -m palimpsest.training.emoji_vae                      # one process
    torchrun --nproc-per-node 2 -m palimpsest.training.emoji_vae

Half as wide again as shapes-vae: artists draw finer than our shapes. It is measured on the pictures that
are held out of training."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from palimpsest.arguments import Count
from palimpsest.training.recipe import command_line
from palimpsest.training.shapes_vae import VaeArguments, train
from palimpsest.worlds.emoji import World, is_held_out, open_world, render, sample_scenes

CONFIG = dict(width=24, mult=(1, 2, 4), blocks=1, latent_channels=8, norm_groups=8)


def pictures(world: World, held_out: bool) -> Callable[[int, Generator], Tensor]:
    """Draws n pictures (n 3 64 64) of the held-out emoji, or of the others, from a torch generator."""
    emoji = [e for e in world.emoji if is_held_out(e) == held_out]

    def draw(n: int, generator: Generator) -> Tensor:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        return render(world, sample_scenes(emoji, n, rng))

    return draw


@dataclass(frozen=True)
class Arguments(VaeArguments):
    """What a run of this recipe can be asked for."""

    recipe = "emoji_vae"
    name: str = "emoji-vae"
    steps: Count = 6000
    batch: Count = 16
    data: str = "runs/emoji_data"  # the pictures


def main(given: Arguments) -> None:
    world = open_world(given.data)
    train(given, CONFIG, pictures(world, held_out=False), pictures(world, held_out=True))


if __name__ == "__main__":
    command_line(main, Arguments)
