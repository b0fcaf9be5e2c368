"""A word for something that has none: the rare identifiers of DreamBooth (Ruiz et al.,
arXiv:2208.12242v2, Sec. 3.2).

A word with a meaning brings its meaning along; a random string falls apart into letters that have a
meaning, too. So look for rare tokens of the tokenizer and turn them back into text:

    1  candidates: tokens that are short, of letters, and rare
    2  keep those that come back: encode(decode(token)) = token
    3  draw one

# unstated: for another tokenizer than T5's. The paper takes ids 5000 … 10000 of T5-XXL, at most three
letters. CLIP's ids are the ranks in which its pairs were merged, so the same range holds everyday
abbreviations; there the rare ones are the late ones.
"""

from __future__ import annotations

import random
import warnings

from palimpsest.arguments import ArgumentError, Caution
from palimpsest.nets.tokenizer import ClipTokenizer, Tokenizer, UnknownWord, WordTokenizer, split_words
from palimpsest.weights.model import Model
from palimpsest.worlds.scene import RARE_WORDS

RARE_FROM = 40000  # of CLIP's 49,408 tokens
LONGEST = 3  # letters of a token, and tokens of an identifier  # Sec. 3.2
MEANINGFUL = {"sks", "nsa", "kkk", "isis"}  # ours: rare tokens with a meaning ("sks" is a rifle)


def rare_words(tokenizer: Tokenizer) -> list[str]:
    """Every identifier that the search would consider, in the tokenizer's order.

    Raises ArgumentError for a tokenizer that it does not know.
    """
    if isinstance(tokenizer, WordTokenizer):
        return [word for word in tokenizer.words if word in RARE_WORDS]
    if not isinstance(tokenizer, ClipTokenizer):
        raise ArgumentError(
            "identifier", f"there is no search over a {type(tokenizer).__name__}; name a rare word yourself"
        )
    late = [tokenizer.strings[i] for i in range(RARE_FROM, tokenizer.start)]
    words = [string.removesuffix("</w>") for string in late if string.endswith("</w>")]
    return [
        word
        for word in words
        if len(word) <= LONGEST
        and word.isascii()
        and word.isalpha()
        and word not in MEANINGFUL
        and comes_back(tokenizer, word)
    ]


def mentions(text: str, identifier: str) -> bool:
    """Whether a text has the identifier in it, as whole words; capitals do not count."""
    words, wanted = split_words(text), split_words(identifier)
    return any(words[k : k + len(wanted)] == wanted for k in range(len(words) - len(wanted) + 1))


def comes_back(tokenizer: Tokenizer, word: str) -> bool:
    """Whether a word is one token, and that token is this word."""
    # Sec. 3.2: the token-to-text map, inverted
    tokens = [token for piece in tokenizer.pieces(word) for token in piece]
    return len(tokens) == 1 and tokenizer.decode(tokens) == word


def find_identifier(tokenizer: Tokenizer, seed: int = 0) -> str:
    """One rare word. Raises ArgumentError where the tokenizer has none."""
    words = rare_words(tokenizer)  # Sec. 3.2: rare tokens first, then their text
    if not words:
        raise ArgumentError(
            "identifier", "this model's tokenizer has no rare word to spare; name one yourself"
        )
    if isinstance(tokenizer, WordTokenizer) and seed == 0:
        return words[0]
    return random.Random(seed).choice(words)


def check_identifier(model: Model, identifier: str, seed: int = 0) -> str:
    """The identifier to use: the one given, or found for "auto".

    Warns (Caution) of a common word, and of one that falls apart. Raises ArgumentError for a model without
    text, an empty identifier, and a word that the model's tokenizer does not have.
    """
    if model.text is None or model.tokenizer is None:
        raise ArgumentError(
            "model",
            f"{model.name} reads no text, so no word of it can come to mean a subject; choose a "
            "text-to-image model",
        )
    if identifier == "auto":
        return find_identifier(model.tokenizer, seed)
    if not identifier.split():
        raise ArgumentError("identifier", "is empty; name a rare word, or auto")
    try:
        tokens = [token for piece in model.tokenizer.pieces(identifier) for token in piece]
    except UnknownWord as error:
        free = ", ".join(rare_words(model.tokenizer)) or "none"
        raise ArgumentError(
            "identifier", f'the model does not know the word "{error.word}"; its rare words are: {free}'
        ) from None
    warn_of_meaning(model.tokenizer, identifier, len(tokens))
    return identifier


def warn_of_meaning(tokenizer: Tokenizer, identifier: str, tokens: int) -> None:
    """Warn (Caution) of an identifier of too many tokens, or with a common word in it."""
    if tokens > LONGEST:  # Sec. 3.2: k = 1 … 3
        text = f"{identifier!r} falls apart into {tokens} tokens, each with a meaning of its own"
    elif found := common_words(tokenizer, identifier):
        where = "" if found[0] == identifier.lower() else f" in {identifier!r}"
        text = (
            f"{found[0]!r}{where} is a common word, whose meaning would be mixed into the subject's and lost"
        )
    else:
        return
    warnings.warn(f"identifier: {text}; identifier=auto finds a rare one", Caution, stacklevel=4)


def common_words(tokenizer: Tokenizer, identifier: str) -> list[str]:
    """The words of an identifier, in lower case, that have a meaning, as far as the tokenizer tells."""
    if isinstance(tokenizer, WordTokenizer):
        return [word for word in identifier.lower().split() if word not in RARE_WORDS]
    words = [(tokenizer.decode(piece).strip().lower(), piece) for piece in tokenizer.pieces(identifier)]
    return [
        word
        for word, piece in words
        if word in MEANINGFUL or len(piece) == 1 and piece[0] < RARE_FROM and word.isalpha()
    ]
