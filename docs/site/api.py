"""The reference: a page for each module, made of its docstrings and of its signatures as they are written,
with the comment that stands at each parameter.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import palimpsest
from palimpsest.claims.page import ROOT
from palimpsest.docs.site.sources import SCHEME

ROOMS = {  # those that a reader calls, with what CONTRIBUTING's table says of them in short
    "methods": "The methods: a main file for each paper, its parts beside it.",
    "samplers": "Noise schedules, sampler steps, guidance: pure functions of tensors.",
    "nets": "The networks.",
    "weights": "The model object, `load`, and readers and writers of others' layouts.",
    "worlds": "Where pictures come from, with their true edits; picture files.",
    "metrics": "Did the edit work: distances, masks, features, similarities.",
    "fit": "The training loop, its checkpoints, data drawn ahead.",
}
GROUND = ("palimpsest/arguments.py", "palimpsest/outputs.py")
Public = ast.FunctionDef | ast.ClassDef


def modules() -> list[str]:
    """The files of the reference, as paths in the repository."""
    files = [p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py")) if p.name[0] != "_"]
    return [*GROUND, *(p.relative_to(ROOT).as_posix() for p in files)]


def dotted(path: str) -> str:
    """samplers/ddim.py -> samplers.ddim."""
    return path.removesuffix(".py").replace("/", ".")


def page_of(path: str) -> str:
    """samplers/ddim.py -> api/samplers.ddim.md."""
    return f"api/{dotted(path)}.md"


def prose(text: str) -> str:
    """A docstring as Markdown: indented parts are shown as they stand, the rest is text."""
    out: list[str] = []
    lines = text.rstrip().splitlines()
    while lines:
        if lines[0].startswith("    "):
            block = []
            while lines and (lines[0].startswith("    ") or not lines[0].strip()):
                block.append(lines.pop(0)[4:])
            out += ["", "```text", *"\n".join(block).rstrip().splitlines(), "```", ""]
        else:
            out.append(escaped(lines.pop(0)))
    return "\n".join(out)


def escaped(line: str) -> str:
    """A line of text whose signs Markdown would take for its own; what stands in backticks is code, and
    between two stars it is stressed.
    """
    parts = re.split(r"(`[^`]+`|(?<!\w)\*\w[^*]*\w\*(?!\w))", line)
    parts[::2] = [re.sub(r"([\\*_<>$\[\]|#{}~@])", r"\\\1", part) for part in parts[::2]]
    text = "".join(parts)
    return re.sub(r"^(\s*)(\d+)([.)])|^(\s*)([-+])", lambda m: re.sub(r"([.)+-])", r"\\\1", m[0]), text)


def signature(node: Public, source: list[str]) -> str:
    """How a function or class begins, as it is written: its parameters or fields, with their comments."""
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    if isinstance(node, ast.FunctionDef):
        return "\n".join(source[node.lineno - 1 : node.body[0].lineno - 1]).rstrip()
    fields = [n for n in body if isinstance(n, (ast.AnnAssign, ast.Assign))]
    lines = [source[node.lineno - 1]]
    for n in fields:
        above = n.lineno - 1
        while above and source[above - 1].lstrip().startswith("#"):
            above -= 1
        lines += source[above : n.end_lineno]
    return "\n".join(lines)


def public(body: list[ast.stmt]) -> Iterator[Public]:
    """Public functions and classes with a docstring."""
    for node in body:
        named = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
        if named and ast.get_docstring(node):
            yield node


def place_of(name: str) -> str:
    """The anchor of weights.model.Model. Anchors do not tell Edit from edit: a class says it is one."""
    return f"{name}.class" if name.rsplit(".", 1)[-1][:1].isupper() else name


def entry(node: Public, path: str, source: list[str], owner: str = "") -> str:
    """One function or class, with the public methods of a class below it."""
    parts = [
        f"({place_of(f'{dotted(path)}.{owner}{node.name}')})=",
        f"##{'#' if owner else ''} {owner}{node.name}".replace("_", r"\_"),
        f"```python\n{signature(node, source)}\n```",
        prose(ast.get_docstring(node)),
        f"[line {node.lineno} of the source]({SCHEME}{path}#L{node.lineno})",
    ]
    if isinstance(node, ast.ClassDef):
        parts += [entry(n, path, source, f"{node.name}.") for n in public(node.body) if hasattr(n, "args")]
    return "\n\n".join(parts)


def module_page(path: str) -> str:
    """The page of a module."""
    text = (ROOT / path).read_text(encoding="utf-8")
    code, source = ast.parse(text), text.splitlines()
    name = dotted(path) if path in GROUND else f"palimpsest.{dotted(path)}"
    parts = [f"# {name}".replace("_", r"\_"), prose(ast.get_docstring(code)), f"[The source]({SCHEME}{path})"]
    return "\n\n".join([*parts, *(entry(n, path, source) for n in public(code.body))]) + "\n"


def home(name: str) -> str:
    """The anchor of what `from palimpsest import …` gives."""
    return place_of(f"{palimpsest._HOME[name]}.{name}")


def first_sentence(docstring: str) -> str:
    """The first sentence of a docstring, without its stop."""
    text = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s(?=[A-Z#])", text, maxsplit=1)[0].rstrip(".:")


def summary(name: str) -> str:
    """What `from palimpsest import name` is, in a sentence."""
    path = palimpsest._HOME[name].replace(".", "/") + ".py"
    nodes = public(ast.parse((ROOT / path).read_text(encoding="utf-8")).body)
    return first_sentence(next(ast.get_docstring(node) for node in nodes if node.name == name))


def front() -> str:
    """The first page: what `from palimpsest import …` gives, then every module."""
    rows = "\n".join(f"- [`{name}`](#{home(name)}): {escaped(summary(name))}" for name in palimpsest.__all__)
    parts = [
        "# Reference",
        "Made of the docstrings. Pictures are float tensors (b, 3, y, x) in [−1, 1]; masks are (b, 1, y, x), "
        "1 = edit here. Every public function checks its arguments and raises "
        "[`ArgumentError`](#palimpsest.arguments.ArgumentError.class) with one line that names the argument.",
        "## from palimpsest import …",
        rows,
        "## Arguments and files",
        "How every public function checks its arguments, and how every result is written.",
        listed(list(GROUND)),
    ]
    for room, about in ROOMS.items():
        own = [p for p in modules() if p.startswith(f"{room}/")]
        parts += [f"## palimpsest.{room}", about, listed(own)]
    return "\n\n".join(parts) + "\n"


def listed(paths: list[str]) -> str:
    """Links to modules, each with the first sentence of its docstring, and the entries of the side bar."""
    rows = []
    for path in paths:
        says = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or ""
        rows.append(f"- [`{dotted(path)}`]({Path(page_of(path)).name}): {escaped(first_sentence(says))}")
    names = "\n".join(f"{dotted(path)} <{Path(page_of(path)).stem}>" for path in paths)
    return "\n".join(rows) + f"\n\n```{{toctree}}\n:hidden:\n\n{names}\n```"


def pages() -> dict[str, Callable[[], str]]:
    """Path on the site -> what writes the page."""
    return {"api/index.md": front} | {page_of(p): partial(module_page, p) for p in modules()}
