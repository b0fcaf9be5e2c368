"""Recipe of shapes-glide-inpaint: GLIDE's base model fine-tuned to fill in what was rubbed out of a picture.

    python -m palimpsest.training.shapes_glide_inpaint --init weights/shapes-glide.safetensors

"GLIDE", arXiv:2112.10741v3, Sec. 4.3. The first convolution sees four channels more: the picture where it
is kept, and where that is. Their weights begin as zero, so that the first step is the base model's own
(tested). All the picture is in the loss, kept or not, and 20 % of the captions stay empty. What is rubbed
out: worlds/erase.py."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from palimpsest.arguments import Count, Fraction, Positive
from palimpsest.fit.ahead import moved, step_generator
from palimpsest.fit.loop import fit
from palimpsest.fit.processes import rank_and_world
from palimpsest.methods.captioned import times
from palimpsest.samplers.learned import l_hybrid
from palimpsest.samplers.noise import gaussian
from palimpsest.samplers.schedule import Schedule
from palimpsest.training.recipe import command_line, publish, recent, storage_error
from palimpsest.training.scenes import Draw
from palimpsest.training.shapes import told
from palimpsest.training.shapes_glide import (
    SIZE,
    STORED,
    GlideArguments,
    header,
    models,
    place,
    start_widened,
)
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


@dataclass(frozen=True)
class Arguments(GlideArguments):
    """What a run of this recipe can be asked for."""

    recipe = "shapes_glide_inpaint"
    name: str = "shapes-glide-inpaint"
    steps: Count = 4000
    lr: Positive = 5e-4
    two: Fraction = 0.4
    hard: Positive = 1.0  # draws scenes with what is learnt last so many times as often
    free: Fraction = 0.0  # share of captions in free wordings
    empty: Fraction = 0.2  # share of captions that are left empty
    init: str = "weights/shapes-glide.safetensors"


def main(given: Arguments) -> None:
    schedule = Schedule.cosine()
    torch.manual_seed(given.seed)
    modules, tokenizer, config = models()
    config |= dict(free=given.free) if given.free else {}
    earlier = start_widened(given.init, modules)
    config["net"] = dict(config["net"], inpainting=True)
    place(given, modules)
    supply = given.supply(SIZE, given.hard)

    def data(step: int, generator: Generator, scenes_of: Draw = supply) -> Data:
        scenes, x_0, rng = scenes_of(given.share, generator)
        mask = erased(len(x_0), SIZE, generator)
        tokens = tokenizer([told(scene, rng, given.empty, given.free) for scene in scenes])
        return x_0.to(memory_format=torch.channels_last), mask, tokens

    fitted = fit(
        lambda m, d, g: loss(m, d, g, schedule),
        modules,
        data,
        given.settings(),
        given.files(),
        workers=given.workers,
        until=given.until,
    )
    if rank_and_world()[0] == 0:
        g = step_generator(given.seed, given.steps + 1)
        x_0, mask, tokens = moved(data(given.steps, g, supply.fresh), given.on)
        t = torch.linspace(50, schedule.T, len(x_0)).long().to(given.on)

        def answer(m: dict[str, nn.Module]) -> Tensor:
            return m["net"](m["net"].inputs(x_0, picture=x_0, mask=mask), t, m["text"](tokens))

        modules = dict(fitted.ema)
        figures = dict(loss=recent(fitted.losses), storage_error=storage_error(modules, answer, STORED))
        print(publish(given, modules, header(config, "cosine", SIZE), fitted, figures, earlier), figures)


if __name__ == "__main__":
    command_line(main, Arguments)
