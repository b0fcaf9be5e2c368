# %% [markdown]
"""
# Solutions of 09 · GLIDE
"""

# %%
import torch

from palimpsest.notebooks.exercises import check

# %% [markdown]
# **1. Put it back.** Where the picture is kept, the state is a sample of q(x_s | picture); where it is painted, it is the sampler's own.


# %%
def put_back(x_s, picture, mask, noise, abar_s):
    return torch.where(mask > 0, x_s, abar_s ** .5 * picture + (1 - abar_s) ** .5 * noise)


check("09.1", put_back)

# %% [markdown]
# **2. Without the replacement of x̂₀** the answer is (b). The fine-tuned network sees the kept part in its input and copies it, but a
# prediction is never exact. Only the replacement, or a paste at the end, makes it equal to the bit. A model that was *not*
# fine-tuned would give (c).

# %%
check("09.2", "b")

# %% [markdown]
# **3. The open project** has no single answer. Blur the mask, blend $\hat x_0$ by it, keep the channel of the network binary, and compare
# `seam` and the reader's verdict on the sixteen tasks and on 48 more. Feathering helps where the picture is smooth, and hurts
# where an outline crosses the border. State your expectation first.
