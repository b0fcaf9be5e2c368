# %% [markdown]
"""
# Solutions of 03 · DiffEdit
"""

# %%
from palimpsest.methods.diffedit import encoding_bound, noising_bound
from palimpsest.notebooks.exercises import check

# %% [markdown]
# **1.** Marked is what exceeds θ r D̄. With D = 1 on a share f of the picture, D̄ = f, and 1 > θ r f needs r < 1/(θ f) =
# 1/(½ · ⅘) = 2.5.

# %%
check("06.1", 1 / (.5 * .8))

# %% [markdown]
# **2.** Both bounds are 0 at 0, and the encoding one starts lower (its slope is K₂ there) and bends upward: halve the
# interval in which the sign of their difference changes.

# %%
low, high = .1, 10.
for _ in range(60):
    middle = (low + high) / 2
    low, high = (middle, high) if encoding_bound(middle, 3., .02) < noising_bound(middle, 1.) else (low, middle)
check("06.2", low)


# %% [markdown]
# **3.** Step n ends at `levels[n + 1]`, and so must what it is mixed with. With `encoded[n]` every picture would look
# right and none would be: the kept part would stay one level too noisy, to the end.

# %%
def blend(y, encoded, n, mask):
    return mask * y + (1 - mask) * encoded[n + 1]


check("06.3", blend)
