# %% [markdown]
"""
# Solutions of 03 · Guidance
"""

# %%
from palimpsest.notebooks.exercises import check

# %% [markdown]
# **1.** $\varepsilon_c+3(\varepsilon_\emptyset-\varepsilon_c)=3\varepsilon_\emptyset-2\varepsilon_c$, which is the right line with w = −2:
# guidance *away* from class A. The samples crowd at the far rim of class B.

# %%
check("03.1", 1 - 3)


# %% [markdown]
# **2.** p(x) p(c | x)^w ∝ p(x)^(1−w) p(x | c)^w: a product of powers of Gaussians, whose precisions add with the powers
# as weights. With w > 1 the first weight is negative: the peak lies *beyond* μ_c, on the far side from μ_0.

# %%
def peak(mu_0, s_0, mu_c, s_c, w):
    a, b = (1 - w) / s_0 ** 2, w / s_c ** 2
    return (a * mu_0 + b * mu_c) / (a + b)


check("03.2", peak)


# %% [markdown]
# **3.** x̂_0 = (x_t − √(1−ᾱ) ε̂)/√ᾱ, so taking √(1−ᾱ) g from ε̂ adds (1−ᾱ)/√ᾱ g: much at high noise, little at low.

# %%
def moved(abar):
    return (1 - abar) / abar ** .5


check("03.3", moved)
