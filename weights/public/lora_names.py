"""What the keys of LoRA files mean: pure functions of names.

    diffusers   unet.….to_q.lora.down.weight, ….to_q.lora_A.weight, ….processor.to_q_lora.down.weight;
                text_encoder.….q_proj.lora_linear_layer.down.weight
    peft        base_model.model.….to_q.lora_A.weight
    kohya       lora_unet_…_to_q.lora_down.weight, lora_te_…, ….alpha
    the first   unet:0:down, text_encoder:0:up: maps by number

Dots and underscores are one and the same here: kohya's names have no dots.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from torch import nn

from palimpsest.nets.text import TextTransformer
from palimpsest.nets.unet import UNet
from palimpsest.weights.public.layouts import Rules, compvis_unet_names, diffusers_names, rename

FOREIGN = {  # a key -> a change of another kind
    r"\.hada_[wt]\d": "LoHa (LyCORIS)",
    r"\.lokr_[wt]\d": "LoKr (LyCORIS)",
    r"\.on_input$|\.ia3_l": "(IA)³",
    r"\.dora_scale$|\.lora_magnitude_vector": "DoRA",
    r"\.lora_mid\.weight$": "a LoCon in Tucker's form",
    r"\.oft_|\.boft_": "OFT",
    r"\.(diff|diff_b|w_norm|b_norm)$": "a LyCORIS file of whole differences",
    r"\.lora_E\b": "AdaLoRA",
    r"\.lora_embedding_[AB]": "a LoRA of the table of tokens",
    r"_custom_diffusion\.": "Custom Diffusion",
}
FAMILIES = {  # a key -> the family of models that such a LoRA changes
    r"double_blocks|single_blocks|single_transformer_blocks": "Flux",
    r"joint_blocks|^lora_te3_": "Stable Diffusion 3",
    r"^transformer\.|^lora_transformer_": "a transformer, as Stable Diffusion 3 and Flux are,",
    r"^lora_te2_|^text_encoder_2\.|transformer_blocks[._][1-9]": "Stable Diffusion XL",
}
NUMBERED = re.compile(r"(unet|text_encoder):(\d+):(down|up)$")
HALF = re.compile(
    r"(.+?)(?:\.lora_|\.lora\.|\.lora_linear_layer\.|(?<=_lora)\.)(down|up|A|B)(?:\.\w+)?\.weight$"
)
ALPHA = re.compile(r"(.+)\.alpha$")
OUTER = re.compile(r"^(base_model\.model\.)?((model\.)?diffusion_model\.)?")
PARTS = {  # how a name begins -> the part of a Model
    r"lora_unet_|unet\.": "net",
    r"lora_te1?_|text_encoder\.|(?=text_model\.|encoder\.layers\.)": "text",
    r"": "net",
}
SPELLINGS: Rules = [  # of older versions -> those of today
    (r"^base_model\.model\.", ""),
    (r"^text_model[._]", ""),
    (r"\.self_attn\.to_([qkv])_lora$", r".self_attn.\1_proj"),
    (r"\.self_attn\.to_out_lora$", ".self_attn.out_proj"),
    (r"(\.processor)?\.to_([qkv])_lora$", r".to_\2"),
    (r"(\.processor)?\.to_out_lora$", ".to_out.0"),
]


class Key(NamedTuple):
    """What one key of a file says."""

    part: str  # of a Model, "net" or "text"
    name: str  # of the map, as the file spells it without what stands before it; of a numbered one its number
    what: str  # "down" (A), "up" (B) or "alpha"


def parse(key: str) -> Key | None:
    """None for a key that is no LoRA's."""
    if found := NUMBERED.match(key):
        return Key({"unet": "net", "text_encoder": "text"}[found[1]], found[2], found[3])
    if found := HALF.match(key):
        stem, what = found[1], {"A": "down", "B": "up"}.get(found[2], found[2])
    elif found := ALPHA.match(key):
        stem, what = found[1], "alpha"
    else:
        return None
    stem = OUTER.sub("", stem)
    start = next(start for start in PARTS if re.match(start, stem))
    return Key(PARTS[start], rename(re.sub(f"^({start})", "", stem), SPELLINGS), what)


def foreign(keys: Iterable[str]) -> str | None:
    """What the file is, where it is a change of a kind, or of a family of models, that is not read here."""
    keys = list(keys)
    for pattern, kind in FOREIGN.items():
        if any(re.search(pattern, key) for key in keys):
            return (
                f"is {kind}, which is more than a low-rank change (LoRA) and not supported; take a LoRA or "
                "LoCon of Stable Diffusion v1, or merge it into its model with the program that made it"
            )
    for pattern, family in FAMILIES.items():
        if any(HALF.match(key) and re.search(pattern, key) for key in keys):
            return f"is a LoRA of {family}, which is not supported; take one of Stable Diffusion v1"
    return None


def is_lora(keys: Iterable[str]) -> bool:
    """Whether these are the keys of low-rank changes."""
    return any(
        HALF.match(key) or NUMBERED.match(key) or key.startswith(("lora_unet_", "lora_te")) for key in keys
    )


def described(keys: Iterable[str]) -> str | None:
    """What a file of changes is and where it goes, for one given as a model; None for other files."""
    keys = list(keys)
    to = "no model; give it to --lora, and to --model the model that it changes"
    return foreign(keys) or (f"holds low-rank changes (LoRA), {to}" if is_lora(keys) else None)


def maps_by_name(module: nn.Module | None) -> dict[str, str]:
    """What others call the linear maps and convolutions of a net, "_" for ".", -> their names here.

    A U-Net has diffusers' names and CompVis's, a text encoder those of transformers; {} for other nets."""
    rules = {UNet: (diffusers_names, compvis_unet_names), TextTransformer: (diffusers_names,)}.get(
        type(module), ()
    )
    return {
        theirs.removesuffix(".weight").replace(".", "_"): ours.removesuffix(".weight")
        for rule in rules
        for ours, theirs in rule(module).items()
        if ours.endswith(".weight")
        and isinstance(module.get_submodule(ours.removesuffix(".weight")), (nn.Linear, nn.Conv2d))
    }


SELF, CROSS = ([f"{attention}.to_{m}" for m in ("q", "k", "v", "out")] for attention in ("attn1", "attn2"))
GATED = [*SELF, "ff.linear1", *CROSS]
RESIDUAL = ["conv1", "shift", "conv2", "skip"]


def maps_by_number(module: nn.Module | None, count: int) -> list[str]:
    """The maps of a net in the order in which the first LoRA files number them; [] where none has so many.

    It is the order in which transformers and diffusers listed them then. Of a text encoder, the attention
    of each layer: keys, values, queries, outputs. Of a U-Net, all levels down, all up, the middle last; in
    each the transformers, with the feed-forward's first map or without, then perhaps the residual blocks.
    """
    names: list[str] = []
    if isinstance(module, TextTransformer):
        places = [f"layers.{k}.attention" for k in range(len(module.layers))]
        names = [f"{place}.to_{m}" for place in places for m in ("k", "v", "q", "out")]
    elif isinstance(module, UNet):
        maps = set(maps_by_name(module).values())
        levels = [*(f"{way}.{k}" for way in ("down", "up") for k in range(len(module.down))), "mid"]
        for inside, residual in (SELF + CROSS, []), (GATED, []), (GATED, RESIDUAL):
            names = [
                name
                for level in levels
                for kind, members in (("transformer", inside), ("res", residual))
                for j in range(len(module.get_submodule(level).stages))
                for member in members
                if (name := f"{level}.stages.{j}.{kind}.{member}") in maps
            ]
            if len(names) == count:
                break
    return names if len(names) == count else []
