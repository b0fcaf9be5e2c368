"""The shapes world as pictures: a vectorised, anti-aliased renderer built on signed distances, and crude
stroke paintings.

Every outline is a function sdf(x, y) of local coordinates in which the thing has radius 1: negative
inside, positive outside, slope about 1 near the edge. Coverage of a pixel is then clamp(1/2 − sdf /
pixel): analytic anti-aliasing with no supersampling. All things of one shape are drawn in one call, so
thousands of pictures a second come from one core."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from palimpsest.worlds.scene import COLOURS, SHAPES, Scene, Standing, Thing

# --------------------------------------------------------------------------- outlines


def _box(x: Tensor, y: Tensor, half_x: float, half_y: float) -> Tensor:
    dx, dy = x.abs() - half_x, y.abs() - half_y
    return torch.hypot(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0)


def _disc(x: Tensor, y: Tensor, cx: float, cy: float, r: float) -> Tensor:
    return torch.hypot(x - cx, y - cy) - r


def _fold(x: Tensor, y: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Fold the plane into one of n mirror-symmetric sectors around the upward axis; returns (across,
    along) with across ≥ 0.
    """
    sector = 2 * math.pi / n
    angle = torch.atan2(x, -y)
    angle = (angle - sector * torch.round(angle / sector)).abs()
    r = torch.hypot(x, y)
    return r * angle.sin(), r * angle.cos()


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return _disc(x, y, 0, 0, 0.92)


def _square(x: Tensor, y: Tensor) -> Tensor:
    return _box(x, y, 0.74, 0.74) - 0.06


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    y = y - 0.22  # centre of mass to the middle
    return torch.maximum(0.866 * x.abs() - 0.5 * y - 0.5, y - 0.5) - 0.08


def _star(x: Tensor, y: Tensor) -> Tensor:
    across, along = _fold(x, y, 5)
    tip, valley = 1.10, 0.50  # radii of the five points and of the notches between them
    vx, vy = valley * math.sin(math.pi / 5), valley * math.cos(math.pi / 5)
    nx, ny = tip - vy, vx  # normal of the edge from the tip (0, tip) to the notch (vx, vy)
    return (nx * across + ny * (along - tip)) / math.hypot(nx, ny) - 0.03


def _heart(x: Tensor, y: Tensor) -> Tensor:
    y, a = y - 0.12, 0.5  # a square on its corner, a disc on each of its two upper sides
    u, v = (x + y) / math.sqrt(2), (y - x) / math.sqrt(2)
    lobes = _disc(x.abs(), y, a / math.sqrt(2), -a / math.sqrt(2), a)
    return torch.minimum(_box(u, v, a, a), lobes) - 0.08


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.70).abs() - 0.25


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 0.90, 0.28), _box(x, y, 0.28, 0.90)) - 0.03


def _crescent(x: Tensor, y: Tensor) -> Tensor:
    x = x + 0.10
    return torch.maximum(_disc(x, y, 0, 0, 0.98), -_disc(x, y, 0.50, 0, 0.76))


def _diamond(x: Tensor, y: Tensor) -> Tensor:
    a, b = 0.64, 1.04
    return (x.abs() / a + y.abs() / b - 1) * a * b / math.hypot(a, b)


def _flower(x: Tensor, y: Tensor) -> Tensor:
    across, along = _fold(x, y, 6)
    return torch.minimum(_disc(across, along, 0, 0.64, 0.36), torch.hypot(x, y) - 0.55)


OUTLINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = dict(
    circle=_circle,
    square=_square,
    triangle=_triangle,
    star=_star,
    heart=_heart,
    ring=_ring,
    cross=_cross,
    crescent=_crescent,
    diamond=_diamond,
    flower=_flower,
)

SOLID = {
    "ring": (0.0, -0.70),
    "crescent": (-0.52, 0.0),
}  # where a pattern is anchored if the middle of the shape is empty

# --------------------------------------------------------------------------- pictures

AT_ONCE = 2**17  # pixels that are drawn at once: what is in work then fits the cache


def _grid(size: int) -> tuple[Tensor, Tensor]:
    centres = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return x, y  # both (y x), pixel centres in (0, 1)


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None]


def _colours(names: Sequence[str]) -> Tensor:
    return torch.tensor([COLOURS[n] for n in names], dtype=torch.float32)[:, :, None, None]


def second_tone(colour: Tensor) -> Tensor:
    """The other colour of a pattern: paler, or greyer where the colour is already pale. (n 3 1 1) -> (n 3
    1 1).
    """
    luminance = (colour * torch.tensor([0.30, 0.59, 0.11])[:, None, None]).sum(1, keepdim=True)
    return torch.where(luminance > 0.75, 0.52 * colour, 0.38 * colour + 0.62)


def _local(things: Sequence[Thing], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Picture coordinates (n y x) to each thing's own: centred, turned upright, radius 1."""
    dx, dy = x - _column([t.x for t in things]), y - _column([t.y for t in things])
    c, s = _column([math.cos(t.tilt) for t in things]), _column([math.sin(t.tilt) for t in things])
    r = _column([t.radius for t in things])
    return (c * dx + s * dy) / r, (-s * dx + c * dy) / r


def _signed_distance(things: Sequence[Thing], u: Tensor, v: Tensor) -> Tensor:
    distance = torch.empty_like(u)
    for shape in SHAPES:
        rows = [i for i, t in enumerate(things) if t.shape == shape]
        if rows:
            distance[rows] = OUTLINES[shape](u[rows], v[rows])
    return distance  # (n y x), in radii


def _pattern(things: Sequence[Thing], x: Tensor, y: Tensor, pixel: float) -> Tensor:
    """How much of each pixel the second tone of stripes or dots covers, (n y x) in [0, 1]; 0 on plain
    things.
    """
    period, slant = _column([t.period for t in things]), [t.slant for t in things]
    c, s = _column([math.cos(a) for a in slant]), _column([math.sin(a) for a in slant])
    dx, dy = (
        grid
        - _column([place + t.radius * SOLID.get(t.shape, (0.0, 0.0))[k] for t, place in zip(things, places)])
        for k, (grid, places) in enumerate(((x, [t.x for t in things]), (y, [t.y for t in things])))
    )
    a = (c * dx + s * dy) / period + _column([t.phase[0] for t in things])
    b = (c * dy - s * dx) / period + _column([t.phase[1] for t in things])
    a, b = a - a.round(), b - b.round()  # in periods from the nearest stripe or dot
    striped, dotted = a.abs() - 0.25, torch.hypot(a, b) - 0.31
    distance = torch.where(_column([t.texture == "striped" for t in things]) > 0, striped, dotted) * period
    return (0.5 - distance / pixel).clamp(0, 1) * _column([t.texture != "plain" for t in things])


def _paint_ground(scenes: Sequence[Standing], x: Tensor, y: Tensor) -> Tensor:
    light = _column([s.ground.slope[0] for s in scenes]) * (x - 0.5) + _column(
        [s.ground.slope[1] for s in scenes]
    ) * (y - 0.5)
    for k in range(4):
        fx, fy, phase, amplitude = (_column([s.ground.waves[k][j] for s in scenes]) for j in range(4))
        a, b = (
            2 * math.pi * fx * x[:1],
            2 * math.pi * fy * y[:, :1] + phase,
        )  # cos(a + b), a along x only and b along y only
        light = light + amplitude * (a.cos() * b.cos() - a.sin() * b.sin())
    return (_colours([s.background for s in scenes]) + light[:, None]).clamp(0, 1)


def grounds(scenes: Sequence[Standing], size: int = 64) -> Tensor:
    """The bare backgrounds, (b, 3, size, size) in [0, 1], of anything that has a `background`, a colour's
    name, and a `ground`.
    """
    return _paint_ground(scenes, *_grid(size))


def _paint_things(
    canvas: Tensor, scenes: Sequence[Scene], x: Tensor, y: Tensor, pixel: float, *, textured: bool = True
) -> Tensor:
    for k in range(max(len(s.things) for s in scenes)):
        rows = [i for i, s in enumerate(scenes) if len(s.things) > k]
        things = [scenes[i].things[k] for i in rows]
        gx, gy = (x[rows], y[rows]) if x.dim() == 3 else (x, y)
        u, v = _local(things, gx, gy)
        radius = _column([t.radius for t in things])
        cover = (0.5 - _signed_distance(things, u, v) * radius / pixel).clamp(0, 1)[:, None]
        colour = _colours([t.colour for t in things])
        if textured:
            pattern = _pattern(things, gx, gy, pixel)[:, None]
            light = _column([t.shade for t in things])[:, None] - 0.07 * v[:, None].clamp(
                -1, 1
            )  # lit softly from above
            colour = (colour + pattern * (second_tone(colour) - colour) + light).clamp(0, 1)
        canvas[rows] = canvas[rows] + cover * (colour - canvas[rows])
    return canvas


def render(scenes: Scene | Sequence[Scene], size: int = 64) -> Tensor:
    """Draw one scene or many.

    Returns (b, 3, size, size) float32 in [−1, 1]. Any size draws the same picture, finer or coarser.
    """
    scenes = [scenes] if isinstance(scenes, Scene) else list(scenes)
    x, y = _grid(size)
    some = max(1, AT_ONCE // size**2)
    return torch.cat(
        [
            2 * _paint_things(_paint_ground(part, x, y), part, x, y, 1 / size) - 1
            for part in (scenes[i : i + some] for i in range(0, len(scenes), some))
        ]
    )


def silhouettes(scene: Scene, size: int = 64) -> Tensor:
    """The coverage of each thing of a scene, (n, 1, size, size) in [0, 1], in the order of `scene.things`."""
    x, y = _grid(size)
    u, v = _local(scene.things, x, y)
    distance = _signed_distance(scene.things, u, v) * _column([t.radius for t in scene.things])
    return (0.5 - distance * size).clamp(0, 1)[:, None]


# --------------------------------------------------------------------------- strokes


def strokes(scenes: Scene | Sequence[Scene], generator: torch.Generator, size: int = 64) -> Tensor:
    """A crude hand-painted version of each scene: flat paint, wobbly hard outlines, visible brush marks,
    no texture or shade.

    It is what a user of SDEdit (arXiv:2108.01073v2, Fig. 1) would paint as a guide. Returns (b, 3, size,
    size) in [−1, 1]."""
    scenes = [scenes] if isinstance(scenes, Scene) else list(scenes)
    n = len(scenes)
    x, y = (repeat(c, "y x -> n y x", n=n) for c in _grid(size))

    def smooth(cells_y: int, cells_x: int) -> Tensor:
        coarse = torch.randn((n, 1, cells_y, cells_x), generator=generator)
        return F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)[:, 0]

    wobble_x, wobble_y = 0.022 * smooth(6, 6), 0.022 * smooth(6, 6)
    marks = 0.045 * smooth(16, 3)  # long flat brush marks
    ground = _colours([s.background for s in scenes]).expand(n, 3, size, size).clone()
    canvas = _paint_things(ground, scenes, x + wobble_x, y + wobble_y, 0.3 / size, textured=False)
    return 2 * (canvas + marks[:, None]).clamp(0, 1) - 1


def simulate_strokes(
    pictures: Tensor, colours: int = 6, median: int | None = None, rounds: int = 12
) -> Tensor:
    """The paper's own stroke simulation for any picture: a median filter, then an adaptive palette
    (arXiv:2108.01073v2, App. C).

    pictures (b, 3, y, x) in [−1, 1]; `colours` in the palette (the paper varies 3…50); `median` an odd window, by default 23 at a
    width of 256 and in proportion elsewhere. The palette is k-means in RGB  (# ours: the paper's is PIL's median cut).
    """
    if median is None:
        median = 2 * round((23 * pictures.shape[-1] / 256 - 1) / 2) + 1
    if colours < 1 or median < 1 or median % 2 == 0:
        raise ValueError(
            f"strokes: colours must be ≥ 1 and median an odd width ≥ 1; got colours={colours}, "
            f"median={median}"
        )
    half = median // 2
    padded = F.pad(pictures, (half,) * 4, mode="replicate")
    rows = []  # row by row: all windows at once would need median² times the memory
    for y in range(pictures.shape[2]):
        windows = padded[:, :, y : y + median].unfold(3, median, 1)
        rows.append(rearrange(windows, "b c p x q -> b c x (p q)").median(-1).values)
    filtered = torch.stack(rows, 2)
    painted = []
    for picture in filtered:
        points = rearrange(picture, "c y x -> (y x) c")
        spread = points[:1]  # farthest-point start: deterministic, and finds small strong colours
        while len(spread) < colours:
            farthest = int(torch.cdist(points, spread).min(1).values.argmax())
            spread = torch.cat([spread, points[farthest : farthest + 1]])
        for _ in range(rounds):
            nearest = torch.cdist(points, spread).argmin(1)
            spread = torch.stack(
                [
                    points[nearest == k].mean(0) if (nearest == k).any() else spread[k]
                    for k in range(len(spread))
                ]
            )
        palette = spread[torch.cdist(points, spread).argmin(1)]
        painted.append(rearrange(palette, "(y x) c -> c y x", y=picture.shape[1]))
    return torch.stack(painted)
