"""figures/hand/plain: drawings that no training has seen, made by their command, and what their captions say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from palimpsest.claims.draw import drawings
from palimpsest.worlds.scene import COLOURS, PALETTES, SHAPES
from palimpsest.worlds.words import wanted

CAPTIONS = json.loads((drawings.FOLDER / "captions.json").read_text(encoding="utf-8"))
CROSSED = ("heart_flat", "heart_scribbled", "star_and_moon", "flower_dots")  # one of every way to fill


def opened(name):
    return np.asarray(Image.open(drawings.FOLDER / f"{name}.png").convert("RGB"), float) / 255


def test_every_shape_and_colour_is_drawn_and_every_caption_is_one():
    assert (
        CAPTIONS == {f"{name}.png": row[0] for name, row in drawings.DRAWINGS.items()} and len(CAPTIONS) == 24
    )
    asked = [wanted(caption) for caption in CAPTIONS.values()]
    assert {a["shape_1"] for a in asked} | {a["shape_2"] for a in asked} == {*SHAPES, "none"}
    assert {a["background"] for a in asked} >= {"white", "yellow", "blue", "black", "green"}
    assert sum(a["count"] == "two" for a in asked) == 6 and {a["texture_1"] for a in asked} == {
        "plain",
        "striped",
        "dotted",
    }
    for caption, (_, _, ground, items) in ((row[0], row) for row in drawings.DRAWINGS.values()):
        found = wanted(caption)
        assert found["background"] == ("white" if ground == "paper" else ground)
        for k, item in enumerate(items, 1):
            assert found[f"shape_{k}"] == item.outline.split()[0]
            assert found[f"colour_{k}"] == (item.paint or item.line)
            assert found[f"size_{k}"] == ("large" if item.size > 0.42 else "small")


@pytest.mark.parametrize("name", CROSSED)
def test_the_command_makes_the_files_that_are_there(name):
    made = np.asarray(drawings.drawing(name), float) / 255
    assert made.shape == opened(name).shape and np.abs(made - opened(name)).mean() < 0.01


@pytest.mark.parametrize("name", sorted(drawings.DRAWINGS))
def test_a_drawing_shows_its_colours_where_its_things_are(name):
    picture, (_, _, ground, items) = opened(name), drawings.DRAWINGS[name]
    known, side = torch.tensor([COLOURS[c] for c in COLOURS]), min(picture.shape[:2])

    def nearest(rgb):
        return tuple(COLOURS)[(known - torch.tensor(rgb)).norm(dim=1).argmin()]

    corner = picture[2:8, 2:8].mean((0, 1))
    assert nearest(corner) == ("white" if ground == "paper" else ground)
    for item in items:
        low, high = ([int((v + s * 0.6 * item.size) * side) for v in (item.y, item.x)] for s in (-1, 1))
        part = picture[max(low[0], 0) : high[0], max(low[1], 0) : high[1]]
        paint = np.array(drawings.colour(item.paint or item.line)) / 255
        share = (np.abs(part - paint).sum(-1) < 0.25).mean()
        assert share > (0.15 if item.paint else 0.04), (item.outline, share)
        assert nearest(paint) == (item.paint or item.line)


def test_no_palette_of_training_has_the_paints_of_the_drawings():
    for name, paint in drawings.PAINT.items():
        shown = [
            np.abs(np.array(palette[name]) - np.array(paint) / 255).max() for palette in PALETTES.values()
        ]
        assert name == "white" or min(shown) > 0.01
