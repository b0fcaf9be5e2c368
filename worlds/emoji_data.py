"""Builds the data set of the emoji world, outside git, from three packages of the npm registry.

    python -m palimpsest.worlds.emoji_data        # `npm pack` brings them (150 MB); result: runs/emoji_data
    python -m palimpsest.worlds.emoji_data --packages ~/Downloads  # .tgz files of `npm pack`

The pictures are the 64-pixel sheets of emoji-datasource-google and emoji-datasource-twitter 16, without
fallbacks: Noto Emoji (Apache-2.0) and Twemoji (CC-BY 4.0). Their emoji.json says where each picture
stands; its names are those of the characters, in part older than emoji ("HEAVY BLACK HEART",
"PEDESTRIAN"), so the names come from unicode-emoji-json: the English short names of Unicode's CLDR ("red
heart", "person walking"). That package leaves out colons and skin tones, and `cldr_name` puts them back.

What an emoji is made of is read off its code points: 1F469 1F3FB 200D 2695 is a woman, of light skin
tone, with the sign of medicine. Take the tone and the woman out, and what is left is the same for all
health workers. So true pairs are found and not listed.

Left out: the flags of countries and regions (270 pictures in which each name occurs once), and the five
patches of skin tone."""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from palimpsest.worlds.emoji import (
    SHIPPED,
    Emoji,
    EmojiError,
    World,
    is_held_out,
    pairs,
    shipped,
    write_world,
)
from palimpsest.worlds.files import open_picture
from palimpsest.worlds.patterns import NAMES
from palimpsest.worlds.scene import COLOURS

STYLES = {"noto": "google", "twemoji": "twitter"}  # our name -> the data set's
PACKAGES = ("emoji-datasource-google@16", "emoji-datasource-twitter@16", "unicode-emoji-json@0.9.0")
LEFT_OUT = ("country-flag", "subdivision-flag", "skin-tone")
CELL = 66  # pixels from picture to picture on a sheet: 64 and a border of one

JOINERS = {"200D", "FE0F"}  # they say that code points belong together and in colour
TONES = {
    "1F3FB": "light",
    "1F3FC": "medium-light",
    "1F3FD": "medium",
    "1F3FE": "medium-dark",
    "1F3FF": "dark",
}
SIGNS = {"2640": "woman", "2642": "man"}
GENDERS = {  # code point -> what all genders of it are called here, gender
    "1F9D1": ("person", "person"),
    "1F468": ("person", "man"),
    "1F469": ("person", "woman"),
    "1F9D2": ("child", "child"),
    "1F466": ("child", "boy"),
    "1F467": ("child", "girl"),
    "1F9D3": ("older", "person"),
    "1F474": ("older", "man"),
    "1F475": ("older", "woman"),
    "1FAC5": ("crown", "person"),
    "1F934": ("crown", "man"),
    "1F478": ("crown", "woman"),
    "1FAC4": ("pregnant", "person"),
    "1FAC3": ("pregnant", "man"),
    "1F930": ("pregnant", "woman"),
}
HAIR = {"1F9B0": "red hair", "1F9B1": "curly hair", "1F9B2": "bald", "1F9B3": "white hair"}
HAIRY = {"1F471": "blond hair", "1F9D4": "beard"}  # persons of one code point with their hair
RIGHT = "27A1"

# --------------------------------------------------------------------------- names


def cldr_name(name: str, tone: str = "", hair: str = "") -> str:
    """The CLDR name of an emoji, lower case, from its name without colons and its tone: "man: light skin
    tone, red hair".
    """
    name = name.lower().replace("’", "'").replace("“", "").replace("”", "")
    if hair:
        name = name.removesuffix(hair).strip()
    name = re.sub(r"^(family|kiss|couple with heart) (?=man|woman|adult)", r"\1: ", name)
    more = [f"{one} skin tone" for one in tone.split(", ") if one] + [hair] * bool(hair)
    return name + (", " if ":" in name else ": ") * bool(more) + ", ".join(more)


def read_code(code: str, signed: set[str]) -> dict[str, str]:
    """What a code is made of: person (what remains), tone, gender, hair, facing. `signed`: code points
    that can carry a sign of gender.
    """
    points = [p for p in code.upper().split("-") if p not in JOINERS]
    tones = [TONES[p] for p in points if p in TONES]
    found = dict(tone=", ".join(dict.fromkeys(tones)), gender="", hair="", facing="")
    points = [p for p in points if p not in TONES]
    if points[-1] == RIGHT and len(points) > 1:
        found["facing"], points = "right", points[:-1]
    if points[-1] in HAIR:
        found["hair"], points = HAIR[points[-1]], points[:-1]
    if points[-1] in SIGNS and len(points) > 1:
        found["gender"], points = SIGNS[points[-1]], points[:-1]
    elif points[0] in signed:
        found["gender"] = "person"
    if points[0] in HAIRY:
        found["hair"], points = HAIRY[points[0]], ["person", *points[1:]]
    elif (
        sum(p in GENDERS for p in points) == 1 and points[0] in GENDERS
    ):  # of two people no one is "the" person
        points[0], found["gender"] = GENDERS[points[0]]
    return found | dict(person="-".join(points))


def read_records(entries: Sequence[dict], names: dict[str, str]) -> Iterator[tuple[Emoji, int, int]]:
    """Every emoji of emoji.json in both styles, skin tones after their emoji, with its column and row on
    the sheet.

    names: code -> CLDR name. The backgrounds are left open, to be read off the pictures.
    """
    every = [[p for p in entry["unified"].split("-") if p not in JOINERS] for entry in entries]
    signed = {points[0] for points in every if len(points) > 1 and points[1] in SIGNS}
    for entry in sorted(entries, key=lambda e: e["sort_order"]):
        if entry["subcategory"] in LEFT_OUT:
            continue
        for one in (entry, *entry.get("skin_variations", {}).values()):
            parts = read_code(one["unified"], signed)
            name = cldr_name(names[entry["unified"]], parts["tone"], parts["hair"])
            for style, theirs in STYLES.items():
                if one[f"has_img_{theirs}"]:
                    yield (
                        Emoji(name, style, one["unified"].lower(), entry["category"], **parts),
                        one["sheet_x"],
                        one["sheet_y"],
                    )


# --------------------------------------------------------------------------- pictures


def stands_out(pictures: Tensor, near: float = 0.25, most: float = 0.4) -> list[tuple[str, ...]]:
    """The backgrounds on which each picture (n 4 y x, uint8) can be seen: at most `most` of its rim is
    nearer than `near` to the colour.

    The rim: opaque pixels within two of a clear one, or of the picture's border. Distances are of RGB in
    [0, 1]."""
    colours = torch.tensor(list(COLOURS.values()))
    found = []
    for part in pictures.split(256):
        part = part.float() / 255
        opaque = (part[:, 3:] > 0.5).float()
        inner = -torch.nn.functional.max_pool2d(1 - torch.nn.functional.pad(opaque, (2,) * 4), 5, 1) + 1
        rim = opaque * (1 - inner)
        for picture, edge in zip(part, rim):
            rgb = picture[:3, edge[0] > 0].T
            share = (torch.cdist(rgb, colours) < near).float().mean(0)
            found.append(tuple(name for name, s in zip(COLOURS, share.tolist()) if s <= most))
    return found


def cut(sheet: Tensor, places: Iterable[tuple[int, int]]) -> Tensor:
    """The pictures (n 4 64 64) at (column, row) of a sheet (4 y x)."""
    return torch.stack(
        [sheet[:, y * CELL + 1 : y * CELL + 65, x * CELL + 1 : x * CELL + 65] for x, y in places]
    )


def read_sheet(path: Path) -> Tensor:
    """A picture file with its alpha, uint8 (4 y x)."""
    file = open_picture(path)
    rgb, alpha = torch.from_numpy(file.rgb).permute(2, 0, 1), torch.from_numpy(file.alpha)
    return torch.cat([rgb, alpha[None]])


# --------------------------------------------------------------------------- packages


def fetch(folder: Path) -> None:
    """Let npm put the packages into a folder. Raises EmojiError where it cannot."""
    try:
        subprocess.run(
            ["npm", "pack", "--silent", *PACKAGES], cwd=folder, check=True, stdout=subprocess.DEVNULL
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise EmojiError(
            f"packages: npm could not bring {', '.join(PACKAGES)} ({type(error).__name__}); fetch these "
            f"with npm pack "
            "elsewhere and name their folder with --packages"
        ) from None


def unpack(folder: Path, package: str, member: str, to: Path) -> Path:
    """One file of a package that lies in a folder as npm pack left it. Raises EmojiError where it is not
    there.
    """
    name, version = package.split("@")
    files = sorted(folder.glob(f"{name}-{version}*.tgz"))
    if not files:
        raise EmojiError(
            f"packages: there is no {name}-{version}….tgz in {folder}; run npm pack {package} there"
        )
    path = to / f"{name}-{Path(member).name}"
    try:
        with tarfile.open(files[-1]) as archive, open(path, "wb") as out:
            shutil.copyfileobj(archive.extractfile(f"package/{member}"), out)
    except (tarfile.TarError, KeyError, EOFError, zlib.error) as error:
        raise EmojiError(
            f"packages: {files[-1]} is damaged ({type(error).__name__}); run npm pack {package} there again"
        ) from None
    return path


def build(packages: Path) -> World:
    """The whole data set, from a folder with the three packages."""
    with tempfile.TemporaryDirectory() as scratch:
        sheets = {
            style: read_sheet(unpack(packages, package, f"img/{theirs}/sheets-clean/64.png", Path(scratch)))
            for (style, theirs), package in zip(STYLES.items(), PACKAGES)
        }
        entries = json.loads(
            unpack(packages, PACKAGES[0], "emoji.json", Path(scratch)).read_text(encoding="utf-8")
        )
        named = json.loads(
            unpack(packages, PACKAGES[2], "data-by-emoji.json", Path(scratch)).read_text(encoding="utf-8")
        )
    names = {"-".join(f"{ord(c):04X}" for c in emoji): about["name"] for emoji, about in named.items()}
    rows = list(read_records(entries, names))
    pictures = torch.cat([cut(sheets[e.style], [(x, y)]) for e, x, y in rows])
    seen = [
        tuple(c for c in found if c not in e.name.split())
        for (e, _, _), found in zip(rows, stands_out(pictures))
    ]
    return World(tuple(replace(e, grounds=colours) for (e, _, _), colours in zip(rows, seen)), pictures)


# --------------------------------------------------------------------------- what it holds


def mirrored(world: World, db: float = 35.0) -> int:
    """Of how many held-out pictures the mirror image is, to within `db` of PSNR on white, among those for
    training.
    """
    rgba = world.pictures.float() / 255
    seen = rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]
    held = torch.tensor([is_held_out(e) for e in world.emoji])
    others, turned = seen[~held].flatten(1), seen[held].flip(-1).flatten(1)
    squares = turned.square().sum(1, keepdim=True) + others.square().sum(1) - 2 * turned @ others.T
    return int((squares.amin(1) / others.shape[1] <= 10 ** (-db / 10)).sum())


def counts(world: World) -> str:
    """How many pictures and true edits there are, and how far apart training and test are kept."""
    every, train, test = (
        len(pairs(world, random.Random(0), held_out=which)) for which in (None, False, True)
    )
    held = sum(map(is_held_out, world.emoji))
    return (
        f"{len(world.emoji):,} pictures, {held:,} of them held out; {every:,} true edits, {train:,} of them "
        f"for training and {test:,} "
        f"for tests; of {mirrored(world):,} held-out pictures the mirror image is trained on"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m palimpsest.worlds.emoji_data", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--packages", type=Path, help="folder with the .tgz files of npm pack; left out, npm brings them"
    )
    parser.add_argument("--to", type=Path, default=Path("runs/emoji_data"), help="(default: %(default)s)")
    parser.add_argument(
        "--shipped", action="store_true", help="write the small held-out set that ships, instead"
    )
    wish = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            if wish.packages is None:
                fetch(Path(scratch))
            world = build(wish.packages or Path(scratch))
        if wish.shipped:
            named = dict.fromkeys(e.name for e in world.emoji if not e.tone)
            NAMES.write_text("\n".join([*named, ""]), encoding="utf-8", newline="\n")
        print(write_world(shipped(world), SHIPPED) if wish.shipped else write_world(world, wish.to))
    except (EmojiError, OSError) as error:
        print(f"palimpsest: error: {error}", file=sys.stderr)
        return 2
    print(counts(world))
    return 0


if __name__ == "__main__":
    sys.exit(main())
