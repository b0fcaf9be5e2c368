"""Solvers: their order against the exact flow of the Gaussian world, their limits, and an independent implementation."""

import math
import re
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from palimpsest.arguments import ArgumentError, wrong
from palimpsest.samplers.ddim import ddim_step, sample
from palimpsest.samplers.ddpm import ddpm_step
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.samplers.solvers import DDIM, Ancestral, DPMSolver2M, Heun, Step
from palimpsest.worlds.gaussian import GaussianWorld

COSINE = Schedule.cosine()
WORLD = GaussianWorld({"": torch.linspace(-0.8, 0.9, 12).view(3, 2, 2)}, 0.4)
EPS = WORLD.denoiser("", COSINE)
X = Rng.of(0, 2).randn((2, 3, 2, 2), torch.empty(0, dtype=torch.float64))


def quiet():
    raise AssertionError("a deterministic step draws no noise")


def walk(step, times, x=X, eps=EPS, sched=COSINE, noise=quiet):
    for t, s in pairwise(times):
        x = step(sched, x, eps, t, s, noise)
    return x


def spaced(steps, rho=None, high=20.0, low=0.05):
    """Real times from σ = high to low: geometric, or evenly spaced in σ^(1/ρ) as Karras et al. do (Eq. 5)."""
    shares = [n / steps for n in range(steps + 1)]
    if rho is None:
        sigmas = [high ** (1 - share) * low**share for share in shares]
    else:
        sigmas = [(high ** (1 / rho) * (1 - share) + low ** (1 / rho) * share) ** rho for share in shares]
    return [COSINE.t_of_sigma(sigma) for sigma in sigmas]


@pytest.mark.parametrize("rho", [None, 3.0])
@pytest.mark.parametrize("solver, order", [(DDIM, 1), (Heun, 2), (DPMSolver2M, 2)])
def test_twice_the_steps_divide_the_error_by_two_to_the_order(solver, order, rho):
    errors = []
    for steps in (40, 80, 160, 320):
        times = spaced(steps, rho)
        exact = WORLD.flow(X, COSINE.at(times[0]), COSINE.at(times[-1]))
        errors.append((walk(solver(), times) - exact).abs().max().item())
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert orders[-1] == pytest.approx(order, abs=0.1), (errors, orders)


def test_at_equal_calls_the_second_order_is_nearer_to_the_flow():
    def error(step, steps):
        times = spaced(steps)
        exact = WORLD.flow(X, COSINE.at(times[0]), COSINE.at(times[-1]))
        return (walk(step, times) - exact).abs().max().item()

    ddim, heun, multistep = error(DDIM(), 40), error(Heun(), 20), error(DPMSolver2M(), 40)
    assert 2.5 * heun < ddim and 2.5 * multistep < ddim


def test_heun_is_equation_28_the_mean_slope_in_the_state_over_the_signal():
    t, s = 600, 500
    (sigma, after), x = (COSINE.sigma(t), COSINE.sigma(s)), X / COSINE.at(t) ** 0.5
    d = EPS(X, t)
    d_s = EPS((x + (after - sigma) * d) * COSINE.at(s) ** 0.5, s)
    expected = (x + (after - sigma) * (d + d_s) / 2) * COSINE.at(s) ** 0.5
    assert_close(Heun()(COSINE, X, EPS, t, s, quiet), expected, atol=1e-12, rtol=1e-12)


def test_the_multistep_is_equation_29_by_its_printed_terms():
    step, (t, s, u) = DPMSolver2M(), (600, 500, 450)
    first = step(COSINE, X, EPS, t, s, quiet)
    assert_close(first, ddim_step(COSINE, X, EPS(X, t), t, s), atol=1e-12, rtol=1e-12)  # with D = x̂_0: DDIM
    second = step(COSINE, first, EPS, s, u, quiet)

    def terms(n):
        alpha, sigma = COSINE.at(n) ** 0.5, (1 - COSINE.at(n)) ** 0.5
        return alpha, sigma, math.log(alpha / sigma)

    (a_t, s_t, l_t), (a_s, s_s, l_s), (a_u, s_u, l_u) = (terms(n) for n in (t, s, u))
    old, new = (X - s_t * EPS(X, t)) / a_t, (first - s_s * EPS(first, s)) / a_s
    r = (l_s - l_t) / (l_u - l_s)
    D = new + (new - old) / (2 * r)
    expected = s_u / s_s * first + a_u * (1 - math.exp(-(l_u - l_s))) * D
    assert_close(second, expected, atol=1e-12, rtol=1e-12)


def test_heun_stays_eulers_where_sigma_falls_to_a_third():
    t = 980
    near, far = (COSINE.t_of_sigma(COSINE.sigma(t) / ratio) for ratio in (2.9, 3.1))
    assert torch.equal(Heun()(COSINE, X, EPS, t, far, quiet), DDIM()(COSINE, X, EPS, t, far, quiet))
    assert not torch.equal(Heun()(COSINE, X, EPS, t, near, quiet), DDIM()(COSINE, X, EPS, t, near, quiet))


@pytest.mark.parametrize("solver", [Heun, DPMSolver2M])
def test_the_step_to_the_clean_picture_is_the_guess_at_it(solver):
    times = [600, 400, 200, 0]
    before = walk(solver(), times[:-1])
    last = ddim_step(COSINE, before, EPS(before, 200), 200, 0)
    assert_close(walk(solver(), times), last, atol=1e-12, rtol=1e-12)


def test_ddim_and_ancestral_are_the_steps_of_their_files_to_the_bit():
    times = COSINE.times(5, 0.9)
    assert torch.equal(walk(DDIM(), times), sample(EPS, COSINE, X, times)[-1])
    z = Rng.of(7, 2).randn(X.shape, X)
    for t, s in pairwise(times):
        assert torch.equal(
            DDIM(0.5)(COSINE, X, EPS, t, s, lambda: z), ddim_step(COSINE, X, EPS(X, t), t, s, 0.5, z)
        )
        assert torch.equal(
            Ancestral()(COSINE, X, EPS, t, s, lambda: z), ddpm_step(COSINE, X, EPS(X, t), t, s, z)
        )
    noise = partial(Rng.of(3, 2).randn, X.shape, X)
    assert not torch.equal(walk(Ancestral(), times, noise=noise), walk(Ancestral(), times, noise=noise))


def test_calls_are_one_a_step_and_two_for_heun():
    def asked(step, steps):
        calls = []
        walk(step, COSINE.times(steps, 0.9), eps=lambda x, t: calls.append(t) or EPS(x, t))
        return len(calls)

    assert [asked(step, 5) for step in (DDIM(), DPMSolver2M(), Heun())] == [5, 5, 9]


def test_a_multistep_solver_that_is_used_again_begins_anew():
    step, times = DPMSolver2M(), COSINE.times(6, 0.9)
    once = walk(step, times)
    assert torch.equal(walk(step, times), once)
    fewer = walk(step, times[:-1])
    assert torch.equal(walk(step, times, X[:1])[0], once[0]) and not torch.equal(fewer, once)


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_the_multistep_agrees_with_diffusers(final):
    """Its own times, counted from 0, and the clean picture, or the least noise of the table, at the end."""
    diffusers = pytest.importorskip("diffusers")
    sched = Schedule.scaled_linear()
    theirs = diffusers.DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        algorithm_type="dpmsolver++",
        solver_order=2,
        final_sigmas_type=final,
        lower_order_final=final == "zero",
        timestep_spacing="leading",
        steps_offset=1,
    )
    theirs.set_timesteps(20)
    times = [int(t) + 1 for t in theirs.timesteps] + [0 if final == "zero" else 1]
    eps, x = WORLD.denoiser("", sched), X.clone()
    for t in theirs.timesteps:
        x = theirs.step(eps(x, int(t) + 1), t, x).prev_sample
    assert_close(walk(DPMSolver2M(), times, eps=eps, sched=sched), x, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    "value, text", [("heun", "must be a function"), (Heun, r"got the class Heun; make one: Heun\(\)")]
)
def test_what_is_no_step_is_refused(value, text):
    assert re.search(text, wrong(Step, value))
    assert wrong(Step, Heun()) is None and wrong(Step | None, None) is None


def test_eta_is_refused_where_the_step_is_made():
    with pytest.raises(ArgumentError, match=r"^eta: must lie in \[0, 1\], got 2.0"):
        DDIM(2.0)
