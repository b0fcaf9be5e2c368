"""metrics.similarity against closed forms."""

import doctest
import math

import pytest
import torch
from torch.testing import assert_close

import palimpsest.metrics.similarity
from palimpsest.metrics.similarity import (
    clip_score,
    cosine,
    directional,
    diversity,
    self_similarity,
    subject_similarity,
)


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at_angles(*degrees):
    """Unit vectors in the plane."""
    a = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([a.cos(), a.sin()], dim=1)


def cos(degrees):
    return math.cos(math.radians(degrees))


def test_the_formulas_print_what_they_compute():
    result = doctest.testmod(palimpsest.metrics.similarity)
    assert result.attempted > 0 and result.failed == 0


def test_cosine_knows_angles_and_no_lengths():
    x, y = at_angles(0, 30, 90, 10), at_angles(60, 30, -90, 100)
    want = torch.tensor([0.5, 1, -1, 0], dtype=torch.float64)
    assert_close(cosine(x, y), want, rtol=0, atol=1e-12)
    lengths = torch.tensor([[0.1], [2.0], [30.0], [1e6]])
    assert_close(cosine(lengths * x, y.float().double() * 3), want, rtol=0, atol=1e-6)
    assert cosine(x.half(), y.half()).dtype == torch.float64


def test_subject_similarity_is_the_mean_over_all_pairs():
    made, real = at_angles(0, 30), at_angles(0, 60, 90)
    assert_close(
        subject_similarity(made, real), (cos(0) + cos(60) + cos(90) + cos(30) + cos(30) + cos(60)) / 6
    )
    assert_close(subject_similarity(made, real), subject_similarity(real, made))
    assert subject_similarity(5 * made, real) == pytest.approx(subject_similarity(made, real), abs=1e-12)


def test_a_set_with_itself_counts_its_own_pictures_and_self_similarity_does_not():
    x = at_angles(0, 30, 90)
    assert_close(self_similarity(x), (cos(30) + cos(60) + cos(90)) / 3)
    assert_close(subject_similarity(x, x), (3 + 2 * (cos(30) + cos(60) + cos(90))) / 9)
    assert subject_similarity(x, x) > self_similarity(x)


def test_diversity_is_the_mean_of_the_six_pairs_of_four_pictures():
    pictures, asked = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 2, 2), []

    def distance(x, y):
        asked.append((int(x.flatten()[0]), int(y.flatten()[0])))
        return (x - y).square().mean((1, 2, 3))

    assert_close(diversity(pictures, distance), (3 * 1 + 2 * 4 + 9) / 6)
    assert sorted(asked) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert diversity(pictures[:1].expand(4, -1, -1, -1), distance) == 0


def test_directional_is_the_cosine_of_the_two_ways():
    before, after = at_angles(0, 0, 0), at_angles(90, 90, 0)
    text_before, text_after = at_angles(10, 100, 0), at_angles(100, 10, 90)
    want = torch.tensor([cos(10), -cos(10), 0], dtype=torch.float64)  # along; back; the picture stayed
    assert_close(directional(before, after, text_before, text_after), want, rtol=0, atol=1e-12)


def test_directional_brings_embeddings_to_length_1_first():
    before, after, one, other = (normal(5, 7, seed) for seed in range(4))
    figure = directional(before, after, one, other)
    assert_close(directional(3 * before, 0.1 * after, one, 50 * other), figure)
    assert_close(directional(before, after, other, one), -figure)
    assert_close(directional(after, before, other, one), figure)
    assert_close(directional(one, other, one, other), torch.ones(5).double())
    raw = torch.cosine_similarity(after - before, other - one)
    assert (raw - figure).abs().max() > 1e-2  # without that it would be another figure


def test_clip_score_is_never_negative_and_has_its_scale():
    x, y = at_angles(0, 0, 0), at_angles(60, 120, 0)
    assert_close(clip_score(x, y), torch.tensor([50.0, 0, 100], dtype=torch.float64))
    assert_close(clip_score(x, y, 2.5), torch.tensor([1.25, 0, 2.5], dtype=torch.float64))


BAD = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
GOOD = torch.tensor([[1.0, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: cosine(GOOD, BAD), "y: a row that is 0"),
        (lambda: cosine(GOOD / 0, GOOD), "x: a row that is 0 or not finite"),
        (lambda: cosine(GOOD, GOOD[:1]), "must have a row for each of"),
        (lambda: cosine(GOOD[0], GOOD[0]), r"x: shape \(2,\); give embeddings"),
        (lambda: subject_similarity(GOOD, normal(2, 3)), "real: widths 2 and 3"),
        (lambda: subject_similarity(GOOD[:0], GOOD), "made: shape"),
        (lambda: self_similarity(GOOD[:1]), "x: 1 row has no pair"),
        (lambda: diversity(torch.zeros(1, 3, 4, 4), lambda x, y: x), "pictures: 1 has no pair"),
        (lambda: directional(GOOD, GOOD, GOOD, 2 * GOOD), "text_after: row 0, 1 says what text_before says"),
        (
            lambda: directional(GOOD, GOOD, normal(2, 3), normal(2, 3, 1)),
            "text_before: must come from the same CLIP",
        ),
    ],
)
def test_a_mistake_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()
