"""What the readers and writers of all layouts share: a net without its weights, the check that the parts of
a model belong together, and the writing of a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from palimpsest.nets.text import TextTransformer
from palimpsest.nets.unet import UNet
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.weights.files import WeightsError, without_numbers, write_tensor_file
from palimpsest.weights.public.configs import Config, build

Net = TypeVar("Net", bound=nn.Module)
LATENT_SCALE = 0.18215  # of Stable Diffusion's autoencoder (arXiv:2112.10752v2, App. G)
LATENT_SIDE = 64  # of the latents it was trained on


def build_empty(
    path: Path, cls: type[Net], config: Config, mend: str = "take a Stable Diffusion v1 model"
) -> Net:
    """The net without its weights: it takes no memory. Raises WeightsError with the mend where no such
    net can be built.
    """
    try:
        with without_numbers():
            return build(config, cls)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise WeightsError(
            f"model: {path} describes a {cls.__name__} that cannot be built ({type(error).__name__}: "
            f"{error}); {mend}"
        ) from None


def check_parts_fit(path: Path, net: UNet, text: TextTransformer | None, vae: AutoencoderKL | None) -> None:
    """Raises WeightsError where the U-Net reads texts of another width, or latents of other channels,
    than the file's other parts make.
    """
    if text is not None and text.positions.shape[1] != net.ctx_width:
        raise WeightsError(
            f"model: {path} has a text encoder of width {text.positions.shape[1]} and a U-Net that reads "
            f"{net.ctx_width}; take both from one model"
        )
    if vae is not None and vae.post_quant_conv.in_channels != net.conv_out.out_channels:
        raise WeightsError(
            f"model: {path} has an autoencoder of {vae.post_quant_conv.in_channels} latent channels and a "
            f"U-Net of {net.conv_out.out_channels}; take both from one model"
        )


def write_file(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Tensors as they are, and a header of texts, into a safetensors file that appears whole or not at
    all.
    """
    write_tensor_file(path, tensors, {"format": "pt", **header})
