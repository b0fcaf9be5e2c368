"""Checkpoints: the state of a run in one file, which is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def read_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The state that `write_checkpoint` wrote, if it belongs to this run.

    identity: what makes the run what it is: settings, digests of its data …; as state["run"] has it.
    Raises ValueError for a damaged file, and for that of another run: it says what differs.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        theirs = state["run"]
    except Exception as error:
        raise ValueError(
            f"checkpoint {path} is damaged or none of ours ({type(error).__name__}): "
            "delete it, or pass resume=False"
        ) from None
    other = [
        f"different {key}" if _is_digest(value) else f"{key}={theirs.get(key)} (now {value})"
        for key, value in identity.items()
        if theirs.get(key) != value
    ]
    if other:
        raise ValueError(
            f"checkpoint {path} belongs to a run with {', '.join(other)}: "
            "use its settings, delete it, or pass resume=False"
        )
    return state


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write beside the old file, then replace it in one step: at any moment one whole file is there.

    Raises OSError where that cannot be done, with the mend; the old file stays.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        # a full disk: torch raises RuntimeError, and keeps the OSError as its context
        cause = error if isinstance(error, OSError) else error.__context__
        reason = getattr(cause, "strerror", None) or str(error).splitlines()[0]
        part.unlink(missing_ok=True)
        raise OSError(
            f"checkpoint: {path} cannot be written ({reason}); make room there and start again with the "
            "same command: the run goes on from its last checkpoint"
        ) from None


def _is_digest(value: Any) -> bool:
    """Whether it is a SHA-256 in hexadecimal, which says nothing to a reader."""
    return isinstance(value, str) and len(value) == 64
