"""The tab Paint: strokes become a picture (SDEdit)."""

from __future__ import annotations

from typing import Any

import gradio as gr
from torch import Tensor

from palimpsest.studio import shown
from palimpsest.studio.call import Call, Given
from palimpsest.studio.desk import Ask, Desk, perform
from palimpsest.studio.examples import Example, first_of
from palimpsest.studio.fields import text
from palimpsest.studio.jobs import Job
from palimpsest.studio.pictures import CANVAS, as_mask, marked, on_canvas, painted
from palimpsest.studio.studio import Studio, denoises_under_text
from palimpsest.studio.verbs import VERBS
from palimpsest.worlds.drawing import simulate_strokes
from palimpsest.worlds.scene import COLOURS

SDEDIT = VERBS["sdedit"]


def paints() -> list[str]:
    """The world's palette, as a brush has it."""
    return ["#" + "".join(f"{round(255 * c):02x}" for c in rgb) for rgb in COLOURS.values()]


def canvas(label: str, elem_id: str, first: Tensor | None = None, marks: bool = False) -> gr.ImageEditor:
    """A canvas to paint on, or to mark on in one colour; it begins with the picture `first`."""
    mask = marks or first is None
    brush = gr.Brush(
        default_size=150 if mask else 44,
        colors=["#ff2fd0"] if mask else paints(),
        default_color="#ff2fd0" if mask else paints()[0],
        color_mode="fixed",
    )
    return gr.ImageEditor(
        None if first is None else on_canvas(first),
        label=label,
        elem_id=elem_id,
        type="pil",
        format="png",
        canvas_size=(CANVAS, CANVAS),
        fixed_canvas=True,
        brush=brush,
        eraser=gr.Eraser(default_size=60),
        layers=False,
        sources=() if first is None else ("upload", "clipboard"),
        transforms=(),
        buttons=[],
        height=410,
        elem_classes=["ps-crisp", "ps-canvas"],
    )


def paint_tab(studio: Studio) -> None:
    """Build it."""
    desk = Desk(studio, "paint", studio.menu("shapes", "shapes-glide", "emoji", fits=denoises_under_text))
    with gr.Row(elem_classes=["ps-desk"]):
        with gr.Column():
            crude, target = example(first_of(desk.first))
            painting = canvas("painting", "paint-canvas", crude)
            desk.example_buttons()
            prompt = text("prompt", target, "paint-prompt", "what it should be, in words")
            t0 = desk.slider(SDEDIT, "t0")
            desk.controls("Make it real")
            with gr.Accordion("more", open=False):
                w = desk.slider(SDEDIT, "w", low=0, high=12, step=0.5)
                repeats = desk.slider(SDEDIT, "repeats", low=1, high=5, step=1)
                steps = desk.slider(SDEDIT, "steps", low=2, high=100, step=1)
                walk = desk.choice(SDEDIT, "walk")
            with gr.Accordion("change only a part: mark what may change", open=False) as part:
                mask = canvas("mask", "paint-mask")
        desk.examples([painting, prompt], lambda one: (on_canvas(example(one)[0]), one.target))
        with gr.Column():
            desk.results("paint a stroke, say what it is, and run: the noise hides the crude part of it")
    part.expand(shown_again, painting, mask, queue=False, api_visibility="private")
    inputs = [painting, mask, prompt, t0, w, repeats, steps, walk]

    def work(job: Job, ask: Ask, *values: Any) -> str:
        return edited(studio, job, ask, *values)

    desk.answers(inputs, work)


def example(one: Example) -> tuple[Tensor, str]:
    """A crude painting of it, and what it should become."""
    return simulate_strokes(one.picture), one.target


def shown_again(painting: Any) -> Any:
    """The painting under the mask's brush."""
    ground = None if painting is None else painting.get("composite")
    return gr.skip() if ground is None else {"background": ground, "layers": [], "composite": ground}


def edited(
    studio: Studio,
    job: Job,
    ask: Ask,
    painting: Any,
    mask: Any,
    prompt: str,
    t0: float,
    w: float,
    repeats: float,
    steps: float,
    walk: str,
) -> str:
    """SDEdit of the painting."""
    model = studio.model(ask.model)
    guide, region = painted(painting, model), marked(mask, model)
    given = {
        "guide": Given.of("painting", guide),
        "prompt": prompt,
        "t0": t0,
        **({} if region is None else {"mask": Given.of("mask", as_mask(region))}),
        "w": w,
        "repeats": int(repeats),
        "steps": int(steps),
        "walk": walk,
        "seed": ask.seed,
    }
    done = perform(job, studio, Call(SDEDIT, ask.model, given), {"prompt": prompt})
    figures = [
        shown.image(guide, "painting", "before"),
        shown.image(done.picture, f"result, σ {done.made.sigma:.2f} at t0 {t0:g}", "result"),
        done.walk("the walk"),
    ]
    if region is not None:
        figures.insert(1, shown.image(as_mask(region), "mask: white may change", "mask"))
    return done.html(figures)
