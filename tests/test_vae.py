from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from random_weights import census, normal, randomised, relative_error, silent_parameters, transplant
from torch import nn

from palimpsest.nets.vae import AutoencoderKL
from palimpsest.weights.public.layouts import vae_to_diffusers

SMALL = dict(width=16, mult=(1, 2, 4), norm_groups=8)
PUBLIC_LEVELS = dict(down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
X = normal(2, 3, 16, 24, seed=2)  # not square


@pytest.fixture(scope="module")
def vae():
    return randomised(AutoencoderKL(**SMALL)).eval()


@pytest.fixture(scope="module")
def full():
    with torch.device("meta"):
        return AutoencoderKL()


def test_the_full_configuration_is_that_of_stable_diffusion(full):
    assert census(full) == (83_653_863, 248)
    assert [
        census(part)[0] for part in (full.encoder, full.decoder, full.quant_conv, full.post_quant_conv)
    ] == [34_163_592, 49_490_179, 72, 20]
    assert full.factor == 8


def test_every_norm_has_its_eps(full):
    assert Counter(m.eps for m in full.modules() if isinstance(m, nn.GroupNorm)) == {1e-6: 52}


@torch.no_grad()
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_equal_weights_give_the_moments_and_the_picture_of_diffusers(vae, dtype, tolerance):
    diffusers = pytest.importorskip("diffusers", reason="parity needs diffusers")
    ours = copy.deepcopy(vae).to(dtype)
    theirs = (
        diffusers.AutoencoderKL(
            block_out_channels=(16, 32, 64),
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=8,
            **{side: types[:3] for side, types in PUBLIC_LEVELS.items()},
        )
        .eval()
        .to(dtype)
    )
    transplant(ours, theirs, vae_to_diffusers)
    mean, logvar = ours.encode(X.to(dtype))
    posterior = theirs.encode(X.to(dtype)).latent_dist
    assert relative_error(mean, posterior.mean) < tolerance
    assert relative_error(logvar, posterior.logvar) < tolerance
    assert relative_error(ours.decode(mean), theirs.decode(mean).sample) < tolerance


def test_every_key_of_the_published_autoencoder_has_one_name_in_diffusers(full):
    diffusers = pytest.importorskip("diffusers", reason="the key map leads to diffusers")
    with torch.device("meta"):
        theirs = diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, **PUBLIC_LEVELS
        )
    ours = {vae_to_diffusers(key): value.shape for key, value in full.state_dict().items()}
    assert ours == {key: value.shape for key, value in theirs.state_dict().items()}


@torch.no_grad()
def test_zeros_are_added_below_and_at_the_right_before_halving():
    down = AutoencoderKL(**SMALL).encoder.levels[0][-1]
    down.conv.weight.fill_(1)
    down.conv.bias.zero_()
    sums = down(torch.ones(1, 16, 4, 4))[0, 0] / 16
    assert sums.tolist() == [[9, 6], [6, 4]]


@torch.no_grad()
def test_each_level_but_the_first_halves_the_map(vae):
    mean, logvar = vae.encode(X)
    assert vae.factor == 4 and mean.shape == logvar.shape == (2, 4, 4, 6)
    assert vae.decode(mean).shape == X.shape


@torch.no_grad()
def test_logvar_is_kept_between_minus_30_and_20(vae):
    wild = copy.deepcopy(vae)
    wild.quant_conv.weight.mul_(1e3)
    mean, logvar = wild.encode(X)
    assert logvar.min() == -30 and logvar.max() == 20
    assert mean.abs().max() > 30


def test_every_parameter_receives_a_gradient():
    vae = randomised(AutoencoderKL(**SMALL))
    mean, logvar = vae.encode(X)
    loss = vae.decode(mean + (0.5 * logvar).exp() * normal(*mean.shape)).square().mean()
    silent = silent_parameters(vae, loss)
    # a constant added to all keys moves no softmax: the bias of to_k never matters
    assert {name for name in silent if not name.endswith("attention.to_k.bias")} == set()


@torch.no_grad()
def test_without_mid_attention_there_is_none():
    vae = AutoencoderKL(**SMALL, mid_attention=False)
    assert not any("attention" in key for key in vae.state_dict())
    assert vae.decode(vae.encode(X)[0]).shape == X.shape


@torch.no_grad()
def test_other_numbers_of_channels_fit():
    vae = AutoencoderKL(**SMALL, latent_channels=6, channels=1)
    z = vae.encode(X[:, :1])[0]
    assert z.shape == (2, 6, 4, 6) and vae.decode(z).shape == (2, 1, 16, 24)


@torch.no_grad()
def test_channels_last_is_kept_and_changes_nothing_else(vae):
    fast = copy.deepcopy(vae).to(memory_format=torch.channels_last)
    kept = []
    for m in fast.modules():
        if isinstance(m, (nn.Conv2d, nn.GroupNorm)):
            m.register_forward_hook(
                lambda m, x, y: kept.append(y.is_contiguous(memory_format=torch.channels_last))
            )
    picture = fast.decode(fast.encode(X.contiguous(memory_format=torch.channels_last))[0])
    assert all(kept) and len(kept) > 50
    assert relative_error(picture, vae.decode(vae.encode(X)[0])) < 1e-5


def test_a_picture_that_does_not_divide_is_named(vae):
    with pytest.raises(ValueError, match=r"x: must have rows and columns divisible by 4, not \(16, 22\)"):
        vae.encode(X[..., :22])
