"""palimpsest.arguments: the annotation is the contract, and each refusal is one line that names the argument."""

from __future__ import annotations

import importlib
import inspect
import math
import pickle
import pkgutil
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pytest
import torch
from PIL import Image

import palimpsest.methods
import palimpsest.samplers
from palimpsest.arguments import (
    ArgumentError,
    Count,
    Fraction,
    Hint,
    Interval,
    Mask,
    Picture,
    Positive,
    Rounds,
    Scale,
    Seed,
    Share,
    Texts,
    check,
    one_each,
)


def edit(
    x: Picture = None,
    *,
    mask: Mask | None = None,
    prompt: Texts = "",
    ratio: Annotated[Share, Hint("the paper takes 0.8")] = 0.8,
    threshold: Annotated[float, Interval(0, 1, open_high=True)] = 0.5,
    depth: Fraction = 0.0,
    steps: Count = 50,
    grow: Rounds = 0,
    w: Scale = 3.0,
    r: Positive = 3.0,
    seed: Seed = 0,
    clamp: Literal["quantile", "mean"] = "quantile",
    paste: bool = True,
):
    check(edit, locals())


GOOD = torch.zeros(1, 3, 8, 8)


@pytest.mark.parametrize(
    "given, said",
    [
        (dict(ratio=0), "ratio: must lie in (0, 1], got 0; the paper takes 0.8"),
        (dict(ratio=math.nan), "ratio: must lie in (0, 1], got nan; the paper takes 0.8"),
        (dict(ratio="1"), "ratio: must be a number, got '1'; the paper takes 0.8"),
        (dict(ratio=True), "ratio: must be a number, got True; the paper takes 0.8"),
        (dict(threshold=1), "threshold: must lie in [0, 1), got 1"),
        (dict(depth=-0.1), "depth: must lie in [0, 1], got -0.1"),
        (dict(steps=0), "steps: must be at least 1, got 0"),
        (dict(steps=2.5), "steps: must be a whole number, got 2.5"),
        (dict(steps=True), "steps: must be a whole number, got True"),
        (dict(grow=-1), "grow: must be at least 0, got -1"),
        (dict(w=math.inf), "w: must be a finite number, got inf"),
        (dict(r=0), "r: must be above 0, got 0"),
        (dict(steps=2**63), "steps: must be a number of at most 63 bits"),
        (dict(steps=10**400), "steps: must be a number of at most 63 bits"),
        (dict(seed=1.5), "seed: must be a whole number, got 1.5"),
        (dict(clamp="median"), "clamp: must be quantile or mean, got 'median'"),
        (dict(paste=1), "paste: must be True or False, got 1"),
        (dict(prompt=3), "prompt: must be a text, or a list of texts, got 3"),
        (dict(prompt=["a", 3]), "prompt: must be a text, or a list of texts, got ['a', 3]"),
        (dict(x=GOOD[0]), "x: must be (b, 3, y, x), got (3, 8, 8); add the batch axis: x[None]"),
        (dict(x=GOOD[0, 0]), "x: must be (b, 3, y, x), got (8, 8)"),
        (dict(x=GOOD[:0]), "x: must be (b, 3, y, x), got (0, 3, 8, 8)"),
        (dict(x=GOOD[:, :1]), "x: must have 3 channels, got 1; repeat the channel: x.expand(-1, 3, -1, -1)"),
        (dict(x=torch.zeros(1, 4, 8, 8)), "x: must have 3 channels, got 4; leave the alpha channel out: "
                                          "x[:, :3]"),
        (dict(x=GOOD + 255), "x: must lie in [-1, 1], got values from 255 to 255; give x / 127.5 - 1"),
        (dict(x=GOOD - 1.1), "x: must lie in [-1, 1], got values from -1.1 to -1.1; give x.clamp(-1, 1) if "
                             "the "
                             "overshoot is meant"),
        (dict(x=GOOD.byte()), "x: must hold floats in [-1, 1], got torch.uint8; give x.float() / 127.5 - 1"),
        (dict(x=GOOD / 0), "x: holds NaN or infinity"),
        (dict(x=np.zeros(3)), "x: must be a tensor (b, 3, y, x), a path or a PIL image, got ndarray; "
                              "worlds.files.read_picture reads files"),
        (dict(mask=GOOD), "mask: must be (b, 1, y, x), got (1, 3, 8, 8)"),
        (dict(mask=GOOD[:, :1] + 2), "mask: must hold 0 and 1 alone, 1 = edit here; threshold it: (mask > 0.5).float()"),
        (dict(mask=GOOD[:, :1] / 0), "mask: must hold 0 and 1 alone, 1 = edit here; threshold it: (mask > 0.5).float()"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_used_is_refused_in_one_line_that_names_the_argument(given, said):
    with pytest.raises(ArgumentError) as refused:
        edit(**{"x": GOOD, **given})
    assert str(refused.value) == said and refused.value.argument == next(iter(given))


@pytest.mark.parametrize(
    "given",
    [
        {},
        dict(x=GOOD + 1.005),
        dict(x="star.png"),
        dict(x=Image.new("RGB", (8, 8))),
        dict(mask=torch.ones(1, 1, 8, 8, dtype=torch.bool)),
        dict(prompt=["a", "b"]),
        dict(ratio=1, steps=np.int64(3), w=np.float32(-2), threshold=0, seed=-1, clamp="mean", depth=1),
    ],
)
def test_what_fits_passes(given):
    assert edit(**{"x": GOOD, **given}) is None


@dataclass(frozen=True)
class Course:
    steps: Count = 3
    lr: Positive = 0.1

    def __post_init__(self):
        check(Course, vars(self))


def test_a_record_checks_its_fields():
    assert Course(lr=1).lr == 1
    with pytest.raises(ArgumentError, match=r"^steps: must be at least 1, got 0$"):
        Course(steps=0)


def test_the_exception_crosses_between_processes():
    again = pickle.loads(pickle.dumps(ArgumentError("steps", "must be at least 1, got 0")))
    assert (again.argument, again.text) == ("steps", "must be at least 1, got 0")
    assert str(again) == "steps: must be at least 1, got 0"


def test_one_or_one_for_each():
    assert one_each("w", 3.0, 2, float) == [3.0, 3.0] and one_each("source", ["a", "b"], 2) == ["a", "b"]
    for value, said in (
        (["a"], "one for each of 2 pictures, got 1"),
        (3, "got 3"),
        (["a", 3], "cannot be 3"),
    ):
        with pytest.raises(ArgumentError, match=said):
            one_each("source", value, 2)


def checked():
    """Every public function and record of methods/ and samplers/ that checks its own arguments."""
    for room in (palimpsest.methods, palimpsest.samplers):
        for found in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
            module = importlib.import_module(found.name)
            for name, thing in vars(module).items():
                ours = getattr(thing, "__module__", "") == module.__name__ and not name.startswith("_")
                code = getattr(thing, "__post_init__", thing) if inspect.isclass(thing) else thing
                if ours and inspect.isfunction(code) and f"check({name}, " in inspect.getsource(code):
                    yield pytest.param(thing, id=f"{found.name.removeprefix('palimpsest.')}.{name}")


class Nonsense:
    """What no argument may be."""


@pytest.mark.parametrize("function", checked())
def test_whatever_checks_its_arguments_refuses_nonsense_before_it_does_anything(function):
    given = {name: Nonsense() for name in inspect.signature(function).parameters}
    with pytest.raises(ArgumentError) as refused:
        function(**given)
    assert refused.value.argument in given
    frames = [frame.name for frame in refused.traceback]
    own = "__post_init__" if inspect.isclass(function) else function.__name__
    assert frames[frames.index(own) + 1] == "check"  # its own, not that of what it calls
