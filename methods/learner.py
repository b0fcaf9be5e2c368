"""What the methods that train share: how they learn, what they are given, and a copy of the model to train.

The given Model is never changed. DreamBooth (arXiv:2208.12242v2), LoRA (arXiv:2106.09685v2) and Textual
Inversion (arXiv:2208.01618v1) differ in what of the copy is trained: all of the net, low-rank changes of
its attention, one vector of the text encoder.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor, nn

from palimpsest.arguments import ArgumentError, Caution, Count, Picture, Positive, Seed, check, wrong
from palimpsest.fit.processes import rank_and_world
from palimpsest.fit.settings import Decay
from palimpsest.methods.inputs import given_picture
from palimpsest.nets.tokenizer import UnknownWord
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.changes import merged_model
from palimpsest.weights.model import Model

Weight = Callable[[Schedule, Tensor, Tensor], Tensor]  # (schedule, t (b,), like (b c y x)) -> w_t (b 1 1 1)


@dataclass(frozen=True)
class Course:
    """How a subject is learned: the settings of the training loop."""

    steps: Count = 400
    lr: Positive = 1e-4  # of AdamW, at the first step; the paper's 5e-6 is Stable Diffusion's
    batch: Count = 4  # pictures of the subject in a step, and as many of the prior
    weight: Weight | None = None  # w_t of Eq. (9): of ε, of v, of x; None: what the net was trained with
    ema: Decay = 0.0  # decay of a moving average of the weights, which is then what comes back; 0 is off
    accumulate: Count = 1  # pieces that a batch is taken in: less memory
    checkpointing: bool = False  # make the net's activations again on the way back: less memory, more time
    seed: Seed = 0  # of pictures, times and noise
    # called after each step with its number, both terms of Eq. (9), and the model in training, which may be
    # sampled from and not kept; what it raises ends the run
    each_step: Callable[[int, float, float, Model], object] | None = None

    def __post_init__(self) -> None:
        check(Course, vars(self))
        if self.weight is not None and not callable(self.weight):
            raise ArgumentError("weight", "must be a function such as methods.dreambooth.snr_weight, or None")
        world = rank_and_world()[1]
        if self.batch % (world * self.accumulate):
            raise ArgumentError(
                "batch",
                f"{self.batch} pictures cannot be shared by {world} processes in {self.accumulate} equal "
                "pieces each; choose a multiple",
            )

    @property
    def own_batch(self) -> int:
        """How many of a batch's pictures this process takes."""
        return self.batch // rank_and_world()[1]


# ---- a copy of the model ----


def frozen_copy(model: Model, checkpointing: bool = False) -> Model:
    """The same model in memory of its own, low-rank changes put into its maps; nothing of it asks for
    gradients yet.

    Raises ArgumentError for checkpointing of a net that cannot make its activations again.
    """
    model = merged_model(model)
    # DreamBooth, Sec. 3.2: the pretrained model goes on being needed, frozen, for its prior
    net, text = (copy.deepcopy(module).eval().requires_grad_(False) for module in (model.net, model.text))
    if checkpointing:
        if not hasattr(net, "recompute"):
            raise ArgumentError(
                "checkpointing", f"a {type(net).__name__} cannot make its activations again; leave it out"
            )
        net.recompute = True
    return replace(model, net=net, text=text)


def with_trained(model: Model, modules: nn.ModuleDict) -> Model:
    """The model with the trained "net" and "text", ready to sample: frozen, its activations kept again."""
    net, text = (modules[name].eval().requires_grad_(False) for name in ("net", "text"))
    if hasattr(net, "recompute"):
        net.recompute = False
    return replace(model, net=net, text=text)


# ---- what is given ----


def given_pictures(model: Model, pictures: Picture | Sequence[Picture], beside: int = 0) -> Tensor:
    """The pictures of the subject as one tensor (n, 3, y, x), on the model's device.

    pictures: a tensor (n, 3, y, x), or a sequence of tensors (3, y, x) or (1, 3, y, x), paths and PIL images.
    beside: channels that the net sees next to a latent's own. Warns (Caution) of a single picture. Raises
    ArgumentError for none, for different sizes, and for a model that cannot be tuned.
    """
    if not isinstance(pictures, (str, Path, Image)) and not len(pictures):
        raise ArgumentError("pictures", "there are none; give three to five of the one subject")
    found = []
    for one in [pictures] if isinstance(pictures, (Tensor, str, Path, Image)) else pictures:
        one = one[None] if isinstance(one, Tensor) and one.ndim == 3 else one
        if (text := wrong(Picture, one)) is not None:
            raise ArgumentError("pictures", text)
        found.append(given_picture(model, one))
    sizes = sorted({tuple(x.shape[-2:]) for x in found})
    if len(sizes) > 1:
        raise ArgumentError(
            "pictures",
            f"must be of one size, got {', '.join(f'{x}×{y}' for y, x in sizes)}; crop or scale them to one",
        )
    x = torch.cat(found)
    if x.shape[2] % model.grid or x.shape[3] % model.grid:
        raise ArgumentError(
            "pictures", f"must be (n, 3, y, x) with sides that divide by {model.grid}, got {tuple(x.shape)}"
        )
    check_can_be_tuned(model, beside)
    if len(x) == 1:  # DreamBooth, Sec. 3.1 takes 3 to 5
        warnings.warn(
            "pictures: only one, so what is the subject and what its surroundings cannot be told apart; "
            "three to five are better",
            Caution,
            stacklevel=3,
        )
    return x


def check_can_be_tuned(model: Model, beside: int = 0) -> None:
    """Raises ArgumentError for a model in half precision, or a net with other input channels than a latent's.

    beside: further channels that it may have.
    """
    if model.dtype not in (torch.float32, torch.float64):
        raise ArgumentError(
            "model", f"fine-tuning needs float32, and {model.name} is {model.dtype}; load it in float32"
        )
    if model.beside != beside:
        raise ArgumentError(
            "model",
            f"the net of {model.name} takes {model.channels + model.beside} channels, more than a latent "
            "alone has; choose a text-to-image model",
        )


def check_class_noun(model: Model, class_noun: str) -> None:
    """Raises ArgumentError for a class noun that the model does not know."""
    try:  # DreamBooth, Sec. 3.2: a coarse class, in known words
        model.tokenizer.encode(class_noun)
    except UnknownWord as error:
        raise ArgumentError(
            "class_noun", f'the model does not know the word "{error.word}"; {error.advice}'
        ) from None


def check_prior_can_be_kept(model: Model, pictures: Tensor, class_noun: str) -> None:
    """Raises ArgumentError where there is no class, or its prior pictures would be of another size.

    The model makes prior pictures of the size that it was trained on.
    """
    if not class_noun.strip():
        raise ArgumentError(
            "class_noun",
            "is empty, so there is no class whose prior could be kept; give one, or set the prior's weight "
            "to 0",
        )
    if tuple(pictures.shape[-2:]) != (model.size, model.size):
        y, x = pictures.shape[-2:]
        raise ArgumentError(
            "pictures",
            f"are {x}×{y} as the model sees them, and its prior pictures {model.size}×{model.size}; take the "
            "central squares (--crop), or set the prior's weight to 0",
        )
