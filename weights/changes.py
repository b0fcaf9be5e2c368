"""Small files that change a model: low-rank changes (LoRA) and single words (Textual Inversion),
safetensors with their base's name.

`load` reads one like any model: it loads the base, then makes the change. The base is looked for beside
the file, then by name; where it was one file, its SHA-256 must be that of the base the change was learned
on."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from palimpsest.arguments import ArgumentError
from palimpsest.nets.lora import adapt, adapted, merge
from palimpsest.weights.files import WeightsError, sha256

if TYPE_CHECKING:
    from palimpsest.weights.model import Model

CHANGES = ("lora", "word")  # kinds of such files


def lora_tensors(model: Model) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The low-rank changes of a model: tensors, and what rebuilds them. Raises ArgumentError for one without
    any."""
    parts = {
        name: adapted(module)
        for name, module in (("net", model.net), ("text", model.text))
        if module is not None and adapted(module)
    }
    if not parts:
        raise ArgumentError(
            "model",
            f"{model.name} has no low-rank changes to save; learn some with rank, or save the whole model",
        )
    one = next(iter(next(iter(parts.values())).values()))
    tensors = {
        f"{part}.{name}.{half}": getattr(module, half)
        for part, modules in parts.items()
        for name, module in modules.items()
        for half in ("down", "up")
    }
    return tensors, dict(kind="lora", rank=one.rank, alpha=one.alpha, parts=list(parts))


def merged_model(model: Model) -> Model:
    """A plain model that gives the same, each low-rank change put into its map; the same object where it has
    none."""
    changed = {
        name: module
        for name, module in (("net", model.net), ("text", model.text))
        if module is not None and adapted(module)
    }
    return (
        replace(model, **{name: merge(copy.deepcopy(module)) for name, module in changed.items()})
        if changed
        else model
    )


def base_of(path: Path, config: dict[str, Any], find: Any) -> Path:
    """The file or folder of the model that a change belongs to. Raises WeightsError where it is missing
    or another one.
    """
    beside = path.with_name(f"{Path(config['base']).stem}.safetensors")
    base = beside if beside.exists() else find(config["base"])
    if config["base_sha256"] and (not base.is_file() or sha256(base) != config["base_sha256"]):
        raise WeightsError(
            f"model: {path} changes another {base.name} than the one that is here; put that file beside it"
        )
    return base


@torch.no_grad()
def apply_change(model: Model, config: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> Model:
    """The freshly loaded model, changed in place. Raises WeightsError for tensors that do not fit."""
    wanted = {}
    if config["kind"] == "word":
        wanted["vector"] = model.text.tokens.weight[config["token"]]
    else:
        for part in config["parts"]:
            adapt(getattr(model, part), config["rank"], config["alpha"])
            wanted |= {
                f"{part}.{name}.{half}": getattr(module, half)
                for name, module in adapted(getattr(model, part)).items()
                for half in ("down", "up")
            }
    if wanted.keys() != tensors.keys() or any(wanted[name].shape != tensors[name].shape for name in wanted):
        raise WeightsError(
            f"model: {path} does not fit its base {config['base']}; take the base that it was learned on"
        )
    for name, place in wanted.items():
        place.copy_(tensors[name])
    for module in (model.net, model.text):
        module.eval().requires_grad_(False)
    return model
