"""The networks that judge: CLIP, plain and noised, DINO, LPIPS and FID's Inception, read from the files
in which they are published.

    clip = load_clip("ViT-B-32.pt")
    dino = load_dino("dino_deitsmall16_pretrain.pth")
    lpips = load_lpips("alexnet-owt-7be5be79.pth", "alex.pth")
    noised = load_noised_clip("clip_image_enc.pt", "clip_text_enc.pt")
    inception = load_inception("pt_inception-2015-12-05-6726825d.pth")

CLIP is read from OpenAI's files (TorchScript or a state dict), from open_clip's, and from a folder of
transformers. DINO is read from its own files (from those of a whole training the teacher), from timm's, and
from a folder of transformers. LPIPS has its trunk from torchvision and its heads from LPIPS 0.1. GLIDE's
noised CLIP reads x_t and t. FID is measured by an Inception that differs from torchvision's, so figures of
the two cannot be compared.

The keys of a file decide what it is; its name does not count. Loading is strict: every parameter must be in
the file, and the file may hold nothing more than what `EXTRAS` names. No code in a file is run. Every
function raises WeightsError (a ValueError) that names the file and the mend."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from palimpsest.nets.judges.clip import CLIP
from palimpsest.nets.judges.dino import DINO
from palimpsest.nets.judges.noised_clip import NoisedCLIP
from palimpsest.weights.files import WeightsError, without_numbers
from palimpsest.weights.public.configs import ACTIVATIONS, Config, Shapes
from palimpsest.weights.public.layouts import BUFFERS
from palimpsest.weights.public.mapped import Checkpoint, first_few, read_json
from palimpsest.weights.public.shared import build_empty
from palimpsest.weights.public.torchscript import archive_tensors, is_archive
from palimpsest.weights.public.tower_names import (
    clip_of_shapes,
    clip_openai_names,
    clip_transformers_names,
    dino_of_shapes,
    dino_official_names,
    dino_transformers_names,
    noised_clip_names,
    noised_clip_of_shapes,
    unpack,
)

if TYPE_CHECKING:
    from palimpsest.metrics.trunks import LPIPS, FIDInception

Device = torch.device | str
AGAIN = "fetch it again"
AT_ONCE = 32  # tensors that are read through one mapping of the file
EXTRAS = {  # what a file may hold besides weights
    "CLIP": r"(input_resolution|context_length|vocab_size|(.*\.)?attn_mask)",
    "DINO": r"pooler\.dense\.(weight|bias)",  # transformers' own addition, not trained
    "Inception": r".*\.num_batches_tracked",
}


class Kind(NamedTuple):
    """What a file is: which network, in which layout, behind which prefix; and who reads it."""

    what: str
    layout: str
    prefix: str
    loader: str


SIGNS = [  # a key that only such a file has, its prefix in front
    (r"(module\.)?visual\.class_embedding", "CLIP", "openai", "load_clip"),
    (r"()blocks\.input\.w_t", "the image encoder of a noised CLIP", "glide", "load_noised_clip"),
    (r"()blocks\.input\.w_voc", "the text encoder of a noised CLIP", "glide", "load_noised_clip"),
    (r"()vision_model\.embeddings\.class_embedding", "CLIP", "transformers", "load_clip"),
    (r"((?:module\.)?(?:backbone\.)?)blocks\.0\.attn\.qkv\.weight", "DINO", "official", "load_dino"),
    (r"(vit\.)?encoder\.layer\.0\.attention\.attention\.query\.weight", "DINO", "transformers", "load_dino"),
    (r"()lin0\.model\.1\.weight", "the heads of LPIPS", "richzhang", "load_lpips"),
    (r"()features\.0\.weight", "a trunk of LPIPS", "torchvision", "load_lpips"),
    (r"()Mixed_5b\.branch1x1\.conv\.weight", "Inception", "torchvision", "load_inception"),
]
OTHERS = [
    (
        r"(.*\.)?visual\.layer1\.0\.conv1\.weight",
        "a CLIP whose image tower is a ResNet; take ViT-B/32 or ViT-L/14",
    ),
    (
        r"(.*\.)?visual\.trunk\..*|text\.transformer\..*",
        "an open_clip model with towers of another kind; take ViT-B/32 or ViT-L/14",
    ),
    (r"(text_model\.)?embeddings\.token_embedding\.weight", "a text encoder alone; take the whole CLIP"),
    (
        r"layers\.0\.attention\.q_proj\.weight",
        "a ViT as transformers holds it in memory; write it with its save_pretrained",
    ),
]


class Unpacked(Checkpoint):
    """A file or a folder of tensors, TorchScript archives too, by the places that
    weights/public/tower_names.py speaks of.
    """

    def __init__(self, path: Path | str):
        self.path, self.header = Path(path), {}
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors().items()}

    def tensors(self) -> dict[str, Tensor]:
        """All of them, mapped anew."""
        if is_archive(self.path):
            return unpack(archive_tensors(self.path))
        opened = Checkpoint.of_folder(self.path) if self.path.is_dir() else Checkpoint(self.path)
        return unpack({name: opened.mapped[file][name] for name, file in opened.place.items()})

    def load_into(
        self, module: nn.Module, names: dict[str, str], device: Device, dtype: torch.dtype
    ) -> nn.Module:
        """As Checkpoint.load_into. The pages that a conversion reads stay until their mapping goes, so each
        serves a few tensors only.
        """
        weights, empty, todo = {}, module.state_dict(), list(names.items())
        for start in range(0, len(todo), AT_ONCE):
            tensors = self.tensors()
            for ours, theirs in todo[start : start + AT_ONCE]:
                old = tensors[theirs]
                weights[ours] = (
                    old.to(device, dtype if old.is_floating_point() else old.dtype)
                    .reshape(empty[ours].shape)
                    .contiguous()
                )
        module.load_state_dict(weights, assign=True)
        return module.eval().requires_grad_(False)


def recognise(shapes: Shapes) -> Kind | None:
    """What the keys say a file is; None where they say nothing that is known here."""
    for pattern, what, layout, loader in SIGNS:
        for name in shapes:
            if found := re.fullmatch(pattern, re.sub(r"\[[qkvT]\]$", "", name)):
                return Kind(what, layout, found[1] or "", loader)
    return None


def _open(path: Path | str, what: str) -> tuple[Unpacked, Kind]:
    """The file, which must be of that kind."""
    file = Unpacked(path)
    kind = recognise(file.shapes)
    if kind is None:
        for pattern, said in OTHERS:
            if any(re.fullmatch(pattern, name) for name in file.shapes):
                raise WeightsError(f"model: {path} is {said}")
        raise WeightsError(
            f"model: {path} holds no network that is known here (its keys: "
            f"{first_few(sorted(file.shapes)) or 'none'}), and {what} is needed"
        )
    if kind.what != what:
        raise WeightsError(
            f"model: {path} holds {kind.what}, and {what} is needed here; {kind.loader} reads it"
        )
    return file, kind


def _fill(
    file: Unpacked,
    kind: Kind,
    net: nn.Module,
    names: dict[str, str],
    device: Device,
    dtype: torch.dtype | None,
) -> Any:
    names = {ours: kind.prefix + theirs for ours, theirs in names.items()}
    extra = re.compile(re.escape(kind.prefix) + EXTRAS.get(kind.what, "(?!)"))
    head = kind.prefix.removesuffix("backbone.") + "head." if kind.prefix.endswith("backbone.") else None
    file.fits(
        net,
        names,
        ignored=[
            key
            for key in file.shapes
            if BUFFERS.match(key) or extra.fullmatch(key) or head is not None and key.startswith(head)
        ],
    )  # what DINO's training sets on its backbone
    return file.load_into(net, names, device, dtype or torch.float32)


def _lacks(path: Path, error: KeyError) -> WeightsError:
    return WeightsError(
        f"model: {path} lacks {error.args[0]!r}, without which the rest cannot be placed; fetch it again"
    )


# ---- CLIP, DINO ----


def load_clip(
    path: Path | str,
    device: Device = "cpu",
    dtype: torch.dtype | None = None,
    activation: Callable[[Tensor], Tensor] | None = None,
) -> CLIP:
    """CLIP with a vision transformer, both towers, ready to run and not to train; dtype: of its weights,
    float32 unless said otherwise.

    activation: None for what config.json or open_clip_config.json beside the weights says, and quick_gelu
    where neither is there, as OpenAI trained. Keys do not tell: a file that others trained with the exact
    GELU needs `torch.nn.functional.gelu` here."""
    file, kind = _open(path, "CLIP")
    names_of = {"openai": clip_openai_names, "transformers": clip_transformers_names}[kind.layout]
    smallest = dict(
        size=1,
        patch=1,
        width=1,
        layers=1,
        heads=1,
        embed=1,
        vocab=1,
        length=1,
        text_width=1,
        text_layers=1,
        text_heads=1,
    )
    try:
        config = clip_of_shapes(
            _without(file.shapes, kind.prefix), names_of(build_empty(file.path, CLIP, smallest))
        )
    except KeyError as error:
        raise _lacks(file.path, error) from None
    config |= _said_beside(file.path, kind.layout)
    net = build_empty(
        file.path, CLIP, config if activation is None else config | {"activation": activation}, AGAIN
    )
    return _fill(file, kind, net, names_of(net), device, dtype)


def _said_beside(path: Path, layout: str) -> Config:
    """What shapes do not tell, from the JSON in the folder of the weights, where there is one for them."""
    folder = path if path.is_dir() else path.parent
    if layout == "openai":
        said = folder / "open_clip_config.json"
        if not said.is_file():
            return {}
        return dict(
            activation=ACTIVATIONS[
                "quick_gelu" if read_json(said).get("model_cfg", {}).get("quick_gelu") else "gelu"
            ]
        )
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if config.get("model_type") != "clip":
        return {}
    image, text = config.get("vision_config") or {}, config.get("text_config") or {}
    activations = {part.get("hidden_act", "quick_gelu") for part in (image, text)}
    if len(activations) > 1 or not activations <= ACTIVATIONS.keys():
        raise WeightsError(
            f"model: {folder / 'config.json'} asks for {' and '.join(sorted(activations))}; both towers must "
            f"have one of {', '.join(ACTIVATIONS)}"
        )
    heads = dict(heads=image.get("num_attention_heads"), text_heads=text.get("num_attention_heads"))
    end = text.get("eos_token_id", 2)  # 2 stands in old files, and means the largest token
    return (
        {key: value for key, value in heads.items() if value}
        | dict(activation=ACTIVATIONS[activations.pop()])
        | ({} if end == 2 else dict(end=end))
    )


def load_dino(path: Path | str, device: Device = "cpu", dtype: torch.dtype | None = None) -> DINO:
    """DINO's backbone, ready to run and not to train; dtype: of its weights, float32 unless said
    otherwise.
    """
    file, kind = _open(path, "DINO")
    names_of = {"official": dino_official_names, "transformers": dino_transformers_names}[kind.layout]
    smallest = dict(size=1, patch=1, width=1, layers=1, heads=1)
    try:
        config = dino_of_shapes(
            _without(file.shapes, kind.prefix), names_of(build_empty(file.path, DINO, smallest))
        )
    except KeyError as error:
        raise _lacks(file.path, error) from None
    net = build_empty(file.path, DINO, config, AGAIN)
    return _fill(file, kind, net, names_of(net), device, dtype)


def _without(shapes: Shapes, prefix: str) -> Shapes:
    return {name.removeprefix(prefix): shape for name, shape in shapes.items()}


def load_noised_clip(
    image: Path | str, text: Path | str, device: Device = "cpu", dtype: torch.dtype | None = None
) -> NoisedCLIP:
    """GLIDE's noised CLIP from its two files, ready to run and not to train; dtype: of its weights,
    float32 unless said otherwise.
    """
    files = {
        "image": _open(image, "the image encoder of a noised CLIP")[0],
        "text": _open(text, "the text encoder of a noised CLIP")[0],
    }
    try:
        config = noised_clip_of_shapes(files["image"].shapes, files["text"].shapes)
    except KeyError as error:
        raise WeightsError(
            f"model: {image} or {text} lacks {error.args[0]!r}, without which the rest cannot be placed; "
            f"{AGAIN}"
        ) from None
    net = build_empty(files["image"].path, NoisedCLIP, config, AGAIN)
    names = noised_clip_names(net)
    of = {
        tower: nn.ModuleDict(
            {tower: net.get_submodule(tower), f"{tower}_projection": net.get_submodule(f"{tower}_projection")}
        )
        for tower in files
    }
    for tower, file in files.items():  # both are looked at before the first is read
        file.fits(of[tower], {ours: names[ours] for ours in of[tower].state_dict()})
    for tower, file in files.items():
        file.load_into(
            of[tower], {ours: names[ours] for ours in of[tower].state_dict()}, device, dtype or torch.float32
        )
    return net.eval().requires_grad_(False)


# ---- LPIPS, FID ----


def load_lpips(trunk: Path | str, heads: Path | str, device: Device = "cpu") -> LPIPS:
    """LPIPS, float32. trunk: torchvision's AlexNet or VGG-16, trained for ImageNet; heads: the file of
    LPIPS 0.1 that goes with it.
    """
    from palimpsest.metrics.trunks import (
        lpips_alex,
        lpips_vgg,
    )  # here, since torchvision takes as long to import as torch

    files = [
        _open(path, what)[0] for path, what in ((trunk, "a trunk of LPIPS"), (heads, "the heads of LPIPS"))
    ]
    widths = tuple(
        files[1].shapes[name][1]
        for name in sorted(files[1].shapes)
        if re.fullmatch(r"lin\d\.model\.1\.weight", name)
    )
    makers = {(64, 192, 384, 256, 256): lpips_alex, (64, 128, 256, 512, 512): lpips_vgg}
    if widths not in makers:
        raise WeightsError(
            f"model: {heads} has heads for maps of {', '.join(map(str, widths))} channels, which is neither "
            "AlexNet nor VGG-16; take alex.pth or vgg.pth"
        )
    with without_numbers():
        net = makers[widths]()
    names = {
        "trunk": {key: f"features.{key}" for key in net.trunk.state_dict()},
        "heads": {key: f"lin{key.replace('.', '.model.1.')}" for key in net.heads.state_dict()},
    }
    parts = dict(zip(names, files))
    for part, file in parts.items():  # both are looked at before the first is read
        file.fits(
            net,
            {f"{part}.{ours}": theirs for ours, theirs in names[part].items()},
            ignored=[key for key in file.shapes if key.startswith("classifier.")],
        )
    for part, file in parts.items():
        file.load_into(net.get_submodule(part), names[part], device, torch.float32)
    return net.eval()


def load_inception(path: Path | str, device: Device = "cpu") -> FIDInception:
    """The Inception of FID, float32, from pt_inception-2015-12-05-6726825d.pth. torchvision's own weights
    are refused.
    """
    from palimpsest.metrics.trunks import FIDInception

    file, kind = _open(path, "Inception")
    if any(name.startswith("AuxLogits.") for name in file.shapes):
        raise WeightsError(
            f"model: {path} is torchvision's own Inception, by which no published FID is measured; take "
            "pt_inception-2015-12-05-6726825d.pth"
        )
    with without_numbers():
        net = FIDInception()
    names = {
        key: key for key in net.state_dict() if not key.endswith(".num_batches_tracked")
    }  # which is never asked
    return _fill(file, kind, net, names, device, None)
