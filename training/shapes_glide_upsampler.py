"""Recipe of shapes-glide-upsampler: GLIDE's second stage, 32×32 to 64×64 under the same text.

    python -m palimpsest.training.shapes_glide_upsampler
    python -m palimpsest.training.shapes_glide_upsampler --noise .1 --name shapes-glide-upsampler-noised
    python -m palimpsest.training.shapes_glide_upsampler --inpainting 1 --init weights/shapes-glide-upsampler.safetensors \\
        --name shapes-glide-upsampler-inpaint

"GLIDE", arXiv:2112.10741v3, Sec. 4.1 and 4.3. The small picture is the mean of every 2×2 pixels of the
large one, rounded to the 256 levels that a file has, stretched and laid beside x_t. With `noise` it is
first spoilt by noise of a strength drawn between 0 and that: what the base model paints is never as clean
as what the upsampler learns from. GLIDE does without; it is our ablation, and the remedy of Ho et al.,
arXiv:2106.15282v3, Sec. 4.2. With `inpainting` the net also sees the large picture where it is kept, but
never where it is rubbed out; the small one it sees whole. """

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from palimpsest.fit.ahead import moved, step_generator
from palimpsest.fit.loop import fit
from palimpsest.fit.processes import rank_and_world
from palimpsest.fit.settings import Files, Settings
from palimpsest.methods.super_resolution import made_small
from palimpsest.metrics.image import psnr
from palimpsest.nets.glide import SMALL_UPSAMPLER
from palimpsest.samplers.convert import x0_from_v
from palimpsest.samplers.learned import l_hybrid
from palimpsest.samplers.noise import gaussian
from palimpsest.samplers.schedule import Schedule
from palimpsest.training.recipe import command_line, publish, start_from, storage_error
from palimpsest.training.scenes import Draw, Supply
from palimpsest.training.shapes import told
from palimpsest.training.shapes_glide import models, start_widened
from palimpsest.weights.files import sha256
from palimpsest.weights.load import own_device
from palimpsest.worlds.erase import erased

SIZE, FACTOR = 64, 2

Data = tuple[
    Tensor, Tensor, Tensor, Tensor | None
]  # pictures, the same made small, tokens, masks of what is rubbed out


def spoilt(pictures: Tensor, noise: float, generator: Generator) -> Tensor:
    """With Gaussian noise of a standard deviation drawn from U(0, noise) for each picture."""
    level = noise * torch.rand((len(pictures), 1, 1, 1), generator=generator)
    return pictures + level.to(pictures) * gaussian(pictures, generator) if noise else pictures


def loss(
    modules: nn.ModuleDict, data: Data, generator: Generator, schedule: Schedule, noise: float
) -> Tensor:
    x_0, small, tokens, mask = data
    t, ctx, net = (
        torch.randint(1, schedule.T + 1, (len(x_0),), generator=generator),
        modules["text"](tokens),
        modules["net"],
    )
    eps, small = gaussian(x_0, generator), spoilt(small, noise, generator)
    kept = {} if mask is None else dict(picture=x_0, mask=mask)
    return l_hybrid(
        lambda x_t, t: net(net.inputs(x_t, low_res=small, **kept), t.to(x_t.device), ctx),
        schedule,
        x_0,
        t,
        eps,
        "v",
    )[0]


def main(
    *,
    steps: int = 3000,
    batch: int = 16,
    lr: float = 1e-3,
    two: float = 0.5,
    noise: float = 0.0,
    inpainting: int = 0,
    kept: int = 0,
    warmup: int = 200,
    precision: str = "float32",
    compiled: int = 0,
    seed: int = 0,
    workers: int = 0,
    until: float = math.inf,
    init: str = "",
    name: str = "shapes-glide-upsampler",
    state: str = "",
    device: str = "auto",
    out: str = "weights",
) -> None:
    (rank, world), on, state = rank_and_world(), own_device(device), state or f"runs/{name}"
    arguments = dict(
        steps=steps,
        batch=batch,
        lr=lr,
        two=two,
        noise=noise,
        inpainting=inpainting,
        kept=kept,
        warmup=warmup,
        precision=precision,
        compiled=compiled,
        seed=seed,
        init=Path(init).name,
    )
    schedule = Schedule.linear()
    torch.manual_seed(seed)
    modules, tokenizer, config = models(SMALL_UPSAMPLER)
    earlier = start_widened(init, modules) if inpainting else start_from(init, dict(modules))
    config["net"] = dict(config["net"], inpainting=modules["net"].inpainting)
    modules.to(on, memory_format=torch.channels_last)
    if compiled:
        modules["net"].compile()

    supply = Supply(SIZE, two=two, kept=kept // world, seed=(seed, rank), workers=workers)

    def data(step: int, generator: Generator, scenes_of: Draw = supply) -> Data:
        scenes, x_0, rng = scenes_of(batch // world, generator)
        mask = (
            F.interpolate(erased(len(x_0), SIZE // FACTOR, generator), scale_factor=FACTOR)
            if inpainting
            else None
        )
        small = made_small(x_0, FACTOR)
        return (
            x_0.to(memory_format=torch.channels_last),
            small,
            tokenizer([told(s, rng) for s in scenes]),
            mask,
        )

    fitted = fit(
        lambda m, d, g: loss(m, d, g, schedule, noise),
        modules,
        data,
        Settings(steps=steps, lr=lr, precision=precision, seed=seed, warmup=warmup),
        Files(
            checkpoint=f"{state}/checkpoint.pt",
            log=f"{state}/loss.csv",
            save_every=100,
            identity=dict(recipe=dict(arguments, init=sha256(init) if init else "")),
        ),
        workers=workers,
        until=until,
    )
    if rank == 0:
        config = dict(
            kind="glide",
            prediction="v",
            learned_variance=True,
            schedule=dict(name="linear", T=schedule.T),
            vae=None,
            size=SIZE,
            **config,
        )
        figures = judge(
            dict(fitted.ema), moved(data(steps, step_generator(seed, steps + 1), supply.fresh), on), schedule
        )
        figures["loss"] = sum(fitted.losses[-200:]) / len(fitted.losses[-200:])
        print(
            publish(
                name,
                dict(fitted.ema),
                config,
                out=out,
                recipe="palimpsest.training.shapes_glide_upsampler",
                arguments=arguments,
                fitted=fitted,
                figures=figures,
                earlier=earlier,
            ),
            figures,
        )


@torch.no_grad()
def judge(modules: dict[str, nn.Module], data: Data, schedule: Schedule) -> dict[str, float]:
    """PSNR of the picture foreseen from noise alone (the mean of what the net would paint) beside
    bicubic's, and what float16 costs.
    """
    x_0, small, tokens, mask = data
    kept = {} if mask is None else dict(picture=x_0, mask=torch.ones_like(mask))
    x_T = torch.randn(x_0.shape, generator=Generator().manual_seed(0)).to(x_0)

    def says(m: dict[str, nn.Module]) -> Tensor:
        net = m["net"]
        return net(net.inputs(x_T, low_res=small, **kept), schedule.T, m["text"](tokens)).chunk(2, dim=1)[0]

    bicubic = F.interpolate(small, scale_factor=FACTOR, mode="bicubic").clamp(-1, 1)
    foreseen = x0_from_v(schedule, x_T, schedule.T, says(modules)).clamp(-1, 1)
    return dict(
        n=len(x_0),
        psnr_bicubic=psnr(bicubic, x_0).mean().item(),
        psnr_foreseen=psnr(foreseen, x_0).mean().item(),
        storage_error=storage_error(modules, says),
    )


if __name__ == "__main__":
    command_line(main)
