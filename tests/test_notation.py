"""NOTATION.md promises a home and a test for each equation; here the promises are kept."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "NOTATION.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| \d+ \|", line)
]


def test_all_35_equations_are_listed_once_with_a_home_or_a_promise():
    assert [int(row[0]) for row in ROWS] == list(range(1, 36))
    assert all(len(row) == 5 and (row[3].startswith("`") or row[3].startswith("comes with")) for row in ROWS)


def test_every_home_exists_and_carries_its_equations_tag():
    for number, _, _, home, _ in ROWS:
        if home.startswith("`"):
            module, name = home.strip("`").rsplit(".", 1)
            source = inspect.getsource(getattr(importlib.import_module(f"palimpsest.{module}"), name))
            assert re.search(rf"Eqs?\. \({number}\)", source), f"{home} does not carry # Eq. ({number})"


def test_every_named_test_exists():
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", (ROOT / "NOTATION.md").read_text(encoding="utf-8"))
    assert len(named) >= 10
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file} has no {name}"
    for name in re.findall(r"\(`(test_\w+)`\)", (ROOT / "NOTATION.md").read_text(encoding="utf-8")):
        assert any(
            f"def {name}(" in f.read_text(encoding="utf-8") for f in (ROOT / "tests").glob("test_*.py")
        ), name
