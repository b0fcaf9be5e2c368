"""DreamBooth's measurements run on models that know nothing, judge as their rules say, and find a subject
wherever it stands.
"""

from __future__ import annotations

import copy
import json
import random
from dataclasses import replace

import pytest
import torch

from palimpsest.claims import dreambooth as claims_dreambooth
from palimpsest.claims import dreambooth_upsampler, page
from palimpsest.claims.common import rounded
from palimpsest.claims.draw.dreambooth import DRAWN
from palimpsest.claims.draw.make import FIGURES, make
from palimpsest.claims.dreambooth import (
    METRICS,
    WAYS,
    DreamBoothModels,
    curve,
    draw_cases,
    judge_count,
    judge_noun,
    judge_prior,
    judge_word,
    pose_error,
    wrong_noun,
)
from palimpsest.claims.dreambooth_upsampler import UpsamplerModels, detail, judge_upsampler, packed, unpacked
from palimpsest.claims.page import FAILS, HOLDS, PARTLY
from palimpsest.claims.parts import Parts
from palimpsest.nets.judges.clip import CLIP
from palimpsest.nets.judges.dino import DINO
from palimpsest.nets.judges.reader import Reader
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.weights.judges import Judge, Likeness, Oracle
from palimpsest.weights.load import load
from palimpsest.worlds.scene import SHAPES, SIZES, WORDS
from palimpsest.worlds.shapes import ATTRIBUTES
from palimpsest.worlds.subjects import render_subject, sample_context, sample_subject
from tests.tiny import tiny_glide, tiny_weights


@pytest.fixture(scope="module")
def judges():
    tokenizer = WordTokenizer(list(WORDS), 24)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = CLIP(
            width=16,
            layers=1,
            heads=2,
            embed=8,
            length=24,
            text_width=16,
            text_layers=1,
            text_heads=2,
            size=64,
            patch=16,
            vocab=tokenizer.vocab_size,
            end=tokenizer.end,
        ).eval()
        dino = DINO(size=64, patch=16, width=16, layers=1, heads=2).eval()
        reader = Reader(attributes={k: len(v) for k, v in ATTRIBUTES.items()}, width=8, heads=2).eval()
    return Oracle(reader, ATTRIBUTES), Judge(clip, tokenizer), Likeness(dino, 64)


@pytest.fixture
def quick(monkeypatch):
    for module, name, value in (
        (claims_dreambooth, "STEPS", 2),
        (claims_dreambooth, "BATCH", 1),
        (claims_dreambooth, "N_PRIOR", 1),
        (claims_dreambooth, "WALK", 1),
        (claims_dreambooth, "EACH", 2),
        (claims_dreambooth, "OF_CLASS", 2),
        (claims_dreambooth, "FEWER", (1, 3, 5)),
        (claims_dreambooth, "SCALES", (1.15,)),
        (claims_dreambooth, "TILTS", 1),
        (dreambooth_upsampler, "STEPS", 1),
        (dreambooth_upsampler, "BATCH", 1),
        (dreambooth_upsampler, "WALK", "2"),
    ):
        monkeypatch.setattr(module, name, value)
    claims_dreambooth.poses.cache_clear()
    yield
    claims_dreambooth.poses.cache_clear()


def whole(measurement, record):
    """As the file holds it."""
    return json.loads(json.dumps(rounded(dict(n=1, seed=0) | record)))


def test_subjects_are_measured_judged_and_drawn_and_a_stopped_run_goes_on(judges, quick, tmp_path):
    model = load(tiny_weights(tmp_path, size=64), "cpu")
    models = DreamBoothModels(model, *judges, "tiny", {})
    part, done = Parts(tmp_path / "parts.json", dict(n=1)), []
    rates = dict(rates=(1e-3,), word_rates=(1e-3, 1.0))
    record = whole(
        claims_dreambooth.DREAMBOOTH, claims_dreambooth.measure(models, n=1, seed=0, part=part, **rates)
    )
    assert set(record["ways"]) == set(WAYS) and all(
        set(METRICS) < set(row) for row in (*record["ways"].values(), record["real"])
    )
    assert [row["pictures"] for row in record["counts"]] == [1, 3, 4, 5] and len(
        record["rates"][0]["drift"]
    ) == 2

    def kept(name, work):
        done.append(name)
        return part.done[name]["value"]

    again = claims_dreambooth.measure(models, n=1, seed=0, part=kept, **rates)
    assert whole(None, again) == record and len(done) == len(part.done) == 4 + 2 + 3 + 1 + 1 + 1
    rows = record["word_rates"]
    assert (
        record["word_lr"] == max(rows, key=lambda row: row["dino"])["lr"]
        and rows[0]["error"] != rows[1]["error"]
    )
    for judge in (judge_prior, judge_noun, judge_count, judge_word):
        assert judge(record).verdict in (HOLDS, PARTLY, FAILS) and judge(record).ours
    (tmp_path / "dreambooth.json").write_text(json.dumps(record), encoding="utf-8")
    make(["dreambooth_prior.png"], tmp_path, tmp_path)
    assert (tmp_path / "dreambooth_prior.png").stat().st_size > 10_000


def test_the_second_stage_is_measured_judged_and_drawn(judges, quick, tmp_path):
    up = load(tiny_glide(tmp_path, size=64, upsampling=True), "cpu")
    record = whole(
        None,
        dreambooth_upsampler.measure(
            UpsamplerModels(up, judges[2], "tiny", {}), n=1, seed=0, levels=(0.0, 0.2)
        ),
    )
    assert list(record["ways"]) == ["bicubic", "not tuned", "tuned, noise 0", "tuned, noise 0.2"]
    assert record["ways"]["bicubic"]["psnr"] > 15 and 0 < record["ways"]["bicubic"]["detail"] < 1
    assert record["ways"]["tuned, noise 0"]["strip"] != record["ways"]["tuned, noise 0.2"]["strip"]
    assert judge_upsampler(record).ours
    (tmp_path / "dreambooth_upsampler.json").write_text(json.dumps(record), encoding="utf-8")
    make(["dreambooth_upsampler.png"], tmp_path, tmp_path)
    assert (tmp_path / "dreambooth_upsampler.png").stat().st_size > 10_000


# ---- the rules, on records made by hand ----


def row(**changes):
    mine = dict(dino=0.6, clip_i=0.8, clip_t=0.3, pres=0.5, div=0.4, error=0.2, ground=0.9) | changes
    return mine | dict(each=[{k: v + 0.02 * s for k, v in mine.items()} for s in (-1, 0, 1)])


def record(**ways):
    found = {
        "with prior": row(pres=0.4, div=0.5, dino=0.62),
        "without prior": row(dino=0.65),
        "no noun": row(dino=0.5, clip_i=0.7, error=0.25),
        "wrong noun": row(dino=0.55, clip_i=0.75, error=0.3),
        "Textual Inversion": row(dino=0.4, clip_t=0.25, error=0.35, ground=0.6),
    }
    return dict(
        steps=240,
        lr=8e-4,
        word_lr=0.02,
        ways=found | ways,
        frozen=row(dino=0.3, pres=0.3, div=0.6, error=0.4),
        real=row(dino=0.9, error=0.08),
        counts=[
            dict(pictures=k, **row(dino=d, error=0.5 - d / 2))
            for k, d in ((1, 0.5), (2, 0.52), (3, 0.6), (4, 0.61), (5, 0.6))
        ],
        rates=[
            dict(
                lr=lr,
                instance=[0.3 * 0.9 ** (k * f) for k in range(24)],
                prior=[0.1 + 0.001 * k for k in range(24)],
                drift=[0.1 + 0.004 * f * k for k in range(24)],
            )
            for f, lr in ((1, 2e-4), (2, 8e-4), (4, 3.2e-3))
        ],
    )


def test_a_difference_that_may_be_chance_does_not_hold():
    made = record()
    noun = made["ways"]["without prior"]
    for one, shift in zip(noun["each"], (0.4, -0.3, -0.1)):
        one["dino"] += shift  # the mean stays, the subjects disagree
    assert judge_noun(made).verdict == PARTLY and judge_word(made).verdict == HOLDS


@pytest.mark.parametrize(
    "judge, ways, verdict",
    [
        (judge_prior, {}, HOLDS),
        (judge_prior, {"with prior": row(pres=0.4, div=0.5, dino=0.5)}, PARTLY),
        (judge_prior, {"with prior": row(pres=0.4, div=0.3)}, PARTLY),
        (judge_prior, {"with prior": row(pres=0.6, div=0.3)}, FAILS),
        (judge_noun, {}, HOLDS),
        (judge_noun, {"no noun": row(dino=0.5, clip_i=0.9, error=0.1)}, PARTLY),
        (judge_noun, {"no noun": row(dino=0.7, clip_i=0.9)}, PARTLY),
        (judge_noun, {"no noun": row(dino=0.7, clip_i=0.9, error=0.1)}, FAILS),
        (judge_word, {}, HOLDS),
        (judge_word, {"Textual Inversion": row(dino=0.4, clip_t=0.35)}, PARTLY),
        (judge_word, {"Textual Inversion": row(dino=0.7, clip_t=0.35)}, FAILS),
    ],
)
def test_the_judges_of_ways_say_what_their_rules_say(judge, ways, verdict):
    if ways and judge is judge_noun and verdict == PARTLY and ways["no noun"]["dino"] == 0.7:
        ways = ways | {"no noun": row(dino=0.7, clip_i=0.9, error=0.21)}
    assert judge(record(**ways)).verdict == verdict


@pytest.mark.parametrize(
    "dino, verdict",
    [
        ((0.5, 0.52, 0.6, 0.61, 0.6), HOLDS),
        ((0.5, 0.5, 0.52, 0.6, 0.61), PARTLY),
        ((0.6, 0.5, 0.5, 0.5, 0.61), FAILS),
        ((0.6, 0.5, 0.4, 0.4, 0.4), FAILS),
    ],
)
def test_three_pictures_are_enough_only_where_more_add_little(dino, verdict):
    made = record() | dict(counts=[dict(pictures=k + 1, **row(dino=d)) for k, d in enumerate(dino)])
    assert judge_count(made).verdict == verdict


def second(plain=20.0, least=22.0, most=21.0):
    scene = render_subject(
        sample_subject(random.Random(0), "star"), [sample_context(random.Random(k), "blue") for k in (1, 2)]
    )
    strip = packed(scene)
    small = packed(torch.nn.functional.avg_pool2d(scene, 2))
    ways = {
        "bicubic": 19.0,
        "not tuned": plain,
        "tuned, noise 0": least,
        "tuned, noise 0.05": most - 0.1,
        "tuned, noise 0.2": most,
    }
    return dict(
        levels=[0.0, 0.05, 0.2],
        ways={k: dict(psnr=v, dino=0.8, detail=0.9, strip=strip) for k, v in ways.items()},
        strip=dict(
            small=small,
            true=strip,
            said=["a zwx star on a red background", "a zwx star on a blue background"],
        ),
    )


@pytest.mark.parametrize(
    "made, verdict",
    [
        (second(), HOLDS),
        (second(least=20.3), PARTLY),
        (second(most=23.0), PARTLY),
        (second(least=19.0, most=19.5), FAILS),
    ],
)
def test_the_second_stage_must_gain_and_noise_must_cost(made, verdict):
    assert judge_upsampler(made).verdict == verdict


def test_every_figure_is_drawn_from_its_record(tmp_path):
    (tmp_path / "dreambooth.json").write_text(json.dumps(record()), encoding="utf-8")
    (tmp_path / "dreambooth_upsampler.json").write_text(json.dumps(second()), encoding="utf-8")
    names = [f"{draw.__name__}.png" for draw in DRAWN]
    assert set(names) <= set(FIGURES) and set(names) == {
        *claims_dreambooth.DREAMBOOTH.pictures,
        *dreambooth_upsampler.UPSAMPLER.pictures,
    }
    make(names, tmp_path, tmp_path)
    assert all((tmp_path / name).stat().st_size > 10_000 for name in names)


# ---- the tools ----


def test_subjects_are_asked_for_where_they_were_not_shown():
    cases = draw_cases(4, 0)
    assert draw_cases(4, 0) == cases != draw_cases(4, 1) and len({case.subject.noun for case in cases}) == 4
    for case in cases:
        shown, asked = {c.background for c in case.given}, {c.background for c in case.asked}
        assert len(shown) == len(case.given) == 5 and not shown & asked and len(asked) == 3
        assert [c.other is not None for c in case.asked] == [False, False, True, False]
        assert [c.colour is not None for c in case.asked] == [False, False, False, True]
    assert all(wrong_noun(noun) != noun and wrong_noun(wrong_noun(noun)) == noun for noun in SHAPES)


def test_a_true_picture_has_nearly_no_pose_error_and_another_subject_has():
    rng = random.Random(2)
    subject, other = sample_subject(rng, "star"), sample_subject(rng, "star")
    contexts = [sample_context(rng, ground) for ground in ("red", "blue", "white")]
    mine, theirs = (pose_error(render_subject(s, contexts), subject, contexts[0]) for s in (subject, other))
    none = pose_error(torch.zeros(1, 3, 64, 64), subject, contexts[0])
    assert mine.max() < 0.16 and theirs.min() > 1.5 * mine.max() and none.min() > mine.max()


def test_pose_error_is_the_least_masked_rmse_over_places():
    """Where the very template stands in the picture nothing is left but rounding."""
    rng = random.Random(5)
    subject = sample_subject(rng, "heart")
    context = replace(
        sample_context(rng, "green"), x=0.5, y=0.5, radius=SIZES["large"] * 1.12, tilt=0.12, shade=0.0
    )
    x = render_subject(subject, context)
    assert pose_error(x, subject, context) < 2e-3
    assert pose_error(x.roll((4, -2), (2, 3)), subject, context) < 2e-3
    assert abs(pose_error((x + 0.2), subject, context) - 0.1) < 0.01
    recoloured = replace(context, colour="red")
    assert (
        pose_error(render_subject(subject, recoloured), subject, recoloured)
        < 2e-3
        < 0.05
        < pose_error(x, subject, recoloured)
    )


def test_a_curve_is_the_means_of_its_stretches():
    assert curve([1.0, 3.0, 5.0]) == [1.0, 3.0, 5.0]
    assert len(curve(list(range(240)))) == 24 and curve(list(range(240)))[0] == 4.5


def test_pictures_come_back_from_letters():
    x = torch.randint(0, 256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    torch.testing.assert_close(torch.stack([unpacked(p) for p in packed(x)]), x)


def test_detail_is_less_in_a_blur_and_counts_the_subject_only():
    x = torch.randn((1, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    blurred = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    assert detail(blurred, mask) < 0.5 * detail(x, mask)
    outside = x.clone()
    outside[..., 14:] += 5
    torch.testing.assert_close(detail(outside, mask), detail(x, mask))


def test_made_records_are_not_changed_by_judges():
    made = record()
    before = copy.deepcopy(made)
    assert isinstance(judge_prior(made), page.Finding) and made == before
