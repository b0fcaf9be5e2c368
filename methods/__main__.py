"""The command line: palimpsest METHOD INPUT… [options] -o OUT, also python -m methods.

A method's command is a file of methods/commands with one function that declares its options and one that runs: check the
outputs, read the inputs, load the model, call the verb, write. To add one, write the two and name the first in COMMANDS.
"""
from __future__ import annotations

import sys
from collections.abc import Sequence

from methods.cli import Parser, distinct, exit_code
from methods.commands.attention import declare_attention
from methods.commands.diffedit import declare_diffedit
from methods.commands.dreambooth import declare_dreambooth
from methods.commands.generate import declare_generate
from methods.commands.glide import declare_glide
from methods.commands.instruct_pix2pix import declare_instruct_pix2pix
from methods.commands.invert import declare_invert
from methods.commands.models import declare_models
from methods.commands.null_text import declare_null_text
from methods.commands.prompt_to_prompt import declare_prompt_to_prompt
from methods.commands.sdedit import declare_sdedit
from methods.commands.weights import declare_weights

COMMANDS = (declare_sdedit, declare_diffedit, declare_prompt_to_prompt, declare_null_text, declare_invert, declare_attention,
            declare_dreambooth, declare_generate, declare_glide, declare_instruct_pix2pix,
            declare_models, declare_weights)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    def work() -> None:
        arguments = command_line().parse_args(argv)
        distinct(arguments)
        arguments.run(arguments)

    return exit_code(work)


def command_line() -> Parser:
    """The parser with every command in it."""
    parser = Parser("palimpsest", allow_abbrev=False, description="Edit pictures with diffusion models.",
                    epilog="`palimpsest METHOD --help` tells a method's options.")
    commands = parser.add_subparsers(metavar="METHOD", required=True)
    for declare in COMMANDS:
        declare(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
