"""The training loop learns, resumes bit for bit from a kill at any moment, and is the same on two
processes.
"""

import hashlib
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from palimpsest.fit.ahead import ahead, moved, step_generator
from palimpsest.fit.checkpoint import read_checkpoint, write_checkpoint
from palimpsest.fit.loop import LOOK, fit
from palimpsest.fit.muon import Muon, matrices, orthogonalised
from palimpsest.fit.processes import rank_and_world
from palimpsest.fit.settings import Files, Settings, ema_decay, learning_rate
from palimpsest.outputs import OutputError

ROOT = Path(__file__).parent.parent
SETTINGS = dict(steps=40, lr=1e-2, warmup=4, save_every=7)


def train(loss, net, batch, **how):
    """`fit`, told the fields of both of its records as keywords."""
    settings, files = (
        record(**{f.name: how.pop(f.name) for f in fields(record) if f.name in how})
        for record in (Settings, Files)
    )
    return fit(loss, net, batch, settings, files, progress=False, **how)


def net():
    """A small convolutional net with a buffer, the same at every call."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.SiLU(), nn.Conv2d(6, 3, 1))
    for n, p in enumerate(model.parameters()):
        p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(n)) * 0.3
    return model.to(memory_format=torch.channels_last)


def batch(step, generator):
    return torch.randn(4, 3, 6, 6, generator=generator)


def loss(model, x, generator):
    """Denoise: randomness in the loss as well as in the data."""
    noisy = x + 0.5 * torch.randn(x.shape, generator=generator)
    return (model(noisy) - x[..., 1:-1, 1:-1]).square().mean()


class Stop(Exception):
    """What a kill looks like from inside: the loop ends in the middle of a step, with nothing saved."""


def stop_at(step, error=Stop):
    def stopping(n, generator):
        if n == step:
            raise error
        return batch(n, generator)

    return stopping


def assert_same_run(a, b):
    """Equal to the last bit: losses, weights, averages."""
    assert a.losses == b.losses
    assert_close(dict(a.net.state_dict()), dict(b.net.state_dict()), atol=0, rtol=0)
    assert_close(dict(a.ema.state_dict()), dict(b.ema.state_dict()), atol=0, rtol=0)


def test_what_is_to_be_done_after_a_step_sees_its_update_and_is_resumed(tmp_path):
    class Followed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()
            self.register_buffer("sum", torch.zeros(()))

    def run(at=None, **more):
        model = Followed()
        before = model.net[0].weight.clone()

        def after(step):
            assert step > 0 or not torch.equal(model.net[0].weight, before)
            model.sum += (1 + step) * model.net[0].weight.detach().norm()

        return train(
            lambda m, x, g: loss(m.net, x, g),
            model,
            batch if at is None else stop_at(at),
            after_step=after,
            **SETTINGS | dict(steps=12) | more,
        )

    whole = run()
    with pytest.raises(Stop):
        run(at=9, checkpoint=tmp_path / "c.pt")
    assert_same_run(run(checkpoint=tmp_path / "c.pt"), whole)
    assert whole.net.sum > 0


def test_a_run_that_is_ended_after_a_step_keeps_that_step(tmp_path):
    def end(step):
        if step == 6:
            raise KeyboardInterrupt

    path = tmp_path / "c.pt"
    with pytest.raises(KeyboardInterrupt):
        train(loss, net(), batch, checkpoint=path, after_step=end, **SETTINGS)
    steps = []
    resumed = train(loss, net(), batch, checkpoint=path, after_step=steps.append, **SETTINGS)
    assert steps[0] == 7
    assert_same_run(resumed, train(loss, net(), batch, **SETTINGS))


def test_the_loss_falls_and_the_average_is_a_copy():
    fitted = train(loss, net(), batch, **{**SETTINGS, "steps": 120})
    assert len(fitted.losses) == 120 and sum(fitted.losses[-20:]) < 0.5 * sum(fitted.losses[:20])
    assert not torch.equal(fitted.net[0].weight, fitted.ema[0].weight)
    assert not fitted.ema.training and not any(p.requires_grad for p in fitted.ema.parameters())
    assert torch.equal(fitted.net[1].running_mean, fitted.ema[1].running_mean)


def test_the_updates_are_those_of_a_plain_loop():
    model, average = net(), net()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.99), weight_decay=0.1)
    for n in range(15):
        g = step_generator(3, n)
        optimiser.zero_grad()
        loss(model, batch(n, g), g).backward()
        norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
        for p in model.parameters():
            p.grad *= min(1.0, 0.2 / float(norm))
        optimiser.param_groups[0]["lr"] = (
            1e-2 * min(1, (n + 1) / 4) * (1 + math.cos(math.pi * max(0, n - 4) / 11)) / 2
        )
        optimiser.step()
        for a, p in zip(average.parameters(), model.parameters()):
            decay = min(0.7, (1 + n) / (10 + n))
            a.data = decay * a.data + (1 - decay) * p.data
    fitted = train(
        loss, net(), batch, steps=15, lr=1e-2, warmup=4, ema=0.7, clip=0.2, weight_decay=0.1, seed=3
    )
    for mine, theirs in ((fitted.net, model), (fitted.ema, average)):
        for a, b in zip(mine.parameters(), theirs.parameters()):
            assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_in_bfloat16_products_are_rounded_and_weights_are_not(tmp_path):
    seen = []

    def watched(model, x, generator):
        seen.append(model[3](model[0](x).relu()).dtype)
        return loss(model, x, generator)

    how = dict(SETTINGS, precision="bfloat16", steps=120)
    fitted, exact = (
        train(watched, net(), batch, **how),
        train(loss, net(), batch, **dict(how, precision="float32")),
    )
    assert set(seen) == {torch.bfloat16} and {
        p.dtype for p in [*fitted.net.parameters(), *fitted.ema.parameters()]
    } == {torch.float32}
    assert fitted.losses != exact.losses and sum(fitted.losses[-20:]) == pytest.approx(
        sum(exact.losses[-20:]), rel=0.05
    )
    file = tmp_path / "c.pt"
    with pytest.raises(Stop):
        train(loss, net(), stop_at(23), checkpoint=file, **how)
    assert_same_run(train(loss, net(), batch, checkpoint=file, **how), train(loss, net(), batch, **how))
    with pytest.raises(ValueError, match="precision=bfloat16"):
        train(loss, net(), batch, checkpoint=file, **dict(how, precision="float32"))


def test_the_learning_rate_rises_to_lr_and_ends_at_nought():
    rates = [learning_rate(n, Settings(steps=100, lr=2.0, warmup=10)) for n in range(100)]
    assert rates[9] == rates[10] == 2.0 and rates[4] == 1.0 and 0 < rates[-1] < 1e-3
    assert all(a < b for a, b in zip(rates[:9], rates[1:])) and all(
        a > b for a, b in zip(rates[10:], rates[11:])
    )
    assert [ema_decay(0, 0.999), ema_decay(10**6, 0.999)] == [0.1, 0.999]


def test_data_of_a_step_depends_on_seed_step_and_rank_alone():
    draws = [
        torch.randn(4, generator=step_generator(*key)) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    assert_close(draws[0], torch.randn(4, generator=step_generator(0, 0, 0)), atol=0, rtol=0)
    others = [torch.randn(4, generator=step_generator(s, 0, 0)) for s in (2**62 + 1, -1, 10**40, -(10**40))]
    assert len({tuple(drawn.tolist()) for drawn in (*draws, *others)}) == 8
    assert all(not torch.equal(a, b) for n, a in enumerate(draws) for b in draws[:n])


def test_a_run_whose_data_others_draw_ahead_is_the_same_run_and_goes_on_where_it_was_stopped(tmp_path):
    whole = train(loss, net(), batch, **SETTINGS)
    assert_same_run(train(loss, net(), batch, workers=2, **SETTINGS), whole)
    files = dict(checkpoint=tmp_path / "c.pt")
    with pytest.raises(Stop):
        train(loss, net(), stop_at(20), workers=2, **files, **SETTINGS)
    assert_same_run(train(loss, net(), batch, workers=1, **files, **SETTINGS), whole)
    in_pieces = train(loss, net(), lambda n, g: [batch(n, g), batch(n, g)], accumulate=2, **SETTINGS)
    assert_same_run(
        train(loss, net(), lambda n, g: [batch(n, g), batch(n, g)], accumulate=2, workers=2, **SETTINGS),
        in_pieces,
    )


def test_ahead_keeps_the_order_and_gives_what_draw_gives():
    for workers in (0, 2):
        found = list(ahead(lambda n: (Path(str(n)), [n], {"a": torch.full((2,), n)}), range(3, 10), workers))
        assert [(path, numbers, d["a"].tolist()) for path, numbers, d in found] == [
            (Path(str(n)), [n], [n, n]) for n in range(3, 10)
        ]


def test_data_is_moved_whatever_it_is_packed_in():
    pair = namedtuple("pair", "a b")
    found = moved((1, "x", [torch.ones(2)], {"k": torch.ones(3)}, None), torch.device("meta"))
    assert (
        found[:2] == (1, "x")
        and found[4] is None
        and found[2][0].device.type == found[3]["k"].device.type == "meta"
    )
    assert isinstance(found[2], list)
    assert moved(pair(torch.ones(1), 2), torch.device("meta")).a.device.type == "meta"


def test_frozen_weights_stay_and_the_memory_format_is_kept():
    model = net()
    model[0].weight.requires_grad_(False)
    fitted = train(loss, model, batch, **SETTINGS)
    assert torch.equal(fitted.net[0].weight, net()[0].weight) and torch.equal(
        fitted.ema[0].weight, net()[0].weight
    )
    for weight in (fitted.net[0].weight, fitted.ema[0].weight):
        assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("killed", [0, 1, 7, 20, 39])
def test_a_killed_run_resumes_to_the_bits_of_an_unbroken_one(tmp_path, killed):
    whole = train(loss, net(), batch, log=tmp_path / "whole.csv", **SETTINGS)
    files = dict(checkpoint=tmp_path / "new" / "c.pt", log=tmp_path / "log.csv")
    with pytest.raises(Stop):
        train(loss, net(), stop_at(killed), **files, **SETTINGS)
    assert (tmp_path / "new" / "c.pt").exists() == (killed >= 7)
    before = torch.load(tmp_path / "new" / "c.pt")["seconds"] if killed >= 7 else 0.0
    resumed = train(loss, net(), batch, **files, **SETTINGS)
    assert_same_run(resumed, whole)
    assert resumed.seconds > before >= 0 and (killed < 7 or before > 0)
    assert (tmp_path / "log.csv").read_text(encoding="utf-8") == (tmp_path / "whole.csv").read_text(
        encoding="utf-8"
    )
    assert (tmp_path / "log.csv").read_text(encoding="utf-8").count("\n") == 41
    assert_same_run(
        train(loss, net(), stop_at(0), **files, **SETTINGS), whole
    )  # a finished run has no step left


def test_a_kill_in_the_middle_of_saving_leaves_the_last_whole_checkpoint(tmp_path, monkeypatch):
    path, whole, real = tmp_path / "c.pt", train(loss, net(), batch, **SETTINGS), torch.save

    def half(state, file):
        if state["done"] > 14:
            file.write(b"half a checkpoint")
            raise Stop
        real(state, file)

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(Stop):
        train(loss, net(), batch, checkpoint=path, **SETTINGS)
    monkeypatch.undo()
    assert torch.load(path, weights_only=True)["done"] == 14
    assert_same_run(train(loss, net(), batch, checkpoint=path, **SETTINGS), whole)
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


FULL = """
import resource, signal, sys
from pathlib import Path
from palimpsest.cli.manners import exit_code_of
from tests.test_fit import SETTINGS, batch, loss, net, train
path = Path(sys.argv[1])
def filling(n, generator):
    if n == 20:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    return batch(n, generator)
sys.exit(exit_code_of(lambda: train(loss, net(), filling, checkpoint=path, resume=False, **SETTINGS)))
"""


def test_a_full_disk_is_one_line_and_leaves_the_last_whole_checkpoint(tmp_path):
    path, whole = tmp_path / "c.pt", train(loss, net(), batch, **SETTINGS)
    train(loss, net(), batch, checkpoint=path, **SETTINGS)
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        encoding="utf-8",
    )
    said = f"palimpsest: error: checkpoint: {path} cannot be written (File too large); make room"
    assert done.returncode == 2 and done.stderr.startswith(said), done.stderr
    assert done.stderr.count("\n") == 1 and [p.name for p in tmp_path.iterdir()] == ["c.pt"]
    assert torch.load(path, weights_only=True)["done"] == 14
    assert_same_run(train(loss, net(), batch, checkpoint=path, **SETTINGS), whole)


def test_ctrl_c_saves_the_very_step_and_is_raised_again(tmp_path):
    path, whole = tmp_path / "c.pt", train(loss, net(), batch, **SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        train(loss, net(), stop_at(12, KeyboardInterrupt), checkpoint=path, **SETTINGS)
    assert torch.load(path, weights_only=True)["done"] == 12
    assert_same_run(train(loss, net(), batch, checkpoint=path, **SETTINGS), whole)


def test_ctrl_c_in_the_middle_of_an_update_waits_for_its_end(tmp_path, monkeypatch):
    path, whole = tmp_path / "c.pt", train(loss, net(), batch, **SETTINGS)
    real, calls = torch._foreach_lerp_, []

    def pressed(*args):  # weights are new, the average is not
        calls.append(None)
        if len(calls) == 13:
            os.kill(os.getpid(), signal.SIGINT)
        real(*args)

    monkeypatch.setattr(torch, "_foreach_lerp_", pressed)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts without it
    try:
        with pytest.raises(KeyboardInterrupt):
            train(loss, net(), batch, checkpoint=path, **SETTINGS)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.undo()
    assert torch.load(path, weights_only=True)["done"] == 13
    assert_same_run(train(loss, net(), batch, checkpoint=path, **SETTINGS), whole)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, bad):
    def poisoned(n, generator):
        return batch(n, generator) * (bad if n == 16 else 1)

    path = tmp_path / "c.pt"
    with pytest.raises(
        FloatingPointError, match=r"^step 16: loss (nan|inf).*lower lr.*c\.pt holds the last"
    ) as caught:
        train(loss, net(), poisoned, checkpoint=path, **SETTINGS)
    state = torch.load(path, weights_only=True)
    assert "\n" not in str(caught.value) and state["done"] == 14
    assert all(value.isfinite().all() for value in state["net"].values())


def test_a_gradient_that_is_not_finite_is_found_though_the_loss_is(tmp_path):
    def root(model, x, generator):
        return loss(model, x, generator) + ((model[0].weight * 0).sum()).sqrt()  # 0; its gradient is 0 * inf

    with pytest.raises(FloatingPointError, match="step 0: loss .*gradient norm nan"):
        train(root, net(), batch, checkpoint=tmp_path / "c.pt", **SETTINGS)
    assert not (tmp_path / "c.pt").exists()


def test_the_loss_is_looked_at_every_ten_steps():
    """A run whose first loss is NaN does ten steps. A look at every loss would halt a GPU each time."""

    def poisoned(n, generator):
        return batch(n, generator) * math.nan

    steps = []
    with pytest.raises(FloatingPointError, match="^step 0: loss nan"):
        train(loss, net(), poisoned, after_step=steps.append, **SETTINGS | dict(save_every=1000))
    assert LOOK == 10 and steps == list(range(LOOK))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(lr=2e-2), r"belongs to a run with lr=0.01 \(now 0.02\)"),
        (dict(seed=1), "seed=0"),
        (dict(steps=50), "steps=40"),
        (dict(identity=dict(data="b" * 64)), "belongs to a run with different data: use"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(tmp_path, change, message):
    path = tmp_path / "c.pt"
    mine = {**SETTINGS, "identity": dict(data="a" * 64)}
    train(loss, net(), batch, checkpoint=path, **mine)
    changed = {**mine, **change}
    with pytest.raises(ValueError, match=message):
        train(loss, net(), batch, checkpoint=path, **changed)
    anew = train(loss, net(), batch, checkpoint=path, resume=False, **changed)
    assert_same_run(anew, train(loss, net(), batch, **changed))


def test_a_damaged_checkpoint_and_one_of_another_net_are_refused(tmp_path):
    path = tmp_path / "c.pt"
    train(loss, net(), batch, checkpoint=path, **SETTINGS)
    with pytest.raises(ValueError, match="of another net: delete it, or pass resume=False"):
        train(loss, nn.Conv2d(3, 3, 3), batch, checkpoint=path, **SETTINGS)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"c\.pt is damaged .*: delete it, or pass resume=False"):
        train(loss, net(), batch, checkpoint=path, **SETTINGS)


@pytest.mark.parametrize(
    "change",
    [
        dict(steps=0),
        dict(lr=0.0),
        dict(lr=math.nan),
        dict(warmup=-1),
        dict(ema=1.0),
        dict(clip=0.0),
        dict(seed=0.5),
        dict(save_every=0),
        dict(precision="float16"),
    ],
)
def test_a_bad_setting_is_named(change):
    with pytest.raises(ValueError, match=f"^{next(iter(change))}: must "):
        train(loss, net(), batch, **{**SETTINGS, **change})


def plain(seed):
    """A net without buffers (batch statistics would differ between one batch of 8 and two of 4)."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.SiLU(), nn.Conv2d(6, 3, 1))
    for n, p in enumerate(model.parameters()):
        p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed + n)) * 0.3
    return model


def share(step, generator):
    """This rank's share of a batch of 8."""
    rank, world = rank_and_world()
    return torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(step)).chunk(world)[rank]


def reconstruct(model, x, generator):
    return (model(x) - x[..., 1:-1, 1:-1]).square().mean()


@pytest.mark.parametrize("n", [2, 4])
def test_a_batch_in_pieces_is_the_batch_as_a_whole(n):
    whole = train(reconstruct, plain(0), share, **SETTINGS | dict(steps=6))
    pieces = train(
        reconstruct, plain(0), lambda *a: share(*a).chunk(n), accumulate=n, **SETTINGS | dict(steps=6)
    )
    assert_close(pieces.losses, whole.losses, rtol=1e-5, atol=0)
    assert_close(dict(pieces.net.state_dict()), dict(whole.net.state_dict()), rtol=1e-4, atol=1e-5)


def on_one_rank(folder, port, rank):
    """What each of two processes runs. They start apart: DDP must make them one."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    fitted = train(reconstruct, plain(rank), share, checkpoint=folder / "c.pt", **SETTINGS)
    assert not torch.distributed.is_initialized()
    torch.save((fitted.net.state_dict(), fitted.ema.state_dict()), folder / f"{rank}.pt")


@pytest.mark.slow
def test_two_processes_of_batch_4_agree_with_one_of_batch_8(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from pathlib import Path; from tests.test_fit import on_one_rank; on_one_rank(Path({!r}), {}, {})"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code.format(str(tmp_path), port, rank)],
            cwd=ROOT,
            text=True,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        for rank in range(2)
    ]
    try:
        one = train(reconstruct, plain(0), share, **SETTINGS)
        for rank in ranks:
            errors = rank.communicate(timeout=300)[1]
            assert rank.returncode == 0, errors
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    left, right = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for mine, a, b in zip((one.net, one.ema), left, right):
        assert_close(dict(a), dict(b), atol=0, rtol=0)
        assert_close(dict(a), dict(mine.state_dict()), atol=1e-5, rtol=1e-5)
    assert torch.load(tmp_path / "c.pt", weights_only=True)["done"] == SETTINGS["steps"]


def matrix_and_the_rest():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(5, 6), nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 9, bias=False), nn.Linear(9, 1)
    )


def test_muon_steps_as_torch_does():
    theirs = pytest.importorskip("torch.optim").__dict__.get("Muon")
    if theirs is None:
        pytest.skip("this torch has no Muon")
    g = torch.Generator().manual_seed(0)
    ours, other = (
        [
            nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(n)))
            for n, shape in enumerate([(6, 4), (4, 9), (6, 4), (3, 3)])
        ]
        for _ in range(2)
    )
    a = Muon(ours, 0.05, weight_decay=0.1)
    b = theirs(other, 0.05, weight_decay=0.1)
    for _ in range(3):
        for p, q in zip(ours, other):
            p.grad = torch.randn(p.shape, generator=g)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for n, (p, q) in enumerate(zip(ours, other)):  # both in bfloat16 inside, where 1 % is much to ask
        before = torch.randn(p.shape, generator=torch.Generator().manual_seed(n))
        mine, theirs = p.data - before, q.data - before
        assert (mine - theirs).norm() < 0.05 * theirs.norm() and theirs.norm() > 0.1


def test_muon_turns_a_gradient_near_an_orthogonal_matrix():
    g = torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(1))
    for m in (g, g.mT):
        values = torch.linalg.svdvals(orthogonalised(m).float())
        assert values.min() > 0.6 and values.max() < 1.3
        u, _, v = torch.linalg.svd(m, full_matrices=False)
        assert (
            torch.nn.functional.cosine_similarity(
                orthogonalised(m).float().flatten(1), (u @ v).flatten(1)
            ).min()
            > 0.95
        )


@pytest.mark.parametrize(("units", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_muon_takes_bfloat16_only_where_the_processor_has_units_for_it(monkeypatch, units, dtype):
    monkeypatch.setattr("palimpsest.fit.muon.cpu_has_bfloat16", lambda: units)
    assert orthogonalised(torch.randn(1, 4, 6)).dtype == dtype


def test_muon_is_for_linear_maps_and_convolutions_alone():
    model = nn.Sequential(matrix_and_the_rest(), net())
    assert [tuple(w.shape) for w in matrices(model)] == [(4, 6), (9, 4), (6, 3, 3, 3), (3, 6, 1, 1)]


def test_a_run_by_muon_resumes_bit_for_bit_and_is_another_run_than_adamw(tmp_path):
    def run(**more):
        data = stop_at(more.pop("at")) if "at" in more else batch
        return train(loss, net(), data, **SETTINGS | dict(steps=20, optimiser="muon") | more)

    whole = run()
    with pytest.raises(Stop):
        run(at=13, checkpoint=tmp_path / "c.pt")
    assert_same_run(run(checkpoint=tmp_path / "c.pt"), whole)
    assert (
        whole.losses[-1] < whole.losses[0]
        and whole.losses != train(loss, net(), batch, **SETTINGS | dict(steps=20)).losses
    )
    with pytest.raises(ValueError, match="optimiser=muon"):
        train(loss, net(), batch, checkpoint=tmp_path / "c.pt", **SETTINGS | dict(steps=20))
    with pytest.raises(ValueError, match="optimiser: must be adamw or muon"):
        run(optimiser="sgd")


def test_a_run_ends_by_the_clock_with_its_learning_rate_at_nothing(tmp_path):
    kept = []
    done = train(
        loss,
        net(),
        batch,
        until=time.time() + 1.5,
        log=tmp_path / "log.csv",
        checkpoint=tmp_path / "c.pt",
        after_save=kept.append,
        **SETTINGS | dict(steps=10**6),
    )
    assert 8 < len(done.losses) < 10**6 and done.seconds < 5
    rates = [
        float(row.split(",")[1])
        for row in (tmp_path / "log.csv").read_text(encoding="utf-8").splitlines()[1:]
    ]
    assert len(rates) == len(done.losses) and max(rates) > 5e-3 and rates[-1] < 1e-4
    assert len(kept) >= 1 and all(k.ema is done.ema for k in kept), (
        "it was given what there is at each checkpoint but the last"
    )
    again = train(loss, net(), batch, until=1.0, checkpoint=tmp_path / "c.pt", **SETTINGS | dict(steps=10**6))
    assert len(again.losses) == len(done.losses) + 1, "a time that is past ends a resumed run after one step"
    assert_close(dict(again.net.named_parameters()), dict(done.net.named_parameters()), atol=0, rtol=0)


def test_several_processes_do_not_end_by_the_clock(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="until: several processes"):
        train(loss, net(), batch, until=time.time() + 1, **SETTINGS)


def test_what_follows_a_save_does_not_follow_the_last(tmp_path):
    seen = []
    train(
        lambda model, x, generator: model(x).square().mean(),
        net(),
        lambda step, generator: torch.zeros(1, 3, 4, 4),
        **SETTINGS | dict(steps=6, save_every=2),
        checkpoint=tmp_path / "run.pt",
        after_save=lambda fitted: seen.append(len(fitted.losses)),
    )
    assert seen == [2, 4]


@pytest.mark.parametrize("stop, left", [(0, []), (1, ["run.pt"])])
def test_a_run_that_is_broken_off_before_its_first_step_leaves_no_checkpoint(tmp_path, stop, left):
    def batch(step, generator):
        if step == stop:
            raise KeyboardInterrupt
        return torch.zeros(1, 3, 4, 4)

    with pytest.raises(KeyboardInterrupt):
        train(
            lambda model, x, generator: model(x).square().mean(),
            net(),
            batch,
            **SETTINGS,
            checkpoint=tmp_path / "run.pt",
        )
    assert [p.name for p in tmp_path.iterdir()] == left


def test_seeds_of_63_bits_are_taken_as_they_are_and_of_others_the_sha_256():
    for seed, taken in ((2**63 - 1, 2**63 - 1), (2**63, sha(2**63)), (-1, sha(-1)), (0, 0)):
        word = int(np.random.SeedSequence((taken, 5, 1)).generate_state(1)[0])
        want = torch.Generator().manual_seed(word).get_state()
        assert torch.equal(step_generator(seed, 5, 1).get_state(), want)


def sha(n):
    return int.from_bytes(hashlib.sha256(str(n).encode()).digest(), "big")


def chained():
    error = RuntimeError("the writer failed")
    error.__context__ = OSError(28, "No space left on device")
    return error


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(28, "No space left on device"), r"\(No space left on device\)"),
        (chained(), r"\(No space left on device\)"),
        (RuntimeError("the writer failed\nin line 7"), r"\(the writer failed\)"),
    ],
)
def test_a_checkpoint_that_cannot_be_written_says_the_systems_reason_where_there_is_one(
    tmp_path, monkeypatch, error, said
):
    path = tmp_path / "a" / "b" / "run.pt"
    write_checkpoint(path, dict(run={}, n=1))
    write_checkpoint(path, dict(run={}, n=2))

    def broken(state, file):
        raise error

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OutputError, match=f"checkpoint: .* cannot be written {said}; make room"):
        write_checkpoint(path, dict(run={}, n=3))
    assert read_checkpoint(path, {})["n"] == 2 and [p.name for p in path.parent.iterdir()] == ["run.pt"]
