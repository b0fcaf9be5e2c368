"""The processes of a run: those of torchrun."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch import nn


def rank_and_world() -> tuple[int, int]:
    """(rank, number of processes) as torchrun tells them; (0, 1) without torchrun."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@contextmanager
def process_group(net: nn.Module) -> Iterator[None]:
    """Under torchrun, join the other processes, and leave them at the end.

    Nothing is done for a process that is alone, or where the caller has joined them before.
    """
    joins = rank_and_world()[1] > 1 and not dist.is_initialized()
    if joins:
        dist.init_process_group("nccl" if next(net.parameters()).is_cuda else "gloo")
    try:
        yield
    finally:
        if joins:
            dist.destroy_process_group()
