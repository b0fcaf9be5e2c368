"""samplers/learned.py and samplers/respacing.py: learned variances between their bounds, the hybrid loss,
and the published respacings.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from palimpsest.samplers.convert import eps_from_x0, q_sample
from palimpsest.samplers.ddpm import beta_stride, beta_tilde, ddpm_step, l_simple, posterior
from palimpsest.samplers.learned import code_length, l_hybrid, l_vlb, learned_variance, log_bounds
from palimpsest.samplers.respacing import respaced
from palimpsest.samplers.schedule import Schedule

COSINE, LINEAR = Schedule.cosine(), Schedule.linear()


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- respacing ----

FAST27 = [
    0,
    22,
    44,
    66,
    88,
    111,
    133,
    155,
    177,
    199,
    200,
    222,
    244,
    266,
    288,
    311,
    333,
    355,
    377,
    399,
    400,
    500,
    599,
    600,
    799,
    800,
    997,
]


def test_fast27_is_the_published_list():
    assert respaced(LINEAR.T, "21")[10] == 500  # the strides are added up, and ten of them stay below 499.5
    assert respaced(LINEAR.T, "fast27") == [*(i + 1 for i in reversed(FAST27)), 0]
    last = respaced(LINEAR.T, "fast27")
    assert beta_stride(LINEAR, last[0], last[1]) == pytest.approx(0.972, abs=5e-4)


def test_an_even_respacing_has_both_ends():
    assert respaced(COSINE.T, "27")[-4:] == [77 + 1, 38 + 1, 1, 0] and respaced(COSINE.T, "27")[:2] == [
        1000,
        961 + 1,
    ]
    hundred = respaced(COSINE.T, "100")
    assert hundred[-8:-5] == [62, 51, 41] and hundred[:2] == [1000, 990] and len(hundred) == 101
    assert respaced(COSINE.T, "1000") == list(range(1000, -1, -1))


def test_parts_share_the_levels_and_one_time_of_a_part_is_its_first():
    assert respaced(1000, "1") == [1, 0] and respaced(10, "2") == [10, 1, 0]
    assert respaced(10, "1,2,3") == [10, 9, 8, 7, 5, 1, 0]  # parts of 4, 3 and 3 levels
    assert respaced(10, "4,3,3") == list(range(10, -1, -1))


def test_ddim_respacing_is_an_integer_stride_that_misses_the_top():
    assert respaced(COSINE.T, "ddim50")[0] == 981 and respaced(COSINE.T, "ddim100")[:2] == [991, 981]
    assert {t - s for t, s in pairwise(respaced(COSINE.T, "ddim50")[:-1])} == {20}


@pytest.mark.parametrize(
    "sections", ["", "x", "0", "-3", "1001", "10,,2", "ddim", "ddim600", "ddim0", "2.5", "600,600"]
)
def test_a_respacing_that_makes_no_sense_is_refused(sections):
    with pytest.raises(ValueError, match="sections"):
        respaced(COSINE.T, sections)


def test_betas_of_a_respaced_walk_multiply_to_the_same_abar():
    product = math.prod(1 - beta_stride(COSINE, t, s) for t, s in pairwise(respaced(COSINE.T, "27")))
    assert product == pytest.approx(COSINE.at(1000), rel=1e-9)


def test_the_cosine_schedule_caps_one_beta():
    betas = [COSINE.beta(t) for t in range(1, 1001)]
    assert betas[-1] == pytest.approx(0.999, abs=1e-12) and sum(b > 0.9989 for b in betas) == 1
    assert betas[0] == pytest.approx(4.1284e-5, rel=1e-4)
    assert COSINE.at(1) == pytest.approx(0.9999587, abs=1e-7) and COSINE.at(500) == pytest.approx(
        0.493844, abs=1e-6
    )
    assert COSINE.at(1000) == pytest.approx(2.43e-9, rel=5e-3)


# ---- the bounds ----


def test_v_runs_from_one_bound_to_the_other():
    v = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64).view(1, 1, 1, 3)
    for t, s in ((1000, 999), (501, 500), (800, 400), (2, 1)):
        low, middle, high = learned_variance(COSINE, v, t, s).flatten().tolist()
        assert low == pytest.approx(beta_tilde(COSINE, t, s), rel=1e-12) and high == pytest.approx(
            beta_stride(COSINE, t, s), rel=1e-12
        )
        assert middle == pytest.approx(math.sqrt(low * high), rel=1e-12)


def test_the_bounds_have_the_published_values():
    assert log_bounds(COSINE, 1, 0) == pytest.approx((-10.734, -10.095), abs=6e-4)
    assert log_bounds(COSINE, 501, 500) == pytest.approx((-5.76162, -5.75855), abs=6e-6)


def test_the_last_step_borrows_the_lower_bound_of_the_one_before():
    *_, before, t, s = respaced(COSINE.T, "27")
    assert log_bounds(COSINE, t, s, before)[0] == math.log(beta_tilde(COSINE, before, t))
    assert log_bounds(COSINE, 1, 0) == log_bounds(COSINE, 1, 0, 2)


def test_v_is_not_clamped():
    v = torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64)
    assert learned_variance(COSINE, v, 600, 300).item() > beta_stride(COSINE, 600, 300)


def test_a_step_takes_a_variance_for_every_pixel():
    x, eps, noise, v = (randn(2, 3, 4, 4, seed=n) for n in range(4))
    var = learned_variance(COSINE, v, 600, 300)
    mean = ddpm_step(COSINE, x, eps, 600, 300, torch.zeros_like(x), var)
    torch.testing.assert_close(ddpm_step(COSINE, x, eps, 600, 300, noise, var), mean + var.sqrt() * noise)
    fixed = ddpm_step(COSINE, x, eps, 600, 300, noise, beta_tilde)
    torch.testing.assert_close(
        ddpm_step(COSINE, x, eps, 600, 300, noise, learned_variance(COSINE, -torch.ones_like(v), 600, 300)),
        fixed,
    )


# ---- the loss ----


def test_l_vlb_is_the_divergence_of_two_gaussians():
    x_0, eps, v = randn(2, 3, 4, 4).clamp(-1, 1), randn(2, 3, 4, 4, seed=1), randn(2, 3, 4, 4, seed=2)
    guess = x_0 + 0.1 * randn(2, 3, 4, 4, seed=3)
    for t in (2, 300, 1000):
        x_t = q_sample(COSINE, x_0, t, eps)
        mean, var = posterior(COSINE, x_0, x_t, t, t - 1)
        mean_model, _ = posterior(COSINE, guess, x_t, t, t - 1)
        q = torch.distributions.Normal(mean, torch.full_like(mean, var**0.5))
        p = torch.distributions.Normal(mean_model, learned_variance(COSINE, v, t, t - 1).sqrt())
        want = torch.distributions.kl_divergence(q, p).mean(dim=(1, 2, 3)) / math.log(2)
        got = l_vlb(COSINE, x_0, x_t, torch.full((2,), t), eps_from_x0(COSINE, x_t, t, guess), v)
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


def test_the_divergence_is_zero_for_the_right_mean_and_the_lower_bound():
    x_0, eps = randn(2, 3, 4, 4).clamp(-1, 1), randn(2, 3, 4, 4, seed=1)
    t = torch.tensor([2, 700])
    got = l_vlb(COSINE, x_0, q_sample(COSINE, x_0, t, eps), t, eps, -torch.ones_like(x_0))
    torch.testing.assert_close(got, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-8)
    assert (l_vlb(COSINE, x_0, q_sample(COSINE, x_0, t, eps), t, eps, torch.ones_like(x_0)) >= 0).all()


def test_code_lengths_are_of_probabilities_that_sum_to_one():
    levels = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).view(1, 1, 16, 16)
    for mean, std in ((0.0, 0.02), (0.98, 0.01), (-1.3, 0.2)):
        nats = code_length(levels, torch.full_like(levels, mean), torch.full_like(levels, 2 * math.log(std)))
        assert (-nats).exp().sum().item() == pytest.approx(1, abs=1e-6)
    flat = code_length(levels, torch.zeros_like(levels), torch.full_like(levels, 2 * math.log(0.5)))
    centre = torch.distributions.Normal(0.0, 0.5).log_prob(levels) + math.log(2 / 255)
    torch.testing.assert_close(-flat[..., 4:12, :], centre[..., 4:12, :], rtol=1e-4, atol=1e-4)


def test_the_first_level_is_coded_not_diverged():
    x_0, eps, v = randn(1, 3, 4, 4).clamp(-1, 1), randn(1, 3, 4, 4, seed=1), randn(1, 3, 4, 4, seed=2)
    t = torch.tensor([1])
    x_t = q_sample(COSINE, x_0, t, eps)
    guess = eps_from_x0(COSINE, x_t, 1, x_0 * 0.9)
    nats = code_length(x_0, x_0 * 0.9, learned_variance(COSINE, v, 1, 0).log()).mean() / math.log(2)
    torch.testing.assert_close(l_vlb(COSINE, x_0, x_t, t, guess, v), nats[None], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_the_hybrid_loss_adds_the_bound_and_holds_the_mean(prediction):
    x_0, eps = randn(4, 3, 4, 4).clamp(-1, 1), randn(4, 3, 4, 4, seed=1)
    t = torch.tensor([1, 40, 500, 1000])
    out, v = randn(4, 3, 4, 4, seed=2).requires_grad_(True), randn(4, 3, 4, 4, seed=3).requires_grad_(True)
    total, vlb = l_hybrid(
        lambda x_t, t: torch.cat([out, v], dim=1), COSINE, x_0, t, eps, prediction, weight=0.01
    )
    simple = l_simple(lambda x_t, t: out, COSINE, x_0, t, eps, prediction)
    torch.testing.assert_close(total, simple + 0.01 * vlb)
    (of_total,) = torch.autograd.grad(total, out, retain_graph=True)
    torch.testing.assert_close(of_total, torch.autograd.grad(simple, out)[0])
    assert torch.autograd.grad(total, v)[0].abs().sum() > 0


def test_a_mean_that_is_let_go_would_take_another_gradient():
    """What the test above can see: without the hold, the bound pulls at the mean."""
    x_0, eps, v = randn(2, 3, 4, 4).clamp(-1, 1), randn(2, 3, 4, 4, seed=1), randn(2, 3, 4, 4, seed=3)
    t, out = torch.tensor([40, 500]), randn(2, 3, 4, 4, seed=2).requires_grad_(True)
    assert (
        torch.autograd.grad(l_vlb(COSINE, x_0, q_sample(COSINE, x_0, t, eps), t, out, v).sum(), out)[0]
        .abs()
        .sum()
        > 0
    )
