"""How diffusion models edit pictures: each method written from scratch in pure PyTorch, with small
trained models.

    from palimpsest import load, read_picture, sdedit, write_picture

    model = load("shapes")
    x = read_picture("star.png", size=model.size, grid=model.grid)
    edit = sdedit(model, x, "a large red star on a blue background", t0=.6, seed=0)
    write_picture(edit.picture, "red.png")

The names below are imported when they are first used, so that `import palimpsest` itself is quick.
Everything else is one level deeper: `palimpsest.samplers.ddim`, `palimpsest.nets.unet`,
`palimpsest.worlds.shapes`, …"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palimpsest.methods.diffedit import diffedit, find_mask
    from palimpsest.methods.dreambooth import dreambooth
    from palimpsest.methods.flow_edit import flow_edit
    from palimpsest.methods.glide import glide, inpaint
    from palimpsest.methods.instruct_pix2pix import instruct_pix2pix
    from palimpsest.methods.inversion import invert, redo
    from palimpsest.methods.learner import Course
    from palimpsest.methods.null_text import null_text
    from palimpsest.methods.prior import Prior
    from palimpsest.methods.prompt_to_prompt import prompt_to_prompt
    from palimpsest.methods.rf_inversion import rf_inversion
    from palimpsest.methods.sampling import generate
    from palimpsest.methods.sdedit import sdedit
    from palimpsest.methods.sweep import sheet, sweep
    from palimpsest.methods.text2live import text2live
    from palimpsest.methods.textual_inversion import textual_inversion
    from palimpsest.weights.load import load
    from palimpsest.weights.model import Model
    from palimpsest.weights.public.checkpoint import save
    from palimpsest.worlds.files import read_picture, write_picture

__version__ = "0.2.0"

# Torch reads this when it is first imported. Its threads wait for one another thousands of times a second, by
# default in busy loops; where another program wants a core, an edit then takes 3 to 50 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOME = {  # name -> the module that it comes from
    "load": "weights.load",
    "save": "weights.public.checkpoint",
    "Model": "weights.model",
    "read_picture": "worlds.files",
    "write_picture": "worlds.files",
    "generate": "methods.sampling",
    "sdedit": "methods.sdedit",
    "diffedit": "methods.diffedit",
    "find_mask": "methods.diffedit",
    "prompt_to_prompt": "methods.prompt_to_prompt",
    "null_text": "methods.null_text",
    "flow_edit": "methods.flow_edit",
    "rf_inversion": "methods.rf_inversion",
    "invert": "methods.inversion",
    "redo": "methods.inversion",
    "instruct_pix2pix": "methods.instruct_pix2pix",
    "glide": "methods.glide",
    "inpaint": "methods.glide",
    "dreambooth": "methods.dreambooth",
    "Course": "methods.learner",
    "Prior": "methods.prior",
    "text2live": "methods.text2live",
    "textual_inversion": "methods.textual_inversion",
    "sweep": "methods.sweep",
    "sheet": "methods.sweep",
}

__all__ = [
    "Course",
    "Model",
    "Prior",
    "diffedit",
    "dreambooth",
    "find_mask",
    "flow_edit",
    "generate",
    "glide",
    "inpaint",
    "instruct_pix2pix",
    "invert",
    "load",
    "null_text",
    "prompt_to_prompt",
    "read_picture",
    "redo",
    "rf_inversion",
    "save",
    "sdedit",
    "sheet",
    "sweep",
    "text2live",
    "textual_inversion",
    "write_picture",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'palimpsest' has no attribute {name!r}")
    value = getattr(import_module(f"palimpsest.{_HOME[name]}"), name)
    globals()[name] = value  # the next access finds it at once
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
