"""samplers/convert.py and samplers/ddpm.py: conversions, posterior, ancestral step, L_simple."""

import math
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from palimpsest.samplers import convert
from palimpsest.samplers.ddpm import beta_stride, beta_tilde, ddpm_step, l_simple, posterior
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.worlds.gaussian import GaussianWorld

SCHED = Schedule.linear()
X_0, EPS, Z = (
    Rng.of(seed, 3).randn((3, 2, 4, 4), torch.zeros(1, dtype=torch.float64)) for seed in (0, 10, 20)
)
TIMES = (1, 250, 999.5, 1000, torch.tensor([1, 300, 1000]))
exact = {"atol": 1e-11, "rtol": 1e-11}


# ---- conversions ----


def test_q_sample_is_its_equation_pixel_by_pixel():
    t = torch.tensor([0, 300, 1000])
    x_t = convert.q_sample(SCHED, X_0, t, EPS)
    for n in range(3):
        a = SCHED.at(int(t[n]))
        x, e = X_0[n, 1, 2, 3].item(), EPS[n, 1, 2, 3].item()
        assert x_t[n, 1, 2, 3].item() == pytest.approx(math.sqrt(a) * x + math.sqrt(1 - a) * e, abs=1e-14)
    assert_close(convert.q_sample(SCHED, X_0, 0, EPS), X_0, atol=0, rtol=0)


@pytest.mark.parametrize("t", TIMES, ids=str)
def test_eps_x0_v_and_score_convert_into_each_other(t):
    x_t, v = convert.q_sample(SCHED, X_0, t, EPS), convert.v_from_eps_x0(SCHED, X_0, t, EPS)
    assert_close(convert.x0_from_eps(SCHED, x_t, t, EPS), X_0, **exact)
    assert_close(convert.eps_from_x0(SCHED, x_t, t, X_0), EPS, **exact)
    assert_close(convert.eps_from_v(SCHED, x_t, t, v), EPS, **exact)
    assert_close(convert.x0_from_v(SCHED, x_t, t, v), X_0, **exact)
    score = convert.score_from_eps(SCHED, t, EPS)
    assert_close(convert.eps_from_score(SCHED, t, score), EPS, **exact)
    assert_close(convert.eps_from_output(SCHED, x_t, t, v, "v"), EPS, **exact)
    assert_close(convert.eps_from_output(SCHED, x_t, t, EPS, "eps"), EPS, **exact)


def test_v_is_sqrt_abar_eps_minus_sqrt_1_minus_abar_x0():
    a = SCHED.at(400)
    assert_close(convert.v_from_eps_x0(SCHED, X_0, 400, EPS), a**0.5 * EPS - (1 - a) ** 0.5 * X_0, **exact)
    assert_close(convert.v_from_eps_x0(SCHED, X_0, 0, EPS), EPS)  # v starts as eps and ends as -x_0
    nearly = Schedule.cosine()
    assert_close(convert.v_from_eps_x0(nearly, X_0, 1000, EPS), -X_0, atol=1e-3, rtol=0)


def test_score_is_the_gradient_of_the_log_density():
    world, t = GaussianWorld({"": torch.full((2, 4, 4), 0.3, dtype=torch.float64)}, 0.5), 300
    a = SCHED.at(t)
    x_t = X_0.clone().requires_grad_()
    log_p = -((x_t - a**0.5 * 0.3) ** 2 / (2 * (a * 0.25 + 1 - a))).sum()
    (gradient,) = torch.autograd.grad(log_p, x_t)
    assert_close(convert.score_from_eps(SCHED, t, world.eps(X_0, a)), gradient, **exact)


def test_a_batch_of_times_converts_each_picture_at_its_own():
    t = torch.tensor([1, 300, 1000])
    for f in (
        convert.q_sample,
        convert.x0_from_eps,
        convert.eps_from_x0,
        convert.eps_from_v,
        convert.x0_from_v,
        convert.v_from_eps_x0,
        convert.clip_eps,
    ):
        alone = torch.cat([f(SCHED, X_0[n : n + 1], int(t[n]), EPS[n : n + 1]) for n in range(3)])
        assert_close(f(SCHED, X_0, t, EPS), alone, **exact)


def test_conversions_keep_the_dtype():
    for dtype in (torch.float32, torch.bfloat16):
        for t in (300, torch.tensor([1, 2, 3])):
            assert convert.q_sample(SCHED, X_0.to(dtype), t, EPS.to(dtype)).dtype == dtype
            assert convert.eps_from_v(SCHED, X_0.to(dtype), t, EPS.to(dtype)).dtype == dtype


def test_clip_eps_clamps_x0_and_changes_nothing_inside_the_range():
    t = 300
    x_t = convert.q_sample(SCHED, 3 * X_0, t, EPS)
    clipped = convert.clip_eps(SCHED, x_t, t, EPS)
    assert_close(convert.x0_from_eps(SCHED, x_t, t, clipped), (3 * X_0).clamp(-1, 1), **exact)
    inside = (3 * X_0).abs() < 1
    assert inside.any() and not inside.all()
    assert_close(clipped[inside], EPS[inside], **exact)
    assert (clipped - EPS)[~inside].abs().min() > 0


def test_mistaken_predictions_and_a_clean_picture_are_refused():
    with pytest.raises(ValueError, match='prediction: must be "eps", "v" or "velocity"'):
        convert.eps_from_output(SCHED, X_0, 3, EPS, "x0")
    with pytest.raises(ValueError, match='prediction: must be "eps", "v" or "velocity"'):
        l_simple(lambda x, t: x, SCHED, X_0, torch.tensor([1, 2, 3]), EPS, "epsilon")
    with pytest.raises(ValueError, match="^t: is 0, and a clean picture holds no noise"):
        convert.eps_from_x0(SCHED, X_0, 0, X_0)
    for t in (0, torch.tensor([0, 5, 5])[: len(X_0)]):
        with pytest.raises(ValueError, match="^t: is 0"):
            convert.eps_from_x0(SCHED, X_0, t, X_0)
        with pytest.raises(ValueError, match="^t: is 0"):
            convert.score_from_eps(SCHED, t, EPS)


# ---- posterior and step ----


@pytest.mark.parametrize("t, s", [(1000, 999), (300, 299), (300, 120), (2, 1), (5, 0)])
def test_posterior_is_bayes_rule(t, s):
    """q(x_s | x_t, x_0) ∝ q(x_t | x_s) q(x_s | x_0): multiply the two Gaussians."""
    a_t, a_s = SCHED.at(t), SCHED.at(s)
    r = a_t / a_s
    precision = r / (1 - r) + (1 / (1 - a_s) if s else math.inf)
    mean, var = posterior(SCHED, X_0, Z, t, s)
    assert var == pytest.approx(1 / precision, rel=1e-9, abs=1e-300)
    prior = a_s**0.5 * X_0 / (1 - a_s) if s else 0
    expected = (r**0.5 / (1 - r) * Z + prior) / precision if s else X_0
    assert_close(mean, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("t, s", [(1000, 999), (700, 500), (5, 0)])
def test_step_from_eps_is_the_posterior_of_the_predicted_x0(t, s):
    x_t = convert.q_sample(SCHED, X_0, t, Z)
    mean, var = posterior(SCHED, convert.x0_from_eps(SCHED, x_t, t, EPS), x_t, t, s)
    assert_close(ddpm_step(SCHED, x_t, EPS, t, s, Z), mean + var**0.5 * Z, atol=1e-9, rtol=1e-9)


def test_two_posterior_draws_are_one_long_one():
    """Dropping a level leaves the chain: t → u → s given x_0 has the mean and variance of t → s."""
    t, u, s = 600, 400, 150
    (m_u, v_u), (m_s, v_s) = posterior(SCHED, X_0, Z, t, u), posterior(SCHED, X_0, Z, t, s)
    m_us, v_us = posterior(SCHED, X_0, m_u, u, s)
    slope = (posterior(SCHED, X_0, m_u + 1, u, s)[0] - m_us).mean().item()
    assert_close(m_us, m_s, **exact)
    assert slope**2 * v_u + v_us == pytest.approx(v_s, rel=1e-12)


def test_beta_stride_is_beta_and_bounds_beta_tilde():
    for t in (1, 2, 300, 1000):
        assert beta_stride(SCHED, t, t - 1) == pytest.approx(SCHED.beta(t), rel=1e-12)
        assert 0 <= beta_tilde(SCHED, t, t - 1) < beta_stride(SCHED, t, t - 1)
    assert beta_tilde(SCHED, 7, 0) == 0


def test_the_last_step_adds_no_noise():
    for variance in (beta_tilde, beta_stride):
        assert_close(
            ddpm_step(SCHED, X_0, EPS, 5, 0, Z, variance), convert.x0_from_eps(SCHED, X_0, 5, EPS), **exact
        )
        assert_close(
            ddpm_step(SCHED, X_0, EPS, 5, 0, None, variance), ddpm_step(SCHED, X_0, EPS, 5, 0, Z, variance)
        )


def test_step_refuses_going_up_and_missing_noise():
    for t, s in ((5, 5), (5, 6)):
        with pytest.raises(ValueError, match="goes down in time"):
            ddpm_step(SCHED, X_0, EPS, t, s, Z)
        with pytest.raises(ValueError, match="goes down in time"):
            posterior(SCHED, X_0, EPS, t, s)
    with pytest.raises(ValueError, match="^noise: is missing"):
        ddpm_step(SCHED, X_0, EPS, 5, 4)


@pytest.mark.parametrize("variance, name", [(beta_tilde, "fixed_small"), (beta_stride, "fixed_large")])
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_step_agrees_with_diffusers(beta_schedule, variance, name):
    diffusers = pytest.importorskip("diffusers", reason="an independent implementation to compare with")
    ref = diffusers.DDPMScheduler(1000, beta_schedule=beta_schedule, variance_type=name, clip_sample=False)
    sched = Schedule(
        torch.cat([torch.ones(1).double(), ref.alphas_cumprod.double()])
    )  # their float32 table, exactly
    ref.alphas_cumprod = sched.abar[1:]
    ref.one = torch.tensor(1.0, dtype=torch.float64)
    for steps in (1000, 50):
        ref.set_timesteps(steps)
        for n in (0, 1, steps // 2, -2, -1):
            i = int(ref.timesteps[n])
            t, s = i + 1, max(i + 1 - 1000 // steps, 0)
            noise = torch.randn(X_0.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
            theirs = ref.step(EPS, i, X_0, generator=torch.Generator().manual_seed(3)).prev_sample
            # diffusers floors beta_tilde at 1e-20; nothing else differs
            assert_close(ddpm_step(sched, X_0, EPS, t, s, noise, variance), theirs, atol=1e-9, rtol=1e-9)


def test_ancestral_sampling_of_the_oracle_lands_on_the_data():
    world, sched, rng = GaussianWorld({"": torch.full((1, 100, 200), 0.3)}, 0.25), Schedule.cosine(), Rng([1])
    x, eps = rng.randn((1, 1, 100, 200)), world.denoiser("", sched)
    for t, s in pairwise(sched.times(250)):
        x = ddpm_step(sched, x, eps(x, t), t, s, rng.randn(x.shape, x), beta_stride)
    assert x.mean().item() == pytest.approx(0.3, abs=0.006) and x.std().item() == pytest.approx(
        0.25, rel=0.03
    )


# ---- the loss ----


def test_l_simple_is_equation_5_by_plain_loops():
    t = torch.tensor([1, 300, 1000])
    net = lambda x_t, t: torch.sin(x_t) + t.double()[:, None, None, None] / 1000
    total, count = 0.0, 0
    for n in range(3):
        a = SCHED.at(int(t[n]))
        for x, e in zip(X_0[n].flatten().tolist(), EPS[n].flatten().tolist()):
            x_t = math.sqrt(a) * x + math.sqrt(1 - a) * e
            total += (e - (math.sin(x_t) + t[n].item() / 1000)) ** 2
            count += 1
    assert l_simple(net, SCHED, X_0, t, EPS).item() == pytest.approx(total / count, rel=1e-12)


@pytest.mark.parametrize("prediction", ["eps", "v", "velocity"])
def test_loss_is_zero_for_the_truth(prediction):
    t = torch.tensor([1, 300, 1000])
    truth = {"eps": EPS, "v": convert.v_from_eps_x0(SCHED, X_0, t, EPS), "velocity": EPS - X_0}[prediction]
    assert l_simple(lambda x_t, t: truth, SCHED, X_0, t, EPS, prediction).item() == 0
    assert l_simple(lambda x_t, t: -truth, SCHED, X_0, t, EPS, prediction).item() > 0.1


@pytest.mark.parametrize("t", [1, 400, 1000])
def test_the_v_loss_is_the_eps_loss_over_abar_and_the_x0_loss_over_1_minus_abar(t):
    times, a = torch.full((3,), t), SCHED.at(t)
    net_v = lambda x_t, t: torch.sin(x_t)
    net_eps = lambda x_t, t: convert.eps_from_v(SCHED, x_t, t, net_v(x_t, t))
    x_t = convert.q_sample(SCHED, X_0, times, EPS)
    loss_x0 = ((convert.x0_from_v(SCHED, x_t, times, net_v(x_t, times)) - X_0) ** 2).mean().item()
    loss_v = l_simple(net_v, SCHED, X_0, times, EPS, "v").item()
    assert loss_v == pytest.approx(l_simple(net_eps, SCHED, X_0, times, EPS).item() / a, rel=1e-9)
    assert loss_v == pytest.approx(loss_x0 / (1 - a), rel=1e-9)


@pytest.mark.parametrize("t", [1, 400, 1000])
def test_the_velocity_loss_is_the_eps_loss_over_the_share_of_the_signal_squared(t):
    times, (signal, noise) = torch.full((3,), t), (SCHED.at(t) ** 0.5, (1 - SCHED.at(t)) ** 0.5)
    net = lambda x_t, t: torch.sin(x_t)
    net_eps = lambda x_t, t: convert.eps_from_velocity(SCHED, x_t, t, net(x_t, t))
    x_t = convert.q_sample(SCHED, X_0, times, EPS)
    loss_x0 = ((convert.x0_from_velocity(SCHED, x_t, times, net(x_t, times)) - X_0) ** 2).mean().item()
    loss_u = l_simple(net, SCHED, X_0, times, EPS, "velocity").item()
    assert loss_u == pytest.approx(
        l_simple(net_eps, SCHED, X_0, times, EPS).item() * ((signal + noise) / signal) ** 2, rel=1e-9
    )
    assert loss_u == pytest.approx(loss_x0 * (1 + signal / noise) ** 2, rel=1e-9)


@pytest.mark.parametrize("t", [1, 400, 1000])
def test_what_a_velocity_network_says_is_read_exactly_as_eps_and_as_x0(t):
    x_t, exact = convert.q_sample(SCHED, X_0, t, EPS), dict(rtol=0, atol=1e-12)
    out = convert.target_of(SCHED, X_0, t, EPS, "velocity")
    assert_close(out, EPS - X_0, **exact)
    assert_close(convert.eps_from_output(SCHED, x_t, t, out, "velocity"), EPS, **exact)
    assert_close(convert.x0_from_output(SCHED, x_t, t, out, "velocity"), X_0, **exact)
    for prediction in ("eps", "v"):
        said = convert.target_of(SCHED, X_0, t, EPS, prediction)
        assert_close(convert.x0_from_output(SCHED, x_t, t, said, prediction), X_0, rtol=0, atol=1e-9)


def test_the_oracle_has_a_lower_loss_than_its_neighbours():
    world, t, sched = GaussianWorld({"": torch.full((1, 8, 8), 0.3)}, 0.25), 300, Schedule.cosine()
    x_0 = world.sample(Rng.of(0, 400).randn((400, 1, 8, 8)).double())
    eps, times = Rng.of(1000, 400).randn(x_0.shape, x_0), torch.full((400,), t)
    a = sched.at(t)
    less, right, more = (
        l_simple(lambda x, t, k=k: k * world.eps(x, a), sched, x_0, times, eps).item()
        for k in (0.9, 1.0, 1.1)
    )
    assert right < less and right < more
    assert right == pytest.approx(a * 0.0625 / (a * 0.0625 + 1 - a), rel=0.03)  # Var(ε | x_t)
