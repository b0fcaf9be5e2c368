"""palimpsest words: what a model reads."""

from __future__ import annotations

import argparse
import textwrap
from collections import defaultdict

import torch

from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.console import tell
from palimpsest.cli.manners import change_options, command
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.weights.load import load
from palimpsest.worlds.patterns import EXAMPLES, captions, world_of
from palimpsest.worlds.scene import RARE_WORDS
from palimpsest.worlds.words import groups, table_of

WIDTH = 100  # columns
FREE = "white background with a ring that is red, and a big star above it"  # to show how a text is put


def declare_words(commands: argparse._SubParsersAction) -> None:
    """The options of `palimpsest words`."""
    p = command(commands, "words", COMMANDS["words"], run_words)
    p.add_argument(
        "--model",
        default="shapes",
        metavar="NAME",
        help="a shipped name (`palimpsest models`), a public one or a path (default: 'shapes')",
    )
    change_options(p)


def run_words(a: argparse.Namespace) -> None:
    """The words of a model in groups, each with what else is read as it; and two texts that it knows."""
    model = load(a.model, "meta", torch.float32, lora=a.lora, embedding=a.embedding)
    tokenizer = model.tokenizer
    if tokenizer is None:
        tell(f"{model.name} reads no text")
        return
    if not isinstance(tokenizer, WordTokenizer):
        tell(f"{model.name} reads any text, in pieces of words: at most {tokenizer.room} of them")
        if tokenizer.taught:
            tell(f"it was also taught: {', '.join(tokenizer.taught)}")
        return
    known, world = tokenizer.words, world_of(tokenizer.words)
    others = defaultdict(list)
    for other, word in table_of(known).synonyms.items():
        if other not in known:
            others[word].append(other)
    rows = [(name, [_with(word, others) for word in words]) for name, words in groups(known).items()]
    if not rows:
        rows = [("words", [word for word in known if word not in RARE_WORDS and word.isalnum()])]
    named = {word for _, words in rows for text in words for word in text.split(" (")[0].split()}
    rest = [w for w in others if w in known and w not in named]
    rows += [("also", [_with(word, others) for word in rest])] * bool(rest)
    rows += [("emoji", [f"{len(captions())} names, as in {', '.join(captions()[:300:60])}"])] * (
        world == "emoji"
    )
    free = [word for word in known if word in RARE_WORDS]
    rows += [("no meaning", [f"{', '.join(free)} (`palimpsest dreambooth` gives them one)"])] * bool(free)
    rows += [("taught", list(tokenizer.taught))] * bool(tokenizer.taught)
    examples = [f'"{text}"' for text in EXAMPLES.get((world, model.beside == model.channels), ())]
    rows += [("as in", examples)] * bool(examples)
    if (put := tokenizer.put(FREE)) != FREE:
        rows.append(("any order", [f'"{FREE}" is read as "{put}"']))
    tell(f"{model.name} reads, whatever the case and punctuation; in brackets what is read as that word:")
    for name, words in rows:
        tell(textwrap.fill(", ".join(words), WIDTH, initial_indent=f"{name:<12}", subsequent_indent=" " * 12))


def _with(word: str, others: dict[str, list[str]]) -> str:
    return f"{word} ({', '.join(others[word])})" if others.get(word) else word
