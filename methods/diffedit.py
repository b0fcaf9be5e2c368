"""DiffEdit: Diffusion-based Semantic Image Editing with Mask Guidance (Couairon et al., arXiv:2210.11427v1).

The model is asked twice what noise it sees in the picture, under a text that describes the picture and under
one that describes the wish. Where the answers differ is where to edit; elsewhere the picture's own DDIM
encoding is put back at every step.

    Step 1: mask     for n noises: x_t ← √ᾱ x_0 + √(1−ᾱ) z at t = level · T;  Δ ← ε(x_t | Q) − ε(x_t | R)
                     D ← mean |Δ|;  M ← [D, its extremes removed and rescaled to [0, 1], > threshold]
    Step 2: encode   x_r … x_0 ← DDIM inversion of x_0 under ∅, up to the ratio r
    Step 3: decode   y_r ← x_r;  for t → s down to 0:
                       y_s ← DDIM step with ε(y_t | Q), guidance w
                       y_s ← M y_s + (1 − M) x_s, of the same level

    paper        code                                  paper        code
    Q, R         target, source ("" is ∅)              r            ratio
    M            cells (latents), pixels               x_t, y_t     encoded, path
    Δ, D         delta, D                              w            w

Numbers of equations are those of NOTATION.md; "Sec." and "Prop." are the paper's.

Why the mask of a background edit comes out inverted. As ε = (x_t − √ᾱ x̂_0)/√(1−ᾱ), D is √(ᾱ/(1−ᾱ))
|x̂_0(Q) − x̂_0(R)|: it is large where the *text* changes the predicted picture. A flat background of N
cells has one colour, of prior variance v, so all N noisy cells together show it, and the text changes the
prediction by only (1−ᾱ)/(N ᾱ v + 1 − ᾱ) of the difference between the captions. A cell of an object is
predicted from few cells and follows the text. The mend: raise `MaskRule.level` (at ᾱ → 0 the fraction is
1), or give a mask. Where more than 2/3 of the picture should change, leave `clamp` at "quantile" (see
`heat_map`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import einops
import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.arguments import (
    ArgumentError,
    Count,
    Else,
    Hint,
    Interval,
    Mask,
    Picture,
    Positive,
    Rounds,
    Seed,
    Share,
    Texts,
    check,
    one_each,
    settled,
)
from palimpsest.methods.inputs import check_mask, given_mask, given_picture, latent_mask
from palimpsest.methods.sampling import TOP, times_below
from palimpsest.metrics.mask import dilate
from palimpsest.samplers.convert import eps_from_x0, q_sample, x0_from_eps
from palimpsest.samplers.ddim import invert
from palimpsest.samplers.guidance import Denoiser
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.samplers.solvers import DDIM, Noise, Step
from palimpsest.weights.counting import counted
from palimpsest.weights.model import Model

Clamp = Literal["quantile", "mean"]
Reduce = Literal["mean_abs", "abs_mean"]
Blend = Literal["level", "x0"]
Threshold = Annotated[float, Interval(0, 1, open_high=True), Hint("cells with heat above it are edited")]
Quantile = Annotated[float, Interval(0.5, 1, open_low=True), Hint("extremes are cut at this quantile")]

Ratio = Annotated[Share, Hint("the paper takes 0.8")]
Guidance = Annotated[Positive, Hint("at 0 the target says nothing")]


@dataclass(frozen=True)
class MaskRule:
    """How step 1 makes a mask of two texts, in the order of its work. ArgumentError for an unusable value."""

    level: Annotated[Share, Hint("the paper takes 0.5")] = 0.5  # how much noise, as a share of T
    maps: Count = 10  # noises to average over
    reduce: Reduce = "mean_abs"  # how they are averaged, see `difference`
    clamp: Clamp = "quantile"  # how extremes are removed, see `heat_map`
    q: Quantile = 0.97  # clamp="quantile": cut at this quantile, and at its counterpart below
    r: Positive = 3.0  # clamp="mean": cut at r times the mean
    # cells with heat above it are edited: lower edits more
    threshold: Annotated[Threshold | None, Else(0.5)] = None
    grow: Annotated[Rounds | None, Else(0)] = None  # widen the mask by so many latent cells

    def __post_init__(self) -> None:
        check(MaskRule, vars(self))

    def settled(self, model: Model) -> MaskRule:
        """The same, with what the model recommends for None."""
        return replace(self, **settled(MaskRule, model.recommended, vars(self)))


@dataclass(frozen=True)
class Ablation:
    """What the paper changes to see what each part is worth. ArgumentError for an unusable value."""

    use_mask: bool = True  # False edits everywhere: Encode-Decode
    encode: bool = True  # False noises the picture instead, with one noise; use_mask=False too is SDEdit
    blend: Blend = "level"  # "x0" mixes the predictions of x_0, as GLIDE does, see `inpainting_denoiser`
    iterations: Rounds = 0  # of fixed-point encoding, see samplers.ddim.invert

    def __post_init__(self) -> None:
        check(Ablation, vars(self))


class FoundMask(NamedTuple):
    """What `find_mask` gives back."""

    heat: Tensor | None  # (b, 1, y', x') in [0, 1]: before the threshold; None where no mask was looked for
    cells: Tensor  # (b, 1, y', x') of 0 and 1: the mask on the latent grid
    pixels: Tensor  # (b, 1, y, x) of 0 and 1: the mask of the picture, 1 = edit here


class DiffEdit(NamedTuple):
    """What `diffedit` gives back. Pictures (b, 3, y, x) in [−1, 1]; latents (b c y' x')."""

    picture: Tensor  # the edit, kept pixels pasted back
    raw: Tensor  # the edit as decoded, before pasting
    mask: Tensor  # (b, 1, y, x), 1 = edited: found, or the one that was given
    cells: Tensor  # (b, 1, y', x'): the same on the latent grid
    heat: Tensor | None  # (b, 1, y', x') in [0, 1]: before the threshold; None if no mask was looked for
    encoded: list[Tensor]  # the picture on its way up: encoded[n] at levels[n], the last is x_0
    path: list[Tensor]  # the walk down, at the same levels
    levels: list[int]  # the schedule's times t, falling to 0
    calls: int  # network evaluations per picture, two for each guided call
    empty: list[int]  # pictures that came back as they were: the texts differ nowhere enough


def diffedit(
    model: Model,
    x: Picture,
    source: Texts = "",  # what the picture shows, or nothing
    target: Texts = "",  # what it should show
    *,
    mask: Mask | None = None,  # one's own, (b or 1, 1, y, x), 1 = edit here (None: it is found)
    rule: MaskRule = MaskRule(),  # how it is found
    ratio: Annotated[Ratio | None, Else(0.8)] = None,  # how far to encode (at most TOP): higher edits more
    # of the whole time, of which ratio · steps are walked
    steps: Annotated[Count | None, Else(50)] = None,
    w: Annotated[Guidance | None, Else(3.0)] = None,  # of the walk down
    step: Step = DDIM(),  # of the walk down
    ablation: Ablation = Ablation(),
    seed: Seed = 0,  # picture i draws from seed + i
) -> DiffEdit:
    """Edit the pictures x, described by `source`, into what `target` says, where the two texts disagree.

    ratio, steps, w, and the rule's threshold and grow: None takes what the model recommends, else 0.8, 50, 3,
    0.5 and 0. The paper takes w 5 on ImageNet and 7.5 on Stable Diffusion; # ours: 3. Where the texts are the
    same, the mask is empty, `empty` says so, and the picture comes back bit for bit. Raises ArgumentError for
    an argument that makes no sense, with the mend.
    """
    check(diffedit, locals())
    ratio, steps, w = model.settle(diffedit, dict(ratio=ratio, steps=steps, w=w))
    if mask is not None and not ablation.use_mask:
        raise ArgumentError("mask", "would do nothing as use_mask is off; leave one of the two out")
    x = given_picture(model, x, "x")
    R, Q = both_texts(source, target, len(x))
    walked = max(1, round(ratio * steps))
    times = times_below(model.schedule, walked, ratio, "ratio")

    with counted(model, len(x)) as evaluations:
        # Step 1: find where the texts disagree. # Sec. 3.2
        x_0 = model.encode(x)
        if mask is not None:
            pixels = check_mask(given_mask(model, mask), x, "take Ablation(use_mask=False)")
            found = FoundMask(None, latent_mask(pixels, x_0), pixels)
        elif ablation.use_mask:
            found = mask_of(model, x, x_0, R, Q, rule, seed)
        else:
            found = FoundMask(None, torch.ones_like(x_0[:, :1]), torch.ones_like(x[:, :1]))

        # Step 2: encode the picture, without a text. # Eq. (19); official code: ε_θ(x_s, t), see `invert`
        rng = Rng.of(seed, len(x))
        z = rng.randn(x_0.shape, x_0)  # drawn in any case, so that all ablations share the later noises
        if ablation.encode:
            encoded = invert(model.denoiser(""), model.schedule, x_0, times, iterations=ablation.iterations)
        else:
            encoded = [q_sample(model.schedule, x_0, t, z) for t in times]

        # Step 3: decode under the target, and keep what is outside of the mask. # Eq. (7), Eq. (10)
        eps, noise = model.denoiser(Q, w), partial(rng.randn, x_0.shape, x_0)
        path = decode(eps, model.schedule, encoded, times, found.cells, ablation.blend, step, noise)

    raw = model.decode(path[-1])
    picture = torch.where(found.pixels > 0, raw.to(x), x)  # to the bit
    calls = int(evaluations.each.max())
    empty = (~found.cells.flatten(1).any(1)).nonzero().flatten().tolist()
    return DiffEdit(picture, raw, found.pixels, found.cells, found.heat, encoded, path, times, calls, empty)


def both_texts(source: Texts, target: Texts, n: int) -> tuple[Sequence[str] | str, Sequence[str] | str]:
    """Source and target, one for each of n pictures; both "" where no text says anything.

    Both have one shape, so that equal texts are answered alike to the bit.
    """
    R, Q = one_each("source", source, n), one_each("target", target, n)
    return (R, Q) if any(R + Q) else ("", "")


# ---- step 1: where the two texts disagree ----


def find_mask(
    model: Model,
    x: Picture,
    source: Texts = "",
    target: Texts = "",
    *,
    rule: MaskRule = MaskRule(),
    seed: Seed = 0,
) -> FoundMask:
    """Where the pictures x have to change for `target` to hold instead of `source`. # Sec. 3.2, Step 1

    The mask that `diffedit` finds with the same arguments; draw on `pixels` and give them to it as `mask`.
    """
    check(find_mask, locals())
    x = given_picture(model, x, "x")
    R, Q = both_texts(source, target, len(x))
    return mask_of(model, x, model.encode(x), R, Q, rule, seed)


def mask_of(
    model: Model,
    x: Tensor,
    x_0: Tensor,
    R: Sequence[str] | str,
    Q: Sequence[str] | str,
    rule: MaskRule,
    seed: int,
) -> FoundMask:
    """`find_mask` for pictures x whose latents x_0 are known already."""
    rule, rng = rule.settled(model), Rng.of(seed, len(x_0))
    rng.randn(x_0.shape)  # the first noise of each picture is that of the walk
    noises = (rng.randn(x_0.shape, x_0) for _ in range(rule.maps))
    t = max(1, round(min(rule.level, TOP) * model.schedule.T))
    D = difference(model.denoiser(Q), model.denoiser(R), model.schedule, x_0, t, noises, rule.reduce)
    heat = heat_map(D, rule.clamp, rule.q, rule.r)
    cells = dilate((heat > rule.threshold).to(x_0), rule.grow)
    return FoundMask(heat, cells, F.interpolate(cells, x.shape[-2:]).to(x))  # the nearest cell


def difference(
    eps_q: Denoiser,
    eps_r: Denoiser,
    sched: Schedule,
    x_0: Tensor,
    t: int,
    noises: Iterable[Tensor],
    reduce: Reduce = "mean_abs",
) -> Tensor:
    """D (b 1 y x), float64: how differently two texts see each cell of x_0 (b c y x), noised to t.

    reduce: "mean_abs" averages |Δ| over the noises and the channels; "abs_mean" averages the signed Δ over
    the noises first, so that what is noise in Δ cancels. The noises must differ: n equal ones are one noise.
    There is no guidance: it would multiply Δ by w, and `heat_map` divides by the scale again.
    # unstated: the paper averages "spatial differences".
    """
    check(difference, locals())
    x_ts = (q_sample(sched, x_0, t, z) for z in noises)
    delta = torch.stack([eps_q(x_t, t).double() - eps_r(x_t, t).double() for x_t in x_ts])  # (n b c y x)
    delta = delta.abs() if reduce == "mean_abs" else delta.mean(0, keepdim=True).abs()
    return einops.reduce(delta, "n b c y x -> b 1 y x", "mean")


def heat_map(D: Tensor, clamp: Clamp = "quantile", q: Quantile = 0.97, r: Positive = 3.0) -> Tensor:
    """D (b 1 y x) without its extremes, rescaled to [0, 1], each picture on its own; 0 where D is constant.

    clamp="quantile", ours: D is cut at its (1−q)- and its q-quantile, so the threshold is a share of a
    large difference, whatever the picture's mean. clamp="mean": D is cut at r D̄, so heat > θ means D > θ
    r D̄, at the defaults D > 1.5 D̄: a wide halo around a small thing, and never more than 2/3 of the
    picture. Which of the two meets the true change better is measured by `python -m palimpsest.claims
    C17`.
    # unstated: how extremes are removed. official code: diffusers has r = 3 too, with one mean for the whole
    batch; where D = 0 it marks everything, by NaN.
    """
    check(heat_map, locals())
    low, high = torch.zeros_like(D[..., :1, :1]), r * D.mean((1, 2, 3), keepdim=True)
    if clamp == "quantile":
        ends = torch.tensor([1 - q, q], dtype=D.dtype, device=D.device)
        low, high = einops.rearrange(torch.quantile(D.flatten(1), ends, dim=1), "two b -> two b 1 1 1")
    return torch.where(high > low, (D.clamp(low, high) - low) / (high - low), 0.0)


# ---- step 3: decode under the mask ----


def decode(
    eps: Denoiser,
    sched: Schedule,
    encoded: Sequence[Tensor],
    times: Sequence[int],
    mask: Tensor,
    blend: Blend = "level",
    step: Step = DDIM(),
    noise: Noise | None = None,
) -> list[Tensor]:
    """Down from encoded[0], kept to the encoded latents (b c y x) where the mask (b 1 y x) is 0.

    Returns the path: path[n] at times[n]. blend="level": M y_s + (1 − M) x_s after each step. The last of
    `encoded` is x_0, and so is the result where M = 0, to the bit. official code: diffusers' lags a level,
    and ends beside x_0. blend="x0": see `inpainting_denoiser`; what is kept is x_0 with noise in
    it, until the last step. noise: for a random step.
    """
    check(decode, locals())
    eps = eps if blend == "level" else inpainting_denoiser(eps, sched, encoded[-1], mask)
    path = [encoded[0]]
    for (t, s), x_s in zip(pairwise(times), encoded[1:], strict=True):
        y_s = step(sched, path[-1], eps, t, s, noise)  # Eq. (10)
        if blend == "level":
            y_s = mask * y_s + (1 - mask) * x_s  # Eq. (10): y~
        path.append(y_s)
    return path


def inpainting_denoiser(eps: Denoiser, sched: Schedule, x_0: Tensor, mask: Tensor) -> Denoiser:
    """The denoiser whose predicted x_0 is M x̂_0 + (1 − M) x_0, as GLIDE inpaints (arXiv:2112.10741v3)."""

    def denoise(y_t: Tensor, t: float) -> Tensor:
        predicted = x0_from_eps(sched, y_t, t, eps(y_t, t))
        return eps_from_x0(sched, y_t, t, mask * predicted + (1 - mask) * x_0)

    return denoise


# ---- how far from the input an edit can land ----


def noising_bound(tau: float, C: float) -> float:
    """E‖x_0 − D_r(G_r(x_0, ε), Q)‖ ≤ (C + 1) τ: noised as in SDEdit, then decoded. # Eq. (11), first; Prop. 1

    τ = √(1/ᾱ_r − 1) is sched.sigma(t); C bounds ‖ε_θ‖. All norms are root mean squares, so ‖ε‖ is about 1.
    """
    return (C + 1) * tau  # τ ‖ε‖ on the way up, at most C τ down


def encoding_bound(tau: float, K1: float, K2: float) -> float:
    """E‖x_0 − D_r(E_r(x_0), Q)‖ ≤ K2 ∫_0^τ (s + √(s²+1))^{K1} ds: encoded, then decoded. # Eq. (11), second

    Both walks have fine steps. K1: Lipschitz constant of ε(·, ∅); K2: E max_t ‖ε(·, Q) − ε(·, ∅)‖.

    # ours: the integral. In u = x/√ᾱ a walk is du/ds = ε(u/√(s²+1)), so the distance δ of two walks grows by
    dδ/ds ≤ K1 δ/√(s²+1) + K2, and Grönwall's lemma gives the integral. It is attained in one dimension by
    ε_∅ = −K1 x, ε_Q = −K1 x + K2. With s = sinh v and V = asinh τ it is
    ½ [(e^{(K1+1)V} − 1)/(K1+1) + (e^{(K1−1)V} − 1)/(K1−1)], times K2.
    """
    V = math.asinh(tau)
    return K2 / 2 * sum(math.expm1(k * V) / k if k else V for k in (K1 + 1, K1 - 1))


def printed_encoding_bound(tau: float, K1: float, K2: float) -> float:
    """K2 τ/√(τ²+1) (τ + √(τ²+1))^{K1}, the second bound as printed: too small for large τ. # Eq. (11)"""
    return K2 * tau / math.hypot(tau, 1) * (tau + math.hypot(tau, 1)) ** K1
