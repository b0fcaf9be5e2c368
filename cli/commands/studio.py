"""palimpsest studio: the page of studio/, which is imported only when it is asked for."""

from __future__ import annotations

import argparse
from importlib import import_module
from importlib.util import find_spec

from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.console import say, tell
from palimpsest.cli.manners import Mistake, command, whole


def declare_studio(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest studio`."""
    p = command(commands, "studio", COMMANDS["studio"], run_studio)
    p.add_argument(
        "--port", type=whole, metavar="N", help="where the page is (default: the first free one from 7860)"
    )
    p.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="who reaches it; 0.0.0.0 is everybody on the network (default: '127.0.0.1', this machine alone)",
    )
    p.add_argument(
        "--model",
        default="shapes",
        metavar="NAME",
        help="the model that the page opens with: a shipped name, a public one or a path (default: 'shapes')",
    )


def run_studio(a: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    if find_spec("gradio") is None:
        raise Mistake(
            "studio: needs the package gradio; pip install 'palimpsest[studio]', or pip install gradio"
        )
    server = import_module("palimpsest.studio.server")  # the one room above this one
    if not server.is_local(a.host):
        say(f"note: host: whoever reaches {a.host} can use this page, without a password")
    server.serve(a.port, a.host, a.model, lambda address: tell(f"studio: {address} (Ctrl-C ends it)"))
