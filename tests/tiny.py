"""A whole model with random weights, 200 kilobytes, for tests that need a Model but no picture worth seeing.

from tests.tiny import tiny_weights
b = load(tiny_weights(tmp_path))             # text, U-Net and autoencoder, with the words of the shipped model
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from palimpsest.nets.glide import GlideText, GlideUNet
from palimpsest.nets.judges.clip import CLIP
from palimpsest.nets.judges.reader import Reader
from palimpsest.nets.text import TextTransformer
from palimpsest.nets.unet import UNet, widen_input
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.weights.files import fill, read_weights, write_weights
from palimpsest.worlds.scene import WORDS
from palimpsest.worlds.shapes import ATTRIBUTES

NET = dict(
    in_channels=4,
    out_channels=4,
    width=8,
    mult=(1, 2),
    blocks=1,
    attention=(True, True),
    heads=2,
    ctx_width=16,
    norm_groups=4,
)
TEXT = dict(vocab=3 + len(WORDS), length=24, width=16, layers=1, heads=2)
VAE = dict(width=8, mult=(1, 1, 2), blocks=1, latent_channels=4, norm_groups=4)


def shake(module: nn.Module) -> nn.Module:
    """Every tensor that starts as zero gets weights, so that the net says something and the text matters."""
    g = torch.Generator().manual_seed(0)
    for p in module.parameters():
        if not p.any():
            p.data = 0.2 * torch.randn(p.shape, generator=g)
    return module


def tiny_weights(
    folder: Path, name: str = "tiny", size: int = 32, words: Sequence[str] = WORDS, length: int = 24
) -> Path:
    """Write `name`.safetensors and its autoencoder beside it; the path of the first. The same weights at
    every call.
    """
    about = TEXT | dict(vocab=3 + len(words), length=length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, text, vae = shake(UNet(**NET)), TextTransformer(**about), shake(AutoencoderKL(**VAE))
    config = dict(
        kind="text2image",
        prediction="v",
        schedule=dict(name="cosine", T=1000),
        vae=f"{name}-vae",
        size=size,
        net=NET,
        text=about,
        words=list(words),
    )
    config_vae = dict(kind="vae", vae=VAE, latent_scale=1.0, size=size)
    write_weights(folder / f"{name}-vae.safetensors", {"vae": vae}, config_vae)
    return write_weights(folder / f"{name}.safetensors", {"net": net, "text": text}, config)


GLIDE_NET = dict(
    width=8,
    mult=(1, 2),
    blocks=1,
    attention=(False, True),
    head_width=8,
    ctx_width=16,
    norm_groups=4,
    dropout=0.0,
)
GLIDE_TEXT = dict(vocab=3 + len(WORDS), length=24, width=16, layers=1, heads=2, pad=0)


def tiny_glide(folder: Path, name: str = "tiny-glide", size: int = 8, **kind: bool) -> Path:
    """A model of GLIDE's with random weights; kind: inpainting, upsampling. The same weights at every
    call.
    """
    net_config = GLIDE_NET | kind
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net, text = shake(GlideUNet(**net_config)), GlideText(**GLIDE_TEXT)
    config = dict(
        kind="glide",
        prediction="v",
        learned_variance=True,
        schedule=dict(name="cosine", T=1000),
        vae=None,
        size=size,
        net=net_config,
        text=GLIDE_TEXT,
        words=list(WORDS),
    )
    return write_weights(folder / f"{name}.safetensors", {"net": net, "text": text}, config)


def tiny_instruct(folder: Path, name: str = "instruct", beside: str = "tiny") -> Path:
    """The net of `tiny_weights(folder, beside)` made to see a picture too, with random weights for it."""
    config, tensors = read_weights(folder / f"{beside}.safetensors")
    net, text = fill(UNet(**NET), tensors, "net"), fill(TextTransformer(**config["text"]), tensors, "text")
    net = widen_input(net, 4)
    net.conv_in.weight.data[:, 4:] = 0.1 * torch.randn(
        net.conv_in.weight[:, 4:].shape, generator=torch.Generator().manual_seed(1)
    )
    return write_weights(
        folder / f"{name}.safetensors",
        {"net": net, "text": text},
        config | dict(net=NET | dict(in_channels=8)),
    )


def tiny_ve(folder: Path, name: str = "shapes-ve") -> Path:
    """A model on 32×32 pixels with the geometric schedule, random weights."""
    net_config = NET | dict(in_channels=3, out_channels=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        net, text = shake(UNet(**net_config)), TextTransformer(**TEXT)
    config = dict(
        kind="text2image",
        prediction="v",
        schedule=dict(name="geometric", T=1000, sigma_min=0.01, sigma_max=50.0),
        vae=None,
        size=32,
        net=net_config,
        text=TEXT,
        words=list(WORDS),
    )
    return write_weights(folder / f"{name}.safetensors", {"net": net, "text": text}, config)


def tiny_clip(folder: Path, name: str = "shapes-clip", words: Sequence[str] = WORDS) -> Path:
    """A CLIP that knows nothing."""
    config = dict(
        width=16,
        layers=1,
        heads=2,
        embed=8,
        length=24,
        text_width=16,
        text_layers=1,
        text_heads=2,
        vocab=3 + len(words),
        end=2,
        size=32,
        patch=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = CLIP(**config)
    return write_weights(
        folder / f"{name}.safetensors", {"clip": net}, dict(kind="clip", clip=config, words=list(words))
    )


def tiny_reader(folder: Path, name: str = "shapes-reader") -> Path:
    """A reader of 64×64 pictures that cannot read."""
    config = dict(width=8, heads=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reader = Reader(attributes={k: len(v) for k, v in ATTRIBUTES.items()}, **config)
    return write_weights(
        folder / f"{name}.safetensors",
        {"reader": reader},
        dict(kind="reader", reader=config, values=ATTRIBUTES),
    )
