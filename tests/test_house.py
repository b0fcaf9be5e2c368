"""The rules of the house (CONTRIBUTING.md), read off the source: who may import whom, what no file may
contain.
"""

import ast
import configparser
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOOR = {"worlds", "nets", "samplers", "metrics", "fit"}  # know nothing of each other
# every room may import these; they import no room
GROUND = ("palimpsest.arguments", "palimpsest.outputs", "palimpsest.processor", "palimpsest.__version__")
BELOW_CLI = FLOOR | {"weights", "methods"}
TRAINED = BELOW_CLI | {"cli", "training"}
ALLOWED = {  # room -> the rooms that it may import
    **{room: {room} for room in FLOOR},
    "weights": FLOOR | {"weights"},
    "methods": BELOW_CLI,
    "cli": BELOW_CLI | {"cli"},
    "palimpsest": BELOW_CLI | {"cli", "palimpsest"},
    "training": TRAINED,
    "claims": TRAINED | {"claims"},
    "notebooks": TRAINED | {"claims", "notebooks"},
    "docs": TRAINED | {"claims", "docs", "palimpsest"},
    "studio": BELOW_CLI | {"cli", "studio"},
}
ROOMS = sorted(ALLOWED)
# files of methods/ that are no method
NO_PAPER = {"__init__", "glide_session", "identifiers", "inputs", "null_files", "sweep"}
# files that may write by themselves: below `whole`, into a scratch folder, or a part that is gone on with
WRITERS = {"palimpsest/outputs.py", "fit/checkpoint.py", "training/gpu.py", "worlds/emoji_data.py"}
WRITERS |= {"weights/public/download.py"}
OPTIONAL = {"ftfy"}  # used where it is installed
DOCUMENTED = BELOW_CLI | {"cli", "palimpsest"}
MOST_LINES = 60  # of a function, its docstring aside
MOST_PARAMETERS = 12  # of a public function
WIDEST = 110  # columns

SOURCES = sorted(p.relative_to(ROOT) for room in ROOMS for p in (ROOT / room).rglob("*.py"))
METHODS = [p for p in SOURCES if p.parts[0] == "methods" and p.stem not in NO_PAPER]
TESTS = sorted(p.relative_to(ROOT) for p in (ROOT / "tests").glob("*.py"))
SETUP = configparser.RawConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")

RANDOM = {
    "rand",
    "randn",
    "randint",
    "randperm",
    "normal",
    "bernoulli",
    "multinomial",
    "rand_like",
    "randn_like",
    "randint_like",
}
RANDOM_IN_PLACE = {"normal_", "uniform_", "bernoulli_", "exponential_", "random_"}


def tree(path):
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def walk(node, kind):
    return [n for n in ast.walk(node) if isinstance(n, kind)]


def room_of(module):
    """palimpsest.nets.unet -> nets; palimpsest itself and its files -> palimpsest; None for others' modules."""
    first, *rest = module.split(".")
    if first != "palimpsest":
        return None
    return rest[0] if rest and rest[0] in ALLOWED else "palimpsest"


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
    callers_business = room in {"samplers", "methods", "nets"} and path.stem not in NO_PAPER
    first_weights = {
        id(c) for p in walk(code, ast.Call) if called(p) == "nn.Parameter" for c in walk(p, ast.Call)
    }
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
        if (
            name in {f"torch.{r}" for r in RANDOM}
            and "generator" not in keywords
            and id(n) not in first_weights
        ):
            yield n.lineno, f"{name} without generator"
        if last in RANDOM_IN_PLACE and "generator" not in keywords and room != "nets":
            yield n.lineno, f".{last} without generator"
        if re.match(r"(np|numpy)\.random\.(?!default_rng|SeedSequence|Generator)|random\.(?!Random\b)", name):
            yield n.lineno, f"{name}: the global generator"
        if (
            last in {"manual_seed", "seed"}
            and name.startswith(("torch.manual", "torch.cuda", "np.", "random."))
            and room in {"worlds", "nets", "samplers", "metrics", "weights", "methods"}
            and path.stem != "__main__"
        ):
            yield n.lineno, f"{name}: the global seed"
        opened = (
            n.args[1].value
            if name == "open" and len(n.args) > 1 and isinstance(n.args[1], ast.Constant)
            else ""
        )
        if str(path) not in WRITERS and (
            "w" in opened
            or name in {"os.replace", "os.rename", "shutil.copy", "shutil.copyfile", "shutil.move"}
            or (last in {"write_text", "write_bytes"} and isinstance(n.func, ast.Attribute))
        ):
            yield n.lineno, f"{name}: write by palimpsest.outputs, whole or not at all"
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
    me = path.parts[0]
    theirs = {room_of(name) for name in imports(tree(path)) if not name.startswith(GROUND)} - {None}
    ground = ".".join(path.with_suffix("").parts) in GROUND
    allowed = set() if ground else ALLOWED[me]
    assert theirs <= allowed, f"{me} may not import {sorted(theirs - allowed)}"


def test_measuring_does_not_draw():
    """What draws figures (claims/draw) reads records; only the command that runs both knows it."""
    measuring = [
        p for p in SOURCES if p.parts[:1] == ("claims",) and p.parts[1] not in ("draw", "__main__.py")
    ]
    drawn = {p: n for p in measuring for n in imports(tree(p)) if n.startswith("palimpsest.claims.draw")}
    assert drawn == {}


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_file_does_what_the_house_forbids(path):
    assert [f"{path}:{line}: {what}" for line, what in sins(path)] == []


def without_encoding(path):
    """Lines where text goes to or comes from a file, or a process, in whatever encoding the machine has."""
    for n in walk(tree(path), ast.Call):
        last, arguments = called(n).split(".")[-1], [*n.args, *(k.value for k in n.keywords)]
        named = any(isinstance(a, ast.Constant) and str(a.value).startswith("utf-8") for a in arguments)
        mode = ast.unparse(n.args[1]) if len(n.args) > 1 else "r"
        opens = called(n) == "open" and "b" not in mode
        takes = last in {"read_text", "write_text"} and isinstance(n.func, ast.Attribute)
        if (
            opens or takes or any(k.arg == "text" for k in n.keywords if last in {"run", "Popen"})
        ) and not named:
            yield n.lineno


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=str)
def test_text_files_are_utf_8_whatever_the_locale(path):
    assert list(without_encoding(path)) == []


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parts[0] != "notebooks"], ids=str)
def test_every_file_and_every_public_name_says_what_it_is(path):
    code = tree(path)
    public = [
        n for n in code.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")
    ]
    silent = [n.name for n in public if not ast.get_docstring(n)] if path.parts[0] in DOCUMENTED else []
    assert ast.get_docstring(code) and silent == []


def too_much(path):
    """What of a file is longer, or takes more arguments, than a reader can hold in the head: "path: what"."""
    code, text = tree(path), (ROOT / path).read_text(encoding="utf-8")
    for n in walk(code, (ast.FunctionDef, ast.AsyncFunctionDef)):
        said = n.body[0] if ast.get_docstring(n, clean=False) is not None else None
        lines = n.end_lineno - n.lineno + 1 - (said.end_lineno - said.lineno + 1 if said else 0)
        arguments = [
            a.arg
            for a in [*n.args.posonlyargs, *n.args.args, *n.args.kwonlyargs]
            if a.arg not in ("self", "cls")
        ]
        if lines > MOST_LINES:
            yield f"{path}: {n.name} has {lines} lines"
        if len(arguments) > MOST_PARAMETERS and not n.name.startswith("_") and n.name != "main":
            yield f"{path}: {n.name} has {len(arguments)} parameters"
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > WIDEST:
            yield f"{path}:{number}: {len(line)} columns"


def test_functions_and_lines_fit_a_screen():
    assert [what for path in SOURCES if path.parts[0] != "notebooks" for what in too_much(path)] == []


@pytest.mark.parametrize("path", METHODS, ids=str)
def test_a_method_names_its_paper_and_tags_its_equations(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    assert re.search(r"arXiv:\d{4}\.\d{5}v\d", ast.get_docstring(ast.parse(text)) or ""), (
        "arXiv id with its version"
    )
    assert len(re.findall(r"#.*\b(Eq|Alg|Sec)\. ?\(?\w", text)) >= 3, (
        "at least three `# Eq. (7)` or `# Alg. 1 l. 4`"
    )


@pytest.mark.parametrize("path", TESTS, ids=str)
def test_every_test_can_fail(path):
    def checks(test):
        return walk(test, ast.Assert) or [
            c
            for c in walk(test, ast.Call)
            if re.match(r"(assert|raises$|warns$|fail$)", called(c).split(".")[-1])
        ]

    tests = [n for n in walk(tree(path), ast.FunctionDef) if n.name.startswith("test_")]
    assert [t.name for t in tests if not checks(t)] == []
    assert len({t.name for t in tests}) == len(tests), "two tests of one name: the first never runs"


def test_setup_names_every_package_and_every_dependency():
    packages = SETUP["options"]["packages"].replace(",", " ").split()
    here = {
        ".".join(p.parent.relative_to(ROOT).parts)
        for room in ROOMS
        for p in (ROOT / room).rglob("__init__.py")
    }
    assert set(packages) == {p if p == "palimpsest" else f"palimpsest.{p}" for p in here}
    mapped = dict(line.split(" = ") for line in SETUP["options"]["package_dir"].strip().split("\n"))
    assert mapped == {p: p.removeprefix("palimpsest.").replace(".", "/") for p in packages}

    def required(text):
        return {re.match(r"[\w-]+", line)[0].lower() for line in text.split("\n") if line.strip()}

    needs, extras = required(SETUP["options"]["install_requires"]), SETUP["options.extras_require"]
    wide = needs | required(extras["test"]) | required(extras["notebooks"]) | required(extras["docs"])
    wide |= required(extras["studio"])
    ours = {*sys.stdlib_module_names, "palimpsest", "tests", *(p.stem for p in TESTS)}
    pip_names = {"PIL": "pillow", "open_clip": "open_clip_torch", "IPython": "ipython"}
    pip_names |= {"docutils": "sphinx", "pygments": "sphinx"}  # it is made of them
    for path in SOURCES + TESTS:
        declared = wide if path.parts[0] in ("tests", "notebooks", "studio") else needs
        declared = needs | required(extras["docs"]) if path.parts[0] == "docs" else declared
        used = {name.split(".")[0] for name in imports(tree(path))} - ours
        assert {pip_names.get(name, name) for name in used} <= declared | OPTIONAL, path


def test_every_command_of_the_makefile_exists():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipes = [f"training.{name}" for name in re.search(r"RECIPES := (.*)", text)[1].split()]
    modules = re.findall(r"^\t\$\(RUN\) -m palimpsest\.([\w.]+)", text, re.MULTILINE)
    assert len(modules) >= 5
    files = [ROOT.joinpath(*name.split(".")) for name in modules + recipes]
    assert [
        str(f) for f in files if not (f.with_suffix(".py").exists() or (f / "__main__.py").exists())
    ] == []


def test_the_continuous_integration_runs_the_tests_and_nothing_else():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("#!") and lines[-1] == "make test-all"
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_linter_is_content():
    pytest.importorskip("ruff", reason="ruff is an extra of the tests")
    for ask in (["check", "--no-cache", "--output-format", "concise"], ["format", "--no-cache", "--check"]):
        found = subprocess.run(
            [sys.executable, "-m", "ruff", *ask, "."],
            cwd=ROOT,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        assert found.returncode == 0, found.stdout


def test_the_network_is_shut():
    with socket.socket() as s, pytest.raises(RuntimeError, match="tests must not use the network"):
        s.connect(("192.0.2.1", 80))


@pytest.mark.parametrize(
    "code, what",
    [
        ("import torch\nx = torch.randn(3)", "torch.randn without generator"),
        ("x.cuda()", ".cuda()"),
        ("def f(**kw):\n    pass", "**kw"),
        ("from math import *", "import *"),
        ("net.forward = None", ".forward ="),
        ("def f():\n    global x", "global"),
        ("net.load_state_dict(s, strict=False)", "strict"),
        ("x.normal_()", ".normal_"),
        ("import numpy as np\nnp.random.rand(3)", "np.random.rand"),
        ("import torch\ntorch.manual_seed(0)", "global seed"),
        ("print(1)", "caller's business"),
        ("import time", "caller's business"),
        ("p = '/home/me/x.png'", "one machine"),
        ("open('x', 'w', encoding='utf-8')", "whole or not at all"),
        ("p.write_bytes(b'')", "whole or not at all"),
    ],
)
def test_the_rules_above_have_teeth(tmp_path, monkeypatch, code, what):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "samplers").mkdir()
    (tmp_path / "samplers" / "x.py").write_text(code, encoding="utf-8")
    assert any(what in found for _, found in sins(Path("samplers/x.py")))
