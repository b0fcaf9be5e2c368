# %% [markdown]
"""
# Solutions of 09 · InstructPix2Pix
"""

# %%
from palimpsest.notebooks.exercises import check

# %% [markdown]
# **1.** Gathering: a = 1 − s_I, b = s_I − s_T, c = s_T; they sum to 1. With s_T > s_I the answer to the picture alone gets a
# negative weight: what the picture wants *without* the instruction is pushed away.


# %%
def weights(s_image, s_text):
    return 1 - s_image, s_image - s_text, s_text


check("11.1", weights)

# %% [markdown]
# **2.** The text is missing where r < 2p.

# %%
check("11.2", 2 * .08)


# %% [markdown]
# **3.** Variances add: σ_up² = σ′² − σ_down² = σ′² (σ² − σ′²)/σ².

# %%
def sigma_up(sigma, sigma_next):
    return (sigma_next ** 2 - (sigma_next ** 2 / sigma) ** 2) ** .5


check("11.3", sigma_up)
