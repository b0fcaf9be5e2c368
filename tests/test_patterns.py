"""worlds/patterns.py and the notes of the commands: what is unlike the training texts is said, with examples."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from palimpsest.cli.main import main
from palimpsest.worlds import emoji
from palimpsest.worlds.files import write_picture
from palimpsest.worlds.patterns import EXAMPLES, absent, captions, nearest_captions, remark, things
from palimpsest.worlds.scene import WORDS
from palimpsest.worlds.shapes import attributes, caption, edits, instruction, render, sample_scene
from palimpsest.worlds.wordings import typed, worded
from tests.tiny import tiny_instruct, tiny_weights

EMOJI = ("twemoji", "noto", "red", "heart", "make", "them", *":,-'.!#&")


def test_what_a_model_was_trained_on_needs_no_remark():
    rng = random.Random(0)
    for _ in range(100):
        scene = sample_scene(rng, held_out=None)
        assert remark(caption(scene)) == ""
        assert remark(typed(worded(scene, rng), rng)) == ""
        for edit in rng.sample(edits(scene), 3):
            assert remark(instruction(scene, edit), instructs=True) == ""
    assert remark("a zwx star") == remark("a zwx") == remark("") == remark("  ") == ""
    world = emoji.open_world()
    for scene in emoji.sample_scenes(world.emoji, 100, rng):
        assert remark(emoji.caption(scene), EMOJI) == ""
    for pair in emoji.pairs(world, rng, held_out=None)[:100]:
        assert remark(pair.instruction, EMOJI, instructs=True) == ""


@pytest.mark.parametrize("known, world", [(WORDS, "shapes"), (EMOJI, "emoji")])
@pytest.mark.parametrize("instructs", [False, True])
def test_the_examples_are_like_the_training_texts_and_the_others_are_not(known, world, instructs):
    for text in EXAMPLES[world, instructs]:
        assert remark(text, known, instructs=instructs) == ""
        other = remark(text, known, instructs=not instructs)
        assert other.startswith('"') and other != ""


@pytest.mark.parametrize(
    "text", ["red", "star star star", "blue on red", "make the star blue", "red red blue star"]
)
def test_a_sentence_of_another_pattern_gets_two_examples(text):
    assert remark(text) == (
        f'"{text}" is no caption of the kind that this model was trained on, such as "a red star" or "a small blue '
        'ring left of a striped green heart on a white background"'
    )


def test_a_text_without_a_word_is_said_to_count_as_empty():
    assert remark("🐱 !") == '"🐱 !" holds no word that is read, and counts as empty'


def test_for_emoji_the_nearest_captions_are_offered():
    assert len(captions()) == len(set(captions())) == 1644 and "red heart" in captions()
    assert set(nearest_captions("a smiling woman", 3)) >= {"woman", "smiling face"}
    assert nearest_captions("read heart", 1) == ("red heart",)
    assert remark("a smiling woman", EMOJI) == (
        '"smiling woman" names no emoji; the nearest captions are "woman", "smiling face", "old woman"'
    )
    assert remark("person: light skin tone, red hair in noto style", EMOJI) == ""


def test_what_an_instruction_names_and_nobody_sees_is_absent():
    rng = random.Random(1)
    for _ in range(100):
        scene = sample_scene(rng)
        seen = attributes(scene)
        for edit in rng.sample(edits(scene), 3):
            assert absent(instruction(scene, edit), seen) == ""
    scene = next(s for s in (sample_scene(rng, things=1) for _ in range(99)) if s.things[0].shape == "ring")
    scene = replace(scene, things=(replace(scene.things[0], colour="red"),))
    seen = attributes(scene)
    for text, missing in (
        ("make the star blue", "star"),
        ("Remove the blue ring.", "blue ring"),
        ("replace the heart with a star", "heart"),
        ("make the ring blue and remove the star", "star"),
        ("swap the ring and the cross", "cross"),
        ("add a star above the ring", ""),
        ("change the background to blue", ""),
        ("make it blue", ""),
        ("hello", ""),
    ):
        assert absent(text, seen) == missing, text
    assert things(seen) == "a red ring"


# ---- the commands ----


@pytest.fixture
def room(tmp_path, monkeypatch):
    tiny_weights(tmp_path)
    tiny_instruct(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "prompt, said",
    [
        ("a (red:1.3) star", 'note: prompt: the weight in "(red:1.3)" is left out'),
        ("a ((red)) star", 'note: prompt: the weight in "((red))" is left out'),
        ("make the star red", 'note: prompt: "make the star red" is no caption'),
        ("<lora:x:1> red star", 'note: prompt: "<lora:x:1>" loads nothing here'),
    ],
)
def test_generate_notes_what_may_not_be_read_as_meant(room, capsys, prompt, said):
    code = main(
        ["generate", "--prompt", prompt, "--steps", "1", "-o", "a.png", "--model", "tiny.safetensors"]
    )
    assert said in capsys.readouterr().err and code == 0


def test_two_things_without_a_place_are_read_side_by_side_with_a_note_by_a_model_of_plain_captions(
    room, capsys
):
    for text, said in (
        ("A ring & a star!", ', and is read as "a ring left of a star"'),
        ("a zwx star and a ring", ', and is read as "a zwx star left of a ring"'),
        ("a ring above a star", ""),
        ("on white a ring", ""),
    ):
        argv = ["generate", "--prompt", text, "--steps", "1", "-o", "a.png", "--model", "tiny.safetensors"]
        assert main(argv) == 0
        err = capsys.readouterr().err
        assert said in err and ("does not say which thing is left or above" in err) == bool(said)


def test_an_instruction_for_what_is_not_there_gets_a_note(room, capsys):
    rng = random.Random(3)
    scene = next(
        s for s in (sample_scene(rng) for _ in range(99)) if not any(t.shape == "star" for t in s.things)
    )
    write_picture(render([scene], 64), "in.png")
    for text, said in (
        ("make the star blue", "note: instruction: the picture seems to have no star, but a"),
        ("", ""),
    ):
        argv = ["instruct-pix2pix", "in.png", "--instruction", text, "--steps", "1", "-o", "a.png"]
        assert main([*argv, "--model", "instruct.safetensors"]) == 0
        err = capsys.readouterr().err
        assert said in err and bool(err) == bool(said)


def test_words_lists_what_a_model_reads_in_groups(room, capsys):
    assert main(["words", "--model", "tiny.safetensors"]) == 0
    said = capsys.readouterr().out
    assert (
        "colours     red (crimson, " in said
        and "small (little, tiny" in said
        and 'as in       "a red star"' in said
    )
    assert max(map(len, said.splitlines())) <= 100
    said = " ".join(said.split())
    assert 'big star above it" is read as "a large star above a red ring on a white background"' in said
    assert main(["words", "--model", "instruct.safetensors"]) == 0
    assert "any order" not in capsys.readouterr().out  # it is told what to change
    tiny_weights(room, "own", words=["cat", "dog", "zwx"])
    assert main(["words", "--model", "own.safetensors"]) == 0
    said = capsys.readouterr().out
    assert "words       cat, dog" in said and "no meaning  zwx" in said
