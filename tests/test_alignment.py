"""Which token takes whose map: word swaps that keep the mass of a map, refinements that find what was
added.
"""

import pytest
import torch

from palimpsest.methods.alignment import align, notes, refinement_index, table, words
from palimpsest.nets.tokenizer import ClipTokenizer, UnknownWord, WordTokenizer
from palimpsest.worlds.scene import WORDS

SHAPES = WordTokenizer(list(WORDS), length=24)
CAT, PLATYPUS = "a cat sitting next to a mirror", "a platypus sitting next to a mirror"


@pytest.fixture(scope="module")
def clip():
    return ClipTokenizer()


def public_mapper(source, target, length):
    """What the public code does, as a counter-example: past the last word that differs, one counter
    serves both prompts.

    Words as (start, stop) of their tokens, which is all it looks at. Do not use.
    """
    mapper = torch.zeros(length, length)
    differ = [(a, b) for a, b in zip(source, target) if a.text != b.text]
    i = j = 0
    while i < length and j < length:
        if differ and i == differ[0][0].start:
            a, b = differ.pop(0)
            n, m = a.stop - a.start, b.stop - b.start
            mapper[i : i + n, j : j + m] = torch.eye(n) if n == m else 1 / m
            i, j = i + n, j + m
        elif differ:
            mapper[i, j] = 1
            i, j = i + 1, j + 1
        else:
            mapper[j, j] = 1  # the fault: the row is the column's number
            i, j = i + 1, j + 1
    return mapper


def softmaxed(length, seed=0):
    logits = torch.randn(5, 6, length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.softmax(-1)


# ---- replace ----


def test_equally_many_tokens_make_the_identity():
    a = align(SHAPES, "a red circle on a blue background", "a green star on a white background")
    assert a.edit == "replace" and a.identity and (a.index >= 0).all()
    assert any("identity" in text for text in notes(a)) and "red is swapped for green" in notes(a)


@pytest.mark.parametrize(
    "source, target",
    [
        (CAT, PLATYPUS),
        (PLATYPUS, CAT),
        ("a burger", "a lasagne"),
        ("a lasagne", "a burger"),
        ("a platypus and a lasagne", "a cat and a burger"),
        ("a cat", "a cat"),
    ],
)
def test_a_replacement_keeps_the_mass_of_every_map(clip, source, target):
    mapper = align(clip, source, target, "replace").mapper.double()
    torch.testing.assert_close(mapper.sum(1), torch.ones(77, dtype=torch.float64), rtol=0, atol=1e-6)
    assert (mapper.sum(0) > 0).all()  # and no target token is left without a map
    mass = (softmaxed(77) @ mapper).sum(-1)
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=1e-6)


def test_a_word_of_three_tokens_shares_the_map_and_what_follows_stays_in_step(clip):
    mapper = align(clip, CAT, PLATYPUS, "replace").mapper
    assert torch.equal(mapper[2, 2:5], torch.full((3,), 1 / 3)) and mapper[2].count_nonzero() == 3
    for i, j in [(0, 0), (1, 1), (3, 5), (4, 6), (7, 9), (8, 10), (9, 11)]:  # …, mirror, end, first padding
        assert mapper[i, j] == 1 and mapper[:, j].sum() == 1
    assert torch.equal(mapper[74:, 76], torch.ones(3))  # the padding that is too much joins the last

    back = align(clip, PLATYPUS, CAT, "replace").mapper
    assert torch.equal(back[2:5, 2], torch.ones(3)) and back[10, 8] == 1 and back[9, 7] == 1
    torch.testing.assert_close(back[76, 74:], torch.full((3,), 1 / 3))


def test_the_public_mapper_fails_on_unequal_token_counts_and_ours_does_not(clip):
    source, target = words(clip, CAT), words(clip, PLATYPUS)
    theirs, ours = public_mapper(source, target, 77), align(clip, CAT, PLATYPUS, "replace").mapper
    take = {clip.decode([clip.encode(PLATYPUS)[j]]): theirs[:, j].argmax().item() for j in (5, 6, 7)}
    assert take == {"sitting": 5, "next": 6, "to": 7}  # of the source: "to", "a", "mirror"
    assert [w.text for w in source if w.start in (5, 6, 7)] == ["to", "a", "mirror"]
    assert theirs[3].sum() == theirs[4].sum() == 0  # "sitting" and "next" are lost
    assert ours[3, 5] == ours[4, 6] == ours[5, 7] == 1

    m = softmaxed(77).double()
    forth = (m @ theirs.double()).sum(-1)
    back = (m @ public_mapper(target, source, 77).double()).sum(-1)
    assert forth.max() < 1.0001 and forth.min() < 0.99  # the tokens that are lost
    assert back.max() > 1.01  # the tokens that count twice
    assert public_mapper(target, source, 77)[:, 75:].sum() == 0


def test_the_public_mapper_is_ours_for_equally_many_tokens(clip):
    source, target = words(clip, "a cat on a mat"), words(clip, "a dog on a hat")
    assert torch.equal(
        public_mapper(source, target, 77), align(clip, "a cat on a mat", "a dog on a hat").mapper
    )


def test_a_prompt_that_fills_the_row_still_keeps_its_mass(clip):
    full = "cat " * 73 + "platypus"  # 76 tokens would not fit: 73 + 3 = 76
    with pytest.raises(
        ValueError, match="prompt: the model reads 75 tokens and one of the two has 76; shorten it"
    ):
        align(clip, full, full)
    a = align(clip, "cat " * 72 + "cat", "cat " * 72 + "platypus", "replace")
    torch.testing.assert_close(a.mapper.sum(1), torch.ones(77))
    assert a.target_tokens[76] == "<end>" and torch.equal(a.mapper[74:, 76], torch.ones(3))


def test_unequal_word_counts_cannot_be_replaced():
    with pytest.raises(
        ValueError, match=r"edit: replace needs as many words in both prompts, got 3 and 4 .*use refine"
    ):
        align(SHAPES, "a red circle", "a large red circle", "replace")
    assert align(SHAPES, "a red circle", "a large red circle").edit == "refine"
    with pytest.raises(ValueError, match="edit: must be replace, refine or auto, got 'swap'"):
        align(SHAPES, "a red circle", "a red star", "swap")


def test_a_word_the_model_does_not_know_is_named():
    with pytest.raises(UnknownWord, match='unknown word "circel"'):
        align(SHAPES, "a red circle", "a red circel")


# ---- refine ----


def test_the_first_of_two_equal_words_is_matched(clip):
    index = align(clip, "the cat sat", "the dog the cat sat", "refine").index
    assert index[:7].tolist() == [0, 1, -1, -1, 2, 3, 4]
    assert index[7:].tolist() == list(range(5, 75))  # padding answers to padding


def test_inserted_words_keep_their_own_map_and_a_swapped_word_does_too():
    a = align(SHAPES, "a red circle", "a large blue circle on a white background", "refine")
    assert a.index[:10].tolist() == [0, 1, -1, -1, 3, -1, -1, -1, -1, 4]  # a, circle, end
    assert a.index[10:].tolist() == list(range(5, 19))
    assert torch.equal(a.mapper.sum(0), (a.index >= 0).float())
    assert all(a.mapper[i, j] == 1 for j, i in enumerate(a.index.tolist()) if i >= 0)


def test_padding_never_takes_the_map_of_a_deleted_word(clip):
    a = align(clip, "a red fluffy cat on a mat", "a cat", "refine")
    end = len(clip.encode(a.source)) - 1
    assert a.index[:4].tolist() == [0, 1, 4, end]
    assert a.index[4:].tolist() == [min(j + end - 3, 76) for j in range(4, 77)]
    assert min(a.index[4:].tolist()) > end


def test_refinement_is_a_longest_common_subsequence_and_monotone():
    g = torch.Generator().manual_seed(0)
    for _ in range(50):
        x, y = (
            torch.randint(2, 6, (n,), generator=g).tolist()
            for n in torch.randint(1, 8, (2,), generator=g).tolist()
        )
        x, y = [0, *x, 1], [0, *y, 1]
        index = refinement_index(x, y, 12).tolist()[: len(y)]
        pairs = [(i, j) for j, i in enumerate(index) if i >= 0]
        assert (
            all(x[i] == y[j] for i, j in pairs)
            and sorted(pairs) == pairs
            and len({i for i, _ in pairs}) == len(pairs)
        )
        best = [[0] * (len(y) + 1) for _ in range(len(x) + 1)]
        for i, u in enumerate(x):
            for j, v in enumerate(y):
                best[i + 1][j + 1] = best[i][j] + 1 if u == v else max(best[i][j + 1], best[i + 1][j])
        assert len(pairs) == best[-1][-1]


# ---- to be read ----


@pytest.mark.parametrize("n, dots", [(4, False), (5, True)])
def test_the_table_names_four_origins_and_says_that_there_are_more(clip, n, dots):
    a = align(clip, CAT, CAT)
    mapper = a.mapper.clone()
    mapper[:, 2] = 0
    mapper[1 : 1 + n, 2] = 1 / n
    line = next(line for line in table(a._replace(mapper=mapper)).splitlines() if line.startswith("2 "))
    assert line.count("×") == 4 and line.endswith("+ …") == dots


def test_the_table_shows_token_word_origin_and_share(clip):
    lines = table(align(clip, CAT, PLATYPUS)).splitlines()
    assert lines[0] == f'replace: "{CAT}" -> "{PLATYPUS}"'
    assert [line.split() for line in lines if "platypus  " in line] == [
        [str(j), token, "platypus", "0.333", "×", "2", "cat"]
        for j, token in ((2, "plat"), (3, "y"), (4, "pus"))
    ]
    assert lines[-1] == "note: cat is swapped for platypus" and "identity" not in "".join(lines)
    refined = table(align(SHAPES, "a red circle", "a large red circle"))
    assert (
        "none: keeps its own" in refined
        and "note: large (2) is unknown to the source and keeps its own map" in refined
    )
    assert "red (2 of the source) has no counterpart" in table(align(SHAPES, "a red circle", "a circle"))
    assert "nothing will change" in table(align(SHAPES, "a red circle", "a red circle"))
