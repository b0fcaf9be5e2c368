"""The names that public layouts give to our parameters: pure functions of names, one rule a line.

    CompVis      one file: the U-Net under model.diffusion_model., the autoencoder under first_stage_model.,
                 the text encoder under cond_stage_model.transformer.text_model.; blocks are numbered through
    diffusers    a folder: unet/, vae/, text_encoder/ with the names of diffusers and transformers

Each `…_names(net)` maps every parameter of a net to its name in that layout; reading and writing use the
same map. Shapes differ in two places: CompVis keeps the four maps of the autoencoder's attention as 1×1
convolutions, and Stable Diffusion 2 keeps proj_in and proj_out of its U-Net as matrices."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from torch import Tensor

from palimpsest.nets.ddpm import DDPM
from palimpsest.nets.text import TextTransformer
from palimpsest.nets.unet import UNet
from palimpsest.nets.vae import AutoencoderKL

Rules = list[tuple[str, str | Callable[[re.Match], str]]]


def rename(key: str, rules: Rules) -> str:
    """Every rule (pattern, replacement) in turn."""
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


# ---- diffusers, transformers ----

BLOCK = [(r"\.shift\.", ".time_emb_proj."), (r"\.skip\.", ".conv_shortcut.")]
INSIDE = [  # the U-Net's transformers: CompVis and diffusers agree
    (r"\.transformer\.(norm[123]|attn[12]|ff)\.", r".transformer.transformer_blocks.0.\1."),
    (r"\.to_out\.", ".to_out.0."),
    (r"\.ff\.linear1\.", ".ff.net.0.proj."),
    (r"\.ff\.linear2\.", ".ff.net.2."),
]
UNET = [
    *INSIDE,
    (r"^time\.linear([12])\.", r"time_embedding.linear_\1."),
    (r"^norm_out\.", "conv_norm_out."),
    (r"^(down|up)\.(\d+)\.stages\.(\d+)\.res\.", r"\1_blocks.\2.resnets.\3."),
    (r"^(down|up)\.(\d+)\.stages\.(\d+)\.transformer\.", r"\1_blocks.\2.attentions.\3."),
    (r"^(down|up)\.(\d+)\.resample\.", r"\1_blocks.\2.\1samplers.0."),
    (r"^mid\.stages\.(\d+)\.res\.", r"mid_block.resnets.\1."),
    (r"^mid\.stages\.(\d+)\.transformer\.", r"mid_block.attentions.\1."),
    *BLOCK,
]
VAE = [
    (r"^encoder\.levels\.(\d+)\.\d+\.conv\.", r"encoder.down_blocks.\1.downsamplers.0.conv."),
    (r"^encoder\.levels\.(\d+)\.(\d+)\.", r"encoder.down_blocks.\1.resnets.\2."),
    (r"^decoder\.levels\.(\d+)\.\d+\.conv\.", r"decoder.up_blocks.\1.upsamplers.0.conv."),
    (r"^decoder\.levels\.(\d+)\.(\d+)\.", r"decoder.up_blocks.\1.resnets.\2."),
    (r"\.mid\.0\.", ".mid_block.resnets.0."),
    (r"\.mid\.1\.attention\.", ".mid_block.attentions.0."),
    (r"\.mid\.1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.[12]\.", ".mid_block.resnets.1."),  # 1 in an autoencoder without attention
    (r"\.to_out\.", ".to_out.0."),
    (r"\.norm_out\.", ".conv_norm_out."),
    *BLOCK,
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
SPELLINGS = [  # of files that older or newer versions wrote -> the spelling above
    (r"^text_model\.", ""),
    (r"(mid_block\.attentions\.0)\.query\.", r"\1.to_q."),
    (r"(mid_block\.attentions\.0)\.key\.", r"\1.to_k."),
    (r"(mid_block\.attentions\.0)\.value\.", r"\1.to_v."),
    (r"(mid_block\.attentions\.0)\.proj_attn\.", r"\1.to_out.0."),
]


def unet_to_diffusers(key: str) -> str:
    """A parameter of nets.unet.UNet -> the same of diffusers' UNet2DConditionModel; shapes are equal."""
    return rename(key, UNET)


def vae_to_diffusers(key: str) -> str:
    """A parameter of nets.vae.AutoencoderKL -> the same of diffusers'; shapes are equal."""
    return rename(key, VAE)


def text_to_transformers(key: str) -> str:
    """A parameter of nets.text.TextTransformer -> the same of transformers' CLIPTextModel, without
    "text_model.".
    """
    return rename(key, TEXT)


def diffusers_names(
    net: UNet | AutoencoderKL | TextTransformer, written: Iterable[str] | None = None
) -> dict[str, str]:
    """Our name -> the name in diffusers or transformers. written: the names in a file; where the file
    uses an older or newer spelling, that spelling is returned.
    """
    rule = {UNet: unet_to_diffusers, AutoencoderKL: vae_to_diffusers, TextTransformer: text_to_transformers}[
        type(net)
    ]
    spelt = {rename(name, SPELLINGS): name for name in written or ()}
    return {key: spelt.get(rule(key), rule(key)) for key in net.state_dict()}


# ---- CompVis ----

UNET_PREFIX, VAE_PREFIX, TEXT_PREFIX = (
    "model.diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.transformer.",
)

COMPVIS_UNET = [
    *INSIDE,
    (r"^time\.linear1\.", "time_embed.0."),
    (r"^time\.linear2\.", "time_embed.2."),
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"^mid\.stages\.0\.res\.", "middle_block.0.res."),
    (r"^mid\.stages\.0\.transformer\.", "middle_block.1.transformer."),
    (r"^mid\.stages\.1\.res\.", "middle_block.2.res."),
    (r"\.res\.norm1\.", ".in_layers.0."),
    (r"\.res\.conv1\.", ".in_layers.2."),
    (r"\.res\.shift\.", ".emb_layers.1."),
    (r"\.res\.norm2\.", ".out_layers.0."),
    (r"\.res\.conv2\.", ".out_layers.3."),
    (r"\.res\.skip\.", ".skip_connection."),
    (r"\.transformer\.", "."),
]
COMPVIS_VAE = [
    (r"^encoder\.levels\.(\d+)\.\d+\.conv\.", r"encoder.down.\1.downsample.conv."),
    (r"^encoder\.levels\.(\d+)\.(\d+)\.", r"encoder.down.\1.block.\2."),
    (r"^decoder\.levels\.(\d+)\.\d+\.conv\.", r"decoder.up.\1.upsample.conv."),
    (r"^decoder\.levels\.(\d+)\.(\d+)\.", r"decoder.up.\1.block.\2."),
    (r"\.mid\.0\.", ".mid.block_1."),
    (r"\.mid\.1\.attention\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"\.mid\.1\.attention\.to_out\.", ".mid.attn_1.proj_out."),
    (r"\.mid\.1\.norm\.", ".mid.attn_1.norm."),
    (r"\.mid\.[12]\.", ".mid.block_2."),
    (r"\.skip\.", ".nin_shortcut."),
]


def compvis_unet_names(net: UNet) -> dict[str, str]:
    """Our name -> CompVis's, without the prefix. CompVis numbers the blocks of all levels through, once on
    the way down and once on the way up, and a halving counts as a block.
    """
    block, i = {}, 1  # input_blocks.0 is conv_in
    for k, level in enumerate(net.down):
        for j in range(len(level.stages)):
            block[f"down.{k}.stages.{j}"] = f"input_blocks.{i}"
            i += 1
        if level.resample is not None:
            block[f"down.{k}.resample.conv"] = f"input_blocks.{i}.0.op"
            i += 1
    i = 0
    for k, level in enumerate(net.up):
        for j in range(len(level.stages)):
            block[f"up.{k}.stages.{j}"] = f"output_blocks.{i}"
            i += 1
        after = (
            1 if level.stages[-1].transformer is None else 2
        )  # the doubling is the last member of the level's last block
        block[f"up.{k}.resample.conv"] = (
            f"output_blocks.{i - 1}.{after}.conv"  # named even where a level has none
        )

    def name(key: str) -> str:
        key = re.sub(r"^(down|up)\.\d+\.(stages\.\d+|resample\.conv)", lambda place: block[place[0]], key)
        key = re.sub(
            r"^(\w+_blocks\.\d+)\.(res|transformer)\.", lambda m: f"{m[1]}.{int(m[2] != 'res')}.{m[2]}.", key
        )
        return rename(key, COMPVIS_UNET)

    return {key: name(key) for key in net.state_dict()}


def compvis_vae_names(vae: AutoencoderKL) -> dict[str, str]:
    """Our name -> CompVis's, without the prefix. There the decoder's levels count from the finest."""
    last = len(vae.decoder.levels) - 1

    def flip(place: re.Match) -> str:
        return f"decoder.up.{last - int(place[1])}."

    return {key: re.sub(r"^decoder\.up\.(\d+)\.", flip, rename(key, COMPVIS_VAE)) for key in vae.state_dict()}


def as_matrix(name: str, value: Tensor) -> Tensor:
    """proj_in and proj_out of a transformer as Stable Diffusion 2 keeps them: (c, c, 1, 1) -> (c, c)."""
    return value[:, :, 0, 0] if re.search(r"\.proj_(in|out)\.weight$", name) and value.ndim == 4 else value


def to_compvis_shape(name: str, value: Tensor) -> Tensor:
    """The autoencoder's attention as CompVis keeps it: (512, 512) -> (512, 512, 1, 1)."""
    return value[:, :, None, None] if re.search(r"\.mid\.attn_1\.(q|k|v|proj_out)\.weight$", name) else value


def ema_name(name: str) -> str:
    """model.diffusion_model.out.0.weight -> model_ema.diffusion_modelout0weight: names in the moving average
    have no dots.
    """
    return "model_ema." + name.removeprefix("model.").replace(".", "")


# ---- DDPM, the names of SDEdit's checkpoints ----

DDPM_RULES = [
    (r"^time([12])\.", lambda m: f"temb.dense.{int(m[1]) - 1}."),
    (r"^mid\.0\.attention\.", "mid.attn_1."),
    (r"^mid\.([01])\.res\.", lambda m: f"mid.block_{int(m[1]) + 1}."),
    (r"\.stages\.(\d+)\.res\.", r".block.\1."),
    (r"\.stages\.(\d+)\.attention\.", r".attn.\1."),
    (r"^down\.(\d+)\.resample\.", r"down.\1.downsample."),
    (r"^up\.(\d+)\.resample\.", r"up.\1.upsample."),
    (r"\.attention\.to_([qkv])\.", r".\1."),
    (r"\.attention\.to_out\.", ".proj_out."),
    (r"\.shift\.", ".temb_proj."),
    (r"\.skip\.", ".nin_shortcut."),
]


def ddpm_names(net: DDPM) -> dict[str, str]:
    """Our name -> that of the checkpoints, whose way up counts its levels from the finest."""
    last = len(net.up) - 1
    return {
        key: re.sub(r"^up\.(\d+)\.", lambda place: f"up.{last - int(place[1])}.", rename(key, DDPM_RULES))
        for key in net.state_dict()
    }


# ---- what a file may hold besides weights ----

BUFFERS = re.compile(
    r"""
    (betas | alphas_cumprod(_prev)? | sqrt_\w+ | log_one_minus_alphas_cumprod | posterior_\w+
    | logvar | lvlb_weights | scale_factor | (.*\.)?position_ids | model_ema\.(decay|num_updates))$""",
    re.VERBOSE,
)
UNUSED = re.compile(  # by sampling, in files that others merged or trained on
    r"""
    ((denoiser\.|log_)?sigmas | v_pred
    | (cond_stage_model\.(.*\.)?)?(logit_scale | attn_mask | text_projection(\[T\]|\.weight)?)
    | ((cond_stage_model\.(.*\.)?)?(vision_model | visual | visual_projection) | first_stage_model\.loss
      | safety_checker)\..* )$""",
    re.VERBOSE,
)
