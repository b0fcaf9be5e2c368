"""Ways to edit a given scene of shapes, at settings that are chosen on other pairs, and what each edit is
worth beside the truth. What FlowEdit's, Text2LIVE's and the scoreboard's measurements share.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from palimpsest.claims.common import Edits, Models, in_batches
from palimpsest.claims.page import Record
from palimpsest.methods.diffedit import diffedit
from palimpsest.methods.flow_edit import flow_edit, walked
from palimpsest.methods.instruct_pix2pix import instruct_pix2pix
from palimpsest.methods.prompt_to_prompt import Injection, prompt_to_prompt
from palimpsest.methods.rf_inversion import rf_inversion
from palimpsest.methods.sdedit import sdedit
from palimpsest.methods.variants import direct, edit_friendly
from palimpsest.metrics.image import psnr
from palimpsest.samplers.ddim import invert, sample
from palimpsest.samplers.flow import time_of_flow
from palimpsest.weights.counting import counted
from palimpsest.weights.model import Model
from palimpsest.worlds.shapes import Edit, Scene, instruction

STEPS = 12  # of a whole walk, whatever the method
HIGHEST = 60.0  # dB: a copy has infinitely many
RESAMPLES = 1000  # of the pictures, for an interval
COPY, TRUTH = "the picture as it was", "the true edit through the autoencoder"


class Asked(NamedTuple):
    """What a way is given: some pictures and the words about them; picture i draws from seed + i."""

    x: Tensor
    source: list[str]
    target: list[str]
    scenes: list[Scene]
    edits: list[Edit]
    seed: int


Setting = dict[str, float]
Way = Callable[[Model, Asked, Setting], Tensor]  # pictures (b 3 y x), nothing pasted


def by_sdedit(model: Model, a: Asked, s: Setting) -> Tensor:
    return sdedit(model, a.x, a.target, steps=STEPS, seed=a.seed, **s).picture


def by_diffedit(model: Model, a: Asked, s: Setting) -> Tensor:
    return diffedit(model, a.x, a.source, a.target, steps=STEPS, seed=a.seed, **s).raw


def by_inversion(model: Model, a: Asked, s: Setting) -> Tensor:
    """DDIM's inversion under the source text and its walk back under the target, at FlowEdit's levels."""
    times = [time_of_flow(model.schedule, r) for r in walked(model.schedule, STEPS, s["start"])]
    x_0 = model.encode(a.x)
    z = invert(model.denoiser(a.source), model.schedule, x_0, times)[0]
    return model.decode(sample(model.denoiser(a.target, s["w"]), model.schedule, z, times)[-1])


def by_flow_edit(model: Model, a: Asked, s: Setting) -> Tensor:
    return flow_edit(
        model,
        a.x,
        a.source,
        a.target,
        steps=STEPS,
        start=s["start"],
        w_source=1.0,
        w_target=s["w"],
        seed=a.seed,
    ).raw


def by_rf_inversion(model: Model, a: Asked, s: Setting) -> Tensor:
    return rf_inversion(model, a.x, a.target, steps=STEPS, seed=a.seed, **s).picture


def by_prompt_to_prompt(model: Model, a: Asked, s: Setting, way: Callable[..., Any]) -> Tensor:
    up = way(model, a.x, a.source, steps=STEPS, w=s["w"])
    injection = Injection(cross=s["cross"], self_=s["self_"])
    return prompt_to_prompt(
        model, a.source, a.target, start=up, injection=injection, w=s["w"], paste=False
    ).raw


def by_instruction(model: Model, a: Asked, s: Setting) -> Tensor:
    asked = [instruction(scene, edit) for scene, edit in zip(a.scenes, a.edits)]
    return instruct_pix2pix(model, a.x, asked, steps=STEPS, seed=a.seed, **s).picture


INJECTED = [dict(w=w, cross=cross, self_=self_) for w, cross, self_ in ((2.0, 0.4, 0.2), (3.0, 0.8, 0.4))]
WAYS: dict[str, tuple[Way, list[Setting]]] = {
    "SDEdit": (by_sdedit, [dict(t0=t0, w=3.0) for t0 in (0.5, 0.7, 0.85)]),
    "DDIM inversion": (by_inversion, [dict(start=s, w=w) for s, w in ((0.65, 3.0), (0.8, 3.0), (0.92, 3.0))]),
    "DiffEdit": (by_diffedit, [dict(ratio=r, w=3.0) for r in (0.5, 0.7, 0.9)]),
    "Prompt-to-Prompt on direct inversion": (partial(by_prompt_to_prompt, way=direct), INJECTED),
    "Prompt-to-Prompt on edit-friendly": (partial(by_prompt_to_prompt, way=edit_friendly), INJECTED),
    "RF-Inversion": (by_rf_inversion, [dict(eta=0.9, hold=h, w=3.0) for h in (0.25, 0.5)]),
    "FlowEdit": (by_flow_edit, [dict(start=s, w=3.0) for s in (0.65, 0.8, 0.92)]),
    "InstructPix2Pix": (by_instruction, [dict(s_text=3.0, s_image=i) for i in (1.2, 1.6)]),
}


class Made(NamedTuple):
    """What a way makes of some edits."""

    pictures: Tensor  # (n 3 y x), on the CPU
    evaluations: float  # of the net, per picture
    seconds: float  # per picture


def made(model: Model, way: Way, setting: Setting, drawn: Edits, rows: Sequence[int], seed: int) -> Made:
    """What a way makes of these rows."""
    rows, began = list(rows), time.process_time()

    def one(of: slice) -> Tensor:
        some = rows[of]
        words = (
            [given[i] for i in some] for given in (drawn.source, drawn.target, drawn.scenes, drawn.edits)
        )
        return way(model, Asked(drawn.before[some].to(model.device), *words, seed + of.start), setting).cpu()

    calls = []
    with counted(model, 1) as evaluations:
        pictures = in_batches(one, len(rows))
        calls = evaluations.each
    return Made(pictures.float(), float(calls.sum()) / len(rows), (time.process_time() - began) / len(rows))


def by_kind(drawn: Edits) -> dict[str, list[int]]:
    """Kind of edit -> its rows."""
    return {kind: drawn.rows(kind) for kind in dict.fromkeys(drawn.kinds)}


def chosen(
    model: Model, way: Way, settings: Sequence[Setting], others: Edits, seed: int
) -> dict[str, Setting]:
    """For each kind of edit the setting that comes nearest to the truth, in PSNR, on these pairs."""
    every = range(len(others.edits))
    db = torch.stack([truth_db(made(model, way, s, others, every, seed).pictures, others) for s in settings])
    return {kind: settings[int(db[:, rows].mean(1).argmax())] for kind, rows in by_kind(others).items()}


def made_at_best(model: Model, way: Way, best: dict[str, Setting], drawn: Edits, seed: int) -> Made:
    """What a way makes of all edits, of each kind at its setting."""
    pictures, evaluations, seconds = torch.empty_like(drawn.before), 0.0, 0.0
    n = len(drawn.edits)
    for kind, rows in by_kind(drawn).items():
        part = made(model, way, best[kind], drawn, rows, seed + rows[0])
        pictures[rows] = part.pictures
        evaluations += part.evaluations * len(rows) / n
        seconds += part.seconds * len(rows) / n
    return Made(pictures, evaluations, seconds)


# --------------------------------------------------------------------------- scores


def truth_db(pictures: Tensor, drawn: Edits) -> Tensor:
    """PSNR to the true edit, of each picture: (n,)."""
    return psnr(pictures, drawn.after).clamp(max=HIGHEST)


def scores(models: Models, pictures: Tensor, drawn: Edits) -> dict[str, Tensor]:
    """Of each picture (n,), float64: whether all attributes are right; whether what was to change did; PSNR
    outside the true change (NaN where everything changes), PSNR to the true edit.
    """
    rest = 1 - drawn.changed
    outside = torch.full((len(pictures),), torch.nan, dtype=torch.float64)
    some = rest.flatten(1).mean(1) >= 0.01
    outside[some] = psnr(pictures[some], drawn.before[some], rest[some]).clamp(max=HIGHEST).double()
    return dict(
        right=models.oracle.right(pictures, drawn.wanted).double(),
        reached=models.oracle.right(pictures, drawn.changes).double(),
        outside_db=outside,
        truth_db=truth_db(pictures, drawn).double(),
    )


def resamples(n: int, seed: int = 0) -> Tensor:
    """Rows drawn anew with replacement, the same ones for everything that is compared: (RESAMPLES n)."""
    return torch.randint(n, (RESAMPLES, n), generator=Generator().manual_seed(seed))


def interval(values: Tensor) -> list[float]:
    """[mean, low, high] of some numbers, NaN left out: the interval that 95 % of resampled means lie in."""
    values = values.double()
    values = values[~values.isnan()]
    if not len(values):
        return [float("nan")] * 3
    means = values[resamples(len(values))].mean(1)
    return [values.mean().item(), *means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()]


def table(found: dict[str, Tensor], drawn: Edits) -> Record:
    """Mean and interval of each score, over all edits and over each kind."""
    groups = {"all": list(range(len(drawn.edits)))} | by_kind(drawn)
    return {
        group: dict(n=len(rows)) | {name: shown(interval(v[rows])) for name, v in found.items()}
        for group, rows in groups.items()
    }


def shown(numbers: list[float]) -> list[float] | None:
    """As JSON can hold it: None where there is no number."""
    return None if numbers[0] != numbers[0] else numbers
