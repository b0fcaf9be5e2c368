"""samplers/guidance.py: Eq. (7) = Eq. (18), Eq. (35)."""

import math

import pytest
import torch
from torch.testing import assert_close

from palimpsest.samplers.guidance import autoguided, cfg, combine
from palimpsest.samplers.noise import Rng

X = Rng.of(0, 3).randn((3, 2, 4, 4)).double()
COND, NULL = (Rng.of(seed, 3).randn((3, 5, 6)).double() for seed in (10, 20))


class Net:
    """A small nonlinear network that writes down the batches it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, x_t, t, ctx):
        assert len(x_t) == len(ctx)
        self.asked.append(ctx)
        return torch.sin(x_t * (1 + ctx.sum((1, 2))[:, None, None, None]) + t)


def test_equation_7_is_equation_18():
    for w in (0.0, 0.5, 1.0, 3.0, 7.5):
        eq_18 = torch.tensor([[w * c + (1 - w) * n for n, c in zip(a, b)] for a, b in zip(X[0, 0], X[1, 0])])
        assert_close(combine(X[0, 0], X[1, 0], w), eq_18, atol=1e-14, rtol=1e-12)


def test_combine_has_its_limits_and_is_linear_in_w():
    a, b = X[:1], X[1:2]
    assert_close(combine(a, b, 0), a)
    assert_close(combine(a, b, 1), b)
    assert_close(combine(a, b, 3) - combine(a, b, 1), 2 * (b - a))
    assert_close(combine(a, a, 7.5), a)


@pytest.mark.parametrize("w", [-1.0, 0.0, 0.3, 1.0, 7.5])
def test_stacked_branches_equal_separate_calls(w):
    net = Net()
    expected = combine(net(X, 3, NULL), net(X, 3, COND), w)
    for stack in (True, False):
        assert_close(cfg(Net(), COND, NULL, w, stack=stack)(X, 3), expected, atol=1e-12, rtol=1e-12)


def test_stacking_asks_once_with_null_first():
    net = Net()
    cfg(net, COND, NULL, 2.0)(X, 3)
    assert len(net.asked) == 1 and torch.equal(net.asked[0], torch.cat([NULL, COND]))
    net = Net()
    cfg(net, COND, NULL, 2.0, stack=False)(X, 3)
    assert len(net.asked) == 2 and torch.equal(net.asked[0], NULL) and torch.equal(net.asked[1], COND)


@pytest.mark.parametrize("stack", [True, False])
def test_w_1_asks_only_cond_and_w_0_only_null(stack):
    for w, ctx in ((1, COND), (0, NULL)):
        net = Net()
        assert_close(cfg(net, COND, NULL, w, stack=stack)(X, 3), Net()(X, 3, ctx), atol=0, rtol=0)
        assert len(net.asked) == 1 and torch.equal(net.asked[0], ctx)


def test_one_context_serves_every_picture_and_a_guided_denoiser_ignores_batch_mates():
    one = cfg(Net(), COND[:1], NULL[:1], 4.0)
    assert_close(one(X, 3), cfg(Net(), COND[:1].repeat(3, 1, 1), NULL[:1].repeat(3, 1, 1), 4.0)(X, 3))
    assert_close(one(X, 3)[:1], one(X[:1], 3))


def test_contexts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="cond: .* and null"):
        cfg(Net(), COND, NULL[:, :4], 2.0)
    for w, name in ((2.0, "null"), (1.0, "cond"), (0.0, "null")):
        with pytest.raises(ValueError, match=f"^{name}: holds 2 contexts for 3 pictures"):
            cfg(Net(), COND[:2], NULL[:2], w)(X, 3)


@pytest.mark.parametrize("k", [2.0, 3.0, 11.0])
def test_equation_35_undoes_the_errors_that_two_models_share(k):
    """The better one is wrong by e, the worse one by k e: w = k/(k − 1) leaves nothing of it."""
    true, wrong = lambda x, t: torch.sin(x + t), torch.cos(3 * X)
    better, worse = (lambda x, t: true(x, t) + wrong), (lambda x, t: true(x, t) + k * wrong)
    assert_close(autoguided(better, worse, k / (k - 1))(X, 5), true(X, 5), atol=1e-12, rtol=0)
    beyond = autoguided(better, worse, (k + 1) / (k - 1))(X, 5)  # too far: as wrong, the other way
    assert_close(beyond, true(X, 5) - wrong, atol=1e-12, rtol=0)


def test_autoguidance_of_1_does_not_ask_the_worse_model_and_0_is_the_worse_model():
    def never(x_t, t):
        raise AssertionError("asked")

    better, worse = (lambda x_t, t: x_t * t), (lambda x_t, t: x_t - t)
    assert torch.equal(autoguided(better, never, 1.0)(X, 3), better(X, 3))
    assert_close(autoguided(better, worse, 0.0)(X, 3), worse(X, 3))
    for w in (math.inf, math.nan):
        with pytest.raises(ValueError, match="^w: must be a finite number"):
            autoguided(better, worse, w)
        with pytest.raises(ValueError, match="^w: must be a finite number"):
            cfg(lambda x_t, t, ctx: x_t, torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), w)
