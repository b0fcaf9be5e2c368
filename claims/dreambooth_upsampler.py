"""DreamBooth's claim (arXiv:2208.12242v2, supplementary material) about the second stage: an upsampler
must learn the subject, too.

The true subject, made small, is enlarged by an upsampler that does not know it, and by some that were
tuned on four pictures of it with noise of different strength on the small one. So what is measured is the
second stage alone, and the truth is known to the pixel. Four contexts of each subject; figures are of the
pixels that it covers. The paper lowers its level from 1e-3 to 1e-5 and does not say of what; as standard
deviations both are less than a grey level, .008, so larger ones stand beside them. With 8 subjects 20
minutes on a core."""

from __future__ import annotations

import base64
import zlib
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.claims.common import place
from palimpsest.claims.dreambooth import NAME, SHOWN, Case, draw_cases
from palimpsest.claims.page import FAILS, HOLDS, PARTLY, Finding, Measurement, Record
from palimpsest.claims.parts import Part, at_once
from palimpsest.methods.glide import upsample
from palimpsest.methods.learner import Course
from palimpsest.methods.super_resolution import dreambooth_upsampler, made_small
from palimpsest.metrics.image import psnr
from palimpsest.metrics.similarity import cosine
from palimpsest.weights.files import sha256
from palimpsest.weights.judges import Likeness, load_likeness
from palimpsest.weights.load import find, load
from palimpsest.weights.model import Model
from palimpsest.worlds.subjects import caption, render_subject, subject_mask

STEPS, LR, BATCH = 150, 3e-4, 4
LEVELS = (0.0, 1e-5, 1e-3, 0.05, 0.2)  # standard deviations of the noise on the small picture, in [−1, 1]
WALK = "fast27"
STRIPS = 2  # contexts of the first subject whose pictures the record keeps


class UpsamplerModels(NamedTuple):
    """The second stage and its judge."""

    upsampler: Model
    dino: Likeness
    name: str
    files: dict[str, str]


def open_upsampler(folder: str | Path | None = None, device: str = "cpu") -> UpsamplerModels:
    """The shipped models, or candidates of the same names in `folder`."""
    up, dino = (place(name, folder) for name in ("shapes-glide-upsampler", "shapes-dino"))
    return UpsamplerModels(
        load(up, device, torch.float32),
        load_likeness(dino, device),
        "shapes-glide-upsampler" if folder is None else Path(folder).name,
        {find(f).name: sha256(find(f)) for f in (up, dino)},
    )


def packed(pictures: Tensor) -> list[str]:
    """Pictures (n 3 y x) of 8 bits in letters, for a record."""
    bits = ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [base64.b64encode(zlib.compress(bytes(p.flatten().tolist()), 9)).decode() for p in bits]


def unpacked(letters: str) -> Tensor:
    """(3 y y), as it was packed."""
    bits = torch.frombuffer(bytearray(zlib.decompress(base64.b64decode(letters))), dtype=torch.uint8)
    side = round((len(bits) / 3) ** 0.5)
    return bits.float().view(3, side, side) / 127.5 - 1


def detail(pictures: Tensor, mask: Tensor) -> Tensor:
    """How much changes from pixel to pixel where the subject is: mean |difference| of neighbours, (b,).
    Less than the truth's is blur.
    """
    down, across = (pictures.diff(dim=k).abs().mean(1, keepdim=True) for k in (2, 3))
    return (down[..., :-1] + across[..., :-1, :]).mul(mask[..., :-1, :-1]).sum(dim=(1, 2, 3)) / mask[
        ..., :-1, :-1
    ].sum(dim=(1, 2, 3))


def compared(models: UpsamplerModels, case: Case, made: Tensor, first: bool) -> dict[str, Any]:
    """Enlarged pictures beside the true ones, where the subject is; of the first case the pictures, too."""
    size = models.upsampler.size
    made, true = made.cpu(), render_subject(case.subject, case.asked, size)
    mask = (subject_mask(case.subject, case.asked, size) > 0.5).to(true)
    alike = cosine(models.dino.images(made), models.dino.images(true))
    return dict(
        psnr=psnr(made, true, mask).mean().item(),
        dino=alike.mean().item(),
        detail=(detail(made, mask) / detail(true, mask)).mean().item(),
        strip=packed(made[:STRIPS]) if first else [],
    )


def measure(
    models: UpsamplerModels, *, n: int, seed: int, part: Part = at_once, levels: tuple[float, ...] = LEVELS
) -> Record:
    """n subjects, enlarged by interpolation, untuned, and tuned at each level of noise."""
    cases, model = draw_cases(n, seed), models.upsampler

    def small(case: Case) -> Tensor:
        return made_small(render_subject(case.subject, case.asked, model.size), 2)

    def interpolated(case: Case, first: bool) -> dict[str, Any]:
        made = F.interpolate(small(case), scale_factor=2, mode="bicubic").clamp(-1, 1)
        return compared(models, case, made, first)

    def enlarged(case: Case, first: bool, net: Model, identifier: str | None) -> dict[str, Any]:
        texts = [caption(c, identifier, case.subject.noun) for c in case.asked]
        made = upsample(net, small(case).to(net.device), texts, steps=WALK, seed=seed)
        return compared(models, case, made, first)

    def tuned(case: Case, first: bool, aug: float) -> dict[str, Any]:
        shown = case.given[:SHOWN]
        learned = dreambooth_upsampler(
            model,
            render_subject(case.subject, shown, model.size),
            case.subject.noun,
            identifier=NAME,
            prompts=[caption(c, NAME, case.subject.noun) for c in shown],
            aug=aug,
            tune_text=True,
            course=Course(steps=STEPS, lr=LR, batch=BATCH, seed=seed),
        )
        return enlarged(case, first, learned.model, NAME)

    ways: dict[str, list[dict[str, Any]]] = {}
    for k, case in enumerate(cases):
        todo = {
            "bicubic": partial(interpolated, case, k == 0),
            "not tuned": partial(enlarged, case, k == 0, model, None),
            **{f"tuned, noise {aug:g}": partial(tuned, case, k == 0, aug) for aug in levels},
        }
        for name, work in todo.items():
            ways.setdefault(name, []).append(part(f"subject {k}, {name}", work))
    first = cases[0]
    return dict(
        steps=STEPS,
        lr=LR,
        levels=list(levels),
        nouns=[case.subject.noun for case in cases],
        strip=dict(
            small=packed(small(first)[:STRIPS]),
            true=packed(render_subject(first.subject, first.asked, model.size)[:STRIPS]),
            said=[caption(c, NAME, first.subject.noun) for c in first.asked[:STRIPS]],
        ),
        ways={
            name: {key: sum(row[key] for row in rows) / n for key in ("psnr", "dino", "detail")}
            | dict(strip=rows[0]["strip"])
            for name, rows in ways.items()
        },
    )


UPSAMPLER = Measurement(
    "dreambooth_upsampler", measure, 8, 0, ("dreambooth_upsampler.png",), open_upsampler, ("shapes-dino",)
)


def judge_upsampler(record: Record) -> Finding:
    """PSNR to the true subject. Holds where tuned with the least noise it is at least .5 dB above that of
    the untuned upsampler, and above that of tuning with the most noise; partly where tuned at any level
    it is above the untuned. Else does not hold."""
    ways, levels = record["ways"], record["levels"]
    plain, tuned = ways["not tuned"], [ways[f"tuned, noise {aug:g}"] for aug in levels]
    gain = tuned[0]["psnr"] - plain["psnr"]
    ours = "; ".join(
        f"{words}: bicubic {ways['bicubic'][key]:{how}}, not tuned {plain[key]:{how}}, tuned with noise "
        + ", ".join(f"{aug:g} {row[key]:{how}}" for aug, row in zip(levels, tuned))
        for words, key, how in (
            ("PSNR in dB", "psnr", ".1f"),
            ("detail as a share of the truth's", "detail", ".2f"),
            ("DINO", "dino", ".3f"),
        )
    )
    return Finding(
        HOLDS
        if gain >= 0.5 and tuned[0]["psnr"] > tuned[-1]["psnr"]
        else PARTLY
        if max(row["psnr"] for row in tuned) > plain["psnr"]
        else FAILS,
        ours,
    )
