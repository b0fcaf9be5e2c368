"""What the recipes share: a command line made from a signature, and the record of a finished run in the manifest."""
from __future__ import annotations

import inspect
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from methods.cli import Parser, exit_code, number, whole
from training.fit import rank_and_world
from weights.files import FOLDER, MANIFEST, manifest, sha256, write_json, write_weights


def command_line(main: Callable[..., Any]) -> None:
    """Run a recipe's `main` with its keyword-only arguments taken from the command line, `--lr 1e-3 --steps 100`."""
    parser = Parser(description=(sys.modules[main.__module__].__doc__ or "").splitlines()[0])
    for name, p in inspect.signature(main).parameters.items():
        kind = {int: whole, float: number}.get(type(p.default), str)
        parser.add_argument("--" + name.replace("_", "-"), type=kind, default=p.default, help=f"(default: {p.default!r})")
    sys.exit(exit_code(lambda: main(**vars(parser.parse_args()))))


def revision() -> str:
    """The git revision of the source, with "-dirty" where files differ from it; "unknown" outside a checkout or without git."""
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"], cwd=FOLDER,
                               capture_output=True, text=True)
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


class Stopwatch:
    """Seconds of training so far, kept in a file beside the checkpoint so that they add up over stops and resumptions.

        with Stopwatch(path) as watch:
            fit(…)
        watch.seconds
    """

    def __init__(self, path: str | Path):
        self.path, self.seconds = Path(path), 0.

    def __enter__(self) -> Stopwatch:
        self.start = time.time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.time() - self.start + (float(self.path.read_text()) if self.path.exists() else 0.)
        if rank_and_world()[0] == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(f"{self.seconds:.0f}")


def publish(name: str, modules: dict[str, nn.Module], config: dict[str, Any], *, out: str, recipe: str, arguments: dict[str, Any],
            seconds: float, figures: dict[str, Any]) -> Path:
    """Write `name`.safetensors into `out` and, where that is the package's own folder, its record into MANIFEST.json."""
    source = revision()
    path = write_weights(Path(out) / f"{name}.safetensors", modules, config)
    record = dict(kind=config["kind"], sha256=sha256(path), bytes=path.stat().st_size, recipe=f"python -m {recipe}", arguments=arguments,
                  seed=arguments.get("seed"), steps=arguments.get("steps"), seconds=round(seconds), revision=source,
                  earlier=config.get("trained", [])[:-1],
                  parameters=sum(p.numel() for m in modules.values() for p in m.parameters()), figures=figures)
    if Path(out).resolve() == FOLDER.resolve():
        write_json(MANIFEST, dict(sorted({**manifest(), path.name: record}.items())))
    else:
        write_json(path.with_suffix(".json"), record)
    return path
