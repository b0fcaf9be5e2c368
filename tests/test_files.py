"""worlds/files: pictures of every kind in, the same size out, and one clear line for every file that
cannot be used.
"""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from palimpsest.outputs import OutputError
from palimpsest.worlds import reading
from palimpsest.worlds.files import (
    PictureError,
    check_output,
    contact_sheet,
    open_picture,
    read_mask,
    read_picture,
    write_picture,
)

RED = (1.0, -1.0, -1.0)


def colour(*rgb):
    """A colour in [-1, 1] as (1, 3, 1, 1)."""
    return torch.tensor(rgb).view(1, 3, 1, 1)


def noise(y, x, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (y, x, channels), dtype=np.uint8)


def png16(path, values, kind):
    """A 16-bit PNG written by hand: `kind` 0 is grey, 2 is colour; `values` big-endian uint16 (y, x[, 3])."""
    y, x = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", x, y, 16, kind, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


# -- reading: each file shows one known colour ---------------------------------------------------------------------


def rgb(path):
    Image.new("RGB", (20, 30), (255, 0, 0)).save(path)


def grey(path):
    Image.new("L", (20, 30), 51).save(path)


def bilevel(path):
    Image.new("1", (20, 30), 1).save(path)


def grey_alpha(path):
    Image.new("LA", (20, 30), (0, 102)).save(path)


def colour_alpha(path):
    Image.new("RGBA", (20, 30), (255, 0, 0, 51)).save(path)


def palette(path):
    Image.new("RGB", (20, 30), (255, 0, 0)).quantize(4).save(path)


def palette_transparent(path):
    picture = Image.new("P", (20, 30), 1)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.save(path, transparency=1)


def colour_key(path):
    Image.new("RGB", (20, 30), (255, 0, 0)).save(path, transparency=(255, 0, 0))


def grey_16(path):
    png16(path, np.full((30, 20), 51 * 257), 0)


def colour_16(path):
    png16(path, np.full((30, 20, 3), (65535, 0, 0)), 2)


def cmyk(path):
    Image.new("CMYK", (20, 30), (0, 255, 255, 0)).save(path, quality=100)


def animation(path):
    first, second = Image.new("RGB", (20, 30), (255, 0, 0)), Image.new("RGB", (20, 30), (0, 0, 255))
    first.save(path, save_all=True, append_images=[second])


def lossless(path):
    Image.new("RGB", (20, 30), (255, 0, 0)).save(path, lossless=True)


READABLE = [
    (rgb, "a.png", RED),
    (rgb, "a.bmp", RED),
    (rgb, "a.jpg", RED),
    (grey, "a.png", (-0.6,) * 3),
    (grey, "a.jpg", (-0.6,) * 3),
    (bilevel, "a.png", (1.0, 1.0, 1.0)),
    (grey_alpha, "a.png", (0.2,) * 3),
    (colour_alpha, "a.png", (1.0, 0.6, 0.6)),
    (palette, "a.png", RED),
    (palette, "a.gif", RED),
    (palette_transparent, "a.png", (1.0, 1.0, 1.0)),
    (palette_transparent, "a.gif", (1.0, 1.0, 1.0)),
    (colour_key, "a.png", (1.0, 1.0, 1.0)),
    (grey_16, "a.png", (-0.6,) * 3),
    (colour_16, "a.png", RED),
    (cmyk, "a.jpg", RED),
    (lossless, "a.webp", RED),
    (colour_alpha, "a.webp", (1.0, 0.6, 0.6)),
    (animation, "a.gif", RED),
    (animation, "a.png", RED),
    (animation, "a.webp", RED),
]


@pytest.mark.parametrize(
    "make, name, expected", READABLE, ids=[f"{row[0].__name__}-{row[1]}" for row in READABLE]
)
@pytest.mark.parametrize("size", [None, 16])
def test_every_kind_of_file_is_read_in_its_true_colour(tmp_path, make, name, expected, size):
    make(tmp_path / name)
    x = read_picture(tmp_path / name, size)
    assert x.dtype == torch.float32 and x.shape == ((1, 3, 30, 20) if size is None else (1, 3, 24, 16))
    assert_close(x, colour(*expected).expand_as(x), atol=0.03, rtol=0)  # JPEG and lossy WebP round a little


def test_orientation_of_a_camera_is_applied(tmp_path):
    upright = noise(6, 4)
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate 90° clockwise to view"
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "a.png", exif=exif)
    assert_close(open_picture(tmp_path / "a.png").rgb, upright, atol=0, rtol=0)


def test_the_first_frame_keeps_its_own_size_and_a_one_pixel_picture_fills_the_square(tmp_path):
    Image.new("RGB", (1, 1), (255, 0, 0)).save(tmp_path / "one.png")
    assert_close(read_picture(tmp_path / "one.png", 64), colour(*RED).expand(1, 3, 64, 64))
    assert read_picture(tmp_path / "one.png").shape == (1, 3, 1, 1)


def test_a_picture_of_64_megapixels_is_read_and_one_of_101_is_refused_unread(tmp_path):
    Image.new("1", (8000, 8000), 1).save(tmp_path / "large.png")
    assert_close(read_picture(tmp_path / "large.png", 64), torch.ones(1, 3, 64, 64))
    Image.new("1", (10100, 10000)).save(tmp_path / "huge.png")
    with pytest.raises(PictureError, match="huge.png has too many pixels"):
        read_picture(tmp_path / "huge.png")


def test_shrinking_is_antialiased(tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    inner = read_picture(tmp_path / "a.png", 8)[..., 1:-1]
    assert_close(inner, torch.zeros_like(inner), atol=0.03, rtol=0)


# -- the round trip ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("y, x", [(1, 1), (1, 7), (64, 64), (37, 101), (200, 120)])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("side, grid", [(None, 1), (None, 16), (48, 16), (300, 64)])
def test_any_size_in_the_same_size_out_with_kept_pixels_and_alpha_bit_identical(
    tmp_path, y, x, channels, side, grid
):
    pixels = noise(y, x, channels)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    original = open_picture(tmp_path / "a.png").framed(side, grid)
    mask = torch.zeros(1, 1, y, x)
    mask[..., x // 2 :] = 1
    view = original.view()
    assert view.shape[-2:] == original.region(mask).shape[-2:] == original.seen and not any(
        n % grid for n in original.seen
    )
    write_picture(original.restore(-torch.ones_like(view), mask), tmp_path / "b.png")
    out = np.array(Image.open(tmp_path / "b.png"))
    assert out.shape == pixels.shape
    assert_close(out[:, : x // 2], pixels[:, : x // 2], atol=0, rtol=0)  # kept
    assert not out[:, x // 2 :, :3].any() and (
        channels == 3 or (out[:, x // 2 :, 3] == 255).all()
    )  # edited: black, to be seen anywhere


def test_alpha_stays_where_it_suffices_and_rises_where_what_was_painted_needs_it(tmp_path):
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[:, 3:] = (200, 40, 40, 255)  # the left half is clear, the right one red
    pixels[0, :3, 3] = 128  # but for half a shadow
    Image.fromarray(pixels).save(tmp_path / "a.png")
    original = open_picture(tmp_path / "a.png")
    view = original.view()

    def restored(edited, mask=None):
        return original.restore(edited, mask)[0].permute(1, 2, 0).numpy()

    same = restored(view)
    assert (same[..., 3] == pixels[..., 3]).all() and np.abs(same[..., :3].astype(int) - pixels[..., :3])[
        pixels[..., 3] > 0
    ].max() <= 1
    assert (
        restored((view - 0.08).clamp(min=-1))[..., 3] == pixels[..., 3]
    ).all()  # ten levels: an autoencoder's
    clear = restored((view - 0.08).clamp(min=-1))[1:, :3]
    assert (clear == (245, 245, 245, 0)).all()  # colours that nobody sees are those on white
    yellow = view.clone()
    yellow[..., 1:, :3] = torch.tensor([1.0, 0.8, -1.0])[:, None, None]
    out = restored(yellow)
    assert (
        (out[1:, :3] == (255, 230, 0, 255)).all()
        and (out[0] == same[0]).all()
        and (out[:, 3:] == same[:, 3:]).all()
    )
    mask = torch.zeros(1, 1, 4, 6)
    mask[..., 2:, :] = 1
    kept = restored(yellow, mask)
    assert (kept[:2] == pixels[:2]).all() and (kept[2:, :3] == out[2:, :3]).all()
    on_white = kept[2:, :3, :3] * (kept[2:, :3, 3:] / 255) + 255 - kept[2:, :3, 3:].astype(int)
    assert np.abs(on_white - (255, 230, 0)).max() <= 1


@pytest.mark.parametrize("y, x", [(64, 64), (37, 101), (5, 3)])
def test_an_unchanged_view_that_was_not_resampled_restores_the_file_exactly(tmp_path, y, x):
    pixels = noise(y, x)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for side in (None, min(y, x)):
        original = open_picture(tmp_path / "a.png").framed(side, 64)
        assert all(n % 64 == 0 for n in original.seen)
        assert_close(original.restore(original.view())[0].permute(1, 2, 0).numpy(), pixels, atol=0, rtol=0)


def test_the_view_has_the_files_proportions_and_goes_on_as_its_mirror_image(tmp_path):
    pixels = noise(20, 30)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    plain = open_picture(tmp_path / "a.png")
    framed = plain.framed(20, 16)
    assert framed.frame == (6, 1, 20, 30) and framed.seen == (32, 32)
    view = framed.view()
    assert_close(view[..., 6:26, 1:31], plain.view(), atol=0, rtol=0)
    assert_close(view[..., :6, 1:31], plain.view()[..., :6, :].flip(2), atol=0, rtol=0)
    assert_close(view[..., 31], view[..., 30], atol=0, rtol=0)
    assert (
        plain.framed(40, 1).seen == (40, 60)
        and plain.framed(10, 1).seen == (10, 15)
        and plain.framed(None, 16).seen == (32, 32)
    )
    assert_close(read_picture(tmp_path / "a.png", 20, 16), view, atol=0, rtol=0)


def test_a_found_mask_goes_back_to_the_file_where_it_was_seen(tmp_path):
    Image.fromarray(noise(20, 30)).save(tmp_path / "a.png")
    framed = open_picture(tmp_path / "a.png").framed(40, 16)  # twice as large, in 48 × 64, from (4, 2) on
    found = torch.zeros(1, 1, 48, 64)
    found[..., 4 + 2 * 5 : 4 + 2 * 9, 2 + 2 * 10 : 2 + 2 * 13] = 1
    own = torch.zeros(1, 1, 20, 30)
    own[..., 5:9, 10:13] = 1
    assert framed.frame == (4, 2, 40, 60) and torch.equal((framed.back(found) > 0.5).float(), own)
    assert torch.equal(framed.region(own), found)
    cells = torch.zeros(1, 1, 12, 16)  # of 4 × 4 pixels of the view, 2 × 2 of the file
    cells[..., 3, 4] = 1
    assert (framed.back(cells) > 0.5).nonzero()[:, 2:].tolist() == [[4, 7], [4, 8], [5, 7], [5, 8]]


def test_an_edit_or_a_mask_of_another_size_is_refused(tmp_path):
    Image.fromarray(noise(20, 30)).save(tmp_path / "a.png")
    framed = open_picture(tmp_path / "a.png").framed(20, 16)
    with pytest.raises(ValueError, match="edited is 30×20, and what was to be edited 32×32"):
        framed.restore(torch.ones(1, 3, 20, 30))
    with pytest.raises(ValueError, match="mask is 32×32, and the file 30×20: bring it there with `back`"):
        framed.restore(torch.ones(1, 3, 32, 32), torch.ones(1, 1, 32, 32))


def test_a_strip_and_sizes_below_one_are_refused(tmp_path):
    Image.new("RGB", (320, 20)).save(tmp_path / "strip.png")
    strip = open_picture(tmp_path / "strip.png")
    with pytest.raises(
        PictureError, match=r"strip.png is 320×20 pixels, 16 times as long as wide or more: .*\(--crop\)"
    ):
        strip.framed(64, 8)
    assert strip.square().framed(64, 8).seen == (64, 64) and strip.framed(None, 8).seen == (24, 320)
    for side, grid, named in ((0, 8, "size"), (64, 0, "grid")):
        with pytest.raises(ValueError, match=f"{named}: must be 1 or more, got 0"):
            strip.square().framed(side, grid)


def test_an_edit_of_a_translucent_file_looks_right_on_white(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 128)).save(tmp_path / "a.png")
    target = colour(0.4, 0.6, 0.2).expand(1, 3, 8, 8)
    write_picture(open_picture(tmp_path / "a.png").restore(target), tmp_path / "b.png")
    assert_close(read_picture(tmp_path / "b.png"), target, atol=0.02, rtol=0)


@pytest.mark.parametrize("y, x", [(40, 90), (90, 41)])
def test_the_square_is_central_undistorted_and_leaves_the_rest_of_the_file_alone(tmp_path, y, x):
    pixels = noise(y, x)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    square = open_picture(tmp_path / "a.png").square()
    side, top, left = min(y, x), (y - min(y, x)) // 2, (x - min(y, x)) // 2
    seen = ((square.view() + 1) * 127.5).round().to(torch.uint8)[0].permute(1, 2, 0).numpy()
    assert_close(seen, pixels[top : top + side, left : left + side], atol=0, rtol=0)
    expected = pixels.copy()
    expected[top : top + side, left : left + side] = 255
    assert_close(
        square.framed(16, 8).restore(torch.ones(1, 3, 16, 16))[0].permute(1, 2, 0).numpy(),
        expected,
        atol=0,
        rtol=0,
    )


# -- masks ---------------------------------------------------------------------------------------------------------


def half_mask(path, size=(20, 10), left=0, right=255):
    pixels = np.full((size[1], size[0]), left, np.uint8)
    pixels[:, size[0] // 2 :] = right
    Image.fromarray(pixels).save(path)


def test_white_means_edit(tmp_path):
    half_mask(tmp_path / "m.png")
    expected = torch.cat((torch.zeros(1, 1, 10, 10), torch.ones(1, 1, 10, 10)), 3)
    assert_close(read_mask(tmp_path / "m.png"), expected)


def test_a_mask_is_seen_through_the_box_of_its_picture(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    half_mask(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png", of=open_picture(tmp_path / "a.png").square())
    assert_close(mask, torch.cat((torch.zeros(1, 1, 10, 5), torch.ones(1, 1, 10, 5)), 3))


@pytest.mark.parametrize(
    "left, right, size, message",
    [
        (0, 0, (20, 10), "m.png marks nothing"),
        (255, 255, (20, 10), "m.png marks everything"),
        (0, 255, (10, 20), "m.png is 10×20 pixels but .*a.png is 20×10"),
    ],
)
def test_a_useless_or_ill_fitting_mask_is_refused(tmp_path, left, right, size, message):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    half_mask(tmp_path / "m.png", size, left, right)
    with pytest.raises(PictureError, match=message):
        read_mask(tmp_path / "m.png", of=open_picture(tmp_path / "a.png"))


# -- files that cannot be read ---------------------------------------------------------------------------------------


def encoded(format):
    stream = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(stream, format)
    return stream.getvalue()


BAD = {
    "empty": (b"", "is empty"),
    "text": (b"not a picture at all", "is not a picture"),
    "zeros": (bytes(1000), "is not a picture"),
    "vector.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG drawing, .*: save it as a PNG"),
    "signature": (encoded("PNG")[:8], "damaged|not a picture"),
    "truncated.png": (encoded("PNG")[:3000], "is damaged"),
    "truncated.jpg": (encoded("JPEG")[:1500], "is damaged"),
    "truncated.gif": (encoded("GIF")[:900], "is damaged"),
    "truncated.webp": (encoded("WEBP")[:500], "damaged|not a picture"),
    "flipped.png": (encoded("PNG")[:200] + b"\xff\x00\xff" + encoded("PNG")[203:], "is damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_whole_picture_is_refused_in_one_line_with_its_name(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PictureError, match=message) as caught:
        read_picture(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path):
    with pytest.raises(PictureError, match="nowhere.png does not exist"):
        read_picture(tmp_path / "nowhere.png")
    with pytest.raises(PictureError, match="is a folder"):
        read_picture(tmp_path)


def test_a_file_that_may_not_be_read_is_refused_by_name(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reading, "open", refuse, raising=False)
    with pytest.raises(PictureError, match="a.png may not be read"):
        read_picture(tmp_path / "a.png")


# -- writing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.webp", "A.PNG"])
def test_all_256_levels_survive_writing_and_reading(tmp_path, name):
    x = (torch.arange(256).view(1, 1, 16, 16) / 127.5 - 1).repeat(1, 3, 1, 1)
    write_picture(x, tmp_path / name)
    assert_close(read_picture(tmp_path / name), x, atol=0, rtol=0)


def test_values_beyond_the_range_are_clamped_and_alpha_in_a_jpeg_becomes_white(tmp_path):
    write_picture(colour(3.0, -3.0, 0.0).expand(1, 3, 8, 8), tmp_path / "a.png")
    assert_close(
        read_picture(tmp_path / "a.png"), colour(1.0, -1.0, 0.0).expand(1, 3, 8, 8), atol=0.01, rtol=0
    )
    write_picture(torch.zeros(1, 4, 8, 8, dtype=torch.uint8), tmp_path / "a.jpg")
    assert_close(read_picture(tmp_path / "a.jpg"), torch.ones(1, 3, 8, 8), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "name, message",
    [
        ("a.bmp", "must end in"),
        ("a.gif", "must end in"),
        ("a", "must end in"),
        ("no/a.png", "there is no folder"),
        ("folder.png", "it is a folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path, name, message):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match=message):
        check_output(tmp_path / name)
    with pytest.raises(OutputError, match=message):
        write_picture(torch.zeros(1, 3, 4, 4), tmp_path / name)


def test_a_folder_without_write_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="may not be written to"):
        check_output(tmp_path / "a.png")


@pytest.mark.parametrize(
    "error, raised",
    [(OSError(28, "No space left on device"), OutputError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_failed_or_interrupted_write_keeps_the_old_file_and_leaves_no_other(
    tmp_path, monkeypatch, error, raised
):
    write_picture(torch.ones(1, 3, 4, 4), tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()

    def fail(self, path, **_):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(raised):
        write_picture(torch.zeros(1, 3, 4, 4), tmp_path / "a.png")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"] and (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize(
    "picture, message",
    [
        (torch.zeros(2, 3, 4, 4), "one picture at a time"),
        (torch.zeros(3, 4, 4), "wanted"),
        (torch.zeros(1, 1, 4, 4), "wanted"),
        (torch.full((1, 3, 4, 4), torch.nan), "not finite"),
    ],
)
def test_a_tensor_that_is_no_picture_is_refused(tmp_path, picture, message):
    with pytest.raises(ValueError, match=message):
        write_picture(picture, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


# -- contact sheets --------------------------------------------------------------------------------------------------


def test_a_long_title_is_wrapped_to_the_sheet():
    rows = [[torch.zeros(1, 3, 64, 64)]]
    short, long = (contact_sheet(rows, title="a wish " * n)[0].float().mean(0) for n in (1, 12))
    assert long.shape[1] == short.shape[1] and long.shape[0] > short.shape[0] + 20
    assert (long[:, -10:] == 255).all(), "nothing runs over the right edge"


def test_a_contact_sheet_shows_every_pixel_as_a_block_on_white():
    tile = torch.from_numpy(noise(5, 7)).permute(2, 0, 1)[None]
    sheet = contact_sheet([[tile, None], [None, tile]], ["a", "b"], ["one", "two"], scale=4)
    block = tile.repeat_interleave(4, 2).repeat_interleave(4, 3)[0]
    windows = sheet[0].unfold(1, 20, 1).unfold(2, 28, 1)  # every place where a tile could sit
    places = (windows == block[:, None, None]).all(-1).all(-1).all(0).nonzero()
    assert len(places) == 2 and (places[0] < places[1]).all()  # first row left, second row right
    assert (sheet[..., 0, :] == 255).all() and (sheet[..., :, -1] == 255).all()


def test_labels_are_drawn_where_they_belong_and_must_match_in_number():
    rows = [[torch.ones(1, 3, 64, 64)] * 2] * 2  # white tiles: all ink is text
    ink = 255 - contact_sheet(rows, ["left"] * 2, ["above"] * 2)[0].float().mean(0)
    bare = contact_sheet(rows)
    assert ink[:, :40].sum() > 0 and ink[:40].sum() > 0 and (bare == 255).all()
    assert ink.shape[0] > bare.shape[2] and ink.shape[1] > bare.shape[3]
    with pytest.raises(ValueError, match="row_labels: 1 labels for 2 rows"):
        contact_sheet(rows, ["a"])
    with pytest.raises(ValueError, match="column_labels: 3 labels for 2 columns"):
        contact_sheet(rows, (), ["a", "b", "c"])
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([[None]])
