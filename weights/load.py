"""Trained weights, found by name or path, checked, and handed out as one object that a method can use.

b = load("shapes")                           # shipped: no download, no GPU
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

from palimpsest.nets.glide import GlideText, GlideUNet
from palimpsest.nets.judges.reader import Reader
from palimpsest.nets.text import TextTransformer
from palimpsest.nets.unet import UNet
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.changes import CHANGES, base_of, folded, make_change
from palimpsest.weights.files import FOLDER, WeightsError, fill, manifest, read_weights, sha256, write_weights
from palimpsest.weights.model import Autoencoder, Model
from palimpsest.weights.public.catalogue import KNOWN, known, place
from palimpsest.weights.public.checkpoint import is_public, read_public, save
from palimpsest.weights.public.parts import word_tokenizer

SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": Schedule.linear,
    "scaled_linear": Schedule.scaled_linear,
    "cosine": Schedule.cosine,
    "geometric": Schedule.geometric,
}

NETS: dict[
    str, tuple[type[nn.Module], type[nn.Module]]
] = {  # kind of a file -> what predicts, what reads the text
    "text2image": (UNet, TextTransformer),
    "glide": (GlideUNet, GlideText),
}


@dataclass(frozen=True)
class Oracle:
    """The reader of the shapes world as a judge."""

    net: Reader
    values: dict[str, tuple[str, ...]]  # attribute -> its values, in the order of the logits

    @torch.no_grad()
    def read(self, pictures: Tensor) -> list[dict[str, str]]:
        """Every attribute of every picture (b 3 64 64)."""
        parts = [self.net(part) for part in self._seen(pictures)]
        found = {name: torch.cat([p[name] for p in parts]).argmax(1).tolist() for name in self.values}
        return [
            {name: self.values[name][found[name][i]] for name in self.values} for i in range(len(pictures))
        ]

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """What KID and FID compare sets of pictures by: (b 3 64 64) -> (b d), on the CPU. Only figures of
        one reader can be compared.
        """
        return torch.cat([self.net.features(part).cpu() for part in self._seen(pictures)])

    @torch.no_grad()
    def maps(self, pictures: Tensor) -> Tensor:
        """What two pictures are compared by, place by place (metrics.features.perceptual): (b 3 64 64) ->
        (b n d), on the CPU.
        """
        return torch.cat([self.net.map(part).cpu() for part in self._seen(pictures)])

    def _seen(self, pictures: Tensor) -> Iterator[Tensor]:
        """Some at a time, where the net is."""
        return (part.to(next(self.net.parameters()).device) for part in pictures.split(256))

    def right(self, pictures: Tensor, wanted: Sequence[dict[str, str]]) -> Tensor:
        """Whether every wanted attribute is read off each picture: (b,) bool. An attribute that is not
        asked for does not count.
        """
        return torch.tensor(
            [all(r[k] == v for k, v in w.items()) for r, w in zip(self.read(pictures), wanted, strict=True)]
        )


# --------------------------------------------------------------------------- loading


def names() -> list[str]:
    """The shipped models, by the name that `load` takes (autoencoders and readers have loaders of their
    own).
    """
    return [
        file.removesuffix(".safetensors") for file, record in manifest().items() if record["kind"] in NETS
    ]


def find(name_or_path: str | Path) -> Path:
    """The file of a path, of a shipped name, or of a public one that was fetched before
    (weights/public/catalogue.py).

    Raises WeightsError where there is none, with the command that fetches it or the names most like it.
    """
    text = str(name_or_path)
    if text.endswith((".safetensors", ".ckpt")) or Path(text).is_file():
        return Path(text)
    path = FOLDER / f"{text}.safetensors"
    if not path.exists():
        if Path(text).is_dir():  # a folder of a shipped model's name does not hide the model
            return Path(text)
        if (public := known(text)) is not None and public.kind == "model":
            return place(public)  # of those on this disk: nothing is downloaded here
        near = difflib.get_close_matches(
            text, [*names(), *(k.name for k in KNOWN if k.kind == "model")], n=2, cutoff=0.4
        )
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"shipped models: {', '.join(names()) or 'none'}"
        )
        raise WeightsError(f"model: no model named {text!r} and no such file; {hint}")
    return path


def _read(name_or_path: str | Path, *kinds: str) -> tuple[Path, dict, dict[str, Tensor]]:
    path = find(name_or_path)
    config, tensors = read_weights(path)
    if config.get("kind") not in kinds:
        raise WeightsError(
            f"model: {path.name} holds a {config.get('kind')} model, and a {' or '.join(kinds)} model is needed here"
        )
    return path, config, tensors


@contextmanager
def _building(path: Path) -> Iterator[None]:
    """A configuration that lacks what is needed, or asks for what is not known, is the file's fault."""
    try:
        yield
    except WeightsError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"model: {path} holds a configuration that this version cannot build "
            f"({type(error).__name__}: {error}); train it again"
        ) from None


def pick_device(device: str | torch.device) -> torch.device:
    """The device of that name, "auto" for the GPU where there is one. Raises ValueError where it is not
    to be had.

    On "meta" nets have shapes and no numbers: nothing is computed there, but what it would cost can be
    seen (weights/estimate.py)."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if str(device) == "meta":
        return torch.device("meta")
    try:
        found = torch.device(device)
        torch.empty(1, device=found).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device: {device!r} is not to be had here ({str(error).splitlines()[0][:80]}); use cpu"
        ) from None
    return found


def own_device(name: str) -> torch.device:
    """The device that this process trains on; under torchrun each has a GPU of its own. Raises ValueError
    where it is not to be had.
    """
    device = pick_device(name)
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        if device.type == "cuda" and device.index is None
        else device
    )


def pick_dtype(device: torch.device) -> torch.dtype:
    """What nets run in on a device unless said otherwise: float16 on a GPU, float32 elsewhere."""
    return torch.float16 if device.type == "cuda" else torch.float32


def load_autoencoder(
    name_or_path: str | Path = "shapes-vae", device: str | torch.device = "cpu"
) -> Autoencoder:
    """The autoencoder alone."""
    path, config, tensors = _read(name_or_path, "vae")
    device = pick_device(device)
    with _building(path):
        return Autoencoder(
            fill(AutoencoderKL(**config["vae"]), tensors, "vae", path).to(device), config["latent_scale"]
        )


def load_reader(name_or_path: str | Path = "shapes-reader", device: str | torch.device = "cpu") -> Oracle:
    """The oracle reader."""
    path, config, tensors = _read(name_or_path, "reader")
    device = pick_device(device)
    with _building(path):
        values = {name: tuple(v) for name, v in config["values"].items()}
        net = Reader(attributes={name: len(v) for name, v in values.items()}, **config["reader"])
        return Oracle(fill(net, tensors, "reader", path).to(device), values)


def load(
    name_or_path: str | Path = "shapes", device: str | torch.device = "auto", dtype: torch.dtype | None = None
) -> Model:
    """A trained model as a Model, by shipped name, by path, or by the name of a public checkpoint that is
    on this disk; offline.

    The file is hash-checked if it is a shipped one, opened without running code, and loaded strictly. A
    latent model names its autoencoder, which is taken from beside the file or from the shipped ones.
    `dtype`: of the nets; None is float16 on a GPU, where the U-Net and the autoencoder are also laid out
    channels_last, and float32 elsewhere. What follows gradients or is measured wants torch.float32 by
    name. A path may also lead to a public checkpoint, a file or a folder (weights/public/checkpoint.py);
    its weights stay mapped from the disk where no conversion is asked for. A file that changes a model
    (weights/changes.py) gives that model, changed. Raises WeightsError (a ValueError) for an unknown
    name, a damaged file, or a file that holds something else."""
    device = pick_device(device)
    dtype = dtype or pick_dtype(device)
    if device.type == "cpu" and dtype == torch.float16:
        raise ValueError("dtype: float16 is neither fast nor exact on a CPU; use float32 (or bfloat16)")
    if is_public(path := find(name_or_path)):
        return _laid_out(Model(**read_public(path, device, dtype)))
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
                raise WeightsError(
                    f"model: {path} was trained on the latents of another {vae.name}; put that file beside it"
                )
            autoencoder = load_autoencoder(vae)
        schedule = dict(config["schedule"])
        return _laid_out(
            Model(
                name=path.stem,
                net=fill(net, tensors, "net", path).to(device, dtype),
                text=fill(text, tensors, "text", path).to(device, dtype),
                tokenizer=word_tokenizer(config["words"], config["text"]["length"]),
                vae=autoencoder.vae.to(device, dtype) if autoencoder.vae is not None else None,
                schedule=SCHEDULES[schedule.pop("name")](**schedule),
                prediction=config["prediction"],
                latent_scale=autoencoder.latent_scale,
                size=config["size"],
                learned_variance=isinstance(net, GlideUNet),
            )
        )


def save_like(model: Model, source: str | Path, path: str | Path) -> Path:
    """Write a Model that a fine-tuning made of the model `source`, so that `load` opens it: in the kind
    of file that it came from.

    A file of ours keeps its header, so its record says what it was trained from, and its autoencoder, if
    that is not a shipped one, is copied beside it; a public checkpoint is written by `save`."""
    if is_public(found := find(source)):
        return save(model, path)
    model = folded(model)
    config = read_weights(found)[0]
    if (
        config["vae"] is not None
        and (beside := found.with_name(f"{config['vae']}.safetensors")).exists()
        and beside.parent != FOLDER
    ):
        if not (there := Path(path).with_name(beside.name)).exists() or not there.samefile(beside):
            shutil.copy(beside, there)
    return write_weights(path, {"net": model.net, "text": model.text}, config, torch.float32)


def _laid_out(model: Model) -> Model:
    """On a GPU the channels of a pixel lie side by side, as its convolutions read them."""
    for module in (model.net, model.vae):
        if module is not None and model.device.type == "cuda":
            module.to(memory_format=torch.channels_last)
    return model
