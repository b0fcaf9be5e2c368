"""Trained weights, found by name or path, checked, and handed out as one object that a method can use.

model = load("shapes")                       # shipped: no download, no GPU
model = load("sd-v1-5.ckpt")                 # a public checkpoint, one file or a folder: the same object
save(model, "mine.safetensors")              # and back, for others to read (weights/public/checkpoint.py)
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from palimpsest.arguments import ArgumentError, listed
from palimpsest.nets.glide import GlideText, GlideUNet
from palimpsest.nets.net import in_channels_of
from palimpsest.nets.text import TextTransformer
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.nets.unet import UNet
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.outputs import OutputError, check_outputs, copy_file
from palimpsest.processor import cpu_has_bfloat16
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.changes import CHANGES, apply_change, base_of, bases_of, merged_model
from palimpsest.weights.files import (
    FOLDER,
    WeightsError,
    built,
    config_in,
    manifest,
    read_weights,
    sha256,
    write_weights,
)
from palimpsest.weights.model import Autoencoder, Model
from palimpsest.weights.words import word_tokenizer

DTYPES = ("auto", "float32", "bfloat16", "float16")
DType = torch.dtype | Literal["auto", "float32", "bfloat16", "float16"]
LARGE = 10**8  # parameters, from which on half of the bytes pays on a CPU
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
        from palimpsest.weights.public.catalogue import (  # read only where it is needed
            PUBLISHED,
            lookup,
            require_on_disk,
        )

        if (public := lookup(text)) is not None and public.kind == "model":
            return require_on_disk(public)  # of those on this disk: nothing is downloaded here
        near = difflib.get_close_matches(
            text, [*names(), *(k.name for k in PUBLISHED if k.kind == "model")], n=2, cutoff=0.4
        )
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"shipped models: {', '.join(names()) or 'none'}"
        )
        raise WeightsError(f"model: no model named {text!r} and no such file; {hint}")
    return path


def read_kind(name_or_path: str | Path, *kinds: str) -> tuple[Path, dict, dict[str, Tensor]]:
    """(path, configuration, tensors) of a file of ours. Raises WeightsError for one of another kind than
    these."""
    path = find(name_or_path)
    config, tensors = read_weights(path)
    if config.get("kind") not in kinds:
        raise WeightsError(
            f"model: {path.name} holds a {config.get('kind')} model, and a {' or '.join(kinds)} model is "
            "needed here"
        )
    check_numbers(path, config, tensors)
    return path, config, tensors


LEVELS = 100_000  # of a schedule; papers take 1000 to 4000


def check_numbers(path: Path, config: dict, tensors: dict[str, Tensor]) -> None:
    """Raises WeightsError for a configuration of nets that are far larger than the file's tensors, before
    they are built: more blocks than tensors, or a width that none of them has, would fill the memory; and
    for a schedule of more than LEVELS levels.
    """
    sides = max((side for tensor in tensors.values() for side in tensor.shape), default=0)
    for part, net in config.items():
        counts = isinstance(net, dict) and part != "taught"  # the numbers of taught words are their tokens
        for name, value in net.items() if counts else ():
            most = len(tensors) if name in ("blocks", "layers") else max(1024, sides)
            most = LEVELS if part == "schedule" else most
            numbers = [one for one in (value if isinstance(value, list) else [value]) if type(one) is int]
            if any(one > (64 if isinstance(value, list) else most) for one in numbers):
                raise WeightsError(
                    f"model: {path} describes a {part} with {name} {value}, which is more than can be meant; "
                    "train it again"
                )


@contextmanager
def building(path: Path) -> Iterator[None]:
    """A configuration that lacks what is needed, or asks for what is not known, is the file's fault."""
    try:
        yield
    except WeightsError:
        raise
    except (AttributeError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}".split("\n")[0][:200]
        raise WeightsError(
            f"model: {path} holds a configuration that this version cannot build ({why}); train it again"
        ) from None


def pick_device(device: str | torch.device) -> torch.device:
    """The device of that name, "auto" for the GPU where there is one. Raises ArgumentError where it is not
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
        raise ArgumentError(
            "device", f"{device!r} is not to be had here ({str(error).splitlines()[0][:80]}); use cpu"
        ) from None
    return found


def own_device(name: str) -> torch.device:
    """The device that this process trains on; under torchrun each has a GPU of its own. Raises
    ArgumentError where it is not to be had.
    """
    device = pick_device(name)
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        if device.type == "cuda" and device.index is None
        else device
    )


def pick_dtype(device: torch.device, parameters: int, asked: DType = "auto") -> torch.dtype:
    """What nets of so many parameters run in on a device. Raises ArgumentError for float16 on a CPU.

    auto: float16 on a GPU; on a CPU with units for it bfloat16 where the nets are LARGE; float32 elsewhere.
    """
    if (
        not isinstance(asked, torch.dtype)
        and asked not in DTYPES
        or not getattr(asked, "is_floating_point", True)
    ):
        raise ArgumentError("dtype", f"must be {listed(DTYPES)}, got {asked!r}")
    if asked != "auto":
        dtype = asked if isinstance(asked, torch.dtype) else getattr(torch, asked)
        if device.type == "cpu" and dtype == torch.float16:
            raise ArgumentError(
                "dtype", "float16 is neither fast nor exact on a CPU; use float32 (or bfloat16)"
            )
        return dtype
    if device.type == "cuda":
        return torch.float16
    has_units = device.type == "cpu" and cpu_has_bfloat16()
    return torch.bfloat16 if has_units and parameters > LARGE else torch.float32


def load_autoencoder(
    name_or_path: str | Path = "shapes-vae", device: str | torch.device = "cpu"
) -> Autoencoder:
    """The autoencoder alone."""
    path, config, tensors = read_kind(name_or_path, "vae")
    device = pick_device(device)
    with building(path):
        return Autoencoder(
            built(AutoencoderKL, config["vae"], tensors, "vae", path).to(device), config["latent_scale"]
        )


def load(
    name_or_path: str | Path = "shapes",
    device: str | torch.device = "auto",
    dtype: DType = "auto",
    *,
    lora: str | Path | Sequence[str | Path] = (),
    embedding: str | Path | Sequence[str | Path] = (),
) -> Model:
    """A trained model as a Model, by shipped name, by path, or by the name of a public checkpoint that is
    on this disk; offline.

    The file is hash-checked if it is a shipped one, opened without running code, and loaded strictly. A
    latent model names its autoencoder, which is taken from beside the file or from the shipped ones.
    `dtype`: of the nets, a torch.dtype or its name; "auto" see `pick_dtype`. What follows gradients or is
    measured wants torch.float32 by name. On a GPU the U-Net and the autoencoder are also laid out
    channels_last. A path may also lead to a public checkpoint, a file or a folder
    (weights/public/checkpoint.py); its weights stay mapped from the disk where no conversion is asked for. A
    file that changes a model (weights/changes.py) gives that model, changed.

    lora: "FILE" or "FILE:SCALE", one or several: low-rank changes of other programs, or of this one, put into
    the model's maps (weights/public/lora.py). embedding: "FILE" or "FILE=WORD": textual-inversion words,
    which its tokenizer then knows (weights/public/embeddings.py).

    Raises WeightsError (a ValueError) for an unknown name, a damaged file, or a file that holds something
    else; ArgumentError for a LoRA or an embedding that does not fit."""
    device = pick_device(device)
    pick_dtype(device, 0, dtype)  # refuses one that cannot be, before the file is read
    model = _loaded(find(name_or_path), device, dtype)
    if lora:
        from palimpsest.weights.public.lora import with_loras

        model = with_loras(model, lora)
    if embedding:
        from palimpsest.weights.public.embeddings import with_words

        model = with_words(model, embedding)
    return channels_last(model)


def _loaded(path: Path, device: torch.device, dtype: DType) -> Model:
    """The model of a file or folder, of either kind."""
    if is_public(path):
        from palimpsest.weights.public.checkpoint import read_public

        parameters = 0
        if dtype == "auto" and device.type == "cpu" and cpu_has_bfloat16():
            shapes = read_public(path, torch.device("meta"), torch.float32)
            parameters = count_parameters(Model(**shapes))
        return Model(**read_public(path, device, pick_dtype(device, parameters, dtype)))
    path, config, tensors = read_kind(path, *NETS, *CHANGES)
    with building(path):
        if config["kind"] in CHANGES:
            return apply_change(_loaded(base_of(path, config, find), device, dtype), config, tensors, path)
        chosen = pick_dtype(device, sum(t.numel() for t in tensors.values()), dtype)
        return _assembled(path, config, tensors, device, chosen)


def count_parameters(model: Model) -> int:
    """Of the U-Net, the text encoder and the autoencoder."""
    nets = [net for net in (model.net, model.text, model.vae) if net is not None]
    return sum(p.numel() for net in nets for p in net.parameters())


def is_public(path: Path) -> bool:
    """Whether a file or folder is a public checkpoint (weights/public/checkpoint.py), and none of this
    library's own."""
    if path.resolve().parent == FOLDER.resolve():
        return False  # it ships with this library; the readers of others' files need not be imported
    from palimpsest.weights.public.checkpoint import is_public

    return is_public(path)


def _assembled(
    path: Path, config: dict, tensors: dict[str, Tensor], device: torch.device, dtype: torch.dtype
) -> Model:
    """The model of a file of ours: its nets built and filled, its autoencoder fetched from beside it."""
    build_net, build_text = NETS[config["kind"]]
    net = built(build_net, config["net"], tensors, "net", path)
    text = built(build_text, config["text"], tensors, "text", path)
    autoencoder = _autoencoder_of(path, config)
    schedule = dict(config["schedule"])
    channels = 3 if autoencoder.vae is None else autoencoder.vae.latent_channels
    beside = in_channels_of(net, channels) - channels
    instructed = beside == channels and not isinstance(net, GlideUNet)  # a picture beside the latent
    shipped = path.resolve().parent == FOLDER.resolve()
    advice = config.get("recommended") or (recommended(path.name) if shipped else {})
    return Model(
        name=path.stem,
        net=net.to(device, dtype),
        text=text.to(device, dtype),
        tokenizer=word_tokenizer(
            config["words"], config["text"]["length"], free=bool(config.get("free")) or instructed
        ).with_taught(config.get("taught", {})),
        vae=None if autoencoder.vae is None else autoencoder.vae.to(device, dtype),
        schedule=SCHEDULES[schedule.pop("name")](**schedule),
        prediction=config["prediction"],
        latent_scale=autoencoder.latent_scale,
        size=config["size"],
        learned_variance=isinstance(net, GlideUNet),
        recommended={name: dict(values) for name, values in advice.items()},
    )


def recommended(file: str) -> dict[str, dict]:
    """What `make bench` found best for a shipped file: function -> parameter -> value."""
    return manifest().get(file, {}).get("recommended", {})


def _autoencoder_of(path: Path, config: dict) -> Autoencoder:
    """The autoencoder that a file names, from beside it or from the shipped ones; an empty one for a pixel
    model.

    Raises WeightsError where it is not the one on whose latents the model was trained."""
    if config["vae"] is None:
        return Autoencoder(None)
    found, digest = _autoencoder_files(path, config), config.get("vae_sha256")
    file = next((one for one in found if digest in (None, sha256(one))), None)
    if file is None and found:
        raise WeightsError(
            f"model: {path} was trained on the latents of another {found[0].name}; put that file beside it"
        )
    return load_autoencoder(file or find(config["vae"]))


def _autoencoder_files(path: Path, config: dict) -> list[Path]:
    """What may be the autoencoder that a file of ours names: beside it, then of the shipped ones."""
    if not isinstance(config.get("vae"), str):
        return []
    name = f"{config['vae']}.safetensors"
    return [file for file in (path.with_name(name), FOLDER / name) if file.is_file()]


def files_of(name_or_path: str | Path) -> list[Path]:
    """The files that loading a model reads: its own, its autoencoder's, those of the model that it changes,
    those in its folder. None where there is no such model. Nothing is read but headers."""
    try:
        path = find(name_or_path)
    except WeightsError:
        return []
    if path.is_dir():
        return [file for pattern in ("*", "*/*") for file in path.glob(pattern) if file.is_file()]
    config = config_in(path)
    bases = bases_of(path, config, find) if config.get("kind") in CHANGES else []
    return [path, *_autoencoder_files(path, config), *(file for base in bases for file in files_of(base))]


def origin(name_or_path: str | Path) -> Path:
    """The file or folder that holds a whole model: of a change, that of the model which it changes."""
    path = find(name_or_path)
    while path.is_file() and (config := config_in(path)).get("kind") in CHANGES:
        path = base_of(path, config, find)
    return path


def companion(source: str | Path, path: str | Path) -> tuple[Path, Path] | None:
    """The autoencoder that must come to lie beside `path`, if a model made of `source` is written there: the
    file, and where it goes. None where none is needed, or it is there.

    Raises OutputError where another file is in its place."""
    found = origin(source)
    files = _autoencoder_files(found, config_in(found))
    if not files or files[0].resolve().parent == FOLDER.resolve():
        return None
    there = Path(path).with_name(files[0].name)
    if not there.exists():
        return files[0], there
    if sha256(there) != sha256(files[0]):
        raise OutputError(
            f"cannot write {path}: beside it lies another {there.name} than the model's; take another folder"
        )
    return None


def save_like(model: Model, source: str | Path, path: str | Path) -> Path:
    """Write a Model that a fine-tuning made of the model `source`, so that `load` opens it: in the kind
    of file that it came from.

    A file of ours keeps its header, so its record says what it was trained from, and its autoencoder, if
    that is not a shipped one, is copied beside it; a public checkpoint is written by `save`. Raises
    ArgumentError where `path` is one of the source's files."""
    check_outputs({"source": files_of(source)}, {"path": [path]})
    if is_public(found := origin(source)):
        from palimpsest.weights.public.checkpoint import save

        return save(model, path)
    model = merged_model(model)
    if (pair := companion(source, path)) is not None:
        copy_file(*pair)
    config = config_in(found)
    if "words" in config and isinstance(model.tokenizer, WordTokenizer):  # it may have learned words
        config |= dict(words=model.tokenizer.words)
        config |= dict(text=config["text"] | dict(vocab=model.text.tokens.num_embeddings))
        # it learned from captions as they were written
        if model.tokenizer.whole is None and model.beside != model.channels:
            config |= dict(free=config.get("free") or 1.0)
    # words beside those of the header, and their rows
    if model.tokenizer is not None and model.tokenizer.taught:
        vocab = model.text.tokens.num_embeddings
        config |= dict(taught=dict(model.tokenizer.taught), text=config["text"] | dict(vocab=vocab))
    if model.recommended:
        config |= dict(recommended={name: dict(values) for name, values in model.recommended.items()})
    return write_weights(path, {"net": model.net, "text": model.text}, config, torch.float32)


def channels_last(model: Model) -> Model:
    """On a GPU the channels of a pixel lie side by side, as its convolutions read them."""
    for module in (model.net, model.vae):
        if module is not None and model.device.type == "cuda":
            module.to(memory_format=torch.channels_last)
    return model
