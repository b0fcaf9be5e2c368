"""Painted pairs: what CLIP says of them by hand, which are kept, and a folder that has the same bits
however often it was stopped.
"""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch import Generator, tensor
from torch.testing import assert_close

from palimpsest.metrics.similarity import cosine, directional
from palimpsest.training import pairs
from palimpsest.training.pairs import P, Scores, best, scored, shared, thresholds, true_edits
from palimpsest.training.shapes import models
from palimpsest.training.shapes_instruct import pairs_of
from palimpsest.weights.judges import load_judge
from palimpsest.weights.load import load, load_autoencoder
from palimpsest.worlds.files import read_picture
from palimpsest.worlds.triplets import Triplet, read_triplets, write_triplets, written
from palimpsest.worlds.words import wanted
from tests.tiny import tiny_clip, tiny_reader, tiny_weights

N, SAMPLES = 5, 2
HALF = Scores(-1.0, 0.0, -1.0, -1.0)  # of a CLIP that knows nothing, about half go its way


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Models that know nothing, and triplets."""
    folder = tmp_path_factory.mktemp("pairs-shelf")
    tiny_weights(folder, size=64)
    tiny_clip(folder)
    tiny_reader(folder)
    write_triplets(written(N, seed=4), folder / "triplets.jsonl")
    return folder


@pytest.fixture
def paint(shelf, monkeypatch):
    """paint(folder, ...) runs the recipe on the shelf; paint.rows counts what was painted, (triplet,
    sample) -> times.
    """
    monkeypatch.setattr(pairs, "thresholds", lambda judge, true: HALF)
    rows, painted = Counter(), pairs.painted

    def counted(b, some, *rest):
        rows.update((i, k) for i, k, _ in some)
        return painted(b, some, *rest)

    monkeypatch.setattr(pairs, "painted", counted)

    def run(out, **changed):
        pairs.main(
            pairs.Arguments(
                **dict(
                    triplets=str(shelf / "triplets.jsonl"),
                    out=str(out),
                    samples=SAMPLES,
                    steps=2,
                    batch=2,
                    device="cpu",
                    model=str(shelf / "tiny.safetensors"),
                    clip=str(shelf / "shapes-clip.safetensors"),
                    reader=str(shelf / "shapes-reader.safetensors"),
                )
                | changed
            )
        )

    run.rows = rows
    return run


def content(folder):
    """Every file by its name but for the scores, whose lines are put in the order of the triplets,
    whichever process wrote them.
    """
    files = {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and "scores" not in p.name
    }
    rows = [
        json.loads(line)
        for p in folder.glob("scores-*.jsonl")
        for line in p.read_text(encoding="utf-8").splitlines()[1:]
        if line.endswith("}")
    ]
    assert len({row["triplet"] for row in rows}) == len(rows), "a triplet twice"
    return files, sorted(rows, key=lambda row: row["triplet"])


@pytest.fixture
def whole(paint, tmp_path):
    """The folder of a run that nobody stopped, and what is in it."""
    paint(tmp_path / "whole")
    paint.rows.clear()
    return content(tmp_path / "whole")


# ---- what is kept ----


class ByHand:
    """A judge whose embeddings can be worked out on paper: a picture's is its mean colour, a text's is
    listed.
    """

    said = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "grey": (1.0, 1.0, 1.0)}

    def images(self, pictures):
        return pictures.mean((2, 3))

    def texts(self, texts):
        return tensor([self.said[text] for text in texts])


def test_the_four_scores_are_the_cosines_by_hand():
    red, green = (tensor(ByHand.said[name]).view(1, 3, 1, 1).expand(1, 3, 4, 4) for name in ("red", "green"))
    found = scored(
        ByHand(), torch.cat([red, red]), torch.cat([green, red]), ["red", "grey"], ["green", "green"]
    )
    assert found[0] == pytest.approx((0, 1, 1, 1))  # went as the captions went, and fits both
    assert found[1] == pytest.approx((1, 0, 3**-0.5, 0))  # went nowhere


def test_the_scores_of_a_net_are_its_embeddings_cosines(shelf):
    judge, triplets = load_judge(shelf / "shapes-clip.safetensors"), written(3, seed=1)
    x, y = (torch.rand((3, 3, 64, 64), generator=Generator().manual_seed(n)) * 2 - 1 for n in range(2))
    texts, new = [t.caption for t in triplets], [t.edited for t in triplets]
    e = judge.images(x), judge.images(y), judge.texts(texts), judge.texts(new)
    wishes = cosine(*e[:2]), directional(*e), cosine(e[0], e[2]), cosine(e[1], e[3])
    for mine, theirs in zip(zip(*scored(judge, x, y, texts, new)), wishes):
        assert_close(tensor(mine, dtype=torch.float64), theirs.detach())


def test_every_threshold_counts_and_reaching_one_is_enough():
    least = pairs.PAPER
    assert least.passes(least)
    for name in Scores._fields:
        assert not least._replace(**{name: getattr(least, name) - 1e-6}).passes(least)


def test_the_best_are_those_that_pass_by_direction_and_four_at_most():
    least = pairs.PAPER
    good = [Scores(0.8, d, 0.3, 0.3) for d in (0.3, 0.9, 0.25, 0.5, 0.7, 0.6)]
    assert (
        best(good, least) == [1, 4, 5, 3]
        and best(good, least, most=2) == [1, 4]
        and best(good[:2], least) == [1, 0]
    )
    assert best([good[0], Scores(0.7, 1.0, 0.9, 0.9), Scores(0.9, 0.1, 0.9, 0.9), good[3]], least) == [3, 0]
    assert best([Scores(0.0, 0.0, 0.0, 0.0)], least) == []


def test_unfiltered_keeps_the_first_whatever_clip_says():
    assert best([Scores(0.0, d, 0.0, 0.0) for d in (0.1, 0.9, -1.0, 0.5, 0.7)], None) == [0, 1, 2, 3]


def test_a_threshold_is_what_the_share_of_true_edits_passes(shelf):
    judge = load_judge(shelf / "shapes-clip.safetensors")
    least, rows = thresholds(judge, true_edits(70, 0)), []
    assert least == thresholds(judge, true_edits(70, 0)) != thresholds(judge, true_edits(70, 1))

    def kept(*args):
        rows.extend(found := scored(*args))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "scored", kept)
        half = thresholds(judge, true_edits(70, 0), share=0.5)
    assert len(rows) == 70
    for name in Scores._fields:
        values = [getattr(row, name) for row in rows]
        assert (
            sum(v >= getattr(half, name) for v in values) == 35
            and sum(v >= getattr(least, name) for v in values) == 63
        )


def test_p_is_a_triplets_and_a_samples_own_and_lies_where_the_paper_has_it(shelf, monkeypatch):
    drawn = [shared(i, k, 0) for i in range(200) for k in range(4)]
    assert len(set(drawn)) == 800 and P[0] <= min(drawn) < 0.12 and 0.88 < max(drawn) <= P[1]
    assert sum(drawn) / 800 == pytest.approx(0.5, abs=0.03) and shared(3, 1, 0) != shared(3, 1, 1)

    asked = []
    monkeypatch.setattr(
        pairs,
        "prompt_to_prompt",
        lambda b, source, target, **how: (
            asked.append(how)
            or SimpleNamespace(
                source_picture=torch.zeros(len(source), 3, 4, 4), raw=torch.zeros(len(source), 3, 4, 4)
            )
        ),
    )
    t = Triplet("a red star", "make the star blue", "a blue star")
    for rows in ([(7, 0, t), (7, 1, t)], [(7, 1, t)]):
        for how in pairs.HOW:
            pairs.painted(None, rows, how, 5, 3.0, 2)
    p = [shared(7, k, 2) for k in range(2)]
    assert [[(one.cross, one.self_) for one in a["injection"]] for a in asked] == [
        [(v, v / 2) for v in p],
        [(0.0, v) for v in p],
        [(p[1], p[1] / 2)],
        [(0.0, p[1])],
    ]
    assert [a["seed"] for a in asked] == [[7002, 7003]] * 2 + [[7003]] * 2


# ---- the folder ----


def test_what_is_written_is_what_was_kept_and_training_reads_it(paint, shelf, tmp_path, capsys):
    paint(tmp_path / "out")
    files, rows = content(tmp_path / "out")
    assert [row["triplet"] for row in rows] == list(range(N)) and set(paint.rows.values()) == {1}
    flags = [s["kept"] for row in rows for s in row["samples"]]
    assert len(flags) == N * SAMPLES and 0 < sum(flags) < len(flags)
    assert all(s["kept"] == (s["direction"] >= 0) for row in rows for s in row["samples"])
    assert all(s["p"] == shared(row["triplet"], k, 0) for row in rows for k, s in enumerate(row["samples"]))
    assert {"kept.png", "dropped.png", "summary.json"} < set(files)
    before, after, asked = pairs_of(
        tmp_path / "out", load_autoencoder(shelf / "tiny-vae.safetensors"), 64, models()[1]
    )
    wishes = read_triplets(shelf / "triplets.jsonl")
    assert asked == [wishes[row["triplet"]].instruction for row in rows for s in row["samples"] if s["kept"]]
    assert before.shape == after.shape == (sum(flags), 4, 16, 16) and not torch.equal(before, after)
    told = json.loads(files["summary.json"])
    assert (told["triplets"], told["pairs"], told["kept"], told["thresholds"]) == (
        N,
        N * SAMPLES,
        sum(flags),
        HALF._asdict(),
    )
    assert f"{sum(flags)} of {N * SAMPLES} pairs kept" in capsys.readouterr().out
    (tmp_path / "out" / next(name for name in files if name.endswith("instruction.txt"))).unlink()
    with pytest.raises(ValueError, match=r"instruction\.txt is missing"):
        pairs_of(tmp_path / "out", load_autoencoder(shelf / "tiny-vae.safetensors"), 64, models()[1])


def test_a_kept_pair_is_the_one_that_prompt_to_prompt_paints_best_first(paint, shelf, tmp_path):
    paint(tmp_path / "out", limit=2)
    model, wishes = load(shelf / "tiny.safetensors", "cpu"), read_triplets(shelf / "triplets.jsonl")
    for row in content(tmp_path / "out")[1]:
        i, samples = row["triplet"], row["samples"]
        ranks = sorted(
            (k for k, s in enumerate(samples) if s["kept"]), key=lambda k: -samples[k]["direction"]
        )
        assert len(list((tmp_path / "out").glob(f"{i:06d}-*"))) == len(ranks)
        for rung, k in enumerate(ranks):
            place = tmp_path / "out" / f"{i:06d}-{rung}"
            for name, made in zip(
                ("before", "after"), pairs.painted(model, [(i, k, wishes[i])], "cross", 2, 3.0, 0)
            ):
                assert_close(read_picture(place / f"{name}.png"), made, rtol=0, atol=0.5 / 127.5 + 1e-3)


def test_what_the_reader_says_is_the_truth_of_both_pictures():
    t = Triplet("a red star", "make the star blue", "a blue star")

    def right(pictures, wishes):
        """White shows a red star, black a blue one."""
        return tensor(
            [
                w == wanted(t.caption if p.mean() > 0 else t.edited)
                for p, w in zip(pictures, wishes, strict=True)
            ]
        )

    red, blue = torch.ones(1, 3, 4, 4), -torch.ones(1, 3, 4, 4)
    before, after, rows = (
        torch.cat([red, red, blue, blue]),
        torch.cat([blue, red, blue, red]),
        [(0, k, t) for k in range(4)],
    )
    assert pairs.told_right(SimpleNamespace(right=right), before, after, rows) == [True, False, False, False]
    assert pairs.told_right(None, before, after, rows) == [None] * 4


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_a_run_that_was_stopped_ends_with_the_same_bits_and_paints_no_batch_twice(
    paint, whole, tmp_path, monkeypatch, lines
):
    append, written_ = pairs.append, []

    def stopped(file, row):
        if len(written_) == lines:
            raise KeyboardInterrupt
        written_.append(row)
        append(file, row)

    monkeypatch.setattr(pairs, "append", stopped)
    with pytest.raises(KeyboardInterrupt):
        paint(tmp_path / "out")
    monkeypatch.setattr(pairs, "append", append)
    paint.rows.clear()
    paint(tmp_path / "out")
    assert content(tmp_path / "out") == whole
    begun = lines // 2 * 2  # the triplets of batches that were done
    assert paint.rows == {(i, k): 1 for i in range(begun, N) for k in range(SAMPLES)}
    paint.rows.clear()
    paint(tmp_path / "out")
    assert not paint.rows and content(tmp_path / "out") == whole


@pytest.mark.parametrize("left", [-7, -1])
def test_a_torn_last_line_is_survived(paint, whole, tmp_path, left):
    paint(tmp_path / "out", limit=4)
    file = tmp_path / "out" / "scores-0.jsonl"
    file.write_bytes(file.read_bytes()[:left])  # without its end, or without the end of the line alone
    paint(tmp_path / "out")
    assert content(tmp_path / "out") == whole


def test_a_torn_first_line_is_as_no_line(paint, whole, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scores-0.jsonl").write_text('{"triplets": "3f', encoding="utf-8")
    paint(tmp_path / "out")
    assert content(tmp_path / "out") == whole
    with pytest.raises(ValueError, match=r"other settings \(seed\)"):
        paint(tmp_path / "out", seed=1)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_processes_share_the_triplets_and_make_what_one_makes(paint, whole, tmp_path, monkeypatch, order):
    for rank in order:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        paint(tmp_path / "out")
    assert set(paint.rows.values()) == {1} and len(paint.rows) == N * SAMPLES
    mine = [
        {
            json.loads(line)["triplet"]
            for line in (tmp_path / "out" / f"scores-{rank}.jsonl")
            .read_text(encoding="utf-8")
            .splitlines()[1:]
        }
        for rank in (0, 1)
    ]
    assert mine == [{0, 1, 4}, {2, 3}] and content(tmp_path / "out") == whole


def test_one_process_ends_what_two_began(paint, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    paint(tmp_path / "out")
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    paint(tmp_path / "out")
    assert set(paint.rows.values()) == {1} and content(tmp_path / "out") == whole


def test_a_folder_of_other_settings_is_refused_by_name_and_left_alone(paint, shelf, tmp_path):
    paint(tmp_path / "out", limit=1)
    before = content(tmp_path / "out")
    write_triplets(written(2, seed=9), tmp_path / "others.jsonl")
    for name, value in dict(
        samples=3,
        most=1,
        how="self",
        steps=3,
        w=2.0,
        unfiltered=1,
        seed=5,
        triplets=str(tmp_path / "others.jsonl"),
        model=str(tiny_weights(tmp_path, "other", size=32)),
    ).items():
        if name == "model":  # the weights are the same, their file is not
            assert (tmp_path / "other.safetensors").read_bytes() != (shelf / "tiny.safetensors").read_bytes()
        with pytest.raises(
            ValueError, match=rf"out: .* other settings \({name}\); give another folder"
        ) as error:
            paint(tmp_path / "out", **{name: value})
        assert "\n" not in str(error.value)
    assert content(tmp_path / "out") == before


def test_both_ways_to_share_paint_and_are_not_the_same(paint, tmp_path):
    for how in pairs.HOW:
        paint(tmp_path / how, how=how, limit=2, unfiltered=1, reader="")
    (cross, rows), (self_, others) = (content(tmp_path / how) for how in pairs.HOW)
    names = {f"{i:06d}-{k}/before.png" for i in range(2) for k in range(SAMPLES)}
    assert names < set(cross) == set(self_)  # unfiltered: all of them
    first, second = (
        max(
            float(
                (read_picture(tmp_path / "cross" / name) - read_picture(tmp_path / "self" / name)).abs().max()
            )
            for name in (before.replace("before", which) for before in names)
        )
        for which in ("before", "after")
    )
    assert first < 1.5 / 127.5 and second > 3 / 127.5  # the first picture is the model's own
    assert {s["right"] for row in rows + others for s in row["samples"]} == {None}
    assert json.loads(cross["summary.json"])["thresholds"] is None and "dropped.png" not in cross


def test_mistakes_are_one_clear_line_before_anything_is_painted(paint, shelf, tmp_path):
    lines = {
        "none": "",
        "unread": '{"caption": "a red star"}\n',
        "word": json.dumps(Triplet("a red star", "make the star blue", "a blue sztar")._asdict()),
        "same": json.dumps(Triplet("a red star", "make the star red", "a red star")._asdict()),
        "odd": json.dumps(Triplet("a red star", "make the star blue", "the blue star make")._asdict()),
    }
    for name, text in lines.items():
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    mistakes = [
        (dict(how="both"), "^how: must be cross or self, got 'both'$"),
        (dict(samples=0), "^samples: must be at least 1, got 0$"),
        (dict(most=0), "^most: "),
        (dict(batch=0), "^batch: "),
        (dict(limit=-1), "^limit: "),
        (dict(steps=0), "^steps: "),
        (dict(triplets=str(tmp_path / "nowhere.jsonl")), "^triplets: .*nowhere.* cannot be read"),
        (dict(model=str(tmp_path / "nowhere.safetensors")), "^model: no weight file"),
        (dict(clip=str(shelf / "tiny.safetensors")), "^model: .* a clip or noised_clip model is needed"),
        *[
            (dict(triplets=str(tmp_path / f"{name}.jsonl")), match)
            for name, match in (
                ("none", "holds none"),
                ("unread", "line 1 is no object"),
                ("word", "line 1: .*sztar"),
                ("same", "line 1: both captions"),
                ("odd", "line 1: "),
            )
        ],
    ]
    for changed, match in mistakes:
        with pytest.raises(ValueError, match=match) as error:
            paint(tmp_path / "out", **changed)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists() and not paint.rows
