"""methods/null_text and its solvers, on formulas in float64: Eqs. (20)–(22), what it costs, and what is
kept.
"""

import ast
import inspect
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import palimpsest.methods.null_solvers as solvers
import palimpsest.methods.null_text as module
from palimpsest.methods.inversion import invert, redo
from palimpsest.methods.ladder import ladder
from palimpsest.methods.null_solvers import Found, Spent, Step, adam, adam_update, gauss_newton
from palimpsest.methods.null_text import load_null_text, null_text, pivot_loss, tune, walk
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.cache import digest_model, read_tensors, write_tensors
from palimpsest.weights.load import load
from tests.oracles import randn, smooth_bundle
from tests.tiny import tiny_weights

S = 6
B = smooth_bundle(Schedule.cosine())
X = randn(2, 3, 4, 4, seed=5) / 2
PROMPTS = ["a cat", "a dog"]
FAST = dict(solver="gauss-newton")


def rms(z, x=X):
    return (z - x).square().mean((1, 2, 3)).sqrt()


def tuned(x=X, prompts=PROMPTS, **how):
    return null_text(B, x, prompts, **{"steps": S, **how})


@pytest.fixture(scope="module")
def paper():
    return tuned()


@pytest.fixture(scope="module")
def fast():
    return tuned(**FAST)


# ---- the equations ----


def test_equation_20_is_the_mean_square_of_each_picture():
    r = randn(2, 1, 2, 2)
    want = [sum(v * v for v in one) / 4 for one in r.flatten(1).tolist()]
    assert pivot_loss(r).tolist() == pytest.approx(want, rel=1e-12)
    assert pivot_loss(torch.zeros(2, 3, 4, 4)).tolist() == [0, 0]


def guided(step, null):
    """z_s(z̄, ∅, C) by Eqs. (18) and (17), written out."""
    a, c = step.b.schedule.at(step.t), step.b.schedule.at(step.s)
    eps = step.w * step.b.eps(step.z, step.t, step.cond) + (1 - step.w) * step.b.eps(step.z, step.t, null)
    return (c / a) ** 0.5 * step.z + c**0.5 * ((1 / c - 1) ** 0.5 - (1 / a - 1) ** 0.5) * eps


def one_step(w=7.5):
    z = randn(2, 3, 4, 4, seed=9)
    cond, empty = B.embed(PROMPTS), B.embed(["", ""])
    t, s = 500, 400
    target = ddim_step(B.schedule, z, B.eps(z, t, cond), t, s) + 0.01 * randn(2, 3, 4, 4, seed=30)
    return Step(B, z, target, t, s, w, cond), empty


def test_equation_21_is_gone_down_by_its_own_gradient():
    """One update of Adam is rate · sign of the gradient, in every coordinate; the gradient here by
    differences.
    """
    step, empty = one_step()
    spent = Spent.of(2)
    moved = tune(step, empty, 1, 1e-3, 0.0, "adam", spent).null - empty
    for where in ((0, 0, 0), (0, 2, 5), (1, 1, 3), (1, 0, 7)):
        nudge = torch.zeros_like(empty)
        nudge[where] = 1e-5
        up, down = (
            ((step.target - guided(step, empty + sign * nudge)) ** 2).mean((1, 2, 3))[where[0]]
            for sign in (1, -1)
        )
        assert moved[where].item() == pytest.approx(-1e-3 * (up - down).sign().item(), rel=1e-3)
    assert (
        spent.updates.tolist() == [1, 1]
        and spent.forwards.tolist() == [1, 1]
        and spent.backwards.tolist() == [1, 1]
    )


def test_equation_21_is_found_to_the_last_digit_where_it_can_be():
    step, empty = one_step()
    hit = replace(
        step, target=guided(step, step.cond + 0.1 * randn(2, 3, 8, seed=50))
    )  # a target within reach
    null = tune(hit, empty, 60, 0.0, 1e-20, "gauss-newton", Spent.of(2)).best
    first = ((hit.target - guided(hit, empty)) ** 2).mean((1, 2, 3))
    assert (((hit.target - guided(hit, null)) ** 2).mean((1, 2, 3)) < 1e-4 * first).all()


def test_equation_22_walks_with_the_embedding_that_was_found(paper):
    z = paper.start
    for i, (t, s) in enumerate(zip(paper.times, paper.times[1:])):
        z = guided(Step(B, z, z, t, s, 7.5, B.embed(PROMPTS)), paper.nulls[i])
        assert_close(((paper.path[i + 1] - z) ** 2).mean((1, 2, 3)), paper.losses[i], atol=1e-10, rtol=1e-8)
    assert_close(z, paper.z_bar, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("wrong", ["miss", "combine", "grad"])
def test_a_flipped_sign_in_the_equations_is_seen(monkeypatch, wrong, fast):
    if wrong == "miss":  # Eq. (20): z* + z
        monkeypatch.setattr(
            Step,
            "miss",
            lambda self, n, live: (
                self.target[live]
                + ddim_step(B.schedule, self.z[live], n + self.w * (self.eps_c[live] - n), self.t, self.s)
            ),
        )
    elif wrong == "combine":  # Eq. (21): ∅ and C the other way about
        monkeypatch.setattr(solvers, "combine", lambda null, cond, w: cond + w * (null - cond))
    else:  # Eq. (22): up the loss
        monkeypatch.setattr(solvers, "dot", lambda x, y: -(x.flatten(1) * y.flatten(1)).sum(1)[:, None, None])
    assert (rms(tuned(**FAST).z_bar) > 2 * rms(fast.z_bar)).all()


@pytest.mark.parametrize("number, home", [(20, "pivot_loss"), (21, "tune"), (22, "walk")])
def test_each_equation_has_one_home(number, home):
    root = Path(module.__file__).parent.parent
    found = []
    for path in [
        p for room in ("methods", "samplers", "nets", "weights") for p in (root / room).glob("*.py")
    ]:
        text = path.read_text()
        for n in [n for n in ast.parse(text).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]:
            if re.search(rf"# .*Eq\. \({number}\)", ast.get_source_segment(text, n)):
                found.append((path.name, n.name))
    assert found == [("null_text.py", home)]
    assert f"Eq. ({number})" in inspect.getsource(getattr(module, home))


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


def test_a_last_update_that_made_things_worse_is_taken_back_by_the_walk():
    step, empty = one_step()
    good, bad = empty + 0.01, empty + 5.0
    losses = [pivot_loss(step.target - guided(step, null)) for null in (good, bad)]
    assert (losses[0] < losses[1]).all()
    spent = Spent.of(2)
    one = torch.where(torch.tensor([True, False])[:, None, None], bad, good)  # the first picture's is bad
    null, z_bar = walk(step, Found(one, good, losses[0]), spent)
    assert torch.equal(null, good) and spent.forwards.tolist() == [4, 2]
    assert_close(z_bar, guided(step, good), atol=1e-12, rtol=1e-12)
    null, _ = walk(step, Found(good, bad, losses[1]), spent)
    assert torch.equal(null, good)
    assert torch.equal(
        walk(step, Found(bad * math.nan, good, losses[0]), spent)[0], good
    )  # NaN is worse than anything


@pytest.mark.parametrize(
    "how", [dict(), FAST, dict(solver="adam-skip", start="prompt"), dict(start="between", **FAST)]
)
def test_the_replay_is_the_optimisers_own_walk_to_the_bit(how, paper):
    run = paper if not how else tuned(**how)
    path = redo(B, run)
    assert torch.equal(path[-1], run.z_bar) and torch.equal(path[0], run.path[0])
    assert len(run.nulls) == len(run.losses) == len(run.updates) == S
    for i, z in enumerate(path[1:]):
        assert torch.equal(pivot_loss(run.path[i + 1] - z), run.losses[i])


def test_at_w_1_there_is_nothing_to_tune():
    run = tuned(w=1.0)
    assert not run.updates.any() and not run.backwards.any() and run.forwards.tolist() == [2 * S] * 2
    assert torch.equal(run.nulls, B.embed(["", ""]).expand_as(run.nulls)) and run.losses.max() > 1e-4
    null = B.embed(["", ""]).requires_grad_()
    step = Step(B, run.path[0], run.path[1], *run.times[:2], 1.0, B.embed(PROMPTS))
    (gradient,) = torch.autograd.grad(pivot_loss(step.target - guided(step, null)).sum(), null)
    assert not gradient.any()  # exactly 0, though the loss is not


def test_with_a_fixed_point_pivot_the_loss_at_w_1_is_nothing():
    assert tuned(w=1.0, steps=24, iterations=150).losses.max() < 1e-20
    run = tuned(start="prompt", steps=24, iterations=150, **FAST)  # and ∅ = C is the answer at every w
    assert (
        run.losses.max() < 1e-20
        and not run.updates.any()
        and run.forwards.tolist() == [24 * 151 + 24 * 4] * 2
    )


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
        dict(shared=True),
    ],
)
def test_the_passes_that_are_counted_are_those_that_the_net_was_asked(how):
    before = B.net.asked
    run = tuned(X[:1], PROMPTS[0], **how)
    assert run.calls == run.forwards.item()
    asked = B.net.asked - before
    assert asked == run.forwards.item()


def test_no_parameter_gets_a_gradient(paper):
    assert all(p.requires_grad for p in B.net.parameters())  # they could
    assert all(p.grad is None for p in B.net.parameters()) and not paper.nulls.requires_grad


def test_the_published_solver_moves_even_a_picture_that_is_done_and_the_other_does_not():
    step, empty = one_step()
    for solver, updates in (("adam", 1), ("adam-skip", 0)):
        spent = Spent.of(2)
        null = tune(step, empty, 5, 1e-2, 1e9, solver, spent).null
        assert spent.updates.tolist() == [updates] * 2 and torch.equal(null, empty) == (updates == 0)


def test_the_tolerance_grows_and_the_rate_falls_as_published(monkeypatch):
    asked = []

    def spy(residual, loss, null, live, inner, rate, enough, spent):
        asked.append((inner, rate, enough))
        return Found.of(null)

    monkeypatch.setitem(module.SOLVERS, "adam", spy)
    tuned(X[:1], "a cat", steps=50)
    assert len(asked) == 50 and {inner for inner, _, _ in asked} == {10}
    for i, (_, rate, enough) in enumerate(asked):
        assert rate == pytest.approx(1e-2 * (1 - i / 100)) and enough == pytest.approx(1e-5 + i * 2e-5)


def test_adam_is_that_of_its_paper_number_by_number():
    x = randn(1, 5)
    m, v, plain = torch.zeros_like(x), torch.zeros_like(x), [(value, 0.0, 0.0) for value in x[0].tolist()]
    for n in range(1, 5):
        x, m, v = adam_update(x, torch.sin(3 * x) + x, m, v, n, 0.01)
        for k, (y, a, c) in enumerate(plain):
            g = math.sin(3 * y) + y
            a, c = 0.9 * a + (1 - 0.9) * g, 0.999 * c + (1 - 0.999) * g * g
            plain[k] = y - 0.01 * (a / (1 - 0.9**n)) / (math.sqrt(c / (1 - 0.999**n)) + 1e-8), a, c
        assert x[0].tolist() == pytest.approx([y for y, _, _ in plain], abs=1e-12)


def test_conjugate_gradients_solve_a_linear_problem_in_as_many_updates_as_it_has_unknowns():
    a, want = randn(6, 4, seed=3), randn(2, 4, 1, seed=20)
    matrix = a.T  # (4 6): 4 unknowns
    residual = lambda null, live: ((null - want[live])[..., 0] @ matrix)[:, None, None]
    spent = Spent.of(2)
    null = gauss_newton(
        residual, pivot_loss, torch.ones(2, 4, 1).double(), [0, 1], 12, 0.0, 1e-22, spent
    ).best
    assert_close(null, want, atol=1e-8, rtol=1e-8)
    assert spent.updates.max() <= 6
    slow = adam(residual, pivot_loss, torch.ones(2, 4, 1).double(), [0, 1], 12, 0.01, 1e-22, Spent.of(2)).null
    assert (slow - want).abs().max() > 0.1


# ---- ablations ----


def test_one_embedding_for_all_steps_is_one_and_comes_back_less_well(fast):
    run = tuned(shared=True)
    assert (run.nulls == run.nulls[:1]).all() and (rms(run.z_bar) > rms(fast.z_bar)).all()
    assert run.backwards.tolist() == [10 * S] * 2 and torch.equal(redo(B, run)[-1], run.z_bar)


def test_a_random_pivot_is_the_noised_picture_and_no_pivot_has_a_noise_for_each_level():
    noise = randn(S, 2, 3, 4, 4)
    one, many = tuned(noise=noise[0], **FAST), tuned(noise=noise, **FAST)
    for i, t in enumerate(one.times[:-1]):
        assert_close(one.path[i], q_sample(B.schedule, X, t, noise[0]), atol=1e-12, rtol=1e-12)
        assert_close(many.path[i], q_sample(B.schedule, X, t, noise[i]), atol=1e-12, rtol=1e-12)
    assert torch.equal(one.path[-1], X) and torch.equal(many.path[-1], X)
    assert many.losses.sum() > one.losses.sum()


def test_between_leans_as_far_towards_the_empty_prompt_as_the_tolerance_allows():
    cond, empty = B.embed(PROMPTS), B.embed(["", ""])
    run = tuned(start="between", stop=1e9, solver="adam-skip")  # all the way where anything will do
    assert_close(run.nulls, empty.expand_as(run.nulls), atol=1e-12, rtol=1e-12)
    assert not run.updates.any() and run.forwards.tolist() == [S * 6] * 2
    run = tuned(start="between", stop=0.0, inner=1)  # nowhere where nothing will do: Adam moves it then
    assert ((run.nulls[0] - cond).abs() < 1.01e-2).all()
    run = tuned(start="between", stop=3e-3, solver="adam-skip")
    mu = ((run.nulls[-1] - cond) * (empty - cond)).sum((1, 2)) / ((empty - cond) ** 2).sum((1, 2))
    assert (mu > 0).all() and (mu < 1).all()


# ---- keeping ----


class Interrupt(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("how", [dict(inner=3), FAST, dict(shared=True, inner=2)])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, monkeypatch, how):
    file, whole = tmp_path / "state.safetensors", tuned(**how)
    save, saved = module.NullText.save, []

    def broken_off(self, path):
        save(self, path)
        saved.append(len(self.nulls))
        if len(self.nulls) == 3:
            raise Interrupt

    monkeypatch.setattr(module.NullText, "save", broken_off)
    with pytest.raises(Interrupt):
        tuned(state=file, **how)
    with pytest.raises(ValueError, match="is unfinished, 3 of 6 steps"):
        load_null_text(file, B, X)
    before = B.net.asked
    again = tuned(state=file, **how)
    assert saved == [1, 2, 3, 4, 5, 6] and B.net.asked - before < whole.forwards.sum()
    for name in (*module.TENSORS,):
        assert torch.equal(getattr(again, name), getattr(whole, name)), name
    loaded = load_null_text(file, B, X, PROMPTS, w=7.5)
    assert torch.equal(redo(B, loaded)[-1], whole.z_bar) and loaded.times == whole.times
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_function_is_told_of_every_step():
    told = []
    run = tuned(state=lambda so_far: told.append(len(so_far.nulls)), inner=1)
    assert told == [1, 2, 3, 4, 5, 6] and len(run.nulls) == 6


def test_a_file_of_anything_else_is_refused_in_one_line_that_says_what_differs(tmp_path, fast):
    file = fast.save(tmp_path / "kept.safetensors")
    other = smooth_bundle(Schedule.cosine())
    other.net.map.data[0, 0] += 1e-9
    assert digest_model(other) != digest_model(B) != digest_model(replace(B, shift=B.shift + 1))
    for work, what in [
        (lambda: load_null_text(file, B, X + 1e-6), "picture"),
        (lambda: load_null_text(file, other, X), "model"),
        (lambda: load_null_text(file, B, X, "a cat"), "prompt .*'a cat | a dog', not 'a cat | a cat'"),
        (lambda: load_null_text(file, B, X, w=3.0), r"w .'7.5', not '3.0'"),
        (lambda: tuned(state=file, solver="adam"), "solver .'gauss-newton', not 'adam'"),
        (lambda: tuned(state=file, steps=7, **FAST), "steps .'6', not '7'"),
    ]:
        with pytest.raises(ValueError, match=f"kept.safetensors: was made for another {what}") as refused:
            work()
        assert "\n" not in str(refused.value)
    assert torch.equal(load_null_text(file, B, X).nulls, fast.nulls)


def test_a_damaged_file_is_refused(tmp_path, fast):
    file = fast.save(tmp_path / "kept.safetensors")
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
        (dict(lr=0.0), "^lr: must be"),
        (dict(lr=float("nan")), "^lr: must be"),
        (dict(stop=-1.0), "^stop: must be"),
        (dict(steps=0), "^steps"),
        (dict(solver="sgd"), "^solver: must be one of adam, adam-skip, gauss-newton"),
        (dict(start="here"), "^start: must be"),
        (dict(shared=True, solver="adam-skip"), "^start: must be"),
        (dict(noise=torch.zeros(1, 3, 4, 4)), "^noise: must be"),
        (dict(prompts=["a"]), "^prompts: must be one, or one for each"),
    ],
)
def test_what_cannot_be_tuned_is_refused(how, message):
    with pytest.raises(ValueError, match=message):
        tuned(**how)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused_in_one_line(dtype):
    half = smooth_bundle()
    half.net.to(dtype)
    with pytest.raises(
        ValueError, match="^model: null-text optimisation needs float32, and this bundle is torch.*float16"
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
    assert (
        len(run.nulls) == 1
        and (
            run.losses[0]
            < pivot_loss(run.path[1] - redo(B, replace(paper_up(7.5), path=run.path, times=run.times))[-1])
        ).all()
    )


def test_on_a_real_net_the_loss_falls_and_the_replay_is_exact(tmp_path):
    b = load(tiny_weights(tmp_path))
    x = (randn(1, 3, 32, 32) / 4).float().clamp(-1, 1)
    run = null_text(b, x, "a red star", steps=3, inner=3)
    assert torch.equal(redo(b, run)[-1], run.z_bar) and run.nulls.dtype == torch.float32
    raw = redo(b, replace(run, nulls=b.embed("").expand_as(run.nulls).contiguous()))[-1]
    assert pivot_loss(run.path[-1] - run.z_bar) < pivot_loss(run.path[-1] - raw)
