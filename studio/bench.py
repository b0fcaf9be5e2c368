"""How long the studio takes to start, and to answer: figures/studio.json.

    python -m palimpsest.studio.bench

Start: from the command to the line with the address, in a fresh process. Answers: the tabs' own work with
the settings that the page opens with, the model loaded, from the click to the first picture.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from palimpsest.studio import compare, describe, paint, tell
from palimpsest.studio.desk import Ask
from palimpsest.studio.examples import EXAMPLES
from palimpsest.studio.jobs import Job
from palimpsest.studio.pictures import on_canvas, pixels_of
from palimpsest.studio.server import free_port
from palimpsest.studio.studio import Studio
from palimpsest.weights.files import write_json

RECORD = Path(__file__).parents[1] / "figures" / "studio.json"
START, ANSWER = 10.0, 3.0  # seconds, at most
ONE = next(iter(EXAMPLES.values()))


def start() -> float:
    """Seconds until the address is said."""
    began = time.monotonic()
    words = [sys.executable, "-u", "-m", "palimpsest", "studio", "--port", str(free_port("127.0.0.1", None))]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as server:
        server.stdout.readline()
        seconds = time.monotonic() - began
        server.terminate()
    return seconds


def works(studio: Studio, picture: str) -> dict[str, Callable[[Job], Any]]:
    """What each tab does at first."""
    ask = Ask("bench", "shapes", 0)
    texts = (ONE.source, ONE.target)
    told = ask._replace(model="shapes-instruct")
    return {
        "Paint": lambda job: paint.edited(
            studio, job, ask, on_canvas(ONE.picture), None, ONE.target, 0.7, 3.0, 1, 25, "vp"
        ),
        "Tell": lambda job: tell.told(studio, job, told, picture, ONE.instruction, 1.5, 1.2, 20),
        "Describe: DiffEdit": lambda job: describe.diffedited(
            studio, job, ask, picture, *texts, 0.3, 1, 0.8, 3.0, 25
        ),
        "Describe: FlowEdit": lambda job: describe.flowed(
            studio, job, ask, picture, *texts, 0.85, 2.0, 2.0, 20
        ),
        "Describe: Prompt-to-Prompt": lambda job: describe.worded(
            studio, job, ask, None, *texts, "auto", 0.8, 0.4, 25
        ),
        "Compare": lambda job: compare.compared(
            studio, job, ask, list(compare.WAYS), picture, *texts, ONE.instruction, None
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


def main() -> None:
    """Measure, print, write."""
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
    for name, seconds in found.items():
        print(f"{name:28}{seconds:6.1f} s, at most {START if name == 'start' else ANSWER:g}")
    seconds = {name: round(value, 2) for name, value in found.items()}
    write_json(
        RECORD, dict(seconds=seconds, most=dict(start=START, answer=ANSWER), threads=torch.get_num_threads())
    )


if __name__ == "__main__":
    main()
