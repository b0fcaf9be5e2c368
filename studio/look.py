"""The tab Look: hover a word and see where it looks, over all layers, heads and steps or by one of them."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from palimpsest.cli.deliver import frames_of
from palimpsest.methods.attention_maps import AttentionMaps
from palimpsest.studio import shown
from palimpsest.studio.call import Call
from palimpsest.studio.desk import Ask, Desk, perform
from palimpsest.studio.examples import first_of
from palimpsest.studio.fields import text
from palimpsest.studio.jobs import Job
from palimpsest.studio.studio import Studio, paints_from_text
from palimpsest.studio.verbs import VERBS
from palimpsest.worlds.files import png_bytes

EXPLORE = VERBS["explore"]
ALL = "all together"


def look_tab(studio: Studio) -> None:
    """Build it."""
    desk = Desk(studio, "look", studio.menu("shapes", "emoji", fits=paints_from_text))
    with gr.Row(elem_classes=["ps-desk"]):
        with gr.Column():
            prompt = text("prompt", first_of(desk.first).source, "look-prompt", "what the picture shows")
            desk.example_buttons()
            by = gr.Radio([ALL, "layer", "head", "step"], value=ALL, label="by", elem_id="look-by")
            desk.controls("Look")
            with gr.Accordion("more", open=False):
                steps = desk.slider(EXPLORE, "steps", low=2, high=50, step=1, value=20)
        with gr.Column():
            desk.results("a picture is generated; then hover its words, or go through them by Tab")
    desk.examples([prompt], lambda one: one.source)

    def work(job: Job, ask: Ask, *values: Any) -> str:
        return looked(studio, job, ask, *values)

    desk.answers([prompt, by, steps], work)


def looked(studio: Studio, job: Job, ask: Ask, prompt: str, by: str, steps: float) -> str:
    """A picture, and where each of its words looked."""
    model = studio.model(ask.model)
    given = {"prompts": prompt, "steps": int(steps), "seed": ask.seed}
    read = model.tokenizer
    words = list(dict.fromkeys(read.decode(piece) for piece in read.pieces(read.put(prompt))))
    beside: dict[str, Any] = {"word": words} | ({} if by == ALL else {"by": by})
    done = perform(job, studio, Call(EXPLORE, ask.model, given, beside), {"prompt": prompt})
    sheet = shown.fold(
        "the sheet that is saved", shown.row([shown.image(done.png, "sheet", "result", wide=True)])
    )
    return done.html([], looks(done.made, words, by) + sheet)


def looks(maps: AttentionMaps, words: list[str], by: str) -> str:
    """One picture, and the words whose maps it shows: a row of them for each layer, head or step."""
    plain = png_bytes(maps.pictures[:1].cpu())
    rows = []
    for label, part in parts_of(maps, by).items():
        buttons = []
        for word in words:
            png = shown.data_of(png_bytes(maps.overlay(word, **part).cpu()))
            m = maps.word_map(word, **part)
            where = word if by == ALL else f"{word}, {label}"
            said = f"{where}: {m.max():.0%} at most, spread {maps.entropy(word, **part):.2f}"
            buttons.append(
                f'<button type="button" class="ps-look" data-map="{png}" data-said="{escape(said)}">'
                f"{escape(word)}</button>"
            )
        rows.append(f"<div>{'' if by == ALL else f'<b>{escape(label)}</b> '}{''.join(buttons)}</div>")
    return (
        f'<div data-look><figure class="ps-figure" data-part="map"><img src="{shown.data_of(plain)}" '
        f'alt="where the word looks"><figcaption><output>hover a word</output></figcaption></figure>'
        f"{''.join(rows)}</div>"
    )


def parts_of(maps: AttentionMaps, by: str) -> dict[str, dict[str, Any]]:
    """Label -> which layer, head or step."""
    if by == "layer":
        return {name: dict(layer=name) for name in dict.fromkeys(s.name for s in maps.cross_attention)}
    if by == "head":
        heads = len(next(iter(maps.cross_attention.values()))[0])
        return {f"head {h}": dict(head=h) for h in range(heads)}
    if by == "step":
        return {f"t = {maps.levels[i]:.0f}": dict(step=i) for i in frames_of(len(maps.by_step) - 1)}
    return {"": {}}
