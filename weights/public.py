"""Public checkpoints, as the parts of a Bundle, and back: Stable Diffusion v1 and its children, whichever way they were published.

What a file is, its keys say, not its name:

    CompVis      model.diffusion_model.…, first_stage_model.…, cond_stage_model.…: one file; 4 channels, or 8
                 (InstructPix2Pix), or 9 (inpainting)
    diffusers    a folder with unet/, vae/, text_encoder/, and often tokenizer/ and scheduler/
    DDPM         temb.dense.0.…: the unconditional U-Nets that SDEdit uses

Loading is strict: nothing missing, nothing left over but what BUFFERS of weights/layouts.py names. Their times count noise levels from 0
and ours from 1 (ᾱ_0 = 1 is the clean picture), so each Bundle made here has shift = 1: the net hears t − 1.
"""
from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nets.ddpm import DDPM
from nets.text import TextTransformer
from nets.tokenizer import ClipTokenizer, Tokenizer, WordTokenizer
from nets.unet import UNet
from nets.vae import AutoencoderKL
from samplers.schedule import Schedule
from weights import configs
from weights.configs import Config, build, config_of
from weights.files import WeightsError, _replacing, write_json
from weights.layouts import (
    BUFFERS,
    TEXT_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    compvis_unet_names,
    compvis_vae_names,
    ddpm_names,
    diffusers_names,
    ema_name,
    to_compvis_shape,
)
from weights.mapped import Checkpoint, header_of, read_json, some

if TYPE_CHECKING:
    from weights import Bundle

LATENT_SCALE = .18215                                # of Stable Diffusion's autoencoder (arXiv:2112.10752v2, App. G)
LATENT_SIDE = 64                                     # of the latents it was trained on
KIND = "compvis"                                     # in the header of the single files that `save` writes
V1 = "not supported; take a Stable Diffusion v1 checkpoint"
OTHERS = {                                           # the beginning of a key -> what such a file is
    "conditioner.": f"Stable Diffusion XL, which is {V1}",
    "cond_stage_model.model.": f"Stable Diffusion 2 (its text encoder is OpenCLIP's), which is {V1}",
    "control_model.": f"a ControlNet, which is {V1}",
}
FRAGMENTS = {
    "lora_": "holds low-rank changes (LoRA), no model; merge them into their model first",
    "down_blocks.": "is the U-Net of a diffusers folder; give the folder that holds unet/, vae/ and text_encoder/",
    "encoder.": "is an autoencoder alone; give the whole checkpoint, or the folder that holds unet/, vae/ and text_encoder/",
    "text_model.": "is a text encoder alone; give the folder that holds unet/, vae/ and text_encoder/",
}


def is_public(path: Path) -> bool:
    """Whether the file or folder is one that this module reads, rather than one of this library's own."""
    if path.is_dir():
        return True
    if not path.exists():
        return False
    header = header_of(path).get("palimpsest")
    return header is None or f'"kind": "{KIND}"' in header


def read_public(path: Path, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The fields of a Bundle. Raises WeightsError for what is none of the layouts above, is damaged, or does not fit."""
    try:
        if path.is_dir():
            return read_diffusers(path, device, dtype)
        checkpoint = Checkpoint(path)
        if "temb.dense.0.weight" in checkpoint.shapes:
            return read_ddpm(checkpoint, device, dtype)
        return read_compvis(checkpoint, device, dtype)
    except KeyError as error:
        raise WeightsError(f"model: {path} lacks {error.args[0]!r}, without which the rest cannot be placed; fetch it again") from None


def _meta(path: Path, cls: type[nn.Module], config: Config) -> nn.Module:
    """The net without its weights: it takes no memory."""
    try:
        with torch.device("meta"):
            return build(config, cls)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise WeightsError(f"model: {path} describes a {cls.__name__} that cannot be built ({type(error).__name__}: {error}); "
                           "take a Stable Diffusion v1 model") from None


def _fit_together(path: Path, net: UNet, text: TextTransformer | None, vae: AutoencoderKL | None) -> None:
    if text is not None and text.positions.shape[1] != net.ctx_width:
        raise WeightsError(f"model: {path} has a text encoder of width {text.positions.shape[1]} and a U-Net that reads {net.ctx_width}; "
                           "take both from one model")
    if vae is not None and vae.post_quant_conv.in_channels != net.conv_out.out_channels:
        raise WeightsError(f"model: {path} has an autoencoder of {vae.post_quant_conv.in_channels} latent channels and a U-Net of "
                           f"{net.conv_out.out_channels}; take both from one model")


# --------------------------------------------------------------------------- CompVis: one file

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
        raise WeightsError(f"model: {path} carries no palimpsest configuration in its header and no layout that is known here (its keys: "
                           f"{some(sorted(shapes)) or 'none'}); take a Stable Diffusion v1 checkpoint, or a file that write_weights wrote")
    if any(key.endswith("proj_in.weight") and len(shape) == 2 for key, shape in shapes.items()):
        raise WeightsError(f"model: {path} has linear projections in its U-Net: Stable Diffusion 2 or later, which is {V1}")

    said = json.loads(checkpoint.header.get("palimpsest", "{}"))           # what `save` knew and shapes do not tell
    def part(prefix: str) -> dict[str, tuple[int, ...]]:
        return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}

    text_prefix = TEXT_PREFIX + ("text_model." if part(TEXT_PREFIX + "text_model.") or not part(TEXT_PREFIX) else "")
    net = _meta(path, UNet, said.get("net") or configs.unet_of_shapes(part(UNET_PREFIX)))
    text = vae = None
    if said.get("text", True) is not None:
        text = _meta(path, TextTransformer, said.get("text") or configs.text_of_shapes(part(text_prefix)))
    if said.get("vae", True) is not None:
        vae = _meta(path, AutoencoderKL, said.get("vae") or configs.vae_of_shapes(part(VAE_PREFIX)))
    _fit_together(path, net, text, vae)

    names = {"net": {k: UNET_PREFIX + v for k, v in compvis_unet_names(net).items()}}
    if text is not None:
        names["text"] = {k: text_prefix + v for k, v in diffusers_names(text).items()}
    if vae is not None:
        names["vae"] = {k: VAE_PREFIX + v for k, v in compvis_vae_names(vae).items()}
    modules = {"net": net, "text": text, "vae": vae}
    averages = {k: ema_name(v) for k, v in names["net"].items()} if any(key.startswith("model_ema.diffusion") for key in shapes) else {}
    whole = nn.ModuleDict({name: modules[name] for name in names})
    wanted = {f"{name}.{k}": v for name, keys in names.items() for k, v in keys.items()}
    checkpoint.fits(whole, wanted | {f"net.{k}": v for k, v in averages.items()},
                    ignored=[*(key for key in shapes if BUFFERS.match(key)), *names["net"].values()])
    for name, keys in (names | ({"net": averages} if averages else {})).items():
        checkpoint.pour(modules[name], keys, device, dtype)

    return dict(
        name=path.stem, net=net, text=text, vae=vae, tokenizer=_tokenizer(text, said.get("words"), path),
        schedule=Schedule(torch.tensor(said["abar"], dtype=torch.float64)) if "abar" in said else Schedule.scaled_linear(),
        prediction=said.get("prediction", "eps"), latent_scale=said.get("latent_scale", LATENT_SCALE),
        size=said.get("size") or LATENT_SIDE * vae.factor, shift=said.get("shift", 1))


def _tokenizer(text: TextTransformer | None, words: list[str] | None, path: Path) -> Tokenizer | None:
    if text is None:
        return None
    length = len(text.positions)
    if words is not None:
        return WordTokenizer(words, length)
    merges = path / "tokenizer" / "merges.txt"
    return ClipTokenizer(merges if merges.is_file() else ClipTokenizer.find(), length=length, truncate=True)


def write_compvis(b: Bundle, path: Path) -> Path:
    """One safetensors file, weights bit for bit; what the layout has no key for stands in its header."""
    parts: list[tuple[str, nn.Module | None, dict[str, str]]] = [
        (UNET_PREFIX, b.net, compvis_unet_names(b.net)),
        (VAE_PREFIX, b.vae, compvis_vae_names(b.vae) if b.vae is not None else {}),
        (TEXT_PREFIX + "text_model.", b.text, diffusers_names(b.text) if b.text is not None else {})]
    tensors = {prefix + names[key]: to_compvis_shape(names[key], value)
               for prefix, module, names in parts if module is not None for key, value in module.state_dict().items()}
    net, text, vae = (config_of(module) if module is not None else None for module in (b.net, b.text, b.vae))
    said = dict(kind=KIND, net=net, text=text, vae=vae, prediction=b.prediction, latent_scale=b.latent_scale, size=b.size, shift=b.shift,
                abar=b.schedule.abar.tolist())
    if isinstance(b.tokenizer, WordTokenizer):
        said["words"] = b.tokenizer.words
    _write(path, tensors, {"palimpsest": json.dumps(said)})
    return path


def _write(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(path) as part:
        save_file({name: t.detach().contiguous().cpu() for name, t in tensors.items()}, part, metadata={"format": "pt", **header})
        part.chmod(0o644)                                                  # safetensors makes it for its owner alone


# --------------------------------------------------------------------------- diffusers: a folder

def read_diffusers(folder: Path, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """unet/, vae/, text_encoder/ of one folder; tokenizer/merges.txt and scheduler/ where they are there."""
    if not (folder / "unet").is_dir():
        above = folder.parent if (folder.parent / "unet").is_dir() else None
        raise WeightsError(f"model: {folder} holds no unet/; give "
                           f"{above or 'the folder of a diffusers model'}, or one file")
    modules: dict[str, nn.Module] = {}
    for name, cls, arguments in (("unet", UNet, configs.unet_of_json), ("vae", AutoencoderKL, configs.vae_of_json),
                                 ("text_encoder", TextTransformer, configs.text_of_json)):
        try:
            modules[name] = _meta(folder / name, cls, arguments(read_json(folder / name / "config.json")))
        except KeyError as error:
            raise WeightsError(f"model: {folder / name / 'config.json'} lacks {error}; fetch the whole folder") from None
    net, vae, text = modules["unet"], modules["vae"], modules["text_encoder"]
    _fit_together(folder, net, text, vae)
    ready = []
    for name, module in modules.items():                                   # all are looked at before the first is read
        checkpoint = Checkpoint.of_folder(folder / name)
        names = diffusers_names(module, checkpoint.shapes)
        checkpoint.fits(module, names, ignored=[key for key in checkpoint.shapes if BUFFERS.match(key)])
        ready.append((checkpoint, module, names))
    for checkpoint, module, names in ready:
        checkpoint.pour(module, names, device, dtype)
    schedule, prediction = _schedule(folder / "scheduler" / "scheduler_config.json")
    return dict(
        name=folder.resolve().name, net=net, text=text, vae=vae, tokenizer=_tokenizer(text, None, folder), schedule=schedule,
        prediction=prediction, latent_scale=read_json(folder / "vae" / "config.json").get("scaling_factor", LATENT_SCALE),
        size=(read_json(folder / "unet" / "config.json").get("sample_size") or LATENT_SIDE) * vae.factor, shift=1)


def _schedule(path: Path) -> tuple[Schedule, str]:
    """(ᾱ, "eps" or "v") of a scheduler_config.json; of Stable Diffusion v1 where there is none."""
    config = read_json(path) if path.is_file() else {}
    prediction = {"epsilon": "eps", "v_prediction": "v"}.get(config.get("prediction_type", "epsilon"))
    named, T = config.get("beta_schedule", "scaled_linear"), config.get("num_train_timesteps", 1000)
    ends = config.get("beta_start", .00085), config.get("beta_end", .012)
    known = {"scaled_linear": lambda: Schedule.scaled_linear(T, *ends), "linear": lambda: Schedule.linear(T, *ends),
             "squaredcos_cap_v2": lambda: Schedule.cosine(T)}
    if config.get("trained_betas") is not None:
        return Schedule.from_betas(torch.tensor(config["trained_betas"], dtype=torch.float64)), prediction
    if prediction is None or named not in known or config.get("rescale_betas_zero_snr"):
        raise WeightsError(f"model: {path} asks for {config.get('prediction_type')} on a {named} schedule, which is not supported; known "
                           f"are epsilon and v_prediction on {', '.join(known)}")
    return known[named](), prediction


def write_diffusers(b: Bundle, folder: Path) -> Path:
    """A folder that diffusers loads. Raises ValueError for a Bundle that its layout cannot say: no text, words of its own, other times."""
    if b.vae is None or not isinstance(b.tokenizer, ClipTokenizer) or b.shift != 1 or not isinstance(b.net, UNet):
        raise ValueError(f"path: a diffusers folder cannot say what {b.name} is (it takes CLIP's tokens, an autoencoder and times from 0); "
                         "save it as one file, FILE.safetensors")
    side = b.size // b.vae.factor
    json_of = {"unet": configs.unet_to_json(b.net, side), "vae": configs.vae_to_json(b.vae, b.size, b.latent_scale),
               "text_encoder": configs.text_to_json(b.text)}
    for name, module, file, prefix in (("unet", b.net, "diffusion_pytorch_model", ""), ("vae", b.vae, "diffusion_pytorch_model", ""),
                                       ("text_encoder", b.text, "model", "text_model.")):
        names, state = diffusers_names(module), module.state_dict()
        _write(folder / name / f"{file}.safetensors", {prefix + names[key]: value for key, value in state.items()}, {})
        write_json(folder / name / "config.json", json_of[name])

    betas = 1 - b.schedule.abar[1:] / b.schedule.abar[:-1]
    usual = torch.equal(b.schedule.abar, Schedule.scaled_linear(b.schedule.T).abar)
    _json(folder / "scheduler" / "scheduler_config.json", {
        "_class_name": "DDIMScheduler", "num_train_timesteps": b.schedule.T, "beta_start": .00085, "beta_end": .012,
        "beta_schedule": "scaled_linear", "trained_betas": None if usual else betas.tolist(), "clip_sample": False,
        "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": {"eps": "epsilon", "v": "v_prediction"}[b.prediction]})
    tokenizer, start, end = folder / "tokenizer", "<|startoftext|>", "<|endoftext|>"
    _json(tokenizer / "vocab.json", b.tokenizer.tokens)
    (tokenizer / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, b.tokenizer.rank)]) + "\n", encoding="utf-8")
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    _json(tokenizer / "tokenizer_config.json", special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": b.tokenizer.length})
    _json(tokenizer / "special_tokens_map.json", special)
    latent = b.net.conv_out.out_channels
    pipeline = {latent: "", 2 * latent: "InstructPix2Pix"}.get(b.net.conv_in.in_channels, "Inpaint")
    write_json(folder / "model_index.json", {
        "_class_name": f"StableDiffusion{pipeline}Pipeline", "feature_extractor": [None, None], "safety_checker": [None, None],
        "requires_safety_checker": False, "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"]})
    return folder


def _json(path: Path, data: Config) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, data)


# --------------------------------------------------------------------------- DDPM: SDEdit's

def read_ddpm(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """An unconditional U-Net on pixels of 256×256 (CelebA-HQ, LSUN), linear schedule."""
    shapes = checkpoint.shapes
    levels = 1 + max(int(key.split(".")[1]) for key in shapes if key.startswith("down."))
    width = shapes["conv_in.weight"][0]
    mult = [shapes[f"down.{k}.block.0.conv1.weight"][0] // width for k in range(levels)]
    net = _meta(checkpoint.path, DDPM, dict(
        channels=shapes["conv_in.weight"][1], width=width, mult=mult,
        blocks=sum(key.startswith("down.0.block.") and key.endswith("conv1.weight") for key in shapes),
        attention=[f"down.{k}.attn.0.norm.weight" in shapes for k in range(levels)]))
    names = ddpm_names(net)
    checkpoint.fits(net, names)
    return dict(name=checkpoint.path.stem, net=checkpoint.pour(net, names, device, dtype), text=None, tokenizer=None, vae=None,
                schedule=Schedule.linear(), prediction="eps", latent_scale=1., size=256, shift=1)


# --------------------------------------------------------------------------- saving

def save(b: Bundle, path: str | Path) -> Path:
    """Write a Bundle where others can read it: FILE.safetensors is the CompVis layout, any other name a diffusers folder.

    Weights keep their dtype and their bits. A file replaces an old one whole or not at all. Raises ValueError for a name that ends like
    a pickle, a folder's name that is a file's, and for a Bundle that the layout cannot say.
    """
    path = Path(path)
    if not isinstance(b.net, UNet):
        raise ValueError(f"path: {b.name} is a {type(b.net).__name__}, which neither layout can say; keep the file that it was read from")
    if path.suffix == ".safetensors":
        return write_compvis(b, path)
    if path.suffix in {".ckpt", ".pt", ".pth", ".bin"} or path.is_file():
        raise ValueError(f"path: {path} would be a pickle, or is a file; end it with .safetensors, or name a new folder")
    return write_diffusers(b, path)
