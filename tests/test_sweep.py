"""methods/sweep: every combination once, in order, on a sheet that says which is which."""

from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from palimpsest.cli.commands.sweep import understood
from palimpsest.methods.sweep import label, sheet, sweep


class Result(NamedTuple):
    picture: Tensor
    mask: Tensor


def paint(x, *, red=0.0, green=0.0, seed=0):
    """A verb: what the knobs say, plainly visible."""
    if red > 1:
        raise ValueError("red: must be at most 1, got 2")
    return Result(x * 0 + torch.tensor([red, green, seed])[:, None, None], x[:, :1] * 0 + red)


X = torch.zeros(2, 3, 8, 8)


def test_every_combination_is_called_once_and_the_last_grid_runs_fastest():
    swept = sweep(partial(paint, X, seed=1), {"red": [0.0, 0.5], "green": (0.1, 0.2, 0.3)})
    assert [tuple(s.values()) for s in swept.settings] == [
        (0.0, 0.1),
        (0.0, 0.2),
        (0.0, 0.3),
        (0.5, 0.1),
        (0.5, 0.2),
        (0.5, 0.3),
    ]
    for setting, result in zip(swept.settings, swept.results, strict=True):
        assert torch.allclose(
            result.picture[0, :, 0, 0], torch.tensor([setting["red"], setting["green"], 1.0])
        )


def colours(drawn):
    """Which of the cells' colours a sheet holds, as sets of its pixels."""
    return {tuple(p) for p in drawn[0].flatten(1).T.tolist()}


def test_two_grids_make_rows_and_columns_and_one_a_row():
    swept = sweep(partial(paint, X), {"red": [-1.0, 1.0], "green": [-1.0, 0.0, 1.0]})
    two = sheet(swept, title="why")
    assert {(r, g, 128) for r in (0, 255) for g in (0, 128, 255)} <= colours(two)
    red = (two[0] == torch.tensor([255, 0, 128])[:, None, None]).all(0).nonzero()
    blank = (two[0] == torch.tensor([0, 0, 128])[:, None, None]).all(0).nonzero()
    assert red[:, 0].min() > blank[:, 0].max() and red[0, 1] == blank[0, 1]  # red below, in the same column
    one = sheet(sweep(partial(paint, X), {"green": [-1.0, 0.0, 1.0]}), before=X + 1)
    assert one.shape[2] < two.shape[2] and (255, 255, 255) in colours(one) and (128, 255, 128) in colours(one)


def test_a_sheet_shows_what_it_is_asked_to_of_the_picture_it_is_asked_for():
    swept = sweep(lambda red: paint(torch.stack([X[0], X[0]]), red=red), {"red": [1.0]})
    swept.results[0].mask[1] = -1
    assert (0, 0, 0) in colours(sheet(swept, lambda r: r.mask, n=1)) and (255, 0, 0) not in colours(
        sheet(swept, lambda r: r.mask)
    )


def test_an_option_that_may_be_given_again_is_swept_by_what_was_given():
    assert understood(["0.3", "star=0.5"]) == "0.3, star=0.5" and understood(0.3) == 0.3


def test_labels_are_short():
    assert (
        label({"ratio": 0.30000000000000004, "steps": 5, "clamp": "mean"}) == "ratio 0.3, steps 5, clamp mean"
    )


def refuse(hue):
    raise ValueError("no such colour")


def test_mistakes_are_named_with_the_setting_that_made_them():
    with pytest.raises(ValueError, match="^grids"):
        sweep(partial(paint, X), {})
    with pytest.raises(ValueError, match="^grids"):
        sweep(partial(paint, X), {"red": []})
    with pytest.raises(ValueError, match="^grids: prompt must be a list of values, got the text 'a star'"):
        sweep(partial(paint, X), {"prompt": "a star"})
    with pytest.raises(ValueError, match=r"^red: must be at most 1, got 2 \(at red 2, green 0\)"):
        sweep(partial(paint, X), {"red": [0, 2], "green": [0]})
    with pytest.raises(ValueError, match=r"^no such colour \(at hue 9\)$"):
        sweep(refuse, {"hue": [9]})
    with pytest.raises(
        ValueError, match=r"^grids: are 3 \(red, green, seed\), and a sheet has two directions"
    ):
        sheet(sweep(partial(paint, X), {"red": [0], "green": [0], "seed": [0]}))
