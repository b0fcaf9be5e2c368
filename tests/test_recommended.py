"""Settings that are left to the model: None in a signature is what its file recommends, else the usual value."""

import inspect
import json
from dataclasses import replace
from typing import Annotated

import pytest
import torch

from palimpsest.arguments import ArgumentError, Else, Scale, Share, else_of, hints, settled
from palimpsest.claims import page, recommend
from palimpsest.cli.main import main
from palimpsest.methods.diffedit import MaskRule, diffedit
from palimpsest.methods.flow_edit import flow_edit
from palimpsest.methods.instruct_pix2pix import instruct_pix2pix
from palimpsest.methods.null_text import null_text
from palimpsest.methods.prompt_to_prompt import prompt_to_prompt
from palimpsest.methods.sampling import generate
from palimpsest.methods.sdedit import sdedit
from palimpsest.weights.files import WeightsError, config_in, manifest, read_weights, write_tensor_file
from palimpsest.weights.load import load, save_like
from palimpsest.worlds.files import write_picture
from palimpsest.worlds.notes import read_note
from tests.tiny import tiny_weights

CONTRACTS = {c.__name__: c for task in recommend.TASKS.values() for c in task.contracts}
PICTURE = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
STAR, RING = "a red star", "a red ring"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(tiny_weights(tmp_path_factory.mktemp("tiny")), "cpu", torch.float32)


def a_function(
    given: int, share: Annotated[Share | None, Else(0.5)] = None, w: Annotated[Scale | None, Else(3.0)] = None
):
    return given, share, w


# ---- the rule ----


def test_none_is_what_is_recommended_or_else_the_usual_value():
    advice = {"a_function": {"w": 7.0}, "another": {"share": 0.1}}
    assert settled(a_function, advice, dict(share=None, w=None)) == dict(share=0.5, w=7.0)
    assert settled(a_function, {}, dict(given=1, share=0.9, w=2.0)) == dict(given=1, share=0.9, w=2.0)
    assert settled(a_function, advice, dict(w=0.0)) == dict(w=0.0), "zero was given"


def test_what_cannot_be_is_not_recommended():
    with pytest.raises(
        ArgumentError, match=r"^share: the model's recommendation must lie in \(0, 1\], got 7"
    ):
        settled(a_function, {"a_function": {"share": 7}}, dict(share=None))


def test_every_shipped_recommendation_fits_its_function():
    found = {file: record["recommended"] for file, record in manifest().items() if "recommended" in record}
    for advice in found.values():
        for name, values in advice.items():
            contract = CONTRACTS[name]
            assert {*values} <= {p for p, a in hints(contract).items() if else_of(a)}
            settled(contract, advice, dict.fromkeys(values))
    for file, advice in found.items():
        assert load(file.removesuffix(".safetensors"), "meta", torch.float32).recommended == advice


# ---- each method ----

WAYS = {
    "generate": (lambda m, **s: generate(m, [STAR], **s).picture, {"generate": dict(steps=2, w=6.0)}),
    "prompt_to_prompt": (
        lambda m, **s: prompt_to_prompt(m, STAR, RING, steps=2, **s).picture,
        {"generate": dict(w=6.0)},
    ),
    "sdedit": (
        lambda m, **s: sdedit(m, PICTURE, STAR, **s).picture,
        {"sdedit": dict(t0=0.9, steps=3, w=6.0)},
    ),
    "flow_edit": (
        lambda m, **s: flow_edit(m, PICTURE, RING, STAR, steps=4, **s).picture,
        {"flow_edit": dict(start=0.6, w_source=2.0, w_target=6.0)},
    ),
    "null_text": (
        lambda m, **s: null_text(m, PICTURE, STAR, steps=2, inner=3, **s).nulls,
        {"null_text": dict(lr=0.1, stop=0.0, solver="adam-skip", start="prompt")},
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_method_takes_what_the_model_recommends(model, name):
    way, advice = WAYS[name]
    values = {k: v for of in advice.values() for k, v in of.items()}
    advised = replace(model, recommended=advice)
    assert torch.equal(way(advised), way(model, **values)), "left out, it is what the model recommends"
    assert not torch.equal(way(advised), way(model)), "which is not the usual one"
    for k, v in values.items():  # each of them counts
        rest = {other: value for other, value in values.items() if other != k}
        assert torch.equal(way(advised, **{k: v}), way(advised))
        assert torch.equal(way(replace(model, recommended={n: {k: v} for n in advice}), **rest), way(advised))


def test_recommended_steps_are_not_for_the_ve_walk(model, tmp_path, capsys):
    advised = replace(model, recommended={"sdedit": dict(steps=2)})
    assert len(sdedit(advised, PICTURE, STAR, w=1.0, walk="vp").path) == 3
    assert len(sdedit(advised, PICTURE, STAR, w=1.0, walk="ve").path) == 51
    file = advised_file(tmp_path, {"sdedit": dict(steps=2, w=1.0)})
    write_picture(PICTURE, tmp_path / "in.png")
    words = ["sdedit", str(tmp_path / "in.png"), "--model", str(file), "-o", str(tmp_path / "o.png")]
    for walk, steps in (("vp", 2), ("ve", 50)):
        assert main([*words, "--walk", walk, "--prompt", STAR]) == 0
        assert f"--steps {steps}" in json.loads(read_note(tmp_path / "o.png"))["command"]
        said = capsys.readouterr().out
        assert "by default" in said and f"steps {steps}" in said


def test_diffedit_takes_the_mask_rule_of_the_model_too(model):
    advice = {"diffedit": dict(ratio=0.5, steps=4, w=6.0), "MaskRule": dict(threshold=0.2, grow=1)}
    how = dict(steps=4, seed=1)
    edit = diffedit(replace(model, recommended=advice), PICTURE, RING, STAR, seed=1)
    rule = MaskRule(threshold=0.2, grow=1)
    same = diffedit(model, PICTURE, RING, STAR, ratio=0.5, w=6.0, rule=rule, **how)
    assert torch.equal(edit.picture, same.picture) and torch.equal(edit.cells, same.cells)
    usual = diffedit(model, PICTURE, RING, STAR, ratio=0.5, w=6.0, **how)
    assert torch.equal(
        usual.cells,
        diffedit(
            model, PICTURE, RING, STAR, ratio=0.5, w=6.0, rule=MaskRule(threshold=0.5, grow=0), **how
        ).cells,
    )
    assert not torch.equal(edit.cells, usual.cells)


def test_the_usual_values_are_the_papers_or_ours():
    usual = {
        name: {p: one.value for p, a in hints(contract).items() if (one := else_of(a))}
        for name, contract in CONTRACTS.items()
    }
    assert usual == {
        "generate": dict(steps=25, w=3.0),
        "sdedit": dict(t0=0.5, steps=50, w=3.0),
        "diffedit": dict(ratio=0.8, steps=50, w=3.0),
        "MaskRule": dict(threshold=0.5, grow=0),
        "flow_edit": dict(start=0.85, w_source=1.0, w_target=3.0),
        "instruct_pix2pix": dict(s_text=7.5, s_image=1.5, steps=50),
        "null_text": dict(lr=1e-2, stop=1e-5, solver="adam", start="empty"),
    }
    assert inspect.signature(instruct_pix2pix).parameters["s_text"].default is None


# ---- files and commands ----


def advised_file(folder, advice):
    """The tiny model with this recommendation in its header."""
    path = tiny_weights(folder)
    config, tensors = read_weights(path)
    return write_tensor_file(path, tensors, {"palimpsest": json.dumps(config | dict(recommended=advice))})


def test_a_file_carries_its_recommendation_and_what_is_made_of_it_too(tmp_path):
    advice = {"sdedit": {"t0": 0.9}, "generate": {"w": 2.0}}
    path = advised_file(tmp_path, advice)
    found = load(path, "cpu", torch.float32)
    assert found.recommended == advice
    (tmp_path / "more").mkdir()
    save_like(found, path, tmp_path / "more" / "own.safetensors")
    assert config_in(tmp_path / "more" / "own.safetensors")["recommended"] == advice


@pytest.mark.parametrize("advice", [[1, 2], {"sdedit": 3}, "w"])
def test_a_header_that_recommends_nonsense_is_refused_in_one_line(tmp_path, advice):
    with pytest.raises(WeightsError, match="cannot build") as refused:
        load(advised_file(tmp_path, advice), "cpu")
    assert "\n" not in str(refused.value)


def test_a_command_says_what_the_model_chose_and_its_record_holds_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = advised_file(tmp_path, {"sdedit": {"t0": 0.9}})
    write_picture(PICTURE, "in.png")
    words = ["sdedit", "in.png", "--prompt", STAR, "--steps", "2", "--model", str(path)]
    assert main([*words, "-o", "out.png"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("s (by default t0 0.9, w 3)")
    record = json.loads(read_note("out.png"))
    assert "--t0 0.9" in record["command"] and "--w 3.0" in record["command"]
    assert main([*words, "--t0", "0.9", "--w", "3", "-o", "same.png"]) == 0
    assert "by default" not in capsys.readouterr().out
    assert (tmp_path / "same.png").read_bytes() == (tmp_path / "out.png").read_bytes()
    assert main([*words, "--t0", "0.3", "-o", "other.png"]) == 0
    assert "(by default w 3)" in capsys.readouterr().out
    assert (tmp_path / "other.png").read_bytes() != (tmp_path / "out.png").read_bytes()


def test_an_estimate_counts_what_the_model_chooses(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = advised_file(tmp_path, {"generate": {"w": 1.0}})
    words = ["generate", "--prompt", STAR, "--steps", "2", "--model", str(path), "--estimate"]
    assert main(words) == 0
    alone = capsys.readouterr().out
    assert main([*words, "--w", "1"]) == 0 and capsys.readouterr().out == alone
    assert main([*words, "--w", "3"]) == 0 and capsys.readouterr().out != alone


def test_a_recommendation_that_cannot_be_costs_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = advised_file(tmp_path, {"sdedit": {"t0": 9}})
    write_picture(PICTURE, "in.png")
    assert main(["sdedit", "in.png", "--prompt", STAR, "--model", str(path), "-o", "out.png"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "t0: the model's recommendation must lie in (0, 1], got 9" in said
    assert not (tmp_path / "out.png").exists()


# ---- how it is chosen ----


def scores(success, nearness):
    return recommend.Score(*(torch.tensor(v, dtype=torch.float64) for v in (success, nearness)))


def test_success_counts_first_and_nearness_where_success_is_level():
    half, far, near = [1.0, 0.0] * 32, [20.0] * 64, [21.0] * 64
    all_, most = scores([1.0] * 64, far), scores([1.0] * 63 + [0.0], near)
    assert recommend.best_of([("all", all_), ("half", scores(half, near))]) == "all"
    assert recommend.best_of([("all", all_), ("most", most)]) == "most", "one picture of 64 is its error"
    assert recommend.best_of([("most", scores([1.0] * 63 + [0.0], far)), ("all", all_)]) == "most"
    steady = scores([2.0, 9.0] * 32, far), scores([1.0, 8.0] * 32, near)
    assert recommend.best_of([("better", steady[0]), ("worse", steady[1])]) == "better", "on every picture"


def test_the_search_finds_the_best_of_each_parameter():
    task = recommend.Task((sdedit,), dict(t0=(0.4, 0.6, 0.8), w=(2.0, 3.0, 5.0)), None)
    asked = []

    def score(setting):
        asked.append(setting)
        return scores([1.0] * 8, [-((setting["t0"] - 0.8) ** 2) - (setting["w"] - 5) ** 2] * 8)

    assert recommend.chosen(task, score) == dict(t0=0.8, w=5.0)
    assert recommend.usual(task) == dict(t0=0.5, w=3.0) in asked
    assert recommend.by_contract(recommend.TASKS["diffedit"], dict(ratio=0.7, grow=1)) == {
        "diffedit": dict(ratio=0.7),
        "MaskRule": dict(grow=1),
    }


def test_the_table_of_the_page_is_the_records():
    text = (page.DOCS / "models.md").read_text(encoding="utf-8")
    table = recommend.table(page.read_record("recommended")["methods"])
    assert page.between(text, "recommended", table) == text and table.count("\n") > 6
    for name, record in page.read_record("recommended")["methods"].items():
        kept = manifest()[f"{record['model']}.safetensors"]["recommended"]
        assert record["recommended"].items() <= kept.items(), name


def test_the_fewest_steps_that_lose_neither_success_nor_nearness():
    many, near = [1.0] * 60 + [0.0] * 4, [20.0] * 64
    most = (50, scores(many, near))
    assert recommend.fewest([(10, scores([0.0] * 9 + [1.0] * 51 + [0.0] * 4, near)), most]) == 50
    assert recommend.fewest([(10, scores(many, [18.0, 19.0] * 32)), most]) == 50, "as many right, but farther"
    blurred = [19.9, 20.11] * 32
    assert recommend.fewest([(10, scores(many, [15.0] * 64)), (20, scores(many, blurred)), most]) == 20
    assert recommend.fewest([most]) == 50
