"""The tab Invert: how exactly a picture comes back from its own noise. The ladder of all ways, or null-text
inversion with its loss as it falls.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from palimpsest.methods.ladder import Rung
from palimpsest.methods.null_text import NullText
from palimpsest.metrics.image import psnr
from palimpsest.studio import shown
from palimpsest.studio.call import Call, Given
from palimpsest.studio.desk import Ask, Desk, perform
from palimpsest.studio.examples import first_of
from palimpsest.studio.fields import picture_input, text
from palimpsest.studio.jobs import Job
from palimpsest.studio.pictures import pixels_of, upload
from palimpsest.studio.studio import Studio, paints_from_text
from palimpsest.studio.verbs import VERBS

LADDER, NULL = VERBS["ladder"], VERBS["null_text"]
WAYS = ("null-text", "the whole ladder")


def invert_tab(studio: Studio) -> None:
    """Build it."""
    desk = Desk(studio, "invert", studio.menu("shapes", "emoji", fits=paints_from_text))
    with gr.Row(elem_classes=["ps-desk"]):
        with gr.Column():
            picture = picture_input("picture", "invert-picture")
            desk.example_buttons()
            prompt = text("prompt", first_of(desk.first).source, "invert-prompt", "what it shows")
            way = gr.Radio(list(WAYS), value=WAYS[0], label="what to do", elem_id="invert-way")
            desk.controls("Invert")
            with gr.Accordion("more", open=False):
                steps = desk.slider(LADDER, "steps", low=2, high=50, step=1, value=8)
                w = desk.slider(LADDER, "w", low=1, high=12, step=0.5)
                inner = desk.slider(NULL, "inner", low=1, high=20, step=1)
                solver = desk.choice(NULL, "solver")
        with gr.Column():
            desk.results(
                "autoencoder, w = 1, w = 7.5, null-text: what each loses on the way to noise and back"
            )
    desk.examples([picture, prompt], lambda one: (pixels_of(one.picture), one.source))

    def work(job: Job, ask: Ask, *values: Any) -> str:
        return inverted(studio, job, ask, *values)

    desk.answers([way, picture, prompt, steps, w, inner, solver], work)


def inverted(
    studio: Studio,
    job: Job,
    ask: Ask,
    way: str,
    path: str | None,
    prompt: str,
    steps: float,
    w: float,
    inner: float,
    solver: str,
) -> str:
    """By null-text inversion, or by all ways."""
    x = upload(path, studio.model(ask.model))
    given = {"x": Given.of("picture", x), "prompt": prompt, "steps": int(steps), "w": w}
    if way == WAYS[1]:
        return climbed(studio, job, Call(LADDER, ask.model, given), x)
    more = {"inner": int(inner), "solver": solver}
    return tuned(studio, job, Call(NULL, ask.model, given | more), x)


def climbed(studio: Studio, job: Job, call: Call, x: Any) -> str:
    """The ladder, rung by rung."""
    found: list[Rung] = []

    def so_far() -> str:
        rows = [(r.name, f"{r.psnr.item():.2f}", str(r.forwards), str(r.backwards)) for r in found]
        figures = [shown.image(r.picture, f"{r.name}: {r.psnr.item():.1f} dB") for r in found]
        table = shown.table(("way", "PSNR / dB", "forward", "backward"), rows)
        return shown.row([shown.image(x, "the picture", "before"), *figures], small=True) + table

    def done(rung: Rung) -> None:
        found.append(rung)
        job.news = so_far()

    answered = perform(job, studio, call, {"prompt": call.given["prompt"]}, {"done": done})
    return answered.html([], so_far())


def tuned(studio: Studio, job: Job, call: Call, x: Any) -> str:
    """Null-text, its loss as it falls: one value for each step of the walk."""
    steps = call.given["steps"]

    def each_step(run: NullText) -> None:
        job.news = shown.curve(run.losses[:, 0].tolist(), "loss of each step", steps)

    done = perform(job, studio, call, {"prompt": call.given["prompt"]}, {"each_step": each_step})
    made, decibels = done.made, psnr(done.picture.cpu(), x).item()
    kept = psnr(done.model.decode(done.model.encode(x)).cpu(), x).item()
    figures = [
        shown.image(x, "picture", "before"),
        shown.image(
            done.picture, f"comes back at {decibels:.1f} dB; the autoencoder alone {kept:.1f}", "result"
        ),
    ]
    return done.html(figures, shown.curve(made.losses[:, 0].tolist(), "loss of each step", steps))
