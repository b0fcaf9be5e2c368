"""Lay out what Sphinx reads: a folder that mirrors the repository, with the pages that are computed beside
those that are written, and links that work in both places.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from palimpsest.claims.draw.make import FIGURES
from palimpsest.claims.page import ROOT
from palimpsest.docs.site import api, equations, methods, models, scoreboards
from palimpsest.docs.site.scoreboards import made
from palimpsest.docs.site.sources import SCHEME, shown
from palimpsest.outputs import copy_file, write_text

TEMPLATES = ROOT / "docs" / "site" / "pages"  # pages of the site alone
PICTURES = (".png", ".jpg", ".webp", ".gif", ".svg")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
WIDE = "---\nhtml_theme.sidebar_secondary.remove: true\n---\n\n"  # a page whose table takes the whole width
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
ELSEWHERE = re.compile(r"[a-z]+:|#")


def written() -> dict[str, str]:
    """Pages that people write: path in the repository -> path on the site."""
    found = [
        *("README.md", "README.zh.md", "CHANGELOG.md", "CLAIMS.md", "CONTRIBUTING.md", "NOTATION.md"),
        *(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").glob("*.md")),
        *(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs" / "methods").glob("*.md")),
        *(p.relative_to(ROOT).as_posix() for p in (ROOT / "notebooks").glob("[0-9]*.ipynb")),
        "notebooks/teaching.md",
    ]
    return {path: path for path in found} | {
        p.relative_to(ROOT).as_posix(): p.name for p in TEMPLATES.glob("*.md")
    }


def computed() -> dict[str, Callable[[], str]]:
    """Pages made of data: path on the site -> what writes its text."""
    return {**scoreboards.pages(), **models.pages(), **api.pages()}


def moved(text: str, path: str, site_path: str, pages: set[str]) -> str:
    """The text of a page with links that work on the site. Raises ValueError for one that leads nowhere.

    path, site_path: where the page lies in the repository and on the site; pages: all pages of the site. A
    link that begins with / is seen from the top of the site.
    """
    taken = {**written(), "README.md": "index.md"}
    codes = [m.span() for m in CODE.finditer(text)]

    def one(link: re.Match[str]) -> str:
        mark, words, target = link.groups()
        inside = any(a <= link.start() and link.end() <= b for a, b in codes)
        if inside or ELSEWHERE.match(target):
            return link[0]
        there, _, place = target.partition("#")
        top = "" if there.startswith("/") else posixpath.dirname(path)
        there = posixpath.normpath(posixpath.join(top, there.lstrip("/")))
        there = taken.get(there, there)
        if there in pages or (ROOT / there).suffix in PICTURES and (ROOT / there).exists():
            way = posixpath.relpath(there, posixpath.dirname(site_path) or ".")
            return f"{mark}[{words}]({way}{'#' + place if place else ''})"
        if there in shown():
            return f"[{words}]({SCHEME}{there})"
        if (ROOT / there).is_dir():
            return words
        raise ValueError(f"{path}: the link {target} leads nowhere")

    return unbroken(LINK.sub(one, text))


def unbroken(text: str) -> str:
    """The text with a space that does not break between a number and its unit, outside of code."""
    ends = [0, *(place for m in CODE.finditer(text) for place in m.span()), len(text)]
    parts = [text[a:b] for a, b in zip(ends, ends[1:])]
    parts[::2] = [re.sub(r"(?<=\d) (?=(?:%|dB|MB|GB|s|ms)(?!\w))", "\u00a0", part) for part in parts[::2]]
    return "".join(parts)


def maker(picture: str) -> str | None:
    """The command that made a picture of the repository; None for a picture that a person drew, and for one
    that stands below its own command."""
    folder, name = posixpath.split(picture)
    if folder == "figures" and name in FIGURES:
        return f"python -m palimpsest.claims.draw.make {name}"
    return None


def credited(text: str, site_path: str) -> str:
    """The text with the command that made it under each picture that stands on a line of its own."""

    def one(line: re.Match[str]) -> str:
        there = posixpath.normpath(posixpath.join(posixpath.dirname(site_path), line[1]))
        command = maker(there)
        return line[0] if command is None else f"{line[0]}\n\n{made(command)}\n"

    return re.sub(r"^!\[[^\n]*\]\(([^()\s]+)\)$", one, text, flags=re.MULTILINE)


def notebook(text: str, path: str, pages: set[str]) -> str:
    """A lesson with links that work on the site."""
    lesson = json.loads(text)
    for cell in lesson["cells"]:
        if cell["cell_type"] == "markdown":
            source = "".join(cell["source"])
            cell["source"] = moved(source, path, path, pages).splitlines(keepends=True)
    return json.dumps(lesson, ensure_ascii=False)


def lay_out(tree: Path) -> None:
    """Write every page and picture of the site below `tree`, an own folder. A file that is as it was stays
    untouched, so that Sphinx does not read it again; one that no page needs any more is removed.
    """
    hand, made = written(), computed()
    pages = {*hand.values(), *made}
    for path, site_path in hand.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        if path.endswith(".ipynb"):
            text = notebook(text, path, pages)
        else:
            if path.startswith("docs/methods/"):
                text = methods.filled(text)
            if path == "NOTATION.md":
                text = WIDE + equations.linked(text)
            text = credited(moved(text, path, site_path, pages), site_path)
        put(tree / site_path, text)
    for site_path, write in made.items():
        put(tree / site_path, moved(write(), site_path, site_path, pages))
    pictures = {
        p.relative_to(ROOT).as_posix(): p for p in (ROOT / "figures").rglob("*") if p.suffix in PICTURES
    }
    for name, picture in pictures.items():
        there = tree / name
        there.parent.mkdir(parents=True, exist_ok=True)
        if not there.exists() or there.read_bytes() != picture.read_bytes():
            copy_file(picture, there)
    for file in tree.rglob("*"):
        if file.is_file() and file.relative_to(tree).as_posix() not in pages | set(pictures):
            file.unlink()


def put(file: Path, text: str) -> None:
    """Write a page where it is another one than before, with the folders that it lies in."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        write_text(file, text)
