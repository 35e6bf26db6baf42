"""Shared by all tests: a test that needs a fact of the machine is skipped only by naming it."""

from __future__ import annotations

import os
import signal
import tempfile

import hypothesis
import pytest

from tests.lib import known_flaky, needs, watch


def pytest_configure(config: pytest.Config) -> None:
    """Watch the tests; put each xdist worker into a cgroup of its own: what it finds is its own."""
    config.pluginmanager.register(watch)
    config.pluginmanager.register(known_flaky)
    if "XDG_RUNTIME_DIR" not in os.environ:  # skopeo and Podman would look into one of root's
        directory = tempfile.TemporaryDirectory(prefix="rless-run-")
        config.add_cleanup(directory.cleanup)
        os.environ["XDG_RUNTIME_DIR"] = directory.name
    group, worker = os.environ.get("RLESS_TEST_CGROUP"), os.environ.get("PYTEST_XDIST_WORKER")
    if not group or not worker:
        return
    own = f"{group}/tests/{worker}"
    os.makedirs(own, exist_ok=True)
    with open(f"{own}/cgroup.procs", "w", encoding="ascii") as stream:
        stream.write(str(os.getpid()))
    os.environ["RLESS_TEST_CGROUP"] = own


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that may take long: else the last one is waited for alone."""

    def is_long(item: pytest.Item) -> bool:
        mark = item.get_closest_marker("timeout")
        return mark is not None and mark.args[0] > 120

    items.sort(key=is_long, reverse=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose `needs` mark names a fact that this machine does not have."""
    for mark in item.iter_markers("needs"):
        for fact in mark.args:
            if not needs.has(fact):
                pytest.skip(f"needs {fact}")
    if item.get_closest_marker("nosub") and not needs.has("no subordinate ids"):
        pytest.skip("needs no subordinate ids")


# A shell without job control starts `scripts/test &` with the first two ignored, and nohup starts
# it with the last. A program that inherits that never sees Ctrl-C, or the loss of its terminal.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _handler)

# No database of examples: the tree may not be writable for who runs the tests. No deadline: CI
# machines are slow by turns.
hypothesis.settings.register_profile("rless", database=None, deadline=None)
hypothesis.settings.load_profile("rless")
