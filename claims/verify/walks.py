"""Whole walks beside the pipelines of diffusers: text to picture, image to image, DiffEdit, InstructPix2Pix.

Latents, texts and noise are the same. Of ours each walk takes the pieces that its function names, from
samplers/ and methods/; the loop over the times is written here, but for DiffEdit's. Their nets hold the
very tensors of ours (claims/verify/nets.py). Texts enter as embeddings, so no vocabulary is needed. Their
times count from 0 and their last step leads to ᾱ_0, which is our t = 1 and not the clean picture: every
walk here does as they do."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.claims.verify import CELLS, WALK, Remark, Row, Setting, Skipped, reference, relative, version
from palimpsest.claims.verify.nets import drawn, first, noise, twin_unet, twin_vae
from palimpsest.methods.diffedit import decode, difference, heat_map
from palimpsest.methods.sdedit import vp_walk
from palimpsest.nets.tokenizer import ClipTokenizer
from palimpsest.nets.unet import UNet
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.samplers.ddim import ddim_step, invert
from palimpsest.samplers.guidance import cfg_two
from palimpsest.samplers.schedule import Schedule
from palimpsest.samplers.solvers import DDIM, Ancestral
from palimpsest.weights.model import Model
from palimpsest.weights.public.shared import LATENT_SCALE

STEPS, W = 10, 7.5
S_TEXT, S_IMAGE = 7.5, 1.5


def published_times(sched: Schedule, steps: int) -> list[int]:
    """The walk that Stable Diffusion is published with, in our count: 3 steps of 1000 are [668, 335, 2, 1].

    official code: T // steps apart ("leading"), shifted by 1 (steps_offset), and the last step leads to
    their ᾱ_0, our t = 1. Where `steps` does not divide T, the walk begins far below T. Raises ValueError
    for steps < 1, or so many that the walk would leave the table."""
    if not 1 <= steps < sched.T:
        raise ValueError(f"steps: must lie in 1 … {sched.T - 1}, got {steps}")
    return [*(sched.T // steps * n + 2 for n in reversed(range(steps))), 1]


def drawn_model(s: Setting) -> Model:
    """The model of the setting, or one of Stable Diffusion's build with random weights and no text
    encoder.
    """
    return s.model or Model(
        name="random weights",
        net=drawn(UNet, s),
        text=None,
        tokenizer=None,
        vae=drawn(AutoencoderKL, s),
        schedule=Schedule.scaled_linear(),
        prediction="eps",
        latent_scale=LATENT_SCALE,
        size=512,
        shift=1,
    )


def texts(s: Setting, model: Model) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings (1 77 d) of two texts and of none; where there is no CLIP to read them, numbers in their
    place.
    """
    if not isinstance(model.tokenizer, ClipTokenizer):
        return tuple(noise(s, 1, 77, model.net.ctx_width, seed=seed) for seed in (11, 12, 13))
    with torch.no_grad():
        return tuple(
            model.embed(text)
            for text in ("a photograph of an astronaut riding a horse", "a photograph of a cat", "")
        )


@contextmanager
def pipeline(
    name: str, model: Model, unet: nn.Module, more: Mapping[str, Any] | None = None
) -> Iterator[Any]:
    """A pipeline of diffusers around nets that are there already, silent, with the scheduler of Stable
    Diffusion v1, and `more` parts.
    """
    diffusers, log = reference("diffusers"), reference("diffusers.utils.logging")
    before = log.get_verbosity()
    log.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts = dict(
                vae=twin_vae(model.vae),
                text_encoder=None,
                tokenizer=None,
                unet=unet,
                scheduler=scheduler(model.schedule, model.prediction),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
            pipe = getattr(diffusers, name)(**parts, **(more or {}))
            pipe.set_progress_bar_config(disable=True)
            yield pipe
    finally:
        log.set_verbosity(before)


def scheduler(sched: Schedule, prediction: str = "eps", kind: str = "DDIMScheduler") -> Any:
    """A scheduler of diffusers over our ᾱ, in the manner of Stable Diffusion v1."""
    betas = (1 - sched.abar[1:] / sched.abar[:-1]).tolist()
    return getattr(reference("diffusers"), kind)(
        num_train_timesteps=sched.T,
        trained_betas=betas,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[prediction],
    )


def latents(s: Setting, model: Model, seed: int = 21) -> Tensor:
    """(1 c y x), not square."""
    return noise(s, 1, model.channels, *((32, 24) if s.size == "full" else (16, 24)), seed=seed)


def _row(s: Setting, what: str, ours: Tensor, theirs: Tensor, pipe: str) -> Row:
    return Row(
        what,
        f"{'×'.join(map(str, ours.shape))}, {s.name}",
        pipe,
        version("diffusers"),
        None,
        {},
        relative(ours, theirs),
        s.allow(WALK),
    )


def _unfit(model: Model, what: str, *, given: bool = True, beside: bool = False) -> Skipped | None:
    """Why the walk is not compared, or None. given: theirs is given a latent for a picture; beside: the
    net sees it beside its own.
    """
    latent = model.channels
    fits = isinstance(model.net, UNet) and model.vae is not None
    if not fits or model.beside != beside * latent:
        return Skipped(
            what,
            f"{model.name} sees no picture beside its latent"
            if beside
            else f"{model.name} is no text-to-picture model on latents alone",
        )
    if model.shift != 1:
        return Skipped(
            what,
            f"the net of {model.name} was trained to call the level t by t − {model.shift}, and diffusers "
            "calls it t − 1",
        )
    if given and latent != 4:
        return Skipped(
            what,
            f"{model.name} has latents of {latent} channels, and diffusers takes only 4 channels for a "
            "latent",
        )
    return None


# ---- text to picture ----


@torch.no_grad()
def sampling_rows(s: Setting) -> Iterator[Row | Skipped]:
    """Ten DDIM steps with guidance, and the picture that they end in."""
    model = drawn_model(s)
    if unfit := _unfit(model, "ten guided DDIM steps", given=False):
        yield unfit
        return
    z, (cond, _, null) = latents(s, model), texts(s, model)
    with pipeline("StableDiffusionPipeline", model, twin_unet(model.net)) as pipe:
        settings = dict(
            prompt_embeds=cond,
            negative_prompt_embeds=null,
            guidance_scale=W,
            num_inference_steps=STEPS,
            latents=z,
            height=z.shape[2] * model.vae.factor,
            width=z.shape[3] * model.vae.factor,
        )
        theirs = pipe(**settings, output_type="latent").images
        picture = first(pipe.vae.decode(theirs / model.latent_scale)).clamp(-1, 1)
    eps = model.denoiser(cond, w=W, negative=null)
    for t, after in pairwise(published_times(model.schedule, STEPS)):
        z = ddim_step(model.schedule, z, eps(z, t), t, after)
    yield _row(s, f"{STEPS} DDIM steps, guidance {W}", z, theirs, "text2img")
    yield _row(s, "the picture of these steps", model.decode(z), picture, "text2img")


# ---- image to image: SDEdit ----


@torch.no_grad()
def sdedit_rows(s: Setting) -> Iterator[Row | Skipped | Remark]:
    """Noise and step of vp_walk (methods/sdedit.py), in a loop over their times, beside their
    image-to-image, which is SDEdit by DDIM: strength .6 of ten steps; eta 0, and eta 1 (ancestral). The
    levels of vp_walk, and the loop of `sdedit` itself, are not compared."""
    model = drawn_model(s)
    if unfit := _unfit(model, "image to image (SDEdit)"):
        yield unfit
        return
    x_0, (cond, _, null) = latents(s, model), texts(s, model)
    times = published_times(model.schedule, STEPS)[-1 - round(0.6 * STEPS) :]
    eps = model.denoiser(cond, w=W, negative=null)
    with pipeline("StableDiffusionImg2ImgPipeline", model, twin_unet(model.net)) as pipe:
        for eta in (0.0, 1.0):
            theirs = pipe(
                prompt_embeds=cond,
                negative_prompt_embeds=null,
                guidance_scale=W,
                num_inference_steps=STEPS,
                strength=0.6,
                image=x_0,
                eta=eta,
                generator=torch.Generator().manual_seed(s.seed),
                output_type="latent",
            ).images
            rng = torch.Generator().manual_seed(s.seed)
            # our steps, at their levels
            way = vp_walk(eps, model.schedule, 0.5, 1, Ancestral() if eta else DDIM())
            x = way.noise(x_0, times[0], _draw(rng, x_0))
            for t, after in pairwise(times):
                x = way.step(x, t, after, partial(_draw, rng, x_0))  # asked for where eta is above 0
            yield _row(s, f"SDEdit, strength .6 of {STEPS}, eta {eta:.0f}", x, theirs, "img2img")
    yield Remark(
        "img2img: theirs draws the latent from q(z|x), ours takes the mean (both were given the latent "
        "here); theirs stops at ᾱ_0 = .99915, ours walks on to the clean picture; strength .6 of 10 steps "
        "starts at t = 502 of 1000, not at 600"
    )


def _draw(rng: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=rng, dtype=like.dtype).to(like.device)


# ---- DiffEdit ----


def _their_diffedit(
    s: Setting, model: Model, x_0: Tensor, embeddings: tuple[Tensor, Tensor, Tensor], maps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The mask (b y x), the encoded latents and the edited one that diffusers' pipeline makes of x_0 (b c y
    x).

    embeddings: of the target, of the source and of no text; maps: noises that the mask is made from."""
    target, source, null = embeddings
    inverse = scheduler(model.schedule, model.prediction, "DDIMInverseScheduler")
    settings = dict(num_inference_steps=STEPS, guidance_scale=W)
    with pipeline(
        "StableDiffusionDiffEditPipeline", model, twin_unet(model.net), {"inverse_scheduler": inverse}
    ) as pipe:
        mask = torch.from_numpy(
            pipe.generate_mask(
                image=x_0,
                target_prompt_embeds=target,
                source_prompt_embeds=source,
                target_negative_prompt_embeds=null,
                source_negative_prompt_embeds=null,
                num_maps_per_mask=maps,
                generator=torch.Generator().manual_seed(s.seed),
                **settings,
            )
        )
        encoded = pipe.invert(
            image=x_0, prompt_embeds=null, negative_prompt_embeds=null, inpaint_strength=0.8, **settings
        ).latents[0]
        edited = pipe(
            mask_image=mask.to(x_0)[:, None].clone(),
            image_latents=encoded[None],
            prompt_embeds=target,
            negative_prompt_embeds=null,
            inpaint_strength=0.8,
            output_type="latent",
            **settings,
        ).images
    return mask, encoded, edited


@torch.no_grad()
def diffedit_rows(s: Setting) -> Iterator[Row | Skipped | Remark]:
    """Mask (`difference` and `heat_map` of methods/diffedit.py), encoding (samplers/ddim.py) and `decode`
    under the mask, with their lag of a level put in, beside their DiffEdit. The figure of the mask is the
    share of cells that differ."""
    model = drawn_model(s)
    if unfit := _unfit(model, "DiffEdit"):
        yield unfit
        return
    if not hasattr(reference("diffusers"), "StableDiffusionDiffEditPipeline"):
        yield Skipped("DiffEdit", f"{version('diffusers')} no longer has it")
        return
    x_0, (target, source, null), maps = latents(s, model), texts(s, model), 3
    times = published_times(model.schedule, STEPS)
    mask, encoded, edited = _their_diffedit(s, model, x_0, (target, source, null), maps)

    noises = _draw(torch.Generator().manual_seed(s.seed), x_0.expand(maps, -1, -1, -1))
    level = times[-1 - round(0.5 * STEPS)]
    seen_under = (model.denoiser(text, negative=null) for text in (target, source))
    heat = heat_map(difference(*seen_under, model.schedule, x_0, level, noises.split(1)), "mean")
    yield Row(
        f"DiffEdit, the mask from {maps} noises",
        f"{'×'.join(map(str, heat.shape))}, {s.name}",
        "DiffEdit",
        version("diffusers"),
        None,
        {},
        ((heat > 0.5).double().cpu() != mask[:, None].double()).double().mean().item(),
        s.allow(CELLS),
    )

    walked = times[-1 - round(0.8 * STEPS) :]
    path = invert(model.denoiser(null, negative=null), model.schedule, x_0, walked)
    yield _row(
        s, f"DiffEdit, DDIM encoding, {len(walked) - 1} steps", torch.cat(path[:-1]), encoded, "DiffEdit"
    )

    eps, cells = model.denoiser(target, w=W, negative=null), mask.to(x_0)[:, None]
    lagged = decode(eps, model.schedule, [path[0], *path[:-1]], walked, cells)[-1]
    yield _row(s, f"DiffEdit, decode, guidance {W}, their lag", lagged, edited, "DiffEdit")
    level_with = decode(eps, model.schedule, path, walked, cells)[-1]
    yield Remark(
        "DiffEdit: after a step t → s theirs puts back the encoding of t, one level too noisy, and ends "
        "beside the picture; ours puts back that of s and ends on it: the results differ by "
        f"{relative(level_with, edited):.0e}"
    )
    yield Remark(
        "DiffEdit: theirs takes one mean of D for the whole batch, marks everything where the texts are "
        "equal (0/0), fails at a guidance of 1 or less, and makes another mask where the negative texts of "
        "source and target differ"
    )


# ---- InstructPix2Pix ----


@torch.no_grad()
def instruct_pix2pix_rows(s: Setting) -> Iterator[Row | Skipped | Remark]:
    """`cfg_two`, the guidance of methods/instruct_pix2pix.py, in a loop of DDIM steps over their times,
    beside their pipeline: from one latent of a picture and one noise. The walk of the method itself,
    which is ancestral by default, is not compared."""
    model = s.model or replace(drawn_model(s), net=drawn(UNet, s, {"in_channels": 8}))
    what = f"InstructPix2Pix, {STEPS} DDIM steps, {S_TEXT} and {S_IMAGE}"
    if unfit := _unfit(model, what, beside=True):
        yield unfit
        return
    z, seen, (cond, _, null) = latents(s, model), latents(s, model, seed=22), texts(s, model)
    with pipeline("StableDiffusionInstructPix2PixPipeline", model, twin_unet(model.net)) as pipe:
        theirs = pipe(
            prompt_embeds=cond,
            negative_prompt_embeds=null,
            image=seen,
            guidance_scale=S_TEXT,
            image_guidance_scale=S_IMAGE,
            num_inference_steps=STEPS,
            latents=z,
            output_type="latent",
        ).images
    eps = cfg_two(model.eps, cond, null, seen, S_TEXT, S_IMAGE)
    for t, after in pairwise(published_times(model.schedule, STEPS)):
        z = ddim_step(model.schedule, z, eps(z, t), t, after)
    yield _row(s, what, z, theirs, "instruct")
    yield Remark(
        "InstructPix2Pix: theirs guides only where guidance_scale > 1 and image_guidance_scale ≥ 1, else it "
        "asks the net once, unguided, and says nothing; neither scales the latent of the picture by 0.18215, "
        "which the checkpoint needs so"
    )
