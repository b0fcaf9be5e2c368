"""Weight files: safetensors that carry their own configuration, and a manifest that says where each came
from.

A file holds the tensors of several modules ("net.…", "text.…") and, in its header, the keyword arguments
that rebuild them. Opening one never runs code. MANIFEST.json records for each shipped file its sha256,
recipe, arguments, seed, steps, seconds, git revision and measured figures; a shipped file whose hash
differs is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from palimpsest.outputs import OutputError, locked, whole, write_text

Built = TypeVar("Built", bound=nn.Module)

FOLDER = Path(__file__).parent
MANIFEST = FOLDER / "MANIFEST.json"


class WeightsError(ValueError):
    """A weight file that is missing, damaged, or not the one that was asked for."""


def sha256(path: str | Path, tell: Callable[[int], object] = lambda n: None) -> str:
    """The SHA-256 of a file, in hexadecimal. It is read a piece at a time: a checkpoint may be larger
    than the memory.

    tell: called with the bytes of each piece.
    """
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            total.update(piece)
            tell(len(piece))
    return total.hexdigest()


def manifest() -> dict[str, dict[str, Any]]:
    """The manifest: file name -> its record."""
    return json.loads(MANIFEST.read_text(encoding="utf-8")) if MANIFEST.exists() else {}


def write_json(path: str | Path, data: Any) -> None:
    """JSON, replaced in one step of the file system."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def write_tensor_file(path: str | Path, tensors: dict[str, Tensor], header: dict[str, str]) -> Path:
    """Tensors as they are, on the CPU, and a header of texts, into a safetensors file that appears whole or
    not at all. Folders on the way to it are made. Raises OutputError where it cannot be written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path, sync=True) as part:
        try:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, part, header)
        except SafetensorError as error:  # how the library says what the operating system told it
            raise OutputError(f"cannot write {path}: {error}; make room, or choose another place") from None
    return path


def update_manifest(changed: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write what `changed` makes of the manifest; of two runs that end together, one waits for the other."""
    with locked(MANIFEST, "manifest", patience=60):
        write_json(MANIFEST, changed(manifest()))


SCALE = " scale"  # no parameter's name holds a space


def as_stored(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """What a file holds for these tensors, on the CPU: floating-point ones as `dtype`.

    int8: of a matrix or a convolution each output's weights W become round(127 W / max |W|), with max |W|
    / 127 beside them under the name and SCALE, half the bytes of float16; what has one axis stays
    float16."""
    found: dict[str, Tensor] = {}
    for key, v in tensors.items():
        if dtype is torch.int8 and v.is_floating_point() and v.ndim > 1:
            rows = v.detach().float().flatten(1)
            scale = rows.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
            found |= {key: (rows / scale[:, None]).round().to(torch.int8).view(v.shape), key + SCALE: scale}
        else:
            found[key] = v.to(torch.float16 if dtype is torch.int8 else dtype) if v.is_floating_point() else v
    return {key: v.contiguous().cpu() for key, v in found.items()}


def restored(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that `as_stored` stored; those of int8 with a scale come back as float32."""
    return {
        key: v.float() * tensors[key + SCALE].view(-1, *[1] * (v.ndim - 1)) if key + SCALE in tensors else v
        for key, v in tensors.items()
        if not key.endswith(SCALE)
    }


def write_weights(
    path: str | Path,
    modules: dict[str, nn.Module],
    config: dict[str, Any],
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write modules and the configuration that rebuilds them. Floating-point tensors are stored as
    `dtype`; int8: see `as_stored`.
    """
    tensors = as_stored(
        {f"{name}.{key}": v for name, module in modules.items() for key, v in module.state_dict().items()},
        dtype,
    )
    return write_tensor_file(path, tensors, {"palimpsest": json.dumps(config)})


def read_weights(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read (configuration, tensors) of a file that `write_weights` wrote.

    Raises WeightsError if the file is missing, damaged, of another origin, or a shipped file with another
    hash than the manifest's."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            f"model: no weight file {path}; `make weights` and `make emoji-weights` train the shipped ones "
            "anew"
        )
    record = manifest().get(path.name) if path.resolve().parent == FOLDER.resolve() else None
    if record is not None and sha256(path) != record["sha256"]:
        raise WeightsError(
            f"model: {path} is damaged (its sha256 is not the manifest's); restore it with `git checkout "
            f"weights/{path.name}`"
        )
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get("palimpsest")
            tensors = restored({key: file.get_tensor(key) for key in file.keys()})
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"model: {path} is not a whole safetensors file ({type(error).__name__}); fetch or train it again"
        ) from None
    try:
        return dict(json.loads(header)), tensors
    except (TypeError, ValueError):
        raise WeightsError(
            f"model: {path} carries no palimpsest configuration in its header; take one that write_weights "
            "wrote"
        ) from None


def config_in(path: str | Path) -> dict[str, Any]:
    """The configuration in the header of a file of ours, {} for any other file; no tensor is read."""
    try:
        with safe_open(path, "pt") as file:
            return dict(json.loads((file.metadata() or {})["palimpsest"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return {}


class without_numbers(TorchFunctionMode):
    """Modules built within have shapes and no numbers: they take no memory, and nothing is drawn for them.

    To draw on the "meta" device computes nothing either, but at its first normal distribution torch imports
    its compiler, which takes longer than to load a small model.
    """

    def __enter__(self) -> without_numbers:
        self.meta = torch.device("meta")
        self.meta.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.meta.__exit__(*error)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or func in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def fill(
    module: nn.Module, tensors: dict[str, Tensor], prefix: str, path: str | Path = "the file"
) -> nn.Module:
    """Load the tensors named `prefix.…` into a module, strictly: nothing missing, nothing left over. One that
    was built without numbers takes the tensors themselves where they are float32.
    """
    mine = {
        k[len(prefix) + 1 :]: v.float() if v.is_floating_point() else v
        for k, v in tensors.items()
        if k.startswith(prefix + ".")
    }
    try:
        module.load_state_dict(mine, assign=all(p.is_meta for p in module.parameters()))
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()[:120]
        raise WeightsError(
            f"model: {path} does not fit its own configuration ({reason}); train it again"
        ) from None
    return module.eval().requires_grad_(False)


def built(
    kind: type[Built], config: dict[str, Any], tensors: dict[str, Tensor], prefix: str, path: str | Path
) -> Built:
    """A module of this configuration, filled. One that the tensors named `prefix.…` do not fit can be of any
    size, and is refused before it takes any memory. Raises WeightsError."""
    with without_numbers():
        module = kind(**config)
    wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
    found = {k[len(prefix) + 1 :]: v.shape for k, v in tensors.items() if k.startswith(prefix + ".")}
    if odd := next((name for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name)), None):
        raise WeightsError(
            f"model: {path} does not fit its own configuration ({prefix}.{odd} has the shape "
            f"{list(found.get(odd, ()))} and should have {list(wanted.get(odd, ()))}); train it again"
        )
    return fill(module, tensors, prefix, path)
