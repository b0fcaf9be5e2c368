"""README: one page, its commands do what their pictures show, and the Chinese page says the same."""

import re
from pathlib import Path

import pytest
import torch

from palimpsest.claims.draw import examples
from palimpsest.cli.main import command_line
from palimpsest.cli.manners import Parser
from palimpsest.weights.judges import load_reader
from palimpsest.worlds.files import open_picture, read_picture

ROOT = Path(__file__).parent.parent
README, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


def text(path):
    return path.read_text(encoding="utf-8")


def test_the_page_is_short():
    prose = BLOCK.sub("", text(README))
    assert len(prose.split()) <= 900


def test_every_link_of_the_pages_leads_somewhere():
    for page in (README, CHINESE, *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text(page)):
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_chinese_page_has_the_same_commands_pictures_links_and_figures():
    def code(page):  # comments are words, too
        return [re.sub(r"\s*#.*", "", block) for _, block in BLOCK.findall(text(page))]

    assert code(CHINESE) == code(README)
    for pattern in (r"!\[[^\]]*\]\(([^)]+)\)", r"(?<!!)\[[^\]]*\]\(([^)]+)\)", r"\b\d+ ?%"):
        found = [sorted(re.findall(pattern, text(page))) for page in (README, CHINESE)]
        same = [
            [one.replace(" ", "") for one in of if one not in (CHINESE.name, README.name)] for of in found
        ]
        assert same[0] == same[1], pattern


def test_the_python_of_the_page_runs(tmp_path, monkeypatch):
    (tmp_path / "figures").symlink_to(ROOT / "figures")
    monkeypatch.chdir(tmp_path)
    (source,) = [block for language, block in BLOCK.findall(text(README)) if language == "python"]
    exec(compile(source, "README.md", "exec"), {})
    assert read_picture(tmp_path / "red.png").shape[:2] == (1, 3)


# ---- each command shows what its picture shows ----

SHOWN = {  # picture of the page -> what the reader must find in the result
    "sdedit.png": dict(shape_1="star", colour_1="red", background="blue"),
    "instruct.png": dict(shape_1="heart", colour_1="blue", background="white"),
    "words.png": dict(shape_1="star", colour_1="blue", texture_1="striped", background="white"),
    "flow.png": dict(shape_1="crescent", colour_1="red", background="yellow"),
}


def test_every_example_is_judged_and_has_its_picture():
    known = examples.commands()
    assert set(known) == {*SHOWN, "emoji.png"}
    assert {f"figures/examples/{name}" for name in known} <= set(
        re.findall(r"\(([^)]+\.png)\)", text(README))
    )
    for words in known.values():
        command_line(Parser, words[:1]).parse_args(words)


def result(name, folder):
    words = examples.commands()[name]
    examples.run(words, folder)
    return folder / words[words.index("-o") + 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_the_reader_finds_what_the_command_asks_for(name, tmp_path):
    picture = read_picture(result(name, tmp_path), size=64)
    (found,) = load_reader("shapes-reader").read(picture)
    assert {key: found[key] for key in SHOWN[name]} == SHOWN[name]


SKIN = {
    "medium": (0xD5, 0xAB, 0x88),
    "medium-dark": (0xAF, 0x7E, 0x57),
    "dark": (0x7C, 0x53, 0x3E),
}  # Twemoji's


@pytest.mark.slow
def test_the_skin_of_the_edited_emoji_is_that_of_the_tone_that_was_asked_for(tmp_path):
    file = result("emoji.png", tmp_path)
    before, after = (
        torch.from_numpy(open_picture(path).rgb).flatten(0, 1).float()
        for path in (ROOT / "figures/emoji/woman.png", file)
    )
    skin = (before - torch.tensor(SKIN["medium"])).abs().amax(1) < 8
    assert skin.float().mean() > 0.1, "the picture before has the tone medium"
    found = after[skin].median(0).values
    away = {tone: (found - torch.tensor(colour)).norm().item() for tone, colour in SKIN.items()}
    assert min(away, key=away.get) == "dark", away
    assert open_picture(file).alpha is not None
