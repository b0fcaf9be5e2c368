"""worlds/words.py: what people type becomes the world's words, and every caption says what it asks for."""

from __future__ import annotations

import random
import re

import pytest
import torch

from palimpsest.methods.alignment import align
from palimpsest.methods.alignment import words as words_of
from palimpsest.nets.tokenizer import UnknownWord
from palimpsest.weights.load import load
from palimpsest.weights.words import word_tokenizer
from palimpsest.worlds.scene import COLOURS, LATER, RARE_WORDS, SHAPES, WORDS
from palimpsest.worlds.shapes import attributes, caption, edits, instruction, sample_scene
from palimpsest.worlds.wordings import worded
from palimpsest.worlds.words import (
    EMOJI_TABLE,
    SHAPES_TABLE,
    advice,
    fulfils,
    groups,
    nearest,
    plainly,
    understood,
    wanted,
)

EMOJI = (
    "twemoji",
    "noto",
    "a",
    "an",
    "the",
    "red",
    "heart",
    "blue",
    "background",
    "on",
    "in",
    "style",
    "woman",
    "firefighter",
    ":",
    "'",
    "dark",
    "skin",
    "tone",
    "change",
    "to",
    "make",
    "them",
    "man",
    "set",
    "clock",
    "three",
    "o",
    "grey",
    "smiling",
    "big",
    "large",
)


def test_a_caption_asks_for_its_scene():
    rng = random.Random(0)
    for _ in range(300):
        scene = sample_scene(rng, held_out=None)
        assert wanted(caption(scene)) == attributes(scene)
        less = wanted(caption(scene, size=False, background=False))
        assert less.items() <= attributes(scene).items() and "background" not in less and "size_1" not in less


@pytest.mark.parametrize(
    "text",
    [
        "a red",
        "a red zzz star",
        "a red star on a",
        "a red star on a zzz background",
        "a red blue star",
        "a star ring",
        "a star, a ring and a heart",
    ],
)
def test_what_is_no_caption_is_refused(text):
    with pytest.raises(ValueError, match="prompt: "):
        wanted(text)


def test_nothing_asks_for_nothing():
    assert wanted("") == {}


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("Delete the disc, please!", "remove the circle"),
        ("a BIG crimson star to the left of a moon", "a large red star left of a crescent"),
        ("change the star's colour to blue", "change the star to blue"),
        ("change the color of the star to blue", "change the star to blue"),
        ("\ufeffA “red” star\non a blue backdrop.", "a red star on a blue background"),
        ("get rid of the ring", "remove the ring"),
        ("take the circle away", "remove the circle"),
        ("paint it blue", "make it blue"),
        ("make the star bigger", "make the star large"),
        ("shrink it", "make it small"),
        ("replace the star by a heart", "replace the star with a heart"),
        ("swap the star for an enormous ring", "replace the star with a large ring"),
        ("the star should be blue", "make the star blue"),
        ("I’d like the star to become blue", "make the star blue"),
        ("give the star stripes", "make the star striped"),
        ("remove the dots from the circle", "make the circle plain"),
        ("remove the red one", "remove the red thing"),
        ("remove the one on the left", "remove the left thing"),
        ("Make the star blue. Delete the ring.", "make the star blue and remove the ring"),
        ("There is a tiny red star on white", "a small red star on white"),
        ("a picture of a little grey star", "a small grey star"),
        ("draw a small ring under the star", "add a small ring below the star"),
        ("a star of red colour", "a star in red"),
        (
            "a red star with stripes, and a light blue ring to its right",
            "a red star that is striped and a blue ring right of it",
        ),
        ("exchange the star and the ring", "swap the star and the ring"),
        ("change the star from red to blue", "change the star to blue"),
        ("a zwx star", "a zwx star"),
        ("", ""),
        ("  ?! ", ""),
    ],
)
def test_what_people_type_becomes_the_words_of_the_world(typed, meant):
    assert understood(typed) == meant
    assert understood(meant) == meant


def test_captions_and_instructions_stay_as_they_are():
    rng = random.Random(1)
    for _ in range(200):
        scene = sample_scene(rng, held_out=None)
        for text in (caption(scene), *(instruction(scene, edit) for edit in rng.sample(edits(scene), 3))):
            assert understood(text) == text


def test_a_table_leads_to_known_words_and_never_to_the_rare_ones():
    known = set(WORDS) - set(RARE_WORDS)
    assert set(SHAPES_TABLE.synonyms.values()) <= known and not set(SHAPES_TABLE.synonyms) & set(WORDS)
    for table in (SHAPES_TABLE, EMOJI_TABLE):
        offered = {word for words in (*table.near.values(), *table.groups.values()) for word in words}
        assert not set(RARE_WORDS) & offered
    assert {word for words in groups().values() for text in words for word in text.split()} <= known
    assert groups()["shapes"] == SHAPES and groups(["red", "zwx"]) == {}


def test_a_word_that_the_model_has_is_never_replaced():
    assert understood("a big disc", (*WORDS, "big")) == "a big circle"
    assert understood("a star # remove the star % a", (*WORDS, "#", "%")) == "a star # remove the star % a"
    assert (
        understood("Some cat, big") == "some cat large"
        and understood("Some cat, big!", ["cat"]) == "some cat big"
    )


@pytest.mark.parametrize(
    "word, near",
    [
        ("grey", ("white", "black")),
        ("Pink", ("red", "purple")),
        ("stars", ("star",)),
        ("trianlge", ("triangle",)),
        ("delte", ("remove",)),
        ("crimsn", ("red",)),
        ("zwyx", ()),
        ("no", ()),
        ("elephant", ()),
    ],
)
def test_the_nearest_words_are_near_in_meaning_or_spelling_and_name_something(word, near):
    assert nearest(word)[: max(1, len(near))] == near
    assert not set(nearest(word)) & set(RARE_WORDS)


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("A red heart.", "red heart"),
        ("a “smiling” woman on a blue backdrop", "smiling woman on a blue background"),
        ("dark-skinned firefighter in google style", "firefighter: dark skin tone in noto style"),
        ("make her a man", "make them a man"),
        ("Change the skin color to dark!", "change the skin tone to dark"),
        ("set the clock to three o’clock", "set the clock to three o'clock"),
        ("a gray heart", "grey heart"),
        ("a big heart", "big heart"),
    ],
)
def test_emoji_have_a_table_of_their_own(typed, meant):
    assert understood(typed, EMOJI) == meant


@pytest.mark.parametrize(
    "text, plain",
    [
        ("on a blue background, a red star", "a red star on a blue background"),
        ("Red star.", "a red star"),
        ("red star on blue", "a red star on a blue background"),
        ("a star that is red and small", "a small red star"),
        ("a star in red, white background", "a red star on a white background"),
        ("a red star and a blue ring below it", "a red star above a blue ring"),
        ("the ring is right of the star", "a star left of a ring"),
        ("left of a blue ring is a red star", "a red star left of a blue ring"),
        ("a star and below it a ring", "a star above a ring"),
        ("a blue background with a red star under a ring", "a ring above a red star on a blue background"),
        (
            "a star that is red and small and a ring that is blue on its right",
            "a small red star left of a blue ring",
        ),
    ],
)
def test_free_words_ask_for_what_the_plain_caption_asks_for(text, plain):
    assert wanted(text) == wanted(plain)


def test_two_things_without_a_place_are_had_in_either_order():
    rng = random.Random(2)
    scene = next(
        s for s in (sample_scene(rng, things=2) for _ in range(99)) if len({t.colour for t in s.things}) == 2
    )
    a, b = (f"a {t.colour} {t.shape}" for t in scene.things)
    found = attributes(scene) | {"texture_1": "plain", "texture_2": "plain"}
    assert (
        fulfils(f"{a} and {b}", found)
        and fulfils(f"{b} and {a}", found)
        and fulfils(f"{a} {scene.relation} {b}", found)
    )
    assert not fulfils(f"{b} {scene.relation} {a}", found) and not fulfils(a, found)
    wrong = next(c for c in COLOURS if c not in (scene.things[0].colour, scene.things[1].colour))
    assert not fulfils(f"{a} and a {wrong} {scene.things[1].shape}", found)


OLD = tuple(word for word in WORDS if word not in LATER)  # of models that read no "it" and no "below"


@pytest.mark.parametrize(
    "typed, plain",
    [
        ("A star that's red.", "a red star"),
        ("red star", "a red star"),
        ("a ring right of a star", "a star left of a ring"),
        ("below a ring is a big star, on blue", "a ring above a large star on a blue background"),
        ("a striped star and a plain ring below it", "a striped star above a ring"),
        ("On a WHITE backdrop: orange large moon!", "a large orange crescent on a white background"),
        ("a star and a ring", "a star left of a ring"),
        ("a red star, a ring. White background", "a red star left of a ring on a white background"),
        ("a star beside a ring", "a star left of a ring"),
        ("two big red boxes", "a large red square left of a large red square"),
        ("make it blue", "make it blue"),
        ("remove the star", "remove the star"),
        ("a grey star", "a grey star"),
        ("blue", "blue"),
        ("a blorpx star on white", "a blorpx star on white"),
        ("blue background", "blue background"),
        ("", ""),
    ],
)
def test_a_model_that_saw_plain_captions_alone_is_asked_by_one(typed, plain):
    assert plainly(typed, OLD) == plain
    assert plainly(plain, OLD) == plain
    assert plainly(typed, ["a", "star"]) == typed  # of another world


def test_plain_captions_stay_as_they_are_and_free_ones_mean_what_they_meant():
    rng = random.Random(5)
    for _ in range(200):
        scene = sample_scene(rng)
        said = caption(scene, size=rng.random() < 0.5, background=rng.random() < 0.5)
        assert plainly(said, OLD) == said
        free = worded(scene, rng)
        asked, meant = wanted(free), wanted(plainly(free, OLD))
        assert {"relation": "left of"} | asked == {"relation": "left of"} | meant


def test_a_prompt_is_put_plainly_and_a_word_in_it_is_found_where_it_then_stands():
    tokenizer = word_tokenizer(OLD, 24, free=False)
    with pytest.raises(ValueError, match='is not in the prompt "a plain star", which is read as "a star"'):
        tokenizer.positions("a plain star", "plain")
    plain, free = "a small red star on a white background", "White backdrop with a star that is red and small"
    assert torch.equal(tokenizer([free]), tokenizer([plain]))
    assert tokenizer.positions(free, "star") == tokenizer.positions(plain, "star") == [4]
    assert [word.text for word in words_of(tokenizer, free)] == plain.split()
    assert word_tokenizer(OLD, 24).put(free) == free  # a model that saw free wordings, or reads instructions


@pytest.mark.parametrize(
    "typed, plain",
    [
        ("white background, a zwx star that is red", "a red zwx star on a white background"),
        ("zwx red star", "a zwx red star"),  # where it stands among the looks is kept
        ("a ring below the zwx star", "a zwx star above a ring"),
        ("a ring right of a <TOY>", "a <toy> left of a ring"),
        ("on white, an orange <toy> star", "an orange <toy> star on a white background"),
        ("a star below an owl", "an owl above a star"),
        ("a zwx star and a qev star", "a zwx star left of a qev star"),
        ("a griffin, a star", "a griffin left of a star"),
        ("a <toy> and a griffin on white", "a <toy> left of a griffin on a white background"),
        ("a photo of the zwx", "a zwx"),
        ("a star griffin a ring", "a star griffin a ring"),  # who knows how it is meant
        ("a zwx star, a ring, a heart", "a zwx star, a ring, a heart"),
    ],
)
def test_words_of_a_models_own_stay_with_their_thing(typed, plain):
    tokenizer = word_tokenizer([*OLD, "griffin"], 24, free=False)
    tokenizer = tokenizer.with_taught({"<toy>": [70], "owl": [71, 72]})
    assert tokenizer.put(typed) == plain and tokenizer.put(plain) == plain
    for word in set(plain.split()) & {"zwx", "griffin", "<toy>", "owl"}:
        assert tokenizer.positions(typed, word) == tokenizer.positions(plain, word)


def test_prompts_of_a_pair_are_put_alike_though_one_has_a_word_of_the_models_own():
    tokenizer = word_tokenizer(OLD, 24, free=False)
    found = align(tokenizer, "a red star on white", "on white, a zwx star")
    assert found.edit == "replace" and found.source_tokens[2:4] == ["red", "star"]
    assert found.target_tokens[2:4] == ["zwx", "star"]


def test_shapes_and_its_companion_are_asked_alike_and_who_follows_instructions_as_it_is_told():
    free, plain = "on white, a star below a ring", "a ring above a star on a white background"
    shapes, companion, told = (load(f"shapes{name}", "meta") for name in ("", "-companion", "-instruct"))
    for model in (shapes, companion):
        assert model.tokenizer.decode(model.tokenizer.encode(free)) == plain
    assert told.tokenizer.put("the star is red") == "the star is red"


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("two red stars", "a red star and a red star"),
        ("Two big boxes on white", "a large square and a large square on white"),
        ("crosses", "cross"),
        ("two daisies", "a flower and a flower"),
        ("2 red stars", "a red star and a red star"),
        ("1 red star & 1 blue_ring", "a red star and a blue ring"),
        ("a red star + a blue ring", "a red star and a blue ring"),
        ("Colour the heart in blue", "make the heart blue"),
        ("change heart to star", "change the heart to a star"),
        ("a (red:1.3) star", "a red star"),
        ("a ((red)) [star]", "a red star"),
        ("(make the star blue:0.8)", "make the star blue"),
        ("Remove circle!", "remove the circle"),
        ("make circle red", "make the circle red"),
        ("change background to blue", "change the background to blue"),
    ],
)
def test_plurals_weights_and_missing_articles_are_read_as_they_are_meant(typed, meant):
    assert understood(typed) == meant
    assert understood(meant) == meant


@pytest.mark.parametrize(
    "word", ["blorpx", "zwyx", "jurdd", "qqqqqqq", "plimm", "grey", "rde", "stra", "elephant"]
)
def test_an_unknown_word_is_never_answered_with_a_rare_one(word):
    said = advice(word)
    assert "known words are: " in said and not set(re.findall(r"\w+", said)) & set(RARE_WORDS)
    near = {"grey": "white, black (colours: red, ", "rde": "red (colours: ", "stra": "star (shapes: "}.get(
        word
    )
    assert near in said if near else "; colours: " in said and "; sizes: " in said


def test_a_word_that_only_other_models_have_is_answered_with_a_way_to_do_without():
    said = 'this model does not read "it" here; say it as in "a star above a ring", "make the star blue"'
    assert advice("it", OLD) == said
    assert advice("qqq", ["one", "two"]) == "no known word is near it"
    with pytest.raises(UnknownWord, match=r'"blorpx" in the prompt; the known words are: shapes: circle'):
        word_tokenizer(WORDS, 24)(["a blorpx star"])
