"""The mutants of `python -m tests.mutants` are faults, one each; what tries them tells killed from alive."""

import ast
import time

import pytest
import torch

from palimpsest.samplers.convert import q_sample
from palimpsest.samplers.schedule import Schedule
from tests import mutant_trials, mutants
from tests.equivalent import EQUIVALENT

SOURCE = '''
def f(x: int = 3) -> int:
    """Text with 5 in it."""
    log(x)
    if x < 2 and not x == 4:
        return -x
    return x + 1
'''


def test_every_fault_is_one_change_of_a_body():
    faults = [fault for _, fault, _ in mutants.sites(ast.parse(SOURCE))]
    assert sorted(faults) == sorted(
        [
            "call left out",
            "condition turned round",
            "And -> Or",
            "Lt -> LtE",
            "2 -> 3",
            "Not left out",
            "Eq -> NotEq",
            "4 -> 5",
            "USub left out",
            "Add -> Sub",
            "1 -> 2",
        ]
    )
    sound = ast.unparse(ast.parse(SOURCE))
    wrong = {ast.unparse(mutants.mutated(SOURCE, k)) for k in range(len(faults))}
    assert len(wrong) == len(faults) and sound not in wrong
    left_out = ast.unparse(mutants.mutated(SOURCE, 0))
    assert "if False:\n        log(x)" in left_out


def test_a_share_of_every_file_is_drawn_and_the_same_for_the_same_seed():
    files = ["samplers/ddim.py", "samplers/noise.py", "fit/processes.py"]
    some = mutants.drawn(files, 20, seed=3)
    assert some == mutants.drawn(files, 20, seed=3) != mutants.drawn(files, 20, seed=4)
    assert {m.file for m in some} == set(files) and 20 <= len(some) <= 22 and len(set(some)) == len(some)


def test_the_intervals_are_wilsons():
    low, high = mutants.interval(96, 100)
    assert (low, high) == pytest.approx((0.9016, 0.9843), abs=1e-4)  # Agresti and Coull 1998, score interval


def test_a_fault_is_put_in_place_in_a_child_alone():
    functions = mutant_trials.functions_of_rooms()
    schedule, x = Schedule.cosine(10), torch.ones(1, 1, 1, 1)
    wrong = next(
        m for m in mutants.all_of("samplers/convert.py") if m.source == "return signal * x_0 + noise * eps"
    )

    def asked() -> float:
        mutant_trials.put(wrong, functions)
        return q_sample(schedule, x, 5, x).item()

    sound = q_sample(schedule, x, 5, x).item()
    assert wrong.fault == "Add -> Sub" and sound > 1
    assert mutant_trials.in_child(asked, 30) == pytest.approx(0, abs=0.2)
    assert q_sample(schedule, x, 5, x).item() == sound


def test_a_child_that_ends_early_and_one_that_does_not_end_are_told_apart():
    assert mutant_trials.in_child(lambda: {"a": 1}, 30) == {"a": 1}
    assert mutant_trials.in_child(lambda: 1 / 0, 30) == "crash"
    assert mutant_trials.in_child(lambda: time.sleep(60), 0.2) == "endless"


def test_every_equivalent_mutant_is_still_there():
    for file, known in EQUIVALENT.items():
        assert set(known) <= {(m.source, m.fault) for m in mutants.all_of(file)}, file
        assert all(len(reason) > 10 for reason in known.values())
