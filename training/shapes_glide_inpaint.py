"""Recipe of shapes-glide-inpaint: GLIDE's base model fine-tuned to fill in what was rubbed out of a picture.

    python -m palimpsest.training.shapes_glide_inpaint --init weights/shapes-glide.safetensors

"GLIDE", arXiv:2112.10741v3, Sec. 4.3. The first convolution sees four channels more: the picture where it
is kept, and where that is. Their weights begin as zero, so that the first step is the base model's own
(tested). All the picture is in the loss, kept or not, and 20 % of the captions stay empty. What is rubbed
out: worlds/erase.py."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from palimpsest.fit.ahead import moved, step_generator
from palimpsest.fit.loop import fit
from palimpsest.fit.processes import rank_and_world
from palimpsest.fit.settings import Files, Settings
from palimpsest.samplers.learned import l_hybrid
from palimpsest.samplers.noise import gaussian
from palimpsest.samplers.schedule import Schedule
from palimpsest.training.recipe import command_line, publish, storage_error
from palimpsest.training.scenes import Draw, Supply
from palimpsest.training.shapes import times, told
from palimpsest.training.shapes_glide import SIZE, models, start_widened
from palimpsest.weights.files import sha256
from palimpsest.weights.load import own_device
from palimpsest.worlds.erase import erased

Data = tuple[Tensor, Tensor, Tensor]  # pictures, masks of what is rubbed out, tokens


def loss(modules: nn.ModuleDict, data: Data, generator: Generator, schedule: Schedule) -> Tensor:
    x_0, mask, tokens = data
    t, ctx, net = times(len(x_0), schedule.T, generator), modules["text"](tokens), modules["net"]
    eps = gaussian(x_0, generator)
    return l_hybrid(
        lambda x_t, t: net(net.inputs(x_t, picture=x_0, mask=mask), t.to(x_t.device), ctx),
        schedule,
        x_0,
        t,
        eps,
        "v",
    )[0]


def main(
    *,
    steps: int = 4000,
    batch: int = 32,
    lr: float = 5e-4,
    two: float = 0.4,
    hard: float = 1.0,
    free: float = 0.0,
    empty: float = 0.2,
    kept: int = 0,
    warmup: int = 200,
    precision: str = "float32",
    compiled: int = 0,
    seed: int = 0,
    workers: int = 0,
    until: float = math.inf,
    init: str = "weights/shapes-glide.safetensors",
    state: str = "runs/shapes_glide_inpaint",
    device: str = "auto",
    out: str = "weights",
) -> None:
    (rank, world), on = rank_and_world(), own_device(device)
    arguments = dict(
        steps=steps,
        batch=batch,
        lr=lr,
        two=two,
        hard=hard,
        free=free,
        empty=empty,
        kept=kept,
        warmup=warmup,
        precision=precision,
        compiled=compiled,
        seed=seed,
        init=Path(init).name,
    )
    schedule = Schedule.cosine()
    torch.manual_seed(seed)
    modules, tokenizer, config = models()
    earlier = start_widened(init, modules)
    config["net"] = dict(config["net"], inpainting=True)
    modules.to(on, memory_format=torch.channels_last)
    if compiled:
        modules["net"].compile()

    supply = Supply(SIZE, two=two, hard=hard, kept=kept // world, seed=(seed, rank), workers=workers)

    def data(step: int, generator: Generator, scenes_of: Draw = supply) -> Data:
        scenes, x_0, rng = scenes_of(batch // world, generator)
        return (
            x_0.to(memory_format=torch.channels_last),
            erased(len(x_0), SIZE, generator),
            tokenizer([told(scene, rng, empty, free) for scene in scenes]),
        )

    fitted = fit(
        lambda m, d, g: loss(m, d, g, schedule),
        modules,
        data,
        Settings(steps=steps, lr=lr, precision=precision, seed=seed, warmup=warmup),
        Files(
            checkpoint=f"{state}/checkpoint.pt",
            log=f"{state}/loss.csv",
            save_every=100,
            identity=dict(recipe=dict(arguments, init=sha256(init))),
        ),
        workers=workers,
        until=until,
    )
    if rank == 0:
        config = dict(
            kind="glide",
            prediction="v",
            learned_variance=True,
            schedule=dict(name="cosine", T=schedule.T),
            vae=None,
            size=SIZE,
            **config,
        )
        x_0, mask, tokens = moved(data(steps, step_generator(seed, steps + 1), supply.fresh), on)
        t = torch.linspace(50, schedule.T, len(x_0)).long().to(on)
        figures = dict(
            loss=sum(fitted.losses[-200:]) / len(fitted.losses[-200:]),
            storage_error=storage_error(
                dict(fitted.ema),
                lambda m: m["net"](m["net"].inputs(x_0, picture=x_0, mask=mask), t, m["text"](tokens)),
            ),
        )
        print(
            publish(
                "shapes-glide-inpaint",
                dict(fitted.ema),
                config,
                out=out,
                recipe="palimpsest.training.shapes_glide_inpaint",
                arguments=arguments,
                fitted=fitted,
                figures=figures,
                earlier=earlier,
            ),
            figures,
        )


if __name__ == "__main__":
    command_line(main)
