"""The emoji world: what it says, what it shows, what its pairs change, and what training never sees."""

from __future__ import annotations

import io
import json
import os
import random
import re
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from palimpsest.worlds import emoji_data
from palimpsest.worlds.emoji import (
    FAMILIES,
    KINDS,
    PARTS,
    SHIPPED,
    STYLES,
    TONES,
    Emoji,
    EmojiError,
    Scene,
    World,
    caption,
    is_held_out,
    open_world,
    pairs,
    render,
    sample_scenes,
    shipped,
    texts,
    write_world,
)
from palimpsest.worlds.emoji_data import PACKAGES, build, cldr_name, read_code, stands_out
from palimpsest.worlds.scene import COLOURS, Ground, Wave
from palimpsest.worlds.shapes import sample_ground

FULL = Path(os.environ.get("PALIMPSEST_EMOJI", Path(__file__).parent.parent / "runs" / "emoji_data"))


@pytest.fixture(scope="module")
def world():
    return open_world()


@pytest.fixture(scope="module")
def full():
    if not (FULL / "emoji.png").exists():
        pytest.skip("the whole set of emoji is not built here; make emoji-data builds it")
    return open_world(FULL)


# ------------------------------------------------------------------------------------------------------------ pictures and words


def test_the_set_that_ships_is_small_and_has_held_out_pairs_of_every_kind(world):
    assert len(world.emoji) == len(world.pictures) == 200 and world.pictures.shape[1:] == (4, 64, 64)
    assert (
        Counter(e.style for e in world.emoji).keys() == set(STYLES)
        and len({(e.code, e.style) for e in world.emoji}) == 200
    )
    found = Counter(pair.kind for pair in pairs(world, random.Random(0), held_out=True))
    assert set(found) == set(KINDS) and min(found.values()) >= 5
    assert sum(f.stat().st_size for f in SHIPPED.iterdir()) < 1_000_000


def test_the_set_that_ships_carries_its_licences():
    assert "Apache License" in (SHIPPED / "LICENSE-NOTO.txt").read_text(encoding="utf-8")
    assert "Attribution 4.0" in (SHIPPED / "LICENSE-TWEMOJI.txt").read_text(encoding="utf-8")
    said = (SHIPPED / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert all(
        word in said
        for word in ("Noto Emoji", "Twemoji", "Google", "Twitter", "CC-BY 4.0", "nothing else was changed")
    )


def test_an_emoji_is_laid_over_its_background_by_its_alpha():
    picture = torch.zeros(4, 64, 64, dtype=torch.uint8)
    picture[:, 5, 7] = torch.tensor([255, 0, 102, 51])  # alpha .2
    picture[:, 5, 8] = torch.tensor([10, 20, 30, 255])
    e, calm = (
        Emoji("dot", "noto", "1", "Symbols", "1"),
        Ground("gradient", (0.0, 0.0), (Wave(0.0, 0.0, 0.0, 0.0),) * 4),
    )
    x = (render(World((e,), picture[None]), [Scene(e, "blue", calm)])[0] + 1) / 2
    r, g, b = COLOURS["blue"]
    assert_close(x[:, 5, 7], torch.tensor([0.2 + 0.8 * r, 0.8 * g, 0.2 * 0.4 + 0.8 * b]))
    assert_close(x[:, 5, 8], torch.tensor([10.0, 20.0, 30.0]) / 255)
    assert_close(x[:, 6, 7], torch.tensor([r, g, b]))


def test_scenes_are_pictures_and_a_seed_fixes_them(world):
    a, b = (sample_scenes(world.emoji, 12, random.Random(k)) for k in (3, 3))
    assert a == b and a != sample_scenes(world.emoji, 12, random.Random(4))
    x = render(world, a)
    assert (
        x.shape == (12, 3, 64, 64)
        and x.dtype == torch.float32
        and x.min() >= -1
        and x.max() <= 1
        and x.std() > 0.2
    )
    assert torch.equal(render(world, a[5:6])[0], x[5]) and all(s.background in s.emoji.grounds for s in a)


def test_a_person_of_many_tones_is_not_drawn_as_often_as_its_pictures():
    many = [
        Emoji(str(k), "noto", str(k), "", "person", tone)
        for k, tone in enumerate(("", *TONES, "a", "b", "c"))
    ]
    one = Emoji("cat", "noto", "c", "", "cat")
    found = Counter(s.emoji.person for s in sample_scenes([*many, one], 4000, random.Random(0)))
    assert 2.6 < found["person"] / found["cat"] < 3.4  # √9


def test_captions_say_the_name_the_style_and_the_background(world):
    e = Emoji(
        "woman health worker: light skin tone",
        "noto",
        "1f469-1f3fb-200d-2695-fe0f",
        "",
        "person-2695",
        "light",
        "woman",
    )
    scene = Scene(e, "orange", sample_ground(random.Random(0)))
    assert caption(scene) == "woman health worker: light skin tone in noto style on an orange background"
    assert caption(scene, style=False) == "woman health worker: light skin tone on an orange background"
    assert caption(scene, style=False, background=False) == e.name
    for e in world.emoji:
        assert e.name == e.name.lower() and not set(e.name) & set("’“”") and "  " not in e.name
        assert all(f"{tone} skin tone" in e.name for tone in e.tone.split(", ") if tone) and e.hair in e.name


def test_an_emoji_can_be_seen_on_its_grounds():
    white, framed = torch.full((2, 4, 64, 64), 240, dtype=torch.uint8)
    white[3], framed[3] = 0, 0
    white[3, 10:50, 10:50] = framed[3, 10:50, 10:50] = 255
    framed[:3, 10:50, 10:50], framed[:3, 14:46, 14:46] = 26, 240  # white, with a black frame
    a, b = stands_out(torch.stack([white, framed]))
    assert "white" not in a and "black" in a and "white" in b and "black" not in b and len(a) == len(b) == 7


# ------------------------------------------------------------------------------------------------------------ true edits


def test_pairs_differ_only_in_what_they_say(world):
    found = pairs(world, random.Random(0), held_out=None)
    assert {p.kind for p in found} == set(KINDS)
    for kind, before, after, told in found:
        a, b = before.emoji, after.emoji
        assert before.ground == after.ground and {before.background, after.background} <= set(
            a.grounds
        ) & set(b.grounds), told
        assert (before.background == after.background) != (kind == "background")
        if kind == "background":
            assert a == b and told == f"change the background to {after.background}"
        elif kind in PARTS:
            assert [part for part in ("person", *PARTS) if getattr(a, part) != getattr(b, part)] == [kind], (
                told
            )
            assert told == PARTS[kind](getattr(b, kind))
        else:
            old, new = (re.search(FAMILIES[kind][0], e.name) for e in (a, b))
            assert (
                a.name[: old.start()] == b.name[: new.start()]
                and a.name[old.end() :] == b.name[new.end() :]
                and a.style == b.style
            )
            assert old[1] != new[1] and new[1] in told
    for before, after in [p[1:3] for p in random.Random(1).sample(found, 40)]:
        x, y = render(world, [before, after])
        clear = (world.pictures[world.rows([before.emoji, after.emoji])][:, 3] == 0).all(0)
        assert before.background != after.background or torch.equal(x[:, clear], y[:, clear])
        assert not torch.equal(x, y)


def test_instructions_are_what_a_person_would_say():
    def person(**parts):
        return Emoji(
            " ".join(parts.values()),
            parts.pop("style", "noto"),
            repr(parts),
            "People & Body",
            "person",
            **parts,
        )

    made = [
        person(gender="man", tone="dark"),
        person(gender="man", tone="light"),
        person(gender="woman", tone="light"),
        person(gender="woman", tone="light", hair="bald"),
        person(gender="woman", tone="light", facing="right"),
        person(gender="man", tone="light", style="twemoji"),
        person(gender="man", tone="light, dark"),
        *(
            Emoji(name, "noto", name, "Symbols", name)
            for name in (
                "red heart",
                "light blue heart",
                "keycap 3",
                "keycap 7",
                "three o'clock",
                "four-thirty",
                "up-left arrow",
                "down arrow",
                "left-right arrow",
                "rightwards hand",
                "leftwards hand",
                "red apple",
            )
        ),
    ]
    pictures = torch.arange(len(made), dtype=torch.uint8)[:, None, None, None].expand(-1, 4, 64, 64)
    found = {
        (p.kind, p.before.emoji.name, p.instruction)
        for p in pairs(World(tuple(made), pictures), random.Random(0), held_out=None)
        if p.kind != "background"
    }
    assert found == {
        ("tone", "man dark", "change the skin tone to light"),
        ("tone", "man light", "change the skin tone to dark"),
        ("gender", "man light", "make them a woman"),
        ("gender", "woman light", "make them a man"),
        (
            "hair",
            "woman light",
            "make them bald",
        ),  # and not back: what "no word" looks like nobody can ask for
        ("facing", "woman light", "make them face right"),
        ("facing", "woman light right", "make them face left"),
        ("style", "man light", "redraw it in twemoji style"),
        ("style", "man light twemoji", "redraw it in noto style"),
        ("colour", "red heart", "make the heart light blue"),
        ("colour", "light blue heart", "make the heart red"),
        ("number", "keycap 3", "change the number to 7"),
        ("number", "keycap 7", "change the number to 3"),
        ("clock", "three o'clock", "set the clock to four-thirty"),
        ("clock", "four-thirty", "set the clock to three o'clock"),
        ("direction", "up-left arrow", "make it point down"),
        ("direction", "down arrow", "make it point up-left"),
        ("direction", "rightwards hand", "make it point left"),
        ("direction", "leftwards hand", "make it point right"),
    }


def test_pairs_of_one_picture_are_no_pairs_and_an_unknown_kind_is_refused(world):
    twins = tuple(Emoji(f"{g} running", "noto", g, "", "1F3C3", gender=g) for g in ("person", "man", "woman"))
    pictures = torch.zeros(3, 4, 64, 64, dtype=torch.uint8)
    pictures[2] = 9
    told = {
        p.instruction
        for p in pairs(World(twins, pictures), random.Random(0), None, ("gender",))
        if p.before.emoji.name[0] == "m"
    }
    assert told == {"make them a woman"}
    with pytest.raises(ValueError, match="kinds: 'age' is no kind of edit; known: tone"):
        pairs(world, random.Random(0), kinds=("age",))


# ------------------------------------------------------------------------------------------------------------ held out


def check_the_split(world):
    train, test = (pairs(world, random.Random(0), held_out=h) for h in (False, True))
    assert not any(is_held_out(s.emoji) for p in train for s in p[1:3])
    assert all(is_held_out(p.after.emoji) for p in test)
    assert not any(is_held_out(p.before.emoji) for p in test if p.kind != "background")

    def key(p):
        return p.kind, p.before.emoji.code, p.before.emoji.style, p.after.emoji.code, p.after.emoji.style

    assert not set(map(key, train)) & set(map(key, test))
    return train, test


def test_held_out_pictures_are_never_in_training(world):
    train, test = check_the_split(world)
    assert len(train) > 100 and len(test) > 100


def test_what_is_held_out_depends_on_what_a_picture_is_alone(world):
    a = {e for e in world.emoji if is_held_out(e)}
    assert a and a == {
        e
        for e in reversed(world.emoji)
        if is_held_out(replace(e, name="x", code="x", category="x", grounds=()))
    }
    back = World(world.emoji[::-1], world.pictures.flip(0))

    def told(w):
        return {(p.kind, p.before.emoji, p.after.emoji) for p in pairs(w, random.Random(0), held_out=True)}

    assert told(world) == told(back)
    e = Emoji("", "noto", "", "", "person-2695", "dark", "woman")
    found = [k for k in range(60) if is_held_out(replace(e, person=f"P-{k}"))]
    assert found == [0, 1, 6, 10, 18, 20, 38, 44, 46, 48, 57]  # on every machine


def test_a_combination_is_held_out_in_both_styles_and_an_emoji_in_one():
    made = [
        Emoji("", "noto", "", "", f"P-{k}", tone, gender)
        for k in range(2000)
        for tone in ("", "light", "dark")
        for gender in ("man", "woman")
    ]
    both = [(is_held_out(e), is_held_out(replace(e, style="twemoji"))) for e in made]
    plain, toned = ([b for b, e in zip(both, made) if bool(e.tone) == t] for t in (False, True))
    assert (True, True) not in plain and 0.07 < sum(map(any, plain)) / len(plain) < 0.13
    assert 0.07 < toned.count((True, True)) / len(toned) < 0.13
    assert 0.4 < sum(a for a, _ in plain) / sum(map(any, plain)) < 0.6


# ------------------------------------------------------------------------------------------------------------ files


def test_a_set_is_read_as_it_was_written(world, tmp_path):
    few = World(world.emoji[:70], world.pictures[:70])  # more than a row
    again = open_world(write_world(few, tmp_path / "few"))
    assert again.emoji == few.emoji and torch.equal(again.pictures, few.pictures)


def test_a_set_that_is_missing_or_damaged_is_refused_in_one_line(world, tmp_path):
    with pytest.raises(EmojiError, match="data: there are no emoji in .*make emoji-data"):
        open_world(tmp_path)
    folder = write_world(World(world.emoji[:3], world.pictures[:3]), tmp_path / "three")
    records, sheet = (folder / "emoji.json").read_text(encoding="utf-8"), (folder / "emoji.png").read_bytes()

    def refused():
        with pytest.raises(EmojiError, match="is damaged .*build it again") as error:
            open_world(folder)
        assert "\n" not in str(error.value)

    for text in (
        "[{}]",
        "[" + ",".join([records.strip()[1:-1]] * 2) + "]",
        "[",
    ):  # a stranger, more than the sheet holds, torn
        (folder / "emoji.json").write_text(text, encoding="utf-8")
        refused()
    (folder / "emoji.json").write_text(records, encoding="utf-8")
    for size in ((192, 63), (100, 64), (128, 64)):
        Image.new("RGBA", size).save(folder / "emoji.png")
        refused()
    (folder / "emoji.png").write_bytes(sheet)
    assert len(open_world(folder).emoji) == 3 and open_world(folder).rows([]).shape == (0,)


def test_names_are_those_of_the_cldr():
    for args, wanted in [
        (("woman health worker", "light"), "woman health worker: light skin tone"),
        (("man red hair", "", "red hair"), "man: red hair"),
        (("man red hair", "dark", "red hair"), "man: dark skin tone, red hair"),
        (("person bald", "dark", "bald"), "person: dark skin tone, bald"),
        (
            ("couple with heart woman, man", "light, dark"),
            "couple with heart: woman, man, light skin tone, dark skin tone",
        ),
        (("kiss", "dark"), "kiss: dark skin tone"),
        (("family man, boy",), "family: man, boy"),
        (("four o’clock",), "four o'clock"),
        (("Japanese “here” button",), "japanese here button"),
        (("family",), "family"),
    ]:
        assert cldr_name(*args) == wanted


def test_a_code_says_what_an_emoji_is_made_of():
    def read(code):
        return {k: v for k, v in read_code(code, {"1F3C3", "1F471"}).items() if v}

    assert read("1F469-1F3FB-200D-2695-FE0F") == dict(person="person-2695", tone="light", gender="woman")
    assert read("1F9D1-200D-2695-FE0F") == dict(person="person-2695", gender="person")
    assert read("1F3C3-1F3FF-200D-2642-FE0F-200D-27A1-FE0F") == dict(
        person="1F3C3", tone="dark", gender="man", facing="right"
    )
    assert read("1F3C3") == dict(person="1F3C3", gender="person") and read("27A1-FE0F") == dict(person="27A1")
    assert read("1F468-200D-1F9B0") == dict(person="person", gender="man", hair="red hair")
    assert read("1F471-1F3FD-200D-2640-FE0F") == dict(
        person="person", tone="medium", gender="woman", hair="blond hair"
    )
    assert read("1F478") == dict(person="crown", gender="woman") and read("2640-FE0F") == dict(person="2640")
    assert read("1F469-1F3FB-200D-2764-FE0F-200D-1F468-1F3FF") == dict(
        person="1F469-2764-1F468", tone="light, dark"
    )
    assert read("1F91D-1F3FB") == read("1F91D-1F3FB-1F3FB")


def pack(folder, package, files):
    with tarfile.open(folder / f"{package.replace('@', '-')}.0.0.tgz", "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_the_set_is_built_from_the_packages(tmp_path, capsys, monkeypatch):
    def entry(code, name, x, **more):
        return (
            dict(
                unified=code,
                name=name,
                sheet_x=x,
                sheet_y=0,
                has_img_google=True,
                has_img_twitter=True,
                has_img_apple=True,
                category="c",
                subcategory="s",
                sort_order=x,
            )
            | more
        )

    light = dict(unified="1F44B-1F3FB", sheet_x=1, sheet_y=0, has_img_google=True, has_img_twitter=False)
    entries = [
        entry("1F44B", "WAVING HAND SIGN", 0, skin_variations={"1F3FB": light}),
        entry("1F1E6-1F1E8", "Ascension", 1, subcategory="country-flag"),
    ]
    for package, style, colour in zip(PACKAGES, ("google", "twitter"), ((200, 0, 0, 255), (0, 200, 0, 255))):
        sheet, file = Image.new("RGBA", (132, 66)), io.BytesIO()
        sheet.paste(colour, (1, 1, 65, 65))
        sheet.paste((colour[2], colour[0], colour[1], 255), (67, 1, 131, 65))
        sheet.save(file, "PNG")
        pack(
            tmp_path,
            package,
            {f"img/{style}/sheets-clean/64.png": file.getvalue(), "emoji.json": json.dumps(entries).encode()},
        )
    with pytest.raises(EmojiError, match="packages: there is no unicode-emoji-json.*npm pack"):
        build(tmp_path)
    names = {"\U0001f44b": {"name": "waving hand"}, "\U0001f1e6\U0001f1e8": {"name": "flag Ascension Island"}}
    pack(tmp_path, PACKAGES[2], {"data-by-emoji.json": json.dumps(names).encode()})
    built = build(tmp_path)
    assert [(e.name, e.style, e.code) for e in built.emoji] == [
        ("waving hand", "noto", "1f44b"),
        ("waving hand", "twemoji", "1f44b"),
        ("waving hand: light skin tone", "noto", "1f44b-1f3fb"),
    ]
    assert [
        p[:, 0, 0].tolist() == p[:, 63, 63].tolist() == wanted
        for p, wanted in zip(built.pictures, ([200, 0, 0, 255], [0, 200, 0, 255], [0, 200, 0, 255]))
    ] == [True] * 3
    assert emoji_data.main(["--packages", str(tmp_path), "--to", str(tmp_path / "set")]) == 0
    assert open_world(tmp_path / "set").emoji == built.emoji and "3 pictures" in capsys.readouterr().out
    (tmp_path / f"{PACKAGES[0].replace('@', '-')}.0.0.tgz").write_bytes(b"no archive")
    monkeypatch.setenv("PATH", str(tmp_path))  # where no npm is
    for argv, said in (
        (["--packages", str(tmp_path)], "is damaged"),
        (["--packages", str(tmp_path / "none")], "there is no"),
        ([], "npm could not bring"),
    ):
        assert emoji_data.main(argv) == 2
        line = capsys.readouterr().err.strip()
        assert line.startswith("palimpsest: error: packages: ") and said in line and "\n" not in line


def test_a_mirror_image_in_training_is_counted(world):
    held, free = (
        next(i for i, e in enumerate(world.emoji) if is_held_out(e) == which) for which in (True, False)
    )
    other = next(i for i, e in enumerate(world.emoji) if is_held_out(e) and i != held)
    left = torch.zeros(4, 64, 64, dtype=torch.uint8)
    left[[0, 3], :, :20] = 200  # opaque and red on one side
    records = world.emoji[held], world.emoji[other], world.emoji[free]
    assert emoji_data.mirrored(World(records, torch.stack([left, left.flip(-2), left.flip(-1)]))) == 2
    assert (
        emoji_data.mirrored(World(records, torch.stack([left, left.flip(-1), left]))) == 1
    )  # the same, not turned, is none


# ------------------------------------------------------------------------------------------------------------ the whole set


def test_the_whole_set_has_the_counts_that_are_said(full):
    assert len(full.emoji) == 7038 and Counter(e.style for e in full.emoji) == {"noto": 3519, "twemoji": 3519}
    assert 600 < sum(map(is_held_out, full.emoji)) < 800 and min(len(e.grounds) for e in full.emoji) >= 3
    assert len({e.name for e in full.emoji}) == 3519


def test_the_split_of_the_whole_set_is_clean_and_its_tests_are_enough(full):
    train, test = check_the_split(full)
    assert len(test) > 2000 and min(Counter(p.kind for p in test).values()) >= 20 and len(train) > 30000
    here = open_world()
    again = shipped(full)
    assert (
        again.emoji == here.emoji
        and torch.equal(again.pictures, here.pictures)
        and texts(here) <= texts(full)
    )
