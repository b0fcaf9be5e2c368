"""CompVis's layout of Stable Diffusion v1 and its children: one file, read as the fields of a Model and
written back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from palimpsest.nets.text import TextTransformer
from palimpsest.nets.unet import UNet
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.files import WeightsError
from palimpsest.weights.public import configs
from palimpsest.weights.public.configs import Shapes, config_of
from palimpsest.weights.public.embeddings import said_of_words
from palimpsest.weights.public.layouts import (
    BUFFERS,
    TEXT_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    compvis_unet_names,
    compvis_vae_names,
    diffusers_names,
    ema_name,
    to_compvis_shape,
)
from palimpsest.weights.public.lora_names import described
from palimpsest.weights.public.mapped import Checkpoint, first_few
from palimpsest.weights.public.shared import (
    LATENT_SCALE,
    LATENT_SIDE,
    build_empty,
    check_parts_fit,
    write_file,
)
from palimpsest.weights.public.tokenizers import header_of_tokenizer, tokenizer_of_file
from palimpsest.weights.public.towers import recognise

if TYPE_CHECKING:
    from palimpsest.weights.model import Model

KIND = "compvis"  # in the header of the single files that `save` writes
V1 = "not supported; take a Stable Diffusion v1 checkpoint"
OTHERS = {  # the beginning of a key -> what such a file is
    "conditioner.": f"Stable Diffusion XL, which is {V1}",
    "cond_stage_model.model.": f"Stable Diffusion 2 (its text encoder is OpenCLIP's), which is {V1}",
    "control_model.": f"a ControlNet, which is {V1}",
}
WHOLE_FOLDER = "the folder that holds unet/, vae/ and text_encoder/"
FRAGMENTS = {  # the beginning of a key -> what such a file is, and the mend
    "down_blocks.": f"is the U-Net of a diffusers folder; give {WHOLE_FOLDER}",
    "encoder.": f"is an autoencoder alone; give the whole checkpoint, or {WHOLE_FOLDER}",
    "blocks.input.w_": "is one half of GLIDE's noised CLIP; "
    "load_noised_clip of weights/public/towers.py reads both halves",
    "text_model.": f"is a text encoder alone; give {WHOLE_FOLDER}",
}


def read_compvis(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """A single file, as the fields of a Model.

    Of its U-Net the moving average is taken where the file holds one: sampling was meant to use it. Raises
    WeightsError for a file of another kind, one that is damaged, and parts that do not fit.
    """
    path, shapes = checkpoint.path, checkpoint.shapes
    refuse_others(path, shapes)
    header = _header(checkpoint)
    modules, prefixes = _empty_modules(path, shapes, header)
    net, text, vae = (modules.get(name) for name in ("net", "text", "vae"))
    check_parts_fit(path, net, text, vae)

    names = {
        name: {ours: prefixes[name] + theirs for ours, theirs in _names_of(module).items()}
        for name, module in modules.items()
    }
    averages = {}
    if any(name.startswith("model_ema.diffusion") for name in shapes):
        averages = {ours: ema_name(theirs) for ours, theirs in names["net"].items()}
    wanted = {f"{name}.{ours}": theirs for name, keys in names.items() for ours, theirs in keys.items()}
    checkpoint.fits(
        nn.ModuleDict(modules),
        wanted | {f"net.{ours}": theirs for ours, theirs in averages.items()},
        ignored=[*(name for name in shapes if BUFFERS.match(name)), *names["net"].values()],
    )
    tokenizer = tokenizer_of_file(text, header)
    if averages:
        names["net"] = averages
    for name, keys in names.items():
        checkpoint.load_into(modules[name], keys, device, dtype)

    schedule = Schedule.scaled_linear()
    if "abar" in header:
        schedule = Schedule(torch.tensor(header["abar"], dtype=torch.float64))
    return dict(
        name=path.stem,
        net=net,
        text=text,
        vae=vae,
        tokenizer=tokenizer,
        schedule=schedule,
        prediction=header.get("prediction", "eps"),
        latent_scale=header.get("latent_scale", LATENT_SCALE),
        size=header.get("size") or LATENT_SIDE * vae.factor,
        shift=header.get("shift", 1),
    )


def refuse_others(path: Path, shapes: Shapes) -> None:
    """Raises WeightsError for a file that is not Stable Diffusion v1 in this layout, with what it is as far
    as that is known."""

    def begins(start: str) -> bool:
        return any(name.startswith(start) for name in shapes)

    for start, what in OTHERS.items():
        if begins(start):
            raise WeightsError(f"model: {path} is {what}")
    if not begins(UNET_PREFIX):
        if (change := described(shapes)) or (change := said_of_words(path)):
            raise WeightsError(f"model: {path} {change}")
        for start, what in FRAGMENTS.items():
            if begins(start):
                raise WeightsError(f"model: {path} {what}")
        if kind := recognise(shapes):
            raise WeightsError(
                f"model: {path} holds {kind.what}, which paints nothing; {kind.loader} of "
                "weights/public/towers.py reads it"
            )
        raise WeightsError(
            f"model: {path} carries no palimpsest configuration in its header and no layout that is known "
            f"here (its keys: {first_few(sorted(shapes)) or 'none'}); take a Stable Diffusion v1 checkpoint, "
            "or a file that write_weights wrote"
        )
    if any(name.endswith("proj_in.weight") and len(shape) == 2 for name, shape in shapes.items()):
        raise WeightsError(
            f"model: {path} has linear projections in its U-Net: Stable Diffusion 2 or later, which is {V1}"
        )


def _header(checkpoint: Checkpoint) -> dict[str, Any]:
    """What `save` wrote beside the weights, as shapes do not tell it; {} for a file of others."""
    try:
        return json.loads(checkpoint.header.get("palimpsest", "{}"))
    except json.JSONDecodeError as error:
        raise WeightsError(
            f"model: {checkpoint.path} has a damaged header ({error}); save it again"
        ) from None


def _empty_modules(
    path: Path, shapes: Shapes, header: dict[str, Any]
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The file's nets without weights, by the names of a Model's fields, and the prefix of each in the
    file."""

    def below(prefix: str) -> dict[str, tuple[int, ...]]:
        return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}

    nested = TEXT_PREFIX + "text_model."  # older files leave "text_model." out
    text_prefix = nested if below(nested) or not below(TEXT_PREFIX) else TEXT_PREFIX
    modules: dict[str, nn.Module] = {}
    for name, cls, prefix, read in (
        ("net", UNet, UNET_PREFIX, configs.unet_of_shapes),
        ("text", TextTransformer, text_prefix, configs.text_of_shapes),
        ("vae", AutoencoderKL, VAE_PREFIX, configs.vae_of_shapes),
    ):
        if name == "net" or header.get(name, True) is not None:  # null: the model has no such part
            modules[name] = build_empty(path, cls, header.get(name) or read(below(prefix)))
    return modules, {"net": UNET_PREFIX, "text": text_prefix, "vae": VAE_PREFIX}


def _names_of(module: nn.Module) -> dict[str, str]:
    """Our name -> the file's, without the prefix."""
    rule = {UNet: compvis_unet_names, AutoencoderKL: compvis_vae_names, TextTransformer: diffusers_names}
    return rule[type(module)](module)


def write_compvis(model: Model, path: Path) -> Path:
    """One safetensors file, weights bit for bit; what the layout has no key for stands in its header."""
    prefixes = {"net": UNET_PREFIX, "vae": VAE_PREFIX, "text": TEXT_PREFIX + "text_model."}
    tensors, header = {}, {"kind": KIND}
    for name, module in (("net", model.net), ("vae", model.vae), ("text", model.text)):
        header[name] = None if module is None else config_of(module)
        if module is not None:
            names = _names_of(module)
            for key, value in module.state_dict().items():
                tensors[prefixes[name] + names[key]] = to_compvis_shape(names[key], value)
    header |= dict(
        prediction=model.prediction,
        latent_scale=model.latent_scale,
        size=model.size,
        shift=model.shift,
        abar=model.schedule.abar.tolist(),
    )
    header |= header_of_tokenizer(model.tokenizer)
    write_file(path, tensors, {"palimpsest": json.dumps(header)})
    return path
