"""worlds/triplets.py: what is written is right, what is wrong is seen."""

from __future__ import annotations

import random
import re

import pytest
import torch

from palimpsest.training import shapes_language
from palimpsest.training.shapes_language import open_language, write
from palimpsest.weights.files import WeightsError
from palimpsest.worlds.instructions import WAYS, meaning
from palimpsest.worlds.scene import COLOURS, SHAPES, SIZES, WORDS
from palimpsest.worlds.triplets import (
    AFTER,
    Triplet,
    follows,
    read,
    read_triplets,
    renamed,
    text_of,
    turned,
    valid,
    write_triplets,
    written,
)
from palimpsest.worlds.words import wanted

A = "a red star left of a blue ring on a white background"


def test_what_is_written_for_training_is_valid_right_different_and_in_known_words():
    rows = written(200)
    assert (
        len(set(rows)) == 200
        and all(valid(t) and follows(t) for t in rows)
        and rows == written(200)
        and rows != written(200, 1)
    )
    assert {word for t in rows for word in f"{t.caption} {t.instruction} {t.edited}".split()} <= set(WORDS)
    assert {kind for t in rows for kind, _ in meaning(t.instruction)} == set(WAYS)
    assert 10 < sum(len(meaning(t.instruction)) == 2 for t in rows) < 60


def test_a_line_comes_back():
    for t in written(20):
        assert read(text_of(t)) == t


@pytest.mark.parametrize("line", ["", "a # b", "a % b # c", "a # b # c % d", "a # % c", "a b c"])
def test_a_line_without_its_parts_is_refused(line):
    with pytest.raises(ValueError, match="triplet: "):
        read(line)


@pytest.mark.parametrize(
    "asked, after",
    [
        ("make the star yellow", "a yellow star left of a blue ring on a white background"),
        ("change the ring to striped", "a red star left of a striped blue ring on a white background"),
        ("replace the star with a cross", "a red cross left of a blue ring on a white background"),
        ("make the background black", "a red star left of a blue ring on a black background"),
        ("remove the star", "a blue ring on a white background"),
        ("swap the ring with the star", "a blue ring left of a red star on a white background"),
        ("the star to green and remove the ring", "a green star on a white background"),
        (
            "turn the star into a heart and make the heart dotted",
            "a dotted red heart left of a blue ring on a white background",
        ),
        ("make the left thing yellow", "a yellow star left of a blue ring on a white background"),
        ("delete the red one", "a blue ring on a white background"),
        (
            "replace the ring by a small green heart",
            "a red star left of a small green heart on a white background",
        ),
        ("make the star a yellow star", "a yellow star left of a blue ring on a white background"),
    ],
)
def test_the_truth_is_seen_and_its_neighbours_are_not(asked, after):
    assert follows(Triplet(A, asked, after))
    others = {
        A,
        "a yellow star left of a green ring on a white background",
        "a yellow star above a blue ring on a white background",
        "a red star on a white background",
        "a blue star left of a red ring on a white background",
    } - {after}
    assert not any(follows(Triplet(A, asked, other)) for other in others)


def test_what_is_added_may_stand_anywhere_unless_its_place_is_said():
    before, asked = "a small red star", "add a large blue ring to the picture"
    for where in ("a large blue ring left of a small red star", "a small red star above a large blue ring"):
        assert follows(Triplet(before, asked, where))
    assert follows(Triplet("a red star", asked, "a blue ring above a red star"))  # sizes are not told here
    assert follows(Triplet("a red star", "put a blue ring under it", "a red star above a blue ring"))
    assert not follows(Triplet("a red star", "put a blue ring under it", "a blue ring above a red star"))
    for wrong in (
        "a large blue ring",
        "a small blue ring left of a small red star",
        "a large blue ring left of a small red cross",
    ):
        assert not follows(Triplet(before, asked, wrong))


@pytest.mark.parametrize(
    "before, asked, after",
    [
        ("a red star", "make the ring blue", "a blue star"),
        ("a red star", "remove the star", "a red star"),
        ("a red star", "swap the star and the ring", "a red star"),
        (A, "add a small green cross", A),
        ("a red", "make the star blue", "a blue star"),
        (A, "make it green", "a green star left of a blue ring on a white background"),
        (A, "remove the upper thing", "a red star on a white background"),
        ("a red star", "add a ring left of it", "a red star left of a ring"),
    ],
)
def test_what_cannot_be_done_is_not_followed(before, asked, after):
    assert not follows(Triplet(before, asked, after))


@pytest.mark.parametrize(
    "before, after",
    [
        ("a red star", "a red star"),
        ("a red star", "a red crescent"),
        ("a red star", "a star"),
        ("a red star", "a red"),
        ("a red star on a blue background", "a blue star on a blue background"),
        ("a red star", "a red star left of a blue star"),
    ],
)
def test_what_must_not_train_is_not_valid(before, after):
    assert not valid(Triplet(before, "make the star blue", after))


def test_files_come_back_and_name_their_bad_lines(tmp_path):
    rows, file = written(5), tmp_path / "t.jsonl"
    write_triplets(rows, file)
    assert read_triplets(file) == rows
    file.write_text(file.read_text(encoding="utf-8").replace('"edited"', '"endited"', 1), encoding="utf-8")
    with pytest.raises(ValueError, match="line 1 is no object"):
        read_triplets(file)
    with pytest.raises(ValueError, match="cannot be read"):
        read_triplets(tmp_path / "none.jsonl")


def test_a_triplet_with_other_names_is_one_that_could_have_been_written():
    rng, seen = random.Random(0), set()
    for triplet in written(60, seed=3):
        other = renamed(triplet, rng)
        assert valid(other) and follows(other)
        assert [len(part.split()) for part in other] == [len(part.split()) for part in triplet]
        assert not re.search(r"\ban (?![aeiou])|\ba (?=[aeiou])", " ".join(other))
        if turned(other.caption).split()[:2] == triplet.caption.split()[:2]:
            other = Triplet(turned(other.caption), other.instruction, turned(other.edited))
        kinds = (*COLOURS, *SHAPES, *SIZES, "striped", "dotted", "a", "an")
        assert [word for word in " ".join(other).split() if word not in kinds] == [
            word for word in " ".join(triplet).split() if word not in kinds
        ]  # what is said of them stays
        seen |= set(other.instruction.split()) & {*COLOURS, *SIZES, "striped", "dotted"}
    assert seen == {*COLOURS, *SIZES, "striped", "dotted"}


def test_two_things_change_places_in_a_caption_and_back():
    said = "a small red star left of a dotted blue ring on a green background"
    assert turned(said) == "a dotted blue ring left of a small red star on a green background"
    assert (
        turned(turned(said)) == said
        and turned("a red star on a blue background") == "a red star on a blue background"
    )


def test_what_is_asked_for_the_first_thing_is_asked_for_the_second_as_well():
    rng = random.Random(2)
    triplet = Triplet(
        "a red star left of a blue ring", "make the star green", "a green star left of a blue ring"
    )
    others = [renamed(triplet, rng) for _ in range(40)]
    assert all(follows(o) for o in others)
    first = [next(w for w in o.caption.split() if w in SHAPES) == o.instruction.split()[2] for o in others]
    assert 8 < sum(first) < 32


def test_a_page_holds_two_captions_of_one_picture_or_of_two_that_differ_in_one_edit():
    rng, same = random.Random(0), 0
    for _ in range(200):
        first, second = (wanted(part) for part in shapes_language.two_captions(rng).split(f" {AFTER} "))
        shared = [name for name in first if name in second]
        same += all(first[name] == second[name] for name in shared)
    assert 80 < same < 160  # half are one picture; an edit of what is not told is not seen


def test_what_counts_of_a_triplet_is_what_comes_after_its_caption():
    tokenizer = shapes_language.model()[1]
    some = [
        Triplet("a red star", "make the star blue", "a blue star"),
        Triplet("a star", "remove the star", "a"),
    ]
    tokens, counts = shapes_language.completed(tokenizer, some)
    assert (
        tokenizer.decode(tokens[0][counts[0]].tolist()) == "make the star blue % a blue star"
        and counts[0].sum() == 9
    )  # and the end


def test_the_recipe_teaches_and_writes(tmp_path, capsys):
    how = dict(state=str(tmp_path / "s"), out=str(tmp_path))
    shapes_language.main(
        shapes_language.Arguments(steps=6, reading=2, batch=4, triplets=20, warmup=1, tests=2, **how)
    )
    net, tokenizer = open_language(tmp_path / "shapes-language.safetensors")
    assert tokenizer.decode(tokenizer.encode(text_of(written(1)[0]))) == text_of(written(1)[0])
    rows, went = write(net, tokenizer, 2, batch=4)
    assert (
        set(went) == {"captions", "texts", "parsed", "valid", "different", "follows"}
        and went["captions"] == 8
        and len(rows) <= 2
    )
    shapes_language.main(shapes_language.Arguments(sample=1, **how))
    assert "triplets" in capsys.readouterr().out and (tmp_path / "triplets.jsonl").exists()
    with pytest.raises(ValueError, match="reading: "):
        shapes_language.main(shapes_language.Arguments(steps=3, reading=3, **how))


def test_a_net_that_copies_is_scored_by_the_truth(monkeypatch):
    rows = iter([[f"{t.caption} # {t.instruction} % {t.edited}" for t in written(4)]])
    wrong = text_of(written(1)[0]._replace(instruction="make the background black"))
    monkeypatch.setattr(
        shapes_language,
        "spoken",
        lambda net, tok, captions, g: [*next(rows)[:2], "nonsense", wrong][: len(captions)],
    )
    monkeypatch.setattr(shapes_language, "TRIES", 1)
    found, went = write(None, None, 3, batch=4)
    assert (
        len(found) == 3
        and went["texts"] == 4
        and went["parsed"] == went["valid"] == 0.75
        and went["follows"] == pytest.approx(2 / 3)
    )


def test_another_kind_of_file_is_refused(tmp_path):
    from palimpsest.weights.files import write_weights

    file = write_weights(tmp_path / "x.safetensors", {"a": torch.nn.Linear(2, 2)}, dict(kind="vae"))
    with pytest.raises(WeightsError, match="a language model is needed here"):
        open_language(file)
