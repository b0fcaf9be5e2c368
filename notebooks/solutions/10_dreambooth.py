# %% [markdown]
"""
# Solutions of 08 · DreamBooth
"""

# %%
from palimpsest.notebooks.exercises import check

# %% [markdown]
# **1.** By SNR = ᾱ/(1−ᾱ) = 0.2/0.8.

# %%
check("10.1", .2 / .8)


# %% [markdown]
# **2.** A is r × width, B is out × r.

# %%
def numbers(width, out, r):
    return r * (width + out)


check("10.2", numbers)

# %% [markdown]
# **3.** Each step sees four pictures of the subject and four of the class.

# %%
check("10.3", 400 * (4 + 4))
