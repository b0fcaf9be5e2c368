"""Whole edits at Stable Diffusion's size with random weights: ours, and diffusers' pipelines around the very
same tensors. `claims.speed` times them on a CPU, `claims.gpu` on a GPU.

Theirs is given the embeddings of the texts, since random weights have no vocabulary of theirs; ours reads
the texts itself. Both evaluate the U-Net equally often: in SDEdit theirs takes the share T0 of its steps,
ours as many as it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from palimpsest.claims.verify import Setting, reference
from palimpsest.claims.verify.nets import drawn, noise, twin_unet
from palimpsest.claims.verify.walks import drawn_model, pipeline, scheduler
from palimpsest.methods.diffedit import diffedit
from palimpsest.methods.flow_edit import flow_edit
from palimpsest.methods.instruct_pix2pix import instruct_pix2pix
from palimpsest.methods.null_text import null_text
from palimpsest.methods.prompt_to_prompt import prompt_to_prompt
from palimpsest.methods.sampling import generate
from palimpsest.methods.sdedit import sdedit
from palimpsest.nets.text import TextTransformer
from palimpsest.nets.tokenizer import ClipTokenizer
from palimpsest.nets.unet import UNet
from palimpsest.weights.model import Model

SOURCE, TARGET, ORDER = "a photograph of a horse", "a photograph of a zebra", "make it a zebra"
T0, W, S_TEXT, S_IMAGE = 0.5, 7.5, 7.5, 1.5


class Whole(NamedTuple):
    """One edit from picture to picture. theirs: None where diffusers has no such pipeline."""

    name: str
    ours: Callable[[], Tensor]
    theirs: Callable[[], Any] | None
    model: Model


def built(s: Setting, size: int, beside: bool = False) -> Model:
    """Stable Diffusion v1 with random weights and a text encoder; beside: as InstructPix2Pix widens it."""
    text = drawn(TextTransformer, s, dict(vocab=49_408))
    net = drawn(UNet, s, dict(in_channels=8) if beside else {})
    return replace(drawn_model(s), net=net, text=text, tokenizer=ClipTokenizer(), size=size)


def edits(s: Setting, size: int, steps: int) -> Iterator[Whole]:
    """Every method, of pictures of this size, in so many steps."""
    with torch.no_grad():
        yield from _by_caption(s, size, steps)
        yield from _by_instruction(s, size, steps)


def _by_caption(s: Setting, size: int, steps: int) -> Iterator[Whole]:
    model, x = built(s, size), noise(s, 1, 3, size, size, seed=5).clamp(-1, 1)
    after, before, empty = (model.embed(text) for text in (TARGET, SOURCE, ""))
    unet, texts = twin_unet(model.net), dict(prompt_embeds=after, negative_prompt_embeds=empty)
    how = dict(num_inference_steps=steps, generator=torch.Generator().manual_seed(0))
    back = reference("diffusers").DDIMInverseScheduler.from_config(scheduler(model.schedule).config)
    with (
        pipeline("StableDiffusionPipeline", model, unet) as text2img,
        pipeline("StableDiffusionImg2ImgPipeline", model, unet) as img2img,
        pipeline("StableDiffusionDiffEditPipeline", model, unet, dict(inverse_scheduler=back)) as masking,
    ):

        def masked() -> Any:
            negative = dict(source_negative_prompt_embeds=empty, target_negative_prompt_embeds=empty)
            both = dict(source_prompt_embeds=before, target_prompt_embeds=after)
            mask = masking.generate_mask(image=x, **both, **negative, **how)
            under = dict(prompt_embeds=before, negative_prompt_embeds=empty, guidance_scale=1.0)
            z = masking.invert(image=x, inpaint_strength=0.8, **under, **how).latents
            found = dict(mask_image=mask, image_latents=z, inpaint_strength=0.8)
            return masking(**texts, **found, **how, output_type="pt")

        yield Whole(
            "text to picture",
            lambda: generate(model, TARGET, steps=steps, w=W).picture,
            lambda: text2img(**texts, **how, height=size, width=size, guidance_scale=W, output_type="pt"),
            model,
        )
        yield Whole(
            "SDEdit",
            lambda: sdedit(model, x, TARGET, t0=T0, steps=round(T0 * steps), w=W).picture,
            lambda: img2img(**texts, **how, image=x, strength=T0, guidance_scale=W, output_type="pt"),
            model,
        )
        yield Whole(
            "DiffEdit", lambda: diffedit(model, x, SOURCE, TARGET, steps=steps, w=W).picture, masked, model
        )
    yield Whole("FlowEdit", lambda: flow_edit(model, x, SOURCE, TARGET, steps=steps).picture, None, model)
    yield Whole(
        "Prompt-to-Prompt",
        lambda: prompt_to_prompt(model, SOURCE, TARGET, steps=steps, w=W).picture,
        None,
        model,
    )
    if s.dtype == torch.float32:  # it refuses half precision
        yield Whole("null-text", lambda: null_text(model, x, SOURCE, steps=steps, w=W).z_bar, None, model)


def _by_instruction(s: Setting, size: int, steps: int) -> Iterator[Whole]:
    model, x = built(s, size, beside=True), noise(s, 1, 3, size, size, seed=5).clamp(-1, 1)
    texts = dict(prompt_embeds=model.embed(ORDER), negative_prompt_embeds=model.embed(""))
    scales = dict(guidance_scale=S_TEXT, image_guidance_scale=S_IMAGE)
    how = dict(num_inference_steps=steps, generator=torch.Generator().manual_seed(0), output_type="pt")
    with pipeline("StableDiffusionInstructPix2PixPipeline", model, twin_unet(model.net)) as pipe:
        yield Whole(
            "InstructPix2Pix",
            lambda: instruct_pix2pix(model, x, ORDER, s_text=S_TEXT, s_image=S_IMAGE, steps=steps).picture,
            lambda: pipe(**texts, **scales, **how, image=x),
            model,
        )
