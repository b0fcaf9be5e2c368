"""Recipe of emoji-vae: the autoencoder of the emoji world, 64×64×3 -> 16×16×8, as that of shapes-vae and
with its loss.

    make emoji-data                                   # once: the pictures, into runs/emoji_data
    python -m palimpsest.training.emoji_vae                      # one process
    torchrun --nproc-per-node 2 -m palimpsest.training.emoji_vae

Half as wide again as shapes-vae: artists draw finer than our shapes. It is measured on the pictures that
are held out of training."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from palimpsest.training.recipe import command_line
from palimpsest.training.shapes_vae import train
from palimpsest.worlds.emoji import World, is_held_out, open_world, render, sample_scenes

CONFIG = dict(width=24, mult=(1, 2, 4), blocks=1, latent_channels=8, norm_groups=8)


def pictures(world: World, held_out: bool) -> Callable[[int, Generator], Tensor]:
    """Draws n pictures (n 3 64 64) of the held-out emoji, or of the others, from a torch generator."""
    emoji = [e for e in world.emoji if is_held_out(e) == held_out]

    def draw(n: int, generator: Generator) -> Tensor:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        return render(world, sample_scenes(emoji, n, rng))

    return draw


def main(
    *,
    steps: int = 6000,
    batch: int = 16,
    lr: float = 1.5e-3,
    kl_weight: float = 1e-6,
    smooth: float = 0.1,
    tests: int = 512,
    precision: str = "float32",
    compiled: int = 0,
    seed: int = 0,
    workers: int = 0,
    until: float = math.inf,
    init: str = "",
    data: str = "runs/emoji_data",
    state: str = "runs/emoji_vae",
    device: str = "auto",
    out: str = "weights",
) -> None:
    world = open_world(data)
    train(
        "emoji-vae",
        pictures(world, held_out=False),
        pictures(world, held_out=True),
        config=CONFIG,
        steps=steps,
        batch=batch,
        lr=lr,
        kl_weight=kl_weight,
        smooth=smooth,
        tests=tests,
        seed=seed,
        init=init,
        state=state,
        device=device,
        out=out,
        precision=precision,
        compiled=compiled,
        workers=workers,
        until=until,
    )


if __name__ == "__main__":
    command_line(main)
