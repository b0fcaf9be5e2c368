"""Pictures compared with pictures: l2, rmse, psnr, ssim, everywhere or where a mask says.

All take pictures (b, 3, y, x) in [-1, 1] and give one figure per picture, (b,), float64. Inside they
measure in [0, 1], as the papers do: x -> (x + 1) / 2. Values are not clamped, so that an overshoot is
seen, not hidden.

`mask` (b, 1, y, x), or (1, 1, y, x) for all: 1 = *this pixel counts*. A method's mask says 1 = *edit
here*; the unwanted change is what happened in `1 - mask`. A mask that is all 0 raises ValueError."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from palimpsest.arguments import ArgumentError
from palimpsest.metrics.mask import as_mask, refuse_empty


def _unit(x: Tensor, y: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Both pictures in [0, 1] and the mask (all 1 where none is given), float64. Checks shapes, dtype,
    NaN.
    """
    if x.ndim != 4 or x.shape != y.shape:
        raise ArgumentError(
            "pictures", f"shapes {tuple(x.shape)} and {tuple(y.shape)}; give two equal (b, c, y, x)"
        )
    if not (x.is_floating_point() and y.is_floating_point()):
        raise ArgumentError(
            "pictures", f"{x.dtype} and {y.dtype}; give floats in [-1, 1], as worlds.files reads them"
        )
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ArgumentError("pictures", "NaN or infinity inside; mend what made them before measuring")
    if mask is None:
        mask = torch.ones(1, 1, 1, 1, device=x.device).expand(len(x), 1, *x.shape[-2:])
    return (x.double() + 1) / 2, (y.double() + 1) / 2, as_mask(mask, len(x), tuple(x.shape[-2:]))


def l2(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """The faithfulness measure of SDEdit (arXiv:2108.01073v2, Sec. 5 and Table 1): ‖x - y‖₂, pixels in
    [0, 1].

    unstated: the paper says "L2 distance, summed over all pixels", which can be read two ways:
        the norm           √Σ (x - y)²    this function
        the squared norm    Σ (x - y)²    `l2(x, y) ** 2`
    The norm is chosen because only it fits the paper's figures: 32.55 over 256 × 256 × 3 values is an
    RMSE of 0.073 as a norm, but 0.013 as a squared norm, less than two grey levels between a stroke
    painting and a photo. The sum grows with the size of the picture: compare l2 only at one size, or use
    `rmse` = l2 / √(number of values).

    >>> black, white = torch.full((1, 3, 2, 2), -1.), torch.ones(1, 3, 2, 2)
    >>> l2(black, white).item() == 12 ** .5
    True
    """
    x, y, mask = _unit(x, y, mask)
    return reduce(mask * (x - y) ** 2, "b c y x -> b", "sum").sqrt()


def rmse(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Root mean square error √mean (x - y)² over channels and counted pixels, in [0, 1] units: white on
    black is 1.
    """
    x, y, mask = _unit(x, y, mask)
    values = x.shape[1] * reduce(mask, "b 1 y x -> b", "sum")
    return (reduce(mask * (x - y) ** 2, "b c y x -> b", "sum") / values).sqrt()


def psnr(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in decibels, 10 log₁₀(range² / mse). Identical pictures give inf.

    The range is 1 in the [0, 1] units of `rmse`, so this is -20 log₁₀ rmse. The same figure is had in [-1, 1]
    with range 2; range 1 there would be 6.02 dB too low.
    """
    return -20 * rmse(x, y, mask).log10()


def gaussian_window(size: int = 11, sigma: float = 1.5) -> Tensor:
    """The circular Gaussian of SSIM, summing to 1: (size, size), float64."""
    i = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    g = torch.exp(-(i**2) / (2 * sigma**2))
    return torch.outer(g, g) / g.sum() ** 2


def ssim(x: Tensor, y: Tensor, mask: Tensor | None = None, size: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity (Wang, Bovik, Sheikh, Simoncelli 2004, doi:10.1109/TIP.2003.819861), in [-1,
    1], 1 = equal.

    In each Gaussian window (size 11, σ 1.5), with L = 1, K1 = 0.01, K2 = 0.03:      # Wang et al. Eq. (13)
        SSIM = (2 μx μy + C1)(2 σxy + C2) / ((μx² + μy² + C1)(σx² + σy² + C2)),   C = (K L)²
    and the mean over all windows that lie inside the picture.                       # Wang et al. Eq. (17)
    μ must be taken in [0, 1]: in [-1, 1] the first factor would turn negative between dark and bright.

    unstated: colour; here the mean over channels. Ours, the mask: a window's statistics are taken over
    its counted pixels alone, and it enters where its centre counts, so that pixels that do not count
    cannot change the figure. Raises ValueError for pictures smaller than the window, or where no counted
    pixel is the centre of a window."""
    if x.ndim == 4 and min(x.shape[-2:]) < size:
        raise ArgumentError(
            "pictures", f"{x.shape[-2]} × {x.shape[-1]} is below one window; give {size} × {size} or more"
        )
    x, y, mask = _unit(x, y, mask)
    window = gaussian_window(size, sigma).to(x.device)[None, None]

    def windows(image: Tensor) -> Tensor:  # (b c y x) -> (b c y' x')
        out = F.conv2d(rearrange(image, "b c y x -> (b c) 1 y x"), window)
        return rearrange(out, "(b c) 1 y x -> b c y x", b=len(image))

    weight = windows(mask)  # the counted share of each
    weight = torch.where(weight > 0, weight, 1.0)

    def mean(image: Tensor) -> Tensor:
        return windows(mask * image) / weight

    mu_x, mu_y = mean(x), mean(y)  # Eq. (14)
    var_x, var_y = mean(x * x) - mu_x**2, mean(y * y) - mu_y**2  # Eq. (15)
    cov = mean(x * y) - mu_x * mu_y  # Eq. (16)
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mu_x * mu_y + c1) * (2 * cov + c2) / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2))

    edge, (rows, columns) = (size - 1) // 2, index.shape[-2:]
    centre = mask[..., edge : edge + rows, edge : edge + columns]
    count = reduce(centre, "b 1 y x -> b", "sum")
    refuse_empty(count, f"mask, at least {edge} pixels from the border,")
    return reduce(centre * index, "b c y x -> b", "sum") / (index.shape[1] * count)


def seam(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """How badly the border of a mask shows in x (b, 3, y, x), beside y, the true picture: (b,), 0 where
    it shows as little as in truth.

    Of every two neighbours of which one is in the mask (1 = painted) and one is not, the step from one to
    the other is taken in x and in y; the figure is the RMS of their difference, in the units of `rmse`. A
    seam is a step at the border that the true picture lacks, or the lack of one that it has; what lies
    inside the mask does not count. ours. Raises ValueError for a mask without a border."""
    x, y, _ = _unit(x, y, None)
    mask = as_mask(mask, len(x), tuple(x.shape[-2:]))
    total, count = (
        torch.zeros(len(x), dtype=x.dtype, device=x.device),
        torch.zeros(len(x), dtype=x.dtype, device=x.device),
    )
    for dim in (-1, -2):
        border = (mask.diff(dim=dim) != 0).to(x.dtype)
        total += (border * (x.diff(dim=dim) - y.diff(dim=dim)) ** 2).sum(dim=(1, 2, 3)) / x.shape[1]
        count += border.sum(dim=(1, 2, 3))
    refuse_empty(count, "mask")
    return (total / count).sqrt()
