"""InstructPix2Pix's measurements run on models that know nothing, say what they lack, and judge as their
rules say.
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import tensor
from torch.testing import assert_close

from palimpsest.claims import CLAIMS, __main__, page
from palimpsest.claims import instruct_pix2pix as claims_instruct
from palimpsest.claims.common import draw_edits, rounded
from palimpsest.claims.draw.make import make
from palimpsest.claims.instruct_pix2pix import (
    DATA,
    FILTER,
    KINDS,
    TRUE,
    InstructModels,
    kept_at,
    open_instruct,
    pairs_seen,
    scorer,
)
from palimpsest.claims.page import FAILS, HOLDS, PARTLY, UNJUDGED
from palimpsest.metrics.image import psnr
from palimpsest.weights.files import WeightsError, read_weights
from palimpsest.worlds.shapes import attributes
from tests.tiny import tiny_clip, tiny_instruct, tiny_reader, tiny_weights

FOUR = (
    claims_instruct.BESIDE_SDEDIT,
    claims_instruct.LESS_DATA,
    claims_instruct.UNFILTERED,
    claims_instruct.SCALES,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models that know nothing; that of a hundredth of the data is not there."""
    out = tmp_path_factory.mktemp("instruct-models")
    tiny_weights(out, "shapes", size=64)
    tiny_clip(out)
    tiny_reader(out)
    for name in (TRUE, "shapes-instruct-10", *FILTER[:2]):
        tiny_instruct(out, name, beside="shapes")
    return out


@pytest.fixture(autouse=True)
def two_steps(monkeypatch):
    monkeypatch.setattr(claims_instruct, "STEPS", 2)


def judged_and_drawn(measurement, record, out):
    """The verdicts of all claims that rest on the record, once its pictures are drawn."""
    (out / f"{measurement.name}.json").write_text(
        json.dumps(rounded(dict(n=4, seed=0, **record))), encoding="utf-8"
    )
    make(measurement.pictures, out, out)
    assert all((out / picture).stat().st_size > 10_000 for picture in measurement.pictures)
    found = [page.find(c, out) for c in CLAIMS if c.measurement is measurement]
    assert found and all(f.ours for f in found)
    return {f.verdict for f in found}


@pytest.mark.parametrize(
    "measurement, fast",
    zip(
        FOUR,
        (
            dict(s_images=(1.5,), t0s=(0.5,)),
            dict(s_images=(1.5,)),
            dict(s_images=(1.5,)),
            dict(s_texts=(1.0, 3.0), s_images=(1.5,)),
        ),
    ),
    ids=lambda v: getattr(v, "name", ""),
)
def test_a_measurement_is_judged_drawn_and_goes_on_from_its_parts(folder, tmp_path, measurement, fast):
    models, kept = measurement.opener(folder), {}

    def part(name, measure):
        assert name not in kept, "two parts of one name"
        kept[name] = measure()
        return kept[name]

    record = measurement.run(models, n=4, seed=0, part=part, **fast)
    verdicts = judged_and_drawn(measurement, record, tmp_path)
    assert verdicts <= {HOLDS, PARTLY, FAILS, UNJUDGED}
    if measurement is claims_instruct.LESS_DATA:
        assert record["missing"] == ["shapes-instruct-1"] and verdicts == {UNJUDGED}
    again = measurement.run(models, n=4, seed=0, part=lambda name, measure: kept[name], **fast)
    assert again == record and len(kept) == 2 + sum(
        len(rows) for rows in (*record.get("curves", {}).values(), record.get("grid", []))
    )


def test_what_is_not_there_is_left_out_and_what_cannot_be_missed_is_named(folder, tmp_path):
    models = open_instruct(DATA, folder)
    assert (
        set(models.nets) == {TRUE, "shapes-instruct-10"}
        and set(models.seen.values()) == {0}
        and len(models.files) == 6
    )
    tiny_weights(tmp_path, "shapes", size=64)
    for lacking, add in ((TRUE, tiny_instruct), ("shapes-reader", tiny_reader), ("shapes-clip", tiny_clip)):
        with pytest.raises(WeightsError, match=rf"model: no weight file .*{lacking}\.safetensors"):
            open_instruct((TRUE,), tmp_path)
        add(tmp_path, lacking, "shapes") if add is tiny_instruct else add(tmp_path)
    assert isinstance(open_instruct((TRUE,), tmp_path), InstructModels)


def test_pairs_seen_are_those_of_the_runs_that_saw_pairs(folder, tmp_path):
    runs = [
        dict(steps=7, batch=2, scenes=9),
        dict(steps=10, batch=4, pairs="true"),
        dict(steps=5, batch=8, pairs="painted"),
    ]
    assert pairs_seen(runs) == 80 and pairs_seen([]) == 0
    for name in ("shapes", "shapes-vae", "shapes-reader", "shapes-clip"):
        (tmp_path / f"{name}.safetensors").write_bytes((folder / f"{name}.safetensors").read_bytes())
    config, tensors = read_weights(folder / f"{TRUE}.safetensors")
    save_file(
        tensors,
        tmp_path / f"{TRUE}.safetensors",
        metadata={"palimpsest": json.dumps(config | dict(trained=runs))},
    )
    assert open_instruct((TRUE,), tmp_path).seen == {TRUE: 80}


def test_all_skips_what_cannot_be_measured_yet_and_a_claim_by_name_says_what_is_missing(
    folder, tmp_path, monkeypatch, capsys
):
    tiny_weights(tmp_path, "shapes", size=64)
    tiny_instruct(tmp_path, TRUE, beside="shapes")
    monkeypatch.setattr(__main__, "CLAIMS", tuple(c for c in CLAIMS if c.measurement in FOUR))
    monkeypatch.setattr(__main__, "STARTED", tmp_path / "started")
    assert __main__.main(["all", "--models", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert sum("shapes-clip" in line and line.endswith("is not trained yet") for line in said) == 4
    with pytest.raises(WeightsError, match="no weight file .*shapes-"):
        __main__.main(["C22", "--models", str(tmp_path)])


# ---- the scores ----


class Mean:
    """A judge by mean colour; captions name one."""

    def images(self, pictures):
        return pictures.mean((2, 3)) + tensor([0.0, 0.0, 2.0])

    def texts(self, texts):
        return tensor([[1.0, 0.0, 2.0] if text == "old" else [0.0, 1.0, 2.0] for text in texts])


class Reads:
    """An oracle for which a bright picture is right."""

    def right(self, pictures, wanted):
        return pictures.flatten(1).mean(1) > torch.tensor([0.0 if len(w) > 1 else -0.5 for w in wanted])


def test_a_score_is_what_clip_and_the_truth_say(folder):
    drawn = draw_edits(8, KINDS, 3)
    assert drawn.kinds == list(KINDS)
    models = open_instruct((TRUE,), folder)._replace(clip=Mean(), oracle=Reads())
    drawn = drawn._replace(source=["old"] * 8, target=["new"] * 8)
    found = scorer(models, drawn)(drawn.after)
    x, y = Mean().images(drawn.before), Mean().images(drawn.after)
    assert found["image"] == pytest.approx(torch.cosine_similarity(x, y).mean().item(), abs=1e-6)
    unit = [
        v / v.norm(dim=1, keepdim=True) for v in (x, y, Mean().texts(["old"] * 8), Mean().texts(["new"] * 8))
    ]
    assert found["direction"] == pytest.approx(
        torch.cosine_similarity(unit[1] - unit[0], unit[3] - unit[2]).mean().item(), abs=1e-5
    )
    right = drawn.after.flatten(1).mean(1) > 0
    assert found["right"] == right.double().mean().item() and set(found["kinds"]) == set(KINDS)
    assert all(found["kinds"][k] == float(right[i]) for i, k in enumerate(KINDS))
    assert found["truth_db"] == 60.0 and found["outside_db"] > 45
    dim = scorer(models, drawn)(drawn.before * 0.9)
    some = (drawn.changed == 0).flatten(1).any(1)
    wished = psnr(drawn.before[some] * 0.9, drawn.before[some], 1 - drawn.changed[some]).clamp(max=60).mean()
    assert_close(dim["outside_db"], wished.item())
    assert_close(dim["truth_db"], psnr(drawn.before * 0.9, drawn.after).clamp(max=60).mean().item())


def test_what_an_edit_changes_is_what_was_not_there_before():
    drawn = draw_edits(16, KINDS, 5)
    for kind, changes, wanted, after in zip(drawn.kinds, drawn.changes, drawn.wanted, drawn.after_scenes):
        assert wanted == attributes(after) and changes.items() <= wanted.items() and changes
        if kind in ("recolour", "reshape", "retexture", "resize", "background"):
            assert len(changes) < len(wanted)


def test_every_edit_changes_its_caption():
    drawn = draw_edits(64, KINDS, 70)
    assert all(before != after for before, after in zip(drawn.source, drawn.target))


# ---- the rules ----


def row(direction, image, right=None, outside_db=None, **at):
    right = 2 * direction if right is None else right
    return (
        dict(
            direction=direction,
            image=image,
            right=right,
            reached=right,
            outside_db=40 * image if outside_db is None else outside_db,
            truth_db=20.0 + direction,
            kinds=dict.fromkeys(KINDS, right),
        )
        | at
    )


def arc(lift=0.0, reach=1.0, **at):
    """A curve from hardly edited to strongly, the image similarity `lift` higher."""
    return [row(reach * d, 0.9 - d + lift, **at) for d in (0.1, 0.2, 0.3, 0.4)]


def with_truth(rows, lift):
    return [r | dict(outside_db=r["outside_db"] + lift) for r in rows]


def test_a_curve_keeps_the_most_at_what_it_reaches():
    rows = [row(0.1, 0.9), row(0.3, 0.7), row(0.2, 0.5)]
    assert (
        kept_at(rows, "direction", 0.2, "image") == pytest.approx(0.8)
        and kept_at(rows, "direction", 0.05, "image") == 0.9
    )
    assert (
        kept_at(rows, "direction", 0.3, "image") == 0.7 and kept_at(rows, "direction", 0.31, "image") is None
    )
    assert kept_at(rows[::-1], "direction", 0.2, "image") == pytest.approx(0.8)


def faithful(ours):
    return dict(n=256, curves={"InstructPix2Pix": ours, "SDEdit": arc()})


@pytest.mark.parametrize(
    "ours, verdict",
    [
        (arc(0.05), HOLDS),
        (with_truth(arc(0.05), -9), PARTLY),
        (with_truth(arc(-0.05), 9), PARTLY),
        (arc(), FAILS),
        (arc(-0.05), FAILS),
        ([*arc(0.05)[:3], row(0.4, 0.1, outside_db=1.0)], FAILS),  # not at the strongest level
        (arc(0.2, reach=0.5), HOLDS),
        (arc(reach=0.5), FAILS),
    ],
)  # as far as both go
def test_more_must_be_kept_at_every_strength_by_clip_and_in_truth(ours, verdict):
    assert claims_instruct.judge_faithful(faithful(ours)).verdict == verdict


@pytest.mark.parametrize("reaches", [(1.0, 0.1), (0.1, 1.0)])
def test_where_one_goes_nowhere_nothing_can_be_compared(reaches):
    record = dict(curves=dict(zip(("InstructPix2Pix", "SDEdit"), (arc(reach=reach) for reach in reaches))))
    found = claims_instruct.judge_faithful(record)
    assert found.verdict == UNJUDGED and "0.040" in found.ours


def less(reaches, lifts=(0.0, 0.1, 0.2), seen=(100, 100, 100), missing=()):
    curves = {
        name: arc(lift, reach) for name, reach, lift in zip(DATA, reaches, lifts) if name not in missing
    }
    return dict(n=256, curves=curves, seen=dict(zip(DATA, seen)), missing=list(missing))


@pytest.mark.parametrize(
    "record, verdict",
    [
        (less((1.0, 0.8, 0.5)), HOLDS),
        (less((1.0, 0.8, 0.5), seen=(105, 100, 100)), HOLDS),
        (less((1.0, 0.8, 0.5), seen=(200, 100, 100)), PARTLY),
        (less((1.0, 0.4, 0.5)), PARTLY),
        (less((1.0, 0.8, 0.5), lifts=(0.2, 0.1, 0.0)), PARTLY),
        (less((0.5, 0.8, 1.0)), FAILS),
        (less((1.0, 0.8, 0.5), missing=DATA[1:]), UNJUDGED),
    ],
)
def test_success_must_fall_with_the_data_and_less_be_changed(record, verdict):
    found = claims_instruct.judge_data(record)
    assert found.verdict == verdict
    assert verdict != UNJUDGED or found.ours == "not trained yet: shapes-instruct-10, shapes-instruct-1"


def sorted_out(ours, reach=1.0, seen=(100, 100, 300), missing=()):
    curves = {
        name: rows
        for name, rows in zip(FILTER, (ours, arc(reach=reach), arc(0.1, 1.2)))
        if name not in missing
    }
    return dict(n=256, curves=curves, seen=dict(zip(FILTER, seen)), missing=list(missing))


@pytest.mark.parametrize(
    "record, verdict",
    [
        (sorted_out(arc(0.05)), HOLDS),
        (sorted_out(with_truth(arc(0.05), -9)), PARTLY),
        (sorted_out(arc(0.05), seen=(200, 100, 100)), PARTLY),
        (sorted_out(arc(-0.05)), FAILS),
        (sorted_out(arc(0.05), missing=FILTER[:1]), UNJUDGED),
        (sorted_out(arc(0.05), reach=0.1), UNJUDGED),
    ],
)
def test_the_filtered_must_keep_more_than_the_unfiltered(record, verdict):
    found = claims_instruct.judge_filter(record)
    assert found.verdict == verdict and ("true pairs" in found.ours) == (verdict != UNJUDGED)


def test_true_pairs_may_be_missing_where_the_filter_is_judged():
    found = claims_instruct.judge_filter(sorted_out(arc(0.05), missing=FILTER[2:]))
    assert found.verdict == HOLDS and "true pairs" not in found.ours


def grid(direction=1, reached=1, image=1, outside=1, s_texts=(1.0, 3.0, 5.0), s_images=(1.0, 1.5, 2.0)):
    """Cells whose figures rise (1), fall (−1) or stay with their scale."""
    return dict(
        n=256,
        grid=[
            dict(
                s_text=t,
                s_image=s,
                direction=0.1 + direction * t / 100,
                reached=0.5 + reached * t / 100,
                image=0.5 + image * s / 9,
                outside_db=20 + outside * s,
                right=0.5 + t / 100,
                truth_db=20 - s,
            )
            for t in s_texts
            for s in s_images
        ],
    )


@pytest.mark.parametrize(
    "record, verdict",
    [
        (grid(), HOLDS),
        (grid(reached=-1), PARTLY),
        (grid(image=0), PARTLY),
        (grid(direction=0, outside=-1), PARTLY),
        (grid(direction=-1, reached=0), FAILS),
        (grid(image=-1, outside=-1), FAILS),
        (grid(s_images=(1.0, 1.5)), UNJUDGED),
    ],
)
def test_each_scale_must_do_its_own(record, verdict):
    found = claims_instruct.judge_scales(record)
    assert found.verdict == verdict
    assert verdict == UNJUDGED or "s_T = 5, s_I = 1" in found.ours
