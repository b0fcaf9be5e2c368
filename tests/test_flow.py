"""samplers/flow.py: straight-line coordinates are the VP and VE states in other units, to rounding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from oracles import exact_model
from torch.testing import assert_close

from palimpsest.arguments import ArgumentError
from palimpsest.samplers.convert import q_sample, x0_from_eps
from palimpsest.samplers.ddim import sample
from palimpsest.samplers.flow import (
    euler_step,
    flow_time,
    flow_times,
    flow_walk,
    from_flow,
    heun_step,
    line,
    time_of_flow,
    to_flow,
    velocity,
)
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.worlds.gaussian import GaussianWorld

DOUBLE = torch.zeros(1, dtype=torch.float64)
X_0, EPS = (Rng.of(seed, 3).randn((3, 2, 4, 4), DOUBLE) for seed in (0, 10))
SCHEDULES = [Schedule.linear(), Schedule.scaled_linear(), Schedule.cosine(), Schedule.geometric()]
WORLD = GaussianWorld({"": torch.linspace(-0.5, 0.5, 32, dtype=torch.float64).reshape(2, 4, 4)}, 0.3)
exact = {"atol": 1e-12, "rtol": 1e-12}


def test_a_net_that_says_velocities_is_the_same_model_as_one_that_says_eps():
    """Of the exact ε of the Gaussian world the velocity is made, and read back by the model."""
    sched = Schedule.cosine()
    says_eps = exact_model(WORLD, sched)

    class Velocity(type(says_eps.net)):
        def forward(self, x_t, t, ctx=None, tap=None):
            eps = super().forward(x_t, t, ctx)
            return eps - x0_from_eps(sched, x_t, t, eps)

    says_u = replace(says_eps, net=Velocity(WORLD, sched), prediction="velocity")
    z = Rng.of(3, 2).randn((2, *WORLD.mu.shape[1:]), DOUBLE)
    assert_close(says_u.denoiser("")(z, 700), says_eps.denoiser("")(z, 700), rtol=0, atol=1e-12)
    walks = [sample(m.denoiser(""), sched, z, sched.times(6, 0.98))[-1] for m in (says_u, says_eps)]
    assert_close(*walks, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sched", SCHEDULES)
@pytest.mark.parametrize("t", [1, 37.5, 400, 900, 999])
def test_a_state_goes_to_the_line_and_back(sched, t):
    x_t = q_sample(sched, X_0, t, EPS)
    assert_close(from_flow(sched, to_flow(sched, x_t, t), t), x_t, **exact)
    assert time_of_flow(sched, flow_time(sched, t)) == pytest.approx(t, rel=1e-9)


@pytest.mark.parametrize("sched", SCHEDULES)
@pytest.mark.parametrize("t", [1, 400, 900])
def test_the_noised_picture_stands_on_the_straight_line(sched, t):
    s = flow_time(sched, t)
    assert_close(to_flow(sched, q_sample(sched, X_0, t, EPS), t), line(X_0, s, EPS), **exact)
    assert s == pytest.approx(sched.sigma(t) / (1 + sched.sigma(t)), rel=1e-14) and 0 < s < 1


def test_the_ends_are_the_picture_and_noise():
    sched = Schedule.cosine()
    assert flow_time(sched, 0) == 0 and flow_time(sched, sched.T) > 0.999
    assert torch.equal(to_flow(sched, X_0, 0), X_0) and torch.equal(line(X_0, 1.0, EPS), EPS)
    with pytest.raises(ArgumentError, match=r"^s: must lie in \[0, 0\.9999.*\], the flow times"):
        time_of_flow(sched, 1.0)


@pytest.mark.parametrize("t", [3, 250, 800])
def test_the_velocity_of_a_perfect_denoiser_is_noise_minus_picture(t):
    """With one picture in the world, ε̂ and x̂_0 are the truth, and u = ε − x_0 wherever one stands on the line."""
    sched, world = Schedule.linear(), GaussianWorld({"": X_0[0]}, 1e-9)
    u = velocity(world.denoiser("", sched), sched)
    s = flow_time(sched, t)
    assert_close(u(line(X_0[:1], s, EPS[:1]), s), EPS[:1] - X_0[:1], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("t", [3, 250, 800])
def test_the_velocity_is_eps_minus_x0_of_the_network(t):
    sched = Schedule.linear()
    eps = WORLD.denoiser("", sched)
    x_t = q_sample(sched, X_0, t, EPS)
    said = velocity(eps, sched)(to_flow(sched, x_t, t), flow_time(sched, t))
    assert_close(said, eps(x_t, t) - x0_from_eps(sched, x_t, t, eps(x_t, t)), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("step, order", [(euler_step, 1), (heun_step, 2)])
def test_a_walk_converges_to_the_exact_flow_with_its_order(step, order):
    sched = Schedule.geometric(sigma_min=1e-4)
    start, t = 0.9, time_of_flow(sched, 0.9)
    x_t = q_sample(sched, X_0, t, EPS)
    truth = WORLD.flow(x_t, sched.at(t), 1.0)
    u = velocity(WORLD.denoiser("", sched), sched)

    def error(steps):
        end = flow_walk(u, to_flow(sched, x_t, t), flow_times(steps, start), step)[-1]
        return (end - truth).abs().max().item()

    slopes = [math.log2(error(n) / error(2 * n)) for n in (40, 80, 160)]
    assert slopes[-1] == pytest.approx(order, abs=0.12), slopes


def test_a_fine_euler_walk_and_a_fine_ddim_walk_end_alike():
    sched = Schedule.cosine()
    x_t, t = q_sample(sched, X_0, 900, EPS), 900
    ddim = sample(WORLD.denoiser("", sched), sched, x_t, [900 - n for n in range(901)])[-1]
    u = velocity(WORLD.denoiser("", sched), sched)
    flow = flow_walk(u, to_flow(sched, x_t, t), flow_times(900, flow_time(sched, t)))[-1]
    assert (ddim - flow).abs().max() < 5e-3 and (ddim - X_0).abs().max() > 0.1


def test_flow_times_are_even_and_refuse_what_lies_outside():
    assert flow_times(4, 0.8) == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])
    assert flow_times(2, 0.0, 1.0) == [0, 0.5, 1]
    for bad, said in (
        (dict(steps=0, start=1.0), "steps"),
        (dict(steps=2, start=1.2), "start"),
        (dict(steps=2, start=1.0, end=-1), "end"),
    ):
        with pytest.raises(ArgumentError, match=f"^{said}: must"):
            flow_times(**bad)
