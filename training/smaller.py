"""Store weight files of nets that paint in int8, half the bytes of float16, without training anything.

    python -m palimpsest.training.smaller shapes-glide

The files are replaced; what their nets learned and how stays in the header. What the rounding costs (the RMS
change of the net's answers to 64 noised pictures, relative to their RMS) goes into the record. A file that is
in int8 already is left as it is."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from palimpsest.cli.manners import Parser, exit_code_of
from palimpsest.methods.super_resolution import made_small
from palimpsest.nets.glide import GlideUNet
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.noise import gaussian
from palimpsest.training.recipe import storage_error
from palimpsest.weights.files import (
    FOLDER,
    SCALE,
    WeightsError,
    config_in,
    sha256,
    update_manifest,
    write_weights,
)
from palimpsest.weights.load import find, load
from palimpsest.weights.model import Model
from palimpsest.worlds.shapes import caption, render, sample_scene

N = 64


def answers(model: Model) -> Tensor:
    """What the net says of 64 noised pictures under their captions, at times over the whole schedule."""
    rng, g = random.Random(0), torch.Generator().manual_seed(0)
    scenes = [sample_scene(rng) for _ in range(N)]
    x_0 = render(scenes, model.size)
    z_0 = x_0 if model.vae is None else model.encode(x_0)
    t = torch.linspace(1, model.schedule.T, N).long()
    seen = q_sample(model.schedule, z_0, t, gaussian(z_0, g))
    if isinstance(model.net, GlideUNet):
        kept = dict(picture=x_0, mask=torch.ones_like(x_0[:, :1])) if model.net.inpainting else {}
        small = dict(low_res=made_small(x_0, 2)) if model.net.upsampling else {}
        seen = model.net.inputs(seen, **kept, **small)
    elif model.beside:
        seen = torch.cat([seen, z_0 / model.latent_scale], dim=1)
    return model.net(seen, t - model.shift, model.embed([caption(scene) for scene in scenes]))


def in_int8(path: Path) -> bool:
    """Whether a file was stored so."""
    with safe_open(path, "pt") as file:
        return any(key.endswith(SCALE) for key in file.keys())


def shrink(path: Path) -> float:
    """Replace a file by itself in int8, and tell what that costs. Raises WeightsError for a file that is
    damaged, or none of this library's."""
    model = load(path, "cpu", torch.float32)
    modules = dict(net=model.net, text=model.text)
    error = storage_error(modules, lambda m: answers(replace(model, **m)), torch.int8)
    write_weights(path, modules, config_in(path), torch.int8)
    new = dict(sha256=sha256(path), bytes=path.stat().st_size)

    def changed(records: dict[str, Any]) -> dict[str, Any]:
        old = records[path.name]
        return records | {path.name: old | new | dict(figures=old["figures"] | dict(storage_error=error))}

    if path.resolve().parent == FOLDER.resolve():
        update_manifest(changed)
    return error


def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = Parser(prog="python -m palimpsest.training.smaller", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="a shipped model, or a file of this library")
    for name in parser.parse_args(argv).names:
        path = find(name)
        if not config_in(path):
            raise WeightsError(f"model: {path} is no weight file of this library")
        if in_int8(path):
            print(f"{path.name} is in int8 already")
        else:
            before = path.stat().st_size
            error = shrink(path)
            print(f"{path.name}: {before:,} -> {path.stat().st_size:,} bytes, error {100 * error:.1f} %")


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
