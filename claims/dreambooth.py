"""DreamBooth's claims (arXiv:2208.12242v2) about subjects: the prior term, the class noun, how many
pictures, and Textual Inversion.

Each subject (worlds/subjects.py) is learned from pictures on grounds of different colours, every way anew
from the frozen model, and asked for in four contexts that it was not shown in: on two other grounds,
beside another thing, in another colour. Four pictures of each are looked at by shapes-dino and
shapes-clip as the paper does (Sec. 4.1, 4.3). Beside these stands the truth: the true subject is laid
over the picture where, as large and as tilted as it fits best, and the error of the pixels it covers is
taken; and a reader reads the ground.

A subject costs eleven runs of 240 steps; the whole of C12–C15 is an hour and a half of one core for 8
subjects. DreamBooth's ways differ in one thing each. So the nouns are compared without the prior term, of
which there is none without a noun, and so are the numbers of pictures. Textual Inversion is as its
authors have it, around neutral templates and without a noun; it has as many steps, and of three learning
rates the one that does best by DINO."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.arguments import Caution
from palimpsest.claims.common import open_models, place
from palimpsest.claims.page import FAILS, HOLDS, PARTLY, Finding, Measurement, Record, span
from palimpsest.claims.parts import Part, at_once
from palimpsest.claims.ways import interval
from palimpsest.methods.dreambooth import Learned, dreambooth
from palimpsest.methods.learner import Course
from palimpsest.methods.prior import Prior
from palimpsest.methods.sampling import generate
from palimpsest.methods.textual_inversion import textual_inversion
from palimpsest.metrics.features import perceptual
from palimpsest.metrics.similarity import cosine, diversity, subject_similarity
from palimpsest.weights.files import sha256
from palimpsest.weights.judges import Judge, Likeness, Oracle, load_judge, load_likeness
from palimpsest.weights.load import find
from palimpsest.weights.model import Model
from palimpsest.worlds.scene import COLOURS, SHAPES, SIZES, with_article
from palimpsest.worlds.subjects import (
    Context,
    Subject,
    caption,
    render_subject,
    sample_context,
    sample_subject,
    subject_mask,
)

NAME = "zwx"  # [V]
STEPS, LR, BATCH = 240, 8e-4, 4
N_PRIOR, WALK, W = 24, 16, 3.0
SHOWN = 4  # pictures that a subject is learned from, where that is not the question
FEWER = (1, 2, 3, 5)  # and where it is
EACH, OF_CLASS = 4, 8  # pictures of each context, and of the class
RATES = (2e-4, 8e-4, 3.2e-3)
WORD_RATES = (5e-3, 2e-2, 8e-2)  # of Textual Inversion
POINTS = 24  # of a curve over the steps
SCALES, TILTS = (1.07, 1.12, 1.18, 1.23), 4  # poses that are tried: radii, and tilts to either side
EDGE = 3  # pixels of half the size by which a pose's box may stand out of the picture
WATCHED = 1e-9  # a λ by which the prior term is seen and not followed
METRICS = ("dino", "clip_i", "clip_t", "pres", "div", "error", "ground")


class DreamBoothModels(NamedTuple):
    """The model that learns, and those that judge."""

    model: Model
    oracle: Oracle
    clip: Judge
    dino: Likeness
    name: str
    files: dict[str, str]  # the sha256 of each file, for the record


def open_dreambooth(folder: str | Path | None = None, device: str = "cpu") -> DreamBoothModels:
    """The shipped models, or candidates of the same names in `folder`."""
    m = open_models(folder, device)
    clip, dino = (place(name, folder) for name in ("shapes-clip", "shapes-dino"))
    return DreamBoothModels(
        m.model,
        m.oracle,
        load_judge(clip, device),
        load_likeness(dino, device),
        m.name,
        m.files | {find(f).name: sha256(find(f)) for f in (clip, dino)},
    )


# ---- subjects, and what is asked of them ----


class Case(NamedTuple):
    """A subject, the contexts it is shown in, and those it is asked for in."""

    subject: Subject
    given: list[Context]
    asked: list[Context]

    @property
    def pictures(self) -> Tensor:
        """As many as the most that a way is shown."""
        return render_subject(self.subject, self.given)


def draw_cases(n: int, seed: int) -> list[Case]:
    """n subjects, the classes in turn: shown on five grounds, asked for on the three others, the last
    with a colour of its own.
    """
    rng, cases = random.Random(f"dreambooth {seed}"), []  # no training seeds with a text
    for k in range(n):
        subject = sample_subject(rng, SHAPES[(3 + k) % len(SHAPES)])
        grounds = rng.sample(list(COLOURS), len(COLOURS))
        given = [sample_context(rng, ground) for ground in grounds[: max(FEWER)]]
        a, b, c = grounds[max(FEWER) :]
        asked = [
            sample_context(rng, a),
            sample_context(rng, b),
            sample_context(rng, c, other=True, noun=subject.noun),
            sample_context(rng, a, colour=rng.choice([name for name in COLOURS if name != a])),
        ]
        cases.append(Case(subject, given, asked))
    return cases


def wrong_noun(noun: str) -> str:
    """Of another class, five further down the list."""
    return SHAPES[(SHAPES.index(noun) + 5) % len(SHAPES)]


# --------------------------------------------------------------------------- ways to learn one


class Way(NamedTuple):
    """What is said and whether the class is kept: noun "right", "none" or "wrong"; word: Textual
    Inversion.
    """

    noun: str = "right"
    prior: bool = False
    word: bool = False


WAYS = {
    "with prior": Way(prior=True),
    "without prior": Way(),
    "no noun": Way("none"),
    "wrong noun": Way("wrong"),
    "Textual Inversion": Way("none", word=True),
}
WORD = "Textual Inversion"


def said_noun(case: Case, way: Way) -> str | None:
    """The noun that stands beside the identifier."""
    return {"right": case.subject.noun, "none": None, "wrong": wrong_noun(case.subject.noun)}[way.noun]


def learn(
    model: Model,
    case: Case,
    way: Way,
    seed: int,
    *,
    shown: int = SHOWN,
    lr: float = LR,
    prior_weight: float = 1.0,
) -> Learned:
    """The model that has seen the first `shown` pictures. Their texts name the ground: what is named is
    not learnt as the subject's.
    """
    pictures, noun = case.pictures[:shown], said_noun(case, way)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Caution)  # of one picture: that is a question here
        if way.word:
            return textual_inversion(
                model,
                pictures,
                case.subject.noun,
                identifier=NAME,
                course=Course(steps=STEPS, lr=lr, batch=BATCH, seed=seed),
            )
        return dreambooth(
            model,
            pictures,
            noun or "",
            identifier=NAME,
            prompts=[caption(c, NAME, noun) for c in case.given[:shown]],
            tune_text=True,
            course=Course(steps=STEPS, lr=lr, batch=BATCH, seed=seed),
            prior=Prior(weight=prior_weight if way.prior else 0.0, n=N_PRIOR, steps=WALK),
        )


# --------------------------------------------------------------------------- what is looked at


@lru_cache(maxsize=8)
def poses(subject: Subject, context: Context, side: int) -> tuple[Tensor, Tensor]:
    """The subject in every size and tilt of a grid, cut out, and its masks: (k 3 y x), (k 1 y x). Two
    pixels of `side` make one.
    """
    half = 1 / side
    drawn = [
        replace(
            context, x=0.5 + dx, y=0.5 + dy, radius=SIZES["large"] * by, tilt=0.12 * k, shade=0.0, other=None
        )
        for by in SCALES
        for k in range(-TILTS, TILTS + 1)
        for dx in (0.0, half)
        for dy in (0.0, half)
    ]
    true, mask = (
        F.avg_pool2d(p, 2) for p in (render_subject(subject, drawn, side), subject_mask(subject, drawn, side))
    )
    ys, xs = (mask.amax(dim=(0, 1)).amax(dim=k).nonzero().flatten() for k in (1, 0))
    box = (..., slice(int(ys[0]), int(ys[-1]) + 1), slice(int(xs[0]), int(xs[-1]) + 1))
    return true[box], mask[box]


def pose_error(pictures: Tensor, subject: Subject, context: Context) -> Tensor:
    """How far pictures (n 3 y x) are from the true subject where it fits best: RMSE over the pixels it
    covers, [0, 1], (n,).

    The text says neither place nor tilt nor exact size, so all are tried: tilts and sizes of a grid,
    every place where at least .95 of it is in the picture; at half the size, so that what is left between
    two poses of the grid counts little. Of the context the colour and the ground count. Σ m (p − s)² = Σ
    m p² − 2 Σ m s p + Σ m s² for all places at once is a few convolutions."""
    true, mask = poses(subject, replace(context, shade=0.0, other=None), pictures.shape[-1])
    weight, seen = mask.expand_as(true), F.pad(F.avg_pool2d(pictures, 2), 4 * (EDGE,))
    inside = F.pad(torch.ones_like(pictures[:1, :, ::2, ::2]), 4 * (EDGE,))
    squares = (
        F.conv2d(seen**2, weight) - 2 * F.conv2d(seen, weight * true) + F.conv2d(inside, weight * true**2)
    )
    covered, most = F.conv2d(inside, weight), weight.sum(dim=(1, 2, 3))[:, None, None]
    error = (squares / covered.clamp(min=1e-6)).masked_fill(covered < 0.95 * most, torch.inf)
    return error.amin(dim=(1, 2, 3)).clamp(min=0).sqrt() / 2


def looks(models: DreamBoothModels, case: Case, made: Tensor, of_class: Tensor) -> dict[str, float]:
    """All figures of the pictures made of the asked contexts, EACH of the first first, and of those of
    the class.

    CLIP-T asks for what a text without the identifier can say, the right noun in it, whatever the way said.
    """
    real, asked = case.pictures, [c for c in case.asked for _ in range(EACH)]
    with torch.no_grad():
        clip_real, clip_made = (models.clip.images(p.to(models.model.device)).cpu() for p in (real, made))
        texts = models.clip.texts([caption(c, None, case.subject.noun) for c in asked]).cpu()
    dino_real = models.dino.images(real)

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return perceptual(models.oracle.maps(x), models.oracle.maps(y))

    return dict(
        dino=subject_similarity(models.dino.images(made), dino_real),
        clip_i=subject_similarity(clip_made, clip_real),
        clip_t=float(cosine(clip_made, texts).mean()),
        pres=subject_similarity(models.dino.images(of_class), dino_real),
        div=sum(diversity(four, distance) for four in made.split(EACH)) / len(case.asked),
        error=torch.cat([pose_error(four, case.subject, c) for four, c in zip(made.split(EACH), case.asked)])
        .mean()
        .item(),
        ground=models.oracle.right(made, [dict(background=c.background) for c in asked])
        .double()
        .mean()
        .item(),
    )


def shows(
    models: DreamBoothModels, model: Model, case: Case, identifier: str | None, noun: str | None, seed: int
) -> dict[str, float]:
    """What a model makes of the asked contexts and of its class, and how that looks."""
    prompts = [caption(c, identifier, noun) for c in case.asked]
    made, of_class = (
        generate(model, texts, n=n, steps=WALK, w=W, seed=seed + 100 * k).picture.cpu()
        for k, (texts, n) in enumerate(((prompts, EACH), ([with_article(case.subject.noun)], OF_CLASS)))
    )
    return looks(models, case, made, of_class)


def truth(models: DreamBoothModels, case: Case, seed: int) -> dict[str, float]:
    """The same figures of true renders: the row "real images". Each asked context is drawn anew for each
    picture.
    """
    rng = random.Random(f"truth {seed}")
    contexts = [
        sample_context(rng, c.background, colour=c.colour, other=c.other is not None, noun=case.subject.noun)
        for c in case.asked
        for _ in range(EACH)
    ]
    others = [sample_subject(rng, case.subject.noun) for _ in range(OF_CLASS)]
    return looks(
        models,
        case,
        render_subject(case.subject, contexts),
        torch.cat([render_subject(s, sample_context(rng)) for s in others]),
    )


def mean(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """The mean of each figure over subjects, and the subjects' own."""
    return {key: sum(row[key] for row in rows) / len(rows) for key in METRICS} | dict(each=list(rows))


def curve(values: Sequence[float]) -> list[float]:
    """A curve as the means of POINTS stretches of it."""
    size = math.ceil(len(values) / POINTS)
    return [sum(values[i : i + size]) / len(values[i : i + size]) for i in range(0, len(values), size)]


def measure(
    models: DreamBoothModels,
    *,
    n: int,
    seed: int,
    part: Part = at_once,
    rates: Sequence[float] = RATES,
    word_rates: Sequence[float] = WORD_RATES,
) -> Record:
    """n subjects by every way, and from fewer and more pictures; the first at three learning rates."""
    cases, model = draw_cases(n, seed), models.model

    def one(case: Case, way: Way, shown: int = SHOWN, lr: float = LR) -> dict[str, float]:
        learned = learn(model, case, way, seed, shown=shown, lr=lr)
        return shows(models, learned.model, case, NAME, said_noun(case, way), seed)

    def watched(lr: float) -> Record:
        followed, free = (
            learn(model, cases[0], WAYS["with prior"], seed, lr=lr, prior_weight=w) for w in (1.0, WATCHED)
        )
        return dict(
            lr=lr, instance=curve(followed.instance), prior=curve(followed.prior), drift=curve(free.prior)
        )

    def fewer(k: int) -> list[dict[str, float]]:
        way = WAYS["without prior"]
        return [
            part(f"subject {i}, {k} pictures", partial(one, case, way, k)) for i, case in enumerate(cases)
        ]

    ways: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS if name != WORD}
    words: dict[float, list[dict[str, float]]] = {lr: [] for lr in word_rates}
    for k, case in enumerate(cases):  # a subject is done before the next begins
        for name, rows in ways.items():
            rows.append(part(f"subject {k}, {name}", partial(one, case, WAYS[name])))
        for lr, rows in words.items():
            rows.append(part(f"subject {k}, {WORD}, lr {lr:g}", partial(one, case, WAYS[WORD], lr=lr)))
    found = {lr: mean(rows) for lr, rows in words.items()}
    best = max(found, key=lambda lr: found[lr]["dino"])
    counts = {k: fewer(k) for k in FEWER} | {SHOWN: ways["without prior"]}
    frozen = [
        part(f"subject {k}, frozen", partial(shows, models, model, case, None, case.subject.noun, seed))
        for k, case in enumerate(cases)
    ]
    real = [part(f"subject {k}, truth", partial(truth, models, case, seed)) for k, case in enumerate(cases)]
    return dict(
        steps=STEPS,
        lr=LR,
        walk=WALK,
        w=W,
        nouns=[case.subject.noun for case in cases],
        ways={name: mean(rows) for name, rows in ways.items()} | {WORD: found[best]},
        word_lr=best,
        word_rates=[dict(lr=lr) | {key: row[key] for key in METRICS} for lr, row in found.items()],
        frozen=mean(frozen),
        real=mean(real),
        counts=[dict(pictures=k, **mean(counts[k])) for k in sorted(counts)],
        rates=[part(f"lr {lr:g}", partial(watched, lr)) for lr in rates],
    )


DREAMBOOTH = Measurement(
    "dreambooth",
    measure,
    8,
    0,
    (
        "dreambooth_prior.png",
        "dreambooth_noun.png",
        "dreambooth_count.png",
        "dreambooth_word.png",
        "dreambooth_observatory.png",
    ),
    open_dreambooth,
    ("shapes-clip", "shapes-dino"),
)


# --------------------------------------------------------------------------- C12, C13, C14, C15


def difference(row: Record, key: str, less: Record | None = None) -> tuple[float, float, float]:
    """The mean of a figure over the subjects, of two ways the mean of the differences, and the ends of its
    95 % interval.
    """
    values = torch.tensor([one[key] for one in row["each"]])
    mean, low, high = interval(values - torch.tensor([one[key] for one in less["each"]]) if less else values)
    return mean, low, high


def over(row: Record, key: str, less: Record | None = None) -> str:
    """The same in words."""
    return span(difference(row, key, less), 3)


def judge_prior(record: Record) -> Finding:
    """PRES is how like the subject pictures of its class have become (less is better), DIV how varied
    pictures of one prompt are. Holds where with the prior term PRES is lower and DIV higher than without
    (their 95 % intervals on that side of 0) and DINO loses at most .05; partly where PRES is lower or DIV
    higher. Else does not hold."""
    with_, without, frozen = record["ways"]["with prior"], record["ways"]["without prior"], record["frozen"]
    kept, varied, cost = (
        with_["pres"] < without["pres"],
        with_["div"] > without["div"],
        without["dino"] - with_["dino"],
    )
    clear = difference(with_, "pres", without)[2] < 0 < difference(with_, "div", without)[1] and cost <= 0.05
    ours = "with less without: " + "; ".join(
        f"{words} {over(with_, key, without)} ({with_[key]:.3f} and "
        f"{without[key]:.3f}, frozen {frozen[key]:.3f}, "
        f"true {record['real'][key]:.3f})"
        for words, key in (
            ("PRES", "pres"),
            ("DIV", "div"),
            ("DINO", "dino"),
            ("error to the true subject", "error"),
        )
    )
    return Finding(HOLDS if clear else PARTLY if kept or varied else FAILS, ours)


def judge_noun(record: Record) -> Finding:
    """Holds where the right noun has a higher DINO and CLIP-I than none and than a wrong one, with all four
    95 % intervals above 0; partly where its DINO is the highest or its error to the true subject the
    lowest. Else does not hold. All without the prior term."""
    right, *others = (record["ways"][name] for name in ("without prior", "no noun", "wrong noun"))
    signs = {"dino": 1, "clip_i": 1, "error": -1}
    best = {
        key: all(sign * right[key] > sign * other[key] for other in others) for key, sign in signs.items()
    }
    none, wrong = others
    clear = all(difference(right, key, other)[1] > 0 for key in ("dino", "clip_i") for other in others)
    ours = "; ".join(
        f"{words}: right less none {over(right, key, none)}, right less wrong {over(right, key, wrong)} "
        f"(right {right[key]:.3f}, none {none[key]:.3f}, wrong {wrong[key]:.3f})"
        for words, key in (("DINO", "dino"), ("CLIP-I", "clip_i"), ("error to the true subject", "error"))
    )
    return Finding(HOLDS if clear else PARTLY if best["dino"] or best["error"] else FAILS, ours)


def judge_count(record: Record) -> Finding:
    """Over 1 to 5 pictures. Holds where three pictures have a higher DINO than one (95 % interval above 0)
    and 80 % of the gain from one picture to the best number; partly where the mean of 3 to 5 is above one
    picture's. Else does not hold."""
    rows = {row["pictures"]: row for row in record["counts"]}
    dino = {k: row["dino"] for k, row in rows.items()}
    gain = max(dino.values()) - dino[1]
    several = [value for k, value in dino.items() if k >= 3]
    enough = difference(rows[3], "dino", rows[1])[1] > 0 and dino[3] - dino[1] >= 0.8 * gain
    ours = (
        f"DINO of {', '.join(map(str, dino))} pictures: "
        + ", ".join(over(row, "dino") for row in rows.values())
        + f"; three less one {over(rows[3], 'dino', rows[1])}"
        + ("; error to the true subject " + ", ".join(over(row, "error") for row in rows.values()))
    )
    return Finding(HOLDS if enough else PARTLY if sum(several) / len(several) > dino[1] else FAILS, ours)


def judge_word(record: Record) -> Finding:
    """DreamBooth with its prior term against Textual Inversion at its best learning rate by DINO. Holds
    where its DINO and its CLIP-T are both higher (95 % intervals above 0); partly where one is higher. Else
    does not hold."""
    ours_, theirs, none = record["ways"]["with prior"], record["ways"][WORD], record["frozen"]
    better = [ours_[key] > theirs[key] for key in ("dino", "clip_t")]
    clear = all(difference(ours_, key, theirs)[1] > 0 for key in ("dino", "clip_t"))
    said = (
        f"DreamBooth less Textual Inversion (lr {record['word_lr']:g}): "
        + "; ".join(
            f"{words} {over(ours_, key, theirs)} ({ours_[key]:.3f} and {theirs[key]:.3f}, nothing learned "
            f"{none[key]:.3f})"
            for words, key in (
                ("DINO", "dino"),
                ("CLIP-I", "clip_i"),
                ("CLIP-T", "clip_t"),
                ("error to the true subject", "error"),
            )
        )
        + (f"; ground as asked {ours_['ground']:.0%} / {theirs['ground']:.0%} / {none['ground']:.0%}")
    )
    return Finding(HOLDS if clear else PARTLY if any(better) else FAILS, said)
