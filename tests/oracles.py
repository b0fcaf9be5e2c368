"""Models in float64 whose nets are formulas, for tests of algebra: no autoencoder, latents are the pictures.

exact_model(world)          the Gaussian world as a net: what a perfect one would say
smooth_model()              a smooth nonlinear ε(x, t, ctx) that leans on its context as a text model does
"""

import torch
from torch import nn

from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.model import Model

DOUBLE = torch.zeros(1, dtype=torch.float64)


def randn(*shape, seed=0):
    """Standard normal, float64, one seed for each entry of the first axis."""
    return Rng.of(seed, shape[0]).randn(shape, DOUBLE)


class Counted(nn.Module):
    """A net that says its device, dtype and channels, and counts for how many pictures it was asked."""

    def __init__(self, sched, channels):
        super().__init__()
        self.sched, self.asked = sched, 0
        self.channels = channels
        self.like = nn.Parameter(torch.zeros(1, dtype=torch.float64))


class Exact(Counted):
    """ε* of a GaussianWorld."""

    def __init__(self, world, sched):
        super().__init__(sched, world.mu.shape[1])
        self.world = world

    def forward(self, x_t, t, ctx=None, tap=None):
        self.asked += len(x_t)
        return self.world.eps(x_t, self.sched.at(t), "" if ctx is None else ctx)


class Smooth(Counted):
    """ε of a picture near N(m(ctx), .25), bent by a sine: no closed form, but every derivative there is."""

    def __init__(self, sched, shape=(3, 4, 4), tokens=3, width=8):
        super().__init__(sched, shape[0])
        self.shape = shape
        self.map = nn.Parameter(0.5 * randn(tokens * width, shape[0] * shape[1] * shape[2], seed=100))

    def forward(self, x_t, t, ctx, tap=None):
        self.asked += len(x_t)
        a = self.sched.at(t)
        m = torch.tanh(ctx.flatten(1) @ self.map).reshape(-1, *self.shape)
        return (1 - a) ** 0.5 * (x_t - a**0.5 * m) / (0.25 * a + 1 - a) + 0.1 * torch.sin(2 * x_t + m)


def words(prompts, tokens=3, width=8):
    """Any prompt as (b l d): its letters are the seed."""
    return torch.cat(
        [
            0.3 * randn(1, tokens, width, seed=sum(k * ord(c) for k, c in enumerate(p, 1)) % 99991)
            for p in prompts
        ]
    )


def model_of(net, tokenizer, size):
    return Model(
        name="formula", net=net, schedule=net.sched, size=size, text=nn.Identity(), tokenizer=tokenizer
    )


def exact_model(world, sched=None):
    return model_of(Exact(world, sched or Schedule.scaled_linear()), world.embed, world.mu.shape[-1])


def smooth_model(sched=None):
    return model_of(Smooth(sched or Schedule.scaled_linear()), words, 4)
