"""Each net beside the same of diffusers or transformers: equal weights, equal input, compared at every
block and at the output.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.claims.verify import NET, Row, Setting, Skipped, census, reference, relative, version
from palimpsest.nets.blocks import ResBlock
from palimpsest.nets.glide import GlideUNet
from palimpsest.nets.judges.clip import CLIP
from palimpsest.nets.judges.dino import DINO
from palimpsest.nets.text import TextLayer, TextTransformer
from palimpsest.nets.unet import Transformer, UNet
from palimpsest.nets.vae import AutoencoderKL, SpatialAttention
from palimpsest.weights.public import configs
from palimpsest.weights.public.layouts import (
    UNET_PREFIX,
    VAE_PREFIX,
    as_matrix,
    compvis_unet_names,
    compvis_vae_names,
    diffusers_names,
    to_compvis_shape,
)

Net = TypeVar("Net", bound=nn.Module)
BLOCKS = (
    ResBlock,
    Transformer,
    SpatialAttention,
    TextLayer,
)  # compared as a whole; outside of them, every layer is
SMALL: dict[type[nn.Module], dict[str, Any]] = {
    UNet: dict(width=32, mult=(1, 2, 2), blocks=2, attention=(True, True, False), ctx_width=64),
    AutoencoderKL: dict(width=32, mult=(1, 2, 2, 2), blocks=1),
    TextTransformer: dict(vocab=1000, width=64, layers=3, heads=2),
    CLIP: dict(
        size=32,
        patch=8,
        width=128,
        layers=2,
        heads=2,
        embed=24,
        vocab=1000,
        text_width=64,
        text_layers=2,
        text_heads=1,
    ),
    DINO: dict(size=32, patch=8, width=128, layers=3, heads=2),
}
VERSION_2 = {  # Stable Diffusion 2's U-Net: heads of one width, linear projections
    "small": dict(heads=(1, 2, 2)),
    "full": dict(heads=(5, 10, 20, 20), ctx_width=1024),
}
TEXT_2 = {  # and its text encoder, OpenCLIP's without the last layer
    "small": dict(activation=F.gelu),
    "full": dict(activation=F.gelu, width=1024, layers=23, heads=16),
}


# ---- our nets, and theirs with the same tensors ----


def drawn(cls: type[Net], s: Setting, changes: Mapping[str, Any] | None = None) -> Net:
    """A net of the setting's size whose every weight is drawn, so that no layer is silent and activations
    stay near 1.

    A freshly made U-Net would say zero: the last layer of each of its branches starts as zero. changes:
    arguments of the class that are not those of the setting."""
    with torch.device("meta"):
        net = cls(**{**(SMALL[cls] if s.size == "small" else {}), **(changes or {})})
    rng, weights = torch.Generator().manual_seed(s.seed), {}
    for name, p in net.state_dict().items():
        noise = torch.randn(p.shape, generator=rng)
        weights[name] = (
            0.1 * noise + ("norm" in name and name.endswith("weight"))
            if p.ndim < 2
            else noise / p[0].numel() ** 0.5
        )
        weights[name] = weights[name].to(s.device, s.dtype)
    net.load_state_dict(weights, assign=True)
    return net.eval().requires_grad_(False)


def twin_unet(net: UNet, layout: str = "diffusers") -> nn.Module:
    """diffusers' UNet2DConditionModel with the very tensors of `net`. layout "CompVis": its own converter
    carried them there.
    """
    config, state = configs.unet_to_json(net, 64), net.state_dict()
    if configs.has_linear_projections(net):
        state = {key: as_matrix(key, value) for key, value in state.items()}
    if layout == "CompVis":
        names = compvis_unet_names(net)
        convert = reference("diffusers.loaders.single_file_utils").convert_ldm_unet_checkpoint
        found = convert(
            {UNET_PREFIX + names[k]: v for k, v in state.items()},
            config | {"class_embed_type": None, "addition_embed_type": None},
        )
    else:
        names = diffusers_names(net)
        found = {names[k]: v for k, v in state.items()}
    return _with(reference("diffusers").UNet2DConditionModel, config, found)


def twin_vae(vae: AutoencoderKL, layout: str = "diffusers") -> nn.Module:
    """diffusers' AutoencoderKL with the very tensors of `vae`, as `twin_unet`."""
    config, state = configs.vae_to_json(vae, 512, 1.0), vae.state_dict()
    if layout == "CompVis":
        names = compvis_vae_names(vae)
        convert = reference("diffusers.loaders.single_file_utils").convert_ldm_vae_checkpoint
        found = convert(
            {VAE_PREFIX + names[k]: to_compvis_shape(names[k], v) for k, v in state.items()}, config
        )
    else:
        names = diffusers_names(vae)
        found = {names[k]: v for k, v in state.items()}
    return _with(reference("diffusers").AutoencoderKL, config, found)


def _with(cls: Any, config: dict[str, Any], weights: dict[str, Tensor]) -> nn.Module:
    with torch.device("meta"):
        net = cls.from_config(config)
    net.load_state_dict(weights, assign=True)  # no second copy in memory
    return net.eval().requires_grad_(False)


def twin_text(text: TextTransformer) -> nn.Module:
    """transformers' CLIPTextModel with the very tensors of `text`. Versions before 5 put "text_model."
    before every name.
    """
    transformers, names = reference("transformers"), diffusers_names(text)
    net = transformers.CLIPTextModel(transformers.CLIPTextConfig(**configs.text_to_json(text)))
    prefix = _prefix(net)
    own = {key: value for key, value in net.state_dict().items() if key.endswith("position_ids")}
    net.load_state_dict(own | {prefix + names[k]: v for k, v in text.state_dict().items()}, assign=True)
    return net.to(next(text.parameters()).device).eval().requires_grad_(False)


def _prefix(text: nn.Module) -> str:
    return "text_model." if any(key.startswith("text_model.") for key in text.state_dict()) else ""


# ---- block by block ----


def blocks_of(net: nn.Module, prefix: str = "") -> Iterator[str]:
    """The names of the modules that are compared: whole BLOCKS, and the layers outside of them."""
    for name, child in net.named_children():
        if isinstance(child, BLOCKS) or (not list(child.children()) and list(child.parameters())):
            yield prefix + name
        else:
            yield from blocks_of(child, f"{prefix}{name}.")


def counterparts(net: nn.Module, names: dict[str, str]) -> dict[str, str]:
    """Our block -> theirs: the module that holds all of the block's parameters there. names: our
    parameter -> theirs.
    """
    found = {}
    for block in blocks_of(net):
        homes = [theirs.split(".")[:-1] for ours, theirs in names.items() if ours.startswith(f"{block}.")]
        found[block] = ".".join(os.path.commonprefix(homes))
    return found


def first(answer: Any) -> Tensor:
    """The tensor in what a module of theirs gives: a tensor, a tuple, or a ModelOutput."""
    return answer if isinstance(answer, Tensor) else answer[0]


@torch.no_grad()
def compare(
    ours: nn.Module,
    theirs: nn.Module,
    pairs: dict[str, str],
    run_ours: Callable[[], Tensor],
    run_theirs: Callable[[], Tensor],
) -> tuple[dict[str, float], float]:
    """(the difference at each block in the order of our calls, the difference of what the two runs give).

    pairs: our block -> theirs. Raises RuntimeError where a run left out a block: that would be no comparison.
    """
    seen: dict[str, Tensor] = {}
    found: dict[str, float] = {}

    def keep(name: str) -> Callable:
        def hook(module: nn.Module, given: Any, answer: Any) -> None:
            seen[name] = first(answer).clone()

        return hook

    def meet(name: str) -> Callable:
        def hook(module: nn.Module, given: Any, answer: Any) -> None:
            found[name] = relative(seen[name], first(answer))

        return hook

    hooks = [ours.get_submodule(name).register_forward_hook(keep(name)) for name in pairs]
    hooks += [theirs.get_submodule(their).register_forward_hook(meet(name)) for name, their in pairs.items()]
    try:
        output = relative(run_ours(), run_theirs())
    finally:
        for hook in hooks:
            hook.remove()
    if missed := [name for name in pairs if name not in found]:
        raise RuntimeError(f"blocks that were never called: {', '.join(missed[:5])}")
    return {name: found[name] for name in seen}, output


# ---- the rows ----


def noise(s: Setting, *shape: int, seed: int = 1) -> Tensor:
    """Normal numbers, the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1000 * s.seed + seed)).to(
        s.device, s.dtype
    )


def _unet(s: Setting, what: str, net: UNet) -> Iterator[Row]:
    x, t = (
        noise(s, 2, net.in_channels, *((32, 24) if s.size == "full" else (16, 24))),
        torch.tensor([3, 981], device=s.device),
    )
    ctx = noise(s, 2, 77, net.ctx_width, seed=2)
    pairs = counterparts(net, diffusers_names(net))
    for layout in ("diffusers", "CompVis"):
        theirs = twin_unet(net, layout)
        run_theirs = partial(lambda net: first(net(x, t, ctx)), theirs)
        blocks, output = compare(net, theirs, pairs, lambda: net(x, t, ctx), run_theirs)
        yield Row(
            what,
            f"{'×'.join(map(str, x.shape))}, t 3 and 981, {s.name}",
            layout,
            version("diffusers"),
            census(net),
            blocks,
            output,
            s.allow(NET),
        )


def unet_rows(s: Setting) -> Iterator[Row | Skipped]:
    """The U-Net on latents that are not square, each with a time of its own: 4 channels, 8 and 9."""
    if s.model is not None and not isinstance(s.model.net, UNet):
        where = (
            "tests/test_glide.py compares that with UNet2DConditionModel"
            if isinstance(s.model.net, GlideUNet)
            else "tests/test_layouts.py compares that with UNet2DModel"
        )
        yield Skipped("U-Net", f"{s.model.name} is a {type(s.model.net).__name__}; {where}")
        return
    if s.model is not None:
        yield from _unet(s, f"U-Net of {s.model.name}", s.model.net)
        return
    for channels, whose in ((4, "Stable Diffusion v1"), (8, "InstructPix2Pix"), (9, "inpainting")):
        yield from _unet(
            s, f"U-Net, {channels} channels ({whose})", drawn(UNet, s, {"in_channels": channels})
        )
    yield from _unet(s, "U-Net, Stable Diffusion 2", drawn(UNet, s, VERSION_2[s.size]))


def vae_rows(s: Setting) -> Iterator[Row | Skipped]:
    """The autoencoder both ways, on a picture that is not square."""
    vae = drawn(AutoencoderKL, s) if s.model is None else s.model.vae
    if vae is None:
        yield Skipped("autoencoder", f"{s.model.name} has none")
        return
    x = noise(s, 1, 3, *((256, 192) if s.size == "full" else (32, 48))).clamp(-1, 1)
    z = noise(s, 1, vae.latent_channels, x.shape[2] // vae.factor, x.shape[3] // vae.factor, seed=2)
    pairs = counterparts(vae, diffusers_names(vae))
    up = {ours: theirs for ours, theirs in pairs.items() if ours.startswith(("decoder", "post_quant"))}
    down = {ours: theirs for ours, theirs in pairs.items() if ours not in up}
    for layout in ("diffusers", "CompVis"):
        theirs = twin_vae(vae, layout)
        for what, part, given, run_ours, run_theirs in (
            (
                "encoder, mean and log variance",
                down,
                x,
                lambda: torch.cat(vae.encode(x), dim=1),
                partial(_moments, theirs, x),
            ),
            ("decoder", up, z, lambda: vae.decode(z), partial(lambda vae: first(vae.decode(z)), theirs)),
        ):
            blocks, output = compare(vae, theirs, part, run_ours, run_theirs)
            yield Row(
                what,
                f"{'×'.join(map(str, given.shape))}, {s.name}",
                layout,
                version("diffusers"),
                census(vae),
                blocks,
                output,
                s.allow(NET),
            )


def _moments(theirs: Any, x: Tensor) -> Tensor:
    posterior = theirs.encode(x).latent_dist
    return torch.cat([posterior.mean, posterior.logvar], dim=1)


def text_rows(s: Setting) -> Iterator[Row | Skipped]:
    """The text encoder on rows of the full length, filled up with the end's number as Stable Diffusion
    does, and with 0 as CLIP does.
    """
    if s.model is None:
        yield from _text(s, "text encoder", drawn(TextTransformer, s))
        yield from _text(s, "text encoder of Stable Diffusion 2", drawn(TextTransformer, s, TEXT_2[s.size]))
        return
    if s.model.text is None:
        yield Skipped("text encoder", f"{s.model.name} reads no text")
        return
    if not isinstance(s.model.text, TextTransformer):
        yield Skipped(
            "text encoder",
            f"{s.model.name} has a GlideText; tests/test_glide.py compares that with torch's encoder",
        )
        return
    yield from _text(s, "text encoder", s.model.text)


def _text(s: Setting, what: str, text: TextTransformer) -> Iterator[Row]:
    vocab, length = text.tokens.num_embeddings, len(text.positions)
    rows = torch.randint(1, vocab - 2, (2, length), generator=torch.Generator().manual_seed(s.seed)).to(
        s.device
    )
    rows[:, 0], theirs = vocab - 2, twin_text(text)
    pairs = {
        ours: _prefix(theirs) + their for ours, their in counterparts(text, diffusers_names(text)).items()
    }
    for padding in (vocab - 1, 0):
        tokens = rows.clone()
        for row, words in zip(tokens, (5, length // 2)):
            row[words:], row[words] = padding, vocab - 1
        run_theirs = partial(lambda tokens: first(theirs(tokens)), tokens)
        blocks, output = compare(text, theirs, pairs, partial(text, tokens), run_theirs)
        yield Row(
            f"{what}, padded with {padding}",
            f"2×{length}, {s.name}",
            "transformers",
            version("transformers"),
            census(text),
            blocks,
            output,
            s.allow(NET),
        )
