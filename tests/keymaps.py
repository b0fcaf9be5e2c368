"""Names of our parameters -> names of the same parameters in diffusers and transformers: pure functions, one rule a line."""
from __future__ import annotations

import re

RESIDUAL = [(r"\.shift\.", ".time_emb_proj."), (r"\.skip\.", ".conv_shortcut.")]

UNET = [
    (r"^time\.linear([12])\.", r"time_embedding.linear_\1."),
    (r"^norm_out\.", "conv_norm_out."),
    (r"^(down|up)\.(\d+)\.stages\.(\d+)\.res\.", r"\1_blocks.\2.resnets.\3."),
    (r"^(down|up)\.(\d+)\.stages\.(\d+)\.transformer\.", r"\1_blocks.\2.attentions.\3."),
    (r"^(down|up)\.(\d+)\.resample\.", r"\1_blocks.\2.\1samplers.0."),
    (r"^mid\.stages\.(\d+)\.res\.", r"mid_block.resnets.\1."),
    (r"^mid\.stages\.(\d+)\.transformer\.", r"mid_block.attentions.\1."),
    (r"(attentions\.\d+)\.(norm[123]|attn[12]|ff)\.", r"\1.transformer_blocks.0.\2."),
    (r"\.to_out\.", ".to_out.0."),
    (r"\.ff\.linear1\.", ".ff.net.0.proj."),
    (r"\.ff\.linear2\.", ".ff.net.2."),
    *RESIDUAL,
]

VAE = [
    (r"^encoder\.levels\.(\d+)\.\d+\.conv\.", r"encoder.down_blocks.\1.downsamplers.0.conv."),
    (r"^encoder\.levels\.(\d+)\.(\d+)\.", r"encoder.down_blocks.\1.resnets.\2."),
    (r"^decoder\.levels\.(\d+)\.\d+\.conv\.", r"decoder.up_blocks.\1.upsamplers.0.conv."),
    (r"^decoder\.levels\.(\d+)\.(\d+)\.", r"decoder.up_blocks.\1.resnets.\2."),
    (r"\.mid\.0\.", ".mid_block.resnets.0."),
    (r"\.mid\.1\.attention\.", ".mid_block.attentions.0."),
    (r"\.mid\.1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.2\.", ".mid_block.resnets.1."),
    (r"\.to_out\.", ".to_out.0."),
    (r"\.norm_out\.", ".conv_norm_out."),
    *RESIDUAL,
]

TEXT = [
    (r"^tokens\.", "embeddings.token_embedding."),
    (r"^positions$", "embeddings.position_embedding.weight"),
    (r"^norm_out\.", "final_layer_norm."),
    (r"^layers\.", "encoder.layers."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attention\.to_([qkv])\.", r".self_attn.\1_proj."),
    (r"\.attention\.to_out\.", ".self_attn.out_proj."),
    (r"\.linear([12])\.", r".mlp.fc\1."),
]


def rename(key: str, rules: list[tuple[str, str]]) -> str:
    """Every rule (pattern, replacement) in turn."""
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def unet_to_diffusers(key: str) -> str:
    """A parameter of nets.unet.UNet -> the same of diffusers' UNet2DConditionModel; shapes are equal."""
    return rename(key, UNET)


def vae_to_diffusers(key: str) -> str:
    """A parameter of nets.vae.AutoencoderKL (with mid attention) -> the same of diffusers'; shapes are equal."""
    return rename(key, VAE)


def text_to_transformers(key: str) -> str:
    """A parameter of nets.text.TextTransformer -> the same of transformers' CLIPTextModel, without "text_model."."""
    return rename(key, TEXT)
