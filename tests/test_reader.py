"""The reader and the oracle made of it."""

import random

import pytest
import torch
from torch.testing import assert_close

from palimpsest.nets.judges.noisy_reader import NoisyReader
from palimpsest.nets.judges.reader import Reader, reader_loss
from palimpsest.weights.judges import Oracle, load_reader
from palimpsest.worlds.shapes import ATTRIBUTES, attributes, render, sample_scene


@pytest.fixture(scope="module")
def reader():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Reader(attributes={k: len(v) for k, v in ATTRIBUTES.items()}, width=8, heads=2)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def scenes():
    rng = random.Random(0)
    return [sample_scene(rng, held_out=None) for _ in range(6)]


def test_the_reader_gives_one_logit_for_every_value_of_every_attribute(reader, scenes):
    logits = reader(render(scenes))
    assert {k: tuple(v.shape) for k, v in logits.items()} == {k: (6, len(v)) for k, v in ATTRIBUTES.items()}


def test_features_are_means_of_places_of_mean_0_and_variance_1(reader, scenes):
    h = reader.map(render(scenes))
    places = (h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    found = reader.features(render(scenes))
    assert_close(found, places.mean(1))
    assert found.shape == (6, 32) and (found.pow(2).mean(1) <= 1 + 1e-5).all()


def test_features_of_a_picture_do_not_depend_on_its_batch_mates_and_do_on_the_picture(reader, scenes):
    pictures = render(scenes)
    together = reader.features(pictures)
    assert_close(together[2:3], reader.features(pictures[2:3]), rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_a_picture_of_another_size_is_refused_with_the_size_that_is_wanted(reader):
    for verb in (reader, reader.features):
        with pytest.raises(ValueError, match=r"\(b, 3, 64, 64\)"):
            verb(torch.zeros(1, 3, 32, 32))


def test_the_loss_vanishes_for_sure_and_right_logits_only():
    truth = {"a": torch.tensor([0, 1]), "b": torch.tensor([2, 2])}
    sure = {"a": 40 * torch.eye(2), "b": 40 * torch.eye(3)[[2, 2]]}
    assert reader_loss(sure, truth) < 1e-6
    assert reader_loss({**sure, "a": -sure["a"]}, truth) > 10


class Told(torch.nn.Module):
    """A reader that says what it was told."""

    def __init__(self, scenes):
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(()))  # a judge asks where its net is
        found = [attributes(s) for s in scenes]
        self.logits = {k: torch.eye(len(v))[[v.index(f[k]) for f in found]] for k, v in ATTRIBUTES.items()}

    def forward(self, pictures):
        return {k: v[: len(pictures)] for k, v in self.logits.items()}


def test_the_oracle_reads_the_values_of_the_largest_logits(scenes):
    assert Oracle(Told(scenes), ATTRIBUTES).read(torch.zeros(6, 3, 64, 64)) == [attributes(s) for s in scenes]


def test_right_asks_for_all_wanted_attributes_and_for_no_others(scenes):
    oracle, wanted = Oracle(Told(scenes), ATTRIBUTES), [attributes(s) for s in scenes]
    wanted[1] = {"background": wanted[1]["background"]}
    wanted[2] = wanted[2] | {"shape_1": next(s for s in ATTRIBUTES["shape_1"] if s != wanted[2]["shape_1"])}
    assert oracle.right(torch.zeros(6, 3, 64, 64), wanted).tolist() == [True, True, False, True, True, True]


def test_the_oracles_features_are_the_readers_in_parts_of_256(reader, scenes):
    pictures = render(scenes[:1]).expand(257, -1, -1, -1)
    found = Oracle(reader, ATTRIBUTES).features(pictures)
    assert found.shape == (257, 32)
    assert_close(found[-1:], reader.features(pictures[:1]), rtol=1e-4, atol=1e-5)


def test_the_shipped_reader_reads_all_of_nine_scenes_in_ten():
    rng = random.Random(7)
    new = [sample_scene(rng) for _ in range(40)]
    oracle = load_reader("shapes-reader", "cpu")
    assert oracle.right(render(new), [attributes(s) for s in new]).float().mean() >= 0.9


def test_the_noisy_reader_is_told_the_time_and_sees_every_pixel():
    torch.manual_seed(0)
    net = NoisyReader(attributes=dict(colour=3), size=16, width=8, mult=(1, 2), heads=2).eval()
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
    logits = net(x, torch.tensor([3, 900]))["colour"]
    assert logits.shape == (2, 3)
    assert_close(net(x[:1], 3)["colour"], logits[:1])
    assert not torch.allclose(net(x[1:], 3)["colour"], logits[1:]), "another time, another answer"
    logits[0].square().sum().backward()
    assert x.grad[0].abs().sum(0).bool().all() and not x.grad[1].any()


@pytest.mark.parametrize(
    ("shape", "t", "text"),
    [
        ((1, 3, 32, 32), 3, "x_t: must be"),
        ((1, 4, 16, 16), 3, "x_t: must be"),
        ((1, 3, 16, 16), 1000, "t: must lie between 0 and 999, not 1000"),
        ((2, 3, 16, 16), torch.tensor([1, -1]), "t: must lie between 0 and 999"),
        ((2, 3, 16, 16), torch.tensor([1, 2, 3]), "t: must be a number or a tensor of 2"),
    ],
)
def test_the_noisy_reader_refuses_what_it_cannot_read(shape, t, text):
    net = NoisyReader(attributes=dict(colour=3), size=16, width=8, mult=(1, 2), heads=2)
    with pytest.raises(ValueError, match=text):
        net(torch.zeros(shape), t)
    with pytest.raises(ValueError, match="size: must be a multiple of 4, got 18"):
        NoisyReader(attributes=dict(colour=3), size=18, width=8, heads=2)


def test_a_classifier_of_noisy_pictures_sums_log_probabilities_of_what_is_wanted():
    torch.manual_seed(0)
    net = NoisyReader(attributes=dict(colour=3, shape=4), size=16, width=8, mult=(1, 2), heads=2)
    for head in net.heads:
        torch.nn.init.normal_(head.weight)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 900])
    p = {name: logits.exp() / logits.exp().sum(1, keepdim=True) for name, logits in net(x, t).items()}
    colour, shape = torch.tensor([2, 0]), torch.tensor([1, 3])
    want = torch.stack([p["colour"][i, colour[i]] * p["shape"][i, shape[i]] for i in range(2)])
    assert_close(net.log_p(x, t, dict(colour=colour, shape=shape)).exp(), want)
    assert_close(net.log_p(x, t, dict(shape=shape)).exp(), torch.stack([p["shape"][0, 1], p["shape"][1, 3]]))
