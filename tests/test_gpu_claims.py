"""The GPU's script is rehearsed on tiny nets; without a GPU it says so in one line."""

import json

import pytest
import torch

from palimpsest.claims import gpu
from palimpsest.claims.parts import Parts
from palimpsest.claims.verify import Row, Setting
from palimpsest.cli.manners import exit_code_of

SMALL = Setting("small")


@pytest.mark.slow
def test_whole_edits_are_made_by_both(tmp_path):
    found = gpu.whole_edits(SMALL, Parts(tmp_path / "parts.json", {}), lambda: False, rehearse=True)
    assert {"text to picture", "SDEdit", "DiffEdit", "FlowEdit", "Prompt-to-Prompt", "InstructPix2Pix"} < set(
        found
    )
    both = {name for name, row in found.items() if "theirs" in row}
    assert both == {"text to picture", "SDEdit", "DiffEdit", "InstructPix2Pix"}
    for row in found.values():
        assert row["ours"]["seconds"] > 0 and row["ours"]["peak"] is None
        assert "theirs" not in row or row["ratio"] == row["ours"]["seconds"] / row["theirs"]["seconds"]
    assert gpu.whole_edits(SMALL, Parts(tmp_path / "other.json", {}), lambda: True, rehearse=True) == {}


def test_a_certificate_names_what_failed(monkeypatch):
    def rows(s):
        yield Row("good", "", "", "", None, {}, 1e-7, 1e-6)
        yield Row("bad", "", "", "", None, {}, 1e-3, 1e-6)

    monkeypatch.setattr(gpu, "certificate", rows)
    found = gpu.certified(SMALL)
    assert found["rows"] == 2 and found["failed"] == ["bad"] and found["worst"]["what"] == "bad"
    record = dict(
        certificate=dict(float32=found), edits={}, claims=dict(C1=dict(here="holds", shipped="partly"))
    )
    assert gpu.told(record).splitlines() == [
        "certificate, float32: 1 of 2 within their tolerance",
        "C1: holds (shipped record: partly)",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert exit_code_of(lambda: gpu.main([])) == 2
    said = capsys.readouterr().err
    assert "there is no CUDA GPU here; --rehearse" in said and said.count("\n") == 1


def test_a_rehearsal_writes_its_record_and_goes_on_where_it_was_cut(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "certificate", lambda s: iter([Row("net", "", "", "", None, {}, 0.0, 1e-6)]))
    monkeypatch.setattr(gpu, "edits", lambda s, size, steps: iter(()))
    monkeypatch.setattr(gpu, "claim_anew", lambda *a: dict(here="holds", shipped="holds", ours=""))
    assert gpu.main(["--rehearse", "--device", "cpu", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert set(record["certificate"]) == set(gpu.PRECISIONS) and set(record["claims"]) == set(gpu.ANEW)
    assert "certificate, bfloat16: 1 of 1 within" in capsys.readouterr().out
    assert not (tmp_path / "gpu_parts.json").exists()
