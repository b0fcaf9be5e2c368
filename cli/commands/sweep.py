"""palimpsest sweep: one command for every setting of one or two of its options, on one labelled sheet."""

from __future__ import annotations

import argparse
import csv
import difflib
import math
import shlex
from collections.abc import Sequence
from itertools import product
from typing import Any

from torch import Tensor

from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.deliver import Made, at_hand
from palimpsest.cli.files import CHANGES, MODELS, READS, own_files
from palimpsest.cli.main import command_line
from palimpsest.cli.manners import Mistake, Parser, blame, command, number, option_name
from palimpsest.cli.places import OUTPUTS
from palimpsest.cli.record import said
from palimpsest.cli.run import outputs_of
from palimpsest.methods.sweep import Sweep, sheet
from palimpsest.worlds.files import check_output

SWEPT = (  # commands that make one picture
    *("sdedit", "diffedit", "flow-edit", "rf-inversion", "prompt-to-prompt", "null-text", "instruct-pix2pix"),
    *("generate", "glide", "attention", "text2live"),
)
MOST = 400  # pictures on a sheet
SWITCH = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}


def declare_sweep(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest sweep`."""
    p = command(commands, "sweep", COMMANDS["sweep"], run_sweep)
    p.usage = "palimpsest sweep METHOD IN [options of METHOD] --over NAME=VALUES [--over …] -o SHEET"
    own_options(p)
    p.add_argument("method", metavar="METHOD", choices=SWEPT, help=f"one of {', '.join(SWEPT)}")
    p.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="…", help="what METHOD needs: its input, its options"
    )


def own_options(p: argparse.ArgumentParser) -> None:
    """Those that are not METHOD's."""
    p.add_argument(
        "--over",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="an option of METHOD and its values: t0=.2,.4,.8, or t0=.2:.8:4 for four from .2 to .8, or "
        "solver=ddim,heun; of two, the first runs down and the second across",
    )
    p.add_argument("-o", "--out", dest="to", metavar="SHEET", help="the sheet, .png, .jpg or .webp")
    p.add_argument("--sidecar", action="store_true", help="also write its record beside it, SHEET.json")


def run_sweep(a: argparse.Namespace) -> Made:
    """Every setting is read before the first one is computed."""
    own = Parser(a.parser.prog, add_help=False, allow_abbrev=False)
    own_options(own)
    late, a.words = own.parse_known_args(a.words)  # METHOD's words may stand on both sides of ours
    a.over, a.out, a.sidecar = a.over + late.over, late.to or a.to, late.sidecar or a.sidecar
    if not a.out:
        raise Mistake("out: is needed; name the sheet, -o sheet.png")
    with blame("out"):
        check_output(a.out)
    method = command_line(Parser, [a.method])
    options = options_of(method, [a.method, *a.words])
    grids = dict(grid_of(text, options, a.method) for text in a.over)
    check_grids(grids, a.over)
    jobs = [
        method.parse_args([a.method, *a.words, *words_for(options, setting), "-o", a.out])
        for setting in (dict(zip(grids, values)) for values in product(*grids.values()))
    ]
    for job in jobs:
        check_job(job)
        job.held, job.only = a.held, None
    for dest in (*READS, *CHANGES, "device", "seed"):  # which the record tells
        if hasattr(jobs[0], dest):
            setattr(a, dest, getattr(jobs[0], dest))
    for dest in MODELS:
        setattr(a, dest, [getattr(job, dest, None) for job in jobs])  # it may be what varies
    with own_files(a):
        made = [job.run(job) for job in jobs]
    return Made([sheet_of(a, grids, options, jobs, made)], f"{len(made)} pictures, {' × '.join(grids)}")


def sheet_of(
    a: argparse.Namespace,
    grids: dict[str, list[str]],
    options: dict[str, argparse.Action],
    jobs: list[argparse.Namespace],
    made: list[Made],
) -> Tensor:
    """The pictures, labelled by the settings as they were understood; the picture before them, if there is
    one."""
    settings = [{name: understood(getattr(job, options[name].dest)) for name in grids} for job in jobs]
    read = {name: list(dict.fromkeys(setting[name] for setting in settings)) for name in grids}
    before = made[0].before
    return sheet(
        Sweep(read, settings, made),
        of=lambda one: at_hand(one.pictures[0]),
        before=None if before is None else at_hand(before),
        scale=1,
        title=shlex.join([a.method, *a.words]),
    )


def understood(value: Any) -> Any:
    """A setting as its label says it: of an option that may be given again, what was given, in a line."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value


# ---- what is asked for ----


def options_of(method: argparse.ArgumentParser, words: Sequence[str]) -> dict[str, argparse.Action]:
    """The options of the command that these words call, by name: "t0", "save-mask"."""
    inner = [action for action in method._actions if isinstance(action, argparse._SubParsersAction)]
    if inner and words and words[0] in inner[0].choices:
        return options_of(inner[0].choices[words[0]], words[1:])
    named = [(action.option_strings, action) for action in method._actions if action.option_strings]
    return {flags[-1 if "--no" not in flags[-1] else 0].lstrip("-"): action for flags, action in named}


def grid_of(text: str, options: dict[str, argparse.Action], method: str) -> tuple[str, list[str]]:
    """t0=.2,.4 -> ("t0", [".2", ".4"])"""
    name, equals, values = text.partition("=")
    name = option_name(name.strip().lstrip("-"))
    if not equals or not values.strip():
        raise Mistake(f"over: write NAME=VALUES, as in t0=.2,.4,.8; got {text!r}")
    if name not in options or options[name].dest in (*OUTPUTS, "help", "estimate", "sidecar"):
        near = [n for n in difflib.get_close_matches(name, options, n=2, cutoff=0.5) if n != name]
        hint = f"did you mean {' or '.join(near)}?" if near else f"see palimpsest {method} --help"
        raise Mistake(f"over: {method} cannot vary {name!r}; {hint}")
    return name, values_of(values)


def values_of(text: str) -> list[str]:
    """.2:.8:4 -> four numbers from .2 to .8; else what stands between commas, or in quotes."""
    parts = text.split(":")
    if len(parts) == 3 and all(map(is_number, parts)):
        low, high, n = float(parts[0]), float(parts[1]), float(parts[2])
        if n != int(n) or not 1 <= n <= MOST:
            raise Mistake(f"over: {text}: the last number says how many, from 1 to {MOST}")
        return [f"{low + (high - low) * k / max(1, int(n) - 1):.10g}" for k in range(int(n))]
    if len(parts) == 2 and all(map(is_number, parts)):
        raise Mistake(f"over: {text} is a range without a count; for four values write {text}:4")
    return [value.strip() for value in next(csv.reader([text], skipinitialspace=True))]


def is_number(text: str) -> bool:
    """Whether it reads as a finite number."""
    try:
        number(text)
    except argparse.ArgumentTypeError:
        return False
    return True


def check_grids(grids: dict[str, list[str]], over: Sequence[str]) -> None:
    """Raises Mistake for more directions than a sheet has, or more pictures than it takes."""
    if not 1 <= len(over) <= 2:
        raise Mistake(f"over: is given {len(over)} times; a sheet has two directions, so once or twice")
    if len(grids) < len(over):
        raise Mistake(f"over: {next(iter(grids))} is given twice; put all its values into one")
    if repeated := [name for name, values in grids.items() if len({*values}) < len(values)]:
        raise Mistake(f"over: {repeated[0]} has a value twice")
    if (n := math.prod(map(len, grids.values()))) > MOST:
        raise Mistake(f"over: asks for {n} pictures; a sheet takes at most {MOST}")


def words_for(options: dict[str, argparse.Action], setting: dict[str, str]) -> list[str]:
    """The words that set these options."""
    words = []
    for name, value in setting.items():
        action = options[name]
        if action.nargs != 0:
            words += said(action.option_strings[-1], value)
        elif value.lower() not in SWITCH:
            raise Mistake(f"over: {name} is yes or no, got {value!r}")
        elif isinstance(action, argparse.BooleanOptionalAction):
            words.append(action.option_strings[0 if SWITCH[value.lower()] else -1])
        else:
            words += [action.option_strings[-1]] * SWITCH[value.lower()]
    return words


def check_job(job: argparse.Namespace) -> None:
    """Raises Mistake for what makes no sense in a sweep; one input then is the input."""
    if more := [option_name(dest) for dest in outputs_of(job) if dest != "out"]:
        raise Mistake(f"{more[0]}: a sweep writes one sheet; leave out --{more[0]}")
    for dest in ("estimate", "ask"):
        if getattr(job, dest, False):
            raise Mistake(f"{dest}: makes no sense in a sweep; leave out --{dest}")
    inputs = getattr(job, "input", None)
    if isinstance(inputs, list):
        if len(inputs) > 1:
            raise Mistake(f"IN: a sweep takes one picture, got {len(inputs)}")
        job.input = inputs[0] if inputs else None
