"""Where does each word look? The attention maps of a walk, averaged, by word, layer, head and step.

"Prompt-to-Prompt Image Editing with Cross Attention Control" (Hertz et al., arXiv:2208.01626v1), Sec. 3.1
and fig. 4: M_ij = softmax(Q Kᵀ/√d)_ij is how much pixel i attends to token j. Maps are averaged over layers
and heads to be shown; edits are made on each head by itself. The principal components of the self-attention,
and the self-attention of a single pixel, are what the authors' notebooks look at.

    maps = explore(model, "a red heart on a blue background")
    maps.heat_map("heart")                                      # (y x) of the picture's size, maximum 1
    maps.heat_map("heart", layer="up1.0", head=2)               # one layer, one head
    maps.heat_map("heart", step=0)                              # one step, the noisiest
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from palimpsest.arguments import ArgumentError, Count, Scale, Seed, Texts, check
from palimpsest.methods.alignment import words
from palimpsest.methods.inversion import Inversion, way_down
from palimpsest.methods.sampling import TOP, generate, pure_noise, times_below
from palimpsest.nets.attention import Site
from palimpsest.nets.net import sites_of
from palimpsest.nets.tokenizer import Tokenizer
from palimpsest.samplers.noise import Rng
from palimpsest.weights.model import Model


class Watch:
    """A tap that changes nothing and keeps the maps of some layers: maps[site] is (b h i j), in float32."""

    def __init__(self, sites: Sequence[Site]):
        self.sites = set(sites)
        self.maps: dict[Site, Tensor] = {}

    def wants(self, site: Site) -> bool:
        """Whether it keeps the maps of this layer."""
        return site in self.sites

    def __call__(self, probs: Tensor, site: Site) -> Tensor:
        """Keep a copy of these maps if the layer is one of `sites`; return them as they are."""
        if site in self.sites:
            self.maps[site] = probs.detach().to(torch.promote_types(probs.dtype, torch.float32), copy=True)
        return probs

    def average(self) -> Tensor:
        """(b y x l): the cross-attention kept, its mean over layers and heads."""
        cross = {site: m for site, m in self.maps.items() if site.kind == "cross"}
        y, x = next(iter(cross)).res
        all_heads = torch.cat([*cross.values()], dim=1)  # Sec. 3.1: (b h i j), the heads of all layers
        return reduce(all_heads, "b h (y x) l -> b y x l", "mean", y=y, x=x)


def sites_at(model: Model, latent: tuple[int, int], res: tuple[int, int] | None = None) -> list[Site]:
    """The attention layers whose maps have `res` = (y, x), for latents of size `latent`.

    None: the finest maps whose shorter side is at most 16, which is what the papers show for Stable
    Diffusion. Raises ArgumentError where the net has no cross-attention of that size, with the sizes it has,
    or none at all.
    """
    sites = sites_of(model.net, latent)
    sizes = sorted({site.res for site in sites if site.kind == "cross"}, key=math.prod)
    if not sizes:
        raise ArgumentError(
            "model", f"{model.name} was trained without text and has no cross-attention; choose another model"
        )
    if res is None:
        res = next((size for size in reversed(sizes) if min(size) <= 16), sizes[0])
    if tuple(res) not in sizes:
        raise ArgumentError("res", f"the model has no cross-attention maps of {res}; choose one of {sizes}")
    return [site for site in sites if site.res == tuple(res)]


def from_noise(
    model: Model, prompts: Sequence[str], *, steps: int, w: float | None, seeds: Sequence[int]
) -> Inversion:
    """The start of a walk that generates: like an inversion, but of noise, one seed for each prompt.

    w: None is what `generate` takes.
    """
    w = model.settle(generate, dict(w=w))
    z_T = pure_noise(model, Rng(seeds))  # Alg. 1 l. 1
    return Inversion(tuple(prompts), w, tuple(times_below(model.schedule, steps, TOP, "steps")), [z_T], 0)


@dataclass(frozen=True)
class AttentionMaps:
    """What `explore` found, for b prompts. Maps are means over the steps unless `step` says otherwise.

    The methods take: word, one or several words of the prompt; row, which of the b prompts; layer, one layer
    or the beginning of its name ("up"), None all; head, one head, None all; step, one step, 0 the noisiest,
    averaged over layers and heads. They raise ArgumentError for a layer, head or step that is not there, and
    ValueError for a word that is not in the prompt.
    """

    prompts: tuple[str, ...]
    pictures: Tensor  # (b 3 y x) in [−1, 1], as the plain walk makes them
    tokenizer: Tokenizer
    cross_attention: dict[Site, Tensor]  # layer -> (b h i l)
    self_attention: dict[Site, Tensor]  # layer -> (b h i i)
    by_step: Tensor  # (steps b y x l): cross-attention of each step, mean over layers and heads
    levels: tuple[int, ...]  # the time t of each step

    @property
    def res(self) -> tuple[int, int]:
        """(y, x) of the maps."""
        return tuple(self.by_step.shape[2:4])

    def words(self, row: int = 0) -> list[str]:
        """The words of a prompt, in order."""
        return [word.text for word in words(self.tokenizer, self.prompts[row])]

    def word_map(
        self,
        word: str,
        row: int = 0,
        *,
        layer: str | None = None,
        head: int | None = None,
        step: int | None = None,
    ) -> Tensor:
        """How much each cell attends to the word, (y x) in [0, 1]: the sum over the word's tokens."""
        tokens = self.tokenizer.positions(self.prompts[row], word)
        if step is not None:
            if layer is not None or head is not None:
                raise ArgumentError(
                    "step", "single steps are kept averaged over layers and heads; leave out layer and head"
                )
            if not -len(self.by_step) <= step < len(self.by_step):
                raise ArgumentError(
                    "step", f"the walk has {len(self.by_step)} steps, 0 the noisiest, got {step}"
                )
            return self.by_step[step, row][..., tokens].sum(-1)
        found = self._mean(self.cross_attention, row, layer, head)[..., tokens].sum(-1)
        return rearrange(found, "(y x) -> y x", y=self.res[0])

    def heat_map(
        self,
        word: str,
        row: int = 0,
        *,
        layer: str | None = None,
        head: int | None = None,
        step: int | None = None,
    ) -> Tensor:
        """The word's map as large as the picture and divided by its maximum, (y x) in [0, 1]: to be drawn."""
        m = self.word_map(word, row, layer=layer, head=head, step=step)
        m = F.interpolate(m[None, None], self.pictures.shape[-2:], mode="bilinear", antialias=True)[0, 0]
        return m / m.max().clamp(min=torch.finfo(m.dtype).tiny)

    def overlay(
        self,
        word: str,
        row: int = 0,
        *,
        layer: str | None = None,
        head: int | None = None,
        step: int | None = None,
    ) -> Tensor:
        """The picture, bright where the word's map is high and dark elsewhere: (1 3 y x) in [−1, 1]."""
        heat = self.heat_map(word, row, layer=layer, head=head, step=step).to(self.pictures)
        return (self.pictures[row, None] + 1) * (0.2 + 0.8 * heat) - 1

    def entropy(
        self,
        word: str,
        row: int = 0,
        *,
        layer: str | None = None,
        head: int | None = None,
        step: int | None = None,
    ) -> float:
        """How spread out the word's map is: −Σ p log p / log n with p = map/Σ map over n cells.

        1: the same everywhere; 0: a single cell.
        """
        p = self.word_map(word, row, layer=layer, head=head, step=step).flatten().double()
        p = p / p.sum()
        return (torch.special.entr(p).sum() / math.log(len(p))).item()

    def self_map(
        self, y: int, x: int, row: int = 0, *, layer: str | None = None, head: int | None = None
    ) -> Tensor:
        """What the cell in row y and column x of the maps attends to, (y x); sums to 1."""
        height, width = self.res
        if not (0 <= y < height and 0 <= x < width):
            raise ArgumentError("y, x", f"must be a cell of the {height}×{width} maps, got {y}, {x}")
        found = self._mean(self.self_attention, row, layer, head)[y * width + x]
        return rearrange(found, "(y x) -> y x", y=height)

    def components(self, n: int = 6, row: int = 0) -> Tensor:
        """The n principal components of the self-attention, (n y x), strongest first, each of norm 1.

        They are the right singular vectors of the mean self-attention (i j) without each pixel's mean.
        # official code: the same
        """
        matrix = self._mean(self.self_attention, row, None, None)
        if not 1 <= n <= len(matrix):
            raise ArgumentError("n", f"must lie between 1 and {len(matrix)}, got {n}")
        found = torch.linalg.svd(matrix - matrix.mean(1, keepdim=True)).Vh[:n]
        peak = found.gather(1, found.abs().argmax(1, keepdim=True))
        return rearrange(found * peak.sign(), "n (y x) -> n y x", y=self.res[0])  # unstated: the sign; ours

    def _mean(self, maps: dict[Site, Tensor], row: int, layer: str | None, head: int | None) -> Tensor:
        """(i j): the mean over the layers and heads that are asked for."""
        chosen = [m[row] for site, m in maps.items() if layer is None or site.name.startswith(layer)]
        if not chosen:
            raise ArgumentError(
                "layer",
                f"there is no layer {layer!r} among these maps; they are {', '.join(s.name for s in maps)}",
            )
        if head is None:
            return torch.cat(chosen).mean(0)  # Sec. 3.1: averaged to be shown
        if not 0 <= head < len(chosen[0]):
            raise ArgumentError("head", f"must lie between 0 and {len(chosen[0]) - 1}, got {head}")
        return torch.stack([m[head] for m in chosen]).mean(0)


def explore(
    model: Model,
    prompts: Texts = "",
    *,
    start: Inversion | None = None,
    res: tuple[int, int] | None = None,
    steps: Count = 25,
    w: Scale | None = None,
    seed: Seed = 0,
) -> AttentionMaps:
    """Walk down under the prompts and keep the attention maps; nothing is edited.

    prompts: one or several, prompt i draws its noise from seed + i. start: walk down from this inversion
    instead, which has its own prompts and steps. res: (y, x) of the maps to keep, see `sites_at`. w: guidance
    scale; None is the inversion's own, and from noise what `generate` takes. Raises
    ArgumentError for what makes no sense.
    """
    check(explore, locals())
    if start is None:
        prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        if not prompts or not all(prompts):
            raise ArgumentError("prompts", "must say something, since it is its words whose maps are shown")
        seeds = range(seed, seed + len(prompts))
        start = from_noise(model, prompts, steps=steps, w=w, seeds=seeds)
    elif prompts:
        raise ArgumentError("prompts", "an inversion has its own; leave them out")

    n_steps = len(start.times) - 1
    watch = Watch(sites_at(model, tuple(start.finish(start.start).shape[-2:]), res))
    sums: dict[Site, Tensor] = {}
    by_step: list[Tensor] = []
    z, step = way_down(model, start, w=w)
    for i in range(n_steps):
        z = step(i, z, watch)
        for site, m in watch.maps.items():
            sums[site] = sums.get(site, 0) + m / n_steps
        by_step.append(watch.average())
        watch.maps.clear()
    return AttentionMaps(
        prompts=start.prompts,
        pictures=model.decode(start.finish(z)),
        tokenizer=model.tokenizer,
        cross_attention={site: m for site, m in sums.items() if site.kind == "cross"},
        self_attention={site: m for site, m in sums.items() if site.kind == "self"},
        by_step=torch.stack(by_step),
        levels=start.times[:-1],
    )
