"""Settings that a person gives by word and by fraction of the steps, as tensors over steps and tokens.

For "Prompt-to-Prompt Image Editing with Cross Attention Control" (Hertz et al., arXiv:2208.01626v1),
whose τ may differ from word to word ("a different number of injection steps per token", # Sec. 3.2).

A fraction f of N steps is the first ⌊f N + ½⌋ of them. # official code: int(f (N + 1)) for
cross-attention, int(f N) for the rest
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor

from palimpsest.arguments import ArgumentError
from palimpsest.nets.tokenizer import Tokenizer

Span = float | tuple[float, float]  # the first fraction of the steps, or from one fraction to another
Cross = Span | Mapping[str, Span]  # the same for every word, or by word, with "default_" for the others


def steps_of(fraction: float, steps: int) -> int:
    """How many of the first steps a fraction in [0, 1] is: ⌊f N + ½⌋."""
    return math.floor(fraction * steps + 0.5)


def start_and_end(span: Span) -> tuple[float, float]:
    """Where a span starts and ends, as fractions of the steps. Raises ArgumentError for what is not one."""
    start, end = span if isinstance(span, tuple) and len(span) == 2 else (0.0, span)
    for fraction in (start, end):
        if isinstance(fraction, bool) or not isinstance(fraction, Real) or not 0 <= fraction <= 1:
            raise ArgumentError("cross", f"must be a fraction of the steps in [0, 1], got {fraction!r}")
    if start > end:
        raise ArgumentError("cross", f"must start before it ends, got {span}")
    return start, end


def spans_by_word(cross: Cross) -> dict[str, tuple[float, float]]:
    """Word -> (start, end); "default_", which is 1 unless given, comes first. Raises as `start_and_end`."""
    by_word = dict(cross) if isinstance(cross, Mapping) else {"default_": cross}
    return {word: start_and_end(span) for word, span in ({"default_": 1.0} | by_word).items()}


def injected_steps(tokenizer: Tokenizer, prompt: str, cross: Cross, steps: int) -> Tensor:
    """τ by step and token of the target prompt: (steps j) bool, where the source's map is injected.

    cross: see `Injection`. Raises ArgumentError for a word that is not in the prompt, and as `start_and_end`.
    """
    injected = torch.zeros(steps, tokenizer.length, dtype=torch.bool)
    for word, (start, end) in spans_by_word(cross).items():
        tokens = slice(None) if word == "default_" else tokens_of("cross", tokenizer, prompt, word)
        injected[:, tokens] = False
        injected[steps_of(start, steps) : steps_of(end, steps), tokens] = True  # Eq. (12): t ≥ τ
    return injected


def token_weights(tokenizer: Tokenizer, prompt: str, weights: Mapping[str, float] | None) -> Tensor:
    """c of Eq. (14) by token of the target prompt, (j). Raises ArgumentError for a word that is not in it."""
    c = torch.ones(tokenizer.length)  # Eq. (14): 1 where j is not j*
    for word, weight in (weights or {}).items():
        c[tokens_of("weights", tokenizer, prompt, word)] = weight
    return c


def tokens_of(argument: str, tokenizer: Tokenizer, prompt: str, words: str | Sequence[str]) -> list[int]:
    """The positions of the tokens of one or several words in a prompt.

    Raises ArgumentError, of the argument that named the words, for a word that is not in the prompt.
    """
    found: set[int] = set()
    for word in [words] if isinstance(words, str) else words:
        try:
            found.update(tokenizer.positions(prompt, word))
        except ValueError as error:
            raise ArgumentError(argument, str(error)) from None
    return sorted(found)
