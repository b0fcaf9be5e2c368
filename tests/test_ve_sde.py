"""samplers/ve_sde.py: levels, the loss with its sign, the steps, the walks, and VP = VE."""

import math
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from palimpsest.samplers.convert import q_sample, score_from_eps, x0_from_eps
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.ddpm import beta_stride, ddpm_step
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.samplers.ve_sde import (
    ancestral_step,
    em_step,
    g2,
    langevin_step,
    pc_walk,
    probability_flow_step,
    probability_flow_walk,
    reverse_diffusion_step,
    ve_eps,
    ve_loss,
    ve_score,
    ve_sigma,
    ve_sigmas,
)
from palimpsest.worlds.gaussian import GaussianWorld

X, Z, EPS = (Rng.of(seed, 3).randn((3, 2, 4, 4), torch.zeros(1, dtype=torch.float64)) for seed in (0, 10, 20))
MU, S, GUIDE, MAX = 0.3, 0.25, 0.9, 50  # the Gaussian example: data N(.3, .25²), guide .9
exact = {"atol": 1e-12, "rtol": 1e-12}


def gaussian(*shape):
    return GaussianWorld({"": torch.full(shape, MU, dtype=torch.float64)}, S)


# ---- levels ----


def test_sigma_is_geometric_from_min_to_max():
    for top, middle in ((50, 0.70711), (378, 1.94422)):
        assert ve_sigma(0, 0.01, top) == 0.01 and ve_sigma(1, 0.01, top) == pytest.approx(top)
        assert (
            ve_sigma(0.5, 0.01, top) == pytest.approx((0.01 * top) ** 0.5) == pytest.approx(middle, abs=5e-6)
        )
    known = {0.1: 0.0287, 0.2: 0.0823, 0.3: 0.236, 0.4: 0.678, 0.45: 1.148, 0.5: 1.944, 0.6: 5.578, 0.7: 16.0}
    for t, sigma in known.items():
        assert ve_sigma(t, 0.01, 378) == pytest.approx(sigma, rel=3e-3)
    t = torch.tensor([0.0, 0.5, 1.0]).double()
    assert_close(ve_sigma(t, 0.01, 50), torch.tensor([0.01, 0.5**0.5, 50]).double())


def test_g2_is_the_derivative_of_sigma_squared():
    for t in (0.05, 0.4, 0.95):
        slope = (ve_sigma(t + 1e-6, 0.01, MAX) ** 2 - ve_sigma(t - 1e-6, 0.01, MAX) ** 2) / 2e-6
        assert g2(t, 0.01, MAX) == pytest.approx(slope, rel=1e-7)


def test_euler_maruyama_and_exact_variance_differ_as_known():
    factor_em = g2(1, 0.01, MAX) / 1000 / MAX**2
    exact_drop = 1 - (ve_sigma(998 / 999, 0.01, MAX) / MAX) ** 2
    assert factor_em == pytest.approx(0.017034, abs=1e-6) and exact_drop == pytest.approx(0.016907, abs=1e-6)
    for n in (10**4, 10**6):
        drop = ve_sigma(0.5, 0.01, MAX) ** 2 - ve_sigma(0.5 - 1 / n, 0.01, MAX) ** 2
        assert drop * n == pytest.approx(g2(0.5, 0.01, MAX), rel=20 / n)


def test_walk_levels_are_even_in_t_and_end_at_zero():
    levels = ve_sigmas(4, 0.5, sigma_max=MAX)
    assert levels == pytest.approx([ve_sigma(t, 0.01, MAX) for t in (0.5, 0.375, 0.25, 0.125)] + [0])
    assert sum(a**2 - b**2 for a, b in pairwise(ve_sigmas(1000, sigma_max=MAX))) == pytest.approx(MAX**2)
    first, second = levels[:2]
    assert ve_sigmas(500, 0.45, sigma_max=378)[-2] == pytest.approx(0.0101, abs=5e-5) and first > second


@pytest.mark.parametrize(
    "steps, t0, low, high, name",
    [
        (0, 0.5, 0.01, 50, "steps"),
        (1.5, 0.5, 0.01, 50, "steps"),
        (True, 0.5, 0.01, 50, "steps"),
        (9, 0, 0.01, 50, "t0"),
        (9, 1.1, 0.01, 50, "t0"),
        (9, math.nan, 0.01, 50, "t0"),
        (9, "1", 0.01, 50, "t0"),
        (9, 0.5, 50, 0.01, "sigma_min"),
        (9, 0.5, 0, 50, "sigma_min"),
    ],
)
def test_bad_levels_are_refused(steps, t0, low, high, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        ve_sigmas(steps, t0, sigma_min=low, sigma_max=high)


# ---- the loss ----

SIGMA = torch.tensor([0.01, 1.0, 50.0]).double()


def test_loss_vanishes_at_the_true_score_and_not_at_the_printed_sign():
    """Data that is one point μ: score −(x − μ)/σ². The printed residual σs − z would be −2z: mean square
    4.
    """
    z = Rng.of(0, 3).randn((3, 1, 100, 100), X)
    for sign, expected in ((-1, 0.0), (1, 4.0)):
        score = lambda x, sigma, sign=sign: sign * (x - MU) / sigma[:, None, None, None] ** 2
        assert ve_loss(score, torch.full_like(z, MU), SIGMA, z).item() == pytest.approx(
            expected, rel=0.02, abs=1e-18
        )


def test_loss_is_equation_2_by_plain_loops_with_a_weight_per_picture():
    score = lambda x, sigma: torch.sin(x) / (1 + sigma[:, None, None, None])
    weight, each = torch.tensor([1.0, 2.0, 5.0]).double(), []
    for n in range(3):
        s = SIGMA[n].item()
        each.append(
            [
                (s * math.sin(x + s * z) / (1 + s) + z) ** 2
                for x, z in zip(X[n].flatten().tolist(), Z[n].flatten().tolist())
            ]
        )
    means = torch.tensor(each, dtype=torch.float64).mean(1)
    assert_close(ve_loss(score, X, SIGMA, Z), means.mean(), **exact)
    assert_close(ve_loss(score, X, SIGMA, Z, weight), (weight * means).mean(), **exact)


def test_weight_g2_over_sigma2_is_the_likelihood_weighting():
    score = lambda x, sigma: torch.sin(x)
    level = SIGMA[:, None, None, None]
    g_squared = 2 * math.log(MAX / 0.01) * SIGMA**2
    direct = (g_squared[:, None, None, None] * (torch.sin(X + level * Z) + Z / level) ** 2).mean()
    assert_close(ve_loss(score, X, SIGMA, Z, g_squared / SIGMA**2), direct, **exact)


# ---- steps ----


def test_steps_on_one_point_of_data_are_known():
    sigma, lower = 2.0, 1.5
    score = -(X - MU) / sigma**2
    mean = MU + (lower / sigma) ** 2 * (X - MU)
    spread = (sigma**2 - lower**2) ** 0.5
    assert_close(reverse_diffusion_step(X, score, sigma, lower, Z), mean + spread * Z, **exact)
    assert_close(ancestral_step(X, score, sigma, lower, Z), mean + lower * spread / sigma * Z, **exact)
    assert_close(probability_flow_step(X, score, sigma, lower), MU + lower / sigma * (X - MU), **exact)
    for step in (reverse_diffusion_step, ancestral_step):
        assert_close(step(X, score, sigma, lower, None), mean, **exact)
        assert_close(step(X, score, sigma, 0.0, None), torch.full_like(X, MU), **exact)
    assert_close(
        ancestral_step(X, score, sigma, 0.0, Z), torch.full_like(X, MU), **exact
    )  # variance 0 at the end


def test_em_step_is_equation_1():
    t, dt = 0.6, 0.001
    var = 2 * math.log(MAX / 0.01) * (0.01 * (MAX / 0.01) ** t) ** 2 * dt
    x = em_step(X, EPS, t, dt, Z, sigma_min=0.01, sigma_max=MAX)
    assert_close(x, X + var * EPS + var**0.5 * Z, **exact)
    assert_close(em_step(X, EPS, t, dt, None, sigma_min=0.01, sigma_max=MAX), X + var * EPS, **exact)


def test_em_step_tends_to_the_reverse_diffusion_step():
    gaps = []
    for dt in (1e-3, 1e-4):
        ends = ve_sigma(0.6, 0.01, MAX), ve_sigma(0.6 - dt, 0.01, MAX)
        moved, exactly = (
            x - X
            for x in (
                em_step(X, EPS, 0.6, dt, None, sigma_min=0.01, sigma_max=MAX),
                reverse_diffusion_step(X, EPS, *ends, None),
            )
        )
        gaps.append((moved / exactly - 1).mean().item())
    assert gaps[0] == pytest.approx(math.log(MAX / 0.01) * 1e-3, rel=0.02)
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.02)


def test_probability_flow_is_half_the_official_step_to_first_order():
    ratios = [
        (probability_flow_step(X, EPS, 1.0, 1 - d) - X) / (0.5 * (1 - (1 - d) ** 2) * EPS)
        for d in (0.1, 0.01)
    ]
    assert_close(ratios[0], torch.full_like(X, 1 / 0.95), **exact)
    assert_close(ratios[1], torch.full_like(X, 1 / 0.995), atol=1e-9, rtol=1e-9)


def test_langevin_step_is_its_equation_and_ignores_batch_mates():
    whole = langevin_step(X, EPS, Z, snr=0.16)
    for n in range(3):
        norm_z, norm_s = (sum(v * v for v in a[n].flatten().tolist()) ** 0.5 for a in (Z, EPS))
        step = 2 * (0.16 * norm_z / norm_s) ** 2
        assert_close(whole[n], X[n] + step * EPS[n] + (2 * step) ** 0.5 * Z[n], **exact)
        assert_close(
            langevin_step(X[n : n + 1], EPS[n : n + 1], Z[n : n + 1], snr=0.16), whole[n : n + 1], **exact
        )


def test_langevin_steps_keep_the_oracle_at_its_level():
    world, rng, sigma = gaussian(1, 100, 200), Rng([0]), 0.5
    start = world.sample(rng.randn((1, 1, 100, 200), X)) + sigma * rng.randn((1, 1, 100, 200), X)
    x = start
    for _ in range(100):
        x = langevin_step(x, world.score(x, sigma), rng.randn(x.shape, x), snr=0.1)
    assert x.mean().item() == pytest.approx(MU, abs=0.02)
    assert x.var().item() == pytest.approx(S**2 + sigma**2, rel=0.04)
    moved = ((x - MU) * (start - MU)).mean() / (S**2 + sigma**2)
    assert moved < 0.5  # and it did mix


# ---- walks on the oracle ----


def moments_of(step, levels, world):
    """Mean and variance of a linear walk from x ~ N(GUIDE, σ_0²), exactly: each step is x → A x + B + N z."""
    x, z = (torch.tensor(v).double().view(3, 1, 1, 1) for v in ([0, 1, 0], [0, 0, 1]))
    mean, var = GUIDE, levels[0] ** 2
    for sigma, lower in pairwise(levels):
        b, a_b, n_b = (
            step(x, world.score(x, sigma), sigma, lower, z if lower > 0 else None).flatten().tolist()
        )
        mean, var = (a_b - b) * mean + b, (a_b - b) ** 2 * var + (n_b - b) ** 2
    return mean, var


SDEDIT = {0.3: (0.77425, 0.023453), 0.5: (0.36667, 0.061728), 0.7: (0.30248, 0.062499)}


def test_euler_ancestrals_published_split_of_a_level():
    sigma, lower = 14.6146, 13.7525  # the first two of Stable Diffusion's hundred levels
    noise = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    up = ancestral_step(0 * noise, 0 * noise, sigma, lower, noise).item()
    down = ancestral_step(sigma * noise, -noise / sigma, sigma, lower, None).item()
    assert (up, down) == pytest.approx((4.6535, 12.9413), abs=1e-4) and up**2 + down**2 == pytest.approx(
        lower**2, rel=1e-9
    )


@pytest.mark.parametrize("step", [reverse_diffusion_step, ancestral_step])
@pytest.mark.parametrize("t0", SDEDIT)
def test_walk_has_sdedits_mean_exactly_and_its_variance_to_first_order(t0, step):
    world, errors = gaussian(1, 1, 1), []
    for n in (100, 200, 400):
        levels = ve_sigmas(n, t0, sigma_max=MAX)
        mean, var = moments_of(step, levels, world)
        assert mean == pytest.approx(SDEDIT[t0][0], abs=5e-6)
        assert var == pytest.approx(SDEDIT[t0][1], rel=0.017 if n == 400 else 0.1)
        last = levels[-2]  # its spread is what the final mean leaves out
        errors.append(abs(var - SDEDIT[t0][1] + S**2 * last**2 / (S**2 + last**2)) - 2e-6)
    for coarse, fine in pairwise(errors):
        assert 1.7 < coarse / fine < 2.3


def test_pc_walk_draws_sdedits_distribution():
    world, rng, levels = gaussian(1, 200, 250), Rng([0]), ve_sigmas(400, 0.5, sigma_max=MAX)
    x = GUIDE + levels[0] * rng.randn((1, 1, 200, 250))
    x_0 = pc_walk(world.score, x, levels, rng)
    assert x_0.mean().item() == pytest.approx(SDEDIT[0.5][0], abs=0.004)
    assert x_0.var().item() == pytest.approx(SDEDIT[0.5][1], rel=0.02)


def test_euler_maruyama_draws_sdedits_distribution():
    world, rng, n, t0 = gaussian(1, 100, 200), Rng([0]), 200, 0.5
    x = GUIDE + ve_sigma(t0, 0.01, MAX) * rng.randn((1, 1, 100, 200))
    for i in range(n, 0, -1):
        t = t0 * i / n
        x = em_step(
            x,
            world.score(x, ve_sigma(t, 0.01, MAX)),
            t,
            t0 / n,
            rng.randn(x.shape, x),
            sigma_min=0.01,
            sigma_max=MAX,
        )
    assert x.mean().item() == pytest.approx(SDEDIT[0.5][0], abs=0.01)
    assert x.var().item() == pytest.approx(SDEDIT[0.5][1], rel=0.05)


def test_pc_walk_corrects_first_and_the_last_step_returns_the_mean():
    levels, seen = [2.0, 1.0, 0.0], []

    def score(x, sigma):
        seen.append(sigma)
        return -x / (1 + sigma**2)

    got = pc_walk(score, X, levels, Rng.of(5, 3), predictor=ancestral_step, corrections=2, snr=0.1)
    assert seen == [2.0] * 3 + [1.0] * 3
    rng, x = Rng.of(5, 3), X
    for sigma, lower in pairwise(levels):
        for _ in range(2):
            x = langevin_step(x, score(x, sigma), rng.randn(x.shape, x), 0.1)
        x = ancestral_step(x, score(x, sigma), sigma, lower, rng.randn(x.shape, x) if lower else None)
    assert_close(got, x, atol=0, rtol=0)


def test_correctors_mend_a_coarse_predictor():
    world, levels = gaussian(1, 100, 200), ve_sigmas(15, sigma_max=MAX)
    x, error = MAX * Rng([0]).randn((1, 1, 100, 200)), {}
    for corrections in (0, 3):
        x_0 = pc_walk(world.score, x, levels, Rng([1]), corrections=corrections, snr=0.16)
        error[corrections] = abs(x_0.std().item() - S)
    assert error[3] < 0.5 * error[0]


def test_a_picture_walks_the_same_alone_and_in_a_batch():
    world, levels = gaussian(2, 4, 4), ve_sigmas(10, 0.6, sigma_max=MAX)
    whole = pc_walk(world.score, X, levels, Rng.of(3, 3), corrections=1)
    assert_close(pc_walk(world.score, X[1:2], levels, Rng([4]), corrections=1), whole[1:2], **exact)


def test_flow_walk_converges_to_the_flow_at_first_order():
    world, errors = gaussian(2, 4, 4), []
    for n in (100, 200, 400):
        levels = ve_sigmas(n, 0.6, sigma_max=MAX)
        truth = world.ve_flow(X, levels[0], 0.0)
        assert_close(truth, MU + (X - MU) * S / (S**2 + levels[0] ** 2) ** 0.5, **exact)
        errors.append((probability_flow_walk(world.score, X, levels) - truth).abs().max().item())
    for coarse, fine in pairwise(errors):
        assert 1.7 < coarse / fine < 2.3


def test_flow_walk_upward_encodes():
    world, levels = gaussian(2, 4, 4), ve_sigmas(1000, 0.6, sigma_max=MAX)[:-1]
    noised = probability_flow_walk(world.score, X, levels[::-1])
    assert_close(noised, world.ve_flow(X, levels[-1], levels[0]), atol=0, rtol=0.02)
    assert_close(probability_flow_walk(world.score, noised, levels), X, atol=0.02, rtol=0.02)


# ---- VP = VE ----

SCHED, STEPS = Schedule.linear(), [(1000, 999), (500, 499), (300, 120), (21, 1), (5, 0)]


@pytest.mark.parametrize("t, s", STEPS)
def test_vp_steps_are_ve_steps_times_sqrt_abar(t, s):
    """Mean, posterior variance and DDIM agree; the reverse-diffusion variance is β/(1−β), not β."""
    sigma, lower, a_t, a_s = SCHED.sigma(t), SCHED.sigma(s), SCHED.at(t), SCHED.at(s)
    x_ve, score = X / a_t**0.5, -EPS / sigma
    assert_close(
        ddpm_step(SCHED, X, EPS, t, s, Z), a_s**0.5 * ancestral_step(x_ve, score, sigma, lower, Z), **exact
    )
    assert_close(
        ddim_step(SCHED, X, EPS, t, s), a_s**0.5 * probability_flow_step(x_ve, score, sigma, lower), **exact
    )
    beta = beta_stride(SCHED, t, s)
    noisy, mean = (reverse_diffusion_step(x_ve, score, sigma, lower, z) for z in (Z, None))
    assert_close(a_s * (noisy - mean) ** 2, beta / (1 - beta) * Z**2, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("t", [1, 300, 500, 1000])
def test_states_scores_and_x0_change_variables_exactly(t):
    sigma, a = SCHED.sigma(t), SCHED.at(t)
    x_vp, x_ve = q_sample(SCHED, X, t, EPS), X + sigma * EPS
    assert a**0.5 == pytest.approx((1 + sigma**2) ** -0.5, rel=1e-12)
    assert_close(x_vp, x_ve / (1 + sigma**2) ** 0.5, **exact)
    s_ve = ve_score(lambda x, t: EPS, SCHED)(x_ve, sigma)
    assert_close(s_ve, a**0.5 * score_from_eps(SCHED, t, EPS), **exact)
    assert_close(x_ve + sigma**2 * s_ve, x0_from_eps(SCHED, x_vp, t, EPS), atol=1e-10, rtol=1e-10)


def test_the_eps_oracle_is_the_score_oracle():
    world = gaussian(2, 4, 4)
    for sched in (SCHED, Schedule.cosine(), Schedule.geometric(100, 0.01, MAX)):
        score, eps = ve_score(world.denoiser("", sched), sched), ve_eps(world.score, sched)
        for sigma in (0.004, 0.02, 0.5, 3.7, 40.0):
            assert_close(score(X, sigma), world.score(X, sigma), atol=1e-9, rtol=1e-9)
        for t in (1, 40, 62.5, 100):
            assert_close(eps(X, t), world.eps(X, sched.at(t)), atol=1e-10, rtol=1e-10)


def test_ve_score_and_ve_eps_undo_each_other_and_hand_over_the_right_time():
    net = lambda x, t: torch.sin(x) * t / 1000
    for t in (1, 300, 77.7, 1000):
        assert_close(ve_eps(ve_score(net, SCHED), SCHED)(X, t), net(X, t), atol=1e-10, rtol=1e-10)
    with pytest.raises(ValueError, match="^sigma: must lie"):
        ve_score(net, SCHED)(X, 158.0)


def test_whole_walks_agree_across_the_change_of_variables():
    world, times = gaussian(2, 4, 4), SCHED.times(20, start=0.7)
    eps, levels, top = world.denoiser("", SCHED), [SCHED.sigma(t) for t in times], SCHED.at(times[0])
    rng, x, y = Rng.of(3, 3), X, X
    for t, s in pairwise(times):
        x = ddpm_step(SCHED, x, eps(x, t), t, s, rng.randn(x.shape, x) if s else None)
        y = ddim_step(SCHED, y, eps(y, t), t, s)
    score = ve_score(eps, SCHED)
    assert_close(
        pc_walk(score, X / top**0.5, levels, Rng.of(3, 3), predictor=ancestral_step), x, atol=1e-9, rtol=1e-9
    )
    assert_close(probability_flow_walk(score, X / top**0.5, levels), y, atol=1e-9, rtol=1e-9)


def test_t0_of_one_sde_is_not_t0_of_the_other():
    """Pixels in [−1, 1] have twice the σ of [0, 1]."""
    assert SCHED.sigma(500) / 2 == pytest.approx(ve_sigma(0.488, 0.01, 378), rel=5e-3)  # VP .5 is VE .488
    assert SCHED.t_of_sigma(2 * ve_sigma(0.45, 0.01, 378)) == pytest.approx(424, abs=1.5)
    assert SCHED.t_of_sigma(2 * ve_sigma(0.35, 0.01, 378)) == pytest.approx(218, abs=1.5)


@pytest.mark.parametrize("step", [reverse_diffusion_step, ancestral_step])
def test_noise_is_not_taken_away_upward(step):
    with pytest.raises(ValueError, match="^sigma_next: must not be above sigma"):
        step(X, -X, 1.0, 2.0, Z)
    with pytest.raises(ValueError, match="^sigma_next"):
        em_step(X, -X, 0.5, -0.1, Z, sigma_min=0.01, sigma_max=50.0)


def test_a_clean_picture_has_no_score():
    with pytest.raises(ValueError, match="^sigma: must be above 0"):
        ve_score(lambda x, t: x, Schedule.cosine())(X, 0.0)
