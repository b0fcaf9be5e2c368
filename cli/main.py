"""The command line: palimpsest METHOD INPUT… [options] -o OUT, also python -m palimpsest.

A command is a file of cli/commands with one function that declares its options, `declare_` and the file's
name, and one that runs: read the inputs, load the model, call the verb, and give what was made, which
cli/deliver.py writes for all commands alike. To add one, write the two and name it in
cli/commands/__init__.py.

Only the command that was asked for is imported: the methods import torch, which takes seconds."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Collection, Sequence
from importlib import import_module

from palimpsest import __version__
from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.console import console, say
from palimpsest.cli.interrupts import Interrupts, deaf, interruptible


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. No words at all, like `help`, ask for the list of commands."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    with interruptible() as interrupts, console():
        interrupts.starting = argv is None  # while torch is imported
        code = answered(words or ["--help"], interrupts)
        if argv is None:
            deaf()
    return code


def answered(words: list[str], interrupts: Interrupts) -> int:
    """Run the command of these words; the exit code."""
    if words[0] in ("-h", "--help", "--version"):
        command_line(argparse.ArgumentParser, ()).parse_args(words[:1])
    near = difflib.get_close_matches(words[0], COMMANDS, n=1, cutoff=0.7)
    if near and words[0] not in COMMANDS:  # told before torch is imported
        say(f"error: METHOD: no {words[0]!r}; did you mean {near[0]}? palimpsest --help lists them all")
        return 2
    try:  # Ctrl-C may come while torch is imported
        from palimpsest.cli.manners import Parser, exit_code_of
        from palimpsest.cli.run import run

        parser = command_line(Parser, words[:1] if words[0] in COMMANDS else COMMANDS)
    except KeyboardInterrupt:
        say("interrupted")
        return 130

    def work() -> None:
        interrupts.starting = False
        run(parser.parse_args(words))

    return exit_code_of(work)


def command_line(
    kind: type[argparse.ArgumentParser], declared: Collection[str] = COMMANDS
) -> argparse.ArgumentParser:
    """The parser, with the names of all commands in it, and the options of those that are to be declared."""
    parser = kind(
        "palimpsest",
        allow_abbrev=False,
        description="Edit pictures with diffusion models.",
        epilog="`palimpsest help METHOD` tells a method's options, with two examples and the time it takes.",
    )
    parser.add_argument("--version", action="version", version=f"palimpsest {__version__}")
    commands = parser.add_subparsers(metavar="METHOD", required=True)
    for name, about in COMMANDS.items():
        if name in declared:
            file = name.replace("-", "_")
            getattr(import_module(f"palimpsest.cli.commands.{file}"), f"declare_{file}")(commands)
        else:
            commands.add_parser(name, help=about)
    return parser


if __name__ == "__main__":
    sys.exit(main())
