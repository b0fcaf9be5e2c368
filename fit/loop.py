"""The training loop that every recipe uses: warm-up and cosine decay, clipping, a moving average, resume.

    for step in range(steps):
        data ~ batch(step, generator(seed, step, rank))    # a pure function of its arguments
        θ ← AdamW(θ, clip(∇ loss(θ, data)), lr(step))      # or Muon
        m ← m + (1 − decay(step)) (θ − m)                  # the average of the weights, which samples best

Nothing random outlives a step, so the state of a run is (θ, m, the optimiser's moments, step), and a run
resumed from it is bit for bit the run that was never stopped (`fit/run.py`). Under `python` it is one
process; under `torchrun` as many as asked for: each rank sees its own data and DDP averages the gradients.
Since data is a pure function of the step, other processes can draw it ahead (`fit/ahead.py`), and the run
is still the same run.

Cosine decay: Loshchilov & Hutter, arXiv:1608.03983v5. The optimisers: fit/optimisers.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from tqdm import tqdm

from palimpsest.arguments import ArgumentError, Rounds, check
from palimpsest.fit.ahead import ahead, generator_at, moved, step_generator
from palimpsest.fit.checkpoint import one_run
from palimpsest.fit.optimisers import set_rate
from palimpsest.fit.processes import process_group, rank_and_world
from palimpsest.fit.run import Fitted, Loss, Run
from palimpsest.fit.settings import Files, Settings, ema_decay, learning_rate
from palimpsest.outputs import uninterrupted

LOOK = 10  # steps between two looks at the loss: reading a number from a GPU halts it


def fit(
    loss: Loss,
    net: nn.Module,
    batch: Callable[[int, Generator], Any],
    settings: Settings,
    files: Files = Files(),
    *,
    workers: Rounds = 0,
    until: float = math.inf,
    after_step: Callable[[int], None] | None = None,
    progress: bool = True,
) -> Fitted:
    """Train `net` for settings.steps steps of `loss(net, batch(step, generator), generator)`, a scalar.

    The CPU generator is seeded anew from (seed, step, rank): draw all randomness from it
    (samplers.noise.gaussian does, on any device).

    net: stays on its device and in its memory format; under torchrun, put it on the rank's own device first,
      and files.checkpoint where every rank can read it.
    batch: gives tensors on the CPU, in tuples, lists or dicts, which are moved to the net's device. With
      settings.accumulate > 1 it gives a sequence of so many pieces; a step follows the mean of their losses.
    workers: processes that draw the data ahead, and must not touch a GPU; 0: none does.
    until: a time as time.time() tells it: the run ends then, if its steps are not done before, and the
      learning rate falls with the share of the time where that is ahead of the share of the steps. Such a run
      depends on the clock: it can be resumed, not bit for bit; a time that is past ends it after one step.
    after_step: called with the step's number, without gradients, when its update is done: a teacher that
      follows its student moves here. What it changes belongs into buffers or frozen parameters of `net`,
      which a checkpoint holds. It ends the run as Ctrl-C does where it raises KeyboardInterrupt.
    progress: show a bar.

    Raises ValueError for bad arguments or another run's checkpoint, OutputError (an OSError and a ValueError)
    where a checkpoint cannot be written or another run is writing it, FloatingPointError when the loss or its
    gradient is not finite (either way the last good checkpoint stays). Ctrl-C saves and raises
    KeyboardInterrupt; an update that it falls into is finished first.
    """
    check(fit, locals())
    if until < math.inf and rank_and_world()[1] > 1:
        raise ArgumentError(
            "until", "several processes cannot end by the clock, which each reads for itself; give steps"
        )
    with one_run(files.checkpoint), process_group(net):
        run = Run(loss, net, settings, files, until)
        run.load()

        def draw(step: int) -> tuple[Any, Tensor]:
            """A step's data, and where its generator stands after them."""
            generator = step_generator(settings.seed, step, run.rank)
            return batch(step, generator), generator.get_state()

        drawn = ahead(draw, range(run.done, settings.steps), workers, pin=run.device.type == "cuda")
        hidden = not (progress and run.rank == 0)
        with tqdm(initial=run.done, total=settings.steps, disable=hidden, unit="step") as bar:
            try:
                for data, state in drawn:
                    update(run, moved(data, run.device), generator_at(state), after_step)
                    over = run.over()
                    with uninterrupted():
                        if over or run.save_is_due():
                            run.save()
                        elif run.done % LOOK == 0:
                            run.look()
                    bar.set_postfix(loss=f"{np.mean(run.losses[-100:] or math.nan):.4f}", refresh=False)
                    bar.update()
                    if over:
                        break
            except KeyboardInterrupt:
                if run.done > 0:  # else there is nothing to go on from
                    with uninterrupted():
                        run.save()
                raise
    return run.fitted()


def update(run: Run, data: Any, generator: Generator, after_step: Callable[[int], None] | None) -> None:
    """One step: the gradient of the loss, clipped; the optimiser's step; the average of the weights."""
    step, settings = run.done, run.settings
    lr = learning_rate(step, settings, run.spent())
    set_rate(run.optimisers, lr)
    run.net.zero_grad()
    loss = torch.zeros((), device=run.device)
    for piece in pieces(data, settings.accumulate):
        with torch.autocast(run.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            part = run.objective(piece, generator) / settings.accumulate
        part.backward()
        loss += part.detach()
    with uninterrupted(), torch.no_grad():  # the weights change all together or not at all
        norm = nn.utils.clip_grad_norm_(run.params, settings.clip)
        for optimiser in run.optimisers:
            optimiser.step()
        torch._foreach_lerp_(run.average_params, run.params, 1 - ema_decay(step, settings.ema))
        run.pending.append(torch.stack((loss.detach().float(), norm.float())))
        run.rates.append(lr)
        run.done += 1
        if after_step is not None:
            after_step(step)


def pieces(data: Any, accumulate: int) -> list[Any]:
    """The pieces of a batch. Raises ArgumentError where it has another number of them."""
    found = data if accumulate > 1 else [data]
    if len(found) != accumulate:
        raise ArgumentError(
            "batch", f"must give {accumulate} pieces, as settings.accumulate says, and gave {len(found)}"
        )
    return found
