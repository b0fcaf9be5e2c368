"""An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion (Gal et al.,
arXiv:2208.01618v1).

Nothing of the model is tuned; what is looked for is a word. S* is a new vector in the table of the text
encoder, and the one whose texts describe the pictures best is v*. DreamBooth's baseline: it can say only
what the net could already paint.

    1  v ← the vector of a coarse word, "star"                                                        Sec. 4.2
    2  for each step:
    3    y ← a neutral template around S*: "a photo of a S*"
    4    v ← AdamW on ‖ε − ε_θ(z_t, t, c_θ(y))‖²; all else is frozen                                  Eq. (2) of the paper

    paper        code                              paper        code
    S*           identifier                        v*           text.tokens.weight[token] of the new bundle
    y            TEMPLATES                         c_θ          speak
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from palimpsest.methods.dreambooth import Course, Learned, study
from palimpsest.methods.identifiers import check_identifier
from palimpsest.methods.learner import check_class, check_pictures, finished, own_copy
from palimpsest.weights.model import Model
from palimpsest.worlds.scene import with_article

TEMPLATES = (
    "{a}",
    "the {v}",
    "a photo of {a}",
    "a picture of {a}",
    "a painting of {a}",
    "a photo of the {v}",
)  # v: S*, a: "a S*"


class Word(nn.Module):
    """One token's vector, free; a text in which it stands is read by a frozen encoder."""

    def __init__(self, start: Tensor):
        super().__init__()
        self.vector = nn.Parameter(start.clone())


def read_with(text: nn.Module, word: Word, token: int, tokens: Tensor) -> Tensor:
    """c_θ(y): tokens (b l) -> (b l d), with the word's vector wherever its token stands."""
    tokens = tokens.to(word.vector.device)
    here = (tokens == token)[..., None]
    return text.forward_embedded(
        torch.where(here, word.vector, text.embed(tokens))
    )  # Sec. 4.1: v* in place of S*


def textual_inversion(
    model: Model,
    pictures: Tensor | Sequence[Tensor],
    class_noun: str,
    *,
    identifier: str = "auto",
    steps: int = 400,
    lr: float = 5e-3,
    batch: int = 4,
    accumulate: int = 1,
    checkpointing: bool = False,
    seed: int = 0,
    state: str | Path | None = None,
    progress: bool = False,
) -> Learned:
    """A new model that differs in one vector: that of `identifier`, which means what `pictures` (n, 3, y,
    x) in [−1, 1] show.

    class_noun: the coarse word that the vector starts from, one token. No weight decay: it would pull the
    vector to zero, and of the table only this row is free. The prompts of the result say the identifier
    alone, "a zwx on a red background". Raises ValueError as `dreambooth`, and for an identifier or a
    class noun of several tokens."""
    x = check_pictures(model, pictures)
    identifier = check_identifier(model, identifier, seed)
    check_class(model, class_noun, 0.0)
    token, coarse = (
        one_token(model, name, word)
        for name, word in (("identifier", identifier), ("class_noun", class_noun))
    )

    new = own_copy(model, checkpointing)
    word = Word(new.text.tokens.weight[coarse])  # Sec. 4.2
    prompt = with_article(identifier)
    texts = model.tokenizer([template.format(v=identifier, a=prompt) for template in TEMPLATES]).expand(
        len(x), -1, -1
    )
    modules, losses, terms, seconds = study(
        new,
        nn.ModuleDict({"net": new.net, "text": new.text, "word": word.to(model.device)}),
        lambda tokens: read_with(new.text, word, token, tokens),
        model.encode(x),
        texts,
        None,
        None,
        Course(steps, lr, batch, accumulate=accumulate, seed=seed, state=state, progress=progress),
    )  # Eq. (2)
    found = finished(new, modules)
    with torch.no_grad():
        found.text.tokens.weight[token] = modules["word"].vector
    return Learned(
        found,
        identifier,
        prompt,
        with_article(class_noun),
        losses,
        terms[:, 0].tolist(),
        terms[:, 1].tolist(),
        None,
        seconds,
    )


def one_token(model: Model, name: str, word: str) -> int:
    """The token of a word. Raises ValueError where it has none or several."""
    tokens = [token for piece in model.tokenizer.pieces(word) for token in piece]
    if len(tokens) != 1:
        raise ValueError(f"{name}: must be one token, and {word!r} is {len(tokens)}; take a word of one")
    return tokens[0]
