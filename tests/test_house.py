"""The rules of the house (CONTRIBUTING.md), read off the source: who may import whom, what no file may contain."""
import ast
import configparser
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOOR = {"worlds", "nets", "samplers", "metrics", "training.fit"}                # know nothing of each other
TOP = FLOOR | {"weights", "methods", "training"}
ALLOWED = {**{layer: {layer} for layer in FLOOR}, "weights": FLOOR | {"weights"}, "training": TOP,
           "weights.verify": FLOOR | {"weights", "weights.verify", "methods"},
           "methods": FLOOR | {"weights", "methods"}, "claims": TOP | {"claims", "figures", "weights.verify"},
           "figures": TOP | {"claims", "figures"}, "notebooks": TOP | {"claims", "figures", "notebooks"}}
ROOMS = sorted({layer.split(".")[0] for layer in ALLOWED})
# files of methods/ that are no method
NO_PAPER = {"__init__", "__main__", "cli", "demo", "glide_session", "identifiers", "masks", "sweep"}
OPTIONAL = {"ftfy"}                                                              # used where it is installed
LIBRARY = {"worlds", "nets", "samplers", "metrics", "weights", "methods"}
CEILING = {"methods": 250, "samplers": 200, "nets": 300}                         # lines

SOURCES = sorted(p.relative_to(ROOT) for room in ROOMS for p in (ROOT / room).rglob("*.py"))
METHODS = [p for p in SOURCES if p.parts[0] == "methods" and p.parts[1] != "commands" and p.stem not in NO_PAPER]
TESTS = sorted(p.relative_to(ROOT) for p in (ROOT / "tests").glob("*.py"))
SETUP = configparser.RawConfigParser()
SETUP.read(ROOT / "setup.cfg")

RANDOM = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "rand_like", "randn_like",
          "randint_like"}
RANDOM_IN_PLACE = {"normal_", "uniform_", "bernoulli_", "exponential_", "random_"}


def tree(path):
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def walk(node, kind):
    return [n for n in ast.walk(node) if isinstance(n, kind)]


def layer(module):
    return next((part for part in ("training.fit", "weights.verify") if module.startswith(part)), module.split(".")[0])


def imports(node):
    """Dotted names of all modules that a file imports, at the top or inside functions."""
    for n in walk(node, ast.Import):
        yield from (alias.name for alias in n.names)
    for n in walk(node, ast.ImportFrom):
        assert n.level == 0, "relative import: write the whole name"
        yield from (f"{n.module}.{alias.name}" for alias in n.names)


def called(call):
    """The dotted name that a call is written with: torch.nn.init.zeros_."""
    return ast.unparse(call.func)


def sins(path):
    """What a source file may not contain, as "line: what"."""
    room, code = path.parts[0], tree(path)
    callers_business = room in {"samplers", "methods", "nets"} and path.stem not in NO_PAPER and path.parts[1] != "commands"
    first_weights = {id(c) for p in walk(code, ast.Call) if called(p) == "nn.Parameter" for c in walk(p, ast.Call)}
    for n in walk(code, ast.Global):
        yield n.lineno, "global"
    for n in walk(code, ast.ImportFrom):
        if n.names[0].name == "*":
            yield n.lineno, "import *"
    for n in walk(code, (ast.FunctionDef, ast.Lambda)):
        if n.args.kwarg:
            yield n.args.kwarg.lineno, f"**{n.args.kwarg.arg}: name the keywords"
    for n in walk(code, ast.Assign):
        if any(isinstance(t, ast.Attribute) and t.attr == "forward" for t in n.targets):
            yield n.lineno, ".forward ="
    for n in walk(code, ast.Call):
        name, keywords = called(n), {k.arg: k.value for k in n.keywords}
        last = name.split(".")[-1]
        if last == "cuda" and "." in name:
            yield n.lineno, ".cuda(): write .to(device)"
        if last == "load_state_dict" and "strict" in keywords:
            yield n.lineno, "load_state_dict(strict=…): half-loaded nets sample noise"
        if name in {f"torch.{r}" for r in RANDOM} and "generator" not in keywords and id(n) not in first_weights:
            yield n.lineno, f"{name} without generator"
        if last in RANDOM_IN_PLACE and "generator" not in keywords and room != "nets":
            yield n.lineno, f".{last} without generator"
        if re.match(r"(np|numpy)\.random\.(?!default_rng|SeedSequence|Generator)|random\.(?!Random\b)", name):
            yield n.lineno, f"{name}: the global generator"
        if last in {"manual_seed", "seed"} and name.startswith(("torch.manual", "torch.cuda", "np.", "random.")) \
                and room in {"worlds", "nets", "samplers", "metrics", "weights", "methods"} and path.stem != "__main__":
            yield n.lineno, f"{name}: the global seed"
        if callers_business and name in {"print", "torch.cuda.is_available"}:
            yield n.lineno, f"{name}: the caller's business"
    if callers_business:
        for name in imports(code):
            if name.split(".")[0] in {"matplotlib", "time", "datetime", "urllib", "requests", "argparse"}:
                yield 1, f"import {name}: the caller's business"
    for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1):
        if re.search(r"""["'\s]/(home|work|root|Users|mnt|tmp)/""", line):
            yield number, "a path of one machine"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_data_flows_one_way(path):
    me = layer(".".join(path.with_suffix("").parts))
    theirs = {layer(name) for name in imports(tree(path)) if name.split(".")[0] in ROOMS}
    assert theirs <= ALLOWED[me], f"{me} may not import {sorted(theirs - ALLOWED[me])}"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_file_does_what_the_house_forbids(path):
    assert [f"{path}:{line}: {what}" for line, what in sins(path)] == []


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parts[0] != "notebooks"], ids=str)
def test_every_file_and_every_public_name_says_what_it_is(path):
    code = tree(path)
    public = [n for n in code.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")]
    silent = [n.name for n in public if not ast.get_docstring(n)] if path.parts[0] in LIBRARY else []
    assert ast.get_docstring(code) and silent == []


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parts[0] in CEILING], ids=str)
def test_a_file_is_short_enough_to_be_read(path):
    lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
    assert lines <= CEILING[path.parts[0]], f"{lines} lines: a reusable piece wants its own file"


@pytest.mark.parametrize("path", METHODS, ids=str)
def test_a_method_names_its_paper_and_tags_its_equations(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    assert re.search(r"arXiv:\d{4}\.\d{5}v\d", ast.get_docstring(ast.parse(text)) or ""), "arXiv id with its version"
    assert len(re.findall(r"#.*\b(Eq|Alg|Sec)\. ?\(?\w", text)) >= 3, "at least three `# Eq. (7)` or `# Alg. 1 l. 4`"


@pytest.mark.parametrize("path", TESTS, ids=str)
def test_every_test_can_fail(path):
    def checks(test):
        return walk(test, ast.Assert) or [c for c in walk(test, ast.Call)
                                          if re.match(r"(assert|raises$|warns$|fail$)", called(c).split(".")[-1])]
    tests = [n for n in walk(tree(path), ast.FunctionDef) if n.name.startswith("test_")]
    assert [t.name for t in tests if not checks(t)] == []
    assert len({t.name for t in tests}) == len(tests), "two tests of one name: the first never runs"


def test_setup_names_every_package_and_every_dependency():
    packages = SETUP["options"]["packages"].replace(",", " ").split()
    here = {".".join(p.parent.relative_to(ROOT).parts) for room in ROOMS for p in (ROOT / room).rglob("__init__.py")}
    assert set(packages) == here

    def required(text):
        return {re.match(r"[\w-]+", line)[0].lower() for line in text.split("\n") if line.strip()}
    needs, extras = required(SETUP["options"]["install_requires"]), SETUP["options.extras_require"]
    wide = needs | required(extras["test"]) | required(extras["notebooks"])
    ours = {*sys.stdlib_module_names, *ROOMS, "tests", *(p.stem for p in TESTS)}
    pip_names = {"PIL": "pillow", "open_clip": "open_clip_torch"}
    for path in SOURCES + TESTS:
        declared = wide if path.parts[0] in ("tests", "notebooks") else needs
        used = {name.split(".")[0] for name in imports(tree(path))} - ours
        assert {pip_names.get(name, name) for name in used} <= declared | OPTIONAL, path


def test_every_command_of_the_makefile_exists():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipes = [f"training.{name}" for name in re.search(r"RECIPES := (.*)", text)[1].split()]
    modules = re.findall(rf"^\t\$\(RUN\) -m ((?:{'|'.join(ROOMS)})[\w.]*)", text, re.MULTILINE)
    assert len(modules) >= 5
    files = [ROOT.joinpath(*name.split(".")) for name in modules + recipes]
    assert [str(f) for f in files if not (f.with_suffix(".py").exists() or (f / "__main__.py").exists())] == []


def test_the_continuous_integration_runs_the_tests_and_nothing_else():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("#!") and lines[-1] == "make test"
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_linter_is_content():
    pytest.importorskip("ruff", reason="ruff is an extra of the tests")
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", "."]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_the_network_is_shut():
    with socket.socket() as s, pytest.raises(RuntimeError, match="tests must not use the network"):
        s.connect(("192.0.2.1", 80))


@pytest.mark.parametrize("code, what", [
    ("import torch\nx = torch.randn(3)", "torch.randn without generator"), ("x.cuda()", ".cuda()"),
    ("def f(**kw):\n    pass", "**kw"), ("from math import *", "import *"), ("net.forward = None", ".forward ="),
    ("def f():\n    global x", "global"), ("net.load_state_dict(s, strict=False)", "strict"),
    ("x.normal_()", ".normal_"), ("import numpy as np\nnp.random.rand(3)", "np.random.rand"),
    ("import torch\ntorch.manual_seed(0)", "global seed"), ("print(1)", "caller's business"),
    ("import time", "caller's business"), ("p = '/home/me/x.png'", "one machine")])
def test_the_rules_above_have_teeth(tmp_path, monkeypatch, code, what):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "samplers").mkdir()
    (tmp_path / "samplers" / "x.py").write_text(code)
    assert any(what in found for _, found in sins(Path("samplers/x.py")))
