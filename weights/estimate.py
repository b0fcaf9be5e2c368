"""What a job will cost, known before it begins: memory and network evaluations, with nothing computed.

    b = load("stable-diffusion-v1-5", "meta", torch.float16)              # the nets without their numbers
    cost = estimate(b, (512, 768), [Passes("encode", 40, kept=41), Passes("decode", 40, rows=2, kept=41)])
    print(table(cost))

On PyTorch's meta device a tensor has a shape and no numbers, so a net runs over it in a moment and takes
no memory. A `Ledger` looks on: it adds up the bytes of every tensor as it comes and goes, and the
multiplications of every product and convolution.

Counted are the weights, what the nets hold at their widest moment, what a walk keeps, and what a training
adds. Not counted are the process itself (Python and PyTorch: about 0.3 GB; on a GPU also its context) and
what an allocator keeps in reserve. Seconds are not promised."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from palimpsest.nets.attention import Site
from palimpsest.weights.model import Model

ATEN = torch.ops.aten
FUSED, FUSED_BACK = (
    ATEN._scaled_dot_product_flash_attention_for_cpu,
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward,
)
CONVOLUTIONS = {ATEN.convolution, ATEN.convolution_backward}


class Passes(NamedTuple):
    """So many forward passes of the U-Net, all alike: what a method knows of its walk before it walks.

    times: how many; rows: pictures in each, guidance branches included; kept: latents that they leave
    behind, all together, as a walk keeps its path; tapped: which attention layers have their
    probabilities written out, None for none; backward: each is followed by the way back to the embedding
    of the text; beside: channels that the method shows the net next to the latent's own; held: bytes that
    something else takes meanwhile."""

    what: str
    times: int
    rows: int = 1
    kept: int = 0
    tapped: Callable[[Site], bool] | None = None
    backward: bool = False
    beside: int = 0
    held: int = 0


class Learning(NamedTuple):
    """So many passes of a training, there and back (fit/loop.py): times, rows as above.

    modules: what is trained, on the meta device, a copy of the model's; fit keeps an average of it
    beside. Of its parameters those that want a gradient have one, and Adam's two moments. pass_: one,
    which leaves its gradients there; pieces: of which a step has so many."""

    what: str
    times: int
    rows: int
    modules: nn.ModuleDict
    pass_: Callable[[], Any]
    pieces: int = 1


class Part(NamedTuple):
    """One part of a job: how often it runs, on how many pictures (or prompts) at once, and what that
    takes.
    """

    what: str
    times: int
    rows: int
    flops: int  # of all its runs; a multiplication and the addition after it are two
    peak: int  # bytes at its widest moment, without the weights
    evaluates: bool  # whether it is the U-Net that runs


class Estimate(NamedTuple):
    """What a job costs, in bytes and, for `flops`, as in Part."""

    parts: list[Part]
    weights: int  # of all nets
    kept: int  # by the walks, at their end
    dtype: torch.dtype  # of the nets
    adds: tuple[int, int, int] = (
        0,
        0,
        0,
    )  # by a training: copies of the nets, gradients, Adam's moments; in its part's peak

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
    size: tuple[int, int],
    passes: Iterable[Passes | Learning],
    *,
    pictures: int = 1,
    decodes: int = 1,
    given: int = 1,
    workspace: bool = True,
) -> Estimate:
    """The cost of these passes on pictures of `size` = (rows, columns), multiples of b.grid, with a Model
    of the meta device.

    pictures: how many are decoded at once in the end, and decodes: how often; given: how many are
    encoded. workspace: see Ledger. Passes of which there are none are left out. Raises ValueError for a
    Model on another device, a size off its grid, and, as the passes themselves would, for a net that
    takes other channels than it is shown, or that reads no text to go back to."""
    passes = [p for p in passes if p.times > 0]
    if model.device.type != "meta":
        raise ValueError(
            f"b: is on {model.device}, where nets compute; load(name, \"meta\") gives one that only knows "
            f"its shapes"
        )
    if min(size) < 1 or size[0] % model.grid or size[1] % model.grid:
        raise ValueError(f"size: rows and columns must be multiples of {model.grid}, got {tuple(size)}")
    factor = model.vae.factor if model.vae is not None else 1
    c, y, x = model.latent_shape[0], size[0] // factor, size[1] // factor
    meta, adds = torch.device("meta"), (0, 0, 0)

    def ask(p: Passes) -> None:
        ctx = None
        if model.text is not None:
            ctx = torch.empty(
                p.rows, *model.text.positions.shape, dtype=model.dtype, device=meta, requires_grad=p.backward
            )
        elif p.backward:
            model.embed("")  # says that there is none
        with torch.set_grad_enabled(p.backward):
            eps = model.eps(
                torch.empty(p.rows, c + p.beside, y, x, device=meta),
                1,
                ctx,
                None if p.tapped is None else _Copy(p.tapped),
            )
            if p.backward:
                torch.autograd.grad(eps.sum(), ctx)

    def part(
        what: str,
        run: Callable[[], Any],
        times: int = 1,
        rows: int = 1,
        evaluates: bool = False,
        held: int = 0,
    ) -> Part:
        with Ledger(workspace) as ledger, _one_piece(), torch.no_grad():
            run()
        return Part(what, times, rows, times * ledger.flops, ledger.peak + held, evaluates)

    def learn(p: Learning) -> Part:
        looks = min(p.pieces, 2)  # the second finds the gradients of the first
        with Ledger(workspace) as ledger, _one_piece():
            for _ in range(looks):
                p.pass_()
        copies, _, moments = adds
        return Part(
            p.what, p.times, p.rows, p.times * ledger.flops // looks, ledger.peak + copies + moments, True
        )

    parts = []
    if model.text is not None:
        parts.append(
            part(
                "read the prompts",
                lambda: model.text(torch.empty(2, model.tokenizer.length, dtype=torch.long, device=meta)),
                rows=2,
            )
        )
    if given:
        parts.append(
            part(
                "picture to latent",
                lambda: model.encode(torch.empty(given, 3, *size, device=meta)),
                rows=given,
            )
        )
    for p in passes:
        if isinstance(p, Learning):
            free = sum(t.nbytes for t in p.modules.parameters() if t.requires_grad)
            adds = 2 * nbytes(p.modules), free, 2 * free
            parts.append(learn(p))
        else:
            parts.append(part(p.what, lambda: ask(p), p.times, p.rows, True, p.held))  # noqa: B023
    walks = [p for p in passes if isinstance(p, Passes)]
    parts.append(
        part(
            "latent to picture",
            lambda: model.decode(torch.empty(pictures, c, y, x, device=meta)),
            decodes,
            pictures,
            held=max((p.held for p in walks), default=0),
        )
    )
    return Estimate(
        parts,
        nbytes(model.net, model.text, model.vae),
        4 * c * y * x * sum(p.kept for p in walks),
        model.dtype,
        adds,
    )


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
        f"{p.what:32}{p.times:8}{p.rows:9}{p.flops / 1e12:11.3g}{_bytes(p.peak):>11}" for p in cost.parts
    ]
    copies, gradients, moments = map(_bytes, cost.adds)
    adds = (
        f"learning adds copies of the nets {copies}, gradients {gradients}, Adam's moments {moments}; "
        if any(cost.adds)
        else ""
    )
    return "\n".join(
        [
            *lines,
            f"network evaluations {cost.evaluations}, {cost.flops / 1e12:.3g} TFLOP in all",
            f"memory at most {_bytes(cost.peak)}, of which weights {_bytes(cost.weights)} in "
            f"{str(cost.dtype).split('.')[1]}; "
            f"{adds}Python and PyTorch come on top",
        ]
    )


def _bytes(n: int) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"


# --------------------------------------------------------------------------- looking on


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
