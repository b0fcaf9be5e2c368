"""DINO: a vision transformer that learnt without labels, and whose class token tells one subject from
another.

"Emerging Properties in Self-Supervised Vision Transformers", arXiv:2104.14294v2, Sec. 3.2. With its
default arguments the class is ViT-S/16 (21,665,664 parameters in 150 tensors), with which DreamBooth
(arXiv:2208.12242v2, Sec. 4.1) measures whether a subject was kept; `DINO(width=768, heads=12)` is
ViT-B/16.

    dino = load_dino("dino_deitsmall16_pretrain.pth")    # weights/public/towers.py
    seen = dino(dino_view(pictures))                     # seen.cls (b 384), seen.patches (b l 384)

The paper is known for pictures of what the class token attends to in the last layer:

    maps = {}
    dino(views, tap=at(lambda probs, site: maps.setdefault(site, probs), name="layer11"))
    [(site, probs)] = maps.items()                       # (b h 1+l 1+l); probs[:, :, 0, 1:] is (b h l)

Letters: b batch, y x rows and columns of patches, l = y·x, d width, h heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from palimpsest.nets.judges.vit import VisionTransformer, view

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures, in [0, 1]


class DINO(VisionTransformer):
    """pictures (b 3 y x), as `dino_view` makes them, of any size that patches fill -> Tokens(cls (b d),
    patches (b l d)).

    The norms divide by √(variance + 1e-6). official code: likewise; transformers' copy of the weights is
    configured with 1e-12.
    """

    def __init__(
        self,
        *,
        size: int = 224,  # side of the pictures that it was trained on
        patch: int = 16,  # side of a patch
        width: int = 384,  # d
        layers: int = 12,
        heads: int = 6,  # of width / heads channels each
    ):
        super().__init__(
            size=size, patch=patch, width=width, layers=layers, heads=heads, activation=F.gelu, eps=1e-6
        )

    def place(self, rows: int, columns: int) -> Tensor:
        """The positions, (1 + l, d); those of the patches stretched to another grid by bicubic interpolation.

        official code: the stretch is (rows + 0.1)/side and not rows/side. The tenth was meant to keep the
        size of the result from being rounded down, but it moves every position a little. It is kept,
        since the published figures were made with it; transformers and timm stretch by rows/side (timm
        with antialiasing), and agree with this at the size of training only."""
        if (rows, columns) == (self.side, self.side):
            return self.positions
        grid = rearrange(self.positions[1:], "(y x) d -> 1 d y x", y=self.side)
        stretch = ((rows + 0.1) / self.side, (columns + 0.1) / self.side)
        grid = F.interpolate(grid, scale_factor=stretch, mode="bicubic")
        return torch.cat([self.positions[:1], rearrange(grid, "1 d y x -> (y x) d")])


def dino_view(pictures: Tensor, size: int = 224, resize: int = 256) -> Tensor:
    """Pictures (b 3 y x) in [−1, 1] as DINO was evaluated: the short side to `resize`, the central square
    of `size`, ImageNet's mean and spread taken out: (b 3 size size). See `nets.judges.vit.view`; give
    resize=size to see the whole short side."""
    return view(pictures, size=size, resize=resize, mean=MEAN, std=STD)
