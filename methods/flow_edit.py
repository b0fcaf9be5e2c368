"""FlowEdit: editing with flow models without inversion (Kulikov et al., arXiv:2412.08629v1).

The picture is carried along the *difference* of two velocities: that of the target text and that of the
source text, both seen through the same noise. Where the texts agree, the difference is zero and the picture
stays. There is no inversion, no mask and no training. Our networks predict noise or v; in straight-line
coordinates (samplers/flow.py) they are flow models.

    1  Z ← x_0                                                  the picture, edited step by step
    2  for s → r, from `start` down to 0:
    3    for each of n noises ε:
    4      X_src ← (1 − s) x_0 + s ε;    X_tar ← X_src + Z − x_0                  # Eq. (26)
    5      V ← mean over ε of u(X_tar | target, w_tar) − u(X_src | source, w_src)  # Eq. (27)
    6    Z ← Z + (r − s) V
    7  the last steps, if any: X ← X_tar, then plain sampling under the target

    paper                code                        paper        code
    X^src, Z^FE          x_0, z (path)               t            s, a flow time: 0 picture, 1 noise
    Z^src, Z^tar         x_src, x_tar                n_max/T      start
    n_avg, n_min         averages, last              T            steps
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from palimpsest.arguments import (
    Count,
    Else,
    Hint,
    Interval,
    Mask,
    Picture,
    Rounds,
    Scale,
    Seed,
    Texts,
    check,
    one_each,
)
from palimpsest.methods.inputs import check_mask, given_mask, given_picture, latent_mask
from palimpsest.methods.sampling import TOP
from palimpsest.samplers.flow import euler_step, flow_time, flow_times, line, time_of_flow, velocity
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.counting import counted
from palimpsest.weights.model import Model

Start = Annotated[float, Interval(0, 1, open_low=True), Hint("the paper takes 0.66 with SD3, 0.86 with FLUX")]


class FlowEdit(NamedTuple):
    """What `flow_edit` gives: pictures (b, 3, y, x) in [−1, 1]; latents (b c y' x')."""

    picture: Tensor  # the edit; where a mask keeps, the pixels that were given
    raw: Tensor  # the edit as decoded
    path: list[Tensor]  # Z at each of `times`: the picture's latent, turning into the edit's; in
    # the last `last` steps, the noisy state instead
    times: list[float]  # flow times, falling to 0
    levels: list[float]  # the schedule's times t of the same levels
    calls: int  # network evaluations per picture


def flow_edit(
    model: Model,
    x: Picture,
    source: Texts,
    target: Texts,
    *,
    mask: Mask | None = None,  # 1 = edit here; outside nothing changes, to the bit
    steps: Count = 20,  # of the whole line, of which start · steps are walked
    start: Annotated[Start | None, Else(0.85)] = None,  # the flow time to begin at; higher edits more
    # guidance under the source; the paper: 3.5 with SD3, 1.5 with FLUX
    w_source: Annotated[Scale | None, Else(1.0)] = None,
    # guidance under the target; the paper: 13.5 with SD3, 5.5 with FLUX
    w_target: Annotated[Scale | None, Else(3.0)] = None,
    averages: Count = 1,  # noises per step
    last: Rounds = 0,  # steps at the end that sample plainly, for edits that change much
    seed: Seed = 0,  # picture i draws from seed + i
) -> FlowEdit:
    """Edit pictures x (b, 3, y, x) in [−1, 1], described by `source`, into what `target` says.

    start, w_source, w_target: None takes what the model recommends, else 0.85, 1 and 3. Raises
    ArgumentError for a value that makes no sense, ValueError for a mask that does not fit.
    """
    check(flow_edit, locals())
    start, w_source, w_target = model.settle(
        flow_edit, dict(start=start, w_source=w_source, w_target=w_target)
    )
    x = given_picture(model, x)
    given = None if mask is None else check_mask(given_mask(model, mask), x)
    sched, x_0, rng = model.schedule, model.encode(x), Rng.of(seed, len(x))
    u_src = velocity(model.denoiser(one_each("source", source, len(x)), w_source), sched)
    u_tar = velocity(model.denoiser(one_each("target", target, len(x)), w_target), sched)
    times = walked(sched, steps, start)
    cells = None if given is None else latent_mask(given, x_0)

    path = [x_0]
    state: Tensor | None = None  # X, once the last steps have begun
    with counted(model, len(x)) as evaluations:
        for n, (s, r) in enumerate(pairwise(times)):
            z = path[-1]
            if n < len(times) - 1 - last:
                V = torch.zeros_like(x_0)
                for _ in range(averages):
                    x_src = line(x_0, s, rng.randn(x_0.shape, x_0))
                    x_tar = x_src + (z - x_0)  # Eq. (26)
                    V += (u_tar(x_tar, s) - u_src(x_src, s)) / averages  # Eq. (27)
                z = z + (r - s) * V  # Eq. (25)
            else:
                state = z - x_0 + line(x_0, s, rng.randn(x_0.shape, x_0)) if state is None else state
                z = state = euler_step(u_tar, state, s, r)  # Eq. (25)
            path.append(z if cells is None else torch.where(cells > 0, z, x_0))

    raw = model.decode(path[-1])
    picture = raw if given is None else torch.where(given > 0, raw.to(x), x)
    calls = int(evaluations.each.max())
    return FlowEdit(picture, raw, path, times, [time_of_flow(sched, s) for s in times], calls)


def walked(sched: Schedule, steps: int, start: float) -> list[float]:
    """The flow times of the walk: start · steps steps from `start` (at most the schedule's last) to 0."""
    start = min(start, flow_time(sched, TOP * sched.T))  # a schedule ends before pure noise
    return flow_times(max(1, round(start * steps)), start)
