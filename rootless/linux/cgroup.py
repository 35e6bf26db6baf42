"""The unified hierarchy of control groups (v2), as the kernel shows it to us (cgroups(7))."""

from __future__ import annotations

import os

_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
# What gives users the controllers, where the distribution's systemd does not (user@.service(5)).
DELEGATE_FILE = "/etc/systemd/system/user@.service.d/delegate.conf"
DELEGATE_TEXT = "[Service] Delegate=cpu cpuset io memory pids"


def read_words(path: str) -> list[str]:
    """Return the words of a file of a cgroup; none if it is not there."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().split()
    except OSError:
        return []


def membership(pid: int | str = "self") -> str:
    """Return the path of a process in the unified hierarchy; "" where there is none."""
    try:
        fd = os.open(f"/proc/{pid}/cgroup", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        lines = os.read(fd, 65536).split(b"\n")
    except OSError:
        return ""
    finally:
        os.close(fd)
    return next((os.fsdecode(line[3:]) for line in lines if line.startswith(b"0::")), "")


def v1_controllers() -> list[str]:
    """Return the controllers that this host has in hierarchies of version 1."""
    found: list[str] = []
    for line in read_words("/proc/self/cgroup"):
        fields = line.split(":")
        if len(fields) == 3:
            # "io" has another name there.
            found += ["io" if one == "blkio" else one for one in fields[1].split(",") if one]
    return found


def root() -> str | None:
    """Return where the unified hierarchy is mounted; None: nowhere."""
    return next((one for one in _MOUNTS if os.path.exists(f"{one}/cgroup.procs")), None)


def of_user_manager(uid: int) -> str | None:
    """Return the directory of a user's own systemd, if that may divide it; None: there is none."""
    directory = f"{root() or ''}/user.slice/user-{uid}.slice/user@{uid}.service"
    return directory if os.access(f"{directory}/cgroup.subtree_control", os.W_OK) else None


def sockets() -> list[tuple[str, bool]]:
    """Return the sockets by which the user's systemd may be reached, and which are a bus.

    Its own first: no broker is in between. Each one is looked at again before it is used.
    """
    uid = os.getuid()
    runtime = f"/run/user/{uid}"
    bases = [runtime]
    own = os.environ.get("XDG_RUNTIME_DIR", "").rstrip("/")
    if own.startswith("/") and own != runtime:
        bases.insert(0, own)
    found = [(f"{base}/systemd/private", False) for base in bases]
    address = os.environ.get("DBUS_SESSION_BUS_ADDRESS", "")
    if address.startswith("unix:path="):
        found.append((address[10:].partition(",")[0], True))
    found += [(f"{base}/bus", True) for base in bases if (f"{base}/bus", True) not in found]
    return [(path, broker) for path, broker in found if os.path.exists(path)]


def find_own() -> str | None:
    """Return the directory of the cgroup that we are in; None: there is none that we see."""
    ours = membership()
    for mount in _MOUNTS if ours else ():
        directory = mount + ours.rstrip("/")
        if os.path.exists(f"{directory}/cgroup.procs"):
            return directory
    return None


def wait_until_empty(group: str, deadline: float) -> None:
    """Wait until no process is in a group or below it, or until the deadline.

    Args:
        deadline: on the clock of time.monotonic().
    """
    import select
    import time

    try:
        with open(f"{group}/cgroup.events", "rb", buffering=0) as file:
            poll = select.poll()
            poll.register(file, select.POLLPRI)  # "populated" has changed (cgroups(7))
            while b"populated 1" in os.pread(file.fileno(), 4096, 0):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                poll.poll(1000 * left)
    except OSError:
        pass  # it is gone, or was never there


def may_enter(group: str) -> bool:
    """Tell whether the caller may move to a group, or be born in it.

    It must be able to write to the common group of its own and that one, too (cgroups(7),
    "Delegation containment").
    """
    own = find_own()
    if own is None:
        return False
    common = os.path.commonpath((own, group))
    return all(os.access(f"{one}/cgroup.procs", os.W_OK) for one in (group, common))
