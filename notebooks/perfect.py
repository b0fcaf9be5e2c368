"""The perfect model of a Gaussian world: its ε is a formula, so what goes wrong with it is the method's doing."""
from __future__ import annotations

import torch
from torch import Tensor

from palimpsest.nets.vae import AutoencoderKL
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.model import Model
from palimpsest.worlds.gaussian import GaussianWorld


class _Formula(torch.nn.Module):
    """ε* of a Gaussian world, in the shape of a net: (x_t, t, ctx) -> ε* (b c y x)."""

    def __init__(self, world: GaussianWorld, schedule: Schedule, prompt: str):
        super().__init__()
        self.world, self.schedule, self.prompt = world, schedule, prompt
        self.dtype_and_device = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))      # computes in float64

    def forward(self, x_t: Tensor, t: float, ctx: Tensor | None = None, tap: object = None) -> Tensor:
        return self.world.eps(x_t, self.schedule.at(t), self.prompt if ctx is None else ctx)


def perfect_model(world: GaussianWorld, schedule: Schedule, size: int = 64, *, prompt: str = "",
                  vae: AutoencoderKL | None = None) -> Model:
    """A model of pictures `size` × `size` whose answer is E[ε | x_t, text]. It reads the texts that the world has means for;
    a method that hands it no text gets `prompt`."""
    return Model("gaussian", _Formula(world, schedule, prompt), schedule, size=size, text=torch.nn.Identity(),
                 tokenizer=world.embed, vae=vae)
