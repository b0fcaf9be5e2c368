# %% [markdown]
"""
# Solutions of 10 · DreamBooth
"""

# %%
from palimpsest.notebooks.exercises import check

# %% [markdown]
# **1. LoRA.** $BAx$ is computed from the right, so that no matrix of the full size is made: two thin products. Merging, $W +
# \frac{\alpha}{r} BA$, gives the same output at no cost in use.


# %%
def lora(x, W, A, B, alpha):
    return x @ W.T + alpha / len(A) * (x @ A.T) @ B.T


check("10.1", lora)

# %% [markdown]
# **2. Which losses change** when λ = 0? All five, (a). The first one changes although no update has happened yet, because the loss that
# is recorded is the whole of Eq. (9), and the prior term, though small for the frozen model, is not zero: the network's
# predictions on its own pictures still have an error. The later ones change for a second reason, too: the updates differ.

# %%
check("10.2", "a")

# %% [markdown]
# **3. The open project** has no single answer. Build each picture from the RGBA emoji with `affine_grid` (a mirror is a scale of −1 in
# x), put it on its background with `render`'s formula, alpha × emoji + (1 − alpha) × ground, and keep the texts as they are. Compare
# `spread` and the best PSNR over shifts of ±4 pixels with those of section 4, each with `mean_interval`, at the same number of
# steps. State your expectation first.
