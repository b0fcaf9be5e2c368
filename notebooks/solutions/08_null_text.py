# %% [markdown]
"""
# Solutions of 05 · Null-text Inversion
"""

# %%
from palimpsest.notebooks.exercises import check

# %% [markdown]
# **1.** ε_∅ + w (ε_C − ε_∅) = ε̂*, solved for ε_∅: (w ε_C − ε̂*)/(w − 1). With a large w it is ε_C itself, whatever
# the pivot: that is negative-prompt inversion.


# %%
def silence(eps_c, eps_true, w):
    return (w * eps_c - eps_true) / (w - 1)


check("08.1", silence)

# %% [markdown]
# **2.** The pivot asks 50 times. Each step down asks once for ε_C, ten times for ε_∅ while it is tuned, and twice to
# walk on: 13. In all 50 + 50 · 13 = 700, of which 500 are followed by a backward pass.

# %%
check("08.2", 50 + 50 * (1 + 10 + 2))


# %% [markdown]
# **3.** Guidance multiplies ε_∅ by 1 − w, the step multiplies ε̂ by √(1−ᾱ_s) − √(ᾱ_s/ᾱ_t) √(1−ᾱ_t) (Eq. 17). The
# gradient of Eq. (21) has this number as a factor: small where steps are small, and 0 at w = 1.

# %%
def pull(abar_t, abar_s, w):
    return (1 - w) * ((1 - abar_s) ** .5 - (abar_s / abar_t) ** .5 * (1 - abar_t) ** .5)


check("08.3", pull)
