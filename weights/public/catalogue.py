"""Public checkpoints by name: where they are published, how large they are, under which licence, and what
they cannot do.

Nothing here uses the network. `find_on_disk` looks in torch's folder for downloads and in the folder of the
Hugging Face hub; `require_on_disk` says which command fetches what is missing. Sizes and SHA-256 are those
that the publisher or several independent users give. `sha256` is empty where none is published, and short
where only the first digits are."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import torch

from palimpsest.weights.files import WeightsError, manifest

HUB = "https://huggingface.co"
RAIL = "CreativeML Open RAIL-M: free use, sharing and sale, but for the uses that its Attachment A forbids"
SD_LIMITS = (
    "legible writing, counting, who does what to whom; small faces and hands; texts in other languages than "
    "English; pictures much larger or smaller than 512×512; it shows the biases of the pictures of LAION-2B"
)
TORCHVISION = "https://docs.pytorch.org/vision/stable/models.html"
LPIPS_PAGE = "https://github.com/richzhang/PerceptualSimilarity"
LPIPS_HEADS = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1"
DDPM_LIMITS = "reads no text; pictures of 256×256 of its one subject only"


@dataclass(frozen=True)
class Published:
    """One published file. kind: "model" for what `load` takes, "features" for what metrics are made of.

    urls: the same file, best source first; size in bytes, None if not published; repos: on the hub, whose
    copies on this disk are used too; cannot: what not to expect of it; about: a page, of what is not on
    the hub."""

    name: str
    kind: str
    what: str
    file: str
    urls: tuple[str, ...]
    size: int | None
    sha256: str
    licence: str
    cannot: str
    repos: tuple[str, ...] = ()
    about: str = ""

    @property
    def page(self) -> str:
        """Where a person can read about it."""
        return (
            f"{HUB}/{self.repos[0]}"
            if self.repos
            else self.about or f"https://{urlsplit(self.urls[0]).netloc}"
        )

    def mirrors(self) -> list[str]:
        """The addresses; where $HF_ENDPOINT is set, it takes the place of the hub's."""
        endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
        return [endpoint + url.removeprefix(HUB) if url.startswith(HUB) else url for url in self.urls]


def _hub(file: str, *repos: str) -> tuple[str, ...]:
    return tuple(f"{HUB}/{repo}/resolve/main/{file}" for repo in repos)


def _sdedit(name: str, what: str) -> Published:
    file = f"{name}.ckpt"
    return Published(
        f"sdedit-{name.replace('_', '-')}",
        "model",
        f"SDEdit's DDPM of {what}, 256×256",
        file,
        (f"https://image-editing-test-12345.s3-us-west-2.amazonaws.com/checkpoints/{file}",),
        None,
        "",
        "not stated with the weights; the pictures they learnt from are for research",
        DDPM_LIMITS,
        about="https://github.com/ermongroup/SDEdit",
    )


def _glide(name: str, file: str, what: str, kind: str = "model") -> Published:
    return Published(
        f"glide-{name}",
        kind,
        f"GLIDE (filtered): {what}",
        file,
        (f"https://openaipublic.blob.core.windows.net/diffusion/dec-2021/{file}",),
        None,
        "",
        "MIT",
        "people, of whom it saw no pictures; texts of more than 128 tokens; English only",
        about="https://github.com/openai/glide-text2im",
    )


def _trunk(
    name: str, what: str, file: str, url: str, digits: str, licence: str, cannot: str, about: str
) -> Published:
    return Published(
        name, "features", what, file, (f"{url}/{file}",), None, digits, licence, cannot, about=about
    )


def _clip(size: str, digest: str, bytes_: int, repo: str) -> Published:
    file = f"ViT-{size}.pt"
    return Published(
        f"clip-vit-{size.lower()}",
        "features",
        f"OpenAI CLIP ViT-{size.replace('-', '/')}, pictures and texts",
        file,
        (f"https://openaipublic.azureedge.net/clip/models/{digest}/{file}",),
        bytes_,
        digest,
        "MIT (the code's; its model card asks for research use)",
        "counting, fine-grained classes; texts of more than 77 tokens; English only",
        (repo,),
    )


PUBLISHED: tuple[Published, ...] = (
    Published(
        "stable-diffusion-v1-5",
        "model",
        "Stable Diffusion v1.5, text to picture",
        "v1-5-pruned-emaonly.safetensors",
        _hub(
            "v1-5-pruned-emaonly.safetensors",
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "sd-legacy/stable-diffusion-v1-5",
        ),
        4_265_146_304,
        "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa",
        RAIL,
        SD_LIMITS,
        (
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "sd-legacy/stable-diffusion-v1-5",
            "runwayml/stable-diffusion-v1-5",
        ),
    ),
    Published(
        "stable-diffusion-v1-4",
        "model",
        "Stable Diffusion v1.4, text to picture",
        "sd-v1-4.ckpt",
        _hub("sd-v1-4.ckpt", "CompVis/stable-diffusion-v-1-4-original"),
        4_265_380_512,
        "fe4efff1e174c627256e44ec2991ba279b3816e364b49f9be2abc0b3ff3f8556",
        RAIL,
        SD_LIMITS,
        ("CompVis/stable-diffusion-v1-4", "CompVis/stable-diffusion-v-1-4-original"),
    ),
    Published(
        "stable-diffusion-v1-5-inpainting",
        "model",
        "Stable Diffusion v1.5 that fills a masked hole, 9 channels",
        "sd-v1-5-inpainting.ckpt",
        _hub(
            "sd-v1-5-inpainting.ckpt",
            "stable-diffusion-v1-5/stable-diffusion-inpainting",
            "sd-legacy/stable-diffusion-inpainting",
        ),
        4_265_437_280,
        "c6bbc15e3224e6973459ba78de4998b80b50112b0ae5b5c67113d56b4e366b19",
        RAIL,
        "anything without a mask and a masked picture beside the latent, which no method here gives it: it "
        f"is read, compared and saved; {SD_LIMITS}",
        (
            "stable-diffusion-v1-5/stable-diffusion-inpainting",
            "sd-legacy/stable-diffusion-inpainting",
            "runwayml/stable-diffusion-inpainting",
        ),
    ),
    Published(
        "instruct-pix2pix",
        "model",
        "InstructPix2Pix, edits by instruction, 8 channels",
        "instruct-pix2pix-00-22000.safetensors",
        _hub("instruct-pix2pix-00-22000.safetensors", "timbrooks/instruct-pix2pix"),
        None,
        "fbc31a67aa",
        f"MIT for its code; its weights come from Stable Diffusion v1.5's ({RAIL})",
        f"other viewpoints, swapping places, counting, taking one object apart; {SD_LIMITS}",
        ("timbrooks/instruct-pix2pix",),
    ),
    _sdedit("celeba_hq", "faces (CelebA-HQ)"),
    _sdedit("bedroom", "bedrooms (LSUN)"),
    _sdedit("church_outdoor", "churches (LSUN)"),
    _glide("base", "base.pt", "from a text to 64×64"),
    _glide("upsample", "upsample.pt", "from 64×64 to 256×256"),
    _glide("base-inpaint", "base_inpaint.pt", "64×64 with a hole filled"),
    _glide("upsample-inpaint", "upsample_inpaint.pt", "the filled picture to 256×256"),
    _glide("clip-image", "clip_image_enc.pt", "its noised CLIP, half for pictures", "features"),
    _glide("clip-text", "clip_text_enc.pt", "its noised CLIP, half for texts", "features"),
    _clip(
        "B-32",
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        353_976_522,
        "openai/clip-vit-base-patch32",
    ),
    _clip(
        "L-14",
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
        932_768_134,
        "openai/clip-vit-large-patch14",
    ),
    Published(
        "dino-vit-s-16",
        "features",
        "DINO ViT-S/16, pictures",
        "dino_deitsmall16_pretrain.pth",
        ("https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",),
        None,
        "",
        "Apache 2.0",
        "reads no text; it was trained on ImageNet's photographs of 224×224",
        ("facebook/dino-vits16",),
    ),
    _trunk(
        "lpips-alex-trunk",
        "AlexNet, the trunk of LPIPS",
        "alexnet-owt-7be5be79.pth",
        "https://download.pytorch.org/models",
        "7be5be79",
        "BSD 3-Clause (torchvision's)",
        "pictures of less than 31×31",
        TORCHVISION,
    ),
    _trunk(
        "lpips-alex",
        "the heads of LPIPS 0.1 on AlexNet",
        "alex.pth",
        LPIPS_HEADS,
        "",
        "BSD 2-Clause",
        "anything without its trunk",
        LPIPS_PAGE,
    ),
    _trunk(
        "lpips-vgg-trunk",
        "VGG-16, the other trunk of LPIPS",
        "vgg16-397923af.pth",
        "https://download.pytorch.org/models",
        "397923af",
        "BSD 3-Clause (torchvision's)",
        "pictures of less than 16×16",
        TORCHVISION,
    ),
    _trunk(
        "lpips-vgg",
        "the heads of LPIPS 0.1 on VGG-16",
        "vgg.pth",
        LPIPS_HEADS,
        "",
        "BSD 2-Clause",
        "anything without its trunk",
        LPIPS_PAGE,
    ),
    _trunk(
        "fid-inception",
        "the Inception by which FID is measured",
        "pt_inception-2015-12-05-6726825d.pth",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights",
        "6726825d",
        "Apache 2.0",
        "telling pictures apart that ImageNet's classes do not",
        "https://github.com/mseitzer/pytorch-fid",
    ),
)


# ---- by name ----


def lookup(name: str) -> Published | None:
    """The entry of that name, in upper or lower case, or of that repository on the hub; None for another
    name.
    """
    return next((k for k in PUBLISHED if name.lower() in (k.name, *map(str.lower, k.repos))), None)


def lookup_or_refuse(name: str) -> Published:
    """As `lookup`. Raises WeightsError for an unknown name, with the names most like it."""
    if (found := lookup(name)) is None:
        near = difflib.get_close_matches(name.lower(), [k.name for k in PUBLISHED], n=2, cutoff=0.4)
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else "`palimpsest weights list` tells which there are"
        )
        raise WeightsError(f"name: no public checkpoint {name!r} is known here; {hint}")
    return found


def describe_digest(digest: str) -> str:
    """Which public or shipped file has this SHA-256, in words."""
    named = {k.sha256: k.name for k in PUBLISHED if k.sha256} | {
        record["sha256"]: Path(file).stem for file, record in manifest().items()
    }
    return next(
        (f"that of {name}" for start, name in named.items() if digest.startswith(start)),
        "not one that is known here",
    )


# ---- on this disk ----


def cache_folder() -> Path:
    """Where downloads are kept: `palimpsest` in torch's folder for downloads, which lies in $TORCH_HOME, else
    in $XDG_CACHE_HOME/torch, else in ~/.cache/torch.
    """
    return Path(torch.hub.get_dir()) / "palimpsest"


def hub_folder() -> Path:
    """Where the programs of the Hugging Face hub keep their downloads: $HF_HUB_CACHE, $HF_HOME/hub,
    $XDG_CACHE_HOME/huggingface/hub or ~/.cache/huggingface/hub.
    """
    if named := os.environ.get("HF_HUB_CACHE"):
        return Path(named).expanduser()
    general = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", f"{general}/huggingface")).expanduser() / "hub"


def _snapshots(repo: str) -> Iterator[Path]:
    """The snapshots of a repository on this disk: the one that main points to first."""
    folder = hub_folder() / f"models--{repo.replace('/', '--')}"
    main = folder / "refs" / "main"
    first = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    yield from sorted((folder / "snapshots").glob("*"), key=lambda path: path.name != first)


def find_on_disk(entry: Published) -> Path | None:
    """The file on this disk, or a folder of diffusers or transformers in the hub's cache; else None. No file
    is opened.
    """
    if (own := cache_folder() / entry.file).is_file():
        return own
    for repo in entry.repos:
        for snapshot in _snapshots(repo):
            if (snapshot / entry.file).is_file():
                return snapshot / entry.file
            if entry.kind == "model" and all(
                (snapshot / part / "config.json").is_file() for part in ("unet", "vae", "text_encoder")
            ):
                return snapshot
            if entry.kind == "features" and any(
                (snapshot / file).is_file() for file in ("model.safetensors", "pytorch_model.bin")
            ):
                return snapshot
    return None


def require_on_disk(entry: Published) -> Path:
    """As `find_on_disk`. Raises WeightsError where the file is not on this disk, with the command that
    fetches it, and for a file of another size than published.
    """
    path = find_on_disk(entry)
    if path is None:
        raise WeightsError(
            f"model: {entry.name} is not on this disk; `palimpsest weights get {entry.name}` fetches it, or "
            f"give the path of your copy of {entry.file}"
        )
    if path.is_file() and entry.size not in (None, size := path.stat().st_size):
        raise WeightsError(
            f"model: {path} has {size:,} bytes and {entry.name} was published with {entry.size:,}; remove "
            f"it, then `palimpsest weights get {entry.name}`"
        )
    return path
