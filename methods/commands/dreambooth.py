"""palimpsest dreambooth: the command of methods/dreambooth.py."""
from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import torch

from methods.cli import Mistake, blame, command, options, say, shared_options
from methods.commands.pictures import framed, opened
from methods.dreambooth import WEIGHTS, WHAT, CommonWord, dreambooth
from methods.sampling import generate
from weights import load, save_like
from worlds.files import write_picture


def declare_dreambooth(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest dreambooth`."""
    about = "teach a model one thing from a few pictures of it (arXiv:2208.12242)"
    p = command(commands, "dreambooth", about, run_dreambooth)
    p.add_argument("pictures", nargs="+", metavar="IN", help="3 to 5 pictures of it")
    p.add_argument("--class-noun", required=True, metavar="NOUN", help="what it is, as in star")
    p.add_argument("--what", choices=WHAT, default="net", help="what learns: the net, LoRA on its attention, or the word alone (Textual "
                   "Inversion) (default: 'net')")
    p.add_argument("--weight", choices=("auto", *WEIGHTS), default="auto", help="w_t of the loss (default: 'auto', as the net was trained)")
    options(p, dreambooth, {"identifier": "a word for it; auto takes a rare one", "steps": "of the tuning", "lr": "learning rate",
                            "prior": "λ of the prior term, 0 for none", "n_prior": "pictures of the class that the frozen model paints",
                            "text": "the text encoder learns too", "rank": "of LoRA", "checkpointing": "recompute the net backward: less "
                            "memory, more time", "seed": "of all that is drawn"})
    p.add_argument("--prompts", metavar="FILE", help="what to paint afterwards, one to a line, {} where the identifier and the noun go")
    shared_options(p, "a folder: model.safetensors (and lora.safetensors), and a picture for each prompt")


def run_dreambooth(a: argparse.Namespace) -> None:
    """Tune, save, and paint what was asked for."""
    began, out = time.monotonic(), Path(a.out)
    if out.exists() and not out.is_dir():
        raise Mistake(f"out: {out} is a file; give a folder")
    lines = []
    if a.prompts is not None:
        with blame("prompts"):
            lines = prompts_of(a.prompts)
    b = load(a.model, a.device, torch.float32)
    views = [framed(opened(path, True, "IN"), b, None).view() for path in a.pictures]
    if len(views) == 1:
        say("note: pictures: one shows the thing from one side only; 3 to 5 are better")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", CommonWord)
        for line in lines:
            b.embed(line.replace("{}", a.class_noun))                      # an unknown word is named before the long work
        out.mkdir(parents=True, exist_ok=True)
        tuned = dreambooth(b, torch.cat(views), a.class_noun, identifier=a.identifier, steps=a.steps, lr=a.lr, prior=a.prior,
                           n_prior=a.n_prior, weight=a.weight, what=a.what, text=a.text, rank=a.rank, checkpointing=a.checkpointing,
                           lora_file=out / "lora.safetensors" if a.what == "lora" else None, seed=a.seed)
    for warning in told:
        if issubclass(warning.category, CommonWord):
            say(f"note: {warning.message}")
    save_like(tuned.bundle, a.model, out / "model.safetensors")
    for i, line in enumerate(lines):
        write_picture(generate(tuned.bundle, line.replace("{}", f"{tuned.identifier} {a.class_noun}"), seed=a.seed + i).picture,
                      out / f"{i:02d}.png")
    print(f"{out}: “{tuned.prompt}”, loss {tuned.instance[0]:.4f} → {sum(tuned.instance[-20:]) / len(tuned.instance[-20:]):.4f}, "
          f"{len(lines)} pictures, {time.monotonic() - began:.1f} s")


def prompts_of(path: str) -> list[str]:
    """The lines of a file. Raises ValueError for a file that cannot be read, and for one without a line."""
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'})") from error
    if not lines:
        raise ValueError(f"{path} holds no prompt; write one to a line")
    return lines
