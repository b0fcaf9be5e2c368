"""DreamBooth's second stage (Ruiz et al., arXiv:2208.12242v2, supplementary material): the upsampler
learns the subject, too.

A cascade paints small and enlarges. An upsampler that never saw the subject makes up its fine detail from
others of its class. So it is tuned on the same few pictures, each beside itself made small, under the
same words. While it is tuned, less noise is added to the small picture ("noise augmentation") than when it
was trained: with much of it the net learns not to trust the small picture, and paints blurs.

    1  for each step:
    2    x_low ← x made small, 8 bits  +  aug · noise
    3    θ ← AdamW on  w_t ‖x̂_θ(α_t x + σ_t ε, x_low, c) − x‖²                  Eq. (9), its first term

    paper        code
    c            "a [V] [class noun]"
    aug          aug, a standard deviation of pictures in [−1, 1]; the paper lowers it from 1e-3 to 1e-5, in
                 a unit that it does not name

There is no prior term: what a class looks like the small picture says. The learnt variances
(arXiv:2102.09672v1) are not tuned: a walk with eta = 0, as `methods.glide.upsample` takes, does not ask
for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.arguments import ArgumentError, Interval, Picture, check
from palimpsest.methods.dreambooth import Examples, Learned, Weight, trainable_copy, tune, weighted_error
from palimpsest.methods.glide import check_stage
from palimpsest.methods.identifiers import check_identifier
from palimpsest.methods.learner import Course, check_class_noun, given_pictures, with_trained
from palimpsest.weights.model import Model
from palimpsest.worlds.files import eight_bits
from palimpsest.worlds.scene import with_article

Noise = Annotated[float, Interval(0)]
Factor = Annotated[int, Interval(2)]


def upsampler_error(
    model: Model,
    ctx: Tensor,
    pairs: Tensor,
    t: Tensor,
    noise: Tensor,
    weight: Weight,
    *,
    aug: float,
    factor: int,
) -> Tensor:
    """w_t ‖x̂_θ(α_t x + σ_t ε, x_low, c) − x‖² of each picture, as a mean over its pixels: (b,).

    pairs (b 6 y x): the picture, and beside it in three further channels itself made small, each small pixel
    factor² times. noise (b 6 y x): ε, and the noise that is added to the small picture.
    """
    (x, small), (eps, small_eps) = pairs.chunk(2, dim=1), noise.chunk(2, dim=1)
    low_res = (small + aug * small_eps)[..., ::factor, ::factor]  # l. 2
    return weighted_error(model, ctx, x, t, eps, weight, low_res)  # l. 3, Eq. (9)


def made_small(x: Tensor, factor: int) -> Tensor:
    """(b 3 y x) -> (b 3 y/f x/f): the mean of f × f pixels, in the 256 levels of a file."""
    # GLIDE, Sec. 4.1. official code (guided-diffusion): interpolation by area, which is this mean
    return eight_bits(F.avg_pool2d(x, factor))


def dreambooth_upsampler(
    model: Model,
    pictures: Picture | Sequence[Picture],
    class_noun: str,
    *,
    identifier: str = "auto",
    prompts: Sequence[str] | None = None,
    course: Course = Course(steps=200),
    aug: Noise = 0.0,
    factor: Factor = 2,
    tune_text: bool = False,
    state: str | Path | None = None,
    progress: bool = False,
) -> Learned:
    """A new upsampler that knows the subject of the pictures, which have the size that it paints.

    model: an upsampler of GLIDE's kind, not one for inpainting. factor: by how much it enlarges. aug: noise
    that is added to the small picture while tuning. The rest is as in `dreambooth`.

    Raises ValueError for another model, for pictures of another size, and as `dreambooth`.
    """
    check(dreambooth_upsampler, locals())
    check_upsampler(model, factor)
    x = given_pictures(model, pictures, beside=model.latent_shape[0])
    if tuple(x.shape[-2:]) != (model.size, model.size):
        raise ArgumentError(
            "pictures",
            f"must be {model.size}×{model.size}, as {model.name} paints, got {x.shape[-1]}×{x.shape[-2]}",
        )
    identifier = check_identifier(model, identifier, course.seed)
    check_class_noun(model, class_noun)
    prompt = with_article(identifier, class_noun)  # Sec. 3.2
    texts = [prompt] if prompts is None else list(prompts)
    if prompts is not None and len(texts) != len(x):
        raise ArgumentError("prompts", f"{len(texts)} for {len(x)} pictures; give one each")

    new = trainable_copy(model, tune_text=tune_text, checkpointing=course.checkpointing)
    small = F.interpolate(made_small(x, factor), scale_factor=factor, mode="nearest")
    modules, curves = tune(  # Eq. (9), its first term
        new,
        nn.ModuleDict({"net": new.net, "text": new.text}),
        new.text,
        Examples(torch.cat([x, small], dim=1), model.tokenizer(texts)[:, None]),
        None,
        course,
        error=partial(upsampler_error, aug=aug, factor=factor),
        identity=dict(aug=aug, factor=factor),
        state=state,
        progress=progress,
    )
    return Learned(with_trained(new, modules), identifier, prompt, with_article(class_noun), *curves)


def check_upsampler(model: Model, factor: int) -> None:
    """Raises ArgumentError for a model that is no upsampler or one for inpainting, and for a bad factor."""
    check_stage(model, upsampling=True)
    if model.net.inpainting:
        raise ArgumentError(
            "model", f"{model.name} enlarges parts painted anew; tune the upsampler without inpainting"
        )
    if model.size % factor:
        raise ArgumentError(
            "factor", f"must divide {model.size}, the side that {model.name} paints, got {factor}"
        )
