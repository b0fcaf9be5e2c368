"""The tab Learn: a word for one subject, from three to five pictures (DreamBooth, or LoRA)."""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace

import gradio as gr
import torch
from torch import Tensor

from palimpsest.arguments import ArgumentError
from palimpsest.methods.identifiers import check_identifier
from palimpsest.methods.learner import Course
from palimpsest.methods.prior import Prior
from palimpsest.methods.sampling import generate
from palimpsest.studio import shown
from palimpsest.studio.call import Call, Given
from palimpsest.studio.desk import Ask, Desk, perform
from palimpsest.studio.fields import text
from palimpsest.studio.jobs import Job, Stopped
from palimpsest.studio.pictures import upload
from palimpsest.studio.studio import LEARNING, Studio, paints_from_text
from palimpsest.studio.verbs import VERBS
from palimpsest.weights.model import Model
from palimpsest.worlds.scene import SHAPES, with_article
from palimpsest.worlds.subjects import render_subject, sample_context, sample_subject

DREAMBOOTH = VERBS["dreambooth"]
MOST = 5  # pictures
STEPS, PRIOR = 240, 16
SAMPLES = 4
SEEN = 6  # pictures of the new word while it is learned, at even distances
RUN = "run"  # what is kept of a visitor's stopped run
SECONDS = {0: 0.4, 4: 0.3}  # rank -> of a step, on two cores of a server
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
            told = gr.HTML(shown.line(about(0, STEPS, PRIOR), "note"), elem_id="learn-about")
            desk.controls("Learn it")
            with gr.Accordion("more", open=False):
                steps = desk.slider(DREAMBOOTH, "steps", of=Course, low=10, high=600, step=10, value=STEPS)
                n = gr.Slider(
                    4,
                    48,
                    PRIOR,
                    step=4,
                    label="n-prior",
                    info="prior pictures, which keep what the noun means",
                )
        with gr.Column():
            desk.results("without pictures of your own, it learns a star that it is given")

    gr.on(
        [steps.change, n.change, way.change],
        lambda way, steps, n: shown.line(about(WAYS[way], int(steps), int(n)), "note"),
        [way, steps, n],
        told,
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )

    def work(job: Job, ask: Ask, paths: list[str] | None, noun: str, way: str, steps: float, n: float) -> str:
        return learned(studio, job, ask, paths, noun, WAYS[way], int(steps), int(n))

    desk.answers([pictures, noun, way, steps, n], work)


def about(rank: int, steps: int, n: int) -> str:
    """How long it will take, said before it is begun."""
    seconds = SECONDS[rank] * steps + 0.3 * n + 8
    every = max(1, steps // SEEN)
    shown_at = "after each" if every == 1 else f"every {every} steps"
    course = f"{n} prior pictures, {steps} steps, a picture {shown_at}"
    return f"about {seconds:.0f} s on two cores: {course}"


def learned(
    studio: Studio, job: Job, ask: Ask, paths: list[str] | None, noun: str, rank: int, steps: int, n: int
) -> str:
    """Learn, with the loss as it falls and a picture of the new word every so many steps; then show more. A
    run that is stopped keeps its state: asked the same again, it goes on to the same end, to the bit."""
    model = studio.model(ask.model)
    if paths and len(paths) > MOST:
        raise ArgumentError("pictures", f"are {len(paths)}; give at most {MOST}")
    x = [upload(path, model, f"picture {k + 1}") for k, path in enumerate(paths or ())] or given_subject(noun)
    course = Course(steps=steps, seed=ask.seed, lr=8e-4)  # as C12 to C15 measure it
    given = {
        "pictures": [Given.of(f"subject{k + 1}", one) for k, one in enumerate(x)],
        "class_noun": noun,
        "rank": rank,
        "tune_text": True,
        "course": course,
        "prior": Prior(n=n, steps=16),
    }
    call = Call(DREAMBOOTH, ask.model, given)
    begun = begun_run(studio, ask.visitor, call)
    before = shown.row([shown.image(one, f"picture {k + 1}") for k, one in enumerate(x)], small=True)
    prompt = with_article(check_identifier(model, "auto", ask.seed), noun)
    seen = Seen(job, course, prompt, before)
    watched = {"course": replace(course, each_step=seen.each_step), "state": begun.name}
    try:
        done = perform(job, studio, call, {}, watched)
    except KeyboardInterrupt:
        raise Stopped(
            f"stopped after {seen.at} of {steps} steps; the same button goes on from there"
        ) from None
    studio.keep(ask.visitor, RUN, None)
    made = done.made
    some = generate(made.model, made.prompt, n=SAMPLES, steps=25, w=3.0, seed=ask.seed).picture.cpu()
    figures = [
        shown.image(one, made.prompt if k else f"“{made.prompt}”", "result" if k == 0 else f"sample{k}")
        for k, one in enumerate(some.split(1))
    ]
    return done.html(figures, seen.html())


def begun_run(studio: Studio, visitor: str, call: Call) -> tempfile.TemporaryDirectory[str]:
    """The folder of this run: that of the visitor's stopped one, if it is the same; it goes when it is no
    longer kept."""
    key = (call.python(), *(one.sha256 for one in call.files))
    kept = studio.open(visitor, RUN)
    if kept is None or kept[0] != key:
        kept = key, tempfile.TemporaryDirectory(prefix="learn-")
        studio.keep(visitor, RUN, kept)
    return kept[1]


class Seen:
    """What is seen of a run: its loss, and pictures of the new word, all from the same noise."""

    def __init__(self, job: Job, course: Course, prompt: str, before: str):
        self.job, self.steps, self.seed = job, course.steps, course.seed
        self.prompt, self.before = prompt, before
        self.losses: list[float] = []
        self.figures: list[str] = []
        self.at = 0
        job.news = before

    def each_step(self, step: int, instance: float, prior: float, model: Model) -> None:
        """Note the loss; now and then sample. Raises KeyboardInterrupt, which keeps the run, when the job is
        stopped."""
        self.at = step + 1
        if not self.losses:
            self.job.total = self.job.done + self.steps - step
        self.losses.append(instance)
        every = max(1, self.steps // SEEN)
        if self.at % every == 0 and self.at < self.steps:
            self.sample(model)
        try:
            self.job.moved()
        except Stopped:
            self.sample(model)
            raise KeyboardInterrupt from None
        if self.at % 5 == 0 or self.at == 1:
            self.job.news = self.html()

    def sample(self, model: Model) -> None:
        """One picture of the word as it is now."""
        with torch.no_grad():
            one = generate(model, self.prompt, steps=12, w=3.0, seed=self.seed).picture
        self.figures.append(shown.image(one.cpu(), f"step {self.at}", f"at{self.at}"))
        self.job.news = self.html()

    def html(self) -> str:
        curve = shown.curve(smooth(self.losses), "loss of the subject, averaged", self.steps)
        return self.before + shown.row(self.figures, small=True) + curve


def given_subject(noun: str) -> list[Tensor]:
    """Four pictures of one subject, which no caption can name."""
    rng = random.Random(3)
    subject = sample_subject(rng, noun if noun in SHAPES else "star")
    return list(render_subject(subject, [sample_context(rng) for _ in range(4)]).split(1))


def smooth(losses: list[float], n: int = 10) -> list[float]:
    """Averages of the last n."""
    return [sum(losses[max(0, k - n + 1) : k + 1]) / min(n, k + 1) for k in range(len(losses))]
