"""The faster way on a CPU gives what torch's own layers give, and is taken only where it may be."""

import pytest
import torch
from torch import nn

from palimpsest.nets import fast_cpu as layers
from palimpsest.nets.fast_cpu import Conv2d, Linear
from tests.random_weights import normal, relative_error

onednn = pytest.mark.skipif(not layers.ONEDNN, reason="this torch was built without oneDNN")


def same_as(ours: nn.Module, theirs: nn.Module):
    theirs.load_state_dict(ours.state_dict())
    return theirs


@pytest.fixture
def products(monkeypatch):
    """How often the faster way was taken."""
    taken, product = [], layers.product
    monkeypatch.setattr(layers, "product", lambda *a: taken.append(a[0].shape) or product(*a))
    return taken


@pytest.fixture(params=[0, layers.LARGE], ids=["by oneDNN", "by the BLAS"])
def either(request, monkeypatch):
    """Both ways to a product in float32, whatever its size."""
    monkeypatch.setattr(layers, "LARGE", request.param)


@onednn
@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 7, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_map_is_torchs(shape, bias, products):
    ours, x = Linear(5, 6, bias=bias), normal(*shape)
    with torch.no_grad():
        assert relative_error(ours(x), same_as(ours, nn.Linear(5, 6, bias=bias))(x)) < 1e-6
    assert len(products) == 1


@onednn
def test_a_small_product_does_not_wait_for_onednn(monkeypatch):
    """Told by how it rounds: 16 sums of 4,096 terms differ in the last bit between the two, and here they
    do not differ from the BLAS's.
    """
    x, weight = normal(4, 4096), normal(4, 4096, seed=1)
    blas = nn.functional.linear(x, weight)
    assert torch.equal(layers.product(x, weight, None), blas)
    monkeypatch.setattr(layers, "LARGE", 2 * 4 * 4096 * 4)
    called = []
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *a: called.append(a) or blas)
    layers.product(x, weight, None)
    layers.product(x[:, :4095], weight[:, :4095], None)
    assert len(called) == 1


@onednn
@pytest.mark.usefixtures("either")
@pytest.mark.parametrize(
    "kernel, stride, padding", [(3, 1, 1), (3, 2, 1), (3, 2, 0), (1, 1, 0), (2, 2, 0), (5, 3, 2)]
)
@pytest.mark.parametrize("size", [(1, 6, 5, 7), (3, 6, 8, 8)])
def test_a_convolution_of_few_pixels_is_torchs(kernel, stride, padding, size, products):
    ours, x = Conv2d(6, 4, kernel, stride, padding), normal(*size)
    theirs = same_as(ours, nn.Conv2d(6, 4, kernel, stride, padding))
    with torch.no_grad():
        for given in (x, x.to(memory_format=torch.channels_last), x.transpose(2, 3)):
            assert relative_error(ours(given), theirs(given)) < 1e-6
    assert len(products) == 3


@onednn
def test_a_convolution_of_many_pixels_is_left_alone(products):
    ours = Conv2d(2, 2, 3, padding=1)
    with torch.no_grad():
        ours(normal(1, 2, 16, 16))
        assert len(products) == 1
        ours(normal(1, 2, 16, 17))
        ours(normal(2, 2, 16, 16))
    assert len(products) == 1


@pytest.mark.parametrize(
    "layer, x", [(Linear(4, 3), normal(2, 4)), (Conv2d(4, 3, 3, padding=1), normal(2, 4, 5, 5))]
)
def test_where_a_gradient_is_wanted_nothing_changes(layer, x, products):
    theirs = same_as(layer, (nn.Linear(4, 3) if isinstance(layer, Linear) else nn.Conv2d(4, 3, 3, padding=1)))
    torch.testing.assert_close(layer(x), theirs(x), rtol=0, atol=0)
    for a, b in zip(
        torch.autograd.grad(layer(x).square().sum(), list(layer.parameters())),
        torch.autograd.grad(theirs(x).square().sum(), list(theirs.parameters())),
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not products


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_and_devices_are_torchs_own(dtype, products):
    layer = Linear(4, 3).to(dtype)
    with torch.no_grad():
        layer(normal(2, 4, dtype=dtype))
        Linear(4, 3, device="meta")(torch.empty(2, 4, device="meta"))
    assert not products


def test_bfloat16_takes_it_where_the_processor_has_it_and_differs_by_its_own_rounding(products):
    layer, x = Linear(64, 32).bfloat16(), normal(8, 64).bfloat16()
    with torch.no_grad():
        exact = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
        assert relative_error(layer(x).double(), exact) < 2**-7
    assert len(products) == (torch.bfloat16 in layers.DTYPES)


def test_autocast_chooses_the_dtype_itself(products):
    linear, conv = Linear(5, 6), Conv2d(6, 4, 3, padding=1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert linear(normal(2, 5)).dtype == conv(normal(1, 6, 4, 4).bfloat16()).dtype == torch.bfloat16
    assert not products


@pytest.mark.parametrize(
    "how",
    [
        dict(dilation=2, padding=2),
        dict(groups=2, padding=1),
        dict(padding="same"),
        dict(padding=1, padding_mode="reflect"),
    ],
)
def test_a_convolution_of_another_kind_is_torchs_own(how):
    ours, x = Conv2d(4, 4, 3, **how), normal(1, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), torch.nn.Conv2d.forward(ours, x))
