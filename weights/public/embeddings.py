"""Textual-inversion embeddings: words that were taught to a text encoder, as other programs write them.

    load("sd-v1-5.safetensors", embedding="cat.pt")          # "a photo of cat"
    load("sd-v1-5.safetensors", embedding="cat.pt=<mine>")   # "a photo of <mine>"

    diffusers   learned_embeds.bin, .safetensors: {word: vectors}
    A1111       .pt: {"string_to_param": {"*": vectors}, "name": word}; .safetensors: {"emb_params": vectors}
    ours        what `palimpsest dreambooth --word` writes (methods/textual_inversion.py)

A word that the file does not name is called as the file is. Vectors are (d) or (n d): a word may have
several tokens. They are new rows of the table of tokens, so no other word changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.arguments import ArgumentError
from palimpsest.nets.text import TextTransformer
from palimpsest.weights.files import WeightsError
from palimpsest.weights.model import Model
from palimpsest.weights.public.mapped import contents_of, first_few, header_of

KINDS = {768: "Stable Diffusion v1", 1024: "Stable Diffusion 2", 1280: "Stable Diffusion XL"}  # by width


def with_words(model: Model, given: str | Path | Sequence[str | Path]) -> Model:
    """The freshly loaded model, taught the words of these files, FILE or FILE=WORD each.

    Raises ArgumentError for a file that is no embedding, does not fit, or teaches a word that another does.
    """
    for one in [given] if isinstance(given, (str, Path)) else given:
        path, word = split_word(one)
        words = read_words(path)
        if word is not None:
            if len(words) != 1:
                raise ArgumentError(
                    "embedding",
                    f"{path} teaches {len(words)} words ({', '.join(words)}), which cannot all be {word!r}; "
                    "leave the name out",
                )
            words = dict.fromkeys([word], *words.values())
        model = teach(model, words, path, "embedding")
    return model


def split_word(given: str | Path) -> tuple[Path, str | None]:
    """FILE=WORD -> (FILE, WORD); FILE -> (FILE, None), also where its name has a "=" in it."""
    path, equals, word = str(given).rpartition("=")
    if not equals or Path(given).exists():
        return Path(given), None
    if not word.strip():
        raise ArgumentError("embedding", f"{given} ends without a word; write FILE=WORD, or FILE alone")
    return Path(path), word.strip()


@contextmanager
def read_as(argument: str, path: Path) -> Iterator[None]:
    """What cannot be read of this file is the fault of this argument."""
    try:
        yield
    except ArgumentError:
        raise
    except WeightsError as error:
        raise ArgumentError(argument, str(error).removeprefix("model: ")) from None
    except (TypeError, ValueError, re.error) as error:
        raise ArgumentError(
            argument, f"{path} has a damaged header, or a damaged file beside it ({error}); fetch it again"
        ) from None


def read_words(path: Path) -> dict[str, Tensor]:
    """The words of a file, each with its vectors (n d), float32. Raises ArgumentError for another file."""
    with read_as("embedding", path):
        about, found = dict(json.loads(header_of(path).get("palimpsest", "{}"))), contents_of(path)
    words = words_of(found, path.stem, about) if isinstance(found, dict) else {}
    if not words:
        raise ArgumentError(
            "embedding",
            f"{path} holds no textual-inversion embedding (vectors by word, string_to_param or emb_params)"
            "; a LoRA goes to --lora, a model to --model",
        )
    return words


def words_of(found: Mapping[str, Any], stem: str, about: Mapping[str, Any]) -> dict[str, Tensor]:
    """The words in what a file holds; {} where it is no embedding. about: a header of ours."""
    if about.get("kind") == "word":
        found = {str(about.get("identifier", "")): found.get("vector")}
    elif "clip_g" in found or "clip_l" in found:
        raise ArgumentError(
            "embedding",
            f"{stem} teaches the two text encoders of Stable Diffusion XL, which is not supported; "
            "take an embedding of Stable Diffusion v1",
        )
    elif isinstance(found.get("string_to_param"), dict):
        vectors = [v for v in found["string_to_param"].values() if isinstance(v, Tensor)]
        found = {str(found.get("name") or stem): vectors[0]} if len(vectors) == 1 else {}
    elif "emb_params" in found:
        found = {stem: found["emb_params"]}
    vectors = list(found.values())
    if not all(isinstance(v, Tensor) and v.ndim in (1, 2) and v.is_floating_point() for v in vectors):
        return {}
    if len({v.shape[-1] for v in vectors}) != 1 or not all(v.numel() for v in vectors):
        return {}
    return {str(word): v.detach().float().reshape(-1, v.shape[-1]) for word, v in found.items()}


def said_of_words(path: Path) -> str | None:
    """What a file of embeddings is and where it goes, for one that was given as a model; None for others."""
    try:
        words = read_words(path)
    except ArgumentError:
        return None
    if not {vectors.shape[1] for vectors in words.values()} <= KINDS.keys():
        return None  # tensors of any other kind
    return (
        f"holds an embedding ({first_few(map(repr, words))}), no model; give it to --embedding, and to "
        "--model the model that it was made for"
    )


@torch.no_grad()
def teach(model: Model, words: Mapping[str, Tensor], path: Path, argument: str) -> Model:
    """The model with new rows in its table of tokens, and a tokenizer that knows their words.

    words: each with its vectors (n d). path, argument: where they came from, for the messages.
    """
    if not isinstance(model.text, TextTransformer):
        raise ArgumentError(
            argument, f"{path} teaches words, and {model.name} has no text encoder that could learn any"
        )
    table = model.text.tokens.weight
    rows, width = table.shape
    taught = dict(model.tokenizer.taught)
    for word, vectors in words.items():
        if vectors.shape[1] != width:
            kind = f" ({KINDS[vectors.shape[1]]})" if vectors.shape[1] in KINDS else ""
            raise ArgumentError(
                argument,
                f"{path} teaches {word!r} as vectors of width {vectors.shape[1]}{kind}, and {model.name} "
                f"reads {width}; take one that was made for this kind of model",
            )
        if not word.strip() or not len(vectors):
            raise ArgumentError(argument, f"{path} teaches a word without letters or vectors; take another")
        if not vectors.isfinite().all():
            raise ArgumentError(
                argument, f"{path} teaches {word!r} numbers that are not finite; take another"
            )
        if word.lower() in map(str.lower, taught):
            raise ArgumentError(argument, f"{path} teaches {word!r} once more; name it FILE=WORD")
        taught[word] = list(range(rows, rows := rows + len(vectors)))
    table = torch.cat([table, *(vectors.to(table) for vectors in words.values())])
    model.text.tokens = nn.Embedding(*table.shape, _weight=table).requires_grad_(False)
    return replace(model, tokenizer=model.tokenizer.with_taught(taught))
