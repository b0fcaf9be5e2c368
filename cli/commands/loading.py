"""The model that a command's options name: --model, changed by --lora and --embedding."""

from __future__ import annotations

import argparse

import torch

from palimpsest.cli.console import say
from palimpsest.weights.load import DType, load
from palimpsest.weights.model import Model


def load_model(
    a: argparse.Namespace,
    dtype: DType | None = None,
    device: str | torch.device | None = None,
    name: str | None = None,
) -> Model:
    """`load` with these options; the words that its files teach are told.

    dtype, device: in place of --dtype and --device. name: of another model, which is taken as it is.
    """
    changes = dict(lora=a.lora, embedding=a.embedding) if name is None else {}
    model = load(name or a.model, device or a.device, a.dtype if dtype is None else dtype, **changes)
    if any(changes.values()) and model.tokenizer is not None and device != "meta":
        taught = [
            f'"{word}"' + (f" ({len(tokens)} tokens)" if len(tokens) > 1 else "")
            for word, tokens in model.tokenizer.taught.items()
        ]
        if taught:
            say(f"note: taught words, to be said in a prompt: {', '.join(taught)}")
    return model
