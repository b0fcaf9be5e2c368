"""The vision transformer: a picture is cut into patches, and the patches are read like the words of a
sentence.

"An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", arXiv:2010.11929v2, Sec.
3.1. CLIP's image tower (nets/judges/clip.py) and DINO (nets/judges/dino.py) are this class with other
settings.

    z_0  = [cls; E p_1; …; E p_l] + positions                # Eq. (1)
    z'_n = attention(norm(z_{n−1})) + z_{n−1}                # Eq. (2)
    z_n  = W₂ activation(W₁ norm(z'_n)) + z'_n               # Eq. (3)
    y    = norm(z_N)                                         # Eq. (4), here of every token

Letters: b batch, y x rows and columns (of pixels, then of patches), l patches = y·x, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from palimpsest.arguments import ArgumentError
from palimpsest.nets.attention import Site, Tap, wants
from palimpsest.nets.text import TextLayer


class Tokens(NamedTuple):
    """What a vision transformer makes of pictures, normalised."""

    cls: Tensor  # (b d): of the class token, which stands for the whole picture
    patches: Tensor  # (b l d): of the patches, row by row


class VisionTransformer(nn.Module):
    """pictures (b 3 y x), standardised as the net was trained (`view`) -> Tokens."""

    def __init__(
        self,
        *,
        size: int,  # side of the pictures that it was trained on
        patch: int,  # side of a patch; must divide size
        width: int,  # d
        layers: int,
        heads: int,
        activation: Callable[[Tensor], Tensor] = F.gelu,  # between the two linear maps of a layer
        eps: float = 1e-6,  # of all norms
        patch_bias: bool = True,  # whether the map E of a patch has one
        norm_in: bool = False,  # whether the tokens are normalised before the first layer
    ):
        super().__init__()
        if size % patch:
            raise ArgumentError("patch", f"must divide the size {size} of the pictures, got {patch}")
        self.patch, self.side = patch, size // patch
        self.patches = nn.Conv2d(3, width, patch, stride=patch, bias=patch_bias)  # E: patches do not overlap
        self.cls = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(
            torch.empty(1 + self.side**2, width)
        )  # of the class token, then of the patches
        self.norm_in = nn.LayerNorm(width, eps) if norm_in else nn.Identity()
        self.layers = nn.ModuleList(VisionLayer(width, heads, activation, eps) for _ in range(layers))
        self.norm_out = nn.LayerNorm(width, eps)
        nn.init.normal_(self.cls, std=0.02)
        nn.init.normal_(self.positions, std=0.02)

    def sites(self, res: tuple[int, int]) -> list[Site]:
        """The attention layers that a picture of res = (y, x) pixels passes, in call order: "layer00",
        "layer01", ….

        A site's res counts patches; its queries and keys are one more, the class token, which comes first.
        """
        grid = (res[0] // self.patch, res[1] // self.patch)
        return [Site(f"layer{n:02d}", "self", grid) for n in range(len(self.layers))]

    def forward(self, pictures: Tensor, tap: Tap | None = None) -> Tokens:
        """(b 3 y x) -> Tokens of (b d) and (b l d).

        tap: called with the probabilities (b h i j) of each layer that it wants (see nets/attention.py).
        Raises ValueError for shapes that do not fit, and for a tap that wants no layer.
        """
        return self.read(pictures, repeat(self.cls, "d -> b d", b=len(pictures)), tap)

    def read(self, pictures: Tensor, cls: Tensor, tap: Tap | None = None) -> Tokens:
        """As `forward`, with a class token of one's own for each picture, (b d)."""
        res = tuple(pictures.shape[-2:])
        if pictures.ndim != 4 or pictures.shape[1] != 3 or res[0] % self.patch or res[1] % self.patch:
            raise ArgumentError(
                "pictures",
                f"must be (b 3 y x) with y and x divisible by {self.patch}, not {tuple(pictures.shape)}",
            )
        sites, (rows, columns) = self.sites(res), (res[0] // self.patch, res[1] // self.patch)
        if tap is not None and not any(wants(tap, site) for site in sites):
            there = f"{sites[0].name} to {sites[-1].name}" if sites else "none"
            raise ArgumentError(
                "tap", f"wants no attention layer of this net; it has: {there}, self, {rows}x{columns}"
            )
        z = rearrange(self.patches(pictures), "b d y x -> b (y x) d")
        z = torch.cat([cls[:, None], z], dim=1) + self.place(rows, columns)  # Eq. (1)
        z = self.norm_in(z)
        for layer, site in zip(self.layers, sites):
            z = layer(z, tap, site)
        z = self.norm_out(z)  # Eq. (4)
        return Tokens(z[:, 0], z[:, 1:])

    def place(self, rows: int, columns: int) -> Tensor:
        """The position vectors of a picture of rows × columns patches, (1 + l, d). Raises ValueError
        unless trained on that size.
        """
        if (rows, columns) != (self.side, self.side):
            trained = self.side * self.patch
            raise ArgumentError(
                "pictures",
                f"must be {trained}x{trained}, not {rows * self.patch}x{columns * self.patch}: this "
                "net has no positions for another size",
            )
        return self.positions


class VisionLayer(TextLayer):
    """The layer of nets/text.py in which every token sees every other, with a tap on its attention: (b n
    d) -> (b n d).
    """

    def __init__(
        self,
        width: int,  # d
        heads: int,  # h, of width / heads channels each
        activation: Callable[[Tensor], Tensor],  # between the two linear maps
        eps: float,  # of the norms
    ):
        super().__init__(width, heads, activation, causal=False)
        self.norm1.eps = self.norm2.eps = eps

    def forward(self, z: Tensor, tap: Tap | None = None, site: Site | None = None) -> Tensor:
        z = z + self.attention(self.norm1(z), tap=tap, site=site)  # Eq. (2)
        return z + self.linear2(self.activation(self.linear1(self.norm2(z))))  # Eq. (3)


def view(pictures: Tensor, *, size: int, resize: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pictures (b 3 y x) in [−1, 1] as a trained net wants to see them: (b 3 size size), standardised.
    Gradients flow.

    The short side is brought to `resize` by antialiased bicubic interpolation, keeping the shape of
    things; the central square of `size` is cut out; then x -> ((x + 1)/2 − mean)/std for each channel.
    Overshoot of the interpolation is clamped away, as in a picture file. Sizes and offsets round as
    torchvision's Resize and CenterCrop do; what a program that resizes 8-bit pictures gives differs by
    the rounding of pixels, half a grey level. Raises ValueError for anything but floating-point (b 3 y
    x), and where size > resize."""
    if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.is_floating_point():
        raise ArgumentError(
            "pictures", f"must be floats (b 3 y x) in [-1, 1], not {pictures.dtype} {tuple(pictures.shape)}"
        )
    if size > resize:
        raise ArgumentError(
            "size", f"must not exceed resize {resize}, got {size}: there is no such square in the picture"
        )
    y, x = pictures.shape[-2:]
    rows, columns = (resize * y // min(y, x), resize * x // min(y, x))
    seen = (
        F.interpolate(pictures, (rows, columns), mode="bicubic", antialias=True)
        if (rows, columns) != (y, x)
        else pictures
    )
    top, left = round((rows - size) / 2), round((columns - size) / 2)
    # a clamp whose gradient is 0 at ±1 too; that of torch.clamp is 1 there before PyTorch 2.14
    seen = F.hardtanh(seen[..., top : top + size, left : left + size])
    return standardise(seen, mean, std)


def standardise(pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pictures (b 3 y x) in [−1, 1] -> ((x + 1)/2 − mean)/std, for each channel."""
    mean, std = (
        rearrange(torch.tensor(v, device=pictures.device, dtype=pictures.dtype), "c -> c 1 1")
        for v in (mean, std)
    )
    return ((pictures + 1) / 2 - mean) / std
