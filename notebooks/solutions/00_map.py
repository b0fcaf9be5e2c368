# %% [markdown]
"""
# Solutions of 00 · A map of editing with diffusion models
"""

# %%
import math

from palimpsest.notebooks.exercises import check

# %% [markdown]
# **1.** The mean square difference over the kept pixels, in decibels below the largest possible one.

# %%
def kept_outside(edit, before, changed):
    kept = 1 - changed
    mse = ((edit - before) ** 2 * kept).sum() / (3 * kept.sum())
    return float(10 * (4 / mse).log10())


check("00.1", kept_outside)

# %% [markdown]
# **2.** The difference is 0, so the PSNR is infinite: the picture untouched wins by this number. That is why success is
# measured beside it.

# %%
check("00.2", math.inf)
