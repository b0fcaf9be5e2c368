"""Prompt-to-Prompt: Equations (12), (13), (14) on maps, and what they do to a whole walk on a small
random model.
"""

from dataclasses import replace as changed

import pytest
import torch
from random_weights import normal, randomised, relative_error, transplant

from palimpsest.arguments import ArgumentError
from palimpsest.methods.by_word import injected_steps, steps_of, tokens_of
from palimpsest.methods.inversion import invert, redo
from palimpsest.methods.local_blend import Blend, blend_mask
from palimpsest.methods.prompt_to_prompt import Injection, Pair, prompt_to_prompt, refine, replace, reweight
from palimpsest.methods.sampling import generate
from palimpsest.nets.attention import Site, at
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.nets.unet import UNet
from palimpsest.weights.load import load
from palimpsest.weights.public.layouts import unet_to_diffusers
from palimpsest.worlds.files import read_picture, write_picture
from palimpsest.worlds.scene import WORDS
from tests.tiny import tiny_weights

WORDS24 = WordTokenizer(list(WORDS), 24)
SOURCE, TARGET, LONGER = "a red circle", "a green star", "a large red circle on a blue background"
STEPS = 3
NONE = Injection(cross=0, self_=0)
CROSS_SITE = Site("up0.0", "cross", (8, 8))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(tiny_weights(tmp_path_factory.mktemp("tiny")), dtype=torch.float64)


@pytest.fixture(scope="module")
def picture():
    return torch.linspace(-1, 1, 3 * 32 * 32, dtype=torch.float64).reshape(1, 3, 32, 32)


def maps(*shape, seed):
    return normal(*shape, seed=seed, dtype=torch.float64).softmax(-1)


def pair_of(model, source=SOURCE, target=TARGET, blend=None, steps=STEPS, **settings):
    return Pair.of(model, source, target, Injection(**settings), blend, latent=(8, 8), steps=steps)


def same(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


# ---- the equations ----


def test_replace_is_equation_12_cell_by_cell():
    m, own, mapper = maps(2, 6, 5, seed=1), maps(2, 6, 5, seed=2), maps(5, 5, seed=3)
    on = torch.tensor([True, False, True, True, False])
    found = replace(m, own, mapper, on)
    for h in range(2):
        for i in range(6):
            for j in range(5):
                want = sum(m[h, i, k] * mapper[k, j] for k in range(5)) if on[j] else own[h, i, j]
                same(found[h, i, j], want)
    assert torch.equal(replace(m, own, torch.eye(5)), m) and torch.equal(
        replace(m, own, torch.eye(5), False), own
    )


def test_refine_is_equation_13_cell_by_cell():
    m, own, index = maps(2, 6, 5, seed=1), maps(2, 6, 5, seed=2), torch.tensor([0, -1, 1, 4, -1])
    on = torch.tensor([True, True, True, False, False])
    found = refine(m, own, index, on)
    for j, a in enumerate(index.tolist()):
        assert torch.equal(found[..., j], own[..., j] if a < 0 or not on[j] else m[..., a])
    assert torch.equal(refine(m, own, index, False), own)


def test_reweight_is_equation_14_linear_in_c_and_not_normalised():
    m, c = maps(2, 6, 5, seed=1), torch.tensor([1.0, 1.0, 3.0, 1.0, 1.0])
    found = reweight(m, c)
    assert torch.equal(found[..., 2], 3 * m[..., 2]) and torch.equal(
        found[..., [0, 1, 3, 4]], m[..., [0, 1, 3, 4]]
    )
    same(found.sum(-1), 1 + (3 - 1) * m[..., 2])
    assert torch.equal(reweight(m, torch.ones(5)), m)
    c[2] = 0
    assert not reweight(m, c)[..., 2].any()
    c[2] = -2
    assert torch.equal(reweight(m, c)[..., 2], -2 * m[..., 2])


@pytest.mark.parametrize("target, edit", [(TARGET, "replace"), (LONGER, "refine")])
def test_an_edit_treats_each_head_by_itself_and_chains_the_mapping_before_the_weights(model, target, edit):
    m, own, heads = maps(4, 64, 24, seed=1), maps(4, 64, 24, seed=2), torch.tensor([2, 0, 3, 1])
    plain, weighted = (
        pair_of(model, target=target, edit=edit, cross=1.0, weights=weights)
        for weights in (None, {"a": -1.5})
    )
    same(plain.edit(m[heads], own[heads], CROSS_SITE, 0), plain.edit(m, own, CROSS_SITE, 0)[heads])
    mean = m.mean(0, keepdim=True).expand(4, -1, -1)
    assert not torch.allclose(plain.edit(m, own, CROSS_SITE, 0), plain.edit(mean, own, CROSS_SITE, 0))
    c = torch.ones(24)
    c[tokens_of("weights", WORDS24, target, "a")] = -1.5
    same(weighted.edit(m, own, CROSS_SITE, 0), plain.edit(m, own, CROSS_SITE, 0) * c)


# ---- from when to when ----


def test_a_fraction_of_the_steps_is_rounded_to_the_nearest():
    assert [steps_of(f, 50) for f in (0, 0.2, 0.4, 0.5, 0.8, 1.0, 1)] == [0, 10, 20, 25, 40, 50, 50]
    assert [steps_of(f, 5) for f in (0.09, 0.1, 0.29, 0.3, 0.5, 0.9)] == [0, 1, 1, 2, 3, 5]
    assert steps_of(0.58, 50) == 29  # .58 · 50 is 28.999… in binary


def test_the_source_is_injected_in_the_early_steps():
    on = injected_steps(WORDS24, TARGET, 0.8, 50)
    assert on.shape == (50, 24) and on[:40].all() and not on[40:].any()
    assert injected_steps(WORDS24, TARGET, (0.2, 0.6), 50).any(1).nonzero().flatten().tolist() == list(
        range(10, 30)
    )


def test_a_word_of_its_own_tau_touches_its_own_columns_only():
    cross = {"star": 0.4, "default_": 0.8, "green": (0.5, 1.0)}
    on = injected_steps(WORDS24, TARGET, cross, 50)
    assert on[:, 3].sum() == 20 and on[:20, 3].all() and on[25:, 2].all() and on[:, 2].sum() == 25
    others = [j for j in range(24) if j not in (2, 3)]
    assert on[:40, others].all() and not on[40:, others].any()
    assert cross == {"star": 0.4, "default_": 0.8, "green": (0.5, 1.0)}
    without = {"star": 0.4}
    assert injected_steps(WORDS24, TARGET, without, 50)[:, others].all() and without == {"star": 0.4}


# ---- a walk ----

EDITS = {
    "replace": dict(target=TARGET, injection=Injection(edit="replace")),
    "refine": dict(target=LONGER, injection=Injection(edit="refine")),
    "reweighted": dict(target=TARGET, injection=Injection(weights={"star": 5.0})),
    "all of it": dict(
        target=LONGER,
        injection=Injection(cross={"default_": 1.0, "blue": 0.3}, self_=1.0, weights={"red": -2.0}),
        blend=Blend("circle", "blue"),
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_the_source_is_that_of_a_solo_run_whatever_the_edit(model, name):
    r = prompt_to_prompt(model, SOURCE, steps=STEPS, seed=4, w=5.0, **EDITS[name])
    solo = generate(model, SOURCE, steps=STEPS, seed=4, w=5.0)
    same(r.source_picture, solo.picture)
    for both, alone in zip(r.path, solo.path, strict=True):
        same(both[:1], alone)
    assert not torch.allclose(r.path[-1][1:], r.path[-1][:1], atol=1e-6) and r.levels == tuple(solo.levels)


@pytest.mark.parametrize("name", ["replace", "refine", "all of it"])
def test_equal_prompts_give_equal_pictures_in_every_step(model, name):
    injection, blend = EDITS[name]["injection"], EDITS[name].get("blend")
    r = prompt_to_prompt(
        model,
        LONGER,
        LONGER,
        injection=changed(injection, weights={"red": 1.0}),
        blend=blend,
        steps=STEPS,
        seed=4,
    )
    for z in r.path:
        same(z[1:], z[:1])
    apart = prompt_to_prompt(
        model, LONGER, LONGER, injection=changed(injection, weights={"red": 2.0}), steps=STEPS, seed=4
    )
    assert (apart.path[-1][1:] - apart.path[-1][:1]).abs().max() > 1e-6


@pytest.mark.parametrize("target", [TARGET, LONGER])
def test_without_injection_the_target_is_a_plain_picture_of_its_prompt_from_the_same_noise(model, target):
    r = prompt_to_prompt(model, SOURCE, target, injection=NONE, steps=STEPS, seed=4)
    same(r.picture, generate(model, target, steps=STEPS, seed=4, w=3.0).picture)
    assert torch.equal(r.path[0][0], r.path[0][1])
    with_it = prompt_to_prompt(model, SOURCE, target, steps=STEPS, seed=4)
    assert (with_it.path[-1][1:] - r.path[-1][1:]).abs().max() > 1e-6
    for one in (Injection(cross=0), Injection(self_=0)):  # each of the two does something
        half = prompt_to_prompt(model, SOURCE, target, injection=one, steps=STEPS, seed=4)
        assert (half.path[-1] - r.path[-1]).abs().max() > 1e-6


def spied(monkeypatch):
    """Every call of the tap, as (step, site, before, after)."""
    calls, steps = [], []

    def spying(tap, *, sites):
        i = len(steps)
        steps.append(sites)

        def spy(probs, site):
            before = probs.clone()
            after = tap(probs, site)
            assert torch.equal(probs, before), "the tap writes into what it is given"
            calls.append((i, site, before, after))
            return after

        return at(spy, sites=sites)

    monkeypatch.setattr("palimpsest.methods.prompt_to_prompt.at", spying)
    return calls


def test_a_full_replacement_looks_where_the_source_looks_in_every_layer_and_step(model, monkeypatch):
    calls = spied(monkeypatch)
    r = prompt_to_prompt(model, SOURCE, TARGET, injection=Injection(cross=1.0, self_=0), steps=STEPS, seed=4)
    cross = [s for s in model.net.sites((8, 8)) if s.kind == "cross"]
    assert [(i, site) for i, site, _, _ in calls] == [(i, site) for i in range(STEPS) for site in cross]
    for _, _, before, after in calls:
        assert torch.equal(after[1], before[0]) and torch.equal(after[0], before[0])
    first = next(before for i, _, before, _ in calls if i == 0)
    assert not torch.equal(first[1], first[0])  # the target's own would have been others
    assert (r.path[-1][1] - r.path[-1][0]).abs().max() > 1e-6  # and its values are its own


def test_self_attention_is_injected_on_coarse_maps_in_the_first_steps(model, monkeypatch):
    calls = spied(monkeypatch)
    injection = Injection(cross=0, self_=0.67)
    prompt_to_prompt(model, SOURCE, TARGET, injection=injection, steps=STEPS, seed=4)
    hit = {
        (i, site)
        for i, site, before, after in calls
        if site.kind == "self" and torch.equal(after[1], before[0])
    }
    assert hit == {
        (i, s) for i in range(2) for s in model.net.sites((8, 8)) if s.kind == "self" and s.res == (4, 4)
    }
    assert {(i, site) for i, site, _, _ in calls if site.kind == "self"} == hit
    calls.clear()
    prompt_to_prompt(model, SOURCE, TARGET, injection=changed(injection, self_res=8), steps=STEPS, seed=4)
    assert {site.res for _, site, _, _ in calls if site.kind == "self"} == {(4, 4), (8, 8)}


def test_maps_are_kept_as_they_were_before_the_edit(model, monkeypatch):
    calls = spied(monkeypatch)
    injection = Injection(cross=1.0, self_=0, weights={"star": 9.0})
    r = prompt_to_prompt(model, SOURCE, TARGET, injection=injection, steps=STEPS, seed=4)
    assert r.maps.shape == (STEPS, 2, 8, 8, 24)
    same(r.maps.sum(-1), torch.ones_like(r.maps[..., 0]))  # after it, rows would sum to far more
    for i in range(STEPS):
        before = torch.cat([before for k, site, before, _ in calls if k == i and site.res == (8, 8)], dim=1)
        same(r.maps[i], before.mean(1).reshape(2, 8, 8, 24))
    assert (r.maps[:, 1] - r.maps[:, 0]).abs().max() > 1e-6


def test_pairs_of_a_batch_are_edited_each_in_its_own_way(model):
    settings = dict(
        injection=[
            Injection("replace", cross=0.5, self_=0.0, weights={"star": 2.0}),
            Injection("refine", cross={"default_": 1.0, "blue": 0.3}, self_=1.0),
        ],
        blend=[None, Blend("circle", "blue", threshold=0.9)],
    )
    both = prompt_to_prompt(model, SOURCE, [TARGET, LONGER], steps=STEPS, seed=4, **settings)
    assert both.picture.shape == (2, 3, 32, 32) and both.masks.shape == (STEPS, 2, 1, 8, 8)
    assert [a.edit for a in both.alignments] == ["replace", "refine"]
    for p, target in enumerate((TARGET, LONGER)):
        alone = prompt_to_prompt(
            model, SOURCE, target, steps=STEPS, seed=4 + p, **{k: v[p] for k, v in settings.items()}
        )
        same(both.path[-1][[p, 2 + p]], alone.path[-1])
        same(both.picture[p, None], alone.picture)
    three = prompt_to_prompt(model, SOURCE, [TARGET, LONGER, TARGET], steps=1, seed=[7, 7, 7])
    assert torch.equal(three.path[0][0], three.path[0][1]) and (both.path[0][0] != both.path[0][1]).any()
    same(three.picture[2], three.picture[0])
    assert (three.picture[1] - three.picture[0]).abs().max() > 1e-6


# ---- local blend and masks ----


def half_mask():
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16] = 1
    return mask


def test_outside_the_words_the_target_is_the_source_and_the_pasted_picture_too(model):
    settings = dict(
        blend=Blend("circle", "star", threshold=0.97, begin=0.3),
        injection=Injection(weights={"star": 5.0}),
        steps=STEPS,
        seed=4,
    )
    r = prompt_to_prompt(model, SOURCE, TARGET, **settings)
    assert r.masks[0].all() and not r.masks[1].all()  # begins after .3 · 3 steps
    tokens = [tokens_of("blend", model.tokenizer, *asked) for asked in ((SOURCE, "circle"), (TARGET, "star"))]
    for i in (1, 2):  # by the maps of all steps so far
        source, target = r.maps[: i + 1].mean(0)[:, None]
        assert torch.equal(r.masks[i], blend_mask(source, target, *tokens, [], (8, 8), settings["blend"]))
    last = blend_mask(*r.maps[2][:, None], *tokens, [], (8, 8), settings["blend"])
    assert not torch.equal(r.masks[2], last)
    assert 0 < r.masks[-1].mean() < 1 and ((r.masks == 0) | (r.masks == 1)).all()
    out = r.masks[-1, 0, 0] == 0
    assert torch.equal(r.path[-1][1, :, out], r.path[-1][0, :, out])
    assert (r.path[-1][1, :, ~out] != r.path[-1][0, :, ~out]).any()
    kept = (r.mask == 0).expand(-1, 3, -1, -1)
    assert torch.equal(r.picture[kept], r.source_picture[kept]) and torch.equal(
        r.picture[~kept], r.raw[~kept]
    )
    shown = prompt_to_prompt(model, SOURCE, TARGET, **settings, paste=False)
    assert torch.equal(shown.picture, r.raw) and (shown.picture[kept] != r.source_picture[kept]).any()


def test_a_users_mask_holds_alone_and_cuts_down_the_words(model):
    r = prompt_to_prompt(model, SOURCE, TARGET, mask=half_mask(), steps=STEPS, seed=4)
    assert r.masks[..., :4].all() and not r.masks[..., 4:].any()
    assert (
        torch.equal(r.picture[..., 16:], r.source_picture[..., 16:])
        and (r.picture[..., :8] != r.source_picture[..., :8]).any()
    )
    assert torch.equal(r.path[1][1, ..., 4:], r.path[1][0, ..., 4:])
    words = prompt_to_prompt(
        model, SOURCE, TARGET, blend=Blend("circle", "star", begin=0.0), steps=STEPS, seed=4
    )
    both = prompt_to_prompt(
        model, SOURCE, TARGET, blend=Blend("circle", "star", begin=0.0), mask=half_mask(), steps=STEPS, seed=4
    )
    assert torch.equal(both.masks[0], words.masks[0] * r.masks[0])


def test_a_users_mask_keeps_every_pixel_outside_of_it_where_it_cuts_through_a_cell(model, picture):
    odd = torch.zeros(1, 1, 32, 32)
    odd[..., 3:18, 5:14] = 1  # cells are 4×4 pixels
    r = prompt_to_prompt(model, SOURCE, TARGET, mask=odd, steps=STEPS, seed=4)
    kept = (odd == 0).expand(-1, 3, -1, -1)
    assert torch.equal(r.mask, odd.to(r.mask)) and torch.equal(r.picture[kept], r.source_picture[kept])
    assert (r.raw[kept] != r.source_picture[kept]).any() and (
        r.picture[~kept] != r.source_picture[~kept]
    ).any()
    start = invert(model, picture, SOURCE, steps=STEPS)
    words = prompt_to_prompt(
        model,
        SOURCE,
        TARGET,
        start=start,
        pictures=picture,
        mask=odd,
        blend=Blend("circle", "star", threshold=0.9),
    )
    assert torch.equal(words.picture[kept], picture[kept]) and not words.mask[:, :1][odd == 0].any()


# ---- given pictures ----


def test_an_inversion_is_edited_and_its_source_is_its_own_way_down(model, picture):
    start = invert(model, picture, SOURCE, steps=STEPS)
    r = prompt_to_prompt(model, SOURCE, TARGET, start=start, pictures=picture, mask=half_mask(), w=2.0)
    for both, alone in zip(r.path, redo(model, start, w=2.0), strict=True):
        same(both[:1], alone)
    assert r.levels == start.times and torch.equal(r.picture[..., 16:], picture[..., 16:])
    assert (r.source_picture[..., 16:] != picture[..., 16:]).any()
    plain = prompt_to_prompt(model, SOURCE, TARGET, start=start, injection=NONE)
    same(plain.path[-1], redo(model, start, [SOURCE, TARGET])[-1])  # w None: the inversion's own, 1


def test_two_pictures_that_are_not_square_are_edited_together(model):
    x = normal(2, 3, 32, 48, dtype=torch.float64).clamp(-1, 1)
    r = prompt_to_prompt(
        model,
        SOURCE,
        [TARGET, LONGER],
        start=invert(model, x, SOURCE, steps=2),
        pictures=x,
        blend=Blend("circle", "a"),
    )
    assert r.picture.shape == x.shape and r.maps.shape[2:4] == (8, 12) and r.masks.shape == (2, 2, 1, 8, 12)


# ---- parity ----


class Replacing:
    """An attention processor of diffusers' interface that edits as the public code does: rows (b h),
    source first.
    """

    def __init__(self, mapper, kind):
        self.mapper, self.kind = mapper, kind

    def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None, temb=None):
        ctx = x if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (attn.head_to_batch_dim(f) for f in (attn.to_q(x), attn.to_k(ctx), attn.to_v(ctx)))
        source, target = attn.get_attention_scores(q, k).chunk(2)
        if self.kind == "cross":
            target = torch.einsum("hpw,wn->hpn", source, self.mapper)
        elif len(source[0]) <= 4 * 4:
            target = source
        return attn.to_out[0](attn.batch_to_head_dim(torch.cat([source, target]) @ v))


@torch.no_grad()
def test_an_edited_prediction_is_that_of_diffusers_with_an_attention_processor_on_equal_weights(model):
    diffusers = pytest.importorskip("diffusers", reason="parity needs diffusers")
    ours = randomised(
        UNet(width=16, mult=(1, 2), blocks=1, attention=(True, True), heads=2, ctx_width=12, norm_groups=4)
    ).double()
    theirs = diffusers.UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        attention_head_dim=2,
        cross_attention_dim=12,
        norm_num_groups=4,
    )
    theirs = transplant(ours, theirs.double(), unet_to_diffusers)
    pair = pair_of(model, cross=1.0, self_=1.0)
    mapper = maps(24, 24, seed=9)  # any mapper will do, and shows more than the identity
    pair = changed(pair, alignment=pair.alignment._replace(mapper=mapper))
    theirs.set_attn_processor(
        {name: Replacing(mapper, "cross" if "attn2" in name else "self") for name in theirs.attn_processors}
    )
    x, ctx = normal(2, 4, 8, 8, dtype=torch.float64), normal(2, 24, 12, seed=2, dtype=torch.float64)

    def edit(probs, site):
        return torch.stack([probs[0], pair.edit(*probs, site, 0)])

    found = ours(x, 500, ctx, edit)
    assert relative_error(found, theirs(x, 500, ctx).sample) < 1e-10
    assert relative_error(found[1:], ours(x, 500, ctx)[1:]) > 1e-3


# ---- mistakes ----


@pytest.mark.parametrize(
    "settings, said",
    [
        (dict(edit="swap"), "edit: must be replace, refine or auto, got 'swap'"),
        (dict(cross=1.2), r"cross: must be a fraction of the steps in \[0, 1\], got 1.2"),
        (dict(cross=float("nan")), r"cross: must be a fraction"),
        (dict(cross={"star": True}), r"cross: must be a fraction"),
        (dict(cross=(0.2, 0.4, 0.6)), r"cross: must be a fraction"),
        (dict(cross=(0.6, 0.2)), r"cross: must start before it ends, got \(0.6, 0.2\)"),
        (dict(self_=-0.1), r"self_: must lie in \[0, 1\], got -0.1"),
        (dict(self_=True), "self_: must be a number, got True"),
        (dict(self_res=-5), "self_res: must be at least 1, got -5"),
        (dict(weights={"star": float("inf")}), 'weights: "star" must have a finite number'),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, said):
    with pytest.raises(ArgumentError, match=said) as error:
        Injection(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, said",
    [
        (
            dict(injection=Injection("replace"), target=LONGER),
            "edit: replace needs as many words in both prompts, got 3 and 8",
        ),
        (
            dict(injection=Injection(cross={"heart": 0.4})),
            'cross: the word "heart" is not in the prompt "a green star"',
        ),
        (
            dict(injection=Injection(cross={"circle": 0.4})),
            'cross: the word "circle" is not in the prompt "a green star"',
        ),
        (dict(w=0.0), "w: is 0, so that no prompt is asked"),
        (dict(w=float("inf")), "w: must be a finite number"),
        (
            dict(injection=Injection(self_res=2)),
            r"self_res: no self-attention map has 4 cells or fewer; raise it, or inject no self-attention",
        ),
        (
            dict(injection=Injection(weights={"circle": 2.0})),
            'weights: the word "circle" is not in the prompt "a green star"',
        ),
        (dict(blend=Blend("star", "star")), 'blend: the word "star" is not in the prompt "a red circle"'),
        (
            dict(blend=Blend("circle", "star", subtract=["circle"])),
            'blend: the word "circle" is not in the prompt "a green star"',
        ),
        (
            dict(blend=Blend("circle", "star", res=(5, 5))),
            r"res: the model has no cross-attention maps of \(5, 5\); choose one of \[\(4, 4\), \(8, 8\)\]",
        ),
        (
            dict(target=[TARGET] * 2, blend=[Blend("circle", "star"), Blend("circle", "star", res=(4, 4))]),
            "blend: must have the same res for all pairs",
        ),
        (dict(mask=torch.zeros(1, 1, 32, 32)), "mask: is all 0"),
        (dict(mask=torch.zeros(1, 32, 32)), r"mask: must be \(b, 1, y, x\)"),
        (dict(pictures=torch.zeros(1, 3, 8, 8)), r"pictures: must be \(1, 3, 32, 32\)"),
        (dict(pictures=torch.full((1, 3, 32, 32), 255.0)), r"pictures: must lie in \[-1, 1\]"),
        (
            dict(source=[SOURCE] * 2, target=[TARGET] * 3),
            "source: must be one, or one for each of 3 pairs, got 2",
        ),
        (dict(injection=[Injection()] * 2), "injection: must be one, or one for each of 1 pairs, got 2"),
        (dict(injection="replace"), "injection: must be one value, or one for each pair, got 'replace'"),
        (dict(target="a gren star"), 'unknown word "gren"'),
        (dict(steps=0), "steps: must be at least 1, got 0"),
    ],
)
def test_mistakes_are_named(model, change, said):
    with pytest.raises(ValueError, match=said) as error:
        prompt_to_prompt(model, **{**dict(source=SOURCE, target=TARGET, steps=STEPS), **change})
    assert "\n" not in str(error.value)


def test_pictures_and_masks_may_be_files(model, picture, tmp_path):
    write_picture(picture.float(), tmp_path / "in.png")
    write_picture(2 * half_mask().expand(-1, 3, -1, -1) - 1, tmp_path / "mask.png")
    x = read_picture(tmp_path / "in.png")
    start = invert(model, x, SOURCE, steps=1)
    by_tensor = prompt_to_prompt(model, SOURCE, TARGET, start=start, pictures=x, mask=half_mask())
    by_file = prompt_to_prompt(
        model, SOURCE, TARGET, start=start, pictures=tmp_path / "in.png", mask=tmp_path / "mask.png"
    )
    assert torch.equal(by_file.picture, by_tensor.picture)


def test_an_inversion_of_another_prompt_is_refused(model, picture):
    start = invert(model, picture, SOURCE, steps=1)
    with pytest.raises(
        ValueError,
        match=r"source: must be the prompts of the inversion, \['a red circle'\], got \['a star'\]",
    ):
        prompt_to_prompt(model, "a star", TARGET, start=start)
