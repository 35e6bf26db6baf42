"""Random kills: true state, and nothing left behind. `scripts/faults` is the long form.

RLESS_FAULT_SEED repeats what another run has seen.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from tests.lib.build_faults import BuildStorm
from tests.lib.faults import Storm
from tests.lib.life import OBEDIENT, init_of, monitor_of, row
from tests.lib.product import Product, wait_for
from tests.lib.service_faults import ServiceStorm

pytestmark = [pytest.mark.needs("user namespaces", "subordinate ids"), pytest.mark.timeout(300)]

SEED = int(os.environ.get("RLESS_FAULT_SEED", "0")) or int.from_bytes(os.urandom(4), "little")


def _run(storm: Storm | BuildStorm | ServiceStorm, kills: int, seconds: float) -> None:
    """Name the seed where a storm finds something."""
    try:
        storm.run(kills=kills, seconds=seconds)
    except AssertionError as error:
        raise AssertionError(f"RLESS_FAULT_SEED={SEED}\n{error}") from error


def test_many_kills_leave_nothing(own_rless: Product) -> None:
    storm = Storm(own_rless, SEED)
    own_rless("pull", "-q", own_rless.image).expect()
    _run(storm, kills=500, seconds=20)
    assert storm.kills >= 10


def test_builds_that_are_killed_leave_nothing(own_rless: Product) -> None:
    own_rless("pull", "-q", own_rless.image).expect()
    storm = BuildStorm(own_rless, SEED)
    _run(storm, kills=40, seconds=10)
    assert storm.rounds >= 1


def test_service_that_is_killed_loses_streams_only(own_rless: Product) -> None:
    own_rless("pull", "-q", own_rless.image).expect()
    storm = ServiceStorm(own_rless, SEED)
    _run(storm, kills=100, seconds=8)
    assert storm.rounds >= 1


def test_fifty_containers_start_and_stop_at_once(rless: Product) -> None:
    names = [f"fifty{number}" for number in range(50)]
    for name in names:
        words = ("--network=none", rless.image, "sh", "-c", OBEDIENT)
        rless("create", "--name", name, *words).expect()
    starts = [rless.start("start", name) for name in names]
    assert [process.wait(120) for process in starts] == [0] * 50
    assert len(rless("ps", "-q").expect().lines()) == 50
    stops = [rless.start("stop", name) for name in names]
    assert [process.wait(120) for process in stops] == [0] * 50
    assert rless("ps", "-q").expect().out == ""
    assert rless("start", *names).expect().lines() == names
    assert rless("stop", "-t", "5", *names).expect().lines() == names
    states = set(rless("ps", "-a", "--format", "{{.State}} {{.Status}}").expect().lines())
    assert len(states) >= 1
    assert all(state.startswith("exited Exited (") for state in states), states
    assert rless("rm", *names).expect().lines() == names
    rless.assert_clean(0)


def test_concurrent_starts_run_one_container(rless: Product) -> None:
    rless("create", "--name", "pair", "--network=none", rless.image, "sleep", "600").expect()
    for _ in range(5):
        starts = [rless.start("start", "pair") for _ in range(4)]
        results = [process.communicate(timeout=60) for process in starts]
        for process, (_, err) in zip(starts, results, strict=True):
            assert process.returncode == 0 or b"another command" in err, results
        assert 0 in [process.returncode for process in starts]
        sleeping = [pid for pid, what in rless.processes().items() if "b'sleep', b'600'" in what]
        assert len(sleeping) == 1
        rless("stop", "-t", "0", "pair").expect()
    rless("rm", "pair").expect()


def test_forced_removal_races_with_run_rm(rless: Product) -> None:
    """`rm -f` of one that is just ending by itself, and of one that is just being made."""
    for number in range(12):
        process = rless.start("run", "--rm", "--name", "race", "--network=none", "-v", "/anonymous",
                              rless.image, "sleep", "0.05")  # fmt: skip
        wait_for((rless.storage / "names" / "race").is_symlink, "the name")
        time.sleep(0.02 * (number % 6))
        done = rless("rm", "-f", "race")
        assert done.code == 0, done
        _, err = process.communicate(timeout=60)
        assert process.returncode in (0, 125, 137), err
        if process.returncode == 0:
            assert err == b""
        rless.assert_clean()
        assert rless("volume", "ls", "-q").expect().out == ""


@pytest.mark.parametrize("flags", ["", "--rm"])
def test_killed_monitor_is_reported(rless: Product, flags: str) -> None:
    """The kernel ends the container with it; every verb then says so, and clears the rest."""
    for verb, code in (("ps", 0), ("stop", 0), ("kill", 1), ("rm", 0), ("start", 0), ("wait", 0)):
        made = rless.detach("orphan", flags, "sleep", "600")
        init = init_of(rless, made)
        os.kill(monitor_of(rless, made), signal.SIGKILL)
        wait_for(lambda init=init: not os.path.exists(f"/proc/{init}/root"), "the end")  # type: ignore[misc]
        done = rless(verb, *(["orphan"] if verb != "ps" else ["-a"]))
        gone = flags == "--rm" and verb != "ps"
        assert done.code == code or (gone and "no such container" in done.err), (verb, done)
        if flags == "" and verb in ("ps", "stop", "kill", "wait"):
            assert row(rless, "orphan")["Status"].startswith("Exited (137)")
        rless("ps", "-a").expect()
        if flags == "--rm":
            rless.assert_clean()
        rless("rm", "-f", "orphan").expect()
        rless.assert_clean()


def test_killed_foreground_command_ends_its_container(rless: Product) -> None:
    process = rless.start("run", "--rm", "--network=none", "--name", "front", rless.image, "sleep",
                          "600")  # fmt: skip
    wait_for(lambda: rless("ps", "-q").out, "the start")
    process.kill()
    process.communicate(timeout=20)
    rless.assert_clean()


def test_many_reconcile_at_once(own_rless: Product) -> None:
    rless = own_rless
    rless("pull", "-q", rless.image).expect()
    made = [rless.detach(f"many{number}", "", "sleep", "600") for number in range(6)]
    for container_id in made:
        os.kill(monitor_of(rless, container_id), signal.SIGKILL)
    commands: list[subprocess.Popen[bytes]] = [rless.start("ps", "-a") for _ in range(6)]
    for command in commands:
        out, err = command.communicate(timeout=60)
        assert command.returncode == 0, err
        assert out.count(b"Exited (137)") + out.count(b"Up ") == 6, out
    assert rless("ps", "-q").out == ""
    rless("rm", *[f"many{number}" for number in range(6)]).expect()
