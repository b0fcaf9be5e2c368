"""Intervals that hold the truth in 95 of 100 measurements: of a share and of a mean."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Z = 1.96                                                       # a normal variable lies within ± Z with probability .95


def share_interval(k: int, n: int) -> tuple[float, float]:
    """Of the share k/n of independent trials (Wilson's interval), e.g. 24 right of 32. Raises ValueError outside 0 ≤ k ≤ n, n ≥ 1."""
    if not (n >= 1 and 0 <= k <= n):
        raise ValueError(f"{k} of {n} is not a share")
    middle, half = (k + Z ** 2 / 2) / (n + Z ** 2), Z / (n + Z ** 2) * (k * (n - k) / n + Z ** 2 / 4) ** .5
    return middle - half, middle + half


def share_band(shares: Sequence[float], n: int) -> tuple[list[float], list[float]]:
    """The lower and the upper ends of the intervals of several shares, each of n trials: a band to draw behind their curve."""
    low, high = zip(*(share_interval(round(share * n), n) for share in shares))
    return list(low), list(high)


def mean_interval(values: Sequence[float] | Tensor) -> tuple[float, float]:
    """Of the mean of independent values: ± Z standard errors. Raises ValueError for fewer than two values."""
    values = torch.as_tensor(values, dtype=torch.float64).flatten()
    if len(values) < 2:
        raise ValueError("an interval needs two values or more")
    half = Z * (values.std() / len(values) ** .5).item()
    return values.mean().item() - half, values.mean().item() + half
