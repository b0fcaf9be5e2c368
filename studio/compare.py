"""The tab Compare: one picture, every method, and the true edit where the world knows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
import torch

from palimpsest.arguments import ArgumentError
from palimpsest.methods.diffedit import MaskRule
from palimpsest.metrics.image import psnr
from palimpsest.studio import shown
from palimpsest.studio.call import Call, Given
from palimpsest.studio.desk import Answered, Ask, Desk, perform
from palimpsest.studio.examples import EXAMPLES, Example, drawn
from palimpsest.studio.fields import picture_input, text
from palimpsest.studio.jobs import Job
from palimpsest.studio.pictures import pixels_of, upload
from palimpsest.studio.studio import Studio
from palimpsest.studio.verbs import VERBS
from palimpsest.weights.judges import load_reader
from palimpsest.worlds.files import read_picture
from palimpsest.worlds.words import fulfils, wanted

STEPS = 20
TOLD = "shapes-instruct"
Made = Callable[[str, Given, str, str, str, int], Call]  # (model, picture, source, target, instruction, seed)


def by_sdedit(model: str, x: Given, source: str, target: str, told: str, seed: int) -> Call:
    return Call(
        VERBS["sdedit"], model, {"guide": x, "prompt": target, "t0": 0.7, "steps": STEPS, "seed": seed}
    )


def by_diffedit(model: str, x: Given, source: str, target: str, told: str, seed: int) -> Call:
    rule = MaskRule(threshold=0.3, grow=1)
    given = {"x": x, "source": source, "target": target, "rule": rule, "steps": STEPS, "seed": seed}
    return Call(VERBS["diffedit"], model, given)


def by_flow_edit(model: str, x: Given, source: str, target: str, told: str, seed: int) -> Call:
    return Call(VERBS["flow_edit"], model, {"x": x, "source": source, "target": target, "seed": seed})


def by_instruction(model: str, x: Given, source: str, target: str, told: str, seed: int) -> Call:
    return Call(VERBS["instruct_pix2pix"], TOLD, {"x": x, "instruction": told, "steps": STEPS, "seed": seed})


WAYS: dict[str, Made] = {
    "InstructPix2Pix": by_instruction,
    "FlowEdit": by_flow_edit,
    "SDEdit": by_sdedit,
    "DiffEdit": by_diffedit,
}


def compare_tab(studio: Studio) -> None:
    """Build it."""
    desk = Desk(studio, "compare", studio.menu("shapes"))
    one = next(iter(EXAMPLES.values()))
    truth = gr.State(None)
    with gr.Row(elem_classes=["ps-desk"]):
        with gr.Column():
            picture = picture_input("picture", "compare-picture")
            desk.example_buttons()
            another = gr.Button(
                "a scene at random, with one of its edits", size="sm", elem_id="compare-random"
            )
            source = text("source", one.source, "compare-source", "what it shows")
            target = text("target", one.target, "compare-target", "what it should show")
            told = text("instruction", one.instruction, "compare-told", "the same, as an order")
            ways = gr.CheckboxGroup(list(WAYS), value=list(WAYS), label="by", elem_id="compare-ways")
            desk.controls("Compare")
        with gr.Column():
            desk.results("every method on one picture; of an example the true edit is known")
    filled = [picture, source, target, told, truth]
    desk.examples(filled, lambda name: values(EXAMPLES[name]))
    another.click(
        lambda seed: values(drawn(int(seed or 0))), desk.seed, filled, queue=False, api_visibility="private"
    )
    picture.upload(lambda: None, None, truth, queue=False, api_visibility="private")

    def work(job: Job, ask: Ask, ways: list[str], path: str | None, *texts: Any) -> str:
        return compared(studio, job, ask, ways, path, *texts)

    desk.answers([ways, *filled], work)


def values(one: Example) -> tuple[Any, str, str, str, bytes]:
    """What the tab's parts hold for an example; the truth as a file."""
    return pixels_of(one.picture), one.source, one.target, one.instruction, Given.of("truth", one.truth).png


def compared(
    studio: Studio,
    job: Job,
    ask: Ask,
    ways: list[str],
    path: str | None,
    source: str,
    target: str,
    told: str,
    truth: bytes | None,
) -> str:
    """One method after another, each row as soon as it is there."""
    if not ways:
        raise ArgumentError("by", "choose at least one method")
    model = studio.model(ask.model)
    x = upload(path, model)
    given = Given.of("picture", x)
    right = None if truth is None else read_picture(Given("truth.png", truth).pixels, model.size, model.grid)
    figures = [shown.image(x, "picture", "before")]
    if right is not None:
        figures.append(shown.image(right, "the true edit", "truth"))
    rows, more, done = [], "", None
    for k, name in enumerate(ways):
        call = WAYS[name](ask.model, given, source, target, told, ask.seed)
        before = job.elapsed
        done = perform(job, studio, call)
        job.total = len(ways) * job.done // (k + 1)
        decibels = "unknown" if right is None else f"{psnr(done.picture.cpu(), right).item():.1f}"
        said = verdict(done, target)
        rows.append((name, decibels, said, f"{job.elapsed - before:.1f}"))
        figures.append(shown.image(done.picture, f"{name}: {said}", f"result{k}"))
        more += shown.fold(f"{name}: save and copy", done.html([]))
        job.news = (
            shown.row(figures) + shown.table(("method", "dB to the truth", "verdict", "s"), rows) + more
        )
    return job.news


def verdict(done: Answered, target: str) -> str:
    """Whether the reader of the shapes world sees the target in it."""
    try:
        wanted(target)
    except ValueError:
        return "not judged"
    with torch.no_grad():
        seen = load_reader().read(done.picture.float().cpu())[0]
    return "as asked" if fulfils(target, seen) else "not as asked"
