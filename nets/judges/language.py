"""A small causal language model: which word comes next, and a text continued word by word.

"Language Models are Unsupervised Multitask Learners" (GPT-2, Radford et al. 2019) made small: the
transformer of nets/text.py, in which each token sees those before it, and the token table once more as
the last layer. InstructPix2Pix (arXiv:2211.09800v2, Sec. 3.1) fine-tunes such a model, GPT-3, to write
instructions; training/shapes_language.py does it here.

Letters: b batch, l tokens, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from palimpsest.arguments import ArgumentError
from palimpsest.nets.text import TextTransformer


class LanguageModel(nn.Module):
    """tokens (b l) -> logits of the token after each (b l v)."""

    def __init__(
        self,
        *,
        vocab: int,  # v, tokens in all
        length: int = 64,  # tokens that it can see
        width: int = 128,  # d
        layers: int = 4,
        heads: int = 4,  # of width / heads channels each
    ):
        super().__init__()
        self.text = TextTransformer(
            vocab=vocab, length=length, width=width, layers=layers, heads=heads, causal=True
        )

    @property
    def length(self) -> int:
        """How many tokens it can see."""
        return len(self.text.positions)

    def forward(self, tokens: Tensor) -> Tensor:
        # GPT-2: the table of the input serves the output
        return F.linear(self.text(tokens), self.text.tokens.weight)


def next_token_loss(logits: Tensor, tokens: Tensor, counts: Tensor) -> Tensor:
    """−log p(token | those before it), the mean over those that count: logits (b l v) of tokens (b l),
    counts bool (b l).

    The first token is given, so whether it counts is not asked.
    """
    wanted = tokens[:, 1:].masked_fill(~counts[:, 1:], -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), wanted.flatten(), ignore_index=-100)


def penalised(logits: Tensor, said: Tensor, frequency: float) -> Tensor:
    """logits (b v) less `frequency` times how often each token was said so far; said (b k), −1 where
    nothing was. # OpenAI's API
    """
    counts = torch.zeros_like(logits).scatter_add_(1, said.clamp(min=0), (said >= 0).to(logits))
    return logits - frequency * counts


@torch.no_grad()
def continued(
    net: LanguageModel,
    prefixes: Sequence[Sequence[int]],
    *,
    stop: int,
    generator: Generator,
    temperature: float = 0.7,
    frequency: float = 0.1,
) -> list[list[int]]:
    """What the net writes after each prefix, tokens up to `stop`, which is not among them, or until there
    is no room.

    temperature: logits are divided by it, 0 takes the likeliest; frequency: the penalty of `penalised`,
    for what was written, not for the prefix. Rows are of their own lengths: what is padded stands after
    what is written, where a causal net does not look. Raises ValueError for settings that make no sense.
    """
    device, length = next(net.parameters()).device, net.length
    if not temperature >= 0 or not all(0 < len(prefix) < length for prefix in prefixes):
        raise ArgumentError(
            "prefixes",
            f"each must have 1 … {length - 1} tokens, and temperature be at least 0; got lengths "
            f"{sorted({len(p) for p in prefixes})}, temperature {temperature}",
        )
    ends = torch.tensor([len(prefix) for prefix in prefixes], device=device)
    tokens = torch.full((len(prefixes), length), stop, device=device)
    for row, prefix in zip(tokens, prefixes):
        row[: len(prefix)] = torch.tensor(prefix, device=device)
    written = torch.full_like(tokens, -1)
    rows, live = (
        torch.arange(len(prefixes), device=device),
        torch.ones(len(prefixes), dtype=torch.bool, device=device),
    )
    while live.any():
        logits = penalised(net(tokens[:, : int(ends.max())])[rows, ends - 1], written, frequency)
        if temperature == 0:
            drawn = logits.argmax(1)
        else:
            drawn = torch.multinomial((logits / temperature).softmax(1).cpu(), 1, generator=generator)[
                :, 0
            ].to(device)
        live &= drawn != stop
        tokens[rows[live], ends[live]] = written[rows[live], ends[live]] = drawn[live]
        ends += live
        live &= ends < length
    return [[token for token in row if token >= 0] for row in written.tolist()]
