"""Recipe of shapes-clip and shapes-clip-noised: pictures and captions of the shapes world in one space.

    python -m palimpsest.training.shapes_clip                                                     # clean pictures, 64×64
    python -m palimpsest.training.shapes_clip --noised 1 --name shapes-clip-noised                # x_t at 32×32, told t

"Learning Transferable Visual Models From Natural Language Supervision", arXiv:2103.00020v1, Sec. 2.3: of
a batch of pictures and captions, find which belong together. The noised one (GLIDE, arXiv:2112.10741v3,
Sec. 2.4) looks at x_t, by the schedule of the base model that it is to guide, and knows t; everything
else is the same. Its scale is fixed, as the published one's is. Chance finds a picture's caption among n
once in n; the record tells how often these find it among 64."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from palimpsest.fit.ahead import moved, step_generator
from palimpsest.fit.loop import fit
from palimpsest.fit.processes import rank_and_world
from palimpsest.fit.settings import Files, Settings
from palimpsest.nets.judges.clip import CLIP, MEAN, STD, contrastive_loss
from palimpsest.nets.judges.noised_clip import NoisedCLIP
from palimpsest.nets.judges.vit import standardise
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.noise import gaussian
from palimpsest.samplers.schedule import Schedule
from palimpsest.training.recipe import command_line, publish, start_from, storage_error
from palimpsest.training.scenes import Draw, Supply
from palimpsest.training.shapes import told
from palimpsest.weights.files import sha256
from palimpsest.weights.load import own_device
from palimpsest.worlds.scene import WORDS

LENGTH = 24
TOWERS = dict(
    width=128, layers=4, heads=4, embed=64, length=LENGTH, text_width=128, text_layers=3, text_heads=4
)
CLEAN, NOISED = TOWERS | dict(size=64, patch=8), TOWERS | dict(size=32, patch=4, scale=20.0)
AMONG = 64
SCHEDULE = dict(name="cosine", T=1000)


def model(noised: bool) -> tuple[CLIP | NoisedCLIP, WordTokenizer, dict]:
    """The net, its tokenizer, and the configuration that rebuilds both."""
    tokenizer = WordTokenizer(list(WORDS), LENGTH)
    config = dict(NOISED if noised else CLEAN, vocab=tokenizer.vocab_size, end=tokenizer.end)
    kind = "noised_clip" if noised else "clip"
    return (
        (NoisedCLIP if noised else CLIP)(**config),
        tokenizer,
        dict(kind=kind, clip=config, words=list(WORDS), schedule=SCHEDULE),
    )


def logits(
    net: CLIP | NoisedCLIP,
    pictures: Tensor,
    tokens: Tensor,
    generator: Generator,
    schedule: Schedule,
    t: Tensor | None = None,
) -> Tensor:
    """(b b): of clean pictures, or of x_t at times drawn evenly where the net knows times."""
    if isinstance(net, CLIP):
        return net(standardise(pictures, MEAN, STD), tokens)
    t = torch.randint(1, schedule.T + 1, (len(pictures),), generator=generator) if t is None else t
    x_t = q_sample(schedule, pictures, t, gaussian(pictures, generator))
    return net(x_t, (t - 1).to(pictures.device), tokens)


Data = Callable[
    [int, Generator], tuple[Tensor, Tensor]
]  # n pictures in [−1, 1] and the rows of their captions


def train(
    name: str,
    net: CLIP | NoisedCLIP,
    config: dict[str, Any],
    data: Data,
    fresh: Data,
    arguments: dict[str, Any],
    *,
    recipe: str,
    earlier: list[dict[str, Any]],
    init: str,
    state: str,
    on: torch.device,
    out: str,
    workers: int = 0,
    until: float = math.inf,
) -> None:
    """Train a net on what `data` gives, judge it by what `fresh` gives, and publish it."""
    (rank, world), schedule, steps, seed = (
        rank_and_world(),
        Schedule.cosine(SCHEDULE["T"]),
        arguments["steps"],
        arguments["seed"],
    )
    net.to(on)

    def loss(net: nn.Module, d: tuple[Tensor, Tensor], generator: Generator) -> Tensor:
        return contrastive_loss(logits(net, *d, generator, schedule))

    fitted = fit(
        loss,
        net,
        lambda step, g: data(arguments["batch"] // world, g),
        Settings(
            steps=steps,
            lr=arguments["lr"],
            precision=arguments["precision"],
            seed=seed,
            warmup=arguments["warmup"],
            weight_decay=0.0125,
        ),
        Files(
            checkpoint=f"{state}/checkpoint.pt",
            log=f"{state}/loss.csv",
            identity=dict(recipe=dict(arguments, init=sha256(init) if init else "")),
        ),
        workers=workers,
        until=until,
    )
    if rank == 0:
        g, net, tests = step_generator(seed, steps + 1), fitted.ema, arguments["tests"]
        pictures, tokens = moved(fresh(tests, g), on)
        figures = {"n": tests, "among": AMONG, "loss": sum(fitted.losses[-200:]) / len(fitted.losses[-200:])}
        for t in (1, 250, 500, 750) if isinstance(net, NoisedCLIP) else (0,):
            found = [
                logits(net, p, k, g, schedule, torch.full((len(p),), t)).argmax(1)
                == torch.arange(len(p), device=on)
                for p, k in zip(pictures.split(AMONG), tokens.split(AMONG))
            ]
            figures[f"found_t{t}" if t else "found"] = torch.cat(found).double().mean().item()
        figures["storage_error"] = storage_error(
            {"clip": net},
            lambda m: logits(
                m["clip"],
                pictures[:64],
                tokens[:64],
                step_generator(seed, 0),
                schedule,
                torch.full((len(pictures[:64]),), 250),
            ),
        )
        print(
            publish(
                name,
                {"clip": net},
                config,
                out=out,
                recipe=recipe,
                arguments=arguments,
                fitted=fitted,
                figures=figures,
                earlier=earlier,
            ),
            figures,
        )


def main(
    *,
    steps: int = 3000,
    batch: int = 128,
    lr: float = 1e-3,
    two: float = 0.4,
    noised: int = 0,
    kept: int = 0,
    warmup: int = 200,
    precision: str = "float32",
    seed: int = 0,
    workers: int = 0,
    until: float = math.inf,
    tests: int = 1024,
    init: str = "",
    name: str = "shapes-clip",
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
        noised=noised,
        kept=kept,
        warmup=warmup,
        precision=precision,
        seed=seed,
        tests=tests,
        init=Path(init).name,
    )
    torch.manual_seed(seed)
    net, tokenizer, config = model(bool(noised))
    earlier = start_from(init, {"clip": net})
    supply = Supply(config["clip"]["size"], two=two, kept=kept // world, seed=(seed, rank), workers=workers)

    def read(drawn: Draw) -> Data:
        def data(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
            scenes, pictures, rng = drawn(n, generator)
            return pictures, tokenizer([told(scene, rng) for scene in scenes])

        return data

    train(
        name,
        net,
        config,
        read(supply),
        read(supply.fresh),
        arguments,
        recipe="palimpsest.training.shapes_clip",
        earlier=earlier,
        init=init,
        state=state,
        on=on,
        out=out,
        workers=workers,
        until=until,
    )


if __name__ == "__main__":
    command_line(main)
