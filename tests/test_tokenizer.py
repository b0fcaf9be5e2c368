from __future__ import annotations

import gzip
import importlib.util
import json
import pickle
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.nets.tokenizer import (
    CLIP_PAIRS,
    LETTERS,
    ClipTokenizer,
    TextCut,
    UnknownWord,
    WordTokenizer,
    clean_openai,
    clean_plain,
    read_merges,
)
from palimpsest.weights.files import sha256

WORDS = ["a", "red", "blue", "star", "square", "of", "left", ",", "-"]


# ----------------------------------------------------------------------------------------------------------- WordTokenizer


@pytest.fixture
def words():
    return WordTokenizer(WORDS, length=10)


def test_words_are_numbered_in_order_after_the_three_special_tokens(words):
    assert words.vocab_size == 12
    assert words.encode("A red star, left-of a BLUE  square") == [1, 3, 4, 6, 10, 9, 11, 8, 3, 5, 7, 2]
    assert words(["a red star", ""]).tolist() == [[1, 3, 4, 6, 2, 0, 0, 0, 0, 0], [1, 2] + [0] * 8]
    assert words(["a"]).dtype == torch.long
    assert words([]).shape == (0, 10)


def test_decoding_a_padded_row_gives_the_words_back(words):
    assert words.decode(words(["A red star, blue"])[0]) == "a red star , blue"
    assert words.decode(words([""])[0]) == ""


def test_an_unknown_word_is_named_with_its_neighbours(words):
    with pytest.raises(UnknownWord, match='unknown word "sqare".*nearest known words are: square') as e:
        words(["a red sqare"])
    assert e.value.word == "sqare" and str(pickle.loads(pickle.dumps(e.value))) == str(e.value)
    with pytest.raises(UnknownWord, match='"zyxwv".*the known words are: .*square'):
        words.encode("zyxwv")
    with pytest.raises(UnknownWord, match="🐱"):
        words.encode("a 🐱")


def test_a_prompt_that_is_too_long_is_refused_with_the_limit(words):
    assert words(["a " * 8]).shape == (1, 10)
    with pytest.raises(ValueError, match="the prompt has 9 tokens, but at most 8 fit"):
        words(["a " * 9])
    assert len(words.encode("a " * 9)) == 11  # encode neither pads nor cuts


def test_positions_name_every_occurrence_of_a_word(words):
    text = "a red star , a blue star"
    row = words([text])[0]
    assert words.positions(text, "star") == [3, 7]
    assert words.positions(text, "Blue STAR") == [6, 7]
    assert words.positions("a a a", "a a") == [1, 2, 3]
    assert [words.decode([row[i]]) for i in words.positions(text, "a")] == ["a", "a"]


def test_a_word_that_is_not_in_the_prompt_has_no_positions(words):
    for word in ("square", "star red", "", "a red star a"):
        with pytest.raises(ValueError, match=f'the word "{word}" is not in the prompt "a red star"'):
            words.positions("a red star", word)
    with pytest.raises(UnknownWord):
        words.positions("a red star", "stars")


def test_the_word_list_is_all_there_is_to_save(words):
    again = WordTokenizer(json.loads(json.dumps(words.words)), words.length)
    assert again(["a red star"]).equal(words(["a red star"]))


@pytest.mark.parametrize(
    "bad, said",
    [
        (["red", "Blue"], "Blue"),
        (["left of"], "left of"),
        ([""], 'not ""'),
        (["a", "b", "a"], 'has "a" twice'),
    ],
)
def test_a_word_list_that_could_not_be_read_is_refused(bad, said):
    with pytest.raises(ValueError, match=said):
        WordTokenizer(bad)


@pytest.fixture(scope="module")
def speller():
    return WordTokenizer(["a", "red", "heart", ",", "+", "?", *LETTERS], length=20)


def test_a_list_with_letters_spells_the_words_that_it_lacks(speller):
    text = "a red zoo + bax, a q ?"
    assert speller.decode(speller.encode(text)) == "a red zoo + bax , a q ?"
    assert [len(piece) for piece in speller.pieces(text)] == [1, 1, 3, 1, 3, 1, 1, 1, 1]
    assert speller.decode(speller.encode("a 日本 heart")) == "a ?? heart"
    assert speller.positions("a zoo, red zoo heart", "zoo") == [2, 3, 4, 7, 8, 9]
    with pytest.raises(ValueError, match='"zo" is not in the prompt'):
        speller.positions("a zoo", "zo")
    assert WordTokenizer(json.loads(json.dumps(speller.words)), 20)([text]).equal(speller([text]))


def test_a_list_without_all_letters_does_not_spell(speller):
    with pytest.raises(UnknownWord, match='unknown word "zoo"'):
        WordTokenizer(["a", *LETTERS[:-1]]).encode("a zoo")


def test_forgetting_a_word_spells_it_and_leaves_all_other_tokens(speller):
    other = speller.forgetting(["red", "zoo"])
    assert (
        other.decode(other.encode("a red heart"))
        == "a red heart"
        == speller.decode(other.encode("a red heart"))
    )
    assert len(other.encode("a red heart")) == len(speller.encode("a red heart")) + 2
    assert (
        other.encode("a heart, zoo") == speller.encode("a heart, zoo")
        and other.vocab_size == speller.vocab_size
    )


def test_one_string_is_not_a_list_of_texts(words):
    with pytest.raises(ValueError, match="texts must be a list of strings"):
        words("a red star")


# ----------------------------------------------------------------------------------------------------------- ClipTokenizer


@pytest.fixture(scope="module")
def clip():
    return ClipTokenizer(truncate=True)


def test_the_shipped_byte_pairs_are_those_that_were_published():
    published = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
    assert sha256(CLIP_PAIRS) == published
    licence = CLIP_PAIRS.with_name("LICENSE-CLIP.txt").read_text(encoding="utf-8")
    assert CLIP_PAIRS.name in licence and "Copyright (c) 2021 OpenAI" in licence


HOSTILE = [
    "a photo of a cat",
    "A Photo, of the café's 12 cats!",
    "",
    "   ",
    "don't we'll I'D they'VE 's !'s 'super",
    "a_b_c __x__",
    "🐱",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈",
    "日本語のテキスト 漢字",
    "ＦＵＬＬ　width",
    "क्षि हिन्दी",
    "עִבְרִית",
    "𝓕𝓪𝓷𝓬𝔂",
    "e\u0301 cafe\u0301",
    "a\tb\nc\r\nd\u00a0e\u3000f\u0085g",
    "\u200bzero\u200dwidth\ufeff",
    "½ Ⅷ ² ªº 一二三 12345 ١٢٣",
    "x" * 3000,
    "word " * 200,
    "w " * 75,
    "w " * 76,
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "!!!???...,,,",
    "a,b;c:d",
    "http://example.com/a?b=c&d=e",
    "<b>bold</b>",
    "#$%^&*()",
]
SCRIPTS = [
    "Съешь ещё этих мягких булок",
    "หมูกระทะ",
    "ᚠᛇᚻ",
    "ⵣ ⵜⵉⴼⵉⵏⴰⵖ",
    "𓂀𒀀",
    "བོད་",
    " private",
    "한국어 텍스트",
]
DAMAGED = [
    "&amp;lt;b&gt; &quot;x&quot;",
    "“curly” ‘quotes’ ﬁ ligature",
    "schÃ¶n mojibake",
    "\x00\x07bell\x1b[31m",
    "f\x1cg",
]


def test_the_empty_prompt_is_start_then_ends(clip):
    assert clip.vocab_size == 49408
    assert clip([""])[0].tolist() == [49406] + [49407] * 76
    assert clip.encode("a photo of a cat") == [49406, 320, 1125, 539, 320, 2368, 49407]


def quiet(tokenizer, text):
    """The row of a text that may be too long, which is another test's matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextCut)
        return tokenizer([text])[0].tolist()


def test_padding_is_the_end_token_or_what_was_asked():
    row = ClipTokenizer(pad=0)(["a cat"])[0]
    assert row.tolist() == [49406, 320, 2368, 49407] + [0] * 73


# Characters that this Python's Unicode tables do not know (Cn) are left out: newer tables class some of
# them otherwise.
characters = st.characters(exclude_categories=["Cs", "Cn"]) | st.sampled_from("aZ'st1 9&;<|>\n\u3000Éß")
anything = st.text(characters, max_size=30)


@pytest.fixture(scope="module")
def public(clip, tmp_path_factory):
    """The tokenizer of transformers, given the same vocabulary in its own files."""
    transformers = pytest.importorskip("transformers", reason="checked against the tokenizer of transformers")
    folder = tmp_path_factory.mktemp("clip")
    (folder / "vocab.json").write_text(json.dumps(clip.tokens), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in read_merges(CLIP_PAIRS))]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = transformers.CLIPTokenizerFast.from_pretrained(folder)
    return lambda text: tokenizer([text], padding="max_length", truncation=True, max_length=77)["input_ids"][
        0
    ]


def test_hostile_text_becomes_the_tokens_of_transformers(clip, public):
    for text in [*HOSTILE, *SCRIPTS, *DAMAGED, "<|startoftext|> hi <|endoftext|>"]:
        assert quiet(clip, text) == list(public(text)), ascii(text)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(anything)
def test_any_text_becomes_the_tokens_of_transformers(clip, public, text):
    if "Σ" not in text:  # at the end of a word Python makes it ς, Rust σ
        assert quiet(clip, text) == list(public(text))


@pytest.fixture(scope="module")
def openai():
    """(ours, theirs): the tokenizer of OpenAI's code, as open_clip carries it on; it pads with 0 and
    mends damaged text.
    """
    tokenizer = pytest.importorskip(
        "open_clip.tokenizer", reason="checked against open_clip"
    ).SimpleTokenizer()
    ours = ClipTokenizer(pad=0, clean=clean_openai, truncate=True)
    return ours, lambda text: tokenizer([text])[0].tolist()


def test_hostile_and_damaged_text_becomes_the_tokens_of_open_clip(openai):
    ours, theirs = openai
    for text in [*HOSTILE, *SCRIPTS, *DAMAGED]:
        assert quiet(ours, text) == theirs(text), ascii(text)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(anything)
def test_any_text_becomes_the_tokens_of_open_clip(openai, text):
    ours, theirs = openai
    if "<" not in text:  # its special tokens have names of their own
        assert quiet(ours, text) == theirs(text)


def test_without_ftfy_only_entities_are_mended(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ftfy" else found(name))
    assert clean_openai("&amp;lt; A\n“cat” schÃ¶n") == "< a “cat” schã¶n"
    assert clean_plain("&amp;lt; A\n“cat”") == "&amp;lt; a “cat”"


def test_decoding_gives_the_text_back_in_pieces(clip):
    assert clip.decode(clip(["A photo,  of the café 🐱 !"])[0]) == "a photo , of the café 🐱 !"
    assert clip.decode(clip([""])[0]) == ""
    for text in ("hello world", "日本語", "e\u0301", "👩‍👩‍👧‍👦"):
        assert clip.decode(clip.encode(text)) == clean_plain(text)


def test_a_lone_surrogate_is_no_accident(clip):
    assert clip.decode(clip.encode("\ud83d lone")) == "? lone"


def test_a_long_prompt_is_cut_or_refused_as_asked(clip):
    with pytest.warns(TextCut):
        row = clip(["word " * 200])[0]
    assert row.shape == (77,) and row[-1] == 49407 and (row[1:-1] == clip.encode("word")[1]).all()
    strict = ClipTokenizer()
    assert strict(["w " * 75]).shape == (1, 77)
    with pytest.raises(ValueError, match="the prompt has 76 tokens, but at most 75 fit"):
        strict(["w " * 76])


@pytest.mark.parametrize(
    "text, left_out",
    [
        ("cat " * 74 + "red dog, blue", '"dog , blue"'),  # 75 fit: 74 cats and "red"
        ("cat " * 74 + "chihuahuaesque", '"chihuahuaesque"'),  # a word that is cut through is named whole
        ("猫" * 60, '"猫'),
        ("cat " * 75 + "หมู", '"หม ู"'),  # in CLIP's pieces: to it a vowel sign is one of its own
        ("cat " * 75 + "dog " * 100, 'dog dog…" and 199 letters more'),
    ],
)
def test_a_warning_says_which_words_were_left_out_and_the_row_is_that_of_transformers(
    clip, public, text, left_out
):
    with pytest.warns(TextCut) as said:
        row = clip([text])[0].tolist()
    n = len(clip.encode(text)) - 2
    assert str(said[0].message).startswith(f"the prompt has {n} tokens and the model reads 75; left out: ")
    assert left_out in str(said[0].message) and len(str(said[0].message)) < 330
    assert said[0].filename == __file__ and row == list(public(text))


@pytest.mark.parametrize("text", ["", " ", "cat " * 75, "chihuahuaesque", *SCRIPTS])
def test_nothing_is_said_of_a_text_that_fits_whatever_its_script(clip, public, text):
    assert len(clip.encode(text)) <= 77
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert clip([text])[0].tolist() == list(public(text))


def test_positions_of_words_of_several_tokens_and_several_occurrences(clip):
    text = "A Hat, red: a hat by chihuahuaesque hats, hat-shaped"
    row = clip([text])[0]
    for word, times in (
        ("hat", 3),
        ("Hat", 3),
        ("hats", 1),
        ("chihuahuaesque", 1),
        ("hat-shaped", 1),
        ("a hat", 2),
    ):
        positions = clip.positions(text, word)
        assert clip.decode(row[positions]) == " ".join([clip.decode(clip.encode(word))] * times)
    assert len(clip.positions(text, "chihuahuaesque")) == len(clip.encode("chihuahuaesque")) - 2 > 1


def test_positions_compare_whole_words_not_their_ends(clip):
    text = "the chihuahuaesque one"
    ending = clip.decode(clip.encode("chihuahuaesque")[-2:-1])
    assert "chihuahuaesque".endswith(ending) and ending != "chihuahuaesque"
    with pytest.raises(ValueError, match="is not in the prompt"):
        clip.positions(text, ending)


def test_positions_that_were_cut_do_not_count(clip):
    assert clip.positions("cat " * 74 + "dog dog dog", "dog") == [75]
    with pytest.raises(ValueError, match='"dog" is not in the prompt'):
        clip.positions("cat " * 75 + "dog", "dog")


def test_a_tokenizer_travels(clip):
    assert pickle.loads(pickle.dumps(clip))(["a cat"]).equal(clip(["a cat"]))


def test_taught_words_are_the_tokens_that_transformers_adds(clip, public, tmp_path):
    transformers = pytest.importorskip("transformers", reason="checked against the tokenizer of transformers")
    (tmp_path / "vocab.json").write_text(json.dumps(clip.tokens), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in clip.rank)]
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    theirs.add_tokens(["<cat-toy>", "<cat-toy>_1", "<Café Noir>", "zwx"])
    taught = {"<cat-toy>": [49408], "<cat-toy>_1": [49409], "<Café Noir>": [49410], "zwx": [49411]}
    ours = ClipTokenizer().with_taught(taught)
    assert ours.vocab_size == 49412 and clip.vocab_size == 49408
    for text in (
        "a <cat-toy> on a table",
        "a<cat-toy>b, <CAT-TOY>!",
        "<cat-toy>_1<cat-toy> <cat-toy>_1",
        "a <café noir>; zwx, ZWX",
        "no such word",
        "",
    ):
        assert ours.encode(text) == theirs(text)["input_ids"], text
        assert ours.decode(ours.encode(text)).replace(" ", "") == clean_plain(text).replace(" ", "")
    assert ours.encode("xzwx zwxy") == clip.encode("xzwx zwxy")  # transformers sees it inside a word too


def test_a_taught_word_may_be_several_tokens_and_is_one_piece(clip):
    ours = ClipTokenizer().with_taught({"Sunset-Style": [49408, 49409, 49410]})
    row = ours(["a house in sunset-style, red"])[0]
    assert ours.positions("a house in sunset-style, red", "Sunset-Style") == [4, 5, 6]
    assert row[4:7].tolist() == [49408, 49409, 49410] and ours.decode(row) == "a house in sunset-style , red"
    assert pickle.loads(pickle.dumps(ours))(["sunset-style"]).equal(ours(["sunset-style"]))
    for taught in ({"": [49408]}, {" ": [49408]}, {"x": []}):
        with pytest.raises(ValueError, match="a taught word needs letters and at least one token"):
            ClipTokenizer().with_taught(taught)


@pytest.mark.parametrize(
    "content",
    [None, b"", b"no gzip", gzip.compress(b"a b\nc d\n"), gzip.compress(b"a b\n" * 60000)[:99]],
    ids=["none", "empty", "no gzip", "too short", "cut off"],
)
def test_a_file_that_is_not_the_vocabulary_is_refused(tmp_path, content):
    path = tmp_path / "bpe.txt.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="vocabulary") as e:
        ClipTokenizer(path)
    assert "\n" not in str(e.value) and str(path) in str(e.value)


def test_what_is_cleaned_first_is_read_as_what_it_becomes():
    plain = WordTokenizer(["red", "star"], 6)
    cleaned = WordTokenizer(["red", "star"], 6, lambda text: text.replace("crimson", "red").replace(".", ""))
    assert cleaned(["crimson star."]).equal(plain(["red star"]))
    assert cleaned.positions("crimson star", "red") == [1]
    with pytest.raises(UnknownWord, match="crimson"):
        plain(["crimson star"])
