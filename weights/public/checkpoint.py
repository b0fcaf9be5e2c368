"""Public checkpoints, as the parts of a Model, and back: Stable Diffusion v1 and its children, whichever
way they were published.

What a file is, its keys say, not its name:

    CompVis      model.diffusion_model.…, first_stage_model.…, cond_stage_model.…: one file; 4 channels, or 8
                 (InstructPix2Pix), or 9 (inpainting)
    diffusers    a folder with unet/, vae/, text_encoder/, and often tokenizer/ and scheduler/
    DDPM         temb.dense.0.…: the unconditional U-Nets that SDEdit uses
    GLIDE        transformer_proj.…, input_blocks.…: its base and its upsampler, for inpainting or not

Loading is strict: nothing missing, nothing left over but what BUFFERS of weights/public/layouts.py names.
Their times count noise levels from 0 and ours from 1 (ᾱ_0 = 1 is the clean picture), so each Model made
here has shift = 1: the net hears t − 1."""

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
    """Whether the file or folder is one that this module reads, rather than one of this library's own."""
    if path.is_dir():
        return True
    if not path.exists():
        return False
    header = header_of(path).get("palimpsest")
    return header is None or f'"kind": "{KIND}"' in header


def read_public(path: Path, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The fields of a Model. Raises WeightsError for what is none of the layouts above, is damaged, or
    does not fit.
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
    """Write a Model where others can read it: FILE.safetensors is the CompVis layout, any other name a
    diffusers folder.

    Weights keep their dtype and their bits; low-rank changes are put into the maps that they change. A
    file replaces an old one whole or not at all. Raises ValueError for a name that ends like a pickle, a
    folder's name that is a file's, and for a Model that the layout cannot say."""
    path, model = Path(path), merged_model(model)
    if not isinstance(model.net, UNet):
        raise ValueError(
            f"path: {model.name} is a {type(model.net).__name__}, which neither layout can say; keep the "
            "file that it was read from"
        )
    if path.suffix == ".safetensors":
        return write_compvis(model, path)
    if path.suffix in {".ckpt", ".pt", ".pth", ".bin"} or path.is_file():
        raise ValueError(
            f"path: {path} would be a pickle, or is a file; end it with .safetensors, or name a new folder"
        )
    return write_diffusers(model, path)
