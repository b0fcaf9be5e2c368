"""What a job will cost, known before it begins: memory and network evaluations, with nothing computed.

    model = load("stable-diffusion-v1-5", "meta", torch.float16)          # the nets without their numbers
    encode, decode = Passes("encode", 40, kept=41), Passes("decode", 40, rows=2, kept=41)
    print(table(estimate(model, (512, 768), [encode, decode])))

On PyTorch's meta device a tensor has a shape and no numbers, so a net runs over it in a moment and takes
no memory. A `Ledger` looks on: it adds up the bytes of every tensor as it comes and goes, and the
multiplications of every product and convolution.

Counted are the weights, what the nets hold at their widest moment, what a walk keeps, and what a training
adds. Not counted are the process itself (Python and PyTorch: about 0.3 GB; on a GPU also its context) and
what an allocator keeps in reserve. Seconds are not promised."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from palimpsest.arguments import ArgumentError, Count, Rounds, check
from palimpsest.nets.attention import Site
from palimpsest.weights.model import Model

ATEN = torch.ops.aten
FUSED, FUSED_BACK = (
    ATEN._scaled_dot_product_flash_attention_for_cpu,
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward,
)
CONVOLUTIONS = {ATEN.convolution, ATEN.convolution_backward}


class Passes(NamedTuple):
    """So many forward passes of the U-Net, all alike: what a method knows of its walk before it walks."""

    what: str  # for the table
    times: int
    rows: int = 1  # pictures in each, guidance branches included
    kept: int = 0  # latents that they leave behind, all together, as a walk keeps its path
    tapped: Callable[[Site], bool] | None = (
        None  # which attention layers have their probabilities written out
    )
    backward: bool = False  # whether each is followed by the way back to the embedding of the text
    beside: int = 0  # channels that the method shows the net next to the latent's own
    held: int = 0  # bytes that something else takes meanwhile


class Learning(NamedTuple):
    """So many passes of a training, there and back (fit/loop.py), which keeps an average of the modules
    beside them.

    Of the modules' parameters those that want a gradient have one, and Adam's two moments.
    """

    what: str  # for the table
    times: int
    rows: int  # pictures in each
    modules: nn.ModuleDict  # what is trained, on the meta device: a copy of the model's
    pass_: Callable[[], Any]  # one pass, which leaves its gradients in the modules
    pieces: int = 1  # of which a step has so many


class Part(NamedTuple):
    """One part of a job, and what it takes."""

    what: str
    times: int  # how often it runs
    rows: int  # on how many pictures (or prompts) at once
    flops: int  # of all its runs; a multiplication and the addition after it are two
    peak: int  # bytes at its widest moment, without the weights
    evaluates: bool  # whether it is the U-Net that runs


class Estimate(NamedTuple):
    """What a job costs, in bytes and, for `flops`, as in Part."""

    parts: list[Part]
    weights: int  # of all nets
    kept: int  # by the walks, at their end
    dtype: torch.dtype  # of the nets
    # by a training: copies of the nets, gradients, Adam's moments; they are in its part's peak
    adds: tuple[int, int, int] = (0, 0, 0)

    @property
    def peak(self) -> int:
        """Bytes at the widest moment of all, weights included."""
        return self.weights + self.kept + max(part.peak for part in self.parts)

    @property
    def evaluations(self) -> int:
        """How often the U-Net is asked."""
        return sum(part.times for part in self.parts if part.evaluates)

    @property
    def flops(self) -> int:
        """Of all parts."""
        return sum(part.flops for part in self.parts)


def estimate(
    model: Model,
    size: tuple[int, int],  # (rows, columns) of the pictures, multiples of model.grid
    passes: Iterable[Passes | Learning],
    *,
    pictures: Count = 1,  # decoded at once in the end
    decodes: Rounds = 1,  # how often so many are decoded
    given: Rounds = 1,  # pictures that are encoded
    workspace: bool = True,  # see Ledger
) -> Estimate:
    """The cost of these passes, with a model of the meta device. Passes of which there are none are left out.

    Raises ArgumentError for a model on another device, a size off its grid, and, as the passes themselves
    would, for a net that takes other channels than it is shown, or that reads no text to go back to.
    """
    check(estimate, locals())
    passes = [p for p in passes if p.times > 0]
    if model.device.type != "meta":
        raise ArgumentError(
            "model",
            f'is on {model.device}, where nets compute; load(name, "meta") gives one that only has shapes',
        )
    if min(size) < 1 or size[0] % model.grid or size[1] % model.grid:
        raise ArgumentError("size", f"rows and columns must be multiples of {model.grid}, got {tuple(size)}")
    latent = (model.channels, size[0] // model.factor, size[1] // model.factor)
    walks = [p for p in passes if isinstance(p, Passes)]
    held = max((p.held for p in walks), default=0)

    parts, adds = [], (0, 0, 0)
    if model.text is not None:
        tokens = torch.empty(2, model.tokenizer.length, dtype=torch.long, device="meta")
        parts.append(_part("read the prompts", lambda: model.text(tokens), workspace, rows=2))
    if given:
        seen = torch.empty(given, 3, *size, device="meta")
        parts.append(_part("picture to latent", lambda: model.encode(seen), workspace, rows=given))
    for p in passes:
        if isinstance(p, Learning):
            free = sum(t.nbytes for t in p.modules.parameters() if t.requires_grad)
            adds = 2 * nbytes(p.modules), free, 2 * free
            parts.append(_learning_part(p, adds, workspace))
        else:
            run = partial(_evaluate, model, p, latent)
            parts.append(_part(p.what, run, workspace, p.times, p.rows, evaluates=True, held=p.held))
    z = torch.empty(pictures, *latent, device="meta")
    decode = partial(model.decode, z)
    parts.append(_part("latent to picture", decode, workspace, decodes, pictures, held=held))

    kept = 4 * math.prod(latent) * sum(p.kept for p in walks)
    return Estimate(parts, nbytes(model.net, model.text, model.vae), kept, model.dtype, adds)


def training_estimate(learning: Learning, given: nn.Module) -> Estimate:
    """The cost of training small modules from nothing, with the net `given` frozen beside
    them; both on the meta device.
    """
    free = nbytes(learning.modules)
    adds = free, free, 2 * free
    dtype = next(given.parameters()).dtype
    return Estimate([_learning_part(learning, adds, True)], nbytes(learning.modules, given), 0, dtype, adds)


def _evaluate(model: Model, p: Passes, latent: tuple[int, int, int]) -> None:
    """One of these passes on the meta device, and the way back to the text's embedding where that is asked
    for."""
    meta, ctx, (c, y, x) = torch.device("meta"), None, latent
    if model.text is not None:
        shape = (p.rows, *model.text.positions.shape)
        ctx = torch.empty(shape, dtype=model.dtype, device=meta, requires_grad=p.backward)
    elif p.backward:
        model.embed("")  # says that there is none
    tap = None if p.tapped is None else _Copy(p.tapped)
    with torch.set_grad_enabled(p.backward):
        eps = model.eps(torch.empty(p.rows, c + p.beside, y, x, device=meta), 1, ctx, tap)
        if p.backward:
            torch.autograd.grad(eps.sum(), ctx)


def _part(
    what: str,
    run: Callable[[], Any],
    workspace: bool,
    times: int = 1,
    rows: int = 1,
    *,
    evaluates: bool = False,
    held: int = 0,
) -> Part:
    """What `run` takes, which is done so many times."""
    with Ledger(workspace) as ledger, _one_piece(), torch.no_grad():
        run()
    return Part(what, times, rows, times * ledger.flops, ledger.peak + held, evaluates)


def _learning_part(p: Learning, adds: tuple[int, int, int], workspace: bool) -> Part:
    """What a training takes beside its gradients, which its own passes leave."""
    looks = min(p.pieces, 2)  # the second finds the gradients of the first
    with Ledger(workspace) as ledger, _one_piece():
        for _ in range(looks):
            p.pass_()
    copies, _, moments = adds
    flops = p.times * ledger.flops // looks
    return Part(p.what, p.times, p.rows, flops, ledger.peak + copies + moments, evaluates=True)


def together(first: Estimate, then: Estimate) -> Estimate:
    """Of two models that are in memory at once and work one after the other."""
    return Estimate(
        first.parts + then.parts, first.weights + then.weights, first.kept + then.kept, first.dtype
    )


def nbytes(*nets: nn.Module | None) -> int:
    """Of their weights; None has none."""
    return sum(t.nbytes for net in nets if net is not None for t in net.state_dict().values())


def table(cost: Estimate) -> str:
    """The estimate in lines, one for each part and two for the whole. MB and GB are powers of ten."""
    lines = [f"{'':32}{'passes':>8}{'at once':>9}{'TFLOP':>11}{'memory':>11}"]
    lines += [
        f"{p.what:32}{p.times:8}{p.rows:9}{p.flops / 1e12:11.3g}{as_bytes(p.peak):>11}" for p in cost.parts
    ]
    copies, gradients, moments = map(as_bytes, cost.adds)
    adds = (
        f"learning adds copies of the nets {copies}, gradients {gradients}, Adam's moments {moments}; "
        if any(cost.adds)
        else ""
    )
    return "\n".join(
        [
            *lines,
            f"network evaluations {cost.evaluations}, {cost.flops / 1e12:.3g} TFLOP in all",
            f"memory at most {as_bytes(cost.peak)}, of which weights {as_bytes(cost.weights)} "
            f"in {str(cost.dtype).split('.')[1]}; {adds}Python and PyTorch come on top",
        ]
    )


def as_bytes(n: int) -> str:
    """A number of bytes, to be read: MB, GB and TB are powers of ten."""
    if n >= 1e12:
        return f"{n / 1e12:.3g} TB" if n < 1e18 else "more than a million TB"
    return f"{n / 1e9:.2f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"


# ---- looking on ----


class Ledger(TorchDispatchMode):
    """Looks on as operations run inside it: `alive` bytes now, `peak` bytes at most, and `flops`.

    A tensor counts from the operation that made its memory until nothing refers to it; what was there
    before, as weights are, does not count. workspace: a convolution is charged a second copy of its
    largest tensor while it works, as on CPUs, whose convolutions lay maps out anew."""

    def __init__(self, workspace: bool = False):
        super().__init__()
        self.workspace = workspace
        self.alive = self.peak = self.flops = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for t in made:
            if id(t.untyped_storage()) not in given:  # a view of a weight is no memory of its own
                self.own(t)
        operation = func.overloadpacket
        if operation in COUNTS:
            self.flops += COUNTS[operation](*args, out_val=out)
        extra = (
            max(t.nbytes for t in (*args[:2], *made)) if self.workspace and operation in CONVOLUTIONS else 0
        )
        self.peak = max(self.peak, self.alive + extra)
        return out

    def own(self, t: Tensor) -> None:
        """Count the memory behind a tensor, once, until it is given back."""
        storage = t.untyped_storage()
        if id(storage) not in self.known:
            self.known.add(id(storage))
            self.alive += storage.nbytes()
            weakref.finalize(storage, self.disown, id(storage), storage.nbytes()).atexit = False

    def disown(self, number: int, nbytes: int) -> None:
        """That memory has been given back."""
        self.known.discard(number)
        self.alive -= nbytes


@contextmanager
def _one_piece() -> Iterator[None]:
    """Attention stays in one piece, as every real device has it; the meta device alone would write the
    probabilities out.

    torch's function is exchanged for as long: its modes for this purpose are put aside on the way back,
    where activations are made again."""
    usual, F.scaled_dot_product_attention = F.scaled_dot_product_attention, fused
    try:
        yield
    finally:
        F.scaled_dot_product_attention = usual


def fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """Attention (b h i k), (b h j k), (b h j k) -> (b h i k) by the operation that CPUs have for it."""
    return FUSED(q, k, v, dropout_p, is_causal, attn_mask=attn_mask)[0]


def _attention_flops(q: Tensor, k: Tensor, *others: Any, out_val: Any = None) -> int:
    """Two products for each pair of query and key, q·k and p·v."""
    return 4 * q.numel() * k.shape[-2]


def _attention_back_flops(grad: Tensor, q: Tensor, k: Tensor, *others: Any, out_val: Any = None) -> int:
    """Five: the probabilities anew, and the gradients of p, v, q and k."""
    return 10 * q.numel() * k.shape[-2]


COUNTS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    FUSED: _attention_flops,
    FUSED_BACK: _attention_back_flops,
}


class _Copy(NamedTuple):
    """A tap that copies what it is shown, as the editing ones do, at the layers that `listens` says."""

    listens: Callable[[Site], bool]

    def wants(self, site: Site) -> bool:
        return self.listens(site)

    def __call__(self, probs: Tensor, site: Site) -> Tensor:
        return probs.clone()
