"""The noise schedule: how much of the picture is left at each time.

x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε with ᾱ_0 = 1 (the clean picture) and t = 1 … T. The papers number their T
noise levels from 1 (DDPM, arXiv:2006.11239v2) and their programs from 0; here index and paper agree, and
ᾱ_0 = 1 is a level like any other.

    paper                       code
    β_t                         sched.beta(t)
    ᾱ_t  (DDIM: α_t)            sched.at(t), sched.abar
    σ_t = √((1−ᾱ_t)/ᾱ_t)        sched.sigma(t)      the noise beside the full picture: x_t/√ᾱ_t = x_0 + σ_t ε
    SNR(t) = ᾱ_t/(1−ᾱ_t)        sched.snr(t)        = 1/σ_t²
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral

import torch
from einops import rearrange
from torch import Tensor

from palimpsest.arguments import ArgumentError, Count, Share, check


@dataclass(frozen=True, eq=False)
class Schedule:
    """ᾱ_0 … ᾱ_T: a float64 CPU tensor of length T+1 that starts at exactly 1 and falls, staying above 0.

    Raises ArgumentError where `abar` is anything else. (ᾱ_T = 0 is refused: x̂_0 would be 0/0 for an
    ε-network there.)"""

    abar: Tensor

    def __post_init__(self):
        a = self.abar
        if not isinstance(a, Tensor) or a.dtype != torch.float64 or a.device.type != "cpu":
            raise ArgumentError("abar", "must be a float64 tensor on the CPU")
        if a.ndim != 1 or len(a) < 2 or a[0] != 1:
            raise ArgumentError(
                "abar", "must have one dimension, length T+1 >= 2 and abar[0] == 1 (the clean picture)"
            )
        if not (a[1:] < a[:-1]).all() or not a[-1] > 0:
            raise ArgumentError(
                "abar", "must fall strictly and stay above 0; cap the betas below 1 or give fewer levels"
            )

    # ---- the published schedules ----

    @classmethod
    def from_betas(cls, betas: Tensor) -> Schedule:
        """ᾱ_t = Π_{i≤t} (1 − β_i); `betas` holds β_1 … β_T."""
        return cls(torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas.double().cpu()).cumprod(0)]))

    @classmethod
    def linear(cls, T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> Schedule:
        """β_t evenly spaced from β_1 to β_T (DDPM, arXiv:2006.11239v2, Sec. 4)."""
        return cls.from_betas(torch.linspace(beta_1, beta_T, T, dtype=torch.float64))

    @classmethod
    def scaled_linear(cls, T: int = 1000, beta_1: float = 0.00085, beta_T: float = 0.012) -> Schedule:
        """√β_t evenly spaced: latent diffusion (arXiv:2112.10752v2) and Stable Diffusion v1.

        official code: CompVis calls this one "linear", diffusers calls it "scaled_linear".
        """
        return cls.from_betas(torch.linspace(beta_1**0.5, beta_T**0.5, T, dtype=torch.float64) ** 2)

    @classmethod
    def cosine(cls, T: int = 1000, s: float = 0.008, cap: float = 0.999) -> Schedule:
        """ᾱ_t = f(t)/f(0), f(t) = cos²((t/T + s)/(1 + s) · π/2), β_t ≤ cap (arXiv:2102.09672v1, Eq. 17)."""
        f = torch.cos((torch.linspace(0, 1, T + 1, dtype=torch.float64) + s) / (1 + s) * math.pi / 2) ** 2
        return cls.from_betas((1 - f[1:] / f[:-1]).clamp(max=cap))

    @classmethod
    def geometric(cls, T: int = 1000, sigma_min: float = 0.01, sigma_max: float = 50.0) -> Schedule:
        """The VE levels σ_1 = sigma_min … σ_T = sigma_max of constant ratio (arXiv:2011.13456v2, App. C).

        ᾱ = 1/(1 + σ²): VE and VP states differ by the factor √ᾱ and nothing else. σ has the units of the
        pictures."""
        sigma = torch.linspace(math.log(sigma_min), math.log(sigma_max), T, dtype=torch.float64).exp()
        return cls(torch.cat([torch.ones(1, dtype=torch.float64), 1 / (1 + sigma**2)]))

    # ---- one time ----

    @property
    def T(self) -> int:
        return len(self.abar) - 1

    def at(self, t: float) -> float:
        """ᾱ_t as a Python float, for 0 ≤ t ≤ T, whole or real; ArgumentError outside.

        Between whole times log SNR, and so log σ, is linear in t; on (0, 1), where log SNR starts
        infinite, σ = t σ_1."""
        t = self._time(t)
        return float(self.abar[t]) if isinstance(t, int) else 1 / (1 + self.sigma(t) ** 2)

    def sigma(self, t: float) -> float:
        """σ_t = √((1−ᾱ_t)/ᾱ_t), the VE noise level of time t; 0 at t = 0. Real t as in `at`."""
        t = self._time(t)
        if isinstance(t, int):
            return ((1 - self.at(t)) / self.at(t)) ** 0.5
        lo = math.floor(t)
        if lo == 0:
            return t * self.sigma(1)
        return self.sigma(lo) ** (lo + 1 - t) * self.sigma(lo + 1) ** (t - lo)

    def snr(self, t: float) -> float:
        """SNR(t) = ᾱ_t/(1−ᾱ_t) = 1/σ_t²; infinite at t = 0."""
        sigma = self.sigma(t)
        return 1 / sigma**2 if sigma > 0 else math.inf

    def beta(self, t: int) -> float:
        """β_t = 1 − ᾱ_t/ᾱ_{t−1} for whole t = 1 … T."""
        if not isinstance(t, Integral) or not 1 <= t <= self.T:
            raise ArgumentError("t", f"must be whole, from 1 to {self.T}: beta is defined there, got {t!r}")
        return 1 - self.at(t) / self.at(t - 1)

    def t_of_sigma(self, sigma: float) -> float:
        """The real t with sigma(t) = `sigma`: the inverse of `sigma`, whole (as a float) on the table.

        Raises ArgumentError for a negative or NaN sigma and above σ_T, where no network was trained.
        """
        table = ((1 - self.abar) / self.abar).sqrt()
        top = float(table[-1])
        if not 0 <= sigma <= top * (1 + 1e-9):
            raise ArgumentError("sigma", f"must lie in [0, {top:.6g}] for this schedule, got {sigma!r}")
        hi = min(max(int(torch.searchsorted(table, sigma)), 1), self.T)  # table[hi-1] < sigma <= table[hi]
        if hi == 1:
            t = sigma / float(table[1])
        else:
            lo_s, hi_s = float(table[hi - 1]), float(table[hi])
            t = hi - 1 + min(math.log(sigma / lo_s) / math.log(hi_s / lo_s), 1.0)
        return float(round(t)) if abs(t - round(t)) < 1e-9 else t  # rounding noise off the table

    # ---- many times ----

    def signal_noise(self, t: float | Tensor, like: Tensor) -> tuple[float, float] | tuple[Tensor, Tensor]:
        """(√ᾱ_t, √(1−ᾱ_t)): floats for a number t; (b 1 1 1) tensors like `like` for whole times t (b,).

        The roots are taken in float64: in float32, 1−ᾱ_1 alone would lose three digits.
        """
        if isinstance(t, Tensor) and t.ndim > 0:
            a = rearrange(self._gather(t, like), "b -> b 1 1 1")
            return a.sqrt().to(like), (1 - a).sqrt().to(like)
        a = self.at(t)
        return a**0.5, (1 - a) ** 0.5

    def times(self, steps: Count, start: Share = 1.0, end: int = 0) -> list[int]:
        """steps + 1 strictly falling whole times from round(start·T) to `end`, evenly spaced.

        Schedule.linear(1000).times(4, start=.6) == [600, 450, 300, 150, 0]; walk it with
        itertools.pairwise, and reversed to invert. Raises ArgumentError for steps < 1, start outside (0, 1],
        a bad end, or more steps than times.

        official code: Stable Diffusion's 50 steps are 982, 962, …, 2, 1 here: [*times(49, start=.982,
        end=2), 1]."""
        check(Schedule.times, {"steps": steps, "start": start})
        top = round(start * self.T)
        if isinstance(end, bool) or not isinstance(end, Integral) or not 0 <= end <= self.T:
            raise ArgumentError("end", f"must be a whole time from 0 to {self.T}, got {end!r}")
        if steps > top - end:
            raise ArgumentError(
                "steps",
                f"{steps} needs as many times between {top} (start={start} of T={self.T}) and "
                f"end={end}, where there are {max(top - end, 0)}: take fewer steps or a larger start",
            )
        return [round(top + (end - top) * n / steps) for n in range(steps + 1)]

    # ---- checks ----

    def _time(self, t: float) -> int | float:
        """t as an int where it is whole, else as a float; ArgumentError outside [0, T]."""
        if not 0 <= t <= self.T:
            raise ArgumentError("t", f"must lie in [0, {self.T}], got {t!r}")
        return int(t) if int(t) == t else float(t)

    def _gather(self, t: Tensor, like: Tensor) -> Tensor:
        """ᾱ (b,) in float64 on the CPU."""
        if t.ndim != 1 or len(t) != len(like) or t.is_floating_point():
            raise ArgumentError(
                "t", f"must hold one whole time per picture, ({len(like)},), got {tuple(t.shape)} {t.dtype}"
            )
        t = t.cpu()
        if t.min() < 0 or t.max() > self.T:
            raise ArgumentError("t", f"must lie in [0, {self.T}], got {int(t.min())} to {int(t.max())}")
        return self.abar[t]
