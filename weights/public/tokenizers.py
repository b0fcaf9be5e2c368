"""The tokenizer of a published model: CLIP's, as its files spell it.

A folder `tokenizer/` has the byte pairs in merges.txt, or in tokenizer.json alone, as transformers 5 writes
it. Words that were taught to the model later stand in tokenizer.json, in added_tokens.json or in
tokenizer_config.json, and the padding in the last of these or in special_tokens_map.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from palimpsest.nets.text import TextTransformer
from palimpsest.nets.tokenizer import CLIP_PAIRS, SPECIAL, ClipTokenizer, Tokenizer
from palimpsest.outputs import write_text
from palimpsest.weights.files import WeightsError, write_json
from palimpsest.weights.public.mapped import read_json, refuse_dangling
from palimpsest.weights.words import word_tokenizer


def tokenizer_of_file(
    text: TextTransformer | None, header: dict[str, Any], pad: int | None = None
) -> Tokenizer | None:
    """The tokenizer of a single file: of the words in its header, of the pairs there, or CLIP's.

    pad: the token behind a text, None for the end token."""
    if text is None:
        return None
    length = len(text.positions)
    taught = header.get("taught") or {}
    if header.get("words") is not None:
        free = bool(header.get("free", True))
        return word_tokenizer(header["words"], length, free=free).with_taught(taught)
    pairs = [tuple(pair.split(" ")) for pair in header.get("merges") or ()]
    plain = ClipTokenizer(pairs or CLIP_PAIRS, length=length, pad=header.get("pad", pad), truncate=True)
    return plain.with_taught(taught)


def header_of_tokenizer(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """What `tokenizer_of_file` reads: a single file has no folder to keep a tokenizer in."""
    if tokenizer is None:
        return {}
    if not isinstance(tokenizer, ClipTokenizer):
        return {"words": tokenizer.words, "taught": dict(tokenizer.taught), "free": tokenizer.whole is None}
    pairs = [" ".join(pair) for pair in tokenizer.rank]
    return {"merges": pairs, "pad": tokenizer.pad, "taught": dict(tokenizer.taught)}


# ---- a folder ----


def read_tokenizer(folder: Path, length: int) -> ClipTokenizer:
    """CLIP's tokenizer as the files in `folder` spell it; as published where there is no such folder.

    length: of a row. Raises WeightsError for another tokenizer than CLIP's and for damaged files."""
    if not folder.is_dir():
        return ClipTokenizer(length=length, truncate=True)
    whole = _json(folder / "tokenizer.json")
    said = _json(folder / "special_tokens_map.json") | _json(folder / "tokenizer_config.json")
    if (folder / "merges.txt").is_file():
        pairs = folder / "merges.txt"
    elif whole:
        pairs = _pairs(folder, whole.get("model"))
    else:
        refuse_dangling(folder)
        raise _another(folder, said, "it has neither merges.txt nor tokenizer.json")
    try:
        plain = ClipTokenizer(pairs, length=length, truncate=True)
    except ValueError as error:
        raise WeightsError(f"model: {folder.parent} reads texts: {error}") from None
    # what stands among them but has a token by the pairs is none: Stable Diffusion 2's padding is "!"
    taught = {
        word: [token]
        for word, token in _taught(folder, whole, said).items()
        if plain.tokens.get(word) != token
    }
    pad = _content(said.get("pad_token")) or SPECIAL[1]
    tokens = [plain.tokens[pad]] if pad in plain.tokens else taught.get(pad)
    if tokens is None:
        raise _another(folder, said, f"its padding {pad!r} is none of its tokens")
    if tokens != [plain.pad]:
        plain = ClipTokenizer(pairs, length=length, pad=tokens[0], truncate=True)
    return plain.with_taught(taught)


def _json(path: Path) -> dict[str, Any]:
    """The JSON object of a file; {} where there is no such file."""
    return read_json(path) if path.is_file() else {}


def _content(token: str | dict[str, Any] | None) -> str:
    """The text of a special token, which stands there as itself or in an object; "" for none."""
    return token.get("content") or "" if isinstance(token, dict) else token or ""


def _another(folder: Path, said: dict[str, Any], why: str) -> WeightsError:
    named = said.get("tokenizer_class")
    return WeightsError(
        f"model: {folder} holds {f'a {named}' if named else 'a tokenizer'} that cannot be read here ({why}); "
        "only CLIP's byte pairs are known, as merges.txt or tokenizer.json"
    )


def _pairs(folder: Path, model: Any) -> list[tuple[str, str]]:
    """The byte pairs in tokenizer.json, and that the tokens are numbered by them, as CLIP's are."""
    said = _json(folder / "tokenizer_config.json")
    if not isinstance(model, dict) or model.get("type") != "BPE" or model.get("end_of_word_suffix") != "</w>":
        kind = model.get("type") if isinstance(model, dict) else model
        raise _another(folder, said, f"the model in tokenizer.json is {kind}")
    pairs = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model.get("merges") or ()]
    if any(len(pair) != 2 for pair in pairs):
        raise _another(folder, said, "merges in tokenizer.json are no pairs")
    numbered = ClipTokenizer(pairs).tokens
    vocabulary = model.get("vocab") or {}
    if other := [word for word, token in numbered.items() if vocabulary.get(word) != token]:
        raise _another(folder, said, f"{other[0]!r} is token {vocabulary.get(other[0])} in tokenizer.json")
    return pairs


def _taught(folder: Path, whole: dict[str, Any], said: dict[str, Any]) -> dict[str, int]:
    """Every word of the folder that stands beside its pairs -> its token."""
    old = _json(folder / "added_tokens.json")  # of transformers 4
    listed = {_content(about): int(token) for token, about in said.get("added_tokens_decoder", {}).items()}
    new = {_content(about): int(about["id"]) for about in whole.get("added_tokens") or ()}
    return {word: int(token) for word, token in (old | listed | new).items() if word}


def write_tokenizer(folder: Path, tokenizer: ClipTokenizer) -> None:
    """The files of transformers' CLIPTokenizer.

    Raises ValueError for a taught word of several tokens, which they cannot say."""
    if several := [word for word, tokens in tokenizer.taught.items() if len(tokens) > 1]:
        raise ValueError(
            f"path: a folder cannot say that {several[0]} is several tokens; save it as one file"
        )
    start, end = SPECIAL
    pad = {token: string for string, token in tokenizer.tokens.items()}.get(tokenizer.pad, end)
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": pad}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "vocab.json", tokenizer.tokens)
    merges = "\n".join(["#version: 0.2", *map(" ".join, tokenizer.rank)])
    write_text(folder / "merges.txt", merges + "\n")
    about = special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": tokenizer.length}
    write_json(folder / "tokenizer_config.json", about)
    write_json(folder / "special_tokens_map.json", special)
    if tokenizer.taught:
        added = {word: tokens[0] for word, tokens in tokenizer.taught.items()}
        write_json(folder / "added_tokens.json", added)
