"""palimpsest train: the command of methods/captioned.py, on a folder of captioned pictures."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.commands.dreambooth import folder, made
from palimpsest.cli.commands.dry_run import LOSES, float32_of
from palimpsest.cli.commands.loading import load_model
from palimpsest.cli.console import say, tell
from palimpsest.cli.manners import Mistake, blame, command, number, options, run_options, why_no_text
from palimpsest.cli.record import as_text, record_of
from palimpsest.fit.settings import Files
from palimpsest.methods.captioned import Training, train
from palimpsest.methods.sampling import generate
from palimpsest.weights.changes import merged_model
from palimpsest.weights.files import WeightsError, read_weights
from palimpsest.weights.load import NETS, companion, find, is_public, save_like
from palimpsest.weights.model import Model
from palimpsest.worlds.files import Original, contact_sheet, open_picture, write_picture

MINUTE = 60.0  # seconds from one sheet to the next
SHOWN = 8  # captions on a sheet
SHEET = dict(steps=25, w=3.0)  # of its walks
MODEL, SHEET_FILE, STATE = "model.safetensors", "sheet.png", ("checkpoint.pt", "loss.csv")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif")
TRAINING = {  # fields of `Training`
    "steps": "of the training",
    "lr": "of AdamW, at its highest",
    "batch": "pictures of a step",
    "warmup": "steps in which the learning rate rises",
    "ema": "decay of the average of the weights, which is what is written",
    "empty": "share of captions that are left empty",
    "tilt": "times are drawn with density t^tilt: 1 for a young model, 0 or less for outlines",
    "seed": "of everything",
}


def declare_train(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest train`."""
    about = COMMANDS["train"]
    p = command(commands, "train", about, run_train)
    p.add_argument("--folder", required=True, metavar="F", help="the pictures")
    p.add_argument(
        "--captions",
        default="auto",
        metavar="C",
        help='a JSON file that names each picture\'s caption, {"a.png": "a red star", …}, or *.txt: beside '
        "each picture a text file of its name (default: captions.json in the folder where it is there, else "
        "*.txt)",
    )
    p.add_argument(
        "--init",
        dest="model",
        default="shapes",
        metavar="NAME",
        help="the model to go on from, whose autoencoder and size are taken (default: 'shapes')",
    )
    p.add_argument(
        "--anew",
        action="store_true",
        help="of --init take only its shape and its autoencoder: nothing learned",
    )
    p.add_argument(
        "--minutes", type=number, default=math.inf, metavar="X", help="end after so many (default: never)"
    )
    options(p, Training, TRAINING)
    run_options(
        p,
        "a folder, there or to be made: model.safetensors, which --model of every command takes, and "
        "sheet.png, both written anew every minute; a run that was stopped goes on from there",
        sidecar=False,
    )
    p.set_defaults(reads=read_in, writes=written_in, kept=("out",), writes_folder=True)


def run_train(a: argparse.Namespace) -> None:
    """Read the folder, train, write the model and its last sheet."""
    began, out = time.monotonic(), folder(a.out)
    if not a.minutes > 0:
        raise Mistake(f"minutes: must be above 0, got {a.minutes:g}")
    training = Training(**{name: getattr(a, name) for name in TRAINING})
    captions = captions_of(Path(a.folder), a.captions)
    model = merged_model(load_model(a, float32_of(a, LOSES)))
    if a.anew:
        model = untrained(model, a.model, a.seed)
    views = [opened(path).framed(model.size, model.grid) for path in captions]
    pictures, texts = [view.view() for view in views], list(captions.values())
    shown = list(range(0, len(texts), -(-len(texts) // SHOWN)))
    file, state = out / MODEL, out / "state"

    def show(so_far: Model, losses: list[float]) -> None:
        """The model so far, and what it makes of some captions beside their pictures."""
        save_like(so_far, a.model, file)
        asked = [texts[i] for i in shown]
        painted = generate(so_far, asked, seed=a.seed, **SHEET).picture.cpu().split(1)
        there = [square(views[i], model.size) for i in shown]
        rows = ["yours", f"step {len(losses)}"]
        sheet = contact_sheet([there, list(painted)], rows, asked)
        write_picture(sheet, out / SHEET_FILE, as_text(record_of(a)))

    with made(out):
        checkpoint = state / "checkpoint.pt"
        if checkpoint.exists():
            say(f"note: goes on from {checkpoint}")
        done = train(
            model,
            pictures,
            texts,
            training=training,
            files=Files(checkpoint, state / "loss.csv", save_every=1, pause=MINUTE),
            until=time.time() + 60 * a.minutes,
            each_save=show,
            progress=sys.stderr.isatty(),
        )
    show(done.model, done.losses)
    forget(state)  # its work is done
    n, last = len(done.losses), done.losses[-100:]
    new = f"; new words: {', '.join(done.words)}" if done.words else ""
    tell(
        f"{file}: {len(texts)} pictures, {n} steps, loss {sum(last) / len(last):.4f}{new}; "
        f"{time.monotonic() - began:.0f} s"
    )


def read_in(a: argparse.Namespace) -> dict[str, list[Path]]:
    """The files of the folder."""
    place = Path(a.folder)
    return {"folder": [p for p in place.iterdir() if p.is_file()] if place.is_dir() else []}


def written_in(a: argparse.Namespace) -> dict[str, list[Path]]:
    """What the command writes into the folder OUT."""
    out, pair = Path(a.out), None
    if out.is_dir():
        with blame("out"), suppress(WeightsError):
            pair = companion(a.model, out / MODEL)
    return {"out": [out / MODEL, out / SHEET_FILE, *(out / "state" / n for n in STATE), *(pair or ())[1:]]}


def forget(state: Path) -> None:
    """Remove the state of a run that is done, and nothing else that may lie in its folder."""
    for name in STATE:
        (state / name).unlink(missing_ok=True)
    with suppress(OSError):  # it is not empty
        state.rmdir()


def untrained(model: Model, name: str, seed: int) -> Model:
    """The same model with nothing learned, its autoencoder aside. Raises Mistake for a public checkpoint."""
    path = find(name)
    if is_public(path) or (config := read_weights(path)[0]).get("kind") not in NETS:
        raise Mistake(f"anew: {name} has no configuration of ours to build it anew from; leave --anew out")
    torch.manual_seed(seed % 2**63)
    build_net, build_text = NETS[config["kind"]]
    net, text = build_net(**config["net"]), build_text(**config["text"])
    for module in (net, text):
        module.to(model.device).eval().requires_grad_(False)
    fields = {name: getattr(model, name) for name in model.__dataclass_fields__ if name != "listeners"}
    return Model(**fields | dict(net=net, text=text))


def square(view: Original, side: int) -> torch.Tensor:
    """The central square of a picture, as large as what the model makes."""
    return view.square().framed(side, 1).view()


# ---- the folder ----


def captions_of(place: Path, said: str) -> dict[Path, str]:
    """Picture -> caption, in the order of their names. Raises Mistake for what is missing, with the mend."""
    if not place.is_dir():
        raise Mistake(f"folder: {place} is no folder; name the one with your pictures")
    pictures = sorted(
        p for p in place.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")
    )
    if not pictures:
        raise Mistake(f"folder: {place} holds no pictures ({', '.join(PICTURES)})")
    if said == "auto":
        said = "captions.json" if (place / "captions.json").exists() else "*.txt"
    with blame("captions"):
        found = beside(pictures) if said in ("*.txt", "txt") else in_file(place, said)
    if not found:
        raise Mistake(
            f"captions: none of the {len(pictures)} pictures in {place} has one; write a.txt beside a.png, "
            "or captions.json"
        )
    if lacking := [p.name for p in pictures if p not in found]:
        some = ", ".join(lacking[:3]) + (", …" if len(lacking) > 3 else "")
        say(f"note: left out, as they have no caption: {some} ({len(lacking)} of {len(pictures)})")
    return {picture: " ".join(found[picture].split()) for picture in pictures if picture in found}


def beside(pictures: list[Path]) -> dict[Path, str]:
    """Captions from the text files beside the pictures."""
    files = {picture: picture.with_suffix(".txt") for picture in pictures}
    return {picture: text_of(file) for picture, file in files.items() if file.is_file()}


def in_file(place: Path, name: str) -> dict[Path, str]:
    """Captions from a JSON file, there or in the folder: an object of names and captions, or a list of
    objects that name a file and its caption.
    """
    file = Path(name) if Path(name).is_file() else place / name
    if not file.is_file():
        raise Mistake(f"{name} is not there, nor in {place}; give a JSON file, or '*.txt'")
    text = text_of(file)
    try:
        data = json.loads(text)
    except ValueError as error:
        raise Mistake(f'{file} is not JSON ({error}); write {{"a.png": "a red star"}}') from None
    if isinstance(data, list):
        data = {pick(row, "file", "file_name", "image"): pick(row, "caption", "text") for row in data}
    if not isinstance(data, dict) or not all(isinstance(v, str) for v in data.values()):
        raise Mistake(f'{file} must hold an object of names and captions, {{"a.png": "a red star"}}')
    if missing := [key for key in data if not (place / key).is_file()]:
        raise Mistake(f"{file} names {missing[0]}, which is not in {place}")
    return {place / key: text for key, text in data.items()}


def pick(row: object, *names: str) -> str:
    """The first of these entries of a row. Raises Mistake for a row without any."""
    for name in names if isinstance(row, Mapping) else ():
        if isinstance(row.get(name), str):
            return row[name]
    raise Mistake(f"each row must be an object with {' or '.join(names)}, got {str(row)[:60]}")


def text_of(file: Path) -> str:
    """The text of a file. Raises Mistake where it is none."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake(f"{file} cannot be read ({why_no_text(error)})") from None


def opened(path: Path) -> Original:
    """A picture of the folder."""
    with blame("folder"):
        return open_picture(path)
