"""CLIP: pictures and texts in one space, where what belongs together points the same way.

"Learning Transferable Visual Models From Natural Language Supervision", arXiv:2103.00020v1, Sec. 2.3 to
2.5 and Fig. 3. With its default arguments the class is ViT-L/14 (427,616,513 parameters), whose text half
is the encoder of Stable Diffusion v1; `CLIP(**VIT_B_32)` is ViT-B/32 (151,277,313).

    clip = load_clip("ViT-B-32.pt")                                # weights/public/towers.py
    tokenizer = ClipTokenizer(pad=0, clean=clean_openai)
    image = clip.encode_image(clip_view(pictures))                 # (b d), of length 1
    text = clip.encode_text(tokenizer(["a photo of a cat"]))
    cos = image @ text.T                                           # metrics/similarity.py uses it

Letters: b batch, l tokens, d the common space.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.arguments import ArgumentError
from palimpsest.nets.attention import Tap
from palimpsest.nets.fast_cpu import Linear
from palimpsest.nets.judges.vit import VisionTransformer, view
from palimpsest.nets.text import TextTransformer, quick_gelu

VIT_B_32 = dict(
    patch=32, width=768, layers=12, heads=12, embed=512, text_width=512, text_layers=12, text_heads=8
)
MEAN, STD = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)  # of the pictures it was trained on, in [0, 1]


class CLIP(nn.Module):
    """logits = clip(views, tokens)."""

    def __init__(
        self,
        *,
        size: int = 224,  # side of the pictures
        patch: int = 14,  # side of a patch
        width: int = 1024,  # of the image tower
        layers: int = 24,  # of the image tower
        heads: int = 16,  # of the image tower
        embed: int = 768,  # d, of the common space
        vocab: int = 49408,  # how many tokens there are
        length: int = 77,  # of a row of tokens
        text_width: int = 768,
        text_layers: int = 12,
        text_heads: int = 12,
        activation: Callable[[Tensor], Tensor] = quick_gelu,  # in both towers; of some others: gelu
        end: int | None = None,  # the token at which a text is read; None: the last, as CLIP has it
    ):
        super().__init__()
        self.size = size
        self.end = vocab - 1 if end is None else end
        self.image = VisionTransformer(
            size=size,
            patch=patch,
            width=width,
            layers=layers,
            heads=heads,
            activation=activation,
            eps=1e-5,
            patch_bias=False,
            norm_in=True,
        )
        self.text = TextTransformer(
            vocab=vocab,
            length=length,
            width=text_width,
            layers=text_layers,
            heads=text_heads,
            activation=activation,
        )
        self.image_projection = Linear(width, embed, bias=False)
        self.text_projection = Linear(text_width, embed, bias=False)
        self.logit_scale = nn.Parameter(
            torch.tensor(math.log(1 / 0.07))
        )  # Sec. 2.5: ln 1/τ; trained it is about ln 100
        nn.init.normal_(self.image_projection.weight, std=width**-0.5)
        nn.init.normal_(self.text_projection.weight, std=text_width**-0.5)

    def encode_image(self, views: Tensor, *, unit: bool = True, tap: Tap | None = None) -> Tensor:
        """Views (b 3 size size), as `clip_view` makes them -> (b embed), of length 1 unless `unit` is False.

        tap: sees the attention of the image tower. Raises ValueError for views of another size.
        """
        z = self.image_projection(self.image(views, tap).cls)
        return F.normalize(z, dim=-1) if unit else z

    def encode_text(self, tokens: Tensor, *, unit: bool = True) -> Tensor:
        """Rows of tokens (b l) -> (b embed), of length 1 unless `unit` is False.

        A text is read at its first end token, which has seen all of it and nothing of the padding after
        it. official code: at the largest token number, the same thing until a vocabulary is given tokens
        beyond the end. Raises ValueError for a row without an end."""
        z = self.text_projection(at_end(self.text(tokens), tokens, self.end))
        return F.normalize(z, dim=-1) if unit else z

    def forward(self, views: Tensor, tokens: Tensor) -> Tensor:
        """exp(logit_scale) · cos of every picture with every text: views (b 3 y x), tokens (n l) -> (b
        n). Fig. 3.
        """
        return self.logit_scale.exp() * self.encode_image(views) @ self.encode_text(tokens).mT


def contrastive_loss(logits: Tensor) -> Tensor:
    """The mean cross-entropy of finding each picture's text and each text's picture, logits (b b): a
    scalar. # Fig. 3, Sec. 2.3

    Row i is picture i, column i its own text; all others in the batch are wrong.
    """
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.mT, own)) / 2


def at_end(z: Tensor, tokens: Tensor, end: int) -> Tensor:
    """Of each row of vectors z (b l d) the one at the first token `end` of tokens (b l): (b d).
    ValueError for a row without it.
    """
    ends = tokens == end
    if not ends.any(dim=1).all():
        row = int((~ends.any(dim=1)).nonzero()[0])
        raise ArgumentError(
            "tokens", f"row {row} has no end token {end}; make the rows with the tokenizer of this model"
        )
    return z[torch.arange(len(z), device=z.device), ends.int().argmax(dim=1)]


def clip_view(pictures: Tensor, size: int = 224) -> Tensor:
    """Pictures (b 3 y x) in [−1, 1] as CLIP's image tower wants them: (b 3 size size). See
    `nets.judges.vit.view`.

    The whole short side is seen, and what sticks out of the central square is not. Part of every figure
    that CLIP gives: one made from squeezed pictures, or from [−1, 1] where [0, 1] was expected, cannot be
    compared with one made from these."""
    return view(pictures, size=size, resize=size, mean=MEAN, std=STD)
