"""The noised CLIP: a CLIP that looks at x_t instead of pictures and is told t, so that its gradient can
guide a walk from the first step.

"GLIDE", arXiv:2112.10741v3, Sec. 2.4 and 4.4. With its default arguments the class is the published pair
of encoders (image 86,443,776 parameters in 188 tensors, text 71,679,488 in 185). Its image encoder is a
vision transformer. With `mult`, as in the shipped model, it is the downward half of a U-Net instead, as in a
classifier that guides (nets/judges/noisy_reader.py): at a million weights that reads noisy pictures better.

    clip = load_noised_clip("clip_image_enc.pt", "clip_text_enc.pt")     # weights/public/towers.py
    tokenizer = ClipTokenizer(pad=0, clean=clean_openai, truncate=True)
    text = clip.encode_text(tokenizer(["a photo of a cat"]))
    cos = (clip.encode_image(x_t, t) * text).sum(dim=1)     # f(x_t) · g(c) of Eq. (8); gradients flow to x_t

Letters: b batch, n texts, l tokens, d width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.arguments import ArgumentError
from palimpsest.nets.attention import Tap
from palimpsest.nets.fast_cpu import Linear
from palimpsest.nets.judges.clip import MEAN, STD, at_end
from palimpsest.nets.judges.noisy_reader import NoisyReader
from palimpsest.nets.judges.vit import Tokens, VisionTransformer, standardise
from palimpsest.nets.text import TextTransformer


class NoisedCLIP(nn.Module):
    """logits = clip(x_t, t, tokens)."""

    def __init__(
        self,
        *,
        size: int = 64,  # side of the pictures
        patch: int = 4,  # side of a patch
        width: int = 768,  # of the image tower
        layers: int = 12,  # of the image tower
        heads: int = 12,  # of the image tower
        mult: Sequence[int] = (),  # channels of half a U-Net's levels, in widths; (): a transformer
        queries: int = 8,  # that look at the last map of half a U-Net; the vectors they find are added up
        times: int = 1000,  # it knows t = 0 … times − 1
        embed: int = 512,  # d, of the common space
        vocab: int = 65536,  # how many tokens there are
        length: int = 77,  # of a row of tokens
        text_width: int = 512,
        text_layers: int = 12,
        text_heads: int = 8,
        end: int = 49407,  # the token at which a text is read; the published table has rows to spare
        scale: float = 100.0,  # 1/τ, which multiplies a cosine; the published weights hold none
    ):
        super().__init__()
        self.end, self.scale, self.size, self.times = end, scale, size, times
        self.image: NoisyReader | NoisedVisionTransformer
        if mult:
            found = {f"vector {k + 1}": embed for k in range(queries)}
            self.image = NoisyReader(
                attributes=found, size=size, width=width, mult=tuple(mult), heads=heads, times=times
            )
        else:
            self.image = NoisedVisionTransformer(
                size=size, patch=patch, width=width, layers=layers, heads=heads, times=times
            )
            self.image_projection = Linear(width, embed, bias=False)
            nn.init.normal_(self.image_projection.weight, std=width**-0.5)
        self.text = TextTransformer(
            vocab=vocab,
            length=length,
            width=text_width,
            layers=text_layers,
            heads=text_heads,
            activation=F.gelu,
        )
        drop_key_bias(self.text.layers)
        self.text_projection = Linear(text_width, embed, bias=False)
        nn.init.normal_(self.text_projection.weight, std=text_width**-0.5)

    def encode_image(
        self, x_t: Tensor, t: int | Tensor, *, unit: bool = True, tap: Tap | None = None
    ) -> Tensor:
        """x_t (b 3 size size), pictures in [−1, 1] with the noise of time t -> (b embed), of length 1
        unless `unit` is False.

        t: a whole number or a tensor of one or b of them, 0 … times − 1 (the published weights; level t
        of a Schedule is their t − 1). tap: sees the attention of a vision transformer. Raises ValueError for
        pictures of another size, a time that is none of these, and a tap on half a U-Net."""
        if isinstance(self.image, NoisyReader):
            if tap is not None:
                raise ArgumentError("tap", "sees the attention of a vision transformer; this is half a U-Net")
            z = torch.stack(list(self.image(x_t, t).values())).sum(dim=0)
        else:
            z = self.image_projection(self.image(standardise(x_t, MEAN, STD), t, tap).cls)
        return F.normalize(z, dim=-1) if unit else z

    def encode_text(self, tokens: Tensor, *, unit: bool = True) -> Tensor:
        """Rows of tokens (n l) -> (n embed), read at the first end token, of length 1 unless `unit` is False.

        Raises ValueError for a row without an end.
        """
        z = self.text_projection(at_end(self.text(tokens), tokens, self.end))
        return F.normalize(z, dim=-1) if unit else z

    def forward(self, x_t: Tensor, t: int | Tensor, tokens: Tensor) -> Tensor:
        """scale · cos of every noisy picture with every text: x_t (b 3 y x), tokens (n l) -> (b n)."""
        return self.scale * self.encode_image(x_t, t) @ self.encode_text(tokens).mT


class NoisedVisionTransformer(VisionTransformer):
    """(x_t, t) -> Tokens: the vision transformer of CLIP whose class token is that of the time.

    official code: 257 tokens are filled up to 288 that nobody attends to."""

    def __init__(
        self,
        *,
        size: int,  # this and the next four as in nets/judges/vit.py
        patch: int,
        width: int,
        layers: int,
        heads: int,
        times: int,  # how many there are
    ):
        super().__init__(
            size=size,
            patch=patch,
            width=width,
            layers=layers,
            heads=heads,
            activation=F.gelu,
            eps=1e-5,
            patch_bias=False,
            norm_in=True,
        )
        del self.cls
        self.times = nn.Embedding(times, width)
        nn.init.normal_(self.times.weight, std=width**-0.5)
        drop_key_bias(self.layers)

    def forward(self, x_t: Tensor, t: int | Tensor, tap: Tap | None = None) -> Tokens:
        """Standardised x_t (b 3 y x) at times t, whole numbers -> Tokens of (b d) and (b l d)."""
        t = torch.as_tensor(t, device=x_t.device)
        times = self.times.num_embeddings
        if (
            tuple(t.shape) not in ((), (1,), (len(x_t),))
            or (t != t.round()).any()
            or (t < 0).any()
            or (t >= times).any()
        ):
            raise ArgumentError(
                "t",
                f"must be a whole number, or a tensor of {len(x_t)} of them, from 0 to {times - 1}, not "
                f"{t.tolist()}",
            )
        return self.read(x_t, self.times(t.long().expand(len(x_t))), tap)


def drop_key_bias(layers: nn.ModuleList) -> None:
    """Key maps without bias: it would add the same to all logits of a query, and softmax does not see
    that.
    """
    for layer in layers:
        old = layer.attention.to_k
        layer.attention.to_k = Linear(old.in_features, old.out_features, bias=False)
