"""DreamBooth: a few pictures of one thing, and from then on a word for it.

"DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation", arXiv:2208.12242v2.

    1  x_pr ~ the frozen model, under "a [class noun]"                    Sec. 3.3
    2  repeat: a picture x, "a [identifier] [class noun]"; t, ε
    3    L = w_t ‖x̂_θ(√ᾱ x + √(1−ᾱ) ε, c) − x‖²                           Eq. (9) here, Eq. (1) there
    4      + λ w_t′ ‖x̂_θ(√ᾱ′ x_pr + √(1−ᾱ′) ε′, c_pr) − x_pr‖²            Eq. (9) here, Eq. (2) there: t′ and ε′ of its own
    5    θ ← a step of AdamW                                             the whole U-Net; the text encoder if asked for

Its second term keeps the class what it was: without it "a star" becomes *the* star (language drift), and its pictures become alike.
The same loop serves LoRA (methods/lora.py), where A and B alone learn, and Textual Inversion (arXiv:2208.01618v1), where nothing learns but
the vector of the new word.
"""
from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from methods.identifiers import common, rare_identifiers, tokens_of
from methods.lora import lora, merge, save_lora
from methods.sampling import TOP, generate
from samplers.convert import q_sample, x0_from_eps
from training.fit import fit
from weights import Bundle

WEIGHTS: dict[str, Callable[[float], float]] = {   # w_t by SNR(t): the error of x̂_0 times SNR is that of ε, times 1 + SNR that of v
    "snr": lambda snr: snr, "one": lambda snr: 1., "v": lambda snr: 1 + snr}
WHAT = ("net", "lora", "word")                     # what learns


class CommonWord(UserWarning):
    """An identifier that has a meaning already."""


class Tuned(NamedTuple):
    """What a tuning gives back."""
    bundle: Bundle                                 # a new one; the one that was given is as it was
    identifier: str
    prompt: str                                    # "a [identifier] [class noun]"
    instance: list[float]                          # the first term of the loss, step by step
    prior: list[float]                             # the second, before λ; empty without
    prior_pictures: Tensor | None                  # (n, 3, y, x), of the frozen model


def dreambooth(b: Bundle, pictures: Tensor, class_noun: str, *, identifier: str = "auto", prompts: Sequence[str] | None = None,
               steps: int = 400, lr: float = 5e-4, batch: int = 4, prior: float = 1., n_prior: int = 64,
               prior_prompts: Sequence[str] | None = None, weight: str = "auto", what: str = "net", text: bool = False, rank: int = 4,
               checkpointing: bool = False, lora_file: str | Path | None = None, state: str | Path | None = None, seed: int = 0) -> Tuned:
    """A model that knows the thing in the pictures (n, 3, y, x), n of 3 to 5 as a rule, in [−1, 1], all of one size.

    identifier: a word for it, "auto" for the rarest that the tokenizer has. prompts: of the pictures, one or one each, with the identifier
    in them (default: "a [identifier] [class noun]"). prior: λ, 0 for none; n_prior: pictures of the frozen model, under prior_prompts in
    turn (default: "a [class noun]"). weight: w_t, "snr" (the paper's choice in effect: the error of ε), "one" or "v"; "auto" is what the
    net was trained by. what learns: "net", "lora" of that rank, or "word" alone (Textual Inversion; no prior term); text: the text
    encoder too. lr: ours, for the shipped models; the paper has 5e-6 for Stable Diffusion. checkpointing: recompute the net backward
    instead of keeping its maps. lora_file: write A and B there before they are merged. state: a checkpoint to go on from.
    Raises ValueError for what makes no sense, with the mend; warns (CommonWord) of an identifier that has a meaning.
    """
    check(b, pictures, class_noun, prior, steps, weight, what)
    name = rare_identifiers(b.tokenizer)[0] if identifier == "auto" else identifier
    if (why := common(b.tokenizer, name)) is not None:
        warnings.warn(f"identifier: {why}; a rare one would be {rare_identifiers(b.tokenizer)[0]!r}", CommonWord, stacklevel=2)
    prompt = f"a {name} {class_noun}"
    said = [prompt] * len(pictures) if prompts is None else list(prompts)
    if len(said) != len(pictures) or not all(name in line.split() for line in said):
        raise ValueError(f"prompts: {len(said)} for {len(pictures)} pictures; give one each, with the identifier {name!r} in it")
    before = None
    if prior > 0 and what != "word":
        kinds = [f"a {class_noun}"] if prior_prompts is None else list(prior_prompts)
        before = prior_set(b, [kinds[i % len(kinds)] for i in range(n_prior)], seed)             # l. 1

    learner = Learner(b, name, what, text, rank)
    own = (b.encode(pictures), b.tokenizer(said))
    of_class = None if before is None else (b.encode(before[0]), b.tokenizer(before[1]))
    curves: tuple[list[float], list[float]] = ([], [])
    w_t = WEIGHTS[weight if weight != "auto" else {"eps": "snr", "v": "v"}[b.prediction]]

    def draw(step: int, g: Generator) -> list[tuple[Tensor, ...]]:
        parts = []
        for z, tokens in (own,) if of_class is None else (own, of_class):
            rows = torch.randint(len(z), (batch,), generator=g)
            t = torch.randint(1, round(TOP * b.schedule.T) + 1, (batch,), generator=g)
            parts.append((z[rows], tokens[rows], t, torch.randn((batch, *z.shape[1:]), generator=g)))   # t′, ε′ of their own
        return parts

    def loss(module: nn.Module, drawn: list[tuple[Tensor, ...]], g: Generator) -> Tensor:
        terms = [squared(module, b, *part, w_t, checkpointing) for part in drawn]
        for curve, term in zip(curves, terms):
            curve.append(term.item())
        return terms[0] + prior * terms[1] if len(terms) > 1 else terms[0]                       # Eq. (9)

    fitted = fit(loss, learner, draw, steps=steps, lr=lr, warmup=0, ema=0., weight_decay=1e-2 if what == "net" else 0., seed=seed,
                 checkpoint=state, progress=False, identity=dict(method="dreambooth", what=what, prompts=said))
    return Tuned(fitted.net.finished(b, lora_file), name, prompt, *curves, None if before is None else before[0])


def squared(learner: nn.Module, b: Bundle, x: Tensor, tokens: Tensor, t: Tensor, eps: Tensor, w_t: Callable[[float], float],
            checkpointing: bool = False) -> Tensor:
    """w_t ‖x̂_θ(√ᾱ x + √(1−ᾱ) ε, c) − x‖², the mean over pictures and pixels. # Eq. (9), one of its terms"""
    x, eps = x.to(b.device), eps.to(x)
    z_t = q_sample(b.schedule, x, t, eps)
    ctx = learner.read(tokens.to(b.device))
    model = replace(b, net=learner.net)
    says = recomputed(model.eps, z_t, t, ctx, use_reentrant=False) if checkpointing else model.eps(z_t, t, ctx)
    weights = torch.tensor([w_t(b.schedule.snr(n)) for n in t.tolist()]).to(x)
    return (weights * (x0_from_eps(b.schedule, z_t, t, says) - x).square().mean(dim=(1, 2, 3))).mean()


class Learner(nn.Module):
    """Copies of a bundle's net and text encoder, of which one part learns."""

    def __init__(self, b: Bundle, word: str, what: str, text: bool, rank: int):
        super().__init__()
        self.net, self.text = (copy.deepcopy(m).train().requires_grad_(False) for m in (b.net, b.text))
        self.token, = tokens_of(b.tokenizer, word)[:1]
        self.what = what
        if what == "lora":
            lora(self.net, rank)
        elif what == "net":
            self.net.requires_grad_(True)
        self.text.requires_grad_(text and what != "word")
        self.word = nn.Parameter(self.text.embed(torch.tensor([self.token], device=b.device))[0].detach().clone(),
                                 requires_grad=what == "word")

    def read(self, tokens: Tensor) -> Tensor:
        """Rows of tokens (b l) -> (b l d), with the word's own vector where it stands, if that is what learns. # TI: Sec. 3"""
        if self.what != "word":
            return self.text(tokens)
        vectors = self.text.embed(tokens)
        return self.text.forward_embedded(torch.where((tokens == self.token)[..., None], self.word, vectors))

    def finished(self, b: Bundle, lora_file: str | Path | None) -> Bundle:
        """A Bundle of what was learnt, to be used like any other."""
        if self.what == "lora":
            if lora_file is not None:
                save_lora(self.net, lora_file)
            merge(self.net)
        if self.what == "word":
            with torch.no_grad():
                self.text.tokens.weight[self.token] = self.word
        return replace(b, name=f"{b.name}-{'textual-inversion' if self.what == 'word' else 'dreambooth'}",
                       net=self.net.eval().requires_grad_(False), text=self.text.eval().requires_grad_(False))


def prior_set(b: Bundle, prompts: Sequence[str], seed: int) -> tuple[Tensor, list[str]]:
    """Pictures of the frozen model, ancestral, one of each prompt, and the prompts. # Sec. 3.3"""
    made = [generate(b, prompts[i:i + 16], seed=seed + 10_000 + i, eta=1.).picture for i in range(0, len(prompts), 16)]
    return torch.cat(made), list(prompts)


def check(b: Bundle, pictures: Tensor, class_noun: str, prior: float, steps: int, weight: str, what: str) -> None:
    """Raises ValueError for a model, pictures or settings that make no sense."""
    if b.text is None or b.net.conv_in.in_channels != b.latent_shape[0]:
        raise ValueError(f"model: {b.name} is no text-to-picture model on latents alone; load shapes, or Stable Diffusion")
    if pictures.ndim != 4 or not len(pictures):
        raise ValueError(f"pictures: must be (n 3 y x) with n ≥ 1, 3 to 5 as a rule, got {tuple(pictures.shape)}")
    if not class_noun.strip():
        raise ValueError("class_noun: must be a word for what the thing is, as in star")
    if not prior >= 0 or steps < 1:
        raise ValueError(f"prior: λ must be at least 0, and steps at least 1; got {prior} and {steps}")
    if weight not in ("auto", *WEIGHTS) or what not in WHAT:
        raise ValueError(f"weight: must be one of auto, {', '.join(WEIGHTS)} and what one of {', '.join(WHAT)}; got {weight!r}, {what!r}")
    b.embed(f"a {class_noun}")                                             # an unknown noun is named here, before the long work

