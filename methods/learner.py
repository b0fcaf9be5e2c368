"""What the methods that train share before and after: what was given is checked, and the model that
learns is one of its own.

The given Model is never changed. DreamBooth (arXiv:2208.12242v2), LoRA (arXiv:2106.09685v2) and Textual
Inversion (arXiv:2208.01618v1) differ in what of the copy may move: all of the net, low-rank changes of
its attention, one vector of the text encoder."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from palimpsest.fit.processes import rank_and_world
from palimpsest.fit.settings import Settings
from palimpsest.methods.identifiers import Caution
from palimpsest.nets.tokenizer import UnknownWord
from palimpsest.weights.model import Model


def own_copy(model: Model, checkpointing: bool = False) -> Model:
    """The same model in memory of its own, nothing of it asking for gradients yet."""
    # DreamBooth, Sec. 3.2: the pretrained model goes on being needed, frozen, for its prior
    net, text = (copy.deepcopy(module).eval().requires_grad_(False) for module in (model.net, model.text))
    if checkpointing:
        if not hasattr(net, "recompute"):
            raise ValueError(
                f"checkpointing: a {type(net).__name__} cannot make its activations again; leave it out"
            )
        net.recompute = True
    return replace(model, net=net, text=text)


def finished(new: Model, modules: nn.ModuleDict) -> Model:
    """The bundle with what was learned, ready to sample: frozen, and with its activations kept again."""
    net, text = (modules[name].eval().requires_grad_(False) for name in ("net", "text"))
    if hasattr(net, "recompute"):
        net.recompute = False
    return replace(new, net=net, text=text)


def check_pictures(model: Model, pictures: Tensor | Sequence[Tensor], beside: int = 0) -> Tensor:
    """The pictures (n, 3, y, x) on the model's device; beside: channels that the net sees next to a
    latent's own.

    Raises ValueError for none, different sizes, or a model that cannot learn.
    """
    if len(pictures) == 0:
        raise ValueError("pictures: there are none; give three to five of the one subject")
    if not isinstance(pictures, Tensor):
        sizes = sorted({tuple(p.shape[-2:]) for p in pictures})
        if len(sizes) > 1:
            raise ValueError(
                f"pictures: must be of one size, got {', '.join(f'{x}×{y}' for y, x in sizes)}; crop or scale them to one"
            )
        pictures = torch.cat([p.reshape(1, *p.shape[-3:]) for p in pictures])
    if (
        pictures.ndim != 4
        or pictures.shape[1] != 3
        or pictures.shape[2] % model.grid
        or pictures.shape[3] % model.grid
    ):
        raise ValueError(
            f"pictures: must be (n, 3, y, x) with sides that divide by {model.grid}, got {tuple(pictures.shape)}"
        )
    if model.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"model: fine-tuning needs float32, and this bundle is {model.dtype}; load it in float32"
        )
    if model.beside != beside:
        raise ValueError(
            f"model: the net of {model.name} takes {model.channels + model.beside} channels, more than a latent alone has; choose a "
            "text-to-image model"
        )
    if len(pictures) == 1:  # DreamBooth, Sec. 3.1 takes 3 to 5
        warnings.warn(
            "pictures: only one, so what is the subject and what its surroundings cannot be told apart; three to five are "
            "better",
            Caution,
            stacklevel=3,
        )
    return pictures.to(model.device)


def share(batch: int, pieces: int) -> int:
    """How many of a batch's pictures this process takes. Raises ValueError where that does not come out
    even.
    """
    world = rank_and_world()[1]
    if batch < world or pieces < 1 or batch // world % pieces:
        raise ValueError(
            f"batch: {batch} pictures cannot be shared by {world} processes in {pieces} equal pieces each; choose a multiple"
        )
    return batch // world


def check_course(*, steps: int, lr: float, batch: int, ema: float, accumulate: int, seed: int) -> None:
    """Raises ValueError for a setting of the loop that `fit.loop` would refuse, before the long work that
    comes first.
    """
    Settings(steps=steps, lr=lr, ema=ema, accumulate=accumulate, seed=seed)
    share(batch, accumulate)


def check_square(model: Model, pictures: Tensor, prior_weight: float) -> None:
    """Raises ValueError where prior pictures, which the model makes as it was trained to, would be of
    another size than the subject's.
    """
    if prior_weight > 0 and tuple(pictures.shape[-2:]) != (model.size, model.size):
        y, x = pictures.shape[-2:]
        raise ValueError(
            f"pictures: are {x}×{y} as the model sees them, and its prior pictures {model.size}×{model.size}; take the central "
            "squares (--crop), or prior_weight 0"
        )


def check_class(model: Model, class_noun: str, prior_weight: float) -> None:
    """Raises ValueError for a class noun that the model does not know, and for λ below 0 or without a
    class.
    """
    if not 0 <= prior_weight < math.inf:
        raise ValueError(f"prior_weight: must be a finite number of at least 0, got {prior_weight}")
    if not class_noun.strip() and prior_weight > 0:
        raise ValueError(
            "class_noun: is empty, so there is no class whose prior could be kept; give one, or prior_weight 0"
        )
    try:  # DreamBooth, Sec. 3.2: a coarse class, in known words
        model.tokenizer.encode(class_noun)
    except UnknownWord as error:
        near = f"; the nearest known words are: {', '.join(error.near)}" if error.near else ""
        raise ValueError(
            f'class_noun: the model does not know the word "{error.word}"{near}; choose a word it knows'
        ) from None
