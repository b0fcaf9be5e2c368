# %% [markdown]
"""
# 04 · SDEdit: add noise, then denoise

A child's painting of a house and a photograph of a house agree in layout and differ in detail. Noise hides detail
first. SDEdit (Meng et al., arXiv:2108.01073v2) adds enough noise to hide that the painting is a painting, and lets a
diffusion model, which knows only good pictures, remove the noise again. Nothing is trained and nothing is optimised.
There is one setting, t₀: how much noise is added.

**What you will learn**
1. to write SDEdit in twelve lines, and to check them against the library to the bit;
2. what comes out, as a formula, in a world where everything can be computed;
3. the trade between realism and faithfulness that t₀ sets, and how to find a t₀;
4. why the t₀ of one SDE is not the t₀ of another, and what to compare instead;
5. masks that keep the rest of the picture to the bit, and where the method breaks.

**What you need**: lessons 01 (noise and samplers) and 03 (guidance); the models `shapes` and `shapes-reader` in
`weights/`. About 45 minutes, without a GPU. Sections marked *deeper* are optional. A paragraph that begins with
**Claim** is checked by an `assert` in the cell below it.
"""

# %% [markdown]
# ## Symbols
#
# | in the paper | here | in code | meaning | shape or range |
# |---|---|---|---|---|
# | x⁽ᵍ⁾ | g | `guide` | the guide: a painting, a collage | (b, 3, y, x) in [−1, 1] |
# | x(t) | x_t | `x` | the noisy latent at time t | (b, c, y', x') |
# | t₀ | t₀ | `t0` | where the walk starts, as a share of all times | (0, 1] |
# | α(t), σ(t) | ᾱ_t, σ_t | `abar[t]`, `schedule.sigma(t)` | share of the signal that is left; noise relative to it | (0, 1]; ≥ 0 |
# | s_θ | ε̂ | `eps` | the net's answer: s_θ = −ε̂/√(1 − ᾱ) | like x_t |
# | z | z | `z` | fresh noise from N(0, I) | like x_t |
# | N, K | N, K | `steps`, `repeats` | steps of a walk; rounds of it | whole numbers |
# | Ω | Ω | `mask` | 1 = edit here, 0 = keep | (b, 1, y, x) |

# %%
import random

import torch

from palimpsest.notebooks import plots
from palimpsest.weights.judges import load_reader
from palimpsest.weights.load import load

plots.begin()
model, reader = load("shapes", "cpu"), load_reader("shapes-reader")
STEPS, W = 10, 3.0  # steps of a walk; guidance scale

# %%
from palimpsest.claims.page import RECORDS as FIGURES
from palimpsest.samplers.noise import Rng
from palimpsest.worlds.files import read_picture

painting = read_picture(FIGURES / "hand" / "star.png", size=model.size)
prompt = "a large yellow star on a blue background"
text, empty = model.embed(prompt), model.embed("")
abar, rng = model.schedule.abar, Rng.of(1)  # ᾱ_0 = 1 … ᾱ_1000; the noise of seed 1

# %% [markdown]
# ## The method, from nothing
#
# The paper gives the method for two SDEs: Algorithm 1 for the variance-exploding one (VE), Algorithm 4 for the
# variance-preserving one (VP). Our model was trained on VP, so this is Algorithm 4, in the latents of an autoencoder.
# The painting is from `figures/hand`, t₀ = 0.6. Two lines are old acquaintances: guidance (lesson 03), and the
# ancestral step of DDPM (lesson 01), here from any t to any s < t.

# %%
@torch.no_grad()
def from_nothing(guide, t0=600, steps=20, w=3.0):
    x, times = model.encode(guide), torch.linspace(t0, 0, steps + 1).round().int().tolist()
    # Alg. 4 l. 2:  x ← √ᾱ_{t0} g + √(1 − ᾱ_{t0}) z
    x = abar[t0] ** 0.5 * x + (1 - abar[t0]) ** 0.5 * rng.randn(x.shape, x)
    for t, s in zip(times, times[1:]):  # Alg. 4 l. 3:  n = N … 1
        z = rng.randn(x.shape, x)  # Alg. 4 l. 4:  z ~ N(0, I)
        eps_0, eps_c = model.eps(torch.cat([x, x]), t, torch.cat([empty, text])).chunk(2)
        eps = eps_0 + w * (eps_c - eps_0)  # Eq. (7):  ε̂ = ε_∅ + w (ε_c − ε_∅)
        beta = 1 - abar[t] / abar[s]  # Alg. 4 l. 5, 6:  x ← (x + β s_θ)/√(1 − β) + √β̃ z
        mean = (1 - beta) ** -0.5 * x - beta / ((1 - abar[t]) * (1 - beta)) ** 0.5 * eps
        x = mean + ((1 - abar[s]) / (1 - abar[t]) * beta) ** 0.5 * z
    return model.decode(x)

# %% [markdown]
# That is the whole method. `methods/sdedit.py` adds the mask, the repeats, the VE walk and the checks of its arguments.
# (β̃, the variance of the posterior, stands where Algorithm 4 prints β: so does the authors' program, and with it the
# last step adds no noise.)
#
# **Claim.** The cell and the library give the same picture, to the bit.

# %%
from palimpsest.methods.sdedit import sdedit

mine = from_nothing(painting)
edit = sdedit(model, painting, prompt, t0=0.6, steps=20, w=3.0, seed=1)
assert torch.equal(mine, edit.picture)

# %%
sigmas = [model.schedule.sigma(t) for t in edit.levels]
shown = (0, 4, 8, 12, 16, 20)
walk = [painting, *(model.decode(edit.path[k]) for k in shown)]
_ = plots.pictures([walk], above=["the painting", *(f"σ = {sigmas[k]:.2f}" for k in shown)])

# %% [markdown]
# **Figure 04.1.** *The walk of `from_nothing`, each latent decoded.* At σ = 1.39 only a blot is left of the star. On
# the way down the star comes back where it was painted: place, size and colours are the painting's, the regular
# outline and the even shading are the model's. Open the paper at Fig. 2: there the same walk is drawn with a
# distribution of paintings and one of photographs. Noise widens both until they overlap, and the way back from the
# overlap leads to a photograph.

# %% [markdown]
# ## 1. What comes out, as a formula
#
# In a Gaussian world, x₀ ~ N(μ, s²) for each pixel, the exact result is known. Let the walk start at the noise level σ,
# and let $k = s^2/(s^2+\sigma^2)$. Then the edit is Gaussian too:
#
# $$\text{mean } \mu + k\,(g-\mu), \qquad \text{variance } k\,(1+k)\,\sigma^2.$$
#
# *Derivation.* The noised guide is g + σz. Given a noisy x, the reverse SDE draws from the posterior of x₀, which is
# N(μ + k(x − μ), kσ²). Put in x = g + σz: the mean becomes μ + k(g − μ), and the variances add up to kσ² + k²σ².
#
# So k is **how much of the painting survives**. At σ = 0 all of it, without any variety. For σ ≫ s nothing: the result
# is a sample of the world. At σ = s half of the painting is forgotten.

# %%
from palimpsest.notebooks.perfect import perfect_model
from palimpsest.samplers.schedule import Schedule
from palimpsest.worlds.gaussian import GaussianWorld

mu, s, g = 0.3, 0.25, 0.9
world = GaussianWorld({"": torch.full((1, 1, 1), mu)}, s)
perfect = perfect_model(world, Schedule.cosine(), size=64)  # its net is the formula for ε*
guide = torch.full((2, 3, 64, 64), g, dtype=torch.float64)

def closed(sigma):
    k = s**2 / (s**2 + sigma**2)
    return mu + k * (g - mu), k * (1 + k) * sigma**2

# %% [markdown]
# **Claim.** `sdedit` on the perfect model lies on the formula, on both walks: the mean within 0.02, the variance
# within 15 %. (What is left is the error of 100 steps: at the deep end the VP walk is 11 % too narrow and the VE walk
# 7 % too wide, see lesson 01.)

# %%
t0s, points = (0.1, 0.25, 0.4, 0.55, 0.7, 0.9), {}
for walk in ("vp", "ve"):
    edits = [sdedit(perfect, guide, t0=t0, walk=walk, steps=100, seed=3) for t0 in t0s]
    points[walk] = [(e.sigma, e.raw.mean().item(), e.path[-1].var().item()) for e in edits]
for sigma, mean, var in points["vp"] + points["ve"]:
    assert abs(mean - closed(sigma)[0]) < 0.02 and abs(var / closed(sigma)[1] - 1) < 0.15

# %%
fig, (left, right) = plots.panels(2, height=2.6)
for name, mark in (("vp", "o-"), ("ve", "^-")):
    sigmas, means, _ = zip(*points[name])
    left.plot(t0s, means, mark, label=f"{name.upper()} walk")
    right.plot(sigmas, means, mark[0], label=f"{name.upper()} walk")
fine = torch.logspace(-2, 1.5, 100).tolist()
right.semilogx(fine, [closed(v)[0] for v in fine], color="grey", zorder=0, label="formula")
left.set(title="mean of the edit over t₀", xlabel="t₀", ylabel="guide .9, world .3")
right.set(title="the same over σ", xlabel="σ at t₀")
_ = left.legend(), right.legend()

# %% [markdown]
# **Figure 04.2.** *The mean of the edit, from the guide (0.9) to the world (0.3).* Over t₀ the two walks are two
# curves; over σ all points lie on one, the formula. **t₀ is a position on a schedule, σ is what the picture feels.** A
# t₀ copied from a paper that used another SDE means nothing until it is translated to σ. `Edit.sigma` says it.

# %% [markdown]
# ## 2. Strokes to pictures
#
# Sixteen scenes that no training saw. `strokes` paints each one crudely: flat colour, wobbly outline, no texture,
# approximate sizes. The caption tells the model what it is looking at. In this world a *reader* can judge pictures: it
# names shape, colour, size and texture of each thing and the background. "All right" means that every attribute of the
# caption is there.

# %%
from palimpsest.worlds.shapes import attributes, caption, render, sample_scene, strokes

rng = random.Random("lesson 04")
scenes = [sample_scene(rng, things=1 + k % 2) for k in range(16)]
guides = strokes(scenes, torch.Generator().manual_seed(1))
told, wanted = [caption(v) for v in scenes], [attributes(v) for v in scenes]
sweep = {}
for t0 in (0.2, 0.4, 0.6, 0.8, 0.95):
    sweep[t0] = sdedit(model, guides, told, t0=t0, steps=STEPS, w=W, seed=5).picture

# %%
some = slice(0, 6)
rows = [guides[some], sweep[0.6][some], render(scenes)[some]]
left = "painted", "SDEdit, t₀ = 0.6", "the scene"
_ = plots.pictures(rows, left=left, below=([], [], told[some]))
right = {t0: int(reader.right(v, wanted).sum()) for t0, v in sweep.items()}
print("all right, of 16:", "; ".join(f"{n} at t₀ = {t0}" for t0, n in right.items()))

# %% [markdown]
# **Figure 04.3.** *Strokes, what SDEdit makes of them, and the scenes from which the strokes were painted.* Places,
# sizes and colours follow the strokes; outlines become regular, and dots and stripes appear where the caption names
# them. Failures: the heart (fourth) is blotched instead of striped, and the white flower (sixth) has a grey band instead
# of dots. The shading of the ground is the model's own invention, since neither strokes nor caption describe it. Of the
# sixteen, 14 are all right at t₀ = 0.4 to 0.8. With an interval of 64 to 97 %, so few pictures say little about which
# t₀ is best.

# %% [markdown]
# ## 3. One setting: realism against faithfulness
#
# The same painting and the *same noise* at each t₀, so that only the depth changes. Move the slider (on the page: read
# from left to right).

# %%
from palimpsest.claims.draw.style import show


def draw(ax, t0, k=3):
    show(ax, sweep[t0][k])


plots.explore(draw, {"t0": tuple(sweep)})

# %% [markdown]
# **Figure 04.4.** *One painting at five depths.* At 0.2 the outline is still the brush's, with its bumps. From 0.4 to
# 0.8 heart and cross become more regular and stay where they were. At 0.95 the layout itself has moved: the cross
# stands higher, and the heart is another heart. In all five the heart is spotted and not striped: a deeper start does
# not repair what the model is bad at.
#
# Open the paper at Fig. 3: there two numbers are plotted over t₀ for bedrooms. The distance to the guide rises (less
# faithful), the KID to real pictures falls (more realistic), and **t₀ between 0.3 and 0.6** is where one gets most for
# least, because the brush strokes are hidden and the layout is not yet. Ours is measured on 64 paintings by
# `python -m palimpsest.claims C1 C2`; bands are 95 % intervals.

# %%
import json

from palimpsest.notebooks.intervals import share_band, share_interval

record = json.loads((FIGURES / "sdedit_curve.json").read_text("utf-8"))
rows = record["walks"]["VP, ancestral"]
at = [r["t0"] for r in rows]
rmse_, kid, right = ([r[key] for r in rows] for key in ("rmse", "kid", "right"))
low, high = share_band(right, record["n"])
wide = [1.96 * r["kid_std"] for r in rows]

# %%
fig, axes = plots.panels(3, height=2.4)
plots.curves(axes[0], at, {"64 paintings": rmse_})
near = ([v - d for v, d in zip(kid, wide)], [v + d for v, d in zip(kid, wide)])
plots.curves(axes[1], at, {"KID": kid}, bands={"KID": near}, legend=False)
plots.curves(axes[2], at, {"right": right}, bands={"right": (low, high)}, legend=False)
for ax, title in zip(axes, ("distance to the painting", "KID to real pictures", "all right")):
    ax.axvspan(0.3, 0.6, color="#E8F1F7", zorder=0)
    ax.set(title=title, xlabel="t₀")

# %% [markdown]
# **Figure 04.5.** *Faithfulness, realism and success over t₀; shaded: the paper's band.* Left: every step towards 1
# leads away from the painting. Middle: the KID falls as in the paper (an unbiased estimate may be
# below 0), but 64 pictures leave it uncertain by more than
# the whole fall, so this curve decides nothing. Right: by the reader's verdict the words are obeyed best *beyond* the
# band, at t₀ = 0.8. Our world agrees with the paper about faithfulness, cannot tell about realism, and prefers a
# deeper start: its pictures are simple, and a caption says nearly everything about them. (CLAIMS.md, C1 and C2, has
# the verdicts: "does not hold" and "partly".)
#
# **Claim.** The distance to the painting rises with t₀, in the record and on the sixteen paintings above.
#
# **Claim.** More pictures are all right at t₀ = 0.8 than at 0.3: the intervals do not meet.
#
# **Claim.** The KID cannot decide: the whole fall is less than twice its standard deviation.

# %%
from palimpsest.metrics.image import rmse

moved = [rmse(picture, guides).mean().item() for picture in sweep.values()]
print("sixteen paintings, RMSE:", *(f"{t0:g}: {v:.3f} " for t0, v in zip(sweep, moved)))
assert moved == sorted(moved) and rmse_ == sorted(rmse_)
assert high[at.index(0.3)] < low[at.index(0.8)]
assert max(kid) - min(kid) < 2 * rows[0]["kid_std"]

# %% [markdown]
# **Finding a t₀.** The paper's advice: start in the band, look, ask "more faithful or more realistic?",
# and halve the interval. A person can answer, or a rule such as "this far from the painting". `bisect_t0` takes either
# as a function.

# %%
from palimpsest.methods.sdedit import at_distance, bisect_t0

one = guides[:1]
attempt = lambda t0: sdedit(model, one, told[0], t0=t0, steps=STEPS, w=W, seed=5)
search = bisect_t0(attempt, at_distance(one, 0.08, tolerance=0.03))
reached = rmse(search.edit.picture, one).item()
print("tried t₀ =", *(f"{t0:.3f}" for t0 in search.tried), f"→ RMSE {reached:.4f}")
assert abs(reached / 0.08 - 1) <= 0.03

# %% [markdown]
# In the record, 16 searches of 16 arrive within 5 % of their distance, after 3.3 rounds on average.

# %% [markdown]
# ## 4. Translate σ, not t₀
#
# The shipped net was trained on a VP schedule. By the change of variables of lesson 01 it is a VE score as well, so
# `walk="ve"` runs the paper's Algorithm 1 on the same net. At t₀ = 0.5 the VP walk starts at σ = 1.01 and the VE walk
# at σ = 0.57. Below, the record's 64 paintings once more, this time by both walks.

# %%
fig, (left, right) = plots.panels(2, height=2.5)
for name, mark in (("VP, ancestral", "o-"), ("VE", "^-")):
    rows = record["walks"][name]
    far = [r["rmse"] for r in rows]
    left.plot([r["t0"] for r in rows], far, mark, label=name)
    right.semilogx([r["sigma"] for r in rows], far, mark, label=name)
left.set(title="distance to the painting over t₀", xlabel="t₀")
right.set(title="the same over σ", xlabel="σ at t₀")
_ = left.legend(), right.legend()

# %% [markdown]
# **Figure 04.6.** *Distance to the painting by two walks.* At one t₀ the two walks carry different noise; over σ
# they are nearly one. What is left between them at high σ is the difference of the steps.
#
# **Claim.** At t₀ = 0.5 the VE walk stays closer to the painting than the VP walk, by more than a tenth. At the VE t₀
# that has the same σ they differ by less than a tenth (sixteen paintings).

# %%
import math

low, high = 0.01, model.schedule.sigma(980)  # the VE ladder: σ(t) = low (high/low)^t
vp = sdedit(model, guides, told, t0=0.5, steps=STEPS, w=W, seed=5)
same = math.log(vp.sigma / low) / math.log(high / low)
by = {t0: sdedit(model, guides, told, t0=t0, walk="ve", steps=STEPS, w=W, seed=5)
      for t0 in (0.5, same)}
far = [rmse(e.picture, guides).mean().item() for e in (vp, *by.values())]
print(f"VP .5: {far[0]:.4f}; VE .5: {far[1]:.4f}; VE {same:.3f}, same σ: {far[2]:.4f}")
assert far[1] < 0.9 * far[0] and abs(far[2] / far[0] - 1) < 0.1

# %% [markdown]
# ## 5. A mask keeps the rest
#
# Paint over a *part* of a picture, mark it with Ω = 1, and keep everything else. Algorithms 3 and 5 add one line at
# the end of each step: the kept region is replaced by the original, noised to the level that the walk has reached, so
# that the edit grows into its true surroundings:
#
# $$x \leftarrow \Omega\, x + (1-\Omega)\,(\sqrt{\bar\alpha_s}\,x_0 + \sqrt{1-\bar\alpha_s}\,z).$$
#
# (In the paper the kept part is one noise level behind the edited one. Ours is at the same level.) At the end the
# original's own pixels are pasted, because even the autoencoder alone changes them a little.

# %%
from palimpsest.claims.common import draw_edits
from palimpsest.claims.sdedit import painted_edit

d = draw_edits(16, ("recolour", "reshape", "add"), 11, things=1)
made = [painted_edit(v, e, torch.Generator().manual_seed(3)) for v, e in zip(d.scenes, d.edits)]
painted, mask = (torch.cat(v) for v in zip(*made))
settings = dict(t0=0.7, steps=STEPS, w=W, seed=5)
masked = sdedit(model, painted, d.target, mask=mask, original=d.before, **settings)
free = sdedit(model, painted, d.target, **settings)

# %%
columns = [d.before, painted, 2 * mask - 1, masked.picture, free.picture, d.after]
titles = ("a picture", "painted over", "mask", "in the mask", "no mask", "true edit")
_ = plots.pictures([[c[k] for c in columns] for k in range(3)], above=titles)
for k in range(3):
    print(f"row {k + 1}: “{d.target[k]}”")

# %% [markdown]
# **Figure 04.7.** *A recolouring, a new shape, an added thing; the wishes are printed above.* Fourth column: the edit
# sits in its surroundings, and the pattern of the ground runs up to the mask. Failures: the diamond (first row) has
# blotches instead of stripes, and the added square (third) is pinched at its sides. In the second row a white rim shows
# where the mask ends. Without the mask (fifth column) the grounds are new, which nobody asked for.
#
# **Claim.** Outside the mask the result equals the picture *to the bit*.
#
# **Claim.** Before pasting (`raw`), the masked walk keeps these pixels at least 10 dB better than the walk without a
# mask (mean of sixteen edits), and not to the bit.

# %%
from palimpsest.metrics.image import psnr

keep = 1 - mask
db = [psnr(v, d.before, keep).mean().item() for v in (masked.raw, free.picture)]
done = [int(reader.right(v, d.wanted).sum()) for v in (masked.picture, free.picture)]
print(f"outside: {db[0]:.1f} dB with the mask, {db[1]:.1f} dB without; "
      f"all right {done[0]} and {done[1]} of 16")
assert torch.equal(masked.picture * keep, d.before * keep)
assert db[0] > db[1] + 10 and not torch.equal(masked.raw * keep, d.before * keep)

# %% [markdown]
# ## 6. K rounds (*deeper*)
#
# Algorithm 2 takes the result as the new guide, noises it to the same t₀ and denoises it again, K times. In the
# Gaussian world each round multiplies the distance of the mean from μ by k, so K rounds keep $k^K$ of the painting: as
# far as the mean goes, three shallow rounds are one deeper start.
#
# **Claim.** At t₀ = 0.35 each round leads further from the painting, at K times the evaluations (sixteen paintings;
# a guided step costs two).

# %%
settings = dict(t0=0.35, steps=5, w=W, seed=5)
rounds = {K: sdedit(model, guides, told, repeats=K, **settings) for K in (1, 2, 3)}
far = [rmse(e.picture, guides).mean().item() for e in rounds.values()]
for K, v in zip(rounds, far):
    print(f"K = {K}: RMSE {v:.3f} in {rounds[K].calls} evaluations")
assert far[0] < far[1] < far[2] and rounds[3].calls == 3 * rounds[1].calls

# %% [markdown]
# ## Where this breaks
#
# **Who decides the colour, the paint or the words?** Colour is the coarsest property of all, so it should survive the
# noise. Thirty-two things are painted in a wrong colour. Once the caption names the right one, once there is no
# caption at all.

# %%
from palimpsest.claims.common import choose_edit
from palimpsest.worlds.shapes import apply

things = [sample_scene(random.Random(f"wrong colour {k}"), things=1) for k in range(32)]
chooser = random.Random(1)
painted = [apply(v, choose_edit(v, "recolour", chooser)) for v in things]
strokes_ = strokes(painted, torch.Generator().manual_seed(4))
captions, named = [caption(v) for v in things], [v.things[0].colour for v in things]
paint = [v.things[0].colour for v in painted]

# %%
def colours(t0, words, w):
    edits = sdedit(model, strokes_, words, t0=t0, steps=5, w=w, seed=5)
    return [r["colour_1"] for r in reader.read(edits.picture)]

depths = (0.1, 0.2, 0.3, 0.6, 0.95)
read = {t0: colours(t0, captions, W) for t0 in depths}
silent = {t0: colours(t0, "", 1.0) for t0 in (0.1, 0.3, 0.6)}
words_win = [sum(a == b for a, b in zip(r, named)) for r in read.values()]
paint_stays = [sum(a == b for a, b in zip(r, paint)) for r in silent.values()]

# %%
fig, (ax,) = plots.panels(1, height=2.4, width=5)
ax.plot(depths, words_win, "o-", label="told: the caption's colour")
ax.plot(tuple(silent), paint_stays, "s--", label="not told: the paint's colour")
ax.set(title="things of 32 with this colour", xlabel="t₀", ylim=(0, 33))
_ = ax.legend()

# %% [markdown]
# **Figure 04.8.** *Thirty-two things painted in a wrong colour.* The paint decides only as long as nobody contradicts
# it. Without a prompt (squares) nearly every thing keeps its paint, even at t₀ = 0.6. With the true caption (circles) 3
# of 32 obey at t₀ = 0.1, 13 at 0.2, 25 at 0.3 and 31 at 0.6. So the colour does survive the noise, but a caption with
# w = 3 overrules it early. (Which of the two does it, this figure cannot say: run it with the caption and w = 1.)
#
# **Claim.** Told the right colour, at most 6 of 32 follow it at t₀ = 0.1, at least 20 at 0.3 and all but one at 0.95.
#
# **Claim.** Told nothing, at least 28 of 32 keep the colour of the paint at t₀ = 0.6.

# %%
print("follow the caption:", *(f"{n} at {t0}" for t0, n in zip(depths, words_win)), sep="  ")
print("keep the paint:    ", *(f"{n} at {t0}" for t0, n in zip(silent, paint_stays)), sep="  ")
assert words_win[0] <= 6 and words_win[2] >= 20 and words_win[-1] >= 31
assert paint_stays[-1] >= 28

# %% [markdown]
# **Without words a thing becomes another thing, a small one first.** The painting fixes what is larger than the noise.
# What is smaller is the model's to choose, and without a prompt it chooses freely. Below, each of the 32 things is
# painted once large and once small, in its right colour, and edited without a prompt.

# %%
from palimpsest.worlds.shapes import Edit


def resized(v, size):
    return v if v.things[0].size == size else apply(v, Edit("resize", 0, size))


def survivors(size, t0):
    sized = [resized(v, size) for v in things]
    must = [{k: attributes(v)[k] for k in ("shape_1", "colour_1")} for v in sized]
    paint = strokes(sized, torch.Generator().manual_seed(6))
    return int(reader.right(sdedit(model, paint, t0=t0, steps=5, seed=5).picture, must).sum())

# %% [markdown]
# **Claim.** The deeper the start, the fewer keep their shape and colour; and of the large things more do than of the
# small ones.

# %%
depths, left_over = (0.3, 0.5, 0.7), {}
for size in ("large", "small"):
    left_over[size] = [survivors(size, t0) for t0 in depths]
    low, high = share_interval(sum(left_over[size]), 3 * 32)
    print(f"{size}:", *left_over[size], "of 32 at t₀ = .3, .5, .7;",
          f"in all {low:.0%} to {high:.0%}")
totals = [sum(v) for v in zip(*left_over.values())]
assert totals[0] > totals[1] > totals[2]
assert sum(left_over["large"]) > sum(left_over["small"])

# %% [markdown]
# | symptom | cause | what to change |
# |---|---|---|
# | it still looks painted | t₀ is too low: the paint is stronger than the noise | t₀ up by 0.1, or K = 2 |
# | the right thing in the wrong place | t₀ is too high: the layout is hidden too | t₀ down; w does not help |
# | the paint's colour, although the caption names another | t₀ below 0.2 (here) | t₀ = 0.3 or more; or paint it again |
# | another thing than the painted one | no prompt, or one that does not name it | name it |
# | the rest of the picture changed | no mask, or `raw` was shown | give a mask; 1 = edit here |
# | a t₀ from a paper does nothing, or everything | another SDE | compare `Edit.sigma` |

# %% [markdown]
# ## On Stable Diffusion
#
# The same call on public weights. diffusers calls the same method "image to image", with t₀ named `strength`; Fig. 4
# of GLIDE (arXiv:2112.10741v3) is text-guided SDEdit. Expect at t₀ = 0.6 a flower in the given place and size, in
# orange, with brush strokes; at 0.3 hardly a change; at 0.9 another flower. Not run by us: it needs the weights
# (`palimpsest weights get stable-diffusion-v1-5`) and a GPU.

# %%
from palimpsest.notebooks.public import public_model

sd = public_model("stable-diffusion-v1-5")
if sd is not None:
    photo = read_picture(FIGURES / "hand" / "flower.jpg", size=sd.size, grid=sd.grid)
    wish = "an orange flower, oil painting"
    edits = [sdedit(sd, photo, wish, t0=t0, w=7.5).picture for t0 in (0.3, 0.6, 0.9)]
    plots.pictures([[photo, *edits]], above=("given", "t₀ = .3", ".6", ".9"), side=1.7)

# %% [markdown]
# ## Exercises
#
# Each `check` says whether you are right. Solutions: [`notebooks/solutions/04_sdedit.py`](solutions/04_sdedit.py).
#
# **1. (coding) The mask.** Add Algorithm 5's line to `from_nothing`: write the function that is called at the end of
# a step, when the walk has reached time s.
#
# <details><summary>Hint 1</summary>Where Ω is 1 the walk's own state stays. Where it is 0 the state is replaced by the
# original at the same noise level.</details>
# <details><summary>Hint 2</summary>At level s the original is √ᾱ_s x₀ + √(1 − ᾱ_s) z: `q_sample` of lesson
# 01.</details>

# %%
from palimpsest.notebooks.exercises import check


def put_back(x_s, x_0, mask, abar_s, z):
    """The state to go on with: x_s where mask is 1, x_0 noised to level s where it is 0."""
    raise NotImplementedError

check("04.1", put_back)

# %% [markdown]
# **2. (predict, then run) Without random noise.** In `from_nothing` replace the last three lines of the loop by DDIM's step
# (lesson 01). The walk then adds no noise of its own. *Predict first*: does the result stay closer to the painting or
# move farther away? In the Gaussian world with s = 0.25, started at σ = 0.25, which share of g − μ does the mean keep,
# instead of the ancestral walk's ½?
#
# <details><summary>Hint 1</summary>DDIM follows the probability-flow ODE. It keeps the *order* of the points: a state
# that lies two standard deviations out at the top lies two out at the bottom.</details>
# <details><summary>Hint 2</summary>The standard deviation at the top is √(s² + σ²), at the bottom s. To run it:
# `sdedit(perfect, guide, t0=…, step=DDIM())` with `from palimpsest.samplers.solvers import DDIM`.</details>

# %%
answer = None  # a number
check("04.2", answer)

# %% [markdown]
# **3. (open project) Your own painting.** Paint a 64 × 64 picture of one or two things, caption it, and find by
# `bisect_t0` with *yourself* as the judge the t₀ that you like best. Do it for five paintings. Do your five t₀ agree?
# Do they lie in the paper's band? What do the paintings have in common for which you had to go deeper?
#
# <details><summary>Hint 1</summary>`read_picture("mine.png", size=model.size)`; a judge returns +1 for "more
# realistic", −1 for "more faithful", 0 to stop.</details>
# <details><summary>Hint 2</summary>Plain, flat paintings are far from the model's pictures: compare the σ you need
# with the RMSE between your painting and the nearest result that you like.</details>

# %% [markdown]
# ## Quiz
#
# 1. Why must the noise be added *before* denoising? Could one simply denoise the painting from t₀?
#    <details><summary>Answer</summary>The net at time t expects a picture that carries noise of level t. A painting
#    without noise would be taken for a very noisy one whose noise happens to look like a painting, and smoothed.</details>
# 2. Two runs with t₀ = 0.5, one on a cosine VP schedule, one on DDPM's linear one. Which one changes the painting more?
#    <details><summary>Answer</summary>The linear one: σ is 3.4 there at t₀ = 0.5 and 1.0 on the cosine schedule.
#    Compare σ, not t₀.</details>
# 3. In the Gaussian world SDEdit starts at σ = s. What is the variance of the result, in units of s²?
#    <details><summary>Answer</summary>k = ½, so k(1 + k)σ² = ¾ s²: narrower than the world, because half of the
#    painting is still there and it has no variance.</details>
# 4. Why is the result of a masked edit pasted at the end, although the walk already held the kept region?
#    <details><summary>Answer</summary>The walk held latents. The autoencoder maps cells back to pixels with a small
#    error, and cells on the border mix both regions. Only pasting keeps pixels to the bit.</details>
# 5. The record shows a KID that falls by 0.008 with a standard deviation of 0.018. What may one say?
#    <details><summary>Answer</summary>Nothing about realism. KID compares sets of pictures, and 64 are too few; one
#    would need some twenty times as many to see such a fall.</details>
#
# ## Three things to take away
#
# 1. SDEdit is noising plus the ordinary sampler: twelve lines, no training.
# 2. One number matters, σ at the start: what is larger than the noise stays, what is smaller is painted anew.
# 3. A mask is one more line, and only pasting makes "the rest is unchanged" true to the bit.
#
# SDEdit forgets part of the picture because it adds *random* noise. **Is there a noise from which the sampler comes
# back to exactly the picture that was given?** That is lesson 05.
