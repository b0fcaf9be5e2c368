"""Self-distillation by hand values, views that keep the individual, and a recipe that resumes bit for bit."""

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

from palimpsest.nets.judges.dino import DINO
from palimpsest.nets.judges.distillation import (
    DINOHead,
    balanced,
    dino_loss,
    entropies,
    follow,
    koleo,
    moved_centre,
    sharpened,
    teacher_momentum,
)
from palimpsest.training import shapes_dino as recipe
from palimpsest.weights.files import WeightsError, read_weights
from palimpsest.weights.judges import load_judge, load_likeness
from palimpsest.weights.public.tower_names import dino_official_names, pack
from palimpsest.worlds.subjects import render_subject, sample_context, sample_subject
from palimpsest.worlds.views import lit, softened


def scores(*shape, seed=0):
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


# ---- the loss ----


def test_the_loss_is_equation_3_by_plain_loops():
    student, teacher, centre = scores(4, 3, 5), scores(2, 3, 5, seed=1), scores(5, seed=2)
    total, pairs = 0.0, 0
    for x in range(2):
        for other in range(4):
            if x == other:
                continue
            for i in range(3):
                wanted = [math.exp(v / 0.05) for v in (teacher[x, i] - centre).tolist()]
                said = [math.exp(v / 0.1) for v in student[other, i].tolist()]
                total -= sum(a / sum(wanted) * math.log(b / sum(said)) for a, b in zip(wanted, said)) / 3
            pairs += 1
    assert pairs == 6
    assert_close(
        dino_loss(student, sharpened(teacher, centre, 0.05)).item(), total / pairs, rtol=1e-4, atol=0
    )


def test_no_gradient_reaches_the_teacher_and_some_the_student():
    student, teacher = scores(3, 2, 4).requires_grad_(), scores(2, 2, 4, seed=1).requires_grad_()
    (
        dino_loss(student, sharpened(teacher, torch.zeros(4), 0.04))
        + dino_loss(student, torch.stack([balanced(x, 0.04) for x in teacher]))
    ).backward()
    assert teacher.grad is None and student.grad.norm() > 0


def test_a_student_that_says_what_the_teacher_means_cannot_do_better():
    teacher, centre = scores(2, 3, 5).float(), scores(5, seed=3).float()
    said = sharpened(teacher.mean(0, keepdim=True).expand(2, -1, -1), centre, 0.5).log() * 0.1
    wanted = sharpened(teacher.mean(0, keepdim=True).expand(2, -1, -1), centre, 0.5)
    same = dino_loss(said, wanted)
    entropy = (
        -(sharpened(teacher.mean(0), centre, 0.5) * sharpened(teacher.mean(0), centre, 0.5).log())
        .sum(-1)
        .mean()
    )
    assert_close(same, entropy)
    assert dino_loss(said + 0.05 * scores(2, 3, 5, seed=4).float(), wanted) > same


def test_the_limits_of_the_temperature_are_a_vote_and_indifference():
    z, centre = torch.tensor([[0.1, 0.5, 0.3]]), torch.tensor([0.0, 0.3, 0.0])
    assert_close(sharpened(z, centre, 1e-4), torch.tensor([[0.0, 0.0, 1.0]]))  # the centre took .5 its lead
    assert_close(sharpened(z, torch.zeros(3), 1e-4), torch.tensor([[0.0, 1.0, 0.0]]))
    assert_close(sharpened(z, centre, 1e6), torch.full((1, 3), 1 / 3), atol=1e-5, rtol=0)


def test_the_centre_moves_by_hand_and_forgets():
    centre = moved_centre(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]))
    assert_close(centre, torch.tensor([0.9, 0.2]))
    for _ in range(200):
        centre = moved_centre(centre, torch.tensor([3.0, -1.0]))
    assert_close(centre, torch.tensor([3.0, -1.0]))
    assert_close(
        sharpened(torch.tensor([[3.0, -1.0]]), centre, 0.04), torch.full((1, 2), 0.5), atol=1e-4, rtol=0
    )  # what all say, none says


def test_the_momentum_runs_as_said():
    course = [teacher_momentum(step, 100, 0.9) for step in range(100)]
    assert (
        course == sorted(course)
        and course[0] == pytest.approx(0.9, abs=1e-3)
        and course[49] == pytest.approx(0.95)
        and course[-1] == 1
    )


def test_the_teacher_goes_a_part_of_the_way():
    teacher, student = nn.Linear(2, 1, bias=False).requires_grad_(False), nn.Linear(2, 1, bias=False)
    teacher.weight.data, student.weight.data = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    follow(teacher, student, 0.75)
    assert_close(teacher.weight, torch.tensor([[0.75, 1.0]]))
    assert torch.equal(student.weight, torch.tensor([[0.0, 4.0]])) and student.weight.grad is None
    follow(teacher, student, 1.0)
    assert_close(teacher.weight, torch.tensor([[0.75, 1.0]]))


def test_both_collapses_are_told_from_health():
    sure = torch.eye(8)
    assert entropies(sure) == pytest.approx((0, 1))
    assert entropies(torch.full((8, 8), 1 / 8)) == pytest.approx((1, 1))
    assert entropies(sure[:1].expand(8, -1)) == pytest.approx((0, 0))


def test_centring_without_sharpening_goes_flat_and_sharpening_without_centring_to_one():
    """Sec. 5.3, in one step: scores with one prototype far ahead for all."""
    z = 0.01 * scores(64, 8).float() + torch.tensor([3.0, *[0.0] * 7])
    mean = z.mean(0)
    assert entropies(sharpened(z, torch.zeros(8), 0.04))[1] < 0.01
    flat, both = entropies(sharpened(z, mean, 1.0)), entropies(sharpened(z, mean, 0.004))
    assert flat[0] > 0.99 and both[0] < 0.7 and both[1] > 0.9


def test_balanced_shares_the_prototypes_out_by_plain_loops():
    z = scores(4, 3)
    p = [[math.exp(v / 0.5) for v in row] for row in z.tolist()]
    for _ in range(3):
        p = [[p[i][k] / sum(row[k] for row in p) for k in range(3)] for i in range(4)]
        p = [[v / sum(row) for v in row] for row in p]
    assert_close(balanced(z, 0.5), torch.tensor(p, dtype=torch.float64))


def test_balanced_gives_every_picture_one_and_every_prototype_its_share_even_where_one_leads():
    z = 0.02 * scores(64, 8).float() + torch.tensor(
        [3.0, *[0.0] * 7]
    )  # a bare softmax gives the first prototype all
    p = balanced(z, 0.04, rounds=50)
    assert_close(p.sum(1), torch.ones(64))
    assert_close(p.sum(0), torch.full((8,), 8.0), atol=1e-2, rtol=0)
    assert entropies(balanced(z, 0.004))[1] > 0.9 and sharpened(z, torch.zeros(8), 0.04).argmax(1).eq(0).all()


def test_balanced_survives_a_temperature_that_overflows_exponentials():
    p = balanced(torch.tensor([[900.0, 0.0], [899.0, 0.0], [0.0, 0.0]]), 1e-2)
    assert p.isfinite().all() and p[2, 1] > 0.9


def test_koleo_is_the_log_of_the_nearest_distance_and_pushes_apart():
    z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, -1.0]], requires_grad=True)
    gap = math.sqrt(0.2**2 + 0.6**2)  # 1 and 2 are each other's nearest; 3's is 1
    assert_close(koleo(z).item(), -(2 * math.log(gap) + math.log(math.sqrt(2))) / 3, rtol=1e-5, atol=0)
    koleo(z).backward()
    assert (z.grad[1] @ (z[0] - z[1])).item() > 0  # downhill, the second leaves the first
    same = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    koleo(same).backward()
    assert same.grad.isfinite().all()


def test_the_head_gives_cosines():
    cls = torch.randn(7, 6, generator=Generator().manual_seed(0))
    for hidden in (8, 0):
        head = DINOHead(width=6, hidden=hidden, narrow=4, prototypes=5)
        found = head(cls)
        assert found.shape == (7, 5) and found.abs().max() <= 1 + 1e-6
        with torch.no_grad():
            head.prototypes.mul_(3)
        assert_close(head(cls), found)
        assert head.narrow(cls).shape == (7, 4 if hidden else 6)
    assert_close(
        head.narrow(cls), nn.functional.normalize(cls, dim=1)
    )  # without maps the vector is the class token's direction


# ---- views ----


def test_light_keeps_hues_and_softness_keeps_the_mean():
    x = torch.full((6, 3, 9, 9), 0.2)
    seen = lit(x, 0.1, Generator().manual_seed(1))
    assert (
        seen.std(dim=(1, 2, 3)).max() < 1e-6
        and seen.flatten(1)[:, 0].std() > 0.01
        and (seen - 0.2).abs().max() <= 0.12 + 1e-6
    )
    assert torch.equal(lit(x, 0.0, Generator()), x)
    y = torch.zeros(40, 1, 9, 9)
    y[:, :, 4, 4] = 1
    soft = softened(y, 1.0, Generator().manual_seed(2))
    same = (soft - y).abs().amax(dim=(1, 2, 3)) < 1e-6
    assert 0.25 < same.float().mean() < 0.75
    assert_close(soft.sum((1, 2, 3)), torch.ones(40))
    assert soft[~same][:, 0, 4, 4].min() < 0.6


def test_the_pictures_that_are_not_softened_keep_their_bits():
    x = torch.rand(40, 3, 16, 16, generator=Generator().manual_seed(0))
    changed = (softened(x, 1.0, Generator().manual_seed(1)) != x).flatten(1).any(1)
    assert 10 < changed.sum() < 30


def test_the_views_of_a_subject_stand_on_grounds_of_different_colours():
    first, second = recipe.couples(12, random.Random(0))
    assert first.shape == second.shape == (12, 3, 64, 64)
    corner = [x[:, :, :6, :6].mean(dim=(2, 3)) for x in (first, second)]
    assert (corner[0] - corner[1]).norm(dim=1).min() > 0.1


def test_a_step_is_drawn_from_its_seed_alone_and_looks_a_little_different_each_time():
    assert torch.equal(recipe.couples(3, random.Random(5)), recipe.couples(3, random.Random(5)))
    pictures = recipe.couples(3, random.Random(5))
    a, b, c = (recipe.looked_at(pictures, Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c) and a.shape == pictures.shape
    assert 0 < (a - pictures).abs().mean() < 0.15


# ---- the recipe ----


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(recipe, "NET", dict(size=64, patch=16, width=16, layers=1, heads=2))
    monkeypatch.setattr(recipe, "HEAD", dict(width=16, hidden=0, prototypes=12))


def run(folder, **more):
    settings = (
        dict(steps=4, batch=4, tests=6, warmup=1, lr=1e-3, state=str(folder / "state"), out=str(folder))
        | more
    )
    recipe.main(recipe.Arguments(**settings))
    return read_weights(folder / "shapes-dino.safetensors")


def test_the_recipe_ends_in_a_judge_that_loads_by_name_or_path(tiny, tmp_path):
    run(tmp_path)
    judge = load_likeness(tmp_path / "shapes-dino.safetensors")
    rng = random.Random(0)
    pictures = render_subject(sample_subject(rng), [sample_context(rng) for _ in range(3)])
    found = judge.images(pictures)
    assert found.shape == (3, 16)
    assert_close(found.norm(dim=1), torch.ones(3))
    figures = json.loads((tmp_path / "shapes-dino.json").read_text(encoding="utf-8"))["figures"]
    assert (
        figures["n"] == 24
        and figures["nearest_chance"] == pytest.approx(3 / 23)
        and 0 <= figures["nearest"] <= 1
    )
    assert (
        figures["nearest_by_pixels"] < 0.1
        and figures["storage_error"] > 0
        and 0 <= figures["entropy_each"] <= 1
        and figures["loss"] > 0
    )
    with pytest.raises(WeightsError, match="a clip or noised_clip model is needed"):
        load_judge(tmp_path / "shapes-dino.safetensors")
    with pytest.raises(WeightsError, match="no model named"):
        load_likeness("shapes-dyno")


def test_an_unknown_centring_is_refused_before_the_work(tiny, tmp_path):
    with pytest.raises(ValueError, match="^centring: must be sinkhorn or mean, got 'median'$"):
        run(tmp_path, centring="median")


@pytest.mark.parametrize("centring", recipe.CENTRINGS)
def test_a_run_that_was_stopped_ends_with_the_same_bits(tiny, tmp_path, monkeypatch, centring):
    whole = run(tmp_path / "a", centring=centring)[1]
    calls = []

    def stop(*given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return dino_loss(*given)

    with monkeypatch.context() as patch:
        patch.setattr(
            recipe, "dino_loss", stop
        )  # in the third step, the mean of its scores is already written
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "b", centring=centring)
    kept = torch.load(tmp_path / "b" / "state" / "checkpoint.pt", weights_only=True)
    assert kept["done"] == 2 and kept["net"]["centre"].abs().max() > 0
    again = run(tmp_path / "b", centring=centring)[1]
    assert all(torch.equal(whole[k], again[k]) for k in whole) and whole.keys() == again.keys()


def test_the_teacher_and_the_centre_move_as_the_equations_say(tiny):
    torch.manual_seed(0)
    net = recipe.Couple(DINO(**recipe.NET), DINOHead(**recipe.HEAD))
    before = [p.clone() for p in net.teacher.parameters()]
    views = recipe.looked_at(recipe.couples(2, random.Random(0)), Generator().manual_seed(0))
    recipe.loss(net, views).backward()
    assert all(p.grad is None and not p.requires_grad for p in net.teacher.parameters())
    assert all(p.grad is not None for p in net.student.parameters())
    with torch.no_grad():
        for p in net.student.parameters():
            p += 1
    recipe.move(net, 0, 2, 0.5)
    away = 1 - teacher_momentum(0, 2, 0.5)
    for p, q in zip(net.teacher.parameters(), before):
        assert_close(p, q + away, atol=1e-5, rtol=0)
    assert_close(net.centre, 0.1 * net.mean)


def test_nearest_by_hand():
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.8, 0.3]])
    assert recipe.nearest(features, torch.tensor([0, 0, 1, 1])) == 0.75  # the fourth's nearest is the second
    allowed = torch.tensor([[1, 0, 1, 1]] * 4, dtype=torch.bool)
    assert recipe.nearest(features, torch.tensor([0, 0, 1, 0]), allowed) == 0.75


def test_portraits_stand_on_grounds_of_different_colours():
    subjects, pictures = recipe.portraits(3, 4, 0)
    assert len(subjects) == 3 and pictures.shape == (12, 3, 64, 64)
    corner = pictures[:, :, :6, :6].mean(dim=(2, 3))
    assert torch.cdist(corner[:4], corner[:4])[~torch.eye(4, dtype=torch.bool)].min() > 0.1


def test_a_published_dino_judges_too(tmp_path):
    net = small_dino()
    save_file(pack(net, dino_official_names(net)), tmp_path / "dino.safetensors")
    judge = load_likeness(tmp_path / "dino.safetensors")
    assert judge.resize == 37 and judge.images(torch.zeros(1, 3, 64, 64)).shape == (1, 128)
