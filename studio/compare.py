"""The tab Compare: one picture, every method, and the true edit where the world knows it.

Each method has what the scoreboards found best for most kinds of edit (docs/shapes.md): what is left out is
what the model's file recommends.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import gradio as gr
import torch
from torch import Tensor

from palimpsest.arguments import ArgumentError
from palimpsest.cli.commands.dry_run import calls
from palimpsest.methods.prompt_to_prompt import Injection
from palimpsest.methods.text2live import Training, Views
from palimpsest.metrics.image import psnr
from palimpsest.studio import shown
from palimpsest.studio.call import Call, Given, Other, Start
from palimpsest.studio.desk import Answered, Ask, Desk, passes_of, perform
from palimpsest.studio.examples import Example, first_of
from palimpsest.studio.fields import picture_input, text
from palimpsest.studio.jobs import Job
from palimpsest.studio.pictures import as_mask, pixels_of, upload
from palimpsest.studio.studio import Studio, paints_from_text
from palimpsest.studio.verbs import VERBS
from palimpsest.weights.judges import load_reader
from palimpsest.worlds.files import read_picture
from palimpsest.worlds.words import fulfils, wanted

STEPS = 12  # of a whole walk, whatever the method: as on the scoreboard
TOLD = {"shapes": "shapes-instruct", "emoji": "emoji-instruct"}  # what follows instructions beside it
FILLS, UP = "shapes-glide-inpaint", "shapes-glide-upsampler-inpaint"
LAYER_STEPS = 100
UNJUDGED = "not judged"


class Question(NamedTuple):
    """What every method is asked."""

    model: str
    x: Given
    source: str
    target: str
    told: str  # the same as an order
    place: Given | None  # what the true edit changes, white
    seed: int


def by_sdedit(q: Question) -> Call:
    given = {"guide": q.x, "prompt": q.target, "steps": STEPS, "seed": q.seed}
    return Call(VERBS["sdedit"], q.model, given)


def by_glide(q: Question) -> Call | str:
    if q.place is None or q.model not in TOLD:
        return "needs the place, which only examples of the shapes world tell"
    given = {"picture": q.x, "mask": q.place, "prompts": q.target, "upsampler": Other(UP), "w": 1.5}
    return Call(VERBS["inpaint"], FILLS, given | {"steps": "25", "seed": q.seed})


def by_diffedit(q: Question) -> Call:
    given = {"x": q.x, "source": q.source, "target": q.target, "steps": STEPS, "seed": q.seed}
    return Call(VERBS["diffedit"], q.model, given)


def by_words(q: Question, way: str, w: float = 2.0, cross: float = 0.4, self_: float = 0.2) -> Call:
    """Prompt-to-Prompt on the picture, by that inversion."""
    start = Start(way, q.x, q.source, STEPS, w)
    given = {"source": q.source, "target": q.target, "injection": Injection(cross=cross, self_=self_)}
    return Call(
        VERBS["prompt_to_prompt"], q.model, given | {"start": start} | ({"w": w} if way == "ddim" else {})
    )


def by_rf_inversion(q: Question) -> Call:
    given = {"x": q.x, "target": q.target, "steps": STEPS, "seed": q.seed}
    return Call(VERBS["rf_inversion"], q.model, given)


def by_flow_edit(q: Question) -> Call:
    given = {"x": q.x, "source": q.source, "target": q.target, "steps": STEPS, "seed": q.seed}
    return Call(VERBS["flow_edit"], q.model, given)


def by_instruction(q: Question) -> Call | str:
    if q.model not in TOLD:
        return f"no model that follows instructions belongs to {q.model}"
    given = {"x": q.x, "instruction": q.told, "steps": STEPS, "seed": q.seed}
    return Call(VERBS["instruct_pix2pix"], TOLD[q.model], given)


def by_layer(q: Question) -> Call | str:
    if q.model not in TOLD:
        return f"no CLIP belongs to {q.model}"
    thing = q.target.split(" on ")[0]
    given = {"x": q.x, "source": q.source, "target": q.target, "layer": f"{thing} on a green background"}
    given |= {"training": Training(steps=LAYER_STEPS, bootstrap=50), "views": Views(n=4)}
    return Call(VERBS["text2live"], f"{q.model}-clip", given | {"seed": q.seed})


WAYS: dict[str, Callable[[Question], Call | str]] = {
    "SDEdit": by_sdedit,
    "InstructPix2Pix": by_instruction,
    "FlowEdit": by_flow_edit,
    "DiffEdit": by_diffedit,
    "DDIM inversion": partial(by_words, way="ddim", w=3.0, cross=0.0, self_=0.0),
    "RF-Inversion": by_rf_inversion,
    "Prompt-to-Prompt, direct inversion": partial(by_words, way="direct"),
    "Prompt-to-Prompt, edit-friendly": partial(by_words, way="edit-friendly"),
    "GLIDE inpainting": by_glide,
    "Prompt-to-Prompt, null-text": partial(by_words, way="null-text"),
    "Text2LIVE": by_layer,
}
SLOW = ("Text2LIVE",)


class Known(NamedTuple):
    """The true edit of a picture, as files, and the texts that it is the edit of."""

    truth: Given
    place: Given | None
    source: str
    target: str


def compare_tab(studio: Studio) -> None:
    """Build it."""
    desk = Desk(studio, "compare", studio.menu("shapes", "emoji", fits=paints_from_text))
    one = first_of(studio.model(desk.names[0]))
    known = gr.State(None)
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
            desk.controls("Compare")
            some = [name for name in WAYS if name not in SLOW]
            ways = gr.CheckboxGroup(
                list(WAYS), value=some, label="by", info="Text2LIVE takes ten seconds", elem_id="compare-ways"
            )
        with gr.Column():
            desk.results("every method on one picture; of an example the true edit is known")
    filled = [picture, source, target, told, known]
    desk.examples(filled, values)
    desk.at_random(another, filled, values)
    picture.upload(lambda: None, None, known, queue=False, api_visibility="private")

    def work(job: Job, ask: Ask, ways: list[str], path: str | None, *rest: Any) -> str:
        return compared(studio, job, ask, ways, path, *rest)

    desk.answers([ways, *filled], work)


def values(one: Example) -> tuple[Any, str, str, str, Known]:
    """What the tab's parts hold for an example."""
    place = None if one.place is None else Given.of("mask", as_mask(one.place))
    known = Known(Given.of("truth", one.truth), place, one.source, one.target)
    return pixels_of(one.picture), one.source, one.target, one.instruction, known


def compared(
    studio: Studio,
    job: Job,
    ask: Ask,
    ways: list[str],
    path: str | None,
    source: str,
    target: str,
    told: str,
    known: Known | None,
) -> str:
    """One method after another, each row as soon as it is there."""
    if not ways:
        raise ArgumentError("by", "choose at least one method")
    model = studio.model(ask.model)
    x = upload(path, model)
    if known is not None and (known.source, known.target) != (source, target):
        known = None  # another edit was asked for
    right = None if known is None else read_picture(known.truth.pixels, model.size, model.grid)
    place = None if known is None else known.place
    question = Question(ask.model, Given.of("picture", x), source, target, told, place, ask.seed)
    asked = {name: WAYS[name](question) for name in WAYS if name in ways}
    job.total = sum(of_net(studio, call) for call in asked.values() if isinstance(call, Call))
    figures = [shown.image(x, "picture", "before")]
    if right is not None:
        figures.append(shown.image(right, "the true edit", "truth"))
    rows, more = [], ""
    for k, (name, call) in enumerate(asked.items()):
        if isinstance(call, str):
            rows.append((name, "–", call, "–"))
        else:
            before, words = job.elapsed, None if rows else {"source": source, "target": target}
            done = perform(job, studio, call, words)
            said = verdict(done, target)
            rows.append((name, decibels(done, right), said, f"{job.elapsed - before:.1f}"))
            caption = name if said == UNJUDGED else f"{name}: {said}"
            figures.append(shown.image(done.picture, caption, f"result{k}"))
            more += shown.fold(f"{name}: save and copy", done.html([]))
        table = shown.table(("method", "dB to the truth", "the reader says", "s"), rows)
        job.news = shown.row(figures, small=True) + table + more
    return job.news


def of_net(studio: Studio, call: Call) -> int:
    """How many evaluations of a diffusion model the call takes."""
    return calls(passes_of(call, studio.model(call.model))) if call.verb.loads[1] == "load" else 0


def decibels(done: Answered, right: Tensor | None) -> str:
    """PSNR to the true edit."""
    return "unknown" if right is None else f"{psnr(done.picture.cpu(), right).item():.1f}"


def verdict(done: Answered, target: str) -> str:
    """Whether the reader of the shapes world sees the target in it."""
    try:
        wanted(target)
    except ValueError:
        return UNJUDGED
    with torch.no_grad():
        seen = load_reader().read(done.picture.float().cpu())[0]
    return "as asked" if fulfils(target, seen) else "not as asked"
