"""DreamBooth's second stage (Ruiz et al., arXiv:2208.12242v2, supplementary material): the upsampler
learns the subject, too.

A cascade paints small and enlarges. An upsampler that never saw the subject makes up its fine detail from
others of its class. So it is tuned on the same few pictures, each beside itself made small, under the
same words; and the small one is spoilt by less noise than the upsampler was taught with ("noise
augmentation"), since with much of it the net learns not to trust the small picture and paints blurs.

    1  for each step:
    2    x_low ← x made small, 8 bits  +  aug · noise                     the paper: aug from 1e-3 down to 1e-5, of unnamed unit
    3    θ ← AdamW on  w_t ‖x̂_θ(α_t x + σ_t ε, x_low, c) − x‖²            Eq. (9), its first term

    paper        code                              paper        code
    c            "a [V] [class noun]"              aug          aug: here a standard deviation, of pictures in [−1, 1]

There is no prior term: what a class looks like the small picture says. The learnt variances
(arXiv:2102.09672v1) are not tuned: a walk with eta = 0, as `methods.glide.upsample` takes, does not ask
for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.methods.dreambooth import Course, Learned, Weight, study, weighted_error
from palimpsest.methods.glide import check_stage
from palimpsest.methods.identifiers import check_identifier
from palimpsest.methods.learner import check_class, check_pictures, finished, own_copy
from palimpsest.weights.model import Model
from palimpsest.worlds.files import eight_bits
from palimpsest.worlds.scene import with_article


class Enlarging(NamedTuple):
    """The error of an upsampler on pictures that carry themselves made small in further channels, each
    small pixel `factor`² times.
    """

    aug: float
    factor: int

    def __call__(
        self, model: Model, ctx: Tensor, both: Tensor, t: Tensor, noise: Tensor, weight: Weight
    ) -> Tensor:
        (x, small), (eps, grain) = both.chunk(2, dim=1), noise.chunk(2, dim=1)
        low_res = (small + self.aug * grain)[..., :: self.factor, :: self.factor]  # l. 2
        return weighted_error(model, ctx, x, t, eps, weight, low_res)  # l. 3, Eq. (9)


def made_small(x: Tensor, factor: int) -> Tensor:
    """(b 3 y x) -> (b 3 y/f x/f): mean of f × f pixels, as a file holds it. # GLIDE, Sec. 4.1; official
    code (guided-diffusion): area
    """
    return eight_bits(F.avg_pool2d(x, factor))


def dreambooth_upsampler(
    model: Model,
    pictures: Tensor | Sequence[Tensor],
    class_noun: str,
    *,
    identifier: str = "auto",
    prompts: Sequence[str] | None = None,
    steps: int = 200,
    lr: float = 1e-4,
    batch: int = 4,
    aug: float = 0.0,
    factor: int = 2,
    tune_text: bool = False,
    accumulate: int = 1,
    seed: int = 0,
    state: str | Path | None = None,
    progress: bool = False,
) -> Learned:
    """A new upsampler that knows the thing that `pictures` (n, 3, y, x) in [−1, 1] show, in the size that
    it paints.

    b: an upsampler of GLIDE's kind, not one for inpainting. factor: by how much it enlarges. aug: noise
    on the small picture while tuning. The rest is as in `dreambooth`. Raises ValueError for another
    model, for pictures of another size, and as `dreambooth`."""
    check_stage(model, upsampling=True)
    if model.net.inpainting:
        raise ValueError(
            f"model: {model.name} enlarges parts painted anew; tune the upsampler without inpainting"
        )
    if not aug >= 0:
        raise ValueError(f"aug: must be at least 0, got {aug}")
    if factor < 2 or model.size % factor:
        raise ValueError(
            f"factor: must be at least 2 and divide {model.size}, the side that {model.name} paints, got {factor}"
        )
    x = check_pictures(model, pictures, beside=model.latent_shape[0])
    if tuple(x.shape[-2:]) != (model.size, model.size):
        raise ValueError(
            f"pictures: must be {model.size}×{model.size}, as {model.name} paints, got {x.shape[-1]}×{x.shape[-2]}"
        )
    identifier = check_identifier(model, identifier, seed)
    check_class(model, class_noun, 0.0)
    prompt = with_article(identifier, class_noun)  # Sec. 3.2
    texts = [prompt] if prompts is None else list(prompts)
    if prompts is not None and len(texts) != len(x):
        raise ValueError(f"prompts: {len(texts)} for {len(x)} pictures; give one each")

    new = own_copy(model)
    new.net.requires_grad_(True)
    new.text.requires_grad_(tune_text)
    small = F.interpolate(made_small(x, factor), scale_factor=factor, mode="nearest")
    modules, losses, terms, seconds = study(
        new,
        nn.ModuleDict({"net": new.net, "text": new.text}),
        new.text,
        torch.cat([x, small], dim=1),
        model.tokenizer(texts)[:, None],
        None,
        None,
        Course(steps, lr, batch, accumulate=accumulate, seed=seed, state=state, progress=progress),
        Enlarging(aug, factor),
    )
    return Learned(
        finished(new, modules),
        identifier,
        prompt,
        with_article(class_noun),
        losses,
        terms[:, 0].tolist(),
        terms[:, 1].tolist(),
        None,
        seconds,
    )
