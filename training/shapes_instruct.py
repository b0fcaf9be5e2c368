"""Recipe of shapes-instruct: edits of the shapes world by instruction, from pairs of pictures before and
after.

    python -m palimpsest.training.shapes_instruct # true pairs, drawn by the world
    python -m palimpsest.training.shapes_instruct --pairs FOLDER

A folder of pairs holds NAME/before.png, NAME/after.png and NAME/instruction.txt for each.

Loss (15): E‖ε − ε_θ(z_t, t, E(c_I), c_T)‖² in its v-form, z_t of the picture after the edit
("InstructPix2Pix", arXiv:2211.09800v2, Sec. 3.2). The net is shapes', widened by the latent of the
picture before, whose weights begin as zero, so that the first step is the text-to-picture model's own.
One uniform number r for each picture drops the text (r < 2p), the picture (p ≤ r < 3p), and so both where
p ≤ r < 2p, with p = .05. The text encoder learns on: captions are not instructions. Half of the
instructions are said in other words (worlds/instructions.py). Times are drawn with density ∝ t
(training/shapes.py)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from palimpsest.arguments import Count, Positive
from palimpsest.fit.ahead import ahead, moved, step_generator
from palimpsest.fit.loop import fit
from palimpsest.fit.processes import rank_and_world
from palimpsest.methods.captioned import times
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.nets.unet import widen_input
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.ddpm import l_simple
from palimpsest.samplers.noise import gaussian
from palimpsest.samplers.schedule import Schedule
from palimpsest.training.recipe import RunArguments, command_line, publish, recent, start_from, storage_error
from palimpsest.training.shapes import header, models
from palimpsest.weights.files import read_weights
from palimpsest.weights.load import load_autoencoder
from palimpsest.weights.model import Autoencoder
from palimpsest.worlds.files import read_picture
from palimpsest.worlds.instructions import asked as in_free_words
from palimpsest.worlds.shapes import apply, edits, instruction, is_held_out, render, sample_scene

DROP = 0.05  # p: of the text alone, of both, and of the picture alone
KINDS = ("recolour", "reshape", "retexture", "resize", "background", "add", "remove", "swap")

Pairs = tuple[Tensor, Tensor, list[str]]  # latents before and after (n c y x), what was asked for


def dropped(r: Tensor, p: float = DROP) -> tuple[Tensor, Tensor]:
    """(no text, no picture), bool (b,), from uniform numbers r (b,). # Sec. 3.2.1; official code: one
    draw decides both
    """
    return r < 2 * p, (r >= p) & (r < 3 * p)


def condition_scale(vae: Autoencoder) -> float:
    """What an encoded picture is divided by to be shown to the net unscaled (methods/instruct_pix2pix.py)."""
    return vae.latent_scale


def true_pairs(vae: Autoencoder, n: int, generator: Generator, workers: int = 0) -> Pairs:
    """n edits of every kind in turn, no held-out pair of colour and shape among them, and their latents,
    drawn by `workers` processes.
    """
    seed, device = int(torch.randint(2**62, (), generator=generator)), next(vae.vae.parameters()).device
    parts = []
    for before, after, asked in ahead(
        lambda first: drawn_pairs(min(64, n - first), f"{seed} {first}"), range(0, n, 64), workers
    ):
        parts.append((vae.encode(before.to(device)).cpu(), vae.encode(after.to(device)).cpu(), asked))
    before, after, asked = zip(*parts)
    return torch.cat(before), torch.cat(after), [text for some in asked for text in some]


def drawn_pairs(n: int, seed: str) -> tuple[Tensor, Tensor, list[str]]:
    """n pictures before and after (n 3 64 64) and what was asked for, the kinds in turn."""
    rng, before, after, asked = random.Random(seed), [], [], []
    while len(before) < n:
        scene, kind = sample_scene(rng), KINDS[len(before) % len(KINDS)]
        options = [e for e in edits(scene) if e.kind == kind and not is_held_out(apply(scene, e))]
        if options:
            edit = rng.choice(options)
            before.append(scene)
            after.append(apply(scene, edit))
            plain = rng.random() < 0.5
            asked.append(instruction(scene, edit) if plain else in_free_words(scene, edit, rng))
    return render(before), render(after), asked


def pairs_of(
    folder: str | Path, vae: Autoencoder, size: int, tokenizer: WordTokenizer, workers: int = 0
) -> Pairs:
    """Pairs of picture files and their latents, read by `workers` processes. Raises ValueError that names
    the first file which is missing, cannot be read, is of another size than its fellow, or says nothing
    or what the tokenizer does not know: before the training."""
    places = sorted(p for p in Path(folder).iterdir() if p.is_dir()) if Path(folder).is_dir() else []
    if not places:
        raise ValueError(f"pairs: {folder} holds no folders with before.png, after.png and instruction.txt")
    for file in (place / name for place in places for name in ("before.png", "after.png", "instruction.txt")):
        if not file.exists():
            raise ValueError(f"pairs: {file} is missing")
    asked = [instruction_of(place / "instruction.txt", tokenizer) for place in places]

    def shown(first: int) -> Tensor:
        """A before and an after picture of 64 places in turn."""
        return torch.cat([p for place in places[first : first + 64] for p in pair_of(place, size)])

    some = next(vae.vae.parameters())
    z = torch.cat(
        [vae.encode(pictures.to(some)).cpu() for pictures in ahead(shown, range(0, len(places), 64), workers)]
    )
    return z[::2], z[1::2], asked


def instruction_of(file: Path, tokenizer: WordTokenizer) -> str:
    """What is asked for of a pair. Raises ValueError that names the file."""
    try:
        text = file.read_text(encoding="utf-8").strip()
        tokenizer([text])
    except ValueError as error:  # an unknown word, or no text at all
        raise ValueError(f"pairs: {file}: {error}") from None
    if not text:
        raise ValueError(f"pairs: {file} is empty; say what was changed")
    return text


def pair_of(place: Path, size: int) -> tuple[Tensor, Tensor]:
    """Pictures before and after, each (1 3 size size). Raises ValueError that names a file which is no
    such picture.
    """
    pictures = []
    for name in ("before.png", "after.png"):
        picture = read_picture(place / name, size)
        if picture.shape[-2:] != (size, size):
            raise ValueError(f"pairs: {place / name} is not square; cut it before it is given")
        pictures.append(picture)
    return pictures[0], pictures[1]


def loss(
    modules: nn.ModuleDict,
    data: tuple[Tensor, Tensor, Tensor, Tensor],
    generator: Generator,
    schedule: Schedule,
) -> Tensor:
    """Eq. (15), in v-form."""
    z_0, c_I, tokens, null = data
    t = times(len(z_0), schedule.T, generator)
    eps = gaussian(z_0, generator)
    no_text, no_picture = (drop.to(z_0.device) for drop in dropped(torch.rand(len(z_0), generator=generator)))
    ctx = modules["text"](torch.where(no_text[:, None], null, tokens))
    c_I = torch.where(no_picture[:, None, None, None], 0.0, c_I)
    return l_simple(
        lambda z_t, t: modules["net"](torch.cat([z_t, c_I], dim=1), t, ctx), schedule, z_0, t, eps, "v"
    )  # Eq. (15)


def widened(
    parts: tuple[nn.ModuleDict, WordTokenizer, dict], init: str
) -> tuple[nn.ModuleDict, WordTokenizer, dict, list[dict]]:
    """The parts of a text-to-picture model (training.shapes.models), filled from the file `init` and made
    to see a picture beside the latent, and what that file was trained with. A file that was trained to
    see a picture is gone on from."""
    modules, tokenizer, config = parts
    latent = config["net"]["in_channels"]
    again = read_weights(init)[0]["net"]["in_channels"] > latent
    if again:
        modules["net"] = widen_input(modules["net"], latent)
    earlier = start_from(init, dict(modules))
    if not again:
        modules["net"] = widen_input(modules["net"], latent)  # Sec. 3.2: zeros, so step 0 is the model's own
    return modules, tokenizer, config | dict(net=dict(config["net"], in_channels=2 * latent)), earlier


@dataclass(frozen=True)
class InstructArguments(RunArguments):
    """What a run of a model that follows instructions can be asked for, in any world."""

    stored = torch.int8
    lr: Positive = 6e-4
    n: Count = 24000  # true pairs, made and encoded once
    pairs: str = ""  # a folder of pairs of picture files
    vae: str = "shapes-vae"

    def record(self) -> dict[str, Any]:
        """Of the folder of pairs the name."""
        return super().record() | dict(pairs=Path(self.pairs).name)


@dataclass(frozen=True)
class Arguments(InstructArguments):
    """What a run of this recipe can be asked for."""

    recipe = "shapes_instruct"
    name: str = "shapes-instruct"
    steps: Count = 6000
    pairs: str = "true"  # or a folder of pairs of picture files
    init: str = "weights/shapes.safetensors"


Read = Callable[[WordTokenizer, list[str], Generator], Tensor]  # instructions -> rows of tokens


def as_written(tokenizer: WordTokenizer, texts: list[str], generator: Generator) -> Tensor:
    """The instructions as they are."""
    return tokenizer(texts)


def train(
    given: InstructArguments,
    model: tuple[nn.ModuleDict, WordTokenizer, dict, list[dict]],
    pairs: Pairs,
    *,
    scale: float,
    count: int,
    read: Read = as_written,
) -> None:
    """Train what `widened` gives on pairs, and publish it.

    scale: the `condition_scale` of their autoencoder; count: how many pairs there are, over all ranks.
    """
    (modules, tokenizer, config, earlier), (before, after, asked) = model, pairs
    schedule, null = Schedule.cosine(), tokenizer([""])
    modules.to(given.on, memory_format=torch.channels_last)
    if given.compiled:
        modules["net"].compile()

    def data(step: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows = torch.randint(len(asked), (given.share,), generator=generator)
        z_0, c_I = (z[rows].float() for z in (after, before))
        tokens = read(tokenizer, [asked[i] for i in rows.tolist()], generator)
        z_0, c_I = (z.to(memory_format=torch.channels_last) for z in (z_0, c_I / scale))
        return z_0, c_I, tokens, null

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
        z_0, c_I, tokens, _ = moved(data(given.steps, g), given.on)
        t = torch.linspace(50, schedule.T, len(z_0)).long()
        seen = torch.cat([q_sample(schedule, z_0, t, gaussian(z_0, g)), c_I], dim=1)
        error = storage_error(dict(fitted.ema), lambda m: m["net"](seen, t, m["text"](tokens)), given.stored)
        figures = dict(loss=recent(fitted.losses), pairs=count, storage_error=error)
        config = header(given, config)
        print(publish(given, dict(fitted.ema), config, fitted, figures, earlier), figures)


def main(given: Arguments) -> None:
    rank, world = rank_and_world()
    autoencoder = load_autoencoder(given.vae, given.on)
    torch.manual_seed(given.seed)  # the initial weights, alike on every rank
    net = read_weights(given.init)[0]["net"]  # of the width that the file has
    model = widened(models(dict(net, in_channels=net["out_channels"])), given.init)
    if given.pairs == "true":
        generator = step_generator(given.seed, given.steps, rank)
        known = true_pairs(autoencoder, given.n // world, generator, given.workers)
        count = len(known[2]) * world
    else:
        known = pairs_of(given.pairs, autoencoder, 64, model[1], given.workers)
        count = len(known[2])
    train(given, model, known, scale=condition_scale(autoencoder), count=count)


if __name__ == "__main__":
    command_line(main, Arguments)
