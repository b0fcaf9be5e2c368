"""Files and folders of other families, told by their keys or by their JSON: what they are, and what to take
instead.

A file is known by a key that only its family has. The names of a denoiser stand in the file as they are, or
after one of PREFIXES where a program has put a whole model into one file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from palimpsest.weights.files import WeightsError

PREFIXES = r"(?:model\.diffusion_model\.|diffusion_model\.|transformer\.|unet\.|model\.)?"
TAKE = "take a Stable Diffusion v1 or v2 model (`palimpsest weights list`)"
WHOLE = "give the whole checkpoint, or the folder that holds unet/, vae/ and text_encoder/"

FAMILIES: list[tuple[str, str]] = [  # a key after one of PREFIXES -> the family; the first that fits counts
    (r"joint_blocks\.0\.", "Stable Diffusion 3"),
    (r"double_layers\.0\.|joint_transformer_blocks\.0\.", "AuraFlow"),
    (r"double_blocks\.0\.img_attn\.|single_transformer_blocks\.0\.", "Flux or another of its kind"),
    (r"transformer_blocks\.0\.norm1_context\.", "Stable Diffusion 3 or another of its kind"),
    (r"down_blocks\.0\.0\.channelwise\.|clip_txt_mapper\.|effnet_mapper\.", "Stable Cascade"),
    (r"down_blocks\.0\.0\.depthwise\.|clip_mapper\.", "Stable Cascade or Würstchen"),
    (r"label_emb\.0\.0\.|add_embedding\.linear_1\.", "Stable Diffusion XL"),
    (r"label_emb\.weight|class_embedding\.weight", "Stable Diffusion 2's upscaler by 4"),
    (r"y_embedder\.y_embedding|adaln_single\.|caption_projection\.", "PixArt or another of its kind"),
    (r"mlp_t5\.0\.|text_embedding_padding", "Hunyuan-DiT"),
    (r"cap_embedder\.0\.|layers\.0\.adaLN_modulation\.", "Lumina"),
    (r"x_embedder\.|transformer_blocks\.0\.", "a diffusion transformer"),
    (r"(?:.*\.)?(?:time_stack|time_mixer|temporal_transformer|temp_convs?|temopral_conv)\.", "a video model"),
    (r"(?:.*\.)?motion_modules\.", "AnimateDiff's part of a video model"),
    (r"encoder_hid_proj\.|add_embedding\.", "DeepFloyd IF or Kandinsky"),
]
ANYWHERE: list[tuple[str, str]] = [  # the beginning of any key
    (r"conditioner\.embedders\.", "Stable Diffusion XL")
]
STEERING: list[tuple[str, str]] = [  # what steers a model and is none: the beginning of any key
    (r"control_model\.|controlnet_cond_embedding\.|controlnet_down_blocks\.|lllite_", "a ControlNet"),
    (r"adapter\.body\.|body\.0\.(?:resnets|block1|in_conv)", "a T2I-Adapter"),
    (r"ip_adapter\.|image_proj\.", "an IP-Adapter"),
]
PARTS: list[tuple[str, str]] = [  # the beginning of any key -> the part of a model that such a file is
    (r"(?:.*\.)?block\.0\.layer\.0\.SelfAttention\.", "a T5 text encoder"),
    (r"input_blocks\.0\.|down_blocks\.", "a U-Net"),
    (r"encoder\.|decoder\.|first_stage_model\.|quant_conv\.", "an autoencoder"),
    (r"text_model\.|cond_stage_model\.", "a text encoder"),
]
PIPELINES: list[tuple[str, str]] = [  # the beginning of a class's name in the JSON of a folder -> the family
    (r"StableDiffusionXL|SDXL", "Stable Diffusion XL"),
    (r"StableDiffusion3|SD3", "Stable Diffusion 3"),
    (r"StableCascade|Wuerstchen", "Stable Cascade or Würstchen"),
    (r"Flux|Chroma", "Flux or another of its kind"),
    (r"PixArt|Sana", "PixArt or another of its kind"),
    (r"Kandinsky", "Kandinsky"),
    (r"IF(?:Img|Inpaint|Super|Pipeline)", "DeepFloyd IF"),
    (r"StableUnCLIP|UnCLIP|StableDiffusionImageVariation", "a model that reads a picture in place of a text"),
    (r"StableDiffusion(?:Latent)?Upscale", "an upscaler"),
    (r"StableDiffusionDepth2Img", "Stable Diffusion 2 with a depth map"),
    (r"LatentConsistencyModel", "a model that was distilled to a few steps"),
    (r"StableVideo|AnimateDiff|TextToVideo|VideoTo|CogVideo|Wan|LTX|Hunyuan|Mochi|Allegro", "a video model"),
    (r"AltDiffusion", "a model with the text encoder of AltCLIP"),
    (r"DDPM|DDIM|UNet2DModel", "a model of pictures alone, in diffusers' layout"),
    (r"(?:Multi)?ControlNet(?:Union)?Model|T2IAdapter", "what steers a model and is none"),
    (r"\w*Transformer\w*Model|DiT|AuraFlow|Lumina|QwenImage|CogView|Amused", "a diffusion transformer"),
]


def _first(table: list[tuple[str, str]], keys: Iterable[str], prefixes: str = "") -> str | None:
    """What the first row that fits a key says; None where none does."""
    found = list(keys)
    for pattern, what in table:
        fits = re.compile(f"{prefixes}(?:{pattern})")
        if any(fits.match(key) for key in found):
            return what
    return None


def refuse_family(path: Path, keys: Iterable[str]) -> None:
    """Raises WeightsError for a file of another family, and for what steers a model and is none."""
    keys = list(keys)
    if family := _first(ANYWHERE, keys) or _first(FAMILIES, keys, PREFIXES):
        raise WeightsError(
            f"model: {path} holds {family}: another architecture, which is not supported; {TAKE}"
        )
    if steers := _first(STEERING, keys):
        raise WeightsError(
            f"model: {path} is {steers}, which steers a model and paints nothing by itself; give the model"
        )


def part_of(keys: Iterable[str]) -> str | None:
    """The part of a model that a file with such keys holds alone; None for other keys."""
    return _first(PARTS, keys)


def refuse_pipeline(folder: Path, said: dict[str, Any]) -> None:
    """Raises WeightsError for a folder whose JSON names a class of another family."""
    named = str(said.get("_class_name") or (said.get("architectures") or [""])[0])
    if family := _first(PIPELINES, [named.removeprefix("Flax").removeprefix("Onnx")]):
        raise WeightsError(
            f"model: {folder} holds {named} ({family}): another architecture, which is not supported; {TAKE}"
        )
