"""The mutants of `python -m tests.mutants` are faults, one each, and the tests that try them are those of the module."""

import ast

import pytest

from tests import mutants

SOURCE = '''
def f(x: int = 3) -> int:
    """Text with 5 in it."""
    log(x)
    if x < 2 and not x == 4:
        return -x
    return x + 1
'''


def test_every_fault_is_one_change_of_a_body():
    faults = [fault for _, fault in mutants.sites(ast.parse(SOURCE))]
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
    assert "pass" in ast.unparse(mutants.mutated(SOURCE, 0)) and "log" not in ast.unparse(
        mutants.mutated(SOURCE, 0)
    )


@pytest.mark.parametrize("file, first", [("samplers/ddim.py", "test_ddim.py"), ("nets/blocks.py", None)])
def test_a_module_is_tried_by_its_own_tests(file, first):
    found = mutants.tests_of(mutants.ROOT / file)
    assert 0 < len(found) <= mutants.MOST and (first is None or found[0].name == first)
    assert all(f.stem.startswith("test_") for f in found)


def test_every_equivalent_mutant_is_still_there():
    known = {
        m.key for room in mutants.ROOMS for m in mutants.all_of(sorted((mutants.ROOT / room).rglob("*.py")))
    }
    assert set(mutants.EQUIVALENT) <= known
