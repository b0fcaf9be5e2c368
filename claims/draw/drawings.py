"""Twenty-four plain drawings as a child or a teacher makes them in a paint program:
python -m palimpsest.claims.draw.drawings writes figures/hand/plain/*.png and captions.json.

They are kept out of training and stand for what a reader brings. Nothing here knows the shapes world: the
points of every outline were set by hand, a mouse follows them with a tremor, sides of a corner overshoot,
paint is scribbled, poured or brushed and misses the outline a little. One seed for each drawing: the same
command gives the same pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import cos, pi, sin
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from palimpsest.claims.page import RECORDS
from palimpsest.outputs import write_text

FOLDER = RECORDS / "hand" / "plain"
PAINT = {
    "red": (226, 33, 38),
    "orange": (250, 138, 26),
    "yellow": (252, 222, 20),
    "green": (28, 158, 62),
    "blue": (32, 74, 208),
    "purple": (132, 52, 168),
    "white": (255, 255, 255),
    "black": (12, 12, 14),
}
PENCIL, PAPER = (70, 70, 76), (250, 248, 243)

# ---- outlines: strokes of points set by hand in a frame of 100 × 100; "~" smooth, "-" straight lines

Stroke = tuple[str, str]
OUTLINES: dict[str, list[Stroke]] = {
    "circle a": [("~", "51,3 72,8 91,24 97,49 90,74 71,93 47,97 23,90 7,71 3,46 11,23 30,7 53,3")],
    "circle b": [("~", "40,4 66,3 88,17 97,42 93,70 75,92 48,96 22,91 5,68 4,40 14,17 36,5 47,2")],
    "square a": [("-", "6,9 94,4"), ("-", "93,2 97,92"), ("-", "98,93 4,96"), ("-", "5,97 8,6")],
    "square b": [
        ("~", "10,5 48,8 92,4"), ("~", "93,5 90,49 95,94"), ("~", "95,95 50,91 5,96"), ("~", "6,96 9,50 7,3"),
    ],
    "triangle a": [("-", "50,4 96,92"), ("-", "98,91 3,94"), ("-", "2,95 52,3")],
    "triangle b": [("~", "46,6 66,44 95,90"), ("~", "96,93 50,88 6,95"), ("~", "4,94 28,46 49,4")],
    "star a": [("-", "50,3 61,36 97,37 68,58 80,95 50,73 20,94 31,59 3,38 38,36 51,4")],
    "star b": [("-", "47,5 63,33 95,31 72,57 86,92 53,77 17,96 29,60 4,41 36,37 48,6")],
    "heart a": [
        ("~", "50,27 44,13 29,5 12,10 3,27 6,46 20,64 36,79 51,97"),
        ("~", "50,28 57,12 72,5 89,11 97,28 93,47 79,65 64,79 50,97"),
    ],
    "heart b": [
        ("~", "48,24 38,7 19,6 5,21 6,41 19,60 35,76 46,95"),
        ("~", "49,26 60,9 78,4 93,17 95,38 84,58 66,74 46,96"),
    ],
    "ring a": [
        ("~", "49,3 73,7 93,26 97,52 88,77 68,94 44,97 20,88 5,66 4,41 15,18 35,5 52,3"),
        ("~", "50,31 62,35 70,47 67,61 56,69 42,68 32,57 32,43 40,33 52,31"),
    ],
    "cross a": [("-", "36,4 65,5 64,36 97,34 96,64 66,64 68,97 35,95 36,65 4,66 3,36 37,35 36,3")],
    "cross b": [("-", "37,7 61,3 63,38 95,41 97,67 64,63 60,96 33,97 38,66 5,61 4,35 36,39 38,5")],
    "crescent a": [
        ("~", "66,4 42,5 20,18 7,42 10,68 27,89 51,97 74,93"),
        ("~", "75,93 56,81 44,62 43,40 51,19 67,4"),
    ],
    "crescent b": [
        ("~", "71,6 47,3 23,13 7,36 6,62 20,85 45,97 70,92"),
        ("~", "72,91 53,84 40,66 38,43 48,20 70,7"),
    ],
    "diamond a": [("-", "50,2 83,49"), ("-", "84,47 52,98"), ("-", "53,97 17,52"), ("-", "18,54 51,3")],
    "diamond b": [
        ("~", "47,4 66,25 80,52"), ("~", "81,50 64,76 50,97"),
        ("~", "51,96 34,74 18,46"), ("~", "19,48 35,24 48,3"),
    ],
    "flower a": [
        ("~", "38,30 31,15 42,3 57,4 66,16 60,31"),
        ("~", "61,30 75,20 91,26 95,41 86,52 70,51"),
        ("~", "70,50 88,56 91,72 80,84 65,81 59,67"),
        ("~", "60,66 61,84 50,96 36,94 30,80 38,67"),
        ("~", "39,66 24,78 9,71 6,56 16,45 32,49"),
        ("~", "31,50 15,44 11,30 20,18 35,19 40,31"),
    ],
    "flower b": [
        ("~", "37,33 27,17 39,4 55,6 62,20 57,34"),
        ("~", "57,33 70,17 87,23 92,40 80,51 64,49"),
        ("~", "64,49 84,52 90,68 79,82 63,79 56,63"),
        ("~", "57,62 64,79 53,94 36,95 28,81 38,65"),
        ("~", "38,66 24,81 8,74 4,57 15,47 33,51"),
        ("~", "33,51 14,48 10,32 19,20 33,22 39,34"),
    ],
}  # fmt: skip


def stroke(spec: Stroke) -> np.ndarray:
    """The points of a stroke, (n, 2) in [0, 1]: a Catmull-Rom curve, or straight lines."""
    points = np.array([[float(v) for v in pair.split(",")] for pair in spec[1].split()]) / 100
    t = np.linspace(0, 1, 24, endpoint=False)[:, None]
    pieces = []
    for k in range(len(points) - 1):
        p, q = points[k], points[k + 1]
        if spec[0] == "-":
            pieces.append(p + t * (q - p))
            continue
        before, after = points[max(k - 1, 0)], points[min(k + 2, len(points) - 1)]
        a, b = (q - before) / 2, (after - p) / 2
        pieces.append(
            (2 * t**3 - 3 * t**2 + 1) * p
            + (t**3 - 2 * t**2 + t) * a
            + (3 * t**2 - 2 * t**3) * q
            + (t**3 - t**2) * b
        )
    return np.concatenate([*pieces, points[-1:]])


# ---- the hand


@dataclass
class Sheet:
    """A picture in the making, at three times its size, and the hand that draws on it."""

    width: int
    height: int
    ground: tuple[int, int, int]
    seed: int
    scale: int = 3
    rng: np.random.Generator = field(init=False)
    image: Image.Image = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.image = Image.new("RGB", (self.width * self.scale, self.height * self.scale), self.ground)

    def placed(self, name: str, x: float, y: float, size: float, tilt: float) -> list[np.ndarray]:
        """The strokes of an outline in pixels of the sheet, with a tremor; x, y, size in shorter sides."""
        side, c, s = min(self.image.size), cos(tilt), sin(tilt)
        found = []
        for spec in OUTLINES[name]:
            points = (stroke(spec) - 0.5) @ np.array([[c, s], [-s, c]]) * size + (x, y)
            way = np.hypot(*np.diff(points, axis=0, prepend=points[:1]).T).cumsum()[:, None]
            tremor = sum(
                amount * self.rng.normal(0, 1, 2) * np.sin(2 * pi * (f * way + self.rng.random(2)))
                for f, amount in ((1.2, 0.005), (4, 0.0025), (11, 0.0009))
            )
            found.append((points + tremor) * side)
        return found

    def trace(self, points: np.ndarray, colour: tuple[int, ...], width: float, press: float = 0.0) -> None:
        """A line of a round pen, `width` in hundredths of the shorter side, pressed now more, now less."""
        draw, thick = ImageDraw.Draw(self.image), width / 100 * min(self.image.size)
        phase = self.rng.uniform(0, 2 * pi)
        for k, (p, q) in enumerate(zip(points[:-1], points[1:])):
            w = thick * (1 + press * sin(0.13 * k + phase))
            for t in np.linspace(0, 1, max(2, int(np.hypot(*(q - p)) / max(w / 4, 1)) + 1)):
                x, y = p + t * (q - p)
                draw.ellipse((x - w / 2, y - w / 2, x + w / 2, y + w / 2), fill=colour)

    def inside(self, strokes: list[np.ndarray], shrink: float = 0.0) -> np.ndarray:
        """Where an outline is filled, bool (rows, columns); of two closed strokes the second is a hole."""
        mask = Image.new("L", self.image.size)
        closed = [s for s in strokes if np.hypot(*(s[0] - s[-1])) < 0.1 * np.ptp(s, axis=0).max()]
        draw = ImageDraw.Draw(mask)
        if len(closed) == len(strokes) == 2:
            draw.polygon([tuple(p) for p in strokes[0]], fill=255)
            draw.polygon([tuple(p) for p in strokes[1]], fill=0)
        elif len(strokes) > 4:  # petals: each for itself, and what they stand around
            for s in strokes:
                draw.polygon([tuple(p) for p in s], fill=255)
            draw.polygon([tuple(s[0]) for s in strokes], fill=255)
        else:
            ends = strokes if len(strokes) != 2 else [strokes[0], strokes[1][:: -1 if turned(strokes) else 1]]
            draw.polygon([tuple(p) for s in ends for p in s], fill=255)
        if shrink:
            mask = mask.filter(ImageFilter.MinFilter(2 * int(shrink * min(self.image.size) / 200) + 1))
        return np.asarray(mask) > 127

    def pour(self, mask: np.ndarray, colour: tuple[int, ...], miss: tuple[float, float] = (0.0, 0.0)) -> None:
        """Paint all over a mask, moved aside by `miss` in hundredths of the shorter side."""
        move = [round(m / 100 * min(self.image.size)) for m in miss]
        mask = np.roll(mask, (move[1], move[0]), (0, 1))
        self.image.paste(colour, mask=Image.fromarray(np.uint8(mask * 255)))

    def scribble(
        self, mask: np.ndarray, colour: tuple[int, ...], angle: float, width: float, gap: float
    ) -> None:
        """To and fro across a mask with a pen, `gap` widths from line to line, turning early or late."""
        rows, columns = np.nonzero(mask)
        along, across = np.array([cos(angle), sin(angle)]), np.array([-sin(angle), cos(angle)])
        thick = width / 100 * min(self.image.size)
        u, v = np.stack([columns, rows], 1) @ along, np.stack([columns, rows], 1) @ across
        last = None
        for k, lane in enumerate(np.arange(v.min() + thick / 3, v.max(), gap * thick)):
            near = np.sort(u[np.abs(v - lane) < thick / 4])
            if not len(near):
                continue
            for run in np.split(near, np.nonzero(np.diff(near) > 2 * thick)[0] + 1):
                ends = np.array([run[0] + thick / 3, run[-1] - thick / 3]) + self.rng.normal(
                    0, 0.25 * thick, 2
                )
                ends = ends[:: 1 if k % 2 else -1]
                a, b = (e * along + (lane + self.rng.normal(0, 0.1 * thick)) * across for e in ends)
                if last is not None and np.hypot(*(a - last)) < 3.5 * thick:
                    self.trace(np.stack([last, a]), colour, width, 0.1)
                bow = (a + b) / 2 + across * self.rng.normal(0, 0.2 * thick)
                self.trace(np.stack([a, bow, b]), colour, width, 0.1)
                last = b

    def crayon(self, before: Image.Image, grain: float = 0.25) -> None:
        """What was drawn since `before` lies on the tooth of the paper: here and there it does not take."""
        side = min(self.image.size) // 3
        tooth = Image.fromarray(self.rng.integers(0, 256, (side, side), dtype=np.uint8)).resize(
            self.image.size
        )
        takes = np.asarray(tooth.filter(ImageFilter.GaussianBlur(1.2)), float) / 255 > grain
        self.image = Image.composite(self.image, before, Image.fromarray(np.uint8(takes * 255)))

    def finished(self) -> Image.Image:
        """At its own size, smooth at the edges as paint programs make them."""
        return self.image.resize((self.width, self.height), Image.BOX)


def turned(strokes: list[np.ndarray]) -> bool:
    """Whether the second of two strokes begins where the first began."""
    first, second = strokes
    return np.hypot(*(second[0] - first[0])) < np.hypot(*(second[0] - first[-1]))


# ---- the drawings


@dataclass
class Item:
    """One thing: its outline, paint ("" leaves it empty), where and how large, in shorter sides; what it is
    outlined with and how wide, in hundredths; how it is filled, and what is drawn into it."""

    outline: str
    paint: str
    x: float
    y: float
    size: float
    tilt: float = 0.0
    line: str = "black"
    width: float = 1.6
    fill: str = "pour"
    miss: tuple[float, float] = (0.0, 0.0)
    inside: str = ""
    dots: tuple[tuple[float, float], ...] = ()


def colour(name: str) -> tuple[int, int, int]:
    return {"pencil": PENCIL, "paper": PAPER}.get(name) or PAINT[name]


def draw_item(sheet: Sheet, item: Item) -> None:
    """The paint first, then what is drawn into it, then the outline."""
    strokes, before = sheet.placed(item.outline, item.x, item.y, item.size, item.tilt), sheet.image.copy()
    mask = sheet.inside(strokes, shrink=1.2 if item.miss != (0.0, 0.0) else 0.0)
    if item.fill == "pour" and item.paint:
        sheet.pour(mask, colour(item.paint), item.miss)
    elif item.fill in ("scribble", "crayon") and item.paint:
        sheet.scribble(mask, colour(item.paint), -0.7 + item.tilt, 2.6, 0.72)
    if item.inside == "stripes":
        painted = sheet.image.copy()
        sheet.scribble(mask, pale(item.paint), 0.5 + item.tilt, 0.22 * item.size * 50, 2.1)
        sheet.image = Image.composite(sheet.image, painted, Image.fromarray(np.uint8(mask * 255)))
    for x, y in item.dots:
        at = np.array([item.x + (x - 0.5) * item.size, item.y + (y - 0.5) * item.size]) * min(
            sheet.image.size
        )
        around = np.linspace(0, 2 * pi, 12)[:, None]
        loop = at + 0.03 * item.size * min(sheet.image.size) * np.concatenate(
            [np.cos(around), np.sin(around)], 1
        )
        sheet.trace(loop, pale(item.paint), 0.11 * item.size * 100)
    if item.width:
        for points in strokes:
            sheet.trace(points, colour(item.line), item.width, 0.12)
    if item.fill == "crayon":
        sheet.crayon(before)


def pale(name: str) -> tuple[int, ...]:
    """The second tone of what has two: paler, or grey where the first is pale."""
    tone = colour(name)
    light = 0.3 * tone[0] + 0.59 * tone[1] + 0.11 * tone[2] > 190
    return tuple(round(0.55 * c) if light else round(0.38 * c + 158) for c in tone)


DRAWINGS: dict[
    str, tuple[str, tuple[int, int], str, list[Item]]
] = {  # file -> caption, width and height, ground, things
    "star_outlined": (
        "a large yellow star on a white background",
        (400, 400),
        "white",
        [Item("star a", "yellow", 0.49, 0.52, 0.84)],
    ),
    "star_empty": (
        "a large blue star on a white background",
        (360, 360),
        "white",
        [Item("star b", "", 0.5, 0.48, 0.72, line="blue", width=2.6)],
    ),
    "heart_flat": (
        "a large red heart on a white background",
        (400, 400),
        "white",
        [Item("heart a", "red", 0.53, 0.5, 0.62, width=0)],
    ),
    "heart_scribbled": (
        "a large purple heart on a yellow background",
        (420, 420),
        "yellow",
        [Item("heart b", "purple", 0.46, 0.52, 0.66, fill="scribble", line="purple", width=2.2)],
    ),
    "circle_huge": (
        "a large orange circle on a blue background",
        (400, 400),
        "blue",
        [Item("circle a", "orange", 0.5, 0.5, 0.86, line="black", width=2.2)],
    ),
    "circle_small": (
        "a small green circle on a white background",
        (400, 400),
        "white",
        [Item("circle b", "green", 0.3, 0.66, 0.3, width=1.2)],
    ),
    "square_missed": (
        "a large green square on a white background",
        (380, 380),
        "white",
        [Item("square a", "green", 0.5, 0.53, 0.56, miss=(2.4, -1.8), line="pencil", width=1.4)],
    ),
    "square_stripes": (
        "a large striped blue square on a white background",
        (400, 400),
        "white",
        [Item("square b", "blue", 0.52, 0.5, 0.56, 0.08, inside="stripes", line="blue")],
    ),
    "triangle_flat": (
        "a large orange triangle on a black background",
        (400, 400),
        "black",
        [Item("triangle a", "orange", 0.47, 0.5, 0.62, width=0)],
    ),
    "triangle_crayon": (
        "a small red triangle on a white background",
        (400, 400),
        "paper",
        [Item("triangle b", "red", 0.62, 0.38, 0.32, fill="crayon", line="red", width=2)],
    ),
    "ring_outlined": (
        "a large purple ring on a white background",
        (400, 400),
        "white",
        [Item("ring a", "purple", 0.5, 0.49, 0.64)],
    ),
    "cross_flat": (
        "a large red cross on a white background",
        (320, 320),
        "white",
        [Item("cross a", "red", 0.5, 0.5, 0.6, width=0)],
    ),
    "cross_empty": (
        "a large green cross on a white background",
        (400, 400),
        "white",
        [Item("cross b", "", 0.45, 0.52, 0.58, line="green", width=2.4)],
    ),
    "crescent_outlined": (
        "a large yellow crescent on a blue background",
        (400, 400),
        "blue",
        [Item("crescent a", "yellow", 0.52, 0.5, 0.68, 0.1)],
    ),
    "crescent_crayon": (
        "a large blue crescent on a white background",
        (400, 400),
        "paper",
        [Item("crescent b", "blue", 0.48, 0.5, 0.6, fill="crayon", line="blue", width=2.2)],
    ),
    "diamond_missed": (
        "a large red diamond on a white background",
        (400, 400),
        "white",
        [Item("diamond a", "red", 0.55, 0.5, 0.66, miss=(-1.8, 2.0))],
    ),
    "flower_dots": (
        "a large dotted orange flower on a white background",
        (420, 420),
        "white",
        [
            Item(
                "flower a",
                "orange",
                0.5,
                0.5,
                0.66,
                line="black",
                width=1.4,
                dots=(
                    (0.5, 0.48),
                    (0.48, 0.17),
                    (0.78, 0.36),
                    (0.75, 0.68),
                    (0.44, 0.82),
                    (0.22, 0.6),
                    (0.25, 0.3),
                ),
            )
        ],
    ),
    "flower_scribbled": (
        "a large white flower on a green background",
        (400, 400),
        "green",
        [Item("flower b", "white", 0.51, 0.5, 0.62, fill="scribble", line="white", width=2)],
    ),
    "circle_over_square": (
        "a small red circle above a large blue square on a white background",
        (400, 400),
        "white",
        [
            Item("circle a", "red", 0.52, 0.2, 0.28, width=1.2),
            Item("square b", "blue", 0.47, 0.65, 0.46, width=1.4),
        ],
    ),
    "heart_and_star": (
        "a small red heart left of a small yellow star on a white background",
        (400, 400),
        "white",
        [
            Item("heart b", "red", 0.26, 0.47, 0.32, width=0),
            Item("star a", "yellow", 0.72, 0.53, 0.36, line="orange", width=1.4),
        ],
    ),
    "triangle_and_ring": (
        "a large green triangle left of a small purple ring on a yellow background",
        (480, 360),
        "yellow",
        [Item("triangle b", "green", 0.42, 0.5, 0.5), Item("ring a", "purple", 1.0, 0.47, 0.32, width=1.2)],
    ),
    "star_and_moon": (
        "a small yellow star above a large white crescent on a black background",
        (360, 480),
        "black",
        [
            Item("star b", "yellow", 0.62, 0.25, 0.32, width=0),
            Item("crescent b", "white", 0.45, 0.9, 0.48, -0.15, width=0),
        ],
    ),
    "diamond_and_cross": (
        "a small blue diamond left of a small orange cross on a white background",
        (420, 420),
        "white",
        [
            Item("diamond b", "blue", 0.26, 0.6, 0.36, width=1.2, fill="scribble", line="pencil"),
            Item("cross b", "orange", 0.74, 0.5, 0.3, width=1.2),
        ],
    ),
    "flower_and_circle": (
        "a large purple flower left of a small orange circle on a white background",
        (540, 360),
        "white",
        [
            Item("flower b", "purple", 0.48, 0.5, 0.54, width=1.4),
            Item("circle b", "orange", 1.13, 0.52, 0.3, width=1.4, miss=(1.5, 1.5)),
        ],
    ),
}


def drawing(name: str) -> Image.Image:
    """One of DRAWINGS, finished."""
    _, (width, height), ground, items = DRAWINGS[name]
    sheet = Sheet(width, height, colour(ground), seed=sum(map(ord, name)))
    for item in items:
        draw_item(sheet, item)
    return sheet.finished()


def main(out: Path = FOLDER) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in DRAWINGS:
        drawing(name).quantize(64, dither=Image.Dither.NONE).save(out / f"{name}.png", optimize=True)
    captions = {f"{name}.png": caption for name, (caption, *_) in DRAWINGS.items()}
    write_text(out / "captions.json", json.dumps(captions, indent=2) + "\n")


if __name__ == "__main__":
    main()
