"""Recipe of shapes-glide: GLIDE's base model, text to 32×32 pixels, and its 20 % fine-tuning, a phase of
its own.

    python -m palimpsest.training.shapes_glide        # conditional: every picture with its caption
    python -m palimpsest.training.shapes_glide --empty .2 --name shapes-glide \\
        --init weights/shapes-glide-conditional.safetensors
    python -m palimpsest.training.shapes_glide --without star --name shapes-glide-filtered

"GLIDE", arXiv:2112.10741v3, Sec. 4.1 and 4.2. The net is the published one made small (nets/glide.py):
the text stands among the keys of every attention layer, and it says a variance for every pixel, which
L_hybrid teaches (samplers/learned.py). The second phase goes on exactly as before, with 20 % of the token
rows empty; only then can the model be guided without a classifier.

ours: the prediction is a velocity instead of ε, as in all our recipes (training/shapes.py says why), and
times are drawn with density ∝ t^tilt, so L_vlb is weighted so too: which shape a word means is settled
while the picture is nearly noise, and it is learnt last. Scenes are drawn anew for every step, or `kept`
of them once (training/scenes.py); `two` is the share of those with two things, and `hard` draws scenes
with what is learnt last so many times as often (training/shapes.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from palimpsest.arguments import Count, Fraction, Positive, Rounds
from palimpsest.fit.ahead import moved, step_generator
from palimpsest.fit.loop import fit
from palimpsest.fit.processes import rank_and_world
from palimpsest.methods.captioned import times
from palimpsest.nets.glide import SMALL, SMALL_TEXT, GlideText, GlideUNet, for_inpainting
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.samplers.convert import eps_from_output, q_sample
from palimpsest.samplers.learned import l_hybrid, l_vlb
from palimpsest.samplers.noise import gaussian
from palimpsest.samplers.schedule import Schedule
from palimpsest.training.recipe import RunArguments, command_line, publish, recent, start_from, storage_error
from palimpsest.training.scenes import Draw, Supply
from palimpsest.training.shapes import Tilt, told
from palimpsest.weights.files import read_weights
from palimpsest.worlds.scene import SHAPES, WORDS

SIZE = 32
WITHOUT = ("", *SHAPES)
STORED = torch.int8  # of every GLIDE model: what it costs is in the record


def models(net: dict = SMALL, text: dict = SMALL_TEXT) -> tuple[nn.ModuleDict, WordTokenizer, dict]:
    """The trainable modules, their tokenizer, and the configuration that rebuilds both."""
    tokenizer = WordTokenizer(list(WORDS), text["length"])
    text = dict(text, vocab=tokenizer.vocab_size)
    modules = nn.ModuleDict({"net": GlideUNet(**net), "text": GlideText(**text)})
    return modules, tokenizer, dict(net=net, text=text, words=list(WORDS))


def start_widened(init: str, modules: nn.ModuleDict) -> list[dict]:
    """As start_from, for a net that is to see what is kept: widened after the weights of one that does
    not, before those of one that does.
    """
    widened = bool(init) and read_weights(init)[0]["net"].get("inpainting", False)
    earlier = [] if widened else start_from(init, dict(modules))
    modules["net"] = for_inpainting(modules["net"])
    return start_from(init, dict(modules)) if widened else earlier


def loss(
    modules: nn.ModuleDict,
    data: tuple[Tensor, Tensor],
    generator: Generator,
    schedule: Schedule,
    tilt: float = 1.0,
) -> Tensor:
    x_0, tokens = data
    t, ctx = times(len(x_0), schedule.T, generator, tilt), modules["text"](tokens)
    eps = gaussian(x_0, generator)
    return l_hybrid(lambda x_t, t: modules["net"](x_t, t.to(x_t.device), ctx), schedule, x_0, t, eps, "v")[0]


@dataclass(frozen=True)
class GlideArguments(RunArguments):
    """What a run of a GLIDE model can be asked for, whichever stage it is."""

    stored = STORED
    two: Fraction = 0.3  # share of scenes with two things
    kept: Rounds = 0  # scenes drawn once and used again; 0: each step draws its own

    def supply(self, size: int, hard: float = 1.0, without: str = "") -> Supply:
        """Scenes for this process, with their pictures."""
        rank, world = rank_and_world()
        kept, seed = self.kept // world, (self.seed, rank)
        return Supply(
            size, two=self.two, hard=hard, without=without, kept=kept, seed=seed, workers=self.workers
        )


@dataclass(frozen=True)
class Arguments(GlideArguments):
    """What a run of this recipe can be asked for."""

    recipe = "shapes_glide"
    name: str = "shapes-glide-conditional"
    steps: Count = 12000
    warmup: Rounds = 300
    hard: Positive = 1.0  # draws scenes with what is learnt last so many times as often
    tilt: Tilt = 1.0
    free: Fraction = 0.0  # share of captions in free wordings
    empty: Fraction = 0.0  # share of captions that are left empty
    without: Literal[WITHOUT] = ""  # a shape that is never shown


def place(given: RunArguments, modules: nn.ModuleDict) -> None:
    """The modules on the device, in the memory format of convolutions, compiled if that is asked for."""
    modules.to(given.on, memory_format=torch.channels_last)
    if given.compiled:
        modules["net"].compile()


def header(config: dict, schedule: str, size: int) -> dict:
    """What the file of a GLIDE model says of itself."""
    known = dict(kind="glide", prediction="v", learned_variance=True, vae=None, size=size)
    return known | dict(schedule=dict(name=schedule, T=1000)) | config


def main(given: Arguments) -> None:
    schedule = Schedule.cosine()
    torch.manual_seed(given.seed)  # the initial weights, alike on every rank
    modules, tokenizer, config = models()
    config |= dict(free=given.free) if given.free else {}
    earlier = start_from(given.init, dict(modules))
    place(given, modules)
    supply = given.supply(SIZE, given.hard, given.without)

    def data(step: int, generator: Generator, scenes_of: Draw = supply) -> tuple[Tensor, Tensor]:
        scenes, x_0, rng = scenes_of(given.share, generator)
        tokens = tokenizer([told(scene, rng, given.empty, given.free) for scene in scenes])
        return x_0.to(memory_format=torch.channels_last), tokens

    fitted = fit(
        lambda m, d, g: loss(m, d, g, schedule, given.tilt),
        modules,
        data,
        given.settings(),
        given.files(),
        workers=given.workers,
        until=given.until,
    )
    if rank_and_world()[0] == 0:
        g = step_generator(given.seed, given.steps + 1)
        judged = judge(
            dict(fitted.ema), moved(data(given.steps, g, supply.fresh), given.on), schedule, given.seed
        )
        figures = dict(loss=recent(fitted.losses), **judged)
        config = header(config, "cosine", SIZE)
        print(publish(given, dict(fitted.ema), config, fitted, figures, earlier), figures)


@torch.no_grad()
def judge(
    modules: dict[str, nn.Module], data: tuple[Tensor, Tensor], schedule: Schedule, seed: int
) -> dict[str, float]:
    """What the manifest says of a finished net: its bound on the code length, and what int8 costs."""
    (x_0, tokens), g = data, step_generator(seed, 0)
    t = torch.linspace(50, schedule.T, len(x_0)).long()
    eps = gaussian(x_0, g)
    x_t, ctx = q_sample(schedule, x_0, t, eps), modules["text"](tokens)

    def bits(t: Tensor) -> float:
        """L_{t−1}, the mean over pictures."""
        x_t = q_sample(schedule, x_0, t, eps)
        out, v = modules["net"](x_t, t.to(x_t.device), ctx).chunk(2, dim=1)
        return l_vlb(schedule, x_0, x_t, t, eps_from_output(schedule, x_t, t, out, "v"), v).mean().item()

    # the bound: L_0, and T − 1 times the mean of the others
    later = torch.linspace(2, schedule.T, len(x_0)).round().long()
    vlb = bits(torch.ones(len(x_0), dtype=torch.long)) + (schedule.T - 1) * bits(later)
    return dict(
        vlb_bits=vlb,
        storage_error=storage_error(
            modules, lambda m: m["net"](x_t, t.to(x_t.device), m["text"](tokens)), STORED
        ),
    )


if __name__ == "__main__":
    command_line(main, Arguments)
