"""Work in a thread of its own: how far it is, and how it is stopped.

The methods know nothing of it. `counted` tells of every evaluation of the net; there a job that was stopped,
or that has run out of time, raises `Stopped`.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from palimpsest.arguments import Caution
from palimpsest.cli.manners import complaint
from palimpsest.nets.tokenizer import TextCut
from palimpsest.weights.counting import counted
from palimpsest.weights.model import Model

OURS = "this is a mistake of the program, not yours; the terminal shows it"


class Stopped(Exception):
    """The work was stopped, or took too long; the text says which."""


class Job:
    """One piece of work. `done` of `total` evaluations are made; `news` is what it shows meanwhile."""

    def __init__(self, seconds: float):
        self.seconds, self.total, self.done = seconds, 0, 0
        self.news: Any = None  # of the tab's own kind: a loss curve, a sample
        self.notes: list[str] = []
        self.result: Any = None
        self.error: str | None = None
        self.began = self.ended = time.monotonic()
        self.finished, self._stop = threading.Event(), threading.Event()

    @property
    def elapsed(self) -> float:
        return (self.ended if self.finished.is_set() else time.monotonic()) - self.began

    @property
    def share(self) -> float | None:
        """How much of it is done; None where that is not known."""
        return min(1.0, self.done / self.total) if self.total else None

    @property
    def said(self) -> str:
        """How far it is, in words."""
        share = self.share
        left = self.elapsed * (1 - share) / share if share else 0.0
        more = f", about {left:.0f} s more" if self.elapsed > 2 and left >= 1 else ""
        return f"{self.done} evaluations, {self.elapsed:.0f} s{more}"

    def stop(self) -> None:
        self._stop.set()

    def moved(self) -> None:
        """An evaluation was made. Raises Stopped."""
        self.done += 1
        self.look()

    def look(self) -> None:
        """Raises Stopped where the work has to end."""
        if self._stop.is_set():
            raise Stopped("stopped")
        if time.monotonic() - self.began > self.seconds:
            raise Stopped(f"stopped: it took more than {self.seconds:.0f} s; ask for fewer steps")

    @contextmanager
    def watching(self, *models: Any) -> Iterator[None]:
        """Inside, the evaluations of these models count."""
        with ExitStack() as stack:
            for model in models:
                if isinstance(model, Model):
                    stack.enter_context(counted(model, each_pass=self.moved))
            yield

    def run(self, work: Callable[[Job], Any]) -> None:
        """Do it in this thread; what went wrong is in `error`, on one line."""
        self.began = time.monotonic()
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("ignore")
                for kind in (TextCut, Caution):
                    warnings.simplefilter("always", kind)
                self.look()
                self.result = work(self)
            self.notes += [str(one.message) for one in said]
        except Stopped as stopped:
            self.error = str(stopped)
        except Exception as error:
            line = complaint(error)
            self.error = OURS if line is None else line
            if line is None:
                raise
        finally:
            self.ended = time.monotonic()
            self.finished.set()
