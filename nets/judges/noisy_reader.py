"""The noisy reader: a classifier of every named attribute that looks at x_t and is told t, for guidance
by a classifier.

"Diffusion Models Beat GANs on Image Synthesis", arXiv:2105.05233v4, Sec. 4: a classifier p_φ(y | x_t, t)
trained on noisy pictures, whose gradient leads the walk to y. As theirs, it is the downward half of a
U-Net with attention at 8×8; one learned query per attribute reads the last map (nets/judges/reader.py),
where theirs reads a single class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.arguments import ArgumentError
from palimpsest.nets.blocks import ResBlock
from palimpsest.nets.fast_cpu import Conv2d
from palimpsest.nets.judges.reader import MapReader
from palimpsest.nets.levels import check_map
from palimpsest.nets.unet import Downsample, TimeEmbedding


class NoisyReader(MapReader):
    """`forward(x_t (b, 3, size, size), t) -> {attribute: logits (b, values)}`; t counts from 0."""

    def __init__(
        self,
        *,
        attributes: dict[str, int],  # name -> number of values
        size: int = 32,  # side of the pictures
        width: int = 32,  # channels of the first level
        mult: tuple[int, ...] = (
            1,
            2,
            4,
        ),  # channels of each level in units of width; all but the first halve
        heads: int = 4,  # of every attention
        times: int = 1000,  # it knows t = 0 … times − 1
    ):
        halvings = len(mult) - 1
        if size % 2**halvings:
            raise ArgumentError("size", f"must be a multiple of {2**halvings}, got {size}")
        super().__init__(attributes, width * mult[-1], (size >> halvings) ** 2, heads)
        self.size, self.times = size, times
        self.time = TimeEmbedding(width, 4 * width)
        self.conv_in = Conv2d(3, width, 3, padding=1)
        self.blocks, self.halves, c = nn.ModuleList(), nn.ModuleList(), width
        for k, m in enumerate(mult):
            self.halves.append(Downsample(c) if k else nn.Identity())
            self.blocks.append(ResBlock(c, width * m, groups=8, eps=1e-5, emb_width=4 * width))
            c = width * m
        self.norm_map = nn.GroupNorm(8, c)

    def forward(self, x_t: Tensor, t: int | Tensor) -> dict[str, Tensor]:
        t = torch.as_tensor(t, device=x_t.device)
        check_map(x_t, t, 3, self.size)
        if tuple(x_t.shape[2:]) != (self.size, self.size):
            raise ArgumentError("x_t", f"must be (b, 3, {self.size}, {self.size}), not {tuple(x_t.shape)}")
        if (t < 0).any() or (t > self.times - 1).any():
            raise ArgumentError("t", f"must lie between 0 and {self.times - 1}, not {t.tolist()}")
        h, emb = self.conv_in(x_t), self.time(t.expand(len(x_t)))
        for k, block in enumerate(self.blocks):
            h = block(self.halves[k](h), emb)
        return self.read(self.attended(F.silu(self.norm_map(h))))

    def log_p(self, x_t: Tensor, t: int | Tensor, wanted: dict[str, Tensor]) -> Tensor:
        """Σ over attributes of log p(value | x_t, t), (b,); wanted: {attribute: class (b,)}, as many of
        them as are asked for.
        """
        logits = self(x_t, t)
        rows = torch.arange(len(x_t), device=x_t.device)
        return torch.stack(
            [F.log_softmax(logits[name], dim=1)[rows, value.to(x_t.device)] for name, value in wanted.items()]
        ).sum(0)
