"""Public checkpoints read as the fields of a Model, and a Model written as one.

The keys of a file decide what it is; its name does not count:

    CompVis      model.diffusion_model.…, first_stage_model.…, cond_stage_model.…: one file of Stable
                 Diffusion v1 or v2 with 4 channels, 8 (InstructPix2Pix) or 9 (inpainting)
    diffusers    a folder with unet/, vae/, text_encoder/, and often tokenizer/ and scheduler/
    DDPM         temb.dense.0.…: the unconditional U-Nets that SDEdit uses
    GLIDE        transformer_proj.…, input_blocks.…: its base and its upsampler, with and without inpainting

Loading is strict: every parameter must be in the file, and the file may hold nothing more than what BUFFERS
and UNUSED of weights/public/layouts.py name. Public models count noise levels from 0. Here ᾱ_0 = 1 is the
clean picture and noise begins at t = 1, so every Model that is made here has shift = 1: its net is given
t − 1."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from palimpsest.nets.ddpm import DDPM
from palimpsest.nets.unet import UNet
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.changes import merged_model
from palimpsest.weights.files import WeightsError
from palimpsest.weights.public.compvis import KIND, read_compvis, write_compvis
from palimpsest.weights.public.folders import read_diffusers, write_diffusers
from palimpsest.weights.public.glide import read_glide
from palimpsest.weights.public.layouts import ddpm_names
from palimpsest.weights.public.mapped import Checkpoint, header_of
from palimpsest.weights.public.shared import build_empty

if TYPE_CHECKING:
    from palimpsest.weights.model import Model


def is_public(path: Path) -> bool:
    """Whether this module reads the file or folder. It does not read this library's own weight files."""
    if path.is_dir():
        return True
    if not path.exists():
        return False
    header = header_of(path).get("palimpsest")
    return header is None or f'"kind": "{KIND}"' in header


def read_public(path: Path, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The fields of a Model. Raises WeightsError for another layout, a damaged file, and tensors that do not
    fit.
    """
    try:
        if path.is_dir():
            return read_diffusers(path, device, dtype)
        checkpoint = Checkpoint(path)
        if "temb.dense.0.weight" in checkpoint.shapes:
            return read_ddpm(checkpoint, device, dtype)
        if "transformer_proj.weight" in checkpoint.shapes:
            return read_glide(checkpoint, device, dtype)
        return read_compvis(checkpoint, device, dtype)
    except KeyError as error:
        raise WeightsError(
            f"model: {path} lacks {error.args[0]!r}, without which the rest cannot be placed; fetch it again"
        ) from None


def read_ddpm(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """An unconditional U-Net on pixels of 256×256 (CelebA-HQ, LSUN), linear schedule."""
    shapes = checkpoint.shapes
    levels = 1 + max(int(key.split(".")[1]) for key in shapes if key.startswith("down."))
    width = shapes["conv_in.weight"][0]
    mult = [shapes[f"down.{k}.block.0.conv1.weight"][0] // width for k in range(levels)]
    net = build_empty(
        checkpoint.path,
        DDPM,
        dict(
            channels=shapes["conv_in.weight"][1],
            width=width,
            mult=mult,
            blocks=sum(key.startswith("down.0.block.") and key.endswith("conv1.weight") for key in shapes),
            attention=[f"down.{k}.attn.0.norm.weight" in shapes for k in range(levels)],
        ),
    )
    names = ddpm_names(net)
    checkpoint.fits(net, names)
    return dict(
        name=checkpoint.path.stem,
        net=checkpoint.load_into(net, names, device, dtype),
        text=None,
        tokenizer=None,
        vae=None,
        schedule=Schedule.linear(),
        prediction="eps",
        latent_scale=1.0,
        size=256,
        shift=1,
    )


def save(model: Model, path: str | Path) -> Path:
    """Write a Model for other programs: FILE.safetensors in the layout of CompVis, any other name as a
    folder of diffusers.

    Weights keep their dtype and their bits. Low-rank changes are added to the maps that they change. An old
    file is replaced whole or not at all. Raises ValueError for a name that ends like a pickle's, for a folder
    where a file is, and for a Model that the layout cannot express."""
    path, model = Path(path), merged_model(model)
    if not isinstance(model.net, UNet):
        raise ValueError(
            f"path: {model.name} is a {type(model.net).__name__}, for which neither layout has names; keep "
            "the file that it was read from"
        )
    if path.suffix == ".safetensors":
        return write_compvis(model, path)
    if path.suffix in {".ckpt", ".pt", ".pth", ".bin"} or path.is_file():
        raise ValueError(
            f"path: {path} would be a pickle, or is a file; end it with .safetensors, or name a new folder"
        )
    return write_diffusers(model, path)
