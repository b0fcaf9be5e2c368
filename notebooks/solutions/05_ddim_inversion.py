# %% [markdown]
"""
# Solutions of 05 · DDIM inversion
"""

# %%
from palimpsest.notebooks.exercises import check

# %% [markdown]
# **1.** Each round starts from x_s again and takes only ε̂ from the latest x_t. A round that started from x_t would walk
# twice.

# %%
def upward(eps, x_s, abar_s, abar_t, rounds):
    scale = (abar_t / abar_s) ** .5

    def step(e):
        return scale * x_s + ((1 - abar_t) ** .5 - scale * (1 - abar_s) ** .5) * e       # Eq. (19)

    x_t = step(eps(x_s))
    for _ in range(rounds):
        x_t = step(eps(x_t))
    return x_t


check("05.1", upward)

# %% [markdown]
# **2.** Worse: for latents of unit variance the destination has no first-order error. For s = 0.3 the two tie where
# s² = σ² (1 − s²)/(1 + σ²), that is σ² = s²/(1 − 2 s²): σ = 0.3313. Below it the destination errs less, above it the
# source. From s² = 1/2 on they never tie, and the destination always wins.

# %%
check("05.2", (.3 ** 2 / (1 - 2 * .3 ** 2)) ** .5)
