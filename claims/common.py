"""What the measurements share: the models, scenes that no training saw, and batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.methods.instruct_pix2pix import instruct_pix2pix
from palimpsest.weights.files import manifest, sha256
from palimpsest.weights.judges import Oracle, load_reader
from palimpsest.weights.load import find, load
from palimpsest.weights.model import Autoencoder, Model
from palimpsest.worlds.shapes import (
    Edit,
    Scene,
    apply,
    attributes,
    caption,
    changed_mask,
    edits,
    instruction,
    is_held_out,
    render,
    sample_scene,
)

BATCH = 64


class Models(NamedTuple):
    """A text-to-picture model, its autoencoder, and the oracle reader that judges both."""

    model: Model
    oracle: Oracle
    vae: Autoencoder
    name: str  # where they came from, for the record
    files: dict[str, str]  # the sha256 of each file, for the record
    folder: str | Path | None = None  # where candidates lie; None for the shipped ones


def place(name: str, folder: str | Path | None) -> str | Path:
    """What loaders are given for a model: the shipped one's name, or the candidate of that name in
    `folder`.
    """
    return name if folder is None else Path(folder) / f"{name}.safetensors"


def is_there(name: str, folder: str | Path | None) -> bool:
    """Whether such a model is trained."""
    return f"{name}.safetensors" in manifest() if folder is None else Path(place(name, folder)).exists()


def open_models(folder: str | Path | None = None, device: str = "cpu") -> Models:
    """The shipped models, or candidates of the same names in `folder`."""
    model = load(place("shapes", folder), device, torch.float32)
    name = "shapes" if folder is None else Path(folder).name
    paths = [find(place(file, folder)) for file in ("shapes", "shapes-reader", "shapes-vae")]
    return Models(
        model,
        load_reader(place("shapes-reader", folder), device),
        Autoencoder(model.vae, model.latent_scale),
        name,
        {path.name: sha256(path) for path in paths},
        folder,
    )


def new_scenes(n: int, seed: int, *, things: int | None = None, held_out: bool | None = False) -> list[Scene]:
    """n scenes that no training saw: recipes seed with whole numbers, this with a text."""
    rng = random.Random(f"held-out scenes {seed}")
    return [sample_scene(rng, things, held_out) for _ in range(n)]


class Edits(NamedTuple):
    """Edits whose true result is known. Pictures (n, 3, 64, 64), masks (n, 1, 64, 64), the rest lists of
    n.
    """

    scenes: list[Scene]
    edits: list[Edit]
    after_scenes: list[Scene]  # the true edited scenes
    kinds: list[str]
    source: list[str]  # captions of what is there
    target: list[str]  # and of what is wished for
    had: list[dict[str, str]]  # every attribute before the edit
    wanted: list[dict[str, str]]  # and after it
    before: Tensor
    after: Tensor  # the true result
    changed: Tensor  # 1 where the true edit changes a pixel

    @property
    def changes(self) -> list[dict[str, str]]:
        """Of `wanted` what was not there before; everything where nothing is named that was not (a swap)."""
        return [{k: v for k, v in w.items() if v != a.get(k)} or w for w, a in zip(self.wanted, self.had)]

    def rows(self, kind: str) -> list[int]:
        """Which of them are of this kind."""
        return [i for i, k in enumerate(self.kinds) if k == kind]


def choose_edit(scene: Scene, kind: str, rng: random.Random) -> Edit | None:
    """An edit of this kind that leads to no held-out pair, None where there is none."""
    found = [e for e in edits(scene) if e.kind == kind and not is_held_out(apply(scene, e))]
    return rng.choice(found) if found else None


def draw_edits(n: int, kinds: Sequence[str], seed: int, *, things: int | None = None) -> Edits:
    """n edits of scenes that no training saw, the kinds in turn."""
    rng = random.Random(f"edits {seed}")
    scenes: list[Scene] = []
    chosen: list[Edit] = []
    for scene in new_scenes(4 * n, seed, things=things):  # some scenes have no edit of the kind
        edit = choose_edit(scene, kinds[len(chosen) % len(kinds)], rng) if len(chosen) < n else None
        if edit is not None:
            scenes.append(scene)
            chosen.append(edit)
    after = [apply(s, e) for s, e in zip(scenes, chosen)]
    return Edits(
        scenes,
        chosen,
        after,
        [e.kind for e in chosen],
        [caption(s) for s in scenes],
        [caption(s) for s in after],
        [attributes(s) for s in scenes],
        [attributes(s) for s in after],
        render(scenes),
        render(after),
        torch.cat([changed_mask(s, e) for s, e in zip(scenes, chosen)]),
    )


def in_batches(verb: Callable[[slice], Tensor], n: int, batch: int = BATCH) -> Tensor:
    """verb(slice) for n pictures, `batch` at a time, without gradients: (n …)."""
    with torch.inference_mode():
        return torch.cat([verb(slice(i, min(i + batch, n))) for i in range(0, n, batch)])


def autoencoded(models: Models, pictures: Tensor) -> Tensor:
    """Through the autoencoder and back: what the model's pictures can be at best."""
    vae, device = models.vae, models.model.device
    return in_batches(lambda rows: vae.decode(vae.encode(pictures[rows].to(device))), len(pictures))


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's: 1 where y only rises with x, −1 where it only falls; ties share their mean rank, and a
    constant gives 0.
    """
    v = torch.tensor([list(x), list(y)], dtype=torch.float64)
    ranks = ((v[:, :, None] > v[:, None]).sum(-1) + ((v[:, :, None] == v[:, None]).sum(-1) - 1) / 2).double()
    return float(torch.corrcoef(ranks)[0, 1].nan_to_num(0.0))


def rounded(value: object, digits: int = 5) -> object:
    """Floats in a nest of dicts and lists cut to `digits` significant digits, to be read and compared."""
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v, digits) for v in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def by_instruction(
    model: Model, drawn: Edits, s_text: float, s_image: float, steps: int, seed: int
) -> Tensor:
    """What InstructPix2Pix makes of the pictures, told what to change in words."""
    asked = [instruction(s, e) for s, e in zip(drawn.scenes, drawn.edits)]
    return in_batches(
        lambda rows: (
            instruct_pix2pix(
                model,
                drawn.before[rows].to(model.device),
                asked[rows],
                s_text=s_text,
                s_image=s_image,
                steps=steps,
                seed=seed + rows.start,
            ).picture
        ),
        len(asked),
    )
