"""What a training run is asked for: how it learns (`Settings`), and what it leaves on the disk (`Files`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from palimpsest.arguments import Count, Interval, Positive, Rounds, Seed, check

Decay = Annotated[float, Interval(0, 1, open_high=True)]  # [0, 1)


@dataclass(frozen=True)
class Settings:
    """How a run learns. A checkpoint belongs to one set of settings, and is refused under another."""

    steps: Count
    lr: Positive  # learning rate at its highest
    warmup: Rounds = 200  # steps in which the learning rate rises; afterwards it falls to 0 along a cosine
    ema: Decay = 0.999  # decay of the average of the weights
    clip: Positive = 1.0  # largest norm of the gradient
    weight_decay: Annotated[float, Interval(0)] = 0.0
    betas: tuple[float, float] = (0.9, 0.99)  # decays of AdamW's two moments
    optimiser: Literal["adamw", "muon"] = (
        "adamw"  # muon: for linear maps and convolutions; AdamW for the rest
    )
    accumulate: Count = 1  # pieces that a batch comes in, one in memory at a time
    precision: Literal["float32", "bfloat16"] = "float32"  # of products and convolutions (autocast)
    seed: Seed = 0  # of the data and of the noise

    def __post_init__(self) -> None:
        check(Settings, vars(self))


@dataclass(frozen=True)
class Files:
    """What a run leaves on the disk. Only the process of rank 0 writes."""

    checkpoint: str | Path | None = None  # all that is needed to go on; never half-written
    log: str | Path | None = None  # CSV: step, lr, loss
    save_every: Count = 200  # steps from one checkpoint to the next …
    pause: Annotated[float, Interval(0)] = 0.0  # … and seconds, at least; on a GPU 20 s or more
    resume: bool = True  # go on from the checkpoint where there is one
    identity: dict[str, Any] = field(
        default_factory=dict
    )  # what else makes the run what it is: its data, say
    after_save: Callable[[Any], None] | None = None  # called with a Fitted after each checkpoint but the last

    def __post_init__(self) -> None:
        check(Files, vars(self))


def learning_rate(step: int, settings: Settings, spent: float = 0.0) -> float:
    """lr · min(1, (step + 1)/warmup) · (1 + cos π u)/2, where u goes from 0 to 1 after the warm-up.

    spent: a share in [0, 1] that u is at least: that of the time, for a run which ends by the clock.

    >>> [round(learning_rate(n, Settings(steps=12, lr=1., warmup=2)), 3) for n in (0, 1, 2, 7, 12)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    warmup = settings.warmup
    u = max(spent, max(0, step - warmup) / max(1, settings.steps - warmup))
    return settings.lr * min(1.0, (step + 1) / max(1, warmup)) * (1 + math.cos(math.pi * u)) / 2


def ema_decay(step: int, ema: float) -> float:
    """min(ema, (1 + n)/(10 + n)) at step n: a young average must forget the initial weights quickly."""
    return min(ema, (1 + step) / (10 + step))
