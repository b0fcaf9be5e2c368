"""DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation (Ruiz et al.,
arXiv:2208.12242v2).

A few pictures of one thing, and a word that means nothing: the whole net is tuned until the word means
the thing. So that "a star" does not come to mean *this* star, the frozen model's own pictures of the
class are learned beside it.

    1  [V] ← a rare word;  c ← "a [V] [class noun]",  c_pr ← "a [class noun]"                         Sec. 3.2
    2  x_pr ← pictures of the frozen model under c_pr, ancestral sampler                              Sec. 3.3
    3  for each step:
    4    t, ε for pictures x;  t′, ε′ of their own for prior pictures x_pr
    5    θ ← AdamW on  w_t ‖x̂_θ(α_t x + σ_t ε, c) − x‖² + λ w_t′ ‖x̂_θ(α_t′ x_pr + σ_t′ ε′, c_pr) − x_pr‖²      Eq. (9)

    paper        code                              paper        code
    [V]          identifier                        λ = 1        prior_weight
    w_t          weight(schedule, t, like)         α_t, σ_t     schedule.signal_noise(t, like)

‖x̂ − x‖² = ‖ε̂ − ε‖²/SNR(t): with w_t = SNR(t), `snr_weight`, Eq. (9) is the plain error of ε for which
an ε-net was trained, with w_t = 1 + SNR(t), `v_weight`, that of v. w_t = 1, `flat_weight`, asks most
where there is most noise, and is another objective. LoRA (methods/lora.py) tunes few numbers instead of
all; Textual Inversion (methods/textual_inversion.py) the word alone; an upsampler
(methods/super_resolution.py) sees a small picture beside: the same loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from einops import reduce
from torch import Generator, Tensor, nn

from palimpsest.fit.loop import fit
from palimpsest.fit.settings import Files, Settings
from palimpsest.methods.identifiers import check_identifier, says
from palimpsest.methods.learner import (
    check_class,
    check_course,
    check_pictures,
    check_square,
    finished,
    own_copy,
    share,
)
from palimpsest.methods.prior import prior_latents
from palimpsest.nets.lora import adapt, adapted
from palimpsest.samplers.convert import q_sample, x0_from_eps, x0_from_v
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.cache import digest, digest_model
from palimpsest.weights.model import Model
from palimpsest.worlds.scene import with_article

Weight = Callable[[Schedule, Tensor, Tensor], Tensor]  # (schedule, t (b,), like (b c y x)) -> w_t (b 1 1 1)
Error = Callable[[Model, Tensor, Tensor, Tensor, Tensor, Weight], Tensor]  # as `weighted_error`


class Learned(NamedTuple):
    """What `dreambooth` gives. Curves are lists of one number a step."""

    bundle: Model  # a new model; the one that was given is as it was
    identifier: str  # [V]
    prompt: str  # "a [V] [class noun]"
    class_prompt: str  # "a [class noun]"
    losses: list[float]  # Eq. (9)
    instance: list[float]  # its first term
    prior: list[float]  # its second, before λ; 0 without a prior
    prior_latents: Tensor | None  # x_pr (n c y x); bundle.decode shows them
    seconds: float  # of training


# --------------------------------------------------------------------------- Eq. (9)


def snr_weight(sched: Schedule, t: Tensor, like: Tensor) -> Tensor:
    """w_t = SNR(t) = α²/σ²: Eq. (9) becomes the error of ε."""
    signal, noise = sched.signal_noise(t, like)
    return (signal / noise) ** 2


def v_weight(sched: Schedule, t: Tensor, like: Tensor) -> Tensor:
    """w_t = 1 + SNR(t) = 1/σ²: Eq. (9) becomes the error of v."""
    return 1 / sched.signal_noise(t, like)[1] ** 2


def flat_weight(sched: Schedule, t: Tensor, like: Tensor) -> Tensor:
    """w_t = 1: the error of x itself."""
    return torch.ones_like(snr_weight(sched, t, like))


WEIGHTS: dict[str, Weight] = {"eps": snr_weight, "v": v_weight}  # what each kind of net was trained with


def x_hat(model: Model, z_t: Tensor, t: Tensor, ctx: Tensor, low_res: Tensor | None = None) -> Tensor:
    """x̂_θ(z_t, c), whatever the net predicts; gradients flow. t: one whole time for each picture;
    low_res: what an upsampler enlarges.
    """
    seen = z_t if low_res is None else model.net.inputs(z_t, low_res=low_res)
    out = model.net(seen.to(model.dtype), (t - model.shift).clamp(min=0).to(z_t.device), ctx).to(z_t)
    out = out.chunk(2, dim=1)[0] if model.learned_variance else out
    return (x0_from_v if model.prediction == "v" else x0_from_eps)(model.schedule, z_t, t, out)


def weighted_error(
    model: Model,
    ctx: Tensor,
    x: Tensor,
    t: Tensor,
    eps: Tensor,
    weight: Weight,
    low_res: Tensor | None = None,
) -> Tensor:
    """w_t ‖x̂_θ(α_t x + σ_t ε, c) − x‖² of each picture, as a mean over its pixels: (b,). One term of Eq.
    (9).
    """
    z_t = q_sample(model.schedule, x, t, eps)  # α_t x + σ_t ε
    return reduce(
        weight(model.schedule, t, x) * (x_hat(model, z_t, t, ctx, low_res) - x) ** 2, "b c y x -> b", "mean"
    )


class Noised(NamedTuple):
    """Pictures with their texts, and a time and a noise of their own each: what a term of Eq. (9) looks
    at.
    """

    x: Tensor
    tokens: Tensor
    t: Tensor
    eps: Tensor


def dreambooth_loss(
    model: Model,
    speak: Callable[[Tensor], Tensor],
    mine: Noised,
    theirs: Noised | None,
    prior_weight: float,
    weight: Weight,
    error: Error = weighted_error,
) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. (9), and its two terms, the second before λ. speak: tokens (b l) -> context (b l d). One pass
    of the net for both.
    """
    parts = [mine] if theirs is None else [mine, theirs]
    x, tokens, t, eps = (torch.cat(column) for column in zip(*parts))
    found = error(model, speak(tokens), x, t, eps, weight)
    instance, prior = found[: len(mine.x)].mean(), found[len(mine.x) :]
    prior = prior.mean() if theirs is not None else torch.zeros_like(instance)
    return instance + prior_weight * prior, instance, prior  # Eq. (9)


# --------------------------------------------------------------------------- the loop, which LoRA and Textual Inversion share


class Curve(nn.Module):
    """The terms of the loss, step by step. A buffer of the trained module, so that a resumed run has
    those before it.
    """

    def __init__(self, steps: int):
        super().__init__()
        self.register_buffer("terms", torch.zeros(steps, 2))


class Course(NamedTuple):
    """How to learn: the settings of the loop."""

    steps: int
    lr: float
    batch: int
    prior_weight: float = 0.0
    weight: Weight | None = None
    weight_decay: float = 0.0
    ema: float = 0.0
    accumulate: int = 1
    seed: int = 0
    state: str | Path | None = None
    progress: bool = False


def study(
    model: Model,
    modules: nn.ModuleDict,
    speak: Callable[[Tensor], Tensor],
    latents: Tensor,
    tokens: Tensor,
    prior: Tensor | None,
    prior_tokens: Tensor | None,
    course: Course,
    error: Error = weighted_error,
) -> tuple[nn.ModuleDict, list[float], Tensor, float]:
    """Train what of `modules` wants a gradient so that the net of `b`, which is among them, shows
    `latents` (n c y x) under `tokens`.

    tokens (n k l): k texts for each picture, one drawn at a time; fewer rows than pictures serve them in
    turn. error: of one term of Eq. (9). Returns the modules, the loss, its terms (steps 2), the seconds.
    """
    size, pieces = share(course.batch, course.accumulate), course.accumulate
    weight = course.weight or WEIGHTS[model.prediction]
    curve = Curve(course.steps).to(model.device)
    taught = nn.ModuleDict({**modules, "curve": curve})

    def drawn(pool: Tensor, texts: Tensor, g: Generator) -> Noised:
        rows, k = (
            torch.randint(len(pool), (size,), generator=g),
            torch.randint(texts.shape[1], (size,), generator=g),
        )
        t = torch.randint(1, model.schedule.T + 1, (size,), generator=g)
        eps = torch.randn((size, *pool.shape[1:]), generator=g)
        return Noised(pool[rows], texts[rows % len(texts), k].to(pool.device), t, eps.to(pool))

    def batch(step: int, g: Generator) -> object:
        mine = drawn(latents, tokens, g)  # t, ε
        theirs = None if prior is None else drawn(prior, prior_tokens, g)  # t′, ε′
        parts = [
            (
                step,
                n,
                *(
                    None if part is None else Noised(*(column.chunk(pieces)[n] for column in part))
                    for part in (mine, theirs)
                ),
            )
            for n in range(pieces)
        ]
        return parts if pieces > 1 else parts[0]

    def loss(_: nn.Module, data: tuple[int, int, Noised, Noised | None], g: Generator) -> Tensor:
        step, n, mine, theirs = data
        total, *terms = dreambooth_loss(model, speak, mine, theirs, course.prior_weight, weight, error)
        before = curve.terms[step] if n else 0.0
        curve.terms[step] = before + torch.stack(terms).detach().float() / pieces
        return total

    of = {} if error is weighted_error else dict(error=repr(error))
    own = {
        f"start of the {name}": digest(*module.state_dict().values())
        for name, module in modules.items()
        if module not in (model.net, model.text)
    }
    lora = (
        ", ".join(sorted({f"rank {map_.rank} alpha {map_.alpha:g}" for map_ in adapted(modules).values()}))
        or "none"
    )
    identity = dict(
        model=digest_model(model),
        lora=lora,
        latents=digest(latents),
        prior="" if prior is None else digest(prior),
        texts=digest(tokens, *([] if prior is None else [prior_tokens])),
        batch=course.batch,
        prior_weight=course.prior_weight,
        weight=weight.__name__,
        **own,
        **of,
    )
    # ours: fit's cosine decay of lr; the paper's is constant. unstated: its optimiser's other settings
    fitted = fit(
        loss,
        taught,
        batch,
        Settings(
            course.steps,
            course.lr,
            warmup=0,
            ema=course.ema,
            weight_decay=course.weight_decay,
            betas=(0.9, 0.999),
            accumulate=pieces,
            seed=course.seed,
        ),
        Files(None if course.state is None else Path(course.state) / "checkpoint.pt", identity=identity),
        progress=course.progress,
    )
    return fitted.ema, fitted.losses, curve.terms.cpu(), fitted.seconds


# --------------------------------------------------------------------------- the verb


def dreambooth(
    model: Model,
    pictures: Tensor | Sequence[Tensor],
    class_noun: str,
    *,
    identifier: str = "auto",
    prompts: Sequence[str] | None = None,
    prior_prompts: Sequence[str] | None = None,
    steps: int = 400,
    lr: float = 1e-4,
    batch: int = 4,
    prior_weight: float = 1.0,
    n_prior: int = 100,
    prior_steps: int = 25,
    prior_w: float = 3.0,
    weight: Weight | None = None,
    rank: int = 0,
    alpha: float = 0.0,
    tune_text: bool = False,
    ema: float = 0.0,
    accumulate: int = 1,
    checkpointing: bool = False,
    seed: int = 0,
    state: str | Path | None = None,
    progress: bool = False,
) -> Learned:
    """A new model in which `identifier` means the thing that `pictures` (n, 3, y, x) in [−1, 1] show; 3
    to 5 are what the paper takes.

    class_noun: what it is, in the model's words; "" for none, which leaves no prior to keep
    (prior_weight=0). identifier: "auto" finds a rare word. prompts: a text for each picture with the
    identifier in it, "a zwx star on a white background", so that what they name is not learnt as the
    subject's; None says "a [V] [class noun]" of all. prior_prompts: of the prior pictures, in turn; None
    is "a [class noun]". lr: the paper's 5e-6 is Stable Diffusion's; a small model needs more. batch:
    pictures of the subject in a step, and as many of the prior. prior_weight: λ. n_prior, prior_steps,
    prior_w: how many prior pictures, and the walk that makes them. weight: w_t; None is what the net was
    trained with. rank > 0: LoRA on the attention, alpha 0 meaning rank. tune_text: the text encoder too.
    ema: decay of a moving average, 0 = off. accumulate: pieces that a batch is taken in. checkpointing:
    less memory, more time. state: a folder; a run that was stopped goes on from there. Raises ValueError
    for what cannot be learned, with the mend; warns (Caution) of one picture and of a common identifier.
    """
    x = check_pictures(model, pictures)
    identifier = check_identifier(model, identifier, seed)
    check_class(model, class_noun, prior_weight)
    check_square(model, x, prior_weight)
    prompt, about = with_article(identifier, class_noun), with_article(class_noun)  # c, c_pr: Sec. 3.2, 3.3
    state = None if state is None else Path(state)
    texts = [prompt] if prompts is None else list(prompts)
    if prompts is not None and (len(texts) != len(x) or not all(says(text, identifier) for text in texts)):
        raise ValueError(
            f"prompts: {len(texts)} for {len(x)} pictures; give one each, with the identifier {identifier!r} in it"
        )
    of_class = [about] if prior_prompts is None else list(prior_prompts)
    if not of_class:
        raise ValueError("prior_prompts: are none; give one or more, or None for that of the class noun")
    check_course(steps=steps, lr=lr, batch=batch, ema=ema, accumulate=accumulate, seed=seed)
    new = learner(model, rank=rank, alpha=alpha, tune_text=tune_text, checkpointing=checkpointing, seed=seed)
    tokens, prior_tokens = (
        model.tokenizer(said)[:, None] for said in (texts, of_class)
    )  # (n k l) of one text each

    latents, prior = model.encode(x), None
    if prior_weight > 0:
        prior = prior_latents(
            model,
            of_class,
            n_prior,
            steps=prior_steps,
            w=prior_w,
            seed=seed,
            state=None if state is None else state / "prior.safetensors",
        )
    modules, losses, terms, seconds = study(
        new,
        nn.ModuleDict({"net": new.net, "text": new.text}),
        new.text,
        latents,
        tokens,
        prior,
        prior_tokens,
        Course(
            steps,
            lr,
            batch,
            prior_weight,
            weight,
            ema=ema,
            accumulate=accumulate,
            seed=seed,
            state=state,
            progress=progress,
        ),
    )
    return Learned(
        finished(new, modules),
        identifier,
        prompt,
        about,
        losses,
        terms[:, 0].tolist(),
        terms[:, 1].tolist(),
        prior,
        seconds,
    )


def learner(
    model: Model, *, rank: int, alpha: float, tune_text: bool, checkpointing: bool, seed: int = 0
) -> Model:
    """A copy of the model of which that may move which is to be learned: all of the net, or low-rank
    changes, and the text's likewise.

    Raises ValueError for a rank or an alpha that cannot be, and for checkpointing of a net that cannot.
    """
    if not 0 <= alpha < math.inf:
        raise ValueError(f"alpha: must be a finite number of at least 0, got {alpha}; 0 means the rank")
    if alpha and not rank:
        raise ValueError(
            f"alpha: {alpha:g} is the strength of a low-rank change, and rank is 0; give a rank, or leave alpha out"
        )
    new = own_copy(model, checkpointing)
    if rank:
        for k, part in enumerate([new.net, new.text] if tune_text else [new.net]):
            adapt(part, rank, alpha or rank, torch.Generator().manual_seed(seed + k))
    else:
        new.net.requires_grad_(True)
        new.text.requires_grad_(tune_text)
    return new
