"""The tensors of TorchScript archives, the format in which OpenAI published CLIP. No code in the file is run.

An archive is a zip. data.pkl describes the module as a tree of objects with the names of its parameters;
data/0, data/1, … hold the numbers, uncompressed; code/ holds a program, which is not read. torch.jit.load
would build the program, and torch.load(weights_only=True) refuses the file. Therefore an unpickler of our own
reads the tree: it accepts tensors and plain values only. The numbers stay mapped from the disk."""

from __future__ import annotations

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from palimpsest.weights.files import WeightsError

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Node:
    """A module or another object of the archive, without its class; `held` is its state."""

    def __setstate__(self, held: Any) -> None:
        self.held = held


def is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip with code beside its data.pkl."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        ends = {name.split("/", 1)[-1] for name in archive.namelist()}
    return {"data.pkl", "constants.pkl"} <= ends and any(end.startswith("code/") for end in ends)


def archive_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a TorchScript archive by its name in the module, mapped: bytes are read when they
    are used.

    Raises WeightsError for a damaged archive, and for one that holds more than modules, tensors and plain
    values."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(_name(archive, "data.pkl")) as tree:
            root = Unpickler(tree, Records(path, archive)).load()
        return dict(_tensors(root, ""))
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"model: {path} is a TorchScript archive that asks for {error} when it is opened, and that is "
            "not done here; take its state dict, saved as .safetensors"
        ) from None
    except (
        zipfile.BadZipFile,
        OSError,
        EOFError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        raise WeightsError(
            f"model: {path} is not a whole TorchScript archive ({type(error).__name__}); fetch it again"
        ) from None


def _name(archive: zipfile.ZipFile, end: str) -> str:
    """The record FOLDER/end; all records of an archive lie in one folder, whose name is free."""
    return next(name for name in archive.namelist() if name.split("/", 1)[-1] == end)


def _tensors(node: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    held = node.held if isinstance(node, Node) and isinstance(node.held, dict) else {}
    for name, value in held.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        else:
            yield from _tensors(value, f"{prefix}{name}.")


class Records:
    """The numbers of an archive: key -> bytes, mapped."""

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self.archive = archive
        self.file = archive.fp
        self.whole = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)

    def __getitem__(self, key: str) -> Tensor:
        info = self.archive.getinfo(_name(self.archive, f"data/{key}"))
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError("compressed")
        self.file.seek(info.header_offset + 26)  # the lengths of name and padding, which the bytes come after
        name, padding = (int.from_bytes(self.file.read(2), "little") for _ in range(2))
        start = info.header_offset + 30 + name + padding
        found = self.whole[start : start + info.file_size]
        if len(found) < info.file_size:
            raise EOFError(key)
        return found


class Unpickler(pickle.Unpickler):
    """Builds the tree of an archive from Nodes, tensors and plain values, and refuses anything else by its
    name.
    """

    def __init__(self, file: IO[bytes], records: Records):
        super().__init__(file)
        self.records = records

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for."""
        if module == "__torch__" or module.startswith("__torch__."):
            return Node
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) == ("torch", "device"):
            return str
        if module == "torch.jit._pickle":  # lists of numbers, and values with their type beside them
            return _first
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: tuple[str, torch.dtype, str, str, int]) -> Tensor:
        """A storage: ("storage", dtype, key, device, how many numbers) -> those numbers, (n,)."""
        _, dtype, key, _, count = pid
        record = self.records[key]
        if record.storage_offset() % dtype.itemsize:  # torch aligns its records; others may not
            record = record.clone()
        found = record[: count * dtype.itemsize].view(dtype)
        if len(found) < count:
            raise EOFError(key)
        return found


def _first(value: Any, *rest: Any) -> Any:
    return value


def _rebuild(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any
) -> Tensor:
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if offset < 0 or any(step < 0 for step in stride) or (math.prod(size) and last >= len(storage)):
        raise ValueError("a tensor beyond its storage")
    return storage[offset:].as_strided(size, stride)
