"""LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., arXiv:2106.09685v2), on a diffusion model's attention.

    h = W_0 x + (α/r) B A x                      Eq. (3) of the paper; A random, B = 0, W_0 frozen

`dreambooth(b, pictures, noun, rank=4)` learns A and B instead of the net: for Stable Diffusion v1 at r = 4, 797,184 numbers of 860 million.
Here is what is done with them afterwards.

    save_lora(learned.bundle, "zwx.safetensors", base="shapes")            # a few kilobytes
    b = load("zwx.safetensors")                                            # the base, changed
    merged(b)                                                              # a plain model, at the base's speed

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

from nets.lora import LoraLinear, adapted
from weights import Bundle, find
from weights.cache import write_tensors
from weights.changes import folded, of_lora
from weights.files import sha256


def merged(b: Bundle) -> Bundle:
    """A plain model that gives the same: W = W_0 + (α/r) B A."""  # Eq. (3), Sec. 4.1: no further cost in use
    return folded(b)


def scaled(b: Bundle, by: float) -> Bundle:
    """The change made `by` times as strong; 0 is the base, 1 the change as it was learned. (α of Sec. 4.1, after the fact)"""
    new = replace(b, net=copy.deepcopy(b.net), text=copy.deepcopy(b.text))
    for module in changed_maps(new).values():
        module.alpha *= by                                                 # Sec. 4.1: ΔW x is scaled by α/r
    return new


def changed_maps(b: Bundle) -> dict[str, LoraLinear]:
    """The maps of a bundle that have a low-rank change, "net.…" and "text.…"."""
    return {f"{part}.{name}": module for part, net in (("net", b.net), ("text", b.text)) if net is not None
            for name, module in adapted(net).items()}


def lora_size(b: Bundle) -> int:
    """How many numbers the changes are: Σ r (in + out)."""  # Sec. 4.2
    return sum(module.down.numel() + module.up.numel() for module in changed_maps(b).values())


def save_lora(b: Bundle, path: str | Path, base: str, about: dict[str, Any] | None = None) -> Path:
    """Write A and B as safetensors; `weights.load` reads the file wherever it finds `base`, the name or path of the model they change.

    about: further plain entries for its header. Raises ValueError for a bundle without changes, or a file that cannot be written.
    """
    tensors, config = of_lora(b)
    return _write(path, tensors, config, base, about)


def save_word(b: Bundle, path: str | Path, base: str, identifier: str, about: dict[str, Any] | None = None) -> Path:
    """Write the one vector that Textual Inversion found (methods/textual_inversion.py), likewise."""
    token, = (token for piece in b.tokenizer.pieces(identifier) for token in piece)
    config = dict(kind="word", token=token, identifier=identifier)
    return _write(path, {"vector": b.text.tokens.weight[token]}, config, base, about)


def _write(path: str | Path, tensors: dict[str, Tensor], config: dict[str, Any], base: str, about: dict[str, Any] | None) -> Path:
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"path: {path} must end in .safetensors")
    of = find(base)
    return write_tensors(path, tensors, {**(about or {}), **config, "base": base, "base_sha256": sha256(of) if of.is_file() else ""})
