"""What every tab has: the model menu with the words it knows, a seed with a die, run and stop, the line that
says how far it is, and the place for the result.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gradio as gr
from torch import Tensor

from palimpsest.cli.commands.dry_run import calls
from palimpsest.cli.commands.wording import note_wording
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.studio import fields, shown
from palimpsest.studio.call import Call, Verb
from palimpsest.studio.examples import Example, drawn, examples_of
from palimpsest.studio.jobs import Job
from palimpsest.studio.studio import SECONDS, Studio
from palimpsest.weights.model import Model
from palimpsest.worlds.files import png_bytes
from palimpsest.worlds.words import groups

DIE = "() => Math.floor(Math.random() * 100000)"


class Ask(NamedTuple):
    """Who asks, of which model, with which seed."""

    visitor: str
    model: str
    seed: int


class Answered(NamedTuple):
    """What a call made."""

    call: Call
    model: Any
    made: Any
    picture: Tensor
    png: bytes  # with its record

    def html(self, figures: Sequence[str], more: str = "") -> str:
        """The result as the page shows it."""
        return shown.answer(self.call, self.png, figures, more)

    def walk(self, label: str) -> str:
        """Its path, decoded, behind a slider."""
        some = shown.chosen(len(self.made.path))
        frames = [self.model.decode(self.made.path[n][:1]).cpu() for n in some]
        return shown.walk(frames, [f"t = {self.made.levels[n]:.0f}" for n in some], label)


def perform(
    job: Job,
    studio: Studio,
    call: Call,
    texts: Mapping[str, str] | None = None,
    each: Mapping[str, Any] | None = None,
) -> Answered:
    """Do the call, and give the picture and its file with the record. texts: what is remarked on where the
    model may not read it as it is meant. each: callbacks."""
    judged = call.verb.loads[1] == "load_judge"
    model = studio.judge(call.model) if judged else studio.model(call.model)
    if isinstance(model, Model):
        note_wording(model, texts or {}, instructs="instruction" in (texts or {}))
        job.total = max(job.total, job.done + calls(passes_of(call, model)))
    others = {name: studio.model(other) for name, other in call.others.items()}
    with job.watching(model, *others.values()):
        made = call.run(model, {**others, **(each or {})})
    picture = call.shown(model, made)
    return Answered(call, model, made, picture, png_bytes(picture, call.record(model)))


def passes_of(call: Call, model: Model) -> Sequence[Any]:
    """What the command expects of the net. Raises ValueError where it would refuse the call."""
    a = call.options(model) if call.verb.command else argparse.Namespace(**call.given)
    return call.verb.passes(a, model)


def words_of(model: Any) -> dict[str, tuple[str, ...]]:
    """The words that a model knows, by group; of those that read letters, none."""
    tokenizer = getattr(model, "tokenizer", None)
    return groups(tokenizer.words) if isinstance(tokenizer, WordTokenizer) else {}


@dataclass
class Desk:
    """The parts of one tab. names: models that fit it, the first is taken; name: of the tab."""

    studio: Studio
    name: str
    names: Sequence[str]
    seconds: float = SECONDS
    buttons: list[gr.Button] = field(default_factory=list)  # of the examples
    known: gr.HTML | None = None  # the words
    left: list[tuple[Any, Any, str]] = field(default_factory=list)  # knob, contract, name: left to the model
    wired: bool = False

    @property
    def first(self) -> Model:
        """The model that the tab opens with."""
        return self.studio.model(self.names[0])

    def slider(
        self,
        verb: Verb,
        name: str,
        of: Any = None,
        low: float | None = None,
        high: float | None = None,
        step: float = 0.01,
        value: Any = None,
    ) -> gr.Slider:
        """As fields.slider; what is left to the model follows the model that is chosen."""
        knob = fields.slider(verb, name, self.first, of=of, low=low, high=high, step=step, value=value)
        return self._follows(knob, of or verb.function, name) if value is None else knob

    def choice(self, verb: Verb, name: str, of: Any = None) -> gr.Radio:
        """As fields.choice, likewise."""
        return self._follows(fields.choice(verb, name, self.first, of), of or verb.function, name)

    def _follows(self, knob: Any, contract: Any, name: str) -> Any:
        if fields.is_left(contract, name):
            self.left.append((knob, contract, name))
        return knob

    def controls(self, go: str = "Run", seed: bool = True, words: bool = True) -> None:
        """Model, seed, run and stop, and the known words, where they stand in the tab."""
        with gr.Row(elem_classes=["ps-tight"]):
            self.go = gr.Button(
                go, variant="primary", elem_id=f"{self.name}-go", elem_classes=["ps-go"], scale=3
            )
            self.stop = gr.Button("Stop", elem_id=f"{self.name}-stop", elem_classes=["ps-stop"], scale=1)
        with gr.Row(elem_classes=["ps-tight"]):
            self.model = gr.Dropdown(
                [(f"{name} · {self.studio.told(name).split(' to load')[0]}", name) for name in self.names],
                value=self.names[0],
                label="model",
                info=self.studio.told(self.names[0]),
                allow_custom_value=self.studio.local,
                elem_id=f"{self.name}-model",
                scale=3,
                min_width=240,
            )
            self.seed = gr.Number(
                0,
                label="seed",
                precision=0,
                elem_id=f"{self.name}-seed",
                visible=seed,
                scale=1,
                min_width=110,
            )
            die = gr.Button("⚄", elem_id=f"{self.name}-die", visible=seed, scale=0, min_width=56)
        die.click(None, None, self.seed, js=DIE, api_visibility="private")
        self.stop.click(self._stop, None, None, queue=False, api_visibility="private")
        if words:
            with gr.Accordion("words that the model knows", open=False, elem_id=f"{self.name}-words"):
                self.known = gr.HTML(shown.words(words_of(self.first)))

    def results(self, empty: str) -> None:
        """The line and the result."""
        self.line = gr.HTML(shown.line(empty, "note"), elem_id=f"{self.name}-line")
        self.result = gr.HTML("", elem_id=f"{self.name}-result", elem_classes=["ps-result"])

    def example_buttons(self) -> None:
        """A button for each example, here."""
        with gr.Row(elem_classes=["ps-examples"]):
            self.buttons = [
                gr.Button(name, size="sm", elem_classes=["ps-example"]) for name in examples_of(self.first)
            ]

    def examples(self, outputs: Sequence[gr.components.Component], of: Callable[[Example], Any]) -> None:
        """What they do; of: an example -> values of the outputs."""

        def take(k: int) -> Callable[[str], Any]:
            return lambda model: of(list(examples_of(self.studio.model(model)).values())[k])

        for k, button in enumerate(self.buttons):
            button.click(take(k), self.model, list(outputs), queue=False, api_visibility="private")

    def at_random(
        self, button: gr.Button, outputs: Sequence[gr.components.Component], of: Callable[[Example], Any]
    ) -> None:
        """What a button for a scene at random does; which one, the seed decides."""

        def take(model: str, seed: float) -> Any:
            return of(drawn(int(seed or 0), self.studio.model(model)))

        button.click(take, [self.model, self.seed], list(outputs), queue=False, api_visibility="private")

    def answers(
        self,
        inputs: Sequence[gr.components.Component],
        work: Callable[..., Any],
        button: gr.Button | None = None,
        also: Sequence[gr.components.Component] = (),
    ) -> None:
        """Run `work(job, ask, *values)` on a click; it gives the result as HTML, or a tuple of that and
        values for `also`. What it puts into job.news, HTML too, is shown meanwhile."""
        self._wire()
        still = (gr.skip(),) * len(also)

        def answer(request: gr.Request, model: str, seed: float, *values: Any) -> Iterator[tuple[Any, ...]]:
            ask = Ask(str(request.session_hash), model, int(seed or 0))
            told = None
            for job in self.studio.work(ask.visitor, lambda job: work(job, ask, *values), self.seconds):
                if not job.finished.is_set():
                    news, told = (gr.skip() if job.news is told else job.news), job.news
                    yield shown.bar(job.share, job.said), news, *still
            if job.error is not None:
                kind = "note" if job.error.startswith("stopped") else "wrong"
                yield shown.line(job.error, kind, job.notes), gr.skip(), *still
            else:
                said = f"done in {job.elapsed:.1f} s, {job.done} evaluations of the net"
                yield shown.line(said, "done", job.notes), *(job.result if also else (job.result,))

        (button or self.go).click(
            answer,
            [self.model, self.seed, *inputs],
            [self.line, self.result, *also],
            concurrency_id="studio",
            concurrency_limit=8,
            show_progress="hidden",
            api_visibility="private",
        )

    def _stop(self, request: gr.Request) -> None:
        self.studio.stop(str(request.session_hash))

    def _wire(self) -> None:
        """Once: what follows the model that is chosen."""
        if self.wired:
            return
        self.wired, knobs = True, [knob for knob, *_ in self.left]
        outputs = [self.model, *([self.known] if self.known else []), *self.buttons, *knobs]
        self.model.change(self._chosen, self.model, outputs, queue=False, api_visibility="private")

    def _chosen(self, name: str) -> list[Any]:
        """What the model weighs, its words, its examples, and the values that it recommends."""
        told = gr.update(info=self.studio.told(name))
        try:
            model = self.studio.model(name)
        except (ValueError, OSError) as error:
            rest = [gr.skip()] * (len(self.buttons) + len(self.left))
            return [told, *([shown.line(str(error), "wrong")] if self.known else []), *rest]
        words = [shown.words(words_of(model))] if self.known else []
        names = [gr.update(value=said) for said in examples_of(model)] if self.buttons else []
        return [told, *words, *names, *(fields.usual(of, part, model) for _, of, part in self.left)]
