"""The scoreboard of shapes as pictures: how often each method is right by kind of edit, what it costs in
nearness, and what the methods made of the same edits.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from palimpsest.claims.common import Models
from palimpsest.claims.draw.editing import record
from palimpsest.claims.draw.style import BLUE, GREY, ORANGE, figure
from palimpsest.worlds.files import read_picture

Opener = Callable[[], Models]


def scoreboard(folder: Path, models: Opener) -> Figure:
    """Left: the share of edits that came out right, by kind. Right: PSNR to the true edit, all kinds."""
    r = record(folder, "scoreboard")
    rows = {name: row["table"] for name, row in r["methods"].items()} | r["ends"]
    kinds = ["all", *r["kinds"]]
    fig = figure(12, 6.4)
    left, right = fig.subplots(1, 2, width_ratios=[2.2, 1], sharey=True)
    share = [[100 * (found[kind]["right"] or [float("nan")])[0] for kind in kinds] for found in rows.values()]
    left.imshow(share, cmap="Blues", vmin=0, vmax=130, aspect="auto")
    for i, line in enumerate(share):
        for k, value in enumerate(line):
            left.text(
                k,
                i,
                f"{value:.0f}",
                ha="center",
                va="center",
                fontsize=10,
                color="white" if value > 80 else "#222222",
            )
    left.set_xticks(range(len(kinds)), [f"{k}\n({r['n'] if k == 'all' else r['kinds'][k]})" for k in kinds])
    few = {name: f" ({f['all']['n']})" for name, f in rows.items() if f["all"]["n"] < r["n"]}
    left.set_yticks(range(len(rows)), [textwrap.fill(name + few.get(name, ""), 26) for name in rows])
    left.set_title("all attributes right, % of edits (how many)")
    left.grid(False)
    for i, (name, found) in enumerate(rows.items()):
        mean, low, high = found["all"]["truth_db"]
        colour = GREY if name in r["ends"] else BLUE
        right.errorbar(mean, i, xerr=[[mean - low], [high - mean]], marker="o", capsize=3, color=colour)
    copied = r["ends"][next(iter(r["ends"]))]["all"]["truth_db"][0]
    right.axvline(copied, color=ORANGE, linestyle="--", linewidth=1, label="untouched")
    right.set(xlabel="PSNR to the true edit (dB), bars: 95 %")
    right.set_title("nearness to the truth")
    right.legend(loc="upper right")
    return fig


def scoreboard_gallery(folder: Path, models: Opener) -> Figure:
    """The first edits of each kind: before, what each method made, the truth."""
    r = record(folder, "scoreboard")
    sheet = read_picture(folder / "scoreboard_edits.png")
    columns, rows = r["sheet"]["columns"], r["sheet"]["rows"]
    side = sheet.shape[-1] // len(columns)
    fig = figure(1.02 * len(columns) + 2.6, 1.02 * len(rows) + 1.3)
    ax = fig.subplots()
    ax.imshow(((sheet[0].movedim(0, -1) + 1) / 2).clamp(0, 1), interpolation="nearest")
    middle = [side * (k + 0.5) for k in range(max(len(columns), len(rows)))]
    ax.set_xticks(middle[: len(columns)], [textwrap.fill(name, 12) for name in columns], fontsize=9)
    words = [textwrap.fill(f"{row['kind']}: {row['target']}", 24) for row in rows]
    ax.set_yticks(middle[: len(rows)], words, fontsize=9)
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    for k in range(len(columns) + 1):
        ax.axvline(k * side - 0.5, color="white", linewidth=3)
    for k in range(len(rows) + 1):
        ax.axhline(k * side - 0.5, color="white", linewidth=3)
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return fig


DRAWN = (scoreboard, scoreboard_gallery)
