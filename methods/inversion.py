"""How a given picture is reached again: DDIM inversion, and the frame that every better inversion fits into.

An inversion of a picture is a start at the noisiest time and, for each step down from there, what helps the
step to come back: a null embedding, an offset, a noise. `redo` walks down from it: under the picture's own
prompt to come back to the picture, under other prompts to edit it. Methods that look into the steps of that
walk, or change them (methods/attention_maps.py, methods/prompt_to_prompt.py), take the same steps one by one
from `way_down`.

    1  z_0 ← encode(x)
    2  z*_T … z*_0 ← DDIM inversion of z_0 under the prompt, w = 1    (arXiv:2010.02502v4, Sec. 4.3; Eq. (19))
    3  z ← z*_T
    4  for t → s down to 0:
    5    ε̂ ← ε_∅ + w (ε_c − ε_∅)                       ∅: the empty prompt, or inversion.null(i); Eq. (18)
    6    z ← inversion.step(z, ε̂, t → s)                DDIM, Eq. (17), unless the method has its own

With w = 1 lines 4 to 6 retrace line 2 up to its discretisation. With w = 7.5 they do not: line 5 multiplies
the network's own inconsistency by w at every step (claim C27). methods/null_text.py and methods/variants.py
mend that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
from torch import Tensor

from palimpsest.arguments import (
    ArgumentError,
    Count,
    Hint,
    Picture,
    Rounds,
    Scale,
    Share,
    Texts,
    check,
    one_each,
)
from palimpsest.methods.inputs import given_picture
from palimpsest.methods.sampling import TOP, times_below
from palimpsest.nets.attention import Tap
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.ddim import invert as walk_up
from palimpsest.samplers.guidance import Denoiser
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.counting import counted
from palimpsest.weights.model import Model


class StepDown(Protocol):
    """Step i of a walk down, 0 the noisiest: rows z at times[i] -> rows at times[i + 1]."""

    def __call__(self, i: int, z: Tensor, tap: Tap | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Inversion:
    """A batch of inverted pictures, and how to come down again. This is DDIM's; other methods extend it."""

    prompts: tuple[str, ...]  # one for each picture
    w: float  # the guidance scale that it is meant to be walked down with
    times: tuple[int, ...]  # strictly falling, the last is 0
    path: list[Tensor]  # states at those times: path[0] the start, path[-1] that of the encoded pictures;
    # latents (b c y x), but for a method whose state holds more than that, see `finish`
    calls: int  # network evaluations for each picture that it cost

    needs_source = False  # whether an edit makes sense only beside rows under the pictures' own prompts

    @property
    def start(self) -> Tensor:
        """The noisiest latents, (b c y x) at times[0]."""
        return self.path[0]

    def null(self, i: int) -> Tensor | None:
        """What stands for the empty prompt in step i, (1 or b, l, d); None: the empty prompt itself."""
        return None

    def step(self, sched: Schedule, i: int, z: Tensor, eps: Denoiser, t: int, s: int) -> Tensor:
        """Step i, from t to s. z: rows (r b) c y x, the first b under the pictures' own prompts."""
        return ddim_step(sched, z, eps(z, t), t, s)  # Eq. (17)

    def finish(self, z: Tensor) -> Tensor:
        """The latents (… c y x) in a state of the walk, for methods whose state holds more than that."""
        return z


def invert(
    model: Model,
    x: Picture,
    prompt: Texts,
    *,
    steps: Count = 50,
    w: Annotated[Scale, Hint("leave it at 1")] = 1.0,
    top: Share = TOP,
    iterations: Rounds = 0,
    label: Literal["destination", "source"] = "destination",
) -> Inversion:
    """DDIM inversion of pictures x (b, 3, y, x) in [−1, 1] under one prompt, or one for each.

    steps: of the walk, up to the time top · T. w: guidance scale of the walk up; with more than 1 the noise
    leaves the Gaussian shell. iterations, label: see samplers.ddim.invert. Raises ArgumentError for an
    argument that makes no sense, ValueError for a word that the model does not know.
    """
    check(invert, locals())
    x = given_picture(model, x)
    prompts = one_each("prompt", prompt, len(x))
    times = times_below(model.schedule, steps, top, "top")
    eps = model.denoiser(prompts, w)  # Eq. (18)
    with counted(model, len(x)) as evaluations:
        path = walk_up(
            eps, model.schedule, model.encode(x), times, iterations=iterations, label=label
        )  # Eq. (19)
    return Inversion(tuple(prompts), w, tuple(times), path, int(evaluations.each.max()))


def check_pivot(model: Model, x: Picture, pivot: Inversion) -> None:
    """Raises ArgumentError for an inversion of other pictures than x (b, 3, y, x)."""
    z_0, found = model.encode(given_picture(model, x)), pivot.finish(pivot.path[-1])
    if z_0.shape != found.shape or not torch.allclose(z_0, found.to(z_0), rtol=0, atol=1e-3):
        raise ArgumentError(
            "pivot", "is the inversion of other pictures than x; invert these, or leave it out"
        )


def way_down(
    model: Model, inversion: Inversion, prompts: Texts | None = None, w: Scale | None = None
) -> tuple[Tensor, StepDown]:
    """Lines 3 to 6, one step at a time: the rows (r b) c y x at times[0], and the function that takes a step.

    prompts: one for all pictures, or r · b of them for b pictures; where there are more rows than pictures,
    rows 0 … b−1 are the pictures' own. None: the inversion's own prompts. Each row starts where its picture
    starts and gets its picture's null embeddings, offsets or noises. w: guidance scale; None: the
    inversion's own. The tap of a step (nets/attention.py) sees and edits the attention under the prompts,
    over all rows. Raises ArgumentError for another number of prompts, or where the inversion needs rows
    under the pictures' own prompts and has none.
    """
    check(way_down, locals())
    n, w = len(inversion.prompts), inversion.w if w is None else w
    prompts = inversion.prompts if prompts is None else prompts
    prompts = [prompts] * n if isinstance(prompts, str) else list(prompts)
    if not prompts or len(prompts) % n:
        raise ArgumentError(
            "prompts", f"must be one for each of the {n} inverted pictures, or a multiple, got {len(prompts)}"
        )
    if inversion.needs_source and prompts[:n] != list(inversion.prompts):
        raise ArgumentError(
            "prompts",
            "this inversion mends only rows under the pictures' own prompts; "
            "give those first, then the others",
        )
    rows = len(prompts) // n
    textless = model.text is None and not any(prompts)
    with torch.no_grad():
        cond, empty = ("", "") if textless else (model.embed(prompts), model.embed(""))

    @torch.no_grad()
    def step(i: int, z: Tensor, tap: Tap | None = None) -> Tensor:
        null = inversion.null(i)
        null = empty if null is None else null if len(null) == 1 else null.repeat(rows, 1, 1)
        eps = model.denoiser(cond, w, null, tap)  # Eq. (18)
        t, s = inversion.times[i : i + 2]
        return inversion.step(model.schedule, i, z, eps, t, s)  # Eq. (17)

    return inversion.start.repeat(rows, *[1] * (inversion.start.ndim - 1)), step


def redo(
    model: Model, inversion: Inversion, prompts: Texts | None = None, *, w: Scale | None = None
) -> list[Tensor]:
    """Walk down from an inversion of b pictures: latents (r b) c y x at each of its times.

    prompts, w and errors are those of `way_down`.
    """
    z, step = way_down(model, inversion, prompts, w)
    path = [inversion.finish(z)]
    for i in range(len(inversion.times) - 1):
        z = step(i, z)
        path.append(inversion.finish(z))
    return path
