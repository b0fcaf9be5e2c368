"""palimpsest sdedit: the command of methods/sdedit.py."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.commands.dry_run import Work, branches, check_room, dry_run
from palimpsest.cli.commands.loading import load_model
from palimpsest.cli.commands.pictures import (
    as_it_was,
    at_the_files_size,
    compare_option,
    framed_for,
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
from palimpsest.cli.console import say, tell
from palimpsest.cli.deliver import Made, Walk
from palimpsest.cli.manners import Mistake, blame, command, number, options, progress, shared_options
from palimpsest.methods.inputs import latent_mask
from palimpsest.methods.sdedit import USUAL_STEPS, Edit, Search, at_distance, bisect_t0, sdedit
from palimpsest.metrics.image import rmse
from palimpsest.weights.estimate import Passes
from palimpsest.weights.model import Model
from palimpsest.worlds.files import Original, open_picture, read_mask, write_picture


def declare_sdedit(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest sdedit`."""
    about = COMMANDS["sdedit"]
    p = command(commands, "sdedit", about, run_sdedit)
    input_argument(p, "the guide: a painting, a collage, a photo")
    p.add_argument("--mask", metavar="M", help="white where the picture may change, black where it must stay")
    p.add_argument("--original", metavar="O", help="with a mask: what the kept part comes from (default: IN)")
    shown_options(p)
    options(p, sdedit, {"prompt": "what it should be, in words"})
    how_deep = p.add_mutually_exclusive_group()
    t0 = (
        "how much noise covers the guide, in (0, 1]; .3 to .6 is the useful band. One t0 is another "
        "noise level in another walk or model: compare the σ that is printed"
    )
    options(how_deep, sdedit, {"t0": t0})
    how_deep.add_argument(
        "--target-distance",
        type=number,
        metavar="X",
        help="choose t0 by bisection, for this RMSE in (0, 1) between edit and guide",
    )
    how_deep.add_argument(
        "--ask", action="store_true", help="choose t0 by asking: more faithful, or more realistic?"
    )
    walk = {
        "repeats": "rounds, each on the result of the last",
        "walk": "vp or ve",
        "steps": "of the walk",
        "w": "guidance scale",
        "seed": "of the noise",
    }
    options(p, sdedit, walk)
    solver_options(p.add_argument_group("the step of the vp walk"), eta=1.0)
    paste_option(p)
    p.add_argument(
        "--save-mask", metavar="PNG", help="also write the mask as the model used it, in latent cells"
    )
    steps_option(p)
    compare_option(p, "the mask, or without one the guide under its noise,")
    shared_options(p, estimates=True)


def run_sdedit(a: argparse.Namespace) -> Made | None:
    """One picture edited, at a given t0 or at one that is searched for."""
    if a.mask is None and (a.save_mask or a.original or not a.paste):
        raise Mistake("mask: --save-mask, --original and --no-paste make sense only with a --mask")
    if a.walk == "ve" and (a.solver is not None or a.eta != 1):
        option = "eta" if a.solver is None else "solver"
        raise Mistake(f"{option}: is of the vp walk, and ve has a step of its own; leave it out")
    if a.walk == "ve" and a.steps is None:
        a.steps = USUAL_STEPS  # as `sdedit` does: what a model recommends is for the vp walk
        a.chosen = dict(steps=a.steps)

    picture = open_input(a.input, a.crop)
    kept = picture if a.original is None else original_of(a, picture)
    mask = None
    if a.mask is not None:
        with blame("mask"):
            mask = read_mask(a.mask, of=picture)
    work = Work(lambda model, latent: passes(a), picture, check=lambda model: model.denoiser(a.prompt))
    if a.estimate:
        return dry_run(a, work)
    model = load_model(a)
    check_room(a, model, work)
    note_wording(model, {"prompt": a.prompt})
    picture, kept = seen_by(picture, model, a.size), framed_for(kept, model, a.size)
    guide, region = picture.view(), region_of(mask, picture)
    original = None if mask is None else kept.view()

    def edit(t0: float) -> Edit:
        return call_sdedit(model, a, t0, guide, region, original)

    def result(e: Edit) -> Tensor:
        return e.picture if a.paste else e.raw

    def restored(e: Edit) -> Tensor:
        return kept.restore(result(e), mask if a.paste else None)

    if a.ask or a.target_distance is not None:
        t0, e = searched(a, model, guide, edit, lambda e: write_picture(restored(e), a.out))
    else:
        t0, e = a.t0, edit(a.t0)
    distance = rmse(result(e).cpu(), guide).item()

    def between() -> dict[str, Tensor]:
        if mask is not None:
            return {"mask": at_the_files_size(picture, mask)}
        return {f"under noise, t0 {t0:.2g}": picture.restore(model.decode(e.noised).cpu())}

    return Made(
        [restored(e)],
        f"t0 {t0:.3f} (σ {e.sigma:.3g}, SNR {e.snr:.3g}), distance {distance:.3f}",
        before=as_it_was(picture),
        between=between,
        after=a.prompt or "after",
        more={"save_mask": lambda: mask_picture(region, e.path[0])},
        walk=Walk.of(model, e.path, e.levels),
        settings={"t0": t0, "ask": False, "target_distance": None},
    )


def original_of(a: argparse.Namespace, picture: Original) -> Original:
    """The file that --original names, which must be as large as the picture."""
    with blame("original"):
        kept = open_picture(a.original)
        kept = kept.square() if a.crop else kept
        if kept.size != picture.size or kept.box != picture.box:
            raise Mistake(
                f"{a.original} must have the size of {a.input}, {picture.size[1]}×{picture.size[0]}"
            )
    return kept


def call_sdedit(
    model: Model,
    a: argparse.Namespace,
    t0: float,
    guide: Tensor,
    region: Tensor | None,
    original: Tensor | None,
) -> Edit:
    """`sdedit` with what the command line says, at this t0."""
    with progress(model, a.repeats * evaluations(a, a.steps), f"t0 {t0:.2f}"):
        return sdedit(
            model,
            guide,
            a.prompt,
            t0=t0,
            mask=region,
            original=original,
            repeats=a.repeats,
            walk=a.walk,
            steps=a.steps,
            w=a.w,
            step=None if a.solver is None and a.eta == 1 else step_of(a),
            seed=a.seed,
        )


def searched(
    a: argparse.Namespace,
    model: Model,
    guide: Tensor,
    edit: Callable[[float], Edit],
    write: Callable[[Edit], None],
) -> tuple[float, Edit]:
    """The t0 that --ask or --target-distance finds, and its edit."""
    with blame("target-distance"):
        judge = ask(write, a.out) if a.ask else at_distance(guide, a.target_distance)
    low = min(max(0.05, a.steps / model.schedule.T), 0.9)  # a VP walk needs as many times as steps
    found: Search = bisect_t0(edit, judge, low=low)
    if not a.ask and judge(found.edit) != 0:
        say(
            f"note: target-distance: {len(found.tried)} rounds came no nearer to {a.target_distance:g}; "
            "the nearest is written"
        )
    return found.t0, found.edit


def ask(write: Callable[[Edit], None], out: str) -> Callable[[Edit], float]:
    """A judge for bisect_t0: a person, at the terminal or through a pipe. The end of the answers means
    content.
    """
    wishes = {"f": -1.0, "faithful": -1.0, "r": 1.0, "realistic": 1.0, "d": 0.0, "done": 0.0, "": 0.0}

    def judge(e: Edit) -> float:
        write(e)
        while True:
            tell(f"{out} (σ {e.sigma:.3g}): more [f]aithful, more [r]ealistic, or [d]one? ", end="")
            answer = sys.stdin.readline().strip().lower()
            if answer.removeprefix("more ") in wishes:
                return wishes[answer.removeprefix("more ")]

    return judge


def passes(a: argparse.Namespace) -> list[Passes]:
    """The net's evaluations; where t0 is searched for, those of all rounds that the search may take."""
    rounds = (
        inspect.signature(bisect_t0).parameters["rounds"].default
        if a.ask or a.target_distance is not None
        else 1
    )
    rows, times = branches(a.prompt, a.w), a.repeats * evaluations(a, a.steps)
    return [
        Passes(
            "walk down" if rounds == 1 else f"walk down, at most {rounds} rounds",
            rounds * times,
            rows,
            kept=a.steps + 1,
        )
    ]


def mask_picture(region: Tensor, latents: Tensor) -> Tensor:
    """The mask that the walk used, white = edited: (1 1 y x) -> (1 3 y x)."""
    cells = latent_mask(region, latents)
    return F.interpolate(cells, region.shape[-2:]).expand(-1, 3, -1, -1) * 2 - 1
