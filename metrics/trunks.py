"""The networks behind LPIPS and FID: torchvision's trunks, with what makes them the networks of the
published figures.

    distance = load_lpips("alexnet-owt-7be5be79.pth", "alex.pth")     # weights/public/towers.py
    distance(x, y)                                                    # (b,): how different two pictures look
    inception = load_inception("pt_inception-2015-12-05-6726825d.pth")
    fid(features(x, inception), features(y, inception))               # metrics/features.py

Both take pictures in [−1, 1] and do their own scaling. Letters: b batch, c channels, y x rows and
columns, d features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import torchvision.models as tv
from einops import rearrange, reduce
from torch import Tensor, nn
from torchvision.models.inception import (
    BasicConv2d,
    Inception3,
    InceptionA,
    InceptionAux,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)

from palimpsest.arguments import ArgumentError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pictures in [0, 1]
FID_SIDE, FID_CLASSES = 299, 1008


# ---- LPIPS ----


class LPIPS(nn.Module):
    """Learned perceptual distance: "The Unreasonable Effectiveness of Deep Features as a Perceptual
    Metric", arXiv:1801.03924v2, Eq. (1).

        d(x, y) = Σ_n mean over places of Σ_c w_nc (â_nc − b̂_nc)²

    with â, b̂ the maps of layer n, each place brought to length 1 over its channels. official code: w ≥ 0
    weighs the squared difference; it is the square of the paper's w. Version 0.1 of the published heads
    is meant, the one that scales its input.

    trunk: layers that are applied one after another, as torchvision's `features` are; taps: after which
    of them a map is taken, all of them ReLUs; channels: of those maps; least: the smallest side of a
    picture that reaches the last of them. The heads begin as 1: without a file of them each layer counts
    as `metrics.features.perceptual` has it."""

    def __init__(self, trunk: nn.Sequential, taps: Sequence[int], channels: Sequence[int], least: int):
        super().__init__()
        self.taps, self.least = tuple(taps), least
        self.trunk = trunk[: max(taps) + 1]
        self.heads = nn.ModuleList(nn.Conv2d(c, 1, 1, bias=False) for c in channels)
        for head in self.heads:
            nn.init.ones_(head.weight)

    def maps(self, pictures: Tensor) -> list[Tensor]:
        """The maps that are compared, (b c y' x') for each tap. Pictures (b 3 y x) in [−1, 1]; ValueError
        where they are too small.
        """
        if pictures.ndim != 4 or pictures.shape[1] != 3 or min(pictures.shape[-2:]) < self.least:
            raise ArgumentError(
                "pictures",
                f"shape {tuple(pictures.shape)}; give (b, 3, y, x) with sides of {self.least} or more",
            )
        mean, std = (rearrange(pictures.new_tensor(v), "c -> c 1 1") for v in (IMAGENET_MEAN, IMAGENET_STD))
        a, found = ((pictures + 1) / 2 - mean) / std, []
        for n, layer in enumerate(self.trunk):
            a = layer(a)
            if n in self.taps:
                found.append(a)
        return found

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(b 3 y x) twice, in [−1, 1] -> (b,), 0 for equal pictures. Gradients flow. Raises ValueError
        for two shapes.
        """
        if x.shape != y.shape:
            raise ArgumentError("y", f"must be (b, 3, y, x) as x is: {tuple(y.shape)} and {tuple(x.shape)}")
        layers = zip(self.maps(x), self.maps(y), self.heads)
        return torch.stack(
            [reduce(head((_unit(a) - _unit(b)) ** 2), "b 1 y x -> b", "mean") for a, b, head in layers]
        ).sum(0)


def _unit(a: Tensor) -> Tensor:
    """Length 1 over the channels; a place where all are silent stays 0."""
    return a / (a.norm(dim=1, keepdim=True) + 1e-10)


def lpips_alex() -> LPIPS:
    """LPIPS on AlexNet, the faster and the usual one, with random weights: 1,152 of them in the heads."""
    return LPIPS(tv.alexnet(weights=None).features, (1, 4, 7, 9, 11), (64, 192, 384, 256, 256), 31)


def lpips_vgg() -> LPIPS:
    """LPIPS on VGG-16, the usual one as a training loss, with random weights: 1,472 of them in the heads."""
    return LPIPS(
        tv.vgg.make_layers(tv.vgg.cfgs["D"], batch_norm=False),
        (3, 8, 15, 22, 29),
        (64, 128, 256, 512, 512),
        16,
    )


# ---- FID ----


class _Pooled:
    """An Inception block of torchvision's whose pool branch, the last of its outputs, pools otherwise."""

    def pool(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(
            x, 3, stride=1, padding=1, count_include_pad=False
        )  # a border pixel averages what there is

    def _forward(self, x: Tensor) -> list[Tensor]:
        *others, _ = super()._forward(x)
        return [*others, self.branch_pool(self.pool(x))]


class _A(_Pooled, InceptionA):
    pass


class _C(_Pooled, InceptionC):
    pass


class _E(_Pooled, InceptionE):
    pass


class _LastE(_E):
    def pool(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, stride=1, padding=1)


class FIDInception(Inception3):
    """The Inception network of 2015 by which published FID and KID compare (arXiv:1706.08500v6, Sec. 4):
    pictures -> (b 2048).

    23,850,960 parameters. Four things set it apart from torchvision's own inception_v3, whose figures are
    not comparable: 1008 classes; pool branches that leave the padding out of their averages; a pool
    branch of the last block that takes the maximum; weights of another training. Names are torchvision's.
    Call `.eval()` before measuring: the published figures have no dropout and use the moments that the
    batch norms have kept."""

    def __init__(self):
        blocks = [BasicConv2d, _A, InceptionB, _C, InceptionD, _E, InceptionAux]
        super().__init__(
            num_classes=FID_CLASSES,
            aux_logits=False,
            transform_input=False,
            inception_blocks=blocks,
            init_weights=False,
        )
        self.Mixed_7c = _LastE(2048)

    def forward(self, pictures: Tensor) -> Tensor:
        """(b 3 y x) in [−1, 1], any size -> (b 2048): the last map's mean. Values beyond [−1, 1] are clamped.

        Pictures are stretched to 299 × 299, bilinearly and without antialiasing, as the PyTorch programs
        that most figures come from do. unstated: the resizing; another one moves FID by whole points."""
        if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.is_floating_point():
            raise ArgumentError(
                "pictures",
                f"{pictures.dtype} of shape {tuple(pictures.shape)}; give floats (b, 3, y, x) in [-1, 1]",
            )
        x = F.interpolate(pictures.clamp(-1, 1), (FID_SIDE, FID_SIDE), mode="bilinear", align_corners=False)
        return rearrange(self.avgpool(self.map(x)), "b d 1 1 -> b d")

    def map(self, x: Tensor) -> Tensor:
        """What the mean is taken of: (b 3 y x) of 75 × 75 or more, not resized -> (b 2048 y' x')."""
        for name, layer in self.named_children():
            if name == "avgpool":
                break
            x = layer(x)
        return x

    def logits(self, pictures: Tensor) -> Tensor:
        """(b 1008), for the Inception Score."""
        return self.fc(self(pictures))
