"""Null-text inversions in files: kept for later edits, or from step to step so that a broken-off run goes on.

A file carries a key: digests of the picture and of the model, the prompt, and how it was tuned. What was made
for another key is refused in one line that says what differs.

    key = null_text_key(model, x, prompt, dict(w=7.5, steps=50))
    save_null_text("kept.safetensors", run, key)
    run = load_null_text("kept.safetensors", model, x, prompt)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from palimpsest.arguments import Picture, Scale, Texts, check, one_each
from palimpsest.methods.inputs import given_picture
from palimpsest.methods.null_text import NullText
from palimpsest.weights.cache import (
    CacheError,
    digest,
    digest_model,
    read_tensors,
    refuse_other,
    write_tensors,
)
from palimpsest.weights.model import Model

KEPT = ("nulls", "losses", "updates", "forwards", "z_bar")


def null_text_key(
    model: Model, x: Picture, prompt: Texts | None = None, settings: Mapping[str, object] | None = None
) -> dict[str, str]:
    """What a file is to belong to. Only what is given is asked of a file that is read.

    x: the pictures (b, 3, y, x); prompt: one, or one for each; settings: arguments of `null_text` by name.
    """
    check(null_text_key, locals())
    x = given_picture(model, x)
    key = {"picture": digest(x), "model": digest_model(model)}
    if prompt is not None:
        key["prompt"] = " | ".join(one_each("prompt", prompt, len(x)))
    return key | {name: str(value) for name, value in (settings or {}).items()}


def save_null_text(path: str | Path, run: NullText, key: Mapping[str, str]) -> Path:
    """Write it as safetensors, in one step of the file system; the old file stays where that fails."""
    tensors = {"path": torch.stack(run.path), **{name: getattr(run, name) for name in KEPT}}
    key = {**key, "prompt": " | ".join(run.prompts), "w": str(float(run.w)), "steps": str(len(run.times) - 1)}
    return write_tensors(path, tensors, dict(prompts=run.prompts, w=run.w, times=run.times, key=key))


def read_null_text(path: str | Path, model: Model, key: Mapping[str, str]) -> NullText:
    """What `save_null_text` wrote, finished or not, on the model's device.

    Raises CacheError (a ValueError) for a file that is missing, damaged, or of another key.
    """
    tensors, about = read_tensors(path)
    if not {"path", *KEPT} <= set(tensors) or "key" not in about:
        raise CacheError(f"{path}: holds no null-text inversion; name another file")
    refuse_other(path, about["key"], key)
    moved = {
        name: tensors[name].to(model.device) if name in ("nulls", "losses", "z_bar") else tensors[name]
        for name in KEPT
    }
    return NullText(
        tuple(about["prompts"]),
        about["w"],
        tuple(about["times"]),
        list(tensors["path"].to(model.device)),
        int(tensors["forwards"].max()),
        **moved,
    )


def load_null_text(
    path: str | Path, model: Model, x: Picture, prompt: Texts | None = None, w: Scale | None = None
) -> NullText:
    """A finished null-text inversion from a file, for the same model and pictures x (b, 3, y, x).

    prompt, w: refused if the file's are others; None asks for nothing. Raises CacheError (a ValueError) as
    `read_null_text`, and for an unfinished one.
    """
    check(load_null_text, locals())
    key = null_text_key(model, x, prompt, None if w is None else {"w": float(w)})
    run = read_null_text(path, model, key)
    if len(run.nulls) < len(run.times) - 1:
        raise CacheError(
            f"{path}: is unfinished, {len(run.nulls)} of {len(run.times) - 1} steps; go on with "
            "null_text(pivot=read_null_text(…)), on the command line with --save and the same settings"
        )
    return run
