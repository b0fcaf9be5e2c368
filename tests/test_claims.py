"""The measuring machinery: verdicts are computed, pages are what records say, missed floors are called
missed.
"""

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from palimpsest.claims import CLAIMS, bench, goals, page, reach, sdedit
from palimpsest.claims.__main__ import main
from palimpsest.claims.common import (
    Models,
    choose_edit,
    in_batches,
    is_there,
    new_scenes,
    open_models,
    rank_correlation,
    rounded,
)
from palimpsest.claims.draw import emoji, examples, hand
from palimpsest.claims.draw.make import FIGURES, make
from palimpsest.claims.page import RECORDS, read_record
from palimpsest.nets.judges.reader import Reader
from palimpsest.weights.files import manifest, write_weights
from palimpsest.worlds.mix import ASPECTS, pixels_of
from palimpsest.worlds.scene import COLOURS
from palimpsest.worlds.shapes import ATTRIBUTES, attributes, is_held_out, render, sample_scene
from palimpsest.worlds.words import wanted
from tests.tiny import tiny_glide, tiny_instruct, tiny_ve, tiny_weights

ROOT = Path(__file__).parent.parent
T0 = (0.1, 0.3, 0.4, 0.5, 0.6, 0.8)


def curve(kid, rmse, right=(0.2, 0.5, 0.9, 0.9, 0.9, 0.6), found=1.0):
    """A record of C1 and C2 in which all walks look alike."""
    rows = [
        dict(t0=t, sigma=10 * t**3, kid=k, kid_std=0.01, rmse=r, l2=100 * r, right=a)
        for t, k, r, a in zip(T0, kid, rmse, right)
    ]
    return dict(
        n=8,
        seed=0,
        w=3.0,
        steps=25,
        walks={name: rows for name in sdedit.WALKS},
        guide=dict(kid=1.0, kid_std=0.01, rmse=0.02, right=0.1),
        bisection=dict(target=0.1, tolerance=0.05, n=4, rounds=4.0, found=found),
    )


def masks(with_mask=0.9, without=0.9, change=0.0, kept_db=33.0, loose_db=27.0):
    row = dict(
        t0=0.6,
        with_mask=dict(all=with_mask),
        unpasted=dict(all=with_mask),
        without_mask=dict(all=without),
        outside_change_pasted=change,
        outside_db_unpasted=kept_db,
        outside_db_without_mask=loose_db,
    )
    return dict(
        n=512,
        seed=0,
        rows=[row, row | dict(t0=0.8, with_mask=dict(all=0.1))],
        painting=dict(all=0.4),
        outside_db_autoencoder=34.0,
    )


FALLING, RISING = (0.9, 0.15, 0.1, 0.08, 0.05, 0.0), (0.03, 0.05, 0.06, 0.07, 0.08, 0.2)


# --------------------------------------------------------------------------- the page


def test_the_page_lists_the_33_claims_in_order():
    assert [c.id for c in CLAIMS] == [f"C{k}" for k in range(1, 34)]
    assert len({c.says for c in CLAIMS}) == 33


def test_the_page_in_the_repository_is_what_the_records_give():
    assert page.PAGE.read_text(encoding="utf-8") == page.page(CLAIMS), "run `python -m palimpsest.claims`"


def test_a_claim_without_a_record_is_not_yet_measured_and_nothing_is_invented(tmp_path):
    for claim in CLAIMS:
        assert page.find(claim, tmp_path) == (page.UNMEASURED, "")
        assert page.row(claim, tmp_path).endswith("| **not yet measured** |  |  |  |")
        assert "Ours" not in page.details(claim, tmp_path)


def test_a_records_figures_n_and_seed_reach_the_page(tmp_path):
    (tmp_path / "sdedit_masks.json").write_text(
        json.dumps(masks(with_mask=0.9) | dict(n=777, seed=5)), encoding="utf-8"
    )
    text = page.page(CLAIMS, tmp_path)
    line = next(r for r in text.splitlines() if r.startswith("| **C3** "))
    assert "90% [88, 92]" in line and "**holds**" in line
    assert line.endswith("| 777 | [picture](figures/sdedit_masks.png) |")
    folded = next(r for r in text.splitlines() if r.startswith("**C3.**"))
    assert "(n = 777, seed 5)" in folded and "90%" in folded


@pytest.mark.parametrize("right, n", [(0, 8), (1, 8), (8, 8), (59, 64), (460, 512)])
def test_a_share_stands_with_wilsons_interval(right, n):
    from scipy.stats import binomtest

    ends = binomtest(right, n).proportion_ci(method="wilson")
    assert page.share(right / n, n, 1) == f"{right / n:.1%} [{100 * ends.low:.1f}, {100 * ends.high:.1f}]"


@pytest.mark.parametrize(
    "one, other, low, high",
    [(0.9, 0.3, 0.1705, 0.8090), (1.0, 0.0, 0.6075, 1.0), (0.0, 0.0, -0.2775, 0.2775)],
)
def test_the_interval_of_a_difference_is_newcombes(one, other, low, high):
    """Newcombe 1998 (Statistics in Medicine 17:873), Table II, method 10, of 10 and 10."""
    assert page.gap(one, other, 10) == pytest.approx((low, high), abs=1e-4)
    assert page.gap(other, one, 10) == pytest.approx((-high, -low), abs=1e-4)


def test_every_claim_shows_its_n_and_most_an_interval():
    rows = [r.split(" | ") for r in page.page(CLAIMS).splitlines() if r.startswith("| **C")]
    assert all(int(cells[3]) >= 8 for cells in rows)
    folded = [page.find(c).ours for c in CLAIMS]
    assert sum(bool(re.search(r"\[-?[\d.]+, -?[\d.]+\]", ours)) for ours in folded) >= 27


def test_every_verdict_has_its_rule_its_command_and_the_papers_figure_on_the_page():
    text = page.page(CLAIMS)
    assert text.count("<details>") == text.count("</details>") == len({c.paper for c in CLAIMS})
    for claim in (c for c in CLAIMS if c.judge):
        folded = next(r for r in text.splitlines() if r.startswith(f"**{claim.id}.**"))
        assert claim.theirs in folded and f"`python -m palimpsest.claims {claim.id}`" in folded
        assert " ".join(claim.judge.__doc__.split()) in folded


def test_a_figure_in_brief_is_cut_between_figures_and_never_inside_brackets():
    assert page.brief("all right: 1%, 2%; the rest (a, b) 3%", 24) == "all right: 1%, 2% …"
    assert page.brief("both, 1 (a, b, c), two", 16) == "both, 1 …"
    assert page.brief("none, of them: 1, 2", 4) == "none, of them: 1 …"
    assert page.brief("at 30.4 [29.1, 31.8] dB", 14) == "at 30.4 [29.1, 31.8] dB"
    assert page.brief("short") == "short"


# --------------------------------------------------------------------------- the rules


@pytest.mark.parametrize(
    "kid, rmse, verdict",
    [
        (FALLING, RISING, page.HOLDS),
        ((0.9, 0.3, 0.1, 0.12, 0.2, 0.15), RISING, page.PARTLY),
        (FALLING[::-1], RISING, page.FAILS),
        (FALLING, RISING[::-1], page.FAILS),
    ],
)
def test_the_trade_off_holds_only_where_distance_rises_and_kid_falls(kid, rmse, verdict):
    assert sdedit.judge_trade(curve(kid, rmse)).verdict == verdict


def test_useful_is_80_per_cent_of_the_gain_for_50_per_cent_of_the_loss():
    record = curve(FALLING, RISING)  # gain from 1 to 0: kid ≤ .2; loss from .02 to .2: rmse ≤ .11
    assert sdedit.useful(record, "VE") == [0.3, 0.4, 0.5, 0.6]
    assert sdedit.useful(curve(FALLING, (0.03, 0.05, 0.06, 0.12, 0.13, 0.2)), "VE") == [0.3, 0.4]


@pytest.mark.parametrize(
    "record, verdict",
    [
        (curve(FALLING, RISING), page.HOLDS),
        (curve(FALLING, RISING, found=0.5), page.PARTLY),
        (curve((0.1, 0.1, 0.1, 0.1, 0.1, 0.0), RISING), page.PARTLY),  # useful from .1 on
        (curve((0.9, 0.9, 0.9, 0.9, 0.9, 0.0), RISING), page.FAILS),
    ],
)  # never both
def test_the_band_holds_only_where_all_useful_t0_lie_in_it_and_bisection_finds_them(record, verdict):
    assert sdedit.judge_band(record).verdict == verdict


@pytest.mark.parametrize(
    "record, verdict",
    [
        (masks(), page.HOLDS),
        (masks(with_mask=0.8), page.PARTLY),
        (masks(change=1e-7), page.FAILS),
        (masks(loose_db=31.0), page.FAILS),
    ],
)
def test_a_mask_must_keep_the_rest_to_the_bit_and_cost_no_success(record, verdict):
    assert sdedit.judge_masks(record).verdict == verdict


# --------------------------------------------------------------------------- the tools


def test_rank_correlation_knows_only_the_order():
    assert rank_correlation([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [9, 3, 2, -5]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)


def test_new_scenes_repeat_and_keep_held_out_pairs_apart():
    assert new_scenes(5, 3) == new_scenes(5, 3) != new_scenes(5, 4)
    assert not any(is_held_out(s) for s in new_scenes(20, 0))
    assert all(is_held_out(s) for s in new_scenes(20, 0, held_out=True))
    assert {len(s.things) for s in new_scenes(9, 0, things=2)} == {2}


def test_batches_cover_everything_once_and_carry_no_gradient():
    x = torch.arange(10.0).requires_grad_()
    found = in_batches(lambda rows: x[rows] + 0, 10, 4)
    assert found.tolist() == list(range(10)) and not found.requires_grad


def test_rounding_keeps_significant_digits_and_whole_numbers():
    assert rounded(dict(a=[1.23456789, 7], b=(1e-9 / 3,), c="x")) == dict(
        a=[1.2346, 7], b=[3.3333e-10], c="x"
    )


# --------------------------------------------------------------------------- measuring, on models that know nothing


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    tiny_weights(folder, "shapes", size=64)
    tiny_weights(folder, "shapes-companion", size=64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reader = Reader(attributes={k: len(v) for k, v in ATTRIBUTES.items()}, width=8, heads=2)
    config = dict(kind="reader", reader=dict(width=8, heads=2), values=ATTRIBUTES)
    write_weights(folder / "shapes-reader.safetensors", {"reader": reader}, config)
    tiny_ve(folder)
    tiny_glide(folder, "shapes-glide", 32)
    tiny_glide(folder, "shapes-glide-upsampler", 64, upsampling=True)
    for name in ("shapes-instruct", "shapes-instruct-generated"):
        tiny_instruct(folder, name, beside="shapes")
    return open_models(folder)


@pytest.fixture(autouse=True)
def two_steps(monkeypatch):
    for module in (sdedit, bench, reach):
        monkeypatch.setattr(module, "STEPS", 2)


def test_the_curve_is_measured_judged_and_drawn(models, tmp_path):
    record = sdedit.measure_curve(models, n=3, seed=0, t0s=(0.2, 0.9), reference=4, searches=1)
    (tmp_path / "sdedit_curve.json").write_text(
        json.dumps(rounded(dict(n=3, seed=0, **record))), encoding="utf-8"
    )
    assert set(record["walks"]) == set(sdedit.WALKS) and all(
        len(rows) == 2 for rows in record["walks"].values()
    )
    sigmas = {name: [r["sigma"] for r in rows] for name, rows in record["walks"].items()}
    assert sigmas["VP, DDIM"] == sigmas["VP, ancestral"] != sigmas["VE"] and sigmas["VE"] == sorted(
        sigmas["VE"]
    )
    for claim in CLAIMS[:2]:
        assert page.find(claim, tmp_path).verdict in (page.HOLDS, page.PARTLY, page.FAILS)
    make(["sdedit_curve.png"], tmp_path, tmp_path)
    assert (tmp_path / "sdedit_curve.png").stat().st_size > 10_000


def test_masked_edits_are_measured_and_the_kept_pixels_do_not_change(models, tmp_path):
    record = sdedit.measure_masks(models, n=3, seed=0, t0s=(0.5,))
    (tmp_path / "sdedit_masks.json").write_text(
        json.dumps(rounded(dict(n=3, seed=0, **record))), encoding="utf-8"
    )
    assert record["kinds"] == {"recolour": 1, "reshape": 1, "add": 1}
    assert record["rows"][0]["outside_change_pasted"] == 0 and record["rows"][0]["outside_db_unpasted"] < 60
    make(["sdedit_masks.png"], tmp_path, tmp_path)
    assert (tmp_path / "sdedit_masks.png").stat().st_size > 10_000


def test_a_painted_edit_touches_nothing_outside_its_mask():
    scene = new_scenes(1, 0, things=1)[0]
    edit = choose_edit(scene, "recolour", random.Random(0))
    guide, mask = sdedit.painted_edit(scene, edit, torch.Generator().manual_seed(0))
    assert torch.equal(guide * (1 - mask), render(scene) * (1 - mask)) and 0 < mask.mean() < 1
    assert ((guide - render(scene)).abs() * mask).max() > 0.2


def test_a_part_whose_model_is_not_trained_is_left_out(models):
    for folder in (models.folder, None):
        assert is_there("shapes", folder) and not is_there("shapes-nothing", folder)


def test_the_bench_measures_every_part_and_the_table_shows_it_beside_its_goal(models, tmp_path):
    parts = {name: rounded(part(models, parts, 2)) for parts in [{}] for name, part in bench.PARTS.items()}
    found = list(goals.measured(parts))
    assert {row.by.removeprefix("bench, ") for row in found} == set(bench.PARTS) == set(goals.LINES)
    assert len({row.file + row.key for row in found}) == len(found)  # no figure takes another's place
    assert json.loads(json.dumps(parts)) == parts
    for row in found:
        low, high = row.interval or (row.measured, row.measured)
        assert low - 1e-6 <= row.measured <= high + 1e-6, row
    (tmp_path / "bench.json").write_text(json.dumps(dict(parts=parts)), encoding="utf-8")
    assert goals.table(goals.rows(tmp_path)) == goals.table(found)
    make(["w_curve.png"], tmp_path, tmp_path)


def test_what_is_drawn_by_hand_is_asked_for_another_colour_or_another_shape():
    pictures, texts, kinds = reach.hand_edits()
    told = json.loads((RECORDS / "hand" / "plain" / "captions.json").read_text(encoding="utf-8"))
    assert pictures.shape == (48, 3, 64, 64) and len(texts) == 48
    for i, before in enumerate(told.values()):
        for text, kind in zip(texts[2 * i : 2 * i + 2], kinds[2 * i : 2 * i + 2]):
            was, is_ = wanted(before), wanted(text)
            changed = {key for key in was if was[key] != is_[key]}
            # of two things the one that the text names first is the first
            assert changed == {"colour_1" if kind == "recolour" else "shape_1"}, (before, text)


def test_a_drawing_of_another_shape_becomes_a_square():
    for size in ((48, 64), (64, 48), (96, 64), (64, 96), (64, 64)):
        x = torch.linspace(-1, 1, 3 * size[0] * size[1]).view(1, 3, *size)
        seen = reach.squared(x)
        assert seen.shape == (1, 3, 64, 64)
        assert seen.min() >= -1 - 1e-6 and seen.max() <= 1 + 1e-6
    rows = torch.arange(48.0).view(1, 1, 48, 1).expand(1, 3, 48, 64)
    assert torch.equal(reach.squared(rows)[0, 0, :, 5], torch.arange(-8.0, 56).clamp(0, 47))


def test_windows_let_the_reader_judge_pictures_of_every_shape():
    model = open_models()
    for k, extent in enumerate(ASPECTS):
        rng = random.Random(k)
        scenes = [sample_scene(rng, 1, extent=extent) for _ in range(24)]
        pictures, wanted_ = render(scenes, pixels_of(extent)), [attributes(s) for s in scenes]
        assert {tuple(w.shape[-2:]) for w in reach.windows(pictures)} == {(64, 64)}
        right, count = reach.seen_in_windows(model, pictures, wanted_)
        assert right.double().mean() > 0.9 and count.all(), extent
        two = render([sample_scene(rng, 2, extent=extent) for _ in range(24)], pixels_of(extent))
        right, count = reach.seen_in_windows(model, two, wanted_)  # a second thing is seen
        assert not right.any() and count.double().mean() < 0.3, extent


def test_two_things_far_apart_are_right_and_turned_they_are_not():
    model, extent = open_models(), next(e for e in ASPECTS if pixels_of(e) == (64, 96))
    rng, scenes = random.Random(4), []
    while len(scenes) < 48:  # no window of 64 columns shows both
        scene = sample_scene(rng, 2, extent=extent)
        if abs(scene.things[0].x - scene.things[1].x) > 0.9:
            scenes.append(scene)
    pictures, asked = render(scenes, (64, 96)), [attributes(s) for s in scenes]
    right, count = reach.seen_in_windows(model, pictures, asked)
    assert right.double().mean() > 0.8 and count.double().mean() > 0.9
    turned = [a | {f"{k}_{n}": a[f"{k}_{3 - n}"] for k in ("shape", "colour") for n in (1, 2)} for a in asked]
    assert not reach.seen_in_windows(model, pictures, turned)[0].any()


@pytest.mark.parametrize("kind", ["another", "the first again", "the second again"])
def test_a_third_thing_is_seen(kind):
    model, extent = open_models(), next(e for e in ASPECTS if pixels_of(e) == (64, 96))
    rng, scenes, asked = random.Random(5), [], []
    while len(scenes) < 48:
        scene = sample_scene(rng, 2, extent=extent)
        one, two = scene.things
        if scene.relation == "left of" and max(one.x, two.x) < 0.85:
            colour = next(c for c in COLOURS if c not in (scene.background, one.colour, two.colour))
            third = {"another": replace(one, colour=colour), "the first again": one}.get(kind, two)
            scenes.append(replace(scene, things=(one, two, replace(third, x=1.25, radius=0.16))))
            asked.append(attributes(scene))
    right, count = reach.seen_in_windows(model, render(scenes, (64, 96)), asked)
    assert right.double().mean() < 0.3 and count.double().mean() < 0.3


def test_what_is_kept_of_a_share_has_an_interval_around_it():
    plain = torch.tensor([1.0] * 160 + [0.0] * 40).double()
    some = torch.tensor([1.0] * 120 + [0.0] * 80).double()
    found = reach.shares(some, plain)
    assert found["right"] == 0.6 and found["plain"] == 0.8 and found["kept"] == pytest.approx(0.75)
    low, high = found["kept_95"]
    # pairs stay together: of the 160 right ones 120 stay so, each with chance 3/4
    half = 1.96 * (0.75 * 0.25 / 160) ** 0.5
    assert (0.75 - low) == pytest.approx(half, rel=0.15) == pytest.approx(high - 0.75, rel=0.15)


def test_the_error_at_a_noise_level_is_that_of_a_net_that_answers_nothing(models, monkeypatch):
    """Where v̂ = 0, x̂_0 = √ᾱ z_t: an error of mean square (1 − ᾱ)² E z_0² + ᾱ (1 − ᾱ)."""
    model = models.model
    monkeypatch.setattr(model.net, "forward", lambda x, t, ctx=None, tap=None: torch.zeros_like(x))
    z_0 = model.encode(render(new_scenes(64, reach.SEED + 20)))
    for point in reach.noise(models, {}, 64)["curve"]:
        assert model.schedule.sigma(point["t"]) == pytest.approx(point["sigma"], rel=0.1)
        kept = model.schedule.at(point["t"])
        square = (1 - kept) ** 2 * z_0.square().mean() + kept * (1 - kept)
        assert point["error"] == pytest.approx(float(square) ** 0.5, rel=0.05)


# --------------------------------------------------------------------------- the table of goals


def single(right):
    curve = [dict(w=w, right=share) for w, share in ((1.0, 0.5), (3.0, right), (5.0, right))]
    return dict(single=dict(n=256, seed=9, steps=25, curve=curve))


def table_of(parts):
    return goals.table(list(goals.measured(parts)))


def test_a_missed_goal_is_called_missed_and_stands_beside_its_interval():
    assert "| ≥ 98.0 % | 97.9 % | 95.3 % to 99.1 % | 256 | bench, single | **missed** |" in table_of(
        single(0.979)
    )
    assert "| ≥ 98.0 % | 98.0 % | 95.4 % to 99.1 % | 256 | bench, single | yes |" in table_of(single(0.98))
    point = dict(sigma=0.06, t=24, error=0.0201)
    noise = dict(noise=dict(n=256, curve=[point]))
    assert "| ≤ 0.020 | 0.020 |  | 256 | bench, noise | **missed** |" in table_of(noise)
    point["error"] = 0.02
    assert "| ≤ 0.020 | 0.020 |  | 256 | bench, noise | yes |" in table_of(noise)


def test_of_equally_good_scales_the_smaller_is_taken():
    assert bench.best_w(single(0.9)) == 3.0 and bench.best_w({}) == 3.0


def test_the_readme_gets_the_table_between_its_marks_and_twice_is_once():
    text = "before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n"
    once = page.between(text, "bench", table_of(single(0.97)))
    assert (
        once == page.between(once, "bench", table_of(single(0.97))) and "old" not in once and "97.0 %" in once
    )
    assert once.startswith("before\n") and once.endswith("\nafter\n")
    with pytest.raises(ValueError, match="<!-- bench -->"):
        page.between("nothing here", "bench", "")


def test_the_manifest_gets_figures_and_keeps_the_rest():
    before = {
        "shapes.safetensors": dict(sha256="abc", figures=dict(loss=0.04)),
        "other.safetensors": dict(sha256="d"),
    }
    after = goals.into_manifest(before, single(0.97))
    assert after["shapes.safetensors"]["sha256"] == "abc" and after["other.safetensors"]["sha256"] == "d"
    curve = {"w 1": 0.5, "w 3": 0.97, "w 5": 0.97}
    assert after["shapes.safetensors"]["figures"] == dict(loss=0.04)
    found = dict(single_all_right=0.97, single_all_right_n=256, single_curve=curve)
    assert after["shapes.safetensors"]["bench"] == found
    assert "bench" not in before["shapes.safetensors"]


def test_every_record_is_of_the_weights_that_are_shipped():
    """A retrained file makes its old figures stale: measure again. Only what needs a model that is not
    shipped may be unmeasured, or say the hash of that one's file."""
    shipped = {name: record["sha256"] for name, record in manifest().items()}
    waiting = {
        c.measurement.name
        for c in CLAIMS
        if c.measurement and not all(f"{n}.safetensors" in shipped for n in c.measurement.needs)
    }
    for name in (
        "bench",
        "emoji",
        "scoreboard",
        *sorted({c.measurement.name for c in CLAIMS if c.measurement}),
    ):
        record = read_record(name)
        if record is None and name in waiting:
            continue
        assert record is not None, f"figures/{name}.json is missing: make bench, make claims"
        files = record["files"] | {
            k: v for part in record.get("parts", {}).values() for k, v in part.get("files", {}).items()
        }
        known = {file: of for file, of in files.items() if file in shipped}
        assert known == {file: shipped[file] for file in known}, f"figures/{name}.json is of other weights"
        assert known == files or name in waiting, f"figures/{name}.json is of weights that are not shipped"


def test_the_table_of_the_models_is_what_the_records_hold():
    text = (page.DOCS / "models.md").read_text(encoding="utf-8")
    assert page.between(text, "bench", goals.table(goals.rows())) == text


# --------------------------------------------------------------------------- figures and the command line


def test_every_picture_that_a_page_shows_has_a_command_that_makes_it():
    pages = [ROOT / "README.md", page.PAGE, *page.DOCS.glob("*.md"), *(ROOT / "notebooks").glob("*.py")]
    text = "\n".join(p.read_text(encoding="utf-8") for p in pages if p.exists())
    shown = set(re.findall(r"figures/([\w./-]+\.(?:png|jpg))", text))
    drawn = (
        set(FIGURES)
        | {f"hand/{name}" for name in hand.PICTURES}
        | {f"emoji/{name}" for name in emoji.PICTURES}
        | {f"examples/{name}" for name in examples.commands()}
    )
    assert shown - drawn == set()
    assert {c.picture for c in CLAIMS if c.picture} <= drawn


def test_an_unknown_figure_or_a_missing_record_is_named(tmp_path):
    with pytest.raises(ValueError, match="nothing.png.*world.png"):
        make(["nothing.png"], tmp_path, tmp_path)
    with pytest.raises(ValueError, match="bench.json: not measured yet"):
        make(["w_curve.png"], tmp_path, tmp_path)


def test_an_unknown_claim_is_named_before_anything_is_measured(capsys):
    with pytest.raises(SystemExit) as error:
        main(["C1", "C99"])
    assert error.value.code == 2 and "C99" in capsys.readouterr().err
