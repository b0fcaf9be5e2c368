"""samplers/ve_sde.py: levels, the loss with its sign, the steps, the walks, and VP = VE."""
import math
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from samplers import ve_sde
from samplers.convert import q_sample, score_from_eps, x0_from_eps
from samplers.ddim import ddim_step
from samplers.ddpm import beta_stride, ddpm_step
from samplers.noise import Rng
from samplers.schedule import Schedule
from samplers.ve_sde import (ancestral_step, em_step, flow_walk, g2, langevin_step, pc_walk, probability_flow_step,
                             reverse_diffusion_step, ve_eps, ve_loss, ve_score, ve_sigma, ve_sigmas)
from worlds.gaussian import GaussianWorld

X, Z, EPS = (Rng.of(seed, 3).randn((3, 2, 4, 4), torch.zeros(1, dtype=torch.float64)) for seed in (0, 10, 20))
MU, S, GUIDE, MAX = .3, .25, .9, 50                             # the Gaussian example: data N(.3, .25²), guide .9
exact = {"atol": 1e-12, "rtol": 1e-12}


def gaussian(*shape):
    return GaussianWorld({"": torch.full(shape, MU).double()}, S)


# ---- levels ----

def test_sigma_is_geometric_from_min_to_max():
    for top, middle in ((50, .70711), (378, 1.94422)):
        assert ve_sigma(0, .01, top) == .01 and ve_sigma(1, .01, top) == pytest.approx(top)
        assert ve_sigma(.5, .01, top) == pytest.approx((.01 * top) ** .5) == pytest.approx(middle, abs=5e-6)
    known = {.1: .0287, .2: .0823, .3: .236, .4: .678, .45: 1.148, .5: 1.944, .6: 5.578, .7: 16.0}
    for t, sigma in known.items():
        assert ve_sigma(t, .01, 378) == pytest.approx(sigma, rel=3e-3)
    t = torch.tensor([0., .5, 1.]).double()
    assert_close(ve_sigma(t, .01, 50), torch.tensor([.01, .5 ** .5, 50]).double())


def test_g2_is_the_derivative_of_sigma_squared():
    for t in (.05, .4, .95):
        slope = (ve_sigma(t + 1e-6, .01, MAX) ** 2 - ve_sigma(t - 1e-6, .01, MAX) ** 2) / 2e-6
        assert g2(t, .01, MAX) == pytest.approx(slope, rel=1e-7)


def test_euler_maruyama_and_exact_variance_differ_as_known():
    factor_em = g2(1, .01, MAX) / 1000 / MAX ** 2
    exact_drop = 1 - (ve_sigma(998 / 999, .01, MAX) / MAX) ** 2
    assert factor_em == pytest.approx(.017034, abs=1e-6) and exact_drop == pytest.approx(.016907, abs=1e-6)
    for n in (10 ** 4, 10 ** 6):
        drop = ve_sigma(.5, .01, MAX) ** 2 - ve_sigma(.5 - 1 / n, .01, MAX) ** 2
        assert drop * n == pytest.approx(g2(.5, .01, MAX), rel=20 / n)


def test_walk_levels_are_even_in_t_and_end_at_zero():
    levels = ve_sigmas(4, .5, sigma_max=MAX)
    assert levels == pytest.approx([ve_sigma(t, .01, MAX) for t in (.5, .375, .25, .125)] + [0])
    assert sum(a ** 2 - b ** 2 for a, b in pairwise(ve_sigmas(1000, sigma_max=MAX))) == pytest.approx(MAX ** 2)
    first, second = levels[:2]
    assert ve_sigmas(500, .45, sigma_max=378)[-2] == pytest.approx(.0101, abs=5e-5) and first > second


@pytest.mark.parametrize("steps, t0, low, high, name", [
    (0, .5, .01, 50, "steps"), (1.5, .5, .01, 50, "steps"), (True, .5, .01, 50, "steps"), (9, 0, .01, 50, "t0"),
    (9, 1.1, .01, 50, "t0"), (9, math.nan, .01, 50, "t0"), (9, "1", .01, 50, "t0"), (9, .5, 50, .01, "sigma_min"),
    (9, .5, 0, 50, "sigma_min")])
def test_bad_levels_are_refused(steps, t0, low, high, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        ve_sigmas(steps, t0, sigma_min=low, sigma_max=high)


# ---- the loss ----

SIGMA = torch.tensor([.01, 1., 50.]).double()


def test_loss_vanishes_at_the_true_score_and_not_at_the_printed_sign():
    """Data that is one point μ: score −(x − μ)/σ². The printed residual σs − z would be −2z: mean square 4."""
    z = Rng.of(0, 3).randn((3, 1, 100, 100), X)
    for sign, expected in ((-1, 0.), (1, 4.)):
        score = lambda x, sigma: sign * (x - MU) / sigma[:, None, None, None] ** 2
        assert ve_loss(score, torch.full_like(z, MU), SIGMA, z).item() == pytest.approx(expected, rel=.02, abs=1e-18)


def test_loss_is_equation_2_by_plain_loops_with_a_weight_per_picture():
    score = lambda x, sigma: torch.sin(x) / (1 + sigma[:, None, None, None])
    weight, each = torch.tensor([1., 2., 5.]).double(), []
    for n in range(3):
        s = SIGMA[n].item()
        each.append([(s * math.sin(x + s * z) / (1 + s) + z) ** 2
                     for x, z in zip(X[n].flatten().tolist(), Z[n].flatten().tolist())])
    means = torch.tensor(each).double().mean(1)
    assert_close(ve_loss(score, X, SIGMA, Z), means.mean(), **exact)
    assert_close(ve_loss(score, X, SIGMA, Z, weight), (weight * means).mean(), **exact)


def test_weight_g2_over_sigma2_is_the_likelihood_weighting():
    score = lambda x, sigma: torch.sin(x)
    level = SIGMA[:, None, None, None]
    g_squared = 2 * math.log(MAX / .01) * SIGMA ** 2
    direct = (g_squared[:, None, None, None] * (torch.sin(X + level * Z) + Z / level) ** 2).mean()
    assert_close(ve_loss(score, X, SIGMA, Z, g_squared / SIGMA ** 2), direct, **exact)


# ---- steps ----

def test_steps_on_one_point_of_data_are_known():
    sigma, lower = 2., 1.5
    score = -(X - MU) / sigma ** 2
    mean = MU + (lower / sigma) ** 2 * (X - MU)
    spread = (sigma ** 2 - lower ** 2) ** .5
    assert_close(reverse_diffusion_step(X, score, sigma, lower, Z), mean + spread * Z, **exact)
    assert_close(ancestral_step(X, score, sigma, lower, Z), mean + lower * spread / sigma * Z, **exact)
    assert_close(probability_flow_step(X, score, sigma, lower), MU + lower / sigma * (X - MU), **exact)
    for step in (reverse_diffusion_step, ancestral_step):
        assert_close(step(X, score, sigma, lower, None), mean, **exact)
        assert_close(step(X, score, sigma, 0., None), torch.full_like(X, MU), **exact)
    assert_close(ancestral_step(X, score, sigma, 0., Z), torch.full_like(X, MU), **exact)         # variance 0 at the end


def test_em_step_is_equation_1():
    t, dt = .6, .001
    var = 2 * math.log(MAX / .01) * (.01 * (MAX / .01) ** t) ** 2 * dt
    x = em_step(X, EPS, t, dt, Z, sigma_min=.01, sigma_max=MAX)
    assert_close(x, X + var * EPS + var ** .5 * Z, **exact)
    assert_close(em_step(X, EPS, t, dt, None, sigma_min=.01, sigma_max=MAX), X + var * EPS, **exact)


def test_em_step_tends_to_the_reverse_diffusion_step():
    gaps = []
    for dt in (1e-3, 1e-4):
        ends = ve_sigma(.6, .01, MAX), ve_sigma(.6 - dt, .01, MAX)
        gap = em_step(X, EPS, .6, dt, Z, sigma_min=.01, sigma_max=MAX) - reverse_diffusion_step(X, EPS, *ends, Z)
        gaps.append(gap.abs().max().item() / (reverse_diffusion_step(X, EPS, *ends, Z) - X).abs().max().item())
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=.1)


def test_probability_flow_is_half_the_official_step_to_first_order():
    ratios = [(probability_flow_step(X, EPS, 1., 1 - d) - X) / (.5 * (1 - (1 - d) ** 2) * EPS) for d in (.1, .01)]
    assert_close(ratios[0], torch.full_like(X, 1 / .95), **exact)
    assert_close(ratios[1], torch.full_like(X, 1 / .995), atol=1e-9, rtol=1e-9)


def test_langevin_step_is_its_equation_and_ignores_batch_mates():
    whole = langevin_step(X, EPS, Z, snr=.16)
    for n in range(3):
        norm_z, norm_s = (sum(v * v for v in a[n].flatten().tolist()) ** .5 for a in (Z, EPS))
        step = 2 * (.16 * norm_z / norm_s) ** 2
        assert_close(whole[n], X[n] + step * EPS[n] + (2 * step) ** .5 * Z[n], **exact)
        assert_close(langevin_step(X[n:n + 1], EPS[n:n + 1], Z[n:n + 1], snr=.16), whole[n:n + 1], **exact)


def test_langevin_steps_keep_the_oracle_at_its_level():
    world, rng, sigma = gaussian(1, 100, 200), Rng([0]), .5
    start = world.sample(rng.randn((1, 1, 100, 200), X)) + sigma * rng.randn((1, 1, 100, 200), X)
    x = start
    for _ in range(100):
        x = langevin_step(x, world.score(x, sigma), rng.randn(x.shape, x), snr=.1)
    assert x.mean().item() == pytest.approx(MU, abs=.02)
    assert x.var().item() == pytest.approx(S ** 2 + sigma ** 2, rel=.04)
    moved = ((x - MU) * (start - MU)).mean() / (S ** 2 + sigma ** 2)
    assert moved < .5                                             # and it did mix


# ---- walks on the oracle ----

def moments_of(step, levels, world):
    """Mean and variance of a linear walk from x ~ N(GUIDE, σ0²), exactly: each step is x → A x + B + N z."""
    zero, one = torch.zeros(1, 1, 1, 1).double(), torch.ones(1, 1, 1, 1).double()
    mean, var = GUIDE, levels[0] ** 2
    for sigma, lower in pairwise(levels):
        f = lambda x, z: step(x, world.score(x, sigma), sigma, lower, z if lower > 0 else None).item()
        bias = f(zero, zero)
        gain, noise = f(one, zero) - bias, f(zero, one) - bias
        mean, var = gain * mean + bias, gain ** 2 * var + noise ** 2
    return mean, var


SDEDIT = {.3: (.77425, .023453), .5: (.36667, .061728), .7: (.30248, .062499)}


@pytest.mark.parametrize("step", [reverse_diffusion_step, ancestral_step])
@pytest.mark.parametrize("t0", SDEDIT)
def test_walk_converges_to_the_closed_form_of_sdedit_at_first_order(t0, step):
    world, errors = gaussian(1, 1, 1), []
    for n in (100, 200, 400, 800):
        mean, var = moments_of(step, ve_sigmas(n, t0, sigma_max=MAX), world)
        errors.append((abs(mean - SDEDIT[t0][0]), abs(var - SDEDIT[t0][1])))
    closed = [m.item() for m in world.sdedit(torch.full((1, 1, 1, 1), GUIDE).double(), ve_sigma(t0, .01, MAX))]
    mean, var = moments_of(step, ve_sigmas(6400, t0, sigma_max=MAX), world)
    coarse_mean, coarse_var = moments_of(step, ve_sigmas(400, t0, sigma_max=MAX), world)
    assert abs(coarse_var - closed[1]) < .03 * closed[1]
    assert abs(mean - closed[0]) < abs(coarse_mean - closed[0]) + 1e-6
    assert abs(var - closed[1]) < .25 * abs(coarse_var - closed[1]) + 2e-4
