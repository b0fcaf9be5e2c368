"""metrics.features against closed forms, loops, and independent formulas."""

import doctest

import pytest
import torch
from torch.testing import assert_close

import palimpsest.metrics.features
from palimpsest.metrics.features import (
    csfid,
    features,
    fid,
    fid_from_moments,
    inception_score,
    kid,
    kid_subsets,
    moments,
    perceptual,
    precision_recall,
)


def normal(n, d, seed, shift=0.0, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64) * scale + shift


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_the_formulas_print_what_they_compute():
    result = doctest.testmod(palimpsest.metrics.features)
    assert result.attempted > 0 and result.failed == 0


# ---- KID


def test_kid_of_0_1_with_itself_is_minus_3_5():
    assert kid(column(0, 1), column(0, 1)) == -3.5


@pytest.mark.parametrize("m, n, d", [(2, 2, 1), (5, 3, 7), (4, 9, 2048)])
def test_kid_of_all_zeros_and_all_ones_is_7_at_any_size_and_width(m, n, d):
    assert kid(torch.zeros(m, d), torch.ones(n, d)) == 7  # 1 + 8 - 2


def test_kid_equals_the_double_sum_written_out():
    x, y = normal(5, 3, 0), normal(4, 3, 1, shift=1)

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / 3 + 1) ** 3

    a, b = x.tolist(), y.tolist()
    want = (
        sum(k(a[i], a[j]) for i in range(5) for j in range(5) if i != j) / 20
        + sum(k(b[i], b[j]) for i in range(4) for j in range(4) if i != j) / 12
        - 2 * sum(k(p, q) for p in a for q in b) / 20
    )
    assert_close(kid(x, y), want, rtol=1e-12, atol=0)


def test_kid_is_symmetric_and_grows_with_a_shift():
    x, y = normal(200, 8, 0), normal(200, 8, 1)
    assert_close(kid(x, y), kid(y, x))
    values = [kid(x, y + s) for s in (0, 0.5, 1, 2)]
    assert values == sorted(values) and values[0] < 0.05 < values[1]


def test_kid_is_unbiased_at_n_of_4_where_the_form_with_the_diagonal_is_not():
    x = normal(4000, 4, 2)
    splits = [kid(x[i : i + 4], x[i + 4 : i + 8]) for i in range(0, 4000, 8)]
    mean, error = torch.tensor(splits).mean().item(), torch.tensor(splits).std().item() / len(splits) ** 0.5
    assert abs(mean) < 4 * error
    diagonal = ((x**2).sum(1) / 4 + 1).pow(3).mean().item()
    assert 2 * (diagonal - 1) / 4 > 8 * error  # what keeping i = j would add
    assert min(splits) < 0


def test_kid_subsets_of_whole_sets_is_kid_with_no_spread():
    x, y = normal(12, 3, 0), normal(12, 3, 1)
    mean, std = kid_subsets(x, y, torch.Generator().manual_seed(0), subsets=5, size=12)
    assert_close(mean, kid(x, y))
    assert std < 1e-9


def test_kid_subsets_centre_on_kid_spread_and_repeat_with_their_generator():
    x, y = normal(300, 3, 0), normal(300, 3, 1, shift=0.5)
    first = kid_subsets(x, y, torch.Generator().manual_seed(3), subsets=200, size=50)
    again = kid_subsets(x, y, torch.Generator().manual_seed(3), subsets=200, size=50)
    assert first == again
    g = torch.Generator().manual_seed(3)
    draws = [kid(*(a[torch.randperm(300, generator=g)[:50]] for a in (x, y))) for _ in range(200)]
    assert_close(first.std**2, sum((v - first.mean) ** 2 for v in draws) / 200)
    assert abs(first.mean - kid(x, y)) < 4 * first.std / 200**0.5


# ---- FID


def test_fid_of_0_2_and_3_7_is_18():
    assert_close(fid(column(0, 2), column(3, 7)), 18.0)  # 16 + 2 + 8 - 2 √16


def test_fid_of_two_gaussians_that_do_not_commute_is_the_known_answer():
    mu = torch.zeros(2)
    a, b = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.diag(torch.tensor([1.0, 4.0]))
    want = 9 - 2 * ((5 + 13**0.5) ** 0.5 + (5 - 13**0.5) ** 0.5)  # λ² - 10 λ + 12 = 0
    assert_close(want, 0.7712204, atol=1e-7, rtol=0)
    assert_close(fid_from_moments(mu, a, mu, b), want, rtol=1e-12, atol=0)
    assert_close(fid_from_moments(mu, a, mu + 3, b), want + 18, rtol=1e-12, atol=0)


def test_fid_of_diagonal_gaussians_is_the_sum_over_axes():
    s, t = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 1.0, 0.0])
    want = 3 + float(((s**0.5 - t**0.5) ** 2).sum())
    assert_close(fid_from_moments(torch.zeros(3), s.diag(), torch.ones(3), t.diag()), want)


def test_fid_of_equal_sets_is_0_and_of_a_shift_its_square():
    x = normal(50, 6, 0)
    assert abs(fid(x, x)) < 1e-6 * 6
    assert_close(fid(x, x + 0.5), 6 * 0.25, atol=1e-6, rtol=0)


def test_fid_does_not_change_under_a_common_rotation_and_is_symmetric():
    x, y = normal(40, 5, 0), normal(30, 5, 1, shift=0.3, scale=2)
    q = torch.linalg.qr(normal(5, 5, 2)).Q
    assert_close(fid(x @ q, y @ q), fid(x, y))
    assert_close(fid(y, x), fid(x, y))


@pytest.mark.parametrize("n, d", [(40, 5), (6, 20)], ids=["full rank", "rank-deficient"])
def test_fid_equals_its_form_by_singular_values_of_the_data(n, d):
    x, y = normal(n, d, 0), normal(n + 3, d, 1, shift=0.2, scale=1.5)
    a, b = (
        (x - x.mean(0)) / (n - 1) ** 0.5,
        (y - y.mean(0)) / (n + 2) ** 0.5,
    )  # Σ = aᵀ a, so Tr (Σx Σy)^½ = ‖a bᵀ‖_*
    root = torch.linalg.matrix_norm(a @ b.T, "nuc")
    want = (x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * root
    assert_close(fid(x, y), want.item(), atol=1e-5, rtol=0)


def test_fid_equals_its_form_by_the_matrix_root_of_scipy():
    linalg = pytest.importorskip("scipy.linalg", reason="scipy.linalg.sqrtm is the independent root here")
    (mx, cx), (my, cy) = moments(normal(60, 7, 0)), moments(normal(50, 7, 1, shift=0.4, scale=1.3))
    root = linalg.sqrtm((cx @ cy).numpy()).real.trace()
    want = float((mx - my).square().sum() + cx.trace() + cy.trace() - 2 * root)
    assert_close(fid_from_moments(mx, cx, my, cy), want, rtol=1e-9, atol=0)


def test_moments_divide_by_n_minus_1():
    x = normal(9, 4, 0)
    mu, cov = moments(x)
    assert_close(mu, x.mean(0))
    assert_close(cov, torch.cov(x.T))


# ---- precision and recall


def test_precision_and_recall_of_three_points_each_by_hand():
    real, fake = column(0, 1, 2), column(0.4, 0.6, 9)
    assert precision_recall(real, fake, k=1) == pytest.approx((2 / 3, 2 / 3))
    assert precision_recall(real, fake, k=2) == pytest.approx((2 / 3, 1))


def test_precision_and_recall_of_a_set_with_itself_are_1_even_with_duplicates():
    x = normal(20, 3, 0)
    assert precision_recall(x, x) == (1, 1)
    twice = torch.cat([x, x])
    assert precision_recall(twice, twice, k=1) == (1, 1)  # every radius is 0 here


def test_swapping_the_sets_swaps_precision_and_recall():
    real, fake = normal(60, 2, 0), normal(60, 2, 1, scale=0.2)  # faithful, but it has lost diversity
    p, r = precision_recall(real, fake)
    assert precision_recall(fake, real) == (r, p)
    assert p > 0.9 and r < 0.5


def test_precision_and_recall_do_not_change_when_both_sets_move_far_from_the_origin():
    real, fake = normal(60, 2, 0), normal(60, 2, 1, scale=0.2)
    assert precision_recall(real + 1e8, fake + 1e8) == precision_recall(real, fake)


# ---- what DiffEdit's tables are made of


def test_csfid_compares_the_means_of_classes_and_nothing_else():
    """Zero if and only if the class means match; noise whose class means vanish costs nothing, which a
    covariance term would.
    """
    y, classes = normal(60, 4, 0), [i % 3 for i in range(60)]
    noise = normal(60, 4, 1, scale=5.0)
    for c in range(3):
        rows = [i for i, k in enumerate(classes) if k == c]
        noise[rows] -= noise[rows].mean(0)
    assert csfid(y + noise, classes, y, classes) < 1e-20 < fid(y + noise, y)
    moved = y.clone()
    moved[::3] += 2.0  # one class of three, by 2 in each of 4 features
    assert_close(csfid(moved, classes, y, classes), 16 / 3)
    swapped = [(k + 1) % 3 for k in classes]
    assert csfid(y, swapped, y, classes) > 0 == csfid(y, classes, y, classes)


def test_perceptual_distance_is_blind_to_scale_and_bounded_by_4():
    x = normal(6, 10, 0).reshape(2, 3, 10)
    assert_close(perceptual(x, 3 * x), torch.zeros(2, dtype=torch.float64))
    assert_close(perceptual(x, -x), torch.full((2,), 4.0, dtype=torch.float64))
    one = torch.eye(10).expand(1, 10, 10)
    assert_close(perceptual(one, one.roll(1, 1)), torch.tensor([2.0], dtype=torch.float64))


# ---- features, and wrong input


def test_features_are_the_same_whatever_the_batch_and_maps_are_averaged():
    x = torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    flat = features(x, lambda p: p.flatten(1), batch=4)
    assert_close(flat, x.flatten(1).double())
    assert_close(features(x, lambda p: p, batch=3), x.double().mean((2, 3)))
    assert fid(flat, flat) < 1e-3


def test_features_keep_no_graph():
    layer = torch.nn.Linear(12, 5)
    out = features(torch.zeros(3, 3, 2, 2), lambda p: layer(p.flatten(1)))
    assert out.shape == (3, 5) and not out.requires_grad


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: kid(torch.zeros(1, 4), torch.zeros(3, 4)), "^x: shape"),
        (lambda: kid(torch.zeros(3, 4), torch.zeros(3, 5)), "same extractor"),
        (lambda: fid(torch.zeros(3, 4, 1), torch.zeros(3, 4)), "^x: shape"),
        (lambda: fid(torch.zeros(3, 4), torch.full((3, 4), torch.nan)), "^y: NaN"),
        (lambda: kid_subsets(torch.zeros(9, 4), torch.zeros(9, 4), torch.Generator()), "^size: 1000"),
        (lambda: kid_subsets(torch.zeros(9, 4), torch.zeros(9, 4), torch.Generator(), 1, 5), "^subsets: 1"),
        (lambda: precision_recall(torch.zeros(3, 4), torch.zeros(9, 4)), "^k: 3"),
        (lambda: fid_from_moments(torch.zeros(2), torch.eye(3), torch.zeros(2), torch.eye(2)), "^moments"),
        (lambda: csfid(torch.zeros(2, 3), "ab", torch.zeros(2, 3), "aa"), "^classes"),
        (lambda: perceptual(torch.zeros(2, 3, 4), torch.zeros(2, 3)), "^y: shapes"),
        (lambda: features(torch.zeros(2, 3, 4, 4), lambda p: p.sum()), "extractor output"),
        (lambda: features(torch.zeros(2, 3, 4, 4), lambda p: p.flatten(1), batch=0), "^batch: 0"),
    ],
)
def test_wrong_input_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


# ---- the Inception Score ----


def test_the_inception_score_of_sure_and_even_classes_is_their_number_and_of_doubt_1():
    assert inception_score(torch.eye(7).repeat(3, 1)) == pytest.approx(7, rel=1e-12)
    assert inception_score(torch.full((5, 4), 0.25)) == pytest.approx(1, rel=1e-12)
    assert inception_score(torch.eye(4)[:1].repeat(6, 1)) == pytest.approx(
        1, rel=1e-12
    )  # sure, but always of the same


def test_the_inception_score_is_exp_of_the_mutual_information_written_out():
    p = torch.rand((9, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p /= p.sum(1, keepdim=True)
    mean = p.mean(0)
    by_hand = sum(float(p[i, k] * (p[i, k] / mean[k]).log()) for i in range(9) for k in range(5)) / 9
    assert inception_score(p) == pytest.approx(torch.tensor(by_hand).exp().item(), rel=1e-6)


@pytest.mark.parametrize("p", [torch.ones(3, 4), torch.tensor([[1.5, -0.5], [0.5, 0.5]])])
def test_what_is_no_probability_has_no_inception_score(p):
    with pytest.raises(ValueError, match="p: rows must be probabilities"):
        inception_score(p)
