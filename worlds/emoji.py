"""The emoji world: real pictures, drawn by artists in two styles, with captions and with true edits:
artists drew both pictures.

    world = open_world()                         # the held-out pictures that ship; all: "runs/emoji_data"
    pair = pairs(world, random.Random(0), held_out=True)[0]
    caption(pair.before)                         # "woman: light skin tone in noto style on a blue background"
    pair.instruction                             # "change the skin tone to dark"
    x, y = render(world, [pair.before, pair.after])

An emoji is a picture with alpha, 64×64; a scene puts it on a background of the shapes world: a named
colour under an unnamed texture. Pictures: Noto Emoji (Apache-2.0) and Twemoji (CC-BY 4.0), see
worlds/emoji_held_out; worlds/emoji_data.py builds the whole set.

Held out of training, as the test of composition: one in ten of the combinations of a person, a skin tone
and a gender, in both styles, and one in ten emoji in one of their two styles. Which ones, a hash of what
they are decides, so that no list can grow stale. The hash is of what a person faces, too: of some
held-out pictures the mirror image is trained on (worlds/emoji_data.py prints how many)."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from palimpsest.arguments import ArgumentError
from palimpsest.outputs import write_text
from palimpsest.worlds.drawing import grounds
from palimpsest.worlds.files import PictureError, open_picture, write_picture
from palimpsest.worlds.scene import COLOURS, Ground, on_background
from palimpsest.worlds.shapes import sample_ground

SIZE = 64
STYLES = ("noto", "twemoji")
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
SHIPPED = Path(__file__).parent / "emoji_held_out"
COLUMNS = 64  # pictures in a row of a sheet


class EmojiError(ValueError):
    """A data set that is missing or damaged, in one line that says what to do."""


@dataclass(frozen=True)
class Emoji:
    """One picture's record: its CLDR name, style, code points and category, and what it is made of, ""
    where that does not apply.

    person: what remains of the code without the rest, and so what all pictures of one person, gesture or
    thing share; tone: of TONES, two of them for a couple of two tones; gender: person, man, woman, child,
    boy or girl; hair; facing: "right" where it was turned around. grounds: the colours of the backgrounds
    on which it can be seen; a colour that the name says is none of them."""

    name: str
    style: str
    code: str
    category: str
    person: str
    tone: str = ""
    gender: str = ""
    hair: str = ""
    facing: str = ""
    grounds: tuple[str, ...] = tuple(COLOURS)


@dataclass(frozen=True)
class World:
    """Records and their pictures, uint8 (n, 4, 64, 64), red, green, blue and alpha."""

    emoji: tuple[Emoji, ...]
    pictures: Tensor

    @cached_property
    def place(self) -> dict[tuple[str, str], int]:
        """(code, style) -> where that emoji stands among the pictures."""
        return {(e.code, e.style): i for i, e in enumerate(self.emoji)}

    def rows(self, emoji: Sequence[Emoji]) -> Tensor:
        """Where these stand among the pictures: (b,) int64."""
        return torch.tensor([self.place[e.code, e.style] for e in emoji], dtype=torch.long)


@dataclass(frozen=True)
class Scene:
    """An emoji on a background."""

    emoji: Emoji
    background: str
    ground: Ground


class Pair(NamedTuple):
    """A true edit: what kind it is of (KINDS), the scene before and after, and what a person would say to
    ask for it.
    """

    kind: str
    before: Scene
    after: Scene
    instruction: str


# ---- files: a sheet and a list of records ----


def open_world(folder: str | Path = SHIPPED) -> World:
    """A data set: emoji.png, a sheet of pictures with alpha, and emoji.json, their records in the same
    order. Raises EmojiError.
    """
    folder = Path(folder)
    try:
        records = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
        emoji = tuple(Emoji(**{**r, "grounds": tuple(r["grounds"])}) for r in records)
        sheet = open_picture(folder / "emoji.png")
        y, x = sheet.size
        if y % SIZE or x % SIZE or y // SIZE * (x // SIZE) < len(emoji):
            raise ValueError("the sheet does not hold what the list says")
    except FileNotFoundError:
        raise EmojiError(
            f"data: there are no emoji in {folder}; make emoji-data builds the data set (runs/emoji_data)"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, PictureError) as error:
        raise EmojiError(
            f"data: {folder} is damaged ({type(error).__name__}); build it again with make emoji-data"
        ) from None
    alpha = (
        torch.full(sheet.size, 255, dtype=torch.uint8)
        if sheet.alpha is None
        else torch.from_numpy(sheet.alpha)
    )  # opaque all over
    pixels = torch.cat([torch.from_numpy(sheet.rgb), alpha[..., None]], -1)
    cells = rearrange(pixels, "(r y) (q x) c -> (r q) c y x", y=SIZE, x=SIZE)
    return World(emoji, cells[: len(emoji)].contiguous())


def write_world(world: World, folder: str | Path) -> Path:
    """Write a data set so that `open_world` reads it; the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    columns = min(COLUMNS, len(world.emoji))
    empty = -len(world.emoji) % columns
    cells = torch.cat([world.pictures, world.pictures.new_zeros(empty, *world.pictures.shape[1:])])
    cells = cells * (cells[:, 3:] > 0)  # what cannot be seen need not be kept
    write_picture(rearrange(cells, "(r q) c y x -> 1 c (r y) (q x)", q=columns), folder / "emoji.png")
    plain = [{k: v for k, v in asdict(e).items() if v != ""} for e in world.emoji]
    rows = ",\n".join(json.dumps(r, ensure_ascii=False) for r in plain)
    write_text(folder / "emoji.json", f"[\n{rows}\n]\n")
    return folder


# --------------------------------------------------------------------------- scenes


def sample_scene(emoji: Emoji, rng: random.Random) -> Scene:
    """Put an emoji on a background on which it can be seen."""
    return Scene(emoji, rng.choice(emoji.grounds), sample_ground(rng))


def sample_scenes(emoji: Sequence[Emoji], n: int, rng: random.Random) -> list[Scene]:
    """n scenes. A person of 18 tones and genders in a style is drawn √18 times as often as a thing of one
    picture, not 18 times.
    """
    many = Counter((e.person, e.hair, e.style) for e in emoji)
    often = [many[e.person, e.hair, e.style] ** -0.5 for e in emoji]
    return [sample_scene(e, rng) for e in rng.choices(emoji, often, k=n)]


def render(world: World, scenes: Sequence[Scene]) -> Tensor:
    """(b, 3, 64, 64) float32 in [−1, 1]: alpha × emoji + (1 − alpha) × background."""
    pictures = world.pictures[world.rows([s.emoji for s in scenes])].float() / 255
    rgb, alpha = pictures[:, :3], pictures[:, 3:]
    return 2 * (alpha * rgb + (1 - alpha) * grounds(scenes, SIZE)) - 1


def caption(scene: Scene, style: bool = True, background: bool = True) -> str:
    """The CLDR name, then the style and the background, unless those are False."""
    return " ".join(
        [
            scene.emoji.name,
            *[f"in {scene.emoji.style} style"] * style,
            *[on_background(scene.background)] * background,
        ]
    )


# --------------------------------------------------------------------------- what is held out


def _hash(*words: str) -> int:
    return int(hashlib.sha256("|".join(words).encode()).hexdigest()[:12], 16)


def is_held_out(e: Emoji) -> bool:
    """Whether a picture is kept out of training: its (person, tone, gender) is, or its emoji is held out
    in its style.
    """
    combination = (
        e.tone != "" and _hash("combination", e.person, e.hair, e.facing, e.tone, e.gender) % 10 == 0
    )
    # An emoji's style is held out with all its tones, so that none gives the others away. "artist": of
    # eight words tried, the one whose tests are spread best over the kinds of edits.
    style = _hash("artist", e.person, e.hair, e.facing, e.gender)
    return combination or (style % 10 == 0 and e.style == STYLES[style // 10 % 2])


# --------------------------------------------------------------------------- true edits

NAMES = (
    "light blue",
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "brown",
    "black",
    "white",
    "grey",
    "pink",
)
# kind -> (the word of a name that may be another one, how to ask for it): emoji whose names differ in
# that word only are a family
FAMILIES: dict[str, tuple[str, str]] = {
    "colour": (rf"(?<![\w-])({'|'.join(NAMES)})(?![\w-])", "make the {rest} {value}"),
    "number": (r"(?<=^keycap )(\d+)$", "change the number to {value}"),
    "clock": (r"^(\w+(?: o'clock|-thirty))$", "set the clock to {value}"),
    "direction": (
        r"(?<![\w-])(up-left|up-right|down-left|down-right|up|down|left|right)"
        r"(?!-(?:left|right|down))(?=wards|\b)",
        "make it point {value}",
    ),
}
# kind -> how to ask for that value of it: emoji that are made of the same in all else are a family
PARTS: dict[str, Callable[[str], str]] = {
    "tone": lambda tone: f"change the skin tone to {tone}" if tone else "make the skin yellow",
    "gender": lambda gender: f"make them a {gender}",
    "hair": lambda hair: {"bald": "make them bald", "beard": "give them a beard"}.get(
        hair, f"give them {hair}"
    ),
    "facing": lambda facing: f"make them face {facing or 'left'}",
    "style": lambda style: f"redraw it in {style} style",
}
KINDS = (*PARTS, *FAMILIES, "background")


def _families(emoji: Sequence[Emoji]) -> Iterator[tuple[str, str, dict[str, Emoji]]]:
    """(kind, what its members share, value -> emoji) of every family of two or more."""
    found: dict[tuple, dict[str, Emoji]] = defaultdict(dict)
    for e in emoji:
        for part in PARTS:
            value = getattr(e, part)
            if not (part == "gender" and not value or part == "tone" and "," in value):
                rest = {k: getattr(e, k) for k in ("person", *PARTS) if k != part}
                found[(part, "", *rest.values())][value] = e
        for kind, (pattern, _) in FAMILIES.items():
            word = re.search(pattern, e.name)
            if word and not e.hair:  # "white hair" is hair
                rest = e.name[: word.start(1)] + "_" + e.name[word.end(1) :]
                found[kind, rest, e.style][word[1]] = e
    yield from ((key[0], key[1], family) for key, family in found.items() if len(family) > 1)


def _edits(emoji: Sequence[Emoji]) -> Iterator[tuple[str, Emoji, Emoji, str]]:
    for kind, rest, family in _families(emoji):
        for old, before in family.items():
            for new, after in family.items():
                if (
                    new == old or kind == "hair" and not new
                ):  # nobody can say what hair is when no word is given to it
                    continue
                told = (
                    FAMILIES[kind][1].format(rest=rest.replace("_ ", ""), value=new)
                    if kind in FAMILIES
                    else PARTS[kind](new)
                )
                yield kind, before, after, told


def _stand(kind: str, before: Emoji, after: Emoji, told: str, rng: random.Random) -> Pair | None:
    """A pair on a background drawn for it, or on two, if the background is what is edited; None where
    there is no such background.
    """
    both = [c for c in COLOURS if c in before.grounds and c in after.grounds]
    if len(both) < 1 + (kind == "background"):
        return None
    old, new = rng.sample(both, 2) if kind == "background" else [rng.choice(both)] * 2
    ground = sample_ground(rng)
    told = f"change the background to {new}" if kind == "background" else told
    return Pair(kind, Scene(before, old, ground), Scene(after, new, ground), told)


def elsewhere(pair: Pair, rng: random.Random) -> Pair:
    """The same edit on a background drawn anew."""
    return _stand(pair.kind, pair.before.emoji, pair.after.emoji, pair.instruction, rng)


def pairs(
    world: World, rng: random.Random, held_out: bool | None = False, kinds: Sequence[str] = KINDS
) -> list[Pair]:
    """Every true edit of these kinds, once, on a background drawn for it.

    held_out: False, those for training (neither picture is held out); True, those for tests (the picture
    after the edit is held out, the one before it only where the edit is of the background); None, all.
    Pairs of which both pictures are alike are left out."""
    unknown = set(kinds) - set(KINDS)
    if unknown:
        raise ArgumentError("kinds", f"{min(unknown)!r} is no kind of edit; known: {', '.join(KINDS)}")
    found = []
    for kind, before, after, told in _edits(world.emoji):
        wanted = held_out is None or is_held_out(after) == held_out and not is_held_out(before)
        if kind in kinds and wanted:
            old, new = (world.pictures[world.place[e.code, e.style]] for e in (before, after))
            if not torch.equal(old, new):
                found.append(_stand(kind, before, after, told, rng))
    for e in world.emoji if "background" in kinds else ():
        if held_out is None or is_held_out(e) == held_out:
            found.append(_stand("background", e, e, "", rng))
    return [pair for pair in found if pair is not None]


def texts(world: World) -> set[str]:
    """Whatever captions and instructions of this world can say, in pieces: what a vocabulary must hold."""
    said = {f"in {style} style" for style in STYLES} | {on_background(c) for c in COLOURS}
    said |= {f"change the background to {c}" for c in COLOURS} | {told for *_, told in _edits(world.emoji)}
    return said | {e.name for e in world.emoji}


# --------------------------------------------------------------------------- what ships


def shipped(world: World, most: int = 200) -> World:
    """The small set that ships with the repository: the pictures of held-out pairs of every kind, as
    evenly as there are.

    The picture before an edit is seen in training and the one after is not, as in the tests of the whole set.
    """
    by_kind: dict[str, list[Pair]] = {kind: [] for kind in KINDS if kind != "background"}
    for pair in pairs(world, random.Random(0), held_out=True, kinds=tuple(by_kind)):
        by_kind[pair.kind].append(pair)
    queues = [
        sorted(
            found, key=lambda p: _hash("ship", p.before.emoji.name, p.after.emoji.name, p.after.emoji.style)
        )
        for found in by_kind.values()
    ]
    chosen: dict[Emoji, None] = {}
    for turn in range(max(map(len, queues))):
        for queue in queues:
            new = [s.emoji for s in queue[turn][1:3] if s.emoji not in chosen] if turn < len(queue) else []
            if len(chosen) + len(new) <= most:
                chosen.update(dict.fromkeys(new))
    kept = [i for i, e in enumerate(world.emoji) if e in chosen]
    return World(tuple(world.emoji[i] for i in kept), world.pictures[kept])
