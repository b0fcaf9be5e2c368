"""methods/diffedit: the mask's algebra, the blend to the bit, the bounds, and diffusers beside it.

Most tests use worlds that answer cell by cell: a Gaussian one, whose left half the words "red" and "blue"
tell apart, and a bent one, in which the noise matters. A tiny random model stands in where a codec or
attention does."""

import math
import sys
from dataclasses import fields, replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from random_weights import normal, randomised, transplant
from torch import nn
from torch.testing import assert_close

import palimpsest.cli.main as commands
from palimpsest.arguments import ArgumentError
from palimpsest.methods.diffedit import (
    Ablation,
    MaskRule,
    decode,
    diffedit,
    difference,
    encoding_bound,
    find_mask,
    heat_map,
    noising_bound,
    printed_encoding_bound,
)
from palimpsest.methods.sampling import TOP
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.ddim import invert, sample
from palimpsest.samplers.guidance import cfg
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.samplers.solvers import DDIM, Ancestral, DPMSolver2M, Heun
from palimpsest.weights.load import load
from palimpsest.weights.model import Model
from palimpsest.worlds.gaussian import GaussianWorld
from tests.tiny import tiny_weights

SD = Schedule.scaled_linear()


class CellNet(nn.Module):
    """ε = answer(x_t, t, ctx), in float64; remembers what it was asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.asked = answer, []
        self.like = nn.Parameter(torch.zeros(1, dtype=torch.float64))  # says device and dtype

    def forward(self, x_t, t, ctx=None, tap=None):
        self.asked.append((x_t, t))
        return self.answer(x_t, t, ctx)


def world(side=8):
    left = torch.zeros(3, side, side)
    left[..., : side // 2] = 1
    return GaussianWorld({"": 0 * left, "red": 0.5 * left, "blue": -0.5 * left, "grey": 0 * left}, 0.5)


def toy_model(answer=None, sched=SD, side=8):
    w = world(side)
    net = CellNet(answer or (lambda x_t, t, ctx: w.eps(x_t, sched.at(t), ctx)))
    return Model(name="cells", net=net, text=nn.Identity(), tokenizer=w.embed, schedule=sched, size=side)


def bent(x_t, t, ctx):
    """Every channel bent; where x_0 is large, the text counts more. ctx is one-hot over ("", red, blue,
    grey).
    """
    return (
        torch.sin(2 * x_t)
        + x_t.abs() * (ctx[:, 0] @ torch.tensor([0.0, 0.2, -0.3, 0.7]).to(ctx))[:, None, None, None]
    )


def pictures(n=1, side=8):
    return (0.4 * normal(n, 3, side, side, seed=5, dtype=torch.float64)).clamp(-1, 1)


def edited(model, x, *texts, **settings):
    """diffedit, with the fields of its records among the settings."""
    for name, record in {"rule": MaskRule, "ablation": Ablation}.items():
        own = {f.name: settings.pop(f.name) for f in fields(record) if f.name in settings}
        settings |= {name: record(**own)} if own else {}
    return diffedit(model, x, *texts, **settings)


def half(side=8):
    mask = torch.zeros(1, 1, side, side)
    mask[..., : side // 2] = 1
    return mask


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return load(tiny_weights(tmp_path_factory.mktemp("tiny")))


STARS = dict(source="a red star", target="a blue star", steps=4)


def spotty(n=1, side=16):
    """Positive, long-tailed D (n 1 y x)."""
    return normal(n, 1, side, side, seed=9, dtype=torch.float64) ** 2


# ---- the mask: algebra ----


@pytest.mark.parametrize("r", [1.2, 2.0, 3.0, 4.5])
@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.75])
def test_the_clamped_mean_marks_what_exceeds_threshold_times_r_means(r, threshold):
    D = spotty(3)
    assert torch.equal(
        heat_map(D, "mean", r=r) > threshold, D > threshold * r * D.mean((1, 2, 3), keepdim=True)
    )


def test_the_mean_clamp_marks_what_exceeds_the_mean_by_half_and_never_more_than_two_thirds():
    assert torch.equal(heat_map(spotty(), "mean") > 0.5, spotty() > 1.5 * spotty().mean())
    flat = torch.zeros(1, 1, 30, 1)
    for marked in (19, 20, 21):  # of 30 cells that differ alike
        flat[..., :marked, :] = 1
        assert (heat_map(flat, "mean") > 0.5).sum() == (marked if marked < 20 else 0)
    assert (heat_map(flat) > 0.5).sum() == (heat_map(flat, "mean", r=2.0) > 0.5).sum() == 21


@pytest.mark.parametrize("clamp", ["mean", "quantile"])
def test_the_heat_map_is_scale_free_in_0_1_and_shrinks_with_r(clamp):
    D = spotty(2)
    heat = heat_map(D, clamp)
    assert heat.min() == 0 or clamp == "mean"
    assert heat.min() >= 0 and heat.max() == 1
    assert_close(heat_map(7.5 * D, clamp), heat, atol=1e-12, rtol=0)
    wide, narrow = heat_map(D, "mean", r=2.5) > 0.5, heat_map(D, "mean", r=3.5) > 0.5
    assert (wide >= narrow).all() and wide.sum() > narrow.sum() > 0
    assert not (
        heat_map(D, "mean", r=2.001 * (D.amax((1, 2, 3)) / D.mean((1, 2, 3))).max().item()) > 0.5
    ).any()


def test_the_quantile_clip_ignores_how_far_an_extreme_lies():
    D = spotty()
    far = D.clone()
    far.view(-1)[D.argmax()] *= 1e6
    assert torch.equal(heat_map(far, "quantile"), heat_map(D, "quantile"))
    assert not torch.equal(heat_map(far, "mean"), heat_map(D, "mean"))
    assert (heat_map(D, "quantile", q=0.9) == 1).double().mean().item() == pytest.approx(0.1, abs=0.005)


@pytest.mark.parametrize("clamp", ["mean", "quantile"])
@pytest.mark.parametrize("D", [torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.3)])
def test_a_difference_without_contrast_marks_nothing(clamp, D):
    assert not (heat_map(D, clamp) > 0.5).any() and heat_map(D, clamp).isfinite().all()


@pytest.mark.parametrize("clamp", ["mean", "quantile"])
def test_one_picture_does_not_decide_anothers_heat(clamp):
    D = spotty(2) * torch.tensor([1.0, 1e4])[:, None, None, None]
    assert torch.equal(
        heat_map(D, clamp)[:1], heat_map(D[:1], clamp)
    )  # a mean of the batch would leave it black


def test_guidance_cancels_out_of_the_mask_and_so_does_the_order_of_the_texts():
    w, noises = world(), [normal(1, 3, 8, 8, seed=n, dtype=torch.float64) for n in range(3)]
    eps = {
        p: lambda w_, p=p: cfg(lambda x, t, ctx: bent(x, t, ctx), w.embed(p), w.embed(""), w_)
        for p in ("red", "blue")
    }

    def heat(q, r, scale):
        return heat_map(difference(eps[q](scale), eps[r](scale), SD, pictures(), 500, noises))

    for other in (heat("blue", "red", 1.0), heat("red", "blue", 1.5), heat("red", "blue", 15.0)):
        assert_close(other, heat("red", "blue", 1.0), atol=1e-12, rtol=0)
    assert (heat("red", "blue", 1.0) > 0.5).any()


def test_the_variance_of_d_falls_as_one_over_n_and_not_with_one_noise_reused():
    def d(noises):
        x_0 = torch.zeros(1, 3, 64, 64, dtype=torch.float64)
        return difference(lambda x, t: x.abs(), lambda x, t: 0 * x, SD, x_0, 500, noises).var().item()

    noises = [normal(1, 3, 64, 64, seed=n, dtype=torch.float64) for n in range(16)]
    assert d(noises[:1]) / d(noises) == pytest.approx(16, rel=0.15)
    assert d(noises[:1]) / d(noises[:1] * 16) == pytest.approx(1)


def test_the_verb_asks_about_as_many_different_noises_as_maps_with_both_texts():
    model, x = toy_model(bent), pictures()
    edited(model, x, "red", "blue", maps=4, steps=2, level=0.3)
    asked = [x_t for x_t, t in model.net.asked[:8]]
    assert [t for _, t in model.net.asked[:9]] == [300] * 8 + [400]
    z = torch.stack([(x_t - SD.at(300) ** 0.5 * x) / (1 - SD.at(300)) ** 0.5 for x_t in asked])
    gap = (z[:, None] - z[None]).abs().amax((2, 3, 4, 5))
    assert ((gap < 1e-9).sum(1) == 2).all() and (gap[gap >= 1e-9] > 1).all()  # four pairs, all far apart
    assert z.std().item() == pytest.approx(1, abs=0.1)


def test_averaging_before_the_absolute_value_raises_the_contrast_from_1_46_to_3_96():
    """Additive: Δ = 1 + ξ inside, ξ outside. E|1 + ξ|/E|ξ| = 1.46, and with ξ/√10 it is 3.96."""
    inside = torch.zeros(1, 1, 200, 200, dtype=torch.float64)
    inside[..., :100] = 1
    noises = [normal(1, 1, 200, 200, seed=n, dtype=torch.float64) for n in range(10)]

    def contrast(reduce):
        shift = (1 - SD.at(500)) ** 0.5  # x_t holds √(1−ᾱ) z
        D = difference(
            lambda x, t: x / shift + inside, lambda x, t: 0 * x, SD, 0 * inside, 500, noises, reduce
        )
        return (D[..., :100].mean() / D[..., 100:].mean()).item()

    assert contrast("mean_abs") == pytest.approx(1.46, rel=0.02) and contrast("abs_mean") == pytest.approx(
        3.96, rel=0.02
    )


# ---- the mask: in worlds that know where the edit is ----


@pytest.mark.parametrize("settings", [{}, dict(clamp="mean"), dict(reduce="abs_mean"), dict(level=0.9)])
def test_the_mask_is_where_the_texts_differ(settings):
    edit = edited(toy_model(), pictures(2), "red", "blue", steps=2, **settings)
    assert torch.equal(edit.mask, half().double().expand(2, -1, -1, -1)) and edit.empty == []
    assert torch.equal(edit.picture[..., 4:], pictures(2)[..., 4:])
    assert (edit.picture[..., :4] < pictures(2)[..., :4]).double().mean() > 0.95  # towards blue


def test_the_mask_of_a_background_edit_is_inverted_until_the_noise_hides_the_background():
    """A flat background of N cells and an object of private ones; the captions tell the background apart
    by 1, the object by .1. ε* = √(1−ᾱ) (ᾱ Σ + 1 − ᾱ)⁻¹ (x_t − √ᾱ μ), where Σ = s² 11ᵀ in the background
    and s² in the object."""
    inside = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    inside[..., 5:11, 5:11] = 1
    outside, N, s2, sched = 1 - inside, 220, 0.25, Schedule.cosine()

    def oracle(mean):
        def eps(x_t, t):
            a = sched.at(t)
            gap = x_t - a**0.5 * mean
            flat = (gap * outside).sum((2, 3), keepdim=True) / N * outside
            pinned = flat / (N * a * s2 + 1 - a) + (gap * outside - flat) / (1 - a)
            return (1 - a) ** 0.5 * (pinned + inside * gap / (a * s2 + 1 - a))

        return eps

    def heat(level):
        noises = [normal(1, 1, 16, 16, seed=n, dtype=torch.float64) for n in range(2)]
        D = difference(
            oracle(outside + 0.1 * inside), oracle(0 * inside), sched, 0 * inside, round(level * 1000), noises
        )
        return D, heat_map(D, r=2.0) > 0.5

    D, found = heat(0.5)
    assert torch.equal(found, inside > 0)
    a = sched.at(500)
    assert D[0, 0, 0, 0].item() == pytest.approx(
        (a / (1 - a)) ** 0.5 * (1 - a) / (N * a * s2 + 1 - a), rel=1e-9
    )
    assert torch.equal(heat(0.98)[1], outside > 0)


def test_each_picture_of_a_batch_is_edited_as_if_alone():
    x, sources, targets = pictures(3), ["red", "", "grey"], ["blue", "red", "blue"]
    settings = dict(steps=4, maps=3, encode=False)
    batch = edited(toy_model(bent), x, sources, targets, seed=4, **settings)
    for i in range(3):
        alone = edited(toy_model(bent), x[i : i + 1], sources[i], targets[i], seed=4 + i, **settings)
        assert torch.equal(batch.cells[i : i + 1], alone.cells)
        assert_close(batch.path[-1][i : i + 1], alone.path[-1], atol=1e-12, rtol=0)
        assert_close(batch.heat[i : i + 1], alone.heat, atol=1e-12, rtol=0)
    assert 0 < batch.cells.mean() < 1


def test_equal_texts_give_an_empty_mask_say_so_and_return_the_picture_to_the_bit(tiny):
    x = pictures(2, 32).float()
    edit = edited(tiny, x, ["a red star"] * 2, ["a red star", "a blue star on a white background"], steps=3)
    assert edit.empty == [0] and not edit.heat[0].any() and edit.cells[1].any()
    assert torch.equal(edit.picture[0], x[0]) and not torch.equal(edit.picture[1], x[1])
    nothing = edited(tiny, x, steps=2)
    assert nothing.empty == [0, 1] and torch.equal(nothing.picture, x) and nothing.heat.isfinite().all()
    assert torch.equal(nothing.path[-1], tiny.encode(x))


# ---- encode and decode ----


def test_a_walk_has_as_many_times_as_encoded_latents(tiny):
    x_0, times = tiny.encode(pictures(1, 32).float()), tiny.schedule.times(3, 0.8)
    with pytest.raises(ValueError, match="zip"):
        decode(tiny.denoiser(""), tiny.schedule, [x_0] * 3, times, torch.ones_like(x_0[:, :1]))


def test_a_mask_of_0_returns_the_encoded_path_to_the_bit_and_of_1_is_encode_decode(tiny):
    x_0, times = tiny.encode(pictures(2, 32).float()), tiny.schedule.times(4, 0.8)
    encoded = invert(tiny.denoiser(""), tiny.schedule, x_0, times)
    eps = tiny.denoiser("a blue star", 3.0)
    ones = torch.ones_like(x_0[:, :1])
    kept = decode(eps, tiny.schedule, encoded, times, 0 * ones)
    assert all(torch.equal(y, x) for y, x in zip(kept, encoded, strict=True)) and torch.equal(kept[-1], x_0)
    free = decode(eps, tiny.schedule, encoded, times, ones)
    assert all(
        torch.equal(y, x) for y, x in zip(free, sample(eps, tiny.schedule, encoded[0], times), strict=True)
    )
    assert not torch.equal(free[-1], x_0)


def test_without_a_mask_the_verb_is_encode_decode(tiny):
    x = pictures(1, 32).float()
    edit = edited(tiny, x, **STARS, w=2.0, use_mask=False)
    up = invert(tiny.denoiser(""), tiny.schedule, tiny.encode(x), edit.levels)
    down = sample(tiny.denoiser(["a blue star"], 2.0), tiny.schedule, up[0], edit.levels)
    assert torch.equal(edit.path[-1], down[-1]) and edit.heat is None and edit.mask.all()
    assert torch.equal(edit.picture, edit.raw) and torch.equal(edit.raw, tiny.decode(down[-1]))


def test_the_given_mask_is_used_and_what_it_keeps_is_kept_at_every_level(tiny):
    x = pictures(2, 32).float()
    mask = half(32)
    mask[..., 15] = 0  # narrower than the latent cells
    edit = edited(tiny, x, **STARS, mask=mask)
    assert edit.heat is None and torch.equal(edit.mask, mask.expand(2, -1, -1, -1))
    assert torch.equal(edit.cells, half(8).expand(2, -1, -1, -1))
    assert torch.equal(edit.picture[..., 15:], x[..., 15:]) and torch.equal(
        edit.picture[..., :15], edit.raw[..., :15]
    )
    for y, kept in zip(edit.path, edit.encoded, strict=True):
        assert torch.equal(y[..., 4:], kept[..., 4:])
    assert not torch.equal(edit.path[-1][..., :4], edit.encoded[-1][..., :4])
    assert not torch.equal(edit.raw[..., 15:], x[..., 15:])  # the codec is lossy, so pasting did it


def test_the_found_mask_on_the_picture_is_the_latent_one_in_blocks_and_can_be_grown(tiny):
    x = pictures(1, 32).float()
    edit, grown = edited(tiny, x, **STARS), edited(tiny, x, **STARS, grow=1)
    assert (
        torch.equal(edit.mask, edit.cells.repeat_interleave(4, 2).repeat_interleave(4, 3))
        and 0 < edit.mask.mean() < 1
    )
    assert torch.equal(edit.picture[edit.mask.expand_as(x) == 0], x[edit.mask.expand_as(x) == 0])
    assert (grown.cells >= edit.cells).all() and grown.cells.sum() > edit.cells.sum()
    assert torch.equal(edit.cells > 0, edit.heat > 0.5)


def test_an_identity_edit_comes_back_and_fixed_points_bring_it_closer():
    def error(**settings):
        edit = edited(toy_model(), pictures(), "", "", w=1.0, steps=20, use_mask=False, **settings)
        return (edit.path[-1] - pictures()).abs().max().item()

    assert error(iterations=40) < 1e-10 < 1e-3 < error() < 0.3


def test_ratio_1_starts_at_the_top_and_one_step_is_enough():
    model = toy_model(sched=Schedule.cosine())
    edit = edited(model, pictures(), "red", "blue", ratio=1.0, steps=10)
    assert edit.levels[0] == TOP * 1000 and len(edit.levels) == 11 and edit.picture.isfinite().all()
    one = edited(model, pictures(), "red", "blue", ratio=0.3, steps=1)
    assert one.levels == [300, 0] and len(one.path) == len(one.encoded) == 2
    assert edited(model, pictures(), "red", "blue", steps=50).levels[:2] == [800, 780]  # 40 of 50 steps


@pytest.mark.parametrize("w", [0.0, -3.0, float("nan"), float("inf")])
def test_a_w_that_asks_for_nothing_is_refused(w):
    with pytest.raises(ArgumentError, match=f"^w: must be above 0, got {w}; at 0 the target says nothing$"):
        edited(toy_model(), pictures(), "", "red", mask=half(), steps=5, w=w)


@pytest.mark.parametrize(
    "settings, calls",
    [
        ({}, 20 + 4 + 8),
        (dict(maps=3), 6 + 4 + 8),
        (dict(w=1.0), 20 + 4 + 4),
        (dict(encode=False), 20 + 8),
        (dict(use_mask=False), 12),
        (dict(mask=half(), iterations=2), 12 + 8),
    ],
)
def test_calls_are_the_networks_evaluations_per_picture(settings, calls):
    model = toy_model()
    edit = edited(model, pictures(), "red", "blue", steps=5, **settings)
    assert edit.calls == calls == sum(len(x_t) for x_t, _ in model.net.asked)


def test_noising_instead_of_encoding_uses_one_noise_for_all_levels_and_the_same_mask():
    x = pictures()
    noised, encoded = (edited(toy_model(bent), x, "red", "blue", steps=5, encode=e) for e in (False, True))
    z = [
        (x_t - SD.at(t) ** 0.5 * x) / (1 - SD.at(t)) ** 0.5
        for x_t, t in zip(noised.encoded[:-1], noised.levels)
    ]
    assert all(torch.allclose(one, z[0]) for one in z) and z[0].std().item() == pytest.approx(1, abs=0.15)
    assert torch.equal(noised.encoded[-1], x) and torch.equal(noised.cells, encoded.cells)
    assert torch.equal(z[0] > 0, Rng.of(0).randn(x.shape, x) > 0)


def test_the_level_blend_keeps_every_level_and_the_x0_blend_only_the_last_and_only_where_abar_ends_at_1():
    x_0, eps = pictures(), toy_model().denoiser("blue", 2.0)
    kept = 1 - half().double()

    def gaps(blend, times):
        encoded = invert(toy_model().denoiser(""), SD, x_0, times)
        path = decode(eps, SD, encoded, times, half().double(), blend)
        return [((y - x) * kept).abs().max().item() for y, x in zip(path, encoded)], path, encoded

    times = SD.times(10, 0.8)
    assert max(gaps("level", times)[0]) == 0
    x0_gaps, path, _ = gaps("x0", times)
    assert x0_gaps[-1] < 1e-12 and min(x0_gaps[1:-1]) > 1e-3
    assert_close(
        path[-1][..., :4], gaps("level", times)[1][-1][..., :4], atol=1e-9, rtol=0
    )  # cells know no neighbours
    ends_at_1 = [*times[:-1], 1]
    _, path, encoded = gaps("x0", [*ends_at_1[:-1], 1])
    a, top = SD.at(1), SD.at(times[0])
    x_clean = encoded[-1]  # what stands in for x_0 there
    e = (encoded[0] - top**0.5 * x_clean) / (1 - top) ** 0.5
    residual = path[-1] - a**0.5 * x_clean
    assert_close(residual * kept, (1 - a) ** 0.5 * e * kept, atol=1e-10, rtol=0)


def test_a_larger_ratio_goes_further_from_the_picture():
    gone = [
        (edited(toy_model(), pictures(), "red", "blue", ratio=r, steps=40).picture - pictures()).norm().item()
        for r in (0.2, 0.4, 0.6, 0.8, 1.0)
    ]
    assert all(near < far for near, far in pairwise(gone))


# ---- Eq. (11) ----


def test_the_integral_bound_is_attained_by_an_affine_pair_where_the_printed_one_fails():
    K1, K2, tau = 1.0, 0.02, 3.0
    assert encoding_bound(tau, K1, K2) == pytest.approx(0.2031, abs=5e-5)
    assert printed_encoding_bound(tau, K1, K2) == pytest.approx(0.1169, abs=5e-5)

    def walk(u, start, end, shift, n=4000):  # du/ds = −K1 u/√(s²+1) + shift, by Runge–Kutta
        def f(s, u):
            return -K1 * u / math.hypot(s, 1) + shift

        h = (end - start) / n
        for i in range(n):
            s = start + i * h
            a = f(s, u)
            b = f(s + h / 2, u + h / 2 * a)
            c = f(s + h / 2, u + h / 2 * b)
            u += h / 6 * (a + 2 * b + 2 * c + f(s + h, u + h * c))
        return u

    there = walk(0.7, 0, tau, 0.0)
    assert abs(0.7 - walk(there, tau, 0, K2)) == pytest.approx(encoding_bound(tau, K1, K2), abs=1e-9)
    t = round(SD.t_of_sigma(tau))
    x_0 = torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64)

    def error(steps):
        times = SD.times(steps, t / 1000)
        x_r = invert(lambda x, t: -K1 * x, SD, x_0, times)
        return abs(decode(lambda x, t: -K1 * x + K2, SD, x_r, times, torch.ones_like(x_0))[-1] - x_0).item()

    fine = 2 * error(t) - error(t // 2)  # DDIM is of first order in the step
    assert fine == pytest.approx(encoding_bound(SD.sigma(t), K1, K2), rel=0.005)


@pytest.mark.parametrize("K1, crossing", [(1.0, 1.13), (2.0, 2.47), (3.0, 3.66)])
def test_the_printed_bound_is_exceeded_from_a_known_tau_on(K1, crossing):
    for tau, above in ((crossing - 0.01, False), (crossing + 0.01, True)):
        assert (encoding_bound(tau, K1, 1.0) > printed_encoding_bound(tau, K1, 1.0)) == above


@pytest.mark.parametrize("K1", [0.0, 0.5, 1.0, 3.0])
def test_the_closed_form_is_the_integral(K1):
    s = torch.linspace(0, 2.5, 200_001, dtype=torch.float64)
    integral = torch.trapezoid((s + (s**2 + 1).sqrt()) ** K1, s).item()
    assert encoding_bound(2.5, K1, 0.3) == pytest.approx(0.3 * integral, rel=1e-8)


def test_the_curves_of_the_papers_figure_cross_at_tau_3_50():
    def gap(tau):
        return printed_encoding_bound(tau, 3, 0.02) - noising_bound(tau, 1)

    assert gap(3.495) < 0 < gap(3.505)
    assert SD.t_of_sigma(3.5) == pytest.approx(713, abs=1.5)


def test_noising_stays_within_its_bound_in_root_mean_squares():
    """An ε of norm at most 1, and one of exactly 1 that points along the noise, which attains it."""
    x_0, z = pictures(4, 16), normal(4, 3, 16, 16, seed=6, dtype=torch.float64)
    z = z / z.square().mean().sqrt()
    for t in (100, 400, 800):
        times = SD.times(20, t / 1000)
        for eps, attained in ((lambda x, t: torch.tanh(3 * x), False), (lambda x, t: -z, True)):
            start = [q_sample(SD, x_0, t, z)] + [x_0] * 20
            error = (
                (decode(eps, SD, start, times, torch.ones_like(x_0))[-1] - x_0).square().mean().sqrt().item()
            )
            bound = noising_bound(SD.sigma(t), 1.0)
            assert error == pytest.approx(bound, rel=1e-9) if attained else error < bound


def test_encoding_keeps_closer_than_noising_on_a_smooth_world():
    for ratio in (0.3, 0.6, 0.9):
        settings = dict(ratio=ratio, steps=20, w=1.0, use_mask=False)
        kept, lost = (
            edited(toy_model(), pictures(4), "", "red", encode=e, **settings).path[-1] - pictures(4)
            for e in (True, False)
        )
        assert kept.square().mean() < lost.square().mean()


# ---- diffusers on equal random weights ----


def beside_diffusers():
    """Our net as a Model whose times are shifted by one, and the parts of diffusers' pipeline that its
    methods touch.
    """
    diffusers = pytest.importorskip("diffusers", reason="an independent implementation to compare with")
    from palimpsest.nets.unet import UNet
    from palimpsest.weights.public.layouts import unet_to_diffusers

    ours = randomised(
        UNet(width=32, mult=(1, 2), blocks=1, attention=(True, True), heads=4, ctx_width=20, norm_groups=8)
    )
    ours = ours.double().eval()
    theirs = (
        diffusers.UNet2DConditionModel(
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
            layers_per_block=1,
            attention_head_dim=4,
            cross_attention_dim=20,
            norm_num_groups=8,
        )
        .double()
        .eval()
    )
    transplant(ours, theirs, unet_to_diffusers)
    texts = {
        text: normal(1, 5, 20, seed=n, dtype=torch.float64) for n, text in enumerate(("", "cat", "dog"), 11)
    }

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.channels = ours, ours.channels

        def forward(self, x_t, t, ctx=None, tap=None):
            return self.net(x_t, t - 1, ctx, tap)

    model = Model(
        name="beside",
        net=Shifted(),
        text=nn.Identity(),
        tokenizer=lambda p: torch.cat([texts[one] for one in p]),
        schedule=SD,
        size=8,
    )

    def encode_prompt(prompt, device, n, guided, negative=None, **others):
        return tuple(texts[p or ""].repeat(n, 1, 1) for p in (prompt, negative))

    Pipeline = diffusers.StableDiffusionDiffEditPipeline
    module = sys.modules[Pipeline.__module__]

    class Parts:
        check_inputs, check_source_inputs = Pipeline.check_inputs, Pipeline.check_source_inputs
        get_timesteps, prepare_image_latents = Pipeline.get_timesteps, Pipeline.prepare_image_latents
        prepare_extra_step_kwargs = Pipeline.prepare_extra_step_kwargs
        _execution_device = torch.device("cpu")
        unet, vae = theirs, SimpleNamespace(dtype=torch.float64, config=SimpleNamespace(latent_channels=4))
        image_processor = SimpleNamespace(
            preprocess=lambda image: image, postprocess=lambda image, **how: image
        )
        scheduler = diffusers.DDIMScheduler(
            1000,
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=True,
            steps_offset=1,
        )

        def progress_bar(self, total):
            return diffusers.utils.logging.tqdm(total=total, disable=True)

        def maybe_free_model_hooks(self):
            pass

    parts = Parts()
    parts.encode_prompt = encode_prompt
    return model, Pipeline, module, parts


@pytest.mark.parametrize("source, maps, r", [("cat", 10, 3.0), ("", 3, 2.2)])
def test_the_mask_is_that_of_diffusers_for_equal_noises_and_equal_negatives(monkeypatch, source, maps, r):
    b, Pipeline, module, parts = beside_diffusers()
    x = normal(1, 4, 8, 8, seed=3, dtype=torch.float64)
    rng = Rng.of(5)
    noises = [rng.randn(x.shape, x) for _ in range(maps + 1)][1:]  # the first is that of encode=False
    monkeypatch.setattr(module, "randn_tensor", lambda shape, **how: torch.cat(noises))
    theirs = Pipeline.generate_mask(
        parts,
        x,
        "dog",
        source_prompt=source,
        num_maps_per_mask=maps,
        mask_thresholding_ratio=r,
        output_type="np",
    )
    # strength .5 of 50 steps is their time 481
    b = replace(b, vae=SimpleNamespace(encode=lambda picture: (x,), factor=1))  # x is a latent
    rule = MaskRule(level=0.482, maps=maps, clamp="mean", r=r)
    ours = find_mask(b, torch.zeros(1, 3, 8, 8), source, "dog", rule=rule, seed=5)
    assert np.array_equal(ours.cells[:, 0].numpy(), theirs) and 0 < theirs.sum() < theirs.size


def test_the_decoded_path_is_that_of_diffusers_once_its_lag_of_one_level_is_put_back():
    b, Pipeline, module, parts = beside_diffusers()
    x_0 = normal(1, 4, 8, 8, seed=3, dtype=torch.float64)
    times = [*range(702, 0, -100), 0]  # strength .8 of 10 steps: their 701 … 1
    encoded = invert(b.denoiser(""), SD, x_0, times)

    def theirs(mask):
        return Pipeline.__call__(
            parts,
            "dog",
            mask[0],
            torch.stack(encoded[:-1], 1),
            inpaint_strength=0.8,
            num_inference_steps=10,
            guidance_scale=7.5,
            output_type="latent",
            return_dict=False,
        )[0]

    mask, eps = half().double(), b.denoiser("dog", 7.5)
    lagging = [encoded[0], *encoded[:-1]]
    assert_close(theirs(mask.clone()), decode(eps, SD, lagging, times, mask)[-1], atol=1e-6, rtol=1e-6)
    nothing = theirs(0 * mask)  # keeps what stood at time 1, not x_0
    assert_close(nothing, encoded[-2], atol=1e-12, rtol=0)
    assert (nothing - x_0).square().mean().sqrt() > 1e-3
    assert torch.equal(decode(eps, SD, encoded, times, 0 * mask)[-1], x_0)


# ---- its steps apart, and other solvers ----


def test_the_mask_found_alone_is_that_of_the_edit_and_gives_the_same_edit(tiny):
    x = pictures(2, 32).float()
    rule, texts = MaskRule(maps=3, threshold=0.6), ("a red star", "a blue star")
    edit = diffedit(tiny, x, *texts, rule=rule, steps=4, seed=5)
    found = find_mask(tiny, x, *texts, rule=rule, seed=5)
    for mine, theirs in zip(found, (edit.heat, edit.cells, edit.mask), strict=True):
        assert torch.equal(mine, theirs)
    again = diffedit(tiny, x, *texts, mask=found.pixels, steps=4, seed=5)
    assert torch.equal(again.picture, edit.picture) and again.heat is None


def test_every_solver_decodes_under_the_mask():
    settings = dict(mask=half(), ratio=0.8, w=1.0, steps=100)
    edits = {
        name: diffedit(toy_model(), pictures(), "red", "blue", step=step, **settings)
        for name, step in {"ddim": DDIM(), "heun": Heun(), "2m": DPMSolver2M(), "ddpm": Ancestral()}.items()
    }
    for edit in edits.values():
        assert all(torch.equal(y[..., 4:], x[..., 4:]) for y, x in zip(edit.path, edit.encoded, strict=True))
    default = diffedit(toy_model(), pictures(), "red", "blue", **settings)
    assert torch.equal(edits["ddim"].picture, default.picture)
    start, a = default.path[0], SD.at(default.levels[0])
    exact = world().flow(start, a, 1.0, "blue")[..., :4]
    off = {name: (edit.path[-1][..., :4] - exact).abs().max().item() for name, edit in edits.items()}
    assert max(off["heun"], off["2m"]) < 0.6 * off["ddim"] and off["ddim"] < off["ddpm"]


def test_a_record_refuses_its_fields_where_it_is_made():
    with pytest.raises(ArgumentError, match=r"^level: must lie in \(0, 1\], got 0; the paper takes 0.5"):
        MaskRule(level=0)
    with pytest.raises(ArgumentError, match="^blend: must be level or x0, got 'both'"):
        Ablation(blend="both")


# ---- mistakes ----


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(ratio=0.0), "ratio"),
        (dict(ratio=1.1), "ratio"),
        (dict(ratio=float("nan")), "ratio"),
        (dict(level=0.0), "level"),
        (dict(steps=0), "steps"),
        (dict(steps=2.5), "steps"),
        (dict(ratio=0.01, steps=5000), "steps: 50 are more than the 10 times below ratio"),
        (dict(ratio=1e-9), "ratio: 1e-09 is less than one of the schedule's"),
        (dict(maps=0), "maps"),
        (dict(clamp="max"), "clamp"),
        (dict(reduce="sum"), "reduce"),
        (dict(blend="none"), "blend"),
        (dict(iterations=-1), "iterations"),
        (dict(iterations=-1, encode=False), "iterations"),
        (dict(threshold=1.0), r"threshold: must lie in \[0, 1\)"),
        (dict(threshold=float("nan")), "threshold:"),
        (dict(r=0.0), "r:"),
        (dict(r=float("inf")), "r:"),
        (dict(q=0.5), "q:"),
        (dict(grow=-1), "grow:"),
        (dict(mask=half(), use_mask=False), "mask: would do nothing as use_mask is off"),
        (dict(mask=half(4)), "mask"),
        (dict(mask=half()[0]), "mask"),
        (dict(mask=half() * 0), "mask"),
        (dict(mask=half() * 0 + 1), "mask: is all 1.*use_mask=False"),
        (dict(mask=half() * 0.5), "mask"),
        (dict(source=["red"] * 3), "source: must be one, or one for each of 2 pictures, got 3"),
        (dict(target=["red"] * 3), "target: must be one, or one for each of 2 pictures, got 3"),
        (dict(step="heun"), "step: must be a function"),
        (dict(step=DDIM), r"step: must be a step, got the class DDIM; make one: DDIM\(\)"),
        (dict(x=pictures(2) * 127.5 + 127.5), "x: must lie in .*give x / 127.5 - 1"),
        (dict(x=pictures(2) / 0), "x: holds NaN or infinity"),
        (dict(x=pictures(2)[0]), r"x: must be \(b, 3, y, x\), got \(3, 8, 8\); add the batch axis"),
        (dict(x=pictures(2)[:, :1]), "x: must have 3 channels, got 1"),
    ],
)
def test_an_argument_that_makes_no_sense_is_named(change, named):
    with pytest.raises(ValueError, match=f"^{named}"):
        edited(toy_model(), change.pop("x", pictures(2)), **{"source": "red", "target": "blue", **change})


def test_a_picture_that_the_latents_do_not_divide_is_named(tiny):
    with pytest.raises(ArgumentError, match="^x: is 32×30 pixels, and the sides must be multiples of 8"):
        edited(tiny, torch.zeros(1, 3, 30, 32), **STARS)


# ---- the command ----


@pytest.fixture
def palimpsest(tmp_path, monkeypatch, tiny, tmp_path_factory):
    """The command in a folder with a picture and a mask."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("palimpsest.cli.commands.loading.load", lambda *given, **more: tiny)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save("in.png")
    Image.fromarray(np.uint8(255 * (np.arange(40) < 20))[None].repeat(40, 0)).save("mask.png")

    def run(*more):
        return commands.main(
            ["diffedit", "in.png", "--target", "a blue star", "--steps", "2", "-o", "out.png", *more]
        )

    return run


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_the_command_keeps_the_files_pixels_outside_the_mask_that_it_saves(palimpsest, capsys):
    also = ["--save-mask", "m.png", "--save-heat", "h.png", "--save-steps", "walk.png"]
    assert palimpsest("--source", "a red star", "--r", "2.1", *also) == 0
    said = capsys.readouterr()
    before, after, mask = pixels("in.png"), pixels("out.png"), pixels("m.png")
    assert (
        said.err == "" and said.out.startswith("out.png: edits ") and mask.shape == after.shape == (40, 40, 3)
    )
    assert (
        np.array_equal(after[mask == 0], before[mask == 0])
        and (after != before).any()
        and set(np.unique(mask)) == {0, 255}
    )
    assert len(np.unique(pixels("h.png"))) > 2 and pixels("walk.png").shape[1] > 3 * 3 * 32
    assert palimpsest("--mask", "m.png") == 0  # what was saved can be given back


def test_the_command_takes_a_mask_and_says_where_nothing_was_found(palimpsest, capsys):
    assert palimpsest("--mask", "mask.png") == 0
    assert np.array_equal(pixels("out.png")[:, 20:], pixels("in.png")[:, 20:])
    capsys.readouterr()
    for more, cause in (
        (("--source", "a blue star"), "say the same to the model"),
        (("--threshold", ".999", "--clamp", "mean", "--r", "60"), "lower --threshold"),
    ):
        assert palimpsest(*more) == 0
        note = capsys.readouterr().err
        assert (
            note.startswith("palimpsest: note: the mask is empty") and cause in note and note.count("\n") == 1
        )
        assert np.array_equal(pixels("out.png"), pixels("in.png"))


@pytest.mark.parametrize(
    "more, parts",
    [
        (["--ratio", "0"], ("ratio: must lie in (0, 1]", "0.8")),
        (["--mask", "none.png"], ("mask: none.png", "check the name")),
        (["--save-heat", "h.png", "--mask", "mask.png"], ("save-heat:", "leave out --mask")),
        (["--no-use-mask", "--mask", "mask.png"], ("mask:",)),
        (["--maps", "0"], ("maps: must be at least 1, got 0",)),
        (["--target", "a blu star"], ('unknown word "blu"',)),
    ],
)
def test_a_mistake_ends_in_one_line_and_no_file(palimpsest, capsys, tmp_path, more, parts):
    assert palimpsest(*more) == 2
    said = capsys.readouterr().err
    assert (
        said.startswith("palimpsest: error: ")
        and said.count("\n") == 1
        and all(part in said for part in parts)
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.png", "mask.png"]
