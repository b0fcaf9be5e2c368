# %% [markdown]
"""
# Solutions of 01 · SDEdit
"""

# %%
import math

from palimpsest.notebooks.exercises import check
from palimpsest.samplers.schedule import Schedule

# %% [markdown]
# **1.** The mean is μ + k (g − μ) with k = s²/(s² + σ²). It is half-way where k = 1/2, that is at σ = s.

# %%
check("04.1", .4)

# %% [markdown]
# **2.** DDPM's linear schedule stands at σ = √((1 − 0.0786)/0.0786) = 3.42 there. Solve 0.01 · 5000^t = 3.42: t =
# 0.685. (If the VE paper counts pixels in [0, 1], σ = 1.71 there: halve before solving.)

# %%
check("04.2", math.log(Schedule.linear().sigma(500) / .01) / math.log(50 / .01))


# %% [markdown]
# **3.** Each round multiplies the distance of the mean from μ by k: k^K. Repeats forget the painting exponentially;
# t₀ says how fast.

# %%
def mean_after(rounds, guide, mu, s, sigma):
    return mu + (s ** 2 / (s ** 2 + sigma ** 2)) ** rounds * (guide - mu)


check("04.3", mean_after)
