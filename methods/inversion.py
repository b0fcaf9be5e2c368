"""How a given picture is reached again: DDIM inversion, and the frame that every better inversion fits into.

An inversion of a picture is a start and a way down: `start` at the noisiest time, and for each step what
helps it along (a null embedding, an offset, a noise). `redo` walks down from it, under the same prompt to
come back to the picture, or under others to edit it. Methods that look into the steps of that walk, or change
them (methods/attention_maps.py, methods/prompt_to_prompt.py), take the same steps one by one from `way_down`.

    1  z_0 ← encode(x)
    2  z*_T … z*_0 ← DDIM inversion of z_0 under the prompt, w = 1          (DDIM, arXiv:2010.02502v4, Sec. 4.3; Eq. (19))
    3  z ← z*_T
    4  for t → s down to 0:
    5    ε̂ ← ε_∅ + w (ε_c − ε_∅)                                          ∅: the empty prompt, or inversion.null(i)
    6    z ← inversion.step(z, ε̂, t → s)                                   DDIM, Eq. (17), unless the method has its own

With w = 1 line 6 retraces line 2 up to its discretisation. With w = 7.5 it does not: line 5 multiplies
the network's own inconsistency by w at every step (claim C27). methods/null_text.py and the variants are
ways to mend that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from palimpsest.methods.sampling import TOP
from palimpsest.nets.attention import Tap
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.ddim import invert as walk_up
from palimpsest.samplers.guidance import Denoiser
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.model import Model


class StepDown(Protocol):
    """Step i of a walk down, 0 the noisiest: rows z at times[i] -> rows at times[i + 1]."""

    def __call__(self, i: int, z: Tensor, tap: Tap | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Inversion:
    """A batch of pictures on their way up, and how to come down again. Plain DDIM; other methods extend it.

    prompts: one per picture; w: the guidance scale it is meant to be walked down with; times: strictly
    falling, the last 0; path: latents (b c y x) at those times, path[0] the start and path[-1] the
    encoded pictures; calls: network evaluations per picture that it cost."""

    prompts: tuple[str, ...]
    w: float
    times: tuple[int, ...]
    path: list[Tensor]
    calls: int

    needs_source = False  # whether an edit makes sense only beside rows of the pictures' own prompts

    @property
    def start(self) -> Tensor:
        """(b c y x) at times[0]."""
        return self.path[0]

    def null(self, i: int) -> Tensor | None:
        """What stands in for the empty prompt in step i: (1 or b, l, d), or None for the empty prompt
        itself.
        """
        return None

    def step(self, sched: Schedule, i: int, z: Tensor, eps: Denoiser, t: int, s: int) -> Tensor:
        """Step i, from t to s. z: rows (r b) c y x, where the first b rows stand under the inversion's
        own prompts.
        """
        return ddim_step(sched, z, eps(z, t), t, s)  # Eq. (17)

    def finish(self, z: Tensor) -> Tensor:
        """The latents in a final state of the walk, for methods whose state is more than that."""
        return z


def invert(
    model: Model,
    pictures: Tensor,
    prompts: str | Sequence[str],
    *,
    steps: int = 50,
    w: float = 1.0,
    top: float = TOP,
    iterations: int = 0,
    label: str = "destination",
) -> Inversion:
    """DDIM inversion of pictures (b, 3, y, x) in [−1, 1], each under its prompt, to the time top · T.

    w: of the walk up; leave it at 1 (with more, the noise leaves the Gaussian shell). iterations, label: see
    samplers.ddim.invert. Raises ValueError for steps, w or a prompt that makes no sense, with the mend.
    """
    prompts = spread(prompts, len(pictures))
    times = model.schedule.times(steps, top)
    eps = model.denoiser(list(prompts), w)  # Eq. (18)
    path = walk_up(
        eps, model.schedule, model.encode(pictures), times, iterations=iterations, label=label
    )  # Eq. (19)
    return Inversion(prompts, w, tuple(times), path, steps * (1 + iterations) * (1 if w in (0, 1) else 2))


def way_down(
    model: Model, inversion: Inversion, prompts: Sequence[str] | None = None, w: float | None = None
) -> tuple[Tensor, StepDown]:
    """Lines 3 to 6, one step at a time: the rows (r b) c y x at times[0], and the function that takes a step.

    prompts: r · b of them, where rows 0 … b−1 are the pictures' own if there are more rows than pictures;
    None: the inversion's own. Each row starts where its picture starts and gets its aids. w: None is the
    inversion's own. The tap of a step (nets/attention.py) sees and edits the attention under the prompts, over
    all rows.
    Raises ValueError for another number of prompts, or other rows than the inversion can serve.
    """
    prompts = list(inversion.prompts if prompts is None else prompts)
    n, w = len(inversion.prompts), inversion.w if w is None else w
    if not prompts or len(prompts) % n:
        raise ValueError(
            f"prompts: must be one for each of the {n} inverted pictures, or a multiple, got {len(prompts)}"
        )
    if inversion.needs_source and prompts[:n] != list(inversion.prompts):
        raise ValueError(
            "prompts: this inversion mends only rows under the pictures' own prompts; give those first, then the others"
        )
    rows = len(prompts) // n
    with torch.no_grad():
        cond, empty = model.embed(prompts), model.embed("")

    @torch.no_grad()
    def step(i: int, z: Tensor, tap: Tap | None = None) -> Tensor:
        null = inversion.null(i)
        null = empty if null is None else null if len(null) == 1 else null.repeat(rows, 1, 1)
        eps = model.denoiser(cond, w, null, tap)  # Eq. (18)
        return inversion.step(model.schedule, i, z, eps, inversion.times[i], inversion.times[i + 1])

    return inversion.start.repeat(rows, *[1] * (inversion.start.ndim - 1)), step


def redo(
    model: Model, inversion: Inversion, prompts: Sequence[str] | None = None, *, w: float | None = None
) -> list[Tensor]:
    """Walk down from an inversion of b pictures: latents (r b) c y x at each of its times.

    prompts and w are those of `way_down`, as are its errors.
    """
    z, step = way_down(model, inversion, prompts, w)
    path = [inversion.finish(z)]
    for i in range(len(inversion.times) - 1):
        z = step(i, z)
        path.append(inversion.finish(z))
    return path


def spread(prompts: str | Sequence[str], n: int) -> tuple[str, ...]:
    """One prompt for each of n pictures. Raises ValueError where there are neither one nor n."""
    prompts = (prompts,) * n if isinstance(prompts, str) else tuple(prompts)
    if len(prompts) != n:
        raise ValueError(f"prompts: must be one, or one for each of the {n} pictures, got {len(prompts)}")
    return prompts
