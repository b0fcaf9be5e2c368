"""palimpsest weights: which public checkpoints are known, fetch one, look whether a file is whole and
what is in it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.console import say, tell
from palimpsest.cli.manners import Mistake, Parser, blame, command
from palimpsest.weights.files import read_weights
from palimpsest.weights.judges import load_classifier, load_judge, load_reader
from palimpsest.weights.load import find, load, load_autoencoder
from palimpsest.weights.public.catalogue import (
    PUBLISHED,
    Published,
    describe_digest,
    find_on_disk,
    lookup,
    lookup_or_refuse,
)
from palimpsest.weights.public.checkpoint import is_public, read_public
from palimpsest.weights.public.download import check, download, hashed, weight_files, whole
from palimpsest.weights.public.towers import Unpacked, load_clip, load_dino, load_inception, recognise


def declare_weights(commands: argparse._SubParsersAction) -> None:
    """`palimpsest weights list`, `get NAME` and `verify PATH`."""
    about = COMMANDS["weights"]
    p = commands.add_parser("weights", help=about, description=about, allow_abbrev=False)
    actions = p.add_subparsers(metavar="ACTION", required=True, parser_class=Parser)
    command(
        actions,
        "list",
        "the known checkpoints: size, whether they are here, licence, what they cannot do",
        run_list,
    )
    get = command(actions, "get", "fetch one, going on where an earlier try broke off", run_get)
    get.add_argument("name", metavar="NAME", help="as `palimpsest weights list` gives it")
    get.add_argument(
        "--to",
        metavar="FOLDER",
        help="where to put it; it is then loaded by its path (default: palimpsest/ in torch's "
        "folder of downloads, which TORCH_HOME moves)",
    )
    verify = command(
        actions,
        "verify",
        "is it whole, which published file is it, and what does it hold? Offline",
        run_verify,
    )
    verify.add_argument("path", metavar="PATH", help="a file, a diffusers folder, or a name that was fetched")


# ---- list ----


def run_list(a: argparse.Namespace) -> None:
    """A block for each."""
    for k in PUBLISHED:
        place = find_on_disk(k)
        tell(
            f"{k.name}: {k.what}\n    {size_of(k)}, SHA-256 {digest_of(k)}\n    "
            f"{f'here: {place}' if place else 'not here'}\n"
            f"    licence: {k.licence}; see {k.page}\n    cannot: {k.cannot}"
        )


def size_of(k: Published) -> str:
    """The published size, for people."""
    return (
        f"{k.file}, size not published"
        if k.size is None
        else f"{k.file}, {k.size / 1e6:,.{0 if k.size > 1e7 else 1}f} MB"
    )


def digest_of(k: Published) -> str:
    """The published SHA-256, as far as it was."""
    return {0: "not published", 64: k.sha256}.get(
        len(k.sha256), f"{k.sha256}… (only these digits were published)"
    )


# ---- get ----


def run_get(a: argparse.Namespace) -> None:
    """The path, on stdout; licence and limits on stderr, before anything is fetched."""
    k = lookup_or_refuse(a.name)
    place = find_on_disk(k) if a.to is None else None
    if place is None:
        say(f"{k.name}: {size_of(k)}; licence: {k.licence}; it cannot: {k.cannot}")
        with blame("to" if a.to else "name"):
            place = download(k, None if a.to is None else Path(a.to))
        if not k.sha256:
            say(f"note: no SHA-256 of {k.file} is published; this one has {hashed(place)}, see {k.page}")
    elif place.is_file():
        check(place, k)
    tell(place)


# ---- verify ----


def run_verify(a: argparse.Namespace) -> None:
    """A line for each file, then what a strict load finds in it; the net has no weights, so it takes no
    memory.
    """
    k = lookup(a.path)
    path = find_on_disk(k) if k is not None and k.kind != "model" else find(a.path)
    if path is None or not path.exists():
        raise Mistake(
            f"path: {a.path} is not on this disk; `palimpsest weights get {k.name}` fetches it"
            if k
            else f"path: there is no {a.path}"
        )
    for file in weight_files(path):
        if k is not None and file.name == k.file:
            check(file, k)
        form, digest = whole(file), hashed(file)
        tell(
            f"{file}: {form}, {file.stat().st_size:,} bytes, whole\n"
            f"    SHA-256 {digest}, {describe_digest(digest)}"
        )
    for name, module in modules_of(path).items():
        tell(
            f"    {name}: {sum(p.numel() for p in module.parameters()):,} parameters in "
            f"{len(list(module.parameters()))} tensors, "
            "all in their places"
        )


def modules_of(path: Path) -> dict[str, nn.Module]:
    """The modules of a checkpoint, strictly fitted. Raises WeightsError for one that does not fit, or of
    no known kind.
    """
    if not (path / "unet").is_dir() and (kind := recognise(Unpacked(path).shapes)) is not None:
        read = {"load_clip": load_clip, "load_dino": load_dino, "load_inception": load_inception}.get(
            kind.loader
        )
        if read is None:
            say(
                f"note: {path} holds {kind.what}, a part of a network; {kind.loader} of "
                "weights/public/towers.py reads it with the other part"
            )
        return {kind.what: read(path, "meta")} if read else {}
    if is_public(path):
        fields = read_public(path, torch.device("meta"), torch.float32)
        return {name: fields[name] for name in ("net", "text", "vae") if fields[name] is not None}
    ours = {
        "vae": lambda: load_autoencoder(path).vae,
        "reader": lambda: load_reader(path).net,
        "clip": lambda: load_judge(path).net,
        "noised_clip": lambda: load_judge(path).net,
        "classifier": lambda: load_classifier(path).net,
    }
    if (kind := read_weights(path)[0].get("kind")) in ours:
        return {kind: ours[kind]()}
    model = load(path, "cpu")
    return {
        name: module
        for name, module in (("net", model.net), ("text", model.text), ("vae", model.vae))
        if module is not None
    }
