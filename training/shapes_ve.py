"""Recipe of shapes-ve: a variance-exploding score network on 32×32 pixels, trained by denoising score
matching, Eq. (2).

    python -m palimpsest.training.shapes_ve

The net is the same U-Net, on pixels. Its score is s_θ(x, σ) = −ε̂/σ with ε̂ read off a v-prediction of
x/√(1+σ²), the exact change of variables of samplers/ve_sde.py; the schedule is the geometric ladder σ =
.01 … 50. Each level's term of Eq. (2) is weighted by 1 + σ², which makes it the squared error of v: the
paper's λ = σ² asks next to nothing of the picture where σ is large."""

from __future__ import annotations

import math
import random
from pathlib import Path

import torch
from einops import rearrange
from torch import Generator, Tensor, nn

from palimpsest.fit.ahead import moved, step_generator
from palimpsest.fit.loop import fit
from palimpsest.fit.processes import rank_and_world
from palimpsest.fit.settings import Files, Settings
from palimpsest.samplers.convert import eps_from_v, q_sample
from palimpsest.samplers.noise import gaussian
from palimpsest.samplers.schedule import Schedule
from palimpsest.samplers.ve_sde import ve_loss
from palimpsest.training.recipe import command_line, publish, start_from, storage_error
from palimpsest.training.shapes import EMPTY, LENGTH, models, told
from palimpsest.weights.load import own_device
from palimpsest.worlds.shapes import render, sample_scene

NET = dict(
    in_channels=3,
    out_channels=3,
    width=32,
    mult=(1, 2, 3),
    blocks=1,
    attention=(False, True, True),
    heads=4,
    ctx_width=96,
    norm_groups=8,
)
SIZE = 32
DECISIVE = (
    0.15,
    6.0,
)  # below, the noise hides nothing; above, everything: between, the text decides what the picture becomes
SCHEDULE = dict(T=1000, sigma_min=0.01, sigma_max=50.0)


def times(n: int, schedule: Schedule, generator: Generator) -> Tensor:
    """n whole times of the ladder: half of them of any level, half of those with σ in DECISIVE."""
    low, high = (schedule.t_of_sigma(sigma) for sigma in DECISIVE)
    u, decisive = torch.rand(n, generator=generator), torch.rand(n, generator=generator) < 0.5
    return torch.where(decisive, low + (high - low) * u, schedule.T * u).ceil().long().clamp(1, schedule.T)


def loss(
    modules: nn.ModuleDict, data: tuple[Tensor, Tensor], generator: Generator, schedule: Schedule
) -> Tensor:
    """E (1 + σ²) ‖σ s_θ(x_0 + σ z, σ) + z‖², with log σ uniform over the ladder, and again over its
    decisive part.
    """
    x_0, tokens = data
    t = times(len(x_0), schedule, generator)
    sigma = torch.tensor([schedule.sigma(n) for n in t.tolist()], dtype=torch.float32).to(x_0)
    eps = gaussian(x_0, generator)
    ctx = modules["text"](tokens)

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        level = rearrange(sigma, "b -> b 1 1 1")
        x_t = x / (1 + level**2).sqrt()
        return -eps_from_v(schedule, x_t, t, modules["net"](x_t, t, ctx)) / level

    return ve_loss(score, x_0, sigma, eps, weight=1 + sigma**2)  # Eq. (2)


def main(
    *,
    steps: int = 4000,
    batch: int = 32,
    lr: float = 1e-3,
    two: float = 0.5,
    precision: str = "float32",
    compiled: int = 0,
    seed: int = 0,
    workers: int = 0,
    until: float = math.inf,
    init: str = "",
    state: str = "runs/shapes_ve",
    device: str = "auto",
    out: str = "weights",
) -> None:
    (rank, world), on = rank_and_world(), own_device(device)
    arguments = dict(
        steps=steps,
        batch=batch,
        lr=lr,
        two=two,
        precision=precision,
        compiled=compiled,
        seed=seed,
        init=Path(init).name,
    )
    schedule = Schedule.geometric(**SCHEDULE)
    torch.manual_seed(seed)  # the initial weights, alike on every rank
    modules, tokenizer, config = models(NET, LENGTH)
    earlier = start_from(init, dict(modules))
    modules.to(on, memory_format=torch.channels_last)
    if compiled:
        modules["net"].compile()

    def data(step: int, generator: Generator) -> tuple[Tensor, Tensor]:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        scenes = [sample_scene(rng, 1 + (rng.random() < two)) for _ in range(batch // world)]
        return render(scenes, SIZE).to(memory_format=torch.channels_last), tokenizer(
            [told(s, rng, EMPTY) for s in scenes]
        )

    fitted = fit(
        lambda m, d, g: loss(m, d, g, schedule),
        modules,
        data,
        Settings(steps=steps, lr=lr, seed=seed, precision=precision),
        Files(checkpoint=f"{state}/checkpoint.pt", log=f"{state}/loss.csv", identity=dict(recipe=arguments)),
        workers=workers,
        until=until,
    )
    if rank == 0:
        g = step_generator(seed, steps + 1)
        (x, tokens), t = moved(data(steps, g), on), torch.linspace(50, schedule.T, batch // world).long()
        noised = q_sample(schedule, x, t, gaussian(x, g))
        figures = dict(
            loss=sum(fitted.losses[-200:]) / len(fitted.losses[-200:]),
            storage_error=storage_error(dict(fitted.ema), lambda m: m["net"](noised, t, m["text"](tokens))),
        )
        config = dict(
            kind="text2image",
            prediction="v",
            schedule=dict(name="geometric", **SCHEDULE),
            vae=None,
            size=SIZE,
            **config,
        )
        print(
            publish(
                "shapes-ve",
                dict(fitted.ema),
                config,
                out=out,
                recipe="palimpsest.training.shapes_ve",
                arguments=arguments,
                fitted=fitted,
                figures=figures,
                earlier=earlier,
            ),
            figures,
        )


if __name__ == "__main__":
    command_line(main)
