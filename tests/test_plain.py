"""Plain drawings and other aspect ratios of the shapes world: another hand, another paper, the same truth."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from palimpsest.worlds.drawing import is_empty, pixels
from palimpsest.worlds.mix import ASPECTS, pixels_of, sample_scenes, some_extent
from palimpsest.worlds.scene import COLOURS, FLAT, INK, PALETTES, RENDERED, SHAPES, SIZES, Scene, Style, Thing
from palimpsest.worlds.shapes import (
    apply,
    attributes,
    caption,
    changed_mask,
    edits,
    is_held_out,
    render,
    sample_scene,
    sample_style,
    silhouettes,
    strokes,
)
from palimpsest.worlds.words import wanted

SIZES_OF = {(4 / 3, 1.0): (64, 48), (1.0, 4 / 3): (48, 64), (1.5, 1.0): (96, 64), (1.0, 1.5): (64, 96)}


def scenes(n, seed=0, **settings):
    rng = random.Random(seed)
    return [sample_scene(rng, **settings) for _ in range(n)]


def alone(style=RENDERED, **what):
    """One thing in the middle of a flat picture."""
    settings = (
        dict(shape="star", colour="red", size="large", texture="plain", x=0.5, y=0.5, radius=0.24) | what
    )
    return Scene("white", FLAT, (Thing(**settings),), style)


def test_a_style_that_changes_nothing_draws_what_the_renderer_draws():
    for scene in scenes(40, held_out=None):
        same = replace(scene, style=Style(miss=(0.0, 0.0, 1e-9)))
        assert_close(render(same), render(scene), atol=1e-4, rtol=0)
        assert_close(silhouettes(same), silhouettes(scene), atol=1e-4, rtol=0)


def test_plain_scenes_are_scenes_of_the_world_with_the_same_words():
    many = scenes(300, plain=True)
    assert many == scenes(300, plain=True) and not any(is_held_out(s) for s in many)
    assert all(is_held_out(s) for s in scenes(20, plain=True, held_out=True))
    for scene in many:
        assert wanted(caption(scene)) == attributes(scene)
        assert all(t.colour != scene.background for t in scene.things)
    assert len({s.style for s in many}) > 250 and sum(s.ground == FLAT for s in many) > 200
    styles = [s.style for s in many]
    assert {s.palette for s in styles} == set(PALETTES) and {"", "own", *INK} < {s.contour for s in styles}
    assert (
        any(not s.filled for s in styles) and any(s.miss[0] for s in styles) and any(s.wobble for s in styles)
    )


def test_large_things_grow_nearly_as_large_as_the_picture_and_stay_inside_it():
    radii = [t.radius for s in scenes(400, plain=True) for t in s.things if t.size == "large"]
    assert max(radii) > 0.4 and sum(r > 0.3 for r in radii) > 60
    touched = []
    for scene in scenes(60, seed=1, plain=True):
        cover = silhouettes(scene).amax(0)[0]
        touched.append((torch.cat([cover[0], cover[-1], cover[:, 0], cover[:, -1]]) > 0.5).sum().item())
    assert max(touched) <= 8 and sum(n > 0 for n in touched) < 6  # the tip of a star, now and then


def test_one_drawing_is_drawn_as_among_many_and_any_size_draws_the_same():
    many = scenes(12, seed=2, plain=True) + scenes(4, seed=3)
    together = render(many)
    for k, scene in enumerate(many):
        assert_close(render(scene)[0], together[k], atol=1e-5, rtol=0)
    small = torch.nn.functional.avg_pool2d(render(many, 256), 4)
    assert (small - together).abs().mean() < 0.01


def test_every_paint_is_nearest_to_the_colour_that_it_is_called():
    known = torch.tensor([COLOURS[name] for name in COLOURS])
    for palette in PALETTES.values():
        assert set(palette) == set(COLOURS)
        for k, name in enumerate(COLOURS):
            assert (known - torch.tensor(palette[name])).norm(dim=1).argmin() == k, (palette, name)


def test_an_empty_thing_shows_its_ground_inside_and_its_colour_as_outline():
    empty = alone(Style(contour="ink", width=0.04, filled=False), shape="square")
    picture = render(empty)[0]
    assert_close((picture[:, 32, 32] + 1) / 2, torch.tensor(COLOURS["white"]))
    red = ((picture + 1) / 2 - torch.tensor(COLOURS["red"])[:, None, None]).norm(dim=0) < 0.15
    assert 60 < red.sum() < 400
    for shape in ("circle", "ring"):
        assert not is_empty(replace(empty.things[0], shape=shape), empty.style)
    assert not is_empty(replace(empty.things[0], texture="dotted"), empty.style)


def test_an_outline_stands_at_the_edge_in_its_own_colour_and_as_wide_as_said():
    style = Style(contour="blue", width=0.04, light=0.0)
    row = (render(alone(style, shape="square"), 256)[0, :, 128] + 1) / 2
    blue = (row - torch.tensor(COLOURS["blue"])[:, None]).norm(dim=0) < 0.1
    assert abs(blue.sum().item() - 2 * 0.04 * 256) <= 4
    assert_close(row[:, 128], torch.tensor(COLOURS["red"]), atol=1e-3, rtol=0)


def test_a_hand_that_wobbles_strays_a_little_and_two_things_by_their_own_ways():
    style = next(s for s in (sample_style(random.Random(k)) for k in range(99)) if s.wobble)
    for shape in SHAPES:
        straight, strayed = (
            silhouettes(replace(alone(shape=shape), style=s), 128)[0, 0]
            for s in (Style(), Style(wobble=style.wobble))
        )
        moved = (straight - strayed).abs().sum() / straight.sum()
        assert 0.005 < moved < 0.45, (shape, moved)
    other = replace(alone(Style(wobble=style.wobble)).things[0], phase=(0.3, 0.1))
    a, b = (
        silhouettes(replace(alone(Style(wobble=style.wobble)), things=(t,)))
        for t in (alone().things[0], other)
    )
    assert (a - b).abs().max() > 0.2


@pytest.mark.parametrize(
    "settings", [dict(plain=True), *(dict(extent=e) for e in SIZES_OF), dict(plain=True, extent=(1.0, 1.5))]
)
def test_edits_are_true_in_every_style_and_shape(settings):
    rng = random.Random(5)
    for scene in scenes(25, seed=4, **settings):
        height, width = scene.extent
        for edit in rng.sample(options := edits(scene), min(6, len(options))):
            after = apply(scene, edit)
            assert (after.style, after.extent, after.ground) == (scene.style, scene.extent, scene.ground)
            assert all(0.99 * t.radius < min(t.x, t.y, width - t.x, height - t.y) for t in after.things)
            changed = {k for k, v in attributes(scene).items() if attributes(after)[k] != v}
            if edit.kind in ("recolour", "reshape", "retexture", "resize"):
                assert len(changed) == 1
            mask = changed_mask(scene, edit)
            assert mask.sum() > 0
            if edit.kind in ("recolour", "retexture"):
                there = silhouettes(scene)[edit.index] + silhouettes(after)[edit.index]
                near = torch.nn.functional.max_pool2d(there[None], 9, 1, 4)[0]
                assert (mask[0] * (near == 0)).sum() == 0


def test_a_small_thing_is_small_however_large_it_was_drawn():
    for scene in scenes(80, seed=6, plain=True):
        for edit in edits(scene):
            if edit.kind == "resize":
                after = next(t for t in apply(scene, edit).things if t.size == edit.value)
                assert (after.radius < 1.1 * SIZES["small"]) == (edit.value == "small")


@pytest.mark.parametrize("extent, size", SIZES_OF.items())
def test_things_keep_their_proportions_in_every_aspect_ratio(extent, size):
    side, where = min(size), []
    for scene in scenes(60, seed=7, extent=extent):
        assert render(scene, size).shape == (1, 3, *size)
        covers = silhouettes(scene, size)
        for thing, cover in zip(scene.things, covers[:, 0]):
            where.append((thing.y / extent[0], thing.x / extent[1]))
            if thing.shape in ("circle", "ring"):
                rows, columns = (cover > 0.5).any(1).sum().item(), (cover > 0.5).any(0).sum().item()
                assert abs(rows - columns) <= 1
                assert (
                    abs(columns - 2 * (0.92 if thing.shape == "circle" else 0.95) * thing.radius * side) <= 2
                )
        if len(scene.things) == 2:
            a, b = scene.things
            assert ((covers[0] * covers[1]) > 0.25).sum() <= 3
            assert a.x < b.x if scene.relation == "left of" else a.y < b.y
    for share in zip(*where):
        assert min(share) < 0.3 and max(share) > 0.7
    assert sum(len(s.things) == 2 for s in scenes(200, seed=8, extent=extent)) > 70


def test_strokes_are_painted_in_every_aspect_ratio():
    many = scenes(6, seed=9, extent=(1.0, 1.5))
    painted, true = strokes(many, torch.Generator().manual_seed(0), (64, 96)), render(many, (64, 96))
    assert painted.shape == true.shape == (6, 3, 64, 96)
    distance, shuffled = ((p - true).square().mean((1, 2, 3)) for p in (painted, painted.roll(1, 0)))
    assert (distance < shuffled).all()


def test_a_size_is_a_side_or_rows_and_columns_of_the_scenes_own_shape():
    assert pixels(64, (1.0, 1.5)) == (64, 96) and pixels((48, 64), (1.0, 4 / 3)) == (48, 64)
    square, wide = scenes(1)[0], scenes(1, extent=(1.0, 1.5))[0]
    assert render(wide).shape == (1, 3, 64, 96)
    assert torch.equal(render(square, (64, 64)), render(square, 64))
    with pytest.raises(ValueError, match="size: 64×96 pixels .* are of another shape than the scene, 1 × 1"):
        render(square, (64, 96))
    with pytest.raises(ValueError, match="scenes: one call draws pictures of one shape; got 2"):
        render([square, wide])


def test_a_mix_has_its_shares_and_is_the_same_for_the_same_seed():
    rng = random.Random(0)
    extents = [some_extent(rng, 0.25) for _ in range(2000)]
    assert set(extents) == set(ASPECTS) and 0.7 < extents.count((1.0, 1.0)) / 2000 < 0.8
    for extent, size in ASPECTS.items():
        assert pixels_of(extent) == size and pixels(size, extent) == size
        assert pixels_of(extent, 32) == (size[0] // 2, size[1] // 2) == pixels(pixels_of(extent, 32), extent)
    many = sample_scenes(800, random.Random(1), two=0.3, plain=0.25, extent=(1.5, 1.0))
    assert many[:50] == sample_scenes(50, random.Random(1), two=0.3, plain=0.25, extent=(1.5, 1.0))
    assert 0.2 < sum(s.style != RENDERED for s in many) / 800 < 0.3
    assert 0.25 < sum(len(s.things) == 2 for s in many) / 800 < 0.35 and {s.extent for s in many} == {
        (1.5, 1.0)
    }
    state = rng.getstate()
    assert some_extent(rng, 0) == (1.0, 1.0) and rng.getstate() == state
