"""`restart`, restart policies against `stop`, and the restart after a boot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.lib.life import facts, init_of, monitor_of, obedient, row
from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def test_running_container_is_restarted(rless: Product) -> None:
    made = obedient(rless, "again", "-e A=b -l k=v")
    before, first = facts(rless, made), init_of(rless, made)
    assert rless("restart", "again").expect().out == "again\n"
    assert row(rless, "again")["State"] == "running"
    assert init_of(rless, made) != first
    assert facts(rless, made) == before
    rless("restart", "-t", "0", "-s", "USR1", "again").expect()
    assert rless("logs", "again").out.count("bye") == 1
    rless("rm", "-f", "again").expect()


def test_restart_starts_an_ended_container_and_reports_a_missing_one(rless: Product) -> None:
    rless.detach("ended", "", "sh", "-c", "echo once more")
    rless("wait", "ended").expect()
    done = rless("restart", "none", "ended").expect(1)
    assert done.out == "ended\n"
    assert "no such container" in done.one_line_error()
    rless("wait", "ended").expect()
    assert rless("logs", "ended").lines() == ["once more"] * 2
    rless("rm", "ended").expect()


def test_files_survive_a_restart(rless: Product) -> None:
    rless.detach("kept", "", "sh", "-c", "echo x >>/srv/file; wc -l </srv/file; sleep 600")
    wait_for(lambda: rless("logs", "kept").out == "1\n", "the first start")
    rless("restart", "-t", "0", "kept").expect()
    wait_for(lambda: rless("logs", "kept").out == "1\n2\n", "the second start")
    rless("rm", "-f", "kept").expect()


def test_concurrent_starts_run_one_container(rless: Product) -> None:
    """One wins; the other finds it running, which is what was asked for, or says so."""
    rless.detach("pair", "", "sleep", "600")
    for _ in range(5):
        rless("stop", "-t", "0", "pair").expect()
        both = [rless.start("start", "pair") for _ in range(3)]
        results = [process.communicate(timeout=30) for process in both]
        assert 0 in [process.returncode for process in both], results
        for process, (_, err) in zip(both, results, strict=True):
            assert process.returncode == 0 or b"another command" in err, results
        assert row(rless, "pair")["State"] == "running"
        running = [
            pid for pid, what in rless.processes().items() if "sleep" in what and "600" in what
        ]
        assert len(running) == 1, rless.processes()
    rless("rm", "-f", "pair").expect()


# -- restart policies against what the user wants --------------------------------------------------


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_stopped_container_is_not_restarted_by_its_policy(rless: Product, verb: str) -> None:
    obedient(rless, "always", "--restart always")
    rless(verb, "always").expect()
    time.sleep(0.5)
    assert row(rless, "always")["State"] == "exited"
    rless("rm", "always").expect()


def test_stop_ends_the_restart_delay(rless: Product) -> None:
    """It has ended and waits for its restart: a stop ends that wait."""
    rless.detach("failing", "--restart always", "false")
    wait_for(lambda: row(rless, "failing")["State"] == "restarting", "the wait")
    rless("stop", "failing").expect()
    assert row(rless, "failing")["State"] == "exited"
    time.sleep(0.4)
    assert row(rless, "failing")["State"] == "exited"
    rless("rm", "failing").expect()


def test_forced_removal_ends_the_restart_delay(rless: Product) -> None:
    for delay in (0.0, 0.05, 0.1, 0.15, 0.2):
        rless.detach("failing", "--restart always", "false")
        time.sleep(delay)
        rless("rm", "-f", "failing").expect()
        rless.assert_clean()


def test_stop_wins_over_restarts_at_any_moment(rless: Product) -> None:
    for number in range(8):
        rless.detach("quick", "--restart always", "sh", "-c", "sleep 0.05; exit 1")
        time.sleep(0.1 + 0.03 * number)
        rless("stop", "-t", "1", "quick").expect()
        time.sleep(0.3)
        assert row(rless, "quick")["State"] == "exited"
        rless("rm", "quick").expect()


# -- after a boot ----------------------------------------------------------------------------------


def crash(rless: Product, *made: str) -> None:
    """End containers as a power cut does: nobody notes it, and no process is left."""
    for name in made:
        monitor, init = monitor_of(rless, name), init_of(rless, name)
        os.kill(monitor, signal.SIGKILL)
        wait_for(lambda init=init: not os.path.exists(f"/proc/{init}/root"), "the end")


def test_containers_with_a_policy_start_after_boot(rless: Product) -> None:
    policies = ("always", "unless-stopped", "on-failure", "no")
    made = [rless.detach(f"boot-{p}", f"--restart {p}", "sleep", "600") for p in policies]
    stopped = ("always", "unless-stopped")
    also = [rless.detach(f"down-{p}", f"--restart {p}", "sleep", "600") for p in stopped]
    rless("create", "--name", "never-started", "--restart", "always", "--network=none", rless.image,
          "sleep", "600").expect()  # fmt: skip
    rless("stop", "-t", "0", *also).expect()
    crash(rless, *made)
    # As Docker's daemon at its start: always comes back even if it was stopped.
    expected = ["boot-always", "boot-unless-stopped", "down-always"]
    assert sorted(rless("system", "start").expect().lines()) == expected
    for name in expected:
        assert row(rless, name)["State"] == "running"
    assert rless("system", "start").expect().out == ""
    assert sorted(rless("system", "stop").expect().lines()) == expected
    # That was no stop by the user.
    assert sorted(rless("system", "start").expect().lines()) == expected
    rless("rm", "-f", *rless.containers()).expect()


@pytest.mark.needs("delegated cgroup")
def test_stop_of_a_unit_waits_for_helpers(rless: Product) -> None:
    """systemd removes the group of its unit once only, as ExecStop= ends."""
    unit = Path(os.environ["RLESS_TEST_CGROUP"], "unit.service")
    for group in ("supervisor", ".control"):
        (unit / group).mkdir(parents=True)
    enter = 'echo $$ >"$0/cgroup.procs"; exec "$@"'
    helper = subprocess.Popen(["sh", "-c", enter, unit / "supervisor", "sleep", "600"])
    try:
        wait_for(lambda: (unit / "supervisor/cgroup.procs").read_text() != "", "the helper")
        words = ["sh", "-c", enter, str(unit / ".control"), *rless.argv("system", "stop")]
        stop = subprocess.Popen(words, env=rless.environment())
        with pytest.raises(subprocess.TimeoutExpired):
            stop.wait(1)
    finally:
        helper.kill()
        helper.wait()
    assert stop.wait(5) == 0
    for group in (unit / "supervisor", unit / ".control", unit):
        group.rmdir()


def test_start_clears_the_stopped_mark(rless: Product) -> None:
    made = rless.detach("marked", "--restart unless-stopped", "sleep", "600")
    rless("stop", "-t", "0", "marked").expect()
    rless("start", "marked").expect()
    crash(rless, made)
    assert rless("system", "start").expect().out == "marked\n"
    assert json.loads((rless.live / made).read_text())["init"]
    rless("rm", "-f", "marked").expect()


@pytest.mark.parametrize("stubborn", [False, True])
def test_sigterm_to_the_monitor_stops_the_container(rless: Product, stubborn: bool) -> None:
    """systemd sends TERM to the monitor: a stop that no policy undoes, but no user's request."""
    if stubborn:
        made = rless.detach("ending", "--restart always --stop-timeout 1", "sleep", "600")
    else:
        script = "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done"
        made = rless.detach("ending", "--restart always --stop-signal USR1", "sh", "-c", script)
        wait_for(lambda: "ready" in rless("logs", "ending").out, "the application")
        rless("update", "--restart", "unless-stopped", "ending").expect()
    begun = time.monotonic()
    os.kill(monitor_of(rless, made), signal.SIGTERM)
    if not stubborn:
        assert rless("wait", "ending").expect().out == "9\n"
    else:
        assert rless("wait", "ending").expect().out == "137\n"
        assert 0.9 < time.monotonic() - begun < 20
    time.sleep(0.3)  # longer than the first delay of a restart
    assert row(rless, "ending")["State"] == "exited"
    assert rless("system", "start").expect().out == "ending\n"
    rless("rm", "-f", "ending").expect()
