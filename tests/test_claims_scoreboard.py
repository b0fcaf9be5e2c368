"""The scoreboard of the shapes world runs on models that know nothing, counts as it says, and its page is the
record's.
"""

from __future__ import annotations

import pytest
import torch

from palimpsest.claims import scoreboard as board
from palimpsest.claims import text2live as claims_layer
from palimpsest.claims.common import draw_edits, open_models
from palimpsest.claims.page import RECORDS, read_record
from palimpsest.claims.parts import Parts
from palimpsest.claims.ways import COPY, TRUTH, Asked
from palimpsest.cli.manners import exit_code_of
from palimpsest.methods.text2live import Training, Views
from palimpsest.worlds.files import read_picture
from tests.tiny import tiny_clip, tiny_glide, tiny_instruct, tiny_reader, tiny_weights


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    tiny_weights(folder, "shapes", size=64)
    tiny_reader(folder)
    tiny_clip(folder)
    for name in ("shapes-instruct", "shapes-instruct-generated"):
        tiny_instruct(folder, name, beside="shapes")
    tiny_glide(folder, "shapes-glide-inpaint", 32, inpainting=True)
    tiny_glide(folder, "shapes-glide-upsampler-inpaint", 64, inpainting=True, upsampling=True)
    return open_models(folder)


@pytest.fixture
def short(monkeypatch):
    """Two steps of everything, and one setting of each method."""
    monkeypatch.setattr(
        board, "ENTRIES", {n: e._replace(settings=e.settings[:1]) for n, e in board.ENTRIES.items()}
    )
    monkeypatch.setattr("palimpsest.claims.ways.STEPS", 2)
    monkeypatch.setattr(board, "STEPS", 2)
    monkeypatch.setattr(claims_layer, "TRAINING", Training(steps=2, lr=1e-2, bootstrap=1, flip=0))
    monkeypatch.setattr(claims_layer, "VIEWS", Views(n=1, flip=0))


@pytest.mark.slow
def test_the_board_is_measured(models, short, tmp_path):
    part = Parts(tmp_path / "parts.json", {})
    record, sheet = board.measure(models, n=8, tune=16, part=part)
    names = [*board.ENTRIES, board.LAYER]
    assert list(record["methods"]) == names and record["sheet"]["columns"] == ["before", *names, "truth"]
    assert sheet.shape == (1, 3, 8 * 64, (len(names) + 2) * 64)
    drawn = draw_edits(8, board.KINDS, board.SEED + 60)
    assert torch.equal(((sheet[0, :, :64, :64] + 1) * 127.5).round(), ((drawn.before[0] + 1) * 127.5).round())
    assert torch.equal(
        ((sheet[0, :, -64:, -64:] + 1) * 127.5).round(), ((drawn.after[-1] + 1) * 127.5).round()
    )
    for name, row in record["methods"].items():
        assert row["table"]["all"]["n"] == 8 and set(row["table"]) == {"all", *board.KINDS}, name
        assert row["evaluations"] is None or row["evaluations"] > 0
    assert record["ends"][COPY]["all"]["outside_db"][0] == 60  # bit for bit, so at the most that is counted
    assert record["ends"][COPY]["all"]["right"][0] == 0 or record["ends"][COPY]["all"]["right"][0] < 0.5
    text = board.page(record)
    assert all(text.count(f"| {name} |") == 2 for name in (*names, COPY, TRUTH))
    again, same = board.measure(
        models, n=8, tune=16, part=Parts(tmp_path / "parts.json", {})
    )  # nothing made anew
    assert again == record and torch.equal(same, sheet)


def test_a_row_is_renewed_where_the_others_are_of_the_same_weights():
    names = [*board.ENTRIES, board.LAYER]
    files = {file: "now" for name in names for file in board.files_of(name)}
    base = {"shapes.safetensors": "now", "shapes-reader.safetensors": "now"}
    old = dict(
        n=8, seed=board.SEED, tuned_on=16, files=files | base | {"shapes-glide-inpaint.safetensors": "then"}
    )
    others = [name for name in names if name != "GLIDE inpainting"]
    board.check_kept(old, others, base, files, 8, 16)
    with pytest.raises(ValueError, match="the weights of GLIDE inpainting are new, too"):
        board.check_kept(old, names, base, files, 8, 16)
    for changed in (dict(n=4), dict(files=old["files"] | {"shapes-reader.safetensors": "then"})):
        with pytest.raises(ValueError, match="other pairs or by another reader"):
            board.check_kept(old | changed, others, base, files, 8, 16)


def test_the_sheet_gets_the_columns_that_are_new():
    old = dict(sheet=dict(columns=["before", "SDEdit", "DiffEdit", "truth"]))
    new = dict(methods={"DiffEdit": {}}, sheet=dict(columns=["before", "DiffEdit", "truth"]))
    was, now = (
        torch.cat([torch.full((1, 3, 128, 64), v) for v in of], -1) for of in ((0, 1, 2, 3), (0, 9, 3))
    )
    found = board.with_columns(was, old, now, new)
    assert found.shape == was.shape and [c.unique().tolist() for c in found.split(64, -1)] == [
        [0],
        [1],
        [9],
        [3],
    ]


def test_a_box_is_filled_and_of_a_ground_what_changes():
    drawn = draw_edits(8, board.KINDS, 5)
    asked = Asked(drawn.before, drawn.source, drawn.target, drawn.scenes, drawn.edits, 0)
    mask = board.to_fill(asked)
    assert (mask >= drawn.changed).all() and 0 < mask.mean() < 1
    ground = drawn.rows("background")
    assert torch.equal(mask[ground], drawn.changed[ground])


def test_a_picture_lives_through_json():
    picture = torch.randint(256, (1, 3, 6, 4)) / 127.5 - 1
    assert torch.equal(board.from_text(board.as_text(picture)), picture)


def test_numbers_are_told_with_their_intervals():
    assert board.told([1.25, 1, 2]) == "1.2 [1.0, 2.0]" and board.percent([0.5, 0.25, 0.75]) == "50 [25, 75]"
    assert board.told(None) == board.percent(None) == "–"


def test_unknown_methods_are_refused(capsys):
    assert exit_code_of(lambda: board.main(["--only", "Magic"])) == 2
    said = capsys.readouterr().err
    assert "only: no method Magic; there are: SDEdit;" in said and said.count("\n") == 1


def test_the_page_is_the_records():
    record = read_record("scoreboard")
    assert record is not None and board.page(record) in (RECORDS.parent / "docs" / "shapes.md").read_text(
        encoding="utf-8"
    )
    found = {name: row["table"]["all"] for name, row in record["methods"].items()}
    most = {key: max(found, key=lambda name: found[name][key][0]) for key in ("right", "truth_db")}
    assert most == dict(right="FlowEdit", truth_db="InstructPix2Pix, true pairs"), "as docs/shapes.md says"
    told_nothing = {name: f["outside_db"][0] for name, f in found.items() if name != "GLIDE inpainting"}
    assert max(told_nothing, key=told_nothing.get) == "DiffEdit"
    assert min(found, key=lambda name: found[name]["outside_db"][0]) == "SDEdit"
    sheet = read_picture(RECORDS / "scoreboard_edits.png")
    assert sheet.shape[-2:] == (64 * len(record["sheet"]["rows"]), 64 * len(record["sheet"]["columns"]))
    assert record["n"] == board.N and sum(record["kinds"].values()) == board.N
