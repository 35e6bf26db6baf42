"""Errors for limits that cannot be set here: the reason, the administrator's remedy, a substitute.

Loaded only where a controller is missing.
"""

from __future__ import annotations

import os

from rootless.linux.cgroup import (
    DELEGATE_FILE,
    DELEGATE_TEXT,
    membership,
    read_words,
    root,
    v1_controllers,
)
from rootless.runtime.cgroup.resources import LimitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from rootless.oci.runtime_spec import Rlimit
    from rootless.runtime.cgroup.base import Cgroup

_OF = {
    "cpu": "CPU time",
    "cpuset": "CPUs and memory nodes",
    "io": "block I/O",
    "memory": "memory",
    "pids": "processes",
    "hugetlb": "huge pages",
    "rdma": "RDMA",
}


def explain(missing: Sequence[str], made: Cgroup) -> LimitError:
    """Return the error for limits whose controllers are missing."""
    return LimitError(
        f"no limit of {of(missing)} can be set: {reason(missing, made)}",
        f"{_fix(missing, made)}; or --limits=try for what can be had",
    )


def of(missing: Sequence[str]) -> str:
    """Return what these controllers limit."""
    return " and ".join(_OF.get(name, name) for name in missing)


def reason(missing: Sequence[str], made: Cgroup) -> str:
    """Return why these controllers are not there."""
    names = " ".join(missing)
    which = f"the controller {names} is" if len(missing) == 1 else f"the controllers {names} are"
    which += " not delegated to you"
    if taken := set(missing).intersection(v1_controllers()):
        return f"{which}: this host has {' '.join(sorted(taken))} in control groups v1"
    if not membership():
        return f"{which}: this host has no unified cgroup hierarchy (v2)"
    if absent := _absent(missing):
        return f"{which}: this kernel does not offer {' '.join(absent)}"
    if made.path is None:
        return f"{which}: {made.why}"
    offered = " ".join(read_words(f"{made.path}/cgroup.controllers")) or "none"
    return f"{which}: {made.path} has {offered}"


def _absent(missing: Sequence[str]) -> list[str]:
    """Return those that the kernel itself does not offer, as far as its root can be seen."""
    top = root()
    offered = read_words(f"{top}/cgroup.controllers") if top else []
    return [name for name in missing if offered and name not in offered]


def _fix(missing: Sequence[str], made: Cgroup) -> str:
    if not membership() or set(missing).intersection(v1_controllers()):
        return "boot with systemd.unified_cgroup_hierarchy=1"
    if absent := _absent(missing):
        return "boot with " + " ".join(f"cgroup_enable={name}" for name in absent)
    if made.path is None and os.path.isdir("/run/systemd/system"):
        # su or cron: there is no systemd of the user, which could delegate.
        return "`sudo loginctl enable-linger $USER` starts a systemd of yours, which delegates them"
    return f"the administrator puts this into {DELEGATE_FILE}: {DELEGATE_TEXT}"


def replace(resources: dict[str, Any], missing: Sequence[str]) -> tuple[list[Rlimit], str, str]:
    """Return what is had in place of limits, and what has become of these.

    That is resource limits (getrlimit(2)), and the CPUs that processes run on by their affinity
    (sched_setaffinity(2)); "": all. A share of CPU time is no reason to choose some: tasks that
    know nothing of each other would meet on the same ones.

    RLIMIT_DATA counts what a process can write, and not what it has only reserved, as Go, Java and
    Node do by gigabytes: that is RLIMIT_AS. It holds for each process, RLIMIT_NPROC for each user
    of the container.
    """
    found: list[Rlimit] = []
    words = []
    lost = list(missing)
    memory = (resources.get("memory") or {}).get("limit") or 0
    if "memory" in missing and memory > 0:
        found.append({"type": "RLIMIT_DATA", "soft": memory, "hard": memory})
        words.append(f"each process has at most {memory} bytes of data (RLIMIT_DATA)")
        lost.remove("memory")
    pids = (resources.get("pids") or {}).get("limit") or 0
    if "pids" in missing and pids > 0:
        found.append({"type": "RLIMIT_NPROC", "soft": pids, "hard": pids})
        words.append(f"each user has at most {pids} processes (RLIMIT_NPROC)")
        lost.remove("pids")
    cpu = resources.get("cpu") or {}
    cpus = str(cpu.get("cpus") or "") if "cpuset" in missing else ""
    if cpus:
        words.append(f"processes run on the CPUs {cpus}, but may choose others (affinity)")
        if not cpu.get("mems"):
            lost.remove("cpuset")
    if lost:
        words.append(f"there is no limit of {of(lost)}")
    return found, cpus, ", ".join(words)
