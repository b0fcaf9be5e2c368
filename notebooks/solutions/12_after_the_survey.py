# %% [markdown]
"""
# Solutions of 12 · After the survey: FlowEdit and Text2LIVE
"""

# %%
from itertools import pairwise

from palimpsest.notebooks.exercises import check

# %% [markdown]
# **1.** Each noise makes both noisy pictures; Z moves once, along the mean of the differences.

# %%
def averaged(x_0, u_src, u_tar, times, noises):
    z = x_0
    for (s, r), several in zip(pairwise(times), noises):
        V = 0
        for eps in several:
            x_src = (1 - s) * x_0 + s * eps
            V = V + (u_tar(x_src + (z - x_0), s) - u_src(x_src, s)) / len(several)
        z = z + (r - s) * V
    return z


check("12.1", averaged)

# %% [markdown]
# **2.** With equal texts V is 0 for one noise. For two it is ε′ − ε, up to what the net smooths: each step adds
# (r − s)(ε′ − ε), and ten of them have a standard deviation of .085 · √2 · √10 = .38 in the latent. The edits happen all
# the same, as the difference of the texts is still in V; what should stay is covered by grain.

# %%
check("12.2", "b")
