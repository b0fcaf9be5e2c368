"""The site: its pages are laid out of the repository's own data, and its commands, links and pictures are true."""

import re
from pathlib import Path

import pytest

from palimpsest.claims.draw import knobs
from palimpsest.cli.main import command_line
from palimpsest.cli.manners import Parser
from tests import pages

ROOT = Path(__file__).parent.parent


# ---- what needs no Sphinx ----


@pytest.mark.parametrize("page", pages.pages(), ids=lambda p: p.name)
def test_every_command_of_a_page_is_one_that_the_command_line_takes(page):
    for command in pages.commands(page):
        words = pages.words_of(command)
        if words[0] == "sweep":  # the words of the command that is swept are read by its own parser
            at = words.index("--over")
            words = words[1:at] + ["-o", words[words.index("-o") + 1]]
        assert command_line(Parser, words[:1]).parse_args(words)


def test_every_knob_has_its_picture_below_its_command_and_all_are_small():
    shown = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs" / "methods").glob("*.md"))
    known = knobs.commands()
    assert len(known) >= 15
    for name in known:
        assert f"(../../figures/knobs/{knobs.kept(name)})" in shown, name
    files = [*knobs.FOLDER.glob("*"), *(ROOT / "figures" / "cells").glob("*")]
    assert {p.name for p in knobs.FOLDER.glob("*")} == {knobs.kept(name) for name in known}
    assert sum(p.stat().st_size for p in files) <= 3_000_000


@pytest.mark.slow
def test_the_programs_of_the_page_on_extending_run_as_they_stand(tmp_path, monkeypatch, capsys):
    (tmp_path / "figures").symlink_to(ROOT / "figures")
    monkeypatch.chdir(tmp_path)
    programs = pages.programs(ROOT / "docs" / "extend.md")
    assert len(programs) == 5
    for program in programs:
        exec(compile(program, "extend.md", "exec"), {})
    assert "[980, 958, 904, 764, 454, 144, 25, 1, 0]" in capsys.readouterr().out  # as the page says
    assert (tmp_path / "ilvr.png").exists() and len([*(tmp_path / "disks").glob("*.png")]) == 24


# ---- the site itself ----


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    pytest.importorskip("sphinx", reason="sphinx is an extra of the site")
    from palimpsest.docs.site.tree import lay_out

    folder = tmp_path_factory.mktemp("site")
    lay_out(folder)  # a dead link raises
    return folder


def test_every_page_of_the_issue_is_there(tree):
    for name in (
        *("index", "install", "lessons", "CLAIMS", "NOTATION", "CHANGELOG", "docs/extend", "docs/glossary"),
        *("docs/speed", "docs/training", "docs/public_weights", "notebooks/teaching", "scoreboards/emoji"),
        *("api/index", "api/samplers.ddim", "models/index", "models/shapes", "docs/methods/sdedit"),
    ):
        assert (tree / f"{name}.md").exists(), name
    lessons = {p.name for p in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    assert {p.name for p in (tree / "notebooks").glob("*.ipynb")} == lessons


def test_every_written_page_stands_in_the_side_bar(tree):
    side_bar = (tree / "index.md").read_text(encoding="utf-8").splitlines()
    for page in [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "methods").glob("*.md")]:
        assert page.relative_to(ROOT).with_suffix("").as_posix() in side_bar, page.name


def test_every_equation_leads_to_the_line_that_carries_its_number_and_to_its_test(tree):
    rows = re.findall(r"^\| (\d+)[ ,].*$", (tree / "NOTATION.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {int(n) for n in rows} == set(range(1, 36))
    for line in (tree / "NOTATION.md").read_text(encoding="utf-8").splitlines():
        if number := re.match(r"\| (\d+) \|", line):
            (file, at), test = re.findall(r"\(source:([^#)]+)#L(\d+)\)", line)
            code = (ROOT / file).read_text(encoding="utf-8").splitlines()[int(at) - 1]
            assert f"({number[1]})" in code and "Eq" in code
            assert "def test_" in (ROOT / test[0]).read_text(encoding="utf-8").splitlines()[int(test[1]) - 1]


def test_a_method_page_shows_its_signature_its_command_and_its_verdicts(tree):
    text = (tree / "docs" / "methods" / "sdedit.md").read_text(encoding="utf-8")
    assert "def sdedit(" in text and "--target-distance" in text and "| C1 |" in text and "<!--" not in text


def test_a_page_that_leads_nowhere_is_refused():
    pytest.importorskip("sphinx", reason="sphinx is an extra of the site")
    from palimpsest.docs.site.tree import moved

    assert (
        moved("[a](../samplers/ddim.py)", "docs/x.md", "docs/x.md", set()) == "[a](source:samplers/ddim.py)"
    )
    assert moved("`[a](nothing.md)`", "docs/x.md", "docs/x.md", set()) == "`[a](nothing.md)`"
    with pytest.raises(ValueError, match="nothing.md leads nowhere"):
        moved("[a](nothing.md)", "docs/x.md", "docs/x.md", set())


def test_dead_links_and_what_is_fetched_from_elsewhere_are_found(tmp_path):
    from palimpsest.docs.site.links import faults

    head = '<script src="https://elsewhere.example/x.js"></script>'
    links = '<a href="b.html#there">1</a><a href="b.html#not">2</a><a href="c.html">3</a><a href="https://x.example">4</a>'
    (tmp_path / "a.html").write_text(head + links, encoding="utf-8")
    (tmp_path / "b.html").write_text('<p id="there">', encoding="utf-8")
    (tmp_path / "s.css").write_text("@font-face { src: url(//fonts.example/f.woff) }", encoding="utf-8")
    assert faults(tmp_path) == [
        "a.html: loads https://elsewhere.example/x.js",
        "a.html: b.html#not has no such place",
        "a.html: c.html leads nowhere",
        "s.css: loads //fonts.example/f.woff",
    ]
