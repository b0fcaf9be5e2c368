"""The command line: palimpsest METHOD INPUT… [options] -o OUT, also python -m palimpsest.

A method's command is a file of methods/commands with one function that declares its options, `declare_`
and the file's name, and one that runs: check the outputs, read the inputs, load the model, call the verb,
write. To add one, write the two and name the file in COMMANDS."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from palimpsest.cli.manners import Parser

COMMANDS = (
    "sdedit",
    "diffedit",
    "prompt_to_prompt",
    "null_text",
    "invert",
    "attention",
    "dreambooth",
    "generate",
    "glide",
    "instruct_pix2pix",
    "models",
    "weights",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    try:
        from palimpsest.cli.manners import (
            distinct,
            exit_code,
        )  # it imports torch, which takes seconds, and Ctrl-C may come in them

        parser = command_line()
    except KeyboardInterrupt:
        print("palimpsest: interrupted", file=sys.stderr)
        return 130

    def work() -> None:
        arguments = parser.parse_args(argv)
        distinct(arguments)
        arguments.run(arguments)

    return exit_code(work)


def command_line() -> Parser:
    """The parser with every command in it."""
    from palimpsest.cli.manners import Parser

    parser = Parser(
        "palimpsest",
        allow_abbrev=False,
        description="Edit pictures with diffusion models.",
        epilog="`palimpsest METHOD --help` tells a method's options.",
    )
    commands = parser.add_subparsers(metavar="METHOD", required=True)
    for name in COMMANDS:
        getattr(import_module(f"palimpsest.cli.commands.{name}"), f"declare_{name}")(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
