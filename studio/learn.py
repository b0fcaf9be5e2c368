"""The tab Learn: a word for one subject, from three to five pictures (DreamBooth, or LoRA)."""

from __future__ import annotations

import random
from dataclasses import replace

import gradio as gr
from torch import Tensor

from palimpsest.arguments import ArgumentError
from palimpsest.methods.learner import Course
from palimpsest.methods.prior import Prior
from palimpsest.methods.sampling import generate
from palimpsest.studio import shown
from palimpsest.studio.call import Call, Given
from palimpsest.studio.desk import Ask, Desk, perform
from palimpsest.studio.fields import slider, text
from palimpsest.studio.jobs import Job
from palimpsest.studio.pictures import upload
from palimpsest.studio.studio import LEARNING, Studio, paints_from_text
from palimpsest.studio.verbs import VERBS
from palimpsest.worlds.scene import SHAPES
from palimpsest.worlds.subjects import render_subject, sample_context, sample_subject

DREAMBOOTH = VERBS["dreambooth"]
MOST = 5  # pictures
SAMPLES = 4
WAYS = {"DreamBooth: all weights": 0, "LoRA: rank 4": 4}


def learn_tab(studio: Studio) -> None:
    """Build it."""
    desk = Desk(studio, "learn", studio.menu("shapes", fits=paints_from_text), LEARNING)
    with gr.Row(elem_classes=["ps-desk"]):
        with gr.Column():
            pictures = gr.File(
                label=f"three to {MOST} pictures of one subject",
                file_count="multiple",
                file_types=["image"],
                elem_id="learn-pictures",
                height=160,
            )
            # read by palimpsest itself, like every picture
            pictures.preprocess = lambda payload: [
                one.path for one in getattr(payload, "root", payload) or ()
            ]
            noun = text("class noun", "star", "learn-noun", "what it is, in the model's words")
            way = gr.Radio(list(WAYS), value=list(WAYS)[0], label="what is trained", elem_id="learn-way")
            desk.controls("Learn it")
            with gr.Accordion("more", open=False):
                steps = slider(DREAMBOOTH, "steps", of=Course, low=10, high=600, step=10, value=240)
                n = gr.Slider(
                    4, 48, 16, step=4, label="n-prior", info="prior pictures, which keep what the noun means"
                )
        with gr.Column():
            desk.results("without pictures of your own, it learns a star that it is given")

    def work(job: Job, ask: Ask, paths: list[str] | None, noun: str, way: str, steps: float, n: float) -> str:
        return learned(studio, job, ask, paths, noun, WAYS[way], int(steps), int(n))

    desk.answers([pictures, noun, way, steps, n], work)


def learned(
    studio: Studio, job: Job, ask: Ask, paths: list[str] | None, noun: str, rank: int, steps: int, n: int
) -> str:
    """Learn, with the loss as it falls; then show pictures of the new word."""
    model = studio.model(ask.model)
    if paths and len(paths) > MOST:
        raise ArgumentError("pictures", f"are {len(paths)}; give at most {MOST}")
    x = [upload(path, model, f"picture {k + 1}") for k, path in enumerate(paths or ())] or given_subject(noun)
    course, losses = Course(steps=steps, seed=ask.seed, lr=8e-4), []  # as C12 to C15 measure it
    given = {
        "pictures": [Given.of(f"subject{k + 1}", one) for k, one in enumerate(x)],
        "class_noun": noun,
        "rank": rank,
        "tune_text": True,
        "course": course,
        "prior": Prior(n=n, steps=16),
    }
    before = shown.row([shown.image(one, f"picture {k + 1}") for k, one in enumerate(x)], small=True)
    job.news = before

    def each_step(step: int, instance: float, prior: float) -> None:
        job.total = job.total or job.done + steps
        job.moved()
        losses.append(instance)
        if step % 5 == 4:
            job.news = before + shown.curve(smooth(losses), "loss of the subject, averaged", steps)

    watched = {"course": replace(course, each_step=each_step)}
    done = perform(job, studio, Call(DREAMBOOTH, ask.model, given), {}, watched)
    made = done.made
    some = generate(made.model, made.prompt, n=SAMPLES, steps=25, w=3.0, seed=ask.seed).picture.cpu()
    figures = [
        shown.image(one, made.prompt if k else f"“{made.prompt}”", "result" if k == 0 else f"sample{k}")
        for k, one in enumerate(some.split(1))
    ]
    return done.html(figures, before + shown.curve(smooth(losses), "loss of the subject, averaged"))


def given_subject(noun: str) -> list[Tensor]:
    """Four pictures of one subject, which no caption can name."""
    rng = random.Random(3)
    subject = sample_subject(rng, noun if noun in SHAPES else "star")
    return list(render_subject(subject, [sample_context(rng) for _ in range(4)]).split(1))


def smooth(losses: list[float], n: int = 10) -> list[float]:
    """Averages of the last n."""
    return [sum(losses[max(0, k - n + 1) : k + 1]) / min(n, k + 1) for k in range(len(losses))]
