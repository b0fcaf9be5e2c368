"""The scoreboard's gallery of the emoji world, and the emoji files of `make demo`: python -m
palimpsest.claims.draw.emoji writes figures/emoji/*.png.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure

from palimpsest.claims.common import Models
from palimpsest.claims.draw.editing import record
from palimpsest.claims.draw.style import figure, show
from palimpsest.claims.page import RECORDS
from palimpsest.worlds.emoji import SIZE, open_world
from palimpsest.worlds.files import read_picture, write_picture

WIDE = 3 * SIZE  # before, made, true

PICTURES = {  # file -> the name of an emoji of Twemoji, of those that ship
    "heart.png": "pink heart",
    "woman.png": "woman: medium skin tone",
    "firefighter.png": "man firefighter: medium-light skin tone",
    "thumbs_down.png": "thumbs down: dark skin tone",
    "clock.png": "eight-thirty",
    "square.png": "blue square",
}


def emoji_gallery(folder: Path, models: Callable[[], Models]) -> Figure:
    """The edits that gained most and, below, least, by their best methods: before, made, true; the
    record's words below.
    """
    r = record(folder, "emoji")
    sheet, items, columns = read_picture(folder / "emoji_edits.png"), r["gallery"], r["columns"]
    rows = -(-len(items) // columns)
    fig = figure(14, 0.4 + 1.75 * rows)
    for i, ax in enumerate(fig.subplots(rows, columns, squeeze=False).flat):
        if i >= len(items):
            ax.set_axis_off()
            continue
        y, x, item = i // columns * SIZE, i % columns * WIDE, items[i]
        parts = sheet[0, :, y : y + SIZE, x : x + WIDE].split(SIZE, -1)
        gap = torch.ones(3, SIZE, 4)
        heading = {
            0: "most gained: before, made, true",
            r["successes"]: "least gained: before, made, true",
        }.get(i, "")
        show(
            ax,
            torch.cat([parts[0], gap, parts[1], gap, parts[2]], -1),
            f"{item['source'].rsplit(' in ', 1)[0]}: “{item['asked']}”; {item['method']}, "
            f"{item['gain']:+.1f} dB over copying",
            above=heading,
            width=44,
            smooth=False,
        )
    return fig


DRAWN = (emoji_gallery,)


def main(out: Path = RECORDS / "emoji") -> None:
    world = open_world()
    row = {e.name: i for i, e in enumerate(world.emoji) if e.style == "twemoji"}
    for file, name in PICTURES.items():
        write_picture(world.pictures[row[name]][None], out / file)


if __name__ == "__main__":
    main()
