"""DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation (Ruiz et al.,
arXiv:2208.12242v2).

A few pictures of one subject, and a word that means nothing: the whole net is tuned until the word means
the subject. So that "a star" does not come to mean *this* star, the frozen model's own pictures of the
class are learned beside it: the prior term.

    1  [V] ← a rare word;  c ← "a [V] [class noun]",  c_pr ← "a [class noun]"                Sec. 3.2
    2  x_pr ← pictures of the frozen model under c_pr, ancestral sampler                     Sec. 3.3
    3  for each step:
    4    t, ε for pictures x;  t′, ε′ of their own for prior pictures x_pr
    5    θ ← AdamW on  w_t ‖x̂_θ(α_t x + σ_t ε, c) − x‖²                                      Eq. (9)
                       + λ w_t′ ‖x̂_θ(α_t′ x_pr + σ_t′ ε′, c_pr) − x_pr‖²

    paper        code                              paper        code
    [V]          identifier                        λ = 1        prior.weight
    w_t          weight(schedule, t, like)         α_t, σ_t     schedule.signal_noise(t, like)

‖x̂ − x‖² = ‖ε̂ − ε‖²/SNR(t): with w_t = SNR(t), `snr_weight`, Eq. (9) is the plain error of ε for which
an ε-net was trained, with w_t = 1 + SNR(t), `v_weight`, that of v, with w_t = (1 + √SNR(t))²,
`velocity_weight`, that of ε − x. w_t = 1, `flat_weight`, asks most where there is most noise, and is another
objective. LoRA (methods/lora.py) tunes few numbers instead of all; Textual Inversion
(methods/textual_inversion.py) the word alone; an upsampler (methods/super_resolution.py) sees a small picture
beside: the same loop, `tune`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from einops import reduce
from torch import Generator, Tensor, nn

from palimpsest.arguments import ArgumentError, Hint, Interval, Picture, Rounds, Texts, check, one_each
from palimpsest.fit.loop import fit
from palimpsest.fit.settings import Files, Settings
from palimpsest.methods.identifiers import check_identifier, mentions
from palimpsest.methods.learner import (
    Course,
    Weight,
    check_class_noun,
    check_prior_can_be_kept,
    frozen_copy,
    given_pictures,
    with_trained,
)
from palimpsest.methods.prior import Prior, prior_latents
from palimpsest.nets.lora import adapt, adapted
from palimpsest.samplers.convert import q_sample, x0_from_output
from palimpsest.samplers.noise import generator_of
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.cache import digest, digest_model
from palimpsest.weights.model import Model
from palimpsest.worlds.scene import with_article

TextEncoder = Callable[[Tensor], Tensor]  # tokens (b l) -> context (b l d)
Error = Callable[[Model, Tensor, Tensor, Tensor, Tensor, Weight], Tensor]  # as `weighted_error`


class Learned(NamedTuple):
    """What `dreambooth` gives. Curves are lists of one number a step."""

    model: Model  # a new model; the one that was given is as it was
    identifier: str  # [V]
    prompt: str  # "a [V] [class noun]"
    class_prompt: str  # "a [class noun]"
    losses: list[float]  # Eq. (9)
    instance: list[float]  # its first term
    prior: list[float]  # its second, before λ; 0 without a prior
    seconds: float  # of training
    prior_latents: Tensor | None = None  # x_pr (n c y x); model.decode shows them


# ---- Eq. (9) ----


def snr_weight(schedule: Schedule, t: Tensor, like: Tensor) -> Tensor:
    """w_t = SNR(t) = α²/σ²: Eq. (9) becomes the error of ε."""
    signal, noise = schedule.signal_noise(t, like)
    return (signal / noise) ** 2


def v_weight(schedule: Schedule, t: Tensor, like: Tensor) -> Tensor:
    """w_t = 1 + SNR(t) = 1/σ²: Eq. (9) becomes the error of v."""
    return 1 / schedule.signal_noise(t, like)[1] ** 2


def velocity_weight(schedule: Schedule, t: Tensor, like: Tensor) -> Tensor:
    """w_t = (1 + √SNR(t))²: Eq. (9) becomes the error of the velocity ε − x."""
    signal, noise = schedule.signal_noise(t, like)
    return (1 + signal / noise) ** 2


def flat_weight(schedule: Schedule, t: Tensor, like: Tensor) -> Tensor:
    """w_t = 1: the error of x itself."""
    return torch.ones_like(snr_weight(schedule, t, like))


WEIGHTS: dict[str, Weight] = {  # what each kind of net was trained with
    "eps": snr_weight,
    "v": v_weight,
    "velocity": velocity_weight,
}


def x_hat(model: Model, z_t: Tensor, t: Tensor, ctx: Tensor, low_res: Tensor | None = None) -> Tensor:
    """x̂_θ(z_t, c), whatever the net predicts; gradients flow.

    t: one whole time for each picture (b,). low_res: what an upsampler enlarges.
    """
    seen = z_t if low_res is None else model.net.inputs(z_t, low_res=low_res)
    out = model.net(seen.to(model.dtype), (t - model.shift).clamp(min=0).to(z_t.device), ctx).to(z_t)
    out = out.chunk(2, dim=1)[0] if model.learned_variance else out
    return x0_from_output(model.schedule, z_t, t, out, model.prediction)


def weighted_error(
    model: Model,
    ctx: Tensor,
    x: Tensor,
    t: Tensor,
    eps: Tensor,
    weight: Weight,
    low_res: Tensor | None = None,
) -> Tensor:
    """w_t ‖x̂_θ(α_t x + σ_t ε, c) − x‖² of each picture, a mean over its pixels: (b,). A term of Eq. (9)."""
    z_t = q_sample(model.schedule, x, t, eps)  # α_t x + σ_t ε
    error = weight(model.schedule, t, x) * (x_hat(model, z_t, t, ctx, low_res) - x) ** 2
    return reduce(error, "b c y x -> b", "mean")


class Batch(NamedTuple):
    """What a term of Eq. (9) looks at: pictures with their texts, each with a time and a noise of its own."""

    x: Tensor  # (b c y x)
    tokens: Tensor  # (b l)
    t: Tensor  # (b,)
    eps: Tensor  # as x

    def pieces(self, n: int) -> list[Batch]:
        """The batch in n equal pieces."""
        return [Batch(*columns) for columns in zip(*(column.chunk(n) for column in self))]


class Examples(NamedTuple):
    """What a term of Eq. (9) draws from: all pictures of the subject, or of the class, and their texts."""

    latents: Tensor  # (n c y x)
    tokens: Tensor  # (m k l): k texts for each picture; where m < n, they serve the pictures in turn

    def draw(self, n: int, T: int, generator: Generator) -> Batch:
        """n of them with a text, a time 1 … T and a noise each."""
        rows = torch.randint(len(self.latents), (n,), generator=generator)
        texts = torch.randint(self.tokens.shape[1], (n,), generator=generator)
        t = torch.randint(1, T + 1, (n,), generator=generator)
        eps = torch.randn((n, *self.latents.shape[1:]), generator=generator)
        tokens = self.tokens[rows % len(self.tokens), texts]
        return Batch(self.latents[rows], tokens.to(self.latents.device), t, eps.to(self.latents))


def dreambooth_loss(
    model: Model,
    text_encoder: TextEncoder,
    subject: Batch,
    prior: Batch | None,
    prior_weight: float,
    weight: Weight,
    error: Error = weighted_error,
) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. (9), and its two terms, the second before λ. One pass of the net for both."""
    parts = [subject] if prior is None else [subject, prior]
    x, tokens, t, eps = (torch.cat(column) for column in zip(*parts))
    errors = error(model, text_encoder(tokens), x, t, eps, weight)
    instance_term, prior_errors = errors[: len(subject.x)].mean(), errors[len(subject.x) :]
    prior_term = prior_errors.mean() if prior is not None else torch.zeros_like(instance_term)
    return instance_term + prior_weight * prior_term, instance_term, prior_term  # Eq. (9)


# ---- the loop, which LoRA, Textual Inversion and the upsampler share ----


class Curves(NamedTuple):
    """How a run went, as in `Learned`."""

    losses: list[float]
    instance: list[float]
    prior: list[float]
    seconds: float


def tune(
    model: Model,
    modules: nn.ModuleDict,
    text_encoder: TextEncoder,
    subject: Examples,
    prior: Examples | None,
    course: Course,
    *,
    prior_weight: float = 0.0,
    error: Error = weighted_error,
    identity: dict[str, Any] | None = None,
    state: str | Path | None = None,
    progress: bool = False,
) -> tuple[nn.ModuleDict, Curves]:
    """Lines 3–5: train `modules` on Eq. (9), and give them back with the curves of the run.

    modules: "net" and "text" of the model, and what else is trained; what wants no gradient stays as it is.
    text_encoder: reads the texts with them. subject, prior: what the two terms draw from; without a prior
    the first is all. error: of one term, as `weighted_error`. state: a folder for the checkpoint; identity:
    what else the checkpoint belongs to.
    """
    weight, pieces = course.weight or WEIGHTS[model.prediction], course.accumulate
    curve = Curve(course.steps).to(model.device)

    def batch(step: int, generator: Generator) -> Any:
        """Line 4: the step's pictures of both terms, in so many pieces as are asked for."""
        n, T = course.own_batch, model.schedule.T
        subjects = subject.draw(n, T, generator).pieces(pieces)  # t, ε
        priors = [None] * pieces if prior is None else prior.draw(n, T, generator).pieces(pieces)  # t′, ε′
        drawn = [(step, k, *both) for k, both in enumerate(zip(subjects, priors))]
        return drawn if pieces > 1 else drawn[0]

    def loss(_: nn.Module, drawn: tuple[int, int, Batch, Batch | None], generator: Generator) -> Tensor:
        """Line 5: Eq. (9) of one piece."""
        step, k, subjects, priors = drawn
        total, *terms = dreambooth_loss(model, text_encoder, subjects, priors, prior_weight, weight, error)
        curve.add(step, torch.stack(terms).detach().float() / pieces, first=k == 0)
        return total

    def after_step(step: int) -> None:
        if course.each_step is not None:
            course.each_step(step, *curve.terms[step].tolist(), model)

    # ours: fit's cosine decay of lr; the paper's is constant. unstated: its optimiser's other settings
    settings = Settings(
        course.steps,
        course.lr,
        warmup=0,
        ema=course.ema,
        betas=(0.9, 0.999),
        accumulate=pieces,
        seed=course.seed,
    )
    belongs_to = identity_of(model, modules, subject, prior) | dict(
        batch=course.batch, prior_weight=prior_weight, weight=weight.__name__, **(identity or {})
    )
    checkpoint = None if state is None else Path(state) / "checkpoint.pt"
    fitted = fit(
        loss,
        nn.ModuleDict({**modules, "curve": curve}),
        batch,
        settings,
        Files(checkpoint, identity=belongs_to),
        after_step=after_step,
        progress=progress,
    )
    return fitted.ema, Curves(fitted.losses, *curve.terms.T.tolist(), fitted.seconds)


class Curve(nn.Module):
    """The terms of Eq. (9), step by step.

    They are a buffer of what is trained, so that a resumed run has those of the steps before.
    """

    def __init__(self, steps: int):
        super().__init__()
        self.register_buffer("terms", torch.zeros(steps, 2))

    def add(self, step: int, terms: Tensor, first: bool) -> None:
        """Add a piece's share; the first begins the step anew."""
        self.terms[step] = terms + (0.0 if first else self.terms[step])


def identity_of(
    model: Model, modules: nn.ModuleDict, subject: Examples, prior: Examples | None
) -> dict[str, str]:
    """What a checkpoint belongs to: the model, its low-rank changes, the start of other modules, examples."""
    ranks = {f"rank {change.rank} alpha {change.alpha:g}" for change in adapted(modules).values()}
    starts = {
        f"start of the {name}": digest(*module.state_dict().values())
        for name, module in modules.items()
        if module not in (model.net, model.text)
    }
    return dict(
        model=digest_model(model),
        lora=", ".join(sorted(ranks)) or "none",
        latents=digest(subject.latents),
        prior="" if prior is None else digest(prior.latents),
        texts=digest(subject.tokens, *([] if prior is None else [prior.tokens])),
        **starts,
    )


# ---- the method ----

Strength = Annotated[float, Interval(0), Hint("0 means the rank")]


def dreambooth(
    model: Model,
    pictures: Picture | Sequence[Picture],
    class_noun: str,
    *,
    identifier: str = "auto",
    prompts: Texts | None = None,
    course: Course = Course(),
    prior: Prior = Prior(),
    rank: Rounds = 0,
    alpha: Strength = 0.0,
    tune_text: bool = False,
    state: str | Path | None = None,
    progress: bool = False,
) -> Learned:
    """A new model in which `identifier` means the subject of the pictures; the paper takes 3 to 5 of them.

    pictures: a tensor (n, 3, y, x) in [−1, 1], or a sequence of tensors, paths and PIL images.
    class_noun: what the subject is, in the model's words; "" for none, which leaves no prior to keep.
    identifier: [V]; "auto" finds a rare word.
    prompts: a text for each picture with the identifier in it, "a zwx star on a white background", so that
      what they name is not learnt as the subject's; None says "a [V] [class noun]" of all.
    course: steps, learning rate, batch, w_t …; prior: λ and the pictures of the class.
    rank: above 0, LoRA of this rank on the attention instead of the whole net; alpha: its α.
    tune_text: tune the text encoder, too.
    state: a folder; a run that was stopped goes on from there. progress: show a bar.

    Raises ValueError for what cannot be learned, with the mend; warns (Caution) of a single picture and of
    an identifier with a meaning of its own.
    """
    check(dreambooth, locals())
    x = given_pictures(model, pictures)
    identifier = check_identifier(model, identifier, course.seed)
    check_class_noun(model, class_noun)
    if prior.weight > 0:
        check_prior_can_be_kept(model, x, class_noun)
    prompt, class_prompt = with_article(identifier, class_noun), with_article(class_noun)  # l. 1, Sec. 3.2
    texts = prompts_of_pictures(prompts, len(x), identifier) or [prompt]
    class_texts = class_prompt if prior.prompts is None else prior.prompts
    class_texts = [class_texts] if isinstance(class_texts, str) else list(class_texts)
    tokens, class_tokens = (model.tokenizer(some)[:, None] for some in (texts, class_texts))  # (n 1 l)
    new = trainable_copy(
        model,
        rank=rank,
        alpha=alpha,
        tune_text=tune_text,
        checkpointing=course.checkpointing,
        seed=course.seed,
    )

    x_pr = None
    if prior.weight > 0:
        file = None if state is None else Path(state) / "prior.safetensors"
        x_pr = prior_latents(model, class_texts, prior, seed=course.seed, state=file)  # l. 2, Sec. 3.3
    modules, curves = tune(  # l. 3–5, Eq. (9)
        new,
        nn.ModuleDict({"net": new.net, "text": new.text}),
        new.text,
        Examples(model.encode(x), tokens),
        None if x_pr is None else Examples(x_pr, class_tokens),
        course,
        prior_weight=prior.weight,
        state=state,
        progress=progress,
    )
    return Learned(with_trained(new, modules), identifier, prompt, class_prompt, *curves, x_pr)


def prompts_of_pictures(prompts: Texts | None, n: int, identifier: str) -> list[str]:
    """The texts of n pictures, one for all or one each; [] for None.

    Raises ArgumentError for another number of them, or one without the identifier.
    """
    if prompts is None:
        return []
    prompts = one_each("prompts", prompts, n)
    if not all(mentions(text, identifier) for text in prompts):
        raise ArgumentError("prompts", f"each must have the identifier {identifier!r} in it")
    return prompts


def trainable_copy(
    model: Model,
    *,
    rank: int = 0,
    alpha: float = 0.0,
    tune_text: bool = False,
    checkpointing: bool = False,
    seed: int = 0,
) -> Model:
    """A copy of the model in which what is to be learned asks for gradients.

    That is all of the net, or low-rank changes of it (rank > 0), and the same of the text encoder
    (tune_text). Raises ArgumentError for a rank or an alpha that cannot be, and for checkpointing of a net
    that cannot make its activations again.
    """
    if alpha and not rank:
        raise ArgumentError(
            "alpha",
            f"{alpha:g} is the strength of a low-rank change, and rank is 0; give a rank, or leave alpha out",
        )
    new = frozen_copy(model, checkpointing)
    if rank:
        for k, part in enumerate([new.net, new.text] if tune_text else [new.net]):
            adapt(part, rank, alpha or rank, generator_of(seed + k))
    else:
        new.net.requires_grad_(True)
        new.text.requires_grad_(tune_text)
    return new
