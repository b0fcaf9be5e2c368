"""Measurements of the shipped models beyond plain captions of square renders: free wordings, pictures of
other shapes, drawings, single noise levels, subjects. `claims.bench` runs them beside its own."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from palimpsest.claims.common import Models, autoencoded, choose_edit, in_batches, new_scenes
from palimpsest.claims.page import RECORDS
from palimpsest.methods.sampling import generate
from palimpsest.methods.sdedit import sdedit
from palimpsest.metrics.image import psnr
from palimpsest.samplers.convert import q_sample, x0_from_eps
from palimpsest.training.shapes_vae import drawings as some_drawings
from palimpsest.training.shapes_vae import strangers
from palimpsest.worlds.files import read_picture
from palimpsest.worlds.mix import ASPECTS, pixels_of
from palimpsest.worlds.scene import COLOURS, SHAPES
from palimpsest.worlds.shapes import apply, attributes, caption, render, sample_scene
from palimpsest.worlds.wordings import held_out_wordings
from palimpsest.worlds.words import fulfils
from palimpsest.worlds.words import wanted as wanted_of

Part = dict[str, Any]
STEPS, SEED, W = 16, 7, 3.0
SIGMAS = (0.06, 0.17, 0.52, 1.0)
T0 = (0.5, 0.6, 0.7, 0.8)
KINDS = ("recolour", "reshape")


def strange(models: Models, parts: dict[str, Part], n: int) -> Part:
    """PSNR through the autoencoder of what is no render: DreamBooth's subjects, and drawings."""
    part: Part = dict(n=2 * n, seed=SEED)
    for name, draw in (("subjects", strangers), ("drawings", some_drawings)):
        pictures = draw(2 * n, Generator().manual_seed(SEED))
        part[name] = psnr(autoencoded(models, pictures).cpu(), pictures).mean().item()
    return part


def noise(models: Models, parts: dict[str, Part], n: int) -> Part:
    """The RMS error of x̂_0, in standard deviations of a latent, at the times of four noise levels σ, under
    the caption."""
    model, scenes = models.model, new_scenes(n, SEED + 20)
    z_0 = in_batches(lambda rows: model.encode(render(scenes[rows])), n)
    ctx = in_batches(lambda rows: model.embed([caption(s) for s in scenes[rows]]), n)
    eps, curve = torch.randn(z_0.shape, generator=Generator().manual_seed(SEED)).to(z_0), []
    sigmas = torch.tensor([model.schedule.sigma(t) for t in range(1, model.schedule.T + 1)])
    for sigma in SIGMAS:
        t = 1 + (sigmas - sigma).abs().argmin().item()
        z_t = q_sample(model.schedule, z_0, t, eps)
        told = in_batches(lambda rows, z_t=z_t, t=t: model.eps(z_t[rows], t, ctx[rows]), n)
        each = (x0_from_eps(model.schedule, z_t, t, told) - z_0).square().mean()
        curve.append(dict(sigma=sigma, t=t, error=each.sqrt().item()))
    return dict(n=n, seed=SEED + 20, curve=curve)


def wordings(models: Models, parts: dict[str, Part], n: int) -> Part:
    """Pictures of 200 plain captions and of the same in wordings that no training had; same seeds."""
    rows, right = held_out_wordings(min(n, 200)), {}
    for name in ("plain", "text"):
        texts = [getattr(row, name) for row in rows]
        pictures = in_batches(
            lambda rows, texts=texts: (
                generate(models.model, texts[rows], steps=STEPS, w=W, seed=SEED + rows.start).picture
            ),
            len(texts),
        )
        read = models.oracle.read(pictures)
        right[name] = torch.tensor([fulfils(text, seen) for text, seen in zip(texts, read)]).double()
    return dict(n=len(rows), seed=SEED, steps=STEPS, w=W, **shares(right["text"], right["plain"]))


def shares(some: Tensor, plain: Tensor, paired: bool = True) -> dict[str, Any]:
    """The share of right ones of two ways, and what the first keeps of the second, with its 95 % interval
    (bootstrap over pictures; paired: of the same scenes, which stay together)."""
    g = torch.Generator().manual_seed(SEED)
    i = torch.randint(len(some), (10_000, len(some)), generator=g)
    j = i if paired else torch.randint(len(plain), (10_000, len(plain)), generator=g)
    kept = some[i].mean(1) / plain[j].mean(1).clamp(min=1e-9)
    low, high = kept.quantile(torch.tensor([0.025, 0.975], dtype=kept.dtype)).tolist()
    share, whole = some.mean().item(), plain.mean().item()
    return dict(right=share, plain=whole, kept=share / max(whole, 1e-9), kept_95=[low, high])


def squared(pictures: Tensor) -> Tensor:
    """Pictures of any shape as squares of 64×64: made smaller where they are larger, the ground at the rim
    continued."""
    rows, columns = pictures.shape[-2:]
    scale = 64 / max(rows, columns)
    if scale < 1:
        rows, columns = round(rows * scale), round(columns * scale)
        pictures = F.interpolate(pictures, (rows, columns), mode="bilinear", antialias=True)
    top, left = (64 - rows) // 2, (64 - columns) // 2
    return F.pad(pictures, (left, 64 - columns - left, top, 64 - rows - top), mode="replicate")


def windows(pictures: Tensor, stride: int = 4) -> list[Tensor]:
    """Squares of 64×64 along the longer side of pictures whose shorter side is brought to 64."""
    scale = 64 / min(pictures.shape[-2:])
    if scale != 1:
        size = [round(side * scale) for side in pictures.shape[-2:]]
        pictures = F.interpolate(pictures, size, mode="bicubic", antialias=True).clamp(-1, 1)
    rows, columns = pictures.shape[-2:]
    most = max(rows, columns) - 64
    starts = sorted({min(k, most) for k in range(0, most + stride, stride)})
    return [pictures.narrow(-2 if rows > columns else -1, k, 64) for k in starts]


def seen_in_windows(models: Models, pictures: Tensor, wanted: list[dict[str, str]]) -> tuple[Tensor, Tensor]:
    """Of pictures of any shape whether they are right, and whether they show as many things as asked.

    The reader knows 64×64 alone, so it looks through windows. A picture of one thing is right if all that is
    wanted is read in one of them, and two things in none. One of two things is right if both are read in one
    window, or the first alone in one and the second alone in a later one; and if no third is seen."""
    reads = [models.oracle.read(window) for window in windows(pictures)]
    along = "left of" if pictures.shape[-1] > pictures.shape[-2] else "above"
    right, counted = [], []
    for i, asked in enumerate(wanted):
        seen = [read[i] for read in reads]
        pair, two = asked["count"] == "two", any(one["count"] == "two" for one in seen)
        there = any(asked.items() <= one.items() for one in seen)
        if pair and _apart(seen, asked, along):
            there = two = True
        more = _more(seen, asked) if pair else two
        counted.append(two == pair and not (pair and more))
        right.append(there and not more)
    return torch.tensor(right), torch.tensor(counted)


def _apart(seen: list[dict[str, str]], asked: dict[str, str], along: str) -> bool:
    """Whether the first thing is seen alone in a window, and the second in one further along."""
    if asked["relation"] != along:
        return False
    first, second = (
        [k for k, one in enumerate(seen) if alone.items() <= one.items()]
        for alone in (_alone(asked, n) for n in (1, 2))
    )
    return bool(first and second) and first[0] < second[-1]


def _alone(asked: dict[str, str], n: int) -> dict[str, str]:
    """What a picture of the n-th thing alone shows."""
    looks = {f"{kind}_1": asked[f"{kind}_{n}"] for kind in ("shape", "colour", "size", "texture")}
    return {"count": "one", "background": asked["background"], **looks}


def _more(seen: list[dict[str, str]], asked: dict[str, str]) -> bool:
    """Whether the windows show a third thing.

    They do if a colour that neither thing has is read in three of them. They also do if two of them show the
    same thing twice, or both things in the reverse order: of a ring, a star and another ring, a late window
    shows the star first. One window is not enough, since one that cuts through a thing may be misread."""
    first, second = ((asked[f"shape_{n}"], asked[f"colour_{n}"]) for n in (1, 2))
    strange = again = 0
    for one in seen:
        there = [(one[f"shape_{n}"], one[f"colour_{n}"]) for n in ((1, 2) if one["count"] == "two" else (1,))]
        strange += any(colour not in (first[1], second[1]) for _, colour in there)
        again += len(there) == 2 and (there[0] == there[1] or there == [second, first])
    return strange >= 3 or again >= 2


def layouts(models: Models, parts: dict[str, Part], n: int) -> Part:
    """Pictures of other shapes than square, of one thing or two: as many right ones as in square pictures?
    `true`: of true renders of that shape."""
    right, found = {}, {}
    for k, extent in enumerate(ASPECTS):
        rng, size = random.Random(f"layouts {SEED} {k}"), pixels_of(extent)
        scenes = [sample_scene(rng, extent=extent) for _ in range(n)]
        texts, wanted = [caption(s) for s in scenes], [attributes(s) for s in scenes]
        blank = torch.zeros(n, 3, *size)
        pictures = edited(models, blank, texts, 0.98)  # that of a grey picture: generation, in its shape
        name = f"{size[0]}×{size[1]}"
        right[name], count = seen_in_windows(models, pictures, wanted)
        true, _ = seen_in_windows(models, render(scenes, size), wanted)
        found[name] = dict(count=count.double().mean().item(), true=true.double().mean().item())
    plain = right.pop("64×64").double()
    square = found.pop("64×64") | dict(right=plain.mean().item())
    shapes = {name: found[name] | shares(some.double(), plain, paired=False) for name, some in right.items()}
    return dict(n=n, seed=SEED, steps=STEPS, w=W, square=square, shapes=shapes)


def edited(models: Models, guides: Tensor, texts: list[str], t0: float) -> Tensor:
    """By SDEdit, on the CPU."""
    return in_batches(
        lambda rows: sdedit(
            models.model, guides[rows], texts[rows], t0=t0, steps=STEPS, w=W, seed=SEED + rows.start
        ).picture.cpu(),
        len(texts),
    )


def drawn_edits(n: int) -> tuple[Tensor, list[str], list[dict[str, str]], list[str]]:
    """n plain drawings, to be recoloured and reshaped in turn: pictures, texts of what is wished for, what
    then should be seen, kinds."""
    rng = random.Random(f"drawn edits {SEED}")
    scenes, after = [], []
    while len(scenes) < n:
        scene = sample_scene(rng, plain=True)
        edit = choose_edit(scene, KINDS[len(scenes) % 2], rng)
        if edit is not None:
            scenes.append(scene)
            after.append(apply(scene, edit))
    kinds = [KINDS[i % 2] for i in range(n)]
    return render(scenes), [caption(s) for s in after], [attributes(s) for s in after], kinds


def hand_edits() -> tuple[Tensor, list[str], list[str]]:
    """The drawings of figures/hand/plain, their first thing recoloured and reshaped in words: pictures, texts
    of what is wished for, kinds."""
    rng, folder = random.Random(f"hand edits {SEED}"), RECORDS / "hand" / "plain"
    told = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    pictures, texts, kinds = [], [], []
    for file, text in told.items():
        for kind, words in zip(KINDS, (tuple(COLOURS), SHAPES)):
            old = re.search(rf"\b({'|'.join(words)})\b", text)[0]
            new = rng.choice([word for word in words if word not in text])
            pictures.append(squared(read_picture(folder / file, 64)))
            texts.append(text.replace(old, new, 1).replace(" a orange", " an orange"))
            kinds.append(kind)
    return torch.cat(pictures), texts, kinds


def drawings(models: Models, parts: dict[str, Part], n: int) -> Part:
    """SDEdit recolours and reshapes plain drawings: those of the world's plain style, and those by hand."""
    pictures, texts, wanted, kinds = drawn_edits(n)
    by_hand, hand_texts, hand_kinds = hand_edits()
    hand_wanted = [wanted_of(text) for text in hand_texts]

    def share(right: Tensor, of: list[str]) -> dict[str, float]:
        each = {k: right[[i for i, kind in enumerate(of) if kind == k]].double().mean().item() for k in KINDS}
        return dict(right=right.double().mean().item(), kinds=each)

    curve = []
    for t0 in T0:
        plain = models.oracle.right(edited(models, pictures, texts, t0), wanted)
        hand = models.oracle.right(edited(models, by_hand, hand_texts, t0), hand_wanted)
        point = share(hand, hand_kinds)
        curve.append(dict(t0=t0, **share(plain, kinds), hand=point["right"], hand_kinds=point["kinds"]))
    return dict(n=n, hand_n=len(by_hand), seed=SEED, steps=STEPS, w=W, curve=curve)
