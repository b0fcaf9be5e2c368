"""Whether a text is of the kind that a world's models were trained on, and what comes near it.

remark("make the star blue", WORDS, instructs=False)     # "is no caption …, as in "a red star" …"
nearest_captions("a smiling woman")                      # ("smiling face", "woman", …)
absent("make the star blue", seen)                       # what an instruction names and a reader does not see
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from palimpsest.worlds.instructions import meaning, pointed_at
from palimpsest.worlds.scene import COLOURS, RARE_WORDS, SHAPES, WORDS
from palimpsest.worlds.words import EMOJI_TABLE, SHAPES_TABLE, table_of, understood, wanted

NAMES = Path(__file__).parent / "emoji_names.txt"  # CLDR's names without skin tones; worlds/emoji_data.py
EXAMPLES = {  # (world, whether it is told what to change) -> two texts
    ("shapes", False): (
        "a red star",
        "a small blue ring left of a striped green heart on a white background",
    ),
    ("shapes", True): ("make the star blue", "remove the ring"),
    ("emoji", False): ("red heart in noto style", "woman: dark skin tone on a blue background"),
    ("emoji", True): ("change the skin tone to dark", "change the background to blue"),
}
_EMOJI_WISH = re.compile(
    r"change the (?:skin tone|number|background) to .+|make (?:the .+|them .+|it point .+)|give them .+|"
    r"set the clock to .+|redraw it in \w+ style"
)


def world_of(known: Collection[str]) -> str:
    """The world whose words a model reads: "shapes", "emoji", or "" for none of ours."""
    table = table_of(known)
    return "shapes" if table is SHAPES_TABLE else "emoji" if table is EMOJI_TABLE else ""


def remark(text: str, known: Collection[str] = WORDS, *, instructs: bool = False) -> str:
    """What is unlike the training texts in this one, and two that are like them; "" where nothing is.

    instructs: the model is told what to change, and not what there is to see. A word that the model lacks is
    not spoken of here: its tokenizer refuses it."""
    world, said = world_of(known), understood(text, known)
    if not world or not text.strip():
        return ""
    if not said:
        return f'"{text}" holds no word that is read, and counts as empty'
    if world == "emoji" and not instructs:
        return _no_emoji(said)
    if world == "emoji":
        like = _EMOJI_WISH.fullmatch(said)
    else:
        words = said.split()
        like = not set(words) <= set(known) or _means(words, instructs)
    if like:
        return ""
    one, other = EXAMPLES[world, instructs]
    kind = "instruction" if instructs else "caption"
    return f'"{text}" is no {kind} of the kind that this model was trained on, such as "{one}" or "{other}"'


def _means(words: list[str], instructs: bool) -> bool:
    """Whether a text of the shapes world can be read: an instruction, or a caption, where a rare word may
    stand for a look."""
    said = " ".join(word for word in words if word not in RARE_WORDS)
    if len(said.split()) < len(words) and set(said.split()) <= {"a", "an", "the"}:
        return True
    try:
        (meaning if instructs else wanted)(said)
    except ValueError:
        return False
    return True


# ---- emoji ----


@functools.cache
def captions() -> tuple[str, ...]:
    """The names of the emoji, without skin tones."""
    return tuple(NAMES.read_text(encoding="utf-8").split("\n")[:-1])


def _no_emoji(said: str) -> str:
    """A remark on a caption that names no emoji."""
    name = re.sub(r"(?: in \w+ style| on an? \w+ background)+$", "", said)
    head, _, made_of = name.partition(": ")
    made_of = [part for part in made_of.split(", ") if part and not part.endswith("skin tone")]
    name = f"{head}: {', '.join(made_of)}" if made_of else head
    if name in captions():
        return ""
    near = ", ".join(f'"{one}"' for one in nearest_captions(name))
    return f'"{said}" names no emoji; the nearest captions are {near}'


def nearest_captions(text: str, n: int = 3) -> tuple[str, ...]:
    """The n names of emoji that share most words with a text, of those as many the ones that are spelt most
    like it."""
    words = set(re.findall(r"\w+", text.lower()))

    def near(name: str) -> float:
        own = set(re.findall(r"\w+", name))
        shared = 2 * len(own & words) / (len(own) + len(words) or 1)
        return shared + 0.5 * difflib.SequenceMatcher(None, text.lower(), name).ratio()

    return tuple(sorted(captions(), key=near, reverse=True)[:n])


# ---- what an instruction names ----


def absent(instruction: str, seen: Mapping[str, str]) -> str:
    """The thing that an instruction of the shapes world names and that is not seen, as in "red star"; ""
    where all are there, or nothing can be told.

    seen: attributes as a reader reads them (worlds.shapes.ATTRIBUTES). Only shapes and colours are asked for:
    sizes and textures are matters of taste in a drawing."""
    looks = [
        {"shape": seen[f"shape_{k}"], "colour": seen[f"colour_{k}"]}
        for k in (1, 2)
        if seen[f"shape_{k}"] != "none"
    ]
    try:
        wishes = meaning(instruction)
    except ValueError:
        return ""
    for kind, named in wishes:
        points = {"swap": named, "add": named[2:], "background": ()}.get(kind, named[:1])
        for point in points:
            told = " ".join(word for word in point.split() if word in SHAPES or word in COLOURS)
            if told and not _seen(told, looks):
                return told
    return ""


def _seen(told: str, looks: list[dict[str, str]]) -> bool:
    try:
        pointed_at(told, looks, "none")
    except ValueError as error:
        return "more than one" in str(error)
    return True


def things(seen: Mapping[str, str]) -> str:
    """What a reader sees, in words: "a red star and a blue ring"."""
    return " and ".join(
        f"{'an' if seen[f'colour_{k}'][0] in 'aeiou' else 'a'} {seen[f'colour_{k}']} {seen[f'shape_{k}']}"
        for k in (1, 2)
        if seen[f"shape_{k}"] != "none"
    )
