"""The state of a run: the net, its average, the optimisers' moments, the losses; saved, loaded, looked at."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from palimpsest.fit.checkpoint import read_checkpoint, write_checkpoint
from palimpsest.fit.optimisers import optimisers_of
from palimpsest.fit.processes import rank_and_world
from palimpsest.fit.settings import Files, Settings
from palimpsest.outputs import write_text

PAUSE = 20.0  # seconds between two checkpoints on a GPU, which does `save_every` small steps in less

Loss = Callable[[nn.Module, Any, Generator], Tensor]  # (net, a batch, its generator) -> a scalar


class Fitted(NamedTuple):
    """What a run leaves behind."""

    net: nn.Module  # the net that was given, trained in place
    ema: nn.Module  # a copy of it that holds the moving average: the one to ship
    losses: list[float]  # one per step (under torchrun: rank 0's share)
    seconds: float  # spent in steps that count, over all stops and resumptions


class Run:
    """A run between two steps. `load` and `save` are all that resuming takes: nothing random outlives a step.

    until: a time as time.time() tells it, at which the run ends if its steps are not done before.
    """

    def __init__(self, loss: Loss, net: nn.Module, settings: Settings, files: Files, until: float):
        self.rank, world = rank_and_world()
        self.net, self.settings, self.files = net, settings, files
        self.identity = asdict(settings) | dict(world=world) | files.identity
        self.device = next(net.parameters()).device
        objective = _Objective(net, loss)
        # with DDP all ranks start from the weights of rank 0
        self.objective = DistributedDataParallel(objective) if world > 1 else objective
        self.params = [p for p in net.parameters() if p.requires_grad]
        self.average = copy.deepcopy(net).eval().requires_grad_(False)
        self.average_params = [
            a for a, p in zip(self.average.parameters(), net.parameters()) if p.requires_grad
        ]
        self.optimisers = optimisers_of(net, settings)
        self.done = 0  # steps
        self.losses: list[float] = []
        self.rates: list[float] = []  # the learning rate of each step
        self.pending: list[Tensor] = []  # loss and gradient norm of the steps since the last look
        self.before = 0.0  # seconds that earlier sessions took
        self.began = self.saved = time.monotonic()
        self.allowed = until - time.time()  # seconds of this session

    def load(self) -> None:
        """Go on from the checkpoint, if there is one, and begin the log anew.

        Raises ValueError for a damaged checkpoint, and for one of another run.
        """
        path = self.files.checkpoint
        if path is not None and self.files.resume and Path(path).exists():
            state = read_checkpoint(Path(path), self.identity)
            try:
                self.net.load_state_dict(state["net"])
                self.average.load_state_dict(state["ema"])
                for optimiser, saved in zip(self.optimisers, state["optimiser"]):
                    optimiser.load_state_dict(saved)
            except (RuntimeError, ValueError):
                raise ValueError(
                    f"checkpoint {path} is of another net: delete it, or pass resume=False"
                ) from None
            self.done, self.losses, self.rates = state["done"], state["losses"], state["rates"]
            self.before = state["seconds"]
        if self.files.log is not None and self.rank == 0:
            Path(self.files.log).parent.mkdir(parents=True, exist_ok=True)
            write_text(self.files.log, "step,lr,loss\n" + self._rows(0))

    def look(self) -> None:
        """Read the losses since the last look off the device, and log them.

        Raises FloatingPointError for the first that is not finite.
        """
        first = len(self.losses)
        for loss, norm in torch.stack(self.pending).tolist() if self.pending else []:
            if not (math.isfinite(loss) and math.isfinite(norm)):
                path = self.files.checkpoint
                kept = f"; {path} holds the last good state" if path and Path(path).exists() else ""
                raise FloatingPointError(
                    f"step {len(self.losses)}: loss {loss}, gradient norm {norm}: lower lr "
                    f"({self.settings.lr}), warm up longer, or look at the data of that step{kept}"
                )
            self.losses.append(loss)
        self.pending.clear()
        if self.files.log is not None and self.rank == 0:
            with open(self.files.log, "a", encoding="utf-8") as file:
                file.write(self._rows(first))

    def save(self) -> None:
        """Look at the losses, then write the checkpoint."""
        self.look()
        for a, b in zip(self.average.buffers(), self.net.buffers()):
            a.copy_(b)
        if self.files.checkpoint is None or self.rank > 0:
            return
        state = dict(
            run=self.identity,
            done=self.done,
            losses=self.losses,
            rates=self.rates,
            seconds=self.seconds(),
            net=self.net.state_dict(),
            ema=self.average.state_dict(),
            optimiser=[optimiser.state_dict() for optimiser in self.optimisers],
        )
        write_checkpoint(Path(self.files.checkpoint), state)
        self.saved = time.monotonic()
        if self.files.after_save is not None and not self.over():
            self.files.after_save(self.fitted())

    def save_is_due(self) -> bool:
        """Whether it is time for a checkpoint."""
        pause = max(self.files.pause, PAUSE if self.device.type == "cuda" else 0.0)
        return self.done % self.files.save_every == 0 and time.monotonic() - self.saved >= pause

    def seconds(self) -> float:
        """What the run has taken so far, over all its sessions."""
        return self.before + time.monotonic() - self.began

    def spent(self) -> float:
        """The share of the run's time that is gone; 0 for a run that does not end by the clock."""
        return min(1.0, self.seconds() / max(self.before + self.allowed, 1e-9))

    def over(self) -> bool:
        """Whether the last step is done, or the time is up."""
        return self.done == self.settings.steps or self.spent() >= 1

    def fitted(self) -> Fitted:
        """What the run has made so far."""
        return Fitted(self.net, self.average, self.losses, self.seconds())

    def _rows(self, first: int) -> str:
        """The log's rows from a step on."""
        steps = range(first, len(self.losses))
        return "".join(f"{n},{self.rates[n]:.6g},{self.losses[n]:.6g}\n" for n in steps)


class _Objective(nn.Module):
    """The loss as a module: so DDP sees every gradient, whichever parts of the net the loss calls."""

    def __init__(self, net: nn.Module, loss: Loss):
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, data: Any, generator: Generator) -> Tensor:
        return self.loss(self.net, data, generator)
