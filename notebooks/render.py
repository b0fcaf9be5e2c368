"""Percent source to executed notebook: python -m palimpsest.notebooks.render [NAME …], all of them without a name.

The same source and the same versions give the same bytes: cells are numbered, and no time, path or user name is kept.
Pictures are stored with a palette, the largest of COLOURS with which a file stays below LIMIT: it can be read on the web.
"""
from __future__ import annotations

import argparse
import base64
import io
import os
import sys
import tempfile
from copy import deepcopy
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from PIL import Image

from palimpsest.outputs import write_text

HERE = Path(__file__).parent
LIMIT = 400_000                                  # bytes of a rendered notebook
DPI, COLOURS = 100, (256, 192, 128, 96, 64, 48, 32)
METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python", "file_extension": ".py"}}


def names() -> list[str]:
    """Every lesson, in order."""
    return sorted(p.stem for p in HERE.glob("[0-9][0-9]_*.py"))


def read(source: Path) -> NotebookNode:
    """The notebook of a percent source, not executed."""
    notebook = jupytext.read(source, fmt="py:percent")
    for k, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{k:03d}", {}
    notebook.metadata = METADATA
    return notebook


def run(notebook: NotebookNode, timeout: int = 600) -> NotebookNode:
    """Execute in an empty folder, in a fresh kernel. Raises nbclient's CellExecutionError where a cell fails."""
    figures = {"bbox_inches": "tight", "dpi": DPI, "metadata": {"Software": None}}
    path = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=timeout, kernel_name="python3", record_timing=False, coalesce_streams=True,
                                resources={"metadata": {"path": folder}})
        client.extra_arguments = [f"--InlineBackend.print_figure_kwargs={figures}"]
        client.execute(env=os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore"})
    notebook.metadata = METADATA                 # the kernel added its version
    return notebook


def packed(notebook: NotebookNode, colours: int) -> NotebookNode:
    """A copy whose pictures hold so many colours."""
    notebook = deepcopy(notebook)
    for data in (o.data for c in notebook.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})):
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
        # a palette that covers: the usual one, by median cut, makes small red things grey; k-means then takes the bands out of grounds
        picture.quantize(colours, Image.Quantize.MAXCOVERAGE, kmeans=2).save(file := io.BytesIO(), "PNG", optimize=True)
        data["image/png"] = base64.b64encode(file.getvalue()).decode()
    return notebook


def render(name: str) -> Path:
    """notebooks/<name>.py to notebooks/<name>.ipynb. Raises ValueError where no resolution is small enough."""
    target, notebook = HERE / f"{name}.ipynb", run(read(HERE / f"{name}.py"))
    for colours in COLOURS:
        text = nbformat.writes(packed(notebook, colours), version=4) + "\n"
        if len(text.encode()) <= LIMIT:
            write_text(target, text)
            return target
    raise ValueError(f"{name}: over {LIMIT // 1000} KB even with {COLOURS[-1]} colours; draw fewer or smaller pictures")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m palimpsest.notebooks.render", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(names())}")
    for name in parser.parse_args(argv).names or names():
        if name not in names():
            parser.error(f"no lesson named {name!r}; known: {', '.join(names())}")
        try:
            path = render(name)
        except (CellExecutionError, ValueError) as error:
            print(f"{name}: {str(error).strip()}", file=sys.stderr)
            return 1
        print(f"{path.name}: {path.stat().st_size // 1000} KB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
