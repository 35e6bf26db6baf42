"""Health checks: Docker's rules, and their execution in the container."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest

from rootless.cli.flags.health import duration
from rootless.engine.exec import healthcheck
from rootless.engine.request import RunRequest
from rootless.engine.start.startup import health_config
from rootless.errors import RlessError
from tests.lib.compiled import ROOT
from tests.lib.product import Product, probe_image, wait_for

NANO = 1_000_000_000
FULL = {"interval": 30.0, "timeout": 30.0, "start_period": 0.0, "start_interval": 5.0, "retries": 3}


def request(**fields: Any) -> RunRequest:
    return RunRequest(**fields)


# -- what is asked for ---------------------------------------------------------------------------


def test_no_healthcheck_disables_the_check() -> None:
    assert healthcheck.wanted(request(), {}) is None
    assert healthcheck.wanted(request(), {"Healthcheck": {"Test": ["NONE"]}}) is None
    assert healthcheck.wanted(request(), {"Healthcheck": {"Test": []}}) is None
    image = {"Healthcheck": {"Test": ["CMD", "true"]}}
    assert healthcheck.wanted(request(no_healthcheck=True), image) is None
    assert healthcheck.wanted(request(health_interval=5.0), {}) is None
    with pytest.raises(RlessError, match="contradict"):
        healthcheck.wanted(request(no_healthcheck=True, health_cmd="x"), image)


def test_request_overrides_image_and_defaults() -> None:
    assert healthcheck.wanted(request(health_cmd="true"), {}) == {
        **FULL,
        "test": ["CMD-SHELL", "true"],
    }
    image = {"Healthcheck": {"Test": ["CMD", "a", "b"], "Interval": 7 * NANO, "Retries": 9,
                             "StartPeriod": 3 * NANO // 2, "Timeout": 0}}  # fmt: skip
    assert healthcheck.wanted(request(), image) == {
        **FULL, "test": ["CMD", "a", "b"], "interval": 7.0, "retries": 9, "start_period": 1.5,
    }  # fmt: skip
    mixed = healthcheck.wanted(request(health_cmd="c", health_timeout=2.0, health_retries=1), image)
    assert mixed == {
        **FULL, "test": ["CMD-SHELL", "c"], "interval": 7.0, "retries": 1, "start_period": 1.5,
        "timeout": 2.0,
    }  # fmt: skip


@pytest.mark.parametrize("number", [1, 2**40, 2**62, 2**63 - 1])
def test_hostile_intervals_are_bounded(number: int) -> None:
    """Class 41: neither a check without a pause nor one that no clock can hold."""
    keys = ("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries")
    found = healthcheck.wanted(
        request(), {"Healthcheck": {"Test": ["CMD", "true"], **dict.fromkeys(keys, number)}}
    )
    assert found is not None
    assert 0 < found["retries"] < 1 << 31
    for key in ("interval", "timeout", "start_period", "start_interval"):
        assert 1 <= found[key] < 2**31 / 1000
    config = health_config(found)
    assert all(1 <= value < 10**12 for value in config.values())


def test_image_asks_for_one_second_at_least() -> None:
    """Class 41: its checks run outside of the container's limits; a flag may ask for less."""
    keys = ("Interval", "Timeout", "StartPeriod", "StartInterval")
    image = {"Healthcheck": {"Test": ["CMD", "true"], **dict.fromkeys(keys, NANO // 1000)}}
    found = healthcheck.wanted(request(health_interval=0.001, health_timeout=0.5), image)
    assert found is not None
    assert (found["interval"], found["timeout"]) == (0.001, 0.5)
    assert (found["start_period"], found["start_interval"]) == (1, 1)


def test_durations_are_parsed() -> None:
    for text, seconds in (("30s", 30), ("1m30s", 90), ("1.5h", 5400), ("500ms", 0.5), ("0", 0),
                          ("0s", 0), ("1h1m1s1ms", 3661.001)):  # fmt: skip
        assert duration(text) == pytest.approx(seconds)
    for text in ("", "5", "-1s", "1x", "s", "1m30", "1..5s", "100us", "1e3s", "1 s"):
        with pytest.raises(ValueError, match="is"):
            duration(text)


# -- what it says of the container ---------------------------------------------------------------


def result(code: int, start: float = 1000.0) -> dict[str, Any]:
    return {"start": start, "end": start, "exit_code": code, "output": ""}


def test_status_follows_dockers_rules() -> None:
    check = {**FULL, "retries": 2, "start_period": 10.0}
    state: dict[str, Any] = {"status": "starting", "failing_streak": 0, "log": []}

    def judge(code: int, after: float) -> tuple[str, int]:
        healthcheck.judge(state, result(code, 1000.0 + after), check, 1000.0)
        return state["status"], state["failing_streak"]

    assert judge(1, 1) == ("starting", 0)  # within the start period it does not count
    assert judge(1, 11) == ("starting", 1)
    assert judge(1, 12) == ("unhealthy", 2)
    assert judge(0, 13) == ("healthy", 0)
    assert judge(1, 5) == ("healthy", 1)  # once healthy, each failure counts
    assert judge(-1, 14) == ("unhealthy", 2)
    assert len(state["log"]) == 5
    assert state["log"][-1]["exit_code"] == -1


# -- runs ----------------------------------------------------------------------------------------


def check(rless: Product, container: str) -> int:
    """Run the check once from here, as the monitor does from inside."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    code += f"from rootless.engine.exec.healthcheck import main; sys.exit(main({container!r}))"
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], env=rless.environment(), capture_output=True, timeout=60
    )
    assert not done.stderr, done.stderr.decode()
    return done.returncode


def state_of(rless: Product, container: str) -> dict[str, Any]:
    path = rless.storage / "containers" / container / "health.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.needs("user namespaces", "subordinate ids")
def test_check_runs_in_the_container(rless: Product) -> None:
    flags = ["--health-cmd", "id -u; cat /tmp/fail 2>/dev/null && exit 4; exit 0",
             "--health-interval", "1h", "--health-retries", "2"]  # fmt: skip
    words = ["run", "-d", "--network", "none", "--name", "hh", "-u", "1000", *flags]
    container = rless(*words, rless.image, "sleep", "600").expect().out.strip()
    assert "health: starting" in rless("ps").out
    assert check(rless, container) == 0
    assert "(healthy)" in rless("ps").out
    entry = state_of(rless, container)["log"][-1]
    assert (entry["exit_code"], entry["output"]) == (0, "1000\n")
    assert entry["start"] <= entry["end"] <= time.time()
    rless("exec", "hh", "sh", "-c", "printf why > /tmp/fail").expect()
    assert check(rless, container) == 0  # the first failure
    assert check(rless, container) == 1
    assert state_of(rless, container)["failing_streak"] == 2
    assert state_of(rless, container)["log"][-1]["output"] == "1000\nwhy"
    assert "(unhealthy)" in rless("ps").out
    lines = (rless.storage / "events").read_text().splitlines()
    found = [one["action"] for one in map(json.loads, lines) if one["id"] == container]
    assert [action for action in found if action.startswith("health_status")] == [
        "health_status: healthy", "health_status: unhealthy",
    ]  # fmt: skip
    rless("pause", "hh").expect()
    assert check(rless, container) == 1  # nothing is asked of a paused one
    assert len(state_of(rless, container)["log"]) == 3
    rless("rm", "-f", "hh").expect()


@pytest.mark.needs("user namespaces", "subordinate ids")
def test_user_runs_the_check(rless: Product) -> None:
    """With Podman's exit codes; the result counts as that of any other run."""
    flags = ["--health-cmd", "test ! -e /tmp/bad", "--health-interval", "1h",
             "--health-retries", "1"]  # fmt: skip
    words = ["run", "-d", "--network", "none", "--name", "hh", *flags, rless.image, "sleep", "600"]
    rless(*words).expect()
    assert rless("healthcheck", "run", "hh").expect().out == ""
    assert "(healthy)" in rless("ps").out
    rless("exec", "hh", "touch", "/tmp/bad").expect()
    assert rless("healthcheck", "run", "hh").expect(1).out == "unhealthy\n"
    assert "(unhealthy)" in rless("ps").out
    rless("kill", "hh").expect()
    rless("wait", "hh").expect()
    assert "not running" in rless("healthcheck", "run", "hh").expect(125).one_line_error()
    rless("rm", "hh").expect()
    assert "no such" in rless("healthcheck", "run", "hh").expect(125).one_line_error()
    rless("create", "--name", "hh", rless.image).expect()
    assert "has no health" in rless("healthcheck", "run", "hh").expect(125).one_line_error()
    rless("rm", "hh").expect()


@pytest.mark.needs("user namespaces", "subordinate ids")
def test_check_is_killed_after_its_timeout(rless: Product) -> None:
    """It is killed, with what it has started; its output is bounded."""
    flags = ["--health-cmd", "echo begun; sleep 651 & sleep 652", "--health-timeout", "500ms",
             "--health-interval", "1h", "--health-retries", "1"]  # fmt: skip
    words = ["run", "-d", "--network", "none", "--name", "hh", *flags]
    container = rless(*words, rless.image, "sleep", "600").expect().out.strip()
    assert check(rless, container) == 1
    entry = state_of(rless, container)["log"][-1]
    assert entry["exit_code"] == -1
    assert entry["output"] == "Health check exceeded timeout (0.5s): begun\n"
    assert "sleep 65" not in rless("top", "hh").out
    rless("rm", "-f", "hh").expect()


@pytest.mark.needs("user namespaces", "subordinate ids")
def test_output_is_recorded_and_missing_program_is_unhealthy(rless: Product) -> None:
    image = rless.add_image("health", probe_image(
        Healthcheck={"Test": ["CMD", "sh", "-c", "yes | head -c 100000"], "Interval": 3600 * NANO}
    ))  # fmt: skip
    container = rless.detach("hh", "", "sleep", "600", image=image)
    assert check(rless, container) == 0
    assert len(state_of(rless, container)["log"][-1]["output"]) == 4096
    rless("rm", "-f", "hh").expect()
    image = rless.add_image("health2", probe_image(
        Healthcheck={"Test": ["CMD", "nosuch"], "Interval": 3600 * NANO, "Retries": 1}
    ))  # fmt: skip
    container = rless.detach("hh", "", "sleep", "600", image=image)
    assert check(rless, container) == 1
    assert "nosuch" in state_of(rless, container)["log"][-1]["output"]
    rless("rm", "-f", "hh").expect()


@pytest.mark.needs("user namespaces", "subordinate ids")
def test_monitor_runs_the_check(rless: Product) -> None:
    for userns in ("auto", "single", "nomap", "host-root"):
        words = ["run", "-d", "--network", "none", "--name", "hh", "--userns", userns,
                 "--health-cmd", "test ! -e /tmp/fail", "--health-interval", "300ms",
                 "--health-retries", "1", rless.image, "sleep", "600"]  # fmt: skip
        rless(*words).expect()
        wait_for(lambda: "(healthy)" in rless("ps").out, f"healthy: {userns}", 20)
        rless("exec", "hh", "touch", "/tmp/fail").expect()
        wait_for(lambda: "(unhealthy)" in rless("ps").out, f"unhealthy: {userns}", 20)
        rless("rm", "-f", "hh").expect()
