"""The same wish in other words: an instruction of the shapes world as different people would say it.

    said("make the star blue", rng)  ->  "turn the star blue", "change the star to blue", …

Only words that the world's tokenizer knows (worlds/scene.WORDS), so that all of its models can read them.
"""
from __future__ import annotations

import random
import re

WAYS: tuple[tuple[str, tuple[str, ...]], ...] = (                # what is said, and what else may be said for it
    (r"make the (\w+) (\w+)", (r"make the \1 \2", r"turn the \1 \2", r"change the \1 to \2", r"make \2 the \1", r"the \1 to \2")),
    (r"turn the (\w+) into (an?) (\w+)", (r"turn the \1 into \2 \3", r"make the \1 \2 \3", r"replace the \1 with \2 \3",
                                         r"change the \1 into \2 \3", r"swap the \1 with \2 \3")),
    (r"change the background to (\w+)", (r"change the background to \1", r"make the background \1", r"turn the background \1",
                                        r"replace the background with \1")),
    (r"remove the (\w+)", (r"remove the \1", r"replace the \1 with the background", r"change the \1 to the background")),
    (r"add (an? .+)", (r"add \1", r"add \1 to the picture", r"add \1 on the background")),
    (r"swap the (\w+) and the (\w+)", (r"swap the \1 and the \2", r"swap the \2 and the \1", r"swap the \1 with the \2")))


def said(instruction: str, rng: random.Random, plain: float = .5) -> str:
    """The instruction in other words; as it is with probability `plain`. Raises ValueError for one that this world does not know."""
    for pattern, ways in WAYS:
        if re.fullmatch(pattern, instruction):
            return instruction if rng.random() < plain else re.sub(pattern, rng.choice(ways), instruction)
    raise ValueError(f"instruction: {instruction!r} is none of this world's")
