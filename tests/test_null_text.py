"""methods/null_text, its solvers, ablations and files, on formulas in float64: Eqs. (17)–(22), costs, keeping."""

import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from palimpsest.methods.inversion import Inversion, invert, redo
from palimpsest.methods.ladder import ladder
from palimpsest.methods.null_ablations import random_pivot, shared_null_text
from palimpsest.methods.null_files import KEPT, load_null_text, null_text_key, read_null_text, save_null_text
from palimpsest.methods.null_solvers import interpolated_start
from palimpsest.methods.null_text import null_text
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.cache import digest_model, read_tensors, write_tensors
from palimpsest.weights.load import load
from tests.oracles import Counted, Smooth, model_of, randn, smooth_model, words
from tests.tiny import tiny_weights

S = 6
B = smooth_model(Schedule.cosine())
X = (randn(2, 3, 4, 4, seed=5) / 2).clamp(-1, 1)
PROMPTS = ["a cat", "a dog"]
COND, EMPTY = B.embed(PROMPTS), B.embed(["", ""])
FAST = dict(solver="gauss-newton")
PUBLISHED_STOP, PUBLISHED_LR = 1e-5, 1e-2


def rms(z, x=X):
    return (z - x).square().mean((1, 2, 3)).sqrt()


def mean_square(z):
    return z.square().mean((1, 2, 3))


def tuned(x=X, prompts=PROMPTS, **how):
    return null_text(B, x, prompts, **{"steps": S, **how})


@pytest.fixture(scope="module")
def paper():
    return tuned()


@pytest.fixture(scope="module")
def fast():
    return tuned(**FAST)


# ---- the equations ----


def guided(z, null, t, s, w=7.5, cond=COND):
    """z_s(z̄, ∅, C) by Eqs. (18) and (17), written out."""
    a, c = B.schedule.at(t), B.schedule.at(s)
    eps = w * B.eps(z, t, cond) + (1 - w) * B.eps(z, t, null)
    return (c / a) ** 0.5 * z + c**0.5 * ((1 / c - 1) ** 0.5 - (1 / a - 1) ** 0.5) * eps


def one_step(target=None, z=None):
    """A pivot of a single step from t = 500 to s = 400, which does not quite end where the w = 1 walk does."""
    z = 0.3 * randn(2, 3, 4, 4, seed=9) if z is None else z
    if target is None:
        target = guided(z, COND, 500, 400).detach() + 0.01 * randn(2, 3, 4, 4, seed=30)
    return Inversion(tuple(PROMPTS), 1.0, (500, 400), [z, target], 0)


def solved(pivot, **how):
    return tuned(x=pivot.path[-1], steps=1, pivot=pivot, **how)


def test_equation_20_is_the_mean_square_of_each_picture(paper):
    for i, z in enumerate(redo(B, paper)[1:]):
        r = (paper.path[i + 1] - z).flatten(1).tolist()
        assert paper.losses[i].tolist() == pytest.approx(
            [sum(v * v for v in one) / 48 for one in r], rel=1e-12
        )


def test_equation_21_is_gone_down_by_its_own_gradient():
    """One update of Adam is rate · sign of the gradient, in every coordinate; the gradient here by differences."""
    run = tuned(inner=1, lr=1e-3, stop=0.0)
    moved, (t, s) = run.nulls[0] - EMPTY, run.times[:2]
    for where in ((0, 0, 0), (0, 2, 5), (1, 1, 3), (1, 0, 7)):
        nudge = torch.zeros_like(EMPTY)
        nudge[where] = 1e-5
        up, down = (
            mean_square(run.path[1] - guided(run.start, EMPTY + sign * nudge, t, s))[where[0]]
            for sign in (1, -1)
        )
        assert moved[where].item() == pytest.approx(-1e-3 * (up - down).sign().item(), rel=1e-3)
    assert run.updates.tolist() == [[1, 1]] * S and run.backwards.tolist() == [S, S]


@pytest.mark.parametrize("stop", [PUBLISHED_STOP, 2e-3])
def test_the_published_walk_is_that_of_an_independent_loop_with_the_adam_of_torch(stop):
    """Each picture alone, as the official notebook goes about it: Eqs. (18), (17), (20), (21), (22)."""
    run = tuned(stop=stop)
    for k in range(2):
        null, z = EMPTY[:1].clone(), run.path[0][k : k + 1]
        for i, (t, s) in enumerate(pairwise(run.times)):
            null = null.detach().clone().requires_grad_()
            adam = torch.optim.Adam([null], lr=PUBLISHED_LR * (1 - i / S / 2))
            updates = 0
            for _ in range(10):
                loss = torch.nn.functional.mse_loss(
                    guided(z, null, t, s, cond=COND[k : k + 1]), run.path[i + 1][k : k + 1]
                )
                adam.zero_grad()
                loss.backward(inputs=[null])
                adam.step()
                updates += 1
                if loss.item() < stop * (1 + 100 * i / S):
                    break
            z = guided(z, null, t, s, cond=COND[k : k + 1]).detach()
            assert updates == run.updates[i, k]
            assert_close(run.nulls[i, k : k + 1], null.detach(), atol=1e-9, rtol=1e-9)
        assert_close(run.z_bar[k : k + 1], z, atol=1e-8, rtol=1e-8)


def test_equation_21_is_solved_to_the_last_digits_where_an_embedding_fits():
    z = 0.3 * randn(2, 3, 4, 4, seed=9)
    hit = one_step(guided(z, COND + 0.1 * randn(2, 3, 8, seed=50), 500, 400).detach(), z)
    run = solved(hit, inner=60, stop=1e-20, **FAST)
    before = mean_square(hit.path[1] - guided(z, EMPTY, 500, 400))
    assert (mean_square(hit.path[1] - guided(z, run.nulls[0], 500, 400)) < 1e-4 * before).all()


def test_equation_22_walks_with_the_embedding_that_was_found(paper, fast):
    for run in (paper, fast):
        z = run.start
        for i, (t, s) in enumerate(pairwise(run.times)):
            z = guided(z, run.nulls[i], t, s)
            assert_close(mean_square(run.path[i + 1] - z), run.losses[i], atol=1e-10, rtol=1e-8)
        assert_close(z, run.z_bar, atol=1e-9, rtol=1e-9)


def test_the_tolerance_grows_and_the_rate_falls_as_published():
    run = tuned(X[:1], "a cat", steps=50, inner=1, stop=0.0)
    moved = (run.nulls - torch.cat([EMPTY[None, :1], run.nulls[:-1]])).abs().amax((1, 2, 3))
    assert moved.tolist() == pytest.approx([PUBLISHED_LR * (1 - i / 100) for i in range(50)], rel=1e-4)
    stop, cond = 5e-5, COND[:1]
    run = tuned(X[:1], "a cat", steps=50, inner=1, stop=stop, solver="adam-skip", start="prompt")
    z, null = run.start, cond
    for i, (t, s) in enumerate(pairwise(run.times)):
        loss = mean_square(run.path[i + 1] - guided(z, null, t, s, cond=cond)).item()
        assert run.updates[i].item() == (loss >= stop * (1 + 2 * i)), i
        z, null = guided(z, run.nulls[i], t, s, cond=cond), run.nulls[i]
    assert 5 < run.updates.sum() < 45


# ---- what it does ----


def test_tuned_the_guided_walk_comes_back_where_the_plain_one_is_lost(paper, fast):
    raw, plain = (rms(redo(B, paper_up(w))[-1]) for w in (7.5, 1.0))
    assert (raw > 10 * plain).all() and (rms(paper.z_bar) < 0.6 * raw).all()
    assert (rms(fast.z_bar) < 1.1 * plain).all()  # within a decibel of the walk at w = 1


def paper_up(w):
    """The pivot alone, to be walked down at w."""
    return replace(invert(B, X, PROMPTS, steps=S), w=w)


def test_the_fast_way_needs_fewer_passes_than_the_paper_a_third_of_the_backward_ones_and_comes_closer(paper):
    quick = tuned(solver="gauss-newton", start="prompt")
    assert (rms(quick.z_bar) < rms(paper.z_bar)).all()
    cost = [run.forwards + 2 * run.backwards for run in (quick, paper)]  # a backward pass costs about two
    assert (cost[0] < 0.6 * cost[1]).all() and (quick.backwards < paper.backwards / 3).all()


def test_one_update_a_step_costs_six_passes_a_step_of_which_the_pivot_is_one():
    """ε_C, r with its gradient (two), J d, and the guided step, which is the look at the new ∅; and the
    walk up.
    """
    run = tuned(solver="gauss-newton", start="prompt", inner=1, stop=0.0)
    assert (
        (run.updates == 1).all()
        and run.backwards.tolist() == [S] * 2
        and run.forwards.tolist() == [S * 6] * 2
    )


class Cliff(Smooth):
    """Smooth, but where ∅ is more than 0.05 away from "", pictures whose first number is positive get `beyond`."""

    beyond = 100.0

    def forward(self, x_t, t, ctx, tap=None):
        away = (ctx - EMPTY[:1]).flatten(1).norm(dim=1)
        is_prompt = (ctx[:, None] == COND).flatten(2).all(2).any(1)
        fallen = (away > 0.05) & ~is_prompt & (x_t[:, 0, 0, 0] > 0)
        return super().forward(x_t, t, ctx, tap).where(~fallen[:, None, None, None], self.beyond)


@pytest.mark.parametrize("beyond", [100.0, math.nan])
def test_a_last_update_that_made_things_worse_is_taken_back_by_the_walk(beyond):
    model = replace(B, net=Cliff(B.schedule))
    model.net.beyond = beyond
    pivot = one_step()
    assert (pivot.start[:, 0, 0, 0] > 0).tolist() == [True, False]
    run = null_text(model, pivot.path[-1], PROMPTS, steps=1, inner=1, stop=0.0, pivot=pivot, **FAST)
    kept = [torch.equal(now, first) for now, first in zip(run.nulls[0], EMPTY)]
    # ε_C, r, J d and the guided step; taken back, that step again
    assert kept == [True, False] and run.forwards.tolist() == [7 if k else 5 for k in kept]
    assert run.updates.tolist() == [[1, 1]]
    assert_close(run.z_bar, guided(pivot.start, run.nulls[0], 500, 400), atol=1e-12, rtol=1e-12)


def test_an_update_that_went_too_far_is_halved_until_it_helps():
    model, pivot = replace(B, net=Cliff(B.schedule)), one_step()
    run = null_text(model, pivot.path[-1], PROMPTS, steps=1, inner=8, stop=0.0, pivot=pivot, **FAST)
    before = mean_square(pivot.path[1] - guided(pivot.start, EMPTY, 500, 400))
    moved = (run.nulls[0] - EMPTY).flatten(1).norm(dim=1)
    assert (run.losses[0] < 0.99 * before).all() and 0 < moved[0] <= 0.05 < moved[1]


@pytest.mark.parametrize(
    "how", [dict(), FAST, dict(solver="adam-skip", start="prompt"), dict(start="between", **FAST)]
)
def test_the_replay_is_the_optimisers_own_walk_to_the_bit(how, paper):
    run = paper if not how else tuned(**how)
    path = redo(B, run)
    assert torch.equal(path[-1], run.z_bar) and torch.equal(path[0], run.path[0])
    assert len(run.nulls) == len(run.losses) == len(run.updates) == S
    for i, z in enumerate(path[1:]):
        assert_close(mean_square(run.path[i + 1] - z), run.losses[i], atol=1e-15, rtol=1e-12)


def test_at_w_1_there_is_nothing_to_tune():
    run = tuned(w=1.0)
    assert not run.updates.any() and not run.backwards.any() and run.forwards.tolist() == [2 * S] * 2
    assert torch.equal(run.nulls, B.embed(["", ""]).expand_as(run.nulls)) and run.losses.max() > 1e-4
    null, (t, s) = EMPTY.clone().requires_grad_(), run.times[:2]
    loss = mean_square(run.path[1] - guided(run.path[0], null, t, s, w=1.0)).sum()
    (gradient,) = torch.autograd.grad(loss, null)
    assert loss > 1e-4 and not gradient.any()  # exactly 0, though the loss is not


def test_with_a_fixed_point_pivot_the_loss_at_w_1_is_nothing():
    pivot = invert(B, X, PROMPTS, steps=24, iterations=150)
    assert tuned(w=1.0, steps=24, pivot=pivot).losses.max() < 1e-20
    run = tuned(start="prompt", steps=24, pivot=pivot, **FAST)  # and ∅ = C is the answer at every w
    assert run.losses.max() < 1e-20 and not run.updates.any()
    assert run.forwards.tolist() == [24 * 151 + 24 * 4] * 2


def test_each_picture_is_tuned_as_if_alone_and_stops_for_itself(fast):
    for how, together in ((FAST, fast), (dict(solver="adam-skip", start="prompt", stop=2e-3), None)):
        together = together or tuned(**how)
        for n in range(2):
            alone = tuned(X[n : n + 1], PROMPTS[n], **how)
            assert_close(alone.z_bar, together.z_bar[n : n + 1], atol=1e-7, rtol=1e-7)
            assert torch.equal(alone.updates[:, 0], together.updates[:, n])
            assert alone.forwards[0] == together.forwards[n] and alone.backwards[0] == together.backwards[n]
    assert together.updates[:, 0].tolist() != together.updates[:, 1].tolist()


@pytest.mark.parametrize(
    "how",
    [
        dict(solver="adam", stop=0.01),
        FAST,
        dict(start="between", solver="adam-skip", stop=0.01),
        dict(verb=shared_null_text),
        dict(w=1.0),
    ],
)
def test_the_passes_that_are_counted_are_those_that_the_net_was_asked(how):
    before, verb = B.net.asked, how.get("verb", null_text)
    run = verb(B, X[:1], PROMPTS[0], steps=S, **{name: how[name] for name in how if name != "verb"})
    assert run.calls == run.forwards.item()
    asked = B.net.asked - before
    assert asked == run.forwards.item()


def test_no_parameter_gets_a_gradient(paper):
    assert all(p.requires_grad for p in B.net.parameters())  # they could
    assert all(p.grad is None for p in B.net.parameters()) and not paper.nulls.requires_grad


def test_the_published_solver_updates_even_a_picture_that_is_done_and_adam_skip_does_not():
    for solver, updates in (("adam", 1), ("adam-skip", 0)):
        run = solved(one_step(), inner=5, stop=1e9, solver=solver)
        assert run.updates.tolist() == [[updates] * 2] and torch.equal(run.nulls[0], EMPTY) == (updates == 0)


class Linear(Counted):
    """An ε that is linear in its context: the inner problem is then linear least squares."""

    def __init__(self):
        super().__init__(Schedule.cosine(), 3)
        self.map = 0.3 * randn(4, 48, seed=3)

    def forward(self, x_t, t, ctx, tap=None):
        return (ctx.flatten(1) @ self.map).reshape(-1, 3, 4, 4)


def test_conjugate_gradients_solve_a_linear_problem_in_as_many_updates_as_it_has_unknowns():
    model = model_of(Linear(), partial(words, tokens=1, width=4), 4)
    cond, want, z = model.embed(PROMPTS), 0.1 * randn(2, 1, 4, seed=20), 0.1 * randn(2, 3, 4, 4)
    target = redo(model, FixedNull(tuple(PROMPTS), 7.5, (500, 400), [z, z], 0, want))[-1]
    pivot = Inversion(tuple(PROMPTS), 1.0, (500, 400), [z, target], 0)
    run = null_text(model, target, PROMPTS, steps=1, inner=12, stop=1e-22, pivot=pivot, **FAST)
    assert_close(run.nulls[0], want, atol=1e-8, rtol=1e-8)
    assert run.updates.max() <= 6 and cond.shape == want.shape
    slow = null_text(model, target, PROMPTS, steps=1, inner=12, stop=1e-22, pivot=pivot)
    assert (slow.nulls[0] - want).abs().max() > 0.1


@dataclass(frozen=True)
class FixedNull(Inversion):
    """A walk down with this ∅."""

    embedding: torch.Tensor

    def null(self, i):
        return self.embedding


# ---- ablations ----


def test_one_embedding_for_all_steps_is_that_of_a_loop_with_the_adam_of_torch():
    run = shared_null_text(B, X, PROMPTS, steps=S, inner=3)
    null = EMPTY.clone().requires_grad_()
    adam = torch.optim.Adam([null], lr=PUBLISHED_LR)
    for _ in range(3):
        for (t, s), z, target in zip(pairwise(run.times), run.path, run.path[1:]):
            adam.zero_grad()
            mean_square(target - guided(z, null, t, s)).sum().backward(inputs=[null])
            adam.step()
    assert_close(run.nulls[-1], null.detach(), atol=1e-9, rtol=1e-9)


def test_at_w_1_there_is_no_one_embedding_to_tune_and_a_pivot_that_is_given_is_walked():
    pivot = invert(B, X, PROMPTS, steps=S)
    run = shared_null_text(B, X, PROMPTS, steps=S, w=1.0, pivot=pivot)
    assert torch.equal(run.nulls, EMPTY.expand(S, -1, -1, -1)) and not run.backwards.any()
    assert torch.equal(run.path[-1], pivot.path[-1])


def test_one_embedding_for_all_steps_is_one_and_comes_back_less_well(fast):
    run = shared_null_text(B, X, PROMPTS, steps=S)
    assert (run.nulls == run.nulls[:1]).all() and (rms(run.z_bar) > rms(fast.z_bar)).all()
    assert run.backwards.tolist() == [10 * S] * 2 and torch.equal(redo(B, run)[-1], run.z_bar)


def test_a_random_pivot_is_the_noised_picture_and_no_pivot_has_a_noise_for_each_level():
    noise = randn(S, 2, 3, 4, 4)
    one, many = (tuned(pivot=random_pivot(B, X, PROMPTS, n, steps=S), **FAST) for n in (noise[0], noise))
    for i, t in enumerate(one.times[:-1]):
        assert_close(one.path[i], q_sample(B.schedule, X, t, noise[0]), atol=1e-12, rtol=1e-12)
        assert_close(many.path[i], q_sample(B.schedule, X, t, noise[i]), atol=1e-12, rtol=1e-12)
    assert torch.equal(one.path[-1], X) and torch.equal(many.path[-1], X)
    assert many.losses.sum() > one.losses.sum()


def test_between_leans_as_far_towards_the_empty_prompt_as_the_tolerance_allows():
    cond, empty = COND, EMPTY
    run = tuned(start="between", stop=1e9, solver="adam-skip")  # all the way where anything will do
    assert_close(run.nulls, empty.expand_as(run.nulls), atol=1e-12, rtol=1e-12)
    assert not run.updates.any() and run.forwards.tolist() == [S * 6] * 2
    run = tuned(start="between", stop=0.0, inner=1)  # nowhere where nothing will do: Adam moves it then
    assert ((run.nulls[0] - cond).abs() < 1.01e-2).all()
    run = tuned(start="between", stop=3e-3, solver="adam-skip")
    mu = ((run.nulls[-1] - cond) * (empty - cond)).sum((1, 2)) / ((empty - cond) ** 2).sum((1, 2))
    assert (mu > 0).all() and (mu < 1).all()


class Line:
    """A step whose residual is linear in ∅: r_0 at the prompt, r_1 at the empty text."""

    def __init__(self, r_0, r_1):
        self.model, self.z_bar, self.t = self, None, 0
        self.cond, self.eps_c, self.r_1 = COND[:1], r_0, r_1

    def __len__(self):
        return 1

    def eps(self, z, t, null):
        return self.r_1

    def residual_of(self, eps, active):
        return eps


def test_on_a_line_the_first_guess_meets_the_tolerance_exactly():
    r_0, r_1 = 0.1 * randn(1, 3, 4, 4, seed=1), randn(1, 3, 4, 4, seed=2)
    tolerance = 2 * mean_square(r_0).item()
    null = interpolated_start(Line(r_0, r_1), EMPTY[:1], tolerance)
    mu = ((null - COND[:1]) / (EMPTY[:1] - COND[:1])).mean()
    assert 0 < mu < 1 and mean_square(r_0 + mu * (r_1 - r_0)).item() == pytest.approx(tolerance)


def test_every_solver_asks_for_a_first_guess_within_half_the_tolerance_of_its_step(monkeypatch):
    asked = []

    def guess(step, empty, tolerance):
        asked.append(tolerance)
        return interpolated_start(step, empty, tolerance)

    monkeypatch.setattr("palimpsest.methods.null_text.interpolated_start", guess)
    monkeypatch.setattr("palimpsest.methods.null_solvers.interpolated_start", guess)
    for solver in ("adam", "adam-skip", "gauss-newton"):
        asked.clear()
        tuned(start="between", stop=3e-3, inner=1, solver=solver)
        assert asked == pytest.approx([3e-3 * (1 + 100 * i / S) / 2 for i in range(S)])


# ---- keeping ----


class Interrupt(KeyboardInterrupt):
    pass


@pytest.mark.parametrize(
    "how", [dict(inner=3), FAST, dict(inner=2, start="between", solver="adam-skip"), dict(w=1.0)]
)
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, how):
    file, whole, saved = tmp_path / "state.safetensors", tuned(**how), []
    key = null_text_key(B, X, PROMPTS, how)

    def save(run):
        save_null_text(file, run, key)
        saved.append(len(run.nulls))

    def save_and_break_off(run):
        save(run)
        if len(run.nulls) == 3:
            raise Interrupt

    with pytest.raises(Interrupt):
        tuned(each_step=save_and_break_off, **how)
    with pytest.raises(ValueError, match="is unfinished, 3 of 6 steps"):
        load_null_text(file, B, X)
    before = B.net.asked
    again = tuned(pivot=read_null_text(file, B, key), each_step=save, **how)
    assert saved == [1, 2, 3, 4, 5, 6] and B.net.asked - before < whole.forwards.sum()
    for name in (*KEPT, "backwards"):
        assert torch.equal(getattr(again, name), getattr(whole, name)), name
    loaded = load_null_text(file, B, X, PROMPTS, w=whole.w)
    assert torch.equal(redo(B, loaded)[-1], whole.z_bar) and loaded.times == whole.times
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_function_is_called_with_every_step():
    done = []
    run = tuned(each_step=lambda so_far: done.append(len(so_far.nulls)), inner=1)
    assert done == [1, 2, 3, 4, 5, 6] and len(run.nulls) == 6


def kept(tmp_path, run):
    key = null_text_key(B, X, PROMPTS, dict(solver="gauss-newton"))
    return save_null_text(tmp_path / "kept.safetensors", run, key)


def test_a_file_of_anything_else_is_refused_in_one_line_that_says_what_differs(tmp_path, fast):
    file = kept(tmp_path, fast)
    other = smooth_model(Schedule.cosine())
    other.net.map.data[0, 0] += 1e-9
    assert digest_model(other) != digest_model(B) != digest_model(replace(B, shift=B.shift + 1))

    def resumed(**settings):
        return read_null_text(file, B, null_text_key(B, X, PROMPTS, settings))

    for work, what in [
        (lambda: load_null_text(file, B, X * 0.999), "picture"),
        (lambda: load_null_text(file, other, X), "model"),
        (lambda: load_null_text(file, B, X, "a cat"), "prompt .*'a cat | a dog', not 'a cat | a cat'"),
        (lambda: load_null_text(file, B, X, w=3.0), r"w .'7.5', not '3.0'"),
        (lambda: resumed(solver="adam"), "solver .'gauss-newton', not 'adam'"),
        (lambda: resumed(steps=7, **FAST), "steps .'6', not '7'"),
    ]:
        with pytest.raises(ValueError, match=f"kept.safetensors: was made for another {what}") as refused:
            work()
        assert "\n" not in str(refused.value)
    assert torch.equal(load_null_text(file, B, X).nulls, fast.nulls)


def test_a_damaged_file_is_refused(tmp_path, fast):
    file = kept(tmp_path, fast)
    whole = file.read_bytes()
    for damage in (whole[:-100], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"not a file of tensors"):
        file.write_bytes(damage)
        with pytest.raises(ValueError, match="kept.safetensors: is damaged") as refused:
            load_null_text(file, B, X)
        assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="there is no such file"):
        load_null_text(tmp_path / "nowhere.safetensors", B, X)
    write_tensors(file, {"x": torch.zeros(1)}, {})
    assert read_tensors(file)[1] == {}
    with pytest.raises(ValueError, match="holds no null-text inversion"):
        load_null_text(file, B, X)


# ---- bad input ----


@pytest.mark.parametrize(
    "how, message",
    [
        (dict(w=0.0), "^w: must be at least 1"),
        (dict(w=float("nan")), "^w: must be"),
        (dict(inner=0), "^inner: must be"),
        (dict(lr=0.0), "^lr: must be above 0, got 0.0; the paper takes 0.01"),
        (dict(lr=float("nan")), "^lr: must be"),
        (dict(stop=-1.0), "^stop: must be"),
        (dict(steps=0), "^steps"),
        (dict(solver="sgd"), "^solver: must be adam, adam-skip or gauss-newton, got 'sgd'"),
        (dict(start="here"), "^start: must be empty, prompt or between"),
        (dict(prompts=["a"]), "^prompt: must be one, or one for each"),
        (dict(x=X[0]), "^x: must be .b, 3, y, x.*add the batch axis"),
        (dict(x=255 * X), "^x: must lie in"),
        (dict(pivot=invert(B, X.flip(0), PROMPTS, steps=6)), "^pivot: is the inversion of other pictures"),
        (
            dict(pivot=invert(B, X, PROMPTS, steps=1)),
            "^pivot: must be an inversion under the same prompt in the same 6 steps",
        ),
        (dict(pivot=invert(B, X, ["a", "b"], steps=6)), "^pivot: must be an inversion under"),
    ],
)
def test_what_cannot_be_tuned_is_refused(how, message):
    with pytest.raises(ValueError, match=message):
        tuned(**how)


def test_what_belongs_to_an_ablation_or_another_scale_is_refused(fast):
    with pytest.raises(ValueError, match="^noise: must be"):
        random_pivot(B, X, PROMPTS, torch.zeros(1, 3, 4, 4), steps=S)
    with pytest.raises(ValueError, match="^start: must be empty or prompt"):
        shared_null_text(B, X, PROMPTS, start="between")
    with pytest.raises(ValueError, match="^pivot: was tuned for w = 7.5"):
        tuned(w=3.0, pivot=fast)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused_in_one_line(dtype):
    half = smooth_model()
    half.net.to(dtype)
    with pytest.raises(
        ValueError, match="^model: null-text optimisation needs float32, and this model is torch.*float16"
    ):
        null_text(half, X, PROMPTS)


@pytest.mark.parametrize(
    "prompt, message",
    [
        (
            "a cat",
            "^prompt: the model .* was trained without text; leave the prompt empty or choose another model",
        ),
        ("", "^model: the model .* was trained without text; this method needs it: choose another model"),
    ],
)
def test_a_model_without_text_is_refused_whether_or_not_a_prompt_is_given(prompt, message):
    silent = replace(B, text=None, tokenizer=None)
    for work in (lambda: null_text(silent, X, prompt, steps=1), lambda: ladder(silent, X, prompt, steps=1)):
        with pytest.raises(ValueError, match=message):
            work()


def test_one_step_is_enough():
    run = tuned(steps=1, **FAST)
    raw = redo(B, replace(paper_up(7.5), path=run.path, times=run.times))[-1]
    assert len(run.nulls) == 1 and (run.losses[0] < mean_square(run.path[1] - raw)).all()


def test_on_a_real_net_the_loss_falls_and_the_replay_is_exact(tmp_path):
    model = load(tiny_weights(tmp_path))
    x = (randn(1, 3, 32, 32) / 4).float().clamp(-1, 1)
    run = null_text(model, x, "a red star", steps=3, inner=3)
    assert torch.equal(redo(model, run)[-1], run.z_bar) and run.nulls.dtype == torch.float32
    raw = redo(model, replace(run, nulls=model.embed("").expand_as(run.nulls).contiguous()))[-1]
    assert rms(run.z_bar, run.path[-1]) < rms(raw, run.path[-1])
