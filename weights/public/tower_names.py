"""The names that public layouts give to the parameters of CLIP and DINO, and how they stack them, in rules
like those of weights/public/layouts.py.

    openai         visual.…, transformer.…: one file of OpenAI's or of open_clip's
    transformers   vision_model.…, text_model.…; for DINO embeddings.…, encoder.layer.…: Hugging Face's files
    official       blocks.…: DINO's own files, and timm's
    glide          blocks.input.…, blocks.block_0.…: GLIDE's noised CLIP, a file for each tower

Each `…_names(net)` maps every parameter to its place in that layout. A place may be a part of a tensor, which
its end says:

    attn.qkv.weight[q]     the first third of it: query, key and value maps are stacked
    visual.proj[T]         its transpose: they compute x @ proj, and here it is a linear map

`unpack` turns the tensors of a file into places, and `pack` turns places into the tensors of a file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from palimpsest.nets.judges.clip import CLIP
from palimpsest.nets.judges.dino import DINO
from palimpsest.nets.judges.noised_clip import NoisedCLIP
from palimpsest.nets.text import TextTransformer
from palimpsest.weights.public.configs import HEAD_WIDTH, Config, Shapes
from palimpsest.weights.public.layouts import Rules, rename, text_to_transformers

OPENAI = [
    (r"^image\.patches\.", "visual.conv1."),
    (r"^image\.cls$", "visual.class_embedding"),
    (r"^image\.positions$", "visual.positional_embedding"),
    (r"^image\.norm_in\.", "visual.ln_pre."),
    (r"^image\.norm_out\.", "visual.ln_post."),
    (r"^image\.layers\.", "visual.transformer.resblocks."),
    (r"^image_projection\.weight$", "visual.proj[T]"),
    (r"^text\.tokens\.", "token_embedding."),
    (r"^text\.positions$", "positional_embedding"),
    (r"^text\.norm_out\.", "ln_final."),
    (r"^text\.layers\.", "transformer.resblocks."),
    (r"^text_projection\.weight$", "text_projection[T]"),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.attention\.to_([qkv])\.(weight|bias)$", r".attn.in_proj_\2[\1]"),
    (r"\.attention\.to_out\.", ".attn.out_proj."),
    (r"\.linear1\.", ".mlp.c_fc."),
    (r"\.linear2\.", ".mlp.c_proj."),
]
TRANSFORMERS_IMAGE = [
    (r"^patches\.", "embeddings.patch_embedding."),
    (r"^cls$", "embeddings.class_embedding"),
    (r"^norm_in\.", "pre_layrnorm."),  # so they spell it
    (r"^norm_out\.", "post_layernorm."),
]
OFFICIAL_DINO = [
    (r"^patches\.", "patch_embed.proj."),
    (r"^cls$", "cls_token"),
    (r"^positions$", "pos_embed"),
    (r"^norm_out\.", "norm."),
    (r"^layers\.", "blocks."),
    (r"\.attention\.to_([qkv])\.(weight|bias)$", r".attn.qkv.\2[\1]"),
    (r"\.attention\.to_out\.", ".attn.proj."),
    (r"\.linear([12])\.", r".mlp.fc\1."),
]
TRANSFORMERS_DINO = [
    (r"^patches\.", "embeddings.patch_embeddings.projection."),
    (r"^cls$", "embeddings.cls_token"),
    (r"^positions$", "embeddings.position_embeddings"),
    (r"^norm_out\.", "layernorm."),
    (r"^layers\.", "encoder.layer."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attention\.to_q\.", ".attention.attention.query."),
    (r"\.attention\.to_k\.", ".attention.attention.key."),
    (r"\.attention\.to_v\.", ".attention.attention.value."),
    (r"\.attention\.to_out\.", ".attention.output.dense."),
    (r"\.linear1\.", ".intermediate.dense."),
    (r"\.linear2\.", ".output.dense."),
]
GLIDE_CLIP = [  # one file for each tower; a layer is two blocks, each with its norm
    (r"^image\.times\.weight$", "blocks.input.w_t"),
    (r"^image\.patches\.weight$", "blocks.input.patch_proj"),
    (r"^image\.norm_in\.", "blocks.input.ln."),
    (r"^text\.tokens\.weight$", "blocks.input.w_voc"),
    (r"^(image|text)\.positions$", "blocks.input.w_pos"),
    (r"^(image|text)\.norm_out\.", "blocks.output.ln."),
    (r"^(image|text)_projection\.weight$", "blocks.output.f.w"),
    (r"^(image|text)\.layers\.(\d+)\.", r"blocks.block_\2."),
    (r"\.norm1\.", ".f_attn.ln."),
    (r"\.norm2\.", ".f_mlp.ln."),
    (r"\.attention\.to_([qkv])\.", r".f_attn.f_\1."),
    (r"\.attention\.to_out\.", ".f_attn.f_c."),
    (r"\.linear([12])\.", r".f_mlp.f_\1."),
    (r"\.ln\.weight$", ".ln.g"),
    (r"\.weight$", ".w"),
    (r"\.bias$", ".b"),
]
VOCAB = 49408
STACKED = re.compile(r"\.attn\.(in_proj_|qkv\.)(weight|bias)$")
TURNED = re.compile(r"(^|\.)(visual\.proj|text_projection)$")
LEADING = re.compile(
    r"(^|\.)(cls_token|pos_embed|position_embeddings)$"
)  # (1, l, d) there, (l, d) here; of one token (d)


# ---- names ----


def _names(net: nn.Module, rules: Rules) -> dict[str, str]:
    return {key: rename(key, rules) for key in net.state_dict()}


def clip_openai_names(clip: CLIP) -> dict[str, str]:
    """Our name -> the place in a file of OpenAI's or open_clip's."""
    return _names(clip, OPENAI)


def open_clip_text_names(text: TextTransformer) -> dict[str, str]:
    """Our name -> the place in open_clip's text encoder alone, as Stable Diffusion 2's single file has it."""
    return {key: rename(f"text.{key}", OPENAI) for key in text.state_dict()}


def clip_transformers_names(clip: CLIP) -> dict[str, str]:
    """Our name -> the place in transformers' CLIPModel."""

    def name(key: str) -> str:
        tower, _, rest = key.partition(".")
        if tower == "image":
            return "vision_model." + text_to_transformers(rename(rest, TRANSFORMERS_IMAGE))
        return (
            "text_model." + text_to_transformers(rest)
            if tower == "text"
            else key.replace("image_projection", "visual_projection")
        )

    return {key: name(key) for key in clip.state_dict()}


def dino_official_names(dino: DINO) -> dict[str, str]:
    """Our name -> the place in DINO's own files and in timm's."""
    return _names(dino, OFFICIAL_DINO)


def dino_transformers_names(dino: DINO) -> dict[str, str]:
    """Our name -> the place in a file that transformers' ViTModel wrote."""
    return _names(dino, TRANSFORMERS_DINO)


def noised_clip_names(clip: NoisedCLIP) -> dict[str, str]:
    """Our name -> the name in the file of its tower; the two files share many."""
    return _names(clip, GLIDE_CLIP)


# ---- stacks ----


def unpack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file by place: stacks split into three, matrices transposed, leading axes of length
    one dropped. Nothing is copied.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if STACKED.search(name) and tensor.ndim and tensor.shape[0] % 3 == 0:
            found |= {f"{name}[{letter}]": part for letter, part in zip("qkv", tensor.chunk(3))}
        elif TURNED.search(name) and tensor.ndim == 2:
            found[f"{name}[T]"] = tensor.T
        elif LEADING.search(name) and tensor.ndim == 3 and len(tensor) == 1:
            found[name] = tensor[0, 0] if tensor.shape[1] == 1 else tensor[0]
        else:
            found[name] = tensor
    return found


def pack(net: nn.Module, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The weights of a net as a file of that layout holds them; `unpack` undoes it, bit for bit."""
    place = {names[key]: value for key, value in net.state_dict().items()}
    found: dict[str, Tensor] = {}
    for name, value in place.items():
        if name.endswith("[q]"):
            stem = name[:-3]
            found[stem] = torch.cat([place[f"{stem}[{letter}]"] for letter in "qkv"])
        elif name.endswith("[T]"):
            found[name[:-3]] = value.T.contiguous()
        elif LEADING.search(name):
            found[name] = value.reshape(1, -1, value.shape[-1])
        elif not name.endswith(("[k]", "[v]")):
            found[name] = value
    return found


# ---- configurations, off the shapes of places ----


def count(shapes: Shapes, pattern: str) -> int:
    """How many names fit the whole pattern."""
    return sum(re.fullmatch(pattern, name) is not None for name in shapes)


def clip_of_shapes(shapes: Shapes, names: Mapping[str, str]) -> Config:
    """The arguments of CLIP. names: of any CLIP in that layout, since only those of first layers are
    used. KeyError with what is missed.

    Shapes do not say how many heads there are (64 wide in every published CLIP) nor what stands between
    the linear maps of a layer. The end token is CLIP's own in a vocabulary that was given more behind it.
    """
    width, _, patch, _ = shapes[names["image.patches.weight"]]
    vocab, text_width = shapes[names["text.tokens.weight"]]
    tokens = shapes[names["image.positions"]][0] - 1
    layers, text_layers = (
        count(shapes, re.escape(names[f"{tower}.layers.0.norm1.weight"]).replace("0", r"\d+", 1))
        for tower in ("image", "text")
    )
    return dict(
        size=patch * math.isqrt(tokens),
        patch=patch,
        width=width,
        layers=layers,
        heads=width // HEAD_WIDTH,
        embed=shapes[names["image_projection.weight"]][0],
        vocab=vocab,
        length=shapes[names["text.positions"]][0],
        text_width=text_width,
        text_layers=text_layers,
        text_heads=text_width // HEAD_WIDTH,
        end=min(vocab, VOCAB) - 1,
    )


def open_clip_text_of_shapes(shapes: Shapes) -> Config:
    """The arguments of Stable Diffusion 2's TextTransformer: all layers of OpenCLIP but the last, and the
    exact GELU. Shapes do not say how many heads there are (64 wide)."""
    vocab, width = shapes["token_embedding.weight"]
    return dict(
        vocab=vocab,
        length=shapes["positional_embedding"][0],
        width=width,
        layers=count(shapes, r"transformer\.resblocks\.\d+\.ln_1\.weight") - 1,
        heads=width // HEAD_WIDTH,
        activation="gelu",
    )


def dino_of_shapes(shapes: Shapes, names: Mapping[str, str]) -> Config:
    """The arguments of DINO, likewise."""
    width, _, patch, _ = shapes[names["patches.weight"]]
    layers = count(shapes, re.escape(names["layers.0.norm1.weight"]).replace("0", r"\d+", 1))
    return dict(
        size=patch * math.isqrt(shapes[names["positions"]][0] - 1),
        patch=patch,
        width=width,
        layers=layers,
        heads=width // HEAD_WIDTH,
    )


def noised_clip_of_shapes(image: Shapes, text: Shapes) -> Config:
    """The arguments of NoisedCLIP, off its two files. KeyError with what is missed."""
    width, _, patch, _ = image["blocks.input.patch_proj"]
    vocab, text_width = text["blocks.input.w_voc"]
    layers, text_layers = (count(shapes, r"blocks\.block_\d+\.f_mlp\.ln\.g") for shapes in (image, text))
    return dict(
        size=patch * math.isqrt(image["blocks.input.w_pos"][0] - 1),
        patch=patch,
        width=width,
        layers=layers,
        heads=width // HEAD_WIDTH,
        times=image["blocks.input.w_t"][0],
        embed=image["blocks.output.f.w"][0],
        vocab=vocab,
        length=text["blocks.input.w_pos"][0],
        text_width=text_width,
        text_layers=text_layers,
        text_heads=text_width // HEAD_WIDTH,
        end=min(vocab, VOCAB) - 1,
    )
