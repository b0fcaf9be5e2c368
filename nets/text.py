"""The text encoder of Stable Diffusion v1: token numbers to one vector per token.

"Learning Transferable Visual Models From Natural Language Supervision", arXiv:2103.00020v1, Sec. 2.4: a
pre-norm transformer in which each token sees those before it. With its default arguments the class is the
text half of CLIP ViT-L/14 (123,060,480 parameters) without its pooling and projection: latent diffusion
reads all positions.

Letters: b batch, l tokens, d width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from palimpsest.nets.attention import Attention
from palimpsest.nets.fast_cpu import Linear


def quick_gelu(x: Tensor) -> Tensor:
    """x σ(1.702 x), the approximation of GELU that CLIP was trained with (arXiv:1606.08415v5, Sec. 2)."""
    return x * torch.sigmoid(1.702 * x)


class TextTransformer(nn.Module):
    """tokens (b l) -> (b l d), the last layer normalised.

    ours: token and position vectors begin at one scale, since with positions drawn much smaller than tokens
    the net stays a bag of words, for which "a left of b" is "b left of a". (CLIP itself: 0.02 and 0.01.)"""

    def __init__(
        self,
        *,
        vocab: int = 49408,  # how many tokens there are
        length: int = 77,  # how many a text may have
        width: int = 768,  # d
        layers: int = 12,
        heads: int = 12,
        activation: Callable[[Tensor], Tensor] = quick_gelu,  # between the two linear maps of a layer
        causal: bool = True,  # whether a token sees only itself and those before it
        init_std: float = 0.02,  # of the token and the position vectors alike
    ):
        super().__init__()
        self.tokens = nn.Embedding(vocab, width)
        self.positions = nn.Parameter(torch.empty(length, width))
        self.layers = nn.ModuleList(TextLayer(width, heads, activation, causal) for _ in range(layers))
        self.norm_out = nn.LayerNorm(width)
        nn.init.normal_(self.tokens.weight, std=init_std)
        nn.init.normal_(self.positions, std=init_std)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token numbers (b l), l ≤ length, padded as the tokenizer does -> (b l d). There is no mask for
        the padding.
        """
        return self.forward_embedded(self.embed(tokens))

    def embed(self, tokens: Tensor) -> Tensor:
        """The token vectors (b l d), positions not yet added: the place to put a vector that no token has."""
        return self.tokens(tokens)

    def forward_embedded(self, x: Tensor) -> Tensor:
        """Token vectors (b l d) as `embed` gives them, or one's own -> (b l d). `forward` is this after
        `embed`.
        """
        if x.shape[1] > len(self.positions):
            raise ValueError(
                f"the text has {x.shape[1]} tokens, but this encoder was built with "
                f"length={len(self.positions)}"
            )
        x = x + self.positions[: x.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.norm_out(x)


class TextLayer(nn.Module):
    """x += attention(norm(x)); x += W₂ activation(W₁ norm(x)): (b l d) -> (b l d)."""

    def __init__(
        self,
        width: int,  # d
        heads: int,  # h, of width / heads channels each
        activation: Callable[[Tensor], Tensor],  # between the two linear maps
        causal: bool,  # whether a token sees only those before it
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads=heads, bias=True, causal=causal)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = Linear(width, 4 * width)
        self.linear2 = Linear(4 * width, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.linear2(self.activation(self.linear1(self.norm2(x))))
