"""Long measurements in parts: each part is written when it is done, and a run that was stopped goes on
after the last one.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from palimpsest.weights.files import write_json

Part = Callable[
    [str, Callable[[], Any]], Any
]  # (name, measure) -> what measure() gave, now or in an earlier run


def at_once(name: str, measure: Callable[[], Any]) -> Any:
    """Measures and keeps nothing."""
    return measure()


class Parts:
    """part(name, measure) -> measure(), or what a run before this one left of it in `file`.

    identity: plain values that the parts depend on (models, n, seed, the code: see `code_of`). A file of
    another identity is not used: what it holds was measured on something else. Each part's seconds are
    kept, so that `seconds` counts those of all runs."""

    def __init__(self, file: str | Path, identity: dict[str, Any]):
        self.file, self.identity = Path(file), _plain(identity)
        self.done: dict[str, dict[str, Any]] = {}
        found = _read(self.file)
        if found.get("identity") == self.identity:
            self.done = found["done"]
        elif found:
            print(
                f"{self.file.name}: was begun on other models, settings or code; measuring anew",
                file=sys.stderr,
            )

    def __call__(self, name: str, measure: Callable[[], Any]) -> Any:
        """What `measure` gives, as JSON holds it; a name that was there before is the same part."""
        if name not in self.done:
            start = time.monotonic()
            self.done[name] = dict(value=_plain(measure()), seconds=time.monotonic() - start)
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.file, dict(identity=self.identity, done=self.done))
            print(f"  {name}: {self.done[name]['seconds']:.0f} s", flush=True)
        return self.done[name]["value"]

    @property
    def seconds(self) -> float:
        """Of all parts, whichever run measured them."""
        return sum(part["seconds"] for part in self.done.values())

    def forget(self) -> None:
        """Remove the file: the whole is written elsewhere."""
        self.file.unlink(missing_ok=True)


def code_of(function: Callable[..., Any]) -> str:
    """The sha256 of the module a measurement stands in: other code, other figures."""
    return hashlib.sha256(inspect.getsource(sys.modules[function.__module__]).encode()).hexdigest()


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return found if isinstance(found.get("done"), dict) else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError):
        print(f"{file.name}: cannot be read; measuring anew", file=sys.stderr)
        return {}
