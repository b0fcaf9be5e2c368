"""Fetch a published file, continue a download that broke off, and refuse a file that is not whole.

torch.hub.download_url_to_file starts from the beginning after every break, which is not good enough for
4 GB. Here the request asks for the missing range. The bytes are collected in NAME.partial, which becomes
NAME in one step when it is whole and checked."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from palimpsest.outputs import locked
from palimpsest.weights.files import WeightsError, sha256
from palimpsest.weights.public.catalogue import Published, cache_folder
from palimpsest.weights.public.mapped import Checkpoint, kind

CHUNK = 2**20  # bytes read at once
TIMEOUT = 30  # seconds without a byte, after which a connection counts as broken
TRIES = 5  # broken connections in a row that brought nothing new


def download(entry: Published, folder: Path | None = None, *, progress: bool | None = None) -> Path:
    """Fetch the file of an entry into `folder` (default: `cache_folder()`) from the first mirror that gives
    it whole; its path.

    A download that broke off earlier is continued. progress: whether to show a bar; None shows one on
    terminals only. Raises WeightsError, one line with every mirror's fault, and for a file that is there
    already but is not the published one."""
    path = (folder or cache_folder()) / entry.file
    if path.is_file():
        check(path, entry)
        return path
    part, faults = path.with_name(f"{path.name}.partial"), []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        mend = "name another folder" if folder else "set TORCH_HOME to a folder that can"
        raise WeightsError(
            f"{'to' if folder else 'name'}: {path.parent} cannot be made ({error.strerror}); {mend}"
        ) from None
    with locked(path, "name"):  # two would append to one part
        for url in entry.mirrors():
            try:
                for _ in range(2):  # a bad file may be an old part's fault: then once from the start
                    resumed = part.is_file()
                    fetch(url, part, size=entry.size, progress=progress)
                    try:
                        check(part, entry)
                        os.replace(part, path)
                        return path
                    except WeightsError:
                        part.unlink()
                        if not resumed:
                            raise
            except (WeightsError, OSError, http.client.HTTPException) as error:
                faults.append(f"{urlsplit(url).netloc}: {_reason(error)}")
    raise WeightsError(
        f"name: {entry.name} could not be fetched ({'; '.join(faults)}); fetch {entry.file} by hand, see "
        f"{entry.page}, and give its path instead of the name"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        why = {401: ", it asks for a login", 403: ", it asks for a login", 404: ", it is not there"}.get(
            error.code, ""
        )
        return f"HTTP {error.code}{why}"
    if isinstance(error, URLError):
        return f"no connection ({error.reason})"
    return str(error) or type(error).__name__


# ---- the transfer ----


def fetch(url: str, part: Path, *, size: int | None = None, progress: bool | None = None) -> None:
    """Append to `part` what it lacks of the file at `url`. size: in bytes, where it is known beforehand.

    After a broken connection the rest is asked for again, as long as each try brings something. Raises
    WeightsError for a web page in place of a file, a file of another size, a disk that is too small, and
    after TRIES tries that brought nothing; the part stays. HTTPError and URLError pass through."""
    barren = 0
    with tqdm(
        total=size,
        desc=part.name.removesuffix(".partial"),
        unit="B",
        unit_scale=True,
        leave=False,
        disable=None if progress is None else not progress,
    ) as bar:
        while True:
            have = part.stat().st_size if part.is_file() else 0
            bar.n, before = have, have
            try:
                total = _append(url, part, have, size, bar.update)
            except HTTPError as error:
                if error.code != 416:  # of a part that is already all there is
                    raise
                told = re.search(r"/(\d+)$", error.headers.get("Content-Range") or "")
                total = int(told[1]) if told else have
                if total != have:  # the part is longer: it is of something else
                    part.unlink()
                    continue
            except (http.client.HTTPException, ConnectionError, TimeoutError):
                total = None
            have = part.stat().st_size if part.is_file() else 0
            if total is not None and have == total:
                return
            barren = 0 if have > before else barren + 1
            if barren == TRIES:
                raise WeightsError(
                    f"the connection broke off {TRIES} times at {have:,} bytes; the same command goes on "
                    "from there"
                )


def _append(url: str, part: Path, have: int, size: int | None, tell: Callable[[int], object]) -> int | None:
    """One connection: append to the part, or start it anew if the server cannot continue. The size of the
    whole file, None where the server does not tell.
    """
    headers = {"User-Agent": "palimpsest", **({"Range": f"bytes={have}-"} if have else {})}
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as answer:
        if answer.headers.get_content_type() == "text/html":
            raise WeightsError("it answers with a web page (a login, or nothing there)")
        going_on = (
            re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range") or "")
            if answer.status == 206
            else None
        )
        if have and (going_on is None or int(going_on[1]) != have):
            tell(-have)
            have = 0
            if answer.status == 206:  # of another place than was asked for
                part.unlink()
                return None
        length = answer.headers.get("Content-Length")
        total = (
            int(going_on[2]) if going_on and going_on[2] != "*" else have + int(length) if length else None
        )
        if size is not None and total not in (None, size):
            raise WeightsError(f"its file has {total:,} bytes, and {size:,} were published")
        if total is not None and (free := shutil.disk_usage(part.parent).free) < total - have:
            raise WeightsError(
                f"{(total - have) / 1e9:.1f} GB are needed, and {part.parent} has {free / 1e9:.1f} GB free; "
                "set TORCH_HOME"
            )
        with open(part, "ab" if have else "wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                tell(len(chunk))
        return part.stat().st_size if total is None else total


# ---- whole or not ----


def whole(path: Path) -> str:
    """The format of a file of weights ("safetensors", "zip" or "pickle"), after a check that its end is
    there. No tensor is read.

    Raises WeightsError for a web page, a git-lfs pointer, another kind of file, and one that was cut off. For
    a bare pickle there is no length to compare."""
    form, size = kind(path), path.stat().st_size
    if form == "safetensors":
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            try:
                header = json.loads(file.read(min(length, size)))
                end = (
                    8
                    + length
                    + max(
                        (
                            entry["data_offsets"][1]
                            for name, entry in header.items()
                            if name != "__metadata__"
                        ),
                        default=0,
                    )
                )
            except (ValueError, KeyError, TypeError, AttributeError):
                raise WeightsError(f"model: {path} has no whole safetensors header; fetch it again") from None
        if size != end:
            raise WeightsError(
                f"model: {path} has {size:,} bytes where its header calls for {end:,}: it was cut off, or "
                "something was added; fetch it again"
            )
    if form == "zip" and not zipfile.is_zipfile(path):
        raise WeightsError(
            f"model: {path} has lost its end ({size:,} bytes are left): it was cut off; fetch it again"
        )
    return form


def weight_files(path: Path) -> list[Path]:
    """The weight files that loading `path` reads: the file itself, those in a folder, or those in the parts
    of a diffusers folder.
    """
    if path.is_file():
        return [path]
    parts = [path / part for part in ("unet", "vae", "text_encoder")] if (path / "unet").is_dir() else [path]
    return [file for part in parts for file in Checkpoint.of_folder(part).mapped]


def hashed(path: Path) -> str:
    """The SHA-256 of a file, with a bar on terminals: some gigabytes take a while."""
    with tqdm(
        total=path.stat().st_size,
        desc=f"SHA-256 of {path.name}",
        unit="B",
        unit_scale=True,
        leave=False,
        disable=None,
    ) as bar:
        return sha256(path, bar.update)


def check(path: Path, entry: Published) -> str:
    """The SHA-256 of a file. Raises WeightsError for a file that is cut off, or that is not the published one
    as far as its size and digest are known.
    """
    whole(path)
    if entry.size not in (None, size := path.stat().st_size):
        raise WeightsError(
            f"model: {path} has {size:,} bytes and {entry.name} was published with {entry.size:,}; remove it "
            "and fetch it again"
        )
    digest = hashed(path)
    if not digest.startswith(entry.sha256):
        raise WeightsError(
            f"model: {path} is not {entry.name} as it was published (its SHA-256 is {digest[:10]}…, not "
            f"{entry.sha256[:10]}…); remove it and fetch it again"
        )
    return digest
