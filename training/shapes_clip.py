"""Recipe of shapes-clip and shapes-clip-noised: pictures and captions of the shapes world in one space.

    python -m palimpsest.training.shapes_clip                                       # clean pictures, 64×64
    python -m palimpsest.training.shapes_clip --noised 1 --name shapes-clip-noised  # x_t at 32×32, told t

"Learning Transferable Visual Models From Natural Language Supervision", arXiv:2103.00020v1, Sec. 2.3: of
a batch of pictures and captions, find which belong together. The noised one (GLIDE, arXiv:2112.10741v3,
Sec. 2.4) looks at x_t, by the schedule of the base model that it is to guide, and knows t. Its scale is
fixed, as the published one's is, and its image tower is half a U-Net, which may begin as that of a trained
classifier (`--tower`); the text tower may begin as another CLIP's (`--text`). Everything else is the same.
Chance finds a picture's caption among n once in n; the record tells how often these find it among 64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from palimpsest.arguments import ArgumentError, Count, Fraction, Rounds
from palimpsest.fit.ahead import moved, step_generator
from palimpsest.fit.loop import fit
from palimpsest.fit.processes import rank_and_world
from palimpsest.nets.judges.clip import CLIP, MEAN, STD, contrastive_loss
from palimpsest.nets.judges.noised_clip import NoisedCLIP
from palimpsest.nets.judges.vit import standardise
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.noise import gaussian
from palimpsest.samplers.schedule import Schedule
from palimpsest.training import shapes_classifier
from palimpsest.training.recipe import (
    RunArguments,
    Switch,
    command_line,
    publish,
    recent,
    start_from,
    storage_error,
    with_new_words,
)
from palimpsest.training.scenes import Draw, Supply
from palimpsest.training.shapes import told
from palimpsest.weights.files import read_weights
from palimpsest.worlds.scene import WORDS
from palimpsest.worlds.shapes import ATTRIBUTES

LENGTH = 24
TOWERS = dict(heads=4, embed=64, length=LENGTH, text_width=128, text_layers=3, text_heads=4)
CLEAN = TOWERS | dict(size=64, patch=8, width=128, layers=4)
NOISED = TOWERS | shapes_classifier.CONFIG | dict(queries=len(ATTRIBUTES), scale=20.0)
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


@dataclass(frozen=True)
class ClipArguments(RunArguments):
    """What a run of a CLIP can be asked for, in either world."""

    steps: Count = 3000
    batch: Count = 128
    tests: Count = 1024  # pictures that the finished net is measured on


@dataclass(frozen=True)
class Arguments(ClipArguments):
    """What a run of this recipe can be asked for."""

    recipe = "shapes_clip"
    name: str = "shapes-clip"
    two: Fraction = 0.4  # share of scenes with two things
    noised: Switch = 0  # 1: a net that looks at x_t and is told t
    tower: str = ""  # a shapes-classifier; the half U-Net of a noised CLIP begins as its
    text: str = ""  # a CLIP of these words; the text tower begins as its
    kept: Rounds = 0  # scenes drawn once and used again; 0: each step draws its own


def train(
    given: ClipArguments,
    net: CLIP | NoisedCLIP,
    config: dict[str, Any],
    data: Data,
    fresh: Data,
    earlier: list[dict[str, Any]],
) -> None:
    """Train a net on what `data` gives, judge it by what `fresh` gives, and publish it."""
    schedule = Schedule.cosine(SCHEDULE["T"])
    net.to(given.on)

    def loss(net: nn.Module, d: tuple[Tensor, Tensor], generator: Generator) -> Tensor:
        return contrastive_loss(logits(net, *d, generator, schedule))

    fitted = fit(
        loss,
        net,
        lambda step, g: data(given.share, g),
        replace(given.settings(), weight_decay=0.0125),
        given.files(),
        workers=given.workers,
        until=given.until,
    )
    if rank_and_world()[0] == 0:
        g = step_generator(given.seed, given.steps + 1)
        figures = judge(fitted.ema, moved(fresh(given.tests, g), given.on), g, schedule)
        figures = dict(n=given.tests, among=AMONG, loss=recent(fitted.losses), **figures)
        print(publish(given, {"clip": fitted.ema}, config, fitted, figures, earlier), figures)


def judge(
    net: CLIP | NoisedCLIP, data: tuple[Tensor, Tensor], generator: Generator, schedule: Schedule
) -> dict[str, float]:
    """How often a picture's own caption is the nearest of AMONG, and what float16 costs."""
    (pictures, tokens), figures = data, {}
    for t in (1, 250, 500, 750) if isinstance(net, NoisedCLIP) else (0,):
        found = []
        for p, k in zip(pictures.split(AMONG), tokens.split(AMONG)):
            nearest = logits(net, p, k, generator, schedule, torch.full((len(p),), t)).argmax(1)
            found.append(nearest == torch.arange(len(p), device=p.device))
        figures[f"found_t{t}" if t else "found"] = torch.cat(found).double().mean().item()
    some, said = pictures[:64], tokens[:64]
    level = torch.full((len(some),), 250)

    def answer(m: dict[str, nn.Module]) -> Tensor:
        return logits(m["clip"], some, said, step_generator(0, 0), schedule, level)

    return figures | dict(storage_error=storage_error({"clip": net}, answer))


def begin_as(net: CLIP | NoisedCLIP, tower: str, text: str) -> None:
    """Copy what a classifier's half U-Net has learned into the image tower, and a CLIP's text tower; "" for
    none. The heads of a classifier name values and are left out.

    ValueError where a file has none of the tower's shape."""
    parts: tuple[tuple[str, str, str, nn.Module], ...] = (
        ("tower", tower, "classifier.", net.image),
        ("text", text, "clip.text.", net.text),
    )
    for argument, file, prefix, part in parts:
        if not file:
            continue
        config, tensors = read_weights(file)
        tensors |= with_new_words(config, tensors, part, prefix)
        state = {k: v for k, v in part.state_dict().items() if not k.startswith("heads.")}
        begun = {k: tensors[prefix + k] for k in state if prefix + k in tensors}
        if any(k not in begun or begun[k].shape != v.shape for k, v in state.items()):
            raise ArgumentError(argument, f"{file} holds none of this net's shape")
        part.load_state_dict(part.state_dict() | begun)


def main(given: Arguments) -> None:
    torch.manual_seed(given.seed)
    net, tokenizer, config = model(bool(given.noised))
    begin_as(net, given.tower, given.text)
    earlier = start_from(given.init, {"clip": net})
    rank, world = rank_and_world()
    supply = Supply(
        config["clip"]["size"],
        two=given.two,
        kept=given.kept // world,
        seed=(given.seed, rank),
        workers=given.workers,
    )

    def read(drawn: Draw) -> Data:
        def data(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
            scenes, pictures, rng = drawn(n, generator)
            return pictures, tokenizer([told(scene, rng) for scene in scenes])

        return data

    train(given, net, config, read(supply), read(supply.fresh), earlier)


if __name__ == "__main__":
    command_line(main, Arguments)
