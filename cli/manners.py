"""What every command shares: its options, its manners when something is wrong, and the bar that shows how
far it is.

A user's mistake ends in exit code 2 and one line, `palimpsest: error: …`, that names the argument and the
mend; Ctrl-C in 130 and one line. Anything else that goes wrong is a mistake of ours and keeps its
traceback."""

from __future__ import annotations

import argparse
import difflib
import inspect
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import torch
from tqdm import tqdm

from palimpsest.arguments import ArgumentError, Caution, else_of, hints, settled, wrong
from palimpsest.cli.commands.examples import ending
from palimpsest.cli.console import say
from palimpsest.cli.interrupts import interruptible
from palimpsest.fit.processes import rank_and_world
from palimpsest.nets.tokenizer import TextCut
from palimpsest.weights.counting import counted
from palimpsest.weights.load import DTYPES
from palimpsest.weights.model import Model


class Mistake(ValueError):
    """The user's, in one line that names the argument and the mend."""


class Told(Exception):
    """Something went wrong, and the line about it was said."""


# ---- manners ----


def exit_code_of(work: Callable[[], Any]) -> int:
    """Do the work: 0 when it is done, 2 after a user's mistake, 130 after Ctrl-C, each with one line on
    stderr.
    """
    with interruptible():
        return _exit_code_of(work)


def _exit_code_of(work: Callable[[], Any]) -> int:
    try:
        with noted():
            work()
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except Told:
        return 2
    except Exception as error:
        if (line := complaint(error)) is None:
            raise
        say(f"error: {line}")
        return 2
    return 0


def complaint(error: Exception) -> str | None:
    """What a user is told of an error, on one line; None for a mistake of ours."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "device: its memory is too small for this; ask for less at once, or take --device cpu"
    if isinstance(error, ArgumentError):  # pictures are given as IN here
        name = {"pictures": "IN", "x": "IN", "weights": "weight"}.get(
            error.argument, option_name(error.argument)
        )
        return f"{name}: {error.text}"
    if isinstance(error, (ValueError, ArithmeticError, OSError, MemoryError)):
        return str(error) or "out of memory: ask for less at once"
    if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error):  # PyTorch's MemoryError
        return (
            "out of memory: ask for less at once, or for a smaller --size; --estimate tells what a command "
            "takes"
        )
    return None


@contextmanager
def noted() -> Iterator[None]:
    """A prompt that was cut, or a wish that is unwise, is said in our manner; other warnings are shown as
    ever.
    """
    with warnings.catch_warnings():
        usual = warnings.showwarning
        for kind in (TextCut, Caution):  # each time, and not once for each line of code
            warnings.simplefilter("always", kind)

        def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if issubclass(category, (TextCut, Caution)):
                say(f"note: {message}")
            else:
                usual(message, category, *where)

        warnings.showwarning = show
        yield


@contextmanager
def blame(argument: str) -> Iterator[None]:
    """Whatever is wrong inside is wrong with this argument: its name comes first."""
    try:
        yield
    except ValueError as error:
        text = error.text if isinstance(error, ArgumentError) else str(error)
        raise Mistake(
            text if text.startswith((f"{argument}:", f"{argument} ")) else f"{argument}: {text}"
        ) from None


# ---- options ----


def option_name(parameter: str) -> str:
    """How the command line spells a parameter, dashes aside: class_noun -> class-noun, self_ -> self.

    A field of a record that is a parameter is prior.steps, and --prior-steps on the command line.
    """
    return re.sub("[_.]", "-", parameter.rstrip("_"))


def why_no_text(error: OSError | UnicodeDecodeError) -> str:
    """Why a file cannot be read as text."""
    return getattr(error, "strerror", None) or "not UTF-8 text: save it as UTF-8"


class Parser(argparse.ArgumentParser):
    """argparse, with the manners above."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:
        """As ever; an option that is not known is told by the command it was given to, with the nearest."""
        given, left = self.parse_known_args(args, namespace)
        if left:
            asked = getattr(given, "parser", self)
            known = [flag for action in asked._actions for flag in action.option_strings]
            near = difflib.get_close_matches(left[0].partition("=")[0], known, n=1, cutoff=0.7)
            hint = f" (did you mean {near[0]}?)" if near and left[0].startswith("-") else ""
            asked.error(f"unrecognized arguments: {' '.join(left)}{hint}")
        return given

    def error(self, message: str) -> None:
        if message.startswith("argument "):  # "argument -o/--out: …" -> "out: …"
            names, _, text = message.removeprefix("argument ").partition(": ")
            message = f"{names.split('/')[-1].lstrip('-')}: {text}"
        raise Mistake(f"{message}; see {self.prog} --help")


def number(text: str) -> float:
    """A finite number from the command line."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text!r}")
    return value


def whole(text: str) -> int:
    """A whole number from the command line."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text[:40]!r}") from None


def device(text: str) -> str:
    """A device that computes: "meta" only has shapes."""
    if text.split(":")[0] == "meta":
        raise argparse.ArgumentTypeError(
            "meta computes nothing; take cpu, or --estimate to see what the command would cost"
        )
    return text


def options(
    parser: argparse._ActionsContainer,
    contract: Callable[..., Any],
    helps: dict[str, str],
    names: Mapping[str, str] = {},
) -> None:
    """Options for these parameters of a function (or fields of a record), each with its help.

    names: what an option is called where that is not the parameter's own name: {"n": "n_prior"}.

    Type, range, choices and default come from the signature and its annotations (palimpsest/arguments.py), so
    a value is refused in the words in which the function itself would refuse it.
    """
    parameters, annotations = inspect.signature(contract).parameters, hints(contract)
    for name, text in helps.items():
        default, annotation = parameters[name].default, annotations[name]
        usual = else_of(annotation)
        if default is not None:
            text = f"{text} (default: {default!r})"
        elif usual is not None:
            text = f"{text} (default: what the model recommends, else {usual.value!r})"
        dest = names.get(name, name)
        flag, common = "--" + option_name(dest), dict(dest=dest, default=default, help=text)
        if usual is not None:
            left_open(parser)[dest] = contract, name
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        elif choices := chosen_from(annotation):
            parser.add_argument(flag, choices=choices, **common)
        else:
            kind = plain_kind(annotation)
            parser.add_argument(flag, type=read_as(kind, annotation), metavar=METAVARS[kind], **common)


def left_open(parser: argparse._ActionsContainer) -> dict[str, tuple[Callable[..., Any], str]]:
    """Options that are the model's to choose where they are left out: dest -> the function, its parameter."""
    found = parser.get_default(OPEN)
    if found is None:
        parser.set_defaults(**{OPEN: (found := {})})
    return found


OPEN = "left_open"


def settle(a: argparse.Namespace, model: Model) -> None:
    """Give the options that were left to the model their values; `a.chosen` keeps which they were."""
    for dest, (contract, name) in getattr(a, OPEN, {}).items():
        if getattr(a, dest) is None:
            value = settled(contract, model.recommended, {name: None})[name]
            setattr(a, dest, value)
            a.chosen = getattr(a, "chosen", {}) | {dest: value}


METAVARS = {float: "X", int: "N", str: "TEXT"}


def chosen_from(annotation: Any) -> tuple[Any, ...]:
    """The choices of a Literal; () for any other annotation."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    inside = get_args(annotation) if get_origin(annotation) in (Annotated, Union, UnionType) else ()
    return next((found for one in inside if (found := chosen_from(one))), ())


def plain_kind(annotation: Any) -> type:
    """float, int or str: what a word on the command line is read as under this annotation."""
    parts = [annotation]
    while parts:
        one = parts.pop(0)
        if one in METAVARS:
            return one
        parts += get_args(one)
    raise TypeError(f"no option can be made of {annotation}")


def read_as(kind: type, annotation: Any) -> Callable[[str], Any]:
    """Text -> a value that fits the annotation; refused in the annotation's own words."""

    def read(text: str) -> Any:
        value = {float: number, int: whole, str: str}[kind](text)
        if (said := wrong(annotation, value)) is not None:
            raise argparse.ArgumentTypeError(said)
        return value

    return read


def command(
    commands: argparse._SubParsersAction, name: str, about: str, run: Callable[[argparse.Namespace], object]
) -> Parser:
    """A parser for one command. No abbreviations: a new option would change what an old abbreviation
    means.
    """
    parser = commands.add_parser(
        name,
        help=about,
        description=textwrap.fill(about, 80),
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.epilog = ending(parser.prog.removeprefix("palimpsest "))
    parser.set_defaults(run=run, parser=parser, writes_folder=False)
    return parser


def shared_options(
    parser: argparse.ArgumentParser,
    out: str = "the result, .png, .jpg, .webp or .tiff",
    default: str | None = None,
    *,
    estimates: bool = False,
    sidecar: bool = True,
) -> None:
    """What every method takes. `out`: the help of -o, which must be given where its default is None; "" is
    for an output that is optional.

    estimates: whether the command can say what it would cost (--estimate); it then writes nothing, and -o
    need not be given. sidecar: whether what it makes carries a record (cli/record.py)."""
    parser.add_argument(
        "--model",
        default="shapes",
        metavar="NAME",
        help="a shipped name (`palimpsest models`), a public one (`palimpsest weights list`) or a "
        "path (default: 'shapes')",
    )
    run_options(parser, out, default, estimates=estimates, sidecar=sidecar)


def change_options(parser: argparse.ArgumentParser) -> None:
    """What changes the model that --model names."""
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:SCALE]",
        help="low-rank changes of the model, by diffusers, peft, kohya or dreambooth --rank; may be repeated",
    )
    parser.add_argument(
        "--embedding",
        action="append",
        default=[],
        metavar="FILE[=WORD]",
        help="a textual-inversion word, which prompts may then say; may be repeated",
    )


def run_options(
    parser: argparse.ArgumentParser,
    out: str,
    default: str | None = None,
    *,
    estimates: bool = False,
    sidecar: bool = True,
    changes: bool = True,
) -> None:
    """Of these all but --model. changes: whether there is a model that --lora and --embedding change and
    --dtype holds."""
    if changes:
        change_options(parser)
    parser.add_argument(
        "--device", type=device, default="auto", metavar="NAME", help="auto, cpu, cuda, … (default: 'auto')"
    )
    if changes:
        parser.add_argument(
            "--dtype",
            choices=DTYPES,
            default="auto",
            help="of the nets; auto: float16 on a GPU, bfloat16 on a processor with units for it where the "
            "model has more than 100 million parameters, else float32 (default: 'auto')",
        )
    where = parser.add_argument(
        "-o", "--out", required=default is None, default=default or None, metavar="OUT", help=out
    )

    class Estimate(argparse.Action):
        """A dry run need not be told where to write."""

        def __call__(
            self, parser: argparse.ArgumentParser, given: argparse.Namespace, *value_and_flag: Any
        ) -> None:
            given.estimate, where.required = True, False

    if sidecar:
        parser.add_argument(
            "--sidecar",
            action="store_true",
            help="also write, as OUT.json, what OUT itself carries: the command, and hashes of the model and "
            "all inputs, from which `palimpsest again OUT` makes it once more",
        )
    if estimates:
        parser.add_argument(
            "--estimate",
            action=Estimate,
            nargs=0,
            default=False,
            help="print what this would cost in memory and network evaluations, and do nothing",
        )


# ---- progress ----


@contextmanager
def progress(model: Model, calls: int, what: str = "") -> Iterator[None]:
    """A bar, on a terminal only and of one process only, that moves on each time the net is asked.

    The methods know nothing of it: `counted` counts the forward passes.
    """
    with tqdm(
        total=calls, desc=what, unit="step", leave=False, disable=rank_and_world()[0] > 0 or None
    ) as bar:
        with counted(model, each_pass=bar.update):
            yield
