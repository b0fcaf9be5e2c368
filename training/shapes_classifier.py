"""Recipe of shapes-classifier: every named attribute read off x_t, at every t, for guidance by a classifier.

    python -m palimpsest.training.shapes_classifier

"Diffusion Models Beat GANs on Image Synthesis", arXiv:2105.05233v4, Sec. 4.1: cross-entropy on noisy
pictures, by the schedule of the diffusion model that is to be guided, here GLIDE's base at 32×32.
Held-out pairs of colour and shape are not shown."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from palimpsest.arguments import Count, Fraction, Rounds
from palimpsest.fit.ahead import moved, step_generator
from palimpsest.fit.loop import fit
from palimpsest.fit.processes import rank_and_world
from palimpsest.nets.judges.noisy_reader import NoisyReader
from palimpsest.nets.judges.reader import reader_loss
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.noise import gaussian
from palimpsest.samplers.schedule import Schedule
from palimpsest.training.recipe import RunArguments, command_line, publish, recent, start_from, storage_error
from palimpsest.training.scenes import Draw, Supply
from palimpsest.training.shapes_glide import SIZE
from palimpsest.training.shapes_reader import labels
from palimpsest.worlds.shapes import ATTRIBUTES

CONFIG = dict(size=SIZE, width=24, mult=(1, 2, 4), heads=4)
SCHEDULE = dict(name="cosine", T=1000)


@dataclass(frozen=True)
class Arguments(RunArguments):
    """What a run of this recipe can be asked for."""

    recipe = "shapes_classifier"
    stored = torch.int8
    name: str = "shapes-classifier"
    steps: Count = 3000
    batch: Count = 64
    two: Fraction = 0.3  # share of scenes with two things
    kept: Rounds = 0  # scenes drawn once and used again; 0: each step draws its own
    tests: Count = 1024  # pictures that the finished net is measured on


Data = tuple[Tensor, dict[str, Tensor]]  # pictures, and what is read off each


def read(
    net: nn.Module, x_0: Tensor, t: Tensor, generator: Generator, schedule: Schedule
) -> dict[str, Tensor]:
    """The logits of each attribute, from x_t at whole times t."""
    x_t = q_sample(schedule, x_0, t, gaussian(x_0, generator))
    return net(x_t, (t - 1).to(x_0.device))


def main(given: Arguments) -> None:
    schedule = Schedule.cosine(SCHEDULE["T"])
    torch.manual_seed(given.seed)
    net = NoisyReader(attributes={name: len(v) for name, v in ATTRIBUTES.items()}, **CONFIG)
    earlier = start_from(given.init, {"classifier": net})
    net.to(given.on)
    rank, world = rank_and_world()
    supply = Supply(
        SIZE, two=given.two, kept=given.kept // world, seed=(given.seed, rank), workers=given.workers
    )

    def data(n: int, generator: Generator, scenes_of: Draw = supply) -> Data:
        scenes, pictures, _ = scenes_of(n, generator)
        return pictures, labels(scenes)

    def loss(net: nn.Module, d: Data, g: Generator) -> Tensor:
        t = torch.randint(1, schedule.T + 1, (len(d[0]),), generator=g)
        return reader_loss(read(net, d[0], t, g, schedule), d[1])

    fitted = fit(
        loss,
        net,
        lambda step, g: data(given.share, g),
        replace(given.settings(), weight_decay=0.01),
        given.files(),
        workers=given.workers,
        until=given.until,
    )
    if rank == 0:
        g = step_generator(given.seed, given.steps + 1)
        figures = judge(fitted.ema, moved(data(given.tests, g, supply.fresh), given.on), g, schedule)
        figures = dict(n=given.tests, loss=recent(fitted.losses), **figures)
        config = dict(kind="classifier", classifier=CONFIG, values=ATTRIBUTES, schedule=SCHEDULE)
        print(publish(given, {"classifier": fitted.ema}, config, fitted, figures, earlier), figures)


def judge(net: nn.Module, data: Data, generator: Generator, schedule: Schedule) -> dict[str, float]:
    """The share of attributes read rightly at four noise levels, and what int8 costs."""
    (x_0, truth), figures = data, {}
    for t in (1, 250, 500, 750):
        logits = read(net, x_0, torch.full((len(x_0),), t), generator, schedule)
        right = [(logits[k].argmax(1) == truth[k]).double().mean().item() for k in truth]
        figures[f"attribute_mean_t{t}"] = sum(right) / len(right)
    some = x_0[:64]
    level = torch.full((len(some),), 250)

    def answer(m: dict[str, nn.Module]) -> Tensor:
        return torch.cat(
            [*read(m["classifier"], some, level, step_generator(0, 0), schedule).values()], dim=1
        )

    return figures | dict(storage_error=storage_error({"classifier": net}, answer, Arguments.stored))


if __name__ == "__main__":
    command_line(main, Arguments)
