"""The recipes of the emoji world, at a tiny size and on the pictures that ship: from the first step to a
file that edits.
"""

from __future__ import annotations

import json
import random
import shutil

import pytest
import torch
from torch import Generator
from torch.testing import assert_close

from palimpsest.fit.ahead import step_generator
from palimpsest.methods.instruct_pix2pix import instruct_pix2pix
from palimpsest.nets.tokenizer import LETTERS, WordTokenizer, split_words
from palimpsest.training import emoji, emoji_clip, emoji_instruct, emoji_pairs, emoji_vae
from palimpsest.weights.files import read_weights
from palimpsest.weights.judges import load_judge
from palimpsest.weights.load import load, load_autoencoder
from palimpsest.worlds.emoji import (
    KINDS,
    SHIPPED,
    World,
    caption,
    is_held_out,
    open_world,
    pairs,
    render,
    sample_scenes,
    texts,
)
from palimpsest.worlds.files import write_picture

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
        emoji_vae.main(
            emoji_vae.Arguments(
                steps=2, batch=2, tests=4, data=str(SHIPPED), state=str(out / "vae"), out=str(out)
            )
        )
        emoji.main(
            emoji.Arguments(
                steps=2,
                batch=2,
                scenes=12,
                data=str(SHIPPED),
                state=str(out / "t2i"),
                vae=str(out / "emoji-vae.safetensors"),
                out=str(out),
            )
        )
    return out


def test_the_recipes_write_a_model_that_reads_any_word_and_sees_emoji(folder, world):
    model = load(folder / "emoji.safetensors", "cpu")
    assert (model.prediction, model.size, model.latent_shape) == ("v", 64, (8, 16, 16))
    assert (
        model.tokenizer.words == emoji.vocabulary(world)
        and model.embed("a wholly unheard-of thing, 日本").isfinite().all()
    )
    x = render(world, sample_scenes(world.emoji, 1, random.Random(0)))
    assert model.decode(model.encode(x)).shape == x.shape
    for name in ("emoji", "emoji-vae"):
        record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        assert (
            record["recipe"] == f"python -m palimpsest.training.{name.replace('-', '_')}"
            and record["steps"] == 2
        )
        assert 0 <= record["figures"]["storage_error"] < 0.01


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
    assert 0.05 < sum(spelled) / len(said) < 0.15
    assert [tokenizer.decode(row) for row in rows.tolist()] == [" ".join(split_words(text)) for text in said]
    long = (
        "couple with heart: woman, man, medium-light skin tone, medium-dark skin tone in twemoji style "
        "on a purple background"
    )
    assert torch.equal(emoji.read(tokenizer, [""] * 20, rng), tokenizer([""] * 20))
    assert emoji.read(WordTokenizer(sorted({*split_words(long), *LETTERS}), 28), [long] * 80, rng).shape == (
        80,
        28,
    )


def test_recipes_draw_no_held_out_picture_and_measure_on_nothing_else(world, monkeypatch):
    seen = []
    monkeypatch.setattr(
        emoji_vae, "render", lambda world, scenes: seen.append([is_held_out(s.emoji) for s in scenes])
    )
    emoji_vae.pictures(world, held_out=False)(50, Generator().manual_seed(0))
    emoji_vae.pictures(world, held_out=True)(50, Generator().manual_seed(0))
    assert seen == [[False] * 50, [True] * 50]


def test_the_model_draws_no_held_out_picture(world, monkeypatch):
    drawn = []

    class Enough(Exception):
        pass

    def stop(vae, scenes, draw, workers):
        drawn.extend(scenes)
        raise Enough

    monkeypatch.setattr(emoji, "encode_all", stop)
    monkeypatch.setattr(emoji, "load_autoencoder", lambda name, device: None)
    with pytest.raises(Enough):
        emoji.main(emoji.Arguments(scenes=300, data=str(SHIPPED)))
    assert len(drawn) == 300 and not any(is_held_out(scene.emoji) for scene in drawn)


def test_one_caption_in_ten_is_empty_and_the_others_never_lie(world):
    rng = random.Random(0)
    scene = sample_scenes(world.emoji, 1, rng)[0]
    told = [emoji.told(scene, rng) for _ in range(1000)]
    assert 60 < told.count("") < 140
    assert {t for t in told if t} == {
        caption(scene, style=a, background=b) for a in (True, False) for b in (True, False)
    }


# ---- the judge ----


def test_the_judge_is_trained_on_what_is_known_and_judged_by_what_is_not(world, tmp_path, monkeypatch):
    monkeypatch.setattr(
        emoji_clip,
        "CLEAN",
        emoji_clip.CLEAN | dict(width=16, layers=1, heads=2, embed=8, text_width=16, text_layers=1),
    )
    drawn, seen = emoji_clip.drawn, []

    def watched(world, some, tokenizer, n, generator):
        seen.append(({is_held_out(e) for e in some}, n))
        return drawn(world, some, tokenizer, n, generator)

    monkeypatch.setattr(emoji_clip, "drawn", watched)
    emoji_clip.main(
        emoji_clip.Arguments(
            steps=2, batch=4, tests=64, data=str(SHIPPED), state=str(tmp_path / "s"), out=str(tmp_path)
        )
    )
    assert seen == [({False}, 4)] * 2 + [({True}, 64)]
    figures = json.loads((tmp_path / "emoji-clip.json").read_text(encoding="utf-8"))["figures"]
    assert figures["n"] == 64 and 0 <= figures["found"] < 0.3 and figures["storage_error"] < 0.01
    judge = load_judge(tmp_path / "emoji-clip.safetensors", "cpu")
    x = render(world, sample_scenes(world.emoji, 2, random.Random(0)))
    assert judge.cosines(x, ["red heart", "a wholly unheard-of thing"]).abs().max() <= 1 + 1e-6


def test_a_judges_pictures_and_captions_belong_together(world):
    tokenizer = WordTokenizer(emoji.vocabulary(world), emoji.LENGTH)
    some = list({e.name: e for e in world.emoji}.values())[:3]
    pictures, tokens = emoji_clip.drawn(world, some, tokenizer, 40, Generator().manual_seed(0))
    again = emoji_clip.drawn(world, some, tokenizer, 40, Generator().manual_seed(0))
    assert (
        torch.equal(pictures, again[0])
        and torch.equal(tokens, again[1])
        and pictures.shape == (40, 3, 64, 64)
    )
    said = [tokenizer.decode(row) for row in tokens.tolist()]
    assert (
        0.4 < sum("style" in text for text in said) / 40 < 0.95
        and 0.4 < sum("background" in text for text in said) / 40 < 0.95
    )
    for e in some:
        alike = [x for x, text in zip(pictures, said) if text.startswith(" ".join(split_words(e.name)))]
        opaque = world.pictures[world.emoji.index(e), 3] == 255
        assert len(alike) > 3 and all(torch.equal(x[:, opaque], alike[0][:, opaque]) for x in alike)
        assert not all(
            torch.equal(x, alike[0]) for x in alike[1:]
        )  # the emoji is the same, the ground is not


# ---- edits by instruction ----


@pytest.fixture
def seen_only(folder, monkeypatch):
    """The models of `folder`, and the pictures that ship as if none was held out: they hold few pairs of
    which both are trained on.
    """
    monkeypatch.setattr("palimpsest.worlds.emoji.is_held_out", lambda e: False)
    monkeypatch.setattr(emoji_instruct, "NET", TINY)
    return folder


def instructed(folder, out, **more):
    emoji_instruct.main(
        emoji_instruct.Arguments(
            **dict(
                steps=1,
                batch=2,
                n=12,
                init=str(folder / "emoji.safetensors"),
                data=str(SHIPPED),
                state=str(out / "s"),
                vae=str(folder / "emoji-vae.safetensors"),
                out=str(out),
            )
            | more
        )
    )
    return out / "emoji-instruct.safetensors"


def test_the_instruct_model_begins_as_the_text_to_picture_model_and_edits(seen_only, tmp_path, world):
    path = instructed(seen_only, tmp_path, lr=1e-12)
    first, wide = read_weights(seen_only / "emoji.safetensors")[1], read_weights(path)[1]
    weight = wide["net.conv_in.weight"]
    assert_close(
        weight[:, :8],
        first["net.conv_in.weight"].float(),
        rtol=0,
        atol=first["net.conv_in.weight"].abs().max().item() / 127,
    )
    assert weight.shape[1] == 16 and weight[:, 8:].abs().max() < 1e-6
    header, record = (
        read_weights(path)[0],
        json.loads((tmp_path / "emoji-instruct.json").read_text(encoding="utf-8")),
    )
    assert [run["steps"] for run in header["trained"]] == [2, 1] and record["figures"]["pairs"] == 12
    assert (
        record["recipe"] == "python -m palimpsest.training.emoji_instruct"
        and 0.001 < record["figures"]["storage_error"] < 0.03
    )  # int8
    shutil.copy(seen_only / "emoji-vae.safetensors", tmp_path)
    model = load(path, "cpu", torch.float32)
    x = render(world, sample_scenes(world.emoji, 2, random.Random(0)))
    assert instruct_pix2pix(model, x, "change the skin tone to dark", steps=2).picture.shape == x.shape


def test_the_instruct_model_learns_from_pairs_of_files_too_and_goes_on_from_its_own_file(seen_only, tmp_path):
    (tmp_path / "pairs" / "one").mkdir(parents=True)
    for name in ("before", "after"):
        write_picture(
            torch.rand((1, 3, 64, 64), generator=Generator().manual_seed(1)) * 2 - 1,
            tmp_path / "pairs" / "one" / f"{name}.png",
        )
    (tmp_path / "pairs" / "one" / "instruction.txt").write_text("make the heart blue\n", encoding="utf-8")
    path = instructed(seen_only, tmp_path, pairs=str(tmp_path / "pairs"))
    record = json.loads((tmp_path / "emoji-instruct.json").read_text(encoding="utf-8"))
    assert record["figures"]["pairs"] == 13 and record["arguments"]["pairs"] == "pairs"
    again = tmp_path / "again"
    assert len(read_weights(instructed(seen_only, again, init=str(path)))[0]["trained"]) == 3
    with pytest.raises(ValueError, match="pairs: .* holds no folders"):
        instructed(seen_only, tmp_path / "none", pairs=str(tmp_path / "nothing"))


def test_pairs_for_training_are_never_held_out_and_rare_kinds_come_often(world):
    fresh = emoji_instruct.draw_pairs(world, 60, random.Random(0))
    assert len(fresh) == 60 and not any(is_held_out(s.emoji) for pair in fresh for s in pair[1:3])
    assert {p.instruction for p in fresh if p.kind == "background"} <= {
        f"change the background to {p.after.background}" for p in fresh
    }
    some = [e for e in world.emoji if not is_held_out(e)]
    kinds = {kind: sum(p.kind == kind for p in pairs(world, random.Random(0))) for kind in KINDS}
    drawn = emoji_instruct.draw_pairs(
        World(tuple(some), world.pictures[world.rows(some)]), 4000, random.Random(0)
    )
    total = sum(n**0.5 for n in kinds.values())
    for kind, n in kinds.items():
        assert abs(sum(p.kind == kind for p in drawn) / 4000 - n**0.5 / total) < 0.03
    assert len({(p.before.emoji, p.before.ground) for p in drawn}) == 4000


def test_latents_of_pairs_are_those_of_their_pictures(folder, world):
    vae = load_autoencoder(folder / "emoji-vae.safetensors")
    drawn = emoji_instruct.draw_pairs(world, 6, random.Random(0))
    before, after, asked = emoji_instruct.encoded(vae, world, drawn)
    assert before.dtype == after.dtype == torch.float16 and asked == [p.instruction for p in drawn]
    assert_close(before.float(), vae.encode(render(world, [p.before for p in drawn])), rtol=2e-3, atol=2e-3)
    assert_close(after.float(), vae.encode(render(world, [p.after for p in drawn])), rtol=2e-3, atol=2e-3)


def test_a_word_of_an_instruction_is_spelled_now_and_then_by_the_steps_own_generator(world):
    tokenizer = WordTokenizer(emoji.vocabulary(world), emoji.LENGTH)
    said = ["make the heart blue"] * 200
    rows, same = (emoji_instruct.read_some(tokenizer, said, step_generator(0, 5)) for _ in range(2))
    assert torch.equal(rows, same) and 5 < (rows != tokenizer(said)).any(1).sum() < 40


# ---- pairs that are painted ----


def test_wishes_are_those_of_training_and_true_edits_show_what_they_say(world):
    wishes = emoji_pairs.wishes_of(world, 40, random.Random(0))
    assert len(wishes) == len(set(wishes)) == 40 and wishes == emoji_pairs.wishes_of(
        world, 40, random.Random(0)
    )
    held = {e.name for e in world.emoji if is_held_out(e)} - {
        e.name for e in world.emoji if not is_held_out(e)
    }
    assert all(
        t.caption != t.edited
        and not any(part.startswith(name + " in ") for part in (t.caption, t.edited) for name in held)
        for t in wishes
    )
    drawn = emoji_instruct.draw_pairs(world, 70, random.Random(1))
    parts = list(emoji_pairs.true_edits(world, drawn))
    assert [len(part[0]) for part in parts] == [64, 6]
    for side, (pictures, said) in enumerate(zip(parts[1][:2], parts[1][2:]), 1):
        assert said == [caption(p[side]) for p in drawn[64:]] and torch.equal(
            pictures, render(world, [p[side] for p in drawn[64:]])
        )


def test_painted_pairs_of_emoji_are_sorted_by_their_judge_and_trained_on(seen_only, tmp_path, monkeypatch):
    monkeypatch.setattr(
        emoji_clip,
        "CLEAN",
        emoji_clip.CLEAN | dict(width=16, layers=1, heads=2, embed=8, text_width=16, text_layers=1),
    )
    monkeypatch.setattr(emoji_pairs, "N_TRUE", 6)
    emoji_clip.main(
        emoji_clip.Arguments(
            steps=1, batch=4, tests=4, data=str(SHIPPED), state=str(tmp_path / "s"), out=str(tmp_path)
        )
    )

    def paint(name, **more):
        emoji_pairs.main(
            emoji_pairs.Arguments(
                **dict(
                    n=4,
                    samples=2,
                    steps=2,
                    batch=3,
                    data=str(SHIPPED),
                    model=str(seen_only / "emoji.safetensors"),
                    clip=str(tmp_path / "emoji-clip.safetensors"),
                    out=str(tmp_path / name),
                    device="cpu",
                )
                | more
            )
        )
        return json.loads((tmp_path / name / "summary.json").read_text(encoding="utf-8"))

    told = paint("sorted")
    assert (told["triplets"], told["pairs"]) == (4, 8) and set(told["thresholds"]) == {
        "image",
        "direction",
        "before",
        "after",
    }
    assert len(list((tmp_path / "sorted").glob("*/after.png"))) == told["kept"]
    monkeypatch.setattr(emoji_pairs, "render", None)  # nobody's drawing is looked at
    everything = paint("all", unfiltered=1, n=2)
    assert everything["kept"] == everything["pairs"] == 4 and everything["right"] == {
        "kept": None,
        "dropped": None,
    }
    instructed(seen_only, tmp_path / "trained", pairs=str(tmp_path / "all"))
    assert (
        json.loads((tmp_path / "trained" / "emoji-instruct.json").read_text(encoding="utf-8"))["figures"][
            "pairs"
        ]
        == 16
    )
    for changed, match in (
        (dict(n=0), "^n: must be at least 1"),
        (dict(how="both"), "^how: "),
        (dict(data=str(tmp_path)), "^data: "),
    ):
        with pytest.raises(ValueError, match=match):
            paint("never", **changed)
    assert not (tmp_path / "never").exists()


def test_the_model_is_within_its_budget():
    with torch.device("meta"):
        modules = emoji.models(emoji.NET, emoji.LENGTH, [f"w{k}" for k in range(1528)])[0]
    assert sum(p.numel() for p in modules.parameters()) <= 12e6
