"""NOTATION.md with links: each equation to the line of the code that carries its number, and to its test."""

from __future__ import annotations

import ast
import re

from palimpsest.claims.page import ROOT
from palimpsest.docs.site.sources import SCHEME, line_of


def definition(path: str, name: str) -> tuple[int, int]:
    """First and last line of a function or class of a file. Raises ValueError for one that is not there."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return node.lineno, node.end_lineno
    raise ValueError(f"{path}: has no {name}")


def home_of(number: str, home: str) -> str:
    """A link to the line that carries `# Eq. (number)` in `samplers.ddim.ddim_step`."""
    module, name = home.rsplit(".", 1)
    path = module.replace(".", "/") + ".py"
    start, _ = definition(path, name)
    line = line_of(path, rf"Eqs?\. .*\({number}\)", start)
    return f"[`{home}`]({SCHEME}{path}#L{line})"


def linked(text: str) -> str:
    """NOTATION.md, with links in place of the names of functions and tests."""

    def row(match: re.Match[str]) -> str:
        cells = match[0].strip("|").split("|")
        number = match[1]
        cells[3] = re.sub(r"`([\w.]+)`", lambda m: home_of(number, m[1]), cells[3])
        return f"|{'|'.join(cells)}|"

    def test(match: re.Match[str]) -> str:
        path = f"tests/{match[1]}"
        return f"[`{match[0].strip('`')}`]({SCHEME}{path}#L{definition(path, match[2])[0]})"

    text = re.sub(r"^\| (\d+)(?:, \w+)? \|.*\|$", row, text, flags=re.MULTILINE)
    return re.sub(r"`(test_\w+\.py)::(\w+)`", test, text)
