"""Components made of a function's own parameters: range, choices, default and help are those of its
annotation and of its command.
"""

from __future__ import annotations

import inspect
import math
from functools import cache
from typing import Annotated, Any, get_args, get_origin

import gradio as gr

from palimpsest.arguments import Interval, else_of, hints
from palimpsest.cli.main import command_line
from palimpsest.cli.manners import Parser, chosen_from, option_name
from palimpsest.studio.call import Verb
from palimpsest.weights.model import Model


def picture_input(label: str, elem_id: str) -> gr.Image:
    """Where a picture is dropped; its value is the file, which palimpsest reads itself."""
    component = gr.Image(
        label=label,
        elem_id=elem_id,
        type="filepath",
        image_mode=None,
        format="png",
        sources=["upload", "clipboard"],
        buttons=["fullscreen"],
        height=300,
        elem_classes=["ps-crisp"],
    )
    # a subclass would do, but Gradio writes a file beside the module of every subclass
    component.preprocess = lambda payload: None if payload is None else payload.path
    return component


def interval_of(annotation: Any) -> Interval:
    """The range of a number, whatever it is wrapped in."""
    if isinstance(annotation, Interval):
        return annotation
    inside = get_args(annotation) if get_origin(annotation) is not None else ()
    found = [interval_of(one) for one in inside]
    if get_origin(annotation) is Annotated or found:
        for one in found:
            if one != Interval():
                return one
    return Interval()


@cache
def helps(command: str) -> dict[str, str]:
    """Option -> what it does, as the command's help says it, without the default."""
    words = command.split()
    parser = command_line(Parser, words[:1])
    for word in words:
        parser = next(a for a in parser._actions if hasattr(a, "choices") and a.nargs == "A...").choices[word]
    return {a.dest: (a.help or "").split(" (default")[0].split("; ")[0] for a in parser._actions}


def is_left(contract: Any, name: str) -> bool:
    """Whether the value of a parameter is left to the model."""
    return else_of(hints(contract)[name]) is not None


def usual(contract: Any, name: str, model: Model | None) -> Any:
    """The default of a parameter; where it is left to the model, the model's recommendation."""
    annotation = hints(contract)[name]
    if (left := else_of(annotation)) is None:
        return inspect.signature(contract).parameters[name].default
    advice = {} if model is None else model.recommended
    return advice.get(contract.__name__, {}).get(name, left.value)


def slider(
    verb: Verb,
    name: str,
    model: Model | None = None,
    *,
    of: Any = None,
    low: float | None = None,
    high: float | None = None,
    step: float = 0.01,
    value: Any = None,
) -> gr.Slider:
    """A slider for a number; of: the record whose field it is. low, high: where the contract has no bound,
    or a wider one than a class needs."""
    contract = of or verb.function
    bounds = interval_of(hints(contract)[name])
    least = bounds.low + step if bounds.open_low else bounds.low
    most = bounds.high - step if bounds.open_high else bounds.high
    low, high = (end if own is None else own for end, own in ((least, low), (most, high)))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise TypeError(f"{name}: give the slider's ends")
    option = verb.options.get(name, option_name(name)).replace("-", "_")
    return gr.Slider(
        low,
        high,
        value=usual(contract, name, model) if value is None else value,
        step=step,
        label=option_name(name),
        info=helps(verb.command).get(name, helps(verb.command).get(option, "")),
        elem_id=None,
        buttons=["reset"],
    )


def choice(verb: Verb, name: str, model: Model | None = None, of: Any = None) -> gr.Radio:
    """One of a Literal's strings."""
    contract = of or verb.function
    return gr.Radio(
        list(chosen_from(hints(contract)[name])),
        value=usual(contract, name, model),
        label=option_name(name),
        info=helps(verb.command).get(name, ""),
    )


def text(label: str, value: str, elem_id: str, info: str = "") -> gr.Textbox:
    """A text that a model reads."""
    return gr.Textbox(
        value, label=label, info=info or None, elem_id=elem_id, lines=2, max_lines=4, max_length=400
    )
