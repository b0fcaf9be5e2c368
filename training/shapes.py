"""Recipe of shapes: the text encoder and the U-Net of the shapes world, trained together in the latents
of shapes-vae.

    python -m palimpsest.training.shapes                     # one process
    torchrun --nproc-per-node 2 -m palimpsest.training.shapes

Loss: E ‖v − v_θ(z_t, t, text)‖², the v-form of L_simple (Eq. 5). An ε-network on a schedule that goes
down to ᾱ ≈ 0 hardly sees the mean of the picture in its loss, and paints right shapes on muddy grounds; v
sees it. One caption in ten is empty, so that the same net is the unconditional one that guidance needs
(arXiv:2207.12598v1). Latents are made once and kept in memory. Times are drawn with density ∝ t^tilt. What
a text decides is decided where t is large, and near t = 0 the loss is mostly noise that nobody can
predict: a young model learns most from tilt 1. Outlines are made where t is small: later, tilt 0 or less
sharpens them. `two` is the share of scenes with two things; `init` goes on from the weights of an earlier
run. Flowers and dots are learned last: after a million pictures four of five wrong answers were a flower
painted as a circle or dots as stripes, and telling the word that is wrong cost the loss a tenth of what it
costs for stars. `hard` draws scenes with them so many times as often. `free` is the share of captions in
free wordings (worlds/wordings.py), `plain` that of scenes as people draw them, `other` that of batches in
another aspect ratio than the square (worlds/mix.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import torch
from torch import Generator, Tensor, nn

from palimpsest.arguments import Count, Fraction, Hint, Interval, Positive, Rounds
from palimpsest.fit.ahead import ahead, moved, step_generator
from palimpsest.fit.loop import fit
from palimpsest.fit.processes import rank_and_world
from palimpsest.fit.run import Fitted
from palimpsest.methods.captioned import loss
from palimpsest.nets.text import TextTransformer
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.nets.unet import UNet
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.noise import gaussian
from palimpsest.samplers.schedule import Schedule
from palimpsest.training.recipe import RunArguments, command_line, publish, recent, start_from, storage_error
from palimpsest.weights.files import sha256
from palimpsest.weights.load import find, load_autoencoder
from palimpsest.weights.model import Autoencoder
from palimpsest.worlds.mix import pixels_of, sample_scenes, some_extent
from palimpsest.worlds.scene import WORDS, Scene
from palimpsest.worlds.shapes import caption, render
from palimpsest.worlds.wordings import worded

T = TypeVar("T")
NET = dict(
    in_channels=8,
    out_channels=8,
    width=48,
    mult=(1, 2, 3),
    blocks=1,
    attention=(True, True, False),
    heads=4,
    ctx_width=128,
    norm_groups=8,
)
Tilt = Annotated[float, Interval(-1, open_low=True), Hint("times are drawn with density ∝ t^tilt")]
LENGTH = 24
EMPTY = 0.1  # the share of captions that are empty
SOME = 64  # pictures that are encoded at once
HARD = ("flower", "dotted")  # a shape and a texture


def models(
    net: dict = NET, length: int = LENGTH, words: Sequence[str] = WORDS
) -> tuple[nn.ModuleDict, WordTokenizer, dict]:
    """The trainable modules, their tokenizer, and the configuration that rebuilds both."""
    tokenizer = WordTokenizer(list(words), length)
    text = dict(vocab=tokenizer.vocab_size, length=length, width=net["ctx_width"], layers=2, heads=4)
    modules = nn.ModuleDict({"net": UNet(**net), "text": TextTransformer(**text)})
    return modules, tokenizer, dict(net=net, text=text, words=list(words))


def told(scene: Scene, rng: random.Random, empty: float = 0.0, free: float = 0.0) -> str:
    """A caption as a person would give it: empty for the share `empty`, in a free wording for the share
    `free` of the others, else a plain one, without sizes or background now and then.
    """
    if rng.random() < empty:
        return ""
    if free and rng.random() < free:
        return worded(scene, rng)
    return caption(scene, size=rng.random() > 0.15, background=rng.random() > 0.15)


def how_often(scenes: list[Scene], hard: float) -> Tensor:
    """How often each scene is drawn, beside the others: `hard` times where a thing is HARD."""
    return torch.tensor(
        [
            hard if any({thing.shape, thing.texture} & set(HARD) for thing in scene.things) else 1.0
            for scene in scenes
        ]
    )


class Known(NamedTuple):
    """Scenes of one extent and their latents (n c y x)."""

    scenes: list[Scene]
    latents: Tensor


def make_latents(
    vae: Autoencoder, n: int, generator: Generator, workers: int = 0, plain: float = 0.0, other: float = 0.0
) -> list[Known]:
    """n scenes and their latents, drawn (by `workers` processes) and encoded SOME at a time, the share
    `plain` as people draw; those of one extent together, the share `other` in others than the square.
    """
    seed = int(torch.randint(2**62, (), generator=generator))

    def drawn(first: int) -> tuple[list[Scene], Tensor]:
        rng = random.Random(f"{seed} {first}")
        extent = some_extent(rng, other)
        scenes = sample_scenes(min(SOME, n - first), rng, plain=plain, extent=extent)
        return scenes, render(scenes, pixels_of(extent))

    found: dict[tuple[float, float], list[Known]] = {}
    some = next(vae.vae.parameters())
    for scenes, pictures in ahead(drawn, range(0, n, SOME), workers):
        found.setdefault(scenes[0].extent, []).append(Known(scenes, vae.encode(pictures.to(some)).cpu()))
    return [
        Known([s for part in parts for s in part.scenes], torch.cat([part.latents for part in parts]))
        for parts in found.values()
    ]


def weights(scenes: list[Scene], two: float, hard: float) -> Tensor:
    """How often each scene is drawn: those with two things the share `two` of the times, and among them as
    among the others those of `how_often` more often.
    """
    often, double = how_often(scenes, hard), torch.tensor([len(scene.things) == 2 for scene in scenes])
    total = (often * double).sum(), (often * ~double).sum()
    return often * torch.where(double, two / total[0], (1 - two) / total[1])


def one_of(groups: Sequence[T], sizes: Sequence[int], generator: Generator) -> T:
    """One of the groups, each as often as it is large; with one group nothing is drawn."""
    if len(groups) == 1:
        return groups[0]
    weights = torch.tensor(sizes, dtype=torch.float32)
    return groups[int(torch.multinomial(weights, 1, generator=generator))]


def encode_all(
    vae: Autoencoder, scenes: Sequence[Any], draw: Callable[[Sequence[Any]], Tensor], workers: int = 0
) -> Tensor:
    """The latents (n c y x) of scenes, drawn (by `workers` processes) and encoded SOME at a time; on the
    CPU, in the autoencoder's precision.
    """
    some = next(vae.vae.parameters())
    pictures = ahead(lambda i: draw(scenes[i : i + SOME]), range(0, len(scenes), SOME), workers)
    return torch.cat([vae.encode(p.to(some)).cpu() for p in pictures])


@dataclass(frozen=True)
class PainterArguments(RunArguments):
    """What a run of a text-to-picture model in latents can be asked for, in any world."""

    elsewhere = (*RunArguments.elsewhere, "snapshots")
    warmup: Rounds = 300
    tilt: Tilt = 1.0
    snapshots: str = ""  # a folder where each checkpoint leaves the average as a file that `load` opens
    vae: str = "shapes-vae"


@dataclass(frozen=True)
class Arguments(PainterArguments):
    """What a run of this recipe can be asked for."""

    recipe = "shapes"
    name: str = "shapes"
    steps: Count = 5400
    scenes: Count = 40000  # made and encoded once
    two: Fraction = 0.5  # share of scenes with two things
    hard: Positive = 1.0  # draws scenes with what is learnt last so many times as often
    free: Fraction = 0.0  # share of captions in free wordings
    plain: Fraction = 0.0  # share of scenes as people draw them
    other: Fraction = 0.0  # share of batches in another aspect ratio
    width: Count = NET["width"]
    blocks: Count = NET["blocks"]
    heads: Count = NET["heads"]


def header(given: RunArguments, config: dict) -> dict:
    """What the file of a latent v-model says of itself; given.vae names its autoencoder."""
    known = dict(kind="text2image", prediction="v", schedule=dict(name="cosine", T=1000), size=64)
    return known | dict(vae=Path(given.vae).stem, vae_sha256=sha256(find(given.vae))) | config


def train(
    given: PainterArguments,
    modules: nn.ModuleDict,
    data: Callable[[int, Generator], tuple[Tensor, Tensor]],
    config: dict,
    earlier: list[dict],
) -> None:
    """Train the modules on latents and tokens that `data` gives for a step, and publish them."""
    schedule, config = Schedule.cosine(), header(given, config)
    modules.to(given.on, memory_format=torch.channels_last)
    if given.compiled:
        modules["net"].compile()

    def snapshot(fitted: Fitted) -> None:
        figures = dict(loss=recent(fitted.losses))
        publish(given, dict(fitted.ema), config, fitted, figures, earlier, out=given.snapshots)

    fitted = fit(
        lambda m, d, g: loss(m, d, g, schedule, given.tilt),
        modules,
        data,
        given.settings(),
        replace(given.files(), after_save=snapshot if given.snapshots else None),
        workers=given.workers,
        until=given.until,
    )
    if rank_and_world()[0] == 0:
        g = step_generator(given.seed, given.steps + 1)
        z, tokens = moved(data(given.steps, g), given.on)
        t = torch.linspace(50, schedule.T, len(z)).long()
        noised = q_sample(schedule, z, t, gaussian(z, g))
        error = storage_error(dict(fitted.ema), lambda m: m["net"](noised, t, m["text"](tokens)))
        figures = dict(loss=recent(fitted.losses), storage_error=error)
        print(publish(given, dict(fitted.ema), config, fitted, figures, earlier), figures)


def main(given: Arguments) -> None:
    rank, world = rank_and_world()
    groups = make_latents(
        load_autoencoder(given.vae, given.on),
        given.scenes // world,
        step_generator(given.seed, given.steps, rank),
        given.workers,
        given.plain,
        given.other,
    )
    torch.manual_seed(given.seed)  # the initial weights, alike on every rank
    net = NET | dict(width=given.width, blocks=given.blocks, heads=given.heads)
    modules, tokenizer, config = models(net)
    config |= dict(free=given.free) if given.free else {}  # else it is asked by plain captions
    earlier = start_from(given.init, dict(modules))

    often = [weights(group.scenes, given.two, given.hard) for group in groups]

    def data(step: int, generator: Generator) -> tuple[Tensor, Tensor]:
        known, chances = one_of(list(zip(groups, often)), [len(g.scenes) for g in groups], generator)
        rows = torch.multinomial(chances, given.share, replacement=True, generator=generator)
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        tokens = tokenizer([told(known.scenes[i], rng, EMPTY, given.free) for i in rows.tolist()])
        return known.latents[rows].to(memory_format=torch.channels_last), tokens

    train(given, modules, data, config, earlier)


if __name__ == "__main__":
    command_line(main, Arguments)
