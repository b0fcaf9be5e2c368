"""A session with GLIDE: one inpainting after another, towards a picture that one prompt would not give.

"GLIDE", arXiv:2112.10741v3, Fig. 3 and Sec. 1: a picture is made from a text; then, again and again, a part
of it is marked and painted anew under another text. Every state is kept: a step can be undone and done again,
and all states can be shown side by side.

    session = Session(load("shapes-glide-inpaint"), load("shapes-glide-upsampler-inpaint"))
    session.paint("a red star on a blue background")             # from nothing
    session.paint("a red star left of a green ring on a blue background", box(.55, .2, .95, .8))
    session.undo(); session.picture; session.strip()

A script does the same, a step a line; `#` begins a comment:

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

from palimpsest.arguments import ArgumentError, Mask, Picture, Scale, Seed, check
from palimpsest.methods.glide import Respacing, check_upsampler, glide, inpaint, levels_of
from palimpsest.methods.inputs import given_mask, given_picture
from palimpsest.weights.model import Model
from palimpsest.worlds.files import Original, contact_sheet, open_picture, read_mask


class State(NamedTuple):
    """One picture of a session, and how it was made."""

    picture: Tensor  # (1, 3, y, x) in [−1, 1]
    prompt: str  # "" for the picture that was given
    mask: Tensor | None  # (1, 1, y, x), 1 = was painted in this step; None: all of it
    seed: int


class Session:
    """A picture that is worked on: its states, and the states that were undone."""

    def __init__(
        self,
        model: Model,  # a base model that was fine-tuned for inpainting
        upsampler: Model | None = None,  # likewise; None: pictures have the base model's size
        picture: Picture | None = None,  # (1, 3, y, x), where to begin; None: from nothing
        *,
        seed: Seed = 0,  # step k draws from seed + k, unless it is given its own
        steps: Respacing = "50",  # as in methods/glide.py, like the two below
        up_steps: Respacing = "fast27",
        w: Scale = 3.0,
    ):
        check(Session.__init__, locals())
        levels_of(model, steps)
        check_upsampler(upsampler, up_steps)
        self.model, self.upsampler = model, upsampler
        self.seed, self.steps, self.up_steps, self.w = seed, steps, up_steps, w
        self.states: list[State] = []
        self.undone: list[State] = []
        if picture is not None:
            self.states.append(State(given_picture(upsampler or model, picture), "", None, seed))

    @property
    def size(self) -> int:
        """The side of its pictures, in pixels."""
        return (self.upsampler or self.model).size

    @property
    def picture(self) -> Tensor:
        """The picture as it stands. Raises ArgumentError if nothing was painted yet."""
        if not self.states:
            raise ArgumentError("picture", "there is none yet; give a prompt first")
        return self.states[-1].picture

    def paint(self, prompt: str, mask: Mask | None = None, *, seed: Seed | None = None) -> Tensor:
        """Paint what the mask (1, 1, y, x) marks, or without a mask a new picture; return the new picture.

        Raises ArgumentError as `glide` and `inpaint` do. # Sec. 4.3
        """
        seed = self.seed + len(self.states) if seed is None else seed
        settings = dict(
            upsampler=self.upsampler, steps=self.steps, up_steps=self.up_steps, w=self.w, seed=seed
        )
        if mask is None:
            made = glide(self.model, prompt, **settings)
        else:
            mask = given_mask(self.upsampler or self.model, mask)
            made = inpaint(self.model, self.picture, mask, prompt, **settings)
        self.states.append(State(made.picture, prompt, mask, seed))
        self.undone.clear()
        return made.picture

    def undo(self) -> None:
        """Take the last step back. Raises ArgumentError if there is none."""
        if not self.states:
            raise ArgumentError("undo", "nothing was done yet")
        self.undone.append(self.states.pop())

    def redo(self) -> None:
        """Do again what was undone last. Raises ArgumentError if nothing was undone since the last step."""
        if not self.undone:
            raise ArgumentError("redo", "nothing was undone")
        self.states.append(self.undone.pop())

    def strip(self) -> Tensor:
        """All states from left to right, each under its prompt: a picture (1, 3, y, x).

        What the next step paints is shown paler. Raises ArgumentError if there is no state.
        """
        if not self.states:
            raise ArgumentError("strip", "nothing was painted yet")
        shown = [state.picture for state in self.states]
        for k, following in enumerate(self.states[1:]):
            if following.mask is not None:
                shown[k] = torch.where(following.mask > 0, 0.4 * shown[k] + 0.6, shown[k])
        labels = [state.prompt or "as given" for state in self.states]
        return contact_sheet([shown], column_labels=labels)

    def run(self, script: Sequence[ScriptLine]) -> None:
        """Do every line of a script, in order.

        Raises ValueError that names the line which cannot be done; what was done before it stands.
        """
        for line in script:
            try:
                line.do(self)
            except ValueError as error:
                raise ArgumentError("script", f"line {line.number}: {error}") from error


# ---- scripts ----


class ScriptLine(NamedTuple):
    """One line of a script."""

    number: int  # counted from 1, in the file
    do: Callable[[Session], object]  # what it does to a session


def box(left: float, top: float, right: float, bottom: float, size: int = 64) -> Tensor:
    """A mask (1, 1, size, size), 1 inside a box given in fractions of the picture.

    Raises ArgumentError for a box without a pixel in it.
    """
    centres = (torch.arange(size) + 0.5) / size
    rows, columns = (centres >= top) & (centres < bottom), (centres >= left) & (centres < right)
    inside = rows[:, None] & columns[None]
    if not inside.any():
        raise ArgumentError(
            "box",
            f"{left:g} {top:g} {right:g} {bottom:g} (left top right bottom, in fractions of the picture) "
            "holds no pixel",
        )
    return inside[None, None].float()


def parse(
    text: str, folder: Path | str = ".", check_prompt: Callable[[str], object] | None = None
) -> list[ScriptLine]:
    """The lines of a script; mask files are looked for in `folder`. Nothing is done yet.

    check_prompt: called with each prompt; a ValueError that it raises is a mistake of that line. Raises
    ArgumentError for the first line that makes no sense, with its number.
    """
    script = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if line:
            try:
                script.append(ScriptLine(number, parse_line(line, Path(folder), check_prompt)))
            except (ValueError, OSError) as error:
                raise ArgumentError("script", f"line {number}: {error}") from error
    if not script:
        raise ArgumentError("script", "holds no step; write a prompt to a line")
    return script


def masks_in(text: str, folder: Path) -> list[Path]:
    """The mask files that a script names."""
    options = [part.strip() for line in text.splitlines() for part in line.partition("#")[0].split("|")[1:]]
    return [folder / option[5:].strip() for option in options if option.startswith("mask ")]


def parse_line(
    line: str, folder: Path, check_prompt: Callable[[str], object] | None
) -> Callable[[Session], object]:
    """What one line does: "undo", "redo", or a prompt with its options, each behind a bar."""
    if line == "undo":
        return Session.undo
    if line == "redo":
        return Session.redo
    prompt, *options = (part.strip() for part in line.split("|"))
    if not prompt:
        raise ValueError("there is no prompt before the bar")
    if check_prompt is not None:
        check_prompt(prompt)
    corners: list[float] | None = None
    drawn: Original | None = None
    seed: int | None = None
    for option in options:
        name, _, value = option.partition(" ")
        if name == "box":
            corners = corners_of(value)
        elif name == "mask":
            drawn = open_picture(folder / value.strip()).square()  # on the picture's file, of whatever size
            mask = read_mask(folder / value.strip(), of=drawn)
        elif name == "seed" and re.fullmatch(r"-?\d+", value.strip()):
            seed = int(value)
        else:
            raise ValueError(
                f'{option!r} is no option; known: "box LEFT TOP RIGHT BOTTOM", "mask FILE", "seed N"'
            )
    if corners is not None and drawn is not None:
        raise ValueError("a box and a mask: give one of them")

    def paint(session: Session) -> object:
        where = None if corners is None else box(*corners, size=session.size)
        if drawn is not None:
            where = drawn.framed(session.size).region(mask)
        return session.paint(prompt, where, seed=seed)

    return paint


def corners_of(text: str) -> list[float]:
    """LEFT TOP RIGHT BOTTOM, in fractions of the picture. Raises ArgumentError unless they make a box."""
    words = text.split()
    if len(words) != 4 or not all(re.fullmatch(r"-?\d*\.?\d+", word) for word in words):
        raise ArgumentError(
            "box",
            f'give left top right bottom in fractions of the picture, as in "box .5 .2 .9 .8", not {text!r}',
        )
    corners = [float(word) for word in words]
    box(*corners)
    return corners
