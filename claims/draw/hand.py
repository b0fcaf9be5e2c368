"""Six little paintings for `make demo`: python -m palimpsest.claims.draw.hand writes
figures/hand/*.png|jpg and captions.json.

They stand for what a reader might bring: pictures that no renderer of ours made, of odd sizes, in the
file types that people have. So nothing here knows the shapes world. A brush is a row of bristles; each
leaves a thin, half-opaque track of its own tint and thickness, and light from the upper left falls on the
relief of the paint. All is drawn at twice the size, from one seed per picture: the same command gives the
same pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import pi
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from palimpsest.claims.page import RECORDS
from palimpsest.outputs import write_text

PAINT = {
    "red": (206, 38, 44),
    "orange": (240, 132, 30),
    "yellow": (248, 208, 52),
    "green": (44, 148, 76),
    "blue": (36, 92, 200),
    "purple": (124, 58, 166),
    "white": (244, 241, 233),
}


# ---- outlines: (n, 2) points, x right, y down, within the unit circle


def circle(n: int = 120) -> np.ndarray:
    a = np.linspace(0, 2 * pi, n, endpoint=False)
    return np.stack([np.cos(a), np.sin(a)], 1)


def polygon(corners: list[tuple[float, float]]) -> np.ndarray:
    """Straight sides, 30 points each, so that they can wobble."""
    ends = np.array(corners + corners[:1])
    return np.concatenate(
        [np.linspace(p, q, 30, endpoint=False) for p, q in zip(ends[:-1], ends[1:], strict=True)]
    )


def regular(n: int, inner: float | None = None) -> np.ndarray:
    """A regular polygon, or with `inner` a star whose notches lie at that radius. One corner points up."""
    m = n if inner is None else 2 * n
    radii = [1.0 if inner is None or i % 2 == 0 else inner for i in range(m)]
    return polygon([(r * np.sin(2 * pi * i / m), -r * np.cos(2 * pi * i / m)) for i, r in enumerate(radii)])


def heart() -> np.ndarray:
    a = np.linspace(0, 2 * pi, 160, endpoint=False)
    x, y = 16 * np.sin(a) ** 3, 13 * np.cos(a) - 5 * np.cos(2 * a) - 2 * np.cos(3 * a) - np.cos(4 * a)
    return np.stack([x, -y - 2.5], 1) / 17


def crescent() -> np.ndarray:
    """A disc less a smaller disc to its right: the long way round the first, the short way back along the
    second.
    """
    out, back = np.linspace(0.28 * pi, 1.72 * pi, 120), np.linspace(1.5 * pi, 0.5 * pi, 80)
    tip = np.cos(0.28 * pi), np.sin(0.28 * pi)
    outer = np.stack([np.cos(out), np.sin(out)], 1)
    inner = np.stack([tip[0] + 0.62 * np.cos(back), tip[1] * np.sin(back)], 1)
    return np.concatenate([outer, inner]) * 0.95 + (0.12, 0)


def flower(petals: int = 6) -> np.ndarray:
    a = np.linspace(0, 2 * pi, 240, endpoint=False)
    return circle(240) * (0.66 + 0.34 * np.abs(np.cos(petals * a / 2)) ** 0.8)[:, None]


SHAPES = {
    "circle": circle(),
    "square": polygon([(-0.74, -0.74), (0.74, -0.74), (0.74, 0.74), (-0.74, 0.74)]),
    "triangle": regular(3),
    "star": regular(5, 0.46),
    "heart": heart(),
    "crescent": crescent(),
    "flower": flower(),
}


# ---- the brush


@dataclass
class Canvas:
    """Paint and its thickness, at twice the size of the file, with the hand that moves the brush."""

    paint: Image.Image  # RGB
    relief: Image.Image  # L: how thick the paint lies
    rng: np.random.Generator

    def stroke(self, path: np.ndarray, width: float, colour: np.ndarray, opacity: float = 0.8) -> None:
        """One brush stroke along `path` (n, 2) in pixels: bristles of different tint, some of which run
        dry.
        """
        rng, colour = self.rng, colour + self.rng.normal(0, 5, 3)
        along = np.gradient(path, axis=0)
        across = np.stack([-along[:, 1], along[:, 0]], 1) / (
            np.linalg.norm(along, axis=1, keepdims=True) + 1e-6
        )
        draw, thick = ImageDraw.Draw(self.paint, "RGBA"), ImageDraw.Draw(self.relief)
        pressure = np.sin(np.linspace(0.18, 0.9, len(path)) * pi)[:, None] ** 0.35  # lifts at both ends
        for offset in rng.permutation(np.linspace(-0.5, 0.5, max(int(width / 3.2), 2))):
            first = int(rng.beta(1, 9) * len(path) * 0.5)
            last = len(path) - int(rng.beta(1, 7) * len(path) * 0.5)
            track = path + across * (offset + rng.normal(0, 0.012)) * width * pressure
            points = [tuple(p) for p in track[first : max(last, first + 2)]]
            tint = np.clip(colour + rng.normal(0, 7) + rng.normal(0, 3, 3), 0, 255).astype(int)
            alpha = int(255 * np.clip(opacity + rng.normal(0, 0.1), 0.2, 1))
            draw.line(points, (*tint, alpha), int(rng.integers(4, 8)), "curve")
            edge = 30 * (abs(offset) > 0.42)  # paint is pushed to the sides
            depth = int(np.clip(128 + edge + rng.normal(0, 34), 0, 255))
            thick.line(points, depth, int(rng.integers(3, 6)), "curve")

    def sweep(
        self,
        box: tuple[float, float, float, float],
        angle: float,
        width: float,
        colour: np.ndarray,
        opacity: float,
        bend: float = 0.06,
        length: float = 0.62,
    ) -> None:
        """Cover `box` (x0, y0, x1, y1) with overlapping, slightly bent strokes at `angle`."""
        rng, (x0, y0, x1, y1) = self.rng, box
        centre, reach = np.array([(x0 + x1) / 2, (y0 + y1) / 2]), np.hypot(x1 - x0, y1 - y0) / 2
        forth, side = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        lanes = np.arange(-reach, reach + width, width * 0.55)
        spots = [(lane, start) for lane in lanes for start in np.arange(-reach, reach, reach * length)]
        for i in rng.permutation(len(spots)):
            lane, start = spots[i]
            run = reach * length * rng.uniform(1.15, 1.7)
            u = np.linspace(0, 1, 24)[:, None]
            u_c = u - 0.5
            sway = rng.normal(0, bend) * run * (u_c**2) + rng.normal(0, bend / 2) * run * u_c
            begin = start + rng.normal(0, 0.12) * run
            path = centre + forth * (begin + u * run) + side * (lane + rng.normal(0, 0.12) * width + sway)
            self.stroke(path, width * rng.uniform(0.8, 1.25), colour + rng.normal(0, 5), opacity)


def wobble(outline: np.ndarray, rng: np.random.Generator, amount: float = 0.022) -> np.ndarray:
    """A hand's unsteadiness: four slow waves along the outline, in both directions."""
    a = np.linspace(0, 2 * pi, len(outline), endpoint=False)
    return outline + sum(
        rng.normal(0, amount, 2) / k**0.5 * np.sin(k * a + rng.uniform(0, 2 * pi))[:, None]
        for k in (1, 3, 5, 8)
    )


def rough_mask(outline: np.ndarray, side: int, rng: np.random.Generator, fray: float = 1.0) -> Image.Image:
    """The inside of `outline`, its edge frayed as a brush on paper leaves it: long waves and a little
    grain.
    """
    mask = Image.new("L", (side, side))
    points = [tuple(p) for p in outline]
    ImageDraw.Draw(mask).polygon(points, fill=255)
    ImageDraw.Draw(mask).line(points + points[:1], 255, 6, "curve")
    clouds = [amount * (cloud(side, scale, rng) - 128) for scale, amount in ((4, 0.16), (14, 0.3), (50, 0.4))]
    soft = np.asarray(mask.filter(ImageFilter.GaussianBlur(5 * fray)), float) + sum(clouds)
    return Image.fromarray(np.uint8(np.clip((soft - 128) * 5 + 128, 0, 255)))


def cloud(side: int, scale: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise in [0, 255], (side, side), with a grain of about `scale` pixels."""
    small = rng.integers(0, 256, (side // scale + 2,) * 2, dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.BICUBIC), float)


def paint_object(
    canvas: Canvas, shape: str, colour: str, x: float, y: float, radius: float, tilt: float
) -> None:
    """A flat first coat, hatching, the outline traced from inside, a few lights. x, y, radius in picture
    widths.
    """
    rng, side = canvas.rng, canvas.paint.width
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    outline = np.array([x, y]) * side + wobble(SHAPES[shape], rng) @ turn * radius * side
    middle = outline.mean(0)
    base = np.array(PAINT[colour], float)
    layer = Canvas(canvas.paint.copy(), canvas.relief.copy(), rng)
    box = (*outline.min(0), *outline.max(0))
    brush = radius * side * 0.3

    ImageDraw.Draw(layer.paint).polygon([tuple(p) for p in outline], fill=tuple(base.astype(int)))
    layer.sweep(box, rng.uniform(-1.0, -0.5), brush, base - 8, 0.8, bend=0.12, length=0.9)
    layer.sweep(box, rng.uniform(-1.0, -0.5), brush * 0.7, base + 4, 0.5, bend=0.12, length=0.8)
    closed = np.concatenate([outline, outline[:12]])
    pieces = int(rng.integers(5, 8))
    for start in np.linspace(0, len(outline), pieces, endpoint=False).astype(int):  # traced from inside
        run = closed[start : start + len(outline) // pieces + 10]
        inset = run + (middle - run) * 0.07
        layer.stroke(inset, brush * 0.42, base - 16, 0.55)
    for _ in range(4):  # light from the upper left
        start = int(rng.integers(len(outline)))
        run = np.roll(outline, -start, 0)[: len(outline) // 9]
        if (run.mean(0) - middle) @ (1, 1) < 0:
            layer.stroke(run + (middle - run) * rng.uniform(0.2, 0.34), brush * 0.3, base + 26, 0.5)

    mask = rough_mask(outline, side, rng)
    shadow = mask.filter(ImageFilter.GaussianBlur(4)).point(lambda v: v // 5)  # the coat's own thin dark rim
    dark = Image.new("RGB", (side, side), tuple((base * 0.55).astype(int)))
    canvas.paint.paste(dark, mask=ImageChops.offset(shadow, 3, 3))
    canvas.paint.paste(layer.paint, mask=mask)
    canvas.relief.paste(layer.relief, mask=mask)


def finish(canvas: Canvas, size: int) -> Image.Image:
    """Light on the relief, the tooth of the paper, and down to the size of the file."""
    rng, side = canvas.rng, canvas.paint.width
    height = np.asarray(canvas.relief.filter(ImageFilter.GaussianBlur(1.6)), float)
    slope = np.gradient(height, axis=0) + np.gradient(height, axis=1)
    tooth = cloud(side, 2, rng) / 128 - 1
    light = 1 + slope * 0.0075 + tooth * 0.018
    lit = np.asarray(canvas.paint, float) * light[..., None]
    return Image.fromarray(np.uint8(np.clip(lit, 0, 255))).resize((size, size), Image.LANCZOS)


Item = tuple[str, str, float, float, float, float]  # shape, colour, x, y, radius, tilt


def picture(seed: int, size: int, background: str, objects: list[Item]) -> Image.Image:
    """A finished painting: the ground in two coats, then each object."""
    rng, side = np.random.default_rng(seed), 2 * size
    base = np.array(PAINT[background], float)
    canvas = Canvas(
        Image.new("RGB", (side, side), tuple(base.astype(int))), Image.new("L", (side, side), 128), rng
    )
    lean = rng.uniform(-0.35, 0.35)
    canvas.sweep((0, 0, side, side), lean, side * 0.085, base - 5, 0.85)
    canvas.sweep((0, 0, side, side), lean + rng.normal(0, 0.1), side * 0.06, base + 3, 0.45)
    for thing in objects:
        paint_object(canvas, *thing)
    return finish(canvas, size)


PICTURES = {  # file -> caption, seed, size, background, objects
    "heart.png": (
        "a large red heart on a white background",
        1,
        400,
        "white",
        [("heart", "red", 0.5, 0.5, 0.26, -0.06)],
    ),
    "star.png": (
        "a large yellow star on a blue background",
        2,
        480,
        "blue",
        [("star", "yellow", 0.49, 0.52, 0.28, 0.12)],
    ),
    "circle_and_square.png": (
        "a small green circle left of a large purple square on a white background",
        3,
        512,
        "white",
        [("circle", "green", 0.23, 0.56, 0.14, 0.0), ("square", "purple", 0.65, 0.48, 0.26, 0.07)],
    ),
    "flower.jpg": (
        "a large orange flower on a purple background",
        4,
        600,
        "purple",
        [("flower", "orange", 0.52, 0.49, 0.26, 0.2)],
    ),
    "crescent.png": (
        "a large blue crescent on a yellow background",
        5,
        512,
        "yellow",
        [("crescent", "blue", 0.5, 0.5, 0.27, 0.2)],
    ),
    "triangle.jpg": (
        "a large red triangle on a green background",
        6,
        560,
        "green",
        [("triangle", "red", 0.5, 0.54, 0.29, -0.08)],
    ),
}


def torn(image: Image.Image) -> Image.Image:
    """The painting on a transparent sheet: RGBA, paint to a frayed edge, nothing beyond."""
    edge, far = 0.025 * image.width, 0.975 * image.width
    corners = [(edge, edge), (far, edge), (far, far), (edge, far)]
    image.putalpha(rough_mask(polygon(corners), image.width, np.random.default_rng(0), fray=1.6))
    return image


def save(image: Image.Image, path: Path) -> None:
    """JPEG, or PNG in 192 colours; the heart's white ground on a transparent sheet, as drawing programs
    write it.
    """
    if path.suffix == ".jpg":
        image.save(path, quality=90)
    else:
        image = image.quantize(192, dither=Image.Dither.NONE)
        image = torn(image.convert("RGB")) if path.name == "heart.png" else image
        image.save(path, optimize=True)


def main(out: Path = RECORDS / "hand") -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, (_, seed, size, background, objects) in PICTURES.items():
        save(picture(seed, size, background, objects), out / name)
    captions = {name: caption for name, (caption, *_) in PICTURES.items()}
    write_text(out / "captions.json", json.dumps(captions, indent=2) + "\n")


if __name__ == "__main__":
    main()
