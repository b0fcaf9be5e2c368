"""Which token of the source prompt does each token of the target prompt take its attention map from?

"Prompt-to-Prompt Image Editing with Cross Attention Control" (Hertz et al., arXiv:2208.01626v1), Sec.
3.2, needs this for two kinds of edits. A word *swap* keeps the number of words, so word k of the source
is replaced by word k of the target; where the two have different numbers of tokens, "the maps are
duplicated or averaged" over them. A *refinement* adds words: A(j) is the source token that is the same as
target token j, or none.

    replace   mapper (j_source j_target), M̂ = M mapper              rows sum to 1: no map gains or loses mass
    refine    index (j_target), M̂_j = M_A(j), or M*_j where A(j) = −1

A prompt is a row of tokens: position 0 is the start token; the words follow, then the end token and the
padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.arguments import ArgumentError, check
from palimpsest.nets.tokenizer import Tokenizer


class Word(NamedTuple):
    """A word of a prompt, and the positions start … stop − 1 of its tokens in the row."""

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
    source_tokens: list[str]  # the text of each token of the row
    target_tokens: list[str]
    mapper: Tensor  # (j_source j_target): how much of the source token's map goes to the target token's
    index: Tensor  # (j_target): A(j), −1 for none; of a replacement: the source token of the largest share

    @property
    def identity(self) -> bool:
        """Whether every token takes the map of the token at its own position, padding included."""
        return torch.equal(self.mapper, torch.eye(len(self.mapper)))


def align(
    tokenizer: Tokenizer, source: str, target: str, edit: Literal["replace", "refine", "auto"] = "auto"
) -> Alignment:
    """The alignment of two prompts. edit: "auto" is "replace" where both have as many words, else "refine".

    Raises ArgumentError for another edit, a replacement between unequal numbers of words, and a prompt
    that is too long."""
    check(align, locals())
    rows = [tokenizer.encode(prompt) for prompt in (source, target)]
    longest = max(len(row) for row in rows)
    if longest > tokenizer.length:
        raise ArgumentError(
            "prompt",
            f"the model reads {tokenizer.length - 2} tokens and one of the two has {longest - 2}; shorten it",
        )
    source_words, target_words = words(tokenizer, source), words(tokenizer, target)
    if edit == "auto":  # unstated, Sec. 3.2: a person chooses there
        edit = "replace" if len(source_words) == len(target_words) else "refine"
    if edit == "replace":
        mapper = replacement_mapper(source_words, target_words, tokenizer.length)
        index = mapper.argmax(0).masked_fill(mapper.sum(0) == 0, -1)
    else:
        index = refinement_index(*rows, tokenizer.length)
        mapper = F.one_hot(index.clamp(min=0), tokenizer.length).T * (index >= 0).float()
    source_tokens, target_tokens = (token_texts(tokenizer, row) for row in rows)
    return Alignment(
        edit, source, target, source_words, target_words, source_tokens, target_tokens, mapper, index
    )


def words(tokenizer: Tokenizer, prompt: str) -> list[Word]:
    """The words of a prompt with their positions in the row."""
    found, start = [], 1
    for piece in tokenizer.pieces(tokenizer.put(prompt)):
        found.append(Word(tokenizer.decode(piece), start, start + len(piece)))
        start += len(piece)
    return found


def replacement_mapper(source: Sequence[Word], target: Sequence[Word], length: int) -> Tensor:
    """Word swap, Sec. 3.2: (j_source j_target), every row sums to 1.

    Words of equally many tokens go token by token; otherwise each token shares its map evenly among the
    word's target tokens. The end token and the padding go one to one, counted from the end token of each
    row. What is left over of the source's padding goes to the target's last token; what is left over of
    the target's shares the map of the source's last token. Raises ArgumentError for unequal numbers of
    words.

    # official code: behind the last word that differs, it goes on with one counter for both prompts. Every
    later token then takes a map that is off by the difference, and mass is lost or counted twice."""
    if len(source) != len(target):
        raise ArgumentError(
            "edit",
            f"replace needs as many words in both prompts, got {len(source)} and {len(target)} "
            f"({' | '.join(w.text for w in source)} -> {' | '.join(w.text for w in target)}); use refine",
        )
    mapper = torch.zeros(length, length)
    mapper[0, 0] = 1  # the start token
    i = j = 1
    for source_word, target_word in zip(source, target):
        n, m = source_word.stop - source_word.start, target_word.stop - target_word.start
        # Sec. 3.2, word swap: duplicated or averaged; ours: shared out, so that the mass stays
        mapper[i : i + n, j : j + m] = torch.eye(n) if n == m else torch.full((n, m), 1 / m)
        i, j = i + n, j + m  # each by its own number of tokens
    paired = min(length - i, length - j) - 1  # the end token and the padding, one to one
    mapper[range(i, i + paired), range(j, j + paired)] = 1.0
    mapper[i + paired :, j + paired :] = 1 / (length - j - paired)  # the last pair, and what is left over
    return mapper


def refinement_index(source: Sequence[int], target: Sequence[int], length: int) -> Tensor:
    """Added words, Sec. 3.2: A(j) as (length,), −1 for none. source, target: rows [start, …, end], unpadded.

    Needleman–Wunsch with gap 0, match +1, mismatch −1. A mismatch costs more than two gaps, so a swapped
    word is never aligned. Among equally good alignments, the one is taken that leaves the *later* target
    token free, then the later source token. Padding takes the map of padding, counted from the end token.

    # official code: of the same position in the row, which in a target shorter than its source is a deleted
    word."""
    n, m = len(source), len(target)
    score = [[0] * (m + 1) for _ in range(n + 1)]  # of the first i against the first j tokens
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            match = 1 if source[i - 1] == target[j - 1] else -1
            score[i][j] = max(score[i][j - 1], score[i - 1][j], score[i - 1][j - 1] + match)
    index = torch.full((length,), -1)
    i, j = n, m
    while i and j:
        if score[i][j] == score[i][j - 1]:  # target token j − 1 is new
            j -= 1
        elif score[i][j] == score[i - 1][j]:  # source token i − 1 is gone
            i -= 1
        else:
            i, j = i - 1, j - 1
            index[j] = i  # A(j) of Eq. (13)
    index[m:] = torch.arange(m, length).add(n - m).clamp(max=length - 1)
    return index


def token_texts(tokenizer: Tokenizer, row: Sequence[int]) -> list[str]:
    """The text of each token of a row, padded."""
    inner = [tokenizer.decode([token]) for token in row[1:-1]]
    return ["<start>", *inner, "<end>", *["<pad>"] * (tokenizer.length - len(row))]


# ---- to be read ----


def table(alignment: Alignment) -> str:
    """A line for each target token: its word, and the source tokens (with shares) whose maps it takes."""
    a = alignment
    shown = max([word.stop for word in a.target_words], default=1) + 1  # up to the end token
    word_of = {j: word.text for word in a.target_words for j in range(word.start, word.stop)}
    rows = [("target", "token", "word", "takes the map of")]
    for j in range(shown):
        origins = a.mapper[:, j].nonzero().flatten().tolist()
        shares = [f"{a.mapper[i, j]:.3g} × {i} {a.source_tokens[i]}" for i in origins[:4]]
        taken = " + ".join(shares + ["…"] * (len(origins) > 4)) or "none: keeps its own"
        rows.append((str(j), a.target_tokens[j], word_of.get(j, ""), taken))
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[3]]) for row in rows]
    return "\n".join(
        [f'{a.edit}: "{a.source}" -> "{a.target}"', *lines, *(f"note: {text}" for text in notes(a))]
    )


def notes(alignment: Alignment) -> list[str]:
    """What there is to say about an alignment: that nothing changes, which words are swapped, new or gone."""
    a, said = alignment, []
    before, after = [word.text for word in a.source_words], [word.text for word in a.target_words]
    if before == after:
        said.append("the prompts are the same, so nothing will change unless words are re-weighted")
    if a.identity:
        said.append("the mapping is the identity: word for word, the prompts have equally many tokens")
    if a.edit == "replace":
        return said + [f"{old} is swapped for {new}" for old, new in zip(before, after) if old != new]
    taken = set(a.index.tolist())
    for word in a.target_words:
        if (a.index[word.start : word.stop] < 0).all():
            said.append(f"{word.text} ({word.start}) is unknown to the source and keeps its own map")
    for word in a.source_words:
        if not taken & set(range(word.start, word.stop)):
            said.append(f"{word.text} ({word.start} of the source) has no counterpart in the target")
    return said
