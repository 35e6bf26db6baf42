"""`stop` and `wait`: signals, timeouts, and many containers at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.lib.life import OBEDIENT, STUBBORN, init_of, monitor_of, obedient, row
from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def test_stop_sends_sigterm(rless: Product) -> None:
    made = obedient(rless, "polite")
    assert rless("stop", "polite").expect().out == "polite\n"
    assert rless("wait", "polite").expect().out == "0\n"
    assert "bye" in rless("logs", "polite").out
    assert not (rless.live / made).exists()
    # Stopped is what was asked for: not an error.
    assert rless("stop", made[:12]).expect().out == f"{made[:12]}\n"
    rless("rm", "polite").expect()


def test_stop_kills_after_its_timeout(rless: Product) -> None:
    rless.detach("stubborn", "", *STUBBORN)
    began = time.monotonic()
    rless("stop", "-t", "1", "stubborn").expect()
    assert 0.9 < time.monotonic() - began < 6
    assert row(rless, "stubborn")["Status"].startswith("Exited (137)")
    rless("rm", "stubborn").expect()


def test_stop_uses_signal_and_timeout_of_the_container(rless: Product) -> None:
    script = "trap 'exit 5' USR1; trap 'exit 6' USR2; echo ready; while :; do sleep 0.05; done"
    for words, code in ((("stop",), 5), (("stop", "-s", "USR2"), 6), (("stop", "--signal=12"), 6)):
        rless.detach("own", "--stop-signal USR1", "sh", "-c", script)
        wait_for(lambda: "ready" in rless("logs", "own").out, "the application")
        rless(*words, "own").expect()
        assert rless("wait", "own").out == f"{code}\n"
        rless("rm", "own").expect()
    rless.detach("short", "--stop-timeout 0", *STUBBORN)
    began = time.monotonic()
    rless("stop", "short").expect()
    assert time.monotonic() - began < 5
    rless("rm", "short").expect()


def test_several_containers_are_stopped_in_parallel(rless: Product) -> None:
    names = [f"many{number}" for number in range(4)]
    for name in names:
        rless.detach(name, "", *STUBBORN)
    began = time.monotonic()
    assert rless("stop", "-t", "2", *names).expect().lines() == names
    assert time.monotonic() - began < 6  # one after the other takes eight seconds
    rless("rm", *names).expect()


def test_failure_of_one_does_not_keep_the_others(rless: Product) -> None:
    obedient(rless, "there")
    done = rless("stop", "none", "there").expect(1)
    assert "no such container: none" in done.one_line_error()
    assert done.out == "there\n"
    rless("rm", "there").expect()


def test_unknown_signal_is_refused(rless: Product) -> None:
    assert "is not a signal" in rless("stop", "-s", "NONE", "x").expect(125).one_line_error()


def test_killed_monitor_ends_stop_and_wait(rless: Product) -> None:
    made = rless.detach("orphan", "", *STUBBORN)
    init = init_of(rless, made)
    stopping = rless.start("stop", "-t", "-1", "orphan")
    time.sleep(0.3)
    os.kill(monitor_of(rless, made), signal.SIGKILL)
    assert stopping.wait(20) == 0
    assert not os.path.exists(f"/proc/{init}/root")
    assert row(rless, "orphan")["Status"].startswith("Exited (137)")
    rless("rm", "orphan").expect()


# -- wait ------------------------------------------------------------------------------------------


def test_wait_prints_exit_codes_in_order(rless: Product) -> None:
    rless.detach("slow", "", "sh", "-c", "sleep 0.7; exit 4")
    rless.detach("fast", "", "sh", "-c", "exit 5")
    assert rless("wait", "slow", "fast").expect().out == "4\n5\n"
    assert rless("wait", "fast", "slow").expect().out == "5\n4\n"
    rless("rm", "slow", "fast").expect()


def test_wait_works_for_an_automatically_removed_container(rless: Product) -> None:
    rless.detach("brief", "--rm", "sh", "-c", "sleep 0.7; exit 6")
    rless.detach("brief2", "--rm", "sh", "-c", "sleep 0.5; exit 7")
    assert rless("wait", "brief", "brief2").expect().out == "6\n7\n"


def test_wait_accepts_conditions(rless: Product) -> None:
    rless.detach("ended", "", "sh", "-c", "exit 3")
    assert rless("wait", "--condition", "not-running", "ended").expect().out == "3\n"
    removed = rless.start("wait", "--condition", "removed", "ended")
    following = rless.start("wait", "--condition=next-exit", "ended")
    time.sleep(0.5)
    assert removed.poll() is None
    assert following.poll() is None
    rless("start", "ended").expect()
    assert following.communicate(timeout=20)[0] == b"3\n"
    assert removed.poll() is None
    rless("rm", "ended").expect()
    assert removed.communicate(timeout=20)[0] == b"3\n"
    error = rless("wait", "--condition", "never", "x").expect(125).one_line_error()
    assert "not-running" in error


def test_wait_reports_missing_containers_and_continues(rless: Product) -> None:
    rless.detach("there", "", "true")
    done = rless("wait", "none", "there").expect(1)
    assert done.out == "0\n"
    assert "no such container" in done.one_line_error()
    rless("rm", "there").expect()


# -- races -----------------------------------------------------------------------------------------


@pytest.mark.needs("user namespaces")
def test_stop_waits_for_a_starting_container(rless: Product) -> None:
    """The stop waits for the start; then it ends what runs, whichever came first."""
    for _ in range(5):
        starting = rless.start(
            "run", "-d", "--name", "race", "--network=none", rless.image, "sh", "-c", OBEDIENT
        )
        wait_for((rless.storage / "names" / "race").is_symlink, "the name")
        done = rless("stop", "-t", "1", "race")
        assert starting.wait(20) == 0
        assert done.code == 0 or "no such container" in done.err, done
        if done.code == 0:
            assert row(rless, "race")["State"] in ("exited", "running")
        rless("rm", "-f", "race").expect()


def test_stop_does_not_wait_when_the_signal_is_discarded(rless: Product) -> None:
    """The kernel throws the signal away then; `stop` does not wait for its timeout all the same."""
    script = "sleep 1; trap 'exit 3' TERM; while :; do sleep 0.05; done"
    for flags, number in (("", "TERM"), ("--stop-signal USR2", "USR2")):
        rless.detach("early", flags, "sh", "-c", script.replace("TERM", number))
        began = time.monotonic()
        rless("stop", "-t", "30", "early").expect()
        assert time.monotonic() - began < 15
        assert rless("wait", "early").out == "3\n"
        rless("rm", "early").expect()


def test_stop_sends_its_signal_once(rless: Product) -> None:
    """One that takes its time hears of it once, whatever else it catches meanwhile."""
    script = "trap 'echo asked' TERM; echo ready; i=0; "
    script += "while [ $i -lt 30 ]; do sleep 0.05; i=$((i+1)); done"
    rless.detach("slow", "", "sh", "-c", script)
    wait_for(lambda: "ready" in rless("logs", "slow").out, "the application")
    rless("stop", "-t", "30", "slow").expect()
    assert rless("logs", "slow").out == "ready\nasked\n"
    rless("rm", "slow").expect()


def test_fifty_concurrent_stops_of_one_container_succeed(rless: Product) -> None:
    obedient(rless, "popular")
    stops = [rless.start("stop", "popular") for _ in range(8)]
    assert [stop.wait(30) for stop in stops] == [0] * 8, [
        stop.stderr.read() for stop in stops if stop.stderr
    ]
    assert row(rless, "popular")["Status"].startswith("Exited (0)")
    rless("rm", "popular").expect()


def test_stop_loads_few_modules(rless: Product) -> None:
    """What stop and rm load is on the way of their speed; modules that cost much are left out."""
    code = (
        "import sys; from rootless.cli.main import main; main(sys.argv[1:]); "
        "print(*sorted(sys.modules))"
    )
    heavy = {"typing", "dataclasses", "subprocess", "logging", "re", "json", "signal", "click"}
    for verb in ("stop", "kill", "rm"):
        obedient(rless, "light")
        words = [sys.executable, "-I", "-S", "-c"]
        path = f"import sys; sys.path.append({os.getcwd()!r}); "
        done = subprocess.run(
            [*words, path + code, verb, *(["-f"] if verb == "rm" else []), "light"],
            env=rless.environment(), capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        loaded = set(done.stdout.splitlines()[-1].split())
        assert "rootless.engine.manage.signals" in loaded, done
        assert not loaded & heavy, loaded & heavy
        rless("rm", "-f", "light")
