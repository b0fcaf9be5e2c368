"""What people type, in a world's own words; and what a caption asks for.

    understood("Delete the disc, please!")                       # "remove the circle"
    understood("a BIG crimson star to the left of a moon")       # "a large red star left of a crescent"
    plainly("on white, a ring below a red moon", words)          # "a red crescent above a ring on a white …"
    nearest("grey")                                              # ("white", "black")
    advice("grey")                                               # "… white, black (colours: red, orange, …)"
    wanted("on a blue background, a ring right of a star")       # {"count": "two", "relation": "left of", …}
    fulfils("a star and a ring", attributes(scene))              # whether a picture shows what is asked for

A table resolves what a word *is* (synonyms, spellings, forms) and how an instruction is put ("get rid of",
"the star's colour"); case, punctuation and line breaks are dropped. The order of words, "right of", "below",
"that is", "it" and "thing" stay (worlds/wordings.py shows them all). A model that was trained on free
wordings reads them; for any other, `plainly` makes a plain caption of them.
"""

from __future__ import annotations

import difflib
import functools
import re
import string
import unicodedata
from collections.abc import Collection
from typing import NamedTuple

from palimpsest.worlds.scene import (
    COLOURS,
    CONVERSE,
    LATER,
    RARE_WORDS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    WORDS,
    on_background,
    with_article,
)


class Table(NamedTuple):
    """How a world's words are meant otherwise: single words, and patterns with what they become, tried in
    order.
    """

    synonyms: dict[str, str]
    phrases: tuple[tuple[re.Pattern[str], str], ...]
    near: dict[str, tuple[str, ...]]  # words that it cannot show, and what comes nearest in meaning
    groups: dict[str, tuple[str, ...]]  # its words by what they name


def _one_word(means: dict[str, str]) -> dict[str, str]:
    return {word: meant for meant, words in means.items() for word in words.split()}


def _phrases(parts: dict[str, str], *rows: tuple[str, str]) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Patterns of whole words; a name in capitals stands for its part."""

    def spelt(pattern: str) -> str:
        return re.sub(r"\b[A-Z]{2,}\b", lambda name: f"(?:{parts[name[0]]})", pattern)

    return tuple((re.compile(rf"(?<!\S)(?:{spelt(pattern)})(?!\S)"), becomes) for pattern, becomes in rows)


# --------------------------------------------------------------------------- the shapes world

_PROPERTY = "colou?r|shape|size|pattern|texture|fill"
_STRIPES, _DOTS = "stripes|lines|bands", "dots|spots|polka dots|points"
SHAPES_TABLE = Table(
    synonyms=_one_word(
        {
            "circle": "disc disk ball round",
            "square": "box",
            "heart": "hart",
            "ring": "donut doughnut hoop annulus circlet",
            "cross": "plus",
            "crescent": "moon halfmoon",
            "diamond": "rhombus lozenge rhomb",
            "flower": "blossom daisy bloom",
            "triangle": "triangel",
            "red": "crimson scarlet reddish",
            "yellow": "golden gold yellowish",
            "green": "emerald greenish",
            "blue": "navy azure bluish",
            "purple": "violet purplish",
            "white": "whitish",
            "black": "blackish",
            "large": "big huge giant great bigger larger enormous gigantic massive",
            "small": "little tiny mini smaller miniature wee",
            "striped": "stripy stripey lined banded",
            "dotted": "spotted spotty dotty speckled polka",
            "plain": "solid flat uniform unpatterned",
            "above": "over atop",
            "below": "under beneath underneath",
            "background": "backdrop backround bg",
            "remove": "delete erase eliminate hide",
            "add": "insert append",
            "turn": "transform convert morph",
            "swap": "switch exchange",
            "replace": "substitute",
            "change": "alter modify",
            "thing": "object item figure",
            "upper": "top",
            "lower": "bottom",
            "picture": "image drawing scene",
        }
    ),
    phrases=_phrases(
        dict(
            COLOUR="|".join(COLOURS),
            SHAPE="|".join(SHAPES),
            NOUN="|".join((*SHAPES, "background", "disc", "disk", "moon", "box")),
            PROPERTY=_PROPERTY,
            STRIPES=_STRIPES,
            DOTS=_DOTS,
        ),
        (r"(?:please|(?:can|could|would|will) you|kindly|thanks|thank you|just|very|really|quite|now)", ""),
        (r"(?:show me|give me|generate|create|i want|i would like|i d like|let)(?= (?:an?|the|it) )", ""),
        (r"^there (?:is|are)", ""),
        (r"background there (?:is|are)", "background"),
        (r"there (?:is|are)", "is"),
        (r"^(?:(?:an?|the|my) )?(?:picture|photo|image|drawing|painting|sketch) (?:of|with|showing)", ""),
        (r"(?:which|that) (?:is|are)", "that is"),
        # what a property is said to be a property of
        (r"(?:the )?PROPERTY of(?= (?:the|it|an?) )", ""),
        (r"its PROPERTY", "it"),
        (r"(it|thing|NOUN) PROPERTY", r"\1"),
        (r"of (?:an? )?(COLOUR) colou?r", r"in \1"),
        (r"(COLOUR) (?:in )?colou?r(?:ed)?", r"\1"),
        (r"(?:the )?colou?r (COLOUR)", r"\1"),
        (r"(?:light|dark|bright|deep|pale|vivid)(?= COLOUR)", ""),
        (r"crescent moon|half moon", "crescent"),
        (r"love heart", "heart"),
        (r"plus sign", "cross"),
        (r"(?:two|2) (?:of )?((?:\w+ ){0,3}SHAPE)", r"a \1 and a \1"),
        (r"polka dot(?:ted|s)?(?= COLOUR| SHAPE)", "dotted"),
        (r"with (?:black |white )?STRIPES", "that is striped"),
        (r"with (?:black |white )?DOTS", "that is dotted"),
        # where things stand
        (r"(?:to|on|at) the (left|right)(?: hand)?(?: side)? of", r"\1 of"),
        (r"(?:to|on|at) its (left|right)", r"\1 of it"),
        (r"on(?: the)? top of|higher than", "above"),
        (r"lower than|at the bottom of", "below"),
        (r"next to|beside|near", "and"),
        (r"(?:against|in front of|upon|over)(?= (?:(?:an?|the) )?(?:COLOUR )?(?:background|backdrop))", "on"),
        (r"the (?:thing|one) (?:on|to|at) the (left|right|top|bottom)", r"the \1 thing"),
        (r"(the SHAPE) (?:on|to|at) the (?:left|right|top|bottom)", r"\1"),
        # how a wish is put
        (r"(?:get rid of|take (?:away|out)|rub out|throw (?:away|out)|cut out|wipe (?:out|away))", "remove"),
        (r"(?:take|rub|throw|cut|wipe) (the .+?|it) (?:away|out|off)", r"remove \1"),
        (r"from the (?:picture|image|scene|drawing|photo)", "in the picture"),
        (r"^(?:the (?:picture|image|same) )?without (the .+|it)", r"remove \1"),
        (r"remove the (?:STRIPES|DOTS) (?:from|of|on) (the .+|it)", r"make \1 plain"),
        (r"(?:add|give|put) STRIPES (?:to|on) (the \w+|it)", r"make \1 striped"),
        (r"give (the \w+|it) STRIPES", r"make \1 striped"),
        (r"(?:add|give|put) DOTS (?:to|on) (the \w+|it)", r"make \1 dotted"),
        (r"give (the \w+|it) DOTS", r"make \1 dotted"),
        (r"(?:colou?r|paint|dye|tint|recolou?r)(?= (?:the|it) )", "make"),
        (r"(?:put|place|draw|include|paint|introduce)(?= an? )", "add"),
        (r"(?:enlarge|grow|magnify) (the .+|it)", r"make \1 large"),
        (r"(?:shrink|reduce) (the .+|it)", r"make \1 small"),
        (
            r"(?:replace|substitute|swap|switch|exchange) (the .+?|it) (?:by|for|with)(?= an? )",
            r"replace \1 with",
        ),
        (r"(?:swap|switch|exchange) the (?:places|positions) of", "swap"),
        (r"(the \w+ and the \w+) (?:change|swap|switch|exchange|trade) (?:places|positions)", r"swap \1"),
        (r"from \w+(?= (?:to|into) )", ""),
        (r"(make (?:the )?\S+(?: \S+)?) (?:be|become|to be)", r"\1"),
        (r"^(the .+?|it) (?:should |must |shall |has to |needs to |to )?(?:be|becomes?)", r"make \1"),
        (r"(?:into|onto) the(?= (?:picture|image|scene|drawing))", "to the"),
        (r"(?:one|1)(?= (?:\w+ ){0,3}SHAPE)", "a"),
        (r"(make (?:the \w+|it)) in(?= COLOUR(?: |$))", r"\1"),
        (r"((?:turn|change|replace|swap) the \w+ (?:to|into|with|by|for))(?= SHAPE(?: |$))", r"\1 a"),
        (r"(remove|swap|make|turn|change|replace)(?= (?:(?:COLOUR|small|large) )?NOUN(?: |$))", r"\1 the"),
        (r"(the (?:\w+ )?)one", r"\1thing"),
        (r"plus(?= (?:an?|one) )", "and"),
        (r"(?:and )?then", "and"),
    ),
    near={
        "grey": ("white", "black"),
        "gray": ("white", "black"),
        "silver": ("white",),
        "pink": ("red", "purple"),
        "brown": ("orange", "red"),
        "cyan": ("blue", "green"),
        "turquoise": ("blue", "green"),
        "teal": ("green", "blue"),
        "magenta": ("purple", "red"),
        "lime": ("green", "yellow"),
        "beige": ("white", "yellow"),
        "medium": ("small", "large"),
        "rectangle": ("square",),
        "oval": ("circle",),
        "ellipse": ("circle",),
        "hexagon": ("circle", "flower"),
        "pentagon": ("star", "diamond"),
        "arrow": ("triangle", "cross"),
        "sun": ("circle", "star", "flower"),
        "checked": ("striped", "dotted"),
        "checkered": ("striped", "dotted"),
        "dot": ("dotted", "circle"),
        "move": ("swap", "add"),
        "between": ("left of", "above"),
    },
    groups={
        "shapes": SHAPES,
        "colours": tuple(COLOURS),
        "sizes": tuple(SIZES),
        "textures": TEXTURES,
        "places": (*RELATIONS, *CONVERSE),
        "verbs": ("make", "turn", "change", "replace", "add", "remove", "swap"),
        "ground": ("on", "background"),
        "others": ("it", "thing", "and", "with", "in", "into", "that", "is"),
    },
)

# --------------------------------------------------------------------------- the emoji world

_TONE = "medium[ -]light|medium[ -]dark|light|medium|dark"
EMOJI_TABLE = Table(
    synonyms=_one_word(
        {
            "grey": "gray",
            "noto": "google android",
            "twemoji": "twitter",
            "background": "backdrop backround bg",
            "woman": "lady",
            "man": "guy",
            "purple": "violet",
        }
    ),
    phrases=_phrases(
        dict(TONE=_TONE, PERSON="person|man|woman|child|boy|girl"),
        (r"(?:please|can you|could you|thanks|thank you)", ""),
        (r"^(?:(?:an?|the) )?(?:emoji|picture|image|drawing) of", ""),
        (r"^(?:an?|the)(?! button)", ""),
        (r"^(?:an? )?(TONE)[ -]skin(?:ned)? (?!tone)(.+?)(?= in \w+ style| on |$)", r"\2: \1 skin tone"),
        (r"(?:against|in front of)(?= (?:(?:an?|the) )?\w+ (?:background|backdrop))", "on"),
        (
            r"(?:change|make|turn) the skin(?: colou?r| tone)?(?: to)? (TONE)(?:er)?",
            r"change the skin tone to \1",
        ),
        (r"(?:make|turn) (?:him|her|it|the PERSON)(?: into)?(?= an? PERSON$)", "make them"),
        (r"(?:make|let) (?:him|her|it)(?= face | bald)", "make them"),
        (r"give (?:him|her|it)", "give them"),
        (r"(?:colou?r|paint)(?= the )", "make"),
        (r"(?:delete|erase)", "remove"),
    ),
    near={"happy": ("smiling", "grinning"), "sad": ("crying", "frowning"), "angry": ("pouting", "angry")},
    groups={
        "styles": ("noto", "twemoji"),
        "skin tones": ("light", "medium-light", "medium", "medium-dark", "dark"),
        "people": ("person", "man", "woman", "child", "boy", "girl"),
        "grounds": tuple(COLOURS),
        "verbs": ("make", "change", "give", "set", "redraw"),
    },
)

NO_TABLE = Table({}, (), {}, {})


def table_of(known: Collection[str]) -> Table:
    """The table of the world whose words these are; an empty one for words of no world of ours."""
    return (
        SHAPES_TABLE
        if {"crescent", "striped"} <= set(known)
        else EMOJI_TABLE
        if "twemoji" in known
        else NO_TABLE
    )


# --------------------------------------------------------------------------- what was typed

MOST_WORDS = 100  # of a text in which patterns are looked for; no model of ours reads as many
_WEIGHT = re.compile(r"\(([^()]*?):\s*[-+]?[\d.]+\s*\)")  # as in "a (red:1.3) star"
_ADDED = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE)  # of other programs: a file to load
_QUOTES = str.maketrans(
    {
        "‘": "'",
        "’": "'",
        "‛": "'",
        "´": "'",
        "`": "'",
        "“": '"',
        "”": '"',
        "„": '"',
        "«": '"',
        "»": '"',
        "–": "-",
        "—": "-",
        "‐": "-",
        "‑": "-",
        "…": ".",
        "\ufeff": " ",
        "\u200b": " ",
        "\u2060": " ",
        "\xad": "",
    }
)
_VERBS = "make|turn|change|replace|add|remove|delete|erase|swap|switch|put|paint|colou?r|draw|get|take"


def understood(text: str, known: Collection[str] = WORDS) -> str:
    """A text in the world's own words, as far as they are meant by it; every other word stays as it was
    typed, in lower case.

    known: the words (and marks) that the reading model has; none of them is replaced, and marks that it lacks
    are dropped. What is in the world's words already is left as it is.
    """
    return _understood(text, frozenset(known))


@functools.lru_cache(4096)
def _understood(text: str, known: frozenset[str]) -> str:
    table = table_of(known)
    text = _ADDED.sub(" ", unicodedata.normalize("NFC", text).translate(_QUOTES))
    text = _WEIGHT.sub(r"\1", text.lower())
    text = re.sub(rf"[.;!]\s+(?=(?:{_VERBS})\b)", " and ", text.strip())  # two sentences are two wishes
    text = text.rstrip(".!?" + string.whitespace)
    if table is SHAPES_TABLE:
        text = re.sub(r"(\w)'s\b", r"\1", re.sub(r"\b(it|that|there)'s\b", r"\1 is", text))
    if "and" in known and "&" not in known:
        text = re.sub(r"&|\s\+\s", " and ", text)
    said = " ".join(re.sub(r"[^\w\s]|_", lambda mark: mark[0] if mark[0] in known else " ", text).split())
    if said.count(" ") >= MOST_WORDS:
        return said
    for _ in range(3):  # again for what a pattern made of it
        typed = said
        for pattern, becomes in table.phrases:
            said, times = pattern.subn(becomes, said)
            said = " ".join(said.split()) if times else said
        said = " ".join(word if word in known else _meant(word, table, known) for word in said.split())
        if said == typed:
            break
    if table is not SHAPES_TABLE:
        return said
    return re.sub(r"\ban? (\w+)", lambda found: with_article(found[1]), said)


def _meant(word: str, table: Table, known: frozenset[str]) -> str:
    """What a word means that the model lacks: by the table, or as the plural of a word that it has."""
    if word in table.synonyms:
        return table.synonyms[word]
    shapes = table.groups.get("shapes", ())
    for ending, one in (("s", ""), ("es", ""), ("ies", "y")):
        single = word.removesuffix(ending) + one
        if word.endswith(ending) and table.synonyms.get(single, single) in shapes:
            return table.synonyms.get(single, single)
    return word


def plainly(text: str, known: Collection[str] = WORDS, names: Collection[str] = ()) -> str:
    """A caption in the words and the order of worlds.shapes.caption, for a model that was trained on these
    alone; what is no caption, or would need a word that is not among `known`, stays as it was typed.

    Where a text does not say how two things stand, the first stands left of the second: such a model met two
    things only with a place. Articles become "a", and "plain" is left out. A word of the model's own ("zwx",
    and those of `names`) goes with the shape behind it, or is a thing itself: "on white, a zwx star" is read
    as "a zwx star on a white background".
    """
    put = plain_caption(text, known, names)
    return text if put is None else put


def plain_caption(text: str, known: Collection[str] = WORDS, names: Collection[str] = ()) -> str | None:
    """What `plainly` makes of a caption; None for a text that it leaves as it is."""
    known = frozenset(known)
    if table_of(known) is not SHAPES_TABLE:
        return None
    own = (known - frozenset(WORDS)) | frozenset(names) | (known & frozenset(RARE_WORDS))
    said, things = _with_shapes_for(own, understood(text, known | own))
    put = _plainly(said) if set(said.split()) <= set(WORDS) else ""
    for shape, (before, behind) in things.items():
        if at := re.search(rf"\ban? ((?:(?:{_LOOK}) )*){shape}\b", put):
            put = put[: at.start()] + with_article(*before, *at[1].split(), *behind) + put[at.end() :]
    return put if put and set(put.split()) <= known | own else None


def _with_shapes_for(
    own: Collection[str], said: str
) -> tuple[str, dict[str, tuple[tuple[str, ...], tuple[str, ...]]]]:
    """The text with a stand-in for every thing that has a word of the model's own: "zwx red star" becomes
    "red flower", a shape that the text does not name.

    Also gives, for each stand-in, the words that stood before and behind its looks: ("zwx",), ("star",)."""
    if own.isdisjoint(said.split()):
        return said, {}
    words, things = "|".join(map(re.escape, own)), {}
    spare = [shape for shape in SHAPES if shape not in said.split()]

    def in_our_words(found: re.Match[str]) -> str:
        parts = found[0].split()
        if own.isdisjoint(parts) or not spare:
            return found[0]
        looks = [word for word in parts if re.fullmatch(_LOOK, word)]
        first = parts.index(looks[0]) if looks else 0
        shape = spare.pop()
        things[shape] = tuple(parts[:first]), tuple(word for word in parts[first:] if word not in looks)
        return " ".join((*looks, shape))

    return re.sub(rf"\b(?:(?:{words}|{_LOOK}) )*(?:{words}|{_SHAPE})\b", in_our_words, said), things


@functools.lru_cache(4096)
def _plainly(text: str) -> str:
    """The plain caption; "" for what is none."""
    try:
        asked = wanted(text)
    except ValueError:
        return ""
    things = []
    for k in (1, 2):
        looks = [asked.get(f"{kind}_{k}", "") for kind in ("size", "texture", "colour", "shape")]
        if looks[-1] not in ("none", ""):
            things.append(with_article(*(look for look in looks if look not in ("plain", ""))))
    if not things:
        return ""
    caption = f" {asked.get('relation', 'left of')} ".join(things)
    ground = asked.get("background")
    return f"{caption} {on_background(ground)}" if ground else caption


def adds_a_place(put: str, text: str) -> bool:
    """Whether a plain caption says how two things stand, and the text that it was made of does not."""
    said = understood(text)
    return any(f" {how} " in put for how in RELATIONS) and not re.search(rf"\b(?:{_RELATION})\b", said)


def nearest(word: str, known: Collection[str] = WORDS, n: int = 3) -> tuple[str, ...]:
    """Up to n words of the world that come nearest to one that it does not have: in meaning if that is known,
    else in spelling.

    Only words that name something are offered, never the rare ones that wait for a meaning.
    """
    table, word = table_of(known), word.lower()
    said = {
        part: part for group in table.groups.values() for part in group if set(part.split()) <= set(known)
    }
    alike = 0.7 if len(word) > 4 else 0.65 if len(word) > 2 else 1.0  # "no" is spelt like much
    near = table.near.get(word) or [
        (said | table.synonyms)[w]
        for w in difflib.get_close_matches(word, {**table.synonyms, **said}, 2 * n, alike)
    ]
    return tuple(w for w in dict.fromkeys(near) if w in said and w not in RARE_WORDS)[:n]


def groups(known: Collection[str] = WORDS) -> dict[str, tuple[str, ...]]:
    """The words that a model knows, by what they name: {"shapes": ("circle", …), …}; for messages. "Right of"
    and "below" are put as "left of" and "above", so they count as known where these are.
    """
    found = {
        name: tuple(word for word in words if set(CONVERSE.get(word, word).split()) <= set(known))
        for name, words in table_of(known).groups.items()
    }
    return {name: words for name, words in found.items() if words}


def advice(word: str, known: Collection[str] = WORDS) -> str:
    """What to say of a word that a model lacks: the nearest of its words and their group, or its groups."""
    if word in LATER and table_of(known) is SHAPES_TABLE:
        plain = '"a star above a ring", "make the star blue"'
        return f'this model does not read "{word}" here; say it as in {plain}'
    near, has = nearest(word, known), groups(known)
    if not near:
        listed = "; ".join(f"{name}: {', '.join(words)}" for name, words in has.items())
        return f"the known words are: {listed}" if listed else "no known word is near it"
    beside = {name: words for name, words in has.items() if near[0] in words}
    more = "; ".join(f"{name}: {', '.join(words)}" for name, words in beside.items())
    return f"the nearest known words are: {', '.join(near)}" + (f" ({more})" if more else "")


# --------------------------------------------------------------------------- what a caption asks for

_COLOUR, _RELATION, _SHAPE = "|".join(COLOURS), "|".join((*RELATIONS, *CONVERSE)), "|".join(SHAPES)
_LOOK, _A = "|".join((*SIZES, *TEXTURES, *COLOURS)), r"(?:(?:an?|the) )"
_GROUNDS = (  # how a text says what a picture stands on
    rf"^{_A}?({_COLOUR}) background(?: with| and)?(?= )",
    rf"(?:and )?{_A}?background (?:that )?is ({_COLOUR})\b",
    rf"\b(?:on|with|in) {_A}?({_COLOUR}) background\b",
    rf"\bon {_A}?background that is ({_COLOUR})\b",
    rf"\bon ({_COLOUR})\b",
    rf"(?:{_A}|\b)({_COLOUR}) background\b",
)
_TWO = (  # where a text with two things names them: (one, how, other), which group is which
    (rf"(.+) (?:and|with) ({_RELATION}) it (?:is )?(.+)", (3, 2, 1)),
    (rf"(.+) (?:and|with) ({_A}.+?) (?:that )?(?:is )?({_RELATION}) it", (2, 3, 1)),
    (rf"(.+?) (?:and|with) (.+?) (?:that )?(?:is )?({_RELATION}) it", (2, 3, 1)),
    (rf"({_RELATION}) (.+) is ({_A}.+)", (3, 1, 2)),
    (rf"({_RELATION}) (.+) is (.+)", (3, 1, 2)),
    (rf"(.+?) (?:that )?(?:is )?({_RELATION}) (.+)", (1, 2, 3)),
)


def wanted(text: str) -> dict[str, str]:
    """The attributes that a caption names, keyed as worlds.shapes.ATTRIBUTES. A thing without a texture word
    is plain.

    The left or upper thing is the first, whichever the text names first; of two things without a place ("a
    star and a ring") it is the first that is named, and "relation" is missing. Raises ValueError for a text
    that is no caption of this world; the empty text asks for nothing.
    """
    said, text = understood(text), " ".join(text.split())[:200]  # the second for messages
    if not said:
        return {}
    if said.count(" ") >= MOST_WORDS:
        raise ValueError(f"prompt: has more than {MOST_WORDS} words; shorten it")
    found: dict[str, str] = {}
    for pattern in _GROUNDS:
        if at := re.search(pattern, said):
            found["background"] = at[1]
            said = " ".join((said[: at.start()] + " " + said[at.end() :]).split())
            said = re.sub(r"^(?:and|with) | (?:and|with)$", "", said)
            break
    if re.search(r"\bbackground\b|\bon\b", said):
        raise ValueError(f'prompt: "{text}" ends in no background; as in "… on a blue background"')
    names = re.findall(rf"\b(?:{_SHAPE})\b", said)
    if len(names) > 2:
        raise ValueError(f'prompt: "{text}" names {len(names)} things; this world shows one or two')
    first, relation, second = _two_things(said, text) if len(names) == 2 else (said, "none", "")
    if relation in CONVERSE:
        first, relation, second = second, CONVERSE[relation], first
    found |= {"count": "two" if second else "one"} | ({"relation": relation} if relation else {})
    for k, phrase in ((1, first), (2, second)):
        found |= (
            {f"{name}_{k}": value for name, value in thing(phrase, text).items()}
            if phrase
            else {f"{name}_{k}": "none" for name in ("shape", "colour", "size", "texture")}
        )
    return found


def _two_things(said: str, text: str) -> tuple[str, str, str]:
    """(one, how it stands to the other, the other); "" for how where the text does not say."""
    for pattern, (one, how, other) in _TWO:
        if at := re.fullmatch(pattern, said):
            return at[one], at[how], at[other]
    for article in (_A, ""):
        if at := re.fullmatch(rf"(.*\b(?:{_SHAPE})\b.*?) (?:and|with) ({article}.*\b(?:{_SHAPE})\b.*)", said):
            return at[1], "", at[2]
    if at := re.fullmatch(rf"(.*\b(?:{_SHAPE})) ({_A}.*\b(?:{_SHAPE})\b.*)", said):  # "a star, a ring"
        return at[1], "", at[2]
    raise ValueError(
        f'prompt: "{text}" names two things and not how they stand; as in "a star left of a ring"'
    )


def thing(phrase: str, text: str) -> dict[str, str]:
    """What "a small striped red star" or "star that is red and small" names."""
    found: dict[str, str] = {}
    kinds = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES}
    for word in phrase.split():
        kind = next((name for name, values in kinds.items() if word in values), None)
        if kind is None and word not in ("a", "an", "the", "that", "is", "in", "and"):
            raise ValueError(f'prompt: "{word}" in "{text}" names no property of a thing')
        if kind is not None and found.setdefault(kind, word) != word:
            raise ValueError(f'prompt: "{text}" names two {kind}s of one thing, {found[kind]} and {word}')
    if "shape" not in found:
        raise ValueError(f'prompt: "{phrase}" in "{text}" names no shape; known: {", ".join(SHAPES)}')
    return {"texture": "plain"} | found


def fulfils(text: str, seen: dict[str, str]) -> bool:
    """Whether a picture in which these attributes are seen (worlds.shapes.attributes, or what a reader reads)
    is what the text asks for.
    """
    asked = wanted(text)
    if asked.get("count") == "two" and "relation" not in asked:
        other = {name: asked.get(_turned(name)) for name in map(_turned, asked)}
        return asked.items() <= seen.items() or other.items() <= seen.items()
    return asked.items() <= seen.items()


def _turned(name: str) -> str:
    """The same attribute of the other thing."""
    return name[:-1] + {"1": "2", "2": "1"}[name[-1]] if name[-2:] in ("_1", "_2") else name
