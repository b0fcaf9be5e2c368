"""The pictures that the cells of a scoreboard lead to: python -m palimpsest.claims.draw.cells [NAME.webp …].

One sheet for each kind of edit, cut out of what the scoreboards drew: figures/scoreboard_edits.png (a row for
each edit, a column for each method) and figures/emoji_edits.png (before, the edit, the true one). No
model runs.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from palimpsest.claims.draw.editing import record
from palimpsest.claims.draw.knobs import shrink
from palimpsest.claims.draw.style import figure, save, show, style
from palimpsest.claims.page import RECORDS
from palimpsest.worlds.files import read_picture

SIDE = 64  # pixels of a picture
ACROSS = 7  # pictures in a row of a sheet
FOLDER = RECORDS / "cells"
Record = dict[str, Any]


def cut(sheet: Tensor, row: int, column: int) -> Tensor:
    """One picture of a sheet (1 3 y x)."""
    return sheet[..., SIDE * row : SIDE * (row + 1), SIDE * column : SIDE * (column + 1)]


def grid(rows: list[list[tuple[Tensor, str, str]]], high: float) -> Figure:
    """Rows of (picture, words above, words below), each `high` inches high."""
    fig = figure(1.45 * ACROSS, high * len(rows))
    axes = fig.subplots(len(rows), ACROSS, squeeze=False)
    for line, found in zip(axes, rows):
        for ax in line[len(found) :]:
            ax.axis("off")
        for ax, (picture, above, below) in zip(line, found):
            show(ax, picture, below, above=above, width=20)
            ax.title.set_fontsize(8)
            ax.xaxis.label.set_fontsize(7)
    return fig


def shapes(kind: str) -> Figure:
    """The first edits of a kind, by every method."""
    board, sheet = record(RECORDS, "scoreboard"), read_picture(RECORDS / "scoreboard_edits.png")
    names, rows = board["sheet"]["columns"], []
    for row, edit in enumerate(board["sheet"]["rows"]):
        if edit["kind"] == kind:
            every = [(cut(sheet, row, k), name, "") for k, name in enumerate(names)]
            every[0] = (every[0][0], "before", edit["source"])
            every[-1] = (every[-1][0], "truth", edit["target"])
            rows += [every[k : k + ACROSS] for k in range(0, len(every), ACROSS)]
    return grid(rows, 2.3)


def emoji(kind: str) -> Figure:
    """The edits of a kind in the gallery: the best method's, those that gain most and least."""
    board, sheet = record(RECORDS, "emoji"), read_picture(RECORDS / "emoji_edits.png")
    found = []
    for k, edit in enumerate(board["gallery"]):
        if edit["kind"] == kind:
            row, column = divmod(k, board["columns"])
            before, after, truth = (cut(sheet, row, 3 * column + n) for n in range(3))
            found += [
                [
                    (before, "before", edit["asked"]),
                    (after, edit["method"], f"{edit['gain']:+.1f} dB"),
                    (truth, "truth", ""),
                ]
            ]
    pairs = [found[k : k + 2] for k in range(0, len(found), 2)]
    return grid([[one for triple in two for one in triple] for two in pairs], 1.95)


def sheets() -> dict[str, Callable[[], Figure]]:
    """File name -> what draws it, for the scoreboards that were measured."""
    found: dict[str, Callable[[], Figure]] = {}
    if (RECORDS / "scoreboard_edits.png").exists():
        kinds = [row["kind"] for row in record(RECORDS, "scoreboard")["sheet"]["rows"]]
        found |= {f"scoreboard_{k.replace(' ', '_')}.webp": partial(shapes, k) for k in dict.fromkeys(kinds)}
    kinds = [edit["kind"] for edit in record(RECORDS, "emoji")["gallery"]]
    return found | {f"emoji_{k}.webp": partial(emoji, k) for k in dict.fromkeys(kinds)}


def main(names: Sequence[str] = ()) -> None:
    """Draw some of the sheets, all of them without a name."""
    known = sheets()
    FOLDER.mkdir(exist_ok=True)
    for name in names or known:
        if name not in known:
            raise ValueError(f"cells: no sheet is called {name}; there are {', '.join(known)}")
        with style(), tempfile.TemporaryDirectory() as folder:
            sheet = Path(folder) / "sheet.png"
            save(known[name](), sheet)
            shrink(sheet, FOLDER / name)


if __name__ == "__main__":
    main(sys.argv[1:])
