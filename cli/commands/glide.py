"""palimpsest glide generate|inpaint|session: the commands of methods/glide.py and
methods/glide_session.py.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from palimpsest.cli.commands.dry_run import meant, told
from palimpsest.cli.commands.pictures import framed, opened, steps_option, steps_target, write_steps
from palimpsest.cli.manners import (
    Mistake,
    blame,
    command,
    number,
    options,
    progress,
    run_options,
    say,
    whole,
    writable,
)
from palimpsest.methods.glide import blurred, check_walks, check_way, glide, inpaint, known, rerank, texts_of
from palimpsest.methods.glide_session import Session, parse
from palimpsest.samplers.guidance import Gradient, classifier_guidance, clip_guidance
from palimpsest.samplers.respacing import respaced
from palimpsest.weights.estimate import Passes, estimate, together
from palimpsest.weights.judges import load_classifier, load_judge
from palimpsest.weights.load import load, load_autoencoder, pick_dtype
from palimpsest.weights.model import Model
from palimpsest.worlds.files import Original, contact_sheet, read_mask, write_picture
from palimpsest.worlds.words import wanted

GUIDES = ("text", "clip", "classifier")
W = inspect.signature(glide).parameters["w"].default


def declare_glide(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest glide`."""
    about = "paint from a text in two stages, and paint parts of a picture anew (arXiv:2112.10741)"
    p = commands.add_parser("glide", help=about, description=about, allow_abbrev=False)
    parts = p.add_subparsers(metavar="WHAT", required=True)

    g = command(parts, "generate", "pictures from a text", run_generate)
    g.add_argument("--prompt", required=True, metavar="P", help='what to show, in words; "" is anything')
    g.add_argument(
        "-n", type=whole, default=1, metavar="N", help="how many; picture i has seed + i (default: 1)"
    )
    g.add_argument(
        "--guide",
        choices=GUIDES,
        default="text",
        help="what the walk is guided by: the text without a classifier (7), a CLIP "
        "(8) or a classifier (6) that know noise (default: 'text')",
    )
    g.add_argument(
        "--scale",
        type=number,
        default=None,
        metavar="S",
        help="of --guide; for the text it is --w (default: 3 for clip, 1 for classifier)",
    )
    g.add_argument("--rerank", action="store_true", help="order the n pictures by a CLIP, the best first")
    g.add_argument(
        "--blur",
        action="store_true",
        help="through an autoencoder and back, the handicap that GLIDE gave itself beside DALL-E",
    )
    options(g, glide, {"w": "guidance scale of the text"})
    steps_option(g, "the base model's walk of the first")
    stages(g, "shapes-glide", "shapes-glide-upsampler", glide, "eta", estimates=True)

    i = command(parts, "inpaint", "a part of a picture painted anew", run_inpaint)
    i.add_argument("input", metavar="IN", help="the picture")
    i.add_argument("--mask", required=True, metavar="M", help="white where to paint, black where to keep")
    i.add_argument("--prompt", required=True, metavar="P", help="what the whole picture should show")
    i.add_argument(
        "--crop",
        action="store_true",
        help="of IN the central square alone; what is outside of it stays as it is",
    )
    steps_option(i, "the base model's walk")
    options(
        i, inpaint, {"how": "how the rest is kept: trained, replace or x0", "w": "guidance scale of the text"}
    )
    stages(
        i, "shapes-glide-inpaint", "shapes-glide-upsampler-inpaint", inpaint, "eta", "paste", estimates=True
    )

    s = command(parts, "session", "one inpainting after another, from a script or by asking", run_session)
    s.add_argument(
        "script",
        nargs="?",
        metavar="SCRIPT",
        help="a prompt a line, as in 'a red star | box .5 .2 .9 .8'; without one, steps are asked for",
    )
    s.add_argument("--picture", metavar="IN", help="where to begin (default: from nothing)")
    s.add_argument("--strip", metavar="PNG", help="also write every state, left to right")
    options(s, glide, {"w": "guidance scale of the text"})
    stages(s, "shapes-glide-inpaint", "shapes-glide-upsampler-inpaint", glide)


def stages(
    p: argparse.ArgumentParser, base: str, upsampler: str, verb: Callable, *more: str, estimates: bool = False
) -> None:
    """The options that the three share."""
    known = {"eta": "1 ancestral, 0 DDIM", "paste": "paste the kept pixels back, bit for bit"}
    options(
        p,
        verb,
        {
            "steps": "of the base model: a respacing, as 50, 10,10,3,2,2 or ddim25",
            "up_steps": "of the upsampler, likewise",
            "seed": "of the noise",
            **{name: known[name] for name in more},
        },
    )
    p.add_argument("--model", default=base, metavar="NAME", help=f"the base model (default: {base!r})")
    p.add_argument(
        "--upsampler",
        default=upsampler,
        metavar="NAME",
        help=f"none for small pictures (default: {upsampler!r})",
    )
    run_options(p, "the result, .png, .jpg or .webp", estimates=estimates)


def opened_stages(
    a: argparse.Namespace, device: str | None = None, dtype: torch.dtype | None = None
) -> tuple[Model, Model | None]:
    """The base model and, unless none is wanted, the upsampler."""
    model = load(a.model, device or a.device, dtype)
    with blame("upsampler"):
        return model, None if a.upsampler == "none" else load(a.upsampler, device or a.device, dtype)


def dry_run_stages(
    a: argparse.Namespace, n: int, w: float, check: Callable[[Model, Model | None], object]
) -> None:
    """Print what both stages cost for n pictures, w being the guidance of the first. check: whether these
    models can do it.
    """
    device = meant(a)
    model, upsampler = opened_stages(a, "meta", pick_dtype(device))
    check(model, upsampler)
    known(model, upsampling=False)
    check_walks(model, a.steps, upsampler, a.up_steps)
    costs = []
    for stage, what, steps, rows in (
        (model, "paint", a.steps, n if w == 1 else 2 * n),
        (upsampler, "enlarge", a.up_steps, n),
    ):
        if stage is not None:
            times = len(respaced(stage.schedule.T, steps)) - 1
            walk = Passes(
                what,
                times,
                rows,
                kept=n * (times + 1),
                beside=stage.net.conv_in.in_channels - stage.net.channels,
            )
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
    large = upsampler or model
    told(model, (large.size, large.size), device, costs[0] if upsampler is None else together(*costs))


def framed_square(
    a: argparse.Namespace, picture: Original, model: Model, upsampler: Model | None
) -> Original:
    """The picture as large as the last stage paints. Raises Mistake where that is no square."""
    seen = framed(picture, upsampler or model, None)
    if len({*seen.seen}) > 1:
        raise Mistake(
            f"IN: GLIDE paints squares, and {a.input} is {seen.size[1]}×{seen.size[0]}; take --crop"
        )
    return seen


def run_generate(a: argparse.Namespace) -> None:
    """n pictures of one prompt, one file or a sheet."""
    began, out, save_steps = time.monotonic(), writable("out", a.out), steps_target(a)
    if not 1 <= a.n <= 64:
        raise Mistake(f"n: must lie between 1 and 64, got {a.n}")
    if a.guide == "text" and a.scale is not None:
        raise Mistake("scale: is for --guide clip or classifier; the text's is --w")
    if a.guide != "text" and a.w != W:
        raise Mistake(f"w: is for --guide text; that of the {a.guide} is --scale")
    if a.guide == "classifier" and not a.prompt.strip():
        raise Mistake("prompt: a classifier must be told what to look for; give words, or --guide text")
    if a.estimate:
        if a.guide != "text":
            say("note: guide: what guides is a net of its own, and comes on top of this")
        return dry_run_stages(a, a.n, a.w if a.guide == "text" else 1.0, lambda b, upsampler: None)
    model, upsampler = opened_stages(a)
    check_walks(model, a.steps, upsampler, a.up_steps)
    texts, judge = texts_of(a.prompt, a.n), load_judge("shapes-clip") if a.rerank else None
    how = dict(w=a.w) if a.guide == "text" else dict(w=1.0, gradient=gradient_of(a, texts))
    with progress(model, len(respaced(model.schedule.T, a.steps)) - 1, "glide"):
        made = glide(
            model,
            a.prompt,
            n=a.n,
            upsampler=upsampler,
            steps=a.steps,
            up_steps=a.up_steps,
            eta=a.eta,
            seed=a.seed,
            **how,
        )
    pictures = blurred(made.picture.cpu(), load_autoencoder()) if a.blur else made.picture.cpu()
    if judge is not None:
        scores = judge.cosines(pictures, texts)
        order = rerank(scores, a.n)[0]
        pictures = pictures[order]
        say("note: rerank: cosines " + ", ".join(f"{x:.3f}" for x in scores[order].tolist()))
    columns = max(1, round(a.n**0.5))
    rows = [list(pictures[k : k + columns].split(1)) for k in range(0, a.n, columns)]
    write_picture(pictures[:1] if a.n == 1 else contact_sheet(rows, title=a.prompt), out)
    write_steps(model, made, save_steps)
    print(f"{a.out}: {a.n} picture{'s' if a.n > 1 else ''}, seed {a.seed}, {time.monotonic() - began:.1f} s")


def gradient_of(a: argparse.Namespace, texts: list[str]) -> Gradient:
    """What a CLIP or a classifier of ours says of x_t, Eq. (8) or Eq. (6)."""
    if a.guide == "clip":
        judge = load_judge("shapes-clip-noised")
        return clip_guidance(
            judge.images, judge.texts(texts), 3.0 if a.scale is None else a.scale, judge.scale
        )
    classifier, asked = load_classifier(), [wanted(text) for text in texts]
    return classifier_guidance(
        lambda x, t: classifier.log_p(x, t, asked), 1.0 if a.scale is None else a.scale
    )


def run_inpaint(a: argparse.Namespace) -> None:
    """A picture file with a part painted anew; its own size comes back, and what was kept bit for bit."""
    began, out, save_steps = time.monotonic(), writable("out", a.out), steps_target(a)
    picture = opened(a.input, a.crop)
    with blame("mask"):
        mask = read_mask(a.mask, of=picture)

    def check(model: Model, upsampler: Model | None) -> None:
        check_way(model, a.how)
        framed_square(a, picture, model, upsampler)

    if a.estimate:
        return dry_run_stages(a, 1, a.w, check)
    model, upsampler = opened_stages(a)
    seen = framed_square(a, picture, model, upsampler)
    check_walks(model, a.steps, upsampler, a.up_steps)
    with progress(model, len(respaced(model.schedule.T, a.steps)) - 1, "inpaint"):
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
    write_picture(seen.restore(made.picture.cpu(), mask if a.paste else None), out)
    write_steps(model, made, save_steps)
    print(f"{a.out}: seed {a.seed}, {time.monotonic() - began:.1f} s")


def run_session(a: argparse.Namespace) -> None:
    """A script, read whole before it is begun, or steps from a person; the picture is written after each."""
    began, out = time.monotonic(), writable("out", a.out)
    strip = writable("strip", a.strip) if a.strip else None
    text = None
    if a.script is not None:
        with blame("script"):
            text = script_of(a.script)
            parse(text, Path(a.script).parent)
    model, upsampler = opened_stages(a)
    file = None if a.picture is None else framed(opened(a.picture, True, "picture"), upsampler or model, None)
    session = Session(
        model,
        upsampler,
        None if file is None else file.view(),
        seed=a.seed,
        steps=a.steps,
        up_steps=a.up_steps,
        w=a.w,
    )

    def write() -> None:
        if session.states:
            picture = session.picture.cpu()
            write_picture(picture if file is None else file.restore(picture, painted_of(session, file)), out)
            if strip is not None:
                write_picture(session.strip(), strip)

    if text is not None:
        try:
            session.run(parse(text, Path(a.script).parent, model.embed))
        finally:
            write()
    else:
        ask(session, model, write)
    print(
        f"{a.out}: {len(session.states)} state{'s' if len(session.states) != 1 else ''}, {time.monotonic() - began:.1f} s"
    )


def painted_of(session: Session, file: Original) -> Tensor | None:
    """What of the file's box was painted since it was given, 1 = painted; None where all was: the rest
    keeps its pixels.
    """
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
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'})"
        ) from error


def ask(session: Session, model: Model, write: Callable[[], None]) -> None:
    """Steps from a person, at the terminal or through a pipe, until the answers end; what makes no sense
    is said and asked again.
    """
    while True:
        print("prompt [| box LEFT TOP RIGHT BOTTOM], undo, redo, or done: ", end="", flush=True)
        line = sys.stdin.readline()
        if not line or line.strip() in ("done", ""):
            return
        try:
            session.run(parse(line, ".", model.embed))
        except ValueError as error:
            say(f"note: {error}")
        write()
