"""What visitors give: uploads and drawings, as the model sees them."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from palimpsest.arguments import ArgumentError
from palimpsest.weights.model import Model
from palimpsest.worlds.files import open_picture, png_bytes
from palimpsest.worlds.reading import PictureError

MEGABYTES = 10  # of an upload
MEGAPIXELS = 25  # of a picture
CANVAS = 512  # pixels of the canvas, on which a picture of the model is enlarged


def upload(path: str | None, model: Model, argument: str = "picture") -> Tensor:
    """An uploaded file as the model sees it: (1, 3, y, x) in [−1, 1].

    Raises ArgumentError for what is no picture, or too large; the file goes by its name, not its path.
    """
    if not path:
        raise ArgumentError(argument, "there is none yet; drop a file here, or take an example")
    file = Path(path)
    try:
        if file.stat().st_size > MEGABYTES * 2**20:
            raise ArgumentError(argument, f"is larger than {MEGABYTES} MB; scale it down first")
        with Image.open(file) as header:
            if header.width * header.height > MEGAPIXELS * 1e6:
                raise ArgumentError(
                    argument,
                    f"has {header.width}×{header.height} pixels, more than {MEGAPIXELS} million; "
                    "scale it down first",
                )
    except ArgumentError:
        raise
    except Image.DecompressionBombError:
        raise ArgumentError(
            argument, f"has more than {MEGAPIXELS} million pixels; scale it down first"
        ) from None
    except (OSError, ValueError, SyntaxError):
        pass  # not Pillow's, or damaged: open_picture says what is wrong
    try:
        return open_picture(file).framed(model.size, model.grid).view()
    except PictureError as error:
        raise ArgumentError(argument, str(error).replace(str(file), file.name)) from None


def painted(editor: Mapping[str, Any] | None, model: Model) -> Tensor:
    """The painting on a canvas, as the model sees it: (1, 3, size, size) in [−1, 1]."""
    canvas = None if editor is None else editor.get("composite") or editor.get("background")
    if canvas is None:
        raise ArgumentError("painting", "the canvas is empty; paint on it, or take an example")
    clear = Image.new("RGB", canvas.size, "white")
    clear.paste(canvas, mask=canvas.getchannel("A") if "A" in canvas.getbands() else None)
    small = clear.resize((model.size, model.size), Image.Resampling.BOX)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 127.5 - 1


def marked(editor: Mapping[str, Any] | None, model: Model) -> Tensor | None:
    """What was brushed on a canvas: (1, 1, size, size) of 0 and 1, 1 where any pixel was; None if nothing."""
    layers = [layer for layer in (editor or {}).get("layers", ()) if layer is not None]
    strokes = [np.asarray(layer.convert("RGBA"))[..., 3] > 127 for layer in layers]
    strokes = [one for one in strokes if one.any()]
    if not strokes:
        return None
    found = torch.from_numpy(np.any(strokes, axis=0).astype(np.float32))[None, None]
    return torch.nn.functional.adaptive_max_pool2d(found, model.size)


def pixels_of(picture: Tensor) -> Image.Image:
    """A picture (1, 3, y, x) in [−1, 1] at its own size."""
    return Image.open(BytesIO(png_bytes(picture)))


def canvas_of(picture: Tensor) -> Image.Image:
    """The same on the canvas, each pixel a square."""
    return pixels_of(picture).resize((CANVAS, CANVAS), Image.Resampling.NEAREST)


def on_canvas(picture: Tensor) -> dict[str, Any]:
    """The value of an editor that shows it, nothing painted."""
    canvas = canvas_of(picture)
    return {"background": canvas, "layers": [], "composite": canvas}


def as_mask(mask: Tensor) -> Tensor:
    """(1, 1, y, x) of 0 and 1 as a picture, white = edit: (1, 3, y, x) in [−1, 1]."""
    return mask.expand(-1, 3, -1, -1) * 2 - 1
