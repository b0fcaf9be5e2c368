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

from palimpsest.arguments import ArgumentError
from palimpsest.worlds.scene import (
    COLOURS,
    INK,
    NO_WAVE,
    PALETTES,
    RENDERED,
    SHAPES,
    SQUARE,
    Scene,
    Standing,
    Style,
    Thing,
)

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

Size = int | tuple[int, int]  # of a picture in pixels: its shorter side, or (rows, columns)


def pixels(size: Size, extent: tuple[float, float] = SQUARE) -> tuple[int, int]:
    """The rows and columns of a picture of this extent. Raises ValueError for a size of another shape."""
    if isinstance(size, int):
        return round(size * extent[0]), round(size * extent[1])
    rows, columns = size
    if abs(rows * extent[1] - columns * extent[0]) > max(extent):
        raise ArgumentError(
            "size",
            f"{rows}×{columns} pixels (rows × columns) are of another shape than the scene, "
            f"{extent[0]:.3g} × {extent[1]:.3g}",
        )
    return rows, columns


def _extent(scenes: Sequence[Scene]) -> tuple[float, float]:
    """That of all the scenes. Raises ValueError where they differ: one call draws one shape of picture."""
    if len(found := {s.extent for s in scenes}) > 1:
        raise ArgumentError("scenes", f"one call draws pictures of one shape; got {len(found)}")
    return found.pop() if found else SQUARE


def _grid(size: Size, extent: tuple[float, float] = SQUARE) -> tuple[Tensor, Tensor]:
    rows, columns = pixels(size, extent)
    side = min(rows, columns)
    y, x = torch.meshgrid(
        (torch.arange(rows) + 0.5) / side, (torch.arange(columns) + 0.5) / side, indexing="ij"
    )
    return x, y  # both (y x), pixel centres, the shorter side from 0 to 1


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None]


def _colours(names: Sequence[str], styles: Sequence[Style] = ()) -> Tensor:
    """(n 3 1 1), of COLOURS or of the styles' palettes."""
    tables = [PALETTES[s.palette] for s in styles] or [COLOURS] * len(names)
    return torch.tensor([table[n] for table, n in zip(tables, names)], dtype=torch.float32)[:, :, None, None]


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


def _paint_ground(
    scenes: Sequence[Standing],
    x: Tensor,
    y: Tensor,
    extent: tuple[float, float] = SQUARE,
    styles: Sequence[Style] = (),
) -> Tensor:
    slopes = [_column([s.ground.slope[k] for s in scenes]) for k in range(2)]
    light = slopes[0] * (x - extent[1] / 2) + slopes[1] * (y - extent[0] / 2)
    if any(s.ground.kind != "flat" for s in scenes):
        for k in range(4):
            fx, fy, phase, amplitude = (_column([s.ground.waves[k][j] for s in scenes]) for j in range(4))
            a = 2 * math.pi * fx * x[:1]  # cos(a + b), a along x only and b along y only
            b = 2 * math.pi * fy * y[:, :1] + phase
            light = light + amplitude * (a.cos() * b.cos() - a.sin() * b.sin())
    return (_colours([s.background for s in scenes], styles) + light[:, None]).clamp(0, 1)


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
        drawn = [i for i in rows if textured and scenes[i].style != RENDERED]
        rows = [i for i in rows if i not in set(drawn)] if drawn else rows
        if drawn:
            _draw_by_hand(canvas, drawn, scenes, k, x, y, pixel)
        if not rows:
            continue
        things = [scenes[i].things[k] for i in rows]
        gx, gy = (x[rows], y[rows]) if x.dim() == 3 else (x, y)
        u, v = _local(things, gx, gy)
        radius = _column([t.radius for t in things])
        cover = (0.5 - _signed_distance(things, u, v) * radius / pixel).clamp(0, 1)[:, None]
        colour = _colours([t.colour for t in things], () if textured else [scenes[i].style for i in rows])
        if textured:
            pattern = _pattern(things, gx, gy, pixel)[:, None]
            light = _column([t.shade for t in things])[:, None] - 0.07 * v[:, None].clamp(
                -1, 1
            )  # lit softly from above
            colour = (colour + pattern * (second_tone(colour) - colour) + light).clamp(0, 1)
        canvas[rows] = canvas[rows] + cover * (colour - canvas[rows])
    return canvas


def render(scenes: Scene | Sequence[Scene], size: Size = 64) -> Tensor:
    """Draw one scene or many of one extent.

    size: the shorter side in pixels, or (rows, columns). Returns (b, 3, rows, columns) float32 in [−1, 1].
    Any size draws the same picture, finer or coarser. Raises ValueError for scenes of several extents, or a
    size of another shape than theirs.
    """
    scenes = [scenes] if isinstance(scenes, Scene) else list(scenes)
    extent = _extent(scenes)
    x, y = _grid(size, extent)
    some = max(1, AT_ONCE // x.numel())

    def drawn(part: list[Scene]) -> Tensor:
        plain = all(s.style == RENDERED for s in part)
        ground = _paint_ground(part, x, y, extent, () if plain else [s.style for s in part])
        return 2 * _paint_things(ground, part, x, y, 1 / min(x.shape)) - 1

    return torch.cat([drawn(scenes[i : i + some]) for i in range(0, len(scenes), some)])


def silhouettes(scene: Scene, size: Size = 64) -> Tensor:
    """The coverage of each thing of a scene, (n, 1, rows, columns) in [0, 1], in the order of `scene.things`;
    the inside of an empty outline counts.
    """
    x, y = _grid(size, scene.extent)
    u, v = _local(scene.things, x, y)
    if scene.style != RENDERED:
        u, v = _wobbled(scene.things, [scene.style] * len(scene.things), u, v)
    distance = _signed_distance(scene.things, u, v) * _column([t.radius for t in scene.things])
    if scene.style.contour:
        distance = distance - _column([_pen(t, scene.style) / 2 for t in scene.things])
    return (0.5 - distance * min(x.shape)).clamp(0, 1)[:, None]


# --------------------------------------------------------------------------- drawn by hand


def _pen(thing: Thing, style: Style) -> float:
    """The width of a thing's outline: no more than leaves room for the paint."""
    return min(style.width, 0.2 * thing.radius)


def is_empty(thing: Thing, style: Style) -> bool:
    """Whether only a thing's outline is drawn. A circle's would be a ring's, and a texture must be seen."""
    return not style.filled and thing.texture == "plain" and thing.shape not in ("circle", "ring")


def _wobbled(things: Sequence[Thing], styles: Sequence[Style], u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Local coordinates (n y x) as a hand strays from them; each thing by waves of its own phase."""
    most = max(len(s.wobble) for s in styles) // 2
    moved = [u, v]
    for axis in range(2):
        for k in range(most):
            waves = [
                s.wobble[axis * (len(s.wobble) // 2) + k] if k < len(s.wobble) // 2 else NO_WAVE
                for s in styles
            ]
            fx, fy, phase, amplitude = (_column(part) for part in zip(*waves))
            turned = (
                2 * math.pi * (fx * u + fy * v)
                + phase
                + _column([7 * t.phase[0] + 11 * t.tilt for t in things])
            )
            moved[axis] = moved[axis] + amplitude * turned.cos()
    return moved[0], moved[1]


def _draw_by_hand(
    canvas: Tensor, rows: list[int], scenes: Sequence[Scene], k: int, x: Tensor, y: Tensor, pixel: float
) -> None:
    """Thing k of some scenes, painted and outlined in each scene's own style, onto canvas[rows]."""
    things, styles = [scenes[i].things[k] for i in rows], [scenes[i].style for i in rows]
    straight = _local(things, x, y)
    u, v = _wobbled(things, styles, *straight)
    radius = _column([t.radius for t in things])
    edge = _signed_distance(things, u, v) * radius
    paint = edge.clone()
    if missed := [i for i, style in enumerate(styles) if any(style.miss)]:
        right, down, short = (_column([styles[i].miss[j] for i in missed]) for j in range(3))
        aside = _signed_distance([things[i] for i in missed], u[missed] - right, v[missed] - down)
        paint[missed] = aside * radius[missed] + short
    cover = (0.5 - paint / pixel).clamp(0, 1) * _column([not is_empty(t, s) for t, s in zip(things, styles)])

    colour = _colours([t.colour for t in things], styles).expand(-1, -1, *u.shape[1:]).clone()
    if textured := [i for i, thing in enumerate(things) if thing.texture != "plain"]:
        pattern = _pattern([things[i] for i in textured], x, y, pixel)[:, None]
        colour[textured] += pattern * (second_tone(colour[textured]) - colour[textured])
    shade, light = _column([t.shade for t in things]), _column([s.light for s in styles])
    colour = (colour + (shade - light * straight[1].clamp(-1, 1))[:, None]).clamp(0, 1)
    canvas[rows] = canvas[rows] + cover[:, None] * (colour - canvas[rows])

    if lines := [i for i, (t, s) in enumerate(zip(things, styles)) if _pen(t, s) > 0]:
        line = edge[lines].abs() - _column([_pen(things[i], styles[i]) / 2 for i in lines])
        ink = torch.tensor([_ink(things[i], styles[i]) for i in lines], dtype=torch.float32)[:, :, None, None]
        there = [rows[i] for i in lines]
        canvas[there] = canvas[there] + (0.5 - line / pixel).clamp(0, 1)[:, None] * (ink - canvas[there])


def _ink(thing: Thing, style: Style) -> tuple[float, ...]:
    """The colour of a thing's outline, RGB in [0, 1]."""
    own = PALETTES[style.palette][thing.colour]
    if is_empty(thing, style):
        return own
    if style.contour == "own":
        return tuple(0.5 * part for part in own)
    return INK[style.contour] if style.contour in INK else PALETTES[style.palette][style.contour]


# --------------------------------------------------------------------------- strokes


def strokes(scenes: Scene | Sequence[Scene], generator: torch.Generator, size: Size = 64) -> Tensor:
    """A crude hand-painted version of each scene: flat paint, wobbly hard outlines, visible brush marks,
    no texture or shade.

    It is what a user of SDEdit (arXiv:2108.01073v2, Fig. 1) would paint as a guide. Scenes, size and what is
    returned as in `render`."""
    scenes = [scenes] if isinstance(scenes, Scene) else list(scenes)
    n = len(scenes)
    x, y = (repeat(c, "y x -> n y x", n=n) for c in _grid(size, _extent(scenes)))
    shape = x.shape[1:]

    def smooth(cells_y: int, cells_x: int) -> Tensor:
        coarse = torch.randn((n, 1, cells_y, cells_x), generator=generator)
        return F.interpolate(coarse, size=shape, mode="bicubic", align_corners=True)[:, 0]

    wobble_x, wobble_y = 0.022 * smooth(6, 6), 0.022 * smooth(6, 6)
    marks = 0.045 * smooth(16, 3)  # long flat brush marks
    ground = _colours([s.background for s in scenes], [s.style for s in scenes]).expand(n, 3, *shape).clone()
    canvas = _paint_things(ground, scenes, x + wobble_x, y + wobble_y, 0.3 / min(shape), textured=False)
    return 2 * (canvas + marks[:, None]).clamp(0, 1) - 1


def simulate_strokes(
    pictures: Tensor, colours: int = 6, median: int | None = None, rounds: int = 12
) -> Tensor:
    """The paper's own stroke simulation for any picture: a median filter, then an adaptive palette
    (arXiv:2108.01073v2, App. C).

    pictures (b, 3, y, x) in [−1, 1]; `colours` in the palette (the paper varies 3…50); `median` an odd
    window, by default 23 at a width of 256 and in proportion elsewhere. The palette is k-means in RGB  (#
    ours: the paper's is PIL's median cut).
    """
    if median is None:
        median = 2 * round((23 * pictures.shape[-1] / 256 - 1) / 2) + 1
    if colours < 1 or median < 1 or median % 2 == 0:
        raise ArgumentError(
            "strokes",
            f"colours must be ≥ 1 and median an odd width ≥ 1; got colours={colours}, median={median}",
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
