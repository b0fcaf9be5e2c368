"""Train what a short loan of a GPU allows: many nets at once, by the clock, in order of priority.

    python -m palimpsest.training.gpu --seconds 690 --out FOLDER      # the shapes world's; --world emoji
    python -m palimpsest.training.gpu --rehearse 1 --out FOLDER       # each of them, tiny, on a CPU
    python -m palimpsest.training.gpu --unpack FOLDER                 # what came back, into weights/next

Each job is a recipe in a process of its own. It starts when what it needs is there and ends by the clock,
at its share of the seconds, its learning rate at nothing. Every PACK seconds whatever there is goes out as
pieces of at most PIECE bytes: finished files, and of the long runs what their average is so far. A loan
that is cut short thus loses two minutes of the long runs, and of the short ones those that were not done.
The same command goes on: what is done stays done, the rest goes on from its checkpoints, and files that
found no room go out."""

from __future__ import annotations

import inspect
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, NamedTuple

from palimpsest.arguments import ArgumentError, Positive, check
from palimpsest.outputs import whole
from palimpsest.training.recipe import Switch, command_line
from palimpsest.weights.files import FOLDER, WeightsError, read_weights, sha256, write_json
from palimpsest.worlds.emoji import SHIPPED

PACK = 120  # seconds between two packs
TELL = 30  # seconds between two lines of the log about each job
PIECE, PIECES = 15 * 2**20, 4  # machines that are lent hand back few files, and no large ones
GRACE = 15  # seconds at the end: for jobs to save what they have, and for the last pack
LEAST = 10  # seconds that a job gets, however late it starts
AT_ONCE = 9  # processes; more of them share one GPU and 16 cores badly; two in a rehearsal


class Job(NamedTuple):
    """One weight file: its recipe, the share of the time by which it ends, arguments, what it waits for.

    In arguments {shipped} is the file of its name in weights/next, or else the one that ships; {candidate}
    the one in weights/next alone; {vae} the newest autoencoder; {next} the folder of what is trained here.
    """

    name: str
    recipe: str
    ends: float
    arguments: dict[str, Any]
    needs: tuple[str, ...] = ()


def after(name: str) -> dict[str, Any]:
    """For a short second act that begins with the weights of another job."""
    return dict(init=f"{{next}}/{name}.safetensors", warmup=30, lr=6e-4)


EAGER = dict(steps=10**6, precision="bfloat16", workers=3)  # more steps than there is time for
COMPILED = EAGER | dict(compiled=1)  # pays from some thousand steps on
VAE = EAGER | dict(batch=64, lr=1e-3, strange=0.3, tests=512, init="{shipped}")
# batches of several shapes: each would be compiled for itself
SHAPES = EAGER | dict(batch=512, lr=1.2e-3, workers=6, scenes=150_000, two=0.4, hard=3.0, tilt=0.5)
SHAPES |= dict(plain=0.25, other=0.25, free=0.33, vae="{vae}")
# one head: as fast as width 48 with four; a file of another width is not gone on from
WIDE = dict(width=64, heads=1, optimiser="muon", snapshots="{next}", init="{candidate}")
JUDGE = EAGER | dict(batch=512, kept=100_000)
GLIDE = COMPILED | dict(batch=512, kept=100_000, hard=3.0, two=0.3, free=0.33)
UPSAMPLER = EAGER | dict(batch=64, kept=30_000)
READER = EAGER | dict(batch=256, reconstructions=60_000, hard=0.5, plain=0.25, init="{shipped}", vae="{vae}")
INSTRUCT = COMPILED | dict(batch=256, n=60_000, vae="{vae}", init="{next}/shapes.safetensors")
SMALL, CONDITIONAL = "shapes-glide-upsampler", "shapes-glide-conditional"
JOBS = (  # in order of priority
    Job("shapes-vae", "shapes_vae", 0.16, VAE),
    Job("shapes", "shapes", 0.8, SHAPES | WIDE, ("shapes-vae",)),
    Job("shapes-reader", "shapes_reader", 0.45, READER, ("shapes-vae",)),
    Job("shapes-instruct", "shapes_instruct", 0.94, INSTRUCT, ("shapes",)),
    Job("shapes-classifier", "shapes_classifier", 0.4, JUDGE | dict(two=0.3)),
    Job("shapes-clip", "shapes_clip", 0.4, JUDGE | dict(two=0.5, init="{shipped}")),
    Job("shapes-clip-noised", "shapes_clip", 0.4, JUDGE | dict(two=0.5, noised=1, init="{shipped}")),
    Job(SMALL, "shapes_glide_upsampler", 0.5, UPSAMPLER | dict(init="{shipped}")),
    Job(CONDITIONAL, "shapes_glide", 0.5, GLIDE | dict(init="{shipped}")),
    Job("shapes-language", "shapes_language", 0.4, EAGER | dict(reading=4000)),
    Job("shapes-glide", "shapes_glide", 0.66, GLIDE | after(CONDITIONAL) | dict(empty=0.2), (CONDITIONAL,)),
    Job(
        f"{SMALL}-inpaint",
        "shapes_glide_upsampler",
        0.66,
        UPSAMPLER | after(SMALL) | dict(inpainting=1),
        (SMALL,),
    ),
    Job(
        "shapes-glide-inpaint",
        "shapes_glide_inpaint",
        0.94,
        EAGER | dict(batch=512, kept=40_000, free=0.33) | after("shapes-glide"),
        ("shapes-glide",),
    ),
)
EMOJI = EAGER | dict(workers=4, init="{shipped}")
EMOJI_T2I = EMOJI | dict(batch=256, scenes=100_000, compiled=1, snapshots="{next}", vae="{vae}")
EMOJI_INSTRUCT = EMOJI | dict(batch=256, n=60_000, compiled=1, vae="{vae}", init="{next}/emoji.safetensors")
WORLDS = {
    "shapes": JOBS,
    "emoji": (
        Job("emoji-vae", "emoji_vae", 0.2, EMOJI | dict(batch=64, lr=1e-3, anchor=1.0)),
        Job("emoji", "emoji", 0.75, EMOJI_T2I, ("emoji-vae",)),
        Job("emoji-clip", "emoji_clip", 0.5, EMOJI | dict(batch=512)),
        Job("emoji-instruct", "emoji_instruct", 0.94, EMOJI_INSTRUCT, ("emoji",)),
    ),
}
LAST = {CONDITIONAL}  # goes out after all others: what it is for is done here
TINY = dict(  # a rehearsal's: whatever of it a recipe knows
    steps=2,
    batch=2,
    scenes=16,
    n=8,
    kept=8,
    reconstructions=8,
    tests=4,
    triplets=20,
    reading=1,
    workers=0,
    compiled=0,
    device="cpu",
    data=SHIPPED,
)


# --------------------------------------------------------------------------- one job


def command(job: Job, folder: Path, until: float, rehearse: bool) -> list[str]:
    """The recipe's command line."""
    recipe = f"palimpsest.training.{job.recipe}"
    known = inspect.signature(import_module(recipe).Arguments).parameters
    given = job.arguments | (TINY if rehearse else {})
    given |= dict(name=job.name, state=folder / job.name, out=folder / "next", until=until)
    if rehearse and job.name in ("emoji", "emoji-clip"):
        given["init"] = ""  # the few emoji that ship have fewer words than the nets that ship
    words = []
    for name in [name for name in given if name in known]:
        value = str(given[name]).format(
            shipped=latest(f"{job.name}.safetensors", FOLDER / "next", FOLDER),
            candidate=latest(f"{job.name}.safetensors", FOLDER / "next"),
            vae=latest(f"{job.name.split('-')[0]}-vae.safetensors", folder / "next", FOLDER),
            next=folder / "next",
        )
        if name == "init" and value and not Path(value).exists():
            value = latest(Path(value).name, FOLDER / "next", FOLDER)
        words.append(f"--{name.replace('_', '-')}={value}")
    return [sys.executable, "-m", recipe, *words]


def latest(name: str, *folders: Path) -> str:
    """The file of that name in the first folder that has it; "" where none has."""
    return next((str(folder / name) for folder in folders if (folder / name).exists()), "")


def begin(job: Job, folder: Path, until: float, rehearse: bool) -> subprocess.Popen:
    """Start it; what it says goes to its own file."""
    place = folder / job.name
    place.mkdir(parents=True, exist_ok=True)
    environment = os.environ | dict(
        OMP_NUM_THREADS="1", MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_="100000000000"
    )
    with open(place / "said.txt", "a", encoding="utf-8") as file:
        return subprocess.Popen(
            command(job, folder, until, rehearse), stdout=file, stderr=subprocess.STDOUT, env=environment
        )


def progress(place: Path) -> str:
    """Where a run stands, from its log: steps done, and the mean of its last losses."""
    file = place / "loss.csv"
    rows = file.read_text(encoding="utf-8").splitlines()[1:] if file.exists() else []
    last = [float(row.split(",")[2]) for row in rows[-50:]]
    return f"{len(rows)} steps, loss {sum(last) / len(last):.4f}" if last else "no step yet"


def outcome(job: Job, folder: Path) -> str:
    """What its record says of a finished job; else the last that it said."""
    record = folder / "next" / f"{job.name}.json"
    if is_done(job, folder):
        found = json.loads(record.read_text(encoding="utf-8"))
        figures = {k: v for k, v in found["figures"].items() if isinstance(v, (int, float))}
        return f"done, {found['steps']} steps: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items())
    said = (folder / job.name / "said.txt").read_text(errors="replace", encoding="utf-8").strip().splitlines()
    return f"failed: {said[-1] if said else 'it said nothing'}"


def is_done(job: Job, folder: Path) -> bool:
    """Whether it ended by itself, in this call or an earlier one."""
    return (folder / job.name / "done").exists()


# --------------------------------------------------------------------------- what goes out


def packed(folder: Path, out: Path) -> tuple[dict[str, str], list[str]]:
    """Whatever weight files there are that no earlier call sent, as pieces of one archive in `out`, the most
    wanted first: those in it with their hashes, and the names of those that found no room.
    """
    jobs = [job.name for world in WORLDS.values() for job in world]
    order = {f"{name}.safetensors": n for n, name in enumerate(jobs) if name not in LAST}
    files = sorted((folder / "next").glob("*.safetensors"), key=lambda p: order.get(p.name, len(jobs)))
    stream, inside, left, gone = io.BytesIO(), {}, [], sent(folder)
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path in files:
            if gone.get(path.name) == (found := sha256(path)):
                continue
            if stream.tell() + path.stat().st_size + 2**14 > PIECE * PIECES:
                left.append(path.name)
                continue
            inside[path.name] = found
            record = path.with_suffix(".json")
            for one in (record, path) if record.exists() else (path,):
                archive.add(one, one.name)
    data = stream.getvalue()
    out.mkdir(parents=True, exist_ok=True)
    for n in range(PIECES):
        piece = out / f"next.tar.{n}"
        if n * PIECE < len(data):
            with whole(piece) as part:
                part.write_bytes(data[n * PIECE : (n + 1) * PIECE])
        else:
            piece.unlink(missing_ok=True)
    return inside, left


def sent(folder: Path) -> dict[str, str]:
    """The hashes of the files that earlier calls sent."""
    file = folder / "sent.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def unpacked(out: Path, place: Path) -> list[str]:
    """The weight files of the pieces in `out`, written to `place`; those that open. Where pieces are
    missing, those before them are read.
    """
    pieces = [out / f"next.tar.{n}" for n in range(PIECES)]
    there = [piece.read_bytes() for piece in takewhile(Path.exists, pieces)]
    if not there:
        raise ValueError(f"unpack: {out} holds no piece next.tar.0; name the folder that --out named")
    place.mkdir(parents=True, exist_ok=True)
    records, opened = {}, []
    for name, data in members(b"".join(there)):
        path = place / name
        if path.suffix == ".json":
            records[path.stem] = data
            continue
        try:
            with whole(path) as part:
                part.write_bytes(data)
                read_weights(part)
        except WeightsError:
            break
        opened.append(name)
        if path.stem in records:
            with whole(path.with_suffix(".json")) as part:
                part.write_bytes(records[path.stem])
    return opened


def members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The files of an archive that may lack its end, by their bare names."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                yield Path(member.name).name, archive.extractfile(member).read()
    except tarfile.ReadError:
        return


# --------------------------------------------------------------------------- the whole


class Shift:
    """The jobs of one call: which are waiting, running and over."""

    def __init__(self, wanted: list[Job], folder: Path, seconds: float, rehearse: bool, log: Path):
        self.folder, self.rehearse, self.log = folder, rehearse, log
        self.began, self.over = time.time(), time.time() + seconds
        self.names = {job.name for job in wanted}
        self.waiting = [job for job in wanted if not is_done(job, folder)]
        self.running: dict[str, tuple[Job, subprocess.Popen]] = {}
        self.failed: set[str] = set()

    def tell(self, text: str) -> None:
        line = f"{time.time() - self.began:5.0f} s  {text}"
        print(line, flush=True)
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def pack(self, out: Path) -> dict[str, str]:
        """Send what there is; the hashes of it."""
        inside, left = packed(self.folder, out)
        self.tell(f"packed {len(inside)} files" + (f", without {', '.join(left)}" if left else ""))
        return inside

    def start_what_can(self) -> None:
        """Those whose needs are there (or were not asked for), in order of priority, while there is room."""
        todo = {job.name for job in self.waiting} | set(self.running)
        for job in list(self.waiting):
            if lost := self.failed & set(job.needs):
                self.waiting.remove(job)
                self.failed.add(job.name)
                self.tell(f"{job.name}: not begun, since {', '.join(lost)} failed")
            elif len(self.running) < (2 if self.rehearse else AT_ONCE) and not todo & set(job.needs):
                ends = self.began + job.ends * (self.over - GRACE - self.began)
                until = max(ends, time.time() + LEAST)
                self.waiting.remove(job)
                self.running[job.name] = job, begin(job, self.folder, until, self.rehearse)
                self.tell(f"{job.name}: begun, until {until - self.began:.0f} s")

    def look(self) -> None:
        """Note which have ended."""
        for job, process in list(self.running.values()):
            if process.poll() is not None:
                del self.running[job.name]
                if process.returncode == 0:
                    (self.folder / job.name / "done").touch()
                else:
                    self.failed.add(job.name)
                self.tell(f"{job.name}: {outcome(job, self.folder)}")

    def stop(self) -> None:
        """Let what still runs save what it has."""
        for _, process in self.running.values():
            process.send_signal(signal.SIGINT)
        for job, process in self.running.values():
            try:
                process.wait(max(0.1, self.over - 3 - time.time()))
            except subprocess.TimeoutExpired:
                process.kill()
            self.tell(f"{job.name}: stopped at {progress(self.folder / job.name)}")


def pauses(shift: Shift, out: Path) -> Iterator[None]:
    """Twice a second, until nothing is left to do or the time is over; tell and pack in between."""
    told = sent = time.time()
    while (shift.waiting or shift.running) and time.time() < shift.over - GRACE:
        yield
        time.sleep(0.5)
        if time.time() - told > TELL:
            told = time.time()
            for name in shift.running:
                shift.tell(f"{name}: {progress(shift.folder / name)}")
        if time.time() - sent > PACK:
            sent = time.time()
            shift.pack(out)


@dataclass(frozen=True)
class Arguments:
    """What a loan is used for."""

    seconds: Positive = 690.0
    world: Literal["shapes", "emoji"] = "shapes"  # whose jobs
    only: str = ""  # names of jobs, with commas between them
    without: str = ""  # names of jobs that are left out
    rehearse: Switch = 0  # 1: each job, tiny, on a CPU
    unpack: str = ""  # a folder that came back: put its files into weights/next, and do nothing else
    state: str = "runs/gpu"  # where runs and what they make lie
    out: str = "runs/gpu/out"  # where the pieces go

    def __post_init__(self) -> None:
        check(Arguments, vars(self))
        known = [job.name for job in WORLDS[self.world]]
        for argument, names in (("only", self.only), ("without", self.without)):
            if unknown := [name for name in names.split(",") if name and name not in known]:
                raise ArgumentError(argument, f"there is no job {unknown[0]!r}; there are {', '.join(known)}")

    def wanted(self) -> list[Job]:
        """The jobs that are asked for."""
        only, without = self.only.split(","), self.without.split(",")
        return [j for j in WORLDS[self.world] if (not self.only or j.name in only) and j.name not in without]


def main(given: Arguments) -> None:
    if given.unpack:
        print("\n".join(unpacked(Path(given.unpack), FOLDER / "next")))
        return
    folder, place = Path(given.state).resolve(), Path(given.out).resolve()
    for one in (folder / "next", place):
        one.mkdir(parents=True, exist_ok=True)
    # in the background Ctrl-C would be ignored, here and below
    signal.signal(signal.SIGINT, signal.default_int_handler)
    shift = Shift(given.wanted(), folder, given.seconds, bool(given.rehearse), place / "log.txt")
    try:
        for _ in pauses(shift, place):
            shift.look()
            shift.start_what_can()
    finally:
        shift.look()
        shift.stop()
        write_json(folder / "sent.json", sent(folder) | shift.pack(place))
    if shift.failed:
        raise ValueError(
            f"jobs: {', '.join(sorted(shift.failed))} failed; {folder} has what each of them said"
        )


if __name__ == "__main__":
    command_line(main, Arguments)
