"""What a caption of the shapes world asks for, attribute by attribute: the way back from words to what a
reader reads.

wanted("a small red star left of a blue ring") -> {"count": "two", "relation": "left of", "shape_1":
"star", "colour_1": "red", "size_1": "small", "texture_1": "plain", …}"""

from __future__ import annotations

from palimpsest.worlds.scene import COLOURS, RELATIONS, SHAPES, SIZES, TEXTURES


def wanted(text: str) -> dict[str, str]:
    """The attributes that a caption names, keyed as worlds.shapes.ATTRIBUTES. A thing without a texture
    word is plain.

    Raises ValueError for a text that is no caption of this world; the empty text asks for nothing.
    """
    words = text.lower().replace(",", " ").split()
    if not words:
        return {}
    head, _, tail = " ".join(words).partition(" on a")
    found: dict[str, str] = {}
    if tail:
        ground = tail.removeprefix("n").split()
        if len(ground) != 2 or ground[0] not in COLOURS or ground[1] != "background":
            raise ValueError(f'prompt: "{text}" ends in no background; as in "… on a blue background"')
        found["background"] = ground[0]
    relation = next((r for r in RELATIONS if f" {r} " in head), None)
    things = head.split(f" {relation} ") if relation else [head]
    found |= {"count": "one" if relation is None else "two", "relation": relation or "none"}
    for k, phrase in enumerate(things, 1):
        found |= {f"{name}_{k}": value for name, value in thing(phrase, text).items()}
    if relation is None:
        found |= {f"{name}_2": "none" for name in ("shape", "colour", "size", "texture")}
    return found


def thing(phrase: str, text: str) -> dict[str, str]:
    """What "a small striped red star" names."""
    found, kinds = (
        {"texture": "plain"},
        {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES},
    )
    for word in phrase.split():
        kind = next((name for name, values in kinds.items() if word in values), None)
        if kind is None and word not in ("a", "an", "the"):
            raise ValueError(f'prompt: "{word}" in "{text}" names no property of a thing')
        if kind is not None:
            found[kind] = word
    if "shape" not in found:
        raise ValueError(f'prompt: "{phrase}" in "{text}" names no shape; known: {", ".join(SHAPES)}')
    return found
