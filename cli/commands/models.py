"""palimpsest models: what is shipped."""

from __future__ import annotations

import argparse
from pathlib import Path

from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.console import tell
from palimpsest.cli.manners import Mistake, command
from palimpsest.weights.files import manifest


def declare_models(commands: argparse._SubParsersAction) -> None:
    """`palimpsest models` has none."""
    about = COMMANDS["models"]
    command(commands, "models", about, run_models)


def run_models(a: argparse.Namespace) -> None:
    """One line a model."""
    if not manifest():
        raise Mistake(
            "models: none are shipped with this copy; `make weights` and `make emoji-weights` train them"
        )
    width = max(len(Path(file).stem) for file in manifest())
    for file, record in manifest().items():
        figures = ", ".join(
            f"{k} {v:.4g}"
            for k, v in (record.get("bench") or record["figures"]).items()
            if isinstance(v, float)
        )
        name, megabytes, millions = Path(file).stem, record["bytes"] / 2**20, record["parameters"] / 1e6
        tell(
            f"{name:<{width}}{megabytes:6.1f} MB {millions:6.2f} M parameters  {record['recipe']}  {figures}"
        )
