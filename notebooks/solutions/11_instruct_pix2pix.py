# %% [markdown]
"""
# Solutions of 11 · InstructPix2Pix
"""

# %%
from palimpsest.notebooks.exercises import check

# %% [markdown]
# **1. The other order.** Each factor of $p(z)\,p(c_T \mid z)\,p(c_I \mid c_T, z)$ becomes a difference of two predictions. The
# network must then be able to read an instruction without a picture: the dropping of section 5 trains it for that in 5 % of
# the cases. The authors chose the picture first.


# %%
def other_order(none, text, full, s_image, s_text):
    return none + s_text * (text - none) + s_image * (full - text)


check("11.1", other_order)

# %% [markdown]
# **2. Without guidance by the instruction** the answer is (c). $e(c_I, \varnothing)$ predicts the mean over all edits, but
# a run of the sampler *samples*: as the noise falls the state decides for one of them, and the prediction follows. Six of the
# sixteen pictures of section 4 stayed as they were; the others came back edited.

# %%
check("11.2", "c")

# %% [markdown]
# **3. The open project** has no single answer. A sketch: draw `scene`, choose two edits of different things from
# `edits(scene)`, apply them in both orders with `apply`, and score with `reader.right(picture, attributes(after))`. State
# what you expect before you run: is the success of two passes the product of the single ones, and what does a further pass
# through the autoencoder cost outside the changes?
