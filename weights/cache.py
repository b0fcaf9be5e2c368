"""Results that took long to compute, in safetensors files with a key that says what they belong to.

A key is a few short texts by name, among them the SHA-256 of a picture or of a model. A file with another
key is refused in one line that says what differs. Opening a file never runs code, and a write that breaks
off leaves the old file in place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from palimpsest.samplers.convert import PREDICTIONS
from palimpsest.weights.files import write_tensor_file
from palimpsest.weights.model import Model

HEADER = "palimpsest"


class CacheError(ValueError):
    """A file that is missing or damaged, or whose result belongs to something else."""


def digest(*tensors: Tensor) -> str:
    """The SHA-256 of the values, shapes and dtypes of tensors, in hexadecimal."""
    total = hashlib.sha256()
    for tensor in tensors:
        tensor = tensor.detach().cpu().contiguous()
        total.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def digest_model(model: Model) -> str:
    """The SHA-256 of a model: weights, schedule, how times are counted and how the prediction is read."""
    modules = [m for m in (model.net, model.text, model.vae) if m is not None]
    scale = torch.tensor([model.latent_scale, PREDICTIONS.index(model.prediction), model.shift])
    return digest(model.schedule.abar, scale, *(v for m in modules for v in m.state_dict().values()))


def write_tensors(path: str | Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> Path:
    """Write tensors, bit for bit, and JSON about them, in one step of the file system."""
    about = {**about, "digest": digest(*(tensors[name] for name in sorted(tensors)))}
    return write_tensor_file(path, tensors, {HEADER: json.dumps(about)})


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read (tensors, about) from a file that `write_tensors` wrote.

    Raises CacheError if it is missing or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise CacheError(f"{path}: there is no such file")
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get(HEADER)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        about = dict(json.loads(header))
        whole = about.pop("digest") == digest(*(tensors[name] for name in sorted(tensors)))
    except (SafetensorError, OSError, TypeError, ValueError, KeyError) as error:
        raise CacheError(
            f"{path}: is damaged, or no file of ours ({type(error).__name__}); make it again"
        ) from None
    if not whole:
        raise CacheError(f"{path}: is damaged (its SHA-256 is not that of its header); make it again")
    return tensors, about


def refuse_other(path: str | Path, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raise CacheError at the first entry of the wanted key that differs in the key of the file.

    Entries that `wanted` leaves out may be anything.
    """
    for name, value in wanted.items():
        other = found.get(name, "none")
        if other != value:
            digests = len(value) == len(other) == 64  # which say nothing to a reader
            differ = "" if digests else f" ({other!r}, not {value!r})"
            raise CacheError(
                f"{path}: was made for another {name}{differ}; give what it was made for, or make a new file"
            )
