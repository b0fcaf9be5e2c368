"""Trained weights, found by name or path, checked, and handed out as one object that a method can use.

    b = load("shapes")                           # shipped: no download, no GPU
    z = b.encode(pictures)                       # (b 3 y x) in [−1, 1] -> latents (b c y' x'), about unit variance
    eps = b.denoiser("a red heart", w=3.)        # a function (z_t, t) -> eps, classifier-free guidance inside
    pictures = b.decode(z)
    b = load("sd-v1-5.ckpt")                     # a public checkpoint, one file or a folder: the same object
    save(b, "mine.safetensors")                  # and back, for others to read
"""
from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nets.attention import Tap
from nets.glide import GlideText, GlideUNet
from nets.reader import Reader
from nets.text import TextTransformer
from nets.tokenizer import Tokenizer, WordTokenizer
from nets.unet import UNet
from nets.vae import AutoencoderKL
from samplers.convert import eps_from_output
from samplers.guidance import Denoiser, cfg, combine
from samplers.schedule import Schedule
from weights.catalogue import KNOWN, known, place
from weights.changes import CHANGES, base_of, folded, make_change
from weights.files import FOLDER, WeightsError, fill, manifest, read_weights, sha256, write_weights
from weights.public import is_public, read_public, save

__all__ = ["Autoencoder", "Bundle", "Oracle", "WeightsError", "find", "load", "load_autoencoder", "load_reader", "names", "save",
           "save_like"]

SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": Schedule.linear, "scaled_linear": Schedule.scaled_linear, "cosine": Schedule.cosine, "geometric": Schedule.geometric}

NETS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {               # kind of a file -> what predicts, what reads the text
    "text2image": (UNet, TextTransformer), "glide": (GlideUNet, GlideText)}


@dataclass(frozen=True)
class Autoencoder:
    """Pictures to latents of about unit variance, and back; latent_scale = 1 / std of the encoder's means (arXiv:2112.10752v2, App. G)."""
    vae: AutoencoderKL | None                    # None: the model works on pixels, and its latents are the pictures
    latent_scale: float = 1.

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """(b 3 y x) in [−1, 1] -> (b c y/f x/f): the mean of q(z|x), scaled. No noise is drawn, so encoding is repeatable."""
        return pictures if self.vae is None else self.latent_scale * self.vae.encode(pictures)[0]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """(b c y/f x/f) -> (b 3 y x), clamped to [−1, 1]."""
        return (latents if self.vae is None else self.vae.decode(latents / self.latent_scale)).clamp(-1, 1)


@dataclass(frozen=True)
class Bundle:
    """Everything that was trained together travels together.

    net: (z_t, t, ctx, tap) -> prediction; text and tokenizer: prompts -> ctx, None for a model without text; vae: None for a pixel
    model; schedule: the ᾱ_t of training; prediction: "eps" or "v", what the net was trained to say; latent_scale: latents × this have
    unit variance; size: side of the pictures it was trained on; shift: the net was trained to call the level t by t − shift (1 for
    public checkpoints, whose levels count from 0); learned_variance: after its prediction the net says v, as many channels again, which
    puts each variance of a step between its bounds (arXiv:2102.09672v1, Eq. 15).
    """
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
        """Prompts -> (b l d). Raises ValueError for a word the tokenizer does not know, or a model without text."""
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if self.text is None:
            mend = "leave the prompt empty or choose another model" if any(texts) else "this method needs it: choose another model"
            raise ValueError(f"{'prompt' if any(texts) else 'model'}: the model {self.name} was trained without text; {mend}")
        tokens = self.tokenizer(texts)
        if isinstance(self.text, TextTransformer) and tokens.max() >= (held := self.text.tokens.num_embeddings):
            raise ValueError(f"model: the text encoder of {self.name} knows {held} tokens and its tokenizer gives number {tokens.max()}: "
                             "it was trained with another tokenizer, which is not known here")
        return self.text(tokens.to(self.device))

    def encode(self, pictures: Tensor) -> Tensor:
        """(b 3 y x) in [−1, 1], rows and columns multiples of `grid` -> latents, float32 at least; see Autoencoder."""
        return _wide(Autoencoder(self.vae, self.latent_scale).encode(pictures.to(self.device, self.dtype)))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> (b 3 y x) in [−1, 1], float32 at least; see Autoencoder."""
        return _wide(Autoencoder(self.vae, self.latent_scale).decode(latents.to(self.device, self.dtype)))

    def eps(self, z_t: Tensor, t: float, ctx: Tensor | None = None, tap: Tap | None = None) -> Tensor:
        """ε_θ(z_t, t, ctx), whatever the net predicts: (b c y x) -> (b c y x), float32 at least. Gradients flow.

        Only the net itself works in half precision: a walk adds up hundreds of small steps, and its state is kept in float32.
        What a net reads beside the latent (the picture of an instruction model, the mask of an inpainting model) stands in the channels
        after it. Raises ValueError for another number of channels than the net takes.
        """
        if isinstance(self.net, (UNet, GlideUNet)) and z_t.shape[1] != (takes := self.net.conv_in.in_channels):
            latent, glide = self.latent_shape[0], isinstance(self.net, GlideUNet)
            beside = {0: "a latent alone", latent: "a latent and a picture beside it, as instruct_pix2pix gives",
                      latent + 1: "a latent, a mask and a masked picture, for inpainting"}.get(takes - latent, "of its own kind")
            beside = "x_t and what glide shows it beside that" if glide and takes > latent else beside
            raise ValueError(f"model: the U-Net of {self.name} takes {takes} channels ({beside}) and is given {z_t.shape[1]}; choose a "
                             "model that was trained for this method")
        return self.eps_and_v(z_t, t, ctx, tap)[0]

    def eps_and_v(self, z_t: Tensor, t: float, ctx: Tensor | None = None, tap: Tap | None = None) -> tuple[Tensor, Tensor | None]:
        """As `eps`, and v (b c y x) beside it, about −1 … 1: where log Σ_θ lies between log β̃ and log β; None unless it was learnt."""
        t_net = (t - self.shift).clamp(min=0) if isinstance(t, Tensor) else max(t - self.shift, 0)
        out = _wide(self.net(z_t.to(self.dtype), t_net, ctx, tap))
        z_t = _wide(z_t)
        out, v = out.chunk(2, dim=1) if self.learned_variance else (out, None)
        return eps_from_output(self.schedule, z_t[:, : out.shape[1]], t, out.to(z_t), self.prediction), v

    def denoiser(self, prompt: str | Sequence[str] | Tensor = "", w: float = 1., negative: str | Tensor = "",
                 tap: Tap | None = None) -> Denoiser:
        """(z_t, t) -> ε̂ under a prompt (text, one text per picture, or an embedding (b l d)), by Eq. (7) with scale w.

        `negative` takes the place of the empty prompt. `tap` sees and edits the attention under the prompt, never that under `negative`.
        No gradients. A model without text takes no prompt and ignores w.
        """
        if isinstance(prompt, str) and isinstance(negative, str) and prompt == negative:
            w = 1.                                             # ε_∅ + w (ε_∅ − ε_∅): no need to ask twice
        if self.text is None and isinstance(prompt, str) and prompt == "":
            return torch.no_grad()(lambda z_t, t: self.eps(z_t, t, tap=tap))
        with torch.no_grad():
            cond, null = (p if isinstance(p, Tensor) else self.embed(p) for p in (prompt, negative))
        if tap is None:
            return torch.no_grad()(cfg(self.eps, cond, null, w))
        tapped = cfg(lambda z_t, t, ctx: self.eps(z_t, t, ctx, tap), cond, null, 1.)
        plain = cfg(self.eps, cond, null, 0.)
        return torch.no_grad()(lambda z_t, t: tapped(z_t, t) if w == 1 else combine(plain(z_t, t), tapped(z_t, t), w))


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))


@dataclass(frozen=True)
class Oracle:
    """The reader of the shapes world as a judge."""
    net: Reader
    values: dict[str, tuple[str, ...]]           # attribute -> its values, in the order of the logits

    @torch.no_grad()
    def read(self, pictures: Tensor) -> list[dict[str, str]]:
        """Every attribute of every picture (b 3 64 64)."""
        parts = [self.net(part) for part in self._seen(pictures)]
        found = {name: torch.cat([p[name] for p in parts]).argmax(1).tolist() for name in self.values}
        return [{name: self.values[name][found[name][i]] for name in self.values} for i in range(len(pictures))]

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """What KID and FID compare sets of pictures by: (b 3 64 64) -> (b d), on the CPU. Only figures of one reader can be compared."""
        return torch.cat([self.net.features(part).cpu() for part in self._seen(pictures)])

    @torch.no_grad()
    def maps(self, pictures: Tensor) -> Tensor:
        """What two pictures are compared by, place by place (metrics.features.perceptual): (b 3 64 64) -> (b n d), on the CPU."""
        return torch.cat([self.net.map(part).cpu() for part in self._seen(pictures)])

    def _seen(self, pictures: Tensor) -> Iterator[Tensor]:
        """Some at a time, where the net is."""
        return (part.to(next(self.net.parameters()).device) for part in pictures.split(256))

    def right(self, pictures: Tensor, wanted: Sequence[dict[str, str]]) -> Tensor:
        """Whether every wanted attribute is read off each picture: (b,) bool. An attribute that is not asked for does not count."""
        return torch.tensor([all(r[k] == v for k, v in w.items()) for r, w in zip(self.read(pictures), wanted, strict=True)])


# --------------------------------------------------------------------------- loading

def names() -> list[str]:
    """The shipped models, by the name that `load` takes (autoencoders and readers have loaders of their own)."""
    return [file.removesuffix(".safetensors") for file, record in manifest().items() if record["kind"] in NETS]


def find(name_or_path: str | Path) -> Path:
    """The file of a path, of a shipped name, or of a public one that was fetched before (weights/catalogue.py).

    Raises WeightsError where there is none, with the command that fetches it or the names most like it.
    """
    text = str(name_or_path)
    if text.endswith((".safetensors", ".ckpt")) or Path(text).is_file():
        return Path(text)
    path = FOLDER / f"{text}.safetensors"
    if not path.exists():
        if Path(text).is_dir():                                # a folder of a shipped model's name does not hide the model
            return Path(text)
        if (public := known(text)) is not None and public.kind == "model":
            return place(public)                               # of those on this disk: nothing is downloaded here
        near = difflib.get_close_matches(text, [*names(), *(k.name for k in KNOWN if k.kind == "model")], n=2, cutoff=.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"shipped models: {', '.join(names()) or 'none'}"
        raise WeightsError(f"model: no model named {text!r} and no such file; {hint}")
    return path


def _read(name_or_path: str | Path, *kinds: str) -> tuple[Path, dict, dict[str, Tensor]]:
    path = find(name_or_path)
    config, tensors = read_weights(path)
    if config.get("kind") not in kinds:
        raise WeightsError(f"model: {path.name} holds a {config.get('kind')} model, and a {' or '.join(kinds)} model is needed here")
    return path, config, tensors


@contextmanager
def _building(path: Path) -> Iterator[None]:
    """A configuration that lacks what is needed, or asks for what is not known, is the file's fault."""
    try:
        yield
    except WeightsError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"model: {path} holds a configuration that this version cannot build "
                           f"({type(error).__name__}: {error}); train it again") from None


def pick_device(device: str | torch.device) -> torch.device:
    """The device of that name, "auto" for the GPU where there is one. Raises ValueError where it is not to be had.

    On "meta" nets have shapes and no numbers: nothing is computed there, but what it would cost can be seen (weights/estimate.py).
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if str(device) == "meta":
        return torch.device("meta")
    try:
        found = torch.device(device)
        torch.empty(1, device=found).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device: {device!r} is not to be had here ({str(error).splitlines()[0][:80]}); use cpu") from None
    return found


def own_device(name: str) -> torch.device:
    """The device that this process trains on; under torchrun each has a GPU of its own. Raises ValueError where it is not to be had."""
    device = pick_device(name)
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if device.type == "cuda" and device.index is None else device


def pick_dtype(device: torch.device) -> torch.dtype:
    """What nets run in on a device unless said otherwise: float16 on a GPU, float32 elsewhere."""
    return torch.float16 if device.type == "cuda" else torch.float32


def load_autoencoder(name_or_path: str | Path = "shapes-vae", device: str | torch.device = "cpu") -> Autoencoder:
    """The autoencoder alone."""
    path, config, tensors = _read(name_or_path, "vae")
    device = pick_device(device)
    with _building(path):
        return Autoencoder(fill(AutoencoderKL(**config["vae"]), tensors, "vae", path).to(device), config["latent_scale"])


def load_reader(name_or_path: str | Path = "shapes-reader", device: str | torch.device = "cpu") -> Oracle:
    """The oracle reader."""
    path, config, tensors = _read(name_or_path, "reader")
    device = pick_device(device)
    with _building(path):
        values = {name: tuple(v) for name, v in config["values"].items()}
        net = Reader(attributes={name: len(v) for name, v in values.items()}, **config["reader"])
        return Oracle(fill(net, tensors, "reader", path).to(device), values)


def load(name_or_path: str | Path = "shapes", device: str | torch.device = "auto", dtype: torch.dtype | None = None) -> Bundle:
    """A trained model as a Bundle, by shipped name, by path, or by the name of a public checkpoint that is on this disk; offline.

    The file is hash-checked if it is a shipped one, opened without running code, and loaded strictly. A latent model names its autoencoder,
    which is taken from beside the file or from the shipped ones. `dtype`: of the nets; None is float16 on a GPU, where the U-Net and the
    autoencoder are also laid out channels_last, and float32 elsewhere. What follows gradients or is measured wants torch.float32 by name.
    A path may also lead to a public checkpoint, a file or a folder (weights/public.py); its weights stay mapped from the disk where no
    conversion is asked for. A file that changes a model (weights/changes.py) gives that model, changed.
    Raises WeightsError (a ValueError) for an unknown name, a damaged file, or a file that holds something else.
    """
    device = pick_device(device)
    dtype = dtype or pick_dtype(device)
    if device.type == "cpu" and dtype == torch.float16:
        raise ValueError("dtype: float16 is neither fast nor exact on a CPU; use float32 (or bfloat16)")
    if is_public(path := find(name_or_path)):
        return _laid_out(Bundle(**read_public(path, device, dtype)))
    path, config, tensors = _read(path, *NETS, *CHANGES)
    if config["kind"] in CHANGES:
        with _building(path):
            return make_change(load(base_of(path, config, find), device, dtype), config, tensors, path)
    with _building(path):
        net, text = (kind(**config[part]) for kind, part in zip(NETS[config["kind"]], ("net", "text")))
        autoencoder = Autoencoder(None)
        if config["vae"] is not None:
            beside = path.with_name(f"{config['vae']}.safetensors")
            vae = beside if beside.exists() else find(config["vae"])
            if config.get("vae_sha256", sha256(vae)) != sha256(vae):
                raise WeightsError(f"model: {path} was trained on the latents of another {vae.name}; put that file beside it")
            autoencoder = load_autoencoder(vae)
        schedule = dict(config["schedule"])
        return _laid_out(Bundle(
            name=path.stem, net=fill(net, tensors, "net", path).to(device, dtype), text=fill(text, tensors, "text", path).to(device, dtype),
            tokenizer=WordTokenizer(config["words"], config["text"]["length"]),
            vae=autoencoder.vae.to(device, dtype) if autoencoder.vae is not None else None,
            schedule=SCHEDULES[schedule.pop("name")](**schedule), prediction=config["prediction"], latent_scale=autoencoder.latent_scale,
            size=config["size"], learned_variance=isinstance(net, GlideUNet)))


def save_like(b: Bundle, source: str | Path, path: str | Path) -> Path:
    """Write a Bundle that a fine-tuning made of the model `source`, so that `load` opens it: in the kind of file that it came from.

    A file of ours keeps its header, so its record says what it was trained from, and its autoencoder, if that is not a shipped one, is
    copied beside it; a public checkpoint is written by `save`.
    """
    if is_public(found := find(source)):
        return save(b, path)
    b = folded(b)
    config = read_weights(found)[0]
    if config["vae"] is not None and (beside := found.with_name(f"{config['vae']}.safetensors")).exists() and beside.parent != FOLDER:
        if not (there := Path(path).with_name(beside.name)).exists() or not there.samefile(beside):
            shutil.copy(beside, there)
    return write_weights(path, {"net": b.net, "text": b.text}, config, torch.float32)


def _laid_out(b: Bundle) -> Bundle:
    """On a GPU the channels of a pixel lie side by side, as its convolutions read them."""
    for module in (b.net, b.vae):
        if module is not None and b.device.type == "cuda":
            module.to(memory_format=torch.channels_last)
    return b
