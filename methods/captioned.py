"""A text-to-picture model trained on one's own captioned pictures, by the objective of DDPM
(arXiv:2006.11239v2) with classifier-free guidance (arXiv:2207.12598v1).

    1  z_0 ← encode(pictures), once
    2  words that the model lacks get tokens: new rows of the text encoder's table
    3  for each step:
    4    captions ← the pictures' own, one in ten of them empty             so that guidance has its ε_∅
    5    t ~ t^tilt on 1 … T;  ε ~ N(0, I)
    6    θ ← AdamW on ‖ε − ε_θ(√ᾱ z_0 + √(1−ᾱ) ε, t, text)‖², or that of v            Eq. (5)

All of the net and of the text encoder is trained. A model that was asked by plain captions so far reads
captions as they are written from then on, unless every one is plain already. `methods/dreambooth.py` learns
a single subject beside what the model knows. The recipes of the shipped models (training/shapes.py) have
the same loss.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import torch
from torch import Generator, Tensor, nn

from palimpsest.arguments import (
    ArgumentError,
    Count,
    Fraction,
    Interval,
    Picture,
    Positive,
    Rounds,
    Seed,
    Texts,
    check,
    one_each,
)
from palimpsest.fit.loop import fit
from palimpsest.fit.settings import Decay, Files, Settings
from palimpsest.methods.inputs import given_picture
from palimpsest.methods.learner import check_can_be_tuned
from palimpsest.nets.tokenizer import WordTokenizer, split_words
from palimpsest.samplers.ddpm import l_simple
from palimpsest.samplers.noise import gaussian, generator_of
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.cache import digest, digest_model
from palimpsest.weights.model import Model
from palimpsest.weights.words import word_tokenizer

Tilt = Annotated[float, Interval(-1, open_low=True)]


# ---- the loss, which the recipes share ----


def times(n: int, T: int, generator: Generator, tilt: float = 1.0) -> Tensor:
    """n whole times 1 … T with density ∝ t^tilt, tilt > −1."""
    return (T * torch.rand(n, generator=generator) ** (1 / (1 + tilt))).long().clamp(max=T - 1) + 1


def loss(
    modules: nn.ModuleDict,
    data: tuple[Tensor, Tensor],
    generator: Generator,
    schedule: Schedule,
    tilt: float = 1.0,
    prediction: str = "v",
    shift: int = 0,
) -> Tensor:
    """L_simple of latents (b c y x) and their texts' tokens (b l): a scalar.

    modules: "net" and "text". shift: as in `Model`.
    """
    z_0, tokens = data
    t = times(len(z_0), schedule.T, generator, tilt)  # Alg. 1 l. 3
    eps = gaussian(z_0, generator)  # Alg. 1 l. 4
    ctx = modules["text"](tokens)

    def net(z_t: Tensor, t: Tensor) -> Tensor:
        return modules["net"](z_t, (t - shift).clamp(min=0), ctx)

    return l_simple(net, schedule, z_0, t, eps, prediction)  # Eq. (5), or its v-form; Alg. 1 l. 5


# ---- words that are new to a model ----


def new_words(model: Model, captions: Sequence[str]) -> list[str]:
    """The words of the captions that a model of whole words lacks, in the order of the alphabet.

    [] for a model that cuts words into pieces, as those of CLIP's vocabulary do.
    """
    tokenizer = model.tokenizer
    if not isinstance(tokenizer, WordTokenizer):
        return []
    said = {
        word
        for text in captions
        for part in tokenizer.between_taught(text)
        for word in split_words(tokenizer.clean(part))
    }
    return sorted(said - set(tokenizer.words))


def with_words(model: Model, words: Sequence[str], seed: int = 0) -> Model:
    """A model that knows these words too: its text encoder has a row more for each, drawn with the mean and
    the spread of the others, which no training has touched. The rows of taught words come after them."""
    if not words:
        return model
    text, tokenizer = copy.deepcopy(model.text), model.tokenizer
    old, at = text.tokens.weight.detach(), 3 + len(tokenizer.words)
    drawn = torch.randn((len(words), old.shape[1]), generator=generator_of(seed)).to(old)
    rows = torch.cat([old[:at], old.mean(0) + old.std(0) * drawn, old[at:]])
    text.tokens = nn.Embedding.from_pretrained(rows)
    text.eval().requires_grad_(False)
    more = word_tokenizer([*tokenizer.words, *words], tokenizer.length, free=tokenizer.whole is None)
    taught = {
        word: [token + len(words) * (token >= at) for token in tokens]
        for word, tokens in tokenizer.taught.items()
    }
    return replace(model, text=text, tokenizer=more.with_taught(taught))


def as_written(model: Model, captions: Sequence[str]) -> Model:
    """The model that reads every caption as it is written, unless all of them are plain captions, by which it
    was asked so far: "a star and a ring" is no longer read as "a star left of a ring"."""
    tokenizer = model.tokenizer
    if not isinstance(tokenizer, WordTokenizer) or tokenizer.whole is None:
        return model
    free = word_tokenizer(tokenizer.words, tokenizer.length).with_taught(tokenizer.taught)
    plain = all(
        (put := tokenizer.plain(text)) is not None and free.encode(put) == free.encode(text)
        for text in filter(str.strip, captions)
    )
    return model if plain else replace(model, tokenizer=free)


def read(model: Model, captions: Sequence[str]) -> Tensor:
    """Their tokens (n l). Raises ArgumentError for a caption of too many."""
    try:
        return model.tokenizer(list(captions))
    except ValueError as error:
        raise ArgumentError("captions", str(error)) from None


# ---- the method ----


@dataclass(frozen=True)
class Training:
    """How captioned pictures are learned. ArgumentError for an unusable value."""

    steps: Count = 2000
    lr: Positive = 3e-4  # of AdamW, at its highest
    batch: Count = 16  # pictures of a step
    warmup: Rounds = 50  # steps in which the learning rate rises
    ema: Decay = 0.995  # decay of the average of the weights, which is what comes back
    empty: Fraction = 0.1  # share of captions that are empty
    tilt: Tilt = 0.5  # times are drawn with density ∝ t^tilt: 1 for a young model, 0 for outlines
    seed: Seed = 0  # of pictures, times and noise

    def __post_init__(self) -> None:
        check(Training, vars(self))


class Trained(NamedTuple):
    """What `train` gives."""

    model: Model  # a new model; the one that was given is as it was
    losses: list[float]  # one for each step
    seconds: float
    words: list[str]  # that the model did not know


def train(
    model: Model,
    pictures: Sequence[Picture],
    captions: Texts,
    *,
    training: Training = Training(),
    files: Files = Files(),
    until: float = float("inf"),
    each_save: Callable[[Model, list[float]], object] | None = None,
    progress: bool = False,
) -> Trained:
    """A new model that has gone on learning from the pictures (1, 3, y, x) in [−1, 1], paths or PIL images,
    with one caption for all, or one each.

    files: where the state is kept, from which a stopped run goes on. until: a time as time.time() tells it,
    at which it ends (see `fit`). each_save: called with the model so far, and the losses, after each
    checkpoint but the last. progress: show a bar. Raises ArgumentError for no pictures, another number of
    captions, a caption that is too long, and a model that cannot be tuned.
    """
    check(train, locals())
    check_can_be_tuned(model)
    if model.learned_variance or model.text is None:
        lacks = "learns variances, too" if model.learned_variance else "was trained without text"
        raise ArgumentError("model", f"{model.name} {lacks}; choose a text-to-picture model")
    if not pictures:
        raise ArgumentError("pictures", "are none; give one or more")
    captions = one_each("captions", captions, len(pictures))
    words = new_words(model, captions)
    new = as_written(with_words(model, words, training.seed), captions)
    tokens, none = read(new, captions), read(new, [""])
    groups = grouped(new, pictures)  # l. 1

    def draw(step: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Latents and tokens of a step; the pictures of one are of one size."""
        sizes = torch.tensor([float(len(group.rows)) for group in groups])
        group = groups[int(torch.multinomial(sizes, 1, generator=generator))]
        i = torch.randint(len(group.rows), (training.batch,), generator=generator)
        emptied = torch.rand(training.batch, 1, generator=generator) < training.empty  # l. 4
        return group.latents[i], torch.where(emptied, none, tokens[group.rows[i]])

    net, text = (copy.deepcopy(m).train().requires_grad_(True) for m in (new.net, new.text))

    def so_far(ema: nn.ModuleDict) -> Model:
        net, text = (copy.deepcopy(ema[name]).eval().requires_grad_(False) for name in ("net", "text"))
        return replace(new, net=net, text=text)

    identity = dict(
        model=digest_model(model),
        pictures=digest(*(group.latents for group in groups)),
        captions=digest(tokens),
        training=str(training),
    )
    settings = Settings(
        training.steps, training.lr, warmup=training.warmup, ema=training.ema, seed=training.seed
    )
    told = None if each_save is None else lambda fitted: each_save(so_far(fitted.ema), fitted.losses)
    fitted = fit(
        lambda m, data, g: loss(m, data, g, model.schedule, training.tilt, model.prediction, model.shift),
        nn.ModuleDict({"net": net, "text": text}),
        draw,
        settings,
        replace(files, identity=identity, after_save=told),
        until=until,
        progress=progress,
    )
    return Trained(so_far(fitted.ema), fitted.losses, fitted.seconds, words)


class Group(NamedTuple):
    """Pictures of one size."""

    latents: Tensor  # (n c y x), on the CPU
    rows: Tensor  # (n,): which of all pictures they are


def grouped(model: Model, pictures: Sequence[Picture]) -> list[Group]:
    """The latents of pictures as the model sees them, those of one size together."""
    found: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
    for i, picture in enumerate(pictures):
        z = model.encode(given_picture(model, picture, "pictures")).cpu()
        found.setdefault(tuple(z.shape), []).append((i, z))
    return [
        Group(torch.cat([z for _, z in group]), torch.tensor([i for i, _ in group]))
        for group in found.values()
    ]
