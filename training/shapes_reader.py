"""Recipe of shapes-reader: the network that reads every attribute of a shapes-world picture, raw or
through the autoencoder.

    python -m palimpsest.training.shapes_reader

It judges every edit, so it is trained on what it will see: half of the pictures are renders, half have
gone through shapes-vae with a little noise in the latent, as a sampler leaves it. All colour × shape
pairs are shown, the held-out ones too: it is the judge of composition, not its subject."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import torch
from torch import Generator, Tensor, nn

from palimpsest.arguments import Count, Fraction, Interval, Positive
from palimpsest.fit.ahead import ahead, step_generator
from palimpsest.fit.loop import fit
from palimpsest.fit.processes import rank_and_world
from palimpsest.nets.judges.reader import Reader, reader_loss
from palimpsest.samplers.noise import gaussian
from palimpsest.training.recipe import RunArguments, command_line, publish, start_from, storage_error
from palimpsest.weights.judges import Oracle
from palimpsest.weights.load import load_autoencoder
from palimpsest.weights.model import Autoencoder
from palimpsest.worlds.scene import Scene
from palimpsest.worlds.shapes import ATTRIBUTES, attributes, render, sample_scene

CONFIG = dict(width=24, size=64, heads=4)
SOME = 64  # pictures that go through the autoencoder at once


def labels(scenes: list[Scene]) -> dict[str, Tensor]:
    """The class of every attribute of every scene, {attribute: (b,)}."""
    found = [attributes(s) for s in scenes]
    return {name: torch.tensor([values.index(f[name]) for f in found]) for name, values in ATTRIBUTES.items()}


def is_hard(scene: Scene) -> bool:
    """Whether something small is striped or dotted: on a few pixels one is nearly the other, and nearly
    all that is misread is this.
    """
    return any(thing.size == "small" and thing.texture != "plain" for thing in scene.things)


def draw(n: int, generator: Generator, hard: float = 0.0, plain: float = 0.0) -> list[Scene]:
    """n scenes, the share `plain` as people draw them, and the share `hard` such as is_hard says, beside
    those that chance makes so.
    """
    rng, found = random.Random(int(torch.randint(2**62, (), generator=generator))), []
    for _ in range(n):
        wanted, by_hand = rng.random() < hard, plain > 0 and rng.random() < plain
        scene = sample_scene(rng, held_out=None, plain=by_hand)
        while wanted and not is_hard(scene):
            scene = sample_scene(rng, held_out=None, plain=by_hand)
        found.append(scene)
    return found


@torch.no_grad()
def measure(
    oracle: Oracle, vae: Autoencoder, n: int = 2048, seed: int = 10**6 + 1, plain: float = 0.0
) -> dict[str, float]:
    """All attributes right, and the worst single attribute, on new renders (or, for the share `plain`, on
    drawings as people make them): raw and through the autoencoder.
    """
    scenes = draw(n, Generator().manual_seed(seed), plain=plain)
    raw, truth = render(scenes), [attributes(s) for s in scenes]
    figures: dict[str, float] = dict(n=n)
    for name, pictures in (
        ("raw", raw),
        ("autoencoded", torch.cat([vae.decode(vae.encode(p)) for p in raw.split(64)])),
    ):
        read = oracle.read(pictures)
        each = {k: sum(r[k] == t[k] for r, t in zip(read, truth)) / n for k in ATTRIBUTES}
        figures[f"{name}_attribute_mean"] = sum(each.values()) / len(each)
        figures[f"{name}_attribute_worst"] = min(each.values())
        figures[f"{name}_all_right"] = sum(r == t for r, t in zip(read, truth)) / n
    return figures


@dataclass(frozen=True)
class Arguments(RunArguments):
    """What a run of this recipe can be asked for."""

    recipe = "shapes_reader"
    elsewhere = (*RunArguments.elsewhere, "tests")
    name: str = "shapes-reader"
    steps: Count = 6000
    batch: Count = 64
    lr: Positive = 1.5e-3
    reconstructions: Count = 16000  # scenes that are seen through the autoencoder
    noise: Annotated[float, Interval(0)] = 0.08  # strongest noise on their latents
    hard: Annotated[float, Interval(0)] = 0.0  # share of scenes that are mistaken most
    plain: Fraction = 0.0  # share of scenes as people draw them
    tests: Count = 2048  # scenes that the finished net is measured on
    vae: str = "shapes-vae"


Some = Callable[[int, Generator], list[Scene]]  # n scenes from a generator


def through(
    vae: Autoencoder, n: int, generator: Generator, noise: float, some: Some = draw, workers: int = 0
) -> tuple[list[Scene], Tensor]:
    """n scenes, drawn by `workers` processes as `some` draws, and their pictures through the autoencoder
    (n 3 y x) in float16, with noise in the latent of a level from U(0, noise).
    """
    seed = int(torch.randint(2**62, (), generator=generator))

    def drawn(first: int) -> tuple[list[Scene], Tensor]:
        scenes = some(min(SOME, n - first), step_generator(seed, first))
        return scenes, render(scenes)

    known, decoded, like = [], [], next(vae.vae.parameters())
    for scenes, pictures in ahead(drawn, range(0, n, SOME), workers):
        z = vae.encode(pictures.to(like))
        level = noise * torch.rand((len(z), 1, 1, 1), generator=generator)
        known += scenes
        decoded.append(vae.decode(z + level.to(z) * gaussian(z, generator)).half().cpu())
    return known, torch.cat(decoded)


def main(given: Arguments) -> None:
    rank, world = rank_and_world()
    generator = step_generator(given.seed, given.steps, rank)
    vae = load_autoencoder(given.vae, given.on)
    n, workers = given.reconstructions // world, given.workers
    some = partial(draw, hard=given.hard, plain=given.plain)
    known, decoded = through(vae, n, generator, given.noise, some, workers)
    truth = labels(known)

    def data(step: int, g: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        half = given.share // 2
        fresh, rows = some(half, g), torch.randint(len(known), (half,), generator=g)
        mine = labels(fresh)
        both = {k: torch.cat([mine[k], truth[k][rows]]) for k in truth}
        return torch.cat([render(fresh), decoded[rows].float()]), both

    def loss(net: nn.Module, d: tuple[Tensor, dict[str, Tensor]], g: Generator) -> Tensor:
        x = d[0] + (0.04 * torch.rand((len(d[0]), 1, 1, 1), generator=g)).to(d[0]) * gaussian(d[0], g)
        return reader_loss(net(x), d[1])

    torch.manual_seed(given.seed)  # the initial weights, alike on every rank
    net = Reader(attributes={name: len(v) for name, v in ATTRIBUTES.items()}, **CONFIG).to(given.on)
    earlier = start_from(given.init, {"reader": net})
    fitted = fit(
        loss,
        net,
        data,
        replace(given.settings(), weight_decay=0.01),
        given.files(200),
        workers=given.workers,
        until=given.until,
    )
    if rank == 0:
        oracle, vae = Oracle(fitted.ema.cpu(), ATTRIBUTES), load_autoencoder(given.vae)
        figures = measure(oracle, vae, given.tests)
        if given.plain:
            drawings = measure(oracle, vae, given.tests, plain=1.0)
            figures |= {f"plain_{name}": value for name, value in drawings.items() if name != "n"}
        seen = render(known[:64])
        error = storage_error(
            {"reader": fitted.ema}, lambda m: torch.cat(list(m["reader"](seen).values()), 1)
        )
        config = dict(kind="reader", reader=CONFIG, values=ATTRIBUTES)
        figures |= dict(storage_error=error)
        print(publish(given, {"reader": fitted.ema}, config, fitted, figures, earlier), figures)


if __name__ == "__main__":
    command_line(main, Arguments)
