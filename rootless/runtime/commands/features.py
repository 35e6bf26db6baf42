"""The features of this runtime (features.md of the runtime-spec), and a config to begin with."""

from __future__ import annotations

import os

from rootless.linux.caps import NAMES
from rootless.oci.validate import HOOKS
from rootless.runtime.host.namespaces import FILES
from rootless.runtime.inside.mounts import option_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.oci.runtime_spec import Spec


def features() -> dict[str, Any]:
    """Return the features structure."""
    from rootless.runtime.inside import scheduling
    from rootless.runtime.seccomp import compiler

    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": list(HOOKS),
        "mountOptions": sorted([*option_names(), "sync", "dirsync"]),
        "linux": {
            "namespaces": sorted(FILES),
            "capabilities": list(NAMES),
            "cgroup": {
                "v1": False,
                "v2": True,
                "systemd": True,
                "systemdUser": True,
                "rdma": True,
            },
            "seccomp": {
                "enabled": True,
                "actions": sorted(compiler.ACTIONS),
                "operators": sorted(compiler.OPERATORS),
                "archs": sorted(compiler.ARCHITECTURES),
                "knownFlags": sorted(compiler.KNOWN_FLAGS),
                "supportedFlags": sorted(compiler.KNOWN_FLAGS),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": False}},
            "netDevices": {"enabled": False},
            "memoryPolicy": {
                "modes": sorted(scheduling.MEMORY_MODES),
                "flags": sorted(scheduling.MEMORY_FLAGS),
            },
        },
    }


def usual_spec() -> Spec:
    """Return the config that `spec` writes: with a terminal and the mounts of runc's and crun's."""
    kernel = ["nosuid", "noexec", "nodev"]
    spec = example_spec()
    spec["process"]["terminal"] = True
    spec["process"]["env"].append("TERM=xterm")
    spec["mounts"] += [
        {
            "destination": "/dev/shm",  # noqa: S108
            "type": "tmpfs",
            "source": "shm",
            "options": [*kernel, "mode=1777", "size=65536k"],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": kernel},
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": [*kernel, "relatime", "ro"],
        },
    ]
    spec["linux"]["namespaces"].append({"type": "cgroup"})
    return spec


def example_spec() -> Spec:
    """Return a config that a user without root can run, with one id mapped."""
    kernel = ["nosuid", "noexec", "nodev"]
    names = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    return {
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "rless",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {"bounding": names, "effective": names, "permitted": names},
            "noNewPrivileges": True,
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": kernel},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
            {
                "destination": "/sys",
                "type": "sysfs",
                "source": "sysfs",
                "options": [*kernel, "ro"],
            },
        ],
        "linux": {
            "uidMappings": [{"containerID": 0, "hostID": os.getuid(), "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": os.getgid(), "size": 1}],
            "namespaces": [
                {"type": kind} for kind in ("user", "pid", "network", "ipc", "uts", "mount")
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"],
        },
    }
