"""Which cases of a test run in every suite, and which in the long tests only."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow(cases: Iterable[str], *names: str) -> list[Any]:
    """Cases as parameters; the named ones run with the long tests, as others go the same way."""
    cases = list(cases)
    assert set(names) <= set(cases), f"No cases: {sorted(set(names) - set(cases))}"
    return [pytest.param(case, marks=pytest.mark.slow) if case in names else case for case in cases]


def slow_but(cases: Iterable[str], *names: str) -> list[Any]:
    """Cases as parameters, of which every suite runs the named ones."""
    cases = list(cases)
    assert set(names) <= set(cases), f"No cases: {sorted(set(names) - set(cases))}"
    return slow(cases, *(case for case in cases if case not in names))
