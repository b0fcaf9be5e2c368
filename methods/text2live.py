"""Text2LIVE: Text-Driven Layered Image and Video Editing (Bar-Tal et al., arXiv:2204.02491v2).

No diffusion: a small generator is trained on *one* picture x to paint a layer of colours C and opacity α over
it, and a frozen CLIP says how well the result fits the texts. Where α is 0 the picture stays as it is, to the
bit. As everything is laid over what is there, textures and colours change well, and shapes hardly do.

    1  for each step:
    2    x' ← an example made of x: a crop, perhaps mirrored                       (the internal dataset)
    3    C, α ← G(x');  out ← α C + (1 − α) x';  screen ← α C + (1 − α) green         # Eq. (30)
    4    the same random views of x', out and screen are shown to CLIP
    5    L_comp   ← ½∠(E(out), T(target))² + 1 − cos(E(out) − E(x'), T(target) − T(source))   # Eq. (31)
    6    L_screen ← ½∠(E(screen), T(layer))²                                          # Eq. (32)
    7    L_struct ← ‖S(out) − S(x')‖²,  S: cosines among the patches of a view        # Eq. (33)
    8    L_reg    ← mean α + 2 mean(σ(5α) − ½)                                        # Eq. (34)
         L_boot   ← mean (α − R)²,  in the first steps: R shows where x speaks for source against target
    9    G ← Adam(G, ∇ λ · L)
    10 C, α ← G(x)

    paper                     code                          paper            code
    C, α                      colours, opacity              x', the crops    example
    T, T_screen, T_ROI        target, layer, source         λ_s, λ_r, …      Terms
    E, T(·); S                seen, texts; cosines          G                nets.hourglass.Hourglass

The CLIP that trains the layer must not judge it: a net can be pleased by a pattern that means nothing to
another. `claims` judges by the reader and by the true edit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from palimpsest.arguments import (
    ArgumentError,
    Count,
    Fraction,
    Interval,
    Picture,
    Positive,
    Rounds,
    Seed,
    Share,
    check,
)
from palimpsest.fit.loop import fit
from palimpsest.fit.settings import Files, Settings
from palimpsest.nets.attention import Site
from palimpsest.nets.hourglass import Hourglass
from palimpsest.nets.judges.clip import CLIP, clip_view
from palimpsest.samplers.noise import generator_of
from palimpsest.weights.cache import digest
from palimpsest.weights.judges import Judge
from palimpsest.worlds.files import open_picture

GREEN = (0.0, 177 / 255, 64 / 255)  # official code: the screen that the layer alone is laid over
WHOLE = 75  # official code: every 75th example is the whole picture

Factor = Annotated[float, Interval(0)]  # [0, ∞)


@dataclass(frozen=True)
class Terms:
    """How much each loss counts. The defaults are the official code's."""

    composition: Factor = 1.0
    screen: Factor = 1.0
    structure: Factor = 2.0
    sparsity: Factor = 0.06
    bootstrap: Factor = 10.0  # at the first step; it falls to 0 along a line

    def __post_init__(self) -> None:
        check(Terms, vars(self))


@dataclass(frozen=True)
class Views:
    """What CLIP is shown of a picture: the whole, and random parts of it, turned and mirrored.

    # ours: colours stay as they are (the authors jitter them and make some views grey), as in our worlds the
    # words are about colours; and views are as many as the time allows
    """

    n: Count = 8  # the authors: 16
    crop: Share = 0.6  # a part has between this share and all of each side
    flip: Fraction = 0.5  # how often a part is mirrored; 0 where the text says left or right
    turn: Annotated[float, Interval(0, 90)] = 15.0  # degrees, at most, to either side
    lean: Annotated[float, Interval(0, 0.9)] = 0.2  # perspective: how much farther one side is than the other

    def __post_init__(self) -> None:
        check(Views, vars(self))


@dataclass(frozen=True)
class Training:
    """How the generator is trained on the one picture."""

    steps: Count = 200  # the paper: 1000
    lr: Positive = 1e-2  # at the first step; it falls to 0 along a cosine. The paper: 2.5e-3
    bootstrap: Rounds = 100  # steps in which the opacity is pulled to the relevance; the official code: 0
    crop: Share = 0.85  # an example shows between this share and all of each side of the picture
    flip: Fraction = 0.5  # how often an example is mirrored; 0 where the text says left or right

    def __post_init__(self) -> None:
        check(Training, vars(self))


class Text2Live(NamedTuple):
    """What `text2live` gives back, of one picture."""

    picture: Tensor  # (1, 3, y, x) in [−1, 1]: the layer over the picture
    colours: Tensor  # (1, 3, y, x) in [−1, 1]: the layer's
    opacity: Tensor  # (1, 1, y, x) in [0, 1]: 0 keeps the picture to the bit
    losses: list[float]  # of each step
    generator: Hourglass  # as it was trained


def text2live(
    judge: Judge,  # a CLIP and its tokenizer, see weights.judges.load_judge
    x: Picture,  # one picture
    source: str,  # what it shows
    target: str,  # what it should show
    layer: str,  # what the layer alone shows, over a green screen
    *,
    terms: Terms = Terms(),
    views: Views = Views(),
    training: Training = Training(),
    files: Files = Files(),  # where the run is kept, to be gone on with
    each_step: Callable[[int, Hourglass], None] | None = None,
    seed: Seed = 0,
    progress: bool = False,
) -> Text2Live:
    """Paint one layer over the picture x, so that `target` describes the result.

    each_step: called after every step with its number and the generator.
    # ours: Adam, and a learning rate that falls along a cosine; the authors: MADGRAD and lr · .99 per step
    Raises ArgumentError for a noised CLIP, several pictures, or texts that say the same.
    """
    check(text2live, locals())
    x, words = one_picture(x, judge), judge_texts(judge, source, target, layer)
    generator = Hourglass(generator=generator_of(seed)).to(x.device)

    both = torch.cat([x, relevance(judge, x, words)], 1).cpu()  # cropped alike

    def example(step: int, g: Generator) -> Example:
        picture, region = crop_of(both, training, g, whole=step % WHOLE == 0).split([3, 1], 1)
        pull = torch.tensor(max(0.0, 1 - step / training.bootstrap) if training.bootstrap else 0.0)
        return Example(picture, region, pull, homographies(views, g))

    def loss(net: nn.Module, drawn: Example, g: Generator) -> Tensor:
        return sum(text2live_loss(judge, net, drawn, words, terms).values())

    settings = Settings(
        steps=training.steps, lr=training.lr, warmup=0, ema=0.0, betas=(0.9, 0.999), seed=seed
    )
    identity = dict(
        judge=digest(*judge.net.state_dict().values()),
        picture=digest(x),
        texts=[source, target, layer],
        losses=f"{terms} {views} {training}",
    )
    files = replace(files, identity=identity)
    tell = None if each_step is None else lambda step: each_step(step, generator)
    fitted = fit(loss, generator, example, settings, files, after_step=tell, progress=progress)
    with torch.no_grad():
        colours, opacity, out = composed(fitted.net.eval(), x)
    return Text2Live(out, colours, opacity, fitted.losses, fitted.net)


class Words(NamedTuple):
    """The embeddings of the three texts, (1 d) each, of length 1."""

    source: Tensor
    target: Tensor
    layer: Tensor


class Example(NamedTuple):
    """What the generator sees in one step, and what is shown to CLIP of it."""

    picture: Tensor  # (1 3 y x) in [−1, 1]
    region: Tensor  # (1 1 y x) in [0, 1]: the relevance
    pull: Tensor  # (): how strongly the opacity is pulled there, 1 at the first step
    shown: Tensor  # (n 3 3): homographies of the views


def text2live_loss(
    judge: Judge, net: nn.Module, example: Example, words: Words, terms: Terms
) -> dict[str, Tensor]:
    """The losses of one example, each times its factor."""
    colours, opacity, out = composed(net, example.picture)
    green = torch.tensor(GREEN).to(out)[:, None, None] * 2 - 1
    screen = opacity * colours + (1 - opacity) * green  # Eq. (30), over green
    before, after, alone = (seen(judge, view_of(p, example.shown)) for p in (example.picture, out, screen))

    direction = F.cosine_similarity(after.whole - before.whole, words.target - words.source, eps=1e-6)
    composition = half_squared_angle(after.whole, words.target) + 1 - direction  # Eq. (31)
    losses = {
        "composition": composition.mean(),
        "screen": half_squared_angle(alone.whole, words.layer).mean(),  # Eq. (32)
        "structure": (cosines(after.patches) - cosines(before.patches)).square().mean(),  # Eq. (33)
        "sparsity": sparsity(opacity),
        "bootstrap": example.pull * (opacity - example.region).square().mean(),  # Sec. 3.1
    }
    return {name: getattr(terms, name) * value for name, value in losses.items()}


def composed(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(colours, opacity, α C + (1 − α) x) of pictures x (b 3 y x) in [−1, 1]. # Eq. (30)"""
    painted = net(x)
    colours, opacity = painted[:, :3] * 2 - 1, painted[:, 3:]
    return colours, opacity, torch.lerp(x, colours, opacity)


def half_squared_angle(u: Tensor, v: Tensor) -> Tensor:
    """½∠(u, v)² of vectors of length 1, (b d) each -> (b,), the angle in radians. # Eq. (31), (32)

    The chord between them has length 2 sin(∠/2), so ∠ = 2 arcsin(‖u − v‖/2).
    official code: this is its default distance; 1 − cos is its option.
    """
    half_chord = (u - v).norm(dim=-1) / 2
    return 2 * half_chord.clamp(max=1 - 1e-6).arcsin().square()


def sparsity(opacity: Tensor) -> Tensor:
    """mean α + 2 mean(σ(5α) − ½): how much is painted, and softly, on how many pixels. # Eq. (34)

    official code: both terms weigh the same."""
    return opacity.mean() + 2 * ((5 * opacity).sigmoid() - 0.5).mean()


# ---- what CLIP sees ----


class Seen(NamedTuple):
    """What CLIP makes of views."""

    whole: Tensor  # (n d), of length 1: in the space of the texts
    patches: Tensor  # (n l d'): the tokens of the last layer


def seen(judge: Judge, views: Tensor) -> Seen:
    """Views (n 3 y x) in [−1, 1], brought to the size that the CLIP knows."""
    tokens = judge.net.image(clip_view(views, judge.net.size))
    return Seen(F.normalize(judge.net.image_projection(tokens.cls), dim=-1), tokens.patches)


def cosines(patches: Tensor) -> Tensor:
    """The cosine of every patch with every other of its view: (n l d) -> (n l l). # Eq. (33): S"""
    unit = F.normalize(patches, dim=-1)
    return unit @ unit.mT


def relevance(judge: Judge, x: Tensor, words: Words) -> Tensor:
    """Where the picture x (1 3 y x) speaks for the source text against the target: (1 1 y x) in [0, 1].

    Through the layers of CLIP, R ← R + Ā R from R = 1, where Ā is the mean over heads of the attention times
    its gradient, where that is positive; the row of the class token tells of each patch (arXiv:2103.15679v1,
    Eqs. 5 and 6). # ours: the gradient is that of E(x)·(T(source) − T(target)), so that no word has to name
    the region, and what is beyond half of the largest relevance counts as 1
    """
    attention: list[Tensor] = []

    def tap(probs: Tensor, site: Site) -> Tensor:
        attention.append(probs)
        return probs

    views = clip_view(x, judge.net.size).requires_grad_()
    for_source = (judge.net.encode_image(views, tap=tap) * (words.source - words.target)).sum()
    R = torch.eye(attention[0].shape[-1]).to(x)
    for A, gradient in zip(attention, torch.autograd.grad(for_source, attention)):
        R = R + (A * gradient).clamp(min=0).mean(1)[0] @ R
    side = judge.net.image.side
    patches = R[:1, 1:].unflatten(1, (side, side))[None]
    whole = F.interpolate(patches, x.shape[-2:], mode="bilinear")
    return (2 * whole / whole.amax().clamp(min=1e-12)).clamp(max=1).detach()


def judge_texts(judge: Judge, source: str, target: str, layer: str) -> Words:
    """The embeddings of the texts. # ours: the texts as they are; the authors put them into templates

    Raises ArgumentError where source and target say the same, as there is no direction between them.
    """
    words = Words(*judge.texts([source, target, layer]).split(1))
    if (words.source - words.target).norm() < 1e-6:
        raise ArgumentError(
            "target", "says what source says, which asks for no edit; say what should be different"
        )
    return words


def one_picture(x: Picture, judge: Judge) -> Tensor:
    """The picture as (1, 3, y, x), where the judge is. A file is read as it is, whatever its size."""
    if not isinstance(judge.net, CLIP):
        raise ArgumentError(
            "judge", "must be a CLIP of clean pictures, such as shapes-clip; this one wants noise"
        )
    x = x if isinstance(x, Tensor) else open_picture(x).view()
    if len(x) != 1:
        raise ArgumentError("x", f"must be one picture, as the generator is trained on one; got {len(x)}")
    return x.to(next(judge.net.parameters()))


# ---- crops and views ----


def crop_of(x: Tensor, training: Training, g: Generator, whole: bool = False) -> Tensor:
    """An example of the picture x (1 c y x): a crop, perhaps mirrored, at the picture's size again; or the
    whole. # the internal dataset
    """
    if whole:
        return x
    u = torch.rand(5, generator=g).tolist()
    y, c = (round(n * (training.crop + (1 - training.crop) * s)) for n, s in zip(x.shape[-2:], u[:2]))
    top, left = (round((n - k) * p) for n, k, p in zip(x.shape[-2:], (y, c), u[2:4]))
    part = x[..., top : top + y, left : left + c]
    part = F.interpolate(part, x.shape[-2:], mode="bilinear", antialias=True).clamp(-1, 1)
    return part.flip(-1) if u[4] < training.flip else part


def homographies(views: Views, g: Generator) -> Tensor:
    """Random views (n 3 3), float32: each maps a place of the view, in [−1, 1]², to one of the picture.

    The first is the whole picture. A view is mirrored, leans, is turned and then is a part of the picture.
    """
    maps = [torch.eye(3)]
    for _ in range(views.n - 1):
        u = torch.rand(8, generator=g).tolist()
        sy, sx = (views.crop + (1 - views.crop) * s for s in u[:2])  # half sides of the part
        part = torch.tensor(
            [[sx, 0, (1 - sx) * (2 * u[2] - 1)], [0, sy, (1 - sy) * (2 * u[3] - 1)], [0, 0, 1]]
        )
        angle = math.radians(views.turn * (2 * u[4] - 1))
        cos, sin = math.cos(angle), math.sin(angle)
        turned = torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        ahead, across = (views.lean / 2 * (2 * v - 1) for v in u[5:7])
        leaning = torch.tensor([[1, 0, 0], [0, 1, 0], [across, ahead, 1]])
        mirrored = torch.diag(torch.tensor([-1.0 if u[7] < views.flip else 1.0, 1, 1]))
        maps.append(part @ turned @ leaning @ mirrored)
    return torch.stack(maps)


def view_of(picture: Tensor, maps: Tensor) -> Tensor:
    """The views (n 3 y x) of one picture (1 3 y x) under homographies (n 3 3); gradients flow.

    What lies outside of the picture is its mirror image.
    """
    _, _, y, x = picture.shape
    rows, columns = ((2 * torch.arange(n, device=picture.device) + 1) / n - 1 for n in (y, x))
    places = torch.stack(
        [columns.expand(y, x), rows[:, None].expand(y, x), torch.ones_like(picture[0, 0])], -1
    )
    to = torch.einsum("nij,yxj->nyxi", maps.to(picture), places)
    grid = to[..., :2] / to[..., 2:]
    many = picture.expand(len(maps), -1, -1, -1)
    return F.grid_sample(many, grid, padding_mode="reflection", align_corners=False)
