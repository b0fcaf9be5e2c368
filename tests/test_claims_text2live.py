"""Text2LIVE's measurement runs on models that know nothing, and its judges follow their rules."""

from __future__ import annotations

import json

import pytest
import torch

from palimpsest.claims import text2live as claims_layer
from palimpsest.claims.common import draw_edits, rounded
from palimpsest.claims.page import FAILS, HOLDS, PARTLY
from palimpsest.claims.text2live import at_its_success, judge_keeps, judge_kinds, measure, open_layer
from palimpsest.methods.text2live import Training, Views
from tests.tiny import tiny_clip, tiny_instruct, tiny_reader, tiny_weights


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    out = tmp_path_factory.mktemp("layer-models")
    tiny_weights(out, "shapes", size=64)
    tiny_clip(out)
    tiny_reader(out)
    tiny_instruct(out, "shapes-instruct", beside="shapes")
    return open_layer(out)


def test_a_measurement_runs_and_both_judges_read_its_record(models, monkeypatch):
    monkeypatch.setattr("palimpsest.claims.ways.STEPS", 2)
    monkeypatch.setattr(claims_layer, "TRAINING", Training(steps=1))
    monkeypatch.setattr(claims_layer, "VIEWS", Views(n=1))
    record = json.loads(json.dumps(rounded(measure(models, n=10, seed=0))))
    assert set(record["tables"]) == {"Text2LIVE", "SDEdit", "InstructPix2Pix"}
    assert record["tables"]["Text2LIVE"]["retexture"]["n"] == 2 == record["retexture"]["n"]
    for judge in (judge_kinds, judge_keeps):
        assert judge(record).verdict in (HOLDS, PARTLY, FAILS)


def test_sdedit_is_compared_at_the_first_t0_that_reaches_the_success():
    drawn = draw_edits(4, ("retexture",), 3, things=1)

    def found(right, db):
        return dict(right=torch.tensor(right).double(), outside_db=torch.tensor([float(db)] * 4).double())

    layers, curve = (
        found([1, 1, 0, 0], 30),
        [found([1, 0, 0, 0], 28), found([1, 1, 1, 0], 25), found([1] * 4, 20)],
    )
    got = at_its_success(layers, curve, drawn)
    assert got["difference"][0] == 5 and got["success"][0] == 0.5 and got["success_of_sdedit"][0] == 0.75
    assert (
        at_its_success(found([1] * 4, 30), curve[:2], drawn)["outside_db_of_sdedit"][0] == 25
    )  # never as far


@pytest.mark.parametrize(
    "gap, behind, verdict",
    [
        ([0.4, 0.2, 0.6], {"SDEdit": [-0.4, -0.6, -0.2], "InstructPix2Pix": [-0.4, -0.6, -0.2]}, HOLDS),
        ([0.4, 0.2, 0.6], {"SDEdit": [-0.4, -0.6, -0.2], "InstructPix2Pix": [-0.1, -0.3, 0.1]}, PARTLY),
        ([0.1, -0.1, 0.3], {"SDEdit": [-0.4, -0.6, -0.2], "InstructPix2Pix": [-0.4, -0.6, -0.2]}, FAILS),
    ],
)
def test_the_kinds_are_apart_where_the_intervals_say_so(gap, behind, verdict):
    kinds = dict(painted=[0.8, 0.7, 0.9], shaped=[0.4, 0.3, 0.5], gap=gap, behind=behind)
    assert judge_kinds(dict(kinds=kinds, seconds_each=10.0)).verdict == verdict


@pytest.mark.parametrize(
    "difference, verdict", [([2, 1, 3], HOLDS), ([2, -1, 3], PARTLY), ([-1, -2, 1], FAILS)]
)
def test_a_layer_keeps_more_where_the_interval_says_so(difference, verdict):
    spans = ("success", "success_of_sdedit", "outside_db", "outside_db_of_sdedit")
    found = dict.fromkeys(spans, [0.5, 0.4, 0.6]) | dict(n=8, difference=difference)
    assert judge_keeps(dict(retexture=found)).verdict == verdict
