"""palimpsest instruct-pix2pix: the command of methods/instruct_pix2pix.py."""

from __future__ import annotations

import argparse

import torch

from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.commands.dry_run import Work, check_room, dry_run
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
from palimpsest.cli.commands.solvers import evaluations, solver_options, step_of
from palimpsest.cli.commands.wording import note_absent, note_wording
from palimpsest.cli.deliver import Made, Walk, change
from palimpsest.cli.manners import Mistake, command, options, progress, shared_options
from palimpsest.methods.instruct_pix2pix import check_model, instruct_pix2pix
from palimpsest.weights.estimate import Passes
from palimpsest.weights.model import Model


def declare_instruct_pix2pix(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest instruct-pix2pix`."""
    about = COMMANDS["instruct-pix2pix"]
    p = command(commands, "instruct-pix2pix", about, run_instruct_pix2pix)
    input_argument(p)
    p.add_argument(
        "--instruction",
        required=True,
        metavar="I",
        help='what to change, as in "make the star blue"; "" changes nothing',
    )
    shown_options(p)
    options(
        p,
        instruct_pix2pix,
        {
            "s_text": "how strongly the instruction is followed: the paper's model 5 to 10, ours 1.5 to 3",
            "s_image": "how strongly the picture is kept: 1 to 1.5",
            "steps": "of the walk",
            "seed": "of the noise",
            "start": "where the walk starts, as a fraction of the whole noising time",
        },
    )
    solver_options(p, eta=1.0)
    steps_option(p)
    compare_option(p)
    shared_options(p, estimates=True)
    p.set_defaults(model="shapes-instruct")


def run_instruct_pix2pix(a: argparse.Namespace) -> Made | None:
    """One picture edited as it is told to be."""
    walked = [name for name in ("save-steps", "gif") if getattr(a, name.replace("-", "_"))]
    if walked and not a.instruction.strip():
        raise Mistake(
            f"{walked[0]}: an empty instruction returns the picture without a walk; give one, or leave this "
            "out"
        )
    picture = open_input(a.input, a.crop)
    work = Work(lambda b, latent: passes(a, b), picture)
    if a.estimate:
        return dry_run(a, work)
    model = load_model(a)
    check_model(model)
    check_room(a, model, work)
    picture = seen_by(picture, model, a.size)
    note_wording(model, {"instruction": a.instruction}, instructs=True)
    note_absent(model, picture.view(), a.instruction)
    with progress(model, evaluations(a, a.steps), "edit"):
        edit = instruct_pix2pix(
            model,
            picture.view(),
            a.instruction,
            s_text=a.s_text,
            s_image=a.s_image,
            steps=a.steps,
            step=step_of(a),
            start=a.start,
            seed=a.seed,
        )
    silent = not a.instruction.strip()
    nothing = torch.zeros(1, 1, *picture.box[2:]) if silent else None
    shown, before = picture.restore(edit.picture.cpu(), nothing), as_it_was(picture)
    said = f"s_text {a.s_text:g}, s_image {a.s_image:g}, seed {a.seed}"
    return Made(
        [shown],
        "the picture as it was, as the instruction is empty" if silent else said,
        before=before,
        between=lambda: {"what changed": change(before, shown)},
        after=a.instruction or "after",
        walk=Walk.of(model, edit.path, edit.levels),
    )


def passes(a: argparse.Namespace, model: Model) -> list[Passes]:
    """The net's evaluations: in one batch the answers of Eq. (16) that no scale multiplies by zero.

    An empty instruction needs none.
    """
    check_model(model)
    answers = sum(weight != 0 for weight in (1 - a.s_image, a.s_image - a.s_text, a.s_text))
    return [
        Passes(
            "walk down",
            evaluations(a, a.steps) * bool(a.instruction.strip()),
            answers,
            kept=a.steps + 1,
            beside=model.latent_shape[0],
        )
    ]
