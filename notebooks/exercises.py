"""Checks for the exercises of the lessons: whether an answer is right. The answers are in notebooks/solutions."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from samplers.schedule import Schedule
from samplers.ve_sde import ve_sigmas
from worlds.gaussian import GaussianWorld


def check(name: str, answer: object) -> None:
    """Print whether `answer` solves exercise `name`. None, or raising NotImplementedError, is not begun."""
    try:
        wrong = "not begun" if answer is None else CHECKS[name](answer)
    except NotImplementedError:
        wrong = "not begun"
    print(f"exercise {name}: {'right' if wrong is None else wrong}")


def slope(steps: Sequence[int], errors: Sequence[float]) -> float:
    """The power p of errors ∝ steps^p, by least squares in the logarithms."""
    x, y = (torch.tensor(v, dtype=torch.float64).abs().log() for v in (steps, errors))
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


# --------------------------------------------------------------------------- 00

def _same_noise(t: float) -> str | None:
    sigma = Schedule.cosine().sigma(500)
    if math.isclose(t, math.log(sigma / .01) / math.log(50 / .01), abs_tol=1e-3):
        return None
    return f"not yet: at t = {t:g} the ladder stands at {.01 * (50 / .01) ** t:.3g}, the cosine schedule at {sigma:.3g}"


def _second_order(step: Callable) -> str | None:
    world = GaussianWorld({"p": torch.full((1, 1, 1), .7)}, .3)
    x = torch.full((1, 1, 1, 1), 9., dtype=torch.float64)
    errors, counts = [], (32, 64, 128)
    for n in counts:
        sigmas, y = ve_sigmas(n, sigma_max=10.)[:-1], x
        for sigma, after in pairwise(sigmas):
            y = step(lambda x, s: world.score(x, s, "p"), y, sigma, after)
        errors.append(float(y - world.ve_flow(x, sigmas[0], sigmas[-1], "p")))
    p = slope(counts, errors)
    return None if p < -1.8 else f"not yet: the error falls with slope {p:.2f}, and −2 is wanted"


def _first_order(p: float) -> str | None:
    return None if math.isclose(p, -1, abs_tol=.25) else f"not yet: {p:.2f}; compare with the std at σ = 0.01"


# --------------------------------------------------------------------------- 01

def _half_forgotten(sigma: float) -> str | None:
    k = .4 ** 2 / (.4 ** 2 + sigma ** 2)
    return None if math.isclose(k, .5, abs_tol=1e-3) else f"not yet: from σ = {sigma:g}, {k:.0%} of the guide survives"


def _translate(t: float) -> str | None:
    sigma, wanted = .01 * (50 / .01) ** t, Schedule.linear().sigma(500)
    if math.isclose(sigma, wanted, rel_tol=.01):
        return None
    return f"not yet: the ladder stands at {sigma:.3g} there, DDPM's schedule at {wanted:.3g}"


def _repeats(mean_after: Callable) -> str | None:
    mu, s, sigma = .3, .25, .4
    world, mean = GaussianWorld({"p": torch.full((1, 1, 1), mu)}, s), torch.full((1, 1, 1, 1), .9, dtype=torch.float64)
    for rounds in (1, 2, 3):
        mean = world.sdedit(mean, sigma, "p")[0]
        found = mean_after(rounds, .9, mu, s, sigma)
        if not math.isclose(found, mean.item(), rel_tol=1e-6):
            return f"not yet: after {rounds} rounds {found:.4f}, and {mean.item():.4f} is right"
    return None


CHECKS: dict[str, Callable] = {"00.1": _same_noise, "00.2": _second_order, "00.3": _first_order,
                               "01.1": _half_forgotten, "01.2": _translate, "01.3": _repeats}
