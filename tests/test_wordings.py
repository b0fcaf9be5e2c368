"""worlds/wordings.py: a scene in free words means the scene, as it is said and as it is typed."""

from __future__ import annotations

import random

from palimpsest.worlds.scene import RARE_WORDS, WORDS
from palimpsest.worlds.shapes import attributes, sample_scene
from palimpsest.worlds.wordings import (
    BY_HAND,
    FORMS,
    MOST,
    Form,
    Told,
    held_out_wordings,
    is_held_out_form,
    put,
    typed,
    worded,
)
from palimpsest.worlds.words import fulfils, understood, wanted


def test_free_words_ask_for_their_scene_in_known_words_that_are_nobodys_name():
    rng = random.Random(0)
    for k in range(500):
        scene = sample_scene(rng, held_out=None)
        text = worded(scene, rng, held_out=k % 4 == 0)
        assert fulfils(text, attributes(scene)), text
        assert set(text.split()) <= set(WORDS) - set(RARE_WORDS) and understood(text) == text
        assert len(text.split()) <= MOST


def test_every_form_means_its_scene_and_no_other_arrangement_of_it():
    rng = random.Random(1)
    for n, forms in FORMS.items():
        for form in forms:
            scene = sample_scene(rng, things=n)
            text, seen = put(scene, form, Told(background=form.ground != "none"), rng), attributes(scene)
            assert fulfils(text, seen), (form, text)
            turned = {
                name[:-1] + {"1": "2", "2": "1"}.get(name[-1], name[-1]): value
                for name, value in seen.items()
            }
            if n == 2 and not form.order.startswith("and,") and form.order != "and":
                assert not fulfils(text, turned), (form, text)


def test_what_is_typed_is_understood_as_what_was_said():
    rng = random.Random(2)
    changed = 0
    for _ in range(500):
        text = worded(sample_scene(rng), rng)
        line = typed(text, rng)
        changed += line != text
        assert understood(line) == text, line
    assert changed > 400


def test_training_has_every_choice_but_not_every_combination():
    rng = random.Random(3)
    for forms in FORMS.values():
        kept, held = ([f for f in forms if is_held_out_form(f) == out] for out in (False, True))
        assert 0.1 < len(held) / len(forms) < 0.25
        assert all(len({f[k] for f in kept}) == len({f[k] for f in forms}) for k in range(len(Form._fields)))
    scene = sample_scene(rng, things=2)
    shown = {worded(scene, rng) for _ in range(3000)}
    for form in filter(is_held_out_form, FORMS[2]):
        assert put(scene, form, Told(background=form.ground != "none"), rng) not in shown


def test_two_hundred_wordings_are_held_out_and_ask_for_what_their_plain_caption_asks_for():
    rows = held_out_wordings()
    assert (
        len(rows) == 200 == len({row.text for row in rows})
        and rows[: len(BY_HAND)] == list(BY_HAND)
        and rows == held_out_wordings()
    )
    for plain, text in rows:
        assert set(understood(text).split()) <= set(WORDS) and len(understood(text).split()) <= MOST, text
        asked, said = wanted(plain), wanted(text)
        if "relation" in said:
            assert said == asked, (plain, text)
        else:
            seen = {"relation": "left of", **{name: "" for name in said}, **asked}
            assert fulfils(text, seen), (plain, text)
    assert 60 < sum(wanted(plain)["count"] == "two" for plain, _ in rows) < 140
