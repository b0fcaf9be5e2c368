"""palimpsest attention: the command of methods/attention_maps.py."""

from __future__ import annotations

import argparse

import torch.nn.functional as F
from torch import Tensor

from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.commands.dry_run import Work, calls, check_room, dry_run, inversion
from palimpsest.cli.commands.loading import load_model
from palimpsest.cli.commands.pictures import latent_size, open_input, seen_by, shown_options
from palimpsest.cli.commands.wording import note_wording
from palimpsest.cli.console import tell
from palimpsest.cli.deliver import Made, frames_of
from palimpsest.cli.manners import Mistake, blame, command, number, options, progress, shared_options
from palimpsest.methods.attention_maps import AttentionMaps, explore, sites_at
from palimpsest.methods.inversion import invert
from palimpsest.methods.sampling import generate
from palimpsest.weights.estimate import Passes
from palimpsest.weights.model import Model
from palimpsest.worlds.files import contact_sheet


def declare_attention(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest attention`."""
    about = COMMANDS["attention"]
    p = command(commands, "attention", about, run_attention)
    p.add_argument(
        "input",
        metavar="IN",
        nargs="*",
        help="a picture, to be inverted under the prompt (default: generate one); of several, or a folder, "
        "each, with -o FOLDER",
    )
    p.add_argument("--prompt", required=True, metavar="TEXT", help="what the picture shows, in words")
    shown_options(p)
    p.add_argument(
        "--word", action="append", metavar="WORD", help="a word to show; may be given again (default: all)"
    )
    p.add_argument(
        "--by", choices=("layer", "head", "step"), help="split the average (default: over all three)"
    )
    p.add_argument(
        "--res",
        type=int,
        metavar="N",
        help="maps whose shorter side has N cells (default: the finest up to 16)",
    )
    p.add_argument(
        "--components", action="store_true", help="also the strongest patterns of the self-attention"
    )
    options(p, explore, {"steps": "of the walk"})
    p.add_argument(
        "--w", type=number, metavar="X", help="guidance scale (default: that of generate, and 1 with IN)"
    )
    options(p, explore, {"seed": "of the noise"})
    shared_options(p, "a sheet of the maps, .png, .jpg, .webp or .tiff", estimates=True)


def run_attention(a: argparse.Namespace) -> Made | None:
    """The maps of one walk, on one sheet; a line for each word."""
    for name in ("crop", "size"):
        if a.input is None and getattr(a, name):
            raise Mistake(f"{name}: makes sense only with a picture IN")
    if not a.prompt.strip():
        raise Mistake("prompt: must say something, since it is its words whose maps are shown")
    picture = None if a.input is None else open_input(a.input, a.crop)

    work = Work(lambda model, latent: passes(a, model, latent), picture)
    if a.estimate:
        return dry_run(a, work)
    model = load_model(a)
    check_room(a, model, work)
    note_wording(model, {"prompt": a.prompt})
    latent = latent_size(model, picture, a.size)
    picture = None if picture is None else seen_by(picture, model, a.size)
    res = res_of(a, model, latent)
    with progress(model, calls(passes(a, model, latent)), "attention"):
        if picture is None:
            maps = explore(model, a.prompt, res=res, steps=a.steps, w=a.w, seed=a.seed)
        else:
            start = invert(model, picture.view(), a.prompt, steps=a.steps)
            maps = explore(model, start=start, res=res, w=a.w)
    words = list(dict.fromkeys(a.word or maps.words()))
    with blame("word"):
        shown = sheet(maps, words, a.by, a.components)
        for word in words:
            m = maps.word_map(word)
            tell(
                f"{word:<16}looks at {m.mean():.1%} on average, {m.max():.1%} at most; "
                f"spread {maps.entropy(word):.2f} (1 is everywhere alike)"
            )
    return Made([shown], f"{len(words)} words, {maps.res[0]}×{maps.res[1]} cells")


def res_of(a: argparse.Namespace, model: Model, latent: tuple[int, int]) -> tuple[int, int] | None:
    """The maps whose shorter side has --res cells; N×N, which explore will refuse, where there are none."""
    if a.res is None:
        return None
    return next((s.res for s in model.net.sites(latent) if min(s.res) == a.res), (a.res, a.res))


def passes(a: argparse.Namespace, model: Model, latent: tuple[int, int]) -> list[Passes]:
    """The passes of the net: up, where there is a picture, and down, with the prompt's branch by itself."""
    w = 1.0 if a.w is None and a.input is not None else model.settle(generate, dict(w=a.w))
    watched = set(sites_at(model, latent, res_of(a, model, latent)))
    return [
        *(inversion(a.steps) if a.input is not None else []),
        Passes("walk down, without the prompt", a.steps * (w != 1)),
        Passes("walk down, watched", a.steps, kept=a.steps + 1, tapped=watched.__contains__),
    ]


def sheet(maps: AttentionMaps, words: list[str], by: str | None = None, components: bool = False) -> Tensor:
    """The picture and its words' maps: uint8 (1 3 y x).

    by None: a column for each word, the map over the picture above and the bare map below. Otherwise a row
    for each word, and a column for each layer, head or step. components: a last row of the self-attention's
    principal components.
    """
    layers = dict.fromkeys(site.name for site in maps.cross_attention)
    heads = len(next(iter(maps.cross_attention.values()))[0])
    parts = {
        "layer": {name: dict(layer=name) for name in layers},
        "head": {f"head {h}": dict(head=h) for h in range(heads)},
        "step": {f"t = {maps.levels[i]:.0f}": dict(step=i) for i in frames_of(len(maps.by_step) - 1)},
        None: {},
    }[by]
    rows: list[list[Tensor | None]]
    if by is None:
        columns, labels = ["", *words], [maps.prompts[0], "map"]
        rows = [
            [maps.pictures[:1], *(maps.overlay(word) for word in words)],
            [None, *(grey(maps.heat_map(word)) for word in words)],
        ]
    else:
        columns, labels = ["", *parts], list(words)
        rows = [
            [maps.pictures[:1], *(maps.overlay(word, **part) for part in parts.values())] for word in words
        ]
    if components:
        found = maps.components(min(len(columns) - 1, maps.res[0] * maps.res[1]))
        rows.append(
            [None, *(grey(F.interpolate(c[None, None], maps.pictures.shape[-2:])[0, 0]) for c in found)]
        )
        labels.append("self-attention")
    return contact_sheet(rows, labels, columns)


def grey(m: Tensor) -> Tensor:
    """Any map (y x) as a grey picture (1 3 y x), black at its least and white at its most."""
    low, high = m.min(), m.max()
    return ((m - low) / (high - low).clamp(min=1e-12) * 2 - 1).expand(1, 3, -1, -1).cpu()
