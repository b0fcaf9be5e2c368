"""What the recipes share: a command line made from a signature, and the record of a finished run in the
manifest.
"""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from palimpsest.arguments import Count, Interval, Positive, Rounds, check
from palimpsest.cli.manners import Parser, exit_code_of, options
from palimpsest.fit.processes import rank_and_world
from palimpsest.fit.run import Fitted
from palimpsest.fit.settings import Files, Settings
from palimpsest.processor import cpu_has_bfloat16
from palimpsest.weights.files import (
    FOLDER,
    WeightsError,
    as_stored,
    fill,
    read_weights,
    restored,
    sha256,
    update_manifest,
    write_json,
    write_weights,
)
from palimpsest.weights.load import own_device
from palimpsest.worlds.scene import WORDS

Switch = Annotated[int, Interval(0, 1)]  # 0 no, 1 yes
Seed = Annotated[int, Interval(0, 2**63 - 1, words="be a whole number from 0 to 2^63 - 1")]  # torch's own


@dataclass(frozen=True)
class RunArguments:
    """What every run can be asked for. A recipe's `Arguments` add its own fields, and have other defaults."""

    recipe: ClassVar[str]  # the module in training/
    stored: ClassVar[torch.dtype] = torch.float16  # of the weights in the file; int8 halves it
    elsewhere: ClassVar[tuple[str, ...]] = (
        "name",
        "workers",
        "until",
        "state",
        "vae",
        "data",
        "device",
        "out",
    )

    steps: Count = 1000
    batch: Count = 32  # pictures (or texts, or pairs) of a step, over all processes
    lr: Positive = 1e-3  # learning rate at its highest
    warmup: Rounds = 200  # steps in which it rises
    optimiser: Literal["adamw", "muon"] = "adamw"
    precision: Literal["float32", "bfloat16"] = "float32"
    compiled: Switch = 0  # torch.compile the net: pays from some thousand steps on
    seed: Seed = 0
    init: str = ""  # an earlier file of this recipe, to go on from
    # where it runs and what it is called: no part of what the run is
    name: str = ""  # of the weight file
    workers: Rounds = 0  # processes that draw data ahead
    until: float = math.inf  # end at this time, as time.time() tells it
    state: str = ""  # a folder for checkpoint and log; "": runs/NAME
    device: str = "auto"
    out: str = "weights"  # the folder that the file is written to

    def __post_init__(self) -> None:
        check(type(self), vars(self))

    def record(self) -> dict[str, Any]:
        """What makes the run the run it is, for the manifest: all but where it runs."""
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in self.elsewhere}
        return kept | dict(init=Path(self.init).name)

    def settings(self) -> Settings:
        """How `fit` is to learn."""
        return Settings(
            steps=self.steps,
            lr=self.lr,
            warmup=self.warmup,
            optimiser=self.optimiser,
            precision=self.precision,
            seed=self.seed,
        )

    def files(self, save_every: int = 100) -> Files:
        """What the run leaves on the disk while it goes on."""
        identity = self.record() | dict(init=sha256(self.init) if self.init else "")
        return Files(
            f"{self.folder}/checkpoint.pt",
            f"{self.folder}/loss.csv",
            save_every,
            identity=dict(recipe=identity),
        )

    @property
    def folder(self) -> str:
        """Where the checkpoint and the log stand."""
        return self.state or f"runs/{self.name}"

    @property
    def share(self) -> int:
        """Pictures of a step for this process."""
        return self.batch // rank_and_world()[1]

    @property
    def on(self) -> torch.device:
        """The device that this process trains on."""
        return own_device(self.device)


def recent(losses: list[float], n: int = 200) -> float:
    """The mean of the last n losses."""
    return sum(losses[-n:]) / len(losses[-n:])


def command_line(main: Callable[[Any], Any], arguments: type) -> None:
    """Run `main` on a record whose fields come from the command line: `--lr 1e-3 --steps 100`."""
    parser = Parser(description=(sys.modules[main.__module__].__doc__ or "").split("\n\n")[0])
    options(parser, arguments, dict.fromkeys([f.name for f in fields(arguments)], ""))

    def run() -> None:
        given = arguments(**vars(parser.parse_args()))
        if given.precision == "bfloat16" and given.on.type == "cpu" and not cpu_has_bfloat16():
            print(
                "precision: this processor has no units for bfloat16, which makes a step many times slower; "
                "float32 is the fast one here",
                file=sys.stderr,
            )
        main(given)

    sys.exit(exit_code_of(run))


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
            encoding="utf-8",
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
    run. A file from before some words is filled up, see `with_new_words`.
    """
    if not init:
        return []
    config, tensors = read_weights(init)
    for name, module in modules.items():
        tensors |= with_new_words(config, tensors, module, f"{name}.")
        try:
            fill(module, tensors, name, init).train().requires_grad_(True)
        except WeightsError:
            raise ValueError(
                f"init: {init} holds another model than this recipe trains; name an earlier file of its own"
            ) from None
    return config["trained"]


def with_new_words(
    config: dict[str, Any], tensors: dict[str, Tensor], module: nn.Module, prefix: str
) -> dict[str, Tensor]:
    """The token tables of a file that was made before the world had all of its words, filled up with the
    module's own rows, which no training has touched: {name in the file: table}. New words stand at the end
    of the world's list; {} where there are none.

    prefix: what stands before the module's names in the file."""
    words = config.get("words", [])
    added = len(WORDS) - len(words) if words and words == list(WORDS[: len(words)]) else 0
    found = {}
    for key, mine in module.state_dict().items():
        old = tensors.get(prefix + key)
        if (
            added
            and f".{key}".endswith(".tokens.weight")
            and old is not None
            and len(old) == len(mine) - added
        ):
            found[prefix + key] = torch.cat([old.float(), mine[len(old) :].cpu()])
    return found


def publish(
    given: RunArguments,
    modules: dict[str, nn.Module],
    config: dict[str, Any],
    fitted: Fitted,
    figures: dict[str, Any],
    earlier: list[dict[str, Any]],
    *,
    out: str = "",
) -> Path:
    """Write NAME.safetensors and its record: into MANIFEST.json for the package's own folder, else beside it.

    out: the folder, given.out unless said. earlier: the runs that this one went on from; the file's header
    carries them too, as `trained`. The record's steps are those that were done, fewer than were asked for
    where the run ended by the clock.
    """
    arguments, out = given.record(), out or given.out
    arguments |= dict(steps=len(fitted.losses))
    config = dict(
        config, trained=[*earlier, dict(arguments, seconds=round(fitted.seconds), revision=REVISION)]
    )
    path = write_weights(Path(out) / f"{given.name}.safetensors", modules, config, given.stored)
    record = dict(
        kind=config["kind"],
        sha256=sha256(path),
        bytes=path.stat().st_size,
        recipe=f"python -m palimpsest.training.{given.recipe}",
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
        update_manifest(lambda old: dict(sorted({**old, path.name: record}.items())))
    else:
        write_json(path.with_suffix(".json"), record)
    return path
