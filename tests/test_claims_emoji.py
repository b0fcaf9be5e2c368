"""The scoreboard of the emoji world runs on models that know nothing, and counts as it says."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from palimpsest.claims import emoji as board
from palimpsest.claims import emoji_methods as ways
from palimpsest.claims.common import rounded
from palimpsest.claims.draw.make import make
from palimpsest.claims.emoji import floors, gallery, measure, row, scored, shares, table
from palimpsest.claims.emoji_methods import (
    COPY,
    METHODS,
    choose,
    drawn,
    held_out_pairs,
    open_emoji,
    pictures_of,
)
from palimpsest.claims.page import DOCS
from palimpsest.training.emoji import LENGTH, vocabulary
from palimpsest.worlds.emoji import KINDS, SHIPPED, is_held_out, open_world, render
from palimpsest.worlds.files import read_picture
from tests.tiny import tiny_clip, tiny_instruct, tiny_weights


@pytest.fixture(scope="module")
def world():
    return open_world()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, world):
    out, words = tmp_path_factory.mktemp("emoji-models"), vocabulary(world)
    tiny_weights(out, "emoji", 64, words, LENGTH)
    return out


@pytest.fixture(autouse=True)
def two_steps(monkeypatch):
    for module in (board, ways):
        monkeypatch.setattr(module, "STEPS", 2)
    monkeypatch.setattr(ways, "TRAINING", replace(ways.TRAINING, steps=1))
    monkeypatch.setattr(board, "FEW", {"Text2LIVE": 3})


FAST = {name: (way, settings[:2]) for name, (way, settings) in METHODS.items()}


def test_pairs_are_held_out_take_turns_and_repeat(world):
    found = held_out_pairs(world, 0)
    assert found == held_out_pairs(world, 0) != held_out_pairs(world, 1)
    assert all(is_held_out(p.after.emoji) for p in found)
    kinds = [k for k in KINDS if any(p.kind == k for p in found)]
    assert [p.kind for p in found[: len(kinds)]] == kinds and max(
        Counter(p.kind for p in found[: 3 * len(kinds)]).values()
    ) == 3


def test_the_changed_mask_is_where_the_true_edit_changes(world):
    some = held_out_pairs(world, 0)[:12]
    edits = drawn(world, some)
    same = (edits.before - edits.after).abs().amax(1, keepdim=True) <= 4 / 255
    assert torch.equal(edits.changed == 0, same) and torch.equal(
        edits.after, render(world, [p.after for p in some])
    )
    assert edits.changed.flatten(1).any(1).all()


def test_copying_gains_nothing_and_the_truth_gains_all(world, folder):
    models, edits = open_emoji(folder), drawn(world, held_out_pairs(world, 0)[:12])
    copied, true = (scored(models, pictures, edits) for pictures in (edits.before, edits.after))
    assert (copied["gain"] == 0).all() and row(copied, range(12))["beats"] == 0
    kept = ~copied["outside_db"].isnan()
    assert kept.any() and (copied["outside_db"][kept] == 60).all() and (true["outside_db"][kept] > 40).all()
    assert (true["db"] == 60).all() and row(true, range(12))["beats"] == 1
    assert row(true, [3])["gain"] == pytest.approx((true["db"] - copied["db"])[3].item())
    assert "clip" not in copied and "lpips" not in copied


@pytest.mark.slow
@pytest.mark.parametrize("whole", (False, True))
def test_the_scoreboard_is_measured_drawn_and_told(world, folder, tmp_path, whole):
    if whole:
        tiny_instruct(folder, "emoji-instruct", "emoji")
        tiny_clip(folder, "emoji-clip", vocabulary(world))
    models = open_emoji(folder)
    record, sheet = measure(models, world, n=10, seed=0, tune=4, methods=FAST)
    names = [name for name in METHODS if whole or name not in ("InstructPix2Pix", "Text2LIVE")]
    assert list(record["methods"])[:-1] == names and list(record["methods"])[-1] == COPY
    assert ("clip" in record["methods"][COPY]["all"]) == whole and (
        record["missing"] == ["lpips-alex"]
    ) == whole
    for name in names:
        of = record["methods"][name]
        assert all(of["settings"][kind] in METHODS[name][1][:2] for kind in of["kinds"])
        assert of["all"]["n"] == (3 if name == "Text2LIVE" else 10)
        assert ("clip" in of["all"]) == (whole and name != "Text2LIVE")  # what trains does not judge
        mean = sum(r["gain"] * r["n"] for r in of["kinds"].values()) / of["all"]["n"]
        assert of["all"]["gain"] == pytest.approx(mean, abs=1e-4) and 0 <= of["all"]["beats"] <= 1
    text = table(rounded(record))
    assert (
        all(f"| {name} |" in text for name in names if name != "Text2LIVE")
        and text.count("Floor: ") == 6
        and "**missed**" in text
    )
    assert ("| Text2LIVE, the first 3 pairs |" in text) == whole and record["gallery_of"] == names
    board.write_picture(sheet, tmp_path / "emoji_edits.png")
    assert (
        read_picture(tmp_path / "emoji_edits.png").shape == (1, 3, 3 * 64, 12 * 64)
        and len(record["gallery"]) == 10
    )
    (tmp_path / "emoji.json").write_text(json.dumps(rounded(record)), encoding="utf-8")
    make(["emoji_gallery.png"], tmp_path, tmp_path)
    assert (tmp_path / "emoji_gallery.png").stat().st_size > 30_000


def test_a_setting_is_chosen_for_each_kind_by_its_nearness_to_the_truth(world, folder):
    edits = drawn(world, held_out_pairs(world, 0)[:8])
    tones = set(edits.rows("tone"))

    def way(models, asked, setting):
        """Right on skin tones with one setting, on the rest with the other."""
        found = []
        for k, x in enumerate(asked.x):
            i = next(
                i
                for i, b in enumerate(edits.before)
                if torch.equal(b, x) and edits.asked[i] == asked.instruction[k]
            )
            found.append(edits.after[i] if (i in tones) == (setting["s"] == 1) else x)
        return torch.stack(found)

    best = choose(open_emoji(folder), way, [dict(s=1.0), dict(s=2.0)], edits, 0)
    assert {kind for kind in KINDS if best[kind] == dict(s=1.0)} == {"tone"}


def test_what_a_method_made_is_read_again_unless_anything_changed(world, folder, tmp_path, monkeypatch):
    models, (edits, others), asked = open_emoji(folder), shares(world, 6, 0, 2), []

    def way(models, a, setting):
        asked.append(setting["s"])
        return a.x * setting["s"]

    settings = [dict(s=1.0), dict(s=0.5)]
    first = pictures_of(models, "a way", way, settings, edits, others, 0, tmp_path)
    many = len(asked)
    again = pictures_of(models, "a way", way, settings, edits, others, 0, tmp_path)
    assert len(asked) == many == 3 and torch.equal(first.pictures, again.pictures) and again[1:] == first[1:]
    assert (first.pictures - edits.before).abs().max() <= 1 / 255 and first.settings["tone"] == dict(s=1.0)
    levels = 127.5 * (first.pictures + 1)
    assert (levels - levels.round()).abs().max() < 1e-4  # what a picture file would hold
    for changed in (dict(seed=1), dict(settings=settings[:1]), dict(edits=others), dict(others=edits)):
        at = dict(settings=settings, edits=edits, others=others, seed=0) | changed
        many = len(asked)
        pictures_of(models, "a way", way, at["settings"], at["edits"], at["others"], at["seed"], tmp_path)
        assert len(asked) > many
    other = models._replace(files=models.files | {"emoji.safetensors": "another"})
    many = len(asked)
    pictures_of(other, "a way", way, settings, edits, others, 0, tmp_path)
    assert len(asked) > many
    judged = other._replace(
        files=other.files
        | {"emoji-clip.safetensors": "a judge", "emoji-instruct.safetensors": "not asked here"}
    )
    many = len(asked)
    pictures_of(judged, "a way", way, settings, edits, others, 0, tmp_path)
    assert len(asked) == many  # neither has a part in these pictures
    monkeypatch.setattr(ways, "by_instruction", way)
    pictures_of(judged, "a way", way, settings, edits, others, 0, tmp_path)
    assert len(asked) > many
    (tmp_path / "a-way.safetensors").write_bytes(b"torn")
    pictures_of(models, "a way", way, settings, edits, others, 0, tmp_path)
    assert pictures_of(models, "a way", way, settings, edits, others, 0, tmp_path).settings == first.settings


def test_processes_share_the_methods_and_the_record_takes_what_they_left(
    folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        board, "METHODS", {"SDEdit": FAST["SDEdit"], "InstructPix2Pix": FAST["InstructPix2Pix"]}
    )
    line = ["--models", str(folder), "--data", str(SHIPPED), "--n", "4", "--state", str(tmp_path)]
    assert board.main([*line, "--only", "SDEdit"]) == 0
    assert (tmp_path / "sdedit.safetensors").exists() and "SDEdit: " in capsys.readouterr().out
    monkeypatch.setattr(ways, "choose", None)  # nothing is made twice
    assert board.main([*line, "--only", "SDEdit"]) == 0
    with pytest.raises(ValueError, match="'DiffEdit' is no method; they are SDEdit, InstructPix2Pix"):
        board.main([*line, "--only", "DiffEdit"])
    untrained = open_emoji(folder)._replace(instruct=None, clip=None)
    monkeypatch.setattr(board, "open_emoji", lambda *_: untrained)
    with pytest.raises(ValueError, match="InstructPix2Pix needs a model that is not trained"):
        board.main([*line, "--only", "InstructPix2Pix"])
    assert list(board.there(untrained, METHODS)) == list(METHODS)[:-2]


def test_methods_are_joined_to_a_record_of_the_same_pairs_and_to_no_other(world, folder, monkeypatch):
    models = open_emoji(folder)
    both = {name: FAST[name] for name in ("SDEdit", "FlowEdit")}
    monkeypatch.setattr(board, "METHODS", both)
    whole, _ = measure(models, world, n=6, seed=0, tune=2, methods=both)
    one, _ = measure(models, world, n=6, seed=0, tune=2, methods={"SDEdit": both["SDEdit"]})
    head = dict(files=models.files, tuned_on=2)
    known = rounded(head | one)
    more = board.joined(known, models, world, ["FlowEdit"])
    assert list(more["methods"]) == list(whole["methods"]) == ["SDEdit", "FlowEdit", COPY]
    assert more["gallery_of"] == ["SDEdit"] and more["gallery"] == known["gallery"]
    for name in both:
        found, wanted = (rounded(r["methods"][name] | dict(seconds=0)) for r in (more, whole))
        assert found == wanted
    for other in (dict(seed=1), dict(n=4), dict(files={}), dict(steps=3)):
        with pytest.raises(ValueError, match="add: the record is of other models, pairs or steps"):
            board.joined(known | other, models, world, ["FlowEdit"])


def test_text2live_is_told_of_the_emoji_alone_unless_only_its_ground_changes():
    heart = "red heart in noto style on a blue background"
    assert (
        ways.layer_of(heart, heart.replace("red", "pink")) == "pink heart in noto style on a green background"
    )
    assert ways.layer_of(heart, heart.replace("blue", "yellow")) == heart.replace("blue", "yellow")


def test_a_method_that_made_fewer_pictures_gains_nothing_on_the_others(world):
    edits = drawn(world, held_out_pairs(world, 0)[:3])
    gain = board.gain_of(edits.after[:2], edits)
    assert (gain[:2] > 0).all() and gain[2] == -torch.inf


def test_the_gallery_is_chosen_by_score_and_no_kind_fills_it():
    n = 60
    gains = {"a": torch.linspace(5, -5, n), "b": torch.full((n,), -3.0)}
    kinds = ["tone" if i < 30 else "clock" for i in range(n)]
    top, low = gallery(gains, kinds)
    assert len(top) == 24 and len(low) == 12 and not {s.pair for s in top} & {s.pair for s in low}
    assert Counter(kinds[s.pair] for s in top) == dict(tone=12, clock=12)
    assert [s.pair for s in top] == [*range(12), *range(30, 42)]
    assert all(
        s.method == ("a" if gains["a"][s.pair] >= -3 else "b") and s.gain == max(gains["a"][s.pair], -3.0)
        for s in (*top, *low)
    )
    assert [s.gain for s in low] == sorted((s.gain for s in low), reverse=True) and low[-1].gain == -3


def test_names_are_told_in_the_shorter_way():
    every = ["a", "b", "c"]
    assert [board.told(some, every) for some in ([], ["a"], ["a", "c"], every)] == [
        "none",
        "a",
        "all but b",
        "all",
    ]


def test_the_scoreboard_of_the_page_is_the_records():
    record = board.RECORDS / "emoji.json"
    text = (DOCS / "emoji.md").read_text(encoding="utf-8")
    assert f"<!-- emoji -->\n{table(json.loads(record.read_text(encoding='utf-8')))}\n<!-- /emoji -->" in text


def test_what_the_page_says_of_methods_is_in_the_record():
    record = json.loads((board.RECORDS / "emoji.json").read_text(encoding="utf-8"))
    rows = {name: row for name, row in record["methods"].items() if name != COPY}
    assert list(rows) == list(METHODS)
    text = " ".join((DOCS / "emoji.md").read_text(encoding="utf-8").split())
    assert "(of all but FlowEdit and Text2LIVE)" in text
    assert set(rows) - set(record["gallery_of"]) == {"FlowEdit", "Text2LIVE"}
    assert {edit["method"] for edit in record["gallery"]} <= set(record["gallery_of"])
    best = sorted(rows, key=lambda name: -rows[name]["all"]["gain"])
    assert (
        "edit-friendly Prompt-to-Prompt gains most, and FlowEdit, which needs no inversion, is second" in text
    )
    assert best[:3] == ["InstructPix2Pix", "Prompt-to-Prompt on edit-friendly", "FlowEdit"]
    assert "on the first 20 pairs alone, two of each kind" in text
    assert {row["n"] for row in rows["Text2LIVE"]["kinds"].values()} == {2} and len(board.FEW) == 1
    assert "clip" not in rows["Text2LIVE"]["all"]


def test_what_is_reached_is_counted_whatever_ground_it_stands_on():
    said = [
        f"{name} in noto style on {ground} background"
        for name in ("red heart", "blue heart")
        for ground in ("a red", "an orange")
    ]
    edits = SimpleNamespace(
        target=[*said, "one o'clock in noto style on a blue background"],
        rows=lambda kind: dict(colour=[0, 1, 2, 3], clock=[4]).get(kind, []),
    )
    assert board.targets(edits) == dict(all=3, colour=2, clock=1)


def test_floors_are_what_the_record_says():
    def of(gain, beats):
        return dict(
            all=dict(db=20.0, gain=gain, beats=beats),
            kinds={k: dict(n=3, db=20.0, gain=gain, beats=beats) for k in ("colour", "tone", "background")},
        )

    record = dict(
        methods={"a": of(5.5, 0.6), "b": of(1.0, 0.51), COPY: of(0.0, 0.0)},
        limit=of(9.0, 1.0) | dict(all=dict(db=29.6)),
        back=dict(n=3, autoencoder_db=30.0, null_text_db=29.1),
    )
    assert [reached for _, reached in floors(record)] == [True] * 6
    record["methods"]["b"], record["back"]["null_text_db"] = of(1.0, 0.5), 28.9
    record["methods"]["a"]["kinds"]["tone"]["gain"] = 4.9
    assert [reached for _, reached in floors(record)] == [True, False, False, False, False, False]
    record["limit"]["all"]["db"] = 29.4
    assert not floors(record)[0][1]


def test_the_command_writes_beside_the_candidates(folder, capsys, monkeypatch):
    monkeypatch.setattr(board, "METHODS", {"SDEdit": FAST["SDEdit"]})
    assert (
        board.main(
            ["--models", str(folder), "--data", str(SHIPPED), "--n", "4", "--state", str(folder / "board")]
        )
        == 0
    )
    assert "| SDEdit |" in capsys.readouterr().out
    make(["emoji_gallery.png"], folder / "claims", folder / "claims")  # as the docstring says
    assert {"emoji.json", "emoji_edits.png", "emoji_gallery.png"} <= {
        p.name for p in (folder / "claims").iterdir()
    }
    assert json.loads((folder / "claims" / "emoji.json").read_text(encoding="utf-8"))["n"] == 4
    with pytest.raises(ValueError, match="n: must be at least 1"):
        board.main(["--n", "0"])
