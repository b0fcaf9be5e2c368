"""--lora and --embedding on the command line: on every command that takes a model, and in the estimate."""

import pytest
import torch
from random_weights import normal
from safetensors.torch import save_file

from palimpsest.cli.commands import COMMANDS
from palimpsest.cli.main import command_line, main
from palimpsest.cli.manners import Parser
from palimpsest.methods.sampling import generate
from palimpsest.weights.changes import merged_model
from palimpsest.weights.load import load
from palimpsest.worlds.files import read_picture, write_picture
from tests.golden import options_of
from tests.tiny import tiny_weights

Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q"


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A folder with a model, a LoRA, a word and a picture."""
    monkeypatch.chdir(tmp_path)
    tiny_weights(tmp_path)
    save_file(
        {f"{Q}.lora_down.weight": 3 * normal(2, 8), f"{Q}.lora_up.weight": 3 * normal(8, 2)},
        "style.safetensors",
    )
    torch.save({"string_to_param": {"*": 3 * normal(2, 16)}, "name": "<mine>"}, "word.pt")
    write_picture(normal(1, 3, 32, 32).clamp(-1, 1), "in.png")
    return tmp_path


def test_every_command_that_takes_a_model_takes_both():
    options = {name for name, _ in options_of(command_line(Parser))}
    taking = {name.removesuffix(" --model") for name in options if name.endswith(" --model")}
    assert {name.split()[0] for name in taking} >= set(COMMANDS) - {
        "models",
        "weights",
        "words",
        "train",
        "again",
        "text2live",  # it takes a CLIP, --clip
        "sweep",  # it hands both on to the method that it repeats
    }
    taking.remove("studio")  # its page chooses a model; what changes one is left to the commands
    assert all({f"{name} --lora", f"{name} --embedding"} <= options for name in taking)


def picture(name):
    return read_picture(name, 32, 4)


def test_a_command_paints_what_the_changed_model_paints_and_tells_the_word(room, capsys):
    usual = "generate --model tiny.safetensors --device cpu --steps 2 --prompt".split()
    assert main([*usual, "a red star", "-o", "plain.png"]) == 0
    assert main([*usual, "a red star", "--lora", "style.safetensors", "-o", "one.png"]) == 0
    assert main([*usual, "a red star", "--lora", "style.safetensors:0", "-o", "none.png"]) == 0
    assert "taught" not in "".join(capsys.readouterr())
    twice = ["--lora", "style.safetensors:0.25", "--lora", "style.safetensors:0.75"]
    assert main([*usual, "a red star", *twice, "-o", "twice.png"]) == 0
    assert torch.equal(picture("none.png"), picture("plain.png"))
    assert not torch.equal(picture("one.png"), picture("plain.png"))
    assert (picture("twice.png") - picture("one.png")).abs().max() <= 2 / 255  # rounding

    assert main([*usual, "a <mine> star", "--embedding", "word.pt", "-o", "word.png"]) == 0
    assert 'taught words, to be said in a prompt: "<mine>" (2 tokens)' in capsys.readouterr().err
    model = load("tiny.safetensors", "cpu", embedding="word.pt")
    made = (generate(model, "a <mine> star", steps=2, w=3.0).picture + 1) * 127.5
    assert (made - (picture("word.png") + 1) * 127.5).abs().max() <= 0.51
    named = ["--embedding", "word.pt=sunset", "--lora", "style.safetensors:-1"]
    assert main([*usual, "a Sunset star, red", *named, "-o", "both.png"]) == 0
    assert '"sunset" (2 tokens)' in capsys.readouterr().err


def test_the_list_of_words_shows_taught_ones(room, capsys):
    assert main("words --model tiny.safetensors --embedding word.pt".split()) == 0
    assert "taught      <mine>" in capsys.readouterr().out


def test_an_estimate_knows_the_words_too(room, capsys):
    usual = "--model tiny.safetensors --device cpu --estimate --prompt".split()
    given = ["--embedding", "word.pt", "--lora", "style.safetensors"]
    assert main(["sdedit", "in.png", *usual, "a <mine> star", *given]) == 0
    assert "nothing was computed" in capsys.readouterr().out.replace("\n", " ")
    assert main(["sdedit", "in.png", *usual, "a zwxq star", *given]) == 2


@pytest.mark.parametrize(
    "given, said",
    [
        ("--lora none.safetensors", "lora: none.safetensors cannot be read"),
        ("--lora style.safetensors:much", "lora: 'much' is no finite number; write FILE:SCALE"),
        ("--lora word.pt", "lora: word.pt holds no low-rank changes"),
        ("--lora in.png", "lora: in.png is not a whole safetensors file"),
        ("--lora tiny.safetensors", "lora: tiny.safetensors holds no low-rank changes"),
        ("--embedding style.safetensors", "embedding: style.safetensors holds no textual-inversion"),
        ("--embedding word.pt --embedding word.pt", "embedding: word.pt teaches '<mine>' once more"),
        ("--embedding word.pt=", "embedding: word.pt= ends without a word"),
        ("--model style.safetensors", "model: style.safetensors holds low-rank changes (LoRA), no model"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(given, said, room, capsys):
    before = sorted(room.iterdir())
    usual = "generate --model tiny.safetensors --device cpu --steps 2 -o out.png --prompt star".split()
    assert main([*usual, *given.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"palimpsest: error: {said}") and sorted(room.iterdir()) == before


@pytest.mark.parametrize("how", ["", "--rank 2", "--word"])
def test_training_on_top_of_a_lora_and_a_word_keeps_them(room, how):
    usual = "dreambooth in.png --class-noun star --model tiny.safetensors --device cpu --steps 1 -n 1 --shown-steps 1"
    usual += " --prior-weight 0 --lora style.safetensors --embedding word.pt --lr 1e-12"
    assert main(f"{usual} {how} -o out".split()) == 0
    assert (room / "out" / "base.safetensors").exists() == bool(how)  # what a small file changes
    (room / "out").rename(room / "elsewhere")
    wanted = load("tiny.safetensors", "cpu", lora="style.safetensors", embedding="word.pt")
    found = merged_model(load("elsewhere/model.safetensors", "cpu"))
    torch.testing.assert_close(found.net.state_dict(), wanted.net.state_dict(), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.embed("a <mine> star"), wanted.embed("a <mine> star"))
