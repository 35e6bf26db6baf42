"""Resource limits: check whether this host can set them, and translate them for the runtime.

The rules and messages are Docker's, and are checked before anything starts. The result is
`linux.resources` of the OCI config. Loaded only where a limit is requested.

Source: https://docs.docker.com/engine/containers/resource_constraints/
"""

from __future__ import annotations

import os
import stat

from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.engine.request import Limits

# The fields of a request that are limits; `update` changes those of UPDATABLE.
UPDATABLE = (
    *("blkio_weight", "cpu_period", "cpu_quota", "cpu_shares", "cpus", "cpuset_cpus"),
    *("cpuset_mems", "memory", "memory_reservation", "memory_swap", "pids_limit"),
)
_LEAST_MEMORY = 6 << 20  # bytes
_PERIOD = 100_000  # microseconds
_ONE_CPU = 1_000_000_000  # --cpus counts in 1e-9
_CPUS = "/sys/devices/system/cpu/online"
_NODES = "/sys/devices/system/node/online"


def check(request: Limits) -> None:
    """Refuse limits that contradict each other or this host.

    Raises:
        RlessError: in Docker's words.
    """
    _check_memory(request)
    _check_cpus(request)
    if request.blkio_weight and not 10 <= request.blkio_weight <= 1000:
        raise RlessError("Range of blkio weight is from 10 to 1000")
    _check_set(request.cpuset_cpus, "CPUs", _CPUS)
    _check_set(request.cpuset_mems, "memory nodes", _NODES)
    if request.cgroups == "disabled" or request.cgroup_manager == "none":
        asked = [name for name in (*UPDATABLE, *_OTHERS) if getattr(request, name)]
        asked = [name for name in asked if name != "pids_limit" or request.pids_limit != -1]
        if asked and request.limits != "try":
            raise RlessError(
                f"--{asked[0].replace('_', '-')} needs a control group, and none is to be made",
                "leave --cgroups=disabled and --cgroup-manager=none out, or use --limits=try",
            )
        if request.cgroup_parent is not None:
            raise RlessError("--cgroup-parent needs a control group, and none is to be made")
    if request.cgroups == "split" and request.cgroup_parent is not None:
        raise RlessError("--cgroups=split and --cgroup-parent contradict each other")


_OTHERS = (
    *("blkio_weight_device", "cgroup_conf", "device_read_bps", "device_read_iops"),
    *("device_write_bps", "device_write_iops"),
)


def _check_memory(request: Limits) -> None:
    memory, swap, low = request.memory, request.memory_swap, request.memory_reservation
    if 0 < memory < _LEAST_MEMORY:
        raise RlessError("Minimum memory limit allowed is 6MB")
    if 0 < low < _LEAST_MEMORY:
        raise RlessError("Minimum memory reservation allowed is 6MB")
    if swap > 0 and not memory:
        raise RlessError("You should always set the Memory limit when using Memoryswap limit")
    if 0 < swap < memory:
        raise RlessError("Minimum memoryswap limit should be larger than memory limit")
    if 0 < memory < low:
        raise RlessError("Minimum memory limit can not be less than memory reservation limit")


def _check_cpus(request: Limits) -> None:
    if request.cpus:
        if request.cpu_period:
            raise RlessError(
                "Conflicting options: Nano CPUs and CPU Period cannot both be set",
                "use --cpus, or --cpu-period with --cpu-quota",
            )
        if request.cpu_quota:
            raise RlessError(
                "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
                "use --cpus, or --cpu-period with --cpu-quota",
            )
        most = len(os.sched_getaffinity(0))
        if not 10_000_000 <= request.cpus <= most * _ONE_CPU:
            raise RlessError(
                f"Range of CPUs is from 0.01 to {most}.00, as there are only {most} CPUs available"
            )
    if request.cpu_period and not 1000 <= request.cpu_period <= 1_000_000:
        raise RlessError(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    if 0 < request.cpu_quota < 1000:
        raise RlessError("CPU cfs quota can not be less than 1ms (i.e. 1000)")


def check_update(before: Limits, changes: dict[str, Any]) -> None:
    """Refuse changes that contradict what the container has.

    Raises:
        RlessError: in Docker's words.
    """
    if changes.get("cpus") and (before.cpu_period or before.cpu_quota):
        what = "Period" if before.cpu_period else "Quota"
        raise RlessError(
            f"Conflicting options: Nano CPUs cannot be updated as CPU {what} has already been set"
        )
    for field, what in (("cpu_period", "CPU Period"), ("cpu_quota", "CPU Quota")):
        if changes.get(field) and before.cpus and not changes.get("cpus"):
            raise RlessError(
                f"Conflicting options: {what} cannot be updated as NanoCPUs has already been set"
            )
    memory = changes.get("memory", 0)
    if memory and 0 < before.memory_swap < memory and not changes.get("memory_swap"):
        raise RlessError(
            "Memory limit should be smaller than already set memoryswap limit, "
            "update the memoryswap at the same time"
        )


def lifted(request: Limits, changes: dict[str, Any]) -> dict[str, str]:
    """Return the files that a running group needs for limits that are taken back."""
    found: dict[str, str] = {}
    if "memory" in changes and not request.memory:
        found |= {"memory.max": "max", "memory.swap.max": "max"}
    if "memory_reservation" in changes and not request.memory_reservation:
        found["memory.low"] = "0"
    if {"cpus", "cpu_quota"}.intersection(changes) and not (request.cpus or request.cpu_quota):
        found["cpu.max"] = f"max {request.cpu_period or _PERIOD}"
    for field, file, value in (
        ("cpu_shares", "cpu.weight", "100"),
        # All that there are: none at all is refused for a group with processes.
        ("cpuset_cpus", "cpuset.cpus", _online(_CPUS)),
        ("cpuset_mems", "cpuset.mems", _online(_NODES)),
        ("blkio_weight", "io.weight", "default 100"),
    ):
        if field in changes and not getattr(request, field):
            found[file] = value
    return found


def parse_set(text: str) -> set[int]:
    """Return the numbers of a list as "0-2,7" (cpuset(7)).

    Raises:
        ValueError: it is none.
    """
    found: set[int] = set()
    for part in text.strip().split(","):
        low, dash, high = part.partition("-")
        if not (low.isascii() and low.isdigit()) or len(low) > 6 or len(high) > 6:
            raise ValueError("is not a list such as 0-2,7")
        if dash and not (high.isascii() and high.isdigit()):
            raise ValueError("is not a list such as 0-2,7")
        first, last = int(low), int(high) if dash else int(low)
        if last < first or last >= 8192:
            raise ValueError("has a range that is none")
        found.update(range(first, last + 1))
    return found


def _online(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "0"  # a kernel without NUMA has one node


def _check_set(asked: str, what: str, path: str) -> None:
    if not asked:
        return
    there = _online(path)
    if not parse_set(asked) <= parse_set(there):
        raise RlessError(
            f"Requested {what} are not available - requested {asked}, available: {there}"
        )


def wanted(request: Limits) -> dict[str, Any]:
    """Return `linux.resources`, with only what is asked for.

    Raises:
        RlessError: a device that is none.
    """
    found: dict[str, Any] = {
        "memory": _memory(request),
        "cpu": _cpu(request),
        "blockIO": _block_io(request),
    }
    if request.pids_limit:
        found["pids"] = {"limit": request.pids_limit}
    if request.cgroup_conf:
        found["unified"] = dict(request.cgroup_conf)
    return {name: value for name, value in found.items() if value}


def _memory(request: Limits) -> dict[str, int]:
    found = {}
    if request.memory:
        found["limit"] = request.memory
        # Docker gives as much swap as memory where nothing is said.
        found["swap"] = request.memory_swap or 2 * request.memory
    elif request.memory_swap == -1:
        found["swap"] = -1
    if request.memory_reservation:
        found["reservation"] = request.memory_reservation
    return found


def _cpu(request: Limits) -> dict[str, Any]:
    quota, period = request.cpu_quota, request.cpu_period
    if request.cpus:
        quota, period = request.cpus * _PERIOD // _ONE_CPU, _PERIOD
    found = {
        "shares": request.cpu_shares,
        "quota": quota,
        "period": period,
        "cpus": request.cpuset_cpus,
        "mems": request.cpuset_mems,
    }
    return {name: value for name, value in found.items() if value}


def _block_io(request: Limits) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if request.blkio_weight:
        found["weight"] = request.blkio_weight
    if request.blkio_weight_device:
        found["weightDevice"] = [
            {**_numbers(path), "weight": weight} for path, weight in request.blkio_weight_device
        ]
    for key, pairs in (
        ("throttleReadBpsDevice", request.device_read_bps),
        ("throttleWriteBpsDevice", request.device_write_bps),
        ("throttleReadIOPSDevice", request.device_read_iops),
        ("throttleWriteIOPSDevice", request.device_write_iops),
    ):
        if pairs:
            found[key] = [{**_numbers(path), "rate": rate} for path, rate in pairs]
    return found


def _numbers(path: str) -> dict[str, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise RlessError(f"cannot limit {path}: {error.strerror}") from error
    if not stat.S_ISBLK(status.st_mode):
        raise RlessError(f"cannot limit {path}: it is not a block device")
    return {"major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}
