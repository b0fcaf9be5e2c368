"""GPT-2's tokenizer as GLIDE uses it, against transformers and on invented pairs."""

import gzip
import json
import random

import pytest
import torch
from test_tokenizer import DAMAGED, HOSTILE, SCRIPTS

from palimpsest.nets.gpt2 import GPT2_PAIRS, GPT2Tokenizer, read_gpt2_merges, split_gpt2
from palimpsest.nets.tokenizer import TextCut
from palimpsest.weights.files import sha256


@pytest.fixture(scope="module")
def gpt2():
    return GPT2Tokenizer()


def test_the_shipped_byte_pairs_are_those_that_were_published():
    assert sha256(GPT2_PAIRS) == "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
    licence = GPT2_PAIRS.with_name("LICENSE-GPT2.txt").read_text(encoding="utf-8")
    assert GPT2_PAIRS.name in licence and "Copyright (c) 2019 OpenAI" in licence


@pytest.fixture
def invented(tmp_path):
    """A vocabulary of 50,000 pairs, of which only three can be met: "ca", "cat" and " cat"."""
    pairs = ["c a", "ca t", "Ġ cat", *(f"Ā{i} Ā{i}" for i in range(49_997))]
    file = tmp_path / "vocab.bpe"
    file.write_text("#version: 0.2\n" + "\n".join(pairs) + "\n", encoding="utf-8")
    return file


def test_the_published_literals(gpt2):
    assert (gpt2.vocab_size, gpt2.pad, gpt2.length, gpt2.start, gpt2.end) == (50257, 50256, 128, None, None)
    assert gpt2.encode("An oil painting of a CORGI") == [272, 3056, 12036, 286, 257, 1162, 12397]
    assert gpt2.encode("a corgi in a field") == [64, 1162, 12397, 287, 257, 2214]
    assert gpt2.encode("") == [] and gpt2([""]).tolist() == [[50256] * 128]
    assert 50256 not in gpt2.encode("<|endoftext|>")  # text that only looks like the end of one


def test_any_text_becomes_the_tokens_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers", reason="checked against the tokenizer of transformers")
    ours = GPT2Tokenizer(lower=False)
    (tmp_path / "vocab.json").write_text(json.dumps(ours.tokens), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in read_gpt2_merges(GPT2_PAIRS))]
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    theirs = transformers.GPT2Tokenizer.from_pretrained(tmp_path)
    rng = random.Random(0)
    signs = [
        "a",
        "b",
        " ",
        " ",
        "\n",
        "'s",
        "'",
        "1",
        "é",
        "漢",
        "!",
        "\t",
        "\u3000",
        "\x1c",
        "\u0085",
        "_",
        "Ⅷ",
        "\u200b",
        "\u0301",
        "Q",
    ]
    mixed = ["".join(rng.choice(signs) for _ in range(rng.randint(1, 15))) for _ in range(500)]
    for text in [*HOSTILE, *SCRIPTS, *DAMAGED, "  two  spaces \n\n x ", "a ", *mixed]:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), ascii(text)


def test_decoding_gives_the_lower_case_text_back_to_the_letter(gpt2):
    for text in [*HOSTILE, *SCRIPTS, *DAMAGED]:
        assert gpt2.decode([*gpt2.encode(text), gpt2.pad]) == text.lower()


def test_a_text_is_cut_into_words_that_keep_the_space_before_them():
    assert list(split_gpt2("it's  two12 cats!\n\n ok ")) == [
        "it",
        "'s",
        " ",
        " two",
        "12",
        " cats",
        "!",
        "\n\n",
        " ok",
        " ",
    ]


def test_rows_have_neither_start_nor_end_and_all_their_room_is_text(invented):
    tokens = GPT2Tokenizer(invented, length=4, truncate=True)
    assert tokens.tokens["cat"] == 257 and tokens.tokens["Ġcat"] == 258 and tokens.vocab_size == 50257
    assert tokens(["Cat cat", ""]).tolist() == [[257, 258, 50256, 50256], [50256] * 4]
    assert tokens(["cat" + " cat" * 3]).tolist() == [[257, 258, 258, 258]]
    with pytest.warns(TextCut, match='has 6 tokens and the model reads 4; left out: " catz"'):
        assert tokens(["cat cat cat cat catz"]).tolist() == [[257, 258, 258, 258]]
    with pytest.raises(ValueError, match="has 5 tokens, but at most 4 fit: shorten it"):
        GPT2Tokenizer(invented, length=4)(["cat" + " cat" * 4])


def test_a_word_is_found_at_the_beginning_and_after_a_space(invented):
    tokens = GPT2Tokenizer(invented, length=8)
    assert tokens.positions("cat, Cat", "cat") == [0, 2]
    with pytest.raises(ValueError, match='the word "dog" is not in the prompt "cat"'):
        tokens.positions("cat", "dog")
    with pytest.raises(ValueError, match="is not in the prompt"):
        tokens.positions("x" * 8 + " cat", "cat")  # beyond the row
    assert torch.equal(tokens(["cat"])[0, tokens.positions("cat", "cat")], torch.tensor([257]))


@pytest.mark.parametrize(
    "content",
    [None, b"", b"\xff", gzip.compress(b"a b\nc d\n"), gzip.compress(b"a b\n" * 50000)[:99]],
    ids=["none", "empty", "no gzip", "too short", "cut off"],
)
def test_a_file_that_is_not_the_vocabulary_is_refused(tmp_path, content):
    file = tmp_path / "bpe.txt.gz"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match="vocabulary") as e:
        GPT2Tokenizer(file)
    assert "\n" not in str(e.value) and str(file) in str(e.value)
