"""Small files that change a model: low-rank changes (LoRA) and single words (Textual Inversion),
safetensors with their base's name.

`load` reads one like any model: it loads the base, then makes the change. The base may be such a file
itself. It is looked for beside the file, then where it lay from there, then by name; where it was one file,
its SHA-256 must be that of the base the change was learned on, whatever it is called now."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
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
Find = Callable[[str], Path]  # a name or path -> the file: weights.load.find


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


def record_of_base(base: str, file: Path, path: Path) -> dict[str, Any]:
    """What a change in `path` says of its base: as it was called, where it lies from there, and which it is.

    A folder has no hash.
    """
    here, there = (Path(os.path.realpath(p.parent)) / p.name for p in (path, file))
    try:
        way = Path(os.path.relpath(there, here.parent))
    except ValueError:  # on another drive
        way = there
    one = file.is_file()
    return dict(
        base=base,
        base_path=way.as_posix(),
        base_bytes=file.stat().st_size if one else 0,
        base_sha256=sha256(file) if one else "",
    )


def bases_of(path: Path, config: dict[str, Any], find: Find) -> list[Path]:
    """What may be the base of a change, the most likely first: what is beside it and as large, what its
    recorded path leads to from there, and what its name means here.
    """
    here, name = Path(os.path.realpath(path)), Path(config["base"]).name
    size = config.get("base_bytes")
    beside = [
        p
        for p in sorted(here.parent.iterdir(), key=lambda p: (p.stem != Path(name).stem, p.name))
        if p.is_file() and p != here and p.suffix in (".safetensors", ".ckpt")
        if (p.stat().st_size == size if size else p.stem == Path(name).stem)
    ]
    more = [here.parent / config["base_path"]] if config.get("base_path") else []
    try:
        more.append(find(config["base"]))
    except WeightsError:  # a name that means nothing here
        pass
    return [*beside, *(p for p in more if p.exists() and not (p.is_file() and p.samefile(here)))]


def base_of(path: Path, config: dict[str, Any], find: Find) -> Path:
    """The file or folder of the model that a change belongs to, told by its hash. Raises WeightsError where
    it is missing, and where there is only another of its name.
    """
    found, digest = bases_of(path, config, find), config["base_sha256"]
    for base in found:
        if not digest or (base.is_file() and sha256(base) == digest):
            return base
    name = Path(config["base"]).name
    if found:
        raise WeightsError(
            f"model: {path} changes another {name} than {found[0]}; put the one with the SHA-256 "
            f"{digest[:12]}… beside it"
        )
    if name == config["base"] and not Path(name).suffix:
        find(name)  # which says how it can be had
    raise WeightsError(
        f"model: {path} changes {name}, which is neither beside it nor at "
        f"{config.get('base_path') or config['base']}; put that file beside it"
    )


@torch.no_grad()
def apply_change(model: Model, config: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> Model:
    """The freshly loaded model, changed in place; earlier changes of it are put into its maps first. Raises
    WeightsError for tensors that do not fit.
    """
    model, wanted = merged_model(model), {}
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
