"""The training loop that every recipe uses: AdamW or Muon, warm-up and cosine decay, clipping, a moving
average, resume.

    for step in range(steps):
        data ~ batch(step, generator(seed, step, rank))        # a pure function of its arguments
        θ ← AdamW(θ, clip(∇ loss(θ, data)), lr(step))
        m ← m + (1 − decay(step)) (θ − m)                      # what samples best is the average, not the last step

Nothing random outlives a step, so the state of a run is (θ, m, the optimiser's moments, step), and a run
resumed from it is bit for bit the run that was never stopped. Under `python` it is one process; under
`torchrun` as many as asked for: each rank sees its own data and DDP averages the gradients. Since data is
a pure function of the step, other processes can draw it ahead (`workers`), and the run is still the same
run.

AdamW: Loshchilov & Hutter, arXiv:1711.05101v3. Cosine decay: the same authors, arXiv:1608.03983v5. Muon: training/fit_muon.py.
"""

from __future__ import annotations

import copy
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from palimpsest.fit.muon import Muon, matrices

PAUSE = 20.0  # seconds between two checkpoints on a GPU, which does `save_every` small steps in less
# seconds to wait for what another process draws: one that died, or whose data cannot be sent, never
# answers
PATIENCE = 300
PRECISIONS = ("float32", "bfloat16")
OPTIMISERS = ("adamw", "muon")
FASTER = 16.0  # Muon's learning rate in units of AdamW's: .02 beside 1.2e-3 was good for `shapes`
LOOK = 10  # steps between two looks at the loss: reading a number from the GPU halts it


class Fitted(NamedTuple):
    """What a run leaves behind."""

    net: nn.Module  # the net that was given, trained in place
    ema: nn.Module  # a copy of it that holds the moving average: the one to ship
    losses: list[float]  # one per step (under torchrun: rank 0's share)
    seconds: float  # spent in steps that count, over all stops and resumptions


LossFn = Callable[[nn.Module, Any, Generator], Tensor]


def fit(
    loss_fn: LossFn,
    net: nn.Module,
    batch: Callable[[int, Generator], Any],
    *,
    steps: int,
    lr: float,
    warmup: int = 200,
    ema: float = 0.999,
    clip: float = 1.0,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.99),
    accumulate: int = 1,
    precision: str = "float32",
    optimiser: str = "adamw",
    until: float = math.inf,
    seed: int = 0,
    workers: int = 0,
    checkpoint: str | Path | None = None,
    save_every: int = 200,
    log: str | Path | None = None,
    identity: dict[str, Any] | None = None,
    progress: bool = True,
    resume: bool = True,
    after: Callable[[int], None] | None = None,
    keep: Callable[[Fitted], None] | None = None,
) -> Fitted:
    """Train `net` for `steps` steps of `loss_fn(net, batch(step, generator), generator)`, a scalar.

    The CPU generator is seeded anew from (seed, step, rank): draw all randomness from it
    (samplers.noise.gaussian does, on any device). `batch` gives tensors on the CPU, in tuples, lists or
    dicts, and they are moved to the net's device; `workers` processes, which must not touch a GPU, draw
    them ahead, 0: none does. `lr` rises linearly for `warmup` steps, then falls to 0 along a cosine;
    `clip` bounds the gradient's norm (`math.inf`: never); `ema` in [0, 1) is the decay of the average.
    `accumulate` > 1: `batch` gives a sequence of so many pieces, and a step follows the mean of their
    losses, one piece in memory at a time. `precision` "bfloat16": products and convolutions run in it
    (autocast), weights, averages and the loss's own sums stay float32. `checkpoint` is rewritten every
    `save_every` steps, never half-written, but on a GPU not more often than every PAUSE seconds; with
    `resume` a run goes on from it. `identity`: what else makes this run the run it is (batch size, data
    …); a checkpoint of another one is refused. `log` is a CSV file of step, lr, loss. `net` stays on its
    device and in its memory format; under torchrun, put it on the rank's own device first and
    `checkpoint` where every rank can read it. Only rank 0 writes. `after(step)`, without gradients, is
    called when a step's update is done: a teacher that follows its student moves here. What it changes
    belongs into buffers or frozen parameters of `net`, which a checkpoint holds.

    `optimiser` "muon": linear maps and convolutions follow Muon at FASTER times `lr`, the rest AdamW.
    `until`, a time as time.time() tells it: the run ends then, if its steps are not done before, and the
    learning rate falls with the share of the time where that is ahead of the share of the steps. Such a
    run depends on the clock: it is resumed, and not bit for bit; a time that is past ends it after one
    step. `keep` is called with what there is whenever a checkpoint was written that is not the last: to
    write a file of the average, say.

    Raises ValueError for bad settings or another run's checkpoint, OSError where a checkpoint cannot be
    written, FloatingPointError when the loss or its gradient is not finite (either way the last good
    checkpoint stays). Ctrl-C saves and raises KeyboardInterrupt; an update that it falls into is finished
    first."""
    rank, world = rank_and_world()
    run = dict(
        steps=steps,
        lr=lr,
        warmup=warmup,
        ema=ema,
        clip=clip,
        weight_decay=weight_decay,
        betas=list(betas),
        optimiser=optimiser,
        seed=seed,
        world=world,
        accumulate=accumulate,
        precision=precision,
        **(identity or {}),
    )
    check_settings(run | dict(save_every=save_every, workers=workers, until=until))
    device = next(net.parameters()).device
    half = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def rate(step: int) -> float:
        return learning_rate(step, steps=steps, lr=lr, warmup=warmup, spent=spent())

    def rows(first: int) -> str:
        return "".join(f"{n},{rates[n]:.6g},{losses[n]:.6g}\n" for n in range(first, len(losses)))

    def seconds() -> float:
        return before + time.monotonic() - began

    def spent() -> float:
        """The share of the time until `until` that is gone, of all that the run has had."""
        return 0.0 if until == math.inf else min(1.0, seconds() / max(before + until - started, 1e-9))

    def drawn(step: int) -> tuple[Any, Tensor]:
        """A step's data, and where its generator stands after them."""
        generator = step_generator(seed, step, rank)
        return batch(step, generator), generator.get_state()

    def look() -> None:
        """Read the losses since the last look; stop at the first that is not finite."""
        first = len(losses)
        for loss, norm in torch.stack(pending).tolist() if pending else []:
            if not (math.isfinite(loss) and math.isfinite(norm)):
                kept = (
                    f"; {checkpoint} holds the last good state"
                    if checkpoint and Path(checkpoint).exists()
                    else ""
                )
                raise FloatingPointError(
                    f"step {len(losses)}: loss {loss}, gradient norm {norm}: lower lr ({lr}), "
                    f"warm up longer, or look at the data of that step{kept}"
                )
            losses.append(loss)
        pending.clear()
        if log is not None and rank == 0:
            with open(log, "a") as file:
                file.write(rows(first))

    def save() -> None:
        for a, b in zip(average.buffers(), net.buffers()):
            a.copy_(b)
        if checkpoint is not None and rank == 0:
            _write(
                Path(checkpoint),
                dict(
                    run=run,
                    done=done,
                    losses=losses,
                    seconds=seconds(),
                    net=net.state_dict(),
                    rates=rates,
                    ema=average.state_dict(),
                    optimiser=[o.state_dict() for o in optimisers],
                ),
            )
            if keep is not None and done < steps and spent() < 1:
                keep(Fitted(net, average, losses, seconds()))

    with _process_group(net):
        objective = _Objective(net, loss_fn)
        objective = (
            DistributedDataParallel(objective) if world > 1 else objective
        )  # all ranks start as rank 0 does
        params = [p for p in net.parameters() if p.requires_grad]
        average = copy.deepcopy(net).eval().requires_grad_(False)
        average_params = [a for a, p in zip(average.parameters(), net.parameters()) if p.requires_grad]
        optimisers = _optimisers(optimiser, net, lr, betas, weight_decay)
        done, losses, rates, pending, before = 0, [], [], [], 0.0

        if checkpoint is not None and resume and Path(checkpoint).exists():
            state = _read(Path(checkpoint), run)
            try:
                net.load_state_dict(state["net"])
                average.load_state_dict(state["ema"])
                for one, its_state in zip(optimisers, state["optimiser"]):
                    one.load_state_dict(its_state)
            except (RuntimeError, ValueError):
                raise ValueError(
                    f"checkpoint {checkpoint} is of another net: delete it, or pass resume=False"
                ) from None
            done, losses, rates, before = state["done"], state["losses"], state["rates"], state["seconds"]
        if log is not None and rank == 0:
            Path(log).parent.mkdir(parents=True, exist_ok=True)
            Path(log).write_text("step,lr,loss\n" + rows(0))

        began, started = time.monotonic(), time.time()
        saved = began
        pause = PAUSE if device.type == "cuda" else 0.0
        bar = tqdm(initial=done, total=steps, disable=not (progress and rank == 0), unit="step")
        try:
            for step, (data, state) in zip(
                range(done, steps), ahead(drawn, range(done, steps), workers, device.type == "cuda")
            ):
                now = rate(step)
                for one in optimisers:
                    for group in one.param_groups:
                        group["lr"] = now * (FASTER if isinstance(one, Muon) else 1.0)
                data, generator = moved(data, device), Generator()
                generator.set_state(state)
                pieces = data if accumulate > 1 else [data]
                if len(pieces) != accumulate:
                    raise ValueError(
                        f"accumulate={accumulate}: batch must give so many pieces, and gave {len(pieces)}"
                    )
                net.zero_grad()
                loss = torch.zeros((), device=device)
                for piece in pieces:
                    with half:
                        part = objective(piece, generator) / accumulate
                    part.backward()
                    loss += part.detach()
                with _uninterrupted(), torch.no_grad():  # an update is done whole or not at all
                    norm = nn.utils.clip_grad_norm_(params, clip)
                    for one in optimisers:
                        one.step()
                    torch._foreach_lerp_(average_params, params, 1 - ema_decay(step, ema))
                    if after is not None:
                        after(step)
                    pending.append(torch.stack((loss.detach().float(), norm.float())))
                    rates.append(now)
                    done = step + 1
                    over = done == steps or spent() >= 1
                    if done % LOOK == 0 or done % save_every == 0 or over:
                        look()
                        bar.set_postfix(loss=f"{np.mean(losses[-100:]):.4f}", refresh=False)
                    if done % save_every == 0 and time.monotonic() - saved >= pause or over:
                        save()
                        saved = time.monotonic()
                bar.update()
                if over:
                    break
        except KeyboardInterrupt:
            with _uninterrupted():
                look()
                save()
            raise
        finally:
            bar.close()
    return Fitted(net, average, losses, seconds())


def learning_rate(step: int, *, steps: int, lr: float, warmup: int, spent: float = 0.0) -> float:
    """lr · min(1, (step + 1)/warmup) · (1 + cos π u)/2, where u goes from 0 to 1 after the warm-up, and is nowhere less than `spent`.

    >>> [round(learning_rate(n, steps=12, lr=1., warmup=2), 3) for n in (0, 1, 2, 7, 12)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    u = max(spent, max(0, step - warmup) / max(1, steps - warmup))
    return lr * min(1.0, (step + 1) / max(1, warmup)) * (1 + math.cos(math.pi * u)) / 2


def ema_decay(n: int, ema: float) -> float:
    """min(ema, (1 + n)/(10 + n)): a young average must forget the initial weights quickly."""
    return min(ema, (1 + n) / (10 + n))


def step_generator(seed: int, step: int, rank: int = 0) -> Generator:
    """A CPU generator that depends on nothing but its arguments, which SeedSequence mixes: neighbours are
    unrelated.
    """
    return Generator().manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0]))


def rank_and_world() -> tuple[int, int]:
    """(rank, number of processes) as torchrun tells them; (0, 1) without torchrun."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def moved(data: Any, device: torch.device) -> Any:
    """The tensors in tuples, lists and dicts on the device; whatever else is in them stays."""
    if isinstance(data, Tensor):
        return data.to(device, non_blocking=True)
    if isinstance(data, dict):
        return {name: moved(value, device) for name, value in data.items()}
    if isinstance(data, (tuple, list)):
        found = [moved(value, device) for value in data]
        return data._make(found) if hasattr(data, "_make") else type(data)(found)
    return data


def ahead(
    draw: Callable[[int], Any], numbers: Sequence[int], workers: int, pin: bool = False
) -> Iterator[Any]:
    """draw(n) of each number, in their order: when it is asked for, or drawn ahead by processes that are
    forked from this one.

    draw must depend on nothing but n and must not touch a GPU. pin: put tensors where a GPU fetches them
    from while it computes."""
    if not workers:
        return map(draw, numbers)
    return map(
        _or_raise,
        DataLoader(
            _Drawn(draw),
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            prefetch_factor=4,
            pin_memory=pin,
            collate_fn=_as_it_is,
            multiprocessing_context="fork",
            generator=Generator(),
            timeout=PATIENCE,
        ),
    )


class _Drawn(Dataset):
    """A function as DataLoader wants one. What is wrong with the data is told as it is, not in a report
    of another process.
    """

    def __init__(self, draw: Callable[[int], Any]):
        self.draw = draw

    def __getitem__(self, n: int) -> Any:
        try:
            return self.draw(n)
        except ValueError as error:
            return error


def _as_it_is(drawn: Any) -> Any:
    return drawn


def _or_raise(drawn: Any) -> Any:
    if isinstance(drawn, ValueError):
        raise drawn
    return drawn


class _Objective(nn.Module):
    """The loss as a module: DDP then sees every gradient, whichever parts of the net the loss happens to
    call.
    """

    def __init__(self, net: nn.Module, loss_fn: LossFn):
        super().__init__()
        self.net, self.loss_fn = net, loss_fn

    def forward(self, data: Any, generator: Generator) -> Tensor:
        return self.loss_fn(self.net, data, generator)


def _optimisers(
    name: str, net: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float
) -> list[torch.optim.Optimizer]:
    """AdamW for all that is trained; or Muon for what it is for, and AdamW for the rest."""
    first = matrices(net) if name == "muon" else []
    known = {id(p) for p in first}
    rest = [p for p in net.parameters() if p.requires_grad and id(p) not in known]
    return [
        *([Muon(first, lr, weight_decay)] if first else []),
        *([_adamw(rest, lr, betas, weight_decay)] if rest else []),
    ]


def _adamw(
    params: list[Tensor], lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW in one fused kernel where the device has it."""
    try:
        return torch.optim.AdamW(params, lr, betas, weight_decay=weight_decay, fused=True)
    except RuntimeError:
        return torch.optim.AdamW(params, lr, betas, weight_decay=weight_decay)


BOUNDS = {
    "steps": (1, math.inf),
    "lr": (1e-12, 1e3),
    "ema": (0, 1 - 1e-9),
    "warmup": (0, math.inf),
    "clip": (1e-12, math.inf),
    "seed": (0, 2**63),
    "accumulate": (1, math.inf),
    "save_every": (1, math.inf),
    "workers": (0, math.inf),
}


def check_settings(given: dict[str, Any]) -> None:
    """Raises ValueError for the first of these settings of `fit` that is out of its bounds; what has none
    is passed over.
    """
    if given.get("precision", "float32") not in PRECISIONS:
        raise ValueError(f"precision: must be one of {', '.join(PRECISIONS)}, got {given['precision']!r}")
    if given.get("optimiser", "adamw") not in OPTIMISERS:
        raise ValueError(f"optimiser: must be one of {', '.join(OPTIMISERS)}, got {given['optimiser']!r}")
    if given.get("until", math.inf) < math.inf and given.get("world", 1) > 1:
        raise ValueError(
            "until: a run of several processes cannot end by the clock, which each reads for itself; give steps"
        )
    for name, (low, high) in BOUNDS.items():
        if name in given and not low <= given[name] <= high:
            wanted = f"be at least {low}" if high == math.inf else f"lie in [{low}, {high}]"
            raise ValueError(f"{name}: must {wanted}, got {given[name]}")


def _read(path: Path, run: dict[str, Any]) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        theirs = state["run"]
    except Exception as error:
        raise ValueError(
            f"checkpoint {path} is damaged or none of ours ({type(error).__name__}): "
            "delete it, or pass resume=False"
        ) from None
    other = [
        f"different {key}" if _is_digest(value) else f"{key}={theirs.get(key)} (now {value})"
        for key, value in run.items()
        if theirs.get(key) != value
    ]
    if other:
        raise ValueError(
            f"checkpoint {path} belongs to a run with {', '.join(other)}: "
            "use its settings, delete it, or pass resume=False"
        )
    return state


def _is_digest(value: Any) -> bool:
    """Whether it is a SHA-256 in hexadecimal, which says nothing to a reader."""
    return isinstance(value, str) and len(value) == 64


def _write(path: Path, state: dict[str, Any]) -> None:
    """Write beside the old file, then take its place at a stroke: at any moment one whole file is there."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (
        OSError,
        RuntimeError,
    ) as error:  # of a full disk torch says RuntimeError, and what it was beneath
        beneath = error if isinstance(error, OSError) else error.__context__
        reason = getattr(beneath, "strerror", None) or str(error).splitlines()[0]
        part.unlink(missing_ok=True)
        raise OSError(
            f"checkpoint: {path} cannot be written ({reason}); make room there and start again with the same command: "
            "the run goes on from its last checkpoint"
        ) from None


@contextmanager
def _process_group(net: nn.Module) -> Iterator[None]:
    """Under torchrun: join the other processes, and leave them at the end. Alone, or in the caller's
    group: nothing.
    """
    mine = rank_and_world()[1] > 1 and not dist.is_initialized()
    if mine:
        dist.init_process_group("nccl" if next(net.parameters()).is_cuda else "gloo")
    try:
        yield
    finally:
        if mine:
            dist.destroy_process_group()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold a Ctrl-C back until the block is done (where Python's own handler is in charge of it)."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed.is_set():
        raise KeyboardInterrupt
