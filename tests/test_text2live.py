"""Text2LIVE: the layer, the losses by plain loops, the views, and an edit that CLIP and the truth agree on."""

import math
import random

import pytest
import torch
from torch import nn

from palimpsest.arguments import ArgumentError
from palimpsest.fit.settings import Files
from palimpsest.methods.text2live import (
    GREEN,
    Example,
    Terms,
    Training,
    Views,
    Words,
    composed,
    cosines,
    crop_of,
    half_squared_angle,
    homographies,
    relevance,
    seen,
    sparsity,
    text2live,
    text2live_loss,
    view_of,
)
from palimpsest.nets.hourglass import Hourglass
from palimpsest.weights.judges import load_judge, load_reader
from palimpsest.worlds.shapes import apply, attributes, caption, changed_mask, edits, render, sample_scene


def picture(seed=0, y=16, x=24):
    return torch.rand(1, 3, y, x, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class Layer(nn.Module):
    """A generator that paints one given layer (1 4 y x), whatever it sees."""

    def __init__(self, painted):
        super().__init__()
        self.painted = nn.Parameter(painted)

    def forward(self, x):
        return self.painted.expand(len(x), -1, -1, -1)


def layer(colours, opacity, y=64, x=64):
    painted = torch.empty(1, 4, y, x)
    painted[:, :3], painted[:, 3] = torch.tensor(colours)[:, None, None], opacity
    return Layer(painted)


@pytest.fixture(scope="module")
def clip():
    return load_judge("shapes-clip")


@pytest.fixture(scope="module")
def words(clip):
    return Words(*clip.texts(["a blue star", "a red star", "a red star on a green background"]).split(1))


def recoloured():
    """A scene of one thing, and the same in another colour."""
    for seed in range(1000):
        scene = sample_scene(random.Random(seed))
        wishes = [e for e in edits(scene) if e.kind == "recolour"]
        if len(scene.things) == 1 and wishes:
            return scene, apply(scene, wishes[0])
    raise AssertionError("no scene of one thing in a thousand")


@pytest.fixture(scope="module")
def x():
    return render([recoloured()[0]])


def example(x, shown, pull=0.0, region=0.0):
    return Example(x, torch.full_like(x[:, :1], region), torch.tensor(pull), shown)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- the generator and the layer ----


@pytest.mark.parametrize("size", [(64, 64), (17, 30), (5, 3)])
def test_a_layer_has_the_pictures_size_and_lies_in_0_1(size):
    painted = Hourglass(scales=3, width=8, skip=4)(picture(0, *size))
    assert painted.shape == (1, 4, *size) and 0 <= painted.min() and painted.max() <= 1


def test_what_skips_a_scale_and_what_passes_below_it_both_reach_the_layer():
    net, x = Hourglass(scales=2, width=8), picture().requires_grad_()
    for part in (net.skip[0], net.down[1]):
        before = net(x).detach()
        with torch.no_grad():
            for p in part.parameters():
                p.mul_(-2)
        assert not torch.equal(net(x), before)


def test_where_the_layer_is_clear_the_picture_stays_to_the_bit_and_where_it_is_solid_it_is_gone():
    x, painted = picture(0, 64, 64), layer((1.0, 0.0, 0.5), 0.0)
    with torch.no_grad():
        painted.painted[:, 3, :32] = 1
    _, opacity, out = composed(painted, x)
    assert torch.equal(out[..., 32:, :], x[..., 32:, :]) and opacity.unique().tolist() == [0, 1]
    torch.testing.assert_close(out[0, :, 0, 0], torch.tensor([1.0, -1.0, 0.0]))


# ---- the losses ----


def test_the_half_squared_angle_is_that_of_the_arc_cosine():
    u, v = torch.nn.functional.normalize(
        torch.randn(2, 50, 7, generator=generator(), dtype=torch.float64), dim=-1
    )
    torch.testing.assert_close(half_squared_angle(u, v), (u * v).sum(-1).arccos().square() / 2)


def test_opposite_vectors_are_half_a_turn_apart_and_their_gradient_is_finite():
    u = torch.nn.functional.normalize(torch.randn(9, 5, generator=generator()), dim=-1).requires_grad_()
    angle = half_squared_angle(u, -u.detach())
    torch.testing.assert_close(angle, torch.full((9,), math.pi**2 / 2), rtol=5e-3, atol=0)
    angle.sum().backward()
    assert u.grad.isfinite().all()


def test_equation_33_compares_every_patch_with_every_other_by_plain_loops():
    p = torch.randn(2, 5, 3, generator=generator(), dtype=torch.float64)
    found = cosines(p)
    for n in range(2):
        for i in range(5):
            for j in range(5):
                want = float(p[n, i] @ p[n, j]) / math.sqrt(
                    float(p[n, i] @ p[n, i]) * float(p[n, j] @ p[n, j])
                )
                assert abs(found[n, i, j].item() - want) < 1e-12


def test_equation_34_by_plain_loops():
    opacity = torch.rand(1, 1, 3, 4, generator=generator(), dtype=torch.float64)
    each = [a + 2 * (1 / (1 + math.exp(-5 * a)) - 0.5) for a in opacity.flatten().tolist()]
    assert abs(sparsity(opacity).item() - sum(each) / 12) < 1e-12
    assert sparsity(torch.zeros(1, 1, 2, 2)) == 0


def test_equations_30_to_32_term_by_term(clip, words, x):
    """One view, the whole: then every term can be written down from CLIP's own embeddings."""
    net, whole = layer((0.9, 0.1, 0.1), 0.4), torch.eye(3)[None]
    losses = text2live_loss(clip, net, example(x, whole), words, Terms(structure=3))
    colours = torch.tensor([0.8, -0.8, -0.8])[:, None, None]
    out = 0.4 * colours + 0.6 * x
    screen = 0.4 * colours + 0.6 * (torch.tensor(GREEN)[:, None, None] * 2 - 1).expand(1, 3, 64, 64)
    E = {name: clip.images(p) for name, p in dict(out=out, x=x, screen=screen).items()}
    torch.testing.assert_close(composed(net, x)[2], out)

    def angle(u, v):
        return (u * v).sum(-1).arccos()

    went, wanted = E["out"] - E["x"], words.target - words.source
    direction = (went * wanted).sum() / went.norm() / wanted.norm()
    want = angle(E["out"], words.target).square() / 2 + 1 - direction
    torch.testing.assert_close(losses["composition"], want.squeeze(), atol=1e-4, rtol=1e-4)
    want = angle(E["screen"], words.layer).square() / 2
    torch.testing.assert_close(losses["screen"], want.squeeze(), atol=1e-4, rtol=1e-4)
    patches = [cosines(seen(clip, p).patches) for p in (out, x)]
    torch.testing.assert_close(
        losses["structure"], 3 * (patches[0] - patches[1]).square().mean(), atol=1e-5, rtol=1e-4
    )


def test_a_layer_that_is_clear_changes_nothing_so_only_the_texts_are_left_to_lose(clip, words, x):
    given = example(x, homographies(Views(n=2), generator()))
    losses = text2live_loss(clip, layer((1.0, 0.0, 0.0), 0.0), given, words, Terms())
    assert losses["structure"].item() < 1e-8 and losses["sparsity"] == 0


def test_all_losses_reach_the_generator(clip, words, x):
    net, shown = Hourglass(generator=generator()), homographies(Views(n=2), generator())
    given = example(x, shown, pull=1.0)
    for name, loss in text2live_loss(clip, net, given, words, Terms()).items():
        net.zero_grad()
        loss.backward(retain_graph=True)
        assert net.out.weight.grad.abs().max() > 0, name


def test_in_the_first_steps_the_opacity_is_pulled_to_the_relevance_by_plain_numbers(clip, words, x):
    given = example(x, torch.eye(3)[None], pull=0.5, region=0.75)
    losses = text2live_loss(clip, layer((1.0, 0.0, 0.0), 0.25), given, words, Terms(bootstrap=8))
    assert losses["bootstrap"].item() == pytest.approx(8 * 0.5 * 0.5**2)


def test_the_relevance_lies_where_the_picture_speaks_for_the_source_and_not_on_the_other_thing(clip):
    """Of two things one changes its colour, and the map is at least twice as bright on it as on the other."""
    inside, beside = [], []
    for seed in range(40):
        scene = sample_scene(random.Random(seed), 2)
        wishes = [e for e in edits(scene) if e.kind == "recolour"]
        if not wishes:
            continue
        texts = [caption(s) for s in (scene, apply(scene, wishes[0]))]
        map_ = relevance(clip, render([scene]), Words(*clip.texts([*texts, texts[1]]).split(1)))
        assert map_.shape == (1, 1, 64, 64) and 0 <= map_.min() and map_.max() == 1
        changed = changed_mask(scene, wishes[0]) > 0
        inside.append(map_[changed].mean())
        beside.append(map_[~changed].mean())
    assert len(inside) > 20 and torch.stack(inside).mean() > 2 * torch.stack(beside).mean()


# ---- views ----


def test_the_first_view_is_the_whole_picture_to_rounding():
    x = picture(1)
    torch.testing.assert_close(view_of(x, homographies(Views(n=3), generator()))[:1], x, atol=1e-5, rtol=1e-5)


def test_a_mirrored_view_is_the_flipped_picture_and_a_part_is_that_part():
    x = picture(1, 8, 8)
    flipped = view_of(x, torch.diag(torch.tensor([-1.0, 1, 1]))[None])
    torch.testing.assert_close(flipped, x.flip(-1), atol=1e-5, rtol=1e-5)
    # its upper left quarter, twice as large: the four pixels around a corner of the small grid
    quarter = view_of(x, torch.tensor([[[0.5, 0, -0.5], [0, 0.5, -0.5], [0, 0, 1]]]))
    inside = torch.nn.functional.interpolate(x[..., :5, :5], scale_factor=2, mode="bilinear")[..., :8, :8]
    torch.testing.assert_close(quarter[..., 1:7, 1:7], inside[..., 1:7, 1:7], atol=1e-5, rtol=1e-5)


def test_views_stay_parts_of_the_picture_where_they_are_neither_turned_nor_leaning():
    maps = homographies(Views(n=200, turn=0, lean=0, flip=0.5, crop=0.6), generator())
    corners = torch.tensor([[-1.0, -1, 1], [1, 1, 1]])
    at = torch.einsum("nij,cj->nci", maps, corners)[..., :2]
    assert at.abs().max() <= 1 + 1e-6
    half = (at[:, 0] - at[:, 1]).abs() / 2
    assert half[1:].min() >= 0.6 and half[1:].max() <= 1
    assert 60 < (maps[1:, 0, 0] < 0).sum() < 140


def test_where_a_view_lies_says_nothing_of_how_it_is_turned():
    maps = homographies(Views(n=400, turn=30, lean=0, flip=0, crop=0.5), generator())[1:]
    angle = torch.atan2(-maps[:, 0, 1], maps[:, 0, 0])
    for place in (maps[:, 0, 2], maps[:, 1, 2]):
        assert abs(torch.corrcoef(torch.stack([angle, place.sign()]))[0, 1]) < 0.15  # 3 standard errors


def test_a_view_is_turned_and_leans_to_both_sides_as_far_as_it_is_told():
    turned = homographies(Views(n=300, crop=1, lean=0, flip=0, turn=30), generator())
    torch.testing.assert_close(turned @ turned.mT, torch.eye(3).expand(300, -1, -1))
    degrees = torch.rad2deg(torch.atan2(turned[:, 1, 0], turned[:, 0, 0]))
    assert degrees.min() == pytest.approx(-30, abs=1) and degrees.max() == pytest.approx(30, abs=1)
    torch.testing.assert_close(turned[:, 0, 1], -turned[:, 1, 0])
    leaning = homographies(Views(n=300, crop=1, lean=0.4, flip=0, turn=0), generator())
    torch.testing.assert_close(leaning[:, :2], torch.eye(3)[:2].expand(300, -1, -1))
    for k in range(2):
        assert leaning[:, 2, k].min() == pytest.approx(-0.2, abs=0.01)
        assert leaning[:, 2, k].max() == pytest.approx(0.2, abs=0.01)
    assert (leaning[:, 2, 2] == 1).all()


def test_a_part_lies_anywhere_in_the_picture_and_its_two_sides_are_drawn_apart():
    maps = homographies(Views(n=400, crop=0.6, turn=0, lean=0, flip=0), generator())[1:]
    for k in range(2):
        half, shift = maps[:, k, k], maps[:, k, 2]
        assert half.min() == pytest.approx(0.6, abs=0.01) and half.max() == pytest.approx(1, abs=0.01)
        there = shift / (1 - half)
        assert there.min() == pytest.approx(-1, abs=0.02) and there.max() == pytest.approx(1, abs=0.02)
    sides = torch.stack([maps[:, 0, 0], maps[:, 1, 1], maps[:, 0, 2], maps[:, 1, 2]])
    assert (torch.corrcoef(sides) - torch.eye(4)).abs().max() < 0.2


def test_an_example_lies_anywhere_in_the_picture():
    rows, columns = torch.linspace(-1, 1, 60)[:, None], torch.linspace(-1, 1, 90)[None]
    for ramp in (rows.expand(60, 90), columns.expand(60, 90)):
        made = [
            crop_of(ramp.expand(1, 3, 60, 90), Training(crop=0.5, flip=0), generator(n)) for n in range(200)
        ]
        first, last = (torch.stack([p[0, 0, k, k] for p in made]) for k in (0, -1))
        share = (last - first) / 2
        assert 0.45 < share.min() < 0.55 and 0.95 < share.max() <= 1
        there = (first + 1) / (2 - 2 * share).clamp(min=0.1)  # 0: at the beginning, 1: at the end
        assert there.min() < 0.05 and 0.9 < there.max() < 1.1


def test_an_example_is_a_crop_of_the_size_of_the_picture_and_mirrored_half_of_the_time():
    x = torch.linspace(-1, 1, 32).expand(1, 3, 20, 32)  # brighter to the right
    made = [crop_of(x, Training(), generator(n)) for n in range(40)]
    assert all(p.shape == x.shape for p in made)
    rising = sum(bool(p[0, 0, 0, -1] > p[0, 0, 0, 0]) for p in made)
    assert 8 < rising < 32
    assert min((p[0, 0, 0, -1] - p[0, 0, 0, 0]).abs().item() for p in made) > 2 * 0.8
    assert torch.equal(crop_of(x, Training(), generator(), whole=True), x)


# ---- the whole ----


def test_a_run_is_the_same_again_and_goes_on_after_a_stop_to_the_same_bits(clip, x, tmp_path, monkeypatch):
    asked = dict(views=Views(n=2), training=Training(steps=4), seed=3)
    texts = ("a blue star", "a red star", "a red star")
    whole, again = (text2live(clip, x, *texts, **asked) for _ in range(2))
    assert torch.equal(whole.picture, again.picture)

    files, crops = Files(tmp_path / "layer.pt"), []

    def stop(*given, **named):
        crops.append(crop_of(*given, **named))
        if len(crops) == 3:
            raise KeyboardInterrupt
        return crops[-1]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("palimpsest.methods.text2live.crop_of", stop)
        text2live(clip, x, *texts, **asked, files=files)
    resumed = text2live(clip, x, *texts, **asked, files=files)
    assert torch.equal(resumed.picture, whole.picture) and resumed.losses == whole.losses
    assert torch.equal(torch.lerp(x, whole.colours, whole.opacity), whole.picture)


def test_a_run_does_not_go_on_from_that_of_another_text(clip, x, tmp_path):
    files, how = Files(tmp_path / "layer.pt"), dict(views=Views(n=1), training=Training(steps=1))
    text2live(clip, x, "a blue star", "a red star", "a red star", files=files, **how)
    with pytest.raises(ValueError, match="texts"):
        text2live(clip, x, "a blue star", "a green star", "a green star", files=files, **how)


@pytest.mark.slow
def test_a_thing_changes_its_colour_in_a_minute_as_the_reader_sees_it(clip, x):
    """The reader never saw the training: it is not the CLIP that was pleased."""
    before, after = recoloured()
    views, oracle = Views(n=4, flip=0, crop=0.8, turn=5, lean=0.05), load_reader("shapes-reader")
    texts = caption(before), caption(after), caption(after, background=False)
    made = text2live(clip, x, *texts, views=views, training=Training(steps=150, flip=0))
    assert (
        not oracle.right(x, [attributes(after)]).any()
        and oracle.right(made.picture, [attributes(after)]).all()
    )
    assert made.losses[-1] < made.losses[0] / 2


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(target="a blue star"), "target: says what source says"),
        (dict(x=torch.zeros(2, 3, 64, 64)), "x: must be one picture"),
        (dict(x=torch.zeros(1, 3, 64, 64) + 255), "x: must lie in"),
        (dict(judge="noised"), "judge: must be a CLIP of clean pictures"),
    ],
)
def test_mistakes_are_named(clip, x, change, said):
    given = dict(judge=clip, x=x, source="a blue star", target="a red star", layer="a red star") | change
    if given["judge"] == "noised":
        given["judge"] = load_judge("shapes-clip-noised")
    with pytest.raises(ArgumentError, match=said):
        text2live(**given)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: Training(steps=0), "steps: must be at least 1"),
        (lambda: Terms(structure=-1), "structure: must be at least 0"),
        (lambda: Views(crop=0), "crop: must lie in"),
        (lambda: Views(lean=1), "lean: must lie in"),
    ],
)
def test_records_refuse_unusable_values(make, said):
    with pytest.raises(ArgumentError, match=said):
        make()
