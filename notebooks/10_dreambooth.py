# %% [markdown]
"""
# 10 · DreamBooth: a word for this one thing

A text-to-image model knows firefighters. It does not know *yours*: no caption can name it. DreamBooth (Ruiz et al.,
arXiv:2208.12242v2) shows the model three to five pictures of the subject, together with a word that means nothing yet, and
fine-tunes until the word means the subject. From then on the subject can be put anywhere that words can describe. What goes
wrong is as instructive as what works: a model that learns your firefighter too well forgets what a firefighter is.

**What you will learn**
1. what a subject is, and why its word must be rare;
2. the loss, Eq. (9): two terms, each with noise of its own, and a weight $w_t$ that decides which noise levels count;
3. full fine-tuning, LoRA and Textual Inversion on the same subject, side by side, with what each costs;
4. language drift, and the prior term that stops it;
5. the paper's four applications, each tried and judged against the truth, and the failures that the paper names.

**What you need**: lessons 01, 02, 03. Code beside the paper: `methods/dreambooth.py`, `methods/lora.py`,
`methods/textual_inversion.py`. The core takes about 45 minutes; sections marked *deeper* are optional. No GPU: the training
happens in this notebook, in a minute or two. A sentence that begins with **Claim** is checked by an `assert` in the cell
below it.
"""

# %% [markdown]
# ## Symbols
#
# | in the paper | here | in code | meaning | shape or range |
# |---|---|---|---|---|
# | [V] | the same | `identifier`, "zwx" | the rare word that comes to mean the subject | 1 to 3 tokens |
# | [class noun] | the same | `class_noun`, "firefighter" | what the subject is | a word of the model |
# | $\mathbf x$, $\mathbf c$ | $x$, $c$ | `subject.x`, `subject.tokens` | pictures of the subject; texts with [V] | latents (4, 8, 16, 16) |
# | $\mathbf x_{pr}$, $\mathbf c_{pr}$ | the same | `prior.x`, `prior.tokens` | the *frozen* model's own pictures of the class; texts without [V] | as $x$ |
# | $\alpha_t$, $\sigma_t$ | $\sqrt{\bar\alpha_t}$, $\sqrt{1-\bar\alpha_t}$ | `a ** .5`, `(1 - a) ** .5` | strength of signal and noise | (0, 1) |
# | $\hat{\mathbf x}_\theta$ | $\hat x_0$ | `x_hat` | predicted clean latent | as $x$ |
# | $w_t$ | the same | `v_weight`, … | how much an error at time $t$ counts | ≥ 0 |
# | $\lambda$ | the same | `prior.weight` | weight of the prior term | paper: 1 |
# | Eq. 2 | Eq. (9) | `dreambooth_loss` | the loss (Eq. 1 is its first term) | |

# %%
import random

import torch

from palimpsest.notebooks import plots
from palimpsest.weights.load import load

plots.begin()
model = load("emoji", "cpu", torch.float32)        # 8.9 million parameters, trained on emoji

# %% [markdown]
# ## 1. A subject that no caption can name
#
# Take the firefighter emoji and turn the hue of all its vivid colours by half a circle: red becomes teal, yellow becomes
# blue. "Man firefighter" is still true of it, but the emoji model has only ever seen that text with a red coat. As we painted
# the subject, we can also paint it where the model is asked to put it. Personalisation papers never have that truth.

# %%
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv


def repainted(picture):
    """An emoji (4 y x), uint8, whose vivid colours (saturation > 0.6) have the opposite hue."""
    hsv = rgb_to_hsv(picture[:3].permute(1, 2, 0).numpy() / 255)
    hsv[..., 0] = (hsv[..., 0] + .5 * (hsv[..., 1] > .6)) % 1
    rgb = torch.from_numpy(255 * hsv_to_rgb(hsv)).round().to(torch.uint8)
    return torch.cat([rgb.permute(2, 0, 1), picture[3:]])


# %%
from palimpsest.worlds.emoji import Scene, World, open_world, render
from palimpsest.worlds.shapes import sample_ground

world, rng = open_world(), random.Random("lesson 10")
mine = World(world.emoji, torch.stack([repainted(p) for p in world.pictures]))
emoji = {(e.name, e.style): e for e in world.emoji}


def drawn(ground, tone="medium-light", style="noto", of=mine):
    """The firefighter (1, 3, 64, 64) of this world on a background of this colour."""
    who = emoji[f"man firefighter: {tone} skin tone", style]
    return render(of, [Scene(who, ground, sample_ground(rng))])


# %% [markdown]
# The four pictures to learn from, sixteen more to measure on, and the outline inside which we measure:

# %%
from palimpsest.metrics.image import psnr

GROUNDS = ("white", "yellow", "purple", "orange")
x = torch.cat([drawn(ground) for ground in GROUNDS])
many = torch.cat([drawn(ground) for ground in GROUNDS for _ in range(4)])
who = emoji["man firefighter: medium-light skin tone", "noto"]
inside = (mine.pictures[mine.rows([who])][:, 3:] > 127).float()         # 1 where the subject is

# %% [markdown]
# **Claim.** The autoencoder leaves enough of it: on sixteen backgrounds the subject comes back at 21 dB or more inside its outline.

# %%
red = torch.cat([drawn(ground, of=world) for ground in GROUNDS for _ in range(4)])
outline = inside.expand(16, 1, -1, -1)
best, usual = (psnr(model.decode(model.encode(p)), p, outline) for p in (many, red))
print(f"through the autoencoder, inside the outline: the subject {best.mean():.1f} dB, "
      f"the usual red firefighter {usual.mean():.1f} dB")
assert best.min() > 21

# %%
from palimpsest.weights.load import load_autoencoder
from palimpsest.worlds.subjects import render_subject, sample_context, sample_subject

star = sample_subject(random.Random(2), "star")
stars = render_subject(star, [sample_context(rng, background=c) for c in ("white", "green")])
shapes = load_autoencoder("shapes-vae")
rows = [*x, *stars], [*model.decode(model.encode(x)), *shapes.decode(shapes.encode(stars))]
plots.pictures(rows, left=("given", "through its autoencoder"), side=1.);

# %% [markdown]
# **Figure 10.1.** The subject: four pictures to learn from, and why it is not a star. The first four columns are all that the model
# will be shown. Through the emoji autoencoder the badge on the helmet blurs, but eyes and mouth stay. (It has never
# seen a teal helmet: the red firefighter comes back several dB better.) The last two columns show a subject of the shapes world:
# its face is a few pixels wide, and the autoencoder of that world smears it before any training begins. No fine-tuning can learn
# what the latents do not contain. In Stable Diffusion the same happens to small faces.

# %% [markdown]
# ## 2. A word without a meaning
#
# A common word brings its own meaning, which training must first undo. A random string like "xxy5syt00" falls apart into
# common tokens. So the paper looks for *rare tokens* and decodes them into text. Our word tokenizer keeps eight words that no
# caption uses.
#
# **Claim.** The identifier stands in no emoji's name; a common word in its place causes a warning.

# %%
import warnings

from palimpsest.methods.identifiers import Caution, check_identifier, rare_words

name = rare_words(model.tokenizer)[0]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    check_identifier(model, name)
    check_identifier(model, "blue")
print("rare:", ", ".join(rare_words(model.tokenizer)), "\nwarning:", caught[-1].message)
assert not any(name in e.name.split() for e in world.emoji)
assert len(caught) == 1 and issubclass(caught[0].category, Caution)

# %% [markdown]
# ## 3. The loss
#
# $$E\big[w_t\,\|\hat x_\theta(z_t, c) - x\|^2 + \lambda\, w_{t'}\,\|\hat x_\theta(z'_{t'}, c_{pr}) - x_{pr}\|^2\big]
# \qquad\text{Eq. (9), the paper's Eq. 2}$$
#
# with $z_t = \sqrt{\bar\alpha_t}\,x + \sqrt{1-\bar\alpha_t}\,\varepsilon$ and, on pictures of the class,
# $z'_{t'} = \sqrt{\bar\alpha_{t'}}\,x_{pr} + \sqrt{1-\bar\alpha_{t'}}\,\varepsilon'$.
#
# The first term is ordinary training on the four pictures. The second is ordinary training, too, on pictures of the class that
# the *frozen* model made before the fine-tuning began: it is asked to go on making what it made. $t'$ and $\varepsilon'$ are
# drawn anew for it.
#
# The paper leaves $w_t$ open. It matters: $\lVert\hat x - x\rVert^2 = \lVert\hat\varepsilon - \varepsilon\rVert^2/\mathrm{SNR}(t)$,
# with $\mathrm{SNR} = \bar\alpha/(1-\bar\alpha)$.
#
# **Claim.** On sixteen noisy latents, the squared error of $\hat x_0$ times SNR is the squared error of $\varepsilon$, and times
# 1 + SNR it is that of the velocity $v$, on which our networks were trained.

# %%
a, g = model.schedule.at(420), torch.Generator().manual_seed(0)
x_0, eps = model.encode(many), torch.randn(16, *model.latent_shape, generator=g)
z_t = a ** .5 * x_0 + (1 - a) ** .5 * eps
with torch.no_grad():
    v = model.net(z_t, torch.full((16,), 420), model.embed(["man firefighter"] * 16))
of_x = (a ** .5 * z_t - (1 - a) ** .5 * v - x_0).square().mean()
of_eps = ((1 - a) ** .5 * z_t + a ** .5 * v - eps).square().mean()
of_v = (v - a ** .5 * eps + (1 - a) ** .5 * x_0).square().mean()
assert abs(of_x * a / (1 - a) / of_eps - 1) < 1e-3 and abs(of_x / (1 - a) / of_v - 1) < 1e-3

# %%
from palimpsest.methods.dreambooth import flat_weight, snr_weight, v_weight

fig, (ax,) = plots.panels(1, height=2.1, width=5.4)
times, one = torch.arange(20, 980, 20), torch.zeros(48, 1, 1, 1)
for weight, label in ((snr_weight, "SNR: error of ε"), (v_weight, "1 + SNR: error of v"),
                      (flat_weight, "1: error of x̂₀")):
    ax.semilogy(times, weight(model.schedule, times, one).flatten(), label=label)
ax.set(xlabel="t", title="w_t: how much an error of x̂₀ counts")
ax.legend();

# %% [markdown]
# **Figure 10.2.** Three choices of $w_t$. With $w_t = 1$ all times count alike, although at $t > 600$ nobody could tell one
# firefighter from another. SNR and 1 + SNR put the weight on low noise, where a subject's details are. At high noise they differ:
# SNR goes to 0 there, 1 + SNR to 1. We use 1 + SNR.

# %% [markdown]
# The texts matter. Those of the subject name the word, the style and the background: what a text explains need not be learned as
# part of the subject. The eight pictures of the class come from the frozen model, under four texts without the word.

# %%
from palimpsest.fit.ahead import step_generator
from palimpsest.methods.dreambooth import Examples
from palimpsest.methods.prior import Prior, prior_latents
from palimpsest.worlds.scene import on_background

told = [f"man {name} firefighter in noto style {on_background(c)}" for c in GROUNDS]
kinds = ["man firefighter in noto style on a red background",
         "firefighter in noto style on a blue background",
         "man firefighter: light skin tone in twemoji style on a green background",
         "woman firefighter: dark skin tone in twemoji style on a white background"]
prior = Prior(n=8, steps=8, w=2., prompts=kinds)
STEPS, LR, SEED = 60, 3.5e-4, 1

# %%
import copy
import math

tokens = model.tokenizer
subject_set, class_set = (Examples(z, tokens(text)[:, None]) for z, text in (
    (model.encode(x), told), (prior_latents(model, kinds, prior, seed=SEED), kinds)))
draws = []
for step in range(5):
    g = step_generator(SEED, step)
    draws.append((subject_set.draw(4, 1000, g), class_set.draw(4, 1000, g)))
abar = torch.tensor([model.schedule.at(t) for t in range(1001)], dtype=torch.float64)

# %% [markdown]
# ## The method, from nothing
#
# Fine-tuning is a training loop. `draws` holds the random numbers of its first five steps: four latents of the subject and four
# of the class, each with a text, a time and a noise of its own. The cell below is DreamBooth.

# %%
net, lam, losses = copy.deepcopy(model.net).requires_grad_(True), 1., []
adam = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=0.)
for step, (subject, prior_) in enumerate(draws):
    z, tok, t, eps = (torch.cat(pair) for pair in zip(subject, prior_))
    a, b = (part.sqrt().float().view(-1, 1, 1, 1) for part in (abar[t], 1 - abar[t]))
    v = net(a * z + b * eps, t, model.text(tok))              # the network at α_t x + σ_t ε
    x_hat = a * (a * z + b * eps) - b * v
    error = ((x_hat - z) ** 2 / b ** 2).mean((1, 2, 3))       # w_t = 1 + SNR(t) = 1/σ_t²
    loss = error[:4].mean() + lam * error[4:].mean()          # Eq. (9), the paper's Eq. 2
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.)
    adam.param_groups[0]["lr"] = LR * (1 + math.cos(math.pi * step / STEPS)) / 2
    adam.step(), adam.zero_grad(), losses.append(loss.item())

# %% [markdown]
# Now the library, with the same settings, for all of its steps.
#
# **Claim.** Its first five losses are the five above (within 10⁻⁴ of each: the same numbers, multiplied in another order).
#
# **Claim.** The model that was given is unchanged, bit for bit: `dreambooth` returns a new one.

# %%
from palimpsest.methods.dreambooth import dreambooth
from palimpsest.methods.learner import Course

before = copy.deepcopy(model.net.state_dict())
settings = dict(identifier=name, prompts=told)
full = dreambooth(model, x, "firefighter", **settings, prior=prior,
                  course=Course(steps=STEPS, lr=LR, seed=SEED))
for row in (losses, full.losses[:5]):
    print(*(f"{v:.4f}" for v in row))
assert torch.allclose(torch.tensor(losses), torch.tensor(full.losses[:5]), rtol=1e-4)
assert all(torch.equal(p, before[key]) for key, p in model.net.state_dict().items())

# %%
def smooth(curve, n=10):
    """Means of up to n steps before each."""
    return [sum(curve[max(0, k + 1 - n):k + 1]) / min(k + 1, n) for k in range(len(curve))]


fig, (ax,) = plots.panels(1, height=2.1, width=5.4)
plots.curves(ax, range(STEPS), dots=False, lines={
    "subject": smooth(full.instance), "class (prior term)": smooth(full.prior)})
ax.set(xlabel="step", ylim=(0, None), title="the two terms of Eq. (9), mean of 10 steps");

# %% [markdown]
# **Figure 10.3.** The two terms of the loss while all 8.9 million parameters are tuned. The subject's term (blue) falls from 0.37 to
# between 0.1 and 0.2. It stays noisy to the end: every step draws four values of $t$, and an error at low noise counts much; the rise in
# the last steps is such a draw. The class term (orange) starts *lower*, because its pictures come from this very model, and stays
# near 0.2 or below: the network learns the subject without giving up the class. Without the term nothing would hold it there
# (section 5).
#
# *Open the paper at Fig. 3.* There, two copies of the same network with shared weights are drawn, one for "A [V] dog", one for
# "A dog"; here, both halves go through the network as one batch of eight, which is the same.

# %% [markdown]
# ## 4. Full fine-tuning, LoRA, Textual Inversion
#
# Two cheaper ways to learn the same subject:
#
# - **LoRA** (arXiv:2106.09685v2) leaves every matrix $W$ of the attention as it is and adds $\frac{\alpha}{r} B A$, with thin $A$
#   ($r \times$ in) and $B$ (out $\times r$). $B$ starts at zero, so training starts at the frozen model.
# - **Textual Inversion** (arXiv:2208.01618v1) leaves the whole model as it is and learns one vector, the embedding of [V].

# %%
from palimpsest.methods.lora import lora_size
from palimpsest.methods.textual_inversion import textual_inversion

thin = dreambooth(model, x, "firefighter", **settings, prior=Prior(weight=0.), rank=8,
                  course=Course(steps=40, lr=5e-3, seed=SEED))
word = textual_inversion(model, x, "firefighter", identifier=name,
                         course=Course(steps=35, lr=.1, seed=SEED))
learned = {"full": sum(p.numel() for p in full.model.net.parameters()),
           "LoRA": lora_size(thin.model),
           "Textual Inversion": model.text.tokens.weight.shape[1],
           "frozen": 0}

# %% [markdown]
# Each is asked for sixteen pictures on four backgrounds that it was not shown, four seeds each; the frozen model is asked for
# "man firefighter". The score is the PSNR to the true picture inside the subject's outline.

# %%
from itertools import pairwise

from palimpsest.methods.sampling import generate
from palimpsest.notebooks.intervals import mean_interval

NEW = ("green", "black", "red", "blue")


def sixteen(of, who=f"man {name} firefighter", more="in noto style"):
    """Four new backgrounds, four seeds each."""
    texts = [f"{who} {more} on a {c} background" for c in NEW for _ in range(4)]
    return generate(of, texts, steps=6, w=2., seed=4).picture


# %%
truth = torch.cat([drawn(c) for c in NEW for _ in range(4)])
made = {"full": sixteen(full.model), "LoRA": sixteen(thin.model),
        "Textual Inversion": sixteen(word.model, f"man {name}"),
        "frozen": sixteen(model, "man firefighter")}

# %% [markdown]
# **Claim.** Full fine-tuning comes closest to the truth, then LoRA, then Textual Inversion, then the frozen model, and no two of the
# 95 % intervals overlap.

# %%
span = {k: mean_interval(psnr(p, truth, outline)) for k, p in made.items()}
for k, (low, high) in span.items():
    print(f"{k:18s}{learned[k]:>10,d} numbers learned   {low:5.1f} to {high:4.1f} dB")
assert all(span[better][0] > span[worse][1] for better, worse in pairwise(span))

# %%
columns = [0, 4, 8, 12, 1, 5]
plots.pictures([p[columns] for p in (truth, *made.values())], left=("true", *made), side=1.,
               below=[[""] * 6] * 4 + [[f"on {NEW[k // 4]}" for k in columns]]);

# %% [markdown]
# **Figure 10.4.** The same subject learned in three ways, on four backgrounds that it was never shown on, each column from one noise.
# *Full*: teal helmet, blue collar, the light skin; the badge is a smear. *LoRA*, with a hundredth of the
# numbers: mostly the right colours (not on blue); faces and outlines are not. *Textual Inversion*, one vector: "somebody in blue". It can
# choose only among what the frozen network can paint, and a teal firefighter is not among it, but a blue coat is. *Frozen*: a
# firefighter in red, as always. (The three trained for 60, 40 and 35 steps, each with its own learning rate; LoRA and Textual
# Inversion without a prior term. These are three runs, not three methods at their best.)

# %% [markdown]
# ## 5. Language drift
#
# What does the second term of Eq. (9) buy? The same training without it, in a third of the steps. Then both models are asked for what
# they used to know: firefighters without [V], and a face that has nothing to do with the subject.
#
# **Claim.** Without the prior term, "man firefighter" has come to mean *the* firefighter: the sixteen pictures are closer to the
# subject than with the prior term by at least 3 dB, although nobody said [V].
#
# **Claim.** From the same noise, the model tuned with the prior term stays closer to the frozen model's pictures of the class.

# %%
alone = dreambooth(model, x, "firefighter", **settings, prior=Prior(weight=0.),
                   course=Course(steps=STEPS // 3, lr=LR, seed=SEED))
tuned = {"with prior": full.model, "without": alone.model}
class_pictures = {k: sixteen(of, "man firefighter") for k, of in tuned.items()}
like = {k: psnr(p, truth, outline).mean().item() for k, p in class_pictures.items()}
stay = {k: psnr(p, made["frozen"]).mean().item() for k, p in class_pictures.items()}
for k in like:
    print(f"{k}: {like[k]:.1f} dB to the subject, {stay[k]:.1f} to the frozen ones")
assert like["without"] > like["with prior"] + 3
assert stay["with prior"] > stay["without"]

# %%
other = [f"{k} face in noto style on a green background" for k in ("grinning", "cat")]
faces = [generate(of, other, steps=8, w=2., seed=3).picture
         for of in (model, full.model, alone.model)]
firefighters = [p[[0, 4, 8, 12]] for p in (made["frozen"], *class_pictures.values())]
rows = [torch.cat(pair) for pair in zip(firefighters, faces)]
heads = ["“man firefighter”"] * 4 + ["“grinning face”", "“cat face”"]
plots.pictures(rows, left=("frozen", "with prior", "without prior"), above=heads, side=1.);

# %% [markdown]
# **Figure 10.5.** What the models make of texts without [V], from the same noise. *With prior*: the class is as it was, in red. (Even
# in a third of the steps) *without prior* every firefighter is the subject: the word "firefighter" now means this one. And the drift
# does not stop at the class: the grinning face and the cat, which no training text named, have taken the subject's colours. All
# texts share one network, and nothing asked it to remember. The prior pictures protect what is near them: with them the grinning
# face survives, but the cat has lost its face even so.
#
# *Open the paper at Fig. 6.* There, without prior preservation all outputs show the training pose; here, all outputs of the class show
# the training subject.

# %% [markdown]
# ## 6. Four applications, tried and judged
#
# The paper shows its subjects in new contexts, from new viewpoints, in the style of artists, and with changed properties. Each is tried
# here with sixteen pictures, and judged.

# %%
from palimpsest.metrics.image import rmse
from palimpsest.worlds.scene import COLOURS

ground = ((made["full"] + 1) / 2).flatten(2)[:, :, outline[0].flatten() == 0].median(2).values
nearest = torch.cdist(ground, torch.tensor([*COLOURS.values()])).argmin(1)
names = [list(COLOURS)[k] for k in nearest]
said = [c for c in NEW for _ in range(4)]
dark = sixteen(full.model, f"man {name} firefighter: dark skin tone")
right = sixteen(full.model, f"man {name} firefighter facing right")
twemoji = sixteen(full.model, more="in twemoji style")
face = (slice(None), slice(None), slice(24, 40), slice(22, 42))
darker = made["full"][face].mean((1, 2, 3)) - dark[face].mean((1, 2, 3))

# %% [markdown]
# **Claim.** *A new context* works: in at least 15 of 16 pictures the background has the colour that was asked for.
#
# **Claim.** *A changed property* works: asked for a dark skin tone, the face is darker in all sixteen.
#
# **Claim.** *A new viewpoint* fails: with "facing right" the sixteen pictures are nearly those without the words (RMSE below 0.1).
#
# **Claim.** *Another style* fails: asked for twemoji style, most of the sixteen stay closer to the subject's true noto picture than
# to its true twemoji picture.

# %%
styled = torch.cat([drawn(c, style="twemoji") for c in NEW for _ in range(4)])
nearer = psnr(twemoji, styled) > psnr(twemoji, truth)
moved = rmse(right, made["full"])
agree = sum(a == b for a, b in zip(names, said))
print(f"context {agree} of 16; face darker by {darker.min():.2f} or more; "
      f"view: RMSE {moved.mean():.3f}; style {int(nearer.sum())} of 16")
assert agree >= 15
assert (darker > 0).all()
assert moved.mean() < .1
assert nearer.double().mean() < .5

# %%
rows = [made["full"], dark, right, twemoji, styled]
plots.pictures([p[[0, 4, 8, 12, 1, 5]] for p in rows], side=1.,
               left=("new context", "dark skin tone", "facing right", "twemoji style",
                     "true twemoji"));

# %% [markdown]
# **Figure 10.6.** The four applications; each column starts from one noise. *New context*: right in all of them. *Dark skin tone*: the
# skin obeys, and helmet and collar stay; but eyes and mouth have gone under. The words "dark skin tone" were learned on
# other faces, and pull towards those. *Facing right*: nothing happens. In this world only people who walk, run or roll face
# right; for a portrait the model has never seen what the words would mean. *Twemoji style*: the badge turns red, but
# the last row shows what the style would have asked for, another helmet and braces over a brown coat. All four training
# pictures were noto, so the drawing *is* the subject now.

# %% [markdown]
# ## 7. The failures that the paper names
#
# The paper names three (its Fig. 9). All three are here.

# %%
def spread(p):
    """Mean RMSE between two seeds of one background: p (16 3 y x), four seeds of each."""
    groups, two = p.view(4, 4, *p.shape[1:]), [(i, j) for i in range(4) for j in range(i)]
    return sum(rmse(g[i:i + 1], g[j:j + 1]).item() for g in groups for i, j in two) / 24


def skin(p):
    """Mean colour of the face on each background, RGB in [0, 1]: (4 3)."""
    return (p[face].reshape(4, 4, 3, -1).mean((1, 3)) + 1) / 2


# %% [markdown]
# **Claim.** *Overfitting.* Four seeds of the tuned model differ less from each other than four seeds of the frozen model, on
# average over the four backgrounds.
#
# **Claim.** *Context and appearance are entangled.* The face of the same subject has another colour on each background: the means
# of its red, green or blue differ by more than 0.03 (range 0 to 1) between backgrounds, though the true ones do not.

# %%
varied = {k: spread(made[k]) for k in ("full", "frozen")}
colours = {"made": skin(made["full"]), "true": skin(truth)}
differ = {k: (v.amax(0) - v.amin(0)).max().item() for k, v in colours.items()}
print("seeds differ by", ", ".join(f"{v:.3f} ({k})" for k, v in varied.items()))
print("face colours differ by", ", ".join(f"{v:.2f} ({k})" for k, v in differ.items()))
assert varied["full"] < varied["frozen"]
assert differ["made"] > .03 > differ["true"]

# %% [markdown]
# What the numbers mean can be seen in Figure 10.6. *Overfitting*: every picture has the pose and the size of the four
# training pictures, since those never varied. *Entanglement*: on black the skin is darker than on red. The third
# failure is a *context that does not come*, because the model knows too little of it:

# %%
asked = [f"man {name} firefighter in manual wheelchair in noto style on a white background"] * 4
usual = ["man in manual wheelchair in noto style on a white background"] * 4
chair = [generate(of, texts, steps=6, w=2., seed=4).picture
         for of, texts in ((full.model, asked), (model, usual))]
plots.pictures(chair, left=("tuned: the firefighter", "frozen: a man"), side=1.2);

# %% [markdown]
# **Figure 10.7.** "In manual wheelchair", asked of the tuned and of the frozen model. The tuned model returns the portrait that it
# learned; only the skin suffers. The frozen model makes a figure that one must guess: it knows too little of wheelchairs to put
# anybody into one.
#
# *Open the paper at Fig. 9.* There, (a) the "ISS" does not become a space station, (b) a backpack takes the colour of its
# surroundings, (c) outputs repeat the training pictures; here, the wheelchair, the skin, and the pose.

# %% [markdown]
# ### A word on responsible use
#
# This lesson personalises a drawing. The same code learns a *person* from four photographs, with or without consent. Do not train
# on pictures of people who have not agreed, do not publish what could be mistaken for a photograph of them, and say that a picture
# is generated. The paper names this risk too. The applications above change skin tone by a word; on pictures of real people that is
# a sensitive attribute, and our emoji make it look more harmless than it is.

# %% [markdown]
# ## Where this breaks
#
# | symptom | cause | what to change |
# |---|---|---|
# | every picture of the class is now *the* subject | no prior term, or λ too small | λ = 1, more prior pictures |
# | unrelated things are ruined, too | as above, or too many steps | fewer steps, a smaller learning rate, LoRA |
# | the training background comes along | the texts did not name it | name it: "… on a white background" |
# | always the same pose | the training pictures have one pose | more varied pictures; stop earlier |
# | the subject is only roughly there | too few steps, or the autoencoder cannot show it | look at the autoencoded picture first; more steps |
# | the word does nothing | a common word, or only Textual Inversion on a subject the model cannot paint | a rare word; tune the network |
# | a style or a view is ignored | the class was never seen so | choose a class whose pictures vary in it; LoRA at lower strength |

# %% [markdown]
# ## On Stable Diffusion
#
# The same call fine-tunes Stable Diffusion by LoRA on four photographs of yours (put them in `~/subject`). By the paper, expect after
# some 400 steps at a learning rate of 1e-4 that "a zwx dog in a bucket" is your dog; with full fine-tuning the paper takes about
# 1000 steps at 5e-6. Without a GPU, weights or photographs the cell says what is missing. (We have not run this cell on a GPU with
# these weights.)

# %%
from pathlib import Path

from palimpsest.notebooks.public import public_model

photos = sorted((Path.home() / "subject").glob("*.jpg"))
large = public_model("stable-diffusion-v1-5", torch.float32)
if large is not None and photos:
    dog = dreambooth(large, photos, "dog", rank=4, prior=Prior(n=50),
                     course=Course(steps=400, lr=1e-4, batch=1))
    bucket = generate(dog.model, f"a {dog.identifier} dog in a bucket", w=7.5).picture
    plots.pictures([[bucket]], side=3);

# %% [markdown]
# ## Exercises
#
# Solutions are in [`notebooks/solutions/10_dreambooth.py`](solutions/10_dreambooth.py).
#
# **1. LoRA (coding).** Write the output of a LoRA layer for inputs $x$ (b, in): $h = W x + \frac{\alpha}{r} B A x$, with $W$
# (out, in), $A$ (r, in), $B$ (out, r).
#
# <details><summary>Hint 1</summary>With a batch of row vectors, W x becomes x @ W.T.</details>
# <details><summary>Hint 2</summary>r is the number of rows of A. Multiply by A first: it is the thin one.</details>

# %%
from palimpsest.notebooks.exercises import check


def lora(x, W, A, B, alpha):
    """h (b, out)."""
    raise NotImplementedError


check("10.1", lora)

# %% [markdown]
# **2. Predict, then run.** In the cell of "The method, from nothing" set `lam = 0.` and look at the five losses. Predict first: which
# of them change? (a) All five. (b) All but the first. (c) None, since five steps are too few. Answer "a", "b" or "c".
#
# <details><summary>Hint 1</summary>`losses` holds the whole of Eq. (9), both terms. What does λ = 0 remove from the sum?</details>
# <details><summary>Hint 2</summary>The first loss is computed before any update. Is the prior term zero there?</details>

# %%
answer = None                                      # "a", "b" or "c"
check("10.2", answer)

# %% [markdown]
# **3. An open project: more views, less overfitting.** The four training pictures have one pose. Make eight of them vary: mirror half
# of them, shift them by a few pixels, scale them by 0.8 to 1. Does the tuned model still always show one pose (`spread`)? Does it
# cost likeness at equal steps? Write a table with intervals.
#
# <details><summary>Hint 1</summary>`torch.nn.functional.affine_grid` and `grid_sample` on the RGBA picture, before it is put on
# a background.</details>
# <details><summary>Hint 2</summary>Judge likeness by the best PSNR over a few shifts, or the score punishes what you asked
# for.</details>

# %% [markdown]
# ## Quiz
#
# <details><summary>1. Why does the prior term use the frozen model's pictures and not photographs of firefighters?</summary>Because it
# should keep what the model *already* does. Photographs would teach it something new, and would have to be collected and
# captioned.</details>
#
# <details><summary>2. What would go wrong if the prior term used the same t and ε as the first?</summary>Nothing dramatic, but the two
# terms' gradients would be correlated, so the batch would be less informative. The paper draws t′ and ε′ anew; its second
# printed term has the primes.</details>
#
# <details><summary>3. Why do the training texts name the background and the style?</summary>What the text explains need not be explained by
# [V]. An unnamed background becomes part of the subject.</details>
#
# <details><summary>4. LoRA of rank r on a map of 320 in and 320 out: how many numbers, against full?</summary>r · (320 + 320) against
# 102,400. At r = 4: 2,560, a fortieth.</details>
#
# <details><summary>5. Textual Inversion changes one vector and cannot cause language drift. Why is it not the best method then?</summary>It
# can only choose among what the frozen network can paint: here "somebody in blue", 6 dB further from the truth than full
# fine-tuning.</details>

# %% [markdown]
# ## Three things to take away
#
# 1. The autoencoder decides first, then the training: look at the subject through it before you tune anything.
# 2. λ is the price of a memory. Without the prior term a model forgets its class: here within 20 steps.
# 3. The subject is learned *with* its pose, its style and its light, unless pictures and texts vary them.
#
# **Next question.** DreamBooth learns a subject; each edit is then a new picture. Can a model learn the *editing* itself, so that one
# sentence changes any given picture? Lesson 11 trains one.
