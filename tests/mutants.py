"""Would the tests notice? `python -m tests.mutants [FILES or FOLDERS] [--n 400] [--seed 0]`, from the checkout.

A mutant is the source with one small fault: a sign, a comparison, a number, a condition turned round, a call
left out. It is killed when one of the short tests that execute its line fails, crashes or does not end. Mutants
are drawn by chance, from every file its share and at least one. Those in EQUIVALENT (tests/equivalent.py)
compute the same and do not count. Survivors are printed; exit code 0 where 95 % are killed.

Which test executes which line is measured once (minutes) and kept in runs/mutants, as is what killed a mutant:
after a change only the test files and sources that changed are measured anew. `--coverage` adds which lines and
branches of these files no test executes. How mutants are tried is tests/mutant_trials.py. Nothing in the
sources is changed on the disk.
"""

from __future__ import annotations

import argparse
import ast
import copy
import math
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.equivalent import EQUIVALENT

ROOT = Path(__file__).parent.parent
ROOMS = ("samplers", "methods", "nets", "fit")
LEAST = 0.95
SWAPPED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


class Mutant(NamedTuple):
    """One fault: the k-th possible one of a file; `lines` are those of its node, then of its statement."""

    file: str
    k: int
    lines: tuple[range, range]
    source: str
    fault: str

    def __str__(self) -> str:
        return f"{self.file}:{self.lines[0][0]} ({self.k}) {self.fault}"


# --------------------------------------------------------------------------- faults


def sites(tree: ast.Module) -> Iterator[tuple[ast.AST, str, ast.stmt]]:
    """Every node of a function's body that can be made wrong, the fault, and the statement that it is in.
    Annotations and messages, which no test need read word by word, are left out.
    """
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for statement in function.body:
                yield from _sites(statement, statement)


def _sites(node: ast.AST, within: ast.stmt) -> Iterator[tuple[ast.AST, str, ast.stmt]]:
    if isinstance(node, (ast.FunctionDef, ast.Raise, ast.ClassDef, ast.JoinedStr)):
        return  # a function in a function is walked for itself
    within = node if isinstance(node, ast.stmt) else within
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield node, "call left out", within
    if isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)) and type(node.op) in SWAPPED:
        yield node, f"{type(node.op).__name__} -> {SWAPPED[type(node.op)].__name__}", within
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        yield node, f"{type(node.ops[0]).__name__} -> {SWAPPED[type(node.ops[0])].__name__}", within
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield node, f"{type(node.op).__name__} left out", within
    if isinstance(node, (ast.If, ast.IfExp)):
        yield node, "condition turned round", within
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        yield node, f"{node.value} -> {_other(node.value)}", within
    for child in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.AnnAssign) and child is node.annotation):
            yield from _sites(child, within)


def _other(value: float) -> float:
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value * 2 or 1.0


def mutated(source: str, k: int) -> ast.Module:
    """The tree with its k-th fault. Every name stays, so that a function keeps the variables it closes over."""
    tree = ast.parse(source)
    node, fault, _ = list(sites(tree))[k]
    wrong: ast.AST
    if fault == "call left out":
        wrong = ast.If(ast.Constant(False), [node], [])
    elif fault == "condition turned round":
        wrong = copy.copy(node)
        wrong.test = ast.UnaryOp(ast.Not(), node.test)
    elif fault.endswith("left out"):
        wrong = node.operand
    elif isinstance(node, ast.Constant):
        wrong = ast.Constant(_other(node.value))
    elif isinstance(node, ast.Compare):
        wrong = ast.Compare(node.left, [SWAPPED[type(node.ops[0])](), *node.ops[1:]], node.comparators)
    else:
        wrong = copy.copy(node)
        wrong.op = SWAPPED[type(node.op)]()

    class Put(ast.NodeTransformer):
        def visit(self, at: ast.AST) -> ast.AST:
            return ast.copy_location(wrong, at) if at is node else self.generic_visit(at)

    return ast.fix_missing_locations(Put().visit(tree))


def all_of(file: str) -> list[Mutant]:
    """Every possible fault of a file. The second of one kind in a line is called `fault (2)`."""
    source = (ROOT / file).read_text(encoding="utf-8")
    texts, seen, found = source.splitlines(), Counter[tuple[int, str]](), []
    for k, (node, fault, within) in enumerate(sites(ast.parse(source))):
        seen[node.lineno, fault] += 1
        n = seen[node.lineno, fault]
        last = within.body[0].lineno - 1 if getattr(within, "body", None) else within.end_lineno
        lines = (
            range(node.lineno, node.end_lineno + 1)
            if not isinstance(node, ast.If)
            else range(node.lineno, last + 1),
            range(within.lineno, max(last, within.lineno) + 1),
        )
        found.append(
            Mutant(file, k, lines, texts[node.lineno - 1].strip(), fault + (f" ({n})" if n > 1 else ""))
        )
    return found


def drawn(files: list[str], n: int, seed: int) -> list[Mutant]:
    """About n mutants: of every file the same share of its own, rounded up, in random order; then without those
    in EQUIVALENT, so that a longer list draws no others.
    """
    every = [all_of(file) for file in files]
    share = min(1.0, n / max(1, sum(map(len, every))))
    chance = random.Random(seed)
    some = [m for mine in every for m in chance.sample(mine, math.ceil(share * len(mine)))]
    return [
        m for m in chance.sample(some, len(some)) if (m.source, m.fault) not in EQUIVALENT.get(m.file, {})
    ]


# --------------------------------------------------------------------------- the command


def interval(killed: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z, p = 1.96, killed / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return tuple((p + z * z / (2 * n) + side * half) / (1 + z * z / n) for side in (-1, 1))


def told(results: dict[Mutant, str]) -> str:
    """A line for each room, a line for all, and the survivors."""
    lines = []
    for room in (*ROOMS, ""):
        mine = [by for m, by in results.items() if m.file.startswith(room)]
        if mine:
            killed = sum(map(bool, mine))
            low, high = interval(killed, len(mine))
            share = f"{killed / len(mine):6.1%} (95 % interval {low:.1%} to {high:.1%})"
            lines.append(f"{room or 'together':9} {killed:5} of {len(mine):5} mutants killed, {share}")
    alive = sorted(str(m) + f"   {m.source}" for m, by in results.items() if not by)
    return "\n".join([*alive, *lines])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument(
        "paths", nargs="*", default=ROOMS, help="files or folders; as they stand: the four rooms"
    )
    parser.add_argument("--n", type=int, default=400, help="how many mutants are drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the k-th fault of one file, as survivors are printed")
    parser.add_argument("--until", type=float, default=1e9, help="minutes after which no mutant is begun")
    parser.add_argument(
        "--seconds", type=float, default=8, help="of tests that execute its line, for a mutant"
    )
    parser.add_argument(
        "--coverage", action="store_true", help="print lines and branches that no test executes"
    )
    a = parser.parse_args(argv)
    given = [(ROOT / p).resolve() for p in a.paths]
    files = [
        str(f.relative_to(ROOT)) for p in given for f in (sorted(p.rglob("*.py")) if p.is_dir() else [p])
    ]
    some = drawn(files, a.n, a.seed) if a.only is None else [m for m in all_of(files[0]) if m.k == a.only]
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    from tests import mutant_trials  # after the number of threads is said

    results = mutant_trials.results(some, 60 * a.until, a.seconds, again=a.only is not None)
    if a.coverage:
        mutant_trials.print_coverage(files)
    print(told(results), f"{sum(len(all_of(f)) for f in files)} are possible", sep="\n")
    return 0 if sum(map(bool, results.values())) >= LEAST * len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
