"""LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., arXiv:2106.09685v2), on a diffusion
model's attention.

    h = W_0 x + (α/r) B A x                      Eq. (3) of the paper; A random, B = 0, W_0 frozen

`dreambooth(model, pictures, noun, rank=4)` learns A and B instead of the net: for Stable Diffusion v1 at
r = 4, 797,184 numbers of 860 million. This file does with them what is done afterwards.

    save_lora(learned.model, "zwx.safetensors", base="shapes")             # a few kilobytes
    model = load("zwx.safetensors")                                        # the base, changed
    merged(model)                                                       # a plain model, as fast as the base

    paper        code                              paper        code
    r, α         rank, alpha                       A, B         down, up
    W_0          base                              ΔW           scale · up @ down
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from palimpsest.arguments import ArgumentError
from palimpsest.nets.lora import LoraLinear, adapted
from palimpsest.outputs import check_outputs
from palimpsest.weights.cache import write_tensors
from palimpsest.weights.changes import lora_tensors, merged_model, record_of_base
from palimpsest.weights.load import files_of, find
from palimpsest.weights.model import Model


def merged(model: Model) -> Model:
    """A plain model that gives the same: W = W_0 + (α/r) B A."""  # Eq. (3), Sec. 4.1: no further cost in use
    return merged_model(model)


def scaled(model: Model, by: float) -> Model:
    """The model with its change `by` times as strong: 0 is the base, 1 the change as it was learned."""
    new = replace(model, net=copy.deepcopy(model.net), text=copy.deepcopy(model.text))
    for module in changed_maps(new).values():
        module.alpha *= by  # Sec. 4.1: ΔW x is scaled by α/r
    return new


def changed_maps(model: Model) -> dict[str, LoraLinear]:
    """The maps of a model that have a low-rank change, by name: "net.…" and "text.…"."""
    return {
        f"{part}.{name}": module
        for part, net in (("net", model.net), ("text", model.text))
        if net is not None
        for name, module in adapted(net).items()
    }


def lora_size(model: Model) -> int:
    """How many numbers the changes are: Σ r (in + out)."""  # Sec. 4.2
    return sum(module.down.numel() + module.up.numel() for module in changed_maps(model).values())


def save_lora(model: Model, path: str | Path, base: str, about: dict[str, Any] | None = None) -> Path:
    """Write A and B as safetensors; `load` reads the file wherever it finds `base`.

    base: the name or path of the model that they change.

    about: further plain entries for its header. Raises ValueError for a model without changes, or a file
    that cannot be written.
    """
    tensors, config = lora_tensors(model)
    return _write(path, tensors, config, base, about)


def save_word(
    model: Model, path: str | Path, base: str, identifier: str, about: dict[str, Any] | None = None
) -> Path:
    """Write the one vector that Textual Inversion found, as `save_lora` does."""
    (token,) = (token for piece in model.tokenizer.pieces(identifier) for token in piece)
    config = dict(kind="word", token=token, identifier=identifier)
    return _write(path, {"vector": model.text.tokens.weight[token]}, config, base, about)


def _write(
    path: str | Path,
    tensors: dict[str, Tensor],
    config: dict[str, Any],
    base: str,
    about: dict[str, Any] | None,
) -> Path:
    if Path(path).suffix != ".safetensors":
        raise ArgumentError("path", f"{path} must end in .safetensors")
    check_outputs({"base": files_of(base)}, {"path": [path]})
    return write_tensors(path, tensors, (about or {}) | config | record_of_base(base, find(base), Path(path)))
