"""samplers/ddim.invert and sample, and the frame methods/inversion: on the Gaussian oracle, on formulas,
beside diffusers.
"""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from palimpsest.arguments import ArgumentError
from palimpsest.methods.inversion import Inversion, invert, redo, way_down
from palimpsest.methods.sampling import TOP
from palimpsest.samplers.ddim import ddim_step, sample
from palimpsest.samplers.ddim import invert as walk_up
from palimpsest.samplers.guidance import cfg
from palimpsest.samplers.schedule import Schedule
from palimpsest.worlds.gaussian import GaussianWorld
from tests.oracles import exact_model, randn, smooth_model

SCHED = Schedule.scaled_linear()
WORLD = GaussianWorld({"": torch.full((1, 1, 7), 0.7)}, 0.5)
EPS = WORLD.denoiser("", SCHED)
X = torch.linspace(-1, 2, 7).double().view(1, 1, 1, 7)


def leading(steps):
    """Stable Diffusion's times for `steps` that divide 1000, e.g. 982, 962, …, 2 and then its final level
    1.
    """
    return [*range(1000 - 1000 // steps + 2, 1, -(1000 // steps)), 1]


def round_trip(steps, **how):
    """The largest error of the pixels of X, up and down again."""
    times = leading(steps)
    return (sample(EPS, SCHED, walk_up(EPS, SCHED, X, times, **how)[0], times)[-1] - X).abs().max().item()


# ---- the table ----


@pytest.mark.parametrize(
    "steps, destination, source, once",
    [
        (10, 0.415, 0.590, 0.118),
        (20, 0.213, 0.341, 0.031),
        (25, 0.171, 0.283, 0.020),
        (50, 0.0857, 0.153, 0.0050),
        (100, 0.0428, 0.0807, 0.00125),
    ],
)
def test_the_round_trip_loses_what_it_is_known_to_lose(steps, destination, source, once):
    assert round_trip(steps) == pytest.approx(destination, rel=0.02)
    assert round_trip(steps, label="source") == pytest.approx(source, rel=0.02)
    assert round_trip(steps, iterations=1) == pytest.approx(once, rel=0.02)


@pytest.mark.parametrize("steps, five", [(10, 7.7e-4), (20, 1.8e-5), (25, 5.3e-6), (50, 1.1e-7), (100, 2e-9)])
def test_five_rounds_of_fixed_point_iteration_lose_almost_nothing(steps, five):
    assert round_trip(steps, iterations=5) == pytest.approx(five, rel=0.05)  # known to two digits


@pytest.mark.parametrize("label", ["destination", "source"])
def test_inversion_converges_at_first_order_and_the_destination_label_is_the_better(label):
    errors = [round_trip(steps, label=label) for steps in (50, 100, 200)]
    assert all(1.8 < coarse / fine < 2.1 for coarse, fine in pairwise(errors))
    assert all(round_trip(steps) < 0.65 * round_trip(steps, label="source") for steps in (20, 50, 100))


def test_each_round_of_iteration_gains_an_order_of_the_step():
    """k rounds leave an error of order k + 1: halving the step halves it 2, 4 and 8 times over."""
    for iterations, order in ((0, 1), (1, 2), (2, 3)):
        ratio = round_trip(50, iterations=iterations) / round_trip(100, iterations=iterations)
        assert ratio == pytest.approx(2**order, rel=0.12)


def test_the_path_of_an_inversion_is_laid_along_the_times_of_the_walk_down():
    times = leading(10)
    path = walk_up(EPS, SCHED, X, times)
    assert len(path) == len(times) and torch.equal(path[-1], X)
    for (t, s), (z_t, z_s) in zip(pairwise(times), pairwise(path)):
        assert torch.equal(z_t, ddim_step(SCHED, z_s, EPS(z_s, t), s, t))  # the destination's label
    there = sample(EPS, SCHED, path[0], times)
    assert torch.equal(there[0], path[0])
    for (t, s), (z_t, z_s) in zip(pairwise(times), pairwise(there)):
        assert torch.equal(z_s, ddim_step(SCHED, z_t, EPS(z_t, t), t, s))


def test_the_two_labels_tell_the_net_the_two_ends_of_the_step():
    told = []

    def eps(x, t):
        told.append(t)
        return EPS(x, t)

    walk_up(eps, SCHED, X, [600, 300, 0])
    walk_up(eps, SCHED, X, [600, 300, 0], label="source")
    walk_up(eps, SCHED, X, [600, 0], label="source", iterations=2)
    assert told == [300, 600, 0, 300, 0, 600, 600]  # an iteration always knows the end


def test_a_net_that_says_the_same_at_every_point_is_inverted_exactly():
    eps, times = lambda x, t: torch.full_like(x, t / 1000), leading(20)
    assert_close(sample(eps, SCHED, walk_up(eps, SCHED, X, times)[0], times)[-1], X, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    "how, message",
    [
        (dict(label="here"), "^label: must be destination or source"),
        (dict(iterations=-1), "^iterations: must be at least 0, got -1"),
    ],
)
def test_an_inversion_that_makes_no_sense_is_refused(how, message):
    with pytest.raises(ValueError, match=message):
        walk_up(EPS, SCHED, X, [500, 0], **how)
    for times in ([500], [0, 500], [500, 500, 0]):
        with pytest.raises(ValueError, match="^times: must be at least two and fall strictly"):
            walk_up(EPS, SCHED, X, times)
        with pytest.raises(ValueError, match="^times: must be at least two and fall strictly"):
            sample(EPS, SCHED, X, times)


def test_every_step_up_and_down_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers", reason="an independent implementation to compare with")
    config = dict(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    up, down = diffusers.DDIMInverseScheduler(1000, **config), diffusers.DDIMScheduler(1000, **config)
    up.alphas_cumprod = down.alphas_cumprod = SCHED.abar[1:]
    up.initial_alpha_cumprod = down.final_alpha_cumprod = SCHED.abar[1]
    eps, x, times = lambda x, t: torch.sin(3 * x + t), randn(2, 3, 4, 4), leading(50)
    ours = walk_up(eps, SCHED, x, times)
    up.set_timesteps(50)
    theirs = [x]
    for t in up.timesteps.tolist():
        theirs.append(up.step(eps(theirs[-1], t + 1), t, theirs[-1]).prev_sample)  # their t counts from 0
    down.set_timesteps(50)
    back = [theirs[-1]]
    for t in down.timesteps.tolist():
        back.append(down.step(eps(back[-1], t + 1), t, back[-1]).prev_sample)
    for mine, its in zip([*ours[::-1], *sample(eps, SCHED, ours[0], times)], [*theirs, *back], strict=True):
        assert_close(mine, its, atol=1e-9, rtol=1e-9)


# ---- why guidance breaks it ----

TOY = GaussianWorld({"cat": torch.ones(1, 1, 1), "": torch.zeros(1, 1, 1)}, {"cat": 0.3, "": 1.0})


def toy(w):
    return cfg(TOY.text_denoiser(SCHED), TOY.embed("cat"), TOY.embed(""), w)


def test_inverting_under_guidance_leaves_the_noise_shell_by_a_known_factor():
    """Two pictures, a standard deviation to either side of the mean: for a linear walk their rms is that
    of the law.
    """
    x, times = torch.tensor([0.7, 1.3]).double().view(2, 1, 1, 1), leading(50)
    plain, guided = (walk_up(toy(w), SCHED, x, times)[0] for w in (1, 7.5))
    assert plain[1].item() == pytest.approx(1.14, rel=0.01)
    assert guided.square().mean().sqrt().item() == pytest.approx(696, rel=0.02)


def test_sampling_under_guidance_after_inverting_without_collapses_towards_the_mean():
    x, times = torch.linspace(0.4, 1.6, 7).double().view(1, 1, 1, 7), leading(50)
    start = walk_up(toy(1), SCHED, x, times)[0]
    plain, guided = (sample(toy(w), SCHED, start, times)[-1] for w in (1, 7.5))
    assert (plain - x).abs().max() < 0.1 < 0.3 < (guided - x).abs().max()
    assert guided.std() < 0.3 * x.std()


# ---- the frame ----

B = smooth_model()
PICTURES = (randn(3, 3, 4, 4, seed=5) / 2).clamp(-1, 1)
PROMPTS = ["a cat", "a dog", "a red star"]


def test_a_batch_is_inverted_as_its_pictures_alone_are():
    together = invert(B, PICTURES, PROMPTS, steps=5)
    for n in range(3):
        alone = invert(B, PICTURES[n : n + 1], PROMPTS[n], steps=5)
        for mine, its in zip(alone.path, together.path):
            assert_close(mine, its[n : n + 1], atol=1e-12, rtol=1e-12)
        assert_close(
            redo(B, alone, w=4.0)[-1], redo(B, together, w=4.0)[-1][n : n + 1], atol=1e-12, rtol=1e-12
        )
    assert together.times == tuple(B.schedule.times(5, TOP)) and torch.equal(together.path[-1], PICTURES)


def test_rows_stand_one_picture_after_the_other_then_the_next_prompt():
    inversion = invert(B, PICTURES[:2], PROMPTS[:2], steps=4)
    rows = redo(B, inversion, ["a cat", "a dog", "a fox", "a cow"], w=3.0)[-1]
    assert rows.shape == (4, 3, 4, 4)
    assert_close(rows[:2], redo(B, inversion, w=3.0)[-1], atol=1e-12, rtol=1e-12)
    for row, (n, prompt) in enumerate([(0, "a cat"), (1, "a dog"), (0, "a fox"), (1, "a cow")]):
        alone = invert(B, PICTURES[n : n + 1], PROMPTS[n], steps=4)
        assert_close(rows[row : row + 1], redo(B, alone, [prompt], w=3.0)[-1], atol=1e-12, rtol=1e-12)


def test_redoing_is_sampling_under_the_guided_denoiser():
    inversion = invert(B, PICTURES, PROMPTS, steps=4)
    for w in (1.0, 7.5):
        path = redo(B, inversion, w=w)
        want = sample(B.denoiser(PROMPTS, w), B.schedule, inversion.start, inversion.times)
        assert len(path) == 5 and all(torch.equal(a, b) for a, b in zip(path, want))
    assert torch.equal(redo(B, inversion)[-1], redo(B, inversion, w=1.0)[-1])  # None: the inversion's own


def test_with_enough_rounds_of_iteration_the_walk_at_w_1_returns_to_the_picture():
    errors = [
        (redo(B, invert(B, PICTURES, PROMPTS, steps=20, iterations=k))[-1] - PICTURES).abs().max().item()
        for k in (0, 2, 5, 60)
    ]
    assert errors == sorted(errors, reverse=True) and errors[0] > 1e-2 and errors[-1] < 1e-10


def test_guidance_on_the_way_down_alone_loses_the_picture():
    inversion = invert(B, PICTURES, PROMPTS, steps=20, iterations=60)
    assert (redo(B, inversion, w=7.5)[-1] - PICTURES).abs().max() > 0.5


def test_steps_can_be_taken_one_by_one_and_aids_belong_to_their_pictures():
    @dataclass(frozen=True)
    class Aided(Inversion):
        def null(self, i):
            return B.embed([f"{p} {i}" for p in self.prompts])

        def step(self, sched, i, z, eps, t, s):
            return super().step(sched, i, z, eps, t, s) + i

        def finish(self, z):
            return -z

    up = invert(B, PICTURES[:2], PROMPTS[:2], steps=3)
    aided = Aided(up.prompts, 2.0, up.times, up.path, up.calls)
    rows = [*PROMPTS[:2], "x", "y"]
    found, step = way_down(B, aided, rows)
    for i in range(3):
        found = step(i, found) + 10  # what happens between the steps is the caller's
    z = up.start.repeat(2, 1, 1, 1)
    for i, (t, s) in enumerate(pairwise(up.times)):
        null = B.embed([f"{p} {i}" for p in PROMPTS[:2] * 2])
        z = ddim_step(B.schedule, z, B.denoiser(rows, 2.0, null)(z, t), t, s) + i + 10
    assert torch.equal(found, z)
    path, (z, step) = redo(B, aided, rows), way_down(B, aided, rows)
    for i in range(3):
        assert torch.equal(path[i], -z)  # redo is these steps, each finished
        z = step(i, z)
    assert torch.equal(path[3], -z)


def test_evaluations_are_counted_as_the_net_counts_them():
    for how, want in ((dict(), 6), (dict(iterations=2), 18), (dict(w=3.0), 12), (dict(w=0.0), 6)):
        before = B.net.asked
        assert invert(B, PICTURES, PROMPTS, steps=6, **how).calls == want
        assert (B.net.asked - before) == 3 * want


def test_prompts_that_do_not_fit_the_pictures_are_refused():
    inversion = invert(B, PICTURES, "a cat", steps=2)
    assert inversion.prompts == ("a cat",) * 3
    with pytest.raises(ValueError, match="^prompt: must be one, or one for each of 3 pictures, got 2"):
        invert(B, PICTURES, ["a", "b"], steps=2)
    for prompts in ([], ["a"], ["a"] * 4):
        with pytest.raises(ValueError, match="^prompts: must be one for each of the 3 inverted pictures"):
            redo(B, inversion, prompts)
    assert invert(B, PICTURES[:2], ["a", "b"], steps=2).prompts == ("a", "b")


@pytest.mark.parametrize(
    "how, message",
    [
        (dict(label="here"), "^label: must be destination or source, got 'here'"),
        (dict(iterations=-1), "^iterations: must be at least 0"),
        (dict(top=0.0), "^top: must lie in .0, 1."),
        (dict(w=float("nan")), "^w: must be a finite number, got nan; leave it at 1"),
        (dict(x=PICTURES + 9), "^x: must lie in .-1, 1."),
        (dict(x=PICTURES[0]), "^x: must be .b, 3, y, x.*add the batch axis"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_by_name(how, message):
    with pytest.raises(ArgumentError, match=message):
        invert(B, **{"x": PICTURES, "prompt": "a cat", "steps": 2, **how})


@pytest.mark.parametrize("steps", [0, -1, 1.5, 2000])
def test_steps_that_cannot_be_walked_are_refused(steps):
    with pytest.raises(ValueError, match="^steps"):
        invert(B, PICTURES, "a cat", steps=steps)


def test_one_step_is_enough_to_go_up_and_down():
    inversion = invert(B, PICTURES, PROMPTS, steps=1, iterations=200)
    assert len(inversion.path) == 2 and redo(B, inversion)[-1].isfinite().all()


def test_the_exact_net_agrees_with_the_worlds_own_walk():
    model = exact_model(GaussianWorld({"": torch.full((3, 2, 2), 0.2)}, 0.4))
    x = randn(1, 3, 2, 2).clamp(-1, 1)
    inversion = invert(model, x, "", steps=9)
    assert_close(
        redo(model, inversion)[-1],
        model.net.world.ddim(inversion.start, [SCHED.at(t) for t in inversion.times]),
        atol=1e-10,
        rtol=1e-10,
    )
