"""Guidance maps denoisers to denoisers. A denoiser is a function (x_t, t) → ε̂; guided, it is still one.

Four things can guide. The network itself, asked with and without its text: `cfg`, Eq. (7). A worse network
of the same kind: `autoguided`, Eq. (35). A classifier that looks at x_t: Eq. (6). A CLIP that looks at x_t:
Eq. (8). The last two give a gradient, which moves the mean of an ancestral step by Σ g (`ddpm_step`), or the
noise of any walk, deterministic ones too, by −√(1−ᾱ) g (`guided`).

    g = classifier_guidance(log_p, s)  # or clip_guidance(clip.encode_image, clip.encode_text(tokens), s)
    x_s = ddpm_step(sched, x_t, eps(x_t, t), t, s, noise, variance, gradient=lambda mu: g(mu, s))
    path = sample(guided(eps, sched, g), sched, x_T, times)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from palimpsest.arguments import ArgumentError
from palimpsest.samplers.schedule import Schedule

Denoiser = Callable[[Tensor, float], Tensor]  # (x_t, t) -> eps
TextDenoiser = Callable[[Tensor, float, Tensor], Tensor]  # (x_t, t, ctx) -> eps
Gradient = Callable[[Tensor, float], Tensor]  # (x_t, t) -> ∇ of what is to grow, shaped as x_t


def combine(eps_null: Tensor, eps_cond: Tensor, w: float) -> Tensor:
    """ε̂ = ε_∅ + w (ε_c − ε_∅). # Eq. (7), which is Eq. (18): w ε_c + (1 − w) ε_∅

    w = 0 ignores the text, w = 1 is the plain conditional model, w > 1 exaggerates it. (Ho and Salimans,
    arXiv:2207.12598v1, count from zero: their w is ours minus 1.)
    """
    return eps_null + w * (eps_cond - eps_null)


def cfg(eps_fn: TextDenoiser, cond: Tensor, null: Tensor, w: float, stack: bool = True) -> Denoiser:
    """Classifier-free guidance: the denoiser (x_t, t) → ε̂ of Eq. (7).

    eps_fn(x_t, t, ctx): the network's ε. cond, null: (b l d) contexts of the prompt and of the empty
    prompt; b = 1 serves every picture. stack=True asks both in one batch, null first; False in two calls,
    which halves the memory. The result is the same. w = 1 asks only cond and w = 0 only null: the other
    branch would be multiplied by zero. Raises ArgumentError where cond and null differ in (l d), or their b
    is neither 1 nor the number of pictures."""
    _check_finite("w", w)
    if cond.shape[1:] != null.shape[1:]:
        raise ArgumentError(
            "cond",
            f"is {tuple(cond.shape)} and null {tuple(null.shape)}: they must agree in (l d); pad both alike",
        )

    def denoise(x_t: Tensor, t: float) -> Tensor:
        b = len(x_t)
        if w == 1:
            return eps_fn(x_t, t, _for_each("cond", cond, b))
        if w == 0:
            return eps_fn(x_t, t, _for_each("null", null, b))
        ctx_null, ctx_cond = _for_each("null", null, b), _for_each("cond", cond, b)
        if stack:
            eps_null, eps_cond = eps_fn(torch.cat([x_t, x_t]), t, torch.cat([ctx_null, ctx_cond])).chunk(2)
        else:
            eps_null, eps_cond = eps_fn(x_t, t, ctx_null), eps_fn(x_t, t, ctx_cond)
        return combine(eps_null, eps_cond, w)  # Eq. (7)

    return denoise


def autoguided(eps: Denoiser, worse: Denoiser, w: float) -> Denoiser:
    """Autoguidance: away from a worse model of the same thing. # Eq. (35); arXiv:2406.02507v1, Sec. 4

    ε̂ = ε_worse + w (ε − ε_worse). eps, worse: denoisers of one schedule and of latents of one kind, asked
    for the same text: two models of which one is smaller, or was trained for less time. Both miss the data
    in the same way, the worse one by more, and what the two differ in is extrapolated. w = 1 is eps alone,
    and then `worse` is not asked; below 1 the mistakes grow. eps may itself be guided by its text (`cfg`).
    Raises ArgumentError for a w that is not a finite number."""
    _check_finite("w", w)

    def denoise(x_t: Tensor, t: float) -> Tensor:
        if w == 1:
            return eps(x_t, t)
        return combine(worse(x_t, t), eps(x_t, t), w)  # Eq. (35)

    return denoise


def combine_two(
    eps_none: Tensor, eps_image: Tensor, eps_full: Tensor, s_image: float, s_text: float
) -> Tensor:
    """ẽ = e(∅, ∅) + s_I (e(c_I, ∅) − e(∅, ∅)) + s_T (e(c_I, c_T) − e(c_I, ∅)). # Eq. (16)

    Both 1: the plain conditional model; both s: Eq. (7) with w = s, and the middle answer cancels.
    """
    return eps_none + s_image * (eps_image - eps_none) + s_text * (eps_full - eps_image)


def cfg_two(
    eps_fn: TextDenoiser,
    cond: Tensor,
    null: Tensor,
    picture: Tensor,
    s_text: float,
    s_image: float,
    stack: bool = True,
) -> Denoiser:
    """Guidance by a text and a picture, each with its own scale. # Eq. (16); arXiv:2211.09800v2, Sec. 3.2.1

    eps_fn([x_t | c_I], t, ctx): a network that sees a picture in the channels after x_t; picture c_I (b c
    y x), whose absence is zeros; cond, null: (b l d), or b = 1. Answers that a scale multiplies by zero
    are not asked for: three in general, two where s_text = s_image, s_image = 1 or s_text = 0, one at (1,
    1), (0, 0) and s_text = 0, s_image = 1. stack: all in one batch, the unconditional first. official
    code: diffusers guides only if s_text > 1 and s_image ≥ 1, and otherwise answers e(c_I, c_T) without a
    word. Raises ArgumentError as `cfg`."""
    _check_finite("s_text", s_text)
    _check_finite("s_image", s_image)
    if cond.shape[1:] != null.shape[1:]:
        raise ArgumentError(
            "cond",
            f"is {tuple(cond.shape)} and null {tuple(null.shape)}: they must agree in (l d); pad both alike",
        )
    weights = {
        "none": 1 - s_image,
        "image": s_image - s_text,
        "full": s_text,
    }  # Eq. (16), by its three answers

    def denoise(x_t: Tensor, t: float) -> Tensor:
        b, absent = len(x_t), torch.zeros_like(picture)
        ctx_null, ctx = _for_each("null", null, b), _for_each("cond", cond, b)
        given = {"none": (absent, ctx_null), "image": (picture, ctx_null), "full": (picture, ctx)}
        asked = {name: given[name] for name, weight in weights.items() if weight != 0}
        if stack:
            seen = torch.cat([torch.cat([x_t, p], dim=1) for p, _ in asked.values()])
            answers = eps_fn(seen, t, torch.cat([c for _, c in asked.values()])).chunk(len(asked))
        else:
            answers = [eps_fn(torch.cat([x_t, p], dim=1), t, c) for p, c in asked.values()]
        told = dict(zip(asked, answers))
        if len(told) == 3:
            return combine_two(told["none"], told["image"], told["full"], s_image, s_text)  # Eq. (16)
        return sum(weights[name] * eps for name, eps in told.items())

    return denoise


def classifier_guidance(log_p: Callable[[Tensor, float], Tensor], s: float) -> Gradient:
    """g(x_t, t) = s ∇ log p_φ(y | x_t). # Eq. (6): μ + s Σ ∇ log p_φ(y | x_t)   (arXiv:2105.05233v4, Alg. 1)

    log_p(x_t, t): of the label wanted for each picture, (b,), from a classifier that has seen noisy
    pictures. s: the scale; 0 does nothing, 1 is Bayes' rule, more sharpens p to pˢ. Gradients are taken
    picture by picture: a batch changes nothing. The derivation has the gradient at the mean of the step,
    Alg. 1 writes it there; official code: at x_t. Both are the caller's to choose, see `ddpm_step`.
    Raises ArgumentError for an s that is not a finite number."""
    if not math.isfinite(s):
        raise ArgumentError("s", f"must be a finite number (0 guides nowhere), got {s}")

    def gradient(x: Tensor, t: float) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            return s * torch.autograd.grad(log_p(x, t).sum(), x)[0]

    return gradient


def clip_guidance(
    encode_image: Callable[[Tensor, float], Tensor], text: Tensor, s: float, scale: float = 100.0
) -> Gradient:
    """g(x_t, t) = s ∇ (scale · f(x_t) · g(c)). # Eq. (8)   (GLIDE, arXiv:2112.10741v3, Sec. 2.4)

    encode_image(x_t, t) -> (b d), of length 1, from a CLIP that knows noisy pictures
    (nets/judges/noised_clip.py) or, as an experiment, one that does not; text (b d) or (1 d), of length
    1: the captions. scale: 1/τ, by which CLIP multiplied cosines while it was trained, so that the
    bracket is its logit; GLIDE's s counts on 100. Raises ArgumentError as `classifier_guidance`."""
    return classifier_guidance(lambda x, t: scale * (encode_image(x, t) * text).sum(dim=1), s)  # Eq. (8)


def guided(eps: Denoiser, sched: Schedule, gradient: Gradient) -> Denoiser:
    """ε̂ = ε − √(1−ᾱ_t) g(x_t, t): the score of p(x_t) p(y | x_t)ˢ as a noise. # arXiv:2105.05233v4, Eq. (14)

    For walks without a Σ to scale a shift of the mean by, DDIM's above all. One ancestral step with this
    ε̂ moves the mean by β/√(1−β) g where Eq. (6) moves it by Σ g: not the same number, though both are
    the same in the limit of short steps."""

    def denoise(x_t: Tensor, t: float) -> Tensor:
        return eps(x_t, t) - (1 - sched.at(t)) ** 0.5 * gradient(x_t, t)

    return denoise


def _for_each(name: str, ctx: Tensor, b: int) -> Tensor:
    """(1 l d) or (b l d) → (b l d)."""
    if len(ctx) not in (1, b):
        raise ArgumentError(name, f"holds {len(ctx)} contexts for {b} pictures; give one, or one each")
    return ctx.expand(b, -1, -1)


def _check_finite(name: str, scale: float) -> None:
    if not math.isfinite(scale):
        raise ArgumentError(name, f"must be a finite number, got {scale}")
