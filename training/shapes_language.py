"""Recipe of shapes-language: a small language model that writes instructions and edited captions, and the
triplets that it writes.

    python -m palimpsest.training.shapes_language                               # the model
    python -m palimpsest.training.shapes_language --sample 4000    # triplets.jsonl, by a model that is there

InstructPix2Pix (arXiv:2211.09800v2, Sec. 3.1) fine-tunes GPT-3 for one epoch on 700 triplets written by
hand, then has it write one for each of many captions. GPT-3 had read the web; ours reads pairs of
captions first, of one picture as two people caption it or of two pictures between which one thing
changed, and so learns to say again what was said. It reads no instruction but those of its 700; it meets
them with other colours and shapes each time (worlds.triplets.renamed), as otherwise it soon knows them by
heart (in trials of 400 steps .81 nats a word on triplets it had not seen, .60 with it). What counts in
the loss of a triplet is what comes after the caption. Written at temperature .7 with a frequency penalty
of .1, a text is kept if it has its two marks, both captions are captions, and it was not written before
(the 700 may come again: ten of the shipped 4,000 do). # ours: a checked grammar instead of trust

`follows` of the record is the truth: how many of those that were kept say what their instruction makes of
their caption."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from palimpsest.arguments import ArgumentError, Count, Positive, Rounds
from palimpsest.fit.loop import fit
from palimpsest.fit.processes import rank_and_world
from palimpsest.nets.judges.language import LanguageModel, continued, next_token_loss
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.training.recipe import RunArguments, command_line, publish, recent, start_from, storage_error
from palimpsest.training.shapes import told
from palimpsest.weights.files import WeightsError, built, read_weights
from palimpsest.worlds.scene import WORDS
from palimpsest.worlds.shapes import apply, edits, is_held_out, sample_scene
from palimpsest.worlds.triplets import (
    AFTER,
    THEN,
    Triplet,
    follows,
    read,
    renamed,
    text_of,
    valid,
    write_triplets,
    written,
)

LENGTH = 64
NET = dict(length=LENGTH, width=128, layers=3, heads=4)
TRIES = 3  # for a caption whose text is no triplet  # official code


def model() -> tuple[LanguageModel, WordTokenizer, dict]:
    """The net, its tokenizer, and the configuration that rebuilds both."""
    words = [*WORDS, THEN, AFTER]
    tokenizer = WordTokenizer(words, LENGTH)
    config = dict(NET, vocab=tokenizer.vocab_size)
    return LanguageModel(**config), tokenizer, dict(kind="language", language=config, words=words)


def open_language(path: str | Path) -> tuple[LanguageModel, WordTokenizer]:
    """A trained one from its file."""
    config, tensors = read_weights(path)
    if config.get("kind") != "language":
        raise WeightsError(
            f"model: {path} holds a {config.get('kind')} model, and a language model is needed here"
        )
    net = built(LanguageModel, config["language"], tensors, "language", path)
    return net, WordTokenizer(config["words"], net.length)


def new_caption(rng: random.Random) -> str:
    """As people caption: sizes and backgrounds said or not."""
    return told(sample_scene(rng), rng)


def two_captions(rng: random.Random) -> str:
    """Of one picture, or of two that differ in one edit: a line to read."""
    first = second = sample_scene(rng)
    options = (
        [after for e in edits(first) if not is_held_out(after := apply(first, e))]
        if rng.random() < 0.5
        else []
    )
    if options:
        second = rng.choice(options)
    return f"{told(first, rng)} {AFTER} {told(second, rng)}"


def completed(tokenizer: WordTokenizer, triplets: Sequence[Triplet]) -> tuple[Tensor, Tensor]:
    """The rows of triplets (b l), and what counts of them: all that comes after the caption."""
    tokens = tokenizer([text_of(t) for t in triplets])
    begins = (tokens == tokenizer.token(THEN)).int().argmax(1)
    return tokens, (torch.arange(tokenizer.length) > begins[:, None]) & (tokens != tokenizer.pad)


def write(
    net: LanguageModel, tokenizer: WordTokenizer, n: int, seed: int = 0, batch: int = 64
) -> tuple[list[Triplet], dict[str, float]]:
    """n different valid triplets, or as many as 4 n captions give, and how it went: shares of texts, of
    captions, of triplets kept.
    """
    rng, g = random.Random(f"captions {seed}"), Generator().manual_seed(seed)
    found: dict[Triplet, None] = {}
    texts = parsed = kept = captions = 0
    batch = min(batch, 4 * n)
    while len(found) < n and captions < 4 * n:
        waiting = [new_caption(rng) for _ in range(batch)]
        captions += batch
        for _ in range(TRIES):
            again = []
            for caption, said in zip(waiting, spoken(net, tokenizer, waiting, g)):
                texts += 1
                try:
                    triplet = read(said)
                except ValueError:
                    again.append(caption)
                    continue
                parsed += 1
                if valid(triplet):
                    kept += 1
                    found[triplet] = None
                else:
                    again.append(caption)
            waiting = again
    rows = list(found)[:n]
    return rows, dict(
        captions=captions,
        texts=texts,
        parsed=parsed / texts,
        valid=kept / texts,
        different=len(found) / max(kept, 1),
        follows=sum(map(follows, rows)) / max(len(rows), 1),
    )


def spoken(net: LanguageModel, tokenizer: WordTokenizer, captions: list[str], g: Generator) -> list[str]:
    """The line that the net makes of each caption."""
    rows = [tokenizer.encode(f"{caption} {THEN}")[:-1] for caption in captions]  # without the end
    return [
        tokenizer.decode([*row, *more])
        for row, more in zip(rows, continued(net, rows, stop=tokenizer.end, generator=g))
    ]


@dataclass(frozen=True)
class Arguments(RunArguments):
    """What a run of this recipe can be asked for."""

    recipe = "shapes_language"
    elsewhere = (*RunArguments.elsewhere, "sample", "tests")
    name: str = "shapes-language"
    steps: Count = 12_000  # in all
    reading: Count = 9000  # of these, the steps that read captions
    batch: Count = 64
    lr: Positive = 1.5e-3  # of the steps that read captions
    optimiser: Literal["adamw", "muon"] = "muon"  # in trials of 300 steps .72 nats a word, AdamW's .93
    tuned_lr: Positive = 6e-4  # of the steps that read triplets
    triplets: Count = 700  # that are written for it
    warmup: Rounds = 100
    tests: Count = 500  # captions that the finished net goes on from
    sample: Rounds = 0  # train nothing; let the net in `out` write so many triplets into triplets.jsonl

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.reading < self.steps:
            raise ArgumentError("reading", f"must be fewer than steps={self.steps}, got {self.reading}")


def main(given: Arguments) -> None:
    if given.sample:
        if rank_and_world()[0] == 0:
            sample(given)
        return
    torch.manual_seed(given.seed)
    net, tokenizer, config = model()
    earlier = start_from(given.init, {"language": net})
    net.to(given.on)
    ours = written(given.triplets, given.seed)

    def cropped(tokens: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        longest = int((tokens != tokenizer.pad).sum(1).max())
        return tokens[:, :longest], counts[:, :longest]

    def pages(step: int, generator: Generator) -> tuple[Tensor, Tensor]:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        tokens = tokenizer([two_captions(rng) for _ in range(given.share)])
        return cropped(tokens, tokens != tokenizer.pad)

    def orders(step: int, generator: Generator) -> tuple[Tensor, Tensor]:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        return cropped(*completed(tokenizer, [renamed(rng.choice(ours), rng) for _ in range(given.share)]))

    def loss(net: nn.Module, drawn: tuple[Tensor, Tensor], generator: Generator) -> Tensor:
        return next_token_loss(net(drawn[0]), *drawn)

    settings = replace(given.settings(), steps=given.reading, weight_decay=0.1)
    then = dict(steps=given.steps - given.reading, lr=given.tuned_lr, ema=0.99, seed=given.seed + 1)
    files = given.files()
    first = replace(files, checkpoint=f"{given.folder}/reading.pt", log=f"{given.folder}/reading.csv")
    read_all = fit(loss, net, pages, settings, first, workers=given.workers)
    net.load_state_dict(read_all.ema.state_dict())
    then = replace(settings, **then)
    fitted = fit(loss, net, orders, then, files, workers=given.workers, until=given.until)
    if rank_and_world()[0] == 0:
        figures = dict(loss=recent(fitted.losses), **judge(given, fitted.ema, tokenizer))
        seconds = read_all.seconds + fitted.seconds
        whole = fitted._replace(losses=[*read_all.losses, *fitted.losses], seconds=seconds)
        print(publish(given, {"language": fitted.ema}, config, whole, figures, earlier), figures)


def judge(given: Arguments, net: nn.Module, tokenizer: WordTokenizer) -> dict[str, float]:
    """The loss on triplets that no step saw, what the net writes, and what float16 costs."""
    fresh = written(given.triplets + 200, given.seed + 1)
    known = set(written(given.triplets, given.seed))
    unseen, late = (v.to(given.on) for v in completed(tokenizer, [t for t in fresh if t not in known][:200]))
    with torch.no_grad():
        held = next_token_loss(net(unseen), unseen, late).item()
    _, went = write(net, tokenizer, given.tests, given.seed + 2)
    error = storage_error({"language": net}, lambda m: m["language"](unseen[:64]))
    return dict(unseen_loss=held, **went, storage_error=error)


def sample(given: Arguments) -> None:
    """Let the net in `out` write triplets, and count what they are worth."""
    net, tokenizer = open_language(Path(given.out) / f"{given.name}.safetensors")
    found, went = write(net.to(given.on), tokenizer, given.sample, given.seed)
    file = Path(given.out) / "triplets.jsonl"
    write_triplets(found, file)
    print(f"{file}: {len(found)} triplets,", ", ".join(f"{k} {v:.3g}" for k, v in went.items()))


if __name__ == "__main__":
    command_line(main, Arguments)
