# %% [markdown]
"""
# 05 · DDIM inversion: which noise was this picture?

Sampling turns noise into a picture. To edit a picture that was *given*, the way one edits pictures that were
generated, we need the noise that it would have come from. DDIM's walk has no dice in it, so walk it backwards: that is
DDIM inversion (Song et al., arXiv:2010.02502v4, Sec. 4.3). DiffEdit, Prompt-to-Prompt on photographs and Null-text
Inversion all begin with it, and most edits that fail have failed here.

**What you will learn**
1. that a *step* is undone exactly, and a *walk* only nearly, and where the difference comes from;
2. which time to tell the network on the way up (papers and codes disagree), and when each choice is the better one;
3. how the error falls with the steps, and how fixed-point iteration removes it;
4. to tell three losses apart: the autoencoder's, the discretisation's and the guidance's;
5. why w = 7.5 does not come back, *even from an exact inversion*: a formula;
6. what the found noise looks like, and what editing with inversion alone can do.

**What you need**: lesson 01, and the small models in `weights/`. No GPU; about a minute. A sentence that begins with
**Claim** is checked by an `assert` in the cell below it. Pictures may differ a little between machines; the asserts
carry tolerances that cover it.
"""

# %%
import json
import random

import matplotlib.pyplot as plt
import torch
from einops import reduce

# %%
from palimpsest.claims.common import draw_edits
from palimpsest.claims.draw.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RC, RED, show
from palimpsest.claims.page import RECORDS as FIGURES
from palimpsest.methods.inversion import invert, redo
from palimpsest.methods.ladder import ladder
from palimpsest.methods.sweep import sheet, sweep
from palimpsest.metrics.image import psnr
from palimpsest.notebooks.exercises import check, slope
from palimpsest.notebooks.public import public_model
from palimpsest.samplers.ddim import ddim_step, sample
from palimpsest.samplers.ddim import invert as walk_up
from palimpsest.samplers.guidance import cfg
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.judges import load_reader
from palimpsest.weights.load import load
from palimpsest.worlds.files import read_picture
from palimpsest.worlds.gaussian import GaussianWorld
from palimpsest.worlds.shapes import caption, render, sample_scene

plt.rcParams.update(RC)
MODEL, READER = "shapes", "shapes-reader"                                  # names of shipped weights, or paths
STEPS = 16                                                                 # of every walk of the trained model

# %% [markdown]
# ## 1. The failure first
#
# A picture that no training saw, and its caption. Walk up to noise without guidance (w = 1), then down again from that
# very noise: once without guidance, once with w = 7.5, the scale at which one likes to generate.
#
# **Claim.** Without guidance the picture comes back, if a little worn. With guidance something comes back that fits
# the caption and is *another picture*: at least 4 dB further away.

# %%
b, oracle = load(MODEL, "cpu"), load_reader(READER)
rng = random.Random("lesson 02")
scenes = [sample_scene(rng, things=1 + k % 2) for k in range(4)]
photos, captions = render(scenes), [caption(v) for v in scenes]
up = invert(b, photos, captions, steps=STEPS)                              # Eq. (19), w = 1
back = {w: b.decode(redo(b, up, w=w)[-1]) for w in (1., 7.5)}              # Eq. (17), Eq. (18)

fig, axes = plt.subplots(2, 7, figsize=(10.5, 3.9), layout="constrained")
for row, k in zip(axes, (0, 3)):
    show(row[0], photos[k], captions[k], width=22, above="given" if k == 0 else "")
    row[0].xaxis.label.set_fontsize(8)
    for ax, i in zip(row[1:5], (14, 10, 5, 0)):
        show(ax, b.decode(up.path[i][k:k + 1]), above=f"up, t = {up.times[i]}" if k == 0 else "")
    for ax, (w, picture) in zip(row[5:], back.items()):
        show(ax, picture[k], f"{psnr(picture, photos)[k]:.1f} dB", above=f"back, w = {w:g}" if k == 0 else "")
first = {w: psnr(picture, photos).mean().item() for w, picture in back.items()}
print("PSNR to the given pictures:", "  ".join(f"w = {w:g}: {v:.1f} dB" for w, v in first.items()))
assert first[1.] > first[7.5] + 4

# %% [markdown]
# ## 2. A step has an inverse
#
# One DDIM step keeps the noise that the network sees and changes how much of it there is. Measured in units in which
# the picture stands at full strength, $x_t/\sqrt{\bar\alpha_t} = x_0 + \sigma_t\varepsilon$, it is one line:
#
# $$\frac{x_s}{\sqrt{\bar\alpha_s}} = \frac{x_t}{\sqrt{\bar\alpha_t}} + (\sigma_s - \sigma_t)\,\hat\varepsilon.$$
#
# Nothing in it knows which of s and t is the larger. Multiplied out it is Eq. (17) for s < t, which denoises, and
# Eq. (19) for s > t, which inverts: `ddim_step(sched, x, eps, t, s)` is both.
#
# **Claim.** With the same ε̂, up and down again is nothing at all (1e-12), between any two levels.
#
# **Claim.** Both equations were printed without the $\sqrt{\bar\alpha_s}$ before their bracket. As printed they do not
# even undo each other: between t = 962 and 982 of Stable Diffusion's schedule the ε̂ term is 12 times too large.

# %%
sd = Schedule.scaled_linear()
noise = Rng([1, 2]).randn((2, 1, 8, 8)).double()
x_s, eps_hat = noise.chunk(2)
for s, t in ((0, 500), (20, 40), (300, 980)):
    there = ddim_step(sd, x_s, eps_hat, s, t)
    assert torch.allclose(ddim_step(sd, there, eps_hat, t, s), x_s, atol=1e-12, rtol=0)


def printed(x, eps, t, s):
    return (sd.at(s) / sd.at(t)) ** .5 * x + ((1 / sd.at(s) - 1) ** .5 - (1 / sd.at(t) - 1) ** .5) * eps


lost = (printed(printed(x_s, eps_hat, 962, 982), eps_hat, 982, 962) - x_s).square().mean() ** .5
print(f"up and down by the printed equations: off by {lost:.2f}; the missing factor is 1/{sd.at(962) ** -.5:.1f}")
assert lost > .1 and abs(sd.at(962) ** -.5 - 12) < .6

# %% [markdown]
# ## 3. A walk does not
#
# On the way down the step asks the network at the point where it stands, ε̂(x_t, t). On the way up we stand at x_s, and
# x_t is what we are looking for. So the network is asked at the *wrong point*, ε̂(x_s, t), in the hope that it says
# nearly the same.
#
# In the Gaussian world the network is a formula, so that this is the only error there is. Seven pictures of one pixel
# each, data N(0.7, 0.5²), ten steps. Solid lines go up, dashed ones come down.
#
# **Claim.** Ten steps lose up to 0.415 of a pixel's value. What comes back is duller, pulled towards the mean: the
# spread of the seven has shrunk.
#
# **Claim.** The noise at the top is *too quiet*: its spread is a fifth smaller than it ought to be (dots: the exact
# answer, from section 5). On the way up, each step asks a picture that is still too clean how much noise to add.

# %%
world = GaussianWorld({"": torch.full((1, 1, 7), .7)}, .5)
eps_star, x_0 = world.denoiser("", sd), torch.linspace(-1, 2, 7).double().view(1, 1, 1, 7)


def leading(steps):
    """Stable Diffusion's times: 982, 962, …, 2 for 50 steps, and then its final level 1."""
    return [*range(1000 - 1000 // steps + 2, 1, -(1000 // steps)), 1]


times = leading(10)
upward = walk_up(eps_star, sd, x_0, times)
downward = sample(eps_star, sd, upward[0], times)
fig, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
for k in range(7):
    colour = RC["axes.prop_cycle"].by_key()["color"][k % 6]
    ax.plot(times, [v[0, 0, 0, k] for v in upward], "o-", color=colour, markersize=3.5)
    ax.plot(times, [v[0, 0, 0, k] for v in downward], "--", color=colour, linewidth=1.5)
true_start = walk_up(eps_star, sd, x_0, times, iterations=50)[0]
ax.plot([times[0]] * 7, true_start[0, 0, 0], ".", color="#222222", clip_on=False)
ax.set(title="ten steps up (solid) and down again (dashed)", xlabel="t", xlim=(-25, 925))
gap = (downward[-1] - x_0)[0, 0, 0]
print("what came back, minus what was given:", [round(v, 3) for v in gap.tolist()])
assert abs(gap.abs().max() - .415) < .008 and downward[-1].std() < x_0.std()
assert .75 < upward[0].std() / true_start.std() < .85

# %% [markdown]
# ## 4. Which time to tell the network
#
# A step s → t has two times, and the network wants to hear one. Eq. (19) as printed tells it the *source* s, where the
# picture is. Google's code and today's diffusers tell it the *destination* t, which the step down will tell it too.
# diffusers changed from one to the other between releases, and edits changed with it.
#
# **Claim.** On this world the errors are those of the table (2 %): both labels are of first order, the error halves
# when the steps double, and the destination's is about half.
#
# | steps | 10 | 20 | 25 | 50 | 100 | 200 | 500 |
# |---|---|---|---|---|---|---|---|
# | destination | .415 | .213 | .171 | .0857 | .0428 | .0214 | .00857 |
# | source | .590 | .341 | .283 | .153 | .0807 | .0418 | .0175 |

# %%
def round_trip(steps, label="destination", iterations=0):
    """The largest error of the seven pixels, up and down again."""
    times = leading(steps)
    start = walk_up(eps_star, sd, x_0, times, iterations=iterations, label=label)[0]
    return (sample(eps_star, sd, start, times)[-1] - x_0).abs().max().item()


counts = (10, 20, 25, 50, 100, 200, 500)
table = {"destination": (.415, .213, .171, .0857, .0428, .0214, .00857),
         "source": (.590, .341, .283, .153, .0807, .0418, .0175)}
found = {label: [round_trip(n, label) for n in counts] for label in table}
print("steps       ", "".join(f"{n:9d}" for n in counts))
for label, errors in found.items():
    print(f"{label:12s}", "".join(f"{e:9.4f}" for e in errors), f"   slope {slope(counts, errors):.2f}")
assert all(abs(e / v - 1) < .02 for label in table for e, v in zip(found[label], table[label]))
assert all(abs(slope(counts[3:], e[3:]) + 1) < .06 for e in found.values())
assert all(d < .72 * s for d, s in zip(found["destination"], found["source"]))

# %% [markdown]
# Why half? Let x_0 ~ N(0, s²) and follow the exact path. Over a step that raises ln σ by h, the two labels get ε̂ wrong
# by, relatively,
#
# $$\text{source: } \frac{s^2}{s^2+\sigma^2}\,h, \qquad
# \text{destination: } \frac{\sigma^2\,(1-s^2)}{(s^2+\sigma^2)(1+\sigma^2)}\,h.$$
#
# Read it. For data of **unit variance** the destination label makes no first-order error at all: the noisy pictures of
# a VP walk keep their size, so the wrong point is no wrong point. Latents are scaled to unit variance, which is why
# everyone finds this label the better one. It is not a law.

# %%
def missed(s, t, label):
    """How wrong ε̂ is in one step t−1 → t, relative, per unit of ln σ."""
    narrow, before, after = GaussianWorld({"": torch.zeros(1, 1, 1)}, s), sd.at(t - 1), sd.at(t)
    here = torch.ones(1, 1, 1, 1).double()
    wanted = narrow.eps(narrow.flow(here, before, after), after)
    told = narrow.eps(here, after if label == "destination" else before)
    return (1 - told / wanted).item() / torch.tensor(sd.sigma(t) / sd.sigma(t - 1)).log().item()


def formula(s, t, label):
    k = s ** 2 / (s ** 2 + sd.sigma(t - .5) ** 2)
    return k if label == "source" else (1 - k) * (1 - s ** 2) * sd.at(t - .5)


def lost_share(s, label, steps=50):
    """The worst round trip of seven pixels within two standard deviations, in standard deviations."""
    eps, x = GaussianWorld({"": torch.full((1, 1, 7), .7)}, s).denoiser("", sd), .7 + (x_0 - .5) * s / .75
    start = walk_up(eps, sd, x, leading(steps), label=label)[0]
    return (sample(eps, sd, start, leading(steps))[-1] - x).abs().max().item() / s


# %% [markdown]
# **Claim.** One step of the schedule errs as the formulas say (1 %).
#
# **Claim.** Where the data is narrow, s = 0.02, the *source* label wins: 0.23 of a standard deviation lost against
# 1.41. (The path to a single point is a straight line, and along it ε̂ does not change: yesterday's answer is exact.)

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.7), layout="constrained")
levels, widths = range(20, 1000, 40), (.02, .05, .1, .2, .35, .5, .7, 1., 1.4)
for s, colour in ((.1, ORANGE), (.5, BLUE)):
    for label, line in (("source", "--"), ("destination", "-")):
        left.semilogx([sd.sigma(t) for t in levels], [missed(s, t, label) for t in levels], line, color=colour,
                      label=f"{label}, s = {s:g}")
left.set(title="ε̂ missed in one step, per ln σ", xlabel="σ")
lost_by = {label: [lost_share(s, label) for s in widths] for label in ("source", "destination")}
for (label, values), line in zip(lost_by.items(), ("--", "-")):
    right.loglog(widths, values, line, marker="o", color=GREY, label=label)
right.set(title="lost by 50 steps (in standard deviations)", xlabel="s, the width of the data")
left.legend(fontsize=9)
right.legend()
assert all(abs(missed(s, t, label) - formula(s, t, label)) < .01 * max(formula(s, t, label), .01)
           for s in (.1, .5, 1.) for t in (50, 200, 500, 900) for label in lost_by)
assert abs(lost_by["source"][0] - .23) < .01 and abs(lost_by["destination"][0] - 1.41) < .02

# %% [markdown]
# And the trained model, whose latents have unit variance?
#
# **Claim.** There the destination label comes back at least half a decibel closer. It is the default of `invert`.

# %%
by_source = invert(b, photos, captions, steps=STEPS, label="source")
labels = {"destination": first[1.], "source": psnr(b.decode(redo(b, by_source, w=1.)[-1]), photos).mean().item()}
print("round trip at w = 1:", "  ".join(f"{label} label {v:.1f} dB" for label, v in labels.items()))
assert labels["destination"] > labels["source"] + .5

# %% [markdown]
# ## 5. Solve, do not guess
#
# x_t is what satisfies $x_t = \mathrm{step}(x_s, \hat\varepsilon(x_t, t))$: an equation with x_t on both sides. Start
# with the plain step and put its answer in on the right, k times. This is fixed-point iteration, and it costs k more
# calls a step (cf. arXiv:2309.04907v4).
#
# **Claim.** Each round gains an order: slopes −1, −2, −3, −4 for k = 0 … 3.
#
# **Claim.** Fifty steps with five rounds lose 1.1 · 10⁻⁷, where without they lose 0.086. (That is 300 calls for
# the way up. 250 plain steps still lose 0.017.)

# %%
counts = (20, 40, 80, 160)
refined = {k: [round_trip(n, iterations=k) for n in counts] for k in (0, 1, 2, 3, 5)}
fig, ax = plt.subplots(figsize=(7, 3.7), layout="constrained")
for (k, errors), colour in zip(refined.items(), (BLUE, ORANGE, GREEN, PURPLE, RED)):
    ax.loglog(counts, errors, "o-", color=colour, label=f"k = {k}: slope {slope(counts, errors):.2f}")
ax.set(title="largest error of the round trip", xlabel="steps")
ax.set_xticks(counts, counts)
ax.minorticks_off()
fig.legend(loc="outside right center")
five, plain = round_trip(50, iterations=5), round_trip(250)
print(f"50 steps, five rounds: {five:.1e}; 250 steps, no rounds: {plain:.4f}")
assert all(abs(slope(counts, refined[k]) + k + 1) < .2 * (k + 1) for k in (0, 1, 2, 3))
assert abs(five / 1.1e-7 - 1) < .1 and abs(plain - .017) < .001

# %% [markdown]
# ## 6. Three losses
#
# A photograph passes three things on its way there and back, and each takes its toll:
#
# 1. the **autoencoder**: encode and decode, without any walk. No method that works on latents does better;
# 2. the **discretisation**: sections 3 to 5, mended by more steps or by iteration;
# 3. the **guidance**: the next section, mended by neither.
#
# **Claim.** At w = 1 more steps come closer (32 steps beat 4 by at least 2 dB), three rounds of iteration at 16 steps
# beat 16 plain ones, and nothing passes the autoencoder's floor by more than half a decibel.

# %%
floor = psnr(b.decode(b.encode(photos)), photos).mean().item()
trips = {0: {2 * STEPS: first[1.]}, 3: {}}                                  # rounds -> {network calls: dB}
for k, steps in ((0, 4), (0, 8), (0, 32), (3, 8), (3, 16)):
    found = invert(b, photos, captions, steps=steps, iterations=k)
    trips[k][found.calls + steps] = psnr(b.decode(redo(b, found, w=1.)[-1]), photos).mean().item()
exact = found                                                              # 16 steps, three rounds: used again below

fig, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
for (k, points), colour in zip(trips.items(), (BLUE, GREEN)):
    ax.semilogx(*zip(*sorted(points.items())), "o-", color=colour, label=f"{k} rounds")
ax.axhline(floor, color=GREY, linestyle="--", linewidth=1)
ax.text(8, floor, "autoencoder", color=GREY, va="bottom", fontsize=9)
ax.set(title="there and back at w = 1 (dB to the picture)", xlabel="network calls, both ways")
ax.set_xticks((8, 16, 32, 64), (8, 16, 32, 64))
ax.minorticks_off()
ax.legend(loc="lower right")
assert trips[0][64] > trips[0][8] + 2 and trips[3][80] > trips[0][32]
assert max(v for points in trips.values() for v in points.values()) < floor + .5

# %% [markdown]
# ## 7. Guidance is another walk
#
# A world of two Gaussians: "cat" pictures are N(1, 0.3²), pictures of anything N(0, 1). Both answers are formulas, so
# guidance is one too.
#
# **Claim.** Inverted at w = 1, a cat one standard deviation out arrives at 1.14: a fair piece of noise. Inverted *at
# w = 7.5*, so that the way up matches the way down, it arrives at 696. The way up amplifies what the way down
# compresses, and no walk that starts from N(0, 1) ever comes from there.
#
# **Claim.** So invert at 1 and come down at w? With iteration the inversion is exact (at w = 1 it comes back to 10⁻⁵),
# and still the way down at w = 7.5 leaves less than a thousandth of what told the seven cats apart. **It is not an
# error of the inversion: the guided walk goes somewhere else.**

# %%
cats = GaussianWorld({"cat": torch.ones(1, 1, 1), "": torch.zeros(1, 1, 1)}, {"cat": .3, "": 1.})
guided = lambda w: cfg(cats.text_denoiser(sd), cats.embed("cat"), cats.embed(""), w)              # Eq. (18)
times, out = leading(50), torch.tensor([.7, 1.3]).double().view(2, 1, 1, 1)
tops = {w: walk_up(guided(w), sd, out, times)[0] for w in (1., 7.5)}
seven = torch.linspace(.4, 1.6, 7).double().view(1, 1, 1, 7)
rise = walk_up(guided(1.), sd, seven, times, iterations=6)
falls = {w: sample(guided(w), sd, rise[0], times) for w in (1., 2., 7.5)}

fig, axes = plt.subplots(1, 4, figsize=(12, 3.4), sharey=True, layout="constrained")
for ax, (name, path) in zip(axes, {"up, w = 1": rise, **{f"down, w = {w:g}": v for w, v in falls.items()}}.items()):
    ax.plot(times, torch.stack(path)[:, 0, 0, 0], linewidth=1.3)
    ax.set(title=name, xlabel="t", xlim=(-25, 1000))
one, many = tops[1.][1].item(), tops[7.5].square().mean().sqrt().item()
shrunk = {w: (path[-1].std() / seven.std()).item() for w, path in falls.items()}
print(f"inverted at w = 1: {one:.2f}; at w = 7.5: {many:.0f}")
print("spread that comes back:", "  ".join(f"w = {w:g}: {v:.2g}" for w, v in shrunk.items()))
assert abs(one / 1.14 - 1) < .01 and abs(many / 696 - 1) < .02
assert (falls[1.][-1] - seven).abs().max() < 1e-5 and shrunk[7.5] < 1e-3

# %% [markdown]
# Here one can say how much is lost. Let s be the width of the cats and S that of everything. In units of full strength a
# spread δ of the guided flow obeys $\frac{d\ln\delta}{d\sigma} = \sigma\left[\frac{w}{s^2+\sigma^2} -
# \frac{w-1}{S^2+\sigma^2}\right]$. Integrate from high σ down to 0, and divide by the same at w = 1:
#
# $$\text{of the spread there comes back } \left(\frac{s}{S}\right)^{w-1}.$$
#
# The more a prompt says (s ≪ S), and the stronger it is said, the less a picture can say for itself.
#
# **Claim.** With 900 steps and an exact inversion the walk agrees within 10 % for w = 1.5, 2 and 3: 0.55, 0.3, 0.09.

# %%
fine = sd.times(900, .98)
start = walk_up(guided(1.), sd, seven, fine, iterations=2)[0]
for w in (1.5, 2., 3.):
    share = (sample(guided(w), sd, start, fine)[-1].std() / seven.std()).item()
    print(f"w = {w:g}: {share:.3f} of the spread comes back (expected {.3 ** (w - 1):.3f} ± 10 %)")
    assert abs(share / .3 ** (w - 1) - 1) < .1

# %% [markdown]
# The trained model, with plain inversion and with an (almost) exact one.
#
# **Claim.** The round trip gets worse with every w, by at least 5 dB from 1 to 7.5. Iterating the inversion mends
# w = 1 and gains less than 1 dB at w = 7.5. Inverting at w = 7.5 leaves the shell: the noise has a larger spread than
# that of w = 1.

# %%
scales, comes_back = (1., 2., 4., 7.5), lambda found, w: psnr(b.decode(redo(b, found, w=w)[-1]), photos).mean().item()
curve = {"plain inversion": (scales, [first[1.], comes_back(up, 2.), comes_back(up, 4.), first[7.5]]),
         "three rounds": ((1., 3., 7.5), [trips[3][80], comes_back(exact, 3.), comes_back(exact, 7.5)])}
shell = {1.: up.start.std().item(), 7.5: invert(b, photos, captions, steps=STEPS, w=7.5).start.std().item()}
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
for (name, (at, values)), colour in zip(curve.items(), (BLUE, GREEN)):
    ax.plot(at, values, "o-", color=colour, label=name)
ax.axhline(floor, color=GREY, linestyle="--", linewidth=1)
ax.set(title="inverted at w = 1, back at w (dB; dashed: autoencoder)", xlabel="w", xticks=scales)
ax.legend()
plain, rounds = (values for _, values in curve.values())
print("std of the noise, inverted at", "  ".join(f"w = {w:g}: {v:.2f}" for w, v in shell.items()))
assert all(x > y for x, y in zip(plain, plain[1:])) and plain[0] > plain[-1] + 5
assert rounds[0] > plain[0] and rounds[-1] < plain[-1] + 1
assert shell[7.5] > shell[1.]

# %% [markdown]
# ## 8. Is it noise?
#
# The network was trained on noise that is white: every cell for itself, spread 1 everywhere. What does an inversion
# find? Below, three channels of each start as colours.

# %%
white = Rng.of(7, 6).randn((6, *b.latent_shape))
starts = {"plain inversion": up.start, "three rounds": exact.start, "real noise": white}
fig, axes = plt.subplots(2, 4, figsize=(8, 4.4), layout="constrained")
for row, k in zip(axes, (0, 3)):
    show(row[0], photos[k], above="given" if k == 0 else "")
    for ax, (name, z) in zip(row[1:], starts.items()):
        show(ax, z[k, :3] / 2.5, above=name if k == 0 else "", smooth=False)


def likeness(z):
    """The correlation of cells that lie side by side."""
    return ((z[..., 1:] * z[..., :-1]).mean() / z.square().mean()).item()


def unevenness(z):
    """The power of the loudest tenth of a picture's cells over that of its quietest."""
    power = reduce(z ** 2, "b c y x -> b (y x)", "mean").quantile(torch.tensor([.1, .9]), 1)
    return (power[1] / power[0]).mean().item()


# %% [markdown]
# **Claim.** What plain inversion finds is too quiet, by more than a tenth, as section 3 foretold. Three rounds of
# iteration make it louder.
#
# **Claim.** Neither is white. Neighbours agree (correlation above 0.05, where white noise has 0 ± 0.03), and it is loud
# where the picture has things and quiet where it has ground: between the loudest and the quietest tenth of the cells
# the power differs at least 1.5 times as much as in real noise. One can see the picture in it. That is why an inverted
# start edits *differently* from a drawn one: it insists.

# %%
stats = {name: (z.std().item(), likeness(z), unevenness(z)) for name, z in starts.items()}
for name, (spread, alike, uneven) in stats.items():
    print(f"{name:16s} spread {spread:.2f}   neighbours {alike:+.2f}   loud over quiet {uneven:5.1f}")
(quiet, *plain_shape), (louder, *round_shape), (_, *white_shape) = stats.values()
assert quiet < .9 and louder > quiet
assert min(plain_shape[0], round_shape[0]) > .05 > .03 > abs(white_shape[0])
assert min(plain_shape[1], round_shape[1]) > 1.5 * white_shape[1]

# %% [markdown]
# ## 9. Editing with inversion alone
#
# The simplest edit there is: go up under the caption, come down under another one. What holds the rest in place is the
# noise alone; what changes the thing is the other words, times w.
#
# **Claim.** Outside of what the true edit changes, the picture gets worse from w = 1 over 3 to 7.5, by at least 5 dB in
# all. (How many of four obey their words is printed, and too few to claim anything from. That even w = 1 obeys at times
# is a gift of this small world, in which words leave little open; Stable Diffusion at w = 1 hardly listens.)

# %%
drawn = draw_edits(4, ("recolour",), 2, things=1)
source_up = invert(b, drawn.before, drawn.source, steps=STEPS)
swaps = {w: b.decode(redo(b, source_up, drawn.target, w=w)[-1]) for w in (1., 3., 7.5)}
fig, axes = plt.subplots(2, 5, figsize=(8, 4), layout="constrained")
for row, k in zip(axes, (0, 1)):
    show(row[0], drawn.before[k], drawn.target[k], width=26, above="given" if k == 0 else "")
    row[0].xaxis.label.set_fontsize(8)
    for ax, (w, picture) in zip(row[1:], swaps.items()):
        show(ax, picture[k], above=f"w = {w:g}" if k == 0 else "")
    show(row[4], drawn.after[k], above="the true edit" if k == 0 else "")
kept = {w: psnr(v, drawn.before, 1 - drawn.changed).mean().item() for w, v in swaps.items()}
done = {w: int(oracle.right(v, drawn.wanted).sum()) for w, v in swaps.items()}
for w in swaps:
    print(f"w = {w:g}: {done[w]} of 4 all right, {kept[w]:.1f} dB outside the change")
assert kept[1.] > kept[3.] > kept[7.5] and kept[1.] > kept[7.5] + 5

# %% [markdown]
# ## 10. The error ladder
#
# Before an edit is blamed, climb the ladder: what comes back by each way, and what it costs. The rungs above w = 7.5
# are the subject of lesson 08; `palimpsest invert photo.png --prompt "…"` prints the same table for any picture. Here it
# has eight steps.
#
# **Claim.** Negative-prompt is w = 1 at any scale (0.05 dB), direct is the autoencoder's floor to the bit, w = 7.5 is
# the lowest, and null-text lifts it by at least 3 dB, for the most calls of all.

# %%
rungs = ladder(b, photos[:2], captions[:2], steps=8, w=7.5)
by_name = {r.name: r.psnr.mean().item() for r in rungs}
record = FIGURES / "null_text.json"
measured = {r["name"]: r["db"] for r in json.loads(record.read_text("utf-8"))["rungs"]} if record.exists() else {}
fig, ax = plt.subplots(figsize=(9, 4), layout="constrained")
for i, r in enumerate(rungs):
    ax.barh(i, by_name[r.name], height=.6, color=GREY if i == 0 else ORANGE if r.name == "w = 7.5" else BLUE)
    ax.text(.5, i, f"{by_name[r.name]:.1f} dB, {r.forwards} calls" + (f", {r.backwards} with a gradient" if r.backwards else ""),
            va="center", color="white", fontsize=9)
    ax.plot(measured.get(r.name, float("nan")), i, "x", color="#222222")
ax.set_yticks(range(len(rungs)), list(by_name))
ax.invert_yaxis()
ax.grid(axis="y", visible=False)
ax.set(xlabel="PSNR to the given picture (dB)" + (", crosses: as `make claims` measured on more" if measured else ""))
assert abs(by_name["negative-prompt"] - by_name["w = 1"]) < .05 and by_name["direct"] == by_name["autoencoder"]
assert min(by_name, key=by_name.get) == "w = 7.5" and by_name["null-text"] > by_name["w = 7.5"] + 3
assert max(rungs, key=lambda r: r.forwards + r.backwards).name == "null-text"

# %% [markdown]
# ## Where this breaks
#
# **Iteration under guidance.** Fixed-point iteration converges where one round shrinks the error. At w = 1 it mostly
# does, where the answer changes smoothly from point to point; the guided answer changes w times as fast.
#
# **Claim.** In the world of cats at w = 7.5, five rounds make 20 steps *worse* (0.7 → 10) and mend 200 steps (0.4 →
# 3 · 10⁻⁵). If you must iterate, iterate at w = 1.

# %%
guided_trip = {}
for steps in (20, 50, 100, 200):
    for k in (0, 1, 5):
        top = walk_up(guided(7.5), sd, seven, leading(steps), iterations=k)[0]
        guided_trip[steps, k] = (sample(guided(7.5), sd, top, leading(steps))[-1] - seven).abs().max().item()
    print(f"{steps:3d} steps:", "   ".join(f"k = {k}: {guided_trip[steps, k]:.2g}" for k in (0, 1, 5)))
assert guided_trip[20, 5] > 5 * guided_trip[20, 0] and guided_trip[200, 5] < 1e-4 < guided_trip[200, 0]

# %% [markdown]
# **The wrong caption is hardly noticed.** At w = 1 any text that stays the same on both ways comes back, if only the
# steps are small enough: the round trip does not tell whether the caption fits. The walk down under guidance does.
#
# **Claim.** At w = 1 the trip under another picture's caption wants more steps, and that is all: eight times as many
# bring the first picture at least 5 dB closer. At w = 7.5 it is the wrong caption's picture that comes back: further away
# than at w = 1 by at least 4 dB.

# %%
others = captions[1:] + captions[:1]
misled = invert(b, photos, others, steps=STEPS)
wrong = {w: b.decode(redo(b, misled, w=w)[-1]) for w in (1., 7.5)}
fig, axes = plt.subplots(1, 3, figsize=(6, 2.7), layout="constrained")
for ax, picture, above in zip(axes, (photos, *wrong.values()), ("given", "back, w = 1", "back, w = 7.5")):
    show(ax, picture[0], f"told “{others[0]}”" if ax is axes[1] else "", above=above, width=30)
axes[1].xaxis.label.set_fontsize(8)
far = {w: psnr(v, photos).mean().item() for w, v in wrong.items()}
print("under a wrong caption:", "  ".join(f"w = {w:g}: {v:.1f} dB (right: {first[w]:.1f})" for w, v in far.items()))
patient = psnr(b.decode(redo(b, invert(b, photos[:1], others[:1], steps=8 * STEPS), w=1.)[-1]), photos[:1]).item()
hasty = psnr(wrong[1.][:1], photos[:1]).item()
print(f"the first at w = 1: {hasty:.1f} dB in {STEPS} steps, {patient:.1f} dB in {8 * STEPS}")
assert patient > hasty + 5
assert far[1.] > far[7.5] + 4

# %% [markdown]
# ### Why did my edit fail?
#
# | what you see | why | turn |
# |---|---|---|
# | the picture is lost although nothing was asked for | guidance, section 7 | w down to 1 … 3; else lesson 08 |
# | it comes back dull, edges soft | too few steps | steps up; or `iterations=1` |
# | it is soft even with 100 steps | the autoencoder's floor | nothing here; paste what a mask keeps (lesson 06) |
# | nothing changes | w too low: the noise insists on the picture | w up, as far as the rest bears it; more in lesson 08 |
# | all of it changes | the walk began too high, or w is too high | `top` down to 0.5 … 0.7; w down; injection (lesson 07) |
# | another picture comes back | other steps, times or label on the two ways | the same `Inversion` for both: `redo` |
# | NaN, or an enormous start | inverted with w > 1 | invert at w = 1, always |
#
# One call each shows which: `sweep` tries every combination of two knobs, `sheet` lays them out. First the round trip;
# then the recolouring of section 9, where `top` is how far up the walk goes.
#
# **Claim.** Walking only half-way up keeps more than walking to the top (mean over the w of the sheet).

# %%
def trip(steps, w):
    return b.decode(redo(b, invert(b, photos[:1], captions[:1], steps=steps), w=w)[-1])


def recolour(top, w):
    found = invert(b, drawn.before[:1], drawn.source[:1], steps=10, top=top)
    return b.decode(redo(b, found, drawn.target[:1], w=w)[-1])


back_again, edits = sweep(trip, {"steps": [4, 16], "w": [1., 3., 7.5]}), sweep(recolour, {"top": [.5, .98], "w": [1., 3., 7.5]})
fig, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
for ax, swept, before in zip(axes, (back_again, edits), (photos, drawn.before)):
    show(ax, sheet(swept, of=lambda picture: picture, before=before, scale=2) / 127.5 - 1)
axes[0].set_title("there and back")
axes[1].set_title(f"→ {drawn.target[0]}", fontsize=10)
keeps = [psnr(picture, drawn.before[:1], 1 - drawn.changed[:1]).item() for picture in edits.results]
assert sum(keeps[:3]) > sum(keeps[3:])

# %% [markdown]
# ## Exercises
#
# Solutions are in `notebooks/solutions/05_ddim_inversion.py`. Each cell says whether you are right.
#
# **1. Upward.** Write the step of Eq. (19) yourself: from x_s at level ᾱ_s to level ᾱ_t, given ε̂.


# %%
def upward_step(x_s, eps, abar_s, abar_t):
    """x_t."""
    raise NotImplementedError


check("05.1", upward_step)

# %% [markdown]
# **2. The bill.** 50 steps, up at w = 1 with three rounds of iteration, down at w = 7.5. How many times does the
# network look at the picture?

# %%
answer = None                                                              # a number
check("05.2", answer)

# %% [markdown]
# **3. Where labels tie.** In a world N(0, 0.3²), at which σ do the two labels get ε̂ wrong by the same amount?

# %%
answer = None                                                              # a number
check("05.3", answer)

# %% [markdown]
# ## The same on Stable Diffusion
#
# With public weights at hand, the very same calls climb the ladder for a photograph; without them, or without a GPU,
# this cell says so and stops.

# %%
large = public_model("stable-diffusion-v1-5", torch.float32)
if large is not None:
    photograph = read_picture(FIGURES / "hand" / "flower.jpg", size=large.size, grid=large.grid)
    for r in ladder(large, photograph, "a photo of a flower", steps=50):
        print(f"{r.name:20s} {r.psnr.item():5.1f} dB   {r.forwards} calls, {r.backwards} with a gradient")
