"""The pages of docs/methods: what people write of a method, filled up with what the code says of it.

A line of such a page that is a comment is replaced:

    <!-- function methods.sdedit.sdedit -->    the signature as it is written, and where it stands
    <!-- command sdedit -->                    two examples and the time to expect; all options, folded
    <!-- algorithm methods.sdedit -->          the docstring of the file: the algorithm, and the symbols
    <!-- claims SDEdit -->                     the verdicts on what the paper claims
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Callable

from palimpsest.claims import CLAIMS
from palimpsest.claims.page import ROOT, find
from palimpsest.cli.commands.examples import ENDINGS
from palimpsest.cli.main import command_line
from palimpsest.cli.manners import Parser
from palimpsest.docs.site.api import prose, public, signature
from palimpsest.docs.site.sources import SCHEME

PLACE = re.compile(r"^<!-- (\w+) (.+?) -->$", re.MULTILINE)


def file_of(module: str) -> str:
    """methods.sdedit -> methods/sdedit.py."""
    return module.replace(".", "/") + ".py"


def function(name: str) -> str:
    """The signature of a function, with the comment at each parameter."""
    module, last = name.rsplit(".", 1)
    path = file_of(module)
    text = (ROOT / path).read_text(encoding="utf-8")
    (node,) = [n for n in public(ast.parse(text).body) if n.name == last]
    shown = signature(node, text.splitlines())
    where = f"[Source]({SCHEME}{path}#L{node.lineno}) · [reference](#{name})"
    return f"```python\n{shown}\n```\n\n{where}"


def help_of(words: str) -> argparse.ArgumentParser:
    """The parser of a command, such as `sdedit` or `glide inpaint`."""
    parser = command_line(Parser, words.split()[:1])
    for word in words.split():
        (inner,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        parser = inner.choices[word]
    return parser


def options(parser: argparse.ArgumentParser) -> str:
    """A table of a command's options."""
    rows = []
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
            continue
        said = (action.help or "") % {**vars(action), "prog": parser.prog} if action.help else ""
        named = (
            ", ".join(f"`{flag}`" for flag in action.option_strings) or f"`{action.metavar or action.dest}`"
        )
        rows.append(f"| {named} | {' '.join(said.split()).replace('|', chr(92) + '|')} |")
    return "| option | what it does |\n|---|---|\n" + "\n".join(rows)


def command(words: str) -> str:
    """Examples of a command, the time to expect, and its options, folded."""
    ending = ENDINGS[words]
    examples = "\n".join(f"palimpsest {example}" for example in ending.examples)
    time = f"Expect {ending.seconds} with the shipped model on one core of a server."
    size, time = (re.sub(r"(?<![\w`-])(--\w[\w-]*)", r"`\1`", text) for text in (ending.size, time))
    folded = f":::{{dropdown}} All options of `palimpsest {words}`\n\n{options(help_of(words))}\n\n:::"
    return f"```\n{examples}\n```\n\n{size} {time}\n\n{folded}"


def algorithm(module: str) -> str:
    """The docstring of a method's file."""
    return prose(ast.get_docstring(ast.parse((ROOT / file_of(module)).read_text(encoding="utf-8"))))


def claims(paper: str) -> str:
    """The verdicts on a paper's claims."""
    rows = [f"| {c.id} | {c.says} | {find(c).verdict} |" for c in CLAIMS if c.paper == paper]
    if not rows:
        raise ValueError(f"no claim is of the paper {paper}")
    table = "| | claim | here |\n|---|---|---|\n" + "\n".join(rows)
    return f"{table}\n\n[The figures and the rules](../../CLAIMS.md)"


KINDS: dict[str, Callable[[str], str]] = {
    "function": function,
    "command": command,
    "algorithm": algorithm,
    "claims": claims,
}


def filled(text: str) -> str:
    """A page with what stands in place of its comments."""
    return PLACE.sub(lambda m: KINDS[m[1]](m[2]) if m[1] in KINDS else m[0], text)
