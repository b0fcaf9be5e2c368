"""The clock beside the reference programs: both sides do the same work, and a figure is what was measured."""

import json

import pytest
import torch

from palimpsest.claims import growth, page, speed, speed_pairs, whole_edits
from palimpsest.claims.page import read_record
from palimpsest.claims.verify import Setting

pytest.importorskip("diffusers")
SMALL = Setting("small")


@pytest.mark.parametrize("name", ["unet", "decoder", "text"])
def test_both_sides_give_the_same(name):
    with torch.inference_mode():
        pairs = list(speed.PAIRS[name](SMALL))
        assert pairs and all(pair.error < 1e-5 for pair in pairs)
        for pair in pairs:
            torch.testing.assert_close(pair.ours(), speed_pairs.first(pair.theirs()), rtol=1e-4, atol=1e-5)


def test_bfloat16_has_its_error_said():
    with torch.inference_mode():
        beside, too = speed.PAIRS["bfloat16"](SMALL)
        assert all(1e-4 < pair.error < 0.1 and pair.ours().dtype == torch.bfloat16 for pair in (beside, too))
        assert beside.theirs().dtype == torch.float32 and too.theirs().dtype == torch.bfloat16


def test_both_learn_the_same_from_each_step():
    for pair, tolerance in zip(speed.PAIRS["training"](SMALL), (1e-5, 2e-2), strict=True):
        ours, theirs = ([call() for _ in range(3)] for call in (pair.ours, pair.theirs))
        assert ours[0] > ours[1] > ours[2]
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=0)


def test_whole_edits_evaluate_the_unet_equally_often(monkeypatch):
    """Pictures × branches × steps, counted at the nets of both."""
    diffusers, rows = pytest.importorskip("diffusers"), []
    for kind in (speed.UNet, diffusers.UNet2DConditionModel):
        forward = kind.forward
        monkeypatch.setattr(
            kind, "forward", lambda net, x, *a, f=forward, **k: rows.append(len(x)) or f(net, x, *a, **k)
        )
    found = {}
    for whole in whole_edits.edits(SMALL, 64, 6):
        if whole.name in ("SDEdit", "InstructPix2Pix"):
            counts = []
            for call in (whole.ours, whole.theirs):
                rows.clear()
                call()
                counts.append(sum(rows))
            found[whole.name] = counts
    assert found == {"SDEdit": [6, 6], "InstructPix2Pix": [18, 18]}  # 3 steps of 2 branches, 6 of 3


def test_their_processor_reads_the_maps_that_our_tap_reads():
    net = speed.drawn(speed.UNet, SMALL)
    theirs, (x, t, ctx), ours_maps, their_maps = speed.twin_unet(net), speed.given(SMALL, net), [], []
    theirs.set_attn_processor(speed_pairs.MapReader(their_maps))
    with torch.inference_mode():
        net(x, t, ctx, lambda probs, site: ours_maps.append(probs.mean(1)) or probs)
        theirs(x, t, ctx)
    assert len(ours_maps) == len(their_maps) == 2 * len(net.transformers())
    for a, b in zip(ours_maps, their_maps):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_ratio_is_the_median_over_rounds_and_the_first_call_does_not_count(monkeypatch):
    clock = iter([0, 1, 1, 3, 3, 7, 7, 10, 10, 16, 16, 22])  # (1, 2), then theirs first: (4, 3), (6, 6)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    calls = []
    pair = speed.Pair("it", 0.5, lambda: calls.append("ours"), lambda: calls.append("theirs"), "them 1.0")
    row = speed.timed(pair, 3)
    assert calls == ["ours", "theirs", "ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert (row["ratio"], row["ours"], row["theirs"]) == (0.75, 3, 4) and row["error"] is None


def test_the_table_says_what_is_missed():
    row = dict(name="it", target=0.6, reference="them", ratio=0.7, ours=0.7, theirs=1.0, error=1e-6)
    record = dict(rows=[row, row | dict(ratio=0.6)], peak=dict(ours=2**30, theirs=2**31))
    missed, reached, memory = speed.pairs_table(record["rows"], record["peak"])[2:]
    assert (
        "| 0.70 | ≤ 0.6 | **missed** | 1e-06 |" in missed
        and "| yes |" in reached
        and "1.00 GiB | 2.00 GiB | 0.50" in memory
    )


@pytest.mark.slow
def test_all_of_it_runs_small(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert speed.main(["--quick", "--rounds", "1"]) == 0
    record = json.loads((tmp_path / "runs/quick/speed.json").read_text(encoding="utf-8"))
    (machine,) = record["machines"]
    assert (
        len(machine["rows"]) == 14 + 3 * speed_pairs.AMX
        and 0 < machine["keys_share"] < 1
        and min(machine["peak"].values()) > 10**8
    )
    assert [row["name"] for row in machine["commands"]] == [*speed.COMMANDS]
    assert len(machine["growth"]) == 5 and min(machine["limits"].values()) > 0
    assert "| `palimpsest sdedit` |" in capsys.readouterr().out


def test_another_processor_keeps_its_entry(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speed, "keys_share", lambda s, rounds: 0.5)
    for name in ("A", "B", "A"):
        monkeypatch.setattr(speed, "processor", lambda name=name: name)
        assert speed.main(["--quick", "--only", "keys"]) == 0
    record = json.loads((tmp_path / "runs/quick/speed.json").read_text(encoding="utf-8"))
    assert [m["processor"] for m in record["machines"]] == ["B", "A"]


def test_the_exponent_is_the_slope_of_the_logarithms():
    assert growth.slope([1.0, 2.0, 4.0], [3.0, 12.0, 48.0]) == pytest.approx(2)


@pytest.mark.parametrize("argv", [["--rounds", "0"], ["--only", "everything"]])
def test_a_request_that_makes_no_sense_is_refused(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        speed.main(argv)
    assert stop.value.code == 2 and argv[0] in capsys.readouterr().err


def test_the_page_shows_what_was_measured():
    record = read_record("speed")
    if record is None:
        pytest.skip("python -m palimpsest.claims.speed has not been run on these nets")
    text = (page.DOCS / "speed.md").read_text(encoding="utf-8")
    assert page.between(text, "speed", speed.page_of(record)) == text
