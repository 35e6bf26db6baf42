"""systemd as the first process of a container: --systemd.

systemd expects three things of a container manager: a tmpfs at /run, a control group that it may
divide, and the machine's name. Source: systemd's "Container Interface". The mounts are those of
podman-run(1), --systemd.
"""

from __future__ import annotations

import os

from rootless import log
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.engine.request import RunRequest
    from rootless.oci.runtime_spec import Mount, Spec
    from rootless.runtime.cgroup.base import Cgroup

STOP_SIGNAL = "SIGRTMIN+3"  # systemd(1): halt
_COMMANDS = ("/sbin/init", "/usr/sbin/init", "/usr/local/sbin/init")
# "auto" is for what only looks like systemd, too: it goes without what it cannot have.
_TRIED, _REQUIRED = "tried", "required"


def wanted(request: RunRequest, command: list[str]) -> str:
    """Tell whether the container is made for systemd: "required", "tried" or "" (it is not).

    Raises:
        RlessError: it was asked for, and something else that excludes it.
    """
    looks = command[0] in _COMMANDS or os.path.basename(command[0]) == "systemd"
    if request.systemd == "false" or not (looks or request.systemd == "always"):
        return ""
    other = _obstacle(request)
    if request.systemd == "auto":
        return "" if other else _TRIED
    if other:
        raise RlessError(f"--systemd: systemd cannot run with {other}", f"leave {other} out")
    return _REQUIRED


def _obstacle(request: RunRequest) -> str:
    if request.init:
        return "--init"
    if request.pid != "private":
        return f"--pid {request.pid}"
    if request.cgroupns != "private":
        return f"--cgroupns {request.cgroupns}"
    return ""


def environment(container_id: str) -> dict[str, str]:
    """Return what tells systemd that it is in a container, and which machine it is."""
    return {"container": "oci", "container_uuid": container_id[:32]}


def mounts() -> list[Mount]:
    """Return what is mounted beside the usual, unless the user mounts something there."""
    shared = ["nosuid", "nodev", "mode=1777"]
    return [
        _tmpfs("/run", ["nosuid", "nodev", "mode=755"]),
        _tmpfs("/run/lock", ["nosuid", "nodev", "noexec", "mode=1777"]),
        _tmpfs("/tmp", shared),  # noqa: S108  # of the container
        _tmpfs("/var/log/journal", ["nosuid", "nodev", "noexec", "mode=755"]),
    ]


def _tmpfs(path: str, options: list[str]) -> Mount:
    return {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": options}


def open_cgroup(spec: Spec, cgroup: Cgroup, mode: str) -> None:
    """Let the container write to its control group; that of the caller is never opened.

    Args:
        mode: what `wanted` has returned.

    Raises:
        RlessError: it has none of its own, and was asked for one. For "tried" that is a warning.
    """
    why = cgroup.why if cgroup.path is None else _why_not_writable(cgroup)
    if why:
        if mode == _REQUIRED:
            raise RlessError(
                f"--systemd: no control group for systemd: {why}",
                "have one delegated, or use --systemd=auto for an init that needs none",
            )
        log.warn(f"systemd would not start here, other inits may: {why}")
        return
    for mount in spec["mounts"]:
        if mount["type"] == "cgroup":
            mount["options"] = [name for name in mount["options"] if name != "ro"]
            return
    # In a /sys that is the host's, with the host's groups.
    options = ["nosuid", "noexec", "nodev", "relatime"]
    index = next(i for i, one in enumerate(spec["mounts"]) if one["destination"] == "/sys")
    entry: Mount = {
        "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options,
    }  # fmt: skip
    spec["mounts"].insert(index + 1, entry)


def _why_not_writable(cgroup: Cgroup) -> str:
    """Return what speaks against a control group that the container may write to; "": nothing.

    The files with its limits lie in it. Only where the hierarchy is mounted with `nsdelegate`, as
    systemd does it, the kernel keeps the root of a cgroup namespace from them (cgroups(7)).
    """
    if not cgroup.resources:
        return ""
    with open("/proc/self/mountinfo", "rb") as file:
        if any(b" - cgroup2 " in line and b"nsdelegate" in line for line in file):
            return ""
    return "the container could lift its own limits: this host mounts cgroup2 without nsdelegate"
