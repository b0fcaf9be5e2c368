"""`--estimate`: what a command would cost, printed instead of doing it; and what the methods share of
their passes.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence

import torch

from palimpsest.cli.commands.pictures import seen_by
from palimpsest.cli.console import tell
from palimpsest.weights.estimate import Estimate, Learning, Passes, estimate, table
from palimpsest.weights.load import load, pick_device, pick_dtype
from palimpsest.weights.model import Model
from palimpsest.worlds.files import Original

Plan = Callable[
    [Model, tuple[int, int]], Sequence[Passes | Learning]
]  # (model, rows and columns of its latents) -> its passes


def dry_run(
    a: argparse.Namespace,
    plan: Plan,
    picture: Original | None = None,
    *,
    pictures: int = 1,
    decodes: int = 1,
    given: int = 1,
    exact: bool = False,
    check: Callable[[Model], object] = lambda b: None,
) -> None:
    """Print the cost of a command; nothing is computed and nothing written.

    picture: the one that it edits, None where it makes one of the model's own size; given: how many such
    there are; pictures: decoded at once in the end, so many times; exact: whether the nets have to be
    float32 wherever they run; check: what the command itself refuses a model by before it computes, as
    one that cannot read its texts."""
    device = intended_device(a)
    model = load(a.model, "meta", torch.float32 if exact else pick_dtype(device))
    check(model)
    size = (
        (model.size, model.size)
        if picture is None
        else seen_by(picture, model, getattr(a, "size", None)).seen
    )
    factor = model.factor
    print_estimate(
        model,
        size,
        device,
        estimate(
            model,
            size,
            plan(model, (size[0] // factor, size[1] // factor)),
            pictures=pictures,
            decodes=decodes,
            given=given * (picture is not None),
            workspace=device.type == "cpu",
        ),
    )


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
