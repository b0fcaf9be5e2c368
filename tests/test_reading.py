"""worlds/reading: only pixels can make a file damaged; transparency of every depth, profiles, masks of every
kind, and what a file is that cannot be read."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch.testing import assert_close

from palimpsest.arguments import Caution
from palimpsest.outputs import OutputError
from palimpsest.worlds.files import (
    PictureError,
    open_picture,
    read_mask,
    read_picture,
    write_gif,
    write_picture,
)

AVIF = pytest.mark.skipif(
    "AVIF" not in Image.registered_extensions().values(), reason="Pillow writes AVIF from 11.3 on"
)
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def chunk(name, data, crc=None):
    crc = zlib.crc32(name + data) if crc is None else crc
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)


def png(path, bits, kind, rows, *more):
    """A PNG written by hand: rows of bytes, `more` chunks of (name, data) before them."""
    x = len(rows[0]) * 8 // (bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind])
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", x, len(rows), bits, kind, 0, 0, 0))
        + b"".join(chunk(*one) for one in more)
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
        + chunk(b"IEND", b"")
    )
    return path


def with_chunks(path, *chunks):
    """The picture PIXELS as a PNG with these chunks after its header."""
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG")
    content = stream.getvalue()
    path.write_bytes(content[:33] + b"".join(chunks) + content[33:])
    return path


# ---- what lies beside the pixels ----


@pytest.mark.parametrize(
    "beside",
    [
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 2_000_000)),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"x" * 2_000_000)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 2_000_000)),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"x" * 2_000_000)),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 4\nzzzz")),
        chunk(b"zTXt", b"no end"),
        chunk(b"iCCP", b"large\0\0" + zlib.compress(bytes(2_000_000))),
        chunk(b"iCCP", b"odd\0\7nothing packed"),
        chunk(b"iCCP", b""),
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"),
        chunk(b"eXIf", b"no exif"),
        chunk(b"tEXt", b"a checksum that is wrong\0", crc=1),
        chunk(b"gAMA", b"\0"),
        chunk(b"pHYs", b"\0\1"),
        chunk(b"sRGB", b""),
        chunk(b"tIME", b"\xff" * 3),
        chunk(b"acTL", b"\xff" * 8),
        chunk(b"fcTL", b"\xff" * 3),
    ],
)
def test_what_lies_beside_the_pixels_of_a_png_does_not_damage_it(tmp_path, beside):
    assert (open_picture(with_chunks(tmp_path / "a.png", beside)).rgb == PIXELS).all()


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "TIFF", pytest.param("AVIF", marks=AVIF), "PNG"])
def test_broken_exif_and_profiles_leave_the_picture_as_it_is(tmp_path, format):
    Image.fromarray(PIXELS).save(tmp_path / "plain", format, quality=90)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        extra = {} if format == "TIFF" else {"exif": b"Exif\0\0" + b"broken" * 9}
        if format == "AVIF":
            exif = Image.Exif()
            exif[0x010F] = "a maker"
            extra = {"exif": exif.tobytes()}
        Image.fromarray(PIXELS).save(
            tmp_path / "odd", format, quality=90, icc_profile=b"broken" * 99, **extra
        )
    if format == "AVIF":
        content = (tmp_path / "odd").read_bytes()
        assert content.count(b"MM\0*") == 1
        (tmp_path / "odd").write_bytes(content.replace(b"MM\0*", b"XX\0*"))
    assert (open_picture(tmp_path / "odd").rgb == open_picture(tmp_path / "plain").rgb).all()
    assert open_picture(tmp_path / "odd").profile == ""


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_every_orientation_of_a_camera_is_applied(tmp_path, orientation, format):
    corner = np.zeros((16, 24, 3), np.uint8)
    corner[:8, :8], corner[:8, 16:] = 255, (255, 0, 0)  # as it is to be seen
    a = Image.fromarray(corner)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that the camera made
    stored = a if orientation == 1 else a.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a", format, exif=exif, quality=100)
    seen = open_picture(tmp_path / "a").rgb.astype(int)
    assert seen.shape == corner.shape and np.abs(seen - corner).mean() < 12


def test_an_orientation_in_old_texts_of_a_png_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    old = b"\nexif\n      26\n" + exif.tobytes().hex().encode()
    for beside in (
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(old)),
        chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'),
    ):
        assert (open_picture(with_chunks(tmp_path / "a.png", beside)).rgb == np.rot90(PIXELS, -1)).all()


@pytest.mark.parametrize("where", [b"IDAT", b"tRNS"])
def test_pixels_with_a_wrong_checksum_are_damaged(tmp_path, where):
    file = png(tmp_path / "a.png", 8, 0, [b"\x80\0"], (b"tRNS", b"\0\x80"))
    content = bytearray(file.read_bytes())
    content[content.index(where) + 4] ^= 1
    file.write_bytes(content)
    with pytest.raises(PictureError, match="a.png is damaged"):
        open_picture(file)


def test_a_file_that_comes_through_a_pipe_is_read(tmp_path):
    import os
    import threading

    Image.fromarray(PIXELS).save(tmp_path / "a.webp", lossless=True)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(
        target=lambda: (tmp_path / "pipe").write_bytes((tmp_path / "a.webp").read_bytes())
    )
    writer.start()
    assert (open_picture(tmp_path / "pipe").rgb == PIXELS).all()
    writer.join()


# ---- transparency: the left half is transparent, or half so; the right is solid ----

OFF, ON = (0, 0), (255, 255)


@pytest.mark.parametrize(
    "bits, kind, row, key, left, right",
    [
        (1, 0, b"\xf0", b"\0\1", 0, 255),
        (1, 0, b"\x0f", b"\0\0", 0, 255),
        (2, 0, b"\xff\0", b"\0\3", 0, 255),
        (2, 0, b"\x55\0", b"\0\1", 0, 255),
        (4, 0, b"\xff\xff\0\0", b"\0\x0f", 0, 255),
        (4, 0, b"\x77\x77\0\0", b"\0\7", 0, 255),
        (8, 0, b"\x80\x80\0\0", b"\0\x80", 0, 255),
        (16, 0, b"\x80\1\x80\1\x80\2\x80\2", b"\x80\1", 0, 255),
        (8, 2, b"\1\2\3" * 2 + b"\1\2\4" * 2, b"\0\1\0\2\0\3", 0, 255),
        (16, 2, b"\x10\1\x20\1\x30\1" * 2 + bytes(12), b"\x10\1\x20\1\x30\1", 0, 255),
        (1, 3, b"\xf0", b"\xff\x80", 128, 255),
        (2, 3, b"\x55\0", b"\xff\x20", 32, 255),
        (4, 3, b"\x11\x11\0\0", b"\xff\0", 0, 255),
        (8, 3, b"\1\1\0\0", b"\xff\x80", 128, 255),
        (8, 4, b"\x50\x40" * 2 + b"\x50\xff" * 2, None, 64, 255),
        (16, 4, b"\x50\x50\x40\0" * 2 + b"\x50\x50\xff\xff" * 2, None, 64, 255),
        (8, 6, b"\1\2\3\x40" * 2 + b"\1\2\3\xff" * 2, None, 64, 255),
        (16, 6, b"\1\1\2\2\3\3\x40\0" * 2 + b"\1\1\2\2\3\3\xff\xff" * 2, None, 64, 255),
    ],
)
def test_transparency_of_every_depth_and_colour_type(tmp_path, bits, kind, row, key, left, right):
    more = [(b"PLTE", b"\x0a\x14\x1e\xc8\x64\x32")] if kind == 3 else []
    more += [] if key is None else [(b"tRNS", key)]
    file = png(tmp_path / "a.png", bits, kind, [row] * 3, *more)
    for picture in (open_picture(file), open_picture(Image.open(file))):
        half = picture.rgb.shape[1] // 2
        assert picture.alpha is not None
        assert (picture.alpha[:, :half] == left).all() and (picture.alpha[:, half:] == right).all()


def test_deep_pictures_keep_their_scale(tmp_path):
    for name, values, expected in (
        ("16.tif", np.full((4, 5), 51 * 257, np.uint16), 51),
        ("big.tif", np.full((4, 5), 51 * 257, ">u2"), 51),
        ("32.tif", np.full((4, 5), 51 * 257, np.int32), 51),
        ("unit.tif", np.full((4, 5), 0.2, np.float32), 51),
        ("float.tif", np.full((4, 5), 51.0, np.float32), 51),
    ):
        Image.fromarray(values).save(tmp_path / name)
        assert (open_picture(tmp_path / name).rgb == expected).all(), name
    values[0, :2] = np.nan, np.inf
    Image.fromarray(values).save(tmp_path / "nan.tif")
    assert open_picture(tmp_path / "nan.tif").rgb[..., 0].tolist() == [[0, 255] + [51] * 3] + [[51] * 5] * 3
    for name, values, tags, expected in (
        ("white_is_0.tif", np.full((4, 5), 51 * 257, np.uint16), {262: 0}, 204),
        ("turned.tif", np.full((4, 5), 51 * 257, np.uint16), {262: 0, 0x0112: 6}, 204),
        ("signed.tif", np.full((4, 5), 51 * 128, np.uint16), {339: 2}, 51),
        ("deep.tif", np.full((4, 5), 51 * 0x01010100, np.int32), {}, 102),
    ):
        Image.fromarray(values).save(tmp_path / name, tiffinfo=tags)
        assert (open_picture(tmp_path / name).rgb == expected).all(), name


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "I", "F", "HSV"]
)
def test_a_pil_image_of_any_mode_is_taken(mode):
    grey = Image.new("L", (6, 4), 128)
    given = (
        ImageCms.profileToProfile(
            grey.convert("RGB"), *map(ImageCms.createProfile, ("sRGB", "LAB")), outputMode="LAB"
        )
        if mode == "LAB"
        else grey.convert("RGBA").convert(mode)
        if mode == "RGBa"
        else grey.convert("RGB").quantize(4).convert(mode)
        if mode in ("P", "PA")
        else grey.convert("RGB").convert(mode)
    )
    if mode == "I":
        given = Image.new("I", (6, 4), 128 * 257)
    seen = open_picture(given)
    assert seen.size == (4, 6) and seen.alpha is None
    assert np.abs(seen.rgb.astype(int) - (255 if mode == "1" else 128)).max() <= 2 or mode == "1"


# ---- TIFF, AVIF, and what is only named ----


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_a_tiff_of_any_kind_is_read_as_its_png(tmp_path, mode, compression):
    picture = (
        Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]]))
        .convert("RGB" if mode in "CMYK1P" else mode)
        .convert(mode)
    )
    picture.save(tmp_path / "a.tif", compression=compression)
    a, b = open_picture(tmp_path / "a.tif"), open_picture(picture)
    assert (a.rgb == b.rgb).all() and (a.alpha is None) == (b.alpha is None) == (mode not in ("LA", "RGBA"))
    assert a.alpha is None or (a.alpha == b.alpha).all()


def test_the_first_page_of_a_tiff_is_read(tmp_path):
    pages = [Image.fromarray(PIXELS), Image.new("RGB", (5, 5))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert (open_picture(tmp_path / "a.tif").rgb == PIXELS).all()


@AVIF
def test_an_avif_is_read(tmp_path):
    Image.new("RGB", (20, 30), (255, 0, 0)).save(tmp_path / "a.avif", quality=100)
    assert np.abs(open_picture(tmp_path / "a.avif").rgb.astype(int) - (255, 0, 0)).max() < 12


@pytest.mark.parametrize(
    "begin, said",
    [
        (b"\0\0\0\x18ftypheic", "is a HEIC picture, which is not read here: `pip install pillow-heif`"),
        (b"\0\0\0\x20ftypisom", "is a film, .*: save one frame"),
        (b"\0\0\0\x18ftypcrx ", "is a camera's raw file"),
        (b"\xff\x0a\0\0", "is a JPEG XL picture, .*: save it as a PNG, JPEG or TIFF"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "is a JPEG 2000 picture"),
        (b"8BPS\0\1", "is a Photoshop file"),
        (b"gimp xcf file", "is a GIMP file"),
        (b"%PDF-1.7", "is a PDF document"),
        (b"<?xml version='1.0'?><svg/>", "is an SVG drawing"),
        (b"\0\0\1\0\1\0", "is an icon"),
        (b"\0\0\2\0\0\0\0\0\0\0", "is a Targa picture"),
        (b"II*\0\x08\0\0\0\0\0", "is a damaged TIFF, or one of a rare kind, .*: save it with 8 or 16 bits"),
        (b"P6\n3 2\n255\n", "is a netpbm picture"),
        (b"PK\3\4", "is a zip archive, .*: unpack it"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_mend(tmp_path, begin, said):
    (tmp_path / "a.png").write_bytes(begin + bytes(200))
    with pytest.raises(PictureError, match=said):
        open_picture(tmp_path / "a.png")


def test_a_cameras_raw_file_is_not_read_as_its_thumbnail(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.NEF", "TIFF")
    with pytest.raises(PictureError, match="is a camera's raw file, .*: develop it"):
        open_picture(tmp_path / "a.NEF")


# ---- colour profiles ----


def swapped():
    """A profile of RGB in which red and blue have changed places."""
    icc = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    r, b = (icc.index(tag, 128) for tag in (b"rXYZ", b"bXYZ"))
    icc[r + 4 : r + 12], icc[b + 4 : b + 12] = icc[b + 4 : b + 12], icc[r + 4 : r + 12]
    return bytes(icc)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_profile_is_converted_to_srgb_and_the_file_written_says_srgb(tmp_path, name, mode):
    if name == "a.jpg" and mode != "RGB":
        pytest.skip("a JPEG has no alpha and no palette")
    how = {"a.webp": {"lossless": True}, "a.jpg": {"quality": 100}}.get(name, {})
    red = Image.new("RGB", (40, 30), (220, 30, 30))
    (red.quantize(4) if mode == "P" else red.convert(mode)).save(
        tmp_path / name, icc_profile=swapped(), **how
    )
    picture = open_picture(tmp_path / name)
    assert np.abs(picture.rgb.astype(int) - (30, 30, 220)).max() < 4 and "sRGB" in picture.profile
    write_picture(picture.restore(picture.view()), tmp_path / f"out-{name}")
    with Image.open(tmp_path / f"out-{name}") as out:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(out.info["icc_profile"]))
    assert "sRGB" in ImageCms.getProfileDescription(profile)
    again = open_picture(tmp_path / f"out-{name}")
    assert again.profile == "" and np.abs(again.rgb.astype(int) - picture.rgb).max() < 4


def test_kept_pixels_of_a_converted_file_are_bit_for_bit_the_converted_ones(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png", icc_profile=swapped())
    picture = open_picture(tmp_path / "a.png").framed(16, 8)
    mask = torch.zeros(1, 1, 20, 30)
    mask[..., 15:] = 1
    write_picture(picture.restore(torch.ones_like(picture.view()), mask), tmp_path / "b.png")
    out = np.array(Image.open(tmp_path / "b.png"))
    assert (out[:, :15] == picture.rgb[:, :15]).all() and (out[:, 15:] == 255).all()
    assert (picture.rgb != PIXELS).any()


def test_srgb_by_another_name_leaves_every_pixel_alone(tmp_path):
    """As other programs write it: another white point's rounding, another curve's table."""
    icc = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at = icc.index(b"rXYZ", 128)
    offset = int.from_bytes(icc[at + 4 : at + 8], "big") + 8
    icc[offset + 3] ^= 8  # red's X by 1/8192
    Image.fromarray(PIXELS).save(tmp_path / "a.png", icc_profile=bytes(icc))
    picture = open_picture(tmp_path / "a.png")
    assert picture.profile == "" and (picture.rgb == PIXELS).all()


def test_a_grey_picture_with_a_profile_of_colours_is_converted_and_one_of_another_kind_is_left(tmp_path):
    Image.new("L", (8, 8), 100).save(tmp_path / "grey.jpg", icc_profile=swapped(), quality=100)
    assert open_picture(tmp_path / "grey.jpg").rgb.shape == (8, 8, 3)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(PIXELS).save(tmp_path / "lab.png", icc_profile=lab)
    assert (open_picture(tmp_path / "lab.png").rgb == PIXELS).all()


# ---- masks ----

HALF = torch.cat((torch.zeros(1, 1, 10, 10), torch.ones(1, 1, 10, 10)), 3)


def halves(left, right, mode="L"):
    picture = Image.new(mode, (20, 10), left)
    picture.paste(right, (10, 0, 20, 10))
    return picture


def palette_mask(left, right):
    """Indices 0 and 1 into a palette of these two colours."""
    picture = halves(0, 1, "P")
    picture.putpalette([*left, *right])
    return picture


def soft_edge():
    pixels = np.zeros((10, 20), np.uint8)
    pixels[:, 10:], pixels[:, 9], pixels[:, 10] = 255, 100, 160
    return Image.fromarray(pixels)


def hole():
    """A picture, transparent on the right."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (10, 20, 4), dtype=np.uint8)
    pixels[..., 3] = 255 * (np.arange(20) < 10)
    return Image.fromarray(pixels)


MASKS = [
    ("white on black", halves(0, 255), ""),
    ("colours", halves((0, 0, 0), (255, 255, 255), "RGB"), ""),
    ("1-bit", halves(0, 1, "1"), ""),
    (
        "16-bit",
        Image.fromarray(np.where(np.arange(20) < 10, 0, 65535).astype(np.uint16)[None].repeat(10, 0)),
        "",
    ),
    ("palette", palette_mask((0, 0, 0), (255, 255, 255)), ""),
    ("nearly", halves(10, 250), ""),
    ("one level apart", halves(127, 128), "the lighter of two tones"),
    ("dark grey", halves(10, 100), "the lighter of two tones"),
    ("0 and 1", halves(0, 1), "the lighter of two tones"),
    ("labels", palette_mask((0, 0, 0), (128, 0, 0)), "the lighter of two tones"),
    (
        "16-bit 0 and 1",
        Image.fromarray((np.arange(20) >= 10).astype(np.uint16)[None].repeat(10, 0)),
        "the lighter",
    ),
    ("antialiased", soft_edge(), "what is lighter than 50% grey"),
    ("strokes", halves((255, 255, 255, 0), (255, 255, 255, 255), "RGBA"), "what is painted on transparent"),
    ("red strokes", halves((0, 0, 0, 0), (200, 10, 10, 255), "RGBA"), "what is painted on transparent"),
    ("grey and alpha", halves((0, 0), (255, 255), "LA"), "what is painted on transparent"),
    ("black and clear", halves((0, 0, 0, 255), (0, 0, 0, 0), "RGBA"), "what is transparent is edited"),
    ("a picture with a hole", hole(), "what is transparent is edited"),
]


@pytest.mark.parametrize("name, mask, said", MASKS, ids=[row[0] for row in MASKS])
def test_masks_of_every_kind_are_read_as_they_are_meant_and_say_so(tmp_path, name, mask, said):
    mask.save(tmp_path / "m.png")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert_close(read_mask(tmp_path / "m.png"), HALF)
    notes = [str(one.message) for one in caught if issubclass(one.category, Caution)]
    assert len(notes) == bool(said)
    assert all(note.startswith("mask: ") and said in note and "50 % of the picture" in note for note in notes)


@pytest.mark.parametrize(
    "value, said", [(0, "nothing"), (3, "nothing"), (255, "everything"), (200, "everything")]
)
def test_a_mask_of_one_tone_is_refused(tmp_path, value, said):
    Image.new("L", (9, 9), value).save(tmp_path / "m.png")
    with pytest.raises(PictureError, match=f"m.png marks {said}"):
        read_mask(tmp_path / "m.png")


def test_the_noise_of_a_dark_jpeg_is_no_mask(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 12, (40, 40), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "m.jpg", quality=80)
    with pytest.raises(PictureError, match="marks nothing"):
        read_mask(tmp_path / "m.jpg")


# ---- what is written ----


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("name", ["a.tif", "a.TIFF", "a.png", "a.webp"])
def test_exact_formats_come_back_bit_for_bit(tmp_path, name, channels):
    pixels = torch.from_numpy(np.dstack([PIXELS, PIXELS[..., :1]])[..., :channels].copy()).permute(2, 0, 1)[
        None
    ]
    if channels == 4:
        pixels[:, 3] = pixels[:, 3].clamp(min=1)  # WebP drops the colours of what cannot be seen
    write_picture(pixels, tmp_path / name)
    back = open_picture(tmp_path / name)
    assert (back.rgb == pixels[0, :3].permute(1, 2, 0).numpy()).all() and back.profile == ""
    assert channels == 3 or (back.alpha == pixels[0, 3].numpy()).all()


def test_the_same_picture_is_written_in_the_same_bytes(tmp_path):
    x = read_picture(Image.fromarray(PIXELS))
    for name in ("a.png", "b.png"):
        write_picture(x, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_walk_is_written_as_a_gif_that_begins_anew(tmp_path):
    frames = [torch.full((1, 3, 8, 12), v) for v in (-1.0, 0.0, 1.0)]
    write_gif(frames, tmp_path / "walk.gif", seconds=1.0, hold=2.0)
    with Image.open(tmp_path / "walk.gif") as gif:
        assert gif.n_frames == 3 and gif.size == (12, 8) and gif.info["loop"] == 0
        for n, (value, stays) in enumerate(((0, 500), (128, 500), (255, 2000))):
            gif.seek(n)
            assert gif.info["duration"] == stays
            assert np.abs(np.array(gif.convert("RGB")).astype(int) - value).max() <= 2
    assert [p.name for p in tmp_path.iterdir()] == ["walk.gif"]
    with pytest.raises(OutputError, match="must end in .gif"):
        write_gif(frames, tmp_path / "walk.png")
    with pytest.raises(ValueError, match="frames: at least one"):
        write_gif([], tmp_path / "walk.gif")
    with pytest.raises(ValueError, match="all of one size"):
        write_gif([frames[0], torch.zeros(1, 3, 4, 4)], tmp_path / "walk.gif")
