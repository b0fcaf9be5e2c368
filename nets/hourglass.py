"""The generator of Text2LIVE: an hourglass with narrow skips that paints a layer over one picture.

"Text2LIVE: Text-Driven Layered Image and Video Editing", arXiv:2204.02491v2, with the shape of a deep image
prior (arXiv:1711.10925v4): an untrained net of this shape prefers pictures that look natural, so it needs no
data but the one picture. The map is halved `scales` times and doubled as often; at every scale a few channels
skip what is below.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

GROUPS = 4  # of the norms
SLOPE = 0.2  # of the leaky ReLUs below 0


class Hourglass(nn.Module):
    """pictures (b 3 y x) in [−1, 1] -> layers (b 4 y x) in [0, 1]: red, green, blue, opacity. Any y and x."""

    def __init__(
        self,
        *,
        scales: int = 4,  # halvings; the paper: 7, for pictures of some 500 pixels
        width: int = 32,  # channels on the way down and up; the paper: 128
        skip: int = 4,  # channels that skip a scale
        generator: Generator | None = None,  # the first weights are drawn from it; None: the global one
    ):
        super().__init__()
        coming_in = [3] + [width] * (scales - 1)  # channels at each scale, finest first
        self.skip = nn.ModuleList(convolution(c, skip, 1) for c in coming_in)
        self.down = nn.ModuleList(
            nn.Sequential(convolution(c, width, 3, stride=2), convolution(width, width, 3)) for c in coming_in
        )
        self.up = nn.ModuleList(
            nn.Sequential(convolution(width + skip, width, 3), convolution(width, width, 1))
            for _ in coming_in
        )
        self.out = nn.Conv2d(width, 4, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=SLOPE, generator=generator)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        h, kept = x, []
        for skip, down in zip(self.skip, self.down):
            kept.append(skip(h))
            h = down(h)
        for up, beside in zip(self.up, reversed(kept)):
            h = F.interpolate(h, beside.shape[-2:], mode="bilinear", align_corners=False)
            h = up(torch.cat([h, beside], dim=1))
        return self.out(h).sigmoid()


def convolution(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution whose border pixels go on outside of the map, a norm, and a leaky ReLU.

    # ours: a group norm; of a single picture the authors' batch norm does the same for each channel alone
    """
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2, padding_mode="replicate"),
        nn.GroupNorm(GROUPS, c_out),
        nn.LeakyReLU(SLOPE),
    )
