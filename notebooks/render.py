"""Percent source to executed notebook: python -m palimpsest.notebooks.render [NAME …], all of them without a name.

The same source and the same versions give the same bytes: cells are numbered, and no time, path or user name is kept.
Pictures keep their true colours. Where a file would be over LIMIT, its largest pictures get a palette of COLOURS colours, one
after another, until it fits.
"""
from __future__ import annotations

import argparse
import base64
import io
import os
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from PIL import Image

from palimpsest.notebooks.plots import RENDERING
from palimpsest.outputs import write_text

HERE = Path(__file__).parent
LIMIT = 1_500_000                                # bytes of a rendered notebook
DPI, COLOURS = 120, 256
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


def run(notebook: NotebookNode, timeout: int = 1800) -> NotebookNode:
    """Execute in an empty folder, in a fresh kernel. Raises nbclient's CellExecutionError where a cell fails."""
    figures = {"bbox_inches": "tight", "dpi": DPI, "metadata": {"Software": None}}
    path = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=timeout, kernel_name="python3", record_timing=False, coalesce_streams=True,
                                resources={"metadata": {"path": folder}})
        client.extra_arguments = [f"--InlineBackend.print_figure_kwargs={figures}"]
        client.execute(env=os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore", RENDERING: "1"})
    notebook.metadata = METADATA                 # the kernel added its version
    return notebook


def palette(png: bytes) -> bytes:
    """The PNG with COLOURS colours."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    # a palette that covers: the usual one, by median cut, makes small red things grey; k-means then takes the bands out of grounds
    picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=2).save(file := io.BytesIO(), "PNG", optimize=True)
    return file.getvalue()


def true_colour(png: bytes) -> bytes:
    """The PNG without its opaque alpha channel, packed as well as PNG can."""
    Image.open(io.BytesIO(png)).convert("RGB").save(file := io.BytesIO(), "PNG", optimize=True)
    return file.getvalue()


def pack(notebook: NotebookNode, limit: int = LIMIT) -> str:
    """The notebook as text of at most `limit` bytes: pictures in true colour, the largest with a palette where it must be.
    Raises ValueError where that is not enough."""
    outputs = [o.data for c in notebook.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    pictures = [true_colour(base64.b64decode(data["image/png"])) for data in outputs]
    queue = sorted(range(len(pictures)), key=lambda k: -len(pictures[k]))
    while True:
        for data, picture in zip(outputs, pictures):
            data["image/png"] = base64.b64encode(picture).decode()
        text = nbformat.writes(notebook, version=4) + "\n"
        if len(text.encode()) <= limit:
            return text
        if not queue:
            raise ValueError(f"over {limit // 1000} KB even with {COLOURS} colours; draw fewer or smaller pictures")
        largest = queue.pop(0)
        pictures[largest] = min(palette(pictures[largest]), pictures[largest], key=len)


def render(name: str) -> Path:
    """notebooks/<name>.py to notebooks/<name>.ipynb. Raises ValueError where it does not fit."""
    target = HERE / f"{name}.ipynb"
    write_text(target, pack(run(read(HERE / f"{name}.py"))))
    return target


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
