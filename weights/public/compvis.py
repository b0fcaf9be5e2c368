"""CompVis's layout of Stable Diffusion v1, v2 and their children: one file, read as the fields of a Model
and written back.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from palimpsest.nets.text import TextTransformer
from palimpsest.nets.unet import UNet
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.files import WeightsError
from palimpsest.weights.public import configs
from palimpsest.weights.public.configs import Shapes, config_of, has_linear_projections
from palimpsest.weights.public.embeddings import said_of_words
from palimpsest.weights.public.families import TAKE, WHOLE, part_of, refuse_family
from palimpsest.weights.public.layouts import (
    BUFFERS,
    TEXT_PREFIX,
    UNET_PREFIX,
    UNUSED,
    VAE_PREFIX,
    as_matrix,
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
from palimpsest.weights.public.tower_names import open_clip_text_names, open_clip_text_of_shapes, pack, unpack
from palimpsest.weights.public.towers import recognise

if TYPE_CHECKING:
    from palimpsest.weights.model import Model

KIND = "compvis"  # in the header of the single files that `save` writes
OPEN_CLIP = "cond_stage_model.model."  # Stable Diffusion 2's text encoder
SIDE_OF_V = 96  # of the latents that Stable Diffusion 2's v-predicting net was trained on; 64 of the other


def read_compvis(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """A single file, as the fields of a Model.

    Of its U-Net the moving average is taken where the file holds one: sampling was meant to use it. Raises
    WeightsError for a file of another kind, one that is damaged, and parts that do not fit.
    """
    if any(name.startswith(OPEN_CLIP) for name in checkpoint.shapes):
        checkpoint = Checkpoint(checkpoint.path, places=_open_clip_places)
    path, shapes = checkpoint.path, checkpoint.shapes
    header = _header(checkpoint)
    if not header:
        refuse_others(path, shapes)
    modules, prefixes = _empty_modules(path, shapes, header)
    net, text, vae = (modules.get(name) for name in ("net", "text", "vae"))
    check_parts_fit(path, net, text, vae)

    names = {
        name: {ours: prefixes[name] + theirs for ours, theirs in _names_of(module, prefixes[name]).items()}
        for name, module in modules.items()
    }
    averages = {}
    if any(name.startswith("model_ema.diffusion") for name in shapes):
        averages = {ours: ema_name(theirs) for ours, theirs in names["net"].items()}
    wanted = {f"{name}.{ours}": theirs for name, keys in names.items() for ours, theirs in keys.items()}
    checkpoint.fits(
        nn.ModuleDict(modules),
        wanted | {f"net.{ours}": theirs for ours, theirs in averages.items()},
        ignored=[*_unused(shapes, text), *names["net"].values()],
    )
    version_2 = prefixes["text"] == OPEN_CLIP
    prediction = header.get("prediction") or _prediction(path, shapes, version_2)
    tokenizer = tokenizer_of_file(text, header, pad=0 if version_2 else None)
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
        prediction=prediction,
        latent_scale=header.get("latent_scale", LATENT_SCALE),
        size=header.get("size")
        or (SIDE_OF_V if version_2 and prediction == "v" else LATENT_SIDE) * vae.factor,
        shift=header.get("shift", 1),
    )


def _open_clip_places(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors, its OpenCLIP's queries, keys and values taken apart."""
    text = {name.removeprefix(OPEN_CLIP): t for name, t in tensors.items() if name.startswith(OPEN_CLIP)}
    others = {name: t for name, t in tensors.items() if not name.startswith(OPEN_CLIP)}
    return others | {OPEN_CLIP + place: t for place, t in unpack(text).items()}


def _prediction(path: Path, shapes: Shapes, version_2: bool) -> str:
    """ "eps" or "v", as the settings beside the file say: NAME.yaml, with which such files are published.

    Without one Stable Diffusion v1 predicts ε. Raises WeightsError for a Stable Diffusion 2 without one: its
    tensors do not tell whether it predicts ε (trained on 512×512) or v (on 768×768)."""
    if "ztsnr" in shapes:
        raise WeightsError(
            f"model: {path} was trained to zero terminal SNR (its key ztsnr), where the noise does not tell "
            f"x_0; that is not supported; {TAKE}"
        )
    settings = path.with_suffix(".yaml")
    if settings.is_file():
        said = re.search(
            r"""^\s*parameterization:\s*["']?(\w+)""",
            settings.read_text(encoding="utf-8", errors="replace"),
            re.MULTILINE,
        )
        if said is None or said[1] in ("eps", "v"):
            return said[1] if said else "eps"
        raise WeightsError(f"model: {settings} asks for {said[1]!r} predictions; known are eps and v; {TAKE}")
    if version_2 and "v_pred" not in shapes:
        raise WeightsError(
            f"model: {path} is Stable Diffusion 2, and its tensors do not tell what it predicts; write "
            f'{settings.name} beside it, with the line `parameterization: "v"` for a model of 768×768 or '
            '`parameterization: "eps"` for one of 512×512, or take its diffusers folder'
        )
    return "v" if "v_pred" in shapes else "eps"


def _unused(shapes: Shapes, text: TextTransformer | None) -> list[str]:
    """The tensors of a file that are no part of the model, or that sampling does not use.

    Of OpenCLIP's text encoder that is its last layer too: Stable Diffusion 2 reads the one before it."""
    last = None if text is None else f"{OPEN_CLIP}transformer.resblocks.{len(text.layers)}."
    return [
        name
        for name in shapes
        if BUFFERS.match(name) or UNUSED.match(name) or last is not None and name.startswith(last)
    ]


def refuse_others(path: Path, shapes: Shapes) -> None:
    """Raises WeightsError for a file that is not Stable Diffusion v1 or v2 in this layout, with what it is as
    far as that is known."""
    whole = any(name.startswith(UNET_PREFIX) for name in shapes)
    if not whole and ((change := described(shapes)) or (change := said_of_words(path))):
        raise WeightsError(f"model: {path} {change}")  # before its family, whose names it bears
    refuse_family(path, shapes)
    parts = {"U-Net": UNET_PREFIX, "autoencoder": VAE_PREFIX, "text encoder": "cond_stage_model."}
    if whole:
        missing = [
            part for part, start in parts.items() if not any(name.startswith(start) for name in shapes)
        ]
        if missing:
            lacks = " and ".join(f"its {part}" for part in missing)
            raise WeightsError(f"model: {path} holds a U-Net without {lacks}; {WHOLE}")
        return
    if kind := recognise(shapes):
        raise WeightsError(
            f"model: {path} holds {kind.what}, which paints nothing; {kind.loader} of "
            "weights/public/towers.py reads it"
        )
    if part := part_of(shapes):
        raise WeightsError(f"model: {path} holds {part} alone; {WHOLE}")
    raise WeightsError(
        f"model: {path} carries no palimpsest configuration in its header and no layout that is known "
        f"here (its keys: {first_few(sorted(shapes)) or 'none'}); take a Stable Diffusion v1 or v2 "
        "checkpoint, or a file that write_weights wrote"
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
    read_text = configs.text_of_shapes
    if below(OPEN_CLIP):
        text_prefix, read_text = OPEN_CLIP, open_clip_text_of_shapes
    modules: dict[str, nn.Module] = {}
    for name, cls, prefix, read in (
        ("net", UNet, UNET_PREFIX, configs.unet_of_shapes),
        ("text", TextTransformer, text_prefix, read_text),
        ("vae", AutoencoderKL, VAE_PREFIX, configs.vae_of_shapes),
    ):
        if name == "net" or header.get(name, True) is not None:  # null: the model has no such part
            modules[name] = build_empty(path, cls, header.get(name) or read(below(prefix)))
    return modules, {"net": UNET_PREFIX, "text": text_prefix, "vae": VAE_PREFIX}


def _names_of(module: nn.Module, prefix: str) -> dict[str, str]:
    """Our name -> the file's, without the prefix."""
    if prefix == OPEN_CLIP:
        return open_clip_text_names(module)
    rule = {UNet: compvis_unet_names, AutoencoderKL: compvis_vae_names, TextTransformer: diffusers_names}
    return rule[type(module)](module)


def write_compvis(model: Model, path: Path) -> Path:
    """One safetensors file, weights bit for bit; what the layout has no key for stands in its header.

    A model of Stable Diffusion 2's kind gets OpenCLIP's names for its text encoder. The layer that it does
    not read is not in the file."""
    version_2 = has_linear_projections(model.net) and model.text is not None
    prefixes = {"net": UNET_PREFIX, "vae": VAE_PREFIX, "text": TEXT_PREFIX + "text_model."}
    if version_2:
        prefixes["text"] = OPEN_CLIP
    tensors, header = {}, {"kind": KIND}
    for name, module in (("net", model.net), ("vae", model.vae), ("text", model.text)):
        header[name] = None if module is None else config_of(module)
        if module is not None:
            names = _names_of(module, prefixes[name])
            for key, value in pack(module, names).items():
                value = as_matrix(key, value) if name == "net" and version_2 else to_compvis_shape(key, value)
                tensors[prefixes[name] + key] = value
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
