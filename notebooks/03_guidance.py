# %% [markdown]
"""
# 03 · Guidance: who pulls, and what it costs

A diffusion model that has seen everything paints anything. To have what the text says, something must pull: a
classifier that looks at the noisy picture (Dhariwal and Nichol, arXiv:2105.05233v4), a CLIP that does (GLIDE,
arXiv:2112.10741v3), or the model itself, asked once with and once without its text (Ho and Salimans,
arXiv:2207.12598v1). All three add a gradient to a score. This lesson draws the three gradients, shows that two of them
are the same thing, and measures what each buys and spoils.

**What you will learn**
1. classifier guidance and classifier-free guidance as fields, in a plane where both are known exactly;
2. what a scale above 1 does to a distribution: more precise, less varied, and not where the data are;
3. the two ways to put a gradient into a step (shift the mean, or change ε), and where to take it;
4. variances that a network learns, and why they matter when steps are long;
5. on trained models: truth beside what the judge says, and a judge that is fooled.

**What you need**: lessons 01 and 04; `weights/shapes-glide` and its judges. No GPU, about a minute. A sentence that
begins with **Claim** is checked by an `assert` in the cell below it.
"""

# %%
import json
import math
from itertools import pairwise

import matplotlib.pyplot as plt
import torch

# %%
from palimpsest.claims.common import new_scenes
from palimpsest.claims.draw.style import BLUE, GREEN, GREY, ORANGE, RC, SKY, show
from palimpsest.claims.glide import enlarged, open_glide
from palimpsest.claims.page import RECORDS as FIGURES
from palimpsest.methods.glide import glide
from palimpsest.metrics.features import precision_recall
from palimpsest.notebooks.exercises import check
from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.ddim import sample
from palimpsest.samplers.ddpm import beta_stride, beta_tilde, ddpm_step
from palimpsest.samplers.guidance import classifier_guidance, clip_guidance, combine, guided
from palimpsest.samplers.learned import log_bounds
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.respacing import respaced
from palimpsest.samplers.schedule import Schedule
from palimpsest.worlds.shapes import render
from palimpsest.worlds.words import wanted

plt.rcParams.update(RC)
STEPS = "20"                                                               # of every walk of the trained model
sched = Schedule.cosine()

# %% [markdown]
# ## 1. A plane with two classes
#
# Points instead of pictures: (x, y) as a picture of one pixel and two channels. Class A is a crescent of three
# Gaussians, class B a crescent the other way round. Noised, each stays a mixture of Gaussians, so log p_t(x | class)
# is a formula, and so is everything that follows from it:
#
# $$\nabla \log p_t(x \mid y) = \nabla \log p_t(x) + \nabla \log p_t(y \mid x) \qquad\text{(Bayes)}$$

# %%
CENTRES = {"A": ((-.9, .1), (-.35, .75), (.35, .75)), "B": ((-.25, -.15), (.45, -.5), (1.05, .05))}
STD = .16


def log_class(x_t, t, name):
    """log p_t(x | class) up to a constant: (b 2 1 1) -> (b,)."""
    a, x = sched.at(t), x_t.flatten(1)
    centres = a ** .5 * torch.tensor(CENTRES[name], dtype=x.dtype)
    return (-(x[:, None] - centres).square().sum(-1) / (2 * (a * STD ** 2 + 1 - a))).logsumexp(1)


def log_all(x_t, t):
    """log p_t(x), both classes alike."""
    return torch.stack([log_class(x_t, t, name) for name in CENTRES]).logsumexp(0)


def slope(log_p, x_t, t):
    """∇ log p at x_t."""
    return classifier_guidance(log_p, 1.)(x_t, t)


# %% [markdown]
# **Claim.** Bayes' rule holds of this code to 1e-9: the score of a class is the score of everything plus the gradient of
# a classifier that knows the noise.

# %%
classifier = lambda x_t, t: log_class(x_t, t, "A") - log_all(x_t, t)       # log p(A | x_t), up to a constant
eps_of = lambda log_p: lambda x_t, t: -(1 - sched.at(t)) ** .5 * slope(log_p, x_t, t)
eps_all, eps_A = eps_of(log_all), eps_of(lambda x_t, t: log_class(x_t, t, "A"))

line = torch.linspace(-1.9, 2.1, 21, dtype=torch.float64)
points = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).flatten(0, 1)[..., None, None]
fig, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
t = 300
fields = {"∇ log p(x): to any data": slope(log_all, points, t), "∇ log p(A | x): away from B": slope(classifier, points, t),
          "their sum, ∇ log p(x | A)": slope(log_all, points, t) + slope(classifier, points, t)}
truth = Rng.of(0, 400).randn((400, 2, 1, 1)).double()
for ax, (title, field) in zip(axes, fields.items()):
    for name, colour in (("A", BLUE), ("B", ORANGE)):
        c = sched.at(t) ** .5 * torch.tensor(CENTRES[name])
        ax.scatter(*c.T, s=900 * (sched.at(t) * STD ** 2 + 1 - sched.at(t)), color=colour, alpha=.25, linewidth=0)
    ax.quiver(*points.flatten(1).T, *field.flatten(1).T, color="#333333", width=.003)
    ax.set(title=title, xticks=[], yticks=[], aspect="equal")
gap = (fields["their sum, ∇ log p(x | A)"] - slope(lambda x, t: log_class(x, t, "A"), points, t)).abs().max()
print(f"Bayes holds to {gap:.1e} at t = {t}")
assert gap < 1e-9

# %% [markdown]
# ## 2. Classifier-free guidance is classifier guidance
#
# Nobody wrote a classifier into ε_∅ + w (ε_A − ε_∅), Eq. (7); it is there all the same. ε is a score times
# −√(1−ᾱ), so the difference ε_A − ε_∅ *is* −√(1−ᾱ) ∇ log p(A | x_t): the gradient of the classifier that the two
# answers imply. Eq. (6) with scale s on the unconditional model and Eq. (7) with w = s are one line.
#
# **Claim.** With exact scores both ways give the same ε̂, for every w, to 1e-9.

# %%
for w in (0., 1., 2.5, 8.):
    free = combine(eps_all(points, t), eps_A(points, t), w)                # Eq. (7)
    led = guided(eps_all, sched, classifier_guidance(classifier, w))(points, t)        # Eq. (6), as a noise
    assert (free - led).abs().max() < 1e-9
print("classifier-free guidance of scale w is guidance of scale w by the implied classifier")

# %% [markdown]
# ## 3. What a scale above 1 does
#
# w = 1 samples class A. w > 1 samples nothing that has a name: it follows p(x) p(A | x)^w at every noise level, and
# those densities are not the noised versions of one another. What comes out can only be looked at, and measured:
# precision (share of samples that lie among true A's) and recall (share of true A's that lie among samples).
#
# **Claim.** From w = 1 to w = 6 recall falls by more than .3; samples leave the side that faces class B, and their
# spread shrinks by more than a tenth. Precision is about 1 from w = 1 on, as these scores are exact: **a perfect model
# needs no guidance; guidance repairs a model that is not sure of its text.**

# %%
n, times = 400, sched.times(60, .98)
noise = Rng.of(1, n).randn((n, 2, 1, 1)).double()
pick = torch.randint(3, (n,), generator=torch.Generator().manual_seed(2))
real = torch.tensor(CENTRES["A"], dtype=torch.float64)[pick] + STD * truth.flatten(1)
other = torch.tensor(CENTRES["B"], dtype=torch.float64)[pick] + STD * truth.flatten(1)
fig, axes = plt.subplots(1, 4, figsize=(12, 3.4), layout="constrained")
found = {}
for ax, w in zip(axes, (0., 1., 2., 6.)):
    walk = sample(lambda x, t, w=w: combine(eps_all(x, t), eps_A(x, t), w), sched, noise, times)[-1].flatten(1)
    found[w] = (*precision_recall(real, walk), walk.std(0).mean().item())
    ax.scatter(*real.T, s=4, color="#BBBBBB", label="true A")
    ax.scatter(*other.T, s=4, color="#F1D9B0", label="true B")
    ax.scatter(*walk.T, s=5, color=BLUE, label="sampled")
    ax.set(title=f"w = {w:g}", xlim=(-1.7, 1.7), ylim=(-1.2, 1.5), xticks=[], yticks=[],
           xlabel=f"precision {found[w][0]:.2f}, recall {found[w][1]:.2f}")
axes[0].legend(loc="lower left", markerscale=3, fontsize=8)
assert found[1.][0] > .85 and found[1.][1] - found[6.][1] > .3 and found[6.][2] < .9 * found[1.][2]

# %% [markdown]
# ## 4. Two ways into a step
#
# **Shift the mean** (Eq. 6): an ancestral step goes to μ + Σ g. **Change ε**: ε̂ = ε − √(1−ᾱ) g, the only way for a
# step without noise, DDIM's. Both come from the same score, but one step of the second moves the mean by β/√(1−β) g,
# and Σ lies between β̃ and β. And there is a choice that few notice: the derivation expands around μ, the code that
# everybody uses takes the gradient at x_t.
#
# **Claim.** With 20 steps the two shifts differ by more than a quarter somewhere; with one step for every
# time by less than 3 %, both but for the ends.

# %%
fig, left = plt.subplots(figsize=(5, 3.4), layout="constrained")
worst = {}
for steps, colour in ((20, ORANGE), (100, SKY), (980, BLUE)):
    pairs = [(t, s) for t, s in pairwise(sched.times(steps, .98)) if s > 0]
    ratio = [beta_tilde(sched, t, s) / (beta_stride(sched, t, s) / (1 - beta_stride(sched, t, s)) ** .5) for t, s in pairs]
    left.plot([t for t, _ in pairs], ratio, color=colour, label=f"{steps} steps")
    worst[steps] = [abs(1 - r) for (t, _), r in zip(pairs, ratio) if 100 < t < 900]
left.set(title="β̃ g over β/√(1−β) g", xlabel="t", ylim=(0, 1.05))
left.legend(loc="lower left")
assert max(worst[20]) > .25 and max(worst[980]) < .03

# %% [markdown]
# **Claim.** Taken at μ, the gradient leads as well as at x_t: by either, more than 90 % of an unconditional model's
# samples end in class A.

# %%
ends = {}
fig, right = plt.subplots(figsize=(5, 3.4), layout="constrained")
for name, at_mean in (("at x_t", False), ("at μ", True)):
    rng, x = Rng.of(3, n), noise
    g = classifier_guidance(classifier, 1.)
    for t, s in pairwise(sched.times(100, .98)):
        pull = (lambda mu, s=s, g=g: g(mu, max(s, 1))) if at_mean else (lambda mu, x=x, t=t, g=g: g(x, t))
        x = ddpm_step(sched, x, eps_all(x, t), t, s, rng.randn(x.shape, x), gradient=pull)
    ends[name] = x
    right.scatter(*x.flatten(1).T, s=5, label=f"gradient {name}", color=BLUE if at_mean else ORANGE, alpha=.7)
right.set(title="Eq. (6) on the unconditional model, s = 1", xlim=(-1.7, 1.7), ylim=(-1.2, 1.5), xticks=[], yticks=[])
right.legend(loc="lower left", markerscale=3)
inside = {name: (log_class(x, 1, "A") > log_class(x, 1, "B")).double().mean().item() for name, x in ends.items()}
print("share that ends in class A:", {k: f"{v:.2f}" for k, v in inside.items()})
assert min(inside.values()) > .9

# %% [markdown]
# ## 5. Variances that are learnt
#
# GLIDE's nets say six channels: ε (or a velocity, as ours do) and v, which places log Σ between log β̃ and log β, Eq. 15
# of Improved DDPM. With 1000 steps the two bounds are nearly one number and v hardly matters; with 27 they are far
# apart, and a wrong variance is visible.
#
# **Claim.** At t ≈ 500 the bounds differ by less than 1 % in σ with 1000 steps and by more than 10 % with 10.

# %%
m = open_glide(dtype=torch.float32)
texts = ["a large red star on a white background", "a small striped blue heart on a yellow background",
         "a large green ring on a purple background", "a large black circle on an orange background"]
fig, left = plt.subplots(figsize=(5.4, 3.4), layout="constrained")
for steps, colour in (("10", ORANGE), ("27", GREEN), ("1000", BLUE)):
    levels = respaced(sched.T, steps)
    bounds = [log_bounds(sched, t, s) for t, s in pairwise(levels) if s > 0]
    left.fill_between([t for t, s in pairwise(levels) if s > 0], *map(list, zip(*[[math.exp(b / 2) for b in pair] for pair in bounds])),
                      color=colour, alpha=.5, label=f"{steps} steps")
left.set(title="between √β̃ and √β", xlabel="t", xlim=(0, 1000))
left.legend(loc="upper left")
spread = lambda t, s: math.exp((log_bounds(sched, t, s)[1] - log_bounds(sched, t, s)[0]) / 2) - 1
assert spread(500, 499) < .01 and spread(500, 400) > .1
# %% [markdown]
# **Claim.** The shipped net's v is no constant: it calls for more variance at low noise than at high.

# %%
x_0, ctx, kinds = render(new_scenes(4, 0, things=1), 32), m.base.embed(texts), (20, 60, 120, 250, 400, 600, 800, 950)
says = {}
with torch.no_grad():
    for t in kinds:
        x_t = q_sample(m.base.schedule, x_0, t, Rng.of(5, 4).randn(x_0.shape))
        says[t] = m.base.eps_and_v(x_t, t, ctx)[1]
fig, right = plt.subplots(figsize=(5.4, 3.4), layout="constrained")
right.plot(kinds, [v.mean().item() for v in says.values()], "o-", color=BLUE, label="mean over pixels")
right.fill_between(kinds, [v.quantile(.1).item() for v in says.values()], [v.quantile(.9).item() for v in says.values()],
                   color=BLUE, alpha=.2, label="10 % … 90 % of them")
right.axhline(-1, color=GREY, linestyle=":")
right.axhline(1, color=GREY, linestyle=":")
right.set(title="what the net says: v (−1 is β̃, 1 is β)", xlabel="t", xlim=(0, 1000))
right.legend(loc="upper right")
assert says[20].mean() > says[800].mean()

# %% [markdown]
# ## 6. Three guides on a trained model
#
# Now `shapes-glide`, GLIDE's base model made small, and two judges trained on noisy pictures: a CLIP and a classifier.
# One prompt, the same noise in every picture; each row turns one scale up.

# %%
prompt, classifier = texts[0], m.classifier
rows = {"the text, w": ("text", (1., 2., 4., 8.)), "a noised CLIP, s": ("clip", (.3, 1., 3., 10.)),
        "a classifier, s": ("classifier", (.3, 1., 3., 10.))}


def led(kind, scale, text, n):
    """How `glide` is guided."""
    if kind == "text":
        return dict(w=scale)
    if kind == "clip":
        return dict(w=1., gradient=clip_guidance(m.noised.images, m.noised.texts([text] * n), scale, m.noised.scale))
    return dict(w=1., gradient=classifier_guidance(lambda x, t: classifier.log_p(x, t, [wanted(text)] * n), scale))


def painted(kind, scale, text=prompt, n=2, seed=4):
    """n pictures of a text under a guide, enlarged for the eye and the reader."""
    return enlarged(glide(m.base, text, n=n, steps=STEPS, seed=seed, **led(kind, scale, text, n)).picture)


# %%
fig, axes = plt.subplots(3, 8, figsize=(12, 5), layout="constrained")
for row, (words, (kind, scales)) in zip(axes, rows.items()):
    for k, scale in enumerate(scales):
        for ax, picture in zip(row[2 * k:2 * k + 2], painted(kind, scale)):
            show(ax, picture)
        row[2 * k].set_title(f"{scale:g}", loc="left")
    row[0].set_ylabel(words)
print(f"“{prompt}”")

# %% [markdown]
# ## 7. What an empty text is worth
#
# Guidance without a classifier asks the model twice, once without a text. GLIDE's base was trained with a caption beside
# every picture, so it never learnt what to say then; its second phase leaves every fifth caption out. Here are both, from
# the same noise, with no text.
#
# **Claim.** Without a text, the model after this phase foresees the noise in pictures of the world better than before.

# %%
def unasked(model, x_0, t, eps):
    """The mean squared error of its answer to no text."""
    x_t = q_sample(model.schedule, x_0, t, eps)
    return (model.eps_and_v(x_t, t, model.embed("").expand(len(x_t), -1, -1))[0] - eps).square().mean().item()


x_0 = render(new_scenes(24, 6), 32)
eps = Rng.of(6, 24).randn(x_0.shape)
phases = {"before": m.conditional, "after": m.base}
fig, axes = plt.subplots(2, 6, figsize=(9, 3.2), layout="constrained")
for row, (name, b) in zip(axes, phases.items()):
    for ax, picture in zip(row, enlarged(glide(b, "", n=6, steps=STEPS, w=1., seed=9).picture)):
        show(ax, picture)
    row[0].set_ylabel(name)
with torch.no_grad():
    missed = {name: unasked(b, x_0, 600, eps) for name, b in phases.items()}
print({name: f"{error:.4f}" for name, error in missed.items()})
assert missed["after"] < missed["before"]

# %% [markdown]
# ## 8. A judge that is fooled
#
# GLIDE's authors saw CLIP guidance win on CLIP score and lose with people, and read it as adversarial: the gradient
# finds what *raises the score*, not what shows the thing. Here truth can be read off a picture, so the two can be put
# side by side. Four prompts, two pictures each; the score is the cosine by the very CLIP that guides.
#
# **Claim.** With the scale turned up the guiding CLIP's score rises above that of pictures guided by the text, and above
# what it was at the smallest scale; truth does not rise with it.

# %%
def scored(kind, scale):
    """(score by the guide's CLIP, share of all attributes right) over the four prompts."""
    made = torch.cat([painted(kind, scale, text, seed=20 + 2 * k) for k, text in enumerate(texts)])
    said = [text for text in texts for _ in range(2)]
    small = torch.nn.functional.avg_pool2d(made, 2)
    cosines = (m.noised.images(small, 1).detach() * m.noised.texts(said)).sum(1)
    return 100 * cosines.mean().item(), m.oracle.right(made, [wanted(text) for text in said]).double().mean().item(), made


judged = {("text", 3.): scored("text", 3.), ("clip", .3): scored("clip", .3), ("clip", 10.): scored("clip", 10.)}
fig, axes = plt.subplots(3, 8, figsize=(12, 5), layout="constrained")
for row, ((kind, scale), (score, right, made)) in zip(axes, judged.items()):
    for ax, picture in zip(row, made):
        show(ax, picture)
    row[0].set_ylabel(f"{'text, w' if kind == 'text' else 'CLIP, s'} = {scale:g}\nscore {score:.0f}, right {right:.0%}")
assert judged["clip", 10.][0] > judged["text", 3.][0] and judged["clip", 10.][0] > judged["clip", .3][0]
assert judged["clip", 10.][1] <= judged["text", 3.][1]

# %% [markdown]
# ## 9. Measured on hundreds
#
# From `figures/glide_guidance.json`, which `python -m palimpsest.claims C4 C5 C6` made: each guide over its scales.
#
# **Claim.** The text's best scale is right more often than no guidance, and more often than CLIP's best.

# %%
record = FIGURES / "glide_guidance.json"
if record.exists():
    curves = json.loads(record.read_text(encoding="utf-8"))["curves"]
    fig, axes = plt.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
    for kind, colour in (("text", BLUE), ("clip", ORANGE), ("classifier", GREEN)):
        points = curves[kind]
        for ax, (x, y) in zip(axes, (("scale", "right"), ("noised_clip", "right"), ("recall", "precision"))):
            ax.plot([p[x] for p in points], [p[y] for p in points], "o-", color=colour, label=kind)
    for ax, (title, x) in zip(axes, (("all attributes right", "scale"), ("… over the guide's CLIP score", "100 · cos"),
                                     ("precision over recall", "recall"))):
        ax.set(title=title, xlabel=x, ylim=(0, 1))
    axes[0].set_xscale("log")
    axes[0].set_xticks([1, 2, 5, 10], ["1", "2", "5", "10"])
    axes[0].minorticks_off()
    axes[0].legend()
    best = {kind: max(p["right"] for p in points) for kind, points in curves.items()}
    assert best["text"] > curves["text"][0]["right"] and best["text"] > best["clip"]
else:
    print("figures/glide_guidance.json is not there: run `python -m palimpsest.claims C4 C5 C6`, then this cell again")

# %% [markdown]
# ## Where this breaks
#
# Everywhere above the same thing breaks: **a scale is not a probability.** p(x) p(y | x)^w has no noised versions that
# the walk could follow, so more scale is not more of the same; a judge has blind spots, and a gradient finds them; and
# what guidance gains in precision it pays in recall. Guidance mends a model that is unsure of its text. Where the model
# *cannot* do what the text says, it only makes the wrong thing clearer.
#
# | what you see | why | turn |
# |---|---|---|
# | the text is ignored | w too small, or the model was never trained without texts | w up; check that "" was trained |
# | burnt colours, the same picture every time | w too large | w down, or lower it towards the end |
# | CLIP score high, picture odd | the judge is being fooled | use the text; judge by another network |
# | a classifier's gradient does nothing early on | it was trained on clean pictures | train it on noisy ones, with t |
# | NaN at the last step | Σ at s = 0 was taken as 0 and its log asked for | the bound of the step before stands in |

# %% [markdown]
# ## Exercises
#
# Solutions are in `notebooks/solutions/03_guidance.py`.
#
# **1. Ho and Salimans count otherwise.** They write (1 + ω) ε_c − ω ε_∅. Which ω is our w = 4?

# %%
answer = None                                                              # a number
check("03.1", answer)


# %% [markdown]
# **2. Where guidance leads.** All data are N(μ_0, s_0²), those of the class N(μ_c, s_c²), in one dimension. Where is the
# maximum of p(x) p(c | x)^w?

# %%
def peak(mu_0, s_0, mu_c, s_c, w):
    """The place of the maximum: a number."""
    raise NotImplementedError


check("03.2", peak)


# %% [markdown]
# **3. A gradient in DDIM.** ε̂ = ε − √(1−ᾱ) g. By which multiple of g does x̂_0 move?

# %%
def moved(abar):
    """The factor of g: a number."""
    raise NotImplementedError


check("03.3", moved)
