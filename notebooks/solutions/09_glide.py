# %% [markdown]
"""
# Solutions of 07 · GLIDE
"""

# %%
import torch

from palimpsest.notebooks.exercises import check

# %% [markdown]
# **1.** Guidance asks twice a step, with the text and without; the upsampler is not guided: 2 · 50 + 27.

# %%
check("09.1", 2 * 50 + 27)


# %% [markdown]
# **2.** Where it is kept the state is a draw of q(x_s | picture); where it is painted it is the walk's own.

# %%
def put_back(x_s, picture, mask, noise, abar_s):
    return torch.where(mask > 0, x_s, abar_s ** .5 * picture + (1 - abar_s) ** .5 * noise)


check("09.2", put_back)


# %% [markdown]
# **3.** dL/dU = Σ dL/dy · k: it holds the *input* k and what comes from above, not U itself. Only a second layer of zeros
# above it would keep both at zero.

# %%
def slope_of_new_weights(dy, k):
    return torch.einsum("boyx,biyx->oi", dy, k)


check("09.3", slope_of_new_weights)
