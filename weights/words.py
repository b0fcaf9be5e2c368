"""The tokenizer of a model that was trained on a closed list of words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.worlds.words import advice, plain_caption, understood


def word_tokenizer(words: Sequence[str], length: int, *, free: bool = True) -> WordTokenizer:
    """A tokenizer of these words, and of what else people say for them (worlds/words.py); rows of `length`
    tokens.

    free: whether the model is asked in the words as they are typed, since it saw free wordings in training,
    or reads instructions; False: by the plain caption that means the same."""
    known = frozenset(words)
    return WordTokenizer(
        list(words),
        length,
        partial(understood, known=known),
        partial(advice, known=known),
        None if free else partial(plain_caption, known=known),
    )
