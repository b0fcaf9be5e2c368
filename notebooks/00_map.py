# %% [markdown]
"""
# 00 · A map of editing with diffusion models

A diffusion model learns to remove noise. Nobody trained it to edit. Yet since 2021 a dozen methods have turned it into an
editor, and each answers the same two questions differently: **who says what should change**, and **who keeps the rest**.
This lesson shows them all on one picture, before the other lessons build them one by one.

**What you will learn**
1. what each method is given: a mask, a caption, two captions, an instruction, a few pictures to learn from;
2. what each method keeps, and by which means;
3. how to judge an edit when the true result is known;
4. where the methods stand in time, and which came after them.

**What you need**: Python, some PyTorch, and the idea of a neural network; means, variances and the Gaussian density. No GPU.
About 45 minutes, of which the cells take two. The whole course takes about 14 × 45 minutes.

**How to use the notebooks.** A sentence that begins with **Claim** is checked by an `assert` in the cell below it. Change a
number, run the cell again, and see whether the claim still holds. Sections marked *deeper* are optional. Each exercise says
whether your answer is right, and each has two hints.
"""

# %% [markdown]
# ## Symbols
#
# The letters that every lesson uses. Each lesson begins with a table of its own.
#
# | in the paper | here | in code | meaning | shape or range |
# |---|---|---|---|---|
# | $x$, $x_0$ | $x_0$ | `x` | a clean picture, or its latent | (b, 3, 64, 64) in [−1, 1]; latents (b, 8, 16, 16) |
# | $x_t$, $z_t$ | $x_t$ | `x_t`, `z` | the same under noise | as $x_0$ |
# | $\epsilon_\theta$ | $\varepsilon_\theta$ | `model.eps` | the network: it predicts the noise | as $x_t$ |
# | $\bar\alpha_t$ | $\bar\alpha_t$ | `schedule.at(t)` | how much of the picture is left | 1 (clean) to about 0 |
# | $t$ | $t$ | `t` | the time, or noise level | 0 … T = 1000 |
# | $c$, $\mathcal P$ | $c$ | `prompt` | a text | – |
# | $w$, $s$ | $w$ | `w` | the guidance scale: how strongly the text counts | 1 (no guidance) to about 8 |

# %%
import torch

from palimpsest.notebooks import plots
from palimpsest.weights.load import load

plots.begin()
model = load("shapes", "cpu", torch.float32)

# %% [markdown]
# ## 1. The one idea
#
# Noise destroys the details of a picture first and its layout last. A diffusion model walks the other way: it starts from a
# noisy picture and removes the noise in small steps. At each step it decides about details that the noise has hidden. **So
# whoever adds noise to a picture gives the model room to repaint, and the amount of noise says how much room.**

# %%
from palimpsest.claims.common import draw_edits
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.noise import Rng

drawn = draw_edits(16, ("recolour",), 100, things=2)
x, levels = drawn.before[:1], (0, 200, 400, 600, 800, 980)
z = Rng([3]).randn((1, *model.latent_shape))
noisy = [model.decode(q_sample(model.schedule, model.encode(x), t, z)) for t in levels]
plots.pictures([noisy], above=[f"t = {t}" for t in levels], side=1.1);

# %% [markdown]
# **Figure 00.1.** A picture under more and more noise, each latent decoded. At t = 200 ground and edges are blotched, and both things are plain. At t = 400 one
# still sees two things and their colours; at 600 one sees that something is there; at 980 nothing is left of the picture, and
# a walk from there would paint a new one.

# %% [markdown]
# ## 2. One picture, every method
#
# All methods get the same picture and the same wish. What differs is the form of the wish.

# %%
from palimpsest.methods.diffedit import diffedit
from palimpsest.methods.flow_edit import flow_edit
from palimpsest.methods.sdedit import sdedit

was, wish, mask = drawn.source[0], drawn.target[0], drawn.changed[:1]
made = {"SDEdit": sdedit(model, x, wish, t0=.6, steps=20, w=3.).picture}
made["DiffEdit"] = diffedit(model, x, was, wish, steps=20, ratio=.8, w=3.).picture
made["FlowEdit"] = flow_edit(model, x, was, wish, start=.85, w_source=1.5, w_target=3.).picture
print(f"from “{was}” to “{wish}”")

# %%
from palimpsest.methods.prompt_to_prompt import prompt_to_prompt
from palimpsest.methods.variants import edit_friendly

up = edit_friendly(model, x, was, steps=20, w=3.)
made["P2P, edit-friendly"] = prompt_to_prompt(model, was, wish, start=up, w=3.).picture

# %%
from palimpsest.methods.null_text import null_text

up = null_text(model, x, was, steps=10, w=3., solver="gauss-newton", start="prompt", stop=1e-5)
made["P2P, null-text"] = prompt_to_prompt(model, was, wish, start=up, w=3.).picture

# %%
from palimpsest.methods.glide import inpaint
from palimpsest.methods.instruct_pix2pix import instruct_pix2pix
from palimpsest.worlds.shapes import instruction

told = instruction(drawn.scenes[0], drawn.edits[0])
NAMES = ("shapes-instruct", "shapes-glide-inpaint", "shapes-glide-upsampler-inpaint")
teller, filler, upsampler = (load(name, "cpu", torch.float32) for name in NAMES)
scales = dict(s_text=2., s_image=1.2)
made["InstructPix2Pix"] = instruct_pix2pix(teller, x, told, steps=20, **scales).picture
made["GLIDE"] = inpaint(filler, x, mask, wish, upsampler=upsampler, steps="25").picture

# %%
from palimpsest.metrics.image import psnr
from palimpsest.weights.judges import load_reader

true = drawn.after[:1]
marks = {n: f"{psnr(picture.cpu(), true).item():.1f} dB" for n, picture in made.items()}
first, second = list(made)[:4], list(made)[4:]
rows = [[x, *(made[n] for n in first)], [true, *(made[n] for n in second)]]
below = [["the picture", *(f"{n}, {marks[n]}" for n in first)],
         ["the true edit", *(f"{n}, {marks[n]}" for n in second)]]
plots.pictures(rows, below=below, side=1.35);

# %% [markdown]
# **Figure 00.2.** The wish is printed under the first of the cells. The number is the PSNR to the true edit: higher is nearer. All of them
# change the right thing here; look at what they do to the *rest*. SDEdit repaints everything: the cross gets another outline,
# and other dots. DiffEdit and GLIDE paste back what lies outside a mask, one that was found and one that was given; DiffEdit's
# mask missed the tips, which stay orange, and GLIDE paints a cross of its own into the hole. Prompt-to-Prompt (on edit-friendly
# and on null-text inversion) and FlowEdit have no mask: what they keep, they keep because their walk stays near the picture's
# own. InstructPix2Pix has learned from pairs what to leave alone. One picture proves nothing; section 4 counts.

# %% [markdown]
# ## 3. Who says what changes, who keeps the rest
#
# | method | you give | what keeps the rest | lesson |
# |---|---|---|---|
# | SDEdit (2021) | a guide picture, a caption | little noise | 04 |
# | GLIDE (2021) | a mask, a caption | the mask; a model trained to fill holes | 09 |
# | Text2LIVE (2022) | two captions, a text for the layer | a layer with opacity; no diffusion model at all | 12 |
# | Prompt-to-Prompt (2022) | two captions | the attention of the first walk | 07 |
# | DreamBooth, Textual Inversion (2022) | three to five pictures of one thing | nothing is kept: the thing is learned as a word | 10 |
# | DiffEdit (2022) | two captions | a mask that the model finds; inversion | 06 |
# | null-text inversion (2022) | a picture, its caption | an inversion that survives guidance | 05, 08 |
# | InstructPix2Pix (2022) | an instruction | training on pairs | 11 |
# | FlowEdit (2024) | two captions | a walk between two walks, without inversion | 12 |

# %%
fig, (ax,) = plots.panels(1, height=3.2)
DATES = {"DDPM": 20.46, "DDIM": 20.76, "SDEdit": 21.58, "GLIDE": 21.96, "Text2LIVE": 22.25,
         "classifier-free guidance": 22.56, "Textual Inversion": 22.58, "DreamBooth": 22.65,
         "Prompt-to-Prompt": 22.60, "DiffEdit": 22.80, "null-text inversion": 22.87,
         "InstructPix2Pix": 22.88, "ControlNet": 23.11, "IP-Adapter": 23.61,
         "flow matching at scale (SD 3)": 24.17, "FlowEdit": 24.94, "FLUX Kontext": 25.46}
for k, (name, year) in enumerate(sorted(DATES.items(), key=lambda item: item[1])):
    ax.plot([2000 + year], [-k], "o", color="#0072b2")
    ax.text(2000 + year + .08, -k, name, va="center", fontsize=plots.SMALL)
ax.set(yticks=[], xlim=(2020.2, 2027.2), xticks=range(2020, 2027));

# %% [markdown]
# **Figure 00.3.** First versions on arXiv. The first twelve lessons, 00 to 11, end with the
# crowd of 2022. Two lines lead on from there: *control*, which adds inputs to a frozen model (ControlNet, IP-Adapter), and
# *flow matching*, which draws the walk as a straight line (SD 3, FLUX) and trains editors such as Kontext on pairs, as
# InstructPix2Pix did.

# %% [markdown]
# ## 4. Counting instead of admiring
#
# In the shapes world the true edit is known, and a reader network says whether a picture shows what was asked for. So two
# numbers can be measured: **how often the wish is fulfilled**, and **how much of the rest is kept** (PSNR outside the region
# that the true edit changes).
#
# **Claim.** On sixteen recolourings SDEdit at t₀ = 0.6 keeps less of the rest than FlowEdit, and FlowEdit less than
# DiffEdit, which pastes the rest back. Both differences of the means are above 2 dB, and above twice their standard error.

# %%
some, given = drawn.before, (drawn.source, drawn.target)
flowed = flow_edit(model, some, *given, start=.85, w_source=1.5, w_target=3.).picture
found = diffedit(model, some, *given, steps=20, ratio=.8, w=3.).picture
edits = {"SDEdit": sdedit(model, some, given[1], t0=.6, steps=20, w=3.).picture,
         "DiffEdit": found, "FlowEdit": flowed}
kept = {name: psnr(e, some, 1 - drawn.changed).clamp(max=60) for name, e in edits.items()}
right = {name: int(load_reader().right(e, drawn.wanted).sum()) for name, e in edits.items()}
print(*(f"{n}: {right[n]} of 16 right, {kept[n].mean():.1f} dB kept" for n in edits), sep="\n")
for more, less in (("FlowEdit", "SDEdit"), ("DiffEdit", "FlowEdit")):
    gain = kept[more] - kept[less]
    assert gain.mean() > max(2, 2 * gain.std() / 4)

# %%
from palimpsest.notebooks.intervals import mean_interval, share_interval

fig, (left, rest) = plots.panels(2, height=1.9)
spread = {n: share_interval(k, 16) for n, k in right.items()}
plots.dots(left, {n: k / 16 for n, k in right.items()}, spread)
plots.dots(rest, {n: v.mean().item() for n, v in kept.items()},
           {n: mean_interval(v) for n, v in kept.items()})
left.set(title="wish fulfilled (share, 95 %)", xlim=(0, 1))
rest.set(title="kept outside (dB, 95 %)");

# %% [markdown]
# **Figure 00.4.** Success on the left, what is kept on the right, each with its 95 % interval. The intervals of sixteen pictures are
# wide, so the left panel ranks nobody; the right one does. A method is judged by both numbers together: a method that does
# nothing keeps everything.

# %%
worst = {name: int(psnr(e, drawn.after).argmin()) for name, e in edits.items()}
rows = [[of[k : k + 1] for of in (some, edits[n], drawn.after)] for n, k in worst.items()]
names = ("given", "the edit", "the true edit")
plots.pictures(list(zip(*rows)), left=names, above=list(worst), side=1.2);

# %% [markdown]
# **Figure 00.5.** The worst of the sixteen for each method, by distance to the true edit. Failures look different: SDEdit
# has lost the triangle; DiffEdit's mask cuts into the ground and misses an edge, where old yellow stays; FlowEdit has the colour
# right and bends the outlines. Each of the next lessons explains its own.

# %% [markdown]
# ## Where this breaks
#
# | symptom | cause | what to change |
# |---|---|---|
# | nothing changes | too little noise, or too little guidance | more noise (`t0`, `ratio`, `start`), or a higher `w` |
# | everything changes | too much noise | less noise; a mask; a method that stays near the picture |
# | the wrong thing changes | the text does not bind the word to the thing | a mask; other words; lesson 11 on "remove" |
# | colours burn, outlines fray | guidance too high | a lower `w`; lesson 03 |
# | it never looks like your photograph | the shipped models know shapes and emoji only | the section below |

# %% [markdown]
# ## On Stable Diffusion
#
# The same functions edit photographs with public weights. The cell runs on a GPU with the weights named; elsewhere it says
# what is missing. It has not been run here. Expect what the papers show: a blue flower from both, on a background that
# SDEdit redraws and DiffEdit keeps.

# %%
from palimpsest.claims.page import RECORDS
from palimpsest.notebooks.public import public_model
from palimpsest.worlds.files import read_picture

large = public_model("stable-diffusion-v1-5")
if large is not None:
    photo = read_picture(RECORDS / "hand" / "flower.jpg", size=large.size, grid=large.grid)
    words = ("a photo of an orange flower", "a photo of a blue flower")
    results = sdedit(large, photo, words[1], t0=.6), diffedit(large, photo, *words)
    plots.pictures([[photo, *(e.picture for e in results)]]);

# %% [markdown]
# ## Glossary
#
# *Latent*: what an autoencoder makes of a picture; the model works there. · *Noise level*: t, σ or $\bar\alpha$, three names of
# one thing (lesson 01). · *Walk*: the sequence of denoising steps. · *Guidance*: to lean the walk towards a text (03). ·
# *Inversion*: to find the noise from which the walk leads to a given picture (05). · *Attention map*: where a word looks (07).
# · *Prior term*: pictures of the class that keep a model from forgetting it (10). · *True edit*: the picture that a perfect
# editor would return; our worlds can draw it.
#
# **To read on**: flow matching (arXiv:2210.02747), ControlNet (arXiv:2302.05543), IP-Adapter (arXiv:2308.06721), SD 3
# (arXiv:2403.03206), FlowEdit (arXiv:2412.08629), FLUX.1 Kontext (arXiv:2506.15742).

# %% [markdown]
# ## Exercises
#
# Solutions are in [`notebooks/solutions/00_map.py`](solutions/00_map.py).
#
# **1. Code: judge an edit.** Write `kept_outside(edit, before, changed)`: the PSNR of an edit to the picture before, over the
# pixels where `changed` is 0. Pictures lie in [−1, 1], so the largest difference is 2. Return a number.
#
# <details><summary>Hint 1</summary>PSNR is 10 log₁₀(4 / mean square difference).</details>
# <details><summary>Hint 2</summary>The mean runs over the kept pixels only, and over three channels:
# weight the squares by 1 − changed and divide by three times its sum.</details>

# %%
from palimpsest.notebooks.exercises import check


def kept_outside(edit, before, changed):
    """PSNR outside the changed region: a number."""
    raise NotImplementedError


check("00.1", kept_outside)

# %% [markdown]
# **2. Predict, then run.** Somebody returns the given picture untouched and calls it an edit. What is its PSNR outside the
# changed region: 0, 30, or infinite (`math.inf`)? And what does that say about judging by this number alone?
#
# <details><summary>Hint 1</summary>What is the mean square difference of a picture to itself?</details>
# <details><summary>Hint 2</summary>Now divide 4 by it.</details>

# %%
answer = None                                                  # a number
check("00.2", answer)

# %% [markdown]
# **3. Open project.** Draw a thing with a few strokes, photograph it, and edit it with three methods of section 3, each at
# three settings. Which method would you show a friend, and which number of section 4 agrees with you?
#
# <details><summary>Hint 1</summary>`palimpsest sweep` makes the sheets: its help has two examples.</details>
# <details><summary>Hint 2</summary>There is no true edit of your drawing: say what you compare with instead.</details>

# %% [markdown]
# ## Quiz
#
# **1.** Why can a model that was only trained to remove noise edit pictures?
# <details><summary>Answer</summary>Noise hides details. Removing it means deciding about them again, and a text can steer that
# decision.</details>
#
# **2.** Which two questions does every editing method answer?
# <details><summary>Answer</summary>Who says what should change, and who keeps the rest.</details>
#
# **3.** DiffEdit and GLIDE both keep what lies outside a mask. What is the difference?
# <details><summary>Answer</summary>GLIDE is given the mask. DiffEdit finds it: it is where the model's predictions under two
# captions disagree.</details>
#
# **4.** Which method uses no diffusion model at all?
# <details><summary>Answer</summary>Text2LIVE: it trains a small network on the one picture so that CLIP agrees.</details>
#
# **5.** Why is the share of fulfilled wishes not enough to judge a method?
# <details><summary>Answer</summary>A method may fulfil the wish by painting a new picture. What is kept has to be measured,
# too.</details>

# %% [markdown]
# ## Three things to take away
#
# 1. Noise gives the model room to repaint; how much noise says how much room.
# 2. Every method says who decides about the change and who keeps the rest. Masks, inversion, attention and training are four
#    answers to the second question.
# 3. An edit is judged by two numbers together: is the wish fulfilled, and what became of the rest.
#
# The next lesson asks: **what exactly is a step that removes noise?**
