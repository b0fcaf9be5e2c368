"""RF-Inversion: a picture to noise and back under control, in flow coordinates (arXiv:2410.10792v1).

Inversion by the plain flow arrives at noise that is not quite typical, and sampling from it drifts away from
the picture. Both walks are therefore pulled: on the way up towards a drawn noise ε, on the way down towards
the picture x_0. Each pull is the velocity of the straight line through the current state.

    1  Y ← x_0;  for s → r up to 1:    Y ← Y + (r − s) [u(Y | ∅) + γ ((ε − Y)/(1 − s) − u(Y | ∅))]   (Alg. 1)
    2  X ← Y;    for s → r down to 0:  X ← X + (r − s) [u(X | P) + η_s ((X − x_0)/s − u(X | P))]   (Alg. 2)
       P is the target text; η_s = η on the first steps, a share `hold` of them, then 0

γ = 0 is plain inversion by the flow; γ = 1 ends at ε itself. η = 1 to the end returns the picture; η = 0 is
plain sampling from the inverted noise.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from palimpsest.arguments import Count, Fraction, Picture, Scale, Seed, Texts, check, one_each
from palimpsest.methods.inputs import given_picture
from palimpsest.methods.sampling import TOP
from palimpsest.samplers.flow import flow_time, flow_times, time_of_flow, velocity
from palimpsest.samplers.noise import Rng
from palimpsest.weights.counting import counted
from palimpsest.weights.model import Model


class RFInversion(NamedTuple):
    """What `rf_inversion` gives: pictures (b, 3, y, x) in [−1, 1]; latents (b c y' x')."""

    picture: Tensor  # the edit
    up: list[Tensor]  # from the picture's latent to noise, at the reversed `times`
    path: list[Tensor]  # from there to the edit, at `times`
    times: list[float]  # flow times, falling to 0
    levels: list[float]  # the schedule's times t of the same levels
    calls: int  # network evaluations per picture


def rf_inversion(
    model: Model,
    x: Picture,
    target: Texts,
    *,
    steps: Count = 25,  # each way
    gamma: Fraction = 0.5,  # pull towards the drawn noise on the way up
    eta: Fraction = 0.9,  # pull towards the picture on the way down; higher keeps more
    hold: Fraction = 0.25,  # the share of the steps down that are pulled; more keeps more
    w: Scale = 3.0,  # guidance on the way down
    seed: Seed = 0,  # picture i draws its noise from seed + i
) -> RFInversion:
    """Edit pictures x (b, 3, y, x) in [−1, 1] into what `target` says, without a description of the source.

    Raises ArgumentError for a value that makes no sense.
    """
    check(rf_inversion, locals())
    x = given_picture(model, x)
    sched, x_0 = model.schedule, model.encode(x)
    eps = Rng.of(seed, len(x)).randn(x_0.shape, x_0)
    u_empty = velocity(model.denoiser(""), sched)
    u_target = velocity(model.denoiser(one_each("target", target, len(x)), w), sched)
    times = flow_times(steps, flow_time(sched, TOP * sched.T))
    first = flow_time(sched, 1)  # ours: a network knows no level below its first, so none is asked about

    up = [x_0]
    with counted(model, len(x)) as evaluations:
        for s, r in pairwise(reversed(times)):
            Y = up[-1]
            free, pull = u_empty(Y, max(s, first)), (eps - Y) / (1 - s)  # Alg. 1: u(Y | ∅), u(Y | ε)
            up.append(Y + (r - s) * (free + gamma * (pull - free)))  # Alg. 1, Eq. (25)
        path = [up[-1]]
        for n, (s, r) in enumerate(pairwise(times)):
            X = path[-1]
            free, pull = u_target(X, s), (X - x_0) / s  # Alg. 2: u(X | target), u(X | x_0)
            eta_s = eta if n < round(hold * steps) else 0.0
            path.append(X + (r - s) * (free + eta_s * (pull - free)))  # Alg. 2, Eq. (25)
    calls = int(evaluations.each.max())
    levels = [time_of_flow(sched, s) for s in times]
    return RFInversion(model.decode(path[-1]), up, path, times, levels, calls)
