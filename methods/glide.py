"""GLIDE: pictures from a text in two stages, and pictures with a part painted anew.

"GLIDE: Towards Photorealistic Image Generation and Editing with Text-Guided Diffusion Models",
arXiv:2112.10741v3. A base model paints small, an upsampler enlarges; both read the text, both were taught
a variance for every pixel (samplers/learned.py). The text is followed by guidance without a classifier,
Eq. (7), by a CLIP that knows noise, Eq. (8), or by a classifier that does, Eq. (6).

    1  x ~ N(0, I)                                                       Sec. 2.1
    2  for t → s down to 0:
    3    [ε, v] ← net([x | what it sees beside], t, text)                Sec. 4.1
    4    ε ← ε_∅ + w (ε_c − ε_∅), v as under the text                    Eq. (7), Sec. 2.3
    5    x̂_0 ← x̂_0 where to paint, the picture where to keep; clamp     official code
    6    x ← μ(x, ε) + Σ_v (noise + gradient), s > 0                     Eq. (6), Eq. (8), Sec. 2.2 and 2.4
    7  enlarge the result in the same way, without guidance              Sec. 4.1

Inpainting with a model that was fine-tuned for it (Sec. 4.3) also shows the net the picture where it is
kept. The two cheaper ways for a model that was not are here to be compared: to put the noised picture
back after each step (Sec. 4.3 names its seams), and line 5 alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.methods.inputs import check_mask
from palimpsest.samplers.convert import eps_from_x0, q_sample, x0_from_eps
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.ddpm import beta_tilde, ddpm_step
from palimpsest.samplers.guidance import Gradient, combine, guided
from palimpsest.samplers.learned import learned_variance
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.respacing import respaced
from palimpsest.weights.model import Autoencoder, Model
from palimpsest.worlds.files import eight_bits

WAYS = ("trained", "replace", "x0")  # how a part is kept
TEMPERATURE = 0.997  # of the upsampler's first noise   official code: 1 is sharper and grainier


class Painted(NamedTuple):
    """What GLIDE gives back. Pictures (b, 3, y, x) in [−1, 1]."""

    picture: Tensor  # enlarged, if there was an upsampler
    small: Tensor  # as the base model painted it
    path: list[Tensor]  # the base model's walk, from pure noise
    levels: list[int]  # the schedule's time t of each state of the path


def glide(
    model: Model,
    prompts: str | Sequence[str],
    *,
    upsampler: Model | None = None,
    n: int = 1,
    steps: str = "50",
    w: float = 3.0,
    gradient: Gradient | None = None,
    at: str = "x_t",
    eta: float = 1.0,
    seed: int = 0,
    up_steps: str = "fast27",
) -> Painted:
    """n pictures of each prompt, those of the first prompt first.

    steps, up_steps: a respacing (samplers/respacing.py), "27", "fast27", "10,10,3,2,2"; w: Eq. (7), 1 =
    none. gradient: of CLIP, Eq. (8), or of a classifier, Eq. (6), for these pictures in this order
    (samplers/guidance.py); at: where it is taken, "x_t" as in the official code or "mean" as in the
    derivation. eta: 1 ancestral with the learnt variances, 0 DDIM, to which a gradient is given as a
    noise. seed: picture i draws from seed + i, whatever the batch. Raises ValueError for models that are
    not GLIDE's, and for arguments that make no sense, with the mend."""
    texts = texts_of(prompts, n)
    known(model, upsampling=False)
    check_walks(model, steps, upsampler, up_steps)
    if at == "mean" and gradient is not None and eta == 0:
        raise ValueError("at: DDIM takes the gradient at x_t, as a noise; leave at, or take eta=1")
    rng = Rng.of(seed, len(texts))
    x_T = rng.randn((len(texts), *model.latent_shape)).to(model.device)  # l. 1
    levels = respaced(model.schedule.T, steps)
    path = walk(model, x_T, levels, texts, rng, w=w, gradient=gradient, at=at, eta=eta)
    small = path[-1].clamp(-1, 1)
    picture = (
        small if upsampler is None else upsample(upsampler, small, texts, steps=up_steps, seed=seed)
    )  # l. 7
    return Painted(picture, small, path, levels)


def upsample(
    model: Model,
    small: Tensor,
    prompts: str | Sequence[str],
    *,
    picture: Tensor | None = None,
    mask: Tensor | None = None,
    steps: str = "fast27",
    eta: float = 0.0,
    temperature: float = TEMPERATURE,
    seed: int = 0,
    paste: bool = True,
) -> Tensor:
    """Small pictures (b 3 y x) in [−1, 1] made as large as the upsampler paints, under their prompts: (b
    3 y' x').

    picture (b 3 y' x') and mask (b 1 y' x'), 1 = paint here: for a net that was fine-tuned for
    inpainting; it sees the large picture where it is kept, and there gives it back bit for bit, unless
    paste=False. Not guided: official code, too, reads the text here without Eq. (7). Raises ValueError as
    `glide`, and for a small picture of a side that is not a fraction of the large one's."""
    known(model, upsampling=True)
    texts = texts_of(prompts, len(small) if isinstance(prompts, str) else 1)
    side = model.size
    if (
        small.ndim != 4
        or small.shape[1] != 3
        or small.shape[-1] != small.shape[-2]
        or side % small.shape[-1]
        or small.shape[-1] >= side
    ):
        raise ValueError(
            f"small: must be (b 3 y y) with y a fraction of {side}, the side that {model.name} paints, not {tuple(small.shape)}"
        )
    if len(texts) != len(small):
        raise ValueError(f"prompts: {len(texts)} for {len(small)} pictures; give one, or one each")
    low_res = eight_bits(small)  # what it was taught to enlarge  # Sec. 4.1, official code
    rng = Rng.of(seed, len(small))
    x_T = temperature * rng.randn((len(small), 3, side, side)).to(model.device)
    path = walk(
        model,
        x_T,
        respaced(model.schedule.T, steps),
        texts,
        rng,
        low_res=low_res,
        picture=picture,
        mask=mask,
        eta=eta,
    )
    made = path[-1].clamp(-1, 1)
    return pasted(made, picture, mask) if paste else made


def inpaint(
    model: Model,
    picture: Tensor,
    mask: Tensor,
    prompts: str | Sequence[str],
    *,
    how: str = "trained",
    upsampler: Model | None = None,
    steps: str = "50",
    w: float = 3.0,
    eta: float = 1.0,
    seed: int = 0,
    up_steps: str = "fast27",
    paste: bool = True,
) -> Painted:
    """The picture (b 3 y x) in [−1, 1] with what the mask (1 or b, 1, y, x) marks by 1 painted anew under
    a prompt, one or one each.

    how: "trained", a net that was fine-tuned to see what is kept (Sec. 4.3); "replace", any base model,
    whose kept part is put back with fresh noise after each step; "x0", any, whose x̂_0 is made the
    picture where it is kept. A picture larger than the base model paints wants an upsampler of that size;
    the base then sees it made small, and a cell of the small mask is painted if any pixel of it is.
    paste: put the kept pixels back at the end, bit for bit. Raises ValueError as `glide`, for a mask that
    marks nothing or everything, and sizes that do not go together."""
    check_way(model, how)
    check_walks(model, steps, upsampler, up_steps)
    texts = texts_of(prompts, len(picture) if isinstance(prompts, str) else 1)
    if len(texts) != len(picture):
        raise ValueError(f"prompts: {len(texts)} for {len(picture)} pictures; give one, or one each")
    side, large = model.size, model.size if upsampler is None else upsampler.size
    if tuple(picture.shape[-2:]) != (large, large):
        raise ValueError(
            f"picture: must be {large}x{large}, as {(upsampler or model).name} paints, not {tuple(picture.shape[-2:])}"
            + ("; give an upsampler" if upsampler is None else "")
        )
    mask = check_mask(mask, picture, "ask glide for a picture that is all new")
    mask = mask.expand(len(picture), -1, -1, -1).to(model.device)
    picture = picture.to(model.device)
    small = picture if large == side else F.avg_pool2d(picture, large // side)
    small_mask = mask if large == side else F.max_pool2d(mask, large // side)

    rng = Rng.of(seed, len(texts))
    x_T = rng.randn((len(texts), *model.latent_shape)).to(model.device)
    levels = respaced(model.schedule.T, steps)
    path = walk(model, x_T, levels, texts, rng, w=w, eta=eta, picture=small, mask=small_mask, how=how)
    painted = pasted(path[-1].clamp(-1, 1), small, small_mask)
    result = painted
    if upsampler is not None:
        kept = dict(picture=picture, mask=mask) if upsampler.net.inpainting else {}
        result = upsample(upsampler, painted, texts, steps=up_steps, seed=seed, paste=paste, **kept)
    elif not paste:
        result = path[-1].clamp(-1, 1)
    return Painted(pasted(result, picture, mask) if paste else result, painted, path, levels)


@torch.no_grad()
def walk(
    model: Model,
    x_T: Tensor,
    levels: Sequence[int],
    texts: Sequence[str],
    rng: Rng,
    *,
    w: float = 1.0,
    gradient: Gradient | None = None,
    at: str = "x_t",
    eta: float = 1.0,
    low_res: Tensor | None = None,
    picture: Tensor | None = None,
    mask: Tensor | None = None,
    how: str = "trained",
) -> list[Tensor]:
    """Lines 2 to 6 from x_T (b c y x): the states at `levels`, which fall to 0; the others as in `glide`,
    `upsample` and `inpaint`.
    """
    if not (math.isfinite(w) and 0 <= eta <= 1):
        raise ValueError(
            f"w: must be a finite number and eta lie in [0, 1] (1 ancestral, 0 DDIM), got w={w}, eta={eta}"
        )
    if 0 < eta < 1 and model.learned_variance:
        raise ValueError(f"eta: must be 0 or 1 for a model with learnt variances, got {eta}")
    if at not in ("x_t", "mean"):
        raise ValueError(f"at: the gradient is taken at x_t or at the mean, got {at!r}")
    seen = dict(picture=picture, mask=mask) if model.net.inpainting and how == "trained" else {}
    seen |= dict(low_res=low_res) if model.net.upsampling else {}
    cond, null = model.embed(texts), model.embed("").expand(len(texts), -1, -1)
    sched, path, before = model.schedule, [x_T], None
    for t, s in pairwise(levels):  # l. 2
        x_t = path[-1]
        eps, v = both(model, model.net.inputs(x_t, **seen), t, cond, null, w)  # l. 3, l. 4
        x_0 = x0_from_eps(sched, x_t, t, eps)
        if mask is not None and how != "replace":
            x_0 = torch.where(mask > 0, x_0, picture)  # l. 5
        eps = eps_from_x0(sched, x_t, t, x_0.clamp(-1, 1))
        noise = rng.randn(x_t.shape, x_t) if s > 0 and (eta > 0 or how == "replace") else None
        if eta > 0:
            variance = beta_tilde if v is None else learned_variance(sched, v, t, s, before)
            path.append(
                ddpm_step(sched, x_t, eps, t, s, noise, variance, shift(gradient, at, x_t, t, s))
            )  # l. 6: Eq. (6), Eq. (8)
        else:
            if gradient is not None:
                eps = guided(lambda x, t, eps=eps: eps, sched, gradient)(x_t, t)
            path.append(ddim_step(sched, x_t, eps, t, s))
        if mask is not None and how == "replace":
            kept = q_sample(sched, picture, s, rng.randn(x_t.shape, x_t)) if s > 0 else picture
            path[-1] = torch.where(mask > 0, path[-1], kept)
        before = t
    return path


def both(
    model: Model, seen: Tensor, t: int, cond: Tensor, null: Tensor, w: float
) -> tuple[Tensor, Tensor | None]:
    """ε̂ of Eq. (7) on exactly the channels of the picture, and v as the net says it under the text. #
    Eq. (7)
    """
    if w == 1:
        return model.eps_and_v(seen, t, cond)
    eps, v = model.eps_and_v(torch.cat([seen, seen]), t, torch.cat([null, cond]))
    eps_null, eps_cond = eps.chunk(2)
    return combine(eps_null, eps_cond, w), None if v is None else v.chunk(2)[1]


def shift(
    gradient: Gradient | None, at: str, x_t: Tensor, t: int, s: int
) -> Callable[[Tensor], Tensor] | None:
    """What ddpm_step adds to the mean, times Σ: the gradient at x_t, or at the mean and the time it
    stands for. # Eq. (6)
    """
    if gradient is None:
        return None
    return (lambda mu: gradient(x_t, t)) if at == "x_t" else (lambda mu: gradient(mu, max(s, 1)))


def blurred(pictures: Tensor, autoencoder: Autoencoder) -> Tensor:
    """Pictures through an autoencoder and back: the handicap that GLIDE gave itself against DALL·E, whose
    pictures are. # Sec. 5.1
    """
    return autoencoder.decode(autoencoder.encode(pictures))


def rerank(scores: Tensor, n: int) -> Tensor:
    """Which of every n pictures of one prompt comes first, second, …: scores (p·n,), higher is better ->
    indices (p, n). # Sec. 5.1

    scores: CLIP's cosine of each picture with its prompt (weights/judges.py), pictures in the order of
    `glide`."""
    if n < 1 or scores.ndim != 1 or len(scores) % n:
        raise ValueError(
            f"n: {len(scores)} scores do not make groups of {n}; give n pictures for every prompt"
        )
    order = scores.view(-1, n).argsort(dim=1, descending=True, stable=True)
    return order + n * torch.arange(len(order), device=order.device)[:, None]


def pasted(result: Tensor, picture: Tensor | None, mask: Tensor | None) -> Tensor:
    """The result where it was painted, the picture bit for bit where it was kept."""
    return result if picture is None or mask is None else torch.where(mask > 0, result, picture.to(result))


def texts_of(prompts: str | Sequence[str], n: int) -> list[str]:
    """n times each prompt."""
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if n < 1 or not prompts:
        raise ValueError(f"n: must be at least 1, and prompts not empty; got {n} of {len(prompts)}")
    return [prompt for prompt in prompts for _ in range(n)]


def check_way(model: Model, how: str) -> None:
    """Raises ValueError unless b is a base model of GLIDE's that can inpaint this way."""
    known(model, upsampling=False)
    if how not in WAYS:
        raise ValueError(f"how: must be one of {', '.join(WAYS)}, got {how!r}")
    if how == "trained" and not model.net.inpainting:
        raise ValueError(
            f'how: the model {model.name} was not fine-tuned for inpainting; load one that was, or take how="replace" or "x0"'
        )


def check_walks(model: Model, steps: str, upsampler: Model | None, up_steps: str) -> None:
    """Raises ValueError, in the words of the argument, for an upsampler that is none and a respacing that
    makes no sense: before the walks, not between them."""
    for name, stage, ask in (
        ("upsampler", upsampler, lambda m: known(m, upsampling=True)),
        ("steps", model, lambda m: respaced(m.schedule.T, steps)),
        ("up_steps", upsampler, lambda m: respaced(m.schedule.T, up_steps)),
    ):
        try:
            if stage is not None:
                ask(stage)
        except ValueError as error:
            raise ValueError(f"{name}: {str(error).split(': ', 1)[-1]}") from None


def known(model: Model, *, upsampling: bool) -> None:
    """Raises ValueError unless b is a model of GLIDE's, and of this stage."""
    if not hasattr(model.net, "upsampling"):
        raise ValueError(
            f"model: {model.name} is not one of GLIDE's; load shapes-glide, or a published base.pt"
        )
    if model.net.upsampling != upsampling:
        stage = ("base model", "an upsampler") if upsampling else ("upsampler", "a base model")
        raise ValueError(f"model: {model.name} is GLIDE's {stage[0]}, and {stage[1]} is needed here")
