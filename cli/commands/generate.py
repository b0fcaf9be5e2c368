"""palimpsest generate: the command of methods/sampling.py."""

from __future__ import annotations

import argparse
import math

import torch

from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.commands.dry_run import Work, branches, calls, check_room, dry_run
from palimpsest.cli.commands.loading import load_model
from palimpsest.cli.commands.pictures import steps_option
from palimpsest.cli.commands.solvers import evaluations, solver_options, step_of
from palimpsest.cli.commands.wording import note_wording
from palimpsest.cli.deliver import Made, Walk, a_file_each
from palimpsest.cli.manners import Mistake, command, options, progress, shared_options, whole
from palimpsest.methods.sampling import generate
from palimpsest.weights.estimate import Passes
from palimpsest.worlds.files import contact_sheet

BATCH = 16  # pictures at once


def declare_generate(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest generate`."""
    about = COMMANDS["generate"]
    p = command(commands, "generate", about, run_generate)
    p.add_argument("--prompt", required=True, metavar="P", help='what to show, in words; "" is anything')
    p.add_argument(
        "-n", type=whole, default=1, metavar="N", help="how many; picture i has seed + i (default: 1)"
    )
    options(p, generate, {"steps": "of the walk", "w": "guidance scale", "seed": "of the noise"})
    solver_options(p, eta=0.0)
    steps_option(p, "the walk of the first")
    shared_options(
        p, "one picture; for n > 1 a sheet of all, or, with {i} in the name, a file for each", estimates=True
    )


def run_generate(a: argparse.Namespace) -> Made | None:
    """n pictures of one prompt."""
    if not 1 <= a.n <= 1000:
        raise Mistake(f"n: must lie between 1 and 1000, got {a.n}")
    work = Work(
        lambda b, latent: passes(a),
        pictures=min(a.n, BATCH),
        decodes=-(-a.n // BATCH),
        check=lambda b: b.denoiser(a.prompt),
    )
    if a.estimate:
        return dry_run(a, work)
    model = load_model(a)
    check_room(a, model, work)
    note_wording(model, {"prompt": a.prompt})
    with progress(model, calls(passes(a)), "generate"):
        batches = [
            generate(
                model, a.prompt, n=min(BATCH, a.n - i), steps=a.steps, w=a.w, step=step_of(a), seed=a.seed + i
            )
            for i in range(0, a.n, BATCH)
        ]
    pictures = list(torch.cat([batch.picture for batch in batches]).split(1))
    if not a_file_each(a) and a.n > 1:
        columns = math.ceil(a.n**0.5)
        pictures = [
            contact_sheet([pictures[i : i + columns] for i in range(0, a.n, columns)], title=a.prompt)
        ]
    return Made(
        pictures,
        f"{a.n} picture{'s' if a.n > 1 else ''}, seed {a.seed}",
        walk=Walk.of(model, batches[0].path, batches[0].levels),
    )


def passes(a: argparse.Namespace) -> list[Passes]:
    """Of the net: in full batches, and in a last one."""
    rows, times, (full, rest) = (branches(a.prompt, a.w), evaluations(a, a.steps), divmod(a.n, BATCH))
    return [
        Passes("walk down", full * times, BATCH * rows, kept=full * BATCH * (a.steps + 1)),
        Passes("walk down, the last batch", times * (rest > 0), rest * rows, kept=rest * (a.steps + 1)),
    ]
