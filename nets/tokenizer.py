"""Text to token numbers and back, and the question that editing asks: which tokens are this word?

Two tokenizers behind one protocol. `ClipTokenizer` is the byte-pair encoder of CLIP and so of Stable
Diffusion v1 ("Neural Machine Translation of Rare Words with Subword Units", arXiv:1508.07909v5, Algorithm
1, on bytes); its vocabulary, a public file, is in nets/vocabularies. `WordTokenizer` knows a closed list
of words, one token each, and may spell the others."""

from __future__ import annotations

import copy
import difflib
import functools
import gzip
import html
import importlib.util
import itertools
import re
import unicodedata
import warnings
import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

CLIP_PAIRS = Path(__file__).parent / "vocabularies" / "bpe_simple_vocab_16e6.txt.gz"  # as OpenAI published it


class UnknownWord(ValueError):
    """A word that a `WordTokenizer` does not have; `advice` says which come nearest."""

    def __init__(self, word: str, advice: str):
        super().__init__(f'unknown word "{word[:80]}" in the prompt; {advice}')
        self.word = word
        self.advice = advice

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.word, self.advice)  # so that it crosses between processes


class TextCut(UserWarning):
    """A text was longer than the model reads: it names the words that were left out."""


class Tokenizer(Protocol):
    """A text is cut into pieces (words, punctuation), and each piece into one or more tokens; a row is
    [start, tokens…, end, padding…]. A tokenizer says how to cut (`cut`); the rest is the same for all."""

    vocab_size: int  # tokens are 0 … vocab_size − 1
    length: int  # of a padded row
    start: int | None  # None: rows have no such token
    end: int | None
    pad: int
    truncate: bool  # whether a text that is too long is cut (True) or refused (False)

    taught: Mapping[str, list[int]] = MappingProxyType({})  # see `with_taught`

    @abstractmethod
    def cut(self, text: str) -> list[list[int]]:
        """The tokens of each piece of a text without taught words, in order."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of a row, padded or not: lower case, and with spaces where the tokenizer puts them."""

    def put(self, text: str) -> str:
        """A prompt in the form that the model was trained on: as typed, unless a tokenizer overrides this."""
        return text

    def pieces(self, text: str) -> list[list[int]]:
        """The tokens of each piece of the text, in order; a taught word is one piece. A prompt is to be put
        first: pieces(put(prompt))."""
        if not self.taught:
            return self.cut(text)
        text, found, done = clean_plain(text), [], 0
        for word in self.taught_in().finditer(text):
            found += [*self.cut(text[done : word.start()]), self.taught[word[0]]]
            done = word.end()
        return found + self.cut(text[done:])

    def taught_in(self) -> re.Pattern[str]:
        """A pattern of the taught words; the longest first: "<cat>" must not hide "<cat>_1"."""
        return re.compile("|".join(map(_whole_word, sorted(self.taught, key=len, reverse=True))))

    def between_taught(self, text: str) -> list[str]:
        """The parts of a text beside its taught words."""
        return self.taught_in().split(clean_plain(text)) if self.taught else [text]

    def with_taught(self, words: Mapping[str, Sequence[int]]) -> Tokenizer:
        """A copy that also knows words that a model learnt later, with their tokens: {"<cat>": [49408]}.

        They are found in upper and lower case, and never inside another word. Raises ValueError for a word
        without letters or tokens.
        """
        other = copy.copy(self)
        other.taught = {
            **self.taught,
            **{clean_plain(word).strip(): list(tokens) for word, tokens in words.items()},
        }
        if "" in other.taught or not all(other.taught.values()):
            raise ValueError("a taught word needs letters and at least one token")
        other.vocab_size = max(self.vocab_size, *(1 + max(tokens) for tokens in other.taught.values()), 0)
        return other

    def taught_strings(self) -> dict[int, str]:
        """What `decode` writes for tokens of taught words: the word for its first, and nothing after it."""
        return {
            token: "" if i else word for word, tokens in self.taught.items() for i, token in enumerate(tokens)
        }

    def encode(self, text: str) -> list[int]:
        """[start, tokens…, end], neither padded nor cut."""
        pieces = self.pieces(self.put(text))
        row = [self.start, *(token for piece in pieces for token in piece), self.end]
        return [token for token in row if token is not None]

    @property
    def room(self) -> int:
        """How many tokens of a text fit in a row."""
        return self.length - (self.start is not None) - (self.end is not None)

    def __call__(self, texts: list[str]) -> Tensor:
        """Rows (b length) of int64. Raises ValueError for a text of too many tokens; with `truncate`
        warns of it (TextCut).
        """
        if isinstance(texts, str):
            raise ValueError("texts must be a list of strings, not one string")
        return torch.tensor(list(map(self.row, texts)), dtype=torch.long).reshape(-1, self.length)

    def row(self, text: str) -> list[int]:
        """The tokens of one text, padded to `length`, or cut."""
        ids = self.encode(text)
        if (over := len(ids) - self.length) > 0:
            if not self.truncate:
                raise ValueError(
                    f"the prompt has {self.room + over} tokens, but at most {self.room} fit: shorten it"
                )
            warnings.warn(
                f"the prompt has {self.room + over} tokens and the model reads {self.room}; left out: "
                f"{self.left_out(text)}",
                TextCut,
                stacklevel=3,
            )
            ids = ids[: self.length] if self.end is None else [*ids[: self.length - 1], self.end]
        return ids + [self.pad] * (self.length - len(ids))

    def left_out(self, text: str, most: int = 200) -> str:
        """The words of a text for which a row has no room, the one that is cut through included; at most
        so many letters of them.
        """
        pieces = self.pieces(self.put(text))
        ends = itertools.accumulate(map(len, pieces))
        words = self.decode([token for piece, end in zip(pieces, ends) if end > self.room for token in piece])
        return (
            f'"{words}"'
            if len(words) <= most
            else f'"{words[:most].rstrip()}…" and {len(words) - most} letters more'
        )

    def positions(self, text: str, word: str) -> list[int]:
        """Where `word` (one piece or several) stands in the row of `text`: all positions of all its
        occurrences.

        Whole pieces are compared, after the tokenizer's cleaning: "hat" is in "A Hat, red" and not in
        "hats". Raises ValueError if the word is not there, so that an edit of a misspelt word is not an
        edit of nothing."""
        pieces, wanted = self.pieces(self.put(text)), self.pieces(word)
        first = [0 if self.start is None else 1]  # position of each piece's first token
        for piece in pieces:
            first.append(first[-1] + len(piece))
        found: set[int] = set()
        for p in range(len(pieces) - len(wanted) + 1):
            if wanted and pieces[p : p + len(wanted)] == wanted:
                found.update(range(first[p], first[p + len(wanted)]))
        found = {i for i in found if i < self.length - (self.end is not None)}  # the rest was cut
        if not found:
            read = "" if (put := self.put(text)) == text else f', which is read as "{put}"'
            raise ValueError(f'the word "{word}" is not in the prompt "{text}"{read}')
        return sorted(found)


class WordTokenizer(Tokenizer):
    """One token for each word of a closed list, and for each punctuation mark in it; lower case.

    words: in order of their tokens, which begin at 3 after <pad>, <start>, <end>. clean: what is done to a
    text or a part of it first. whole: what a whole prompt is replaced by before that, whole(prompt, names=the
    words that stand in it for taught ones), or None where it stays as it is; whole=None: every prompt stays.
    advice: what to say of a word that is not there (None: the words spelt most like it). A list with LETTERS
    in it can spell: a word that it lacks is one piece of a token per letter. Otherwise `encode` raises
    UnknownWord. Raises ValueError for a list with a word that could never be read or that stands there
    twice."""

    def __init__(
        self,
        words: list[str],
        length: int = 24,
        clean: Callable[[str], str] = str,
        advice: Callable[[str], str] | None = None,
        whole: Callable[..., str | None] | None = None,
    ):
        for word in words:
            if split_words(word) != [word] and word not in LETTERS:
                raise ValueError(f'words must be single lower-case words or punctuation marks, not "{word}"')
        if len(set(words)) < len(words):
            raise ValueError(f'words has "{max(words, key=words.count)}" twice')
        self.words, self.length, self.clean, self.whole = list(words), length, clean, whole
        self.advice = advice or self.spelt_like
        self.truncate = False
        self.pad, self.start, self.end = range(3)
        self.vocab_size = 3 + len(words)
        self.tokens = {word: 3 + i for i, word in enumerate(words)}

    def put(self, text: str) -> str:
        put = self.plain(text)
        return text if put is None else put

    def plain(self, text: str) -> str | None:
        """What `whole` makes of a prompt, taught words and all; None where it is read as it is typed."""
        if self.whole is None:
            return None
        if not self.taught:
            return self.whole(text)
        names = {  # plain words in place of "<cat>", which begin alike, for the article's sake
            word: f"{word[0] if word[0].isalpha() else 't'}taught{i}" for i, word in enumerate(self.taught)
        }
        named = self.taught_in().sub(lambda found: names[found[0]], clean_plain(text))
        put, words = (
            self.whole(named, names=list(names.values())),
            {name: word for word, name in names.items()},
        )
        return put and re.sub("|".join(map(_whole_word, words)), lambda found: words[found[0]], put)

    def cut(self, text: str) -> list[list[int]]:
        return [self.piece(word) for word in split_words(self.clean(text))]

    def token(self, word: str) -> int:
        if word not in self.tokens:
            raise UnknownWord(word, self.advice(word))
        return self.tokens[word]

    def spelt_like(self, word: str) -> str:
        """The words that look most like this one, else all of them."""
        near = difflib.get_close_matches(word, self.words, n=3, cutoff=0.6)
        return f"the {'nearest ' if near else ''}known words are: {', '.join(near or self.words)}"

    def piece(self, word: str) -> list[int]:
        if word in self.tokens or not self.tokens.keys() >= set(LETTERS):
            return [self.token(word)]
        signs = [c if f"+{c}" in self.tokens else "?" for c in word]
        return [self.tokens[f"{signs[0]}+"], *(self.tokens[f"+{c}"] for c in signs[1:])]

    def forgetting(self, words: Iterable[str]) -> WordTokenizer:
        """One that spells these words too, all tokens being the same: so a net gets to read spelling in
        training.
        """
        other = WordTokenizer(self.words, self.length, self.clean, self.advice, self.whole)
        other.tokens = {
            word: token for word, token in self.tokens.items() if word not in set(words) - set(LETTERS)
        }
        return other

    def decode(self, ids: Iterable[int]) -> str:
        strings = {3 + i: word for i, word in enumerate(self.words)} | self.taught_strings()
        text = " ".join(filter(None, (strings.get(int(i)) for i in ids)))
        return re.sub(r"(?<=[^ ])\+(?= |$)|\+? \+(?=[^ ])", "", text)  # "z+ +o +o" is "zoo"


LETTERS = tuple(
    sign for c in "abcdefghijklmnopqrstuvwxyz0123456789?" for sign in (f"{c}+", f"+{c}")
)  # a word's first, and the others


def split_words(text: str) -> list[str]:
    """Lower-case words and single punctuation marks: "A star, red" -> ["a", "star", ",", "red"]."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


class ClipTokenizer(Tokenizer):
    """The byte-pair encoder of CLIP: 49,408 tokens, rows of 77.

    path: bpe_simple_vocab_16e6.txt.gz, or the merges.txt of a model, which is the same list, or its pairs
    themselves; by default the file that is shipped. pad: None pads with the end token, as Stable
    Diffusion v1 was trained; 0 is what OpenAI's own `clip.tokenize` does. clean: `clean_plain`, as the
    tokenizer of the public Stable Diffusion pipelines, or `clean_openai`, as the paper's code; they
    differ on HTML entities and damaged text only. truncate: cut a long text to its first 75 tokens, with
    a warning that says which words are left out, or refuse it. Raises ValueError for a file that is not
    the vocabulary."""

    def __init__(
        self,
        path: str | Path | Sequence[tuple[str, str]] = CLIP_PAIRS,
        *,
        length: int = 77,
        pad: int | None = None,
        clean: Callable[[str], str] | None = None,
        truncate: bool = False,
    ):
        merges = read_merges(path) if isinstance(path, (str, Path)) else list(path)
        letters = list(byte_letters().values())
        vocabulary = [*letters, *(c + "</w>" for c in letters), *(a + b for a, b in merges), *SPECIAL]
        self.rank = {pair: i for i, pair in enumerate(merges)}
        self.tokens = {piece: i for i, piece in enumerate(vocabulary)}
        self.strings = vocabulary
        self.length = length
        self.truncate = truncate
        self.clean = clean_plain if clean is None else clean
        self.start, self.end = (self.tokens[s] for s in SPECIAL)
        self.pad = self.end if pad is None else pad
        self.vocab_size = len(vocabulary)

    def cut(self, text: str) -> list[list[int]]:
        return [self.piece(string) for string in split_clip(self.clean(text))]

    def piece(self, string: str) -> list[int]:
        """Byte-pair encoding of one piece: join the pair that was learnt earliest, until no pair was
        learnt.
        """
        if string in SPECIAL:
            return [self.tokens[string]]
        letter = byte_letters()
        parts = [letter[byte] for byte in string.encode("utf-8", errors="replace")]
        parts[-1] += "</w>"
        while pairs := [pair for pair in zip(parts, parts[1:]) if pair in self.rank]:
            parts = join(parts, min(pairs, key=self.rank.__getitem__))
        return [self.tokens[part] for part in parts]

    def decode(self, ids: Iterable[int]) -> str:
        letter = byte_letters()
        byte = {letter: byte for byte, letter in letter.items()}
        strings = dict(enumerate(self.strings))
        for token, word in self.taught_strings().items():
            strings[token] = word and "".join(letter[b] for b in word.encode("utf-8")) + "</w>"
        ids = [int(i) for i in ids]
        ids = ids[: ids.index(self.end)] if self.end in ids else ids  # what follows the end is padding
        text = "".join(strings.get(i, "") for i in ids if i != self.start).replace("</w>", " ")
        return (
            b"".join(bytes([byte[c]]) if c in byte else b" " for c in text)
            .decode("utf-8", errors="replace")
            .strip()
        )


SPECIAL = ("<|startoftext|>", "<|endoftext|>")
_WHITE = re.compile(r"[^\S\x1c-\x1f]+")  # Unicode's White_Space; Python's \s has four separators more
_WHOLE = re.compile(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d")


def _whole_word(word: str) -> str:
    """A pattern of that word; where it ends in a letter or numeral, none may follow, and so at its start."""
    start, end = (r"(?<!\w)" if word[0].isalnum() else ""), (r"(?!\w)" if word[-1].isalnum() else "")
    return start + re.escape(word) + end


def clean_plain(text: str) -> str:
    """Unicode in composed form (NFC), runs of white space to one space, lower case (Greek final sigma as
    in Python).
    """
    return _WHITE.sub(" ", unicodedata.normalize("NFC", text)).lower()


def clean_openai(text: str) -> str:
    """`clean_plain` after mending mojibake and HTML entities. The mending is that of the ftfy package
    where it is installed; without it only the entities are mended, which is the same for any text that
    was not damaged."""
    if importlib.util.find_spec("ftfy"):
        import ftfy

        text = ftfy.fix_text(text)
    return clean_plain(html.unescape(html.unescape(text)))


def split_clip(text: str) -> Iterator[str]:
    """A cleaned text's runs of letters, single numerals, runs of anything else; English contractions
    apart.
    """
    i = 0
    while i < len(text):
        kind = character_class(text[i])
        if whole := _WHOLE.match(text, i):
            j = whole.end()
        else:
            j = i + 1
            while kind != "N" and j < len(text) and character_class(text[j]) == kind:
                j += 1
        if kind != " ":
            yield text[i:j]
        i = j


def character_class(c: str) -> str:
    """L letter, N numeral, " " space, S any other sign, by Unicode's general category."""
    category = unicodedata.category(c)[0]
    return " " if c == " " else category if category in "LN" else "S"


def join(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Every occurrence of the pair, from the left, becomes one part."""
    joined, i = [], 0
    while i < len(parts):
        step = 2 if tuple(parts[i : i + 2]) == pair else 1
        joined.append("".join(parts[i : i + step]))
        i += step
    return joined


@functools.cache
def byte_letters() -> dict[int, str]:
    """A printable letter for each byte, in the order of the vocabulary: itself where it has one, else one
    from 256 on.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def read_merges(path: str | Path) -> list[tuple[str, str]]:
    """The 48,894 pairs that CLIP's encoder learnt, earliest first."""
    count = 49408 - 2 * 256 - len(SPECIAL)
    try:
        content = Path(path).read_bytes()
        lines = (
            (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8").split("\n")
        )
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the CLIP vocabulary {path}: {error}") from error
    merges = [tuple(line.split()) for line in lines[1 : count + 1]]  # the first line names the version
    if len(merges) < count or any(len(merge) != 2 for merge in merges):
        raise ValueError(
            f"{path} is not CLIP's vocabulary bpe_simple_vocab_16e6.txt.gz: expected {count} pairs"
        )
    return merges
