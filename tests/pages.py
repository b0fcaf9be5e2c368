"""Run every command and every Python block of README and of the pages in docs/: python -m tests.pages [NAME …].

    NAME    pages by the end of their path, such as sdedit.md; all of them without

The commands run in one scratch folder, in the order of the pages, so that a line may use what the line above it
wrote. `make docs-test` calls this and then makes the site. Takes a quarter of an hour on an idle laptop.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
import time
from pathlib import Path

from palimpsest.cli.main import main as palimpsest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NOT_RUN = {  # part of a command -> why it is not run
    "stable-diffusion": "needs public weights",
    "weights get": "downloads",
    "palimpsest studio": "serves until it is stopped",
    "--folder F": "F stands for a folder of one's own",
}


def pages() -> list[Path]:
    """README first, as it is read first."""
    return [
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "docs/methods").glob("*.md")),
    ]


def commands(page: Path) -> list[str]:
    """The commands `palimpsest …` of a page."""
    blocks = [block for language, block in BLOCK.findall(page.read_text(encoding="utf-8")) if not language]
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("palimpsest ")]


def programs(page: Path) -> list[str]:
    """The Python blocks of a page."""
    return [
        block for language, block in BLOCK.findall(page.read_text(encoding="utf-8")) if language == "python"
    ]


def words_of(command: str) -> list[str]:
    """The words of a command, without what stands behind a #. A training of minutes is cut to seconds."""
    words = shlex.split(command, comments=True)[1:]
    words += ["--steps", "20"] if words[0] == "dreambooth" else []
    return [".2" if before == "--minutes" else word for before, word in zip(["", *words], words)]


def reason(command: str) -> str | None:
    """Why a command is not run."""
    return next((why for part, why in NOT_RUN.items() if part in command), None)


def ran(page: Path) -> list[str]:
    """Run a page in the working directory; the commands and blocks that failed."""
    failed = []
    for k, program in enumerate(programs(page), 1):
        try:
            exec(compile(program, page.name, "exec"), {})
        except Exception as error:
            failed.append(f"{page.name}: Python block {k}: {error}")
    for command in commands(page):
        if why := reason(command):
            print(f"not run ({why}): {command}")
            continue
        began = time.monotonic()
        if palimpsest(words_of(command)) != 0:
            failed.append(f"{page.name}: {command}")
        print(f"{time.monotonic() - began:6.1f} s  {command}", flush=True)
    return failed


def main(names: list[str]) -> int:
    """Run the pages; 1 where something failed."""
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(ROOT / "figures", Path(folder) / "figures")
        os.chdir(folder)
        for page in pages():
            if not names or any(str(page).endswith(name) for name in names):
                failed += ran(page)
        os.chdir(ROOT)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
