"""palimpsest text2live: the command of methods/text2live.py."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.commands.dry_run import intended_device
from palimpsest.cli.commands.pictures import (
    as_it_was,
    at_the_files_size,
    compare_option,
    input_argument,
    open_input,
    steps_option,
)
from palimpsest.cli.console import tell
from palimpsest.cli.deliver import FRAMES, Made, Walk
from palimpsest.cli.manners import Mistake, command, options, run_options, whole
from palimpsest.fit.settings import Files
from palimpsest.methods.text2live import (
    Example,
    Terms,
    Training,
    Views,
    Words,
    composed,
    homographies,
    one_picture,
    text2live,
    text2live_loss,
)
from palimpsest.metrics.image import rmse
from palimpsest.nets.hourglass import Hourglass
from palimpsest.samplers.noise import generator_of
from palimpsest.weights.estimate import Learning, table, training_estimate
from palimpsest.weights.files import WeightsError
from palimpsest.weights.judges import Judge, load_judge
from palimpsest.weights.load import pick_device
from palimpsest.worlds.files import Original, contact_sheet

TERMS = {  # fields of `Terms`
    "composition": "weight of what CLIP says of the result",
    "screen": "weight of what CLIP says of the layer alone",
    "structure": "weight of the change of shapes",
    "sparsity": "weight of how much is painted; more keeps more of the picture",
}
VIEWS = {  # fields of `Views`
    "n": "views of the picture that CLIP is shown at each step",
    "crop": "smallest share of a side that a view shows",
    "flip": "how often a view, or the crop that it is of, is mirrored; 0 where the text says left or right",
}
TRAINING = {  # fields of `Training`
    "steps": "of the training",
    "lr": "of Adam, at the first step",
    "bootstrap": "steps in which the opacity is pulled to where the texts disagree about the picture",
}
MOMENTS = 40  # of the training, in a GIF or a folder of steps


def declare_text2live(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest text2live`."""
    p = command(commands, "text2live", COMMANDS["text2live"], run_text2live)
    input_argument(p)
    p.add_argument("--source", required=True, metavar="TEXT", help="what it shows, in words")
    p.add_argument("--target", required=True, metavar="TEXT", help="what it should show, in words")
    p.add_argument(
        "--layer", required=True, metavar="TEXT", help="what the layer alone shows, over a green screen"
    )
    p.add_argument(
        "--clip",
        default="shapes-clip",
        metavar="NAME",
        help="the CLIP that says what fits the texts: a shipped name, a public one (`palimpsest weights "
        "list`) or a path (default: 'shapes-clip')",
    )
    p.add_argument(
        "--crop", action="store_true", help="of IN the central square alone; the rest stays as it is"
    )
    p.add_argument(
        "--size",
        type=whole,
        metavar="N",
        help="paint on a picture whose shorter side has N pixels (default: the side that the CLIP sees)",
    )
    options(p, Training, TRAINING)
    options(p, Terms, TERMS)
    options(p, Views, VIEWS, {"n": "views", "crop": "view_crop"})
    p.add_argument("--seed", type=whole, default=0, metavar="N", help="of everything (default: 0)")
    p.add_argument("--save-layer", metavar="PNG", help="also write the layer, colours and opacity (RGBA)")
    steps_option(p, "the layer and the picture over the training")
    compare_option(p, "the opacity")
    run_options(
        p,
        "the result, .png, .jpg, .webp or .tiff; a run that was stopped goes on from OUT.state",
        estimates=True,
        changes=False,
    )
    p.set_defaults(kept=("state",), writes=lambda a: {"state": [state_of(a.out)] if a.out else []})


def run_text2live(a: argparse.Namespace) -> Made | None:
    """One picture edited."""
    picture = open_input(a.input, a.crop)
    judge = held_judge(a, "meta" if a.estimate else a.device)
    seen = picture.framed(judge.net.size if a.size is None else a.size)
    if a.estimate:
        return estimate(a, judge, seen)
    x, moments = seen.view().to(pick_device(a.device)), {}
    shown = shown_steps(a)

    def keep(step: int, generator: Hourglass) -> None:
        if step + 1 in shown:
            moments[step + 1] = [part.cpu() for part in composed(generator, x)]

    state = state_of(a.out)
    e = text2live(
        judge,
        x,
        a.source,
        a.target,
        a.layer,
        terms=Terms(**{name: getattr(a, name) for name in TERMS}),
        views=views_of(a),
        training=training_of(a),
        files=Files(state),
        each_step=keep if shown else None,
        seed=a.seed,
        progress=sys.stderr.isatty(),
    )
    with suppress(OSError):
        state.unlink()
    edited, before = seen.restore(e.picture.cpu()), as_it_was(picture)
    return Made(
        [edited],
        f"{len(e.losses)} steps, loss {e.losses[0]:.3f} → {e.losses[-1]:.3f}, opacity "
        f"{e.opacity.mean().item():.3f}, distance {rmse(e.picture.cpu(), x.cpu()).item():.3f}",
        before=before,
        between=lambda: {"opacity": at_the_files_size(seen, seen.back(e.opacity.cpu()))},
        after=a.target,
        more={"save_layer": lambda: rgba(seen.back(e.colours), seen.back(e.opacity))},
        walk=walk_of(moments, x.cpu()) if moments else None,
    )


def held_judge(a: argparse.Namespace, device: str) -> Judge:
    """The CLIP of --clip, loaded once for all the inputs of a command."""
    key = f"clip {a.clip} on {device}"
    if key not in a.held:
        try:
            a.held[key] = load_judge(a.clip, device)
        except WeightsError as error:
            raise Mistake(f"clip: {str(error).removeprefix('model: ')}") from None
    if a.held[key].noised:
        raise Mistake(
            f"clip: must be a CLIP of clean pictures, such as shapes-clip; {a.clip} knows noised ones"
        )
    return a.held[key]


def training_of(a: argparse.Namespace) -> Training:
    """How the generator is to be trained."""
    return Training(a.steps, a.lr, a.bootstrap, flip=a.flip)


def views_of(a: argparse.Namespace) -> Views:
    """What CLIP is to be shown."""
    return Views(a.views, a.view_crop, a.flip)


def state_of(out: str) -> Path:
    """red.png -> red.png.state, where a run is kept until it is done."""
    return Path(f"{out}.state")


# ---- what is shown of the training ----


def shown_steps(a: argparse.Namespace) -> set[int]:
    """After which steps the layer is kept to be shown: as many as a sheet holds, or `MOMENTS`."""
    if not (a.save_steps or a.gif):
        return set()
    n = min(a.steps, MOMENTS)
    return {round(a.steps * k / n) for k in range(1, n + 1)}


def walk_of(moments: dict[int, list[Tensor]], x: Tensor) -> Walk:
    """The picture over the steps; on a sheet the layer, its opacity and the picture below each other."""
    steps = [0, *moments]
    states = [[torch.zeros_like(x), torch.zeros_like(x[:, :1]), x], *moments.values()]

    def sheet() -> Tensor:
        chosen = sorted({round((len(steps) - 1) * k / (FRAMES - 1)) for k in range(FRAMES)})
        rows = [
            [on_grey(states[n][0], states[n][1]) for n in chosen],
            [states[n][1].expand(-1, 3, -1, -1) * 2 - 1 for n in chosen],
            [states[n][2] for n in chosen],
        ]
        return contact_sheet(rows, ["layer", "opacity", "result"], [f"step {steps[n]}" for n in chosen])

    return Walk(lambda n: states[n][2], steps, sheet, "step")


def on_grey(colours: Tensor, opacity: Tensor) -> Tensor:
    """The layer over mid-grey, which no colour of it is lost on."""
    return opacity * colours


def rgba(colours: Tensor, opacity: Tensor) -> Tensor:
    """The layer as a picture with transparency: uint8 (1 4 y x)."""
    parts = torch.cat([(colours + 1) / 2, opacity], 1)
    return (255 * parts.clamp(0, 1)).round().to(torch.uint8)


# ---- --estimate ----


def estimate(a: argparse.Namespace, judge: Judge, seen: Original) -> None:
    """Print what the command would cost."""
    y, x = seen.seen
    picture, region = (torch.empty(1, c, y, x, device="meta") for c in (3, 1))
    one_picture(picture, judge)
    judge.tokenizer([a.source, a.target, a.layer])
    generator = Hourglass().to("meta")
    views = views_of(a)
    words = Words(*torch.empty(3, judge.net.text_projection.out_features, device="meta").split(1))
    pull, shown = torch.empty((), device="meta"), homographies(views, generator_of(0)).to("meta")

    def there_and_back() -> None:
        sum(
            text2live_loss(judge, generator, Example(picture, region, pull, shown), words, Terms()).values()
        ).backward()

    learning = Learning(
        "paint", training_of(a).steps, 3 * views.n, nn.ModuleDict({"generator": generator}), there_and_back
    )
    cost = training_estimate(learning, judge.net)
    tell(
        f"{a.clip} on {intended_device(a).type}, a picture of {x}×{y} (estimate: nothing was computed, and "
        "seconds are not promised)"
    )
    tell(table(cost))
