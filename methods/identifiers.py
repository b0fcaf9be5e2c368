"""Rare words: names that a text-to-picture model has no meaning for yet (DreamBooth, arXiv:2208.12242v2, Sec. 3.2).

The paper looks rare *tokens* up in the vocabulary and turns them back into letters: a word made of random letters would fall into common
pieces, and a common word has a meaning that must be fought. A good identifier is one token, short, and comes back as it was written.
The paper's range of numbers (5000 … 10000) is of T5's vocabulary. CLIP's are in the order of their merges, so that rare means *high*.
"""
from __future__ import annotations

import re

from nets.tokenizer import ClipTokenizer, Tokenizer, WordTokenizer

RAREST = 9000        # of CLIP's tokens: those that were merged last
LETTERS = 3          # as the paper: at most three characters


def rare_identifiers(tokenizer: Tokenizer, used: frozenset[str] | None = None) -> list[str]:
    """Words for things that have no name, the rarest first.

    used: for a word tokenizer, the words that captions use; a list of its own words that are never used comes back. For CLIP's, words of
    one token that reads back as itself, at most three letters long. Raises ValueError for a tokenizer that is neither, or has none.
    """
    if isinstance(tokenizer, WordTokenizer):
        from worlds.scene import RARE_WORDS, WORDS
        used = frozenset(WORDS) - frozenset(RARE_WORDS) if used is None else used
        found = [word for word in tokenizer.words if word not in used]
    elif isinstance(tokenizer, ClipTokenizer):
        top = tokenizer.vocab_size - 2                                     # start and end come last
        found = [text for i in reversed(range(top - RAREST, top)) if is_rare(tokenizer, i, text := tokenizer.decode([i]))]
    else:
        raise ValueError(f"identifier: no way is known to find a rare word for {type(tokenizer).__name__}; give one")
    if not found:
        raise ValueError("identifier: this vocabulary has no word to spare; give one")
    return found


def is_rare(tokenizer: Tokenizer, token: int, text: str) -> bool:
    """Whether a token reads as a short word and that word as the one token. # Sec. 3.2"""
    return re.fullmatch(rf"[a-z]{{2,{LETTERS}}}", text) is not None and tokens_of(tokenizer, text) == [token]


def tokens_of(tokenizer: Tokenizer, word: str) -> list[int]:
    """The tokens of a word alone."""
    return [token for piece in tokenizer.pieces(word) for token in piece]


def common(tokenizer: Tokenizer, word: str) -> str | None:
    """Why a word is a poor identifier, None if it is a good one. Raises ValueError (UnknownWord) for one that cannot be read."""
    tokens = tokens_of(tokenizer, word)
    if len(tokens) > 1:
        return f'"{word}" falls into {len(tokens)} tokens, and common ones learn it badly'
    if isinstance(tokenizer, ClipTokenizer):
        return None if tokens[0] >= tokenizer.vocab_size - 2 - RAREST else f'"{word}" is a common word with a meaning of its own'
    return None if word in rare_identifiers(tokenizer) else f'"{word}" is a word that captions use'
