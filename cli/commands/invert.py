"""palimpsest invert: the error ladder of a picture, as a table and, if asked for, as a sheet."""

from __future__ import annotations

import argparse
import inspect
import time
from collections.abc import Sequence

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
from palimpsest.cli.commands.pictures import input_argument, open_input, seen_by, shown_options
from palimpsest.cli.commands.wording import note_wording
from palimpsest.cli.console import tell
from palimpsest.cli.deliver import Made
from palimpsest.cli.manners import command, options, progress, shared_options
from palimpsest.methods.ladder import FAST, Rung, ladder
from palimpsest.methods.null_text import null_text
from palimpsest.weights.estimate import Passes
from palimpsest.worlds.files import contact_sheet


def declare_invert(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest invert`."""
    about = COMMANDS["invert"]
    p = command(commands, "invert", about, run_invert)
    input_argument(p)
    p.add_argument("--prompt", required=True, metavar="P", help="what it shows, in words")
    shown_options(p)
    options(
        p,
        ladder,
        {
            "steps": "of every walk",
            "w": "guidance scale of the way down",
            "iterations": "of the fixed-point rung, for each step",
        },
    )
    shared_options(p, "also write what came back on each rung, on one sheet", default="", estimates=True)


def run_invert(a: argparse.Namespace) -> Made | None:
    """Print the ladder of one picture, each rung as soon as it is measured."""
    picture = open_input(a.input, a.crop)
    work = Work(lambda b, latent: passes(a), picture, exact=True, check=lambda b: b.embed(a.prompt))
    if a.estimate:
        return dry_run(a, work)
    model = load_model(a, float32_of(a, LOSES))
    check_room(a, model, work)
    note_wording(model, {"prompt": a.prompt})
    x = seen_by(picture, model, a.size).view()

    began = [time.monotonic()]

    def done(rung: Rung) -> None:
        if len(began) == 1:
            tell(f"{'':20}{'PSNR / dB':>10}{'forward':>10}{'backward':>10}{'seconds':>10}")
        began.append(time.monotonic())
        seconds = began[-1] - began[-2]
        tell(f"{rung.name:20}{rung.psnr.item():10.2f}{rung.forwards:10}{rung.backwards:10}{seconds:10.2f}")

    with progress(model, calls(passes(a)), "invert"):  # at most: null-text stops early
        rungs = ladder(model, x, a.prompt, steps=a.steps, w=a.w, iterations=a.iterations, done=done)
    return Made([sheet(x, rungs)], f"{len(rungs)} rungs")


def sheet(x: Tensor, rungs: Sequence[Rung]) -> Tensor:
    """The picture x (1 3 y x) and what came back on each rung, side by side: uint8 (1 3 y x)."""
    names = ["the picture", *(f"{rung.name}: {rung.psnr.item():.1f} dB" for rung in rungs)]
    return contact_sheet([[x, *(rung.picture.cpu() for rung in rungs)]], (), names)


def passes(a: argparse.Namespace) -> list[Passes]:
    """Passes of the network: every rung does everything anew. Those of null-text are the most it may take."""
    inner = inspect.signature(null_text).parameters["inner"].default
    up, back = inversion(a.steps), guided(a.steps, a.w)
    return [
        *up,
        *guided(a.steps, 1.0),
        *up,
        *back,
        *tuning(a.steps, inner, a.w),
        *tuning(a.steps, inner, a.w, solver=FAST["solver"], start=FAST["start"]),
        *up,
        *back,
        *inversion(a.steps, a.iterations, "invert, fixed-point"),
        *guided(a.steps, 1.0),
        *up,
        *back,
    ]
