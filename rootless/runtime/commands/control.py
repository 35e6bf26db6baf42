"""The verbs that inspect, pause and limit a container: ps, pause, resume, update, events."""

from __future__ import annotations

import os
import time

from rootless import jsontext
from rootless.errors import RlessError
from rootless.runtime.host import processes
from rootless.runtime.host.state import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FREEZE = 5.0  # seconds that the kernel may take


def ps(root: str, container_id: str) -> list[int]:
    """Return the pids of all processes of a container.

    Raises:
        RlessError: it is not running.
    """
    if found := processes.of(Record(root, container_id).read()):
        return found
    raise RlessError(f"container {container_id} is not running", exit_code=1)


def pause(root: str, container_id: str) -> None:
    """Halt all processes at once.

    Raises:
        RlessError: it is not running, or has no control group.
    """
    _freeze(Record(root, container_id), "running", "1")


def resume(root: str, container_id: str) -> None:
    """Let all processes go on.

    Raises:
        RlessError: it is not paused.
    """
    _freeze(Record(root, container_id), "paused", "0")


def _freeze(record: Record, status: str, value: str) -> None:
    found = record.state()["status"]
    if found not in (status, "created" if value == "1" else status):
        raise RlessError(f"container {record.id} is {found}, not {status}", exit_code=1)
    cgroup = cgroup_of(record.read(), record.id)
    try:
        with open(f"{cgroup}/cgroup.freeze", "w", encoding="ascii") as file:
            file.write(value)
        deadline = time.monotonic() + _FREEZE
        while _frozen(cgroup) != (value == "1"):
            if time.monotonic() > deadline:
                raise RlessError(
                    f"container {record.id}: the kernel has not done it in {_FREEZE} s"
                )
            time.sleep(0.002)
    except OSError as error:
        raise RlessError(f"{error.filename}: {error.strerror}") from error


def _frozen(cgroup: str) -> bool:
    with open(f"{cgroup}/cgroup.events", encoding="ascii") as file:
        return "frozen 1" in file.read()


def cgroup_of(facts: dict[str, Any], container_id: str) -> str:
    """Return the directory of a container's control group.

    Raises:
        RlessError: it has none.
    """
    cgroup: str | None = facts.get("cgroup")
    if not cgroup or not os.path.isdir(cgroup):
        raise RlessError(
            f"container {container_id} has no control group of its own",
            "a part of the unified hierarchy (cgroup v2) must be delegated to you",
        )
    return cgroup


def stats(root: str, container_id: str) -> str:
    """Return what a container uses, as the line of JSON that `runc events --stats` prints.

    Raises:
        RlessError: it is not running, or has no control group.
    """
    record = Record(root, container_id)
    status = record.state()["status"]
    if status not in ("running", "paused"):
        raise RlessError(f"container {container_id} is {status}, not running", exit_code=1)
    cgroup = cgroup_of(record.read(), container_id)
    cpu = _table(f"{cgroup}/cpu.stat")
    memory = _table(f"{cgroup}/memory.stat")
    data = {
        "cpu": {
            "usage": {
                "total": cpu.get("usage_usec", 0) * 1000,
                "kernel": cpu.get("system_usec", 0) * 1000,
                "user": cpu.get("user_usec", 0) * 1000,
            },
            "throttling": {
                "periods": cpu.get("nr_periods", 0),
                "throttledPeriods": cpu.get("nr_throttled", 0),
                "throttledTime": cpu.get("throttled_usec", 0) * 1000,
            },
        },
        "memory": {
            "cache": memory.get("file", 0),
            "usage": _limits(cgroup, "memory"),
            "swap": _limits(cgroup, "memory.swap"),
            "raw": memory,
        },
        "pids": {
            "current": _number(f"{cgroup}/pids.current"),
            "limit": _number(f"{cgroup}/pids.max"),
        },
    }
    return jsontext.dumps({"type": "stats", "id": container_id, "data": data})


def print_stats(root: str, container_id: str, seconds: float | None) -> None:
    """Print what a container uses.

    Args:
        seconds: do so again after each of these times, until it ends; None: once.

    Raises:
        RlessError: it is not running, or has no control group.
    """
    print(stats(root, container_id), flush=True)
    while seconds is not None:
        time.sleep(seconds)
        try:
            print(stats(root, container_id), flush=True)
        except RlessError:
            return  # it has ended


def _limits(cgroup: str, name: str) -> dict[str, int]:
    return {
        "usage": _number(f"{cgroup}/{name}.current"),
        "max": _number(f"{cgroup}/{name}.peak"),
        "limit": _number(f"{cgroup}/{name}.max"),
        "failcnt": _table(f"{cgroup}/{name}.events").get("max", 0),
    }


def _number(path: str) -> int:
    """Return the number in a file of the control group; 0: it has none, or no limit."""
    try:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
    except OSError:
        return 0  # the controller is not given to us
    return int(text) if text.isdigit() else 0


def _table(path: str) -> dict[str, int]:
    try:
        with open(path, encoding="ascii") as file:
            rows = [line.split() for line in file]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}
