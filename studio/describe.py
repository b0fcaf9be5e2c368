"""The tab Describe: say what the picture shows and what it should show. Four methods take the same two texts:
DiffEdit, with its heat map and the threshold that cuts it; FlowEdit; Prompt-to-Prompt, with the table of
which word takes whose map; Text2LIVE, with its layer.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
import torch.nn.functional as F
from torch import Tensor

from palimpsest.arguments import ArgumentError
from palimpsest.cli.deliver import change
from palimpsest.methods.alignment import notes
from palimpsest.methods.diffedit import MaskRule
from palimpsest.methods.prompt_to_prompt import Injection
from palimpsest.methods.text2live import Training, composed
from palimpsest.metrics.image import psnr
from palimpsest.metrics.mask import dilate
from palimpsest.studio import shown
from palimpsest.studio.call import Call, Given, Start
from palimpsest.studio.desk import Answered, Ask, Desk, perform
from palimpsest.studio.examples import first_of
from palimpsest.studio.fields import picture_input, text
from palimpsest.studio.jobs import Job
from palimpsest.studio.pictures import as_mask, pixels_of, upload
from palimpsest.studio.studio import Studio, paints_from_text
from palimpsest.studio.verbs import VERBS

DIFFEDIT, FLOW, WORDS, LIVE = (
    VERBS[name] for name in ("diffedit", "flow_edit", "prompt_to_prompt", "text2live")
)
SUCCEEDS = (0.3, 1)  # threshold and grow with which DiffEdit changes all of the examples' things
HEAT = "heat"  # what is kept of a visitor's last DiffEdit
WALKS = {  # way of inversion -> what it is called; "": none
    "edit-friendly": "the picture's, edit-friendly",
    "direct": "the picture's, direct inversion",
    "ddim": "the picture's, DDIM inversion",
    "null-text": "the picture's, null-text (half a minute)",
    "": "one made from the first text",
}


def describe_tab(studio: Studio) -> None:
    """Build it."""
    desk = Desk(studio, "describe", studio.menu("shapes", "emoji", fits=paints_from_text))
    one = first_of(desk.first)
    with gr.Row(elem_classes=["ps-desk"]):
        with gr.Column():
            picture = picture_input("picture", "describe-picture")
            desk.example_buttons()
            source = text("source", one.source, "describe-source", "what it shows")
            target = text("target", one.target, "describe-target", "what it should show")
            with gr.Tabs():
                buttons = _methods(desk)
            desk.controls("DiffEdit")
        desk.examples(
            [picture, source, target, *buttons["DiffEdit"][1][:2]],
            lambda one: (pixels_of(one.picture), one.source, one.target, *SUCCEEDS),
        )
        with gr.Column():
            desk.results("drop a picture or take an example, say what it shows and should show, and run")
    _wire(studio, desk, [picture, source, target], buttons)


Part = tuple[gr.Tab, list[gr.components.Component]]


def _methods(desk: Desk) -> dict[str, Part]:
    """A tab of settings for each of the four."""
    parts: dict[str, Part] = {}
    with gr.Tab("DiffEdit", id="diffedit", elem_id="describe-diffedit") as tab:
        parts["DiffEdit"] = (
            tab,
            [
                desk.slider(DIFFEDIT, "threshold", of=MaskRule, high=0.99),
                desk.slider(DIFFEDIT, "grow", of=MaskRule, high=4, step=1),
                desk.slider(DIFFEDIT, "ratio", high=1.0),
                desk.slider(DIFFEDIT, "w", low=0.5, high=12, step=0.5),
                desk.slider(DIFFEDIT, "steps", low=5, high=100, step=1),
            ],
        )
    with gr.Tab("FlowEdit", id="flow", elem_id="describe-flow") as tab:
        parts["FlowEdit"] = (
            tab,
            [
                desk.slider(FLOW, "start", high=1.0),
                desk.slider(FLOW, "w_target", low=0, high=16, step=0.5),
                desk.slider(FLOW, "w_source", low=0, high=16, step=0.5),
                desk.slider(FLOW, "steps", low=2, high=60, step=1),
            ],
        )
    with gr.Tab("Prompt-to-Prompt", id="words", elem_id="describe-words") as tab:
        parts["Prompt-to-Prompt"] = tab, _words(desk)
    with gr.Tab("Text2LIVE", id="live", elem_id="describe-live") as tab:
        parts["Text2LIVE"] = (
            tab,
            [
                text(
                    "layer",
                    "a large red star",
                    "describe-layer",
                    "what the layer alone shows, over a green screen",
                ),
                desk.slider(LIVE, "steps", of=Training, low=20, high=1000, step=10, value=100),
            ],
        )
    return parts


def _words(desk: Desk) -> list[gr.components.Component]:
    """The settings of Prompt-to-Prompt."""
    return [
        gr.Radio(
            [(said, way) for way, said in WALKS.items()],
            value="edit-friendly",
            label="whose walk",
            info="a given picture is inverted first; then the seed does not matter",
            elem_id="describe-walk",
        ),
        desk.choice(WORDS, "edit", Injection),
        gr.Slider(
            0,
            1,
            0.4,
            step=0.05,
            label="cross",
            info="of the steps, in which the target looks where the source did",
        ),
        desk.slider(WORDS, "self_", of=Injection, step=0.05, value=0.2),
        desk.slider(WORDS, "w", low=1, high=12, step=0.5, value=2.0),
        desk.slider(WORDS, "steps", low=5, high=60, step=1, value=25),
    ]


def _wire(studio: Studio, desk: Desk, given: list[gr.components.Component], parts: dict[str, Part]) -> None:
    """One run button, which does what the open tab of settings says."""
    now = gr.State("DiffEdit")
    for name, (tab, _) in parts.items():
        tab.select(
            lambda name=name: (name, gr.update(value=name)),
            None,
            [now, desk.go],
            queue=False,
            api_visibility="private",
        )
    works = {"DiffEdit": diffedited, "FlowEdit": flowed, "Prompt-to-Prompt": worded, "Text2LIVE": layered}
    counts = {name: len(fields) for name, (_, fields) in parts.items()}

    def work(job: Job, ask: Ask, name: str, path: str | None, *values: Any) -> str:
        texts, rest = values[:2], list(values[2:])
        for method, n in counts.items():
            mine, rest = rest[:n], rest[n:]
            if method == name:
                return works[method](studio, job, ask, path, *texts, *mine)
        raise ArgumentError("method", f"there is no {name}")

    every = [field for _, fields in parts.values() for field in fields]
    desk.answers([now, *given, *every], work)
    threshold, grow = parts["DiffEdit"][1][:2]

    def cut(request: gr.Request, threshold: float, grow: float) -> Any:
        kept = studio.open(str(request.session_hash), HEAT)
        return gr.skip() if kept is None else heat_html(*kept, threshold, int(grow))

    for knob in (threshold, grow):
        knob.input(
            cut, [threshold, grow], desk.result, queue=False, show_progress="hidden", api_visibility="private"
        )


# ---- DiffEdit ----


def diffedited(
    studio: Studio,
    job: Job,
    ask: Ask,
    path: str | None,
    source: str,
    target: str,
    threshold: float,
    grow: float,
    ratio: float,
    w: float,
    steps: float,
) -> str:
    """The edit, and its heat map, which is kept: the threshold cuts it live."""
    x = upload(path, studio.model(ask.model))
    given = {
        "x": Given.of("picture", x),
        "source": source,
        "target": target,
        "rule": MaskRule(threshold=threshold, grow=int(grow)),
        "ratio": ratio,
        "w": w,
        "steps": int(steps),
        "seed": ask.seed,
    }
    done = perform(job, studio, Call(DIFFEDIT, ask.model, given), {"source": source, "target": target})
    if done.made.empty:
        job.notes.append("the mask is empty, so nothing was edited; lower the threshold")
    studio.keep(ask.visitor, HEAT, (done, x))
    return heat_html(done, x, threshold, int(grow))


def heat_html(done: Answered, x: Tensor, threshold: float, grow: int) -> str:
    """The result beside its heat map, cut at this threshold."""
    made, rule = done.made, done.call.given["rule"]
    cells = dilate((made.heat > threshold).float(), grow)
    mask = F.interpolate(cells, x.shape[-2:])
    heat = F.interpolate(made.heat.float(), x.shape[-2:])
    same = (threshold, grow) == (rule.threshold, rule.grow)
    said = f"edited {mask.mean():.0%} at threshold {threshold:g}" + ("" if same else ": run for this mask")
    figures = [
        shown.image(x, "picture", "before"),
        shown.image(as_mask(heat), "heat: where the texts disagree", "heat"),
        shown.image(as_mask(mask), said, "mask"),
        shown.image(made.picture, f"result at threshold {rule.threshold:g}", "result"),
        done.walk("the walk down"),
    ]
    return done.html(figures)


# ---- the other three ----


def flowed(
    studio: Studio,
    job: Job,
    ask: Ask,
    path: str | None,
    source: str,
    target: str,
    start: float,
    w_target: float,
    w_source: float,
    steps: float,
) -> str:
    """From one caption to the other without inversion."""
    x = upload(path, studio.model(ask.model))
    given = {
        "x": Given.of("picture", x),
        "source": source,
        "target": target,
        "start": start,
        "w_target": w_target,
        "w_source": w_source,
        "steps": int(steps),
        "seed": ask.seed,
    }
    done = perform(job, studio, Call(FLOW, ask.model, given), {"source": source, "target": target})
    return done.html(
        [
            shown.image(x, "picture", "before"),
            shown.image(done.picture, "result", "result"),
            shown.image(change(x, done.picture), "what changed", "changed"),
            done.walk("the picture on its way"),
        ]
    )


def worded(
    studio: Studio,
    job: Job,
    ask: Ask,
    path: str | None,
    source: str,
    target: str,
    way: str,
    edit: str,
    cross: float,
    self_: float,
    w: float,
    steps: float,
) -> str:
    """The picture, or one of the source's words, and what the target's words make of it in its layout; which
    word takes whose map."""
    injection = Injection(edit=edit, cross=cross, self_=self_)
    given = {"source": source, "target": target, "injection": injection}
    x = upload(path, studio.model(ask.model)) if way else None
    if x is None:
        given |= {"steps": int(steps), "w": w, "seed": ask.seed}
    else:
        start = Start(way, Given.of("picture", x), source, int(steps), w)
        given |= {"start": start} | ({"w": w} if way == "ddim" else {})
    done = perform(job, studio, Call(WORDS, ask.model, given), {"source": source, "target": target})
    made = done.made
    back = made.source_picture if x is None else x
    figures = [
        shown.image(back, "the source's picture" if x is None else "picture", "before"),
        shown.image(made.picture, "with the target's words", "result"),
        shown.image(change(back.to(made.picture), made.picture), "what changed", "changed"),
    ]
    if x is not None:
        decibels = psnr(made.source_picture.cpu(), x).item()
        said = f"what comes back without an edit: {decibels:.1f} dB"
        figures.insert(1, shown.image(made.source_picture, said, "back"))
    return done.html(figures, alignment(made.alignments[0]))


def alignment(found: Any) -> str:
    """Which token takes the map of which: the table of `--explain`."""
    word_of = {j: word.text for word in found.target_words for j in range(word.start, word.stop)}
    rows = []
    for j in sorted(word_of):
        origins = found.mapper[:, j].nonzero().flatten().tolist()
        taken = " + ".join(f"{found.mapper[i, j]:.3g} × {found.source_tokens[i]}" for i in origins[:4])
        rows.append((word_of[j], found.target_tokens[j], taken or "none: keeps its own"))
    return shown.table((f"word ({found.edit})", "token", "takes the map of"), rows) + "".join(
        shown.line(one, "note") for one in notes(found)
    )


def layered(
    studio: Studio, job: Job, ask: Ask, path: str | None, source: str, target: str, layer: str, steps: float
) -> str:
    """A layer of colour and opacity, trained on this picture alone."""
    x = upload(path, studio.model(ask.model))
    given = {
        "x": Given.of("picture", x),
        "source": source,
        "target": target,
        "layer": layer,
        "training": Training(steps=int(steps)),
        "seed": ask.seed,
    }
    job.total = int(steps)

    def each_step(step: int, generator: Any) -> None:
        job.moved()
        if step % 10 == 9:
            colours, opacity, over = composed(generator, x)
            job.news = shown.row(_layer(x, colours, opacity, over))

    done = perform(job, studio, Call(LIVE, "shapes-clip", given), each={"each_step": each_step})
    made = done.made
    figures = _layer(x, made.colours, made.opacity, made.picture)
    return done.html(figures, shown.curve(made.losses, "loss"))


def _layer(x: Tensor, colours: Tensor, opacity: Tensor, over: Tensor) -> list[str]:
    return [
        shown.image(x, "picture", "before"),
        shown.image(colours.detach(), "the layer's colours", "colours"),
        shown.image(as_mask(opacity.detach().clamp(0, 1)), "its opacity", "opacity"),
        shown.image(over.detach().clamp(-1, 1), "result", "result"),
    ]
