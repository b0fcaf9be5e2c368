# %% [markdown]
"""
# 05 · DDIM inversion: which noise does this picture come from?

Sampling turns noise into a picture. To edit a *given* picture in the way in which generated ones are edited, we need
the noise that it would have come from. DDIM's sampler contains no random numbers, so it can be run backwards: that is
DDIM inversion (Song et al., arXiv:2010.02502v4, Sec. 4.3). DiffEdit, Prompt-to-Prompt on photographs and Null-text
inversion all begin with it, and many edits that fail have failed here.

**What you will learn**
1. to write inversion and sampling as one function of seven lines, equal to the library to the bit;
2. why a single *step* is undone exactly and a *walk* only nearly, and how to remove that error;
3. to tell three losses apart: the autoencoder's, the discretisation's and the guidance's;
4. why guidance with w = 7.5 does not come back *even from an exact inversion*: a formula;
5. what the noise that is found looks like, and what editing with inversion alone can do.

**What you need**: lessons 01 (DDIM) and 03 (guidance); the models `shapes` and `shapes-reader` in `weights/`. About
45 minutes, without a GPU. Sections marked *deeper* are optional. A paragraph that begins with **Claim** is checked by an
`assert` in the cell below it.
"""

# %% [markdown]
# ## Symbols
#
# | in the paper | here | in code | meaning | shape or range |
# |---|---|---|---|---|
# | α_t (DDIM), ᾱ_t (DDPM) | ᾱ_t | `abar[t]` | share of the signal at time t, ᾱ₀ = 1 | (0, 1] |
# | σ(t) | σ_t | `schedule.sigma(t)` | noise relative to the signal: √((1 − ᾱ)/ᾱ) | ≥ 0 |
# | x_t | x_t, z_t | `z` | the noisy picture or latent | (b, c, y', x') |
# | ε_θ(x_t) | ε̂ | `eps` | the net's answer | like x_t |
# | t, t − Δt | s, t | `a, b` | the times at both ends of a step, s < t | 0 … 1000 |
# | S | – | `STEPS` | steps of a walk | whole |
# | w (Null-text) | w | `w` | guidance scale, 1 = none | a number |

# %%
import random
from itertools import pairwise

import torch

from palimpsest.notebooks import plots
from palimpsest.weights.judges import load_reader
from palimpsest.weights.load import load

plots.begin()
model, reader = load("shapes", "cpu"), load_reader("shapes-reader")
STEPS = 16  # of every walk of the trained model, unless it is varied

# %%
from palimpsest.worlds.shapes import caption, render, sample_scene

rng = random.Random("lesson 05")
scenes = [sample_scene(rng, things=1 + k % 2) for k in range(16)]  # no training saw them
photos, captions = render(scenes), [caption(v) for v in scenes]
text, abar = model.embed(captions), model.schedule.abar

# %% [markdown]
# ## The method, from nothing
#
# One DDIM step keeps the noise that the net sees and changes how much of it there is. In units in which the picture has
# full strength, $x_t/\sqrt{\bar\alpha_t} = x_0 + \sigma_t\varepsilon$, a step from time a to time b is
#
# $$\frac{x_b}{\sqrt{\bar\alpha_b}} = \frac{x_a}{\sqrt{\bar\alpha_a}} + (\sigma_b - \sigma_a)\,\hat\varepsilon.$$
#
# Open the paper at Eq. (13): it is this line. Nothing in it depends on which of a and b is larger. Downwards (b < a) it
# samples, Eq. (17) of our list; upwards (b > a) it inverts, Eq. (19). So one function does both.

# %%
@torch.no_grad()
def walk(z, times):
    for a, b in pairwise(times):  # times fall: sampling. They rise: inversion
        eps = model.eps(z, max(a, b), text)  # ε̂ where we stand; which time: section 3
        scale = (abar[b] / abar[a]) ** 0.5
        # Eq. (17), (19): z_b = √(ᾱ_b/ᾱ_a) z_a + (√(1−ᾱ_b) − √(ᾱ_b(1−ᾱ_a)/ᾱ_a)) ε̂
        z = scale * z + ((1 - abar[b]) ** 0.5 - scale * (1 - abar[a]) ** 0.5) * eps
    return z

times = torch.linspace(980, 0, STEPS + 1).round().int().tolist()
z_0 = model.encode(photos)
z_T = walk(z_0, times[::-1])
z_back = walk(z_T, times)

# %% [markdown]
# **Claim.** `invert` finds the same noise, and `redo` comes back to the same latents, to the bit.

# %%
from palimpsest.methods.inversion import invert, redo

up = invert(model, photos, captions, steps=STEPS)
assert torch.equal(z_T, up.start)
assert torch.equal(z_back, redo(model, up, w=1.0)[-1])

# %%
guided = model.decode(redo(model, up, w=7.5)[-1])
back = model.decode(z_back)
levels = (12, 9, 6, 3, 0)  # steps of the way up, from clean to noise
way = [photos, *(model.decode(up.path[i]) for i in levels), back, guided]
above = ("given", *(f"t = {up.times[i]}" for i in levels), "w = 1", "w = 7.5")
_ = plots.pictures([[v[k] for v in way] for k in (0, 1, 2)], above=above)

# %% [markdown]
# **Figure 05.1.** *Up to the noise, and back with and without guidance (each latent decoded).* On the way up noise covers
# the picture, and yet even at t = 980 one can guess where the things are: section 7. At w = 1 things and colours come
# back; what is lost is faint, such as the stripes on the ground of the first picture and the light on that of the
# second. At w = 7.5 something comes back that fits the caption and is *another picture*: the ring is smaller, the cross
# of the third has other arms, the grounds are new.
#
# **Claim.** Without guidance the pictures come back; with w = 7.5 they are at least 6 dB farther away (sixteen
# pictures).

# %%
from palimpsest.metrics.image import psnr

ceiling = psnr(model.decode(model.encode(photos)), photos).mean().item()
plain, loud = (psnr(v, photos).mean().item() for v in (back, guided))
print(f"autoencoder {ceiling:.1f} dB; back at w = 1 {plain:.1f}, at w = 7.5 {loud:.1f} dB")
assert plain > loud + 6

# %% [markdown]
# ## 1. A step has an exact inverse
#
# With the *same* ε̂ a step up undoes a step down, whatever ε̂ is: the displayed line only moves along ε̂.
#
# **Claim.** Between any two levels, up and down again changes nothing (10⁻¹² in float64).

# %%
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule

sd = Schedule.scaled_linear()  # Stable Diffusion's
x_s, eps = Rng.of(1, 2).randn((2, 1, 8, 8)).double().chunk(2)
for a, b in ((0, 500), (20, 40), (300, 980)):
    there = ddim_step(sd, x_s, eps, a, b)
    assert torch.allclose(ddim_step(sd, there, eps, b, a), x_s, atol=1e-12)

# %% [markdown]
# **Claim.** Null-text prints both equations without the factor √ᾱ_b in front of the bracket. As printed they do not
# even undo each other: near the top of Stable Diffusion's schedule the ε̂ term is 12 times too large.

# %%
for a, b in ((0, 500), (20, 40), (300, 980)):
    bracket = sd.sigma(b) - sd.sigma(a)
    above = (sd.at(b) / sd.at(a)) ** .5 * x_s + bracket * eps  # as printed
    back = (sd.at(a) / sd.at(b)) ** .5 * above - bracket * eps
    assert not torch.allclose(back, x_s, atol=1e-4)
too_large = sd.at(962) ** -0.5  # what the missing factor makes of the ε̂ term
print(f"as printed, from t = 982 to 962: {too_large:.1f} times too large")
assert 11 < too_large < 13

# %% [markdown]
# ## 2. A walk has not
#
# On the way down the step asks the net at the point where it stands, ε̂(x_t, t). On the way up we stand at x_s, and x_t
# is what we are looking for. So the net is asked at the *wrong point*, ε̂(x_s, t), and we rely on its answer being nearly
# the same there.
#
# In the Gaussian world the net is a formula, so this is the only error there is. Seven pictures of one pixel each from
# N(0.7, 0.5²), ten steps.

# %%
from palimpsest.samplers.ddim import invert as walk_up
from palimpsest.samplers.ddim import sample
from palimpsest.worlds.gaussian import GaussianWorld

world = GaussianWorld({"": torch.full((1, 1, 7), 0.7)}, 0.5)
eps_star, x_0 = world.denoiser("", sd), torch.linspace(-1, 2, 7).double().view(1, 1, 1, 7)


def leading(steps):  # Stable Diffusion's times: 982, 962, …, 2 for 50 steps, then 1
    return [*range(1000 - 1000 // steps + 2, 1, -(1000 // steps)), 1]

# %%
ten = leading(10)
rise = walk_up(eps_star, sd, x_0, ten)  # [0] is the noise, [-1] the picture
fall = sample(eps_star, sd, rise[0], ten)
exact = walk_up(eps_star, sd, x_0, ten, iterations=50)[0]  # section 4
fig, (ax,) = plots.panels(1, height=2.9)
for k in range(7):
    line = ax.plot(ten, [v[0, 0, 0, k] for v in rise], "o-")[0]
    ax.plot(ten, [v[0, 0, 0, k] for v in fall], "--", color=line.get_color())
ax.plot([ten[0]] * 7, exact[0, 0, 0], "k.", clip_on=False)
_ = ax.set(title="seven pixels, ten steps up (solid) and down again (dashed)", xlabel="t")

# %% [markdown]
# **Figure 05.2.** *Up and down again in the Gaussian world.* The dashed lines do not end where the solid ones began:
# what comes back has lost contrast, all seven are pulled towards the mean 0.7. The reason is visible at the
# right end: the solid lines end nearer to the mean than the black dots, the exact noise. On the way up each step asks a
# picture that is still too clean how much noise to add, and gets too little.
#
# **Claim.** Ten steps lose up to 0.415 of a pixel's value, and the noise at the top is a fifth too quiet.

# %%
gap = (fall[-1] - x_0).abs().max().item()
quiet = (rise[0].std() / exact.std()).item()
print(f"largest error {gap:.3f}; spread of the noise {quiet:.2f} of the exact one")
assert abs(gap - 0.415) < 0.008 and 0.75 < quiet < 0.85

# %% [markdown]
# ## 3. Which time to tell the net
#
# A step has two times and the net is told one. Eq. (19) as printed tells it the *source* s, where the picture is.
# Google's Null-text code and today's diffusers tell it the *destination* t, which the step down will tell it too.
# (diffusers changed from one to the other between its releases 0.21 and 0.22, and edits changed with it.) `walk` says
# `max(a, b)`: the destination.

# %%
from palimpsest.notebooks.exercises import slope


def round_trip(steps, iterations=0, label="destination"):  # the largest of seven errors
    at = leading(steps)
    top = walk_up(eps_star, sd, x_0, at, iterations=iterations, label=label)[0]
    return (sample(eps_star, sd, top, at)[-1] - x_0).abs().max().item()

# %% [markdown]
# **Claim.** Both are of first order: twice the steps, half the error. The destination's error is smaller, in this world
# by a third to a half.

# %%
counts = (10, 20, 50, 100, 200, 500)
lost = {label: [round_trip(n, 0, label) for n in counts] for label in ("source", "destination")}
assert all(abs(slope(counts[2:], v[2:]) + 1) < 0.08 for v in lost.values())
assert all(d < 0.72 * s for s, d in zip(lost["source"], lost["destination"]))

# %%
fig, (ax,) = plots.panels(1, height=2.6, width=5)
plots.curves(ax, counts, lost)
ax.set(xscale="log", yscale="log", xlabel="steps", title="largest error of the round trip")
plots.ticks(ax, counts)

# %% [markdown]
# **Figure 05.3.** *The round trip by both times.* Two parallel lines of slope −1. Open the paper at Table 2: there the
# mean square error of the round trip on CIFAR-10 is 0.014 for S = 10, 0.0023 for 50 and 0.0001 for 1000. It also falls
# with the steps, but a trained net has errors of its own, so the curve is not as straight as this one.

# %% [markdown]
# ### Why the destination? (*deeper*)
#
# Let x₀ ~ N(0, s²) and follow the exact path. Over a step that raises ln σ by h, the two times get ε̂ wrong by this share of it:
#
# $$\text{source: } \frac{s^2}{s^2+\sigma^2}\,h, \qquad
# \text{destination: } \frac{\sigma^2\,(1-s^2)}{(s^2+\sigma^2)(1+\sigma^2)}\,h.$$
#
# For data of **unit variance** the destination makes no first-order error at all: noisy pictures of a VP walk keep their
# size, so the point is not wrong by much. Latents are scaled to unit variance, which is why most people find this choice
# better. It is not a law:
#
# **Claim.** Where the data is narrow, s = 0.02, fifty steps lose 0.23 of a standard deviation by the *source* and 1.41
# by the destination. (The path to a single point is a straight line, along which ε̂ does not change.)

# %%
def lost_share(s, label):  # the worst of seven pixels within 2 standard deviations, in those
    eps = GaussianWorld({"": torch.full((1, 1, 7), 0.7)}, s).denoiser("", sd)
    x = 0.7 + (x_0 - 0.5) * s / 0.75
    top = walk_up(eps, sd, x, leading(50), label=label)[0]
    return (sample(eps, sd, top, leading(50))[-1] - x).abs().max().item() / s


narrow = {label: lost_share(0.02, label) for label in ("source", "destination")}
assert abs(narrow["source"] - 0.23) < 0.01 and abs(narrow["destination"] - 1.41) < 0.02

# %% [markdown]
# ## 4. Solve the equation
#
# x_t is what satisfies $x_t = \mathrm{step}(x_s, \hat\varepsilon(x_t, t))$, with x_t on both sides. Start with the plain
# step and put its answer in on the right, k times. This is fixed-point iteration; it costs k more calls for each step
# (compare arXiv:2309.04907v4).
#
# **Claim.** Each round gains an order: slopes −1, −2, −3, −4 for k = 0 … 3. Fifty steps with five rounds (300 calls on
# the way up) lose 10⁻⁷; 250 plain steps lose 0.017.

# %%
counts = (20, 40, 80, 160)
refined = {k: [round_trip(n, k) for n in counts] for k in (0, 1, 2, 3)}
print("slopes:", *(f"k = {k}: {slope(counts, v):.2f} " for k, v in refined.items()))
print(f"50 steps, 5 rounds: {round_trip(50, 5):.1e}; 250 plain steps: {round_trip(250):.3f}")
assert all(abs(slope(counts, v) + k + 1) < 0.2 * (k + 1) for k, v in refined.items())
assert round_trip(50, 5) < 2e-7 and abs(round_trip(250) - 0.017) < 0.001

# %% [markdown]
# ## 5. Three losses
#
# A picture passes three things on its way there and back: the **autoencoder**, which no method on latents can beat; the
# **discretisation** (sections 2 to 4), which more steps or iteration repair; and the **guidance** (section 6), which
# neither repairs. Here are the first two on the trained model.
#
# **Claim.** At w = 1 four steps lose at least 2 dB more than sixteen, three rounds of iteration win at least 2 dB back,
# and nothing passes the autoencoder by more than half a decibel (sixteen pictures).

# %%
def trip(steps, rounds):
    found = invert(model, photos, captions, steps=steps, iterations=rounds)
    db = psnr(model.decode(redo(model, found, w=1.0)[-1]), photos).mean().item()
    return found, found.calls + steps, db  # …, calls of the net both ways, …


few, solved = trip(4, 0), trip(STEPS, 3)
print("4 steps, 16 steps, 16 steps with three rounds, the autoencoder:")
print(f"{few[2]:.1f}, {plain:.1f}, {solved[2]:.1f}, {ceiling:.1f} dB")
assert few[2] + 2 < plain < solved[2] - 2 and solved[2] < ceiling + 0.5

# %% [markdown]
# ## 6. Guidance is another walk
#
# A world of two Gaussians: "cat" pictures are N(1, 0.3²), pictures of anything N(0, 1). Both answers are formulas, so
# the guided one is too. We invert seven cats *exactly* (six rounds) and come back at several w.

# %%
from palimpsest.samplers.guidance import cfg

means = {"cat": torch.ones(1, 1, 1), "": torch.zeros(1, 1, 1)}
cats = GaussianWorld(means, {"cat": 0.3, "": 1.0})
told = lambda w: cfg(cats.text_denoiser(sd), cats.embed("cat"), cats.embed(""), w)  # Eq. (18)
at, seven = leading(50), torch.linspace(0.4, 1.6, 7).double().view(1, 1, 1, 7)
rise = walk_up(told(1.0), sd, seven, at, iterations=6)
falls = {w: sample(told(w), sd, rise[0], at) for w in (1.0, 2.0, 7.5)}

# %%
fig, axes = plots.panels(4, height=2.3, share=True)
paths = {"up, w = 1": rise} | {f"down, w = {w:g}": v for w, v in falls.items()}
for ax, (name, path) in zip(axes, paths.items()):
    ax.plot(at, torch.stack(path)[:, 0, 0, 0], linewidth=1.2)
    ax.set(title=name, xlabel="t")

# %% [markdown]
# **Figure 05.4.** *Seven cats up to the noise and down again under guidance.* At w = 1 the seven lines return to where
# they began. At w = 2 they end closer together, and at w = 7.5 they are a single line: every cat has become the same
# cat. The noise still tells the seven apart, but the guided walk does not listen to it.
#
# How much is lost can be computed. Let $s_c$ be the width of the cats and $s_a$ that of all animals. A spread δ of the guided
# flow, in units of full strength, obeys $\frac{d\ln\delta}{d\sigma} = \sigma\left[\frac{w}{s_c^2+\sigma^2} -
# \frac{w-1}{s_a^2+\sigma^2}\right]$. Integrate from high σ down to 0 and divide by the same at w = 1:
#
# $$\text{of the spread there comes back } \left(\frac{s_c}{s_a}\right)^{w-1}.$$
#
# The more a prompt fixes ($s_c \ll s_a$) and the larger w, the less of the given picture is left.
#
# **Claim.** At w = 1 the seven return to 10⁻⁵. At w = 7.5 less than a thousandth of their spread returns.
#
# **Claim.** With 900 steps the walk agrees with the formula within 10 % for w = 1.5, 2 and 3.

# %%
fine = sd.times(900, 0.98)
top = walk_up(told(1.0), sd, seven, fine, iterations=2)[0]
for w in (1.5, 2.0, 3.0):
    left = (sample(told(w), sd, top, fine)[-1].std() / seven.std()).item()
    print(f"w = {w:g}: {left:.3f} of the spread comes back; formula {0.3 ** (w - 1):.3f}")
    assert abs(left / 0.3 ** (w - 1) - 1) < 0.1
assert (falls[1.0][-1] - seven).abs().max() < 1e-5
assert falls[7.5][-1].std() < 1e-3 * seven.std()

# %% [markdown]
# Inverting *with* w = 7.5, so that both ways match, is no way out. What the guided walk down compresses, the guided walk
# up expands: a cat one standard deviation out arrives at 1.14 by w = 1 and at several hundred by w = 7.5, where no noise
# from N(0, 1) ever is. Now the trained model, by plain and by nearly exact inversion.

# %%
def comes_back(inversion, w):
    return psnr(model.decode(redo(model, inversion, w=w)[-1]), photos).mean().item()


scales = (1.0, 3.0, 7.5)
by = {"plain inversion": [plain, comes_back(up, 3.0), loud]}
by["three rounds"] = [solved[2], *(comes_back(solved[0], w) for w in scales[1:])]

# %%
fig, (ax,) = plots.panels(1, height=2.6, width=5)
plots.curves(ax, scales, by, legend=False)
ax.axhline(ceiling, color="grey", linestyle="--", label="autoencoder alone")
ax.set(title="inverted at w = 1, back at w (dB)", xlabel="w", xticks=scales)
_ = ax.legend()

# %% [markdown]
# **Figure 05.5.** *The price of guidance on the trained model.* Iteration wins 5 dB where nothing guides, and brings the
# picture close to what the autoencoder alone allows. With guidance the two lines lie together: a better inversion does
# not help, as the formula says. At w = 7.5 the better one is even
# a little worse.

# %%
shell = invert(model, photos, captions, steps=STEPS, w=7.5).start.std().item()
one_cat = torch.full((1, 1, 1, 1), 1.3).double()
far = [walk_up(told(w), sd, one_cat, at)[0].item() for w in (1.0, 7.5)]
print(f"the cat: {far[0]:.2f} and {far[1]:.0f}; spread: {up.start.std():.2f} and {shell:.2f}")
assert all(v == sorted(v, reverse=True) for v in by.values())
assert by["three rounds"][0] > plain and by["three rounds"][-1] < loud + 1
assert shell > 1 > up.start.std() and 1.1 < far[0] < 1.2 and far[1] > 100

# %% [markdown]
# ## 7. Is it noise?
#
# The net was trained on white noise: each cell independent, spread 1 everywhere. What does an inversion find? Three
# channels of each start are shown as colours.

# %%
white = Rng.of(7, 16).randn((16, *model.latent_shape))
starts = {"plain inversion": up.start, "three rounds": solved[0].start, "real noise": white}
rows = [[photos[k], *(z[k, :3] / 2.5 for z in starts.values())] for k in (0, 1)]
_ = plots.pictures(rows, above=("given", *starts), side=1.4)

# %% [markdown]
# **Figure 05.6.** *What was found, beside real noise.* The ring and the crescent can be read off their own noise. It is
# loud where the picture has things and nearly silent where it has ground: the net sees nothing to explain there. Three
# rounds raise the loudness, and the picture stays visible in it.
#
# **Claim.** What plain inversion finds is too quiet by more than a tenth; three rounds make it louder.
#
# **Claim.** Neither is white: neighbouring cells are correlated (real noise: 0 ± 0.03). One can see the picture in it.
# That is why an inverted start edits *differently* from a drawn one: it holds on to its picture.

# %%
def neighbours(z):  # correlation of cells that lie side by side
    return ((z[..., 1:] * z[..., :-1]).mean() / z.square().mean()).item()


for name, z in starts.items():
    print(f"{name:16s} spread {z.std():.2f}   correlation of neighbours {neighbours(z):+.2f}")
quiet, louder, real = starts.values()
assert quiet.std() < 0.9 and quiet.std() < louder.std()
assert min(neighbours(quiet), neighbours(louder)) > 0.05 > 0.03 > abs(neighbours(real))

# %% [markdown]
# ## 8. Editing with inversion alone
#
# The simplest edit: go up under the picture's caption, come down under another one. The noise holds the rest in place;
# the other words, times w, change the thing. Sixteen recolourings, of which we know the true result.

# %%
from palimpsest.claims.common import draw_edits

d = draw_edits(16, ("recolour",), 2, things=1)
start = invert(model, d.before, d.source, steps=STEPS)
swaps = {w: model.decode(redo(model, start, d.target, w=w)[-1]) for w in (1.0, 3.0, 7.5)}
columns = [d.before, *swaps.values(), d.after]
above = ("given", *(f"w = {w:g}" for w in swaps), "true edit")
_ = plots.pictures([[c[k] for c in columns] for k in range(3)], above=above, side=1.25)

# %% [markdown]
# **Figure 05.7.** *Recoloured by the words alone.* All sixteen obey at every w, even at w = 1: in this small world words
# leave little open. (Stable Diffusion at w = 1 hardly follows them.) What differs is the price. At w = 1 the checks of
# the second ground survive, at 7.5 they are gone; the square of the first row becomes a lopsided one, and the stripe of
# the circle turns.
#
# **Claim.** Outside of what the true edit changes, the picture gets worse with w, by at least 5 dB from 1 to 7.5.

# %%
rest = 1 - d.changed
kept = {w: psnr(v, d.before, rest).mean().item() for w, v in swaps.items()}
for w, v in swaps.items():
    obey = int(reader.right(v, d.wanted).sum())
    print(f"w = {w:g}: {obey} of 16 all right, {kept[w]:.1f} dB outside the change")
assert kept[1.0] > kept[3.0] > kept[7.5] and kept[1.0] > kept[7.5] + 5

# %% [markdown]
# ## Where this breaks
#
# **Iteration under guidance.** Fixed-point iteration converges where one round shrinks the error. At w = 1 it mostly
# does. The guided answer changes about w times as fast from point to point, and a round can make things worse.
#
# **Claim.** In the world of cats at w = 7.5 five rounds make a walk of 20 steps *worse* and repair one of 200.

# %%
worst = {}
for steps in (20, 200):
    for k in (0, 5):
        top = walk_up(told(7.5), sd, seven, leading(steps), iterations=k)[0]
        end = sample(told(7.5), sd, top, leading(steps))[-1]
        worst[steps, k] = (end - seven).abs().max().item()
    print(f"{steps:3d} steps: plain {worst[steps, 0]:.2g}, five rounds {worst[steps, 5]:.2g}")
assert worst[20, 5] > 5 * worst[20, 0] and worst[200, 5] < 1e-4 < worst[200, 0]

# %% [markdown]
# **A wrong caption costs, even without guidance.** With an exact inversion any text would do that stays the same on both
# ways. Sixteen plain steps are far from exact, and a text that does not fit makes the error of each step larger.
#
# **Claim.** With each picture under the *next* one's caption, the round trip loses at least 5 dB at w = 1, and more at
# w = 7.5.

# %%
wrong = captions[1:] + captions[:1]
other = invert(model, photos, wrong, steps=STEPS)
still, astray = comes_back(other, 1.0), comes_back(other, 7.5)
print(f"right caption {plain:.1f} and {loud:.1f} dB, wrong one {still:.1f} and {astray:.1f} dB")
assert still < plain - 5 and loud - astray > plain - still

# %% [markdown]
# | symptom | cause | what to change |
# |---|---|---|
# | the round trip at w = 1 is blurred | discretisation, or the autoencoder | more steps, `iterations=3`; compare with `decode(encode(x))` |
# | fine at w = 1, another picture at w = 7.5 | guidance is another walk | Null-text (lesson 08), or a smaller w |
# | the noise has a spread far above 1 | inverted under guidance | invert at w = 1 |
# | iteration diverges | too few steps, or guidance | more steps; w = 1 |
# | two programs find different noise | source or destination time | `label=` |
# | the edit changes too little | the inverted noise holds on to its picture | stop lower (lesson 06), or a larger w |

# %% [markdown]
# ## On Stable Diffusion
#
# The same calls on public weights. Expect what the Null-text paper (arXiv:2211.09794v1) describes: at w = 1 the
# photograph comes back with small losses; at w = 7.5 it comes back as another flower. Not run by us: it needs the weights
# (`palimpsest weights get stable-diffusion-v1-5`) and a GPU.

# %%
from palimpsest.claims.page import RECORDS as FIGURES
from palimpsest.notebooks.public import public_model
from palimpsest.worlds.files import read_picture

big = public_model("stable-diffusion-v1-5")
if big is not None:
    photo = read_picture(FIGURES / "hand" / "flower.jpg", size=big.size, grid=big.grid)
    start = invert(big, photo, "a photograph of an orange flower", steps=50)
    trips = [big.decode(redo(big, start, w=w)[-1]) for w in (1.0, 7.5)]
    plots.pictures([[photo, *trips]], above=("given", "w = 1", "w = 7.5"), side=2.2)

# %% [markdown]
# ## Exercises
#
# Each `check` says whether you are right. Solutions: [`notebooks/solutions/05_ddim_inversion.py`](solutions/05_ddim_inversion.py).
#
# **1. (coding) Solve for x_t.** Add fixed-point iteration to a step up: from x_s at level ᾱ_s to x_t at ᾱ_t. `eps(x)` is
# the net's answer at the destination time.
#
# <details><summary>Hint 1</summary>First the plain step with ε̂(x_s). Then, `rounds` times, the same step *from x_s
# again*, with ε̂ at the latest x_t.</details>
# <details><summary>Hint 2</summary>The step is the last line of `walk`. Only ε̂ changes from round to round.</details>

# %%
from palimpsest.notebooks.exercises import check


def upward(eps, x_s, abar_s, abar_t, rounds):
    """x_t, after the plain step and `rounds` rounds of fixed-point iteration."""
    raise NotImplementedError


check("05.1", upward)

# %% [markdown]
# **2. (predict, then run) The other time.** In `walk`, change `max(a, b)` so that the way up tells the net the *source*
# time (the way down must stay). *Predict first*: does the trained model, whose latents have unit variance, come back
# better or worse? Then use the two formulas of section 3: for data of width s = 0.3, at which σ do both times err
# equally?
#
# <details><summary>Hint 1</summary>Set the two fractions equal; one factor cancels.</details>
# <details><summary>Hint 2</summary>s² = σ² (1 − s²)/(1 + σ²). To run the first part: `invert(…,
# label="source")`.</details>

# %%
answer = None  # a number
check("05.2", answer)

# %% [markdown]
# **3. (open project) A picture from outside.** Invert a picture that the model cannot know: a photograph at 64 × 64, a
# drawing of a person, pure stripes. How far does it come back at w = 1? Is its noise whiter or less white than that of
# the scenes? Does a caption help? Find the property of a picture that predicts its round trip best.
#
# <details><summary>Hint 1</summary>Separate the three losses first: `decode(encode(x))` may already be the whole
# problem.</details>
# <details><summary>Hint 2</summary>Candidates: the error of the autoencoder, the correlation of neighbours in the found
# noise, the mean square of ε̂ on the way up.</details>

# %% [markdown]
# ## Quiz
#
# 1. Why is DDPM's ancestral sampler not inverted in the same way?
#    <details><summary>Answer</summary>Its steps add fresh noise, so many noises lead to one picture. One can choose
#    noises that lead to it (edit-friendly inversion, `methods/variants.py`), but no walk backwards finds "the"
#    noise.</details>
# 2. How many calls does it take to invert with 50 steps and three rounds at w = 1, and to come down at w = 7.5?
#    <details><summary>Answer</summary>Up: 50 · (1 + 3) = 200. Down: guidance asks twice a step, 100. Together
#    300.</details>
# 3. The round trip at w = 1 is 5 dB below the autoencoder. Name two remedies and one that does not help.
#    <details><summary>Answer</summary>More steps; fixed-point iteration. Guidance does not help: it is another
#    walk.</details>
# 4. The noise of an inversion has a spread of 0.8. What does that say?
#    <details><summary>Answer</summary>Each step up added too little noise, because the net was asked at a picture that
#    was still too clean. More steps or iteration bring it towards 1.</details>
# 5. In the world of cats, which share of the differences between the cats comes back at w = 3 from an exact inversion?
#    <details><summary>Answer</summary>(s_c/s_a)^(w−1) = 0.3² = 0.09.</details>
#
# ## Three things to take away
#
# 1. DDIM is one line that runs both ways; only the point at which the net is asked makes the walk inexact.
# 2. Steps and iteration repair the discretisation. Nothing repairs guidance, because it is another walk.
# 3. The noise that is found is not white: it still contains the picture.
#
# At w = 1 the rest of a picture is kept and the edit is weak; at w = 7.5 it is the reverse. **Can one keep the rest by
# force, where the edit has no business?** Then one must know *where*. That is lesson 06.
