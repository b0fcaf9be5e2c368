"""What lies behind the page: the models, loaded once; one computation at a time; what each visitor has open.

A visitor is a loaded page: a second tab, or a reload, is another. When a page goes, its work is stopped and
what was kept for it is forgotten.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from palimpsest.arguments import ArgumentError
from palimpsest.nets.glide import GlideUNet
from palimpsest.studio.jobs import Job
from palimpsest.weights.files import FOLDER, manifest
from palimpsest.weights.judges import load_judge
from palimpsest.weights.load import find, load
from palimpsest.weights.memory import free_memory
from palimpsest.weights.model import Model

SECONDS = 180.0  # that an answer may take; Learn has its own bound
LEARNING = 900.0
HELD = 6  # models at once
VISITORS = 40  # whose open work is kept


class Studio:
    """model: the one that the page opens with. local: whether only this machine reaches the page; if others
    do, they may choose among the shipped models alone, not name files."""

    def __init__(self, model: str = "shapes", local: bool = True):
        self.first, self.local = model, local
        self.models: OrderedDict[str, Any] = OrderedDict()
        self.jobs: dict[str, Job] = {}
        self.kept: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self.turn, self.loading = threading.Lock(), threading.Lock()

    # ---- models ----

    def model(self, name: str) -> Model:
        """The model of this name, loaded once; the one that was used least gives way."""
        return self._held(name, load)

    def judge(self, name: str = "shapes-clip") -> Any:
        return self._held(name, load_judge)

    def open_to_all(self, name: str) -> None:
        """Raises ArgumentError for a model that others than this machine's user may not ask for."""
        if not self.local and f"{name}.safetensors" not in manifest() and name != self.first:
            raise ArgumentError("model", "only shipped models are open to other machines")

    def _held(self, name: str, how: Callable[[str], Any]) -> Any:
        name = str(name or "").strip()
        self.open_to_all(name)
        with self.loading:
            if name not in self.models:
                self.models[name] = how(name)
                while len(self.models) > HELD:
                    self.models.popitem(last=False)
            self.models.move_to_end(name)
            return self.models[name]

    def menu(self, *names: str, fits: Callable[[Model], bool] | None = None) -> list[str]:
        """Of these the shipped models that are there; the page's own first, if it is among them or fits."""
        found = shipped(*names)
        own = self.first in found or (fits is not None and fits(self.model(self.first)))
        return [self.first, *(name for name in found if name != self.first)] if own else found

    def told(self, name: str) -> str:
        """What a model weighs, before it is loaded, and the memory that is free."""
        try:
            self.open_to_all(name)
            path = find(name)
            files = [path] if path.is_file() else [p for p in path.rglob("*.safetensors")]
            size = sum(p.stat().st_size for p in files) / 2**20
        except (ValueError, OSError):
            return "not found on this disk"
        free = free_memory(torch.device("cpu"))
        return f"{size:.0f} MB to load" + (f", {free / 2**20:,.0f} MB free" if free else "")

    # ---- work ----

    def work(self, visitor: str, what: Callable[[Job], Any], seconds: float = SECONDS) -> Iterator[Job]:
        """Do it in its turn; gives the job again and again until it is done. One computes at a time."""
        self.stop(visitor)
        job = self.jobs[visitor] = Job(seconds)

        def in_turn() -> None:
            while not self.turn.acquire(timeout=0.05):
                if job._stop.is_set():
                    break
            else:
                try:
                    return job.run(what)
                finally:
                    self.turn.release()
            job.run(what)  # it was stopped before its turn: says so

        thread = threading.Thread(target=in_turn, daemon=True)
        thread.start()
        try:
            while not job.finished.wait(0.1):
                yield job
            yield job
        finally:
            job.stop()

    def stop(self, visitor: str) -> None:
        """Stop what this visitor has running."""
        if visitor in self.jobs:
            self.jobs[visitor].stop()

    # ---- what is open ----

    def keep(self, visitor: str, name: str, value: Any) -> None:
        """Keep a value for later questions of this visitor."""
        self.kept.setdefault(visitor, {})[name] = value
        self.kept.move_to_end(visitor)
        while len(self.kept) > VISITORS:
            self.kept.popitem(last=False)

    def open(self, visitor: str, name: str) -> Any:
        """What was kept, or None."""
        return self.kept.get(visitor, {}).get(name)

    def leave(self, visitor: str) -> None:
        """The page is gone."""
        self.stop(visitor)
        self.jobs.pop(visitor, None)
        self.kept.pop(visitor, None)


def denoises_under_text(model: Model) -> bool:
    """Whether it reads a text and sees x_t alone, in pixels or latents: what SDEdit asks for."""
    return model.text is not None and model.beside == 0


def paints_from_text(model: Model) -> bool:
    """Whether it reads a text and sees a latent alone."""
    return denoises_under_text(model) and not isinstance(model.net, GlideUNet)


def is_told(model: Model) -> bool:
    """Whether it sees a picture beside the latent, and reads an instruction."""
    return model.text is not None and model.beside == model.channels and not isinstance(model.net, GlideUNet)


def shipped(*kinds: str) -> list[str]:
    """Names of shipped models that are there, of those that are named."""
    return [name for name in kinds if (Path(FOLDER) / f"{name}.safetensors").exists()]
