"""The model object: everything that was trained together, as one object that a method can use.

    z = model.encode(pictures)                 # (b 3 y x) in [−1, 1] -> latents (b c y' x'), unit variance
    eps = model.denoiser("a red heart", w=3.)  # a function (z_t, t) -> eps, classifier-free guidance inside
    pictures = model.decode(z)

`load` (weights/load.py) makes one of a file; an own net becomes one by `Model(name, net, schedule, size)`.

Letters: b batch, c channels, y x rows and columns, l text tokens, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from palimpsest.arguments import ArgumentError, Count, Positive, Rounds, check, settled
from palimpsest.nets.attention import Tap
from palimpsest.nets.glide import GlideUNet
from palimpsest.nets.net import Net, channels_of, factor_of, first_parameter, in_channels_of
from palimpsest.nets.text import TextTransformer
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.samplers.convert import Prediction, eps_from_output
from palimpsest.samplers.guidance import Denoiser, cfg, combine
from palimpsest.samplers.schedule import Schedule

AT_ONCE = 16  # pictures in one pass of an autoencoder: at 512×512 each takes some 0.8 GB there


@dataclass(frozen=True)
class Autoencoder:
    """Pictures to latents of about unit variance, and back; latent_scale = 1 / std of the encoder's means
    (arXiv:2112.10752v2, App. G). However many there are, AT_ONCE of them are in one pass.
    """

    vae: AutoencoderKL | None  # None: the model works on pixels, and its latents are the pictures
    latent_scale: float = 1.0

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """(b 3 y x) in [−1, 1] -> (b c y/f x/f): the mean of q(z|x), scaled. No noise is drawn, so
        encoding is repeatable.
        """
        if self.vae is None:
            return pictures
        some = [self.latent_scale * self.vae.encode(part)[0] for part in pictures.split(AT_ONCE)]
        return torch.cat(some)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """(b c y/f x/f) -> (b 3 y x), clamped to [−1, 1]."""
        if self.vae is None:
            return latents.clamp(-1, 1)
        some = [self.vae.decode(part / self.latent_scale).clamp(-1, 1) for part in latents.split(AT_ONCE)]
        return torch.cat(some)


@dataclass(frozen=True, eq=False)
class Model:
    """Everything that was trained together. Four fields make a model of an own net (nets/net.py):

        Model("mine", net, Schedule.cosine(), size=32)    # on pixels, without text, predicting the noise

    Two models are equal only if they are one object. Raises ArgumentError for a prediction, a size or a
    schedule that is none.
    """

    name: str
    net: Net  # (z_t, t, ctx, tap) -> prediction
    schedule: Schedule  # the ᾱ_t of training
    size: Count  # side of the pictures that it was trained on
    prediction: Prediction = "eps"  # what the net was trained to say
    text: Callable[[Tensor], Tensor] | None = None  # tokens (b l) -> ctx (b l d); None: the net reads no text
    tokenizer: Callable[[list[str]], Tensor] | None = None  # texts -> tokens (b l); see nets/tokenizer.py
    vae: AutoencoderKL | None = None  # None: the net works on pixels
    latent_scale: Positive = 1.0  # latents × this have unit variance
    shift: Rounds = 0  # the net calls the level t by t − shift: 1 for public checkpoints, which count from 0
    learned_variance: bool = False  # the net gives v too, as many channels again (arXiv:2102.09672v1, Eq. 15)
    # function -> parameter -> the value that did best with this model: {"sdedit": {"t0": 0.6}}
    recommended: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    listeners: list[Callable[[int], object]] = field(
        init=False, default_factory=list, repr=False, compare=False
    )
    # called after each evaluation of the net with the rows of its batch: see weights/counting.py

    def __post_init__(self) -> None:
        check(Model, vars(self))
        if not isinstance(self.schedule, Schedule):
            raise ArgumentError(
                "schedule", f"must be a Schedule such as Schedule.cosine(), got {self.schedule!r}"
            )

    @property
    def device(self) -> torch.device:
        """Where the net computes."""
        return first_parameter(self.net).device

    @property
    def dtype(self) -> torch.dtype:
        """What the net computes in."""
        return first_parameter(self.net).dtype

    @property
    def factor(self) -> int:
        """Pixels of a picture per cell of its latent, each way: the autoencoder's, 1 without one."""
        return 1 if self.vae is None else self.vae.factor

    @property
    def grid(self) -> int:
        """What rows and columns of a picture must be multiples of."""
        return factor_of(self.net) * self.factor

    @property
    def channels(self) -> int:
        """Of a latent: the autoencoder's; of a picture without one."""
        return channels_of(self.net, 3 if self.vae is None else self.vae.latent_channels)

    @property
    def beside(self) -> int:
        """Channels that the net takes beside the latent, for a picture, a mask, or both; 0 for most
        models."""
        return in_channels_of(self.net, self.channels) - self.channels

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, y, x) of one latent at the training size."""
        return self.channels, self.size // self.factor, self.size // self.factor

    def to(self, device: str | torch.device) -> Model:
        """This model, with its net, text encoder and autoencoder moved to another device, as torch moves
        modules: in place."""
        for part in (self.net, self.text, self.vae):
            if isinstance(part, torch.nn.Module):
                part.to(device)
        return self

    def settle(self, contract: Callable[..., Any], given: Mapping[str, Any]) -> Any:
        """The arguments of a function, None replaced by what this model recommends (arguments.settled):

        t0, w = model.settle(sdedit, dict(t0=t0, w=w))
        """
        values = tuple(settled(contract, self.recommended, given).values())
        return values[0] if len(values) == 1 else values

    def embed(self, prompts: str | Sequence[str]) -> Tensor:
        """Prompts -> (b l d). Raises ValueError for a word that the tokenizer does not know, ArgumentError
        for a model without text."""
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if self.text is None and any(texts):
            raise ArgumentError(
                "prompt",
                f"the model {self.name} was trained without text; leave the prompt empty or choose another "
                "model",
            )
        if self.text is None:
            raise ArgumentError(
                "model",
                f"the model {self.name} was trained without text; this method needs it: choose another model",
            )
        if self.tokenizer is None:
            raise ArgumentError("model", f"the model {self.name} has no tokenizer; make it with tokenizer=")
        tokens = self.tokenizer(texts)
        if isinstance(self.text, TextTransformer):
            held = self.text.tokens.num_embeddings
            if tokens.max() >= held:
                raise ArgumentError(
                    "model",
                    f"the text encoder of {self.name} knows {held} tokens and its tokenizer gives number "
                    f"{tokens.max()}: it was trained with another tokenizer, which is not known here",
                )
        return self.text(tokens.to(self.device))

    def encode(self, pictures: Tensor) -> Tensor:
        """(b 3 y x) in [−1, 1], rows and columns multiples of `grid` -> latents, float32 at least; see
        Autoencoder. No gradients; for them `model.vae.encode(pictures)[0] * model.latent_scale`.
        """
        return _wide(Autoencoder(self.vae, self.latent_scale).encode(self._for_vae(pictures)))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> (b 3 y x) in [−1, 1], float32 at least; see Autoencoder. No gradients; for them
        `model.vae.decode(latents / model.latent_scale)`."""
        return _wide(Autoencoder(self.vae, self.latent_scale).decode(self._for_vae(latents)))

    def _for_vae(self, x: Tensor) -> Tensor:
        """Where the model computes; in the autoencoder's dtype where there is one."""
        return x.to(self.device) if self.vae is None else x.to(self.device, first_parameter(self.vae).dtype)

    def eps(self, z_t: Tensor, t: float, ctx: Tensor | None = None, tap: Tap | None = None) -> Tensor:
        """ε_θ(z_t, t, ctx), whatever the net predicts: (b c y x) -> (b c y x), float32 at least.
        Gradients flow.

        Only the net itself works in half precision: a walk adds up hundreds of small steps, and its state
        is kept in float32. What a net reads beside the latent (the picture of an instruction model, the
        mask of an inpainting model) stands in the channels after it. Raises ArgumentError for another number
        of channels than the net takes."""
        takes = in_channels_of(self.net, z_t.shape[1])
        if z_t.shape[1] != takes:
            raise ArgumentError(
                "model",
                f"the net of {self.name} takes {takes} channels ({self._inputs()}) and is given "
                f"{z_t.shape[1]}; choose a model that was trained for this method",
            )
        return self.eps_and_v(z_t, t, ctx, tap)[0]

    def _inputs(self) -> str:
        """What stands in the channels that the net takes, in words."""
        if self.beside and isinstance(self.net, GlideUNet):
            return "x_t and what glide shows it beside that"
        kinds = {
            0: "a latent alone",
            self.channels: "a latent and a picture beside it, as instruct_pix2pix gives",
            self.channels + 1: "a latent, a mask and a masked picture, for inpainting",
        }
        return kinds.get(self.beside, "of its own kind")

    def eps_and_v(
        self, z_t: Tensor, t: float, ctx: Tensor | None = None, tap: Tap | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """As `eps`, and v (b c y x) beside it, about −1 … 1: where log Σ_θ lies between log β̃ and log β;
        None unless it was learnt.
        """
        t_net = (t - self.shift).clamp(min=0) if isinstance(t, Tensor) else max(t - self.shift, 0)
        out = self.net(z_t.to(self.dtype), t_net, ctx, tap)
        self._check_output(out, z_t)
        out = _wide(out)
        for evaluated in self.listeners:
            evaluated(len(z_t))
        z_t = _wide(z_t)
        out, v = out.chunk(2, dim=1) if self.learned_variance else (out, None)
        return eps_from_output(self.schedule, z_t[:, : out.shape[1]], t, out.to(z_t), self.prediction), v

    def _check_output(self, out: Any, z_t: Tensor) -> None:
        """ArgumentError for a net that answers in another shape than a prediction's."""
        usual = self.channels if hasattr(self.net, "in_channels") else z_t.shape[1]
        c = channels_of(self.net, usual)
        wanted = (len(z_t), c * (1 + self.learned_variance), *z_t.shape[2:])
        if not isinstance(out, Tensor):
            mend = "; of a network of diffusers take .sample" if hasattr(out, "sample") else ""
            raise ArgumentError("net", f"must give a tensor {wanted}, got {type(out).__name__}{mend}")
        if tuple(out.shape) != wanted:
            raise ArgumentError("net", f"must give {wanted} for {tuple(z_t.shape)}, got {tuple(out.shape)}")

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
        prompt, never that under `negative`. No gradients; with them it is `cfg(model.eps, cond, null, w)` of
        samplers/guidance.py. A model without text takes neither prompt nor negative, and ignores w."""
        if isinstance(prompt, str) and isinstance(negative, str) and prompt == negative:
            w = 1.0  # ε_∅ + w (ε_∅ − ε_∅): no need to ask twice
        if self.text is None and not isinstance(negative, Tensor) and negative:
            self.embed(negative)  # says that there is no text
        if self.text is None and not isinstance(prompt, Tensor) and not any(prompt):
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
