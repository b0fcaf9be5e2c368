"""CLIP's tokenizer as transformers 4 and 5 write it beside a model, with words that were taught later."""

import json
import shutil
import warnings

import pytest

from palimpsest.nets.tokenizer import ClipTokenizer
from palimpsest.weights.files import WeightsError
from palimpsest.weights.public.tokenizers import read_tokenizer, write_tokenizer

transformers = pytest.importorskip("transformers", reason="it writes the folders that are read here")
TEXTS = ["a photo of a cat", "A Hat, red; the café's 12 chihuahuaesque hats", "", "word " * 90]


@pytest.fixture(scope="module")
def plain():
    return ClipTokenizer(truncate=True)


def rows(tokenizer, texts=TEXTS):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tokenizer(texts).tolist()


def their_rows(tokenizer, texts=TEXTS):
    return tokenizer(texts, padding="max_length", truncation=True, max_length=77)["input_ids"]


@pytest.fixture(scope="module")
def four(plain, tmp_path_factory):
    """As transformers 4 wrote it: merges.txt and vocab.json."""
    folder = tmp_path_factory.mktemp("four") / "tokenizer"
    write_tokenizer(folder, plain)
    return folder


@pytest.fixture
def five(four, tmp_path):
    """As transformers 5 writes it: tokenizer.json alone."""
    transformers.CLIPTokenizer.from_pretrained(four).save_pretrained(tmp_path / "tokenizer")
    if not (tmp_path / "tokenizer" / "tokenizer.json").exists():  # transformers 4
        transformers.CLIPTokenizerFast.from_pretrained(four).save_pretrained(tmp_path / "tokenizer")
    for old in ("merges.txt", "vocab.json", "added_tokens.json", "special_tokens_map.json"):
        (tmp_path / "tokenizer" / old).unlink(missing_ok=True)
    return tmp_path / "tokenizer"


def test_a_folder_is_read_in_both_ways_of_writing_it(plain, four, five, tmp_path):
    for folder in (four, five, tmp_path / "not there"):
        found = read_tokenizer(folder, 77)
        assert rows(found) == rows(plain) and (found.pad, found.taught, found.truncate) == (49407, {}, True)
        assert len(read_tokenizer(folder, 20)(["a cat"])[0]) == 20
    assert rows(plain) == their_rows(transformers.CLIPTokenizer.from_pretrained(five))


def test_pairs_may_be_texts_or_lists(five, plain):
    file = five / "tokenizer.json"
    whole = json.loads(file.read_text(encoding="utf-8"))
    for spelt in (list, " ".join):
        whole["model"]["merges"] = [spelt(pair) for pair in plain.rank]
        file.write_text(json.dumps(whole), encoding="utf-8")
        assert rows(read_tokenizer(five, 77)) == rows(plain)


def test_words_that_transformers_added_are_read(five, tmp_path):
    theirs = transformers.CLIPTokenizer.from_pretrained(five)
    theirs.add_tokens(["<cat-toy>", "<Big Dog>"])
    theirs.add_tokens(["<s1>"], special_tokens=True)
    theirs.save_pretrained(tmp_path / "added")
    found = read_tokenizer(tmp_path / "added", 77)
    texts = ["a <cat-toy> and a <BIG dog>,<s1><s1>", "a <CAT-TOY>", "<s2>"]
    assert rows(found, texts) == their_rows(theirs, texts) and 49410 in rows(found, texts)[0]
    assert found.vocab_size == 49411


@pytest.mark.parametrize("file", ["added_tokens.json", "tokenizer_config.json"])
def test_words_that_an_older_version_added_are_read(four, tmp_path, file):
    folder = shutil.copytree(four, tmp_path / "tokenizer")
    added = {"<cat-toy>": 49408, "<|endoftext|>": 49407}
    if file == "tokenizer_config.json":
        config = json.loads((folder / file).read_text(encoding="utf-8"))
        added = config | {"added_tokens_decoder": {str(i): {"content": word} for word, i in added.items()}}
    (folder / file).write_text(json.dumps(added), encoding="utf-8")
    assert read_tokenizer(folder, 77).encode("a <cat-toy>") == [49406, 320, 49408, 49407]
    assert read_tokenizer(folder, 77).taught == {"<cat-toy>": [49408]}


@pytest.mark.parametrize("pad", ["!", {"content": "!", "special": True}])
def test_stable_diffusion_2_pads_with_an_exclamation_mark(five, plain, pad):
    config = json.loads((five / "tokenizer_config.json").read_text(encoding="utf-8"))
    (five / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": pad}), encoding="utf-8")
    found = read_tokenizer(five, 77)
    assert found(["a cat"])[0].tolist() == [49406, 320, 2368, 49407] + [0] * 73
    # official code: transformers reads "!" in a text as the padding too, the tokenizer of the training as a sign
    assert found.encode("wow!") == plain.encode("wow!") and found.taught == {}


def test_what_is_written_is_read_by_transformers_and_here(tmp_path):
    ours = ClipTokenizer(pad=0, truncate=True).with_taught({"<cat-toy>": [49408]})
    write_tokenizer(tmp_path / "tokenizer", ours)
    texts = [*TEXTS, "a <cat-toy>"]
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    again = read_tokenizer(tmp_path / "tokenizer", 77)
    assert rows(again, texts) == rows(ours, texts) == their_rows(theirs, texts)
    with pytest.raises(ValueError, match="cannot say that <x> is several tokens; save it as one file"):
        write_tokenizer(tmp_path / "other", ClipTokenizer().with_taught({"<x>": [49408, 49409]}))
    assert not (tmp_path / "other").exists()


def change(folder, edit):
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    edit(whole)
    (folder / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")


REFUSED = [
    (lambda f: (f / "tokenizer.json").unlink(), "neither merges.txt nor tokenizer.json"),
    (lambda f: change(f, lambda w: w["model"].update(type="Unigram")), "in tokenizer.json is Unigram"),
    (lambda f: change(f, lambda w: w["model"].update(end_of_word_suffix="")), "in tokenizer.json is BPE"),
    (lambda f: change(f, lambda w: w.pop("model")), "in tokenizer.json is None"),
    (lambda f: change(f, lambda w: w["model"]["vocab"].update(cat=7)), "is token 7 in tokenizer.json"),
    (lambda f: change(f, lambda w: w["model"].update(merges=[["a"]])), "no pairs"),
    (lambda f: change(f, lambda w: w["model"].update(merges=w["model"]["merges"][1:])), "is token"),
    (
        lambda f: (f / "tokenizer.json").write_text("<html>", encoding="utf-8"),
        "tokenizer.json is not a JSON object",
    ),
    (lambda f: (f / "merges.txt").write_text("#version\na b\n", encoding="utf-8"), "not CLIP's vocabulary"),
    (
        lambda f: (f / "tokenizer_config.json").write_text('{"pad_token": "<none>"}', encoding="utf-8"),
        "its padding '<none>' is none of its tokens",
    ),
]


@pytest.mark.parametrize("spoil, said", REFUSED, ids=[said for _, said in REFUSED])
def test_another_tokenizer_is_refused_in_one_line(five, spoil, said):
    spoil(five)
    with pytest.raises(WeightsError, match=f"^model: .*{said}") as e:
        read_tokenizer(five, 77)
    assert "\n" not in str(e.value) and str(five.parent) in str(e.value)
