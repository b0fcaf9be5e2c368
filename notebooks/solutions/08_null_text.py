# %% [markdown]
"""
# Solutions of 08 · Null-text inversion
"""

# %%
from palimpsest.notebooks.exercises import check

# %% [markdown]
# **1.** ε_∅ + w (ε_C − ε_∅) = ε̂*, solved for ε_∅: (w ε_C − ε̂*)/(w − 1). For a large w it is ε_C itself, whatever the pivot: that
# is negative-prompt inversion.


# %%
def empty_prediction(eps_c, eps_true, w):
    return (w * eps_c - eps_true) / (w - 1)


check("08.1", empty_prediction)

# %% [markdown]
# **2.** One, (b). With ∅ = C the guided step is the step at w = 1, which is off the pivot only by the error of the inversion. The
# loop looks at the loss after an update (as the official program does), so one update is made, needed or not.

# %%
check("08.2", "b")

# %% [markdown]
# **3. The open project** has no single answer. Expect the reconstruction to work: at w = 7.5 the prompt's prediction has the weight 7.5,
# against −6.5 of the empty one. The edit is the question. Prompt-to-Prompt takes the maps of the source's words, and a tuned C
# no longer has words in the usual sense. The paper tried it and reports weaker edits; measure whether that holds here.
