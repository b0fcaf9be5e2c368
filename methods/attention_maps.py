"""Where do the words look? The attention maps of a walk, averaged, by word, layer, head and step.

"Prompt-to-Prompt Image Editing with Cross Attention Control" (Hertz et al., arXiv:2208.01626v1), Sec. 3.1
and fig. 4: M_ij = softmax(Q Kᵀ/√d)_ij is how much pixel i looks at token j. Averaged over layers and
heads for showing only; edits are made on each head by itself. The principal components of the
self-attention, and a pixel's own row of it, are what the authors' notebooks look at.

    maps = explore(b, "a red heart on a blue background")
    maps.heat("heart")                                          # (y x) of the picture's size, maximum 1
    maps.heat("heart", name="up1.0", head=2, step=0)            # one layer, one head; or one step
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from palimpsest.methods.alignment import words
from palimpsest.methods.inversion import Inversion, redo
from palimpsest.methods.sampling import TOP
from palimpsest.nets.attention import Site
from palimpsest.nets.tokenizer import Tokenizer
from palimpsest.samplers.noise import Rng
from palimpsest.weights.model import Model


class Watch:
    """A tap that changes nothing and keeps what it sees at `sites`: maps[site] is (b h i j), float32 at
    least.
    """

    def __init__(self, sites: Sequence[Site]):
        self.sites = set(sites)
        self.maps: dict[Site, Tensor] = {}

    def wants(self, site: Site) -> bool:
        """Whether it keeps this site."""
        return site in self.sites

    def __call__(self, probs: Tensor, site: Site) -> Tensor:
        self.maps[site] = probs.detach().to(torch.promote_types(probs.dtype, torch.float32), copy=True)
        return probs

    def average(self) -> Tensor:
        """(b y x l): the mean of the cross-attention kept, over layers and heads."""
        cross = {s: m for s, m in self.maps.items() if s.kind == "cross"}
        y, x = next(iter(cross)).res
        heads = torch.cat([m for m in cross.values()], dim=1)  # Sec. 3.1: (b h i j), all layers' heads
        return reduce(heads, "b h (y x) l -> b y x l", "mean", y=y, x=x)


def sites_at(model: Model, latent: tuple[int, int], res: tuple[int, int] | None = None) -> list[Site]:
    """The attention layers whose maps have `res` = (y, x), for latents of size `latent`.

    None: the finest maps whose shorter side is at most 16, which is what the papers show for Stable
    Diffusion. Raises ValueError where the net has no cross-attention of that size, with the sizes it has,
    or none at all."""
    sites = model.net.sites(latent)
    there = sorted({s.res for s in sites if s.kind == "cross"}, key=math.prod)
    if not there:
        raise ValueError(
            f"model: {model.name} was trained without text and has no cross-attention; choose another model"
        )
    if res is None:
        res = next((r for r in reversed(there) if min(r) <= 16), there[0])
    if tuple(res) not in there:
        raise ValueError(f"res: the model has no cross-attention maps of {res}; choose one of {there}")
    return [s for s in sites if s.res == tuple(res)]


def from_noise(
    model: Model, prompts: Sequence[str], *, steps: int, w: float, seeds: Sequence[int]
) -> Inversion:
    """A start like that of an inversion, where there is no picture to invert: noise, one seed for each
    prompt.
    """
    z_T = Rng(seeds).randn((len(prompts), *model.latent_shape)).to(model.device, model.dtype)  # Alg. 1 l. 1
    return Inversion(tuple(prompts), w, tuple(model.schedule.times(steps, TOP)), [z_T], 0)


@dataclass(frozen=True)
class AttentionMaps:
    """What `explore` found. pictures (b 3 y x) in [−1, 1]; maps are means over the steps unless said
    otherwise.
    """

    prompts: tuple[str, ...]
    pictures: Tensor
    tokenizer: Tokenizer
    cross: dict[Site, Tensor]  # site -> (b h i l)
    selves: dict[Site, Tensor]  # site -> (b h i i)
    steps: Tensor  # (steps b y x l): cross-attention of each step, mean over layers and heads
    levels: tuple[int, ...]  # the time t of each step

    @property
    def res(self) -> tuple[int, int]:
        """(y, x) of the maps."""
        return tuple(self.steps.shape[2:4])

    def words(self, row: int = 0) -> list[str]:
        """The words of a prompt, in order."""
        return [w.text for w in words(self.tokenizer, self.prompts[row])]

    def raw(
        self,
        word: str,
        row: int = 0,
        *,
        name: str | None = None,
        head: int | None = None,
        step: int | None = None,
    ) -> Tensor:
        """How much each pixel looks at the word, (y x) in [0, 1]: the sum over the word's tokens.

        name: one layer (or the beginning of its name), head: one head, each averaged over the steps;
        step: one step, averaged over layers and heads. Raises ValueError for a word that is not in the
        prompt, and for what is not there."""
        tokens = self.tokenizer.positions(self.prompts[row], word)
        if step is not None:
            if name is not None or head is not None:
                raise ValueError(
                    "step: single steps are kept averaged over layers and heads; leave out name and head"
                )
            if not -len(self.steps) <= step < len(self.steps):
                raise ValueError(f"step: the walk has {len(self.steps)} steps, 0 the noisiest, got {step}")
            return self.steps[step, row][..., tokens].sum(-1)
        found = self._pick(self.cross, row, name, head)[..., tokens].sum(-1)
        return rearrange(found, "(y x) -> y x", y=self.res[0])

    def heat(
        self,
        word: str,
        row: int = 0,
        *,
        name: str | None = None,
        head: int | None = None,
        step: int | None = None,
    ) -> Tensor:
        """The word's map made as large as the picture and divided by its maximum, (y x) in [0, 1]: to be
        drawn.
        """
        m = self.raw(word, row, name=name, head=head, step=step)
        m = F.interpolate(m[None, None], self.pictures.shape[-2:], mode="bilinear", antialias=True)[0, 0]
        return m / m.max().clamp(min=torch.finfo(m.dtype).tiny)

    def lit(
        self,
        word: str,
        row: int = 0,
        *,
        name: str | None = None,
        head: int | None = None,
        step: int | None = None,
    ) -> Tensor:
        """The picture, bright where the word looks and dark elsewhere: (1 3 y x) in [−1, 1]."""
        heat = self.heat(word, row, name=name, head=head, step=step).to(self.pictures)
        return (self.pictures[row, None] + 1) * (0.2 + 0.8 * heat) - 1

    def entropy(
        self,
        word: str,
        row: int = 0,
        *,
        name: str | None = None,
        head: int | None = None,
        step: int | None = None,
    ) -> float:
        """How spread out the word's map is: 1 the same everywhere, 0 a single cell (−Σ p log p / log n, p
        = map/Σ map).
        """
        p = self.raw(word, row, name=name, head=head, step=step).flatten().double()
        p = p / p.sum()
        return (torch.special.entr(p).sum() / math.log(len(p))).item()

    def self_map(
        self, y: int, x: int, row: int = 0, *, name: str | None = None, head: int | None = None
    ) -> Tensor:
        """What the cell in row y and column x of the maps looks at, (y x); sums to 1."""
        height, width = self.res
        if not (0 <= y < height and 0 <= x < width):
            raise ValueError(f"y, x: must be a cell of the {height}×{width} maps, got {y}, {x}")
        found = self._pick(self.selves, row, name, head)[y * width + x]
        return rearrange(found, "(y x) -> y x", y=height)

    def components(self, n: int = 6, row: int = 0) -> Tensor:
        """The n strongest patterns of the self-attention, (n y x), strongest first, each of norm 1.

        Right singular vectors of the mean self-attention (i j) without each pixel's mean. # official
        code: the same"""
        matrix = self._pick(self.selves, row, None, None)
        if not 1 <= n <= len(matrix):
            raise ValueError(f"n: must lie between 1 and {len(matrix)}, got {n}")
        found = torch.linalg.svd(matrix - matrix.mean(1, keepdim=True)).Vh[:n]
        peak = found.gather(
            1, found.abs().argmax(1, keepdim=True)
        )  # unstated: the sign; ours: the peak is positive
        return rearrange(found * peak.sign(), "n (y x) -> n y x", y=self.res[0])

    def _pick(self, maps: dict[Site, Tensor], row: int, name: str | None, head: int | None) -> Tensor:
        """(i j): the mean over the layers and heads that are asked for."""
        chosen = [m[row] for site, m in maps.items() if name is None or site.name.startswith(name)]
        if not chosen:
            raise ValueError(
                f"name: no layer {name!r} among these maps; they are {', '.join(s.name for s in maps)}"
            )
        if head is None:
            return torch.cat(chosen).mean(0)  # Sec. 3.1: averaged to be shown
        if not 0 <= head < len(chosen[0]):
            raise ValueError(f"head: must lie between 0 and {len(chosen[0]) - 1}, got {head}")
        return torch.stack([m[head] for m in chosen]).mean(0)


def explore(
    model: Model,
    prompts: str | Sequence[str] = "",
    *,
    start: Inversion | None = None,
    res: tuple[int, int] | None = None,
    steps: int = 25,
    w: float | None = None,
    seed: int = 0,
) -> AttentionMaps:
    """Walk down under the prompts, or again from an inversion `start` (which has its own prompts and
    steps), and watch.

    res: (y, x) of the maps to keep, see `sites_at`. w: None is the inversion's own, or 3 from noise.
    Nothing is edited: the pictures are those of the plain walk. Raises ValueError for res, steps or
    prompts that make no sense."""
    if start is None:
        prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        if not prompts or not all(prompts):
            raise ValueError("prompts: must say something, since it is its words whose maps are shown")
        start = from_noise(
            model, prompts, steps=steps, w=3.0 if w is None else w, seeds=range(seed, seed + len(prompts))
        )
    elif prompts:
        raise ValueError("prompts: an inversion has its own; leave them out")
    sites = sites_at(model, tuple(start.finish(start.start).shape[-2:]), res)
    sums: dict[Site, Tensor] = {}
    by_step: list[Tensor] = []
    watch = [Watch(sites) for _ in start.times[1:]]

    def add(i: int, z: Tensor) -> Tensor:
        for site, m in watch[i].maps.items():
            sums[site] = sums.get(site, 0) + m / len(watch)
        by_step.append(watch[i].average())
        watch[i].maps.clear()
        return z

    path = redo(model, start, w=w, control=watch.__getitem__, after=add)
    return AttentionMaps(
        start.prompts,
        model.decode(path[-1]),
        model.tokenizer,
        {s: m for s, m in sums.items() if s.kind == "cross"},
        {s: m for s, m in sums.items() if s.kind == "self"},
        torch.stack(by_step),
        start.times[:-1],
    )
