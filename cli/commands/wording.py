"""What the commands share about texts: notes on what a model may not read as it is meant."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from palimpsest.arguments import Caution
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.weights.judges import load_reader
from palimpsest.weights.model import Model
from palimpsest.worlds.patterns import absent, remark, things, world_of
from palimpsest.worlds.scene import WORDS
from palimpsest.worlds.words import adds_a_place

WEIGHT = re.compile(r"\([^()]*:\s*[-+]?[\d.]+\s*\)|\(\(.*\)\)|\[\[.*\]\]")  # as other programs weigh words
ADDED = re.compile(r"<(?:lora|lyco|hypernet):[^>]*>")
SURE = 0.9  # probability from which on the reader is believed


def note_wording(model: Model, texts: Mapping[str, str | None], *, instructs: bool = False) -> None:
    """Warn (Caution) of brackets that weigh nothing here, and of texts unlike those that a model of ours was
    trained on.

    texts: argument -> its text, None where it was not given. instructs: they say what to change."""
    tokenizer = model.tokenizer
    for argument, text in texts.items():
        for said in _notes(tokenizer, text, instructs) if text and tokenizer is not None else ():
            warnings.warn(f"{argument}: {said}", Caution, stacklevel=2)


def _notes(tokenizer: object, text: str, instructs: bool) -> list[str]:
    words = tokenizer.words if isinstance(tokenizer, WordTokenizer) else []
    if words and not _reads(tokenizer, text):
        return []  # it will be refused, which says more
    notes, how = [], "left out" if world_of(words) else "read letter by letter"
    if found := ADDED.search(text):
        notes.append(f'"{found[0]}" loads nothing here and is {how}; give --lora FILE:SCALE')
    if found := WEIGHT.search(text):
        notes.append(
            f'the weight in "{found[0]}" is {how}: brackets weigh nothing here; '
            "`palimpsest prompt-to-prompt --weight` makes a word count more or less"
        )
    if words and adds_a_place(put := tokenizer.put(text), text):
        notes.append(f'"{text}" does not say which thing is left or above, and is read as "{put}"')
    own = world_of(words) == "shapes" and tokenizer.whole is None and not set(words) <= set(WORDS)
    if own and not instructs:
        return notes  # its owner's captions, from which it learned, may be of any kind
    return [*notes, *[said for said in [remark(text, words, instructs=instructs)] if said]]


def _reads(tokenizer: WordTokenizer, text: str) -> bool:
    try:
        tokenizer([text])
    except ValueError:
        return False
    return True


def note_absent(model: Model, picture: Tensor, instruction: str) -> None:
    """Warn (Caution) of an instruction for a thing that is not in the picture (1, 3, y, x), as far as the
    reader of the shapes world can tell."""
    words = model.tokenizer.words if isinstance(model.tokenizer, WordTokenizer) else []
    y, x = picture.shape[-2:]
    if world_of(words) != "shapes" or max(y, x) > 1.5 * min(y, x):
        return
    reader = load_reader()
    side = reader.net.size
    seen = F.interpolate(picture.float().cpu(), (side, side), mode="bilinear", antialias=True)
    sure = all(reader.certainty(seen)[f"{kind}_{k}"] >= SURE for kind in ("shape", "colour") for k in (1, 2))
    found = reader.read(seen)[0]
    if sure and (missing := absent(instruction, found)):
        warnings.warn(
            f"instruction: the picture seems to have no {missing}, but {things(found)}; what is changed may "
            "be another thing",
            Caution,
            stacklevel=2,
        )
