"""The optimisers of a run: AdamW, or Muon for the matrices and AdamW for the rest.

AdamW: Loshchilov & Hutter, arXiv:1711.05101v3. Muon: fit/muon.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from palimpsest.fit.muon import Muon, matrices
from palimpsest.fit.settings import Settings

FASTER = 16.0  # Muon's learning rate in units of AdamW's: .02 beside 1.2e-3 was good for `shapes`


def optimisers_of(net: nn.Module, settings: Settings) -> list[Optimizer]:
    """One for all that is trained; or Muon for linear maps and convolutions, and AdamW for the rest."""
    for_muon = matrices(net) if settings.optimiser == "muon" else []
    taken = {id(p) for p in for_muon}
    rest = [p for p in net.parameters() if p.requires_grad and id(p) not in taken]
    found: list[Optimizer] = []
    if for_muon:
        found.append(Muon(for_muon, settings.lr, settings.weight_decay))
    if rest:
        found.append(_adamw(rest, settings))
    return found


def set_rate(optimisers: list[Optimizer], lr: float) -> None:
    """The learning rate of the next step; Muon's is FASTER times AdamW's."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = lr * (FASTER if isinstance(optimiser, Muon) else 1.0)


def _adamw(params: list[Tensor], settings: Settings) -> AdamW:
    """AdamW in one fused kernel where the device has it."""
    how = dict(lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)
    try:
        return torch.optim.AdamW(params, fused=True, **how)
    except RuntimeError:
        return torch.optim.AdamW(params, **how)
