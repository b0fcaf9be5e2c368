"""Skip this file on a first reading: linear maps, convolutions and attention that know a faster way on a CPU.

They compute what torch's own compute, and are torch's own on other devices. Three things are slow on a CPU:

    large float32 products    torch multiplies by the BLAS that it links (MKL: half as fast as it could be on
                              an AMD processor with AVX-512). It links oneDNN too, which needs some 50 µs to
                              prepare itself at each call: as long as a whole small product takes.
    small convolutions        On a few pixels the time goes into bringing millions of weights into another
                              order; a product with the unfolded pixels reads each weight once.
    gradients of attention    In bfloat16 the fused kernel leaves the processor's bfloat16 units unused;
                              plain products use them.

Figures: `python -m palimpsest.claims.speed`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 256  # pixels of a whole batch, up to which a convolution is computed as a product of matrices
LARGE = 2**26  # additions and multiplications, from which on a float32 product is worth oneDNN's preparations
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
DTYPES = {torch.float32}  # that oneDNN multiplies here; bfloat16 wants AVX-512
if ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    DTYPES.add(torch.bfloat16)


def can_use_onednn(x: Tensor) -> bool:
    """Whether x is on a CPU, in a dtype that oneDNN has, with no gradient wanted and no autocast to choose
    the dtype."""
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
        return product(x, self.weight, self.bias) if can_use_onednn(x) else super().forward(x)


class Conv2d(nn.Conv2d):
    """A convolution (b c_in y x) -> (b c_out y' x')."""

    @property
    def is_plain(self) -> bool:
        """Whether it has zeros around it, all channels in one group, and no gaps between its weights."""
        zeros = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        return zeros and self.groups == 1 and tuple(self.dilation) == (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if (
            not can_use_onednn(x)
            or x.shape[0] * x.shape[2] * x.shape[3] > FEW
            or not self.weight.is_contiguous()
            or not self.is_plain
        ):
            return super().forward(x)
        patches = F.unfold(
            x, self.kernel_size, padding=self.padding, stride=self.stride
        )  # (b c_in·k·k y'·x')
        rows = (x.shape[2] + 2 * self.padding[0] - self.kernel_size[0]) // self.stride[0] + 1
        return product(patches.mT, self.weight.flatten(1), self.bias).mT.unflatten(2, (rows, -1))


def fused_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
    """softmax(Q Kᵀ / √k) V: queries (b h i k), keys and values (b h j k) -> (b h i k)."""
    if gradient_is_slow(q) and not causal:
        return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def gradient_is_slow(q: Tensor) -> bool:
    """Whether torch's fused kernel would spend most of a training step on the gradient: in bfloat16 on a
    CPU."""
    wanted = torch.is_grad_enabled() and q.requires_grad
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and wanted
