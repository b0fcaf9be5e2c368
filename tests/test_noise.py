"""samplers/noise.py: a picture's randomness is its own."""

import pytest
import torch
from torch.testing import assert_close

from palimpsest.samplers.noise import Rng, gaussian

SIZE = (3, 5, 4)


def test_picture_i_is_the_same_whatever_the_batch():
    whole = Rng.of(7, 4)
    first, second = whole.randn((4, *SIZE)), whole.randn((4, *SIZE))
    for i in range(4):
        alone = Rng([7 + i])
        assert torch.equal(alone.randn((1, *SIZE))[0], first[i])
        assert torch.equal(alone.randn((1, *SIZE))[0], second[i])  # and so on down the stream
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])
    assert torch.equal(Rng([10, 7]).randn((2, *SIZE)), first[[3, 0]])


def test_dtype_follows_like_and_rounds_the_same_noise():
    single, double, half = (
        Rng.of(1, 2).randn((2, *SIZE), torch.zeros(1, dtype=d))
        for d in (torch.float32, torch.float64, torch.float16)
    )
    assert Rng.of(1, 2).randn((2, *SIZE)).dtype == torch.float32
    assert (
        double.dtype == torch.float64
        and torch.equal(double.float(), single)
        and torch.equal(double.half(), half)
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_device_follows_like_and_the_noise_is_the_same():
    there = Rng.of(1, 2).randn((2, *SIZE), torch.zeros(1, device="cuda"))
    assert there.is_cuda and torch.equal(there.cpu(), Rng.of(1, 2).randn((2, *SIZE)))


def test_the_global_generator_is_neither_read_nor_moved():
    before = torch.get_rng_state()
    a = Rng.of(3, 2).randn((2, *SIZE))
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(1)
    assert torch.equal(a, Rng.of(3, 2).randn((2, *SIZE)))


def test_moments_are_those_of_the_named_distribution():
    z, u = Rng([0]).randn((1, 1, 300, 300)), Rng([0]).uniform((1, 1, 300, 300))
    assert abs(z.mean()) < 0.015 and abs(z.var() - 1) < 0.03 and abs((z**4).mean() - 3) < 0.15
    assert u.min() >= 0 and u.max() < 1 and abs(u.mean() - 0.5) < 0.005 and abs(u.var() - 1 / 12) < 0.002


def test_randint_draws_one_time_per_picture():
    rng = Rng.of(0, 500)
    t = rng.randint(1, 5)
    assert t.shape == (500,) and t.dtype == torch.int64 and set(t.tolist()) == {1, 2, 3, 4}
    assert t[123] == Rng([123]).randint(1, 5)[0] and not torch.equal(t, rng.randint(1, 5))


def test_restore_plays_the_stream_again():
    rng = Rng.of(5, 2)
    rng.randn((2, *SIZE))
    state = rng.state
    a = rng.randn((2, *SIZE)), rng.uniform((2, *SIZE))
    rng.restore(state)
    assert_close((rng.randn((2, *SIZE)), rng.uniform((2, *SIZE))), a, atol=0, rtol=0)
    with pytest.raises(ValueError, match="state: holds 2 pictures"):
        Rng.of(5, 3).restore(state)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="shape: asks for 3 pictures, this Rng has 2 seeds"):
        Rng.of(0, 2).randn((3, *SIZE))
    for seeds in ([], [1.5], ["a"], [True], [None]):
        with pytest.raises(ValueError, match="^seeds: must be whole numbers"):
            Rng(seeds)
    assert len(Rng.of(0, 3)) == 3


def test_noise_for_training_is_that_of_the_generator_in_the_dtype_of_what_it_is_added_to():
    like = torch.zeros(2, 3, 4, dtype=torch.float64)
    drawn = gaussian(like, torch.Generator().manual_seed(5))
    assert drawn.dtype == like.dtype and torch.equal(
        drawn, torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(5)).double()
    )
    assert not torch.equal(drawn, gaussian(like, torch.Generator().manual_seed(6)))
    assert gaussian(torch.zeros(2, device="meta"), torch.Generator()).device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_noise_for_training_is_drawn_there_and_the_same_again():
    like = torch.zeros(2, 3, 4, device="cuda")
    first, again = (gaussian(like, torch.Generator().manual_seed(5)) for _ in range(2))
    assert first.is_cuda and torch.equal(first, again)


def test_every_whole_number_is_a_seed_of_its_own():
    seeds = [0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**64, 10**60, -1, -2, -(2**32), -(10**60)]
    drawn = Rng(seeds).randn((len(seeds), 64))
    for i in range(len(seeds)):
        for j in range(i):
            assert (drawn[i] - drawn[j]).abs().max() > 0.1
    assert torch.equal(Rng(seeds).randn((len(seeds), 64)), drawn)
    assert abs(drawn.mean()) < 0.1 and abs(drawn.std() - 1) < 0.1


def test_seeds_of_32_bits_are_torchs_own():
    for seed in (0, 7, 2**31, 2**32 - 1):
        theirs = torch.randn(SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert torch.equal(Rng([seed]).randn((1, *SIZE), torch.zeros(1, dtype=torch.float64))[0], theirs)


def test_the_next_picture_of_the_last_small_seed_has_a_large_one():
    assert torch.equal(Rng.of(2**32 - 1, 2).randn((2, *SIZE))[1], Rng([2**32]).randn((1, *SIZE))[0])
