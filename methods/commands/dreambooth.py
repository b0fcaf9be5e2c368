"""palimpsest dreambooth: a subject learned from a few pictures, then shown wherever the prompts say."""
from __future__ import annotations

import argparse
import shutil
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor

from methods.cli import Mistake, blame, command, number, options, progress, shared_options, whole
from methods.commands.pictures import framed, opened
from methods.dreambooth import Learned, dreambooth
from methods.identifiers import check_identifier
from methods.learner import check_class
from methods.lora import save_lora, save_word
from methods.sampling import generate
from methods.textual_inversion import textual_inversion
from weights import Bundle, load, save_like
from weights.files import write_json
from worlds.files import write_picture

HELPS = {"identifier": "a rare word for the subject, or auto", "steps": "of the training", "lr": "of AdamW, at the first step; "
         "Stable Diffusion wants the paper's 5e-06", "batch": "pictures of the subject in a step, and as many of the prior",
         "prior_weight": "λ of the prior term; 0 learns without", "n_prior": "prior pictures", "prior_steps": "of the walk that makes them",
         "prior_w": "guidance scale of that walk", "rank": "LoRA of this rank on the attention; 0 tunes the whole U-Net",
         "alpha": "LoRA's α; 0 means rank", "tune_text": "tune the text encoder too", "ema": "decay of a moving average; 0 is off",
         "accumulate": "pieces that a batch is taken in", "checkpointing": "less memory, more time", "seed": "of everything"}


def declare_dreambooth(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest dreambooth`."""
    about = "learn one subject from a few pictures, as a rare word of the model's (arXiv:2208.12242)"
    p = command(commands, "dreambooth", about, run_dreambooth)
    p.add_argument("inputs", nargs="*", metavar="IN", help="three to five pictures of the subject")
    p.add_argument("--class-noun", required=True, metavar="NOUN", help='what it is, "star"; "" for none, with --prior-weight 0')
    p.add_argument("--prompts", metavar="FILE", help="a text file, a prompt a line; [V] stands for the identifier "
                   '(default: "a [V] NOUN")')
    p.add_argument("-n", type=whole, default=4, metavar="N", help="pictures of each prompt (default: 4)")
    p.add_argument("--shown-steps", type=whole, default=25, metavar="N", help="of the walks that show them (default: 25)")
    p.add_argument("--w", type=number, default=3., metavar="X", help="guidance scale of those walks (default: 3.0)")
    p.add_argument("--crop", action="store_true", help="of each picture the central square alone")
    p.add_argument("--word", action="store_true", help="Textual Inversion: look for the word's vector alone (arXiv:2208.01618)")
    options(p, dreambooth, HELPS)
    shared_options(p, "a folder, there or to be made: model.safetensors, which --model of every command takes, and the pictures; "
                   "a run that was stopped goes on from there")


def run_dreambooth(a: argparse.Namespace) -> None:
    """Check everything, learn, save, show."""
    began, out = time.monotonic(), folder(a.out)
    if not 1 <= a.n <= 1000:
        raise Mistake(f"n: must lie between 1 and 1000, got {a.n}")
    if not 1 <= a.shown_steps <= 1000:
        raise Mistake(f"shown-steps: must lie between 1 and 1000, got {a.shown_steps}")
    if not a.inputs:
        raise Mistake("IN: no pictures; give three to five of the one subject")
    files = [opened(path, a.crop) for path in a.inputs]
    if a.word and a.rank:
        raise Mistake("word: looks for one vector and has no rank; leave out --word or --rank")
    lines = prompt_lines(a.prompts)
    b = load(a.model, a.device, torch.float32)
    shown = [framed(file, b, None).view() for file in files]
    sizes = {tuple(x.shape[-2:]) for x in shown}
    if len(sizes) > 1:
        raise Mistake(f"IN: the pictures have different proportions ({', '.join(f'{x}×{y}' for y, x in sorted(sizes))} as the model "
                      "sees them); --crop takes the central square of each")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                                    # the verb says it
        identifier = check_identifier(b, a.identifier, a.seed)
    check_class(b, a.class_noun, 0. if a.word else a.prior_weight)
    lines = lines or ["a [V]" if a.word or not a.class_noun else f"a [V] {a.class_noun}"]
    prompts = [line.replace("[V]", identifier) for line in lines]
    for line, prompt in enumerate(prompts, 1):
        with blame(f"prompts: line {line}"):
            b.tokenizer([prompt])
    out.mkdir(exist_ok=True)

    state = out / "state"
    learned = learn(a, b, torch.cat(shown), identifier, state)
    model, kind = out / "model.safetensors", "a word" if a.word else f"LoRA of rank {a.rank}" if a.rank else "all weights"
    if a.word:
        save_word(learned.bundle, model, str(a.model), identifier)
    elif a.rank:
        save_lora(learned.bundle, model, str(a.model), dict(identifier=identifier, class_noun=a.class_noun))
    else:
        save_like(learned.bundle, a.model, model)
    write_json(out / "learned.json", dict(identifier=identifier, prompt=learned.prompt, class_prompt=learned.class_prompt,
                                          instance=learned.instance, prior=learned.prior))
    with progress(learned.bundle, len(prompts) * a.shown_steps, "pictures"):
        for k, prompt in enumerate(prompts):
            made = generate(learned.bundle, prompt, n=a.n, steps=a.shown_steps, w=a.w, seed=a.seed).picture
            for i, picture in enumerate(made.split(1)):
                write_picture(picture, out / f"{k:03d}_{i}.png")
    shutil.rmtree(state, ignore_errors=True)                               # its work is done
    made = f"{a.n} picture{'s' if a.n > 1 else ''}"
    made = f"{len(prompts)} prompts, {made} each" if len(prompts) > 1 else f"1 prompt, {made}"
    print(f"{model}: {kind}; say {learned.prompt!r}; {made}, {time.monotonic() - began:.0f} s")


def learn(a: argparse.Namespace, b: Bundle, x: Tensor, identifier: str, state: Path) -> Learned:
    """By the method that was asked for, with a bar where there is a terminal."""
    shared = dict(identifier=identifier, steps=a.steps, lr=a.lr, batch=a.batch, accumulate=a.accumulate, checkpointing=a.checkpointing,
                  seed=a.seed, state=state, progress=sys.stderr.isatty())
    if a.word:
        return textual_inversion(b, x, a.class_noun, **shared)
    rounds = -(-a.n_prior // 16) * a.prior_steps if a.prior_weight > 0 else 0
    with progress(b, rounds, "prior pictures"):
        return dreambooth(b, x, a.class_noun, prior_weight=a.prior_weight, n_prior=a.n_prior, prior_steps=a.prior_steps,
                          prior_w=a.prior_w, rank=a.rank, alpha=a.alpha, tune_text=a.tune_text, ema=a.ema, **shared)


def folder(name: str) -> Path:
    """A folder that is there or can be made: its own folder is there, and it is no file."""
    path = Path(name)
    if path.is_file() or not path.absolute().parent.is_dir():
        raise Mistake(f"out: {name} must be a folder, in a folder that is there")
    return path


def prompt_lines(name: str | None) -> list[str]:
    """The lines of a text file that are not empty; none where no file is named."""
    if name is None:
        return []
    try:
        lines = [line.strip() for line in Path(name).read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise Mistake(f"prompts: {name} is not there; check the name, or write that file with a prompt a line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake(f"prompts: {name} cannot be read as text ({type(error).__name__}); give a file with a prompt a line") from None
    if not lines:
        raise Mistake(f"prompts: {name} holds no prompt; write one a line")
    return lines
