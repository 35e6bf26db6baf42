"""What a container uses, as Docker's `stats` shows it.

It is read on the loop of the service, so it takes files of /proc and of the control group only. The
bytes that pasta moves past the container's interface (`network.accounting`) are not among these.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from rootless.engine import timestamps
from rootless.engine.query.stats import fields, limit_of, number, text_of
from rootless.engine.state import processes

if TYPE_CHECKING:
    from rootless.engine.state.container import Container

_NANO = 10**9
_NEVER = "0001-01-01T00:00:00Z"
# Columns of /proc/PID/net/dev: of what came, and of what went (proc_pid_net(5)).
_RECEIVED, _SENT = 0, 8
_COUNTED = ("bytes", "packets", "errors", "dropped")
NO_CPU: dict[str, Any] = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}


class Sampler:
    """Samples of one container: each has the CPU times of the one before."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._before: dict[str, Any] = NO_CPU
        self._read = _NEVER

    def sample(self) -> dict[str, Any]:
        """Return what is used up to now; of one that does not run nothing but its name."""
        container = self._container
        name = {"name": f"/{container.facts['name']}", "id": container.id}
        init = container.init()
        if init is None:
            self._before, self._read = NO_CPU, _NEVER
            return {**_empty(), **name}
        found = _used(container, container.run_record().get("cgroup") or "")
        before, read = self._before, self._read
        self._before, self._read = found["cpu_stats"], timestamps.show(time.time())
        networks = _networks(init[0])
        if networks:
            found["networks"] = networks
        return {**_empty(), **found, **name, "read": self._read, "preread": read,
                "precpu_stats": before}  # fmt: skip


def _empty() -> dict[str, Any]:
    return {
        "read": _NEVER,
        "preread": _NEVER,
        "pids_stats": {},
        "blkio_stats": _blkio([]),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": NO_CPU,
        "precpu_stats": NO_CPU,
        "memory_stats": {},
    }


def _blkio(entries: list[dict[str, Any]]) -> dict[str, Any]:
    rest = (
        *("io_serviced_recursive", "io_queue_recursive", "io_service_time_recursive"),
        *("io_wait_time_recursive", "io_merged_recursive", "io_time_recursive"),
        "sectors_recursive",
    )
    return {"io_service_bytes_recursive": entries or None, **dict.fromkeys(rest)}


def _cpu(total: int, kernel: int, user: int, throttled: dict[str, int]) -> dict[str, Any]:
    """Return the CPU times in nanoseconds, beside those of the whole host."""
    # Of the first line the guests' are among the others (proc_stat(5)).
    ticks = text_of("/proc/stat").partition("\n")[0].split()[1:8]
    return {
        "cpu_usage": {
            "total_usage": total,
            "usage_in_kernelmode": kernel,
            "usage_in_usermode": user,
        },
        "system_cpu_usage": sum(map(int, ticks)) * _NANO // processes.TICKS,
        "online_cpus": os.cpu_count() or 1,
        "throttling_data": {
            "periods": throttled.get("nr_periods", 0),
            "throttled_periods": throttled.get("nr_throttled", 0),
            "throttled_time": throttled.get("throttled_usec", 0) * 1000,
        },
    }


def _used(container: Container, cgroup: str) -> dict[str, Any]:
    """Return what the control group has counted, and of its processes what it does not count."""
    cpu = fields(f"{cgroup}/cpu.stat") if cgroup else {}
    memory = number(f"{cgroup}/memory.current") if cgroup else 0
    pids: dict[str, Any] = {"current": number(f"{cgroup}/pids.current") if cgroup else 0}
    if cgroup and (limit := number(f"{cgroup}/pids.max")):
        pids["limit"] = limit
    user, kernel = cpu.get("user_usec", 0) * 1000, cpu.get("system_usec", 0) * 1000
    total = cpu.get("usage_usec", 0) * 1000
    if not (total and memory and pids["current"]):
        found = processes.of(container)
        tick = _NANO // processes.TICKS
        if not total:
            user = sum(one.user + one.children for one in found) * tick
            kernel = sum(one.system for one in found) * tick
            total = user + kernel
        memory = memory or sum(one.resident for one in found) * processes.PAGE
        pids["current"] = pids["current"] or len(found)
    return {
        "pids_stats": pids,
        "blkio_stats": _blkio(_devices(text_of(f"{cgroup}/io.stat")) if cgroup else []),
        "cpu_stats": _cpu(total, kernel, user, cpu),
        "memory_stats": {
            "usage": memory,
            "stats": fields(f"{cgroup}/memory.stat") if cgroup else {},
            "limit": limit_of(cgroup),
        },
    }


def _devices(text: str) -> list[dict[str, Any]]:
    found = []
    for line in text.splitlines():
        device, *words = line.split()
        major, colon, minor = device.partition(":")
        values = dict(word.partition("=")[::2] for word in words)
        for name, operation in (("rbytes", "read"), ("wbytes", "write")):
            value = values.get(name, "")
            if colon and major.isdigit() and minor.isdigit() and value.isdigit():
                found.append(
                    {
                        "major": int(major),
                        "minor": int(minor),
                        "op": operation,
                        "value": int(value),
                    }
                )
    return found


def _networks(pid: int) -> dict[str, dict[str, int]]:
    """Return the counters of each interface; none in the host's network."""
    try:
        if os.path.samefile(f"/proc/{pid}/ns/net", "/proc/self/ns/net"):
            return {}
    except OSError:
        return {}
    found = {}
    for line in text_of(f"/proc/{pid}/net/dev").splitlines()[2:]:
        name, _, rest = line.partition(":")
        values = [int(word) for word in rest.split() if word.isdigit()]
        if name.strip() == "lo" or len(values) < _SENT + len(_COUNTED):
            continue
        found[name.strip()] = {
            f"{way}_{what}": values[first + index]
            for way, first in (("rx", _RECEIVED), ("tx", _SENT))
            for index, what in enumerate(_COUNTED)
        }
    return found
