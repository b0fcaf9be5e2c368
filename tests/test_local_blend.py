"""Local blend: masks from the words' maps, at any size, for any number of pairs; the source never moves."""

import pytest
import torch

from palimpsest.methods.local_blend import Blend, blend_mask, blended, word_mask


def maps(*shape, seed=0):
    """Cross-attention maps (b y x l), rows summing to 1."""
    g = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(shape, generator=g, dtype=torch.float64)).softmax(-1)


def latents(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_word_mask_is_pooled_resized_normalised_and_cut_cell_by_cell():
    m = maps(2, 5, 7, 4)
    found = word_mask(m, [1, 3], (10, 14), threshold=0.9)
    assert found.shape == (2, 1, 10, 14)
    for b in range(2):
        summed = m[b, ..., 1] + m[b, ..., 3]
        pooled = torch.stack(
            [
                torch.stack([summed[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].max() for x in range(7)])
                for y in range(5)
            ]
        )
        want = (pooled / pooled.max() > 0.9).double()
        assert torch.equal(found[b, 0], want.repeat_interleave(2, 0).repeat_interleave(2, 1))
        assert 0 < want.mean() < 1


def test_where_no_word_looks_nothing_is_masked_even_at_the_threshold_0():
    m = maps(1, 4, 4, 3)
    m[:, :, 2:] = 0
    found = word_mask(m, [1], (4, 4), threshold=0.0, pool=False)
    assert torch.equal(found, torch.tensor([1.0, 1, 0, 0]).double().expand(1, 1, 4, 4))
    assert not word_mask(0 * m, [1], (4, 4), threshold=0.0).any()


@pytest.mark.parametrize("size", [(16, 24), (32, 48), (8, 12), (20, 9)])
@pytest.mark.parametrize("pairs", [1, 3])
def test_any_size_and_any_number_of_pairs_each_on_its_own(size, pairs):
    source, target = maps(pairs, 16, 24, 6), maps(pairs, 16, 24, 6, seed=1)
    mask = blend_mask(source, target, [2], [3, 4], [], size, Blend("a", "b"))
    assert mask.shape == (pairs, 1, *size) and ((mask == 0) | (mask == 1)).all()
    for p in range(pairs):
        alone = blend_mask(source[p, None], target[p, None], [2], [3, 4], [], size, Blend("a", "b"))
        assert torch.equal(mask[p, None], alone)


def test_the_mask_contains_the_sources_own_and_the_targets_own_and_nothing_else():
    source, target = maps(2, 8, 8, 5), maps(2, 8, 8, 5, seed=1)
    blend = Blend("a", "b", threshold=0.8)
    mask = blend_mask(source, target, [1], [2], [], (8, 8), blend)
    own = word_mask(source, [1], (8, 8), threshold=0.8), word_mask(target, [2], (8, 8), threshold=0.8)
    assert torch.equal(mask.bool(), own[0].bool() | own[1].bool())
    assert not torch.equal(mask, own[0]) and not torch.equal(mask, own[1])


def test_a_higher_threshold_only_takes_away_and_the_highest_leaves_the_maximum():
    m = maps(2, 8, 8, 5)
    masks = [word_mask(m, [1], (8, 8), threshold=th).bool() for th in (0.0, 0.2, 0.5, 0.8, 1 - 1e-12)]
    assert all((b <= a).all() for a, b in zip(masks, masks[1:])) and masks[0].all()
    top = word_mask(m, [1], (8, 8), threshold=1 - 1e-12, pool=False)
    assert top.sum((1, 2, 3)).tolist() == [1, 1]
    for b in range(2):
        assert top[b].flatten().argmax() == m[b, ..., 1].flatten().argmax()


def test_words_to_subtract_are_cut_out_without_pooling():
    source, target = maps(1, 8, 8, 5), maps(1, 8, 8, 5, seed=1)
    plain = blend_mask(source, target, [1], [2], [], (8, 8), Blend("a", "b"))
    less = blend_mask(source, target, [1], [2], [3], (8, 8), Blend("a", "b", subtract_threshold=0.5))
    cut = target[..., 3] / target[..., 3].max() > 0.5
    assert torch.equal(less.bool(), plain.bool() & ~cut[:, None]) and less.sum() < plain.sum()


def test_a_soft_mask_is_a_ramp_around_the_threshold_and_becomes_the_hard_one():
    m = maps(1, 8, 8, 5)
    soft = word_mask(m, [1], (8, 8), threshold=0.4, soft=0.2, pool=False)[0, 0]
    share = m[0, ..., 1] / m[0, ..., 1].max()
    torch.testing.assert_close(soft, ((share - 0.3) / 0.2).clamp(0, 1))
    assert ((soft > 0) & (soft < 1)).any()
    assert torch.equal(
        word_mask(m, [1], (8, 8), threshold=0.4, soft=1e-9), word_mask(m, [1], (8, 8), threshold=0.4)
    )


def test_a_map_of_zeros_looks_nowhere_and_makes_no_nan():
    assert torch.equal(word_mask(torch.zeros(1, 4, 4, 3), [1], (8, 8)), torch.zeros(1, 1, 8, 8))


def test_the_source_never_moves_and_the_target_is_the_source_outside_to_the_bit():
    z, mask = latents(6, 4, 16, 24), (latents(3, 1, 16, 24, seed=2) > 0).double()
    out = blended(z, mask)
    assert torch.equal(out[:3], z[:3])
    inside = mask.expand(-1, 4, -1, -1) == 1
    assert torch.equal(out[3:][inside], z[3:][inside]) and torch.equal(out[3:][~inside], z[:3][~inside])
    assert not torch.equal(out[3:], z[3:])


def test_half_a_mask_is_half_way_between():
    z = latents(2, 4, 4, 4)
    torch.testing.assert_close(blended(z, torch.full((1, 1, 4, 4), 0.25))[1], 0.75 * z[0] + 0.25 * z[1])


@pytest.mark.parametrize(
    "wrong, said",
    [
        (dict(threshold=1.0), r"threshold: must lie in \[0, 1\), got 1.0"),
        (dict(subtract_threshold=-0.1), r"subtract_threshold: must lie in \[0, 1\), got -0.1"),
        (dict(begin=float("nan")), r"begin: must lie in \[0, 1\), got nan"),
        (dict(soft=2.0), r"soft: must lie in \[0, 1\]"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Blend("a", "b", **wrong)
