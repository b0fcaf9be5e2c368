"""The layout of diffusers, a folder with unet/, vae/ and text_encoder/: read as the fields of a Model, and
written.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from palimpsest.arguments import ArgumentError
from palimpsest.nets.text import TextTransformer
from palimpsest.nets.tokenizer import ClipTokenizer
from palimpsest.nets.unet import UNet
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.outputs import whole_folder
from palimpsest.weights.files import WeightsError, write_json
from palimpsest.weights.public import configs
from palimpsest.weights.public.configs import Config, has_linear_projections
from palimpsest.weights.public.families import refuse_pipeline
from palimpsest.weights.public.layouts import BUFFERS, UNUSED, as_matrix, diffusers_names
from palimpsest.weights.public.mapped import Checkpoint, read_json
from palimpsest.weights.public.schedulers import read_scheduler, write_scheduler
from palimpsest.weights.public.shared import (
    LATENT_SCALE,
    LATENT_SIDE,
    build_empty,
    check_parts_fit,
    write_file,
)
from palimpsest.weights.public.tokenizers import read_tokenizer, write_tokenizer

if TYPE_CHECKING:
    from palimpsest.weights.model import Model


def read_diffusers(folder: Path, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The fields of a Model from unet/, vae/ and text_encoder/ of one folder, and from tokenizer/ and
    scheduler/ where it has them.

    Raises WeightsError for a folder of another family, and for parts that are missing or do not fit."""
    for said in ("model_index.json", "config.json"):
        if (folder / said).is_file():
            refuse_pipeline(folder, read_json(folder / said))
    if not (folder / "unet").is_dir():
        snapshots = [path.parent for path in sorted(folder.glob("snapshots/*/unet"))]  # of the hub's cache
        near = snapshots or [path for path in [folder.parent] if (path / "unet").is_dir()]
        near += [path for path in [folder / "model.safetensors"] if path.is_file()]  # what dreambooth wrote
        raise WeightsError(
            f"model: {folder} holds no unet/; give {[*near, 'the folder of a diffusers model'][0]}, or one "
            "file"
        )
    modules: dict[str, nn.Module] = {}
    for name, cls, arguments in (
        ("unet", UNet, configs.unet_of_json),
        ("vae", AutoencoderKL, configs.vae_of_json),
        ("text_encoder", TextTransformer, configs.text_of_json),
    ):
        try:
            modules[name] = build_empty(
                folder / name, cls, arguments(read_json(folder / name / "config.json"))
            )
        except KeyError as error:
            raise WeightsError(
                f"model: {folder / name / 'config.json'} lacks {error}; fetch the whole folder"
            ) from None
    net, vae, text = modules["unet"], modules["vae"], modules["text_encoder"]
    check_parts_fit(folder, net, text, vae)
    tokenizer = read_tokenizer(folder / "tokenizer", len(text.positions))
    schedule, prediction = read_scheduler(folder / "scheduler" / "scheduler_config.json")
    ready = []
    for name, module in modules.items():  # all are looked at before the first is read
        checkpoint = Checkpoint.of_folder(folder / name)
        names = diffusers_names(module, checkpoint.shapes)
        unused = [
            key
            for key in checkpoint.shapes
            if BUFFERS.match(key) or name == "text_encoder" and UNUSED.match(key)
        ]
        checkpoint.fits(module, names, ignored=unused)
        ready.append((checkpoint, module, names))
    for checkpoint, module, names in ready:
        checkpoint.load_into(module, names, device, dtype)
    side = read_json(folder / "unet" / "config.json").get("sample_size") or LATENT_SIDE
    return dict(
        name=_name(folder.resolve()),
        net=net,
        text=text,
        vae=vae,
        tokenizer=tokenizer,
        schedule=schedule,
        prediction=prediction,
        latent_scale=read_json(folder / "vae" / "config.json").get("scaling_factor", LATENT_SCALE),
        size=(min(side) if isinstance(side, list) else side) * vae.factor,
        shift=1,
    )


def _name(folder: Path) -> str:
    """The folder's, or in the hub's cache (models--OWNER--NAME/snapshots/COMMIT) the repository's."""
    repo = folder.parent.parent.name
    hub = folder.parent.name == "snapshots" and repo.startswith("models--")
    return repo.split("--")[-1] if hub else folder.name


def write_diffusers(model: Model, folder: Path) -> Path:
    """A folder that diffusers loads: unet/, vae/, text_encoder/, tokenizer/, scheduler/ and model_index.json.

    Raises ArgumentError for a Model that the layout cannot express: without text or autoencoder, with words
    of its own, or with times that do not count from 0.
    """
    says = isinstance(model.net, UNet) and isinstance(model.tokenizer, ClipTokenizer)
    if not says or model.vae is None or model.shift != 1:
        raise ArgumentError(
            "path",
            f"a diffusers folder cannot hold {model.name} (it needs CLIP's tokens, an autoencoder and times "
            "from 0); save it as one file, FILE.safetensors",
        )
    with whole_folder(folder) as part:
        _write_parts(model, part)
    return folder


def _write_parts(model: Model, folder: Path) -> None:
    """The parts of a model that a diffusers folder can say."""
    net_json = configs.unet_to_json(model.net, model.size // model.factor)
    vae_json = configs.vae_to_json(model.vae, model.size, model.latent_scale)
    _write_module(folder / "unet", model.net, net_json, "diffusion_pytorch_model")
    _write_module(folder / "vae", model.vae, vae_json, "diffusion_pytorch_model")
    text_json = configs.text_to_json(model.text)
    _write_module(folder / "text_encoder", model.text, text_json, "model", prefix="text_model.")
    write_scheduler(folder / "scheduler", model.schedule, model.prediction)
    write_tokenizer(folder / "tokenizer", model.tokenizer)
    kind = {0: "", model.channels: "InstructPix2Pix"}.get(model.beside, "Inpaint")
    write_json(
        folder / "model_index.json",
        {
            "_diffusers_version": "0.30.0",  # which it asks for before it loads an inpainting model
            "_class_name": f"StableDiffusion{kind}Pipeline",
            "feature_extractor": [None, None],
            "safety_checker": [None, None],
            "requires_safety_checker": False,
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )


def _write_module(folder: Path, module: nn.Module, config: Config, file: str, prefix: str = "") -> None:
    """The weights of a module under diffusers' names, and its config.json."""
    names, state = diffusers_names(module), module.state_dict()
    if isinstance(module, UNet) and has_linear_projections(module):
        state = {key: as_matrix(key, value) for key, value in state.items()}
    tensors = {prefix + names[key]: value for key, value in state.items()}
    write_file(folder / f"{file}.safetensors", tensors, {})
    write_json(folder / "config.json", config)
