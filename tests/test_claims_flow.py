"""The measurements of FlowEdit and Text2LIVE: they run on models that know nothing, and judge as their rules
say.
"""

from __future__ import annotations

import json

import pytest
import torch

from palimpsest.claims import flow_edit as claims_flow
from palimpsest.claims.common import draw_edits, open_models, rounded
from palimpsest.claims.flow_edit import at_equal_success, judge_inversion, judge_mask, kept, measure
from palimpsest.claims.page import FAILS, HOLDS, PARTLY
from palimpsest.claims.ways import WAYS, chosen, interval, made
from tests.tiny import tiny_clip, tiny_reader, tiny_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("flow-models")
    tiny_weights(out, "shapes", size=64)
    tiny_clip(out)
    tiny_reader(out)
    return out


@pytest.fixture(scope="module")
def models(folder):
    return open_models(folder)


@pytest.fixture(autouse=True)
def two_steps(monkeypatch):
    monkeypatch.setattr("palimpsest.claims.ways.STEPS", 2)


# ---- ways ----


def test_flow_edit_and_inversion_take_as_many_evaluations(models):
    drawn = draw_edits(3, ("recolour",), 5, things=1)
    for start in (0.5, 0.9):
        both = [
            made(models.model, WAYS[n][0], dict(start=start, w=3.0), drawn, range(3), 0)
            for n in WAYS
            if n in claims_flow.BOTH
        ]
        assert len(both) == 2 and both[0].evaluations == both[1].evaluations > 0


def test_a_setting_is_chosen_for_each_kind_by_the_distance_to_the_truth():
    drawn = draw_edits(4, ("recolour", "background"), 5, things=1)
    near = {"recolour": 0.0, "background": 1.0}  # of each kind the setting that makes the truth

    def way(model, a, s):
        rows = [drawn.source.index(text) for text in a.source]
        truth = torch.stack([float(near[drawn.kinds[i]] == s["at"]) * drawn.after[i] for i in rows])
        return truth

    class Model:
        device, listeners = "cpu", []

    found = chosen(Model(), way, [dict(at=0.0), dict(at=1.0)], drawn, 0)
    assert {kind: setting["at"] for kind, setting in found.items()} == near


def test_an_interval_holds_the_mean_and_narrows_with_the_number():
    numbers = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, low, high = interval(numbers)
    assert low < mean < high and mean == pytest.approx(numbers.mean().item())
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)  # of the normal distribution
    assert interval(torch.tensor([1.0, torch.nan, 3.0]))[0] == 2


def test_two_curves_are_compared_where_they_reach_the_same_success():
    right = torch.tensor([[[0, 0, 1, 1], [1, 1, 1, 1]], [[0, 0, 0, 0], [1, 1, 0, 0]]]).double()
    db = torch.tensor([[30.0, 20.0], [28.0, 24.0]]).double()[..., None].expand(2, 2, 4)
    success, first, second = kept(right, db)  # 90 % of .5: the first is there at once, the second at 9/10
    assert (success, first) == (0.45, 30.0) and second == pytest.approx(28 - 0.9 * 4)
    rows = [
        [dict(each=dict(right=r.tolist(), outside_db=d.tolist())) for r, d in zip(*way)]
        for way in zip(right, db)
    ]
    found = at_equal_success({"FlowEdit": rows[0], "DDIM inversion": rows[1]})
    assert found["difference"][0] == pytest.approx(30 - 24.4)
    assert found["difference"][1] <= found["difference"][0] <= found["difference"][2]


# ---- records and verdicts ----


def test_a_measurement_runs_and_both_judges_read_its_record(models):
    record = json.loads(json.dumps(rounded(measure(models, n=4, seed=0, starts=(0.5, 0.9)))))
    assert [len(rows) for rows in record["curves"].values()] == [2, 2]
    assert set(record["gain"]) == {"all", *claims_flow.KINDS}
    for judge in (judge_inversion, judge_mask):
        assert judge(record).verdict in (HOLDS, PARTLY, FAILS)


@pytest.mark.parametrize(
    "difference, verdict", [([2, 1, 3], HOLDS), ([2, -1, 3], PARTLY), ([-1, -2, 1], FAILS)]
)
def test_flow_edit_keeps_more_where_the_interval_says_so(difference, verdict):
    found = dict(success=0.8, outside_db={n: [25, 24, 26] for n in claims_flow.BOTH}, difference=difference)
    record = dict(compared=found, guidance={n: 3.0 for n in claims_flow.BOTH})
    assert judge_inversion(record).verdict == verdict


@pytest.mark.parametrize(
    "gains, verdict",
    [
        (dict(all=[1, 0.5, 2], a=[1, 0.5, 2], b=[1, 0.5, 2]), HOLDS),
        (dict(all=[1, 0.5, 2], a=[3, 2, 4], b=[-1, -2, -0.5]), PARTLY),
        (dict(all=[0, -1, 1], a=[3, 2, 4], b=[0, -1, 1]), PARTLY),
        (dict(all=[0, -1, 1], a=[3, 2, 4], b=[-2, -3, -1]), FAILS),
        (dict(all=[0, -1, 1], a=[0, -1, 1], b=[0, -1, 1]), FAILS),
    ],
)
def test_no_mask_is_needed_where_every_kind_says_so(gains, verdict):
    best = {name: dict(table=dict(all=dict(right=[0.8, 0.7, 0.9]))) for name in ("FlowEdit", "DiffEdit")}
    record = dict(gain=gains, best=best, ends=dict(copy=[20, 19, 21]))
    assert judge_mask(record).verdict == verdict
