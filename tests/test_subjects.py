"""Subjects: individuals that turn, move and change ground without changing; and captions that say what
can be said.
"""

import math
import random
from dataclasses import replace

import pytest
import torch

from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.worlds import subjects as world
from palimpsest.worlds.scene import SHAPES, WORDS, Wave
from palimpsest.worlds.shapes import caption as plain_caption
from palimpsest.worlds.shapes import sample_scene
from palimpsest.worlds.subjects import (
    MOUTHS,
    PATTERNS,
    caption,
    render_subject,
    render_subjects,
    sample_context,
    sample_subject,
    subject_mask,
)


def drawn(seed=0, n=3, **asked):
    rng = random.Random(seed)
    return sample_subject(rng), [sample_context(rng, **asked) for _ in range(n)]


def test_a_batch_is_the_same_pictures_one_by_one_and_inside_the_range():
    subject, contexts = drawn(1, 4)
    contexts.append(sample_context(random.Random(5), other=True))
    together = render_subject(subject, contexts)
    assert together.shape == (5, 3, 64, 64) and together.abs().max() <= 1
    torch.testing.assert_close(
        together, torch.cat([render_subject(subject, c) for c in contexts]), rtol=0, atol=1e-6
    )


def test_many_subjects_together_are_the_pictures_of_each_alone(monkeypatch):
    monkeypatch.setattr(world, "AT_ONCE", 7 * 64 * 64)  # and the last go is a short one
    rng = random.Random(3)
    subjects = [
        replace(
            sample_subject(rng, noun), pattern=pattern, face=sample_subject(rng).face._replace(mouth=mouth)
        )
        for noun, pattern, mouth in zip(SHAPES, PATTERNS * 2, MOUTHS[1:] + MOUTHS * 2)
    ]
    contexts = [
        sample_context(rng, other=k == 3, colour="red" if k == 5 else None) for k in range(len(subjects))
    ]
    together = render_subjects(subjects, contexts)
    torch.testing.assert_close(
        together, torch.cat([render_subject(s, c) for s, c in zip(subjects, contexts)]), rtol=0, atol=1e-5
    )
    with pytest.raises(ValueError, match="^contexts: one for each subject, 10; got 9"):
        render_subjects(subjects, contexts[1:])


@pytest.mark.parametrize("noun", SHAPES)
def test_any_size_draws_the_same_picture(noun):
    rng = random.Random(2)
    subject, context = sample_subject(rng, noun), sample_context(rng)
    fine = torch.nn.functional.avg_pool2d(render_subject(subject, context, 256), 4)
    assert (fine - render_subject(subject, context, 64)).abs().mean() < 0.02


def test_the_same_seed_draws_the_same_subject_and_another_another():
    first = sample_subject(random.Random(7))
    assert first == sample_subject(random.Random(7)) != sample_subject(random.Random(8))


def test_two_of_one_class_differ_where_they_stand_and_nowhere_else():
    context = sample_context(random.Random(0))
    a, b = (sample_subject(random.Random(seed), "star") for seed in (1, 2))
    gap = (render_subject(a, context) - render_subject(b, context)).abs()
    mask = subject_mask(a, context)
    assert (gap * (mask == 0)).max() == 0 and (gap * mask).sum() / (3 * mask.sum()) > 0.1


def test_the_ground_changes_and_the_subject_does_not():
    subject, (context, *_) = drawn(3)
    other = replace(context, background="black" if context.background != "black" else "white")
    a, b = render_subject(subject, [context, other]).split(1)
    mask = subject_mask(subject, context)
    assert ((a - b) * (mask == 1)).abs().max() < 1e-6 and (
        (a - b).abs().amax(1, keepdim=True) * (mask == 0)
    ).max() > 0.5


@pytest.mark.parametrize("noun", SHAPES)
def test_pattern_and_face_turn_with_the_subject(noun):
    rng = random.Random(4)
    subject, context = sample_subject(rng, noun), sample_context(rng, background="black")
    flat = context.ground._replace(slope=(0.0, 0.0), waves=(Wave(0.0, 0.0, 0.0, 0.0),) * 4)
    upright = replace(context, x=0.5, y=0.5, tilt=0.0, shade=0.0, ground=flat)
    turned = render_subject(subject, replace(upright, tilt=math.pi / 2))
    by_hand = torch.rot90(render_subject(subject, upright), -1, (2, 3))
    mask = subject_mask(subject, replace(upright, tilt=math.pi / 2))
    assert ((turned - by_hand).abs() * mask).mean() < 1e-4


def test_a_named_colour_replaces_the_first_tone_only():
    subject, (context, *_) = drawn(6)
    own, red = render_subject(subject, [replace(context, colour=None), replace(context, colour="red")]).split(
        1
    )
    changed = ((own - red).abs().amax(1, keepdim=True) > 0.05).float()
    mask = subject_mask(subject, context)
    assert (changed * (mask == 0)).sum() == 0 and 0.05 < changed.sum() / mask.sum() < 0.95


def test_another_thing_is_beside_it_and_of_another_shape():
    rng = random.Random(9)
    for noun in SHAPES:
        context = sample_context(rng, other=True, noun=noun)
        other = context.other
        assert (
            other.shape != noun
            and math.hypot(other.x - context.x, other.y - context.y) >= other.radius + context.radius
        )


def test_captions_say_the_context_and_only_words_the_model_knows():
    tokenizer, rng = WordTokenizer(list(WORDS)), random.Random(0)
    context = sample_context(rng, background="orange", colour="red")
    assert caption(context, "zwx", "star") == "a red zwx star on an orange background"
    assert caption(context, "zwx", None, background=False) == "a red zwx"
    assert caption(replace(context, colour=None), None, "star") == "a star on an orange background"
    for _ in range(30):
        beside = sample_context(rng, other=True, noun="star")
        text = caption(beside, "zwx", "star")
        assert len(tokenizer.encode(text)) <= 24 and (" left of a" in text or " above a" in text)
        where = "left of" if " left of " in text else "above"
        mine_first = text.index("zwx") < text.index(where)
        delta = beside.other.x - beside.x if where == "left of" else beside.other.y - beside.y
        assert (delta > 0) == mine_first


def test_no_plain_caption_holds_an_identifier():
    rng = random.Random(0)
    assert not any("zwx" in plain_caption(sample_scene(rng)) for _ in range(20))


@pytest.mark.parametrize(
    "asked, name",
    [(dict(background="pink"), "background"), (dict(size="huge"), "size"), (dict(colour="pink"), "colour")],
)
def test_a_context_that_the_world_does_not_have_is_refused_by_name(asked, name):
    with pytest.raises(ValueError, match=f"^{name}: must be one of .*, got"):
        sample_context(random.Random(0), **asked)


def test_a_subject_of_no_class_and_a_caption_of_nothing_are_refused():
    with pytest.raises(ValueError, match="^noun: a subject is one of"):
        sample_subject(random.Random(0), "dog")
    with pytest.raises(ValueError, match="^identifier, noun: give at least one"):
        caption(sample_context(random.Random(0)), None, None)
