"""Recipe of shapes-vae: the autoencoder of the shapes world, 64×64×3 -> 16×16×8 (arXiv:2112.10752v2, Sec. 3.1, KL-regularised).

    python -m training.shapes_vae                     # one process
    torchrun --nproc-per-node 2 -m training.shapes_vae

# ours: 8 latent channels, where the public layout has 4: in one trial of each, in the minutes given to it, 4 came less far.

Loss: squared error of the reconstruction + β KL(q(z|x) ‖ N(0, 1)). No adversarial or perceptual term: this world has no fine
texture to invent, and its measure is PSNR.
"""
from __future__ import annotations

import random

import torch
from torch import Generator, Tensor, nn

from metrics.image import psnr
from nets.vae import AutoencoderKL
from training.fit import fit, rank_and_world
from training.recipe import Stopwatch, command_line, publish
from worlds.shapes import render, sample_scene

CONFIG = dict(width=16, mult=(1, 2, 4), blocks=1, latent_channels=8, norm_groups=8)


def scenes(n: int, generator: Generator, held_out: bool | None = False) -> list:
    """n scenes of the shapes world from a torch generator."""
    rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
    return [sample_scene(rng, held_out=held_out) for _ in range(n)]


def loss(vae: nn.Module, x: Tensor, generator: Generator, kl_weight: float) -> Tensor:
    mean, logvar = vae.encode(x)
    z = mean + (logvar / 2).exp() * torch.randn(mean.shape, generator=generator)
    kl = (mean**2 + logvar.exp() - 1 - logvar).mean() / 2                # per latent number
    return ((vae.decode(z) - x) ** 2).mean() + kl_weight * kl


@torch.no_grad()
def measure(vae: nn.Module, n: int = 512, seed: int = 10**6) -> dict[str, float]:
    """Held-out reconstruction (any colour × shape pair) and the scale of the latents."""
    x = render(scenes(n, Generator().manual_seed(seed), held_out=None))
    z = torch.cat([vae.encode(part)[0] for part in x.split(64)])
    db = torch.cat([psnr(vae.decode(a).clamp(-1, 1), b) for a, b in zip(z.split(64), x.split(64))])
    return dict(psnr_mean=db.mean().item(), psnr_p05=db.quantile(.05).item(), latent_std=z.std().item(), n=n)


def main(*, steps: int = 3600, batch: int = 8, lr: float = 1.5e-3, kl_weight: float = 2e-4, tests: int = 512, seed: int = 0,
         state: str = "runs/shapes_vae", out: str = "weights") -> None:
    rank, world = rank_and_world()
    arguments = dict(steps=steps, batch=batch, lr=lr, kl_weight=kl_weight, seed=seed)
    torch.manual_seed(seed)                                              # the initial weights, alike on every rank
    vae = AutoencoderKL(**CONFIG)
    with Stopwatch(f"{state}/seconds") as watch:
        fitted = fit(lambda net, x, g: loss(net, x, g, kl_weight), vae,
                     lambda step, g: render(scenes(batch // world, g)),
                     steps=steps, lr=lr, seed=seed, save_every=100, checkpoint=f"{state}/checkpoint.pt", log=f"{state}/loss.csv",
                     identity=dict(recipe=arguments))
    if rank == 0:
        figures = measure(fitted.ema, tests)
        config = dict(kind="vae", vae=CONFIG, latent_scale=1 / figures["latent_std"], size=64)
        print(publish("shapes-vae", {"vae": fitted.ema}, config, out=out, recipe="training.shapes_vae", arguments=arguments,
                      seconds=watch.seconds, figures=figures), figures)


if __name__ == "__main__":
    command_line(main)
