"""One collected call of a public function. What the page computes, shows as Python, shows as a command and
writes into the result's record all comes from it.

    call = Call(VERBS["sdedit"], "shapes", {"guide": Given.of("painting", x), "prompt": "a red star"})
    made = call.run(model)            # sdedit(model, guide=…, prompt="a red star")
    call.python(); call.command()     # the same as text, of files painting.png and result.png
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from io import BytesIO
from typing import Any

from PIL import Image
from torch import Tensor

from palimpsest.cli.commands.prompt_to_prompt import INVERSIONS
from palimpsest.cli.main import command_line
from palimpsest.cli.manners import Parser, option_name, settle
from palimpsest.cli.record import as_text, record_of, words_of
from palimpsest.methods.inversion import invert
from palimpsest.weights.estimate import Learning, Passes
from palimpsest.weights.load import load
from palimpsest.weights.model import Model
from palimpsest.worlds.files import png_bytes

RESULT = "result.png"
WIDE = 96  # columns up to which a call stands on one line


@dataclass(frozen=True)
class Given:
    """A picture or a mask of a call: its file's name, and the file."""

    name: str
    png: bytes

    @classmethod
    def of(cls, stem: str, picture: Tensor) -> Given:
        """picture: (1, 3, y, x) in [−1, 1], as the model is to see it."""
        return cls(f"{stem}.png", png_bytes(picture))

    @property
    def pixels(self) -> Image.Image:
        """As the functions take it. In messages it goes by its file's name."""
        picture = Image.open(BytesIO(self.png))
        picture.filename = self.name
        return picture

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.png).hexdigest()


@dataclass(frozen=True)
class Other:
    """A second model of a call, by its name."""

    name: str


@dataclass(frozen=True)
class Start:
    """Where a walk starts that is to come back to a given picture: its inversion, a call of its own.

    way: as --inversion has it. w: guidance scale of the walk down; "ddim" goes up without any.
    """

    way: str
    x: Given
    prompt: str
    steps: int
    w: float

    @property
    def function(self) -> Callable[..., Any]:
        return {"ddim": invert, **INVERSIONS}[self.way]

    @property
    def settings(self) -> dict[str, Any]:
        return {"steps": self.steps} | ({} if self.way == "ddim" else {"w": self.w})

    def made(self, model: Model) -> Any:
        """The inversion."""
        return self.function(model, self.x.pixels, self.prompt, **self.settings)

    @property
    def options(self) -> list[str]:
        return [f"--input={self.x.name}", f"--inversion={self.way}", f"--steps={self.steps}", f"--w={self.w}"]

    def __repr__(self) -> str:
        given = ["model", repr(self.x.name), repr(self.prompt)]
        given += [f"{name}={value!r}" for name, value in self.settings.items()]
        return f"{self.function.__name__}({', '.join(given)})"


@dataclass(frozen=True)
class Verb:
    """A public function, and the command that does the same, "" where there is none.

    options: parameter (or field of a record that is one) -> its option, where that has another name; "" for
    what stands by itself. shown: (model, made, call) -> the picture that the command writes; source: the same
    in Python. needs: what `source` imports, module -> names. loads: the function that loads the model, and
    its module; model: the option that names it. passes: what the command expects of the net, for the bar.
    """

    function: Callable[..., Any]
    module: str
    command: str
    options: Mapping[str, str] = field(default_factory=dict)
    shown: Callable[[Model, Any, Call], Tensor] = lambda model, made, call: made.picture
    source: Callable[[Call], str] = lambda call: "made.picture"
    needs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    loads: tuple[str, str] = ("palimpsest", "load")
    model: str = "model"
    passes: Callable[[argparse.Namespace, Model], Sequence[Passes | Learning]] = lambda a, model: []
    out: str = RESULT  # what the command writes: its picture, or a folder

    @property
    def name(self) -> str:
        return self.function.__name__


@dataclass(frozen=True)
class Call:
    """A verb with the arguments of its function. beside: options of the command that only choose what of
    the result is drawn."""

    verb: Verb
    model: str
    given: Mapping[str, Any]
    beside: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> list[Given]:
        """The pictures and masks that go in."""
        values = [one for value in self.given.values() for one in (value if _many(value) else [value])]
        values = [one.x if isinstance(one, Start) else one for one in values]
        return [one for one in values if isinstance(one, Given)]

    @property
    def others(self) -> dict[str, str]:
        """Parameter -> name of the further model that it takes."""
        return {name: value.name for name, value in self.given.items() if isinstance(value, Other)}

    def run(self, model: Any, each: Mapping[str, Any] | None = None) -> Any:
        """Call the function. each: callbacks that only watch, or records that hold them; further models."""
        given = {**self.given, **(each or {})}
        return self.verb.function(model, **{name: _value(one, model) for name, one in given.items()})

    def shown(self, model: Model, made: Any) -> Tensor:
        """The picture that is the result: (1, 3, y, x) in [−1, 1], or uint8."""
        return self.verb.shown(model, made, self)

    # ---- as a command ----

    def options(self, model: Model | None = None) -> argparse.Namespace:
        """The same, as the command line reads it; with a model what was left to it is chosen."""
        words = [*self._words(), "-o", self.verb.out]
        a = command_line(Parser, words[:1]).parse_args(words)
        if isinstance(getattr(a, "input", None), list):
            a.input = a.input[0] if a.input else None
        if isinstance(model, Model):
            settle(a, model)
        return a

    def _words(self) -> list[str]:
        first, options, known = [], [], self.verb.options
        model = [] if self.model == "" else [f"--{self.verb.model}", self.model]
        for name, value in {**self.given, **self.beside}.items():
            option = self.verb.options.get(name, option_name(name))
            if value is None or (value is False and option):
                continue
            if isinstance(value, Start):
                options += value.options
            elif _is_record(value):
                for part, one in _changed(value).items():
                    options += self._option(f"{name}.{part}" if f"{name}.{part}" in known else part, one)
            elif option == "":
                first += [_word(one) for one in (value if _many(value) else [value])]
            else:
                options += self._option(name, value)
        return [*self.verb.command.split(), *first, *options, *model]

    def _option(self, name: str, value: Any) -> list[str]:
        option = "--" + self.verb.options.get(name, option_name(name))
        if value is True:
            return [option]
        if isinstance(value, Mapping):
            value = [f"{key}={one:g}" for key, one in value.items()]
        return [f"{option}={_word(one)}" for one in (value if _many(value) else [value])]

    def command(self) -> str:
        """A line for a shell, in a folder that has the call's files; "" where no command does it."""
        if not self.verb.command:
            return ""
        return shlex.join([*words_of(self.options()), "-o", self.verb.out])

    def record(self, model: Model) -> str:
        """What the result carries: that of the command, byte for byte; where there is none, the Python."""
        if not self.verb.command:
            return self.python()
        return recorded(self.options(model), self.files)

    # ---- as Python ----

    def _needed(self) -> dict[str, Any]:
        """The arguments that are not what they are by default."""
        usual = inspect.signature(self.verb.function).parameters
        return {name: value for name, value in self.given.items() if value != usual[name].default}

    def python(self) -> str:
        """A script for a folder that has the call's files."""
        verb, home = self.verb, self.verb.loads
        needs: dict[str, set[str]] = {"palimpsest": {"write_picture"}}
        found = [(verb.module, verb.name), home, *((m, n) for m, names in verb.needs.items() for n in names)]
        found += [(type(v).__module__, type(v).__name__) for v in self._needed().values() if _is_record(v)]
        starts = [one.function for one in self._needed().values() if isinstance(one, Start)]
        found += [(one.__module__, one.__name__) for one in starts]
        for module, name in found:
            needs.setdefault(module, set()).add(name)
        lines = [
            f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(needs.items())
        ]
        given = [f"{name}={_said(value)}" for name, value in self._needed().items()]
        lines += ["", f"model = {home[1]}({self.model!r})"]
        lines += _called(f"made = {verb.name}", ["model", *given])
        return "\n".join([*lines, f'write_picture({verb.source(self)}, "{RESULT}")', ""])


def recorded(a: argparse.Namespace, files: Sequence[Given]) -> str:
    """The record of a command of these files."""
    return as_text(record_of(a, {one.name: one.sha256 for one in files}))


def _many(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _is_record(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, (Given, Other, Start, Model))


def _value(value: Any, model: Any) -> Any:
    """As the function takes it: a file's pixels, a model, an inversion."""
    if _many(value):
        return [_value(one, model) for one in value]
    if isinstance(value, Start):
        return value.made(model)
    if isinstance(value, Other):
        return load(value.name)
    return value.pixels if isinstance(value, Given) else value


def _word(value: Any) -> str:
    return value.name if isinstance(value, (Given, Other)) else str(value)


def _changed(record: Any) -> dict[str, Any]:
    """The fields of a record that are not as they are by default."""
    values = {one.name: (getattr(record, one.name), one.default) for one in fields(record)}
    return {name: value for name, (value, default) in values.items() if value != default}


def _said(value: Any) -> str:
    """A value in Python: a file by its name, a record by what of it is changed."""
    if isinstance(value, Given):
        return repr(value.name)
    if isinstance(value, Other):
        return f"load({value.name!r})"
    if _many(value):
        return f"[{', '.join(map(_said, value))}]"
    if _is_record(value):
        return f"{type(value).__name__}({', '.join(f'{k}={_said(v)}' for k, v in _changed(value).items())})"
    return repr(value)


def _called(what: str, arguments: Sequence[str]) -> list[str]:
    """A call on one line, or an argument a line."""
    line = f"{what}({', '.join(arguments)})"
    return [line] if len(line) <= WIDE else [f"{what}(", *(f"    {one}," for one in arguments), ")"]
