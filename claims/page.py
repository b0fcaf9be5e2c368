"""CLAIMS.md out of the measurements: what the papers say, what came out here, and a verdict that a rule
computes.

A *measurement* runs models for minutes and leaves a record, figures/<name>.json. A *judge* is a pure
function of one record; its docstring is its rule. The page is a pure function of all records."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Sequence
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


def brief(ours: str, most: int = 100) -> str:
    """The first figures of a finding, cut between two, never inside brackets; … where there are more."""
    starts = (m.start() for m in re.finditer(r"[,;] | \(|$", ours))
    ends = [e for e in starts if closed(ours[:e]) and re.search(r"\d", ours[:e])]
    end = max([e for e in ends if e <= most], default=min(ends, default=len(ours)))
    return ours[:end] + (" …" if end < len(ours) else "")


def span(numbers: Sequence[float], digits: int = 1) -> str:
    """mean [low, high] of three numbers."""
    mean, low, high = (f"{x:.{digits}f}" for x in numbers)
    return f"{mean} [{low}, {high}]"


def percent(numbers: Sequence[float]) -> str:
    """mean [low, high] of three shares, in per cent."""
    mean, low, high = (round(100 * x) for x in numbers)
    return f"{mean}% [{low}, {high}]"


def share(found: float, n: int, digits: int = 0) -> str:
    """A share of n in per cent with Wilson's 95 % interval, which needs no single pictures: 92% [83, 97]."""
    low, high = (f"{100 * end + 0.0:.{digits}f}" for end in wilson(found, n))
    return f"{found:.{digits}%} [{low}, {high}]"


def wilson(found: float, n: int) -> tuple[float, float]:
    """The ends of Wilson's 95 % interval (1927) of a share of n."""
    z = 1.96
    middle = (found + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(max(0.0, found * (1 - found)) / n + z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def gap(one: float, other: float, n: int) -> tuple[float, float]:
    """The ends of the 95 % interval of one share less another, each of n: Newcombe's (1998, method 10).

    It takes the two as independent. Where both ways were given the same pictures it is wider than need be.
    """
    (low, high), (other_low, other_high) = wilson(one, n), wilson(other, n)
    least = math.hypot(one - low, other_high - other)
    most = math.hypot(high - one, other - other_low)
    return one - other - least, one - other + most


def closed(text: str) -> bool:
    """Whether every bracket of a text is closed."""
    return all(text.count(one) == text.count(other) for one, other in ("()", "[]"))


def row(claim: Claim, folder: Path = RECORDS) -> str:
    """The claim's line of its paper's table."""
    finding = find(claim, folder)
    shown = claim.picture and finding.verdict != UNMEASURED
    picture = f"[picture](figures/{claim.picture})" if shown else ""
    n = "" if finding.verdict == UNMEASURED else str(read_record(claim.measurement.name, folder)["n"])
    cells = f"**{claim.id}** {claim.says}", f"**{finding.verdict}**", brief(finding.ours), n, picture
    return f"| {' | '.join(cells)} |"


def details(claim: Claim, folder: Path = RECORDS) -> str:
    """What stands folded below the table: both figures, the rule, the command."""
    finding, lines = find(claim, folder), [f"**{claim.id}.** The paper's figure: {claim.theirs}."]
    if finding.verdict != UNMEASURED:
        record = read_record(claim.measurement.name, folder)
        lines.append(f"Ours: {finding.ours} (n = {record['n']}, seed {record['seed']}).")
    if claim.judge is not None:
        lines.append(f"The rule: {' '.join(inspect.getdoc(claim.judge).split())}")
    if claim.measurement is not None:
        lines.append(f"Measured by `python -m palimpsest.claims {claim.id}`.")
    return " ".join(lines)


def section(paper: str, claims: Sequence[Claim], folder: Path = RECORDS) -> str:
    """A paper's claims: the table, and what is folded below it."""
    rows = "\n".join(row(c, folder) for c in claims)
    folded = "\n\n".join(details(c, folder) for c in claims)
    return f"""## {paper}

| claim | verdict | ours | n | |
|---|---|---|---|---|
{rows}

<details>
<summary>{paper}: all figures, the rules, the commands</summary>

{folded}

</details>
"""


def page(claims: tuple[Claim, ...], folder: Path = RECORDS) -> str:
    """The whole of CLAIMS.md."""
    verdicts = [find(c, folder).verdict for c in claims]
    kinds = HOLDS, PARTLY, FAILS, UNJUDGED, UNMEASURED
    said = dict(
        zip(kinds, ("hold", "hold in part", "do not hold", "cannot be judged", "wait to be measured"))
    )
    counts = ", ".join(f"{verdicts.count(v)} {said[v]}" for v in kinds if v in verdicts)
    papers = dict.fromkeys(c.paper for c in claims)
    sections = "\n".join(section(p, [c for c in claims if c.paper == p], folder) for p in papers)
    return f"""# Claims

What these papers say, and what came out when it was measured on the models of this repository. Of
{len(claims)} claims {counts}.

Our world is small: 64 × 64 pictures of shapes, models of a few million parameters, a reader instead of
human judges. A verdict is about this world. Where a paper's figure depends on its data set, ours cannot
equal it; what is tested is the direction that the paper claims. A table shows the first of our figures; the
others, the paper's own, and the rule that gives the verdict are folded below it. n counts the pictures, in
DreamBooth's rows the subjects. Two numbers in brackets are a 95 % interval: Wilson's for a share, the
bootstrap's over pictures or subjects for a mean. A figure has none where its record keeps no values of
single pictures. Where a rule names an interval, a claim “holds” only if the whole interval clears the bar;
other rules compare the figures. Every figure comes from a record in `figures/`, which the command named
below the table makes, and `python -m palimpsest.claims` writes this page from the records. No figure is
typed by hand.

{sections}"""


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
