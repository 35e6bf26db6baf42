"""`update` of the restart policy; limits are in test_limits."""

from __future__ import annotations

import pytest

from tests.lib.life import facts, init_of, row
from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def test_running_container_gets_the_policy_at_once(rless: Product) -> None:
    script = "trap 'exit 1' HUP; echo ready; while :; do sleep 0.05; done"
    made = rless.detach("changed", "", "sh", "-c", script)
    wait_for(lambda: "ready" in rless("logs", "changed").out, "the application")
    assert rless("update", "--restart", "on-failure:3", "changed").expect().out == "changed\n"
    assert facts(rless, made)["restart"] == {"name": "on-failure", "max": 3}
    first = init_of(rless, made)
    # HUP is not its stop signal: the user wants it to run.
    rless("kill", "-s", "HUP", "changed").expect()
    wait_for(lambda: init_of(rless, made) not in (0, first), "the restart")
    rless("update", "--restart=no", "changed").expect()
    rless("kill", "-s", "HUP", "changed").expect()
    wait_for(lambda: row(rless, "changed")["State"] == "exited", "the end")
    rless("rm", "changed").expect()


def test_ended_container_is_updated(rless: Product) -> None:
    made = rless.detach("ended", "", "true")
    rless("wait", "ended").expect()
    rless("update", "--restart", "always", "ended").expect()
    assert facts(rless, made)["restart"] == {"name": "always", "max": 0}
    assert row(rless, "ended")["State"] == "exited"
    rless("rm", "ended").expect()


def test_wrong_updates_are_refused(rless: Product) -> None:
    rless.detach("brief", "--rm", "sleep", "600")
    assert "--rm" in rless("update", "--restart", "always", "brief").expect(1).one_line_error()
    done = rless("update", "--restart", "no", "none", "brief").expect(1)
    assert done.out == "brief\n"
    assert "no such container" in done.one_line_error()
    for policy in ("never", "always:3", "on-failure:x", ""):
        rless("update", "--restart", policy, "brief").expect(125).one_line_error()
    rless("update", "brief").expect(1).one_line_error()
    for words in (("--kernel-memory", "1g"), ("--cpu-rt-period=2",), ("--memory", "x")):
        rless("update", *words, "brief").expect(125).one_line_error()
    rless("rm", "-f", "brief").expect()
