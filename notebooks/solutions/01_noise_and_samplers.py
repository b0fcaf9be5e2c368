# %% [markdown]
"""
# Solutions of 01 · Noise and samplers
"""

# %%
import math

from palimpsest.notebooks.exercises import check
from palimpsest.samplers.schedule import Schedule

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
# **3.** The noise in $x_s$ has two parts: the kept noise, of variance $1-\bar\alpha_s-\sigma^2$, and the fresh noise, of
# variance $\sigma^2$. Together they should have $1-\bar\alpha_s$. With the changed line every step has $\sigma^2$ too
# much, the next step takes the surplus for part of the picture, and the samples come out too far apart.

# %%
prediction = "too large"
check("01.3", prediction)
