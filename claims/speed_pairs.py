"""What `claims.speed` compares: our nets beside those of diffusers and transformers, with the very same
random tensors.

Targets are ours / theirs. A processor with AMX multiplies bfloat16 in tiles, and its BLAS leaves less to gain
in float32, so it has targets of its own.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from palimpsest.claims.verify import Setting, reference, relative, version
from palimpsest.claims.verify.nets import drawn, first, noise, twin_text, twin_unet, twin_vae
from palimpsest.claims.verify.walks import drawn_model
from palimpsest.claims.whole_edits import edits as whole_edits
from palimpsest.nets.attention import Site
from palimpsest.nets.text import TextTransformer
from palimpsest.nets.tokenizer import ClipTokenizer
from palimpsest.nets.unet import UNet
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.training.shapes import NET as SHAPES
from palimpsest.weights.load import load
from palimpsest.weights.public.checkpoint import save

SIDES = {"full": 32, "small": 8}  # of the latents; 77 tokens, two of each as under guidance
AMX = "amx_tile" in (
    Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
)


class Pair(NamedTuple):
    """One thing done by both. target: ours / theirs must be at most this. error: of our result, relative
    to their largest value.
    """

    name: str
    target: float
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    reference: str
    error: float | None = None


def given(s: Setting, net: UNet, wider: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (2 4 side·wider side·wider), a time for each, and the embeddings of two texts."""
    side = wider * SIDES[s.size]
    return noise(s, 2, 4, side, side), torch.tensor([3, 981]), noise(s, 2, 77, net.ctx_width, seed=2)


# --------------------------------------------------------------------------- what is compared


def _first(net: Callable[..., Any], *given: Tensor) -> Tensor:
    return first(net(*given))


def unet(s: Setting) -> Iterator[Pair]:
    """The U-Net as it is, on latents of one side and of twice that, and with all its attention maps read."""
    net = drawn(UNet, s)
    theirs = twin_unet(net)
    for wider, name in ((1, "U-Net"), (2, f"U-Net, latents {2 * SIDES[s.size]}×{2 * SIDES[s.size]}")):
        latents = given(s, net, wider)
        ours, other = partial(net, *latents), partial(_first, theirs, *latents)
        error = relative(ours(), other())
        yield Pair(name, 0.7 if AMX else 0.5, ours, other, version("diffusers"), error)
    x, t, ctx = given(s, net)
    maps: list[Tensor] = []

    def tap(probs: Tensor, site: Site) -> Tensor:
        maps.append(probs.mean(1))
        return probs

    def tapped() -> Tensor:
        maps.clear()
        return net(x, t, ctx, tap)

    def processed() -> Tensor:
        maps.clear()
        return first(theirs(x, t, ctx))

    theirs.set_attn_processor(MapReader(maps))
    yield Pair(
        "U-Net, every attention map read",
        0.75 if AMX else 0.6,
        tapped,
        processed,
        version("diffusers"),
        relative(tapped(), processed()),
    )


class MapReader:
    """An attention processor of diffusers that does what our tap does: keeps each layer's maps, averaged
    over the heads.
    """

    def __init__(self, maps: list[Tensor]):
        self.maps = maps

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        ctx = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            attn.head_to_batch_dim(layer(y))
            for layer, y in ((attn.to_q, hidden_states), (attn.to_k, ctx), (attn.to_v, ctx))
        )
        probs = attn.get_attention_scores(q, k)
        self.maps.append(probs.unflatten(0, (-1, attn.heads)).mean(1))
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(probs @ v)))


def unet_bfloat16(s: Setting) -> Iterator[Pair]:
    """Our U-Net in bfloat16 beside theirs in bfloat16, and beside theirs in float32."""
    net = drawn(UNet, s)
    x, t, ctx = given(s, net)
    x16, ctx16 = x.bfloat16(), ctx.bfloat16()
    small = drawn(UNet, s).to(torch.bfloat16)
    ours = partial(small, x16, t, ctx16)
    theirs, too = partial(_first, twin_unet(net), x, t, ctx), partial(_first, twin_unet(small), x16, t, ctx16)
    error, program = relative(ours().float(), theirs()), version("diffusers")
    yield Pair("U-Net in bfloat16, theirs in float32", 0.3 if AMX else 0.35, ours, theirs, program, error)
    yield Pair("U-Net in bfloat16, theirs too", 0.8, ours, too, program, error)


def decoder(s: Setting) -> Iterator[Pair]:
    """The autoencoder's way back, to pictures of eight times the latents' side."""
    vae = drawn(AutoencoderKL, s)
    theirs = twin_vae(vae)
    for side in (SIDES[s.size], 2 * SIDES[s.size]):
        z, wider = noise(s, 1, 4, side, side), f", latents {side}×{side}" if side > SIDES[s.size] else ""
        ours, other = partial(vae.decode, z), partial(_first, theirs.decode, z)
        error = relative(ours(), other())
        yield Pair(f"autoencoder, decode{wider}", 0.8, ours, other, version("diffusers"), error)


def text(s: Setting) -> Iterator[Pair]:
    """The text encoder on two rows."""
    net = drawn(TextTransformer, s)
    theirs = twin_text(net)
    tokens = torch.randint(
        net.tokens.num_embeddings, (2, len(net.positions)), generator=torch.Generator().manual_seed(s.seed)
    )
    yield Pair(
        "text encoder",
        0.9,
        lambda: net(tokens),
        lambda: first(theirs(tokens)),
        version("transformers"),
        relative(net(tokens), first(theirs(tokens))),
    )


def loading(s: Setting) -> Iterator[Pair]:
    """A folder of diffusers with its tokenizer, from the disk's cache until every weight has been read."""
    diffusers, transformers = reference("diffusers"), reference("transformers")
    for program in (diffusers, transformers):
        program.utils.logging.set_verbosity_error()
        program.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        text = drawn(TextTransformer, s, {"vocab": 49408})
        tokenizer = ClipTokenizer(length=len(text.positions))
        folder = save(replace(drawn_model(s), text=text, tokenizer=tokenizer), Path(place) / "model")
        gc.collect()

        def theirs() -> float:
            transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
            return touched(
                diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"),
                diffusers.AutoencoderKL.from_pretrained(folder / "vae"),
                transformers.CLIPTextModel.from_pretrained(folder / "text_encoder"),
            )

        def ours() -> float:
            model = load(folder, "cpu", torch.float32)
            return touched(model.net, model.vae, model.text)

        yield Pair("load the model from its folder", 0.9, ours, theirs, version("diffusers"))


def touched(*nets: nn.Module) -> float:
    """The sum of all weights: nothing may stay on the disk."""
    return sum(p.sum().item() for net in nets for p in net.parameters())


def whole(s: Setting, method: str) -> Iterator[Pair]:
    """A whole edit, from picture to picture: as many evaluations for both, else the defaults of each. Ours in
    float32, then in bfloat16, as `--dtype auto` chooses it on a processor with units for it.
    """
    size, steps = (256, 10) if s.size == "full" else (64, 4)
    by = f"diffusers {version('diffusers')}"
    exact, coarse = (
        next(w for w in whole_edits(s._replace(dtype=dtype), size, steps) if w.name == method)
        for dtype in (torch.float32, torch.bfloat16)
    )
    name = f"{method}, {steps} steps, {size}×{size}"
    yield Pair(name, 0.6, exact.ours, exact.theirs, by)
    if AMX:
        yield Pair(f"{name}, bfloat16, theirs in float32", 0.3, coarse.ours, exact.theirs, by)


def training(s: Setting) -> Iterator[Pair]:
    """A step of AdamW on the U-Net of `shapes`, and on diffusers' with the same tensors: 16×16 latents. A
    target of 1/1.5 asks for one and a half times as many pictures a second.
    """
    for precision in (torch.float32, torch.bfloat16):
        yield _training_in(s, precision)


@torch.inference_mode(False)
def _training_in(s: Setting, precision: torch.dtype) -> Pair:
    batch, side = (32, 16) if s.size == "full" else (2, 8)
    net = drawn(UNet, s, SHAPES)
    theirs, latents = twin_unet(net), (batch, SHAPES["in_channels"], side, side)
    x, v, ctx = noise(s, *latents), noise(s, *latents, seed=1), noise(s, batch, 24, net.ctx_width, seed=2)
    t = torch.randint(1, 1000, (batch,), generator=torch.Generator().manual_seed(0))
    return Pair(
        f"train the U-Net of shapes, batch {batch}, {str(precision).removeprefix('torch.')}",
        1 / 1.5,
        _step_of(net, lambda: net(x, t, ctx), v, precision),
        _step_of(theirs, lambda: first(theirs(x, t, ctx)), v, precision),
        version("diffusers"),
    )


def _step_of(
    net: nn.Module, answer: Callable[[], Tensor], wanted: Tensor, precision: torch.dtype
) -> Callable[[], Tensor]:
    """One step of training towards v, on a copy of the weights: it gives the loss."""
    net.load_state_dict({k: p.clone() for k, p in net.state_dict().items()}, assign=True)
    net.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(net.parameters(), 1e-4)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = (answer().float() - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


PAIRS: dict[str, Callable[[Setting], Iterator[Pair]]] = dict(
    unet=unet,
    bfloat16=unet_bfloat16,
    decoder=decoder,
    text=text,
    loading=loading,
    training=training,
    sdedit=partial(whole, method="SDEdit"),
    diffedit=partial(whole, method="DiffEdit"),
    instruct_pix2pix=partial(whole, method="InstructPix2Pix"),
)
