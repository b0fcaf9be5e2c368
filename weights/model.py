"""The model object: everything that was trained together, as one object that a method can use.

z = b.encode(pictures)                       # (b 3 y x) in [−1, 1] -> latents (b c y' x'), about unit variance
eps = b.denoiser("a red heart", w=3.)        # a function (z_t, t) -> eps, classifier-free guidance inside
pictures = b.decode(z)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palimpsest.nets.attention import Tap
from palimpsest.nets.glide import GlideUNet
from palimpsest.nets.text import TextTransformer
from palimpsest.nets.tokenizer import Tokenizer
from palimpsest.nets.unet import UNet
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.samplers.convert import eps_from_output
from palimpsest.samplers.guidance import Denoiser, cfg, combine
from palimpsest.samplers.schedule import Schedule


@dataclass(frozen=True)
class Autoencoder:
    """Pictures to latents of about unit variance, and back; latent_scale = 1 / std of the encoder's means
    (arXiv:2112.10752v2, App. G).
    """

    vae: AutoencoderKL | None  # None: the model works on pixels, and its latents are the pictures
    latent_scale: float = 1.0

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """(b 3 y x) in [−1, 1] -> (b c y/f x/f): the mean of q(z|x), scaled. No noise is drawn, so
        encoding is repeatable.
        """
        return pictures if self.vae is None else self.latent_scale * self.vae.encode(pictures)[0]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """(b c y/f x/f) -> (b 3 y x), clamped to [−1, 1]."""
        return (latents if self.vae is None else self.vae.decode(latents / self.latent_scale)).clamp(-1, 1)


@dataclass(frozen=True)
class Model:
    """Everything that was trained together travels together.

    net: (z_t, t, ctx, tap) -> prediction; text and tokenizer: prompts -> ctx, None for a model without
    text; vae: None for a pixel model; schedule: the ᾱ_t of training; prediction: "eps" or "v", what the
    net was trained to say; latent_scale: latents × this have unit variance; size: side of the pictures it
    was trained on; shift: the net was trained to call the level t by t − shift (1 for public checkpoints,
    whose levels count from 0); learned_variance: after its prediction the net says v, as many channels
    again, which puts each variance of a step between its bounds (arXiv:2102.09672v1, Eq. 15)."""

    name: str
    net: nn.Module
    text: nn.Module | None
    tokenizer: Tokenizer | None
    vae: AutoencoderKL | None
    schedule: Schedule
    prediction: str
    latent_scale: float
    size: int
    shift: int = 0
    learned_variance: bool = False

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.net.parameters()).dtype

    @property
    def grid(self) -> int:
        """What rows and columns of a picture must divide by: the autoencoder's factor times the U-Net's."""
        return self.net.factor * (self.vae.factor if self.vae is not None else 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, y, x) of one latent at the training size."""
        side = self.size // (self.vae.factor if self.vae is not None else 1)
        return self.net.conv_out.out_channels // (1 + self.learned_variance), side, side

    def embed(self, prompts: str | Sequence[str]) -> Tensor:
        """Prompts -> (b l d). Raises ValueError for a word the tokenizer does not know, or a model
        without text.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if self.text is None:
            mend = (
                "leave the prompt empty or choose another model"
                if any(texts)
                else "this method needs it: choose another model"
            )
            raise ValueError(
                f"{'prompt' if any(texts) else 'model'}: the model {self.name} was trained without text; {mend}"
            )
        tokens = self.tokenizer(texts)
        if isinstance(self.text, TextTransformer) and tokens.max() >= (
            held := self.text.tokens.num_embeddings
        ):
            raise ValueError(
                f"model: the text encoder of {self.name} knows {held} tokens and its tokenizer gives number {tokens.max()}: "
                "it was trained with another tokenizer, which is not known here"
            )
        return self.text(tokens.to(self.device))

    def encode(self, pictures: Tensor) -> Tensor:
        """(b 3 y x) in [−1, 1], rows and columns multiples of `grid` -> latents, float32 at least; see
        Autoencoder.
        """
        return _wide(Autoencoder(self.vae, self.latent_scale).encode(pictures.to(self.device, self.dtype)))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> (b 3 y x) in [−1, 1], float32 at least; see Autoencoder."""
        return _wide(Autoencoder(self.vae, self.latent_scale).decode(latents.to(self.device, self.dtype)))

    def eps(self, z_t: Tensor, t: float, ctx: Tensor | None = None, tap: Tap | None = None) -> Tensor:
        """ε_θ(z_t, t, ctx), whatever the net predicts: (b c y x) -> (b c y x), float32 at least.
        Gradients flow.

        Only the net itself works in half precision: a walk adds up hundreds of small steps, and its state
        is kept in float32. What a net reads beside the latent (the picture of an instruction model, the
        mask of an inpainting model) stands in the channels after it. Raises ValueError for another number
        of channels than the net takes."""
        if isinstance(self.net, (UNet, GlideUNet)) and z_t.shape[1] != (
            takes := self.net.conv_in.in_channels
        ):
            latent, glide = self.latent_shape[0], isinstance(self.net, GlideUNet)
            beside = {
                0: "a latent alone",
                latent: "a latent and a picture beside it, as instruct_pix2pix gives",
                latent + 1: "a latent, a mask and a masked picture, for inpainting",
            }.get(takes - latent, "of its own kind")
            beside = "x_t and what glide shows it beside that" if glide and takes > latent else beside
            raise ValueError(
                f"model: the U-Net of {self.name} takes {takes} channels ({beside}) and is given {z_t.shape[1]}; choose a "
                "model that was trained for this method"
            )
        return self.eps_and_v(z_t, t, ctx, tap)[0]

    def eps_and_v(
        self, z_t: Tensor, t: float, ctx: Tensor | None = None, tap: Tap | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """As `eps`, and v (b c y x) beside it, about −1 … 1: where log Σ_θ lies between log β̃ and log β;
        None unless it was learnt.
        """
        t_net = (t - self.shift).clamp(min=0) if isinstance(t, Tensor) else max(t - self.shift, 0)
        out = _wide(self.net(z_t.to(self.dtype), t_net, ctx, tap))
        z_t = _wide(z_t)
        out, v = out.chunk(2, dim=1) if self.learned_variance else (out, None)
        return eps_from_output(self.schedule, z_t[:, : out.shape[1]], t, out.to(z_t), self.prediction), v

    def denoiser(
        self,
        prompt: str | Sequence[str] | Tensor = "",
        w: float = 1.0,
        negative: str | Tensor = "",
        tap: Tap | None = None,
    ) -> Denoiser:
        """(z_t, t) -> ε̂ under a prompt (text, one text per picture, or an embedding (b l d)), by Eq. (7)
        with scale w.

        `negative` takes the place of the empty prompt. `tap` sees and edits the attention under the
        prompt, never that under `negative`. No gradients. A model without text takes no prompt and
        ignores w."""
        if isinstance(prompt, str) and isinstance(negative, str) and prompt == negative:
            w = 1.0  # ε_∅ + w (ε_∅ − ε_∅): no need to ask twice
        if self.text is None and isinstance(prompt, str) and prompt == "":
            return torch.no_grad()(lambda z_t, t: self.eps(z_t, t, tap=tap))
        with torch.no_grad():
            cond, null = (p if isinstance(p, Tensor) else self.embed(p) for p in (prompt, negative))
        if tap is None:
            return torch.no_grad()(cfg(self.eps, cond, null, w))
        tapped = cfg(lambda z_t, t, ctx: self.eps(z_t, t, ctx, tap), cond, null, 1.0)
        plain = cfg(self.eps, cond, null, 0.0)
        return torch.no_grad()(
            lambda z_t, t: tapped(z_t, t) if w == 1 else combine(plain(z_t, t), tapped(z_t, t), w)
        )


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))
