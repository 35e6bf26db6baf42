"""Shared by all tests: a test that needs a fact of the machine is skipped only by naming it."""

from __future__ import annotations

import hypothesis
import pytest

from tests.lib import needs


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose `needs` mark names a fact that this machine does not have."""
    for mark in item.iter_markers("needs"):
        for fact in mark.args:
            if not needs.has(fact):
                pytest.skip(f"needs {fact}")
    if item.get_closest_marker("nosub") and not needs.has("no subordinate ids"):
        pytest.skip("needs no subordinate ids")


# No database of examples: the tree may not be writable for who runs the tests. No deadline: CI
# machines are slow by turns.
hypothesis.settings.register_profile("rless", database=None, deadline=None)
hypothesis.settings.load_profile("rless")
