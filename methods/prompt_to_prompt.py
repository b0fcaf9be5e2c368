"""Prompt-to-Prompt Image Editing with Cross Attention Control (Hertz et al., arXiv:2208.01626v1).

Where the words look decides the layout of a picture. So two walks go down from the same noise, one under
the source prompt and one under the target prompt, and in the early steps the target looks where the
source looked:

    Alg. 1
    1  z_T ~ N(0, I) from the seed, or the start of an inversion; z*_T ← z_T
    2  for t = T … 1:
    3    z_{t−1}, M_t ← DM(z_t, P, t)                          the maps of the source
    4    M*_t ← DM(z*_t, P*, t)                                those of the target
    5    M̂_t ← Edit(M_t, M*_t, t)                              (12) replace, (13) refine, (14) re-weight
    6    z*_{t−1} ← DM(z*_t, P*, t) with M ← M̂_t               the values V stay those of the target

    paper        code                              paper        code
    P, P*        source, target                    A(j)         Alignment.index (methods/alignment.py)
    M, M*        m_source, m_target                c, j*        weights
    τ            cross: the fraction of the steps before t = τ, 1 − τ/T

Both walks are rows of one batch, (2 b): sources, then targets. All attention layers are edited, each head
by itself; the maps under the empty prompt never are. # official code: as here, lines 3–6 are one pass, so
that M*_t of a layer is what it is after the edits of the layers before it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor

from palimpsest.methods.alignment import Alignment, align
from palimpsest.methods.attention_maps import Watch, from_noise, sites_at
from palimpsest.methods.by_word import Cross, columns, count, each, equalise, spans
from palimpsest.methods.inputs import check_mask, latent_mask
from palimpsest.methods.inversion import Inversion, redo
from palimpsest.methods.local_blend import Blend, blend_mask, blended
from palimpsest.nets.attention import Site
from palimpsest.weights.model import Model

# --------------------------------------------------------------------------- Edit(M, M*, t), on maps (… i j)


def replace(m_source: Tensor, m_target: Tensor, mapper: Tensor, on: Tensor | bool = True) -> Tensor:
    """Word swap. mapper: (j_source j_target); on: for each target token whether t ≥ τ, (j_target) or one
    for all.
    """
    swapped = einsum(m_source, mapper.to(m_source), "... i js, js jt -> ... i jt")
    return torch.where(torch.as_tensor(on, device=m_source.device), swapped, m_target)  # Eq. (12)


def refine(m_source: Tensor, m_target: Tensor, index: Tensor, on: Tensor | bool = True) -> Tensor:
    """Added words. index: A(j) as (j_target), −1 for none; on: as in `replace`."""
    known = torch.as_tensor(on, device=index.device) & (index >= 0)
    return torch.where(
        known.to(m_source.device), m_source[..., index.clamp(min=0).to(m_source.device)], m_target
    )  # Eq. (13)


def reweight(m: Tensor, equaliser: Tensor) -> Tensor:
    """Words made stronger or weaker. equaliser: (j), c at j*, 1 elsewhere; rows then sum to 1 + (c − 1)
    m_j*, as in the paper.
    """
    return m * equaliser.to(m)  # Eq. (14)


@dataclass(frozen=True)
class Control:
    """Edit(M, M*, t) of one pair. on: (steps j) bool, t ≥ τ by token; self_steps: of self-attention;
    equaliser: (j).
    """

    alignment: Alignment
    on: Tensor
    self_steps: int
    equaliser: Tensor

    def __call__(self, m_source: Tensor, m_target: Tensor, i: int) -> Tensor:
        """Cross-attention (h i j) of the pair in step i -> the target's, edited.

        # unstated: whether (14) ends at τ; ours: it does not. official code: beyond τ the target's map is
        # not re-weighted
        """
        a = self.alignment
        edited = (
            replace(m_source, m_target, a.mapper, self.on[i])
            if a.edit == "replace"
            else refine(m_source, m_target, a.index, self.on[i])
        )
        return reweight(edited, self.equaliser)

    def acts(self, i: int) -> bool:
        """Whether step i changes any cross-attention."""
        return bool(self.on[i].any() or (self.equaliser != 1).any())


@dataclass(frozen=True)
class Step:
    """The tap of step i: rows (2 b), sources first. `watch` sees the maps before the edit; sources pass
    as they are.
    """

    i: int
    controls: Sequence[Control]
    watch: Watch
    self_cells: int  # the largest map, in cells, whose self-attention is injected

    def wants(self, site: Site) -> bool:
        """The sites that are kept, or changed in this step."""
        if site.kind == "cross":
            return self.watch.wants(site) or any(c.acts(self.i) for c in self.controls)
        return math.prod(site.res) <= self.self_cells and any(self.i < c.self_steps for c in self.controls)

    def __call__(self, probs: Tensor, site: Site) -> Tensor:
        if self.watch.wants(site):
            self.watch(probs, site)
        edited, b = probs.clone(), len(self.controls)
        for p, control in enumerate(self.controls):
            if site.kind == "cross":
                edited[b + p] = control(probs[p], probs[b + p], self.i)  # Alg. 1 l. 5
            elif self.i < control.self_steps:
                edited[b + p] = probs[p]  # official code: not in the paper
        return edited


# --------------------------------------------------------------------------- the verb


class Result(NamedTuple):
    """What `prompt_to_prompt` gives, for b pairs. Pictures (b, 3, y, x) in [−1, 1]; rows (2 b) are
    sources, then targets.
    """

    picture: Tensor  # of the target prompts, kept pixels pasted
    raw: Tensor  # the same as decoded
    source_picture: Tensor  # of the source prompts, by the same walk: a solo run gives the same
    path: list[Tensor]  # latents (2 b) c y' x', from the start down
    levels: tuple[int, ...]  # the time t of each
    maps: Tensor  # (steps 2b y x l): cross-attention *before* the edit, mean over layers, heads
    alignments: list[Alignment]  # methods.alignment.table shows one
    masks: Tensor | None  # (steps b 1 y' x'): where each step let the pair differ
    mask: Tensor | None  # (b, 1, y, x): of the last step, at the picture's size; what is pasted by


def prompt_to_prompt(
    model: Model,
    source: str | Sequence[str],
    target: str | Sequence[str],
    *,
    start: Inversion | None = None,
    pictures: Tensor | None = None,
    edit: str | Sequence[str] = "auto",
    cross: Cross | Sequence[Cross] = 0.8,
    self_: float | Sequence[float] = 0.4,
    self_res: int | None = None,
    weights: Mapping[str, float] | Sequence[Mapping[str, float]] | None = None,
    blend: Blend | Sequence[Blend | None] | None = None,
    mask: Tensor | None = None,
    res: tuple[int, int] | None = None,
    steps: int = 50,
    w: float | None = None,
    seed: int | Sequence[int] = 0,
    paste: bool = True,
) -> Result:
    """Generate, or walk down again from an inversion, the pictures of b source prompts and their edits
    into the targets.

    source, target: one prompt for all pairs, or one each. start: an inversion under the source prompts
    (any, see methods/inversion.py); without, pair i draws its noise from seed + i, or from the i-th of a
    list of seeds. edit: "replace", "refine" or "auto" (methods.alignment.align). cross: the fraction of
    the steps in which the target looks where the source did, .8 or {"default_": .8, "lion": .4, "hat":
    (.2, .6)}; a missing default_ is 1. self_: the same for self-attention, on maps of at most self_res²
    cells (None: a quarter of the latent's cells). weights: {word of the target: c}. edit, cross, self_,
    weights and blend can be lists with one entry for each pair. blend: the words outside of whose maps
    the source stays. mask (b or 1, 1, y, x), 1 = edit here: with or without a blend, nothing changes
    outside of it. Outside both the result is `pictures`, or the source's picture, bit for bit, unless
    paste=False. res: of the maps that are kept and make the mask. steps, w: of a walk from noise; w None
    is 3 there, and the inversion's own elsewhere.

    Raises ValueError, naming the argument, for a word that is not in its prompt, a replacement between
    unequal numbers of words, a fraction outside [0, 1], and whatever else makes no sense."""
    n = max(
        [
            1 if start is None else len(start.prompts),
            *(len(v) for v in (source, target, seed) if not isinstance(v, (str, int))),
        ]
    )
    sources, targets = each("source", source, n, str), each("target", target, n, str)
    seeds = list(range(seed, seed + n)) if isinstance(seed, int) else each("seed", seed, n, int)
    if start is None:
        start = from_noise(model, sources, steps=steps, w=3.0 if w is None else w, seeds=seeds)  # Alg. 1 l. 1
    elif tuple(sources) != start.prompts:
        raise ValueError(
            f"source: must be the prompts of the inversion, {list(start.prompts)}, got {list(sources)}"
        )
    if (start.w if w is None else w) == 0:
        raise ValueError(
            "w: is 0, so that no prompt is asked and nothing could be edited; 1 is no guidance, and more is stronger"
        )
    if self_res is not None and not self_res >= 1:
        raise ValueError(f"self_res: must be at least 1, the side of a map in cells, got {self_res}")
    latent, steps = tuple(start.finish(start.start).shape[-2:]), len(start.times) - 1
    watched = [s for s in sites_at(model, latent, res) if s.kind == "cross"]

    alignments = [align(model.tokenizer, *trio) for trio in zip(sources, targets, each("edit", edit, n, str))]
    controls = [
        Control(
            a,
            spans(model.tokenizer, a.target, c, steps),
            count("self_", s, steps),
            equalise(model.tokenizer, a.target, v),
        )
        for a, c, s, v in zip(
            alignments,
            each("cross", cross, n, (float, int, tuple, Mapping)),
            each("self_", self_, n, (float, int)),
            each("weights", weights, n, (Mapping, type(None))),
        )
    ]
    cells = math.prod(latent) // 4 if self_res is None else self_res**2
    if any(c.self_steps for c in controls) and not any(
        math.prod(s.res) <= cells for s in model.net.sites(latent)
    ):
        raise ValueError(
            f"self_res: no self-attention map has {cells} cells or fewer; raise it, or set self_=0"
        )
    blends = each("blend", blend, n, (Blend, type(None)))
    blending = [
        None
        if v is None
        else (
            v.checked(),
            *(
                columns("blend", model.tokenizer, prompt, words)
                for prompt, words in ((s, v.source), (t, v.target), (t, v.subtract))
            ),
        )
        for v, s, t in zip(blends, sources, targets)
    ]
    factor = model.vae.factor if model.vae is not None else 1
    like = torch.empty(n, 3, latent[0] * factor, latent[1] * factor, device=model.device)
    if pictures is not None and pictures.shape != like.shape:
        raise ValueError(
            f"pictures: must be {tuple(like.shape)}, as the inverted ones, got {tuple(pictures.shape)}"
        )
    given = None if mask is None else check_mask(mask, like)
    region = None if given is None else latent_mask(given, torch.empty(1, 1, *latent))

    taps = [Step(i, controls, Watch(watched), cells) for i in range(steps)]
    seen: list[Tensor] = []  # what each step saw, (2b y x l)
    masks: list[Tensor] = []

    def after(i: int, z: Tensor) -> Tensor:
        seen.append(taps[i].watch.average())
        taps[i].watch.maps.clear()
        if region is None and not any(blending):
            return z
        so_far = torch.stack(seen).mean(0)
        here = []
        for p, v in enumerate(blending):
            m = torch.ones(1, 1, *latent, device=so_far.device)
            if v is not None and i >= count("begin", v[0].begin, steps):
                m = blend_mask(so_far[p, None], so_far[n + p, None], *v[1:], latent, v[0])
            here.append(m if region is None else m * region[p, None].to(m))
        masks.append(torch.cat(here))
        return blended(z, masks[-1])

    path = redo(
        model, start, [*sources, *targets], w=w, control=taps.__getitem__, after=after
    )  # Alg. 1 l. 2–6
    source_picture, raw = model.decode(path[-1]).chunk(2)
    final = F.interpolate(masks[-1], like.shape[-2:]) if masks else None
    final = (
        final if given is None else final * given.to(final)
    )  # a cell reaches beyond the mask; the result does not
    kept = source_picture if pictures is None else pictures.to(raw)
    picture = raw if final is None or not paste else torch.where(final > 0, raw, kept)  # to the bit
    return Result(
        picture,
        raw,
        source_picture,
        path,
        start.times,
        torch.stack(seen),
        alignments,
        torch.stack(masks) if masks else None,
        final,
    )
