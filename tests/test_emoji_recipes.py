"""The recipes of the emoji world, at a tiny size and on the pictures that ship: from the first step to a file that edits."""
from __future__ import annotations

import json
import random

import pytest
import torch
from torch import Generator

from nets.tokenizer import LETTERS, WordTokenizer, split_words
from training import emoji, emoji_vae
from weights import load
from worlds.emoji import SHIPPED, caption, is_held_out, open_world, render, sample_scenes, texts

TINY = dict(emoji.NET, width=16, ctx_width=16)
TINY_VAE = dict(emoji_vae.CONFIG, width=8)


@pytest.fixture(scope="module")
def world():
    return open_world()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both recipes, run for two steps each."""
    out = tmp_path_factory.mktemp("emoji")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emoji, "NET", TINY)
        patch.setattr(emoji_vae, "CONFIG", TINY_VAE)
        emoji_vae.main(steps=2, batch=2, tests=4, data=str(SHIPPED), state=str(out / "vae"), out=str(out))
        emoji.main(steps=2, batch=2, scenes=12, data=str(SHIPPED), state=str(out / "t2i"), vae=str(out / "emoji-vae.safetensors"),
                   out=str(out))
    return out


def test_the_recipes_write_a_model_that_reads_any_word_and_sees_emoji(folder, world):
    b = load(folder / "emoji.safetensors", "cpu")
    assert (b.prediction, b.size, b.latent_shape) == ("v", 64, (8, 16, 16))
    assert b.tokenizer.words == emoji.vocabulary(world) and b.embed("a wholly unheard-of thing, 日本").isfinite().all()
    x = render(world, sample_scenes(world.emoji, 1, random.Random(0)))
    assert b.decode(b.encode(x)).shape == x.shape
    for name in ("emoji", "emoji-vae"):
        record = json.loads((folder / f"{name}.json").read_text())
        assert record["recipe"] == f"python -m training.{name.replace('-', '_')}" and record["steps"] == 2
        assert 0 <= record["figures"]["storage_error"] < .01


def test_a_vocabulary_reads_every_text_of_its_world_in_whole_words(world):
    tokenizer = WordTokenizer(emoji.vocabulary(world), emoji.LENGTH)
    for text in texts(world):
        assert [len(piece) for piece in tokenizer.pieces(text)] == [1] * len(split_words(text))
    said = [caption(scene) for scene in sample_scenes(world.emoji, 60, random.Random(0))]
    assert tokenizer(said).shape == (60, emoji.LENGTH)


def test_a_word_of_one_caption_in_ten_is_spelled_and_every_row_says_its_text(world):
    tokenizer, rng = WordTokenizer(emoji.vocabulary(world), emoji.LENGTH), random.Random(0)
    said = [caption(scene) for scene in sample_scenes(world.emoji, 400, rng)]
    rows = emoji.read(tokenizer, said, rng)
    letters = {tokenizer.tokens[letter] for letter in LETTERS}
    spelled = [bool(letters & set(row)) for row in rows.tolist()]
    assert .05 < sum(spelled) / len(said) < .15
    assert [tokenizer.decode(row) for row in rows.tolist()] == [" ".join(split_words(text)) for text in said]
    long = "couple with heart: woman, man, medium-light skin tone, medium-dark skin tone in twemoji style on a purple background"
    assert torch.equal(emoji.read(tokenizer, [""] * 20, rng), tokenizer([""] * 20))
    assert emoji.read(WordTokenizer(sorted({*split_words(long), *LETTERS}), 28), [long] * 80, rng).shape == (80, 28)


def test_recipes_draw_no_held_out_picture_and_measure_on_nothing_else(world, monkeypatch):
    seen = []
    monkeypatch.setattr(emoji_vae, "render", lambda world, scenes: seen.append([is_held_out(s.emoji) for s in scenes]))
    emoji_vae.pictures(world, held_out=False)(50, Generator().manual_seed(0))
    emoji_vae.pictures(world, held_out=True)(50, Generator().manual_seed(0))
    assert seen == [[False] * 50, [True] * 50]


def test_the_model_draws_no_held_out_picture(world, monkeypatch):
    drawn = []

    class Enough(Exception):
        pass

    def stop(vae, scenes, draw):
        drawn.extend(scenes)
        raise Enough

    monkeypatch.setattr(emoji, "encode_all", stop)
    monkeypatch.setattr(emoji, "load_autoencoder", lambda name, device: None)
    with pytest.raises(Enough):
        emoji.main(scenes=300, data=str(SHIPPED))
    assert len(drawn) == 300 and not any(is_held_out(scene.emoji) for scene in drawn)


def test_one_caption_in_ten_is_empty_and_the_others_never_lie(world):
    rng = random.Random(0)
    scene = sample_scenes(world.emoji, 1, rng)[0]
    told = [emoji.told(scene, rng) for _ in range(1000)]
    assert 60 < told.count("") < 140
    assert {t for t in told if t} == {caption(scene, style=a, background=b) for a in (True, False) for b in (True, False)}


def test_the_model_is_within_its_budget():
    with torch.device("meta"):
        modules = emoji.models(emoji.NET, emoji.LENGTH, [f"w{k}" for k in range(1528)])[0]
    assert sum(p.numel() for p in modules.parameters()) <= 12e6
