"""DiffEdit: Diffusion-based Semantic Image Editing with Mask Guidance (Couairon et al., arXiv:2210.11427v1).

The model is asked twice what noise it sees in the picture, under a text that describes it and under one
that describes the wish. Where the answers differ is where to edit; elsewhere the picture's own DDIM
encoding is put back at every step.

    1  for n noises: x_t ← √ᾱ x_0 + √(1−ᾱ) z  at half noise;  Δ ← ε(x_t | Q) − ε(x_t | R)                (Step 1: mask)
    2  D ← mean |Δ|;  M ← [D, its extremes removed and rescaled to [0, 1], > threshold]
    3  x_r … x_0 ← DDIM inversion of x_0 under ∅, up to the ratio r                                      (Step 2: encode)
    4  y_r ← x_r;  for t → s down to 0:                                                                  (Step 3: decode)
    5    y_s ← DDIM step with ε(y_t | Q), guidance w;  y_s ← M y_s + (1 − M) x_s, of the same level

    paper        code                              paper        code
    Q, R         target, source ("" is ∅)          r            ratio; steps is of the whole time, ratio · steps are walked
    M            mask (pixels), cells (latents)    x_t, y_t     encoded, path

What the mask shows. ε = (x_t − √ᾱ x̂_0)/√(1−ᾱ), so D = √(ᾱ/(1−ᾱ)) |x̂_0(Q) − x̂_0(R)|: it marks where the
*text* still moves the model's guess at the picture, not where the picture has to change. Of a flat
background of N cells the noise leaves little open: its colour, of prior variance s², is an average over
them all, and the text moves the guess by only (1−ᾱ)/(N ᾱ s² + 1 − ᾱ) of the captions' difference. An
object's own cells are guessed one by one and follow any change of the text. So the mask of a background
edit comes out inverted. Raise `level` (at ᾱ → 0 the fraction is 1), or give your own mask; and where more
than 2/3 of the picture should change, leave the clamp at "quantile" (see `heat_map`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from numbers import Integral
from typing import NamedTuple

import einops
import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.arguments import one_each
from palimpsest.methods.inputs import check_mask, latent_mask
from palimpsest.methods.sampling import TOP, times_below
from palimpsest.metrics.mask import dilate
from palimpsest.samplers.convert import eps_from_x0, q_sample, x0_from_eps
from palimpsest.samplers.ddim import ddim_step, invert
from palimpsest.samplers.guidance import Denoiser
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.model import Model


class DiffEdit(NamedTuple):
    """What `diffedit` gives: pictures (b, 3, y, x) in [−1, 1]; masks of 0 and 1; latents (b c y' x')."""

    picture: Tensor  # the edit, kept pixels pasted back
    raw: Tensor  # the edit as decoded, before pasting
    mask: Tensor  # (b, 1, y, x), 1 = edited: found, or the one that was given
    cells: Tensor  # (b, 1, y', x'): the same, as the walk used it
    heat: Tensor | None  # (b, 1, y', x') in [0, 1]: before the threshold; None if none was found
    encoded: list[Tensor]  # the picture on its way up: encoded[n] at levels[n], the last is x_0
    path: list[Tensor]  # the walk down, at the same levels
    levels: list[int]  # the schedule's times t, falling to 0
    calls: int  # network evaluations per picture, two for each guided step
    empty: list[int]  # pictures that came back as they were: the texts differ nowhere enough


def diffedit(
    model: Model,
    x: Tensor,
    source: str | Sequence[str] = "",
    target: str | Sequence[str] = "",
    *,
    mask: Tensor | None = None,
    ratio: float = 0.8,
    steps: int = 50,
    w: float = 3.0,
    maps: int = 10,
    level: float = 0.5,
    threshold: float = 0.5,
    clamp: str = "quantile",
    q: float = 0.97,
    r: float = 3.0,
    reduce: str = "mean_abs",
    grow: int = 0,
    encode: bool = True,
    use_mask: bool = True,
    blend: str = "level",
    iterations: int = 0,
    paste: bool = True,
    seed: int = 0,
) -> DiffEdit:
    """Edit pictures x (b, 3, y, x) in [−1, 1], described by `source` or by nothing, into what `target` says.

    ratio in (0, 1]: how far to encode; steps: of the whole time, of which ratio · steps are walked. w:
    guidance of the walk down (# ours: 3; the paper 5 on ImageNet, 7.5 on Stable Diffusion). mask: your
    own, (b or 1, 1, y, x), 1 = edit here. The found mask: maps, level, reduce: see `difference`; clamp,
    q, r: see `heat_map`; it is `heat` > threshold, and `grow` widens it by so many latent cells.
    iterations: of fixed-point encoding. seed: picture i draws from seed + i.

    The paper's ablations: use_mask=False edits everywhere (Encode-Decode); encode=False noises the
    picture instead, with one noise for all levels (SDEdit with a mask); both: SDEdit. blend="x0" mixes
    x̂_0 as GLIDE does, see `decode`. Where the texts are the same the mask is empty, `empty` says so, and
    the picture comes back to the bit. Raises ValueError for an argument that makes no sense, with the
    mend."""
    for name, value, known in (
        ("clamp", clamp, ("mean", "quantile")),
        ("reduce", reduce, ("mean_abs", "abs_mean")),
        ("blend", blend, ("level", "x0")),
    ):
        if value not in known:
            raise ValueError(f"{name}: must be {' or '.join(known)}, got {value!r}")
    for name, value, usual in (("ratio", ratio, 0.8), ("level", level, 0.5)):
        if not 0 < value <= 1:  # also refuses NaN
            raise ValueError(f"{name}: must lie in (0, 1], got {value}; the paper takes {usual}")
    for name, value in (("steps", steps), ("maps", maps)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name}: must be a whole number of at least 1, got {value}")
    for name, value, fits, wanted in (
        ("threshold", threshold, 0 <= threshold < 1, "lie in [0, 1): what of the heat map is edited"),
        ("r", r, 0 < r < math.inf, "be above 0: the mean clamp cuts at r times the mean"),
        ("q", q, 0.5 < q <= 1, "lie in (0.5, 1]: the quantile at which extremes are cut"),
        ("grow", grow, grow >= 0, "be 0 or more latent cells"),
        ("w", w, 0 < w < math.inf, "be above 0 and finite: at 0 the target says nothing"),
        ("iterations", iterations, iterations >= 0, "be 0 (plain DDIM inversion) or more"),
    ):
        if not fits:
            raise ValueError(f"{name}: must {wanted}, got {value}")
    if mask is not None and not use_mask:
        raise ValueError("use_mask: is off, so a mask would do nothing; leave one of the two out")
    x = x.to(model.device)
    given = None if mask is None else check_mask(mask, x, "take use_mask=False")
    R, Q = (one_each(name, value, len(x)) for name, value in (("source", source), ("target", target)))
    R, Q = (R, Q) if any(R + Q) else ("", "")  # of one shape, so equal texts answer to the bit
    sched, walked = model.schedule, max(1, round(ratio * steps))
    times = times_below(sched, walked, ratio, "ratio")
    rng, x_0 = Rng.of(seed, len(x)), model.encode(x)
    z = rng.randn(x_0.shape, x_0)  # drawn in every ablation: they share the mask

    heat, cells = None, torch.ones_like(x_0[:, :1])
    if given is not None:
        cells = latent_mask(given, x_0)
    elif use_mask:  # Step 1
        noises = (rng.randn(x_0.shape, x_0) for _ in range(maps))
        t = max(1, round(min(level, TOP) * sched.T))
        heat = heat_map(
            difference(model.denoiser(Q), model.denoiser(R), sched, x_0, t, noises, reduce), clamp, q, r
        )
        cells = dilate((heat > threshold).to(x_0), grow)

    if encode:  # Step 2
        encoded = invert(model.denoiser(""), sched, x_0, times, iterations=iterations)  # Eq. (19)
    else:
        encoded = [q_sample(sched, x_0, t, z) for t in times]
    path = decode(model.denoiser(Q, w), sched, encoded, times, cells, blend)  # Step 3

    raw = model.decode(path[-1])
    pixels = F.interpolate(cells, x.shape[-2:]).to(x) if given is None else given  # nearest
    picture = torch.where(pixels > 0, raw.to(x), x) if paste else raw  # to the bit
    calls = (
        2 * maps * (heat is not None)
        + walked * (1 + iterations) * encode
        + walked * (1 if w in (0, 1) else 2)
    )
    empty = (~cells.flatten(1).any(1)).nonzero().flatten().tolist()
    return DiffEdit(picture, raw, pixels, cells, heat, encoded, path, times, calls, empty)


# --------------------------------------------------------------------------- step 1: where the two texts disagree


def difference(
    eps_q: Denoiser,
    eps_r: Denoiser,
    sched: Schedule,
    x_0: Tensor,
    t: int,
    noises: Iterable[Tensor],
    reduce: str = "mean_abs",
) -> Tensor:
    """D: how differently two texts see each cell of x_0 (b c y x), noised to t by each noise. (b 1 y x),
    float64.

    reduce: "mean_abs" averages |Δ| over the noises and the channels; "abs_mean" averages the signed Δ over the noises
    first, which lets what is noise in Δ cancel.                           # unstated: "average spatial differences"
    The noises must differ: n equal ones are one noise. No guidance: it would multiply Δ by w, and `heat_map` divides.
    """
    x_ts = (q_sample(sched, x_0, t, z) for z in noises)
    delta = torch.stack([eps_q(x_t, t).double() - eps_r(x_t, t).double() for x_t in x_ts])  # (n b c y x)
    delta = delta.abs() if reduce == "mean_abs" else delta.mean(0, keepdim=True).abs()
    return einops.reduce(delta, "n b c y x -> b 1 y x", "mean")


def heat_map(D: Tensor, clamp: str = "quantile", q: float = 0.97, r: float = 3.0) -> Tensor:
    """D (b 1 y x) without its extremes, rescaled to [0, 1], each picture on its own. Where D says nothing, 0.

    # unstated: how extremes are removed.
    "quantile", ours: D between its (1−q)- and q-quantile. θ is then a share of a large difference, whatever the picture's mean.
    "mean": clamp(D, 0, r D̄)/(r D̄), so that heat > θ means D > θ r D̄: at θ = ½, D > (r/2) D̄. With r = 3 it marks what is
    half as much again as the mean: a great halo around a small thing, and never more than 2/3 of the picture; a larger r marks
    less, and from r = 2 max D/D̄ on, nothing. (diffusers: r = 3 too, with one mean for the whole batch; D = 0 marks everything, by NaN.)
    Which masks meet the true change better is measured: `python -m palimpsest.claims C17`, and its record has both rules.
    """
    low, high = torch.zeros_like(D[..., :1, :1]), r * D.mean((1, 2, 3), keepdim=True)
    if clamp == "quantile":
        ends = torch.tensor([1 - q, q], dtype=D.dtype, device=D.device)
        low, high = einops.rearrange(torch.quantile(D.flatten(1), ends, dim=1), "two b -> two b 1 1 1")
    return torch.where(high > low, (D.clamp(low, high) - low) / (high - low), 0.0)


# --------------------------------------------------------------------------- step 3: decode under the mask


def decode(
    eps: Denoiser,
    sched: Schedule,
    encoded: Sequence[Tensor],
    times: Sequence[int],
    mask: Tensor,
    blend: str = "level",
) -> list[Tensor]:
    """DDIM down from encoded[0], kept to the encoded latents (b c y x) where mask (b 1 y x) is 0; path[n]
    at times[n].

    blend="level": M y_s + (1 − M) x_s after each step. The last of `encoded` is x_0, and so is the result where M = 0, to
    the bit.                                                               # official code: diffusers' lags a level, and
    ends beside x_0. blend="x0", as GLIDE inpaints (arXiv:2112.10741v3): M x̂_0 + (1 − M) x_0 *in* each step, and ε read off
    again; what is kept is then x_0 with noise in it, until the last step.
    """
    path = [encoded[0]]
    for (t, s), x_s in zip(pairwise(times), encoded[1:], strict=True):
        y_t = path[-1]
        eps_hat = eps(y_t, t)
        if blend == "x0":
            eps_hat = eps_from_x0(
                sched, y_t, t, mask * x0_from_eps(sched, y_t, t, eps_hat) + (1 - mask) * encoded[-1]
            )
        y_s = ddim_step(sched, y_t, eps_hat, t, s)  # Eq. (10)
        if blend == "level":
            y_s = mask * y_s + (1 - mask) * x_s  # Eq. (10): y~
        path.append(y_s)
    return path


# --------------------------------------------------------------------------- how far from the input an edit can land


def noising_bound(tau: float, C: float) -> float:
    """E‖x_0 − D_r(G_r(x_0, ε), Q)‖ ≤ (C + 1) τ: noised (SDEdit), then decoded. # Eq. (11), first;
    Proposition 1

    τ = √(1/ᾱ_r − 1) is sched.sigma(t); C bounds ‖ε_θ‖. All norms are root mean squares, so that ‖ε‖ is
    about 1."""
    return (C + 1) * tau  # τ ‖ε‖ on the way up, at most C τ down


def encoding_bound(tau: float, K1: float, K2: float) -> float:
    """E‖x_0 − D_r(E_r(x_0), Q)‖ ≤ K2 ∫_0^τ (s + √(s²+1))^{K1} ds: encoded, then decoded, both with fine
    steps. # Eq. (11), second

    K1: Lipschitz constant of ε(·, ∅); K2: E max_t ‖ε(·, Q) − ε(·, ∅)‖.
    # ours: the integral. In u = x/√ᾱ the walk is du/ds = ε(u/√(s²+1)), so two of them part by dδ/ds ≤ K1
    # δ/√(s²+1) + K2,
    which Grönwall's lemma adds up to it; ε_∅ = −K1 x, ε_Q = −K1 x + K2 in one dimension attains it. With s = sinh v it is
    ½ [(e^{(K1+1)V} − 1)/(K1+1) + (e^{(K1−1)V} − 1)/(K1−1)], V = asinh τ.
    """
    V = math.asinh(tau)
    return K2 / 2 * sum(math.expm1(k * V) / k if k else V for k in (K1 + 1, K1 - 1))


def printed_encoding_bound(tau: float, K1: float, K2: float) -> float:
    """The second bound as printed, K2 τ/√(τ²+1) (τ + √(τ²+1))^{K1}: too small for large τ, see
    `encoding_bound`. # Eq. (11)
    """
    return K2 * tau / math.hypot(tau, 1) * (tau + math.hypot(tau, 1)) ** K1
