"""Public checkpoints by name: found on this disk, fetched from a server of our own, and refused when they
are not whole.
"""

import hashlib
import io
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save_file

import palimpsest.weights.public.download
from palimpsest.weights.files import WeightsError
from palimpsest.weights.load import find, load
from palimpsest.weights.public.catalogue import (
    PUBLISHED,
    cache_folder,
    find_on_disk,
    hub_folder,
    lookup,
    lookup_or_refuse,
    require_on_disk,
)
from palimpsest.weights.public.download import check, download, whole
from tests.tiny import tiny_weights


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty disk."""
    for name in ("TORCH_HOME", "HF_HUB_CACHE", "HF_HOME", "HF_ENDPOINT", "TORCH_HUB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path


# ---------------------------------------------------------------------------------------------------------------- the table


def test_every_entry_of_the_catalogue_is_complete():
    assert len({k.name for k in PUBLISHED}) == len({k.file for k in PUBLISHED}) == len(PUBLISHED) >= 11
    for k in PUBLISHED:
        assert k.kind in ("model", "features") and k.what and k.licence and k.cannot and k.urls, k.name
        assert all(url.startswith("https://") and url.endswith(f"/{k.file}") for url in k.urls), k.name
        assert len(k.sha256) in (0, 64) or len(k.sha256) >= 8, k.name
        assert k.sha256 == k.sha256.lower() and set(k.sha256) <= set("0123456789abcdef"), k.name
        assert k.size is None or k.size > 10**5, k.name
        assert k.page.startswith("https://") and k.page.count("/") > 3, k.name  # a page, and not a machine


def test_a_digest_that_stands_in_an_address_is_the_one_of_the_catalogue():
    addressed = [k for k in PUBLISHED if "openaipublic.azureedge" in k.urls[0]]
    assert len(addressed) == 2 and all(k.sha256 in k.urls[0].split("/") for k in addressed)


@pytest.mark.parametrize(
    "name, found",
    [
        ("stable-diffusion-v1-5", "stable-diffusion-v1-5"),
        ("Stable-Diffusion-v1-5", "stable-diffusion-v1-5"),
        ("runwayml/stable-diffusion-v1-5", "stable-diffusion-v1-5"),
        ("CompVis/stable-diffusion-v1-4", "stable-diffusion-v1-4"),
        ("timbrooks/instruct-pix2pix", "instruct-pix2pix"),
        ("facebook/dino-vits16", "dino-vit-s-16"),
        ("sdedit-celeba-hq", "sdedit-celeba-hq"),
    ],
)
def test_a_checkpoint_has_its_name_and_the_names_of_its_repositories(name, found):
    assert lookup_or_refuse(name).name == lookup(name).name == found


@pytest.mark.parametrize(
    "name, said",
    [
        ("stable-difusion-v1-5", "did you mean stable-diffusion-v1-5"),
        ("ViT-B-32", "clip-vit-b-32"),
        ("zzz", "`palimpsest weights list`"),
    ],
)
def test_an_unknown_name_is_told_its_nearest(name, said):
    assert lookup(name) is None
    with pytest.raises(WeightsError, match=said) as e:
        lookup_or_refuse(name)
    assert "\n" not in str(e.value)


def test_another_endpoint_of_the_hub_takes_the_place_of_the_hub_alone(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert lookup("instruct-pix2pix").mirrors() == [
        "https://mirror.example/timbrooks/instruct-pix2pix/resolve/main/instruct-pix2pix-00-22000.safetensors"
    ]
    assert lookup("dino-vit-s-16").mirrors() == list(lookup("dino-vit-s-16").urls)


# ---------------------------------------------------------------------------------------------------------------- on this disk


def test_the_folders_follow_the_usual_variables(home, monkeypatch):
    assert cache_folder() == home / "cache" / "torch" / "hub" / "palimpsest"
    assert hub_folder() == home / "cache" / "huggingface" / "hub"
    monkeypatch.setenv("TORCH_HOME", str(home / "torch"))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    assert (cache_folder(), hub_folder()) == (home / "torch" / "hub" / "palimpsest", home / "hf" / "hub")
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "elsewhere"))
    assert hub_folder() == home / "elsewhere"


def test_a_copy_that_the_hub_keeps_is_used_and_our_own_comes_first(home):
    k = lookup("stable-diffusion-v1-5")
    assert find_on_disk(k) is None
    snapshots = hub_folder() / "models--runwayml--stable-diffusion-v1-5" / "snapshots"
    for revision in ("aaa", "bbb"):
        for part in ("unet", "vae", "text_encoder"):
            (snapshots / revision / part).mkdir(parents=True)
            (snapshots / revision / part / "config.json").touch()
    (snapshots.parent / "refs").mkdir()
    (snapshots.parent / "refs" / "main").write_text("bbb\n", encoding="utf-8")
    assert find_on_disk(k) == find("stable-diffusion-v1-5") == snapshots / "bbb"
    (snapshots / "bbb" / "unet" / "config.json").unlink()  # half a folder is none
    assert find_on_disk(k) == snapshots / "aaa"
    (snapshots / "bbb" / k.file).touch()
    assert find_on_disk(k) == snapshots / "bbb" / k.file
    cache_folder().mkdir(parents=True)
    (cache_folder() / k.file).touch()
    assert find_on_disk(k) == cache_folder() / k.file


def test_a_network_of_transformers_that_the_hub_keeps_is_found_in_its_folder(home):
    folder = hub_folder() / "models--openai--clip-vit-base-patch32" / "snapshots" / "aaa"
    folder.mkdir(parents=True)
    assert find_on_disk(lookup("clip-vit-b-32")) is None
    (folder / "model.safetensors").touch()
    assert (
        find_on_disk(lookup("clip-vit-b-32"))
        == require_on_disk(lookup("openai/clip-vit-base-patch32"))
        == folder
    )


def test_every_kind_of_file_that_is_read_here_has_a_name_to_fetch_it_by():
    names = {k.name for k in PUBLISHED}
    assert {
        f"glide-{part}"
        for part in ("base", "upsample", "base-inpaint", "upsample-inpaint", "clip-image", "clip-text")
    } <= names
    assert {"lpips-alex-trunk", "lpips-alex", "lpips-vgg-trunk", "lpips-vgg", "fid-inception"} <= names


def test_load_takes_a_public_name_and_downloads_nothing(home, monkeypatch):
    with pytest.raises(
        WeightsError,
        match="`palimpsest weights get instruct-pix2pix` fetches it, or give the path of your copy",
    ) as e:
        load("instruct-pix2pix")
    assert "\n" not in str(e.value)
    with pytest.raises(
        WeightsError, match="no model named 'clip-vit-l-14'"
    ):  # known, and no model of pictures
        load("clip-vit-l-14")
    with pytest.raises(WeightsError, match="did you mean .*stable-diffusion-v1-5"):
        load("sd-v1-5")
    cache_folder().mkdir(parents=True)
    tiny = tiny_weights(cache_folder(), "instruct-pix2pix-00-22000")
    assert tiny.name == lookup("instruct-pix2pix").file
    model = load("timbrooks/instruct-pix2pix", device="cpu")
    assert model.name == tiny.stem and model.latent_shape == (4, 8, 8)


def test_a_file_of_another_size_is_not_loaded_by_name(home):
    cache_folder().mkdir(parents=True)
    (cache_folder() / lookup("stable-diffusion-v1-5").file).write_bytes(b"x" * 100)
    with pytest.raises(
        WeightsError,
        match="has 100 bytes and stable-diffusion-v1-5 was published with 4,265,146,304; remove it",
    ):
        require_on_disk(lookup("stable-diffusion-v1-5"))


# ---------------------------------------------------------------------------------------------------------------- the server


class Server(ThreadingHTTPServer):
    """Serves `content` at any address; `manners` say how badly, `asked` what Range each request had."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.manners, self.asked = b"", {}, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/weights.safetensors"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802 (http.server's name)
        server, how = self.server, self.server.manners
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if "status" in how:
            return self.send_error(how["status"])
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and not how.get("whole") else 0
        if start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            return self.end_headers()
        start += how.get("skew", 0) if wanted else 0
        body = server.content[start:]
        self.send_response(206 if wanted and not how.get("whole") else 200)
        self.send_header("Content-Type", how.get("type", "application/octet-stream"))
        if not how.get("mute"):
            self.send_header("Content-Length", str(len(body)))
        if wanted and not how.get("whole"):
            self.send_header(
                "Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}"
            )
        self.end_headers()
        self.wfile.write(body[: how["break after"]] if "break after" in how else body)

    def log_message(self, *about):
        pass


@pytest.fixture
def server(home):
    server = Server()
    buffer = home / "content.safetensors"
    save_file({"a": torch.arange(60_000.0)}, buffer)
    server.content = buffer.read_bytes()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def entry(server):
    return replace(
        PUBLISHED[0],
        file="weights.safetensors",
        urls=(server.url,),
        size=len(server.content),
        sha256=hashlib.sha256(server.content).hexdigest(),
        repos=(),
    )


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_fetched_whole_and_only_once(server, entry, home):
    path = download(entry, progress=False)
    assert path == cache_folder() / entry.file and path.read_bytes() == server.content
    assert download(entry, progress=False) == path and server.asked == [None]
    assert left(cache_folder()) == [entry.file]
    assert (
        download(replace(entry, size=None, sha256=""), home / "else" / "where", progress=False).read_bytes()
        == server.content
    )


@pytest.mark.parametrize("size", ["known", "unknown"])
def test_a_transfer_that_breaks_off_is_gone_on_with_and_never_begun_anew(server, entry, home, size):
    entry = entry if size == "known" else replace(entry, size=None, sha256="")
    server.manners = {"break after": 50_000}
    assert download(entry, home, progress=False).read_bytes() == server.content
    assert (
        server.asked == [None, *(f"bytes={n}-" for n in range(50_000, len(server.content), 50_000))]
        and len(server.asked) > 3
    )


def test_what_a_broken_connection_left_is_taken_up_by_the_next_call(server, entry, home):
    server.manners = {"break after": 0}
    with pytest.raises(
        WeightsError, match="the connection broke off 5 times at 0 bytes; the same command goes on from there"
    ):
        download(entry, home, progress=False)
    part = home / "weights.safetensors.partial"
    part.write_bytes(server.content[:123_456])
    server.manners, server.asked = {}, []
    assert download(entry, home, progress=False).read_bytes() == server.content
    assert server.asked == ["bytes=123456-"] and not part.exists()


def test_a_part_that_is_all_there_is_is_not_fetched_again(server, entry, home):
    (home / "weights.safetensors.partial").write_bytes(server.content)
    assert download(entry, home, progress=False).read_bytes() == server.content
    assert server.asked == [f"bytes={len(server.content)}-"]


@pytest.mark.parametrize("manners", [{"whole": True}, {"skew": 7}])
def test_a_server_that_cannot_go_on_is_asked_for_the_whole(server, entry, home, manners):
    (home / "weights.safetensors.partial").write_bytes(server.content[:999])
    server.manners = manners
    assert download(entry, home, progress=False).read_bytes() == server.content


@pytest.mark.parametrize("known_size", [True, False])
def test_a_server_that_does_not_tell_the_length_serves_too(server, entry, home, known_size):
    server.manners = {"mute": True}
    assert (
        download(entry if known_size else replace(entry, size=None), home, progress=False).read_bytes()
        == server.content
    )


@pytest.mark.parametrize("old", [b"what another program left, of the same length"[:40], b"x" * 10**6])
def test_a_part_of_something_else_is_thrown_away_and_fetched_anew(server, entry, home, old):
    (home / "weights.safetensors.partial").write_bytes(old)
    assert download(entry, home, progress=False).read_bytes() == server.content
    assert server.asked[0] == f"bytes={len(old)}-" and server.asked[-1] is None


@pytest.mark.parametrize(
    "manners, said",
    [
        ({"type": "text/html; charset=utf-8"}, "it answers with a web page"),
        ({"status": 404}, "HTTP 404, it is not there"),
        ({"status": 401}, "HTTP 401, it asks for a login"),
        ({"status": 500}, "HTTP 500"),
    ],
)
def test_what_is_no_file_is_named_with_the_mend_and_leaves_nothing(server, entry, home, manners, said):
    server.manners = manners
    told = rf"could not be fetched \(127.0.0.1:\d+: {said}.*\); fetch weights.safetensors by hand, see"
    with pytest.raises(WeightsError, match=told) as e:
        download(entry, home / "folder", progress=False)
    assert "\n" not in str(e.value) and left(home / "folder") == []


def test_the_next_mirror_is_asked_and_every_fault_is_told(server, entry, home):
    nobody = "http://127.0.0.1:1/weights.safetensors"
    with pytest.raises(WeightsError, match=r"127.0.0.1:1: no connection .*; 127.0.0.1:2: no connection"):
        download(replace(entry, urls=(nobody, nobody.replace(":1/", ":2/"))), home, progress=False)
    assert (
        download(replace(entry, urls=(nobody, server.url)), home, progress=False).read_bytes()
        == server.content
    )


@pytest.mark.parametrize(
    "change, said",
    [
        ({"sha256": "0" * 64}, r"is not stable-diffusion-v1-5 as it was published \(its SHA-256 is"),
        ({"size": 77}, "and 77 were published"),
    ],
)
def test_a_file_that_is_not_the_published_one_does_not_stay(server, entry, home, change, said):
    with pytest.raises(WeightsError, match=said):
        download(replace(entry, **change), home / "folder", progress=False)
    assert left(home / "folder") == []


def test_a_disk_that_is_too_small_is_known_beforehand(server, entry, home, monkeypatch):
    monkeypatch.setattr(
        palimpsest.weights.public.download.shutil,
        "disk_usage",
        lambda path: type("usage", (), {"free": 1000}),
    )
    with pytest.raises(WeightsError, match="0.0 GB are needed, and .* has 0.0 GB free; set TORCH_HOME"):
        download(entry, home / "folder", progress=False)
    assert left(home / "folder") == []


def test_the_first_digits_of_a_digest_are_compared_where_only_they_are_known(server, entry, home):
    path = home / "weights.safetensors"
    path.write_bytes(server.content)
    for digits in ("", entry.sha256[:10], entry.sha256):
        assert check(path, replace(entry, sha256=digits)) == entry.sha256
    with pytest.raises(WeightsError, match="is not .* as it was published"):
        check(path, replace(entry, sha256="0123456789"))


# ---------------------------------------------------------------------------------------------------------------- whole or not


def torch_bytes(**how):
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(3000.0)}, buffer, **how)
    return buffer.getvalue()


def safetensors_bytes(tmp_path):
    save_file({"a": torch.arange(3000.0)}, tmp_path / "x")
    return (tmp_path / "x").read_bytes()


def test_a_whole_file_is_told_by_its_form(tmp_path):
    for content, form in (
        (safetensors_bytes(tmp_path), "safetensors"),
        (torch_bytes(), "zip"),
        (torch_bytes(_use_new_zipfile_serialization=False), "pickle"),
    ):
        (tmp_path / "file").write_bytes(content)
        assert whole(tmp_path / "file") == form
    assert zipfile.is_zipfile(io.BytesIO(torch_bytes()))


@pytest.mark.parametrize("form", ["safetensors", "zip"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_file_that_lost_its_end_is_refused_before_use(tmp_path, form, share):
    content = torch_bytes() if form == "zip" else safetensors_bytes(tmp_path)
    (tmp_path / "file").write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match="it was cut off.*fetch it again"):
        whole(tmp_path / "file")


@pytest.mark.parametrize(
    "content, said",
    [
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"", "fetch it again"),
        ((2**40).to_bytes(8, "little") + b"{}", "10 bytes where its header calls for 1,099,511,627,784"),
        ((9).to_bytes(8, "little") + b'{"a": 1} ', "no whole safetensors header"),
    ],
)
def test_what_is_no_checkpoint_is_refused_before_use(tmp_path, content, said):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(WeightsError, match=said):
        whole(tmp_path / "file")


def test_bytes_after_the_end_are_noticed(tmp_path):
    (tmp_path / "file").write_bytes(safetensors_bytes(tmp_path) + b"<html>")
    with pytest.raises(WeightsError, match="or something was added"):
        whole(tmp_path / "file")
