"""The key maps: each parameter has one name in every layout, and diffusers' own converter says the same."""

import copy
import re
from collections import Counter

import pytest
import torch
from random_weights import census, normal, randomised, relative_error

from palimpsest.nets.ddpm import DDPM
from palimpsest.nets.text import TextTransformer
from palimpsest.nets.unet import UNet
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.weights.public import configs
from palimpsest.weights.public.layouts import (
    BUFFERS,
    UNET_PREFIX,
    compvis_unet_names,
    compvis_vae_names,
    ddpm_names,
    diffusers_names,
    ema_name,
    rename,
    to_compvis_shape,
)


@pytest.fixture(scope="module")
def full():
    with torch.device("meta"):
        return {"unet": UNet(), "vae": AutoencoderKL(), "text": TextTransformer(), "ddpm": DDPM()}


def counts(net, names, pattern):
    """Parameters by the part of their name there that the pattern finds."""
    found = Counter()
    for key, value in net.state_dict().items():
        if place := re.match(pattern, names[key]):
            found[place[0]] += value.numel()
    return found


# ------------------------------------------------------------------------------------------------------------- bijections


@pytest.mark.parametrize(
    "net, names, size",
    [
        ("unet", compvis_unet_names, 686),
        ("unet", diffusers_names, 686),
        ("vae", compvis_vae_names, 248),
        ("vae", diffusers_names, 248),
        ("text", diffusers_names, 196),
        ("ddpm", ddpm_names, 450),
    ],
)
def test_every_parameter_has_one_name_of_its_own(full, net, names, size):
    found = names(full[net])
    assert list(found) == list(full[net].state_dict())
    assert len(set(found.values())) == len(found) == size


@pytest.mark.parametrize("channels", [4, 8, 9])
def test_the_blocks_of_compvis_have_the_published_sizes(channels):
    with torch.device("meta"):
        net = UNet(in_channels=channels)
    names = compvis_unet_names(net)
    downs = counts(net, names, r"input_blocks\.\d+")
    assert [downs[f"input_blocks.{i}"] for i in range(12)] == [
        11840 + 9 * 320 * (channels - 4),
        4801280,
        4801280,
        921920,
        15746560,
        17384960,
        3687040,
        59345920,
        65899520,
        14746880,
        31138560,
        31138560,
    ]
    middle = counts(net, names, r"middle_block\.\d")
    assert [middle[f"middle_block.{i}"] for i in range(3)] == [31138560, 34760960, 31138560]
    ups = counts(net, names, r"output_blocks\.\d+")
    assert [ups[f"output_blocks.{i}"] for i in range(12)] == [
        49164800,
        49164800,
        63911680,
        83925760,
        83925760,
        90479360,
        25989760,
        21892480,
        23530880,
        6953280,
        5928640,
        5928640,
    ]
    assert {v.rsplit(".", 1)[0] for v in names.values() if v.count(".conv.")} == {
        "output_blocks.2.1.conv",
        "output_blocks.5.2.conv",
        "output_blocks.8.2.conv",
    }


def test_the_converter_of_diffusers_makes_the_same_of_our_compvis_names(full):
    utils = pytest.importorskip(
        "diffusers.loaders.single_file_utils", reason="diffusers' own converter is the judge"
    )
    net, vae = full["unet"], full["vae"]
    here, there = compvis_unet_names(net), diffusers_names(net)
    config = configs.unet_to_json(net, 64) | {"class_embed_type": None, "addition_embed_type": None}
    found = utils.convert_ldm_unet_checkpoint(
        {UNET_PREFIX + here[k]: v for k, v in net.state_dict().items()}, config
    )
    assert {k: v.shape for k, v in found.items()} == {there[k]: v.shape for k, v in net.state_dict().items()}

    here, there = compvis_vae_names(vae), diffusers_names(vae)
    written = {
        f"first_stage_model.{here[k]}": to_compvis_shape(here[k], v) for k, v in vae.state_dict().items()
    }
    found = utils.convert_ldm_vae_checkpoint(written, configs.vae_to_json(vae, 512, 0.18215))
    assert {k: v.shape for k, v in found.items()} == {there[k]: v.shape for k, v in vae.state_dict().items()}


def test_the_converter_of_diffusers_puts_equal_tensors_in_equal_places():
    utils = pytest.importorskip(
        "diffusers.loaders.single_file_utils", reason="diffusers' own converter is the judge"
    )
    net = randomised(
        UNet(
            width=32,
            mult=(1, 1, 1),
            blocks=1,
            attention=(False, True, True),
            heads=4,
            ctx_width=32,
            norm_groups=8,
        )
    )
    here, there, state = (
        compvis_unet_names(net),
        diffusers_names(net),
        net.state_dict(),
    )  # all widths alike: shapes would not tell
    found = utils.convert_ldm_unet_checkpoint(
        {UNET_PREFIX + here[k]: v for k, v in state.items()},
        configs.unet_to_json(net, 64) | {"class_embed_type": None, "addition_embed_type": None},
    )
    assert [k for k in state if not torch.equal(found[there[k]], state[k])] == []
    vae = randomised(AutoencoderKL(width=32, mult=(1, 1, 1), blocks=1, norm_groups=8))
    here, there, state = compvis_vae_names(vae), diffusers_names(vae), vae.state_dict()
    found = utils.convert_ldm_vae_checkpoint(
        {f"first_stage_model.{here[k]}": to_compvis_shape(here[k], v) for k, v in state.items()},
        configs.vae_to_json(vae, 512, 1.0),
    )
    assert [k for k in state if not torch.equal(found[there[k]], state[k])] == []


def test_every_name_in_transformers_and_diffusers_exists_there(full):
    transformers = pytest.importorskip("transformers", reason="the key map leads to transformers")
    diffusers = pytest.importorskip("diffusers", reason="the key map leads to diffusers")
    with torch.device("meta"):
        text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**configs.text_to_json(full["text"])))
        unet = diffusers.UNet2DConditionModel.from_config(configs.unet_to_json(full["unet"], 64))
        vae = diffusers.AutoencoderKL.from_config(configs.vae_to_json(full["vae"], 512, 0.18215))
    for name, theirs in (("text", text), ("unet", unet), ("vae", vae)):
        ours, names = full[name].state_dict(), diffusers_names(full[name])
        shapes = {
            k.removeprefix("text_model."): v.shape
            for k, v in theirs.state_dict().items()
            if not k.endswith("position_ids")
        }
        assert {names[k]: v.shape for k, v in ours.items()} == shapes


def test_old_and_new_spellings_are_the_names_of_one_parameter():
    with torch.device("meta"):
        vae, text = (
            AutoencoderKL(width=32, mult=(1, 1)),
            TextTransformer(vocab=5, width=64, layers=1, heads=1),
        )
    new = diffusers_names(vae)
    old = {
        k: rename(v, [(r"to_q", "query"), ("to_k", "key"), ("to_v", "value"), (r"to_out\.0", "proj_attn")])
        for k, v in new.items()
    }
    assert sum(old[k] != new[k] for k in new) == 16
    assert diffusers_names(vae, old.values()) == old and diffusers_names(vae, new.values()) == new
    plain = diffusers_names(text)
    assert diffusers_names(text, [f"text_model.{v}" for v in plain.values()]) == {
        k: f"text_model.{v}" for k, v in plain.items()
    }


def test_the_moving_average_lost_its_dots_and_buffers_are_known_by_name(full):
    assert (
        ema_name("model.diffusion_model.input_blocks.0.0.weight")
        == "model_ema.diffusion_modelinput_blocks00weight"
    )
    names = [UNET_PREFIX + name for name in compvis_unet_names(full["unet"]).values()]
    assert len({ema_name(name) for name in names}) == 686  # nothing was lost with the dots
    for name in (
        "betas",
        "alphas_cumprod_prev",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_mean_coef2",
        "model_ema.num_updates",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
        "embeddings.position_ids",
    ):
        assert BUFFERS.match(name), name
    assert [name for name in [*names, "betas.x", "x.betas"] if BUFFERS.match(name)] == []


# ---------------------------------------------------------------------------------------------------------- configurations

NETS = [
    UNet(
        width=32,
        mult=(1, 2, 2),
        blocks=1,
        attention=(True, False, True),
        heads=4,
        ctx_width=20,
        norm_groups=8,
        in_channels=9,
    ),
    AutoencoderKL(width=16, mult=(1, 2), blocks=1, latent_channels=3, norm_groups=8, mid_attention=False),
    TextTransformer(vocab=9, length=5, width=8, layers=2, heads=2, causal=False),
]


@pytest.mark.parametrize("net", NETS, ids=lambda net: type(net).__name__)
def test_a_net_tells_the_configuration_that_builds_it_anew(net):
    config = configs.config_of(net)
    twin = configs.build(config, type(net))
    assert configs.config_of(twin) == config and repr(twin) == repr(net)


def test_a_configuration_survives_the_json_of_diffusers_and_the_shapes_of_compvis(full):
    for net, there, back in (
        (full["unet"], configs.unet_to_json(full["unet"], 64), configs.unet_of_json),
        (full["vae"], configs.vae_to_json(full["vae"], 512, 1.0), configs.vae_of_json),
    ):
        assert back(there) == configs.config_of(net)
    text = configs.config_of(full["text"])
    assert {**configs.text_of_json(configs.text_to_json(full["text"])), "causal": True} == text
    for name, names, of_shapes in (
        ("unet", compvis_unet_names, configs.unet_of_shapes),
        ("vae", compvis_vae_names, configs.vae_of_shapes),
        ("text", diffusers_names, configs.text_of_shapes),
    ):
        there, config = names(full[name]), configs.config_of(full[name])
        found = of_shapes({there[k]: tuple(v.shape) for k, v in full[name].state_dict().items()})
        assert {**found, **({"activation": "quick_gelu", "causal": True} if name == "text" else {})} == config


# ------------------------------------------------------------------------------------------------------------------- DDPM

TO_DIFFUSERS = [
    (r"^time([12])", r"time_embedding.linear_\1"),
    (r"^norm_out", "conv_norm_out"),
    (r"^(down|up)\.(\d+)\.stages\.(\d+)\.res\.", r"\1_blocks.\2.resnets.\3."),
    (r"^(down|up)\.(\d+)\.stages\.(\d+)\.attention\.(attention\.)?", r"\1_blocks.\2.attentions.\3."),
    (r"^(down|up)\.(\d+)\.resample\.", r"\1_blocks.\2.\1samplers.0."),
    (r"^mid\.(\d)\.res\.", r"mid_block.resnets.\1."),
    (r"^mid\.0\.attention\.(attention\.)?", "mid_block.attentions.0."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"\.to_out\.", ".to_out.0."),
    (r"\.shift\.", ".time_emb_proj."),
    (r"\.skip\.", ".conv_shortcut."),
]


def test_the_unet_of_ddpm_has_the_published_size(full):
    assert census(full["ddpm"]) == (113_673_219, 450)
    names = set(ddpm_names(full["ddpm"]).values())
    assert names > {
        "temb.dense.0.weight",
        "down.4.attn.1.proj_out.bias",
        "mid.block_2.temb_proj.weight",
        "mid.attn_1.q.weight",
        "up.4.attn.2.norm.weight",
        "up.1.upsample.conv.weight",
        "down.0.downsample.conv.bias",
        "up.5.block.0.nin_shortcut.bias",
    }
    assert not any(name.startswith(("up.0.upsample", "down.5.downsample")) for name in names)


@torch.no_grad()
def test_the_unet_of_ddpm_gives_the_prediction_of_diffusers():
    diffusers = pytest.importorskip("diffusers", reason="parity needs diffusers")
    ours = randomised(DDPM(width=32, mult=(1, 2, 2), attention=(False, True, False), norm_groups=8)).eval()
    theirs = diffusers.UNet2DModel(
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        flip_sin_to_cos=False,
        freq_shift=1,
        downsample_padding=0,
        norm_eps=1e-6,
        norm_num_groups=8,
        attention_head_dim=None,
    ).eval()
    theirs.load_state_dict({rename(k, TO_DIFFUSERS): v for k, v in ours.state_dict().items()})
    x, t = normal(2, 3, 16, 24), torch.tensor([3.0, 981.0])
    assert relative_error(ours(x, t), theirs(x, t).sample) < 1e-5
    assert relative_error(ours(x, 3.0)[:1], ours(x, t)[:1]) < 1e-5
    other = copy.deepcopy(theirs)
    other.time_proj.downscale_freq_shift = 0  # the other spacing of the frequencies would be noticed
    assert relative_error(ours(x, t), other(x, t).sample) > 1e-3


@pytest.mark.parametrize(
    "arguments, said",
    [
        ((normal(1, 3, 16, 18), 1), "divisible by 4"),
        ((normal(1, 3, 16, 16), 1, normal(1, 2, 3)), "reads no text"),
    ],
)
def test_what_the_unet_of_ddpm_cannot_read_is_named(arguments, said):
    net = DDPM(width=8, mult=(1, 1, 1), attention=(False,) * 3, norm_groups=4)
    with pytest.raises(ValueError, match=said):
        net(*arguments)
