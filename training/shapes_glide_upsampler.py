"""Recipe of shapes-glide-upsampler: GLIDE's second stage, 32×32 to 64×64 under the same text.

    python -m palimpsest.training.shapes_glide_upsampler
    python -m palimpsest.training.shapes_glide_upsampler --noise .1 --name shapes-glide-upsampler-noised
    python -m palimpsest.training.shapes_glide_upsampler --inpainting 1 \\
        --name shapes-glide-upsampler-inpaint --init weights/shapes-glide-upsampler.safetensors

"GLIDE", arXiv:2112.10741v3, Sec. 4.1 and 4.3. The small picture is the mean of every 2×2 pixels of the
large one, rounded to the 256 levels that a file has, stretched and laid beside x_t. With `noise` it is
first spoilt by noise of a strength drawn between 0 and that: what the base model paints is never as clean
as what the upsampler learns from. GLIDE does without; it is our ablation, and the remedy of Ho et al.,
arXiv:2106.15282v3, Sec. 4.2. With `inpainting` the net also sees the large picture where it is kept, but
never where it is rubbed out; the small one it sees whole. """

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from palimpsest.arguments import Count, Fraction, Interval
from palimpsest.fit.ahead import moved, step_generator
from palimpsest.fit.loop import fit
from palimpsest.fit.processes import rank_and_world
from palimpsest.methods.super_resolution import made_small
from palimpsest.metrics.image import psnr
from palimpsest.nets.glide import SMALL_UPSAMPLER
from palimpsest.samplers.convert import x0_from_v
from palimpsest.samplers.learned import l_hybrid
from palimpsest.samplers.noise import gaussian
from palimpsest.samplers.schedule import Schedule
from palimpsest.training.recipe import Switch, command_line, publish, recent, start_from, storage_error
from palimpsest.training.scenes import Draw
from palimpsest.training.shapes import told
from palimpsest.training.shapes_glide import STORED, GlideArguments, header, models, place, start_widened
from palimpsest.worlds.erase import erased

SIZE, FACTOR = 64, 2

# pictures, the same downsampled, tokens, masks of what is rubbed out
Data = tuple[Tensor, Tensor, Tensor, Tensor | None]


def spoilt(pictures: Tensor, noise: float, generator: Generator) -> Tensor:
    """With Gaussian noise of a standard deviation drawn from U(0, noise) for each picture."""
    level = noise * torch.rand((len(pictures), 1, 1, 1), generator=generator)
    return pictures + level.to(pictures) * gaussian(pictures, generator) if noise else pictures


def loss(
    modules: nn.ModuleDict, data: Data, generator: Generator, schedule: Schedule, noise: float
) -> Tensor:
    x_0, small, tokens, mask = data
    t = torch.randint(1, schedule.T + 1, (len(x_0),), generator=generator)
    ctx, net = modules["text"](tokens), modules["net"]
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


@dataclass(frozen=True)
class Arguments(GlideArguments):
    """What a run of this recipe can be asked for."""

    recipe = "shapes_glide_upsampler"
    name: str = "shapes-glide-upsampler"
    steps: Count = 3000
    batch: Count = 16
    two: Fraction = 0.5
    noise: Annotated[float, Interval(0)] = 0.0  # strongest noise on the small picture
    inpainting: Switch = 0  # 1: the net also sees the large picture where it is kept


def main(given: Arguments) -> None:
    schedule = Schedule.linear()
    torch.manual_seed(given.seed)
    modules, tokenizer, config = models(SMALL_UPSAMPLER)
    begin = start_widened if given.inpainting else lambda init, modules: start_from(init, dict(modules))
    earlier = begin(given.init, modules)
    config["net"] = dict(config["net"], inpainting=modules["net"].inpainting)
    place(given, modules)
    supply = given.supply(SIZE)

    def data(step: int, generator: Generator, scenes_of: Draw = supply) -> Data:
        scenes, x_0, rng = scenes_of(given.share, generator)
        mask = None
        if given.inpainting:
            mask = F.interpolate(erased(len(x_0), SIZE // FACTOR, generator), scale_factor=FACTOR)
        small, tokens = made_small(x_0, FACTOR), tokenizer([told(s, rng) for s in scenes])
        return x_0.to(memory_format=torch.channels_last), small, tokens, mask

    fitted = fit(
        lambda m, d, g: loss(m, d, g, schedule, given.noise),
        modules,
        data,
        given.settings(),
        given.files(),
        workers=given.workers,
        until=given.until,
    )
    if rank_and_world()[0] == 0:
        g = step_generator(given.seed, given.steps + 1)
        judged = judge(dict(fitted.ema), moved(data(given.steps, g, supply.fresh), given.on), schedule)
        figures = judged | dict(loss=recent(fitted.losses))
        config = header(config, "linear", SIZE)
        print(publish(given, dict(fitted.ema), config, fitted, figures, earlier), figures)


@torch.no_grad()
def judge(modules: dict[str, nn.Module], data: Data, schedule: Schedule) -> dict[str, float]:
    """PSNR of the picture predicted from noise alone (the mean of what the net would paint) beside
    bicubic's, and what int8 costs.
    """
    x_0, small, tokens, mask = data
    kept = {} if mask is None else dict(picture=x_0, mask=torch.ones_like(mask))
    x_T = torch.randn(x_0.shape, generator=Generator().manual_seed(0)).to(x_0)

    def says(m: dict[str, nn.Module]) -> Tensor:
        net = m["net"]
        return net(net.inputs(x_T, low_res=small, **kept), schedule.T, m["text"](tokens)).chunk(2, dim=1)[0]

    bicubic = F.interpolate(small, scale_factor=FACTOR, mode="bicubic").clamp(-1, 1)
    predicted = x0_from_v(schedule, x_T, schedule.T, says(modules)).clamp(-1, 1)
    return dict(
        n=len(x_0),
        psnr_bicubic=psnr(bicubic, x_0).mean().item(),
        psnr_foreseen=psnr(predicted, x_0).mean().item(),
        storage_error=storage_error(modules, says, STORED),
    )


if __name__ == "__main__":
    command_line(main, Arguments)
