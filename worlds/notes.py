"""A text that a picture file carries beside its pixels: in a PNG an iTXt chunk called "palimpsest", in other
formats EXIF's UserComment (in a TIFF its ImageDescription, for libtiff writes no EXIF).
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

KEYWORD = "palimpsest"
ASCII = b"ASCII\0\0\0"  # how a UserComment says its encoding (EXIF 2.3, Sec. 4.6.5)
MOST = 60_000  # bytes of a UserComment: EXIF in a JPEG has at most 65,533


def saving(form: str, note: str) -> dict[str, Any]:
    """What Pillow's `save` is given besides, so that a file of this format carries the note.

    A note that is too long for EXIF is left out.
    """
    if not note:
        return {}
    if form == "PNG":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt(KEYWORD, note)
        return {"pnginfo": chunks}
    text = ASCII + as_ascii(note).encode("ascii")
    exif = Image.Exif()
    if form == "TIFF":
        exif[ExifTags.Base.ImageDescription] = as_ascii(note)
    else:
        exif[ExifTags.IFD.Exif] = {ExifTags.Base.UserComment: text}
    return {"exif": exif} if len(text) <= MOST else {}


def as_ascii(note: str) -> str:
    """JSON in ASCII letters alone; any other text as a JSON string."""
    try:
        return json.dumps(json.loads(note), ensure_ascii=True)
    except ValueError:
        return json.dumps(note)


def read_note(path: str | Path) -> str | None:
    """The note of a picture file; None where it carries none, or is none of ours. Raises OSError for a
    file that is no picture, or not there.
    """
    with warnings.catch_warnings(), Image.open(path) as picture:
        warnings.simplefilter("ignore")
        if picture.format == "PNG":
            picture.load()  # texts may come after the pixels
            note = picture.text.get(KEYWORD)
            return None if note is None else str(note)
        if picture.format == "TIFF":
            return picture.getexif().get(ExifTags.Base.ImageDescription)
        comment = picture.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
    if isinstance(comment, str):
        comment = comment.encode("latin-1", "replace")
    return comment.removeprefix(ASCII).decode("ascii", "replace") if comment.startswith(ASCII) else None
