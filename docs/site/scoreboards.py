"""The scoreboards as tables that a reader can sort, each made of one record in figures/."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from html import escape
from typing import Any, NamedTuple

from palimpsest.claims.page import RECORDS

Record = dict[str, Any]
CELLS = RECORDS / "cells"  # python -m palimpsest.claims.draw.cells


class Cell(NamedTuple):
    """What stands in a cell: a text, a second line, and what it is sorted by."""

    text: str
    small: str = ""
    by: float | str = ""


NONE = Cell("–", by=-1e9)


class Board(NamedTuple):
    """A record in figures/, and what its page says."""

    record: str  # figures/<record>.json
    title: str
    about: str
    cells: str  # what a cell says
    more: str  # the page that says more, as a path on the site
    kinds: Callable[[Record], list[str]]
    success: Callable[[Record], dict[str, list[Cell]]]  # a row for each method: over all, then each kind
    head: tuple[str, ...]  # of the second table
    means: Callable[[Record], dict[str, list[Cell]]]


def cell(numbers: list[float] | None, scale: float = 1, digits: int = 1, unit: str = "") -> Cell:
    """mean, and its interval below it."""
    if numbers is None:
        return NONE
    mean, low, high = (scale * v for v in numbers)
    return Cell(f"{mean:.{digits}f}{unit}", f"{low:.{digits}f} … {high:.{digits}f}", mean)


# ---- the shapes world: claims/scoreboard.py


def shapes_success(record: Record) -> dict[str, list[Cell]]:
    """The share of edits whose every attribute is right."""
    tables = {name: row["table"] for name, row in record["methods"].items()} | record["ends"]
    kinds = ["all", *record["kinds"]]
    return {
        name: [cell(found[k]["right"], 100, 0, " %") if k in found else NONE for k in kinds]
        for name, found in tables.items()
    }


def shapes_means(record: Record) -> dict[str, list[Cell]]:
    """What else counts, over all kinds."""
    found = {}
    for name, row in record["methods"].items():
        mean, calls = row["table"]["all"], row["evaluations"]
        found[name] = [
            Cell(row["given"], by=row["given"]),
            cell(mean["truth_db"]),
            cell(mean["outside_db"]),
            NONE if calls is None else Cell(f"{calls:.0f}", by=calls),
            Cell(f"{row['seconds']:.1f}", by=row["seconds"]),
            Cell(str(mean["n"]), by=mean["n"]),
        ]
    return found


# ---- the emoji world: claims/emoji.py


def emoji_success(record: Record) -> dict[str, list[Cell]]:
    """The gain in PSNR over the picture untouched, and the share of pairs with a gain."""

    def one(scores: Record) -> Cell:
        return Cell(f"{scores['gain']:+.1f}", f"{scores['beats']:.0%}", scores["gain"])

    rows = {**record["methods"], "the true one through the autoencoder": record["limit"]}
    return {
        name: [one(scores["all"]), *(one(scores["kinds"][k]) for k in record["limit"]["kinds"])]
        for name, scores in rows.items()
    }


def emoji_means(record: Record) -> dict[str, list[Cell]]:
    """What else was measured, over all kinds."""
    return {
        name: [
            Cell(f"{scores['all'][k]:.{digits}f}", by=scores["all"][k]) if k in scores["all"] else NONE
            for k, digits in EMOJI_MEANS
        ]
        for name, scores in record["methods"].items()
    }


EMOJI_MEANS = (("db", 1), ("outside_db", 1), ("clip", 3))
BOARDS = {
    "shapes": Board(
        "scoreboard",
        "The scoreboard of shapes",
        "Every method on the same edits of the shapes world, where a program draws the true result.",
        "Each cell is the share of edits whose every attribute the reader finds, with its 95 % interval",
        "docs/shapes.md",
        lambda record: list(record["kinds"]),
        shapes_success,
        (
            *("it is given", "PSNR to the true edit, dB", "PSNR where nothing should change, dB"),
            *("evaluations", "seconds", "n"),
        ),
        shapes_means,
    ),
    "emoji": Board(
        "emoji",
        "The scoreboard of emoji",
        "Every method on the same held-out edits of emoji; the true result is what the artist drew. No model "
        "saw these pictures.",
        "Each cell is the gain in PSNR (dB) over the picture untouched, and the share of pairs with a gain",
        "docs/emoji.md",
        lambda record: list(record["limit"]["kinds"]),
        emoji_success,
        (
            *("PSNR to the true edit, dB", "PSNR to the picture before where nothing should change, dB"),
            "CLIP's similarity to the true edit",
        ),
        emoji_means,
    ),
}


def read(board: Board) -> Record | None:
    """The record of a board; None where it was not measured."""
    path = RECORDS / f"{board.record}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def place(board: Board, kind: str) -> str:
    """The anchor of the pictures of a kind of edit."""
    return f"{board.record}-{kind.replace(' ', '-')}"


def made(command: str) -> str:
    """The line below a figure: which command made it."""
    return f'<p class="made">made by <code>{escape(command)}</code></p>'


def sheets(board: Board, record: Record) -> dict[str, str]:
    """Kind of edit -> the file of its pictures by every method, for those that were drawn."""
    names = {kind: f"{board.record}_{kind.replace(' ', '_')}.webp" for kind in board.kinds(record)}
    return {kind: name for kind, name in names.items() if (CELLS / name).exists()}


def table(head: list[str], rows: dict[str, list[Cell]], leads: dict[int, str]) -> str:
    """A table in HTML, sorted by a click on a head. leads: column -> the place that its cells lead to."""

    def one(k: int, c: Cell) -> str:
        inside = escape(c.text) + (f"<br><small>{escape(c.small)}</small>" if c.small else "")
        inside = f'<a href="#{leads[k]}">{inside}</a>' if k in leads and c is not NONE else inside
        return f'<td data-sort="{escape(str(c.by))}">{inside}</td>'

    heads = "".join(f"<th>{escape(words)}</th>" for words in head)
    body = "\n".join(
        f"<tr><th>{escape(name)}</th>{''.join(one(k, c) for k, c in enumerate(cells))}</tr>"
        for name, cells in rows.items()
    )
    return (
        f'<div class="wide"><table class="sortable">\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def settings(record: Record) -> str:
    """The settings that each method chose for each kind, folded."""
    parts = []
    for name, about in record["methods"].items():
        rows = "\n".join(
            f"| {kind} | {', '.join(f'{k} {v}' for k, v in chosen.items())} |"
            for kind, chosen in about.get("settings", {}).items()
        )
        if rows:
            parts.append(f":::{{dropdown}} {name}\n\n| kind | settings |\n|---|---|\n{rows}\n\n:::")
    return "\n\n".join(parts)


def pictures(board: Board, record: Record) -> str:
    """A sheet for each kind of edit."""
    parts = []
    for kind, name in sheets(board, record).items():
        image = f"![{kind}: before, what each method made, and the true edit](../figures/cells/{name})"
        by = made(f"python -m palimpsest.claims.draw.cells {name}")
        parts.append(f"({place(board, kind)})=\n### {kind}\n\n{image}\n\n{by}")
    return "## Pictures\n\n" + "\n\n".join(parts) if parts else ""


def page(name: str) -> str:
    """The page of one scoreboard."""
    board = BOARDS[name]
    record, kinds = read(board), board.kinds(read(board))
    drawn = sheets(board, record)
    leads = {k: place(board, kind) for k, kind in enumerate(kinds, 1) if kind in drawn}
    leads |= {0: next(iter(leads.values()))} if leads else {}
    parts = [
        "---\nhtml_theme.sidebar_secondary.remove: true\n---",  # the table takes its place
        f"# {board.title}",
        board.about,
        f"{board.cells} (n = {record['n']}, seed {record['seed']}). A click on the head of a column sorts"
        f"{'; a click on a cell leads to pictures' * bool(leads)}. [How to read it](../{board.more}).",
        table(["method", "all", *kinds], board.success(record), leads),
        made(record["command"]),
        "## Over all kinds",
        table(["method", *board.head], board.means(record), {}),
        "## Settings\n\nEach method chose its own for each kind of edit, on edits that are not scored.",
        settings(record),
        pictures(board, record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def index() -> str:
    """The first page: the boards that were measured."""
    known = [name for name, board in BOARDS.items() if read(board) is not None]
    rows = "\n".join(f"- [{BOARDS[name].title}]({name}.md). {BOARDS[name].about}" for name in known)
    names = "\n".join(known)
    return f"# Scoreboards\n\n{rows}\n\n```{{toctree}}\n:hidden:\n\n{names}\n```\n"


def pages() -> dict[str, Callable[[], str]]:
    """Path on the site -> what writes the page."""
    measured = {name: board for name, board in BOARDS.items() if read(board) is not None}
    own = {f"scoreboards/{name}.md": partial(page, name) for name in measured}
    return {"scoreboards/index.md": index, **own}
