"""GLIDE's published models as Models: base.pt, upsample.pt, base_inpaint.pt and upsample_inpaint.pt, each a
flat state dict.

"GLIDE", arXiv:2112.10741v3. A file holds a text transformer and a U-Net as one net. Here they are two
modules, so that a text is read once for all steps. Blocks are numbered through, as in CompVis's files: both
programs come from OpenAI's guided-diffusion."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from palimpsest.nets.glide import GlideText, GlideUNet
from palimpsest.nets.gpt2 import GPT2Tokenizer
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.files import WeightsError
from palimpsest.weights.public.configs import HEAD_WIDTH, Config, Shapes
from palimpsest.weights.public.layouts import rename
from palimpsest.weights.public.mapped import Checkpoint
from palimpsest.weights.public.shared import build_empty

UNET = [
    (r"^time\.linear1\.", "time_embed.0."),
    (r"^time\.linear2\.", "time_embed.2."),
    (r"^text_projection\.", "transformer_proj."),
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"^mid\.stages\.0\.res\.", "middle_block.0."),
    (r"^mid\.stages\.0\.joint\.", "middle_block.1."),
    (r"^mid\.stages\.1\.res\.", "middle_block.2."),
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.scale_shift\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.skip\.", ".skip_connection."),
    (r"\.attention\.ctx_kv\.", ".encoder_kv."),
    (r"\.attention\.to_out\.", ".proj_out."),
    (r"\.attention\.qkv\.", ".qkv."),
]
TEXT = [
    (r"^tokens\.", "token_embedding."),
    (r"^positions$", "positional_embedding"),
    (r"^padding$", "padding_embedding"),
    (r"^norm_out\.", "final_ln."),
    (r"^layers\.", "transformer.resblocks."),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.attention\.qkv\.", ".attn.c_qkv."),
    (r"\.attention\.to_out\.", ".attn.c_proj."),
    (r"\.linear1\.", ".mlp.c_fc."),
    (r"\.linear2\.", ".mlp.c_proj."),
]

MEND = "fetch it again, or take one of GLIDE's four published models"


def glide_unet_names(net: GlideUNet) -> dict[str, str]:
    """Our name -> the published one. There a halving is a block of its own, and a doubling is the last member
    of the last block of its level.
    """
    block, i = {}, 1  # input_blocks.0 is conv_in
    for k, level in enumerate(net.down):
        for j in range(len(level.stages)):
            block |= {
                f"down.{k}.stages.{j}.res": f"input_blocks.{i}.0",
                f"down.{k}.stages.{j}.joint": f"input_blocks.{i}.1",
            }
            i += 1
        block[f"down.{k}.resample"] = f"input_blocks.{i}.0"  # named even where a level has none
        i += 1
    i = 0
    for k, level in enumerate(net.up):
        for j in range(len(level.stages)):
            block |= {
                f"up.{k}.stages.{j}.res": f"output_blocks.{i}.0",
                f"up.{k}.stages.{j}.joint": f"output_blocks.{i}.1",
            }
            i += 1
        block[f"up.{k}.resample"] = f"output_blocks.{i - 1}.{1 if level.stages[-1].joint is None else 2}"

    def name(key: str) -> str:
        key = re.sub(
            r"^(down|up)\.\d+\.(stages\.\d+\.(res|joint)|resample)", lambda place: block[place[0]], key
        )
        return rename(key, UNET)

    return {key: name(key) for key in net.state_dict()}


def glide_text_names(text: GlideText) -> dict[str, str]:
    """Our name -> the published one."""
    return {key: rename(key, TEXT) for key in text.state_dict()}


def glide_of_shapes(shapes: Shapes) -> tuple[Config, Config]:
    """The arguments of GlideUNet and of GlideText. Raises KeyError with the name of a missing tensor.

    A block that halves has the same tensors as any other block. A block that doubles has a member more, and
    ends a level of the way up; the way down has the same levels with one block less. Shapes do not tell the
    width of a head (64), nor the groups of a norm (32)."""
    doubles = [
        i
        for i in range(len(shapes))
        if any(f"output_blocks.{i}.{place}.in_layers.0.weight" in shapes for place in (1, 2))
    ]
    if not doubles:
        raise KeyError("output_blocks.….2.in_layers.0.weight")
    blocks = doubles[0]
    first = [1 + k * (blocks + 1) for k in range(len(doubles) + 1)]  # the first block of each level
    width, takes = shapes["input_blocks.0.0.weight"][:2]
    c = shapes["out.2.weight"][0] // 2
    kinds = {c: (False, False), 2 * c + 1: (True, False), 2 * c: (False, True), 3 * c + 1: (True, True)}
    if takes not in kinds:
        raise WeightsError(
            f"model: its U-Net takes {takes} channels and paints {c}, where GLIDE's take "
            f"{', '.join(map(str, kinds))}; {MEND}"
        )
    inpainting, upsampling = kinds[takes]
    unet = dict(
        channels=c,
        inpainting=inpainting,
        upsampling=upsampling,
        width=width,
        mult=[shapes[f"input_blocks.{i}.0.out_layers.3.weight"][0] // width for i in first],
        blocks=blocks,
        attention=[f"input_blocks.{i}.1.norm.weight" in shapes for i in first],
        head_width=HEAD_WIDTH,
        ctx_width=shapes["transformer_proj.weight"][1],
    )
    vocab, text_width = shapes["token_embedding.weight"]
    text = dict(
        vocab=vocab,
        length=shapes["positional_embedding"][0],
        width=text_width,
        heads=text_width // HEAD_WIDTH,
        layers=sum(
            re.fullmatch(r"transformer\.resblocks\.\d+\.ln_1\.weight", key) is not None for key in shapes
        ),
    )
    return unet, text


def read_glide(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The fields of a Model. The base paints 64×64 on the cosine schedule, the upsampler 256×256 on the
    linear one.

    Raises WeightsError for a file that does not fit."""
    path, shapes = checkpoint.path, checkpoint.shapes
    unet, words = glide_of_shapes(shapes)
    net, text = build_empty(path, GlideUNet, unet, MEND), build_empty(path, GlideText, words, MEND)
    if words["width"] != unet["ctx_width"]:
        raise WeightsError(
            f"model: {path} has a text transformer of width {words['width']} and a U-Net that reads "
            f"{unet['ctx_width']}; {MEND}"
        )
    names = {"net": glide_unet_names(net), "text": glide_text_names(text)}
    modules = nn.ModuleDict({"net": net, "text": text})
    checkpoint.fits(
        modules, {f"{part}.{ours}": theirs for part, keys in names.items() for ours, theirs in keys.items()}
    )
    tokenizer = GPT2Tokenizer(length=words["length"], truncate=True)
    for part, keys in names.items():
        checkpoint.load_into(modules[part], keys, device, dtype)
    return dict(
        name=path.stem,
        net=net,
        text=text,
        tokenizer=tokenizer,
        vae=None,
        schedule=Schedule.linear() if net.upsampling else Schedule.cosine(),
        prediction="eps",
        latent_scale=1.0,
        size=256 if net.upsampling else 64,
        shift=1,
        learned_variance=True,
    )
