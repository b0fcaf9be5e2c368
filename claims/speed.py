"""Our nets beside those of diffusers and transformers, at the size of Stable Diffusion v1, on a CPU: how
long, and how much memory.

    python -m palimpsest.claims.speed [--rounds 5] [--only NAME] [--quick]

Both programs hold the very same random tensors and are called in turn in one process, so that whatever
else the machine does meets both; a row's figure is the median over the rounds of ours / theirs. Memory is
the high-water mark of a process that runs one of them once. Writes figures/speed.json and the table of
docs/speed.md. Needs the reference programs: pip install -e '.[test]'."""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from palimpsest.claims.common import rounded
from palimpsest.claims.page import RECORDS, read_record, write_table
from palimpsest.claims.verify import Setting, reference, relative, version
from palimpsest.claims.verify.nets import drawn, first, noise, twin_text, twin_unet, twin_vae
from palimpsest.claims.verify.walks import drawn_model
from palimpsest.claims.whole_edits import edits as whole_edits
from palimpsest.cli.manners import exit_code_of
from palimpsest.nets.attention import Site
from palimpsest.nets.text import TextTransformer
from palimpsest.nets.tokenizer import ClipTokenizer
from palimpsest.nets.unet import UNet
from palimpsest.nets.vae import AutoencoderKL
from palimpsest.weights.files import write_json
from palimpsest.weights.load import load
from palimpsest.weights.public.checkpoint import save

SIDES = {"full": 32, "small": 8}  # of the latents; 77 tokens, two of each as under guidance


class Pair(NamedTuple):
    """One thing done by both. target: ours / theirs must be at most this. error: of our result, relative
    to their largest value.
    """

    name: str
    target: float
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    reference: str
    error: float | None = None


def given(s: Setting, net: UNet) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, a time for each, and the embeddings of two texts."""
    side = SIDES[s.size]
    return noise(s, 2, 4, side, side), torch.tensor([3, 981]), noise(s, 2, 77, net.ctx_width, seed=2)


# --------------------------------------------------------------------------- what is compared


def unet(s: Setting) -> Iterator[Pair]:
    """The U-Net as it is, and with all its attention maps read."""
    net = drawn(UNet, s)
    theirs, (x, t, ctx) = twin_unet(net), given(s, net)
    yield Pair(
        "U-Net",
        0.6,
        lambda: net(x, t, ctx),
        lambda: first(theirs(x, t, ctx)),
        version("diffusers"),
        relative(net(x, t, ctx), first(theirs(x, t, ctx))),
    )
    maps: list[Tensor] = []

    def tap(probs: Tensor, site: Site) -> Tensor:
        maps.append(probs.mean(1))
        return probs

    def tapped() -> Tensor:
        maps.clear()
        return net(x, t, ctx, tap)

    def processed() -> Tensor:
        maps.clear()
        return first(theirs(x, t, ctx))

    theirs.set_attn_processor(MapReader(maps))
    yield Pair(
        "U-Net, every attention map read",
        0.8,
        tapped,
        processed,
        version("diffusers"),
        relative(tapped(), processed()),
    )


class MapReader:
    """An attention processor of diffusers that does what our tap does: keeps each layer's maps, averaged
    over the heads.
    """

    def __init__(self, maps: list[Tensor]):
        self.maps = maps

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        ctx = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            attn.head_to_batch_dim(layer(y))
            for layer, y in ((attn.to_q, hidden_states), (attn.to_k, ctx), (attn.to_v, ctx))
        )
        probs = attn.get_attention_scores(q, k)
        self.maps.append(probs.unflatten(0, (-1, attn.heads)).mean(1))
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(probs @ v)))


def unet_bfloat16(s: Setting) -> Iterator[Pair]:
    """Our U-Net in bfloat16 beside theirs in float32."""
    net = drawn(UNet, s)
    theirs, (x, t, ctx) = twin_unet(net), given(s, net)
    small = drawn(UNet, s).to(torch.bfloat16)
    x16, ctx16 = x.bfloat16(), ctx.bfloat16()
    yield Pair(
        "U-Net in bfloat16, theirs in float32",
        0.35,
        lambda: small(x16, t, ctx16),
        lambda: first(theirs(x, t, ctx)),
        version("diffusers"),
        relative(small(x16, t, ctx16).float(), first(theirs(x, t, ctx))),
    )


def decoder(s: Setting) -> Iterator[Pair]:
    """The autoencoder's way back."""
    vae = drawn(AutoencoderKL, s)
    theirs, z = twin_vae(vae), noise(s, 1, 4, SIDES[s.size], SIDES[s.size])
    yield Pair(
        "autoencoder, decode",
        0.9,
        lambda: vae.decode(z),
        lambda: first(theirs.decode(z)),
        version("diffusers"),
        relative(vae.decode(z), first(theirs.decode(z))),
    )


def text(s: Setting) -> Iterator[Pair]:
    """The text encoder on two rows."""
    net = drawn(TextTransformer, s)
    theirs = twin_text(net)
    tokens = torch.randint(
        net.tokens.num_embeddings, (2, len(net.positions)), generator=torch.Generator().manual_seed(s.seed)
    )
    yield Pair(
        "text encoder",
        0.9,
        lambda: net(tokens),
        lambda: first(theirs(tokens)),
        version("transformers"),
        relative(net(tokens), first(theirs(tokens))),
    )


def loading(s: Setting) -> Iterator[Pair]:
    """A folder of diffusers with its tokenizer, from the disk's cache until every weight has been read."""
    diffusers, transformers = reference("diffusers"), reference("transformers")
    for program in (diffusers, transformers):
        program.utils.logging.set_verbosity_error()
        program.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        text = drawn(TextTransformer, s, {"vocab": 49408})
        tokenizer = ClipTokenizer(length=len(text.positions))
        folder = save(replace(drawn_model(s), text=text, tokenizer=tokenizer), Path(place) / "model")
        gc.collect()

        def theirs() -> float:
            transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
            return touched(
                diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"),
                diffusers.AutoencoderKL.from_pretrained(folder / "vae"),
                transformers.CLIPTextModel.from_pretrained(folder / "text_encoder"),
            )

        def ours() -> float:
            model = load(folder, "cpu", torch.float32)
            return touched(model.net, model.vae, model.text)

        yield Pair("load the model from its folder", 1.0, ours, theirs, version("diffusers"))


def touched(*nets: nn.Module) -> float:
    """The sum of all weights: nothing may stay on the disk."""
    return sum(p.sum().item() for net in nets for p in net.parameters())


def edits(s: Setting) -> Iterator[Pair]:
    """Whole edits, from picture to picture: as many steps for both, else the defaults of each."""
    size, steps = (256, 20) if s.size == "full" else (64, 3)
    for whole in whole_edits(s, size, steps):
        if whole.name in ("SDEdit", "DiffEdit", "InstructPix2Pix"):
            name = f"{whole.name}, {steps} steps, {size}×{size}"
            yield Pair(name, 0.6, whole.ours, whole.theirs, f"diffusers {version('diffusers')}")


PAIRS: dict[str, Callable[[Setting], Iterator[Pair]]] = dict(
    unet=unet, bfloat16=unet_bfloat16, decoder=decoder, text=text, loading=loading, edits=edits
)


# --------------------------------------------------------------------------- the clock and the scales


def seconds(call: Callable[[], Any]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@torch.inference_mode()
def timed(pair: Pair, rounds: int) -> dict[str, Any]:
    """Both in turn, the first of each round alternating, after one call of each that does not count."""
    pair.ours(), pair.theirs()
    both = []
    for k in range(rounds):
        if k % 2:
            theirs, ours = seconds(pair.theirs), seconds(pair.ours)
        else:
            ours, theirs = seconds(pair.ours), seconds(pair.theirs)
        both.append((ours, theirs))
    return dict(
        name=pair.name,
        target=pair.target,
        reference=pair.reference,
        ratio=median(a / b for a, b in both),
        ours=median(a for a, _ in both),
        theirs=median(b for _, b in both),
        error=pair.error,
    )


ALONE = ("ours", "theirs")


def peak(who: str, size: str) -> int:
    """Bytes at the widest moment of a process of its own that makes the U-Net and runs it once. Linux
    only.
    """
    lines = subprocess.run(
        [sys.executable, "-m", "palimpsest.claims.speed", "--alone", who, "--size", size],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    ).stdout.split()
    return int(lines[-1])


def alone(who: str, s: Setting) -> int:
    """What `peak` asks of the process."""
    with torch.inference_mode():
        net = drawn(UNet, s)
        x, t, ctx = given(s, net)
        (net if who == "ours" else twin_unet(net))(x, t, ctx)
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def keys_share(s: Setting, rounds: int) -> float:
    """The share of a forward pass that keys and values of the text take: what keeping them from step to
    step could save.
    """
    net = drawn(UNet, s)
    x, t, ctx = given(s, net)
    layers = [layer for block in net.transformers() for layer in (block.attn2.to_k, block.attn2.to_v)]
    with torch.inference_mode():
        net(x, t, ctx)
        return median(
            seconds(lambda: [layer(ctx) for layer in layers]) / seconds(lambda: net(x, t, ctx))
            for _ in range(rounds)
        )


# --------------------------------------------------------------------------- the table


def table(record: dict[str, Any]) -> str:
    """The rows in Markdown."""
    lines = [
        f"| {r['name']} | {r['ours']:.2f} s | {r['theirs']:.2f} s | {r['ratio']:.2f} | ≤ {r['target']:g} | "
        f"{'yes' if r['ratio'] <= r['target'] else '**missed**'} | "
        f"{'' if r['error'] is None else format(r['error'], '.0e')} |"
        for r in record["rows"]
    ]
    if "peak" in record:
        ours, theirs = (record["peak"][who] for who in ALONE)
        lines.append(
            f"| U-Net, peak memory | {ours / 2**30:.2f} GiB | {theirs / 2**30:.2f} GiB | "
            f"{ours / theirs:.2f} | ≤ 1 | "
            f"{'yes' if ours <= theirs else '**missed**'} | |"
        )
    if "processor" in record:
        lines += [
            "",
            f"*{record['processor']}, {record['threads']} threads, torch {record['torch']}; medians, both "
            f"called in turn.*",
        ]
    return "\n".join(
        [
            "| what | ours | theirs | ratio | target | reached | difference |",
            "|---|---|---|---|---|---|---|",
            *lines,
        ]
    )


def processor() -> str:
    """The name of the machine's processor."""
    lines = (
        Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if Path("/proc/cpuinfo").exists()
        else []
    )
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m palimpsest.claims.speed", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--only", choices=PARTS, metavar="NAME", help=f"one part: {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=5, help="of calls (default: 5)")
    parser.add_argument(
        "--quick", action="store_true", help="small nets, into runs/quick, to see that all runs"
    )
    parser.add_argument("--alone", choices=ALONE, help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=("small", "full"), default="full", help=argparse.SUPPRESS)
    a = parser.parse_args(argv)
    if a.rounds < 1:
        parser.error(f"--rounds: must be at least 1, got {a.rounds}")
    s = Setting("small" if a.quick else a.size)
    if a.alone:
        print(alone(a.alone, s))
        return 0
    folder = Path("runs/quick") if a.quick else RECORDS
    folder.mkdir(parents=True, exist_ok=True)
    record = (read_record("speed", folder) if a.only else None) or dict(rows=[])
    record |= dict(
        command="python -m palimpsest.claims.speed",
        processor=processor(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )
    for name in [a.only] if a.only else PARTS:
        if name == "memory":
            record["peak"] = {who: peak(who, s.size) for who in ALONE}
            continue
        if name == "keys":
            record["keys_share"] = keys_share(s, a.rounds)
            continue
        with torch.inference_mode():
            rows = [timed(pair, a.rounds) for pair in PAIRS[name](s)]
        names = {r["name"] for r in rows}
        record["rows"] = [r for r in record["rows"] if r["name"] not in names] + rows
        print(table(dict(rows=rows)), flush=True)
    write_json(folder / "speed.json", rounded(record, 3))
    if folder == RECORDS:
        write_table("speed", "speed", table(record))
    print(table(record))
    return 0


PARTS = (*PAIRS, "memory", "keys")

if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(exit_code_of(main))
