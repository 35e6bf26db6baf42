"""`--restart`: an ended container is started again in its own namespaces."""

from __future__ import annotations

import json
import time

import pytest

from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def facts(rless: Product) -> dict[str, object]:
    found: dict[str, object] = json.loads((rless.container() / "exit.json").read_text())
    return found


def lines(rless: Product, name: str) -> list[str]:
    return rless("logs", name).expect().lines()


def test_on_failure_restarts_up_to_its_maximum(rless: Product) -> None:
    script = "echo x >>/n; wc -l </n; readlink /proc/self/ns/net; exit 3"
    rless.detach("fails", "--restart on-failure:2", "sh", "-c", script)
    wait_for(lambda: len(lines(rless, "fails")) == 6, "three runs")
    assert rless("wait", "fails").expect().out == "3\n"
    found = lines(rless, "fails")
    assert found[::2] == ["1", "2", "3"]  # the files stay
    assert len(set(found[1::2])) == 1  # and the network
    assert facts(rless)["restarts"] == 2
    rless("rm", "fails").expect()
    rless.detach("well", "--restart on-failure", "true")
    rless("wait", "well").expect()
    assert "Exited (0)" in rless("ps", "-a").out
    rless("rm", "well").expect()


def test_always_restarts_until_stop(rless: Product) -> None:
    rless.detach("always", "--restart always", "sh", "-c", "echo x; sleep 0.05")
    wait_for(lambda: len(lines(rless, "always")) >= 3, "three runs")
    rless("stop", "-t", "1", "always").expect()
    count = len(lines(rless, "always"))
    time.sleep(0.5)
    assert len(lines(rless, "always")) == count
    assert not rless.processes()
    assert rless("start", "always").expect().out == "always\n"
    wait_for(lambda: len(lines(rless, "always")) > count + 1, "more runs")
    rless("rm", "-f", "always").expect()


def test_restart_delay_doubles(rless: Product) -> None:
    rless.detach("slower", "--restart always", "sh", "-c", "date +%s; exit 1")
    wait_for(lambda: "Restarting (1)" in rless("ps").out, "the state")
    time.sleep(1.5)
    assert len(lines(rless, "slower")) <= 6
    began = time.monotonic()
    rless("rm", "-f", "slower").expect()
    assert time.monotonic() - began < 5


def test_terminal_and_published_port_survive_a_restart(rless: Product) -> None:
    rless.detach("tty", "-t --restart on-failure:1", "sh", "-c", "tty; exit 1")
    wait_for(lambda: lines(rless, "tty") == ["/dev/pts/0", "/dev/pts/0"], "two runs")
    rless("wait", "tty").expect()
    rless("rm", "tty").expect()


def test_killed_application_is_restarted(rless: Product) -> None:
    rless.detach("back", "--restart unless-stopped", "sh", "-c", "echo $$; sleep 60")
    wait_for(lambda: lines(rless, "back"), "the start")
    before = json.loads((rless.live / rless.containers()[0]).read_text())
    rless("kill", "-s", "KILL", "back")
    # Docker: killed by the user is stopped by the user.
    time.sleep(0.4)
    assert len(lines(rless, "back")) == 1
    rless("start", "back").expect()
    wait_for(lambda: len(lines(rless, "back")) == 2, "the second run")
    after = json.loads((rless.live / rless.containers()[0]).read_text())
    assert after["monitor"] != before["monitor"]
    import os
    import signal

    os.kill(after["init"][0], signal.SIGKILL)
    wait_for(lambda: len(lines(rless, "back")) == 3, "the third run")
    last = json.loads((rless.live / rless.containers()[0]).read_text())
    assert last["monitor"] == after["monitor"]
    assert last["restarts"] == 1
    rless("rm", "-f", "back").expect()


def test_contradicting_flags_are_refused(rless: Product) -> None:
    error = rless.run("--restart always", "true").expect(125).one_line_error()
    assert "--restart and --rm" in error
    for policy in ("sometimes", "always:3", "on-failure:-1", "on-failure:x"):
        done = rless("run", "--restart", policy, rless.image, "true").expect(125)
        assert "--restart" in done.one_line_error()


def test_container_killed_between_runs_is_cleaned_up(rless: Product) -> None:
    import os
    import signal

    rless.detach("gone", "--restart always", "sh", "-c", "exit 1")
    wait_for(lambda: "Restarting" in rless("ps").out, "the state")
    live = json.loads((rless.live / rless.containers()[0]).read_text())
    os.kill(live["monitor"][0], signal.SIGKILL)
    wait_for(lambda: "Exited (1)" in rless("ps", "-a").out, "the end")
    assert not rless.processes()
    rless("rm", "gone").expect()
