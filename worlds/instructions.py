"""The same wish in other words, and what a wish means: instructions of the shapes world as different
people would say them.

    said("make the star blue", rng)              # "turn the star blue", "change the star to blue", …
    meaning("the star to blue and remove the ring")              # [("look", ("star", "blue")), ("remove", ("ring",))]

Only words that the world's tokenizer knows (worlds/scene.WORDS), so that all of its models can read them.
"""

from __future__ import annotations

import random
import re

from palimpsest.worlds.scene import SHAPES

THING = rf"an? (\w+ ){{0,3}}({'|'.join(SHAPES)})"
# kind -> (how worlds.shapes.instruction says it, what else may be said for it, which of its words matter)
WAYS: dict[str, tuple[str, tuple[str, ...], tuple[int, ...]]] = {
    "background": (
        r"change the background to (\w+)",
        (
            r"change the background to \1",
            r"make the background \1",
            r"turn the background \1",
            r"replace the background with \1",
        ),
        (1,),
    ),
    "remove": (
        r"remove the (\w+)",
        (
            r"remove the \1",
            r"replace the \1 with the background",
            r"change the \1 to the background",
            r"remove the \1 in the picture",
        ),
        (1,),
    ),
    "add": (
        r"add (an? .+)",
        (r"add \1", r"add \1 to the picture", r"add \1 on the background", r"add \1 in the picture"),
        (1,),
    ),
    "swap": (
        r"swap the (\w+) and the (\w+)",
        (r"swap the \1 and the \2", r"swap the \2 and the \1", r"swap the \1 with the \2"),
        (1, 2),
    ),
    "reshape": (
        r"turn the (\w+) into (an?) (\w+)",
        (
            r"turn the \1 into \2 \3",
            r"make the \1 \2 \3",
            r"replace the \1 with \2 \3",
            r"change the \1 into \2 \3",
            r"swap the \1 with \2 \3",
        ),
        (1, 3),
    ),
    "look": (
        r"make the (\w+) (\w+)",
        (r"make the \1 \2", r"turn the \1 \2", r"change the \1 to \2", r"make \2 the \1", r"the \1 to \2"),
        (1, 2),
    ),
}


def said(instruction: str, rng: random.Random, plain: float = 0.5) -> str:
    """The instruction in other words; as it is with probability `plain`. Raises ValueError for one that
    this world does not know.
    """
    for pattern, ways, _ in WAYS.values():
        if re.fullmatch(pattern, instruction):
            return instruction if rng.random() < plain else re.sub(pattern, rng.choice(ways), instruction)
    raise ValueError(f"instruction: {instruction!r} is none of this world's")


def meaning(instruction: str) -> list[tuple[str, tuple[str, ...]]]:
    """What is asked for, wish by wish: a kind of WAYS and its words. Raises ValueError for what nobody
    here would say.
    """
    for kind, (pattern, ways, matter) in WAYS.items():
        for way in ways:
            found = re.fullmatch(_reader(pattern, way), instruction)
            if found and (kind != "add" or re.fullmatch(THING, found["g1"])):
                return [(kind, tuple(found[f"g{i}"] for i in matter))]
    for cut in re.finditer(" and ", instruction):  # two wishes; "swap the a and the b" is one
        try:
            return meaning(instruction[: cut.start()]) + meaning(instruction[cut.end() :])
        except ValueError:
            continue
    raise ValueError(f"instruction: {instruction!r} means nothing here")


def _reader(pattern: str, way: str) -> str:
    """The regular expression of one way to say a pattern: its groups, named g1, g2, …, in the way's order."""
    groups = re.findall(r"\(([^)]*)\)", pattern)
    return re.sub(r"\\(\d)", lambda number: f"(?P<g{number[1]}>{groups[int(number[1]) - 1]})", way)
