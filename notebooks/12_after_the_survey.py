# %% [markdown]
"""
# 12 · After the survey: FlowEdit and Text2LIVE

Lessons 04 to 11 follow a survey of editing with diffusion models that ends in 2022. This lesson adds two methods.
FlowEdit (Kulikov et al., arXiv:2412.08629v1) came later and is the simplest edit of all: the picture is carried along
the *difference* of what a model predicts under two texts. There is no inversion, no mask and no training. It was written
for flow models such as Stable Diffusion 3; section 1 shows that every model of this course is one. Text2LIVE (Bar-Tal et
al., arXiv:2204.02491v2) is from 2022; the papers of InstructPix2Pix and of null-text inversion compare with it. It uses
no diffusion model at all: it paints a transparent layer over the picture, and CLIP says what on it.

**What you will learn**
1. why a diffusion model *is* a flow model, and why Euler's method on one is DDIM on the other, exactly;
2. to write FlowEdit in eight lines, equal to the library to the bit;
3. when FlowEdit's edit is exact (a closed form), and when it stops early;
4. what it keeps beside DDIM inversion and beside DiffEdit, on 256 edits;
5. what a layer over a picture can do and what it cannot, and why the losses do not notice.

**What you need**: lessons 01 (DDIM), 03 (guidance), 05 (inversion); for section 5 lesson 06, for sections 6 and 7 CLIP
from lesson 03. The models `shapes`, `shapes-reader` and `shapes-clip` in `weights/`. About 45 minutes, without a GPU.
Sections marked *deeper* are optional. A paragraph that begins with **Claim** is checked by an `assert` in the cell
below it.
"""

# %% [markdown]
# ## Symbols
#
# | in the paper | here | in code | meaning | shape or range |
# |---|---|---|---|---|
# | t (FlowEdit) | s, and r for the next one | `s`, `r` | flow time: 0 is the picture, 1 is noise | [0, 1] |
# | Z_t | X_s | `X` | the noisy picture on the straight line | (b, c, y', x') |
# | V(Z_t, t, c) | u(X_s, s, c) | `u` | velocity: predicted noise minus predicted picture | like X_s |
# | Z^FE | Z | `z`, `path` | the picture while it is edited; it holds no noise | like X_s |
# | n_max / T | s of the start | `start` | where the walk begins; higher edits more | (0, 1] |
# | n_avg | n | `averages` | noises that are averaged in each step | whole |
# | – | Δ | `delta` | difference of the means of two Gaussians, μ_b − μ_a | like x₀ |
# | C, α (Text2LIVE) | the same | `colours`, `opacity` | the layer | [−1, 1]; [0, 1] |
# | T, T_screen, T_ROI | the same | `target`, `layer`, `source` | texts for result, layer and input | strings |

# %%
from itertools import pairwise

import torch

from palimpsest.notebooks import plots
from palimpsest.weights.judges import load_reader
from palimpsest.weights.load import load

plots.begin()
model, reader = load("shapes", "cpu"), load_reader("shapes-reader")
sched = model.schedule
STEPS, START, W = 12, 0.85, 3.0  # of every FlowEdit below, unless it is varied

# %% [markdown]
# ## 1. One model, three coordinate systems
#
# A flow model noises a picture along a straight line, $X_s = (1 - s)\,x_0 + s\,\varepsilon$, and learns the velocity of
# this line, $u = \mathrm E[\varepsilon - x_0 \mid X_s]$. Compare with lesson 01. There,
# $x_t = \sqrt{\bar\alpha}\,x_0 + \sqrt{1-\bar\alpha}\,\varepsilon$, and $x_t/\sqrt{\bar\alpha} = x_0 + \sigma\varepsilon$.
# All three are the same picture plus noise, in the ratio 1 : σ. Only the common factor differs. So
#
# $$s = \frac{\sigma}{1 + \sigma}, \qquad X_s = (1 - s)\,\frac{x_t}{\sqrt{\bar\alpha_t}} \quad\text{Eq. (23)},
# \qquad u = \hat\varepsilon - \hat x_0 \quad\text{Eq. (24)}.$$
#
# The cell asks our trained noise predictor for a velocity. Nothing is retrained.

# %%
@torch.no_grad()
def u(X, s, text, w=1.0):
    t = sched.t_of_sigma(s / (1 - s))  # the time with as much noise
    a = sched.at(t)
    x_t = a**0.5 / (1 - s) * X  # Eq. (23), solved for x_t
    if w == 1:
        eps = model.eps(x_t, t, text)
    else:  # Eq. (7)
        none, eps = model.eps(torch.cat([x_t, x_t]), t, torch.cat([empty, text])).chunk(2)
        eps = none + w * (eps - none)
    return eps - (x_t - (1 - a) ** 0.5 * eps) / a**0.5  # Eq. (24): ε̂ − x̂_0

# %% [markdown]
# What does Euler's method do with it? $X_s = (1-s)\,\hat x_0 + s\,\hat\varepsilon$, so
# $X_s + (r - s)\,u = (1-r)\,\hat x_0 + r\,\hat\varepsilon$: keep both predictions and mix them for the next level. That is
# what DDIM does.
#
# **Claim.** Euler's step in s is DDIM's step, not nearly but exactly (10⁻¹² in float64, up and down, in a Gaussian world
# where the model is a formula).

# %%
from palimpsest.samplers import flow
from palimpsest.samplers.ddim import ddim_step
from palimpsest.samplers.flow import flow_time, flow_times, to_flow, velocity
from palimpsest.samplers.schedule import Schedule
from palimpsest.worlds.gaussian import GaussianWorld

vp, world = Schedule.cosine(), GaussianWorld({"": torch.full((1, 1, 1), 0.5)}, 0.3)
eps_star, x = world.denoiser("", vp), torch.linspace(-2, 2, 9).double().view(9, 1, 1, 1)
for t, to in ((900, 700), (500, 20), (40, 980)):
    ddim = to_flow(vp, ddim_step(vp, x, eps_star(x, t), t, to), to)
    X, ends = to_flow(vp, x, t), (flow_time(vp, t), flow_time(vp, to))
    assert torch.allclose(flow.euler_step(velocity(eps_star, vp), X, *ends), ddim, atol=1e-12)

# %%
times = flow_times(200, top := flow_time(vp, 980))
walk = flow.flow_walk(velocity(eps_star, vp), top * x + (1 - top) * 0.5, times)
walk = torch.stack(walk)[..., 0, 0, 0]
s = torch.tensor(times)[:, None]
abar = 1 / (1 + (s / (1 - s)) ** 2)
fig, axes = plots.panels(3, height=2.3)
axes[0].plot((1 - abar) ** 0.5, walk / (1 - s) * abar**0.5, color=plots.PALETTE[0], linewidth=1)
axes[1].plot(s / (1 - s), walk / (1 - s), color=plots.PALETTE[0], linewidth=1)
axes[2].plot(s, walk, color=plots.PALETTE[0], linewidth=1)
axes[1].set(xlim=(0, 6), ylim=(-13, 13))
names = {"VP: x_t": "√(1 − ᾱ)", "VE: x_t / √ᾱ": "σ", "flow: X_s": "s"}
_ = [ax.set(title=name, xlabel=level) for ax, (name, level) in zip(axes, names.items())]

# %% [markdown]
# **Figure 12.1.** *Nine walks from noise (right) to pictures of one pixel (left), drawn in three coordinate systems.* It
# is the same walk three times. On the left (VP) the state keeps its size and the lines bend. In the middle (VE) the lines
# are nearly straight, but the noise grows without limit. On the right (flow) they are nearly straight, too, and everything
# stays between picture and noise. One Euler step is the same in both: it is DDIM's. What flow time gains is a level that
# runs from 0 to 1; a model that is *trained* in it answers the same question as ours.

# %%
from palimpsest.claims.common import draw_edits
from palimpsest.methods.flow_edit import walked
from palimpsest.samplers.noise import Rng

pairs = draw_edits(16, ("recolour", "reshape", "retexture", "background"), 1212, things=1)
R, Q = model.embed(pairs.source), model.embed(pairs.target)
empty, x_0 = model.embed("").expand(16, -1, -1), model.encode(pairs.before)
times = walked(sched, STEPS, START)  # 0.85, 0.765, …, 0.085, 0
rng = Rng.of(3, 16)  # one stream of noise for each picture

# %% [markdown]
# ## The method, from nothing
#
# Editing by inversion (lesson 05) walks from the picture up to noise under the source text and down again under the
# target text. Both walks see nearly the same noisy pictures. FlowEdit takes only their *difference*. Z begins as
# the picture. At each level the picture is noised, $X_{\rm src}$, and so is Z, $X_{\rm tar}$, **by the same noise**. Both
# are shown to the model, each under its own text, and Z moves along the difference of the answers (Eq. (26) and (27)):
#
# $$X_{\rm tar} = X_{\rm src} + Z - x_0$$
#
# $$V = \mathrm E_\varepsilon\,[\,u(X_{\rm tar}, s \mid \text{target}) - u(X_{\rm src}, s \mid \text{source})\,]$$
#
# Where the texts agree, both answers agree, and nothing moves. Open the paper at Fig. 2: there (a) is inversion, (b) is
# the same edit drawn as one path from picture to picture, and (c) is FlowEdit, which takes the path of (b) but draws the
# noise afresh instead of computing it; here (a) is lesson 05, and the cell below is (c).

# %%
z = x_0
for s, r in pairwise(times):  # the paper's Alg. 1
    eps = rng.randn(x_0.shape)  # fresh noise in every step
    # Eq. (23): the given picture, noised along the straight line
    x_src = (1 - s) * x_0 + s * eps
    # Eq. (26): the edited picture under the same noise
    x_tar = x_src + (z - x_0)
    # Eq. (27), with one noise: what the target wants and the source does not
    V = u(x_tar, s, Q, W) - u(x_src, s, R)
    # Eq. (25), Euler: r < s, so this walks towards the edit
    z = z + (r - s) * V
mine = model.decode(z)

# %% [markdown]
# **Claim.** This is the library's `flow_edit`, to the bit.

# %%
from palimpsest.methods.flow_edit import flow_edit

settings = dict(steps=STEPS, start=START, w_source=1.0, w_target=W, seed=3)
edit = flow_edit(model, pairs.before, pairs.source, pairs.target, **settings)
assert torch.equal(z, edit.path[-1])
assert torch.equal(mine, edit.raw)
print(f"{edit.calls} evaluations of the net for each picture")

# %% [markdown]
# ## 2. Beside the inversion that it replaces
#
# The same sixteen pictures, the same levels, the same guidance and the same 30 evaluations, by DDIM inversion under the
# source text and sampling under the target text.
#
# **Claim.** FlowEdit comes nearer to the true edit, in the mean of sixteen (the 95 % interval of the paired difference in
# PSNR lies above 0).

# %%
from palimpsest.metrics.image import psnr
from palimpsest.notebooks.intervals import mean_interval
from palimpsest.samplers.ddim import invert, sample

up = invert(model.denoiser(pairs.source), sched, x_0, edit.levels)
down = sample(model.denoiser(pairs.target, W), sched, up[0], edit.levels)
inverted = model.decode(down[-1])
for name, made in {"FlowEdit": edit.picture, "inversion": inverted}.items():
    right, db = reader.right(made, pairs.wanted), psnr(made, pairs.after)
    print(f"{name:9s} {int(right.sum()):2d} of 16 right, {db.mean():.1f} dB to the true edit")
assert mean_interval(psnr(edit.picture, pairs.after) - psnr(inverted, pairs.after))[0] > 0

# %%
columns = [pairs.before, edit.picture, inverted, pairs.after]
plots.pictures([c[:8] for c in columns], left=("given", "FlowEdit", "inversion", "true edit"),
               below=[[""] * 8] * 3 + [list(pairs.kinds[:8])]);

# %% [markdown]
# **Figure 12.2.** *Eight edits of four kinds.* FlowEdit (second row) keeps the waves of the first ground, which inversion
# loses, and turns the blue ground green and the yellow one black, where inversion changes nothing at all (fourth and last
# column): the noise that inversion finds still holds the old ground, and from it the old ground comes back. FlowEdit
# fails too, in smaller ways. Its third edit, a square that should become striped, *moved*, and
# its stripes are blocks. The star has soft, wavy points. The white circle and the yellow one lost their clean outline.

# %%
moments, climb, descent = (0, 2, 4, 6, 8, 10), (10, 6, 3, 0), (5, 10)
through_noise = [up[n] for n in climb] + [down[n] for n in descent]
rows = [[model.decode(edit.path[n][k : k + 1]) for n in moments] for k in (0, 3)]
rows += [[model.decode(state[k : k + 1]) for state in through_noise] for k in (0, 3)]

# %%
straight = [f"s = {edit.times[n]:.2f}" for n in moments]
way = zip(("start", "up", "up", "top", "down", "end"), climb + descent)
there_and_back = [f"{word}, s = {edit.times[n]:.2f}" for word, n in way]
plots.pictures(rows, left=("FlowEdit", "", "inversion", ""), side=1.0,
               below=[[""] * 6, straight, [""] * 6, there_and_back]);

# %% [markdown]
# **Figure 12.3.** *Two edits while they are made, each level below its two rows.* FlowEdit walks down once, inversion up
# and down again. FlowEdit's Z never looks like noise: at every moment it is a picture between the two. Large things are
# decided early, at large s, and details late, as in ordinary sampling. On the way, the second ground is a mixture of blue and
# green; that is the one place where Z is no natural picture. Inversion goes through noise. In its first row the waves of the
# ground do not come back; in its second row the blue can still be seen at the top, and never leaves.

# %% [markdown]
# ## 3. Why it works: the noise cancels
#
# Take a Gaussian world with two texts: pictures of "a" are $N(\mu_a, \varsigma^2)$, those of "b" $N(\mu_b, \varsigma^2)$, and
# $\Delta = \mu_b - \mu_a$. The velocity is linear, $u(X, s) = -\mu + k_s\,(X - (1 - s)\mu)$, where $k_s$ depends on s and
# ς alone. Put Eq. (26) into Eq. (27). $X_{\rm src}$ stands in both terms with the same factor, and **drops out, noise and
# all**. With $D = Z - x_0$:
#
# $$\frac{dD}{ds} = k_s D - \big(k_s (1 - s) + 1\big)\,\Delta, \qquad
# D(0) = \Big[1 - \frac{(1 - s_0)\,\varsigma}{\sqrt{(1 - s_0)^2\varsigma^2 + s_0^2}}\Big]\,\Delta,$$
#
# for a walk that begins at $s_0$. Each picture is moved by a share of Δ, and by the whole of it from $s_0 = 1$: the mean
# changes, and everything that made *this* picture of "a" different from others is kept.

# %%
def edited(world, x, start, steps=120, seed=0):  # FlowEdit where the net is a formula
    src, tar = (velocity(world.denoiser(text, vp), vp) for text in "ab")
    noise, path = Rng.of(seed, len(x)), [x]
    for s, r in pairwise(flow_times(steps, min(start, top))):
        x_src = (1 - s) * x + s * noise.randn(x.shape, x)
        V = tar(x_src + (path[-1] - x), s) - src(x_src, s)
        path.append(path[-1] + (r - s) * V)
    return path

# %% [markdown]
# **Claim.** Ten pictures, each with its own noises, move by the same vector to 10⁻¹². For five starts it is the share of
# the formula, within 0.004 (120 steps).

# %%
mean_a, mean_b = (torch.tensor([[list(v)]]).double() for v in ((-1.0, 0.3), (1.0, 0.8)))
delta, spread = mean_b - mean_a, 0.25
two = GaussianWorld({"a": mean_a, "b": mean_b}, spread)
ten = two.sample(Rng.of(3, 10).randn((10, 1, 1, 2), mean_a), "a")
moved, formula = {}, lambda s: 1 - (1 - s) * spread / (((1 - s) * spread) ** 2 + s**2) ** 0.5
for start in (0.2, 0.4, 0.6, 0.8, top):
    D = edited(two, ten, start)[-1] - ten
    moved[start] = (D / delta)[0, 0, 0, 0].item()
    assert (D - D[0]).abs().max() < 1e-12 and abs(moved[start] - formula(start)) < 4e-3

# %%
from palimpsest.samplers.flow import time_of_flow

levels = [time_of_flow(vp, s) for s in flow_times(60, top)]
ups = invert(two.denoiser("a", vp), vp, ten, levels)
downs = sample(two.denoiser("b", vp), vp, ups[0], levels)
there = [to_flow(vp, v, t) for v, t in zip([*ups[::-1], *downs], [*levels[::-1], *levels])]

# %%
fig, axes = plots.panels(2, height=2.7, share=True)
for ax, path, name in zip(axes, (there, edited(two, ten, 1.0)), ("inversion", "FlowEdit")):
    path = torch.stack(path)[:, :, 0, 0]
    ax.plot(*path.unbind(-1), color="#999999", linewidth=0.8)
    for end, k in ((path[0], 0), (path[-1], 1)):
        ax.plot(*end.T, "o", color=plots.PALETTE[k], label=("of “a”", "edited to “b”")[k])
    ax.plot(*(ten + delta)[:, 0, 0].T, "kx", label="picture + Δ")
    ax.set(title=name, xlabel="first pixel")
axes[0].set_ylabel("second pixel")
plots.key(fig, axes[0])

# %% [markdown]
# **Figure 12.4.** *Ten pictures of two pixels on their way from "a" to "b" (grey: the way).* Left, inversion: every
# picture travels to its noise, somewhere around the origin, and from there to "b". Right, FlowEdit: ten parallel straight
# lines. Both end at the crosses, picture plus Δ, up to the error of the steps. In the *exact* world with equal spreads
# inversion makes no worse edit. It takes a longer way, and on a trained net every piece of way costs an error.

# %% [markdown]
# ### Where it stops early (*deeper*)
#
# Let the spreads differ: "b" is narrower, $\varsigma_b = 0.1$, or wider, $0.5$. Now $k_s$ is not the same on both sides, and
# $X_{\rm src}$ does not drop out. What should an edit do? Inversion, exact, maps $\mu_a + y$ to
# $\mu_b + (\varsigma_b/\varsigma_a)\,y$: the results are pictures of "b".
#
# **Claim.** FlowEdit stops before the end: after five sixths of the narrowing (differences between pictures are multiplied
# by 0.50 instead of 0.4), and after half of the widening (by 1.52 instead of 2; means over 64 noises, within 0.03). So its
# results are *not* distributed as pictures of "b".

# %%
y = torch.linspace(-2, 2, 9).double() * spread
slopes = {}
for wide in (0.1, 0.25, 0.5):
    means = {"a": mean_a[..., :1], "b": mean_b[..., :1]}
    unequal = GaussianWorld(means, {"a": spread, "b": wide})
    x = (mean_a[..., :1] + y.view(9, 1, 1, 1)).repeat_interleave(64, 0)
    z = edited(unequal, x, 1.0, steps=60)[-1].view(9, 64).mean(1)
    slopes[wide / spread] = ((z[-1] - z[0]) / (y[-1] - y[0])).item()
print("factor wanted, found:", "; ".join(f"{k:g}, {v:.2f}" for k, v in slopes.items()))
assert abs(slopes[0.4] - 0.50) < 0.03 and abs(slopes[2.0] - 1.52) < 0.03

# %%
fig, axes = plots.panels(2, height=2.4)
grid = torch.linspace(0.02, 0.97, 60).tolist()
axes[0].plot(grid, [formula(s) for s in grid], label="formula")
axes[0].plot(list(moved), list(moved.values()), "o", label="measured")
axes[0].set(title="share of Δ", xlabel="start $s_0$", ylim=(0, 1.05))
axes[0].legend()
axes[1].plot((0.4, 2), (0.4, 2), "--", color="#999999", label="inversion: all the way")
axes[1].plot(list(slopes), list(slopes.values()), "o-", label="FlowEdit")
axes[1].plot((0.4, 2), (1, 1), ":", color="#999999", label="the picture as it was")
axes[1].set(title="differences between pictures", xlabel="ς_b / ς_a")
axes[1].legend();

# %% [markdown]
# **Figure 12.5.** *What FlowEdit does, by start and by spread.* Left: with ς = 0.25 a start at 0.5 makes three quarters of
# the edit. The share depends on $s_0$ against ς: what is *large* in a picture needs a high start, as the t₀ of lesson 04. That
# is why backgrounds need 0.92 in section 5, and a colour needs only 0.65. Right: where the spreads differ, FlowEdit lies between
# the picture as it was and the whole way. The paper's "lower transport cost" has this other side: part of the cost is
# saved by not arriving.

# %% [markdown]
# ## 4. Start and guidance
#
# `start` decides how large a change can be, `w_target` how strongly the target pulls. Move them (on the page: twelve
# panels).

# %%
seen = {}


def draw(ax, start, w):
    if (start, w) not in seen:
        seen[start, w] = flow_edit(model, pairs.before[1:2], pairs.source[1], pairs.target[1],
                                   **settings | dict(start=start, w_target=w)).picture
    plots.show(ax, seen[start, w])


plots.explore(draw, {"start": (0.5, 0.7, 0.85, 0.95), "w": (1.0, 3.0, 7.0)}, height=1.75)

# %% [markdown]
# **Figure 12.6.** *“a large red circle …” to “a large red star …”, by start (across) and guidance (down).* At w = 1 and a start of
# 0.5 the circle only gets corners. Farther right the star appears. At w = 7 the points grow long and thin, the red burns, and
# grain spreads over the ground; from 0.95 the star also moves down: its place is decided anew. Useful is the middle, from 0.7 to
# 0.85 at w = 3.

# %% [markdown]
# ## 5. On 256 edits
#
# Sixteen pictures show what happens; they do not decide between methods. The record of
# `python -m palimpsest.claims C30 C31` has 256 edits of one thing. First: FlowEdit and DDIM inversion over three starts,
# each with the guidance that did best on other pairs, at equal evaluations.
#
# **Claim.** (C30) At equal success FlowEdit keeps more outside the change: 1.5 dB, with an interval above 0.

# %%
from palimpsest.claims.page import read_record

record = read_record("flow_edit")
compared = record["compared"]
gain, low, high = compared["difference"]
print(f"where {compared['success']:.0%} right: {gain:.1f} dB more ({low:.1f} to {high:.1f})")
assert low > 0

# %%
fig, axes = plots.panels(2, height=2.9)
for k, (name, points) in enumerate(record["curves"].items()):
    x, y = ([p[key] for p in points] for key in ("right", "outside_db"))
    plots.points(axes[0], x, y, name, plots.PALETTE[k])
axes[0].set(title="PSNR outside the change (dB)", xlabel="all right, share of 256")
axes[0].legend()
nearer = record["gain"]
plots.dots(axes[1], {k: v[0] for k, v in nearer.items()}, {k: v[1:] for k, v in nearer.items()})
axes[1].axvline(0, color="#999999", linewidth=1)
axes[1].set(title="FlowEdit less DiffEdit (dB)", xlabel="PSNR to the true edit");

# %% [markdown]
# **Figure 12.7.** *256 edits, bars: 95 %.* Left: farther right is more obeyed, higher is more kept; the points are starts of
# 0.65, 0.8 and 0.92. The three points of inversion lie close together: more noise helps it little, as the noise is not random but the
# old picture's. FlowEdit's last point gets 85 % right, and keeps 25 dB. Right: PSNR to the true edit, FlowEdit less DiffEdit, both
# at their best. For three kinds of edits zero lies inside the interval. Backgrounds decide, 13 dB: there DiffEdit gets none of 64
# right, since its mask comes out inverted (lesson 06).
#
# **Claim.** (C31) Without a mask FlowEdit is nearer to the true edit than DiffEdit over all edits together. But by kind
# that is so for backgrounds alone: for recolour, reshape and retexture the intervals contain 0.
#
# **Claim.** At their best settings FlowEdit gets 89 % of the 256 right and DiffEdit 60 %; for both the setting was chosen
# by kind, on other pairs.

# %%
by_kind = {kind: tuple(v[1:]) for kind, v in nearer.items()}
assert by_kind["all"][0] > 0 and by_kind["background"][0] > 0
assert all(by_kind[k][0] < 0 < by_kind[k][1] for k in ("recolour", "reshape", "retexture"))
best = {name: found["table"]["all"]["right"] for name, found in record["best"].items()}
print(*(f"{n}: {v[0]:.0%} ({v[1]:.0%} to {v[2]:.0%})" for n, v in best.items()), sep="; ")
assert best["FlowEdit"][1] > best["DiffEdit"][2]

# %% [markdown]
# ## 6. Text2LIVE: a layer over the picture
#
# Now something quite different. Text2LIVE trains a small network on *one* picture. It paints a layer with colours C and
# opacity α, and the result is
#
# $$\text{out} = \alpha\,C + (1 - \alpha)\,x \qquad\text{Eq. (30)}.$$
#
# Where α is 0 the picture stays as it is, to the bit: what is kept is kept by construction. No diffusion model is asked.
# A frozen CLIP compares pictures with texts, and gradients flow through it into the layer. Open the paper at Fig. 1: there
# (a) is the layer, which becomes an edit over the picture; here Figure 12.8, with the layer after each of five numbers of
# steps.
#
# Four losses and a start, each a line. With $E$ for CLIP's picture and $T$ for its text embedding, of length 1:
#
# | loss | formula | what it wants |
# |---|---|---|
# | composition, Eq. (31) | ½∠(E(out), T(target))² + 1 − cos(E(out) − E(x), T(target) − T(source)) | the result fits the target, and the change fits the change of the words |
# | screen, Eq. (32) | ½∠(E(layer over green), T(layer))² | the layer alone shows the thing, so it is not smeared over all |
# | structure, Eq. (33) | mean (S(out) − S(x))², S: cosines among the patches | parts that were alike stay alike |
# | sparsity, Eq. (34) | mean α + 2 mean(σ(5α) − ½) | paint little |
# | bootstrap, Sec. 3.1 | mean (α − R)², its weight falls to 0 | α starts at the thing |
#
# R, the relevance, is a map between 0 and 1: it shows where CLIP sees the source text rather than the target.

# %%
from palimpsest.claims.text2live import LAYER, TRAINING, VIEWS
from palimpsest.methods.text2live import composed, text2live
from palimpsest.weights.judges import load_judge
from palimpsest.worlds.shapes import caption

judge, after_step = load_judge("shapes-clip"), (1, 10, 25, 50, 100)

# %%
def painted(k):
    x, moments = pairs.before[k : k + 1], {}
    keep = lambda step, net: moments.update({step + 1: [v.detach() for v in composed(net, x)]})
    layer = caption(pairs.after_scenes[k], background=False) + LAYER
    done = text2live(judge, x, pairs.source[k], pairs.target[k], layer, training=TRAINING,
                     views=VIEWS, each_step=keep, seed=k)
    return done, [moments[step] for step in after_step]

# %% [markdown]
# **Claim.** The layer, its opacity and Eq. (30) give the library's picture to the bit; Eq. (31) and Eq. (34) on plain tensors
# are the library's losses, within 10⁻⁴ and 10⁻⁵.

# %%
from palimpsest.methods import text2live as losses

runs = {k: painted(k) for k in (0, 1)}  # a recolouring and a reshaping, 100 steps each
done, x = runs[0][0], pairs.before[:1]
assert torch.equal(done.picture, torch.lerp(x, done.colours, done.opacity))  # Eq. (30)
with torch.no_grad():
    e_out, e_x = judge.images(done.picture), judge.images(x)
T_source, T_target = judge.texts([pairs.source[0], pairs.target[0]]).split(1)
angle = torch.acos((e_out * T_target).sum())
change = torch.cosine_similarity(e_out - e_x, T_target - T_source)
composition = angle**2 / 2 + 1 - change  # Eq. (31)
sparse = done.opacity.mean() + 2 * (torch.sigmoid(5 * done.opacity) - 0.5).mean()  # Eq. (34)

# %%
views = torch.eye(3)[None]  # the whole picture alone
example = losses.Example(x, done.opacity, torch.tensor(0.0), views)
words = losses.Words(T_source, T_target, T_target)
terms = losses.Terms(sparsity=1.0)
theirs = losses.text2live_loss(judge, done.generator, example, words, terms)
assert abs(theirs["composition"] - composition) < 1e-4
assert abs(theirs["sparsity"] - sparse) < 1e-5

# %%
rows = []
for k, (_, states) in runs.items():
    rows += [[pairs.before[k], *(a * c for c, a, _ in states), pairs.after[k]]]
    rows += [[None, *(2 * a - 1 for _, a, _ in states)], [None, *(out for *_, out in states)]]
    won = reader.right(runs[k][0].picture, pairs.wanted[k : k + 1]).item()
    loss = runs[k][0].losses
    late = sum(loss[-10:]) / 10
    print(f"“{pairs.target[k]}”: sum of the losses {loss[0]:.1f} to {late:.1f}; "
          f"right: {('no', 'yes')[won]}")
plots.pictures(rows, left=("layer", "opacity α", "result") * 2, side=0.95,
               above=("given", *(f"step {n}" for n in after_step), "true edit"));

# %% [markdown]
# **Figure 12.8.** *Two layers while they are trained: “make it blue” above, “make it a star” below.* Above: after ten steps α has
# found the square (the bootstrap loss pulls it there at first), and from then on only the colours change. The square turns blue.
# But its stripes are blurred away, the edge is soft, and the reader does not accept it. Below: α covers the circle and *stays a
# circle*. The layer is purple, the colour of the ground, as if it would hide the circle under ground; it half succeeds, and
# no star appears. To make a star, it would have to paint the ground around the star exactly as it is behind the circle, which no text
# says. The sum of the losses falls in both cases, printed above (partly because the bootstrap term is faded out): it does not
# notice the failure.

# %% [markdown]
# ## 7. What a layer can do, and what it cannot
#
# The record of `python -m palimpsest.claims C32 C33` has 40 edits, eight of each kind, by Text2LIVE, by SDEdit and by
# InstructPix2Pix. The CLIP that trains the layer judges nothing: success is what the reader finds.
#
# **Claim.** (C32) Of 16 recolourings and retexturings about 60 % are changed as wished, of 16 reshapings and additions
# none is; SDEdit and InstructPix2Pix reach most of the latter.
#
# **Claim.** (C33) One would expect that a layer keeps more than SDEdit at equal success. That does *not* hold here: on the
# eight texture edits the difference is −1.3 dB, and its interval, −4.8 to 2.2, contains 0. Nothing is shown.

# %%
live = read_record("text2live")
kinds = live["kinds"]
assert kinds["painted"][1] > 0.3 and kinds["shaped"][0] == 0
assert all(v[2] < -0.5 for v in kinds["behind"].values())
low, high = live["retexture"]["difference"][1:]
assert low < 0 < high

# %%
from palimpsest.claims.text2live import KINDS
from palimpsest.notebooks.intervals import share_interval

fig, (ax,) = plots.panels(1, height=3.4, width=6.6)
reached = {n: [t[kind]["reached"][0] for kind in KINDS] for n, t in live["tables"].items()}
spans = {n: [share_interval(round(8 * v), 8) for v in row] for n, row in reached.items()}
plots.bars(ax, KINDS, reached, spans)
ax.set(title="changed as wished (eight of each kind, lines: 95 %)", xlim=(0, 1.02));

# %% [markdown]
# **Figure 12.9.** *Success by kind of edit.* A layer reaches what needs colour alone: 5 of 8 recolourings, 5 of 8 textures,
# 6 of 8 backgrounds (more than SDEdit). It reaches no new shape and no new thing. SDEdit and InstructPix2Pix have no such limit. Eight
# edits of a kind give wide intervals; that 0 of 16 is less than 14 and 15 of 16 needs no larger number.

# %% [markdown]
# ## Where this breaks
#
# | symptom | cause | what to change |
# |---|---|---|
# | FlowEdit: nothing changes | start too low for the size of the change | start up: 0.65 for colours, 0.9 for grounds |
# | the thing moves, or grows | start so high that the place is decided anew | start down, or give a mask |
# | grain over what should stay | the two noises are not the same one, or too few steps | check Eq. (26); `averages` up |
# | things change that nobody named | the source text does not describe the picture | write a better source text |
# | contrast or style stays the old one | the spreads of the texts differ (section 3) | sample the last steps plainly: `last` |
# | Text2LIVE: the old outline shines through | a layer cannot erase a shape | another method: 04, 09, 11 or FlowEdit |
# | Text2LIVE: a halo around the thing | α is spread; CLIP does not see it | sparsity up, more `bootstrap` steps |
# | CLIP's loss is low and the edit is wrong | the layer pleases the judge that trains it | judge by another network, and by eye |

# %% [markdown]
# ## On Stable Diffusion
#
# FlowEdit's authors use Stable Diffusion 3 and FLUX with 50 and 28 steps, starts of 0.66 and 0.86, and guidance 3.5 → 13.5
# and 1.5 → 5.5 (source → target). This library does not load these two models. By section 1 the method runs on Stable Diffusion
# 1.5 as well, with any schedule. Expect a red flower on the same stem; if the background changes, lower `start` to 0.7. The paper
# says nothing about this model, and we have not run this cell on a GPU with these weights.

# %%
from palimpsest.claims.page import RECORDS
from palimpsest.notebooks.public import public_model
from palimpsest.worlds.files import read_picture

large = public_model("stable-diffusion-v1-5")
if large is not None:
    photo = read_picture(RECORDS / "hand" / "flower.jpg", size=large.size, grid=large.grid)
    texts = ("a photo of a yellow flower", "a photo of a red flower")
    red = flow_edit(large, photo, *texts, steps=50, start=0.8, w_source=1.5, w_target=5.5)
    plots.pictures([[photo, red.picture]], above=("given", "FlowEdit"), side=3)

# %% [markdown]
# ## Exercises
#
# Solutions are in [`notebooks/solutions/12_after_the_survey.py`](solutions/12_after_the_survey.py).
#
# **1. Several noises (coding).** Eq. (27) has an expectation; the cell above uses one noise in each step. Write FlowEdit
# with several: `noises[n]` holds those of step n.
#
# <details><summary>Hint 1</summary>Only one line of the cell becomes a loop: V is a mean over noises, and each noise makes
# its own X_src and X_tar.</details>
# <details><summary>Hint 2</summary>Z moves once for each step, after all its noises: do not update it inside the
# inner loop.</details>

# %%
from palimpsest.notebooks.exercises import check


def averaged(x_0, u_src, u_tar, times, noises):
    """Z after all steps. u_src, u_tar: (X, s) -> u; times fall; noises[n]: tensors like x_0."""
    raise NotImplementedError


check("12.1", averaged)

# %% [markdown]
# **2. Predict, then run.** In "The method, from nothing" give the edited picture a noise of its own:
# `x_tar = (1 - s) * x_0 + s * rng.randn(x_0.shape) + (z - x_0)`. Predict first, then run and look at `mine`. (a) The same
# edits: over many steps the noises average out. (b) The edits, under grain that covers what should stay, too. (c) Nothing
# changes: the difference V is lost in the noise. Answer "a", "b" or "c".
#
# <details><summary>Hint 1</summary>Take equal texts. What is V with one noise, and what with two?</details>
# <details><summary>Hint 2</summary>u contains ε̂ with the factor 1. Add up (r − s)(ε′ − ε) over ten independent steps: how
# large is the standard deviation?</details>

# %%
answer = None  # "a", "b" or "c"
check("12.2", answer)

# %% [markdown]
# **3. An open project: a mask for FlowEdit.** FlowEdit takes a mask (`mask=`), DiffEdit finds one (lesson 06). Put both
# together on 64 edits of one of two things, and compare with FlowEdit alone and DiffEdit alone: success with
# `share_interval`, PSNR outside the change, evaluations. Is the mask worth its evaluations? Does it do harm where it is
# wrong?
#
# <details><summary>Hint 1</summary>`diffedit(…).mask` is (b, 1, 64, 64) and can be handed to `flow_edit` as it is.</details>
# <details><summary>Hint 2</summary>Use `raw` of both: pasted pixels would flatter the masked ones outside the change.
# Choose start and w on other pairs than those you report.</details>

# %% [markdown]
# ## Quiz
#
# <details><summary>1. A net was trained to predict ε with the cosine schedule. What must be done so that it can be used as a
# flow model?</summary>Nothing to the net. Compute t from σ = s/(1 − s), scale the state to x_t, ask for ε̂, and return
# ε̂ − x̂_0.</details>
#
# <details><summary>2. Why must both pictures be noised by the same ε?</summary>So that it cancels in the difference. In the
# Gaussian world with equal spreads it cancels exactly; with two noises their difference would be added to the picture in
# every step.</details>
#
# <details><summary>3. Why does Eq. (26) add Z − x_0 in full and not (1 − s)(Z − x_0)?</summary>Z − x_0 is the difference of the
# two *noisy* states at level s, and grows from 0 at the start to the whole edit at s = 0. The factor 1 − s is already in
# it: in section 3, D(s) is (1 − s)Δ where the start was 1.</details>
#
# <details><summary>4. With both texts equal and both scales equal FlowEdit returns the picture to the bit. DDIM inversion does
# not. Why?</summary>For FlowEdit V is a difference of two equal numbers in every step. Inversion asks the net at other
# points on the way up than on the way down (lesson 05), and the errors do not cancel.</details>
#
# <details><summary>5. Text2LIVE keeps what is outside α to the bit. Why is its PSNR outside the change in the record still
# below InstructPix2Pix's?</summary>Because α need not be where the change should be. Nothing but the sparsity holds it
# back, and CLIP rewards a tint of the ground as well as of the thing.</details>

# %% [markdown]
# ## Three things to take away
#
# 1. VP, VE and flow are one model in three coordinate systems; Euler in s is DDIM.
# 2. Edit by a *difference* of predictions, under one noise, and what both texts share stays where it is.
# 3. A method that keeps by construction (a layer, a mask) cannot change what it may not touch. Ask first whether the
#    outline must change.
#
# **Next question.** You now know eleven ways to edit a picture. Which one should you take? Lesson 13 compares them, each at
# its best, by the truth.
