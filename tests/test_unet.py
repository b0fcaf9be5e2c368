from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from random_weights import census, normal, randomised, relative_error, silent_parameters, transplant
from torch import nn

from palimpsest.nets.attention import Site, at
from palimpsest.nets.levels import check_map
from palimpsest.nets.unet import UNet, sinusoid, widen_input
from palimpsest.weights.public.layouts import unet_to_diffusers

SMALL = dict(width=32, mult=(1, 2, 2), attention=(True, True, False), heads=4, ctx_width=20, norm_groups=8)


def small(**changes):
    return randomised(UNet(**{**SMALL, **changes})).eval()


@pytest.fixture(scope="module")
def net():
    return small()


@pytest.fixture(scope="module")
def full():
    with torch.device("meta"):
        return UNet()


X, T, CTX = normal(2, 4, 8, 12, seed=2), torch.tensor([3.0, 981.0]), normal(2, 7, 20, seed=3)


# ------------------------------------------------------------------------------------------------ the published network


def test_the_full_configuration_is_that_of_stable_diffusion(full):
    assert census(full) == (859_520_964, 686)
    count = [
        census(part)[0]
        for part in (full.time, full.conv_in, *full.down, full.mid, *full.up, full.norm_out, full.conv_out)
    ]
    assert count == [
        2_050_560,
        11_840,
        10_524_480,
        36_818_560,
        139_992_320,
        62_277_120,
        97_038_080,
        162_241_280,
        258_330_880,
        71_413_120,
        18_810_560,
        640,
        11_524,
    ]


def test_each_block_of_the_full_configuration_has_the_published_count(full):
    def blocks(level):
        return [census(part)[0] for part in [*level.stages, *([level.resample] if level.resample else [])]]

    assert [blocks(level) for level in full.down] == [
        [4_801_280, 4_801_280, 921_920],
        [15_746_560, 17_384_960, 3_687_040],
        [59_345_920, 65_899_520, 14_746_880],
        [31_138_560, 31_138_560],
    ]
    assert blocks(full.mid) == [31_138_560 + 34_760_960, 31_138_560]
    assert [blocks(level)[:2] for level in full.up] == [
        [49_164_800, 49_164_800],
        [83_925_760, 83_925_760],
        [25_989_760, 21_892_480],
        [6_953_280, 5_928_640],
    ]
    assert [sum(blocks(level)[2:]) for level in full.up] == [63_911_680, 90_479_360, 23_530_880, 5_928_640]


def test_every_norm_has_its_eps(full):
    assert Counter(m.eps for m in full.modules() if isinstance(m, nn.GroupNorm)) == {1e-5: 45, 1e-6: 16}
    assert Counter(m.eps for m in full.modules() if isinstance(m, nn.LayerNorm)) == {1e-5: 48}
    assert {t.norm.eps for t in full.transformers()} == {1e-6}


def test_the_full_configuration_has_32_sites_in_call_order(full):
    sites = full.sites((64, 64))
    assert [s.kind for s in sites] == ["self", "cross"] * 16
    places = [s.name for s in sites[::2]]
    assert places == [
        "down0.0",
        "down0.1",
        "down1.0",
        "down1.1",
        "down2.0",
        "down2.1",
        "mid",
        "up1.0",
        "up1.1",
        "up1.2",
        "up2.0",
        "up2.1",
        "up2.2",
        "up3.0",
        "up3.1",
        "up3.2",
    ]
    assert Counter(s.res for s in sites[::2]) == {(64, 64): 5, (32, 32): 5, (16, 16): 5, (8, 8): 1}
    assert Site("up1.0", "cross", (16, 16)) in sites


def diffusers_unet(flip_sin_to_cos=True):
    diffusers = pytest.importorskip("diffusers", reason="parity needs diffusers")
    cross, plain = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")
    return diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64, 64),
        down_block_types=(cross[0], cross[0], plain[0]),
        up_block_types=(plain[1], cross[1], cross[1]),
        attention_head_dim=4,
        cross_attention_dim=20,
        norm_num_groups=8,
        flip_sin_to_cos=flip_sin_to_cos,
    ).eval()


@torch.no_grad()
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_equal_weights_give_the_prediction_of_diffusers(net, dtype, tolerance):
    ours = copy.deepcopy(net).to(dtype)
    theirs = transplant(ours, diffusers_unet().to(dtype), unet_to_diffusers)
    x, ctx = X.to(dtype), CTX.to(dtype)  # not square, and each picture at a time of its own
    assert relative_error(ours(x, T, ctx), theirs(x, T, ctx).sample) < tolerance


@torch.no_grad()
def test_parity_would_notice_sines_before_cosines(net):
    theirs = transplant(net, diffusers_unet(flip_sin_to_cos=False), unet_to_diffusers)
    assert relative_error(net(X, T, CTX), theirs(X, T, CTX).sample) > 1e-2


def test_every_key_of_the_published_network_has_one_name_in_diffusers(full):
    diffusers = pytest.importorskip("diffusers", reason="the key map leads to diffusers")
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel(cross_attention_dim=768)
    ours = {unet_to_diffusers(key): value.shape for key, value in full.state_dict().items()}
    assert ours == {key: value.shape for key, value in theirs.state_dict().items()}


# ----------------------------------------------------------------------------------------------------------------- time


def test_at_time_zero_all_cosines_are_one_and_come_first():
    assert sinusoid(torch.zeros(1), 320)[0].tolist() == [1.0] * 160 + [0.0] * 160


def test_frequencies_divide_by_half_the_width():
    t, k = 7.0, 5
    wave = sinusoid(torch.tensor([t]), 64)[0]
    expected = torch.tensor([t * 10000 ** (-k / 32)])
    torch.testing.assert_close(wave[[k, 32 + k]], torch.cat([expected.cos(), expected.sin()]))


@torch.no_grad()
def test_time_is_a_number_or_one_number_per_picture(net):
    each = net(X, T, CTX)
    for i in range(2):
        alone = net(X[i : i + 1], T[i].item(), CTX[i : i + 1])
        torch.testing.assert_close(each[i : i + 1], alone, rtol=1e-4, atol=1e-5)
    for t in (981, 981.0, torch.tensor(981), torch.tensor([981.0]), torch.tensor([981, 981])):
        torch.testing.assert_close(net(X, t, CTX), net(X, torch.tensor([981.0, 981.0]), CTX), rtol=0, atol=0)


@torch.no_grad()
def test_time_is_real_and_a_half_precision_net_still_tells_neighbours_apart(net):
    between = net(X, 500.5, CTX)
    assert relative_error(between, net(X, 500, CTX)) > 1e-3
    half = copy.deepcopy(net).bfloat16()
    x, ctx = X.bfloat16(), CTX.bfloat16()
    assert torch.equal(torch.tensor(999.0).bfloat16(), torch.tensor(999.5).bfloat16())  # the trap
    assert not torch.equal(half(x, 999.0, ctx), half(x, 999.5, ctx))
    assert half(x, 999.0, ctx).dtype == torch.bfloat16


# ----------------------------------------------------------------------------------------------------------------- taps


@torch.no_grad()
def test_an_identity_tap_changes_nothing_and_hears_every_site_in_order(net):
    net, x, ctx, heard = copy.deepcopy(net).double(), X.double(), CTX.double(), []

    def listen(probs, site):
        heard.append(site)
        assert probs.shape == (
            2,
            4,
            site.res[0] * site.res[1],
            7 if site.kind == "cross" else site.res[0] * site.res[1],
        )
        torch.testing.assert_close(probs.sum(-1), torch.ones_like(probs[..., 0]))
        return probs

    assert relative_error(net(x, T, ctx, tap=listen), net(x, T, ctx)) < 1e-12
    assert heard == net.sites((8, 12))
    assert heard[0] == Site("down0.0", "self", (8, 12)) and heard[8] == Site("mid", "self", (2, 3))


@torch.no_grad()
def test_a_tap_is_called_where_it_asked_to_be_and_nowhere_else(net):
    heard = []
    tap = at(lambda probs, site: heard.append(site) or 0 * probs, kind="cross", res=(4, 6), name="up")
    assert not torch.equal(net(X, T, CTX, tap=tap), net(X, T, CTX))
    assert heard == [Site(f"up1.{j}", "cross", (4, 6)) for j in range(3)]


@torch.no_grad()
def test_a_tap_leaves_no_trace(net):
    before = net(X, T, CTX)
    net(X, T, CTX, tap=lambda probs, site: 0 * probs)
    assert torch.equal(net(X, T, CTX), before)


@pytest.mark.parametrize("restriction", [{"res": (16, 16)}, {"name": "up0"}, {"name": "mid", "res": (4, 6)}])
def test_a_tap_that_no_site_fits_is_refused_with_the_list_of_sites(net, restriction):
    with pytest.raises(
        ValueError, match="tap: wants no attention layer.*8x12.*down0.0 self 8x12.*up2.2 cross 8x12"
    ) as e:
        net(X, T, CTX, tap=at(lambda probs, site: probs, **restriction))
    assert "\n" not in str(e.value)


def test_a_net_without_text_has_no_cross_attention():
    net = small(ctx_width=None)
    assert {s.kind for s in net.sites((8, 12))} == {"self"}
    assert not any(".attn2." in key or ".norm2." in key and "transformer" in key for key in net.state_dict())
    assert net(X, 5).shape == X.shape
    with pytest.raises(ValueError, match="tap: wants no attention layer"):
        net(X, 5, tap=at(lambda probs, site: probs, kind="cross"))


# ------------------------------------------------------------------------------------------------- training and copying


def test_every_parameter_receives_a_gradient():
    net = small()
    assert silent_parameters(net, net(X, T, CTX).square().mean()) == []


def test_a_fresh_net_predicts_zero_and_each_residual_branch_starts_at_zero():
    torch.manual_seed(0)
    net = UNet(**SMALL)
    assert not net(X, T, CTX).any()
    stage = net.down[0].stages[0]
    h, emb = normal(2, 32, 8, 12), normal(2, 128)
    torch.testing.assert_close(stage(h, emb, CTX, None), h)


def test_a_deep_copy_computes_the_same_and_is_independent(net):
    twin = copy.deepcopy(net)
    with torch.no_grad():
        assert torch.equal(twin(X, T, CTX), net(X, T, CTX))
        twin.conv_in.weight.add_(1)
        assert not torch.equal(twin(X, T, CTX), net(X, T, CTX))


@torch.no_grad()
def test_channels_last_is_kept_and_changes_nothing_else(net):
    fast = copy.deepcopy(net).to(memory_format=torch.channels_last)
    kept = []
    for m in fast.modules():
        if isinstance(m, (nn.Conv2d, nn.GroupNorm)):
            m.register_forward_hook(
                lambda m, x, y: kept.append(y.is_contiguous(memory_format=torch.channels_last))
            )
    out = fast(X.contiguous(memory_format=torch.channels_last), T, CTX)
    assert all(kept) and len(kept) > 50
    assert relative_error(out, net(X, T, CTX)) < 1e-5


def test_extra_input_channels_start_silent_and_can_learn(net):
    wide = widen_input(net, 5)
    x = torch.cat([X, normal(2, 5, 8, 12, seed=4)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(wide(x, T, CTX), net(X, T, CTX), rtol=1e-5, atol=1e-5)
    assert (
        net.conv_in.in_channels == 4
        and wide.conv_in.in_channels == 9
        and torch.equal(wide.conv_in.bias, net.conv_in.bias)
    )
    assert (
        sum(p.numel() for p in wide.parameters()) - sum(p.numel() for p in net.parameters())
        == 5 * net.conv_in.out_channels * 9
    )
    with torch.no_grad():  # trained or not, channels that show nothing add nothing
        trained = widen_input(net, 5)
        trained.conv_in.weight.add_(normal(*trained.conv_in.weight.shape, seed=6) * 0.1)
        narrow = widen_input(net, 0)
        narrow.conv_in.weight.copy_(trained.conv_in.weight[:, :4])
        torch.testing.assert_close(
            trained(torch.cat([X, 0 * x[:, 4:]], 1), T, CTX), narrow(X, T, CTX), rtol=1e-5, atol=1e-5
        )
        assert not torch.allclose(trained(x, T, CTX), narrow(X, T, CTX), atol=1e-3)
    wide(x, T, CTX).square().mean().backward()
    assert wide.conv_in.weight.grad[:, 4:].abs().amax(dim=(0, 2, 3)).gt(0).all()
    assert net.conv_in.weight.grad is None
    assert widen_input(copy.deepcopy(net).bfloat16(), 1).conv_in.weight.dtype == torch.bfloat16


# ------------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "x, t, ctx, said",
    [
        (normal(2, 3, 8, 12), 1, CTX, r"x_t: must be \(b 4 y x\).*not \(2, 3, 8, 12\)"),
        (normal(2, 4, 8, 10), 1, CTX, "divisible by 4"),
        (normal(4, 8, 12), 1, CTX, "x_t: must be"),
        (X, 1, None, "ctx: must be .*not None"),
        (X, 1, CTX[:1], r"ctx: must be \(2 l 20\), not \(1, 7, 20\)"),
        (X, 1, normal(2, 7, 21), r"ctx: must be \(2 l 20\)"),
        (X, torch.ones(3), CTX, "t: must be"),
        (X, torch.ones(2, 1), CTX, "t: must be"),
    ],
)
def test_shapes_that_do_not_fit_are_named(net, x, t, ctx, said):
    with pytest.raises(ValueError, match=said) as e:
        net(x, t, ctx)
    assert "\n" not in str(e.value)


def test_superfluous_text_and_impossible_configurations_are_named():
    with pytest.raises(ValueError, match="ctx: must be None"):
        small(ctx_width=None)(X, 1, CTX)
    with pytest.raises(ValueError, match="one entry for each level"):
        UNet(**{**SMALL, "attention": (True, True)})


@pytest.mark.parametrize("size", [(6, 8), (8, 6)])
def test_rows_and_columns_must_both_be_multiples_of_the_factor(size):
    with pytest.raises(ValueError, match="divisible by 4"):
        check_map(torch.zeros(1, 4, *size), torch.tensor(3), 4, 4)
    check_map(torch.zeros(1, 4, 8, 12), torch.tensor(3), 4, 4)
