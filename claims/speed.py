"""How fast this is on a CPU: our nets beside those of diffusers and transformers at the size of Stable
Diffusion v1, commands from their start to their end, and how cost grows.

    python -m palimpsest.claims.speed [--rounds 5] [--only NAME] [--quick]

Both programs hold the very same random tensors and are called in turn in one process, so that whatever
else the machine does meets both; a row's figure is the median over the rounds of ours / theirs. Memory is
the high-water mark of a process that runs one of them once. Writes figures/speed.json, one entry for each
kind of processor it ran on, and the tables of docs/speed.md. Needs the reference programs: pip install -e
'.[test]'."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from palimpsest.claims.common import rounded
from palimpsest.claims.growth import curves, limits
from palimpsest.claims.page import RECORDS, ROOT, read_record, write_table
from palimpsest.claims.speed_pairs import PAIRS, Pair, given
from palimpsest.claims.verify import Setting
from palimpsest.claims.verify.nets import drawn, twin_unet
from palimpsest.cli.manners import exit_code_of
from palimpsest.nets.unet import UNet
from palimpsest.weights.files import write_json

# --------------------------------------------------------------------------- the clock and the scales


def seconds(call: Callable[[], Any]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@torch.inference_mode()
def timed(pair: Pair, rounds: int) -> dict[str, Any]:
    """Both in turn, the first of each round alternating, after one call of each that does not count."""
    pair.ours(), pair.theirs()
    both = []
    for k in range(rounds):
        if k % 2:
            theirs, ours = seconds(pair.theirs), seconds(pair.ours)
        else:
            ours, theirs = seconds(pair.ours), seconds(pair.theirs)
        both.append((ours, theirs))
    return dict(
        name=pair.name,
        target=pair.target,
        reference=pair.reference,
        ratio=median(a / b for a, b in both),
        ours=median(a for a, _ in both),
        theirs=median(b for _, b in both),
        error=pair.error,
    )


ALONE = ("ours", "theirs")


def peak(who: str, size: str) -> int:
    """Bytes at the widest moment of a process of its own that makes the U-Net and runs it once. Linux
    only.
    """
    lines = subprocess.run(
        [sys.executable, "-m", "palimpsest.claims.speed", "--alone", who, "--size", size],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    ).stdout.split()
    return int(lines[-1])


def alone(who: str, s: Setting) -> int:
    """What `peak` asks of the process."""
    with torch.inference_mode():
        net = drawn(UNet, s)
        x, t, ctx = given(s, net)
        (net if who == "ours" else twin_unet(net))(x, t, ctx)
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def keys_share(s: Setting, rounds: int) -> float:
    """The share of a forward pass that keys and values of the text take: what keeping them from step to
    step could save.
    """
    net = drawn(UNet, s)
    x, t, ctx = given(s, net)
    layers = [layer for block in net.transformers() for layer in (block.attn2.to_k, block.attn2.to_v)]
    with torch.inference_mode():
        net(x, t, ctx)
        return median(
            seconds(lambda: [layer(ctx) for layer in layers]) / seconds(lambda: net(x, t, ctx))
            for _ in range(rounds)
        )


# --------------------------------------------------------------------------- commands


COMMANDS = {  # what is typed, on a picture of 64×64, and the seconds it should take
    "import torch": ("", None),
    "palimpsest --help": ("--help", 0.3),
    "palimpsest sdedit": ("sdedit {x} --prompt 'a large red circle' -o {o}", 2),
    "palimpsest instruct-pix2pix": ("instruct-pix2pix {x} --instruction 'make the circle green' -o {o}", 2),
    "palimpsest diffedit": ("diffedit {x} --source 'a red circle' --target 'a blue circle' -o {o}", 2),
}


def commands(rounds: int) -> list[dict[str, Any]]:
    """Seconds from the start of Python to its end, one command after the other, in each round; `import
    torch` is what none of those that edit can do without.
    """
    took: dict[str, list[float]] = {name: [] for name in COMMANDS}
    picture = ROOT / "figures" / "hand" / "circle_and_square.png"
    with tempfile.TemporaryDirectory() as place:
        for _ in range(rounds + 1):
            for name, (typed, _) in COMMANDS.items():
                words = shlex.split(typed.format(x=picture, o=f"{place}/o.png"))
                line = ["-m", "palimpsest", *words] if words else ["-c", "import torch"]
                took[name].append(
                    seconds(partial(subprocess.run, [sys.executable, *line], check=True, capture_output=True))
                )
                Path(place, "o.png").unlink(missing_ok=True)
    return [
        dict(name=name, seconds=median(took[name][1:]), target=target)
        for name, (_, target) in COMMANDS.items()
    ]


# --------------------------------------------------------------------------- the tables


def reached(value: float, target: float) -> str:
    """What a table says of it."""
    return "yes" if value <= target else "**missed**"


def pairs_table(rows: list[dict[str, Any]], peak: dict[str, int] | None = None) -> list[str]:
    """The lines of ours beside theirs."""
    lines = [
        f"| {r['name']} | {r['ours']:.2f} s | {r['theirs']:.2f} s | {r['ratio']:.2f} | ≤ {r['target']:.2g} | "
        f"{reached(r['ratio'], r['target'])} | {'' if r['error'] is None else format(r['error'], '.0e')} |"
        for r in rows
    ]
    if peak:
        ours, theirs = (peak[who] for who in ALONE)
        lines.append(
            f"| U-Net, peak memory | {ours / 2**30:.2f} GiB | {theirs / 2**30:.2f} GiB | "
            f"{ours / theirs:.2f} | ≤ 1 | {reached(ours, theirs)} | |"
        )
    head = [
        "| what | ours | theirs | ratio | target | reached | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    return [*head, *lines]


def commands_table(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of whole commands."""
    lines = [
        f"| `{r['name']}` | {r['seconds']:.2f} s | "
        + ("| |" if r["target"] is None else f"≤ {r['target']:g} s | {reached(r['seconds'], r['target'])} |")
        for r in rows
    ]
    return ["| command, start included | takes | target | reached |", "|---|---|---|---|", *lines]


def growth_table(machine: dict[str, Any]) -> list[str]:
    """The lines of how cost grows, and of what the machine can do."""
    lines = [
        f"| {c['name']} | {', '.join(f'{n:g}' for n in c['values'])} | "
        f"{', '.join(f'{t:.2g}' for t in c['seconds'])} | {c['exponent']:.2f} |"
        for c in machine["growth"]
    ]
    can = ", ".join(f"{name} {speed:.0f}" for name, speed in machine["limits"].items())
    return [
        "| what grows | to | seconds | exponent |",
        "|---|---|---|---|",
        *lines,
        "",
        f"*Billions of additions and multiplications a second, of what torch computes by itself and of our "
        f"U-Net: {can}.*",
    ]


def table(machine: dict[str, Any]) -> str:
    """All that was measured on one processor, in Markdown."""
    blocks = [
        [
            f"**{machine['processor']}**, {machine['threads']} threads, torch {machine['torch']}; medians, "
            "both called in turn."
        ],
        pairs_table(machine["rows"], machine.get("peak")),
    ]
    if "commands" in machine:
        blocks.append(commands_table(machine["commands"]))
    if "growth" in machine:
        blocks.append(growth_table(machine))
    return "\n\n".join("\n".join(lines) for lines in blocks)


def page_of(record: dict[str, Any]) -> str:
    """The tables of all processors."""
    return "\n\n".join(table(machine) for machine in record["machines"])


def processor() -> str:
    """The name of the machine's processor."""
    lines = (
        Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if Path("/proc/cpuinfo").exists()
        else []
    )
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def measured(name: str, s: Setting, rounds: int, before: dict[str, Any]) -> dict[str, Any]:
    """One part of a machine's entry, to be put into what was there before."""
    if name == "memory":
        return dict(peak={who: peak(who, s.size) for who in ALONE})
    if name == "keys":
        return dict(keys_share=keys_share(s, rounds))
    if name == "commands":
        return dict(commands=commands(rounds))
    if name == "growth":
        return dict(growth=curves(s, rounds), limits=limits(s, rounds))
    with torch.inference_mode():
        rows = [timed(pair, rounds) for pair in PAIRS[name](s)]
    print("\n".join(pairs_table(rows)), flush=True)
    names = {r["name"] for r in rows}
    return dict(rows=[r for r in before.get("rows", []) if r["name"] not in names] + rows)


PARTS = (*PAIRS, "memory", "keys", "commands", "growth")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m palimpsest.claims.speed", description=" ".join(__doc__.split("\n\n")[0].split())
    )
    parser.add_argument("--only", choices=PARTS, metavar="NAME", help=f"one part: {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=5, help="of calls (default: 5)")
    parser.add_argument(
        "--quick", action="store_true", help="small nets, into runs/quick, to see that all runs"
    )
    parser.add_argument("--alone", choices=ALONE, help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=("small", "full"), default="full", help=argparse.SUPPRESS)
    a = parser.parse_args(argv)
    if a.rounds < 1:
        parser.error(f"--rounds: must be at least 1, got {a.rounds}")
    s = Setting("small" if a.quick else a.size)
    if a.alone:
        print(alone(a.alone, s))
        return 0
    folder = Path("runs/quick") if a.quick else RECORDS
    folder.mkdir(parents=True, exist_ok=True)
    for name in [a.only] if a.only else PARTS:  # each part is kept as soon as it is measured
        record = read_record("speed", folder) or dict(machines=[])
        mine = dict(processor=processor(), threads=torch.get_num_threads(), torch=torch.__version__)
        before = next((m for m in record["machines"] if m["processor"] == mine["processor"]), {})
        others = [m for m in record["machines"] if m is not before]
        machine = before | mine | measured(name, s, a.rounds, before)
        machine.setdefault("rows", [])
        record = dict(command="python -m palimpsest.claims.speed", machines=[*others, rounded(machine, 3)])
        write_json(folder / "speed.json", record)
        if folder == RECORDS:
            write_table("speed", "speed", page_of(record))
    print(table(machine))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(exit_code_of(main))
