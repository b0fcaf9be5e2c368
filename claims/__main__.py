"""Measure claims, draw their pictures, write CLAIMS.md: python -m palimpsest.claims [C1 C3 … | all]."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from palimpsest.claims import CLAIMS
from palimpsest.claims.common import is_there, open_models, rounded
from palimpsest.claims.draw.make import make
from palimpsest.claims.page import PAGE, RECORDS, ROOT, UNMEASURED, Measurement, find, page
from palimpsest.claims.parts import Parts, code_of
from palimpsest.cli.manners import exit_code_of
from palimpsest.outputs import locked, write_text
from palimpsest.weights.files import write_json

STARTED = ROOT / "runs" / "claims"  # measurements that are not done


def command_line() -> argparse.ArgumentParser:
    """The options of `python -m palimpsest.claims`."""
    parser = argparse.ArgumentParser(
        prog="python -m palimpsest.claims", description="Measure claims and write CLAIMS.md."
    )
    parser.add_argument(
        "ids", nargs="*", metavar="C1", help="claims to measure, or all; none: only rewrite CLAIMS.md"
    )
    parser.add_argument(
        "--models", metavar="FOLDER", help="measure candidates in FOLDER; records go to FOLDER/claims"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few pictures or subjects, into runs/quick, to see that all runs",
    )
    parser.add_argument("--device", default="cpu")
    return parser


def measured(m: Measurement, a: argparse.Namespace, folder: Path) -> None:
    """Run one measurement, from where a stopped run left it, write its record and draw its pictures."""
    models = (m.opener or open_models)(a.models, a.device)
    n, start = min(8, max(1, m.n // 8)) if a.quick else m.n, time.monotonic()
    key = dict(files=models.files, n=n, seed=m.seed, code=code_of(m.run))
    part = Parts(STARTED / f"{m.name}.json", key)
    before = part.seconds
    print(f"{m.name}: n = {n} …" + (f" ({len(part.done)} parts are there)" if part.done else ""), flush=True)
    with locked(part.file, "claims"):  # two runs of one measurement would forget each other's parts
        record = m.run(models, n=n, seed=m.seed, part=part)
    head = dict(
        command="python -m palimpsest.claims " + " ".join(c.id for c in CLAIMS if c.measurement is m),
        model=models.name,
        files=models.files,
        n=n,
        seed=m.seed,
        seconds=round(before + time.monotonic() - start),
    )
    write_json(folder / f"{m.name}.json", rounded(head | record))
    part.forget()
    make(m.pictures, folder, folder)


def main(argv: list[str] | None = None) -> int:
    parser, known = command_line(), {c.id: c for c in CLAIMS}
    a = parser.parse_args(argv)
    if wrong := [i for i in a.ids if i != "all" and i not in known]:
        parser.error(f"ids: no claim {', '.join(wrong)}; known: C1 … {CLAIMS[-1].id}, all")
    ready = [i for i in known if known[i].measurement is not None]
    ids = ready if "all" in a.ids else a.ids
    for i in ids:
        if i not in ready:
            print(f"{i}: not yet measured; measured so far: {', '.join(ready)}")

    folder = Path("runs/quick") if a.quick else Path(a.models) / "claims" if a.models else RECORDS
    todo = {m.name: m for i in ids if (m := known[i].measurement) is not None}
    if todo:
        folder.mkdir(parents=True, exist_ok=True)
    for m in todo.values():
        lacking = [name for name in m.needs if not is_there(name, a.models)]
        if lacking and "all" in a.ids:
            print(f"{m.name}: skipped, as {', '.join(lacking)} is not trained yet", flush=True)
            continue
        measured(m, a, folder)
    page_file = PAGE if folder == RECORDS else folder / "CLAIMS.md"
    write_text(page_file, page(CLAIMS, folder))
    for c in CLAIMS:
        finding = find(c, folder)
        if finding.verdict != UNMEASURED:
            print(f"{c.id}  {finding.verdict}: {finding.ours}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
