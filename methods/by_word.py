"""What a person says about words and steps, as tensors: which columns of a map, from when to when, how
strong.

For "Prompt-to-Prompt Image Editing with Cross Attention Control" (Hertz et al., arXiv:2208.01626v1),
whose τ may differ from word to word ("a different number of injection steps per token", # Sec. 3.2).

A fraction f of N steps is its first ⌊f N + ½⌋. # official code: int(f (N + 1)) for the cross maps, int(f
N) for the others"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from palimpsest.nets.tokenizer import Tokenizer

Span = float | tuple[float, float]  # a fraction of the steps from the first on, or (start, end)
Cross = Span | Mapping[str, Span]  # the same for every word, or by word, with "default_" for the others


def count(name: str, fraction: float, steps: int) -> int:
    """How many of the first steps a fraction is: ⌊f N + ½⌋. Raises ValueError outside [0, 1]."""
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction <= 1:
        raise ValueError(f"{name}: must be a fraction of the steps in [0, 1], got {fraction!r}")
    return math.floor(fraction * steps + 0.5)


def spans(tokenizer: Tokenizer, prompt: str, cross: Cross, steps: int) -> Tensor:
    """τ by step and target token: (steps j) bool, where the source's map is used. See `prompt_to_prompt`
    for `cross`.
    """
    by_word = dict(cross) if isinstance(cross, Mapping) else {"default_": cross}
    by_word = {"default_": by_word.pop("default_", 1.0), **by_word}
    on = torch.zeros(steps, tokenizer.length, dtype=torch.bool)
    for word, span in by_word.items():
        first, last = (count("cross", f, steps) for f in (span if isinstance(span, tuple) else (0.0, span)))
        if first > last:
            raise ValueError(f"cross: must start before it ends, got {span}")
        where = slice(None) if word == "default_" else columns("cross", tokenizer, prompt, word)
        on[:, where] = False
        on[first:last, where] = True  # Eq. (12): t ≥ τ
    return on


def equalise(tokenizer: Tokenizer, prompt: str, weights: Mapping[str, float] | None) -> Tensor:
    """c of Eq. (14) for every target token, (j)."""
    c = torch.ones(tokenizer.length)  # Eq. (14): 1 where j is not j*
    for word, weight in (weights or {}).items():
        if not math.isfinite(weight):
            raise ValueError(
                f'weights: "{word}" must have a finite number, in the paper from -2 to 2, got {weight}'
            )
        c[columns("weights", tokenizer, prompt, word)] = weight
    return c


def columns(name: str, tokenizer: Tokenizer, prompt: str, words: str | Sequence[str]) -> list[int]:
    """The positions of one or more words in a prompt. Raises ValueError, naming the argument, for one
    that is not there.
    """
    try:
        return sorted(
            {
                j
                for word in ([words] if isinstance(words, str) else words)
                for j in tokenizer.positions(prompt, word)
            }
        )
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def each(name: str, value: Any, n: int, kind: Any) -> list[Any]:
    """One for all n pairs, or a list of one for each. Raises ValueError for a list of another length."""
    values = [value] * n if isinstance(value, kind) else list(value)
    if len(values) != n:
        raise ValueError(f"{name}: must be one, or one for each of the {n} pairs, got {len(values)}")
    return values
