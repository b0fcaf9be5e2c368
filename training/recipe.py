"""What the recipes share: a command line made from a signature, and the record of a finished run in the
manifest.
"""

from __future__ import annotations

import copy
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.cli.manners import Parser, exit_code, number, whole
from palimpsest.fit.run import Fitted
from palimpsest.weights.files import (
    FOLDER,
    MANIFEST,
    WeightsError,
    as_stored,
    fill,
    manifest,
    read_weights,
    restored,
    sha256,
    write_json,
    write_weights,
)
from palimpsest.worlds.scene import WORDS


def command_line(main: Callable[..., Any]) -> None:
    """Run a recipe's `main` with its keyword-only arguments taken from the command line, `--lr 1e-3
    --steps 100`.
    """
    parser = Parser(description=(sys.modules[main.__module__].__doc__ or "").splitlines()[0])
    for name, p in inspect.signature(main).parameters.items():
        kind = {int: whole, float: number}.get(type(p.default), str)
        parser.add_argument(
            "--" + name.replace("_", "-"), type=kind, default=p.default, help=f"(default: {p.default!r})"
        )
    sys.exit(exit_code(lambda: main(**checked(vars(parser.parse_args())))))


COUNTS = ("steps", "batch", "scenes", "n", "tests", "triplets", "reading", "reconstructions")


def checked(given: dict[str, Any]) -> dict[str, Any]:
    """A recipe's arguments, if what it counts is there to be counted: asked before the long work."""
    for name in COUNTS:
        if isinstance(given.get(name), int) and given[name] < 1:
            raise ValueError(f"{name}: must be at least 1, got {given[name]}")
    return given


def revision() -> str:
    """The git revision of the source, with "-dirty" where files differ from it; "unknown" outside a
    checkout or without git.
    """
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=FOLDER,
            capture_output=True,
            text=True,
        )
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


REVISION = revision()  # of the source that is about to run, not of what the checkout holds when it is done


@torch.no_grad()
def storage_error(
    modules: dict[str, nn.Module],
    answer: Callable[[dict[str, nn.Module]], Tensor],
    dtype: torch.dtype = torch.float16,
) -> float:
    """What `dtype` in the file costs: RMS change of answer(modules) once the weights are rounded,
    relative to its RMS.
    """
    exact, rounded = answer(modules), copy.deepcopy(modules)
    for module in rounded.values():
        module.load_state_dict(restored(as_stored(module.state_dict(), dtype)))
    return ((answer(rounded) - exact).square().mean() / exact.square().mean()).sqrt().item()


def start_from(init: str, modules: dict[str, nn.Module]) -> list[dict[str, Any]]:
    """Fill the modules from an earlier run's file, "" for none; what that file was trained with, run by
    run. New words stand at the end of the world's list: a file from before them is filled up with rows
    that no training has touched.
    """
    if not init:
        return []
    config, tensors = read_weights(init)
    words = config.get("words", [])
    added = len(WORDS) - len(words) if words and words == list(WORDS[: len(words)]) else 0
    for name, module in modules.items():
        for key, mine in module.state_dict().items():
            old = tensors.get(f"{name}.{key}")
            if (
                added
                and key.split(".")[-2:] == ["tokens", "weight"]
                and old is not None
                and len(old) == len(mine) - added
            ):
                tensors[f"{name}.{key}"] = torch.cat([old.float(), mine[len(old) :].cpu()])
        try:
            fill(module, tensors, name, init).train().requires_grad_(True)
        except WeightsError:
            raise ValueError(
                f"init: {init} holds another model than this recipe trains; name an earlier file of its own"
            ) from None
    return config["trained"]


def publish(
    name: str,
    modules: dict[str, nn.Module],
    config: dict[str, Any],
    *,
    out: str,
    recipe: str,
    arguments: dict[str, Any],
    fitted: Fitted,
    figures: dict[str, Any],
    earlier: list[dict[str, Any]],
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write `name`.safetensors into `out` and, where that is the package's own folder, its record into
    MANIFEST.json.

    earlier: the runs that this one went on from. The file's header carries them too, as `trained`. The
    steps of the record are those that were done, fewer than were asked for where a run was ended before.
    """
    arguments = arguments | dict(steps=len(fitted.losses))
    config = dict(
        config, trained=[*earlier, dict(arguments, seconds=round(fitted.seconds), revision=REVISION)]
    )
    path = write_weights(Path(out) / f"{name}.safetensors", modules, config, dtype)
    record = dict(
        kind=config["kind"],
        sha256=sha256(path),
        bytes=path.stat().st_size,
        recipe=f"python -m {recipe}",
        arguments=arguments,
        seed=arguments.get("seed"),
        steps=arguments["steps"],
        seconds=round(fitted.seconds),
        revision=REVISION,
        earlier=earlier,
        parameters=sum(p.numel() for m in modules.values() for p in m.parameters()),
        figures=figures,
    )
    if Path(out).resolve() == FOLDER.resolve():
        write_json(MANIFEST, dict(sorted({**manifest(), path.name: record}.items())))
    else:
        write_json(path.with_suffix(".json"), record)
    return path
