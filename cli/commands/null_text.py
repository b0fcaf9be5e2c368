"""palimpsest null-text: a picture inverted for strong guidance, come back to or edited, and kept for
later edits.
"""

from __future__ import annotations

import argparse
import inspect
import time
from pathlib import Path

import torch

from palimpsest.cli.commands.dry_run import calls, dry_run, guided, tuning
from palimpsest.cli.commands.pictures import (
    Walk,
    framed,
    opened,
    shown_options,
    steps_option,
    steps_target,
    write_steps,
)
from palimpsest.cli.manners import (
    Mistake,
    blame,
    command,
    number,
    options,
    progress,
    shared_options,
    writable,
)
from palimpsest.methods.inversion import redo
from palimpsest.methods.null_text import load_null_text, null_text
from palimpsest.metrics.image import psnr
from palimpsest.weights.cache import CacheError
from palimpsest.weights.estimate import Passes
from palimpsest.weights.load import load
from palimpsest.worlds.files import write_picture

W = inspect.signature(null_text).parameters["w"].default


def declare_null_text(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest null-text`."""
    about = "tune null embeddings until a picture comes back under strong guidance, then edit it (arXiv:2211.09794)"
    p = command(commands, "null-text", about, run_null_text)
    p.add_argument("input", metavar="IN", help="the picture")
    p.add_argument("--prompt", required=True, metavar="P", help="what it shows, in words")
    p.add_argument(
        "--target",
        metavar="P",
        help="what it should show (default: the prompt, which brings the picture back)",
    )
    shown_options(p)
    p.add_argument(
        "--w", type=number, metavar="X", help=f"guidance scale (default: {W}, with --load that of the file)"
    )
    options(
        p,
        null_text,
        {
            "steps": "of the walk",
            "inner": "updates of each step, at most",
            "lr": "of Adam, at the first step",
            "stop": "loss at which the first step is done",
            "solver": "adam, adam-skip or gauss-newton",
            "start": "empty, prompt or between",
            "iterations": "fixed-point rounds of the inversion, for each step",
        },
    )
    kept = p.add_mutually_exclusive_group()
    kept.add_argument(
        "--save", metavar="FILE", help="keep the embeddings, .safetensors; an interrupted run goes on from it"
    )
    kept.add_argument(
        "--load", metavar="FILE", help="take the embeddings from there; settings of the tuning are the file's"
    )
    steps_option(p, "the walk down")
    shared_options(p, estimates=True)


def run_null_text(a: argparse.Namespace) -> None:
    """One picture, tuned or loaded, and walked down."""
    began, out, save_steps = time.monotonic(), writable("out", a.out), steps_target(a)
    save, a.w, wanted = None if a.save is None else tensor_file(a.save), W if a.w is None else a.w, a.w
    picture = opened(a.input, a.crop)
    if a.estimate:
        return dry_run(a, lambda b, latent: passes(a), picture, exact=True, check=lambda b: b.embed(a.prompt))
    model = load(a.model, a.device, torch.float32)  # gradients through half precision lose the last digits
    picture = framed(picture, model, a.size)
    x = picture.view()

    if a.load is not None:
        with blame("load"):
            tuned = load_null_text(a.load, model, x, a.prompt, w=wanted)
    else:
        try:
            with progress(model, calls(tuned_passes(a)), "null-text"):
                tuned = null_text(
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
                    iterations=a.iterations,
                    state=save,
                )
        except CacheError as error:
            raise Mistake(f"save: {error}") from None
    prompts = [a.prompt] if a.target is None else [a.prompt, a.target]
    path = [z[-1:] for z in redo(model, tuned, prompts)] if len(prompts) > 1 or save_steps else [tuned.z_bar]
    write_picture(picture.restore(model.decode(path[-1])), out)
    write_steps(model, Walk(path, tuned.times), save_steps)
    back = psnr(model.decode(tuned.z_bar).cpu(), x).item()
    print(
        f"{out}: comes back at {back:.2f} dB after {int(tuned.updates.sum())} updates, {int(tuned.forwards.max())} forward and "
        f"{int(tuned.backwards.max())} backward passes, {time.monotonic() - began:.1f} s"
    )


def tuned_passes(a: argparse.Namespace) -> list[Passes]:
    """Of the net, until the embeddings are found."""
    return tuning(a.steps, a.inner, a.w, iterations=a.iterations, solver=a.solver, start=a.start)


def passes(a: argparse.Namespace) -> list[Passes]:
    """Of the net, the edit included. What --load finds is taken to have as many steps as --steps says."""
    found = [] if a.load is not None else tuned_passes(a)
    return (
        found
        if a.target is None and a.save_steps is None
        else [*found, *guided(a.steps, a.w, 1 + (a.target is not None), "walk down")]
    )


def tensor_file(name: str) -> Path:
    """A .safetensors file in a folder that is there."""
    path = Path(name)
    if path.suffix != ".safetensors" or not path.absolute().parent.is_dir():
        raise Mistake(f"save: {name} must end in .safetensors and lie in a folder that is there")
    return path
