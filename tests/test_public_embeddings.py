"""Words of textual inversion as A1111, diffusers and this library keep them: known to the tokenizer, new
rows of the table, nothing else changed; what does not fit is named.
"""

import copy
import dataclasses
import re
from pathlib import Path

import pytest
import torch
from random_weights import normal
from safetensors.torch import save_file
from torch import nn

from palimpsest.arguments import ArgumentError
from palimpsest.methods.lora import save_word
from palimpsest.methods.prompt_to_prompt import prompt_to_prompt
from palimpsest.methods.sampling import generate
from palimpsest.nets.tokenizer import ClipTokenizer
from palimpsest.weights.files import WeightsError
from palimpsest.weights.load import load, save_like
from palimpsest.weights.public.checkpoint import save
from palimpsest.weights.public.embeddings import split_word, with_words
from tests.tiny import tiny_glide, tiny_ve, tiny_weights

V = normal(3, 16)  # as wide as the tiny model's texts


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def loaded(file):
    return load(file, "cpu")


@pytest.fixture
def model(loaded):
    return dataclasses.replace(loaded, text=copy.deepcopy(loaded.text))  # one that may be taught


def a1111(vectors, **more):
    return {
        "string_to_token": {"*": 265},
        "string_to_param": vectors,
        "step": 5,
        "sd_checkpoint": None,
        **more,
    }


def write(path, contents):
    (save_file if path.suffix == ".safetensors" else torch.save)(contents, path)
    return path


KINDS = {  # what is in the file, its name, the words that it teaches
    "A1111's .pt": (a1111({"*": V}, name="zwx"), "x.pt", {"zwx": V}),
    "A1111's .pt without a name": (a1111({"*": V}, name=None), "My-Style.pt", {"my-style": V}),
    "with parameters": (a1111({"*": nn.Parameter(V)}, name="zwx"), "x.pt", {"zwx": V}),
    "the first, a ParameterDict": (a1111(nn.ParameterDict({"*": nn.Parameter(V)})), "x.pt", {"x": V}),
    "A1111's .bin": (a1111({"*": V}, name="zwx"), "x.bin", {"zwx": V}),
    "A1111's .safetensors": ({"emb_params": V}, "EasyNegative.safetensors", {"easynegative": V}),
    "diffusers' .bin": ({"<cat-toy>": V[0]}, "learned_embeds.bin", {"<cat-toy>": V[:1]}),
    "diffusers' .safetensors": (
        {"<cat-toy>": V.half()},
        "learned_embeds.safetensors",
        {"<cat-toy>": V.half()},
    ),
    "several words": ({"<a>": V[:2], "<b>": V[2]}, "x.safetensors", {"<a>": V[:2], "<b>": V[2:]}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_words_of_every_kind_are_new_rows_that_the_tokenizer_knows(kind, loaded, file, tmp_path):
    contents, name, words = KINDS[kind]
    taught = load(file, "cpu", embedding=write(tmp_path / name, contents))
    rows, old = taught.text.tokens.weight, loaded.text.tokens.weight
    assert set(taught.tokenizer.taught) == set(words) and torch.equal(rows[: len(old)], old)
    for word, vectors in words.items():
        row = taught.tokenizer([f"a {word.upper()} on a red background"])[0]
        (where,) = [[int(i) for i in (row >= len(old)).nonzero()]]
        assert torch.equal(rows[row[where]], vectors.float()) and where == list(range(2, 2 + len(vectors)))
        assert taught.tokenizer.positions(f"a {word}, on red", word) == where
        assert f" {word} on a red background" in taught.tokenizer.decode(row)
        with pytest.raises(ValueError, match="unknown word|not in the prompt"):
            taught.tokenizer.positions(f"a {word}s" if word.isalnum() else "a star", word)
    assert torch.equal(taught.tokenizer(["a red star"]), loaded.tokenizer(["a red star"]))
    assert not loaded.tokenizer.taught and len(loaded.text.tokens.weight) == len(old)


def test_a_word_is_named_by_the_file_or_behind_an_equals_sign(model, tmp_path):
    one = write(tmp_path / "x.pt", a1111({"*": V[:1]}, name="zwx"))
    other = write(tmp_path / "y=2.safetensors", {"emb_params": V})
    n = len(model.text.tokens.weight)
    taught = with_words(model, [f"{one}=<one>", other, f"{other}=sunset style"])
    assert set(taught.tokenizer.taught) == {"<one>", "y=2", "sunset style"}
    assert taught.tokenizer.pieces("a Sunset  Style <one>")[1:] == [[n + 4, n + 5, n + 6], [n]]
    assert split_word(other) == (other, None) and split_word("a=b=c") == (Path("a=b"), "c")
    two = write(tmp_path / "two.safetensors", {"<a>": V, "<b>": 2 * V})
    for given, said in (
        (f"{two}=<c>", r"teaches 2 words \(<a>, <b>\), which cannot all be '<c>'"),
        ([one, f"{other}=ZWX"], "teaches 'ZWX' once more; name it FILE=WORD"),
        (f"{one}=", "ends without a word"),
    ):
        with pytest.raises(ArgumentError, match=f"^embedding: .*{said}"):
            with_words(model, given)


def test_what_this_library_learned_is_an_embedding_like_any_other(file, loaded, tmp_path):
    token = loaded.tokenizer.token("zwx")
    learned = load(file, "cpu")
    learned.text.tokens.weight[token] = V[0]
    path = save_word(learned, tmp_path / "mine.safetensors", str(file), "zwx")
    taught = load(file, "cpu", embedding=path)
    assert torch.equal(taught.embed("a zwx star"), learned.embed("a zwx star"))
    assert torch.equal(
        load(file, "cpu", embedding=f"{path}=qev").embed("a qev star"), learned.embed("a zwx star")
    )


def test_a_taught_word_paints_and_is_kept_when_the_model_is_saved(file, tmp_path):
    path = write(tmp_path / "x.pt", a1111({"*": V}, name="<mine>"))
    taught = load(file, "cpu", embedding=path)
    picture = generate(taught, "a <mine> star", steps=2).picture
    again = load(save_like(taught, file, tmp_path / "again.safetensors"), "cpu")
    assert torch.equal(generate(again, "a <mine> star", steps=2).picture, picture)
    assert not torch.equal(generate(taught, "a star", steps=2).picture, picture)
    single = load(save(taught, tmp_path / "single.safetensors"), "cpu")
    assert torch.equal(single.embed("a <mine> star"), taught.embed("a <mine> star"))
    edit = prompt_to_prompt(taught, "a <mine> star", "a red star", steps=2)
    assert edit.picture.isfinite().all()


def test_clips_tokenizer_learns_words_too_and_a_single_file_keeps_them(tmp_path):
    tokenizer = ClipTokenizer().with_taught({"easynegative": [49408, 49409]})
    assert tokenizer.pieces("a photo, EasyNegative")[-1] == [49408, 49409]
    assert tokenizer.decode([49406, 320, 49408, 49409, 49407]) == "a easynegative"


REFUSED = {
    "another width": (
        {"<a>": normal(2, 768)},
        r"teaches '<a>' as vectors of width 768 \(Stable Diffusion v1\), and tiny reads 16",
    ),
    "SD2's": (a1111({"*": normal(1, 1024)}), r"width 1024 \(Stable Diffusion 2\)"),
    "SDXL's": (
        {"clip_l": normal(1, 768), "clip_g": normal(1, 1280)},
        "the two text encoders of Stable Diffusion XL",
    ),
    "no finite numbers": ({"<a>": V * torch.nan}, "not finite"),
    "a LoRA": (
        {"lora_unet_x.lora_down.weight": normal(2, 3), "lora_unet_x.lora_up.weight": normal(3, 2)},
        "holds no textual-inversion",
    ),
    "whole numbers": ({"<a>": torch.zeros(16, dtype=torch.int64)}, "holds no textual-inversion"),
    "nothing": ({}, "holds no textual-inversion"),
    "no width": ({"<a>": torch.zeros(2, 0)}, "holds no textual-inversion"),
    "no vectors": ({"<a>": torch.zeros(0, 16)}, "holds no textual-inversion"),
    "several parameters": (a1111({"*": V, "+": V}), "holds no textual-inversion"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_named_in_one_line(what, model, tmp_path):
    contents, said = REFUSED[what]
    with pytest.raises(ArgumentError, match=f"^embedding: .*{said}") as error:
        with_words(model, write(tmp_path / "x.pt", contents))
    assert "\n" not in str(error.value)


def test_no_code_of_a_file_is_run_and_damaged_files_are_told(model, tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save(a1111(Evil()), tmp_path / "evil.pt")
    (tmp_path / "cut.safetensors").write_bytes(
        write(tmp_path / "x.safetensors", {"<a>": V}).read_bytes()[:-4]
    )
    (tmp_path / "page.bin").write_bytes(b"<!DOCTYPE html><html>")
    for name, said in (
        ("evil.pt", "wants to run"),
        ("cut.safetensors", "is not a whole safetensors file"),
        ("page.bin", "is a web page"),
        ("none.pt", "cannot be read"),
    ):
        with pytest.raises(ArgumentError, match=f"^embedding: {re.escape(str(tmp_path / name))} {said}"):
            with_words(model, tmp_path / name)
    assert not (tmp_path / "ran").exists()
    for header in ('{"kind": "word"}', '{"kind": "word", "identifier": "zwx"}', "{"):
        save_file({"other": V}, tmp_path / "x.safetensors", {"palimpsest": header})
        with pytest.raises(ArgumentError, match="^embedding: .*(no textual-inversion|damaged header)"):
            with_words(model, tmp_path / "x.safetensors")


def test_a_model_without_such_a_text_encoder_learns_no_words(tmp_path):
    path = write(tmp_path / "x.pt", {"<a>": V})
    for net in (tiny_glide(tmp_path), tiny_ve(tmp_path, "plain")):
        model = load(net, "cpu")
        model = model if net.stem == "tiny-glide" else dataclasses.replace(model, text=None, tokenizer=None)
        with pytest.raises(
            ArgumentError, match=f"^embedding: .* teaches words, and {model.name} has no text encoder"
        ):
            with_words(model, path)


@pytest.mark.parametrize(
    "contents", [{"<a>": normal(2, 768)}, a1111({"*": normal(1, 768)}), {"emb_params": normal(2, 768)}]
)
def test_an_embedding_in_place_of_a_model_is_told_where_it_goes(contents, tmp_path):
    path = write(tmp_path / "x.pt", contents)
    with pytest.raises(WeightsError, match="^model: .*holds an embedding .*give it to --embedding"):
        load(path, "cpu")
