"""`kill`: the signal that is sent, and the errors for stopped containers."""

from __future__ import annotations

import pytest

from tests.lib.life import obedient, row
from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def test_kill_returns_after_the_container_has_ended(rless: Product) -> None:
    obedient(rless, "victim")
    assert rless("kill", "victim").expect().out == "victim\n"
    assert row(rless, "victim")["Status"].startswith("Exited (137)")
    error = rless("kill", "victim").expect(1).one_line_error()
    assert error == "cannot kill container victim: it is not running"
    rless("rm", "victim").expect()


def test_other_signal_leaves_the_container_running(rless: Product) -> None:
    script = "trap 'echo got' USR1; echo ready; while :; do sleep 0.05; done"
    rless.detach("told", "", "sh", "-c", script)
    wait_for(lambda: "ready" in rless("logs", "told").out, "the application")
    rless("kill", "-s", "SIGUSR1", "told").expect()
    wait_for(lambda: "got" in rless("logs", "told").out, "the signal")
    assert row(rless, "told")["State"] == "running"
    rless("rm", "-f", "told").expect()


def test_application_of_a_subordinate_uid_is_signalled(rless: Product) -> None:
    """Its uid on the host is a subordinate one: only the monitor may."""
    rless.detach("other", "--user 1000 --userns host-root", "sleep", "600")
    rless("kill", "other").expect()
    assert row(rless, "other")["Status"].startswith("Exited (137)")
    rless("rm", "other").expect()


def test_several_containers_are_killed(rless: Product) -> None:
    for name in ("k1", "k2"):
        rless.detach(name, "", "sleep", "600")
    done = rless("kill", "k1", "none", "k2").expect(1)
    assert done.lines() == ["k1", "k2"]
    assert "no such container" in done.one_line_error()
    rless("rm", "k1", "k2").expect()


def test_kill_overrides_the_restart_policy(rless: Product) -> None:
    """As Docker: what the user has killed is not started by its policy."""
    obedient(rless, "always", "--restart always")
    rless("kill", "always").expect()
    assert row(rless, "always")["State"] == "exited"
    rless("rm", "always").expect()
