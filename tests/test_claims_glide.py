"""GLIDE's measurements run on models that know nothing, judge as their rules say, and hide what they say
they hide.
"""

from __future__ import annotations

import json
import random

import pytest
import torch

from palimpsest.claims import glide as claims_glide
from palimpsest.claims import glide_filtered, glide_inpaint, page
from palimpsest.claims.common import draw_edits, rounded
from palimpsest.claims.glide import GlideModels, enlarged
from palimpsest.claims.glide_filtered import FilteredModels, asked, judge_filtered, open_filtered
from palimpsest.claims.glide_inpaint import bounding, hidden, room
from palimpsest.claims.page import FAILS, HOLDS, PARTLY, UNJUDGED
from palimpsest.nets.judges.clip import CLIP
from palimpsest.nets.judges.noised_clip import NoisedCLIP
from palimpsest.nets.judges.noisy_reader import NoisyReader
from palimpsest.nets.judges.reader import Reader
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.training import shapes_glide
from palimpsest.weights.files import write_weights
from palimpsest.weights.judges import Classifier, Judge, Oracle
from palimpsest.weights.load import load
from palimpsest.worlds.scene import HELD_OUT, WORDS
from palimpsest.worlds.shapes import ATTRIBUTES, caption, render, sample_scene, silhouettes
from tests.tiny import tiny_glide


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> GlideModels:
    folder = tmp_path_factory.mktemp("glide-models")
    kinds = dict(
        conditional={},
        base={},
        inpaint=dict(inpainting=True),
        upsampler=dict(upsampling=True),
        upsampler_inpaint=dict(upsampling=True, inpainting=True),
    )
    nets = {
        name: load(tiny_glide(folder, name, 64 if "upsampler" in name else 32, **kind), "cpu")
        for name, kind in kinds.items()
    }
    tokenizer, counts = WordTokenizer(list(WORDS), 24), {k: len(v) for k, v in ATTRIBUTES.items()}
    towers = dict(
        width=16,
        layers=1,
        heads=2,
        embed=8,
        length=24,
        text_width=16,
        text_layers=1,
        text_heads=2,
        vocab=tokenizer.vocab_size,
        end=tokenizer.end,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip, noised = CLIP(**towers, size=64, patch=16).eval(), NoisedCLIP(**towers, size=32, patch=8).eval()
        classifier = NoisyReader(attributes=counts, width=8, mult=(1, 2, 2), heads=2).eval()
        reader = Reader(attributes=counts, width=8, heads=2).eval()
    return GlideModels(
        **nets,
        clip=Judge(clip, tokenizer),
        noised=Judge(noised, tokenizer),
        classifier=Classifier(classifier, ATTRIBUTES),
        oracle=Oracle(reader, ATTRIBUTES),
        name="tiny",
        files={},
    )


@pytest.mark.parametrize(
    "measurement, judges, fast",
    [
        (
            claims_glide.GUIDANCE,
            (claims_glide.judge_people, claims_glide.judge_scorer, claims_glide.judge_diversity),
            dict(scales={"text": (1.0, 3.0), "clip": (1.0,), "classifier": (1.0,)}),
        ),
        (claims_glide.EMPTY, (claims_glide.judge_empty,), {}),
        (claims_glide.RERANK, (claims_glide.judge_rerank,), dict(most=2)),
        (glide_inpaint.PARTS_ANEW, (glide_inpaint.judge_ways,), {}),
        (glide_inpaint.SESSION, (glide_inpaint.judge_session,), {}),
    ],
)
def test_a_measurement_gives_a_record_that_every_judge_understands(
    models, measurement, judges, fast, monkeypatch
):
    for module in (claims_glide, glide_inpaint):
        monkeypatch.setattr(module, "STEPS", "2")
    record = json.loads(json.dumps(rounded(dict(n=6) | measurement.run(models, n=6, seed=0, **fast))))
    for judge in judges:
        finding = judge(record)
        assert (
            isinstance(finding, page.Finding) and finding.verdict in (HOLDS, PARTLY, FAILS) and finding.ours
        )


def row(scale=1.0, right=0.5, clip=30.0, noised=30.0, precision=0.5, recall=0.5, inception=5.0, fid=1.0):
    return dict(
        scale=scale,
        right=right,
        clip=clip,
        noised_clip=noised,
        precision=precision,
        recall=recall,
        inception=inception,
        fid=fid,
    )


def test_the_judges_of_guidance_say_what_their_rules_say():
    text = [row(), row(3.0, 0.9, precision=0.8, recall=0.3)]
    curves = dict(text=text, clip=[row(3.0, 0.7, noised=40.0)], classifier=[row()])
    record = dict(n=512, curves=curves, truth=row())
    assert [
        j(record).verdict
        for j in (claims_glide.judge_people, claims_glide.judge_scorer, claims_glide.judge_diversity)
    ] == [HOLDS] * 3
    record["curves"]["clip"] = [row(3.0, 0.88, noised=29.0)]
    record["curves"]["text"] = [row(), row(3.0, 0.9, precision=0.4, recall=0.3)]
    assert [
        j(record).verdict
        for j in (claims_glide.judge_people, claims_glide.judge_scorer, claims_glide.judge_diversity)
    ] == [PARTLY, FAILS, PARTLY]
    record["curves"]["clip"] = [row(3.0, 0.95, noised=35.0)]
    assert [j(record).verdict for j in (claims_glide.judge_people, claims_glide.judge_scorer)] == [
        FAILS,
        PARTLY,
    ]


def test_the_other_judges_say_what_their_rules_say():
    def empty(right, fid):
        return dict(caption=dict(right=right), empty=dict(fid=fid, precision=0.5))

    for after, verdict in ((empty(0.81, 4.0), HOLDS), (empty(0.79, 4.0), PARTLY), (empty(0.8, 11.0), FAILS)):
        record = dict(n=2048, before=empty(0.8, 10.0), after=after, truth=dict(fid=1.0))
        assert claims_glide.judge_empty(record).verdict == verdict
    for right, seam, verdict in ((0.8, 0.1, HOLDS), (0.5, 0.1, PARTLY), (0.5, 0.9, FAILS)):
        ways = {"a": dict(right=right, seam=seam, outside=0.0), "b": dict(right=0.6, seam=0.2, outside=0.0)}
        assert glide_inpaint.judge_ways(dict(n=512, ways=ways, border=0.1)).verdict == verdict
    for steps, verdict in ((0.62, HOLDS), (0.52, PARTLY), (0.4, FAILS)):
        record = dict(n=512, once=0.5, session=dict(right=steps, first=0.9))
        assert glide_inpaint.judge_session(record).verdict == verdict
    for gains, verdict in (((0.1, 0.1), HOLDS), ((0.1, 0.0), PARTLY), ((0.0, 0.0), FAILS)):
        curves = {
            w: [dict(k=1, chosen=0.5, any=0.5), dict(k=8, chosen=0.5 + g, any=0.9)]
            for w, g in zip(("1", "3"), gains)
        }
        assert claims_glide.judge_rerank(dict(curves=curves, captions=500)).verdict == verdict
    few = dict(
        curves={w: [dict(k=1, chosen=0.5, any=0.5), dict(k=8, chosen=0.6, any=0.9)] for w in ("1", "3")},
        captions=64,
    )
    assert claims_glide.judge_rerank(few).verdict == FAILS, "a gain that may be chance is none"


def test_the_judge_of_a_filtered_model_says_what_its_rule_says():
    def record(whole, filtered, others):
        painted = dict(star=filtered, ring=0.7, heart=0.1)
        return dict(
            n=512,
            shape="star",
            whole=dict(removed=dict(shape=whole), others=dict(shape=0.9)),
            filtered=dict(removed=dict(shape=filtered, painted=painted), others=dict(shape=others)),
        )

    for numbers, verdict in (
        ((0.9, 0.02, 0.85), HOLDS),
        ((0.9, 0.02, 0.5), PARTLY),
        ((0.9, 0.3, 0.85), PARTLY),
        ((0.9, 0.6, 0.85), FAILS),
        ((0.4, 0.0, 0.85), UNJUDGED),
    ):
        found = judge_filtered(record(*numbers))
        assert found.verdict == verdict and "most often a ring instead" in found.ours


def test_the_same_scenes_are_asked_for_with_the_shape_and_without():
    there, gone = asked(40, 3, "star")
    assert len(there) == len(gone) == 40 and all(s.things[0].shape == "star" for s in there)
    for a, b in zip(there, gone):
        assert b.things[0].shape != "star" and caption(a).replace("star", b.things[0].shape) == caption(b)
        assert not {(s.things[0].colour, s.things[0].shape) for s in (a, b)} & HELD_OUT


def test_what_was_removed_stands_in_the_file_of_the_model(tmp_path, models, monkeypatch):
    run = dict(steps=1, batch=2, state=str(tmp_path / "state"), out=str(tmp_path), warmup=1)
    shapes_glide.main(shapes_glide.Arguments(**run, without="heart", name="shapes-glide-filtered"))
    shapes_glide.main(
        shapes_glide.Arguments(**run | dict(state=str(tmp_path / "other")), name="shapes-glide")
    )
    write_weights(
        tmp_path / "shapes-reader.safetensors",
        {"reader": models.oracle.net},
        dict(kind="reader", reader=dict(width=8, heads=2), values=ATTRIBUTES),
    )
    opened = open_filtered(tmp_path)
    assert opened.removed == "heart" and len(opened.files) == 3
    with pytest.raises(
        ValueError,
        match=r"shapes-glide.safetensors: not every run that trained it left out one and the same shape",
    ):
        glide_filtered.removed_from(tmp_path / "shapes-glide.safetensors")
    small = FilteredModels(models.base, models.base, "heart", models.oracle, "tiny", {})
    monkeypatch.setattr(claims_glide, "STEPS", "2")
    record = json.loads(json.dumps(rounded(dict(n=4) | glide_filtered.measure_filtered(small, n=4, seed=0))))
    assert judge_filtered(record).ours and sum(
        record["filtered"]["removed"]["painted"].values()
    ) == pytest.approx(1, abs=1e-3)


def test_a_bounding_box_is_the_smallest_and_its_margin_goes_round():
    mask = torch.zeros(2, 1, 9, 9)
    mask[0, 0, 3, 4] = mask[0, 0, 5, 2] = mask[1, 0, 0, 0] = 1
    box = bounding(mask, 0)
    assert box[0, 0, 3:6, 2:5].all() and box[0].sum() == 9 and box[1].sum() == 1
    assert bounding(mask, 1)[0].sum() == 25 and bounding(mask, 1)[1].sum() == 4


def test_nothing_of_the_thing_looks_out_of_its_box():
    drawn = draw_edits(12, glide_inpaint.KINDS, 3, things=1)
    mask = hidden(drawn)
    for scenes in (drawn.scenes, drawn.after_scenes):
        there = torch.cat(
            [
                torch.nn.functional.max_pool2d((silhouettes(s).amax(0, keepdim=True) > 0).float(), 2)
                for s in scenes
            ]
        )
        assert ((mask == 0) * there).sum() == 0
    before, after = render(drawn.scenes, 32), render(drawn.after_scenes, 32)
    assert (before - after)[(mask == 0).expand_as(before)].abs().max() < 1e-4 and mask.mean() < 0.6


def test_there_is_room_on_the_side_the_caption_says():
    rng, seen = random.Random(0), set()
    for _ in range(40):
        scene = sample_scene(rng, 2)
        thing = torch.zeros(1, 1, 32, 32)
        thing[..., 4:12, 5:13] = 1
        free = room(scene, thing)
        seen.add(scene.relation)
        assert (free * thing).sum() == 0 and free[..., :5, :5].sum() == 0
        assert free[..., 31, 4].item() == float(scene.relation == "above") and free[
            ..., 4, 31
        ].item() == float(scene.relation == "left of")
    assert seen == {"left of", "above"}
    thing[..., 30, 30] = 1
    assert room(scene, thing).sum() == 0


def test_the_judges_see_enlarged_pictures(models):
    scene = sample_scene(random.Random(1), 1)
    assert enlarged(render([scene], 32)).shape == (1, 3, 64, 64)
    p = claims_glide.classes(models.oracle, render([scene]))
    assert p.shape == (1, 80) and p.sum().item() == pytest.approx(1, abs=1e-6)
    assert caption(scene)
