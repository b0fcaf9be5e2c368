"""palimpsest prompt-to-prompt: the command of methods/prompt_to_prompt.py."""

from __future__ import annotations

import argparse
import inspect
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.commands.dry_run import (
    LOSES,
    Work,
    calls,
    check_room,
    dry_run,
    float32_of,
    guided,
    inversion,
    tuning,
)
from palimpsest.cli.commands.loading import load_model
from palimpsest.cli.commands.pictures import (
    as_it_was,
    at_the_files_size,
    compare_option,
    latent_size,
    open_input,
    region_of,
    seen_by,
    shown_options,
    steps_option,
)
from palimpsest.cli.commands.wording import note_wording
from palimpsest.cli.console import say, tell
from palimpsest.cli.deliver import Made, Walk, frames_of
from palimpsest.cli.manners import Mistake, blame, command, number, options, progress, shared_options
from palimpsest.methods.alignment import table
from palimpsest.methods.by_word import Cross, Span
from palimpsest.methods.inversion import Inversion, invert
from palimpsest.methods.local_blend import Blend
from palimpsest.methods.null_files import load_null_text
from palimpsest.methods.null_text import null_text
from palimpsest.methods.prompt_to_prompt import Injection, Pair, Result, prompt_to_prompt
from palimpsest.methods.sampling import generate
from palimpsest.methods.variants import direct, edict, edit_friendly, negative_prompt
from palimpsest.metrics.image import rmse
from palimpsest.nets.attention import Site
from palimpsest.weights.estimate import Passes
from palimpsest.weights.model import Model
from palimpsest.worlds.files import Original, contact_sheet, read_mask

INVERSIONS = {
    "negative-prompt": negative_prompt,
    "direct": direct,
    "edict": edict,
    "edit-friendly": edit_friendly,
    "null-text": null_text,
}


# ---- options ----


def declare_prompt_to_prompt(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest prompt-to-prompt`."""
    about = COMMANDS["prompt-to-prompt"]
    p = command(commands, "prompt-to-prompt", about, run_prompt_to_prompt)
    p.add_argument("source", metavar="SOURCE", help="what the picture shows, in words")
    p.add_argument("target", metavar="TARGET", help="what it should show instead, in words")
    input_options(p)
    injection_options(p)
    blend_options(p)
    paste = "with --blend or --mask: paste the kept pixels back, bit for bit"
    options(p, prompt_to_prompt, {"paste": paste, "steps": "of the walk"})
    scale = "guidance scale (default: that of generate, with --input 7.5, with --load that of the file)"
    p.add_argument("--w", type=number, metavar="X", help=scale)
    options(p, prompt_to_prompt, {"seed": "of the noise"})
    output_options(p)


def input_options(p: argparse.ArgumentParser) -> None:
    """A picture to be edited, and how its noise is found."""
    p.add_argument(
        "--input",
        metavar="IN",
        nargs="+",
        help="edit this picture (default: generate one from SOURCE and --seed); several, or a folder, are "
        "edited one after another, with -o FOLDER",
    )
    how = p.add_mutually_exclusive_group()
    how.add_argument(
        "--inversion",
        choices=("ddim", *INVERSIONS),
        help="with --input: how its noise is found (default: null-text)",
    )
    how.add_argument(
        "--load",
        metavar="FILE",
        help="with --input: the null embeddings that `palimpsest null-text … --save FILE` kept",
    )
    p.add_argument(
        "--mask",
        metavar="M",
        help="with --input: white where the picture may change, black where it must stay",
    )
    shown_options(p, "--input")


def injection_options(p: argparse.ArgumentParser) -> None:
    """What of the source's attention is injected, and how strong each word is."""
    options(p, Injection, {"edit": "replace (as many words), refine (words added), or auto"})
    p.add_argument(
        "--cross",
        action="append",
        metavar="F or WORD=F",
        help="fraction of the steps in which the target looks where the source did; "
        "again with a word of TARGET for that word alone, WORD=A-B for a span (default: .8)",
    )
    options(
        p, Injection, {"self_": "the same for self-attention", "self_res": "on maps of at most N×N cells"}
    )
    p.add_argument(
        "--weight",
        action="append",
        default=[],
        metavar="WORD=C",
        help="make a word of TARGET C times as strong",
    )


def blend_options(p: argparse.ArgumentParser) -> None:
    """Where the picture may change, by words."""
    p.add_argument(
        "--blend",
        action="append",
        default=[],
        metavar="WORD:WORD",
        help="change the picture only where this word of SOURCE or that word of TARGET looks",
    )
    p.add_argument(
        "--subtract",
        action="append",
        default=[],
        metavar="WORD",
        help="with --blend: and not where this word looks",
    )
    p.add_argument(
        "--threshold", type=number, metavar="X", help="of the blend's mask, in [0, 1) (default: 0.3)"
    )


def output_options(p: argparse.ArgumentParser) -> None:
    """What is printed and written."""
    p.add_argument("--explain", action="store_true", help="print which token takes the map of which")
    p.add_argument(
        "--save-source",
        metavar="PNG",
        help="also write the source's picture, or what became of IN without an edit",
    )
    p.add_argument(
        "--save-mask", metavar="PNG", help="with --blend or --mask: also write the mask of the last step"
    )
    steps_option(p, "the walk of both")
    compare_option(p, "the mask, or without one where the changed words look,")
    shared_options(p, estimates=True)


class Job(NamedTuple):
    """What the options ask for."""

    injection: Injection
    blend: Blend | None
    picture: Original | None  # None: one is generated
    mask: Tensor | None  # at the file's size
    w: float | None  # None: what the model recommends
    inversion: str | None  # how the picture is inverted; None: there is none, or its inversion is loaded
    exact: bool  # whether gradients are followed, or were: not in half precision

    def settled(self, model: Model) -> Job:
        """The same, with a guidance scale."""
        return self._replace(w=model.settle(generate, dict(w=self.w)))


def job_of(a: argparse.Namespace) -> Job:
    """The options, read. Raises Mistake for those that make no sense, alone or together."""
    if a.input is None and (a.inversion or a.load or a.mask or a.crop or a.size is not None):
        raise Mistake("input: --inversion, --load, --mask, --crop and --size make sense only with an --input")
    if not a.blend and (a.subtract or a.threshold is not None):
        raise Mistake("blend: --subtract and --threshold make sense only with a --blend")
    if not a.blend and a.mask is None and (a.save_mask is not None or not a.paste):
        raise Mistake("blend: --save-mask and --no-paste make sense only with a --blend or a --mask")
    weights = dict(word_and_number("weight", text) for text in a.weight)
    injection = Injection(a.edit, by_word(a.cross or [".8"]), a.self_, a.self_res, weights)
    pairs, threshold = [word_pair(text) for text in a.blend], 0.3 if a.threshold is None else a.threshold
    blend = None
    if pairs:
        blend = Blend([s for s, _ in pairs], [t for _, t in pairs], a.subtract, threshold, threshold)

    picture = None if a.input is None else open_input(a.input, a.crop, "input")
    mask = None
    if a.mask is not None:
        with blame("mask"):
            mask = read_mask(a.mask, of=picture)
    w = 7.5 if a.w is None and picture is not None else a.w
    name = None if picture is None or a.load is not None else a.inversion or "null-text"
    return Job(injection, blend, picture, mask, w, name, exact=name == "null-text" or a.load is not None)


# ---- the command ----


def run_prompt_to_prompt(a: argparse.Namespace) -> Made | None:
    """One pair: generated, or the second made of a given picture."""
    job = job_of(a)
    work = Work(
        lambda model, latent: passes(a, job.settled(model), latent),
        job.picture,
        pictures=2,
        exact=job.exact,
        check=lambda model: prepared(a, model, job),
    )
    if a.estimate:
        return dry_run(a, work)
    model = load_model(a, float32_of(a, LOSES) if job.exact else a.dtype)
    check_room(a, model, work)
    job = job.settled(model)
    note_wording(model, {"source": a.source, "target": a.target})
    explain(prepared(a, model, job), a.explain)  # before the long work
    picture = None if job.picture is None else seen_by(job.picture, model, a.size)
    start = None if picture is None else started(a, model, picture.view(), job)
    w = job.w if a.load is None else start.w
    with progress(model, calls(editing(a, w)), "edit"):
        r = prompt_to_prompt(
            model,
            a.source,
            a.target,
            injection=job.injection,
            blend=job.blend,
            start=start,
            pictures=None if picture is None else picture.view(),
            mask=None if job.mask is None else region_of(job.mask, picture),
            steps=a.steps,
            w=w,
            seed=a.seed,
            paste=a.paste,
        )
    if r.mask is not None and not r.mask.any():
        say(
            "note: the blend's mask is empty, so nothing was edited: these words look nowhere by themselves; "
            "lower --threshold, choose other words, or leave out --subtract"
        )
    edited = f", edits {r.mask.gt(0).float().mean():.0%} of the picture" if r.mask is not None else ""
    distance = rmse(r.picture, r.source_picture).item()

    def at_size(x: Tensor, where: Tensor | None = None) -> Tensor:
        return x.cpu() if picture is None else picture.restore(x.cpu(), where)

    return Made(
        [at_size(r.picture, restored_where(r, picture, job, a.paste))],
        f"{r.alignments[0].edit}{edited}, distance {distance:.3f} to the source",
        before=at_size(r.source_picture) if picture is None else as_it_was(picture),
        between=lambda: (
            {"mask": mask_shown(r, picture)} if r.mask is not None else {k: at_size(m) for k, m in looks(r)}
        ),
        after=a.target,
        more={"save_source": lambda: at_size(r.source_picture), "save_mask": lambda: mask_shown(r, picture)},
        walk=walk_of(model, r, a),
        settings={"w": a.w},
    )


def prepared(a: argparse.Namespace, model: Model, job: Job) -> Pair:
    """The pair as the walk will see it: what is wrong with its words is said before a picture is inverted."""
    if model.tokenizer is None:
        raise Mistake(
            f"model: {model.name} was trained without text, which this method edits by; choose another model"
        )
    latent = latent_size(model, job.picture, a.size)
    return Pair.of(model, a.source, a.target, job.injection, job.blend, latent=latent, steps=a.steps)


def explain(pair: Pair, asked: bool) -> None:
    """Print the alignment if it was asked for; otherwise say where the prompts change nothing."""
    alignment = pair.alignment
    source, target = ([w.text for w in words] for words in (alignment.source_words, alignment.target_words))
    if asked:
        tell(table(alignment))
    elif source == target and (pair.weights == 1).all():
        say(
            "note: SOURCE and TARGET say the same, so nothing will change; "
            "change a word of TARGET, or give one a --weight"
        )


def started(a: argparse.Namespace, model: Model, x: Tensor, job: Job) -> Inversion:
    """The inversion of the picture, loaded or made."""
    if a.load is not None:
        with blame("load"):
            return load_null_text(a.load, model, x, a.source, a.w)
    with progress(model, calls(inverting(a, job.inversion, job.w)), "invert"):
        return inverted(model, x, a.source, job.inversion, a.steps, job.w)


def inverted(model: Model, x: Tensor, prompt: str, name: str, steps: int, w: float) -> Inversion:
    """The inversion of that name, to be walked down with guidance w."""
    if name == "ddim":
        return invert(model, x, prompt, steps=steps)
    return INVERSIONS[name](model, x, prompt, steps=steps, w=w)


# ---- what it costs ----


def passes(a: argparse.Namespace, job: Job, latent: tuple[int, int]) -> list[Passes]:
    """Those of the whole command."""
    return [*inverting(a, job.inversion, job.w), *editing(a, job.w, latent)]


def inverting(a: argparse.Namespace, name: str | None, w: float) -> list[Passes]:
    """The passes of that inversion, none where nothing is inverted."""
    if name is None:
        return []
    if name in ("edict", "edit-friendly"):  # under the guidance of the way down
        return guided(a.steps * (2 if name == "edict" else 1), w, what="invert")
    if name == "null-text":
        return tuning(a.steps, inspect.signature(null_text).parameters["inner"].default, w)
    return inversion(a.steps)


def editing(a: argparse.Namespace, w: float, latent: tuple[int, int] = (0, 0)) -> list[Passes]:
    """The passes of the pair: the branch under the prompts is tapped, and so goes by itself."""
    cells = math.prod(latent) // 4 if a.self_res is None else a.self_res**2
    times = a.steps * (2 if a.inversion == "edict" else 1)

    def tapped(site: Site) -> bool:
        return site.kind == "cross" or (a.self_ > 0 and math.prod(site.res) <= cells)

    return [
        Passes("walk down, without the prompts", times * (w != 1), 2),
        Passes("walk down, edited", times, 2, kept=2 * (a.steps + 1), tapped=tapped),
    ]


# ---- words on the command line ----


def by_word(given: Sequence[str]) -> Cross:
    """.8 lion=.4 hat=.2-.6 -> {"default_": .8, "lion": .4, "hat": (.2, .6)}."""
    plain = [text for text in given if "=" not in text]
    if len(plain) > 1:
        raise Mistake(f"cross: is given twice, {plain[0]} and {plain[1]}; for one word alone write WORD=F")
    named = (text.rpartition("=") for text in given if "=" in text)
    return {
        "default_": span(plain[0]) if plain else 0.8,
        **{word.strip(): span(value) for word, _, value in named},
    }


def span(text: str) -> Span:
    """A fraction, or two with a hyphen between."""
    try:
        first, *second = (float(v) for v in text.split("-", 1))
        return (first, *second) if second else first
    except ValueError:
        raise Mistake(
            f"cross: must be a fraction such as .8, or a span such as .2-.6, got {text!r}"
        ) from None


def word_and_number(argument: str, text: str) -> tuple[str, float]:
    """WORD=C."""
    word, _, value = text.rpartition("=")
    try:
        c = number(value)
    except argparse.ArgumentTypeError:
        word = ""
    if not word.strip():
        raise Mistake(f"{argument}: write WORD=C, as in star=2; got {text!r}")
    return word.strip(), c


def word_pair(text: str) -> tuple[str, str]:
    """WORD:WORD, or one word that stands in both prompts."""
    source, colon, target = text.partition(":")
    if not source.strip() or (colon and not target.strip()):
        raise Mistake(f"blend: write SOURCEWORD:TARGETWORD, as in circle:star; got {text!r}")
    return source.strip(), (target if colon else source).strip()


# ---- what is written ----


def restored_where(r: Result, picture: Original | None, job: Job, paste: bool) -> Tensor | None:
    """Where the file's pixels give way to the edit: at the file's size, where a --mask is the user's own."""
    if picture is None or r.mask is None or not paste:
        return None
    if job.blend is None:
        return job.mask
    return picture.back(r.mask) if job.mask is None else torch.minimum(picture.back(r.mask), job.mask)


def mask_shown(r: Result, picture: Original | None) -> Tensor:
    """The mask of the last step, white = edited, at the file's size."""
    if picture is None:
        return r.mask.expand(-1, 3, -1, -1) * 2 - 1
    return at_the_files_size(picture, (picture.back(r.mask) > 0.5).float())


def looks(r: Result) -> Iterator[tuple[str, Tensor]]:
    """Each word of the target that the source has not, and where it looks on average, white the most."""
    known, maps = {w.text for w in r.alignments[0].source_words}, r.maps[:, 1].float().mean(0).cpu()
    for word in r.alignments[0].target_words:
        if word.text not in known:
            m = maps[..., word.start : word.stop].mean(-1)
            m = F.interpolate((m / m.max().clamp(min=1e-12))[None, None], r.picture.shape[-2:])
            yield f"where “{word.text}” looks", m.expand(-1, 3, -1, -1) * 2 - 1


def walk_of(model: Model, r: Result, a: argparse.Namespace) -> Walk:
    """The walk of both, side by side; as a sheet with the mask over time."""

    def frame(n: int) -> Tensor:
        return torch.cat(model.decode(r.path[n][:2]).cpu().split(1), 3)

    return Walk(frame, r.levels[: len(r.path)], lambda: walk_sheet(model, r, a.source, a.target))


def walk_sheet(model: Model, r: Result, source: str, target: str) -> Tensor:
    """Source and target from noise to picture, and where they were let differ: uint8 (1 3 y x)."""
    chosen = frames_of(len(r.path) - 1)
    frames = [model.decode(r.path[n]) for n in chosen]
    rows, labels = [[f[:1] for f in frames], [f[1:] for f in frames]], [source, target]
    if r.masks is not None:
        size = frames[0].shape[-2:]  # step n − 1 leads to frame n
        rows.append(
            [F.interpolate(r.masks[n - 1], size).expand(-1, 3, -1, -1) * 2 - 1 if n else None for n in chosen]
        )
        labels.append("mask")
    return contact_sheet(rows, labels, [f"t = {r.levels[n]:.0f}" for n in chosen])
