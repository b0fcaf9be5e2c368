"""The tokenizer of a model that was trained on a closed list of words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.worlds.words import advice, plainly, understood


def word_tokenizer(words: Sequence[str], length: int) -> WordTokenizer:
    """A tokenizer of these words, and of what else people say for them (worlds/words.py); rows of `length`
    tokens."""
    known = frozenset(words)
    return WordTokenizer(
        list(words),
        length,
        partial(understood, known=known),
        partial(advice, known=known),
        partial(plainly, known=known),
    )
