"""Checkpoints: the state of a run in one file, which is there whole or not at all."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from palimpsest.fit.processes import rank_and_world
from palimpsest.outputs import OutputError, locked, whole


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

    Raises OutputError where that cannot be done, with the mend; the old file stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path, sync=True) as part, open(part, "wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        # a full disk: torch raises RuntimeError, and keeps the OSError as its context
        cause = next((e for e in (error, error.__cause__, error.__context__) if _has_reason(e)), None)
        reason = cause.strerror if cause else str(error).splitlines()[0]
        raise OutputError(
            f"checkpoint: {path} cannot be written ({reason}); make room there and start again with the "
            "same command: the run goes on from its last checkpoint"
        ) from None


def one_run(path: str | Path | None) -> AbstractContextManager[None]:
    """A block in which this run alone writes that checkpoint. Raises OutputError where another run does."""
    if path is None or rank_and_world()[0] > 0:  # the process of rank 0 writes for all
        return nullcontext()
    return locked(path, "checkpoint")


def _has_reason(error: BaseException | None) -> bool:
    """Whether it is the operating system's own error, which says what is wrong."""
    return isinstance(error, OSError) and bool(error.strerror)


def _is_digest(value: Any) -> bool:
    """Whether it is a SHA-256 in hexadecimal, which says nothing to a reader."""
    return isinstance(value, str) and len(value) == 64
