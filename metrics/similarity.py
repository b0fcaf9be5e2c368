"""Pictures and texts compared as embeddings: CLIP-I, CLIP-T, DINO, PRES, DIV, directional CLIP, CLIP score.

Everything here takes embeddings (b, d), of any length, and computes cosines in float64. Which network
made them, from pictures cut and scaled how, is part of the figure (nets/judges/clip.py and
nets/judges/dino.py have the networks and their views).

    figure             of what                                   paper
    CLIP-I, DINO       `subject_similarity(made, real)`          DreamBooth, arXiv:2208.12242v2, Sec. 4.1
    CLIP-T             `cosine(images, texts).mean()`            the same
    PRES               `subject_similarity(a dog, the dog)`      the same, Sec. 4.3; less is better
    DIV                `diversity(pictures, lpips)`              the same; more is better
    image similarity   `cosine(before, after)`                   InstructPix2Pix, arXiv:2211.09800v2, Sec. 4.2
    directional CLIP   `directional(before, after, text, new)`   StyleGAN-NADA, arXiv:2108.00946v2, Sec. 4.1
    CLIP score         `clip_score(images, texts)`               CLIPScore, arXiv:2104.08718v3, Sec. 3
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from palimpsest.arguments import ArgumentError


def _unit(x: Tensor, name: str) -> Tensor:
    """Rows of length 1, float64. Raises ValueError unless x is (b, d) of finite rows that have a
    direction.
    """
    if x.ndim != 2 or not len(x):
        raise ArgumentError(name, f"shape {tuple(x.shape)}; give embeddings (b, d)")
    lengths = x.double().norm(dim=1, keepdim=True)
    if not (lengths.isfinite() & (lengths > 0)).all():
        raise ArgumentError(
            name, "a row that is 0 or not finite has no direction; mend what made the embeddings"
        )
    return x.double() / lengths


def _pair(x: Tensor, y: Tensor, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    if x.shape != y.shape:
        raise ArgumentError(
            names[1], f"must have a row for each of {names[0]}: shapes {tuple(x.shape)} and {tuple(y.shape)}"
        )
    return _unit(x, names[0]), _unit(y, names[1])


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """cos of each pair of rows: (b, d), (b, d) -> (b,) in [−1, 1].

    >>> cosine(torch.tensor([[3., 0.]]), torch.tensor([[2., 0.]])).item()
    1.0
    """
    x, y = _pair(x, y, ("x", "y"))
    return (x * y).sum(1)


def subject_similarity(made: Tensor, real: Tensor) -> float:
    """The mean cosine of every made picture with every real one, (n, d) and (m, d): CLIP-I with CLIP's
    embeddings, DINO with DINO's.

    The paper takes it for each subject and then the mean over subjects. A set with itself counts each
    picture's cosine with itself, which is 1: see `self_similarity` for the row "real images"."""
    made, real = _unit(made, "made"), _unit(real, "real")
    if made.shape[1] != real.shape[1]:
        raise ArgumentError(
            "real", f"widths {made.shape[1]} and {real.shape[1]}; take both from the same network"
        )
    return float((made @ real.T).mean())


def self_similarity(x: Tensor) -> float:
    """The mean cosine of two different rows of one set, (n, d) with n ≥ 2. unstated: whether a picture
    meets itself; here it does not.
    """
    if len(x) < 2:
        raise ArgumentError("x", f"{len(x)} row has no pair; give 2 or more")
    gram = _unit(x, "x") @ _unit(x, "x").T
    return float((gram.sum() - gram.trace()) / (len(x) * (len(x) - 1)))


def diversity(pictures: Tensor, distance: Callable[[Tensor, Tensor], Tensor]) -> float:
    """DIV: the mean distance of two different pictures of one subject and prompt, (n, 3, y, x) with n ≥
    2; of 4 pictures, 6 pairs.

    distance: (b, 3, y, x) twice -> (b,), symmetric: LPIPS (metrics/trunks.py).
    """
    if len(pictures) < 2:
        raise ArgumentError("pictures", f"{len(pictures)} has no pair; give 2 or more")
    first, second = torch.triu_indices(len(pictures), len(pictures), 1)
    return float(
        torch.stack([distance(pictures[i : i + 1], pictures[j : j + 1])[0] for i, j in zip(first, second)])
        .double()
        .mean()
    )


def directional(before: Tensor, after: Tensor, text_before: Tensor, text_after: Tensor) -> Tensor:
    """cos of the way the picture went with the way its caption went, each (b, d) -> (b,) in [−1, 1].

        cos(E(x₁) − E(x₀), T(c₁) − T(c₀)),   E and T brought to length 1 first

    A picture that did not change went nowhere: its figure is 0. Raises ValueError where a caption did not
    change."""
    before, after = _pair(before, after, ("before", "after"))
    text_before, text_after = _pair(text_before, text_after, ("text_before", "text_after"))
    if before.shape != text_before.shape:
        raise ArgumentError(
            "text_before",
            f"must come from the same CLIP: {tuple(text_before.shape)} beside {tuple(before.shape)}",
        )
    went, wanted = after - before, text_after - text_before
    if same := (wanted.norm(dim=1) < 1e-9).nonzero().flatten().tolist():
        raise ArgumentError(
            "text_after",
            f"row {', '.join(map(str, same))} says what text_before says, which asks for no "
            "edit; leave it out",
        )
    return torch.cosine_similarity(went, wanted, dim=1, eps=1e-12)


def clip_score(images: Tensor, texts: Tensor, scale: float = 100.0) -> Tensor:
    """scale · max(cos, 0) of each picture with its text, (b, d) twice -> (b,).

    Two scales are in use, and a figure means nothing without its own: 100, as most programs print it, and
    2.5, w of the paper."""
    return scale * cosine(images, texts).clamp(min=0)
