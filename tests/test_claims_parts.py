"""A long measurement keeps its parts: stopped anywhere, it goes on after the last one, on the same models
and code only.
"""

import pytest

from palimpsest.claims import CLAIMS, parts, sdedit
from palimpsest.claims.parts import Parts, at_once, code_of


def kept(tmp_path, **identity):
    return Parts(tmp_path / "runs" / "long.json", dict(n=4, seed=0) | identity)


def test_a_part_that_is_done_is_not_measured_again(tmp_path):
    part, asked = kept(tmp_path), []
    first = [part(name, lambda name=name: asked.append(name) or dict(right=0.1 + 0.2)) for name in ("a", "b")]
    again = kept(tmp_path)
    second = [again(name, lambda: pytest.fail("measured again")) for name in ("a", "b")]
    assert first == second == [dict(right=0.1 + 0.2)] * 2 and asked == ["a", "b"]
    assert again.seconds == pytest.approx(part.seconds)


def test_a_stop_in_a_part_keeps_those_before_it(tmp_path):
    part = kept(tmp_path)
    part("a", lambda: 1)

    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        part("b", stopped)
    assert list(kept(tmp_path).done) == ["a"] and kept(tmp_path)("b", lambda: 2) == 2


@pytest.mark.parametrize("other", [dict(n=5), dict(files={"shapes": "0"}), dict(code="0")])
def test_parts_of_other_models_settings_or_code_are_not_used(tmp_path, capsys, other):
    kept(tmp_path)("a", lambda: 1)
    assert kept(tmp_path, **other)("a", lambda: 2) == 2
    assert "measuring anew" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{", '{"done": 3}'])
def test_a_damaged_file_is_measured_anew_in_one_line(tmp_path, capsys, text):
    kept(tmp_path)("a", lambda: 1)
    (tmp_path / "runs" / "long.json").write_text(text, encoding="utf-8")
    capsys.readouterr()
    assert kept(tmp_path)("a", lambda: 2) == 2 and capsys.readouterr().err.count("\n") <= 1


def test_a_part_reads_the_same_new_and_from_the_file(tmp_path):
    value = kept(tmp_path)("a", lambda: dict(curve=(1, 2.5), none=None))
    assert value == kept(tmp_path)("a", at_once) == dict(curve=[1, 2.5], none=None)


def test_what_is_done_leaves_no_file(tmp_path):
    part = kept(tmp_path)
    part("a", lambda: 1)
    part.forget()
    part.forget()
    assert not part.file.exists()


def test_code_is_told_apart_by_its_module():
    assert code_of(sdedit.measure_curve) == code_of(sdedit.measure_masks) != code_of(parts.at_once)


def test_every_measurement_takes_parts():
    """So that none can be lost by a stop."""
    import inspect

    runs = {c.measurement.run for c in CLAIMS if c.measurement}
    assert len(runs) == 19 and all("part" in inspect.signature(run).parameters for run in runs)
