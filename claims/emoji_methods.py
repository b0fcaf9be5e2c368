"""The methods on the emoji world's scoreboard, the settings they may choose from, and the pictures they make.

What a method makes of the held-out pairs is the dear part of claims/emoji.py, so it is kept as a file: a
run that was stopped goes on after the last method that was done, several processes may each take some of
them, and to score the pictures anew costs nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from palimpsest.claims.common import is_there, place
from palimpsest.claims.parts import code_of
from palimpsest.claims.text2live import TRAINING, VIEWS
from palimpsest.methods.diffedit import Ablation, diffedit
from palimpsest.methods.flow_edit import flow_edit
from palimpsest.methods.instruct_pix2pix import instruct_pix2pix
from palimpsest.methods.inversion import Inversion
from palimpsest.methods.ladder import FAST
from palimpsest.methods.null_text import null_text
from palimpsest.methods.prompt_to_prompt import Injection, prompt_to_prompt
from palimpsest.methods.sdedit import sdedit
from palimpsest.methods.text2live import Terms, text2live
from palimpsest.methods.variants import direct, edit_friendly
from palimpsest.metrics.image import psnr
from palimpsest.metrics.trunks import LPIPS
from palimpsest.weights.cache import CacheError, digest, read_tensors, write_tensors
from palimpsest.weights.files import WeightsError, sha256
from palimpsest.weights.judges import Judge, load_judge
from palimpsest.weights.load import find, load
from palimpsest.weights.model import Model
from palimpsest.weights.public.catalogue import lookup
from palimpsest.weights.public.catalogue import require_on_disk as kept_at
from palimpsest.weights.public.towers import load_lpips
from palimpsest.worlds.emoji import KINDS, Pair, World, caption, pairs, render

STEPS, BATCH = 25, 64
COPY = "the picture as it was"
LEVELS = 4 / 255  # in [−1, 1]: a pixel that differs by more than two of 255 is changed


class EmojiModels(NamedTuple):
    """What edits emoji, and what judges beside the truth."""

    model: Model
    instruct: Model | None  # None: not trained, as below
    clip: Judge | None
    lpips: LPIPS | None
    name: str
    files: dict[str, str]  # the sha256 of each file, for the record


class Drawn(NamedTuple):
    """True edits: pictures (n 3 64 64), masks (n 1 64 64), captions and instructions."""

    kinds: list[str]
    source: list[str]
    target: list[str]
    asked: list[str]
    before: Tensor
    after: Tensor
    changed: Tensor  # 1 where the true edit changes a pixel

    def rows(self, kind: str) -> list[int]:
        """Which of them are of this kind."""
        return [i for i, k in enumerate(self.kinds) if k == kind]

    def first(self, n: int) -> Drawn:
        """The first n of them."""
        return Drawn(*(field[:n] for field in self))


class Asked(NamedTuple):
    """Some of them, as a method is given them; picture i draws from seed + i."""

    x: Tensor
    source: list[str]
    target: list[str]
    instruction: list[str]
    seed: int


# --------------------------------------------------------------------------- models and pairs


def open_emoji(folder: str | Path | None = None, device: str = "cpu") -> EmojiModels:
    """The shipped models of the emoji world, or candidates of the same names in `folder`."""
    there = {
        name: place(name, folder)
        for name in ("emoji", "emoji-instruct", "emoji-clip")
        if name == "emoji" or is_there(name, folder)
    }
    model = load(there["emoji"], device, torch.float32)
    instruct = load(there["emoji-instruct"], device, torch.float32) if "emoji-instruct" in there else None
    clip = load_judge(there["emoji-clip"], device) if "emoji-clip" in there else None
    try:
        lpips = load_lpips(kept_at(lookup("lpips-alex-trunk")), kept_at(lookup("lpips-alex")), device)
    except WeightsError:
        lpips = None
    files = [find(path) for path in (*there.values(), place("emoji-vae", folder))]
    return EmojiModels(
        model,
        instruct,
        clip,
        lpips,
        "emoji" if folder is None else Path(folder).name,
        {f.name: sha256(f) for f in files},
    )


def held_out_pairs(world: World, seed: int) -> list[Pair]:
    """All true edits into pictures that are held out, the kinds in turn as long as there are some,
    otherwise in an order by chance.
    """
    rng = random.Random(f"held-out emoji {seed}")
    found = pairs(world, rng, held_out=True)
    queues = {kind: rng.sample(of, len(of)) for kind in KINDS if (of := [p for p in found if p.kind == kind])}
    return [
        queue[turn]
        for turn in range(max(map(len, queues.values())))
        for queue in queues.values()
        if turn < len(queue)
    ]


def drawn(world: World, chosen: Sequence[Pair]) -> Drawn:
    """The pictures and words of some pairs."""
    before, after = (render(world, [p[side] for p in chosen]) for side in (1, 2))
    changed = ((after - before).abs().amax(1, keepdim=True) > LEVELS).float()
    return Drawn(
        [p.kind for p in chosen],
        [caption(p.before) for p in chosen],
        [caption(p.after) for p in chosen],
        [p.instruction for p in chosen],
        before,
        after,
        changed,
    )


# --------------------------------------------------------------------------- methods

Setting = dict[str, float]
Way = Callable[[EmojiModels, Asked, Setting], Tensor]


def by_sdedit(m: EmojiModels, a: Asked, s: Setting) -> Tensor:
    return sdedit(m.model, a.x, a.target, steps=STEPS, seed=a.seed, **s).picture


def by_diffedit(m: EmojiModels, a: Asked, s: Setting, ablation: Ablation = Ablation()) -> Tensor:
    return diffedit(
        m.model, a.x, a.source, a.target, steps=STEPS, seed=a.seed, ablation=ablation, **s
    ).picture


def by_prompt_to_prompt(
    m: EmojiModels, a: Asked, s: Setting, way: Callable[..., Inversion], how: dict[str, Any] | None = None
) -> Tensor:
    up = way(m.model, a.x, a.source, steps=STEPS, w=s["w"], **(how or {}))
    injection = Injection(cross=s["cross"], self_=s["self_"])
    return prompt_to_prompt(
        m.model, a.source, a.target, start=up, injection=injection, w=s["w"], paste=False
    ).raw


def by_flow_edit(m: EmojiModels, a: Asked, s: Setting) -> Tensor:
    return flow_edit(
        m.model,
        a.x,
        a.source,
        a.target,
        steps=STEPS,
        start=s["start"],
        w_source=1.0,
        w_target=s["w"],
        seed=a.seed,
    ).raw


def by_instruction(m: EmojiModels, a: Asked, s: Setting) -> Tensor:
    return instruct_pix2pix(m.instruct, a.x, a.instruction, steps=STEPS, seed=a.seed, **s).picture


def by_layer(m: EmojiModels, a: Asked, s: Setting) -> Tensor:
    """Text2LIVE: a CLIP trains a net for each picture."""
    made = [
        text2live(
            m.clip,
            x[None],
            source,
            target,
            layer_of(source, target),
            terms=Terms(**s),
            views=VIEWS,
            training=TRAINING,
            seed=a.seed + i,
        ).picture
        for i, (x, source, target) in enumerate(zip(a.x, a.source, a.target))
    ]
    return torch.cat(made)


GROUND = " on a"  # what begins the words about the ground


def layer_of(source: str, target: str) -> str:
    """What Text2LIVE's layer alone shows: the emoji over green; all, where the ground alone changes."""
    thing = target.rsplit(GROUND, 1)[0]
    return target if source.rsplit(GROUND, 1)[0] == thing else f"{thing} on a green background"


INJECTED = [
    dict(w=w, cross=cross, self_=self_)
    for w, cross, self_ in ((2.0, 0.4, 0.2), (2.0, 0.8, 0.4), (4.0, 0.4, 0.2))
]
METHODS: dict[str, tuple[Way, list[Setting]]] = {
    "SDEdit": (by_sdedit, [dict(t0=t0, w=w) for t0 in (0.4, 0.6, 0.8) for w in (2.0, 4.0)]),
    "DDIM encoding": (
        partial(by_diffedit, ablation=Ablation(use_mask=False)),
        [dict(ratio=r, w=w) for r in (0.5, 0.8) for w in (1.5, 2.5)],
    ),
    "DiffEdit": (by_diffedit, [dict(ratio=r, w=w) for r in (0.5, 0.65, 0.8) for w in (2.0, 4.0)]),
    "Inpainting in DiffEdit's mask": (
        partial(by_diffedit, ablation=Ablation(encode=False, blend="x0")),
        [dict(ratio=1.0, w=w) for w in (2.0, 4.0)],
    ),
    "Prompt-to-Prompt on null-text": (partial(by_prompt_to_prompt, way=null_text, how=FAST), INJECTED),
    "Prompt-to-Prompt on direct inversion": (partial(by_prompt_to_prompt, way=direct), INJECTED),
    "Prompt-to-Prompt on edit-friendly": (partial(by_prompt_to_prompt, way=edit_friendly), INJECTED),
    "FlowEdit": (by_flow_edit, [dict(start=s, w=w) for s, w in ((0.65, 2.0), (0.8, 2.0), (0.9, 4.0))]),
    "InstructPix2Pix": (
        by_instruction,
        [dict(s_text=t, s_image=i) for t, i in ((1.0, 1.0), (1.5, 1.0), (2.0, 1.2), (3.0, 1.2), (5.0, 1.5))],
    ),
    "Text2LIVE": (by_layer, [dict(sparsity=0.06)]),  # as claims/text2live.py chose on shapes
}
FEW = {"Text2LIVE": 20}  # method -> on how many of the pairs it is scored, where not on all


def needed(way: Way) -> str:
    """Which of the models that may be lacking makes the pictures: "instruct", "clip", or "" for none."""
    return "instruct" if way is by_instruction else "clip" if way is by_layer else ""


def made(
    models: EmojiModels, way: Way, setting: Setting, edits: Drawn, rows: Sequence[int], seed: int
) -> Tensor:
    """What a method makes of these rows, BATCH at a time: (len(rows) 3 64 64), on the CPU."""
    parts = []
    for i in range(0, len(rows), BATCH):
        some = list(rows[i : i + BATCH])
        words = ([of[k] for k in some] for of in (edits.source, edits.target, edits.asked))
        parts.append(
            way(models, Asked(edits.before[some].to(models.model.device), *words, seed + i), setting)
            .float()
            .cpu()
        )
    return torch.cat(parts)


def choose(
    models: EmojiModels, way: Way, settings: Sequence[Setting], edits: Drawn, seed: int
) -> dict[str, Setting]:
    """For each kind of edit the setting nearest to the truth, in PSNR; for a kind that is not among them
    that of all together.
    """
    if len(settings) == 1:
        return dict.fromkeys(KINDS, settings[0])
    every = range(len(edits.kinds))
    db = torch.stack(
        [psnr(made(models, way, s, edits, every, seed), edits.after).clamp(max=60) for s in settings]
    )
    best = {kind: settings[int(db[:, edits.rows(kind) or list(every)].mean(1).argmax())] for kind in KINDS}
    return best


# --------------------------------------------------------------------------- what they make, kept


class Made(NamedTuple):
    """What a method makes of some true edits."""

    pictures: Tensor  # (n 3 64 64) in [−1, 1], in steps of 1/255: as a file would hold them
    settings: dict[str, Setting]  # of each kind of edit
    seconds: float


def key_of(
    models: EmojiModels, settings: Sequence[Setting], edits: Drawn, others: Drawn, seed: int, needs: str
) -> dict[str, str]:
    """All that a method's pictures depend on: models, pairs, settings, and the code of this module."""
    idle = {"instruct", "clip"} - {needs}
    files = {name: of for name, of in models.files.items() if not any(k in name for k in idle)}
    words = [[d.kinds, d.source, d.target, d.asked] for d in (edits, others)]
    texts = dict(settings=settings, models=files, words=words, seed=seed, steps=STEPS, batch=BATCH)
    return {name: str(value) for name, value in texts.items()} | dict(
        pictures=digest(edits.before, edits.after, others.before, others.after), code=code_of(made)
    )


def pictures_of(
    models: EmojiModels,
    name: str,
    way: Way,
    settings: Sequence[Setting],
    edits: Drawn,
    others: Drawn,
    seed: int,
    folder: Path | None,
) -> Made:
    """Read from `folder` what this method made of these edits, or make it, its settings chosen on the
    others, and keep it there.
    """
    key = key_of(models, settings, edits, others, seed, needed(way))
    file = folder and folder / f"{name.lower().replace(' ', '-')}.safetensors"
    try:
        tensors, about = read_tensors(file) if file else ({}, {})
        if about.get("key") == key:
            return Made(tensors["pictures"].float() / 127.5 - 1, about["settings"], about["seconds"])
    except CacheError:  # not there yet, or torn: it is made
        pass
    start = time.monotonic()
    chosen = choose(models, way, settings, others, seed + 10**6)
    pictures = torch.empty_like(edits.before)
    for setting in settings:
        if rows := [i for i, kind in enumerate(edits.kinds) if chosen[kind] == setting]:
            pictures[rows] = made(models, way, setting, edits, rows, seed)
    levels = (127.5 * (pictures.clamp(-1, 1) + 1)).round().to(torch.uint8)
    seconds = time.monotonic() - start
    if file:
        write_tensors(file, dict(pictures=levels), dict(key=key, settings=chosen, seconds=seconds))
    return Made(levels.float() / 127.5 - 1, chosen, seconds)
