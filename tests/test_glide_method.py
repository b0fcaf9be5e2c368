"""methods/glide.py: two stages, three guides, three ways to keep a part of a picture."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from palimpsest.claims.common import new_scenes
from palimpsest.methods.glide import blurred, glide, guided_prediction, inpaint, rerank, upsample, walk
from palimpsest.metrics.image import psnr
from palimpsest.samplers.convert import eps_from_x0, x0_from_eps
from palimpsest.samplers.ddpm import ddpm_step
from palimpsest.samplers.learned import learned_variance
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.respacing import respaced
from palimpsest.weights.load import load, load_autoencoder
from palimpsest.worlds.shapes import render
from tests.tiny import tiny_glide, tiny_weights

A, B = "a red star on a blue background", "a green ring on a white background"


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glide")
    kinds = dict(
        base={},
        inpaint=dict(inpainting=True),
        up=dict(upsampling=True),
        up_inpaint=dict(upsampling=True, inpainting=True),
    )
    return {
        name: load(tiny_glide(folder, name, 16 if "up" in name else 8, **kind), "cpu")
        for name, kind in kinds.items()
    } | {"other": load(tiny_weights(folder), "cpu")}


def picture(n=1, side=8, seed=0):
    return torch.rand((n, 3, side, side), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def left_half(side=8):
    mask = torch.zeros(1, 1, side, side)
    mask[..., : side // 2] = 1
    return mask


# ---- the walk ----


def test_kept_pixels_walk_towards_the_picture_where_its_x_0_is_put_in(nets):
    """Alg. l. 5: at every level what is kept is √ᾱ x_0 + √(1−ᾱ) ε for one ε, x_0 the picture."""
    model, x, mask = nets["base"], picture(1), left_half()
    made = inpaint(model, x, mask, A, how="x0", steps="6", eta=0.0, seed=1)
    a = [model.schedule.at(t) for t in made.levels[:-1]]
    eps = [(z - ab**0.5 * x) / (1 - ab) ** 0.5 for ab, z in zip(a, made.path)]
    for later in eps[1:]:
        assert_close(later[..., 4:], eps[0][..., 4:], rtol=1e-3, atol=1e-3)
    assert (eps[1] - eps[0])[..., :4].abs().max() > 0.01


@pytest.mark.parametrize("up_steps", ["x", "99999"])
def test_the_steps_of_the_upsampler_are_refused_in_their_own_name(nets, up_steps):
    for work in (
        lambda **how: glide(nets["base"], A, steps="2", **how),
        lambda **how: inpaint(nets["base"], picture(1, 16), left_half(16), A, how="x0", steps="2", **how),
    ):
        with pytest.raises(ValueError, match="^up_steps: "):
            work(upsampler=nets["up"], up_steps=up_steps)
        with pytest.raises(ValueError, match="^upsampler: "):
            work(upsampler=nets["base"])


def test_a_walk_written_out_is_the_walk(nets):
    model, levels = nets["base"], respaced(1000, "4")
    made = glide(model, [A, B], steps="4", w=2.5, seed=3)
    rng = Rng.of(3, 2)
    x = rng.randn((2, 3, 8, 8))
    cond, null = model.embed([A, B]), model.embed("")
    before = None
    with torch.no_grad():
        for t, s in pairwise(levels):
            both = torch.cat(
                [null.expand(2, -1, -1), cond]
            )  # one batch, as the method asks: no other rounding
            (e_0, e_c), (_, v) = (out.chunk(2) for out in model.eps_and_v(x.repeat(2, 1, 1, 1), t, both))
            x_0 = x0_from_eps(model.schedule, x, t, e_0 + 2.5 * (e_c - e_0)).clamp(-1, 1)
            noise = rng.randn(x.shape) if s > 0 else None
            x = ddpm_step(
                model.schedule,
                x,
                eps_from_x0(model.schedule, x, t, x_0),
                t,
                s,
                noise,
                learned_variance(model.schedule, v, t, s, before),
            )
            before = t
    assert_close(made.path[-1], x, rtol=1e-4, atol=1e-5)
    assert made.levels == levels and len(made.path) == 5 and torch.equal(made.picture, made.small)


def test_a_picture_does_not_depend_on_its_batch(tmp_path):
    """In float64: these random nets make a rounding error of float32 grow a thousandfold in one walk."""
    base = load(tiny_glide(tmp_path, "base", 8), "cpu", torch.float64)
    up = load(tiny_glide(tmp_path, "up", 16, upsampling=True), "cpu", torch.float64)
    whole = glide(base, [A, B], n=2, upsampler=up, steps="5", up_steps="4", seed=7).picture
    for i, text in enumerate([A, A, B, B]):
        alone = glide(base, text, upsampler=up, steps="5", up_steps="4", seed=7 + i).picture
        assert_close(whole[i : i + 1], alone, rtol=1e-3, atol=1e-4)


def test_the_walk_ends_inside_the_range_and_ddim_is_deterministic(nets):
    one, two = (glide(nets["base"], A, steps="5", eta=0.0, seed=s).path[-1] for s in (1, 1))
    assert torch.equal(one, two) and one.abs().max() <= 1 + 1e-5


def test_guidance_leaves_v_as_the_text_has_it(nets):
    model, x = nets["base"], picture(2)
    cond, null = model.embed([A, B]), model.embed("").expand(2, -1, -1)
    with torch.no_grad():
        eps_1, v_1 = guided_prediction(model, x, 500, cond, null, 1)
        eps_0, _ = guided_prediction(model, x, 500, cond, null, 0)
        eps_w, v_w = guided_prediction(model, x, 500, cond, null, 4.0)
    assert_close(v_w, v_1, rtol=1e-4, atol=1e-5)
    assert_close(eps_w, eps_0 + 4 * (eps_1 - eps_0), rtol=1e-4, atol=1e-4)
    assert (eps_1 - eps_0).abs().max() > 1e-4


@pytest.mark.parametrize("at", ["x_t", "mean"])
def test_a_gradient_leads_an_ancestral_walk(nets, at):
    """A gradient towards white raises the picture; its scale is what counts; 0 does nothing."""

    def mean(scale):
        push = (lambda x, t: torch.full_like(x, scale)) if scale is not None else None
        return (
            glide(nets["base"], A, n=4, steps="12", w=1.0, gradient=push, gradient_at=at)
            .path[-1]
            .mean()
            .item()
        )

    plain = mean(None)
    assert mean(0.0) == plain and plain < mean(2.0) < mean(8.0)


def test_a_gradient_leads_ddim_as_a_noise(nets):
    plain, pushed = (
        glide(nets["base"], A, steps="8", w=1.0, eta=0.0, gradient=g).path[-1]
        for g in (None, lambda x, t: torch.full_like(x, 1.0))
    )
    assert pushed.mean() > plain.mean() + 0.01


def test_where_the_gradient_is_taken_is_told(nets):
    asked = []

    def gradient(x, t):
        asked.append((t, x.clone()))
        return torch.zeros_like(x)

    made = glide(nets["base"], A, steps="3", w=1.0, gradient=gradient)
    assert [t for t, _ in asked] == made.levels[:-1] and all(
        torch.equal(x, p) for (_, x), p in zip(asked, made.path)
    )
    asked.clear()
    glide(nets["base"], A, steps="3", w=1.0, gradient=gradient, gradient_at="mean")
    assert [t for t, _ in asked] == [max(s, 1) for s in made.levels[1:]]


def test_a_gradient_at_the_mean_is_none_of_ddims(nets):
    with pytest.raises(ValueError, match="gradient_at: DDIM"):
        glide(
            nets["base"],
            A,
            steps="3",
            w=1.0,
            eta=0.0,
            gradient=lambda x, t: torch.zeros_like(x),
            gradient_at="mean",
        )


def test_blurred_is_through_the_autoencoder_and_back():
    vae = load_autoencoder()
    pictures = render(new_scenes(2, 0))
    made = blurred(pictures, vae)
    assert (
        torch.equal(made, vae.decode(vae.encode(pictures)))
        and 25 < psnr(made.clamp(-1, 1), pictures).min() < 50
    )


# ---- upsampling ----


def test_the_upsampler_sees_eight_bits(nets):
    small = picture()
    rounded = ((small + 1) * 127.5).round() / 127.5 - 1
    nudged = rounded + 0.2 / 127.5 * torch.sign(picture(seed=4))
    assert torch.equal(
        upsample(nets["up"], rounded, A, steps="3"), upsample(nets["up"], nudged, A, steps="3")
    )
    assert not torch.equal(
        upsample(nets["up"], rounded, A, steps="3"), upsample(nets["up"], picture(seed=5), A, steps="3")
    )


def test_the_upsampler_never_sees_what_is_to_be_painted(nets):
    small, large, mask = picture(), picture(side=16), left_half(16)
    other = torch.where(mask > 0, picture(side=16, seed=9), large)
    one, two = (
        upsample(nets["up_inpaint"], small, A, picture=p, mask=mask, steps="3") for p in (large, other)
    )
    assert torch.equal(one, two)
    assert torch.equal(one[..., 8:], large[..., 8:]) and not torch.equal(one[..., :8], large[..., :8])
    raw = upsample(nets["up_inpaint"], small, A, picture=large, mask=mask, steps="3", paste=False)
    assert not torch.equal(raw[..., 8:], large[..., 8:])  # near it, as the walk leaves it
    assert_close(raw[..., 8:], large[..., 8:], atol=1e-3, rtol=0)


# ---- inpainting ----


@pytest.mark.parametrize(
    "how, name", [("trained", "inpaint"), ("replace", "base"), ("x0", "base"), ("x0", "inpaint")]
)
def test_what_is_kept_comes_back_bit_for_bit(nets, how, name):
    x, mask = picture(2), left_half()
    made = inpaint(nets[name], x, mask, A, how=how, steps="4")
    assert torch.equal(made.picture[..., 4:], x[..., 4:]) and not torch.equal(
        made.picture[..., :4], x[..., :4]
    )


@pytest.mark.parametrize("how, name", [("trained", "inpaint"), ("replace", "base"), ("x0", "base")])
def test_even_without_pasting_the_walk_ends_at_the_picture_where_it_is_kept(nets, how, name):
    x = picture()
    made = inpaint(nets[name], x, left_half(), A, how=how, steps="6", paste=False)
    assert_close(made.picture[..., 4:], x[..., 4:], rtol=0, atol=1e-4)


def test_a_net_that_was_tuned_is_shown_the_picture_and_another_is_not(nets):
    """Only "trained" can know the kept half before the first step."""
    one, two = picture(), torch.where(left_half() > 0, picture(), picture(seed=3))
    first = {
        how: [inpaint(nets["inpaint"], x, left_half(), A, how=how, steps="4").path[1] for x in (one, two)]
        for how in ("trained", "replace")
    }
    painted = {how: (a - b)[..., :4].abs().max().item() for how, (a, b) in first.items()}
    assert painted["trained"] > 0 and painted["replace"] == 0


def test_what_is_hidden_does_not_matter(nets):
    one, two = picture(), torch.where(left_half() > 0, picture(seed=3), picture())
    for how, name in (("trained", "inpaint"), ("replace", "base"), ("x0", "base")):
        a, b = (inpaint(nets[name], x, left_half(), A, how=how, steps="4").picture for x in (one, two))
        assert torch.equal(a, b)


def test_a_large_picture_is_painted_in_two_stages(nets):
    x, mask = picture(side=16), torch.zeros(1, 1, 16, 16)
    mask[..., 3:9, 4:11] = 1
    made = inpaint(nets["inpaint"], x, mask, A, upsampler=nets["up_inpaint"], steps="3", up_steps="3")
    assert made.picture.shape == (1, 3, 16, 16) and made.small.shape == (1, 3, 8, 8)
    assert torch.equal(
        torch.where(mask > 0, torch.zeros(()), made.picture), torch.where(mask > 0, torch.zeros(()), x)
    )
    raw = inpaint(
        nets["inpaint"], x, mask, A, upsampler=nets["up"], steps="3", up_steps="3", paste=False
    ).picture
    assert not torch.equal(
        torch.where(mask > 0, torch.zeros(()), raw), torch.where(mask > 0, torch.zeros(()), x)
    ), "nothing is pasted"
    small = torch.nn.functional.avg_pool2d(x, 2)
    assert torch.equal(made.small[..., 5:, :], small[..., 5:, :])  # cells 1-4 are touched by rows 3-8
    assert not torch.equal(made.small[..., 1:5, 2:6], small[..., 1:5, 2:6])


@pytest.mark.parametrize("name", ["up", "up_inpaint"])
def test_the_second_stage_sees_the_large_picture_if_it_was_tuned_to(nets, name):
    x, mask = picture(side=16), left_half(16)
    made = inpaint(
        nets["inpaint"], x, mask, A, upsampler=nets[name], steps="3", up_steps="3", seed=2, paste=False
    )
    beside = dict(picture=x, mask=mask) if name == "up_inpaint" else {}
    by_hand = upsample(nets[name], made.small, A, steps="3", seed=2, paste=False, **beside)
    assert torch.equal(made.picture, by_hand)


# ---- re-ranking ----


def test_reranking_sorts_within_a_prompt():
    order = rerank(torch.tensor([0.1, 0.9, 0.5, 0.7, 0.2, 0.7]), 3)
    assert order.tolist() == [[1, 2, 0], [3, 5, 4]]
    with pytest.raises(ValueError, match="n: 5 scores"):
        rerank(torch.rand(5), 2)


# ---- mistakes ----


def test_mistakes_are_named(nets):
    x, mask = picture(), left_half()
    model, up = nets["base"], nets["up"]
    for match, call in {
        "model: tiny is not one of GLIDE's": lambda: glide(nets["other"], A),
        "model: up is GLIDE's upsampler": lambda: glide(up, A),
        "model: base is GLIDE's base model": lambda: upsample(model, x, A),
        "w: must be a finite number": lambda: glide(model, A, w=math.nan, steps="2"),
        "eta: must be 1 .ancestral": lambda: glide(model, A, eta=0.5, steps="2"),
        "eta: must lie in": lambda: glide(model, A, eta=2.0, steps="2"),
        "steps: must be a text, got 2; a respacing": lambda: glide(model, A, steps=2),
        "upsampler: base is GLIDE's base model": lambda: glide(model, A, upsampler=model),
        "up_steps: must be counts": lambda: glide(model, A, upsampler=up, up_steps="no"),
        "prompts: must not be empty": lambda: glide(model, [], steps="2"),
        "gradient_at: must be x_t or mean": lambda: glide(model, A, gradient_at="here", steps="2"),
        "steps: must be counts": lambda: glide(model, A, steps="no"),
        "n: must be at least 1": lambda: glide(model, A, n=0),
        "zzz": lambda: glide(model, "a zzz star", steps="2"),
        "small: must have a side that divides 16.*got 16": lambda: upsample(up, picture(side=16), A),
        "small: must have a side that divides 16.*got 7": lambda: upsample(up, picture(side=7), A),
        "small: must be .b, 3, y, y.": lambda: upsample(up, picture()[0], A),
        "mask: goes together with picture": lambda: upsample(up, x, A, mask=left_half(16)),
        "prompts: must be one, or one for each of 1 pictures, got 2": lambda: upsample(up, x, [A, B]),
        "not fine-tuned for inpainting": lambda: inpaint(model, x, mask, A),
        "how: must be trained, replace or x0": lambda: inpaint(model, x, mask, A, how="magic"),
        "model: up_inpaint is GLIDE's upsampler": lambda: inpaint(nets["up_inpaint"], x, mask, A, steps="2"),
        "picture: must be 8x8": lambda: inpaint(nets["inpaint"], picture(side=16), left_half(16), A),
        "mask: is all 0": lambda: inpaint(nets["inpaint"], x, torch.zeros(1, 1, 8, 8), A),
        "mask: is all 1": lambda: inpaint(nets["inpaint"], x, torch.ones(1, 1, 8, 8), A),
        "mask": lambda: inpaint(nets["inpaint"], x, left_half(16), A),
    }.items():
        with pytest.raises(ValueError, match=match):
            call()


def test_a_walk_needs_a_model_that_sees_what_it_is_given(nets):
    with pytest.raises(ValueError, match="low_res"):
        walk(nets["up"], torch.zeros(1, 3, 16, 16), [1000, 0], [A], Rng.of(0))
