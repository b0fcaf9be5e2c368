"""How tests.mutants tries a mutant: one pytest session reads all tests, and a forked child takes it from there.

Once for each test file a child runs its tests under coverage.py and says which test executed which line, and in
how many seconds. For a mutant a child puts the faulty code in the place of the function's and runs the tests
that execute the line, the likeliest to tell for their seconds first; the first that fails ends it.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import resource
import select
import sys
import time
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path

import pytest

from palimpsest.outputs import write_text
from tests.mutants import ROOMS, ROOT, Mutant, mutated

KEPT = ROOT / "runs" / "mutants"
OTHERS = 3  # seconds of tests that do not execute the line of a mutant, in the same files
LONGEST = 600  # for all tests of a file, under coverage
# files whose tests start processes, load whole models for seconds, or try other rooms; test_golden.py would kill
# most mutants, but only says that some number moved
ELSEWHERE = (
    "test_claims",
    "test_cli.",
    "test_command",
    "test_emoji",
    "test_estimate",
    "test_fuzz",
    "test_glide_recipes",
    "test_golden",
    "test_gpu",
    "test_house",
    "test_mutants",
    "test_notebooks",
    "test_outputs",
    "test_public_f",
    "test_public_load",
    "test_recipes",
    "test_recommended",
    "test_room",
    "test_sizes",
    "test_studio",
    "test_verify",
    "test_wheel",
)
OPTIONS = ["-q", "-s", "-n0", "-m", "not slow", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
OPTIONS += [f"-pno:{plugin}" for plugin in ("cacheprovider", "benchmark", "randomly", "cov")]


def files_of_tests() -> list[Path]:
    """The test files that import one of the rooms."""
    rooms = tuple(f"palimpsest.{room}" for room in ROOMS)
    return [
        t
        for t in sorted((ROOT / "tests").glob("test_*.py"))
        if not t.name.startswith(ELSEWHERE) and any(r in t.read_text(encoding="utf-8") for r in rooms)
    ]


def results(mutants: list[Mutant], until: float, seconds: float, *, again: bool = False) -> dict[Mutant, str]:
    """What killed each mutant, "" where it survives; those not begun within `until` seconds are not in it.

    seconds: of tests, for each. again: try also those of which is known what killed them.
    """
    import diffusers  # noqa: F401  slow to import, and no part of what is measured
    import hypothesis
    import transformers  # noqa: F401

    phases = (
        hypothesis.Phase.explicit,
        hypothesis.Phase.generate,
    )  # a failure is enough, it need not be small
    hypothesis.settings.register_profile(
        "mutants", phases=phases, database=None, deadline=None, derandomize=True
    )
    hypothesis.settings.load_profile("mutants")
    trials = Trials(mutants, until, seconds, again)
    cover = _coverage("import")
    cover.start()
    trials.read = cover.stop, cover.save
    options = [*OPTIONS, "--basetemp", str(KEPT / "tmp")]
    code = pytest.main([*options, *map(str, files_of_tests())], plugins=[trials])
    if code not in (0, 5):
        raise SystemExit(f"the tests could not be read: pytest ended with {code}")
    return trials.results


class Trials:
    """The pytest plugin. `items`: the tests by name; `seconds`: what each takes; `lines`: file -> line -> tests."""

    def __init__(self, mutants: list[Mutant], until: float, enough: float, again: bool) -> None:
        self.mutants, self.end, self.again = mutants, time.monotonic() + until, again
        self.enough = enough, min(enough, OTHERS)
        self.read: tuple[Callable[[], object], ...] = ()
        self.failed = False
        self.seconds: dict[str, float] = {}
        self.lines: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
        self.kills, self.sound = Counter[str](), dict[str, bool]()
        self.results: dict[Mutant, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for module in (f for room in ROOMS for f in sorted((ROOT / room).rglob("*.py"))):
            import_module(".".join(("palimpsest", *module.relative_to(ROOT).with_suffix("").parts)))
        for step in self.read:
            step()
        self.items = {item.nodeid: item for item in session.items}
        self.functions = functions_of_rooms()
        gc.freeze()  # children share what has been read
        self.map()
        self.try_all()
        return True

    # ------------------------------------------------------------------- which test executes which line

    def map(self) -> None:
        """From the record, where neither the test file nor a source that it executes has changed."""
        by_file: dict[str, list[str]] = defaultdict(list)
        for name in self.items:
            by_file[name.split("::")[0]].append(name)
        for file, names in by_file.items():
            path = KEPT / f"{Path(file).stem}.json"
            known = (
                json.loads(path.read_text(encoding="utf-8"))
                if path.exists()
                else {"hashes": {"": "none yet"}}
            )
            if any(digest(f) != h for f, h in known["hashes"].items()):
                known = in_child(lambda file=file, names=names: self.measured(file, names), LONGEST)
                if not isinstance(known, dict):
                    print(f"{file}: not measured ({known})", flush=True)
                    continue
                write_text(path, json.dumps(known))
                print(f"{sum(known['seconds'].values()):6.1f} s  {file}", *known["red"], flush=True)
            self.seconds |= known["seconds"]
            for source, lines in known["lines"].items():
                for line, tests in lines.items():
                    self.lines[source][int(line)] += tests

    def measured(self, file: str, names: list[str]) -> dict:
        cover = _coverage(Path(file).stem)
        seconds, red = {}, []
        cover.start()
        for name, after in zip(names, [*names[1:], None]):
            cover.switch_context(name)
            began = time.monotonic()
            if self.green(name, after):
                seconds[name] = round(time.monotonic() - began, 3)
            else:
                red.append(name)
        cover.stop()
        cover.save()
        data, lines = cover.get_data(), {}
        for source in data.measured_files():
            found = data.contexts_by_lineno(source)
            lines[str(Path(source).relative_to(ROOT))] = {
                line: [t for t in tests if t in seconds] for line, tests in found.items()
            }
        return dict(hashes={f: digest(f) for f in (file, *lines)}, seconds=seconds, red=red, lines=lines)

    def green(self, name: str, after: str | None) -> bool:
        """Run a test; whether it passed or was skipped."""
        self.failed, item = False, self.items[name]
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=self.items[after] if after else None)
        return not self.failed

    # ------------------------------------------------------------------- mutants

    def try_all(self) -> None:
        path = KEPT / "known.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for m in self.mutants:
            if time.monotonic() > self.end:
                break
            key, tests = f"{digest(m.file)} {m.file} {m.k}", self.tests_of(m)
            asked = sorted({digest(t.split("::")[0]) for t in tests})  # who survived those meets no others
            if not self.again and known.get(key) in (*self.items, "crash", "endless", asked):
                self.results[m] = "" if known[key] == asked else known[key]
                continue
            began = time.monotonic()
            self.results[m] = self.tried(m, tests)
            known[key] = self.results[m] or asked
            write_text(path, json.dumps(known, indent=0))
            took = f"{time.monotonic() - began:5.1f} s of {len(tests):3} tests"
            print(f"{took}  {m}: {self.results[m] or 'SURVIVED'}", flush=True)

    def tests_of(self, m: Mutant) -> list[str]:
        """Those that execute its line (or else its statement), then others of the same test files, whose
        fixtures may: of both at most `enough` seconds.
        """
        known = self.lines[m.file]
        for lines in m.lines:
            first = {t for line in lines for t in known.get(line, ())}
            if first:
                break
        files = {t.split("::")[0] for t in first}
        others = {t for t in self.seconds if t.split("::")[0] in files} - first
        chosen = []
        for some, seconds in zip((first, others), self.enough):
            for t in self.ordered(some, m):
                seconds -= self.seconds[t]
                if seconds < 0:
                    break
                chosen.append(t)
        return chosen

    def ordered(self, tests: Iterable[str], m: Mutant) -> list[str]:
        """By seconds for a kill, in powers of four; among equals file by file, as they share fixtures."""

        def rank(t: str) -> tuple[float, str]:
            own = Path(m.file).stem in Path(t.split("::")[0]).stem
            likely = (1 + self.kills[t]) * (4 if own else 1)
            return math.floor(math.log((self.seconds[t] + 0.01) / likely, 4)), t

        return sorted(tests, key=rank)

    def tried(self, m: Mutant, tests: list[str]) -> str:
        """The test that kills it, "crash", "endless", or "" where it survives."""
        if not tests:
            return ""
        told = in_child(lambda: self.first_red(m, tests), 20 + 5 * sum(self.seconds[t] for t in tests))
        if told in self.items:
            if told not in self.sound:
                self.sound[told] = (
                    in_child(lambda: self.green(told, None), 20 + 5 * self.seconds[told]) is True
                )
            if not self.sound[told]:
                print(f"not green alone: {told}", flush=True)
                return self.tried(m, [t for t in tests if t != told])
            self.kills[told] += 1
        return told

    def first_red(self, m: Mutant, tests: list[str]) -> str:
        address_space = 16 << 30
        resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
        put(m, self.functions)
        for name, after in zip(tests, [*tests[1:], None]):
            if not self.green(name, after):
                return name
        return ""


def functions_of_rooms() -> dict[str, list[types.FunctionType]]:
    """Every function of the rooms that is alive, by file."""
    found: dict[str, list[types.FunctionType]] = defaultdict(list)
    inside = tuple(f"{ROOT / room}/" for room in ROOMS)
    for thing in gc.get_objects():
        if type(thing) is types.FunctionType and thing.__code__.co_filename.startswith(inside):
            found[str(Path(thing.__code__.co_filename).relative_to(ROOT))].append(thing)
    return found


def put(m: Mutant, functions: dict[str, list[types.FunctionType]]) -> None:
    """Give the functions of a mutant's file the code of its tree."""
    tree = mutated((ROOT / m.file).read_text(encoding="utf-8"), m.k)
    waiting, codes = [compile(tree, str(ROOT / m.file), "exec", dont_inherit=True)], {}
    while waiting:
        code = waiting.pop()
        codes.setdefault((code.co_name, code.co_firstlineno), code)
        waiting += [c for c in code.co_consts if isinstance(c, types.CodeType)]
    for f in functions[m.file]:
        key = f.__code__.co_name, f.__code__.co_firstlineno
        if f.__code__.co_name != "<lambda>":
            f.__code__ = codes[key]


def in_child(work: Callable[[], object], seconds: float) -> object:
    """What it returns, from a forked process that is ended; "endless", "crash"."""
    end, told = time.monotonic() + seconds, b""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        quiet = os.open(os.devnull, os.O_WRONLY)
        if "MUTANTS_LOUD" not in os.environ:
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
        try:
            answer = json.dumps(work()).encode() + b"\n"
            while answer:
                answer = answer[os.write(write, answer) :]
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write)
    while not told.endswith(b"\n") and select.select([read], [], [], max(0, end - time.monotonic()))[0]:
        piece = os.read(read, 1 << 20)
        if not piece:
            break
        told += piece
    late = time.monotonic() >= end
    os.close(read)
    try:
        os.killpg(child, 9)
    except ProcessLookupError:
        pass
    os.waitpid(child, 0)
    return json.loads(told) if told.endswith(b"\n") else "endless" if late else "crash"


# --------------------------------------------------------------------------- coverage


def _coverage(name: str):
    import coverage

    KEPT.mkdir(parents=True, exist_ok=True)
    inside = [f"{ROOT / room}/*" for room in ROOMS]
    file = KEPT / f"{name}.coverage"
    file.unlink(missing_ok=True)
    return coverage.Coverage(data_file=str(file), branch=True, include=inside, config_file=False)


def print_coverage(files: list[str]) -> None:
    """Lines and branches that no test executes."""
    cover = _coverage("together")
    cover.combine([str(f) for f in sorted(KEPT.glob("*.coverage"))], keep=True)
    cover.report(
        include=[str(ROOT / f) for f in files], show_missing=True, skip_covered=True, file=sys.stdout
    )


def digest(file: str) -> str:
    """Of a file's bytes, "" where there is none."""
    path = ROOT / file
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""
