"""What /proc tells of a process, without the bindings of the kernel: lists need no more."""

from __future__ import annotations

import os


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot (proc_pid_stat(5) field 22).

    With the boot id it tells a process from a later one with the same pid. None: no process.
    """
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        return int(os.read(fd, 4096).rpartition(b")")[2].split()[19])
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)


def is_running(pid: int, start: int) -> bool:
    """Tell whether the process of this pid and start time still runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return int(fields[19]) == start and fields[0] not in (b"Z", b"X")


def process_state(pid: int) -> str:
    """Return the letter of a process's state (proc_pid_stat(5) field 3); "": no process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0].decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""
