"""`make demo`: real picture files, edited by text on the shipped models; one contact sheet.

    python -m palimpsest.cli.demo [-o demo.png]

The files in figures/emoji are emoji by the artists of Twemoji, pictures that no training saw. Each is
told three times what to change, and InstructPix2Pix does it.

The files in figures/hand are paintings by brush, of odd sizes and in the formats that people have; no
renderer of the shapes world made them. SDEdit edits each four times: cleaned up to what it shows, and
given another colour, shape and texture. The deeper an edit has to reach, the larger its t0, and the less
stays of what the file looked like."""

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

from palimpsest.cli.commands.loading import load_model
from palimpsest.cli.manners import Mistake, Parser, blame, exit_code_of, progress, shared_options, whole
from palimpsest.methods.instruct_pix2pix import instruct_pix2pix
from palimpsest.methods.sdedit import sdedit
from palimpsest.weights.load import load
from palimpsest.worlds.files import check_output, contact_sheet, read_picture, write_picture

FOLDER, EMOJI = (Path(__file__).parents[1] / "figures" / name for name in ("hand", "emoji"))
STEPS = 40
S_TEXT, S_IMAGE = 2.0, 1.2


TOLD = {
    "heart.png": ("make the heart green", "make the heart blue", "redraw it in noto style"),
    "woman.png": ("change the skin tone to dark", "make them a man", "change the background to yellow"),
    "firefighter.png": ("change the skin tone to dark", "make them a woman", "change the background to blue"),
    "thumbs_down.png": ("change the skin tone to light", "make it point up", "redraw it in noto style"),
    "clock.png": (
        "set the clock to three o'clock",
        "change the background to purple",
        "redraw it in noto style",
    ),
    "square.png": ("make the square red", "make the square yellow", "change the background to green"),
}


class Wish(NamedTuple):
    """One edit: which file, what it should become, how deep to drown it."""

    file: str
    prompt: str
    t0: float


CLEAN, SHAPE, TEXTURE, COLOUR = 0.5, 0.6, 0.6, 0.7
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
    Wish(
        "circle_and_square.png",
        "a small green circle left of a large purple square on a white background",
        CLEAN,
    ),
    Wish(
        "circle_and_square.png",
        "a small green circle left of a large orange square on a white background",
        COLOUR,
    ),
    Wish(
        "circle_and_square.png",
        "a small green star left of a large purple square on a white background",
        SHAPE,
    ),
    Wish(
        "circle_and_square.png",
        "a small green circle left of a large striped purple square on a white background",
        TEXTURE,
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the sheet; the exit code."""
    parser = Parser(
        "python -m palimpsest.cli.demo",
        description="Edit the emoji and the painted files by text, on one sheet.",
    )
    parser.add_argument(
        "--steps", type=whole, default=STEPS, metavar="N", help=f"of each walk (default: {STEPS})"
    )
    shared_options(parser, "the sheet (default: demo.png)", default="demo.png", sidecar=False)
    return exit_code_of(lambda: run(parser.parse_args(argv)))


def run(a: argparse.Namespace) -> None:
    """The emoji's strips, then the paintings'."""
    began, out = time.monotonic(), Path(a.out)
    with blame("out"):
        check_output(out)
    for folder in (EMOJI, FOLDER):
        if not folder.is_dir():
            raise Mistake(
                f"demo: the picture files in {folder} are missing; run it from a checkout (`make demo`)"
            )
    write_picture(stack([told(a), *painted(a)]), out)
    print(
        f"{out.resolve()}: {len(WISHES) + sum(map(len, TOLD.values()))} edits "
        f"in {time.monotonic() - began:.0f} s"
    )


def told(a: argparse.Namespace) -> Tensor:
    """A sheet of the emoji, each beside what was made of it, two files to a row."""
    model = load("emoji-instruct", a.device)
    with blame("demo"):
        files = {file: read_picture(EMOJI / file, model.size, model.grid) for file in TOLD}
    asked = [(file, text) for file, texts in TOLD.items() for text in texts]
    print(
        f"{len(asked)} edits of {len(files)} emoji files with the model {model.name} "
        f"on {model.device.type} …",
        flush=True,
    )
    with progress(model, a.steps, "instruct-pix2pix"):
        made = (
            instruct_pix2pix(
                model,
                torch.cat([files[file] for file, _ in asked]),
                [text for _, text in asked],
                s_text=S_TEXT,
                s_image=S_IMAGE,
                steps=a.steps,
            )
            .picture.cpu()
            .split(1)
        )
    results = dict(zip(asked, made, strict=True))
    strips = []
    for file, texts in TOLD.items():
        labels = [f"the file, {model.size}×{model.size}", *(f"“{text}”" for text in texts)]
        row = [files[file], *(results[file, text] for text in texts)]
        strips.append(
            contact_sheet([row], (), labels, title=f"emoji/{file} (Twemoji, CC-BY 4.0), and edited")
        )
    return stack([beside(*pair) for pair in zip(strips[::2], strips[1::2], strict=True)])


def painted(a: argparse.Namespace) -> list[Tensor]:
    """A sheet of each painting. All edits of one t0 are walked together."""
    model = load_model(a)
    with blame("demo"):
        files = {
            file: read_picture(FOLDER / file, model.size, model.grid)
            for file in dict.fromkeys(wish.file for wish in WISHES)
        }
    print(
        f"{len(WISHES)} edits of {len(files)} painted files with the model {model.name} "
        f"on {model.device.type} …",
        flush=True,
    )
    edits: dict[Wish, Tensor] = {}
    depths = sorted({wish.t0 for wish in WISHES})
    with progress(model, a.steps * len(depths), "sdedit"):
        for t0 in depths:
            wishes = [wish for wish in WISHES if wish.t0 == t0]
            guides = torch.cat([files[wish.file] for wish in wishes])
            result = sdedit(model, guides, [wish.prompt for wish in wishes], t0=t0, steps=a.steps)
            edits.update(zip(wishes, result.picture.cpu().split(1), strict=True))
    strips = []
    for file, wishes in groupby(WISHES, key=lambda wish: wish.file):
        wishes = list(wishes)
        labels = [
            f"the file, {model.size}×{model.size}",
            *(f"“{wish.prompt}”, t0 = {wish.t0}" for wish in wishes),
        ]
        strips.append(
            contact_sheet(
                [[files[file], *(edits[wish] for wish in wishes)]], (), labels, title=f"hand/{file}"
            )
        )
    return strips


def beside(left: Tensor, right: Tensor) -> Tensor:
    """Two sheets side by side; the shorter one is filled up with white."""
    height = max(left.shape[2], right.shape[2])
    return torch.cat(
        [F.pad(sheet, (0, 0, 0, height - sheet.shape[2]), value=255) for sheet in (left, right)], dim=3
    )


def stack(sheets: Sequence[Tensor]) -> Tensor:
    """Sheets (1 3 y x), uint8, one below the other; narrower ones are filled up with white."""
    width = max(sheet.shape[-1] for sheet in sheets)
    return torch.cat([F.pad(sheet, (0, width - sheet.shape[-1]), value=255) for sheet in sheets], dim=2)


if __name__ == "__main__":
    sys.exit(main())
