"""Checks for the exercises of the lessons: whether an answer is right. The answers are in notebooks/solutions."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from palimpsest.notebooks.intervals import share_interval
from palimpsest.samplers.ddim import invert
from palimpsest.samplers.flow import flow_times, line, velocity
from palimpsest.samplers.schedule import Schedule
from palimpsest.samplers.ve_sde import ve_sigmas
from palimpsest.worlds.gaussian import GaussianWorld


def check(name: str, answer: object) -> None:
    """Print whether `answer` solves exercise `name`. None, or raising NotImplementedError, is not begun."""
    try:
        wrong = "not begun" if answer is None else CHECKS[name](answer)
    except NotImplementedError:
        wrong = "not begun"
    print(f"exercise {name}: {'right' if wrong is None else wrong}")


def slope(steps: Sequence[int], errors: Sequence[float]) -> float:
    """The power p of errors ∝ steps^p, by least squares in the logarithms."""
    x, y = (torch.tensor(v, dtype=torch.float64).abs().log() for v in (steps, errors))
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


# --------------------------------------------------------------------------- 00

def _kept_outside(judge: Callable) -> str | None:
    before = torch.linspace(-.5, .5, 3 * 16).reshape(1, 3, 4, 4)
    changed = torch.zeros(1, 1, 4, 4)
    changed[..., :2] = 1
    edit = before + torch.where(changed > 0, 1., .02)
    found = judge(edit, before, changed)
    wanted = 20 * math.log10(2 / .02)
    return None if math.isclose(found, wanted, abs_tol=.01) else f"not yet: {found:.2f} dB, and {wanted:.2f} is wanted"


def _untouched(db: float) -> str | None:
    return None if db == math.inf else f"not yet: {db:g}; what is the mean square difference of a picture to itself?"


# --------------------------------------------------------------------------- 01

def _same_noise(t: float) -> str | None:
    sigma = Schedule.cosine().sigma(500)
    if math.isclose(t, math.log(sigma / .01) / math.log(50 / .01), abs_tol=1e-3):
        return None
    return f"not yet: at t = {t:g} the ladder stands at {.01 * (50 / .01) ** t:.3g}, the cosine schedule at {sigma:.3g}"


def _second_order(step: Callable) -> str | None:
    world = GaussianWorld({"p": torch.full((1, 1, 1), .7)}, .3)
    x = torch.full((1, 1, 1, 1), 9., dtype=torch.float64)
    errors, counts = [], (32, 64, 128)
    for n in counts:
        sigmas, y = ve_sigmas(n, sigma_max=10.)[:-1], x
        for sigma, after in pairwise(sigmas):
            y = step(lambda x, s: world.score(x, s, "p"), y, sigma, after)
        errors.append(float(y - world.ve_flow(x, sigmas[0], sigmas[-1], "p")))
    p = slope(counts, errors)
    return None if p < -1.8 else f"not yet: the error falls with slope {p:.2f}, and −2 is wanted"


def _spread_of_all(kept: Callable[[float, float], float], steps: int = 50) -> float:
    """std of the samples at eta = 1 from data N(0.7, 0.3²), where a step keeps kept(ᾱ_s, σ) of the noise that it saw."""
    sched, world = Schedule.cosine(), GaussianWorld({"p": torch.full((1, 1, 1), .7)}, .3)
    probe, v = torch.tensor([[0.], [1.]], dtype=torch.float64)[:, :, None, None], 1.
    for t, s in pairwise(sched.times(steps, .98)):
        a_t, a_s = sched.at(t), sched.at(s)
        eps, sigma = world.eps(probe, a_t, "p"), ((1 - a_s) / (1 - a_t) * (1 - a_t / a_s)) ** .5
        low, high = (a_s ** .5 * (probe - (1 - a_t) ** .5 * eps) / a_t ** .5 + kept(a_s, sigma) * eps).flatten().tolist()
        v = (high - low) ** 2 * v + sigma ** 2
    return v ** .5


def _too_much_noise(prediction: str) -> str | None:
    right, wrong = (_spread_of_all(kept) for kept in (lambda a, sigma: (1 - a - sigma ** 2) ** .5, lambda a, sigma: (1 - a) ** .5))
    said = "too small" if wrong < .95 * right else "too large" if wrong > 1.05 * right else "right"
    return None if prediction == said else f"not yet: measured, the std is {wrong:.3f}, and {right:.3f} with the right line"


# --------------------------------------------------------------------------- 04

def _mask_line(put_back: Callable) -> str | None:
    x_s, x_0, z = torch.randn((3, 2, 4, 6, 6), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mask = torch.zeros(2, 1, 6, 6, dtype=torch.float64)
    mask[..., 2:5] = 1
    for abar in (.3, .8, 1.):
        found, edited = put_back(x_s, x_0, mask, abar, z), mask.expand_as(x_s) > 0
        if not torch.allclose(found[edited], x_s[edited]):
            return "not yet: where the mask is 1 the walk's own state has changed"
        if not torch.allclose(found[~edited], (abar ** .5 * x_0 + (1 - abar) ** .5 * z)[~edited]):
            return f"not yet: at ᾱ = {abar:g} the kept part is not the original under as much noise as the rest has"
    return None


def _without_dice(share: float) -> str | None:
    if math.isclose(share, .5 ** .5, abs_tol=5e-3):
        return None
    return f"not yet: {share:g}; a state keeps its place, in standard deviations, from the top to the bottom"


# --------------------------------------------------------------------------- 02

def _eps_of_a_picture(eps_of: Callable) -> str | None:
    sched, x_0, eps = Schedule.cosine(), torch.tensor([.7, -1.2]).double(), torch.tensor([.4, 2.]).double()
    for t in (20, 500, 950):
        a = sched.at(t)
        found = eps_of(a ** .5 * x_0 + (1 - a) ** .5 * eps, x_0, a)
        if not torch.allclose(found, eps, atol=1e-9, rtol=0):
            return f"not yet: at t = {t} the first number becomes {float(found[0]):.4f}, and {float(eps[0]):.4f} is right"
    return None


def _returns_its_input(loss: float) -> str | None:
    right = .25 + (1 - .75 ** .5) ** 2
    return None if math.isclose(loss, right, rel_tol=.02) else f"not yet: {loss:g}; x_t − ε has two independent parts"


def _last_hundred(share: float) -> str | None:
    return None if math.isclose(share, 1 - .99 ** 100, abs_tol=.01) else f"not yet: {share:g}; how much of the old average is left?"


# --------------------------------------------------------------------------- 05

def _upward(upward: Callable) -> str | None:
    sched, world = Schedule.cosine(), GaussianWorld({"p": torch.full((1, 1, 1), .7)}, .5)
    x_s = torch.tensor([.7, -1.2, 2.]).double().view(3, 1, 1, 1)
    eps = world.denoiser("p", sched)
    for s, t, rounds in ((0, 100, 0), (300, 500, 1), (40, 960, 3)):
        found = upward(lambda x, t=t: eps(x, t), x_s, sched.at(s), sched.at(t), rounds)
        right = invert(eps, sched, x_s, [t, s], iterations=rounds)[0]
        if not torch.allclose(found, right, atol=1e-9, rtol=0):
            got, wanted = found.flatten()[0].item(), right.flatten()[0].item()
            return f"not yet: from t = {s} to {t} with {rounds} rounds a pixel becomes {got:.4f}, not {wanted:.4f}"
    return None


def _labels_tie(sigma: float) -> str | None:
    s = .3
    source = s ** 2 / (s ** 2 + sigma ** 2)
    destination = (1 - source) * (1 - s ** 2) / (1 + sigma ** 2)
    if math.isclose(source, destination, rel_tol=.01):
        return None
    return f"not yet: at σ = {sigma:g} the source label misses by {source:.3f} and the destination's by {destination:.3f}"


# --------------------------------------------------------------------------- 06

def _four_fifths(r: float) -> str | None:
    if math.isclose(r, 2.5, abs_tol=1e-3):
        return None
    return f"not yet: at r = {r:g} a cell must exceed {.5 * r * .8:.3f}, and those that differ are 1"


def _same_level(blend: Callable) -> str | None:
    encoded, mask = [torch.full((1, 1, 1, 2), float(k)) for k in (3, 2, 1, 0)], torch.tensor([[[[1., 0.]]]])
    for n in range(3):
        edited, kept = blend(torch.full((1, 1, 1, 2), 9.), encoded, n, mask).flatten().tolist()
        if edited != 9:
            return "not yet: where the mask is 1 the edit should stand"
        if kept != 2 - n:
            return f"not yet: after step {n} the kept part should be encoded[{n + 1}]"
    return None


# --------------------------------------------------------------------------- 07

def _alignment(index: Sequence[int]) -> str | None:
    right = [0, 1, -1, 2, 3, 4, 5, 6, 7, 8]
    if list(index) == right:
        return None
    if len(index) != len(right):
        return f"not yet: {len(right)} tokens are asked for, start and end included, and here are {len(index)}"
    wrong = next(j for j, (i, k) in enumerate(zip(index, right)) if i != k)
    return f"not yet: look again at token {wrong} of the target"


def _share_out(share_out: Callable) -> str | None:
    for n, m in ((1, 3), (3, 1), (2, 2), (2, 5)):
        block = torch.as_tensor(share_out(n, m), dtype=torch.float64)
        if block.shape != (n, m):
            return f"not yet: {n} tokens of the source and {m} of the target want a block of {n} × {m}, not {tuple(block.shape)}"
        if not torch.allclose(block.sum(1), torch.ones(n, dtype=torch.float64)):
            return f"not yet: from {n} tokens to {m}, a source token gives away {block.sum(1)[0]:.3g} of its map, and 1 is all of it"
        if n == m and not torch.equal(block, torch.eye(n, dtype=torch.float64)):
            return "not yet: equally many tokens answer one to one"
    return None


# --------------------------------------------------------------------------- 08

def _silence(silence: Callable) -> str | None:
    for eps_c, eps_true, w in ((.5, .4, 7.5), (-1., .3, 2.)):
        eps_null = silence(eps_c, eps_true, w)
        reached = eps_null + w * (eps_c - eps_null)
        if not math.isclose(reached, eps_true, abs_tol=1e-9):
            return f"not yet: guidance makes {reached:.4f} of it at w = {w:g}, and {eps_true:g} is wanted"
    return None


def _start_at_the_prompt(answer: str) -> str | None:
    return None if str(answer).strip().lower() == "a" else (
        f"not yet: ({answer}); with ∅ = C the step is that of w = 1; how far from the pivot is it, and what is `enough`?")


# --------------------------------------------------------------------------- 03

def _exchanged(w: float) -> str | None:
    null, told = torch.tensor([.4, -1.]).double(), torch.tensor([1.1, .3]).double()
    if math.isfinite(w) and torch.allclose(null + w * (told - null), told + 3. * (null - told), atol=1e-9):
        return None
    return f"not yet: w = {w:g} gives the text the factor {w:g} and no text {1 - w:g}"


def _peak(peak: Callable) -> str | None:
    for mu_0, s_0, mu_c, s_c, w in ((0., 1., 1., .5, 3.), (-.4, .9, .3, .4, 1.), (.2, 2., -1., .3, 0.)):
        x = torch.tensor(peak(mu_0, s_0, mu_c, s_c, w), dtype=torch.float64, requires_grad=True)
        log_p = (1 - w) * -(x - mu_0) ** 2 / (2 * s_0 ** 2) + w * -(x - mu_c) ** 2 / (2 * s_c ** 2)
        slope_there = torch.autograd.grad(log_p, x)[0].item()
        if abs(slope_there) > 1e-6:
            return f"not yet: the slope at {x.item():.2f} is {slope_there:.2f} for μ_0, s_0, μ_c, s_c, w {mu_0}, {s_0}, {mu_c}, {s_c}, {w}"
    return None


def _moved(moved: Callable) -> str | None:
    for abar in (.1, .5, .9):
        if not math.isclose(found := moved(abar), (1 - abar) / abar ** .5, rel_tol=1e-9):
            return f"not yet: at ᾱ = {abar:g} it is not {found:.4f}; write x̂_0 with ε̂ and with ε, and subtract"
    return None


# --------------------------------------------------------------------------- 09

def _put_back(put_back: Callable) -> str | None:
    x_s, picture, noise = torch.randn((3, 2, 3, 4, 4), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    mask[..., 1:3] = 1
    for abar in (.2, 1.):
        found, painted = put_back(x_s, picture, mask, noise, abar), mask.expand_as(x_s) > 0
        if not torch.equal(found[painted], x_s[painted]):
            return "not yet: where the mask is 1 the walk's own state has changed"
        if not torch.allclose(found[~painted], (abar ** .5 * picture + (1 - abar) ** .5 * noise)[~painted]):
            return f"not yet: at ᾱ = {abar:g}, where it is kept, this is not the picture under as much noise as the rest has"
    return None


def _keeps_nothing(answer: str) -> str | None:
    return None if str(answer).strip().lower() == "b" else (
        f"not yet: ({answer}); the network still sees what is kept, but what does the last step return outside the mask?")


# --------------------------------------------------------------------------- 10

def _lora(lora: Callable) -> str | None:
    g = torch.Generator().manual_seed(10)
    for r, alpha in ((1, 1.), (3, 6.)):
        x, W, A, B = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((2, 5), (4, 5), (r, 5), (4, r)))
        found = lora(x, W, A, B, alpha)
        if tuple(found.shape) != (2, 4):
            return f"not yet: h should be (b, out), here (2, 4), and it is {tuple(found.shape)}"
        if not torch.allclose(found, x @ (W + alpha / r * B @ A).T):
            return f"not yet: at r = {r} and α = {alpha:g} it is not what the merged matrix W + (α/r) B A gives"
    return None


def _which_change(answer: str) -> str | None:
    return None if str(answer).strip().lower() == "a" else (
        f"not yet: ({answer}); print the two terms of the first step on their own")


# --------------------------------------------------------------------------- 11

def _other_order(other_order: Callable) -> str | None:
    none, text, full = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    for s_image, s_text in ((1., 1.), (1.5, 7.5), (0., 2.)):
        found = other_order(none, text, full, s_image, s_text)
        if not torch.allclose(found, none + s_text * (text - none) + s_image * (full - text)):
            return f"not yet: at s_I = {s_image:g}, s_T = {s_text:g} it is another combination of the three; the first step adds the text"
    return None


def _without_guidance(answer: str) -> str | None:
    return None if str(answer).strip().lower() == "c" else (
        f"not yet: ({answer}); a run of the sampler draws one picture, not the mean, and every training pair had an edit")


# --------------------------------------------------------------------------- 12

def _averaged(edit: Callable) -> str | None:
    sched = Schedule.cosine()
    world = GaussianWorld({"a": torch.full((1, 1, 1), -.5), "b": torch.full((1, 1, 1), 1.)}, {"a": .3, "b": .6})
    u_src, u_tar = (velocity(world.denoiser(text, sched), sched) for text in "ab")
    x_0, times = torch.tensor([-.9, -.5, .2]).double().view(3, 1, 1, 1), flow_times(5, .9)
    noises = torch.randn((5, 4, 3, 1, 1, 1), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = x_0
    for (s, r), drawn in zip(pairwise(times), noises):
        z = z + (r - s) * sum(u_tar(line(x_0, s, e) + z - x_0, s) - u_src(line(x_0, s, e), s) for e in drawn) / len(drawn)
    found = edit(x_0, u_src, u_tar, times, [list(drawn) for drawn in noises])
    if torch.allclose(found, z, atol=1e-9, rtol=0):
        return None
    return f"not yet: the first pixel becomes {float(found.flatten()[0]):.4f}, and {float(z.flatten()[0]):.4f} is right"


def _own_noise(answer: str) -> str | None:
    return None if str(answer).strip().lower() == "b" else (
        f"not yet: ({answer}); ten independent differences of noises add up to a standard deviation of about .4")


# --------------------------------------------------------------------------- 13

def _difference(difference: Callable) -> str | None:
    g = torch.Generator().manual_seed(3)
    luck, rows = torch.rand(64, generator=g, dtype=torch.float64), torch.randint(64, (500, 64), generator=g)
    a, b = (luck < .8).double(), (luck < .7).double()
    means = torch.stack([(a[row] - b[row]).mean() for row in rows])
    wanted = [float((a - b).mean()), *means.quantile(torch.tensor([.025, .975], dtype=torch.float64)).tolist()]
    found = [float(v) for v in difference(a, b, rows)]
    if all(math.isclose(x, y, abs_tol=1e-9) for x, y in zip(found, wanted, strict=True)):
        return None
    return f"not yet: {', '.join(f'{v:.3f}' for v in found)}, and {', '.join(f'{v:.3f}' for v in wanted)} is right"


def _pictures_needed(n: int) -> str | None:
    right = next(k for k in range(10, 2000) if share_interval(round(.8 * k), k)[0] > share_interval(round(.7 * k), k)[1])
    if abs(n - right) <= .1 * right:
        return None
    (low, _), (_, high) = (share_interval(round(p * n), n) for p in (.8, .7))
    return f"not yet: with {n} the better one begins at {low:.3f} and the other ends at {high:.3f}"


CHECKS: dict[str, Callable] = {"00.1": _kept_outside, "00.2": _untouched,
                               "01.1": _same_noise, "01.2": _second_order, "01.3": _too_much_noise,
                               "02.1": _eps_of_a_picture, "02.2": _returns_its_input, "02.3": _last_hundred,
                               "04.1": _mask_line, "04.2": _without_dice,
                               "05.1": _upward, "05.2": _labels_tie,
                               "06.1": _same_level, "06.2": _four_fifths,
                               "07.1": _share_out, "07.2": _alignment,
                               "08.1": _silence, "08.2": _start_at_the_prompt,
                               "03.1": _exchanged, "03.2": _peak, "03.3": _moved,
                               "09.1": _put_back, "09.2": _keeps_nothing,
                               "10.1": _lora, "10.2": _which_change,
                               "11.1": _other_order, "11.2": _without_guidance,
                               "12.1": _averaged, "12.2": _own_noise,
                               "13.1": _difference, "13.2": _pictures_needed}
