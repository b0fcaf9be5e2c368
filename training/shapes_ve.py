"""Recipe of shapes-ve: a variance-exploding score network on 32×32 pixels, trained by denoising score
matching, Eq. (2).

    python -m palimpsest.training.shapes_ve

No weights of it are shipped: SDEdit's VE walk in pixels runs on GLIDE's base, whose ε is a VE score by an
exact change of variables. A net that this recipe trained on 147,000 pictures turned 18 % of stroke paintings
into what their captions say, as many as were right before; GLIDE's base has seen 1.8 million.

The net is the same U-Net, on pixels. Its score is s_θ(x, σ) = −ε̂/σ with ε̂ read off a v-prediction of
x/√(1+σ²), the exact change of variables of samplers/ve_sde.py; the schedule is the geometric ladder σ =
.01 … 50. Each level's term of Eq. (2) is weighted by 1 + σ², which makes it the squared error of v: the
paper's λ = σ² asks next to nothing of the picture where σ is large."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Generator, Tensor, nn

from palimpsest.arguments import Count, Fraction
from palimpsest.fit.ahead import moved, step_generator
from palimpsest.fit.loop import fit
from palimpsest.fit.processes import rank_and_world
from palimpsest.samplers.convert import eps_from_v, q_sample
from palimpsest.samplers.noise import gaussian
from palimpsest.samplers.schedule import Schedule
from palimpsest.samplers.ve_sde import ve_loss
from palimpsest.training.recipe import RunArguments, command_line, publish, recent, start_from, storage_error
from palimpsest.training.shapes import EMPTY, LENGTH, models, told
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
DECISIVE = (0.15, 6.0)  # below, noise hides nothing; above, everything; between, the text decides
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


@dataclass(frozen=True)
class Arguments(RunArguments):
    """What a run of this recipe can be asked for."""

    recipe = "shapes_ve"
    stored = torch.int8
    name: str = "shapes-ve"
    steps: Count = 4000
    two: Fraction = 0.5  # share of scenes with two things


def main(given: Arguments) -> None:
    schedule = Schedule.geometric(**SCHEDULE)
    torch.manual_seed(given.seed)  # the initial weights, alike on every rank
    modules, tokenizer, config = models(NET, LENGTH)
    earlier = start_from(given.init, dict(modules))
    modules.to(given.on, memory_format=torch.channels_last)
    if given.compiled:
        modules["net"].compile()

    def data(step: int, generator: Generator) -> tuple[Tensor, Tensor]:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        scenes = [sample_scene(rng, 1 + (rng.random() < given.two)) for _ in range(given.share)]
        tokens = tokenizer([told(scene, rng, EMPTY) for scene in scenes])
        return render(scenes, SIZE).to(memory_format=torch.channels_last), tokens

    fitted = fit(
        lambda m, d, g: loss(m, d, g, schedule),
        modules,
        data,
        given.settings(),
        given.files(200),
        workers=given.workers,
        until=given.until,
    )
    if rank_and_world()[0] == 0:
        g = step_generator(given.seed, given.steps + 1)
        x, tokens = moved(data(given.steps, g), given.on)
        t = torch.linspace(50, schedule.T, given.share).long()
        noised = q_sample(schedule, x, t, gaussian(x, g))
        error = storage_error(
            dict(fitted.ema), lambda m: m["net"](noised, t, m["text"](tokens)), given.stored
        )
        figures = dict(loss=recent(fitted.losses), storage_error=error)
        known = dict(kind="text2image", prediction="v", vae=None, size=SIZE)
        config = known | dict(schedule=dict(name="geometric", **SCHEDULE)) | config
        print(publish(given, dict(fitted.ema), config, fitted, figures, earlier), figures)


if __name__ == "__main__":
    command_line(main, Arguments)
