"""Sets of pictures compared with sets of pictures, under any feature extractor.

Everything here takes features (n, d), computes in float64 and gives plain floats. Which extractor made
the features is part of the figure: published KID and FID use the 2048 pool features of one particular
Inception network, and no figure from another extractor can be compared with them. It can be compared with
another figure of its own kind."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from einops import rearrange, reduce
from torch import Tensor

from palimpsest.arguments import ArgumentError


@torch.no_grad()
def features(pictures: Tensor, extractor: Callable[[Tensor], Tensor], batch: int = 64) -> Tensor:
    """The extractor's output for (n, 3, y, x) pictures, `batch` at a time, on the CPU, float64: (n, d).

    The extractor maps (b, 3, y, x) to (b, d) or (b, d, y', x'); maps are averaged over their pixels.
    Resizing, normalising and `.eval()` are its own business."""
    if batch < 1:
        raise ArgumentError("batch", f"{batch} pictures at a time; give 1 or more")
    rows = []
    for chunk in pictures.split(batch):
        out = extractor(chunk)
        out = reduce(out, "b d y x -> b d", "mean") if out.ndim == 4 else out
        rows.append(_matrix(out, "extractor output", 1).cpu())
    return torch.cat(rows)


def _matrix(x: Tensor, name: str, least: int = 2) -> Tensor:
    """`x` in float64. Raises ValueError unless it is a finite (n, d) with n >= least."""
    if x.ndim != 2 or len(x) < least:
        raise ArgumentError(name, f"shape {tuple(x.shape)}; give features (n, d) with n >= {least}")
    if not x.isfinite().all():
        raise ArgumentError(name, "NaN or infinity inside; mend what made the features before measuring")
    return x.double()


def _pair(x: Tensor, y: Tensor, least: int = 2) -> tuple[Tensor, Tensor]:
    x, y = _matrix(x, "x", least), _matrix(y, "y", least)
    if x.shape[1] != y.shape[1]:
        raise ArgumentError("y", f"widths {x.shape[1]} and {y.shape[1]}; take both from the same extractor")
    return x, y


def kid(x: Tensor, y: Tensor) -> float:
    """Kernel Inception Distance (Bińkowski et al., arXiv:1801.01401v5, Sec. 4): the unbiased MMD² of (n,
    d) and (m, d).

        KID = mean over i ≠ j of k(xᵢ, xⱼ) + mean over i ≠ j of k(yᵢ, yⱼ) - 2 mean over i, j of k(xᵢ, yⱼ),
        k(a, b) = (a·b / d + 1)³

    Leaving out i = j makes it unbiased at any n, which FID is not, and lets it fall below 0 for sets that
    are alike. (SDEdit's text calls it Kernel Inception *Score*; it is a distance, and less is better.)

    >>> kid(torch.tensor([[0.], [1.]]), torch.tensor([[0.], [1.]]))
    -3.5
    """
    x, y = _pair(x, y)

    def k(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        gram = k(a, a)
        return (gram.sum() - gram.trace()) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * k(x, y).mean())


class Spread(NamedTuple):
    """A mean over subsets, and the standard deviation *between* them (not the error of the mean)."""

    mean: float
    std: float


def kid_subsets(
    x: Tensor, y: Tensor, generator: torch.Generator, subsets: int = 100, size: int = 1000
) -> Spread:
    """KID of `subsets` random pairs of subsets of `size`, drawn without replacement: the form papers report.

    The std says how far one such subset strays. Raises ValueError where `size` exceeds a set.
    """
    x, y = _pair(x, y)
    if not 2 <= size <= min(len(x), len(y)):
        raise ArgumentError(
            "size", f"{size} does not fit sets of {len(x)} and {len(y)}; give 2 to {min(len(x), len(y))}"
        )
    if subsets < 2:
        raise ArgumentError("subsets", f"{subsets} has no spread; give 2 or more, or call kid")

    def draw(a: Tensor) -> Tensor:
        return a[torch.randperm(len(a), generator=generator)[:size].to(a.device)]

    values = torch.tensor([kid(draw(x), draw(y)) for _ in range(subsets)], dtype=torch.float64)
    return Spread(float(values.mean()), float(values.std(correction=0)))


def fid(x: Tensor, y: Tensor) -> float:
    """Fréchet Inception Distance (Heusel et al., arXiv:1706.08500v6, Eq. (6)) of (n, d) and (m, d) features.

    Covariances divide by n - 1. Biased upward at small n: compare only figures of equal n. With n <= d the
    covariance is singular, which this form does not mind.

    >>> round(fid(torch.tensor([[0.], [2.]]), torch.tensor([[3.], [7.]])), 9)
    18.0
    """
    x, y = _pair(x, y)
    return fid_from_moments(*moments(x), *moments(y))


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance (d, d), divided by n - 1, of (n, d) features, float64."""
    x = _matrix(x, "x")
    mu = x.mean(0)
    return mu, (x - mu).T @ (x - mu) / (len(x) - 1)


def fid_from_moments(mu_x: Tensor, cov_x: Tensor, mu_y: Tensor, cov_y: Tensor) -> float:
    """The Fréchet distance of two Gaussians, ‖μx - μy‖² + Tr(Σx + Σy - 2 (Σx Σy)^½).

    Σx Σy is not symmetric, but S = Σx^½ Σy Σx^½ is, and has the same eigenvalues λ: Tr (Σx Σy)^½ = Σ
    √λ(S). So two symmetric eigenvalue problems suffice, and no root of a non-symmetric matrix is taken.
    Eigenvalues that rounding pushed below 0 count as 0. means (d,), covariances (d, d) symmetric;
    float64."""
    mu_x, cov_x, mu_y, cov_y = (a.double() for a in (mu_x, cov_x, mu_y, cov_y))
    d = mu_x.numel()
    shapes = [tuple(a.shape) for a in (mu_x, cov_x, mu_y, cov_y)]
    if shapes != [(d,), (d, d)] * 2:
        raise ArgumentError(
            "moments", f"shapes {shapes}; give means (d,) and covariances (d, d) of one width d"
        )
    lam, q = torch.linalg.eigh(cov_x)
    root = (q * lam.clamp(min=0).sqrt()) @ q.T  # Σx^½
    lam = torch.linalg.eigvalsh(root @ cov_y @ root).clamp(min=0)
    return float(((mu_x - mu_y) ** 2).sum() + cov_x.trace() + cov_y.trace() - 2 * lam.sqrt().sum())


def csfid(x: Tensor, x_classes: Sequence[Hashable], y: Tensor, y_classes: Sequence[Hashable]) -> float:
    """CSFID as DiffEdit reports it: the mean over classes of ‖mean of x's features − mean of y's‖², (n,
    d) and (m, d).

    official code: FlexIT's evaluation (arXiv:2203.04705v1), which DiffEdit takes over, compares means
    only. Despite the name there is no covariance in it, so noise that leaves a class's mean alone costs
    nothing. Classes of x that y lacks raise ValueError.

    >>> csfid(torch.tensor([[0.], [2.], [5.]]), "aab", torch.tensor([[1.], [3.]]), "ab")
    2.0
    """
    x, y = _pair(x, y, 1)
    if len(x_classes) != len(x) or len(y_classes) != len(y) or not set(x_classes) <= set(y_classes):
        raise ArgumentError(
            "classes", "give one for each row of features, and rows of y for every class of x"
        )

    def mean(rows: Tensor, classes: Sequence[Hashable], wanted: Hashable) -> Tensor:
        return rows[[i for i, c in enumerate(classes) if c == wanted]].mean(0)

    gaps = [
        ((mean(x, x_classes, c) - mean(y, y_classes, c)) ** 2).sum() for c in sorted(set(x_classes), key=str)
    ]
    return float(torch.stack(gaps).mean())


def perceptual(x: Tensor, y: Tensor) -> Tensor:
    """LPIPS without its learned weights (arXiv:1801.03924v2, Eq. (1) with w = 1): feature maps (b, n, d)
    at n places -> (b,), float64.

    Each place's features are brought to length 1; the squared differences are summed over features and
    averaged over places. 0 for equal maps, at most 4. Comparable only under one extractor."""
    if x.shape != y.shape or x.ndim != 3:
        raise ArgumentError(
            "y", f"shapes {tuple(x.shape)} and {tuple(y.shape)}; give feature maps (b, n, d) of one shape"
        )
    x, y = (a.double() / a.double().norm(dim=-1, keepdim=True).clamp(min=1e-10) for a in (x, y))
    return reduce((x - y) ** 2, "b n d -> b n", "sum").mean(1)


def inception_score(p: Tensor) -> float:
    """Inception Score (Salimans et al., arXiv:1606.03498v1, Sec. 4): exp of the mean KL(p(y|x) ‖ p(y)) of
    class probabilities (n, k).

    Between 1, where every picture is as unsure or as alike, and k, where each is sure and every class
    comes equally often. It never looks at a real picture: a set of one perfect picture a class is
    perfect. p: rows that sum to 1, of any classifier; only figures of one classifier and one n can be
    compared. Published figures are the mean over ten splits; this is of the whole set.

    >>> inception_score(torch.tensor([[1., 0.], [0., 1.]]))
    2.0
    """
    p = _matrix(p, "p")
    if (p < 0).any() or not torch.allclose(
        p.sum(1), torch.ones(len(p), dtype=p.dtype, device=p.device), atol=1e-4
    ):
        raise ArgumentError(
            "p", "rows must be probabilities that sum to 1; take the softmax of the classifier's logits"
        )
    mean = p.mean(0, keepdim=True)
    kl = torch.special.xlogy(p, p).sum(1) - torch.special.xlogy(p, mean).sum(1)
    return float(kl.mean().exp())


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1]: of fakes that look real, of reals that the fakes can look like."""

    precision: float
    recall: float


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al., arXiv:1904.06991v3, Eq. (1)-(2)) of (n, d) and
    (m, d).

    A set covers a point that lies in the ball around any member, out to that member's k-th nearest
    *other* member. precision: the share of fakes that the reals cover (fidelity). recall: the share of
    reals that the fakes cover (diversity). Swapping the sets swaps the two. Raises ValueError unless 1 <=
    k < n, m."""
    real, fake = _pair(real, fake)
    most = min(len(real), len(fake)) - 1
    if not 1 <= k <= most:
        raise ArgumentError("k", f"{k} neighbours in sets of {len(real)} and {len(fake)}; give 1 to {most}")
    return PrecisionRecall(_covered(real, fake, k), _covered(fake, real, k))


def _covered(members: Tensor, points: Tensor, k: int) -> float:
    """The share of `points` (m, d) inside the k-NN balls of `members` (n, d)."""
    own = _distances(members, members).fill_diagonal_(torch.inf)  # a member is not its own neighbour
    radius = own.kthvalue(k, dim=1).values  # (n,)
    inside = _distances(points, members) <= rearrange(radius, "n -> 1 n")  # (m n)
    return float(inside.any(1).double().mean())


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (n, m), without the shortcut through a·b, which would leave equal points apart."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
