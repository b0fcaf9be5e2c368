"""How long the studio takes to start, and to answer: figures/studio.json, and the table of docs/studio.md.

    python -m palimpsest.studio.bench

Start: from the command to the line with the address, in a fresh process. Answers: the tabs' own work with
the settings that the page opens with, the model loaded, from the click to the first picture.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from palimpsest.outputs import write_text
from palimpsest.studio.examples import shapes_examples
from palimpsest.studio.jobs import Job
from palimpsest.studio.pictures import CANVAS, on_canvas, pixels_of
from palimpsest.studio.studio import Studio
from palimpsest.weights.files import write_json

ROOT = Path(__file__).parents[1]
RECORD, PAGE = ROOT / "figures" / "studio.json", ROOT / "docs" / "studio.md"
START, ANSWER = 10.0, 3.0  # seconds, at most
ONE = next(iter(shapes_examples().values()))


def start() -> float:
    """Seconds until the address is said."""
    began = time.monotonic()
    words = [sys.executable, "-u", "-m", "palimpsest", "studio"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as server:
        server.stdout.readline()
        seconds = time.monotonic() - began
        server.terminate()
    return seconds


def works(studio: Studio, picture: str) -> dict[str, Callable[[Job], Any]]:
    """What each tab does at first."""
    from palimpsest.studio import compare, describe, erase, invert, look, paint, tell  # they need Gradio
    from palimpsest.studio.desk import Ask

    ask = Ask("bench", "shapes", 0)
    texts = (ONE.source, ONE.target)
    brushed = Image.new("RGBA", (CANVAS, CANVAS))
    brushed.paste((255, 0, 255, 255), (150, 150, 350, 350))
    marked = on_canvas(ONE.picture) | {"layers": [brushed]}
    told, quick = ask._replace(model="shapes-instruct"), [n for n in compare.WAYS if n not in compare.SLOW]
    return {
        "Paint": lambda job: paint.edited(
            studio, job, ask, on_canvas(ONE.picture), None, ONE.target, 0.7, 3.0, 1, 25, "vp"
        ),
        "Erase": lambda job: erase.stepped(
            studio, job, ask._replace(model="shapes-glide-inpaint"), "paint", marked, ONE.target, 3.0, "15"
        )[0],
        "Tell": lambda job: tell.told(studio, job, told, picture, ONE.instruction, 1.5, 1.2, 20),
        "Describe: DiffEdit": lambda job: describe.diffedited(
            studio, job, ask, picture, *texts, 0.5, 0, 0.8, 3.0, 25
        ),
        "Describe: FlowEdit": lambda job: describe.flowed(
            studio, job, ask, picture, *texts, 0.85, 2.0, 2.0, 20
        ),
        "Describe: Prompt-to-Prompt": lambda job: describe.worded(
            studio, job, ask, picture, *texts, "edit-friendly", "auto", 0.4, 0.2, 2.0, 25
        ),
        "Invert": lambda job: invert.inverted(
            studio, job, ask, invert.WAYS[0], picture, ONE.source, 8, 7.5, 10, "adam"
        ),
        "Look": lambda job: look.looked(studio, job, ask, ONE.source, look.ALL, 20),
        "Compare": lambda job: compare.compared(
            studio, job, ask, quick, picture, *texts, ONE.instruction, None
        ),
    }


class Watched(Job):
    """A job that notes when there is first something to see."""

    first: float | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("news", "result") and value is not None and self.first is None:
            super().__setattr__("first", self.elapsed)


def answer(work: Callable[[Job], Any]) -> float:
    """Seconds until the first picture."""
    job = Watched(600)
    job.run(work)
    if job.error:
        raise RuntimeError(job.error)
    return job.first


def table(record: dict[str, Any]) -> str:
    """The record in Markdown."""
    rows = ["| what | seconds | at most | reached |", "|---|---|---|---|"]
    for name, seconds in record["seconds"].items():
        most = record["most"]["start" if name == "start" else "answer"]
        what = "start, until the address is said" if name == "start" else name
        rows.append(f"| {what} | {seconds:.1f} | {most:g} | {'yes' if seconds <= most else '**missed**'} |")
    return "\n".join(
        [
            *rows,
            "",
            f"*{record['threads']} threads, models loaded; the first picture, or of Invert the first loss.*",
        ]
    )


def with_table(text: str, record: dict[str, Any]) -> str:
    """A page with the table between its lines <!-- bench --> and <!-- /bench -->."""
    return re.sub(
        r"(?s)(?<=<!-- bench -->\n).*(?=<!-- /bench -->)", lambda _: f"{table(record)}\n", text, count=1
    )


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    argparse.ArgumentParser(
        prog="python -m palimpsest.studio.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(argv)
    found = {"start": start()}
    with tempfile.TemporaryDirectory() as folder:
        picture = f"{folder}/picture.png"
        pixels_of(ONE.picture).save(picture)
        studio = Studio()
        for name in ("shapes", "shapes-instruct"):
            studio.model(name)
        for name, work in works(studio, picture).items():
            answer(work)  # once, to warm up
            found[name] = answer(work)
    seconds = {name: round(value, 2) for name, value in found.items()}
    record = dict(seconds=seconds, most=dict(start=START, answer=ANSWER), threads=torch.get_num_threads())
    print(table(record))
    write_json(RECORD, record)
    write_text(PAGE, with_table(PAGE.read_text(encoding="utf-8"), record))


if __name__ == "__main__":
    main()
