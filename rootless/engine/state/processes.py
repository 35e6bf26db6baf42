"""The processes of a running container, found on the host; nothing of the image is run for it.

A process is the container's if it is in the container's control group, in its own pid namespace or
mount namespace, or if its parent is a process of the container. A process of `exec` may be outside
of the control group: a session cannot move its processes into that of a unit.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.engine.state.container import Container

TICKS = os.sysconf("SC_CLK_TCK")  # clock ticks a second
PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes


class Process:
    """What /proc/PID/stat says of one process (proc_pid_stat(5)).

    Attributes:
        state: one letter. user, system: clock ticks; children: of those that it has waited for.
        start: clock ticks since boot.
        virtual: bytes. resident: pages. tty: device number, 0 for none.
    """

    __slots__ = (
        "children", "comm", "foreground", "group", "nice", "parent", "pid", "priority", "resident",
        "session", "start", "state", "system", "threads", "tty", "user", "virtual",
    )  # fmt: skip

    def __init__(self, pid: int) -> None:
        """Read it.

        Raises:
            OSError: it has ended.
        """
        with open(f"/proc/{pid}/stat", "rb") as file:
            head, _, tail = file.read().rpartition(b")")
        fields = tail.split()
        number = [0, 0, 0, 0, *(int(field) for field in fields[1:])]  # by the page's numbers
        self.pid = pid
        self.comm = head.partition(b"(")[2].decode("utf-8", "surrogateescape")
        self.state = fields[0].decode()
        self.parent, self.group, self.session, self.tty, self.foreground = number[4:9]
        self.user, self.system, self.children = number[14], number[15], number[16] + number[17]
        self.priority, self.nice, self.threads = number[18], number[19], number[20]
        self.start, self.virtual, self.resident = number[22], number[23], number[24]


def of(container: Container) -> list[Process]:
    """Return the processes of a running container, its first one first; [] if it has ended."""
    init = container.init()
    if init is None:
        return []
    found = {*in_cgroup(container.run_record().get("cgroup") or ""), *_in_namespaces(init[0])}
    processes = []
    for pid in found:
        try:
            processes.append(Process(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return sorted(processes, key=lambda one: (one.pid != init[0], one.start, one.pid))


def in_cgroup(path: str) -> list[int]:
    """Return the processes in the control group at `path` and below it; "": none."""
    found = []
    for directory, _, _ in os.walk(path) if path else ():
        try:
            with open(f"{directory}/cgroup.procs", "rb") as file:
                found += [int(line) for line in file]
        except OSError:
            continue  # a threaded group, or one that has just gone
    return [pid for pid in found if pid]


def _in_namespaces(init: int) -> list[int]:
    ours = (_namespace("self", "pid"), _namespace("self", "mnt"))
    pids, mounts = _namespace(str(init), "pid"), _namespace(str(init), "mnt")
    # The pid namespace counts only where it is the container's own: it begins with init.
    if pids == ours[0] or not _begins(init):
        pids = ""
    if mounts == ours[1]:
        mounts = ""
    found, parents = {init}, {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if (pids and _namespace(name, "pid") == pids) or (
            mounts and _namespace(name, "mnt") == mounts
        ):
            found.add(int(name))
    # What may not be looked into, or has namespaces of its own, has a parent.
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return list(found)


def _namespace(pid: str, kind: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return ""


def _begins(pid: int) -> bool:
    """Tell whether a process is the first one of its pid namespace."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            line = next((line for line in file if line.startswith(b"NSpid:")), b"0")
    except OSError:
        return False
    return line.split()[-1] == b"1"
