"""Translate `linux.resources` of an OCI config to files of a cgroup (v2), as runc and crun do.

The specification's numbers are those of v1. Settings without a file in v2 (swappiness, the OOM
killer's switch, real-time scheduling) are refused by name. Device rules are left out: a user has no
device controller, and a container has no other device nodes than those it may use.

Source: https://github.com/opencontainers/runtime-spec/blob/v1.2.0/config-linux.md, kernel
Documentation/admin-guide/cgroup-v2.rst; the formulas: docs/cgroups.md of this project.
"""

from __future__ import annotations

import os

from rootless.errors import RlessError
from rootless.runtime.limits import asked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Files = list[tuple[str, str]]

CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma")
_PERIOD = 100_000  # microseconds: the kernel's default of cpu.max
# Files of the group itself that `unified` may set; the others would move or end processes.
_OWN_FILES = frozenset({"cgroup.max.depth", "cgroup.max.descendants", "cgroup.pressure"})


class LimitError(RlessError):
    """A limit is invalid, whatever the manager."""


def cpu_weight(shares: int) -> int:
    """Return cpu.weight (1 to 10000) for v1's cpu.shares (2 to 262144).

    The curve through both ends and through both defaults, 1024 and 100, as in runc 1.3 and crun
    1.23.
    """
    import math

    log = math.log2(min(max(shares, 2), 262144))
    return min(math.ceil(round(10 ** ((log * log + 125 * log) / 612 - 7 / 34), 6)), 10000)


def io_weight(weight: int) -> int:
    """Return io.weight (1 to 10000) for v1's blkio.weight (10 to 1000)."""
    return 1 + (weight - 10) * 9999 // 990


def swap_max(memory: int, swap: int) -> int | None:
    """Return memory.swap.max for v1's sum of memory and swap; -1: no limit, None: not asked.

    Raises:
        RlessError: the sum says nothing without a memory limit, or is below it.
    """
    if swap == -1 or (swap == 0 and memory == -1):
        return -1
    if swap == 0:
        return None
    if memory <= 0:
        raise LimitError("linux.resources.memory.swap needs a memory limit")
    if swap < memory:
        raise LimitError("linux.resources.memory.swap is below the memory limit")
    return swap - memory


def _most(value: int) -> str:
    return "max" if value < 0 else str(value)


def files(resources: dict[str, Any], bfq: bool = False) -> Files:
    """Return the files to write and their values, in order.

    Args:
        bfq: the group has io.bfq.weight, which has its own scale.

    Raises:
        RlessError: something that v2 cannot do, or that contradicts itself; by its JSON path.
    """
    found: Files = []
    _memory(resources.get("memory") or {}, found)
    _cpu(resources.get("cpu") or {}, found)
    limit = (resources.get("pids") or {}).get("limit")
    if limit is not None:
        found.append(("pids.max", str(limit) if limit > 0 else "max"))
    _block_io(resources.get("blockIO") or {}, bfq, found)
    for page in resources.get("hugepageLimits") or ():
        found.append((f"hugetlb.{page['pageSize']}.max", str(page["limit"])))
    for device, limits in (resources.get("rdma") or {}).items():
        words = [
            f"{name}={limits[key]}"
            for key, name in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
            if limits.get(key) is not None
        ]
        found.append(("rdma.max", " ".join((device, *words))))
    if any((resources.get("network") or {}).values()):
        raise _refuse("network", "control groups v2 do not mark packets")
    for name, value in (resources.get("unified") or {}).items():
        if "." not in name[1:-1]:
            raise _refuse(f"unified.{name}", "that is no file of a control group")
        if name.startswith("cgroup.") and name not in _OWN_FILES:
            raise _refuse(f"unified.{name}", "it is no limit")
        found.append((name, value))
    for name, _ in found:
        if "/" in name:
            raise _refuse(name, "that is no file of a control group")
    return found


def _refuse(path: str, why: str) -> LimitError:
    return LimitError(f"linux.resources.{path} is not supported: {why}")


def _memory(memory: dict[str, Any], found: Files) -> None:
    if memory.get("swappiness") is not None:
        raise _refuse("memory.swappiness", "control groups v2 have none")
    if memory.get("disableOOMKiller"):
        raise _refuse("memory.disableOOMKiller", "control groups v2 cannot turn it off")
    for name in ("kernel", "kernelTCP"):
        if (memory.get(name) or 0) > 0:
            raise _refuse(f"memory.{name}", "the kernel has this limit no more")
    limit = memory.get("limit") or 0
    swap = swap_max(limit, memory.get("swap") or 0)
    if limit:
        found.append(("memory.max", _most(limit)))
    if swap is not None:
        found.append(("memory.swap.max", _most(swap)))
    if reservation := memory.get("reservation"):
        found.append(("memory.low", _most(reservation)))


def _cpu(cpu: dict[str, Any], found: Files) -> None:
    for name in ("realtimeRuntime", "realtimePeriod"):
        if cpu.get(name):
            raise _refuse(f"cpu.{name}", "real-time scheduling of groups needs root")
    if cpu.get("idle") is not None:
        found.append(("cpu.idle", str(cpu["idle"])))
    if (shares := cpu.get("shares")) and not cpu.get("idle"):
        found.append(("cpu.weight", str(cpu_weight(shares))))
    quota, period = cpu.get("quota") or 0, cpu.get("period") or 0
    if quota or period:
        found.append(("cpu.max", f"{quota if quota > 0 else 'max'} {period or _PERIOD}"))
    if cpu.get("burst") is not None:
        found.append(("cpu.max.burst", str(cpu["burst"])))
    if cpus := cpu.get("cpus"):
        found.append(("cpuset.cpus", cpus))
    if mems := cpu.get("mems"):
        found.append(("cpuset.mems", mems))


_RATES = (
    ("throttleReadBpsDevice", "rbps"),
    ("throttleWriteBpsDevice", "wbps"),
    ("throttleReadIOPSDevice", "riops"),
    ("throttleWriteIOPSDevice", "wiops"),
)


def _block_io(block_io: dict[str, Any], bfq: bool, found: Files) -> None:
    if block_io.get("leafWeight"):
        raise _refuse("blockIO.leafWeight", "control groups v2 have none")
    file = "io.bfq.weight" if bfq else "io.weight"

    def scale(weight: int) -> int:
        return weight if bfq else io_weight(weight)

    if weight := block_io.get("weight"):
        found.append((file, f"default {scale(weight)}"))
    for entry in block_io.get("weightDevice") or ():
        if entry.get("leafWeight"):
            raise _refuse("blockIO.weightDevice.leafWeight", "control groups v2 have none")
        if entry.get("weight"):
            found.append((file, f"{entry['major']}:{entry['minor']} {scale(entry['weight'])}"))
    for key, word in _RATES:
        for entry in block_io.get(key) or ():
            rate = entry["rate"] or "max"
            found.append(("io.max", f"{entry['major']}:{entry['minor']} {word}={rate}"))


def controller_of(file: str) -> str:
    """Return the controller that a file belongs to; "cgroup" for those of the group itself."""
    return file.partition(".")[0]


def missing(resources: dict[str, Any], offered: set[str]) -> list[str]:
    """Return the controllers that are asked for and not offered."""
    wanted = {
        controller_of(name) for name, value in files(resources) if not value.startswith("max")
    }
    return sorted(wanted - offered - {"cgroup"})


def without(resources: dict[str, Any], controllers: list[str]) -> dict[str, Any]:
    """Return the resources less those of some controllers."""
    parts = {
        "memory": ("memory",),
        "pids": ("pids",),
        "io": ("blockIO",),
        "hugetlb": ("hugepageLimits",),
        "rdma": ("rdma",),
    }
    gone = {name for one in controllers for name in parts.get(one, ())}
    left = {name: value for name, value in resources.items() if name not in gone}
    cpu = dict(left.get("cpu") or {})
    for key in tuple(cpu):
        own = "cpuset" if key in ("cpus", "mems") else "cpu"
        if own in controllers:
            del cpu[key]
    if "cpu" in left:
        left["cpu"] = cpu
    if unified := left.get("unified"):
        left["unified"] = {
            name: value for name, value in unified.items() if controller_of(name) not in controllers
        }
    return asked(left)


def apply(path: str, resources: dict[str, Any]) -> None:
    """Write the limits to the control group at `path`.

    Raises:
        RlessError: the kernel refuses a value, or has no such file.
    """
    if not resources:
        return
    _check_usage(path, resources.get("memory") or {})
    for name, value in files(resources, os.path.exists(f"{path}/io.bfq.weight")):
        try:
            fd = os.open(f"{path}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except FileNotFoundError as error:
            if not value.startswith("max") and (name != "memory.swap.max" or _has_swap()):
                raise LimitError(
                    f"cannot set {name} to {value}: this kernel has no such file",
                    "leave the limit out",
                ) from error
        except OSError as error:
            raise LimitError(f"cannot set {name} to {value}: {error.strerror}") from error


def _check_usage(path: str, memory: dict[str, Any]) -> None:
    """Refuse a limit below what is used, if that is asked for: the kernel would kill."""
    limit = memory.get("limit") or 0
    if not memory.get("checkBeforeUpdate") or limit <= 0:
        return
    try:
        with open(f"{path}/memory.current", encoding="ascii") as file:
            used = int(file.read())
    except OSError:
        return  # there is no such controller: what is written next tells
    if used > limit:
        raise LimitError(f"rejecting memory limit {limit}: {used} bytes are used")


def _has_swap() -> bool:
    """Tell whether this host swaps: without, a kernel may do without swap accounting."""
    with open("/proc/swaps", "rb") as file:
        return len(file.read(4096).splitlines()) > 1
