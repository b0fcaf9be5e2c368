# fmt: off
"""The golden record: what every public verb gives for fixed inputs, so that a change can prove it moved nothing.

    python tests/golden.py                    compare with tests/golden.safetensors; exit code 1 if something moved
    python tests/golden.py diffedit nets      the same for entries whose names begin so
    python tests/golden.py --exact            want every bit the same; the default on the machine that recorded
    python tests/golden.py --loose            compare with tolerances, on that machine too, as the test does
    python tests/golden.py --measure          how far rounding alone goes: older instruction sets, two threads
    python tests/golden.py --record [NAME …]  compute and write anew, all entries or those that begin so

An entry is a function below: small fixed inputs, every setting by keyword, and a dictionary of what came out.
It runs on one thread in float32. Of a tensor the record keeps its shape, its dtype, the beginning of the SHA-256
of its bytes, the mean, standard deviation and largest magnitude in float64, and at most 32 of its numbers; of a
text, the text.

Bits hold on one kind of processor with one version of PyTorch; elsewhere kernels add in another order. There the
numbers kept, the mean and the standard deviation must agree to `tolerance` times the largest magnitude of the
tensor. It is 1e-5 unless the entry says otherwise. Where it does, `--measure` saw rounding alone go further (a
walk multiplies what goes in, a threshold turns a rounding error into a whole cell); the tolerance is several
times what was seen.

Another release of PyTorch rounds in other places again. `elsewhere` is an entry's tolerance there, where that goes
further than its own; `tolerance` holds on every machine with the release that recorded. PyTorch 2.6 also draws other
numbers from a seed by `torch.multinomial`: an entry that says `draws` is compared where the release draws what the
recorded one drew, and no longer elsewhere (`draws_as_recorded`).

CHANGED lists what has been recorded anew since the first record, and why.
"""
from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import hashlib
import io
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from palimpsest.cli.main import command_line, main
from palimpsest.cli.manners import Parser
from palimpsest.fit.ahead import step_generator
from palimpsest.fit.loop import fit
from palimpsest.fit.run import Fitted
from palimpsest.fit.settings import Files, Settings, ema_decay, learning_rate
from palimpsest.methods.alignment import align, table
from palimpsest.methods.attention_maps import explore
from palimpsest.methods.diffedit import (
    Ablation,
    MaskRule,
    diffedit,
    difference,
    encoding_bound,
    heat_map,
    noising_bound,
    printed_encoding_bound,
)
from palimpsest.methods.dreambooth import dreambooth, flat_weight, snr_weight, v_weight
from palimpsest.methods.glide import blurred, glide, inpaint, rerank, upsample
from palimpsest.methods.glide_session import Session, box, parse
from palimpsest.methods.identifiers import find_identifier, rare_words
from palimpsest.methods.inputs import latent_mask
from palimpsest.methods.instruct_pix2pix import instruct_pix2pix
from palimpsest.methods.inversion import invert, redo
from palimpsest.methods.ladder import ladder
from palimpsest.methods.learner import Course
from palimpsest.methods.local_blend import Blend, blended, word_mask
from palimpsest.methods.lora import lora_size, merged, save_lora, save_word, scaled
from palimpsest.methods.null_ablations import random_pivot, shared_null_text
from palimpsest.methods.null_files import load_null_text, null_text_key, read_null_text, save_null_text
from palimpsest.methods.null_text import null_text
from palimpsest.methods.prior import Prior, prior_latents
from palimpsest.methods.prompt_to_prompt import Injection, prompt_to_prompt, refine, replace, reweight
from palimpsest.methods.sampling import generate
from palimpsest.methods.sdedit import at_distance, bisect_t0, sdedit
from palimpsest.methods.super_resolution import dreambooth_upsampler
from palimpsest.methods.sweep import sheet, sweep
from palimpsest.methods.text2live import Terms, Training, Views, judge_texts, relevance, text2live
from palimpsest.methods.textual_inversion import textual_inversion
from palimpsest.methods.variants import direct, edict, edit_friendly, negative_prompt
from palimpsest.metrics.features import (
    csfid,
    fid,
    inception_score,
    kid,
    kid_subsets,
    perceptual,
    precision_recall,
)
from palimpsest.metrics.image import l2, psnr, rmse, seam, ssim
from palimpsest.metrics.mask import dilate, iou, precision, recall
from palimpsest.metrics.similarity import (
    clip_score,
    cosine,
    directional,
    diversity,
    self_similarity,
    subject_similarity,
)
from palimpsest.nets.attention import at
from palimpsest.nets.ddpm import DDPM
from palimpsest.nets.glide import GlideUNet, for_inpainting
from palimpsest.nets.judges.clip import clip_view, contrastive_loss
from palimpsest.nets.judges.dino import dino_view
from palimpsest.nets.judges.distillation import (
    DINOHead,
    balanced,
    dino_loss,
    entropies,
    follow,
    koleo,
    moved_centre,
    sharpened,
    teacher_momentum,
)
from palimpsest.nets.judges.language import continued, next_token_loss
from palimpsest.nets.lora import adapt, merge
from palimpsest.nets.text import TextTransformer
from palimpsest.nets.unet import UNet, widen_input
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.samplers import convert
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.ddim import invert as ddim_invert
from palimpsest.samplers.ddim import sample as ddim_sample
from palimpsest.samplers.ddpm import beta_stride, beta_tilde, ddpm_step, l_simple, posterior
from palimpsest.samplers.guidance import (
    cfg,
    cfg_two,
    classifier_guidance,
    clip_guidance,
    combine,
    combine_two,
    guided,
)
from palimpsest.samplers.learned import code_length, l_hybrid, l_vlb, learned_variance, log_bounds
from palimpsest.samplers.noise import Rng, gaussian
from palimpsest.samplers.respacing import respaced
from palimpsest.samplers.schedule import Schedule
from palimpsest.samplers.solvers import DDIM
from palimpsest.samplers.ve_sde import (
    ancestral_step,
    em_step,
    g2,
    langevin_step,
    pc_walk,
    probability_flow_step,
    probability_flow_walk,
    reverse_diffusion_step,
    ve_eps,
    ve_loss,
    ve_score,
    ve_sigma,
    ve_sigmas,
)
from palimpsest.training import (
    emoji,
    emoji_clip,
    emoji_instruct,
    emoji_pairs,
    emoji_vae,
    pairs,
    shapes,
    shapes_classifier,
    shapes_clip,
    shapes_dino,
    shapes_glide,
    shapes_glide_inpaint,
    shapes_glide_upsampler,
    shapes_instruct,
    shapes_language,
    shapes_reader,
    shapes_vae,
    shapes_ve,
)
from palimpsest.weights.files import FOLDER, read_weights, write_weights
from palimpsest.weights.judges import load_classifier, load_judge, load_likeness, load_reader
from palimpsest.weights.load import load, load_autoencoder, names, save_like
from palimpsest.weights.public.checkpoint import save
from palimpsest.worlds.emoji import SHIPPED, open_world
from palimpsest.worlds.emoji import caption as emoji_caption
from palimpsest.worlds.emoji import pairs as emoji_edits
from palimpsest.worlds.emoji import render as render_emoji
from palimpsest.worlds.emoji import sample_scenes as sample_emoji
from palimpsest.worlds.erase import erased
from palimpsest.worlds.files import (
    contact_sheet,
    eight_bits,
    open_picture,
    read_mask,
    read_picture,
    write_picture,
)
from palimpsest.worlds.gaussian import GaussianWorld
from palimpsest.worlds.scene import Ground, Scene, Thing, Wave
from palimpsest.worlds.shapes import (
    apply,
    attributes,
    caption,
    changed_mask,
    edits,
    instruction,
    render,
    sample_scene,
    silhouettes,
    simulate_strokes,
    strokes,
)
from palimpsest.worlds.subjects import caption as subject_caption
from palimpsest.worlds.subjects import render_subjects, sample_context, sample_subject, subject_mask
from palimpsest.worlds.triplets import follows, read_triplets, text_of, valid
from palimpsest.worlds.views import lit, softened
from palimpsest.worlds.words import wanted

FILE = Path(__file__).with_name("golden.safetensors")
KEPT = 32                                        # numbers kept of a tensor
USUAL = 1e-5
DRAWN = [436, 907, 58, 251]                             # by torch.multinomial from seed 0, where the record was made
LOOSER = {"storage_error": .1}                   # of values with this name: a difference of nearly equal numbers

# What was recorded anew since the first record (of commit a3d3ae6): entries whose names begin so -> why.
CHANGED: dict[str, str] = {
    "null-text/ablations/shared/updates": "The updates of an embedding that all steps share are counted; it said 0.",
    "dreambooth/textual-inversion, command/dreambooth --word": "The shapes model drops what it never learned, 'a "
                                                               "photo of': the six templates say two texts.",
    "command/invert": "A line says where the sheet went, as every command says of its result.",
    "command/options, rf-inversion": "A new command.",
    "command/options, IN": "A command takes several pictures, or a folder of them.",
    "command/models-and-weights": "`weights list` no longer has vocabularies, which ship with the package; "
                                  "the figures of `models`, which each new measurement moves, are left out.",
    "command/mistakes": "A command line without words prints the help; `help unknown` is a mistake now.",
    "command/options, sweep": "text2live is one of the methods that are swept.",
    "command/options": "Choices that a verb's annotation lists are listed by the parser, too; every command has --dtype. "
                       "`words` is new, and --crop says what becomes of a picture that is not square. "
                       "Settings that are left out are the model's to choose. An optional output that is not asked "
                       "for is None.",
    "command/generate, sdedit, diffedit, null-text, instruct-pix2pix": "The line says which settings were left out; "
                       "the shipped models recommend some of them.",
    "nets/saved-for-others": "A file's header says what its model recommends.",
    "sdedit/defaults, instruct-pix2pix/defaults, command/prompt-to-prompt": "What is left out is what the shipped "
                       "model recommends.",
    "command/dreambooth": "generate says which settings were left out.",
    "nets/texts/emoji, nets/clip/emoji-clip": "What is typed is brought to a model's own words "
                                              "first: an article before the name goes.",
    "recipes/shapes": "The shapes world got eight more words at the end of its list, so nets that read text begin with "
                      "a longer table of tokens, and what is drawn after it differs. (With the old list every batch, "
                      "loss, gradient and first weight of that commit was the same to the bit.)",
    "recipes/shapes, -reader": "Their first scenes are drawn by all workers, each 64 from a seed of their own, and "
                               "can be mixed with plain drawings.",
    "recipes/shapes-instruct, -language": "Wishes are put in free words, and each triplet stands for more.",
    "recipes/shapes-classifier": "Its patches come from small convolutions, which see outlines (linear ones did not).",
    "nets/glide-*, nets/texts/shapes-glide, nets/unet-of-pixels, nets/readers, nets/the-model-object, generate/settings/pixels, "
    "sdedit/ve, glide/*, dreambooth/upsampler, command/glide, command/models-and-weights, recipes/shapes-ve, recipes/shapes-glide*, "
    "recipes/shapes-classifier": "GLIDE's models, the VE net and the classifier are stored in int8, and the classifier was "
                                 "trained anew.",
    "samplers/guidance/clip": "The text was the picture itself, where the cosine is 1 and its gradient 0.",
    "nets/readers, glide/guided-by-others, recipes/shapes-classifier, command/glide": "The classifier is half a "
                                 "U-Net, and was trained anew.",
    "recipes/shapes-reader": "Its first weights are drawn in another order.",
    "nets/unet-of-pixels": "shapes-ve is no longer shipped.",
    "sdedit/ve, nets/the-model-object, generate/settings, command/sdedit, command/models-and-weights": "The VE walk in "
                                 "pixels runs on GLIDE's base.",
    "sdedit/defaults, diffedit/defaults, instruct-pix2pix/defaults, command/options, command/sdedit, diffedit, "
    "instruct-pix2pix": "The steps of a walk are the model's to choose, too.",
    "prompt-to-prompt/refine-and-reweight": "A caption that is not put as the training's reaches the model as the plain one "
                                            "that means the same.",
    "nets/language, nets/language-drawn, recipes/shapes-language": "The language model was trained anew, with Muon.",
    "nets/the-model-object, command/models-and-weights": "shapes-companion is shipped.",
    "recipes/*-clip*, -classifier, -language": "A checkpoint is written every 100 steps, not every 200.",
}


class Entry(NamedTuple):
    """How an entry is computed, how far rounding may carry it on another machine and with another release of
    PyTorch, whether it takes long, and whether it draws by `torch.multinomial`.
    """
    run: Callable[[], dict[str, Any]]
    tolerance: float
    elsewhere: float
    slow: bool
    draws: bool


ENTRIES: dict[str, Entry] = {}


def entry(name: str, tolerance: float = USUAL, elsewhere: float | None = None, slow: bool = False,
          draws: bool = False) -> Callable:
    """Names a function as an entry of the record."""
    def named(run: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        assert name not in ENTRIES, name
        ENTRIES[name] = Entry(run, tolerance, tolerance if elsewhere is None else elsewhere, slow, draws)
        return run
    return named


# --------------------------------------------------------------------------- fixed inputs

def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def filled(net: nn.Module) -> nn.Module:
    """The net with parameters drawn by their names, so that no layer is silent and the order of layers
    does not matter.
    """
    for name, p in net.named_parameters():
        drawn = normal(*p.shape, seed=zlib.crc32(name.encode()))
        gain = p.ndim == 1 and name.endswith("weight")
        p.data = .1 * drawn + gain if p.ndim < 2 else drawn / p[0].numel()**.5
    return net.eval().requires_grad_(False)


FLAT = Ground("gradient", (.1, -.05), (Wave(0, 0, 0, 0),) * 4)
WAVY = Ground("noise", (0, 0), (Wave(1, .5, .3, .05), Wave(-.7, 1.1, 1, .04), Wave(.6, 2, 2, .06),
                                Wave(1.9, .1, 3, .03)))
SCENES = [Scene("blue", FLAT, (Thing("star", "red", "large", "plain", .5, .5, .24, tilt=.1),)),
          Scene("white", WAVY, (Thing("circle", "green", "small", "striped", .27, .45, .155),
                                Thing("heart", "purple", "large", "plain", .7, .55, .24, tilt=-.1)))]
SAYS = [caption(scene) for scene in SCENES]
STAR, BLUE_STAR = "a large red star on a blue background", "a large yellow star on a blue background"


@functools.cache
def pictures(size: int = 64) -> Tensor:
    """A red star, and a green circle beside a purple heart: (2 3 size size)."""
    return render(SCENES, size)


@functools.cache
def faces() -> Tensor:
    """Two emoji of the pictures that ship: (2 3 64 64)."""
    world = open_world()
    return render_emoji(world, sample_emoji(world.emoji, 2, random.Random(5)))


def left_half(size: int = 64, n: int = 1) -> Tensor:
    """A mask (n 1 size size), 1 on the left."""
    return (torch.arange(size) < size // 2).float().expand(n, 1, size, size).clone()


@functools.cache
def model(name: str) -> Any:
    """A shipped model in float32 on the CPU."""
    return load(name, device="cpu", dtype=torch.float32)


def head(x: Tensor, n: int = 1) -> Tensor:
    """The first n of a batch."""
    return x[:n]


WORLD = GaussianWorld({"a": .5 * normal(2, 3, 3, seed=1), "b": .5 * normal(2, 3, 3, seed=2)},
                      {"a": .4, "b": .7})
COSINE = Schedule.cosine(T=100)


# --------------------------------------------------------------------------- samplers

@entry("samplers/schedule")
def _schedule():
    found = {}
    for name, sched in dict(linear=Schedule.linear(), scaled=Schedule.scaled_linear(),
                            cosine=Schedule.cosine(),
                            geometric=Schedule.geometric()).items():
        times = (1, 2, 17.5, 500, 999.25, 1000)
        found[name] = dict(abar=sched.abar, at=[sched.at(t) for t in times],
                           sigma=[sched.sigma(t) for t in times],
                           snr=[sched.snr(t) for t in times], beta=[sched.beta(t) for t in (1, 500, 1000)],
                           t=[sched.t_of_sigma(sigma) for sigma in (.005, .01, .3, 1., 5.)],
                           noise=sched.signal_noise(torch.tensor([1, 500, 1000]), normal(3, 1, 1, 1)))
    found["times"] = [*Schedule.linear().times(4, start=.6), *Schedule.cosine().times(7, start=.98, end=2)]
    found["respaced"] = {s: respaced(1000, s) for s in ("27", "10,10,3,2,2", "fast27", "ddim50")}
    return found


@entry("samplers/noise")
def _noise():
    rng = Rng.of(7, 3)
    found = dict(randn=rng.randn((3, 2, 4)), uniform=rng.uniform((3, 2, 4)), whole=rng.randint(1, 1000),
                 more=rng.randn((3, 2, 4), torch.zeros(1, dtype=torch.float64)))
    state = rng.state
    found["then"] = rng.randn((3, 5))
    rng.restore(state)
    return found | dict(again=rng.randn((3, 5)), own=Rng([8]).randn((1, 2, 4)),
                        gaussian=gaussian(torch.zeros(3, 4), Generator().manual_seed(3)))


@entry("samplers/conversions")
def _conversions():
    x, e, found = normal(2, 2, 3, 3), normal(2, 2, 3, 3, seed=1), {}
    for name, t in dict(number=40, real=12.5, each=torch.tensor([5, 90])).items():
        x_t = convert.q_sample(COSINE, x, t, e)
        found[name] = dict(
            x_t=x_t, x_0=convert.x0_from_eps(COSINE, x_t, t, e), eps=convert.eps_from_x0(COSINE, x_t, t, x),
            eps_of_v=convert.eps_from_v(COSINE, x_t, t, e), x0_of_v=convert.x0_from_v(COSINE, x_t, t, e),
            v=convert.v_from_eps_x0(COSINE, x, t, e), score=convert.score_from_eps(COSINE, t, e),
            back=convert.eps_from_score(COSINE, t, e), clipped=convert.clip_eps(COSINE, x_t, t, e),
            out=[convert.eps_from_output(COSINE, x_t, t, e, prediction) for prediction in ("eps", "v")])
    return found


@entry("samplers/ddim")
def _ddim():
    x, e, z = (normal(2, 2, 3, 3, seed=k) for k in range(3))
    eps, times = WORLD.denoiser("a", COSINE), COSINE.times(5, start=.98)
    down = ddim_sample(eps, COSINE, x.double(), times)
    return dict(down=ddim_step(COSINE, x, e, 80, 40), up=ddim_step(COSINE, x, e, 40, 80),
                same=ddim_step(COSINE, x, e, 40, 40),
                noisy=[ddim_step(COSINE, x, e, 80, 40, eta, z) for eta in (.3, 1.)],
                last=ddim_step(COSINE, x, e, 9, 0, 1., z),
                walk=torch.stack(down), start=ddim_invert(eps, COSINE, down[-1], times)[0],
                source=ddim_invert(eps, COSINE, down[-1], times, label="source")[0],
                fixed=torch.stack(ddim_invert(eps, COSINE, down[-1], times, iterations=3)))


@entry("samplers/ddpm")
def _ddpm():
    x, e, z, v = (normal(2, 2, 3, 3, seed=k) for k in range(4))
    mean, variance = posterior(COSINE, x, e, 80, 40)
    learned = learned_variance(COSINE, v, 80, 40)
    t = torch.tensor([1, 60])
    return dict(
        step=ddpm_step(COSINE, x, e, 80, 40, z), large=ddpm_step(COSINE, x, e, 80, 40, z, beta_stride),
        last=ddpm_step(COSINE, x, e, 9, 0),
        learned=ddpm_step(COSINE, x, e, 80, 40, z, learned), pushed=ddpm_step(COSINE, x, e, 80, 40, z,
            learned, lambda mu: .5 * mu),
        mean=mean, variance=variance, betas=[beta_tilde(COSINE, 80, 40), beta_stride(COSINE, 80, 40)],
        sigma=learned,
        bounds=[*log_bounds(COSINE, 80, 40), *log_bounds(COSINE, 9, 0), *log_bounds(COSINE, 9, 0, 20)],
        first=learned_variance(COSINE, v, 9, 0, before=20), code=code_length(x.clamp(-1, 1), e, .1 * z),
        vlb=l_vlb(COSINE, eight_bits(x.clamp(-1, 1)), convert.q_sample(COSINE, x.clamp(-1, 1), t, e), t, e,
                  v),
        simple=[l_simple(lambda x_t, t: .5 * x_t, COSINE, x, t, e, prediction) for prediction in ("eps",
            "v")],
        hybrid=[torch.stack(l_hybrid(lambda x_t, t: torch.cat([.5 * x_t, .1 * x_t], 1), COSINE, x, t, e,
                                     prediction))
                for prediction in ("eps", "v")])


@entry("samplers/ve-sde")
def _ve_sde():
    x, s, z = (normal(2, 2, 3, 3, seed=k, dtype=torch.float64) for k in range(3))
    sigmas = ve_sigmas(5, .7, sigma_min=.01, sigma_max=20.)
    geometric = Schedule.geometric()
    def score(x, sigma):
        return WORLD.score(x, sigma, "b")
    return dict(
        levels=sigmas, sigma=[ve_sigma(t, .01, 20.) for t in (0, .3, 1)],
        g2=[g2(t, .01, 20.) for t in (0, .3, 1)],
        euler=em_step(x, s, .5, .1, z, sigma_min=.01, sigma_max=20.),
        reverse=reverse_diffusion_step(x, s, 2., 1., z),
        mean=reverse_diffusion_step(x, s, 2., 1., None), ancestral=ancestral_step(x, s, 2., 1., z),
        flow=probability_flow_step(x, s, 2., 1.), langevin=langevin_step(x, s, z),
        walk=pc_walk(score, 10 * x, sigmas, Rng.of(3, 2), corrections=1),
        other=pc_walk(score, 10 * x, sigmas, Rng.of(3, 2), predictor=ancestral_step),
        down=probability_flow_walk(score, 10 * x, sigmas[:-1]),
        score=ve_score(WORLD.denoiser("b", geometric), geometric)(x, 1.7),
        eps=ve_eps(score, geometric)(x, 700),
        loss=[ve_loss(lambda x, sigma: -x, x, torch.tensor([.5, 2.], dtype=torch.float64), z, weight)
              for weight in (None, torch.tensor([1., 3.], dtype=torch.float64))])


@entry("samplers/guidance")
def _guidance():
    x, null, ctx = normal(2, 2, 3, 3, dtype=torch.float64), WORLD.embed(""), WORLD.embed(["a", "b"])
    ask = WORLD.text_denoiser(COSINE)
    def beside(seen, t, c):
        return ask(seen[:, :2], t, c) + .2 * seen[:, 2:]
    def log_p(x, t):
        return -(x**2).flatten(1).sum(1) * (1 + t / 100)
    g = classifier_guidance(log_p, 2.)
    c = clip_guidance(lambda x, t: nn.functional.normalize(x.flatten(1), dim=1),
                      normal(2, 18, seed=3, dtype=torch.float64), 3., scale=7.)
    return dict(
        w=[cfg(ask, ctx, null, w)(x, 60) for w in (0, 1, 3., -1.)],
        apart=cfg(ask, ctx, null, 3., stack=False)(x, 60),
        two=[cfg_two(beside, ctx, null, .1 * x, s_text, s_image)(x, 60) for s_text,
             s_image in ((7.5, 1.5), (1., 1.), (0, 1.), (2., 2.))],
        two_apart=cfg_two(beside, ctx, null, .1 * x, 7.5, 1.5, stack=False)(x, 60),
        combined=[combine(x, 2 * x + 1, 3.), combine_two(x, 2 * x + 1, x**2, 1.5, 7.5)], classifier=g(x, 60),
        clip=c(x, 60),
        guided=guided(WORLD.denoiser("a", COSINE), COSINE, g)(x, 60))


@entry("samplers/gaussian-world")
def _gaussian():
    x, both = normal(2, 2, 3, 3, dtype=torch.float64), ["a", "b"]
    return dict(eps=WORLD.eps(x, .3, both), empty=WORLD.eps(x, .3), score=WORLD.score(x, 2., both),
                sample=WORLD.sample(x, both),
                flow=WORLD.flow(x, .3, .8, both), ve_flow=WORLD.ve_flow(x, 2., .5, both),
                ddim=WORLD.ddim(x, [.1, .5, 1.], both),
                sdedit=[*WORLD.sdedit(x, .7, both)], moments=[*WORLD.moments(both, x)])


# --------------------------------------------------------------------------- worlds and metrics

@entry("worlds/shapes")
def _shapes():
    rng = random.Random(3)
    drawn = [sample_scene(rng) for _ in range(3)] + [sample_scene(rng, 2, held_out=True),
                                                     sample_scene(rng, 1, held_out=None)]
    found = {}
    for scene in (drawn[0], drawn[1]):
        options = edits(scene)
        kinds = {e.kind: e for e in options}
        for kind, e in kinds.items():
            after = apply(scene, e)
            found[f"{scene.things[0].shape}-{kind}"] = dict(says=instruction(scene, e),
                                                            caption=caption(after), count=len(options),
                                                            mask=changed_mask(scene, e).mean(),
                                                            picture=render([after], 32))
    return dict(pictures=pictures(), small=render(drawn, 32), captions=[caption(s) for s in drawn],
                brief=[caption(s, False, False) for s in drawn],
                read=[json.dumps(attributes(s)) for s in drawn], silhouettes=silhouettes(drawn[1]),
                edits=found,
                strokes=strokes(SCENES, Generator().manual_seed(0)),
                simulated=simulate_strokes(pictures(32), colours=4),
                wanted=json.dumps([wanted(text) for text in SAYS]))


@entry("worlds/subjects")
def _subjects():
    rng = random.Random(2)
    subjects = [sample_subject(rng), sample_subject(rng, "heart")]
    contexts = [sample_context(rng, "red"), sample_context(rng, size="small", colour="blue", other=True,
                                                           noun="heart")]
    seen = render_subjects(subjects, contexts)
    return dict(pictures=seen, mask=subject_mask(subjects[1], contexts[1]),
                lit=lit(seen, .12, Generator().manual_seed(0)),
                says=[subject_caption(contexts[0], "zwx", "star"),
                      subject_caption(contexts[1], None, "heart")],
                soft=softened(seen.repeat(2, 1, 1, 1), 1., Generator().manual_seed(1)))


@entry("worlds/emoji")
def _emoji_world():
    world, rng = open_world(), random.Random(1)
    scenes = sample_emoji(world.emoji, 3, rng)
    true = emoji_edits(world, rng, held_out=None)[::40]
    return dict(pictures=render_emoji(world, scenes), says=[emoji_caption(s) for s in scenes],
                count=len(world.emoji),
                asked=[p.instruction for p in true], kinds=[p.kind for p in true],
                after=render_emoji(world, [p.after for p in true[:2]]))


@entry("worlds/words-and-masks")
def _words():
    shipped = read_triplets(FOLDER / "triplets.jsonl")
    return dict(count=len(shipped), follows=[follows(t) for t in shipped[:40]],
                valid=[valid(t) for t in shipped[:40]], erased=erased(6, 32, Generator().manual_seed(2)))


@entry("worlds/picture-files")
def _files():
    with folder() as here:
        rgba = (torch.cat([normal(37, 50, 3, seed=1), normal(37, 50, 1, seed=2) + 2], 2).clamp(-1,
            1) + 1) * 127.5
        Image.fromarray(rgba.round().numpy().astype(np.uint8)).save("odd.png")
        write_picture(left_half(50)[..., :37, :].expand(1, 3, -1, -1) * 2 - 1, "mask.png")
        picture = open_picture("odd.png").framed(32, 8)
        mask = read_mask("mask.png", of=picture)
        seen = picture.view()
        square = open_picture("odd.png").square().framed(32, 8)
        return dict(view=seen, place=[*picture.frame, *picture.seen], region=picture.region(mask),
                    back=picture.back(picture.region(mask)),
                    whole=picture.restore(-seen), kept=picture.restore(-seen, mask), square=square.view(),
                    put_back=square.restore(-square.view()), read=read_picture("odd.png"),
                    bits=eight_bits(.3 * seen), files=len(list(here.iterdir())))


@entry("worlds/contact-sheet", tolerance=.05)
def _sheet():
    x = pictures(32)
    return dict(sheet=contact_sheet([[x[:1], None], [x[1:], x[:1]]], ["one", "two rows of words"], ["a", "b"],
                                    scale=2, title="a title"))


@entry("metrics")
def _metrics():
    x, y, mask = pictures(), pictures().flip(0).roll(3, 3), left_half(n=2)
    a, b = normal(24, 6), normal(24, 6, seed=1) * 1.3 + .2
    classes = ["p", "q"] * 12
    p = normal(20, 5).softmax(1)
    return dict(
        image=[f(x, y, m) for f in (l2, rmse, psnr, ssim) for m in (None, mask)], seam=seam(x, y, mask),
        mask=[f(mask, left_half(n=2).roll(5, 3)) for f in (iou, precision, recall)],
        dilated=dilate(left_half().flip(2) * left_half().mT, 3),
        kid=kid(a, b), subsets=[*kid_subsets(a, b, Generator().manual_seed(0), subsets=3, size=10)],
        fid=fid(a, b),
        csfid=csfid(a, classes, b, classes), perceptual=perceptual(normal(2, 7, 4), normal(2, 7, 4, seed=1)),
        inception=inception_score(p), covered=[*precision_recall(a, b)], cosine=cosine(a, b),
        subject=subject_similarity(a, b),
        own=self_similarity(a), diversity=diversity(x, lambda u, v: l2(u, v)),
        directional=directional(a, b, b.roll(1, 0), a.roll(2, 1)),
        clip=clip_score(a, b))


# --------------------------------------------------------------------------- nets

def louder(probs: Tensor, site: Any) -> Tensor:
    """A tap that changes every map that it sees."""
    probs = probs.clone()
    probs[..., :3] *= 1.5
    return probs


def answers(name: str, ctx: Tensor, channels: int, side: int) -> dict[str, Any]:
    """What a shipped net says: at a whole and at a real time, at one time for each picture, tapped, and
    the gradient to its text.
    """
    net, heard = model(name).net, {}

    def listen(probs: Tensor, site: Any) -> Tensor:
        heard[f"{site.name} {site.kind} {site.res[0]}x{site.res[1]}"] = probs[-1].double().square().sum()
        return probs
    x = normal(len(ctx), channels, side, side)
    here = ctx.clone().requires_grad_()
    asked = net(x, 300, here).square().mean()
    found = dict(whole=net(x, 500, ctx), real=net(x, 12.25, ctx),
                 each=net(x, torch.tensor([3, 800])[:len(ctx)], ctx),
                 listened=net(x, 500, ctx, listen), maps=torch.stack(list(heard.values())), sites=list(heard),
                 louder=net(x, 500, ctx, louder), coarse=net(x, 500, ctx, at(louder, name="mid")),
                 gradient=torch.autograd.grad(asked, here)[0])
    return found | dict(parameters=sum(p.numel() for p in net.parameters()), keys=len(net.state_dict()))


@entry("nets/unet-shapes", tolerance=5e-5)
def _unet_shapes():
    return answers("shapes", model("shapes").embed(SAYS), 8, 16)


@entry("nets/unet-emoji")
def _unet_emoji():
    return answers("emoji", model("emoji").embed(["red heart on a blue background", "grinning face"]), 8, 16)


@entry("nets/unet-instructed")
def _unet_instruct():
    return answers("shapes-instruct", model("shapes-instruct").embed(["make the star blue", ""]), 16, 16)


@entry("nets/glide-base")
def _glide_base():
    return answers("shapes-glide", model("shapes-glide").embed(SAYS), 3, 32)


@entry("nets/glide-inpaint-and-upsampler", slow=True)
def _glide_others():
    base, upsampler = model("shapes-glide-inpaint"), model("shapes-glide-upsampler-inpaint")
    x, ctx = pictures(32)[:1], base.embed(SAYS[:1])
    seen = base.net.inputs(normal(1, 3, 32, 32), picture=x, mask=left_half(32))
    large = upsampler.net.inputs(normal(1, 3, 64, 64), picture=pictures()[:1], mask=left_half(), low_res=x)
    plain = model("shapes-glide-upsampler").net
    return dict(seen=seen, says=base.net(seen, 500, ctx), nothing=base.net.inputs(normal(1, 3, 32, 32)),
                large=large,
                enlarges=upsampler.net(large, 500, upsampler.embed(SAYS[:1])),
                plain=plain(plain.inputs(normal(1, 3, 64, 64), low_res=x), 500.,
                            model("shapes-glide-upsampler").embed(SAYS[:1])))


@entry("nets/other-configurations")
def _configurations():
    """Nets that no shipped file uses, with weights drawn by name: without text, deeper, with other heads;
    DDPM; for inpainting.
    """
    small = dict(width=16, blocks=2, heads=2, norm_groups=4)
    silent = filled(UNet(in_channels=3, out_channels=5, mult=(1, 2), attention=(False, True), ctx_width=None,
                         **small))
    deep = filled(UNet(in_channels=4, out_channels=4, mult=(1, 1, 2), attention=(True, False, True),
                       ctx_width=10, **small))
    glide_net = filled(GlideUNet(width=16, mult=(1, 2), blocks=2, attention=(True, True), head_width=8,
                                 ctx_width=12, norm_groups=4,
                                 dropout=.5))
    ddpm = filled(DDPM(channels=3, width=16, mult=(1, 2), blocks=2, attention=(False, True), norm_groups=4))
    vae = filled(AutoencoderKL(width=8, mult=(1, 2, 2), blocks=2, latent_channels=3, norm_groups=4))
    text = filled(TextTransformer(vocab=20, length=6, width=12, layers=2, heads=3))
    x, x4, ctx = normal(2, 3, 8, 8), normal(2, 4, 8, 8), normal(2, 5, 10)
    wide, masked = widen_input(deep, 2), for_inpainting(glide_net)
    mean, logvar = vae.encode(normal(2, 3, 16, 16))
    return dict(silent=silent(x, 7), deep=deep(x4, 7, ctx), glide=glide_net(x, 7, normal(2, 5, 12)),
                ddpm=ddpm(x, torch.tensor([3, 900])),
                wide=wide(torch.cat([x4, x4[:, :2]], 1), 7, ctx),
                masked=masked(masked.inputs(x, picture=x, mask=left_half(8, 2)), 7, normal(2, 5, 12)),
                mean=mean, logvar=logvar, decoded=vae.decode(mean), text=text(torch.arange(12).view(2, 6)),
                keys=sorted(key for net in (silent, deep, glide_net, ddpm, vae,
                                            text) for key in net.state_dict())[::17])


@entry("nets/checkpointed-gradients")
def _checkpointed():
    net = copy.deepcopy(model("shapes").net).requires_grad_(True)
    x, ctx = normal(1, 8, 16, 16), model("shapes").embed(STAR)
    found = {}
    for name, again in dict(kept=False, again=True).items():
        net.recompute = again
        grads = torch.autograd.grad(net(x, 400, ctx).square().mean(), list(net.parameters()))
        found[name] = torch.stack([g.double().norm() for g in grads])
    return found


@entry("nets/bfloat16", tolerance=.04)
def _bfloat16():
    net = copy.deepcopy(model("shapes").net).bfloat16()
    x, ctx = normal(1, 8, 16, 16).bfloat16(), model("shapes").embed(STAR).bfloat16()
    return dict(says=net(x, 400, ctx).float(), tapped=net(x, 400, ctx, louder).float())


@entry("nets/autoencoders")
def _autoencoders():
    found = {}
    for name, x in {"shapes-vae": pictures(), "emoji-vae": faces()}.items():
        vae = load_autoencoder(name)
        mean, logvar = vae.vae.encode(x)
        z = vae.encode(x)
        found[name] = dict(mean=mean, logvar=logvar, latents=z, decoded=vae.decode(z),
                           raw=vae.vae.decode(mean), scale=vae.latent_scale)
    return found


@entry("nets/texts")
def _texts():
    found = {}
    for name, says in {"shapes": SAYS, "shapes-glide": SAYS, "emoji": ["red heart",
        "a wholly unheard-of thing, 日本"]}.items():
        b = model(name)
        tokens = b.tokenizer(says)
        found[name] = dict(tokens=tokens, embedded=b.embed(says), empty=b.embed(""),
                           back=[b.tokenizer.decode(row) for row in tokens.tolist()],
                           words=len(b.tokenizer.words), at=b.tokenizer.positions(says[0],
                               says[0].split()[1]),
                           pieces=json.dumps(b.tokenizer.pieces(says[1])))
    return found


@entry("nets/clip")
def _clip():
    found = {}
    for name in ("shapes-clip", "shapes-clip-noised", "emoji-clip"):
        judge = load_judge(name)
        x = {"shapes-clip": pictures(), "shapes-clip-noised": pictures(32), "emoji-clip": faces()}[name]
        here = x.clone().requires_grad_()
        gradient = torch.autograd.grad((judge.images(here, 300) * judge.texts(SAYS)).sum(), here)[0]
        found[name] = dict(images=judge.images(x, 250.4), texts=judge.texts(SAYS),
                           cosines=judge.cosines(x, SAYS), scale=judge.scale,
                           gradient=gradient, noised=judge.noised)
    clean = load_judge("shapes-clip")
    return found | dict(view=clip_view(pictures(48), 64), loss=contrastive_loss(normal(4, 4)),
                        logits=clean.net(clip_view(pictures(), 64), clean.tokenizer(SAYS)))


@entry("nets/dino")
def _dino():
    likeness, head_ = load_likeness("shapes-dino"), filled(DINOHead(width=16, hidden=12, narrow=8,
        prototypes=10))
    plain = filled(DINOHead(width=16, hidden=0, prototypes=10))
    seen = likeness.net(dino_view(pictures(), 64, 64))
    scores, centre, z = head_(normal(6, 16)), .1 * normal(10), nn.functional.normalize(normal(6, 8), dim=1)
    teacher = filled(DINOHead(width=16, hidden=12, narrow=8, prototypes=10))
    teacher.prototypes.data *= 2
    follow(teacher, head_, .9)
    wanted_ = torch.stack([balanced(scores, .1), sharpened(scores, centre, .1)])
    return dict(images=likeness.images(pictures()), followed=teacher.prototypes, cls=seen.cls, places=seen[1],
                view=dino_view(pictures(48), 64, 72), scores=scores,
                plain=plain(normal(6, 16)), wanted=wanted_, koleo=koleo(z),
                loss=dino_loss(torch.stack([scores, scores.flip(0)]), wanted_),
                centre=moved_centre(centre, .3 * centre), momentum=[teacher_momentum(k, 10, .95) for k in (0,
                    4, 9)],
                entropies=[*entropies(wanted_[0])])


@entry("nets/readers")
def _readers():
    reader, classifier = load_reader("shapes-reader"), load_classifier("shapes-classifier")
    x, truth = pictures(), [attributes(s) for s in SCENES]
    x_t = pictures(32).clone().requires_grad_()
    log_p = classifier.log_p(x_t, 250.4, [wanted(text) for text in SAYS])
    return dict(read=[json.dumps(r) for r in reader.read(x)], logits=reader.net(x),
                features=reader.features(x), maps=reader.maps(x),
                right=reader.right(x, truth), wrong=reader.right(x, truth[::-1]), log_p=log_p,
                gradient=torch.autograd.grad(log_p.sum(), x_t)[0])


@entry("nets/language")
def _language():
    net, tokenizer = shapes_language.open_language(FOLDER / "shapes-language.safetensors")
    rows = [tokenizer.encode(f"{text} #")[:-1] for text in SAYS]
    tokens = tokenizer([f"{STAR} # make the star yellow % {BLUE_STAR}",
                        "a small red ring on a white background # turn the ring into a heart % a small red heart"])
    return dict(logits=net(tokens), loss=next_token_loss(net(tokens), tokens, tokens != tokenizer.pad),
                likeliest=[tokenizer.decode(row) for row in continued(net, rows, stop=tokenizer.end,
                    temperature=0,
                                                                      generator=Generator().manual_seed(1))])


@entry("nets/language-drawn", draws=True)
def _language_drawn():
    net, tokenizer = shapes_language.open_language(FOLDER / "shapes-language.safetensors")
    rows = [tokenizer.encode(f"{text} #")[:-1] for text in SAYS]
    said_, went = shapes_language.write(net, tokenizer, 2, seed=3, batch=4)
    return dict(sampled=continued(net, rows, stop=tokenizer.end, generator=Generator().manual_seed(1)),
                written=[text_of(t) for t in said_], went=went)


@entry("nets/lora")
def _lora():
    net = copy.deepcopy(model("shapes").net)
    maps = adapt(net, 2, 4., Generator().manual_seed(1))
    for name, p in net.named_parameters():
        if name.endswith(".up"):
            p.data = .05 * normal(*p.shape, seed=zlib.crc32(name.encode()))
    x, ctx = normal(1, 8, 16, 16), model("shapes").embed(STAR)
    changed = net(x, 400, ctx)
    return dict(maps=maps[::7], count=len(maps), changed=changed, merged=merge(net)(x, 400, ctx))


@entry("nets/the-model-object", tolerance=1e-4)
def _bundle():
    b, found = model("shapes"), {}
    z, both = b.encode(pictures()), b.embed(SAYS)
    found = dict(latents=z, decoded=b.decode(z), eps=b.eps(z, 500, both),
                 eps_at=b.eps(z, torch.tensor([3, 700]), both),
                 one=b.denoiser(SAYS, 1.)(z, 500), guided=b.denoiser(SAYS, 3.)(z, 500),
                 none=b.denoiser(SAYS, 0.)(z, 500),
                 negative=b.denoiser(SAYS, 3., negative="a star")(z, 500),
                 tapped=b.denoiser(SAYS, 3., "", louder)(z, 500),
                 embedded=b.denoiser(both, 2., b.embed(""))(z, 500), grid=b.grid, shape=b.latent_shape)
    eps, v = model("shapes-glide").eps_and_v(normal(1, 3, 32, 32), 500, model("shapes-glide").embed(STAR))
    return found | dict(learned=[eps, v], names=names(), pixels=[model("shapes-glide").grid,
        *model("shapes-glide").latent_shape])


@entry("nets/saved-for-others")
def _saved():
    """A model written in a public layout and as our own, and read again."""
    b = model("shapes")
    with folder() as here:
        save(b, here / "public.safetensors")
        save_like(b, "shapes", here / "own.safetensors")
        found = {}
        for name in ("public.safetensors", "own.safetensors"):
            again = load(here / name, device="cpu", dtype=torch.float32)
            found[name.split(".")[0]] = dict(says=again.eps(normal(1, 8, 16, 16), 400, again.embed(STAR)),
                                             decoded=again.decode(normal(1, 8, 4, 4)))
        config, tensors = read_weights(here / "own.safetensors")
        return found | dict(config=json.dumps(config, sort_keys=True)[:2000], keys=sorted(tensors)[::40],
                            files=sorted(str(p.relative_to(here)) for p in here.rglob("*") if p.is_file()))


# --------------------------------------------------------------------------- generate, SDEdit

def walked(path: Sequence[Tensor]) -> Tensor:
    """A path as one tensor."""
    return torch.stack(list(path))


@entry("generate/settings", tolerance=5e-5)
def _generate():
    b = model("shapes")
    noisy = generate(b, [STAR, ""], n=1, steps=3, w=2., step=DDIM(.5), seed=3)
    plain = generate(b, STAR, n=2, steps=3, w=1., step=DDIM(0.), seed=3)
    return dict(noisy=noisy.picture, path=walked(noisy.path), levels=noisy.levels, plain=plain.picture,
                empty=generate(b, "", n=1, steps=3, w=3., step=DDIM(1.), seed=0).picture,
                emoji=generate(model("emoji"), "red heart", n=1, steps=3, w=3., step=DDIM(0.), seed=1).picture,
                pixels=generate(model("shapes-glide"), STAR, n=1, steps=2, w=3., step=DDIM(0.), seed=1).picture)


@entry("generate/defaults", slow=True)
def _generate_defaults():
    made = generate(model("shapes"), STAR)
    return dict(picture=made.picture, start=made.path[0], levels=made.levels)


def edited(e: Any) -> dict[str, Any]:
    """All of an SDEdit."""
    return dict(picture=e.picture, raw=e.raw, noised=e.noised, path=walked(e.path), levels=e.levels,
                sigma=e.sigma, snr=e.snr, calls=e.calls)


@entry("sdedit/vp", tolerance=5e-5)
def _sdedit_vp():
    b, how = model("shapes"), dict(steps=3, w=2., seed=4)
    return dict(ancestral=edited(sdedit(b, pictures(), SAYS, t0=.5, step=None, walk="vp", **how)),
                ddim=edited(sdedit(b, pictures(), STAR, t0=.6, step=DDIM(0.), walk="vp", **how)),
                between=edited(sdedit(b, head(pictures()), "", t0=.4, step=DDIM(.5), walk="vp", **how)),
                again=edited(sdedit(b, head(pictures()), STAR, t0=.3, step=None, walk="vp", repeats=2, **how)))


@entry("sdedit/ve", slow=True)
def _sdedit_ve():
    b, how = model("shapes-glide"), dict(steps=3, w=2., seed=4, walk="ve")
    return dict(plain=edited(sdedit(b, pictures(32), SAYS, t0=.6, **how)),
                masked=edited(sdedit(b, head(pictures(32)), STAR, t0=.7, mask=left_half(32), **how)),
                of_latents=edited(sdedit(model("shapes"), head(pictures()), STAR, t0=.5, **how)))


@entry("sdedit/masked", tolerance=5e-5)
def _sdedit_masked():
    b, how = model("shapes"), dict(t0=.6, walk="vp", steps=3, w=2., step=None, seed=4)
    other = sdedit(b, pictures(), SAYS, mask=left_half(n=2).roll(9, 3), original=-pictures(), **how)
    return dict(pasted=edited(sdedit(b, pictures(), SAYS, mask=left_half(), **how)),
                other=edited(other._replace(picture=other.raw)))           # before the kept pixels are pasted


@entry("sdedit/search", tolerance=5e-5)
def _sdedit_search():
    b, x = model("shapes"), head(pictures())
    found = bisect_t0(lambda t0: sdedit(b, x, STAR, t0=t0, steps=2, w=2., step=None, seed=1, walk="vp"),
                      at_distance(x, .1, tolerance=.01),
                      low=.05, high=.98, rounds=3)
    return dict(t0=found.t0, tried=found.tried, picture=found.edit.picture)


@entry("sdedit/defaults", slow=True)
def _sdedit_defaults():
    return edited(sdedit(model("shapes"), head(pictures()), BLUE_STAR))


# --------------------------------------------------------------------------- DiffEdit

RULE = dict(maps=2, level=.5, threshold=.5, clamp="quantile", q=.97, r=3., reduce="mean_abs", grow=0)
WALK = dict(steps=5, w=3., step=DDIM(0.), seed=2)


def both_masks(e: Any) -> dict[str, Any]:
    """All of a DiffEdit."""
    return dict(picture=e.picture, raw=e.raw, mask=e.mask, cells=e.cells, heat=e.heat,
                encoded=walked(e.encoded), path=walked(e.path),
                levels=e.levels, calls=e.calls, empty=e.empty)


@entry("text2live/settings", tolerance=1e-2, elsewhere=5e-2)
def _text2live():
    clip, x = load_judge("shapes-clip"), head(pictures())
    how = dict(training=Training(steps=3, lr=5e-3, bootstrap=2, crop=.9, flip=.25), seed=4,
               views=Views(n=3, crop=.7, flip=.25, turn=10., lean=.1),
               terms=Terms(composition=1.5, screen=.5, structure=1., sparsity=.1, bootstrap=5.))
    e = text2live(clip, x, STAR, BLUE_STAR, "a blue star", **how)
    return e._asdict() | dict(generator=None, again=relevance(clip, x, judge_texts(clip, STAR, BLUE_STAR, BLUE_STAR)))


@entry("diffedit/found-mask", tolerance=5e-5)
def _diffedit_found():
    b, more, x = model("shapes"), [BLUE_STAR, SAYS[1].replace("purple", "red")], head(pictures())
    rule, mean = MaskRule(**RULE), MaskRule(**RULE | dict(clamp="mean", r=2.5, reduce="abs_mean"))
    grown, twice = MaskRule(**RULE | dict(grow=1, threshold=.3)), Ablation(iterations=1)
    return dict(two=both_masks(diffedit(b, pictures(), SAYS, more, ratio=.8, rule=rule, **WALK)),
                mean=both_masks(diffedit(b, x, STAR, BLUE_STAR, ratio=.6, rule=mean, **WALK)),
                grown=both_masks(diffedit(b, x, "", BLUE_STAR, ratio=.4, rule=grown, ablation=twice, **WALK)),
                same=both_masks(diffedit(b, x, STAR, STAR, ratio=.4, rule=rule, **WALK)))


@entry("diffedit/given-mask", tolerance=5e-5)
def _diffedit_given():
    return both_masks(diffedit(model("shapes"), pictures(), SAYS, BLUE_STAR, mask=left_half(), ratio=.8, **WALK))


@entry("diffedit/ablations", tolerance=5e-5)
def _diffedit_ablations():
    b, x, rule = model("shapes"), head(pictures()), MaskRule(**RULE)
    ablations = dict(encode_decode=Ablation(use_mask=False), noised=Ablation(encode=False),
                     sdedit=Ablation(use_mask=False, encode=False), x0=Ablation(blend="x0"), raw=Ablation())
    found = {name: diffedit(b, x, STAR, BLUE_STAR, ratio=.6, rule=rule, ablation=ablation, **WALK)
             for name, ablation in ablations.items()}
    found["raw"] = found["raw"]._replace(picture=found["raw"].raw)         # before the kept pixels are pasted
    return {name: both_masks(e) for name, e in found.items()}


@entry("diffedit/pieces")
def _diffedit_pieces():
    a, b = WORLD.denoiser("a", COSINE), WORLD.denoiser("b", COSINE)
    x, noises = normal(2, 2, 3, 3), [normal(2, 2, 3, 3, seed=k) for k in (1, 2)]
    D = difference(a, b, COSINE, x, 50, noises, "mean_abs")
    return dict(D=D, signed=difference(a, b, COSINE, x, 50, noises, "abs_mean"),
                heat=heat_map(D, "quantile", .9), mean=heat_map(D, "mean", r=2.),
                nothing=heat_map(0 * D), bounds=[noising_bound(1.5, 2.), encoding_bound(1.5, 2., .3),
                                                 encoding_bound(1.5, 1., .3),
                                                 printed_encoding_bound(1.5, 2., .3)],
                cells=latent_mask(left_half(), normal(1, 8, 16, 16)))


@entry("diffedit/defaults", tolerance=1e-4, slow=True)
def _diffedit_defaults():
    return both_masks(diffedit(model("shapes"), head(pictures()), STAR, BLUE_STAR))


# --------------------------------------------------------------------------- inversions

def inverted(up: Any, b: Any, prompts: Sequence[str] | None = None, w: float | None = None) -> dict[str, Any]:
    """An inversion, and the walks that come back from it."""
    return dict(path=walked(up.path), times=up.times, calls=up.calls, w=up.w, back=walked(redo(b, up, w=w)),
                edits=walked(redo(b, up, [*up.prompts, *(prompts or [BLUE_STAR] * len(up.prompts))], w=w)))


@entry("inversion/ddim", tolerance=1e-4)
def _invert():
    b = model("shapes")
    return dict(plain=inverted(invert(b, pictures(), SAYS, steps=3, w=1., top=.98, iterations=0,
                                      label="destination"), b, w=3.),
                exact=inverted(invert(b, head(pictures()), STAR, steps=3, w=1., top=.98, iterations=2,
                                      label="destination"), b),
                printed=inverted(invert(b, head(pictures()), STAR, steps=3, w=1., top=.7, iterations=0,
                                        label="source"), b),
                guided=inverted(invert(b, head(pictures()), STAR, steps=3, w=2., top=.98, iterations=0,
                                       label="destination"), b))


@entry("inversion/negative-prompt-and-direct", tolerance=5e-5)
def _negative():
    b = model("shapes")
    return dict(negative=inverted(negative_prompt(b, pictures(), SAYS, steps=3, w=4., iterations=1), b),
                direct=inverted(direct(b, pictures(), SAYS, steps=3, w=4., iterations=0), b))


@entry("inversion/edict", tolerance=5e-5)
def _edict():
    b = model("shapes")
    return inverted(edict(b, pictures(), SAYS, steps=3, w=3., top=.8, p=.93), b)


@entry("inversion/edit-friendly")
def _edit_friendly():
    b = model("shapes")
    up = edit_friendly(b, pictures(), SAYS, steps=3, w=3.5, eta=1., top=.64, seed=2)
    return inverted(up, b) | dict(jumps=up.jumps, noises=up.noises(b.schedule),
                                  calmer=edit_friendly(b, head(pictures()), STAR, steps=3, w=2., eta=.5,
                                                       top=.98, seed=2).jumps)


@entry("inversion/ladder", tolerance=3e-3, slow=True)
def _ladder():
    b, seen = model("shapes"), []
    rungs = ladder(b, head(pictures()), STAR, steps=2, w=3., iterations=2,
                   done=lambda rung: seen.append(rung.name))
    return dict(names=[r.name for r in rungs], seen=seen, psnr=[r.psnr for r in rungs],
                forwards=[r.forwards for r in rungs],
                backwards=[r.backwards for r in rungs], latents=walked([r.latents for r in rungs]),
                pictures=walked([r.picture for r in rungs]))


# --------------------------------------------------------------------------- null-text

TUNED = dict(steps=3, w=4., inner=3, lr=1e-2, stop=1e-5, start="empty")


def tuned(run: Any, b: Any) -> dict[str, Any]:
    """All of a null-text inversion, and an edit from it."""
    return dict(path=walked(run.path), nulls=run.nulls, losses=run.losses, updates=run.updates,
                forwards=run.forwards, backwards=run.backwards,
                end=run.z_bar, edit=redo(b, run, [*run.prompts, *[BLUE_STAR] * len(run.prompts)])[-1],
                calls=run.calls)


@entry("null-text/adam")
def _null_adam():
    b = model("shapes")
    return tuned(null_text(b, pictures(), SAYS, solver="adam", **TUNED), b)


@entry("null-text/adam-skip")
def _null_skip():
    b = model("shapes")
    return tuned(null_text(b, pictures(), SAYS, solver="adam-skip", **TUNED | dict(stop=.02, start="prompt")),
                 b)


@entry("null-text/gauss-newton", tolerance=3e-3)
def _null_newton():
    b = model("shapes")
    return dict(two=tuned(null_text(b, pictures(), SAYS, solver="gauss-newton", **TUNED), b),
                prompt=tuned(null_text(b, head(pictures()), STAR, solver="gauss-newton",
                                       **TUNED | dict(start="prompt", stop=1e-3)), b))


@entry("null-text/between", tolerance=1e-4)
def _null_between():
    b = model("shapes")
    pivot = invert(b, pictures(), SAYS, steps=3, iterations=1)
    how = TUNED | dict(start="between", stop=.05)
    return tuned(null_text(b, pictures(), SAYS, solver="gauss-newton", pivot=pivot, **how), b)


@entry("null-text/ablations", tolerance=5e-5, slow=True)
def _null_ablations():
    b, x = model("shapes"), head(pictures())
    one, each = (random_pivot(b, x, STAR, z, steps=3) for z in
                 (normal(1, 8, 16, 16, seed=5), normal(3, 1, 8, 16, 16, seed=6)))
    shared = shared_null_text(b, x, STAR, steps=3, w=4., inner=2, lr=1e-2, start="empty")
    return dict(shared=tuned(shared, b),
                noise=tuned(null_text(b, x, STAR, solver="adam", pivot=one, **TUNED), b),
                levels=tuned(null_text(b, x, STAR, solver="adam", pivot=each, **TUNED), b),
                unguided=tuned(null_text(b, x, STAR, solver="adam", **TUNED | dict(w=1.)), b))


@entry("null-text/kept")
def _null_kept():
    """A run that is stopped after its first step and goes on from its file, and is read again."""
    b, x, steps = model("shapes"), head(pictures()), []
    whole = null_text(b, x, STAR, solver="adam", each_step=steps.append, **TUNED)
    key = null_text_key(b, x, STAR)
    with folder() as here:
        begun = read_null_text(save_null_text(here / "begun.safetensors", steps[0], key), b, key)
        resumed = null_text(b, x, STAR, solver="adam", pivot=begun, **TUNED)
        save_null_text(here / "run.safetensors", resumed, key)
        again = load_null_text(here / "run.safetensors", b, x, STAR, 4.)
    return dict(whole=whole.nulls, resumed=resumed.nulls, read=again.nulls, lengths=[len(s.nulls) for s in steps],
                prompts=list(again.prompts))


# --------------------------------------------------------------------------- Prompt-to-Prompt and its maps

def pair(r: Any) -> dict[str, Any]:
    """All of a Prompt-to-Prompt edit."""
    return dict(picture=r.picture, raw=r.raw, source=r.source_picture, path=walked(r.path), levels=r.levels,
                maps=r.maps,
                alignments=[table(a) for a in r.alignments], masks=r.masks, mask=r.mask)


P2P = dict(steps=4, seed=3)
PAPER = dict(edit="auto", cross=.8, self_=.4, self_res=None, weights=None)


@entry("prompt-to-prompt/replace")
def _p2p_replace():
    b, targets = model("shapes"), [BLUE_STAR, SAYS[1].replace("heart", "flower")]
    return pair(prompt_to_prompt(b, SAYS, targets, injection=Injection(**PAPER), w=3., **P2P))


@entry("prompt-to-prompt/refine-and-reweight", tolerance=5e-5)
def _p2p_refine():
    b, more = model("shapes"), "a large red star on a blue background and a small green ring"
    refined = Injection(**PAPER | dict(self_res=4))
    weighted = Injection(**PAPER | dict(weights={"star": 2., "blue": -.5}))
    by_word = [Injection(edit="replace", cross={"default_": .8, "yellow": (.2, .6)}, self_=.2),
               Injection(edit="refine", cross=.5, self_=.6, weights={"ring": 1.5})]
    return dict(refine=pair(prompt_to_prompt(b, STAR, more, w=2., injection=refined, **P2P)),
                reweight=pair(prompt_to_prompt(b, STAR, STAR, w=2., injection=weighted, **P2P)),
                by_word=pair(prompt_to_prompt(b, [STAR, STAR], [BLUE_STAR, more], w=1., injection=by_word,
                                              **P2P | dict(seed=[5, 9]))))


@entry("prompt-to-prompt/blend", tolerance=5e-5)
def _p2p_blend():
    b, paper = model("shapes"), Injection(**PAPER)
    star = dict(source="star", target="star", subtract=(), threshold=.3, subtract_threshold=.3, begin=.2, soft=0.)
    soft = dict(source=["circle"], target=["circle", "heart"], subtract="white", threshold=.4,
                subtract_threshold=.6, begin=0., soft=.3)
    heart = Blend(**soft | dict(source="heart", target="star", subtract=()))
    refined = Injection(**PAPER | dict(edit="refine"))
    how = dict(w=3., injection=paper, **P2P)
    return dict(coarse=pair(prompt_to_prompt(b, STAR, BLUE_STAR, blend=Blend(**star, res=(8, 8)), **how)),
                two=pair(prompt_to_prompt(b, SAYS, [BLUE_STAR, SAYS[1].replace("purple", "red")],
                                          blend=[Blend(**star), Blend(**soft)], **how)),
                mask=pair(prompt_to_prompt(b, STAR, BLUE_STAR, mask=left_half(), paste=False, **how)),
                mixed=pair(prompt_to_prompt(b, SAYS, BLUE_STAR, blend=[None, heart], mask=left_half(),
                                            **how | dict(injection=refined))))


@entry("prompt-to-prompt/on-inversions", tolerance=1e-4, slow=True)
def _p2p_inverted():
    b, blend = model("shapes"), Blend(source="star", target="star", subtract=(), threshold=.3,
                                      subtract_threshold=.3, begin=.2, soft=0.)
    x, found = head(pictures()), {}
    ups = dict(ddim=invert(b, x, STAR, steps=3, w=1., top=.98), direct=direct(b, x, STAR, steps=3, w=4.),
               edict=edict(b, x, STAR, steps=3, w=3., top=.8, p=.93),
               null=null_text(b, x, STAR, solver="adam", **TUNED),
               friendly=edit_friendly(b, x, STAR, steps=3, w=3.5, eta=1., top=.64, seed=2))
    for name, up in ups.items():
        found[name] = pair(prompt_to_prompt(b, STAR, BLUE_STAR, start=up, pictures=x, blend=blend,
                                            injection=Injection(**PAPER), w=None))
    return found


@entry("prompt-to-prompt/defaults", slow=True)
def _p2p_defaults():
    r = prompt_to_prompt(model("shapes"), STAR, BLUE_STAR)
    return dict(picture=r.picture, source=r.source_picture, maps=r.maps[-1])


@entry("prompt-to-prompt/pieces")
def _p2p_pieces():
    tokenizer, more = model("shapes").tokenizer, "a small striped red star left of a green ring"
    m, n = normal(2, 4, 5).softmax(-1), normal(2, 4, 5, seed=1).softmax(-1)
    found = {name: align(tokenizer, *texts, edit) for name, (texts, edit) in dict(
        swap=((STAR, BLUE_STAR), "auto"), grow=((STAR, more), "auto"), shrink=((more, STAR), "refine"),
        same=((STAR, STAR), "auto")).items()}
    long = align(model("emoji").tokenizer, "red heart", "blue unheardof", "replace")
    return dict(
        replace=replace(m, n, torch.eye(5).roll(1, 0), torch.tensor([True, True, False, True, False])),
        refine=refine(m, n, torch.tensor([0, -1, 1, 2, -1]), True),
        reweight=reweight(m, torch.tensor([1., 2., 1., -1., 1.])),
        mappers=[a.mapper for a in (*found.values(),)], indices=[a.index for a in found.values()],
        spelled=long.mapper,
        tables=[table(a) for a in (*found.values(), long)], alphas=(found["grow"].index >= 0).float(),
        identity=[a.identity for a in found.values()],
        word=[word_mask(normal(1, 4, 4, 6).softmax(-1), [1, 2], (8, 8), threshold=.6, pool=pool,
                        soft=soft) for pool, soft in
              ((True, 0.), (False, .4))], blended=blended(normal(2, 3, 4, 4), left_half(4)))


@entry("attention-maps", tolerance=5e-5)
def _maps():
    b = model("shapes")
    maps = explore(b, SAYS, res=(8, 8), steps=3, w=2., seed=4)
    of = explore(b, start=invert(b, head(pictures()), STAR, steps=3, w=1., top=.98), res=None, w=None)
    layer = next(iter(maps.cross_attention)).name
    sites = [*maps.cross_attention, *maps.self_attention]
    return dict(
        pictures=maps.pictures, steps=maps.by_step, levels=maps.levels, res=maps.res, words=maps.words(1),
        heat=maps.heat_map("star"), part=maps.word_map("star", layer=layer, head=1),
        step=maps.word_map("heart", 1, step=0), lit=maps.overlay("circle", 1),
        spread=[maps.entropy("star"), maps.entropy("blue", head=0)], row=maps.self_map(3, 5),
        own=maps.self_map(0, 0, 1, layer=layer, head=0), patterns=maps.components(2).abs(),
        sites=[f"{s.name} {s.kind} {s.res}" for s in sites],
        cross=[m.mean() for m in maps.cross_attention.values()],
        inverted=dict(pictures=of.pictures, steps=of.by_step, heat=of.heat_map("background")))


# --------------------------------------------------------------------------- InstructPix2Pix, GLIDE

def told(e: Any) -> dict[str, Any]:
    """All of an instructed edit."""
    return dict(picture=e.picture, path=walked(e.path) if e.path else None, levels=e.levels,
                predictions=[dict(t=p.t, none=p.none, image=p.image, full=p.full) for p in e.predictions])


@entry("instruct-pix2pix/settings", tolerance=5e-5)
def _instruct():
    b, how = model("shapes-instruct"), dict(steps=3, start=.98, seed=2)
    return dict(two=told(instruct_pix2pix(b, pictures(), ["make the star green", ""], s_text=2., s_image=1.2,
                                          step=DDIM(1.), **how)),
                ddim=told(instruct_pix2pix(b, head(pictures()), "make the star green", s_text=3., s_image=1.,
                                           step=DDIM(0.), predictions=True, **how)),
                negative=told(instruct_pix2pix(b, head(pictures()), "remove the star", s_text=2., s_image=2.,
                                               step=DDIM(.5), negative="make the star red", **how)),
                silent=told(instruct_pix2pix(b, head(pictures()), "", s_text=2., s_image=2., step=DDIM(1.), **how)),
                emoji=told(instruct_pix2pix(model("emoji-instruct"), head(faces()),
                                            "change the background to yellow", s_text=2., s_image=1.2,
                                            step=DDIM(1.), **how)))


@entry("instruct-pix2pix/defaults", tolerance=5e-5, slow=True)
def _instruct_defaults():
    e = instruct_pix2pix(model("shapes-instruct"), head(pictures()), "make the star green")
    return dict(picture=e.picture, levels=e.levels)


def painted(p: Any) -> dict[str, Any]:
    """All that GLIDE painted."""
    return dict(picture=p.picture, small=p.small, path=walked(p.path), levels=p.levels)


@entry("glide/generate", tolerance=5e-4)
def _glide():
    b, how = model("shapes-glide"), dict(n=1, steps="3", seed=3)
    return dict(text=painted(glide(b, SAYS, w=3., eta=1., **how)),
                ddim=painted(glide(b, STAR, w=1., eta=0., **how)),
                two=painted(glide(b, STAR, n=1, steps="2", w=2., eta=1., seed=4,
                                  upsampler=model("shapes-glide-upsampler"), up_steps="2")))


@entry("glide/guided-by-others", tolerance=5e-5, slow=True)
def _glide_guides():
    b, judge = model("shapes-glide"), load_judge("shapes-clip-noised")
    classifier = load_classifier("shapes-classifier")
    asked = [wanted(text) for text in SAYS]
    by_clip = clip_guidance(judge.images, judge.texts(SAYS), 3., judge.scale)
    by_class = classifier_guidance(lambda x, t: classifier.log_p(x, t, asked), 1.)
    how = dict(n=1, steps="3", seed=3, w=1.)
    return dict(clip=painted(glide(b, SAYS, gradient=by_clip, gradient_at="x_t", eta=1., **how)),
                mean=painted(glide(b, SAYS, gradient=by_class, gradient_at="mean", eta=1., **how)),
                ddim=painted(glide(b, SAYS, gradient=by_class, gradient_at="x_t", eta=0., **how)))


@entry("glide/inpaint", tolerance=5e-4, slow=True)
def _glide_inpaint():
    x, how = head(pictures(32)), dict(steps="3", w=2., eta=1., seed=5)
    trained, plain = model("shapes-glide-inpaint"), model("shapes-glide")
    up = dict(upsampler=model("shapes-glide-upsampler-inpaint"), up_steps="2")
    return dict(trained=painted(inpaint(trained, x, left_half(32), BLUE_STAR, how="trained", **how)),
                replace=painted(inpaint(plain, pictures(32), left_half(32), SAYS, how="replace", **how)),
                x0=painted(inpaint(plain, x, left_half(32), BLUE_STAR, how="x0", paste=False, **how)),
                large=painted(inpaint(trained, head(pictures()), left_half().roll(7, 3), BLUE_STAR,
                                      how="trained", **how | up)))


@entry("glide/upsample-and-judge", tolerance=5e-5, slow=True)
def _glide_upsample():
    small, up = pictures(32), model("shapes-glide-upsampler-inpaint")
    return dict(plain=upsample(model("shapes-glide-upsampler"), small, SAYS, steps="2", eta=0.,
                               temperature=.997, seed=1),
                kept=upsample(up, head(small), STAR, picture=head(pictures()), mask=left_half(), steps="2",
                              eta=1., temperature=.997, seed=1),
                blurred=blurred(pictures(), load_autoencoder("shapes-vae")), order=rerank(normal(6), 3))


@entry("glide/session", slow=True)
def _glide_session():
    session = Session(model("shapes-glide-inpaint"), seed=1, steps="2", w=2.)
    session.run(parse("a red star on a blue background  # from nothing\n"
                      "a red star left of a green ring on a blue background | box .5 .2 1 .9\n"
                      "undo\na green ring on a blue background | box 0 0 .5 1 | seed 7"))
    states = [s.picture for s in session.states]
    session.undo()
    session.redo()
    return dict(states=states, seeds=[s.seed for s in session.states], size=session.size,
                box=box(.1, .2, .6, .9, size=32),
                picture=session.picture, strip=list(session.strip().shape))


# --------------------------------------------------------------------------- learning a subject

def subject() -> Tensor:
    """Three pictures of one individual."""
    rng = random.Random(8)
    who = sample_subject(rng, "star")
    return render_subjects([who] * 3, [sample_context(rng, ground) for ground in ("red", "white", "green")])


COURSE = dict(steps=3, lr=1e-3, batch=2, seed=4)
NO_PRIOR = Prior(weight=0.)


def learned(found: Any) -> dict[str, Any]:
    """What was learned: the curves, and what the new model says."""
    b = found.model
    z = normal(1, *b.latent_shape)
    told = b.eps_and_v(z if not getattr(b.net, "upsampling", False) else b.net.inputs(z,
        low_res=head(pictures(32))), 400,
                       b.embed(found.prompt))[0]
    moved = torch.stack([p.double().norm() for p in b.net.parameters()])
    return dict(losses=found.losses, instance=found.instance, prior=found.prior, says=told, weights=moved,
                words=b.text.tokens.weight.norm(),
                prompt=found.prompt, about=found.class_prompt, identifier=found.identifier,
                latents=found.prior_latents)


@entry("dreambooth/whole-net", slow=True)
def _dreambooth():
    return learned(dreambooth(model("shapes"), subject(), "star", identifier="zwx",
                              course=Course(**COURSE), prior=Prior(weight=1., n=2, steps=2, w=2.)))


@entry("dreambooth/settings", tolerance=5e-5, slow=True)
def _dreambooth_settings():
    says = ["a zwx star on a red background", "a zwx star", "the zwx star on a green background"]
    flat = Course(**COURSE, ema=.5, weight=flat_weight, checkpointing=True)
    prior = Prior(weight=.5, n=3, steps=1, w=1., prompts=["a star", "a red star"])
    return dict(no_prior=learned(dreambooth(model("shapes"), subject(), "", identifier="zwx", course=flat,
                                            prior=NO_PRIOR)),
                text=learned(dreambooth(model("shapes"), list(subject().split(1)), "star", identifier="zwx",
                                        prompts=says, course=Course(**COURSE, accumulate=2), prior=prior,
                                        tune_text=True)))


@entry("dreambooth/lora")
def _dreambooth_lora():
    found = dreambooth(model("shapes"), subject(), "star", identifier="zwx", course=Course(**COURSE),
                       prior=NO_PRIOR, rank=2, alpha=4., tune_text=True)
    b, x = found.model, normal(1, 8, 16, 16)
    with folder() as here:
        save_lora(b, here / "zwx.safetensors", base="shapes")
        again = load(here / "zwx.safetensors", device="cpu", dtype=torch.float32)
    ctx = b.embed(found.prompt)
    return learned(found) | dict(size=lora_size(b), merged=merged(b).eps(x, 300, ctx),
                                 half=scaled(b, .5).eps(x, 300, ctx),
                                 read=again.eps(x, 300, again.embed(found.prompt)))


@entry("dreambooth/textual-inversion")
def _textual_inversion():
    found = textual_inversion(model("shapes"), subject(), "star", identifier="zwx", course=Course(**COURSE))
    token = found.model.tokenizer.token("zwx")
    with folder() as here:
        save_word(found.model, here / "word.safetensors", base="shapes", identifier="zwx")
        again = load(here / "word.safetensors", device="cpu", dtype=torch.float32)
    return learned(found) | dict(vector=found.model.text.tokens.weight[token],
                                 read=again.text.tokens.weight[token])


@entry("dreambooth/upsampler", tolerance=5e-5, slow=True)
def _upsampler():
    return learned(dreambooth_upsampler(model("shapes-glide-upsampler"), subject(), "star", identifier="zwx",
                                        course=Course(**COURSE | dict(steps=2)), aug=.05, factor=2,
                                        tune_text=False))


@entry("dreambooth/stopped-and-resumed", tolerance=5e-5)
def _dreambooth_resumed():
    """Prior and checkpoint are kept in a folder: the same command goes on from there, and a finished one
    has nothing left to do.
    """
    how = dict(identifier="zwx", course=Course(**COURSE | dict(steps=2)),
               prior=Prior(weight=1., n=2, steps=1, w=2.), rank=1)
    with folder() as here:
        first = learned(dreambooth(model("shapes"), subject(), "star", state=here / "state", **how))
        again = learned(dreambooth(model("shapes"), subject(), "star", state=here / "state", **how))
        return dict(first=first, again=again, files=sorted(p.name for p in (here / "state").iterdir()))


@entry("dreambooth/pieces", tolerance=5e-5)
def _dreambooth_pieces():
    b, t, like = model("shapes"), torch.tensor([1, 300, 999]), normal(3, 1, 1, 1)
    return dict(weights=[w(b.schedule, t, like) for w in (snr_weight, v_weight, flat_weight)],
                words=rare_words(b.tokenizer),
                word=[find_identifier(b.tokenizer, seed) for seed in (0, 1, 2)],
                prior=prior_latents(b, ["a star", "a ring"], Prior(n=3, steps=2, w=2.), seed=5))


@entry("sweep")
def _sweep():
    b, x = model("shapes"), head(pictures())

    def verb(ratio: float, threshold: float) -> Any:
        rule = MaskRule(**RULE | dict(threshold=threshold))
        return diffedit(b, x, STAR, BLUE_STAR, ratio=ratio, rule=rule, **WALK)
    found = sweep(verb, {"ratio": [.4, .8], "threshold": [.25, .5]})
    shown = sheet(found, before=x, scale=2, title="a sweep")
    return dict(pictures=[r.picture for r in found.results], settings=json.dumps(found.settings),
                sheet=list(shown.shape))


# --------------------------------------------------------------------------- the training loop

class Line(nn.Module):
    """A small net with a frozen part and a buffer."""

    def __init__(self):
        super().__init__()
        self.map, self.fixed = nn.Linear(3, 2), nn.Linear(2, 2).requires_grad_(False)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.fixed(torch.tanh(self.map(x)))


def line_loss(net: nn.Module, x: Tensor, generator: Generator) -> Tensor:
    """How far the net is from a rule, with noise drawn after the data."""
    return (net(x + .01 * gaussian(x, generator)) - x[:, :2].sin()).square().mean()


def fitted(steps: int = 12, stop: int | None = None, **how: Any) -> Fitted:
    """The line, trained; stop: Ctrl-C in that step."""
    net = filled(Line()).train()
    net.map.requires_grad_(True)

    def batch(step: int, generator: Generator) -> Any:
        if step == stop:
            raise KeyboardInterrupt
        drawn = [torch.randn(4, 3, generator=generator) for _ in range(how.get("accumulate", 1))]
        return drawn if len(drawn) > 1 else drawn[0]
    files = Files(**{name: how.pop(name) for name in ("checkpoint", "log", "save_every", "identity") if name in how})
    after = how.pop("after", None)
    return fit(line_loss, net, batch, Settings(steps=steps, lr=.05, **how), files, after_step=after, progress=False)


def run(f: Fitted) -> dict[str, Any]:
    """What a run left: losses, weights, and their average."""
    return dict(losses=f.losses, net=f.net.state_dict(), ema=f.ema.state_dict())


@entry("fit/settings")
def _fit():
    after = []
    found = dict(usual=run(fitted(warmup=3, ema=.9, seed=5)), pieces=run(fitted(accumulate=2, weight_decay=.1,
        betas=(.9, .999), clip=.5, warmup=0, ema=0.)),
                 told=run(fitted(after=after.append, warmup=200, ema=.999, seed=1)),
                 half=run(fitted(precision="bfloat16", warmup=0, ema=.9)))
    return found | dict(after=after, rates=[learning_rate(n, Settings(steps=12, lr=1., warmup=2)) for n in range(13)],
                        decay=[ema_decay(n, .999) for n in (0, 5, 10**5)],
                        generator=torch.rand(3, generator=step_generator(3, 7, 1)))


@entry("fit/stopped-and-resumed")
def _fit_resumed():
    with folder() as here:
        how = dict(checkpoint=here / "run.pt", log=here / "loss.csv", save_every=4, warmup=3, ema=.9, seed=5,
                   identity=dict(data="line"))
        with contextlib.suppress(KeyboardInterrupt):
            fitted(stop=6, **how)
        part = (here / "loss.csv").read_text(encoding="utf-8")
        resumed = fitted(**how)
        return run(resumed) | dict(part=part, log=(here / "loss.csv").read_text(encoding="utf-8"),
                                   unbroken=fitted(warmup=3, ema=.9, seed=5).losses,
                                   files=sorted(p.name for p in here.iterdir()))


# --------------------------------------------------------------------------- recipes

RECIPES = (emoji, emoji_clip, emoji_instruct, emoji_vae, shapes, shapes_classifier, shapes_clip, shapes_dino,
           shapes_glide, shapes_glide_inpaint,
           shapes_glide_upsampler, shapes_instruct, shapes_language, shapes_reader, shapes_vae, shapes_ve)


class Enough(Exception):
    """What follows takes long and is recorded by itself."""


def recipe(made: Any, judged: bool = True, **arguments: Any) -> dict[str, Any]:
    """A recipe from its first line to its file, but that `fit` takes no step: it notes the first step's data,
    their loss, the gradient and the settings, and gives the net back as it is. judged=False: and stops there.
    """
    seen, said_ = [], io.StringIO()

    def first_step(loss_fn: Any, net: nn.Module, batch: Any, settings: Settings, files: Files | None = None,
                   **others: Any) -> Fitted:
        generator = step_generator(settings.seed, 0)
        data = batch(0, generator)
        loss = loss_fn(net, data, generator)
        grads = torch.autograd.grad(loss, [p for p in net.parameters() if p.requires_grad], allow_unused=True)
        if others.get("after_step"):
            others["after_step"](0)
        course = [settings.steps, settings.lr, settings.warmup, settings.ema, settings.clip, settings.weight_decay,
                  *settings.betas, settings.accumulate, settings.seed, files.save_every, others.get("workers", 0)]
        gradient = torch.stack([g.double().norm() for g in grads if g is not None])
        seen.append(dict(data=data, loss=loss, gradient=gradient, course=course, precision=settings.precision))
        if not judged:
            raise Enough
        return Fitted(net, copy.deepcopy(net).eval().requires_grad_(False), [loss.item()] * settings.steps, 0.)

    with folder() as here, contextlib.ExitStack() as stack, contextlib.redirect_stdout(said_):
        for module in RECIPES:
            if hasattr(module, "fit"):
                stack.enter_context(mock.patch.object(module, "fit", first_step))
        with contextlib.suppress(Enough):
            made.main(made.Arguments(device="cpu", out=str(here), state=str(here / "state"), **arguments))
        found = dict(steps=seen)
        for file in sorted(here.glob("*.json")):
            record = json.loads(file.read_text(encoding="utf-8"))
            config, tensors = read_weights(file.with_suffix(".safetensors"))
            norms = torch.stack([v.double().norm() for _, v in sorted(tensors.items())])
            found[file.stem] = dict(figures=record["figures"], parameters=record["parameters"],
                                    recipe=record["recipe"].split(".")[-1], kind=config["kind"], keys=len(tensors),
                                    weights=norms)
    return found


def _recipes() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    data = str(SHIPPED)
    weights = {name: str(FOLDER / f"{name}.safetensors") for name in ("shapes", "shapes-vae", "shapes-glide",
        "shapes-glide-upsampler")}
    yield "shapes-vae", shapes_vae, dict(steps=2, batch=2, tests=2, judged=False)
    yield "shapes-reader", shapes_reader, dict(steps=2, batch=4, reconstructions=4, tests=4, hard=.5)
    yield "shapes", shapes, dict(steps=2, batch=2, scenes=12, hard=3.)
    yield "shapes-ve", shapes_ve, dict(steps=2, batch=2)
    yield "shapes-glide", shapes_glide, dict(steps=2, batch=2, empty=.5, without="star", hard=2.)
    yield "shapes-glide-inpaint", shapes_glide_inpaint, dict(steps=2, batch=2, kept=6,
        init=weights["shapes-glide"])
    yield "shapes-glide-upsampler", shapes_glide_upsampler, dict(steps=2, batch=2, noise=.1)
    yield "shapes-glide-upsampler-inpaint", shapes_glide_upsampler, dict(steps=2, batch=2, inpainting=1,
        init=weights["shapes-glide-upsampler"])
    yield "shapes-clip", shapes_clip, dict(steps=2, batch=4, tests=8)
    yield "shapes-clip-noised", shapes_clip, dict(steps=2, batch=4, tests=8, noised=1,
                                                  name="shapes-clip-noised")
    yield "shapes-classifier", shapes_classifier, dict(steps=2, batch=4, tests=64)
    yield "shapes-dino", shapes_dino, dict(steps=2, batch=4, tests=4)
    yield "shapes-dino-centred", shapes_dino, dict(steps=2, batch=4, tests=4, centring="mean", spread=0.)
    yield "shapes-instruct", shapes_instruct, dict(steps=2, batch=4, n=16, init=weights["shapes"])
    yield "shapes-language", shapes_language, dict(steps=4, reading=2, batch=4, triplets=6, tests=1)
    yield "emoji-vae", emoji_vae, dict(steps=2, batch=2, tests=2, data=data, judged=False)
    yield "emoji", emoji, dict(steps=2, batch=2, scenes=8, data=data)
    yield "emoji-clip", emoji_clip, dict(steps=2, batch=4, tests=8, data=data)


for _name, _made, _arguments in _recipes():
    entry(f"recipes/{_name}", slow=True, draws=_name == "shapes-language")(functools.partial(recipe, _made, **_arguments))


@entry("recipes/emoji-instruct", slow=True)
def _emoji_instruct():
    """From a file of the vocabulary of the pictures that ship: the words of the shipped model are those
    of all pictures.
    """
    modules, _, config = emoji.models(emoji.NET, emoji.LENGTH, emoji.vocabulary(open_world()))
    with folder() as here:
        filled(modules)
        start = write_weights(here / "start.safetensors", dict(modules),
                              config | dict(kind="text2image", trained=[]), torch.float32)
        return recipe(emoji_instruct, steps=2, batch=2, n=8, data=str(SHIPPED), init=str(start))


@entry("recipes/shapes-vae-axes", tolerance=2e-4)
def _axes():
    vae, x = copy.deepcopy(load_autoencoder("shapes-vae").vae), pictures().repeat(3, 1, 1,
        1) + .05 * normal(6, 3, 64, 64)
    shares, whiten = shapes_vae.smooth_axes(normal(6, 8, 4, 4, seed=1))
    figures = shapes_vae.measure(vae, pictures())
    shapes_vae.rebalance(vae, x)
    return dict(shares=shares, whiten=whiten.abs(), figures=figures, latents=vae.encode(pictures())[0].abs(),
                decoded=vae.decode(vae.encode(pictures())[0]))


@entry("recipes/pairs", tolerance=5e-5)
def _pairs():
    judge, b = load_judge("shapes-clip"), model("shapes")
    wishes = read_triplets(FOLDER / "triplets.jsonl")[:2]
    rows = [(i, k, t) for i, t in enumerate(wishes) for k in range(2)]
    before, after = pairs.painted(b, rows, "cross", 3, 3., 0)
    own = pairs.painted(b, rows[:1], "self", 3, 3., 0)
    scores = pairs.scored(judge, before, after, [t.caption for *_, t in rows], [t.edited for *_, t in rows])
    least = pairs.thresholds(judge, pairs.true_edits(16, 0))
    return dict(before=before, after=after, own=[*own], scores=[list(s) for s in scores], least=list(least),
                p=[pairs.shared(i, k, 0) for i, k, _ in rows],
                best=[pairs.best(scores, least), pairs.best(scores, None)],
                wishes=[text_of(t) for t in emoji_pairs.wishes_of(open_world(), 4, random.Random(1))])


# --------------------------------------------------------------------------- the command line

@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder to work in that is gone afterwards."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as here:
        os.chdir(here)
        try:
            yield Path(here)
        finally:
            os.chdir(before)


def furnish() -> None:
    """Picture files to work on, in the folder at hand: a star, the same as a wide file with alpha, masks,
    three of a subject.
    """
    write_picture(head(pictures()), "star.png")
    wide = torch.cat([(head(pictures()) + 1) * 127.5, torch.full((1, 1, 64, 64), 200.)], 1)[..., 6:-6,
        :].round().byte()
    write_picture(wide, "wide.png")
    write_picture(left_half().expand(1, 3, -1, -1) * 2 - 1, "mask.png")
    write_picture(left_half()[..., 6:-6, :].expand(1, 3, -1, -1) * 2 - 1, "wide-mask.png")
    for k, picture in enumerate(subject().split(1)):
        write_picture(picture, f"subject{k}.png")
    write_picture(head(faces()), "face.png")
    Path("script.txt").write_text("a red star on a blue background\n"
                                  "a red star on a green background | box 0 0 .5 1 | seed 7\n", encoding="utf-8")
    Path("prompts.txt").write_text("a [V] star on a white background\n", encoding="utf-8")


def command(line: str, *more: str) -> dict[str, Any]:
    """Run a command here: its exit code, what it says, and the pixels of each picture that it writes.
    Seconds are left out.
    """
    there = {p for p in Path(".").rglob("*") if p.is_file()}
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*line.split(), *more])
    text = re.sub(r"\d+(\.\d+)? s\b", "T s", out.getvalue())
    if "seconds" in text:                        # a table whose last column they are
        text = re.sub(r" +\d+\.\d+\n", "\n", text)
    new = sorted({p for p in Path(".").rglob("*") if p.is_file()} - there)
    shots = {str(p): np.asarray(Image.open(p)) for p in new if p.suffix in (".png", ".jpg", ".webp")}
    return dict(code=code, out=text, notes=err.getvalue().count("note:"), files=[str(p) for p in new],
                **{name: torch.from_numpy(np.array(pixels)) for name, pixels in shots.items()})


def commanded(*lines: str | tuple[str, ...]) -> dict[str, Any]:
    """Several commands in one furnished folder, in turn. What is not split at spaces comes after the line
    in a tuple.
    """
    with folder():
        furnish()
        return {f"{k}": command(*((line,) if isinstance(line, str) else line)) for k,
                line in enumerate(lines)}


CPU = "--device cpu"


@entry("command/generate")
def _command_generate():
    return commanded((f"generate {CPU} --steps 2 --w 2 --eta 0.5 --seed 4 -o one.png --prompt", STAR),
                     (f"generate {CPU} --steps 2 -n 3 -o star{{i}}.png --save-steps steps --prompt", STAR),
                     (f"generate {CPU} --model emoji --steps 1 -o e.webp --prompt", "red heart"))


@entry("command/sdedit")
def _command_sdedit():
    return commanded((f"sdedit star.png {CPU} --steps 3 --t0 0.6 --w 2 --seed 2 -o a.png --prompt",
                      BLUE_STAR),
                     (f"sdedit wide.png {CPU} --steps 2 --mask wide-mask.png --eta 0 "
                      "--save-mask m.png --save-steps s -o b.png --prompt", BLUE_STAR),
                     (f"sdedit wide.png {CPU} --steps 2 --crop --size 48 --repeats 2 -o c.jpg --prompt",
                      BLUE_STAR),
                     (f"sdedit star.png {CPU} --model shapes-glide --walk ve --steps 2 "
                      "--target-distance 0.2 -o d.png --prompt", BLUE_STAR))


@entry("command/diffedit")
def _command_diffedit():
    return commanded((f"diffedit star.png {CPU} --steps 4 --maps 2 --save-mask m.png "
                      "--save-heat h.png --save-steps s -o a.png --source", STAR, "--target", BLUE_STAR),
                     (f"diffedit wide.png {CPU} --steps 4 --mask wide-mask.png --ratio 0.6 -o b.png --target",
                      BLUE_STAR),
                     (f"diffedit star.png {CPU} --steps 4 --maps 1 --clamp mean --no-encode "
                      "--grow 1 --blend x0 --no-paste -o c.png --target", BLUE_STAR),
                     (f"diffedit star.png {CPU} --steps 4 --maps 1 -o d.png --source", STAR, "--target",
                      STAR))


@entry("command/prompt-to-prompt", slow=True)
def _command_p2p():
    words = (STAR, BLUE_STAR)
    return commanded((f"prompt-to-prompt {CPU} --steps 3 --seed 2 --explain --save-source s.png -o a.png",
                      *words),
                     (f"prompt-to-prompt {CPU} --steps 3 --cross .5 --cross yellow=.2-.6 "
                      "--self .2 --weight yellow=2 --blend star:star --save-mask m.png "
                      "-o b.png", *words),
                     (f"prompt-to-prompt {CPU} --steps 3 --input wide.png --inversion ddim "
                      "--mask wide-mask.png --w 2 -o c.png", *words),
                     (f"prompt-to-prompt {CPU} --steps 2 --input star.png --inversion null-text "
                      "--blend star -o d.png", *words),
                     *((f"prompt-to-prompt {CPU} --steps 2 --input star.png --inversion {name} -o {name}.png",
                        *words)
                       for name in ("negative-prompt", "direct", "edict", "edit-friendly")))


@entry("command/null-text")
def _command_null():
    how = f"null-text star.png {CPU} --steps 2 --inner 2 --w 3"
    return commanded((f"{how} --save null.safetensors -o a.png --prompt", STAR),
                     (f"null-text star.png {CPU} --load null.safetensors --save-steps s -o b.png --prompt",
                      STAR, "--target", BLUE_STAR),
                     (f"{how} --solver gauss-newton --start prompt -o c.png --prompt", STAR, "--target",
                      BLUE_STAR),
                     (f"prompt-to-prompt {CPU} --input star.png --load null.safetensors -o d.png", STAR,
                      BLUE_STAR))


@entry("command/invert", slow=True)
def _command_invert():
    found = commanded((f"invert star.png {CPU} --steps 2 --w 3 --iterations 1 -o a.png --prompt", STAR))
    # how many passes Gauss-Newton takes hangs by a rounding error
    found["0"]["out"] = re.sub(r"(null-text, fast).*", r"\1", found["0"]["out"])
    return found


@entry("command/attention", tolerance=.05)
def _command_attention():
    return commanded((f"attention {CPU} --steps 2 -o a.png --prompt", STAR),
                     (f"attention star.png {CPU} --steps 2 --word star --by layer --res 8 "
                      "--components -o b.png --prompt", STAR))


@entry("command/dreambooth", slow=True)
def _command_dreambooth():
    shots, few = "subject0.png subject1.png subject2.png", f"--steps 2 --batch 2 -n 1 --shown-steps 2 {CPU}"
    return commanded(f"dreambooth {shots} --class-noun star {few} --n-prior 2 --prior-steps 2 "
                     "--lr 1e-3 -o whole",
                     f"dreambooth {shots} --class-noun star {few} --rank 2 --prior-weight 0 "
                     "--identifier qev --prompts prompts.txt -o lora",
                     f"dreambooth {shots} --class-noun star {few} --word -o word",
                     (f"generate {CPU} --model lora/model.safetensors --steps 2 -o shown.png --prompt",
                      "a qev star"))


@entry("command/glide", slow=True)
def _command_glide():
    few = f"{CPU} --steps 2 --up-steps 2"
    return commanded((f"glide generate {few} --seed 3 -o a.png --prompt", STAR),
                     (f"glide generate {CPU} --steps 2 --upsampler none -n 2 --rerank "
                      "--guide clip --blur -o b.png --prompt", STAR),
                     (f"glide generate {CPU} --steps 2 --upsampler none --guide classifier "
                      "--eta 1 --save-steps s -o c.png --prompt", STAR),
                     (f"glide inpaint star.png {few} --mask mask.png --w 2 -o d.png --prompt", BLUE_STAR),
                     (f"glide inpaint star.png {CPU} --steps 2 --model shapes-glide "
                      "--upsampler none --how x0 --mask mask.png --eta 0 -o e.png --prompt", BLUE_STAR),
                     f"glide session script.txt {few} --strip strip.png -o f.png")


@entry("command/instruct-pix2pix")
def _command_instruct():
    return commanded((f"instruct-pix2pix star.png {CPU} --steps 2 --s-text 2 --s-image 1.2 "
                      "--save-steps s -o a.png --instruction", "make the star green"),
                     (f"instruct-pix2pix face.png {CPU} --model emoji-instruct --steps 2 --eta 0 "
                      "--seed 3 -o b.png --instruction", "make them blue"),
                     (f"instruct-pix2pix wide.png {CPU} --crop -o c.png --instruction", ""))


@entry("command/text2live", tolerance=1e-3)
def _command_text2live():
    return commanded((f"text2live star.png {CPU} --steps 2 --views 2 --seed 3 --save-layer l.png --save-steps s.png "
                      "--compare c.png -o a.png --layer red --source", BLUE_STAR, "--target", STAR),
                     (f"text2live wide.png {CPU} --steps 1 --views 1 --crop --bootstrap 0 --gif g.gif -o b.png --layer red "
                      "--source", BLUE_STAR, "--target", STAR))


@entry("command/models-and-weights")
def _command_models():
    found = commanded("models", "weights list", f"weights verify {FOLDER / 'shapes.safetensors'}",
                      f"weights verify {FOLDER / 'shapes-vae.safetensors'}")
    for said_ in found.values():
        said_["out"] = re.sub(r"here: \S+", "here", said_["out"].replace(str(FOLDER), "weights"))
        said_["out"] = re.sub(r"python -m (palimpsest\.)?", "python -m ", said_["out"])
    table, *_ = found.values()  # a new measurement moves its figures, and only their names belong to the command
    table["out"] = re.sub(r" [-\d.e]+(?=,|$)", " #", table["out"], flags=re.M)
    return found


@entry("command/estimates", slow=True)
def _command_estimates():
    return commanded((f"diffedit star.png {CPU} --steps 4 --estimate --target", STAR),
                     (f"null-text star.png {CPU} --steps 4 --estimate --prompt", STAR),
                     (f"glide generate {CPU} --steps 4 --upsampler none --estimate --prompt", STAR))


MISTAKES = (
    "sdedit none.png -o a.png", "sdedit star.png -o a.gif", "sdedit star.png --t0 2 -o a.png",
    "sdedit star.png --steps x -o a.png",
    "sdedit star.png --prompt zebra -o a.png", "sdedit star.png --mask star.png --model none -o a.png",
    "diffedit star.png --target star --ratio 0 -o a.png",
    "diffedit star.png --target star --clamp x -o a.png",
    "diffedit star.png --target star --threshold 2 -o a.png",
    "diffedit star.png --target star --maps 0 -o a.png",
    "prompt-to-prompt star ring --cross 2 -o a.png", "prompt-to-prompt star ring --edit x -o a.png",
    "prompt-to-prompt star ring --weight x -o a.png", "prompt-to-prompt star ring --blend zebra -o a.png",
    "prompt-to-prompt star ring --mask mask.png -o a.png",
    "null-text star.png --prompt star --inner 0 -o a.png",
    "null-text star.png --prompt star --solver x -o a.png", "generate --prompt star -n 0 -o a.png",
    "generate --prompt star --eta 3 -o a.png",
    "attention --prompt star --res 3 -o a.png", "dreambooth --class-noun star -o d",
    "dreambooth subject0.png --class-noun star --lr 0 -o d",
    "glide generate --prompt star --steps x -o a.png",
    "glide inpaint star.png --mask mask.png --prompt star --how x -o a.png",
    "instruct-pix2pix star.png --instruction star --model shapes -o a.png", "weights verify none.safetensors",
    "weights get none", "unknown", "help unknown")


@entry("command/mistakes")
def _command_mistakes():
    """Each ends in exit code 2 and one line that names the argument."""
    found = []
    with folder():
        furnish()
        for line in MISTAKES:
            err = io.StringIO()
            with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
                code = main(line.split())
            last = err.getvalue().strip().splitlines()[-1]
            named = re.match(r"palimpsest: error: (?:argument )?([\w-]+)", last)
            errors = err.getvalue().count("error: ")
            found.append(f"{line}: {code} {named[1] if named else last} {errors}")
    return dict(named=found)


def options_of(parser: argparse.ArgumentParser, prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every option of a parser and of its commands: "sdedit --t0" -> what it takes and its default."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from options_of(inner, f"{prefix}{name} ")
        elif not isinstance(action, argparse._HelpAction):
            name = "/".join(action.option_strings) or action.dest
            default = parser._defaults.get(action.dest, action.default)
            yield f"{prefix}{name}", dict(default=default, required=action.required, takes=action.nargs,
                                          choices=action.choices and [*action.choices])


@entry("command/options")
def _command_options():
    return {name: json.dumps(about, default=str) for name, about in options_of(command_line(Parser))}


# --------------------------------------------------------------------------- recording and comparing

class Leaf(NamedTuple):
    """What is kept of one value: of a text itself; of numbers their shape, dtype, hash, mean, spread,
    largest magnitude, and some of them.
    """
    text: str | None = None
    shape: tuple[int, ...] = ()
    dtype: str = ""
    digest: str = ""
    stats: tuple[float, float, float] = (0., 0., 0.)
    some: Tensor = torch.zeros(0)


def leaf_of(value: Any) -> Leaf:
    """A text, a tensor, a number or a list of numbers."""
    if value is None or isinstance(value, str):
        return Leaf(text=str(value))
    t = value.detach().cpu() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    flat = t.contiguous().flatten()
    digest = hashlib.sha256(flat.view(torch.uint8).numpy().tobytes() if len(flat) else b"").hexdigest()[:16]
    wide = flat.double()
    some = wide if len(wide) <= KEPT else wide[(torch.arange(KEPT,
        dtype=torch.float64) * .6180339887498949 % 1 * len(wide)).long()]
    stats = (float(wide.mean()), float(wide.std(correction=0)),
             float(wide.abs().max())) if len(wide) else (0., 0., 0.)
    return Leaf(None, tuple(t.shape), str(t.dtype).removeprefix("torch."), digest, stats, some.float())


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Leaf]]:
    """The values in nested dictionaries, lists and tuples, by their path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}/{key}")
    elif isinstance(value, (list, tuple)) and not all(isinstance(v, (bool, int, float)) for v in value):
        if all(isinstance(v, str) for v in value):
            yield name, Leaf(text="\n".join(value))
        elif all(isinstance(v, Tensor) and (v.shape, v.dtype) == (value[0].shape, value[0].dtype)
                 for v in value):
            yield name, leaf_of(torch.stack(list(value)))
        else:
            for key, inner in enumerate(value):
                yield from leaves(inner, f"{name}/{key}")
    else:
        yield name, leaf_of(value)


def computed(name: str) -> dict[str, Leaf]:
    """An entry, computed now: on one thread, with deterministic kernels, and without a trace in the
    global generator.
    """
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(int(os.environ.get("GOLDEN_THREADS", "1")))
    torch.use_deterministic_algorithms(True)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return {f"{name}{path}": leaf for path, leaf in leaves(ENTRIES[name].run())}
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


def machine() -> str:
    """What bits depend on."""
    about = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"model name\s*: (.*)", about)
    model_name = found[1] if found else platform.processor()
    return f"{model_name}, {torch.backends.cpu.get_cpu_capability()}, PyTorch {torch.__version__}"


def write(record: dict[str, Leaf], path: Path = FILE, on: str = "") -> None:
    """A record as one safetensors file."""
    index, at_, parts = {}, 0, []
    for name, leaf in sorted(record.items()):
        if leaf.text is not None:
            index[name] = leaf.text
        else:
            index[name] = [*leaf._replace(text=None, some=len(leaf.some))[1:4], at_, len(leaf.some)]
            parts.append(leaf.some)
            at_ += len(leaf.some)
    stats = torch.tensor([leaf.stats for _, leaf in sorted(record.items()) if leaf.text is None],
                         dtype=torch.float64)
    save_file({"some": torch.cat(parts), "stats": stats}, path,
              metadata={"machine": on or machine(), "index": json.dumps(index, ensure_ascii=False,
                  separators=(",", ":"))})
    path.chmod(0o644)


def read(path: Path = FILE) -> tuple[dict[str, Leaf], str]:
    """A record, and the machine that it was made on."""
    with safe_open(path, "pt") as file:
        about, some, stats = file.metadata(), file.get_tensor("some"), file.get_tensor("stats")
    record, row = {}, 0
    for name, kept in json.loads(about["index"]).items():
        if isinstance(kept, str):
            record[name] = Leaf(text=kept)
        else:
            shape, dtype, digest, at_, n = kept
            record[name] = Leaf(None, tuple(shape), dtype, digest, tuple(stats[row].tolist()),
                                some[at_:at_ + n])
            row += 1
    return record, about["machine"]


def release(about: str) -> str:
    """The release of PyTorch in what `machine` says: "2.14"."""
    return ".".join(about.rpartition("PyTorch ")[2].split(".")[:2])


def draws_as_recorded() -> bool:
    """Whether `torch.multinomial` draws from a seed what it drew where the record was made."""
    return torch.multinomial(torch.ones(1000), 4, generator=Generator().manual_seed(0)).tolist() == DRAWN


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def apart(old: Leaf, new: Leaf) -> float:
    """How far two values of one name are from each other, in units of the largest magnitude; ∞ where they
    cannot be compared.
    """
    if old.text is not None or new.text is not None:
        return texts_apart(old.text, new.text)
    if (old.shape, old.dtype) != (new.shape, new.dtype):
        return float("inf")
    if old.digest == new.digest:
        return 0.
    a, b = (torch.cat([leaf.some.double(), torch.tensor(leaf.stats[:2],
                                                        dtype=torch.float64)]) for leaf in (old, new))
    same = (a == b) | (a.isnan() & b.isnan())
    gap = torch.where(same, 0., (a - b).abs()).max().item()
    least = 1. if old.dtype == "uint8" else 0.                             # a grey level may fall either way
    return max(gap - least, 0.) / max(old.stats[2], 1e-30) if gap == gap else float("inf")


def texts_apart(old: str | None, new: str | None) -> float:
    """0 for the same text; for one whose numbers alone differ, by a unit of the last digit or one in a
    hundred, 1e-9; ∞ otherwise.
    """
    if old == new:
        return 0.
    if old is None or new is None or NUMBER.sub("#", old) != NUMBER.sub("#", new):
        return float("inf")
    for a, b in zip(NUMBER.findall(old), NUMBER.findall(new)):
        unit = 10. ** -len(a.partition(".")[2]) if "e" not in a else 0.
        if abs(float(a) - float(b)) > max(1.01 * unit * ("." in a), .01 * abs(float(a))):
            return float("inf")
    return 1e-9


def moved(name: str, old: dict[str, Leaf], new: dict[str, Leaf], exact: bool, on: str) -> list[str]:
    """What of an entry is not as it was, a line each; on: the machine that recorded."""
    entry_, here = ENTRIES[name], release(on) == release(machine())
    old = {key: leaf for key, leaf in old.items() if key == name or key.startswith(f"{name}/")}
    lines = [f"{key}: is gone" for key in sorted(old.keys() - new.keys())]
    added = [key for key in sorted(new.keys() - old.keys()) if not key.startswith("command/options/")]
    lines += [f"{key}: is new" for key in added]                           # a new option moves nothing
    for key in sorted(old.keys() & new.keys()):
        tolerance = max(entry_.tolerance if here else entry_.elsewhere, LOOSER.get(key.split("/")[-1], 0.))
        gap, tolerance = apart(old[key], new[key]), 0. if exact else tolerance
        differs = (old[key].text, old[key].digest) != (new[key].text, new[key].digest)
        if (differs if exact else gap > tolerance):
            what = f"{old[key].dtype} {old[key].shape} -> {new[key].dtype} {new[key].shape}"
            if new[key].text is not None:
                what = f"{old[key].text!r} -> {new[key].text!r}"
            elif gap < float("inf"):
                what = f"differs by {gap:.1e} of {old[key].stats[2]:.4g} (allowed: {tolerance:.0e})"
            lines.append(f"{key}: {what}")
    return lines


VARIANTS = {
    "AVX2": dict(ATEN_CPU_CAPABILITY="avx2", DNNL_MAX_CPU_ISA="AVX2", MKL_ENABLE_INSTRUCTIONS="AVX2"),
    "SSE": dict(ATEN_CPU_CAPABILITY="default", DNNL_MAX_CPU_ISA="SSE41", MKL_ENABLE_INSTRUCTIONS="SSE4_2"),
    "two threads": dict(GOLDEN_THREADS="2", OMP_NUM_THREADS="2", OMP_WAIT_POLICY="PASSIVE"),
}


def measure(chosen: Sequence[str]) -> None:
    """Print how far each entry goes where only rounding differs, in processes of their own."""
    worst: dict[str, dict[str, float]] = {name: {} for name in chosen}
    old, _ = read()
    with tempfile.TemporaryDirectory() as here:
        for variant, settings in VARIANTS.items():
            file = Path(here) / "variant.safetensors"
            subprocess.run([sys.executable, __file__, "--record", "--to", str(file), *chosen],
                           env={**os.environ, **settings}, check=True)
            new, _ = read(file)
            for name in chosen:
                gaps = {key: apart(old[key], leaf) for key, leaf in new.items() if key.startswith(f"{name}/")}
                key = max(gaps, key=gaps.get)
                worst[name][variant] = gaps[key]
                print(f"{variant:12} {name:40} {gaps[key]:8.1e}  {key}", flush=True)
    for name, gaps in worst.items():
        most = max(gaps.values())
        note = "  <-- beyond its tolerance" if most > ENTRIES[name].tolerance else ""
        print(f"{name:40} {most:8.1e} of {ENTRIES[name].tolerance:.0e}{note}")


def script() -> int:
    """The command line of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="entries whose names begin so (default: all)")
    parser.add_argument("--exact", action="store_true", help="want the same bits")
    parser.add_argument("--loose", action="store_true",
                        help="compare with tolerances, on the machine that recorded too")
    parser.add_argument("--record", action="store_true", help="write the record anew")
    parser.add_argument("--measure", action="store_true", help="how far rounding alone goes")
    parser.add_argument("--to", type=Path, default=FILE, help=argparse.SUPPRESS)
    a = parser.parse_args()
    chosen = [name for name in ENTRIES if not a.names or name.startswith(tuple(a.names))]
    if a.measure:
        measure(chosen)
        return 0
    old, on = read(a.to) if a.to.exists() else ({}, "")
    exact = a.exact or (on == machine() and not a.loose)
    failed = skipped = 0
    for name in chosen:
        if ENTRIES[name].draws and not (a.record or exact or draws_as_recorded()):
            skipped += 1
            print(f"   -    {name}: not compared, this PyTorch draws other numbers from a seed", flush=True)
            continue
        began, new, broken = time.process_time(), {}, []
        try:
            new = computed(name)
        except Exception as error:
            if a.record:
                raise
            broken = [f"{name}: {type(error).__name__}: {error}"]
        seconds = time.process_time() - began
        if a.record:
            old = {key: leaf for key, leaf in old.items() if not key.startswith(f"{name}/")} | new
            print(f"{seconds:5.1f} s  {name}: {len(new)}", flush=True)
        else:
            lines = broken or moved(name, old, new, exact, on)
            failed += bool(lines)
            print(f"{seconds:5.1f} s  {name}{'' if lines else ': as it was'}", *lines[:12],
                  *[f"… {len(lines) - 12} more"] * (len(lines) > 12),
                  sep="\n         ", flush=True)
    if a.record:
        write({key: leaf for key, leaf in old.items() if any(key.startswith(f"{name}/") for name in ENTRIES)},
              a.to)
        return 0
    how = "to the bit" if exact else "within tolerance"
    print(f"{len(chosen) - skipped - failed} of {len(chosen) - skipped} entries are as they were ({how}; recorded on {on})")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(script())
