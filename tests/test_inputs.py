"""What an edit is given: the same picture, whether it comes as a tensor, a file or a PIL image."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from palimpsest.arguments import ArgumentError
from palimpsest.methods.inputs import check_mask, given_mask, given_picture
from palimpsest.worlds.files import PictureError, open_picture, write_picture

MODEL = SimpleNamespace(device=torch.device("cpu"), size=16, grid=8)


@pytest.fixture
def file(tmp_path):
    rng = torch.Generator().manual_seed(0)
    write_picture(torch.rand(1, 3, 40, 60, generator=rng) * 2 - 1, tmp_path / "in.png")
    return tmp_path / "in.png"


def test_a_path_a_text_and_a_pil_image_are_the_same_picture(file):
    x = open_picture(file).framed(16, 8).view()
    assert x.shape == (1, 3, 16, 24)
    for given in (file, str(file), Image.open(file), Image.open(file).convert("RGB"), x):
        assert_close(given_picture(MODEL, given), x, rtol=0, atol=0)


def test_a_pil_image_is_turned_upright_as_its_file_is(tmp_path):
    picture = Image.new("RGB", (32, 16), "red")
    exif = picture.getexif()
    exif[0x0112] = 6  # lies on its side
    picture.save(tmp_path / "in.jpg", exif=exif)
    of_file = given_picture(MODEL, tmp_path / "in.jpg")
    assert of_file.shape == (1, 3, 32, 16)
    assert_close(given_picture(MODEL, Image.open(tmp_path / "in.jpg")), of_file, rtol=0, atol=0)


def test_a_mask_is_read_at_the_size_of_its_picture(file, tmp_path):
    mask = torch.zeros(1, 1, 40, 60)
    mask[..., :30] = 1
    write_picture(mask.expand(-1, 3, -1, -1) * 2 - 1, tmp_path / "mask.png")
    x = given_picture(MODEL, file)
    of_path, of_image = (
        given_mask(MODEL, m) for m in (tmp_path / "mask.png", Image.open(tmp_path / "mask.png"))
    )
    assert_close(of_path, of_image, rtol=0, atol=0)
    fits = check_mask(of_path, x)
    assert fits.shape == (1, 1, 16, 24) and fits[..., :12].all() and not fits[..., 12:].any()


def test_a_mask_that_says_nothing_is_refused(file, tmp_path):
    x = given_picture(MODEL, file)
    with pytest.raises(ArgumentError, match="^mask: is all 0"):
        check_mask(torch.zeros(1, 1, 16, 24), x)
    with pytest.raises(ArgumentError, match="^mask: is all 1.*take use_mask=False to edit everywhere"):
        check_mask(torch.ones(1, 1, 16, 24), x, "take use_mask=False")
    with pytest.raises(PictureError, match="mask the picture marks everything"):
        given_mask(MODEL, Image.new("RGB", (60, 40), "white"))
