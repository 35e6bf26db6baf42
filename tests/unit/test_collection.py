"""pytest collects every file of tests."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def test_no_directory_of_tests_is_passed_over(pytestconfig: pytest.Config) -> None:
    """A name like `build` is on pytest's own list of what it does not enter."""
    skipped = pytestconfig.getini("norecursedirs")
    for path in TESTS.rglob("test_*.py"):
        for part in path.relative_to(TESTS).parts[:-1]:
            assert not any(fnmatch.fnmatch(part, pattern) for pattern in skipped), path
