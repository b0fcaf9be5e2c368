"""The error ladder of a picture: what is lost on the way to the noise and back, and what each mend costs.

    1  autoencoder          encode, decode: no method can do better than this
    2  w = 1                DDIM inversion (arXiv:2010.02502v4, Sec. 4.3) and back without guidance
    3  w                    the same inversion, back under guidance
    4  null-text            tuned null embeddings, as published (arXiv:2211.09794v1), and the faster way
    5  negative-prompt      the prompt's embedding in the place of the empty one (arXiv:2305.16807v1)
    6  fixed-point          w = 1, each step of the inversion solved by iteration (cf. arXiv:2309.04907v4)
    7  direct               the source put back on the pivot after each step (arXiv:2310.01506v1)

Each rung is climbed from the ground, pivot included, so that its evaluations, and the seconds that a
caller may take between two calls of `done`, are what it would cost alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from palimpsest.methods.inversion import Inversion, invert, redo, spread
from palimpsest.methods.null_solvers import check_guidance
from palimpsest.methods.null_text import null_text
from palimpsest.methods.sampling import TOP
from palimpsest.methods.variants import direct, negative_prompt
from palimpsest.metrics.image import psnr
from palimpsest.weights.model import Model


class Rung(NamedTuple):
    """One way there and back. Evaluations are per picture, of the worst of the batch."""

    name: str
    psnr: Tensor  # (b,) dB, of the picture that came back to the one that was given
    forwards: int  # network evaluations of any kind, both ways
    backwards: int  # how many of them were followed by a backward pass
    latents: Tensor  # (b c y x)
    picture: Tensor  # (b 3 y x)


FAST = dict(solver="gauss-newton", start="prompt")  # of null_text: see its docstring


def ladder(
    model: Model,
    x: Tensor,
    prompt: str | Sequence[str],
    *,
    steps: int = 50,
    w: float = 7.5,
    iterations: int = 5,
    done: Callable[[Rung], None] | None = None,
) -> list[Rung]:
    """The rungs above for pictures x (b, 3, y, x) in [−1, 1], each under its prompt.

    iterations: of the fixed-point rung. done(rung) is called as each is reached. Raises ValueError as
    `null_text` does, before the first."""
    check_guidance(model, w)
    model.schedule.times(steps, TOP)
    if iterations < 0:
        raise ValueError(f"iterations: must be 0 (plain DDIM inversion) or more, got {iterations}")
    model.embed(list(spread(prompt, len(x))))  # a word that is not known
    x, rungs = x.to(model.device, model.dtype), []

    def climb(name: str, latents: Tensor, forwards: int = 0, backwards: int = 0) -> None:
        picture = model.decode(latents)
        rungs.append(Rung(name, psnr(picture, x), forwards, backwards, latents, picture))
        if done is not None:
            done(rungs[-1])

    def back(name: str, up: Inversion, w: float) -> None:
        climb(name, redo(model, up, w=w)[-1], up.calls + steps * (1 if w == 1 else 2))  # Eq. (17), Eq. (18)

    climb("autoencoder", model.encode(x))
    back("w = 1", invert(model, x, prompt, steps=steps), 1.0)  # Eq. (19), then Eq. (17)
    back(f"w = {w:g}", invert(model, x, prompt, steps=steps), w)  # Eq. (19), then Eq. (17) with Eq. (18)
    for name, how in (("null-text", {}), ("null-text, fast", FAST)):
        tuned = null_text(model, x, prompt, steps=steps, w=w, **how)  # its own walk down has arrived already
        climb(name, tuned.z_bar, int(tuned.forwards.max()), int(tuned.backwards.max()))
    back("negative-prompt", negative_prompt(model, x, prompt, steps=steps, w=w), w)
    back("fixed-point, w = 1", invert(model, x, prompt, steps=steps, iterations=iterations), 1.0)
    back("direct", direct(model, x, prompt, steps=steps, w=w), w)
    return rungs
