"""methods/flow_edit.py and rf_inversion.py: against closed forms on the Gaussian world, and their limits."""

from __future__ import annotations

import pytest
import torch
from oracles import exact_model, smooth_model
from torch.testing import assert_close

from palimpsest.arguments import ArgumentError
from palimpsest.methods.flow_edit import flow_edit
from palimpsest.methods.rf_inversion import rf_inversion
from palimpsest.samplers.flow import flow_time
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.worlds.gaussian import GaussianWorld

DOUBLE = torch.zeros(1, dtype=torch.float64)
STD = 0.1
A, B = (torch.full((3, 4, 4), value, dtype=torch.float64) for value in (-0.2, 0.3))
WORLD = GaussianWorld({"a": A, "b": B, "": (A + B) / 2}, STD)
X = (A + STD * Rng.of(5, 2).randn((2, 3, 4, 4), DOUBLE)).clamp(-1, 1)


def model():
    return exact_model(WORLD, Schedule.geometric(sigma_min=1e-3))


@pytest.mark.parametrize("start", [0.3, 0.6, 0.95])
def test_on_two_gaussians_the_edit_is_the_closed_form(start):
    """The noise cancels, and dD/ds = c D − (c (1 − s) + 1) (μ_b − μ_a) has the solution below, D = Z − x_0."""
    moved = flow_edit(model(), X, "a", "b", steps=1000, start=start, w_target=1.0).path[-1] - X
    share = 1 - STD * (1 - start) / ((1 - start) ** 2 * STD**2 + start**2) ** 0.5
    assert_close(moved, (share * (B - A)).expand_as(X), atol=8e-4, rtol=0)


def test_from_pure_noise_a_picture_is_carried_by_the_difference_of_the_means():
    top = flow_edit(model(), X, "a", "b", steps=1000, start=1.0, w_target=1.0)
    assert_close(top.picture, X + B - A, atol=5e-3, rtol=0)


def test_under_equal_texts_the_picture_comes_back_to_the_bit():
    edit = flow_edit(smooth_model(), X[:, :, :, :], "same", "same", w_source=2.0, w_target=2.0, steps=7)
    assert all(torch.equal(z, X) for z in edit.path) and len(edit.path) == len(edit.times) == 7


def test_outside_the_mask_nothing_changes_and_inside_it_does():
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    mask[..., :2] = 1
    edit = flow_edit(model(), X, "a", "b", mask=mask, steps=8)
    assert torch.equal(edit.picture[..., 2:], X[..., 2:]) and all(
        torch.equal(z[..., 2:], X[..., 2:]) for z in edit.path
    )
    assert (edit.picture[..., :2] - X[..., :2]).abs().min() > 0.01


def test_more_noises_a_step_scatter_less():
    def spread(averages):
        ends = [
            flow_edit(smooth_model(), X[:1], "u", "v", steps=6, averages=averages, seed=k).path[-1]
            for k in range(12)
        ]
        return torch.cat(ends).var(0).mean()

    assert spread(8) < 0.4 * spread(1)


def test_the_last_steps_sample_plainly_and_forget_the_picture():
    kept = flow_edit(model(), X, "a", "b", steps=40, start=0.9, w_target=1.0)
    free = flow_edit(model(), X, "a", "b", steps=40, start=0.9, w_target=1.0, last=36)
    alike = [(e.path[-1] - X - (B - A)).abs().mean() for e in (kept, free)]
    assert alike[1] > 3 * alike[0]  # a sample of N(μ_b, σ²), not the picture moved
    assert (free.path[-1].mean() - 0.3).abs() < 0.05


@pytest.mark.parametrize(
    "how, asked", [(dict(), 3), (dict(w_source=2.0), 4), (dict(averages=3), 9), (dict(w_target=1.0), 2)]
)
def test_calls_are_what_the_network_is_asked(how, asked):
    smooth = smooth_model()
    edit = flow_edit(smooth, X, "u", "v", steps=4, start=0.5, **how)
    assert edit.calls == 2 * asked == smooth.net.asked / len(X)


def test_a_picture_does_not_depend_on_its_batch():
    both = flow_edit(smooth_model(), X, ["u", "w"], ["v", "z"], steps=5, seed=3)
    alone = flow_edit(smooth_model(), X[1:], "w", "z", steps=5, seed=4)
    assert_close(both.picture[1:], alone.picture, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    "how, said",
    [
        (
            dict(start=0.0),
            "start: must lie in (0, 1], got 0.0; the paper takes 0.66 with SD3, 0.86 with FLUX",
        ),
        (dict(steps=0), "steps: must be at least 1, got 0"),
        (dict(averages=0), "averages: must be at least 1, got 0"),
        (dict(last=-1), "last: must be at least 0, got -1"),
        (dict(w_target=float("nan")), "w_target: must be a finite number, got nan"),
        (dict(target=["a", "b", "c"]), "target: must be one, or one for each of 2 pictures, got 3"),
        (dict(x=X[0]), "x: must be (b, 3, y, x), got (3, 4, 4); add the batch axis: x[None]"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(how, said):
    with pytest.raises(ArgumentError) as refused:
        flow_edit(**(dict(model=model(), x=X, source="a", target="b") | how))
    assert str(refused.value) == said


# ---- RF-Inversion ----


def test_with_a_full_pull_both_ways_the_walk_is_a_straight_line():
    smooth = smooth_model(Schedule.geometric())
    there = rf_inversion(smooth, X, "v", gamma=1.0, eta=1.0, hold=1.0, steps=9, seed=2)
    top, eps = there.times[0], Rng.of(2, 2).randn(X.shape, X)
    assert_close(there.up[-1], (1 - top) * X + top * eps, atol=1e-9, rtol=1e-9)
    assert_close(there.path[-1], X, atol=1e-9, rtol=1e-9)


def test_without_a_pull_it_is_inversion_and_sampling_by_the_flow():
    plain = rf_inversion(model(), X, "", gamma=0.0, eta=0.0, w=1.0, steps=1000)
    assert_close(plain.path[-1], X, atol=5e-3, rtol=0)  # of first order in the step
    gauss = rf_inversion(model(), X, "b", gamma=0.0, eta=0.0, w=1.0, steps=1000)
    assert abs(gauss.path[-1].mean().item() - 0.3) < abs(X.mean().item() - 0.3) / 2


def test_holding_longer_keeps_more_of_the_picture():
    far = [
        (rf_inversion(smooth_model(), X, "v", hold=hold, steps=10).path[-1] - X).abs().mean().item()
        for hold in (0.0, 0.4, 0.8)
    ]
    assert far[0] > far[1] > far[2]


def test_rf_inversion_counts_its_calls_and_starts_below_pure_noise():
    smooth = smooth_model()
    edit = rf_inversion(smooth, X, "v", steps=6)
    assert edit.calls == 6 + 12 == smooth.net.asked / len(X)
    assert edit.times[0] == pytest.approx(flow_time(smooth.schedule, 0.98 * smooth.schedule.T), rel=1e-3)
