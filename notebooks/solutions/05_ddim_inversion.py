# %% [markdown]
"""
# Solutions of 02 · DDIM inversion
"""

# %%
from palimpsest.notebooks.exercises import check

# %% [markdown]
# **1.** Take the noise out at the old level, put it in at the new one: that is the step down with the two levels
# exchanged. The picture that lies between, x̂_0, is the same for both.


# %%
def upward_step(x_s, eps, abar_s, abar_t):
    x0_hat = (x_s - (1 - abar_s) ** .5 * eps) / abar_s ** .5
    return abar_t ** .5 * x0_hat + (1 - abar_t) ** .5 * eps                # Eq. (19)


check("05.1", upward_step)

# %% [markdown]
# **2.** Up: the plain step and three rounds, four calls for each of 50 steps. Down: guidance asks twice a step. In all
# 50 · 4 + 50 · 2 = 300. (Computed as one batch of two, the two calls are still two looks.)

# %%
check("05.2", 50 * (1 + 3) + 50 * 2)

# %% [markdown]
# **3.** Set s² = σ² (1 − s²)/(1 + σ²), which is σ² = s²/(1 − 2 s²): σ = 0.3313 for s = 0.3. Below it the destination
# label errs less, above it the source label. From s² = 1/2 on they never tie, and the destination always wins.

# %%
check("05.3", (.3 ** 2 / (1 - 2 * .3 ** 2)) ** .5)
