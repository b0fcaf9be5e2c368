"""The error ladder of a picture: what is lost on the way to the noise and back, and what each remedy costs.

    1  autoencoder          encode, decode: no method can do better than this
    2  w = 1                DDIM inversion (arXiv:2010.02502v4, Sec. 4.3) and back without guidance
    3  w                    the same inversion, back under guidance
    4  null-text            tuned null embeddings, as published (arXiv:2211.09794v1) and by a faster solver
    5  negative-prompt      the prompt's embedding in the place of the empty one (arXiv:2305.16807v1)
    6  fixed-point          w = 1, each step of the inversion solved by iteration (cf. arXiv:2309.04907v4)
    7  direct               the source put back on the pivot after each step (arXiv:2310.01506v1)

Each rung does everything anew, the pivot included, so that its evaluations, and the seconds that a caller
takes between two calls of `done`, are what it costs alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from palimpsest.arguments import Count, Picture, Rounds, Texts, check, one_each
from palimpsest.methods.inputs import given_picture
from palimpsest.methods.inversion import Inversion, invert, redo
from palimpsest.methods.null_text import GuidanceScale, check_model, null_text
from palimpsest.methods.sampling import TOP, times_below
from palimpsest.methods.variants import direct, negative_prompt
from palimpsest.metrics.image import psnr
from palimpsest.weights.counting import counted
from palimpsest.weights.model import Model


class Rung(NamedTuple):
    """One way there and back. Evaluations are those of one picture, the worst of the batch."""

    name: str
    psnr: Tensor  # (b,) dB, of the picture that came back to the one that was given
    forwards: int  # forward passes of the network, both ways
    backwards: int  # how many of them were followed by a backward pass
    latents: Tensor  # (b c y x)
    picture: Tensor  # (b 3 y x)


PUBLISHED = dict(lr=1e-2, stop=1e-5, solver="adam", start="empty")  # of null_text: the paper's settings
FAST = dict(stop=1e-5, solver="gauss-newton", start="prompt")  # of null_text: see its docstring


def ladder(
    model: Model,
    x: Picture,
    prompt: Texts,
    *,
    steps: Count = 50,
    w: GuidanceScale = 7.5,
    iterations: Rounds = 5,
    done: Callable[[Rung], None] | None = None,
) -> list[Rung]:
    """The rungs above for pictures x (b, 3, y, x) in [−1, 1], under one prompt, or one for each.

    steps: of every walk; w: guidance scale of the rungs that have one; iterations: of the fixed-point rung.
    done(rung) is called as each is reached. Raises ArgumentError as `null_text` does, before the first.
    """
    check(ladder, locals())
    check_model(model, prompt)
    times_below(model.schedule, steps, TOP, "steps")
    x, rungs = given_picture(model, x).to(model.dtype), []
    one_each("prompt", prompt, len(x))

    def reach(name: str, latents: Tensor, forwards: int = 0, backwards: int = 0) -> None:
        picture = model.decode(latents)
        rungs.append(Rung(name, psnr(picture, x), forwards, backwards, latents, picture))
        if done is not None:
            done(rungs[-1])

    def back(name: str, inversion: Inversion, w: float) -> None:
        with counted(model, len(x)) as evaluations:
            latents = redo(model, inversion, w=w)[-1]  # Eq. (17), Eq. (18)
        reach(name, latents, inversion.calls + int(evaluations.each.max()))

    reach("autoencoder", model.encode(x))
    back("w = 1", invert(model, x, prompt, steps=steps), 1.0)  # Eq. (19), then Eq. (17)
    back(f"w = {w:g}", invert(model, x, prompt, steps=steps), w)  # Eq. (19), then Eq. (17) with Eq. (18)
    for name, how in (("null-text", PUBLISHED), ("null-text, fast", FAST)):
        run = null_text(model, x, prompt, steps=steps, w=w, **how)  # it has walked down already
        reach(name, run.z_bar, int(run.forwards.max()), int(run.backwards.max()))
    back("negative-prompt", negative_prompt(model, x, prompt, steps=steps, w=w), w)
    back("fixed-point, w = 1", invert(model, x, prompt, steps=steps, iterations=iterations), 1.0)
    back("direct", direct(model, x, prompt, steps=steps, w=w), w)
    return rungs
