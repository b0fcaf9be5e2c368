"""samplers/schedule.py: the published tables, real times, the list of times."""

import math
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from palimpsest.samplers.schedule import Schedule

SCHEDULES = {
    "linear": Schedule.linear(),
    "scaled_linear": Schedule.scaled_linear(),
    "cosine": Schedule.cosine(),
    "geometric": Schedule.geometric(1000, 0.01, 50),
}
each = pytest.mark.parametrize("sched", SCHEDULES.values(), ids=SCHEDULES)


def test_scaled_linear_has_the_constants_of_stable_diffusion():
    sched = Schedule.scaled_linear()
    known = {
        0: 0.999150,
        1: 0.998296,
        21: 0.980381,
        250: 0.673793,
        481: 0.302296,
        500: 0.276333,
        761: 0.051364,
        781: 0.043456,
        981: 0.005776,
        999: 0.004660,
    }  # 0-based index of the public code -> abar
    for index, abar in known.items():
        assert sched.at(index + 1) == pytest.approx(abar, abs=1e-6)
    for index, tau in {0: 0.0292, 21: 0.1415, 250: 0.6958, 481: 1.519, 981: 13.12, 999: 14.61}.items():
        assert sched.sigma(index + 1) == pytest.approx(tau, rel=5e-4, abs=5e-5)


def test_linear_and_cosine_have_the_constants_of_their_papers_code():
    linear, cosine = Schedule.linear(), Schedule.cosine()
    assert linear.beta(1) == pytest.approx(1e-4) and linear.beta(1000) == pytest.approx(0.02)
    assert linear.beta(500) == pytest.approx(0.0100400, abs=1e-6)
    assert linear.at(500) == pytest.approx(0.0785872, abs=1e-6) and linear.at(1000) == pytest.approx(
        4.0358e-5, rel=1e-4
    )
    assert cosine.beta(1) == pytest.approx(4.1284e-5, rel=1e-4)
    assert cosine.at(1) == pytest.approx(0.9999587, abs=1e-6) and cosine.at(500) == pytest.approx(
        0.493844, abs=1e-6
    )
    assert cosine.at(1000) == pytest.approx(2.43e-9, rel=2e-3)
    capped = [t for t in range(1, 1001) if cosine.beta(t) > 0.999 - 1e-9]
    assert capped == [1000]
    assert Schedule.cosine(1000, s=0.02).at(1) < cosine.at(1)  # a larger offset noises more at once


def test_sigma_of_the_linear_schedule_matches_the_ve_table():
    for t, sigma in {1: 0.01000, 300: 1.2339, 500: 3.4241, 1000: 157.407}.items():
        assert Schedule.linear().sigma(t) == pytest.approx(sigma, rel=5e-4 if t == 1 else 5e-5)


def test_geometric_schedule_is_the_ve_ladder():
    sched = Schedule.geometric(1000, 0.01, 50)
    assert (
        sched.sigma(0) == 0
        and sched.sigma(1) == pytest.approx(0.01)
        and sched.sigma(1000) == pytest.approx(50)
    )
    for t in (1, 400, 999):
        assert sched.sigma(t + 1) / sched.sigma(t) == pytest.approx(1.0085622, abs=1e-7)
    assert Schedule.geometric(2000, 0.01, 378).sigma(1001) / Schedule.geometric(2000, 0.01, 378).sigma(
        1000
    ) == pytest.approx(1.0052866, abs=1e-7)
    assert sum(sched.sigma(t) ** 2 - sched.sigma(t - 1) ** 2 for t in range(1, 1001)) == pytest.approx(2500)


@pytest.mark.parametrize(
    "name, beta_schedule",
    [("linear", "linear"), ("scaled_linear", "scaled_linear"), ("cosine", "squaredcos_cap_v2")],
)
def test_tables_agree_with_diffusers(name, beta_schedule):
    diffusers = pytest.importorskip("diffusers", reason="an independent implementation to compare with")
    start, end = (0.00085, 0.012) if name == "scaled_linear" else (1e-4, 0.02)
    ref = diffusers.DDPMScheduler(1000, beta_start=start, beta_end=end, beta_schedule=beta_schedule)
    assert_close(SCHEDULES[name].abar[1:].float(), ref.alphas_cumprod, atol=1e-6, rtol=0)
    betas = torch.tensor([SCHEDULES[name].beta(t) for t in range(1, 1001)]).float()
    assert_close(betas, ref.betas, atol=1e-6, rtol=0)


@each
def test_beta_multiplies_back_to_abar(sched):
    product = 1.0
    for t in range(1, sched.T + 1):
        product *= 1 - sched.beta(t)
    assert product == pytest.approx(sched.at(sched.T), rel=1e-9)
    assert sched.at(0) == 1 and len(sched.abar) == sched.T + 1


@each
def test_sigma_and_snr_are_two_spellings_of_abar(sched):
    for t in (1, 17, 500, 1000, 33.25):
        a = sched.at(t)
        assert sched.sigma(t) == pytest.approx(((1 - a) / a) ** 0.5, rel=1e-9)
        assert sched.snr(t) == pytest.approx(a / (1 - a), rel=1e-9)
    assert sched.sigma(0) == 0 and sched.snr(0) == math.inf


@each
def test_log_snr_is_linear_between_whole_times(sched):
    for t in (1, 250, 999):
        ends = math.log(sched.snr(t)), math.log(sched.snr(t + 1))
        assert math.log(sched.snr(t + 0.25)) == pytest.approx(0.75 * ends[0] + 0.25 * ends[1], rel=1e-9)


@each
def test_real_times_join_the_whole_ones_and_reach_clean_data(sched):
    for t in (1, 2, 500):
        assert sched.at(t + 1e-9) == pytest.approx(sched.at(t), rel=1e-6)
        assert sched.at(t - 1e-9) == pytest.approx(sched.at(t), rel=1e-6)
    levels = [sched.at(t) for t in (0, 1e-3, 0.1, 0.5, 0.9, 1, 1.1, 1.9, 2)]
    assert all(a > b for a, b in pairwise(levels)) and levels[1] == pytest.approx(1, abs=1e-8)
    assert sched.at(torch.tensor(3)) == sched.at(3.0) == sched.at(3) == float(sched.abar[3])


@each
def test_t_of_sigma_inverts_sigma(sched):
    for t in (0, 0.3, 1, 1.5, 2, 300, 300.4, 999.99, 1000):
        assert sched.t_of_sigma(sched.sigma(t)) == pytest.approx(t, abs=1e-8)
    assert all(sched.t_of_sigma(sched.sigma(t)) == t for t in range(0, 1001, 50))  # whole on the table
    for bad in (-0.1, math.nan, sched.sigma(1000) * 1.01):
        with pytest.raises(ValueError, match="sigma: must lie in"):
            sched.t_of_sigma(bad)


def test_signal_and_noise_are_gathered_per_picture_like_the_picture():
    sched, t = Schedule.cosine(), torch.tensor([0, 1, 1000])
    x = torch.zeros(3, 2, 4, 4)
    for found in sched.signal_noise(t, x):
        assert found.shape == (3, 1, 1, 1) and found.dtype == torch.float32
    signal, noise = (found.flatten() ** 2 for found in sched.signal_noise(t, x.double()))
    assert_close(signal, torch.tensor([sched.at(0), sched.at(1), sched.at(1000)]).double())
    assert_close(noise, 1 - signal)
    for bad in (
        torch.tensor([1, 2]),
        torch.tensor([0.5, 1, 2]),
        torch.tensor([-1, 2, 3]),
        torch.tensor([1, 2, 1001]),
    ):
        with pytest.raises(ValueError, match="t: must"):
            sched.signal_noise(bad, x)


def test_signal_and_noise_are_equal_for_a_number_and_a_batch_and_keep_their_digits():
    sched, x = Schedule.cosine(), torch.zeros(2, 1, 1, 1)
    signal, noise = sched.signal_noise(torch.tensor([1, 700]), x)
    for n, t in enumerate((1, 700)):
        assert (signal[n].item(), noise[n].item()) == pytest.approx(sched.signal_noise(t, x), rel=1e-7)
    assert sched.signal_noise(torch.tensor(700), x) == sched.signal_noise(700, x)


def test_times_are_even_and_strictly_falling_from_start_to_end():
    sched = Schedule.linear()
    assert sched.times(4, start=0.6) == [600, 450, 300, 150, 0]
    assert sched.times(1) == [1000, 0] and sched.times(1000) == list(range(1000, -1, -1))
    assert sched.times(3, start=0.01, end=7) == [10, 9, 8, 7]
    assert [*sched.times(49, start=0.982, end=2), 1] == [*range(982, 1, -20), 1]  # Stable Diffusion, 50 steps
    for steps in (1, 3, 7, 50, 333, 999):
        for start, end in ((1.0, 0), (1.0, 1), (0.999, 0)):
            times = sched.times(steps, start, end)
            assert len(times) == steps + 1 and times[0] == round(start * 1000) and times[-1] == end
            gaps = [a - b for a, b in pairwise(times)]
            assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1 and all(isinstance(t, int) for t in times)


@pytest.mark.parametrize(
    "steps, start, end, name",
    [
        (0, 1.0, 0, "steps"),
        (-3, 1.0, 0, "steps"),
        (2.5, 1.0, 0, "steps"),
        (10.0, 1.0, 0, "steps"),
        (True, 1.0, 0, "steps"),
        ("9", 1.0, 0, "steps"),
        (10, 0.0, 0, "start"),
        (10, -0.1, 0, "start"),
        (10, 1.01, 0, "start"),
        (10, math.nan, 0, "start"),
        (10, "1", 0, "start"),
        (10, 1.0, -1, "end"),
        (10, 1.0, 1001, "end"),
        (10, 1.0, 0.5, "end"),
        (1001, 1.0, 0, "steps"),
        (11, 0.01, 0, "steps"),
        (1, 0.0001, 0, "steps"),
        (5, 0.5, 500, "steps"),
        (5, 0.5, 600, "steps"),
    ],
)
def test_times_refuses_what_it_cannot_do_in_one_line(steps, start, end, name):
    with pytest.raises(ValueError, match=f"^{name}") as error:
        Schedule.linear().times(steps, start, end)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "abar",
    [
        [1.0, 0.5, 0.2],
        torch.tensor([1.0, 0.5]),
        torch.tensor([0.9, 0.5]).double(),
        torch.tensor([1.0]).double(),
        torch.tensor([[1.0, 0.5]]).double(),
        torch.tensor([1.0, 0.5, 0.5]).double(),
        torch.tensor([1.0, 0.5, 0.6]).double(),
        torch.tensor([1.0, 0.5, 0.0]).double(),
        torch.tensor([1.0, 0.5, -0.1]).double(),
        torch.tensor([1.0, math.nan]).double(),
    ],
)
def test_schedule_refuses_a_bad_abar(abar):
    with pytest.raises(ValueError, match="^abar"):
        Schedule(abar)


@pytest.mark.parametrize("t", [-1, 1000.5, 1001, math.nan, math.inf])
def test_times_outside_the_schedule_are_refused(t):
    for method in (
        Schedule.linear().at,
        Schedule.linear().sigma,
        Schedule.linear().snr,
        Schedule.linear().beta,
    ):
        with pytest.raises(ValueError, match="t"):
            method(t)
    with pytest.raises(ValueError):
        Schedule.linear().beta(0)
