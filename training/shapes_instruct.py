"""Recipe of shapes-instruct: edits of the shapes world by instruction, from pairs of pictures before and
after.

    python -m palimpsest.training.shapes_instruct # true pairs, drawn by the world
    python -m palimpsest.training.shapes_instruct --pairs FOLDER # pairs of picture files: NAME/before.png, after.png, instruction.txt

Loss (15): E‖ε − ε_θ(z_t, t, E(c_I), c_T)‖² in its v-form, z_t of the picture after the edit
("InstructPix2Pix", arXiv:2211.09800v2, Sec. 3.2). The net is shapes', widened by the latent of the
picture before, whose weights begin as zero, so that the first step is the text-to-picture model's own.
One uniform number r for each picture drops the text (r < 2p), the picture (p ≤ r < 3p), and so both where
p ≤ r < 2p, with p = .05. The text encoder learns on: captions are not instructions. Half of the
instructions are said in other words (worlds/instructions.py). Times are drawn with density ∝ t
(training/shapes.py)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from palimpsest.fit.ahead import ahead, moved, step_generator
from palimpsest.fit.loop import fit
from palimpsest.fit.processes import rank_and_world
from palimpsest.fit.settings import Files, Settings
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.nets.unet import widen_input
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.ddpm import l_simple
from palimpsest.samplers.noise import gaussian
from palimpsest.samplers.schedule import Schedule
from palimpsest.training.recipe import command_line, publish, start_from, storage_error
from palimpsest.training.shapes import models, times
from palimpsest.weights.files import read_weights, sha256
from palimpsest.weights.load import find, load_autoencoder, own_device
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


def train(
    name: str,
    model: tuple[nn.ModuleDict, WordTokenizer, dict, list[dict]],
    pairs: Pairs,
    arguments: dict[str, Any],
    *,
    init: str,
    scale: float,
    count: int,
    recipe: str,
    vae: str,
    state: str,
    on: torch.device,
    out: str,
    workers: int = 0,
    until: float = math.inf,
    read: Callable[[WordTokenizer, list[str], Generator], Tensor] = lambda tokenizer, texts, generator: (
        tokenizer(texts)
    ),
) -> None:
    """Train what `widened` gives on pairs, and publish it.

    scale: the `condition_scale` of their autoencoder; count: how many pairs there are, over all ranks;
    read: the rows of instructions."""
    (modules, tokenizer, config, earlier), (before, after, asked) = model, pairs
    (rank, world), schedule, seed, steps = (
        rank_and_world(),
        Schedule.cosine(),
        arguments["seed"],
        arguments["steps"],
    )
    modules.to(on, memory_format=torch.channels_last)
    if arguments["compiled"]:
        modules["net"].compile()
    null = tokenizer([""])

    def data(step: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows = torch.randint(len(asked), (arguments["batch"] // world,), generator=generator)
        z_0, c_I = (z[rows].float() for z in (after, before))
        tokens = read(tokenizer, [asked[i] for i in rows.tolist()], generator)
        return (
            z_0.to(memory_format=torch.channels_last),
            (c_I / scale).to(memory_format=torch.channels_last),
            tokens,
            null,
        )

    fitted = fit(
        lambda m, d, g: loss(m, d, g, schedule),
        modules,
        data,
        Settings(
            steps=steps,
            lr=arguments["lr"],
            precision=arguments["precision"],
            seed=seed,
            warmup=arguments["warmup"],
        ),
        Files(
            checkpoint=f"{state}/checkpoint.pt",
            log=f"{state}/loss.csv",
            save_every=100,
            identity=dict(recipe=dict(arguments, init=sha256(init))),
        ),
        workers=workers,
        until=until,
    )
    if rank == 0:
        config = dict(
            kind="text2image",
            prediction="v",
            schedule=dict(name="cosine", T=schedule.T),
            vae=Path(vae).stem,
            vae_sha256=sha256(find(vae)),
            size=64,
            **config,
        )
        z_0, c_I, tokens, _ = moved(data(steps, g := step_generator(seed, steps + 1)), on)
        t = torch.linspace(50, schedule.T, len(z_0)).long()
        seen = torch.cat([q_sample(schedule, z_0, t, gaussian(z_0, g)), c_I], dim=1)
        figures = dict(
            loss=sum(fitted.losses[-200:]) / len(fitted.losses[-200:]),
            pairs=count,
            storage_error=storage_error(
                dict(fitted.ema), lambda m: m["net"](seen, t, m["text"](tokens)), torch.int8
            ),
        )
        print(
            publish(
                name,
                dict(fitted.ema),
                config,
                out=out,
                recipe=recipe,
                arguments=arguments,
                fitted=fitted,
                figures=figures,
                earlier=earlier,
                dtype=torch.int8,
            ),
            figures,
        )


def main(
    *,
    steps: int = 6000,
    batch: int = 32,
    lr: float = 6e-4,
    n: int = 24000,
    pairs: str = "true",
    warmup: int = 200,
    precision: str = "float32",
    compiled: int = 0,
    seed: int = 0,
    workers: int = 0,
    until: float = math.inf,
    init: str = "weights/shapes.safetensors",
    name: str = "shapes-instruct",
    state: str = "",
    vae: str = "shapes-vae",
    device: str = "auto",
    out: str = "weights",
) -> None:
    (rank, world), on, state = rank_and_world(), own_device(device), state or f"runs/{name}"
    arguments = dict(
        steps=steps,
        batch=batch,
        lr=lr,
        n=n,
        pairs=Path(pairs).name,
        warmup=warmup,
        precision=precision,
        compiled=compiled,
        seed=seed,
        init=Path(init).name,
    )
    autoencoder, generator = load_autoencoder(vae, on), step_generator(seed, steps, rank)
    torch.manual_seed(seed)  # the initial weights, alike on every rank
    net = read_weights(init)[0]["net"]  # of the width that the file has
    model = widened(models(dict(net, in_channels=net["out_channels"])), init)
    if pairs == "true":
        known = true_pairs(autoencoder, n // world, generator, workers)
    else:
        known = pairs_of(pairs, autoencoder, 64, model[1], workers)
    train(
        name,
        model,
        known,
        arguments,
        init=init,
        scale=condition_scale(autoencoder),
        recipe="palimpsest.training.shapes_instruct",
        count=len(known[2]) * (world if pairs == "true" else 1),
        vae=vae,
        state=state,
        on=on,
        out=out,
        workers=workers,
        until=until,
    )


if __name__ == "__main__":
    command_line(main)
