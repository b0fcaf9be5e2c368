"""DINO's self-distillation by hand values, views that keep the individual, and a recipe that resumes bit for bit."""
from __future__ import annotations

import json
import math
import random

import pytest
import torch
from safetensors.torch import save_file
from torch import Generator, nn
from torch.testing import assert_close
from towers import small_dino

from nets.dino import DINO
from nets.distillation import (
    DINOHead,
    dino_loss,
    entropies,
    follow,
    moved_centre,
    sharpened,
    teacher_momentum,
    teacher_temperature,
)
from training import shapes_dino as recipe
from weights import WeightsError
from weights.files import read_weights
from weights.judges import load_judge, load_likeness
from weights.tower_names import dino_official_names, pack
from worlds.crops import LARGE, SMALL, Window, cut, lit, softened, windows
from worlds.subjects import render_subject, sample_context, sample_subject


def scores(*shape, seed=0):
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


# ---- the loss ----

def test_the_loss_is_equation_3_by_plain_loops():
    student, teacher, centre = scores(4, 3, 5), scores(2, 3, 5, seed=1), scores(5, seed=2)
    total, pairs = 0., 0
    for x in range(2):
        for other in range(4):
            if x == other:
                continue
            for i in range(3):
                wanted = [math.exp(v / .05) for v in (teacher[x, i] - centre).tolist()]
                said = [math.exp(v / .1) for v in student[other, i].tolist()]
                total -= sum(a / sum(wanted) * math.log(b / sum(said)) for a, b in zip(wanted, said)) / 3
            pairs += 1
    assert pairs == 6
    assert_close(dino_loss(student, teacher, centre, .05).item(), total / pairs, rtol=1e-4, atol=0)


def test_no_gradient_reaches_the_teacher_and_some_the_student():
    student, teacher = scores(3, 2, 4).requires_grad_(), scores(2, 2, 4, seed=1).requires_grad_()
    dino_loss(student, teacher, torch.zeros(4), .04).backward()
    assert teacher.grad is None and student.grad.norm() > 0


def test_a_student_that_says_what_the_teacher_means_cannot_do_better():
    teacher, centre = scores(2, 3, 5).float(), scores(5, seed=3).float()
    said = (sharpened(teacher.mean(0, keepdim=True).expand(2, -1, -1), centre, .5).log() * .1)
    same = dino_loss(said, teacher.mean(0, keepdim=True).expand(2, -1, -1), centre, .5)
    entropy = -(sharpened(teacher.mean(0), centre, .5) * sharpened(teacher.mean(0), centre, .5).log()).sum(-1).mean()
    assert_close(same, entropy)
    assert dino_loss(said + .05 * scores(2, 3, 5, seed=4).float(), teacher.mean(0, keepdim=True).expand(2, -1, -1), centre, .5) > same


def test_the_limits_of_the_temperature_are_a_vote_and_indifference():
    z, centre = torch.tensor([[.1, .5, .3]]), torch.tensor([0., .3, 0.])
    assert_close(sharpened(z, centre, 1e-4), torch.tensor([[0., 0., 1.]]))               # the centre took .5 its lead
    assert_close(sharpened(z, torch.zeros(3), 1e-4), torch.tensor([[0., 1., 0.]]))
    assert_close(sharpened(z, centre, 1e6), torch.full((1, 3), 1 / 3), atol=1e-5, rtol=0)


def test_the_centre_moves_by_hand_and_forgets():
    centre = moved_centre(torch.tensor([1., 0.]), torch.tensor([0., 2.]))
    assert_close(centre, torch.tensor([.9, .2]))
    for _ in range(200):
        centre = moved_centre(centre, torch.tensor([3., -1.]))
    assert_close(centre, torch.tensor([3., -1.]))
    assert_close(sharpened(torch.tensor([[3., -1.]]), centre, .04), torch.full((1, 2), .5), atol=1e-4, rtol=0)   # what all say, none says


def test_momentum_and_temperature_run_as_said():
    course = [teacher_momentum(step, 100, .9) for step in range(100)]
    assert course == sorted(course) and course[0] == pytest.approx(.9, abs=1e-3) and course[49] == pytest.approx(.95) and course[-1] == 1
    assert [teacher_temperature(step, 10) for step in (0, 5, 10, 99)] == pytest.approx([.04, .055, .07, .07])
    assert teacher_temperature(0, 0) == .07


def test_the_teacher_goes_a_part_of_the_way():
    teacher, student = nn.Linear(2, 1, bias=False).requires_grad_(False), nn.Linear(2, 1, bias=False)
    teacher.weight.data, student.weight.data = torch.tensor([[1., 0.]]), torch.tensor([[0., 4.]])
    follow(teacher, student, .75)
    assert_close(teacher.weight, torch.tensor([[.75, 1.]]))
    assert torch.equal(student.weight, torch.tensor([[0., 4.]])) and student.weight.grad is None
    follow(teacher, student, 1.)
    assert_close(teacher.weight, torch.tensor([[.75, 1.]]))


def test_both_collapses_are_told_from_health():
    sure = torch.eye(8)
    assert entropies(sure) == pytest.approx((0, 1))
    assert entropies(torch.full((8, 8), 1 / 8)) == pytest.approx((1, 1))
    assert entropies(sure[:1].expand(8, -1)) == pytest.approx((0, 0))


def test_centring_without_sharpening_goes_flat_and_sharpening_without_centring_to_one():
    """Sec. 5.3, in one step: scores with one prototype far ahead for all."""
    z = .01 * scores(64, 8).float() + torch.tensor([3., *[0.] * 7])
    mean = z.mean(0)
    assert entropies(sharpened(z, torch.zeros(8), .04))[1] < .01
    flat, both = entropies(sharpened(z, mean, 1.)), entropies(sharpened(z, mean, .004))
    assert flat[0] > .99 and both[0] < .7 and both[1] > .9


def test_the_head_gives_cosines():
    head = DINOHead(width=6, hidden=8, narrow=4, prototypes=5)
    found = head(torch.randn(7, 6, generator=Generator().manual_seed(0)))
    assert found.shape == (7, 5) and found.abs().max() <= 1 + 1e-6
    with torch.no_grad():
        head.prototypes.mul_(3)
    assert_close(head(torch.randn(7, 6, generator=Generator().manual_seed(0))), found)


# ---- views ----

def test_windows_lie_inside_and_have_the_area_asked_for():
    for share in (LARGE, SMALL):
        w = windows(500, share, Generator().manual_seed(0))
        area, ratio = w.width * w.height, w.width / w.height
        assert area.min() >= share[0] - 1e-5 and area.max() <= share[1] + 1e-5 and area.std() > .05
        assert min(w.left.min(), w.top.min()) >= 0 and max((w.left + w.width).max(), (w.top + w.height).max()) <= 1 + 1e-6
        assert ratio.min() > .74 and ratio.max() < 1.35


def test_the_whole_window_is_the_picture_and_a_quarter_is_that_quarter():
    x = torch.rand(2, 3, 8, 8, generator=Generator().manual_seed(0))
    whole = Window(*(torch.tensor([v, v]) for v in (0., 0., 1., 1.)))
    assert_close(cut(x, whole, 8), x)
    part = Window(*(torch.tensor([v, v]) for v in (.5, .25, .5, .5)))
    assert_close(cut(x, part, 4), x[..., 2:6, 4:])


def test_light_keeps_hues_and_softness_keeps_the_mean():
    x = torch.full((6, 3, 9, 9), .2)
    seen = lit(x, .1, Generator().manual_seed(1))
    assert seen.std(dim=(1, 2, 3)).max() < 1e-6 and seen.flatten(1)[:, 0].std() > .01 and (seen - .2).abs().max() <= .12 + 1e-6
    assert torch.equal(lit(x, 0., Generator()), x)
    y = torch.zeros(40, 1, 9, 9)
    y[:, :, 4, 4] = 1
    soft = softened(y, 1., Generator().manual_seed(2))
    same = (soft - y).abs().amax(dim=(1, 2, 3)) < 1e-6
    assert .25 < same.float().mean() < .75
    assert_close(soft.sum((1, 2, 3)), torch.ones(40))
    assert soft[~same][:, 0, 4, 4].min() < .6


def test_views_of_a_subject_come_from_both_of_its_pictures():
    first, second = torch.full((1, 3, 64, 64), -1.), torch.full((1, 3, 64, 64), 1.)
    large, small = recipe.looked_at(first, second, 3, Generator().manual_seed(0))
    assert large.shape == (2, 1, 3, 64, 64) and small.shape == (3, 1, 3, 32, 32)
    assert large[0].max() < large[1].min() and small[0].max() < small[1].min() and small[2].max() < small[1].min()
    assert len(recipe.looked_at(first, second, 0, Generator())[1]) == 0


def test_half_are_subjects_and_as_many_as_asked_are_drawn_twice():
    for share, rows in ((0., []), (1., [2, 3])):
        first, second = recipe.couples(4, random.Random(0), share)
        assert [k for k in range(4) if not torch.equal(first[k], second[k])] == rows
    assert first.shape == second.shape == (4, 3, 64, 64)


# ---- the recipe ----

@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(recipe, "NET", dict(size=64, patch=16, width=16, layers=1, heads=2))
    monkeypatch.setattr(recipe, "HEAD", dict(width=16, hidden=16, narrow=8, prototypes=12))


def run(folder, **more):
    settings = dict(steps=4, batch=4, tests=6, warmup=1, lr=1e-3, state=str(folder / "state"), out=str(folder)) | more
    recipe.main(**settings)
    return read_weights(folder / "shapes-dino.safetensors")


def test_the_recipe_ends_in_a_judge_that_loads_by_name_or_path(tiny, tmp_path):
    run(tmp_path)
    judge = load_likeness(tmp_path / "shapes-dino.safetensors")
    rng = random.Random(0)
    pictures = render_subject(sample_subject(rng), [sample_context(rng) for _ in range(3)])
    found = judge.images(pictures)
    assert found.shape == (3, 16)
    assert_close(found.norm(dim=1), torch.ones(3))
    figures = json.loads((tmp_path / "shapes-dino.json").read_text())["figures"]
    assert figures["n"] == 24 and figures["nearest_chance"] == pytest.approx(3 / 23) and 0 <= figures["nearest"] <= 1
    assert figures["storage_error"] > 0 and 0 <= figures["entropy_each"] <= 1 and figures["loss"] > 0
    with pytest.raises(WeightsError, match="a clip or noised_clip model is needed"):
        load_judge(tmp_path / "shapes-dino.safetensors")
    with pytest.raises(WeightsError, match="no model named"):
        load_likeness("shapes-dyno")


def test_a_run_that_was_stopped_ends_with_the_same_bits(tiny, tmp_path, monkeypatch):
    whole = run(tmp_path / "a")[1]
    calls = []

    def stop(*given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return dino_loss(*given)
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "dino_loss", stop)                           # in the third step, the mean of its scores is already written
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "b")
    kept = torch.load(tmp_path / "b" / "state" / "checkpoint.pt", weights_only=True)
    assert kept["done"] == 2 and kept["net"]["centre"].abs().max() > 0
    again = run(tmp_path / "b")[1]
    assert all(torch.equal(whole[k], again[k]) for k in whole) and whole.keys() == again.keys()


def test_the_teacher_and_the_centre_move_as_the_equations_say(tiny):
    torch.manual_seed(0)
    net = recipe.Couple(DINO(**recipe.NET), DINOHead(**recipe.HEAD))
    before = [p.clone() for p in net.teacher.parameters()]
    views = recipe.looked_at(*recipe.couples(2, random.Random(0), 1.), 1, Generator().manual_seed(0))
    recipe.loss(net, (0, *views), 10).backward()
    assert all(p.grad is None and not p.requires_grad for p in net.teacher.parameters())
    assert all(p.grad is not None for p in net.student.parameters())
    with torch.no_grad():
        for p in net.student.parameters():
            p += 1
    recipe.move(net, 0, 2, .5)
    away = 1 - teacher_momentum(0, 2, .5)
    for p, q in zip(net.teacher.parameters(), before):
        assert_close(p, q + away, atol=1e-5, rtol=0)
    assert_close(net.centre, .1 * net.mean)


def test_nearest_by_hand():
    features = torch.tensor([[1., 0.], [.9, .1], [0., 1.], [.8, .3]])
    assert recipe.nearest(features, torch.tensor([0, 0, 1, 1])) == .75     # the fourth's nearest is the second
    allowed = torch.tensor([[1, 0, 1, 1]] * 4, dtype=torch.bool)
    assert recipe.nearest(features, torch.tensor([0, 0, 1, 0]), allowed) == .75


def test_portraits_stand_on_grounds_of_different_colours():
    subjects, pictures = recipe.portraits(3, 4, 0)
    assert len(subjects) == 3 and pictures.shape == (12, 3, 64, 64)
    corner = pictures[:, :, :6, :6].mean(dim=(2, 3))
    assert torch.cdist(corner[:4], corner[:4])[~torch.eye(4, dtype=torch.bool)].min() > .1


def test_a_published_dino_judges_too(tmp_path):
    net = small_dino()
    save_file(pack(net, dino_official_names(net)), tmp_path / "dino.safetensors")
    judge = load_likeness(tmp_path / "dino.safetensors")
    assert judge.resize == 37 and judge.images(torch.zeros(1, 3, 64, 64)).shape == (1, 128)
