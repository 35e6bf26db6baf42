"""End a test that hangs, and tell of a failure at once: a run that is cut says what it died of.

pytest-timeout raises an exception in a test that takes too long. That does not help where the test
waits again while it cleans up after that exception; and there is no timer any more for the cleaning
up of a test that has failed. Here a thread looks at each phase (setup, call, teardown): it prints
where all threads are and what each child waits for, and ends the process, of which xdist makes a
failure and a new worker.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tests.lib.faults import where
from tests.lib.product import descendants

GRACE = 60.0  # seconds that a test has to end once it was told to
_limit = pytest.StashKey[float]()
_watch = pytest.StashKey["_Watch"]()


class _Watch:
    """A thread that ends the process at a deadline.

    Attributes:
        deadline: of time.monotonic(); infinity: there is none.
    """

    def __init__(self) -> None:
        self.deadline = float("inf")
        self._stderr = os.dup(2)  # that of the run: each test has one of its own
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def _run(self) -> None:
        while time.monotonic() < self.deadline:
            time.sleep(1)
        faulthandler.dump_traceback(self._stderr)
        # A forked child has xdist's pipes too: xdist would take us for alive.
        for pid in descendants():
            os.write(self._stderr, f"process {pid}\n{where(pid)}\n".encode())
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os._exit(70)


def pytest_configure(config: pytest.Config) -> None:
    """Begin to watch."""
    config.stash[_watch] = _Watch()


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: object) -> Iterator[None]:
    """Note how long pytest-timeout lets a test be."""
    item.stash[_limit] = getattr(settings, "timeout") + GRACE  # noqa: B009 # a private class
    return (yield)


def _watched(item: pytest.Item) -> Iterator[None]:
    watch = item.config.stash[_watch]
    watch.deadline = time.monotonic() + item.stash.get(_limit, float("inf"))
    try:
        return (yield)
    finally:
        watch.deadline = float("inf")


_hook = pytest.hookimpl(wrapper=True, tryfirst=True)
pytest_runtest_setup = pytest_runtest_call = pytest_runtest_teardown = _hook(_watched)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say at once what has failed; all of it comes at the end."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        crash = getattr(report.longrepr, "reprcrash", None)
        why = str(crash or report.longreprtext).strip().splitlines()
        print(f"\n{report.when} of {report.nodeid} failed: {why[0] if why else ''}", flush=True)
