"""End a test that hangs, and tell of a failure at once: a run that is cut says what it died of.

pytest-timeout raises an exception in a test that takes too long. That does not help where the test
waits again while it cleans up after that exception; and there is no timer any more for the cleaning
up of a test that has failed. Here a thread looks at each phase (setup, call, teardown): it prints
where all threads are, and ends the process, of which xdist makes a failure and a new worker.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator

import pytest

GRACE = 60.0  # seconds that a test has to end once it was told to
_limit = pytest.StashKey[float]()
_stderr = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the stderr of the run: each test has one of its own."""
    config.stash[_stderr] = os.dup(2)


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: object) -> Iterator[None]:
    """Note how long pytest-timeout lets a test be."""
    item.stash[_limit] = getattr(settings, "timeout") + GRACE  # noqa: B009 # a private class
    return (yield)


def _watched(item: pytest.Item) -> Iterator[None]:
    limit = item.stash.get(_limit, None)
    if limit is None:
        return (yield)
    faulthandler.dump_traceback_later(limit, file=item.config.stash[_stderr], exit=True)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


_hook = pytest.hookimpl(wrapper=True, tryfirst=True)
pytest_runtest_setup = pytest_runtest_call = pytest_runtest_teardown = _hook(_watched)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say at once what has failed; all of it comes at the end."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        crash = getattr(report.longrepr, "reprcrash", None)
        why = str(crash or report.longreprtext).strip().splitlines()
        print(f"\n{report.when} of {report.nodeid} failed: {why[0] if why else ''}", flush=True)
