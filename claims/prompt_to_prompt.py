"""Prompt-to-Prompt's claim (arXiv:2208.01626v1): attention that is injected keeps the layout when words
are swapped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from palimpsest.claims.common import Edits, Models, draw_edits, in_batches
from palimpsest.claims.page import FAILS, HOLDS, PARTLY, Finding, Measurement, Record, share
from palimpsest.claims.parts import Part, at_once
from palimpsest.methods.local_blend import Blend
from palimpsest.methods.prompt_to_prompt import Injection, prompt_to_prompt
from palimpsest.metrics.image import psnr
from palimpsest.metrics.mask import iou
from palimpsest.worlds.drawing import second_tone
from palimpsest.worlds.scene import COLOURS
from palimpsest.worlds.shapes import Scene

KINDS = ("recolour", "reshape", "retexture", "background")
W, STEPS, SELF, CROSS = 3.0, 16, 0.4, 0.8
CROSSES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # the fraction of the steps in which the source's maps are used


def silhouette(pictures: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """Where a picture shows a thing and not the background, told by the named colours of its scene: (b 3
    y x) -> (b 1 y x).

    A background may be lighter or darker than its name (its texture is), so brightness within .25 is no
    difference to it."""
    masks = []
    for picture, scene in zip((pictures.cpu() + 1) / 2, scenes):
        tones = []
        for thing in scene.things:
            first = torch.tensor(COLOURS[thing.colour])
            tones += (
                [first, second_tone(first[None, :, None, None])[0, :, 0, 0]]
                if thing.texture != "plain"
                else [first]
            )
        off = picture - torch.tensor(COLOURS[scene.background])[:, None, None]
        lighter = off.mean(0).clamp(-0.25, 0.25)
        ground = (off - lighter).norm(dim=0)
        thing = torch.stack([(picture - tone[:, None, None]).norm(dim=0) for tone in tones]).amin(0)
        masks.append((thing < ground)[None])
    return torch.stack(masks).float()


def compared(
    models: Models,
    drawn: Edits,
    rows: Sequence[int],
    seed: int,
    cross: float,
    self_: float,
    blended: bool = False,
) -> Record:
    """Pairs from one noise: success, layout and what was kept, over some of the edits. blended: only
    where the thing's word looks.
    """
    source, target = ([texts[i] for i in rows] for texts in (drawn.source, drawn.target))
    blends = [
        Blend(
            *(scenes[i].things[drawn.edits[i].index].shape for scenes in (drawn.scenes, drawn.after_scenes))
        )
        if blended
        else None
        for i in rows
    ]

    def pair(part: slice) -> Tensor:
        found = prompt_to_prompt(
            models.model,
            source[part],
            target[part],
            injection=Injection(cross=cross, self_=self_),
            blend=blends[part],
            w=W,
            steps=STEPS,
            seed=seed + part.start,
        )
        return torch.stack([found.source_picture, found.raw], 1)

    before, after = in_batches(pair, len(rows), 32).unbind(1)
    made = models.oracle.right(before, [drawn.had[i] for i in rows])
    right = models.oracle.right(after, [drawn.wanted[i] for i in rows])
    there = silhouette(before, [drawn.scenes[i] for i in rows])
    here = silhouette(after, [drawn.after_scenes[i] for i in rows])
    neither = 1 - torch.maximum(there, here)
    some = (there + here).flatten(1).any(1) & neither.flatten(1).any(
        1
    )  # a picture that is all thing has no rest
    overlap = iou(here[some], there[some])
    kept = psnr(after.cpu()[some], before.cpu()[some], neither[some])
    return dict(
        n=len(rows),
        made=made.double().mean().item(),
        right=right.double().mean().item(),
        iou=overlap.mean().item(),
        kept_db=kept.clamp(max=60).mean().item(),
    )


def measure(
    models: Models, *, n: int, seed: int, part: Part = at_once, crosses: tuple[float, ...] = CROSSES
) -> Record:
    """n pairs of generated pictures, by kind, with injection and without, and blended; recolouring over
    how long is injected.
    """
    drawn = draw_edits(n, KINDS, seed + 30)

    def pairs(kind: str, cross: float, self_: float, blended: bool = False) -> Record:
        return part(
            f"{kind}, cross {cross:g}, self {self_:g}{', blended' if blended else ''}",
            lambda: compared(models, drawn, drawn.rows(kind), seed, cross, self_, blended),
        )

    kinds = {
        kind: {"injected": pairs(kind, CROSS, SELF), "uninjected": pairs(kind, 0.0, 0.0)} for kind in KINDS
    }
    for kind in KINDS[:3]:  # a background has no word whose maps are a place
        kinds[kind]["blended"] = pairs(kind, CROSS, SELF, blended=True)
    curve = [
        dict(cross=cross, self_=self_) | pairs("recolour", cross, self_)
        for self_ in (0.0, SELF)
        for cross in crosses
    ]
    return dict(w=W, steps=STEPS, cross=CROSS, self_=SELF, kinds=kinds, curve=curve)


LAYOUT = Measurement("layout", measure, 256, 0, ("layout.png",))


def judge_layout(record: Record) -> Finding:
    """On recoloured pairs. Holds where injection raises the IoU of the two silhouettes by ≥ .2 to ≥ .75
    and what neither covers by ≥ 8 dB, at a success at most 5 points lower. Partly where both rise. Else
    does not hold."""
    with_, without, blended = (
        record["kinds"]["recolour"][name] for name in ("injected", "uninjected", "blended")
    )

    def right(row: Record) -> str:
        return share(row["right"], row["n"])

    gain, kept = with_["iou"] - without["iou"], with_["kept_db"] - without["kept_db"]
    strict = gain >= 0.2 and with_["iou"] >= 0.75 and kept >= 8 and with_["right"] >= without["right"] - 0.05
    ours = (
        f"recolour, injected / not: silhouette IoU {with_['iou']:.2f} / {without['iou']:.2f}, the rest "
        f"{with_['kept_db']:.1f} / "
        f"{without['kept_db']:.1f} dB, all right {right(with_)} / {right(without)}; with local blend too "
        f"{blended['kept_db']:.1f} dB, {right(blended)}; IoU and all right of the others "
        + ", ".join(
            f"{kind} {r['injected']['iou']:.2f} / {r['uninjected']['iou']:.2f}, "
            f"{right(r['injected'])} / {right(r['uninjected'])}"
            for kind, r in record["kinds"].items()
            if kind != "recolour"
        )
    )
    return Finding(HOLDS if strict else PARTLY if gain > 0 and kept > 0 else FAILS, ours)
