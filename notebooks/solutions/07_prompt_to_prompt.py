# %% [markdown]
"""
# Solutions of 07 · Prompt-to-Prompt
"""

# %%
import torch

from palimpsest.notebooks.exercises import check

# %% [markdown]
# **1.** Rows sum to 1, so that no map is lost or counted twice: 1/m in each of m columns, whatever n is. In `tap`, Edit
# becomes `m @ mapper`, with this block at the swapped word.

# %%
def share_out(n, m):
    return torch.eye(n) if n == m else torch.full((n, m), 1 / m)


check("07.1", share_out)

# %% [markdown]
# **2.** Start and "a" stay, "striped" is new, and everything behind it answers to the token one place earlier, the end
# token included. In `tap` the columns with −1 keep M*: that is Eq. (13).

# %%
check("07.2", [0, 1, -1, 2, 3, 4, 5, 6, 7, 8])
