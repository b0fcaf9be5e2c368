"""Which token of the source prompt does a token of the target prompt take its attention map from?

"Prompt-to-Prompt Image Editing with Cross Attention Control" (Hertz et al., arXiv:2208.01626v1), Sec.
3.2, needs two answers. A word *swap* keeps the number of words, so word k of one prompt answers to word k
of the other; where the two differ in tokens, "the maps are duplicated or averaged" over them. A
*refinement* adds words to the prompt: A(j) is the source token that target token j continues, or none.

    replace   mapper (j_source j_target), M̂ = M mapper              every row sums to 1, so the maps keep their mass
    refine    index (j_target), M̂_j = M_A(j), or M*_j where A(j) = −1

Positions count the start token as 0; the row goes on with the words, the end token and the padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.nets.tokenizer import Tokenizer


class Word(NamedTuple):
    """A piece of a prompt, and the positions start … stop − 1 of its tokens in the row."""

    text: str
    start: int
    stop: int


class Alignment(NamedTuple):
    """A pair of prompts, token by token. `mapper` serves a replacement, `index` a refinement."""

    edit: str  # "replace" or "refine"
    source: str
    target: str
    source_words: list[Word]
    target_words: list[Word]
    source_tokens: list[str]  # of the whole row, in letters
    target_tokens: list[str]
    mapper: Tensor  # (j_source j_target): how much of source map i goes to target map j
    index: Tensor  # (j_target): A(j), −1 for none; of a replacement: the largest share

    @property
    def alphas(self) -> Tensor:
        """(j_target): 1 where the map comes from the source, 0 where the target keeps its own."""
        return (self.index >= 0).float()

    @property
    def identity(self) -> bool:
        """Whether every token answers to the token at its own place, padding included."""
        return torch.equal(self.mapper, torch.eye(len(self.mapper)))


def align(tokenizer: Tokenizer, source: str, target: str, edit: str = "auto") -> Alignment:
    """The alignment of two prompts. edit: "replace", "refine", or "auto": replace where the prompts have
    as many words.

    Raises ValueError for another edit, a replacement between unequal numbers of words, and a prompt that
    is too long."""
    if edit not in ("replace", "refine", "auto"):
        raise ValueError(f"edit: must be replace, refine or auto, got {edit!r}")
    rows = [tokenizer.encode(prompt) for prompt in (source, target)]
    if max(map(len, rows)) > tokenizer.length:
        raise ValueError(
            f"prompt: the model reads {tokenizer.length - 2} tokens and one of the two has "
            f"{max(map(len, rows)) - 2}; shorten it"
        )
    a, b = words(tokenizer, source), words(tokenizer, target)
    if edit == "auto":  # unstated, Sec. 3.2: a person chooses there
        edit = "replace" if len(a) == len(b) else "refine"
    if edit == "replace":
        mapper = replacement_mapper(a, b, tokenizer.length)
        index = mapper.argmax(0).masked_fill(mapper.sum(0) == 0, -1)
    else:
        index = refinement_index(*rows, tokenizer.length)
        mapper = torch.nn.functional.one_hot(index.clamp(min=0), tokenizer.length).T * (index >= 0).float()
    return Alignment(edit, source, target, a, b, *(letters(tokenizer, row) for row in rows), mapper, index)


def words(tokenizer: Tokenizer, prompt: str) -> list[Word]:
    """The pieces of a prompt with their positions."""
    found, start = [], 1
    for piece in tokenizer.pieces(prompt):
        found.append(Word(tokenizer.decode(piece), start, start + len(piece)))
        start += len(piece)
    return found


def replacement_mapper(source: Sequence[Word], target: Sequence[Word], length: int) -> Tensor:
    """Word swap, Sec. 3.2: (j_source j_target), rows sum to 1. Raises ValueError for unequal numbers of
    words.

    Words of equally many tokens answer token by token; otherwise each token shares its map evenly among
    the word's target tokens. The end and the padding answer in order, from wherever they begin: both
    sides advance by their own count. What one row has too many, the last token of the other takes in, or
    gives out in equal shares.

    # official code: once the last word that differs is done, it goes on with one counter for both
    # prompts, so that every
    later token takes a map that is off by the difference, and mass is lost or counted twice.
    """
    if len(source) != len(target):
        raise ValueError(
            f"edit: replace needs as many words in both prompts, got {len(source)} and {len(target)} "
            f"({_listed(source)} -> {_listed(target)}); use refine"
        )
    mapper = torch.zeros(length, length)
    mapper[0, 0] = 1  # the start token
    i = j = 1
    for a, b in zip(source, target):
        n, m = a.stop - a.start, b.stop - b.start
        # Sec. 3.2, word swap: duplicated or averaged; ours: shared out, so that the mass stays
        mapper[i : i + n, j : j + m] = torch.eye(n) if n == m else torch.full((n, m), 1 / m)
        i, j = i + n, j + m  # both counters advance
    both = min(length - i, length - j) - 1  # end and padding that answer one to one
    mapper[range(i, i + both), range(j, j + both)] = 1.0
    mapper[i + both :, j + both :] = 1 / (length - j - both)  # the last of them, and what is left over
    return mapper


def refinement_index(source: Sequence[int], target: Sequence[int], length: int) -> Tensor:
    """Added words, Sec. 3.2: A(j) as (length,), −1 for none. source, target: token rows [start, …, end],
    not padded.

    Needleman–Wunsch with gap 0, match +1, mismatch −1. A mismatch costs more than two gaps, so a swapped
    word is never aligned. Of equally good alignments the one that leaves the *later* target token free,
    then the later source token. Padding answers to padding, counted from the end token. # official code:
    to the same place in the row, which in a target that is shorter than the source is a deleted word."""
    n, m = len(source), len(target)
    score = [[0] * (m + 1) for _ in range(n + 1)]  # the first i against the first j tokens
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            match = 1 if source[i - 1] == target[j - 1] else -1
            score[i][j] = max(score[i][j - 1], score[i - 1][j], score[i - 1][j - 1] + match)
    index = torch.full((length,), -1)
    i, j = n, m
    while i and j:
        if score[i][j] == score[i][j - 1]:  # target token j − 1 has no counterpart
            j -= 1
        elif score[i][j] == score[i - 1][j]:  # source token i − 1 has none
            i -= 1
        else:
            i, j = i - 1, j - 1
            index[j] = i  # A(j) of Eq. (13)
    index[m:] = torch.arange(m, length).add(n - m).clamp(max=length - 1)
    return index


def letters(tokenizer: Tokenizer, row: Sequence[int]) -> list[str]:
    """Every token of a padded row in letters."""
    inner = [tokenizer.decode([token]) for token in row[1:-1]]
    return ["<start>", *inner, "<end>", *["<pad>"] * (tokenizer.length - len(row))]


# --------------------------------------------------------------------------- to be read


def table(alignment: Alignment) -> str:
    """The alignment in lines: each target token, its word, and the source tokens (with their shares) it
    takes its map from.
    """
    a = alignment
    shown = max(w.stop for w in [*a.target_words, Word("", 0, 1)]) + 1  # up to the end token
    word_of = {j: w.text for w in a.target_words for j in range(w.start, w.stop)}
    rows = [("target", "token", "word", "takes the map of")]
    for j in range(shown):
        sources = a.mapper[:, j].nonzero().flatten().tolist()
        shares = [f"{a.mapper[i, j]:.3g} × {i} {a.source_tokens[i]}" for i in sources[:4]] + ["…"] * (
            len(sources) > 4
        )
        rows.append(
            (str(j), a.target_tokens[j], word_of.get(j, ""), " + ".join(shares) or "none: keeps its own")
        )
    wide = [max(len(row[k]) for row in rows) for k in range(3)]
    lines = [f'{a.edit}: "{a.source}" -> "{a.target}"']
    lines += ["  ".join([*(cell.ljust(w) for cell, w in zip(row, wide)), row[3]]) for row in rows]
    return "\n".join(lines + [f"note: {text}" for text in notes(a)])


def notes(alignment: Alignment) -> list[str]:
    """What there is to say about an alignment: that nothing moves, which words are new, swapped or gone."""
    a, said = alignment, []
    before, after = ([w.text for w in ws] for ws in (a.source_words, a.target_words))
    if before == after:
        said.append("the prompts are the same, so nothing will change unless words are re-weighted")
    if a.identity:
        said.append("the mapping is the identity: word for word, the prompts have equally many tokens")
    if a.edit == "replace":
        said += [f"{x} is swapped for {y}" for x, y in zip(before, after) if x != y]
    else:
        taken = set(a.index.tolist())
        said += [
            f"{w.text} ({w.start}) is unknown to the source and keeps its own map"
            for w in a.target_words
            if (a.index[w.start : w.stop] < 0).all()
        ]
        said += [
            f"{w.text} ({w.start} of the source) has no counterpart in the target"
            for w in a.source_words
            if not taken & set(range(w.start, w.stop))
        ]
    return said


def _listed(found: Sequence[Word]) -> str:
    return " | ".join(w.text for w in found)
