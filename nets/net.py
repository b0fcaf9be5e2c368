"""What a net must have to be used by every method here: `Net`.

class Mine(torch.nn.Module):
    def forward(self, x_t, t, ctx=None, tap=None):
        return …                                     # the noise in x_t, as large as x_t

model = Model("mine", Mine(), Schedule.cosine(), size=32)          # weights/model.py
picture = generate(model, "", seed=0).picture
"""

from __future__ import annotations

from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from palimpsest.arguments import ArgumentError
from palimpsest.nets.attention import Site, Tap


class Net(Protocol):
    """A torch module, or a plain function, that is called as net(x_t, t, ctx, tap) and says what it predicts.

    What else a net *may* have is read by `channels_of`, `in_channels_of` and `factor_of`, which say what is
    assumed of a net without it:

        channels       of x_t and of the prediction (a net that learns variances gives as many again)
        in_channels    channels that the call takes: x_t, and what stands beside it (a picture, a mask)
        factor         rows and columns of x_t must be multiples of it
        sites(res)     the attention layers that a map of res = (y, x) passes, in call order; asked for by
                       Prompt-to-Prompt and by attention maps
        parameters()   as torch modules have it, and buffers(); the first one's device and dtype are those
                       of the model
    """

    def __call__(
        self,
        x_t: Tensor,  # (b in_channels y x), noised to the level t
        t: float | Tensor,  # a number, or a tensor of one or b numbers
        ctx: Tensor | None = None,  # the text (b l d); None where the model has none
        tap: Tap | None = None,  # reads and rewrites attention; None for a net that has none to read
    ) -> Tensor:
        """The prediction (b channels y x): the noise, v or the velocity, as it was trained."""
        ...


def channels_of(net: Net, usual: int = 3) -> int:
    """Channels of the prediction; `usual` for a net that does not say: 3 on pixels, the autoencoder's on
    latents."""
    return getattr(net, "channels", usual)


def in_channels_of(net: Net, usual: int = 3) -> int:
    """Channels that the call takes; those of the prediction for a net that does not say."""
    return getattr(net, "in_channels", channels_of(net, usual))


def factor_of(net: Net) -> int:
    """What rows and columns of x_t must be multiples of; 1 for a net that does not say."""
    return getattr(net, "factor", 1)


def sites_of(net: Net, res: tuple[int, int]) -> list[Site]:
    """The attention layers that a map of res = (y, x) passes, in call order. ArgumentError for a net that
    names none."""
    if not hasattr(net, "sites"):
        raise ArgumentError(
            "net", f"{type(net).__name__} has no sites(res), which says where its attention is"
        )
    return net.sites(res)


def first_parameter(net: Net) -> Tensor:
    """Whose device and dtype are the net's: its first parameter, or buffer; of a net without any an empty
    float32 tensor on the CPU."""
    held = (getattr(net, name, tuple)() for name in ("parameters", "buffers"))
    return next(chain.from_iterable(held), torch.empty(0))
