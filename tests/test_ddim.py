"""samplers/ddim.py: Eq. (10) = Eq. (17), walked upward Eq. (19); on the Gaussian oracle and beside
diffusers.
"""

import math
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from palimpsest.samplers.convert import clip_eps, x0_from_eps
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.ddpm import beta_tilde, ddpm_step
from palimpsest.samplers.guidance import cfg
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.worlds.gaussian import GaussianWorld

SCHED = Schedule.scaled_linear()
X, EPS, Z = (Rng.of(seed, 2).randn((2, 3, 4, 4), torch.zeros(1, dtype=torch.float64)) for seed in (0, 10, 20))
PAIRS = [
    (1000, 980),
    (982, 962),
    (500, 499),
    (21, 1),
    (1, 0),
    (300, 0),
    (0, 300),
    (1, 21),
    (499, 500),
    (962, 982),
]


def leading(steps):
    """Stable Diffusion's times for `steps` that divide 1000, e.g. 982, 962, …, 2 and then its final level
    1.
    """
    return [*range(1000 - 1000 // steps + 2, 1, -(1000 // steps)), 1]


# ---- algebra ----


@pytest.mark.parametrize("t, s", PAIRS)
def test_step_is_equation_10_and_equation_17_pixel_by_pixel(t, s):
    a, b = SCHED.at(t), SCHED.at(s)
    x_s = ddim_step(SCHED, X, EPS, t, s).flatten().tolist()
    for x, e, got in zip(X.flatten().tolist(), EPS.flatten().tolist(), x_s):
        eq_10 = math.sqrt(b) * (x - math.sqrt(1 - a) * e) / math.sqrt(a) + math.sqrt(1 - b) * e
        eq_17 = math.sqrt(b / a) * x + math.sqrt(b) * (math.sqrt(1 / b - 1) - math.sqrt(1 / a - 1)) * e
        assert got == pytest.approx(eq_10, abs=1e-12) and got == pytest.approx(eq_17, abs=1e-12)


def test_the_factor_that_print_lost_is_a_dozen_at_t_961():
    a, b = SCHED.at(982), SCHED.at(962)
    bracket = math.sqrt(1 / b - 1) - math.sqrt(1 / a - 1)
    right = ddim_step(SCHED, X, EPS, 982, 962) - math.sqrt(b / a) * X
    assert_close(bracket * EPS / right, torch.full_like(X, b**-0.5), atol=1e-8, rtol=1e-8)
    assert b**-0.5 == pytest.approx(12, rel=0.05)


@pytest.mark.parametrize("t, s", PAIRS)
def test_walking_back_with_the_same_eps_undoes_the_step(t, s):
    assert_close(ddim_step(SCHED, ddim_step(SCHED, X, EPS, t, s), EPS, s, t), X, atol=1e-12, rtol=1e-12)


def test_ddim_inversion_undoes_sampling_for_fixed_eps():
    times, x = SCHED.times(50), X
    fixed = {
        frozenset(p): Rng.of(sum(p), 2).randn(X.shape, X) for p in pairwise(times)
    }  # one eps for each pair
    for t, s in [*pairwise(times), *pairwise(times[::-1])]:
        x = ddim_step(SCHED, x, fixed[frozenset((t, s))], t, s)
    assert_close(x, X, atol=1e-10, rtol=1e-10)


def test_a_step_to_zero_is_x0_and_a_step_nowhere_is_the_identity():
    assert_close(ddim_step(SCHED, X, EPS, 700, 0), x0_from_eps(SCHED, X, 700, EPS), atol=1e-12, rtol=1e-12)
    for t in (0, 5, 1000):
        assert torch.equal(ddim_step(SCHED, X, EPS, t, t), X)


def test_where_the_public_schedule_has_no_level_below_its_first_step_and_last_inversion_are_the_identity():
    """steps_offset=0 without set_alpha_to_one: the last of 50 steps leads from level 1 to level 1, and
    one network call is wasted.
    """
    diffusers = pytest.importorskip("diffusers", reason="an independent implementation to compare with")
    ref = diffusers.DDIMScheduler(
        1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=0,
    )
    ref.set_timesteps(50)
    last = int(ref.timesteps[-1])
    assert last == 0 and torch.allclose(ref.step(EPS, last, X).prev_sample, X, atol=1e-12, rtol=0)
    assert torch.equal(
        ddim_step(SCHED, X, EPS, last + 1, 1), X
    )  # ours: a step nowhere; `times` never takes one
    times = SCHED.times(50)
    assert len(set(times)) == 51 and times[-1] == 0


def test_without_eta_the_noise_is_not_used():
    drawn = [
        ddim_step(SCHED, X, EPS, 500, 400, 0.0, Rng.of(seed, len(X)).randn(X.shape, X)) for seed in (1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], ddim_step(SCHED, X, EPS, 500, 400))


def test_steps_with_one_eps_compose():
    """With ε constant the walk is a straight line in (√ᾱ, √(1−ᾱ)): two steps are one."""
    halfway = ddim_step(SCHED, X, EPS, 900, 400)
    assert_close(
        ddim_step(SCHED, halfway, EPS, 400, 20), ddim_step(SCHED, X, EPS, 900, 20), atol=1e-11, rtol=1e-11
    )


def test_in_variance_exploding_units_a_step_adds_the_change_of_sigma_times_eps():
    for t, s in PAIRS:
        x_ve = X / SCHED.at(t) ** 0.5 + (SCHED.sigma(s) - SCHED.sigma(t)) * EPS
        assert_close(ddim_step(SCHED, X, EPS, t, s) / SCHED.at(s) ** 0.5, x_ve, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("t, s", [(1000, 999), (982, 962), (500, 100), (5, 0), (21, 1)])
def test_eta_1_is_the_ancestral_step(t, s):
    assert_close(
        ddim_step(SCHED, X, EPS, t, s, eta=1.0, noise=Z),
        ddpm_step(SCHED, X, EPS, t, s, Z),
        atol=1e-11,
        rtol=1e-11,
    )


def test_eta_scales_the_noise_and_keeps_the_total_variance():
    t, s, eta = 500, 400, 0.6
    x_s = ddim_step(SCHED, X, EPS, t, s, eta, Z)
    quiet = ddim_step(SCHED, X, EPS, t, s, eta, torch.zeros_like(Z))
    sigma = eta * beta_tilde(SCHED, t, s) ** 0.5
    assert_close(x_s - quiet, sigma * Z, atol=1e-12, rtol=1e-12)
    direction = (quiet - SCHED.at(s) ** 0.5 * x0_from_eps(SCHED, X, t, EPS)) / EPS
    assert_close(direction, torch.full_like(X, (1 - SCHED.at(s) - sigma**2) ** 0.5), atol=1e-9, rtol=1e-9)
    assert torch.equal(ddim_step(SCHED, X, EPS, t, s, 0.0, Z), ddim_step(SCHED, X, EPS, t, s))


def test_dtype_is_kept_and_half_precision_stays_near_the_truth():
    truth = ddim_step(SCHED, X, EPS, 982, 962)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 3e-2)):
        x_s = ddim_step(SCHED, X.to(dtype), EPS.to(dtype), 982, 962)
        assert x_s.dtype == dtype
        assert_close(x_s.double(), truth, atol=tolerance, rtol=tolerance)


def test_no_digits_are_lost_where_abar_is_almost_zero():
    cosine = Schedule.cosine()
    truth = ddim_step(cosine, X.float().double(), X.float().double(), 1000, 980)  # eps = x_t: pure noise
    assert_close(ddim_step(cosine, X.float(), X.float(), 1000, 980).double(), truth, atol=2e-4, rtol=2e-4)
    assert (truth - X).abs().max() < 0.1


def test_clipping_breaks_the_inverse_and_only_then():
    for scale, undone in ((0.1, True), (10.0, False)):
        x_t = ddim_step(SCHED, scale * X.clamp(-3, 3), EPS, 0, 300)
        x_s = ddim_step(SCHED, x_t, clip_eps(SCHED, x_t, 300, EPS), 300, 200)
        assert torch.allclose(ddim_step(SCHED, x_s, EPS, 200, 300), x_t, atol=1e-9) == undone


@pytest.mark.parametrize(
    "t, s, eta, noise, message",
    [
        (500, 400, 1.1, Z, "^eta: must lie"),
        (500, 400, -0.1, Z, "^eta: must lie"),
        (500, 400, math.nan, Z, "^eta: must lie"),
        (400, 500, 0.5, Z, "^eta: must be 0 when walking upward"),
        (500, 400, 0.5, None, "^noise: is missing"),
        (1001, 400, 0.0, None, "^t: must lie"),
        (500, -1, 0.0, None, "^t: must lie"),
    ],
)
def test_mistakes_are_named(t, s, eta, noise, message):
    with pytest.raises(ValueError, match=message):
        ddim_step(SCHED, X, EPS, t, s, eta, noise)


# ---- parity ----


@pytest.mark.parametrize("to_one", [False, True])
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_walk_agrees_with_diffusers(beta_schedule, to_one):
    diffusers = pytest.importorskip("diffusers", reason="an independent implementation to compare with")
    ref = diffusers.DDIMScheduler(
        1000,
        beta_schedule=beta_schedule,
        clip_sample=False,
        set_alpha_to_one=to_one,
        steps_offset=1,
        timestep_spacing="leading",
    )
    sched = Schedule(
        torch.cat([torch.ones(1).double(), ref.alphas_cumprod.double()])
    )  # their float32 table, exactly
    ref.alphas_cumprod, ref.final_alpha_cumprod = sched.abar[1:], sched.abar[0 if to_one else 1]
    for steps in (10, 50):
        ref.set_timesteps(steps)
        times = [*leading(steps)[:-1], 0 if to_one else 1]
        assert [t - 1 for t in times[:-1]] == ref.timesteps.tolist()
        for eta in (0.0, 1.0):
            ours = theirs = X
            for n, (t, s) in enumerate(pairwise(times)):
                noise = Rng.of(n, 2).randn(X.shape, X)
                ours = ddim_step(sched, ours, torch.sin(ours), t, s, eta, noise)
                theirs = ref.step(
                    torch.sin(theirs), t - 1, theirs, eta=eta, variance_noise=noise if eta else None
                )
                theirs = theirs.prev_sample
            assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


def test_inversion_agrees_with_diffusers():
    diffusers = pytest.importorskip("diffusers", reason="an independent implementation to compare with")
    ref = diffusers.DDIMInverseScheduler(
        1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    ref.alphas_cumprod, ref.initial_alpha_cumprod = SCHED.abar[1:], SCHED.abar[1]
    ref.set_timesteps(50)
    ours = theirs = X
    for t, s in pairwise(leading(50)[::-1]):
        ours = ddim_step(SCHED, ours, torch.sin(ours) * s / 1000, t, s)  # their label: the destination
        theirs = ref.step(torch.sin(theirs) * s / 1000, s - 1, theirs).prev_sample
    assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


# ---- the oracle ----


def walk(eps, x, times, sched=SCHED):
    for t, s in pairwise(times):
        x = ddim_step(sched, x, eps(x, t), t, s)
    return x


def test_ddim_on_the_oracle_is_its_closed_form():
    world = GaussianWorld({"": torch.full((3, 4, 4), 0.7)}, 0.5)
    for times in (SCHED.times(50), leading(50), SCHED.times(7, start=0.6, end=3), SCHED.times(20)[::-1]):
        closed = world.ddim(X, [SCHED.at(t) for t in times])
        assert_close(walk(world.denoiser("", SCHED), X, times), closed, atol=1e-10, rtol=1e-10)


def test_gain_of_fifty_steps_and_its_continuum_limit():
    world, one = GaussianWorld({"": torch.zeros(1, 1, 1)}, 0.5), torch.ones(1, 1, 1, 1).double()
    times = leading(50)
    assert walk(world.denoiser("", SCHED), one, times).item() == pytest.approx(0.4785734, abs=1e-6)
    assert world.flow(one, SCHED.at(times[0]), SCHED.at(times[-1])).item() == pytest.approx(
        0.5017249, abs=1e-6
    )


def test_ddim_converges_to_the_flow_at_first_order():
    world, sched = GaussianWorld({"": torch.full((3, 4, 4), 0.7)}, 0.5), Schedule.cosine(4000)
    truth = world.flow(X, sched.at(3600), 1)
    errors = [
        (walk(world.denoiser("", sched), X, sched.times(n, start=0.9), sched) - truth).abs().max().item()
        for n in (50, 100, 200, 400)
    ]
    for coarse, fine in pairwise(errors):
        assert 1.8 < coarse / fine < 2.2
    assert errors[-1] < 0.01


ROUND_TRIP = {
    10: (0.415, 0.590),
    20: (0.213, 0.341),
    25: (0.171, 0.283),
    50: (0.0857, 0.153),
    100: (0.0428, 0.0807),
    200: (0.0214, 0.0418),
    500: (0.00857, 0.0175),
}


@pytest.mark.parametrize("steps", ROUND_TRIP)
def test_round_trip_error_is_the_known_one_and_the_destination_label_is_the_better(steps):
    """Encode, decode: data N(.7, s² = .25); the ε of an inversion step at x_t may carry the label of
    either end.
    """
    world, x = (
        GaussianWorld({"": torch.full((1, 1, 7), 0.7)}, 0.5),
        torch.linspace(-1, 2, 7).double().view(1, 1, 1, 7),
    )
    eps, times = world.denoiser("", SCHED), leading(steps)
    for label, expected in zip((lambda t, s: s, lambda t, s: t), ROUND_TRIP[steps]):
        y = x
        for t, s in pairwise(times[::-1]):
            y = ddim_step(SCHED, y, eps(y, label(t, s)), t, s)  # Eq. (19)
        assert (walk(eps, y, times) - x).abs().max().item() == pytest.approx(expected, rel=0.02)


def test_fixed_point_inversion_is_exact():
    world, x = (
        GaussianWorld({"": torch.full((1, 1, 7), 0.7)}, 0.5),
        torch.linspace(-1, 2, 7).double().view(1, 1, 1, 7),
    )
    eps, times = world.denoiser("", SCHED), leading(50)
    for iterations, expected in ((1, 0.0050), (5, 1.1e-7)):
        y = x
        for t, s in pairwise(times[::-1]):
            guess = ddim_step(SCHED, y, eps(y, s), t, s)
            for _ in range(iterations):
                guess = ddim_step(SCHED, y, eps(guess, s), t, s)
            y = guess
        assert (walk(eps, y, times) - x).abs().max().item() == pytest.approx(expected, rel=0.05)


def test_inverting_with_strong_guidance_leaves_the_noise_shell():
    world = GaussianWorld({"cat": torch.ones(1, 1, 1), "": torch.zeros(1, 1, 1)}, {"cat": 0.3, "": 1.0})
    x, norms = torch.full((1, 1, 1, 1), 1.3).double(), {}
    for w in (1, 7.5):
        eps, y = cfg(world.text_denoiser(SCHED), world.embed("cat"), world.embed(""), w), x
        for t, s in pairwise(leading(50)[::-1]):
            y = ddim_step(SCHED, y, eps(y, s), t, s)
        norms[w] = y.abs().item()
    assert norms[1] < 3 and norms[7.5] > 100
