"""The recipes of issue GLIDE run from the first step to files that load, and what they promise about the
first step is so.
"""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import Generator

from palimpsest.methods.super_resolution import made_small
from palimpsest.samplers.schedule import Schedule
from palimpsest.training import (
    shapes_classifier,
    shapes_clip,
    shapes_glide,
    shapes_glide_inpaint,
    shapes_glide_upsampler,
)
from palimpsest.training.scenes import Supply, draw
from palimpsest.training.shapes import told
from palimpsest.training.shapes_glide_upsampler import spoilt
from palimpsest.weights.files import WeightsError, read_weights
from palimpsest.weights.judges import load_classifier, load_judge
from palimpsest.weights.load import load
from palimpsest.worlds.erase import boxes, erased, strokes_of_a_brush
from palimpsest.worlds.files import eight_bits
from palimpsest.worlds.mix import pixels_of
from palimpsest.worlds.scene import RENDERED
from palimpsest.worlds.shapes import attributes, render


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("glide-recipes")

    def run(recipe, state, **arguments):
        recipe.main(recipe.Arguments(steps=2, out=str(out), state=str(out / state), **arguments))

    run(shapes_glide, "a", batch=2)
    run(
        shapes_glide,
        "b",
        batch=2,
        empty=0.2,
        name="shapes-glide",
        init=str(out / "shapes-glide-conditional.safetensors"),
    )
    run(shapes_glide_inpaint, "c", batch=2, init=str(out / "shapes-glide.safetensors"))
    run(shapes_glide_upsampler, "d", batch=2)
    run(
        shapes_glide_upsampler,
        "e",
        batch=2,
        inpainting=1,
        noise=0.1,
        name="shapes-glide-upsampler-inpaint",
        init=str(out / "shapes-glide-upsampler.safetensors"),
    )
    run(shapes_clip, "f", batch=4, tests=64)
    run(shapes_clip, "g", batch=4, tests=64, noised=1, name="shapes-clip-noised")
    run(shapes_classifier, "h", batch=4, tests=64)
    return out


def test_scenes_that_are_kept_are_drawn_once_and_the_same_whoever_draws_them():
    choice = dict(two=0.5, hard=2.0, without="star", kept=300, seed=(3, 0))
    ((known, drawn),), ((again, same),) = (Supply(32, workers=w, **choice).kept for w in (0, 2))
    assert len(known) == 300 and known == again and torch.equal(drawn, same)
    assert len(set(map(repr, known))) == 300 and not any(t.shape == "star" for s in known for t in s.things)
    alone = Supply(32, **choice)
    scenes, pictures, rng = alone(5, torch.Generator().manual_seed(0))
    assert all(scene in known for scene in scenes) and isinstance(rng, random.Random)
    torch.testing.assert_close(pictures, eight_bits(render(scenes, 32)), atol=1e-6, rtol=0)
    fresh, _, _ = alone.fresh(50, torch.Generator().manual_seed(0))
    assert not set(map(repr, fresh)) & set(map(repr, known)), "what judges a net is not what it was shown"
    anew = Supply(32, two=0.5)
    (first, x, _), (again, y, _) = (anew(4, torch.Generator().manual_seed(1)) for _ in range(2))
    assert first == again and torch.equal(x, y) and not anew.kept


@pytest.mark.parametrize("kept", [0, 2000])
def test_a_batch_has_one_shape_and_all_batches_together_have_their_shares(kept):
    supply, generator = (
        Supply(32, two=0.5, plain=0.25, other=0.4, kept=kept),
        torch.Generator().manual_seed(0),
    )
    shapes, by_hand = [], []
    for _ in range(150):
        scenes, pictures, _ = supply(4, generator)
        assert {pixels_of(s.extent, 32) for s in scenes} == {tuple(pictures.shape[2:])}
        shapes.append(tuple(pictures.shape[2:]))
        by_hand += [s.style != RENDERED for s in scenes]
    assert 0.15 < sum(by_hand) / len(by_hand) < 0.35
    assert len(set(shapes)) > 2 and 0.4 < shapes.count((32, 32)) / len(shapes) < 0.8


@pytest.mark.slow
def test_the_files_load_as_what_they_are(folder):
    base, inpaint, up, both = (
        load(folder / f"shapes-glide{name}.safetensors", "cpu")
        for name in ("", "-inpaint", "-upsampler", "-upsampler-inpaint")
    )
    assert [
        (b.size, b.net.inpainting, b.net.upsampling, b.prediction, b.learned_variance)
        for b in (base, inpaint, up, both)
    ] == [
        (32, False, False, "v", True),
        (32, True, False, "v", True),
        (64, False, True, "v", True),
        (64, True, True, "v", True),
    ]
    assert load_judge(folder / "shapes-clip.safetensors").noised is False
    assert load_judge(folder / "shapes-clip-noised.safetensors").noised is True
    with pytest.raises(WeightsError, match="a clip or noised_clip model is needed"):
        load_judge(folder / "shapes-classifier.safetensors")


def test_a_noised_clip_begins_as_the_classifier_and_as_the_clip_that_are_named(folder):
    net, _, _ = shapes_clip.model(noised=True)
    tower, text = (folder / f"{name}.safetensors" for name in ("shapes-classifier", "shapes-clip"))
    shapes_clip.begin_as(net, str(tower), str(text))
    classifier, words = load_classifier(tower).net, load_judge(text).net.text
    x, t = torch.randn(2, 3, 32, 32, generator=Generator().manual_seed(0)), torch.tensor([3, 700])

    def seen(
        net,
    ):  # by the map's queries, before the heads, which name values in one and vectors in the other
        heads, net.heads = net.heads, torch.nn.ModuleList(torch.nn.Identity() for _ in net.heads)
        found = torch.stack(list(net(x, t).values()))
        net.heads = heads
        return found

    torch.testing.assert_close(seen(net.image), seen(classifier))
    torch.testing.assert_close(net.text.tokens.weight, words.tokens.weight)
    before = copy.deepcopy(net.state_dict())
    for given in (dict(tower=str(text), text=""), dict(tower="", text=str(tower))):
        with pytest.raises(ValueError, match="(tower|text): .* holds none of this net's shape"):
            shapes_clip.begin_as(net, **given)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_the_history_of_a_file_stands_in_it(folder):
    runs = read_weights(folder / "shapes-glide-inpaint.safetensors")[0]["trained"]
    assert [run["empty"] for run in runs] == [0.0, 0.2, 0.2] and [run["init"] for run in runs][1:] == [
        "shapes-glide-conditional.safetensors",
        "shapes-glide.safetensors",
    ]


@pytest.mark.parametrize(
    "recipe, init, name",
    [
        (shapes_glide_inpaint, "shapes-glide", None),
        (shapes_glide_upsampler, "shapes-glide-upsampler", "up-inpaint"),
    ],
)
def test_the_first_step_of_inpainting_is_the_base_models_own(folder, tmp_path, recipe, init, name):
    extra = dict(inpainting=1, name=name) if name else {}
    recipe.main(
        recipe.Arguments(
            steps=1,
            lr=1e-12,
            batch=2,
            init=str(folder / f"{init}.safetensors"),
            state=str(tmp_path / "s"),
            out=str(tmp_path),
            **extra,
        )
    )
    base = load(folder / f"{init}.safetensors", "cpu")
    wide = load(next(tmp_path.glob("*.safetensors")), "cpu")
    g = Generator().manual_seed(0)
    side = base.size
    x, ctx = torch.randn(2, 3, side, side, generator=g), base.embed(["a red star", ""])
    low = dict(low_res=torch.rand(2, 3, 32, 32, generator=g)) if base.net.upsampling else {}
    mask = (torch.rand(2, 1, side, side, generator=g) > 0.5).float()
    with torch.no_grad():
        one = base.net(base.net.inputs(x, **low), 400, ctx)
        two = wide.net(wide.net.inputs(x, picture=x.clamp(-1, 1), mask=mask, **low), 400, ctx)
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_empty_captions_are_drawn_picture_by_picture():
    import random

    rng = random.Random(0)
    scenes = draw(600, rng, 0.3)
    empty = [told(s, rng, 0.2) == "" for s in scenes]
    assert 0.15 < sum(empty) / 600 < 0.25 and any(a != b for a, b in zip(empty, empty[1:]))
    assert all(told(s, rng, 0.0) for s in scenes[:50])
    assert 0.25 < sum(len(s.things) == 2 for s in scenes) / 600 < 0.35


def test_the_hard_scenes_come_more_often():
    import random

    share = [
        sum(
            "dotted" in [t.texture for t in s.things] or "flower" in [t.shape for t in s.things]
            for s in draw(400, random.Random(1), 0.0, hard)
        )
        / 400
        for hard in (1.0, 4.0)
    ]
    assert share[1] > 1.4 * share[0]


def test_a_shape_can_be_left_out_of_training(tmp_path):
    import random

    for hard in (1.0, 4.0):
        scenes = draw(300, random.Random(1), 0.5, hard, without="star")
        assert "star" not in {t.shape for s in scenes for t in s.things} and {
            len(s.things) for s in scenes
        } == {1, 2}
    with pytest.raises(ValueError, match='^without: must be "", circle, square'):
        shapes_glide.main(
            shapes_glide.Arguments(steps=1, without="stars", out=str(tmp_path), state=str(tmp_path / "s"))
        )
    assert not list(tmp_path.iterdir())


def test_eight_bits_and_small_pictures():
    import random

    x = eight_bits(render(draw(3, random.Random(2), 0.5)))
    assert torch.equal(eight_bits(x), x) and x.abs().max() <= 1
    small = made_small(x, 2)
    assert small.shape == (3, 3, 32, 32) and torch.equal(eight_bits(small), small)
    assert (small - render(draw(3, random.Random(2), 0.5), 32)).abs().mean() < 0.01
    assert spoilt(x, 0.0, Generator()) is x and (spoilt(x, 0.2, Generator().manual_seed(0)) - x).std() > 0.01


def test_what_is_rubbed_out_covers_every_kind():
    masks = erased(400, 32, Generator().manual_seed(0))
    assert masks.shape == (400, 1, 32, 32) and set(masks.unique().tolist()) == {0.0, 1.0}
    share = masks.mean((1, 2, 3))
    assert 0.05 < (share == 1).double().mean() < 0.16 and (share == 0).sum() == 0 and share.min() > 0
    one, two = (f(50, 32, Generator().manual_seed(1)) for f in (boxes, strokes_of_a_brush))
    rows, columns = one.amax(3).sum(2), one.amax(2).sum(2)
    assert torch.equal(one.sum((2, 3)), rows * columns)  # a box fills its bounding box
    assert (two.sum((2, 3)) < two.amax(3).sum(2) * two.amax(2).sum(2)).any()


def test_the_classifier_sums_what_is_wanted(folder):
    import random

    classifier, scene = (
        load_classifier(folder / "shapes-classifier.safetensors"),
        draw(1, random.Random(0), 0.0)[0],
    )
    x, want = render([scene], 32), attributes(scene)
    whole = classifier.log_p(x, 300, [want])
    parts = sum(classifier.log_p(x, 300, [{k: v}]) for k, v in want.items())
    torch.testing.assert_close(whole, parts)
    some = sum(classifier.log_p(x, 300, [{"colour_1": c}]).exp() for c in classifier.values["colour_1"])
    torch.testing.assert_close(some, torch.ones(1))
    with pytest.raises(ValueError, match="wanted: colour_1 'pink'"):
        classifier.log_p(x, 300, [{"colour_1": "pink"}])


def test_a_judge_knows_times_and_sizes(folder):
    noised, clean = (
        load_judge(folder / "shapes-clip-noised.safetensors"),
        load_judge(folder / "shapes-clip.safetensors"),
    )
    x = torch.rand(2, 3, 32, 32, generator=Generator().manual_seed(0)) * 2 - 1
    assert not torch.equal(noised.images(x, 10), noised.images(x, 900)) and torch.equal(
        noised.images(x, 10.2), noised.images(x, 10)
    )
    assert noised.images(x, Schedule.cosine().T).norm(dim=1).allclose(torch.ones(2))
    with pytest.raises(ValueError, match="x_t: a noised CLIP sees 32x32"):
        noised.images(torch.zeros(1, 3, 64, 64), 5)
    assert clean.cosines(x, ["a red star", "a blue ring"]).shape == (2,) and clean.images(x).shape == (2, 64)
