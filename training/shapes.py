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
costs for stars. `hard` draws scenes with them so many times as often. `free` is the share of captions in free
wordings (worlds/wordings.py)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from palimpsest.fit.ahead import ahead, moved, step_generator
from palimpsest.fit.loop import fit
from palimpsest.fit.processes import rank_and_world
from palimpsest.fit.run import Fitted
from palimpsest.fit.settings import Files, Settings
from palimpsest.nets.text import TextTransformer
from palimpsest.nets.tokenizer import WordTokenizer, split_words
from palimpsest.nets.unet import UNet
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.ddpm import l_simple
from palimpsest.samplers.noise import gaussian
from palimpsest.samplers.schedule import Schedule
from palimpsest.training.recipe import command_line, publish, start_from, storage_error
from palimpsest.weights.files import sha256
from palimpsest.weights.load import find, load_autoencoder, own_device
from palimpsest.weights.model import Autoencoder
from palimpsest.worlds.scene import WORDS, Scene
from palimpsest.worlds.shapes import caption, render, sample_scene
from palimpsest.worlds.wordings import worded

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
    while free and rng.random() < free:
        if len(split_words(said := worded(scene, rng))) <= LENGTH - 2:  # a few are too long for the net
            return said
    return caption(scene, size=rng.random() > 0.15, background=rng.random() > 0.15)


def how_often(scenes: list[Scene], hard: float) -> Tensor:
    """How often each scene is drawn, beside the others: `hard` times where a thing is HARD."""
    return torch.tensor(
        [
            hard if any({thing.shape, thing.texture} & set(HARD) for thing in scene.things) else 1.0
            for scene in scenes
        ]
    )


def make_latents(
    vae: Autoencoder, n: int, generator: Generator, workers: int = 0
) -> tuple[list[Scene], Tensor]:
    """n scenes and their latents (n c y x), drawn (by `workers` processes) and encoded SOME at a time."""
    seed = int(torch.randint(2**62, (), generator=generator))

    def drawn(first: int) -> tuple[list[Scene], Tensor]:
        rng = random.Random(f"{seed} {first}")
        scenes = [sample_scene(rng) for _ in range(min(SOME, n - first))]
        return scenes, render(scenes)

    scenes, latents, some = [], [], next(vae.vae.parameters())
    for more, pictures in ahead(drawn, range(0, n, SOME), workers):
        scenes += more
        latents.append(vae.encode(pictures.to(some)).cpu())
    return scenes, torch.cat(latents)


def encode_all(
    vae: Autoencoder, scenes: Sequence[Any], draw: Callable[[Sequence[Any]], Tensor], workers: int = 0
) -> Tensor:
    """The latents (n c y x) of scenes, drawn (by `workers` processes) and encoded SOME at a time; on
    the CPU, in the autoencoder's precision.
    """
    some = next(vae.vae.parameters())
    pictures = ahead(lambda i: draw(scenes[i : i + SOME]), range(0, len(scenes), SOME), workers)
    return torch.cat([vae.encode(p.to(some)).cpu() for p in pictures])


def times(n: int, T: int, generator: Generator, tilt: float = 1.0) -> Tensor:
    """n whole times 1 … T with density ∝ t^tilt, tilt > −1."""
    return (T * torch.rand(n, generator=generator) ** (1 / (1 + tilt))).long().clamp(max=T - 1) + 1


def loss(
    modules: nn.ModuleDict,
    data: tuple[Tensor, Tensor],
    generator: Generator,
    schedule: Schedule,
    tilt: float = 1.0,
) -> Tensor:
    z_0, tokens = data
    t = times(len(z_0), schedule.T, generator, tilt)
    eps = gaussian(z_0, generator)
    ctx = modules["text"](tokens)
    return l_simple(
        lambda z_t, t: modules["net"](z_t, t, ctx), schedule, z_0, t, eps, "v"
    )  # Eq. (5) in v-form


def train(
    name: str,
    modules: nn.ModuleDict,
    data: Callable[[int, Generator], tuple[Tensor, Tensor]],
    config: dict,
    arguments: dict,
    *,
    earlier: list[dict],
    vae: str,
    state: str,
    on: torch.device,
    out: str,
    workers: int = 0,
    until: float = math.inf,
    snapshots: str = "",
) -> None:
    """Train the modules on latents and tokens that `data` gives for a step, and publish them; `arguments`
    are the recipe's. snapshots: a folder where each checkpoint leaves the average as a file that `load`
    opens; "": none.
    """
    schedule, seed, steps = Schedule.cosine(), arguments["seed"], arguments["steps"]
    config = dict(
        kind="text2image",
        prediction="v",
        schedule=dict(name="cosine", T=schedule.T),
        vae=Path(vae).stem,
        vae_sha256=sha256(find(vae)),
        size=64,
        **config,
    )
    modules.to(on, memory_format=torch.channels_last)
    if arguments["compiled"]:
        modules["net"].compile()

    def write(fitted: Fitted, folder: str, figures: dict[str, float]) -> dict[str, float]:
        figures = dict(loss=sum(fitted.losses[-200:]) / len(fitted.losses[-200:]), **figures)
        publish(
            name,
            dict(fitted.ema),
            config,
            out=folder,
            recipe=f"palimpsest.training.{name}",
            arguments=arguments,
            fitted=fitted,
            figures=figures,
            earlier=earlier,
        )
        return figures

    fitted = fit(
        lambda m, d, g: loss(m, d, g, schedule, arguments.get("tilt", 1.0)),
        modules,
        data,
        Settings(
            steps=steps,
            lr=arguments["lr"],
            optimiser=arguments.get("optimiser", "adamw"),
            seed=seed,
            warmup=arguments["warmup"],
            precision=arguments["precision"],
        ),
        Files(
            after_save=(lambda f: write(f, snapshots, {})) if snapshots else None,
            checkpoint=f"{state}/checkpoint.pt",
            log=f"{state}/loss.csv",
            identity=dict(recipe=arguments),
            save_every=100,
        ),
        workers=workers,
        until=until,
    )
    if rank_and_world()[0] == 0:
        g = step_generator(seed, steps + 1)
        z, tokens = moved(data(steps, g), on)
        t = torch.linspace(50, schedule.T, len(z)).long()
        noised = q_sample(schedule, z, t, gaussian(z, g))
        error = storage_error(dict(fitted.ema), lambda m: m["net"](noised, t, m["text"](tokens)))
        print(Path(out) / f"{name}.safetensors", write(fitted, out, dict(storage_error=error)))


def main(
    *,
    steps: int = 5400,
    batch: int = 32,
    lr: float = 1e-3,
    scenes: int = 40000,
    two: float = 0.5,
    hard: float = 1.0,
    free: float = 0.0,
    tilt: float = 1.0,
    width: int = NET["width"],
    blocks: int = NET["blocks"],
    heads: int = NET["heads"],
    optimiser: str = "adamw",
    warmup: int = 300,
    precision: str = "float32",
    compiled: int = 0,
    seed: int = 0,
    workers: int = 0,
    until: float = math.inf,
    init: str = "",
    snapshots: str = "",
    state: str = "runs/shapes",
    vae: str = "shapes-vae",
    device: str = "auto",
    out: str = "weights",
) -> None:
    (rank, world), on = rank_and_world(), own_device(device)
    if not tilt > -1:
        raise ValueError(f"tilt: times are drawn with density ∝ t^tilt; it must be more than −1, got {tilt}")
    arguments = dict(
        steps=steps,
        batch=batch,
        lr=lr,
        scenes=scenes,
        two=two,
        hard=hard,
        free=free,
        tilt=tilt,
        width=width,
        blocks=blocks,
        heads=heads,
        optimiser=optimiser,
        warmup=warmup,
        precision=precision,
        compiled=compiled,
        seed=seed,
        init=Path(init).name,
    )
    known, latents = make_latents(
        load_autoencoder(vae, on), scenes // world, step_generator(seed, steps, rank), workers
    )
    torch.manual_seed(seed)  # the initial weights, alike on every rank
    modules, tokenizer, config = models(NET | dict(width=width, blocks=blocks, heads=heads))
    earlier = start_from(init, dict(modules))

    singles, doubles = (torch.tensor([i for i, s in enumerate(known) if len(s.things) == n]) for n in (1, 2))
    often = how_often(known, hard)

    def data(step: int, generator: Generator) -> tuple[Tensor, Tensor]:
        pairs = torch.rand(batch // world, generator=generator) < two
        rows = torch.where(
            pairs,
            *(
                group[torch.multinomial(often[group], len(pairs), replacement=True, generator=generator)]
                for group in (doubles, singles)
            ),
        )
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        z_0, tokens = (
            latents[rows].to(memory_format=torch.channels_last),
            tokenizer([told(known[i], rng, EMPTY, free) for i in rows.tolist()]),
        )
        return z_0, tokens

    train(
        "shapes",
        modules,
        data,
        config,
        arguments,
        earlier=earlier,
        vae=vae,
        state=state,
        on=on,
        out=out,
        workers=workers,
        until=until,
        snapshots=snapshots,
    )


if __name__ == "__main__":
    command_line(main)
