"""How often a model's network is evaluated: one count, which progress bars and results share.

with counted(model, len(x)) as evaluations:
    path = redo(model, inversion)
evaluations.each                       # (b,): of each picture; a guided step costs two
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from palimpsest.weights.model import Model


class Evaluations:
    """Network evaluations so far, of each of b pictures. Nothing but forward passes is counted."""

    def __init__(self, each: Tensor):
        self.each = each  # (b,) whole numbers, on the CPU
        self._pictures, self._batch = list(range(len(each))), len(each)

    @contextmanager
    def of(self, pictures: Sequence[int], batch: int | None = None) -> Iterator[None]:
        """Inside, evaluations count for these pictures alone.

        batch: how many pictures are evaluated there; None: these and no others.
        """
        before = self._pictures, self._batch
        self._pictures, self._batch = list(pictures), len(pictures) if batch is None else batch
        try:
            yield
        finally:
            self._pictures, self._batch = before

    def add(self, rows: int) -> None:
        """One forward pass of so many rows; guidance stacks its two branches, two rows for each picture."""
        self.each[self._pictures] += rows // self._batch


@contextmanager
def counted(
    model: Model, pictures: int | Tensor = 1, each_pass: Callable[[], object] | None = None
) -> Iterator[Evaluations]:
    """Count the network evaluations of this model inside.

    pictures: how many each batch holds; or a count for each (b,) to go on from. each_pass: called after
    every forward pass, whatever its batch.
    """
    start = torch.zeros(pictures, dtype=torch.long) if isinstance(pictures, int) else pictures.clone()
    evaluations = Evaluations(start)

    def evaluated(rows: int) -> None:
        evaluations.add(rows)
        if each_pass is not None:
            each_pass()

    model.listeners.append(evaluated)
    try:
        yield evaluations
    finally:
        model.listeners.remove(evaluated)
