# %% [markdown]
"""
# Solutions of 02 · Train a diffusion model
"""

# %%
from palimpsest.notebooks.exercises import check

# %% [markdown]
# **1.** $x_t=\sqrt{\bar\alpha}\,x_0+\sqrt{1-\bar\alpha}\,\varepsilon$, solved for ε. At t = 0 this divides by zero: there is no
# noise to be read off a clean picture.


# %%
def eps_of(x_t, x_0_hat, abar):
    return (x_t - abar ** .5 * x_0_hat) / (1 - abar) ** .5


check("02.1", eps_of)

# %% [markdown]
# **2.** $x_t-\varepsilon=\sqrt{\bar\alpha}\,x_0+(\sqrt{1-\bar\alpha}-1)\,\varepsilon$, two independent parts, so the loss is
# $\bar\alpha+(1-\sqrt{1-\bar\alpha})^2$. Near T it is almost 0: there the input *is* the noise, and returning it is a very
# good answer that has learnt nothing. A low loss at large t proves little.

# %%
answer = .25 + (1 - .75 ** .5) ** 2
check("02.2", answer)

# %% [markdown]
# **3.** After 100 steps $0.99^{100}=37$ % of the old average is left, and 63 % came in since.

# %%
answer = 1 - .99 ** 100
check("02.3", answer)
