"""Linear maps and convolutions that know a faster way on a CPU. Elsewhere, and wherever a gradient is
wanted, they are torch's own.

torch multiplies float32 matrices by the BLAS that it links (MKL: half as fast as it could be on an AMD
processor with AVX-512), though it links oneDNN too, which prepares itself anew at each call: some 50 µs,
in which a small product is done. And a convolution of a few pixels spends its time on bringing millions
of weights into another order, where a product with the unfolded pixels reads each of them once. Figures:
`python -m palimpsest.claims.speed`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 256  # pixels of a whole batch, up to which a convolution is a product of matrices
LARGE = (
    2**26
)  # additions and multiplications, from which on a product in float32 is worth oneDNN's preparations
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
DTYPES = {torch.float32} | (
    {torch.bfloat16} if ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported() else set()
)  # it wants AVX-512


def runs_here(x: Tensor) -> bool:
    """Whether the faster way is open: on a CPU, in a dtype that oneDNN has, without a gradient, and where
    autocast does not choose it.
    """
    return (
        ONEDNN
        and x.device.type == "cpu"
        and x.dtype in DTYPES
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + b, by oneDNN where that pays: (… c_in), (c_out c_in), (c_out) -> (… c_out)."""
    if x.dtype == torch.float32 and 2 * x.numel() * len(weight) < LARGE:
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class Linear(nn.Linear):
    """x Wᵀ + b: (… c_in) -> (… c_out)."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias) if runs_here(x) else super().forward(x)


class Conv2d(nn.Conv2d):
    """A convolution (b c_in y x) -> (b c_out y' x'), zeros around it."""

    def forward(self, x: Tensor) -> Tensor:
        if not runs_here(x) or x.shape[0] * x.shape[2] * x.shape[3] > FEW or not self.weight.is_contiguous():
            return super().forward(x)
        patches = F.unfold(
            x, self.kernel_size, padding=self.padding, stride=self.stride
        )  # (b c_in·k·k y'·x')
        rows = (x.shape[2] + 2 * self.padding[0] - self.kernel_size[0]) // self.stride[0] + 1
        return product(patches.mT, self.weight.flatten(1), self.bias).mT.unflatten(2, (rows, -1))
