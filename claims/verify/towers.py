"""CLIP and DINO beside transformers, open_clip and timm: equal weights, equal views, compared at every
block and at the output.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.claims.verify import LOGITS, NET, Remark, Row, Setting, census, reference, version
from palimpsest.claims.verify.nets import compare, counterparts, drawn, noise
from palimpsest.nets.judges.clip import CLIP, VIT_B_32
from palimpsest.nets.judges.dino import DINO
from palimpsest.weights.public.tower_names import (
    clip_of_shapes,
    clip_openai_names,
    clip_transformers_names,
    dino_of_shapes,
    dino_official_names,
    pack,
)


def _sizes(net: CLIP | DINO, names: dict[str, str], read: Any) -> dict[str, Any]:
    return read({names[key]: tuple(value.shape) for key, value in net.state_dict().items()}, names)


# ---- CLIP ----


def twin_of_transformers(clip: CLIP) -> nn.Module:
    """transformers' CLIPModel with the very tensors of `clip`."""
    transformers, names = reference("transformers"), clip_transformers_names(clip)
    c = _sizes(clip, names, clip_of_shapes)
    text = dict(
        vocab_size=c["vocab"],
        max_position_embeddings=c["length"],
        hidden_size=c["text_width"],
        bos_token_id=c["vocab"] - 2,
        intermediate_size=4 * c["text_width"],
        num_hidden_layers=c["text_layers"],
        num_attention_heads=c["text_heads"],
        eos_token_id=clip.end,
        pad_token_id=clip.end,
    )
    image = dict(
        image_size=c["size"],
        patch_size=c["patch"],
        hidden_size=c["width"],
        intermediate_size=4 * c["width"],
        num_hidden_layers=c["layers"],
        num_attention_heads=c["heads"],
    )
    with torch.device("meta"):
        theirs = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=c["embed"])
        )
    device = clip.logit_scale.device
    for tower in (
        theirs.text_model,
        theirs.vision_model,
    ):  # counted, not trained: nothing fills them but this
        tower.embeddings.position_ids = torch.arange(
            tower.embeddings.position_embedding.num_embeddings, device=device
        )[None]
    own = {
        key: value for key, value in theirs.state_dict().items() if key.endswith("position_ids")
    }  # of older versions
    theirs.load_state_dict(pack(clip, names) | own, assign=True)
    return theirs.eval().requires_grad_(False)


def twin_of_open_clip(clip: CLIP) -> nn.Module:
    """open_clip's CLIP with the weights of `clip`; query, key and value maps are one there, so those are
    copies.
    """
    open_clip, names = reference("open_clip"), clip_openai_names(clip)
    c = _sizes(clip, names, clip_of_shapes)
    with torch.device("meta"):
        theirs = open_clip.model.CLIP(
            embed_dim=c["embed"],
            quick_gelu=True,
            vision_cfg=open_clip.CLIPVisionCfg(
                layers=c["layers"],
                width=c["width"],
                head_width=64,
                patch_size=c["patch"],
                image_size=c["size"],
            ),
            text_cfg=open_clip.CLIPTextCfg(
                context_length=c["length"],
                vocab_size=c["vocab"],
                width=c["text_width"],
                heads=c["text_heads"],
                layers=c["text_layers"],
            ),
        )
    theirs.load_state_dict(pack(clip, names), assign=True)
    theirs.attn_mask = (
        theirs.build_attention_mask() if hasattr(theirs, "build_attention_mask") else _causal(c["length"])
    )
    theirs.attn_mask = theirs.attn_mask.to(clip.logit_scale)
    return theirs.eval().requires_grad_(False)


def _causal(length: int) -> Tensor:
    return torch.full((length, length), float("-inf")).triu(1)


@torch.no_grad()
def clip_rows(s: Setting) -> Iterator[Row]:
    """Pictures beside texts, padded as CLIP pads (0) and as Stable Diffusion does (with the end): the
    matrix of their logits.
    """
    if s.tower is not None:
        nets = [("CLIP", s.tower)] if isinstance(s.tower, CLIP) else []
    else:
        nets = [("CLIP ViT-B/32", drawn(CLIP, s, VIT_B_32 if s.size == "full" else None))]
    for what, clip in nets:
        yield from _clip(s, what, clip)
    if s.tower is None and s.size == "full":
        del nets, clip  # one at a time in memory
        yield from _clip(s, "CLIP ViT-L/14", drawn(CLIP, s))


def _clip(s: Setting, what: str, clip: CLIP) -> Iterator[Row]:
    views = noise(s, 2, 3, clip.size, clip.size)
    length = len(clip.text.positions)
    tokens = torch.randint(1, clip.end - 1, (2, length), generator=torch.Generator().manual_seed(s.seed)).to(
        s.device
    )
    tokens[:, 0] = clip.end - 1
    tokens[0, 5:], tokens[0, 5], tokens[1, length // 2 :] = 0, clip.end, clip.end
    shape = f"2×3×{clip.size}×{clip.size}, 2×{length}, {s.name}"

    theirs, names = twin_of_transformers(clip), clip_transformers_names(clip)
    pairs = counterparts(clip, names)
    del pairs["image.norm_out"]  # they normalise the class token alone
    blocks, output = compare(
        clip,
        theirs,
        pairs,
        lambda: clip(views, tokens),
        lambda: theirs(input_ids=tokens, pixel_values=views).logits_per_image,
    )
    yield Row(
        what, shape, "transformers", version("transformers"), census(clip), blocks, output, s.allow(LOGITS)
    )

    theirs, names = twin_of_open_clip(clip), clip_openai_names(clip)
    pairs = {
        ours: their for ours, their in counterparts(clip, names).items() if not ours.endswith("_projection")
    }  # no modules there
    blocks, output = compare(
        clip, theirs, pairs, lambda: clip(views, tokens), lambda: theirs.get_logits(views, tokens)[0]
    )
    yield Row(what, shape, "OpenAI", version("open_clip"), census(clip), blocks, output, s.allow(LOGITS))


# ---- DINO ----


def twin_of_timm(dino: DINO) -> nn.Module:
    """timm's VisionTransformer with the weights of `dino`."""
    timm, names = reference("timm.models.vision_transformer"), dino_official_names(dino)
    c = _sizes(dino, names, dino_of_shapes)
    with torch.device("meta"):
        theirs = timm.VisionTransformer(
            img_size=c["size"],
            patch_size=c["patch"],
            embed_dim=c["width"],
            depth=c["layers"],
            num_heads=c["heads"],
            num_classes=0,
        )
    theirs.load_state_dict(pack(dino, names), assign=True)
    return theirs.eval().requires_grad_(False)


@torch.no_grad()
def dino_rows(s: Setting) -> Iterator[Row | Remark]:
    """All tokens of DINO at the size of its training."""
    if s.tower is not None and not isinstance(s.tower, DINO):
        return
    dino = s.tower or drawn(DINO, s)
    side = dino.side * dino.patch
    views, theirs = noise(s, 2, 3, side, side), twin_of_timm(dino)

    def ours() -> Tensor:
        seen = dino(views)
        return torch.cat([seen.cls[:, None], seen.patches], dim=1)

    blocks, output = compare(
        dino,
        theirs,
        counterparts(dino, dino_official_names(dino)),
        ours,
        lambda: theirs.forward_features(views),
    )
    yield Row(
        "DINO ViT-S/16",
        f"2×3×{side}×{side}, {s.name}",
        "official",
        version("timm"),
        census(dino),
        blocks,
        output,
        s.allow(NET),
    )
    yield Remark(
        "DINO: at other sizes timm and transformers stretch the positions by rows/side; the official code, "
        "and so ours, by (rows + 0.1)/side"
    )
