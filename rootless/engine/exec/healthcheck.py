"""Health checks: what the check of a container is, one run of it, and the status that follows.

    <container's directory>/health.json     {"status", "failing_streak", "log": the last five}

The monitor starts `main` at each interval as a process of its own, in the container's user
namespace or on the host; both work the same. It runs the test in the container as `exec` does, with
the container's own user, environment and rights, and ends.

The rules are Docker's. A test that succeeds makes the container healthy at once. `retries` failures
in a row make it unhealthy. Failures within the start period do not count, unless the container has
been healthy before.
"""

from __future__ import annotations

import os
import select
import time

from rootless import paths
from rootless.engine.exec.exec import ExecRequest
from rootless.engine.exec.process import describe, hold, load_spec
from rootless.engine.state import container as containers
from rootless.engine.state import events, processes
from rootless.errors import RlessError, SyscallError
from rootless.linux.process import close_on_exec_from, pidfd_open, pidfd_send_signal
from rootless.runtime.host import exec as runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.engine.request import Health
    from rootless.engine.state.container import Container
    from rootless.engine.state.records import HealthCheck, HealthRecord, HealthResult

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
_CODES = {HEALTHY: 0, UNHEALTHY: 1, STARTING: 2}
# Docker's, in seconds.
_DEFAULTS = {"interval": 30.0, "timeout": 30.0, "start_period": 0.0, "start_interval": 5.0}
_RETRIES = 3
_MOST_RETRIES = (1 << 31) - 1
_SHORTEST, _FARTHEST = 0.001, 2e6  # seconds: Docker's shortest; 23 days, of 24 that poll(2) has
# Each check is a process of ours, outside of the container's limits.
_SHORTEST_OF_IMAGE = 1.0
_KEPT = 5  # runs in the log
_LONGEST = 4096  # bytes of a run's output
_KILL = 9
_NANO = 1_000_000_000
_IMAGE_NAMES = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start_period": "StartPeriod",
    "start_interval": "StartInterval",
}


# -- what is asked for ---------------------------------------------------------------------------


def wanted(request: Health, image: dict[str, Any]) -> HealthCheck | None:
    """Return the fact `health` of a container: the request, over the image's HEALTHCHECK.

    Args:
        image: the image's `config` object.

    Raises:
        RlessError: --no-healthcheck contradicts another flag.
    """
    check: dict[str, Any] = image.get("Healthcheck") or {}
    test = [str(word) for word in check.get("Test") or ()]
    asked = {name: getattr(request, f"health_{name}") for name in _DEFAULTS}
    if request.no_healthcheck:
        if request.health_cmd or request.health_retries or any(asked.values()):
            raise RlessError("--no-healthcheck and --health-* contradict each other")
        return None
    if request.health_cmd:
        text = request.health_cmd
        test = ["CMD-SHELL", text] if isinstance(text, str) else ["CMD", *text]
    if len(test) < 2 or test[0] not in ("CMD", "CMD-SHELL"):
        return None  # none, or turned off by ["NONE"]
    times = {}
    for name, default in _DEFAULTS.items():
        # An image may neither spin nor name a time that poll(2) takes for another one.
        least = _SHORTEST if asked[name] else _SHORTEST_OF_IMAGE
        value = float(asked[name] or _number(check.get(_IMAGE_NAMES[name])) / _NANO or default)
        times[name] = value and min(max(value, least), _FARTHEST)
    retries = request.health_retries or int(_number(check.get("Retries"))) or _RETRIES
    return {
        "test": test,
        "retries": min(retries, _MOST_RETRIES),
        "interval": times["interval"],
        "timeout": times["timeout"],
        "start_period": times["start_period"],
        "start_interval": times["start_interval"],
    }


def image_form(health: HealthCheck | None, refused: bool = False) -> dict[str, Any] | None:
    """Return the fact `health` as the HEALTHCHECK of an image's config; None: there is none.

    Args:
        refused: it was turned off by --no-healthcheck.
    """
    if refused:
        return {"Test": ["NONE"]}
    if not health:
        return None
    return {
        "Test": health["test"],
        "Interval": int(health["interval"] * _NANO),
        "Timeout": int(health["timeout"] * _NANO),
        "StartPeriod": int(health["start_period"] * _NANO),
        "StartInterval": int(health["start_interval"] * _NANO),
        "Retries": health["retries"],
    }


def _number(value: object) -> float:
    """Return a number of an image's config, 0 for anything else and below."""
    return max(0.0, float(value)) if isinstance(value, (int, float)) else 0.0


# -- what is known -------------------------------------------------------------------------------


def read(container: Container) -> HealthRecord | None:
    """Return what health.json says; None for a container without a check."""
    if not container.facts.get("health"):
        return None
    record: HealthRecord | None = containers.read_json(_path(container))
    return record or _new_record()


def _new_record() -> HealthRecord:
    return {"status": STARTING, "failing_streak": 0, "log": []}


def reset(container: Container) -> None:
    """Begin anew; for each start of the container."""
    if container.facts.get("health"):
        containers.write_json(_path(container), _new_record())


def _path(container: Container) -> str:
    return f"{container.directory}/health.json"


# -- a run ---------------------------------------------------------------------------------------


def main(container_id: str) -> int:
    """Run the check of a container once; return 0 healthy, 1 unhealthy, 2 starting.

    Where it runs: with all capabilities in the container's user namespace, or on the host.
    $RLESS_STORAGE names the storage.
    """
    close_on_exec_from(3)
    container = containers.load(container_id)
    check = container.facts.get("health") if container is not None else None
    state = read(container) if container is not None else None
    if container is None or check is None or state is None:
        return _CODES[STARTING]
    before = state["status"]
    try:
        _run(container, check, state)
    except (OSError, RlessError):
        return _CODES[before]  # it has ended, is paused or being removed, or the disk is full
    return _CODES[state["status"]]


def run_now(reference: str) -> HealthResult:
    """Run the check of a container that a user asks for; it counts as any other.

    Raises:
        RlessError: no such container, it has no check, or it does not run.
    """
    from rootless.engine.state.reconcile import reconcile

    reconcile()
    container = containers.find(reference)
    name = container.facts["name"]
    check, state = container.facts.get("health"), read(container)
    if check is None or state is None:
        raise RlessError(f"container {name} has no health check", "give one with --health-cmd")
    try:
        return _run(container, check, state)
    except OSError as error:
        raise RlessError(f"cannot note the health of {name}: {error.strerror}") from error


def _run(container: Container, check: HealthCheck, state: HealthRecord) -> HealthResult:
    """Run a check once, note the result in `state` and on disk, and return it.

    Raises:
        RlessError: the container does not run, or is paused.
        OSError: it is being removed, or the disk is full.
    """
    try:
        result = probe(container, check)
    except RlessError as error:
        if error.exit_code == 1:
            raise
        now = time.time()
        code = error.exit_code
        result = {"start": now, "end": now, "exit_code": code, "output": str(error)}
    before = state["status"]
    judge(state, result, check, container.run_record().get("started") or 0.0)
    containers.write_json(_path(container), state)
    if state["status"] != before:
        events.of_container(f"health_status: {state['status']}", container)
    return result


def judge(state: HealthRecord, result: HealthResult, check: HealthCheck, started: float) -> None:
    """Update the state with the result of a run.

    Args:
        started: when the container was, in seconds since the epoch.
    """
    state["log"] = [*state["log"], result][-_KEPT:]
    if result["exit_code"] == 0:
        state["status"], state["failing_streak"] = HEALTHY, 0
        return
    if state["status"] == STARTING and result["start"] - started < check["start_period"]:
        return
    state["failing_streak"] += 1
    if state["failing_streak"] >= check["retries"]:
        state["status"] = UNHEALTHY


def probe(container: Container, check: HealthCheck) -> HealthResult:
    """Run the test in the container, bounded in time and output; return an entry of the log.

    Raises:
        RlessError: it cannot be started; exit code 1: there is no running container.
    """
    kind, *words = check["test"]
    if kind == "CMD-SHELL":
        shell = (container.facts.get("image_config") or {}).get("Shell") or ["/bin/sh", "-c"]
        words = [*shell, *words]
    request = ExecRequest(container.id, words)
    init, cgroup = hold(container)
    spec = load_spec(container)
    description, complete = describe(request, container, spec)
    began = time.time()
    deadline = time.monotonic() + check["timeout"]
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        started = runtime.prepare(
            spec,
            description,
            init,
            cgroup=cgroup,
            cache_dir=f"{paths.storage_root()}/seccomp",
            stdio=(null, writer, writer),
            complete=complete,
        ).start()
        os.close(writer)
        writer = -1
        output, in_time = _watch(started.pidfd, reader, deadline)
        if not in_time:
            _end(started)
        code = started.wait()
        os.close(started.pidfd)
    finally:
        init.close()
        for fd in (reader, writer, null):
            if fd >= 0:
                os.close(fd)
    text = output.decode("utf-8", "surrogateescape")
    if not in_time:
        code, text = -1, f"Health check exceeded timeout ({check['timeout']:g}s): {text}"
    return {"start": began, "end": time.time(), "exit_code": code, "output": text}


def _watch(pidfd: int, reader: int, deadline: float) -> tuple[bytes, bool]:
    """Collect output until the process has ended; return it, and whether that was in time."""
    output = b""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(reader, select.POLLIN)
    ended = False
    while True:
        left = deadline - time.monotonic()
        if left <= 0 and not ended:
            return output, False
        # After its end: what it has written, not what its children may still write.
        ready = poll.poll(0 if ended else 1000 * left)
        if ended and (not ready or len(output) >= _LONGEST):
            return output, True
        for fd, _ in ready:
            if fd == pidfd:
                ended = True
                poll.unregister(pidfd)
            elif data := os.read(reader, 65536):
                output = (output + data)[:_LONGEST]
            else:
                poll.unregister(reader)


def _end(started: runtime.Started) -> None:
    """Kill the test and its descendants: it leads their session."""
    session = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                process = processes.Process(int(name))
                if process.session == started.pid and process.pid != started.pid:
                    session.append((process, pidfd_open(process.pid)))
            except (OSError, SyscallError):
                continue  # it has ended
    pidfd_send_signal(started.pidfd, _KILL)
    for process, pidfd in session:
        try:
            if processes.Process(process.pid).start == process.start:
                pidfd_send_signal(pidfd, _KILL)
        except (OSError, SyscallError):
            pass  # it has ended
        os.close(pidfd)
