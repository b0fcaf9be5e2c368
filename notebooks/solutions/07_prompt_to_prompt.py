# %% [markdown]
"""
# Solutions of 04 · Prompt-to-Prompt
"""

# %%
import torch

from palimpsest.notebooks.exercises import check

# %% [markdown]
# **1.** 1 + (c − 1) · 0.25 = 1.5. The paper does not divide by it, and neither do we: a word made louder takes nothing
# from the others.

# %%
check("07.1", 1 + (3 - 1) * .25)

# %% [markdown]
# **2.** Start and "a" stay, "striped" is new, and everything behind it answers to the token one place earlier, the end
# token included.

# %%
check("07.2", [0, 1, -1, 2, 3, 4, 5, 6, 7, 8])


# %% [markdown]
# **3.** Rows sum to 1, so that no map is lost or counted twice: 1/m in each of m columns, whatever n is.

# %%
def share_out(n, m):
    return torch.eye(n) if n == m else torch.full((n, m), 1 / m)


check("07.3", share_out)
