"""Why did my edit fail? One call of a method for every setting of one or two of its arguments, on one sheet.

    def edit(ratio, threshold):
        rule = MaskRule(threshold=threshold)
        return diffedit(model, x, "a red star", "a blue star", ratio=ratio, rule=rule)

    swept = sweep(edit, {"ratio": [.5, .7, .9], "threshold": [.25, .5, .75]})
    write_picture(sheet(swept, before=x), "why.png")                       # ratio down, threshold across
    write_picture(sheet(swept, of=lambda edit: edit.mask * 2 - 1), "masks.png")

Where the arguments of a method itself vary, `partial(sdedit, model, x, "a star")` does for `edit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from torch import Tensor

from palimpsest.arguments import ArgumentError, Count, Rounds, check
from palimpsest.worlds.files import contact_sheet


class Sweep(NamedTuple):
    """The results of every combination, the last grid running fastest."""

    grids: dict[str, list[Any]]  # argument -> the values that were tried
    settings: list[dict[str, Any]]  # argument -> value, one for each result
    results: list[Any]  # what the verb gave


def sweep(verb: Callable[..., Any], grids: Mapping[str, Sequence[Any]]) -> Sweep:
    """Call verb(argument=value, …) for every combination of the grids' values; nothing else changes.

    verb: a method with its other arguments filled in, by functools.partial or a function of the varied ones.
    Raises ArgumentError for no grids, or one without values; what the verb raises says for which setting.
    """
    for name, values in grids.items():
        if isinstance(values, str):
            raise ArgumentError("grids", f"{name} must be a list of values, got the text {values!r}")
    grids = {name: list(values) for name, values in grids.items()}
    if not grids or not all(grids.values()):
        raise ArgumentError(
            "grids", f"must name one argument at least, each with one value at least, got {grids}"
        )
    settings, results = [dict(zip(grids, values)) for values in product(*grids.values())], []
    for setting in settings:
        try:
            results.append(verb(**setting))
        except ArgumentError as error:
            raise ArgumentError(error.argument, f"{error.text} (at {label(setting)})") from error
        except ValueError as error:
            raise ValueError(f"{error} (at {label(setting)})") from error
    return Sweep(grids, settings, results)


def label(setting: Mapping[str, Any]) -> str:
    """ratio 0.8, threshold 0.5"""
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in setting.items()
    )


def sheet(
    swept: Sweep,
    of: Callable[[Any], Tensor] = lambda result: result.picture,
    *,
    before: Tensor | None = None,
    n: Rounds = 0,
    scale: Count = 3,
    title: str = "",
) -> Tensor:
    """The sweep on one labelled sheet, for `write_picture`: uint8 (1, 3, y, x).

    One grid runs across; of two, the first runs down. of: what to show of a result, (b, 1 or 3, y, x) in
    [−1, 1]; n: which picture of a batch; before: (b, 3, y, x), shown at the head of each row; scale: how many
    times as large. Raises ArgumentError for more than two grids.
    """
    check(sheet, locals())
    if len(swept.grids) > 2:
        raise ArgumentError(
            "grids",
            f"are {len(swept.grids)} ({', '.join(swept.grids)}), and a sheet has two directions; "
            "fix one of them",
        )
    *down, across = ([label({name: value}) for value in values] for name, values in swept.grids.items())
    cells = [of(result)[n : n + 1].expand(-1, 3, -1, -1) for result in swept.results]
    rows = [cells[i : i + len(across)] for i in range(0, len(cells), len(across))]
    if before is not None:
        rows, across = [[before[n : n + 1], *row] for row in rows], ["before", *across]
    return contact_sheet(rows, *down, column_labels=across, scale=scale, title=title)
