"""CLAIMS.md out of the measurements: what the papers say, what came out here, and a verdict that a rule
computes.

A *measurement* runs models for minutes and leaves a record, figures/<name>.json. A *judge* is a pure
function of one record; its docstring is its rule. The page is a pure function of all records."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from palimpsest.outputs import write_text

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "figures"
PAGE = ROOT / "CLAIMS.md"
DOCS = ROOT / "docs"

HOLDS, PARTLY, FAILS = "holds", "partly", "does not hold"
UNJUDGED, UNMEASURED = "cannot be judged here", "not yet measured"

Record = dict[str, Any]


class Finding(NamedTuple):
    """What a judge says of a record."""

    verdict: str  # one of the five above
    ours: str  # the figures it rests on, in a line


class Measurement(NamedTuple):
    """One run of models that one or more claims are judged by."""

    name: str  # the record is figures/<name>.json
    run: Callable[..., Record]  # (models, *, n, seed, part) -> record; part: see claims/parts.py
    n: int
    seed: int
    pictures: tuple[str, ...]  # files of figures/ that are drawn from the record
    opener: Callable[..., Any] | None = (
        None  # (folder, device) -> models with .name and .files; None: claims.common.open_models
    )
    needs: tuple[str, ...] = ()  # models beside those of open_models without which it cannot be run


class Claim(NamedTuple):
    """One line of the page. Without a measurement it has not been measured yet."""

    id: str
    says: str
    paper: str
    theirs: str  # the paper's own figure
    measurement: Measurement | None = None
    judge: Callable[[Record], Finding] | None = None
    picture: str | None = None  # file of figures/


def read_record(name: str, folder: Path = RECORDS) -> Record | None:
    """The record of a measurement, None where it was never run."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def find(claim: Claim, folder: Path = RECORDS) -> Finding:
    """The verdict on a claim from the records in `folder`."""
    record = None if claim.measurement is None else read_record(claim.measurement.name, folder)
    return Finding(UNMEASURED, "") if record is None else claim.judge(record)


def row(claim: Claim, folder: Path = RECORDS) -> str:
    """The claim's line of the table."""
    finding, ours, picture, command = find(claim, folder), "", "", ""
    if finding.verdict != UNMEASURED:
        record = read_record(claim.measurement.name, folder)
        ours = f"{finding.ours} (n = {record['n']}, seed {record['seed']})"
        picture = f"[{claim.picture}](figures/{claim.picture})" if claim.picture else ""
    if claim.measurement is not None:
        command = f"`python -m palimpsest.claims {claim.id}`"
    cells = claim.id, claim.says, claim.paper, claim.theirs, ours, f"**{finding.verdict}**", picture, command
    return f"| {' | '.join(cells)} |"


def page(claims: tuple[Claim, ...], folder: Path = RECORDS) -> str:
    """The whole of CLAIMS.md."""
    verdicts = [find(c, folder).verdict for c in claims]
    kinds = HOLDS, PARTLY, FAILS, UNJUDGED, UNMEASURED
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in kinds if v in verdicts)
    rules = "\n".join(f"- **{c.id}**: {' '.join(inspect.getdoc(c.judge).split())}" for c in claims if c.judge)
    return f"""# Claims

What these papers say, and what came out when it was measured on the models of this repository: {counts}.

Our world is small: 64 × 64 pictures of shapes, models of a few million parameters, a reader instead of
human judges. A verdict is about this world. Where a paper's figure depends on its data set, ours cannot
equal it; what is tested is the direction that the paper claims. Every figure below comes from a record in
`figures/`, made by the command in the last column; this page is written by `python -m palimpsest.claims`,
and each verdict by the rule under the table. Nobody types either.

| | claim | paper | the paper's figure | ours | verdict | picture | command |
|---|---|---|---|---|---|---|---|
{chr(10).join(row(c, folder) for c in claims)}

## The rules

{rules}
"""


def between(text: str, name: str, inside: str) -> str:
    """A page with `inside` between its lines <!-- name --> and <!-- /name -->. Raises ValueError where
    these are missing.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(
            f"docs: the page holds no place for the table; put {start} and {end} on lines of their own"
        )
    before, rest = text.split(start)
    return f"{before}{start}\n{inside}\n{end}{rest.split(end)[1]}"


def write_table(page: str, name: str, table: str) -> None:
    """Put a table into docs/<page>.md, between its lines <!-- name --> and <!-- /name -->."""
    file = DOCS / f"{page}.md"
    write_text(file, between(file.read_text(encoding="utf-8"), name, table))
