"""A session with GLIDE: one inpainting after another, towards a picture that one prompt would not give.

"GLIDE", arXiv:2112.10741v3, Fig. 2 and Sec. 1: "iteratively" a picture is made from a text, and then a
part of it is marked and asked for anew, and another. Every state is kept: what was done can be undone,
done again, or shown as a strip.

    s = Session(load("shapes-glide-inpaint"), load("shapes-glide-upsampler-inpaint"))
    s.paint("a red star on a blue background")             # from nothing
    s.paint("a red star left of a green ring on a blue background", box(.55, .2, .95, .8))
    s.undo(); s.picture; s.strip()

A script says the same, a step a line; `#` begins a remark:

    a red star on a blue background
    a red star left of a green ring on a blue background | box .55 .2 .95 .8
    undo
    a green ring on a blue background | mask ring.png | seed 7
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.methods.glide import check_walks, glide, inpaint
from palimpsest.weights.model import Model
from palimpsest.worlds.files import contact_sheet, read_mask


class State(NamedTuple):
    """One picture of a session and how it came about. Pictures (1, 3, y, x), masks (1, 1, y, x) or None
    for a picture that is all new.
    """

    picture: Tensor
    prompt: str
    mask: Tensor | None
    seed: int


class Session:
    """A picture that is worked on.

    b: a base model fine-tuned for inpainting; upsampler: likewise, or None to work in the base model's
    size; picture (1, 3, y, x): where to begin, None for nothing; seed: step k draws from seed + k unless
    it is given one; steps, up_steps, w as in methods/glide.py."""

    def __init__(
        self,
        model: Model,
        upsampler: Model | None = None,
        picture: Tensor | None = None,
        *,
        seed: int = 0,
        steps: str = "50",
        up_steps: str = "fast27",
        w: float = 3.0,
    ):
        check_walks(model, steps, upsampler, up_steps)
        self.model, self.upsampler, self.seed, self.steps, self.up_steps, self.w = (
            model,
            upsampler,
            seed,
            steps,
            up_steps,
            w,
        )
        self.states: list[State] = [] if picture is None else [State(picture, "", None, seed)]
        self.undone: list[State] = []

    @property
    def size(self) -> int:
        """The side of its pictures."""
        return (self.upsampler or self.model).size

    @property
    def picture(self) -> Tensor:
        """As it stands. Raises ValueError where nothing was painted yet."""
        if not self.states:
            raise ValueError("picture: there is none yet; give a prompt first")
        return self.states[-1].picture

    def paint(self, prompt: str, mask: Tensor | None = None, *, seed: int | None = None) -> Tensor:
        """Paint what the mask marks (1, 1, y, x), or without one a new picture; the picture as it then
        stands. # Sec. 4.3
        """
        seed = self.seed + len(self.states) if seed is None else seed
        how = dict(upsampler=self.upsampler, steps=self.steps, up_steps=self.up_steps, w=self.w, seed=seed)
        made = (
            glide(self.model, prompt, **how)
            if mask is None
            else inpaint(self.model, self.picture, mask, prompt, **how)
        )
        self.states.append(State(made.picture, prompt, mask, seed))
        self.undone.clear()
        return made.picture

    def undo(self) -> None:
        """Take back the last step. Raises ValueError where there is none."""
        if not self.states:
            raise ValueError("undo: nothing was done yet")
        self.undone.append(self.states.pop())

    def redo(self) -> None:
        """Do again what was last taken back. Raises ValueError where nothing was, or something was
        painted since.
        """
        if not self.undone:
            raise ValueError("redo: nothing was taken back")
        self.states.append(self.undone.pop())

    def strip(self) -> Tensor:
        """Every state that stands, left to right, under its prompt; marked parts are paler in the picture
        before: (1, 3, y, x).
        """
        shown, labels = [], []
        for state, following in zip(self.states, [*self.states[1:], None]):
            marked = following.mask if following is not None else None
            shown.append(
                state.picture
                if marked is None
                else torch.where(marked > 0, 0.4 * state.picture + 0.6, state.picture)
            )
            labels.append(state.prompt or "as given")
        if not shown:
            raise ValueError("strip: nothing was painted yet")
        return contact_sheet([shown], column_labels=labels)

    def run(self, script: Sequence[Step]) -> None:
        """Every step of a script, in order. A step that cannot be done is named, and what was done before
        it stands.
        """
        for step in script:
            try:
                step.do(self)
            except ValueError as error:
                raise ValueError(f"script: line {step.line}: {error}") from error


# ---- scripts ----


class Step(NamedTuple):
    """One line of a script: its number, and what it does to a session."""

    line: int
    do: Callable[[Session], object]


def box(left: float, top: float, right: float, bottom: float, size: int = 64) -> Tensor:
    """A mask (1, 1, size, size), 1 inside a box given in fractions of the picture. Raises ValueError for
    a box without a pixel in it.
    """
    place = (torch.arange(size) + 0.5) / size
    inside = ((place >= top) & (place < bottom))[:, None] & ((place >= left) & (place < right))[None]
    if not inside.any():
        raise ValueError(
            f"box: {left:g} {top:g} {right:g} {bottom:g} (left top right bottom, in fractions of the picture) holds no pixel"
        )
    return inside[None, None].float()


def parse(text: str, folder: Path | str = ".", check: Callable[[str], object] | None = None) -> list[Step]:
    """The steps of a script; mask files are looked for in `folder`. All is read, and each prompt given to
    `check`, before any is done.

    Raises ValueError that names the first line which makes no sense.
    """
    steps = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if line:
            try:
                steps.append(Step(number, parse_line(line, Path(folder), check)))
            except (ValueError, OSError) as error:
                raise ValueError(f"script: line {number}: {error}") from error
    if not steps:
        raise ValueError("script: holds no step; write a prompt to a line")
    return steps


def parse_line(line: str, folder: Path, check: Callable[[str], object] | None) -> Callable[[Session], object]:
    """What one line does: "undo", "redo", or a prompt with its options behind bars."""
    if line in ("undo", "redo"):
        return lambda session: getattr(session, line)()
    prompt, *options = (part.strip() for part in line.split("|"))
    if not prompt:
        raise ValueError("there is no prompt before the bar")
    if check is not None:
        check(prompt)
    corners: list[float] | None = None
    mask: Tensor | None = None
    seed: int | None = None
    for option in options:
        name, _, value = option.partition(" ")
        if name == "box":
            corners = [float(word) for word in value.split() if re.fullmatch(r"-?\d*\.?\d+", word)]
            if len(corners) != 4 or len(value.split()) != 4:
                raise ValueError(
                    f'box: give left top right bottom in fractions of the picture, as in "box .5 .2 .9 .8", not {value!r}'
                )
            box(*corners)
        elif name == "mask":
            mask = read_mask(folder / value.strip())
        elif name == "seed" and value.strip().isdecimal():
            seed = int(value)
        else:
            raise ValueError(
                f'{option!r} is no option; known: "box LEFT TOP RIGHT BOTTOM", "mask FILE", "seed N"'
            )
    if corners is not None and mask is not None:
        raise ValueError("a box and a mask: give one of them")
    return lambda session: session.paint(
        prompt, mask if corners is None else box(*corners, size=session.size), seed=seed
    )
