"""The tokenizer of GLIDE's diffusion models: GPT-2's byte pairs, of lower-case text, with neither start
nor end.

"Language Models are Unsupervised Multitask Learners" (Radford and others, 2019), Sec. 2.2, on the
byte-pair encoding of arXiv:1508.07909v5, Algorithm 1. Unlike CLIP's (nets/tokenizer.py), a token knows
the space before it and not the end of a word: " cat" is one token and "cat" another, and white space is
never thrown away."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from palimpsest.nets.tokenizer import Tokenizer, byte_letters, character_class, join

GPT2_PAIRS = Path(__file__).parent / "vocabularies" / "vocab.bpe"  # as OpenAI published it
MERGES = 50000
_CONTRACTION = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d")
_SPACE = re.compile(r"[^\S\x1c-\x1f]+")  # Unicode's White_Space; Python's \s has four separators more


class GPT2Tokenizer(Tokenizer):
    """50,257 tokens, rows of 128: the tokens of the text, then padding. The empty text is all padding.

    path: GPT-2's vocab.bpe, compressed or not, or the merges.txt of a model, which is the same list; by
    default the file that is shipped. Tokens are numbered by it: 256 bytes, 50,000 pairs, and the end of
    a text, which GLIDE pads with. lower: whether the text is made lower case first, as GLIDE does and
    GPT-2 does not. truncate: cut a long text to its first 128 tokens, with a warning that says which
    words are left out, or refuse it. Raises ValueError for a file that is not the vocabulary."""

    def __init__(
        self, path: str | Path = GPT2_PAIRS, *, length: int = 128, lower: bool = True, truncate: bool = False
    ):
        merges = read_gpt2_merges(path)
        self.strings = [*byte_letters().values(), *(a + b for a, b in merges), "<|endoftext|>"]
        self.rank = {pair: i for i, pair in enumerate(merges)}
        self.tokens = {piece: i for i, piece in enumerate(self.strings)}
        self.vocab_size = len(self.strings)
        self.length, self.lower, self.truncate = length, lower, truncate
        self.start = self.end = None
        self.pad = self.vocab_size - 1

    def cut(self, text: str) -> list[list[int]]:
        return [self.piece(string) for string in split_gpt2(text.lower() if self.lower else text)]

    def piece(self, string: str) -> list[int]:
        """Byte-pair encoding of one piece: join the pair that was learnt earliest, until no pair was
        learnt.
        """
        letter = byte_letters()
        parts = [letter[byte] for byte in string.encode("utf-8", errors="replace")]
        while pairs := [pair for pair in zip(parts, parts[1:]) if pair in self.rank]:
            parts = join(parts, min(pairs, key=self.rank.__getitem__))
        return [self.tokens[part] for part in parts]

    def positions(self, text: str, word: str) -> list[int]:
        """As Tokenizer.positions, whether the word stands at the beginning of the text or after a space."""
        found: set[int] = set()
        for written in {word, f" {word}"}:
            try:
                found.update(super().positions(text, written))
            except ValueError:
                continue
        if not found:
            raise ValueError(f'the word "{word}" is not in the prompt "{text}"')
        return sorted(found)

    def decode(self, ids: Iterable[int]) -> str:
        byte = {letter: byte for byte, letter in byte_letters().items()}
        text = "".join(self.strings[int(i)] for i in ids if int(i) != self.pad)
        return bytes(byte[c] for c in text).decode("utf-8", errors="replace")


def split_gpt2(text: str) -> Iterator[str]:
    """Runs of letters, of numerals, of anything else, each with one space before it if there is one;
    English contractions apart.

    What white space is left over is a piece of its own, but for its last character where text follows: if
    that is a space, the text takes it along."""
    i = 0
    while i < len(text):
        if whole := _CONTRACTION.match(text, i):
            j = whole.end()
        elif (start := i + (text[i] == " ")) < len(text) and not _SPACE.match(text, start):
            kind, j = character_class(text[start]), start + 1
            while j < len(text) and character_class(text[j]) == kind and not _SPACE.match(text, j):
                j += 1
        else:
            j = _SPACE.match(text, i).end()
            if j < len(text) and j - i > 1:  # the last one is left for what follows
                j -= 1
        yield text[i:j]
        i = j


def read_gpt2_merges(path: str | Path) -> list[tuple[str, str]]:
    """The 50,000 pairs that GPT-2's encoder learnt, earliest first."""
    try:
        content = Path(path).read_bytes()
        lines = (
            (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8").split("\n")
        )
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the GPT-2 vocabulary {path}: {error}") from error
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    if len(merges) != MERGES or any(len(merge) != 2 for merge in merges):
        raise ValueError(
            f"{path} is not GPT-2's vocabulary vocab.bpe: expected {MERGES} pairs, not {len(merges)} lines"
        )
    return merges
