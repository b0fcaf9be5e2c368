"""The figures of FlowEdit and Text2LIVE: those drawn from the records of `make claims`, and three that
explain, drawn from closed forms or from one edit made anew.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from palimpsest.claims.common import Models, draw_edits
from palimpsest.claims.draw.editing import record
from palimpsest.claims.draw.style import BLUE, GREEN, GREY, ORANGE, figure, show
from palimpsest.claims.text2live import KINDS, LAYER, TRAINING, VIEWS
from palimpsest.methods.text2live import composed, text2live
from palimpsest.samplers.flow import flow_time, flow_times, flow_walk, line, velocity
from palimpsest.samplers.noise import Rng
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.judges import load_judge
from palimpsest.worlds.gaussian import GaussianWorld
from palimpsest.worlds.shapes import caption

Opener = Callable[[], Models]
COLOURS = {
    "FlowEdit": BLUE,
    "DDIM inversion": ORANGE,
    "Text2LIVE": BLUE,
    "SDEdit": ORANGE,
    "InstructPix2Pix": GREEN,
}


def spread(found: list[list[float]]) -> tuple[list[float], list[list[float]]]:
    """Means and their error bars, of [mean, low, high] each."""
    return [m for m, _, _ in found], [[m - low for m, low, _ in found], [high - m for m, _, high in found]]


def flow_edit_inversion(folder: Path, models: Opener) -> Figure:
    """What FlowEdit and DDIM inversion keep over how often they succeed, along the start."""
    r = record(folder, "flow_edit")
    fig = figure(7, 4.4)
    ax = fig.subplots()
    for name, rows in r["curves"].items():
        (x, across), (y, up) = (spread([p[key] for p in rows]) for key in ("right", "outside_db"))
        ax.errorbar(x, y, yerr=up, xerr=across, marker="o", capsize=3, color=COLOURS[name], label=name)
        for p, at_x, at_y in zip(rows, x, y):
            ax.annotate(f"s = {p['start']:g}", (at_x, at_y), (6, 6), textcoords="offset points", fontsize=9)
    ax.axvline(
        r["compared"]["success"], color=GREY, linestyle="--", linewidth=1, label="where they are compared"
    )
    ax.xaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
    ax.set(xlabel="all attributes right", ylabel="PSNR outside the true change (dB)")
    ax.set_title(f"upwards more is kept (n = {r['n']}, bars: 95 %)")
    ax.legend()
    return fig


def flow_edit_diffedit(folder: Path, models: Opener) -> Figure:
    """How much nearer to the true edit FlowEdit comes than DiffEdit, by kind of edit."""
    r = record(folder, "flow_edit")
    fig = figure(7, 3.2)
    ax = fig.subplots()
    means, bars = spread(list(r["gain"].values()))
    ax.errorbar(means, range(len(means)), xerr=bars, fmt="o", capsize=3, color=BLUE)
    ax.axvline(0, color=GREY, linewidth=1)
    ax.set_yticks(range(len(means)), list(r["gain"]))
    ax.invert_yaxis()
    ax.set(xlabel="PSNR to the true edit, FlowEdit less DiffEdit (dB)")
    ax.set_title("right of 0 FlowEdit is nearer to the truth (bars: 95 %)")
    return fig


def text2live_kinds(folder: Path, models: Opener) -> Figure:
    """Success by kind of edit, of a painted layer and of two methods that paint anew."""
    r = record(folder, "text2live")
    fig = figure(9, 3.8)
    ax = fig.subplots()
    for k, (name, table) in enumerate(r["tables"].items()):
        means, bars = spread([table[kind]["reached"] for kind in KINDS])
        at = [i + 0.27 * (k - 1) for i in range(len(KINDS))]
        ax.bar(at, means, 0.25, yerr=bars, capsize=2, color=COLOURS[name], label=name, ecolor=GREY)
    ax.set_xticks(range(len(KINDS)), KINDS)
    ax.set_ylim(0, 1.02)
    ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
    ax.set_title(f"changed as wished (n = {r['n']}, bars: 95 %)")
    ax.grid(False, axis="x")
    ax.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    return fig


# --------------------------------------------------------------------------- figures that explain

SCHED = Schedule.cosine()
TOP = flow_time(SCHED, 0.98 * SCHED.T)


def two_texts() -> GaussianWorld:
    """Pictures of two pixels under two texts, "a" and "b"."""
    a, b = (torch.tensor([[list(mean)]], dtype=torch.float64) for mean in ((-1.0, 0.3), (1.0, 0.8)))
    return GaussianWorld({"a": a, "b": b}, 0.25)


def coordinates(folder: Path, models: Opener) -> Figure:
    """One walk of the exact flow in three coordinate systems: VP, VE and the straight line."""
    world, fig = GaussianWorld({"a": torch.tensor([[[0.5]]], dtype=torch.float64)}, 0.3), figure(12, 3.6)
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None, None, None]
    times = flow_times(200, TOP)
    X = flow_walk(velocity(world.denoiser("a", SCHED), SCHED), TOP * z + (1 - TOP) * 0.5, times)
    paths = torch.stack(X)[:, :, 0, 0, 0]
    s = torch.tensor(times, dtype=torch.float64)
    sigma = s / (1 - s)
    abar = 1 / (1 + sigma**2)
    panels = (
        (
            "VP: $x_t$ = √ᾱ $x_0$ + √(1−ᾱ) ε",
            (1 - abar).sqrt(),
            "√(1−ᾱ)",
            paths / (1 - s[:, None]) * abar.sqrt()[:, None],
        ),
        ("VE: x = $x_0$ + σ ε", sigma, "σ", paths / (1 - s[:, None])),
        ("flow: $X_s$ = (1 − s) $x_0$ + s ε", s, "s", paths),
    )
    for ax, (title, level, name, lines) in zip(fig.subplots(1, 3), panels):
        ax.plot(level, lines, color=BLUE, linewidth=1.2)
        ax.set(title=title, xlabel=f"{name}: the picture left, noise right", ylabel="state")
        if name == "σ":
            ax.set(xlim=(0, 6), ylim=(-13, 13))
    return fig


def flow_edit_paths(folder: Path, models: Opener) -> Figure:
    """Pictures of two pixels, edited from a text to another: by the flow to noise and back, by FlowEdit."""
    world = two_texts()
    u_src, u_tar = (velocity(world.denoiser(p, SCHED), SCHED) for p in "ab")
    x_0 = world.sample(Rng.of(3, 10).randn((10, 1, 1, 2), torch.zeros(1).double()), "a")
    down = flow_times(60, TOP)
    up = flow_walk(u_src, x_0, [1e-3, *down[-2::-1]])
    ode = [*up, *flow_walk(u_tar, up[-1], down)]
    z, noise, flow = x_0, Rng.of(50, 10), [x_0]
    for s, r in pairwise(down):
        x_src = line(x_0, s, noise.randn(x_0.shape, x_0))
        z = z + (r - s) * (u_tar(x_src + z - x_0, s) - u_src(x_src, s))  # Eq. (26), (27)
        flow.append(z)
    exact = x_0 + (world.mu[1] - world.mu[0])
    fig = figure(11, 4.4)
    names = ("flow up to noise and back down", "FlowEdit: straight to the target")
    for ax, path, title in zip(fig.subplots(1, 2, sharex=True, sharey=True), (ode, flow), names):
        xy = torch.stack(path)[:, :, 0, 0]
        ax.plot(xy[..., 0], xy[..., 1], color=GREY, linewidth=1)
        for points, colour, label in (
            (x_0, BLUE, "pictures of a"),
            (path[-1], ORANGE, "their edits under b"),
        ):
            ax.plot(*points[:, 0, 0].T, "o", color=colour, label=label)
        ax.plot(*exact[:, 0, 0].T, "x", color="#222222", label="picture + difference of the means")
        ax.set(title=title, xlabel="first pixel", ylabel="second pixel")
    ax.legend(loc="lower right")
    return fig


def text2live_steps(folder: Path, models: Opener) -> Figure:
    """The layer, its opacity and the picture over the steps of one recolouring."""
    drawn, moments, shown = draw_edits(1, ("recolour",), 2100, things=1), {}, (1, 10, 25, 50, 75, 100)

    def keep(step: int, generator: torch.nn.Module) -> None:
        if step + 1 in shown:
            moments[step + 1] = [part.detach().clone() for part in composed(generator, x)]

    layer = caption(drawn.after_scenes[0], background=False) + LAYER
    with torch.inference_mode(False), torch.enable_grad():
        x, judge = drawn.before.clone(), load_judge("shapes-clip")
        text2live(
            judge, x, drawn.source[0], drawn.target[0], layer, training=TRAINING, views=VIEWS, each_step=keep
        )
    fig = figure(11, 5.4)
    axes = fig.subplots(3, len(moments))
    for column, (step, (colours, opacity, out)) in enumerate(moments.items()):
        rows: list[Tensor] = [opacity * colours, opacity * 2 - 1, out]
        for row, picture in enumerate(rows):
            show(axes[row, column], picture, above=f"step {step}" if row == 0 else "", smooth=False)
    for row, name in enumerate(("the layer, on grey", "its opacity", "the picture")):
        axes[row, 0].set_ylabel(name)
    return fig


DRAWN = (
    flow_edit_inversion,
    flow_edit_diffedit,
    text2live_kinds,
    coordinates,
    flow_edit_paths,
    text2live_steps,
)
