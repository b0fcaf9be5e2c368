"""The reader: a small network that reads every named attribute of a shapes-world picture, and so judges
edits.

No paper: a convolutional stem, two attention layers over its 8×8 map, and one learned query per attribute
that attends to the map (as in DETR, arXiv:2005.12872v3, Sec. 3.2, made small). One classifier per
attribute reads what its query found."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import Tensor, nn
from torch.nn.init import normal_

from palimpsest.arguments import ArgumentError
from palimpsest.nets.attention import Attention
from palimpsest.nets.fast_cpu import Conv2d, Linear


class MapReader(nn.Module):
    """What is read off a map of features: two attention layers over its places, one query per attribute that
    attends to them, one classifier per attribute. A subclass makes the map."""

    def __init__(self, attributes: dict[str, int], channels: int, places: int, heads: int):
        super().__init__()
        self.attributes = dict(attributes)
        self.place = normal_(nn.Parameter(torch.empty(1, places, channels)), std=0.02)
        self.layers = nn.ModuleList(Layer(channels, heads) for _ in range(2))
        self.queries = normal_(nn.Parameter(torch.empty(len(self.attributes), channels)), std=0.02)
        self.look = Attention(channels, channels, heads)
        self.norm = nn.LayerNorm(channels)
        self.heads = nn.ModuleList(Linear(channels, n) for n in self.attributes.values())

    def attended(self, h: Tensor) -> Tensor:
        """A map (b c y x) -> its places after the attention layers, (b n c), n = y · x."""
        h = rearrange(h, "b c y x -> b (y x) c") + self.place
        for layer in self.layers:
            h = layer(h)
        return h

    def read(self, h: Tensor) -> dict[str, Tensor]:
        """Places (b n c) -> {attribute: logits (b, values)}."""
        q = repeat(self.queries, "n c -> b n c", b=len(h))
        found = self.norm(q + self.look(q, h))
        return {name: head(found[:, k]) for k, (name, head) in enumerate(zip(self.attributes, self.heads))}


class Reader(MapReader):
    """`forward(pictures (b, 3, y, x) in [−1, 1]) -> {attribute: logits (b, values)}`."""

    def __init__(
        self,
        *,
        attributes: dict[str, int],  # name -> number of values
        width: int = 32,  # channels of the first level; the map that is read has four times as many
        size: int = 64,  # side of the pictures, a multiple of 8
        heads: int = 4,  # of every attention
    ):
        super().__init__(attributes, 4 * width, (size // 8) ** 2, heads)
        self.size = size
        stem, c = [], 3
        for w in (width, 2 * width, 4 * width):  # each level halves the map
            stem += [
                Conv2d(c, w, 3, stride=2, padding=1),
                nn.GroupNorm(8, w),
                nn.SiLU(),
                Conv2d(w, w, 3, padding=1),
                nn.GroupNorm(8, w),
                nn.SiLU(),
            ]
            c = w
        self.stem = nn.Sequential(*stem)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        return self.read(self.map(pictures))

    def features(self, pictures: Tensor) -> Tensor:
        """What KID and FID compare: places of the map, each brought to mean 0, variance 1; their mean. (b
        4 width).
        """
        return reduce(F.layer_norm(self.map(pictures), self.place.shape[-1:]), "b n c -> b c", "mean")

    def map(self, pictures: Tensor) -> Tensor:
        """The 8 × 8 map after the attention layers, (b n c), n = (size / 8)²."""
        if pictures.ndim != 4 or tuple(pictures.shape[1:]) != (3, self.size, self.size):
            raise ArgumentError(
                "pictures", f"must be (b, 3, {self.size}, {self.size}), not {tuple(pictures.shape)}"
            )
        return self.attended(self.stem(pictures))


class Layer(nn.Module):
    """A pre-norm transformer layer over the map: h += attention(h); h += mlp(h). (b n c) -> (b n c)."""

    def __init__(self, c: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.attention = Attention(c, heads=heads)
        self.mlp = nn.Sequential(Linear(c, 2 * c), nn.GELU(), Linear(2 * c, c))

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.attention(self.norm1(h))
        return h + self.mlp(self.norm2(h))


def reader_loss(logits: dict[str, Tensor], truth: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy over the attributes; truth: {attribute: class (b,)}."""
    return torch.stack([F.cross_entropy(logits[name], truth[name]) for name in logits]).mean()
