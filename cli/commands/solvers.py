"""--eta and --solver: by which step a command walks down (samplers/solvers.py)."""

from __future__ import annotations

import argparse

from palimpsest.arguments import hints
from palimpsest.cli.manners import read_as
from palimpsest.samplers.solvers import DDIM, Ancestral, DPMSolver2M, Heun, Step

SOLVERS = {"ddim": DDIM, "ddpm": Ancestral, "heun": Heun, "dpm++2m": DPMSolver2M}


def solver_options(parser: argparse._ActionsContainer, eta: float | None = None) -> None:
    """--solver; and, where a default is given for it, --eta, of which one excludes the other."""
    group = parser.add_mutually_exclusive_group()
    if eta is not None:
        group.add_argument(
            "--eta",
            type=read_as(float, hints(DDIM)["eta"]),
            default=eta,
            metavar="X",
            help=f"how much noise a step of ddim adds: 0 none, 1 as much as ddpm (default: {eta})",
        )
    group.add_argument(
        "--solver",
        choices=[*SOLVERS],
        help="the step of the walk: heun and dpm++2m are of second order, heun with two network evaluations "
        f"a step (default: {'ddim' if eta is None else 'ddim with --eta'})",
    )


def step_of(a: argparse.Namespace) -> Step:
    """The step that was asked for, made anew for each walk."""
    return DDIM(getattr(a, "eta", 0.0)) if a.solver is None else SOLVERS[a.solver]()


def evaluations(a: argparse.Namespace, steps: int) -> int:
    """How often such a walk of so many steps, which ends at the clean picture, asks the denoiser."""
    return 2 * steps - 1 if a.solver == "heun" else steps
