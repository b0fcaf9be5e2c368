"""An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion (Gal et al.,
arXiv:2208.01618v1).

Nothing of the model is tuned; what is looked for is a word. S* is a new vector in the table of the text
encoder, and the one whose texts describe the pictures best is v*. It is DreamBooth's baseline: it can say
only what the net could already paint.

    1  v ← the vector of a coarse word, "star"                                   Sec. 4.2
    2  for each step:
    3    y ← a neutral template around S*: "a photo of a S*"
    4    v ← AdamW on ‖ε − ε_θ(z_t, t, c_θ(y))‖²; all else is frozen             Eq. (2) of the paper

    paper        code                              paper        code
    S*           identifier                        v*           text.tokens.weight[token] of the new model
    y            TEMPLATES                         c_θ          encode_with_word
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from palimpsest.arguments import ArgumentError, Picture, check
from palimpsest.methods.dreambooth import Examples, Learned, tune
from palimpsest.methods.identifiers import check_identifier
from palimpsest.methods.learner import Course, check_class_noun, frozen_copy, given_pictures, with_trained
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
    """One token's vector, which is free; a text in which it stands is read by a frozen encoder."""

    def __init__(self, start: Tensor):
        super().__init__()
        self.vector = nn.Parameter(start.clone())


def encode_with_word(text: nn.Module, word: Word, token: int, tokens: Tensor) -> Tensor:
    """c_θ(y): tokens (b l) -> (b l d), with the word's vector wherever its token stands."""
    tokens = tokens.to(word.vector.device)
    is_word = (tokens == token)[..., None]
    return text.forward_embedded(torch.where(is_word, word.vector, text.embed(tokens)))  # Sec. 4.1: v* for S*


def textual_inversion(
    model: Model,
    pictures: Picture | Sequence[Picture],
    class_noun: str,
    *,
    identifier: str = "auto",
    course: Course = Course(lr=5e-3),
    state: str | Path | None = None,
    progress: bool = False,
) -> Learned:
    """A new model that differs in one vector: that of `identifier`, which means what the pictures show.

    pictures, identifier, course, state, progress: as in `dreambooth`. class_noun: the coarse word whose
    vector is the start, one token. There is no weight decay: it would pull the vector to zero. The prompts
    of the result say the identifier alone, "a zwx on a red background".

    Raises ValueError as `dreambooth`, and for an identifier or a class noun of several tokens.
    """
    check(textual_inversion, locals())
    x = given_pictures(model, pictures)
    identifier = check_identifier(model, identifier, course.seed)
    check_class_noun(model, class_noun)
    token = one_token(model, "identifier", identifier)
    coarse = one_token(model, "class_noun", class_noun)

    new = frozen_copy(model, course.checkpointing)
    word = Word(new.text.tokens.weight[coarse]).to(model.device)  # Sec. 4.2
    prompt = with_article(identifier)
    texts = model.tokenizer([template.format(v=identifier, a=prompt) for template in TEMPLATES])
    modules, curves = tune(  # l. 2–4, Eq. (2)
        new,
        nn.ModuleDict({"net": new.net, "text": new.text, "word": word}),
        partial(encode_with_word, new.text, word, token),
        Examples(model.encode(x), texts[None].expand(len(x), -1, -1)),
        None,
        course,
        state=state,
        progress=progress,
    )
    found = with_trained(new, modules)
    with torch.no_grad():
        found.text.tokens.weight[token] = modules["word"].vector
    return Learned(found, identifier, prompt, with_article(class_noun), *curves)


def one_token(model: Model, argument: str, word: str) -> int:
    """The token of a word. Raises ArgumentError, in the argument's name, where it has none or several."""
    tokens = [token for piece in model.tokenizer.pieces(word) for token in piece]
    if len(tokens) != 1:
        raise ArgumentError(argument, f"must be one token, and {word!r} is {len(tokens)}; take a word of one")
    return tokens[0]
