"""Guidance by a gradient: classifier (6) and CLIP (8), at x_t or at the mean, as a shift of the mean and
as a noise.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from palimpsest.samplers.ddim import ddim_step, sample
from palimpsest.samplers.ddpm import beta_stride, beta_tilde, ddpm_step
from palimpsest.samplers.guidance import classifier_guidance, clip_guidance, guided
from palimpsest.samplers.respacing import respaced
from palimpsest.samplers.schedule import Schedule

COSINE = Schedule.cosine()


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_linear_log_probability_shifts_the_mean_by_sigma_c():
    x, eps, c = (randn(2, 3, 4, 4, seed=n) for n in range(3))
    g = classifier_guidance(lambda x, t: (c * x).sum(dim=(1, 2, 3)), 1.0)
    for t, s in ((800, 790), (40, 0)):
        noise = randn(2, 3, 4, 4, seed=5)
        for variance, number in (
            (beta_tilde, beta_tilde(COSINE, t, s)),
            (beta_stride, beta_stride(COSINE, t, s)),
        ):
            moved = ddpm_step(COSINE, x, eps, t, s, noise, variance, gradient=lambda mu, s=s: g(mu, s))
            torch.testing.assert_close(
                moved - ddpm_step(COSINE, x, eps, t, s, noise, variance), number * c, rtol=1e-9, atol=1e-12
            )


def test_scale_zero_changes_nothing():
    x, eps = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1)
    g = classifier_guidance(lambda x, t: x.square().sum(dim=(1, 2, 3)), 0.0)
    assert torch.equal(guided(lambda x, t: eps, COSINE, g)(x, 500), eps)


@pytest.mark.parametrize("s", [math.nan, math.inf])
def test_a_scale_that_is_no_number_is_refused(s):
    with pytest.raises(ValueError, match="s: "):
        classifier_guidance(lambda x, t: x.sum(dim=(1, 2, 3)), s)
    with pytest.raises(ValueError, match="s: "):
        clip_guidance(lambda x, t: x.flatten(1), randn(1, 48), s)


def test_the_gradient_of_a_batch_is_that_of_each_picture():
    x, labels = randn(3, 2, 4, 4), torch.tensor([0, 2, 1])
    head = randn(4, 2 * 4 * 4, seed=3)

    def log_p(rows):
        return lambda x, t: F.log_softmax((x.flatten(1) ** 2) @ head.T, dim=1)[torch.arange(len(x)), rows]

    together = classifier_guidance(log_p(labels), 2.0)(x, 300)
    for i in range(3):
        torch.testing.assert_close(
            together[i : i + 1], classifier_guidance(log_p(labels[i : i + 1]), 2.0)(x[i : i + 1], 300)
        )


def test_where_the_gradient_is_taken_matters_and_is_the_callers():
    x, eps, noise = (randn(1, 1, 4, 4, seed=n) for n in range(3))
    g = classifier_guidance(lambda x, t: -(x**4).sum(dim=(1, 2, 3)), 1.0)
    plain = ddpm_step(COSINE, x, eps, 900, 600, noise)
    mean = ddpm_step(COSINE, x, eps, 900, 600, torch.zeros_like(x))
    at_mean = ddpm_step(COSINE, x, eps, 900, 600, noise, gradient=lambda mu: g(mu, 600))
    at_x_t = ddpm_step(COSINE, x, eps, 900, 600, noise, gradient=lambda mu: g(x, 900))
    torch.testing.assert_close(at_mean - plain, beta_tilde(COSINE, 900, 600) * -4 * mean**3)
    torch.testing.assert_close(at_x_t - plain, beta_tilde(COSINE, 900, 600) * -4 * x**3)


def test_as_a_noise_guidance_moves_an_ancestral_mean_by_beta_over_root_alpha():
    """The published literal: .034771 at index 50 of the cosine schedule respaced to 100."""
    x, eps, c = (randn(1, 3, 4, 4, seed=n) for n in range(3))
    times = respaced(COSINE.T, "100")[::-1]
    t, s = times[51], times[50]
    zero = torch.zeros_like(x)
    denoise = guided(lambda x, t: eps, COSINE, lambda x, t: c)
    shift = ddpm_step(COSINE, x, denoise(x, t), t, s, zero) - ddpm_step(COSINE, x, eps, t, s, zero)
    beta = beta_stride(COSINE, t, s)
    torch.testing.assert_close(shift, beta / (1 - beta) ** 0.5 * c, rtol=1e-9, atol=1e-12)
    assert beta / (1 - beta) ** 0.5 == pytest.approx(0.034771, abs=1e-6)


def test_a_guided_ddim_step_moves_x0_and_stays_deterministic():
    x, eps, c = (randn(1, 3, 4, 4, seed=n) for n in range(3))
    denoise = guided(lambda x, t: eps, COSINE, lambda x, t: c)
    moved = ddim_step(COSINE, x, denoise(x, 500), 500, 0) - ddim_step(COSINE, x, eps, 500, 0)
    a = COSINE.at(500)
    torch.testing.assert_close(moved, (1 - a) / a**0.5 * c)  # x̂_0 moves by σ² √ᾱ g
    assert torch.equal(*(sample(denoise, COSINE, x, [900, 400, 0])[-1] for _ in range(2)))


def test_with_scale_one_bayes_rule_comes_out():
    """Two Gaussian classes in one dimension; the unconditional score plus the classifier's gradient is
    the conditional score.
    """
    mus, t = torch.tensor([-0.8, 0.6], dtype=torch.float64), 400
    a = COSINE.at(t)
    var = a * 0.05 + 1 - a  # of each class at time t

    def log_joint(x):
        return (
            torch.stack([-((x - a**0.5 * mu) ** 2) / (2 * var) for mu in mus]).flatten(2).sum(2)
        )  # (2 b), up to a constant

    def score(x, of):
        x = x.detach().requires_grad_(True)
        return torch.autograd.grad(of(log_joint(x)).sum(), x)[0]

    x = randn(5, 1, 1, 1)
    uncond = lambda x, t: -((1 - a) ** 0.5) * score(x, lambda l: l.logsumexp(0))  # noqa: E731
    g = classifier_guidance(lambda x, t: F.log_softmax(log_joint(x), dim=0)[1], 1.0)
    torch.testing.assert_close(guided(uncond, COSINE, g)(x, t), -((1 - a) ** 0.5) * score(x, lambda l: l[1]))


def test_clip_guidance_is_the_gradient_of_the_logit():
    x, text = randn(3, 3, 4, 4), F.normalize(randn(3, 6, seed=1), dim=1)
    w = randn(6, 48, seed=2)
    encode = lambda x, t: F.normalize(torch.tanh(x.flatten(1) @ w.T + t / 1000), dim=1)  # noqa: E731
    got, h = clip_guidance(encode, text, 0.5, scale=20.0)(x, 700), 1e-6
    logit = lambda x: 20 * (encode(x, 700) * text).sum(dim=1)  # noqa: E731
    for i, j in ((0, 5), (1, 17), (2, 40)):
        nudge = torch.zeros_like(x).flatten(1)
        nudge[i, j] = h
        slope = (logit(x + nudge.view_as(x)) - logit(x - nudge.view_as(x)))[i] / (2 * h)
        assert got.flatten(1)[i, j].item() == pytest.approx(0.5 * slope.item(), rel=1e-5, abs=1e-8)
    torch.testing.assert_close(
        clip_guidance(encode, text[:1], 0.5)(x[:1], 700), clip_guidance(encode, text, 0.5)(x, 700)[:1]
    )


def test_no_gradient_is_left_behind():
    x = randn(1, 3, 4, 4)
    weight = torch.nn.Parameter(randn(48))
    with torch.no_grad():
        out = classifier_guidance(lambda x, t: x.flatten(1) @ weight, 1.0)(x, 1)
    assert not out.requires_grad and weight.grad is None and not x.requires_grad
