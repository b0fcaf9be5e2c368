"""python -m palimpsest.claims.verify [NAME] [options]: the certificate, as a table."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from palimpsest.claims.verify import HEADER, Missing, Remark, Row, Setting, Skipped, written
from palimpsest.claims.verify.nets import text_rows, unet_rows, vae_rows
from palimpsest.claims.verify.real import file_rows, opened, published_rows
from palimpsest.claims.verify.towers import clip_rows, dino_rows
from palimpsest.claims.verify.walks import diffedit_rows, instruct_pix2pix_rows, sampling_rows, sdedit_rows
from palimpsest.weights.load import pick_device

Result = Row | Skipped | Remark
NETS = (unet_rows, vae_rows, text_rows)
TOWERS = (clip_rows, dino_rows)
WALKS = (sampling_rows, sdedit_rows, diffedit_rows, instruct_pix2pix_rows)
STATUS = Path("/proc/self/status")
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def certificate(
    s: Setting, groups: Sequence[Callable[[Setting], Iterator[Result]]] = NETS + TOWERS + WALKS
) -> Iterator[Result]:
    """Every row of every group, as it is found; a group whose reference is not installed is a Skipped."""
    for group in groups:
        try:
            yield from group(s)
        except Missing as error:
            yield Skipped(group.__name__.removesuffix("_rows").replace("_", " "), str(error))


def peak() -> int | None:
    """The bytes that this process held at its widest moment, as Linux counts them (VmHWM); None where
    that is not told.
    """
    lines = STATUS.read_text(encoding="utf-8").splitlines() if STATUS.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 0 if every row is within its tolerance, 1 if one is not or none was made, 2 after
    a user's mistake.
    """
    parser = argparse.ArgumentParser(
        prog="python -m palimpsest.claims.verify", description=__doc__.partition(": ")[2]
    )
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="a checkpoint on this disk, by name or path (default: random weights)",
    )
    parser.add_argument(
        "--size",
        choices=("small", "full"),
        default="small",
        help="of the random nets, and of the inputs (default: small)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, … (default: cpu)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the nets (default: float32)")
    parser.add_argument(
        "--portrait",
        metavar="FILE",
        help="with a NAME: the example picture of timbrooks/instruct-pix2pix, for which "
        "figures are published",
    )
    parser.add_argument("--blocks", action="store_true", help="print the difference at every block")
    a = parser.parse_args(argv)
    torch.backends.cudnn.allow_tf32 = False  # 10 bits of mantissa are no float32
    began, results = time.monotonic(), []
    try:
        if a.portrait and not a.name:
            raise ValueError("portrait: is shown to a real InstructPix2Pix; give its name or path too")
        device = pick_device(a.device)
        model, tower = opened(a.name, device, DTYPES[a.dtype]) if a.name else (None, None)
        s = Setting(a.size, device, DTYPES[a.dtype], model, tower)
        groups = NETS + TOWERS + WALKS
        if a.name:
            groups = (
                file_rows(a.name),
                *(TOWERS if tower is not None else (*NETS, published_rows(a.name, a.portrait), *WALKS)),
            )
        print(HEADER)
        for result in certificate(s, groups):
            print(written(result, a.blocks), flush=True)
            results.append(result)
    except ValueError as error:
        print(f"claims.verify: error: {error}", file=sys.stderr)
        return 2
    rows, skipped = ([r for r in results if isinstance(r, kind)] for kind in (Row, Skipped))
    failed = [row for row in rows if not row.passed]
    memory = "" if (most := peak()) is None else f", {most / 1e9:.1f} GB of memory at most"
    print(
        f"{len(rows) - len(failed)} of {len(rows)} comparisons within their tolerance, {len(skipped)} not "
        f"run; {time.monotonic() - began:.0f} s on {device}{memory}"
    )
    return int(bool(failed) or not rows)


if __name__ == "__main__":
    sys.exit(main())
