from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from random_weights import normal, randomised

from palimpsest.nets.attention import Attention, Site, at, attend, wants
from palimpsest.nets.fast_cpu import fused_attention, gradient_is_slow

HERE = Site("down0.1", "self", (2, 3))
LAYERS = {
    "self": Attention(12, heads=3),
    "cross": Attention(12, ctx_width=5, heads=3),
    "causal": Attention(12, heads=3, bias=True, causal=True),
}


def layer_and_inputs(kind):
    layer = randomised(LAYERS[kind]).double()
    x = normal(2, 6, 12, seed=2, dtype=torch.float64)
    return layer, x, normal(2, 4, 5, seed=3, dtype=torch.float64) if kind == "cross" else None


@pytest.mark.parametrize("kind", LAYERS)
def test_an_identity_tap_changes_nothing(kind):
    layer, x, ctx = layer_and_inputs(kind)
    tapped = layer(x, ctx, lambda probs, site: probs, HERE)
    torch.testing.assert_close(tapped, layer(x, ctx), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_tap_sees_the_softmax_of_scaled_dot_products(kind):
    layer, x, ctx = layer_and_inputs(kind)
    seen = []
    layer(x, ctx, lambda probs, site: seen.append((probs, site)) or probs, HERE)
    ((probs, site),) = seen
    assert site == HERE
    source = x if ctx is None else ctx
    assert probs.shape == (2, 3, 6, source.shape[1])
    q, k = layer.to_q(x).detach(), layer.to_k(source).detach()
    for b, h, i in [(0, 0, 0), (1, 2, 4), (0, 1, 5)]:
        head = slice(4 * h, 4 * h + 4)
        keys = range(i + 1) if kind == "causal" else range(source.shape[1])
        weights = [math.exp(float(q[b, i, head] @ k[b, j, head]) / math.sqrt(4)) for j in keys]
        expected = torch.zeros(source.shape[1], dtype=torch.float64)
        expected[: len(weights)] = torch.tensor(weights) / sum(weights)
        torch.testing.assert_close(probs[b, h, i], expected)


def test_what_the_tap_returns_is_what_weighs_the_values():
    layer, x, ctx = layer_and_inputs("cross")
    first_token_only = torch.zeros(2, 3, 6, 4, dtype=torch.float64)
    first_token_only[..., 0] = 1
    out = layer(x, ctx, lambda probs, site: first_token_only, HERE)
    torch.testing.assert_close(out, layer.to_out(layer.to_v(ctx[:, :1])).expand(2, 6, 12))


def test_causal_attention_does_not_look_ahead():
    layer, x, _ = layer_and_inputs("causal")
    changed = x.clone()
    changed[:, 3] += 1
    before, after = layer(x), layer(changed)
    torch.testing.assert_close(after[:, :3], before[:, :3], rtol=0, atol=0)
    assert (after[:, 3:] - before[:, 3:]).abs().amin() > 0


def test_a_tap_works_in_half_precision_with_float32_exponentials():
    layer, x, _ = layer_and_inputs("self")
    x = 8 * x  # peaked probabilities: an error of the logits would show
    exact = layer(x)
    half = layer.bfloat16()(x.bfloat16(), None, lambda probs, site: probs.float(), HERE)
    layer.double()
    assert half.dtype == torch.bfloat16
    assert (half.double() - exact).abs().max() < 0.05 * exact.abs().max()


def test_written_out_for_its_gradient_in_bfloat16_it_is_what_the_fused_kernel_says():
    q, k, v = (normal(2, 3, 10, 8, seed=n).requires_grad_() for n in range(3))
    fused = F.scaled_dot_product_attention(q, k, v)
    wanted = torch.autograd.grad(fused.square().sum(), (q, k, v))
    half = [t.bfloat16() for t in (q, k, v)]
    out = attend(*half)
    assert (
        gradient_is_slow(half[0])
        and "Bmm" in type(out.grad_fn.next_functions[0][0]).__name__
        and out.dtype == torch.bfloat16
    )
    torch.testing.assert_close(out.float(), fused, rtol=0.03, atol=0.02)
    for mine, theirs in zip(torch.autograd.grad(out.float().square().sum(), (q, k, v)), wanted):
        assert ((mine - theirs).square().mean() / theirs.square().mean()).sqrt() < 0.02
    with torch.no_grad():
        assert not gradient_is_slow(half[0]) and not gradient_is_slow(q)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_causal_attention_never_looks_ahead_also_where_its_gradient_is_wanted(dtype):
    q, k, v = (normal(1, 2, 6, 8, seed=n).to(dtype).requires_grad_() for n in range(3))
    changed = (torch.cat([x[:, :, :5], 3 + x[:, :, 5:]], 2) for x in (k, v))
    before, after = fused_attention(q, k, v, causal=True), fused_attention(q, *changed, causal=True)
    assert torch.equal(before[:, :, :5], after[:, :, :5])
    assert not torch.equal(before[:, :, 5:], after[:, :, 5:])


@pytest.mark.parametrize(
    "restriction, there",
    [
        ({}, True),
        ({"kind": "self"}, True),
        ({"kind": "cross"}, False),
        ({"res": (2, 3)}, True),
        ({"res": [2, 3]}, True),
        ({"res": (3, 2)}, False),
        ({"name": "down0.1"}, True),
        ({"name": "down"}, True),
        ({"name": "up"}, False),
        ({"sites": [HERE]}, True),
        ({"sites": []}, False),
        ({"sites": [HERE], "kind": "cross"}, False),
        ({"name": "down", "kind": "self", "res": (2, 3)}, True),
        ({"name": "down", "kind": "self", "res": (4, 4)}, False),
    ],
)
def test_at_lets_a_tap_hear_only_the_sites_that_fit(restriction, there):
    layer, x, _ = layer_and_inputs("self")
    calls = []
    tap = at(lambda probs, site: calls.append(site) or 0 * probs, **restriction)
    assert wants(tap, HERE) == there
    out = layer(x, None, tap, HERE)
    assert calls == ([HERE] if there else [])
    assert torch.equal(out, layer(x)) != there  # elsewhere, not even the path changes
    probs = normal(1, 1, 2, 2)
    assert torch.equal(tap(probs, HERE), probs) != there


def test_restrictions_nest():
    tap = at(at(lambda probs, site: probs, kind="self"), name="up")
    assert wants(tap, Site("up1.0", "self", (4, 4)))
    assert not wants(tap, Site("up1.0", "cross", (4, 4)))
    assert not wants(tap, Site("mid", "self", (4, 4)))


def test_no_tap_wants_nothing_and_a_plain_function_wants_everything():
    assert not wants(None, HERE)
    assert wants(lambda probs, site: probs, HERE)


def test_mistakes_are_named():
    layer, x, _ = layer_and_inputs("self")
    with pytest.raises(ValueError, match="kind: must be self, cross or joint, got 'crossed'"):
        at(lambda probs, site: probs, kind="crossed")
    with pytest.raises(ValueError, match=r"must return \(2, 3, 6, 6\).*not \(2, 6, 6\)"):
        layer(x, None, lambda probs, site: probs.mean(1), HERE)
    with pytest.raises(ValueError, match="heads: must divide"):
        Attention(12, heads=5)
