"""methods/variants: how exactly each inversion comes back, in float64, and methods/ladder, which lines
them up.
"""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from palimpsest.methods.inversion import invert, redo
from palimpsest.methods.ladder import ladder
from palimpsest.methods.variants import direct, edict, edit_friendly, negative_prompt
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.ddpm import beta_tilde
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.load import load
from palimpsest.worlds.gaussian import GaussianWorld
from tests.oracles import exact_model, randn, smooth_model
from tests.tiny import tiny_weights

S = 12
B = smooth_model(Schedule.cosine())
X = (randn(2, 3, 4, 4, seed=5) / 2).clamp(-1, 1)
PROMPTS = ["a cat", "a dog"]
VERBS = [negative_prompt, direct, edict, edit_friendly]


def back(inversion, **how):
    return (redo(B, inversion, **how)[-1] - X).abs().max().item()


@pytest.mark.parametrize("verb", [edict, edit_friendly])
@pytest.mark.parametrize("w", [1.0, 3.0, 7.5])
def test_edict_and_edit_friendly_noises_come_back_to_the_last_digits_at_any_scale(verb, w):
    assert back(verb(B, X, PROMPTS, steps=S, w=w)) < (
        1e-12 if w < 5 or verb is edit_friendly else 1e-11
    )  # rounding grows with w


def test_direct_inversion_comes_back_to_the_bit_and_knows_no_scale():
    inversion = direct(B, X, PROMPTS, steps=S)
    for w in (1.0, 3.0, 7.5):
        path = redo(B, inversion, w=w)
        assert all(torch.equal(z, on) for z, on in zip(path, inversion.path)) and torch.equal(path[-1], X)


def test_direct_inversion_mends_the_rows_of_the_source_and_no_other():
    inversion = direct(B, X, PROMPTS, steps=S, w=3.0)
    plain = replace(invert(B, X, PROMPTS, steps=S), w=3.0)
    rows = redo(B, inversion, [*PROMPTS, "a fox", "a cow"])[-1]
    assert torch.equal(rows[:2], X)
    assert_close(rows[2:], redo(B, plain, ["a fox", "a cow"])[-1], atol=1e-10, rtol=1e-10)
    with pytest.raises(
        ValueError, match="^prompts: this inversion mends only rows under the pictures' own prompts"
    ):
        redo(B, inversion, ["a fox", "a cow"])


def test_negative_prompt_inversion_is_the_walk_at_w_1_for_every_w():
    plain = redo(B, invert(B, X, PROMPTS, steps=S))
    for w in (1.0, 7.5, 30.0):
        for z, want in zip(redo(B, negative_prompt(B, X, PROMPTS, steps=S, w=w)), plain):
            assert_close(z, want, atol=1e-10, rtol=1e-10)
    assert back(replace(invert(B, X, PROMPTS, steps=S), w=7.5)) > 10 * (plain[-1] - X).abs().max()
    edit = redo(B, negative_prompt(B, X, PROMPTS, steps=S), [*PROMPTS, "a fox", "a fox"], w=3.0)[-1][2:]
    start = invert(B, X, PROMPTS, steps=S).start
    eps, z = B.denoiser(["a fox"] * 2, 3.0, B.embed(PROMPTS)), start
    for t, s in pairwise(negative_prompt(B, X, PROMPTS, steps=S).times):
        z = ddim_step(B.schedule, z, eps(z, t), t, s)
    assert_close(edit, z, atol=1e-10, rtol=1e-10)


def test_negative_prompt_inversion_with_a_fixed_point_pivot_is_exact_under_guidance():
    assert back(negative_prompt(B, X, PROMPTS, steps=24, iterations=150)) < 1e-9


def test_edict_is_two_coupled_walks_that_take_turns_and_unmixing_pulls_them_apart():
    one = edict(B, X, PROMPTS, steps=S, w=3.0)
    assert one.start.shape == (2, 6, 4, 4) and torch.equal(one.path[-1], torch.cat([X, X], 1))
    eps, (t, s) = B.denoiser(PROMPTS, 3.0), one.times[:2]
    x, y = one.start.chunk(2, 1)
    x_mid = ddim_step(B.schedule, x, eps(y, t), t, s)
    y_mid = ddim_step(B.schedule, y, eps(x_mid, t), t, s)
    x_s = 0.93 * x_mid + 0.07 * y_mid
    assert_close(one.path[1], torch.cat([x_s, 0.93 * y_mid + 0.07 * x_s], 1), atol=1e-10, rtol=1e-10)
    apart = [
        (lambda x, y: (x - y).abs().max().item())(
            *edict(B, X, PROMPTS, steps=S, p=p, w=1.0).start.chunk(2, 1)
        )
        for p in (0.5, 0.999)
    ]
    assert apart[0] > 1.5 * apart[1] > 1e-4
    (t, s), (x, y) = one.times[1:3], one.path[1].chunk(2, 1)  # the next step: now y goes first
    y_mid = ddim_step(B.schedule, y, eps(x, t), t, s)
    x_mid = ddim_step(B.schedule, x, eps(y_mid, t), t, s)
    y_s = 0.93 * y_mid + 0.07 * x_mid
    assert_close(one.path[2], torch.cat([0.93 * x_mid + 0.07 * y_s, y_s], 1), atol=1e-10, rtol=1e-10)
    (t, s), (x, y) = one.times[2:4], one.path[2].chunk(2, 1)  # and then x again
    x_mid = ddim_step(B.schedule, x, eps(y, t), t, s)
    y_mid = ddim_step(B.schedule, y, eps(x_mid, t), t, s)
    x_s = 0.93 * x_mid + 0.07 * y_mid
    assert_close(one.path[3], torch.cat([x_s, 0.93 * y_mid + 0.07 * x_s], 1), atol=1e-10, rtol=1e-10)
    assert redo(B, one)[-1].shape == X.shape
    low = edict(B, X, PROMPTS, steps=S, w=3.0, top=0.6)
    assert (
        low.times[0] == 600
        and torch.equal(low.path[-1], one.path[-1])
        and edit_friendly(B, X, PROMPTS, steps=S, top=0.6).times[0] == 600
    )


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_edit_friendly_noises_lead_from_each_level_to_the_next(eta):
    run = edit_friendly(B, X, PROMPTS, steps=S, eta=eta)
    assert back(run) < 1e-12 and run.noises(B.schedule).shape == (S - 1, 2, 3, 4, 4)
    for z, on in zip(redo(B, run), run.path):
        assert_close(z, on, atol=1e-10, rtol=1e-10)
    z, eps = run.path[3], B.denoiser(PROMPTS, 3.5)
    t, s = run.times[3:5]  # the very DDIM step of this η, with η² in the root
    noise = run.noises(B.schedule)[3]
    assert_close(ddim_step(B.schedule, z, eps(z, t), t, s, eta, noise), run.path[4], atol=1e-10, rtol=1e-10)
    assert_close(
        run.jumps[3] / noise,
        torch.full_like(noise, eta * beta_tilde(B.schedule, t, s) ** 0.5),
        atol=1e-10,
        rtol=1e-8,
    )


def test_edit_friendly_noises_are_large_and_neighbours_oppose_each_other():
    world = GaussianWorld({"": torch.zeros(3, 24, 24)}, 0.5)
    model = exact_model(world)
    x = world.sample(randn(2, 3, 24, 24, seed=40)).clamp(-1, 1)
    z = edit_friendly(model, x, "", steps=50, w=1.0).noises(model.schedule)
    assert z.std().item() == pytest.approx(3.6, abs=0.15)
    pairs = torch.stack([(a * c).mean() / (a.std() * c.std()) for a, c in pairwise(z)])
    assert pairs.mean().item() == pytest.approx(-0.5, abs=0.06)


def test_the_same_noise_at_every_level_would_be_no_edit_friendly_walk():
    """With one ε for all levels the picture is its own pivot: the noises come out small, and bind the
    edit less.
    """
    run = edit_friendly(B, X, PROMPTS, steps=S)
    levels = [
        (z - B.schedule.at(t) ** 0.5 * X) / (1 - B.schedule.at(t)) ** 0.5
        for t, z in zip(run.times[:-1], run.path)
    ]
    pairs = [(a * c).mean().abs().item() for a, c in pairwise(levels)]
    assert max(pairs) < 0.4 and all(level.std().item() == pytest.approx(1, abs=0.3) for level in levels)


def test_the_picture_draws_its_own_noise():
    together = edit_friendly(B, X, PROMPTS, steps=4, seed=3)
    alone = edit_friendly(B, X[1:], PROMPTS[1], steps=4, seed=4)
    assert torch.equal(alone.start, together.start[1:])
    assert_close(alone.jumps, together.jumps[:, 1:], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("verb", VERBS)
def test_each_variant_treats_a_picture_as_if_alone_counts_its_calls_and_takes_other_prompts(verb):
    before = B.net.asked
    together = verb(B, X, PROMPTS, steps=4, w=3.0)
    assert B.net.asked - before == 2 * together.calls and len(together.path) == len(together.times) == 5
    assert_close(
        redo(B, together)[-1][:1],
        redo(B, verb(B, X[:1], PROMPTS[0], steps=4, w=3.0))[-1],
        atol=1e-10,
        rtol=1e-10,
    )
    edit = redo(B, together, [*PROMPTS, "a fox", "a cow"])[-1]
    assert edit.shape == (4, 3, 4, 4) and (edit[2:] - edit[:2]).abs().amax((1, 2, 3)).min() > 0.01


@pytest.mark.parametrize(
    "work, message",
    [
        (lambda: edict(B, X, PROMPTS, p=1.0), "^p: must lie in"),
        (lambda: edict(B, X, PROMPTS, p=0.0), "^p: must lie in"),
        (lambda: edit_friendly(B, X, PROMPTS, eta=0.0), "^eta: must lie in"),
        (lambda: direct(B, X, ["a"]), "^prompt: must be one"),
        (lambda: edit_friendly(B, X, PROMPTS, eta=1.5), "^eta: must lie in"),
        (lambda: negative_prompt(B, X, "a", steps=0), "^steps"),
    ],
)
def test_what_makes_no_sense_is_refused(work, message):
    with pytest.raises(ValueError, match=message):
        work()


# ---- the ladder ----


@pytest.fixture(scope="module")
def rungs():
    reached = []
    found = ladder(B, X.clamp(-0.9, 0.9), PROMPTS, steps=6, w=7.5, iterations=3, done=reached.append)
    assert reached == found or all(a is b for a, b in zip(reached, found, strict=True))
    return {rung.name: rung for rung in found}


def test_the_ladder_goes_from_what_is_lost_to_what_is_mended(rungs):
    db = {name: rung.psnr.min().item() for name, rung in rungs.items()}
    assert list(db) == [
        "autoencoder",
        "w = 1",
        "w = 7.5",
        "null-text",
        "null-text, fast",
        "negative-prompt",
        "fixed-point, w = 1",
        "direct",
    ]
    assert db["autoencoder"] == db["direct"] == float("inf")  # no autoencoder here
    assert (
        db["w = 7.5"] < db["w = 1"] - 6
        and db["w = 7.5"] < db["null-text"]
        and db["w = 1"] < db["fixed-point, w = 1"]
    )
    assert (
        db["negative-prompt"] == pytest.approx(db["w = 1"], abs=1e-6)
        and db["null-text, fast"] > db["w = 1"] - 0.5
    )


def test_the_ladder_counts_both_ways(rungs):
    cost = {name: (rung.forwards, rung.backwards) for name, rung in rungs.items()}
    assert cost["autoencoder"] == (0, 0) and cost["w = 1"] == (12, 0) and cost["w = 7.5"] == (18, 0)
    assert cost["negative-prompt"] == cost["direct"] == (18, 0) and cost["fixed-point, w = 1"] == (
        6 * 4 + 6,
        0,
    )
    assert 6 * 4 < cost["null-text"][0] <= 6 * 14 and 6 <= cost["null-text"][1] <= 60
    assert sum(cost["null-text, fast"]) < sum(cost["null-text"])


def test_the_ladder_has_the_autoencoder_at_its_foot(tmp_path):
    model = load(tiny_weights(tmp_path))
    x = (randn(1, 3, 32, 32) / 4).float().clamp(-1, 1)
    rungs = ladder(model, x, "a red star", steps=1, iterations=0)
    assert all(rung.picture.shape == x.shape and rung.latents.shape == (1, 4, 8, 8) for rung in rungs)
    assert torch.equal(rungs[0].picture, model.decode(model.encode(x))) and torch.equal(
        rungs[-1].picture, rungs[0].picture
    )
