"""The verbs of the page: which public function each is, and which command does the same."""

from __future__ import annotations

import argparse
from typing import Any

from torch import Tensor

from palimpsest.cli.commands import attention
from palimpsest.cli.commands import diffedit as diffedit_command
from palimpsest.cli.commands import flow_edit as flow_edit_command
from palimpsest.cli.commands import generate as generate_command
from palimpsest.cli.commands import instruct_pix2pix as instruct_command
from palimpsest.cli.commands import invert as invert_command
from palimpsest.cli.commands import null_text as null_text_command
from palimpsest.cli.commands import prompt_to_prompt as words_command
from palimpsest.cli.commands import rf_inversion as rf_inversion_command
from palimpsest.cli.commands import sdedit as sdedit_command
from palimpsest.methods.attention_maps import AttentionMaps, explore
from palimpsest.methods.diffedit import diffedit
from palimpsest.methods.dreambooth import Learned, dreambooth
from palimpsest.methods.flow_edit import flow_edit
from palimpsest.methods.glide import inpaint
from palimpsest.methods.instruct_pix2pix import instruct_pix2pix
from palimpsest.methods.ladder import Rung, ladder
from palimpsest.methods.null_text import NullText, null_text
from palimpsest.methods.prompt_to_prompt import prompt_to_prompt
from palimpsest.methods.rf_inversion import rf_inversion
from palimpsest.methods.sampling import generate
from palimpsest.methods.sdedit import sdedit
from palimpsest.methods.text2live import text2live
from palimpsest.studio.call import Call, Verb
from palimpsest.weights.estimate import Passes
from palimpsest.weights.model import Model
from palimpsest.worlds.files import read_picture


def looked(model: Model, made: AttentionMaps, call: Call) -> Tensor:
    """The sheet that `palimpsest attention` writes."""
    return attention.sheet(made, call.beside["word"], call.beside.get("by"))


def looked_in_python(call: Call) -> str:
    by = call.beside.get("by")
    return f"sheet(made, {call.beside['word']!r}{'' if by is None else f', {by!r}'})"


def came_back(model: Model, made: NullText, call: Call) -> Tensor:
    """What `palimpsest null-text` writes: the picture that the tuned walk leads to."""
    return model.decode(made.z_bar)


def rungs(model: Model, made: list[Rung], call: Call) -> Tensor:
    """The sheet that `palimpsest invert` writes."""
    given: Any = call.given["x"]
    return invert_command.sheet(read_picture(given.pixels, model.size, model.grid), made)


def learned(model: Model, made: Learned, call: Call) -> Tensor:
    """The first picture that `palimpsest dreambooth` writes: of the new word, by the new model."""
    return generate(made.model, made.prompt, steps=25, w=3.0, seed=call.given["course"].seed).picture


def learned_in_python(call: Call) -> str:
    return f"generate(made.model, made.prompt, steps=25, w=3.0, seed={call.given['course'].seed}).picture"


def same(given: str) -> str:
    """The Python that reads a picture as the model sees it."""
    return f'read_picture("{given}", model.size, model.grid)'


def words_passes(a: argparse.Namespace, w: float, model: Model) -> list[Passes]:
    """Of the inversion, where a picture is given, and of the pair."""
    return [*words_command.inverting(a, a.inversion, w), *words_command.editing(a, w, model.latent_shape[1:])]


VERBS = {
    "sdedit": Verb(
        sdedit, "palimpsest", "sdedit", {"guide": ""}, passes=lambda a, model: sdedit_command.passes(a)
    ),
    "instruct_pix2pix": Verb(
        instruct_pix2pix, "palimpsest", "instruct-pix2pix", {"x": ""}, passes=instruct_command.passes
    ),
    "diffedit": Verb(
        diffedit, "palimpsest", "diffedit", {"x": ""}, passes=lambda a, model: diffedit_command.passes(a)
    ),
    "flow_edit": Verb(flow_edit, "palimpsest", "flow-edit", {"x": ""}, passes=flow_edit_command.passes),
    "prompt_to_prompt": Verb(
        prompt_to_prompt,
        "palimpsest",
        "prompt-to-prompt",
        {"source": "", "target": "", "weights": "weight"},
        passes=lambda a, model: words_passes(a, model.settle(generate, dict(w=a.w)), model),
    ),
    "rf_inversion": Verb(
        rf_inversion,
        "palimpsest",
        "rf-inversion",
        {"x": ""},
        passes=lambda a, model: rf_inversion_command.passes(a),
    ),
    "inpaint": Verb(
        inpaint,
        "palimpsest.methods.glide",
        "glide inpaint",
        {"picture": "", "prompts": "prompt"},
        passes=lambda a, model: [Passes("base model, upsampler", int(a.steps) + 27)],
    ),
    "text2live": Verb(
        text2live,
        "palimpsest",
        "text2live",
        {"x": "", "views.n": "views", "views.crop": "view-crop"},
        loads=("palimpsest.weights.judges", "load_judge"),
        model="clip",
    ),
    "generate": Verb(
        generate,
        "palimpsest",
        "generate",
        {"prompts": "prompt"},
        passes=lambda a, model: generate_command.passes(a),
    ),
    "null_text": Verb(
        null_text,
        "palimpsest",
        "null-text",
        {"x": ""},
        shown=came_back,
        source=lambda call: "model.decode(made.z_bar)",
        passes=lambda a, model: null_text_command.tuned_passes(a),
    ),
    "ladder": Verb(
        ladder,
        "palimpsest.methods.ladder",
        "invert",
        {"x": ""},
        shown=rungs,
        source=lambda call: f"sheet({same(call.given['x'].name)}, made)",
        needs={"palimpsest": ["read_picture"], "palimpsest.cli.commands.invert": ["sheet"]},
        passes=lambda a, model: invert_command.passes(a),
    ),
    "explore": Verb(
        explore,
        "palimpsest.methods.attention_maps",
        "attention",
        {"prompts": "prompt"},
        shown=looked,
        source=looked_in_python,
        needs={"palimpsest.cli.commands.attention": ["sheet"]},
        passes=lambda a, model: attention.passes(a, model, model.latent_shape[1:]),
    ),
    "dreambooth": Verb(
        dreambooth,
        "palimpsest",
        "dreambooth",
        {"pictures": "", "prior.n": "n-prior", "prior.steps": "prior-steps", "prior.weight": "prior-weight"},
        shown=learned,
        source=learned_in_python,
        needs={"palimpsest": ["generate"]},
        out="mine",
    ),
}
