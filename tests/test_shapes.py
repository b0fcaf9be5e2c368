"""The shapes world: what it says, what it draws, and what an edit changes."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from palimpsest.worlds.drawing import OUTLINES
from palimpsest.worlds.scene import (
    COLOURS,
    HELD_OUT,
    RARE_WORDS,
    SHAPES,
    SIZES,
    TEXTURES,
    WORDS,
    Scene,
    Thing,
)
from palimpsest.worlds.shapes import (
    ATTRIBUTES,
    Edit,
    apply,
    attributes,
    caption,
    changed_mask,
    edits,
    instruction,
    is_held_out,
    render,
    sample_scene,
    silhouettes,
    simulate_strokes,
    strokes,
)


def scenes(n: int, seed: int = 0, **settings) -> list[Scene]:
    rng = random.Random(seed)
    return [sample_scene(rng, **settings) for _ in range(n)]


def test_a_seed_fixes_the_scene_and_the_picture():
    a, b = scenes(8, seed=3), scenes(8, seed=3)
    assert a == b and a != scenes(8, seed=4)
    assert torch.equal(render(a), render(b))


def test_pictures_have_the_stated_shape_and_range_and_one_scene_is_drawn_as_among_many():
    many = scenes(9)
    x = render(many)
    assert x.shape == (9, 3, 64, 64) and x.dtype == torch.float32
    assert x.min() >= -1 and x.max() <= 1 and x.std() > 0.2
    for k in range(9):
        assert torch.equal(render(many[k])[0], x[k])


def test_a_larger_rendering_shrinks_to_the_small_one():
    many = scenes(16)
    small = torch.nn.functional.avg_pool2d(render(many, 256), 4)
    assert (small - render(many, 64)).abs().mean() < 0.01
    assert (small - render(many, 64)).square().mean() < 2e-3


def test_every_shape_is_drawn_whole_with_edges_of_one_pixel():
    blank = scenes(1, things=1)[0]
    for shape in SHAPES:
        thing = Thing(shape, "red", "large", "plain", 0.5, 0.5, 0.24)
        cover = silhouettes(replace(blank, things=(thing,)))[0, 0]
        area, edge = (cover > 0.5).float().mean(), ((cover > 0.02) & (cover < 0.98)).float().mean()
        assert 0.04 < area < 0.20, shape
        assert cover[[0, -1]].max() == 0 and cover[:, [0, -1]].max() == 0, f"{shape} is cut off"
        assert edge < 0.06, f"{shape} is blurred"
    assert set(OUTLINES) == set(SHAPES) and len(SHAPES) >= 10 and len(COLOURS) == 8 and len(SIZES) == 2


def test_outlines_are_signed_distances_near_the_edge():
    x, y = torch.meshgrid(torch.linspace(-1.3, 1.3, 521), torch.linspace(-1.3, 1.3, 521), indexing="xy")
    for name, outline in OUTLINES.items():
        d = outline(x, y)
        slope = torch.hypot(*torch.gradient(d, spacing=2.6 / 520))
        near = d.abs() < 0.03
        assert 0.9 < slope[near].median() < 1.1, name  # anti-aliasing relies on a slope of one


def test_things_stand_clear_of_each_other_inside_the_picture_and_off_their_background_colour():
    for scene in scenes(300):
        for t in scene.things:
            assert (
                t.radius < min(t.x, t.y, 1 - t.x, 1 - t.y)
                and t.colour != scene.background
                and t.period >= 12 / 64
            )
        if len(scene.things) == 2:
            a, b = silhouettes(scene)
            assert ((a * b) > 0.25).sum() <= 3  # the tips of two stars may meet in a pixel
            first, second = scene.things
            assert first.shape != second.shape
            assert first.x < second.x if scene.relation == "left of" else first.y < second.y


def test_held_out_pairs_never_appear_in_training_scenes_and_always_when_asked_for():
    assert not any(is_held_out(s) for s in scenes(600))
    assert all(is_held_out(s) for s in scenes(60, held_out=True))
    assert len(HELD_OUT) == 8 and len({c for c, _ in HELD_OUT}) == 8


def test_scenes_cover_the_world_evenly():
    many = scenes(1500, held_out=None)
    things = [t for s in many for t in s.things]
    for name, values in (("shape", SHAPES), ("colour", COLOURS), ("texture", TEXTURES), ("size", SIZES)):
        counts = Counter(getattr(t, name) for t in things)
        assert set(counts) == set(values)
        assert min(counts.values()) > 0.7 * len(things) / len(values), name
    assert 0.45 < sum(len(s.things) == 2 for s in many) / len(many) < 0.55
    assert {s.ground.kind for s in many} == {"gradient", "noise", "pattern"}


def test_phases_of_patterns_and_grounds_are_random():
    things = [t for s in scenes(400) for t in s.things if t.texture == "striped"]
    phases = torch.tensor([t.phase[0] for t in things])
    assert abs(phases.mean()) < 0.06 and abs(phases.std() - 1 / 12**0.5) < 0.04


def test_captions_tell_every_named_attribute_in_known_words():
    for scene in scenes(200, held_out=None):
        text = caption(scene)
        assert set(text.split()) <= set(WORDS)
        for t in scene.things:
            assert (
                f"{t.colour} {t.shape}" in text
                and t.size in text
                and (t.texture in text) == (t.texture != "plain")
            )
        assert text.endswith(f"{scene.background} background") and (
            scene.relation is None or scene.relation in text
        )
        assert scene.background not in caption(scene, background=False).split()[-2:]
        assert not set(SIZES) & set(caption(scene, size=False).split())
    assert not set(RARE_WORDS) & {w for s in scenes(300) for w in caption(s).split()}


def test_the_caption_of_two_things_tells_who_is_first():
    scene = next(s for s in scenes(50, things=2) if s.relation == "left of")
    a, b = scene.things
    assert caption(scene).index(a.shape) < caption(scene).index(b.shape)
    mirrored = replace(scene, things=(replace(b, x=1 - b.x), replace(a, x=1 - a.x)))
    assert caption(mirrored) != caption(scene)


def test_attributes_use_the_listed_values_and_determine_the_caption():
    seen = {}
    for scene in scenes(300, held_out=None):
        found = attributes(scene)
        assert list(found) == list(ATTRIBUTES) and all(found[k] in v for k, v in ATTRIBUTES.items())
        assert seen.setdefault(tuple(found.values()), caption(scene)) == caption(scene)


CHANGES = {
    "recolour": "colour_1",
    "reshape": "shape_1",
    "retexture": "texture_1",
    "resize": "size_1",
    "background": "background",
}


@pytest.mark.parametrize("kind", CHANGES)
def test_an_edit_changes_what_it_names_and_nothing_else(kind):
    for scene in scenes(40, things=1, seed=5):
        for edit in (e for e in edits(scene) if e.kind == kind):
            before, after = attributes(scene), attributes(apply(scene, edit))
            assert {k for k in before if before[k] != after[k]} == {CHANGES[kind]} and after[
                CHANGES[kind]
            ] == edit.value
            assert apply(scene, edit).ground == scene.ground


def test_add_remove_and_swap_do_what_they_say():
    for scene in scenes(40, seed=6):
        for edit in edits(scene):
            after = apply(scene, edit)
            if edit.kind == "add":
                assert (
                    len(after.things) == 2 and scene.things[0] in after.things and edit.value in after.things
                )
            elif edit.kind == "remove":
                assert after.things == (scene.things[1 - edit.index],)
            elif edit.kind == "swap":
                assert [t.shape for t in after.things] == [t.shape for t in scene.things][
                    ::-1
                ] and after.relation == scene.relation


def test_every_kind_of_edit_occurs_and_each_edited_scene_is_a_possible_scene():
    kinds = Counter()
    for scene in scenes(60, seed=7):
        for edit in edits(scene):
            kinds[edit.kind] += 1
            after = apply(scene, edit)
            assert after != scene and caption(after) != caption(scene)
            assert all(t.colour != after.background for t in after.things)
            assert len({t.shape for t in after.things}) == len(after.things)
            assert all(0.99 * t.radius < min(t.x, t.y, 1 - t.x, 1 - t.y) for t in after.things)
    assert set(kinds) == {"recolour", "reshape", "retexture", "resize", "background", "add", "remove", "swap"}


def test_instructions_are_plain_requests_in_known_words():
    said = set()
    for scene in scenes(60, seed=8):
        for edit in edits(scene):
            text = instruction(scene, edit)
            assert text and set(text.split()) <= set(WORDS)
            said.add(text.split()[0])
    assert said == {"make", "turn", "change", "add", "remove", "swap"}
    scene = replace(scenes(1, things=1)[0], background="white")
    scene = replace(scene, things=(replace(scene.things[0], shape="star", colour="red"),))
    assert instruction(scene, Edit("recolour", 0, "blue")) == "make the star blue"


def test_an_unknown_edit_is_refused():
    with pytest.raises(ValueError, match="unknown kind 'paint'"):
        apply(scenes(1)[0], Edit("paint", 0, "red"))
    with pytest.raises(ValueError, match="1 or 2 things"):
        sample_scene(random.Random(0), things=3)


def test_the_changed_mask_is_where_the_true_edit_differs():
    for scene in scenes(20, seed=9):
        for edit in random.Random(0).sample(edits(scene), 3):
            mask = changed_mask(scene, edit)
            before, after = render([scene, apply(scene, edit)])
            assert mask.shape == (1, 1, 64, 64) and set(mask.unique().tolist()) <= {0.0, 1.0}
            assert_close((mask[0] * after + (1 - mask[0]) * before), after, atol=2 / 255 + 1e-6, rtol=0)
            assert mask.sum() > 0


def test_a_recolour_stays_inside_the_thing_and_a_background_edit_outside():
    for scene in scenes(10, things=1, seed=10):
        inside = silhouettes(scene)[0, 0]
        recolour = next(e for e in edits(scene) if e.kind == "recolour")
        background = next(e for e in edits(scene) if e.kind == "background")
        assert (changed_mask(scene, recolour)[0, 0] * (inside == 0)).sum() == 0
        assert (changed_mask(scene, background)[0, 0] * (inside == 1)).sum() == 0


def test_strokes_are_crude_but_keep_colours_and_places():
    many = scenes(32, seed=11)
    painted, true = strokes(many, torch.Generator().manual_seed(0)), render(many)
    assert painted.shape == true.shape and painted.abs().max() <= 1
    distance = (painted - true).square().mean((1, 2, 3))
    shuffled = (painted.roll(1, 0) - true).square().mean((1, 2, 3))
    assert (distance > 1e-3).all() and (distance < shuffled).float().mean() > 0.9
    assert torch.equal(painted, strokes(many, torch.Generator().manual_seed(0)))
    assert not torch.equal(painted, strokes(many, torch.Generator().manual_seed(1)))


def test_simulated_strokes_have_few_colours_and_stay_close():
    x = render(scenes(4, seed=12))
    for colours in (3, 6, 16):
        painted = simulate_strokes(x, colours)
        assert all(len(p.flatten(1).unique(dim=1).T) <= colours for p in painted)
    error = [(simulate_strokes(x, c) - x).square().mean().item() for c in (3, 16)]
    assert error[1] < error[0] < 0.2
    with pytest.raises(ValueError, match="median"):
        simulate_strokes(x, 6, median=4)


def test_rendering_is_fast_enough_to_train_on():
    import time

    many = scenes(512)
    render(many[:64])
    start = time.perf_counter()
    for k in range(0, 512, 64):
        render(many[k : k + 64])
    assert (
        512 / (time.perf_counter() - start) > 100
    )  # thousands a second on an idle core; this only guards against a loop over pixels
