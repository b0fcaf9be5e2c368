"""`--estimate`: what a command would cost, printed instead of doing it; whether there is room for it; and
what the methods share of their passes.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from palimpsest.cli.commands.loading import load_model
from palimpsest.cli.commands.pictures import framed_for
from palimpsest.cli.console import say, tell
from palimpsest.cli.manners import Mistake
from palimpsest.weights.estimate import Estimate, Learning, Passes, as_bytes, estimate, table
from palimpsest.weights.load import DType, count_parameters, pick_device, pick_dtype
from palimpsest.weights.memory import free_memory
from palimpsest.weights.model import Model
from palimpsest.worlds.files import Original

Plan = Callable[
    [Model, tuple[int, int]], Sequence[Passes | Learning]
]  # (model, rows and columns of its latents) -> its passes


class Work(NamedTuple):
    """What a command is about to do, as far as its cost goes."""

    plan: Plan
    picture: Original | None = None  # the one that it edits; None where it makes one of the model's own size
    pictures: int = 1  # decoded at once in the end …
    decodes: int = 1  # … so many times
    given: int = 1  # pictures such as `picture`
    exact: bool = False  # whether the nets have to be float32 wherever they run
    # what the command itself refuses a model by before it computes, as one that cannot read its texts
    check: Callable[[Model], object] = lambda model: None


def dry_run(a: argparse.Namespace, work: Work) -> None:
    """Print the cost of a command; nothing is computed and nothing written."""
    device = intended_device(a)
    model = meta_model(a, device, torch.float32 if work.exact else a.dtype)
    work.check(model)
    size = seen(model, work.picture, getattr(a, "size", None))
    print_estimate(model, size, device, cost_of(model, work, size, device))


def meta_model(a: argparse.Namespace, device: torch.device, dtype: DType, name: str | None = None) -> Model:
    """The model on the meta device, its nets in the dtype that they would have on this one; name: another."""
    model = load_model(a, torch.float32, "meta", name)
    chosen = pick_dtype(device, count_parameters(model), dtype)
    for net in (model.net, model.text, model.vae):
        if net is not None:
            net.to(chosen)
    return model


LOSES = "gradients through half precision lose the last digits"


def float32_of(a: argparse.Namespace, why: str) -> torch.dtype:
    """float32, whatever --dtype says: then a note says so, and why."""
    if a.dtype in ("bfloat16", "float16"):
        say(f"note: dtype: float32 is taken, not {a.dtype}: {why}")
    return torch.float32


def seen(model: Model, picture: Original | None, size: int | None) -> tuple[int, int]:
    """(rows, columns) of what the model is shown, or paints."""
    return (model.size, model.size) if picture is None else framed_for(picture, model, size).seen


def cost_of(model: Model, work: Work, size: tuple[int, int], device: torch.device) -> Estimate:
    """What the work costs on a model of the meta device, with pictures of this size (y, x)."""
    return estimate(
        model,
        size,
        work.plan(model, (size[0] // model.factor, size[1] // model.factor)),
        pictures=work.pictures,
        decodes=work.decodes,
        given=work.given * (work.picture is not None),
        workspace=device.type == "cpu",
    )


# ---- is there room? ----

EACH = 2**16  # bytes that a pixel takes at most, over all that any net here keeps of it


def check_room(a: argparse.Namespace, model: Model, work: Work) -> None:
    """Raises Mistake, before the work, where it would take more memory than there is to be had.

    Small work is not looked at closely: an estimate takes a second or two.
    """
    free, side = free_memory(model.device), getattr(a, "size", None) or model.size
    y, x = seen(model, work.picture, side)
    if free is None or EACH * y * x * max(work.pictures, work.given, 2) < free:
        return
    shapes = load_model(a, model.dtype, "meta")

    def needs(side: int) -> int:
        """Bytes, the weights aside, for pictures whose shorter side is so long."""
        cost = cost_of(shapes, work, seen(shapes, work.picture, side), model.device)
        return cost.peak - cost.weights

    usual = needs(model.size)
    needed = usual * side**2 // model.size**2  # at least: attention may grow faster
    needed = needs(side) if needed <= free else needed
    if needed <= free:
        return
    what = f"about {as_bytes(needed)} of memory, and {as_bytes(free)} are free"
    if side == model.size:
        name = "n" if getattr(a, "n", 1) > 1 else "IN"
        raise Mistake(f"{name}: this takes {what}; ask for less at once, or take a smaller --size")
    most = math.isqrt(model.size**2 * free // usual) // model.grid * model.grid
    while most > model.grid and needs(most) > free:
        most = most * 3 // 4 // model.grid * model.grid
    raise Mistake(f"size: {side} shows the model {x}×{y} pixels, which takes {what}; take {most} or less")


def intended_device(a: argparse.Namespace) -> torch.device:
    """The device of the real run. A GPU need not be there to be estimated for."""
    return torch.device("cuda") if re.fullmatch(r"cuda(:\d+)?", a.device) else pick_device(a.device)


def print_estimate(model: Model, size: tuple[int, int], device: torch.device, cost: Estimate) -> None:
    """Print what a command would cost on this model, for pictures of this size (y, x)."""
    tell(
        f"{model.name} on {device.type}, pictures of {size[1]}×{size[0]} (estimate: nothing "
        "was computed, and seconds are not promised)"
    )
    tell(table(cost))


def calls(passes: Sequence[Passes]) -> int:
    """How often they ask the net: the length of a bar."""
    return sum(p.times for p in passes)


# ---- passes that several methods have ----


def branches(text: str, w: float) -> int:
    """Rows for each picture: two where guidance compares two texts, one where a branch would be
    multiplied by 0 or say the same.
    """
    return 1 if w in (0, 1) or not text else 2


def inversion(steps: int, iterations: int = 0, what: str = "invert") -> list[Passes]:
    """DDIM's walk up, under the prompt alone."""
    return [Passes(what, steps * (1 + iterations), kept=steps + 1)]


def tuning(
    steps: int, inner: int, w: float, *, iterations: int = 0, solver: str = "adam", start: str = "empty"
) -> list[Passes]:
    """Null-text inversion, at most: a step whose loss is small enough stops before."""
    if w == 1:  # there is nothing to be tuned then
        return [*inversion(steps, iterations), Passes("walk down, untuned", steps)]
    looks = [Passes("ask with the prompt", steps)]
    if start == "between":
        looks.append(Passes("find a first guess", steps))
    if solver == "gauss-newton":
        looks += [
            Passes("probe along the update, at most", steps * inner),
            Passes("take a bad step again, at most", steps, 2),
        ]
    return [
        *inversion(steps, iterations),
        *looks,
        Passes("tune, at most", steps * inner, backward=True),
        Passes("walk down, tuned", steps, 2),
    ]


def guided(steps: int, w: float, rows: int = 1, what: str = "walk down") -> list[Passes]:
    """A walk down of some rows that keeps its path, both branches of its guidance in one batch."""
    return [Passes(what, steps, rows * (1 if w in (0, 1) else 2), kept=rows * (steps + 1))]
