"""Recipe of shapes-classifier: every named attribute read off x_t, at every t, for guidance by a classifier.

    python -m palimpsest.training.shapes_classifier

"Diffusion Models Beat GANs on Image Synthesis", arXiv:2105.05233v4, Sec. 4.1: cross-entropy on noisy
pictures, by the schedule of the diffusion model that is to be guided, here GLIDE's base at 32×32.
Held-out pairs of colour and shape are not shown."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from palimpsest.fit.ahead import moved, step_generator
from palimpsest.fit.loop import fit
from palimpsest.fit.processes import rank_and_world
from palimpsest.fit.settings import Files, Settings
from palimpsest.nets.judges.noisy_reader import NoisyReader
from palimpsest.nets.judges.reader import reader_loss
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.noise import gaussian
from palimpsest.samplers.schedule import Schedule
from palimpsest.training.recipe import command_line, publish, start_from, storage_error
from palimpsest.training.scenes import Draw, Supply
from palimpsest.training.shapes_glide import SIZE
from palimpsest.training.shapes_reader import labels
from palimpsest.weights.files import sha256
from palimpsest.weights.load import own_device
from palimpsest.worlds.shapes import ATTRIBUTES

CONFIG = dict(size=SIZE, patch=4, width=128, layers=4, heads=4)
SCHEDULE = dict(name="cosine", T=1000)


def main(
    *,
    steps: int = 3000,
    batch: int = 64,
    lr: float = 1e-3,
    two: float = 0.3,
    kept: int = 0,
    warmup: int = 200,
    precision: str = "float32",
    seed: int = 0,
    workers: int = 0,
    until: float = math.inf,
    tests: int = 1024,
    init: str = "",
    state: str = "runs/shapes_classifier",
    device: str = "auto",
    out: str = "weights",
) -> None:
    (rank, world), on = rank_and_world(), own_device(device)
    arguments = dict(
        steps=steps,
        batch=batch,
        lr=lr,
        two=two,
        kept=kept,
        warmup=warmup,
        precision=precision,
        seed=seed,
        tests=tests,
        init=Path(init).name,
    )
    schedule = Schedule.cosine(SCHEDULE["T"])
    torch.manual_seed(seed)
    net = NoisyReader(attributes={name: len(v) for name, v in ATTRIBUTES.items()}, **CONFIG)
    earlier = start_from(init, {"classifier": net})
    net.to(on)

    supply = Supply(SIZE, two=two, kept=kept // world, seed=(seed, rank), workers=workers)

    def data(n: int, generator: Generator, scenes_of: Draw = supply) -> tuple[Tensor, dict[str, Tensor]]:
        scenes, pictures, _ = scenes_of(n, generator)
        return pictures, labels(scenes)

    def read(net: nn.Module, x_0: Tensor, t: Tensor, generator: Generator) -> dict[str, Tensor]:
        x_t = q_sample(schedule, x_0, t, gaussian(x_0, generator))
        return net(x_t, (t - 1).to(on))

    def loss(net: nn.Module, d: tuple[Tensor, dict[str, Tensor]], g: Generator) -> Tensor:
        return reader_loss(
            read(net, d[0], torch.randint(1, schedule.T + 1, (len(d[0]),), generator=g), g), d[1]
        )

    fitted = fit(
        loss,
        net,
        lambda step, g: data(batch // world, g),
        Settings(steps=steps, lr=lr, precision=precision, seed=seed, warmup=warmup, weight_decay=0.01),
        Files(
            checkpoint=f"{state}/checkpoint.pt",
            log=f"{state}/loss.csv",
            identity=dict(recipe=dict(arguments, init=sha256(init) if init else "")),
        ),
        workers=workers,
        until=until,
    )
    if rank == 0:
        g, net = step_generator(seed, steps + 1), fitted.ema
        x_0, truth = moved(data(tests, g, supply.fresh), on)
        figures = {"n": tests, "loss": sum(fitted.losses[-200:]) / len(fitted.losses[-200:])}
        for t in (1, 250, 500, 750):
            logits = read(net, x_0, torch.full((tests,), t), g)
            figures[f"attribute_mean_t{t}"] = sum(
                (logits[k].argmax(1) == truth[k]).double().mean().item() for k in truth
            ) / len(truth)
        level = torch.full((len(x_0[:64]),), 250)
        figures["storage_error"] = storage_error(
            {"classifier": net},
            lambda m: torch.cat(
                list(read(m["classifier"], x_0[:64], level, step_generator(seed, 0)).values()), dim=1
            ),
        )
        config = dict(kind="classifier", classifier=CONFIG, values=ATTRIBUTES, schedule=SCHEDULE)
        print(
            publish(
                "shapes-classifier",
                {"classifier": net},
                config,
                out=out,
                recipe="palimpsest.training.shapes_classifier",
                arguments=arguments,
                fitted=fitted,
                figures=figures,
                earlier=earlier,
            ),
            figures,
        )


if __name__ == "__main__":
    command_line(main)
