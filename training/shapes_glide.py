"""Recipe of shapes-glide: GLIDE's base model, text to 32×32 pixels, and its 20 % fine-tuning, a phase of
its own.

    python -m palimpsest.training.shapes_glide # conditional: every picture with its caption
    python -m palimpsest.training.shapes_glide --init weights/shapes-glide-conditional.safetensors --empty .2 --name shapes-glide
    python -m palimpsest.training.shapes_glide --without star --name shapes-glide-filtered                        # it never sees a star

"GLIDE", arXiv:2112.10741v3, Sec. 4.1 and 4.2. The net is the published one made small (nets/glide.py):
the text stands among the keys of every attention layer, and it says a variance for every pixel, which
L_hybrid teaches (samplers/learned.py). The second phase goes on exactly as before, with 20 % of the token
rows empty; only then can the model be guided without a classifier.

ours: the prediction is a velocity instead of ε, as in all our recipes (training/shapes.py says why), and
times are drawn with density ∝ t^tilt, so L_vlb is weighted so too: which shape a word means is settled
while the picture is nearly noise, and it is learnt last. Scenes are drawn anew for every step, or `kept`
of them once (training/scenes.py); `two` is the share of those with two things, and `hard` draws scenes
with what is learnt last so many times as often (training/shapes.py)."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from palimpsest.fit.ahead import moved, step_generator
from palimpsest.fit.loop import fit
from palimpsest.fit.processes import rank_and_world
from palimpsest.fit.settings import Files, Settings
from palimpsest.nets.glide import SMALL, SMALL_TEXT, GlideText, GlideUNet, for_inpainting
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.samplers.convert import eps_from_output, q_sample
from palimpsest.samplers.learned import l_hybrid, l_vlb
from palimpsest.samplers.noise import gaussian
from palimpsest.samplers.schedule import Schedule
from palimpsest.training.recipe import command_line, publish, start_from, storage_error
from palimpsest.training.scenes import Draw, Supply
from palimpsest.training.shapes import times, told
from palimpsest.weights.files import read_weights, sha256
from palimpsest.weights.load import own_device
from palimpsest.worlds.scene import SHAPES, WORDS

SIZE = 32


def models(net: dict = SMALL, text: dict = SMALL_TEXT) -> tuple[nn.ModuleDict, WordTokenizer, dict]:
    """The trainable modules, their tokenizer, and the configuration that rebuilds both."""
    tokenizer = WordTokenizer(list(WORDS), text["length"])
    text = dict(text, vocab=tokenizer.vocab_size)
    modules = nn.ModuleDict({"net": GlideUNet(**net), "text": GlideText(**text)})
    return modules, tokenizer, dict(net=net, text=text, words=list(WORDS))


def start_widened(init: str, modules: nn.ModuleDict) -> list[dict]:
    """As start_from, for a net that is to see what is kept: widened after the weights of one that does
    not, before those of one that does.
    """
    widened = bool(init) and read_weights(init)[0]["net"].get("inpainting", False)
    earlier = [] if widened else start_from(init, dict(modules))
    modules["net"] = for_inpainting(modules["net"])
    return start_from(init, dict(modules)) if widened else earlier


def loss(
    modules: nn.ModuleDict,
    data: tuple[Tensor, Tensor],
    generator: Generator,
    schedule: Schedule,
    tilt: float = 1.0,
) -> Tensor:
    x_0, tokens = data
    t, ctx = times(len(x_0), schedule.T, generator, tilt), modules["text"](tokens)
    eps = gaussian(x_0, generator)
    return l_hybrid(lambda x_t, t: modules["net"](x_t, t.to(x_t.device), ctx), schedule, x_0, t, eps, "v")[0]


def main(
    *,
    steps: int = 12000,
    batch: int = 32,
    lr: float = 1e-3,
    two: float = 0.3,
    hard: float = 1.0,
    tilt: float = 1.0,
    free: float = 0.0,
    empty: float = 0.0,
    without: str = "",
    kept: int = 0,
    warmup: int = 300,
    precision: str = "float32",
    compiled: int = 0,
    seed: int = 0,
    workers: int = 0,
    until: float = math.inf,
    init: str = "",
    name: str = "shapes-glide-conditional",
    state: str = "",
    device: str = "auto",
    out: str = "weights",
) -> None:
    (rank, world), on, state = rank_and_world(), own_device(device), state or f"runs/{name}"
    if not 0 <= empty <= 1:
        raise ValueError(f"empty: must be a share from 0 to 1 of the captions, got {empty}")
    if not tilt > -1:
        raise ValueError(f"tilt: times are drawn with density ∝ t^tilt; it must be more than −1, got {tilt}")
    if without not in ("", *SHAPES):
        raise ValueError(f"without: no shape is called {without!r}; there are {', '.join(SHAPES)}")
    arguments = dict(
        steps=steps,
        batch=batch,
        lr=lr,
        two=two,
        hard=hard,
        tilt=tilt,
        free=free,
        empty=empty,
        without=without,
        kept=kept,
        warmup=warmup,
        precision=precision,
        compiled=compiled,
        seed=seed,
        init=Path(init).name,
    )
    schedule = Schedule.cosine()
    torch.manual_seed(seed)  # the initial weights, alike on every rank
    modules, tokenizer, config = models()
    earlier = start_from(init, dict(modules))
    modules.to(on, memory_format=torch.channels_last)
    if compiled:
        modules["net"].compile()

    supply = Supply(
        SIZE, two=two, hard=hard, without=without, kept=kept // world, seed=(seed, rank), workers=workers
    )

    def data(step: int, generator: Generator, scenes_of: Draw = supply) -> tuple[Tensor, Tensor]:
        scenes, x_0, rng = scenes_of(batch // world, generator)
        return x_0.to(memory_format=torch.channels_last), tokenizer(
            [told(scene, rng, empty, free) for scene in scenes]
        )

    fitted = fit(
        lambda m, d, g: loss(m, d, g, schedule, tilt),
        modules,
        data,
        Settings(steps=steps, lr=lr, precision=precision, seed=seed, warmup=warmup),
        Files(
            checkpoint=f"{state}/checkpoint.pt",
            log=f"{state}/loss.csv",
            save_every=100,
            identity=dict(recipe=dict(arguments, init=sha256(init) if init else "")),
        ),
        workers=workers,
        until=until,
    )
    if rank == 0:
        config = dict(
            kind="glide",
            prediction="v",
            learned_variance=True,
            schedule=dict(name="cosine", T=schedule.T),
            vae=None,
            size=SIZE,
            **config,
        )
        figures = judge(
            dict(fitted.ema),
            moved(data(steps, step_generator(seed, steps + 1), supply.fresh), on),
            schedule,
            fitted.losses,
            seed,
        )
        print(
            publish(
                name,
                dict(fitted.ema),
                config,
                out=out,
                recipe="palimpsest.training.shapes_glide",
                arguments=arguments,
                fitted=fitted,
                figures=figures,
                earlier=earlier,
            ),
            figures,
        )


@torch.no_grad()
def judge(
    modules: dict[str, nn.Module],
    data: tuple[Tensor, Tensor],
    schedule: Schedule,
    losses: list[float],
    seed: int,
) -> dict[str, float]:
    """What the manifest says of a finished run: the loss, its bound on the code length, and what float16
    costs.
    """
    (x_0, tokens), g = data, step_generator(seed, 0)
    t = torch.linspace(50, schedule.T, len(x_0)).long()
    eps = gaussian(x_0, g)
    x_t, ctx = q_sample(schedule, x_0, t, eps), modules["text"](tokens)

    def bits(t: Tensor) -> float:
        """L_{t−1}, the mean over pictures."""
        x_t = q_sample(schedule, x_0, t, eps)
        out, v = modules["net"](x_t, t.to(x_t.device), ctx).chunk(2, dim=1)
        return l_vlb(schedule, x_0, x_t, t, eps_from_output(schedule, x_t, t, out, "v"), v).mean().item()

    later = (
        torch.linspace(2, schedule.T, len(x_0)).round().long()
    )  # the bound: L_0, and T − 1 times the mean of the others
    vlb = bits(torch.ones(len(x_0), dtype=torch.long)) + (schedule.T - 1) * bits(later)
    return dict(
        loss=sum(losses[-200:]) / len(losses[-200:]),
        vlb_bits=vlb,
        storage_error=storage_error(modules, lambda m: m["net"](x_t, t.to(x_t.device), m["text"](tokens))),
    )


if __name__ == "__main__":
    command_line(main)
