"""GLIDE's claims (arXiv:2112.10741v3) about parts painted anew: three ways to keep the rest, and one step
after another.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.claims.common import Edits, draw_edits, new_scenes
from palimpsest.claims.glide import STEPS, GlideModels, enlarged, measurement
from palimpsest.claims.page import FAILS, HOLDS, PARTLY, Finding, Record, gap, share
from palimpsest.claims.parts import Part, at_once
from palimpsest.claims.prompt_to_prompt import silhouette
from palimpsest.methods.glide import glide, inpaint, pasted
from palimpsest.metrics.image import rmse, seam
from palimpsest.metrics.mask import dilate
from palimpsest.worlds.scene import Scene
from palimpsest.worlds.shapes import attributes, caption, render, silhouettes

KINDS = ("recolour", "reshape", "retexture")
W = 3.0
WAYS = {
    "fine-tuned": ("trained", "inpaint"),
    "replaced at each step": ("replace", "base"),
    "x̂₀ replaced": ("x0", "base"),
}
MARGIN = 2  # pixels of the small picture around what is hidden
TRIES = 4


def bounding(mask: Tensor, margin: int) -> Tensor:
    """The box around what each mask (b 1 y x) marks, `margin` pixels wider on each side: (b 1 y x)."""
    wide = dilate(mask, margin).to(mask) if margin else mask
    rows, columns = wide.amax(3, keepdim=True), wide.amax(2, keepdim=True)
    return (_between(rows, 2) * _between(columns, 3)).float()


def _between(line: Tensor, dim: int) -> Tensor:
    """1 from the first to the last 1 of a line."""
    return ((line.cumsum(dim) > 0) & (line.flip(dim).cumsum(dim).flip(dim) > 0)).to(line)


def hidden(drawn: Edits) -> Tensor:
    """A box around the thing as it is and as it should be, so that nothing of it is to be seen: (n 1 32
    32).
    """
    there = [
        torch.cat([silhouettes(scene).amax(0, keepdim=True) for scene in scenes])
        for scenes in (drawn.scenes, drawn.after_scenes)
    ]
    return bounding(F.max_pool2d((torch.maximum(*there) > 0).float(), 2), MARGIN)


# --------------------------------------------------------------------------- C8


def measure_ways(models: GlideModels, *, n: int, seed: int, part: Part = at_once) -> Record:
    """A thing hidden whole by a box, and asked for anew with another colour, shape or texture: by each
    way of keeping the rest.
    """
    drawn = draw_edits(n, KINDS, seed + 50, things=1)
    before, after, mask = render(drawn.scenes, 32), render(drawn.after_scenes, 32), hidden(drawn)

    def one(how: str, net: str) -> Record:
        model = getattr(models, net)
        rows = [slice(i, min(i + 64, n)) for i in range(0, n, 64)]
        raw = torch.cat(
            [
                inpaint(
                    model,
                    before[r],
                    mask[r],
                    drawn.target[r],
                    how=how,
                    steps=STEPS,
                    w=W,
                    seed=seed + r.start,
                    paste=False,
                ).picture.cpu()
                for r in rows
            ]
        )
        made = pasted(raw, before, mask)
        right = models.oracle.right(enlarged(made), drawn.wanted)
        return dict(
            right=right.double().mean().item(),
            seam=seam(made, after, mask).mean().item(),
            seam_raw=seam(raw, after, mask).mean().item(),
            outside=float((made - before)[(mask == 0).expand_as(made)].abs().max()),
            outside_raw=rmse(raw, before, 1 - mask).mean().item(),
        )

    ways = {name: part(name, partial(one, *way)) for name, way in WAYS.items()}
    return dict(
        steps=STEPS,
        w=W,
        hidden_share=mask.mean().item(),
        ways=ways,
        border=float(seam(before, after, mask).mean()),
    )


FILLS = ("shapes-glide", "shapes-glide-inpaint")
PARTS_ANEW = measurement("glide_inpaint", measure_ways, 512, ("glide_inpaint.png",), FILLS)


def judge_ways(record: Record) -> Finding:
    """Holds where the fine-tuned model is right more often than both cheap ways (the 95 % intervals of the
    differences lie above 0), its seam is the smallest, and what is kept is kept bit for bit; partly where
    its seam is the smallest or it is surely right most often. Else does not hold."""
    ways = record["ways"]
    ours, *cheap = ways.values()
    right, smooth = (
        all(gap(ours["right"], c["right"], record["n"])[0] > 0 for c in cheap),
        ours["seam"] < min(c["seam"] for c in cheap),
    )
    said = "; ".join(
        f"{name}: right {share(r['right'], record['n'], 1)}, seam {r['seam']:.3f}" for name, r in ways.items()
    )
    kept = max(r["outside"] for r in ways.values())
    return Finding(
        HOLDS if right and smooth and kept == 0 else PARTLY if right or smooth else FAILS,
        f"{said}; true change outside {kept:g}, seam of the untouched picture {record['border']:.3f}",
    )


# --------------------------------------------------------------------------- C9


def with_room(
    models: GlideModels, first: list[Scene], scenes: list[Scene], seed: int
) -> tuple[Tensor, Tensor]:
    """Pictures (n 3 32 32) of the first things alone, and the place (n 1 32 32) left to the second.

    A picture without room beside its thing is painted anew, as a person would do, TRIES times at most.
    """
    n, alone = len(scenes), [caption(scene) for scene in first]
    place, found = torch.zeros(n, 1, 32, 32), torch.zeros(n, 3, 32, 32)
    todo, tries = list(range(n)), 0
    while todo and tries < TRIES:
        parts = [todo[k : k + 64] for k in range(0, len(todo), 64)]
        made = torch.cat(
            [
                glide(
                    models.inpaint,
                    [alone[i] for i in part],
                    steps=STEPS,
                    w=W,
                    seed=seed + 1000 * tries + part[0],
                ).picture.cpu()
                for part in parts
            ]
        )
        rooms = torch.cat(
            [room(scenes[i], silhouette(made[k : k + 1], [first[i]])) for k, i in enumerate(todo)]
        )
        good = rooms.flatten(1).any(1) | (tries == TRIES - 1)
        for k, i in enumerate(todo):
            if good[k]:
                found[i], place[i] = made[k], rooms[k] if rooms[k].any() else half(scenes[i])
        todo, tries = [i for k, i in enumerate(todo) if not good[k]], tries + 1
    return found, place


def measure_session(models: GlideModels, *, n: int, seed: int, part: Part = at_once) -> Record:
    """n captions of two things: painted from the caption at once, or first one thing and then, beside it,
    the other.
    """
    scenes = new_scenes(n, seed + 51, things=2)
    texts = [caption(scene) for scene in scenes]
    wanted = [attributes(scene) for scene in scenes]
    rows = [slice(i, min(i + 64, n)) for i in range(0, n, 64)]

    def right(pictures: Tensor) -> float:
        return models.oracle.right(enlarged(pictures), wanted).double().mean().item()

    def at_once_() -> float:
        return right(
            torch.cat(
                [
                    glide(models.base, texts[r], steps=STEPS, w=W, seed=seed + r.start).picture.cpu()
                    for r in rows
                ]
            )
        )

    def in_steps() -> Record:
        first = [Scene(scene.background, scene.ground, scene.things[:1]) for scene in scenes]
        found, place = with_room(models, first, scenes, seed)
        second = torch.cat(
            [
                inpaint(
                    models.inpaint,
                    found[r],
                    place[r],
                    texts[r],
                    steps=STEPS,
                    w=W,
                    seed=seed + 500_000 + r.start,
                ).picture.cpu()
                for r in rows
            ]
        )
        ones = [attributes(scene) for scene in first]
        return dict(
            right=right(second),
            first=models.oracle.right(enlarged(found), ones).double().mean().item(),
            room=place.mean().item(),
        )

    return dict(steps=STEPS, w=W, once=part("at once", at_once_), session=part("in steps", in_steps))


def room(scene: Scene, thing: Tensor) -> Tensor:
    """The side of a painted thing (1 1 32 32) on which the caption wants the other, if it is wide enough
    for one: (1 1 32 32).
    """
    dim = 3 if scene.relation == "left of" else 2
    line = thing.amax(5 - dim, keepdim=True).flatten()
    last = int(line.nonzero().max()) if line.any() else 31
    least = round(32 * (2 * 0.155 + 0.06))  # a small thing and a margin
    if 31 - last - 1 < least:
        return torch.zeros_like(thing)
    free = torch.zeros(32)
    free[last + 2 :] = 1
    return (
        free.view(1, 1, 1, 32).expand(1, 1, 32, 32).clone()
        if dim == 3
        else free.view(1, 1, 32, 1).expand(1, 1, 32, 32).clone()
    )


def half(scene: Scene) -> Tensor:
    """The half of the picture where the second thing belongs: (1 32 32)."""
    mask = torch.zeros(1, 32, 32)
    if scene.relation == "left of":
        mask[..., 16:] = 1
    else:
        mask[..., 16:, :] = 1
    return mask


SESSION = measurement("glide_session", measure_session, 512, ("glide_session.png",), FILLS)


def judge_session(record: Record) -> Finding:
    """Holds where the 95 % interval of two steps' share less one prompt's lies above 5 points; partly where
    two steps are right more often at all. Else does not hold.
    """
    two, one = record["session"]["right"], record["once"]
    ours = (
        f"two things and their relation, all right: one prompt "
        f"{share(record['once'], record['n'], 1)}, in two "
        f"steps {share(record['session']['right'], record['n'], 1)} "
        f"(by the model that fills holes, up to {TRIES} first pictures until one has room; the first thing "
        f"alone {record['session']['first']:.1%})"
    )
    return Finding(HOLDS if gap(two, one, record["n"])[0] >= 0.05 else PARTLY if two > one else FAILS, ours)
