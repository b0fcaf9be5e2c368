"""palimpsest weights list, get, verify."""

import hashlib
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from towers import small_clip, small_dino

import palimpsest.cli.commands.weights as commands
import palimpsest.weights.public.catalogue
from palimpsest.cli.main import main
from palimpsest.weights.files import sha256
from palimpsest.weights.public.catalogue import PUBLISHED, cache_folder, lookup
from palimpsest.weights.public.tower_names import (
    clip_openai_names,
    clip_transformers_names,
    dino_official_names,
    pack,
)
from tests.tiny import tiny_glide, tiny_weights


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in ("HF_HUB_CACHE", "HF_HOME", "TORCH_HUB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def entry(home, monkeypatch):
    """A catalogue of one small file, which a source beside it has."""
    source = home / "source.safetensors"
    save_file({"a": torch.arange(9.0)}, source)
    entry = replace(
        PUBLISHED[0],
        name="little",
        file="little.safetensors",
        urls=(source.as_uri(),),
        size=source.stat().st_size,
        sha256=sha256(source),
        repos=(),
    )
    for module in (palimpsest.weights.public.catalogue, commands):
        monkeypatch.setattr(module, "PUBLISHED", (entry,))
    return entry


def test_the_list_tells_size_digest_licence_limits_and_whether_it_is_here(capsys):
    cache_folder().mkdir(parents=True)
    (cache_folder() / lookup("dino-vit-s-16").file).touch()
    assert main(["weights", "list"]) == 0
    blocks = dict(
        block.split(":", 1)
        for block in capsys.readouterr().out.split("\n")
        if block and not block.startswith(" ")
    )
    assert list(blocks) == [k.name for k in PUBLISHED]
    main(["weights", "list"])
    out = capsys.readouterr().out
    assert "4,265 MB, SHA-256 6ce0161689b3" in out
    assert out.count("CreativeML Open RAIL-M") >= 4 and out.count("cannot: ") == len(PUBLISHED)
    assert (
        "size not published, SHA-256 not published" in out
        and "fbc31a67aa… (only these digits were published)" in out
    )
    assert out.count("    here: ") == 1 and out.count("    not here\n") == len(PUBLISHED) - 1


def test_get_says_the_licence_first_fetches_once_and_prints_the_path(entry, capsys):
    assert main(["weights", "get", "little"]) == 0
    said = capsys.readouterr()
    path = cache_folder() / entry.file
    assert said.out == f"{path}\n" and sha256(path) == entry.sha256
    assert (
        said.err.startswith("palimpsest: little:")
        and "licence: CreativeML" in said.err
        and "it cannot: " in said.err
    )
    assert main(["weights", "get", "little"]) == 0
    assert capsys.readouterr() == (f"{path}\n", "")


def test_get_can_put_it_elsewhere_and_tells_a_digest_that_was_never_published(
    entry, home, capsys, monkeypatch
):
    monkeypatch.setattr(palimpsest.weights.public.catalogue, "PUBLISHED", (replace(entry, sha256=""),))
    assert main(["weights", "get", "little", "--to", "shelf"]) == 0
    said = capsys.readouterr()
    assert said.out == "shelf/little.safetensors\n" and not cache_folder().exists()
    assert f"no SHA-256 of little.safetensors is published; this one has {entry.sha256}" in said.err


def test_a_file_that_went_bad_is_refused_by_get_and_by_verify(entry, capsys):
    main(["weights", "get", "little"])
    path = cache_folder() / entry.file
    content = path.read_bytes()
    capsys.readouterr()
    for broken, said in (
        (content[:-4], "it was cut off"),
        (content[:-1] + b"?", "is not little as it was published"),
    ):
        path.write_bytes(broken)
        assert main(["weights", "get", "little"]) == 2
        err = capsys.readouterr().err
        assert err.startswith("palimpsest: error: ") and err.count("\n") == 1 and said in err
    path.write_bytes(content[:-1] + b"?")  # whole by its size, and yet another
    assert main(["weights", "verify", "little"]) == 2
    assert "is not little as it was published" in capsys.readouterr().err
    path.write_bytes(content[:-4])
    assert main(["weights", "verify", str(path)]) == 2
    assert "it was cut off" in capsys.readouterr().err


def test_verify_tells_form_size_digest_and_what_a_strict_load_finds(home, capsys):
    path = tiny_weights(home)
    assert main(["weights", "verify", str(path)]) == 0
    out = capsys.readouterr().out
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert out.startswith(
        f"{path}: safetensors, {path.stat().st_size:,} bytes, whole\n    SHA-256 {digest}, not one that is "
        f"known here\n"
    )
    assert [line.split(":")[0].strip() for line in out.splitlines()[2:]] == ["net", "text", "vae"]
    assert out.count(" tensors, all in their places\n") == 3


def test_verify_knows_a_published_file_by_its_digest_whatever_its_name(entry, home, capsys):
    save_file({"a": torch.arange(9.0)}, home / "renamed.safetensors")
    assert (
        main(["weights", "verify", "renamed.safetensors"]) == 2
    )  # whole and known, but no model of any layout
    said = capsys.readouterr()
    assert ", that of little" in said.out and "no layout that is known here" in said.err


def test_verify_looks_into_what_metrics_are_made_of(home, capsys):
    clip, dino = small_clip(), small_dino()
    torch.save(pack(clip, clip_openai_names(clip)), home / "clip.pt")
    torch.save(pack(dino, dino_official_names(dino)), home / "dino.pth")
    for file, name, net in (("clip.pt", "CLIP", clip), ("dino.pth", "DINO", dino)):
        assert main(["weights", "verify", file]) == 0
        count, tensors = sum(p.numel() for p in net.parameters()), len(list(net.parameters()))
        assert (
            f"    {name}: {count:,} parameters in {tensors} tensors, all in their places\n"
            in capsys.readouterr().out
        )


def test_verify_looks_into_folders_of_transformers_parts_and_our_other_kinds(home, capsys):
    clip = small_clip()
    (home / "clip").mkdir()
    save_file(
        {name: t.contiguous() for name, t in pack(clip, clip_transformers_names(clip)).items()},
        home / "clip" / "model.safetensors",
    )
    torch.save({"lin0.model.1.weight": torch.ones(1, 64, 1, 1)}, home / "alex.pth")
    for path, said in (
        ("clip", "    CLIP: "),
        (str(tiny_weights(home).with_name("tiny-vae.safetensors")), "    vae: "),
        (str(tiny_glide(home)), "    net: "),
    ):
        assert main(["weights", "verify", path]) == 0
        out = capsys.readouterr().out
        assert said in out and out.endswith("all in their places\n")
    assert main(["weights", "verify", "alex.pth"]) == 0
    assert "holds the heads of LPIPS, a part of a network; load_lpips" in capsys.readouterr().err


def test_verify_of_a_shipped_model_says_so(capsys):
    assert main(["weights", "verify", "shapes"]) == 0
    assert ", that of shapes\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, said",
    [
        (
            "get stable-difusion",
            "name: no public checkpoint 'stable-difusion' is known here; did you mean stable-diffusion",
        ),
        ("get", "NAME"),
        ("", "ACTION"),
        ("fetch x", "ACTION: invalid choice: 'fetch'"),
        ("verify nothing.ckpt", "path: there is no nothing.ckpt"),
        (
            "verify instruct-pix2pix",
            "model: instruct-pix2pix is not on this disk; `palimpsest weights get instruct-pix2pix`",
        ),
    ],
)
def test_a_mistake_is_one_line(words, said, capsys):
    assert main(["weights", *words.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith("palimpsest: error: ") and err.count("\n") == 1 and said in err
