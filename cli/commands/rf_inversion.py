"""palimpsest rf-inversion: the command of methods/rf_inversion.py."""

from __future__ import annotations

import argparse

from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.commands.dry_run import Work, branches, calls, check_room, dry_run
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
from palimpsest.cli.deliver import Made, Walk, change
from palimpsest.cli.manners import command, options, progress, shared_options
from palimpsest.methods.rf_inversion import rf_inversion
from palimpsest.metrics.image import rmse
from palimpsest.weights.estimate import Passes


def declare_rf_inversion(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest rf-inversion`."""
    p = command(commands, "rf-inversion", COMMANDS["rf-inversion"], run_rf_inversion)
    input_argument(p)
    p.add_argument("--target", required=True, metavar="TEXT", help="what it should show, in words")
    shown_options(p)
    options(
        p,
        rf_inversion,
        {
            "eta": "pull towards the picture on the way down, in [0, 1]: higher keeps more",
            "hold": "share of the steps down that are pulled, in [0, 1]: more keeps more",
            "gamma": "pull towards a drawn noise on the way up, in [0, 1]",
            "w": "guidance scale on the way down",
            "steps": "of the walk, each way",
            "seed": "of the drawn noise",
        },
    )
    steps_option(p, "the walk down")
    compare_option(p, "what changed,")
    shared_options(p, estimates=True)


def run_rf_inversion(a: argparse.Namespace) -> Made | None:
    """One picture edited."""
    picture = open_input(a.input, a.crop)
    work = Work(lambda model, latent: passes(a), picture, check=lambda m: m.embed(a.target))
    if a.estimate:
        return dry_run(a, work)
    model = load_model(a)
    check_room(a, model, work)
    note_wording(model, {"target": a.target})
    picture = seen_by(picture, model, a.size)
    x = picture.view()
    with progress(model, calls(passes(a)), "rf-inversion"):
        e = rf_inversion(
            model, x, a.target, steps=a.steps, gamma=a.gamma, eta=a.eta, hold=a.hold, w=a.w, seed=a.seed
        )
    shown, before = picture.restore(e.picture.cpu()), as_it_was(picture)
    return Made(
        [shown],
        f"to s = {e.times[0]:.3g} and back, {e.calls} evaluations, "
        f"distance {rmse(e.picture.cpu(), x).item():.3f}",
        before=before,
        between=lambda: {"what changed": change(before, shown)},
        after=a.target,
        walk=Walk.of(model, e.path, e.levels),
    )


def passes(a: argparse.Namespace) -> list[Passes]:
    """Of the net: up under no text, down under the target."""
    kept = 2 * (a.steps + 1)  # latents of both walks
    return [
        Passes("up", a.steps, 1, kept=kept),
        Passes("down under the target", a.steps, branches(a.target, a.w)),
    ]
