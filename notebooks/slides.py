"""Slides of the rendered lessons: python -m palimpsest.notebooks.slides [NAME …] [-o FOLDER].

A slide for the title and what is learnt, one for each displayed formula with the words that lead to it, one for each figure
below the heading of its section with its caption, one for what to take away. Each lesson becomes one HTML file with its
pictures inside and its formulas as MathML: it needs no network and no program but a browser. Arrow keys and the space bar
turn the pages; printing gives a page for each.
"""
from __future__ import annotations

import argparse
import html
import re
from pathlib import Path

import nbformat
from latex2mathml.converter import convert

from palimpsest.notebooks.render import HERE, names
from palimpsest.outputs import write_text

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>
html {{ scroll-snap-type: y mandatory; font: 1.35rem/1.45 system-ui, sans-serif; color: #222 }} body {{ margin: 0 }}
section {{ box-sizing: border-box; height: 100vh; padding: 3vh 6vw; overflow: hidden; scroll-snap-align: start; display: flex;
  flex-direction: column; justify-content: center; break-after: page }}
h1 {{ font-size: 2.6rem }} h2 {{ font-size: 1.7rem; margin: 0 0 1.5vh }} img {{ max-width: 100%; max-height: 66vh;
  object-fit: contain; align-self: center; min-height: 0 }}
  li {{ margin: 1.2vh 0 }} p.caption {{ color: #444; font-size: 1.1rem; margin: 1.5vh 0 0 }}
</style><body>{slides}<script>
addEventListener("keydown", e => {{
  const step = {{ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1}}[e.key];
  if (step) {{ e.preventDefault(); scrollTo({{top: (Math.round(scrollY / innerHeight) + step) * innerHeight}}) }}
}})</script></body></html>
"""


FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$]+?)\$", re.DOTALL)


def math(formula: re.Match) -> str:
    """A formula between $ or $$ as MathML."""
    displayed, inline = formula.groups()
    text = re.sub(r"\\(math\w+) (\w)", r"\\\1{\2}", " ".join((displayed or inline).split()))  # else 𝔼 becomes E in a browser
    return convert(text, display="block" if displayed else "inline")


def words(markdown: str) -> str:
    """Markdown of one paragraph as HTML: bold, emphasis, code and links; formulas as MathML."""
    formulas = [math(found) for found in FORMULA.finditer(markdown)]
    text = html.escape(" ".join(FORMULA.sub("\0", markdown).split()))
    for pattern, tag in ((r"\*\*(.+?)\*\*", "b"), (r"`(.+?)`", "code"), (r"(?<![\w*])\*([^*]+?)\*(?!\w)", "em")):
        text = re.sub(pattern, rf"<{tag}>\1</{tag}>", text)
    text = re.sub(r"\[(.+?)\]\((.+?)\)", r'<a href="\2">\1</a>', text)
    for formula in formulas:
        text = text.replace("\0", formula, 1)
    return text


def formulas(markdown: str) -> list[str]:
    """Each displayed formula below the paragraph that leads to it."""
    found, before = [], ""
    for paragraph in re.split(r"\n\s*\n", re.sub(r"(?m)^#.*$", "", markdown)):
        text, *rest = re.split(r"\$\$", paragraph)
        lead = text.strip() or before
        for formula in rest[::2]:
            formula, _, number = formula.partition(r"\qquad\text{Eq.")
            number = f"<p>Eq.{html.escape(number.partition('}')[0])}</p>" if number else ""
            shown = words(f"$${formula}$$")
            size = min(1.8, 82 / len(html.unescape(re.sub(r"<[^>]+>", "", shown))))  # rem: a long formula is small enough for a slide
            found.append(f'<p>{words(lead)}</p><div style="font-size: {size:.2f}rem; margin: 4vh 0">{shown}</div>{number}')
        before = paragraph.strip()
    return found


def brief(caption: str, most: int = 300) -> str:
    """The first sentences of a caption, of about `most` letters: what fits below a figure. The lesson has the rest."""
    text = " ".join(caption.split())
    ends = [m.end() for m in re.finditer(r"[.:?!][*”\"]* (?=[A-Z“])", text)]
    return text if len(text) <= most else text[:max((e for e in ends if 40 < e <= most), default=len(text))].strip()


def listed(markdown: str) -> str:
    """The numbered lines of a text as a list."""
    found = re.findall(r"^\d\. (.+(?:\n   .+)*)", markdown, re.MULTILINE)
    return "<ol>" + "".join(f"<li>{words(line)}</li>" for line in found) + "</ol>"


def slides(name: str) -> str:
    """The page of a rendered lesson. Raises OSError where it is not rendered."""
    cells = nbformat.read(HERE / f"{name}.ipynb", as_version=4).cells
    title = cells[0].source.splitlines()[0].removeprefix("# ")
    learnt = cells[0].source.partition("**What you will learn**")[2].partition("**What you need**")[0]
    pages, heading = [f"<h1>{words(title)}</h1>{listed(learnt)}"], ""
    for cell, after in zip(cells, [*cells[1:], None]):
        if cell.cell_type == "markdown":
            heads = re.findall(r"^##+ (.+)", cell.source, re.MULTILINE)
            heading = heads[-1] if heads else heading
            pages += [f"<h2>{words(heading)}</h2>{formula}" for formula in formulas(cell.source)]
            if "## Three things to take away" in cell.source:
                pages.append(f"<h2>{heading}</h2>{listed(cell.source.partition('take away')[2])}")
        for picture in (o.data["image/png"] for o in cell.get("outputs", []) if "image/png" in o.get("data", {})):
            caption = after.source.split("\n\n")[0] if after is not None and after.source.startswith("**Figure") else ""
            pages.append(f'<h2>{words(heading)}</h2><img alt="{words(heading)}" src="data:image/png;base64,{picture}">'
                         f'<p class="caption">{words(brief(caption))}</p>')
    return PAGE.format(title=html.escape(title), slides="".join(f"<section>{page}</section>" for page in pages))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m palimpsest.notebooks.slides", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(names())}")
    parser.add_argument("-o", "--out", type=Path, default=Path("slides"), help="the folder to write to (default: slides)")
    args = parser.parse_args(argv)
    for name in args.names or names():
        if name not in names():
            parser.error(f"no lesson named {name!r}; known: {', '.join(names())}")
        args.out.mkdir(parents=True, exist_ok=True)
        path = args.out / f"{name}.html"
        write_text(path, slides(name))
        print(f"{path}: {path.stat().st_size // 1000} KB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
