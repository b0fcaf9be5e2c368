"""methods/sdedit on the Gaussian world, which knows the answer in closed form, and on a tiny net for what
a codec adds.

The world: pixels N(m, s²) with m = .3, s = .25, and a guide of constant .9. Drowned at σ and brought back
by the exact reverse SDE, the guide becomes N(m + k (g − m), s²σ²(2s² + σ²)/(s² + σ²)²), k = s²/(s² + σ²).
"""

import pytest
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close

import palimpsest.methods.sdedit as module
from palimpsest.arguments import ArgumentError
from palimpsest.methods.inputs import check_mask, latent_mask
from palimpsest.methods.sampling import TOP, generate, times_below
from palimpsest.methods.sdedit import at_distance, bisect_t0, sdedit
from palimpsest.metrics.image import rmse
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.samplers.solvers import DDIM, Ancestral, DPMSolver2M, Heun
from palimpsest.weights.load import load
from palimpsest.weights.model import Model
from palimpsest.worlds.files import open_picture, write_picture
from palimpsest.worlds.gaussian import GaussianWorld
from tests.tiny import tiny_weights

M, S, G = 0.3, 0.25, 0.9
# σ(t0) = .01 · 5000^t0 at the top that the method uses, so that t0 means what it means in the paper with
# σ_max = 50
PAPER = Schedule.geometric(sigma_min=0.01, sigma_max=0.01 * 5000 ** (999 / (round(TOP * 1000) - 1)))


class ExactNet(nn.Module):
    """The Gaussian world as a net that predicts ε, in float64."""

    def __init__(self, world, sched):
        super().__init__()
        self.world, self.sched, self.asked = world, sched, 0
        self.channels = world.mu.shape[1]
        self.like = nn.Parameter(torch.zeros(1, dtype=torch.float64))  # says device and dtype

    def forward(self, x_t, t, ctx=None, tap=None):
        self.asked += 1
        return self.world.eps(x_t, self.sched.at(t), "" if ctx is None else ctx)


def gaussian_model(sched=PAPER, side=64):
    """A Model without autoencoder: latents are pictures, and the last of the path is the result before
    clamping.
    """
    mean = torch.full((3, side, side), M)
    world = GaussianWorld({"": mean, "dark": mean - 0.8}, {"": S, "dark": S})
    return Model(
        name="gaussian",
        net=ExactNet(world, sched),
        text=nn.Identity(),
        tokenizer=world.embed,
        schedule=sched,
        size=side,
    )


def guide(n=4, side=64):
    return torch.full((n, 3, side, side), G, dtype=torch.float64)


def half(side=64):
    """A mask that edits the left half."""
    mask = torch.zeros(1, 1, side, side)
    mask[..., : side // 2] = 1
    return mask


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return load(tiny_weights(tmp_path_factory.mktemp("tiny")))


# ---- the closed form ----


@pytest.mark.parametrize(
    "t0, mean, var", [(0.3, 0.77425, 0.023453), (0.5, 0.36667, 0.061728), (0.7, 0.30248, 0.062499)]
)
def test_the_ve_walk_has_the_closed_forms_mean_and_variance(t0, mean, var):
    edit = sdedit(gaussian_model(), guide(), t0=t0, walk="ve", steps=400, w=1.0)
    x = edit.path[-1]  # 49,152 independent draws
    assert edit.sigma == pytest.approx(0.01 * 5000**t0, rel=1e-9)
    assert x.mean().item() == pytest.approx(mean, abs=0.02 * var**0.5)
    assert x.var().item() == pytest.approx(var, rel=0.02)


def test_vp_and_ve_walks_agree_where_they_start_at_the_same_sigma():
    model, t0 = gaussian_model(), 0.5
    ve = sdedit(model, guide(2), t0=t0, walk="ve", steps=200, w=1.0)
    t0 = model.schedule.t_of_sigma(ve.sigma) / model.schedule.T  # another number for the same noise
    vp = sdedit(model, guide(2), t0=t0, steps=200, w=1.0)
    flow = sdedit(model, guide(2), t0=t0, steps=100, w=1.0, step=DDIM())
    assert vp.sigma == pytest.approx(ve.sigma, rel=0.01) and vp.snr == pytest.approx(vp.sigma**-2)
    mean, var = model.net.world.sdedit(guide(1), vp.sigma)
    for edit in (ve, vp):
        assert edit.path[-1].mean().item() == pytest.approx(mean.mean().item(), abs=0.02 * S)
        assert edit.path[-1].var().item() == pytest.approx(var.mean().item(), rel=0.04)
    # the deterministic walk carries N(g, σ²) down the flow: mean m + (g − m) s/√(s² + σ²), std σ s/√(s² + σ²)
    gain = S / (S**2 + flow.sigma**2) ** 0.5
    assert flow.path[-1].mean().item() == pytest.approx(M + gain * (G - M), abs=0.02 * S)
    assert flow.path[-1].std().item() == pytest.approx(gain * flow.sigma, rel=0.02)


def test_the_edit_goes_where_the_prompt_says():
    model = gaussian_model(side=16)
    for walk in ("vp", "ve"):
        edit = sdedit(model, guide(1, 16), "dark", t0=0.9, walk=walk, steps=100, w=1.0)
        assert edit.path[-1].mean().item() == pytest.approx(M - 0.8, abs=0.05)


@pytest.mark.parametrize("walk", ["vp", "ve"])
def test_a_vanishing_t0_returns_the_guide(walk):
    edit = sdedit(gaussian_model(side=16), guide(1, 16), t0=0.001, walk=walk, steps=1, w=1.0)
    assert edit.sigma < 0.0102
    assert rmse(edit.picture, guide(1, 16)).item() < 0.006  # σ ≈ .01 in [−1, 1] is .005 in [0, 1]


def test_a_drowned_guide_is_forgotten():
    model = gaussian_model(side=16)
    bright, dark = (
        sdedit(model, sign * guide(1, 16), t0=1.0, walk="ve", steps=100, w=1.0) for sign in (1, -1)
    )
    assert_close(bright.path[-1], dark.path[-1], atol=1e-3, rtol=0)
    assert (bright.path[0] - dark.path[0]).abs().max() > 0


@pytest.mark.parametrize("walk", ["vp", "ve"])
def test_the_larger_t0_the_farther_from_the_guide(walk):
    model = gaussian_model(side=16)
    d = [
        rmse(sdedit(model, guide(2, 16), t0=t0, walk=walk, steps=60, w=1.0).path[-1], guide(2, 16))
        .mean()
        .item()
        for t0 in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    ]
    assert d == sorted(d) and d[-1] > 3 * d[0]


def test_bisection_finds_the_t0_of_a_distance():
    model, g = gaussian_model(side=16), guide(4, 16)

    def edit(t0):
        return sdedit(model, g, t0=t0, walk="ve", steps=60, w=1.0)

    target = rmse(edit(0.42).picture, g).mean().item()
    found = bisect_t0(edit, at_distance(g, target, tolerance=0.005), rounds=12)
    assert (
        found.t0 == pytest.approx(0.42, abs=0.01)
        and found.tried[-1] == found.t0
        and 3 < len(found.tried) <= 12
    )
    assert rmse(found.edit.picture, g).mean().item() == pytest.approx(target, rel=0.005)


def test_bisection_goes_up_for_realism_and_down_for_faithfulness():
    wishes = iter([-1, 1, 1, 0, 1])
    found = bisect_t0(lambda t0: t0, lambda edit: next(wishes), low=0.2, high=0.6)
    assert_close(found.tried, [0.4, 0.3, 0.35, 0.375])
    assert found.edit == found.t0


def test_a_bisection_that_never_hits_asks_seven_times_and_gives_the_latest_of_equal_wishes():
    found = bisect_t0(lambda t0: t0, lambda edit: 1 if edit < 0.67 else -1, low=0.2, high=1.0)
    assert found.tried[:4] == pytest.approx([0.6, 0.8, 0.7, 0.65]) and len(found.tried) == 7
    assert found.t0 == found.edit == found.tried[-1] == pytest.approx(0.67, abs=0.8 / 2**7)


# ---- the walk ----


@pytest.mark.parametrize("walk", ["vp", "ve"])
def test_the_path_falls_from_t0_to_the_picture_and_the_net_is_asked_once_a_step(walk):
    model = gaussian_model(side=16)
    edit = sdedit(model, guide(2, 16), t0=0.5, walk=walk, steps=7, repeats=3, w=1.0)
    assert len(edit.path) == len(edit.levels) == 8 and edit.levels == sorted(edit.levels, reverse=True)
    assert edit.levels[-1] == 0 and model.schedule.sigma(edit.levels[0]) == pytest.approx(edit.sigma)
    assert model.net.asked == edit.calls == 21
    assert_close(edit.raw, edit.path[-1].clamp(-1, 1))


def test_a_step_of_ones_own_and_every_solver_walk_the_same_way_down():
    """On a fine grid the deterministic solvers meet the flow, and Heun asks twice but for the last step."""
    model, settings = gaussian_model(side=16), dict(t0=0.5, steps=60, w=1.0)

    def own(sched, x_t, eps, t, s, noise):
        return ddim_step(sched, x_t, eps(x_t, t), t, s)

    plain, mine, heun, multistep = (
        sdedit(model, guide(1, 16), step=step, **settings) for step in (DDIM(), own, Heun(), DPMSolver2M())
    )
    assert torch.equal(plain.picture, mine.picture) and (plain.calls, heun.calls) == (60, 119)
    exact = model.net.world.flow(plain.path[0], model.schedule.at(plain.levels[0]), 1.0)
    off = [(e.path[-1] - exact).abs().max().item() for e in (plain, heun, multistep)]
    assert off[1] < off[0] / 3 and off[2] < off[0] / 3
    by_default, ancestral = (
        sdedit(model, guide(1, 16), step=step, **settings) for step in (None, Ancestral())
    )
    assert torch.equal(by_default.picture, ancestral.picture)
    assert not torch.equal(by_default.picture, plain.picture)


def test_a_guide_and_its_mask_may_be_files(tmp_path, tiny):
    rng = torch.Generator().manual_seed(1)
    write_picture(torch.rand(1, 3, 45, 64, generator=rng) * 2 - 1, tmp_path / "in.png")
    mask = torch.zeros(1, 3, 45, 64)
    mask[..., :20] = 1
    write_picture(mask * 2 - 1, tmp_path / "mask.png")
    photo = open_picture(tmp_path / "in.png").framed(tiny.size, tiny.grid)
    region = photo.region(mask[:, :1])
    given = sdedit(tiny, photo.view(), "a red star", mask=region, steps=2)
    of_files = sdedit(tiny, tmp_path / "in.png", "a red star", mask=str(tmp_path / "mask.png"), steps=2)
    of_images = sdedit(
        tiny, Image.open(tmp_path / "in.png"), "a red star", mask=Image.open(tmp_path / "mask.png"), steps=2
    )
    assert torch.equal(of_files.picture, given.picture) and torch.equal(of_images.picture, given.picture)


@pytest.mark.parametrize("walk, step", [("vp", None), ("vp", DDIM()), ("vp", Heun()), ("ve", None)])
def test_two_repeats_are_two_edits_on_one_stream_of_noise(monkeypatch, walk, step):
    """Both rounds draw from the generators of the call; two calls do the same if they are handed one Rng."""
    model, g = gaussian_model(side=16), guide(2, 16)
    settings = dict(t0=0.4, walk=walk, steps=9, w=1.0, step=step)
    both = sdedit(model, g, repeats=2, **settings)
    shared = Rng.of(0, 2)
    monkeypatch.setattr(module.Rng, "of", lambda seed, n: shared)
    monkeypatch.setattr(module, "check", lambda *_: None)  # a latent may leave [−1, 1]
    first = sdedit(model, g, **settings)
    second = sdedit(model, first.path[-1], **settings)
    assert_close(both.path[-1], second.path[-1], atol=0, rtol=0)
    assert_close(both.noised, first.noised, atol=0, rtol=0)
    assert (both.path[-1] - first.path[-1]).abs().max() > 0.01


def test_picture_i_is_edited_as_if_it_were_alone():
    model, g = gaussian_model(side=16), guide(3, 16)
    g[1] *= -0.5
    batch = sdedit(model, g, ["", "dark", ""], t0=0.5, steps=8, seed=5)
    alone = sdedit(model, g[1:2], "dark", t0=0.5, steps=8, seed=6)
    assert_close(batch.picture[1:2], alone.picture, atol=1e-12, rtol=0)


# ---- masks ----


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("walk", ["vp", "ve"])
def test_kept_pixels_are_the_originals_to_the_bit(tiny, walk, repeats):
    g, mask = Rng.of(3, 2).uniform((2, 3, 32, 32)) * 2 - 1, half(32)
    edit = sdedit(tiny, g, "a red star", t0=0.6, mask=mask, walk=walk, steps=2, repeats=repeats)
    kept, edited = (1 - mask).bool().expand_as(g), mask.bool().expand_as(g)
    assert torch.equal(edit.picture[kept], g[kept])
    assert not torch.equal(edit.raw[kept], g[kept])  # the codec is lossy, so pasting did it
    assert torch.equal(edit.picture[edited], edit.raw[edited]) and not torch.equal(
        edit.picture[edited], g[edited]
    )


@pytest.mark.parametrize("walk", ["vp", "ve"])
def test_without_pasting_the_kept_pixels_end_free_of_noise(walk):
    """Kept and edited pixels stand at one level all the way, so at its end both are clean (the paper's
    lag a level).
    """
    g = guide(1, 16)
    edit = sdedit(gaussian_model(side=16), g, t0=0.5, mask=half(16), walk=walk, steps=30, w=1.0)
    assert torch.equal(edit.picture[..., 8:], g[..., 8:])
    n = 20
    sigma = PAPER.sigma(edit.levels[n])
    residual = edit.path[n][..., 8:] * (1 + sigma**2) ** 0.5 - g[..., 8:]
    assert residual.std().item() == pytest.approx(sigma, rel=0.15)  # 384 draws


def test_the_kept_part_comes_from_the_original_and_the_edited_part_from_the_guide():
    model, original = gaussian_model(side=16), -guide(1, 16)
    edit = sdedit(model, guide(1, 16), t0=0.05, mask=half(16), original=original, steps=10, w=1.0)
    assert torch.equal(edit.picture[..., 8:], original[..., 8:])
    assert edit.picture[..., :8].mean() > 0.8


def test_what_is_kept_begins_as_the_original_under_the_same_noise():
    model, original = gaussian_model(side=16), -guide(1, 16)
    how = dict(t0=0.5, steps=2, w=1.0, seed=4)
    masked = sdedit(model, guide(1, 16), mask=half(16), original=original, **how).path[0]
    of_guide, of_original = (sdedit(model, x, **how).path[0] for x in (guide(1, 16), original))
    assert torch.equal(masked[..., 8:], of_original[..., 8:])
    assert torch.equal(masked[..., :8], of_guide[..., :8])


def test_a_latent_is_edited_if_any_of_its_pixels_is():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 3, 4] = 1
    cells = latent_mask(mask, torch.zeros(1, 4, 2, 2))
    assert cells.flatten().tolist() == [0, 1, 0, 0]


# ---- mistakes ----


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(t0=0.0), "t0"),
        (dict(t0=1.1), "t0"),
        (dict(t0=-0.5), "t0"),
        (dict(t0=float("nan")), "t0"),
        (dict(steps=0), "steps"),
        (dict(steps=0, walk="ve"), "steps"),
        (dict(t0=1e-9), "t0: 1e-09 is less than one"),
        (
            dict(t0=0.01, steps=50),
            "steps: 50 are more than the 10 times below t0=0.01: take fewer steps or a larger t0",
        ),
        (dict(repeats=0), "repeats"),
        (dict(walk="up"), "walk"),
        (dict(step="ddim"), "step"),
        (dict(step=DDIM(), walk="ve"), "step"),
        (dict(original=guide(1, 16)), "original"),
        (dict(original=guide(1, 8), mask=half(16)), "original"),
        (dict(mask=half(8)), "mask"),
        (dict(mask=half(16)[0]), "mask"),
        (dict(mask=half(16) * 0), "mask"),
        (dict(mask=half(16) * 0 + 1), "mask"),
        (dict(mask=half(16) * 0.5), "mask"),
        (dict(mask=half(16) / 0), "mask"),
        (dict(guide=guide(1, 16) * 255), "guide: must lie in .*give x / 127.5 - 1"),
        (dict(guide=guide(1, 16) / 0), "guide: holds NaN or infinity"),
        (
            dict(guide=guide(1, 16)[0]),
            r"guide: must be \(b, 3, y, x\), got \(3, 16, 16\); add the batch axis",
        ),
        (dict(original=guide(1, 16) * 2, mask=half(16)), "original: must lie in"),
        (dict(t0=2.0), "t0: must lie in .*useful band"),
    ],
)
def test_an_argument_that_makes_no_sense_is_named(change, named):
    with pytest.raises(ValueError, match=rf"^{named}"):
        sdedit(gaussian_model(side=16), change.pop("guide", guide(1, 16)), **change)


@pytest.mark.parametrize("limits", [dict(low=0.6, high=0.5), dict(low=0.0), dict(high=1.5), dict(rounds=0)])
def test_bisection_refuses_limits_that_make_no_sense(limits):
    with pytest.raises(ArgumentError, match="^(low|high|rounds): must"):
        bisect_t0(lambda t0: t0, lambda edit: 0, **limits)


@pytest.mark.parametrize("target", [0.0, 1.0, float("nan")])
def test_a_distance_lies_between_0_and_1(target):
    with pytest.raises(ValueError, match="target"):
        at_distance(guide(1, 16), target)


def test_one_mask_serves_every_picture():
    assert check_mask(half(16), guide(3, 16)).shape == (3, 1, 16, 16)


# ---- text to picture ----


def test_generated_pictures_are_what_ddim_makes_of_their_noise_under_each_prompt():
    model = gaussian_model(Schedule.cosine(), side=16)
    made = generate(model, ["", "dark"], n=4, steps=20, w=1.0)
    abars, prompts = [model.schedule.at(t) for t in made.levels], [""] * 4 + ["dark"] * 4
    assert_close(made.path[-1], model.net.world.ddim(made.path[0], abars, prompts), atol=1e-9, rtol=0)
    assert_close(made.picture, made.path[-1].clamp(-1, 1), atol=0, rtol=0)
    assert made.path[0].std().item() == pytest.approx(1.0, abs=0.03)
    assert len(made.path) == len(made.levels) == 21 and made.levels[0] == TOP * 1000 and made.levels[-1] == 0


@pytest.mark.parametrize("steps", [0, 2.5, "9", True])
def test_the_times_of_a_walk_want_a_whole_number_of_steps(steps):
    with pytest.raises(ValueError, match="^steps: must be"):
        times_below(Schedule.cosine(), steps, 0.5, "t0")


def test_nothing_is_generated_of_no_texts():
    with pytest.raises(ValueError, match="^prompts: must hold one text at least"):
        generate(gaussian_model(side=8), [])


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_generated_picture_i_depends_on_seed_plus_i_alone(eta):
    model, settings = gaussian_model(Schedule.cosine(), side=8), dict(steps=5, w=1.0, step=DDIM(eta))
    batch, alone = (
        generate(model, "dark", n=3, seed=4, **settings),
        generate(model, "dark", seed=6, **settings),
    )
    assert_close(batch.path[-1][2:], alone.path[-1], atol=1e-12, rtol=0)
    assert (batch.path[-1][1] - batch.path[-1][2]).abs().max() > 0.01


@pytest.mark.parametrize(
    "change, named", [(dict(n=0), "n"), (dict(step=None), "step"), (dict(steps=0), "steps")]
)
def test_generate_names_the_argument_that_makes_no_sense(change, named):
    with pytest.raises(ValueError, match=rf"^{named}\b"):
        generate(gaussian_model(side=8), "dark", **change)


def test_a_step_that_asks_for_two_noises_gets_two_and_the_first_is_the_kept_parts():
    model, seen, mask = gaussian_model(side=8), [], torch.ones(1, 1, 8, 8)
    mask[..., :4] = 0

    def greedy(sched, x_t, eps, t, s, noise):
        seen.append((noise(), noise()))
        return x_t

    edit = sdedit(model, guide(1, 8), steps=4, w=1.0, step=greedy, mask=mask)
    assert all((one - other).abs().max() > 0.1 for one, other in seen)
    for (z, _), x, level in zip(seen, edit.path[1:], edit.levels[1:]):
        kept = q_sample(model.schedule, model.encode(guide(1, 8)), level, z)
        assert_close(x[..., :4], kept[..., :4])


def test_another_number_of_prompts_than_pictures_is_refused_in_their_name():
    for prompts in (["dark"] * 3, []):
        with pytest.raises(ArgumentError, match="^prompt: must be one, or one for each of 2 pictures"):
            sdedit(gaussian_model(side=8), guide(2, 8), prompts, steps=2)
