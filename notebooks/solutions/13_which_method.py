# %% [markdown]
"""
# Solutions of 10 · Real pictures
"""

# %%
import math

from palimpsest.notebooks.exercises import check

# %% [markdown]
# **1.** The mean square is a tenth of a sixteenth of the range squared.

# %%
check("13.1", -10 * math.log10(.1 / 16))


# %% [markdown]
# **2.** From each tone to each other one.

# %%
def edits_of(n):
    return n * (n - 1)


check("13.2", edits_of)


# %% [markdown]
# **3.** What is not covered shows the ground.

# %%
def over(c, alpha, g):
    return alpha * c + (1 - alpha) * g


check("13.3", over)
