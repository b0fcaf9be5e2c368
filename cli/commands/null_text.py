"""palimpsest null-text: invert a picture for strong guidance, then bring it back or edit it."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path

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
    tuning,
)
from palimpsest.cli.commands.loading import load_model
from palimpsest.cli.commands.pictures import (
    as_it_was,
    compare_option,
    input_argument,
    open_input,
    seen_by,
    shown_options,
    steps_option,
)
from palimpsest.cli.commands.wording import note_wording
from palimpsest.cli.deliver import Made, Walk
from palimpsest.cli.manners import Mistake, blame, command, options, progress, read_as, shared_options
from palimpsest.methods.inversion import invert, redo
from palimpsest.methods.null_files import load_null_text, null_text_key, read_null_text, save_null_text
from palimpsest.methods.null_text import GuidanceScale, NullText, check_model, null_text
from palimpsest.metrics.image import psnr
from palimpsest.weights.cache import CacheError
from palimpsest.weights.estimate import Passes
from palimpsest.weights.model import Model

W = inspect.signature(null_text).parameters["w"].default


def declare_null_text(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest null-text`."""
    about = COMMANDS["null-text"]
    p = command(commands, "null-text", about, run_null_text)
    input_argument(p)
    p.add_argument("--prompt", required=True, metavar="P", help="what it shows, in words")
    p.add_argument(
        "--target",
        metavar="P",
        help="what it should show (default: the prompt, which brings the picture back)",
    )
    shown_options(p)
    p.add_argument(
        "--w",
        type=read_as(float, GuidanceScale),
        metavar="X",
        help=f"guidance scale (default: {W}, with --load that of the file)",
    )
    options(
        p,
        null_text,
        {
            "steps": "of the walk",
            "inner": "updates of each step, at most",
            "lr": "of Adam, at the first step",
            "stop": "loss at which the first step is done",
            "solver": "adam is the published one",
            "start": "first guess of the embeddings",
        },
    )
    options(p, invert, {"iterations": "fixed-point rounds of the inversion, for each step"})
    kept = p.add_mutually_exclusive_group()
    kept.add_argument(
        "--save", metavar="FILE", help="keep the embeddings, .safetensors; an interrupted run goes on from it"
    )
    kept.add_argument(
        "--load", metavar="FILE", help="take the embeddings from this file, with its settings of the tuning"
    )
    steps_option(p, "the walk down")
    compare_option(p, "what comes back without an edit")
    shared_options(p, estimates=True)
    p.set_defaults(kept=("save",))


def run_null_text(a: argparse.Namespace) -> Made | None:
    """Tune or load the embeddings of one picture, and walk down with them."""
    save, a.w, wanted = None if a.save is None else Path(a.save), W if a.w is None else a.w, a.w
    picture = open_input(a.input, a.crop)
    work = Work(lambda b, latent: passes(a), picture, exact=True, check=lambda b: b.embed(a.prompt))
    if a.estimate:
        return dry_run(a, work)
    model = load_model(a, float32_of(a, LOSES))
    check_model(model, a.prompt)  # before the walk up
    check_room(a, model, work)
    note_wording(model, {"prompt": a.prompt, "target": a.target})
    picture = seen_by(picture, model, a.size)
    x = picture.view()

    if a.load is not None:
        with blame("load"):
            run = load_null_text(a.load, model, x, a.prompt, w=wanted)
    else:
        try:
            with progress(model, calls(tuned_passes(a)), "null-text"):
                run = tuned(model, x, a, save)
        except CacheError as error:
            raise Mistake(f"save: {error}") from None
    prompts = [a.prompt] if a.target is None else [a.prompt, a.target]
    walked = len(prompts) > 1 or a.save_steps or a.gif
    path = [z[-1:] for z in redo(model, run, prompts)] if walked else [run.z_bar]
    back = model.decode(run.z_bar).cpu()
    return Made(
        [picture.restore(model.decode(path[-1]))],
        f"comes back at {psnr(back, x).item():.2f} dB after {int(run.updates.sum())} updates, "
        f"{int(run.forwards.max())} forward and {int(run.backwards.max())} backward passes",
        before=as_it_was(picture),
        between=lambda: {} if a.target is None else {"comes back": picture.restore(back)},
        after=a.target or "comes back",
        walk=Walk.of(model, path, run.times) if walked else None,
        settings={"w": wanted},
    )


def tuned(model: Model, x: Tensor, a: argparse.Namespace, save: Path | None) -> NullText:
    """The null-text inversion of x. A file is written after each step, and gone on from."""
    key = {}
    if save is not None:
        names = ("steps", "w", "inner", "lr", "stop", "solver", "start", "iterations")
        key = null_text_key(model, x, a.prompt, {name: getattr(a, name) for name in names})
    pivot = read_null_text(save, model, key) if save is not None and save.exists() else None
    return null_text(
        model,
        x,
        a.prompt,
        steps=a.steps,
        w=a.w,
        inner=a.inner,
        lr=a.lr,
        stop=a.stop,
        solver=a.solver,
        start=a.start,
        pivot=invert(model, x, a.prompt, steps=a.steps, iterations=a.iterations) if pivot is None else pivot,
        each_step=None if save is None else lambda run: save_null_text(save, run, key),
    )


def tuned_passes(a: argparse.Namespace) -> list[Passes]:
    """Passes of the network until the embeddings are tuned."""
    return tuning(a.steps, a.inner, a.w, iterations=a.iterations, solver=a.solver, start=a.start)


def passes(a: argparse.Namespace) -> list[Passes]:
    """Passes of the network, the edit included; a --load file is taken to have --steps steps."""
    tune = [] if a.load is not None else tuned_passes(a)
    if a.target is None and not (a.save_steps or a.gif):
        return tune
    return [*tune, *guided(a.steps, a.w, 1 + (a.target is not None), "walk down")]
