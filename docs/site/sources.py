"""The code on the site, a page for each file with a number at each line, and links that lead to a line.

On a page `[text](source:samplers/ddim.py#L20)` leads to that line of that file of the repository.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from pygments.lexers.special import TextLexer
from pygments.util import ClassNotFound
from sphinx.application import Sphinx

from palimpsest.claims.page import ROOT

SCHEME = "source:"
LOOK = HtmlFormatter(linenos="inline", lineanchors="L", anchorlinenos=True, cssclass="highlight source")
LEFT_OUT = {".venv", "runs", "build", "dist", "_site", "__pycache__"}
LINK = re.compile(rf"\]\({SCHEME}([^)#]+)")


@cache
def shown() -> frozenset[str]:
    """The files that a page may lead to: the source, the tests and what licences ask to be shown."""
    paths = [p.relative_to(ROOT) for pattern in ("*.py", "*.md", "LICENSE*") for p in ROOT.rglob(pattern)]
    return frozenset(p.as_posix() for p in paths if not LEFT_OUT & set(p.parts) and p.parts[0][0] != ".")


def page_of(path: str) -> str:
    """The site's page of a file of the repository."""
    return f"source/{path}"


def line_of(path: str, pattern: str, start: int = 1) -> int:
    """The first line of a file, from `start` on, that has a pattern. Raises ValueError without one."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines[start - 1 :], start):
        if re.search(pattern, line):
            return number
    raise ValueError(f"{path}: no line from {start} on has {pattern}")


def listing(path: Path) -> str:
    """A file as HTML; line 20 has the anchor L-20."""
    try:
        lexer = get_lexer_for_filename(path.name)
    except ClassNotFound:
        lexer = TextLexer()
    return highlight(path.read_text(encoding="utf-8"), lexer, LOOK)


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Sphinx's hook for pages that are no documents: the files that a page of the site leads to."""
    documents = (p for p in Path(app.srcdir).rglob("*") if p.suffix in {".md", ".ipynb"})
    texts = (p.read_text(encoding="utf-8") for p in documents)
    for path in sorted({path for text in texts for path in LINK.findall(text)}):
        body = f"<h1><code>{path}</code></h1>\n{listing(ROOT / path)}"
        yield page_of(path), {"title": path, "body": body, "parents": []}, "page.html"


def lead(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Turn links source:FILE#L20 of a page into addresses on the site."""
    for link in tree.findall(nodes.reference):
        address = link.get("refuri", "")
        if address.startswith(SCHEME):
            path, _, line = address.removeprefix(SCHEME).partition("#")
            if path not in shown():
                raise ValueError(f"{page}: {path} has no page on the site")
            there = posixpath.relpath(page_of(path), posixpath.dirname(page) or ".")
            link["refuri"] = f"{there}.html" + (f"#{line.replace('L', 'L-')}" if line else "")
            link["classes"] = [*link.get("classes", []), "to-source"]


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls it."""
    app.connect("html-collect-pages", pages)
    app.connect("doctree-resolved", lead)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
