"""The pictures of the knobs on the pages of docs/methods: python -m palimpsest.claims.draw.knobs [t0.png …].

Each is the sheet of a `palimpsest sweep` command that stands on the page above it: the page is the only
place where the command is written. Sheets become WebP files of at most WIDE pixels, in true colour.
`--missing` makes those that are not there.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from palimpsest.claims.page import DOCS, RECORDS, ROOT
from palimpsest.cli.main import main as palimpsest
from palimpsest.outputs import whole

FOLDER = RECORDS / "knobs"
WIDE, QUALITY = 1000, 92  # of a picture: together with the sheets of the scoreboards they stay below 3 MB


def commands(pages: Path = DOCS / "methods") -> dict[str, list[str]]:
    """Name of the sheet -> the words of the command that makes it. ValueError for a name that two make."""
    found: dict[str, list[str]] = {}
    for page in sorted(pages.glob("*.md")):
        for line in page.read_text(encoding="utf-8").splitlines():
            words = shlex.split(line) if line.startswith("palimpsest sweep ") else []
            if words:
                name = words[words.index("-o") + 1]
                if name in found:
                    raise ValueError(f"knobs: two commands write {name}; one of them is on {page.name}")
                found[name] = words[1:]
    return found


def kept(name: str) -> str:
    """The file in figures/ that shows a sheet: t0.png is kept as t0.webp."""
    return str(Path(name).with_suffix(".webp"))


def shrink(sheet: Path, to: Path) -> None:
    """Write a sheet at most WIDE pixels wide, as WebP."""
    picture = Image.open(sheet).convert("RGB")
    if picture.width > WIDE:
        high = round(picture.height * WIDE / picture.width)
        picture = picture.resize((WIDE, high), Image.Resampling.LANCZOS)
    with whole(to) as part:
        picture.save(part, format="WEBP", quality=QUALITY, method=6)


def main(names: Sequence[str] = ()) -> None:
    """Make some of the pictures, all of them without a name."""
    known = commands()
    if "--missing" in names:
        names = [name for name in known if not (FOLDER / kept(name)).exists()]
    os.chdir(ROOT)  # a sheet is headed by its command, with the paths that a reader types
    FOLDER.mkdir(exist_ok=True)
    for name in names or known:
        if name not in known:
            raise ValueError(f"knobs: no page has a command that writes {name}; there are {', '.join(known)}")
        words = list(known[name])
        with tempfile.TemporaryDirectory() as folder:
            words[words.index("-o") + 1] = str(Path(folder) / name)
            if palimpsest(words) != 0:
                raise ValueError(f"knobs: palimpsest {shlex.join(known[name])} failed")
            shrink(Path(folder) / name, FOLDER / kept(name))


if __name__ == "__main__":
    main(sys.argv[1:])
