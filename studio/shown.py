"""What the page shows, as HTML: pictures as data, without files; a walk that is scrubbed in the browser; the
line about a run; the code to copy. Whatever comes from outside is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from math import log10

from torch import Tensor

from palimpsest.cli.deliver import opaque
from palimpsest.studio.call import RESULT, Call
from palimpsest.worlds.files import png_bytes

MOST_FRAMES = 13  # of a walk


def data_of(png: bytes, kind: str = "image/png") -> str:
    """Content as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(png).decode('ascii')}"


def kind_of(name: str) -> str:
    """Of a file by its name."""
    return "image/png" if name.endswith(".png") else "text/plain"


def image(picture: Tensor | bytes, label: str, name: str = "", wide: bool = False) -> str:
    """A crisp picture with its label under it; name: of its part in the page, for scripts. wide: a sheet."""
    png = picture if isinstance(picture, bytes) else png_bytes(opaque(picture))
    part = f' data-part="{escape(name)}"' if name else ""
    return (
        f'<figure class="ps-figure{" ps-wide" if wide else ""}"{part}>'
        f'<img src="{data_of(png)}" alt="{escape(label)}">'
        f"<figcaption>{escape(label)}</figcaption></figure>"
    )


def row(figures: Sequence[str], small: bool = False) -> str:
    """Pictures beside one another."""
    return f'<div class="ps-row{" ps-small" if small else ""}">{"".join(figures)}</div>'


def walk(frames: Sequence[Tensor], labels: Sequence[str], label: str = "the walk") -> str:
    """Frames behind one slider: the browser swaps them, nothing is asked of the server."""
    sources = "".join(
        f'<option value="{data_of(png_bytes(frame))}">{escape(said)}</option>'
        for frame, said in zip(frames, labels, strict=True)
    )
    last = len(frames) - 1
    return (
        '<figure class="ps-figure ps-walk" data-part="walk">'
        f'<img src="{data_of(png_bytes(frames[-1]))}" alt="a step of {escape(label)}">'
        f'<figcaption>{escape(label)}: <output>{escape(labels[-1])}</output></figcaption>'
        f'<input type="range" class="ps-scrub" min="0" max="{last}" value="{last}" step="1" '
        f'aria-label="step of {escape(label)}"><select hidden>{sources}</select></figure>'
    )


def chosen(n: int, most: int = MOST_FRAMES) -> list[int]:
    """Which of n frames are shown, evenly, the ends included."""
    return sorted({round((n - 1) * k / (most - 1)) for k in range(most)}) if n > most else list(range(n))


def bar(share: float | None, said: str) -> str:
    """How far a run is."""
    width = f"{100 * share:.0f}%" if share is not None else "100%"
    kind = "ps-bar" if share is not None else "ps-bar ps-unknown"
    inner = f'<div class="{kind}"><i style="width:{width}"></i></div>'
    return f'<div class="ps-line" role="status">{inner}{escape(said)}</div>'


def line(said: str, kind: str = "done", notes: Sequence[str] = ()) -> str:
    """One line about a run. kind: done, wrong or note."""
    more = "".join(f'<div class="ps-note">note: {escape(note)}</div>' for note in notes)
    role = "alert" if kind == "wrong" else "status"
    return f'<div class="ps-line ps-{kind}" role="{role}" data-kind="{kind}">{escape(said)}</div>{more}'


def code(text: str, kind: str, label: str) -> str:
    """Text to be copied."""
    return (
        f'<div class="ps-code"><button type="button" class="ps-copy" data-copy="{escape(kind)}">'
        f'copy as {label}</button><pre data-code="{escape(kind)}" tabindex="0">{escape(text)}</pre></div>'
    )


def copies(call: Call) -> str:
    """The call as Python and, where there is one, as a command."""
    command = call.command()
    return code(call.python(), "python", "Python") + (
        code(command, "command", "command") if command else line("no command does this one", "note")
    )


def downloads(files: Mapping[str, bytes]) -> str:
    """Links to save the result with its record, and what went in."""
    links = [
        f'<a class="ps-save" download="{escape(name)}" href="{data_of(content, kind_of(name))}">'
        f"save {escape(name)}</a>"
        for name, content in files.items()
    ]
    return f'<div class="ps-files">{"".join(links)}</div>'


def answer(call: Call, png: bytes, figures: Sequence[str], more: str = "") -> str:
    """A result: its pictures, what can be saved, what can be copied."""
    files = {RESULT: png, **{one.name: one.png for one in call.files}}
    return row(figures) + more + downloads(files) + copies(call)


def fold(label: str, inside: str, opened: bool = False) -> str:
    """Something that is shown on a click."""
    state = " open" if opened else ""
    return f'<details class="ps-fold"{state}><summary>{escape(label)}</summary>{inside}</details>'


def curve(values: Sequence[float], label: str, total: int = 0) -> str:
    """A falling loss, on a logarithmic axis, as a drawing."""
    logs = [log10(max(value, 1e-12)) for value in values]
    low, high = min(logs), max(max(logs), min(logs) + 1e-6)
    n = max(total, len(logs), 2)
    points = " ".join(
        f"{20 + 560 * k / (n - 1):.1f},{150 - 130 * (v - low) / (high - low):.1f}" for k, v in enumerate(logs)
    )
    x, y = points.split()[-1].split(",")
    return (
        '<figure class="ps-curve" data-part="curve"><svg viewBox="0 0 600 170" role="img" '
        f'aria-label="{escape(label)}">'
        f'<polyline points="{points}"/><circle cx="{x}" cy="{y}" r="5"/></svg><figcaption>{escape(label)}: '
        f"{values[-1]:.3g} after {len(values)} (logarithmic; first {values[0]:.3g})</figcaption></figure>"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in one)}</tr>" for one in rows)
    return f'<div class="ps-table"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def words(groups: Mapping[str, Sequence[str]]) -> str:
    """The words that a model knows, each a button that writes it into the text one is at."""
    parts = [
        f"<div><b>{escape(name)}</b> "
        + " ".join(f'<button type="button" class="ps-word">{escape(word)}</button>' for word in some)
        + "</div>"
        for name, some in groups.items()
    ]
    return f'<div class="ps-words">{"".join(parts)}</div>'
