"""`kill -9` at random moments: what is lost? `python -m tests.kill [MOMENTS] [--signal INT]`, from the checkout.

Four kinds of work on tiny models, each in a process of its own: dreambooth, null-text with --save, a training
by `fit`, and files written over and over. Each is killed at a random moment; then every file that is there
must open, the same work must go on at once to its end, with the result of a run that was never killed, and
nothing hidden may be left. With --signal INT it is Ctrl-C, every other time twice: exit code 130, or 0 where
it came too late, and no new file but the state from which a later run goes on.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from palimpsest.arguments import ArgumentError
from palimpsest.cli.main import main as palimpsest
from palimpsest.fit.loop import fit
from palimpsest.fit.settings import Files, Settings
from palimpsest.weights.files import read_weights, write_json, write_weights
from palimpsest.worlds.files import open_picture, write_picture
from tests.tiny import tiny_weights

ROUNDS = 40  # of writing


class Work(NamedTuple):
    """What is killed: it runs in the folder where its inputs are, and leaves these files behind."""

    run: Callable[[], int]  # the exit code
    results: tuple[str, ...]
    state: tuple[str, ...] = ()  # what a stopped run may leave


def dreambooth() -> int:
    """All weights, so that the checkpoint is large beside the rest."""
    words = (
        "dreambooth a.png b.png --class-noun star --model tiny.safetensors --steps 210 --batch 1 "
        "--n-prior 4 --prior-steps 3 -n 2 --shown-steps 3 -o out"
    )
    return palimpsest(words.split())


def null_text() -> int:
    """The file is written after each of eight steps."""
    words = "--steps 8 --inner 6 --stop 1e-12 --model tiny.safetensors --save kept.safetensors -o out.png"
    return palimpsest(["null-text", "a.png", "--prompt", "a red star", *words.split()])


def training() -> int:
    """A checkpoint every five steps."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Linear(200, 200)
    net.weight.data = torch.randn(200, 200, generator=generator)
    fit(
        lambda net, x, generator: net(x).square().mean(),
        net,
        lambda step, generator: torch.randn(8, 200, generator=generator),
        Settings(steps=200, lr=1e-3),
        Files("state/checkpoint.pt", "state/loss.csv", save_every=5),
        progress=False,
    )
    return 0


def writing() -> int:
    """A picture, weights and a record, each with its number in it."""
    for n in range(ROUNDS):
        write_picture(torch.full((1, 3, 64, 64), n, dtype=torch.uint8), "p.png")
        net = nn.Linear(100, 100)
        net.weight.data = torch.full((100, 100), float(n))
        net.bias.data = torch.zeros(100)
        write_weights("w.safetensors", {"net": net}, {"kind": "none", "n": n})
        write_json("r.json", {"n": n})
    return 0


WORKS = {
    "dreambooth": Work(
        dreambooth,
        (
            "out/model.safetensors",
            "out/learned.json",
            "out/000_0.png",
            "out/000_1.png",
            "out/tiny-vae.safetensors",
        ),
        ("out/state/checkpoint.pt", "out/state/prior.safetensors"),
    ),
    "null-text": Work(null_text, ("kept.safetensors", "out.png"), ("kept.safetensors",)),
    "training": Work(
        training, ("state/checkpoint.pt", "state/loss.csv"), ("state/checkpoint.pt", "state/loss.csv")
    ),
    "writing": Work(writing, ("p.png", "w.safetensors", "r.json"), ("p.png", "w.safetensors", "r.json")),
}


# ---- a process that is killed ----


def began(work: Work, folder: Path) -> int:
    """Start the work in a process of its own; its number. torch is imported by then."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        os.chdir(folder)
        said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = work.run()
    except KeyboardInterrupt:  # `training` and `writing` are no command lines
        code = 130
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Its exit code, −n where signal n ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def room(folder: Path) -> Path:
    """A folder with the inputs."""
    folder.mkdir()
    tiny_weights(folder)
    generator = torch.Generator().manual_seed(1)
    for name in "ab":
        write_picture(torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1, folder / f"{name}.png")
    return folder


# ---- what is there ----


def content(path: Path) -> object:
    """What a file says, seconds aside. Raises ValueError, or whatever its reader does, for a damaged one."""
    if path.suffix == ".png":
        return open_picture(path).rgb.tobytes()
    if path.suffix == ".safetensors":
        return {name: tensor.numpy().tobytes() for name, tensor in read_weights(path)[1].items()}
    if path.suffix == ".pt":
        state = torch.load(path, weights_only=True)
        return {name: tensor.numpy().tobytes() for name, tensor in state["ema"].items()}
    return path.read_text(encoding="utf-8")


def files_in(folder: Path) -> dict[str, Path]:
    """All files below a folder but the inputs, by name."""
    ours = {"a.png", "b.png", "tiny.safetensors", "tiny-vae.safetensors", "said.txt"}
    found = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    return {name: path for name, path in found.items() if name not in ours}


def faults(work: Work, folder: Path, truth: dict[str, object]) -> list[str]:
    """What is wrong in a folder after the work was stopped and then went on to its end; [] for nothing."""
    found = []
    for name, path in files_in(folder).items():
        if not any(part.startswith(".") for part in Path(name).parts):
            try:
                content(path)
            except Exception as error:
                found.append(f"{name} is damaged: {error}")
    if code := ended(began(work, folder)):
        found.append(f"did not go on: {code}, {(folder / 'said.txt').read_text(encoding='utf-8')[-200:]}")
        return found
    there = files_in(folder)
    found += [f"{name} is left" for name in there.keys() - truth.keys()]
    for name, wanted in truth.items():
        if name not in there or content(there[name]) != wanted:
            found.append(f"{name} is another")
    return found


def stopped(
    work: Work, folder: Path, truth: dict[str, object], after: float, again: float | None
) -> list[str]:
    """What is wrong when the work is interrupted after so many seconds, and again so many later."""
    child = began(work, folder)
    time.sleep(after)
    os.kill(child, signal.SIGINT)
    if again is not None:
        time.sleep(again)
        try:
            os.kill(child, signal.SIGINT)
        except ProcessLookupError:
            pass
    code, there = ended(child), files_in(folder)
    done = all(name in there for name in truth) and not set(there) - set(truth)
    found = [] if code == 130 or code == 0 and done else [f"exit code {code}"]
    return found + [f"{name} is left" for name in there if name not in work.state and not done]


def seconds_of(work: Work, folder: Path) -> tuple[dict[str, object], float]:
    """The results of a run that nobody stops, and how long it takes."""
    start = time.monotonic()
    if code := ended(began(work, folder)):
        raise ArgumentError(
            "work", f"fails by itself: {code}, {(folder / 'said.txt').read_text(encoding='utf-8')}"
        )
    return {name: content(folder / name) for name in work.results}, time.monotonic() - start


def main(moments: int, interrupt: bool, seed: int = 0) -> int:
    """Print what was lost; 1 if anything was."""
    torch.set_num_threads(1)
    rng, lost, count, going = random.Random(seed), [], Counter(), Counter()
    with tempfile.TemporaryDirectory() as scratch:
        given = room(Path(scratch) / "given")
        truth = {}
        for name, work in WORKS.items():
            truth[name] = seconds_of(work, Path(shutil.copytree(given, Path(scratch) / name)))
        for n in range(moments):
            name = list(WORKS)[n % len(WORKS)]
            work, (wanted, seconds) = WORKS[name], truth[name]
            folder = Path(shutil.copytree(given, Path(scratch) / f"{n}"))
            after, count[name] = rng.uniform(0, seconds), count[name] + 1
            if interrupt:
                wrong = stopped(work, folder, wanted, after, rng.uniform(0, 0.2) if n % 8 < 4 else None)
            else:
                child = began(work, folder)
                time.sleep(after)
                os.kill(child, signal.SIGKILL)
                going[name] += ended(child) == -signal.SIGKILL
                hidden = [p for p in files_in(folder) if "/." in f"/{p}"]
                going[f"{name}, with hidden leftovers"] += bool(hidden)
                wrong = []
            wrong += faults(work, folder, wanted)
            print(f"{n}: {name} after {after:.2f} of {seconds:.2f} s: {wrong or 'well'}", flush=True)
            lost += [f"moment {n}, {name} after {after:.2f} of {seconds:.2f} s: {text}" for text in wrong]
            shutil.rmtree(folder)
    print(f"{'Ctrl-C' if interrupt else 'kill -9'}: {dict(count)}; stopped before the end: {dict(going)}")
    print("\n".join(lost) if lost else "nothing was lost")
    return int(bool(lost))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("moments", nargs="?", type=int, default=50)
    parser.add_argument("--signal", choices=("KILL", "INT"), default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    sys.exit(main(a.moments, a.signal == "INT", a.seed))
