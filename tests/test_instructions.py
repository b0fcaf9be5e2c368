"""worlds/instructions.py: a wish in free words asks for its edit, points at one thing, and is understood as
it is typed.
"""

from __future__ import annotations

import random

import pytest

from palimpsest.worlds.instructions import (
    KINDS,
    POINTS,
    WAYS,
    asked,
    held_out_instructions,
    is_held_out_form,
    meaning,
    pointed_at,
    points,
)
from palimpsest.worlds.scene import RARE_WORDS, WORDS
from palimpsest.worlds.shapes import apply, caption, edits, instruction, is_held_out, sample_scene
from palimpsest.worlds.triplets import Triplet, follows
from palimpsest.worlds.wordings import typed
from palimpsest.worlds.words import understood


def some_edits(n, seed):
    """n scenes, each with an edit of any kind."""
    rng = random.Random(seed)
    for _ in range(n):
        scene = sample_scene(rng, held_out=None)
        options = edits(scene)
        kind = rng.choice(sorted({edit.kind for edit in options}))
        yield scene, rng.choice([edit for edit in options if edit.kind == kind]), rng


def test_a_wish_in_free_words_is_followed_by_its_edit_and_by_no_other():
    for k, (scene, edit, rng) in enumerate(some_edits(300, 0)):
        wish = asked(scene, edit, rng, held_out=k % 3 == 0)
        assert follows(Triplet(caption(scene), wish, caption(apply(scene, edit)))), wish
        other = rng.choice(
            [e for e in edits(scene) if caption(apply(scene, e)) != caption(apply(scene, edit))]
        )
        free = edit.kind == "add" and other.kind == "add" and other.value.shape == edit.value.shape
        if not free:
            assert not follows(Triplet(caption(scene), wish, caption(apply(scene, other)))), (wish, other)


def test_wishes_are_in_known_words_and_understood_as_they_are_typed():
    for scene, edit, rng in some_edits(300, 1):
        for wish in (asked(scene, edit, rng), instruction(scene, edit)):
            assert set(wish.split()) <= set(WORDS) - set(RARE_WORDS) and understood(wish) == wish
            line = typed(wish, rng)
            assert understood(line) == wish, line


def test_the_plain_wish_of_every_kind_is_the_first_way_to_put_it():
    for scene, edit, _ in some_edits(200, 2):
        (kind, named), *more = meaning(instruction(scene, edit))
        assert kind == KINDS[edit.kind] and not more
        assert follows(Triplet(caption(scene), instruction(scene, edit), caption(apply(scene, edit))))


def test_whatever_points_at_a_thing_means_it_alone():
    rng, seen = random.Random(3), set()
    for _ in range(400):
        scene = sample_scene(rng)
        looks = [
            {"shape": t.shape, "colour": t.colour, "size": t.size, "texture": t.texture} for t in scene.things
        ]
        for k in range(len(looks)):
            for point, words in points(scene, k, rng).items():
                assert pointed_at(words.removeprefix("the "), looks, scene.relation or "none") == k
                seen.add(point)
    assert seen == set(POINTS)
    two = [{"shape": "star", "colour": "red"}, {"shape": "ring", "colour": "red"}]
    for words, said in (
        ("it", "more than one"),
        ("red thing", "more than one"),
        ("blue thing", "no"),
        ("upper thing", "no"),
    ):
        with pytest.raises(ValueError, match=f"there is {said} thing"):
            pointed_at(words, two, "left of")


@pytest.mark.parametrize(
    "text",
    ["", "please", "make the star", "add a star and", "make the star blue and", "swap the star", "dance"],
)
def test_what_nobody_would_say_means_nothing(text):
    with pytest.raises(ValueError, match="instruction: "):
        meaning(text)


def test_every_kind_has_forms_of_both_sorts_and_the_plain_one_is_trained():
    for ways in WAYS.values():
        forms = [(way, point) for way in ways for point in (POINTS if "{it}" in way else ("",))]
        held = [form for form in forms if is_held_out_form(*form)]
        assert 0 < len(held) < len(forms) / 2
        assert not is_held_out_form(ways[0], "shape" if "{it}" in ways[0] else "")


def test_two_hundred_wishes_are_held_out_and_no_training_wish_is_put_so():
    rows = held_out_instructions()
    assert len(rows) == 200 and rows == held_out_instructions()
    assert {row.edit.kind for row in rows} == set(KINDS)
    rng = random.Random(4)
    for scene, edit, text in rows:
        after = apply(scene, edit)
        assert follows(Triplet(caption(scene), understood(text), caption(after))) and not is_held_out(after)
    for scene, edit, text in rows[:32]:
        assert understood(text) not in {asked(scene, edit, rng) for _ in range(60)}
