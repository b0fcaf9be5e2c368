"""How the cost of the U-Net grows on this machine, and how near it comes to what the machine can do.

A curve is seconds over one thing that grows, all else equal; its exponent is the slope of log seconds over
log of that thing: 1 where twice as much takes twice as long."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from palimpsest.claims.verify import Setting
from palimpsest.claims.verify.nets import drawn, noise
from palimpsest.nets.unet import UNet


class Curve(NamedTuple):
    """One thing that grows: its name, its values, and what is called with each."""

    name: str
    values: tuple[int, ...]
    call: Callable[[int], object]


def slope(values: list[float], seconds: list[float]) -> float:
    """The exponent p of seconds ∝ values^p, by least squares on the logarithms."""
    return float(np.polyfit(np.log(values), np.log(seconds), 1)[0])


def taken(call: Callable[[], object], rounds: int) -> float:
    """Median seconds of a call, after one that does not count."""
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)


@torch.inference_mode()
def curves(s: Setting, rounds: int) -> list[dict[str, Any]]:
    """Passes of the U-Net over steps, pictures, side of the latents, words, and attention maps that are
    kept.
    """
    net, side = drawn(UNet, s), 16 if s.size == "full" else 8
    layers = len(list(net.transformers()))

    def forward(pictures: int = 1, side: int = side, words: int = 77, maps: int = 0) -> None:
        kept: list[torch.Tensor] = []

        def tap(probs: torch.Tensor, site: object) -> torch.Tensor:
            if len(kept) < maps:
                kept.append(probs.mean(1))
            return probs

        x, ctx = noise(s, pictures, 4, side, side), noise(s, pictures, words, net.ctx_width)
        net(x, torch.full((pictures,), 500), ctx, tap if maps else None)

    grown = (
        Curve("steps of a walk", (1, 2, 4), lambda n: [forward() for _ in range(n)]),
        Curve("pictures at once", (1, 2, 4), lambda n: forward(pictures=n)),
        Curve("side of the latents", (side, 2 * side, 4 * side), lambda n: forward(side=n)),
        Curve("words of the text", (77, 154, 308), lambda n: forward(words=n)),
        Curve("attention maps kept", (1, layers, 2 * layers), lambda n: forward(maps=n)),
    )
    found = []
    for curve in grown:
        seconds = [taken(partial(curve.call, n), rounds) for n in curve.values]
        found.append(
            dict(
                name=curve.name,
                values=[*curve.values],
                seconds=seconds,
                exponent=slope([*map(float, curve.values)], seconds),
            )
        )
    return found


@torch.inference_mode()
def limits(s: Setting, rounds: int) -> dict[str, float]:
    """Billions of operations a second (an addition and a multiplication are two) of torch's products and
    convolutions at sizes of Stable Diffusion, and of the whole U-Net.
    """
    n, c, side = (1024, 640, 32) if s.size == "full" else (64, 32, 8)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        a, b = noise(s, n, n).to(dtype), noise(s, n, n, seed=1).to(dtype)
        found[f"product, {name}"] = 2 * n**3 / taken(partial(torch.matmul, a, b), rounds) / 1e9
        x, w = noise(s, 2, c, side, side).to(dtype), noise(s, c, c, 3, 3, seed=1).to(dtype)
        x, w = (y.contiguous(memory_format=torch.channels_last) for y in (x, w))
        operations = 2 * math.prod((2, side, side, c, c, 9))
        found[f"convolution, {name}"] = operations / taken(partial(F.conv2d, x, w, padding=1), rounds) / 1e9
    net = drawn(UNet, s)
    given = noise(s, 2, 4, side, side), torch.tensor([3, 981]), noise(s, 2, 77, net.ctx_width, seed=2)
    with torch.inference_mode(False), torch.enable_grad(), FlopCounterMode(display=False) as counted:
        net(*given)  # with gradients on, products go by torch's own operations, which are counted
    found["our U-Net, float32"] = counted.get_total_flops() / taken(partial(net, *given), rounds) / 1e9
    return found
