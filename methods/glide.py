"""GLIDE: pictures from a text in two stages, and pictures with a part painted anew.

"GLIDE: Towards Photorealistic Image Generation and Editing with Text-Guided Diffusion Models",
arXiv:2112.10741v3. A base model paints small, an upsampler enlarges; both read the text, and both learned a
variance for every pixel (samplers/learned.py). What makes the picture follow the text is classifier-free
guidance, Eq. (7), or a CLIP that knows noisy pictures, Eq. (8), or a classifier that does, Eq. (6).

    1  x ~ N(0, I)                                                       Sec. 2.1
    2  for t → s down to 0:
    3    [ε, v] ← net([x | what the net sees beside it], t, text)        Sec. 4.1
    4    ε ← ε_∅ + w (ε_c − ε_∅); v as under the text                    Eq. (7), Sec. 2.3
    5    x̂_0 ← x̂_0 where to paint, the picture where to keep; clamp     official code
    6    x ← μ(x, ε) + Σ_v g + √Σ_v noise, without noise at s = 0        Eq. (6), Eq. (8), Sec. 2.2 and 2.4
    7  enlarge the result in the same way, without guidance              Sec. 4.1

    paper                                  code
    s ∇ log p_φ(y∣x_t), s ∇(f(x_t)·g(c))   gradient: (x_t, t) → g (samplers/guidance.py)
    s of Eq. (7)                           w
    Σ_θ, from v                            variance
    mask                                   1 − mask: here 1 = paint

To inpaint, a net that was fine-tuned for it (Sec. 4.3) also sees the picture where it is kept. Two cheaper
ways, for nets that were not fine-tuned, are here to be compared: put the noised picture back after each step
(Sec. 4.3 names the seams it leaves), and line 5 alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.arguments import (
    ArgumentError,
    Count,
    Fraction,
    Hint,
    Mask,
    Picture,
    Positive,
    Scale,
    Seed,
    Texts,
    check,
    one_each,
)
from palimpsest.methods.inputs import check_mask, given_mask, given_picture
from palimpsest.samplers.convert import eps_from_x0, q_sample, x0_from_eps
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.ddpm import beta_tilde, ddpm_step
from palimpsest.samplers.guidance import Gradient, combine
from palimpsest.samplers.learned import learned_variance
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.respacing import respaced
from palimpsest.weights.model import Autoencoder, Model
from palimpsest.worlds.files import eight_bits

Respacing = Annotated[str, Hint('a respacing (samplers/respacing.py) such as "50" or "10,10,3,2,2"')]
Eta = Annotated[Fraction, Hint("1 is ancestral, 0 is DDIM")]
Way = Literal["trained", "replace", "x0"]  # how inpainting keeps a part, see `inpaint`
TEMPERATURE = 0.997  # of the upsampler's first noise   official code: 1 is sharper and grainier


class Painted(NamedTuple):
    """What GLIDE gives back. Pictures (b, 3, y, x) in [−1, 1]."""

    picture: Tensor  # enlarged, if there was an upsampler
    small: Tensor  # as the base model painted it
    path: list[Tensor]  # the base model's walk, from pure noise
    levels: list[int]  # the schedule's time t of each state of the path


class Kept(NamedTuple):
    """What a walk must keep, at the size that its net paints."""

    picture: Tensor  # (b 3 y x) in [−1, 1]
    mask: Tensor  # (b 1 y x), 1 = paint here, 0 = keep
    how: Way


# ---- the walk ----


@torch.no_grad()
def walk(
    model: Model,
    x_T: Tensor,
    levels: Sequence[int],
    texts: Sequence[str],
    rng: Rng,
    *,
    w: Scale = 1.0,
    gradient: Gradient | None = None,
    gradient_at: Literal["x_t", "mean"] = "x_t",
    eta: Eta = 1.0,
    low_res: Tensor | None = None,
    kept: Kept | None = None,
) -> list[Tensor]:
    """Lines 2 to 6, from x_T (b c y x): the states at `levels`, which fall to 0.

    low_res: the small pictures that an upsampler enlarges; kept: what inpainting must keep; the others as in
    `glide`. Raises ArgumentError for an eta between 0 and 1, and as the net does for what it cannot see.
    """
    check(walk, locals())
    if eta not in (0, 1):
        raise ArgumentError("eta", f"must be 1 (ancestral, learned variances) or 0 (DDIM), got {eta}")
    beside = dict(low_res=low_res) if model.net.upsampling else {}
    if kept is not None and model.net.inpainting and kept.how == "trained":
        beside |= dict(picture=kept.picture, mask=kept.mask)  # Sec. 4.3
    cond, null = model.embed(texts), model.embed("").expand(len(texts), -1, -1)
    sched, path = model.schedule, [x_T]
    before = None  # the time before t: a bound of the last step's variance (samplers/learned.py)
    for t, s in pairwise(levels):  # l. 2
        x_t = path[-1]
        seen = model.net.inputs(x_t, **beside)
        eps, v = guided_prediction(model, seen, t, cond, null, w)  # l. 3, l. 4: Eq. (7)
        x_0 = x0_from_eps(sched, x_t, t, eps)
        if kept is not None and kept.how != "replace":
            x_0 = torch.where(kept.mask > 0, x_0, kept.picture)  # l. 5
        eps = eps_from_x0(sched, x_t, t, x_0.clamp(-1, 1))
        if eta == 1:
            noise = rng.randn(x_t.shape, x_t) if s > 0 else None
            variance = beta_tilde if v is None else learned_variance(sched, v, t, s, before)  # Σ_v
            g = None if gradient is None else gradient_in_step(gradient, gradient_at, x_t, t, s)
            x_s = ddpm_step(sched, x_t, eps, t, s, noise, variance, g)  # l. 6: Eq. (6), Eq. (8)
        else:
            if gradient is not None:
                eps = eps - (1 - sched.at(t)) ** 0.5 * gradient(x_t, t)  # arXiv:2105.05233v4, Eq. (14)
            x_s = ddim_step(sched, x_t, eps, t, s)  # Eq. (10)
        if kept is not None and kept.how == "replace":
            noised = q_sample(sched, kept.picture, s, rng.randn(x_t.shape, x_t)) if s > 0 else kept.picture
            x_s = torch.where(kept.mask > 0, x_s, noised)  # Sec. 4.3: without fine-tuning
        path.append(x_s)
        before = t
    return path


def guided_prediction(
    model: Model, seen: Tensor, t: int, cond: Tensor, null: Tensor, w: float
) -> tuple[Tensor, Tensor | None]:
    """ε̂ of Eq. (7) for the picture's own channels, and v as the net says it under the text.

    seen: x_t and what the net sees beside it (b channels y x); cond, null: of the texts, of "" (b l d).
    """
    if w == 1:
        return model.eps_and_v(seen, t, cond)
    eps, v = model.eps_and_v(torch.cat([seen, seen]), t, torch.cat([null, cond]))
    eps_null, eps_cond = eps.chunk(2)
    return combine(eps_null, eps_cond, w), None if v is None else v.chunk(2)[1]  # Eq. (7)


def gradient_in_step(
    gradient: Gradient, at: Literal["x_t", "mean"], x_t: Tensor, t: int, s: int
) -> Callable[[Tensor], Tensor]:
    """g of Eq. (6) and Eq. (8), as a function of the step's mean: taken there at time s, or at x_t and t."""
    if at == "mean":
        return lambda mean: gradient(mean, max(s, 1))
    return lambda mean: gradient(x_t, t)


# ---- the verbs ----


def glide(
    model: Model,
    prompts: Texts,
    *,
    upsampler: Model | None = None,
    n: Count = 1,
    steps: Respacing = "50",
    w: Scale = 3.0,
    gradient: Gradient | None = None,
    gradient_at: Literal["x_t", "mean"] = "x_t",
    eta: Eta = 1.0,
    seed: Seed = 0,
    up_steps: Respacing = "fast27",
) -> Painted:
    """n pictures of each prompt, those of the first prompt first.

    steps, up_steps: which times the walks of the base model and of the upsampler stop at, a respacing. w:
    guidance scale of Eq. (7), 1 = none. gradient: of CLIP, Eq. (8), or of a classifier, Eq. (6), for these
    pictures in this order (samplers/guidance.py). gradient_at: where it is taken, "x_t" as in the official
    code or "mean", the mean of the step, as in the derivation. eta: 1 ancestral with the learned variances, 0
    DDIM, where a gradient changes ε. seed: picture i draws from seed + i, whatever the batch. Raises
    ArgumentError for models that are not GLIDE's, and for what makes no sense.
    """
    check(glide, locals())
    check_stage(model, upsampling=False)
    levels = levels_of(model, steps)
    check_upsampler(upsampler, up_steps)
    texts = repeated(prompts, n)
    if gradient_at == "mean" and gradient is not None and eta == 0:
        raise ArgumentError("gradient_at", "DDIM takes the gradient at x_t; leave gradient_at, or take eta=1")
    rng = Rng.of(seed, len(texts))
    x_T = rng.randn((len(texts), *model.latent_shape)).to(model.device)  # l. 1
    path = walk(model, x_T, levels, texts, rng, w=w, gradient=gradient, gradient_at=gradient_at, eta=eta)
    small = picture = path[-1].clamp(-1, 1)
    if upsampler is not None:
        picture = upsample(upsampler, small, texts, steps=up_steps, seed=seed)  # l. 7
    return Painted(picture, small, path, levels)


def upsample(
    model: Model,
    small: Tensor,
    prompts: Texts,
    *,
    picture: Picture | None = None,
    mask: Mask | None = None,
    steps: Respacing = "fast27",
    eta: Eta = 0.0,
    temperature: Positive = TEMPERATURE,
    seed: Seed = 0,
    paste: bool = True,
) -> Tensor:
    """Small pictures (b 3 y y) in [−1, 1], enlarged under their prompts to the upsampler's size: (b 3 y' x').

    picture (b 3 y' x') and mask (b 1 y' x'), 1 = paint here: a net that was fine-tuned for inpainting sees
    the large picture where it is kept; the result is the picture there, bit for bit, unless paste=False.
    There is no guidance: official code, too, reads the text here without Eq. (7). Raises ArgumentError as
    `glide`, and for a small picture whose side is not a fraction of the large one's.
    """
    check(upsample, locals())
    check_stage(model, upsampling=True)
    levels, side = levels_of(model, steps), model.size
    if small.ndim != 4 or small.shape[1] != 3 or small.shape[-1] != small.shape[-2]:
        raise ArgumentError("small", f"must be (b, 3, y, y), got {tuple(small.shape)}")
    if small.shape[-1] >= side or side % small.shape[-1]:
        raise ArgumentError(
            "small", f"must have a side that divides {side}, which {model.name} paints, got {small.shape[-1]}"
        )
    if (picture is None) != (mask is None):
        raise ArgumentError("mask", "goes together with picture: give both, or neither")
    texts = one_each("prompts", prompts, len(small))
    kept = None
    if picture is not None:
        kept = Kept(given_picture(model, picture), given_mask(model, mask), "trained")
    rng = Rng.of(seed, len(small))
    x_T = temperature * rng.randn((len(small), 3, side, side)).to(model.device)  # l. 1
    low_res = eight_bits(small.to(model.device))  # Sec. 4.1; official code: it was taught to enlarge files
    made = walk(model, x_T, levels, texts, rng, low_res=low_res, kept=kept, eta=eta)[-1].clamp(-1, 1)
    return made if kept is None or not paste else pasted(made, kept.picture, kept.mask)


def inpaint(
    model: Model,
    picture: Picture,
    mask: Mask,
    prompts: Texts,
    *,
    how: Way = "trained",
    upsampler: Model | None = None,
    steps: Respacing = "50",
    w: Scale = 3.0,
    eta: Eta = 1.0,
    seed: Seed = 0,
    up_steps: Respacing = "fast27",
    paste: bool = True,
) -> Painted:
    """The picture (b 3 y x) in [−1, 1], where the mask (1 or b, 1, y, x) is 1 painted anew under its prompt.

    how: "trained", by a net that was fine-tuned to see what is kept (Sec. 4.3); "replace", by any base model,
    whose kept part is put back with fresh noise after each step; "x0", by any, whose x̂_0 is made the picture
    where it is kept. A picture larger than the base model paints wants an upsampler of that size; the base
    model then sees it made small, and a cell of the small mask is painted if any pixel of it is. paste: put
    the kept pixels back at the end, bit for bit. The others as in `glide`. Raises ArgumentError as `glide`,
    for a mask that marks nothing or everything, and for sizes that do not go together.
    """
    check(inpaint, locals())
    check_way(model, how)
    levels = levels_of(model, steps)
    check_upsampler(upsampler, up_steps)
    last, side = upsampler or model, model.size
    picture = given_picture(last, picture)
    texts = one_each("prompts", prompts, len(picture))
    if tuple(picture.shape[-2:]) != (last.size, last.size):
        raise ArgumentError(
            "picture",
            f"must be {last.size}x{last.size}, as {last.name} paints, got {tuple(picture.shape[-2:])}"
            + ("; give an upsampler" if upsampler is None else ""),
        )
    mask = check_mask(given_mask(last, mask), picture, "ask glide for a picture that is all new")
    mask = mask.expand(len(picture), -1, -1, -1)
    small, small_mask = picture, mask
    if last.size != side:
        small, small_mask = F.avg_pool2d(picture, last.size // side), F.max_pool2d(mask, last.size // side)

    rng = Rng.of(seed, len(texts))
    x_T = rng.randn((len(texts), *model.latent_shape)).to(model.device)  # l. 1
    path = walk(model, x_T, levels, texts, rng, w=w, eta=eta, kept=Kept(small, small_mask, how))
    raw = path[-1].clamp(-1, 1)
    painted = pasted(raw, small, small_mask)
    if upsampler is None:
        return Painted(painted if paste else raw, painted, path, levels)
    beside = dict(picture=picture, mask=mask) if upsampler.net.inpainting else {}
    large = upsample(upsampler, painted, texts, steps=up_steps, seed=seed, paste=paste, **beside)  # l. 7
    return Painted(pasted(large, picture, mask) if paste else large, painted, path, levels)


def pasted(result: Tensor, picture: Tensor, mask: Tensor) -> Tensor:
    """The result where the mask is 1, the picture bit for bit where it is 0."""
    return torch.where(mask > 0, result, picture.to(result))


def blurred(pictures: Tensor, autoencoder: Autoencoder) -> Tensor:
    """Pictures through an autoencoder and back, as DALL·E's are: GLIDE's handicap beside it. # Sec. 5.1"""
    return autoencoder.decode(autoencoder.encode(pictures))


def rerank(scores: Tensor, n: Count) -> Tensor:
    """Which of every n pictures of one prompt comes first, second, …: (p·n,), higher is better -> (p, n).

    scores: CLIP's cosine of each picture with its prompt (weights/judges.py), in the order of `glide`. The
    result indexes the pictures. Raises ArgumentError for scores that do not make groups of n. # Sec. 5.1
    """
    check(rerank, locals())
    if scores.ndim != 1 or len(scores) % n:
        raise ArgumentError(
            "n", f"{len(scores)} scores do not make groups of {n}; give n pictures for every prompt"
        )
    order = scores.view(-1, n).argsort(dim=1, descending=True, stable=True)
    return order + n * torch.arange(len(order), device=order.device)[:, None]


# ---- arguments ----


def repeated(prompts: Texts, n: int) -> list[str]:
    """n times each prompt, those of the first prompt first. Raises ArgumentError for no prompts."""
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts:
        raise ArgumentError("prompts", "must not be empty")
    return [prompt for prompt in prompts for _ in range(n)]


def levels_of(model: Model, steps: str, argument: str = "steps") -> list[int]:
    """The times that a respacing of the model's schedule stops at. Raises ArgumentError if it is none, or
    begins where there is hardly any noise, as "1" does, which is time 1 alone."""
    try:
        levels = respaced(model.schedule.T, steps)
    except ArgumentError as error:
        raise ArgumentError(argument, error.text) from None
    if levels[0] < model.schedule.T / 2:
        raise ArgumentError(
            argument,
            f"{steps!r} begins at time {levels[0]} of {model.schedule.T}, where there is hardly any noise",
        )
    return levels


def check_stage(model: Model, argument: str = "model", *, upsampling: bool) -> None:
    """Raises ArgumentError unless the model is one of GLIDE's, and of this stage."""
    if not hasattr(model.net, "upsampling"):
        raise ArgumentError(
            argument, f"{model.name} is not one of GLIDE's; load shapes-glide, or a published base.pt"
        )
    if model.net.upsampling != upsampling:
        found, needed = ("base model", "an upsampler") if upsampling else ("upsampler", "a base model")
        raise ArgumentError(argument, f"{model.name} is GLIDE's {found}, and {needed} is needed here")


def check_upsampler(upsampler: Model | None, up_steps: str) -> None:
    """Raises ArgumentError, before the first walk, for an upsampler that is none or cannot walk so."""
    if upsampler is not None:
        check_stage(upsampler, "upsampler", upsampling=True)
        levels_of(upsampler, up_steps, "up_steps")


def check_way(model: Model, how: Way) -> None:
    """Raises ArgumentError unless the model is a base model of GLIDE's that can inpaint in this way."""
    check_stage(model, upsampling=False)
    if how == "trained" and not model.net.inpainting:
        raise ArgumentError(
            "how",
            f"the model {model.name} was not fine-tuned for inpainting; "
            'load one that was, or take how="replace" or "x0"',
        )
