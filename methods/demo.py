"""`make demo`: real picture files, edited by text with SDEdit on the shipped model; one contact sheet.

    python -m methods.demo [-o demo.png]

The files in figures/hand are paintings by brush, of odd sizes and in the formats that people have; no renderer of the
shapes world made them. Each is edited four times: cleaned up to what it shows, and given another colour, shape and
texture. The deeper an edit has to reach, the larger its t0, and the less stays of what the file looked like.
"""
from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.cli import Mistake, Parser, blame, exit_code, progress, shared_options, whole, writable
from methods.sdedit import sdedit
from weights import load
from worlds.files import contact_sheet, read_picture, write_picture

FOLDER = Path(__file__).parents[1] / "figures" / "hand"
STEPS = 40


class Wish(NamedTuple):
    """One edit: which file, what it should become, how deep to drown it."""
    file: str
    prompt: str
    t0: float


CLEAN, SHAPE, TEXTURE, COLOUR = .5, .6, .6, .7
WISHES = (
    Wish("heart.png", "a large red heart on a white background", CLEAN),
    Wish("heart.png", "a large blue heart on a white background", COLOUR),
    Wish("heart.png", "a large red star on a white background", SHAPE),
    Wish("heart.png", "a large striped red heart on a white background", TEXTURE),
    Wish("star.png", "a large yellow star on a blue background", CLEAN),
    Wish("star.png", "a large red star on a blue background", COLOUR),
    Wish("star.png", "a large yellow heart on a blue background", SHAPE),
    Wish("star.png", "a large dotted yellow star on a blue background", TEXTURE),
    Wish("flower.jpg", "a large orange flower on a purple background", CLEAN),
    Wish("flower.jpg", "a large white flower on a purple background", COLOUR),
    Wish("flower.jpg", "a large orange star on a purple background", SHAPE),
    Wish("flower.jpg", "a large striped orange flower on a purple background", TEXTURE),
    Wish("crescent.png", "a large blue crescent on a yellow background", CLEAN),
    Wish("crescent.png", "a large green crescent on a yellow background", COLOUR),
    Wish("crescent.png", "a large blue circle on a yellow background", SHAPE),
    Wish("crescent.png", "a large dotted blue crescent on a yellow background", TEXTURE),
    Wish("triangle.jpg", "a large red triangle on a green background", CLEAN),
    Wish("triangle.jpg", "a large yellow triangle on a green background", COLOUR),
    Wish("triangle.jpg", "a large red heart on a green background", SHAPE),
    Wish("triangle.jpg", "a large striped red triangle on a green background", TEXTURE),
    Wish("circle_and_square.png", "a small green circle left of a large purple square on a white background", CLEAN),
    Wish("circle_and_square.png", "a small green circle left of a large orange square on a white background", COLOUR),
    Wish("circle_and_square.png", "a small green star left of a large purple square on a white background", SHAPE),
    Wish("circle_and_square.png", "a small green circle left of a large striped purple square on a white background",
         TEXTURE),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the sheet; the exit code."""
    parser = Parser("python -m methods.demo", description="Edit the painted files by text, on one sheet.")
    parser.add_argument("--steps", type=whole, default=STEPS, metavar="N", help=f"of each walk (default: {STEPS})")
    shared_options(parser, "the sheet (default: demo.png)", default="demo.png")
    return exit_code(lambda: run(parser.parse_args(argv)))


def run(a: argparse.Namespace) -> None:
    """All edits of one t0 are walked together; each file then gets a strip of the sheet."""
    began = time.monotonic()
    out = writable("out", a.out)
    if not FOLDER.is_dir():
        raise Mistake(f"demo: the painted files in {FOLDER} are missing; run it from a checkout (`make demo`)")
    b = load(a.model, a.device)
    with blame("demo"):
        files = {file: read_picture(FOLDER / file, b.size, b.grid) for file in dict.fromkeys(wish.file for wish in WISHES)}
    print(f"{len(WISHES)} edits of {len(files)} painted files with the model {b.name} on {b.device.type} …", flush=True)
    edits: dict[Wish, Tensor] = {}
    depths = sorted({wish.t0 for wish in WISHES})
    with progress(b, a.steps * len(depths), "sdedit"):
        for t0 in depths:
            wishes = [wish for wish in WISHES if wish.t0 == t0]
            guides = torch.cat([files[wish.file] for wish in wishes])
            result = sdedit(b, guides, [wish.prompt for wish in wishes], t0=t0, steps=a.steps)
            edits.update(zip(wishes, result.picture.cpu().split(1), strict=True))
    strips = []
    for file, wishes in groupby(WISHES, key=lambda wish: wish.file):
        wishes = list(wishes)
        labels = [f"the file, {b.size}×{b.size}", *(f"“{wish.prompt}”, t0 = {wish.t0}" for wish in wishes)]
        strips.append(contact_sheet([[files[file], *(edits[wish] for wish in wishes)]], (), labels, title=file))
    write_picture(stack(strips), out)
    print(f"{out.resolve()}: {len(WISHES)} edits in {time.monotonic() - began:.0f} s")


def stack(sheets: Sequence[Tensor]) -> Tensor:
    """Sheets (1 3 y x), uint8, one below the other; narrower ones are filled up with white."""
    width = max(sheet.shape[-1] for sheet in sheets)
    return torch.cat([F.pad(sheet, (0, width - sheet.shape[-1]), value=255) for sheet in sheets], dim=2)


if __name__ == "__main__":
    sys.exit(main())
