"""palimpsest dreambooth: a subject learned from a few pictures, then shown wherever the prompts say."""

from __future__ import annotations

import argparse
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.commands.dry_run import LOSES, Work, branches, dry_run, float32_of
from palimpsest.cli.commands.loading import load_model
from palimpsest.cli.commands.pictures import open_input, seen_by
from palimpsest.cli.console import tell
from palimpsest.cli.manners import (
    Mistake,
    blame,
    command,
    number,
    options,
    progress,
    shared_options,
    whole,
    why_no_text,
)
from palimpsest.cli.record import as_text, record_of
from palimpsest.fit.processes import rank_and_world
from palimpsest.methods.dreambooth import WEIGHTS, Batch, Learned, dreambooth, dreambooth_loss, trainable_copy
from palimpsest.methods.identifiers import check_identifier
from palimpsest.methods.learner import (
    Course,
    check_class_noun,
    check_prior_can_be_kept,
    frozen_copy,
    given_pictures,
)
from palimpsest.methods.lora import save_lora, save_word
from palimpsest.methods.prior import BATCH, Prior
from palimpsest.methods.sampling import generate
from palimpsest.methods.textual_inversion import Word, encode_with_word, one_token, textual_inversion
from palimpsest.outputs import check_writable, uninterrupted
from palimpsest.weights.estimate import Learning, Passes, nbytes
from palimpsest.weights.files import WeightsError, write_json
from palimpsest.weights.load import companion, own_device, save_like
from palimpsest.weights.model import AT_ONCE, Model
from palimpsest.worlds.files import Original, write_picture
from palimpsest.worlds.scene import with_article

METHOD = {  # parameters of `dreambooth`
    "identifier": "a rare word for the subject, or auto",
    "rank": "LoRA of this rank on the attention; 0 tunes the whole U-Net",
    "alpha": "LoRA's α; 0 means rank",
    "tune_text": "tune the text encoder too",
}
COURSE = {  # fields of `Course`
    "steps": "of the training",
    "lr": "of AdamW, at the first step; Stable Diffusion wants the paper's 5e-06",
    "batch": "pictures of the subject in a step, and as many of the prior",
    "ema": "decay of a moving average; 0 is off",
    "accumulate": "pieces that a batch is taken in",
    "checkpointing": "less memory, more time",
    "seed": "of everything",
}
PRIOR = {  # fields of `Prior`
    "weight": "λ of the prior term; 0 learns without",
    "n": "prior pictures",
    "steps": "of the walk that makes them",
    "w": "guidance scale of that walk",
}
PRIOR_OPTIONS = {"weight": "prior_weight", "n": "n_prior", "steps": "prior_steps", "w": "prior_w"}


MODEL, RECORD = "model.safetensors", "learned.json"
BASE = "base.safetensors"  # what --lora and --embedding make of --model, where a LoRA or a word changes that
STATE = ("checkpoint.pt", "prior.safetensors")  # in the folder OUT/state


def declare_dreambooth(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest dreambooth`."""
    about = COMMANDS["dreambooth"]
    p = command(commands, "dreambooth", about, run_dreambooth)
    p.add_argument("inputs", nargs="*", metavar="IN", help="three to five pictures of the subject")
    p.add_argument(
        "--class-noun",
        required=True,
        metavar="NOUN",
        help='what it is, "star"; "" for none, with --prior-weight 0',
    )
    p.add_argument(
        "--prompts",
        metavar="FILE",
        help="a text file, a prompt a line; [V] stands for the identifier (default: \"a [V] NOUN\")",
    )
    p.add_argument(
        "--captions",
        metavar="FILE",
        help="a text file, a line for each IN in their order, with [V] in it; what it names, as "
        '"a [V] star on a white background", is not learnt as the subject\'s (default: "a [V] NOUN" of all)',
    )
    p.add_argument("-n", type=whole, default=4, metavar="N", help="pictures of each prompt (default: 4)")
    p.add_argument(
        "--shown-steps", type=whole, default=25, metavar="N", help="of the walks that show them (default: 25)"
    )
    p.add_argument(
        "--w", type=number, default=3.0, metavar="X", help="guidance scale of those walks (default: 3.0)"
    )
    p.add_argument(
        "--crop",
        action="store_true",
        help="of each picture the central square alone; without this "
        "proportions are kept, and all pictures must have the same, squares where there is a prior",
    )
    p.add_argument(
        "--word",
        action="store_true",
        help="Textual Inversion: look for the word's vector alone (arXiv:2208.01618)",
    )
    options(p, dreambooth, METHOD)
    options(p, Course, COURSE)
    options(p, Prior, PRIOR, PRIOR_OPTIONS)
    shared_options(
        p,
        "a folder, there or to be made: model.safetensors, which --model of every command takes, and the "
        "pictures; a run that was stopped goes on from there",
        estimates=True,
        sidecar=False,
    )
    p.set_defaults(kept=("out",), writes=files_in, writes_folder=True)


def run_dreambooth(a: argparse.Namespace) -> None:
    """Check everything, learn, save, show. Under torchrun all learn, and the first saves and shows."""
    began, out = time.monotonic(), None if a.out is None else folder(a.out)
    check_options(a)
    files = [open_input(path, a.crop) for path in a.inputs]
    given = argparse.Namespace(**vars(a))
    a.prompts, a.captions = lines_of("prompts", a.prompts), lines_of("captions", a.captions)
    check_captions(a.captions, len(files))
    if a.estimate:
        return estimate(a, files)
    model = load_model(a, float32_of(a, LOSES), own_device(a.device))
    asked, state = checked(a, model, files), out / "state"
    with made(out):
        learned = learn(a, model, asked, state)
    if rank_and_world()[0] > 0:
        return
    note = as_text(record_of(given))
    try:
        pictures = shown(a, learned.model, asked.prompts)
    except Exception:
        keep(a, model, learned, asked, out)  # what could not be shown is not lost
        raise
    with uninterrupted(last=True):
        kind = keep(a, model, learned, asked, out)
        for name, picture in pictures.items():
            write_picture(picture, out / name, note)
        forget(state)
    count = f"{a.n} picture{'s' if a.n > 1 else ''}"
    count = f"{len(asked.prompts)} prompts, {count} each" if len(asked.prompts) > 1 else f"1 prompt, {count}"
    tell(f"{out / MODEL}: {kind}; say {learned.prompt!r}; {count}, {time.monotonic() - began:.0f} s")


def check_options(a: argparse.Namespace) -> None:
    """Raises ValueError for options that contradict each other or cannot be, before any file is opened."""
    if not 1 <= a.n <= 1000:
        raise Mistake(f"n: must lie between 1 and 1000, got {a.n}")
    if not 1 <= a.shown_steps <= 1000:
        raise Mistake(f"shown-steps: must lie between 1 and 1000, got {a.shown_steps}")
    if not a.inputs:
        raise Mistake("IN: no pictures; give three to five of the one subject")
    if a.word and a.rank:
        raise Mistake("word: looks for one vector and has no rank; leave out --word or --rank")
    if a.word and a.captions is not None:
        raise Mistake("captions: the word is looked for under templates; leave out --word or --captions")
    course_of(a)


def course_of(a: argparse.Namespace) -> Course:
    """How it is to be learned."""
    return Course(**{name: getattr(a, name) for name in COURSE})


def prior_of(a: argparse.Namespace) -> Prior:
    """The prior term that is asked for; a word is looked for without."""
    if a.word:
        return Prior(weight=0.0)
    return Prior(**{name: getattr(a, option) for name, option in PRIOR_OPTIONS.items()})


@contextmanager
def made(out: Path) -> Iterator[None]:
    """The folder is there for the block; a new one goes again where the block is broken off and left nothing
    in it.
    """
    new = not out.exists()
    try:
        out.mkdir(exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):  # it is not empty
            if new:
                out.rmdir()
        raise


def keep(a: argparse.Namespace, model: Model, learned: Learned, asked: Asked, out: Path) -> str:
    """Write the model and what belongs to it; which kind it is, in words. model: before it was trained."""
    kind = save(a, model, learned, out)
    curves = dict(instance=learned.instance, prior=learned.prior)
    said = dict(prompt=learned.prompt, captions=asked.captions, class_prompt=learned.class_prompt)
    write_json(out / RECORD, dict(identifier=learned.identifier) | said | curves)
    return kind


def forget(state: Path) -> None:
    """Remove the state of a run that is done, and nothing else that may lie in its folder."""
    for name in STATE:
        (state / name).unlink(missing_ok=True)
    with suppress(OSError):  # it is not empty
        state.rmdir()


def folds(a: argparse.Namespace) -> bool:
    """Whether what is learned is a change of --model together with --lora and --embedding, which is a model
    of its own.
    """
    return bool((a.rank or a.word) and (a.lora or a.embedding))


def save(a: argparse.Namespace, model: Model, learned: Learned, out: Path) -> str:
    """Write what was learned as a model file; which kind it is, in words."""
    file, base = out / MODEL, str(a.model)
    if folds(a):
        base = str(save_like(model, a.model, out / BASE))
    if a.word:
        save_word(learned.model, file, base, learned.identifier)
        return "a word"
    if a.rank:
        about = dict(identifier=learned.identifier, class_noun=a.class_noun)
        save_lora(learned.model, file, base, about)
        return f"LoRA of rank {a.rank}"
    save_like(learned.model, a.model, file)
    return "all weights"


def shown(a: argparse.Namespace, model: Model, prompts: list[str]) -> dict[str, Tensor]:
    """The pictures of the prompts by file: 000_0.png is the first one of the first."""
    found = {}
    with progress(model, len(prompts) * -(-a.n // BATCH) * a.shown_steps, "pictures"):
        for k, prompt in enumerate(prompts):
            for i in range(0, a.n, BATCH):
                n, seed = min(BATCH, a.n - i), a.seed + i
                made = generate(model, prompt, n=n, steps=a.shown_steps, w=a.w, seed=seed).picture
                for j, picture in enumerate(made.cpu().split(1), i):
                    found[f"{k:03d}_{j}.png"] = picture
    return found


class Asked(NamedTuple):
    """What a model is to learn and to show."""

    x: Tensor  # the pictures as the model sees them (n 3 y x)
    identifier: str
    captions: list[str] | None  # of the pictures, None where none are given
    prompts: list[str]  # to be shown


def checked(a: argparse.Namespace, model: Model, files: list[Original]) -> Asked:
    """The pictures as the model sees them, and the texts with the identifier in them.

    Raises ValueError for what cannot be learned.
    """
    shown = [seen_by(file, model, None).view() for file in files]
    sizes = {tuple(x.shape[-2:]) for x in shown}
    if len(sizes) > 1:
        seen = ", ".join(f"{x}×{y}" for y, x in sorted(sizes))
        raise Mistake(
            f"IN: the pictures have different proportions ({seen} as the model sees them); --crop takes the "
            "central square of each"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `dreambooth` warns of it
        identifier = check_identifier(model, a.identifier, a.seed)
    check_class_noun(model, a.class_noun)
    if prior_of(a).weight > 0:
        check_prior_can_be_kept(model, shown[0], a.class_noun)
    captions, prompts = (
        with_identifier(model, name, lines, identifier)
        for name, lines in (("captions", a.captions), ("prompts", a.prompts))
    )
    return Asked(
        torch.cat(shown),
        identifier,
        captions or None,
        prompts or [with_article(identifier, "" if a.word else a.class_noun)],
    )


def with_identifier(model: Model, name: str, lines: dict[int, str], identifier: str) -> list[str]:
    """The lines of an option's file with the identifier in place of [V].

    Raises Mistake for one that the model cannot read.
    """
    texts = {k: line.replace("[V]", identifier) for k, line in lines.items()}
    for k, text in texts.items():
        with blame(f"{name}: line {k}"):
            model.tokenizer([text])
    return list(texts.values())


def learn(a: argparse.Namespace, model: Model, asked: Asked, state: Path) -> Learned:
    """By the method that was asked for, with a bar where there is a terminal."""
    course, prior = course_of(a), prior_of(a)
    shared = dict(identifier=asked.identifier, course=course, state=state, progress=sys.stderr.isatty())
    if a.word:
        return textual_inversion(model, asked.x, a.class_noun, **shared)
    rounds = -(-prior.n // BATCH) * prior.steps if prior.weight > 0 else 0
    with progress(model, rounds, "prior pictures"):
        return dreambooth(
            model,
            asked.x,
            a.class_noun,
            prompts=asked.captions,
            prior=prior,
            rank=a.rank,
            alpha=a.alpha,
            tune_text=a.tune_text,
            **shared,
        )


# ---- --estimate ----


def estimate(a: argparse.Namespace, files: list[Original]) -> None:
    """Print what the command would cost."""
    of_prior, shown = prior_pictures(a), a.n * max(1, len(a.prompts))
    at_once = min(max(a.n, of_prior), BATCH)
    work = Work(
        lambda model, latent: passes(a, model, latent, files),
        files[0],
        pictures=at_once,
        decodes=-(-(of_prior + shown) // at_once),
        given=min(len(files), AT_ONCE),
        exact=True,
    )
    dry_run(a, work)


def prior_pictures(a: argparse.Namespace) -> int:
    """How many prior pictures it asks for."""
    prior = prior_of(a)
    return prior.n if prior.weight > 0 else 0


def passes(
    a: argparse.Namespace, model: Model, latent: tuple[int, int], files: list[Original]
) -> list[Passes | Learning]:
    """The passes of the net: for the prior pictures, in full batches and in a last one; of the training,
    there and back; to show what it learned.
    """
    asked = checked(a, model, files)
    given_pictures(model, asked.x)
    prior, n = prior_of(a), prior_pictures(a)
    rows, (full, rest) = branches(a.class_noun, prior.w), divmod(n, BATCH)
    learning = learning_of(a, model, (model.latent_shape[0], *latent), asked.identifier, 2 if n else 1)
    # the trained nets are there beside the model that they came from
    learned = nbytes(learning.modules["net"], learning.modules["text"])
    kept = n + min(n, BATCH) * (prior.steps + 1)
    return [
        Passes("prior pictures", full * prior.steps, BATCH * rows, kept=kept, held=learned),
        Passes("prior pictures, the last batch", prior.steps * (rest > 0), rest * rows, held=learned),
        learning,
        Passes(
            "show it",
            len(asked.prompts) * -(-a.n // BATCH) * a.shown_steps,
            min(a.n, BATCH) * branches("a", a.w),
            kept=min(a.n, BATCH) * (a.shown_steps + 1),
            held=learned,
        ),
    ]


def learning_of(
    a: argparse.Namespace, model: Model, shape: tuple[int, int, int], identifier: str, terms: int
) -> Learning:
    """The training on latents of that shape, with nets of the meta device.

    terms: of Eq. (9), 2 with a prior.
    """
    course = course_of(a)
    n = course.own_batch // course.accumulate
    if a.word:
        new = frozen_copy(model, course.checkpointing)
        token, coarse = (
            one_token(model, name, word)
            for name, word in (("identifier", identifier), ("class_noun", a.class_noun))
        )
        word = Word(new.text.tokens.weight[coarse])
        modules, text_encoder = {"word": word}, partial(encode_with_word, new.text, word, token)
    else:
        new = trainable_copy(
            model, rank=a.rank, alpha=a.alpha, tune_text=a.tune_text, checkpointing=course.checkpointing
        )
        modules, text_encoder = {}, new.text

    def there_and_back() -> None:
        tokens = torch.zeros(n, model.tokenizer.length, dtype=torch.long, device=model.device)
        t = torch.ones(n, dtype=torch.long)
        batches = []
        for _ in range(terms):
            x, eps = (torch.empty(n, *shape, device=model.device) for _ in range(2))
            batches.append(Batch(x, tokens, t, eps))
        subject, prior = [*batches, None][:2]
        weight = WEIGHTS[model.prediction]
        dreambooth_loss(new, text_encoder, subject, prior, a.prior_weight, weight)[0].backward()

    return Learning(
        "learn",
        course.steps * course.accumulate,
        terms * n,
        nn.ModuleDict({"net": new.net, "text": new.text, **modules}),
        there_and_back,
        course.accumulate,
    )


# ---- options that name files ----


def folder(name: str) -> Path:
    """A folder that is there or can be made: its own folder is there, and it is no file."""
    path = Path(name)
    if path.is_file() or not path.absolute().parent.is_dir():
        raise Mistake(f"out: {name} must be a folder, in a folder that is there")
    with blame("out"):
        for file in (path / MODEL, path / RECORD) if path.is_dir() else (path,):
            check_writable(file)
    return path


def files_in(a: argparse.Namespace) -> dict[str, list[Path]]:
    """What the command writes into the folder OUT, as far as it may be there already."""
    if a.out is None:
        return {}
    out, prompts = Path(a.out), 1
    with suppress(Mistake):
        prompts = max(1, len(lines_of("prompts", a.prompts)))
    there = [(p, re.fullmatch(r"(\d{3,})_(\d+)\.png", p.name)) for p in out.glob("*.png")]
    pictures = [p for p, found in there if found and int(found[1]) < prompts and int(found[2]) < a.n]
    pair = None
    if out.is_dir() and (folds(a) or not (a.rank or a.word)):
        with blame("out"), suppress(WeightsError):
            pair = companion(a.model, out / MODEL)
    state = [out / "state" / name for name in STATE]
    base = [out / BASE] if folds(a) else []
    return {"out": [out / MODEL, out / RECORD, *base, *pictures, *state, *(pair or ())[1:]]}


def lines_of(name: str, file: str | None) -> dict[int, str]:
    """The lines of an option's text file that are not empty, by their numbers; none without a file."""
    if file is None:
        return {}
    what = name.removesuffix("s")
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise Mistake(
            f"{name}: {file} is not there; check the name, or write that file with a {what} a line"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake(
            f"{name}: {file} cannot be read ({why_no_text(error)}); give a file with a {what} a line"
        ) from None
    lines = {k: line.strip() for k, line in enumerate(text.splitlines(), 1) if line.strip()}
    if not lines:
        raise Mistake(f"{name}: {file} holds no {what}; write one a line")
    return lines


def check_captions(lines: dict[int, str], pictures: int) -> None:
    """Raises Mistake unless there is one for each picture, with [V] in it, or none at all."""
    if lines and len(lines) != pictures:
        raise Mistake(
            f"captions: {len(lines)} for {pictures} picture{'s' if pictures > 1 else ''}; give a line each, "
            "in the order of the pictures"
        )
    for k, line in lines.items():
        if not re.search(r"(?<!\w)\[V\](?!\w)", line):
            raise Mistake(
                f"captions: line {k}: {line!r} has no [V] as a word of its own; write it where the subject "
                "is named"
            )
