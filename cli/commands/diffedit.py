"""palimpsest diffedit: the command of methods/diffedit.py."""

from __future__ import annotations

import argparse
from dataclasses import fields

from torch import Tensor

from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.commands.dry_run import Work, branches, calls, check_room, dry_run, inversion
from palimpsest.cli.commands.loading import load_model
from palimpsest.cli.commands.pictures import (
    as_it_was,
    at_the_files_size,
    compare_option,
    input_argument,
    open_input,
    paste_option,
    region_of,
    seen_by,
    shown_options,
    steps_option,
)
from palimpsest.cli.commands.solvers import evaluations, solver_options, step_of
from palimpsest.cli.commands.wording import note_wording
from palimpsest.cli.console import say
from palimpsest.cli.deliver import Made, Walk
from palimpsest.cli.manners import Mistake, blame, command, options, progress, shared_options
from palimpsest.methods.diffedit import Ablation, DiffEdit, MaskRule, diffedit
from palimpsest.metrics.image import rmse
from palimpsest.weights.estimate import Passes
from palimpsest.weights.model import Model
from palimpsest.worlds.files import read_mask


def declare_diffedit(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest diffedit`."""
    about = COMMANDS["diffedit"]
    p = command(commands, "diffedit", about, run_diffedit)
    input_argument(p)
    options(p, diffedit, {"source": "what it shows, in words, or nothing"})
    p.add_argument("--target", required=True, metavar="TEXT", help="what it should show, in words")
    p.add_argument(
        "--mask", metavar="M", help="your own: white where the picture may change (default: it is found)"
    )
    shown_options(p)
    walk = {
        "ratio": "how far to encode, in (0, 1]: higher edits more and keeps less",
        "w": "guidance scale",
        "steps": "of the whole time, of which ratio · steps are walked",
        "seed": "of the noise",
    }
    options(p, diffedit, walk)
    solver_options(p)
    rule = {
        "maps": "noises to average over",
        "level": "how much noise to compare the texts at, as a share of the whole time, in (0, 1]",
        "threshold": "what of the heat map is edited: lower edits more",
        "clamp": "how extremes are removed, quantile or mean",
        "q": "quantile: cut at this quantile, and its counterpart below",
        "r": "mean: cut at r times the mean",
        "reduce": "mean_abs or abs_mean, over the noises",
        "grow": "widen the mask by so many latent cells",
    }
    options(p.add_argument_group("the mask that is found"), MaskRule, rule)
    ablations = p.add_argument_group("the paper's ablations")
    ablation = {
        "use_mask": "off: edit everywhere",
        "encode": "off: noise the picture instead of encoding it",
        "blend": "level, or x0 as GLIDE does",
        "iterations": "of fixed-point encoding, per step",
    }
    options(ablations, Ablation, ablation)
    paste_option(ablations)
    p.add_argument(
        "--save-mask",
        metavar="PNG",
        help="also write the mask, at the file's size: touch it up and give it to --mask",
    )
    p.add_argument("--save-heat", metavar="PNG", help="also write the heat map that the threshold cuts")
    steps_option(p, "the walk down")
    compare_option(p, "the heat map and the mask")
    shared_options(p, estimates=True)


def run_diffedit(a: argparse.Namespace) -> Made | None:
    """One picture edited, under a found mask or a given one."""
    if a.save_heat is not None and (a.mask is not None or not a.use_mask):
        raise Mistake(
            "save-heat: there is a heat map only where a mask is found; leave out --mask and --no-use-mask"
        )
    if a.save_mask is not None and not a.use_mask:
        raise Mistake("save-mask: there is no mask with --no-use-mask; leave one of the two out")

    picture = open_input(a.input, a.crop)
    mask = None
    if a.mask is not None:
        with blame("mask"):
            mask = read_mask(a.mask, of=picture)
    texts = [text for text in (a.target, a.source) if text]
    work = Work(
        lambda model, latent: passes(a),
        picture,
        check=lambda model: [model.denoiser([text]) for text in texts],
    )
    if a.estimate:
        return dry_run(a, work)
    model = load_model(a)
    check_room(a, model, work)
    note_wording(model, {"source": a.source, "target": a.target})
    picture = seen_by(picture, model, a.size)
    x = picture.view()
    e = call_diffedit(model, a, x, region_of(mask, picture))
    if e.empty:
        say(f"note: the mask is empty, so nothing of {a.input} was edited: {why_empty(a, e)}")

    region = picture.back(e.mask) if mask is None else mask
    # e.picture has the kept pixels as the model sees them; the file's own, at its size, are put back here
    shown = picture.restore(e.picture, region) if a.paste else picture.restore(e.raw)

    def found() -> Tensor:
        return at_the_files_size(picture, (picture.back(e.cells) > 0.5).float())

    def heat() -> Tensor:
        return at_the_files_size(picture, picture.back(e.heat))

    def between() -> dict[str, Tensor]:
        if mask is not None:
            return {"mask": at_the_files_size(picture, mask)}
        return {"heat map": heat(), "mask": found()} if a.use_mask else {}

    distance = rmse((e.picture if a.paste else e.raw).cpu(), x).item()
    return Made(
        [shown],
        f"edits {e.mask.mean():.0%} of the picture, ratio {a.ratio:g} "
        f"(σ {model.schedule.sigma(e.levels[0]):.3g}), distance {distance:.3f}",
        before=as_it_was(picture),
        between=between,
        after=a.target,
        more={"save_mask": found, "save_heat": heat},
        walk=Walk.of(model, e.path, e.levels),
    )


def call_diffedit(model: Model, a: argparse.Namespace, x: Tensor, mask: Tensor | None) -> DiffEdit:
    """`diffedit` with what the command line says; x and its mask as the model sees them."""
    rule, ablation = (
        record(**{field.name: getattr(a, field.name) for field in fields(record)})
        for record in (MaskRule, Ablation)
    )
    with progress(model, calls(passes(a)), "diffedit"):
        return diffedit(
            model,
            x,
            a.source,
            a.target,
            mask=mask,
            rule=rule,
            ratio=a.ratio,
            steps=a.steps,
            w=a.w,
            step=step_of(a),
            ablation=ablation,
            seed=a.seed,
        )


def passes(a: argparse.Namespace) -> list[Passes]:
    """The net's evaluations: to find the mask, to encode, and on the way down."""
    walked, compared = max(1, round(a.ratio * a.steps)), 2 * a.maps * (a.mask is None and a.use_mask)
    up = inversion(walked, a.iterations, "encode") if a.encode else []
    rows = branches(a.source + a.target, a.w)
    return [
        Passes("find the mask", compared),
        *up,
        Passes("decode", evaluations(a, walked), rows, kept=walked + 1),
    ]


def why_empty(a: argparse.Namespace, e: DiffEdit) -> str:
    """The cause, and the knob."""
    if e.heat.any():
        return (
            f"nowhere do the texts differ by more than the threshold {a.threshold:g}; "
            "lower --threshold, or draw a --mask"
        )
    return "--source and --target say the same to the model; say in --target what should be different"
