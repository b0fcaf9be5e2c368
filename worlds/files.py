"""Picture files in and out, and the round trip "any size in, the same size out".

    photo = open_picture("photo.jpg")                    # the whole file, upright, with its alpha
    photo = photo.framed(model.size, model.grid)         # as the model wants it: size, and multiples of what
    x = photo.view()                                     # (1, 3, y, x) in [-1, 1]: what the model sees
    write_picture(photo.restore(edit(x)), "edited.png")  # of the file's size again

What the model sees has the proportions of the file, its shorter side as asked. Where rows or columns are
no multiple of the model's grid, the picture is continued by its own mirror image (on bars a model would
paint), and what was added is cut off again on the way back. A picture that has the size already is not
resampled: what is not edited comes back bit for bit. So do, at any size, the pixels that a mask keeps,
and those outside the central square of `photo.square()`.

Transparent pixels look white to the model. Alpha stays as it is where a mask keeps the file, and where
what was painted is as white as before; elsewhere it rises, so that what was painted can be seen on any
ground. Of an animation the first frame is read, of several pages the first; 16 bits are rounded to 8.
Colours are those of sRGB: a file with another colour profile is converted as it is read, and what is kept
of it is bit for bit the converted picture (`photo.profile` has the profile's name). What is written says that
it is sRGB.

Pillow, which torchvision brings along, does all of it (worlds/reading.py): torchvision's own decoders leave
CMYK and the transparency of palettes to the caller, and it cannot write WebP."""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, features
from torch import Tensor

from palimpsest.arguments import Caution
from palimpsest.outputs import OutputError, check_writable, whole
from palimpsest.worlds.notes import saving
from palimpsest.worlds.reading import PictureError, read_pixels, srgb_profile

SRGB = srgb_profile()
PNG = {"format": "PNG", "icc_profile": SRGB}
JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0, "icc_profile": SRGB}
WEBP = {"format": "WEBP", "lossless": True, "icc_profile": SRGB}
TIFF = {"format": "TIFF", "icc_profile": SRGB} | (
    {"compression": "tiff_adobe_deflate"} if features.check("libtiff") else {}
)
SAVE = {".png": PNG, ".jpg": JPEG, ".jpeg": JPEG, ".webp": WEBP, ".tif": TIFF, ".tiff": TIFF}
GIF = {"format": "GIF", "save_all": True, "loop": 0, "optimize": False}
MOVES = (".gif",)  # what a walk can be written as
MAX_LENGTH = 16  # of what a model is shown, in shorter sides


@dataclass(frozen=True)
class Original:
    """A picture file as it was, and how a model sees it: what `restore` needs to hand an edit back at the
    file's size.
    """

    path: Path
    rgb: np.ndarray  # uint8 (y, x, 3) in sRGB, as stored: not composited
    alpha: np.ndarray | None  # uint8 (y, x), None where the file is opaque
    box: tuple[int, int, int, int]  # the part the model sees: top, left, height, width
    side: int | None = None  # shorter side of that part as the model sees it; None: as it is
    grid: int = 1  # what the model's rows and columns are multiples of
    profile: str = ""  # name of the colour profile that the file was converted from

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns) of the file."""
        return self.rgb.shape[0], self.rgb.shape[1]

    def square(self) -> Original:
        """The same file with only its central square shown; the rest stays as it is."""
        side = min(self.size)
        return replace(self, box=((self.size[0] - side) // 2, (self.size[1] - side) // 2, side, side))

    def framed(self, side: int | None = None, grid: int = 1) -> Original:
        """The same file shown with its shorter side `side` pixels long (None: not resampled), proportions
        kept, on a grid.

        Raises ValueError for a side or grid below 1, and PictureError where the longer side would be
        MAX_LENGTH times the shorter, or more: such a strip is no picture to a model, and fills the
        memory."""
        for name, value in (("size", side), ("grid", grid)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be 1 or more, got {value}")
        if side is not None and max(self.box[2:]) >= MAX_LENGTH * min(self.box[2:]):
            raise PictureError(
                f"{self.path} is {_by(self.box[2:])} pixels, {MAX_LENGTH} times as long as wide or more: "
                f"cut it into "
                "pieces, or show its central square alone (--crop)"
            )
        return replace(self, side=side, grid=grid)

    @property
    def frame(self) -> tuple[int, int, int, int]:
        """Where in the view the file's own pixels are: top, left, height, width. What is around them is
        their mirror image.
        """
        y, x = self.box[2:]
        if self.side is not None:
            y, x = (max(1, round(n * self.side / min(y, x))) for n in (y, x))
        return -y % self.grid // 2, -x % self.grid // 2, y, x

    @property
    def seen(self) -> tuple[int, int]:
        """(rows, columns) of the view: multiples of the grid."""
        y, x = self.frame[2:]
        return y + -y % self.grid, x + -x % self.grid

    def view(self) -> Tensor:
        """What the model sees: (1, 3, *seen) in [-1, 1], antialiased, on white."""
        pixels = _crop(self.rgb, self.box)
        if self.alpha is not None:
            pixels = _on_white(pixels, _crop(self.alpha, self.box))
        return (
            torch.from_numpy(self._continued(_resized(pixels, self.frame[2:]))).permute(2, 0, 1)[None] / 127.5
            - 1
        )

    def region(self, mask: Tensor) -> Tensor:
        """A mask of the file's box as the model sees it: (1, 1, y, x) -> (1, 1, *seen), 1 where any pixel
        below is 1.
        """
        pooled = F.adaptive_max_pool2d(mask, self.frame[2:])[0].permute(1, 2, 0)
        return torch.from_numpy(self._continued(pooled.numpy())).permute(2, 0, 1)[None]

    def back(self, seen: Tensor) -> Tensor:
        """What was made of the view, at its size or in larger cells, (1, c, y', x'), as the file's box
        has it: (1, c, y, x).
        """
        top, left, y, x = self.frame
        whole = (
            F.interpolate(seen.float().cpu(), self.seen)
            if tuple(seen.shape[-2:]) != self.seen
            else seen.float().cpu()
        )
        own = whole[..., top : top + y, left : left + x]
        return (
            own
            if self.box[2:] == (y, x)
            else F.interpolate(own, self.box[2:], mode="bilinear", antialias=True)
        )

    def restore(self, edited: Tensor, mask: Tensor | None = None) -> Tensor:
        """The file with the edit in it, at the file's size: uint8 (1, 3, y, x), or (1, 4, y, x) if the
        file has alpha.

        `edited` is an edit of `view()`, in [-1, 1]. `mask` has the size of the file's box, as `read_mask`
        and `back` give it: where it is 0 (1 = edit), the file's own pixels stay. Raises ValueError for
        another size of either."""
        if tuple(edited.shape[-2:]) != self.seen:
            raise ValueError(
                f"edited is {_by(edited.shape[-2:])}, and what was to be edited {_by(self.seen)}"
            )
        top, left, y, x = self.box
        keep = np.zeros((y, x), bool)
        if mask is not None:
            if tuple(mask.shape[-2:]) != (y, x):
                raise ValueError(
                    f"mask is {_by(mask.shape[-2:])}, and the file {_by((y, x))}: bring it there with `back`"
                )
            keep = mask[0, 0].cpu().numpy() <= 0.5
        new, parts = _resized(_crop(_bytes(edited), self.frame), (y, x)), []
        if self.alpha is not None:
            new, alpha = _with_alpha(new, _crop(self.alpha, self.box))
            parts = [(self.alpha[..., None], alpha[..., None])]
        whole = []
        for old, made in [(self.rgb, new), *parts]:
            out = old.copy()
            out[top : top + y, left : left + x] = np.where(keep[..., None], _crop(old, self.box), made)
            whole.append(out)
        return torch.from_numpy(np.concatenate(whole, axis=2)).permute(2, 0, 1)[None]

    def _continued(self, pixels: np.ndarray) -> np.ndarray:
        """(y, x, c) of the frame -> of the view: mirrored at its edges, the edge itself included."""
        top, left, y, x = self.frame
        return np.pad(
            pixels, ((top, self.seen[0] - y - top), (left, self.seen[1] - x - left), (0, 0)), mode="symmetric"
        )


def open_picture(path: str | Path | Image.Image) -> Original:
    """Read a picture file (PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF; HEIC with the package pillow-heif; any size
    to 100 megapixels). Raises PictureError.

    A PIL image is taken too; in messages it is called by its file's name, or "the picture"."""
    path, pixels = read_pixels(path)
    return Original(path, pixels.rgb, pixels.alpha, (0, 0, *pixels.rgb.shape[:2]), profile=pixels.profile)


def read_picture(path: str | Path | Image.Image, size: int | None = None, grid: int = 1) -> Tensor:
    """A picture file as (1, 3, y, x) in [-1, 1]: see `Original.framed`. Without a size, as it is. Raises
    PictureError.
    """
    return open_picture(path).framed(size, grid).view()


def read_mask(path: str | Path | Image.Image, of: Original | None = None) -> Tensor:
    """A mask file as (1, 1, y, x) of 0 and 1, 1 = edit here: white in a picture of black and white.

    What else people draw is read as it is most likely meant (`marked`), and a Caution says what was taken for
    "edit". `of` is the picture it belongs to: the mask must have its size, and shows the same box of it.
    Raises PictureError, also where the mask marks nothing or everything."""
    path, pixels = read_pixels(path)
    edit, taken = marked(pixels.grey, pixels.alpha)
    if of is not None:
        if edit.shape != of.size:
            raise PictureError(
                f"mask {path} is {_by(edit.shape)} pixels but {of.path} is {_by(of.size)}: "
                "draw the mask on the picture itself"
            )
        edit = _crop(edit, of.box)
    if not edit.any():
        raise PictureError(
            f"mask {path} marks nothing: paint white where the picture may change, black elsewhere"
        )
    if edit.all():
        raise PictureError(
            f"mask {path} marks everything: paint black where the picture must stay, or give no mask"
        )
    if taken:
        share = f"{100 * edit.mean():.2g} % of the picture"
        warnings.warn(f"mask: {path}: {taken} is edited, {share}", Caution, stacklevel=2)
    return torch.from_numpy(edit.astype(np.float32))[None, None]


def marked(grey: np.ndarray, alpha: np.ndarray | None) -> tuple[np.ndarray, str]:
    """Which pixels a mask marks, bool (y, x), and what that is in words; "" for white on black.

    grey: float (y, x) in [0, 1]; alpha: uint8 (y, x) or None. Without transparency: of two tones the
    lighter; of many what is lighter than mid-grey, or, where that is all or nothing and they differ by a
    quarter of the range, than the middle between them. With transparency: strokes of one tone that is not
    black are painted on clear ground, and mark; else what is transparent marks, and beside black also what
    is white."""
    if alpha is not None:
        painted, clear = grey[alpha >= 128], alpha < 128
        if painted.size and np.ptp(painted) < TONE and painted.min() > TONE:
            return ~clear, "what is painted on transparent ground"
        if not painted.size or ((painted < TONE) | (painted > 1 - TONE)).all():
            white = clear | (grey > 0.5)
            return white, "what is transparent" + (" or white" if (painted > 0.5).any() else "")
        return clear, "what is transparent"
    low, high = float(grey.min()), float(grey.max())
    two = ((grey == low) | (grey == high)).all()
    plain = low < TONE and high > 1 - TONE and ((grey < TONE) | (grey > 1 - TONE)).all()
    if low == high or not two and (low > 0.5 or high <= 0.5) and high - low < 0.25:
        return grey > 0.5, ""
    cut = (low + high) / 2 if two or low > 0.5 or high <= 0.5 else 0.5
    if plain:
        return grey > cut, ""
    return grey > cut, "the lighter of two tones" if two else f"what is lighter than {cut:.0%} grey"


TONE = 0.07  # this near to black, white, or one another, tones are the same


def eight_bits(pictures: Tensor) -> Tensor:
    """Pictures in [−1, 1] as a file would hold them: 256 levels."""
    return ((pictures + 1) * 127.5).round() / 127.5 - 1


def write_picture(picture: Tensor, path: str | Path, note: str = "") -> None:
    """Write (1, 3, y, x) in [-1, 1], or uint8 (1, 3 or 4, y, x), in the format that the suffix names.

    .png, .webp and .tiff are exact, .jpg and .jpeg have quality 95 and, for want of alpha, a white ground.
    The file appears whole or not at all. note: a text that it carries (worlds/notes.py). Raises OutputError,
    and ValueError for a tensor that is no picture.
    """
    path = check_output(path)
    pixels, how = _bytes(picture), SAVE[path.suffix.lower()]
    if pixels.shape[2] == 4 and how["format"] == "JPEG":
        pixels = _on_white(pixels[..., :3], pixels[..., 3])
    with whole(path) as part:
        Image.fromarray(pixels).save(part, **how, **saving(how["format"], note))


def png_bytes(picture: Tensor, note: str = "") -> bytes:
    """What `write_picture` writes into a .png, byte for byte."""
    content = io.BytesIO()
    Image.fromarray(_bytes(picture)).save(content, **PNG, **saving("PNG", note))
    return content.getvalue()


def write_gif(frames: Sequence[Tensor], path: str | Path, seconds: float = 4.0, hold: float = 1.5) -> None:
    """Pictures (1, 3, y, x) of one size, in [-1, 1] or uint8, as a moving one that begins anew at its end.

    seconds: of all frames but the last, which stays for `hold`; a frame stays for at least 20 milliseconds,
    which is the shortest that programs keep to. 256 colours a frame, dithered. The name ends in .gif. Raises
    OutputError, and ValueError where there is no frame or their sizes differ."""
    path = check_output(path, MOVES)
    if not frames or len({tuple(frame.shape) for frame in frames}) > 1:
        raise ValueError("frames: at least one is needed, and all of one size")
    each = max(0.02, seconds / max(1, len(frames) - 1))
    stays = [round(1000 * each)] * (len(frames) - 1) + [round(1000 * max(0.02, hold))]
    first, *more = (Image.fromarray(_bytes(frame)[..., :3]).quantize(256) for frame in frames)
    with whole(path) as part:
        first.save(part, append_images=more, duration=stays, **GIF)


def check_output(path: str | Path, suffixes: Collection[str] = tuple(SAVE)) -> Path:
    """The path, if a picture can be written there: ask before long work, not after it. Raises OutputError.

    suffixes: those that its name may have: of a single picture, or MOVES.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise OutputError(f"cannot write {path}: the name must end in {', '.join(suffixes)}")
    return check_writable(path)


def contact_sheet(
    rows: Sequence[Sequence[Tensor | None]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    *,
    scale: int = 3,
    title: str = "",
) -> Tensor:
    """Pictures (1, 3, y, x) in [-1, 1] on one labelled white sheet: uint8 (1, 3, y, x), for `write_picture`.

    Every pixel becomes a block of scale × scale, so nothing is blurred; None leaves a cell empty; labels
    are wrapped to their cells, the title to the sheet. Raises ValueError."""
    if not rows or not any(t is not None for row in rows for t in row):
        raise ValueError("rows: at least one picture is needed")
    if row_labels and len(row_labels) != len(rows):
        raise ValueError(f"row_labels: {len(row_labels)} labels for {len(rows)} rows")
    columns = max(len(row) for row in rows)
    if column_labels and len(column_labels) != columns:
        raise ValueError(f"column_labels: {len(column_labels)} labels for {columns} columns")
    tiles = [
        [
            t if t is None else Image.fromarray(_bytes(t).repeat(scale, 0).repeat(scale, 1))
            for t in (*row, *[None] * (columns - len(row)))
        ]
        for row in rows
    ]
    some = next(t for row in tiles for t in row if t)
    width = [max((t.width for t in column if t), default=some.width) for column in zip(*tiles)]
    height = [max((t.height for t in row if t), default=some.height) for row in tiles]

    em = max(12, round(min(width) / 13))  # type size, and the measure of every space
    gap, margin, leading = round(em * 0.6), round(em * 1.2), round(em * 1.35)
    font, bold = _font(em), _font(round(em * 1.25), "-Bold")
    across = [_wrap(text, font, w) for text, w in zip(column_labels, width)]
    down = [_wrap(text, font, em * 11) for text in row_labels]
    gutter = max((font.getlength(line) for lines in down for line in lines), default=0)
    x0 = margin + round(gutter + em if gutter else 0)
    left = [x0 + sum(width[:n]) + gap * n for n in range(columns)]
    head = _wrap(title, bold, left[-1] + width[-1] - x0) if title else []
    y_head = margin + (round(em * 2.2) + round(em * 1.6) * (len(head) - 1) if head else 0)
    y0 = y_head + (leading * max(len(lines) for lines in across) + round(em * 0.4) if across else 0)
    top = [y0 + sum(height[:m]) + gap * m for m in range(len(rows))]
    sheet = Image.new("RGB", (left[-1] + width[-1] + margin, top[-1] + height[-1] + margin), "white")
    draw = ImageDraw.Draw(sheet)
    ink = (51, 51, 51)

    for k, line in enumerate(head):
        draw.text((x0, margin + round(em * 1.6) * k), line, ink, bold)
    for n, lines in enumerate(across):  # headings stand on their pictures
        for k, line in enumerate(reversed(lines)):
            draw.text((left[n] + width[n] / 2, y0 - em * 0.4 - leading * k), line, ink, font, anchor="md")
    for m, row in enumerate(tiles):
        for k, line in enumerate(down[m] if down else []):
            y = top[m] + height[m] / 2 + leading * (k - (len(down[m]) - 1) / 2)
            draw.text((x0 - em, y), line, ink, font, anchor="rm")
        for n, tile in enumerate(row):
            if tile is not None:
                sheet.paste(
                    tile, (left[n] + (width[n] - tile.width) // 2, top[m] + (height[m] - tile.height) // 2)
                )
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)[None]


def _crop(pixels: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    top, left, y, x = box
    return pixels[top : top + y, left : left + x]


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (y, x, 3) -> (*size, 3), antialiased; of that size already, untouched."""
    if pixels.shape[:2] == tuple(size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC))


def _by(size: Sequence[int]) -> str:
    return f"{size[1]}×{size[0]}"


def _on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """rgb over white, uint8 (y, x, 3)."""
    a = alpha[..., None].astype(np.uint16)
    return ((rgb * a + 255 * (255 - a) + 127) // 255).astype(np.uint8)  # rounds; stays within 16 bits


def _with_alpha(seen: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours and alpha, uint8, that look like `seen` (y, x, 3) on white, with this alpha (y, x) wherever
    it suffices.

    A colour c over white needs 1 − min(c)/255 at least. If a tenth of what lacks for opaque is needed, it
    may be what an autoencoder spoils; from three tenths on the pixel becomes opaque."""
    a = alpha / np.float32(255)
    need = 1 - seen.min(2) / np.float32(255)
    a = a + (1 - a) * (((need - a) / np.maximum(1 - a, 1e-6) - 0.1) / 0.2).clip(0, 1)
    colours = 255 - (255 - seen) / np.maximum(a, 1 / np.float32(255))[..., None]
    alpha = (255 * a).round().astype(np.uint8)
    colours = np.where(alpha[..., None] == 0, seen, colours)  # what nobody sees is not exaggerated
    return colours.clip(0, 255).round().astype(np.uint8), alpha


def _bytes(picture: Tensor) -> np.ndarray:
    """(1, c, y, x), float in [-1, 1] or uint8 -> uint8 (y, x, c)."""
    if picture.ndim != 4 or picture.shape[0] != 1 or picture.shape[1] not in (3, 4) or 0 in picture.shape:
        raise ValueError(
            f"picture has shape {tuple(picture.shape)}: (1, 3, y, x) is wanted, one picture at a time"
        )
    picture = picture.detach()[0].permute(1, 2, 0).cpu()
    if picture.dtype != torch.uint8:
        if not picture.isfinite().all():
            raise ValueError(
                "picture holds values that are not finite: a guidance scale, weight or rate that made it is "
                "too large"
            )
        picture = ((picture.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return picture.contiguous().numpy()


def _font(size: int, weight: str = "") -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib ships: it has the ε, σ, ₀ and → that captions of figures need."""
    import matplotlib

    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"DejaVuSans{weight}.ttf"), size
    )


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Break at spaces into lines no wider than `width`; a single longer word keeps its line."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
