"""The tab Tell: say what to change (InstructPix2Pix), and choose among three answers."""

from __future__ import annotations

from typing import Any

import gradio as gr

from palimpsest.cli.commands.wording import note_absent
from palimpsest.studio import shown
from palimpsest.studio.call import Call, Given
from palimpsest.studio.desk import Ask, Desk, perform
from palimpsest.studio.examples import first_of
from palimpsest.studio.fields import picture_input, text
from palimpsest.studio.jobs import Job
from palimpsest.studio.pictures import pixels_of, upload
from palimpsest.studio.studio import Studio, is_told
from palimpsest.studio.verbs import VERBS

INSTRUCT = VERBS["instruct_pix2pix"]
ANSWERS = 3


def tell_tab(studio: Studio) -> None:
    """Build it."""
    desk = Desk(studio, "tell", studio.menu("shapes-instruct", "emoji-instruct", fits=is_told))
    with gr.Row(elem_classes=["ps-desk"]):
        with gr.Column():
            picture = picture_input("picture", "tell-picture")
            desk.example_buttons()
            instruction = text(
                "instruction", first_of(desk.first).instruction, "tell-instruction", "what to change"
            )
            s_text = desk.slider(INSTRUCT, "s_text", low=0, high=12, step=0.1)
            s_image = desk.slider(INSTRUCT, "s_image", low=0, high=4, step=0.1)
            desk.controls("Tell it")
            with gr.Accordion("more", open=False):
                steps = desk.slider(INSTRUCT, "steps", low=2, high=100, step=1)
        desk.examples([picture, instruction], lambda one: (pixels_of(one.picture), one.instruction))
        with gr.Column():
            desk.results("drop a picture or take an example, say what to change, and run")

    def work(job: Job, ask: Ask, *values: Any) -> str:
        return told(studio, job, ask, *values)

    desk.answers([picture, instruction, s_text, s_image, steps], work)


def told(
    studio: Studio,
    job: Job,
    ask: Ask,
    path: str | None,
    instruction: str,
    s_text: float,
    s_image: float,
    steps: float,
) -> str:
    """Three answers, each of a seed of its own; the first is shown as soon as it is there."""
    model = studio.model(ask.model)
    x = upload(path, model)
    note_absent(model, x, instruction)
    figures, first, others = [shown.image(x, "picture", "before")], None, ""
    for k in range(ANSWERS):
        given = {
            "x": Given.of("picture", x),
            "instruction": instruction,
            "s_text": s_text,
            "s_image": s_image,
            "steps": int(steps),
            "seed": ask.seed + k,
        }
        done = perform(
            job, studio, Call(INSTRUCT, ask.model, given), {"instruction": instruction} if not k else None
        )
        job.total = ANSWERS * job.done // (k + 1)
        figures.append(shown.image(done.picture, f"seed {ask.seed + k}", "result" if not k else f"result{k}"))
        if first is None:
            first, walk = done, done.walk("the first one's walk")
        else:
            others += shown.fold(f"seed {ask.seed + k}: save and copy", done.html([]))
        job.news = first.html([*figures, walk], others)
    return job.news
