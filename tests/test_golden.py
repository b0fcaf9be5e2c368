"""What every public verb gives is what it gave when the record was made (tests/golden.py)."""

import pytest
import torch

from tests import golden

RECORD, ON = golden.read()


def cases():
    for name, entry in golden.ENTRIES.items():
        marks = [pytest.mark.xdist_group("golden"), *[pytest.mark.slow] * entry.slow]
        yield pytest.param(name, marks=marks)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", cases())
def test_nothing_moved(name):
    if golden.ENTRIES[name].draws and not golden.draws_as_recorded():
        pytest.skip(
            f"torch {torch.__version__} draws other numbers by multinomial than {ON.split(', ')[-1]} did"
        )
    lines = golden.moved(name, RECORD, golden.computed(name), exact=False, on=ON)
    assert lines == [], f"meant? then: python tests/golden.py --record {name}; and say why in CHANGED"


def test_every_entry_is_recorded_and_nothing_else_is():
    recorded = {key.split("/")[0] for key in RECORD}
    assert recorded == {name.split("/")[0] for name in golden.ENTRIES}
    assert not [name for name in golden.ENTRIES if not any(key.startswith(f"{name}/") for key in RECORD)]
    assert not [key for key in RECORD if not any(key.startswith(f"{name}/") for name in golden.ENTRIES)]


@pytest.mark.parametrize("change, seen", [(1.001, True), (1.0 + 1e-7, False)])
def test_a_small_change_of_a_number_is_seen_and_rounding_is_not(change, seen):
    name = "samplers/noise"
    old = {key: leaf for key, leaf in RECORD.items() if key.startswith(f"{name}/")}
    key = f"{name}/randn"
    new = old | {key: old[key]._replace(some=old[key].some * change, digest="another")}
    assert bool(golden.moved(name, old, new, exact=False, on=ON)) == seen
    assert golden.moved(name, old, new, exact=True, on=ON) != []


def test_another_shape_a_missing_value_and_another_text_are_seen():
    name = "nets/texts"
    old = {key: leaf for key, leaf in RECORD.items() if key.startswith(f"{name}/")}
    tokens, text = f"{name}/shapes/tokens", f"{name}/shapes/pieces"
    for new in (
        old | {tokens: old[tokens]._replace(shape=(1, 2))},
        {k: v for k, v in old.items() if k != tokens},
        old | {text: golden.Leaf(text="[]")},
    ):
        assert golden.moved(name, old, new, exact=False, on=ON) != []


def test_the_release_that_recorded_keeps_the_strict_tolerance_and_another_has_its_own():
    name, key = "text2live/settings", "text2live/settings/opacity"
    old = {k: leaf for k, leaf in RECORD.items() if k.startswith(f"{name}/")}
    new = old | {key: old[key]._replace(some=old[key].some + 2e-2 * old[key].stats[2], digest="another")}
    here, elsewhere = (f"a machine, PyTorch {release}" for release in (torch.__version__, "2.3.1"))
    assert golden.moved(name, old, new, exact=False, on=here) != []
    assert golden.moved(name, old, new, exact=False, on=elsewhere) == []
    assert golden.moved(name, old, new, exact=True, on=elsewhere) != []


def test_draws_are_compared_with_the_release_that_recorded():
    if golden.release(ON) == golden.release(golden.machine()):
        assert golden.draws_as_recorded()
