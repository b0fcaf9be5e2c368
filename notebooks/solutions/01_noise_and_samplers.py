# %% [markdown]
"""
# Solutions of 00 · Noise and samplers
"""

# %%
import math

import torch

from palimpsest.notebooks.exercises import check, slope
from palimpsest.samplers.schedule import Schedule
from palimpsest.samplers.ve_sde import em_step
from palimpsest.worlds.gaussian import GaussianWorld

# %% [markdown]
# **1.** Solve 0.01 · 5000^t = σ for t. At ᾱ = 0.494 the cosine schedule stands at σ = 1.01, and the ladder at t =
# 0.54: editing "at 0.5" on the one is editing at 0.54 on the other, and on a ladder up to 378 (bedrooms at 256
# pixels) it would be at 0.44.

# %%
answer = math.log(Schedule.cosine().sigma(500) / .01) / math.log(50 / .01)
check("01.1", answer)


# %% [markdown]
# **2.** dx/dσ = −σ s. The step is (σ' − σ) times the mean of the slopes at both ends.

# %%
def heun_step(score, x, sigma, after):
    slope = -sigma * score(x, sigma)
    euler = x + (after - sigma) * slope
    return x + (after - sigma) * (slope - after * score(euler, after)) / 2


check("01.2", heun_step)

# %% [markdown]
# **3.** From t₀ = 0.4 the integral of the first-order errors stops at σ = 0.3 and no longer vanishes. What is left is
# order 1.

# %%
mean, std, low, top = .7, .3, .01, 50.
world = GaussianWorld({"x": torch.full((1, 1, 1), mean)}, std)


def spread(n, t0):
    """std after n steps: the step is x → a x + b z + c, read off three probes."""
    v, dt = std ** 2 + (low * (top / low) ** t0) ** 2, t0 / n
    probe, noise = torch.tensor([[0., 1, 0], [0, 0, 1]], dtype=torch.float64)[:, :, None, None, None]
    for k in range(n, 0, -1):
        t = t0 * k / n
        score = world.score(probe, low * (top / low) ** t, "x")
        c, a, b = em_step(probe, score, t, dt, noise, sigma_min=low, sigma_max=top).flatten().tolist()
        v = (a - c) ** 2 * v + ((b - c) ** 2 if k > 1 else 0)
    return v ** .5


counts = (32, 64, 128, 256)
answer = slope(counts, [spread(n, .4) - (std ** 2 + low ** 2) ** .5 for n in counts])
print(f"slope {answer:.2f}")
check("01.3", answer)
