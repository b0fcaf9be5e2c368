"""The pictures beside the README's commands: python -m palimpsest.claims.draw.examples [sdedit.png …].

Each is what the command's own `--compare` writes: README is the only place where the command stands.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from palimpsest.claims.page import RECORDS, ROOT
from palimpsest.cli.main import main as palimpsest
from palimpsest.outputs import copy_file

FOLDER = RECORDS / "examples"


def commands(page: Path = ROOT / "README.md") -> dict[str, list[str]]:
    """Name of the picture -> the words of the command on a page that writes it with --compare."""
    found = {}
    for line in page.read_text(encoding="utf-8").splitlines():
        words = shlex.split(line, comments=True) if line.startswith("palimpsest ") else []
        if "--compare" in words:
            found[words[words.index("--compare") + 1]] = words[1:]
    return found


def run(words: Sequence[str], folder: Path) -> None:
    """Run a command on the files of this repository; what it writes goes to `folder`."""
    given = list(words)
    for option in ("-o", "--compare"):
        at = given.index(option) + 1
        given[at] = str(folder / given[at])
    given = [str(ROOT / word) if word.startswith("figures/") else word for word in given]
    if palimpsest(given) != 0:
        raise ValueError(f"examples: palimpsest {shlex.join(words)} failed")


def main(names: Sequence[str] = ()) -> None:
    """Make some of the pictures, all of them without a name."""
    known = commands()
    for name in names or known:
        if name not in known:
            raise ValueError(f"examples: README has no command that writes {name}; it has {', '.join(known)}")
        with tempfile.TemporaryDirectory() as folder:
            run(known[name], Path(folder))
            FOLDER.mkdir(exist_ok=True)
            copy_file(Path(folder) / name, FOLDER / name)


if __name__ == "__main__":
    main(sys.argv[1:])
