"""LPIPS by its formula in loops; FID's Inception against torchvision's, with the pooling written anew."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from random_weights import census, normal, relative_error
from torch import nn
from torch.testing import assert_close

from palimpsest.metrics.features import features, fid, perceptual
from palimpsest.metrics.trunks import LPIPS, FIDInception, lpips_alex, lpips_vgg


def small_lpips():
    """Two layers, weights of either sign in the trunk and of one in the heads; float64, so that loops
    agree to the end.
    """
    trunk = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, stride=2), nn.ReLU(), nn.Conv2d(5, 5, 3)
    )
    net = LPIPS(trunk, (1, 3), (4, 5), 5)
    with torch.no_grad():
        for n, p in enumerate(net.trunk.parameters()):
            p.copy_(normal(*p.shape, seed=n) / 3)
        for n, head in enumerate(net.heads):
            head.weight.copy_(normal(*head.weight.shape, seed=10 + n).abs())
    return net.double().requires_grad_(False)


def pictures(n, side, seed=0):
    return (normal(n, 3, side, side, seed=seed, dtype=torch.float64) / 2).clamp(-1, 1)


# --------------------------------------------------------------------------------------------------------------- LPIPS


def by_loops(net, x, y):
    """Eq. (1), one place at a time, on the input scaling that version 0.1 of the published program has."""
    shift, scale = (
        torch.tensor([-0.030, -0.088, -0.188]).double(),
        torch.tensor([0.458, 0.448, 0.450]).double(),
    )
    a, b = ((p - shift[:, None, None]) / scale[:, None, None] for p in (x, y))
    total = 0.0
    for first, last, head in ((0, 2, net.heads[0]), (2, 4, net.heads[1])):
        a, b = net.trunk[first:last](a), net.trunk[first:last](b)
        w, (rows, columns) = head.weight[0, :, 0, 0], a.shape[-2:]
        places = []
        for i in range(rows):
            for j in range(columns):
                p, q = a[0, :, i, j], b[0, :, i, j]
                p, q = (v / v.norm() if v.norm() > 0 else v for v in (p, q))
                places.append(sum(w[c] * (p[c] - q[c]) ** 2 for c in range(len(w))))
        total += sum(places) / len(places)
    return total


def test_lpips_is_its_formula_place_by_place():
    net, x, y = small_lpips(), pictures(3, 9), pictures(3, 9, 1)
    want = torch.stack([by_loops(net, x[n : n + 1], y[n : n + 1]) for n in range(3)])
    assert_close(net(x, y), want, rtol=1e-8, atol=0)


def test_lpips_is_a_distance():
    net, x, y = small_lpips(), pictures(3, 12), pictures(3, 12, 1)
    assert torch.equal(net(x, x), torch.zeros(3).double())
    assert_close(net(x, y), net(y, x))
    assert net(x, y).min() > 0
    assert net(x, 0.9 * x + 0.1 * y).lt(net(x, y)).all()


def test_lpips_adds_its_layers_and_is_linear_in_its_heads():
    net, x, y = small_lpips(), pictures(2, 9), pictures(2, 9, 1)
    one, other, double = (copy.deepcopy(net) for _ in range(3))
    one.heads[1].weight.zero_()
    other.heads[0].weight.zero_()
    double.heads[0].weight.mul_(2)
    assert_close(one(x, y) + other(x, y), net(x, y))
    assert_close(double(x, y), net(x, y) + one(x, y))


def test_with_heads_of_one_each_layer_is_the_unlearned_distance():
    net, x, y = small_lpips(), pictures(2, 9), pictures(2, 9, 1)
    for head in net.heads:
        nn.init.ones_(head.weight)
    flat = [[m.flatten(2).mT for m in net.maps(p)] for p in (x, y)]
    assert_close(net(x, y), sum(perceptual(a, b) for a, b in zip(*flat)))
    assert all(
        (head.weight == 1).all()
        for head in LPIPS(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()), (1,), (2,), 1).heads
    )


def test_the_range_of_the_pictures_is_part_of_the_figure():
    net, x, y = small_lpips(), pictures(2, 9), pictures(2, 9, 1)
    assert (net(x, y) - net((x + 1) / 2, (y + 1) / 2)).abs().min() > 1e-3


def test_lpips_passes_gradients():
    net, x = small_lpips(), pictures(1, 9).requires_grad_()
    net(x, pictures(1, 9, 1)).sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0


@pytest.mark.parametrize(
    "make, channels, least, weights, whole",
    [
        (lpips_alex, [64, 192, 384, 256, 256], 31, 1152, torchvision.models.alexnet),
        (lpips_vgg, [64, 128, 256, 512, 512], 16, 1472, torchvision.models.vgg16),
    ],
)
def test_the_published_trunks_are_tapped_after_their_relus_of_these_widths(
    make, channels, least, weights, whole
):
    with torch.device("meta"):
        net = make()
        theirs = {
            k.removeprefix("features."): v.shape
            for k, v in whole(weights=None).state_dict().items()
            if k.startswith("features.")
        }
    assert [m.shape[1] for m in net.maps(torch.empty(2, 3, 64, 64, device="meta"))] == channels
    assert all(isinstance(net.trunk[n], nn.ReLU) for n in net.taps) and net.taps[-1] == len(net.trunk) - 1
    assert [sum(isinstance(layer, nn.MaxPool2d) for layer in net.trunk[:n]) for n in net.taps] == (
        [0, 1, 2, 2, 2] if make is lpips_alex else [0, 1, 2, 3, 4]
    )
    assert {k: v.shape for k, v in net.trunk.state_dict().items()} == theirs
    assert sum(head.weight.numel() for head in net.heads) == weights
    assert min(net.maps(torch.empty(1, 3, least, least, device="meta"))[-1].shape[-2:]) == 1
    with pytest.raises(ValueError, match=f"sides of {least} or more"):
        net.maps(torch.empty(1, 3, least - 1, 64, device="meta"))
    with pytest.raises(RuntimeError):  # and one less would really be too small
        net.trunk(torch.empty(1, 3, least - 1, least - 1, device="meta"))


@pytest.mark.parametrize("x, y", [(pictures(1, 9), pictures(2, 9)), (pictures(1, 9), pictures(1, 8))])
def test_pictures_of_two_shapes_are_refused(x, y):
    with pytest.raises(ValueError, match="y: must be .b, 3, y, x. as x is"):
        small_lpips()(x, y)


# ----------------------------------------------------------------------------------------------------------------- FID


@pytest.fixture(scope="module")
def inception():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = FIDInception().eval().requires_grad_(False)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):  # what fresh weights would let die out
            m.running_var.fill_(0.2)
    return net


def test_the_inception_of_fid_has_its_published_size():
    with torch.device("meta"):
        net = FIDInception()
    assert census(net)[0] == 23_850_960 and len(net.state_dict()) == 566
    assert net(torch.empty(2, 3, 64, 40, device="meta")).shape == (2, 2048)
    assert net.logits(torch.empty(2, 3, 299, 299, device="meta")).shape == (2, 1008)
    assert net.map(torch.empty(1, 3, 299, 299, device="meta")).shape == (1, 2048, 8, 8)


@torch.no_grad()
def test_inception_is_torchvisions_with_these_two_poolings_exchanged(inception, monkeypatch):
    theirs = torchvision.models.Inception3(1008, aux_logits=False, init_weights=False).eval()
    theirs.load_state_dict(inception.state_dict())
    x = pictures(1, 139).float()
    ours, plain = inception.fc(inception.map(x).mean((2, 3))), theirs(x)
    calls = []

    def pooled(x, kernel_size, stride, padding):
        """The first eight: each border place averages the places that there are. The ninth, in the last
        block: the greatest.
        """
        calls.append(x.shape[1])
        windows = F.unfold(F.pad(x, (1,) * 4, value=torch.nan), 3).reshape(
            len(x), x.shape[1], 9, *x.shape[-2:]
        )
        return windows.nanmean(2) if len(calls) < 9 else windows.nan_to_num(-torch.inf).amax(2)

    monkeypatch.setattr(torchvision.models.inception.F, "avg_pool2d", pooled)
    want = theirs(x)
    assert calls == [192, 256, 288, 768, 768, 768, 768, 1280, 2048]
    assert relative_error(ours, want) < 1e-5
    assert relative_error(plain, want) > 1e-3  # torchvision's own figures are others


@torch.no_grad()
def test_features_of_inception_feed_fid(inception):
    x, y = pictures(2, 40).float(), pictures(2, 40, 1).float()
    a, b = features(x, inception), features(y, inception)
    assert a.shape == (2, 2048)
    stretched = F.interpolate(x, (299, 299), mode="bilinear", align_corners=False)
    assert_close(inception(stretched).double(), a, rtol=1e-3, atol=1e-5)  # that size is left alone
    width = 8
    assert fid(a[:, :width], b[:, :width]) > 0 and abs(fid(a[:, :width], a[:, :width])) < 1e-6


@torch.no_grad()
def test_overshoot_counts_as_black_or_white(inception):
    x = pictures(1, 32).float() * 3
    assert x.abs().max() > 1 and torch.equal(inception(x), inception(x.clamp(-1, 1)))


@pytest.mark.parametrize(
    "x", [torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8)]
)
def test_what_is_no_picture_is_refused(inception, x):
    with pytest.raises(ValueError, match=r"give floats \(b, 3, y, x\) in \[-1, 1\]"):
        inception(x)
