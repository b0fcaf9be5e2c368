# %% [markdown]
"""
# Solutions of 13 · Which method when
"""

# %%
import torch

from palimpsest.notebooks.exercises import check
from palimpsest.notebooks.intervals import share_interval

# %% [markdown]
# **1.** A pair is drawn with both of its results, so the rows pick from the differences.


# %%
def difference(a, b, rows):
    means = (a - b)[rows].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return (a - b).mean().item(), low, high


check("13.1", difference)

# %% [markdown]
# **2.** The half widths 1.96 √(.16/n) and 1.96 √(.21/n) must add up to less than 0.1, so n > (19.6 · (.4 + .458))² = 283: neither
# 64 nor 128 nor 256 are enough, although ten points are a large difference.


# %%
def apart(n):
    return share_interval(round(0.8 * n), n)[0] > share_interval(round(0.7 * n), n)[1]


check("13.2", next(n for n in range(10, 2000) if apart(n)))
