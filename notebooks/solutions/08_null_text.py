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
# **2.** Still ten, (a). With ∅ = C the guided step is the step at w = 1, and that is off the pivot by the inversion's own error: a mean
# square of 0.025 in these long steps, far above the tolerance of 10⁻⁵. But the updates start closer: the walk ends at 0.003 from the
# pivot, where the one that started from the empty prompt ends at 0.03.

# %%
check("08.2", "a")

# %% [markdown]
# **3. The open project** has no single answer. Expect the reconstruction to work: at w = 7.5 the prompt's prediction has the weight 7.5,
# against −6.5 of the empty one. The edit is the question. Prompt-to-Prompt takes the maps of the source's words, and a tuned C
# no longer has words in the usual sense. Measure whether it can still be edited.
