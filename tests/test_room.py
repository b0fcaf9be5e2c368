"""Work that is too large for the memory is refused before it begins, and the autoencoder sees few at once."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from palimpsest.cli.commands import dry_run, glide
from palimpsest.cli.main import main
from palimpsest.methods.dreambooth import dreambooth
from palimpsest.methods.learner import Course
from palimpsest.methods.prior import Prior
from palimpsest.weights.load import load
from palimpsest.weights.memory import free_memory
from palimpsest.weights.model import AT_ONCE
from tests.tiny import tiny_weights

TEXT = "a large red star on a blue background"


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (80, 60), (200, 30, 30)).save(tmp_path / "in.png")
    return str(tmp_path / "in.png")


def refused(capsys, tmp_path, *words):
    """The one line in which a command is refused; nothing is written."""
    out = tmp_path / "out.png"
    assert main([*words, "-o", str(out)]) == 2 and not out.exists()
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("size", [10**5, 10**30])
def test_a_size_beyond_the_memory_is_refused_and_a_smaller_one_named(tmp_path, capsys, picture, size):
    line = refused(capsys, tmp_path, "sdedit", picture, "--prompt", TEXT, "--size", str(size))
    assert line.startswith(f"palimpsest: error: size: {size} shows the model ")
    assert int(line.split(" take ")[-1].split()[0]) < size


def test_a_size_that_is_named_fits(tmp_path, capsys, picture, monkeypatch):
    monkeypatch.setattr(dry_run, "free_memory", lambda device: 3 * 10**7)
    words = ["sdedit", picture, "--prompt", TEXT, "--steps", "1", "--size"]
    line = refused(capsys, tmp_path, *words, "640")
    most = line.split(" take ")[-1].split()[0]
    assert 64 <= int(most) < 640
    assert main([*words, most, "-o", str(tmp_path / "out.png")]) == 0


def test_pictures_beyond_the_memory_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(dry_run, "free_memory", lambda device: 2 * 10**6)
    line = refused(capsys, tmp_path, "generate", "--prompt", TEXT, "-n", "40")
    assert line.startswith("palimpsest: error: n: this takes about ")


def test_glide_names_how_many_pictures_fit(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(glide, "free_memory", lambda device: 10**8)
    line = refused(capsys, tmp_path, "glide", "generate", "--prompt", "a red star", "-n", "64")
    assert line.startswith("palimpsest: error: n: 64 pictures at once take about ")
    assert 1 <= int(line.split(" take ")[-1].split()[0]) < 64


def test_free_memory_is_a_number_of_bytes_or_unknown():
    free = free_memory(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    assert free_memory(torch.device("meta")) is None


def test_the_autoencoder_sees_few_pictures_at_once_and_gives_the_same(tmp_path):
    model, seen = load(tiny_weights(tmp_path), device="cpu"), []
    x = torch.rand(AT_ONCE * 2 + 3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    alone = torch.cat([model.encode(x[i : i + 1]) for i in (0, AT_ONCE)])
    for part in (model.vae.encoder, model.vae.decoder):
        part.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    z = model.encode(x)
    torch.testing.assert_close(z[[0, AT_ONCE]], alone)
    assert model.decode(z).shape == x.shape and seen == [AT_ONCE, AT_ONCE, 3] * 2
    assert model.encode(x[:0]).shape == (0, *z.shape[1:])
    seen.clear()
    dreambooth(model, x, "star", course=Course(steps=1), prior=Prior(weight=0.0))
    assert max(seen) == AT_ONCE
    pixels = replace(model, vae=None)
    assert torch.equal(pixels.encode(x), x)
