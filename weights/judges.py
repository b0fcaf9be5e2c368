"""Judges of pictures of the shapes world: a reader of their attributes, a CLIP, clean or noised, a classifier
of noisy pictures, a DINO.

    oracle = load_reader("shapes-reader")              # every attribute of a picture, in words
    clip = load_judge("shapes-clip")                   # cos of pictures with captions
    noised = load_judge("shapes-clip-noised")          # cos of x_t with captions; its gradient guides: (8)
    classifier = load_classifier("shapes-classifier")  # log p(attributes | x_t, t); guides too: (6)
    dino = load_likeness("shapes-dino")                # cos of pictures with pictures: the same individual?

Times are levels of the schedule, 1 … T, whole or not: the nets count from 0 and know whole ones, so they
are told the nearest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.arguments import ArgumentError
from palimpsest.nets.judges.clip import CLIP, clip_view
from palimpsest.nets.judges.dino import DINO, dino_view
from palimpsest.nets.judges.noised_clip import NoisedCLIP
from palimpsest.nets.judges.noisy_reader import NoisyReader
from palimpsest.nets.judges.reader import Reader
from palimpsest.nets.tokenizer import ClipTokenizer, Tokenizer, clean_openai
from palimpsest.weights.files import built
from palimpsest.weights.load import building, find, is_public, pick_device, read_kind
from palimpsest.weights.words import word_tokenizer


def time_of_level(t: float, times: int) -> int:
    """What a net that counts its times from 0 calls the level t: the nearest whole one, 0 … times − 1."""
    return min(max(round(float(t)) - 1, 0), times - 1)


@dataclass(frozen=True)
class Oracle:
    """The reader of the shapes world: every named attribute of a picture, as words."""

    net: Reader
    values: dict[str, tuple[str, ...]]  # attribute -> its values, in the order of the logits

    @torch.no_grad()
    def read(self, pictures: Tensor) -> list[dict[str, str]]:
        """Every attribute of every picture (b 3 64 64)."""
        parts = [self.net(part) for part in self._batches(pictures)]
        found = {name: torch.cat([p[name] for p in parts]).argmax(1).tolist() for name in self.values}
        return [
            {name: self.values[name][found[name][i]] for name in self.values} for i in range(len(pictures))
        ]

    @torch.no_grad()
    def certainty(self, picture: Tensor) -> dict[str, float]:
        """How probable each attribute of one picture (1 3 64 64) is to the net, as it is read."""
        (part,) = self._batches(picture)
        return {name: float(logits[0].softmax(0).max()) for name, logits in self.net(part).items()}

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """What KID and FID compare sets of pictures by: (b 3 64 64) -> (b d), on the CPU. Only figures of
        one reader can be compared.
        """
        return torch.cat([self.net.features(part).cpu() for part in self._batches(pictures)])

    @torch.no_grad()
    def maps(self, pictures: Tensor) -> Tensor:
        """What two pictures are compared by, place by place (metrics.features.perceptual): (b 3 64 64) ->
        (b n d), on the CPU.
        """
        return torch.cat([self.net.map(part).cpu() for part in self._batches(pictures)])

    def _batches(self, pictures: Tensor) -> Iterator[Tensor]:
        """Some at a time, where the net is."""
        return (part.to(next(self.net.parameters()).device) for part in pictures.split(256))

    def right(self, pictures: Tensor, wanted: Sequence[dict[str, str]]) -> Tensor:
        """Whether every wanted attribute is read off each picture: (b,) bool. An attribute that is not
        asked for does not count.
        """
        return torch.tensor(
            [all(r[k] == v for k, v in w.items()) for r, w in zip(self.read(pictures), wanted, strict=True)]
        )


@dataclass(frozen=True)
class Judge:
    """A CLIP with its tokenizer. Gradients flow through `images`."""

    net: CLIP | NoisedCLIP
    tokenizer: Tokenizer

    @property
    def noised(self) -> bool:
        """Whether it looks at x_t and is told t."""
        return isinstance(self.net, NoisedCLIP)

    @property
    def scale(self) -> float:
        """1/τ, by which a cosine becomes a logit."""
        return self.net.scale if self.noised else float(self.net.logit_scale.exp())

    def images(self, pictures: Tensor, t: float = 1) -> Tensor:
        """(b 3 y x) in [−1, 1], or x_t at time t for a noised one -> (b d), of length 1. A clean one sees
        every size in its own.
        """
        pictures = pictures.to(next(self.net.parameters()).device)
        if not self.noised:
            return self.net.encode_image(clip_view(pictures, self.net.size))
        side = self.net.size
        if tuple(pictures.shape[-2:]) != (side, side):
            raise ArgumentError(
                "x_t",
                f"a noised CLIP sees {side}x{side} only, as its noise would be another in another size; "
                f"got {tuple(pictures.shape)}",
            )
        return self.net.encode_image(pictures, time_of_level(t, self.net.times))

    @torch.no_grad()
    def texts(self, prompts: str | Sequence[str]) -> Tensor:
        """Prompts -> (b d), of length 1."""
        tokens = self.tokenizer([prompts] if isinstance(prompts, str) else list(prompts))
        return self.net.encode_text(tokens.to(next(self.net.parameters()).device))

    @torch.no_grad()
    def cosines(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """cos of each picture with its own prompt: (b,)."""
        return (self.images(pictures) * self.texts(prompts)).sum(dim=1)


@dataclass(frozen=True)
class Classifier:
    """A noise-aware classifier of named attributes. Gradients flow."""

    net: NoisyReader
    values: dict[str, tuple[str, ...]]

    def log_p(self, x_t: Tensor, t: float, wanted: Sequence[dict[str, str]]) -> Tensor:
        """Σ log p(attribute = value | x_t, t) over what is wanted of each picture: (b,). # the log p_φ(y
        | x_t) of Eq. (6)

        Raises ValueError for an attribute or a value that is not read here.
        """
        logits = self.net(x_t.to(next(self.net.parameters()).device), time_of_level(t, self.net.times))
        total = []
        for i, asked in enumerate(wanted):
            for name, value in asked.items():
                if value not in self.values.get(name, ()):
                    readable = ", ".join(self.values.get(name, self.values))
                    raise ArgumentError("wanted", f"{name} {value!r} is not read here; known: {readable}")
            total.append(
                sum(
                    F.log_softmax(logits[name][i], dim=0)[self.values[name].index(value)]
                    for name, value in asked.items()
                )
            )
        return torch.stack(total)


@dataclass(frozen=True)
class Likeness:
    """A DINO and how it looks: the short side of a picture is brought to `resize`, and the central square
    of the net's size is seen.
    """

    net: DINO
    resize: int

    @torch.no_grad()
    def images(self, pictures: Tensor) -> Tensor:
        """(b 3 y x) in [−1, 1] -> class tokens (b d), of length 1, on the CPU."""
        size, device = self.net.side * self.net.patch, next(self.net.parameters()).device
        seen = [self.net(dino_view(part.to(device), size, self.resize)).cls for part in pictures.split(128)]
        return F.normalize(torch.cat(seen), dim=-1).cpu()


def find_judge(name_or_path: str | Path) -> Path:
    """The file of a path, of a shipped judge, or of a public one that was fetched before.

    Raises WeightsError where there is none.
    """
    from palimpsest.weights.public.catalogue import lookup, require_on_disk

    public = lookup(str(name_or_path))
    if public is not None and public.kind == "features" and not Path(name_or_path).exists():
        return require_on_disk(public)
    return find(name_or_path)


def load_judge(name_or_path: str | Path = "shapes-clip", device: str | torch.device = "cpu") -> Judge:
    """A shipped CLIP, clean or noised, or a public one by its name (`palimpsest weights list`) or the path of
    its file, ready to run.
    """
    path = find_judge(name_or_path)
    if is_public(path):
        from palimpsest.weights.public.towers import load_clip

        net = load_clip(path, pick_device(device))
        tokens = ClipTokenizer(length=len(net.text.positions), pad=0, clean=clean_openai, truncate=True)
        return Judge(net, tokens)
    path, config, tensors = read_kind(path, "clip", "noised_clip")
    with building(path):
        kind = CLIP if config["kind"] == "clip" else NoisedCLIP
        return Judge(
            built(kind, config["clip"], tensors, "clip", path).to(pick_device(device)),
            word_tokenizer(config["words"], config["clip"]["length"], free=bool(config.get("free"))),
        )


def load_classifier(
    name_or_path: str | Path = "shapes-classifier", device: str | torch.device = "cpu"
) -> Classifier:
    """The shipped noise-aware classifier, ready to run."""
    path, config, tensors = read_kind(name_or_path, "classifier")
    with building(path):
        values = {name: tuple(v) for name, v in config["values"].items()}
        sizes = dict(config["classifier"], attributes={name: len(v) for name, v in values.items()})
        net = built(NoisyReader, sizes, tensors, "classifier", path)
        return Classifier(net.to(pick_device(device)), values)


def load_likeness(name_or_path: str | Path = "shapes-dino", device: str | torch.device = "cpu") -> Likeness:
    """The shipped DINO, which sees whole pictures; or a published one, ViT-S/16 by the path of its file,
    at 256 cut to 224 as its own evaluation sees (arXiv:2208.12242v2, Sec. 4.1 measures with that; its
    view is unstated). Ready to run."""
    path = find(name_or_path)
    if is_public(path):
        from palimpsest.weights.public.towers import load_dino

        net = load_dino(path, pick_device(device))
        size = net.side * net.patch
        return Likeness(net, round(size * 8 / 7))
    path, config, tensors = read_kind(path, "dino")
    with building(path):
        net = built(DINO, config["dino"], tensors, "dino", path).to(pick_device(device))
        return Likeness(net, config["dino"]["size"])


def load_reader(name_or_path: str | Path = "shapes-reader", device: str | torch.device = "cpu") -> Oracle:
    """The shipped reader of the shapes world, ready to run."""
    path, config, tensors = read_kind(name_or_path, "reader")
    with building(path):
        values = {name: tuple(v) for name, v in config["values"].items()}
        sizes = dict(config["reader"], attributes={name: len(v) for name, v in values.items()})
        return Oracle(built(Reader, sizes, tensors, "reader", path).to(pick_device(device)), values)
