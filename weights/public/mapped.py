"""Checkpoint files of others: tensors by name, mapped from the disk, so that opening a file neither reads its
weights nor runs code in it.

There are two formats, which the first bytes of a file tell apart: safetensors, and what torch.save wrote (a
zip, or a bare pickle before torch 1.6), of which only tensors are taken. `load_into` moves tensors into a
module one by one, so that a model is in memory only once."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from palimpsest.weights.files import WeightsError

Net = TypeVar("Net", bound=nn.Module)
LEFTOVERS = (
    "pytorch_lightning.",
    "lightning.",
    "omegaconf.",
    "numpy.",
    "argparse.Namespace",
)  # what programs that train leave behind
PLAIN = {  # what OmegaConf's settings name beside its own classes; torch calls built-in types by name alone
    *("typing.Any", "typing.Union", "typing.Optional", "collections.defaultdict", "pathlib.PosixPath"),
    *("dict", "list", "tuple", "set", "int", "long", "float", "str", "bool", "bytes", "object"),
}
INSIDE = (
    "state_dict",
    "teacher",
    "student",
)  # where the weights lie; of DINO's two nets the teacher, an average, is the better
STEMS = (  # of weight files in a folder, and their ends, in the order in which they are looked for
    ("diffusion_pytorch_model", "safetensors"),
    ("model", "safetensors"),
    ("open_clip_model", "safetensors"),
    ("diffusion_pytorch_model", "bin"),
    ("pytorch_model", "bin"),
    ("open_clip_pytorch_model", "bin"),
)
OTHER_FORMATS = {".msgpack": "Flax", ".h5": "TensorFlow", ".onnx": "ONNX", ".gguf": "GGUF"}
FETCH = "fetch it again, or take the .safetensors that most checkpoints are published as too"


class Inert:
    """Takes the place of a class that a pickle names beside its tensors: it accepts any argument and any
    state, and ignores them.
    """

    def __init__(self, *given: object):
        pass

    def __setstate__(self, state: object) -> None:
        pass


PARAMETER_DICT = "torch.nn.modules.container.ParameterDict"


class Parameters(dict):
    """Stands for a ParameterDict, in which the first textual-inversion files keep their vectors."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.update(state.get("_parameters", {}))


class Checkpoint:
    """The tensors of one file, or of several files that hold parts of one module.

    shapes: by name. header: the texts in the header of a safetensors file."""

    def __init__(
        self,
        path: Path,
        files: Iterable[Path] = (),
        places: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
    ):
        """places: what the tensors of a file are made into before they are called by name, without copies."""
        self.path, self.places = path, places
        self.header: dict[str, str] = {}
        self.mapped: dict[Path, dict[str, Tensor]] = {}
        self.place: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in files or [path]:
            self.header |= header_of(file)
            self.mapped[file] = places(tensors_of(file))
            for name, tensor in self.mapped[file].items():
                self.place[name], self.shapes[name] = file, tuple(tensor.shape)

    @classmethod
    def of_folder(cls, folder: Path) -> Checkpoint:
        """The weights in a folder of diffusers, transformers or open_clip: safetensors before pickles, whole
        or in shards that an index names, and of several variants the one that `_variants` has first.
        """
        for stem, end in STEMS:
            for variant in _variants(folder, stem, end):
                if (whole := folder / f"{stem}{variant}.{end}").is_file():
                    return cls(folder, [whole])
                if (index := folder / f"{stem}.{end}.index{variant}.json").is_file():
                    shards = [
                        folder / name for name in sorted(set(read_json(index).get("weight_map", {}).values()))
                    ]
                    if missing := [shard.name for shard in shards if not shard.is_file()]:
                        raise WeightsError(
                            f"model: {folder} lacks {first_few(missing)}, which {index.name} names; fetch "
                            "the whole folder"
                        )
                    return cls(folder, shards)
        raise _no_weights(folder)

    def fits(self, module: nn.Module, names: Mapping[str, str], ignored: Iterable[str] = ()) -> None:
        """Check that the file has every tensor that `names` (ours -> theirs) asks for, in the module's sizes,
        and no others than those and `ignored`.

        Raises WeightsError with what is missing, left over or of another size.
        """
        state = module.state_dict()
        sizes = {theirs: tuple(state[ours].shape) for ours, theirs in names.items()}
        missing = [name for name in sizes if name not in self.shapes]
        left_over = self.shapes.keys() - sizes.keys() - set(ignored)
        other = [
            f"{name} {_by(self.shapes[name])} for {_by(size)}"
            for name, size in sizes.items()
            if name in self.shapes and _trim(self.shapes[name]) != _trim(size)
        ]
        faults = [
            f"{len(names)} {what} ({first_few(names)})"
            for names, what in (
                (missing, "missing"),
                (sorted(left_over), "left over"),
                (other, "of another size"),
            )
            if names
        ]
        if faults:
            raise WeightsError(
                f"model: {self.path} does not fit the {type(module).__name__} that its keys announce: "
                f"tensors {', '.join(faults)}; fetch it again, or say what wrote it"
            )

    def load_into(
        self, module: Net, names: Mapping[str, str], device: torch.device, dtype: torch.dtype
    ) -> Net:
        """Give a module on the meta device its weights (names: ours -> theirs); it can then run, not train.
        Each tensor can be loaded once.

        On the CPU a tensor that already has `dtype` stays mapped, and takes memory when it is used. When a
        tensor is converted, the pages of the file that were read stay in memory as long as the file is
        mapped. Therefore the file is mapped anew whenever a sixteenth of it has been converted."""
        weights, empty = {}, module.state_dict()
        for file in sorted(set(self.place[theirs] for theirs in names.values())):
            converted = 0
            for ours, theirs in ((o, t) for o, t in names.items() if self.place[t] == file):
                if converted > file.stat().st_size / 16 and kind(file) != "pickle":
                    self.mapped[file], converted = self.places(tensors_of(file)), 0
                old = self.mapped[file].pop(theirs)
                new = old.to(device, dtype).reshape(empty[ours].shape)
                converted += old.nbytes if new.data_ptr() != old.data_ptr() else 0
                weights[ours] = new
                del old
        module.load_state_dict(weights, assign=True)
        return module.eval().requires_grad_(False)


def _variants(folder: Path, stem: str, end: str) -> list[str]:
    """What stands between a weight file's stem and its end, as ".fp16", best first: "" for the plain file;
    then full precision, bfloat16, float16 and any other name; last the weights without the moving average.
    """
    file, index = f"{stem}.*.{end}", f"{stem}.{end}.index.*.json"
    names = [path.name[len(stem) : -len(end) - 1] for path in folder.glob(file)]
    names += [path.name[len(f"{stem}.{end}.index") : -len(".json")] for path in folder.glob(index)]
    first = {name: place for place, name in enumerate((".fp32", ".bf16", ".fp16"))}
    names = sorted({name for name in names if not re.search(r"-\d+-of-\d+$", name)})
    return ["", *sorted(names, key=lambda name: ("non_ema" in name, first.get(name, len(first))))]


def _no_weights(folder: Path) -> WeightsError:
    """Why no weights are found in a folder, as far as its files tell."""
    files = sorted(folder.glob("*")) if folder.is_dir() else []
    refuse_dangling(folder)
    if others := [path.name for path in files if path.suffix in OTHER_FORMATS]:
        kinds = " and ".join(sorted({OTHER_FORMATS[Path(name).suffix] for name in others}))
        return WeightsError(
            f"model: {folder} holds weights of {kinds} alone ({first_few(others)}), which are not read; "
            "fetch its .safetensors"
        )
    return WeightsError(
        f"model: {folder} holds no weights (diffusion_pytorch_model, model or open_clip_model, .safetensors "
        "or .bin); fetch the whole folder"
    )


def refuse_dangling(folder: Path) -> None:
    """Raises WeightsError for a folder with links that lead nowhere, as broken downloads leave them."""
    if dangling := [path.name for path in sorted(folder.glob("*")) if not path.exists()]:
        raise WeightsError(
            f"model: {folder} has links to files that are not there ({first_few(dangling)}); fetch the whole "
            "folder again"
        )


def kind(path: Path) -> str:
    """ "safetensors", "zip" or "pickle", by the first bytes. Raises WeightsError for a web page, a git-lfs
    pointer, and any other file.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError as error:
        raise WeightsError(f"model: {path} cannot be read ({error.strerror or error})") from None
    if start.startswith(b"PK\x03\x04"):
        return "zip"
    if start[8:9] == b"{":
        return "safetensors"
    if re.match(rb"\x80[\x02-\x05]", start):
        return "pickle"
    if re.match(rb"\s*<(!doctype|html|\?xml)", start, re.IGNORECASE):
        raise WeightsError(
            f"model: {path} is a web page, not weights (the download asked for a login, or was not found); "
            "fetch it again"
        )
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"model: {path} is a git-lfs pointer, not weights; run `git lfs pull` where it came from"
        )
    if start.startswith(b"GGUF"):
        raise WeightsError(f"model: {path} is quantised for another program (GGUF); take its .safetensors")
    if re.match(rb"\s*\{\s*\"", start):
        raise WeightsError(
            f"model: {path} is a JSON file and holds no weights; give {path.absolute().parent}"
        )
    raise WeightsError(
        f"model: {path} is not a whole safetensors file, nor one that torch.save wrote; {FETCH}"
    )


def tensors_of(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file by name, mapped: its bytes are read when they are used. No code in the file
    is run.

    Raises WeightsError for a damaged file, and for a pickle with other things than tensors, plain values,
    LEFTOVERS and PLAIN."""
    found = contents_of(path)
    while isinstance(found, dict) and (
        inside := next((name for name in INSIDE if isinstance(found.get(name), dict)), None)
    ):
        found = found[inside]
    return (
        {str(name): t for name, t in found.items() if isinstance(t, Tensor)}
        if isinstance(found, dict)
        else {}
    )


def contents_of(path: Path) -> Any:
    """What a file holds: tensors by name, or whatever was given to torch.save, a ParameterDict being a dict.

    As `tensors_of` otherwise."""
    form = kind(path)
    try:
        return load_file(path) if form == "safetensors" else _unpickled(path, form == "zip")
    except pickle.UnpicklingError as error:
        wants = re.search(r"GLOBAL (\S+)", str(error))
        raise WeightsError(
            f"model: {path} {f'wants to run {wants[1]}' if wants else 'is damaged, or wants to run code'} "
            "when it is opened, and that is not done here; take its .safetensors, or re-save the tensors "
            "alone where you trust it"
        ) from None
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(
            f"model: {path} is not a whole {'safetensors' if form == 'safetensors' else 'torch'} file "
            f"({type(error).__name__}); {FETCH}"
        ) from None


def _unpickled(path: Path, mmap: bool) -> Any:
    """torch's reader of tensors alone, which puts an Inert in the place of each class of LEFTOVERS and
    PLAIN that it meets, and Parameters in that of a ParameterDict.

    A file of PyTorch Lightning may hold the class of a callback or the settings of a training (OmegaConf),
    and DINO's the options of its command line. They are no part of a model."""
    stand_ins: dict[str, Any] = {}
    while True:
        try:
            with torch.serialization.safe_globals(list(stand_ins.values())):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except pickle.UnpicklingError as error:
            named = re.search(r"GLOBAL (\S+)", str(error))
            if named is None or named[1] in stand_ins:
                raise
            if not named[1].startswith(LEFTOVERS) and named[1] not in (*PLAIN, PARAMETER_DICT):
                raise
            module, _, name = named[1].rpartition(".")
            stand_in = Parameters if named[1] == PARAMETER_DICT else Inert
            stand_ins[named[1]] = type(name, (stand_in,), {"__module__": module or "builtins"})


def read_json(path: Path) -> dict:
    """A JSON object. Raises WeightsError where there is none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise WeightsError(f"model: {path.parent} lacks {path.name}; fetch the whole folder") from None
    except (OSError, ValueError, TypeError):
        raise WeightsError(f"model: {path} is not a JSON object; fetch it again") from None


def header_of(path: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file; {} for another file."""
    if kind(path) != "safetensors":
        return {}
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"model: {path} is not a whole safetensors file ({type(error).__name__}); {FETCH}"
        ) from None


def first_few(names: Iterable[str]) -> str:
    """The first three names, and dots for the rest."""
    first = list(names)
    return ", ".join(first[:3]) + (", …" if len(first) > 3 else "")


def _trim(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(512, 512) for (512, 512, 1, 1) and (512, 512, 1): a convolution of one pixel holds the numbers of a
    linear map.
    """
    return shape[:2] if len(shape) > 2 and set(shape[2:]) == {1} else shape


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"
