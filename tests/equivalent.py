"""Mutants of `python -m tests.mutants` that compute the same as the source, and why: no test can kill them.

EQUIVALENT[file][line of source, fault] = reason. tests/test_mutants.py sees that each is still there.
"""

EQUIVALENT: dict[str, dict[tuple[str, str], str]] = {}
