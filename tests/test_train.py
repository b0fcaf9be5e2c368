"""Training on one's own captioned pictures: methods/captioned.py and `palimpsest train`."""

import copy
import json
import shlex
from dataclasses import replace

import pytest
import torch
from PIL import Image

from palimpsest.arguments import ArgumentError
from palimpsest.cli.main import main
from palimpsest.fit.settings import Files
from palimpsest.methods.captioned import Training, grouped, new_words, train, with_words
from palimpsest.methods.sampling import generate
from palimpsest.weights.load import load, save_like
from palimpsest.weights.model import Model
from palimpsest.worlds.notes import read_note
from tests.tiny import tiny_weights

COLOURS = {"red": (200, 30, 30), "blue": (30, 60, 200), "green": (30, 160, 60)}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A model, and a folder of its owner's: three tiles, of which the model does not know the word."""
    monkeypatch.chdir(tmp_path)
    tiny_weights(tmp_path)
    (tmp_path / "mine").mkdir()
    captions = {}
    for name, colour in COLOURS.items():
        Image.new("RGB", (40, 32) if name == "green" else (32, 32), colour).save(f"mine/{name}.png")
        captions[f"{name}.png"] = f"a {name} blimpish tile"
        (tmp_path / "mine" / f"{name}.txt").write_text(f"\ufeffA {name} blimpish tile.\n", encoding="utf-8")
    (tmp_path / "mine" / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
    return tmp_path


RUN = "train --folder mine --init tiny.safetensors --batch 2 --warmup 1"


def test_new_words_get_rows_and_old_ones_keep_theirs(own):
    model = load("tiny.safetensors", "cpu")
    captions = ["a red blimpish tile", "a zorbed star"]
    assert new_words(model, captions) == ["blimpish", "tile", "zorbed"]
    more = with_words(model, ["blimpish", "tile"])
    text = "a red star"
    assert torch.equal(more.embed(text), model.embed(text))
    rows = more.text.tokens.weight
    assert len(rows) == len(model.text.tokens.weight) + 2 and not torch.equal(rows[-1], rows[-2])
    assert torch.equal(rows, with_words(model, ["blimpish", "tile"]).text.tokens.weight)
    assert more.embed("a blimpish tile").shape == model.embed(text).shape
    with pytest.raises(ValueError):
        model.embed("a blimpish tile")


def test_a_model_that_learns_from_captions_of_ones_own_reads_them_as_they_are_written(own):
    model, files = load("tiny.safetensors", "cpu"), ["mine/red.png", "mine/blue.png"]
    pair, training = "a star and a ring", Training(steps=1, batch=1)
    assert model.tokenizer.put(pair) == "a star left of a ring"
    for captions in (
        [pair, "a blimpish star"],
        ["a mug, a spoon, a fork", ""],
        ["the blimpish star", "a star"],
    ):
        new = train(model, files, captions, training=training).model
        assert new.tokenizer.put(pair) == pair
        path = save_like(new, "tiny.safetensors", "new.safetensors")
        assert load(path, "cpu").tokenizer.put(pair) == pair
    plain = train(model, files, ["a blimpish star", ""], training=training).model
    assert plain.tokenizer.put(pair) == "a star left of a ring"
    path = save_like(plain, "tiny.safetensors", "plain.safetensors")
    assert load(path, "cpu").tokenizer.put("on blue, a blimpish star").startswith("a blimpish star on")


def test_a_model_of_own_captions_is_asked_by_them_without_a_note(own, capsys):
    for name in COLOURS:
        (own / "mine" / f"{name}.txt").write_text(f"{name} tile, seen from above", encoding="utf-8")
    words = [*RUN.split(), "--captions", "*.txt", "--steps", "1", "-o", "out"]
    assert main(words) == 0 and capsys.readouterr()
    asked = ["generate", "--model", "out/model.safetensors", "--steps", "1", "-o", "a.png", "--prompt"]
    assert main([*asked, "red tile, seen from above"]) == 0
    assert "note" not in capsys.readouterr().err


def test_a_caption_that_is_too_long_is_refused_by_name(own):
    model = load("tiny.safetensors", "cpu")
    with pytest.raises(ArgumentError, match="captions: the prompt has .* tokens"):
        train(model, ["mine/red.png"], ["a tile " * 30], training=Training(steps=1))


def test_new_words_leave_taught_ones_their_rows(own):
    model = load("tiny.safetensors", "cpu")
    n = len(model.text.tokens.weight)
    text = copy.deepcopy(model.text)
    text.tokens = torch.nn.Embedding.from_pretrained(
        torch.cat([text.tokens.weight, torch.ones(2, text.tokens.embedding_dim)])
    )
    taught = replace(model, text=text, tokenizer=model.tokenizer.with_taught({"<toy>": [n, n + 1]}))
    assert new_words(taught, ["a <toy> tile"]) == ["tile"]
    more = with_words(taught, ["tile"])
    assert torch.equal(more.embed("a <toy> star"), taught.embed("a <toy> star"))
    assert not torch.equal(more.embed("a tile"), more.embed("a <toy>")[:, : more.embed("a tile").shape[1]])


def test_pictures_of_one_size_are_learned_together(own):
    model = load("tiny.safetensors", "cpu")
    groups = grouped(model, [f"mine/{name}.png" for name in COLOURS])
    assert [group.rows.tolist() for group in groups] == [[0, 1], [2]]


@pytest.mark.slow
def test_training_lowers_the_loss_and_leaves_the_given_model_alone(own):
    model = load("tiny.safetensors", "cpu")
    before = [p.clone() for p in (*model.net.parameters(), *model.text.parameters())]
    files, captions = [f"mine/{name}.png" for name in COLOURS], [f"a {name} tile" for name in COLOURS]
    done = train(model, files, captions, training=Training(steps=120, lr=3e-3, batch=8, warmup=5))
    assert sum(done.losses[-20:]) < 0.8 * sum(done.losses[:20])
    after = (*model.net.parameters(), *model.text.parameters())
    assert all(torch.equal(a, b) for a, b in zip(after, before)) and not any(p.requires_grad for p in after)
    assert done.words == ["tile"] and not any(p.requires_grad for p in done.model.net.parameters())


def test_each_checkpoint_but_the_last_shows_the_model_so_far_to_who_asks_for_it(own):
    model, seen = load("tiny.safetensors", "cpu"), []
    data = ["mine/red.png", "mine/blue.png"], ["a red star", "a blue star"]
    training = Training(steps=3, batch=2, warmup=1)

    def look(found, losses):
        assert isinstance(found, Model) and not found.net.training
        assert not any(p.requires_grad for part in (found.net, found.text) for p in part.parameters())
        seen.append((next(found.net.parameters()).clone(), list(losses)))

    files = Files("asked.pt", save_every=1)
    asked = train(model, *data, training=training, files=files, each_save=look)
    (first, one), (second, two) = seen
    assert (one, two) == (asked.losses[:1], asked.losses[:2]) and not torch.equal(first, second)
    alone = train(model, *data, training=training, files=Files("alone.pt", save_every=1))
    assert alone.losses == asked.losses and (own / "alone.pt").exists()


@pytest.mark.parametrize("captions", ["captions.json", "*.txt"])
def test_the_command_writes_a_model_that_every_command_takes(own, capsys, captions):
    assert main([*RUN.split(), "--captions", captions, "--steps", "2", "-o", "out"]) == 0
    assert sorted(p.name for p in (own / "out").iterdir()) == [
        "model.safetensors",
        "sheet.png",
        "tiny-vae.safetensors",
    ]
    assert "new words: blimpish, tile" in capsys.readouterr().out
    record = json.loads(read_note("out/sheet.png"))
    assert f"--captions {shlex.quote(captions)} " in record["command"] and "--steps 2" in record["command"]
    assert main(["again", "out/sheet.png"]) == 2, "a whole training is not made again in passing"
    assert f"train again: {record['command']}\n" in capsys.readouterr().err
    model = load("out/model.safetensors", "cpu")
    assert generate(model, "a blue blimpish tile", steps=2).picture.shape == (1, 3, 32, 32)
    words = ["sdedit", "mine/red.png", "--prompt", "a blue blimpish tile", "--steps", "2"]
    assert main([*words, "--model", "out/model.safetensors", "-o", "edit.png"]) == 0
    assert main([*RUN.replace("tiny.safe", "out/model.safe").split(), "--steps", "1", "-o", "more"]) == 0
    assert "new words" not in capsys.readouterr().out


def test_a_stopped_run_goes_on_to_the_same_bits(own, monkeypatch):
    import palimpsest.cli.commands.train as command

    monkeypatch.setattr(command, "MINUTE", 0.0)
    assert main([*RUN.split(), "--steps", "4", "-o", "whole"]) == 0

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "save_like", stop)
        assert main([*RUN.split(), "--steps", "4", "-o", "broken"]) == 130
    assert (own / "broken" / "state" / "checkpoint.pt").exists()
    assert main([*RUN.split(), "--steps", "4", "-o", "broken"]) == 0
    whole, broken = (load(f"{name}/model.safetensors", "cpu") for name in ("whole", "broken"))
    for a, b in zip(whole.net.parameters(), broken.net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_anew_keeps_the_autoencoder_alone(own):
    assert main([*RUN.split(), "--anew", "--seed", "3", "--steps", "1", "-o", "out"]) == 0
    old, new = load("tiny.safetensors", "cpu"), load("out/model.safetensors", "cpu")
    first = [next(iter(part.parameters())) for part in (old.vae, new.vae, old.net, new.net)]
    assert torch.equal(first[0], first[1]) and not torch.allclose(first[2], first[3], atol=1e-2)


@pytest.mark.parametrize(
    "change, said",
    [
        ("--folder nowhere", "folder: nowhere is no folder"),
        ("--folder empty", "folder: empty holds no pictures"),
        ("--captions none.json", "captions: none.json is not there, nor in mine"),
        (
            "--captions mine/red.png",
            "captions: mine/red.png cannot be read (not UTF-8 text: save it as UTF-8)",
        ),
        ("--captions bad.json", "captions: bad.json is not JSON (Expecting"),
        ("--captions odd.json", "captions: odd.json must hold an object of names and captions"),
        ("--captions gone.json", "captions: gone.json names gone.png, which is not in mine"),
        ("--captions rows.json", "captions: each row must be an object with"),
        ("--minutes 0", "minutes: must be above 0"),
        ("--empty 2", "empty: must lie in [0, 1]"),
        ("--init mine/model.safetensors -o mine", "out: mine/model.safetensors is "),
        ("--init shapes-instruct", "model: the net of shapes-instruct takes"),
        ("--init shapes-glide", "model: shapes-glide learns variances, too"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(own, capsys, change, said):
    (own / "empty").mkdir()
    tiny_weights(own / "mine", "model")
    (own / "bad.json").write_text("{", encoding="utf-8")
    (own / "odd.json").write_text('{"red.png": 3}', encoding="utf-8")
    (own / "gone.json").write_text('{"gone.png": "a tile"}', encoding="utf-8")
    (own / "rows.json").write_text("[3]", encoding="utf-8")
    assert main([*RUN.split(), "--steps", "1", "-o", "out", *change.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"palimpsest: error: {said}") and not (own / "out").exists()
