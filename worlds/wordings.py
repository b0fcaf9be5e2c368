"""Free wordings: a scene said as different people would say it, for a net that is to understand them all.

    worded(scene, rng)       # "on a blue background a star that is red and small"
    typed(text, rng)         # as it is typed: "On a BLUE backdrop, a star which is crimson and tiny."
    held_out_wordings()      # 200 plain captions, each with a wording in a form kept out of training

A wording is a choice for each of four things: where the background is told, how two things are told apart,
where the looks of a thing stand, which article it takes. One in six of the choices taken together is held out
of training, though each by itself is not. `worded` speaks in the world's own words (worlds/scene.WORDS),
`typed` in whatever worlds/words.py understands.
"""

from __future__ import annotations

import random
import zlib
from collections import defaultdict
from typing import NamedTuple

from palimpsest.worlds.scene import CONVERSE, Scene, Thing, on_background, with_article
from palimpsest.worlds.shapes import caption, sample_scene
from palimpsest.worlds.words import SHAPES_TABLE

OPPOSITE = {held: said for said, held in CONVERSE.items()}  # "left of" -> "right of"

GROUNDS = {  # where the background is told
    "last": "{things} {on}",
    "short": "{things} on {colour}",
    "first": "{on} {things}",
    "with": "{things} with {ground}",
    "is": "{things} and the background is {colour}",
    "whole": "{ground} with {things}",
    "bare": "{things} {colour} background",
    "none": "{things}",
}
ORDERS = {  # how the first thing a and the second b are told apart: a {r} b, and so b {c} a
    "plain": "{a} {r} {b}",
    "converse": "{b} {c} {a}",
    "it": "{a} and {b} {c} it",
    "it, second first": "{b} and {a} {r} it",
    "with it": "{a} with {b} {c} it",
    "and under it": "{a} and {c} it {b}",
    "is": "{a} is {r} {b}",
    "is, converse": "{b} is {c} {a}",
    "front": "{r} {b} is {a}",
    "front, converse": "{c} {a} is {b}",
    "that": "{a} that is {r} {b}",
    "and": "{a} and {b}",
    "and, second first": "{b} and {a}",
}
LOOKS = ("before", "shuffled", "that is", "in")  # where a thing's looks stand
ARTICLES = ("a", "the", "")
MOST = 22  # words of a text: what the small models read


class Form(NamedTuple):
    """One way to put a caption: a key of GROUNDS, one of ORDERS ("one" for one thing), one of LOOKS, one of
    ARTICLES.
    """

    ground: str
    order: str
    looks: str
    article: str


def _possible(form: Form) -> bool:
    """Whether a text in this form means one thing only."""
    if form.order == "one":
        return True
    return form.looks != "that is" or form.article != "" and form.order != "that"


FORMS = {
    n: [
        f
        for f in (Form(g, o, k, a) for g in GROUNDS for o in orders for k in LOOKS for a in ARTICLES)
        if _possible(f)
    ]
    for n, orders in ((1, ("one",)), (2, tuple(ORDERS)))
}


def is_held_out_form(form: Form) -> bool:
    """Whether no training text is put so: one form in six, by a checksum of its name. Looks that are shuffled
    may fall into place, so they are held out together with those that stand there.
    """
    told = form._replace(looks="before" if form.looks == "shuffled" else form.looks)
    return zlib.crc32(" ".join(told).encode()) % 6 == 0


class Told(NamedTuple):
    """What of a scene is told: its sizes, its background, its colours, and "plain" where a thing is plain."""

    size: bool = True
    background: bool = True
    colour: bool = True
    plain: bool = False


def some_told(rng: random.Random) -> Told:
    """What a person tells: sizes two times in three, the background mostly, the colours nearly always."""
    return Told(rng.random() < 0.67, rng.random() < 0.88, rng.random() < 0.96, rng.random() < 0.15)


def some_form(things: int, told: Told, rng: random.Random, held_out: bool) -> Form:
    """A form for so many things that shows all its choices with what is told, held out of training or not."""
    while True:
        form = rng.choice(FORMS[things])
        if (form.ground == "none") == told.background or not told.colour and form.looks in ("in", "that is"):
            continue
        if is_held_out_form(form) == held_out:
            return form


def worded(scene: Scene, rng: random.Random, held_out: bool = False) -> str:
    """A scene in free words, at most MOST of them and all the world's own; held_out: in a form that is kept
    out of training, instead of one that is not.
    """
    return _worded(scene, some_told(rng), rng, held_out)


def _worded(scene: Scene, told: Told, rng: random.Random, held_out: bool) -> str:
    while True:
        text = put(scene, some_form(len(scene.things), told, rng, held_out), told, rng)
        if len(text.split()) <= MOST:
            return text


def put(scene: Scene, form: Form, told: Told, rng: random.Random) -> str:
    """A scene in a form; `rng` shuffles where the form leaves an order open."""
    parts = [_thing_in(thing, form, told, rng) for thing in scene.things]
    if len(parts) == 2:
        things = ORDERS[form.order].format(
            a=parts[0], b=parts[1], r=scene.relation, c=OPPOSITE[scene.relation]
        )
    else:
        things = parts[0]
    return GROUNDS[form.ground].format(
        things=things,
        on=on_background(scene.background),
        colour=scene.background,
        ground=with_article(scene.background, "background"),
    )


def _thing_in(thing: Thing, form: Form, told: Told, rng: random.Random) -> str:
    """A thing after its article, its looks before it, behind it or in another order."""
    texture = thing.texture if thing.texture != "plain" or told.plain else ""
    looks = [
        word
        for word in (thing.size if told.size else "", texture, thing.colour if told.colour else "")
        if word
    ]
    behind: list[str] = []
    if form.looks == "shuffled":
        rng.shuffle(looks)
    elif form.looks == "that is" and looks:
        rng.shuffle(looks)
        first = rng.randrange(len(looks))
        looks, behind = looks[:first], ["that is", " and ".join(looks[first:])]
    elif form.looks == "in" and told.colour:
        looks, behind = looks[:-1], [f"in {thing.colour}"]
    words = " ".join([*looks, thing.shape])
    return " ".join(
        [with_article(words) if form.article == "a" else f"{form.article} {words}".strip(), *behind]
    )


# --------------------------------------------------------------------------- as it is typed

_SELDOM = {"polka", "plus", "lined", "banded", "atop", "round", "flat", "uniform", "triangel", "hart", "wee"}
_SAID_FOR = defaultdict(list)  # word -> what else people type for it
for _other, _word in SHAPES_TABLE.synonyms.items():
    if _other not in _SELDOM and not _other.endswith("ish"):
        _SAID_FOR[_word].append(_other)
_PUT_FOR = (
    ("left of", "to the left of"),
    ("right of", "on the right of"),
    ("above", "on top of"),
    ("that is", "which is"),
    ("remove", "get rid of"),
    ("striped", "stripy"),
)


def typed(text: str, rng: random.Random, other: float = 0.35) -> str:
    """A text in the world's own words as somebody types it: each word that has synonyms is one of them with
    probability `other`; commas, capitals, a full stop, quotes and line breaks as they come.
    worlds.words.understood leads back to the text.
    """
    for plain, said in _PUT_FOR:
        if rng.random() < other / 2:
            text = text.replace(plain, said)
    words = [rng.choice(_SAID_FOR[w]) if w in _SAID_FOR and rng.random() < other else w for w in text.split()]
    words = [
        with_article(b)[: -len(b) - 1] if a in ("a", "an") else a for a, b in zip(words, [*words[1:], ""])
    ]
    for i in range(len(words) - 1):
        if rng.random() < 0.05:
            words[i] += rng.choice((",", ",", ",", " -", "\n"))
        if rng.random() < 0.01:
            words[i] = f"“{words[i]}”"
    line = " ".join(words)
    how = rng.random()
    line = line[0].upper() + line[1:] if how < 0.6 else line.upper() if how < 0.65 else line
    return rng.choice(("", "", "\ufeff", " ")) + line + rng.choice((".", ".", "", "", "!", " …", "\n"))


# --------------------------------------------------------------------------- what no training sees


class Wording(NamedTuple):
    """A plain caption, and the same asked for in other words."""

    plain: str
    text: str


BY_HAND = tuple(
    Wording(*row)
    for row in (
        ("a red star", "Red star."),
        ("a large blue circle on a white background", "A big blue ball, white background"),
        ("a red star on a blue background", "There is a red star on a blue backdrop."),
        ("a small green ring on a black background", "black background with a tiny green donut"),
        ("a striped orange heart on a white background", "An orange heart with stripes, on white"),
        ("a dotted purple square on a yellow background", "a polka dot purple box on yellow"),
        ("a large yellow star on a blue background", "a picture of a big golden star on a blue background"),
        ("a small white crescent on a black background", "A little white moon on black!"),
        ("a red heart on a white background", "Please show me a red love heart on a white background."),
        ("a large black cross on a white background", "a huge cross in black, the background is white"),
        ("an orange flower on a purple background", "ORANGE FLOWER ON PURPLE"),
        ("a blue diamond", "a diamond which is blue"),
        ("a small red triangle", "a triangle that's red and small"),
        ("a green circle on an orange background", "the circle is green and the background is orange"),
        ("a dotted white flower on a red background", "“a white flower with dots”\non red"),
        (
            "a large striped blue ring on a white background",
            "a stripy blue ring, quite large, against a white backdrop",
        ),
        ("a red square", "I want a red square please"),
        ("a purple circle on a white background", "on white: a violet disc"),
        ("a yellow heart on a black background", "a heart of yellow colour on a black background"),
        ("a small black star on a yellow background", "a yellow background and a mini star in black"),
        ("a red star left of a blue ring", "a blue ring to the right of a red star"),
        (
            "a red star above a blue ring on a white background",
            "A red star and a blue ring below it, on white.",
        ),
        (
            "a small green circle left of a large purple square on a white background",
            "On a white background: a little green circle, and a big purple box to its right.",
        ),
        (
            "a yellow star above a white crescent on a blue background",
            "the yellow star is over the white moon, on blue",
        ),
        (
            "a red heart left of a black cross on a white background",
            "a red heart and, to the right of it, a black cross. White background.",
        ),
        (
            "a blue circle above a red square on a yellow background",
            "on yellow, a red square with a blue circle on top of it",
        ),
        (
            "an orange triangle left of a green circle on a white background",
            "a green circle is right of an orange triangle, on white",
        ),
        (
            "a white flower above a green square on a blue background",
            "a white flower over a green square, blue background",
        ),
        (
            "a large red circle left of a small blue star",
            "A large red circle and a small blue star on its right",
        ),
        (
            "a black ring above a striped red heart on a white background",
            "a striped red heart underneath a black ring on a white background",
        ),
        (
            "a red circle left of a green triangle on a white background",
            "left of a green triangle there is a red circle, on white",
        ),
        (
            "a purple diamond above an orange square on a black background",
            "below a purple diamond is an orange box, on a black background",
        ),
        (
            "a dotted blue circle left of a white heart on a red background",
            "red background, with a blue circle with dots left of a white heart",
        ),
        (
            "a yellow cross left of a purple ring on a white background",
            "the yellow plus is on the left of the purple ring on white",
        ),
        (
            "a white star above a red crescent on a black background",
            "a white star on top of a red crescent moon on black",
        ),
        (
            "a green square left of a red diamond on a white background",
            "green square left of red diamond on white",
        ),
        (
            "a small orange circle above a large black triangle on a white background",
            "a tiny orange ball above a giant black triangle with a white background",
        ),
        (
            "a blue flower left of a yellow circle on a white background",
            "To the left of the yellow circle is a blue flower. White background.",
        ),
        (
            "a red star left of a blue ring on a white background",
            "a red star and a blue ring on a white background",
        ),
        (
            "a black heart above a purple star on a yellow background",
            "a purple star and a black heart above it, on a yellow backdrop",
        ),
    )
)


def held_out_wordings(n: int = 200, seed: int = 0) -> list[Wording]:
    """n wordings, BY_HAND first, the others of one thing and of two in turn, in forms that no training text
    has, and as they are typed.
    """
    rng, found = random.Random(f"held-out wordings {seed}"), list(BY_HAND[:n])
    while len(found) < n:
        scene, told = sample_scene(rng, things=1 + len(found) % 2), some_told(rng)._replace(colour=True)
        text = _worded(scene, told, rng, held_out=True)
        found.append(Wording(caption(scene, told.size, told.background), typed(text, rng)))
    return found
