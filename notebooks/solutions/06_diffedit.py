# %% [markdown]
"""
# Solutions of 06 · DiffEdit
"""

# %%
from palimpsest.notebooks.exercises import check

# %% [markdown]
# **1.** Step n ends at `times[n + 1]`, and so must what it is mixed with. With `encoded[n]` every picture would look
# right and none would be: the kept part would stay one level too noisy, to the end.

# %%
def blend(y, encoded, n, mask):
    return mask * y + (1 - mask) * encoded[n + 1]


check("06.1", blend)

# %% [markdown]
# **2.** Marked is what exceeds θ m D̄. With D = 1 on a share f of the picture, D̄ = f, and 1 > θ m f needs m < 1/(θ f) =
# 1/(½ · ⅘) = 2.5.

# %%
check("06.2", 1 / (.5 * .8))
