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
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.nets.unet import UNet
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.files import WeightsError
from palimpsest.weights.public import configs
from palimpsest.weights.public.configs import config_of
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
from palimpsest.weights.public.mapped import Checkpoint, some
from palimpsest.weights.public.parts import (
    LATENT_SCALE,
    LATENT_SIDE,
    bare,
    fit_together,
    tokenizer_of,
    write_file,
)
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
FRAGMENTS = {
    "lora_": "holds low-rank changes (LoRA), no model; merge them into their model first",
    "down_blocks.": "is the U-Net of a diffusers folder; give the folder that holds unet/, vae/ and text_encoder/",
    "encoder.": "is an autoencoder alone; give the whole checkpoint, or the folder that holds unet/, vae/ and text_encoder/",
    "blocks.input.w_": "is one half of GLIDE's noised CLIP; load_noised_clip of weights/public/towers.py reads both halves",
    "text_model.": "is a text encoder alone; give the folder that holds unet/, vae/ and text_encoder/",
}


def read_compvis(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """A single file. Its U-Net's moving average is taken where it holds one: sampling was meant to use it."""
    path, shapes = checkpoint.path, checkpoint.shapes

    def begins(start: str) -> bool:
        return any(key.startswith(start) for key in shapes)

    for start, what in OTHERS.items():
        if begins(start):
            raise WeightsError(f"model: {path} is {what}")
    if not begins(UNET_PREFIX):
        for start, what in FRAGMENTS.items():
            if begins(start):
                raise WeightsError(f"model: {path} {what}")
        if kind := recognise(shapes):
            raise WeightsError(
                f"model: {path} holds {kind.what}, which paints nothing; {kind.loader} of weights/public/towers.py reads it"
            )
        raise WeightsError(
            f"model: {path} carries no palimpsest configuration in its header and no layout that is known here (its keys: "
            f"{some(sorted(shapes)) or 'none'}); take a Stable Diffusion v1 checkpoint, or a file that write_weights wrote"
        )
    if any(key.endswith("proj_in.weight") and len(shape) == 2 for key, shape in shapes.items()):
        raise WeightsError(
            f"model: {path} has linear projections in its U-Net: Stable Diffusion 2 or later, which is {V1}"
        )

    try:
        said = json.loads(
            checkpoint.header.get("palimpsest", "{}")
        )  # what `save` knew and shapes do not tell
    except json.JSONDecodeError as error:
        raise WeightsError(f"model: {path} has a damaged header ({error}); save it again") from None

    def part(prefix: str) -> dict[str, tuple[int, ...]]:
        return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}

    text_prefix = TEXT_PREFIX + (
        "text_model." if part(TEXT_PREFIX + "text_model.") or not part(TEXT_PREFIX) else ""
    )
    net = bare(path, UNet, said.get("net") or configs.unet_of_shapes(part(UNET_PREFIX)))
    text = vae = None
    if said.get("text", True) is not None:
        text = bare(path, TextTransformer, said.get("text") or configs.text_of_shapes(part(text_prefix)))
    if said.get("vae", True) is not None:
        vae = bare(path, AutoencoderKL, said.get("vae") or configs.vae_of_shapes(part(VAE_PREFIX)))
    fit_together(path, net, text, vae)

    names = {"net": {k: UNET_PREFIX + v for k, v in compvis_unet_names(net).items()}}
    if text is not None:
        names["text"] = {k: text_prefix + v for k, v in diffusers_names(text).items()}
    if vae is not None:
        names["vae"] = {k: VAE_PREFIX + v for k, v in compvis_vae_names(vae).items()}
    modules = {"net": net, "text": text, "vae": vae}
    averages = (
        {k: ema_name(v) for k, v in names["net"].items()}
        if any(key.startswith("model_ema.diffusion") for key in shapes)
        else {}
    )
    whole = nn.ModuleDict({name: modules[name] for name in names})
    wanted = {f"{name}.{k}": v for name, keys in names.items() for k, v in keys.items()}
    checkpoint.fits(
        whole,
        wanted | {f"net.{k}": v for k, v in averages.items()},
        ignored=[*(key for key in shapes if BUFFERS.match(key)), *names["net"].values()],
    )
    tokenizer = tokenizer_of(
        text, said.get("words"), path, said.get("merges")
    )  # asked for before the long work
    for name, keys in (names | ({"net": averages} if averages else {})).items():
        checkpoint.pour(modules[name], keys, device, dtype)

    return dict(
        name=path.stem,
        net=net,
        text=text,
        vae=vae,
        tokenizer=tokenizer,
        schedule=Schedule(torch.tensor(said["abar"], dtype=torch.float64))
        if "abar" in said
        else Schedule.scaled_linear(),
        prediction=said.get("prediction", "eps"),
        latent_scale=said.get("latent_scale", LATENT_SCALE),
        size=said.get("size") or LATENT_SIDE * vae.factor,
        shift=said.get("shift", 1),
    )


def write_compvis(model: Model, path: Path) -> Path:
    """One safetensors file, weights bit for bit; what the layout has no key for stands in its header."""
    parts: list[tuple[str, nn.Module | None, dict[str, str]]] = [
        (UNET_PREFIX, model.net, compvis_unet_names(model.net)),
        (VAE_PREFIX, model.vae, compvis_vae_names(model.vae) if model.vae is not None else {}),
        (
            TEXT_PREFIX + "text_model.",
            model.text,
            diffusers_names(model.text) if model.text is not None else {},
        ),
    ]
    tensors = {
        prefix + names[key]: to_compvis_shape(names[key], value)
        for prefix, module, names in parts
        if module is not None
        for key, value in module.state_dict().items()
    }
    net, text, vae = (
        config_of(module) if module is not None else None for module in (model.net, model.text, model.vae)
    )
    said = dict(
        kind=KIND,
        net=net,
        text=text,
        vae=vae,
        prediction=model.prediction,
        latent_scale=model.latent_scale,
        size=model.size,
        shift=model.shift,
        abar=model.schedule.abar.tolist(),
    )
    if isinstance(model.tokenizer, WordTokenizer):
        said["words"] = model.tokenizer.words
    elif model.tokenizer is not None:
        said["merges"] = [
            " ".join(pair) for pair in model.tokenizer.rank
        ]  # a single file has no folder to keep them in
    write_file(path, tensors, {"palimpsest": json.dumps(said)})
    return path
