"""What can be said of a real checkpoint beyond its nets: which file it is, and the figures that were
published for it.

V1 and V3 are what diffusers' own integration tests (tests/pipelines/stable_diffusion, commit 58eb52c)
expect of the real weights. They check the whole chain, tokenizer to autoencoder, without diffusers. This
project has not reproduced them: it has no such weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import torch
from numpy.random import RandomState
from torch import Tensor, nn

from palimpsest.claims.verify import EXACT, Remark, Row, Setting, Skipped
from palimpsest.claims.verify.walks import published_times
from palimpsest.methods.instruct_pix2pix import condition
from palimpsest.nets.unet import UNet
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.guidance import cfg_two
from palimpsest.weights.files import WeightsError
from palimpsest.weights.load import find, load
from palimpsest.weights.model import Model
from palimpsest.weights.public.catalogue import describe_digest, find_on_disk, lookup, require_on_disk
from palimpsest.weights.public.download import hashed, weight_files, whole
from palimpsest.weights.public.towers import Unpacked, load_clip, load_dino, recognise
from palimpsest.worlds.files import read_picture

V1 = (0.38019, 0.28647, 0.27321, 0.40377, 0.38290, 0.35446, 0.39218, 0.38165, 0.42239)
V1_PROMPT = "a photograph of an astronaut riding a horse"
V3 = (0.3828, 0.3834, 0.3818, 0.3792, 0.3865, 0.3752, 0.3792, 0.3847, 0.3753)
V3_PROMPT = "turn him into a cyborg"
ROUNDED = {
    torch.bfloat16: 0.1,
    torch.float16: 0.03,
}  # ours: what half precision may change; the figures are of float32


def where(name: str) -> Path:
    """The file or folder of a name or path."""
    found = lookup(name)
    return find(name) if found is None or found.kind == "model" else require_on_disk(found)


def opened(name: str, device: torch.device, dtype: torch.dtype) -> tuple[Model | None, nn.Module | None]:
    """(the Model of a name or path, None), or (None, its CLIP or DINO). Raises WeightsError for what is
    neither.
    """
    path = where(name)
    if path.is_dir() and (path / "unet").is_dir():
        return load(path, device, dtype), None
    kind = recognise(Unpacked(path).shapes)
    if kind is None:
        return load(path, device, dtype), None
    loaders = {"load_clip": load_clip, "load_dino": load_dino}
    if kind.loader not in loaders:
        raise WeightsError(
            f"model: {path} holds {kind.what}, for which there is no certificate; tests/test_trunks.py "
            "compares it"
        )
    return None, loaders[kind.loader](path, device, dtype)


def file_rows(name: str) -> Callable[[Setting], Iterator[Row | Remark]]:
    """The group of rows that says what the file of `name` is; a row that fails where it is not the file
    that was published by that name.
    """

    def group(s: Setting) -> Iterator[Row | Remark]:
        found = lookup(name)
        for file in weight_files(where(name)):
            digest = hashed(file)
            yield Remark(
                f"{file}: {whole(file)}, {file.stat().st_size:,} bytes, whole; SHA-256 {digest}, "
                f"{describe_digest(digest)}"
            )
            if found is not None and file == find_on_disk(found) and not digest.startswith(found.sha256):
                yield Row(
                    f"the file of {found.name}",
                    f"SHA-256 {digest[:10]}…",
                    whole(file),
                    f"published: {found.sha256[:10]}…",
                    None,
                    {},
                    float("inf"),
                    0.0,
                )

    return group


# ---- the published pictures ----


def published_latents() -> Tensor:
    """V1's (1 4 64 64): numpy's old generator, seed 0, as float32."""
    return torch.from_numpy(RandomState(0).standard_normal((1, 4, 64, 64))).float()


@torch.no_grad()
def published_picture(model: Model, z: Tensor, prompt: str, *, steps: int = 3, w: float = 7.5) -> Tensor:
    """The picture (b 3 y x) in [0, 1] that Stable Diffusion's published chain makes of latents z (b c y
    x) under a prompt.
    """
    z, eps = z.to(model.device, model.dtype), model.denoiser(prompt, w)
    for t, s in pairwise(published_times(model.schedule, steps)):
        z = ddim_step(model.schedule, z, eps(z, t), t, s)
    return model.decode(z).float().cpu() / 2 + 0.5


@torch.no_grad()
def published_edit(
    model: Model, x: Tensor, instruction: str, *, steps: int = 3, s_text: float = 7.5, s_image: float = 1.0
) -> Tensor:
    """The picture (b 3 y x) in [0, 1] that InstructPix2Pix's published chain, by DDIM, makes of x (b 3 y
    x) in [−1, 1].
    """
    seen, ctx, null = condition(model, x), model.embed(instruction), model.embed("")
    z = torch.randn(seen.shape, generator=torch.Generator().manual_seed(0)).to(seen)
    eps = cfg_two(model.eps, ctx, null, seen, s_text, s_image)
    for t, s in pairwise(published_times(model.schedule, steps)):
        z = ddim_step(model.schedule, z, eps(z, t), t, s)
    return model.decode(z).float().cpu() / 2 + 0.5


def corner(picture: Tensor) -> Tensor:
    """What the published figures are: the lower right 3×3 of the last channel of the first picture, row
    by row: (9,).
    """
    return picture[0, -1, -3:, -3:].flatten()


def published_rows(
    name: str, portrait: str | Path | None = None
) -> Callable[[Setting], Iterator[Row | Skipped]]:
    """The group with V1, for Stable Diffusion v1.4, and V3, for InstructPix2Pix; absolute differences of
    values in [0, 1].

    V1 is compared for the known name, and for a path with 1-4 in it: which weights others are is not
    known. V3 is compared where the net sees a picture and its example portrait is given as a file: it is
    not shipped."""
    x = None if portrait is None else read_picture(portrait)

    def group(s: Setting) -> Iterator[Row | Skipped]:
        yield _published_picture_row(s, name)
        yield _published_edit_row(s, name, x)

    return group


def _published_picture_row(s: Setting, name: str) -> Row | Skipped:
    what, found = "V1, three steps to a picture", lookup(name)
    if "1-4" not in (found.name if found else Path(name).name):
        why = f"it is of Stable Diffusion v1.4 (by that name, or a path with 1-4 in it), not of {name}"
        return Skipped(what, why)
    if s.model.text is None or s.model.latent_shape != (4, 64, 64):
        return Skipped(what, f"{name} is not of the size of Stable Diffusion v1.4")
    made = published_picture(s.model, published_latents(), V1_PROMPT)
    return _against(s, what, "1×4×64×64", made, V1, "text2img", 1e-4)


def _published_edit_row(s: Setting, name: str, x: Tensor | None) -> Row | Skipped:
    what = "V3, InstructPix2Pix's portrait"
    if not isinstance(s.model.net, UNet) or s.model.beside != s.model.channels:
        return Skipped(what, f"{name} sees no picture beside its latent")
    if x is None:
        why = (
            "it needs the example portrait of timbrooks/instruct-pix2pix (example.jpg), which is not "
            "shipped: give the file with --portrait"
        )
        return Skipped(what, why)
    made = published_edit(s.model, x, V3_PROMPT)
    return _against(s, what, "×".join(map(str, x.shape)), made, V3, "instruct", 1e-3)


def _against(
    s: Setting,
    what: str,
    shape: str,
    made: Tensor,
    published: tuple[float, ...],
    layout: str,
    tolerance: float,
) -> Row:
    """The row of a picture (b 3 y x) in [0, 1] whose corner was published."""
    return Row(
        what,
        f"{shape}, {s.name}",
        layout,
        "diffusers' tests (float32, CUDA)",
        None,
        {},
        (corner(made) - torch.tensor(published)).abs().max().item(),
        s.allow(ROUNDED | dict.fromkeys(EXACT, tolerance)),
    )
