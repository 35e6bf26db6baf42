"""The output of `info`: how many containers and images there are, and what this host offers.

The fields have Docker's names (SystemInfo of its API), if they mean something without a daemon.
Nothing is judged here; `doctor` does that.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Collection
from typing import Any

from rootless import __version__, config, paths
from rootless.engine import defaults
from rootless.engine.query import ps
from rootless.host import facts, probe
from rootless.image.store.store import Store
from rootless.linux import programs
from rootless.runtime import cgroup


def collect() -> dict[str, Any]:
    """Return the facts by Docker's names.

    Raises:
        RlessError: the storage cannot be used.
    """
    storage = paths.storage_root()
    states = [row["status"] for row in ps.list_containers(ended_too=True)]
    host, groups = os.uname(), facts.cgroups()
    manager, controllers = cgroup.survey()
    mount = facts.mount_of(os.path.realpath(storage), facts.mounts())
    driver = config.get("storage", "driver") or storage_driver(storage)
    return {
        "Containers": len(states),
        "ContainersRunning": sum(state in ("running", "restarting") for state in states),
        "ContainersPaused": states.count("paused"),
        "ContainersStopped": sum(state not in ps.LIVING for state in states),
        "Images": len({record["id"] for record in Store(storage).records("ids")}),
        "Driver": driver,
        "DriverStatus": [["Backing Filesystem", mount.fstype if mount else "unknown"]],
        "LoggingDriver": config.get("containers", "log-driver") or defaults.LOG_DRIVER,
        "CgroupDriver": manager,
        "CgroupVersion": "2" if groups.layout == "v2" else "1",
        "MemoryLimit": "memory" in controllers,
        "SwapLimit": "memory" in controllers,
        "CpuCfsPeriod": "cpu" in controllers,
        "CpuCfsQuota": "cpu" in controllers,
        "CPUShares": "cpu" in controllers,
        "CPUSet": "cpuset" in controllers,
        "PidsLimit": "pids" in controllers,
        "OomKillDisable": False,
        "Warnings": [f"WARNING: No {what} support" for what in _missing(controllers)],
        "NetworkDriver": "pasta" if programs.find_pasta() else "none",
        "KernelVersion": host.release,
        "OperatingSystem": _operating_system(),
        "OSType": "linux",
        "Architecture": host.machine,
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "RlessRootDir": storage,
        "DockerRootDir": storage,
        "Name": host.nodename,
        "SecurityOptions": _security(),
        "DefaultRuntime": "rless-oci",
        "ServerVersion": __version__,
        "PythonVersion": ".".join(str(part) for part in sys.version_info[:3]),
    }


# What Docker warns of where it is not there, by controller.
_SUPPORT = {
    "memory": ("memory limit", "swap limit"),
    "cpu": ("cpu cfs quota", "cpu cfs period", "cpu shares"),
    "cpuset": ("cpuset",),
    "io": ("io.weight", "io.max"),
    "pids": ("pids limit",),
}


def _missing(controllers: Collection[str]) -> list[str]:
    return [what for name in _SUPPORT if name not in controllers for what in _SUPPORT[name]]


def storage_driver(storage: str) -> str:
    """Return the first driver that works in the storage, found by trying as `run` does."""
    program = programs.find("fuse-overlayfs")
    tries: list[tuple[str, Any]] = [("overlay", (probe.kernel_overlay,))]
    if program:
        tries.append(("fuse-overlayfs", (probe.fuse_overlay, program)))
    for name, (function, *args) in tries:
        directory = tempfile.mkdtemp(prefix=".info-", dir=storage)
        try:
            if probe.bounded(function, directory, *args):
                return name
        finally:
            probe.remove(directory)
    return "copy"


def _operating_system() -> str:
    for line in (facts.read("/etc/os-release") or "").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip("\"'")
    return "Linux"


def _security() -> list[str]:
    found = []
    if (facts.read("/sys/module/apparmor/parameters/enabled") or "").startswith("Y"):
        found.append("name=apparmor")
    if facts.find_library("libseccomp.so.2"):
        found.append("name=seccomp,profile=builtin")
    return [*found, "name=rootless", "name=cgroupns"]
