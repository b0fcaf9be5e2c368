"""The arguments with which a net was built: read off the net, off the shapes of a CompVis file, or from a
config.json of diffusers, which is written here too.

A configuration is the keyword arguments of UNet, AutoencoderKL or TextTransformer. Shapes say all of it
but the number of heads, the groups of the norms and the activation: those are Stable Diffusion's unless a
file says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import nn

from palimpsest.nets.text import TextTransformer, quick_gelu
from palimpsest.nets.unet import UNet
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.weights.files import WeightsError

Config = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]
ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": F.gelu}
HEADS, GROUPS, HEAD_WIDTH = (
    8,
    32,
    64,
)  # of the published U-Net, of all norms, of a head of CLIP's text encoder


def build(config: Config, kind: type[nn.Module]) -> nn.Module:
    """The net of a configuration; the activation may be named."""
    if isinstance(config.get("activation"), str):
        config = config | {"activation": ACTIVATIONS[config["activation"]]}
    return kind(**config)


# ---- off a net ----


def config_of(net: UNet | AutoencoderKL | TextTransformer) -> Config:
    """The arguments that build such a net anew; plain values, so that JSON can hold them."""
    return {UNet: _unet, AutoencoderKL: _vae, TextTransformer: _text}[type(net)](net)


def _unet(net: UNet) -> Config:
    width = net.conv_in.out_channels
    stages = [level.stages for level in net.down]
    return dict(
        in_channels=net.conv_in.in_channels,
        out_channels=net.conv_out.out_channels,
        width=width,
        mult=[s[0].res.conv1.out_channels // width for s in stages],
        blocks=len(stages[0]),
        attention=[s[0].transformer is not None for s in stages],
        heads=net.heads,
        ctx_width=net.ctx_width,
        norm_groups=net.norm_out.num_groups,
    )


def _vae(vae: AutoencoderKL) -> Config:
    width, levels = vae.encoder.conv_in.out_channels, vae.encoder.levels
    return dict(
        width=width,
        mult=[level[0].conv1.out_channels // width for level in levels],
        blocks=len(levels[-1]),
        latent_channels=vae.post_quant_conv.in_channels,
        channels=vae.decoder.conv_out.out_channels,
        norm_groups=vae.encoder.norm_out.num_groups,
        mid_attention=len(vae.encoder.mid) == 3,
    )


def _text(text: TextTransformer) -> Config:
    length, width = text.positions.shape
    layer = text.layers[0]
    activation = next(name for name, f in ACTIVATIONS.items() if f is layer.activation)
    return dict(
        vocab=text.tokens.num_embeddings,
        length=length,
        width=width,
        layers=len(text.layers),
        heads=layer.attention.heads,
        activation=activation,
        causal=layer.attention.causal,
    )


def has_linear_projections(net: UNet) -> bool:
    """Whether the published files of such a U-Net hold proj_in and proj_out as matrices, as Stable Diffusion
    2's do, and not as convolutions of one pixel: the two are the same map."""
    return not isinstance(net.heads, int)


# ---- off the shapes of a CompVis file, prefixes taken away ----


def unet_of_shapes(shapes: Shapes) -> Config:
    """The arguments of UNet. A level of the way down ends where the map is halved. Raises KeyError with the
    name of a missing tensor.
    """
    levels, i = [[]], 1
    while any(key.startswith(f"input_blocks.{i}.") for key in shapes):
        if f"input_blocks.{i}.0.op.weight" in shapes:
            levels.append([])
        else:
            levels[-1].append(i)
        i += 1
    width, in_channels = shapes["input_blocks.0.0.weight"][:2]
    widths = [shapes[f"input_blocks.{level[0] if level else i}.0.out_layers.3.weight"][0] for level in levels]
    linear = any(key.endswith("proj_in.weight") and len(shape) == 2 for key, shape in shapes.items())
    return dict(
        in_channels=in_channels,
        out_channels=shapes["out.2.weight"][0],
        width=width,
        mult=[w // width for w in widths],
        blocks=len(levels[0]),
        attention=[f"input_blocks.{level[0]}.1.norm.weight" in shapes for level in levels],
        # Stable Diffusion 2 has linear maps where v1 has convolutions of one pixel, and heads of one width
        heads=[w // HEAD_WIDTH for w in widths] if linear else HEADS,
        ctx_width=shapes["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
        norm_groups=GROUPS,
    )


def vae_of_shapes(shapes: Shapes) -> Config:
    """The arguments of AutoencoderKL. Raises KeyError as `unet_of_shapes`."""
    levels = 1 + max(
        (int(key.split(".")[2]) for key in shapes if key.startswith("encoder.down.")), default=-1
    )
    width, channels = shapes["encoder.conv_in.weight"][:2]
    widths = [shapes[f"encoder.down.{k}.block.0.conv1.weight"][0] for k in range(levels)]
    blocks = sum(key.startswith("encoder.down.0.block.") and key.endswith("conv1.weight") for key in shapes)
    return dict(
        width=width,
        mult=[w // width for w in widths],
        blocks=blocks,
        latent_channels=shapes["post_quant_conv.weight"][1],
        channels=channels,
        norm_groups=GROUPS,
        mid_attention="encoder.mid.attn_1.norm.weight" in shapes,
    )


def text_of_shapes(shapes: Shapes) -> Config:
    """The arguments of TextTransformer; a head of CLIP is 64 wide. Raises KeyError as `unet_of_shapes`."""
    vocab, width = shapes["embeddings.token_embedding.weight"]
    length = shapes["embeddings.position_embedding.weight"][0]
    layers = sum(key.endswith(".layer_norm1.weight") for key in shapes)
    return dict(vocab=vocab, length=length, width=width, layers=layers, heads=width // HEAD_WIDTH)


# ---- off a config.json, and back ----

CROSS, PLAIN = "CrossAttn{}Block2D", "{}Block2D"
UNET_ALWAYS = {  # fields that describe UNet: a JSON must have these values, or leave the fields out
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "dual_cross_attention": False,
    "only_cross_attention": False,
    "class_embed_type": None,
    "num_class_embeds": None,
    "addition_embed_type": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "transformer_layers_per_block": 1,
    "reverse_transformer_layers_per_block": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "mid_block_only_cross_attention": None,
    "cross_attention_norm": None,
    "attention_type": "default",
    "class_embeddings_concat": False,
}
KINDS = {  # a value that tells an architecture by its name
    ("addition_embed_type", "text_time"): "Stable Diffusion XL",
    ("addition_embed_type", "text_image"): "Kandinsky 2",
    ("addition_embed_type", "image"): "Kandinsky 2",
    ("addition_embed_type", "text"): "DeepFloyd IF",
    ("class_embed_type", "projection"): "Stable unCLIP",
    ("class_embed_type", "simple_projection"): "AudioLDM",
    ("num_class_embeds", "1000"): "Stable Diffusion 2's upscaler by 4",
    ("resnet_time_scale_shift", "scale_shift"): "a U-Net of another family",
}
VAE_ALWAYS = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
}


def _insist(config: Config, always: Config) -> None:
    for key, value in always.items():
        if config.get(key, value) != value:
            kind = KINDS.get((key, str(config[key])), "another architecture")
            raise WeightsError(
                f"model: {key} is {config[key]!r} in its config.json: {kind}, which is not supported; take a "
                "Stable Diffusion v1 or v2 model"
            )


def unet_of_json(config: Config) -> Config:
    """A diffusers config.json -> the arguments of UNet. Raises WeightsError for an architecture that UNet
    is not.
    """
    _insist(config, UNET_ALWAYS)
    # what diffusers calls the dim of a head is how many there are, in every level or in each
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    kinds, widths = config["down_block_types"], config["block_out_channels"]
    known = {CROSS.format("Down"): True, PLAIN.format("Down"): False}
    ups = [kind.replace("Up", "Down") for kind in config.get("up_block_types", kinds[::-1])]
    if not set(kinds) <= known.keys() or ups != kinds[::-1]:
        other = sorted({*kinds, *config.get("up_block_types", ())} - known.keys())
        raise WeightsError(
            f"model: the levels {', '.join(other)} in its config.json are those of another architecture; "
            "take a Stable Diffusion v1 or v2 model"
        )
    return dict(
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        width=widths[0],
        mult=[w // widths[0] for w in widths],
        blocks=config["layers_per_block"],
        attention=[known[kind] for kind in kinds],
        heads=heads,
        ctx_width=config["cross_attention_dim"],
        norm_groups=config.get("norm_num_groups", GROUPS),
    )


def unet_to_json(net: UNet, sample_size: int) -> Config:
    """The config.json with which diffusers builds the same U-Net."""
    c = config_of(net)
    kinds = [CROSS if attend else PLAIN for attend in c["attention"]]
    return {
        **UNET_ALWAYS,
        "sample_size": sample_size,
        "in_channels": c["in_channels"],
        "out_channels": c["out_channels"],
        "block_out_channels": [c["width"] * m for m in c["mult"]],
        "layers_per_block": c["blocks"],
        "attention_head_dim": c["heads"],
        "use_linear_projection": has_linear_projections(net),
        "cross_attention_dim": c["ctx_width"],
        "norm_num_groups": c["norm_groups"],
        "down_block_types": [kind.format("Down") for kind in kinds],
        "up_block_types": [kind.format("Up") for kind in kinds[::-1]],
    }


def vae_of_json(config: Config) -> Config:
    """A diffusers config.json -> the arguments of AutoencoderKL. Raises WeightsError for an architecture
    that it is not.
    """
    _insist(config, VAE_ALWAYS)
    widths = config["block_out_channels"]
    return dict(
        width=widths[0],
        mult=[w // widths[0] for w in widths],
        blocks=config["layers_per_block"],
        latent_channels=config["latent_channels"],
        channels=config["in_channels"],
        norm_groups=config.get("norm_num_groups", GROUPS),
        mid_attention=config.get("mid_block_add_attention", True),
    )


def vae_to_json(vae: AutoencoderKL, sample_size: int, latent_scale: float) -> Config:
    """The config.json with which diffusers builds the same autoencoder."""
    c = config_of(vae)
    n = len(c["mult"])
    return {
        **VAE_ALWAYS,
        "sample_size": sample_size,
        "scaling_factor": latent_scale,
        "in_channels": c["channels"],
        "out_channels": c["channels"],
        "latent_channels": c["latent_channels"],
        "layers_per_block": c["blocks"],
        "block_out_channels": [c["width"] * m for m in c["mult"]],
        "norm_num_groups": c["norm_groups"],
        "mid_block_add_attention": c["mid_attention"],
        "down_block_types": ["DownEncoderBlock2D"] * n,
        "up_block_types": ["UpDecoderBlock2D"] * n,
    }


def text_of_json(config: Config) -> Config:
    """A transformers config.json of a CLIP text encoder -> the arguments of TextTransformer."""
    if (kind := config.get("model_type", "clip_text_model")) not in ("clip_text_model", "clip"):
        raise WeightsError(
            f"model: model_type is {kind!r} in its config.json, so another text encoder than CLIP's, which "
            "is not supported; take a Stable Diffusion v1 or v2 model"
        )
    _insist(config, {"layer_norm_eps": 1e-5, "intermediate_size": 4 * config["hidden_size"]})
    if (activation := config.get("hidden_act", "quick_gelu")) not in ACTIVATIONS:
        raise WeightsError(
            f"model: hidden_act is {activation!r} in its config.json, and only {' and '.join(ACTIVATIONS)} "
            "are known"
        )
    return dict(
        vocab=config.get("vocab_size", 49408),
        length=config.get("max_position_embeddings", 77),
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        activation=activation,
    )


def text_to_json(text: TextTransformer) -> Config:
    """The config.json with which transformers builds the same text encoder."""
    c = config_of(text)
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_act": c["activation"],
        "hidden_size": c["width"],
        "intermediate_size": 4 * c["width"],
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": c["length"],
        "num_attention_heads": c["heads"],
        "num_hidden_layers": c["layers"],
        "projection_dim": c["width"],
        "vocab_size": c["vocab"],
        "bos_token_id": c["vocab"] - 2,
        "eos_token_id": c["vocab"] - 1,
        "pad_token_id": c["vocab"] - 1,
    }
