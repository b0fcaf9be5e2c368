"""The model that a command's options name: --model, changed by --lora and --embedding."""

from __future__ import annotations

import argparse

import torch

from palimpsest.cli.console import say
from palimpsest.cli.manners import settle
from palimpsest.weights.load import DType, load
from palimpsest.weights.model import Model


def load_model(
    a: argparse.Namespace,
    dtype: DType | None = None,
    device: str | torch.device | None = None,
    name: str | None = None,
) -> Model:
    """`load` with these options; the words that its files teach are told. A model is loaded once for all
    the inputs of a command, and all settings of a sweep. Options that were left to the model
    get their values.

    dtype, device: in place of --dtype and --device. name: of another model, which is taken as it is.
    """
    changes = dict(lora=a.lora, embedding=a.embedding) if name is None else {}
    asked = (name or a.model, device or a.device, a.dtype if dtype is None else dtype)
    held, key = getattr(a, "held", {}), repr((asked, changes))
    if key not in held or device == "meta":
        held[key] = load(*asked, **changes)
        if any(changes.values()) and device != "meta":
            tell_taught(held[key])
    if name is None:
        settle(a, held[key])
    return held[key]


def tell_taught(model: Model) -> None:
    """Say which words a prompt may hold besides."""
    taught = [
        f'"{word}"' + (f" ({len(tokens)} tokens)" if len(tokens) > 1 else "")
        for word, tokens in (model.tokenizer.taught if model.tokenizer is not None else {}).items()
    ]
    if taught:
        say(f"note: taught words, to be said in a prompt: {', '.join(taught)}")
