"""GLIDE's U-Net and text transformer: the published sizes, each peculiarity written out, and diffusers'
blocks on the same weights.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from random_weights import census, normal, randomised, relative_error, silent_parameters
from torch import nn

from palimpsest.nets.adm import FusedAttention, ScaleShiftBlock, double, halve
from palimpsest.nets.attention import Site, at
from palimpsest.nets.glide import (
    SMALL,
    SMALL_TEXT,
    SMALL_UPSAMPLER,
    UPSAMPLER,
    GlideText,
    GlideUNet,
    for_inpainting,
)
from palimpsest.nets.unet import sinusoid

NET = dict(
    width=16, mult=(1, 2), blocks=1, attention=(False, True), head_width=8, ctx_width=12, norm_groups=4
)
TEXT = dict(vocab=30, length=6, width=12, layers=2, heads=3)
X, T, CTX = normal(2, 3, 8, 12, seed=2), torch.tensor([3.0, 981.0]), normal(2, 6, 12, seed=3)
TOKENS = torch.tensor([[4, 7, 9, 29, 29, 29], [1, 2, 3, 4, 5, 6]])


def small(**changes):
    return randomised(GlideUNet(**NET | changes)).eval()


@pytest.fixture(scope="module")
def net():
    return small()


@pytest.fixture(scope="module")
def text():
    return randomised(GlideText(**TEXT)).eval()


@pytest.fixture(scope="module")
def full_text():
    with torch.device("meta"):
        return GlideText()


# ------------------------------------------------------------------------------------------------------------ the published nets


@pytest.mark.parametrize(
    "arguments, channels, size, tensors",
    [
        ({}, 3, 385_030_726, 783),
        (dict(inpainting=True), 7, 385_037_638, 783),
        (UPSAMPLER, 6, 398_361_286, 797),
        (UPSAMPLER | dict(inpainting=True), 10, 398_368_198, 797),
    ],
)
def test_the_full_configurations_have_the_published_census(full_text, arguments, channels, size, tensors):
    with torch.device("meta"):
        net = GlideUNet(**arguments)
    assert (net.conv_in.in_channels, net.conv_out.out_channels) == (channels, 6)
    assert tuple(a + b for a, b in zip(census(net), census(full_text))) == (size, tensors)
    assert census(full_text)[0] + census(net.text_projection)[0] == 76_695_808
    side = 256 if net.upsampling else 64
    sites = net.sites((side, side))
    assert {s.res for s in sites} == {(32, 32), (16, 16), (8, 8)} and {s.kind for s in sites} == {"joint"}
    heads = {
        s.res: m.attention.heads for s, m in zip(sites, [m for m in net.modules() if hasattr(m, "site")])
    }
    assert heads == {(8, 8): 12, (16, 16): 12 if net.upsampling else 9, (32, 32): 6}


def test_the_small_configurations_are_the_same_classes_at_two_to_six_million():
    with torch.device("meta"):
        base, upsampler = GlideUNet(**SMALL), GlideUNet(**SMALL_UPSAMPLER)
        text = GlideText(vocab=60, **SMALL_TEXT)
        ctx = text(torch.empty(2, SMALL_TEXT["length"], dtype=torch.long))
        assert base(torch.empty(2, 3, 32, 32), 5, ctx).shape == (2, 6, 32, 32)
        assert upsampler(torch.empty(2, 6, 64, 64), 5, ctx).shape == (2, 6, 64, 64)
    for net in (base, upsampler):
        assert 2e6 < census(net)[0] < 6e6


def diffusers_unet():
    diffusers = pytest.importorskip("diffusers", reason="parity needs diffusers")
    return diffusers.UNet2DConditionModel(
        in_channels=3,
        out_channels=6,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=8,
        cross_attention_dim=12,
        class_embed_type="identity",
    ).eval()


def for_diffusers(ours: GlideUNet) -> dict[str, torch.Tensor]:
    """The weights of NET as diffusers names them, with the fused maps taken apart head by head."""
    found = {}
    for key, value in ours.state_dict().items():
        if key.startswith("text_projection."):
            continue
        key = key.replace("time.linear", "time_embedding.linear_").replace("norm_out.", "conv_norm_out.")
        key = (
            key.replace("down.", "down_blocks.")
            .replace("up.", "up_blocks.")
            .replace("mid.stages.", "mid_block.stages.")
        )
        key = key.replace("mid_block.stages.0.joint.", "mid_block.attentions.0.").replace(
            "mid_block.stages.", "mid_block.resnets."
        )
        key = key.replace(".res.", ".").replace(".joint.", ".attention_of.")
        parts = key.split(".")
        if parts[0] in ("down_blocks", "up_blocks"):
            if parts[2] == "resample":
                parts[2:3] = ["downsamplers" if parts[0] == "down_blocks" else "upsamplers", "0"]
            else:
                parts[2] = "attentions" if "attention_of" in parts else "resnets"
                parts = [p for p in parts if p != "attention_of"]
        key = ".".join(parts).replace(".scale_shift.", ".time_emb_proj.").replace(".skip.", ".conv_shortcut.")
        key = key.replace("attentions.0.norm.", "attentions.0.group_norm.").replace(
            "attentions.1.norm.", "attentions.1.group_norm."
        )
        key = key.replace(".attention.to_out.", ".to_out.0.")
        if ".attention.qkv." in key:
            for name, part in zip(
                "qkv", rearrange(value, "(h three k) ... -> three (h k) ...", three=3, k=8)
            ):
                found[key.replace(".attention.qkv.", f".to_{name}.")] = part
        elif ".attention.ctx_kv." in key:
            for name, part in zip("kv", rearrange(value, "(h two k) ... -> two (h k) ...", two=2, k=8)):
                found[key.replace(".attention.ctx_kv.", f".add_{name}_proj.")] = part
        else:
            found[key] = value
    return found


@torch.no_grad()
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_equal_weights_give_the_prediction_of_diffusers_with_the_heads_unpacked(net, dtype, tolerance):
    ours, theirs = copy.deepcopy(net).to(dtype), diffusers_unet().to(dtype)
    theirs.load_state_dict(for_diffusers(ours))
    x, ctx = X.to(dtype), CTX.to(dtype)
    expected = theirs(x, T, ctx, class_labels=ours.text_projection(ctx[:, -1])).sample
    assert relative_error(ours(x, T, ctx), expected) < tolerance
    assert (
        relative_error(
            ours(x, T, ctx), theirs(x, T, ctx, class_labels=0 * ours.text_projection(ctx[:, -1])).sample
        )
        > 1e-2
    )


# ---------------------------------------------------------------------------------------------------------------- each peculiarity


@torch.no_grad()
def test_attention_is_a_softmax_over_the_text_then_the_pixels_head_after_head():
    layer = randomised(FusedAttention(8, 2, ctx_width=5)).double()
    x, ctx = normal(2, 6, 8, dtype=torch.float64), normal(2, 3, 5, seed=2, dtype=torch.float64)
    rows, ctx_rows, out = layer.qkv(x), layer.ctx_kv(ctx), torch.zeros(2, 6, 8, dtype=torch.float64)
    for b in range(2):
        for h in range(2):
            q, k, v = (
                rows[b, :, 12 * h + 4 * n : 12 * h + 4 * n + 4] for n in range(3)
            )  # rows of one head lie together
            keys = torch.cat([ctx_rows[b, :, 8 * h : 8 * h + 4], k])  # 3 of the text, 6 of the map
            values = torch.cat([ctx_rows[b, :, 8 * h + 4 : 8 * h + 8], v])
            for i in range(6):
                weights = [math.exp(float(q[i] @ key) / math.sqrt(4)) for key in keys]
                out[b, i, 4 * h : 4 * h + 4] = sum(
                    w / sum(weights) * value for w, value in zip(weights, values)
                )
    torch.testing.assert_close(layer(x, ctx), layer.to_out(out))


@torch.no_grad()
def test_queries_of_all_heads_first_would_be_another_layer():
    layer = randomised(FusedAttention(8, 2)).double()
    x, other = normal(2, 6, 8, dtype=torch.float64), nn.MultiheadAttention(8, 2, batch_first=True).double()

    def given(order):
        other.in_proj_weight.copy_(rearrange(layer.qkv.weight, f"{order} -> (three h k) d", h=2, three=3))
        other.in_proj_bias.copy_(
            rearrange(layer.qkv.bias, f"{order.removesuffix(' d')} -> (three h k)", h=2, three=3)
        )
        other.out_proj.load_state_dict(layer.to_out.state_dict())
        return other(x, x, x, need_weights=False)[0]

    torch.testing.assert_close(layer(x), given("(h three k) d"))
    assert relative_error(layer(x), given("(three h k) d")) > 0.1


@torch.no_grad()
@pytest.mark.parametrize(
    "resample, there",
    [
        (halve, lambda x: sum(x[..., i::2, j::2] for i in range(2) for j in range(2)) / 4),
        (double, lambda x: repeat(x, "b c y x -> b c (y two) (x dos)", two=2, dos=2)),
    ],
)
def test_a_block_scales_and_shifts_its_norm_and_resamples_both_branches(resample, there):
    block = randomised(ScaleShiftBlock(4, 6, 5, groups=2, resample=resample)).double()
    x, emb = normal(2, 4, 4, 6, dtype=torch.float64), normal(2, 5, dtype=torch.float64)
    h = there(F.silu(F.group_norm(x, 2, block.norm1.weight, block.norm1.bias, 1e-5)))
    h = F.conv2d(h, block.conv1.weight, block.conv1.bias, padding=1)
    moved = emb @ block.scale_shift.weight.T + block.scale_shift.bias
    scale, shift = moved[:, :6, None, None], moved[:, 6:, None, None]  # the scale first
    h = F.silu(F.group_norm(h, 2, block.norm2.weight, block.norm2.bias, 1e-5) * (1 + scale) + shift)
    h = F.conv2d(h, block.conv2.weight, block.conv2.bias, padding=1) + F.conv2d(
        there(x), block.skip.weight, block.skip.bias
    )
    torch.testing.assert_close(block(x, emb), h)


def test_a_fresh_net_predicts_zero_and_every_branch_starts_at_zero():
    torch.manual_seed(0)
    net = GlideUNet(**NET)
    assert not net(X, T, CTX).any()
    h, emb = normal(2, 32, 4, 6), normal(2, 64)
    stage = net.mid.stages[0]
    torch.testing.assert_close(stage(h, emb, CTX, None), h, rtol=0, atol=0)


@torch.no_grad()
def test_the_last_vector_of_the_text_is_added_to_the_time_before_its_last_silu(net):
    ctx = CTX.clone()
    for m in net.modules():
        if isinstance(m, FusedAttention):
            assert m.ctx_kv is not None
    wave = net.time.linear2(F.silu(net.time.linear1(sinusoid(T, 16))))
    torch.testing.assert_close(
        net.time(T, net.text_projection(ctx[:, -1])), F.silu(wave + net.text_projection(ctx[:, -1]))
    )
    deaf = copy.deepcopy(net)
    for m in deaf.modules():
        if isinstance(m, FusedAttention):
            m.ctx_kv.weight.zero_()
    ctx[:, 0] += 1
    torch.testing.assert_close(
        deaf(X, T, ctx), deaf(X, T, CTX), rtol=0, atol=0
    )  # the first vector is heard by attention alone
    ctx[:, -1] += 1
    assert relative_error(deaf(X, T, ctx), deaf(X, T, CTX)) > 1e-3  # the last one otherwise too


@torch.no_grad()
def test_the_order_of_the_texts_vectors_means_nothing_to_the_unet_but_for_the_last(net):
    turned = CTX[:, [2, 0, 1, 4, 3, 5]]
    assert relative_error(net(X, T, turned), net(X, T, CTX)) < 1e-5
    assert relative_error(net(X, T, CTX.flip(1)), net(X, T, CTX)) > 1e-3


@torch.no_grad()
def test_a_tap_hears_every_joint_layer_with_the_text_first(net):
    heard = []

    def listen(probs, site):
        heard.append(site)
        assert probs.shape == (2, 4, 24, 6 + 24)
        torch.testing.assert_close(probs.sum(-1), torch.ones_like(probs[..., 0]))
        return probs

    assert relative_error(net(X, T, CTX, tap=listen), net(X, T, CTX)) < 1e-5
    assert (
        heard
        == net.sites((8, 12))
        == [Site(name, "joint", (4, 6)) for name in ("down1.0", "mid", "up0.0", "up0.1")]
    )
    without = at(
        lambda probs, site: torch.cat([0 * probs[..., :6], probs[..., 6:]], dim=-1), kind="joint", name="up"
    )
    assert relative_error(net(X, T, CTX, tap=without), net(X, T, CTX)) > 1e-3
    with pytest.raises(ValueError, match="tap: wants no attention layer.*8x12; it has: down1.0 joint 4x6"):
        net(X, T, CTX, tap=at(listen, kind="cross"))


def test_every_parameter_receives_a_gradient(net, text):
    both = nn.ModuleDict({"net": small(), "text": randomised(GlideText(**TEXT))})
    loss = both["net"](X, T, both["text"](TOKENS)).square().mean()
    assert silent_parameters(both, loss) == []


# ------------------------------------------------------------------------------------------------------------------------ the text


@torch.no_grad()
def test_the_text_transformer_is_torchs_encoder_of_norms_first(text):
    layer = nn.TransformerEncoderLayer(12, 3, 48, 0.0, F.gelu, batch_first=True, norm_first=True)
    z = torch.where((TOKENS == 29)[..., None], text.padding, text.tokens.weight[TOKENS] + text.positions)
    for ours in text.layers:
        weight, bias = (
            rearrange(p, "(h three k) ... -> (three h k) ...", h=3, three=3)
            for p in ours.attention.qkv.parameters()
        )
        layer.load_state_dict(
            {
                "self_attn.in_proj_weight": weight,
                "self_attn.in_proj_bias": bias,
                **{f"self_attn.out_proj.{k}": v for k, v in ours.attention.to_out.state_dict().items()},
                **{k: v for k, v in ours.state_dict().items() if not k.startswith("attention.")},
            }
        )
        z = layer(z)
    z = F.layer_norm(z, (12,), text.norm_out.weight, text.norm_out.bias)
    torch.testing.assert_close(text(TOKENS), z, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_has_vectors_of_its_own_and_the_padding_token_none(text):
    other = copy.deepcopy(text)
    other.tokens.weight[29] += 5  # the vector of the padding token is never looked at
    assert torch.equal(other(TOKENS), text(TOKENS))
    other.positions[3:] += 5  # nor is a place's, where there is no token
    assert torch.equal(other(TOKENS[:1]), text(TOKENS[:1])) and not torch.equal(
        other(TOKENS[1:]), text(TOKENS[1:])
    )
    other.padding[5] += 1  # which everything before it sees
    assert (other(TOKENS[:1]) - text(TOKENS[:1])).abs().amax(dim=-1).gt(0).all()


@torch.no_grad()
def test_one_other_token_changes_every_vector_and_the_prediction(net, text):
    changed = TOKENS.clone()
    changed[0, 2] = 11
    ctx, other = text(TOKENS), text(changed)
    assert (other - ctx)[0].abs().amax(dim=-1).gt(1e-4).all() and torch.equal(other[1], ctx[1])
    assert relative_error(net(X, T, other)[:1], net(X, T, ctx)[:1]) > 1e-4


@torch.no_grad()
def test_the_padding_token_is_an_argument():
    first, last = (randomised(GlideText(**TEXT | dict(pad=pad))) for pad in (0, None))
    rows = torch.tensor([[4, 7, 0, 0, 0, 0]])
    torch.testing.assert_close(first(rows), last(rows.masked_fill(rows == 0, 29)), rtol=0, atol=0)
    assert relative_error(first(rows), last(rows)) > 1e-3


# --------------------------------------------------------------------------------------------------------- what stands beside x_t


@torch.no_grad()
def test_a_net_for_inpainting_sees_what_is_kept_and_nothing_under_the_mask():
    net, picture = small(inpainting=True), normal(2, 3, 8, 12, seed=5)
    mask = (normal(2, 1, 8, 12, seed=6) > 0).float()
    seen = net.inputs(X, picture=picture, mask=mask)
    assert torch.equal(seen, torch.cat([X, picture * (1 - mask), 1 - mask], dim=1)) and seen.shape[1] == 7
    assert torch.equal(net.inputs(X, picture=picture + 9 * mask, mask=mask), seen)
    assert torch.equal(net.inputs(X), net.inputs(X, picture=picture, mask=torch.ones_like(mask)))
    assert torch.equal(net.inputs(X)[:, 3:], torch.zeros(2, 4, 8, 12))


@torch.no_grad()
@pytest.mark.parametrize("inpainting", [False, True])
def test_an_upsampler_sees_the_small_picture_stretched_bilinearly_in_its_last_channels(inpainting):
    net, low = small(upsampling=True, inpainting=inpainting), normal(2, 3, 2, 3, seed=5)
    seen = net.inputs(X, low_res=low)
    assert seen.shape[1] == net.conv_in.in_channels == (10 if inpainting else 6)
    assert torch.equal(seen[:, -3:], F.interpolate(low, scale_factor=4, mode="bilinear", align_corners=False))
    torch.testing.assert_close(
        net.inputs(X, low_res=torch.full_like(low, 0.3))[:, -3:], torch.full_like(X, 0.3)
    )
    ramp = net.inputs(X, low_res=torch.arange(3.0).expand(2, 3, 2, 3))[0, -1, 0]
    torch.testing.assert_close(
        ramp, ((torch.arange(12) + 0.5) / 4 - 0.5).clamp(0, 2)
    )  # corners are not aligned
    assert net(seen, T, CTX).shape == (2, 6, 8, 12)


@torch.no_grad()
@pytest.mark.parametrize("upsampling", [False, True])
def test_the_new_channels_for_inpainting_start_silent_and_can_learn(upsampling):
    net, low = small(upsampling=upsampling), normal(2, 3, 2, 3, seed=5) if upsampling else None
    wide = for_inpainting(net)
    picture, mask = normal(2, 3, 8, 12, seed=6), (normal(2, 1, 8, 12, seed=7) > 0).float()
    before = net(net.inputs(X, low_res=low), T, CTX)
    torch.testing.assert_close(
        wide(wide.inputs(X, picture=picture, mask=mask, low_res=low), T, CTX), before, rtol=1e-4, atol=1e-5
    )
    with torch.enable_grad():
        wide(wide.inputs(X, picture=picture, mask=mask, low_res=low), T, CTX).square().mean().backward()
    assert (
        wide.conv_in.weight.grad[:, 3:7].abs().amax(dim=(0, 2, 3)).gt(0).all()
        and net.conv_in.weight.grad is None
    )
    assert (net.inpainting, wide.inpainting) == (False, True)
    with pytest.raises(ValueError, match="net: must be one that was not built for inpainting"):
        for_inpainting(wide)


# ------------------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    "x, t, ctx, said",
    [
        (normal(2, 4, 8, 12), 1, CTX, r"x_t: must be \(b 3 y x\) with.*not \(2, 4, 8, 12\)"),
        (normal(2, 3, 8, 11), 1, CTX, "divisible by 2"),
        (X, torch.ones(3), CTX, "t: must be a number or a tensor of 2 numbers"),
        (X, 1, None, r"ctx: must be \(2 l 12\), not None"),
        (X, 1, CTX[:1], r"ctx: must be \(2 l 12\), not \(1, 6, 12\)"),
        (X, 1, CTX[0], "ctx: must be"),
    ],
)
def test_shapes_that_do_not_fit_are_named(net, x, t, ctx, said):
    with pytest.raises(ValueError, match=said) as e:
        net(x, t, ctx)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "kind, given, said",
    [
        ({}, dict(low_res=X), "low_res: must be None: this net was not built for upsampling"),
        ({}, dict(picture=X, mask=X[:, :1]), "picture: must be None: this net was not built for inpainting"),
        (dict(upsampling=True), {}, "low_res: must be given"),
        (dict(inpainting=True), dict(picture=X), "mask: must come with the other"),
        (
            dict(inpainting=True),
            dict(picture=X, mask=X),
            r"mask: must be \(2 1 8 12\) beside x_t \(2, 3, 8, 12\), not \(2, 3, 8, 12\)",
        ),
        (dict(inpainting=True), dict(picture=X[:1], mask=X[:, :1]), r"picture: must be \(2 3 8 12\)"),
        (dict(upsampling=True), dict(low_res=X[:1]), r"low_res: must be \(2 3 y x\)"),
    ],
)
def test_what_a_net_cannot_see_or_lacks_is_named(kind, given, said):
    with pytest.raises(ValueError, match=said) as e:
        small(**kind).inputs(X, **given)
    assert "\n" not in str(e.value)


def test_impossible_configurations_and_rows_of_another_length_are_named(text):
    for changes, said in (
        (dict(attention=(True,)), "one entry for each level"),
        (dict(head_width=7), "head_width: must divide the 32"),
    ):
        with pytest.raises(ValueError, match=said):
            GlideUNet(**NET | changes)
    with pytest.raises(ValueError, match="heads: must divide"):
        FusedAttention(12, 5)
    with pytest.raises(ValueError, match=r"tokens: must be \(b 6\), padded by the tokenizer, not \(2, 5\)"):
        text(TOKENS[:, :5])
    with pytest.raises(ValueError, match="x_t: must be .b 7 y x., as `inputs` makes it"):
        small(inpainting=True)(X, T, CTX)
