"""Would the tests notice? `python -m tests.mutants [FILES or FOLDERS] [--n 100] [--seed 0]`, from the checkout.

A mutant is the source with one small fault: a sign, a comparison, a number, a condition turned round, a call
left out. Each is tried by the short tests that import its module, the file of the same name first; it is
killed when one of them fails, or when they take far longer than without it. Mutants are drawn by chance from
all possible ones. Nothing on the disk is changed: a child process compiles the mutant in the place of the
file. Survivors are printed; those in EQUIVALENT, which compute the same, do not count. Exit code 0 where 95 %
are killed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import select
import sys
import time
from collections.abc import Iterator
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
ROOMS = ("samplers", "methods", "nets", "fit")
LEAST = 0.95
SECONDS = 240  # for the tests of a file without a fault
MOST = 5  # test files of one module
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
# (file, line of source, fault) -> why it computes the same
EQUIVALENT: dict[tuple[str, str, str], str] = {}


class Mutant(NamedTuple):
    """One fault: the k-th possible one of a file."""

    file: Path
    k: int
    line: int
    fault: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is called in EQUIVALENT, wherever the line moves."""
        source = self.file.read_text(encoding="utf-8").splitlines()[self.line - 1].strip()
        return str(self.file.relative_to(ROOT)), source, self.fault


# --------------------------------------------------------------------------- faults


def sites(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Every node of a function's body that can be made wrong, and the fault; annotations and messages, which
    no test need read word by word, are left out.
    """
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for statement in function.body:
                yield from _sites(statement)


def _sites(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    if isinstance(node, (ast.FunctionDef, ast.Raise, ast.ClassDef, ast.JoinedStr)):
        return  # a function in a function is walked for itself
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield node, "call left out"
    if isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in SWAPPED:
        yield node, f"{type(node.op).__name__} -> {SWAPPED[type(node.op)].__name__}"
    if isinstance(node, ast.BoolOp):
        yield node, f"{type(node.op).__name__} -> {SWAPPED[type(node.op)].__name__}"
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        yield node, f"{type(node.ops[0]).__name__} -> {SWAPPED[type(node.ops[0])].__name__}"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield node, f"{type(node.op).__name__} left out"
    if isinstance(node, (ast.If, ast.IfExp)):
        yield node, "condition turned round"
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        yield node, f"{node.value} -> {_other(node.value)}"
    for child in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.AnnAssign) and child is node.annotation):
            yield from _sites(child)


def _other(value: float) -> float:
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value * 2 or 1.0


def mutated(source: str, k: int) -> ast.Module:
    """The tree with its k-th fault."""
    tree = ast.parse(source)
    node, fault = list(sites(tree))[k]
    wrong: ast.AST
    if fault == "call left out":
        wrong = ast.Pass()
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


def all_of(files: list[Path]) -> list[Mutant]:
    """Every possible fault of these files."""
    return [
        Mutant(file, k, node.lineno, fault)
        for file in files
        for k, (node, fault) in enumerate(sites(ast.parse(file.read_text(encoding="utf-8"))))
    ]


# --------------------------------------------------------------------------- which tests


@cache
def imports(file: Path) -> frozenset[str]:
    """The modules of the house that a file imports, as palimpsest.room.module."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("palimpsest", "tests")):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def tests_of(file: Path) -> list[Path]:
    """At most MOST test files that import a module, that of its name first, then the shortest; where there
    is none, those of the modules that import it.
    """
    every = sorted((ROOT / "tests").glob("test_*.py"))
    wanted, seen = {module_of(file)}, set[str]()
    for _ in range(3):
        found = [t for t in every if t.stem == f"test_{file.stem}" or imports(t) & wanted]
        if found:
            return sorted(found, key=lambda t: (t.stem != f"test_{file.stem}", t.stat().st_size))[:MOST]
        seen |= wanted
        sources = [p for room in ROOMS for p in (ROOT / room).rglob("*.py")]
        wanted = {module_of(p) for p in sources if imports(p) & wanted} - seen
    return []


def module_of(file: Path) -> str:
    """Its name as it is imported."""
    return ".".join(("palimpsest", *file.relative_to(ROOT).with_suffix("").parts))


# --------------------------------------------------------------------------- trying


def outcome(mutant: Mutant | None, tests: list[Path], seconds: float) -> tuple[str, float]:
    """ "killed", "survived" or "endless", and seconds: the tests in a child process. None: without a fault."""
    began = time.monotonic()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.close(read)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        code = 1
        try:
            code = tried(mutant, tests)
        finally:
            os.write(write, bytes([min(int(code), 255)]))
            os._exit(0)
    os.close(write)
    ready, _, _ = select.select([read], [], [], seconds)
    told = os.read(read, 1) if ready else b""
    os.close(read)
    try:
        os.killpg(child, 9)
    except ProcessLookupError:
        pass
    os.waitpid(child, 0)
    result = "endless" if not ready else "survived" if told == b"\0" else "killed"
    return result, time.monotonic() - began


def tried(mutant: Mutant | None, tests: list[Path]) -> int:
    """pytest's exit code, with the mutant in the place of its file."""
    sys.dont_write_bytecode = True
    os.environ["OMP_NUM_THREADS"] = "1"
    if mutant is not None:
        tree, usual = mutated(mutant.file.read_text(encoding="utf-8"), mutant.k), SourceFileLoader.get_code

        def get_code(self: SourceFileLoader, name: str) -> object:
            if Path(self.path).resolve() == mutant.file:
                return compile(tree, self.path, "exec")
            return usual(self, name)

        SourceFileLoader.get_code = get_code
    import pytest

    options = ["-x", "-q", "-n0", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # what the parent imported already
    return pytest.main([*options, *map(str, tests)])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument(
        "paths", nargs="*", default=ROOMS, help="files or folders; as they stand: the four rooms"
    )
    parser.add_argument("--n", type=int, default=100, help="how many mutants are drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the k-th fault of one file, as survivors are printed")
    parser.add_argument(
        "--until", type=float, default=float("inf"), help="minutes after which no mutant is begun"
    )
    a = parser.parse_args(argv)
    began = time.monotonic()
    given = [(ROOT / p).resolve() for p in a.paths]
    files = [f for p in given for f in (sorted(p.rglob("*.py")) if p.is_dir() else [p])]
    mutants = [m for m in all_of(files) if a.only in (None, m.k)]
    drawn = random.Random(a.seed).sample(mutants, min(a.n, len(mutants)))
    import diffusers  # noqa: F401  children have what is slow to import
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    killed, alive, sound = 0, [], {}
    for m in drawn:
        if time.monotonic() - began > 60 * a.until:
            break
        tests = tests_of(m.file)
        where = f"{m.file.relative_to(ROOT)}:{m.line} ({m.k}) {m.fault}"
        if m.key in EQUIVALENT:
            continue
        if tuple(tests) not in sound:
            sound[tuple(tests)] = outcome(None, tests, SECONDS)
        usual, seconds = sound[tuple(tests)]
        if usual != "survived":
            print(
                f"{where}: its tests are not green as they stand ({usual}): {' '.join(t.name for t in tests)}"
            )
            continue
        found, took = outcome(m, tests, 20 + 4 * seconds)
        killed += found != "survived"
        if found == "survived":
            alive.append(where)
        print(f"{found:9}{took:4.0f} s  {where}", flush=True)
    share = killed / max(1, killed + len(alive))
    print(
        f"{killed} of {killed + len(alive)} mutants killed, {share:.1%}; {len(mutants)} are possible",
        *alive,
        sep="\n",
    )
    return 0 if share >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
