"""LoRA files of other programs, put into the maps of a model: W = W_0 + s (α/r) B A, Eq. (3) of
arXiv:2106.09685v2 with a strength s of the user's.

    load("sd-v1-5.safetensors", lora="style.safetensors:0.8")
    load("shapes", lora=["mine/model.safetensors", "other.safetensors:0.5"])

Read are those of diffusers, peft and kohya (also for convolutions: LoCon), and the first ones, whose maps
are numbered and which may teach words beside them: weights/public/lora_names.py. Also what `palimpsest
dreambooth --rank` writes. All of a file is applied or none of it.

    A, down (r in y x)    B, up (out r)    r rank    α alpha, which is r where a file does not say it
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from palimpsest.arguments import ArgumentError
from palimpsest.weights.changes import merged_model
from palimpsest.weights.model import Model
from palimpsest.weights.public.embeddings import read_as, teach
from palimpsest.weights.public.lora_names import (
    NUMBERED,
    Key,
    foreign,
    is_lora,
    maps_by_name,
    maps_by_number,
    parse,
)
from palimpsest.weights.public.mapped import contents_of, first_few, header_of, read_json

IN_FOLDER = [  # where diffusers and peft put a LoRA in a folder
    f"{stem}.{end}" for stem in ("pytorch_lora_weights", "adapter_model") for end in ("safetensors", "bin")
]
BUNDLED = re.compile(r"bundle_emb\.(.+)\.string_to_param\.\*$")  # kohya's place for words taught beside
FAMILIES = {
    768: "Stable Diffusion v1",
    1024: "Stable Diffusion 2",
    2048: "Stable Diffusion XL",
}  # width of ctx


class Change(NamedTuple):
    """What is added to one map of a model."""

    part: str  # "net" or "text"
    name: str  # of the map, in that part
    key: str  # one of the file's, for messages
    down: Tensor  # A (r in), of a convolution (r in y x)
    up: Tensor  # B (out r), of a convolution (out r 1 1)
    alpha: float


class Found(NamedTuple):
    """A file as it was read, nothing of it placed yet."""

    path: Path
    tensors: dict[str, Tensor]
    header: Mapping[str, str]  # of a safetensors file
    ours: Mapping[str, Any]  # the header of a file of this library, {} in others
    adapter: Mapping[str, Any]  # adapter_config.json beside a file of peft's


# ---- use ----


def with_loras(model: Model, given: str | Path | Sequence[str | Path]) -> Model:
    """The freshly loaded model, changed by these files, FILE or FILE:SCALE each.

    Raises ArgumentError for a file that is no LoRA, is of a kind that is not read here, or does not fit.
    """
    model = merged_model(model)
    for one in [given] if isinstance(given, (str, Path)) else given:
        path, scale = split_scale(one)
        found = read_file(path)
        check_family(found, model)
        changes, words = placed(found, model)
        for change in changes:
            check_fits(found.path, change, model)
        for change in changes:
            fold(getattr(model, change.part).get_submodule(change.name), change, scale)
        model = teach(model, words, found.path, "lora") if words else model
    return model


@torch.no_grad()
def fold(module: nn.Linear | nn.Conv2d, change: Change, scale: float) -> None:
    """W = W_0 + s (α/r) B A; the file from which W_0 may be mapped is not written to."""
    old, rank = module.weight, len(change.down)
    wide = torch.promote_types(old.dtype, torch.float32)
    up, down = (half.to(old.device, wide).flatten(1) for half in (change.up, change.down))
    new = old.to(wide) + scale * change.alpha / rank * (up @ down).reshape(old.shape)  # Eq. (3)
    module.weight = nn.Parameter(new.to(old.dtype), requires_grad=False)


def split_scale(given: str | Path) -> tuple[Path, float]:
    """FILE:SCALE -> (FILE, SCALE); FILE -> (FILE, 1)."""
    path, colon, scale = str(given).rpartition(":")
    if not colon or Path(given).exists():
        return Path(given), 1.0
    try:
        value = float(scale)
    except ValueError:
        value = math.nan if Path(path).exists() else 1.0  # C:\style.safetensors has a colon of its own
        path = path if Path(path).exists() else str(given)
    if not math.isfinite(value):
        raise ArgumentError("lora", f"{scale!r} is no finite number; write FILE:SCALE, as in {path}:0.8")
    return Path(path), value


# ---- what is in a file ----


def file_in(path: Path) -> Path:
    """The file of a LoRA that is given as a folder; any other path as it is."""
    return next((path / name for name in IN_FOLDER if (path / name).is_file()), path)


def read_file(path: Path) -> Found:
    """The tensors of a LoRA file, or of the one in a folder. Raises ArgumentError for a file that is none."""
    path = file_in(path)
    if path.is_dir():
        raise ArgumentError("lora", f"{path} holds none of {', '.join(IN_FOLDER)}; name the file")
    beside = path.with_name("adapter_config.json")
    with read_as("lora", path):
        header, contents = header_of(path), contents_of(path)
        ours = dict(json.loads(header.get("palimpsest", "{}")))
        adapter = read_json(beside) if beside.is_file() else {}
    if isinstance(contents, list):  # B, A, B, A, … of the very first
        part = "text_encoder" if "text_encoder" in path.name else "unet"
        contents = {f"{part}:{i // 2}:{('up', 'down')[i % 2]}": half for i, half in enumerate(contents)}
    contents = contents if isinstance(contents, dict) else {}
    tensors = {str(key): tensor for key, tensor in contents.items() if isinstance(tensor, Tensor)}
    if (other := foreign(tensors)) is not None:
        raise ArgumentError("lora", f"{path} {other}")
    if ours.get("kind") != "lora" and not is_lora(tensors):
        raise ArgumentError(
            "lora",
            f"{path} holds no low-rank changes (its keys: {first_few(sorted(tensors)) or 'none'}); a model "
            "goes to --model, a word to --embedding",
        )
    return Found(path, tensors, header, ours if ours.get("kind") == "lora" else {}, adapter)


def placed(found: Found, model: Model) -> tuple[list[Change], dict[str, Tensor]]:
    """The change of each map, and the words that were taught beside them, each with its vectors (n d).

    Raises ArgumentError for a key that has no place in the model, or no other half.
    """
    maps, halves, words = maps_of(found, model), {}, {}
    for key, tensor in found.tensors.items():
        said = our_key(key) if found.ours else parse(key)
        if said is None and (word := word_of(key, tensor, found)) is not None:
            words[word] = tensor.float().reshape(-1, tensor.shape[-1])
            continue
        place = maps.get(said.part, {}).get(said.name.replace(".", "_")) if said else None
        if place is None:
            raise ArgumentError(
                "lora",
                f"{found.path} changes {key!r}, which {model.name} does not have; take a LoRA that was made "
                "for this kind of model",
            )
        given = halves.setdefault((said.part, place), {"key": key, "name": said.name})
        if said.what in given:
            raise ArgumentError("lora", f"{found.path} says {key!r} twice, in two spellings; fetch it again")
        given[said.what] = tensor
    return [change_of(found, *place, given) for place, given in halves.items()], words


def change_of(found: Found, part: str, name: str, given: Mapping[str, Any]) -> Change:
    """The change of one map. given: its tensors "down", "up" and perhaps "alpha"; its "key" and "name" in the
    file. Raises ArgumentError for halves that are none."""
    down, up, alpha = (given.get(what) for what in ("down", "up", "alpha"))
    if down is None or up is None:
        raise ArgumentError(
            "lora", f"{found.path} holds {given['key']!r} without its other half; fetch it again"
        )
    if min(down.ndim, up.ndim) < 2 or not len(down) or (alpha is not None and alpha.numel() != 1):
        raise ArgumentError("lora", f"{found.path} holds no matrices in {given['key']!r}; fetch it again")
    with read_as("lora", found.path):
        alpha = alpha_of(found, part, given["name"], len(down)) if alpha is None else alpha.item()
        return Change(part, name, given["key"], down.float(), up.float(), float(alpha))


def maps_of(found: Found, model: Model) -> dict[str, dict[str, str]]:
    """For "net" and "text": what the file calls a map, "_" for ".", -> its name in the model."""
    nets = {"net": model.net, "text": model.text}
    if found.ours:
        return {
            part: {} if module is None else {n.replace(".", "_"): n for n, _ in module.named_modules()}
            for part, module in nets.items()
        }
    maps = {part: maps_by_name(module) for part, module in nets.items()}
    for part, module in nets.items():
        prefix = {"net": "unet:", "text": "text_encoder:"}[part]
        count = sum(key.startswith(prefix) and key.endswith(":up") for key in found.tensors)
        maps[part] |= {str(i): name for i, name in enumerate(maps_by_number(module, count))}
    return maps


def our_key(key: str) -> Key:
    """net.mid.stages.0.transformer.attn1.to_q.down: how methods/lora.py names a half."""
    part, _, rest = key.partition(".")
    name, _, half = rest.rpartition(".")
    return Key(part, name, half)


def word_of(key: str, tensor: Tensor, found: Found) -> str | None:
    """The word whose vectors a tensor is; None for a tensor that is something else."""
    if tensor.ndim not in (1, 2) or not tensor.numel():
        return None
    if bundled := BUNDLED.match(key):
        return bundled[1]
    return key if ":" not in key and any(map(NUMBERED.match, found.tensors)) else None


def alpha_of(found: Found, part: str, name: str, rank: int) -> float:
    """α of a map for which the file has no tensor that says it."""
    if found.ours:
        return found.ours.get("alpha", rank)
    about = found.adapter
    if "lora_adapter_metadata" in found.header:  # diffusers': "unet.lora_alpha", "text_encoder.r", …
        prefix = {"net": "unet.", "text": "text_encoder."}[part]
        known = dict(json.loads(found.header["lora_adapter_metadata"]))
        about = {k.removeprefix(prefix): v for k, v in known.items() if k.startswith(prefix)}
    alpha = about.get("lora_alpha") or rank
    for pattern, other in dict(about.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            alpha = other
    return alpha * rank**0.5 if about.get("use_rslora") else alpha  # there the change is divided by √r


def check_family(found: Found, model: Model) -> None:
    """Raises ArgumentError where the file's maps of a text read one of another width than the model gives."""
    for key, tensor in found.tensors.items():
        said = parse(key)
        if said and said.what == "down" and re.search(r"attn2[._]to_[kv]$", said.name) and tensor.ndim > 1:
            width, ours = tensor.shape[1], getattr(model.net, "ctx_width", None)
            if width in FAMILIES and width != ours:
                raise ArgumentError(
                    "lora",
                    f"{found.path} is a LoRA of {FAMILIES[width]}, for texts of width {width}, and "
                    f"{model.name} reads {ours}; take a LoRA that was made for this kind of model",
                )


def check_fits(path: Path, change: Change, model: Model) -> None:
    """Raises ArgumentError unless B A has the shape of the map, and finite numbers."""
    weight = getattr(model, change.part).get_submodule(change.name).weight
    down, up, wanted = trimmed(change.down), trimmed(change.up), trimmed(weight)
    if up[1:] != down[:1]:
        raise ArgumentError(
            "lora",
            f"{path} holds halves of {change.key!r} that do not fit each other ({by(down)} and {by(up)}); "
            "fetch it again",
        )
    if (up[0], *down[1:]) != wanted:
        raise ArgumentError(
            "lora",
            f"{path} changes {change.key!r} by a map of {by((up[0], *down[1:]))}, and {model.name} has "
            f"{by(wanted)} there; take a LoRA that was made for this kind of model",
        )
    if not (change.down.isfinite().all() and change.up.isfinite().all() and math.isfinite(change.alpha)):
        raise ArgumentError(
            "lora", f"{path} holds numbers in {change.key!r} that are not finite; fetch it again"
        )


def trimmed(tensor: Tensor) -> tuple[int, ...]:
    """A shape; a convolution of one pixel and a linear map are the same."""
    shape = tuple(tensor.shape)
    return shape[:2] if set(shape[2:]) == {1} else shape


def by(shape: tuple[int, ...]) -> str:
    """A shape in words: 320×768."""
    return "×".join(map(str, shape))
