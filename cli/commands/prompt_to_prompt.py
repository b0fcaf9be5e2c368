"""palimpsest prompt-to-prompt: the command of methods/prompt_to_prompt.py."""

from __future__ import annotations

import argparse
import inspect
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.cli.commands.dry_run import calls, dry_run, guided, inversion, tuning
from palimpsest.cli.commands.pictures import (
    at_the_files_size,
    framed,
    frames_of,
    opened,
    optional,
    region_of,
    shown_options,
    steps_option,
    steps_target,
)
from palimpsest.cli.manners import (
    Mistake,
    blame,
    command,
    number,
    options,
    progress,
    say,
    shared_options,
    writable,
)
from palimpsest.methods.alignment import Alignment, align, table
from palimpsest.methods.by_word import Cross, Span, columns, count, equalise, spans
from palimpsest.methods.inversion import Inversion, invert
from palimpsest.methods.local_blend import Blend
from palimpsest.methods.null_text import load_null_text, null_text
from palimpsest.methods.prompt_to_prompt import Result, prompt_to_prompt
from palimpsest.methods.variants import direct, edict, edit_friendly, negative_prompt
from palimpsest.metrics.image import rmse
from palimpsest.weights.estimate import Passes
from palimpsest.weights.load import load
from palimpsest.weights.model import Model
from palimpsest.worlds.files import SAVE, contact_sheet, read_mask, write_picture

INVERSIONS = {
    "negative-prompt": negative_prompt,
    "direct": direct,
    "edict": edict,
    "edit-friendly": edit_friendly,
    "null-text": null_text,
}


def declare_prompt_to_prompt(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest prompt-to-prompt`."""
    about = "change the words and keep the layout, by attention control (arXiv:2208.01626)"
    p = command(commands, "prompt-to-prompt", about, run_prompt_to_prompt)
    p.add_argument("source", metavar="SOURCE", help="what the picture shows, in words")
    p.add_argument("target", metavar="TARGET", help="what it should show instead, in words")
    p.add_argument(
        "--input", metavar="IN", help="edit this picture (default: generate one from SOURCE and --seed)"
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
    options(p, prompt_to_prompt, {"edit": "replace (as many words), refine (words added), or auto"})
    p.add_argument(
        "--cross",
        action="append",
        metavar="F or WORD=F",
        help="fraction of the steps in which the target looks "
        "where the source did; again with a word of TARGET for that word alone, WORD=A-B for a span (default: .8)",
    )
    p.add_argument(
        "--self",
        dest="self_",
        type=number,
        default=0.4,
        metavar="F",
        help="the same for self-attention (default: 0.4)",
    )
    p.add_argument(
        "--self-res",
        type=int,
        metavar="N",
        help="on maps of at most N×N cells (default: a quarter of the latent's cells)",
    )
    p.add_argument(
        "--weight",
        action="append",
        default=[],
        metavar="WORD=C",
        help="make a word of TARGET C times as strong",
    )
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
    options(
        p,
        prompt_to_prompt,
        {"paste": "with --blend or --mask: paste the kept pixels back, bit for bit", "steps": "of the walk"},
    )
    p.add_argument(
        "--w",
        type=number,
        metavar="X",
        help="guidance scale (default: 3, with --input 7.5, with --load that of the file)",
    )
    options(p, prompt_to_prompt, {"seed": "of the noise"})
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
    shared_options(p, estimates=True)


def run_prompt_to_prompt(a: argparse.Namespace) -> None:
    """One pair: generated, or the second made of a given picture."""
    began = time.monotonic()
    out, more = writable("out", a.out), optional(a, "save-source", "save-mask")
    save_steps = steps_target(a)
    if a.input is None and (a.inversion or a.load or a.mask or a.crop or a.size is not None):
        raise Mistake("input: --inversion, --load, --mask, --crop and --size make sense only with an --input")
    if not a.blend and (a.subtract or a.threshold is not None):
        raise Mistake("blend: --subtract and --threshold make sense only with a --blend")
    if not a.blend and a.mask is None and ("save-mask" in more or not a.paste):
        raise Mistake("blend: --save-mask and --no-paste make sense only with a --blend or a --mask")
    cross, weights = by_word(a.cross or [".8"]), dict(word_and_number("weight", text) for text in a.weight)
    pairs, threshold = [pair(text) for text in a.blend], 0.3 if a.threshold is None else a.threshold
    blend = (
        Blend([s for s, _ in pairs], [t for _, t in pairs], a.subtract, threshold, threshold)
        if pairs
        else None
    )

    picture = None if a.input is None else opened(a.input, a.crop, "input")
    mask = None
    if a.mask is not None:
        with blame("mask"):
            mask = read_mask(a.mask, of=picture)

    w = a.w if a.w is not None else 3.0 if picture is None else 7.5
    name = None if picture is None or a.load is not None else a.inversion or "null-text"
    tunes = name == "null-text" or a.load is not None  # which follows gradients: not in half precision
    if a.estimate:
        return dry_run(
            a,
            lambda b, latent: [*inverting(a, name, w), *editing(a, w, latent)],
            picture,
            pictures=2,
            exact=tunes,
            check=lambda b: looked_over(a, b, cross, weights, blend),
        )
    model = load(a.model, a.device, torch.float32 if tunes else None)
    alignment = looked_over(a, model, cross, weights, blend)  # before the long work
    if a.explain:
        print(table(alignment))
    elif [word.text for word in alignment.source_words] == [
        word.text for word in alignment.target_words
    ] and not weights:
        say(
            "note: SOURCE and TARGET say the same, so nothing will change; change a word of TARGET, or give one a --weight"
        )
    x, start = None, None
    if picture is not None:
        picture = framed(picture, model, a.size)
        x = picture.view()
        if a.load is not None:
            with blame("load"):
                start = load_null_text(a.load, model, x, a.source, a.w)
                w = start.w
        else:
            with progress(model, calls(inverting(a, name, w)), "invert"):
                start = inverted(model, x, a.source, name, a.steps, w)
    region = None if mask is None else region_of(mask, picture)
    with progress(model, calls(editing(a, w)), "edit"):
        r = prompt_to_prompt(
            model,
            a.source,
            a.target,
            start=start,
            pictures=x,
            edit=a.edit,
            cross=cross,
            self_=a.self_,
            mask=region,
            self_res=a.self_res,
            weights=weights,
            blend=blend,
            steps=a.steps,
            w=w,
            seed=a.seed,
            paste=a.paste,
        )

    if r.mask is not None and not r.mask.any():
        say(
            "note: the blend's mask is empty, so nothing was edited: these words look nowhere by themselves; lower --threshold, "
            "choose other words, or leave out --subtract"
        )

    def whole(edited: Tensor, where: Tensor | None = None) -> Tensor:
        return edited if picture is None else picture.restore(edited, where)

    kept = None
    if (
        picture is not None and r.mask is not None and a.paste
    ):  # at the file's size, where a --mask is the user's own
        kept = (
            mask
            if blend is None
            else picture.back(r.mask)
            if mask is None
            else torch.minimum(picture.back(r.mask), mask)
        )
    write_picture(whole(r.picture, kept), out)
    if "save-source" in more:
        write_picture(whole(r.source_picture), more["save-source"])
    if "save-mask" in more:
        shown = r.mask.expand(-1, 3, -1, -1) * 2 - 1
        write_picture(
            shown if picture is None else at_the_files_size(picture, (picture.back(r.mask) > 0.5).float()),
            more["save-mask"],
        )
    write_walk(model, r, a, save_steps)
    changed = f", edits {r.mask.gt(0).float().mean():.0%} of the picture" if r.mask is not None else ""
    print(
        f"{out}: {r.alignments[0].edit}{changed}, distance {rmse(r.picture, r.source_picture).item():.3f} to the source, "
        f"{time.monotonic() - began:.1f} s"
    )


def looked_over(
    a: argparse.Namespace, model: Model, cross: Cross, weights: dict[str, float], blend: Blend | None
) -> Alignment:
    """Which token answers to which. Whatever is wrong with words and fractions is said here, before a
    picture is inverted.
    """
    if model.tokenizer is None:
        raise Mistake(
            f"model: {model.name} was trained without text, which this method edits by; choose another model"
        )
    alignment = align(model.tokenizer, a.source, a.target, a.edit)
    spans(model.tokenizer, a.target, cross, a.steps)
    count("self", a.self_, a.steps)
    equalise(model.tokenizer, a.target, weights)
    if blend is not None:
        for prompt, words in (
            (a.source, blend.checked().source),
            (a.target, blend.target),
            (a.target, blend.subtract),
        ):
            columns("blend", model.tokenizer, prompt, words)
    return alignment


def inverted(model: Model, x: Tensor, prompt: str, name: str, steps: int, w: float) -> Inversion:
    """The inversion of that name, to be walked down with guidance w: the one place where the command
    chooses.
    """
    return (
        invert(model, x, prompt, steps=steps)
        if name == "ddim"
        else INVERSIONS[name](model, x, prompt, steps=steps, w=w)
    )


def inverting(a: argparse.Namespace, name: str | None, w: float) -> list[Passes]:
    """The passes of that inversion, none where nothing is inverted."""
    if name is None:
        return []
    if name in ("edict", "edit-friendly"):  # under the guidance of the way down
        return guided(a.steps * (2 if name == "edict" else 1), w, what="invert")
    return (
        tuning(a.steps, inspect.signature(null_text).parameters["inner"].default, w)
        if name == "null-text"
        else inversion(a.steps)
    )


def editing(a: argparse.Namespace, w: float, latent: tuple[int, int] = (0, 0)) -> list[Passes]:
    """The passes of the pair: the branch under the prompts is tapped, and so goes by itself."""
    cells, times = (
        math.prod(latent) // 4 if a.self_res is None else a.self_res**2,
        a.steps * (2 if a.inversion == "edict" else 1),
    )
    return [
        Passes("walk down, without the prompts", times * (w != 1), 2),
        Passes(
            "walk down, edited",
            times,
            2,
            kept=2 * (a.steps + 1),
            tapped=lambda site: site.kind == "cross" or (a.self_ > 0 and math.prod(site.res) <= cells),
        ),
    ]


def by_word(given: Sequence[str]) -> Cross:
    """.8 lion=.4 hat=.2-.6 -> {"default_": .8, "lion": .4, "hat": (.2, .6)}."""
    plain = [text for text in given if "=" not in text]
    if len(plain) > 1:
        raise Mistake(f"cross: is given twice, {plain[0]} and {plain[1]}; for one word alone write WORD=F")
    return {
        "default_": span(plain[0]) if plain else 0.8,
        **{
            word.strip(): span(value)
            for word, _, value in (text.rpartition("=") for text in given if "=" in text)
        },
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


def pair(text: str) -> tuple[str, str]:
    """WORD:WORD, or one word that stands in both prompts."""
    source, colon, target = text.partition(":")
    if not source.strip() or (colon and not target.strip()):
        raise Mistake(f"blend: write SOURCEWORD:TARGETWORD, as in circle:star; got {text!r}")
    return source.strip(), (target if colon else source).strip()


def write_walk(model: Model, r: Result, a: argparse.Namespace, target: Path | None) -> None:
    """The walk of both: on one sheet, with the mask over time, or a picture of the two side by side for
    each step in a folder.
    """
    if target is None:
        return
    if target.suffix.lower() in SAVE and not target.is_dir():
        write_picture(walk_sheet(model, r, a.source, a.target), target)
    else:
        target.mkdir(exist_ok=True)
        for n, z in enumerate(r.path):
            write_picture(torch.cat(model.decode(z[:2]).split(1), 3), target / f"step_{n:03d}.png")


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
