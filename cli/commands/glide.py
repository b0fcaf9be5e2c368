"""palimpsest glide generate|inpaint|session: the commands of methods/glide.py and glide_session.py."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.commands.dry_run import EACH, intended_device, meta_model, print_estimate
from palimpsest.cli.commands.loading import load_model
from palimpsest.cli.commands.pictures import (
    as_it_was,
    at_the_files_size,
    compare_option,
    input_argument,
    open_input,
    seen_by,
    steps_option,
)
from palimpsest.cli.commands.wording import note_wording
from palimpsest.cli.console import say, tell
from palimpsest.cli.deliver import Made, Walk, write_pictures
from palimpsest.cli.manners import (
    Mistake,
    blame,
    command,
    number,
    options,
    progress,
    run_options,
    whole,
    why_no_text,
)
from palimpsest.methods.glide import (
    blurred,
    check_stage,
    check_upsampler,
    check_way,
    glide,
    inpaint,
    levels_of,
    repeated,
    rerank,
)
from palimpsest.methods.glide_session import Session, masks_in, parse
from palimpsest.samplers.guidance import Gradient, classifier_guidance, clip_guidance
from palimpsest.weights.estimate import Estimate, Passes, as_bytes, estimate, together
from palimpsest.weights.judges import load_classifier, load_judge
from palimpsest.weights.load import load_autoencoder
from palimpsest.weights.memory import free_memory
from palimpsest.weights.model import Model
from palimpsest.worlds.files import Original, contact_sheet, read_mask
from palimpsest.worlds.words import wanted

GUIDES = ("text", "clip", "classifier")
W = inspect.signature(glide).parameters["w"].default


# ---- options ----


def declare_glide(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest glide`."""
    about = COMMANDS["glide"]
    p = commands.add_parser("glide", help=about, description=about, allow_abbrev=False)
    parts = p.add_subparsers(metavar="WHAT", required=True)
    generate_options(command(parts, "generate", "pictures from a text", run_generate))
    inpaint_options(command(parts, "inpaint", "a part of a picture painted anew", run_inpaint))
    about_session = "one inpainting after another, from a script or by asking"
    session_options(command(parts, "session", about_session, run_session))


def generate_options(p: argparse.ArgumentParser) -> None:
    """The options of `palimpsest glide generate`."""
    p.add_argument("--prompt", required=True, metavar="P", help='what to show, in words; "" is anything')
    p.add_argument(
        "-n", type=whole, default=1, metavar="N", help="how many; picture i has seed + i (default: 1)"
    )
    p.add_argument(
        "--guide",
        choices=GUIDES,
        default="text",
        help="what guides the walk: the text without a classifier (7), a CLIP "
        "(8) or a classifier (6) that know noise (default: 'text')",
    )
    p.add_argument(
        "--scale",
        type=number,
        default=None,
        metavar="S",
        help="of --guide; for the text it is --w (default: 3 for clip, 1 for classifier)",
    )
    p.add_argument("--rerank", action="store_true", help="order the n pictures by a CLIP, the best first")
    p.add_argument(
        "--blur",
        action="store_true",
        help="through an autoencoder and back, the handicap that GLIDE gave itself beside DALL-E",
    )
    options(p, glide, {"w": "guidance scale of the text"})
    steps_option(p, "the base model's walk of the first")
    stage_options(p, "shapes-glide", "shapes-glide-upsampler", glide, "eta", estimates=True)


def inpaint_options(p: argparse.ArgumentParser) -> None:
    """The options of `palimpsest glide inpaint`."""
    input_argument(p)
    p.add_argument("--mask", required=True, metavar="M", help="white where to paint, black where to keep")
    p.add_argument("--prompt", required=True, metavar="P", help="what the whole picture should show")
    p.add_argument(
        "--crop",
        action="store_true",
        help="of IN the central square alone; what is outside of it stays as it is. GLIDE paints squares, so "
        "a picture that is not square needs this",
    )
    steps_option(p, "the base model's walk")
    compare_option(p, "the mask")
    how = "how the rest is kept: trained, replace or x0"
    options(p, inpaint, {"how": how, "w": "guidance scale of the text"})
    base, upsampler = "shapes-glide-inpaint", "shapes-glide-upsampler-inpaint"
    stage_options(p, base, upsampler, inpaint, "eta", "paste", estimates=True)


def session_options(p: argparse.ArgumentParser) -> None:
    """The options of `palimpsest glide session`."""
    p.add_argument(
        "script",
        nargs="?",
        metavar="SCRIPT",
        help="a prompt a line, as in 'a red star | box .5 .2 .9 .8'; without one, steps are asked for",
    )
    p.add_argument("--picture", metavar="IN", help="where to begin (default: from nothing)")
    p.add_argument("--strip", metavar="PNG", help="also write every state, left to right")
    options(p, glide, {"w": "guidance scale of the text"})
    stage_options(p, "shapes-glide-inpaint", "shapes-glide-upsampler-inpaint", glide)
    p.set_defaults(kept=("out", "strip"), reads=lambda a: {"script": files_of_script(a.script)})


def stage_options(
    p: argparse.ArgumentParser, base: str, upsampler: str, verb: Callable, *more: str, estimates: bool = False
) -> None:
    """The options that the three share: of both models, of their walks, of the run."""
    helps = {
        "steps": "of the base model: a respacing, as 50, 10,10,3,2,2 or ddim25",
        "up_steps": "of the upsampler, likewise",
        "seed": "of the noise",
    }
    known = {"eta": "1 ancestral, 0 DDIM", "paste": "paste the kept pixels back, bit for bit"}
    options(p, verb, helps | {name: known[name] for name in more})
    p.add_argument("--model", default=base, metavar="NAME", help=f"the base model (default: {base!r})")
    p.add_argument(
        "--upsampler",
        default=upsampler,
        metavar="NAME",
        help=f"none for small pictures (default: {upsampler!r})",
    )
    run_options(p, "the result, .png, .jpg, .webp or .tiff", estimates=estimates)


# ---- both models ----


def load_stages(
    a: argparse.Namespace, open_: Callable[[str | None], Model] | None = None
) -> tuple[Model, Model | None]:
    """The base model and, unless none is wanted, the upsampler; open_: from a name, None: --model's."""
    open_ = open_ or (lambda name: load_model(a, name=name))
    model = open_(None)
    with blame("upsampler"):
        return model, None if a.upsampler == "none" else open_(a.upsampler)


def check_stages(a: argparse.Namespace, model: Model, upsampler: Model | None) -> int:
    """How many steps the base model's walk has. Raises ArgumentError for models or steps that do not fit."""
    check_stage(model, upsampling=False)
    check_upsampler(upsampler, a.up_steps)
    return len(levels_of(model, a.steps)) - 1


def dry_run_stages(
    a: argparse.Namespace, n: int, w: float, check: Callable[[Model, Model | None], object]
) -> None:
    """Print what both stages cost for n pictures, with guidance scale w in the first.

    check: called with both models; raises ValueError if they cannot do it.
    """
    device = intended_device(a)
    model, upsampler = load_stages(a, lambda name: meta_model(a, device, a.dtype, name))
    check(model, upsampler)
    check_stages(a, model, upsampler)
    large = upsampler or model
    print_estimate(model, (large.size, large.size), device, cost_of_stages(a, model, upsampler, n, w, device))


def cost_of_stages(
    a: argparse.Namespace, model: Model, upsampler: Model | None, n: int, w: float, device: torch.device
) -> Estimate:
    """What both stages cost for n pictures, by models of the meta device."""
    costs = []
    for stage, what, steps, rows in (
        (model, "paint", a.steps, n if w == 1 else 2 * n),
        (upsampler, "enlarge", a.up_steps, n),
    ):
        if stage is not None:
            times = len(levels_of(stage, steps)) - 1
            walk = Passes(what, times, rows, kept=n * (times + 1), beside=stage.beside)
            costs.append(
                estimate(
                    stage,
                    (stage.size, stage.size),
                    [walk],
                    pictures=n,
                    given=0,
                    workspace=device.type == "cpu",
                )
            )
    return costs[0] if upsampler is None else together(*costs)


def check_room_for_stages(a: argparse.Namespace, model: Model, upsampler: Model | None) -> None:
    """Raises Mistake where n pictures at once take more memory than there is to be had."""
    free, large = free_memory(model.device), upsampler or model
    if free is None or EACH * large.size**2 * 2 * a.n < free:
        return
    shapes = load_stages(a, lambda name: meta_model(a, model.device, model.dtype, name))
    cost = cost_of_stages(a, *shapes, a.n, a.w, model.device)
    needed = cost.peak - cost.weights
    if needed > free:
        most = max(1, a.n * free // needed)
        raise Mistake(
            f"n: {a.n} pictures at once take about {as_bytes(needed)} of memory, and {as_bytes(free)} are "
            f"free; take {most} or fewer"
        )


def seen_by_square(
    a: argparse.Namespace, picture: Original, model: Model, upsampler: Model | None
) -> Original:
    """The picture as large as the last stage paints. Raises Mistake where that is no square."""
    seen = seen_by(picture, upsampler or model, None)
    if len({*seen.seen}) > 1:
        raise Mistake(
            f"IN: GLIDE paints squares, and {a.input} is {seen.size[1]}×{seen.size[0]}; take --crop"
        )
    return seen


# ---- glide generate ----


def run_generate(a: argparse.Namespace) -> Made | None:
    """n pictures of one prompt, in one file or on one sheet."""
    check_guide(a)
    if a.estimate:
        if a.guide != "text":
            say("note: guide: what guides is a net of its own, and comes on top of this")
        w = a.w if a.guide == "text" else 1.0
        return dry_run_stages(a, a.n, w, lambda model, upsampler: None)
    model, upsampler = load_stages(a)
    note_wording(model, {"prompt": a.prompt})
    steps = check_stages(a, model, upsampler)
    check_room_for_stages(a, model, upsampler)
    texts, judge = repeated(a.prompt, a.n), load_judge("shapes-clip") if a.rerank else None
    gradient = None if a.guide == "text" else gradient_of(a, texts)
    with progress(model, steps, "glide"):
        made = glide(
            model,
            a.prompt,
            n=a.n,
            upsampler=upsampler,
            steps=a.steps,
            up_steps=a.up_steps,
            w=a.w if gradient is None else 1.0,
            gradient=gradient,
            eta=a.eta,
            seed=a.seed,
        )
    pictures = made.picture.cpu()
    if a.blur:
        pictures = blurred(pictures, load_autoencoder())
    if judge is not None:
        scores = judge.cosines(pictures, texts)
        order = rerank(scores, a.n)[0]
        pictures = pictures[order]
        say("note: rerank: cosines " + ", ".join(f"{x:.3f}" for x in scores[order].tolist()))
    return Made(
        [pictures if a.n == 1 else sheet_of(pictures, a.prompt)],
        f"{a.n} picture{'s' if a.n > 1 else ''}, seed {a.seed}",
        walk=Walk.of(model, made.path, made.levels),
    )


def check_guide(a: argparse.Namespace) -> None:
    """Raises Mistake for options that do not go together with what guides."""
    if not 1 <= a.n <= 64:
        raise Mistake(f"n: must lie between 1 and 64, got {a.n}")
    if a.guide == "text" and a.scale is not None:
        raise Mistake("scale: is for --guide clip or classifier; the text's is --w")
    if a.guide != "text" and a.w != W:
        raise Mistake(f"w: is for --guide text; that of the {a.guide} is --scale")
    if a.guide == "classifier" and not a.prompt.strip():
        raise Mistake("prompt: a classifier must be told what to look for; give words, or --guide text")


def gradient_of(a: argparse.Namespace, texts: list[str]) -> Gradient:
    """The gradient of a CLIP, Eq. (8), or of a classifier, Eq. (6), that know noisy pictures of shapes."""
    if a.guide == "clip":
        judge, scale = load_judge("shapes-clip-noised"), 3.0 if a.scale is None else a.scale
        return clip_guidance(judge.images, judge.texts(texts), scale, judge.scale)
    classifier, asked = load_classifier(), [wanted(text) for text in texts]
    scale = 1.0 if a.scale is None else a.scale
    return classifier_guidance(lambda x, t: classifier.log_p(x, t, asked), scale)


def sheet_of(pictures: Tensor, title: str) -> Tensor:
    """Pictures of one prompt on one sheet, about as wide as high."""
    n, columns = len(pictures), max(1, round(len(pictures) ** 0.5))
    return contact_sheet(
        [list(pictures[k : k + columns].split(1)) for k in range(0, n, columns)], title=title
    )


# ---- glide inpaint ----


def run_inpaint(a: argparse.Namespace) -> Made | None:
    """A picture file with a part painted anew; it comes back in its own size, what was kept bit for bit."""
    picture = open_input(a.input, a.crop)
    with blame("mask"):
        mask = read_mask(a.mask, of=picture)

    def check(model: Model, upsampler: Model | None) -> Original:
        check_way(model, a.how)
        return seen_by_square(a, picture, model, upsampler)

    if a.estimate:
        return dry_run_stages(a, 1, a.w, check)
    model, upsampler = load_stages(a)
    note_wording(model, {"prompt": a.prompt})
    seen = check(model, upsampler)
    with progress(model, check_stages(a, model, upsampler), "inpaint"):
        made = inpaint(
            model,
            seen.view(),
            seen.region(mask),
            a.prompt,
            how=a.how,
            upsampler=upsampler,
            steps=a.steps,
            up_steps=a.up_steps,
            w=a.w,
            eta=a.eta,
            seed=a.seed,
            paste=a.paste,
        )
    return Made(
        [seen.restore(made.picture.cpu(), mask if a.paste else None)],
        f"seed {a.seed}",
        before=as_it_was(picture),
        between=lambda: {"mask": at_the_files_size(picture, mask)},
        after=a.prompt or "after",
        walk=Walk.of(model, made.path, made.levels),
    )


# ---- glide session ----


def run_session(a: argparse.Namespace) -> Made | None:
    """A script, read whole before it is begun, or steps from a person; the picture is written after each."""
    text = None
    if a.script is not None:
        with blame("script"):
            text = script_of(a.script)
            parse(text, Path(a.script).parent)
    model, upsampler = load_stages(a)
    file = (
        None
        if a.picture is None
        else seen_by(open_input(a.picture, True, "picture"), upsampler or model, None)
    )
    session = Session(
        model,
        upsampler,
        None if file is None else file.view(),
        seed=a.seed,
        steps=a.steps,
        up_steps=a.up_steps,
        w=a.w,
    )

    answers: list[str] = []

    def made() -> Made:
        picture, n = session.picture.cpu(), len(session.states)
        return Made(
            [picture if file is None else file.restore(picture, painted_of(session, file))],
            f"{n} state{'s' if n != 1 else ''}",
            more={"strip": session.strip},
            answers=answers,
        )

    def write() -> None:
        if session.states:
            write_pictures(a, made())

    if text is None:
        ask(session, model, write, answers)
    else:
        try:
            session.run(parse(text, Path(a.script).parent, model.embed))
        except BaseException:
            write()
            raise
    if session.states:
        return made()
    tell(f"{a.out}: nothing was painted, nothing is written")
    return None


def painted_of(session: Session, file: Original) -> Tensor | None:
    """What of the file was painted in the session, at the file's size: 1 = painted. None: all of it."""
    marks = [state.mask for state in session.states[1:]]
    if any(mask is None for mask in marks):
        return None
    union = torch.zeros(1, 1, session.size, session.size)
    for mask in marks:
        union = torch.maximum(union, mask.cpu())
    return file.back(union)


def script_of(path: str) -> str:
    """The text of a script file. Raises ValueError where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({why_no_text(error)})") from error


def files_of_script(path: str | None) -> list[Path]:
    """The script and the masks that it names, as far as it can be read."""
    if path is None:
        return []
    with suppress(ValueError):
        return [Path(path), *masks_in(script_of(path), Path(path).parent)]
    return []


def ask(session: Session, model: Model, write: Callable[[], None], answers: list[str]) -> None:
    """Steps from a person, at the terminal or through a pipe, until the input ends; they go to `answers`.

    A step that makes no sense is answered by what is wrong with it, and the next one is asked for.
    """
    while True:
        tell("prompt [| box LEFT TOP RIGHT BOTTOM], undo, redo, or done: ", end="")
        line = sys.stdin.readline()
        if not line or line.strip() in ("done", ""):
            return
        answers.append(line)
        try:
            session.run(parse(line, ".", model.embed))
        except ValueError as error:
            say(f"note: {error}")
        write()
