"""The certificate: our nets and walks beside the reference programs, on the same weights.

    python -m palimpsest.claims.verify                       small nets with random weights: a minute
    python -m palimpsest.claims.verify --size full           the published sizes, one net in memory at a time
    python -m palimpsest.claims.verify NAME --device cuda    a real checkpoint, and what was published of it

A row is one comparison. Its figure is the largest difference in units of the largest value of the
reference, max|a − b| / max|b|, at the output and, for a net, at every block on the way: found by hooks on
both nets, which the names of weights/public/layouts.py bring together. Of a mask it is the share of cells
that differ. A group of rows is a function (Setting) -> iterator of Row, Skipped and Remark;
claims/verify/__main__.py lists the groups."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from palimpsest.weights.model import Model

# What may differ, by the dtype of the nets: more than was measured on the small nets (logits in bfloat16
# .06, else a third), less than a mistake makes.
EXACT, HALF = (torch.float64, torch.float32), (torch.bfloat16, torch.float16)
NET = dict(zip(EXACT + HALF, (1e-7, 1e-4, 0.1, 0.01)))  # in one pass of a net
LOGITS = dict(
    zip(EXACT + HALF, (1e-7, 1e-4, 0.1, 0.02))
)  # in products of vectors nearly at right angles, which cancel
WALK = dict(zip(EXACT + HALF, (1e-6, 1e-3, 0.3, 0.03)))  # after ten guided steps
CELLS = dict(
    zip(EXACT + HALF, (0.0, 0.0, 0.02, 0.02))
)  # which share of a mask: values close to its threshold


class Setting(NamedTuple):
    """What is compared: nets of one size with random weights, or those of a checkpoint (`model`)."""

    size: str = "small"  # "small" or "full": the published configurations
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    model: Model | None = None  # whose weights are compared; None: random ones
    tower: nn.Module | None = None  # or those of a CLIP or a DINO
    seed: int = 0

    @property
    def name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def allow(self, tolerances: Mapping[torch.dtype, float]) -> float:
        """What may differ in the dtype at hand."""
        return tolerances[self.dtype]


class Row(NamedTuple):
    """One comparison. census: (parameters, tensors) of the net; blocks: the difference at each block, in
    the order of the calls.
    """

    what: str
    setting: str  # sizes of the input, and the dtype
    layout: str  # through which names the weights went
    reference: str  # the program and its version
    census: tuple[int, int] | None
    blocks: dict[str, float]
    output: float
    tolerance: float

    @property
    def worst(self) -> tuple[str, float]:
        """The block with the largest difference, and that difference."""
        return max(self.blocks.items(), key=lambda block: block[1], default=("", 0.0))

    @property
    def passed(self) -> bool:
        """Whether output and blocks are within the tolerance; NaN is not."""
        return self.output <= self.tolerance and all(
            value <= self.tolerance for value in self.blocks.values()
        )


class Skipped(NamedTuple):
    """A comparison that was not made."""

    what: str
    why: str


class Remark(NamedTuple):
    """Where the reference does something else than we do, and knowingly so; measured where that is cheap."""

    what: str


class Missing(ImportError):
    """A reference program that is not installed."""


def reference(name: str) -> ModuleType:
    """A reference program by the name of its module. They are no dependencies of this library: raises
    Missing where it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Missing(
            f"{name.split('.')[0]} is not installed here; the extra palimpsest[test] brings it"
        ) from None


def version(name: str) -> str:
    """ "diffusers 0.30.0"."""
    return f"{name} {importlib.metadata.version({'open_clip': 'open_clip_torch'}.get(name, name))}"


def relative(ours: Tensor, theirs: Tensor) -> float:
    """max|a − b| / max|b|; infinite where the shapes differ, NaN where a value is not finite."""
    if ours.shape != theirs.shape:
        return float("inf")
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def census(net: nn.Module) -> tuple[int, int]:
    """(how many parameters, in how many tensors)"""
    parameters = list(net.parameters())
    return sum(p.numel() for p in parameters), len(parameters)


# ---- how it is printed ----

WIDTHS = (10, 42, 32, 14, 22, 52, 10, 8)  # of the columns but the last


def _line(*cells: str) -> str:
    return "".join(f"{cell:<{width}}" for cell, width in zip(cells, WIDTHS)) + cells[-1]


HEADER = _line(
    "",
    "what",
    "input",
    "layout",
    "parameters, tensors",
    "largest difference at a block",
    "output",
    "allowed",
    "reference",
)


def written(result: Row | Skipped | Remark, blocks: bool = False) -> str:
    """A result as text, one line; with `blocks` a line for each block below it."""
    if isinstance(result, Skipped):
        return f"not run   {result.what}: {result.why}"
    if isinstance(result, Remark):
        return f"note      {result.what}"
    count = f"{result.census[0]:,} in {result.census[1]}" if result.census else ""
    block, most = result.worst
    largest = f"{most:.1e} at {block}, of {len(result.blocks)}" if result.blocks else ""
    line = _line(
        "ok" if result.passed else "FAILED",
        result.what,
        result.setting,
        result.layout,
        count,
        largest,
        f"{result.output:.1e}",
        f"{result.tolerance:.0e}",
        result.reference,
    )
    shown = result.blocks.items() if blocks else ()
    return line + "".join(f"\n            {name:<50}{value:.1e}" for name, value in shown)
