"""A world whose every answer is known: Gaussian pictures, and with them ε, score, flow and SDEdit in
closed form.

Given a prompt, the pixels of x_0 are independent, x_0 ~ N(μ, s²), so every noised picture is Gaussian too:

    VP   x_t = √ᾱ x_0 + √(1−ᾱ) ε  ~ N(√ᾱ μ, v),  v = ᾱ s² + 1 − ᾱ          ε* = √(1−ᾱ) (x_t − √ᾱ μ)/v
    VE   x   = x_0 + σ z           ~ N(μ, s² + σ²)                           score* = −(x − μ)/(s² + σ²)

ε* = E[ε | x_t] is what a network trained without error would say. This is the oracle of the tests: a
sampler that is wrong on it is wrong. Levels come in as numbers (ᾱ, σ); a schedule only as an object with
`at(t)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from einops import einsum
from torch import Tensor

from palimpsest.arguments import ArgumentError

Prompt = str | Sequence[str]  # one for all pictures, or one each


class GaussianWorld:
    """means: prompt → μ (c y x). std: s > 0, one number for every prompt or a number per prompt.

    The empty prompt "" is the unconditional distribution, a *single* Gaussian so that ε* stays closed.
    Unless given among the means, it has the mean and per-pixel variance of the even mixture of all
    prompts: the average s² plus the variance of the means. Kept in float64, answered in the dtype and on
    the device of the pictures asked about. Raises ValueError for no means, unequal shapes, or a std that
    is missing or not positive."""

    def __init__(self, means: Mapping[str, Tensor], std: float | Mapping[str, float]):
        if not means or len({m.shape for m in means.values()}) != 1:
            raise ArgumentError(
                "means", "must hold at least one prompt, all with pictures of one shape (c y x)"
            )
        stds = dict(std) if isinstance(std, Mapping) else dict.fromkeys(means, std)
        if stds.keys() != means.keys() or not all(s > 0 for s in stds.values()):
            raise ArgumentError(
                "std", f"must be positive, one number or one for each of {list(means)}, got {std!r}"
            )
        mu = torch.stack([m.double().cpu() for m in means.values()])
        var = torch.stack([torch.full_like(m, stds[p] ** 2) for p, m in zip(means, mu)])
        self.prompts = list(means)
        if "" not in means:
            self.prompts.append("")
            var = torch.cat([var, (var + (mu - mu.mean(0)) ** 2).mean(0, keepdim=True)])
            mu = torch.cat([mu, mu.mean(0, keepdim=True)])
        self.mu, self.var = mu, var  # (p c y x), p prompts

    # ---- text ----

    def embed(self, prompts: Prompt) -> Tensor:
        """Contexts (b l d) with l = 1: one-hot over the known prompts, float64. ValueError names an
        unknown one.

        Between the rows the world is defined too: a context that mixes prompts mixes μ and s², so ∅ can
        be optimised."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        for p in prompts:
            if p not in self.prompts:
                raise ValueError(f"unknown prompt {p!r}: this world knows {self.prompts}")
        return torch.eye(len(self.prompts), dtype=torch.float64)[
            [self.prompts.index(p) for p in prompts], None
        ]

    def moments(self, ctx: Prompt | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """μ and s² of x_0 as (b c y x), in the dtype and on the device of `like`. ctx: prompts or
        contexts (b 1 d).
        """
        ctx = (ctx if isinstance(ctx, Tensor) else self.embed(ctx)).to(like)
        mu, var = (einsum(ctx, m.to(like), "b l p, p c y x -> b c y x") for m in (self.mu, self.var))
        return mu, var

    # ---- what a perfect network says ----

    def eps(self, x_t: Tensor, abar: float, ctx: Prompt | Tensor = "") -> Tensor:
        """ε*(x_t) = √(1−ᾱ) (x_t − √ᾱ μ)/(ᾱ s² + 1 − ᾱ), VP state (b c y x) of level ᾱ."""
        mu, var = self.moments(ctx, x_t)
        return (1 - abar) ** 0.5 * (x_t - abar**0.5 * mu) / (abar * var + (1 - abar))

    def score(self, x: Tensor, sigma: float, ctx: Prompt | Tensor = "") -> Tensor:
        """∇ log p_σ(x) = −(x − μ)/(s² + σ²), VE state (b c y x) of level σ."""
        mu, var = self.moments(ctx, x)
        return -(x - mu) / (var + sigma**2)

    def denoiser(self, prompt: Prompt, sched) -> Callable[[Tensor, float], Tensor]:
        """(x_t, t) → ε* for a prompt; `sched` is anything with at(t) → ᾱ_t."""
        return lambda x_t, t: self.eps(x_t, sched.at(t), prompt)

    def text_denoiser(self, sched) -> Callable[[Tensor, float, Tensor], Tensor]:
        """(x_t, t, ctx) → ε*: the shape of a text-conditional network; contexts come from `embed`."""
        return lambda x_t, t, ctx: self.eps(x_t, sched.at(t), ctx)

    # ---- truth ----

    def sample(self, z: Tensor, ctx: Prompt | Tensor = "") -> Tensor:
        """Pictures x_0 = μ + s z, from z ~ N(0, I) (b c y x)."""
        mu, var = self.moments(ctx, z)
        return mu + var.sqrt() * z

    def flow(self, x_t: Tensor, abar_t: float, abar_s: float, ctx: Prompt | Tensor = "") -> Tensor:
        """Where the probability-flow ODE carries x_t from level ᾱ_t to ᾱ_s: √ᾱ_s μ + √(v_s/v_t) (x_t −
        √ᾱ_t μ).
        """
        mu, var = self.moments(ctx, x_t)
        v_t, v_s = (a * var + (1 - a) for a in (abar_t, abar_s))
        return abar_s**0.5 * mu + (v_s / v_t).sqrt() * (x_t - abar_t**0.5 * mu)

    def ve_flow(self, x: Tensor, sigma: float, sigma_next: float, ctx: Prompt | Tensor = "") -> Tensor:
        """The same flow for a VE state, level σ to σ': μ + √((s² + σ'²)/(s² + σ²)) (x − μ)."""
        mu, var = self.moments(ctx, x)
        return mu + ((var + sigma_next**2) / (var + sigma**2)).sqrt() * (x - mu)

    def ddim(self, x_t: Tensor, abars: Sequence[float], ctx: Prompt | Tensor = "") -> Tensor:
        """What deterministic DDIM makes of x_t along the levels `abars`, step errors and all.

        A step a → a' multiplies x − √ᾱ μ by (√(a a') s² + √((1−a)(1−a')))/(a s² + 1 − a); many small ones
        make `flow`."""
        mu, var = self.moments(ctx, x_t)
        gain = torch.ones_like(var)
        for a, b in pairwise(abars):
            gain = gain * ((a * b) ** 0.5 * var + ((1 - a) * (1 - b)) ** 0.5) / (a * var + (1 - a))
        return abars[-1] ** 0.5 * mu + gain * (x_t - abars[0] ** 0.5 * mu)

    def sdedit(self, guide: Tensor, sigma: float, ctx: Prompt | Tensor = "") -> tuple[Tensor, Tensor]:
        """Mean and variance (b c y x) of SDEdit's output: guide + σ z, then the exact reverse SDE down to 0.

        x_0 given x is N(μ + k (x − μ), k σ²) with k = s²/(s² + σ²); averaging over x ~ N(guide, σ²) gives
        mean μ + k (guide − μ) and variance k σ² + k² σ² = s²σ²(2s² + σ²)/(s² + σ²)².
        VP: the same, with σ = √((1−ᾱ)/ᾱ) at t0.
        """
        mu, var = self.moments(ctx, guide)
        k = var / (var + sigma**2)
        return mu + k * (guide - mu), (k * (1 + k) * sigma**2).expand_as(guide)
