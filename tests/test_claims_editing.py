"""The measurements of DiffEdit, Prompt-to-Prompt and Null-text: they run on models that know nothing, and
judge as their rules say.
"""

import json

import pytest
import torch

from palimpsest.claims import CLAIMS, diffedit, null_text, page, prompt_to_prompt
from palimpsest.claims.common import Models, draw_edits, new_scenes, open_models, rounded
from palimpsest.claims.draw.make import make
from palimpsest.methods.diffedit import Ablation
from palimpsest.methods.diffedit import diffedit as verb
from palimpsest.metrics.mask import iou
from palimpsest.nets.judges.reader import Reader
from palimpsest.weights.files import write_weights
from palimpsest.worlds.shapes import ATTRIBUTES, attributes, caption, render, silhouettes
from tests.tiny import tiny_weights


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    tiny_weights(folder, "shapes", size=64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reader = Reader(attributes={k: len(v) for k, v in ATTRIBUTES.items()}, width=8, heads=2)
    config = dict(kind="reader", reader=dict(width=8, heads=2), values=ATTRIBUTES)
    write_weights(folder / "shapes-reader.safetensors", {"reader": reader}, config)
    return open_models(folder)


def judged_and_drawn(measurement, record, tmp_path):
    """Whether every claim that rests on the record gets a verdict, and all its pictures are drawn."""
    (tmp_path / f"{measurement.name}.json").write_text(
        json.dumps(rounded(dict(n=4, seed=0, **record))), encoding="utf-8"
    )
    verdicts = [page.find(c, tmp_path).verdict for c in CLAIMS if c.measurement is measurement]
    make(measurement.pictures, tmp_path, tmp_path)
    drawn = all((tmp_path / picture).stat().st_size > 10_000 for picture in measurement.pictures)
    return drawn and bool(verdicts) and set(verdicts) <= {page.HOLDS, page.PARTLY, page.FAILS}


def test_edits_are_what_they_say():
    drawn = draw_edits(12, diffedit.KINDS, 0)
    assert drawn.kinds == list(diffedit.KINDS) * 3
    assert drawn.source == [caption(s) for s in drawn.scenes] and drawn.target == [
        caption(s) for s in drawn.after_scenes
    ]
    assert torch.equal(drawn.before, render(drawn.scenes)) and torch.equal(
        drawn.after, render(drawn.after_scenes)
    )
    assert drawn.wanted == [attributes(s) for s in drawn.after_scenes] and drawn.had == [
        attributes(s) for s in drawn.scenes
    ]
    same = (drawn.before == drawn.after).all(1, keepdim=True)
    assert not (drawn.changed.bool() & same).any()
    assert (drawn.before - drawn.after)[(drawn.changed == 0).expand(-1, 3, -1, -1)].abs().max() <= 2.01 / 255


def test_a_silhouette_told_by_colour_is_nearly_the_true_one():
    scenes = new_scenes(64, 3)
    truth = torch.cat([(silhouettes(s).amax(0, keepdim=True) > 0.5).float() for s in scenes])
    overlap = iou(prompt_to_prompt.silhouette(render(scenes), scenes), truth)
    assert overlap.mean() > 0.95 and overlap.quantile(0.1) > 0.9


def test_the_best_mask_of_cells_is_better_than_any_cell_more_or_less(models):
    drawn = draw_edits(4, ("recolour",), 1, things=1)
    best = diffedit.grid_mask(models, drawn.changed)
    whole = torch.nn.functional.interpolate(
        torch.nn.functional.adaptive_max_pool2d(drawn.changed, best.shape[-1] // 4), best.shape[-2:]
    )
    assert (iou(best, drawn.changed) >= iou(whole, drawn.changed)).all() and iou(
        best, drawn.changed
    ).mean() > 0.7


@pytest.mark.slow
def test_diffedit_is_measured_judged_and_drawn(models, tmp_path, monkeypatch):
    monkeypatch.setattr(diffedit, "STEPS", 3)
    record = diffedit.measure(models, n=4, seed=0, ratios=(0.4, 0.8))
    assert set(record["one"]["curves"]) == set(diffedit.VARIANTS)
    low, high = record["bound"]["rows"]
    assert [low["ratio"], high["ratio"]] == [0.4, 0.8] and low["tau"] < high["tau"]
    assert judged_and_drawn(diffedit.DIFFEDIT, record, tmp_path)


def test_a_mask_that_was_found_once_gives_the_same_edit_to_the_bit(models):
    drawn = draw_edits(4, ("recolour", "reshape"), 1, things=1)
    for how in ({}, dict(ablation=Ablation(encode=False)), dict(ablation=Ablation(blend="x0"))):
        found = verb(
            models.model, drawn.before, drawn.source, drawn.target, steps=4, ratio=0.6, seed=5, **how
        )
        given = verb(
            models.model,
            drawn.before,
            drawn.source,
            drawn.target,
            steps=4,
            ratio=0.6,
            seed=5,
            mask=found.mask,
            **how,
        )
        assert (
            torch.equal(found.raw, given.raw) and torch.equal(found.mask, given.mask) and given.heat is None
        )


def test_prompt_to_prompt_is_measured_judged_and_drawn(models, tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_to_prompt, "STEPS", 2)
    record = prompt_to_prompt.measure(models, n=4, seed=0, crosses=(0.0, 1.0))
    assert judged_and_drawn(prompt_to_prompt.LAYOUT, record, tmp_path)


@pytest.mark.slow
def test_null_text_is_measured_judged_and_drawn(models, tmp_path, monkeypatch):
    monkeypatch.setattr(null_text, "STEPS", 2)
    monkeypatch.setattr(null_text, "INNERS", (1, 2))
    record = null_text.measure_ladder(models, n=2, seed=0)
    assert set(record["edits"]["ways"]) == set(null_text.WAYS)
    assert judged_and_drawn(null_text.LADDER, record, tmp_path)


# --------------------------------------------------------------------------- the rules


def row(ratio, right, db, rmse=0.1, iou=0.5):
    kinds = {k: dict(n=32, iou=iou, iou_ceiling=0.8, right=right, outside_db=db) for k in diffedit.KINDS}
    return dict(ratio=ratio, right=right, outside_db=db, true_rmse=rmse, csfid=1.0, lpips=0.1, kinds=kinds)


def parts(diffedit_db, mask_db, encoding_db, sdedit_db):
    """Four curves of equal success."""
    names = "DiffEdit", "no mask", "no encoding", "SDEdit"
    curves = {
        name: [row(0.5, 0.5, db + 2), row(0.9, 0.9, db)]
        for name, db in zip(names, (diffedit_db, encoding_db, mask_db, sdedit_db))
    }
    return dict(n=32, two=dict(curves=curves), one=dict(curves=curves))


@pytest.mark.parametrize(
    "record, verdict",
    [
        (parts(34, 31, 31, 28), page.HOLDS),
        (parts(34, 31, 31, 30.5), page.PARTLY),
        (parts(31, 32, 30, 28), page.FAILS),
    ],
)
def test_each_part_must_help_and_both_together_most(record, verdict):
    assert diffedit.judge_parts(record).verdict == verdict


def test_a_curve_is_read_between_its_points_and_one_that_never_succeeds_keeps_nothing():
    rows = [row(0.5, 0.5, 36.0), row(0.9, 0.9, 32.0)]
    assert (
        diffedit.kept_at_success(rows, 0.7) == pytest.approx(34.0)
        and diffedit.kept_at_success(rows, 0.3) == 36.0
    )
    assert diffedit.kept_at_success(rows, 0.95) is None


@pytest.mark.parametrize(
    "ious, dbs, verdict",
    [
        ((0.4, 0.6, 0.5), (30, 33, 36), page.HOLDS),
        ((0.4, 0.6, 0.5), (30, 29, 36), page.PARTLY),
        ((0.7, 0.6, 0.5), (30, 33, 36), page.FAILS),
    ],
)
def test_the_middle_threshold_must_fit_best(ious, dbs, verdict):
    rows = [
        dict(threshold=t, iou=i, outside_db=db, right=0.9) for t, i, db in zip(diffedit.THRESHOLDS, ious, dbs)
    ]
    assert diffedit.judge_threshold(dict(n=32, one=dict(thresholds=rows))).verdict == verdict


@pytest.mark.parametrize(
    "encoded, bound, verdict", [(0.1, 0.2, page.HOLDS), (0.1, 0.05, page.PARTLY), (0.5, 0.9, page.FAILS)]
)
def test_encoding_must_stay_closer_and_under_its_bound(encoded, bound, verdict):
    rows = [
        dict(ratio=r, encoded=encoded, noised=0.4, bound_encoded=bound, bound_noised=3.0, bound_printed=bound)
        for r in (0.5, 0.9)
    ]
    assert diffedit.judge_bound(dict(bound=dict(rows=rows))).verdict == verdict


@pytest.mark.parametrize("untold, verdict", [(0.47, page.HOLDS), (0.49, page.PARTLY), (0.51, page.FAILS)])
def test_a_reference_text_must_sharpen_the_mask(untold, verdict):
    curves = {"DiffEdit": [row(0.7, 0.9, 30.0)]}
    record = dict(n=32, one={"curves": curves, "no reference": row(0.7, 0.9, 30.0, iou=untold)})
    assert diffedit.judge_reference(record).verdict == verdict


@pytest.mark.parametrize(
    "glide, verdict",
    [((0.2, 0.2, 0.2), page.HOLDS), ((0.2, 0.2, 0.05), page.PARTLY), ((0.05, 0.05, 0.2), page.FAILS)],
)
def test_the_blend_must_be_nearer_to_the_truth_at_every_ratio(glide, verdict):
    ratios = (0.5, 0.7, 0.9)
    curves = {
        "DiffEdit": [row(r, 0.9, 30.0) for r in ratios],
        "x̂₀ blend": [row(r, 0.9, 30.0, rmse=e) for r, e in zip(ratios, glide)],
    }
    assert diffedit.judge_blend(dict(n=32, one=dict(curves=curves))).verdict == verdict


def pairs(iou, kept, right=0.95):
    kind = {
        name: dict(iou=i, kept_db=k, right=r, n=32)
        for name, i, k, r in (
            ("injected", iou, kept, right),
            ("uninjected", 0.5, 30.0, 0.97),
            ("blended", iou, 45.0, right),
        )
    }
    return dict(kinds=dict.fromkeys(prompt_to_prompt.KINDS, kind))


@pytest.mark.parametrize(
    "record, verdict",
    [
        (pairs(0.76, 39.0), page.HOLDS),
        (pairs(0.76, 39.0, right=0.9), page.PARTLY),
        (pairs(0.6, 33.0), page.PARTLY),
        (pairs(0.45, 39.0), page.FAILS),
    ],
)
def test_layout_must_be_kept_at_no_cost_in_success(record, verdict):
    assert prompt_to_prompt.judge_layout(record).verdict == verdict


def there_and_back(one=33.0, many=24.0, paper=32.8, fast=32.9, passes=200.0, edited=0.9, gain=4.0):
    rungs = [dict(name=n, db=db) for n, db in (("autoencoder", 33.5), ("w = 1", one), ("w = 7.5", many))]
    updates = [
        dict(solver="adam, empty", inner=10, updates=240.0, forwards=600.0, backwards=240.0, db=paper),
        dict(solver="gauss-newton, prompt", inner=2, updates=20.0, forwards=passes, backwards=20.0, db=fast),
    ]
    way = {
        how: dict(recolour=dict(right=edited, outside_db=db))
        for how, db in (("injected", 30.0 + gain), ("uninjected", 30.0))
    }
    return dict(
        w=7.5,
        rungs=rungs,
        updates=updates,
        start_std={"1": 1.0, "7.5": 2.0},
        edits=dict(n=32, ways={"null-text": way, "DDIM": way}),
    )


@pytest.mark.parametrize(
    "record, verdict",
    [
        (there_and_back(), page.HOLDS),
        (there_and_back(one=31.5), page.PARTLY),
        (there_and_back(many=32.0), page.FAILS),
    ],
)
def test_the_round_trip_must_survive_w_1_and_break_at_the_other(record, verdict):
    assert null_text.judge_round_trip(record).verdict == verdict


@pytest.mark.parametrize(
    "record, verdict",
    [
        (there_and_back(), page.HOLDS),
        (there_and_back(passes=300.0), page.PARTLY),
        (there_and_back(edited=0.8), page.PARTLY),
        (there_and_back(gain=2.0), page.PARTLY),
        (there_and_back(paper=30.0), page.FAILS),
    ],
)
def test_null_text_must_reach_the_limit_keep_the_picture_editable_and_be_beaten_in_passes(record, verdict):
    assert null_text.judge_null_text(record).verdict == verdict


@pytest.mark.parametrize("worst, verdict", [(31.0, page.HOLDS), (32.5, page.PARTLY), (33.5, page.FAILS)])
def test_every_ablation_must_do_worse(worst, verdict):
    record = dict(
        ablation={"as published": 33.0, "one for all steps": 28.0, "a random pivot": worst, "no pivot": 20.0}
    )
    assert null_text.judge_ablation(record).verdict == verdict
