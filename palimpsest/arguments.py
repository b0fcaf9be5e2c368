"""Arguments that check themselves: the annotation of a parameter is its contract.

    def sdedit(model: Model, x: Picture, prompt: Texts, *, t0: Share = 0.6, steps: Count = 50):
        check(sdedit, locals())

The command line reads the same annotations, so `--t0 2` and `t0=2` are refused in the same words:
"t0: must lie in (0, 1], got 2". A record checks its own fields, with `check(Course, vars(self))` in its
`__post_init__`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import get_annotations
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import torch
from PIL.Image import Image
from torch import Tensor


class ArgumentError(ValueError):
    """A value that cannot be used: `argument` is the parameter's name, `text` what is wrong and the mend."""

    def __init__(self, argument: str, text: str):
        super().__init__(f"{argument}: {text}")
        self.argument, self.text = argument, text

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.argument, self.text)  # so that it crosses between processes


class Caution(UserWarning):
    """What was asked for can be done and may not be what is wanted: one line that names the argument."""


# ---- contracts: each says what is wrong with a value, or None ----


@dataclass(frozen=True)
class Hint:
    """An addition to a parameter's messages: Annotated[Share, Hint("the paper takes 0.8")]."""

    text: str


@dataclass(frozen=True)
class Interval:
    """A number between two bounds, each included unless it is infinite or said to be open."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    words: str = ""  # how to say it, where the bounds themselves would not tell

    def __str__(self) -> str:
        if self.words:
            return self.words
        if self.low == -math.inf and self.high == math.inf:
            return "be a finite number"
        if self.high == math.inf:
            return f"be above {self.low:g}" if self.open_low else f"be at least {self.low:g}"
        left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
        return f"lie in {left}{self.low:g}, {self.high:g}{right}"

    def wrong(self, value: float) -> str | None:
        """Also refuses NaN, infinity, and whole numbers that no machine counts to."""
        if isinstance(value, Integral) and abs(value) >= 2**63:
            return "must be a number of at most 63 bits"
        above = self.low < value if self.open_low else self.low <= value
        below = value < self.high if self.open_high else value <= self.high
        return None if above and below and math.isfinite(value) else f"must {self}, got {value}"


@dataclass(frozen=True)
class Else:
    """Of a parameter that may be left to the model, as None: its value where the model recommends none.

        w: Annotated[Scale | None, Else(3.0)] = None

    See `settled`."""

    value: Any


class PictureContract:
    """A picture: a float tensor (b, 3, y, x) within [−1, 1]; or a path, or a PIL image."""

    def wrong(self, value: Any) -> str | None:
        """None for a path or a PIL image, whose content is looked at when it is read."""
        if isinstance(value, (str, Path, Image)):
            return None
        if not isinstance(value, Tensor):
            return (
                f"must be a tensor (b, 3, y, x), a path or a PIL image, got {type(value).__name__}; "
                "worlds.files.read_picture reads files"
            )
        if not value.is_floating_point():
            return f"must hold floats in [-1, 1], got {value.dtype}; give x.float() / 127.5 - 1"
        if value.ndim == 3:
            return f"must be (b, 3, y, x), got {tuple(value.shape)}; add the batch axis: x[None]"
        if value.ndim != 4 or not value.numel():
            return f"must be (b, 3, y, x), got {tuple(value.shape)}"
        if value.shape[1] != 3:
            mend = {
                1: "; repeat the channel: x.expand(-1, 3, -1, -1)",
                4: "; leave the alpha channel out: x[:, :3]",
            }
            return f"must have 3 channels, got {value.shape[1]}{mend.get(value.shape[1], '')}"
        if value.device.type == "meta":
            return None
        low, high = (end.item() for end in torch.aminmax(value.detach()))
        if not (math.isfinite(low) and math.isfinite(high)):
            return "holds NaN or infinity"
        if low < -1 - TOLERANCE or high > 1 + TOLERANCE:
            mend = (
                "x / 127.5 - 1"
                if low >= 0 and 2 < high <= 255
                else "x.clamp(-1, 1) if the overshoot is meant"
            )
            return f"must lie in [-1, 1], got values from {low:.4g} to {high:.4g}; give {mend}"
        return None


class MaskContract:
    """A mask: a tensor (b or 1, 1, y, x) of 0 and 1, 1 = edit here; or a path, or a PIL image."""

    def wrong(self, value: Any) -> str | None:
        """Whether it fits the picture is asked later (methods/inputs.py)."""
        if isinstance(value, (str, Path, Image)):
            return None
        if not isinstance(value, Tensor):
            return f"must be a tensor (b, 1, y, x), a path or a PIL image, got {type(value).__name__}"
        if value.ndim != 4 or value.shape[1] != 1 or not value.numel():
            return f"must be (b, 1, y, x), got {tuple(value.shape)}"
        if value.device.type != "meta" and not ((value == 0) | (value == 1)).all():
            return "must hold 0 and 1 alone, 1 = edit here; threshold it: (mask > 0.5).float()"
        return None


class TextsContract:
    """One text, or one for each picture."""

    def wrong(self, value: Any) -> str | None:
        """How many there must be is asked where they are paired with pictures (`one_each`)."""
        if (
            isinstance(value, str)
            or isinstance(value, Sequence)
            and all(isinstance(one, str) for one in value)
        ):
            return None
        return f"must be a text, or a list of texts, got {value!r}"


TOLERANCE = 0.01  # how far a picture may leave [−1, 1]: less than 2 of 255 levels

Share = Annotated[float, Interval(0, 1, open_low=True)]  # (0, 1]
Fraction = Annotated[float, Interval(0, 1)]  # [0, 1]
Scale = Annotated[float, Interval()]  # any finite number
Positive = Annotated[float, Interval(0, open_low=True)]  # above 0
Count = Annotated[int, Interval(1)]  # 1, 2, …
Rounds = Annotated[int, Interval(0)]  # 0, 1, …
Seed = int  # any whole number: each gives a run of its own
Picture = Annotated[Tensor | str | Path | Image, PictureContract()]  # (b, 3, y, x) in [−1, 1]
Mask = Annotated[Tensor | str | Path | Image, MaskContract()]  # (b, 1, y, x) of 0 and 1, 1 = edit here
Texts = Annotated[str | Sequence[str], TextsContract()]  # one text, or one for each picture


# ---- checking ----


def check(contract: Callable[..., Any] | type, given: Mapping[str, Any]) -> None:
    """Hold each value against the annotation of the parameter (or field) of its name.

    contract: the function (or record) that is called; given: its arguments by name, `locals()` in its first
    line.
    Raises ArgumentError for the first that does not fit: its type, its range, NaN, an unknown choice.
    """
    for name, annotation in hints(contract).items():
        if name in given and (text := wrong(annotation, given[name])) is not None:
            raise ArgumentError(name, text)


@cache
def hints(contract: Callable[..., Any] | type) -> dict[str, Any]:
    """Parameter (or field) -> its annotation, extras included. As it is written: Python 3.10's own
    get_type_hints would put Optional around one whose default is None, and hide its extras.
    """
    found: dict[str, Any] = {}
    for part in reversed(contract.__mro__) if isinstance(contract, type) else (contract,):
        found |= get_annotations(part, eval_str=True)
    return {name: annotation for name, annotation in found.items() if name != "return"}


def wrong(annotation: Any, value: Any) -> str | None:
    """What is wrong with a value under an annotation, and the mend; None if nothing is or can be known."""
    if get_origin(annotation) in (Union, UnionType):
        found = [wrong(one, value) for one in get_args(annotation) if one is not NoneType]
        if (value is None and NoneType in get_args(annotation)) or None in found:
            return None
        return min(found, key=len)
    if get_origin(annotation) is Literal:
        known = get_args(annotation)
        return (
            None
            if value in known and not isinstance(value, bool)
            else f"must be {listed(known)}, got {value!r}"
        )
    if get_origin(annotation) is Annotated:
        kind, *extras = get_args(annotation)
        hint = "".join(f"; {extra.text}" for extra in extras if isinstance(extra, Hint))
        rules = [extra for extra in extras if hasattr(extra, "wrong")]
        text = wrong(kind, value) if kind in (int, float) or not rules else None
        text = text or next((said for rule in rules if (said := rule.wrong(value)) is not None), None)
        return None if text is None else text + hint
    if annotation in PLAIN:
        kinds, said = PLAIN[annotation]
        fits = isinstance(value, kinds) and (annotation is bool or not isinstance(value, bool))
        return None if fits else f"must be {said}, got {value!r}"
    return None


def settled(
    contract: Callable[..., Any] | type, advice: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """`given` with a value for each None of a parameter that has an Else: what is recommended, or Else's.

    advice: function's (or record's) name -> parameter's name -> value, as a model's file holds it.
    Raises ArgumentError where what is recommended does not fit the parameter.
    """
    found, of_this = dict(given), advice.get(contract.__name__, {})
    for name, annotation in hints(contract).items():
        if name in given and given[name] is None and (usual := else_of(annotation)) is not None:
            found[name] = of_this.get(name, usual.value)
            if (text := wrong(annotation, found[name])) is not None:
                raise ArgumentError(name, f"the model's recommendation {text}")
    return found


def else_of(annotation: Any) -> Else | None:
    """The Else of a parameter that may be left to the model; None of any other."""
    extras = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((extra for extra in extras if isinstance(extra, Else)), None)


PLAIN: dict[type, tuple[Any, str]] = {
    bool: (bool, "True or False"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "a text"),
}


def listed(values: Sequence[Any]) -> str:
    """a, b or c."""
    *first, last = (str(value) or '""' for value in values)
    return f"{', '.join(first)} or {last}" if first else last


def one_each(
    name: str, value: Any, n: int, kinds: type | tuple[type, ...] = str, of: str = "picture"
) -> list[Any]:
    """ "One, or one for each": n values, from one of the kinds or a list of n of them.

    Raises ArgumentError for another number of values, or a value of another kind.
    """
    values = [value] * n if isinstance(value, kinds) else value
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise ArgumentError(name, f"must be one value, or one for each {of}, got {value!r}")
    if len(values) != n:
        raise ArgumentError(name, f"must be one, or one for each of {n} {of}s, got {len(values)}")
    if strange := [one for one in values if not isinstance(one, kinds)]:
        raise ArgumentError(name, f"cannot be {strange[0]!r}")
    return list(values)
