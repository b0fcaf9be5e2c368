"""The scoreboard of the emoji world: edits of pictures that no training saw, beside what an artist drew.

    make emoji-data
    python -m claims.emoji [--n 240] [--device cuda] [--models FOLDER] [--data runs/emoji_data] [--quick]

Each method is given a picture and its captions, or the instruction, and its result is compared with the true one: PSNR; PSNR to the picture
before, where the true edit changes nothing; cosine in our CLIP and LPIPS, where those are at hand. The picture before, untouched, is one of
the entries: most of a true edit is what it keeps, so that copying is hard to beat in PSNR. A method's settings are chosen for each kind of
edit on other held-out pairs, TUNE of them, by their PSNR. GLIDE's way is not here: no model of it is trained on emoji.

Writes figures/emoji.json, figures/emoji_edits.png (24 successes and 12 failures, chosen by score) and emoji_gallery.png, which shows them
with words; prints the table. What is measured of candidates in a FOLDER is written there.
"""
from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from claims.common import is_there, place, rounded
from claims.null_text import FAST
from claims.page import RECORDS, Record
from figures.make import make
from methods.cli import exit_code
from methods.diffedit import diffedit
from methods.instruct_pix2pix import instruct_pix2pix
from methods.inversion import Inversion, invert, redo
from methods.null_text import null_text
from methods.prompt_to_prompt import prompt_to_prompt
from methods.sdedit import sdedit
from methods.variants import direct, edit_friendly
from metrics.image import psnr
from metrics.similarity import cosine
from metrics.trunks import LPIPS
from weights import Bundle, WeightsError, find, load
from weights.catalogue import known
from weights.catalogue import place as kept_at
from weights.files import sha256, write_json
from weights.judges import Judge, load_judge
from weights.towers import load_lpips
from worlds.emoji import KINDS, Pair, World, caption, open_world, pairs, render
from worlds.files import write_picture

STEPS, BATCH = 25, 128
TUNE = 80                                        # pairs on which settings are chosen
W_BACK = 7.5                                     # of the reconstruction by null-text
COPY = "the picture as it was"
LEVELS = 4 / 255                                 # in [−1, 1]: a pixel that differs by more than two of 255 is changed
SUCCESSES, FAILURES, COLUMNS = 24, 12, 3
FLOORED = ("colour", "tone", "background")       # on these two methods must beat copying on more than half of the pairs


class EmojiModels(NamedTuple):
    """What edits emoji, and what judges beside the truth."""
    bundle: Bundle
    instruct: Bundle | None                      # None: not trained, as below
    clip: Judge | None
    lpips: LPIPS | None
    name: str
    files: dict[str, str]                        # the sha256 of each file, for the record


class Drawn(NamedTuple):
    """True edits: pictures (n 3 64 64), masks (n 1 64 64), captions and instructions."""
    kinds: list[str]
    source: list[str]
    target: list[str]
    asked: list[str]
    before: Tensor
    after: Tensor
    changed: Tensor                              # 1 where the true edit changes a pixel

    def rows(self, kind: str) -> list[int]:
        """Which of them are of this kind."""
        return [i for i, k in enumerate(self.kinds) if k == kind]


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
    there = {name: place(name, folder) for name in ("emoji", "emoji-instruct", "emoji-clip") if name == "emoji" or is_there(name, folder)}
    b = load(there["emoji"], device, torch.float32)
    instruct = load(there["emoji-instruct"], device, torch.float32) if "emoji-instruct" in there else None
    clip = load_judge(there["emoji-clip"], device) if "emoji-clip" in there else None
    try:
        lpips = load_lpips(kept_at(known("lpips-alex-trunk")), kept_at(known("lpips-alex")), device)
    except WeightsError:
        lpips = None
    files = [find(path) for path in (*there.values(), place("emoji-vae", folder))]
    return EmojiModels(b, instruct, clip, lpips, "emoji" if folder is None else Path(folder).name, {f.name: sha256(f) for f in files})


def held_out_pairs(world: World, seed: int) -> list[Pair]:
    """All true edits into pictures that are held out, the kinds in turn as long as there are some, otherwise in an order by chance."""
    rng = random.Random(f"held-out emoji {seed}")
    found = pairs(world, rng, held_out=True)
    queues = {kind: rng.sample(of, len(of)) for kind in KINDS if (of := [p for p in found if p.kind == kind])}
    return [queue[turn] for turn in range(max(map(len, queues.values()))) for queue in queues.values() if turn < len(queue)]


def drawn(world: World, chosen: Sequence[Pair]) -> Drawn:
    """The pictures and words of some pairs."""
    before, after = (render(world, [p[side] for p in chosen]) for side in (1, 2))
    changed = ((after - before).abs().amax(1, keepdim=True) > LEVELS).float()
    return Drawn([p.kind for p in chosen], [caption(p.before) for p in chosen], [caption(p.after) for p in chosen],
                 [p.instruction for p in chosen], before, after, changed)


# --------------------------------------------------------------------------- methods

Setting = dict[str, float]
Way = Callable[[EmojiModels, Asked, Setting], Tensor]


def by_sdedit(m: EmojiModels, a: Asked, s: Setting) -> Tensor:
    return sdedit(m.bundle, a.x, a.target, steps=STEPS, seed=a.seed, **s).picture


def by_diffedit(m: EmojiModels, a: Asked, s: Setting, masked: bool = True) -> Tensor:
    return diffedit(m.bundle, a.x, a.source, a.target, steps=STEPS, seed=a.seed, use_mask=masked, **s).picture


def by_prompt_to_prompt(m: EmojiModels, a: Asked, s: Setting, way: Callable[..., Inversion], how: dict[str, Any] | None = None) -> Tensor:
    up = way(m.bundle, a.x, a.source, steps=STEPS, w=s["w"], **(how or {}))
    return prompt_to_prompt(m.bundle, a.source, a.target, start=up, paste=False, **s).raw


def by_instruction(m: EmojiModels, a: Asked, s: Setting) -> Tensor:
    return instruct_pix2pix(m.instruct, a.x, a.instruction, steps=STEPS, seed=a.seed, **s).picture


INJECTED = [dict(w=w, cross=cross, self_=self_) for w, cross, self_ in ((2., .4, .2), (2., .8, .4), (4., .4, .2), (4., .8, .4))]
METHODS: dict[str, tuple[Way, list[Setting]]] = {
    "SDEdit": (by_sdedit, [dict(t0=t0, w=w) for t0 in (.4, .5, .6, .7, .8) for w in (2., 4.)]),
    "DDIM encoding": (partial(by_diffedit, masked=False), [dict(ratio=r, w=w) for r in (.5, .65, .8) for w in (1.5, 2.5, 4.)]),
    "DiffEdit": (by_diffedit, [dict(ratio=r, w=w) for r in (.5, .65, .8) for w in (2., 4.)]),
    "Prompt-to-Prompt on null-text": (partial(by_prompt_to_prompt, way=null_text, how=FAST), INJECTED),
    "Prompt-to-Prompt on direct inversion": (partial(by_prompt_to_prompt, way=direct), INJECTED),
    "Prompt-to-Prompt on edit-friendly": (partial(by_prompt_to_prompt, way=edit_friendly), INJECTED),
    "InstructPix2Pix": (by_instruction, [dict(s_text=t, s_image=i) for t, i in ((1., 1.), (1.5, 1.), (2., 1.2), (3., 1.2), (5., 1.5))])}


def made(models: EmojiModels, way: Way, setting: Setting, edits: Drawn, rows: Sequence[int], seed: int) -> Tensor:
    """What a method makes of these rows, BATCH at a time: (len(rows) 3 64 64), on the CPU."""
    parts = []
    for i in range(0, len(rows), BATCH):
        some = list(rows[i:i + BATCH])
        words = ([of[k] for k in some] for of in (edits.source, edits.target, edits.asked))
        parts.append(way(models, Asked(edits.before[some].to(models.bundle.device), *words, seed + i), setting).float().cpu())
    return torch.cat(parts)


def choose(models: EmojiModels, way: Way, settings: Sequence[Setting], edits: Drawn, seed: int) -> dict[str, Setting]:
    """For each kind of edit the setting nearest to the truth, in PSNR; for a kind that is not among them that of all together."""
    every = range(len(edits.kinds))
    db = torch.stack([psnr(made(models, way, s, edits, every, seed), edits.after).clamp(max=60) for s in settings])
    best = {kind: settings[int(db[:, edits.rows(kind) or list(every)].mean(1).argmax())] for kind in KINDS}
    return best


# --------------------------------------------------------------------------- scores

Scores = dict[str, Tensor]


def scored(models: EmojiModels, pictures: Tensor, edits: Drawn) -> Scores:
    """Of each picture (n,): db, gain over copying, outside_db (NaN where all is changed), clip and lpips where they are at hand."""
    copied, rest = psnr(edits.before, edits.after).clamp(max=60), 1 - edits.changed
    some = rest.flatten(1).mean(1) >= .01
    outside = torch.full((len(pictures),), float("nan"))
    if some.any():
        outside[some] = psnr(pictures[some], edits.before[some], rest[some]).clamp(max=60).float()
    db = psnr(pictures, edits.after).clamp(max=60)
    found = dict(db=db, gain=db - copied, outside_db=outside)
    device = models.bundle.device
    with torch.inference_mode():
        both = list(zip(pictures.split(BATCH), edits.after.split(BATCH)))
        if models.clip is not None:
            found["clip"] = torch.cat([cosine(*(models.clip.images(p.to(device)) for p in pair)).cpu() for pair in both])
        if models.lpips is not None:
            found["lpips"] = torch.cat([models.lpips(*(p.to(device) for p in pair)).flatten().cpu() for pair in both])
    return found


def row(scores: Scores, rows: Sequence[int]) -> Record:
    """The means over some pairs, and the share on which copying is beaten."""
    rows = list(rows)
    means = {key: mean for key, v in scores.items() if (mean := v[rows].double().nanmean().item()) == mean}
    return dict(n=len(rows), beats=(scores["gain"][rows] > 0).double().mean().item(), **means)


def rows_of(scores: Scores, edits: Drawn) -> Record:
    """The means over all pairs, and over each kind of edit."""
    return dict(all=row(scores, range(len(edits.kinds))), kinds={k: row(scores, found) for k in KINDS if (found := edits.rows(k))})


def back(models: EmojiModels, edits: Drawn, most: int = BATCH) -> Record:
    """PSNR of the pictures before through the autoencoder, and through null-text inversion at W_BACK, and back."""
    b, x = models.bundle, edits.before[:most]
    up = null_text(b, x.to(b.device), edits.source[:most], steps=STEPS, w=W_BACK, **FAST)
    there = {"autoencoder_db": b.decode(b.encode(x)), "null_text_db": b.decode(redo(b, up, w=W_BACK)[-1]),
             "w1_db": b.decode(redo(b, invert(b, x.to(b.device), edits.source[:most], steps=STEPS))[-1])}
    return dict(n=len(x), w=W_BACK, **{name: psnr(p.cpu(), x).mean().item() for name, p in there.items()})


# --------------------------------------------------------------------------- the gallery

class Shown(NamedTuple):
    """A pair in the gallery, and the method whose result is shown."""
    pair: int
    method: str
    gain: float


def gallery(gains: dict[str, Tensor], kinds: Sequence[str]) -> tuple[list[Shown], list[Shown]]:
    """Successes: the pairs on which some method gains most over copying; failures: those on which the best method gains least.

    No kind of edit has more than its share of either, as long as others are left; each pair is shown with its best method.
    """
    names = list(gains)
    table = torch.stack([gains[name] for name in names])                   # (methods n)
    best, which = table.max(0)
    order = best.argsort(descending=True).tolist()

    def first(order: Sequence[int], many: int, out: set[int]) -> list[int]:
        most, seen, found = -(-many // len(set(kinds))), Counter(), []
        for limit in (most, len(order)):                                   # evenly at first, then whatever is next
            for i in order:
                if len(found) < many and i not in out and i not in found and seen[kinds[i]] < limit:
                    seen[kinds[i]] += 1
                    found.append(i)
        return found
    top = first(order, min(SUCCESSES, len(order) * 2 // 3), set())
    low = first(order[::-1], min(FAILURES, len(order) - len(top)), set(top))
    return tuple([Shown(i, names[which[i]], best[i].item()) for i in sorted(rows, key=order.index)] for rows in (top, low))


def strips(edits: Drawn, results: dict[str, Tensor], shown: Sequence[Shown]) -> Tensor:
    """A sheet (1 3 y x), COLUMNS to a row: before, made, true, side by side."""
    cells = [torch.cat([edits.before[s.pair], results[s.method][s.pair], edits.after[s.pair]], -1) for s in shown]
    cells += [torch.ones_like(cells[0])] * (-len(cells) % COLUMNS)
    return torch.cat([torch.cat(cells[i:i + COLUMNS], -1) for i in range(0, len(cells), COLUMNS)], -2)[None]


# --------------------------------------------------------------------------- the whole

def measure(models: EmojiModels, world: World, *, n: int, seed: int, methods: dict[str, tuple[Way, list[Setting]]] | None = None,
            tune: int | None = None, say: Callable[[str], None] = lambda line: None) -> tuple[Record, Tensor]:
    """The record, and the sheet of the gallery's pictures."""
    every = held_out_pairs(world, seed)
    n = min(n, len(every) * 3 // 4)                                        # a small set leaves some to choose settings on
    edits, others = (drawn(world, part) for part in (every[:n], every[n:n + (TUNE if tune is None else tune)]))
    results, scores, record = {COPY: edits.before}, {}, {}
    for name, (way, settings) in (METHODS if methods is None else methods).items():
        if way is by_instruction and models.instruct is None:
            continue
        start = time.monotonic()
        chosen = choose(models, way, settings, others, seed + 10**6)
        results[name] = torch.empty_like(edits.before)
        for setting in settings:
            if rows := [i for i, kind in enumerate(edits.kinds) if chosen[kind] == setting]:
                results[name][rows] = made(models, way, setting, edits, rows, seed)
        record[name] = dict(settings={kind: chosen[kind] for kind in KINDS if edits.rows(kind)})
        say(f"{name}: {time.monotonic() - start:.0f} s")
    for name, pictures in results.items():
        scores[name] = scored(models, pictures, edits)
        record[name] = record.get(name, {}) | rows_of(scores[name], edits)
    b = models.bundle
    limit = scored(models, torch.cat([b.decode(b.encode(part)).cpu() for part in edits.after.split(BATCH)]), edits)
    shown = gallery({name: s["gain"] for name, s in scores.items() if name != COPY}, edits.kinds)
    listed = [dict(asked=edits.asked[s.pair], source=edits.source[s.pair], kind=edits.kinds[s.pair], method=s.method, gain=s.gain)
              for s in (*shown[0], *shown[1])]
    lacking = [name for name, there in (("emoji-instruct", models.instruct), ("emoji-clip", models.clip), ("lpips-alex", models.lpips))
               if there is None]
    whole = dict(steps=STEPS, tuned_on=len(others.kinds), missing=lacking, methods=record, limit=rows_of(limit, edits),
                 back=back(models, edits), successes=len(shown[0]), gallery=listed)
    return whole | dict(n=n, seed=seed), strips(edits, results, [*shown[0], *shown[1]])


def beaters(record: Record, kind: str) -> list[str]:
    """The methods that come nearer to the truth than copying on more than half of the pairs of a kind."""
    return [name for name, r in record["methods"].items() if name != COPY and kind in r["kinds"] and r["kinds"][kind]["beats"] > .5]


def table(record: Record) -> str:
    """The scoreboard in Markdown: dB gained over copying, the share of pairs on which it is beaten; then what beats it, and the floors."""
    copied, kinds = record["methods"][COPY], list(record["methods"][COPY]["kinds"])

    def cells(r: Record) -> list[str]:
        return [f"{v['gain']:+.1f} ({v['beats']:.0%})".replace("%", " %") for v in (r["all"], *(r["kinds"][k] for k in kinds))]

    def line(*words: str) -> str:
        return f"| {' | '.join(words)} |"
    plain = [f"{v['db']:.1f} dB" for v in (copied["all"], *(copied["kinds"][k] for k in kinds))]
    lines = [line("method", "all", *(f"{k} ({copied['kinds'][k]['n']})" for k in kinds)), line(*["---"] * (len(kinds) + 2)),
             line(f"{COPY}: PSNR to the true one", *plain)]
    lines += [line(name, *cells(r)) for name, r in record["methods"].items() if name != COPY]
    lines += [line("the true one through the autoencoder: the limit", *cells(record["limit"])), ""]
    extra = [more for more in (("outside_db", "PSNR to the picture before where nothing should change", 1),
             ("clip", "CLIP's similarity to the true one", 3), ("lpips", "LPIPS to the true one", 3)) if more[0] in copied["all"]]
    lines += [f"{words}: " + ", ".join(f"{name} {r['all'][key]:.{digits}f}" for name, r in record["methods"].items())
              for key, words, digits in extra]
    lines += [f"copying is beaten on most pairs of {kind} by: {', '.join(beaters(record, kind)) or 'none'}" for kind in kinds]
    lines += [""] + [f"floor: {words}: {'reached' if reached else 'MISSED'}" for words, reached in floors(record)]
    return "\n".join(lines)


def floors(record: Record) -> list[tuple[str, bool]]:
    """What must be reached, with what was measured, and whether it was."""
    limit, there = record["limit"]["all"]["db"], record["back"]
    found = [(f"autoencoder at least 29.5 dB on held-out emoji: {limit:.1f}", limit >= 29.5),
             (f"null-text within 1 dB of the autoencoder: {there['null_text_db']:.1f} of {there['autoencoder_db']:.1f} dB",
              there["null_text_db"] >= there["autoencoder_db"] - 1)]
    tones = {name: r["kinds"]["tone"]["gain"] for name, r in record["methods"].items() if name != COPY and "tone" in r["kinds"]}
    if tones:
        best = max(tones, key=tones.get)
        found.append((f"skin tones at least 5 dB above copying: {tones[best]:+.1f} ({best})", tones[best] >= 5))
    return found + [(f"two methods beat copying on most pairs of {kind}: {len(beaters(record, kind))}", len(beaters(record, kind)) >= 2)
                    for kind in FLOORED if kind in record["methods"][COPY]["kinds"]]


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m claims.emoji", description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=240, help="pairs, at least 1 (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="10 pairs, into runs/quick, to see that all runs")
    parser.add_argument("--models", metavar="FOLDER", help="measure candidates in FOLDER; figures go to FOLDER/claims")
    parser.add_argument("--data", default="runs/emoji_data", help="the pictures (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args(argv)
    if a.n < 1:
        raise ValueError(f"n: must be at least 1, got {a.n}")
    folder, start = Path("runs/quick") if a.quick else Path(a.models) / "claims" if a.models else RECORDS, time.monotonic()
    models, world = open_emoji(a.models, a.device), open_world(a.data)
    record, sheet = measure(models, world, n=10 if a.quick else a.n, seed=0, tune=10 if a.quick else None, say=partial(print, flush=True))
    folder.mkdir(parents=True, exist_ok=True)
    head = dict(command="python -m claims.emoji", model=models.name, files=models.files, seconds=round(time.monotonic() - start))
    write_json(folder / "emoji.json", rounded(head | record))
    write_picture(sheet, folder / "emoji_edits.png")
    make(["emoji_gallery.png"], folder, folder)
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
