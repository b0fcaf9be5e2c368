"""palimpsest flow-edit: the command of methods/flow_edit.py."""

from __future__ import annotations

import argparse

from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.commands.dry_run import Work, branches, calls, check_room, dry_run
from palimpsest.cli.commands.loading import load_model
from palimpsest.cli.commands.pictures import (
    as_it_was,
    at_the_files_size,
    compare_option,
    input_argument,
    open_input,
    region_of,
    seen_by,
    shown_options,
    steps_option,
)
from palimpsest.cli.commands.wording import note_wording
from palimpsest.cli.deliver import Made, Walk, change
from palimpsest.cli.manners import blame, command, options, progress, shared_options
from palimpsest.methods.flow_edit import flow_edit, walked
from palimpsest.metrics.image import rmse
from palimpsest.weights.estimate import Passes
from palimpsest.weights.model import Model
from palimpsest.worlds.files import read_mask


def declare_flow_edit(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest flow-edit`."""
    about = COMMANDS["flow-edit"]
    p = command(commands, "flow-edit", about, run_flow_edit)
    input_argument(p)
    p.add_argument("--source", required=True, metavar="TEXT", help="what it shows, in words")
    p.add_argument("--target", required=True, metavar="TEXT", help="what it should show, in words")
    p.add_argument("--mask", metavar="M", help="white where the picture may change (default: everywhere)")
    shown_options(p)
    options(
        p,
        flow_edit,
        {
            "start": "where on the line from picture to noise to begin, in (0, 1]: higher edits more",
            "w_target": "guidance scale under the target",
            "w_source": "guidance scale under the source",
            "steps": "of the whole line, of which start · steps are walked",
            "averages": "noises to average over in each step",
            "last": "steps at the end that sample under the target alone, for edits that change much",
            "seed": "of the noise",
        },
    )
    steps_option(p, "the picture on its way")
    compare_option(p, "the mask, or without one what changed,")
    shared_options(p, estimates=True)


def run_flow_edit(a: argparse.Namespace) -> Made | None:
    """One picture edited."""
    picture, mask = open_input(a.input, a.crop), None
    if a.mask is not None:
        with blame("mask"):
            mask = read_mask(a.mask, of=picture)
    work = Work(
        lambda model, latent: passes(a, model), picture, check=lambda m: m.embed([a.source, a.target])
    )
    if a.estimate:
        return dry_run(a, work)
    model = load_model(a)
    check_room(a, model, work)
    note_wording(model, {"source": a.source, "target": a.target})
    picture = seen_by(picture, model, a.size)
    x = picture.view()
    with progress(model, calls(passes(a, model)), "flow-edit"):
        e = flow_edit(
            model,
            x,
            a.source,
            a.target,
            mask=region_of(mask, picture),
            steps=a.steps,
            start=a.start,
            w_source=a.w_source,
            w_target=a.w_target,
            averages=a.averages,
            last=a.last,
            seed=a.seed,
        )
    shown, before = picture.restore(e.picture.cpu(), mask), as_it_was(picture)
    return Made(
        [shown],
        f"from s = {e.times[0]:.3g} (σ {model.schedule.sigma(e.levels[0]):.3g}), {e.calls} evaluations, "
        f"distance {rmse(e.picture.cpu(), x).item():.3f}",
        before=before,
        between=lambda: (
            {"what changed": change(before, shown)}
            if mask is None
            else {"mask": at_the_files_size(picture, mask)}
        ),
        after=a.target,
        walk=Walk.of(model, e.path, e.levels),
    )


def passes(a: argparse.Namespace, model: Model) -> list[Passes]:
    """Of the net: under both texts for each noise of each step, then under the target alone."""
    times = walked(model.schedule, a.steps, a.start)
    last = min(a.last, len(times) - 1)
    edited = (len(times) - 1 - last) * a.averages
    found = [
        Passes("under the target", edited, branches(a.target, a.w_target), kept=len(times)),
        Passes("under the source", edited, branches(a.source, a.w_source)),
        Passes("sample under the target", last, branches(a.target, a.w_target)),
    ]
    return [p for p in found if p.times]
