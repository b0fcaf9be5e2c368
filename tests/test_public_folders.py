"""Folders as today's diffusers and transformers write them: variants, shards, the hub's cache."""

import dataclasses
import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_public_load import same, small

from palimpsest.nets.tokenizer import ClipTokenizer
from palimpsest.weights.files import WeightsError
from palimpsest.weights.load import load
from palimpsest.weights.public.checkpoint import save

diffusers = pytest.importorskip("diffusers", reason="it writes the folders that are read here")
pytest.importorskip("transformers", reason="it writes the text encoder and the tokenizer")
PARTS = ("unet", "vae", "text_encoder")
STEM = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture(scope="module")
def model():
    return dataclasses.replace(small(vocab=49408), tokenizer=ClipTokenizer(truncate=True))


@pytest.fixture(scope="module")
def pipe(model, tmp_path_factory):
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    folder = save(model, tmp_path_factory.mktemp("ours") / "sd")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)


@pytest.fixture(scope="module")
def plain(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs") / "sd"
    pipe.save_pretrained(folder)
    return folder


def variant_alone(folder, variant):
    """Every weight file renamed as that variant."""
    for part in PARTS:
        file = folder / part / f"{STEM[part]}.safetensors"
        file.rename(file.with_name(f"{STEM[part]}.{variant}.safetensors"))


def test_a_folder_of_todays_diffusers_is_the_model_that_it_was_made_from(model, plain):
    found = load(plain, device="cpu")
    assert same(model, found) == [] and found.tokenizer(["a cat"]).equal(model.tokenizer(["a cat"]))
    assert (found.prediction, found.latent_scale, found.size, found.name) == ("eps", 0.18215, 128, "sd")
    assert torch.equal(found.schedule.abar, model.schedule.abar)


@pytest.mark.parametrize("variant", [None, "fp16", "bf16", "non_ema"])
def test_shards_and_variants_are_read(model, pipe, tmp_path, variant):
    pipe.save_pretrained(tmp_path / "sd", variant=variant, max_shard_size="200KB")
    assert len(list((tmp_path / "sd" / "unet").glob("*-of-*.safetensors"))) > 2
    assert same(model, load(tmp_path / "sd", device="cpu")) == []


@pytest.mark.parametrize("variant", ["fp16", "bf16", "non_ema", "ema"])
def test_a_variant_alone_is_read(model, plain, tmp_path, variant):
    folder = shutil.copytree(plain, tmp_path / "sd")
    variant_alone(folder, variant)
    assert same(model, load(folder, device="cpu")) == []


def test_of_several_variants_the_best_is_taken(model, plain, tmp_path):
    folder = shutil.copytree(plain, tmp_path / "sd")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    for variant in ("fp32", "bf16", "fp16", "ema_only", "non_ema"):
        shutil.copy(file, file.with_name(f"diffusion_pytorch_model.{variant}.safetensors"))
    for better in ("diffusion_pytorch_model", *map("diffusion_pytorch_model.{}".format, ("fp32", "bf16"))):
        for other in (folder / "unet").glob("*.safetensors"):
            if other.stem != better:
                other.write_bytes(b"not to be opened")
        good = folder / "unet" / f"{better}.safetensors"
        shutil.copy(plain / "unet" / file.name, good)
        assert same(model, load(folder, device="cpu")) == []
        good.unlink()


def test_a_snapshot_of_the_hubs_cache_is_links_and_has_the_repositorys_name(model, plain, tmp_path):
    repo = tmp_path / "hub" / "models--someone--my-sd"
    snapshot = repo / "snapshots" / "0123abc"
    for number, file in enumerate(sorted(path for path in plain.rglob("*") if path.is_file())):
        blob, link = repo / "blobs" / str(number), snapshot / file.relative_to(plain)
        for parent in (blob.parent, link.parent):
            parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link.symlink_to(blob)
    found = load(snapshot, device="cpu")
    assert same(model, found) == [] and found.name == "my-sd"
    with pytest.raises(WeightsError, match=f"^model: {repo} holds no unet/; give {snapshot}"):
        load(repo, device="cpu")
    for part, file in (("tokenizer", "tokenizer.json"), ("vae", "diffusion_pytorch_model.safetensors")):
        blob = (snapshot / part / file).resolve()
        blob.rename(repo / "moved")
        with pytest.raises(WeightsError, match=f"/{part} has links to files that are not there \\({file}\\)"):
            load(snapshot, device="cpu")
        (repo / "moved").rename(blob)


@pytest.mark.parametrize(
    "name, said", [("model.msgpack", "Flax"), ("model.onnx", "ONNX"), ("tf_model.h5", "TensorFlow")]
)
def test_weights_of_another_library_alone_are_named(plain, tmp_path, name, said):
    folder = shutil.copytree(plain, tmp_path / "sd")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "vae" / name)
    with pytest.raises(
        WeightsError, match=f"vae holds weights of {said} alone \\({name}\\), which are not read"
    ):
        load(folder, device="cpu")


@pytest.mark.parametrize(
    "content, said",
    [(b'{"_class_name": "x"}', "is a JSON file and holds no weights; give "), (b"GGUF\x03", "GGUF")],
)
def test_what_is_given_in_place_of_a_folder_is_named(tmp_path, content, said):
    (tmp_path / "model_index.json").write_bytes(content)
    with pytest.raises(WeightsError, match=said):
        load(tmp_path / "model_index.json", device="cpu")


def test_words_added_with_transformers_come_with_their_rows(model, pipe, tmp_path):
    """As people save textual inversions inside a pipeline: the token table grows with the tokenizer."""
    pipe.save_pretrained(tmp_path / "sd")
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "sd", local_files_only=True)
    theirs.tokenizer.add_tokens(["<cat-toy>"])
    theirs.text_encoder.resize_token_embeddings(len(theirs.tokenizer), mean_resizing=False)
    theirs.save_pretrained(tmp_path / "more")
    found = load(tmp_path / "more", device="cpu")
    assert found.text.tokens.num_embeddings == 49409
    rows = found.tokenizer(["a <cat-toy>"])
    assert rows[0, :4].tolist() == [49406, 320, 49408, 49407]
    with torch.no_grad():
        expected = theirs.text_encoder(rows).last_hidden_state
        torch.testing.assert_close(found.embed("a <cat-toy>"), expected, rtol=1e-4, atol=1e-4)
    again = load(save(found, tmp_path / "again"), device="cpu")
    assert again.tokenizer(["a <cat-toy>"]).equal(rows) and same(found, again) == []
    index = json.loads((tmp_path / "again" / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "StableDiffusionPipeline"


def test_a_text_encoder_may_bring_the_rest_of_its_clip(model, plain, tmp_path):
    """CLIPTextModelWithProjection has a projection, and a whole CLIP its picture's half."""
    folder = shutil.copytree(plain, tmp_path / "sd")
    file = folder / "text_encoder" / "model.safetensors"
    more = {name: torch.ones(3, 3) for name in ("text_projection.weight", "vision_model.x", "logit_scale")}
    save_file(load_file(file) | more, file)
    assert same(model, load(folder, device="cpu")) == []
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | more, file)
    with pytest.raises(WeightsError, match="3 left over"):
        load(folder, device="cpu")
