"""Prompt-to-Prompt Image Editing with Cross Attention Control (Hertz et al., arXiv:2208.01626v1).

Where the words look decides the layout of a picture. So two walks go down from the same noise, one under
the source prompt and one under the target prompt, and in the early steps the maps of the source are injected
into the walk of the target:

    Alg. 1
    1  z_T ~ N(0, I) from the seed, or the start of an inversion; z*_T ← z_T
    2  for t = T … 1:
    3    z_{t−1}, M_t ← DM(z_t, P, t)                          the maps of the source
    4    M*_t ← DM(z*_t, P*, t)                                those of the target
    5    M̂_t ← Edit(M_t, M*_t, t)                              (12) replace, (13) refine, (14) re-weight
    6    z*_{t−1} ← DM(z*_t, P*, t) with M ← M̂_t               the values V stay those of the target

    paper        code                              paper        code
    P, P*        source, target                    A(j)         Alignment.index (methods/alignment.py)
    M, M*        m_source, m_target                c, j*        Pair.weights: c by token, 1 where j is not j*
    τ            Injection.cross: the fraction of the steps before t = τ, 1 − τ/T

Both walks are rows of one batch, (2 b): sources, then targets. All attention layers are edited, each head by
itself; the attention under the empty prompt never is. # official code: as here, lines 3 to 6 are one pass of
the network, so that M*_t of a layer is what it is after the edits of the layers before it.

Self-attention is injected too, in fewer steps. # official code: not in the paper

After line 6 a local blend may put the source back where the words do not look (methods/local_blend.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from types import NoneType
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor

from palimpsest.arguments import (
    ArgumentError,
    Count,
    Fraction,
    Mask,
    Picture,
    Scale,
    Seed,
    Texts,
    check,
    one_each,
)
from palimpsest.methods.alignment import Alignment, align
from palimpsest.methods.attention_maps import Watch, from_noise, sites_at
from palimpsest.methods.by_word import (
    Cross,
    injected_steps,
    spans_by_word,
    steps_of,
    token_weights,
    tokens_of,
)
from palimpsest.methods.inputs import check_mask, given_mask, given_picture, latent_mask
from palimpsest.methods.inversion import Inversion, way_down
from palimpsest.methods.local_blend import Blend, blend_mask, blended
from palimpsest.nets.attention import Site, at
from palimpsest.nets.net import sites_of
from palimpsest.weights.model import Model

# ---- Edit(M, M*, t), on maps (… i j) of source and target ----


def replace(m_source: Tensor, m_target: Tensor, mapper: Tensor, inject: Tensor | bool = True) -> Tensor:
    """A word is swapped. mapper: (j_source j_target); inject: whether t ≥ τ, for each target token or all."""
    mapped = einsum(m_source, mapper.to(m_source), "... i js, js jt -> ... i jt")
    return torch.where(torch.as_tensor(inject, device=m_source.device), mapped, m_target)  # Eq. (12)


def refine(m_source: Tensor, m_target: Tensor, index: Tensor, inject: Tensor | bool = True) -> Tensor:
    """Words are added. index: A(j) as (j_target), −1 for none; inject: as in `replace`."""
    shared = torch.as_tensor(inject, device=index.device) & (index >= 0)  # A(j) ≠ None, and t ≥ τ
    mapped = m_source[..., index.clamp(min=0).to(m_source.device)]
    return torch.where(shared.to(m_source.device), mapped, m_target)  # Eq. (13)


def reweight(m: Tensor, c: Tensor) -> Tensor:
    """Words are made stronger or weaker. c: (j), 1 where j is not j*.

    A row of m then sums to 1 + (c − 1) m_j*: nothing is normalised again, as in the paper.
    """
    return m * c.to(m)  # Eq. (14)


# ---- what to edit: as a person says it, and prepared for the walk ----


@dataclass(frozen=True)
class Injection:
    """Which maps the target's walk takes from the source's, in which steps, and how strong its words are.

    A fraction of the steps counts from the noisiest on. By word, `cross` is {"default_": .8, "lion": .4,
    "hat": (.2, .6)}: 80 % of the steps for most words, 40 % for "lion", those from 20 % to 60 % for
    "hat"; a missing default_ is 1. Raises ArgumentError for a value outside its range."""

    edit: Literal["replace", "refine", "auto"] = "auto"  # auto: replace where both prompts have as many words
    cross: Cross = 0.8  # inject cross-attention in this fraction of the steps
    self_: Fraction = 0.4  # inject self-attention in this fraction of the steps
    self_res: Count | None = None  # on maps of at most self_res² cells; None: a quarter of the latent's cells
    weights: Mapping[str, float] | None = None  # {word of the target: c}

    def __post_init__(self):
        check(Injection, vars(self))
        spans_by_word(self.cross)
        for word, c in (self.weights or {}).items():
            if not math.isfinite(c):
                raise ArgumentError(
                    "weights", f'"{word}" must have a finite number, in the paper from -2 to 2, got {c}'
                )


USUAL = Injection()  # official code: the fractions of most of its examples


@dataclass(frozen=True)
class Pair:
    """A source prompt and its target, prepared for a walk: its Edit(M, M*, t), and its local blend.

    Steps are counted from 0, the noisiest; step i goes down from the walk's i-th time t.
    """

    alignment: Alignment
    injected: Tensor  # (steps j) bool: whether t ≥ τ, for each target token
    self_steps: int  # self-attention is injected in the first so many steps …
    self_cells: int  # … on maps of at most so many cells
    weights: Tensor  # (j): c of Eq. (14)
    blend: Blend | None
    blend_start: int  # the first step that is blended
    blend_tokens: tuple[list[int], ...]  # of the blend's source, target and subtract

    @classmethod
    def of(
        cls,
        model: Model,
        source: str,
        target: str,
        injection: Injection = USUAL,
        blend: Blend | None = None,
        *,
        latent: tuple[int, int],  # (y, x) of the latents
        steps: int,  # of the walk
    ) -> Pair:
        """Align the prompts, and find the tokens of every word that is named.

        Raises ArgumentError for a word that is not in its prompt, a replacement between unequal numbers of
        words, and self-attention on maps smaller than any that the net has.
        """
        tokenizer = model.tokenizer
        alignment = align(tokenizer, source, target, injection.edit)
        self_steps = steps_of(injection.self_, steps)
        cells = math.prod(latent) // 4 if injection.self_res is None else injection.self_res**2
        if self_steps and all(math.prod(site.res) > cells for site in model.net.sites(latent)):
            raise ArgumentError(
                "self_res",
                f"no self-attention map has {cells} cells or fewer; raise it, or inject no self-attention",
            )
        words = [(source, blend.source), (target, blend.target), (target, blend.subtract)] if blend else []
        return cls(
            alignment=alignment,
            injected=injected_steps(tokenizer, target, injection.cross, steps),
            self_steps=self_steps,
            self_cells=cells,
            weights=token_weights(tokenizer, target, injection.weights),
            blend=blend,
            blend_start=steps_of(blend.begin, steps) if blend else 0,
            blend_tokens=tuple(
                tokens_of("blend", tokenizer, *prompt_and_words) for prompt_and_words in words
            ),
        )

    def changes(self, site: Site, i: int) -> bool:
        """Whether step i changes the target's attention at this layer."""
        if site.kind == "cross":
            return bool(self.injected[i].any() or (self.weights != 1).any())
        return i < self.self_steps and math.prod(site.res) <= self.self_cells

    def edit(self, m_source: Tensor, m_target: Tensor, site: Site, i: int) -> Tensor:
        """Edit(M_t, M*_t, t) in step i: the maps (h i j) of one layer -> those that the target goes on with.

        # unstated: whether (14) ends at τ; ours: it does not. official code: beyond τ it does not re-weight
        """
        if not self.changes(site, i):
            return m_target
        if site.kind == "self":
            return m_source  # official code
        if self.alignment.edit == "replace":
            m = replace(m_source, m_target, self.alignment.mapper, self.injected[i])  # Eq. (12)
        else:
            m = refine(m_source, m_target, self.alignment.index, self.injected[i])  # Eq. (13)
        return reweight(m, self.weights)  # Eq. (14)

    def mask(self, maps_source: Tensor, maps_target: Tensor, i: int, latent: tuple[int, int]) -> Tensor:
        """Where step i lets the pair differ, by maps (1 y x l): (1 1 y' x'). Without a blend, everywhere."""
        if self.blend is None or i < self.blend_start:
            return torch.ones(1, 1, *latent, device=maps_source.device)
        return blend_mask(maps_source, maps_target, *self.blend_tokens, latent, self.blend)


# ---- the method ----


class Result(NamedTuple):
    """What `prompt_to_prompt` gives, for b pairs. Pictures (b, 3, y, x) in [−1, 1].

    Rows (2 b) are sources, then targets.
    """

    picture: Tensor  # of the target prompts, kept pixels pasted
    raw: Tensor  # the same as decoded
    source_picture: Tensor  # of the source prompts, by the same walk: a walk without targets gives the same
    path: list[Tensor]  # latents (2 b) c y' x', from the start down
    levels: tuple[int, ...]  # the time t of each
    maps: Tensor  # (steps 2b y x l): cross-attention *before* the edit, mean over layers and heads
    alignments: list[Alignment]  # methods.alignment.table shows one
    masks: Tensor | None  # (steps b 1 y' x'): where each step let the pair differ
    mask: Tensor | None  # (b, 1, y, x): of the last step, at the picture's size; what is pasted by


def prompt_to_prompt(
    model: Model,
    source: Texts,
    target: Texts,
    *,
    injection: Injection | Sequence[Injection] = USUAL,  # one for all pairs, or one each
    blend: Blend | Sequence[Blend | None] | None = None,  # likewise
    start: Inversion | None = None,
    pictures: Picture | None = None,
    mask: Mask | None = None,
    steps: Count = 50,
    w: Scale | None = None,
    seed: Seed | Sequence[Seed] = 0,
    paste: bool = True,
) -> Result:
    """Pictures of b source prompts, generated or from an inversion, and what their targets make of them.

    source, target: one prompt for all pairs, or one each. injection: what the targets take from the sources.
    blend: the words outside of whose maps the source stays. start: an inversion under the source prompts
    (any, see methods/inversion.py); without, pair i draws its noise from seed + i, or from the i-th of a list
    of seeds. mask (b or 1, 1, y, x), 1 = edit here: with a blend or without, nothing changes outside of it.
    Outside of blend and mask the result is `pictures` (b, 3, y, x), or the source's picture, bit for bit,
    unless paste=False. steps, seed: of a walk from noise; an inversion has its own, and they are not looked
    at. w: None is what `generate` takes from noise, and else the inversion's own.

    Raises ArgumentError for a word that is not in its prompt, a replacement between unequal numbers of words,
    a fraction outside [0, 1], and whatever else makes no sense.
    """
    check(prompt_to_prompt, locals())
    sources, targets, seeds = texts_and_seeds(source, target, seed, start)
    if start is None:
        start = from_noise(model, sources, steps=steps, w=w, seeds=seeds)  # Alg. 1 l. 1
    check_start(start, sources, w)

    n, steps, latent = len(sources), len(start.times) - 1, tuple(start.finish(start.start).shape[-2:])
    injections = one_each("injection", injection, n, Injection, "pair")
    blends = one_each("blend", blend, n, (Blend, NoneType), "pair")
    sites = sites_of(model.net, latent)
    watch = Watch([site for site in sites_at(model, latent, res_of(blends)) if site.kind == "cross"])
    of_pairs = zip(sources, targets, injections, blends)
    pairs = [Pair.of(model, *of_pair, latent=latent, steps=steps) for of_pair in of_pairs]
    pictures, mask, region = given(model, pictures, mask, n, latent)

    def edit(probs: Tensor, site: Site, i: int) -> Tensor:
        """The maps of one attention layer in step i, before and after the edit: rows (2 b) h i j."""
        edited = watch(probs, site).clone()
        m_source, m_target = edited.chunk(2)  # Alg. 1 l. 3, l. 4: M_t, M*_t
        for pair, m, m_star in zip(pairs, m_source, m_target):
            m_star[:] = pair.edit(m, m_star, site, i)  # Alg. 1 l. 5: M̂_t
        return edited

    z, step = way_down(model, start, [*sources, *targets], w)  # z*_T ← z_T
    path, maps, masks = [start.finish(z)], [], []
    for i in range(steps):  # Alg. 1 l. 2, from the noisiest t
        tapped = [site for site in sites if watch.wants(site) or any(pair.changes(site, i) for pair in pairs)]
        z = step(i, z, at(partial(edit, i=i), sites=tapped))  # Alg. 1 l. 3 to l. 6
        maps.append(watch.average())
        watch.maps.clear()
        if region is not None or any(blends):
            of_source, of_target = torch.stack(maps).mean(0)[:, None].chunk(2)  # of the steps so far
            found = [pair.mask(m, m_star, i, latent) for pair, m, m_star in zip(pairs, of_source, of_target)]
            masks.append(torch.cat(found) if region is None else torch.cat(found) * region)
            z = blended(z, masks[-1])  # Sec. 4: local blend
        path.append(start.finish(z))

    source_picture, raw = model.decode(path[-1]).chunk(2)
    final = at_pixels(masks, mask, raw)
    kept = source_picture if pictures is None else pictures.to(raw)
    picture = raw if final is None or not paste else torch.where(final > 0, raw, kept)  # to the bit
    alignments, masks = [pair.alignment for pair in pairs], torch.stack(masks) if masks else None
    return Result(
        picture, raw, source_picture, path, start.times, torch.stack(maps), alignments, masks, final
    )


def texts_and_seeds(
    source: Texts, target: Texts, seed: int | Sequence[int], start: Inversion | None
) -> tuple[list[str], list[str], list[int]]:
    """The prompts and the seed of each pair. Raises ArgumentError for neither one nor one for each pair."""
    lists = [value for value in (source, target, seed) if not isinstance(value, (str, Integral))]
    n = max([1 if start is None else len(start.prompts), *(len(values) for values in lists)])
    seeds = range(seed, seed + n) if isinstance(seed, Integral) else seed
    return (
        one_each("source", source, n, str, "pair"),
        one_each("target", target, n, str, "pair"),
        one_each("seed", seeds, n, Integral, "pair"),
    )


def check_start(start: Inversion, sources: Sequence[str], w: float | None) -> None:
    """Raises ArgumentError for the inversion of other prompts, and guidance that does not ask any prompt."""
    if tuple(sources) != start.prompts:
        raise ArgumentError(
            "source", f"must be the prompts of the inversion, {list(start.prompts)}, got {list(sources)}"
        )
    if (start.w if w is None else w) == 0:
        raise ArgumentError(
            "w", "is 0, so that no prompt is asked and nothing could be edited; 1 is no guidance"
        )


def res_of(blends: Sequence[Blend | None]) -> tuple[int, int] | None:
    """(y, x) of the maps that the blends are made of. Raises ArgumentError where they want different ones."""
    found = {blend.res for blend in blends if blend is not None}
    if len(found) > 1:
        raise ArgumentError(
            "blend", "must have the same res for all pairs, since their maps are kept together"
        )
    return next(iter(found), None)


def given(
    model: Model, pictures: Picture | None, mask: Mask | None, n: int, latent: tuple[int, int]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The pictures and the mask (n 1 y x), as tensors, and the mask on the latent grid (n 1 y' x').

    Raises ArgumentError for pictures of another size than the latents decode to, and as `check_mask`.
    """
    factor = model.factor
    like = torch.empty(n, 3, latent[0] * factor, latent[1] * factor, device=model.device)
    if pictures is not None:
        pictures = given_picture(model, pictures)
        if pictures.shape != like.shape:
            raise ArgumentError(
                "pictures", f"must be {tuple(like.shape)}, as the inverted ones, got {tuple(pictures.shape)}"
            )
    if mask is None:
        return pictures, None, None
    mask = check_mask(given_mask(model, mask), like)
    return pictures, mask, latent_mask(mask, torch.empty(1, 1, *latent))


def at_pixels(masks: Sequence[Tensor], mask: Tensor | None, raw: Tensor) -> Tensor | None:
    """The mask of the last step at the picture's size, (b 1 y x); None if the pairs might differ anywhere."""
    if not masks:
        return None
    final = F.interpolate(masks[-1], raw.shape[-2:])
    return final if mask is None else final * mask.to(final)  # a cell may reach beyond the user's mask
