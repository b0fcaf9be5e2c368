"""worlds/gaussian.py: the closed forms, checked by autograd, sampling and quadrature rather than by each
other.
"""

import math
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.samplers.ve_sde import ve_sigma
from palimpsest.worlds.gaussian import GaussianWorld

CAT, DOG = torch.full((2, 3, 4), -0.5).double(), torch.linspace(-1, 1, 24).double().view(2, 3, 4)
WORLD = GaussianWorld({"cat": CAT, "dog": DOG}, 0.5)
X = Rng.of(0, 3).randn((3, 2, 3, 4), CAT)


@pytest.mark.parametrize("prompt", ["cat", "dog", ""])
def test_eps_and_score_are_gradients_of_the_noised_density(prompt):
    mu, var = WORLD.moments(prompt, X)
    for abar in (0.999, 0.3, 1e-6):
        x = X.clone().requires_grad_()
        log_p = torch.distributions.Normal(abar**0.5 * mu, (abar * var + 1 - abar).sqrt()).log_prob(x).sum()
        (gradient,) = torch.autograd.grad(log_p, x)
        assert_close(WORLD.eps(X, abar, prompt), -((1 - abar) ** 0.5) * gradient)
    for sigma in (0.0, 0.3, 40.0):
        x = X.clone().requires_grad_()
        log_p = torch.distributions.Normal(mu, (var + sigma**2).sqrt()).log_prob(x).sum()
        assert_close(WORLD.score(X, sigma, prompt), torch.autograd.grad(log_p, x)[0])


def test_eps_is_the_expectation_of_the_noise_given_the_state():
    """E[ε | x_t] by quadrature over ε for one pixel."""
    abar, x_t = 0.6, 1.3
    eps = torch.linspace(-9, 9, 20001, dtype=torch.float64)
    x_0 = (x_t - (1 - abar) ** 0.5 * eps) / abar**0.5
    weight = torch.exp(-(eps**2) / 2 - (x_0 + 0.5) ** 2 / (2 * 0.25))
    expected = (weight * eps).sum() / weight.sum()
    assert WORLD.eps(torch.full((1, 2, 3, 4), x_t, dtype=torch.float64), abar, "cat")[
        0, 0, 0, 0
    ].item() == pytest.approx(expected.item(), rel=1e-9)


def test_limits_of_eps():
    assert_close(WORLD.eps(X, 1.0, "cat"), torch.zeros_like(X))  # clean: no noise to see
    assert_close(WORLD.eps(X, 1e-16, "cat"), X, atol=1e-7, rtol=0)  # pure noise: all of it


def test_samples_have_the_moments_of_the_prompt():
    z = Rng.of(0, 4000).randn((4000, 2, 3, 4), CAT)
    x = WORLD.sample(z, "dog")
    assert_close(x.mean(0), DOG, atol=0.04, rtol=0)
    assert_close(x.std(0), torch.full_like(DOG, 0.5), atol=0.03, rtol=0)


def test_the_empty_prompt_has_the_moments_of_the_even_mixture():
    z = Rng.of(0, 4000).randn((4000, 2, 3, 4), CAT)
    mixture = torch.cat([WORLD.sample(z[:2000], "cat"), WORLD.sample(z[2000:], "dog")])
    mu, var = WORLD.moments("", X[:1])
    assert_close(mixture.mean(0), mu[0], atol=0.06, rtol=0)
    assert_close(mixture.var(0, correction=0), var[0], atol=0.06, rtol=0)
    assert_close(var[0], 0.25 + (CAT - DOG) ** 2 / 4)
    own = GaussianWorld({"cat": CAT, "": DOG}, {"cat": 0.3, "": 1.0})  # given, it is what was given
    assert_close(own.moments("", X[:1]), (DOG[None], torch.ones_like(X[:1])))


def test_prompts_may_differ_per_picture_and_contexts_say_the_same():
    prompts = ["cat", "", "dog"]
    mixed = WORLD.eps(X, 0.4, prompts)
    for n, p in enumerate(prompts):
        assert_close(mixed[n : n + 1], WORLD.eps(X[n : n + 1], 0.4, p))
    ctx = WORLD.embed(prompts)
    assert ctx.shape == (3, 1, 3)
    assert_close(
        WORLD.text_denoiser(Schedule.linear())(X, 300, ctx),
        WORLD.denoiser(prompts, Schedule.linear())(X, 300),
    )
    assert_close(
        WORLD.denoiser("dog", Schedule.linear())(X, 300), WORLD.eps(X, Schedule.linear().at(300), "dog")
    )


def test_contexts_are_differentiable():
    ctx = WORLD.embed("").requires_grad_()
    WORLD.eps(X, 0.4, ctx).square().sum().backward()
    assert ctx.grad.abs().min() > 0


@pytest.mark.parametrize("prompt", ["dog", ""])
def test_flow_solves_the_probability_flow_ode(prompt):
    """In σ the flow is dx/dσ = −σ score; a central difference of the map must show it, in VE and in VP
    units.
    """
    sigma, h = 0.8, 1e-5
    slope = (WORLD.ve_flow(X, sigma, sigma + h, prompt) - WORLD.ve_flow(X, sigma, sigma - h, prompt)) / (
        2 * h
    )
    assert_close(slope, -sigma * WORLD.score(X, sigma, prompt), atol=1e-8, rtol=1e-8)
    a_t, a_s = 0.3, 0.9
    sigma_t, sigma_s = (((1 - a) / a) ** 0.5 for a in (a_t, a_s))
    assert_close(
        WORLD.flow(X, a_t, a_s, prompt), a_s**0.5 * WORLD.ve_flow(X / a_t**0.5, sigma_t, sigma_s, prompt)
    )
    assert_close(WORLD.flow(WORLD.flow(X, a_t, a_s, prompt), a_s, a_t, prompt), X)


def test_flow_carries_the_noised_marginal_to_the_data():
    z = Rng.of(0, 2000).randn((2000, 2, 3, 4), CAT)
    x = WORLD.flow(0.3**0.5 * DOG + (0.3 * 0.25 + 0.7) ** 0.5 * z, 0.3, 1.0, "dog")
    assert_close(x, WORLD.sample(z, "dog"))


def test_ddim_closed_form_is_the_recursion_and_tends_to_the_flow():
    abars = [0.1, 0.35, 0.8, 1.0]
    x = X
    for a, b in pairwise(abars):
        eps = WORLD.eps(x, a, "dog")
        x = b**0.5 * (x - (1 - a) ** 0.5 * eps) / a**0.5 + (1 - b) ** 0.5 * eps
    assert_close(WORLD.ddim(X, abars, "dog"), x)
    sched = Schedule.cosine(4000)
    fine = WORLD.ddim(X, [sched.at(t) for t in range(3600, -1, -1)], "dog")
    assert_close(fine, WORLD.flow(X, sched.at(3600), 1.0, "dog"), atol=5e-3, rtol=0)
    unit = GaussianWorld({"": torch.zeros(2, 3, 4).double()}, 1.0)  # s = 1: a step turns by φ − φ'
    angle = math.acos(0.1**0.5) - math.acos(0.35**0.5)
    assert_close(unit.ddim(X, [0.1, 0.35]), math.cos(angle) * X)


# ---- SDEdit ----

EXAMPLE, GUIDE = (
    GaussianWorld({"": torch.full((1, 1, 1), 0.3).double()}, 0.25),
    torch.full((1, 1, 1, 1), 0.9).double(),
)


@pytest.mark.parametrize(
    "t0, mean, var", [(0.3, 0.77425, 0.023453), (0.5, 0.36667, 0.061728), (0.7, 0.30248, 0.062499)]
)
def test_sdedit_has_the_known_moments(t0, mean, var):
    sigma = ve_sigma(t0, 0.01, 50)
    got_mean, got_var = (m.item() for m in EXAMPLE.sdedit(GUIDE, sigma))
    assert got_mean == pytest.approx(mean, abs=5e-6) and got_var == pytest.approx(var, abs=5e-7)
    s2, q = 0.0625, sigma**2
    assert got_var == pytest.approx(s2 * q * (2 * s2 + q) / (s2 + q) ** 2, rel=1e-12)


def test_sdedit_moments_are_those_of_noising_and_exact_posterior_draws():
    """x = guide + σ z; then x_0 | x by Bayes, reweighting a dense grid of x_0."""
    sigma, grid = 0.4, torch.linspace(-2, 3, 5001).double()
    prior = torch.exp(-((grid - 0.3) ** 2) / (2 * 0.0625))
    z = torch.linspace(-6, 6, 801).double()
    given = prior * torch.exp(-((0.9 + sigma * z[:, None] - grid) ** 2) / (2 * sigma**2))
    given = given / given.sum(1, keepdim=True)
    density = torch.exp(-(z**2) / 2) @ given / torch.exp(-(z**2) / 2).sum()  # of the output, on the grid
    mean = (density * grid).sum()
    got_mean, got_var = (m.item() for m in EXAMPLE.sdedit(GUIDE, sigma))
    assert got_mean == pytest.approx(mean.item(), abs=1e-7)
    assert got_var == pytest.approx((density * (grid - mean) ** 2).sum().item(), rel=1e-6)


def test_sdedit_keeps_the_guide_at_0_and_forgets_it_at_large_sigma():
    mean, var = EXAMPLE.sdedit(GUIDE, 0.0)
    assert torch.equal(mean, GUIDE) and var.item() == 0
    mean, var = EXAMPLE.sdedit(GUIDE, 50.0)
    assert mean.item() == pytest.approx(0.3, abs=2e-5) and var.item() == pytest.approx(0.0625, rel=1e-4)
    gap = EXAMPLE.sdedit(GUIDE + 1, 2.0)[0] - EXAMPLE.sdedit(GUIDE, 2.0)[0]
    assert gap.item() == pytest.approx(0.0625 / (0.0625 + 4))  # a guide moved by 1 moves the mean by k


def test_distance_to_the_guide_grows_with_t0_and_bisection_finds_it():
    def distance(t0):
        mean, var = EXAMPLE.sdedit(GUIDE, ve_sigma(t0, 0.01, 50))
        return ((mean - GUIDE) ** 2 + var).item()

    distances = [distance(0.01 + 0.99 * n / 200) for n in range(201)]
    assert all(a < b for a, b in pairwise(distances))
    assert distances[0] == pytest.approx(2.38e-4, rel=5e-3) and distances[-1] == pytest.approx(
        0.4225, abs=1e-4
    )
    low, high, target = 0.01, 1.0, distance(0.437)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if distance(middle) < target else (low, middle)
    assert low == pytest.approx(0.437, abs=1e-8)


# ---- manners ----


def test_dtype_follows_the_pictures():
    for dtype in (torch.float32, torch.float64):
        x = X.to(dtype)
        for y in (
            WORLD.eps(x, 0.4, "cat"),
            WORLD.score(x, 0.4),
            WORLD.sample(x),
            WORLD.ddim(x, [0.4, 0.5]),
            WORLD.sdedit(x, 0.4)[1],
        ):
            assert y.dtype == dtype and y.shape == x.shape


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="unknown prompt 'cow': this world knows"):
        WORLD.eps(X, 0.4, "cow")
    for means in ({}, {"a": CAT, "b": CAT[:1]}):
        with pytest.raises(ValueError, match="^means: must"):
            GaussianWorld(means, 0.5)
    for std in (0.0, -1.0, math.nan, {"cat": 0.5}, {"cat": 0.5, "dog": 0.0}):
        with pytest.raises(ValueError, match="^std: must"):
            GaussianWorld({"cat": CAT, "dog": DOG}, std)


def test_the_world_knows_no_sampler():
    import ast
    import inspect

    import palimpsest.worlds.gaussian

    tree = ast.parse(inspect.getsource(palimpsest.worlds.gaussian))
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert not [
        m for m in imported if m.split(".")[0] in ("samplers", "nets", "metrics", "training", "weights")
    ]
