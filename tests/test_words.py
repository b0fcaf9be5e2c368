"""worlds/words.py: every caption says what it asks for."""

from __future__ import annotations

import random

import pytest

from palimpsest.worlds.shapes import attributes, caption, sample_scene
from palimpsest.worlds.words import wanted


def test_a_caption_asks_for_its_scene():
    rng = random.Random(0)
    for _ in range(300):
        scene = sample_scene(rng, held_out=None)
        assert wanted(caption(scene)) == attributes(scene)
        less = wanted(caption(scene, size=False, background=False))
        assert less.items() <= attributes(scene).items() and "background" not in less and "size_1" not in less


@pytest.mark.parametrize(
    "text", ["a red", "a red zzz star", "a red star on a red", "a red star on a zzz background"]
)
def test_what_is_no_caption_is_refused(text):
    with pytest.raises(ValueError, match="prompt: "):
        wanted(text)


def test_nothing_asks_for_nothing():
    assert wanted("") == {}
