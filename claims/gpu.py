"""What a GPU alone can tell, in at most twelve minutes: `python -m palimpsest.claims.gpu [--rehearse]`.

    certificate   our nets and walks beside the reference programs, in float32, bfloat16 and float16
    edits         every method at Stable Diffusion's size (512x512, 50 steps, random weights): seconds and
                  the peak of memory, beside diffusers' pipelines where there are some, compiled and not
    claims        C1, C26 and C28 measured anew; the verdicts must be those of the shipped records

Writes figures/gpu.json, or runs/quick/gpu.json for a rehearsal: tiny nets, a few steps, on any device. Each
part is kept when it is done, so a run that is cut goes on from there. No part is begun after --seconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from palimpsest.claims import CLAIMS
from palimpsest.claims.common import open_models, rounded
from palimpsest.claims.page import RECORDS, ROOT, Record, find
from palimpsest.claims.parts import Parts, code_of
from palimpsest.claims.verify import Row, Setting
from palimpsest.claims.verify.__main__ import DTYPES, certificate
from palimpsest.claims.whole_edits import Whole, edits
from palimpsest.cli.manners import exit_code_of
from palimpsest.weights.files import write_json
from palimpsest.weights.load import pick_device

PRECISIONS = ("float32", "bfloat16", "float16")
ANEW = ("C1", "C26", "C28")


def certified(s: Setting) -> Record:
    """How many comparisons there are, and those beyond their tolerance."""
    rows = [r for r in certificate(s) if isinstance(r, Row)]
    worst = max(rows, key=lambda r: r.output / r.tolerance if r.tolerance else 0.0)
    return dict(
        rows=len(rows),
        failed=[r.what for r in rows if not r.passed],
        worst=dict(what=worst.what, error=worst.output, tolerance=worst.tolerance),
    )


def clocked(call: Callable[[], Any], device: torch.device) -> dict[str, float | None]:
    """Seconds of the second call, and the bytes that were held at most."""
    call()
    if device.type != "cuda":
        began = time.perf_counter()
        call()
        return dict(seconds=time.perf_counter() - began, peak=None)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return dict(seconds=time.perf_counter() - began, peak=torch.cuda.max_memory_allocated())


def one_edit(whole: Whole, device: torch.device, compiled: bool) -> Record:
    """Ours, theirs, and, where asked, ours compiled."""
    with torch.inference_mode(whole.name != "null-text"):
        found: Record = dict(ours=clocked(whole.ours, device))
        if whole.theirs is not None:
            found["theirs"] = clocked(whole.theirs, device)
            found["ratio"] = found["ours"]["seconds"] / found["theirs"]["seconds"]
        if compiled:
            whole.model.net.compile()
            found["compiled"] = clocked(whole.ours, device)
    return found


def whole_edits(s: Setting, part: Parts, late: Callable[[], bool], rehearse: bool) -> Record:
    """Every method in one precision; the compiled one where the precision is one that people run."""
    size, steps = (64, 3) if rehearse else (512, 50)
    found = {}
    for whole in edits(s, size, steps):
        if late():
            break
        compiled = s.dtype != torch.float32 and whole.name in ("SDEdit", "InstructPix2Pix")
        found[whole.name] = part(f"{s.name}, {whole.name}", partial(one_edit, whole, s.device, compiled))
        print(f"  {s.name}, {whole.name}: {found[whole.name]['ours']['seconds']:.2f} s", flush=True)
    return found


def claim_anew(name: str, device: str, folder: Path, rehearse: bool) -> Record:
    """The verdict on one claim, from a measurement on this device, beside that of the shipped record."""
    claim = next(c for c in CLAIMS if c.id == name)
    m = claim.measurement
    n = max(2, m.n // 16) if rehearse else m.n
    record = m.run((m.opener or open_models)(None, device), n=n, seed=m.seed)
    write_json(folder / f"{m.name}.json", rounded(dict(n=n, seed=m.seed) | record))
    here, shipped = find(claim, folder), find(claim)
    return dict(here=here.verdict, shipped=shipped.verdict, ours=here.ours)


def told(record: Record) -> str:
    """What was found, in a few lines."""
    lines = [
        f"certificate, {name}: {c['rows'] - len(c['failed'])} of {c['rows']} within their tolerance"
        for name, c in record["certificate"].items()
    ]
    for name, found in record["edits"].items():
        for what, row in found.items():
            beside = f", {row['ratio']:.2f} of diffusers'" if "ratio" in row else ""
            peak = row["ours"]["peak"]
            memory = "" if peak is None else f", {peak / 1e9:.1f} GB"
            quick = f", compiled {row['compiled']['seconds']:.2f} s" if "compiled" in row else ""
            lines.append(f"{what}, {name}: {row['ours']['seconds']:.2f} s{beside}{memory}{quick}")
    lines += [f"{name}: {c['here']} (shipped record: {c['shipped']})" for name, c in record["claims"].items()]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """0 if every comparison is within its tolerance and every verdict is that of the shipped record."""
    parser = argparse.ArgumentParser(
        prog="python -m palimpsest.claims.gpu", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--device", default="auto", help="cuda, … (default: auto)")
    parser.add_argument("--seconds", type=float, default=700, help="after which no part is begun")
    parser.add_argument("--rehearse", action="store_true", help="tiny nets and few pictures, on any device")
    parser.add_argument("--out", metavar="FOLDER", help="where gpu.json goes (default: figures)")
    a = parser.parse_args(argv)
    device, began = pick_device(a.device), time.monotonic()
    if device.type != "cuda" and not a.rehearse:
        raise ValueError("device: there is no CUDA GPU here; --rehearse runs a tiny copy of it on any device")
    folder = Path(a.out) if a.out else ROOT / "runs" / "quick" if a.rehearse else RECORDS
    folder.mkdir(parents=True, exist_ok=True)
    size = "small" if a.rehearse else "full"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    part = Parts(folder / "gpu_parts.json", dict(device=name, size=size, code=code_of(main)))

    def late() -> bool:
        return time.monotonic() - began > a.seconds

    record: Record = dict(
        command="python -m palimpsest.claims.gpu" + " --rehearse" * a.rehearse,
        device=name,
        torch=torch.__version__,
        certificate={},
        edits={},
        claims={},
    )
    torch.backends.cudnn.allow_tf32 = False
    for precision in PRECISIONS:
        s = Setting(size, device, DTYPES[precision])
        if not late():
            record["certificate"][precision] = part(f"certificate, {precision}", partial(certified, s))
    for precision in ("float16", "float32"):
        s = Setting(size, device, DTYPES[precision])
        record["edits"][precision] = whole_edits(s, part, late, a.rehearse)
    for claim in ANEW:
        if not late():
            anew = partial(claim_anew, claim, str(device), folder / "gpu_claims", a.rehearse)
            (folder / "gpu_claims").mkdir(exist_ok=True)
            record["claims"][claim] = part(claim, anew)
    record["seconds"] = round(part.seconds)
    write_json(folder / "gpu.json", rounded(record))
    part.forget()
    print(told(record))
    failed = [row for c in record["certificate"].values() for row in c["failed"]]
    other = [c for c in record["claims"].values() if c["here"] != c["shipped"]]
    return int(bool(failed or other) and not a.rehearse)


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
