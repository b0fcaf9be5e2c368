"""The command line: palimpsest METHOD INPUT… [options] -o OUT, also python -m methods.

A method is one function that declares its options and one that runs: check the outputs, read the inputs, load the
model, call the verb, write. To add one, write the two and name the first in COMMANDS.
"""
from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.cli import (
    Mistake,
    Parser,
    blame,
    command,
    exit_code,
    number,
    options,
    progress,
    say,
    shared_options,
    whole,
    writable,
)
from methods.sampling import generate
from methods.sdedit import Edit, at_distance, bisect_t0, latent_mask, sdedit
from metrics.image import rmse
from weights import Bundle, load
from weights.files import manifest
from worlds.files import SAVE, contact_sheet, open_picture, read_mask, write_picture

BATCH = 16                                       # pictures at once
FRAMES = 8                                       # of a walk, on one sheet


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    def work() -> None:
        arguments = command_line().parse_args(argv)
        arguments.run(arguments)

    return exit_code(work)


def command_line() -> Parser:
    """The parser with every command in it."""
    parser = Parser("palimpsest", allow_abbrev=False, description="Edit pictures with diffusion models.",
                    epilog="`palimpsest METHOD --help` tells a method's options.")
    commands = parser.add_subparsers(metavar="METHOD", required=True)
    for declare in COMMANDS:
        declare(commands)
    return parser


# ---- sdedit ----

def declare_sdedit(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest sdedit`."""
    about = "edit a picture: noise it up to t0, then denoise it under a text (arXiv:2108.01073)"
    p = command(commands, "sdedit", about, run_sdedit)
    p.add_argument("input", metavar="IN", help="the guide: a painting, a collage, a photo")
    p.add_argument("--mask", metavar="M", help="white where the picture may change, black where it must stay")
    p.add_argument("--original", metavar="O", help="with a mask: what the kept part comes from (default: IN)")
    p.add_argument("--crop", action="store_true", help="edit the central square, instead of squeezing a wide picture")
    options(p, sdedit, {"prompt": "what it should be, in words"})
    how_deep = p.add_mutually_exclusive_group()
    options(how_deep, sdedit, {"t0": "how deep to drown the guide, in (0, 1]; .3 to .6 is the useful band. One t0 is "
                                    "another noise level in another walk or model: compare the σ that is printed"})
    how_deep.add_argument("--target-distance", type=number, metavar="X",
                          help="choose t0 by bisection, for this RMSE in (0, 1) between edit and guide")
    how_deep.add_argument("--ask", action="store_true", help="choose t0 by asking: more faithful, or more realistic?")
    options(p, sdedit, {"repeats": "rounds, each on the result of the last", "walk": "vp or ve", "steps": "of the walk",
                        "w": "guidance scale", "eta": "vp only: 1 ancestral, 0 DDIM", "seed": "of the noise",
                        "paste": "paste the kept pixels back, bit for bit"})
    p.add_argument("--save-mask", metavar="PNG", help="also write the mask as the model used it, in latent cells")
    p.add_argument("--save-steps", metavar="PNG_OR_FOLDER", help="also write the walk: one sheet, or a folder of all")
    shared_options(p)


def run_sdedit(a: argparse.Namespace) -> None:
    """One picture edited, at a given t0 or at one that is searched for."""
    began = time.monotonic()
    out = writable("out", a.out)
    save_mask = None if a.save_mask is None else writable("save-mask", a.save_mask)
    save_steps = None if a.save_steps is None else steps_target(a.save_steps)
    if a.mask is None and (a.save_mask or a.original or not a.paste):
        raise Mistake("mask: --save-mask, --original and --no-paste make sense only with a --mask")

    with blame("IN"):
        picture = open_picture(a.input)
    kept = picture
    if a.original is not None:
        with blame("original"):
            kept = open_picture(a.original)
            if kept.size != picture.size:
                raise Mistake(f"{a.original} must have the size of {a.input}, {picture.size[1]}×{picture.size[0]}")
    if picture.size[0] != picture.size[1] and not a.crop:
        say(f"note: {a.input} is not square and is squeezed for the model; --crop edits its central square instead")
    if a.crop:
        picture, kept = picture.square(), kept.square()
    mask = None
    if a.mask is not None:
        with blame("mask"):
            mask = read_mask(a.mask, of=picture)

    b = load(a.model, a.device)
    guide, original = picture.view(b.size), None if mask is None else kept.view(b.size)
    region = None if mask is None else F.adaptive_max_pool2d(mask, b.size)     # edited where any of its pixels is

    def edit(t0: float) -> Edit:
        with progress(b, a.repeats * a.steps, f"t0 {t0:.2f}"):
            return sdedit(b, guide, a.prompt, t0=t0, mask=region, original=original, repeats=a.repeats, walk=a.walk,
                          steps=a.steps, w=a.w, eta=a.eta, seed=a.seed, paste=a.paste)

    def write(e: Edit) -> None:
        write_picture(kept.restore(e.picture, mask if a.paste else None), out)

    if a.ask or a.target_distance is not None:
        with blame("target-distance"):
            judge = ask(write, out) if a.ask else at_distance(guide, a.target_distance)
        low = min(max(.05, a.steps / b.schedule.T), .9)                    # a VP walk needs as many times as steps
        t0, result, _ = bisect_t0(edit, judge, low=low)
    else:
        t0, result = a.t0, edit(a.t0)

    write(result)
    if save_mask is not None:
        write_picture(mask_picture(b, region), save_mask)
    if save_steps is not None:
        write_steps(b, result, save_steps)
    distance = rmse(result.picture.cpu(), guide).item()
    print(f"{out}: t0 {t0:.3f} (σ {result.sigma:.3g}, SNR {result.snr:.3g}), distance {distance:.3f}, "
          f"{time.monotonic() - began:.1f} s")


def ask(write: Callable[[Edit], None], out: Path) -> Callable[[Edit], float]:
    """A judge for bisect_t0: a person, at the terminal or through a pipe. The end of the answers means content."""
    wishes = {"f": -1., "faithful": -1., "r": 1., "realistic": 1., "d": 0., "done": 0., "": 0.}

    def judge(e: Edit) -> float:
        write(e)
        while True:
            print(f"{out} (σ {e.sigma:.3g}): more [f]aithful, more [r]ealistic, or [d]one? ", end="", flush=True)
            answer = sys.stdin.readline().strip().lower()
            if answer.removeprefix("more ") in wishes:
                return wishes[answer.removeprefix("more ")]
    return judge


def mask_picture(b: Bundle, region: Tensor) -> Tensor:
    """The mask that the walk used, white = edited: (1 1 y x) -> (1 3 y x)."""
    cells = latent_mask(region, torch.empty(1, *b.latent_shape))
    return F.interpolate(cells, region.shape[-2:]).expand(-1, 3, -1, -1) * 2 - 1


def steps_target(path: str) -> Path:
    """A picture file for a sheet, or a folder, there or to be made."""
    target = Path(path)
    if target.suffix.lower() in SAVE and not target.is_dir():
        return writable("save-steps", target)
    writable("save-steps", target / "step.png" if target.is_dir() else target.parent / "step.png")
    if target.exists() and not target.is_dir():
        raise Mistake(f"save-steps: {target} is a file; name a folder, or a picture in {', '.join(SAVE)}")
    return target


def write_steps(b: Bundle, e: Edit, target: Path) -> None:
    """The walk, decoded: `FRAMES` of it on one sheet, or all in a folder."""
    last = len(e.path) - 1
    if target.suffix.lower() in SAVE and not target.is_dir():
        chosen = sorted({round(last * k / (FRAMES - 1)) for k in range(FRAMES)})
        frames, labels = [b.decode(e.path[n]) for n in chosen], [f"t = {e.levels[n]:.0f}" for n in chosen]
        write_picture(contact_sheet([frames], (), labels), target)
    else:
        target.mkdir(exist_ok=True)
        for n, z in enumerate(e.path):
            write_picture(b.decode(z), target / f"step_{n:03d}.png")


# ---- generate ----

def declare_generate(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest generate`."""
    about = "make pictures from a text alone"
    p = command(commands, "generate", about, run_generate)
    p.add_argument("--prompt", required=True, metavar="P", help='what to show, in words; "" is anything')
    p.add_argument("-n", type=whole, default=1, metavar="N", help="how many; picture i has seed + i (default: 1)")
    options(p, generate, {"steps": "of the walk", "w": "guidance scale", "eta": "0 DDIM, 1 ancestral",
                          "seed": "of the noise"})
    shared_options(p, "one picture; for n > 1 a sheet of all, or, with {i} in the name, a file for each")


def run_generate(a: argparse.Namespace) -> None:
    """n pictures of one prompt."""
    began = time.monotonic()
    if not 1 <= a.n <= 1000:
        raise Mistake(f"n: must lie between 1 and 1000, got {a.n}")
    digits = len(str(a.n - 1))
    files = [writable("out", a.out.replace("{i}", f"{i:0{digits}d}")) for i in range(a.n if "{i}" in a.out else 1)]
    b = load(a.model, a.device)
    with progress(b, math.ceil(a.n / BATCH) * a.steps, "generate"):
        batches = [generate(b, a.prompt, n=min(BATCH, a.n - i), steps=a.steps, w=a.w, eta=a.eta, seed=a.seed + i)
                   for i in range(0, a.n, BATCH)]
    pictures = list(torch.cat([batch.picture for batch in batches]).split(1))
    if len(files) < a.n:
        columns = math.ceil(a.n**.5)
        pictures = [contact_sheet([pictures[i:i + columns] for i in range(0, a.n, columns)], title=a.prompt)]
    for picture, file in zip(pictures, files, strict=True):
        write_picture(picture, file)
    print(f"{a.out}: {a.n} picture{'s' if a.n > 1 else ''}, seed {a.seed}, {time.monotonic() - began:.1f} s")


# ---- models ----

def declare_models(commands: argparse._SubParsersAction) -> None:
    """`palimpsest models` has none."""
    about = "list the shipped models, with what was measured on each"
    command(commands, "models", about, run_models)


def run_models(a: argparse.Namespace) -> None:
    """One line a model."""
    if not manifest():
        raise Mistake("models: none are shipped with this copy; `make weights` trains them")
    for file, record in manifest().items():
        figures = ", ".join(f"{k} {v:.4g}" for k, v in record.get("bench", record["figures"]).items() if isinstance(v, float))
        name, megabytes, millions = Path(file).stem, record["bytes"] / 2**20, record["parameters"] / 1e6
        print(f"{name:<15}{megabytes:6.1f} MB {millions:6.2f} M parameters  {record['recipe']}  {figures}")


COMMANDS = (declare_sdedit, declare_generate, declare_models)

if __name__ == "__main__":
    sys.exit(main())
