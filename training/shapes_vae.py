"""Recipe of shapes-vae: the autoencoder of the shapes world, 64×64×3 -> 16×16×8 (arXiv:2112.10752v2, Sec.
3.1, KL-regularised).

    python -m palimpsest.training.shapes_vae                     # one process
    torchrun --nproc-per-node 2 -m palimpsest.training.shapes_vae

# ours: 8 latent channels, where the public layout has 4: in one trial of each, in the minutes given to
# it, 4 came less far.

Loss: squared error of the reconstruction + β KL(q(z|x) ‖ N(0, 1)) + γ times the squared error between the
decoded half-size latent and the half-size picture. No adversarial or perceptual term: this world has no
fine texture to invent, and its measure is PSNR.

What a diffusion model finds in a latent matters as much as PSNR. A picture is strongest where it is
smooth, so a sampler settles the layout first and the edges last. A large β undoes that: it whitens the
latent, and fine detail arrives with the same strength as colour and place. Hence β is small, γ asks for
latents that shrink as pictures do (arXiv:2502.14831v2), and the last act of a run (and the first, if it
goes on from earlier weights, `init`) is to turn the latent's axes: see `rebalance`.

A run that goes on can keep old latents nearly valid, and the models that were trained in them: `anchor` is
the weight of the squared distance between the latents of scenes and those of `init`, the axes are then not
turned, and the decoder learns most. `strange` is the share of pictures that are no renders but, half and
half, drawings as people make them and subjects
(worlds/subjects.py): what DreamBooth learns must be seen through this autoencoder."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from palimpsest.arguments import ArgumentError, Count, Fraction, Interval, Positive
from palimpsest.fit.loop import fit
from palimpsest.fit.processes import rank_and_world
from palimpsest.metrics.image import psnr
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.samplers.noise import gaussian
from palimpsest.training.recipe import RunArguments, command_line, publish, start_from, storage_error
from palimpsest.weights.files import read_weights
from palimpsest.worlds.mix import sample_scenes
from palimpsest.worlds.scene import HELD_OUT
from palimpsest.worlds.shapes import render, sample_scene
from palimpsest.worlds.subjects import render_subjects, sample_context, sample_subject

CONFIG = dict(width=16, mult=(1, 2, 4), blocks=1, latent_channels=8, norm_groups=8)


def scenes(n: int, generator: Generator, held_out: bool | None = False) -> list:
    """n scenes of the shapes world from a torch generator."""
    rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
    return [sample_scene(rng, held_out=held_out) for _ in range(n)]


def strangers(n: int, generator: Generator) -> Tensor:
    """n pictures of subjects, each in its own context, some beside another thing; no held-out pair."""
    rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
    subjects, contexts = [], []
    while len(subjects) < n:
        subject = sample_subject(rng)
        context = sample_context(
            rng, size=rng.choice(("large", "large", "small")), other=rng.random() < 0.3, noun=subject.noun
        )
        if context.other is None or (context.other.colour, context.other.shape) not in HELD_OUT:
            subjects.append(subject)
            contexts.append(context)
    return render_subjects(subjects, contexts)


def drawings(n: int, generator: Generator, held_out: bool | None = False) -> Tensor:
    """n pictures of scenes as people draw them."""
    rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
    return render(sample_scenes(n, rng, plain=1.0, held_out=held_out)) if n else torch.empty(0, 3, 64, 64)


def mixed(n: int, generator: Generator, strange: float) -> Tensor:
    """n pictures, renders first, then the share `strange` of drawings and of subjects, half and half."""
    few = round(strange * n)
    drawn = render(scenes(n - few, generator)) if few < n else torch.empty(0)
    if not few:
        return drawn
    return torch.cat([drawn, drawings(few // 2, generator), strangers(few - few // 2, generator)])


class Anchor(NamedTuple):
    """What keeps latents in place: the encoder that they come from, a weight, and the share of pictures, the
    first ones of a batch, that it holds.
    """

    vae: nn.Module
    weight: float
    share: float


def loss(
    vae: nn.Module,
    x: Tensor,
    generator: Generator,
    kl_weight: float,
    smooth: float,
    anchor: Anchor | None = None,
) -> Tensor:
    mean, logvar = vae.encode(x)
    held = 0.0
    if anchor:
        n = math.ceil(anchor.share * len(x))
        with torch.no_grad():
            there = anchor.vae.encode(x[:n])[0]
        held = anchor.weight * ((mean[:n] - there) ** 2).mean()
    z = mean + (logvar / 2).exp() * gaussian(mean, generator)
    kl = (mean**2 + logvar.exp() - 1 - logvar).mean() / 2  # per latent number
    halved = ((vae.decode(avg_pool2d(z, 2)) - avg_pool2d(x, 2)) ** 2).mean() if smooth else 0.0
    return ((vae.decode(z) - x) ** 2).mean() + kl_weight * kl + smooth * halved + held


@torch.no_grad()
def smooth_axes(z: Tensor) -> tuple[Tensor, Tensor]:
    """The axes of latents z (b c y x) in order of smoothness: (c,) shares, rising, and (c, c) rows that
    map z to unit variance on each.

    The share of an axis is the part of its variance that is left after averaging 2×2 cells: 1 for a flat
    latent, .25 for white noise."""
    z = z - z.mean((0, 2, 3), keepdim=True)
    low = interpolate(avg_pool2d(z, 2), scale_factor=2.0)
    total, kept = (torch.einsum("bcyx,bdyx->cd", a, a).double() / (z.numel() / z.shape[1]) for a in (z, low))
    values, turn = torch.linalg.eigh(total)
    whiten = (turn / values.sqrt()).T
    shares, axes = torch.linalg.eigh(whiten @ kept @ whiten.T)
    return shares.float(), (axes.T @ whiten).float()


@torch.no_grad()
def rebalance(vae: AutoencoderKL, x: Tensor) -> None:
    """Centre, turn and scale the latent's axes so that smooth ones are strong: variance ∝ share²/(1.1 −
    share), 1 in the mean over axes.

    The change of basis goes into the two 1×1 convolutions at the latent's ends, so reconstruction stays
    as it was; the posterior's spread starts anew at e^−3."""
    z = vae.encode(x)[0]
    shares, whiten = smooth_axes(z)
    variance = shares**2 / (1.1 - shares)
    there = (variance / variance.mean()).sqrt()[:, None] * whiten
    back = torch.linalg.inv(there)
    c = len(shares)
    into, out = vae.quant_conv, vae.post_quant_conv
    before = out.weight[:, :, 0, 0].clone()
    out.weight.copy_((before @ back)[:, :, None, None])
    into.weight[:c] = (there @ into.weight[:c, :, 0, 0])[:, :, None, None]
    centre = z.mean((0, 2, 3))
    into.bias[:c] = there @ (into.bias[:c] - centre)
    out.bias += before @ centre
    into.weight[c:], into.bias[c:] = 0.0, -6.0


@torch.no_grad()
def measure(vae: nn.Module, x: Tensor) -> dict[str, float]:
    """Reconstruction of pictures that were not trained on, and the scale of their latents."""
    z = torch.cat([vae.encode(part)[0] for part in x.split(64)])
    db = torch.cat([psnr(vae.decode(a).clamp(-1, 1), b) for a, b in zip(z.split(64), x.split(64))])
    smooth = avg_pool2d(z, 2).var((0, 2, 3)).sum() / z.var((0, 2, 3)).sum()
    return dict(
        psnr_mean=db.mean().item(),
        psnr_p05=db.quantile(0.05).item(),
        latent_std=z.std().item(),
        smooth_share=smooth.item(),
        n=len(x),
    )


@torch.no_grad()
def moved(before: nn.Module, after: nn.Module, x: Tensor) -> float:
    """The root of the mean square by which latents of x moved."""
    steps = [(after.encode(part)[0] - before.encode(part)[0]).square().mean() for part in x.split(64)]
    return torch.stack(steps).mean().sqrt().item()


@dataclass(frozen=True)
class VaeArguments(RunArguments):
    """What a run of an autoencoder can be asked for, in any world."""

    elsewhere = (*RunArguments.elsewhere, "tests")
    steps: Count = 3600
    lr: Positive = 1.5e-3
    kl_weight: Annotated[float, Interval(0)] = 1e-6
    smooth: Annotated[float, Interval(0)] = 0.1
    anchor: Annotated[float, Interval(0)] = 0.0  # how firmly the latents of `init` are held
    tests: Count = 512  # pictures that the finished net is measured on

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.anchor and not self.init:
            raise ArgumentError("anchor", "holds the latents of the file that init names; name one")


@dataclass(frozen=True)
class Arguments(VaeArguments):
    """What a run of this recipe can be asked for."""

    recipe = "shapes_vae"
    name: str = "shapes-vae"
    batch: Count = 8
    strange: Fraction = 0.0  # share of pictures that are no renders


Draw = Callable[[int, Generator], Tensor]  # (n, generator) -> pictures (n 3 y x)


def train(given: VaeArguments, config: dict, draw: Draw, unseen: Draw, *, strange: float = 0.0) -> None:
    """The autoencoder of a world: `draw` gives its training pictures, `unseen` those it is measured on.

    strange: see above; `draw` gives its strange pictures last.
    """
    torch.manual_seed(given.seed)  # the initial weights, alike on every rank
    vae = AutoencoderKL(**config)
    earlier = start_from(given.init, {"vae": vae})
    if given.init and not given.anchor:
        rebalance(vae, draw(256, Generator().manual_seed(given.seed)))
    vae.to(given.on, memory_format=torch.channels_last)
    held = None
    if given.anchor:
        held = Anchor(copy.deepcopy(vae).requires_grad_(False), given.anchor, 1 - strange)
    if given.compiled:
        vae.encoder.compile()
        vae.decoder.compile()
    fitted = fit(
        lambda net, x, g: loss(net, x, g, given.kl_weight, given.smooth, held),
        vae,
        lambda step, g: draw(given.share, g).to(memory_format=torch.channels_last),
        given.settings(),
        given.files(),
        workers=given.workers,
        until=given.until,
    )
    if rank_and_world()[0] == 0:
        known, net = draw(256, Generator().manual_seed(given.seed)), fitted.ema.cpu()
        if not given.anchor:
            rebalance(net, known)
        pictures = unseen(given.tests, Generator().manual_seed(10**6))
        figures = measure(net, pictures)
        figures["storage_error"] = storage_error(
            {"vae": net}, lambda m: m["vae"].decode(m["vae"].encode(known[:32])[0])
        )
        if strange:
            for what, some in (("subjects", strangers), ("drawings", drawings)):
                others = some(given.tests, Generator().manual_seed(10**6))
                figures[f"psnr_{what}"] = measure(net, others)["psnr_mean"]
        if held:
            figures["moved"] = moved(held.vae.cpu(), net, pictures)
        scale = read_weights(given.init)[0]["latent_scale"] if held else 1 / figures["latent_std"]
        header = dict(kind="vae", vae=config, latent_scale=scale, size=64)
        print(publish(given, {"vae": net}, header, fitted, figures, earlier), figures)


def main(given: Arguments) -> None:
    train(
        given,
        CONFIG,
        lambda n, g: mixed(n, g, given.strange),
        lambda n, g: render(scenes(n, g, held_out=None)),
        strange=given.strange,
    )


if __name__ == "__main__":
    command_line(main, Arguments)
