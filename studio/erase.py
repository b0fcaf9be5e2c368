"""The tab Erase: mark a part, say what the whole shows, and it is painted anew (GLIDE); step by step, with
undo and redo. The session's script is what is copied.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import gradio as gr
import torch

from palimpsest.arguments import ArgumentError
from palimpsest.cli.main import command_line
from palimpsest.cli.manners import Parser
from palimpsest.cli.record import words_of
from palimpsest.methods.glide_session import Session, State
from palimpsest.studio import shown
from palimpsest.studio.call import RESULT, Given, recorded
from palimpsest.studio.desk import Ask, Desk
from palimpsest.studio.examples import first_of
from palimpsest.studio.fields import text
from palimpsest.studio.jobs import Job
from palimpsest.studio.paint import canvas
from palimpsest.studio.pictures import as_mask, marked, on_canvas, painted
from palimpsest.studio.studio import Studio
from palimpsest.worlds.files import png_bytes, read_picture

UP = "shapes-glide-upsampler-inpaint"
STEPS = ("15", "27", "50")
SCRIPT = "steps.txt"
HELD = "session"


def erase_tab(studio: Studio) -> None:
    """Build it."""
    desk = Desk(studio, "erase", studio.menu("shapes-glide-inpaint"))
    with gr.Row(elem_classes=["ps-desk"]):
        with gr.Column():
            first = first_of(desk.first)
            picture = canvas("picture", "erase-canvas", first.picture, marks=True)
            desk.example_buttons()
            said = "what the whole picture shows then"
            prompt = text("prompt", first.target, "erase-prompt", said)
            desk.controls("Paint the marked part")
            with gr.Row(elem_classes=["ps-tight"]):
                undo = gr.Button("Undo", elem_id="erase-undo")
                redo = gr.Button("Redo", elem_id="erase-redo")
                anew = gr.Button("A new picture from the text", elem_id="erase-anew")
            with gr.Accordion("more", open=False):
                w = gr.Slider(0, 10, 3.0, step=0.5, label="w", info="guidance scale of the text")
                steps = gr.Radio(list(STEPS), value=STEPS[0], label="steps", info="of the base model")
        with gr.Column():
            desk.results("mark a part, say what the picture shows, and run; each step can be taken back")
    desk.examples([picture, prompt], lambda one: (on_canvas(one.picture), one.target))

    def work(what: str) -> Any:
        return lambda job, ask, *values: stepped(studio, job, ask, what, *values)

    for what, button in (("paint", None), ("anew", anew), ("undo", undo), ("redo", redo)):
        desk.answers([picture, prompt, w, steps], work(what), button, also=[picture])


def stepped(
    studio: Studio, job: Job, ask: Ask, what: str, editor: Any, prompt: str, w: float, steps: str
) -> tuple[str, Any]:
    """One step of the session, or one taken back. What is shown, and the canvas after it."""
    session = opened(studio, ask, editor, w, steps)
    with job.watching(session.model, session.upsampler):
        if what in ("undo", "redo"):
            getattr(session, what)()
            if not session.states:
                session.redo()
                raise ArgumentError("undo", "nothing was done yet")
        else:
            job.total = int(steps) + 27
            more(session, ask, editor, prompt, whole=what == "anew")
    return html_of(session, ask), on_canvas(session.picture.cpu())


def opened(studio: Studio, ask: Ask, editor: Any, w: float, steps: str) -> Session:
    """The visitor's session; a new one where the canvas shows another picture than it left there."""
    model, up = studio.model(ask.model), studio.model(UP)
    ground = {"composite": None if editor is None else editor.get("background")}
    session: Session | None = studio.open(ask.visitor, HELD)
    here = None if ground["composite"] is None else painted(ground, up)
    known = session is not None and session.states and here is not None
    same = known and (session.model, session.w, session.steps) == (model, w, steps)  # one script has one w
    if not same or not torch.equal(eight(session.picture), here):
        session = Session(model, up, here, seed=ask.seed, steps=steps, w=w)
    studio.keep(ask.visitor, HELD, session)
    return session


def eight(picture: torch.Tensor) -> torch.Tensor:
    """A picture as the canvas gives it back, in 256 levels."""
    given = Given.of("picture", picture.cpu())
    return read_picture(given.pixels)


def more(session: Session, ask: Ask, editor: Any, prompt: str, whole: bool) -> None:
    """One step: all of the picture anew, or what is marked."""
    if set(prompt) & set("|#\n"):
        raise ArgumentError(
            "prompt", "cannot hold | or #, which divide and end the lines of a session's script"
        )
    mask = None if whole else marked(editor, session.upsampler or session.model)
    if mask is None and not whole:
        raise ArgumentError("mask", "nothing is marked; brush over what is to be painted anew")
    if mask is not None and mask.all():
        mask = None
    session.paint(prompt, mask, seed=ask.seed + len(session.states))


# ---- what is shown and copied ----


def steps_of(session: Session) -> tuple[Given | None, list[tuple[State, Given | None]]]:
    """The picture that was begun with, and each step with its mask's file. What lies before the last picture
    that was painted whole does not matter."""
    states = list(session.states)
    wholes = [k for k, state in enumerate(states) if state.prompt and state.mask is None]
    begun = None
    if wholes:
        states = states[wholes[-1] :]
    elif states and not states[0].prompt:
        begun, states = Given.of("picture", states[0].picture.cpu()), states[1:]
    masks = [
        None if s.mask is None else Given.of(f"mask{k + 1}", as_mask(s.mask.cpu()))
        for k, s in enumerate(states)
    ]
    return begun, list(zip(states, masks))


def script_of(steps: Sequence[tuple[State, Given | None]]) -> str:
    """What `palimpsest glide session` reads."""
    lines = []
    for state, mask in steps:
        options = [] if mask is None else [f"mask {mask.name}"]
        lines.append(" | ".join([state.prompt, *options, f"seed {state.seed}"]))
    return "\n".join(lines) + "\n"


def python_of(
    session: Session, ask: Ask, begun: Given | None, steps: Sequence[tuple[State, Given | None]]
) -> str:
    """The same session in Python."""
    first = f"picture={begun.name!r}, " if begun else ""
    lines = [
        "from palimpsest import load, write_picture",
        "from palimpsest.methods.glide_session import Session",
        "",
        f"model, upsampler = load({ask.model!r}), load({UP!r})",
        f"session = Session(model, upsampler, {first}steps={session.steps!r}, w={session.w!r})",
    ]
    for state, mask in steps:
        part = "" if mask is None else f", {mask.name!r}"
        lines.append(f"session.paint({state.prompt!r}{part}, seed={state.seed})")
    return "\n".join([*lines, f'write_picture(session.picture, "{RESULT}")', ""])


def html_of(session: Session, ask: Ask) -> str:
    """The picture, its history, what is saved and copied."""
    begun, steps = steps_of(session)
    script = Given(SCRIPT, script_of(steps).encode("utf-8"))
    files = [one for one in (begun, script, *(mask for _, mask in steps)) if one is not None]
    words = ["glide", "session", SCRIPT, *(["--picture", begun.name] if begun else [])]
    words += ["--w", str(session.w), "--steps", session.steps, "--model", ask.model, "-o", RESULT]
    a = command_line(Parser, words[:1]).parse_args(words)
    png = png_bytes(session.picture, recorded(a, files))
    history = [
        shown.image(state.picture.cpu(), f"{k + 1}: {state.prompt or 'as given'}")
        for k, state in enumerate(session.states)
    ]
    top = shown.row([shown.image(session.picture.cpu(), session.states[-1].prompt or "as given", "result")])
    saved = shown.downloads({RESULT: png, **{one.name: one.png for one in files}})
    command = shlex.join([*words_of(a), "-o", RESULT])
    copies = shown.code(python_of(session, ask, begun, steps), "python", "Python")
    copies += shown.code(command, "command", "command") + shown.code(
        script.png.decode(), "script", "the script"
    )
    return top + shown.fold("history", shown.row(history, small=True), True) + saved + copies
